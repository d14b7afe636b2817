//! Calls about single blobs and their blocks. Each blob is made once: whatever would make it again is refused.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use futures_util::StreamExt;
use http::Method;

use super::Azure;
use super::blocks::{self, Block};
use crate::blob::remote::{Ask, Body, Fault, Held, Kind, Stream};
use crate::outbound::Head;

/// The condition under which a blob is made.
pub(super) const CREATE_ONLY: (&str, &str) = ("if-none-match", "*");
/// What a blob's bytes are, in a call that makes one.
pub(super) const BLOB_TYPE: (&str, &str) = ("x-ms-blob-type", "BlockBlob");
/// A CRC-64/NVME, the lowest byte first: the service compares.
const CHECKSUM: &str = "x-ms-content-crc64";

/// What is sent as one body.
#[derive(Debug)]
pub(super) struct Content {
    chunks: Vec<Bytes>,
    length: u64,
    crc64: u64,
    /// The memory that the chunks take.
    _held: Option<Held>,
}

impl Content {
    /// A short text.
    pub(super) fn text(bytes: Bytes) -> Arc<Self> {
        Self::of(vec![bytes], None)
    }

    pub(super) fn of(chunks: Vec<Bytes>, held: Option<Held>) -> Arc<Self> {
        let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme);
        let mut length = 0;
        for chunk in &chunks {
            digest.update(chunk);
            length += u64::try_from(chunk.len()).unwrap_or(0);
        }
        Arc::new(Self { chunks, length, crc64: digest.finalize(), _held: held })
    }

    fn body(self: &Arc<Self>) -> Body {
        let content = Arc::clone(self);
        let make = move || futures_util::stream::iter(content.chunks.clone().into_iter().map(Ok)).boxed();
        Body::Bytes { length: self.length, make: Box::new(make) }
    }

    fn checksum(&self) -> String {
        checksum(self.crc64)
    }
}

fn checksum(crc64: u64) -> String {
    BASE64.encode(crc64.to_le_bytes())
}

/// A blob as the service tells about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stat {
    pub(super) size: u64,
    pub(super) etag: Option<String>,
    /// Are these all its bytes, sent by whoever made it? Who may make a blob may also make one of zeros, or let the service copy
    /// one from elsewhere, which takes its time.
    pub(super) is_sent: bool,
}

impl Stat {
    fn read(head: &Head) -> Option<Self> {
        let size = head.header("content-length")?.parse().ok()?;
        let is_sent = head.header("x-ms-blob-type").is_none_or(|kind| kind == BLOB_TYPE.1)
            && head.header("x-ms-copy-status").is_none_or(|status| status == "success");
        Some(Self { size, etag: head.header("etag").map(str::to_owned), is_sent })
    }
}

impl Azure {
    /// Makes a blob of one body.
    pub(super) async fn put_blob(&self, key: &str, content: &Arc<Content>) -> Result<(), Fault> {
        let ask = Ask::new("PutBlob", Method::PUT, key)
            .header(CREATE_ONLY.0, CREATE_ONLY.1)
            .header(BLOB_TYPE.0, BLOB_TYPE.1)
            .header(CHECKSUM, content.checksum())
            .body(content.body());
        let made = self.shared.caller.call(&ask).await.map(drop);
        self.made_before(key, content.length, made).await
    }

    /// Sends a block, which belongs to nothing yet.
    pub(super) async fn put_block(&self, key: &str, block: Block, content: &Arc<Content>) -> Result<(), Fault> {
        let ask = Ask::new("PutBlock", Method::PUT, key)
            .query("comp", "block")
            .query("blockid", block.id())
            .header(CHECKSUM, content.checksum())
            .body(content.body());
        self.shared.caller.call(&ask).await.map(drop)
    }

    /// Makes a blob of blocks.
    pub(super) async fn put_list(&self, key: &str, blocks: &[Block]) -> Result<(), Fault> {
        let length = blocks.last().map_or(0, |last| last.end());
        let made = self.make(key, blocks).await;
        self.made_before(key, length, made).await
    }

    async fn make(&self, key: &str, blocks: &[Block]) -> Result<(), Fault> {
        let list = blocks::list(blocks);
        let crc64 = crc_fast::checksum(CrcAlgorithm::Crc64Nvme, list.as_bytes());
        let ask = Ask::new("PutBlockList", Method::PUT, key)
            .query("comp", "blocklist")
            .header(CREATE_ONLY.0, CREATE_ONLY.1)
            .header(CHECKSUM, checksum(crc64))
            .body(Body::Text(list));
        self.shared.caller.call(&ask).await.map(drop)
    }

    /// A blob that is there already was made by a call whose answer was lost, if it is as long: everybody who makes it takes
    /// the beginning of the same bytes.
    async fn made_before(&self, key: &str, length: u64, made: Result<(), Fault>) -> Result<(), Fault> {
        match made {
            Err(fault) if matches!(fault.kind, Kind::Changed | Kind::Parts) => match self.head(key).await? {
                Some(found) if found.size == length => Ok(()),
                _ => Err(fault),
            },
            made => made,
        }
    }

    /// Blocks that were sent and belong to nothing yet, in no order; `None` when there is nothing of this name.
    pub(super) async fn blocks(&self, key: &str) -> Result<Option<Vec<Block>>, Fault> {
        let ask = Ask::new("GetBlockList", Method::GET, key)
            .query("comp", "blocklist")
            .query("blocklisttype", "uncommitted")
            .answered_by("BlockList");
        match self.shared.caller.call(&ask).await {
            Ok(answer) => {
                let list = answer.document;
                let entries = list.all("UncommittedBlocks").flat_map(|all| all.all("Block"));
                Ok(Some(entries.filter_map(Block::read).collect()))
            }
            Err(fault) if fault.kind == Kind::Missing => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// A blob, if it was made.
    pub(super) async fn head(&self, key: &str) -> Result<Option<Stat>, Fault> {
        match self.shared.caller.call(&Ask::new("GetBlobProperties", Method::HEAD, key)).await {
            Ok(answer) => match Stat::read(&answer.head) {
                Some(found) => Ok(Some(found)),
                None => Err(Fault::lasting("the store tells no length")),
            },
            Err(fault) if fault.kind == Kind::Missing => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Is this blob a file in a tree of directories? Only accounts with such a tree tell.
    pub(super) async fn is_hierarchical(&self, key: &str) -> Result<bool, Fault> {
        let answer = self.shared.caller.call(&Ask::new("GetBlobProperties", Method::HEAD, key)).await?;
        Ok(answer.head.header("x-ms-resource-type").is_some())
    }

    /// The bytes from the first position to before the second of a blob that is still what it was.
    pub(super) async fn range(&self, key: &str, found: &Stat, from: u64, to: u64) -> Result<Stream, Fault> {
        let mut ask = Ask::new("GetBlob", Method::GET, key);
        if let Some(etag) = &found.etag {
            ask = ask.header("if-match", etag.clone());
        }
        self.shared.caller.range(ask, (from, to), found.size).await
    }

    /// A small blob, whole.
    pub(super) async fn get(&self, key: &str, length: usize) -> Result<Bytes, Fault> {
        self.shared.caller.small(&Ask::new("GetBlob", Method::GET, key), length).await
    }

    /// Removes a blob that was made, with its snapshots. Was there one?
    pub(super) async fn remove(&self, key: &str) -> Result<bool, Fault> {
        let ask = Ask::new("DeleteBlob", Method::DELETE, key).header("x-ms-delete-snapshots", "include");
        match self.shared.caller.call(&ask).await {
            Ok(_) => Ok(true),
            Err(fault) if fault.kind == Kind::Missing => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Removes whatever there is of this name. Blocks that belong to nothing are deleted by no call: they go when a blob is
    /// made of none of them.
    pub(super) async fn remove_all(&self, key: &str) -> Result<(), Fault> {
        if !self.remove(key).await? {
            match self.make(key, &[]).await {
                Ok(()) => {}
                // Somebody made it meanwhile; it goes all the same.
                Err(fault) if fault.kind == Kind::Changed => {}
                Err(fault) => return Err(fault),
            }
            self.remove(key).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the vendor's library computes for these: `pip install azure-storage-extensions==0.1.0`, then
    /// `base64.b64encode(azure.storage.extensions.checksums.crc64.compute(b"123456789", 0).to_bytes(8, "little"))`.
    #[test]
    fn a_checksum_is_written_as_the_service_expects_it() {
        for (bytes, wanted) in [("123456789", "iJh5CoYUi64="), ("", "AAAAAAAAAAA=")] {
            assert_eq!(Content::of(vec![Bytes::from(bytes)], None).checksum(), wanted);
        }
    }

    #[test]
    fn what_is_no_body_that_somebody_sent_is_told_apart() {
        for (kind, copy, wanted) in [
            (Some("BlockBlob"), None, true),
            (None, None, true),
            (Some("BlockBlob"), Some("success"), true),
            (Some("BlockBlob"), Some("pending"), false),
            (Some("BlockBlob"), Some("aborted"), false),
            (Some("PageBlob"), None, false),
            (Some("AppendBlob"), None, false),
        ] {
            let mut headers = http::HeaderMap::new();
            headers.insert("content-length", "7".parse().unwrap());
            for (name, value) in [("x-ms-blob-type", kind), ("x-ms-copy-status", copy)] {
                if let Some(value) = value {
                    headers.insert(name, value.parse().unwrap());
                }
            }
            let found = Stat::read(&Head { status: 200, headers }).unwrap();
            assert_eq!((found.size, found.is_sent), (7, wanted), "{kind:?} {copy:?}");
        }
    }
}
