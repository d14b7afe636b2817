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
        Self {
            crc32c: u32::try_from(CRC32C.moved(self.crc32c.into(), length)).unwrap_or(0) ^ other.crc32c,
            crc64nvme: CRC64NVME.moved(self.crc64nvme, length) ^ other.crc64nvme,
        }
    }
}

const CRC32C: Polynomial = Polynomial::new(0x82F6_3B78, 32);
const CRC64NVME: Polynomial = Polynomial::new(0x9A6C_9329_AC4B_C9B5, 64);

/// A CRC's polynomial in reflected form, with x^(2^n) modulo it: what comes before so many bytes is multiplied by
/// x^(8 × bytes). The same as zlib's `crc32_combine`; the crate's own combination works with matrices and takes up to a
/// millisecond, which is too long where thousands of parts are joined in one transaction.
struct Polynomial {
    reflected: u64,
    /// x^0.
    one: u64,
    squares: [u64; 64],
}

impl Polynomial {
    const fn new(reflected: u64, bits: u32) -> Self {
        let one = 1 << (bits - 1);
        let mut made = Self { reflected, one, squares: [one >> 1; 64] };
        let mut n = 1;
        while n < 64 {
            made.squares[n] = made.product(made.squares[n - 1], made.squares[n - 1]);
            n += 1;
        }
        made
    }

    const fn product(&self, a: u64, mut b: u64) -> u64 {
        let (mut product, mut bit) = (0, self.one);
        while bit > 0 {
            if a & bit > 0 {
                product ^= b;
            }
            b = if b & 1 > 0 { (b >> 1) ^ self.reflected } else { b >> 1 };
            bit >>= 1;
        }
        product
    }

    /// A checksum as it counts before `length` more bytes.
    fn moved(&self, checksum: u64, length: u64) -> u64 {
        // 8 × length: from x^(2^3) on.
        let factors = self.squares.iter().skip(3).enumerate().filter(|(bit, _)| length >> bit & 1 > 0);
        factors.fold(checksum, |moved, (_, factor)| self.product(*factor, moved))
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

/// Digests that are known of some bytes. Of bytes that passed through this server the two CRCs always are; of what a client
/// sent to a store itself, what that store tells. The others where somebody asked for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digests {
    /// CRC-32C (Castagnoli).
    pub crc32c: Option<u32>,
    /// CRC-64/NVME.
    pub crc64nvme: Option<u64>,
    /// MD5.
    pub md5: Option<[u8; 16]>,
    /// SHA-256.
    pub sha256: Option<[u8; 32]>,
}

impl Digests {
    /// The checksums alone, as pieces have them.
    #[must_use]
    pub const fn checksums(self) -> Self {
        Self { md5: None, sha256: None, ..self }
    }

    /// Both checksums, where they are known.
    #[must_use]
    pub fn crcs(&self) -> Option<Crcs> {
        Some(Crcs { crc32c: self.crc32c?, crc64nvme: self.crc64nvme? })
    }

    /// Are these, of bytes of one length, of the same bytes, for all that can be told?
    #[must_use]
    pub fn same_bytes(&self, other: &Self) -> bool {
        self.crcs().is_some() && self.crcs() == other.crcs()
    }

    /// What is known here, and what else there is known.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            crc32c: if self.crc32c.is_some() { self.crc32c } else { other.crc32c },
            crc64nvme: if self.crc64nvme.is_some() { self.crc64nvme } else { other.crc64nvme },
            md5: if self.md5.is_some() { self.md5 } else { other.md5 },
            sha256: if self.sha256.is_some() { self.sha256 } else { other.sha256 },
        }
    }
}

impl From<Crcs> for Digests {
    fn from(crcs: Crcs) -> Self {
        Self { crc32c: Some(crcs.crc32c), crc64nvme: Some(crcs.crc64nvme), md5: None, sha256: None }
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

impl Declared {
    /// What of these can be compared with what is known.
    #[must_use]
    pub fn told_by(&self, known: &Digests) -> Self {
        Self {
            crc32c: self.crc32c.filter(|_| known.crc32c.is_some()),
            crc64nvme: self.crc64nvme.filter(|_| known.crc64nvme.is_some()),
            md5: self.md5.filter(|_| known.md5.is_some()),
            sha256: self.sha256.filter(|_| known.sha256.is_some()),
        }
    }

    /// And what can't. A longer one that is known settles a checksum beside it: bytes that have the one that was declared
    /// are those that were meant.
    #[must_use]
    pub fn untold_by(&self, known: &Digests) -> Self {
        let hashed = self.sha256.is_some() && known.sha256.is_some();
        let settled = hashed || self.crc64nvme.is_some() && known.crc64nvme.is_some();
        Self {
            crc32c: self.crc32c.filter(|_| known.crc32c.is_none() && !settled),
            crc64nvme: self.crc64nvme.filter(|_| known.crc64nvme.is_none() && !hashed),
            md5: self.md5.filter(|_| known.md5.is_none()),
            sha256: self.sha256.filter(|_| known.sha256.is_none()),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_taken_for_compared() {
        let declared = Declared { crc32c: Some(1), crc64nvme: Some(2), md5: Some([3; 16]), sha256: Some([4; 32]) };
        let none = Digests::default();
        assert_eq!((declared.told_by(&none), declared.untold_by(&none)), (Declared::default(), declared));
        let crc64 = Digests { crc64nvme: Some(2), ..none };
        let left = Declared { crc32c: None, crc64nvme: None, ..declared };
        assert_eq!(declared.untold_by(&crc64), left, "the shorter checksum is settled, a hash is not");
        let crc32 = Digests { crc32c: Some(1), ..none };
        assert_eq!(declared.untold_by(&crc32), Declared { crc32c: None, ..declared });
        let sha256 = Digests { sha256: Some([4; 32]), ..none };
        assert_eq!(declared.untold_by(&sha256), Declared { md5: declared.md5, ..Declared::default() });
        assert!(!none.same_bytes(&none), "what is not known is not the same");
    }

    #[test]
    fn checksums_of_neighbours_combine() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
        let of = |bytes: &[u8]| {
            let mut crcs = RunningCrcs::default();
            crcs.update(bytes);
            crcs.value()
        };
        for at in [0, 1, 7, 8, 255, 4096, 65_537, 99_999, 100_000] {
            let (a, b) = bytes.split_at(at);
            assert_eq!(of(a).followed_by(of(b), u64::try_from(b.len()).unwrap()), of(&bytes), "{at}");
        }
        // Longer than anybody has patience to hash: as the crate has it.
        for length in [5 << 20, (5 << 40) - 1, u64::MAX >> 8] {
            let (a, b) = (of(b"before"), of(b"after"));
            let combined = a.followed_by(b, length);
            let wanted = |algorithm, a, b| crc_fast::checksum_combine(algorithm, a, b, length);
            let crc32c = wanted(CrcAlgorithm::Crc32Iscsi, a.crc32c.into(), b.crc32c.into());
            assert_eq!(u64::from(combined.crc32c), crc32c, "{length}");
            assert_eq!(combined.crc64nvme, wanted(CrcAlgorithm::Crc64Nvme, a.crc64nvme, b.crc64nvme), "{length}");
        }
    }
}
