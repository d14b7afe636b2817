//! What is in the container.

use std::collections::BTreeMap;

use http::Method;

use super::Azure;
use crate::blob::remote::{Ask, Element, Fault, is_probe};
use crate::blob::{BlobError, Listed};
use crate::clock::Timestamp;
use crate::limits;
use crate::model::ids::SegmentId;

/// Entries of a page.
const PAGE: &str = if cfg!(test) { "50" } else { "1000" };
/// Pages of one segment's blobs.
const PAGES: usize = 10_000;

/// A blob, or the blocks of one that is not made yet.
pub(super) struct Entry {
    pub(super) key: String,
    size: u64,
    written: Timestamp,
}

impl Entry {
    fn read(entry: &Element) -> Option<Self> {
        let properties = entry.all("Properties").next()?;
        let time = httpdate::parse_http_date(properties.get("Last-Modified")?).ok()?;
        let written = time.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(Self {
            key: entry.get("Name")?.to_owned(),
            size: properties.number("Content-Length")?,
            written: Timestamp(i64::try_from(written.as_millis()).ok()?),
        })
    }

    /// When nobody writes to it any more. Of blocks without a blob the service tells when the first of them came, so that
    /// those may be young that look old: they stay for as long as a session lives.
    fn stood_still(&self) -> Timestamp {
        if self.size > 0 { self.written } else { self.written.plus(limits::SESSION_LIFE) }
    }
}

fn unreadable() -> Fault {
    Fault::lasting("the store's listing can't be read")
}

impl Azure {
    /// A page of what is there whose names begin like this, and where the next one begins.
    async fn page(&self, prefix: &str, after: Option<String>) -> Result<(Vec<Entry>, Option<String>), Fault> {
        let mut ask = Ask::new("ListBlobs", Method::GET, "")
            .query("restype", "container")
            .query("comp", "list")
            .query("prefix", prefix)
            .query("include", "uncommittedblobs")
            .query("maxresults", PAGE)
            .answered_by("EnumerationResults");
        if let Some(after) = after {
            ask = ask.query("marker", after);
        }
        let page = self.shared.caller.call(&ask).await?.document;
        let blobs = page.all("Blobs").flat_map(|all| all.all("Blob"));
        let blobs = blobs.map(|blob| Entry::read(blob).ok_or_else(unreadable)).collect::<Result<_, _>>()?;
        Ok((blobs, page.get("NextMarker").filter(|next| !next.is_empty()).map(str::to_owned)))
    }

    /// Asks for nothing but an answer.
    pub(super) async fn ask_for_one(&self) -> Result<(), Fault> {
        let ask = Ask::new("ListBlobs", Method::GET, "")
            .query("restype", "container")
            .query("comp", "list")
            .query("prefix", self.shared.prefix.clone())
            .query("maxresults", "1")
            .answered_by("EnumerationResults");
        self.shared.caller.call(&ask).await.map(drop)
    }

    /// Everything whose name begins like this.
    pub(super) async fn all(&self, prefix: &str) -> Result<Vec<Entry>, Fault> {
        let mut all = Vec::new();
        let mut after = None;
        for _ in 0..PAGES {
            let (page, next) = self.page(prefix, after).await?;
            all.extend(page);
            match next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
        Err(unreadable())
    }

    /// Removes everything that lies under a segment's name.
    pub(super) async fn remove_of(&self, segment: SegmentId) -> Result<(), Fault> {
        for entry in self.all(&self.key(segment, 0)).await? {
            if self.parse(&entry.key).is_some_and(|(of, _)| of == segment) {
                self.remove_all(&entry.key).await?;
            }
        }
        Ok(())
    }

    /// Every segment there is.
    pub(super) async fn list_all(&self, each: &mut (dyn FnMut(Vec<Listed>) + Send)) -> Result<(), BlobError> {
        let old = self.shared.clock.now().minus(limits::ORPHAN_GRACE);
        let mut after = None;
        // The last segment of a page may have blobs on the next one.
        let mut open: BTreeMap<SegmentId, (u64, Timestamp)> = BTreeMap::new();
        loop {
            let (page, next) = self.page(&self.shared.prefix, after).await?;
            for entry in page {
                let Some((segment, _)) = self.parse(&entry.key) else {
                    let probe = is_probe(&entry.key, &self.shared.prefix);
                    if probe && self.shared.tidies && entry.stood_still(now) <= old {
                        self.remove_all(&entry.key).await?;
                    }
                    continue;
                };
                let found = open.entry(segment).or_default();
                found.0 += entry.size;
                found.1 = found.1.max(entry.stood_still());
            }
            let last = next.as_ref().and_then(|_| open.pop_last());
            let whole = std::mem::take(&mut open).into_iter();
            let listed: Vec<_> = whole
                .map(|(segment, (length, written))| Listed { segment, backend: String::new(), length, written })
                .collect();
            if !listed.is_empty() {
                each(listed);
            }
            open.extend(last);
            match next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read() {
        let xml = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs><Blob><Name>a/b.1</Name>\
                   <Properties><Last-Modified>Fri, 02 Jan 2026 03:04:05 GMT</Last-Modified>\
                   <Content-Length>7</Content-Length></Properties></Blob><Blob><Name>x</Name></Blob></Blobs>\
                   <NextMarker/></EnumerationResults>";
        let page = Element::read(xml.as_bytes()).unwrap();
        let entries: Vec<_> = page.all("Blobs").flat_map(|all| all.all("Blob")).map(Entry::read).collect();
        let first = entries[0].as_ref().unwrap();
        assert_eq!((first.key.as_str(), first.size, first.written), ("a/b.1", 7, Timestamp(1_767_323_045_000)));
        assert!(entries[1].is_none());
    }
}
