//! What every backend must do, run against every backend.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;

use super::azurite::Azurite;
use super::bucket::{Store, Ways};
use super::{
    BlobError, BlobStore, Direct, Faulty, Form, Local, Memory, Operation, PutAsk, Reached, SessionAsk, Wanted,
};
use crate::clock::{Clock, ordered_uuid, random_bytes};
use crate::model::file::{Crcs, Declared, Digests, RunningCrcs};
use crate::model::ids::{SegmentId, SessionId};
use crate::outbound::{Ask, Outbound, Payload};

pub(super) fn segment() -> SegmentId {
    let clock = Clock::system();
    SegmentId { session: SessionId(ordered_uuid(clock.now())), epoch: 1, attempt: u64::from_be_bytes(random_bytes()) }
}

pub(super) async fn read_all(store: &dyn BlobStore, id: SegmentId, backend: &str) -> Vec<u8> {
    let reader = store.open(id, backend).await.expect("a finished segment opens");
    let mut all = Vec::new();
    loop {
        let bytes = reader.read(u64::try_from(all.len()).unwrap(), 100_000).await.expect("reads");
        if bytes.is_empty() {
            return all;
        }
        all.extend_from_slice(&bytes);
    }
}

pub(super) async fn suite(store: &dyn BlobStore) {
    // Twelve and a bit MiB in chunks that fit nothing: several parts, several writeback windows, a tail.
    let id = segment();
    let mut expected = Vec::new();
    let mut writer = store.create(id, None).await.expect("creates");
    for i in 0..127u32 {
        let chunk = Bytes::from(vec![u8::try_from(i).unwrap(); 99_999]);
        expected.extend_from_slice(&chunk);
        writer.write(&mut vec![chunk.slice(..50_000), Bytes::new(), chunk.slice(50_000..)]).await.expect("writes");
        if i == 60 {
            let extent = writer.persist().await.expect("persists");
            assert_eq!(extent.length, u64::try_from(expected.len()).unwrap());
            assert_eq!(store.length(id, &extent.backend).await.unwrap(), Some(extent.length));
        }
    }
    let extent = writer.finish().await.expect("finishes");
    assert_eq!(extent.length, u64::try_from(expected.len()).unwrap());
    assert!(read_all(store, id, &extent.backend).await == expected);

    // A name is taken once, where the store is asked for it. Its 64 random bits are enough elsewhere.
    match store.create(id, None).await {
        Err(BlobError::Exists(taken)) => assert_eq!(taken, id),
        other => assert!(!store.reads_unfinished() && other.is_ok(), "{other:?}"),
    }

    // Reading beyond the end gives what is there.
    let reader = store.open(id, &extent.backend).await.unwrap();
    assert_eq!(reader.read(extent.length - 3, 10).await.unwrap().len(), 3);
    assert_eq!(reader.read(extent.length + 3, 10).await.unwrap().len(), 0);

    // What one writer left and another finishes. The row's length may end before what was written.
    let left = segment();
    let mut writer = store.create(left, None).await.unwrap();
    let mut extents = Vec::new();
    for (step, length) in [(1u8, 300_000usize), (2, 9_000_000), (3, 262_144), (4, 1)] {
        writer.write(&mut vec![Bytes::from(vec![step; length])]).await.unwrap();
        extents.push(writer.persist().await.unwrap());
    }
    writer.write(&mut vec![Bytes::from(vec![5; 100_000])]).await.unwrap();
    let extent = extents.pop().unwrap();
    let length = extent.length - 1;
    let mut sealed = store.seal(left, &extent.backend, length).await.expect("seals");
    sealed = store.seal(left, &sealed, length).await.expect("seals again by its new row");
    assert_eq!(store.seal(left, &extent.backend, length).await.expect("seals again by its old row"), sealed);
    let expected_left = [vec![1; 300_000], vec![2; 9_000_000], vec![3; 262_144]].concat();
    let check_left = async || {
        let all = read_all(store, left, &sealed).await;
        assert!(all.starts_with(&expected_left));
        assert!(store.length(left, &sealed).await.unwrap().unwrap() >= length);
    };
    check_left().await;
    // Its writer wakes up: what it sends changes nothing that counts.
    let _ = writer.write(&mut vec![Bytes::from(vec![6; 20_000_000])]).await;
    let _ = writer.persist().await;
    let _ = writer.finish().await;
    check_left().await;
    let too_long = store.seal(segment(), &extent.backend, length + 1_000_000).await;
    assert!(too_long.is_err() || store.reads_unfinished());

    // An empty segment is a segment.
    let empty = segment();
    let extent = store.create(empty, Some(0)).await.unwrap().finish().await.unwrap();
    assert_eq!(extent.length, 0);
    assert!(read_all(store, empty, &extent.backend).await.is_empty());

    // A discarded one is gone.
    let discarded = segment();
    let mut writer = store.create(discarded, None).await.unwrap();
    writer.write(&mut vec![Bytes::from_static(b"x")]).await.unwrap();
    writer.discard().await;
    assert_eq!(store.length(discarded, "").await.unwrap(), None);

    // The listing shows what is there, and only that.
    let mut listed = Vec::new();
    store.list(&mut |batch| listed.extend(batch)).await.unwrap();
    let mut names: Vec<_> = listed.iter().map(|l| l.segment).collect();
    names.sort();
    let mut both = vec![id, empty, left];
    both.sort();
    assert_eq!(names, both);

    // Deleting may be repeated.
    for _ in 0..2 {
        store.delete(id, "").await.expect("deletes");
    }
    assert!(matches!(store.open(id, "").await, Err(BlobError::NotFound(gone)) if gone == id));
}

/// A PUT as a client would send it to the store; its status.
async fn sent(url: &str, headers: &[(String, String)], body: &Bytes) -> u16 {
    let stall = std::time::Duration::from_secs(60);
    let outbound = Outbound::to_service(stall, stall, true).unwrap();
    let stream = futures_util::stream::once({
        let body = body.clone();
        async move { Ok(body) }
    });
    let header = |(name, value): &(String, String)| (http::HeaderName::try_from(name).unwrap(), value.clone());
    let ask = Ask {
        method: http::Method::PUT,
        url,
        key: None,
        headers: headers.iter().map(header).collect(),
        payload: Payload::Stream(u64::try_from(body.len()).unwrap(), stream.boxed()),
    };
    outbound.call(ask).await.unwrap().0.status
}

/// What every store must do that clients send to themselves.
pub(super) async fn direct_suite(store: &dyn BlobStore) {
    let direct = store.direct().expect("clients can send to it");
    let ask = |session, declared| PutAsk {
        session,
        headers: &[("content-type", "text/x; charset=utf-8")],
        declared,
        create_only: true,
        bytes: (0, 1000),
        life_seconds: 600,
    };
    let (none, session) = (Declared::default(), segment().session);
    let ticket = direct.ticket(ask(session, &none)).await.unwrap();
    assert_eq!(direct.arrived(session, true).await.unwrap(), None);
    // With all headers, and with no others of the store's own.
    let body = Bytes::from_static(b"what a client sent");
    let with = |name: &str, value: &str| {
        let mut headers: Vec<_> = ticket.headers.iter().filter(|(n, _)| n != name).cloned().collect();
        headers.extend((!value.is_empty()).then(|| (name.to_owned(), value.to_owned())));
        headers
    };
    let missing = ticket.headers.iter().map(|(name, _)| (name.as_str(), ""));
    for (name, value) in [("content-type", "text/y"), ("x-amz-meta-a", "b")].into_iter().chain(missing) {
        let status = sent(&ticket.url, &with(name, value), &body).await;
        assert!(matches!(status, 400 | 403), "{name}: {value}: {status}");
    }
    assert_eq!(direct.arrived(session, true).await.unwrap(), None);
    assert_eq!(sent(&ticket.url, &ticket.headers, &body).await, 200);
    assert_eq!(sent(&ticket.url, &ticket.headers, &Bytes::from_static(b"other")).await, 412);
    let arrived = direct.arrived(session, true).await.unwrap().unwrap();
    assert_eq!((arrived.length, arrived.segment.session), (18, session));
    assert_eq!(direct.arrived(session, true).await.unwrap(), Some(arrived.clone()), "the same as often as it is asked");
    // It is a segment like others.
    assert_eq!(store.length(arrived.segment, &arrived.backend).await.unwrap(), Some(18));
    assert_eq!(read_all(store, arrived.segment, &arrived.backend).await, body);
    let mut listed = Vec::new();
    store.list(&mut |batch| listed.extend(batch.into_iter().map(|l| l.segment))).await.unwrap();
    assert!(listed.contains(&arrived.segment), "{listed:?}");
    for _ in 0..2 {
        store.delete(arrived.segment, &arrived.backend).await.unwrap();
    }
    assert_eq!(store.length(arrived.segment, &arrived.backend).await.unwrap(), None);
    assert!(store.open(arrived.segment, &arrived.backend).await.is_err());

    // What was declared is compared by the store.
    let crcs = |body: &[u8]| {
        let mut crcs = RunningCrcs::default();
        crcs.update(body);
        crcs.value()
    };
    let session = segment().session;
    let Crcs { crc32c, crc64nvme } = crcs(&body);
    let declared = Declared { crc32c: Some(crc32c), crc64nvme: Some(crc64nvme), ..none };
    let ticket = direct.ticket(ask(session, &declared)).await.unwrap();
    assert_eq!(sent(&ticket.url, &ticket.headers, &Bytes::from_static(b"something else")).await, 400);
    assert_eq!(sent(&ticket.url, &ticket.headers, &body).await, 200);
    let arrived = direct.arrived(session, true).await.unwrap().unwrap();
    let told = declared.told_by(&arrived.digests);
    assert!(told != none && verified(&told, &arrived.digests), "{:?}", arrived.digests);

    // Parts, in any order; the last of each number counts.
    let session = segment().session;
    let upload = direct.begin_parts(session).await.unwrap();
    let urls = direct.part_tickets(session, &upload, &[1, 2], 600).await.unwrap();
    assert!(urls[0] != urls[1]);
    let parts = [Bytes::from(vec![7; 5 << 20]), Bytes::from_static(b"the end")];
    assert_eq!(direct.arrived_parts(session, &upload).await.unwrap(), Some(vec![]));
    for (url, body) in
        [(&urls[1], Bytes::from_static(b"x")), (&urls[1], parts[1].clone()), (&urls[0], parts[0].clone())]
    {
        assert_eq!(sent(url, &[], &body).await, 200);
    }
    let arrived = direct.arrived_parts(session, &upload).await.unwrap().unwrap();
    assert_eq!(arrived.iter().map(|p| (p.number, p.length)).collect::<Vec<_>>(), [(1, 5 << 20), (2, 7)]);
    let joined = direct.join(session, &upload, &arrived).await.unwrap().unwrap();
    assert_eq!(joined.length, (5 << 20) + 7);
    assert_eq!(direct.join(session, &upload, &arrived).await.unwrap(), Some(joined.clone()), "it may be repeated");
    assert_eq!(direct.arrived_parts(session, &upload).await.unwrap(), None);
    assert!(read_all(store, joined.segment, &joined.backend).await == parts.concat());
    assert_eq!(sent(&urls[0], &[], &parts[1]).await, 404, "nothing can be added");
    // Everything of a session goes at once, whatever it is.
    let session = segment().session;
    let upload = direct.begin_parts(session).await.unwrap();
    store.delete(SegmentId::direct(session), "").await.unwrap();
    assert_eq!(direct.arrived_parts(session, &upload).await.unwrap(), None);
    direct.abandon(session, &upload).await.unwrap();
    if direct.forms().sessions {
        sessions(store, direct).await;
    }
}

fn verified(declared: &Declared, digests: &Digests) -> bool {
    declared.crc32c.is_none_or(|crc| digests.crc32c == Some(crc))
        && declared.crc64nvme.is_none_or(|crc| digests.crc64nvme == Some(crc))
}

/// What is promised of sessions, whose clients need nothing but the location.
async fn sessions(store: &dyn BlobStore, direct: &dyn Direct) {
    const GRANULE: usize = 256 * 1024;
    let body = Bytes::from((0..2 * GRANULE + 100).map(|n| u8::try_from(n % 251).unwrap_or(0)).collect::<Vec<u8>>());
    let size = u64::try_from(body.len()).unwrap();
    for content_type in ["text/x", ""] {
        let session = segment().session;
        let location = direct.begin_session(SessionAsk { session, size, content_type, page: None }).await.unwrap();
        assert_eq!(direct.reached(&location, size).await.unwrap(), Reached::Bytes(0));
        let range = |from: usize, to: usize| [("content-range".to_owned(), format!("bytes {from}-{}/{size}", to - 1))];
        let send = async |from: usize, to: usize| sent(&location, &range(from, to), &body.slice(from..to)).await;
        assert_eq!(send(0, GRANULE).await, 308);
        assert_eq!(send(0, GRANULE).await, 308, "again");
        assert_eq!(direct.reached(&location, size).await.unwrap(), Reached::Bytes(u64::try_from(GRANULE).unwrap()));
        assert_eq!(direct.arrived(session, true).await.unwrap(), None, "it is nothing before its end");
        assert_eq!(send(GRANULE, body.len()).await, 200);
        assert_eq!(direct.reached(&location, size).await.unwrap(), Reached::Whole);
        let arrived = direct.arrived(session, true).await.unwrap().unwrap();
        let mut crcs = RunningCrcs::default();
        crcs.update(&body);
        assert_eq!((arrived.length, arrived.digests.crc32c), (size, Some(crcs.value().crc32c)));
        assert!(read_all(store, arrived.segment, &arrived.backend).await == body);
        // What was never committed goes with its session, also when it had been completed.
        for _ in 0..2 {
            store.delete(SegmentId::direct(session), &location).await.unwrap();
        }
        assert_eq!(direct.arrived(session, true).await.unwrap(), None);
    }
    let session = segment().session;
    let location = direct.begin_session(SessionAsk { session, size, content_type: "", page: None }).await.unwrap();
    let range = [("content-range".to_owned(), format!("bytes 0-{}/{size}", GRANULE - 1))];
    assert_eq!(sent(&location, &range, &body.slice(..GRANULE)).await, 308);
    store.delete(SegmentId::direct(session), &location).await.unwrap();
    assert_eq!(direct.reached(&location, size).await.unwrap(), Reached::Cancelled);
    assert!(sent(&location, &[], &body).await >= 400, "nothing can be added");
    store.delete(SegmentId::direct(session), &location).await.unwrap();
    assert!(direct.reached("what is this", size).await.is_err());
}

#[tokio::test]
async fn the_local_disk_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    suite(&Local::open(&directory.path().join("blobs")).unwrap()).await;
}

#[tokio::test]
async fn memory_as_a_disk_keeps_the_contract() {
    suite(&Memory::new(Form::Disk, Clock::system())).await;
}

#[tokio::test]
async fn memory_in_parts_keeps_the_contract() {
    let store = Memory::new(Form::Parts, Clock::system());
    suite(&store).await;
    // And, as S3, it shows nothing before the end.
    let id = segment();
    let mut writer = store.create(id, None).await.unwrap();
    writer.write(&mut vec![Bytes::from_static(b"x")]).await.unwrap();
    writer.persist().await.unwrap();
    assert!(store.open(id, "").await.is_err());
}

#[tokio::test]
async fn a_bucket_keeps_the_contract() {
    let naming = Store::start();
    naming.behave(Ways { names: true, ..Ways::default() });
    for store in [Store::start(), Store::with_versions(), naming] {
        suite(&super::s3::of(&store, "some/where")).await;
    }
}

#[tokio::test]
async fn a_container_keeps_the_contract() {
    suite(&super::azure::of(Azurite::shared())).await;
}

#[tokio::test]
async fn a_bucket_keeps_the_contract_with_clients() {
    let naming = Store::start();
    naming.behave(Ways { names: true, ..Ways::default() });
    for store in [Store::start(), Store::with_versions(), naming] {
        direct_suite(&super::s3::of(&store, "some/where")).await;
    }
}

/// Google's, also where older generations are kept: nothing is left of what was deleted.
#[tokio::test]
async fn a_bucket_of_googles_keeps_the_contract() {
    let keeping = Store::google();
    keeping.behave(Ways { versions: true, ..Ways::default() });
    for store in [Store::google(), keeping] {
        let at = super::s3::of(&store, "some/where");
        suite(&at).await;
        direct_suite(&at).await;
        let mut segments = Vec::new();
        at.list(&mut |batch| segments.extend(batch)).await.unwrap();
        for listed in segments {
            at.delete(listed.segment, &listed.backend).await.unwrap();
        }
        assert_eq!(store.versions(""), [], "no older generation is left");
        let faulty = Faulty::new(Arc::new(at));
        suite(&faulty).await;
        faulty.fail_next(Operation::Create, std::io::ErrorKind::StorageFull);
        assert!(matches!(faulty.create(segment(), None).await, Err(BlobError::OutOfSpace)));
    }
}

#[tokio::test]
async fn versions_are_told_apart_and_only_where_there_are_any() {
    let none = Declared::default();
    let ask = |session| PutAsk {
        session,
        headers: &[],
        declared: &none,
        create_only: false,
        bytes: (0, 9),
        life_seconds: 600,
    };
    let (bucket, session) = (Store::with_versions(), segment().session);
    let store = super::s3::of(&bucket, "p");
    let direct = store.direct().unwrap();
    let ticket = direct.ticket(ask(session)).await.unwrap();
    assert_eq!(ticket.headers, []);
    let mut arrived = Vec::new();
    for body in [b"one".as_slice(), b"two!", b"one"] {
        assert_eq!(sent(&ticket.url, &[], &Bytes::from_static(body)).await, 200);
        arrived.push(direct.arrived(session, false).await.unwrap().unwrap());
    }
    let mut names: Vec<_> = arrived.iter().map(|a| a.segment).collect();
    for (arrived, body) in arrived.iter().zip([b"one".as_slice(), b"two!", b"one"]) {
        assert_eq!(read_all(&store, arrived.segment, &arrived.backend).await, body);
    }
    let listed = async || {
        let mut listed = Vec::new();
        store.list(&mut |batch| listed.extend(batch)).await.unwrap();
        listed.sort_by_key(|l| l.segment);
        listed
    };
    names.sort();
    let found = listed().await;
    assert_eq!(found.iter().map(|l| l.segment).collect::<Vec<_>>(), names);
    // One goes, by what its row keeps or by what the listing says, and the others stay.
    store.delete(arrived[2].segment, &arrived[2].backend).await.unwrap();
    assert_eq!(direct.arrived(session, false).await.unwrap(), Some(arrived[1].clone()));
    let first = found.iter().find(|l| l.segment == arrived[0].segment).unwrap();
    store.delete(first.segment, &first.backend).await.unwrap();
    assert_eq!(listed().await.len(), 1);
    assert_eq!(read_all(&store, arrived[1].segment, &arrived[1].backend).await, b"two!");
    // An upload in parts beside them that nobody needs takes none along.
    direct.begin_parts(session).await.unwrap();
    let beside = listed().await.into_iter().find(|l| l.segment == SegmentId::direct(session)).unwrap();
    store.delete(beside.segment, &beside.backend).await.unwrap();
    assert_eq!((bucket.uploads("").len(), bucket.versions("").len()), (0, 1));
    store.delete(SegmentId::direct(session), "").await.unwrap();
    assert_eq!(bucket.versions(""), []);

    // More of them than a page has.
    for n in 0..130u32 {
        bucket.put(&format!("p/{}", SegmentId::direct(session)), &n.to_be_bytes());
    }
    let found = listed().await;
    assert_eq!(found.len(), 130);
    for l in &found {
        assert_eq!(store.length(l.segment, &l.backend).await.unwrap(), Some(4));
    }
    store.delete(SegmentId::direct(session), "").await.unwrap();
    assert_eq!(bucket.versions(""), []);

    // What came before a bucket kept versions is named alike before and after.
    let (bucket, session) = (Store::start(), segment().session);
    let store = super::s3::of(&bucket, "p");
    let put = store.direct().unwrap().ticket(ask(session)).await.unwrap();
    assert_eq!(sent(&put.url, &[], &Bytes::from_static(b"old")).await, 200);
    let before = store.direct().unwrap().arrived(session, true).await.unwrap().unwrap();
    bucket.behave(Ways { versions: true, ..Ways::default() });
    let store = super::s3::of(&bucket, "p");
    store.check(Wanted { create_only: true, versions: true }).await.unwrap();
    let mut listed = Vec::new();
    store.list(&mut |batch| listed.extend(batch)).await.unwrap();
    assert_eq!(listed.iter().map(|l| l.segment).collect::<Vec<_>>(), [before.segment]);
    assert_eq!(read_all(&store, before.segment, &before.backend).await, b"old");
    store.delete(listed[0].segment, &listed[0].backend).await.unwrap();
    assert_eq!(store.length(before.segment, &before.backend).await.unwrap(), None);

    // A bucket that keeps none can't tell: nothing is believed.
    let (bucket, session) = (Store::start(), segment().session);
    let store = super::s3::of(&bucket, "p");
    let direct = store.direct().unwrap();
    let ticket = direct.ticket(ask(session)).await.unwrap();
    assert_eq!(sent(&ticket.url, &[], &Bytes::from_static(b"one")).await, 200);
    assert!(direct.arrived(session, false).await.is_err());
}

/// A real one, where tests/stores/run started it.
#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "a test's switch")]
async fn a_store_that_was_started_keeps_the_contract() {
    let Ok(url) = std::env::var("LANDFALL_TEST_STORAGE") else { return };
    if let Some((place, how)) = url.split_once('?') {
        let store = super::s3::at(&format!("{place}/contract-{}?{how}", crate::clock::random_uuid()));
        suite(&store).await;
        // Not every store heeds the condition that this takes.
        if store.check(Wanted { create_only: true, versions: false }).await.is_ok() {
            direct_suite(&store).await;
        }
    }
}

#[tokio::test]
async fn the_faulty_twin_keeps_the_contract_until_told() {
    let store = Faulty::new(Arc::new(Memory::new(Form::Disk, Clock::system())));
    suite(&store).await;
    store.fail_next(Operation::Create, std::io::ErrorKind::StorageFull);
    assert!(matches!(store.create(segment(), None).await, Err(BlobError::OutOfSpace)));
    assert!(store.create(segment(), None).await.is_ok());
}

#[tokio::test]
async fn one_directory_sync_serves_all_that_wait_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = Local::open(directory.path()).unwrap();
    let mut tasks = Vec::new();
    for _ in 0..64 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            store.create(segment(), None).await.unwrap().finish().await.unwrap();
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let mut count = 0;
    store.list(&mut |batch| count += batch.len()).await.unwrap();
    assert_eq!(count, 64);
}
