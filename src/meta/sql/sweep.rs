//! What the sweeper asks, and the numbers.

use super::rows::{all, changed, one, optional_uuid, run, size, uuid, word};
use super::uploads::{self, SESSION};
use super::{entries, quota, resume, stores};
use crate::clock::Timestamp;
use crate::limits;
use crate::meta::{Swept, Tombstone, Usage};
use crate::model::ids::{FileId, SegmentId, SessionId, SourceId, TenantId, VersionId};
use crate::sql::{Connection, Flavour, NONE, Row, params};

type R<T> = crate::sql::Result<T>;

pub(super) fn expire_sessions(c: &Connection, now: Timestamp, limit: u32) -> R<u64> {
    let over = all(
        c,
        &format!("{SESSION} WHERE state = 'open' AND expires <= ?1 LIMIT ?2"),
        params![now.0, limit],
        uploads::read_session,
    )?;
    for session in &over {
        // The epoch rises with it: a writer that began before is fenced.
        run(
            c,
            "UPDATE sessions SET state = 'expired', epoch = epoch + 1, reserved = 0 WHERE id = ?1",
            [session.id.0.as_bytes()],
        )?;
        quota::session_ended(c, session)?;
    }
    Ok(u64::try_from(over.len()).unwrap_or(0))
}

pub(super) fn expire_files(c: &Connection, now: Timestamp, limit: u32) -> R<Swept> {
    let mut swept = Swept::default();
    let over = all(
        c,
        "SELECT id, version, used_by IS NOT NULL FROM files WHERE expires <= ?1 LIMIT ?2",
        params![now.0, limit],
        |row| Ok((FileId(uuid(row, 0)?), optional_uuid(row, 1)?.map(VersionId), row.get::<bool>(2)?)),
    )?;
    for (file, version, used) in over {
        swept.files += 1;
        let streaming = one(
            c,
            "SELECT 1 FROM stream_files f JOIN streams s ON s.id = f.stream WHERE f.file = ?1 AND s.push IS NULL AND s.opened > ?2",
            params![file.0.as_bytes(), now.minus(limits::STREAM_LIFE).0],
            |_| Ok(()),
        )?;
        if streaming.is_some() {
            // An open stream may still be closed, and its acknowledged chunks must be there then.
            let later = now.plus(limits::CONTAINER_LIFE);
            run(c, "UPDATE files SET expires = ?2 WHERE id = ?1", params![file.0.as_bytes(), later.0])?;
            continue;
        }
        if let Some(version) = version {
            if used {
                // Something holds its bytes: look again later.
                let later = now.plus(limits::ORPHAN_GRACE);
                run(c, "UPDATE files SET expires = ?2 WHERE id = ?1", params![file.0.as_bytes(), later.0])?;
                continue;
            }
            uploads::drop_version_unless_held(c, version, now)?;
        }
        run(c, "DELETE FROM files WHERE id = ?1", [file.0.as_bytes()])?;
    }
    swept.files += rows(entries::expire(c, now, limit)?);
    let abandoned = all(
        c,
        "SELECT s.id FROM sessions s WHERE s.state <> 'open' AND s.expires <= ?1
         AND (EXISTS (SELECT 1 FROM session_progress p WHERE p.session = s.id)
              OR EXISTS (SELECT 1 FROM session_parts p WHERE p.session = s.id)) LIMIT ?2",
        params![now.0, limit],
        |row| Ok(SessionId(uuid(row, 0)?)),
    )?;
    for session in &abandoned {
        resume::bury(c, *session, now)?;
    }
    let unsent = all(
        c,
        &format!(
            "{SESSION} WHERE state NOT IN ('open', 'committed') AND expires <= ?1 AND direct IS NOT NULL LIMIT ?2"
        ),
        params![now.0, limit],
        uploads::read_session,
    )?;
    for session in &unsent {
        resume::bury_direct(c, session, now)?;
    }
    swept.sessions = rows(changed(
        c,
        "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions s WHERE state <> 'open' AND expires <= ?1
         AND NOT EXISTS (SELECT 1 FROM session_progress p WHERE p.session = s.id)
         AND NOT EXISTS (SELECT 1 FROM session_parts p WHERE p.session = s.id)
         AND (s.direct IS NULL OR s.state = 'committed') LIMIT ?2)",
        params![now.minus(limits::ORPHAN_GRACE).0, limit],
    )?);
    swept.rows = rows(abandoned.len() + unsent.len())
        + rows(changed(
            c,
            "DELETE FROM pushes WHERE row IN (SELECT row FROM pushes WHERE finished <= ?1 LIMIT ?2)",
            params![now.minus(limits::PUSH_KEPT).0, limit],
        )?)
        + rows(changed(
            c,
            "DELETE FROM items WHERE row IN (SELECT row FROM items WHERE deleted <= ?1 LIMIT ?2)
         AND NOT EXISTS (SELECT 1 FROM jobs WHERE kind IN ('extract', 'unindex') AND subject = items.row)",
            params![now.minus(limits::TOMBSTONE_KEPT).0, limit],
        )?)
        + rows(changed(
            c,
            "DELETE FROM identities WHERE (tenant, provider, kind, name, relation) IN
             (SELECT tenant, provider, kind, name, relation FROM identities WHERE deleted <= ?1 LIMIT ?2)",
            params![now.minus(limits::TOMBSTONE_KEPT).0, limit],
        )?)
        + rows(changed(
            c,
            "DELETE FROM streams WHERE id IN (SELECT id FROM streams WHERE opened <= ?1 LIMIT ?2)",
            params![now.minus(limits::PUSH_KEPT).0, limit],
        )?);
    Ok(swept)
}

fn rows(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn read_tombstone(row: &Row<'_>) -> R<Tombstone> {
    Ok(Tombstone { segment: word(row, 0, |name| name.parse().ok())?, backend: row.get(1)? })
}

pub(super) fn due_tombstones(c: &Connection, now: Timestamp, limit: u32) -> R<Vec<Tombstone>> {
    all(
        c,
        "SELECT segment, backend FROM tombstones WHERE unlinked IS NULL AND due <= ?1 LIMIT ?2",
        params![now.0, limit],
        read_tombstone,
    )
}

pub(super) fn unlinked(c: &Connection, segments: &[SegmentId], now: Timestamp) -> R<Vec<SegmentId>> {
    let mut marked = Vec::new();
    for segment in segments {
        // Also only while it is due: a copy that is still being made was given more time.
        let mark = "UPDATE tombstones SET unlinked = ?2 WHERE segment = ?1 AND unlinked IS NULL AND due <= ?2";
        if changed(c, mark, params![segment.to_string(), now.0])? > 0 {
            marked.push(*segment);
        }
    }
    Ok(marked)
}

pub(super) fn postpone(c: &Connection, segments: &[SegmentId], due: Timestamp) -> R<()> {
    for segment in segments {
        // Also one whose second deletion failed: it begins anew.
        let again = "UPDATE tombstones SET due = ?2, unlinked = NULL WHERE segment = ?1";
        run(c, again, params![segment.to_string(), due.0])?;
    }
    Ok(())
}

pub(super) fn old_tombstones(c: &Connection, before: Timestamp, limit: u32) -> R<Vec<Tombstone>> {
    all(
        c,
        "SELECT segment, backend FROM tombstones WHERE unlinked <= ?1 LIMIT ?2",
        params![before.0, limit],
        read_tombstone,
    )
}

pub(super) fn drop_tombstones(c: &Connection, segments: &[SegmentId]) -> R<()> {
    for segment in segments {
        run(c, "DELETE FROM tombstones WHERE segment = ?1", [segment.to_string()])?;
    }
    Ok(())
}

pub(super) fn known_segments(c: &Connection, segments: &[SegmentId]) -> R<Vec<bool>> {
    segments
        .iter()
        .map(|segment| {
            let known = one(
                c,
                "SELECT EXISTS (SELECT 1 FROM pieces WHERE segment = ?1) OR EXISTS (SELECT 1 FROM tombstones WHERE segment = ?1)
                 OR EXISTS (SELECT 1 FROM session_pieces WHERE segment = ?1)
                 OR EXISTS (SELECT 1 FROM session_parts WHERE segment = ?1)
                 OR EXISTS (SELECT 1 FROM sessions WHERE id = ?2 AND direct IS NOT NULL)",
                params![segment.to_string(), segment.session.0.as_bytes()],
                |row| row.get(0),
            )?;
            Ok(known == Some(true))
        })
        .collect()
}

pub(super) fn pieces_of(c: &Connection, session: SessionId) -> R<Vec<(SegmentId, String)>> {
    let begin = session.0.simple();
    // Names begin with the session, and `.` comes behind `-`.
    let pieces = all(
        c,
        "SELECT segment, backend FROM pieces WHERE segment > ?1 AND segment < ?2",
        params![format!("{begin}-"), format!("{begin}.")],
        read_tombstone,
    )?;
    Ok(pieces.into_iter().map(|piece| (piece.segment, piece.backend)).collect())
}

pub(super) fn usage(c: &Connection, tenant: &TenantId) -> R<Usage> {
    let held = quota::held(c, tenant)?;
    let sources = all(
        c,
        "SELECT s.id, count(i.row), CAST(coalesce(sum(i.content_size), 0) AS BIGINT) FROM sources s
         LEFT JOIN items i ON i.source = s.row AND i.deleted IS NULL WHERE s.tenant = ?1 GROUP BY s.row ORDER BY s.row",
        [&tenant.0],
        |row| Ok((SourceId(row.get(0)?), size(row, 1)?, size(row, 2)?)),
    )?;
    Ok(Usage {
        bytes: held.bytes,
        files: held.versions,
        reserved: held.reserved,
        open_sessions: held.open_sessions,
        quota: quota::quota(c, tenant)?,
        sources,
        stores: stores::usage(c, tenant)?,
    })
}

/// Each query finds rows that must not be, as a sentence.
const INVARIANTS: &[&str] = &[
    "SELECT 'version ' || hex(v.id) || ' is held ' || v.pins || ' times, but ' || held.n || ' rows name it' FROM versions v
     JOIN (SELECT id, (SELECT count(*) FROM items i WHERE i.content_version = versions.id)
                    + (SELECT count(*) FROM push_contents p WHERE p.version = versions.id)
                    + (SELECT count(*) FROM files f WHERE f.version = versions.id AND f.registered IS NOT NULL)
                    + (SELECT count(*) FROM store_files s WHERE s.version = versions.id)
               AS n FROM versions) held
     ON held.id = v.id WHERE v.pins <> held.n",
    "SELECT 'item ' || i.document_id || ' names a version that does not exist' FROM items i
     WHERE i.content_version IS NOT NULL AND NOT EXISTS (SELECT 1 FROM versions v WHERE v.id = i.content_version)",
    "SELECT 'file ' || hex(f.id) || ' names a version that does not exist' FROM files f
     WHERE f.version IS NOT NULL AND NOT EXISTS (SELECT 1 FROM versions v WHERE v.id = f.version)",
    "SELECT 'version ' || hex(v.id) || ' has ' || v.size || ' bytes, its pieces ' || coalesce(sum(p.length), 0)
     FROM versions v LEFT JOIN pieces p ON p.version = v.id GROUP BY v.id HAVING v.size <> coalesce(sum(p.length), 0)",
    "SELECT 'session ' || hex(s.session) || ' has ' || s.received || ' bytes, its pieces ' || coalesce(sum(p.length), 0)
     FROM session_progress s LEFT JOIN session_pieces p ON p.session = s.session
     GROUP BY s.session HAVING s.received <> coalesce(sum(p.length), 0)",
    "SELECT 'session ' || hex(s.id) || ' has ' || s.parts_received || ' bytes in its parts, by their rows '
         || coalesce(sum(p.length), 0) FROM sessions s LEFT JOIN session_parts p ON p.session = s.id
     GROUP BY s.id HAVING s.parts_received <> coalesce(sum(p.length), 0)",
    "SELECT 'session ' || hex(p.session) || ' has a part ' || p.number || ', which it can''t have' FROM session_parts p
     JOIN sessions s ON s.id = p.session WHERE p.number NOT BETWEEN 1 AND coalesce(s.parts, 0)
     OR p.length > s.part_max OR s.state = 'committed'",
    "SELECT 'segment ' || p.segment || ' is a part and is to be deleted, or belongs to a version as well'
     FROM session_parts p WHERE EXISTS (SELECT 1 FROM tombstones t WHERE t.segment = p.segment)
     OR EXISTS (SELECT 1 FROM pieces v WHERE v.segment = p.segment)
     OR EXISTS (SELECT 1 FROM session_pieces v WHERE v.segment = p.segment)",
    "SELECT 'segment ' || p.segment || ' belongs to a session and is to be deleted, or to a version as well'
     FROM session_pieces p WHERE EXISTS (SELECT 1 FROM tombstones t WHERE t.segment = p.segment)
     OR EXISTS (SELECT 1 FROM pieces v WHERE v.segment = p.segment)",
    "SELECT 'tenant ' || u.tenant || ' holds ' || u.bytes || ' bytes in ' || u.versions || ' versions by its numbers, '
         || held.bytes || ' in ' || held.n || ' by its rows'
     FROM usage u JOIN (SELECT u2.tenant AS tenant,
         (SELECT coalesce(sum(size), 0) FROM versions v WHERE v.tenant = u2.tenant) AS bytes,
         (SELECT count(*) FROM versions v WHERE v.tenant = u2.tenant) AS n FROM usage u2) held ON held.tenant = u.tenant
     WHERE u.bytes <> held.bytes OR u.versions <> held.n",
    "SELECT 'tenant ' || u.tenant || ' has ' || u.open_sessions || ' open sessions with ' || u.reserved
         || ' bytes by its numbers, ' || held.n || ' with ' || held.bytes || ' by its rows'
     FROM usage u JOIN (SELECT u2.tenant AS tenant,
         (SELECT coalesce(sum(reserved), 0) FROM sessions s WHERE s.tenant = u2.tenant AND s.state = 'open') AS bytes,
         (SELECT count(*) FROM sessions s WHERE s.tenant = u2.tenant AND s.state = 'open') AS n FROM usage u2) held
     ON held.tenant = u.tenant WHERE u.open_sessions <> held.n OR u.reserved <> held.bytes",
    "SELECT 'segment ' || p.segment || ' is both in use and to be deleted' FROM pieces p JOIN tombstones t ON t.segment = p.segment",
    "SELECT 'push ' || p.row || ' waits for ' || p.pending || ' items, but ' || count(j.subject) || ' jobs are due'
     FROM pushes p LEFT JOIN jobs j ON j.push = p.row AND j.kind = 'extract' GROUP BY p.row HAVING p.pending > count(j.subject)",
    "SELECT 'push ' || row || ' is done, but waits for items' FROM pushes WHERE state = 'done' AND pending > 0",
    "SELECT 'item ' || i.document_id || ' waits for its text, but no job is due' FROM items i
     WHERE i.state = 'queued' AND i.deleted IS NULL
     AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.kind = 'extract' AND j.subject = i.row)",
    "SELECT 'store ' || hex(s.id) || ' has ' || s.files || ' files with ' || s.bytes || ' bytes by its numbers, '
         || count(f.row) || ' with ' || coalesce(sum(f.size), 0) || ' by its rows'
     FROM stores s LEFT JOIN store_files f ON f.store = s.row
     GROUP BY s.row HAVING s.files <> count(f.row) OR s.bytes <> coalesce(sum(f.size), 0)",
    "SELECT 'file ' || hex(f.file) || ' of a store has a version that does not exist' FROM store_files f
     WHERE NOT EXISTS (SELECT 1 FROM versions v WHERE v.id = f.version)",
    "SELECT 'file ' || hex(f.file) || ' of a store waits to be processed, but no job is due' FROM store_files f
     WHERE f.state IN ('pending', 'processing')
     AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.kind = 'process' AND j.subject = f.row)",
    "SELECT 'store ' || hex(s.id) || ' is deleted, but no job empties it' FROM stores s WHERE s.deleted IS NOT NULL
     AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.kind = 'empty' AND j.subject = s.row)",
    "SELECT 'source ' || s.id || ' counts ' || s.items || ' items, but holds ' || count(i.row) FROM sources s
     LEFT JOIN items i ON i.source = s.row AND i.deleted IS NULL GROUP BY s.row HAVING s.items <> count(i.row)",
    "SELECT 'entry ' || e.number || ' has its content, but its file is not there' FROM entries e WHERE e.uploaded IS NOT NULL
     AND NOT EXISTS (SELECT 1 FROM files f WHERE f.id = e.file AND f.registered IS NOT NULL)",
    "SELECT 'entry ' || e.number || ' has no content, but a file' FROM entries e WHERE e.uploaded IS NULL
     AND EXISTS (SELECT 1 FROM files f WHERE f.id = e.file)",
    "SELECT 'entry ' || t.number || ' is found and does not exist' FROM entry_terms t
     WHERE NOT EXISTS (SELECT 1 FROM entries e WHERE e.number = t.number)",
    "SELECT 'push ' || p.row || ' names changes that do not exist' FROM pushes p WHERE p.changes_version IS NOT NULL
     AND NOT EXISTS (SELECT 1 FROM versions v WHERE v.id = p.changes_version)",
];

pub(super) fn broken_invariants(c: &Connection, now: Timestamp) -> R<Vec<String>> {
    let mut broken = match c.flavour() {
        Flavour::Sqlite => all(c, "PRAGMA integrity_check(20)", NONE, |row| row.get::<String>(0))?,
        Flavour::Postgres => Vec::new(),
    };
    broken.retain(|line| line != "ok");
    for invariant in INVARIANTS {
        broken.extend(all(c, &format!("{invariant} LIMIT 100"), NONE, |row| row.get::<String>(0))?);
    }
    // A server that is stopped sweeps nothing; a day late is a sweeper that does not work.
    let overdue = one(
        c,
        "SELECT count(*) FROM sessions WHERE state = 'open' AND expires < ?1",
        [now.minus(limits::ORPHAN_GRACE).0],
        |row| size(row, 0),
    )?;
    if let Some(overdue @ 1..) = overdue {
        broken.push(format!("{overdue} sessions are open a day after they expired"));
    }
    Ok(broken)
}
