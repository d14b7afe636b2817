//! Calls about single objects and uploads.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::StreamExt;
use http::Method;

use super::S3;
use super::content::Content;
use super::flavour::{Flavour, Header};
use super::layout::Tail;
use super::wire::{Sent, completion};
use crate::blob::remote::{Ask, Body, Fault, Kind, OWNER, crc32c};
use crate::model::file::Digests;
use crate::model::ids::SegmentId;

/// Requests that delete at once.
const DELETES: usize = 8;

/// Does the bucket keep versions? Not asked yet, no, yes, perhaps because an answer named one, and no whatever it names.
pub(super) const UNKNOWN: u8 = 0;
const NONE: u8 = 1;
const KEPT: u8 = 2;
const NAMED: u8 = 3;
const NEVER: u8 = 4;

/// An object as the store tells about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stat {
    pub(super) size: u64,
    pub(super) etag: Option<String>,
    /// Where the bucket keeps versions, or did once: then it may be `null`.
    pub(super) version: Option<String>,
    /// Digests of the whole that the store keeps.
    pub(super) digests: Digests,
}

impl S3 {
    pub(super) fn flavour(&self) -> &Flavour {
        &self.shared.caller.protocol
    }

    fn checksum(&self, content: &Content) -> Option<Header> {
        self.shared.checksums.then(|| self.flavour().checksum(content.crc32c))
    }

    /// Puts an object; its version, where there is one.
    pub(super) async fn put(&self, key: &str, content: &Arc<Content>) -> Result<Option<String>, Fault> {
        let mut ask = Ask::new("PutObject", Method::PUT, key).body(self.body(content));
        ask.headers.extend(self.checksum(content));
        let condition = self.flavour().own_condition();
        if let Some((name, value)) = condition {
            ask = ask.header(name, value);
        }
        match self.shared.caller.call(&ask).await {
            Ok(answer) => {
                let version = self.flavour().version(&answer.head);
                self.noted(version.is_some());
                Ok(version)
            }
            // Put before, by a call whose answer was lost: if it is the same.
            Err(fault) if fault.kind == Kind::Changed && condition.is_some() => {
                let found = self.head(key).await?;
                let same = |found: &Stat| {
                    found.size == content.length && found.digests.crc32c.is_none_or(|crc| crc == content.crc32c)
                };
                found.filter(same).map(|found| found.version).ok_or(fault)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Begins a multipart upload whose parts come with checksums.
    pub(super) async fn begin(&self, segment: SegmentId) -> Result<String, Fault> {
        self.begin_with(segment, self.shared.checksums).await
    }

    /// Begins one whose parts come as they like.
    pub(super) async fn begin_plain(&self, segment: SegmentId) -> Result<String, Fault> {
        self.begin_with(segment, false).await
    }

    async fn begin_with(&self, segment: SegmentId, checksums: bool) -> Result<String, Fault> {
        let key = self.key(segment);
        let mut ask = Ask::new("CreateMultipartUpload", Method::POST, &key)
            .query("uploads", "")
            .body(Body::Text(String::new()))
            .answered_by("InitiateMultipartUploadResult");
        if let Some((name, value)) = self.flavour().announces().filter(|_| checksums) {
            ask = ask.header(name, value);
        }
        let answer = self.shared.caller.call(&ask).await?;
        match answer.document.get("UploadId") {
            Some(id) if !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic()) => Ok(id.to_owned()),
            _ => Err(Fault::lasting("the store gave an upload no id")),
        }
    }

    pub(super) async fn send(
        &self,
        segment: SegmentId,
        upload: &str,
        number: u32,
        content: &Arc<Content>,
    ) -> Result<Sent, Fault> {
        let key = self.key(segment);
        let checksum = self.checksum(content);
        let mut ask = Ask::new("UploadPart", Method::PUT, &key)
            .query("partNumber", number.to_string())
            .query("uploadId", upload)
            .body(self.body(content));
        ask.headers.extend(checksum.clone());
        let answer = self.shared.caller.call(&ask).await?;
        match answer.head.header("etag") {
            Some(etag) => {
                // Where it was announced, it is named again.
                let checksum = checksum.filter(|_| self.flavour().announces().is_some()).map(|(_, value)| value);
                Ok(Sent { number, etag: etag.to_owned(), checksum })
            }
            None => Err(Fault::lasting("the store gave a part no ETag")),
        }
    }

    /// Makes one object of the parts. An upload that is gone was completed before, if an object of at least this length is
    /// there: by a call whose answer was lost, or by somebody else who sealed it.
    pub(super) async fn complete(
        &self,
        segment: SegmentId,
        upload: &str,
        parts: &[Sent],
        length: u64,
    ) -> Result<(), Fault> {
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
    pub(super) async fn has(&self, segment: SegmentId, length: u64) -> Result<bool, Fault> {
        Ok(self.head(&self.key(segment)).await?.is_some_and(|found| found.size >= length))
    }

    /// An object, if it is there.
    pub(super) async fn head(&self, key: &str) -> Result<Option<Stat>, Fault> {
        self.ask_head(Ask::new("HeadObject", Method::HEAD, key)).await
    }

    /// A version of an object, or its current one, with what the store knows about its content.
    pub(super) async fn head_version(&self, key: &str, version: Option<&str>) -> Result<Option<Stat>, Fault> {
        let mut ask = Ask::new("HeadObject", Method::HEAD, key);
        if let Some(version) = version {
            ask = ask.query(self.flavour().version_query(), version);
        }
        if let Some((name, value)) = self.flavour().telling().filter(|_| self.shared.checksums) {
            ask = ask.header(name, value);
        }
        self.ask_head(ask).await
    }

    async fn ask_head(&self, ask: Ask<'_>) -> Result<Option<Stat>, Fault> {
        match self.shared.caller.call(&ask).await {
            Ok(answer) => match self.flavour().stat(&answer.head) {
                Some(stat) => {
                    self.noted(stat.version.is_some());
                    Ok(Some(stat))
                }
                None => Err(Fault::lasting("the store tells no length")),
            },
            Err(fault) if fault.kind == Kind::Missing => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// An answer that names a version may be of a bucket that keeps them.
    fn noted(&self, version: bool) {
        let versions = &self.shared.versions;
        for before in [UNKNOWN, NONE].into_iter().filter(|_| version) {
            let _ = versions.compare_exchange(before, NAMED, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Does the bucket keep versions of objects, or did it once? Then an object is gone when all of them are. The owner's
    /// object tells, which is there since the first start; and as there are stores that name versions and keep none, one that
    /// names some has to list them.
    pub(super) async fn keeps_versions(&self) -> Result<bool, Fault> {
        if self.flavour().numbers() {
            return Ok(false);
        }
        let versions = &self.shared.versions;
        let owner = format!("{}{OWNER}", self.shared.prefix);
        if versions.load(Ordering::Relaxed) == UNKNOWN {
            self.head(&owner).await?;
            let _ = versions.compare_exchange(UNKNOWN, NONE, Ordering::Relaxed, Ordering::Relaxed);
        }
        if versions.load(Ordering::Relaxed) == NAMED {
            let listed = match self.versions(&owner).await {
                Ok(_) => KEPT,
                // Nothing else settles it: what is taken for a bucket without versions pins none.
                Err(fault) if fault.kind == Kind::Unserved => NEVER,
                Err(fault) => return Err(fault),
            };
            versions.store(listed, Ordering::Relaxed);
        }
        Ok(versions.load(Ordering::Relaxed) == KEPT)
    }

    /// A small object, whole.
    pub(super) async fn get(&self, key: &str, length: usize) -> Result<Bytes, Fault> {
        self.shared.caller.small(&Ask::new("GetObject", Method::GET, key), length).await
    }

    pub(super) async fn tail(&self, segment: SegmentId, tail: Tail) -> Result<Bytes, Fault> {
        let length = usize::try_from(tail.length).unwrap_or(usize::MAX);
        let bytes = self.get(&self.tail_key(segment, tail), length).await?;
        if crc32c(&bytes) == tail.crc32c {
            return Ok(bytes);
        }
        Err(Fault::lasting(format!("segment {segment}: what was written at {} is damaged", tail.offset)))
    }

    /// Removes an object, with all its versions.
    pub(super) async fn remove(&self, key: &str) -> Result<(), Fault> {
        if self.flavour().numbers() {
            let found = self.head(key).await?;
            return match found.and_then(|found| found.version) {
                Some(version) => self.remove_version(key, &version).await,
                None => Ok(()),
            };
        }
        if !self.keeps_versions().await? {
            return gone(self.shared.caller.call(&Ask::new("DeleteObject", Method::DELETE, key)).await.map(drop));
        }
        for found in self.versions(key).await? {
            if found.key == key {
                self.remove_version(key, &found.version).await?;
            }
        }
        Ok(())
    }

    /// Removes one version of an object.
    pub(super) async fn remove_version(&self, key: &str, version: &str) -> Result<(), Fault> {
        let ask = Ask::new("DeleteObject", Method::DELETE, key).query(self.flavour().version_query(), version);
        gone(self.shared.caller.call(&ask).await.map(drop))
    }

    /// Removes everything that lies under a segment's name.
    pub(super) async fn remove_of(&self, segment: SegmentId) -> Result<(), Fault> {
        let key = self.key(segment);
        let own = |key: &str| self.parse(key).is_some_and(|(of, _)| of == segment);
        if self.keeps_versions().await? {
            for found in self.versions(&key).await? {
                if own(&found.key) {
                    self.remove_version(&found.key, &found.version).await?;
                }
            }
            return Ok(());
        }
        for object in self.objects(&key).await? {
            if own(&object.key) {
                match &object.version {
                    Some(version) => self.remove_version(&object.key, version).await?,
                    None => self.remove(&object.key).await?,
                }
            }
        }
        Ok(())
    }

    pub(super) async fn abort(&self, key: &str, upload: &str) -> Result<(), Fault> {
        let ask = Ask::new("AbortMultipartUpload", Method::DELETE, key).query("uploadId", upload);
        gone(self.shared.caller.call(&ask).await.map(drop))
    }

    /// Removes objects that are not needed; what remains is found by the listing.
    pub(super) async fn remove_all(&self, keys: Vec<String>) {
        let each = futures_util::stream::iter(keys).for_each_concurrent(DELETES, |key| async move {
            if let Err(fault) = self.remove(&key).await {
                tracing::warn!(%fault, "an object that is not needed could not be deleted");
            }
        });
        each.await;
    }

    /// Removes tails whose bytes are elsewhere, while others go on.
    pub(super) fn forget(&self, segment: SegmentId, tails: Vec<Tail>) {
        if !tails.is_empty() {
            let store = self.clone();
            let keys = tails.into_iter().map(|tail| self.tail_key(segment, tail)).collect();
            tokio::spawn(async move { store.remove_all(keys).await });
        }
    }
}

/// What is not there is deleted already.
fn gone(outcome: Result<(), Fault>) -> Result<(), Fault> {
    match outcome {
        Err(fault) if fault.kind == Kind::Missing => Ok(()),
        outcome => outcome,
    }
}
