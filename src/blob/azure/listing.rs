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
/// Pages of one listing: a hundred million blobs.
const PAGES: usize = 100_000;

/// A blob, or the blocks of one that is not made yet.
pub(super) struct Entry {
    pub(super) key: String,
    size: u64,
    /// When it was made. Blocks without a blob have no time: the service does not tell when they came, and drops them a week
    /// after the last one.
    made: Option<Timestamp>,
}

impl Entry {
    fn read(entry: &Element) -> Option<Self> {
        let properties = entry.all("Properties").next()?;
        let size = properties.number("Content-Length")?;
        // The emulator tells when the first of them came; what type they have nobody knows there either.
        let made = match (properties.get("Last-Modified"), properties.get("Content-Type")) {
            (Some(time), Some(_)) => Some(read_time(time)?),
            (None, _) | (_, None) if size == 0 => None,
            (None, _) | (_, None) => return None,
        };
        Some(Self { key: entry.get("Name")?.to_owned(), size, made })
    }
}

fn read_time(text: &str) -> Option<Timestamp> {
    let time = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp(i64::try_from(time.as_millis()).ok()?))
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
        if let Some(after) = &after {
            ask = ask.query("marker", after);
        }
        let page = self.shared.caller.call(&ask).await?.document;
        let blobs = page.all("Blobs").flat_map(|all| all.all("Blob"));
        let blobs = blobs.map(|blob| Entry::read(blob).ok_or_else(unreadable)).collect::<Result<_, _>>()?;
        let next = page.get("NextMarker").filter(|next| !next.is_empty()).map(str::to_owned);
        // One that leads to itself would be followed for ever.
        if next.is_some() && next == after { Err(unreadable()) } else { Ok((blobs, next)) }
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

    /// Every segment of which there is a blob.
    pub(super) async fn list_all(&self, each: &mut (dyn FnMut(Vec<Listed>) + Send)) -> Result<(), BlobError> {
        let old = self.shared.clock.now().minus(limits::ORPHAN_GRACE);
        let mut after = None;
        // The last segment of a page may have blobs on the next one.
        let mut open: BTreeMap<SegmentId, (u64, Timestamp)> = BTreeMap::new();
        for _ in 0..PAGES {
            let (page, next) = self.page(&self.shared.prefix, after).await?;
            for Entry { key, size, made } in page {
                let Some(made) = made else { continue };
                let Some((segment, _)) = self.parse(&key) else {
                    if is_probe(&key, &self.shared.prefix) && self.shared.tidies && made <= old {
                        self.remove_all(&key).await?;
                    }
                    continue;
                };
                let found = open.entry(segment).or_default();
                found.0 += size;
                found.1 = found.1.max(made);
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
        Err(unreadable().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read() {
        let entry = |name: &str, properties: &str| {
            format!("<Blob><Name>{name}</Name><Properties>{properties}</Properties></Blob>")
        };
        let made = "<Last-Modified>Fri, 02 Jan 2026 03:04:05 GMT</Last-Modified><Content-Type>a/b</Content-Type>";
        let xml = [
            entry("a/b.1", &format!("{made}<Content-Length>7</Content-Length>")),
            entry("blocks", "<Content-Length>0</Content-Length><BlobType>BlockBlob</BlobType>"),
            entry("x", made),
            entry("y", "<Content-Length>7</Content-Length>"),
            entry(
                "z",
                "<Last-Modified>yesterday</Last-Modified><Content-Type>a/b</Content-Type><Content-Length>7</Content-Length>",
            ),
        ];
        let page = Element::read(format!("\u{feff}<Blobs>{}</Blobs>", xml.concat()).as_bytes()).unwrap();
        let entries: Vec<_> = page.all("Blob").map(Entry::read).collect();
        let told = |entry: &Entry| (entry.key.clone(), entry.size, entry.made);
        let told: Vec<_> = entries.iter().map(|entry| entry.as_ref().map(told)).collect();
        let made = Some(Timestamp(1_767_323_045_000));
        assert_eq!(told, [Some(("a/b.1".into(), 7, made)), Some(("blocks".into(), 0, None)), None, None, None]);
    }
}
