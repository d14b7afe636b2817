//! Full text in a second SQLite file, by FTS5, so that indexing never waits for the writer of the facts.

use std::ops::Range;
use std::path::Path;

use super::{Document, Found, SearchError, SearchIndex, terms};
use crate::limits;
use crate::model::store::Chunk;
use crate::sql::{NONE, params};
use crate::sqlite::Database;
use async_trait::async_trait;

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
        Ok(Self { database: Database::open(&directory.join(FILE_NAME), MIGRATIONS)? })
    }
}

#[async_trait]
impl SearchIndex for SqliteSearch {
    async fn is_complete(&self) -> Result<bool, SearchError> {
        Ok(self.database.read(|c| Ok(c.first("SELECT 1 FROM marks", NONE, |_| Ok(()))?.is_some())).await?)
    }

    async fn set_complete(&self) -> Result<(), SearchError> {
        let mark = "INSERT INTO marks (name) VALUES ('complete') ON CONFLICT DO NOTHING";
        Ok(self.database.write(move |c| c.execute(mark, NONE).map(drop)).await?)
    }

    async fn put(&self, document: Document) -> Result<(), SearchError> {
        self.database
            .write(move |c| {
                c.execute(
                    "INSERT OR REPLACE INTO texts (rowid, scope, title, body, metadata, kind, truncated)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    params![
                        document.item,
                        scope_word(document.scope),
                        document.title,
                        document.text,
                        document.metadata,
                        document.kind,
                        document.truncated
                    ],
                )
                .map(drop)
            })
            .await?;
        Ok(())
    }

    async fn remove(&self, item: i64) -> Result<(), SearchError> {
        let delete = "DELETE FROM texts WHERE rowid = ?1";
        Ok(self.database.write(move |c| c.execute(delete, [item]).map(drop)).await?)
    }

    async fn document(&self, item: i64) -> Result<Option<Document>, SearchError> {
        let found = self.database.read(move |c| {
            let text = "SELECT scope, title, body, metadata, kind, truncated FROM texts WHERE rowid = ?1";
            c.first(text, [item], |row| {
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
        });
        Ok(found.await?)
    }

    async fn find(&self, scope: i64, query: &str, before: Option<i64>, limit: u32) -> Result<Vec<i64>, SearchError> {
        let Some(terms) = match_expression(query) else { return Ok(Vec::new()) };
        let expression = format!("scope : {} AND {{title body metadata}} : ({terms})", scope_word(scope));
        let found = self.database.read(move |c| {
            c.all(
                "SELECT rowid FROM texts WHERE texts MATCH ?1 AND rowid < ?2 ORDER BY rowid DESC LIMIT ?3",
                params![expression, before.unwrap_or(i64::MAX), limit],
                |row| row.get(0),
            )
        });
        Ok(found.await?)
    }

    async fn put_chunks(&self, file: i64, scope: i64, chunks: Vec<Chunk>) -> Result<(), SearchError> {
        let rows = rows_of(file);
        self.database
            .write(move |c| {
                c.execute(DELETE_CHUNKS, [rows.start, rows.end])?;
                for (row, chunk) in rows.zip(&chunks) {
                    let at = |offset: u64| i64::try_from(offset).unwrap_or(i64::MAX);
                    c.execute(
                        "INSERT INTO chunks (rowid, scope, body, first, last) VALUES (?1, ?2, ?3, ?4, ?5)",
                        params![row, scope_word(scope), chunk.text, at(chunk.start), at(chunk.end)],
                    )?;
                }
                Ok(())
            })
            .await?;
        Ok(())
    }

    async fn remove_chunks(&self, file: i64) -> Result<(), SearchError> {
        let rows = rows_of(file);
        let removed = self.database.write(move |c| c.execute(DELETE_CHUNKS, [rows.start, rows.end]).map(drop));
        Ok(removed.await?)
    }

    async fn find_chunks(&self, scope: i64, query: &str, limit: u32) -> Result<Vec<Found>, SearchError> {
        let Some(terms) = match_expression(query) else { return Ok(Vec::new()) };
        let expression = format!("scope : {} AND body : ({terms})", scope_word(scope));
        let found = self.database.read(move |c| {
            // The store's own word is in every row of it and says nothing about how well one fits.
            c.all(
                "SELECT rowid, body, first, last, bm25(chunks, 0.0, 1.0) AS score FROM chunks WHERE chunks MATCH ?1
                 ORDER BY score, rowid LIMIT ?2",
                params![expression, limit],
                |row| {
                    let number: i64 = row.get(0)?;
                    let at = |index| row.get::<i64>(index).map(|n| u64::try_from(n).unwrap_or(0));
                    Ok(Found {
                        file: number >> CHUNK_BITS,
                        position: u64::try_from(number & ((1 << CHUNK_BITS) - 1)).unwrap_or(0),
                        chunk: Chunk { text: row.get(1)?, start: at(2)?, end: at(3)? },
                        score: -row.get::<f64>(4)?,
                    })
                },
            )
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

/// A query in FTS5's language in which every word and every quoted phrase must occur: operators of that language lose
/// their meaning by being quoted.
fn match_expression(query: &str) -> Option<String> {
    // FTS5 reads a C string: a NUL would end it within a term.
    let terms = terms(&query.replace('\0', " "));
    let quoted: Vec<String> = terms.iter().map(|term| format!("\"{term}\"")).collect();
    (!quoted.is_empty()).then(|| quoted.join(" AND "))
}
