//! Bytes in a bucket of a store that speaks S3: Amazon's, or one that is run by oneself; and Google's, whose XML is the same
//! but for what `flavour` says.
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
//! A client's own bytes (`direct`) lie under one key of their session. What a row names of them is pinned: a version of the
//! bucket's, or the one object that may be made under that key.
//!
//! Requests to Amazon's are signed by our own [`crate::sigv4`], with `UNSIGNED-PAYLOAD`; those to Google's have a token. Bodies
//! carry a CRC-32C that the store verifies.

mod amazon;
mod content;
mod credentials;
mod direct;
mod flavour;
mod google;
mod layout;
mod listing;
mod objects;
mod seal;
mod wire;
mod writer;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::at;
#[cfg(test)]
pub(crate) use tests::of;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;

use self::content::Content;
use self::flavour::Flavour;
use self::google::session;
use self::layout::{Layout, Pin, Recorded, Tail, UPLOADS, WHOLE};
use self::listing::StoredPart;
use self::objects::Stat;
use self::writer::Writer;
use super::remote::{self, Ask, Caller, Fault, Marked, Memory, OWNER, Ranges, Reader, STALL, Stream};
use super::{BlobError, BlobStore, Direct, Listed, SegmentReader, SegmentWriter, Space, Unusable, Wanted};
use crate::clock::Clock;
use crate::config::Bucket;
use crate::faults;
use crate::model::ids::SegmentId;
use crate::outbound::OutboundError;

/// How often what somebody else does at the same time is tried again.
const SEALS: usize = 3;

/// A bucket. Clones share its connections.
#[derive(Clone, Debug)]
pub struct S3 {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    caller: Caller<Flavour>,
    /// Tells what is old enough to be removed.
    clock: Clock,
    prefix: String,
    checksums: bool,
    /// Does the bucket keep versions? One of `objects::VERSIONS`.
    versions: AtomicU8,
    /// Is what no segment needs removed?
    tidies: bool,
    /// For parts on their way; what is too much for it is written as smaller objects.
    memory: Arc<Memory>,
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
        let unusable = |error: OutboundError| Unusable::new(bucket.name.clone(), error.what);
        let caller = flavour::caller(bucket, environment, stall).map_err(unusable)?;
        let (prefix, checksums) = (bucket.prefix.clone(), bucket.checksums);
        Ok(Self {
            shared: Arc::new(Shared {
                caller,
                clock,
                prefix,
                checksums,
                versions: AtomicU8::new(objects::UNKNOWN),
                tidies: memory.is_some(),
                memory: Memory::of(memory.unwrap_or(0)),
            }),
        })
    }

    /// Writes an object, reads it, lists and deletes it: everything that a server will want to do, and whatever `wanted`
    /// says.
    ///
    /// # Errors
    /// What does not work.
    pub async fn check(&self, wanted: Wanted) -> Result<(), Unusable> {
        let key = remote::probe(&self.shared.prefix);
        let text = Bytes::from_static(b"Landfall was here and left.\n");
        let checked = async {
            let version = self.put(&key, &Arc::new(Content::of(text.clone()))).await?;
            if self.get(&key, text.len()).await? != text {
                return Err(Fault::lasting("what was written is not what is read"));
            }
            self.objects(&key).await?;
            self.uploads(&key).await?;
            if wanted != Wanted::default() {
                self.check_direct(&key, version.as_deref(), wanted).await?;
            }
            self.remove(&key).await
        };
        checked.await.map_err(|fault| remote::unusable(self, &fault))
    }

    /// Does the place belong to this installation? One that is nobody's does from now on, if it may be taken.
    ///
    /// # Errors
    /// That it is another installation's, or can't be asked.
    pub async fn claim(&self, installation: &str, may_be_taken: bool) -> Result<bool, Unusable> {
        remote::claim(self, installation, may_be_taken).await
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
}

#[async_trait]
impl Marked for S3 {
    fn place(&self) -> String {
        self.shared.caller.place()
    }

    fn prefix(&self) -> &str {
        &self.shared.prefix
    }

    async fn is_there(&self, key: &str) -> Result<bool, Fault> {
        Ok(self.head(key).await?.is_some())
    }

    async fn mark(&self, key: &str, text: Bytes) -> Result<(), Fault> {
        self.put(key, &Arc::new(Content::of(text))).await.map(drop)
    }

    async fn text(&self, key: &str, length: usize) -> Result<Bytes, Fault> {
        self.get(key, length).await
    }
}

#[async_trait]
impl BlobStore for S3 {
    /// Asks nothing of the store: a name holds 64 random bits, and what is sent under it is the same each time.
    async fn create(&self, segment: SegmentId, expected: Option<u64>) -> Result<Box<dyn SegmentWriter>, BlobError> {
        faults::io_point("segment.create")?;
        faults::point("segment.created");
        Ok(Box::new(Writer::new(self.clone(), segment, Layout::new(expected))))
    }

    async fn open(&self, segment: SegmentId, backend: &str) -> Result<Box<dyn SegmentReader>, BlobError> {
        if let Ok(pin) = backend.parse::<Pin>() {
            let found = self.pinned(segment, &pin).await?.ok_or(BlobError::NotFound(segment))?;
            let key = self.direct_key(segment.session);
            return Ok(Box::new(Reader::new(Object { store: self.clone(), key, found, version: pin.version })));
        }
        let key = self.key(segment);
        match self.head(&key).await? {
            Some(found) => {
                let version = found.version.clone().filter(|_| self.flavour().numbers());
                Ok(Box::new(Reader::new(Object { store: self.clone(), key, found, version })))
            }
            None => Err(BlobError::NotFound(segment)),
        }
    }

    fn reads_unfinished(&self) -> bool {
        false
    }

    fn open_ones_survive(&self) -> bool {
        false
    }

    fn direct(&self) -> Option<&dyn Direct> {
        Some(self)
    }

    async fn seal(&self, segment: SegmentId, backend: &str, length: u64) -> Result<String, BlobError> {
        self.seal_recorded(segment, backend, length).await
    }

    async fn length(&self, segment: SegmentId, backend: &str) -> Result<Option<u64>, BlobError> {
        if let Ok(pin) = backend.parse::<Pin>() {
            return Ok(self.pinned(segment, &pin).await?.map(|found| found.size));
        }
        if let Some(found) = self.head(&self.key(segment)).await? {
            return Ok(Some(found.size));
        }
        let Ok(recorded) = backend.parse::<Recorded>() else { return Ok(None) };
        let stored = match &recorded.upload {
            Some(upload) => match self.parts(segment, upload).await? {
                Some(stored) => stored,
                // Completed since the question before this one.
                None => return Ok(self.head(&self.key(segment)).await?.map(|found| found.size)),
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
        if let Ok(pin) = backend.parse::<Pin>() {
            let key = self.direct_key(segment.session);
            match pin.version {
                Some(version) => self.remove_version(&key, &version).await?,
                None => self.remove(&key).await?,
            }
            return Ok(());
        }
        if session::is_location(backend) {
            return Ok(self.end_session(segment.session, backend).await?);
        }
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
        if backend != UPLOADS {
            self.remove_of(segment).await?;
        }
        Ok(())
    }

    async fn list(&self, each: &mut (dyn FnMut(Vec<Listed>) + Send)) -> Result<(), BlobError> {
        self.list_all(each).await
    }

    async fn space(&self) -> Result<Option<Space>, BlobError> {
        Ok(None)
    }

    async fn ping(&self) -> Result<(), BlobError> {
        // About the bucket itself Google tells those who may do more with it than we need.
        let ask = match self.flavour() {
            Flavour::Amazon(_) => Ask::new("HeadBucket", Method::HEAD, ""),
            Flavour::Google(_) => {
                let ask = Ask::new("ListObjectsV2", Method::GET, "").query("list-type", "2").query("max-keys", "1");
                ask.query("prefix", format!("{}{OWNER}", self.shared.prefix)).answered_by("ListBucketResult")
            }
        };
        self.shared.caller.call(&ask).await?;
        Ok(())
    }
}

/// An object of the bucket, or one version of it, as it was when it was opened: the store compares, unless a number says it.
struct Object {
    store: S3,
    key: String,
    found: Stat,
    version: Option<String>,
}

#[async_trait]
impl Ranges for Object {
    fn name(&self) -> &str {
        &self.key
    }

    fn size(&self) -> u64 {
        self.found.size
    }

    async fn range(&self, from: u64, to: u64) -> Result<Stream, Fault> {
        let mut ask = Ask::new("GetObject", Method::GET, &self.key);
        let flavour = self.store.flavour();
        if let Some(version) = &self.version {
            ask = ask.query(flavour.version_query(), version.clone());
        }
        if let Some((name, value)) = flavour.as_stored() {
            ask = ask.header(name, value);
        }
        let numbered = flavour.numbers() && self.version.is_some();
        if let Some(etag) = self.found.etag.as_ref().filter(|_| !numbered) {
            ask = ask.header("if-match", etag.clone());
        }
        self.store.shared.caller.range(ask, (from, to), self.found.size).await
    }
}
