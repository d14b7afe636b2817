//! Bodies without a connection, with paused time.

use tokio::sync::mpsc;

use super::*;
use crate::clock::random_uuid;

const MIB: u64 = 1024 * 1024;

type Sender = mpsc::UnboundedSender<Result<Bytes, std::io::Error>>;

/// A body, and what it is sent by.
fn body() -> (Sender, Body) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let next = |mut receiver: mpsc::UnboundedReceiver<_>| async move { Some((receiver.recv().await?, receiver)) };
    (sender, Body::from_stream(futures_util::stream::unfold(receiver, next)))
}

fn bytes(length: usize) -> Result<Bytes, std::io::Error> {
    Ok(Bytes::from(vec![7; length]))
}

fn never() -> watch::Receiver<bool> {
    watch::channel(false).1
}

fn timing(memory: u64) -> BodyTiming {
    BodyTiming::new(&Config { body_memory_max: memory, ..Config::default() })
}

fn put(body: Body, timing: &BodyTiming, tenant: &str, session: Option<SessionId>) -> Receiving {
    receive(body, timing, &tenant.into(), session, never())
}

#[tokio::test(start_paused = true)]
async fn bytes_are_counted_until_they_are_dropped() {
    let timing = timing(2 * MIB);
    let (sender, body) = body();
    let mut stream = put(body, &timing, "t", None);
    sender.send(bytes(100_000)).expect("sent");
    sender.send(bytes(10)).expect("sent");
    drop(sender);
    let large = stream.next().await.expect("a chunk").expect("bytes");
    let small = stream.next().await.expect("a chunk").expect("bytes");
    assert_eq!((large.len(), small.len()), (100_000, 10));
    assert_eq!(stream.next().await, None);
    let member = stream.member.clone();
    drop(stream);
    let part = large.slice(5..10);
    drop((large, small));
    assert!(member.held() >= 100_000, "a part holds the whole: {}", member.held());
    drop(part);
    assert_eq!(member.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_finds_no_memory_asks_its_receiver_to_write_and_goes_on() {
    let timing = timing(2 * MIB);
    let (sender, body) = body();
    let mut stream = put(body, &timing, "t", None);
    for _ in 0..40 {
        sender.send(bytes(64 * 1024)).expect("sent");
    }
    drop(sender);
    let (mut gathered, mut received, mut asked) = (Vec::new(), 0, 0);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.expect("bytes");
        received += chunk.len();
        if chunk.is_empty() {
            asked += 1;
            assert!(!gathered.is_empty(), "there is something to write");
            gathered.clear();
        } else {
            gathered.push(chunk);
        }
    }
    assert_eq!(received, 40 * 64 * 1024);
    assert!((2..10).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_never_writes_is_told_that_there_is_no_memory() {
    let timing = timing(2 * MIB);
    let (sender, body) = body();
    let mut stream = put(body, &timing, "t", None);
    for _ in 0..40 {
        sender.send(bytes(64 * 1024)).expect("sent");
    }
    let mut gathered = Vec::new();
    let end = loop {
        match stream.next().await.expect("no end") {
            Ok(chunk) => gathered.push(chunk),
            Err(error) => break error,
        }
    };
    assert_eq!(end, BodyError::Busy);
    let held: usize = gathered.iter().map(Bytes::len).sum();
    assert!(held < 1024 * 1024, "{held}");
}

#[tokio::test(start_paused = true)]
async fn single_bytes_do_not_hold_the_buffers_that_they_came_in() {
    let timing = timing(2 * MIB);
    let (sender, body) = body();
    let mut stream = put(body, &timing, "t", None);
    let buffer = Bytes::from(vec![7; 8192]);
    sender.send(Ok(buffer.slice(..1))).expect("sent");
    let chunk = stream.next().await.expect("a chunk").expect("bytes");
    drop(sender);
    assert_eq!(stream.next().await, None);
    assert!(buffer.is_unique(), "the chunk is a copy");
    assert_eq!(&chunk[..], &[7]);
}

#[tokio::test(start_paused = true)]
async fn a_session_receives_a_few_bodies_at_once() {
    let timing = BodyTiming::new(&Config { body_rate_bytes: 0, body_idle_seconds: 60, ..Config::default() });
    let (one, two) = (SessionId(random_uuid()), SessionId(random_uuid()));
    let begin = |session| {
        let (sender, body) = body();
        sender.send(bytes(1)).expect("sent");
        (sender, put(body, &timing, "t", Some(session)))
    };
    let mut open = Vec::new();
    for _ in 0..limits::SESSION_BODIES {
        let (sender, mut stream) = begin(one);
        assert!(matches!(stream.next().await, Some(Ok(_))));
        open.push((sender, stream));
    }
    let (_kept, mut other) = begin(two);
    assert!(matches!(other.next().await, Some(Ok(_))), "another session has its own places");
    let (_kept, mut refused) = begin(one);
    let (_kept, mut waiting) = begin(one);
    let refused = tokio::spawn(async move { refused.next().await });
    tokio::time::sleep(Duration::from_secs(30)).await;
    let waiting = tokio::spawn(async move { waiting.next().await });
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert!(!refused.is_finished() && !waiting.is_finished());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(refused.await.expect("it runs"), Some(Err(BodyError::Busy)));
    // The others stand still as well, and go.
    assert!(matches!(waiting.await.expect("it runs"), Some(Ok(_) | Err(BodyError::Busy))));
}

/// A body of JSON in parts, with a pause before each.
async fn json(
    timing: BodyTiming,
    tenant: &'static str,
    parts: u64,
    part: usize,
    pause: Duration,
) -> Result<usize, Refusal> {
    let pieces = futures_util::stream::unfold(0, move |n| async move {
        if n == parts {
            return None;
        }
        tokio::time::sleep(pause).await;
        Some((bytes(part), n + 1))
    });
    read_all(Body::from_stream(pieces), 6 * MIB, "", &timing, &tenant.into()).await.map(|bytes| bytes.len())
}

#[tokio::test(start_paused = true)]
async fn many_quick_bodies_of_json_all_come_through() {
    let timing = timing(16 * MIB);
    let ask = |n: u64| {
        let timing = timing.clone();
        tokio::spawn(async move { json(timing, "t", 60, 100_000, Duration::from_millis(5 + n % 7)).await })
    };
    let tasks: Vec<_> = (0..50).map(ask).collect();
    for task in tasks {
        assert_eq!(task.await.expect("it runs"), Ok(6_000_000));
    }
}

#[tokio::test(start_paused = true)]
async fn slow_bodies_of_json_yield_to_a_small_one_of_the_same_tenant() {
    let timing = timing(16 * MIB);
    let slow: Vec<_> =
        (0..100).map(|_| tokio::spawn(json(timing.clone(), "t", 10_000, 2048, Duration::from_secs(1)))).collect();
    // Until memory is short: 100 bodies of more than 60 KiB.
    tokio::time::sleep(Duration::from_secs(90)).await;
    let begun = tokio::time::sleep(Duration::ZERO).deadline();
    for tenant in ["t", "other"] {
        assert_eq!(json(timing.clone(), tenant, 1, 20, Duration::ZERO).await, Ok(20), "{tenant}");
    }
    let took = tokio::time::sleep(Duration::ZERO).deadline() - begun;
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(slow.iter().any(|task| task.is_finished()), "some had to go");
    assert!(slow.iter().any(|task| !task.is_finished()), "but not all");
    slow.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_that_is_in_nobodys_way_is_served() {
    let timing = timing(16 * MIB);
    let sent = json(timing, "t", 1000, 2048, Duration::from_secs(1)).await;
    assert_eq!(sent, Ok(1000 * 2048));
}
