//! Reading committed bytes back.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use futures_util::{Stream, StreamExt};
use tokio::runtime::Handle;

use super::pour::{Hashers, Pour};
use crate::blob::{BlobError, BlobStore, SegmentReader};
use crate::engine::{Engine, Kept};
use crate::limits;
use crate::model::file::{Digests, Piece, Version};
use crate::model::ids::{TenantId, VersionId};
use crate::model::refusal::Refusal;
use crate::model::session::Hashes;

/// Opens a version of a tenant by its id.
///
/// # Errors
/// [`Refusal::NotFound`] when it is gone, and the keepers' own.
pub async fn version(engine: &Engine, tenant: &TenantId, id: VersionId) -> Result<VersionReader, Refusal> {
    let found = engine.meta.version(tenant, id).await?.ok_or(Refusal::NotFound { what: "the content" })?;
    Ok(VersionReader::open(engine, &found).await?)
}

/// The checksums of a version's bytes, and what else is wanted of them, by reading all of them once.
///
/// # Errors
/// [`Refusal::Unavailable`] when they can't be read to their end, [`Refusal::Internal`] when they are damaged.
pub(super) async fn digests(engine: &Engine, version: &Version, wanted: Hashes) -> Result<Digests, Refusal> {
    let reader = VersionReader::open(engine, version).await?;
    let mut bytes = reader.stream(0..version.size);
    let mut pour = Pour::new(None, Hashers::start(wanted), &engine.receiving);
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => Refusal::Internal,
            _ => Refusal::Unavailable,
        })?;
        pour.take(chunk).await?;
    }
    pour.flush().await?;
    let read = pour.finish_hashes().await?;
    Ok(Digests { md5: read.md5, sha256: read.sha256, ..pour.crcs().into() })
}

/// A version of so many pieces is opened whole; of one with more, one piece at a time: file descriptors are few.
const OPENED_AT_ONCE: usize = 16;

/// An open version. What is open is not deleted while it is.
#[derive(Debug)]
pub struct VersionReader {
    pieces: Vec<Placed>,
    size: u64,
    blobs: Arc<dyn BlobStore>,
    /// The piece that is open, of a version that is not opened whole.
    current: Mutex<Option<(usize, Arc<dyn SegmentReader>)>>,
    _kept: Option<Kept>,
}

/// A piece and the offset that it begins at.
#[derive(Debug)]
struct Placed {
    start: u64,
    piece: Piece,
    reader: Option<Arc<dyn SegmentReader>>,
}

impl VersionReader {
    /// Opens a version, so that it survives a deletion that begins later.
    ///
    /// # Errors
    /// [`BlobError::NotFound`] or [`BlobError::Io`].
    pub async fn open(engine: &Engine, version: &Version) -> Result<Self, BlobError> {
        let whole = version.pieces.len() <= OPENED_AT_ONCE;
        // Before anything is looked for: the sweeper asks after it has found what to delete.
        let survives = whole && engine.blobs.open_ones_survive();
        let kept = (!survives).then(|| engine.readers.keep(version.pieces.iter().map(|piece| piece.segment)));
        let mut pieces = Vec::with_capacity(version.pieces.len());
        let mut start = 0u64;
        for piece in &version.pieces {
            let reader = match whole {
                true => Some(Arc::from(engine.blobs.open(piece.segment, &piece.backend).await?)),
                false => None,
            };
            pieces.push(Placed { start, piece: piece.clone(), reader });
            start = start.saturating_add(piece.length);
        }
        if start != version.size {
            return Err(BlobError::Io(io::Error::other(format!("version {} has lost pieces", version.id))));
        }
        let blobs = Arc::clone(&engine.blobs);
        let opened = Self { pieces, size: version.size, blobs, current: Mutex::default(), _kept: kept };
        if !whole {
            // A version that is gone already is so from the first byte on.
            opened.reader(0).await?;
            opened.reader(opened.pieces.len() - 1).await?;
        }
        Ok(opened)
    }

    /// Bytes in all.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The piece that has the byte at this offset, which is one of the version's.
    fn index(&self, offset: u64) -> usize {
        // Of empty pieces that begin there as well, it is none.
        self.pieces.partition_point(|placed| placed.start <= offset).saturating_sub(1)
    }

    async fn reader(&self, index: usize) -> Result<Arc<dyn SegmentReader>, BlobError> {
        let Placed { piece, reader, .. } = &self.pieces[index];
        if let Some(reader) = reader {
            return Ok(Arc::clone(reader));
        }
        let lock = || self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((open, reader)) = &*lock()
            && *open == index
        {
            return Ok(Arc::clone(reader));
        }
        let opened: Arc<dyn SegmentReader> = Arc::from(self.blobs.open(piece.segment, &piece.backend).await?);
        *lock() = Some((index, Arc::clone(&opened)));
        Ok(opened)
    }

    /// Reads some bytes from `offset`: at most [`limits::WRITE_BYTES`], fewer at a piece's end, none at the end.
    ///
    /// # Errors
    /// [`BlobError::Truncated`] when a piece is shorter than its row, or [`BlobError::Io`].
    pub async fn at(&self, offset: u64, end: u64) -> Result<Bytes, BlobError> {
        let end = end.min(self.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let index = self.index(offset);
        let Placed { start, piece, .. } = &self.pieces[index];
        let within = offset - start;
        let most = u64::try_from(limits::WRITE_BYTES).unwrap_or(u64::MAX);
        let wanted = (piece.length - within).min(end - offset).min(most);
        let reader = self.reader(index).await?;
        let bytes = reader.read(within, usize::try_from(wanted).unwrap_or(limits::WRITE_BYTES)).await?;
        if bytes.is_empty() && wanted > 0 {
            return Err(BlobError::Truncated { segment: piece.segment, expected: piece.length, found: within });
        }
        Ok(bytes)
    }

    /// The bytes of a range. A piece that is read whole ends with an error when its checksum is not the committed one, so
    /// that damaged bytes never look complete.
    pub fn stream(self, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
        let state = (self, range, Check::default());
        Box::pin(futures_util::stream::try_unfold(state, |(reader, range, mut check)| async move {
            let bytes = reader.at(range.start, range.end).await.map_err(io::Error::other)?;
            if bytes.is_empty() {
                return Ok(None);
            }
            check.take(&reader, range.start, &bytes)?;
            let next = range.start + u64::try_from(bytes.len()).unwrap_or(0);
            Ok(Some((bytes, (reader, next..range.end, check))))
        }))
    }

    /// The whole as a blocking reader, for parsers on a thread of their own.
    #[must_use]
    pub fn blocking(self, runtime: Handle) -> BlockingReader {
        BlockingReader { reader: self, runtime, position: 0, buffer: Bytes::new(), check: Check::default() }
    }
}

/// The running checksum of a piece that is read from its beginning.
#[derive(Default)]
struct Check(Option<(usize, crc_fast::Digest)>);

impl Check {
    /// Bytes that were read, all of one piece. Its last ones are given only when the piece is what was committed.
    fn take(&mut self, reader: &VersionReader, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let index = reader.index(offset);
        let Placed { start, piece, .. } = &reader.pieces[index];
        let known = match (piece.digests.crc64nvme, piece.digests.crc32c) {
            (Some(crc), _) => Some((CrcAlgorithm::Crc64Nvme, crc)),
            (None, Some(crc)) => Some((CrcAlgorithm::Crc32Iscsi, crc.into())),
            (None, None) => None,
        };
        // Of what the store told no checksum of, there is nothing to compare with.
        let Some((algorithm, wanted)) = known else { return Ok(()) };
        if offset == *start {
            self.0 = Some((index, crc_fast::Digest::new(algorithm)));
        }
        let Some((_, digest)) = self.0.as_mut().filter(|(begun, _)| *begun == index) else { return Ok(()) };
        digest.update(bytes);
        let end = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if end == start.saturating_add(piece.length) && digest.finalize() != wanted {
            tracing::error!(segment = %piece.segment, "stored bytes are damaged");
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the stored bytes are damaged"));
        }
        Ok(())
    }
}

/// A running checksum has nothing to show.
impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Check")
    }
}

/// A version as [`Read`]. Must not be read on a thread that drives a runtime.
#[derive(Debug)]
pub struct BlockingReader {
    reader: VersionReader,
    runtime: Handle,
    position: u64,
    buffer: Bytes,
    check: Check,
}

impl Read for BlockingReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.buffer.is_empty() {
            let read = self.reader.at(self.position, u64::MAX);
            let bytes = self.runtime.block_on(read).map_err(io::Error::other)?;
            if !bytes.is_empty() {
                self.check.take(&self.reader, self.position, &bytes)?;
            }
            self.position += u64::try_from(bytes.len()).unwrap_or(0);
            self.buffer = bytes;
        }
        let n = self.buffer.len().min(into.len());
        into[..n].copy_from_slice(&self.buffer.split_to(n));
        Ok(n)
    }
}
