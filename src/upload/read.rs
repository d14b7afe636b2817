//! Reading committed bytes back.

use std::io::{self, Read};
use std::ops::Range;

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use futures_util::Stream;
use tokio::runtime::Handle;

use crate::blob::{BlobError, SegmentReader};
use crate::engine::Engine;
use crate::limits;
use crate::model::file::{Piece, Version};
use crate::model::ids::{TenantId, VersionId};
use crate::model::refusal::Refusal;

/// Opens a version of a tenant by its id.
///
/// # Errors
/// [`Refusal::NotFound`] when it is gone, and the keepers' own.
pub async fn version(engine: &Engine, tenant: &TenantId, id: VersionId) -> Result<VersionReader, Refusal> {
    let found = engine.meta.version(tenant, id).await?.ok_or(Refusal::NotFound { what: "the content" })?;
    Ok(VersionReader::open(engine, &found).await?)
}

/// An open version.
#[derive(Debug)]
pub struct VersionReader {
    pieces: Vec<(u64, Piece, Box<dyn SegmentReader>)>,
    size: u64,
}

impl VersionReader {
    /// Opens every piece, so that what is open survives a deletion that begins later.
    ///
    /// # Errors
    /// [`BlobError::NotFound`] or [`BlobError::Io`].
    pub async fn open(engine: &Engine, version: &Version) -> Result<Self, BlobError> {
        let mut pieces = Vec::with_capacity(version.pieces.len());
        let mut start = 0u64;
        for piece in &version.pieces {
            let reader = engine.blobs.open(piece.segment, &piece.backend).await?;
            pieces.push((start, piece.clone(), reader));
            start = start.saturating_add(piece.length);
        }
        if start != version.size {
            return Err(BlobError::Io(io::Error::other(format!("version {} has lost pieces", version.id))));
        }
        Ok(Self { pieces, size: version.size })
    }

    /// Bytes in all.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Reads some bytes from `offset`: at most [`limits::WRITE_BYTES`], fewer at a piece's end, none at the end.
    ///
    /// # Errors
    /// [`BlobError::Truncated`] when a piece is shorter than its row, or [`BlobError::Io`].
    pub async fn at(&self, offset: u64, end: u64) -> Result<Bytes, BlobError> {
        let end = end.min(self.size);
        let Some((start, piece, reader)) =
            self.pieces.iter().rev().find(|(start, _, _)| *start <= offset).filter(|_| offset < end)
        else {
            return Ok(Bytes::new());
        };
        let within = offset - start;
        let most = u64::try_from(limits::WRITE_BYTES).unwrap_or(u64::MAX);
        let wanted = (piece.length - within).min(end - offset).min(most);
        let bytes = reader.read(within, usize::try_from(wanted).unwrap_or(limits::WRITE_BYTES)).await?;
        if bytes.is_empty() && wanted > 0 {
            return Err(BlobError::Truncated { segment: piece.segment, expected: piece.length, found: within });
        }
        Ok(bytes)
    }

    /// The bytes of a range. A read of the whole ends with an error when their checksum is not the committed one,
    /// so that damaged bytes never look complete.
    pub fn stream(self, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
        let whole = range.start == 0 && range.end >= self.size && self.pieces.len() == 1;
        let check = whole.then(|| crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme));
        Box::pin(futures_util::stream::try_unfold((self, range, check), |(reader, range, mut check)| async move {
            let bytes = reader.at(range.start, range.end).await.map_err(io::Error::other)?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let next = range.start + u64::try_from(bytes.len()).unwrap_or(0);
            if let Some(check) = &mut check {
                check.update(&bytes);
                if next == reader.size
                    && check.finalize() != reader.pieces.first().map_or(0, |(_, piece, _)| piece.digests.crc64nvme)
                {
                    tracing::error!(segment = ?reader.pieces.first().map(|p| p.1.segment), "stored bytes are damaged");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the stored bytes are damaged"));
                }
            }
            Ok(Some((bytes, (reader, next..range.end, check))))
        }))
    }

    /// The whole as a blocking reader, for parsers on a thread of their own.
    #[must_use]
    pub fn blocking(self, runtime: Handle) -> BlockingReader {
        let check = (self.pieces.len() == 1).then(|| crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme));
        BlockingReader { reader: self, runtime, position: 0, buffer: Bytes::new(), check: check.map(Checked) }
    }
}

/// A version as [`Read`]. Must not be read on a thread that drives a runtime.
#[derive(Debug)]
pub struct BlockingReader {
    reader: VersionReader,
    runtime: Handle,
    position: u64,
    buffer: Bytes,
    check: Option<Checked>,
}

/// A running checksum, which has nothing to show.
struct Checked(crc_fast::Digest);

impl std::fmt::Debug for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checked")
    }
}

impl Read for BlockingReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.buffer.is_empty() {
            let read = self.reader.at(self.position, u64::MAX);
            self.buffer = self.runtime.block_on(read).map_err(io::Error::other)?;
            self.position += u64::try_from(self.buffer.len()).unwrap_or(0);
            if let Some(check) = &mut self.check {
                check.0.update(&self.buffer);
                let committed = self.reader.pieces.first().map_or(0, |(_, piece, _)| piece.digests.crc64nvme);
                // The last bytes are given only when the whole is what was committed.
                if self.position == self.reader.size && !self.buffer.is_empty() && check.0.finalize() != committed {
                    tracing::error!("stored bytes are damaged");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the stored bytes are damaged"));
                }
            }
        }
        let n = self.buffer.len().min(into.len());
        into[..n].copy_from_slice(&self.buffer.split_to(n));
        Ok(n)
    }
}
