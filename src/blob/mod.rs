//! Where bytes are kept. A [`BlobStore`] knows segments and nothing else: what exists, what belongs to whom and
//! what may be deleted is decided by rows alone.
//!
//! The contract, which `contract.rs` runs against every backend:
//! - a segment is created exclusively, under its final name, and has one writer;
//! - after [`SegmentWriter::persist`] everything written so far survives a crash, name included;
//! - after [`SegmentWriter::finish`] it can also be read;
//! - [`BlobStore::seal`] makes a segment readable whose writer persisted it and is gone, from what its row keeps, and
//!   what that writer still sends changes nothing of it;
//! - a failed write or sync ends the writer: nobody syncs the same bytes twice, because the kernel may have
//!   marked the lost pages clean;
//! - deleting what does not exist succeeds, so that every deletion can be repeated;
//! - what it gives a row to keep never begins with `@`: that is [`Places`]' mark.

mod azure;
mod local;
mod memory;
mod places;
mod remote;
mod s3;

#[cfg(test)]
#[path = "../../tests/support/azurite.rs"]
pub(crate) mod azurite;
#[cfg(test)]
#[path = "../../tests/support/bucket.rs"]
pub(crate) mod bucket;
#[cfg(test)]
mod contract;
mod faulty;
#[cfg(test)]
#[path = "../../tests/support/front.rs"]
pub(crate) mod front;
#[cfg(test)]
#[path = "../../tests/support/harm.rs"]
pub(crate) mod harm;

use std::fmt;
use std::io;

use async_trait::async_trait;
use bytes::Bytes;

pub use azure::Azure;
pub use faulty::{Faulty, Lie, Operation};
pub use local::{Local, sync_directory, write_durably};
pub use memory::{Form, Memory};
pub use places::Places;
pub use remote::{Unusable, Wanted};
pub use s3::S3;
#[cfg(test)]
pub(crate) use s3::of as in_bucket;

use crate::clock::Timestamp;
use crate::model::file::{Declared, Digests};
use crate::model::ids::{PlaceId, SegmentId, SessionId};

/// Why a backend could not do it.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The segment does not exist.
    #[error("segment {0} does not exist")]
    NotFound(SegmentId),
    /// A segment of this name exists; names are random, so this is a fault.
    #[error("segment {0} exists already")]
    Exists(SegmentId),
    /// No space left.
    #[error("no space left for bytes")]
    OutOfSpace,
    /// The segment is shorter than its row says.
    #[error("segment {segment} ends at {found}, its row says {expected}")]
    Truncated {
        /// Which one.
        segment: SegmentId,
        /// Bytes that the row promises.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// Anything else; nothing may be assumed about the bytes.
    #[error("the byte store failed: {0}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for BlobError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::OutOfSpace,
            _ => Self::Io(error),
        }
    }
}

/// What a writer has made durable.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extent {
    /// Bytes from the segment's beginning.
    pub length: u64,
    /// What the backend needs to find them again, kept in the piece's row; empty on a local disk.
    pub backend: String,
}

/// One segment while its only writer writes it.
#[async_trait]
pub trait SegmentWriter: Send + fmt::Debug {
    /// Appends the chunks in order and empties the list.
    ///
    /// # Errors
    /// [`BlobError::OutOfSpace`] or [`BlobError::Io`]; the writer is then of no further use but to be discarded.
    async fn write(&mut self, chunks: &mut Vec<Bytes>) -> Result<(), BlobError>;

    /// Makes everything written so far survive a crash. Whoever goes on with the writer has recorded the extent: what only
    /// earlier ones need may be removed then.
    ///
    /// # Errors
    /// As for [`Self::write`]. Never repeated.
    async fn persist(&mut self) -> Result<Extent, BlobError>;

    /// Makes everything written durable and readable. Nothing can be written afterwards.
    ///
    /// # Errors
    /// As for [`Self::write`]. Never repeated.
    async fn finish(self: Box<Self>) -> Result<Extent, BlobError>;

    /// Takes back what this writer made, as far as that is possible; the sweeper does the rest.
    async fn discard(self: Box<Self>);
}

/// A segment that can be read.
#[async_trait]
pub trait SegmentReader: Send + Sync + fmt::Debug {
    /// Reads up to `length` bytes from `offset`; fewer only at the segment's end.
    ///
    /// # Errors
    /// [`BlobError::Io`] when the backend fails.
    async fn read(&self, offset: u64, length: usize) -> Result<Bytes, BlobError>;
}

/// A segment as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its name.
    pub segment: SegmentId,
    /// What deleting it takes besides; often nothing.
    pub backend: String,
    /// Its length in bytes.
    pub length: u64,
    /// When it was last written.
    pub written: Timestamp,
}

/// Space on the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Bytes that may still be written.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// A PUT that a client is to send to the store itself.
#[derive(Clone, Copy, Debug)]
pub struct PutAsk<'a> {
    /// Whose bytes they are.
    pub session: SessionId,
    /// Headers that its clients send.
    pub headers: &'a [(&'a str, &'a str)],
    /// What the store is to compare, as far as it can.
    pub declared: &'a Declared,
    /// Is only the first PUT that succeeds taken? A header sees to it, which clients must send too.
    pub create_only: bool,
    /// Fewest and most bytes that it may have, where the store can be told that.
    pub bytes: (u64, u64),
    /// For how long, at most a week.
    pub life_seconds: u32,
}

/// A location at the store itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// A secret.
    pub url: String,
    /// What must come with the PUT, exactly so.
    pub headers: Vec<(String, String)>,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("headers", &self.headers).finish_non_exhaustive()
    }
}

/// What a client sent to the store itself, as the store tells about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrived {
    /// The name of these very bytes: whatever comes later has another one, or is refused by the store.
    pub segment: SegmentId,
    /// What their row has to keep.
    pub backend: String,
    /// Bytes.
    pub length: u64,
    /// What the store computed or compared itself.
    pub digests: Digests,
    /// What the store calls their content, without quotes: opaque, unless it is something that somebody else computed.
    pub etag: Option<String>,
}

/// A part that a client sent to the store itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArrivedPart {
    /// Its number, from 1.
    pub number: u32,
    /// Bytes.
    pub length: u64,
    /// What the store calls its content.
    pub etag: String,
}

/// What clients may send to a store themselves besides whole files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forms {
    /// Parts that the store joins?
    pub parts: bool,
    /// A file in chunks, to a session of the store's that tells how far it has come?
    pub sessions: bool,
    /// The longest body of one PUT.
    pub put_bytes: u64,
}

/// A session of the store's that is to begin.
#[derive(Clone, Copy, Debug)]
pub struct SessionAsk<'a> {
    /// Whose bytes it takes.
    pub session: SessionId,
    /// How many: the store takes no other number of them.
    pub size: u64,
    /// The file's media type, which may be empty.
    pub content_type: &'a str,
    /// The origin whose pages may read the store's answers, where that has to be told beforehand.
    pub page: Option<&'a str>,
}

/// How far what a client sends to a session of the store's has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reached {
    /// So many bytes from the beginning are kept, and more are waited for.
    Bytes(u64),
    /// All of it: it is an object, or was.
    Whole,
    /// Its client has cancelled it.
    Cancelled,
    /// The store knows no such session: it ended, or it was lost.
    Nowhere,
}

/// The way for clients to send to the store themselves. What they sent is nobody's until it was looked for here and a row
/// names it; then it is a segment like others.
#[async_trait]
pub trait Direct: Send + Sync + fmt::Debug {
    /// What it takes. Nothing else is asked for.
    fn forms(&self) -> Forms;

    /// Signs a location for one PUT. Asks nothing of the store.
    ///
    /// # Errors
    /// [`BlobError::Io`] when there are no credentials.
    async fn ticket(&self, ask: PutAsk<'_>) -> Result<Ticket, BlobError>;

    /// Begins an upload in parts; the store's name for it.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    async fn begin_parts(&self, session: SessionId) -> Result<String, BlobError>;

    /// Signs locations for parts of it. Asks nothing of the store.
    ///
    /// # Errors
    /// As [`Self::ticket`].
    async fn part_tickets(
        &self,
        session: SessionId,
        upload: &str,
        numbers: &[u32],
        life_seconds: u32,
    ) -> Result<Vec<String>, BlobError>;

    /// What is there for a session, the newest. With `create_only` there is one at most; without, the store must keep
    /// apart what was sent one after the other.
    ///
    /// # Errors
    /// [`BlobError::Io`], also when it can't be told apart.
    async fn arrived(&self, session: SessionId, create_only: bool) -> Result<Option<Arrived>, BlobError>;

    /// The parts that are there, in the order of their numbers; `None` when there is no such upload, because it was joined
    /// or lost.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    async fn arrived_parts(&self, session: SessionId, upload: &str) -> Result<Option<Vec<ArrivedPart>>, BlobError>;

    /// Makes one of these parts, which must be all that count. May be repeated, also when it was done; `None` when nothing is
    /// there that they could have become.
    ///
    /// # Errors
    /// [`BlobError::Io`], also when what is there is something else.
    async fn join(&self, session: SessionId, upload: &str, parts: &[ArrivedPart])
    -> Result<Option<Arrived>, BlobError>;

    /// Begins a session to which a client sends a file in chunks, which becomes the only object of its key; its location, which
    /// is a secret. It ends when the segment is deleted with the location for what its row keeps, or by itself, not before a
    /// week is over.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    async fn begin_session(&self, ask: SessionAsk<'_>) -> Result<String, BlobError> {
        let _ = ask;
        Err(unserved())
    }

    /// How far it has come. One that has as many bytes as the file was declared to have may be completed by the question.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    async fn reached(&self, location: &str, size: u64) -> Result<Reached, BlobError> {
        let _ = (location, size);
        Err(unserved())
    }

    /// Ends an upload in parts, or a session, that nobody was told about.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    async fn abandon(&self, session: SessionId, upload: &str) -> Result<(), BlobError>;
}

fn unserved() -> BlobError {
    BlobError::Io(io::Error::from(io::ErrorKind::Unsupported))
}

/// A place for bytes.
#[async_trait]
pub trait BlobStore: Send + Sync + fmt::Debug {
    /// Opens a new segment. `expected` is its length where it is known.
    ///
    /// # Errors
    /// [`BlobError::Exists`], [`BlobError::OutOfSpace`] or [`BlobError::Io`].
    async fn create(&self, segment: SegmentId, expected: Option<u64>) -> Result<Box<dyn SegmentWriter>, BlobError>;

    /// Opens a finished segment. A reader that is open survives the segment's deletion on a local disk.
    ///
    /// # Errors
    /// [`BlobError::NotFound`] or [`BlobError::Io`].
    async fn open(&self, segment: SegmentId, backend: &str) -> Result<Box<dyn SegmentReader>, BlobError>;

    /// Can what [`SegmentWriter::persist`] made durable be read before the segment is finished? Where it can't, a segment
    /// that its writer did not finish has to be sealed before it is part of a version.
    fn reads_unfinished(&self) -> bool;

    /// Does an open reader survive the segment's deletion?
    fn open_ones_survive(&self) -> bool {
        true
    }

    /// Finishes a segment whose writer is gone or fenced: its first `length` bytes can be read afterwards. `backend` is
    /// what the writer's last recorded extent had; the answer is what the row has to keep from now on. Nobody may record
    /// another extent of this segment, because what is behind this one is lost. May be repeated, also by several at once.
    ///
    /// # Errors
    /// [`BlobError::Truncated`] when not all of the bytes are there, or [`BlobError::Io`].
    async fn seal(&self, segment: SegmentId, backend: &str, length: u64) -> Result<String, BlobError>;

    /// The length of a segment as it is stored, or `None` when it is not there.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    async fn length(&self, segment: SegmentId, backend: &str) -> Result<Option<u64>, BlobError>;

    /// Deletes a segment; one that does not exist is deleted already.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    async fn delete(&self, segment: SegmentId, backend: &str) -> Result<(), BlobError>;

    /// Calls `each` for every segment there is, a batch at a time, and tidies what no segment needs (empty directories).
    ///
    /// # Errors
    /// [`BlobError::Io`].
    async fn list(&self, each: &mut (dyn FnMut(Vec<Listed>) + Send)) -> Result<(), BlobError>;

    /// The place where new segments go.
    fn place(&self) -> PlaceId {
        PlaceId::FIRST
    }

    /// The way for clients to send to the store themselves, where it has one.
    fn direct(&self) -> Option<&dyn Direct> {
        None
    }

    /// The same at the place where a session began.
    fn direct_at(&self, place: PlaceId) -> Option<&dyn Direct> {
        self.direct().filter(|_| place == self.place())
    }

    /// May clients have sent something to any of its places themselves?
    fn knows_direct(&self) -> bool {
        self.direct().is_some()
    }

    /// The space left, where the backend has such a thing.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    async fn space(&self) -> Result<Option<Space>, BlobError>;

    /// Can the backend be reached?
    ///
    /// # Errors
    /// [`BlobError::Io`].
    async fn ping(&self) -> Result<(), BlobError> {
        self.space().await.map(drop)
    }
}
