//! Writing a segment: bytes gather to a block, full blocks are sent while the next one fills.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::blobs::Content;
use super::blocks::{BLOCK_BYTES, Block};
use super::{Azure, Whole, unfinished};
use crate::blob::remote::{Gathered, Sending};
use crate::blob::{BlobError, Extent, SegmentWriter};
use crate::faults;
use crate::model::ids::SegmentId;

/// So many pieces of a block are persisted one by one; with the next one they become one.
const PIECES: usize = 32;
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
    /// The block that fills.
    gathered: Gathered,
    /// Pieces of it that were persisted, without a gap from its beginning on.
    pieces: Vec<Block>,
    sending: Sending<()>,
}

impl Writer {
    pub(super) fn new(store: Azure, segment: SegmentId) -> Self {
        let gathered = Gathered::new(&store.shared.memory);
        Self {
            store,
            segment,
            made: Vec::new(),
            start: 0,
            blocks: Vec::new(),
            sent: 0,
            gathered,
            pieces: Vec::new(),
            sending: Sending::new(),
        }
    }

    fn key(&self) -> String {
        self.store.key(self.segment, self.start)
    }

    /// Bytes that the block still takes.
    const fn left(&self) -> u64 {
        (self.gathered.from() + BLOCK_BYTES).saturating_sub(self.gathered.end())
    }

    /// Up to where everything is persisted or on its way.
    fn kept(&self) -> u64 {
        self.pieces.last().map_or(self.gathered.from(), |piece| self.start + piece.end())
    }

    /// What lies between two places of the segment, as a block of the blob.
    const fn block(&self, from: u64, to: u64) -> Block {
        Block { offset: from - self.start, length: to - from }
    }

    /// The block's bytes, which are the writer's no longer. The next one begins.
    fn cut(&mut self) -> Arc<Content> {
        let (chunks, held) = self.gathered.cut();
        Content::of(chunks, Some(held))
    }

    /// Sends the block that is full, while the next one fills. It takes the place of its pieces.
    async fn send(&mut self) -> Result<(), BlobError> {
        self.sending.room().await?;
        let block = self.block(self.gathered.from(), self.gathered.end());
        let content = self.cut();
        let there = std::mem::take(&mut self.pieces) == [block];
        self.blocks.push(block);
        if !there {
            self.sent += 1;
            let (store, key) = (self.store.clone(), self.key());
            self.sending.start(async move {
                let sent = store.put_block(&key, block, &content).await;
                faults::point("object.part");
                sent
            });
        }
        Ok(())
    }

    /// Sends what is not persisted yet as one more piece of the block, or all of the block as one.
    async fn keep(&mut self) -> Result<(), BlobError> {
        let (kept, end) = (self.kept(), self.gathered.end());
        if kept == end {
            return Ok(());
        }
        let first = if self.pieces.len() < PIECES { kept } else { self.gathered.from() };
        let (piece, chunks) = (self.block(first, end), self.gathered.behind(first));
        self.store.put_block(&self.key(), piece, &Content::of(chunks, None)).await?;
        faults::point("object.tail");
        self.sent += 1;
        if first == self.gathered.from() {
            self.pieces.clear();
        }
        self.pieces.push(piece);
        Ok(())
    }

    /// Lets go of memory whose bytes are persisted: their pieces stay what they are.
    fn release(&mut self) {
        if self.kept() == self.gathered.end() {
            self.blocks.append(&mut self.pieces);
            drop(self.gathered.cut());
        }
    }

    /// Sees to it that this writer takes no more memory than there is.
    async fn make_room(&mut self) -> Result<(), BlobError> {
        if self.gathered.is_too_much() {
            self.sending.all().await?;
            if self.gathered.is_too_much() {
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
        self.sending.all().await?;
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
                if self.gathered.held() == 0 && self.is_full() {
                    self.make().await?;
                    self.start = self.gathered.end();
                    self.blocks.clear();
                    self.sent = 0;
                }
                let left = self.left();
                self.gathered.take(&mut chunk, left);
            }
        }
        if self.gathered.end() > 0 {
            faults::point("segment.half_written");
        }
        self.make_room().await
    }

    async fn persist(&mut self) -> Result<Extent, BlobError> {
        faults::point("segment.unsynced");
        if self.left() == 0 {
            self.send().await?;
        }
        self.sending.all().await?;
        self.keep().await?;
        // A block that is made of very many pieces ends where it is: the next blob has room for others.
        if !self.gathered.may_stay() || self.is_full() {
            self.release();
        }
        faults::point("segment.synced");
        faults::point("segment.named");
        Ok(Extent { length: self.gathered.end(), backend: unfinished() })
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
        Ok(Extent { length: self.gathered.end(), backend: Whole::of(self.made.len()).to_string() })
    }

    async fn discard(mut self: Box<Self>) {
        // One that comes late belongs to nothing, and goes within a week.
        self.sending.abort();
        let last = (self.sent > 0).then_some(self.start);
        for start in self.made.iter().copied().chain(last) {
            if let Err(fault) = self.store.remove_all(&self.store.key(self.segment, start)).await {
                tracing::warn!(%fault, "a blob that is not needed could not be deleted");
            }
        }
    }
}
