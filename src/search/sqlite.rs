//! Full text in a second SQLite file, by FTS5, so that indexing never waits for the writer of the facts.

use std::ops::Range;
use std::path::Path;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

use super::{Document, Found, SearchError, SearchIndex};
use crate::limits;
use crate::model::store::Chunk;
use crate::sqlite::{Database, SqliteError};

const FILE_NAME: &str = "search.db";
const MIGRATIONS: &[&str] = &[include_str!("../../migrations/sqlite/search_0001_begin.sql")];

/// The index in a data directory.
#[derive(Clone, Debug)]
pub struct SqliteSearch {
    database: Database,
}

impl SqliteSearch {
    /// Opens the index, making it when it is absent.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open(directory: &Path) -> Result<Self, SearchError> {
        let path = directory.join(FILE_NAME);
        let database = Database::open(&path, MIGRATIONS)?;
        // Asked of the file, not of its presence: whoever made it may not have come to its end.
        Ok(Self { database })
    }

    /// Does the index hold everything, or must every item be indexed again?
    ///
    /// # Errors
    /// What SQLite says.
    pub async fn is_complete(&self) -> Result<bool, SearchError> {
        let marks = self.database.read(|c| c.query_row("SELECT count(*) FROM marks", [], |row| row.get::<_, i64>(0)));
        Ok(marks.await? > 0)
    }

    /// Remembers that everything is indexed, or due to be.
    ///
    /// # Errors
    /// What SQLite says.
    pub async fn set_complete(&self) -> Result<(), SearchError> {
        let mark = "INSERT INTO marks (name) VALUES ('complete') ON CONFLICT DO NOTHING";
        Ok(self.database.write(move |c| c.execute(mark, []).map(drop)).await?)
    }
}

impl From<SqliteError> for SearchError {
    fn from(error: SqliteError) -> Self {
        Self(error.to_string())
    }
}

#[async_trait]
impl SearchIndex for SqliteSearch {
    async fn put(&self, document: Document) -> Result<(), SearchError> {
        self.database
            .write(move |c| {
                c.prepare_cached(
                    "INSERT OR REPLACE INTO texts (rowid, scope, title, body, metadata, kind, truncated)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    document.item,
                    scope_word(document.scope),
                    document.title,
                    document.text,
                    document.metadata,
                    document.kind,
                    document.truncated
                ])
                .map(drop)
            })
            .await?;
        Ok(())
    }

    async fn remove(&self, item: i64) -> Result<(), SearchError> {
        let delete = "DELETE FROM texts WHERE rowid = ?1";
        Ok(self.database.write(move |c| c.prepare_cached(delete)?.execute([item]).map(drop)).await?)
    }

    async fn document(&self, item: i64) -> Result<Option<Document>, SearchError> {
        let found = self.database.read(move |c| {
            c.prepare_cached("SELECT scope, title, body, metadata, kind, truncated FROM texts WHERE rowid = ?1")?
                .query_row([item], |row| {
                    let scope: String = row.get(0)?;
                    Ok(Document {
                        item,
                        scope: scope.trim_start_matches("scope").parse().unwrap_or(0),
                        title: row.get(1)?,
                        text: row.get(2)?,
                        metadata: row.get(3)?,
                        kind: row.get(4)?,
                        truncated: row.get(5)?,
                    })
                })
                .optional()
        });
        Ok(found.await?)
    }

    async fn find(&self, scope: i64, query: &str, before: Option<i64>, limit: u32) -> Result<Vec<i64>, SearchError> {
        let Some(terms) = match_expression(query) else { return Ok(Vec::new()) };
        let expression = format!("scope : {} AND {{title body metadata}} : ({terms})", scope_word(scope));
        let found = self.database.read(move |c| {
            c.prepare_cached(
                "SELECT rowid FROM texts WHERE texts MATCH ?1 AND rowid < ?2 ORDER BY rowid DESC LIMIT ?3",
            )?
            .query_map(params![expression, before.unwrap_or(i64::MAX), limit], |row| row.get(0))?
            .collect()
        });
        Ok(found.await?)
    }

    async fn put_chunks(&self, file: i64, scope: i64, chunks: Vec<Chunk>) -> Result<(), SearchError> {
        let rows = rows_of(file);
        self.database
            .write(move |c| {
                c.prepare_cached(DELETE_CHUNKS)?.execute([rows.start, rows.end])?;
                let mut insert = c.prepare_cached(
                    "INSERT INTO chunks (rowid, scope, body, first, last) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?;
                for (row, chunk) in rows.zip(&chunks) {
                    let at = |offset: u64| i64::try_from(offset).unwrap_or(i64::MAX);
                    insert.execute(params![row, scope_word(scope), chunk.text, at(chunk.start), at(chunk.end)])?;
                }
                Ok(())
            })
            .await?;
        Ok(())
    }

    async fn remove_chunks(&self, file: i64) -> Result<(), SearchError> {
        let rows = rows_of(file);
        let removed =
            self.database.write(move |c| c.prepare_cached(DELETE_CHUNKS)?.execute([rows.start, rows.end]).map(drop));
        Ok(removed.await?)
    }

    async fn find_chunks(&self, scope: i64, query: &str, limit: u32) -> Result<Vec<Found>, SearchError> {
        let Some(terms) = match_expression(query) else { return Ok(Vec::new()) };
        let expression = format!("scope : {} AND body : ({terms})", scope_word(scope));
        let found = self.database.read(move |c| {
            // The store's own word is in every row of it and says nothing about how well one fits.
            c.prepare_cached(
                "SELECT rowid, body, first, last, bm25(chunks, 0.0, 1.0) AS score FROM chunks WHERE chunks MATCH ?1
                 ORDER BY score, rowid LIMIT ?2",
            )?
            .query_map(params![expression, limit], |row| {
                let number: i64 = row.get(0)?;
                let at = |index| row.get::<_, i64>(index).map(|n| u64::try_from(n).unwrap_or(0));
                Ok(Found {
                    file: number >> CHUNK_BITS,
                    position: u64::try_from(number & ((1 << CHUNK_BITS) - 1)).unwrap_or(0),
                    chunk: Chunk { text: row.get(1)?, start: at(2)?, end: at(3)? },
                    score: -row.get::<_, f64>(4)?,
                })
            })?
            .collect()
        });
        Ok(found.await?)
    }
}

/// Bits of a chunk's row number that are its place in its file.
const CHUNK_BITS: u32 = 14;
const _: () = assert!(limits::FILE_CHUNKS <= 1 << CHUNK_BITS, "every chunk has a number of its own");

const DELETE_CHUNKS: &str = "DELETE FROM chunks WHERE rowid >= ?1 AND rowid < ?2";

/// The numbers of a file's chunks.
fn rows_of(file: i64) -> Range<i64> {
    file << CHUNK_BITS..(file + 1) << CHUNK_BITS
}

fn scope_word(scope: i64) -> String {
    format!("scope{scope}")
}

/// A query in FTS5's language in which every word and every quoted phrase must occur. What the user writes is data:
/// operators of that language lose their meaning by being quoted.
fn match_expression(query: &str) -> Option<String> {
    let mut terms = Vec::new();
    // FTS5 reads a C string: a NUL would end it within a term.
    let query = query.replace('\0', " ");
    for (index, part) in query.split('"').enumerate() {
        let quoted = index % 2 == 1;
        if quoted {
            terms.push(part.to_owned());
        } else {
            terms.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    // A term without a letter or digit has no token and would match nothing.
    terms.retain(|term| term.chars().any(char::is_alphanumeric));
    let quoted: Vec<String> = terms.iter().map(|term| format!("\"{term}\"")).collect();
    (!quoted.is_empty()).then(|| quoted.join(" AND "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(item: i64, scope: i64, text: &str) -> Document {
        Document { item, scope, text: text.into(), ..Document::default() }
    }

    #[tokio::test]
    async fn words_and_phrases_are_found_in_their_scope_only() {
        let directory = tempfile::tempdir().unwrap();
        let index = SqliteSearch::open(directory.path()).unwrap();
        assert!(!index.is_complete().await.unwrap());
        index.set_complete().await.unwrap();
        index.put(document(1, 7, "the quick brown fox")).await.unwrap();
        index.put(document(2, 7, "a brown quick Füchslein")).await.unwrap();
        index.put(document(3, 8, "the quick brown fox")).await.unwrap();
        assert_eq!(index.find(7, "quick brown", None, 10).await.unwrap(), [2, 1]);
        assert_eq!(index.find(7, "\"quick brown\"", None, 10).await.unwrap(), [1]);
        assert_eq!(index.find(7, "fuchslein", None, 10).await.unwrap(), [2]);
        assert_eq!(index.find(7, "quick", Some(2), 10).await.unwrap(), [1]);
        for hostile in ["\"", "*", "a OR b NEAR(", "scope : scope8", "-fox", "quick)", "title:x", "a\0b", "\"a\0b"] {
            index.find(7, hostile, None, 10).await.unwrap();
        }
        assert!(index.find(7, "scope8", None, 10).await.unwrap().is_empty());
        index.put(document(1, 7, "replaced")).await.unwrap();
        assert_eq!(index.find(7, "quick", None, 10).await.unwrap(), [2]);
        index.remove(2).await.unwrap();
        assert!(index.find(7, "quick", None, 10).await.unwrap().is_empty());
        assert_eq!(index.document(1).await.unwrap().unwrap().text, "replaced");
        drop(index);
        assert!(SqliteSearch::open(directory.path()).unwrap().is_complete().await.unwrap());
    }

    #[tokio::test]
    async fn chunks_are_found_in_their_store_the_best_first_and_replaced_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let index = SqliteSearch::open(directory.path()).unwrap();
        let chunk = |text: &str, start| Chunk { start, end: start + 9, text: text.into() };
        let long = format!("one tide, {}", "and other words ".repeat(40));
        index.put_chunks(1, 7, vec![chunk(&long, 0), chunk("tide and tide, quick brown tide", 9)]).await.unwrap();
        index.put_chunks(2, 7, vec![chunk("nothing of it", 0)]).await.unwrap();
        index.put_chunks(3, 8, vec![chunk("tide", 0)]).await.unwrap();
        let found = index.find_chunks(7, "TIDE", 10).await.unwrap();
        let places: Vec<_> = found.iter().map(|f| (f.file, f.position, f.chunk.start, f.chunk.end)).collect();
        assert_eq!(places, [(1, 1, 9, 18), (1, 0, 0, 9)]);
        assert!(found[0].score > found[1].score && found[1].score > 0.0, "{found:?}");
        assert_eq!(index.find_chunks(7, "tide", 1).await.unwrap().len(), 1);
        assert_eq!(index.find_chunks(7, "\"quick brown\"", 10).await.unwrap().len(), 1);
        for query in ["scope7", "\"brown quick\"", "", "*"] {
            assert!(index.find_chunks(7, query, 10).await.unwrap().is_empty(), "{query}");
        }
        index.put_chunks(1, 7, vec![chunk("replaced", 0)]).await.unwrap();
        assert!(index.find_chunks(7, "tide", 10).await.unwrap().is_empty());
        assert_eq!(index.find_chunks(7, "nothing", 10).await.unwrap().len(), 1, "the neighbour is as it was");
        index.remove_chunks(2).await.unwrap();
        assert!(index.find_chunks(7, "nothing", 10).await.unwrap().is_empty());
        assert_eq!(index.find_chunks(8, "tide", 10).await.unwrap().len(), 1);
    }
}
