//! What is sent as one body, and the memory that it takes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use futures_util::StreamExt;

use super::call::Body;
use super::layout::Tail;
use super::{S3, Shared};
use crate::model::ids::SegmentId;

pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(0)
}

/// The checksum of bytes that are followed by others.
pub(super) fn followed(first: u32, second: u32, length: u64) -> u32 {
    let whole = crc_fast::checksum_combine(CrcAlgorithm::Crc32Iscsi, first.into(), second.into(), length);
    u32::try_from(whole).unwrap_or(0)
}

/// The bytes of one object or part: tails that are read back, then blocks in memory.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) segment: Option<SegmentId>,
    pub(super) tails: Vec<Tail>,
    pub(super) blocks: Vec<Bytes>,
    pub(super) length: u64,
    pub(super) crc32c: u32,
    /// The memory that the blocks take.
    pub(super) _held: Option<Held>,
}

impl Content {
    pub(super) fn of(bytes: Bytes) -> Self {
        let (length, crc32c) = (u64::try_from(bytes.len()).unwrap_or(0), crc32c(&bytes));
        Self { segment: None, tails: Vec::new(), blocks: vec![bytes], length, crc32c, _held: None }
    }

    /// Tails alone.
    pub(super) fn stored(segment: SegmentId, tails: Vec<Tail>) -> Self {
        let length = tails.iter().map(|tail| tail.length).sum();
        let crc32c = tails.iter().fold(0, |crc, tail| followed(crc, tail.crc32c, tail.length));
        Self { segment: Some(segment), tails, blocks: Vec::new(), length, crc32c, _held: None }
    }
}

/// Memory that a part takes.
#[derive(Debug)]
pub(super) struct Held {
    shared: Arc<Shared>,
    pub(super) bytes: u64,
}

impl Held {
    pub(super) const fn none(shared: Arc<Shared>) -> Self {
        Self { shared, bytes: 0 }
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.shared.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes all of it away.
    pub(super) fn take(&mut self) -> Self {
        Self { shared: Arc::clone(&self.shared), bytes: std::mem::take(&mut self.bytes) }
    }

    /// Is memory so short that this much is too much for one writer? While a quarter is free nothing is; then it is more
    /// than half of what is left, so that many slow ones leave something for others.
    pub(super) fn is_too_much(&self) -> bool {
        let free = self.shared.memory.saturating_sub(self.shared.held.load(Ordering::Relaxed));
        free < self.shared.memory / 4 && self.bytes > free / 2
    }

    /// Is more than half of it free?
    pub(super) fn is_plenty(&self) -> bool {
        self.shared.held.load(Ordering::Relaxed) < self.shared.memory / 2
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl S3 {
    /// What is sent as one body.
    pub(super) fn body(&self, content: &Arc<Content>) -> Body {
        let (store, content) = (self.clone(), Arc::clone(content));
        let length = content.length;
        let make = move || {
            let (store, segment) = (store.clone(), content.segment);
            let tails = futures_util::stream::iter(content.tails.clone()).then(move |tail| {
                let store = store.clone();
                async move {
                    let Some(segment) = segment else { return Err(io::Error::other("no segment has these bytes")) };
                    store.tail(segment, tail).await.map_err(io::Error::other)
                }
            });
            let blocks = futures_util::stream::iter(content.blocks.clone().into_iter().map(Ok));
            tails.chain(blocks).boxed()
        };
        Body::Bytes { length, make: Box::new(make) }
    }
}
