//! Stores and their files.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::model::ids::{FileId, KeyId, StoreFileId, StoreId, TenantId};
use crate::model::store::{LogEntry, ProcessingState, Step, StoreFile};

/// A store to create.
#[derive(Clone, PartialEq, Debug)]
pub struct NewStore {
    /// Its id, new.
    pub id: StoreId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What people call it.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Everything else, as given.
    pub properties: Map<String, Value>,
    /// The key that makes it.
    pub created_by: Option<KeyId>,
    /// Now.
    pub now: Timestamp,
}

/// By what stores are sorted; those that are alike, by age.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StoreOrder {
    /// By age.
    #[default]
    Created,
    /// By name, without case.
    Name,
    /// By the bytes that they hold.
    Bytes,
}

/// Which of a tenant's stores to list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoreFilter {
    /// With this in the name, without case.
    pub search: Option<String>,
    /// In use, or not.
    pub active: Option<bool>,
    /// With this text as the property of this name, or in the list that it is.
    pub property: Option<(String, String)>,
    /// By what they are sorted.
    pub order: StoreOrder,
    /// The smallest, or the oldest, first?
    pub ascending: bool,
    /// With a row below this one.
    pub before: Option<i64>,
    /// Leave out so many.
    pub offset: u64,
    /// At most so many.
    pub limit: u32,
}

/// Which of a store's files to list, newest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoreFileFilter {
    /// In this state.
    pub state: Option<ProcessingState>,
    /// With this in the name, without case.
    pub search: Option<String>,
    /// With a row below this one.
    pub before: Option<i64>,
    /// Leave out so many.
    pub offset: u64,
    /// At most so many.
    pub limit: u32,
}

/// A file to take into a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkFile {
    /// The store's row.
    pub store: i64,
    /// Whose both are.
    pub tenant: TenantId,
    /// Which file.
    pub file: FileId,
    /// Its place's own name, new.
    pub id: StoreFileId,
    /// Its path within the store.
    pub path: Option<String>,
    /// Must it be one of the tenant's files already? Otherwise it becomes one.
    pub registered_only: bool,
    /// Now.
    pub now: Timestamp,
    /// How long bytes that the store lets go of are kept for those who still read them.
    pub keep_replaced: Duration,
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Linked {
    /// The store holds the file's current version now, and its processing is due.
    New(StoreFile),
    /// It held it before, and nothing changed.
    Before(StoreFile),
    /// There is no such file.
    FileGone,
    /// There is no such store.
    StoreGone,
}

/// A step of a store file's processing that begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Began {
    /// Which step.
    pub step: Step,
    /// What is to be said about it.
    pub log: Vec<LogEntry>,
    /// Now.
    pub now: Timestamp,
}

/// How a store file's processing ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Processed {
    /// `Completed`, or `Failed`, or `Pending` for another try.
    pub state: ProcessingState,
    /// How many chunks there are, if that changed.
    pub chunks: Option<u64>,
    /// Why it failed, or what is not found.
    pub problem: Option<String>,
    /// When it is tried again.
    pub due: Option<Timestamp>,
    /// What is to be said about it.
    pub log: Vec<LogEntry>,
    /// Now.
    pub now: Timestamp,
}
