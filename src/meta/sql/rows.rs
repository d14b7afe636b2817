//! Between rows and the words of the model.

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::model::change::Ordering;
use crate::model::file::{Digests, Piece};
use crate::sql::{Connection, Params, Row, SqlError, params};

type R<T> = crate::sql::Result<T>;

pub(super) fn uuid(row: &Row<'_>, index: usize) -> R<Uuid> {
    row.get::<[u8; 16]>(index).map(Uuid::from_bytes)
}

pub(super) fn optional_uuid(row: &Row<'_>, index: usize) -> R<Option<Uuid>> {
    row.get::<Option<[u8; 16]>>(index).map(|id| id.map(Uuid::from_bytes))
}

pub(super) fn time(row: &Row<'_>, index: usize) -> R<Timestamp> {
    row.get(index).map(Timestamp)
}

pub(super) fn optional_time(row: &Row<'_>, index: usize) -> R<Option<Timestamp>> {
    row.get::<Option<i64>>(index).map(|t| t.map(Timestamp))
}

pub(super) fn ordering(row: &Row<'_>, index: usize) -> R<Ordering> {
    row.get::<[u8; 16]>(index).map(Ordering::from_bytes)
}

/// A count or size, which is never negative.
pub(super) fn size(row: &Row<'_>, index: usize) -> R<u64> {
    row.get::<i64>(index).map(|n| u64::try_from(n).unwrap_or(0))
}

pub(super) fn optional_size(row: &Row<'_>, index: usize) -> R<Option<u64>> {
    row.get::<Option<i64>>(index).map(|n| n.map(|n| u64::try_from(n).unwrap_or(0)))
}

/// A count or size as a database stores it. Sizes end at 5 TiB, far below its range.
pub(super) fn sql(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// A word of the model by its stored name.
pub(super) fn word<T>(row: &Row<'_>, index: usize, read: impl FnOnce(&str) -> Option<T>) -> R<T> {
    let name: String = row.get(index)?;
    read(&name).ok_or_else(|| unreadable(index, format!("unknown word {name:?}")))
}

pub(super) fn json(row: &Row<'_>, index: usize) -> R<Value> {
    let text: String = row.get(index)?;
    serde_json::from_str(&text).map_err(|error| unreadable(index, error.to_string()))
}

pub(super) fn json_map(row: &Row<'_>, index: usize) -> R<Map<String, Value>> {
    match json(row, index)? {
        Value::Object(map) => Ok(map),
        _ => Err(unreadable(index, "not an object".into())),
    }
}

pub(super) const fn unreadable(column: usize, what: String) -> SqlError {
    SqlError::Unreadable { column, what }
}

/// Digests from the columns crc32c, crc64nvme, md5, sha256 beginning at `index`.
pub(super) fn digests(row: &Row<'_>, index: usize) -> R<Digests> {
    Ok(Digests { md5: row.get(index + 2)?, sha256: row.get(index + 3)?, ..crcs(row, index)? })
}

/// The two CRCs from the columns beginning at `index`.
pub(super) fn crcs(row: &Row<'_>, index: usize) -> R<Digests> {
    Ok(Digests {
        crc32c: row.get(index)?,
        crc64nvme: row.get::<Option<i64>>(index + 1)?.map(i64::cast_unsigned),
        ..Digests::default()
    })
}

/// The pieces of whatever `id` names, by a query for their columns segment, length, crc32c, crc64nvme, backend.
pub(super) fn pieces(c: &Connection, sql: &str, id: &[u8]) -> R<Vec<Piece>> {
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
    read: impl FnOnce(&Row<'_>) -> R<T>,
) -> R<Option<T>> {
    c.first(sql, params, read)
}

pub(super) fn all<T>(c: &Connection, sql: &str, params: impl Params, read: impl FnMut(&Row<'_>) -> R<T>) -> R<Vec<T>> {
    c.all(sql, params, read)
}

/// Changes rows. Whether it failed is said by the next statement that is waited for, at the latest when the verb ends.
pub(super) fn run(c: &Connection, sql: &str, params: impl Params) -> R<()> {
    c.post(sql, params)
}

/// Changes rows, and says how many.
pub(super) fn changed(c: &Connection, sql: &str, params: impl Params) -> R<usize> {
    c.execute(sql, params)
}

/// Inserts a row; its number, which the statement answers.
pub(super) fn made(c: &Connection, sql: &str, params: impl Params) -> R<i64> {
    one(c, sql, params, |row| row.get(0))?.ok_or_else(|| SqlError::Failed("an insertion made no row".into()))
}

/// Rows before bytes: the segments that a table names for its owner become tombstones.
pub(super) fn entomb(c: &Connection, table: &str, owner: &str, id: &[u8; 16], due: Timestamp) -> R<()> {
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
