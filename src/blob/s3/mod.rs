//! Bytes in a bucket of a store that speaks S3: Amazon's, or one that is run by oneself.
//!
//! A segment is one object under its own name. A short one is sent at once, when it is finished; a longer one as a
//! multipart upload, whose parts follow from the bytes alone: part `n` of a segment has the same bytes whoever sends it
//! and however often, so that nothing that is repeated or comes late can change what was there. What a persist makes
//! durable before a part is full is a small object beside it, a *tail*, named by the segment and its offset.
//!
//! Nothing can be read before a segment is finished. One whose writer is gone is *sealed* by somebody else, from what its
//! row names: the full parts, as the store lists them, and the tails as the last part, under a number that no writer
//! uses. What the writer sends afterwards meets an upload that is gone.
//!
//! Signed by our own [`crate::sigv4`], with `UNSIGNED-PAYLOAD` and a CRC-32C that the store verifies.

mod call;
mod credentials;
mod layout;
mod reader;
mod wire;
mod writer;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::at;
#[cfg(test)]
pub(crate) use tests::of;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use crc_fast::CrcAlgorithm;
use futures_util::StreamExt;
use http::Method;

use self::call::{Ask, Body, Caller, Fault, Kind, STALL};
use self::layout::{Layout, NotRecorded, Recorded, SEALING_PART, Tail, WHOLE};
use self::reader::Reader;
use self::wire::{Element, Sent, completion};
use self::writer::Writer;
use super::{BlobError, BlobStore, Listed, SegmentReader, SegmentWriter, Space};
use crate::clock::{Clock, Timestamp, random_uuid};
use crate::config::Bucket;
use crate::faults;
use crate::limits;
use crate::model::ids::SegmentId;
use crate::outbound::OutboundError;

/// Entries that the store is asked for at a time.
const PAGE: &str = "1000";
/// Pages of one listing: a hundred million entries.
const PAGES: usize = 100_000;
/// How often sealing is tried when another one seals at the same time.
const SEALS: usize = 3;
/// Requests that delete at once.
const DELETES: usize = 8;
/// What the check at the start writes is named like this.
const PROBE: &str = "probe-";
/// Says whose segments these are: the sweeper removes what no row names, and another installation's rows name none of them.
const OWNER: &str = "owner";
const CHECKSUM: &str = "x-amz-checksum-crc32c";

/// A bucket. Clones share its connections.
#[derive(Clone, Debug)]
pub struct S3 {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    caller: Caller,
    /// Tells what is old enough to be removed.
    clock: Clock,
    prefix: String,
    checksums: bool,
    /// Is what no segment needs removed?
    tidies: bool,
    /// Bytes of parts in memory, over all writers.
    held: AtomicU64,
    /// As many as there may be before they are written as smaller objects.
    memory: u64,
}

/// Why a bucket can't be used, in one sentence.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the bucket at {place} can't be used: {why}")]
pub struct Unusable {
    place: String,
    why: String,
}

impl S3 {
    /// A bucket that is written and read. Nothing is asked of it yet. Parts on their way to it take up to `memory` bytes.
    ///
    /// # Errors
    /// When this system has no certificates to trust.
    pub fn open(
        bucket: &Bucket,
        environment: HashMap<String, String>,
        clock: Clock,
        memory: u64,
    ) -> Result<Self, Unusable> {
        Self::new(bucket, environment, clock, Some(memory), STALL)
    }

    /// A bucket that is only read: nothing in it is made, tidied or removed.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_to_read(bucket: &Bucket, environment: HashMap<String, String>, clock: Clock) -> Result<Self, Unusable> {
        Self::new(bucket, environment, clock, None, STALL)
    }

    fn new(
        bucket: &Bucket,
        environment: HashMap<String, String>,
        clock: Clock,
        memory: Option<u64>,
        stall: Duration,
    ) -> Result<Self, Unusable> {
        let unusable = |error: OutboundError| Unusable { place: bucket.name.clone(), why: error.what };
        let caller = Caller::new(bucket, environment, stall).map_err(unusable)?;
        let (prefix, checksums) = (bucket.prefix.clone(), bucket.checksums);
        Ok(Self {
            shared: Arc::new(Shared {
                caller,
                clock,
                prefix,
                checksums,
                tidies: memory.is_some(),
                held: AtomicU64::new(0),
                memory: memory.unwrap_or(0),
            }),
        })
    }

    /// Writes an object, reads it, lists and deletes it: everything that a server will want to do.
    ///
    /// # Errors
    /// What does not work.
    pub async fn check(&self) -> Result<(), Unusable> {
        let key = format!("{}{PROBE}{}", self.shared.prefix, random_uuid());
        let text = Bytes::from_static(b"Landfall was here and left.\n");
        let checked = async {
            self.put(&key, &Arc::new(Content::of(text.clone()))).await?;
            let (_, read) = self.get(&key, text.len()).await?;
            if read != text {
                return Err(Fault { kind: Kind::Lasting, what: "what was written is not what is read".into() });
            }
            self.objects(&key).await?;
            self.uploads(&key).await?;
            self.remove(&key).await
        };
        checked.await.map_err(|fault| self.unusable(&fault))
    }

    /// Does the place belong to this installation? One that is nobody's does from now on, if it may be taken.
    ///
    /// # Errors
    /// That it is another installation's, or can't be asked.
    pub async fn claim(&self, installation: &str, may_be_taken: bool) -> Result<bool, Unusable> {
        self.claimed(installation, may_be_taken).await.map_err(|fault| self.unusable(&fault))
    }

    async fn claimed(&self, installation: &str, may_be_taken: bool) -> Result<bool, Fault> {
        let key = format!("{}{OWNER}", self.shared.prefix);
        if self.head(&key).await?.is_none() {
            if !may_be_taken {
                return Ok(false);
            }
            self.put(&key, &Arc::new(Content::of(Bytes::copy_from_slice(installation.as_bytes())))).await?;
        }
        let other = || Fault {
            kind: Kind::Lasting,
            what: format!("`{key}` says that it belongs to another installation: give each a prefix of its own"),
        };
        match self.get(&key, installation.len()).await {
            Ok((_, owner)) if owner == installation.as_bytes() => Ok(true),
            Err(fault) if fault.kind != Kind::Lasting => Err(fault),
            _ => Err(other()),
        }
    }

    fn unusable(&self, fault: &Fault) -> Unusable {
        Unusable { place: self.shared.caller.place(), why: fault.what.clone() }
    }

    fn key(&self, segment: SegmentId) -> String {
        format!("{}{segment}", self.shared.prefix)
    }

    fn tail_key(&self, segment: SegmentId, tail: Tail) -> String {
        format!("{}{segment}.{:012x}", self.shared.prefix, tail.offset)
    }

    /// Reads a key: the segment, and whether it is the segment itself. Others are not ours to judge.
    fn parse(&self, key: &str) -> Option<(SegmentId, bool)> {
        let name = key.strip_prefix(&self.shared.prefix)?;
        let (segment, tail) = name.split_once('.').map_or((name, None), |(segment, tail)| (segment, Some(tail)));
        let hex = |tail: &str| tail.len() == 12 && tail.bytes().all(|b| b.is_ascii_hexdigit());
        Some((segment.parse().ok().filter(|_| tail.is_none_or(hex))?, tail.is_none()))
    }

    fn checksum(&self, content: &Content) -> Option<String> {
        self.shared.checksums.then(|| BASE64.encode(content.crc32c.to_be_bytes()))
    }

    async fn put(&self, key: &str, content: &Arc<Content>) -> Result<(), Fault> {
        let mut ask = Ask::new("PutObject", Method::PUT, key).body(self.body(content));
        if let Some(checksum) = self.checksum(content) {
            ask = ask.header(CHECKSUM, checksum);
        }
        self.shared.caller.call(&ask).await.map(drop)
    }

    /// Begins a multipart upload.
    async fn begin(&self, segment: SegmentId) -> Result<String, Fault> {
        let key = self.key(segment);
        let mut ask = Ask::new("CreateMultipartUpload", Method::POST, &key)
            .query("uploads", "")
            .body(Body::Text(String::new()))
            .answered_by("InitiateMultipartUploadResult");
        if self.shared.checksums {
            ask = ask.header("x-amz-checksum-algorithm", "CRC32C");
        }
        let answer = self.shared.caller.call(&ask).await?;
        match answer.document.get("UploadId") {
            Some(id) if !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic()) => Ok(id.to_owned()),
            _ => Err(Fault { kind: Kind::Lasting, what: "the store gave an upload no id".into() }),
        }
    }

    async fn send(&self, segment: SegmentId, upload: &str, number: u32, content: &Arc<Content>) -> Result<Sent, Fault> {
        let key = self.key(segment);
        let checksum = self.checksum(content);
        let mut ask = Ask::new("UploadPart", Method::PUT, &key)
            .query("partNumber", number.to_string())
            .query("uploadId", upload)
            .body(self.body(content));
        if let Some(checksum) = &checksum {
            ask = ask.header(CHECKSUM, checksum.clone());
        }
        let answer = self.shared.caller.call(&ask).await?;
        match answer.head.header("etag") {
            Some(etag) => Ok(Sent { number, etag: etag.to_owned(), checksum }),
            None => Err(Fault { kind: Kind::Lasting, what: "the store gave a part no ETag".into() }),
        }
    }

    /// Makes one object of the parts. An upload that is gone was completed before, if an object of at least this length is
    /// there: by a call whose answer was lost, or by somebody else who sealed it.
    async fn complete(&self, segment: SegmentId, upload: &str, parts: &[Sent], length: u64) -> Result<(), Fault> {
        let key = self.key(segment);
        let ask = Ask::new("CompleteMultipartUpload", Method::POST, &key)
            .query("uploadId", upload)
            .body(Body::Text(completion(parts)))
            .answered_by("CompleteMultipartUploadResult");
        match self.shared.caller.call(&ask).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.kind == Kind::Missing && self.has(segment, length).await? => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Is the finished segment there, with at least so many bytes?
    async fn has(&self, segment: SegmentId, length: u64) -> Result<bool, Fault> {
        Ok(self.head(&self.key(segment)).await?.is_some_and(|(size, _)| size >= length))
    }

    /// Length and `ETag` of an object.
    async fn head(&self, key: &str) -> Result<Option<(u64, Option<String>)>, Fault> {
        match self.shared.caller.call(&Ask::new("HeadObject", Method::HEAD, key)).await {
            Ok(answer) => match answer.head.header("content-length").and_then(|length| length.parse().ok()) {
                Some(length) => Ok(Some((length, answer.head.header("etag").map(str::to_owned)))),
                None => Err(Fault { kind: Kind::Lasting, what: "the store tells no length".into() }),
            },
            Err(fault) if fault.kind == Kind::Missing => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// A small object, whole.
    async fn get(&self, key: &str, length: usize) -> Result<(u32, Bytes), Fault> {
        let ask = Ask::new("GetObject", Method::GET, key);
        let mut cut = None;
        // A body that breaks is asked for again.
        for _ in 0..SEALS {
            let (_, mut stream) = self.shared.caller.stream(&ask).await?;
            let mut whole = BytesMut::with_capacity(length);
            cut = loop {
                match stream.next().await {
                    Some(Ok(bytes)) if whole.len() + bytes.len() <= length => whole.extend_from_slice(&bytes),
                    Some(Ok(_)) => break Some(Fault { kind: Kind::Lasting, what: format!("{key} is too long") }),
                    Some(Err(error)) => break Some(error.into()),
                    None if whole.len() < length => {
                        break Some(Fault { kind: Kind::Lasting, what: format!("{key} is too short") });
                    }
                    None => return Ok((crc32c(&whole), whole.freeze())),
                }
            };
        }
        Err(cut.unwrap_or_else(|| Fault { kind: Kind::Lasting, what: format!("{key} can't be read") }))
    }

    async fn tail(&self, segment: SegmentId, tail: Tail) -> Result<Bytes, Fault> {
        let length = usize::try_from(tail.length).unwrap_or(usize::MAX);
        let (crc32c, bytes) = self.get(&self.tail_key(segment, tail), length).await?;
        if crc32c == tail.crc32c {
            return Ok(bytes);
        }
        Err(Fault {
            kind: Kind::Lasting,
            what: format!("segment {segment}: what was written at {} is damaged", tail.offset),
        })
    }

    async fn remove(&self, key: &str) -> Result<(), Fault> {
        gone(self.shared.caller.call(&Ask::new("DeleteObject", Method::DELETE, key)).await.map(drop))
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<(), Fault> {
        let ask = Ask::new("AbortMultipartUpload", Method::DELETE, key).query("uploadId", upload);
        gone(self.shared.caller.call(&ask).await.map(drop))
    }

    /// Removes objects that are not needed; what remains is found by the listing.
    async fn remove_all(&self, keys: Vec<String>) {
        let each = futures_util::stream::iter(keys).for_each_concurrent(DELETES, |key| async move {
            if let Err(fault) = self.remove(&key).await {
                tracing::warn!(%fault, "an object that is not needed could not be deleted");
            }
        });
        each.await;
    }

    /// Removes tails whose bytes are elsewhere, while others go on.
    fn forget(&self, segment: SegmentId, tails: Vec<Tail>) {
        if !tails.is_empty() {
            let store = self.clone();
            let keys = tails.into_iter().map(|tail| self.tail_key(segment, tail)).collect();
            tokio::spawn(async move { store.remove_all(keys).await });
        }
    }

    /// The parts of an upload, in the order of their numbers, with their sizes and times. `None` when it is gone.
    async fn parts(&self, segment: SegmentId, upload: &str) -> Result<Option<Vec<StoredPart>>, Fault> {
        let key = self.key(segment);
        let mut parts = Vec::new();
        let mut marker = String::from("0");
        for _ in 0..=usize::try_from(SEALING_PART).unwrap_or(0) {
            let ask = Ask::new("ListParts", Method::GET, &key)
                .query("uploadId", upload)
                .query("max-parts", PAGE)
                .query("part-number-marker", marker)
                .answered_by("ListPartsResult");
            let page = match self.shared.caller.call(&ask).await {
                Ok(answer) => answer.document,
                Err(fault) if fault.kind == Kind::Missing => return Ok(None),
                Err(fault) => return Err(fault),
            };
            for part in page.all("Part") {
                parts.push(StoredPart::read(part).ok_or_else(unreadable)?);
            }
            match page.get("NextPartNumberMarker").filter(|_| page.is_truncated()) {
                Some(next) => marker = next.to_owned(),
                None => return Ok(Some(parts)),
            }
        }
        Err(unreadable())
    }

    /// A page of objects whose keys begin like this, and where the next one begins.
    async fn objects_page(&self, prefix: &str, after: Option<String>) -> Result<(Vec<Object>, Option<String>), Fault> {
        let mut ask = Ask::new("ListObjectsV2", Method::GET, "")
            .query("list-type", "2")
            .query("prefix", prefix)
            .query("max-keys", PAGE)
            .query("encoding-type", "url")
            .answered_by("ListBucketResult");
        if let Some(after) = after {
            ask = ask.query("continuation-token", after);
        }
        let page = self.shared.caller.call(&ask).await?.document;
        let objects = page.all("Contents").map(|object| Object::read(object).ok_or_else(unreadable));
        let next = page.get("NextContinuationToken").filter(|_| page.is_truncated()).map(str::to_owned);
        if page.is_truncated() && next.is_none() {
            return Err(unreadable());
        }
        Ok((objects.collect::<Result<_, _>>()?, next))
    }

    async fn objects(&self, prefix: &str) -> Result<Vec<Object>, Fault> {
        let mut all = Vec::new();
        let mut after = None;
        for _ in 0..PAGES {
            let (page, next) = self.objects_page(prefix, after).await?;
            all.extend(page);
            match next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
        Err(unreadable())
    }

    /// Uploads in progress whose keys begin like this.
    async fn uploads(&self, prefix: &str) -> Result<Vec<Upload>, Fault> {
        let mut all = Vec::new();
        let mut markers: Option<(String, String)> = None;
        for _ in 0..PAGES {
            let mut ask = Ask::new("ListMultipartUploads", Method::GET, "")
                .query("uploads", "")
                .query("prefix", prefix)
                .query("max-uploads", PAGE)
                .query("encoding-type", "url")
                .answered_by("ListMultipartUploadsResult");
            if let Some((key, upload)) = markers {
                ask = ask.query("key-marker", key).query("upload-id-marker", upload);
            }
            let page = self.shared.caller.call(&ask).await?.document;
            for upload in page.all("Upload") {
                all.push(Upload::read(upload).ok_or_else(unreadable)?);
            }
            // The next page begins behind the last entry, whether the store says so or not.
            match all.last().filter(|_| page.is_truncated()) {
                Some(last) => markers = Some((last.key.clone(), last.id.clone())),
                None if page.is_truncated() => return Err(unreadable()),
                None => return Ok(all),
            }
        }
        Err(unreadable())
    }

    /// What is sent as one body.
    fn body(&self, content: &Arc<Content>) -> Body {
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

    /// Sends the tails as the last part, or as the whole where there are no parts, and makes one object of all.
    async fn seal_once(&self, segment: SegmentId, recorded: &Recorded, length: u64) -> Result<(), Sealing> {
        let wanted: Vec<Tail> = recorded.tails.iter().copied().take_while(|tail| tail.offset < length).collect();
        let Some(upload) = &recorded.upload else {
            if self.has(segment, length).await? {
                return Ok(());
            }
            let sent = self.put(&self.key(segment), &Arc::new(Content::stored(segment, wanted))).await;
            faults::point("object.sealing");
            return match sent {
                // Whoever was faster has deleted the tails.
                Err(fault) if !self.has(segment, length).await? => Err(fault.into()),
                _ => Ok(()),
            };
        };
        let lost = |found: u64| Sealing::Lost { found };
        let Some(stored) = self.parts(segment, upload).await? else {
            let found = self.head(&self.key(segment)).await?.map_or(0, |(size, _)| size);
            return if found >= length { Ok(()) } else { Err(lost(found)) };
        };
        let mut parts = Vec::new();
        for number in 1..=recorded.parts {
            let start = recorded.layout.start(number);
            if start >= length {
                break;
            }
            let found = stored.iter().find(|part| part.sent.number == number);
            match found.filter(|part| part.size == recorded.layout.bytes(number)) {
                Some(part) => parts.push(part.sent.clone()),
                None => return Err(lost(start)),
            }
        }
        if !wanted.is_empty() {
            let content = Arc::new(Content::stored(segment, wanted));
            let sent = self.send(segment, upload, SEALING_PART, &content).await;
            match sent {
                Ok(sent) => parts.push(sent),
                Err(_) if self.has(segment, length).await? => return Ok(()),
                Err(fault) => return Err(fault.into()),
            }
        }
        faults::point("object.sealing");
        self.complete(segment, upload, &parts, length).await?;
        Ok(())
    }

    /// The newest that was sent to an upload.
    async fn last_sent(&self, segment: SegmentId, upload: &Upload, now: Timestamp) -> Result<Timestamp, Fault> {
        // A young one is left alone anyway, and a question for each would be many.
        if upload.initiated > now.minus(limits::ORPHAN_GRACE) {
            return Ok(upload.initiated);
        }
        let parts = self.parts(segment, &upload.id).await?.unwrap_or_default();
        Ok(parts.iter().filter_map(|part| part.written).max().unwrap_or_default().max(upload.initiated))
    }
}

/// Why a segment was not sealed.
enum Sealing {
    Fault(Fault),
    /// Its bytes end before what the row says.
    Lost {
        found: u64,
    },
}

impl From<Fault> for Sealing {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What is not there is deleted already.
fn gone(outcome: Result<(), Fault>) -> Result<(), Fault> {
    match outcome {
        Err(fault) if fault.kind == Kind::Missing => Ok(()),
        outcome => outcome,
    }
}

fn unreadable() -> Fault {
    Fault { kind: Kind::Lasting, what: "the store's listing can't be read".into() }
}

fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(0)
}

/// The checksum of bytes that are followed by others.
fn followed(first: u32, second: u32, length: u64) -> u32 {
    let whole = crc_fast::checksum_combine(CrcAlgorithm::Crc32Iscsi, first.into(), second.into(), length);
    u32::try_from(whole).unwrap_or(0)
}

/// The bytes of one object or part: tails that are read back, then blocks in memory.
#[derive(Debug)]
struct Content {
    segment: Option<SegmentId>,
    tails: Vec<Tail>,
    blocks: Vec<Bytes>,
    length: u64,
    crc32c: u32,
    /// The memory that the blocks take.
    _held: Option<Held>,
}

impl Content {
    fn of(bytes: Bytes) -> Self {
        let (length, crc32c) = (u64::try_from(bytes.len()).unwrap_or(0), crc32c(&bytes));
        Self { segment: None, tails: Vec::new(), blocks: vec![bytes], length, crc32c, _held: None }
    }

    /// Tails alone.
    fn stored(segment: SegmentId, tails: Vec<Tail>) -> Self {
        let length = tails.iter().map(|tail| tail.length).sum();
        let crc32c = tails.iter().fold(0, |crc, tail| followed(crc, tail.crc32c, tail.length));
        Self { segment: Some(segment), tails, blocks: Vec::new(), length, crc32c, _held: None }
    }
}

/// Memory that a part takes.
#[derive(Debug)]
struct Held {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Held {
    const fn none(shared: Arc<Shared>) -> Self {
        Self { shared, bytes: 0 }
    }

    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.shared.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes all of it away.
    fn take(&mut self) -> Self {
        Self { shared: Arc::clone(&self.shared), bytes: std::mem::take(&mut self.bytes) }
    }

    /// Is memory so short that this much is too much for one writer? While a quarter is free nothing is; then it is more
    /// than half of what is left, so that many slow ones leave something for others.
    fn is_too_much(&self) -> bool {
        let free = self.shared.memory.saturating_sub(self.shared.held.load(Ordering::Relaxed));
        free < self.shared.memory / 4 && self.bytes > free / 2
    }

    /// Is more than half of it free?
    fn is_plenty(&self) -> bool {
        self.shared.held.load(Ordering::Relaxed) < self.shared.memory / 2
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Object {
    key: String,
    size: u64,
    written: Timestamp,
}

impl Object {
    fn read(entry: &Element) -> Option<Self> {
        Some(Self { key: entry.key()?, size: entry.number("Size")?, written: entry.time("LastModified")? })
    }
}

struct Upload {
    key: String,
    id: String,
    initiated: Timestamp,
}

impl Upload {
    fn read(entry: &Element) -> Option<Self> {
        Some(Self { key: entry.key()?, id: entry.get("UploadId")?.to_owned(), initiated: entry.time("Initiated")? })
    }
}

struct StoredPart {
    sent: Sent,
    size: u64,
    written: Option<Timestamp>,
}

impl StoredPart {
    fn read(entry: &Element) -> Option<Self> {
        let sent = Sent {
            number: u32::try_from(entry.number("PartNumber")?).ok()?,
            etag: entry.get("ETag")?.to_owned(),
            checksum: entry.get("ChecksumCRC32C").map(str::to_owned),
        };
        Some(Self { sent, size: entry.number("Size")?, written: entry.time("LastModified") })
    }
}

/// What a listing finds under one segment's name.
#[derive(Default)]
struct Found {
    /// Is the finished object there?
    whole: bool,
    length: u64,
    written: Timestamp,
    tails: Vec<String>,
}

#[async_trait]
impl BlobStore for S3 {
    /// Asks nothing of the store: a name holds 64 random bits, and what is sent under it is the same each time.
    async fn create(&self, segment: SegmentId, expected: Option<u64>) -> Result<Box<dyn SegmentWriter>, BlobError> {
        faults::io_point("segment.create")?;
        faults::point("segment.created");
        Ok(Box::new(Writer::new(self.clone(), segment, Layout::new(expected))))
    }

    async fn open(&self, segment: SegmentId, _backend: &str) -> Result<Box<dyn SegmentReader>, BlobError> {
        let key = self.key(segment);
        match self.head(&key).await? {
            Some((size, etag)) => Ok(Box::new(Reader::new(self.clone(), key, size, etag))),
            None => Err(BlobError::NotFound(segment)),
        }
    }

    fn reads_unfinished(&self) -> bool {
        false
    }

    fn open_ones_survive(&self) -> bool {
        false
    }

    async fn seal(&self, segment: SegmentId, backend: &str, length: u64) -> Result<String, BlobError> {
        if backend == WHOLE {
            return Ok(WHOLE.into());
        }
        let recorded: Recorded =
            backend.parse().map_err(|error: NotRecorded| BlobError::Io(io::Error::other(error)))?;
        if recorded.length() < length {
            return Err(BlobError::Truncated { segment, expected: length, found: recorded.length() });
        }
        let mut tries = 0;
        loop {
            tries += 1;
            match self.seal_once(segment, &recorded, length).await {
                Ok(()) => break,
                // Somebody else seals it as well, and sent the last part once more.
                Err(Sealing::Fault(fault)) if fault.kind == Kind::Parts && tries < SEALS => {}
                Err(Sealing::Fault(fault)) => return Err(fault.into()),
                Err(Sealing::Lost { found }) => {
                    return Err(BlobError::Truncated { segment, expected: length, found });
                }
            }
        }
        faults::point("object.sealed");
        self.forget(segment, recorded.tails);
        Ok(WHOLE.into())
    }

    async fn length(&self, segment: SegmentId, backend: &str) -> Result<Option<u64>, BlobError> {
        if let Some((size, _)) = self.head(&self.key(segment)).await? {
            return Ok(Some(size));
        }
        let Ok(recorded) = backend.parse::<Recorded>() else { return Ok(None) };
        let stored = match &recorded.upload {
            Some(upload) => match self.parts(segment, upload).await? {
                Some(stored) => stored,
                // Completed since the question before this one.
                None => return Ok(self.head(&self.key(segment)).await?.map(|(size, _)| size)),
            },
            None => Vec::new(),
        };
        for number in 1..=recorded.parts {
            let whole = |part: &&StoredPart| part.size == recorded.layout.bytes(number);
            if stored.iter().find(|part| part.sent.number == number).filter(whole).is_none() {
                return Ok(Some(recorded.layout.start(number)));
            }
        }
        let objects = self.objects(&format!("{}.", self.key(segment))).await?;
        let sizes: HashMap<&str, u64> = objects.iter().map(|object| (object.key.as_str(), object.size)).collect();
        let mut length = recorded.in_parts();
        for tail in &recorded.tails {
            if sizes.get(self.tail_key(segment, *tail).as_str()) != Some(&tail.length) {
                break;
            }
            length = tail.end();
        }
        Ok(Some(length))
    }

    async fn delete(&self, segment: SegmentId, backend: &str) -> Result<(), BlobError> {
        let key = self.key(segment);
        if backend == WHOLE {
            return Ok(self.remove(&key).await?);
        }
        // What a row keeps is what was recorded; more may have been sent.
        for upload in self.uploads(&key).await? {
            if self.parse(&upload.key) == Some((segment, true)) {
                self.abort(&upload.key, &upload.id).await?;
            }
        }
        for object in self.objects(&key).await? {
            if self.parse(&object.key).is_some_and(|(of, _)| of == segment) {
                self.remove(&object.key).await?;
            }
        }
        Ok(())
    }

    async fn list(&self, each: &mut (dyn FnMut(Vec<Listed>) + Send)) -> Result<(), BlobError> {
        let now = self.shared.clock.now();
        let old = now.minus(limits::ORPHAN_GRACE);
        let mut uploads: BTreeMap<SegmentId, Vec<Upload>> = BTreeMap::new();
        for upload in self.uploads(&self.shared.prefix).await? {
            if let Some((segment, true)) = self.parse(&upload.key) {
                uploads.entry(segment).or_default().push(upload);
            }
        }
        let mut after = None;
        // The last segment of a page may have tails on the next one.
        let mut open: BTreeMap<SegmentId, Found> = BTreeMap::new();
        loop {
            let (page, next) = self.objects_page(&self.shared.prefix, after).await?;
            for object in page {
                let Some((segment, whole)) = self.parse(&object.key) else {
                    let probe = object.key.strip_prefix(&self.shared.prefix).is_some_and(|n| n.starts_with(PROBE));
                    if probe && self.shared.tidies && object.written <= old {
                        self.remove_all(vec![object.key]).await;
                    }
                    continue;
                };
                let found = open.entry(segment).or_default();
                found.whole |= whole;
                found.length += object.size;
                found.written = found.written.max(object.written);
                if !whole {
                    found.tails.push(object.key);
                }
            }
            let last = next.as_ref().and_then(|_| open.pop_last());
            let mut listed = Vec::with_capacity(open.len());
            for (segment, found) in std::mem::take(&mut open) {
                let begun = uploads.remove(&segment).unwrap_or_default();
                listed.push(self.listed(segment, found, begun, now).await?);
            }
            if !listed.is_empty() {
                each(listed);
            }
            open.extend(last);
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut listed = Vec::with_capacity(uploads.len());
        for (segment, begun) in uploads {
            listed.push(self.listed(segment, Found::default(), begun, now).await?);
        }
        if !listed.is_empty() {
            each(listed);
        }
        Ok(())
    }

    async fn space(&self) -> Result<Option<Space>, BlobError> {
        Ok(None)
    }

    async fn ping(&self) -> Result<(), BlobError> {
        self.shared.caller.call(&Ask::new("HeadBucket", Method::HEAD, "")).await?;
        Ok(())
    }
}

impl S3 {
    /// One segment of a listing. What is left beside a finished one is removed: tails whose bytes are in it, and uploads
    /// that were begun twice because an answer was lost.
    async fn listed(
        &self,
        segment: SegmentId,
        found: Found,
        begun: Vec<Upload>,
        now: Timestamp,
    ) -> Result<Listed, BlobError> {
        let mut written = found.written;
        if found.whole {
            let old = now.minus(limits::ORPHAN_GRACE);
            if self.shared.tidies && found.written <= old {
                self.remove_all(found.tails).await;
                for upload in begun.iter().filter(|upload| upload.initiated <= old) {
                    self.abort(&upload.key, &upload.id).await?;
                }
            }
        } else {
            for upload in &begun {
                written = written.max(self.last_sent(segment, upload, now).await?);
            }
        }
        Ok(Listed { segment, length: found.length, written })
    }
}
