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
        let mut reach = self.reach(segment, length).await?;
        if reach.made == 0 || reach.end < length {
            let key = self.key(segment, reach.end);
            let lost = |found: u64| BlobError::Truncated { segment, expected: length, found: reach.end + found };
            let blocks = self.blocks(&key).await?;
            if length > 0 && blocks.is_none() {
                return Err(lost(0));
            }
            let row = covering(&blocks.unwrap_or_default(), length - reach.end).map_err(lost)?;
            faults::point("object.sealing");
            let made = self.put_list(&key, &row).await;
            // Somebody else made it meanwhile, perhaps its writer, of more blocks.
            reach = match made {
                Ok(()) => Reach { made: reach.made + 1, end: length },
                Err(fault) => match self.reach(segment, length).await? {
                    found if found.made > 0 && found.end >= length => found,
                    _ => return Err(fault.into()),
                },
            };
        }
        faults::point("object.sealed");
        Ok(Whole::of(reach.made).to_string())
    }
}
