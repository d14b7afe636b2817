//! Reading a finished segment: ranges that grow while somebody reads on, each a stream that is taken as it is wanted.

use std::fmt;
use std::io;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::Method;
use tokio::sync::Mutex;

use super::S3;
use super::call::{Ask, Fault};
use super::objects::{Stat, VERSION_QUERY};
use crate::blob::{BlobError, SegmentReader};
use crate::faults;
use crate::outbound::OutboundError;

/// The first range of a reader: somebody may want no more.
const FIRST_BYTES: u64 = 1024 * 1024;
/// The longest one. A connection on which a slow client waits is not held for ever.
const MOST_BYTES: u64 = 64 * 1024 * 1024;
/// How often a range that broke is asked for again before a read fails.
const BREAKS: u32 = 4;

/// An object that is read.
pub(super) struct Reader {
    store: S3,
    key: String,
    size: u64,
    /// What was opened is what is read: the store compares.
    etag: Option<String>,
    version: Option<String>,
    place: Mutex<Place>,
}

/// Where the last read ended.
struct Place {
    at: u64,
    pending: Bytes,
    stream: Option<(u64, BoxStream<'static, Result<Bytes, OutboundError>>)>,
    next: u64,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("key", &self.key).field("size", &self.size).finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) fn new(store: S3, key: String, found: Stat, version: Option<String>) -> Self {
        let place = Place { at: 0, pending: Bytes::new(), stream: None, next: FIRST_BYTES };
        Self { store, key, size: found.size, etag: found.etag, version, place: Mutex::new(place) }
    }

    async fn range(&self, from: u64, to: u64) -> Result<BoxStream<'static, Result<Bytes, OutboundError>>, Fault> {
        let mut ask = Ask::new("GetObject", Method::GET, &self.key).header("range", format!("bytes={from}-{}", to - 1));
        if let Some(version) = &self.version {
            ask = ask.query(VERSION_QUERY, version.clone());
        }
        if let Some(etag) = &self.etag {
            ask = ask.header("if-match", etag.clone());
        }
        let (head, stream) = self.store.shared.caller.stream(&ask).await?;
        // A store that does not know ranges would answer with other bytes than those that were asked for.
        if head.status == 206 || (from == 0 && to == self.size) {
            return Ok(stream);
        }
        Err(Fault::lasting("the store answers no range"))
    }
}

#[async_trait]
impl SegmentReader for Reader {
    async fn read(&self, offset: u64, length: usize) -> Result<Bytes, BlobError> {
        faults::io_point("segment.read")?;
        let end = offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX)).min(self.size);
        let Some(wanted) = end.checked_sub(offset).and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0) else {
            return Ok(Bytes::new());
        };
        let mut guard = self.place.lock().await;
        let place = &mut *guard;
        if place.at != offset {
            *place = Place { at: offset, pending: Bytes::new(), stream: None, next: FIRST_BYTES };
        }
        let mut read = BytesMut::new();
        let mut breaks = 0;
        loop {
            let missing = wanted - read.len();
            if !place.pending.is_empty() {
                let part = place.pending.split_to(missing.min(place.pending.len()));
                place.at += u64::try_from(part.len()).unwrap_or(0);
                if part.len() == missing && read.is_empty() {
                    return Ok(part);
                }
                read.extend_from_slice(&part);
                if read.len() == wanted {
                    return Ok(read.freeze());
                }
            }
            let Some((until, stream)) = &mut place.stream else {
                let until = place.at.saturating_add(place.next).min(self.size);
                place.stream = Some((until, self.range(place.at, until).await?));
                continue;
            };
            let left = usize::try_from(until.saturating_sub(place.at)).unwrap_or(usize::MAX);
            let broken = match stream.next().await {
                Some(Ok(bytes)) if bytes.len() <= left => {
                    place.pending = bytes;
                    continue;
                }
                Some(Ok(_)) => return Err(BlobError::Io(io::Error::other("the store answers more than a range has"))),
                None if left == 0 => {
                    place.next = place.next.saturating_mul(4).min(MOST_BYTES);
                    place.stream = None;
                    continue;
                }
                None => String::from("it ended early"),
                Some(Err(error)) => error.what,
            };
            place.stream = None;
            breaks += 1;
            if breaks >= BREAKS {
                let what = format!("{} can't be read at {}: {broken}", self.key, place.at);
                return Err(BlobError::Io(io::Error::other(what)));
            }
        }
    }
}
