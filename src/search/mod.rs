//! Full text, derived from items by jobs: it can be lost and made again, and it never holds up the facts.

mod sqlite;

use std::fmt;

use async_trait::async_trait;

pub use sqlite::SqliteSearch;

/// Why the index could not do it.
#[derive(Debug, thiserror::Error)]
#[error("the full-text index failed: {0}")]
pub struct SearchError(pub String);

/// One item's text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Document {
    /// The item's row.
    pub item: i64,
    /// Which items are searched together: the source's row.
    pub scope: i64,
    /// Its title.
    pub title: String,
    /// Its text.
    pub text: String,
    /// The text of its metadata.
    pub metadata: String,
    /// What kind of file the text came from, such as `pdf`.
    pub kind: String,
    /// Was the text cut at a limit?
    pub truncated: bool,
}

/// A full-text index.
#[async_trait]
pub trait SearchIndex: Send + Sync + fmt::Debug {
    /// Adds or replaces an item's text. Survives a crash once it returns.
    async fn put(&self, document: Document) -> Result<(), SearchError>;
    /// Removes an item's text, if there is any.
    async fn remove(&self, item: i64) -> Result<(), SearchError>;
    /// An item's text, if it was indexed.
    async fn document(&self, item: i64) -> Result<Option<Document>, SearchError>;
    /// Rows of items in `scope` whose text matches every word (and every "quoted phrase") of `query`, highest row
    /// first, below `before`.
    async fn find(&self, scope: i64, query: &str, before: Option<i64>, limit: u32) -> Result<Vec<i64>, SearchError>;
}

/// An index that holds nothing, for those who only look at the facts.
#[derive(Clone, Copy, Debug)]
pub struct NoSearch;

#[async_trait]
impl SearchIndex for NoSearch {
    async fn put(&self, _: Document) -> Result<(), SearchError> {
        Err(SearchError(String::from("there is no index here")))
    }

    async fn remove(&self, _: i64) -> Result<(), SearchError> {
        Ok(())
    }

    async fn document(&self, _: i64) -> Result<Option<Document>, SearchError> {
        Ok(None)
    }

    async fn find(&self, _: i64, _: &str, _: Option<i64>, _: u32) -> Result<Vec<i64>, SearchError> {
        Ok(Vec::new())
    }
}
