//! Full text, derived from items and stores' files by jobs: it can be lost and made again, and it never holds up the facts.

mod postgres;
mod sqlite;

#[cfg(test)]
mod contract;

use std::fmt;

use async_trait::async_trait;

pub use postgres::PostgresSearch;
pub use sqlite::SqliteSearch;

use crate::model::store::Chunk;
use crate::sql::DatabaseError;

/// Why the index could not do it.
#[derive(Debug, thiserror::Error)]
#[error("the full-text index failed: {0}")]
pub struct SearchError(pub String);

impl From<DatabaseError> for SearchError {
    fn from(error: DatabaseError) -> Self {
        Self(error.to_string())
    }
}

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

/// A chunk that was found.
#[derive(Clone, PartialEq, Debug)]
pub struct Found {
    /// The row of its store's file.
    pub file: i64,
    /// Its place among the file's chunks, from 0.
    pub position: u64,
    /// The chunk.
    pub chunk: Chunk,
    /// How well it fits: the higher the better (BM25).
    pub score: f64,
}

/// A full-text index.
#[async_trait]
pub trait SearchIndex: Send + Sync + fmt::Debug {
    /// Does the index hold everything, or must every item be indexed again? Asked of the index, not of its presence: whoever
    /// made it may not have come to its end.
    async fn is_complete(&self) -> Result<bool, SearchError>;
    /// Remembers that everything is indexed, or due to be.
    async fn set_complete(&self) -> Result<(), SearchError>;
    /// Adds or replaces an item's text. Survives a crash once it returns.
    async fn put(&self, document: Document) -> Result<(), SearchError>;
    /// Removes an item's text, if there is any.
    async fn remove(&self, item: i64) -> Result<(), SearchError>;
    /// An item's text, if it was indexed.
    async fn document(&self, item: i64) -> Result<Option<Document>, SearchError>;
    /// Rows of items in `scope` whose text matches every word (and every "quoted phrase") of `query`, highest row
    /// first, below `before`.
    async fn find(&self, scope: i64, query: &str, before: Option<i64>, limit: u32) -> Result<Vec<i64>, SearchError>;
    /// Adds or replaces all chunks of a store's file, of which `scope` is the store's row: at most
    /// [`crate::limits::FILE_CHUNKS`]. Survives a crash once it returns.
    async fn put_chunks(&self, file: i64, scope: i64, chunks: Vec<Chunk>) -> Result<(), SearchError>;
    /// Removes all chunks of a store's file, if there are any.
    async fn remove_chunks(&self, file: i64) -> Result<(), SearchError>;
    /// Chunks in `scope` that match every word (and every "quoted phrase") of `query`, the best first.
    async fn find_chunks(&self, scope: i64, query: &str, limit: u32) -> Result<Vec<Found>, SearchError>;
}

/// An index that holds nothing, for those who only look at the facts.
#[derive(Clone, Copy, Debug)]
pub struct NoSearch;

#[async_trait]
impl SearchIndex for NoSearch {
    async fn is_complete(&self) -> Result<bool, SearchError> {
        Ok(true)
    }

    async fn set_complete(&self) -> Result<(), SearchError> {
        Ok(())
    }

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

    async fn put_chunks(&self, _: i64, _: i64, _: Vec<Chunk>) -> Result<(), SearchError> {
        Err(SearchError(String::from("there is no index here")))
    }

    async fn remove_chunks(&self, _: i64) -> Result<(), SearchError> {
        Ok(())
    }

    async fn find_chunks(&self, _: i64, _: &str, _: u32) -> Result<Vec<Found>, SearchError> {
        Ok(Vec::new())
    }
}

/// The words and "quoted phrases" of a query. What its user writes is data, whatever it means to an index.
fn terms(query: &str) -> Vec<String> {
    let mut terms = Vec::new();
    for (index, part) in query.split('"').enumerate() {
        let quoted = index % 2 == 1;
        if quoted {
            terms.push(part.to_owned());
        } else {
            terms.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    // A term without a letter or digit has no word and would match nothing.
    terms.retain(|term| term.chars().any(char::is_alphanumeric));
    terms
}
