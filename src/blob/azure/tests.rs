//! What the service and the way to it do to calls: nothing acknowledged is lost, nothing doubtful is believed, nothing is
//! left over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reqsign_azure_storage::Credential;

use super::blocks::{BLOCK_BYTES, Block};
use super::{Azure, BLOCKS_MAX, BlobError, BlobStore, Listed, STALL, SegmentWriter, WHOLE, Wanted};
use crate::blob::azurite::{self, Azurite};
use crate::blob::contract::{read_all, segment};
use crate::blob::front::Front;
use crate::blob::harm::{self, Harm, Harms};
use crate::blob::remote::Memory;
use crate::blob::remote::harmed::{Harmed, MEMORY, PART, data, left, stands, written};
use crate::clock::{Clock, random_uuid};
use crate::config::{Config, Container, Storage};
use crate::limits;

const BLOCK: usize = PART;

fn container(url: &str) -> Container {
    let mut config = Config::default();
    config.set_text("storage", url).unwrap();
    match config.storage {
        Storage::Container(container) => container,
        other => panic!("{other:?} is no container"),
    }
}

fn client(url: &str, stall: Duration, blocks_max: usize) -> Azure {
    let clock = Clock::system();
    Azure::new(&container(url), HashMap::new(), clock, Some(MEMORY), (stall, blocks_max)).unwrap()
}

/// A client of the emulator, under a prefix of its own.
pub(crate) fn of(azurite: &Azurite) -> Azure {
    client(&azurite.url(&random_uuid().to_string()), STALL, BLOCKS_MAX)
}

/// One with something in front of it that harms calls.
fn fronted() -> (Front, Azure) {
    fronted_with(STALL, BLOCKS_MAX)
}

fn fronted_with(stall: Duration, blocks_max: usize) -> (Front, Azure) {
    let azurite = Azurite::shared();
    let front = Front::of_azure(azurite.endpoint());
    let endpoint = format!("http://{}/{}", front.address(), azurite::ACCOUNT);
    let azure = client(&azurite.url_at(&endpoint, &random_uuid().to_string()), stall, blocks_max);
    (front, azure)
}

struct Fronted {
    front: Front,
    azure: Azure,
}

#[async_trait]
impl Harmed for Fronted {
    const WHOLE: &'static str = "PutBlob";
    const PIECE: &'static str = "PutBlock";
    const RANGE: &'static str = "GetBlob";
    // A list that is no XML any more is refused for that.
    const WRITES: &'static [(&'static str, bool)] = &[("PutBlock", true), ("PutBlockList", false), ("PutBlob", true)];
    const PASSING: &'static [(u16, &'static str)] =
        &[(503, "ServerBusy"), (500, "OperationTimedOut"), (500, "InternalError"), (429, ""), (502, "")];
    const LASTING: &'static [(&'static str, Harm)] = &[
        ("PutBlob", Harm::Refuse(503, "ServerBusy")),
        ("PutBlob", Harm::Refuse(404, "ContainerNotFound")),
        ("PutBlob", Harm::Refuse(409, "BlobAlreadyExists")),
        ("PutBlock", Harm::CutBefore),
        ("PutBlock", Harm::Damage),
        ("PutBlock", Harm::Refuse(403, "AuthorizationFailure")),
        ("PutBlock", Harm::Refuse(400, "InvalidBlobOrBlock")),
        ("PutBlockList", Harm::Refuse(400, "InvalidBlockList")),
        ("PutBlockList", Harm::Refuse(409, "BlobAlreadyExists")),
        ("PutBlockList", Harm::Refuse(412, "ConditionNotMet")),
    ];

    fn new(stall: Duration) -> Self {
        let (front, azure) = fronted_with(stall, BLOCKS_MAX);
        Self { front, azure }
    }

    fn store(&self) -> &dyn BlobStore {
        &self.azure
    }

    fn harms(&self) -> &Harms {
        self.front.harms()
    }

    fn memory(&self) -> &Memory {
        &self.azure.shared.memory
    }

    async fn names(&self) -> Vec<String> {
        names(&self.azure).await
    }
}

stands!(harmed: Fronted);

async fn listed(azure: &Azure) -> Vec<Listed> {
    let mut all = Vec::new();
    azure.list(&mut |batch| all.extend(batch)).await.unwrap();
    all
}

/// Names of everything that is there.
async fn names(azure: &Azure) -> Vec<String> {
    azure.all(&azure.shared.prefix).await.unwrap().into_iter().map(|entry| entry.key).collect()
}

fn kinds(front: &Front) -> Vec<&'static str> {
    let mut calls: Vec<_> = front.calls().into_iter().map(|call| call.what).collect();
    calls.sort_unstable();
    calls
}

#[tokio::test]
async fn a_segment_costs_the_calls_that_it_must() {
    let (front, azure) = fronted();
    // Up to a block: one call.
    for length in [0, 1, BLOCK] {
        let writer = written(&azure, segment(), &data(length)).await;
        assert_eq!(writer.finish().await.unwrap().backend, WHOLE);
        let calls: Vec<_> = front.calls().into_iter().map(|call| (call.what, call.bytes)).collect();
        assert_eq!(calls, [("PutBlob", u64::try_from(length).unwrap())]);
    }
    // Longer: the blocks and a list.
    let writer = written(&azure, segment(), &data(2 * BLOCK + 1)).await;
    writer.finish().await.unwrap();
    assert_eq!(kinds(&front), ["PutBlock", "PutBlock", "PutBlock", "PutBlockList"]);
    // Persisted and finished: what is there is not sent again.
    let mut writer = written(&azure, segment(), &data(1000)).await;
    writer.persist().await.unwrap();
    writer.persist().await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(kinds(&front), ["PutBlock", "PutBlockList"]);
    // Discarded before anything was sent: none.
    written(&azure, segment(), &data(BLOCK)).await.discard().await;
    assert_eq!(front.calls(), []);
}

#[tokio::test]
async fn chunks_that_are_persisted_are_sent_twice_at_most() {
    let (front, azure) = fronted();
    let (id, all) = (segment(), data(2 * BLOCK + 300_000));
    let mut writer = azure.create(id, None).await.unwrap();
    for from in (0..all.len()).step_by(256 * 1024) {
        writer.write(&mut vec![all.slice(from..all.len().min(from + 256 * 1024))]).await.unwrap();
        let persisted = writer.persist().await.unwrap();
        assert!(persisted.backend.len() < 10);
    }
    let sent: u64 = front.calls().iter().map(|call| call.bytes).sum();
    assert!(sent <= 2 * u64::try_from(all.len()).unwrap(), "{sent}");
    // Others find it.
    let blocks = azure.blocks(&azure.key(id, 0)).await.unwrap().unwrap();
    assert!(blocks.contains(&Block { offset: BLOCK_BYTES, length: BLOCK_BYTES }) && blocks.len() > 60, "{blocks:?}");
    assert_eq!(azure.length(id, "blocks1").await.unwrap(), Some(u64::try_from(all.len()).unwrap()));
    writer.write(&mut vec![Bytes::from_static(b"x")]).await.unwrap();
    let extent = writer.finish().await.unwrap();
    assert!(read_all(&azure, id, &extent.backend).await == [&all[..], b"x"].concat());
}

#[tokio::test]
async fn the_smallest_steps_are_joined_from_memory() {
    let (_front, azure) = fronted();
    let (id, all) = (segment(), data(100));
    let mut writer = azure.create(id, None).await.unwrap();
    for at in 0..all.len() {
        writer.write(&mut vec![all.slice(at..=at)]).await.unwrap();
        writer.persist().await.unwrap();
    }
    let blocks = azure.blocks(&azure.key(id, 0)).await.unwrap().unwrap();
    let row = super::blocks::covering(&blocks, 100).unwrap();
    assert!(blocks.len() == 100 && row.len() <= 34, "{row:?}");
    azure.seal(id, "blocks1", 100).await.unwrap();
    assert!(read_all(&azure, id, WHOLE).await == all);
}

#[tokio::test]
async fn a_segment_of_more_blocks_than_a_blob_takes_goes_on_in_the_next() {
    let (_front, azure) = fronted_with(STALL, 3);
    let all = data(5 * BLOCK + 500_000);
    let rows = async |id, left: bool| {
        let mut writer = azure.create(id, None).await.unwrap();
        let mut extent = None;
        for from in (0..all.len()).step_by(1_000_000) {
            writer.write(&mut vec![all.slice(from..all.len().min(from + 1_000_000))]).await.unwrap();
            if from % 3_000_000 == 0 {
                extent = Some(writer.persist().await.unwrap());
            }
        }
        if left {
            (writer.persist().await.unwrap(), Some(writer))
        } else {
            drop(extent);
            (writer.finish().await.unwrap(), None)
        }
    };
    let id = segment();
    let (extent, _) = rows(id, false).await;
    assert!(extent.backend.starts_with("whole ") && extent.backend != "whole 1", "{}", extent.backend);
    assert!(read_all(&azure, id, &extent.backend).await == all);
    // Across the borders, and from the middle.
    let reader = azure.open(id, &extent.backend).await.unwrap();
    for at in (0..all.len() - 100_000).step_by(3_999_991) {
        let read = reader.read(u64::try_from(at).unwrap(), 100_000).await.unwrap();
        assert!(read == all.slice(at..at + 100_000), "{at}");
    }
    assert_eq!(azure.length(id, &extent.backend).await.unwrap(), Some(extent.length));
    let shown = listed(&azure).await;
    assert_eq!(shown.iter().map(|l| (l.segment, l.length)).collect::<Vec<_>>(), [(id, extent.length)]);
    for _ in 0..2 {
        azure.delete(id, &extent.backend).await.unwrap();
    }
    assert_eq!(names(&azure).await, Vec::<String>::new());

    // One that was left is sealed by its row, wherever the row ends.
    for cut in [0, 1, 3_000_000, 12_345_678, 26_000_000, u64::try_from(all.len()).unwrap()] {
        let id = segment();
        let (extent, writer) = rows(id, true).await;
        assert_eq!(azure.length(id, &extent.backend).await.unwrap(), Some(extent.length));
        let sealed = azure.seal(id, &extent.backend, cut).await.unwrap();
        assert_eq!(azure.seal(id, &extent.backend, cut).await.unwrap(), sealed);
        assert_eq!(azure.seal(id, &sealed, cut).await.unwrap(), sealed);
        let read = read_all(&azure, id, &sealed).await;
        assert!(u64::try_from(read.len()).unwrap() >= cut && all.starts_with(&read), "{cut}");
        drop(writer);
        azure.delete(id, "").await.unwrap();
    }
    let late = azure.seal(segment(), "blocks1", 1).await;
    assert!(matches!(late, Err(BlobError::Truncated { found: 0, .. })), "{late:?}");
    assert_eq!(names(&azure).await, Vec::<String>::new());
}

#[tokio::test]
async fn an_error_inside_a_success_is_an_error() {
    let (front, azure) = fronted();
    for what in ["ListBlobs", "GetBlockList"] {
        for harm in [Harm::ErrorInside("InternalError"), Harm::Truncate] {
            let mut writer = written(&azure, segment(), &data(10)).await;
            writer.persist().await.unwrap();
            front.harm(what, 2, harm);
            assert!(azure.check(Wanted::default()).await.is_ok(), "{what} {harm:?}");
            front.spare();
        }
    }
}

#[tokio::test]
async fn credentials_that_were_rotated_are_read_again_once() {
    let (front, azure) = fronted();
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut at = container(&Azurite::shared().url_at(
        &format!("http://{}/{}", front.address(), azurite::ACCOUNT),
        azure.shared.prefix.trim_end_matches('/'),
    ));
    at.credentials = Some(file.path().into());
    let other = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [7u8; 64]);
    let say = |key: &str| std::fs::write(file.path(), format!("# the account's\nAZURE_STORAGE_ACCOUNT_KEY={key}\n"));
    say(&other).unwrap();
    let azure = Azure::new(&at, HashMap::new(), Clock::system(), Some(MEMORY), (STALL, BLOCKS_MAX)).unwrap();
    match written(&azure, segment(), &data(10)).await.finish().await {
        Err(BlobError::Io(error)) => {
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            let said = error.to_string();
            assert!(said.contains("credentials") && said.contains("AuthorizationFailure"), "{said}");
            assert!(!said.contains(&other[..20]), "{said}");
        }
        refused => panic!("{refused:?}"),
    }
    assert_eq!(front.count("PutBlob"), 2);
    say(azurite::KEY).unwrap();
    written(&azure, segment(), &data(10)).await.finish().await.expect("the file has the right one now");
    std::fs::write(file.path(), "AZURE_STORAGE_ACCOUNT_KEY=no key, but a secret").unwrap();
    azure.shared.caller.protocol.forget_for_test().await;
    let refused = azure.check(Wanted::default()).await.unwrap_err().to_string();
    assert!(refused.contains("Base64") && !refused.contains("secret"), "{refused}");
    std::fs::write(file.path(), "what is this").unwrap();
    azure.shared.caller.protocol.forget_for_test().await;
    let refused = azure.check(Wanted::default()).await.unwrap_err().to_string();
    assert!(refused.contains("NAME=VALUE") && refused.contains("AZURE_STORAGE_ACCOUNT_KEY"), "{refused}");
}

/// An identity's place that answers after a moment, and with no token.
#[tokio::test]
async fn who_waited_for_credentials_that_did_not_come_does_not_ask_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let (address, runtime) = harm::serve(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(harm::in_xml(500, "InternalError"))
        }
    });
    let mut at = container(&Azurite::shared().url("p"));
    at.credentials = None;
    let environment = HashMap::from([("AZURE_IMDS_ENDPOINT".to_owned(), format!("http://{address}/"))]);
    let azure = Azure::new(&at, environment, Clock::system(), Some(MEMORY), (STALL, BLOCKS_MAX)).unwrap();
    let calls = (0..40).map(|_| azure.length(segment(), WHOLE));
    for outcome in futures_util::future::join_all(calls).await {
        let said = outcome.unwrap_err().to_string();
        assert!(said.contains("no credentials") && said.contains("AZURE_STORAGE_ACCOUNT_KEY"), "{said}");
    }
    assert!(asked.load(Ordering::SeqCst) <= 40, "{}", asked.load(Ordering::SeqCst));
    runtime.shutdown_background();
}

#[tokio::test]
async fn an_answer_that_ends_early_is_not_read_on_in_the_next_blob() {
    let (front, azure) = fronted_with(STALL, 1);
    let (id, all) = (segment(), data(2 * BLOCK + 5));
    let extent = written(&azure, id, &all).await.finish().await.unwrap();
    let from = BLOCK - 100_000;
    for harm in [Harm::EndsEarly, Harm::Truncate] {
        for times in [1, 3, u32::MAX] {
            let reader = azure.open(id, &extent.backend).await.unwrap();
            front.harm("GetBlob", times, harm);
            let read = reader.read(u64::try_from(from).unwrap(), 200_000).await;
            front.spare();
            match read {
                Ok(read) => assert!(read == all.slice(from..from + 200_000), "{harm:?} {times}: other bytes"),
                Err(error) => assert!(times > 1, "{harm:?} {times}: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn a_range_that_nobody_asked_for_is_not_believed() {
    let (address, runtime) = harm::serve(|request| async move {
        let answer = http::Response::builder().header("etag", "\"0x1\"");
        if request.method() == http::Method::HEAD {
            return Ok(answer.header("content-length", "10").body(harm::text("")).unwrap());
        }
        Ok(answer.status(206).header("content-range", "bytes 0-4/10").body(harm::text("01234")).unwrap())
    });
    let azure = client(&Azurite::shared().url_at(&format!("http://{address}/x"), "p"), STALL, BLOCKS_MAX);
    let reader = azure.open(segment(), WHOLE).await.unwrap();
    let read = reader.read(5, 5).await;
    assert!(matches!(&read, Err(BlobError::Io(error)) if error.to_string().contains("range")), "{read:?}");
    runtime.shutdown_background();
}

#[tokio::test]
async fn sealing_may_be_repeated_after_every_step_that_failed() {
    let (front, azure) = fronted();
    for (what, harm) in [
        ("GetBlobProperties", Harm::Refuse(403, "AuthorizationFailure")),
        ("GetBlockList", Harm::Refuse(403, "AuthorizationFailure")),
        ("GetBlockList", Harm::Truncate),
        ("PutBlockList", Harm::Refuse(403, "AuthorizationFailure")),
        ("PutBlockList", Harm::RefuseAfter(403, "AuthorizationFailure")),
        ("PutBlockList", Harm::CutAfter),
        ("PutBlockList", Harm::RefuseAfter(412, "ConditionNotMet")),
        ("PutBlockList", Harm::Refuse(400, "InvalidBlockList")),
    ] {
        let (id, _writer, extent, all) = left(&azure).await;
        front.harm(what, 2, harm);
        let first = azure.seal(id, &extent.backend, extent.length).await;
        front.spare();
        let sealed = azure.seal(id, &extent.backend, extent.length).await;
        assert_eq!(sealed.unwrap_or_else(|error| panic!("{what} {harm:?} {first:?}: {error}")), WHOLE);
        assert!(read_all(&azure, id, WHOLE).await == all, "{what} {harm:?}");
        azure.delete(id, WHOLE).await.unwrap();
        assert_eq!(names(&azure).await, Vec::<String>::new(), "{what} {harm:?}");
    }
}

#[tokio::test]
async fn a_writer_that_wakes_up_late_changes_nothing() {
    let (front, azure) = fronted();
    // Before the sealing, between its steps, and after it.
    for late in 0..3 {
        let (id, mut writer, extent, all) = left(&azure).await;
        let more = async |writer: &mut Box<dyn SegmentWriter>| {
            let _ = writer.write(&mut vec![data(3 * BLOCK)]).await;
            let _ = writer.persist().await;
        };
        if late == 0 {
            more(&mut writer).await;
        }
        if late == 1 {
            front.harm("PutBlockList", 2, Harm::Refuse(403, "AuthorizationFailure"));
            azure.seal(id, &extent.backend, extent.length).await.unwrap_err();
            more(&mut writer).await;
        }
        azure.seal(id, &extent.backend, extent.length).await.unwrap();
        let sealed = read_all(&azure, id, WHOLE).await;
        assert!(sealed.starts_with(&all), "{late}");
        if late == 2 {
            more(&mut writer).await;
        }
        assert!(writer.finish().await.is_err(), "it does not believe that its bytes are there");
        assert!(read_all(&azure, id, WHOLE).await == sealed, "{late}");
    }
    // One that finishes first has written at least as much.
    let (id, mut writer, extent, all) = left(&azure).await;
    writer.write(&mut vec![data(10)]).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(azure.seal(id, &extent.backend, extent.length).await.unwrap(), WHOLE);
    assert!(read_all(&azure, id, WHOLE).await.starts_with(&all));
    // Both at once: one of the two lists counts, and both have the bytes.
    for _ in 0..5 {
        let (id, writer, extent, all) = left(&azure).await;
        let (finished, sealed) = tokio::join!(writer.finish(), azure.seal(id, &extent.backend, extent.length));
        assert_eq!((finished.unwrap().length, sealed.unwrap()), (extent.length, WHOLE.to_owned()));
        assert!(read_all(&azure, id, WHOLE).await == all);
    }
}

#[tokio::test]
async fn lost_bytes_are_never_sealed() {
    let (_front, azure) = fronted();
    // Everything is gone.
    let (id, _writer, extent, _) = left(&azure).await;
    azure.delete(id, "").await.unwrap();
    let lost = azure.seal(id, &extent.backend, extent.length).await;
    assert!(matches!(lost, Err(BlobError::Truncated { found: 0, .. })), "{lost:?}");
    assert_eq!(azure.length(id, &extent.backend).await.unwrap(), None);
    // A block is gone, as if the service had lost it: sent is only what is around it.
    let (id, key) = (segment(), |id| azure.key(id, 0));
    for (offset, length) in [(0, 5), (5, 5), (15, 5)] {
        let content = super::Content::of(vec![data(5)], None);
        azure.put_block(&key(id), Block { offset, length }, &content).await.unwrap();
    }
    assert_eq!(azure.length(id, "blocks1").await.unwrap(), Some(10));
    let lost = azure.seal(id, "blocks1", 20).await;
    assert!(matches!(lost, Err(BlobError::Truncated { found: 10, expected: 20, .. })), "{lost:?}");
    assert!(azure.head(&key(id)).await.unwrap().is_none(), "nothing was made of the rest");
    // One that is not as long as its name says is none.
    let id = segment();
    let content = super::Content::of(vec![data(4)], None);
    azure.put_block(&key(id), Block { offset: 0, length: 5 }, &content).await.unwrap();
    let lost = azure.seal(id, "blocks1", 5).await;
    assert!(matches!(lost, Err(BlobError::Truncated { found: 0, .. })), "{lost:?}");
    assert!(azure.seal(id, "what is this", 5).await.is_err());
}

#[tokio::test]
async fn deleting_takes_blobs_and_blocks_and_may_be_repeated() {
    let (front, azure) = fronted();
    let (id, mut writer, extent, _) = left(&azure).await;
    let (other, _other_writer, ..) = left(&azure).await;
    front.harm("DeleteBlob", 1, Harm::CutAfter);
    front.harm("PutBlockList", 1, Harm::CutAfter);
    for _ in 0..2 {
        azure.delete(id, &extent.backend).await.unwrap();
        assert_eq!(names(&azure).await, [azure.key(other, 0)]);
    }
    assert_eq!(azure.blocks(&azure.key(id, 0)).await.unwrap(), None);
    // What its writer still sends is found by the next one.
    writer.write(&mut vec![data(BLOCK)]).await.unwrap();
    writer.persist().await.unwrap();
    assert_eq!(names(&azure).await.len(), 2);
    writer.discard().await;
    azure.delete(id, "").await.unwrap();
    assert_eq!(names(&azure).await, [azure.key(other, 0)]);
}

#[tokio::test]
async fn a_listing_shows_each_segment_once_and_removes_what_none_needs() {
    let azurite = Azurite::shared();
    let front = Front::of_azure(azurite.endpoint());
    let documented = format!("http://{}/{}", front.address(), azurite::ACCOUNT);
    for endpoint in [azurite.endpoint(), &documented] {
        listing(&azurite.url_at(endpoint, &random_uuid().to_string())).await;
    }
}

/// The service may tell when blocks came that belong to no blob.
async fn listing(url: &str) {
    let at = container(url);
    let clock = Clock::system();
    let azure = Azure::new(&at, HashMap::new(), clock.clone(), Some(MEMORY), (STALL, 1)).unwrap();
    let (mut wanted, mut left) = (Vec::new(), Vec::new());
    // More than a page, some of several blobs, some of blocks alone.
    for n in 0..60 {
        let id = segment();
        if n % 20 == 0 {
            written(&azure, id, &data(2 * BLOCK + 5)).await.finish().await.unwrap();
        } else if n % 3 == 0 {
            written(&azure, id, &data(5)).await.persist().await.unwrap();
            left.push(id);
            continue;
        } else {
            written(&azure, id, &data(5)).await.finish().await.unwrap();
        }
        wanted.push(id);
    }
    let strange =
        ["readme.txt", &format!("probe-{}", random_uuid()), "probe-1", "owner", "a-b-c", &format!("{}.x", wanted[0])];
    for name in strange {
        let content = super::Content::of(vec![data(5)], None);
        azure.put_blob(&format!("{}{name}", azure.shared.prefix), &content).await.unwrap();
    }
    wanted.sort();
    let all = listed(&azure).await;
    let mut segments: Vec<_> = all.iter().map(|l| l.segment).collect();
    segments.sort();
    assert!(segments == wanted);
    assert_eq!(all.iter().map(|l| l.length).sum::<u64>(), 3 * (2 * BLOCK_BYTES + 5) + 38 * 5);
    let is_old = |l: &&Listed| l.written <= clock.now().minus(limits::ORPHAN_GRACE);
    assert_eq!((all.iter().filter(is_old).count(), names(&azure).await.len()), (0, 72), "nothing is old");
    clock.advance(Duration::from_secs(25 * 3600));
    let all = listed(&azure).await;
    assert_eq!(all.iter().filter(is_old).count(), 41);
    assert_eq!(names(&azure).await.len(), 71, "what a check left is gone");
    // Blocks alone may be of somebody who still sends: what no row names of them is left to the service, which drops it.
    for id in all.into_iter().map(|l| l.segment).chain(left) {
        azure.delete(id, "").await.unwrap();
    }
    assert_eq!(names(&azure).await.len(), 5, "what is nobody's stays");
}

#[tokio::test]
async fn a_listing_that_goes_round_in_circles_ends() {
    let (address, runtime) = harm::serve(|_| async {
        let page = "<EnumerationResults><Blobs/><NextMarker>again</NextMarker></EnumerationResults>";
        Ok(http::Response::new(harm::text(page)))
    });
    let azure = client(&Azurite::shared().url_at(&format!("http://{address}/x"), "p"), STALL, BLOCKS_MAX);
    let listed = tokio::time::timeout(Duration::from_secs(30), azure.list(&mut |_| {})).await;
    assert!(matches!(listed, Ok(Err(BlobError::Io(_)))), "{listed:?}");
    runtime.shutdown_background();
}

#[tokio::test]
async fn a_container_is_checked_before_it_is_used_and_belongs_to_one() {
    let (front, azure) = fronted();
    let direct = Wanted { create_only: true, versions: false };
    azure.check(Wanted::default()).await.unwrap();
    azure.check(direct).await.unwrap();
    assert_eq!(names(&azure).await, Vec::<String>::new(), "nothing is left");
    assert!(!azure.claim("first", false).await.unwrap(), "nobody's, and not to be taken");
    assert_eq!(names(&azure).await, Vec::<String>::new());
    for may_be_taken in [true, true, false] {
        assert!(azure.claim("first", may_be_taken).await.unwrap());
    }
    let refused = azure.claim("other", true).await.unwrap_err().to_string();
    assert!(refused.contains("another installation"), "{refused}");
    // A location that works for nobody is noticed, and not only one that works too often.
    front.harm("PutBlob", 1, Harm::Delay(0));
    front.harm("PutBlob", u32::MAX, Harm::Refuse(403, "AuthorizationFailure"));
    let refused = azure.check(direct).await.unwrap_err().to_string();
    assert!(refused.contains("AuthorizationFailure") && refused.contains("`direct`"), "{refused}");
    front.spare();
    for (what, harm, said) in [
        ("ListBlobs", Harm::Refuse(403, "AuthorizationPermissionMismatch"), "permission"),
        ("GetBlockList", Harm::Refuse(403, "AuthorizationFailure"), "GetBlockList"),
        ("PutBlock", Harm::Refuse(404, "ContainerNotFound"), "ContainerNotFound"),
        ("PutBlock", Harm::Refuse(403, "AccountIsDisabled"), "AccountIsDisabled"),
    ] {
        front.harm(what, 2, harm);
        let refused = azure.check(Wanted::default()).await.unwrap_err().to_string();
        assert!(refused.contains(said) && refused.contains(what), "{refused}");
        front.spare();
    }
    let refused = azure.check(Wanted { versions: true, ..direct }).await.unwrap_err().to_string();
    assert!(refused.contains("`direct`"), "{refused}");
    front.harm("GetBlobProperties", 1, Harm::Says("x-ms-resource-type", "file"));
    let refused = azure.check(Wanted::default()).await.unwrap_err().to_string();
    assert!(refused.contains("hierarchical namespace"), "{refused}");
    front.harm("PutBlob", 2, Harm::Refuse(201, ""));
    let refused = azure.check(direct).await.unwrap_err().to_string();
    assert!(refused.contains("If-None-Match"), "{refused}");
    // Two that come at once: one of them has it.
    let (other, own) = (of(Azurite::shared()), fronted().1);
    drop(own);
    let (a, b) = tokio::join!(other.claim("a", true), other.claim("b", true));
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
}

#[tokio::test]
async fn a_clients_location_leads_to_one_blob() {
    let azure = of(Azurite::shared());
    let key = azure.key(segment(), 0);
    let url = azure.shared.caller.protocol.public(&key, 600).await.unwrap();
    let place = format!("{}/{}/{key}?", Azurite::shared().endpoint(), azurite::CONTAINER);
    assert!(url.starts_with(&place) && url.contains("&sp=c&sr=b&"), "{url}");
    // A SAS token signs nothing, and says so.
    azure.shared.caller.protocol.use_for_test(Credential::with_sas_token("sv=1&sig=x")).await;
    let refused = azure.shared.caller.protocol.public(&key, 600).await.unwrap_err().what;
    assert!(refused.contains("SAS token signs nothing") && !refused.contains("sig="), "{refused}");
}
