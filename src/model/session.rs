//! One upload in progress.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::file::{Crcs, Declared, Piece};
use super::ids::{FileId, KeyId, PlaceId, SessionId, StoreId, TenantId};
use crate::clock::Timestamp;
use crate::limits;

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

/// What the parts of a multipart session must be. They are numbered from 1, and all of them make the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parts {
    /// How many there are: 1 to [`limits::PARTS_MAX`].
    pub count: u32,
    /// Fewest bytes of a part that is not the last; 0 for any.
    pub smallest: u64,
    /// Most bytes of any part.
    pub largest: u64,
}

/// A part whose bytes are durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Its number, from 1.
    pub number: u32,
    /// Its bytes.
    pub piece: Piece,
}

/// Some of a session's part numbers: the lowest ones, and how many there are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Numbers {
    /// The first [`limits::PARTS_TOLD`].
    pub first: Vec<u32>,
    /// How many there are.
    pub count: u32,
}

impl FromIterator<u32> for Numbers {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        numbers.into_iter().fold(Self::default(), |mut all, number| {
            all.count += 1;
            if all.first.len() < limits::PARTS_TOLD {
                all.first.push(number);
            }
            all
        })
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = self.first.iter().take(limits::PARTS_SAID).map(u32::to_string).collect::<Vec<_>>();
        f.write_str(&said.join(", "))?;
        match usize::try_from(self.count).unwrap_or(usize::MAX).saturating_sub(said.len()) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Why parts do not make a file yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lacking {
    /// These have not come.
    Missing(Numbers),
    /// These are too small, and not the last.
    TooSmall(Numbers),
}

/// What parts make together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Joined {
    /// Bytes in all.
    pub size: u64,
    /// Their checksums, where those of all parts are known.
    pub crcs: Option<Crcs>,
}

impl Parts {
    /// Which numbers are not among these, which ascend.
    #[must_use]
    pub fn missing(&self, present: impl IntoIterator<Item = u32>) -> Numbers {
        let mut present = present.into_iter().peekable();
        (1..=self.count).filter(|number| present.next_if_eq(number).is_none()).collect()
    }

    /// What these parts, whose numbers ascend, make together. No byte is read for it.
    ///
    /// # Errors
    /// [`Lacking`] when it is not a file.
    pub fn join(&self, parts: &[Part]) -> Result<Joined, Lacking> {
        let missing = self.missing(parts.iter().map(|part| part.number));
        if missing.count > 0 {
            return Err(Lacking::Missing(missing));
        }
        let small = |part: &&Part| part.number < self.count && part.piece.length < self.smallest;
        let too_small: Numbers = parts.iter().filter(small).map(|part| part.number).collect();
        if too_small.count > 0 {
            return Err(Lacking::TooSmall(too_small));
        }
        let none = Joined { size: 0, crcs: Some(Crcs::default()) };
        Ok(parts.iter().fold(none, |all, Part { piece, .. }| Joined {
            size: all.size.saturating_add(piece.length),
            crcs: all.crcs.zip(piece.digests.crcs()).map(|(all, next)| all.followed_by(next, piece.length)),
        }))
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
    /// Bytes of the tenant's quota that it holds while it is open.
    pub reserved: u64,
    /// Does its commit register the file, or does the client, later?
    pub registers: bool,
    /// The key that opened it; `None` for bytes that the server itself stores.
    pub key: Option<KeyId>,
    /// What the client said about the file; `None` for what is no file of its own.
    pub declaration: Option<Declaration>,
    /// Does it end with the file, because it makes the next version of one that is there?
    pub needs_file: bool,
    /// What its parts must be; `None` for what does not come in parts.
    pub parts: Option<Parts>,
    /// How its bytes go to the store itself; `None` for those that come to us.
    pub direct: Option<Direct>,
}

/// A session whose client sends to the store itself. The serialization is its stored form.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Direct {
    /// Does the store take the first body only? Otherwise it keeps each, and the newest one counts until it is used.
    pub create_only: bool,
    /// The store's name for the upload in parts, or the location of its session, once that has begun. Whoever has a location
    /// may send to it: it lies in the row as the installation's other secrets do, and stands in no log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    /// Where it sends to, for its whole life.
    #[serde(default, skip_serializing_if = "PlaceId::is_first")]
    pub place: PlaceId,
}

/// Shows whether something has begun.
impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (create_only, begun) = (&self.create_only, self.upload.is_some());
        f.debug_struct("Direct").field("create_only", create_only).field("begun", &begun).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::file::RunningCrcs;
    use crate::model::ids::SegmentId;

    fn part(number: u32, bytes: &[u8]) -> Part {
        let mut crcs = RunningCrcs::default();
        crcs.update(bytes);
        let segment = SegmentId { session: SessionId(Uuid::nil()), epoch: 1, attempt: number.into() };
        let length = u64::try_from(bytes.len()).unwrap();
        Part { number, piece: Piece { segment, length, digests: crcs.value().into(), backend: String::new() } }
    }

    #[test]
    fn parts_make_a_file_when_all_are_there_and_large_enough() {
        let parts = |count| Parts { count, smallest: 3, largest: 10 };
        let all = [part(1, b"abc"), part(2, b"defg"), part(3, b"")];
        let mut whole = RunningCrcs::default();
        whole.update(b"abcdefg");
        assert_eq!(parts(3).join(&all), Ok(Joined { size: 7, crcs: Some(whole.value()) }));
        assert_eq!(
            parts(1).join(&[part(1, b"")]),
            Ok(Joined { size: 0, crcs: Some(Crcs::default()) }),
            "the last may be empty"
        );
        let missing = |numbers: &[u32]| Err(Lacking::Missing(numbers.iter().copied().collect()));
        assert_eq!(parts(4).join(&all), missing(&[4]));
        assert_eq!(parts(4).join(&all[1..2]), missing(&[1, 3, 4]));
        assert_eq!(parts(3).join(&[]), missing(&[1, 2, 3]));
        let small = [part(1, b"ab"), part(2, b""), part(3, b"")];
        assert_eq!(parts(3).join(&small), Err(Lacking::TooSmall([1, 2].into_iter().collect())));
    }

    #[test]
    fn the_location_of_a_session_is_not_shown() {
        let upload = Some("https://s.example.com/o?upload_id=SECRET".into());
        let direct = Direct { create_only: true, upload, place: PlaceId::FIRST };
        assert_eq!(format!("{direct:?}"), "Direct { create_only: true, begun: true, .. }");
    }

    #[test]
    fn of_many_numbers_the_first_are_told() {
        let many: Numbers = (1..=10_000).collect();
        assert_eq!((many.count, many.first.len(), many.first[0]), (10_000, limits::PARTS_TOLD, 1));
        assert!(many.to_string().ends_with(", 20 and 9980 more"), "{many}");
        assert_eq!(Numbers::from_iter([3, 7]).to_string(), "3, 7");
    }
}
