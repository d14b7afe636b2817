//! Files and who has them.

use crate::clock::Timestamp;
use crate::model::change::Ordering;
use crate::model::file::{Digests, FileRecord, Version};
use crate::model::ids::{FileId, RequestId, StoreId, TenantId, VersionId};

/// A file to register.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegisterFile {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which one.
    pub file: FileId,
    /// What to call it from now on.
    pub name: String,
    /// Now.
    pub now: Timestamp,
}

/// What became of a registration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Registered {
    /// It is one of the tenant's files now.
    New(FileRecord),
    /// It was before, and nothing changed.
    Before(FileRecord),
    /// There is no such committed file.
    Gone,
}

/// Which of a tenant's registered files to list, newest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FileFilter {
    /// In this folder, or below it.
    pub path: Option<String>,
    /// Of this name.
    pub name: Option<String>,
    /// Of this media type.
    pub mime_type: Option<String>,
    /// Of at least so many bytes.
    pub min_size: Option<u64>,
    /// Committed after this.
    pub committed_after: Option<Timestamp>,
    /// Registered before this file, which is named by its time and id.
    pub before: Option<(Timestamp, FileId)>,
    /// Leave out so many.
    pub offset: u64,
    /// At most so many.
    pub limit: u32,
}

/// A store's hold on a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The store.
    pub store: StoreId,
    /// The version that it holds.
    pub version: VersionId,
    /// Since when.
    pub since: Timestamp,
}

/// What became of a file's deletion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileDeleted {
    /// It is gone, and has left every store.
    Done,
    /// There was none.
    Missing,
    /// So many registrations hold it.
    Held(u64),
}

/// A container as the verbs see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileInfo {
    /// Its id.
    pub id: FileId,
    /// The current version, unless its bytes are gone.
    pub version: Option<Version>,
    /// Bytes of the last version.
    pub size: u64,
    /// Digests of the last version.
    pub digests: Digests,
    /// Was it used, by which push and as what?
    pub used: Option<(RequestId, Ordering, Vec<u8>)>,
    /// When it goes, unless something holds it.
    pub expires: Option<Timestamp>,
}
