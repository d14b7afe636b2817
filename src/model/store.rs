//! Stores: files whose text is split into chunks and searched together.

use serde_json::{Map, Value};

use super::ids::{FileId, KeyId, StoreFileId, StoreId, TenantId, VersionId};
use crate::clock::Timestamp;

/// A store of a tenant.
#[derive(Clone, PartialEq, Debug)]
pub struct Store {
    /// Its row, which no other store ever gets.
    pub row: i64,
    /// What clients name it by.
    pub id: StoreId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What people call it: 1 to 255 characters.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Is it in use? Kept for its owner; a store that is not takes files all the same.
    pub active: bool,
    /// Whatever else was said about it.
    pub properties: Map<String, Value>,
    /// The key that made it; `None` for the server itself.
    pub created_by: Option<KeyId>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last changed; its files do not count.
    pub changed: Timestamp,
    /// How many files it holds.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How far the processing of a store's file has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProcessingState {
    /// It waits for its turn.
    Pending,
    /// It is being read.
    Processing,
    /// Its chunks are found.
    Completed,
    /// It can't be read; the reason is kept.
    Failed,
}

impl ProcessingState {
    const ALL: [Self; 4] = [Self::Pending, Self::Processing, Self::Completed, Self::Failed];

    /// The name, stored and on every wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// Reads the name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }
}

/// What the processor does with a file at the moment, or did last.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// Nothing yet.
    Queued,
    /// Looks at its first bytes.
    Detecting,
    /// Reads its text in a child process.
    Extracting,
    /// Splits the text.
    Chunking,
    /// Writes the chunks into the index.
    Indexing,
    /// Everything is done.
    Completed,
}

impl Step {
    const ALL: [Self; 6] =
        [Self::Queued, Self::Detecting, Self::Extracting, Self::Chunking, Self::Indexing, Self::Completed];

    /// The name, stored and on every wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Detecting => "detecting",
            Self::Extracting => "extracting",
            Self::Chunking => "chunking",
            Self::Indexing => "indexing",
            Self::Completed => "completed",
        }
    }

    /// Reads the name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// How much of the work is behind it when it begins, in percent. Reading takes most of the time.
    #[must_use]
    pub const fn percent(self) -> u8 {
        match self {
            Self::Queued => 0,
            Self::Detecting => 5,
            Self::Extracting => 10,
            Self::Chunking => 70,
            Self::Indexing => 80,
            Self::Completed => 100,
        }
    }
}

/// A file in a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreFile {
    /// Its row, which no other one ever gets.
    pub row: i64,
    /// Its own name.
    pub id: StoreFileId,
    /// The store.
    pub store: StoreId,
    /// The store's row.
    pub store_row: i64,
    /// Whose both are.
    pub tenant: TenantId,
    /// The file.
    pub file: FileId,
    /// The version that the store holds.
    pub version: VersionId,
    /// What the file was called when it came.
    pub name: String,
    /// Bytes of that version.
    pub size: u64,
    /// Its media type.
    pub mime_type: String,
    /// Its path within the store, `/`-separated.
    pub path: Option<String>,
    /// How far its processing has come.
    pub state: ProcessingState,
    /// The step that it is in; of a file that failed, the one that failed.
    pub step: Step,
    /// How many chunks its text became.
    pub chunks: u64,
    /// Why it failed, or what of it is not found.
    pub problem: Option<String>,
    /// Since when it is in the store.
    pub created: Timestamp,
    /// When its processing last began.
    pub started: Option<Timestamp>,
    /// When that came to its end.
    pub ended: Option<Timestamp>,
}

impl StoreFile {
    /// When its processing was completed, if it was.
    #[must_use]
    pub fn completed(&self) -> Option<Timestamp> {
        self.ended.filter(|_| self.state == ProcessingState::Completed)
    }
}

/// How serious a log entry is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LogLevel {
    /// For those who look for a fault of ours.
    Debug,
    /// What happened.
    Info,
    /// Something is missing, or is tried again.
    Warning,
    /// It failed.
    Error,
}

impl LogLevel {
    /// The name, stored and on every wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    /// Reads the name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Debug, Self::Info, Self::Warning, Self::Error].into_iter().find(|l| l.name() == name)
    }
}

/// What the processor says about one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// When.
    pub at: Timestamp,
    /// How serious.
    pub level: LogLevel,
    /// One sentence.
    pub message: String,
}

/// A piece of a file's text, small enough to be an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Where it begins in the text, in characters.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
    /// The text itself.
    pub text: String,
}

/// May this be a file's path within a store? `/`-separated names, no more than 1,024 characters. The answer completes the
/// sentence that begins with the field's name.
///
/// # Errors
/// What is wrong with it.
pub fn check_path(path: &str) -> Result<(), String> {
    if path.chars().count() > PATH_CHARS {
        return Err(format!("must have at most {PATH_CHARS} characters"));
    }
    if path.chars().any(|c| c.is_control() || c == '\\') {
        return Err("must not have control characters or backslashes".into());
    }
    if path.starts_with('/') || path.split('/').any(|name| name == "." || name == "..") {
        return Err("must not begin with `/` and must have no name `.` or `..`".into());
    }
    Ok(())
}

const PATH_CHARS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back() {
        assert!(ProcessingState::ALL.into_iter().all(|s| ProcessingState::from_name(s.name()) == Some(s)));
        assert!(Step::ALL.into_iter().all(|s| Step::from_name(s.name()) == Some(s)));
        assert!(Step::ALL.is_sorted_by_key(|s| s.percent()), "progress never goes back");
        for level in [LogLevel::Debug, LogLevel::Info, LogLevel::Warning, LogLevel::Error] {
            assert_eq!(LogLevel::from_name(level.name()), Some(level));
        }
    }

    #[test]
    fn a_path_stays_in_its_store() {
        for good in ["a", "data/imports", "data/imports/", "a b/ü.txt", "..a/b..", &"x".repeat(1024)] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        for bad in ["/", "/x", ".", "..", "../x", "x/..", "a/../b", "a/./b", "a\\b", "a\0b", &"x".repeat(1025)] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }
}
