//! What is sent as one body.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;

use super::S3;
use super::layout::Tail;
use crate::blob::remote::{Body, Held, crc32c, followed};
use crate::model::ids::SegmentId;

/// The bytes of one object or part: tails that are read back, then chunks in memory.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) segment: Option<SegmentId>,
    pub(super) tails: Vec<Tail>,
    pub(super) chunks: Vec<Bytes>,
    pub(super) length: u64,
    pub(super) crc32c: u32,
    /// The memory that the chunks take.
    pub(super) _held: Option<Held>,
}

impl Content {
    pub(super) fn of(bytes: Bytes) -> Self {
        let (length, crc32c) = (u64::try_from(bytes.len()).unwrap_or(0), crc32c(&bytes));
        Self { segment: None, tails: Vec::new(), chunks: vec![bytes], length, crc32c, _held: None }
    }

    /// Tails alone.
    pub(super) fn stored(segment: SegmentId, tails: Vec<Tail>) -> Self {
        let length = tails.iter().map(|tail| tail.length).sum();
        let crc32c = tails.iter().fold(0, |crc, tail| followed(crc, tail.crc32c, tail.length));
        Self { segment: Some(segment), tails, chunks: Vec::new(), length, crc32c, _held: None }
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
            let chunks = futures_util::stream::iter(content.chunks.clone().into_iter().map(Ok));
            tails.chain(chunks).boxed()
        };
        Body::Bytes { length, make: Box::new(make) }
    }
}
