//! Where bytes are, by what their rows keep.

use super::rows::{all, changed, crcs, one, run, size, sql, uuid, word};
use super::uploads::{SESSION, read_session};
use crate::clock::Timestamp;
use crate::limits;
use crate::meta::{HeldAt, IntendedCopy, MovePiece, PlacedPiece};
use crate::model::file::Piece;
use crate::model::ids::{PlaceId, SessionId, TenantId, VersionId};
use crate::sql::{Connection, Flavour, NONE, params};

type R<T> = crate::sql::Result<T>;

/// So much of a mark is in the index `pieces_place`, which is enough for numbers of one digit, or two.
const INDEXED: usize = 3;

/// Does a row's text say that its bytes are there? Of the first place it says nothing. What is compared first stands in the
/// index, to the letter.
fn at(place: PlaceId, column: &str) -> String {
    let (mark, prefix) = (PlaceId::MARK, place.prefix());
    let indexed = prefix.get(..INDEXED).unwrap_or_default();
    let here = format!(
        "CASE WHEN substr({column}, 1, 1) = '{mark}' THEN substr({column}, 1, {INDEXED}) ELSE '' END = '{indexed}'"
    );
    match prefix.len() > INDEXED {
        true => format!("{here} AND substr({column}, 1, {}) = '{prefix}'", prefix.len()),
        false => here,
    }
}

fn pieces_query(place: PlaceId) -> String {
    format!(
        "SELECT p.version, p.position, p.segment, p.length, p.crc32c, p.crc64nvme, p.backend, v.tenant
         FROM pieces p JOIN versions v ON v.id = p.version
         WHERE (p.version, p.position) > (?1, ?2) AND {} ORDER BY p.version, p.position LIMIT ?3",
        at(place, "p.backend")
    )
}

pub(super) fn pieces_at(
    c: &Connection,
    place: PlaceId,
    after: Option<(VersionId, u32)>,
    limit: u32,
) -> R<Vec<PlacedPiece>> {
    let (version, position) = after.map_or(([0; 16], 0), |(version, position)| (version.0.into_bytes(), position));
    let mut found = all(c, &pieces_query(place), params![version, position, limit], |row| {
        Ok(PlacedPiece {
            version: VersionId(uuid(row, 0)?),
            position: row.get(1)?,
            tenant: TenantId(row.get(7)?),
            piece: Piece {
                segment: word(row, 2, |name| name.parse().ok())?,
                length: size(row, 3)?,
                digests: crcs(row, 4)?,
                backend: row.get(6)?,
            },
            looked_for: false,
        })
    })?;
    for placed in &mut found {
        placed.looked_for = looked_for(c, placed.piece.segment.session)?;
    }
    Ok(found)
}

/// Is it told by its name alone from other bodies that its client sent to the store itself, or may yet send? As long as the
/// session's row is there: by which clock it is over is nothing for whoever moves bytes to judge.
fn looked_for(c: &Connection, id: SessionId) -> R<bool> {
    let ask = format!("{SESSION} WHERE id = ?1 AND direct IS NOT NULL");
    let direct = one(c, &ask, [id.0.as_bytes()], read_session)?;
    Ok(direct.is_some_and(|session| session.direct.is_some_and(|direct| !direct.create_only)))
}

pub(super) fn intend_copy(c: &Connection, copy: &IntendedCopy) -> R<bool> {
    let IntendedCopy { segment, place, before, due, .. } = copy;
    let made = match before {
        None => changed(
            c,
            "INSERT INTO tombstones (segment, backend, due) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            params![segment.to_string(), place.prefix(), due.0],
        )?,
        Some(before) => changed(
            c,
            "UPDATE tombstones SET due = ?3 WHERE segment = ?1 AND due = ?2 AND unlinked IS NULL",
            params![segment.to_string(), before.0, due.0],
        )?,
    };
    Ok(made == 1)
}

pub(super) fn move_piece(c: &Connection, moved: &MovePiece) -> R<bool> {
    let MovePiece { version, position, from, to, intended, due, .. } = moved;
    let named = "version = ?1 AND position = ?2 AND segment = ?3";
    let backend = one(
        c,
        &format!(
            "SELECT backend FROM pieces WHERE {named} AND NOT EXISTS (SELECT 1 FROM tombstones WHERE segment = ?3)"
        ),
        params![version.0.as_bytes(), position, from.to_string()],
        |row| row.get::<String>(0),
    )?;
    let Some(backend) = backend else { return Ok(false) };
    // With another time somebody has tried to delete it, and may have done so although that failed.
    let taken_back = changed(
        c,
        "DELETE FROM tombstones WHERE segment = ?1 AND due = ?2 AND unlinked IS NULL",
        params![to.segment.to_string(), intended.0],
    )?;
    if taken_back == 0 {
        return Ok(false);
    }
    run(
        c,
        "INSERT INTO tombstones (segment, backend, due) VALUES (?1, ?2, ?3)",
        params![from.to_string(), backend, due.0],
    )?;
    run(
        c,
        &format!(
            "UPDATE pieces SET segment = ?4, length = ?5, crc32c = ?6, crc64nvme = ?7, backend = ?8 WHERE {named}"
        ),
        params![
            version.0.as_bytes(),
            position,
            from.to_string(),
            to.segment.to_string(),
            sql(to.length),
            to.digests.crc32c,
            to.digests.crc64nvme.map(u64::cast_signed),
            to.backend
        ],
    )?;
    Ok(true)
}

/// Sessions whose clients may still send something there themselves. Clocks of two machines differ, so that one that takes a
/// body counts for an hour longer.
fn direct_sessions(c: &Connection, place: PlaceId, now: Timestamp) -> R<u64> {
    let (at, once) = match c.flavour() {
        Flavour::Sqlite => {
            ("coalesce(json_extract(direct, '$.place'), 0)", "json_extract(direct, '$.create_only') = 1")
        }
        Flavour::Postgres => (
            "coalesce(CAST(CAST(direct AS json) ->> 'place' AS BIGINT), 0)",
            "CAST(direct AS json) ->> 'create_only' = 'true'",
        ),
    };
    let count = one(
        c,
        &format!(
            "SELECT count(*) FROM sessions WHERE direct IS NOT NULL AND {at} = ?1
             AND (state IN ('open', 'committed') AND NOT ({once}) OR state = 'open' AND expires > ?2)"
        ),
        params![place.0, now.minus(limits::DOWNLOAD_MAX).0],
        |row| size(row, 0),
    )?;
    Ok(count.unwrap_or(0))
}

/// Of what is in progress there is little, so that only pieces have an index for it.
fn named_query(place: PlaceId) -> String {
    let here = at(place, "backend");
    let tables = ["pieces", "session_pieces", "session_parts"];
    let exists = tables.map(|table| format!("EXISTS (SELECT 1 FROM {table} WHERE {here})")).join(" OR ");
    format!("SELECT {exists}")
}

pub(super) fn names_bytes_at(c: &Connection, place: PlaceId, now: Timestamp) -> R<bool> {
    let named = one(c, &named_query(place), NONE, |row| row.get::<bool>(0))?;
    Ok(named == Some(true) || direct_sessions(c, place, now)? > 0)
}

pub(super) fn held_at(c: &Connection, place: PlaceId, now: Timestamp) -> R<HeldAt> {
    let here = at(place, "backend");
    let sums = format!("SELECT count(*), CAST(coalesce(sum(length), 0) AS BIGINT) FROM pieces WHERE {here}");
    let pieces = one(c, &sums, NONE, |row| Ok((size(row, 0)?, size(row, 1)?)))?;
    let count = |sql: &str| -> R<u64> { Ok(one(c, sql, NONE, |row| size(row, 0))?.unwrap_or(0)) };
    let recorded = count(&format!(
        "SELECT count(*) FROM (SELECT session FROM session_pieces WHERE {here}
         UNION SELECT session FROM session_parts WHERE {here}) AS sent"
    ))?;
    let due = count(&format!("SELECT count(*) FROM tombstones WHERE {here}"))?;
    let (pieces, bytes) = pieces.unwrap_or((0, 0));
    Ok(HeldAt { pieces, bytes, uploads: recorded + direct_sessions(c, place, now)?, due })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::contract::filled;
    use crate::meta::sql::SqlMeta;
    use crate::postgres::testing::Fresh;

    /// Very many pieces at the place with the number 1, and none at others.
    const ROWS: u32 = 20_000;

    /// How a database finds pieces at places where there are none.
    fn plans(explain: impl Fn(String) -> String) -> Vec<String> {
        let mut plans = Vec::new();
        for place in [PlaceId::FIRST, PlaceId(2), PlaceId(22)] {
            plans.push(explain(named_query(place)));
            let page = pieces_query(place).replace("?1", "X'00'").replace("?2", "0").replace("?3", "500");
            plans.push(explain(page));
        }
        plans
    }

    #[test]
    fn what_lies_at_a_place_is_found_by_an_index_on_a_disk() {
        let directory = tempfile::tempdir().unwrap();
        drop(SqlMeta::open(directory.path()).unwrap());
        let facts = rusqlite::Connection::open(directory.path().join("landfall.db")).unwrap();
        let explain = |query: String| {
            let mut plan = facts.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
            let lines = plan.query_map([], |row| row.get::<_, String>(3)).unwrap();
            lines.map(Result::unwrap).collect::<Vec<_>>().join("; ")
        };
        for plan in plans(explain) {
            assert!(plan.contains("INDEX pieces_place (<expr>=?") && !plan.contains("SCAN p"), "{plan}");
        }
    }

    #[test]
    fn what_lies_at_a_place_is_found_by_an_index_in_a_database() {
        let database = Fresh::filled_by(filled);
        database.sql(&format!(
            "INSERT INTO versions (id, tenant, file, size, committed)
             SELECT decode(lpad(to_hex(n), 32, '0'), 'hex'), 'acme', 'x', 1, 0 FROM generate_series(1, {ROWS}) n;
             INSERT INTO pieces (version, position, segment, length, backend)
             SELECT decode(lpad(to_hex(n), 32, '0'), 'hex'), 0, 's' || n, 1, '@1 whole' FROM generate_series(1, {ROWS}) n;
             ANALYZE"
        ));
        let explain = |query: String| database.sql(&format!("EXPLAIN {}", query.replace("X'00'", "'\\x00'")));
        for plan in plans(explain) {
            assert!(plan.contains("pieces_place") && !plan.contains("Seq Scan on pieces"), "{plan}");
        }
    }
}
