//! One upload in progress.

use super::ids::{FileId, SessionId, TenantId};
use crate::clock::Timestamp;

/// How the bytes come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Strategy {
    /// One PUT with the whole file.
    Single,
    /// Chunks in order, at an offset the server tells.
    Resumable,
    /// Numbered parts in any order.
    Multipart,
}

impl Strategy {
    /// The stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Resumable => "resumable",
            Self::Multipart => "multipart",
        }
    }

    /// Reads the stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Single, Self::Resumable, Self::Multipart].into_iter().find(|s| s.name() == name)
    }
}

/// Where a session stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SessionState {
    /// Bytes may come.
    Open,
    /// A version exists. A single PUT may still be sent again until the file is consumed or the session expires.
    Committed,
    /// Cancelled by the client or an operator.
    Aborted,
    /// Its time ran out.
    Expired,
    /// Its content can't be made to fit what was declared.
    Failed,
}

impl SessionState {
    /// The stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Expired => "expired",
            Self::Failed => "failed",
        }
    }

    /// Reads the stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Open, Self::Committed, Self::Aborted, Self::Expired, Self::Failed].into_iter().find(|s| s.name() == name)
    }
}

/// A session as its row tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// Its id, time-ordered.
    pub id: SessionId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The file that its commit makes a version of.
    pub file: FileId,
    /// The wire its ticket was issued on: the name of a dialect, or `internal` for bytes that the server itself stores.
    pub wire: String,
    /// How the bytes come.
    pub strategy: Strategy,
    /// Where it stands.
    pub state: SessionState,
    /// Raised by every take-over, cancel and expiry; a writer of a lower epoch is fenced.
    pub epoch: u32,
    /// Declared size in bytes, when known.
    pub size: Option<u64>,
    /// Most bytes it may take.
    pub max_bytes: u64,
    /// May a committed session be sent again, as a new version?
    pub versions_allowed: bool,
    /// When it was opened.
    pub created: Timestamp,
    /// When it and its ticket end.
    pub expires: Timestamp,
}
