//! Full text in PostgreSQL, beside the facts or in a database of its own. Words are made here and not by the server, so that
//! its locale changes nothing and both engines find the same.

use std::collections::BTreeMap;

use async_trait::async_trait;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use super::{Document, Found, SearchError, SearchIndex, terms};
use crate::model::store::Chunk;
use crate::postgres::{Database, Plan};
use crate::sql::{self, Connection, NONE, Target, params};

const MIGRATIONS: &[&str] = &[include_str!("../../migrations/postgres/search_0001_begin.sql")];

/// What is derived is replaced as a whole, by one job at a time: nothing in it depends on anything else.
const PLAN: Plan = Plan { part: "search", migrations: MIGRATIONS, lanes: 2, readers: 4, serializable: false };

/// Words of one piece, and those that the next one has as well: no longer phrase is looked for.
const PIECE: usize = 512;
const OVERLAP: usize = 64;
/// Bytes of a word that count.
const WORD: usize = 255;

/// The index in a PostgreSQL database.
#[derive(Clone, Debug)]
pub struct PostgresSearch {
    database: Database,
}

impl PostgresSearch {
    /// Opens the index, making it when it is absent. Blocks.
    ///
    /// # Errors
    /// What the server says.
    pub fn connect(target: &Target) -> Result<Self, SearchError> {
        Ok(Self { database: Database::open(target, PLAN)? })
    }

    async fn write<T: Send + 'static>(
        &self,
        near: i64,
        work: impl Fn(&Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T, SearchError> {
        Ok(self.database.write(near.unsigned_abs(), work).await?)
    }
}

#[async_trait]
impl SearchIndex for PostgresSearch {
    async fn is_complete(&self) -> Result<bool, SearchError> {
        Ok(self.database.look(|c| Ok(c.first("SELECT 1 FROM marks", NONE, |_| Ok(()))?.is_some())).await?)
    }

    async fn set_complete(&self) -> Result<(), SearchError> {
        let mark = "INSERT INTO marks (name) VALUES ('complete') ON CONFLICT DO NOTHING";
        self.write(0, move |c| c.post(mark, NONE)).await
    }

    async fn put(&self, document: Document) -> Result<(), SearchError> {
        let scope = scope_word(document.scope);
        let pieces: Vec<String> = [&document.title, &document.metadata, &document.text]
            .into_iter()
            .flat_map(|text| {
                let words = words(text);
                let begins = (0..words.len()).step_by(PIECE - OVERLAP);
                let pieces = begins.map(|begin| vector(&scope, &words[begin..words.len().min(begin + PIECE)]));
                pieces.collect::<Vec<_>>()
            })
            .collect();
        self.write(document.item, move |c| {
            let Document { item, title, text, metadata, kind, .. } = &document;
            c.post("DELETE FROM texts WHERE item = ?1", [item])?;
            c.post(
                "INSERT INTO texts (item, scope, title, body, metadata, kind, truncated) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (item) DO NOTHING",
                params![item, document.scope, title, text, metadata, kind, document.truncated],
            )?;
            for piece in &pieces {
                c.post(
                    "INSERT INTO text_words (item, words) VALUES (?1, CAST(?2 AS tsvector))",
                    params![item, piece],
                )?;
            }
            Ok(())
        })
        .await
    }

    async fn remove(&self, item: i64) -> Result<(), SearchError> {
        self.write(item, move |c| c.post("DELETE FROM texts WHERE item = ?1", [item])).await
    }

    async fn document(&self, item: i64) -> Result<Option<Document>, SearchError> {
        let text = "SELECT scope, title, body, metadata, kind, truncated FROM texts WHERE item = ?1";
        let found = self.database.look(move |c| {
            c.first(text, [item], |row| {
                Ok(Document {
                    item,
                    scope: row.get(0)?,
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
        let phrases = phrases(query);
        if phrases.is_empty() {
            return Ok(Vec::new());
        }
        let scope = scope_word(scope);
        // Each may be in another piece of the text.
        let mut values = vec![sql::Owned::Integer(before.unwrap_or(i64::MAX))];
        let mut each = Vec::new();
        for phrase in phrases {
            values.push(sql::Owned::Text(format!("{scope} & {phrase}")));
            let place = values.len();
            each.push(format!("SELECT item FROM text_words WHERE words @@ CAST(?{place} AS tsquery) AND item < ?1"));
        }
        values.push(sql::Owned::Integer(i64::from(limit)));
        let query = format!("{} ORDER BY item DESC LIMIT ?{}", each.join(" INTERSECT "), values.len());
        // One phrase alone is found once for each piece.
        let query = query.replacen("SELECT item", "SELECT DISTINCT item", 1);
        Ok(self.database.look(move |c| c.all(&query, values.clone(), |row| row.get(0))).await?)
    }

    async fn put_chunks(&self, file: i64, scope: i64, chunks: Vec<Chunk>) -> Result<(), SearchError> {
        let scope = scope_word(scope);
        let vectors: Vec<String> = chunks.iter().map(|chunk| vector(&scope, &words(&chunk.text))).collect();
        self.write(file, move |c| {
            c.post("DELETE FROM chunks WHERE file = ?1", [file])?;
            for ((position, chunk), vector) in (0i64..).zip(&chunks).zip(&vectors) {
                let at = |offset: u64| i64::try_from(offset).unwrap_or(i64::MAX);
                c.post(
                    "INSERT INTO chunks (file, position, body, first, last, words)
                     VALUES (?1, ?2, ?3, ?4, ?5, CAST(?6 AS tsvector)) ON CONFLICT DO NOTHING",
                    params![file, position, chunk.text, at(chunk.start), at(chunk.end), vector],
                )?;
            }
            Ok(())
        })
        .await
    }

    async fn remove_chunks(&self, file: i64) -> Result<(), SearchError> {
        self.write(file, move |c| c.post("DELETE FROM chunks WHERE file = ?1", [file])).await
    }

    async fn find_chunks(&self, scope: i64, query: &str, limit: u32) -> Result<Vec<Found>, SearchError> {
        let phrases = phrases(query);
        if phrases.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = phrases.join(" & ");
        let within = format!("{} & {wanted}", scope_word(scope));
        let found = self.database.look(move |c| {
            // Divided by the chunk's length: the same words fit a short one better.
            c.all(
                "SELECT file, position, body, first, last, ts_rank(words, CAST(?2 AS tsquery), 1) AS score FROM chunks
                 WHERE words @@ CAST(?1 AS tsquery) ORDER BY score DESC, file, position LIMIT ?3",
                params![within, wanted, limit],
                |row| {
                    let at = |index| row.get::<i64>(index).map(|n| u64::try_from(n).unwrap_or(0));
                    Ok(Found {
                        file: row.get(0)?,
                        position: at(1)?,
                        chunk: Chunk { text: row.get(2)?, start: at(3)?, end: at(4)? },
                        score: row.get(5)?,
                    })
                },
            )
        });
        Ok(found.await?)
    }
}

/// In no text, because no word has a slash.
fn scope_word(scope: i64) -> String {
    format!("'/{scope}'")
}

/// The words of a text: letters and digits, without case and diacritics.
fn words(text: &str) -> Vec<String> {
    let folded: String = text.nfd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).collect();
    let words = folded.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| word[..word.floor_char_boundary(WORD)].to_owned()).collect()
}

/// Words as a tsvector is written, each with its places.
fn vector(scope: &str, words: &[String]) -> String {
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, word) in (1..).zip(words) {
        places.entry(word).or_default().push(place);
    }
    let mut vector = scope.to_owned();
    for (word, places) in places {
        let places: Vec<String> = places.iter().map(usize::to_string).collect();
        vector.push_str(&format!(" '{word}':{}", places.join(",")));
    }
    vector
}

/// What must be there, as a tsquery is written: of each word or quoted phrase of a query its words one after the other.
fn phrases(query: &str) -> Vec<String> {
    let phrases = terms(query).into_iter().map(|term| {
        let words: Vec<String> = words(&term).into_iter().take(OVERLAP).map(|word| format!("'{word}'")).collect();
        words.join(" <-> ")
    });
    phrases.filter(|phrase| !phrase.is_empty()).map(|phrase| format!("({phrase})")).collect()
}
