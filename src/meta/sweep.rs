//! What goes, and what there is.

use crate::model::ids::{SegmentId, StoreId};

/// What a store holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreUsage {
    /// Which one.
    pub id: StoreId,
    /// What it is called.
    pub name: String,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A segment to delete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tombstone {
    /// Which one.
    pub segment: SegmentId,
    /// What its backend needs.
    pub backend: String,
}

/// What a sweep found to be over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Sessions marked expired.
    pub sessions: u64,
    /// Files whose time ran out.
    pub files: u64,
    /// Rows that nobody needs any more.
    pub rows: u64,
}
