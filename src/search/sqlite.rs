//! Full text in a second SQLite file, by FTS5, so that indexing never waits for the writer of the facts.

use std::path::Path;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

use super::{Document, SearchError, SearchIndex};
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
}
