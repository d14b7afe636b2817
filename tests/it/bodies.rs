//! Many slow bodies at once: whom they hold up, and how much memory they take.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::harness::{Binary, Neighbour, Reply, raw, read_reply};

/// In this time whoever does nothing wrong is served while others flood the server.
const SOON: Duration = Duration::from_secs(2);
/// Tries of which the quickest counts: the machine may be busy with something else.
const TRIES: usize = 5;

/// Connections on which a request trickles until this is dropped.
struct Flood(Vec<JoinHandle<()>>);

impl Drop for Flood {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl Flood {
    /// Sends each request's beginning, then `drip` again and again.
    async fn start(address: SocketAddr, beginnings: Vec<Vec<u8>>, drip: &'static [u8], pause: Duration) -> Self {
        let (opened, mut count) = tokio::sync::mpsc::unbounded_channel();
        let wanted = beginnings.len();
        let trickle = |beginning: Vec<u8>, opened: tokio::sync::mpsc::UnboundedSender<()>| async move {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            stream.set_nodelay(true).unwrap();
            // The server reads no more of it than it has memory for.
            let _ = tokio::time::timeout(Duration::from_millis(500), stream.write_all(&beginning)).await;
            opened.send(()).unwrap();
            drop(opened);
            while stream.write_all(drip).await.is_ok() {
                tokio::time::sleep(pause).await;
            }
        };
        let tasks = beginnings.into_iter().map(|beginning| tokio::spawn(trickle(beginning, opened.clone()))).collect();
        drop(opened);
        for _ in 0..wanted {
            count.recv().await.expect("every connection is opened");
        }
        Self(tasks)
    }
}

fn put_head(server: &Binary, uri: &str, length: usize) -> String {
    let path = uri.split_once(&server.address.to_string()).unwrap().1;
    format!(
        "PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\nx-amz-server-side-encryption: AES256\r\nContent-Type: application/octet-stream\r\n\r\n",
        server.address
    )
}

fn push_head(server: &Binary, who: &Neighbour, name: &str, length: usize) -> String {
    format!(
        "PUT /push/v1/organizations/{}/sources/{}/documents?documentId=http://{name} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
        who.tenant, who.source, server.address, who.key
    )
}

/// The first tenant, as the second one is told about.
fn first(server: &Binary) -> Neighbour {
    Neighbour { tenant: server.tenant.clone(), key: server.key.clone(), source: server.source.clone() }
}

async fn tiny_push(server: &Binary, who: &Neighbour, name: String) -> Reply {
    let body = json!({ "data": "tiny" }).to_string();
    let request = format!("{}{body}", push_head(server, who, &name, body.len()));
    raw(server.address, request.as_bytes()).await
}

async fn tiny_put(server: &Binary, who: &Neighbour) -> Reply {
    let container = server.container_of(&who.tenant, &who.key).await;
    let request = format!("{}tiny", put_head(server, &container.upload_uri, 4));
    raw(server.address, request.as_bytes()).await
}

/// Asks a few times; each must succeed, and the quickest within `limit`.
async fn quickly<F: Future<Output = Reply>>(limit: Duration, status: u16, what: &str, ask: impl Fn(usize) -> F) {
    let mut quickest = Duration::MAX;
    for n in 0..TRIES {
        let begun = Instant::now();
        ask(n).await.expect(status);
        quickest = quickest.min(begun.elapsed());
        if quickest <= limit {
            break;
        }
    }
    let _ = writeln!(std::io::stderr(), "{what}: {quickest:?}");
    assert!(quickest <= limit, "{what} took {quickest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_puts_on_one_url_hold_up_nobody_else() {
    let server = Binary::start("").await;
    let (me, other) = (first(&server), server.neighbour());
    let container = server.container().await;
    let head = put_head(&server, &container.upload_uri, 100 << 20);
    let flood = Flood::start(server.address, vec![head.into_bytes(); 420], &[7; 512], Duration::from_millis(250)).await;
    for _ in 0..3 {
        quickly(SOON, 200, "another tenant's PUT", |_| tiny_put(&server, &other)).await;
        quickly(SOON, 202, "another tenant's push", |n| tiny_push(&server, &other, format!("o/{n}"))).await;
        quickly(SOON, 200, "a PUT to another URL", |_| tiny_put(&server, &me)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    drop(flood);
}

/// Hashing has a limited number of threads, which syncs need as well: a body takes none while it stands still.
#[tokio::test(flavor = "multi_thread")]
async fn slow_puts_with_a_digest_hold_up_nobody_else() {
    let server = Binary::start("").await;
    let (me, other) = (first(&server), server.neighbour());
    let mut beginnings = Vec::new();
    for _ in 0..540 {
        let container = server.container().await;
        let head = put_head(&server, &container.upload_uri, 1 << 20);
        let digest = "\r\nContent-MD5: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
        beginnings.push(format!("{}{digest}12345", head.trim_end()).into_bytes());
    }
    let flood = Flood::start(server.address, beginnings, &[7; 512], Duration::from_millis(250)).await;
    quickly(SOON, 200, "another tenant's PUT", |_| tiny_put(&server, &other)).await;
    quickly(SOON, 200, "the same tenant's PUT", |_| tiny_put(&server, &me)).await;
    drop(flood);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fifth_body_of_a_session_waits_and_is_told_why() {
    let server = Binary::start("body_idle_seconds = 2\nbody_rate_bytes = 1").await;
    let container = server.container().await;
    let head = put_head(&server, &container.upload_uri, 100 << 20);
    let flood = Flood::start(server.address, vec![head.into_bytes(); 4], b"x", Duration::from_millis(250)).await;
    let reply = loop {
        // Until the four are before it.
        let request = format!("{}tiny", put_head(&server, &container.upload_uri, 4));
        let reply = raw(server.address, request.as_bytes()).await;
        if reply.status != 200 {
            break reply;
        }
    };
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(reply.header("retry-after"), Some("2"));
    assert!(reply.text().contains("<Code>SlowDown</Code><Message>the server is receiving"), "{}", reply.text());
    let metrics = server.send("GET", "/metrics", None).await.expect(200).text();
    assert!(metrics.contains("landfall_bodies_refused_total{reason=\"session\"}"), "{metrics}");
    drop(flood);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_json_of_one_key_holds_up_nobody_else_and_its_own_tenant_for_seconds() {
    const SIZE: usize = 6 << 20;
    let server = Binary::start("").await;
    let other = server.neighbour();
    let me = first(&server);
    // A part comes at once, so that memory is short, and almost all of some.
    let beginning = |n: usize| {
        let mut request = push_head(&server, &me, &format!("slow/{n}"), SIZE).into_bytes();
        request.extend_from_slice(b"{\"data\":\"");
        request.resize(request.len() + if n < 100 { SIZE - 300_000 } else { 200_000 }, b'x');
        request
    };
    let beginnings = (0..300).map(beginning).collect();
    let flood = Flood::start(server.address, beginnings, &[b'x'; 512], Duration::from_millis(250)).await;
    for _ in 0..3 {
        quickly(SOON, 202, "another tenant's push", |n| tiny_push(&server, &other, format!("o/{n}"))).await;
        quickly(SOON, 200, "another tenant's PUT", |_| tiny_put(&server, &other)).await;
        let limit = Duration::from_secs(10);
        quickly(limit, 202, "the same tenant's push", |n| tiny_push(&server, &me, format!("m/{n}"))).await;
    }
    drop(flood);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_alone_is_served() {
    let server = Binary::start("").await;
    let container = server.container().await;
    let body = format!("{{\"data\":\"{}\"}}", "x".repeat(20_000));
    let slow = |head: String| {
        let mut left: VecDeque<u8> = body.clone().into_bytes().into();
        let address = server.address;
        async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            while !left.is_empty() {
                let piece: Vec<u8> = left.drain(..left.len().min(512)).collect();
                stream.write_all(&piece).await.unwrap();
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            read_reply(&mut stream).await
        }
    };
    let (put, push) = tokio::join!(
        slow(put_head(&server, &container.upload_uri, body.len())),
        slow(push_head(&server, &first(&server), "slow", body.len()))
    );
    put.expect(200);
    push.expect(202);
}

/// Slow heads, slow JSON, and bodies that come in single bytes, of which each once held a whole buffer.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_slow_requests_takes_little_memory() {
    const EACH: usize = 250;
    const MOST: u64 = 64 << 20;
    let server = Binary::start("").await;
    let me = first(&server);
    tiny_push(&server, &me, String::from("warm")).await.expect(202);
    tiny_put(&server, &me).await.expect(200);
    let before = server.resident();
    let head = b"PUT / HTTP/1.1\r\nHost: x\r\nX-Slow: ".to_vec();
    let json = (0..EACH).map(|n| {
        let mut request = push_head(&server, &me, &format!("slow/{n}"), 6 << 20).into_bytes();
        request.extend_from_slice(b"{\"data\":\"");
        request
    });
    let mut puts = Vec::new();
    for _ in 0..EACH {
        let container = server.container().await;
        puts.push(put_head(&server, &container.upload_uri, 100 << 20).into_bytes());
    }
    let pause = Duration::from_millis(20);
    let floods = (
        Flood::start(server.address, vec![head; EACH], b"v", pause).await,
        Flood::start(server.address, json.collect(), b"x", pause).await,
        Flood::start(server.address, puts, b"x", pause).await,
    );
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let more = server.peak().saturating_sub(before);
        assert!(more < MOST, "{} MiB more than the {} MiB before", more >> 20, before >> 20);
    }
    let _ = writeln!(std::io::stderr(), "{} MiB, then {} MiB", before >> 20, server.peak() >> 20);
    drop(floods);
}
