//! What is there of a segment whose writer is gone, and finishing it.

use super::blocks::covering;
use super::{Azure, Whole};
use crate::blob::BlobError;
use crate::blob::remote::Fault;
use crate::faults;
use crate::model::ids::SegmentId;

/// What there is of a segment.
pub(super) struct Reach {
    /// Blobs that are made, from the first on without a gap.
    pub(super) made: usize,
    /// Where the last of them ends.
    pub(super) end: u64,
}

impl Azure {
    /// Looks at the blobs of a segment that are made until they reach so far.
    pub(super) async fn reach(&self, segment: SegmentId, length: u64) -> Result<Reach, Fault> {
        let mut reach = Reach { made: 0, end: 0 };
        while reach.made == 0 || reach.end < length {
            match self.head(&self.key(segment, reach.end)).await? {
                Some(found) => {
                    reach.made += 1;
                    reach.end += found.size;
                    // None but the first has no bytes.
                    if found.size == 0 {
                        break;
                    }
                }
                None => break,
            }
        }
        Ok(reach)
    }

    /// How many bytes of a segment are there, finished or not. `None` when there are none, and no blob.
    pub(super) async fn found(&self, segment: SegmentId) -> Result<Option<u64>, Fault> {
        let reach = self.reach(segment, u64::MAX).await?;
        let blocks = self.blocks(&self.key(segment, reach.end)).await?;
        if reach.made == 0 && blocks.is_none() {
            return Ok(None);
        }
        let behind = covering(&blocks.unwrap_or_default(), u64::MAX).err().unwrap_or(0);
        Ok(Some(reach.end + behind))
    }

    /// As [`crate::blob::BlobStore::seal`].
    pub(super) async fn seal_unfinished(&self, segment: SegmentId, length: u64) -> Result<String, BlobError> {
        let enough = |reach: &Reach| reach.made > 0 && reach.end >= length;
        let reach = self.reach(segment, length).await?;
        let made = if enough(&reach) {
            reach.made
        } else {
            match self.seal_from(segment, &reach, length).await {
                Ok(()) => reach.made + 1,
                // Somebody else made it meanwhile, perhaps its writer, of more blocks.
                Err(error) => Some(self.reach(segment, length).await?).filter(enough).ok_or(error)?.made,
            }
        };
        faults::point("object.sealed");
        Ok(Whole::of(made).to_string())
    }

    /// Makes a blob of the blocks behind what is made.
    async fn seal_from(&self, segment: SegmentId, reach: &Reach, length: u64) -> Result<(), BlobError> {
        let key = self.key(segment, reach.end);
        let lost = |found: u64| BlobError::Truncated { segment, expected: length, found: reach.end + found };
        let blocks = self.blocks(&key).await?.unwrap_or_default();
        let row = covering(&blocks, length - reach.end).map_err(lost)?;
        faults::point("object.sealing");
        Ok(self.put_list(&key, &row).await?)
    }
}
