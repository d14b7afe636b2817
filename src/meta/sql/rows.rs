//! Between rows and the words of the model.

use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension, Params, Row, params};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::model::change::Ordering;
use crate::model::file::{Digests, Piece};

pub(super) fn uuid(row: &Row<'_>, index: usize) -> rusqlite::Result<Uuid> {
    row.get::<_, [u8; 16]>(index).map(Uuid::from_bytes)
}

pub(super) fn optional_uuid(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<Uuid>> {
    row.get::<_, Option<[u8; 16]>>(index).map(|id| id.map(Uuid::from_bytes))
}

pub(super) fn time(row: &Row<'_>, index: usize) -> rusqlite::Result<Timestamp> {
    row.get(index).map(Timestamp)
}

pub(super) fn optional_time(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<Timestamp>> {
    row.get::<_, Option<i64>>(index).map(|t| t.map(Timestamp))
}

pub(super) fn ordering(row: &Row<'_>, index: usize) -> rusqlite::Result<Ordering> {
    row.get::<_, [u8; 16]>(index).map(Ordering::from_bytes)
}

/// A count or size, which is never negative.
pub(super) fn size(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(index).map(|n| u64::try_from(n).unwrap_or(0))
}

pub(super) fn optional_size(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<u64>> {
    row.get::<_, Option<i64>>(index).map(|n| n.map(|n| u64::try_from(n).unwrap_or(0)))
}

/// A count or size as SQLite stores it. Sizes end at 5 TiB, far below its range.
pub(super) fn sql(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// A word of the model by its stored name.
pub(super) fn word<T>(row: &Row<'_>, index: usize, read: impl FnOnce(&str) -> Option<T>) -> rusqlite::Result<T> {
    let name: String = row.get(index)?;
    read(&name).ok_or_else(|| unreadable(index, format!("unknown word {name:?}")))
}

pub(super) fn json(row: &Row<'_>, index: usize) -> rusqlite::Result<Value> {
    let text: String = row.get(index)?;
    serde_json::from_str(&text).map_err(|error| unreadable(index, error.to_string()))
}

pub(super) fn json_map(row: &Row<'_>, index: usize) -> rusqlite::Result<Map<String, Value>> {
    match json(row, index)? {
        Value::Object(map) => Ok(map),
        _ => Err(unreadable(index, "not an object".into())),
    }
}

pub(super) fn unreadable(index: usize, what: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(FromSqlError::Other(what.into())))
}

/// Digests from the columns crc32c, crc64nvme, md5, sha256 beginning at `index`.
pub(super) fn digests(row: &Row<'_>, index: usize) -> rusqlite::Result<Digests> {
    Ok(Digests { md5: row.get(index + 2)?, sha256: row.get(index + 3)?, ..crcs(row, index)? })
}

/// The two CRCs from the columns beginning at `index`.
pub(super) fn crcs(row: &Row<'_>, index: usize) -> rusqlite::Result<Digests> {
    Ok(Digests {
        crc32c: row.get::<_, i64>(index).map(|n| u32::try_from(n).unwrap_or(0))?,
        crc64nvme: row.get::<_, i64>(index + 1)?.cast_unsigned(),
        ..Digests::default()
    })
}

/// The pieces of whatever `id` names, by a query for their columns segment, length, crc32c, crc64nvme, backend.
pub(super) fn pieces(c: &Connection, sql: &str, id: &[u8]) -> rusqlite::Result<Vec<Piece>> {
    all(c, sql, [id], |row| {
        Ok(Piece {
            segment: word(row, 0, |name| name.parse().ok())?,
            length: size(row, 1)?,
            digests: crcs(row, 2)?,
            backend: row.get(4)?,
        })
    })
}

pub(super) fn one<T>(
    c: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    c.prepare_cached(sql)?.query_row(params, read).optional()
}

pub(super) fn all<T>(
    c: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    c.prepare_cached(sql)?.query_map(params, read)?.collect()
}

pub(super) fn run(c: &Connection, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
    c.prepare_cached(sql)?.execute(params)
}

/// Rows before bytes: the segments that a table names for its owner become tombstones.
pub(super) fn entomb(c: &Connection, table: &str, owner: &str, id: &[u8; 16], due: Timestamp) -> rusqlite::Result<()> {
    run(
        c,
        &format!(
            "INSERT INTO tombstones (segment, backend, due) SELECT segment, backend, ?2 FROM {table} WHERE {owner} = ?1
             ON CONFLICT DO NOTHING"
        ),
        params![id, due.0],
    )
    .map(drop)
}
