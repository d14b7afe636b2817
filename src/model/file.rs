//! Committed bytes, and the files they are versions of.

use std::collections::BTreeMap;

use crc_fast::CrcAlgorithm;
use serde::{Deserialize, Serialize};

use super::ids::{FileId, KeyId, SegmentId, TenantId, VersionId};
use crate::clock::Timestamp;

/// The two checksums that all stored bytes have. Those of neighbours combine without a second read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Crcs {
    /// CRC-32C (Castagnoli).
    pub crc32c: u32,
    /// CRC-64/NVME.
    pub crc64nvme: u64,
}

impl Crcs {
    /// The checksums of these bytes followed by `length` others.
    #[must_use]
    pub fn followed_by(self, other: Self, length: u64) -> Self {
        let combine = |algorithm, a, b| crc_fast::checksum_combine(algorithm, a, b, length);
        let crc32c = combine(CrcAlgorithm::Crc32Iscsi, self.crc32c.into(), other.crc32c.into());
        Self {
            crc32c: u32::try_from(crc32c).unwrap_or(0),
            crc64nvme: combine(CrcAlgorithm::Crc64Nvme, self.crc64nvme, other.crc64nvme),
        }
    }
}

/// Checksums of bytes that still come.
#[derive(Clone)]
pub struct RunningCrcs {
    crc32c: crc_fast::Digest,
    crc64nvme: crc_fast::Digest,
}

impl Default for RunningCrcs {
    fn default() -> Self {
        Self {
            crc32c: crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi),
            crc64nvme: crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme),
        }
    }
}

impl std::fmt::Debug for RunningCrcs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.value().fmt(f)
    }
}

impl RunningCrcs {
    /// More bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.crc32c.update(bytes);
        self.crc64nvme.update(bytes);
    }

    /// The checksums so far.
    #[must_use]
    pub fn value(&self) -> Crcs {
        Crcs { crc32c: u32::try_from(self.crc32c.finalize()).unwrap_or(0), crc64nvme: self.crc64nvme.finalize() }
    }
}

/// Digests of some bytes. The two CRCs are always there; the others where somebody asked for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digests {
    /// CRC-32C (Castagnoli).
    pub crc32c: u32,
    /// CRC-64/NVME.
    pub crc64nvme: u64,
    /// MD5.
    pub md5: Option<[u8; 16]>,
    /// SHA-256.
    pub sha256: Option<[u8; 32]>,
}

impl Digests {
    /// The checksums alone.
    #[must_use]
    pub const fn crcs(&self) -> Crcs {
        Crcs { crc32c: self.crc32c, crc64nvme: self.crc64nvme }
    }
}

impl From<Crcs> for Digests {
    fn from(crcs: Crcs) -> Self {
        Self { crc32c: crcs.crc32c, crc64nvme: crcs.crc64nvme, md5: None, sha256: None }
    }
}

/// Digests that a client declared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Declared {
    /// MD5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<[u8; 16]>,
    /// SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<[u8; 32]>,
    /// CRC-32C.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32c: Option<u32>,
    /// CRC-64/NVME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc64nvme: Option<u64>,
}

/// A segment's recorded, durable extent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The segment that holds the bytes, from its offset 0.
    pub segment: SegmentId,
    /// How many of its bytes count.
    pub length: u64,
    /// Digests of those bytes.
    pub digests: Digests,
    /// What the backend needs to find or finish the segment again; empty on a local disk.
    pub backend: String,
}

/// An immutable version of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// Its id, time-ordered.
    pub id: VersionId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The file it is a version of.
    pub file: FileId,
    /// Bytes in all.
    pub size: u64,
    /// Digests of the whole.
    pub digests: Digests,
    /// When it was committed.
    pub committed: Timestamp,
    /// The bytes, in order.
    pub pieces: Vec<Piece>,
}

/// What a commit answers, as often as it is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The version that it made.
    pub version: VersionId,
    /// Bytes of it.
    pub size: u64,
    /// Their digests.
    pub digests: Digests,
    /// When.
    pub committed: Timestamp,
}

/// A file of a tenant, registered or about to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileRecord {
    /// Its id.
    pub id: FileId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The key that uploaded it.
    pub key: Option<KeyId>,
    /// What it is called: 1 to 255 characters.
    pub name: String,
    /// What it was called when its upload was opened: the name in its storage path.
    pub stored_as: String,
    /// Its declared media type.
    pub mime_type: String,
    /// Its folder in the tenant, `/`-separated, where it has one.
    pub path: Option<String>,
    /// What the client said about it besides.
    pub metadata: BTreeMap<String, String>,
    /// Its current version.
    pub version: VersionId,
    /// Bytes of that version.
    pub size: u64,
    /// Digests of that version.
    pub digests: Digests,
    /// When that version was committed.
    pub committed: Timestamp,
    /// Since when it is one of the tenant's files; `None` while its upload waits to be registered.
    pub registered: Option<Timestamp>,
}

/// The name under which clients know a file's bytes: a name, and never a path of ours.
#[must_use]
pub fn storage_path(tenant: &TenantId, file: FileId, name: &str) -> String {
    format!("files/{tenant}/{}/{name}", file.public())
}
