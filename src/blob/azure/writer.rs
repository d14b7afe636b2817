//! Writing a segment: bytes gather to a block, full blocks are sent while the next one fills.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::task::JoinHandle;

use super::blobs::Content;
use super::blocks::{BLOCK_BYTES, Block};
use super::{Azure, Whole, unfinished};
use crate::blob::remote::{Fault, Held};
use crate::blob::{BlobError, Extent, SegmentWriter};
use crate::faults;
use crate::limits;
use crate::model::ids::SegmentId;

/// Blocks on their way at once, besides the one that fills.
const SENDING: usize = 2;
/// So many pieces of a block are persisted one by one; with the next one they become one.
const PIECES: usize = 32;
/// Where memory is short, so many bytes are worth a block of their own.
const SPILL_BYTES: u64 = 256 * 1024;

/// The only writer of one segment.
#[derive(Debug)]
pub(super) struct Writer {
    store: Azure,
    segment: SegmentId,
    /// Where the blobs of the segment begin that are made.
    made: Vec<u64>,
    /// Where the one begins that is written.
    start: u64,
    /// Its blocks that count, up to the one that fills.
    blocks: Vec<Block>,
    /// How many were sent to it, those included that others have replaced.
    sent: usize,
    /// Where the block begins that fills, counted from the segment's beginning. Its bytes are in memory.
    from: u64,
    chunks: Vec<Bytes>,
    /// The last of them, which still grow.
    chunk: BytesMut,
    held: Held,
    /// Pieces of it that were persisted, without a gap from its beginning on.
    pieces: Vec<Block>,
    written: u64,
    sending: VecDeque<JoinHandle<Result<(), Fault>>>,
}

impl Writer {
    pub(super) fn new(store: Azure, segment: SegmentId) -> Self {
        let held = Held::none(Arc::clone(&store.shared.memory));
        Self {
            store,
            segment,
            made: Vec::new(),
            start: 0,
            blocks: Vec::new(),
            sent: 0,
            from: 0,
            chunks: Vec::new(),
            chunk: BytesMut::new(),
            held,
            pieces: Vec::new(),
            written: 0,
            sending: VecDeque::new(),
        }
    }

    fn key(&self) -> String {
        self.store.key(self.segment, self.start)
    }

    /// Bytes that the block still takes.
    const fn left(&self) -> u64 {
        (self.from + BLOCK_BYTES).saturating_sub(self.written)
    }

    /// Up to where everything is persisted or on its way.
    fn kept(&self) -> u64 {
        self.pieces.last().map_or(self.from, |piece| self.start + piece.end())
    }

    /// What lies between two places of the segment, as a block of the blob.
    const fn block(&self, from: u64, to: u64) -> Block {
        Block { offset: from - self.start, length: to - from }
    }

    fn end_chunk(&mut self) {
        if !self.chunk.is_empty() {
            let full = std::mem::replace(&mut self.chunk, BytesMut::with_capacity(limits::WRITE_BYTES)).freeze();
            self.chunks.push(full);
        }
    }

    /// The block's bytes, which are the writer's no longer. The next one begins.
    fn cut(&mut self) -> Arc<Content> {
        self.end_chunk();
        self.chunk = BytesMut::new();
        self.from = self.written;
        Content::of(std::mem::take(&mut self.chunks), Some(self.held.take()))
    }

    /// Sends the block that is full, while the next one fills. It takes the place of its pieces.
    async fn send(&mut self) -> Result<(), BlobError> {
        while self.sending.len() >= SENDING {
            self.arrive().await?;
        }
        let block = self.block(self.from, self.written);
        let content = self.cut();
        let there = std::mem::take(&mut self.pieces) == [block];
        self.blocks.push(block);
        if !there {
            self.sent += 1;
            let (store, key) = (self.store.clone(), self.key());
            self.sending.push_back(tokio::spawn(async move {
                let sent = store.put_block(&key, block, &content).await;
                faults::point("object.part");
                sent
            }));
        }
        Ok(())
    }

    /// Waits for the oldest block on its way.
    async fn arrive(&mut self) -> Result<(), BlobError> {
        if let Some(sending) = self.sending.pop_front() {
            sending.await.map_err(|error| BlobError::Io(std::io::Error::other(error)))??;
        }
        Ok(())
    }

    async fn all_arrive(&mut self) -> Result<(), BlobError> {
        while !self.sending.is_empty() {
            self.arrive().await?;
        }
        Ok(())
    }

    /// Sends what is not persisted yet as one more piece of the block, or all of the block as one.
    async fn keep(&mut self) -> Result<(), BlobError> {
        let kept = self.kept();
        if kept == self.written {
            return Ok(());
        }
        self.end_chunk();
        let first = if self.pieces.len() < PIECES { kept } else { self.from };
        let mut skip = usize::try_from(first - self.from).unwrap_or(usize::MAX);
        let mut chunks = Vec::new();
        for chunk in &self.chunks {
            let passed = skip.min(chunk.len());
            skip -= passed;
            if passed < chunk.len() {
                chunks.push(chunk.slice(passed..));
            }
        }
        let piece = self.block(first, self.written);
        self.store.put_block(&self.key(), piece, &Content::of(chunks, None)).await?;
        faults::point("object.tail");
        self.sent += 1;
        if first == self.from {
            self.pieces.clear();
        }
        self.pieces.push(piece);
        Ok(())
    }

    /// Lets go of memory whose bytes are persisted: their pieces stay what they are.
    fn release(&mut self) {
        if self.kept() == self.written {
            self.blocks.append(&mut self.pieces);
            self.chunks.clear();
            self.chunk = BytesMut::new();
            self.from = self.written;
            drop(self.held.take());
        }
    }

    /// Sees to it that this writer takes no more memory than there is.
    async fn make_room(&mut self) -> Result<(), BlobError> {
        if self.held.bytes >= SPILL_BYTES && self.held.is_too_much() {
            self.all_arrive().await?;
            if self.held.is_too_much() {
                self.keep().await?;
                self.release();
            }
        }
        Ok(())
    }

    /// Has the service as many blocks as it is given for one blob?
    fn is_full(&self) -> bool {
        self.sent >= self.store.shared.blocks_max
    }

    /// Makes the blob that is written of its blocks.
    async fn make(&mut self) -> Result<(), BlobError> {
        self.all_arrive().await?;
        self.store.put_list(&self.key(), &self.blocks).await?;
        self.made.push(self.start);
        Ok(())
    }
}

#[async_trait]
impl SegmentWriter for Writer {
    async fn write(&mut self, chunks: &mut Vec<Bytes>) -> Result<(), BlobError> {
        faults::io_point("segment.write")?;
        for mut chunk in chunks.drain(..) {
            while !chunk.is_empty() {
                // Not before more comes: what ends with a block may be one body.
                if self.left() == 0 {
                    self.send().await?;
                }
                if self.from == self.written && self.is_full() {
                    self.make().await?;
                    self.start = self.written;
                    self.blocks.clear();
                    self.sent = 0;
                }
                let room = limits::WRITE_BYTES - self.chunk.len();
                let most = room.min(usize::try_from(self.left()).unwrap_or(usize::MAX));
                // Copied, so that a body's memory is free for others; what is held here is counted here.
                let bytes = chunk.split_to(chunk.len().min(most));
                self.chunk.extend_from_slice(&bytes);
                let length = u64::try_from(bytes.len()).unwrap_or(0);
                self.held.add(length);
                self.written += length;
                if self.chunk.len() == limits::WRITE_BYTES {
                    self.end_chunk();
                }
            }
        }
        if self.written > 0 {
            faults::point("segment.half_written");
        }
        self.make_room().await
    }

    async fn persist(&mut self) -> Result<Extent, BlobError> {
        faults::point("segment.unsynced");
        if self.left() == 0 {
            self.send().await?;
        }
        self.all_arrive().await?;
        self.keep().await?;
        // A block that is made of very many pieces ends where it is: the next blob has room for others.
        if !self.held.is_plenty() || self.is_full() {
            self.release();
        }
        faults::point("segment.synced");
        faults::point("segment.named");
        Ok(Extent { length: self.written, backend: unfinished() })
    }

    async fn finish(mut self: Box<Self>) -> Result<Extent, BlobError> {
        faults::point("segment.unsynced");
        if self.made.is_empty() && self.sent == 0 {
            let (key, content) = (self.key(), self.cut());
            self.store.put_blob(&key, &content).await?;
            self.made.push(0);
        } else {
            self.keep().await?;
            self.release();
            if !self.blocks.is_empty() {
                self.make().await?;
            }
        }
        faults::point("object.part");
        faults::point("segment.synced");
        faults::point("segment.named");
        Ok(Extent { length: self.written, backend: Whole::of(self.made.len()).to_string() })
    }

    async fn discard(mut self: Box<Self>) {
        for sending in self.sending.drain(..) {
            // One that comes late belongs to nothing, and goes within a week.
            sending.abort();
        }
        let last = (self.sent > 0).then_some(self.start);
        for start in self.made.iter().copied().chain(last) {
            if let Err(fault) = self.store.remove_all(&self.store.key(self.segment, start)).await {
                tracing::warn!(%fault, "a blob that is not needed could not be deleted");
            }
        }
    }
}
