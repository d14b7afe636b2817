//! Multipart sessions: their parts, and the file that those make.

use super::rows::{all, crcs, one, run, size, sql, word};
use super::{quota, resume, rows, uploads};
use crate::clock::Timestamp;
use crate::meta::{CommitParts, Committed, NewPart, NewVersion, Over, PartRecorded, PartsCommitted};
use crate::model::file::{Declared, Digests, Piece, Receipt};
use crate::model::ids::SessionId;
use crate::model::session::{Joined, Part, Session, SessionState};
use crate::sql::{Connection, Row, params};

type R<T> = crate::sql::Result<T>;

const PART: &str = "SELECT number, segment, length, crc32c, crc64nvme, backend FROM session_parts";

fn read(row: &Row<'_>) -> R<Part> {
    let piece = Piece {
        segment: word(row, 1, |name| name.parse().ok())?,
        length: size(row, 2)?,
        digests: crcs(row, 3)?,
        backend: row.get(5)?,
    };
    Ok(Part { number: row.get(0)?, piece })
}

pub(super) fn all_of(c: &Connection, id: SessionId) -> R<Vec<Part>> {
    all(c, &format!("{PART} WHERE session = ?1 ORDER BY number"), [id.0.as_bytes()], read)
}

pub(super) fn one_of(c: &Connection, id: SessionId, number: u32) -> R<Option<Part>> {
    one(c, &format!("{PART} WHERE session = ?1 AND number = ?2"), params![id.0.as_bytes(), number], read)
}

/// Bytes in the session's parts.
pub(super) fn received(c: &Connection, id: SessionId) -> R<u64> {
    let found = one(c, "SELECT parts_received FROM sessions WHERE id = ?1", [id.0.as_bytes()], |row| size(row, 0))?;
    Ok(found.unwrap_or(0))
}

pub(super) fn record(c: &Connection, new: &NewPart) -> R<PartRecorded> {
    let Some(session) = resume::open_session(c, new.session, new.now)? else { return Ok(PartRecorded::Closed) };
    let Part { number, piece } = &new.part;
    let fits = |parts: crate::model::session::Parts| (1..=parts.count).contains(number);
    if session.epoch != new.epoch || !session.parts.is_some_and(fits) {
        return Ok(PartRecorded::Closed);
    }
    let before = one_of(c, session.id, *number)?;
    let replaced = before.as_ref().map_or(0, |before| before.piece.length);
    let total = received(c, session.id)?.saturating_sub(replaced).saturating_add(piece.length);
    if total > session.max_bytes {
        return Ok(PartRecorded::TooLarge(session.max_bytes));
    }
    // What was declared is reserved already, and stays so.
    let reserved = total.max(session.size.unwrap_or(0));
    let more = reserved.saturating_sub(session.reserved);
    if session.key.is_some()
        && let Some(over) = quota::room(c, &session.tenant, more, 0)?
    {
        return Ok(PartRecorded::OverQuota(over));
    }
    if let Some(before) = before {
        entomb(c, &before.piece, new.now)?;
    }
    run(
        c,
        "INSERT INTO session_parts (session, number, segment, length, crc32c, crc64nvme, backend)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (session, number) DO UPDATE SET segment = ?3, length = ?4, crc32c = ?5, crc64nvme = ?6, backend = ?7",
        params![
            session.id.0.as_bytes(),
            number,
            piece.segment.to_string(),
            sql(piece.length),
            piece.digests.crc32c,
            piece.digests.crc64nvme.map(u64::cast_signed),
            piece.backend
        ],
    )?;
    run(
        c,
        "UPDATE sessions SET parts_received = ?2, reserved = ?3 WHERE id = ?1",
        params![session.id.0.as_bytes(), sql(total), sql(reserved)],
    )?;
    quota::reserved_anew(c, &session.tenant, session.reserved, reserved)?;
    Ok(PartRecorded::Recorded)
}

fn entomb(c: &Connection, piece: &Piece, due: Timestamp) -> R<()> {
    run(
        c,
        "INSERT INTO tombstones (segment, backend, due) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![piece.segment.to_string(), piece.backend, due.0],
    )
}

pub(super) fn commit(c: &Connection, ask: &CommitParts) -> R<PartsCommitted> {
    let Some(session) = uploads::session_by_id(c, ask.session)? else { return Ok(PartsCommitted::Closed) };
    let Some(wanted) = session.parts else { return Ok(PartsCommitted::Closed) };
    match (session.state, uploads::receipt(c, session.id)?) {
        (SessionState::Committed, Some(receipt)) => return Ok(PartsCommitted::Before(receipt)),
        (SessionState::Open, _) if session.expires > ask.now => {}
        _ => return Ok(PartsCommitted::Closed),
    }
    let present = uploads::file(c, &session.tenant, session.file)?;
    if present.is_none() && session.needs_file {
        return Ok(PartsCommitted::Closed);
    }
    let parts = all_of(c, session.id)?;
    let joined = match wanted.join(&parts) {
        Ok(joined) => joined,
        Err(lacking) => return Ok(PartsCommitted::Lacking(lacking, received(c, session.id)?)),
    };
    if let Some(differs) = differs(&session, ask, &joined) {
        return Ok(differs);
    }
    let new = NewVersion {
        session: session.id,
        epoch: session.epoch,
        from: 0,
        version: ask.version,
        pieces: parts.into_iter().map(|part| part.piece).collect(),
        size: joined.size,
        digests: joined.crcs.map_or_else(Digests::default, Digests::from),
        now: ask.now,
        keep_replaced: ask.keep_replaced,
        over: Over::Anything,
    };
    match uploads::make_version(c, &session, &new, present)? {
        Committed::New(version) => Ok(PartsCommitted::New(Receipt {
            version: version.id,
            size: version.size,
            digests: version.digests,
            committed: version.committed,
        })),
        Committed::OverQuota(over) => Ok(PartsCommitted::OverQuota(over)),
        Committed::Same(_) | Committed::SameAsUsed { .. } | Committed::Exists | Committed::Used | Committed::Closed => {
            Ok(PartsCommitted::Closed)
        }
    }
}

fn differs(session: &Session, ask: &CommitParts, joined: &Joined) -> Option<PartsCommitted> {
    let at_open = session.declaration.as_ref().map_or(Declared::default(), |d| d.digests);
    let size = [session.size, ask.size].into_iter().flatten().find(|size| *size != joined.size);
    let told = joined.crcs.map_or_else(Digests::default, Digests::from);
    let crc32c = [at_open.crc32c, ask.digests.crc32c].into_iter().flatten().find(|crc| Some(*crc) != told.crc32c);
    let crc64nvme =
        [at_open.crc64nvme, ask.digests.crc64nvme].into_iter().flatten().find(|crc| Some(*crc) != told.crc64nvme);
    let (what, declared, found) = match (size, crc32c, crc64nvme) {
        (Some(size), _, _) => ("size", size.to_string(), joined.size.to_string()),
        (None, Some(crc), _) => ("crc32c", format!("{crc:08x}"), shown(told.crc32c.map(|crc| format!("{crc:08x}")))),
        (None, None, Some(crc)) => {
            ("crc64nvme", format!("{crc:016x}"), shown(told.crc64nvme.map(|crc| format!("{crc:016x}"))))
        }
        (None, None, None) => return None,
    };
    Some(PartsCommitted::Differs { what, declared, found })
}

fn shown(digest: Option<String>) -> String {
    digest.unwrap_or_else(|| "unknown".into())
}

/// The session's parts are pieces of a version now, or due for deletion: they are nobody's own any more.
pub(super) fn forget(c: &Connection, id: SessionId) -> R<()> {
    run(c, "DELETE FROM session_parts WHERE session = ?1", [id.0.as_bytes()])?;
    run(c, "UPDATE sessions SET parts_received = 0 WHERE id = ?1 AND parts_received > 0", [id.0.as_bytes()])
}

/// Rows before bytes: the session's parts become tombstones.
pub(super) fn bury(c: &Connection, id: SessionId, due: Timestamp) -> R<()> {
    rows::entomb(c, "session_parts", "session", id.0.as_bytes(), due)?;
    forget(c, id)
}
