//! What every backend must do, run against every backend.

use std::sync::Arc;

use bytes::Bytes;

use super::bucket::Store;
use super::{BlobError, BlobStore, Faulty, Form, Local, Memory, Operation};
use crate::clock::{Clock, ordered_uuid, random_bytes};
use crate::model::ids::{SegmentId, SessionId};

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
    let store = Store::start();
    suite(&super::s3::of(&store, "some/where")).await;
}

/// A real one, where tests/stores/run started it.
#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "a test's switch")]
async fn a_store_that_was_started_keeps_the_contract() {
    let Ok(url) = std::env::var("LANDFALL_TEST_STORAGE") else { return };
    if let Some((place, how)) = url.split_once('?') {
        suite(&super::s3::at(&format!("{place}/contract-{}?{how}", crate::clock::random_uuid()))).await;
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
