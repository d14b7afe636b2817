//! Sources, and what is pushed to them.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::model::change::{Change, Ordering};
use crate::model::file::Version;
use crate::model::ids::{FileId, RequestId, SourceId, StreamId, TenantId, VersionId};
use crate::model::job::JobKind;
use crate::model::source::{ItemState, PushKind};

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
