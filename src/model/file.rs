//! Committed bytes.

use super::ids::{FileId, SegmentId, TenantId, VersionId};
use crate::clock::Timestamp;

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
