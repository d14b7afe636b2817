//! Sealing: finishing what a writer left, from what its row keeps.

use std::io;
use std::sync::Arc;

use super::content::Content;
use super::layout::{NotRecorded, Recorded, SEALING_PART, Tail, WHOLE};
use super::{S3, SEALS};
use crate::blob::BlobError;
use crate::blob::remote::{Fault, Kind};
use crate::faults;
use crate::model::ids::SegmentId;

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

impl S3 {
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
            let found = self.head(&self.key(segment)).await?.map_or(0, |found| found.size);
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

    /// As [`crate::blob::BlobStore::seal`].
    pub(super) async fn seal_recorded(
        &self,
        segment: SegmentId,
        backend: &str,
        length: u64,
    ) -> Result<String, BlobError> {
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
}
