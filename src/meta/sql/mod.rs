//! Facts in a database that speaks SQL: the same verbs on SQLite, for one process, and on PostgreSQL, for many.

mod calls;
mod engine;
mod entries;
mod files;
mod identities;
mod issuers;
mod items;
mod jobs;
mod parts;
mod places;
mod pushes;
mod quota;
mod resume;
mod rows;
mod stores;
mod sweep;
mod tenants;
mod uploads;

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use self::engine::{Engine, NOBODY, look, near};
pub use self::engine::{FILE_NAME, SqlMeta};
use super::{
    Accepted, Advance, Advanced, Applied, Began, CommitParts, Committed, DeleteEntries, EntriesChanged, EntriesDeleted,
    EntryMade, Extraction, FileDeleted, FileFilter, FileInfo, HeldAt, Holder, IntendedCopy, ItemFilter, ItemRoom,
    KeyCreated, KeyInfo, Lease, LeasedJob, LinkFile, Linked, Marked, MetaStore, MovePiece, NewEntry, NewItemLimits,
    NewPart, NewPush, NewSource, NewStore, NewVersion, NodeEntry, Once, Opening, OverQuota, PartRecorded,
    PartsCommitted, PlacedPiece, Processed, Quota, RegisterFile, Registered, Resolved, Result, StoreFileFilter,
    StoreFilter, Swept, TenantInfo, Tombstone, Upload, UploadFilter, Usage,
};
use crate::clock::Timestamp;
use crate::model::access::Caller;
use crate::model::change::{IdentityChange, Ordering};
use crate::model::entry::{Entry, EntryFilter, EntryRef, FactsEdit, Stretch};
use crate::model::file::{FileRecord, Version};
use crate::model::ids::{
    FileId, KeyId, PlaceId, ProviderId, RequestId, SegmentId, SessionId, SourceId, StoreId, StreamId, TenantId,
    VersionId,
};
use crate::model::issuer::Issuer;
use crate::model::session::{Part, Session, SessionState};
use crate::model::source::{Activity, Item, Push, PushKind, PushState, Source};
use crate::model::store::{LogEntry, Store, StoreFile};

#[async_trait]
impl MetaStore for SqlMeta {
    async fn setting(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let name = name.to_owned();
        self.read(move |c| tenants::setting(c, &name)).await
    }

    async fn set_setting(&self, name: &str, value: Vec<u8>, only_new: bool) -> Result<Vec<u8>> {
        let name = name.to_owned();
        self.write(NOBODY, move |c| tenants::set_setting(c, &name, value.clone(), only_new)).await
    }

    async fn create_tenant(&self, tenant: TenantInfo) -> Result<bool> {
        self.write(near(tenant.id.as_str()), move |c| tenants::create_tenant(c, &tenant)).await
    }

    async fn tenant(&self, tenant: &TenantId) -> Result<Option<TenantInfo>> {
        look!(self, (tenant), |c| tenants::tenant(c, tenant))
    }

    async fn set_quota(&self, tenant: &TenantId, quota: Quota) -> Result<bool> {
        let tenant = tenant.clone();
        self.write(near(tenant.as_str()), move |c| quota::set_quota(c, &tenant, quota)).await
    }

    async fn tenants(&self) -> Result<Vec<TenantInfo>> {
        self.read(tenants::tenants).await
    }

    async fn pause_tenant(&self, tenant: &TenantId, paused: Option<Timestamp>) -> Result<Option<TenantInfo>> {
        let tenant = tenant.clone();
        self.write(near(tenant.as_str()), move |c| tenants::pause_tenant(c, &tenant, paused)).await
    }

    async fn limit_tenant(&self, tenant: &TenantId, limits: NewItemLimits) -> Result<Option<TenantInfo>> {
        let tenant = tenant.clone();
        self.write(near(tenant.as_str()), move |c| tenants::limit_tenant(c, &tenant, limits)).await
    }

    async fn create_key(&self, key: KeyInfo, hash: [u8; 32], once: Option<Once>) -> Result<KeyCreated> {
        self.write(near(key.tenant.as_str()), move |c| tenants::create_key(c, &key, hash, once.as_ref())).await
    }

    async fn recall(&self, tenant: &TenantId, once: Once) -> Result<Marked> {
        let once = &once;
        look!(self, (tenant, once), |c| calls::recall(c, tenant, once))
    }

    async fn remember(&self, tenant: &TenantId, once: Once, answer: Vec<u8>, now: Timestamp) -> Result<Marked> {
        let tenant = tenant.clone();
        self.write(near(tenant.as_str()), move |c| calls::remember(c, &tenant, &once, &answer, now)).await
    }

    async fn caller(&self, hash: [u8; 32], now: Timestamp) -> Result<Option<Caller>> {
        look!(self, (), |c| tenants::caller(c, hash, now))
    }

    async fn keys(&self, tenant: Option<&TenantId>) -> Result<Vec<KeyInfo>> {
        let tenant = tenant.cloned();
        self.read(move |c| tenants::keys(c, tenant.as_ref())).await
    }

    async fn revoke_key(&self, tenant: Option<&TenantId>, key: KeyId, now: Timestamp) -> Result<bool> {
        let tenant = tenant.cloned();
        self.write(NOBODY, move |c| tenants::revoke_key(c, tenant.as_ref(), key, now)).await
    }

    async fn put_issuer(&self, issuer: Issuer) -> Result<bool> {
        self.write(NOBODY, move |c| issuers::put(c, &issuer)).await
    }

    async fn issuers(&self, tenant: &TenantId) -> Result<Vec<Issuer>> {
        let tenant = tenant.clone();
        self.read(move |c| issuers::of(c, &tenant)).await
    }

    async fn trusting(&self, url: &str, tenant: Option<&TenantId>) -> Result<Vec<(Issuer, bool)>> {
        let (url, tenant) = (url.to_owned(), tenant.cloned());
        self.read(move |c| issuers::trusting(c, &url, tenant.as_ref())).await
    }

    async fn remove_issuer(&self, tenant: &TenantId, url: &str) -> Result<bool> {
        let (tenant, url) = (tenant.clone(), url.to_owned());
        self.write(near(tenant.as_str()), move |c| issuers::remove(c, &tenant, &url)).await
    }

    async fn create_source(&self, source: NewSource) -> Result<Option<Source>> {
        self.write(near(source.tenant.as_str()), move |c| tenants::create_source(c, &source)).await
    }

    async fn source(&self, tenant: &TenantId, id: &SourceId) -> Result<Option<Source>> {
        look!(self, (tenant, id), |c| tenants::source(c, tenant, id))
    }

    async fn sources(&self, tenant: &TenantId) -> Result<Vec<Source>> {
        let tenant = tenant.clone();
        self.read(move |c| tenants::sources(c, &tenant)).await
    }

    async fn update_source(&self, source: &Source) -> Result<bool> {
        let source = source.clone();
        self.write(near(source.tenant.as_str()), move |c| tenants::update_source(c, &source)).await
    }

    async fn delete_source(&self, source: i64) -> Result<bool> {
        self.write(NOBODY, move |c| tenants::delete_source(c, source)).await
    }

    async fn set_activity(&self, source: i64, activity: Activity) -> Result<()> {
        self.write(NOBODY, move |c| tenants::set_activity(c, source, activity)).await
    }

    async fn put_provider(&self, tenant: &TenantId, id: &ProviderId, body: Value, now: Timestamp) -> Result<()> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.write(near(tenant.as_str()), move |c| tenants::put_provider(c, &tenant, &id, &body, now)).await
    }

    async fn provider(&self, tenant: &TenantId, id: &ProviderId) -> Result<Option<Value>> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.read(move |c| tenants::provider(c, &tenant, &id)).await
    }

    async fn fields(&self, tenant: &TenantId) -> Result<Vec<(String, String)>> {
        let tenant = tenant.clone();
        self.read(move |c| tenants::fields(c, &tenant)).await
    }

    async fn create_fields(&self, tenant: &TenantId, fields: Vec<(String, String)>) -> Result<Option<String>> {
        let tenant = tenant.clone();
        self.write(near(tenant.as_str()), move |c| tenants::create_fields(c, &tenant, &fields)).await
    }

    async fn open_sessions(&self, sessions: Vec<Session>) -> Result<Option<OverQuota>> {
        self.write(self.near_sessions(&sessions), move |c| uploads::open_sessions(c, &sessions)).await
    }

    async fn open_marked(&self, session: Session, once: Once) -> Result<Opening> {
        self.write(self.near_sessions([&session]), move |c| uploads::open_marked(c, &session, &once)).await
    }

    async fn session(&self, tenant: &TenantId, id: SessionId) -> Result<Option<Session>> {
        let session: Result<Option<Session>> = look!(self, (tenant), |c| uploads::session(c, tenant, id));
        self.near_sessions(session.as_ref().ok().into_iter().flatten());
        session
    }

    async fn upload(&self, id: SessionId) -> Result<Option<Upload>> {
        let upload: Result<Option<Upload>> = look!(self, read, (), |c| resume::upload(c, id));
        self.near_sessions(upload.as_ref().ok().into_iter().flatten().map(|upload| &upload.session));
        upload
    }

    async fn uploads(&self, tenant: &TenantId, filter: UploadFilter) -> Result<Vec<Upload>> {
        let tenant = tenant.clone();
        self.read(move |c| resume::uploads(c, &tenant, &filter)).await
    }

    async fn take_over(&self, id: SessionId, now: Timestamp) -> Result<Option<Upload>> {
        self.write(self.near_session(id), move |c| resume::take_over(c, id, now)).await
    }

    async fn advance(&self, advance: Advance) -> Result<Advanced> {
        self.write(self.near_session(advance.session), move |c| resume::advance(c, &advance)).await
    }

    async fn record_part(&self, part: NewPart) -> Result<PartRecorded> {
        self.write(self.near_session(part.session), move |c| parts::record(c, &part)).await
    }

    async fn parts(&self, id: SessionId) -> Result<Vec<Part>> {
        self.read(move |c| parts::all_of(c, id)).await
    }

    async fn part(&self, id: SessionId, number: u32) -> Result<Option<Part>> {
        self.read(move |c| parts::one_of(c, id, number)).await
    }

    async fn commit_parts(&self, commit: CommitParts) -> Result<PartsCommitted> {
        self.write(self.near_session(commit.session), move |c| parts::commit(c, &commit)).await
    }

    async fn end_session(&self, id: SessionId, state: SessionState, now: Timestamp) -> Result<Option<SessionState>> {
        self.write(self.near_session(id), move |c| resume::end_session(c, id, state, now)).await
    }

    async fn begun(&self, id: SessionId, upload: String, now: Timestamp) -> Result<Option<String>> {
        self.write(self.near_session(id), move |c| resume::begun(c, id, &upload, now)).await
    }

    async fn versions_of(&self, tenant: &TenantId, file: FileId) -> Result<Vec<Version>> {
        let tenant = tenant.clone();
        self.read(move |c| uploads::versions_of(c, &tenant, file)).await
    }

    async fn register_file(&self, register: RegisterFile) -> Result<Registered> {
        self.write(near(register.tenant.as_str()), move |c| files::register(c, &register)).await
    }

    async fn file_record(&self, tenant: &TenantId, id: FileId) -> Result<Option<FileRecord>> {
        look!(self, (tenant), |c| files::record(c, tenant, id))
    }

    async fn files(&self, tenant: &TenantId, filter: FileFilter) -> Result<Vec<FileRecord>> {
        let tenant = tenant.clone();
        self.read(move |c| files::list(c, &tenant, &filter)).await
    }

    async fn count_files(&self, tenant: &TenantId) -> Result<u64> {
        let tenant = tenant.clone();
        self.read(move |c| files::count(c, &tenant)).await
    }

    async fn delete_file(
        &self,
        tenant: &TenantId,
        id: FileId,
        force: bool,
        now: Timestamp,
        keep_replaced: Duration,
    ) -> Result<FileDeleted> {
        let tenant = tenant.clone();
        self.write(near(tenant.as_str()), move |c| files::delete(c, &tenant, id, force, now, keep_replaced)).await
    }

    async fn discard_file(&self, tenant: &TenantId, id: FileId, now: Timestamp) -> Result<bool> {
        let tenant = tenant.clone();
        self.write(near(tenant.as_str()), move |c| files::discard(c, &tenant, id, now)).await
    }

    async fn create_store(&self, store: NewStore) -> Result<Store> {
        self.write(near(store.tenant.as_str()), move |c| stores::create(c, &store)).await
    }

    async fn store(&self, tenant: &TenantId, id: StoreId) -> Result<Option<Store>> {
        look!(self, (tenant), |c| stores::store(c, tenant, id))
    }

    async fn stores(&self, tenant: &TenantId, filter: StoreFilter) -> Result<(Vec<Store>, u64)> {
        let tenant = tenant.clone();
        self.read(move |c| stores::list(c, &tenant, &filter)).await
    }

    async fn holders_of(&self, tenant: &TenantId, file: FileId) -> Result<Vec<Holder>> {
        let tenant = tenant.clone();
        self.read(move |c| stores::holders_of(c, &tenant, file)).await
    }

    async fn update_store(&self, store: &Store) -> Result<bool> {
        let store = store.clone();
        self.write(near(store.tenant.as_str()), move |c| stores::update(c, &store)).await
    }

    async fn delete_store(&self, store: i64, now: Timestamp) -> Result<bool> {
        self.write(NOBODY, move |c| stores::delete(c, store, now)).await
    }

    async fn empty_store(&self, store: i64, limit: u32, now: Timestamp, keep_replaced: Duration) -> Result<bool> {
        self.write(NOBODY, move |c| stores::empty(c, store, limit, now, keep_replaced)).await
    }

    async fn link_file(&self, link: LinkFile) -> Result<Linked> {
        self.write(near(link.tenant.as_str()), move |c| stores::link(c, &link)).await
    }

    async fn store_file(&self, store: i64, file: FileId) -> Result<Option<StoreFile>> {
        look!(self, (), |c| stores::file(c, store, file))
    }

    async fn store_files_by_row(&self, store: Option<i64>, rows: Vec<i64>) -> Result<Vec<StoreFile>> {
        self.read(move |c| stores::files_by_row(c, store, &rows)).await
    }

    async fn store_files(&self, store: i64, filter: StoreFileFilter) -> Result<(Vec<StoreFile>, u64)> {
        self.read(move |c| stores::files(c, store, &filter)).await
    }

    async fn unlink_files(
        &self,
        store: i64,
        files: Vec<FileId>,
        now: Timestamp,
        keep_replaced: Duration,
    ) -> Result<u64> {
        self.write(NOBODY, move |c| stores::unlink(c, store, &files, now, keep_replaced)).await
    }

    async fn retry_file(&self, store: i64, file: FileId, now: Timestamp) -> Result<Option<StoreFile>> {
        self.write(NOBODY, move |c| stores::retry(c, store, file, now)).await
    }

    async fn store_file_log(&self, row: i64) -> Result<Vec<LogEntry>> {
        self.read(move |c| stores::log(c, row)).await
    }

    async fn begin_step(&self, job: &LeasedJob, began: Began) -> Result<bool> {
        let job = job.clone();
        self.write(NOBODY, move |c| stores::begin_step(c, &job, &began)).await
    }

    async fn end_processing(&self, job: &LeasedJob, processed: Processed) -> Result<()> {
        let job = job.clone();
        self.write(NOBODY, move |c| stores::end_processing(c, &job, &processed)).await
    }

    async fn make_entry(&self, entry: NewEntry) -> Result<EntryMade> {
        self.write(near(entry.tenant.as_str()), move |c| entries::make(c, &entry)).await
    }

    async fn put_nodes(&self, tenant: &TenantId, nodes: Vec<NodeEntry>, now: Timestamp) -> Result<EntriesChanged> {
        let tenant = tenant.clone();
        self.write(near(tenant.as_str()), move |c| entries::put_nodes(c, &tenant, &nodes, now)).await
    }

    async fn open_for_entry(&self, entry: EntryRef, session: Session) -> Result<Option<EntryMade>> {
        self.write(self.near_sessions([&session]), move |c| entries::open_for(c, &entry, &session)).await
    }

    async fn entries(&self, tenant: &TenantId, refs: Vec<EntryRef>) -> Result<Vec<Option<Entry>>> {
        let tenant = tenant.clone();
        self.read(move |c| refs.iter().map(|entry| entries::entry(c, &tenant, entry)).collect()).await
    }

    async fn find_entries(&self, tenant: &TenantId, filter: EntryFilter, stretch: Stretch) -> Result<Vec<Entry>> {
        let tenant = tenant.clone();
        self.read(move |c| entries::find(c, &tenant, &filter, stretch)).await
    }

    async fn search_entries(
        &self,
        tenant: &TenantId,
        words: &str,
        filter: EntryFilter,
        limit: u32,
    ) -> Result<Vec<Entry>> {
        let (tenant, words) = (tenant.clone(), words.to_owned());
        self.read(move |c| entries::search(c, &tenant, &words, &filter, limit)).await
    }

    async fn count_entries(&self, tenant: &TenantId, filter: EntryFilter) -> Result<u64> {
        let tenant = tenant.clone();
        self.read(move |c| entries::count(c, &tenant, &filter)).await
    }

    async fn change_entries(
        &self,
        tenant: &TenantId,
        changes: Vec<(EntryRef, FactsEdit)>,
        now: Timestamp,
    ) -> Result<EntriesChanged> {
        let tenant = tenant.clone();
        self.write(near(tenant.as_str()), move |c| entries::change(c, &tenant, &changes, now)).await
    }

    async fn delete_entries(&self, delete: DeleteEntries) -> Result<EntriesDeleted> {
        self.write(near(delete.tenant.as_str()), move |c| entries::delete(c, &delete)).await
    }

    async fn commit(&self, version: NewVersion) -> Result<Committed> {
        self.write(self.near_session(version.session), move |c| uploads::commit(c, &version)).await
    }

    async fn file(&self, tenant: &TenantId, id: FileId) -> Result<Option<FileInfo>> {
        look!(self, read, (tenant), |c| uploads::file(c, tenant, id))
    }

    async fn version(&self, tenant: &TenantId, id: VersionId) -> Result<Option<Version>> {
        let tenant = tenant.clone();
        self.read(move |c| uploads::version(c, Some(&tenant), id)).await
    }

    async fn open_stream(
        &self,
        stream: StreamId,
        tenant: &TenantId,
        source: i64,
        file: FileId,
        now: Timestamp,
    ) -> Result<()> {
        let tenant = tenant.clone();
        self.write(near(tenant.as_str()), move |c| uploads::open_stream(c, stream, &tenant, source, file, now)).await
    }

    async fn add_chunk(&self, stream: StreamId, tenant: &TenantId, source: i64, file: FileId) -> Result<bool> {
        let tenant = tenant.clone();
        self.write(near(tenant.as_str()), move |c| uploads::add_chunk(c, stream, &tenant, source, file)).await
    }

    async fn stream(
        &self,
        stream: StreamId,
        tenant: &TenantId,
        source: i64,
    ) -> Result<Option<(Vec<FileId>, Option<(RequestId, Ordering)>)>> {
        let tenant = tenant.clone();
        self.read(move |c| uploads::stream(c, stream, &tenant, source)).await
    }

    async fn accept(&self, push: NewPush) -> Result<Accepted> {
        self.write(near(push.tenant.as_str()), move |c| pushes::accept(c, &push)).await
    }

    async fn item_room(&self, tenant: &TenantId, source: i64, kind: PushKind, now: Timestamp) -> Result<ItemRoom> {
        let tenant = tenant.clone();
        self.read(move |c| match tenants::tenant(c, &tenant)? {
            Some(tenant) => pushes::room(c, &tenant, Some(source), kind, now),
            None => Ok(ItemRoom::default()),
        })
        .await
    }

    async fn lease_push(&self, now: Timestamp, lease: Duration) -> Result<Option<Lease>> {
        // Mostly there is nothing to lease, and the writer has better things to do than to find that out.
        if self.read(move |c| pushes::next(c, now)).await?.is_none() {
            return Ok(None);
        }
        let holder = self.holder;
        self.write(NOBODY, move |c| pushes::lease(c, now, lease, holder)).await
    }

    async fn apply(
        &self,
        lease: &Lease,
        changes: Vec<Resolved>,
        now: Timestamp,
        keep_replaced: Duration,
    ) -> Result<Applied> {
        let lease = lease.clone();
        self.write(NOBODY, move |c| items::apply(c, &lease, &changes, now, keep_replaced)).await
    }

    async fn apply_identities(
        &self,
        lease: &Lease,
        changes: Vec<(IdentityChange, u64)>,
        now: Timestamp,
    ) -> Result<Applied> {
        let lease = lease.clone();
        self.write(NOBODY, move |c| identities::apply(c, &lease, &changes, now)).await
    }

    async fn apply_deletions(&self, lease: &Lease, now: Timestamp, keep_replaced: Duration) -> Result<bool> {
        let lease = lease.clone();
        self.write(NOBODY, move |c| items::apply_deletions(c, &lease, now, keep_replaced)).await
    }

    async fn finish_push(
        &self,
        lease: &Lease,
        problem: Option<String>,
        now: Timestamp,
        keep_replaced: Duration,
    ) -> Result<()> {
        let lease = lease.clone();
        self.write(NOBODY, move |c| pushes::finish(c, &lease, problem.as_deref(), now, keep_replaced)).await
    }

    async fn return_push(&self, lease: &Lease, due: Timestamp, problem: Option<String>) -> Result<()> {
        let lease = lease.clone();
        self.write(NOBODY, move |c| pushes::give_back(c, &lease, due, problem.as_deref())).await
    }

    async fn push(&self, tenant: &TenantId, request: RequestId) -> Result<Option<Push>> {
        let tenant = tenant.clone();
        self.read(move |c| pushes::push(c, &tenant, request)).await
    }

    async fn pushes(
        &self,
        tenant: &TenantId,
        target: &str,
        state: Option<PushState>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Push>> {
        let (tenant, target) = (tenant.clone(), target.to_owned());
        self.read(move |c| pushes::pushes(c, &tenant, &target, state, before, limit)).await
    }

    async fn item(&self, source: i64, document_id: &str) -> Result<Option<Item>> {
        let document_id = document_id.to_owned();
        self.read(move |c| items::item(c, source, &document_id)).await
    }

    async fn item_by_row(&self, row: i64) -> Result<Option<(TenantId, Item)>> {
        self.read(move |c| items::item_by_row(c, row)).await
    }

    async fn items(&self, source: i64, filter: ItemFilter) -> Result<Vec<Item>> {
        self.read(move |c| items::items(c, source, &filter)).await
    }

    async fn lease_jobs(&self, now: Timestamp, lease: Duration, limit: u32) -> Result<Vec<LeasedJob>> {
        if self.read(move |c| jobs::waiting(c, now, limit)).await?.is_empty() {
            return Ok(Vec::new());
        }
        let holder = self.holder;
        self.write(NOBODY, move |c| jobs::lease(c, now, lease, limit, holder)).await
    }

    async fn finish_job(&self, job: &LeasedJob, extraction: Option<Extraction>, now: Timestamp) -> Result<()> {
        let job = job.clone();
        self.write(NOBODY, move |c| jobs::finish(c, &job, extraction.as_ref(), now)).await
    }

    async fn return_job(&self, job: &LeasedJob, due: Timestamp) -> Result<()> {
        let job = job.clone();
        self.write(NOBODY, move |c| jobs::give_back(c, &job, due)).await
    }

    async fn release_leases(&self) -> Result<()> {
        let holder = self.holder;
        self.write(NOBODY, move |c| jobs::release_leases(c, holder)).await
    }

    async fn requeue_items(&self, after: i64, limit: u32, now: Timestamp) -> Result<Option<i64>> {
        self.write(NOBODY, move |c| jobs::requeue_items(c, after, limit, now)).await
    }

    async fn requeue_store_files(&self, after: i64, limit: u32, now: Timestamp) -> Result<Option<i64>> {
        self.write(NOBODY, move |c| stores::requeue(c, after, limit, now)).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>> {
        self.read(jobs::next_due).await
    }

    async fn expire_sessions(&self, now: Timestamp, limit: u32) -> Result<u64> {
        self.write(NOBODY, move |c| sweep::expire_sessions(c, now, limit)).await
    }

    async fn expire_files(&self, now: Timestamp, limit: u32) -> Result<Swept> {
        self.write(NOBODY, move |c| sweep::expire_files(c, now, limit)).await
    }

    async fn due_tombstones(&self, now: Timestamp, limit: u32) -> Result<Vec<Tombstone>> {
        self.read(move |c| sweep::due_tombstones(c, now, limit)).await
    }

    async fn unlinked(&self, segments: Vec<SegmentId>, now: Timestamp) -> Result<Vec<SegmentId>> {
        self.write(NOBODY, move |c| sweep::unlinked(c, &segments, now)).await
    }

    async fn postpone(&self, segments: Vec<SegmentId>, due: Timestamp) -> Result<()> {
        self.write(NOBODY, move |c| sweep::postpone(c, &segments, due)).await
    }

    async fn old_tombstones(&self, before: Timestamp, limit: u32) -> Result<Vec<Tombstone>> {
        self.read(move |c| sweep::old_tombstones(c, before, limit)).await
    }

    async fn drop_tombstones(&self, segments: Vec<SegmentId>) -> Result<()> {
        self.write(NOBODY, move |c| sweep::drop_tombstones(c, &segments)).await
    }

    async fn known_segments(&self, segments: Vec<SegmentId>) -> Result<Vec<bool>> {
        self.read(move |c| sweep::known_segments(c, &segments)).await
    }

    async fn pieces_of(&self, session: SessionId) -> Result<Vec<(SegmentId, String)>> {
        self.read(move |c| sweep::pieces_of(c, session)).await
    }

    async fn pieces_at(&self, place: PlaceId, after: Option<(VersionId, u32)>, limit: u32) -> Result<Vec<PlacedPiece>> {
        self.read(move |c| places::pieces_at(c, place, after, limit)).await
    }

    async fn intend_copy(&self, copy: IntendedCopy) -> Result<bool> {
        self.write(near(copy.tenant.as_str()), move |c| places::intend_copy(c, &copy)).await
    }

    async fn move_piece(&self, moved: MovePiece) -> Result<bool> {
        self.write(near(moved.tenant.as_str()), move |c| places::move_piece(c, &moved)).await
    }

    async fn names_bytes_at(&self, place: PlaceId, now: Timestamp) -> Result<bool> {
        self.read(move |c| places::names_bytes_at(c, place, now)).await
    }

    async fn held_at(&self, place: PlaceId, now: Timestamp) -> Result<HeldAt> {
        self.read(move |c| places::held_at(c, place, now)).await
    }

    async fn usage(&self, tenant: &TenantId) -> Result<Usage> {
        let tenant = tenant.clone();
        self.read(move |c| sweep::usage(c, &tenant)).await
    }

    async fn broken_invariants(&self, now: Timestamp) -> Result<Vec<String>> {
        self.read(move |c| sweep::broken_invariants(c, now)).await
    }

    async fn progressing_above(&self, after: Option<SessionId>, limit: u32) -> Result<Vec<Upload>> {
        self.read(move |c| resume::progressing_above(c, after, limit)).await
    }

    async fn versions_above(&self, after: Option<VersionId>, limit: u32) -> Result<Vec<Version>> {
        self.read(move |c| uploads::versions_above(c, after, limit)).await
    }

    async fn leads(&self) -> Result<bool> {
        match &self.engine {
            Engine::Sqlite(_) => Ok(true),
            Engine::Postgres(database) => Ok(database.leads().await?),
        }
    }

    fn is_shared(&self) -> bool {
        matches!(self.engine, Engine::Postgres(_))
    }

    async fn ping(&self) -> Result<()> {
        self.write(NOBODY, |_| Ok(())).await
    }
}
