//! Segments that somebody in this process reads without having them open: the sweeper leaves them for later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::ids::SegmentId;

type Counts = Arc<Mutex<HashMap<SegmentId, u32>>>;

/// The segments that are being read.
#[derive(Clone, Debug, Default)]
pub struct Readers(Counts);

/// Keeps segments as long as it lives.
#[derive(Debug)]
pub struct Kept {
    segments: Vec<SegmentId>,
    counts: Counts,
}

impl Readers {
    /// From now on these are read.
    #[must_use]
    pub fn keep(&self, segments: impl IntoIterator<Item = SegmentId>) -> Kept {
        let segments: Vec<_> = segments.into_iter().collect();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for segment in &segments {
            *counts.entry(*segment).or_default() += 1;
        }
        Kept { segments, counts: Arc::clone(&self.0) }
    }

    /// Does anybody read it?
    #[must_use]
    pub fn reads(&self, segment: SegmentId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&segment)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for segment in &self.segments {
            if let Some(count) = counts.get_mut(segment) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(segment);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::ids::SessionId;

    #[test]
    fn what_two_read_is_kept_until_both_have_ended() {
        let segment = |attempt| SegmentId { session: SessionId(Uuid::nil()), epoch: 1, attempt };
        let readers = Readers::default();
        let first = readers.keep([segment(1), segment(2)]);
        let second = readers.keep([segment(2)]);
        assert!(readers.reads(segment(1)) && readers.reads(segment(2)) && !readers.reads(segment(3)));
        drop(first);
        assert!(!readers.reads(segment(1)) && readers.reads(segment(2)));
        drop(second);
        assert!(!readers.reads(segment(2)) && readers.0.lock().unwrap().is_empty());
    }
}
