//! The verbs over keepers that are no local disk: bytes that can't be appended to, and bytes that fail.

mod direct;
mod parts;
mod relocate;
mod resumable;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;

use super::access::Grant;
use super::receive::BodyError;
use super::{check, open, read, receive, register, sweep};
use crate::blob::bucket::{Harm, Store};
use crate::blob::{BlobStore, Faulty, Form, Memory, Operation, in_bucket};
use crate::clock::{Clock, random_uuid};
use crate::engine::{DirectWire, Engine, Policy};
use crate::meta::sql::SqlMeta;
use crate::meta::{MetaStore, Quota, TenantInfo};
use crate::model::file::Declared;
use crate::model::ids::TenantId;
use crate::model::refusal::Refusal;
use crate::search::SqliteSearch;
use crate::ticket::Tickets;

struct Place {
    engine: Engine,
    memory: Memory,
    faults: Faulty,
    grant: Grant,
    _directory: tempfile::TempDir,
}

impl Place {
    async fn new(form: Form) -> Self {
        let clock = Clock::system();
        let memory = Memory::new(form, clock.clone());
        Self::over(Arc::new(memory.clone()), memory, clock).await
    }

    /// Over a bucket, and with an empty memory.
    async fn in_bucket(store: &Store) -> Self {
        let (clock, prefix) = (Clock::system(), random_uuid().to_string());
        Self::over(Arc::new(in_bucket(store, &prefix)), Memory::new(Form::Parts, clock.clone()), clock).await
    }

    async fn over(blobs: Arc<dyn BlobStore>, memory: Memory, clock: Clock) -> Self {
        Self::going(blobs, memory, clock, Vec::new()).await
    }

    /// Where clients of some wires send to the store themselves.
    async fn going(blobs: Arc<dyn BlobStore>, memory: Memory, clock: Clock, direct: Vec<DirectWire>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let faults = Faulty::new(blobs);
        let meta = SqlMeta::open(directory.path()).unwrap();
        let tenant = TenantId::from("acme");
        let info = TenantInfo::new(tenant.clone(), "auto", clock.now());
        meta.create_tenant(info).await.unwrap();
        let engine = Engine::new(
            Arc::new(meta),
            Arc::new(faults.clone()),
            Arc::new(SqliteSearch::open(directory.path()).unwrap()),
            clock,
            Tickets::new(b"secret"),
            Policy { direct, ..Policy::default() },
        );
        Self { engine, memory, faults, grant: Grant::internal(tenant), _directory: directory }
    }

    async fn open(&self) -> open::Opened {
        let ask = open::Single {
            wire: "w",
            base: "http://h",
            headers: &[],
            max_bytes: 64 << 20,
            life: Duration::from_secs(3600),
            held: Duration::from_secs(3600),
            file: None,
        };
        open::single(&self.engine, &self.grant, ask).await.unwrap()
    }

    /// Sends `chunks` as the body of a PUT to an opened location.
    async fn put(
        &self,
        opened: &open::Opened,
        chunks: Vec<Result<Bytes, BodyError>>,
        declared: Declared,
    ) -> Result<receive::Receipt, Refusal> {
        let session = opened.url.split(['/', '?']).nth(6).unwrap().parse().unwrap();
        let admitted = receive::admit(&self.engine, self.grant.tenant(), session, None).await?;
        receive::single(&self.engine, admitted, pin!(futures_util::stream::iter(chunks)), None, declared).await
    }

    async fn content(&self, opened: &open::Opened) -> Vec<u8> {
        let name = opened.file.to_string();
        let container = register::container(&self.engine, &self.grant, "file", &name).await.unwrap();
        let version = container.version.unwrap();
        let reader = read::version(&self.engine, self.grant.tenant(), version.id).await.unwrap();
        let chunks: Vec<_> = reader.stream(0..version.size).collect().await;
        chunks.into_iter().flat_map(|chunk| chunk.unwrap().to_vec()).collect()
    }

    async fn sound(&self) {
        assert_eq!(check::everything(&self.engine, true).await.unwrap().broken, Vec::<String>::new());
    }
}

fn chunks(bytes: &[u8]) -> Vec<Result<Bytes, BodyError>> {
    bytes.chunks(70_001).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect()
}

#[tokio::test]
async fn every_verb_works_where_bytes_can_not_be_appended_to() {
    for form in [Form::Disk, Form::Parts] {
        let place = Place::new(form).await;
        let opened = place.open().await;
        let (first, second) = (vec![1; 12_000_000], vec![2; 300_000]);
        place.put(&opened, chunks(&first), Declared::default()).await.unwrap();
        assert!(place.content(&opened).await == first);
        // The last to commit wins, and what it replaced goes.
        place.put(&opened, chunks(&second), Declared::default()).await.unwrap();
        assert!(place.content(&opened).await == second);
        assert_eq!(sweep::unlink(&place.engine, place.engine.clock.now()).await.unwrap(), 1);
        assert_eq!(place.memory.count(), 1);
        // The same bytes again are the same version, and their segment goes at once.
        place.put(&opened, chunks(&second), Declared::default()).await.unwrap();
        assert_eq!(place.memory.count(), 1);
        place.sound().await;

        // Unused, it goes when its time is over and both clocks have agreed for an hour.
        let mut sweeper = sweep::Sweeper::default();
        sweeper.sweep(&place.engine).await.unwrap();
        place.engine.clock.advance(Duration::from_secs(3700));
        sweeper.sweep(&place.engine).await.unwrap();
        assert_eq!(place.memory.count(), 0);
        place.sound().await;
    }
}

#[tokio::test]
async fn a_clock_that_jumps_deletes_nothing() {
    let place = Place::new(Form::Disk).await;
    let opened = place.open().await;
    place.put(&opened, chunks(b"kept"), Declared::default()).await.unwrap();
    let mut sweeper = sweep::Sweeper::default();
    sweeper.sweep(&place.engine).await.unwrap();
    place.engine.clock.jump_wall(365 * 24 * 3600 * 1000);
    for _ in 0..3 {
        sweeper.sweep(&place.engine).await.unwrap();
        place.engine.clock.advance(Duration::from_secs(600));
    }
    assert_eq!(place.memory.count(), 1, "half an hour after the jump");
    let refused = place.put(&opened, chunks(b"late"), Declared::default()).await;
    assert!(matches!(refused, Err(Refusal::Ticket(ticket)) if ticket.rule == "expired"), "expiry itself is at once");
}

#[tokio::test]
async fn what_fails_leaves_nothing_and_the_next_try_works() {
    let place = Place::new(Form::Parts).await;
    let opened = place.open().await;
    let body = vec![7; 600_000];
    for (operation, kind, expected) in [
        (Operation::Create, io::ErrorKind::StorageFull, Refusal::OutOfSpace),
        (Operation::Write, io::ErrorKind::StorageFull, Refusal::OutOfSpace),
        (Operation::Write, io::ErrorKind::Other, Refusal::Unavailable),
        (Operation::Sync, io::ErrorKind::Other, Refusal::Unavailable),
    ] {
        place.faults.fail_next(operation, kind);
        assert_eq!(place.put(&opened, chunks(&body), Declared::default()).await, Err(expected), "{operation:?}");
        let name = opened.file.to_string();
        assert!(register::container(&place.engine, &place.grant, "file", &name).await.is_err(), "nothing is visible");
    }
    let mut cut = chunks(&body);
    cut.push(Err(BodyError::Cut));
    assert!(matches!(place.put(&opened, cut, Declared::default()).await, Err(Refusal::Incomplete { .. })));
    let declared = Declared { md5: Some([0; 16]), ..Declared::default() };
    assert!(matches!(place.put(&opened, chunks(&body), declared).await, Err(Refusal::DigestMismatch { .. })));
    place.put(&opened, chunks(&body), Declared::default()).await.unwrap();
    assert!(place.content(&opened).await == body);
    place.faults.fail_next(Operation::Read, io::ErrorKind::Other);
    let container = register::container(&place.engine, &place.grant, "file", &opened.file.to_string()).await.unwrap();
    let reader = read::VersionReader::open(&place.engine, &container.version.unwrap()).await.unwrap();
    let read: Vec<_> = reader.stream(0..600_000).collect().await;
    assert!(read.iter().any(Result::is_err), "a read that fails never looks complete");
    place.sound().await;
}

#[tokio::test]
async fn a_push_is_told_that_its_container_got_another_content() {
    let place = Place::new(Form::Disk).await;
    let opened = place.open().await;
    place.put(&opened, vec![Ok(Bytes::from_static(b"first"))], Declared::default()).await.unwrap();
    let name = opened.file.to_string();
    let seen = register::container(&place.engine, &place.grant, "fileId", &name).await.unwrap();
    place.put(&opened, vec![Ok(Bytes::from_static(b"second"))], Declared::default()).await.unwrap();
    let provider = register::Target::Provider("p".into());
    let ask = |seen| register::Ask {
        used_up: vec![seen],
        ..register::Ask::new(provider.clone(), crate::model::source::PushKind::Identities)
    };
    match register::accept(&place.engine, &place.grant, ask(seen)).await {
        Err(Refusal::Invalid { name: parameter, reason }) => {
            assert_eq!(parameter, "fileId");
            assert!(reason.contains(&name) && reason.contains("another content"), "{reason}");
        }
        other => panic!("taken: {other:?}"),
    }
    let again = register::container(&place.engine, &place.grant, "fileId", &name).await.unwrap();
    register::accept(&place.engine, &place.grant, ask(again)).await.unwrap();
}

#[tokio::test]
async fn of_two_bodies_that_are_to_be_the_first_one_is() {
    let place = Place::new(Form::Disk).await;
    let opened = place.open().await;
    let first = async |bytes: &'static [u8]| {
        let session = opened.session;
        let admitted = receive::admit(&place.engine, place.grant.tenant(), session, None).await?;
        let body = futures_util::stream::iter([Ok(Bytes::from_static(bytes))]);
        receive::single(&place.engine, admitted.only_new("If-None-Match")?, pin!(body), None, Declared::default()).await
    };
    let both = futures_util::future::join(first(b"one"), first(b"two"));
    let refused = Refusal::ConditionFailed { header: "If-None-Match" };
    match both.await {
        (Ok(_), Err(other)) | (Err(other), Ok(_)) => assert_eq!(other, refused),
        other => panic!("{other:?}"),
    }
    let content = place.content(&opened).await;
    assert!(content == b"one" || content == b"two");
    // What was refused left no bytes, and without the condition a body replaces another.
    place.put(&opened, vec![Ok(Bytes::from_static(b"three"))], Declared::default()).await.unwrap();
    assert_eq!(place.content(&opened).await, b"three");
}
