//! Facts. Every method of [`MetaStore`] is one transaction named by a verb of the domain; the gaps between two of
//! them are the crash points. An answer is given only when its transaction is durable, refusals included.

mod entries;
mod files;
mod places;
mod sources;
pub mod sql;
mod stores;
mod sweep;
mod tenants;
mod uploads;

#[cfg(test)]
pub(crate) mod contract;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

pub use self::entries::{DeleteEntries, EntriesChanged, EntriesDeleted, EntryMade, NewEntry, NodeEntry};
pub use self::files::{FileDeleted, FileFilter, FileInfo, Holder, RegisterFile, Registered};
pub use self::places::{HeldAt, IntendedCopy, MovePiece, PlacedPiece};
pub use self::sources::{
    Accepted, Applied, Changes, Extraction, FileUse, ItemFilter, Lease, LeasedChanges, LeasedJob, NewPush, NewSource,
    Resolved, ResolvedContent,
};
pub use self::stores::{Began, LinkFile, Linked, NewStore, Processed, StoreFileFilter, StoreFilter, StoreOrder};
pub use self::sweep::{StoreUsage, Swept, Tombstone};
pub use self::tenants::{
    ItemLimits, ItemRoom, KeyCreated, KeyInfo, Marked, NewItemLimits, Once, Opening, OverQuota, Quota, TenantInfo,
    Usage,
};
pub use self::uploads::{
    Advance, Advanced, CommitParts, Committed, NewPart, NewVersion, Over, PartRecorded, PartsCommitted, Upload,
    UploadFilter,
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

/// Why the database could not do it. Nothing may be assumed about what was asked.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// No space left for its files.
    #[error("no space left for the database")]
    OutOfSpace,
    /// It is shutting down.
    #[error("the database is closed")]
    Closed,
    /// Its data is not there, or has a format that this program does not work with. The sentence says what to do.
    #[error("{0}")]
    Format(String),
    /// Anything else.
    #[error("the database failed: {0}")]
    Failed(String),
}

/// What the database says.
pub type Result<T> = std::result::Result<T, MetaError>;

/// The facts.
#[async_trait]
pub trait MetaStore: Send + Sync + fmt::Debug {
    // --- settings and tenants

    /// Reads a setting.
    async fn setting(&self, name: &str) -> Result<Option<Vec<u8>>>;
    /// Writes a setting; with `only_new` only if there is none. Returns the value that holds then.
    async fn set_setting(&self, name: &str, value: Vec<u8>, only_new: bool) -> Result<Vec<u8>>;
    /// Creates a tenant; false when it exists.
    async fn create_tenant(&self, tenant: TenantInfo) -> Result<bool>;
    /// The tenant, if it exists.
    async fn tenant(&self, tenant: &TenantId) -> Result<Option<TenantInfo>>;
    /// Changes what a tenant may hold; false when it does not exist.
    async fn set_quota(&self, tenant: &TenantId, quota: Quota) -> Result<bool>;
    /// Every tenant.
    async fn tenants(&self) -> Result<Vec<TenantInfo>>;
    /// Pauses a tenant from now on, or resumes it; the tenant as it is then, if it exists. One that is paused already
    /// stays so since it was.
    async fn pause_tenant(&self, tenant: &TenantId, paused: Option<Timestamp>) -> Result<Option<TenantInfo>>;
    /// Limits how many items a tenant may have and change; the tenant as it is then, if it exists.
    async fn limit_tenant(&self, tenant: &TenantId, limits: NewItemLimits) -> Result<Option<TenantInfo>>;
    /// Stores a key by its hash; with a repetition mark, only if no call with that mark did so before.
    async fn create_key(&self, key: KeyInfo, hash: [u8; 32], once: Option<Once>) -> Result<KeyCreated>;
    /// What became of the call with this mark, if there was one.
    async fn recall(&self, tenant: &TenantId, once: Once) -> Result<Marked>;
    /// Keeps the answer of a marked call, unless one with its mark was faster: then that one's answer holds.
    async fn remember(&self, tenant: &TenantId, once: Once, answer: Vec<u8>, now: Timestamp) -> Result<Marked>;
    /// Who holds the key with this hash, if it holds now.
    async fn caller(&self, hash: [u8; 32], now: Timestamp) -> Result<Option<Caller>>;
    /// Every key, of one tenant or of all.
    async fn keys(&self, tenant: Option<&TenantId>) -> Result<Vec<KeyInfo>>;
    /// Revokes a key; false when there is none of this id (in this tenant).
    async fn revoke_key(&self, tenant: Option<&TenantId>, key: KeyId, now: Timestamp) -> Result<bool>;
    /// Trusts an issuer on these terms from now on, in the place of those before; false when the tenant does not exist.
    async fn put_issuer(&self, issuer: Issuer) -> Result<bool>;
    /// A tenant's issuers, by their URLs.
    async fn issuers(&self, tenant: &TenantId) -> Result<Vec<Issuer>>;
    /// Who trusts the issuer with this URL: one tenant, or every one, by their ids; with it whether the tenant is paused.
    async fn trusting(&self, url: &str, tenant: Option<&TenantId>) -> Result<Vec<(Issuer, bool)>>;
    /// Trusts an issuer no more; false when there is none of this URL.
    async fn remove_issuer(&self, tenant: &TenantId, url: &str) -> Result<bool>;

    // --- sources

    /// Creates a source; `None` when the id is taken.
    async fn create_source(&self, source: NewSource) -> Result<Option<Source>>;
    /// The source, if it exists.
    async fn source(&self, tenant: &TenantId, id: &SourceId) -> Result<Option<Source>>;
    /// Every source of the tenant, oldest first.
    async fn sources(&self, tenant: &TenantId) -> Result<Vec<Source>>;
    /// Changes a source's name, stream switch and properties.
    async fn update_source(&self, source: &Source) -> Result<bool>;
    /// Deletes an empty source with its pushes; false when it holds items or does not exist.
    async fn delete_source(&self, source: i64) -> Result<bool>;
    /// Remembers what the client says it is doing.
    async fn set_activity(&self, source: i64, activity: Activity) -> Result<()>;
    /// Creates or changes an identity provider.
    async fn put_provider(&self, tenant: &TenantId, id: &ProviderId, body: Value, now: Timestamp) -> Result<()>;
    /// The provider's body, if it exists.
    async fn provider(&self, tenant: &TenantId, id: &ProviderId) -> Result<Option<Value>>;
    /// The tenant's fields by name.
    async fn fields(&self, tenant: &TenantId) -> Result<Vec<(String, String)>>;
    /// Creates fields, all or none. `Some` is the first name that exists with another type.
    async fn create_fields(&self, tenant: &TenantId, fields: Vec<(String, String)>) -> Result<Option<String>>;

    // --- uploads

    /// Opens sessions, all or none: the first fact of an upload. Their declared sizes are reserved. `Some` is the quota
    /// that does not allow it.
    async fn open_sessions(&self, sessions: Vec<Session>) -> Result<Option<OverQuota>>;
    /// Opens a session unless an equal call did so before: mark, session and reservation are decided in one step.
    async fn open_marked(&self, session: Session, once: Once) -> Result<Opening>;
    /// The session, if it is remembered.
    async fn session(&self, tenant: &TenantId, id: SessionId) -> Result<Option<Session>>;
    /// The session with how far it has come, whoever's it is: for whoever holds its secret URL.
    async fn upload(&self, id: SessionId) -> Result<Option<Upload>>;
    /// The tenant's uploads of files of their own, newest first.
    async fn uploads(&self, tenant: &TenantId, filter: UploadFilter) -> Result<Vec<Upload>>;
    /// Raises the epoch of an open session, so that whoever writes to it is fenced and its last extent is frozen. `None`
    /// when it is not open any more.
    async fn take_over(&self, id: SessionId, now: Timestamp) -> Result<Option<Upload>>;
    /// Records what a resumable session's writer has made durable, unless the writer is fenced or the quota has no room.
    async fn advance(&self, advance: Advance) -> Result<Advanced>;
    /// Records a part of an open multipart session, in place of what its number had.
    async fn record_part(&self, part: NewPart) -> Result<PartRecorded>;
    /// The recorded parts of a session, by their numbers.
    async fn parts(&self, id: SessionId) -> Result<Vec<Part>>;
    /// One recorded part of a session.
    async fn part(&self, id: SessionId, number: u32) -> Result<Option<Part>>;
    /// Makes a version of the parts that are recorded, all of them, or says why they make none. A part that is replaced
    /// meanwhile is in it or not, and never both.
    async fn commit_parts(&self, commit: CommitParts) -> Result<PartsCommitted>;
    /// Ends an open session without a version, as `Aborted` or `Failed`; its epoch rises, so that its writer is fenced,
    /// and its bytes are due for deletion. Says how the session stands then, if it is remembered.
    async fn end_session(&self, id: SessionId, state: SessionState, now: Timestamp) -> Result<Option<SessionState>>;
    /// Remembers the store's name for the upload in parts of a session whose client sends to the store itself. The answer
    /// is the name that counts, the first that was told; `None` when the session is not open.
    async fn begun(&self, id: SessionId, upload: String, now: Timestamp) -> Result<Option<String>>;
    /// Makes a version exist, whole, in one step.
    async fn commit(&self, version: NewVersion) -> Result<Committed>;
    /// The tenant's file, if it has been committed.
    async fn file(&self, tenant: &TenantId, id: FileId) -> Result<Option<FileInfo>>;
    /// A version with its pieces.
    async fn version(&self, tenant: &TenantId, id: VersionId) -> Result<Option<Version>>;

    // --- files

    /// The versions of a file that are kept, newest first, without their pieces.
    async fn versions_of(&self, tenant: &TenantId, file: FileId) -> Result<Vec<Version>>;
    /// Makes a committed file one of the tenant's files; its version is held from then on.
    async fn register_file(&self, register: RegisterFile) -> Result<Registered>;
    /// A committed file, registered or not.
    async fn file_record(&self, tenant: &TenantId, id: FileId) -> Result<Option<FileRecord>>;
    /// Registered files.
    async fn files(&self, tenant: &TenantId, filter: FileFilter) -> Result<Vec<FileRecord>>;
    /// How many files are registered.
    async fn count_files(&self, tenant: &TenantId) -> Result<u64>;
    /// Deletes a registered file with all its registrations; without `force` only one that no other registration holds.
    async fn delete_file(
        &self,
        tenant: &TenantId,
        id: FileId,
        force: bool,
        now: Timestamp,
        keep_replaced: Duration,
    ) -> Result<FileDeleted>;
    /// Deletes a committed file that nobody has registered, and ends its session; false when there is none.
    async fn discard_file(&self, tenant: &TenantId, id: FileId, now: Timestamp) -> Result<bool>;

    // --- stores

    /// Creates a store.
    async fn create_store(&self, store: NewStore) -> Result<Store>;
    /// The store, if it exists.
    async fn store(&self, tenant: &TenantId, id: StoreId) -> Result<Option<Store>>;
    /// Stores of the tenant that match, and how many there are beyond the page.
    async fn stores(&self, tenant: &TenantId, filter: StoreFilter) -> Result<(Vec<Store>, u64)>;
    /// The stores that hold a file, with the version that each holds and since when; newest first.
    async fn holders_of(&self, tenant: &TenantId, file: FileId) -> Result<Vec<Holder>>;
    /// Changes a store's name, description, properties and whether it is in use; false when it does not exist.
    async fn update_store(&self, store: &Store) -> Result<bool>;
    /// Deletes a store at once; a job lets go of its files. False when it does not exist.
    async fn delete_store(&self, store: i64, now: Timestamp) -> Result<bool>;
    /// Lets go of up to `limit` files of a deleted store; true when there are more. With the last one the store's row goes.
    async fn empty_store(&self, store: i64, limit: u32, now: Timestamp, keep_replaced: Duration) -> Result<bool>;
    /// Takes an uploaded file into a store: the file becomes one of the tenant's, the store holds its current version, and
    /// its processing is due, in one step.
    async fn link_file(&self, link: LinkFile) -> Result<Linked>;
    /// A file of a store.
    async fn store_file(&self, store: i64, file: FileId) -> Result<Option<StoreFile>>;
    /// Files of a store by their rows, in no order; those that are not there any more are left out.
    async fn store_files_by_row(&self, store: Option<i64>, rows: Vec<i64>) -> Result<Vec<StoreFile>>;
    /// Files of a store that match, and how many there are beyond the page.
    async fn store_files(&self, store: i64, filter: StoreFileFilter) -> Result<(Vec<StoreFile>, u64)>;
    /// Takes files out of a store, those that are in it; their chunks are due to go. Says how many there were.
    async fn unlink_files(
        &self,
        store: i64,
        files: Vec<FileId>,
        now: Timestamp,
        keep_replaced: Duration,
    ) -> Result<u64>;
    /// Makes the processing of a file that ended due again, well or not; one that is under way stays as it is.
    async fn retry_file(&self, store: i64, file: FileId, now: Timestamp) -> Result<Option<StoreFile>>;
    /// What the processor said about a store's file, oldest first.
    async fn store_file_log(&self, row: i64) -> Result<Vec<LogEntry>>;
    /// Records that a step of a store file's processing begins; false when the job's lease was lost.
    async fn begin_step(&self, job: &LeasedJob, began: Began) -> Result<bool>;
    /// Ends a store file's processing, or gives it back.
    async fn end_processing(&self, job: &LeasedJob, processed: Processed) -> Result<()>;

    // --- entries

    /// Makes an entry, or changes the one that has its external id, and opens the upload of its content, in one step.
    async fn make_entry(&self, entry: NewEntry) -> Result<EntryMade>;
    /// Makes entries that stand for nodes, without an end of their waiting, or changes those that are there: all or none.
    async fn put_nodes(&self, tenant: &TenantId, nodes: Vec<NodeEntry>, now: Timestamp) -> Result<EntriesChanged>;
    /// Opens an upload of the content of an entry, which waits for it as long as the upload lives; `None` when there is
    /// no such entry. The session gets the entry's file, and what is said about it.
    async fn open_for_entry(&self, entry: EntryRef, session: Session) -> Result<Option<EntryMade>>;
    /// Entries of the tenant, in the order asked for.
    async fn entries(&self, tenant: &TenantId, entries: Vec<EntryRef>) -> Result<Vec<Option<Entry>>>;
    /// Entries that are meant, in the order of their numbers.
    async fn find_entries(&self, tenant: &TenantId, filter: EntryFilter, stretch: Stretch) -> Result<Vec<Entry>>;
    /// Entries that are meant and have these words in their names, without case, the best first.
    async fn search_entries(
        &self,
        tenant: &TenantId,
        words: &str,
        filter: EntryFilter,
        limit: u32,
    ) -> Result<Vec<Entry>>;
    /// How many are meant.
    async fn count_entries(&self, tenant: &TenantId, filter: EntryFilter) -> Result<u64>;
    /// Changes entries, all or none.
    async fn change_entries(
        &self,
        tenant: &TenantId,
        changes: Vec<(EntryRef, FactsEdit)>,
        now: Timestamp,
    ) -> Result<EntriesChanged>;
    /// Deletes entries with their files, all or none; their uploads end.
    async fn delete_entries(&self, delete: DeleteEntries) -> Result<EntriesDeleted>;

    // --- streams

    /// Opens a stream with its first container.
    async fn open_stream(
        &self,
        stream: StreamId,
        tenant: &TenantId,
        source: i64,
        file: FileId,
        now: Timestamp,
    ) -> Result<()>;
    /// Adds a container to an open stream; false when it is unknown or closed.
    async fn add_chunk(&self, stream: StreamId, tenant: &TenantId, source: i64, file: FileId) -> Result<bool>;
    /// The containers of a stream in order, and the push that closed it.
    async fn stream(
        &self,
        stream: StreamId,
        tenant: &TenantId,
        source: i64,
    ) -> Result<Option<(Vec<FileId>, Option<(RequestId, Ordering)>)>>;

    // --- pushes

    /// Accepts a push: uses up its containers and makes its job due, in one step, in which the tenant's limits are
    /// compared with what it holds, with what waits, and with what was accepted in the day. A repeated push is
    /// recognised first: it adds nothing.
    async fn accept(&self, push: NewPush) -> Result<Accepted>;
    /// How many items a push of this kind to a source could add and change now. What [`Self::accept`] says counts: this
    /// saves the work for a push that it would refuse.
    async fn item_room(&self, tenant: &TenantId, source: i64, kind: PushKind, now: Timestamp) -> Result<ItemRoom>;
    /// Leases the next push that is due, one at a time per source or provider.
    async fn lease_push(&self, now: Timestamp, lease: Duration) -> Result<Option<Lease>>;
    /// Applies changes to items, moving the cursor.
    async fn apply(
        &self,
        lease: &Lease,
        changes: Vec<Resolved>,
        now: Timestamp,
        keep_replaced: Duration,
    ) -> Result<Applied>;
    /// Applies changes to identities, moving the cursor.
    async fn apply_identities(
        &self,
        lease: &Lease,
        changes: Vec<(IdentityChange, u64)>,
        now: Timestamp,
    ) -> Result<Applied>;
    /// Deletes some of what a `Load` or an `OlderThan` deletes in the end; true when there is more.
    async fn apply_deletions(&self, lease: &Lease, now: Timestamp, keep_replaced: Duration) -> Result<bool>;
    /// Ends the application of a push: done, once its items' text is extracted; or failed for this reason.
    async fn finish_push(
        &self,
        lease: &Lease,
        problem: Option<String>,
        now: Timestamp,
        keep_replaced: Duration,
    ) -> Result<()>;
    /// Gives a push back: to be tried again at `due` for this problem, or without one because it is another's turn.
    async fn return_push(&self, lease: &Lease, due: Timestamp, problem: Option<String>) -> Result<()>;
    /// A push with its first failures.
    async fn push(&self, tenant: &TenantId, request: RequestId) -> Result<Option<Push>>;
    /// Pushes of a source or provider, newest first.
    async fn pushes(
        &self,
        tenant: &TenantId,
        target: &str,
        state: Option<PushState>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Push>>;

    // --- items

    /// An item by its document id.
    async fn item(&self, source: i64, document_id: &str) -> Result<Option<Item>>;
    /// An item by its row, with its tenant.
    async fn item_by_row(&self, row: i64) -> Result<Option<(TenantId, Item)>>;
    /// Items of a source, newest first.
    async fn items(&self, source: i64, filter: ItemFilter) -> Result<Vec<Item>>;

    // --- jobs

    /// Leases jobs that are due, of all pushes and stores that have some alike: a large push does not make a small one
    /// wait, and pushes and stores do not make each other wait.
    async fn lease_jobs(&self, now: Timestamp, lease: Duration, limit: u32) -> Result<Vec<LeasedJob>>;
    /// Ends a job: the item's new state, and one item less for its push to wait for.
    async fn finish_job(&self, job: &LeasedJob, extraction: Option<Extraction>, now: Timestamp) -> Result<()>;
    /// Gives a job back, to be tried again at `due`.
    async fn return_job(&self, job: &LeasedJob, due: Timestamp) -> Result<()>;
    /// Takes back every lease of this process, at its start: what held one before is gone. Others that use the same
    /// database keep theirs.
    async fn release_leases(&self) -> Result<()>;
    /// Makes the extraction of up to `limit` items above row `after` due again; says the last row, or `None` at the end.
    async fn requeue_items(&self, after: i64, limit: u32, now: Timestamp) -> Result<Option<i64>>;
    /// Makes the processing of up to `limit` completed store files above row `after` due again; says the last row, or `None`
    /// at the end.
    async fn requeue_store_files(&self, after: i64, limit: u32, now: Timestamp) -> Result<Option<i64>>;
    /// When the next push or job is due, if any waits.
    async fn next_due(&self) -> Result<Option<Timestamp>>;

    // --- sweep

    /// Marks open sessions whose time is over.
    async fn expire_sessions(&self, now: Timestamp, limit: u32) -> Result<u64>;
    /// Lets go of unused files whose time is over, and of rows that nobody needs. Only when the clocks agree.
    async fn expire_files(&self, now: Timestamp, limit: u32) -> Result<Swept>;
    /// Segments to delete now.
    async fn due_tombstones(&self, now: Timestamp, limit: u32) -> Result<Vec<Tombstone>>;
    /// Remembers that these are being deleted, before they are. Those of them that still are to be: of the others somebody else
    /// has decided meanwhile.
    async fn unlinked(&self, segments: Vec<SegmentId>, now: Timestamp) -> Result<Vec<SegmentId>>;
    /// Segments that could not be deleted: again at `due`.
    async fn postpone(&self, segments: Vec<SegmentId>, due: Timestamp) -> Result<()>;
    /// Segments deleted before this: delete again, then [`Self::drop_tombstones`].
    async fn old_tombstones(&self, before: Timestamp, limit: u32) -> Result<Vec<Tombstone>>;
    /// Forgets them.
    async fn drop_tombstones(&self, segments: Vec<SegmentId>) -> Result<()>;
    /// Which of these segments have a row, in the same order.
    async fn known_segments(&self, segments: Vec<SegmentId>) -> Result<Vec<bool>>;
    /// The pieces of versions that this upload made, each with what finds its bytes.
    async fn pieces_of(&self, session: SessionId) -> Result<Vec<(SegmentId, String)>>;

    // --- places

    /// Pieces of versions whose bytes are at a place, behind this one, in the order of versions and positions.
    async fn pieces_at(&self, place: PlaceId, after: Option<(VersionId, u32)>, limit: u32) -> Result<Vec<PlacedPiece>>;
    /// Remembers a copy before it is begun, or gives it more time. False when it is being deleted already.
    async fn intend_copy(&self, copy: IntendedCopy) -> Result<bool>;
    /// Puts a copy in the place of a piece; what was copied is due for deletion, and the copy no longer. False when the row
    /// names something else by now, or the copy is being deleted, and nothing was changed.
    async fn move_piece(&self, moved: MovePiece) -> Result<bool>;
    /// Does any row need this place? What is only to be deleted there does not.
    async fn names_bytes_at(&self, place: PlaceId, now: Timestamp) -> Result<bool>;
    /// What rows name at a place. Reads all of those.
    async fn held_at(&self, place: PlaceId, now: Timestamp) -> Result<HeldAt>;

    // --- numbers

    /// What a tenant holds.
    async fn usage(&self, tenant: &TenantId) -> Result<Usage>;
    /// Invariants of the rows that do not hold, a sentence each. Reads everything once.
    async fn broken_invariants(&self, now: Timestamp) -> Result<Vec<String>>;
    /// Uploads that have recorded bytes, above an id, in the order of their ids.
    async fn progressing_above(&self, after: Option<SessionId>, limit: u32) -> Result<Vec<Upload>>;
    /// Versions above an id, in the order of their ids, with their pieces.
    async fn versions_above(&self, after: Option<VersionId>, limit: u32) -> Result<Vec<Version>>;
    /// Of all processes that use this database, does this one do what one of them should: expire, sweep, delete?
    async fn leads(&self) -> Result<bool>;
    /// May other processes use this database at the same time?
    fn is_shared(&self) -> bool;
    /// Can it write? For readiness.
    async fn ping(&self) -> Result<()>;
}
