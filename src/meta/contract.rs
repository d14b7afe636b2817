//! What every metadata store must do, run against every one. Each case starts with an empty store.

/// Runs each case on every store.
macro_rules! on_every_store {
    ($($name:ident;)*) => {
        mod on_sqlite {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name(super::Case::on_sqlite().await).await;
                }
            )*
        }

        mod on_postgres {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name(super::Case::on_postgres().await).await;
                }
            )*
        }
    };
}

mod direct;
mod entries;
mod identities;
mod items;
mod parts;
mod places;
mod replicas;
mod stores;

use std::any::Any;
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::sql::SqlMeta;
use super::*;
use crate::clock::{Clock, ordered_uuid, random_bytes, random_uuid};
use crate::model::access::{Right, Rights};
use crate::model::change::{
    Change, ContentDraft, Identity, IdentityKind, IdentityRelation, ItemDraft, Patch, PatchOperator,
};
use crate::model::file::{Digests, Piece};
use crate::model::issuer::Algorithm;
use crate::model::job::JobKind;
use crate::model::session::{Declaration, Progress, SessionState, Strategy};
use crate::model::source::{Content, ItemState, PushCounts};
use crate::postgres::testing::Fresh;
use crate::search::PostgresSearch;
use crate::sql::Target;

const LEASE: Duration = Duration::from_secs(60);
const ZERO: Duration = Duration::ZERO;

struct Case {
    store: Box<dyn MetaStore>,
    now: Timestamp,
    source: Source,
    /// What holds the data, gone after the store.
    _kept: Box<dyn Any + Send + Sync>,
}

/// An empty PostgreSQL database, as this version's server would have made it.
fn database() -> Fresh {
    Fresh::filled_by(filled)
}

/// Makes every table that a server makes.
pub(crate) fn filled(url: &str) {
    let target = Target::parse(url).unwrap();
    SqlMeta::connect(&target, [0; 16]).unwrap();
    PostgresSearch::connect(&target).unwrap();
}

/// One process's store in a database that it may share.
async fn connected(url: &str, holder: u8) -> SqlMeta {
    let target = Target::parse(url).unwrap();
    tokio::task::spawn_blocking(move || SqlMeta::connect(&target, [holder; 16]).unwrap()).await.unwrap()
}

fn tenant() -> TenantId {
    TenantId::from("acme")
}

impl Case {
    async fn on_sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = SqlMeta::open(directory.path()).unwrap();
        Self::new(Box::new(store), Box::new(directory)).await
    }

    async fn on_postgres() -> Self {
        let database = tokio::task::spawn_blocking(database).await.unwrap();
        let store = connected(&database.url(), 1).await;
        Self::new(Box::new(store), Box::new(database)).await
    }

    async fn new(store: Box<dyn MetaStore>, kept: Box<dyn Any + Send + Sync>) -> Self {
        let now = Clock::system().now();
        let info = TenantInfo::new(tenant(), "auto", now);
        assert!(store.create_tenant(info.clone()).await.unwrap());
        assert!(!store.create_tenant(info).await.unwrap(), "a tenant is created once");
        let source = store
            .create_source(NewSource {
                tenant: tenant(),
                id: "s".into(),
                name: "S".into(),
                stream_enabled: true,
                properties: Map::new(),
                now,
            })
            .await
            .unwrap()
            .unwrap();
        Self { store, now, source, _kept: kept }
    }

    fn later(&self, seconds: u64) -> Timestamp {
        self.now.plus(Duration::from_secs(seconds))
    }

    /// A session that is not opened yet.
    fn draft(&self) -> Session {
        Session {
            id: SessionId(ordered_uuid(self.now)),
            tenant: tenant(),
            file: FileId(ordered_uuid(self.now)),
            wire: "w".into(),
            strategy: Strategy::Single,
            state: SessionState::Open,
            epoch: 1,
            size: None,
            max_bytes: 100,
            versions_allowed: true,
            created: self.now,
            expires: self.later(3600),
            reserved: 0,
            registers: false,
            key: None,
            declaration: None,
            needs_file: false,
            parts: None,
            direct: None,
        }
    }

    async fn session(&self) -> Session {
        let session = self.draft();
        assert_eq!(self.store.open_sessions(vec![session.clone()]).await.unwrap(), None);
        session
    }

    fn version(&self, session: &Session, crc: u32) -> NewVersion {
        let digests = Digests { crc32c: Some(crc), crc64nvme: Some(u64::MAX), ..Digests::default() };
        let segment =
            SegmentId { session: session.id, epoch: session.epoch, attempt: u64::from_be_bytes(random_bytes()) };
        NewVersion {
            session: session.id,
            epoch: session.epoch,
            from: 0,
            version: VersionId(ordered_uuid(self.now)),
            pieces: vec![Piece { segment, length: 10, digests, backend: String::new() }],
            size: 10,
            digests,
            now: self.now,
            keep_replaced: ZERO,
            over: Over::Anything,
        }
    }

    /// A committed, unused container.
    async fn container(&self) -> (FileId, VersionId) {
        let session = self.session().await;
        let version = self.version(&session, 1);
        assert!(matches!(self.store.commit(version.clone()).await.unwrap(), Committed::New(_)));
        (session.file, version.version)
    }

    fn push(&self, kind: PushKind, ordering: u128, changes: &[Change]) -> NewPush {
        let mut lines = Vec::new();
        for change in changes {
            serde_json::to_writer(&mut lines, change).unwrap();
            lines.push(b'\n');
        }
        let counted = |which: fn(&Change) -> bool| u64::try_from(changes.iter().filter(|c| which(c)).count()).unwrap();
        NewPush {
            request: RequestId(random_uuid()),
            tenant: tenant(),
            source: Some(self.source.row),
            target: "s".into(),
            kind,
            ordering: Some(Ordering(ordering)),
            due: self.now,
            changes: Changes::Inline(lines),
            records: u64::try_from(changes.len()).unwrap(),
            puts: counted(|c| matches!(c, Change::Put(_) | Change::Merge(_))),
            changed: counted(|c| !matches!(c, Change::Delete { .. })),
            uses: Vec::new(),
            closes: None,
            now: self.now,
            keep_replaced: ZERO,
        }
    }

    /// Accepts a push and applies all of it, as the processor does.
    async fn apply(&self, kind: PushKind, ordering: u128, changes: &[Change]) -> Push {
        let push = self.push(kind, ordering, changes);
        let request = push.request;
        assert!(matches!(self.store.accept(push).await.unwrap(), Accepted::New(_)));
        let lease = self.store.lease_push(self.now, LEASE).await.unwrap().expect("a push is due");
        assert_eq!(lease.request, request);
        self.finish(&lease, changes).await;
        self.store.push(&tenant(), request).await.unwrap().unwrap()
    }

    async fn finish(&self, lease: &Lease, changes: &[Change]) {
        self.finish_by(lease, changes, usize::MAX).await;
    }

    /// The same, so many changes at once.
    async fn finish_by(&self, lease: &Lease, changes: &[Change], at_once: usize) {
        let resolved: Vec<_> = changes
            .iter()
            .enumerate()
            .map(|(n, change)| {
                let draft = match change {
                    Change::Put(draft) | Change::Merge(draft) => Some(draft),
                    _ => None,
                };
                let content = match draft.map(|d| &d.content) {
                    Some(ContentDraft::Text(text)) => ResolvedContent::Inline(text.clone().into_bytes()),
                    Some(ContentDraft::Version { version, size }) => {
                        ResolvedContent::Stored { version: *version, size: *size }
                    }
                    _ => ResolvedContent::None,
                };
                Resolved { change: change.clone(), content, problem: None, end: u64::try_from(n).unwrap() + 1 }
            })
            .collect();
        let mut rest = resolved.as_slice();
        while !rest.is_empty() {
            let some = rest[..rest.len().min(at_once)].to_vec();
            match self.store.apply(lease, some, self.now, ZERO).await.unwrap() {
                Applied::Upto(done) => rest = &rest[done..],
                other => panic!("not applied: {other:?}"),
            }
        }
        while self.store.apply_deletions(lease, self.now, ZERO).await.unwrap() {}
        self.store.finish_push(lease, None, self.now, ZERO).await.unwrap();
    }

    async fn extract_all(&self) {
        for job in self.store.lease_jobs(self.now, LEASE, 10_000).await.unwrap() {
            let extraction = match job.kind {
                JobKind::Extract => Some(Extraction { state: ItemState::Ready, problem: None }),
                _ => None,
            };
            self.store.finish_job(&job, extraction, self.now).await.unwrap();
        }
    }

    async fn ids(&self) -> Vec<String> {
        let filter = ItemFilter { limit: 10_000, ..ItemFilter::default() };
        let mut ids: Vec<_> =
            self.store.items(self.source.row, filter).await.unwrap().into_iter().map(|i| i.document_id).collect();
        ids.sort();
        ids
    }

    async fn sound(&self) {
        assert_eq!(self.store.broken_invariants(self.now).await.unwrap(), Vec::<String>::new());
    }
}

fn put(id: &str, text: &str) -> Change {
    Change::Put(Box::new(ItemDraft {
        document_id: id.into(),
        content: ContentDraft::Text(text.into()),
        ..ItemDraft::default()
    }))
}

fn delete(id: &str, children: bool) -> Change {
    Change::Delete { document_id: id.into(), children }
}

async fn an_issuer_is_trusted_until_it_is_removed(case: Case) {
    let issuer = |id: &str, url: &str| Issuer {
        tenant: id.into(),
        url: url.into(),
        audiences: vec!["a".into(), "b, \"c\"".into()],
        jwks_url: None,
        algorithms: vec![Algorithm::Rs256, Algorithm::EdDsa],
        leeway: Duration::from_secs(7),
        rights: [Right::Read].into_iter().collect(),
        claim: None,
        mapped: BTreeMap::new(),
        plain_http: false,
        created: case.now,
    };
    let first = issuer("acme", "https://one");
    let second = Issuer {
        jwks_url: Some("http://keys".into()),
        rights: Rights::default(),
        claim: Some("/a/b".into()),
        mapped: BTreeMap::from([("w=1".into(), Rights::all()), ("none".into(), Rights::default())]),
        plain_http: true,
        ..issuer("acme", "https://two")
    };
    assert!(!case.store.put_issuer(issuer("nobody", "https://one")).await.unwrap());
    assert!(case.store.create_tenant(TenantInfo::new("other".into(), "auto", case.now)).await.unwrap());
    let theirs = issuer("other", "https://one");
    for issuer in [&second, &first, &theirs] {
        assert!(case.store.put_issuer(issuer.clone()).await.unwrap());
    }
    assert_eq!(case.store.issuers(&tenant()).await.unwrap(), [first.clone(), second.clone()]);
    let trusting = async |url: &str, tenant: Option<TenantId>| case.store.trusting(url, tenant.as_ref()).await.unwrap();
    assert_eq!(trusting("https://one", None).await, [(first.clone(), false), (theirs.clone(), false)]);
    assert_eq!(trusting("https://one", Some("other".into())).await, [(theirs.clone(), false)]);
    assert_eq!(trusting("https://two", Some("other".into())).await, []);
    assert_eq!(trusting("https://ONE", None).await, []);
    case.store.pause_tenant(&tenant(), Some(case.now)).await.unwrap();
    assert_eq!(trusting("https://two", None).await, [(second.clone(), true)]);
    let changed = Issuer { url: first.url.clone(), ..second.clone() };
    assert!(case.store.put_issuer(changed.clone()).await.unwrap());
    assert_eq!(case.store.issuers(&tenant()).await.unwrap(), [changed, second.clone()]);
    assert!(case.store.remove_issuer(&tenant(), "https://one").await.unwrap());
    assert!(!case.store.remove_issuer(&tenant(), "https://one").await.unwrap());
    assert_eq!(trusting("https://one", None).await, [(theirs, false)]);
    assert_eq!(case.store.issuers(&tenant()).await.unwrap(), [second]);
    case.sound().await;
}

async fn a_key_holds_until_it_expires_or_is_revoked(case: Case) {
    let key = |expires| KeyInfo {
        id: KeyId(ordered_uuid(case.now)),
        tenant: tenant(),
        name: "k".into(),
        rights: [Right::Read].into_iter().collect(),
        created: case.now,
        expires,
        revoked: None,
    };
    let first = key(Some(case.later(10)));
    case.store.create_key(first.clone(), [1; 32], None).await.unwrap();
    let caller = case.store.caller([1; 32], case.now).await.unwrap().expect("it holds");
    assert_eq!((caller.tenant, caller.key), (tenant(), first.id));
    assert!(caller.rights.has(Right::Read) && !caller.rights.has(Right::Keys));
    assert!(case.store.caller([1; 32], case.later(10)).await.unwrap().is_none(), "expired");
    assert!(case.store.caller([2; 32], case.now).await.unwrap().is_none(), "unknown");
    assert!(!case.store.revoke_key(Some(&"other".into()), first.id, case.now).await.unwrap(), "another tenant's");
    assert!(case.store.revoke_key(Some(&tenant()), first.id, case.now).await.unwrap());
    assert!(case.store.caller([1; 32], case.now).await.unwrap().is_none(), "revoked");
    let once = |body| Some(Once { mark: "m".into(), body, since: Timestamp(0) });
    let second = key(None);
    assert_eq!(case.store.create_key(second.clone(), [3; 32], once([1; 32])).await.unwrap(), KeyCreated::New);
    assert_eq!(case.store.create_key(key(None), [4; 32], once([1; 32])).await.unwrap(), KeyCreated::Before(second));
    assert_eq!(case.store.create_key(key(None), [5; 32], once([2; 32])).await.unwrap(), KeyCreated::OtherBody);
    assert_eq!(case.store.keys(Some(&tenant())).await.unwrap().len(), 2);
}

async fn a_setting_that_is_there_is_not_made_again(case: Case) {
    assert_eq!(case.store.set_setting("x", b"1".to_vec(), true).await.unwrap(), b"1");
    assert_eq!(case.store.set_setting("x", b"2".to_vec(), true).await.unwrap(), b"1");
    assert_eq!(case.store.set_setting("x", b"2".to_vec(), false).await.unwrap(), b"2");
    assert_eq!(case.store.setting("x").await.unwrap(), Some(b"2".to_vec()));
}

async fn the_last_put_to_commit_wins_and_equal_bytes_repeat_the_answer(case: Case) {
    let session = case.session().await;
    let (first, second) = (case.version(&session, 1), case.version(&session, 2));
    assert!(matches!(case.store.commit(first.clone()).await.unwrap(), Committed::New(v) if v.id == first.version));
    let again = case.store.commit(case.version(&session, 1)).await.unwrap();
    assert!(matches!(again, Committed::Same(v) if v.id == first.version));
    assert!(matches!(case.store.commit(second.clone()).await.unwrap(), Committed::New(_)));
    let file = case.store.file(&tenant(), session.file).await.unwrap().unwrap();
    assert_eq!(file.version.unwrap().id, second.version);
    let due = case.store.due_tombstones(case.now, 10).await.unwrap();
    assert_eq!(due.iter().map(|t| t.segment).collect::<Vec<_>>(), [first.pieces[0].segment]);
    assert_eq!(case.store.file(&"other".into(), session.file).await.unwrap(), None, "another tenant's");
    case.sound().await;
}

async fn a_commit_is_fenced_by_epoch_expiry_and_use(case: Case) {
    let session = case.session().await;
    let stale = NewVersion { epoch: 0, ..case.version(&session, 1) };
    assert_eq!(case.store.commit(stale).await.unwrap(), Committed::Closed);
    let late = NewVersion { now: session.expires, ..case.version(&session, 1) };
    assert_eq!(case.store.commit(late).await.unwrap(), Committed::Closed);
    assert_eq!(case.store.expire_sessions(session.expires, 10).await.unwrap(), 1);
    assert_eq!(case.store.session(&tenant(), session.id).await.unwrap().unwrap().epoch, 2);
    assert_eq!(case.store.commit(case.version(&session, 1)).await.unwrap(), Committed::Closed);
    let aborted = case.session().await;
    case.store.end_session(aborted.id, SessionState::Aborted, case.now).await.unwrap();
    let state = case.store.session(&tenant(), aborted.id).await.unwrap().unwrap().state;
    assert_eq!(state, SessionState::Aborted);
    assert_eq!(case.store.commit(case.version(&aborted, 1)).await.unwrap(), Committed::Closed);

    let used = case.session().await;
    let version = case.version(&used, 1);
    case.store.commit(version.clone()).await.unwrap();
    let mut push = case.push(PushKind::Items, 1, &[]);
    push.uses = vec![FileUse { file: used.file, version: version.version, call: b"call".to_vec(), as_content: false }];
    let request = push.request;
    assert!(matches!(case.store.accept(push.clone()).await.unwrap(), Accepted::New(_)));
    assert!(matches!(case.store.commit(case.version(&used, 1)).await.unwrap(), Committed::SameAsUsed { size: 10, .. }));
    assert_eq!(case.store.commit(case.version(&used, 2)).await.unwrap(), Committed::Used);
    // The same call again is the same push; another call is refused.
    push.request = RequestId(random_uuid());
    assert_eq!(case.store.accept(push.clone()).await.unwrap(), Accepted::Before(request, Ordering(1)));
    push.uses[0].call = b"other".to_vec();
    assert_eq!(case.store.accept(push).await.unwrap(), Accepted::FileGone(used.file));
    case.sound().await;
}

async fn an_unused_file_goes_with_its_session_and_a_used_one_stays(case: Case) {
    let (unused, _) = case.container().await;
    let (file, version) = case.container().await;
    let draft = ItemDraft {
        document_id: "x://1".into(),
        content: ContentDraft::Version { version, size: 10 },
        ..ItemDraft::default()
    };
    let mut push = case.push(PushKind::Items, 1, &[Change::Put(Box::new(draft.clone()))]);
    push.uses = vec![FileUse { file, version, call: Vec::new(), as_content: true }];
    case.store.accept(push).await.unwrap();
    let lease = case.store.lease_push(case.now, LEASE).await.unwrap().unwrap();
    case.finish(&lease, &[Change::Put(Box::new(draft))]).await;
    case.sound().await;
    let swept = case.store.expire_files(case.later(3600), 100).await.unwrap();
    assert_eq!(swept.files, 2);
    assert!(case.store.file(&tenant(), unused).await.unwrap().is_none());
    assert!(case.store.version(&tenant(), version).await.unwrap().is_some(), "the item holds it");
    case.apply(PushKind::Items, 2, &[delete("x://1", false)]).await;
    assert!(case.store.version(&tenant(), version).await.unwrap().is_none(), "nobody holds it");
    assert_eq!(case.store.due_tombstones(case.later(7200), 10).await.unwrap().len(), 2);
    case.extract_all().await;
    case.sound().await;
}

async fn a_lower_ordering_id_changes_nothing(case: Case) {
    case.apply(PushKind::Items, 5, &[put("x://1", "five")]).await;
    let push = case.apply(PushKind::Items, 4, &[put("x://1", "four"), delete("x://1", false)]).await;
    assert_eq!((push.counts.older, push.counts.updated, push.counts.deleted), (2, 0, 0));
    let item = case.store.item(case.source.row, "x://1").await.unwrap().unwrap();
    assert_eq!(item.content, Content::Inline(b"five".to_vec()));
    let push = case.apply(PushKind::Items, 5, &[put("x://1", "equal")]).await;
    assert_eq!(push.counts.updated, 1);
    // A deleted item is not brought back by an older change.
    case.apply(PushKind::Items, 9, &[delete("x://1", false), delete("x://never", false)]).await;
    let push = case.apply(PushKind::Items, 8, &[put("x://1", "old"), put("x://never", "old")]).await;
    assert_eq!((push.counts.older, push.counts.added), (2, 0));
    assert!(case.ids().await.is_empty());
    case.extract_all().await;
    case.sound().await;
}

async fn deletions_take_children_by_prefix_and_a_load_what_it_did_not_name(case: Case) {
    let many: Vec<_> = (0..2500).map(|n| put(&format!("x://a/{n:04}"), "t")).collect();
    case.apply(PushKind::Items, 1, &many).await;
    case.apply(PushKind::Items, 1, &[put("x://a", "t"), put("x://b", "t"), put("x://A", "t")]).await;
    let push = case.apply(PushKind::Items, 2, &[delete("x://a", true)]).await;
    assert_eq!(push.counts.deleted, 2501);
    assert_eq!(case.ids().await, ["x://A", "x://b"]);
    let push = case.apply(PushKind::Load, 3, &[put("x://c", "t"), put("x://b", "t")]).await;
    assert_eq!((push.counts.added, push.counts.updated, push.counts.deleted), (1, 1, 1));
    assert_eq!(case.ids().await, ["x://b", "x://c"]);
    case.apply(PushKind::Items, 7, &[put("x://seven", "t")]).await;
    let push = case.apply(PushKind::OlderThan, 7, &[]).await;
    assert_eq!(push.counts.deleted, 2);
    assert_eq!(case.ids().await, ["x://seven"], "an equal ordering id is kept");
    let push = case.apply(PushKind::Items, 6, &[put("x://new", "t")]).await;
    assert_eq!(push.counts.older, 1, "below what was deleted nothing comes back");
    case.extract_all().await;
    case.sound().await;
}

async fn merges_and_patches_change_what_they_name(case: Case) {
    let draft = |metadata: Value| ItemDraft {
        document_id: "x://1".into(),
        metadata: metadata.as_object().unwrap().clone(),
        ..ItemDraft::default()
    };
    let first = ItemDraft {
        content: ContentDraft::Text("kept".into()),
        permissions: json!([1]),
        ..draft(json!({"a": 1, "tags": ["x"], "d": {"k": 1}}))
    };
    case.apply(PushKind::Items, 1, &[Change::Put(Box::new(first))]).await;
    case.apply(PushKind::Items, 2, &[Change::Merge(Box::new(draft(json!({"b": 2, "a": 3}))))]).await;
    let patch = |operator, field: &str, value: Value| {
        Change::Patch(Patch { document_id: "x://1".into(), operator, field: field.into(), value })
    };
    let push = case
        .apply(
            PushKind::Items,
            3,
            &[
                patch(PatchOperator::ArrayAppend, "Tags", json!(["y", "z"])),
                patch(PatchOperator::ArrayRemove, "tags", json!("x")),
                patch(PatchOperator::DictionaryPut, "d", json!({"l": 2})),
                patch(PatchOperator::DictionaryRemove, "d", json!(["k"])),
                patch(PatchOperator::Replace, "c", json!("new")),
                patch(PatchOperator::ArrayAppend, "a", json!(1)),
                Change::Patch(Patch {
                    document_id: "x://none".into(),
                    operator: PatchOperator::Replace,
                    field: "a".into(),
                    value: json!(1),
                }),
            ],
        )
        .await;
    assert_eq!((push.counts.updated, push.counts.failed), (5, 2));
    assert_eq!(push.failures.len(), 2);
    assert_eq!(push.failures[1].0, "x://none");
    let item = case.store.item(case.source.row, "x://1").await.unwrap().unwrap();
    assert_eq!(Value::Object(item.metadata), json!({"a": 3, "b": 2, "tags": ["y", "z"], "d": {"l": 2}, "c": "new"}));
    assert_eq!((item.content, item.permissions), (Content::Inline(b"kept".to_vec()), json!([1])));
    case.extract_all().await;
    case.sound().await;
}

async fn pushes_of_one_source_are_applied_in_their_order_one_at_a_time(case: Case) {
    let (first, second) = (case.push(PushKind::Items, 1, &[]), case.push(PushKind::Items, 1, &[]));
    case.store.accept(first.clone()).await.unwrap();
    case.store.accept(second.clone()).await.unwrap();
    let lease = case.store.lease_push(case.now, LEASE).await.unwrap().unwrap();
    assert_eq!(lease.request, first.request);
    assert!(case.store.lease_push(case.now, LEASE).await.unwrap().is_none(), "the lane is taken");
    // The holder is gone: another one goes on, and the first one's writes no longer count.
    let other = case.store.lease_push(case.later(61), LEASE).await.unwrap().unwrap();
    assert_eq!((other.request, other.attempts), (first.request, 2));
    assert_eq!(case.store.apply(&lease, Vec::new(), case.now, ZERO).await.unwrap(), Applied::LeaseLost);
    case.store.return_push(&other, case.now, Some("later".into())).await.unwrap();
    case.store.release_leases().await.unwrap();
    let again = case.store.lease_push(case.now, LEASE).await.unwrap().unwrap();
    case.store.finish_push(&again, None, case.now, ZERO).await.unwrap();
    assert_eq!(case.store.push(&tenant(), first.request).await.unwrap().unwrap().state, PushState::Done);
    let next = case.store.lease_push(case.now, LEASE).await.unwrap().unwrap();
    assert_eq!(next.request, second.request);
    case.store.finish_push(&next, Some("broken".into()), case.now, ZERO).await.unwrap();
    let failed = case.store.push(&tenant(), second.request).await.unwrap().unwrap();
    assert_eq!((failed.state, failed.problem.as_deref()), (PushState::Failed, Some("broken")));
}

async fn a_push_is_done_when_its_last_text_is(case: Case) {
    let push = case.apply(PushKind::Items, 1, &[put("x://1", "a"), put("x://2", "b")]).await;
    assert_eq!((push.state, push.counts.pending), (PushState::Working, 2));
    let jobs = case.store.lease_jobs(case.now, LEASE, 10).await.unwrap();
    assert_eq!(jobs.len(), 2);
    assert!(case.store.lease_jobs(case.now, LEASE, 10).await.unwrap().is_empty(), "leased");
    let failed = Extraction { state: ItemState::Failed, problem: Some("damaged".into()) };
    case.store.finish_job(&jobs[0], Some(failed), case.now).await.unwrap();
    // A newer push of the other item takes its text over: the older push has nothing to wait for.
    let newer = case.apply(PushKind::Items, 2, &[put("x://2", "c")]).await;
    let push = case.store.push(&tenant(), push.request).await.unwrap().unwrap();
    assert_eq!((push.state, push.counts.pending, push.counts.failed), (PushState::Done, 0, 1));
    assert_eq!(push.failures, [("x://1".to_owned(), "damaged".to_owned())]);
    let ready = Extraction { state: ItemState::Ready, problem: None };
    case.store.finish_job(&jobs[1], Some(ready.clone()), case.now).await.unwrap();
    let item = case.store.item(case.source.row, "x://2").await.unwrap().unwrap();
    assert_eq!(item.state, ItemState::Queued, "the old job says nothing about the new content");
    let job = case.store.lease_jobs(case.now, LEASE, 10).await.unwrap().remove(0);
    case.store.return_job(&job, case.later(5)).await.unwrap();
    assert!(case.store.lease_jobs(case.now, LEASE, 10).await.unwrap().is_empty(), "not before its time");
    let job = case.store.lease_jobs(case.later(5), LEASE, 10).await.unwrap().remove(0);
    assert_eq!(job.attempts, 2);
    case.store.finish_job(&job, Some(ready), case.now).await.unwrap();
    assert_eq!(case.store.push(&tenant(), newer.request).await.unwrap().unwrap().state, PushState::Done);
    assert_eq!(case.store.next_due().await.unwrap(), None);
    case.sound().await;
}

async fn items_are_listed_newest_first_by_every_filter(case: Case) {
    let item = |id: &str, metadata: Value| {
        Change::Put(Box::new(ItemDraft {
            document_id: id.into(),
            metadata: metadata.as_object().unwrap().clone(),
            ..ItemDraft::default()
        }))
    };
    let first = case
        .apply(
            PushKind::Items,
            1,
            &[item("x://a/1", json!({"n": 7, "Tags": ["u", "v"], "ok": true})), item("x://a/2", json!({"n": "7"}))],
        )
        .await;
    case.apply(PushKind::Items, 1, &[item("x://b%_/1", json!({"n": 8}))]).await;
    let listed = async |filter: ItemFilter| {
        let items = case.store.items(case.source.row, ItemFilter { limit: 10, ..filter }).await.unwrap();
        items.into_iter().map(|i| i.document_id).collect::<Vec<_>>()
    };
    let none = ItemFilter::default;
    assert_eq!(listed(none()).await, ["x://b%_/1", "x://a/2", "x://a/1"]);
    assert_eq!(listed(ItemFilter { prefix: Some("x://a/".into()), ..none() }).await, ["x://a/2", "x://a/1"]);
    assert_eq!(listed(ItemFilter { prefix: Some("x://b%".into()), ..none() }).await, ["x://b%_/1"]);
    let field = |name: &str, value: &str| ItemFilter { fields: vec![(name.into(), value.into())], ..none() };
    assert_eq!(listed(field("n", "7")).await, ["x://a/2", "x://a/1"]);
    assert_eq!(listed(field("tags", "v")).await, ["x://a/1"]);
    assert_eq!(listed(field("ok", "true")).await, ["x://a/1"]);
    assert!(listed(field("n", "' OR 1=1 --")).await.is_empty());
    assert_eq!(listed(ItemFilter { push: Some(first.row), ..none() }).await.len(), 2);
    assert!(listed(ItemFilter { state: Some(ItemState::Ready), ..none() }).await.is_empty());
    assert!(listed(ItemFilter { changed_after: Some(case.now), ..none() }).await.is_empty());
    let all = case.store.items(case.source.row, ItemFilter { limit: 1, ..none() }).await.unwrap();
    assert_eq!(listed(ItemFilter { before: Some(all[0].row), ..none() }).await, ["x://a/2", "x://a/1"]);
    assert_eq!(listed(ItemFilter { rows: Some(vec![all[0].row]), ..none() }).await, ["x://b%_/1"]);
}

async fn a_stream_is_closed_by_one_push(case: Case) {
    let stream = StreamId(random_uuid());
    let (first, second) = (FileId(random_uuid()), FileId(random_uuid()));
    let row = case.source.row;
    case.store.open_stream(stream, &tenant(), row, first, case.now).await.unwrap();
    assert!(case.store.add_chunk(stream, &tenant(), row, second).await.unwrap());
    assert!(!case.store.add_chunk(stream, &"other".into(), row, second).await.unwrap());
    assert_eq!(case.store.stream(stream, &tenant(), row).await.unwrap(), Some((vec![first, second], None)));
    let push = NewPush { closes: Some(stream), ..case.push(PushKind::Load, 1, &[]) };
    let request = push.request;
    assert!(matches!(case.store.accept(push.clone()).await.unwrap(), Accepted::New(_)));
    let again = NewPush { request: RequestId(random_uuid()), ..push };
    assert_eq!(case.store.accept(again.clone()).await.unwrap(), Accepted::Before(request, Ordering(1)));
    assert!(!case.store.add_chunk(stream, &tenant(), row, second).await.unwrap(), "closed");
    let unknown = NewPush { closes: Some(StreamId(random_uuid())), ..again };
    assert_eq!(case.store.accept(unknown).await.unwrap(), Accepted::StreamGone);
}

async fn fields_and_providers(case: Case) {
    let fields = |kind: &str| vec![("b".to_owned(), "LONG".to_owned()), ("a".to_owned(), kind.to_owned())];
    assert_eq!(case.store.create_fields(&tenant(), fields("STRING")).await.unwrap(), None);
    assert_eq!(case.store.create_fields(&tenant(), fields("STRING")).await.unwrap(), None);
    assert_eq!(case.store.create_fields(&tenant(), fields("DATE")).await.unwrap(), Some("a".into()));
    let clash = vec![("new".to_owned(), "LONG".to_owned()), ("a".to_owned(), "DATE".to_owned())];
    assert_eq!(case.store.create_fields(&tenant(), clash).await.unwrap(), Some("a".into()));
    assert_eq!(case.store.fields(&tenant()).await.unwrap().len(), 2, "all or none");
    assert_eq!(case.store.fields(&tenant()).await.unwrap()[0], ("a".into(), "STRING".into()));
    assert!(case.store.fields(&"other".into()).await.unwrap().is_empty());
    let id = ProviderId::from("My Provider");
    assert_eq!(case.store.provider(&tenant(), &id).await.unwrap(), None);
    case.store.put_provider(&tenant(), &id, json!({"x": 1}), case.now).await.unwrap();
    assert_eq!(case.store.provider(&tenant(), &id).await.unwrap(), Some(json!({"x": 1})));
}

async fn tombstones_go_in_two_steps(case: Case) {
    let (_, version) = case.container().await;
    let segment = case.store.version(&tenant(), version).await.unwrap().unwrap().pieces[0].segment;
    assert_eq!(case.store.known_segments(vec![segment]).await.unwrap(), [true]);
    case.store.expire_files(case.later(3600), 10).await.unwrap();
    let due = case.store.due_tombstones(case.later(3600), 10).await.unwrap();
    assert_eq!(due[0].segment, segment);
    assert_eq!(case.store.known_segments(vec![segment]).await.unwrap(), [true], "a tombstone is a row");
    assert_eq!(case.store.unlinked(vec![segment], case.later(3600)).await.unwrap(), [segment]);
    assert!(case.store.due_tombstones(case.later(3600), 10).await.unwrap().is_empty());
    assert!(case.store.old_tombstones(case.later(3599), 10).await.unwrap().is_empty());
    assert_eq!(case.store.old_tombstones(case.later(3600), 10).await.unwrap().len(), 1);
    case.store.drop_tombstones(vec![segment]).await.unwrap();
    assert_eq!(case.store.known_segments(vec![segment]).await.unwrap(), [false]);
    case.sound().await;
}

async fn a_thousand_verbs_at_once_each_get_their_own_answer(case: Case) {
    let store = std::sync::Arc::new(case);
    let mut tasks = Vec::new();
    for n in 0..1000u32 {
        let store = std::sync::Arc::clone(&store);
        tasks.push(tokio::spawn(async move {
            let name = format!("n{}", n % 10);
            store.store.set_setting(&name, n.to_be_bytes().to_vec(), true).await.unwrap()
        }));
    }
    let mut answers = std::collections::HashMap::new();
    for (n, task) in tasks.into_iter().enumerate() {
        let answer = task.await.unwrap();
        assert_eq!(answers.entry(n % 10).or_insert_with(|| answer.clone()), &answer);
    }
}

async fn a_push_that_is_tried_again_holds_its_lane_and_one_that_was_asked_to_wait_does_not(case: Case) {
    let waiting = NewPush { due: case.later(100), ..case.push(PushKind::OlderThan, 1, &[]) };
    let (first, second) = (case.push(PushKind::Items, 1, &[]), case.push(PushKind::Items, 1, &[]));
    for push in [&waiting, &first, &second] {
        case.store.accept(push.clone()).await.unwrap();
    }
    let lease = case.store.lease_push(case.now, LEASE).await.unwrap().unwrap();
    assert_eq!(lease.request, first.request, "the delayed one lets others go first");
    case.store.return_push(&lease, case.later(10), Some("the disk is full".into())).await.unwrap();
    assert!(case.store.lease_push(case.now, LEASE).await.unwrap().is_none(), "what comes behind may build on it");
    let again = case.store.lease_push(case.later(10), LEASE).await.unwrap().unwrap();
    assert_eq!(again.request, first.request);
    case.store.finish_push(&again, None, case.now, ZERO).await.unwrap();
    assert_eq!(case.store.lease_push(case.now, LEASE).await.unwrap().unwrap().request, second.request);
}

async fn a_load_keeps_what_it_named_also_where_the_change_failed(case: Case) {
    case.apply(PushKind::Items, 1, &[put("x://kept", "t"), put("x://gone", "t")]).await;
    let failing = Change::Patch(Patch {
        document_id: "x://kept".into(),
        operator: PatchOperator::DictionaryPut,
        field: "f".into(),
        value: json!(1),
    });
    let push = case.apply(PushKind::Load, 2, &[failing, put("x://new", "t")]).await;
    assert_eq!((push.counts.failed, push.counts.deleted), (1, 1));
    assert_eq!(case.ids().await, ["x://kept", "x://new"]);
}

async fn the_chunks_of_an_open_stream_outlive_their_own_life(case: Case) {
    let (file, version) = case.container().await;
    let stream = StreamId(random_uuid());
    case.store.open_stream(stream, &tenant(), case.source.row, file, case.now).await.unwrap();
    case.store.expire_files(case.later(2 * 3600), 10).await.unwrap();
    assert!(case.store.version(&tenant(), version).await.unwrap().is_some(), "it was acknowledged");
    case.store.expire_files(case.later(26 * 3600), 10).await.unwrap();
    assert!(case.store.version(&tenant(), version).await.unwrap().is_none(), "nobody closed it within a day");
    let close = NewPush { closes: Some(stream), now: case.later(26 * 3600), ..case.push(PushKind::Load, 1, &[]) };
    assert_eq!(case.store.accept(close).await.unwrap(), Accepted::StreamGone, "what is left must not replace a source");
}

async fn an_ordering_id_of_ours_never_goes_back_and_a_row_is_never_used_again(case: Case) {
    let push = |now| NewPush { ordering: None, now, ..case.push(PushKind::Items, 0, &[]) };
    let Accepted::New(first) = case.store.accept(push(case.later(3600))).await.unwrap() else { panic!("accepted") };
    let Accepted::New(second) = case.store.accept(push(case.now)).await.unwrap() else { panic!("accepted") };
    assert!(second >= first, "the clock was set back between them");

    let new = |id: &str| NewSource {
        tenant: tenant(),
        id: id.into(),
        name: id.into(),
        stream_enabled: false,
        properties: Map::new(),
        now: case.now,
    };
    let gone = case.store.create_source(new("gone")).await.unwrap().unwrap();
    assert!(case.store.delete_source(gone.row).await.unwrap());
    let next = case.store.create_source(new("next")).await.unwrap().unwrap();
    assert_ne!(next.row, gone.row);
    let late = NewPush { source: Some(gone.row), ..push(case.now) };
    assert_eq!(case.store.accept(late).await.unwrap(), Accepted::SourceGone);
}

async fn what_can_t_be_deleted_is_tried_again_and_keeps_nothing_else_waiting(case: Case) {
    let (_, version) = case.container().await;
    let segment = case.store.version(&tenant(), version).await.unwrap().unwrap().pieces[0].segment;
    case.store.expire_files(case.later(3600), 10).await.unwrap();
    case.store.postpone(vec![segment], case.later(7200)).await.unwrap();
    assert!(case.store.due_tombstones(case.later(7199), 10).await.unwrap().is_empty());
    assert_eq!(case.store.due_tombstones(case.later(7200), 10).await.unwrap().len(), 1);
}

async fn a_paused_tenant_is_told_to_its_callers_and_takes_no_push(case: Case) {
    let info = KeyInfo {
        id: KeyId(ordered_uuid(case.now)),
        tenant: tenant(),
        name: "k".into(),
        rights: Rights::all(),
        created: case.now,
        expires: None,
        revoked: None,
    };
    case.store.create_key(info, [1; 32], None).await.unwrap();
    let paused = async || case.store.caller([1; 32], case.now).await.unwrap().expect("the key holds").paused;
    assert!(!paused().await);
    assert_eq!(case.store.pause_tenant(&"nobody".into(), Some(case.now)).await.unwrap(), None);
    let told = case.store.pause_tenant(&tenant(), Some(case.now)).await.unwrap().expect("the tenant");
    assert_eq!(told.paused, Some(case.now));
    let again = case.store.pause_tenant(&tenant(), Some(case.later(60))).await.unwrap().expect("the tenant");
    assert_eq!(again.paused, Some(case.now), "it is paused since it was paused first");
    assert_eq!(case.store.tenants().await.unwrap(), [again]);
    assert!(paused().await);
    for changes in [vec![put("x://1", "a")], vec![delete("x://1", false)]] {
        let push = case.push(PushKind::Items, 1, &changes);
        assert_eq!(case.store.accept(push.clone()).await.unwrap(), Accepted::TenantPaused);
        assert_eq!(case.store.push(&tenant(), push.request).await.unwrap(), None);
    }
    let told = case.store.pause_tenant(&tenant(), None).await.unwrap().expect("the tenant");
    assert_eq!(told.paused, None);
    assert!(!paused().await);
    case.apply(PushKind::Items, 1, &[put("x://1", "a")]).await;
}

impl Case {
    async fn limited(&self, per_source: Option<u64>, per_day: Option<u64>) {
        let limits = NewItemLimits { per_source: Some(per_source), per_day: Some(per_day) };
        let told = self.store.limit_tenant(&tenant(), limits).await.unwrap().expect("the tenant");
        assert_eq!(told.items, ItemLimits { per_source, per_day });
    }

    async fn accepted(&self, push: NewPush) -> Accepted {
        self.store.accept(push).await.unwrap()
    }
}

async fn a_source_holds_no_more_items_than_its_limit_waiting_ones_included(case: Case) {
    let full = Accepted::TooManyItems(3);
    case.limited(Some(3), None).await;
    case.apply(PushKind::Items, 1, &[put("x://1", "a"), put("x://2", "b")]).await;
    let two = [put("x://3", "c"), put("x://4", "d")];
    assert_eq!(case.accepted(case.push(PushKind::Items, 2, &two)).await, full);
    // One waits, so that there is no room for another, but for a change to what is there.
    let third = case.push(PushKind::Items, 2, &two[..1]);
    assert_eq!(case.accepted(third.clone()).await, Accepted::New(Ordering(2)));
    assert_eq!(case.accepted(case.push(PushKind::Items, 3, &two[1..])).await, full);
    let known = case.push(PushKind::Items, 3, &[put("x://1", "new"), put("x://1", "newer")]);
    assert_eq!(case.accepted(known.clone()).await, Accepted::New(Ordering(3)));
    // A long push is not read for what it names: each of its records counts.
    let session = case.session().await;
    let version = case.version(&session, 9);
    case.store.commit(version.clone()).await.unwrap();
    let stored = Changes::Stored { file: session.file, version: version.version, size: version.size };
    let long = NewPush { changes: stored, ..case.push(PushKind::Items, 3, &[put("x://1", "new")]) };
    assert_eq!(case.accepted(long).await, full);
    // Deleting is never refused, nor is what changes a part of an item, nor what replaces everything by less.
    let deleted = case.push(PushKind::Items, 4, &[delete("x://2", false), delete("x://3", false)]);
    assert_eq!(case.accepted(deleted.clone()).await, Accepted::New(Ordering(4)));
    let load = case.push(PushKind::Load, 4, &[put("x://7", ""), put("x://8", ""), put("x://9", "")]);
    let four = case.push(PushKind::Load, 4, &[put("x://6", ""), put("x://7", ""), put("x://8", ""), put("x://9", "")]);
    assert_eq!(case.accepted(four).await, full);
    // Once everything is applied, what was deleted has made room.
    for changes in
        [&two[..1], &[put("x://1", "new"), put("x://1", "newer")], &[delete("x://2", false), delete("x://3", false)]]
    {
        let lease = case.store.lease_push(case.now, LEASE).await.unwrap().expect("a push is due");
        case.finish(&lease, changes).await;
    }
    assert_eq!(case.ids().await, ["x://1"]);
    case.sound_but_for_text().await;
    assert_eq!(case.accepted(case.push(PushKind::Items, 5, &two)).await, Accepted::New(Ordering(5)));
    assert_eq!(case.accepted(case.push(PushKind::Items, 6, &[put("x://5", "")])).await, full);
    assert_eq!(case.accepted(load).await, Accepted::New(Ordering(4)));
    // A higher limit makes room, a lower one takes nothing away, and without one there is room for all.
    case.limited(Some(7), None).await;
    assert_eq!(case.accepted(case.push(PushKind::Items, 6, &[put("x://5", "")])).await, Accepted::New(Ordering(6)));
    case.limited(Some(0), None).await;
    assert_eq!(case.ids().await, ["x://1"]);
    case.limited(None, None).await;
    assert_eq!(case.accepted(case.push(PushKind::Items, 7, &[put("x://6", "")])).await, Accepted::New(Ordering(7)));
}

impl Case {
    /// The count of a source's items is that of its rows.
    async fn sound_but_for_text(&self) {
        let broken = self.store.broken_invariants(self.now).await.unwrap();
        assert!(!broken.iter().any(|line| line.starts_with("source")), "{broken:?}");
    }
}

async fn a_sources_count_of_items_follows_every_way_to_add_and_delete(case: Case) {
    let sound = async || {
        case.extract_all().await;
        case.sound().await;
    };
    case.apply(PushKind::Items, 1, &[put("x://a", ""), put("x://a/1", ""), put("x://a/2", ""), put("x://b", "")]).await;
    sound().await;
    case.apply(PushKind::Items, 2, &[put("x://a", "again"), delete("x://b", false), delete("x://b", false)]).await;
    sound().await;
    case.apply(PushKind::Items, 3, &[delete("x://a/", true), delete("x://never", false), put("x://b", "back")]).await;
    sound().await;
    case.apply(PushKind::Load, 4, &[put("x://c", "")]).await;
    sound().await;
    case.apply(PushKind::OlderThan, 9, &[]).await;
    sound().await;
    assert_eq!(case.ids().await, [""; 0]);
}

async fn a_day_takes_no_more_changed_items_than_its_limit(case: Case) {
    let full = Accepted::TooManyItemsToday(3);
    // What came before the limit counts.
    case.apply(PushKind::Items, 1, &[put("x://1", "a"), delete("x://2", false)]).await;
    case.limited(None, Some(3)).await;
    let patch = Change::Patch(Patch {
        document_id: "x://1".into(),
        field: "a".into(),
        operator: PatchOperator::Replace,
        value: json!(1),
    });
    assert_eq!(
        case.accepted(case.push(PushKind::Items, 2, std::slice::from_ref(&patch))).await,
        Accepted::New(Ordering(2))
    );
    let two = case.push(PushKind::Items, 3, &[put("x://1", "b"), put("x://3", "c")]);
    assert_eq!(case.accepted(two.clone()).await, full, "taken whole or refused whole");
    assert_eq!(case.accepted(case.push(PushKind::Items, 3, &[put("x://3", "c")])).await, Accepted::New(Ordering(3)));
    assert_eq!(case.accepted(case.push(PushKind::Items, 4, &[patch])).await, full);
    // Neither a deletion nor another tenant's day is touched by it.
    let only_deletes = case.push(PushKind::Items, 4, &[delete("x://1", false)]);
    assert_eq!(case.accepted(only_deletes).await, Accepted::New(Ordering(4)));
    let identities = NewPush { source: None, ..case.push(PushKind::Identities, 4, &[]) };
    assert_eq!(case.accepted(identities).await, Accepted::New(Ordering(4)));
    // The next day begins with nothing; the day before is there again for a clock that is set back.
    let tomorrow = case.now.plus(case.now.rest_of_day());
    let next = |now| NewPush { request: RequestId(random_uuid()), now, ..two.clone() };
    assert_eq!(case.accepted(next(tomorrow)).await, Accepted::New(Ordering(3)));
    assert_eq!(case.accepted(next(tomorrow)).await, full);
    assert_eq!(case.accepted(next(case.now)).await, full);
}

async fn limits_are_exact_when_many_push_at_once(case: Case) {
    let case = std::sync::Arc::new(case);
    case.limited(Some(10), Some(15)).await;
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let case = std::sync::Arc::clone(&case);
            tokio::spawn(
                async move { case.accepted(case.push(PushKind::Items, 1, &[put(&format!("x://{n}"), "")])).await },
            )
        })
        .collect();
    let mut taken = 0;
    for task in tasks {
        match task.await.unwrap() {
            Accepted::New(_) => taken += 1,
            other => assert_eq!(other, Accepted::TooManyItems(10)),
        }
    }
    assert_eq!(taken, 10);
}

async fn a_repeated_push_gets_its_answer_also_when_there_is_no_room_left(case: Case) {
    case.limited(Some(1), Some(1)).await;
    let (file, version) = case.container().await;
    let uses = vec![FileUse { file, version, call: b"c".to_vec(), as_content: false }];
    let push = NewPush { uses, ..case.push(PushKind::Items, 1, &[put("x://1", "")]) };
    assert_eq!(case.accepted(push.clone()).await, Accepted::New(Ordering(1)));
    let again = NewPush { request: RequestId(random_uuid()), ..push.clone() };
    assert_eq!(case.accepted(again).await, Accepted::Before(push.request, Ordering(1)));
}

async fn a_push_whose_container_got_another_content_is_told_so(case: Case) {
    let session = case.session().await;
    let (first, second) = (case.version(&session, 1), case.version(&session, 2));
    case.store.commit(first.clone()).await.unwrap();
    case.store.commit(second.clone()).await.unwrap();
    let using = |version| {
        let uses = vec![FileUse { file: session.file, version, call: b"c".to_vec(), as_content: false }];
        NewPush { uses, ..case.push(PushKind::Items, 1, &[]) }
    };
    assert_eq!(case.accepted(using(first.version)).await, Accepted::FileReplaced(session.file));
    let late = NewPush { now: case.later(4000), ..using(first.version) };
    assert_eq!(case.accepted(late).await, Accepted::FileGone(session.file));
    assert_eq!(case.accepted(using(second.version)).await, Accepted::New(Ordering(1)));
}

async fn a_version_that_is_to_be_the_first_replaces_nothing(case: Case) {
    let session = case.session().await;
    let only_new = |crc| NewVersion { over: Over::Nothing, ..case.version(&session, crc) };
    let first = only_new(1);
    assert!(matches!(case.store.commit(first.clone()).await.unwrap(), Committed::New(_)));
    for crc in [1, 2] {
        assert_eq!(case.store.commit(only_new(crc)).await.unwrap(), Committed::Exists);
    }
    let file = case.store.file(&tenant(), session.file).await.unwrap().unwrap();
    assert_eq!(file.version.unwrap().id, first.version);
    case.sound().await;
}

async fn a_marked_call_is_decided_with_what_it_makes(case: Case) {
    let quota = Quota { sessions: Some(2), ..Quota::default() };
    assert!(case.store.set_quota(&tenant(), quota).await.unwrap());
    let template = case.session().await;
    let new = || Session { id: SessionId(ordered_uuid(case.now)), key: Some(KeyId(random_uuid())), ..template.clone() };
    let once = |mark: &str, body: u8| Once { mark: mark.into(), body: [body; 32], since: case.now.minus(LEASE) };
    let open = async |session: &Session, once| case.store.open_marked(session.clone(), once).await.unwrap();
    let (first, second) = (new(), new());
    assert_eq!(open(&first, once("a", 1)).await, Opening::New);
    assert_eq!(open(&second, once("a", 1)).await, Opening::Before(Box::new(first.clone())));
    assert_eq!(open(&second, once("a", 2)).await, Opening::OtherBody);
    assert_eq!(case.store.session(&tenant(), second.id).await.unwrap(), None);
    // A refused call leaves no mark.
    assert!(matches!(open(&second, once("b", 1)).await, Opening::OverQuota(over) if over.limit == 2));
    assert_eq!(case.store.recall(&tenant(), once("b", 1)).await.unwrap(), Marked::New);
    // Marks are the tenant's own, and forgotten in time.
    assert_eq!(case.store.recall(&"other".into(), once("a", 1)).await.unwrap(), Marked::New);
    let later = Once { since: case.later(1), ..once("a", 2) };
    assert_eq!(case.store.remember(&tenant(), later, b"x".into(), case.later(2)).await.unwrap(), Marked::New);
    let answer = case.store.remember(&tenant(), once("a", 2), b"y".into(), case.later(3)).await.unwrap();
    assert_eq!(answer, Marked::Before(b"x".into()), "the first answer holds");
    assert_eq!(case.store.recall(&tenant(), once("a", 1)).await.unwrap(), Marked::OtherBody);
    case.sound().await;
}

async fn a_receipt_outlives_its_version_and_an_upload_ends_with_its_file(case: Case) {
    let declaration = Some(Declaration { name: "a".into(), ..Declaration::default() });
    let template = case.session().await;
    let open = async |file: Option<FileId>| {
        let id = SessionId(ordered_uuid(case.now));
        let needs_file = file.is_some();
        let file = file.unwrap_or(FileId(id.0));
        let declaration = declaration.clone();
        let session = Session { id, file, needs_file, registers: true, declaration, ..template.clone() };
        assert_eq!(case.store.open_sessions(vec![session.clone()]).await.unwrap(), None);
        session
    };
    let first = open(None).await;
    let version = case.version(&first, 1);
    assert!(matches!(case.store.commit(version.clone()).await.unwrap(), Committed::New(_)));
    let (second, third) = (open(Some(first.file)).await, open(Some(first.file)).await);
    let next = case.version(&second, 2);
    assert!(matches!(case.store.commit(next.clone()).await.unwrap(), Committed::New(_)));
    assert_eq!(case.store.version(&tenant(), version.version).await.unwrap(), None, "it was replaced");
    let upload = case.store.upload(first.id).await.unwrap().unwrap();
    assert_eq!(upload.receipt.map(|receipt| receipt.version), Some(version.version));
    let kept = case.store.versions_of(&tenant(), first.file).await.unwrap();
    assert_eq!(kept.iter().map(|version| version.id).collect::<Vec<_>>(), [next.version]);
    let deleted = case.store.delete_file(&tenant(), first.file, false, case.now, ZERO).await.unwrap();
    assert_eq!(deleted, FileDeleted::Done);
    assert_eq!(case.store.upload(third.id).await.unwrap().unwrap().session.state, SessionState::Aborted);
    for session in [&first, &second, &third] {
        // Of the committed ones, a repetition must not bring the file back.
        assert_eq!(case.store.commit(case.version(session, 3)).await.unwrap(), Committed::Closed);
    }
    assert_eq!(case.store.file_record(&tenant(), first.file).await.unwrap(), None);
    case.sound().await;
}

async fn an_upload_of_unknown_size_grows_within_the_quota(case: Case) {
    assert!(case.store.set_quota(&tenant(), Quota { bytes: Some(15), sessions: None }).await.unwrap());
    let template = case.session().await;
    let id = SessionId(ordered_uuid(case.now));
    let key = Some(KeyId(random_uuid()));
    let session = Session { id, strategy: Strategy::Resumable, key, versions_allowed: false, ..template };
    assert_eq!(case.store.open_sessions(vec![session.clone()]).await.unwrap(), None);
    let grown = |received: u64| {
        let piece = Piece { length: received, ..case.version(&session, 1).pieces[0].clone() };
        Progress { received, pieces: vec![piece], ..Progress::default() }
    };
    let first = grown(10);
    let advance =
        |from: u64, progress: Progress| Advance { session: id, epoch: 1, from, progress, total: None, now: case.now };
    assert_eq!(case.store.advance(advance(0, first.clone())).await.unwrap(), Advanced::Recorded);
    let mut more = first.clone();
    (more.received, more.pieces[0].length) = (16, 16);
    let over = OverQuota { what: "bytes", limit: 15, used: 10, wanted: 6 };
    assert_eq!(case.store.advance(advance(10, more.clone())).await.unwrap(), Advanced::OverQuota(over));
    assert_eq!(case.store.upload(id).await.unwrap().unwrap().progress.received, 10);
    assert_eq!(case.store.advance(advance(9, more.clone())).await.unwrap(), Advanced::Fenced);
    (more.received, more.pieces[0].length) = (15, 15);
    assert_eq!(case.store.advance(advance(10, more)).await.unwrap(), Advanced::Recorded);
    assert_eq!(case.store.usage(&tenant()).await.unwrap().reserved, 15);
    case.sound().await;
}

async fn a_file_that_nobody_registered_can_be_taken_back(case: Case) {
    let before = case.store.usage(&tenant()).await.unwrap();
    let declaration = Declaration { name: "a".into(), mime_type: "a/b".into(), ..Declaration::default() };
    let draft = case.draft();
    // A file and its first upload share their id.
    let session = Session { file: FileId(draft.id.0), declaration: Some(declaration), ..draft };
    assert_eq!(case.store.open_sessions(vec![session.clone()]).await.unwrap(), None);
    assert!(!case.store.discard_file(&tenant(), session.file, case.now).await.unwrap(), "nothing is there yet");
    let version = case.version(&session, 1);
    assert!(matches!(case.store.commit(version.clone()).await.unwrap(), Committed::New(_)));
    assert!(!case.store.discard_file(&"others".into(), session.file, case.now).await.unwrap());
    assert!(case.store.discard_file(&tenant(), session.file, case.now).await.unwrap());
    assert!(!case.store.discard_file(&tenant(), session.file, case.now).await.unwrap());
    assert_eq!(case.store.file_record(&tenant(), session.file).await.unwrap(), None);
    assert_eq!(case.store.due_tombstones(case.now, 10).await.unwrap().len(), 1);
    assert_eq!(case.store.usage(&tenant()).await.unwrap(), before);
    // Its upload is over: the same bytes do not bring it back.
    assert_eq!(case.store.commit(case.version(&session, 1)).await.unwrap(), Committed::Closed);

    let declaration = Declaration { name: "b".into(), mime_type: "a/b".into(), ..Declaration::default() };
    let draft = case.draft();
    let session = Session { file: FileId(draft.id.0), declaration: Some(declaration), registers: true, ..draft };
    assert_eq!(case.store.open_sessions(vec![session.clone()]).await.unwrap(), None);
    assert!(matches!(case.store.commit(case.version(&session, 1)).await.unwrap(), Committed::New(_)));
    assert!(!case.store.discard_file(&tenant(), session.file, case.now).await.unwrap(), "it is registered");
    let found = case.store.file_record(&tenant(), session.file).await.unwrap().unwrap();
    assert_eq!((found.name.as_str(), found.stored_as.as_str()), ("b", "b"));
    let register = RegisterFile { tenant: tenant(), file: session.file, name: "c".into(), now: case.now };
    assert!(matches!(case.store.register_file(register).await.unwrap(), Registered::Before(_)));
}

on_every_store! {
    an_issuer_is_trusted_until_it_is_removed;
    a_key_holds_until_it_expires_or_is_revoked;
    a_setting_that_is_there_is_not_made_again;
    the_last_put_to_commit_wins_and_equal_bytes_repeat_the_answer;
    a_commit_is_fenced_by_epoch_expiry_and_use;
    an_unused_file_goes_with_its_session_and_a_used_one_stays;
    a_lower_ordering_id_changes_nothing;
    deletions_take_children_by_prefix_and_a_load_what_it_did_not_name;
    merges_and_patches_change_what_they_name;
    pushes_of_one_source_are_applied_in_their_order_one_at_a_time;
    a_push_is_done_when_its_last_text_is;
    items_are_listed_newest_first_by_every_filter;
    a_stream_is_closed_by_one_push;
    fields_and_providers;
    tombstones_go_in_two_steps;
    a_thousand_verbs_at_once_each_get_their_own_answer;
    a_push_that_is_tried_again_holds_its_lane_and_one_that_was_asked_to_wait_does_not;
    a_load_keeps_what_it_named_also_where_the_change_failed;
    the_chunks_of_an_open_stream_outlive_their_own_life;
    an_ordering_id_of_ours_never_goes_back_and_a_row_is_never_used_again;
    what_can_t_be_deleted_is_tried_again_and_keeps_nothing_else_waiting;
    a_paused_tenant_is_told_to_its_callers_and_takes_no_push;
    a_source_holds_no_more_items_than_its_limit_waiting_ones_included;
    a_sources_count_of_items_follows_every_way_to_add_and_delete;
    a_day_takes_no_more_changed_items_than_its_limit;
    limits_are_exact_when_many_push_at_once;
    a_repeated_push_gets_its_answer_also_when_there_is_no_room_left;
    a_push_whose_container_got_another_content_is_told_so;
    a_version_that_is_to_be_the_first_replaces_nothing;
    a_marked_call_is_decided_with_what_it_makes;
    a_receipt_outlives_its_version_and_an_upload_ends_with_its_file;
    an_upload_of_unknown_size_grows_within_the_quota;
    a_file_that_nobody_registered_can_be_taken_back;
}
