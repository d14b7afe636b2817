//! Resumable sessions: how far they have come, and who may go on.

use super::rows::{all, crcs, one, pieces, run, size, sql, uuid};
use super::uploads::{self, SESSION, read_session};
use super::{parts, quota, rows};
use crate::clock::Timestamp;
use crate::meta::{Advance, Advanced, Upload, UploadFilter};
use crate::model::file::Crcs;
use crate::model::ids::{SegmentId, SessionId, TenantId};
use crate::model::session::{Direct, Progress, Session, SessionState, Strategy};
use crate::sql::{Connection, Flavour, Row, params};

type R<T> = crate::sql::Result<T>;

pub(super) fn upload(c: &Connection, id: SessionId) -> R<Option<Upload>> {
    let found = one(c, &format!("{SESSION} WHERE id = ?1"), [id.0.as_bytes()], read_session)?;
    found.map(|session| with_progress(c, session)).transpose()
}

fn with_progress(c: &Connection, session: Session) -> R<Upload> {
    let progress = match session.strategy {
        Strategy::Single | Strategy::Resumable => progress(c, session.id)?,
        Strategy::Multipart => Progress { received: parts::received(c, session.id)?, ..Progress::default() },
    };
    let receipt = uploads::receipt(c, session.id)?;
    let paused = one(c, "SELECT paused IS NOT NULL FROM tenants WHERE id = ?1", [&session.tenant.0], |row| row.get(0))?;
    Ok(Upload { session, progress, receipt, paused: paused == Some(true) })
}

fn progress(c: &Connection, id: SessionId) -> R<Progress> {
    let crcs_at = |row: &Row<'_>, index| crcs(row, index).map(|digests| digests.crcs().unwrap_or_default());
    let found = one(
        c,
        "SELECT received, crc32c, crc64nvme, told, told_crc32c, told_crc64nvme, md5_state, sha256_state
         FROM session_progress WHERE session = ?1",
        [id.0.as_bytes()],
        |row| {
            Ok(Progress {
                received: size(row, 0)?,
                crcs: crcs_at(row, 1)?,
                told: size(row, 3)?,
                told_crcs: crcs_at(row, 4)?,
                md5_state: row.get(6)?,
                sha256_state: row.get(7)?,
                pieces: Vec::new(),
            })
        },
    )?;
    let Some(mut progress) = found else { return Ok(Progress::default()) };
    progress.pieces = pieces(
        c,
        "SELECT segment, length, crc32c, crc64nvme, backend FROM session_pieces WHERE session = ?1 ORDER BY position",
        id.0.as_bytes(),
    )?;
    Ok(progress)
}

pub(super) fn uploads(c: &Connection, tenant: &TenantId, filter: &UploadFilter) -> R<Vec<Upload>> {
    let sha256 = filter.sha256.and_then(|digest| serde_json::to_string(&digest).ok());
    let (declared, wanted) = match c.flavour() {
        Flavour::Sqlite => ("json_extract(declaration, '$.digests.sha256')", "json(?6)"),
        Flavour::Postgres => (
            // An escape that its JSON can't have in a text; both are written by the same hand otherwise.
            "CAST(CAST(replace(declaration, '\\u0000', '\\ufffe') AS json) #> '{digests,sha256}' AS TEXT)",
            "?6",
        ),
    };
    let sessions = all(
        c,
        &format!(
            "{SESSION} WHERE tenant = ?1 AND name IS NOT NULL AND id < ?2
             AND (?3 IS NULL OR ?3 = CASE WHEN state = 'open' AND expires <= ?8 THEN 'expired' ELSE state END) AND (?4 IS NULL OR name = ?4) AND (?5 IS NULL OR size = ?5)
             AND (?6 IS NULL OR {declared} = {wanted})
             ORDER BY id DESC LIMIT ?7"
        ),
        params![
            tenant.0,
            filter.before.map_or([0xff; 16], |id| id.0.into_bytes()),
            filter.state.map(SessionState::name),
            filter.name,
            filter.size.map(sql),
            sha256,
            filter.limit,
            filter.now.0
        ],
        read_session,
    )?;
    sessions.into_iter().map(|session| with_progress(c, session)).collect()
}

pub(super) fn open_session(c: &Connection, id: SessionId, now: Timestamp) -> R<Option<Session>> {
    one(
        c,
        &format!("{SESSION} WHERE id = ?1 AND state = 'open' AND expires > ?2"),
        params![id.0.as_bytes(), now.0],
        read_session,
    )
}

pub(super) fn take_over(c: &Connection, id: SessionId, now: Timestamp) -> R<Option<Upload>> {
    let Some(mut session) = open_session(c, id, now)? else { return Ok(None) };
    run(c, "UPDATE sessions SET epoch = epoch + 1 WHERE id = ?1", [id.0.as_bytes()])?;
    session.epoch += 1;
    with_progress(c, session).map(Some)
}

pub(super) fn progressing_above(c: &Connection, after: Option<SessionId>, limit: u32) -> R<Vec<Upload>> {
    let from = after.map_or([0; 16], |id| id.0.into_bytes());
    let ids = all(
        c,
        "SELECT session FROM session_progress WHERE session > ?1
         UNION SELECT session FROM session_parts WHERE session > ?1 ORDER BY session LIMIT ?2",
        params![from, limit],
        |row| Ok(SessionId(uuid(row, 0)?)),
    )?;
    ids.into_iter().filter_map(|id| upload(c, id).transpose()).collect()
}

/// How far a session's row says it has come.
pub(super) fn received(c: &Connection, id: SessionId) -> R<u64> {
    let found =
        one(c, "SELECT received FROM session_progress WHERE session = ?1", [id.0.as_bytes()], |row| size(row, 0))?;
    Ok(found.unwrap_or(0))
}

pub(super) fn advance(c: &Connection, advance: &Advance) -> R<Advanced> {
    let Some(session) = open_session(c, advance.session, advance.now)? else {
        return Ok(Advanced::Fenced);
    };
    if session.epoch != advance.epoch || received(c, session.id)? != advance.from {
        return Ok(Advanced::Fenced);
    }
    let progress = &advance.progress;
    // What was declared is reserved already.
    let more = progress.received.saturating_sub(session.reserved);
    if session.key.is_some()
        && let Some(over) = quota::room(c, &session.tenant, more, 0)?
    {
        return Ok(Advanced::OverQuota(over));
    }
    if let (None, Some(total)) = (session.size, advance.total) {
        run(c, "UPDATE sessions SET size = ?2 WHERE id = ?1", params![session.id.0.as_bytes(), sql(total)])?;
    }
    let Crcs { crc32c, crc64nvme } = progress.crcs;
    run(
        c,
        "INSERT INTO session_progress
             (session, received, crc32c, crc64nvme, told, told_crc32c, told_crc64nvme, md5_state, sha256_state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (session) DO UPDATE SET received = ?2, crc32c = ?3, crc64nvme = ?4, told = ?5, told_crc32c = ?6,
         told_crc64nvme = ?7, md5_state = ?8, sha256_state = ?9",
        params![
            session.id.0.as_bytes(),
            sql(progress.received),
            crc32c,
            crc64nvme.cast_signed(),
            sql(progress.told),
            progress.told_crcs.crc32c,
            progress.told_crcs.crc64nvme.cast_signed(),
            progress.md5_state,
            progress.sha256_state
        ],
    )?;
    if let Some(piece) = progress.pieces.last() {
        run(
            c,
            "INSERT INTO session_pieces (session, position, segment, length, crc32c, crc64nvme, backend)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (segment) DO UPDATE SET length = ?4, crc32c = ?5, crc64nvme = ?6, backend = ?7",
            params![
                session.id.0.as_bytes(),
                i64::try_from(progress.pieces.len() - 1).unwrap_or(i64::MAX),
                piece.segment.to_string(),
                sql(piece.length),
                piece.digests.crc32c,
                piece.digests.crc64nvme.map(u64::cast_signed),
                piece.backend
            ],
        )?;
    }
    if more > 0 {
        run(
            c,
            "UPDATE sessions SET reserved = ?2 WHERE id = ?1",
            params![session.id.0.as_bytes(), sql(progress.received)],
        )?;
        quota::reserve_more(c, &session.tenant, more)?;
    }
    Ok(Advanced::Recorded)
}

/// The session's extents are pieces of a version now, or due for deletion: they are nobody's own any more.
pub(super) fn forget_progress(c: &Connection, id: SessionId) -> R<()> {
    run(c, "DELETE FROM session_pieces WHERE session = ?1", [id.0.as_bytes()])?;
    run(c, "DELETE FROM session_progress WHERE session = ?1", [id.0.as_bytes()])
}

/// Rows before bytes: the session's extents become tombstones.
pub(super) fn bury(c: &Connection, id: SessionId, due: Timestamp) -> R<()> {
    rows::entomb(c, "session_pieces", "session", id.0.as_bytes(), due)?;
    forget_progress(c, id)?;
    parts::bury(c, id, due)
}

/// The same of what the client of a session that never was committed may have sent to the store itself, and of what the store
/// calls its upload, which ends with it. Its location may still work: what comes later is found by looking through the store.
pub(super) fn bury_direct(c: &Connection, session: &Session, due: Timestamp) -> R<()> {
    let Some(direct) = &session.direct else { return Ok(()) };
    let segment = SegmentId::direct(session.id).to_string();
    run(
        c,
        "INSERT INTO tombstones (segment, backend, due) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![segment, direct.place.mark(direct.upload.as_deref().unwrap_or_default()), due.0],
    )?;
    run(c, "UPDATE sessions SET direct = NULL WHERE id = ?1", [session.id.0.as_bytes()])
}

/// The store's name for a session's upload, in parts or in chunks: the first that is told is kept.
pub(super) fn begun(c: &Connection, id: SessionId, upload: &str, now: Timestamp) -> R<Option<String>> {
    let Some(Session { direct: Some(direct), .. }) = open_session(c, id, now)? else { return Ok(None) };
    if direct.upload.is_some() {
        return Ok(direct.upload);
    }
    let direct = uploads::stored(&Direct { upload: Some(upload.to_owned()), ..direct })?;
    run(c, "UPDATE sessions SET direct = ?2 WHERE id = ?1", params![id.0.as_bytes(), direct])?;
    Ok(Some(upload.to_owned()))
}

pub(super) fn end_session(
    c: &Connection,
    id: SessionId,
    state: SessionState,
    now: Timestamp,
) -> R<Option<SessionState>> {
    let Some(session) = uploads::session_by_id(c, id)? else { return Ok(None) };
    if session.state != SessionState::Open {
        return Ok(Some(session.state));
    }
    run(
        c,
        "UPDATE sessions SET state = ?2, epoch = epoch + 1, reserved = 0 WHERE id = ?1",
        params![id.0.as_bytes(), state.name()],
    )?;
    quota::session_ended(c, &session)?;
    bury(c, id, now)?;
    bury_direct(c, &session, now)?;
    Ok(Some(state))
}
