//! What is in the bucket: parts, objects and uploads, a page at a time, and the segments that they are.

use std::collections::BTreeMap;

use http::Method;

use super::S3;
use super::direct;
use super::layout::{Pin, SEALING_PART, UPLOADS};
use super::wire::Sent;
use crate::blob::remote::{Ask, Element, Fault, Kind, is_probe};
use crate::blob::{BlobError, Listed};
use crate::clock::Timestamp;
use crate::limits;
use crate::model::ids::SegmentId;

/// Entries that the store is asked for at a time.
const PAGE: &str = "1000";
/// Pages of one listing: a hundred million entries.
const PAGES: usize = 100_000;

pub(super) struct Object {
    pub(super) key: String,
    pub(super) size: u64,
    /// Its number, where every object has one.
    pub(super) version: Option<String>,
    written: Timestamp,
}

impl Object {
    fn read(entry: &Element) -> Option<Self> {
        Some(Self {
            key: entry.key()?,
            size: entry.number("Size")?,
            version: entry.get("Generation").map(str::to_owned),
            written: entry.time("LastModified")?,
        })
    }
}

pub(super) struct Upload {
    pub(super) key: String,
    pub(super) id: String,
    initiated: Timestamp,
}

impl Upload {
    fn read(entry: &Element) -> Option<Self> {
        Some(Self { key: entry.key()?, id: entry.get("UploadId")?.to_owned(), initiated: entry.time("Initiated")? })
    }
}

/// A version of an object, or a mark that it is deleted.
pub(super) struct Version {
    pub(super) key: String,
    pub(super) version: String,
    etag: Option<String>,
    size: u64,
    written: Timestamp,
    latest: bool,
    deleted: bool,
}

impl Version {
    fn read(entry: &Element, deleted: bool) -> Option<Self> {
        Some(Self {
            key: entry.key()?,
            version: entry.get("VersionId")?.to_owned(),
            etag: entry.get("ETag").map(str::to_owned),
            size: if deleted { 0 } else { entry.number("Size")? },
            written: entry.time("LastModified")?,
            latest: entry.get("IsLatest") == Some("true"),
            deleted,
        })
    }
}

pub(super) struct StoredPart {
    pub(super) sent: Sent,
    pub(super) size: u64,
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
pub(super) struct Found {
    /// Is the finished object there?
    whole: bool,
    length: u64,
    written: Timestamp,
    tails: Vec<String>,
}

fn unreadable() -> Fault {
    Fault::lasting("the store's listing can't be read")
}

/// Where a page of versions begins: behind this version of this key.
type Markers = (String, Option<String>);

/// Where the next page of a listing begins.
enum Next {
    Token(String),
    Markers(Markers),
}

/// What is listed: an object where there are no versions of it, else one of them.
struct Entry {
    key: String,
    size: u64,
    written: Timestamp,
    /// What is current of its key; of others the bytes do not count.
    latest: bool,
    /// Its version, where it is one that can be read.
    pin: Option<Pin>,
}

impl From<Object> for Entry {
    fn from(object: Object) -> Self {
        Self { key: object.key, size: object.size, written: object.written, latest: true, pin: None }
    }
}

impl From<Version> for Entry {
    fn from(found: Version) -> Self {
        let Version { key, version, etag, size, written, latest, deleted } = found;
        let pin = (!deleted).then_some(Pin { version: Some(version), etag });
        Self { key, size, written, latest, pin }
    }
}

impl S3 {
    /// A page of what is there, with all versions where the bucket keeps them.
    async fn entries_page(&self, versions: bool, after: Option<Next>) -> Result<(Vec<Entry>, Option<Next>), Fault> {
        let prefix = &self.shared.prefix;
        match (versions, after) {
            (true, after) => {
                let markers = if let Some(Next::Markers(markers)) = after { Some(markers) } else { None };
                let (page, next) = self.versions_page(prefix, markers).await?;
                Ok((page.into_iter().map(Entry::from).collect(), next.map(Next::Markers)))
            }
            (false, after) => {
                let token = if let Some(Next::Token(token)) = after { Some(token) } else { None };
                let (page, next) = self.objects_page(prefix, token).await?;
                Ok((page.into_iter().map(Entry::from).collect(), next.map(Next::Token)))
            }
        }
    }

    /// The parts of an upload, in the order of their numbers, with their sizes and times. `None` when it is gone.
    pub(super) async fn parts(&self, segment: SegmentId, upload: &str) -> Result<Option<Vec<StoredPart>>, Fault> {
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
    pub(super) async fn objects_page(
        &self,
        prefix: &str,
        after: Option<String>,
    ) -> Result<(Vec<Object>, Option<String>), Fault> {
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

    pub(super) async fn objects(&self, prefix: &str) -> Result<Vec<Object>, Fault> {
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

    /// A page of versions whose keys begin like this, and where the next one begins.
    async fn versions_page(
        &self,
        prefix: &str,
        after: Option<Markers>,
    ) -> Result<(Vec<Version>, Option<Markers>), Fault> {
        let mut ask = Ask::new("ListObjectVersions", Method::GET, "")
            .query("versions", "")
            .query("prefix", prefix)
            .query("max-keys", PAGE)
            .query("encoding-type", "url")
            .answered_by("ListVersionsResult");
        if let Some((key, version)) = after {
            ask = ask.query("key-marker", key);
            if let Some(version) = version {
                ask = ask.query("version-id-marker", version);
            }
        }
        let page = self.shared.caller.call(&ask).await?.document;
        let mut found = Vec::new();
        for (name, deleted) in [("Version", false), ("DeleteMarker", true)] {
            for entry in page.all(name) {
                found.push(Version::read(entry, deleted).ok_or_else(unreadable)?);
            }
        }
        // Marks stand behind the others, whatever their keys.
        found.sort_by(|a, b| a.key.cmp(&b.key));
        if !page.is_truncated() {
            return Ok((found, None));
        }
        let key = page.key_at("NextKeyMarker").ok_or_else(unreadable)?;
        Ok((found, Some((key, page.get("NextVersionIdMarker").map(str::to_owned)))))
    }

    /// Versions whose keys begin like this, and marks of deletions.
    pub(super) async fn versions(&self, prefix: &str) -> Result<Vec<Version>, Fault> {
        let mut all = Vec::new();
        let mut after = None;
        for _ in 0..PAGES {
            let (page, next) = self.versions_page(prefix, after).await?;
            all.extend(page);
            match next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
        Err(unreadable())
    }

    /// Uploads in progress whose keys begin like this.
    pub(super) async fn uploads(&self, prefix: &str) -> Result<Vec<Upload>, Fault> {
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

    /// The newest that was sent to an upload.
    pub(super) async fn last_sent(
        &self,
        segment: SegmentId,
        upload: &Upload,
        now: Timestamp,
    ) -> Result<Timestamp, Fault> {
        // A young one is left alone anyway, and a question for each would be many.
        if upload.initiated > now.minus(limits::ORPHAN_GRACE) {
            return Ok(upload.initiated);
        }
        let parts = self.parts(segment, &upload.id).await?.unwrap_or_default();
        Ok(parts.iter().filter_map(|part| part.written).max().unwrap_or_default().max(upload.initiated))
    }

    /// Every segment there is.
    pub(super) async fn list_all(&self, each: &mut (dyn FnMut(Vec<Listed>) + Send)) -> Result<(), BlobError> {
        let now = self.shared.clock.now();
        let old = now.minus(limits::ORPHAN_GRACE);
        let mut uploads: BTreeMap<SegmentId, Vec<Upload>> = BTreeMap::new();
        for upload in self.uploads(&self.shared.prefix).await? {
            if let Some((segment, true)) = self.parse(&upload.key) {
                uploads.entry(segment).or_default().push(upload);
            }
        }
        let versions = self.keeps_versions().await?;
        let mut after = None;
        // The last segment of a page may have tails on the next one.
        let mut open: BTreeMap<SegmentId, Found> = BTreeMap::new();
        loop {
            let (page, next) = self.entries_page(versions, after).await?;
            let mut pinned = Vec::new();
            for entry in page {
                let Some((segment, whole)) = self.parse(&entry.key) else {
                    let probe = is_probe(&entry.key, &self.shared.prefix);
                    if probe && self.shared.tidies && entry.written <= old {
                        self.remove_all(vec![entry.key]).await;
                    }
                    continue;
                };
                // Each version of what a client sent itself is a segment of its own.
                if versions && segment == SegmentId::direct(segment.session) {
                    pinned.extend(entry.pin.map(|pin| Listed {
                        segment: direct::segment(segment.session, pin.version.as_deref()),
                        backend: pin.to_string(),
                        length: entry.size,
                        written: entry.written,
                    }));
                    continue;
                }
                let found = open.entry(segment).or_default();
                found.whole |= whole;
                found.length += if entry.latest { entry.size } else { 0 };
                found.written = found.written.max(entry.written);
                if !whole && !found.tails.contains(&entry.key) {
                    found.tails.push(entry.key);
                }
            }
            let last = next.as_ref().and_then(|_| open.pop_last());
            let mut listed = pinned;
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

    /// One segment of a listing. What is left beside a finished one is removed: tails whose bytes are in it, and uploads
    /// that were begun twice because an answer was lost.
    pub(super) async fn listed(
        &self,
        segment: SegmentId,
        found: Found,
        begun: Vec<Upload>,
        now: Timestamp,
    ) -> Result<Listed, BlobError> {
        // An upload that somebody began for a client's bytes must not take those along that are there.
        let alone = !found.whole && found.tails.is_empty() && segment == SegmentId::direct(segment.session);
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
        let backend = if alone { UPLOADS.to_owned() } else { String::new() };
        Ok(Listed { segment, backend, length: found.length, written })
    }
}
