//! Entries of a catalogue.

use std::time::Duration;

use super::tenants::OverQuota;
use crate::clock::Timestamp;
use crate::model::entry::{Entry, EntryRef, Facts, FactsEdit, NodeId, Wrong};
use crate::model::ids::{FileId, TenantId};
use crate::model::session::Session;

/// An entry to make in a tenant's catalogue.
#[derive(Clone, PartialEq, Debug)]
pub struct NewEntry {
    /// Whose it is.
    pub tenant: TenantId,
    /// The file that its content will be, new.
    pub file: FileId,
    /// The node that it stands for.
    pub node: Option<NodeId>,
    /// What is said about it.
    pub facts: Facts,
    /// The upload of its content, to be opened with it; it gets the entry's file.
    pub session: Option<Session>,
    /// What changes of the entry that has this external id already, where there is one and that is wanted.
    pub overwrite: Option<FactsEdit>,
    /// When it goes, unless its content comes.
    pub expires: Option<Timestamp>,
    /// Now.
    pub now: Timestamp,
}

/// An entry that stands for a node, as it is to be.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeEntry {
    /// The node.
    pub node: NodeId,
    /// The file that its content will be, new; for one that is not there.
    pub file: FileId,
    /// What is said about one that is not there.
    pub facts: Facts,
    /// What changes of one that is there.
    pub edit: FactsEdit,
}

/// What became of it.
#[derive(Clone, PartialEq, Debug)]
pub enum EntryMade {
    /// It is there, new or changed, and the upload is open.
    Done(Box<Entry>),
    /// Another entry has this external id, or stands for this node.
    Taken,
    /// The entry with this external id can't be changed so.
    Wrong(Wrong),
    /// The tenant's quota does not allow the upload. Nothing changed.
    OverQuota(OverQuota),
}

/// What became of a change of entries: of all or of none.
#[derive(Clone, PartialEq, Debug)]
pub enum EntriesChanged {
    /// They are as they are here, in the order of the changes.
    Done(Vec<Entry>),
    /// Those at these places do not exist.
    Missing(Vec<usize>),
    /// Other entries have these external ids.
    Taken(Vec<String>),
    /// The change at this place can't be.
    Wrong(usize, Wrong),
}

/// What became of a deletion of entries: of all or of none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntriesDeleted {
    /// They are gone.
    Done(Vec<EntryRef>),
    /// Those at these places do not exist.
    Missing(Vec<usize>),
    /// Those at these places stand for nodes, and only go with them.
    OfNodes(Vec<usize>),
}

/// Which entries to delete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteEntries {
    /// Whose they are.
    pub tenant: TenantId,
    /// Which.
    pub entries: Vec<EntryRef>,
    /// Are those that do not exist left out?
    pub ignore_unknown: bool,
    /// Are they deleted as nodes?
    pub as_nodes: bool,
    /// Now.
    pub now: Timestamp,
    /// How long their bytes are kept for those who still read them.
    pub keep_replaced: Duration,
}
