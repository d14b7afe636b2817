//! One upload in progress.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::file::{Crcs, Declared, Piece};
use super::ids::{FileId, KeyId, SessionId, StoreId, TenantId};
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
    /// Cancelled by the client.
    Aborted,
    /// Its time ran out.
    Expired,
    /// Its content can't be made to fit what was declared, or an operator ended it.
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

/// What the client said about the file that its upload makes. The serialization is its stored form; the name has a
/// column of its own.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Declaration {
    /// What the file is called: 1 to 255 characters, no control characters, no slashes.
    #[serde(skip)]
    pub name: String,
    /// Its media type.
    pub mime_type: String,
    /// Its folder in the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What the whole must have.
    #[serde(default)]
    pub digests: Declared,
    /// Whatever else the client wants to keep with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Digests that cost time, to be computed as the bytes come.
    #[serde(default)]
    pub hashes: Hashes,
    /// The store that the file is meant for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreId>,
    /// Its path within that store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_path: Option<String>,
}

/// Which digests beyond the checksums are computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Hashes {
    /// MD5.
    pub md5: bool,
    /// SHA-256.
    pub sha256: bool,
}

impl Hashes {
    /// Those of either.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { md5: self.md5 || other.md5, sha256: self.sha256 || other.sha256 }
    }

    /// Those that are needed to check what was declared.
    #[must_use]
    pub const fn for_checking(declared: &Declared) -> Self {
        Self { md5: declared.md5.is_some(), sha256: declared.sha256.is_some() }
    }
}

/// How far a resumable session has come: what is recorded survives any crash.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Bytes from the file's beginning; a multiple of 256 KiB until the last byte is there.
    pub received: u64,
    /// Their checksums.
    pub crcs: Crcs,
    /// An offset that the client was told before.
    pub told: u64,
    /// Checksums of what came since.
    pub told_crcs: Crcs,
    /// The state of the MD5 in progress.
    pub md5_state: Option<Vec<u8>>,
    /// The state of the SHA-256 in progress.
    pub sha256_state: Option<Vec<u8>>,
    /// The extents that hold the bytes, in order.
    pub pieces: Vec<Piece>,
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
    /// Bytes of the tenant's quota that it holds while it is open.
    pub reserved: u64,
    /// Does its commit register the file, or does the client, later?
    pub registers: bool,
    /// The key that opened it; `None` for bytes that the server itself stores.
    pub key: Option<KeyId>,
    /// What the client said about the file; `None` for what is no file of its own.
    pub declaration: Option<Declaration>,
}
