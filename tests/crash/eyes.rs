//! Looking at what is really there: rows by SQL, bytes by reading the files that the rows name. It shares no code with
//! the server, so that a fault in the server's own reading can't hide one in its writing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::{Outcome, bucket, facts};

/// An item as it can be read.
#[derive(PartialEq, Eq)]
pub struct Item {
    pub state: String,
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Item").field("state", &self.state).field("bytes", &self.bytes.len()).finish()
    }
}

fn open(data: &Path, file: &str) -> Outcome<Connection> {
    let connection = Connection::open_with_flags(data.join(file), OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(said)?;
    connection.busy_timeout(std::time::Duration::from_secs(10)).map_err(said)?;
    // One snapshot: the server goes on meanwhile, and an item's row and its pieces belong together.
    connection.execute_batch("BEGIN").map_err(said)?;
    Ok(connection)
}

fn said(error: rusqlite::Error) -> String {
    format!("the database says: {error}")
}

/// Everything that is there for segments, by name: files, or what a bucket has, with uploads in progress.
pub fn files(data: &Path) -> BTreeMap<String, Bytes> {
    let mut found = BTreeMap::new();
    if let Some(prefix) = bucket::any_prefix(data) {
        let own = |key: String| key[prefix.len()..].to_owned();
        let uploads =
            bucket::store_of(data).uploads(&prefix).into_iter().map(|key| format!("{} (in progress)", own(key)));
        let objects = bucket::store_of(data).objects(&prefix).into_iter().filter(|(key, _)| !key.ends_with("/owner"));
        found.extend(objects.map(|(key, _)| (own(key.clone()), Bytes::Object(data.to_owned(), key))));
        found.extend(uploads.map(|name| (name, Bytes::None)));
        if !bucket::in_both(data) {
            return found;
        }
    }
    let mut directories = vec![data.join("blobs")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
            } else {
                found.insert(entry.file_name().to_string_lossy().into_owned(), Bytes::File(entry.path()));
            }
        }
    }
    found
}

/// Where a segment's bytes are.
#[derive(Debug)]
pub enum Bytes {
    File(PathBuf),
    /// In the store of a data directory, by its key.
    Object(PathBuf, String),
    /// Nowhere that can be read.
    None,
}

impl Bytes {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Object(..) | Self::None => panic!("it is no file: {self:?}"),
        }
    }

    fn read(&self) -> Outcome<Vec<u8>> {
        match self {
            Self::File(path) => fs::read(path).map_err(|e| e.to_string()),
            Self::Object(data, key) => bucket::store_of(data).get(key).ok_or_else(|| format!("{key} is not there")),
            Self::None => Err("it is not finished".into()),
        }
    }
}

/// The segments that versions are made of.
pub fn segments(data: &Path) -> Outcome<Vec<String>> {
    const QUERY: &str = "SELECT segment FROM pieces ORDER BY segment";
    if let Some(database) = facts::database(data) {
        return Ok(facts::rows(&database, QUERY)?.into_iter().flatten().collect());
    }
    let connection = open(data, "landfall.db")?;
    let mut query = connection.prepare(QUERY).map_err(said)?;
    query.query_map([], |row| row.get(0)).and_then(Iterator::collect).map_err(said)
}

/// How many files the rows name.
pub fn files_named(data: &Path) -> Outcome<usize> {
    segments(data).map(|segments| segments.len())
}

pub fn count(data: &Path, query: &str) -> Outcome<i64> {
    if let Some(database) = facts::database(data) {
        let rows = facts::rows(&database, query)?;
        let number = rows.first().and_then(|row| row.first()).and_then(|number| number.parse().ok());
        return number.ok_or_else(|| format!("no number: {rows:?}"));
    }
    open(data, "landfall.db")?.query_row(query, [], |row| row.get(0)).map_err(said)
}

fn joined(data: &Path, pieces: Vec<(String, u64)>) -> Outcome<Vec<u8>> {
    let files = files(data);
    let mut bytes = Vec::new();
    for (segment, length) in pieces {
        let stored = files.get(&segment).ok_or_else(|| format!("segment {segment} is not there"))?;
        let content = stored.read().map_err(|e| format!("segment {segment}: {e}"))?;
        let piece = content.get(..length as usize);
        bytes.extend(piece.ok_or_else(|| format!("segment {segment} has {} of {length} bytes", content.len()))?);
    }
    Ok(bytes)
}

fn version(connection: &Connection, data: &Path, id: &[u8]) -> Outcome<Vec<u8>> {
    let mut query =
        connection.prepare("SELECT segment, length FROM pieces WHERE version = ?1 ORDER BY position").map_err(said)?;
    let pieces = query
        .query_map([id], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))
        .and_then(Iterator::collect)
        .map_err(said)?;
    joined(data, pieces)
}

/// The bytes of the one version that a query of a database finds with its pieces, if it finds any.
fn version_in(database: &str, data: &Path, which: &str) -> Outcome<Option<Vec<u8>>> {
    let query = format!("SELECT segment, length FROM pieces WHERE version = ({which}) ORDER BY position");
    let pieces = facts::rows(database, &query)?;
    if pieces.is_empty() {
        return Ok(None);
    }
    let piece = |row: Vec<String>| match <[String; 2]>::try_from(row) {
        Ok([segment, length]) => Ok((segment, length.parse().map_err(|_| format!("a length: {length}"))?)),
        Err(row) => Err(format!("a piece: {row:?}")),
    };
    joined(data, pieces.into_iter().map(piece).collect::<Outcome<_>>()?).map(Some)
}

/// An item of the source with its content.
pub fn item(data: &Path, document: &str) -> Outcome<Option<Item>> {
    if let Some(database) = facts::database(data) {
        let which = format!("FROM items WHERE document_id = 'test://{document}' AND deleted IS NULL");
        let rows = facts::rows(&database, &format!("SELECT state, encode(content, 'hex') {which}"))?;
        let Some([state, inline]) = rows.into_iter().next().and_then(|row| <[String; 2]>::try_from(row).ok()) else {
            return Ok(None);
        };
        let stored = version_in(&database, data, &format!("SELECT content_version {which}"))?;
        let bytes = stored.map_or_else(|| hex::decode(inline).map_err(|e| e.to_string()), Ok)?;
        return Ok(Some(Item { state, bytes }));
    }
    let connection = open(data, "landfall.db")?;
    let found = connection
        .query_row(
            "SELECT state, content, content_version FROM items WHERE document_id = ?1 AND deleted IS NULL",
            [format!("test://{document}")],
            |row| Ok((row.get(0)?, row.get::<_, Option<Vec<u8>>>(1)?, row.get::<_, Option<Vec<u8>>>(2)?)),
        )
        .optional()
        .map_err(said)?;
    let Some((state, inline, stored)) = found else { return Ok(None) };
    let bytes = match stored {
        Some(id) => version(&connection, data, &id)?,
        None => inline.unwrap_or_default(),
    };
    Ok(Some(Item { state, bytes }))
}

/// What was put into a container that no push has used yet.
pub fn container(data: &Path, id: &str) -> Outcome<Option<Vec<u8>>> {
    let id: uuid::Uuid = id.parse().map_err(|e| format!("a container id: {e}"))?;
    if let Some(database) = facts::database(data) {
        return version_in(&database, data, &format!("SELECT version FROM files WHERE id = '\\x{}'", id.simple()));
    }
    let connection = open(data, "landfall.db")?;
    let found: Option<Vec<u8>> = connection
        .query_row("SELECT version FROM files WHERE id = ?1 AND version IS NOT NULL", [id.as_bytes()], |row| row.get(0))
        .optional()
        .map_err(said)?;
    found.map(|version_id| version(&connection, data, &version_id)).transpose()
}

/// The documents that a word finds.
pub fn found(data: &Path, word: &str) -> Outcome<Vec<String>> {
    let shown = |id: String| id.trim_start_matches("test://").to_owned();
    if let Some(database) = facts::database(data) {
        let query = format!(
            "SELECT DISTINCT document_id, row FROM items JOIN text_words ON item = row
             WHERE words @@ CAST('{word}' AS tsquery) ORDER BY row"
        );
        let rows = facts::rows(&database, &query)?;
        return Ok(rows.into_iter().filter_map(|row| row.into_iter().next()).map(shown).collect());
    }
    let index = open(data, "search.db")?;
    let facts = open(data, "landfall.db")?;
    let mut query = index.prepare("SELECT rowid FROM texts WHERE texts MATCH ?1 ORDER BY rowid").map_err(said)?;
    let rows: Vec<i64> = query.query_map([word], |row| row.get(0)).and_then(Iterator::collect).map_err(said)?;
    rows.iter()
        .map(|row| {
            facts
                .query_row("SELECT document_id FROM items WHERE row = ?1", params![row], |r| r.get::<_, String>(0))
                .map(shown)
                .map_err(said)
        })
        .collect()
}

/// How many chunks are indexed.
pub fn chunks(data: &Path) -> Outcome<i64> {
    open(data, "search.db")?.query_row("SELECT count(*) FROM chunks", [], |row| row.get(0)).map_err(said)
}

/// The state of an accepted push; none when it is not there.
pub fn push(data: &Path, request: &str) -> Outcome<Option<String>> {
    let request: uuid::Uuid = request.parse().map_err(|e| format!("a request id: {e}"))?;
    if let Some(database) = facts::database(data) {
        let query = format!("SELECT state FROM pushes WHERE request = '\\x{}'", request.simple());
        return Ok(facts::rows(&database, &query)?.into_iter().flatten().next());
    }
    open(data, "landfall.db")?
        .query_row("SELECT state FROM pushes WHERE request = ?1", [request.as_bytes()], |row| row.get(0))
        .optional()
        .map_err(said)
}

/// Makes the database say that sweeps have run until now, with clocks that agreed for so many seconds.
pub fn pretend_sweeping(data: &Path, seconds: u64) -> Outcome {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_err(|e| e.to_string())?;
    let state = format!("{} {}", now.as_millis(), seconds * 1000).into_bytes();
    let connection = Connection::open(data.join("landfall.db")).map_err(said)?;
    connection.execute("DELETE FROM settings WHERE name = 'unswept'", []).map_err(said)?;
    let changed = connection.execute("UPDATE settings SET value = ?1 WHERE name = 'sweep'", [state]).map_err(said)?;
    if changed == 1 { Ok(()) } else { Err("no sweep has ever run".into()) }
}

/// Makes the database forget where its bytes were, because the case has put them elsewhere.
pub fn forget_where_bytes_are(data: &Path) -> Outcome {
    let connection = Connection::open(data.join("landfall.db")).map_err(said)?;
    connection.execute("DELETE FROM settings WHERE name = 'storage'", []).map(drop).map_err(said)
}

/// Makes the database forget the sessions that ended, as it does by itself a day after their time.
pub fn forget_sessions(data: &Path) -> Outcome {
    let connection = Connection::open(data.join("landfall.db")).map_err(said)?;
    connection.execute("DELETE FROM sessions WHERE state = 'committed'", []).map(drop).map_err(said)
}
