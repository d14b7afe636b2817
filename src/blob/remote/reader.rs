//! Reading a finished segment: ranges that grow while somebody reads on, each a stream that is taken as it is wanted.

use std::fmt;
use std::io;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::Mutex;

use super::Fault;
use crate::blob::{BlobError, SegmentReader};
use crate::faults;
use crate::outbound::OutboundError;

/// The first range of a reader: somebody may want no more.
const FIRST_BYTES: u64 = 1024 * 1024;
/// The longest one. A connection on which a slow client waits is not held for ever.
const MOST_BYTES: u64 = 64 * 1024 * 1024;
/// How often a range that broke is asked for again before a read fails.
const BREAKS: u32 = 4;

/// A body as it comes.
pub(in crate::blob) type Stream = BoxStream<'static, Result<Bytes, OutboundError>>;

/// An object whose bytes can be asked for. What was opened is what is answered, or nothing.
#[async_trait]
pub(in crate::blob) trait Ranges: Send + Sync {
    /// What it is called, for people.
    fn name(&self) -> &str;

    /// Its bytes in all.
    fn size(&self) -> u64;

    /// The bytes from the first position to before the second, and no others.
    async fn range(&self, from: u64, to: u64) -> Result<Stream, Fault>;
}

/// An object that is read.
pub(in crate::blob) struct Reader<R> {
    object: R,
    place: Mutex<Place>,
}

/// Where the last read ended.
struct Place {
    at: u64,
    pending: Bytes,
    stream: Option<(u64, Stream)>,
    next: u64,
}

impl<R: Ranges> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, size) = (self.object.name(), self.object.size());
        f.debug_struct("Reader").field("name", &name).field("size", &size).finish_non_exhaustive()
    }
}

impl<R: Ranges> Reader<R> {
    pub(in crate::blob) fn new(object: R) -> Self {
        let place = Place { at: 0, pending: Bytes::new(), stream: None, next: FIRST_BYTES };
        Self { object, place: Mutex::new(place) }
    }
}

#[async_trait]
impl<R: Ranges> SegmentReader for Reader<R> {
    async fn read(&self, offset: u64, length: usize) -> Result<Bytes, BlobError> {
        faults::io_point("segment.read")?;
        let end = offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX)).min(self.object.size());
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
                let until = place.at.saturating_add(place.next).min(self.object.size());
                place.stream = Some((until, self.object.range(place.at, until).await?));
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
                let what = format!("{} can't be read at {}: {broken}", self.object.name(), place.at);
                return Err(BlobError::Io(io::Error::other(what)));
            }
        }
    }
}
