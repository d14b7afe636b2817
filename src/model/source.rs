//! Sources, their items and the pushes that change them.

use super::change::Ordering;
use super::ids::{RequestId, SourceId, TenantId, VersionId};
use crate::clock::Timestamp;
use serde_json::{Map, Value};

/// A source of a tenant.
#[derive(Clone, PartialEq, Debug)]
pub struct Source {
    /// Its row number.
    pub row: i64,
    /// Its id, unique in the tenant.
    pub id: SourceId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What people call it.
    pub name: String,
    /// Does it take stream loads and updates?
    pub stream_enabled: bool,
    /// Everything else its creator said about it, as given.
    pub properties: Map<String, Value>,
    /// The open activity, as the client last set it.
    pub activity: Activity,
    /// When it was created.
    pub created: Timestamp,
}

/// What a client says it is doing with a source. Told, kept and shown; it changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Activity {
    /// Rebuilding everything.
    Rebuild,
    /// Refreshing everything.
    Refresh,
    /// Adding what is new.
    Incremental,
    /// Nothing.
    #[default]
    Idle,
}

impl Activity {
    /// Every activity.
    pub const ALL: [Self; 4] = [Self::Rebuild, Self::Refresh, Self::Incremental, Self::Idle];

    /// The name, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rebuild => "rebuild",
            Self::Refresh => "refresh",
            Self::Incremental => "incremental",
            Self::Idle => "idle",
        }
    }

    /// Reads a name in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name().eq_ignore_ascii_case(name))
    }
}

/// Where an item stands on its way to being found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ItemState {
    /// Accepted; its text is not extracted yet.
    Queued,
    /// Findable.
    Ready,
    /// Stored and findable by its metadata, but its text could not be extracted.
    Failed,
}

impl ItemState {
    /// The stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }

    /// Reads the stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Queued, Self::Ready, Self::Failed].into_iter().find(|s| s.name() == name)
    }
}

/// Where an item's content is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// There is none.
    None,
    /// In the row.
    Inline(Vec<u8>),
    /// A committed version.
    Stored {
        /// Which one.
        version: VersionId,
        /// Its size in bytes.
        size: u64,
    },
}

/// An item of a source.
#[derive(Clone, PartialEq, Debug)]
pub struct Item {
    /// Its row number, which grows with every new item.
    pub row: i64,
    /// The source's row number.
    pub source_row: i64,
    /// Which source.
    pub source: SourceId,
    /// The URI that names it.
    pub document_id: String,
    /// The ordering id of the last change to it.
    pub ordering: Ordering,
    /// The push that last changed it.
    pub push: i64,
    /// The document id of its parent, for an attachment.
    pub parent_id: Option<String>,
    /// Declared file extension.
    pub file_extension: Option<String>,
    /// Everything the client said about it.
    pub metadata: Map<String, Value>,
    /// Who may see it, as given.
    pub permissions: Value,
    /// Declared compression of the content, in lower case.
    pub compression: Option<String>,
    /// Where the content is.
    pub content: Content,
    /// Where it stands.
    pub state: ItemState,
    /// Why its text could not be extracted, or what was cut off.
    pub problem: Option<String>,
    /// When it was first pushed.
    pub created: Timestamp,
    /// When it last changed.
    pub changed: Timestamp,
}

/// What a push asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PushKind {
    /// Apply a list of changes to items.
    Items,
    /// Apply a list of changes to items; then delete every item that the list did not name.
    Load,
    /// Delete the items with a lower ordering id.
    OlderThan,
    /// Apply a list of changes to security identities.
    Identities,
    /// Delete the security identities with a lower ordering id.
    IdentitiesOlderThan,
}

impl PushKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Items, Self::Load, Self::OlderThan, Self::Identities, Self::IdentitiesOlderThan];

    /// The stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Items => "items",
            Self::Load => "load",
            Self::OlderThan => "older_than",
            Self::Identities => "identities",
            Self::IdentitiesOlderThan => "identities_older_than",
        }
    }

    /// Reads the stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == name)
    }
}

/// Where a push stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PushState {
    /// Accepted, not begun.
    Queued,
    /// Being applied, or its items' text is still being extracted.
    Working,
    /// Everything it asked for is done; single items may have failed, see the counts.
    Done,
    /// It could not be applied; the reason is in `problem`.
    Failed,
}

impl PushState {
    /// The stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Working => "working",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Reads the stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Queued, Self::Working, Self::Done, Self::Failed].into_iter().find(|s| s.name() == name)
    }
}

/// What a push has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PushCounts {
    /// Records in the push.
    pub records: u64,
    /// Items added.
    pub added: u64,
    /// Items updated.
    pub updated: u64,
    /// Items deleted.
    pub deleted: u64,
    /// Changes refused because the item has a higher ordering id.
    pub older: u64,
    /// Changes that failed, and items whose text could not be extracted.
    pub failed: u64,
    /// Items whose text is still to be extracted.
    pub pending: u64,
}

/// One accepted push.
#[derive(Clone, PartialEq, Debug)]
pub struct Push {
    /// Its row number: pushes of a source are applied in this order.
    pub row: i64,
    /// What a client follows it by.
    pub request: RequestId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The source, or the provider for identities.
    pub target: String,
    /// What it asks for.
    pub kind: PushKind,
    /// Its ordering id.
    pub ordering: Ordering,
    /// Where it stands.
    pub state: PushState,
    /// What it has done.
    pub counts: PushCounts,
    /// Why it failed, or what the operator should know.
    pub problem: Option<String>,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// When it was done.
    pub finished: Option<Timestamp>,
    /// The first failures: document id and reason.
    pub failures: Vec<(String, String)>,
}
