//! Writing a segment: bytes gather to a part, full parts are sent while the next one fills.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;

use super::S3;
use super::content::Content;
use super::layout::{HELD_BYTES, Layout, Recorded, SEALING_PART, Tail, WHOLE};
use super::wire::Sent;
use crate::blob::remote::{Gathered, Sending};
use crate::blob::{BlobError, Extent, SegmentWriter};
use crate::faults;
use crate::model::ids::SegmentId;

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
    /// Its bytes in memory.
    gathered: Gathered,
    /// The checksum of the whole part, so far.
    crc32c: crc_fast::Digest,
    sending: Sending<Sent>,
    /// Tails of parts that were sent since the last persist.
    sent_tails: Vec<Tail>,
    /// Tails that no recorded extent needs once somebody goes on.
    stale: Vec<Tail>,
}

/// A CRC32C of bytes that come one after the other: to put together those of single ones costs more than they do.
fn running() -> crc_fast::Digest {
    crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi)
}

fn ended(digest: &crc_fast::Digest) -> u32 {
    u32::try_from(digest.finalize()).unwrap_or(0)
}

impl Writer {
    pub(super) fn new(store: S3, segment: SegmentId, layout: Layout) -> Self {
        let gathered = Gathered::new(&store.shared.memory);
        Self {
            store,
            segment,
            layout,
            upload: None,
            number: 1,
            tails: Vec::new(),
            gathered,
            crc32c: running(),
            sending: Sending::new(),
            sent_tails: Vec::new(),
            stale: Vec::new(),
        }
    }

    /// Bytes that the part still takes.
    fn left(&self) -> u64 {
        self.layout
            .start(self.number)
            .saturating_add(self.layout.bytes(self.number))
            .saturating_sub(self.gathered.end())
    }

    /// Up to where the part's bytes are in tails.
    fn kept(&self) -> u64 {
        self.tails.last().map_or_else(|| self.layout.start(self.number), |tail| tail.end())
    }

    /// The part's bytes, which are the writer's no longer.
    fn cut(&mut self) -> Content {
        let from = self.gathered.from();
        let (chunks, held) = self.gathered.cut();
        let content = Content {
            segment: Some(self.segment),
            tails: self.tails.iter().copied().filter(|tail| tail.offset < from).collect(),
            chunks,
            length: self.gathered.end() - self.layout.start(self.number),
            crc32c: ended(&std::mem::replace(&mut self.crc32c, running())),
            _held: Some(held),
        };
        self.sent_tails.append(&mut self.tails);
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
        self.sending.room().await?;
        let content = Arc::new(self.cut());
        let (store, segment, number) = (self.store.clone(), self.segment, self.number);
        self.sending.start(async move {
            let sent = store.send(segment, &upload, number, &content).await;
            faults::point("object.part");
            sent
        });
        self.number += 1;
        Ok(())
    }

    /// Writes what no tail holds yet as one.
    async fn keep(&mut self) -> Result<(), BlobError> {
        let (from, end) = (self.kept(), self.gathered.end());
        if from == end {
            return Ok(());
        }
        let chunks = self.gathered.behind(from);
        let mut digest = running();
        chunks.iter().for_each(|chunk| digest.update(chunk));
        let crc32c = ended(&digest);
        let tail = Tail { offset: from, length: end - from, crc32c };
        let content = Content { segment: None, tails: Vec::new(), chunks, length: tail.length, crc32c, _held: None };
        self.store.put(&self.store.tail_key(self.segment, tail), &Arc::new(content)).await?;
        faults::point("object.tail");
        self.tails.push(tail);
        Ok(())
    }

    /// Lets go of memory whose bytes are in tails.
    fn release(&mut self) {
        if self.kept() == self.gathered.end() {
            drop(self.gathered.cut());
        }
    }

    /// Sees to it that this writer takes no more memory than there is.
    async fn make_room(&mut self) -> Result<(), BlobError> {
        let large = self.layout.bytes(self.number) > HELD_BYTES;
        if large && self.gathered.held() >= HELD_BYTES {
            self.keep().await?;
            self.release();
        }
        if self.gathered.is_too_much() {
            self.sending.all().await?;
            if self.gathered.is_too_much() {
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
                let left = self.left();
                let taken = self.gathered.take(&mut chunk, left);
                self.crc32c.update(&taken);
            }
        }
        if self.gathered.end() > 0 {
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
        self.sending.all().await?;
        self.keep().await?;
        if !self.gathered.may_stay() {
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
        Ok(Extent { length: self.gathered.end(), backend: recorded.to_string() })
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
                if self.gathered.end() > start {
                    self.send().await?;
                }
                let parts = self.sending.all().await?;
                self.store.complete(self.segment, &upload, parts, self.gathered.end()).await?;
            }
        }
        faults::point("segment.synced");
        faults::point("segment.named");
        self.sent_tails.append(&mut self.stale);
        self.store.forget(self.segment, std::mem::take(&mut self.sent_tails));
        Ok(Extent { length: self.gathered.end(), backend: WHOLE.into() })
    }

    async fn discard(mut self: Box<Self>) {
        // One that comes late is left in an upload that is gone.
        self.sending.abort();
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
