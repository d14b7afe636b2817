//! Writing a segment: bytes gather to a part, full parts are sent while the next one fills.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use crc_fast::CrcAlgorithm;
use tokio::task::JoinHandle;

use super::S3;
use super::content::Content;
use super::layout::{HELD_BYTES, Layout, Recorded, SEALING_PART, Tail, WHOLE};
use super::wire::Sent;
use crate::blob::remote::{Fault, Held, crc32c, followed};
use crate::blob::{BlobError, Extent, SegmentWriter};
use crate::faults;
use crate::limits;
use crate::model::ids::SegmentId;

/// Parts on their way at once, besides the one that fills.
const SENDING: usize = 2;
/// Where memory is short, so many bytes are worth an object of their own.
const SPILL_BYTES: u64 = 256 * 1024;

/// The only writer of one segment. The part that fills has its first bytes in tails, its last in memory; those that were
/// made durable without need for their memory are in both.
#[derive(Debug)]
pub(super) struct Writer {
    store: S3,
    segment: SegmentId,
    layout: Layout,
    upload: Option<String>,
    /// The part that fills.
    number: u32,
    /// Its tails.
    tails: Vec<Tail>,
    /// Its bytes in memory, from `held_from` on.
    blocks: Vec<Bytes>,
    /// And the last of them, which still grow.
    block: BytesMut,
    held: Held,
    held_from: u64,
    /// The checksum of the whole part.
    crc32c: u32,
    written: u64,
    sending: VecDeque<JoinHandle<Result<Sent, Fault>>>,
    sent: Vec<Sent>,
    /// Tails of parts that were sent since the last persist.
    sent_tails: Vec<Tail>,
    /// Tails that no recorded extent needs once somebody goes on.
    stale: Vec<Tail>,
}

impl Writer {
    pub(super) fn new(store: S3, segment: SegmentId, layout: Layout) -> Self {
        let held = Held::none(Arc::clone(&store.shared.memory));
        Self {
            store,
            segment,
            layout,
            upload: None,
            number: 1,
            tails: Vec::new(),
            blocks: Vec::new(),
            block: BytesMut::new(),
            held,
            held_from: 0,
            crc32c: 0,
            written: 0,
            sending: VecDeque::new(),
            sent: Vec::new(),
            sent_tails: Vec::new(),
            stale: Vec::new(),
        }
    }

    /// Bytes that the part still takes.
    fn left(&self) -> u64 {
        self.layout.start(self.number).saturating_add(self.layout.bytes(self.number)).saturating_sub(self.written)
    }

    /// Up to where the part's bytes are in tails.
    fn kept(&self) -> u64 {
        self.tails.last().map_or_else(|| self.layout.start(self.number), |tail| tail.end())
    }

    fn end_block(&mut self) {
        if !self.block.is_empty() {
            let full = std::mem::replace(&mut self.block, BytesMut::with_capacity(limits::WRITE_BYTES)).freeze();
            self.blocks.push(full);
        }
    }

    /// The part's bytes, which are the writer's no longer.
    fn cut(&mut self) -> Content {
        self.end_block();
        let start = self.layout.start(self.number);
        let content = Content {
            segment: Some(self.segment),
            tails: self.tails.iter().copied().filter(|tail| tail.offset < self.held_from).collect(),
            blocks: std::mem::take(&mut self.blocks),
            length: self.written - start,
            crc32c: std::mem::take(&mut self.crc32c),
            _held: Some(self.held.take()),
        };
        self.block = BytesMut::new();
        self.sent_tails.append(&mut self.tails);
        self.held_from = self.written;
        content
    }

    /// Sends the part that fills, while the next one does.
    async fn send(&mut self) -> Result<(), BlobError> {
        let upload = match &self.upload {
            Some(upload) => upload.clone(),
            None => {
                let upload = self.store.begin(self.segment).await?;
                faults::point("object.begun");
                self.upload.insert(upload).clone()
            }
        };
        if self.number >= SEALING_PART {
            return Err(BlobError::Io(std::io::Error::other("a segment has too many parts")));
        }
        while self.sending.len() >= SENDING {
            self.arrive().await?;
        }
        let content = Arc::new(self.cut());
        let (store, segment, number) = (self.store.clone(), self.segment, self.number);
        self.sending.push_back(tokio::spawn(async move {
            let sent = store.send(segment, &upload, number, &content).await;
            faults::point("object.part");
            sent
        }));
        self.number += 1;
        Ok(())
    }

    /// Waits for the oldest part on its way.
    async fn arrive(&mut self) -> Result<(), BlobError> {
        if let Some(sending) = self.sending.pop_front() {
            let sent = sending.await.map_err(|error| BlobError::Io(std::io::Error::other(error)))?;
            self.sent.push(sent?);
        }
        Ok(())
    }

    async fn all_arrive(&mut self) -> Result<(), BlobError> {
        while !self.sending.is_empty() {
            self.arrive().await?;
        }
        Ok(())
    }

    /// Writes what no tail holds yet as one.
    async fn keep(&mut self) -> Result<(), BlobError> {
        let from = self.kept();
        if from == self.written {
            return Ok(());
        }
        self.end_block();
        let mut skip = usize::try_from(from - self.held_from).unwrap_or(usize::MAX);
        let mut blocks = Vec::new();
        for block in &self.blocks {
            let passed = skip.min(block.len());
            skip -= passed;
            if passed < block.len() {
                blocks.push(block.slice(passed..));
            }
        }
        let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
        blocks.iter().for_each(|block| digest.update(block));
        let crc32c = u32::try_from(digest.finalize()).unwrap_or(0);
        let tail = Tail { offset: from, length: self.written - from, crc32c };
        let content = Content { segment: None, tails: Vec::new(), blocks, length: tail.length, crc32c, _held: None };
        self.store.put(&self.store.tail_key(self.segment, tail), &Arc::new(content)).await?;
        faults::point("object.tail");
        self.tails.push(tail);
        Ok(())
    }

    /// Lets go of memory whose bytes are in tails.
    fn release(&mut self) {
        if self.kept() == self.written {
            self.blocks.clear();
            self.block = BytesMut::new();
            self.held_from = self.written;
            drop(self.held.take());
        }
    }

    /// Sees to it that this writer takes no more memory than there is.
    async fn make_room(&mut self) -> Result<(), BlobError> {
        let large = self.layout.bytes(self.number) > HELD_BYTES;
        if large && self.held.bytes >= HELD_BYTES {
            self.keep().await?;
            self.release();
        }
        if self.held.bytes >= SPILL_BYTES && self.held.is_too_much() {
            self.all_arrive().await?;
            if self.held.is_too_much() {
                self.keep().await?;
                self.release();
            }
        }
        Ok(())
    }

    /// Removes tails that the last recorded extent does not need.
    fn forget_stale(&mut self) {
        self.store.forget(self.segment, std::mem::take(&mut self.stale));
    }
}

#[async_trait]
impl SegmentWriter for Writer {
    async fn write(&mut self, chunks: &mut Vec<Bytes>) -> Result<(), BlobError> {
        faults::io_point("segment.write")?;
        self.forget_stale();
        for mut chunk in chunks.drain(..) {
            while !chunk.is_empty() {
                // Not before more comes: what ends with a part is one object, or its last part.
                if self.left() == 0 {
                    self.send().await?;
                }
                let room = limits::WRITE_BYTES - self.block.len();
                let most = room.min(usize::try_from(self.left()).unwrap_or(usize::MAX));
                // Copied, so that a body's memory is free for others; what is held here is counted here.
                let bytes = chunk.split_to(chunk.len().min(most));
                self.block.extend_from_slice(&bytes);
                let length = u64::try_from(bytes.len()).unwrap_or(0);
                self.crc32c = followed(self.crc32c, crc32c(&bytes), length);
                self.held.add(length);
                self.written += length;
                if self.block.len() == limits::WRITE_BYTES {
                    self.end_block();
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
        self.forget_stale();
        if self.left() == 0 {
            self.send().await?;
        }
        self.all_arrive().await?;
        self.keep().await?;
        if !self.held.is_plenty() {
            self.release();
        }
        faults::point("segment.synced");
        faults::point("segment.named");
        self.stale.append(&mut self.sent_tails);
        let recorded = Recorded {
            layout: self.layout,
            parts: self.number - 1,
            tails: self.tails.clone(),
            upload: self.upload.clone(),
        };
        Ok(Extent { length: self.written, backend: recorded.to_string() })
    }

    async fn finish(mut self: Box<Self>) -> Result<Extent, BlobError> {
        faults::point("segment.unsynced");
        let start = self.layout.start(self.number);
        match self.upload.clone() {
            None => {
                let content = Arc::new(self.cut());
                self.store.put(&self.store.key(self.segment), &content).await?;
                faults::point("object.part");
            }
            Some(upload) => {
                if self.written > start {
                    self.send().await?;
                }
                self.all_arrive().await?;
                self.store.complete(self.segment, &upload, &self.sent, self.written).await?;
            }
        }
        faults::point("segment.synced");
        faults::point("segment.named");
        self.sent_tails.append(&mut self.stale);
        self.store.forget(self.segment, std::mem::take(&mut self.sent_tails));
        Ok(Extent { length: self.written, backend: WHOLE.into() })
    }

    async fn discard(mut self: Box<Self>) {
        for sending in self.sending.drain(..) {
            // One that comes late is left in an upload that is gone.
            sending.abort();
        }
        let key = self.store.key(self.segment);
        if let Some(upload) = &self.upload
            && let Err(fault) = self.store.abort(&key, upload).await
        {
            tracing::warn!(%fault, "an upload that is not needed could not be ended");
        }
        let tails = [&self.tails[..], &self.sent_tails, &self.stale].concat();
        self.store.remove_all(tails.iter().map(|tail| self.store.tail_key(self.segment, *tail)).collect()).await;
    }
}
