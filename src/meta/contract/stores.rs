//! Stores and their files.

use super::*;
use crate::model::ids::{StoreFileId, StoreId};
use crate::model::session::Declaration;
use crate::model::store::{LogLevel, ProcessingState, Step, Store};

async fn store_named(case: &Case, name: &str) -> Store {
    let new = NewStore {
        id: StoreId(random_uuid()),
        tenant: tenant(),
        name: name.into(),
        description: None,
        properties: Map::new(),
        created_by: None,
        now: case.now,
    };
    let made = case.store.create_store(new).await.unwrap();
    assert_eq!(case.store.store(&tenant(), made.id).await.unwrap(), Some(made.clone()));
    made
}

fn named(name: &str, store: Option<&Store>) -> Option<Declaration> {
    Some(Declaration {
        name: name.into(),
        mime_type: "text/plain".into(),
        store: store.map(|store| store.id),
        store_path: store.map(|_| "a/b".into()),
        ..Declaration::default()
    })
}

/// A committed file; `registers` as its session says.
async fn uploaded(case: &Case, name: &str, registers: bool, store: Option<&Store>) -> (FileId, VersionId) {
    let draft = case.draft();
    // A file and its first upload share their id.
    let session = Session { file: FileId(draft.id.0), registers, declaration: named(name, store), ..draft };
    assert_eq!(case.store.open_sessions(vec![session.clone()]).await.unwrap(), None);
    let version = case.version(&session, 1);
    assert!(matches!(case.store.commit(version.clone()).await.unwrap(), Committed::New(_)));
    (session.file, version.version)
}

fn link(case: &Case, store: &Store, file: FileId) -> LinkFile {
    LinkFile {
        store: store.row,
        tenant: tenant(),
        file,
        id: StoreFileId(random_uuid()),
        path: None,
        registered_only: false,
        now: case.now,
        keep_replaced: ZERO,
    }
}

async fn linked(case: &Case, store: &Store, name: &str) -> StoreFile {
    let (file, _) = uploaded(case, name, false, Some(store)).await;
    match case.store.link_file(link(case, store, file)).await.unwrap() {
        Linked::New(linked) => linked,
        other => panic!("not linked: {other:?}"),
    }
}

async fn lease(case: &Case) -> Vec<LeasedJob> {
    case.store.lease_jobs(case.now, LEASE, 100).await.unwrap()
}

fn completed(case: &Case, chunks: u64) -> Processed {
    Processed {
        state: ProcessingState::Completed,
        chunks: Some(chunks),
        problem: None,
        due: None,
        log: Vec::new(),
        now: case.now,
    }
}

async fn a_linked_file_is_the_tenant_s_and_its_processing_is_due(case: Case) {
    let store = store_named(&case, "Notes").await;
    let (file, version) = uploaded(&case, "Tide.TXT", false, Some(&store)).await;
    let strict = LinkFile { registered_only: true, ..link(&case, &store, file) };
    assert_eq!(case.store.link_file(strict.clone()).await.unwrap(), Linked::FileGone, "it is not registered yet");
    let unknown = LinkFile { file: FileId(random_uuid()), ..strict.clone() };
    assert_eq!(case.store.link_file(unknown).await.unwrap(), Linked::FileGone);
    let other = LinkFile { tenant: "other".into(), ..strict };
    assert_eq!(case.store.link_file(other).await.unwrap(), Linked::StoreGone, "another tenant's");
    let ask = LinkFile { path: Some("x/y".into()), ..link(&case, &store, file) };
    let Linked::New(made) = case.store.link_file(ask.clone()).await.unwrap() else { panic!("linked") };
    assert_eq!((made.file, made.version, made.path.as_deref()), (file, version, Some("x/y")));
    assert_eq!((made.state, made.step, made.size), (ProcessingState::Pending, Step::Queued, 10));
    let again = case.store.link_file(ask).await.unwrap();
    assert_eq!(again, Linked::Before(made.clone()));
    assert!(case.store.file_record(&tenant(), file).await.unwrap().unwrap().registered.is_some());
    let jobs = lease(&case).await;
    assert_eq!(
        jobs.iter().map(|j| (j.kind, j.subject, j.push)).collect::<Vec<_>>(),
        [(JobKind::Process, made.row, -store.row)]
    );
    let held = case.store.store(&tenant(), store.id).await.unwrap().unwrap();
    assert_eq!((held.files, held.bytes), (1, 10));
    assert_eq!(
        case.store.usage(&tenant()).await.unwrap().stores,
        [StoreUsage { id: store.id, name: "Notes".into(), files: 1, bytes: 10 }]
    );
    // Neither of the two that hold the version lets go of it alone.
    assert_eq!(case.store.expire_files(case.later(3 * 3600), 10).await.unwrap().files, 0);
    case.sound().await;
}

async fn a_commit_that_registers_takes_the_file_into_its_store(case: Case) {
    let store = store_named(&case, "s").await;
    let (file, version) = uploaded(&case, "a.txt", true, Some(&store)).await;
    let held = case.store.store_file(store.row, file).await.unwrap().expect("it is in the store");
    assert_eq!((held.version, held.path.as_deref()), (version, Some("a/b")));
    assert_eq!(lease(&case).await.len(), 1);
    let gone = store_named(&case, "gone").await;
    assert!(case.store.delete_store(gone.row, case.now).await.unwrap());
    let (file, _) = uploaded(&case, "b.txt", true, Some(&gone)).await;
    assert_eq!(case.store.store_file(gone.row, file).await.unwrap(), None);
    assert!(case.store.file_record(&tenant(), file).await.unwrap().unwrap().registered.is_some());
    case.sound().await;
}

async fn a_store_keeps_its_version_until_it_is_told_of_a_newer_one(case: Case) {
    let store = store_named(&case, "s").await;
    let (file, first) = uploaded(&case, "a.txt", true, Some(&store)).await;
    let next = Session { file, registers: true, declaration: named("b.txt", None), ..case.draft() };
    case.store.open_sessions(vec![next.clone()]).await.unwrap();
    let version = case.version(&next, 2);
    case.store.commit(version.clone()).await.unwrap();
    let held = case.store.store_file(store.row, file).await.unwrap().unwrap();
    assert_eq!((held.version, held.name.as_str()), (first, "a.txt"));
    case.sound().await;
    let Linked::New(moved) = case.store.link_file(link(&case, &store, file)).await.unwrap() else { panic!("moved") };
    assert_eq!((moved.row, moved.version, moved.name.as_str()), (held.row, version.version, "b.txt"));
    assert_eq!(moved.path.as_deref(), Some("a/b"), "it keeps its place");
    assert_eq!(case.store.version(&tenant(), first).await.unwrap(), None, "nobody holds it");
    assert_eq!(lease(&case).await.len(), 1);
    case.sound().await;
}

async fn what_leaves_a_store_leaves_the_index_and_stays_the_tenant_s(case: Case) {
    let store = store_named(&case, "s").await;
    let one = linked(&case, &store, "one").await;
    let two = linked(&case, &store, "two").await;
    let unknown = FileId(random_uuid());
    assert_eq!(case.store.unlink_files(store.row, vec![one.file, unknown], case.now, ZERO).await.unwrap(), 1);
    assert_eq!(case.store.store_file(store.row, one.file).await.unwrap(), None);
    let jobs = lease(&case).await;
    let kinds: Vec<_> = jobs.iter().map(|j| (j.kind, j.subject)).collect();
    assert!(kinds.contains(&(JobKind::Forget, one.row)) && kinds.contains(&(JobKind::Process, two.row)), "{kinds:?}");
    assert_eq!(kinds.len(), 2);
    case.sound().await;
    let deleted = async |id, force| case.store.delete_file(&tenant(), id, force, case.now, ZERO).await.unwrap();
    assert_eq!(deleted(one.file, false).await, FileDeleted::Done, "no store holds it");
    assert_eq!(deleted(two.file, false).await, FileDeleted::Held(1));
    case.sound().await;
    assert_eq!(deleted(two.file, true).await, FileDeleted::Done);
    assert_eq!(case.store.store_file(store.row, two.file).await.unwrap(), None);
    assert_eq!(case.store.version(&tenant(), two.version).await.unwrap(), None);
    case.sound().await;
}

async fn a_deleted_store_is_gone_at_once_and_emptied_by_a_job(case: Case) {
    let store = store_named(&case, "s").await;
    for n in 0..5 {
        linked(&case, &store, &n.to_string()).await;
    }
    let first = linked(&case, &store, "x").await;
    assert!(case.store.delete_store(store.row, case.now).await.unwrap());
    assert!(!case.store.delete_store(store.row, case.now).await.unwrap());
    assert_eq!(case.store.store(&tenant(), store.id).await.unwrap(), None);
    assert_eq!(case.store.store_file(store.row, first.file).await.unwrap(), None);
    let deleted = case.store.delete_file(&tenant(), first.file, false, case.now, ZERO).await.unwrap();
    assert_eq!(deleted, FileDeleted::Done, "a deleted store holds nothing back");
    case.sound().await;
    assert!(case.store.empty_store(store.row, 3, case.now, ZERO).await.unwrap());
    case.sound().await;
    assert!(!case.store.empty_store(store.row, 3, case.now, ZERO).await.unwrap());
    let jobs = lease(&case).await;
    assert_eq!(jobs.iter().filter(|j| j.kind == JobKind::Forget).count(), 6);
    assert_eq!(jobs.len(), 6, "nothing of it is processed any more");
    assert!(case.store.usage(&tenant()).await.unwrap().stores.is_empty());
    case.sound().await;
}

async fn processing_is_recorded_by_its_holder_alone(case: Case) {
    let store = store_named(&case, "s").await;
    let file = linked(&case, &store, "a").await;
    let state = async || {
        let f = case.store.store_file(store.row, file.file).await.unwrap().unwrap();
        (f.state, f.step, f.chunks, f.problem)
    };
    let job = lease(&case).await.remove(0);
    let entry = |message: &str| LogEntry { at: case.now, level: LogLevel::Info, message: message.into() };
    let began = |step| Began { step, log: vec![entry(step_name(step))], now: case.now };
    assert!(case.store.begin_step(&job, began(Step::Detecting)).await.unwrap());
    assert!(case.store.begin_step(&job, began(Step::Extracting)).await.unwrap());
    assert_eq!(state().await, (ProcessingState::Processing, Step::Extracting, 0, None));
    let unchanged = case.store.retry_file(store.row, file.file, case.now).await.unwrap().unwrap();
    assert_eq!(unchanged.state, ProcessingState::Processing, "it is under way");
    let later =
        Processed { state: ProcessingState::Pending, chunks: None, due: Some(case.later(5)), ..completed(&case, 0) };
    case.store.end_processing(&job, later).await.unwrap();
    assert_eq!(state().await, (ProcessingState::Pending, Step::Queued, 0, None));
    case.sound().await;
    assert!(lease(&case).await.is_empty());
    assert!(!case.store.begin_step(&job, began(Step::Chunking)).await.unwrap(), "its lease is over");
    let job = case.store.lease_jobs(case.later(5), LEASE, 10).await.unwrap().remove(0);
    assert_eq!(job.attempts, 2);
    let failed = Processed { state: ProcessingState::Failed, problem: Some("why".into()), ..completed(&case, 0) };
    case.store.begin_step(&job, began(Step::Extracting)).await.unwrap();
    case.store.end_processing(&job, failed).await.unwrap();
    assert_eq!(state().await, (ProcessingState::Failed, Step::Extracting, 0, Some("why".into())));
    assert!(lease(&case).await.is_empty());
    let again = case.store.retry_file(store.row, file.file, case.now).await.unwrap().unwrap();
    assert_eq!((again.state, again.problem), (ProcessingState::Pending, None));
    let job = lease(&case).await.remove(0);
    assert_eq!(job.attempts, 1, "a new beginning");
    case.store.end_processing(&job, completed(&case, 7)).await.unwrap();
    assert_eq!(state().await, (ProcessingState::Completed, Step::Completed, 7, None));
    let log = case.store.store_file_log(file.row).await.unwrap();
    let messages: Vec<_> = log.iter().map(|entry| entry.message.as_str()).collect();
    assert_eq!(messages[1..4], ["detecting", "extracting", "extracting"]);
    for n in 0..300 {
        case.store.retry_file(store.row, file.file, case.now).await.unwrap();
        let job = lease(&case).await.remove(0);
        let noted = Processed { log: vec![entry(&n.to_string())], ..completed(&case, 7) };
        case.store.end_processing(&job, noted).await.unwrap();
    }
    let log = case.store.store_file_log(file.row).await.unwrap();
    assert_eq!((log.len(), log.last().unwrap().message.as_str()), (200, "299"));
    case.sound().await;
}

fn step_name(step: Step) -> &'static str {
    step.name()
}

async fn a_lost_index_makes_every_completed_file_due_again(case: Case) {
    let store = store_named(&case, "s").await;
    let done = linked(&case, &store, "done").await;
    let failed = linked(&case, &store, "failed").await;
    for job in lease(&case).await {
        let state = if job.subject == done.row { ProcessingState::Completed } else { ProcessingState::Failed };
        case.store.end_processing(&job, Processed { state, ..completed(&case, 1) }).await.unwrap();
    }
    let last = case.store.requeue_store_files(0, 1, case.now).await.unwrap();
    assert_eq!(last, Some(done.row));
    assert_eq!(case.store.requeue_store_files(done.row, 10, case.now).await.unwrap(), Some(failed.row));
    assert_eq!(case.store.requeue_store_files(failed.row, 10, case.now).await.unwrap(), None);
    let jobs = lease(&case).await;
    assert_eq!(jobs.iter().map(|j| j.subject).collect::<Vec<_>>(), [done.row]);
    case.store.release_leases().await.unwrap();
    assert_eq!(lease(&case).await.len(), 1, "a worker that died leaves it to the next");
    case.sound().await;
}

async fn pushes_and_stores_each_get_their_share_of_the_workers(case: Case) {
    let (large, small) = (store_named(&case, "large").await, store_named(&case, "small").await);
    for n in 0..40 {
        linked(&case, &large, &n.to_string()).await;
    }
    linked(&case, &small, "one").await;
    let many: Vec<_> = (0..40).map(|n| put(&format!("x://{n}"), "t")).collect();
    let push = case.apply(PushKind::Items, 1, &many).await;
    let jobs = case.store.lease_jobs(case.now, LEASE, 12).await.unwrap();
    let of = |push| jobs.iter().filter(|job| job.push == push).count();
    assert_eq!((of(push.row), of(-large.row), of(-small.row)), (4, 4, 1), "{jobs:?}");
    let few = case.store.lease_jobs(case.now, LEASE, 2).await.unwrap();
    assert!(few.iter().any(|job| job.push == push.row) && few.iter().any(|job| job.push < 0), "{few:?}");
    while !case.store.lease_jobs(case.now, LEASE, 7).await.unwrap().is_empty() {}
    case.sound().await;
}

async fn stores_and_files_are_listed_by_every_filter(case: Case) {
    for (name, files) in [("Beta", 1), ("alpha", 2), ("ÄRGER", 0)] {
        let store = store_named(&case, name).await;
        for n in 0..files {
            linked(&case, &store, &format!("Überblick {n}.txt")).await;
        }
    }
    let listed = async |filter: StoreFilter| {
        let (stores, total) = case.store.stores(&tenant(), StoreFilter { limit: 2, ..filter }).await.unwrap();
        (stores.into_iter().map(|s| s.name).collect::<Vec<_>>(), total)
    };
    let none = StoreFilter::default;
    let is = |names: &[&str], total| (names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(), total);
    assert_eq!(listed(none()).await, is(&["ÄRGER", "alpha"], 3));
    assert_eq!(listed(StoreFilter { offset: 2, ..none() }).await, is(&["Beta"], 3));
    let by_name = StoreFilter { order: StoreOrder::Name, ascending: true, ..none() };
    assert_eq!(listed(by_name).await, is(&["alpha", "Beta"], 3));
    assert_eq!(listed(StoreFilter { order: StoreOrder::Bytes, ..none() }).await, is(&["alpha", "Beta"], 3));
    assert_eq!(listed(StoreFilter { search: Some("ärg".into()), ..none() }).await, is(&["ÄRGER"], 1));
    assert_eq!(listed(StoreFilter { active: Some(false), ..none() }).await, is(&[], 0));
    let (alpha, _) =
        case.store.stores(&tenant(), StoreFilter { search: Some("ALPHA".into()), limit: 1, ..none() }).await.unwrap();
    let mut alpha = Store { name: "renamed".into(), active: false, changed: case.later(1), ..alpha[0].clone() };
    alpha.properties.insert("labels".into(), json!(["one", "two"]));
    alpha.properties.insert("label".into(), json!("one"));
    assert!(case.store.update_store(&alpha).await.unwrap());
    let property = |key: &str, value: &str| StoreFilter { property: Some((key.into(), value.into())), ..none() };
    assert_eq!(listed(property("labels", "two")).await, is(&["renamed"], 1));
    assert_eq!(listed(property("label", "one")).await, is(&["renamed"], 1));
    assert_eq!(listed(property("label", "two")).await, is(&[], 0));
    assert_eq!(
        listed(StoreFilter { active: Some(false), search: Some("REN".into()), ..none() }).await,
        is(&["renamed"], 1)
    );
    assert!(case.store.stores(&"other".into(), none()).await.unwrap().0.is_empty());

    let files = async |filter: StoreFileFilter| {
        let (files, total) = case.store.store_files(alpha.row, StoreFileFilter { limit: 1, ..filter }).await.unwrap();
        (files.into_iter().map(|f| f.name).collect::<Vec<_>>(), total)
    };
    let none = StoreFileFilter::default;
    assert_eq!(files(none()).await, is(&["Überblick 1.txt"], 2));
    assert_eq!(files(StoreFileFilter { offset: 1, ..none() }).await, is(&["Überblick 0.txt"], 2));
    assert_eq!(files(StoreFileFilter { search: Some("BLICK 0".into()), ..none() }).await, is(&["Überblick 0.txt"], 1));
    assert_eq!(files(StoreFileFilter { search: Some("%".into()), ..none() }).await, is(&[], 0));
    assert_eq!(files(StoreFileFilter { state: Some(ProcessingState::Failed), ..none() }).await, is(&[], 0));
    case.sound().await;
}

on_every_store! {
    a_linked_file_is_the_tenant_s_and_its_processing_is_due;
    a_commit_that_registers_takes_the_file_into_its_store;
    a_store_keeps_its_version_until_it_is_told_of_a_newer_one;
    what_leaves_a_store_leaves_the_index_and_stays_the_tenant_s;
    a_deleted_store_is_gone_at_once_and_emptied_by_a_job;
    processing_is_recorded_by_its_holder_alone;
    a_lost_index_makes_every_completed_file_due_again;
    pushes_and_stores_each_get_their_share_of_the_workers;
    stores_and_files_are_listed_by_every_filter;
}
