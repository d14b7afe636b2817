//! Uploads, from their beginning to their commit.

use std::time::Duration;

use super::tenants::OverQuota;
use crate::clock::Timestamp;
use crate::model::file::{Declared, Digests, Piece, Receipt, Version};
use crate::model::ids::{SessionId, VersionId};
use crate::model::session::{Lacking, Part, Progress, Session, SessionState};

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
