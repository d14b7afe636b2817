//! Resumable sessions: whatever happens on the way, what was told is kept, and what is committed is the file.

use std::sync::Arc;

use md5::{Digest, Md5};
use proptest::prelude::*;

use super::*;
use crate::limits;
use crate::model::file::FileRecord;
use crate::model::ids::SessionId;
use crate::model::session::{Declaration, Hashes, SessionState};
use crate::upload::open::{NewFile, Resumable};
use crate::upload::resume::{self, Admission, Chunk, Standing};

const K: u64 = 256 * 1024;

fn bytes_of(size: u64) -> Vec<u8> {
    (0..size).map(|n| (n ^ (n >> 8) ^ (n >> 16)).to_le_bytes()[0]).collect()
}

fn slice(data: &[u8], from: u64, to: u64) -> Vec<Result<Bytes, BodyError>> {
    chunks(&data[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()])
}

impl Place {
    async fn session(&self, size: Option<u64>) -> SessionId {
        let file = NewFile {
            size,
            registers: true,
            declaration: Declaration {
                name: "a.bin".into(),
                mime_type: "application/octet-stream".into(),
                hashes: Hashes { md5: true, sha256: false },
                ..Declaration::default()
            },
            next_of: None,
        };
        let ask = Resumable { wire: "w", max_bytes: 64 << 20, life: Duration::from_secs(3600), file };
        let opened = open::resumable(&self.engine, &self.grant, ("http://h", None), vec![ask]).await.unwrap();
        opened[0].session
    }

    async fn send(
        &self,
        session: SessionId,
        chunk: Chunk,
        body: Vec<Result<Bytes, BodyError>>,
    ) -> Result<Standing, Refusal> {
        match resume::admit(&self.engine, session, chunk).await? {
            Admission::Answer(standing) => Ok(standing),
            Admission::Body(admitted) => {
                resume::receive(&self.engine, admitted, pin!(futures_util::stream::iter(body))).await
            }
        }
    }

    /// Sends `from..to` of the data as a chunk with a total.
    async fn chunk(&self, session: SessionId, data: &[u8], from: u64, to: u64) -> Result<Standing, Refusal> {
        let total = u64::try_from(data.len()).unwrap();
        self.send(session, ranged(from, to, Some(total)), slice(data, from, to)).await
    }

    async fn received(&self, session: SessionId) -> u64 {
        match resume::status(&self.engine, session, None).await.unwrap() {
            Standing::Open { received } => received,
            other => panic!("{other:?}"),
        }
    }

    async fn stored(&self, file: &FileRecord) -> Vec<u8> {
        let reader = read::version(&self.engine, self.grant.tenant(), file.version).await.unwrap();
        let chunks: Vec<_> = reader.stream(0..file.size).collect().await;
        chunks.into_iter().flat_map(|chunk| chunk.unwrap().to_vec()).collect()
    }

    /// What a restart leaves: the rows and the bytes.
    fn restart(&mut self) {
        self.engine.seats = Arc::default();
    }

    async fn is(&self, standing: Result<Standing, Refusal>, data: &[u8]) {
        let Ok(Standing::Done(file)) = standing else { panic!("{standing:?}") };
        assert_eq!(file.digests.md5, Some(Md5::digest(data).into()));
        assert!(self.stored(&file).await == data);
        self.sound().await;
    }
}

fn ranged(from: u64, to: u64, total: Option<u64>) -> Chunk {
    Chunk { first: from, last: Some(to - 1), total, length: Some(to - from), ..Chunk::default() }
}

fn whole(length: u64) -> Chunk {
    Chunk { whole: true, length: Some(length), ..Chunk::default() }
}

fn told(received: u64) -> Result<Standing, Refusal> {
    Ok(Standing::Open { received })
}

#[tokio::test]
async fn chunks_make_a_file_in_one_segment() {
    let place = Place::new(Form::Disk).await;
    let data = bytes_of(5 * K + 77);
    let session = place.session(Some(5 * K + 77)).await;
    assert_eq!(place.chunk(session, &data, 0, 2 * K).await, told(2 * K));
    assert_eq!(place.chunk(session, &data, 2 * K, 4 * K).await, told(4 * K));
    let done = place.chunk(session, &data, 4 * K, 5 * K + 77).await;
    assert_eq!(place.memory.count(), 1, "a hand-over in order goes on in the same segment");
    place.is(done.clone(), &data).await;
    // The answer was lost: the same again.
    assert_eq!(place.chunk(session, &data, 4 * K, 5 * K + 77).await, done);
    assert_eq!(resume::status(&place.engine, session, None).await, done);
    assert_eq!(place.memory.count(), 1);
    assert!(place.engine.seats.is_empty());
}

#[tokio::test]
async fn a_chunk_that_is_no_multiple_counts_down_to_one() {
    let place = Place::new(Form::Disk).await;
    let data = bytes_of(3 * K);
    let session = place.session(Some(3 * K)).await;
    assert_eq!(place.chunk(session, &data, 0, K + 1000).await, told(K));
    assert_eq!(place.chunk(session, &data, K, 2 * K).await, told(2 * K));
    place.is(place.chunk(session, &data, 2 * K, 3 * K).await, &data).await;
}

/// A chunk that came whole and has a multiple of 256 KiB is stored whole, wherever it begins: a client that counts on
/// that is not told less than it sent.
#[tokio::test]
async fn a_whole_chunk_is_stored_whole_wherever_it_begins() {
    let mut place = Place::new(Form::Disk).await;
    let data = bytes_of(7 * K + 100);
    let session = place.session(Some(7 * K + 100)).await;
    assert_eq!(place.chunk(session, &data, 0, 2 * K).await, told(2 * K));
    assert_eq!(place.chunk(session, &data, K + 1000, 3 * K + 1000).await, told(3 * K + 1000));
    assert_eq!(place.chunk(session, &data, K + 1000, 3 * K + 1000).await, told(3 * K + 1000));
    assert_eq!(place.memory.count(), 1, "it goes on in the same segment");
    place.restart();
    assert_eq!(place.received(session).await, 3 * K + 1000);
    // A request that breaks counts down to a multiple, and never below what was told.
    for (sent, kept) in [(10, 3 * K + 1000), (K + 50, 4 * K)] {
        let mut body = slice(&data, 3 * K + 1000, 3 * K + 1000 + sent);
        body.push(Err(BodyError::Cut));
        let cut = place.send(session, ranged(3 * K + 1000, 6 * K, None), body).await;
        assert!(matches!(cut, Err(Refusal::Incomplete { .. })), "{cut:?}");
        assert_eq!(place.received(session).await, kept);
    }
    // No multiple: down to one.
    assert_eq!(place.chunk(session, &data, 4 * K - 8, 5 * K + 20).await, told(5 * K));
    assert_eq!(place.chunk(session, &data, 5 * K - 8, 6 * K - 8).await, told(6 * K - 8));
    place.is(place.chunk(session, &data, 6 * K - 8, 7 * K + 100).await, &data).await;
}

#[tokio::test]
async fn a_cut_keeps_what_arrived() {
    let mut place = Place::new(Form::Disk).await;
    let data = bytes_of(9 * K);
    let session = place.session(Some(9 * K)).await;
    let mut body = slice(&data, 0, 3 * K + 1000);
    body.push(Err(BodyError::Cut));
    assert!(matches!(place.send(session, whole(9 * K), body).await, Err(Refusal::Incomplete { .. })));
    assert_eq!(place.received(session).await, 3 * K);
    // Across a restart the rows alone know, and a new segment begins.
    place.restart();
    let mut body = slice(&data, 3 * K, 5 * K);
    body.push(Err(BodyError::TooSlow));
    let rest = ranged(3 * K, 9 * K, Some(9 * K));
    assert!(matches!(place.send(session, rest, body).await, Err(Refusal::Incomplete { .. })));
    assert_eq!(place.received(session).await, 5 * K);
    assert_eq!(place.memory.count(), 2);
    let trouble = place.engine.troubles.of(session).unwrap();
    assert!(trouble.what.contains("too slowly"), "{trouble:?}");
    place.is(place.chunk(session, &data, 5 * K, 9 * K).await, &data).await;
    assert_eq!(place.memory.count(), 2);
}

#[tokio::test]
async fn what_is_sent_again_is_compared() {
    for form in [Form::Disk, Form::Parts] {
        let place = Place::new(form).await;
        let data = bytes_of(6 * K);
        let mut other = data.clone();
        other[usize::try_from(K + 5).unwrap()] ^= 1;
        let session = place.session(Some(6 * K)).await;
        assert_eq!(place.chunk(session, &data, 0, 2 * K).await, told(2 * K));
        // The last chunk again, and an overlap that brings new bytes.
        assert_eq!(place.chunk(session, &data, 0, 2 * K).await, told(2 * K));
        assert_eq!(place.chunk(session, &data, 0, 4 * K).await, told(4 * K));
        for (from, to) in [(0, 6 * K), (0, 5 * K), (0, 4 * K)] {
            let refused = place.chunk(session, &other, from, to).await;
            assert!(matches!(&refused, Err(Refusal::Malformed { reason }) if reason.contains("differ")), "{refused:?}");
        }
        let within = place.chunk(session, &other, K, 3 * K).await;
        if form == Form::Disk {
            assert!(matches!(within, Err(Refusal::Malformed { .. })), "{within:?}");
        } else {
            assert_eq!(within, told(4 * K), "what can't be read is told, and not believed");
        }
        assert_eq!(place.received(session).await, 4 * K);
        assert_eq!(place.chunk(session, &data, 5 * K, 6 * K).await, told(4 * K), "never a hole");
        // The whole again: the known part is skipped.
        place.is(place.send(session, whole(6 * K), slice(&data, 0, 6 * K)).await, &data).await;
    }
}

#[tokio::test]
async fn what_can_not_be_changes_nothing() {
    let place = Place::new(Form::Disk).await;
    let data = bytes_of(4 * K);
    let session = place.session(Some(4 * K)).await;
    place.chunk(session, &data, 0, K).await.unwrap();
    let long = |length| vec![Ok(Bytes::from(vec![0; length]))];
    let open_ended = Chunk { first: K, ..Chunk::default() };
    for (what, chunk, body) in [
        ("another total", ranged(K, 2 * K, Some(5 * K)), vec![]),
        ("behind the end", ranged(K, 5 * K, None), vec![]),
        ("another length", Chunk { length: Some(K), ..ranged(K, 3 * K, None) }, vec![]),
        ("too short", ranged(K, K + 1000, Some(4 * K)), vec![]),
        ("one short", whole(4 * K - 1), vec![]),
        ("one long", whole(4 * K + 1), vec![]),
        ("one long without a length", Chunk { whole: true, ..Chunk::default() }, {
            let mut body = slice(&data, 0, 4 * K);
            body.extend(long(1));
            body
        }),
        ("one short without a length", Chunk { whole: true, ..Chunk::default() }, slice(&data, 0, 4 * K - 1)),
        ("more than the range", Chunk { length: None, ..ranged(K, 2 * K, None) }, slice(&data, K, 4 * K)),
        ("less than the range", Chunk { length: None, ..ranged(K, 3 * K, None) }, slice(&data, K, 2 * K)),
        ("less than the range, known", Chunk { length: None, ..ranged(0, 3 * K, None) }, slice(&data, 0, 100)),
        ("more than the range, known", Chunk { length: None, ..ranged(0, K, None) }, slice(&data, 0, 2 * K)),
        ("open-ended and short", open_ended, slice(&data, K, K + 1000)),
    ] {
        let refused = place.send(session, chunk, body).await;
        assert!(matches!(refused, Err(Refusal::Malformed { .. })), "{what}: {refused:?}");
        assert_eq!(place.received(session).await, K, "{what}");
    }
    place.sound().await;
    let done = place.send(session, Chunk { first: K, total: Some(4 * K), ..Chunk::default() }, slice(&data, K, 4 * K));
    place.is(done.await, &data).await;
}

#[tokio::test]
async fn a_size_that_is_not_known_shows_with_the_last_byte() {
    let place = Place::new(Form::Disk).await;
    let data = bytes_of(2 * K + 5);
    let session = place.session(None).await;
    assert_eq!(place.send(session, ranged(0, 2 * K, None), slice(&data, 0, 2 * K)).await, told(2 * K));
    place.is(place.chunk(session, &data, 2 * K, 2 * K + 5).await, &data).await;
    let session = place.session(None).await;
    place
        .is(place.send(session, Chunk { whole: true, ..Chunk::default() }, slice(&data, 0, 2 * K + 5)).await, &data)
        .await;
    let session = place.session(Some(0)).await;
    place.is(place.send(session, whole(0), vec![]).await, &[]).await;
    // All bytes came in chunks that did not say so: the question completes it.
    let data = bytes_of(2 * K);
    let session = place.session(Some(2 * K)).await;
    assert_eq!(place.send(session, ranged(0, 2 * K, None), slice(&data, 0, 2 * K)).await, told(2 * K));
    place.is(resume::status(&place.engine, session, Some(2 * K)).await, &data).await;
}

#[tokio::test]
async fn a_total_that_was_told_holds() {
    let place = Place::new(Form::Disk).await;
    let data = bytes_of(4 * K);
    let session = place.session(None).await;
    assert_eq!(place.chunk(session, &data, 0, 2 * K).await, told(2 * K));
    for total in [K, 2 * K, 3 * K] {
        let refused = resume::status(&place.engine, session, Some(total)).await;
        assert!(matches!(refused, Err(Refusal::Malformed { .. })), "{total}: {refused:?}");
        let refused = place.send(session, ranged(2 * K, 3 * K, Some(total)), slice(&data, 2 * K, 3 * K)).await;
        assert!(matches!(refused, Err(Refusal::Malformed { .. })), "{total}: {refused:?}");
    }
    place.is(place.chunk(session, &data, 2 * K, 4 * K).await, &data).await;
    // Nor can a total be less than what is stored.
    let session = place.session(None).await;
    assert_eq!(place.send(session, ranged(0, 2 * K, None), slice(&data, 0, 2 * K)).await, told(2 * K));
    assert!(matches!(resume::status(&place.engine, session, Some(K)).await, Err(Refusal::Malformed { .. })));
    assert!(matches!(
        place.chunk(session, &data[..usize::try_from(K).unwrap()], 0, K).await,
        Err(Refusal::Malformed { .. })
    ));
}

#[tokio::test]
async fn a_premature_end_disturbs_nobody() {
    let place = Place::new(Form::Disk).await;
    let data = bytes_of(4 * K);
    let session = place.session(Some(4 * K)).await;
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let waiting = futures_util::stream::once(async { wait.await.unwrap() }).filter_map(async |()| None);
    let halves = futures_util::stream::iter(slice(&data, 0, 2 * K));
    let mut body = pin!(halves.chain(waiting).chain(futures_util::stream::iter(slice(&data, 2 * K, 4 * K))));
    let Admission::Body(admitted) = resume::admit(&place.engine, session, whole(4 * K)).await.unwrap() else {
        panic!("not admitted")
    };
    let upload = resume::receive(&place.engine, admitted, body.as_mut());
    let end = async {
        while place.received(session).await < 2 * K {
            tokio::task::yield_now().await;
        }
        let ended = resume::conclude(&place.engine, session, 4 * K, &Declared::default()).await;
        assert_eq!(ended, Err(Refusal::UploadIncomplete { received: 2 * K, expected: Some(4 * K) }));
        go.send(()).unwrap();
    };
    let (done, ()) = tokio::join!(upload, end);
    place.is(done, &data).await;
}

#[tokio::test]
async fn a_paused_tenants_upload_waits_as_it_is() {
    let place = Place::new(Form::Disk).await;
    let data = bytes_of(2 * K);
    let session = place.session(None).await;
    assert_eq!(place.send(session, ranged(0, K, None), slice(&data, 0, K)).await, told(K));
    let (tenant, now) = (place.grant.tenant().clone(), place.engine.clock.now());
    place.engine.meta.pause_tenant(&tenant, Some(now)).await.unwrap();
    assert_eq!(resume::cancel(&place.engine, session).await, Err(Refusal::TenantPaused));
    assert_eq!(place.chunk(session, &data, K, 2 * K).await, Err(Refusal::TenantPaused));
    assert_eq!(resume::status(&place.engine, session, Some(K)).await, told(K), "asked, and not completed");
    place.engine.meta.pause_tenant(&tenant, None).await.unwrap();
    place.is(place.chunk(session, &data, K, 2 * K).await, &data).await;
}

#[tokio::test]
async fn a_wrong_digest_of_the_whole_ends_the_upload() {
    let place = Place::new(Form::Disk).await;
    let data = bytes_of(2 * K);
    let session = place.session(Some(2 * K)).await;
    place.chunk(session, &data, 0, K).await.unwrap();
    let declared = Declared { crc32c: Some(1), ..Declared::default() };
    let last = Chunk { declared, ..ranged(K, 2 * K, Some(2 * K)) };
    assert!(matches!(place.send(session, last, slice(&data, K, 2 * K)).await, Err(Refusal::DigestMismatch { .. })));
    assert_eq!(resume::status(&place.engine, session, None).await, Ok(Standing::Failed));
    assert_eq!(place.chunk(session, &data, 0, K).await, Ok(Standing::Failed));
    sweep::unlink(&place.engine, place.engine.clock.now()).await.unwrap();
    assert_eq!(place.memory.count(), 0);
    place.sound().await;
}

#[tokio::test]
async fn a_cancelled_or_expired_upload_gives_everything_back() {
    let place = Place::new(Form::Disk).await;
    let data = bytes_of(2 * K);
    let session = place.session(Some(2 * K)).await;
    place.chunk(session, &data, 0, K).await.unwrap();
    assert_eq!(resume::cancel(&place.engine, session).await, Ok(Standing::Cancelled));
    assert_eq!(resume::cancel(&place.engine, session).await, Ok(Standing::Cancelled));
    assert_eq!(place.chunk(session, &data, K, 2 * K).await, Ok(Standing::Cancelled));
    sweep::unlink(&place.engine, place.engine.clock.now()).await.unwrap();
    assert_eq!(place.memory.count(), 0);

    let session = place.session(Some(2 * K)).await;
    place.chunk(session, &data, 0, K).await.unwrap();
    let mut sweeper = sweep::Sweeper::default();
    sweeper.sweep(&place.engine).await.unwrap();
    place.engine.clock.advance(Duration::from_secs(3601));
    assert_eq!(place.chunk(session, &data, K, 2 * K).await, Ok(Standing::Unknown));
    sweeper.sweep(&place.engine).await.unwrap();
    sweeper.sweep(&place.engine).await.unwrap();
    assert_eq!(place.memory.count(), 0, "the bytes are reclaimed");
    let usage = place.engine.meta.usage(place.grant.tenant()).await.unwrap();
    assert_eq!((usage.bytes, usage.reserved, usage.open_sessions), (0, 0, 0));
    place.sound().await;
}

#[tokio::test]
async fn a_newer_request_fences_the_older_one() {
    let place = Place::new(Form::Disk).await;
    let data = bytes_of(8 * K);
    let session = place.session(Some(8 * K)).await;
    let mut rest = slice(&data, 0, 3 * K + 9).into_iter();
    // A connection that goes silent half way.
    let mut body = pin!(futures_util::stream::poll_fn(move |_| match rest.next() {
        Some(chunk) => std::task::Poll::Ready(Some(chunk)),
        None => std::task::Poll::Pending,
    }));
    let Admission::Body(admitted) = resume::admit(&place.engine, session, whole(8 * K)).await.unwrap() else {
        panic!("not admitted")
    };
    let older = resume::receive(&place.engine, admitted, body.as_mut());
    let newer = async {
        // A question makes the older one record what it has, and lets it go on.
        while place.received(session).await < 3 * K {
            tokio::task::yield_now().await;
        }
        place.chunk(session, &data, 3 * K, 8 * K).await
    };
    let (older, newer) = tokio::join!(older, newer);
    assert_eq!(older, Err(Refusal::Superseded));
    place.is(newer, &data).await;
}

/// Somebody else ended it in the rows: the sweep tells whoever writes here, and lets go of what waits for the next.
#[tokio::test]
async fn a_writer_of_a_session_that_is_over_is_stopped() {
    for (sent, over) in [(3 * K, SessionState::Failed), (1000, SessionState::Failed), (K, SessionState::Aborted)] {
        let place = Place::new(Form::Disk).await;
        let data = bytes_of(8 * K);
        let (session, waits) = (place.session(Some(8 * K)).await, place.session(Some(8 * K)).await);
        place.chunk(waits, &data, 0, K).await.unwrap();
        let mut rest = slice(&data, 0, sent).into_iter();
        let mut body = pin!(futures_util::stream::poll_fn(move |_| match rest.next() {
            Some(chunk) => std::task::Poll::Ready(Some(chunk)),
            None => std::task::Poll::Pending,
        }));
        let Admission::Body(admitted) = resume::admit(&place.engine, session, whole(8 * K)).await.unwrap() else {
            panic!("not admitted")
        };
        let writer = resume::receive(&place.engine, admitted, body.as_mut());
        let operator = async {
            while place.engine.seats.len() < 2 {
                tokio::task::yield_now().await;
            }
            let mut sweeper = sweep::Sweeper::default();
            sweeper.sweep(&place.engine).await.unwrap();
            assert_eq!(place.engine.seats.len(), 2, "who may write is left alone");
            for id in [session, waits] {
                place.engine.meta.end_session(id, over, place.engine.clock.now()).await.unwrap();
            }
            sweeper.sweep(&place.engine).await.unwrap();
        };
        let (ended, ()) = tokio::join!(writer, operator);
        let expected = if over == SessionState::Failed { Standing::Failed } else { Standing::Cancelled };
        assert_eq!(ended, Ok(expected), "after {sent} bytes");
        assert!(place.engine.seats.is_empty(), "nothing waits for a next request that can't come");
        sweep::unlink(&place.engine, place.engine.clock.now()).await.unwrap();
        assert_eq!(place.memory.count(), 0);
    }
}

#[tokio::test]
async fn what_has_come_of_a_long_body_is_recorded_while_it_comes() {
    let store = Store::start();
    for mut place in [Place::new(Form::Disk).await, Place::in_bucket(&store).await] {
        let soon = limits::RECORD_BYTES + K;
        let data = bytes_of(soon + 3 * K + 5);
        let total = u64::try_from(data.len()).unwrap();
        let session = place.session(Some(total)).await;
        let Admission::Body(admitted) = resume::admit(&place.engine, session, whole(total)).await.unwrap() else {
            panic!("not admitted")
        };
        let recorded = async |place: &Place| {
            let upload = place.engine.meta.upload(session).await.unwrap().unwrap();
            upload.progress.received
        };
        {
            let (clock, asked) = (place.engine.clock.clone(), &place);
            let later = futures_util::stream::once(async move {
                assert_eq!(recorded(asked).await, 0, "not at every step");
                clock.advance(limits::RECORD_EVERY);
            });
            let body = futures_util::stream::iter(slice(&data, 0, soon))
                .chain(later.filter_map(async |()| None))
                .chain(futures_util::stream::iter(slice(&data, soon, soon + K)))
                .chain(futures_util::stream::pending());
            let mut body = pin!(body);
            let receiving = resume::receive(&place.engine, admitted, body.as_mut());
            let seen = async {
                while recorded(&place).await < limits::RECORD_BYTES {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            // The process is gone in the middle of the body.
            tokio::select! {
                ended = receiving => panic!("{ended:?}"),
                seen = tokio::time::timeout(Duration::from_secs(60), seen) => seen.expect("it is recorded"),
            }
        }
        place.restart();
        let held = place.received(session).await;
        assert!((limits::RECORD_BYTES..=soon + K).contains(&held), "{held}");
        let done = place.chunk(session, &data, held, total).await;
        place.is(done, &data).await;
    }
}

#[tokio::test]
async fn a_late_writer_lands_where_nobody_reads() {
    let store = Store::start();
    for place in [Place::new(Form::Disk).await, Place::new(Form::Parts).await, Place::in_bucket(&store).await] {
        late_writer(place).await;
    }
}

async fn late_writer(place: Place) {
    let data = bytes_of(4 * K);
    let session = place.session(Some(4 * K)).await;
    place.chunk(session, &data, 0, K).await.unwrap();
    let Admission::Body(admitted) = resume::admit(&place.engine, session, ranged(K, 4 * K, Some(4 * K))).await.unwrap()
    else {
        panic!("not admitted")
    };
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let mut halves = slice(&data, K, 4 * K);
    let late = halves.split_off(halves.len() / 2);
    let waiting = futures_util::stream::once(async { wait.await.unwrap() }).filter_map(async |()| None);
    let mut body = pin!(futures_util::stream::iter(halves).chain(waiting).chain(futures_util::stream::iter(late)));
    // Another replica, which shares the rows and the bytes and not the seats.
    let other = Place {
        engine: Engine::new(
            Arc::clone(&place.engine.meta),
            Arc::clone(&place.engine.blobs),
            Arc::clone(&place.engine.search),
            place.engine.clock.clone(),
            place.engine.tickets.clone(),
            place.engine.policy.clone(),
        ),
        memory: place.memory.clone(),
        faults: place.faults.clone(),
        grant: place.grant.clone(),
        _directory: tempfile::tempdir().unwrap(),
    };
    let older = resume::receive(&place.engine, admitted, body.as_mut());
    let newer = async {
        assert_eq!(other.chunk(session, &data, K, 2 * K).await, told(2 * K));
        go.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        other.chunk(session, &data, 2 * K, 4 * K).await
    };
    let (older, newer) = tokio::join!(older, newer);
    other.is(newer, &data).await;
    assert!(!matches!(older, Ok(Standing::Open { .. })), "{older:?}");
}

#[tokio::test]
async fn what_an_earlier_request_left_is_sealed_before_it_is_committed() {
    let store = Store::start();
    for mut place in [Place::new(Form::Parts).await, Place::in_bucket(&store).await] {
        let data = bytes_of(4 * K);
        for last in [2 * K, 4 * K] {
            let session = place.session(Some(4 * K)).await;
            assert_eq!(place.chunk(session, &data, 0, K).await, told(K));
            place.restart();
            assert_eq!(place.chunk(session, &data, K, 2 * K).await, told(2 * K));
            if last == 4 * K {
                // Every byte is there, and then the server is gone.
                place.restart();
                let cut = slice(&data, 2 * K, 4 * K).into_iter().chain([Err(BodyError::Cut)]).collect();
                place.send(session, ranged(2 * K, 4 * K, None), cut).await.unwrap_err();
            }
            if last == 2 * K {
                assert_eq!(place.received(session).await, last);
            }
            place.restart();
            let end = async || match last {
                _ if last == 4 * K => resume::status(&place.engine, session, None).await,
                _ => place.chunk(session, &data, last, 4 * K).await,
            };
            place.faults.fail_next(Operation::Seal, io::ErrorKind::TimedOut);
            assert_eq!(end().await, Err(Refusal::Unavailable), "no hopeful success");
            place.is(end().await, &data).await;
        }
    }
}

#[tokio::test]
async fn recorded_bytes_that_are_lost_are_found() {
    let place = Place::new(Form::Disk).await;
    let data = bytes_of(2 * K);
    let session = place.session(Some(2 * K)).await;
    place.chunk(session, &data, 0, K).await.unwrap();
    let report = check::everything(&place.engine, true).await.unwrap();
    assert_eq!((report.uploads, report.unnamed, report.broken), (1, 0, Vec::new()));
    let upload = place.engine.meta.upload(session).await.unwrap().unwrap();
    place.engine.blobs.delete(upload.progress.pieces[0].segment, "").await.unwrap();
    let broken = check::everything(&place.engine, false).await.unwrap().broken;
    assert!(broken.len() == 1 && broken[0].contains("bytes are lost"), "{broken:?}");
}

#[tokio::test]
async fn a_failed_write_or_sync_freezes_the_segment() {
    let place = Place::new(Form::Disk).await;
    let data = bytes_of(6 * K);
    let session = place.session(Some(6 * K)).await;
    place.chunk(session, &data, 0, K).await.unwrap();
    let mut held = K;
    for (operation, kind, expected) in [
        (Operation::Write, io::ErrorKind::StorageFull, Refusal::OutOfSpace),
        (Operation::Write, io::ErrorKind::Other, Refusal::Unavailable),
        (Operation::Sync, io::ErrorKind::Other, Refusal::Unavailable),
    ] {
        place.faults.fail_next(operation, kind);
        assert_eq!(place.chunk(session, &data, held, held + K).await, Err(expected), "{operation:?}");
        assert_eq!(place.received(session).await, held);
        assert_eq!(place.chunk(session, &data, held, held + K).await, told(held + K));
        held += K;
    }
    place.faults.fail_next(Operation::Sync, io::ErrorKind::Other);
    assert_eq!(place.chunk(session, &data, held, 6 * K).await, Err(Refusal::Unavailable), "no hopeful success");
    place.is(place.chunk(session, &data, held, 6 * K).await, &data).await;
}

#[tokio::test]
async fn quotas_are_held_while_an_upload_is_open() {
    let place = Place::new(Form::Disk).await;
    let tenant = place.grant.tenant().clone();
    let quota = Quota { bytes: Some(10 * K), sessions: Some(3) };
    assert!(place.engine.meta.set_quota(&tenant, quota).await.unwrap());
    let session = place.session(Some(6 * K)).await;
    let ask = |size| Resumable {
        wire: "w",
        max_bytes: 64 << 20,
        life: Duration::from_secs(60),
        file: NewFile { size, registers: true, declaration: Declaration::default(), next_of: None },
    };
    let more = open::resumable(&place.engine, &place.grant, ("http://h", None), vec![ask(Some(5 * K))]).await;
    assert_eq!(more, Err(Refusal::Quota { what: "bytes", limit: 10 * K, used: 6 * K, wanted: 5 * K }));
    let both =
        open::resumable(&place.engine, &place.grant, ("http://h", None), vec![ask(None), ask(None), ask(None)]).await;
    assert!(matches!(both, Err(Refusal::Quota { what: "open uploads", limit: 3, used: 1, wanted: 3 })), "{both:?}");
    resume::cancel(&place.engine, session).await.unwrap();
    let session = place.session(Some(10 * K)).await;
    place.is(place.send(session, whole(10 * K), slice(&bytes_of(10 * K), 0, 10 * K)).await, &bytes_of(10 * K)).await;
    let usage = place.engine.meta.usage(&tenant).await.unwrap();
    assert_eq!((usage.bytes, usage.reserved, usage.open_sessions), (10 * K, 0, 0));
    // What no longer fits is refused at its commit, and can be cancelled.
    let session = place.session(None).await;
    let refused = place.send(session, whole(1), vec![Ok(Bytes::from_static(b"x"))]).await;
    assert!(matches!(refused, Err(Refusal::Quota { .. })), "{refused:?}");
    assert_eq!(resume::cancel(&place.engine, session).await, Ok(Standing::Cancelled));
    place.sound().await;
}

/// One step of a client and its surroundings.
#[derive(Clone, Debug)]
enum Step {
    /// A chunk from the told offset, of so many bytes.
    Chunk(u64),
    /// A chunk that begins so far before the told offset.
    Again(u64, u64),
    /// The rest of the file, cut after so many bytes.
    Cut(u64),
    /// Bytes that are not the file's.
    Other(u64, u64),
    /// A chunk behind the told offset.
    Gap(u64),
    /// The next write or sync fails.
    Fail(bool),
    Restart,
    Ask,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![Just(K), Just(2 * K), 1..4 * K];
    let step = prop_oneof![
        4 => size.clone().prop_map(Step::Chunk),
        2 => (1..3 * K, size.clone()).prop_map(|(back, size)| Step::Again(back, size)),
        3 => (0..4 * K).prop_map(Step::Cut),
        1 => (0..3 * K, size.clone()).prop_map(|(back, size)| Step::Other(back, size)),
        1 => size.prop_map(Step::Gap),
        1 => any::<bool>().prop_map(Step::Fail),
        1 => Just(Step::Restart),
        1 => Just(Step::Ask),
    ];
    prop::collection::vec(step, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_file_is_the_file(steps in steps(), tail in 0..K, appends in any::<bool>()) {
        let form = if appends { Form::Disk } else { Form::Parts };
        follow(async { Place::new(form).await }, &steps, tail, |place, write| {
            if let Some(write) = write {
                place.faults.fail_next(if write { Operation::Write } else { Operation::Sync }, io::ErrorKind::Other);
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_file_is_the_file_in_a_bucket(steps in steps(), tail in 0..K) {
        let store = Store::start();
        follow(async { Place::in_bucket(&store).await }, &steps, tail, |_, write| {
            // One of the calls of the next step fails as often as it is tried.
            store.spare();
            if let Some(write) = write {
                store.harm(if write { "PutObject" } else { "HeadObject" }, 4, Harm::Refuse(503, "SlowDown"));
            }
        });
    }
}

/// A client's way to the end of its upload. `fail` makes the next write fail, or the next sync, or nothing any more.
fn follow(place: impl Future<Output = Place>, steps: &[Step], tail: u64, fail: impl Fn(&Place, Option<bool>)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut place = place.await;
        let size = 12 * K + tail;
        let data = bytes_of(size);
        let session = place.session(Some(size)).await;
        let mut known = 0;
        for step in steps {
            let result = match *step {
                Step::Chunk(length) => place.chunk(session, &data, known, (known + length).min(size)).await,
                Step::Again(back, length) => {
                    let from = known.saturating_sub(back);
                    place.chunk(session, &data, from, (from + length).min(size)).await
                }
                Step::Cut(after) => {
                    let mut body = slice(&data, known, (known + after).min(size));
                    body.push(Err(BodyError::Cut));
                    place.send(session, ranged(known, size, Some(size)), body).await
                }
                Step::Other(back, length) => {
                    let from = known.saturating_sub(back);
                    let to = (from + length).min(size);
                    let other = vec![0xaa; usize::try_from(to - from).unwrap()];
                    let result = place.send(session, ranged(from, to, Some(size)), chunks(&other)).await;
                    if from == known {
                        // Nobody can know that these are wrong. Such a client gets what it sent: not this test's.
                        return;
                    }
                    assert!(!matches!(result, Ok(Standing::Done(_))));
                    result
                }
                Step::Gap(length) => {
                    let from = (known + K).min(size - 1);
                    place.chunk(session, &data, from, (from + length).min(size)).await
                }
                Step::Fail(write) => {
                    fail(&place, Some(write));
                    continue;
                }
                Step::Restart => {
                    place.restart();
                    continue;
                }
                Step::Ask => resume::status(&place.engine, session, None).await,
            };
            match result {
                Ok(Standing::Open { received }) => {
                    assert!(received >= known, "{received} after {known}");
                    known = received;
                }
                Ok(Standing::Done(file)) => {
                    fail(&place, None);
                    assert!(place.stored(&file).await == data);
                    return;
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) => {
                    let received = place.received(session).await;
                    assert!(received >= known, "{received} after {known}");
                    known = received;
                }
            }
        }
        // Each planned failure may cost a try.
        let planned = steps.iter().filter(|step| matches!(step, Step::Fail(_))).count();
        for _ in 0..planned + 4 {
            match place.chunk(session, &data, known, size).await {
                Ok(done @ Standing::Done(_)) => {
                    fail(&place, None);
                    place.is(Ok(done), &data).await;
                    return;
                }
                // A failure that was planned.
                Err(_) => known = place.received(session).await,
                other => panic!("{other:?}"),
            }
        }
        panic!("it did not end");
    });
}

#[tokio::test]
async fn a_session_of_a_file_is_found_by_what_its_owner_knows() {
    let place = Place::new(Form::Disk).await;
    let session = place.session(Some(7)).await;
    let uploads = async |filter| place.engine.meta.uploads(place.grant.tenant(), filter).await.unwrap();
    let filter = crate::meta::UploadFilter { limit: 10, ..Default::default() };
    assert_eq!(uploads(filter.clone()).await.len(), 1);
    let open = crate::meta::UploadFilter {
        state: Some(SessionState::Open),
        name: Some("a.bin".into()),
        size: Some(7),
        ..filter.clone()
    };
    assert_eq!(uploads(open.clone()).await[0].session.id, session);
    for other in [
        crate::meta::UploadFilter { size: Some(8), ..open.clone() },
        crate::meta::UploadFilter { name: Some("b".into()), ..open.clone() },
        crate::meta::UploadFilter { state: Some(SessionState::Committed), ..open.clone() },
        crate::meta::UploadFilter { sha256: Some([0; 32]), ..open.clone() },
        crate::meta::UploadFilter { before: Some(session), ..open },
    ] {
        assert!(uploads(other).await.is_empty());
    }
}
