//! Facts. Every method of [`MetaStore`] is one transaction named by a verb of the domain; the gaps between two of
//! them are the crash points. An answer is given only when its transaction is durable, refusals included.

pub mod sql;

#[cfg(test)]
pub(crate) mod contract;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::model::access::{Caller, Rights};
use crate::model::change::{Change, IdentityChange, Ordering};
use crate::model::entry::{Entry, EntryFilter, EntryRef, Facts, FactsEdit, NodeId, Stretch, Wrong};
use crate::model::file::{Declared, Digests, FileRecord, Piece, Receipt, Version};
use crate::model::ids::{
    FileId, KeyId, ProviderId, RequestId, SegmentId, SessionId, SourceId, StoreFileId, StoreId, StreamId, TenantId,
    VersionId,
};
use crate::model::issuer::Issuer;
use crate::model::job::JobKind;
use crate::model::session::{Lacking, Part, Progress, Session, SessionState};
use crate::model::source::{Activity, Item, ItemState, Push, PushKind, PushState, Source};
use crate::model::store::{LogEntry, ProcessingState, Step, Store, StoreFile};

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

/// A key as it is listed: never the key itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyInfo {
    /// Its public id.
    pub id: KeyId,
    /// The tenant that it belongs to.
    pub tenant: TenantId,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub rights: Rights,
    /// When it was made.
    pub created: Timestamp,
    /// When it stops working.
    pub expires: Option<Timestamp>,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
}

/// A client's mark on a call: its repetition is recognised and has no second effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Once {
    /// What the client calls the call.
    pub mark: String,
    /// A digest of the call's body: the same mark on another body is a mistake.
    pub body: [u8; 32],
    /// Marks older than this are forgotten.
    pub since: Timestamp,
}

/// What is known about a marked call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Marked {
    /// The mark is new; from now on it stands for this call.
    New,
    /// An equal call got this answer.
    Before(Vec<u8>),
    /// The mark was used for another call or body.
    OtherBody,
}

/// What became of an upload that its client marked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opening {
    /// It is open.
    New,
    /// An equal call opened this one before.
    Before(Box<Session>),
    /// The mark was used for another call or body.
    OtherBody,
    /// The tenant's quota does not allow it.
    OverQuota(OverQuota),
}

/// What became of a new key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyCreated {
    /// It holds.
    New,
    /// An equal call made this one before.
    Before(KeyInfo),
    /// The mark was used for another body.
    OtherBody,
}

/// How many items a tenant may have and change; `None` is without a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ItemLimits {
    /// Items that one source may hold.
    pub per_source: Option<u64>,
    /// Items that may be added or changed in one day (UTC).
    pub per_day: Option<u64>,
}

/// A change of [`ItemLimits`]: the outer `None` leaves a limit as it is, the inner one takes it away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NewItemLimits {
    /// Items that one source may hold.
    pub per_source: Option<Option<u64>>,
    /// Items that may be added or changed in one day (UTC).
    pub per_day: Option<Option<u64>>,
}

/// How many items a push may add and change now; `None` is without a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ItemRoom {
    /// Items that may be added: what the source's limit leaves beside what it holds and what waits.
    pub puts: Option<u64>,
    /// Items that may be added or changed: what the day's limit leaves.
    pub changed: Option<u64>,
    /// The limits themselves.
    pub limits: ItemLimits,
}

/// A tenant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TenantInfo {
    /// Its id.
    pub id: TenantId,
    /// Which API its callers speak, or `auto`.
    pub api: String,
    /// When it was made.
    pub created: Timestamp,
    /// What it may hold.
    pub quota: Quota,
    /// Since when nothing is taken or changed, while it is paused.
    pub paused: Option<Timestamp>,
    /// How many items it may have and change.
    pub items: ItemLimits,
}

impl TenantInfo {
    /// A tenant as it begins: neither paused nor limited.
    #[must_use]
    pub fn new(id: TenantId, api: impl Into<String>, created: Timestamp) -> Self {
        Self { id, api: api.into(), created, paused: None, items: ItemLimits::default(), quota: Quota::default() }
    }
}

/// What a tenant may hold; `None` for no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quota {
    /// Bytes, committed and reserved by open sessions.
    pub bytes: Option<u64>,
    /// Open sessions.
    pub sessions: Option<u64>,
}

/// A quota that does not allow something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OverQuota {
    /// `bytes` or `open uploads`.
    pub what: &'static str,
    /// The quota.
    pub limit: u64,
    /// How much of it is in use or reserved.
    pub used: u64,
    /// How much more was asked for.
    pub wanted: u64,
}

/// A source to create.
#[derive(Clone, PartialEq, Debug)]
pub struct NewSource {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its id; must be new in the tenant.
    pub id: SourceId,
    /// What people call it.
    pub name: String,
    /// Does it take streams?
    pub stream_enabled: bool,
    /// Everything else, as given.
    pub properties: Map<String, Value>,
    /// Now.
    pub now: Timestamp,
}

/// A version to commit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewVersion {
    /// The session whose upload is complete.
    pub session: SessionId,
    /// The epoch that the writer held.
    pub epoch: u32,
    /// For a resumable session, the offset at which its last request began: the row must still show it.
    pub from: u64,
    /// The version's id.
    pub version: VersionId,
    /// Its bytes.
    pub pieces: Vec<Piece>,
    /// Bytes in all.
    pub size: u64,
    /// Digests of the whole.
    pub digests: Digests,
    /// Now.
    pub now: Timestamp,
    /// How long replaced bytes are kept for those who still read them.
    pub keep_replaced: Duration,
    /// What it may replace.
    pub over: Over,
}

/// What a new version may replace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// Whatever is there.
    Anything,
    /// There may be no version yet.
    Nothing,
    /// This one, or none, was current when the new one was looked for; or it is current itself.
    This(Option<VersionId>),
}

/// What became of a commit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Committed {
    /// The version exists and is current.
    New(Version),
    /// The session holds the same bytes already; the new segment is not needed.
    Same(Version),
    /// The file has been used and its bytes are these: the same answer again, nothing changed.
    SameAsUsed {
        /// Size in bytes.
        size: u64,
        /// Digests of the bytes that were used.
        digests: Digests,
    },
    /// There is another version than this one may replace.
    Exists,
    /// The file has been used and its bytes were others.
    Used,
    /// The session is no longer open: expired, aborted, or its epoch has risen.
    Closed,
    /// The tenant's quota does not allow it. Nothing changed.
    OverQuota(OverQuota),
}

/// A part whose bytes are durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewPart {
    /// The session.
    pub session: SessionId,
    /// The epoch that the writer holds.
    pub epoch: u32,
    /// The part.
    pub part: Part,
    /// Now.
    pub now: Timestamp,
}

/// What became of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartRecorded {
    /// It counts. What its number had before is due for deletion.
    Recorded,
    /// The session is not open any more. Nothing changed.
    Closed,
    /// All parts together would have more bytes than the session may take: this many. Nothing changed.
    TooLarge(u64),
    /// The tenant's quota has no room for what goes beyond the declared size. Nothing changed.
    OverQuota(OverQuota),
}

/// A multipart session to commit, of the parts that its rows name then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitParts {
    /// The session.
    pub session: SessionId,
    /// The version's id.
    pub version: VersionId,
    /// The size that the client names now.
    pub size: Option<u64>,
    /// The checksums that the client names now.
    pub digests: Declared,
    /// Now.
    pub now: Timestamp,
    /// How long replaced bytes are kept for those who still read them.
    pub keep_replaced: Duration,
}

/// What became of it. The session stays open but for the first two.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PartsCommitted {
    /// The version exists and is current.
    New(Receipt),
    /// It was committed before, with this receipt. What the client names now was not looked at.
    Before(Receipt),
    /// The parts make no file yet; so many bytes are there.
    Lacking(Lacking, u64),
    /// The whole differs from what was declared, or is named now.
    Differs {
        /// `size`, `crc32c` or `crc64nvme`.
        what: &'static str,
        /// What was declared.
        declared: String,
        /// What is there.
        found: String,
    },
    /// The session is not open, nor was it committed; or it is none of parts.
    Closed,
    /// The tenant's quota does not allow it.
    OverQuota(OverQuota),
}

/// What a resumable session's writer has made durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advance {
    /// The session.
    pub session: SessionId,
    /// The epoch that the writer holds.
    pub epoch: u32,
    /// The offset that the row must still show.
    pub from: u64,
    /// How far the session has come now; its last piece is the one that grew or is new, the others are as recorded.
    pub progress: Progress,
    /// The file's size, where the client told it with the bytes: it is kept as if it had been declared.
    pub total: Option<u64>,
    /// Now.
    pub now: Timestamp,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advanced {
    /// It is recorded.
    Recorded,
    /// The writer is fenced, or the session is over.
    Fenced,
    /// The tenant's quota has no room for what goes beyond the declared size. Nothing changed.
    OverQuota(OverQuota),
}

/// A session that was found by its id alone, with how far it has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upload {
    /// Its row.
    pub session: Session,
    /// Its progress; of a multipart session only the bytes received, in whatever parts; empty for a single PUT.
    pub progress: Progress,
    /// What its commit answered, if it is committed.
    pub receipt: Option<Receipt>,
    /// Is its tenant paused?
    pub paused: bool,
}

/// Which of a tenant's uploads to list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UploadFilter {
    /// In this state; one whose time is over at `now` is expired, swept or not.
    pub state: Option<SessionState>,
    /// Now.
    pub now: Timestamp,
    /// Of this name.
    pub name: Option<String>,
    /// Of this declared size.
    pub size: Option<u64>,
    /// With this declared SHA-256.
    pub sha256: Option<[u8; 32]>,
    /// Older than this one.
    pub before: Option<SessionId>,
    /// At most so many.
    pub limit: u32,
}

/// A file to register.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegisterFile {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which one.
    pub file: FileId,
    /// What to call it from now on.
    pub name: String,
    /// Now.
    pub now: Timestamp,
}

/// What became of a registration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Registered {
    /// It is one of the tenant's files now.
    New(FileRecord),
    /// It was before, and nothing changed.
    Before(FileRecord),
    /// There is no such committed file.
    Gone,
}

/// Which of a tenant's registered files to list, newest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FileFilter {
    /// In this folder, or below it.
    pub path: Option<String>,
    /// Of this name.
    pub name: Option<String>,
    /// Of this media type.
    pub mime_type: Option<String>,
    /// Of at least so many bytes.
    pub min_size: Option<u64>,
    /// Committed after this.
    pub committed_after: Option<Timestamp>,
    /// Registered before this file, which is named by its time and id.
    pub before: Option<(Timestamp, FileId)>,
    /// Leave out so many.
    pub offset: u64,
    /// At most so many.
    pub limit: u32,
}

/// A store's hold on a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The store.
    pub store: StoreId,
    /// The version that it holds.
    pub version: VersionId,
    /// Since when.
    pub since: Timestamp,
}

/// What became of a file's deletion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileDeleted {
    /// It is gone, and has left every store.
    Done,
    /// There was none.
    Missing,
    /// So many registrations hold it.
    Held(u64),
}

/// A container as the verbs see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileInfo {
    /// Its id.
    pub id: FileId,
    /// The current version, unless its bytes are gone.
    pub version: Option<Version>,
    /// Bytes of the last version.
    pub size: u64,
    /// Digests of the last version.
    pub digests: Digests,
    /// Was it used, by which push and as what?
    pub used: Option<(RequestId, Ordering, Vec<u8>)>,
    /// When it goes, unless something holds it.
    pub expires: Option<Timestamp>,
}

/// A push to accept.
#[derive(Clone, PartialEq, Debug)]
pub struct NewPush {
    /// What the client follows it by.
    pub request: RequestId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The source's row, for changes to items.
    pub source: Option<i64>,
    /// The source's or provider's id.
    pub target: String,
    /// What it asks for.
    pub kind: PushKind,
    /// Its ordering id; without one, the time by a clock that never goes back.
    pub ordering: Option<Ordering>,
    /// Not before this.
    pub due: Timestamp,
    /// The change records.
    pub changes: Changes,
    /// How many there are.
    pub records: u64,
    /// Of them, those that add an item or replace one.
    pub puts: u64,
    /// Of them, those that add or change an item: what a day's limit counts.
    pub changed: u64,
    /// The containers that it uses up; each must be unused, or used by an equal push.
    pub uses: Vec<FileUse>,
    /// The stream that it closes.
    pub closes: Option<StreamId>,
    /// Now.
    pub now: Timestamp,
    /// How long the bytes of containers used up are kept for those who still read them.
    pub keep_replaced: Duration,
}

/// Where the change records of a push are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Changes {
    /// In the push's row: JSON, one record a line.
    Inline(Vec<u8>),
    /// In a committed internal file.
    Stored {
        /// The file.
        file: FileId,
        /// Its version.
        version: VersionId,
        /// Its size in bytes.
        size: u64,
    },
}

/// What a push does with a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileUse {
    /// Which file.
    pub file: FileId,
    /// The version that the caller saw.
    pub version: VersionId,
    /// A digest of the whole call: an equal one is a repetition, another one a second use.
    pub call: Vec<u8>,
    /// Is the content needed until the push is applied, or is it used up?
    pub as_content: bool,
}

/// What became of a push.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Accepted {
    /// It is accepted, with this ordering id; its job is due.
    New(Ordering),
    /// An equal call was accepted before, under these ids.
    Before(RequestId, Ordering),
    /// A container is unknown, expired, or used by another call.
    FileGone(FileId),
    /// A container has another content than the one that the caller saw.
    FileReplaced(FileId),
    /// The tenant is paused.
    TenantPaused,
    /// The source would hold more items than this.
    TooManyItems(u64),
    /// More items than this would be added or changed in the day.
    TooManyItemsToday(u64),
    /// The stream is unknown or closed by another call.
    StreamGone,
    /// The source was deleted meanwhile.
    SourceGone,
}

/// A push to be applied, leased to one worker.
#[derive(Clone, PartialEq, Debug)]
pub struct Lease {
    /// Its row.
    pub push: i64,
    /// Its id, for the log.
    pub request: RequestId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The source's row.
    pub source: Option<i64>,
    /// The source's or provider's id.
    pub target: String,
    /// What it asks for.
    pub kind: PushKind,
    /// Its ordering id.
    pub ordering: Ordering,
    /// Where in the change records to go on, in bytes.
    pub cursor: u64,
    /// The change records.
    pub changes: LeasedChanges,
    /// The lease's end, which is also its proof.
    pub until: Timestamp,
    /// How often it was begun.
    pub attempts: u32,
}

/// The change records of a leased push.
#[derive(Clone, PartialEq, Debug)]
pub enum LeasedChanges {
    /// Here.
    Inline(Vec<u8>),
    /// There.
    Stored(Version),
}

/// A change ready to be applied: its content is in the record or committed.
#[derive(Clone, PartialEq, Debug)]
pub struct Resolved {
    /// The change; the content of its draft is ignored.
    pub change: Change,
    /// Its content.
    pub content: ResolvedContent,
    /// Why it can't be applied, found while it was made ready.
    pub problem: Option<String>,
    /// The cursor behind its record.
    pub end: u64,
}

/// Content ready to be applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ResolvedContent {
    /// Nothing was said about the content.
    None,
    /// Small: into the row.
    Inline(Vec<u8>),
    /// A committed version.
    Stored {
        /// Which one.
        version: VersionId,
        /// Its size in bytes.
        size: u64,
    },
}

/// What one application did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// The first so many changes are applied, and the cursor stands behind them. Call again with the rest.
    Upto(usize),
    /// The lease was lost: somebody else goes on.
    LeaseLost,
    /// The source was deleted: there is nothing to apply it to.
    SourceGone,
}

/// A job leased to one worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeasedJob {
    /// What to do.
    pub kind: JobKind,
    /// With which row.
    pub subject: i64,
    /// The push that asked for it, or below zero the store.
    pub push: i64,
    /// The lease's end, which is also its proof.
    pub until: Timestamp,
    /// How often it was begun, this time included.
    pub attempts: u32,
}

/// What became of an item's text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extraction {
    /// `Ready` or `Failed`.
    pub state: ItemState,
    /// Why it failed, or what was cut off.
    pub problem: Option<String>,
}

/// Which items to list.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ItemFilter {
    /// Document ids that start with this.
    pub prefix: Option<String>,
    /// Metadata fields with these values, as text.
    pub fields: Vec<(String, String)>,
    /// Changed after this.
    pub changed_after: Option<Timestamp>,
    /// In this state.
    pub state: Option<ItemState>,
    /// Last changed by this push.
    pub push: Option<i64>,
    /// Only these rows (from a search).
    pub rows: Option<Vec<i64>>,
    /// Rows below this one.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: u32,
}

/// A store to create.
#[derive(Clone, PartialEq, Debug)]
pub struct NewStore {
    /// Its id, new.
    pub id: StoreId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What people call it.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Everything else, as given.
    pub properties: Map<String, Value>,
    /// The key that makes it.
    pub created_by: Option<KeyId>,
    /// Now.
    pub now: Timestamp,
}

/// By what stores are sorted; those that are alike, by age.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StoreOrder {
    /// By age.
    #[default]
    Created,
    /// By name, without case.
    Name,
    /// By the bytes that they hold.
    Bytes,
}

/// Which of a tenant's stores to list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoreFilter {
    /// With this in the name, without case.
    pub search: Option<String>,
    /// In use, or not.
    pub active: Option<bool>,
    /// With this text as the property of this name, or in the list that it is.
    pub property: Option<(String, String)>,
    /// By what they are sorted.
    pub order: StoreOrder,
    /// The smallest, or the oldest, first?
    pub ascending: bool,
    /// With a row below this one.
    pub before: Option<i64>,
    /// Leave out so many.
    pub offset: u64,
    /// At most so many.
    pub limit: u32,
}

/// Which of a store's files to list, newest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoreFileFilter {
    /// In this state.
    pub state: Option<ProcessingState>,
    /// With this in the name, without case.
    pub search: Option<String>,
    /// With a row below this one.
    pub before: Option<i64>,
    /// Leave out so many.
    pub offset: u64,
    /// At most so many.
    pub limit: u32,
}

/// A file to take into a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkFile {
    /// The store's row.
    pub store: i64,
    /// Whose both are.
    pub tenant: TenantId,
    /// Which file.
    pub file: FileId,
    /// Its place's own name, new.
    pub id: StoreFileId,
    /// Its path within the store.
    pub path: Option<String>,
    /// Must it be one of the tenant's files already? Otherwise it becomes one.
    pub registered_only: bool,
    /// Now.
    pub now: Timestamp,
    /// How long bytes that the store lets go of are kept for those who still read them.
    pub keep_replaced: Duration,
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Linked {
    /// The store holds the file's current version now, and its processing is due.
    New(StoreFile),
    /// It held it before, and nothing changed.
    Before(StoreFile),
    /// There is no such file.
    FileGone,
    /// There is no such store.
    StoreGone,
}

/// A step of a store file's processing that begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Began {
    /// Which step.
    pub step: Step,
    /// What is to be said about it.
    pub log: Vec<LogEntry>,
    /// Now.
    pub now: Timestamp,
}

/// How a store file's processing ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Processed {
    /// `Completed`, or `Failed`, or `Pending` for another try.
    pub state: ProcessingState,
    /// How many chunks there are, if that changed.
    pub chunks: Option<u64>,
    /// Why it failed, or what is not found.
    pub problem: Option<String>,
    /// When it is tried again.
    pub due: Option<Timestamp>,
    /// What is to be said about it.
    pub log: Vec<LogEntry>,
    /// Now.
    pub now: Timestamp,
}

/// An entry to make in a tenant's catalogue.
#[derive(Clone, PartialEq, Debug)]
pub struct NewEntry {
    /// Whose it is.
    pub tenant: TenantId,
    /// The file that its content will be, new.
    pub file: FileId,
    /// The node that it stands for.
    pub node: Option<NodeId>,
    /// What is said about it.
    pub facts: Facts,
    /// The upload of its content, to be opened with it; it gets the entry's file.
    pub session: Option<Session>,
    /// What changes of the entry that has this external id already, where there is one and that is wanted.
    pub overwrite: Option<FactsEdit>,
    /// When it goes, unless its content comes.
    pub expires: Option<Timestamp>,
    /// Now.
    pub now: Timestamp,
}

/// An entry that stands for a node, as it is to be.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeEntry {
    /// The node.
    pub node: NodeId,
    /// The file that its content will be, new; for one that is not there.
    pub file: FileId,
    /// What is said about one that is not there.
    pub facts: Facts,
    /// What changes of one that is there.
    pub edit: FactsEdit,
}

/// What became of it.
#[derive(Clone, PartialEq, Debug)]
pub enum EntryMade {
    /// It is there, new or changed, and the upload is open.
    Done(Box<Entry>),
    /// Another entry has this external id, or stands for this node.
    Taken,
    /// The entry with this external id can't be changed so.
    Wrong(Wrong),
    /// The tenant's quota does not allow the upload. Nothing changed.
    OverQuota(OverQuota),
}

/// What became of a change of entries: of all or of none.
#[derive(Clone, PartialEq, Debug)]
pub enum EntriesChanged {
    /// They are as they are here, in the order of the changes.
    Done(Vec<Entry>),
    /// Those at these places do not exist.
    Missing(Vec<usize>),
    /// Other entries have these external ids.
    Taken(Vec<String>),
    /// The change at this place can't be.
    Wrong(usize, Wrong),
}

/// What became of a deletion of entries: of all or of none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntriesDeleted {
    /// They are gone.
    Done(Vec<EntryRef>),
    /// Those at these places do not exist.
    Missing(Vec<usize>),
    /// Those at these places stand for nodes, and only go with them.
    OfNodes(Vec<usize>),
}

/// Which entries to delete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteEntries {
    /// Whose they are.
    pub tenant: TenantId,
    /// Which.
    pub entries: Vec<EntryRef>,
    /// Are those that do not exist left out?
    pub ignore_unknown: bool,
    /// Are they deleted as nodes?
    pub as_nodes: bool,
    /// Now.
    pub now: Timestamp,
    /// How long their bytes are kept for those who still read them.
    pub keep_replaced: Duration,
}

/// What a store holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreUsage {
    /// Which one.
    pub id: StoreId,
    /// What it is called.
    pub name: String,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A segment to delete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tombstone {
    /// Which one.
    pub segment: SegmentId,
    /// What its backend needs.
    pub backend: String,
}

/// What a sweep found to be over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Sessions marked expired.
    pub sessions: u64,
    /// Files whose time ran out.
    pub files: u64,
    /// Rows that nobody needs any more.
    pub rows: u64,
}

/// Bytes and files of a tenant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Bytes in committed versions.
    pub bytes: u64,
    /// Committed versions.
    pub files: u64,
    /// Bytes that open sessions may still bring.
    pub reserved: u64,
    /// Open sessions.
    pub open_sessions: u64,
    /// What it may hold.
    pub quota: Quota,
    /// By source: id, items, bytes of their content.
    pub sources: Vec<(SourceId, u64, u64)>,
    /// By store.
    pub stores: Vec<StoreUsage>,
}

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
    /// Remembers that they were deleted.
    async fn unlinked(&self, segments: Vec<SegmentId>, now: Timestamp) -> Result<()>;
    /// Segments that could not be deleted: again at `due`.
    async fn postpone(&self, segments: Vec<SegmentId>, due: Timestamp) -> Result<()>;
    /// Segments deleted before this: delete again, then [`Self::drop_tombstones`].
    async fn old_tombstones(&self, before: Timestamp, limit: u32) -> Result<Vec<Tombstone>>;
    /// Forgets them.
    async fn drop_tombstones(&self, segments: Vec<SegmentId>) -> Result<()>;
    /// Which of these segments have a row, in the same order.
    async fn known_segments(&self, segments: Vec<SegmentId>) -> Result<Vec<bool>>;

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
