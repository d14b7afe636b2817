//! Sessions, files, versions, streams.

use uuid::Uuid;

use super::rows::{
    all, changed, crcs, digests, json, one, optional_size, optional_time, optional_uuid, ordering, pieces, run, size,
    sql, time, unreadable, uuid, word,
};
use super::{calls, entries, files, parts, quota, resume, rows, stores};
use crate::clock::Timestamp;
use crate::meta::{Committed, FileInfo, LinkFile, Marked, NewVersion, Once, Opening, Over, OverQuota};
use crate::model::change::Ordering;
use crate::model::file::{Receipt, Version};
use crate::model::ids::{FileId, KeyId, RequestId, SessionId, StoreFileId, StreamId, TenantId, VersionId};
use crate::model::session::{Declaration, Direct, Parts, Session, SessionState, Strategy};
use crate::sql::{Connection, Row, SqlError, params};

type R<T> = crate::sql::Result<T>;

pub(super) fn open_sessions(c: &Connection, sessions: &[Session]) -> R<Option<OverQuota>> {
    let Some(first) = sessions.first() else { return Ok(None) };
    let bytes = sessions.iter().map(|s| s.reserved).fold(0, u64::saturating_add);
    let over = quota::room(c, &first.tenant, bytes, u64::try_from(sessions.len()).unwrap_or(u64::MAX))?;
    if over.is_some() {
        return Ok(over);
    }
    for session in sessions {
        open_session(c, session)?;
    }
    Ok(None)
}

pub(super) fn open_marked(c: &Connection, session: &Session, once: &Once) -> R<Opening> {
    match calls::recall(c, &session.tenant, once)? {
        Marked::New => {}
        Marked::Before(id) => {
            let id = SessionId(Uuid::from_slice(&id).unwrap_or_default());
            // A session outlives the marks: it is remembered for a day after its end.
            let before = session_by_id(c, id)?;
            return Ok(before.map_or(Opening::OtherBody, |session| Opening::Before(Box::new(session))));
        }
        Marked::OtherBody => return Ok(Opening::OtherBody),
    }
    if let Some(over) = open_sessions(c, std::slice::from_ref(session))? {
        return Ok(Opening::OverQuota(over));
    }
    calls::remember(c, &session.tenant, once, session.id.0.as_bytes(), session.created)?;
    Ok(Opening::New)
}

fn open_session(c: &Connection, s: &Session) -> R<()> {
    let declaration = s.declaration.as_ref().map(serde_json::to_string).transpose();
    let declaration = declaration.map_err(|error| SqlError::Failed(error.to_string()))?;
    run(
        c,
        "INSERT INTO sessions (id, tenant, file, wire, strategy, state, epoch, size, max_bytes, versions_allowed, created, expires,
         reserved, registers, key, name, declaration, needs_file, parts, part_min, part_max, direct)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)",
        params![
            s.id.0.as_bytes(),
            s.tenant.0,
            s.file.0.as_bytes(),
            s.wire,
            s.strategy.name(),
            s.state.name(),
            s.epoch,
            s.size.map(sql),
            sql(s.max_bytes),
            s.versions_allowed,
            s.created.0,
            s.expires.0,
            sql(s.reserved),
            s.registers,
            s.key.map(|key| key.0.into_bytes()),
            s.declaration.as_ref().map(|d| d.name.as_str()),
            declaration,
            s.needs_file,
            s.parts.map(|parts| parts.count),
            s.parts.map(|parts| sql(parts.smallest)),
            s.parts.map(|parts| sql(parts.largest)),
            s.direct.as_ref().map(stored).transpose()?
        ],
    )?;
    quota::session_opened(c, &s.tenant, s.reserved)
}

pub(super) const SESSION: &str =
    "SELECT id, tenant, file, wire, strategy, state, epoch, size, max_bytes, versions_allowed, created, expires,
     reserved, registers, key, name, declaration, needs_file, parts, part_min, part_max, direct FROM sessions";

/// What is stored of a session's way to the store itself.
pub(super) fn stored(direct: &Direct) -> R<String> {
    serde_json::to_string(direct).map_err(|error| SqlError::Failed(error.to_string()))
}

pub(super) fn read_session(row: &Row<'_>) -> R<Session> {
    let name: Option<String> = row.get(15)?;
    let declaration = match name {
        None => None,
        Some(name) => {
            let stored: Declaration =
                serde_json::from_value(json(row, 16)?).map_err(|e| unreadable(16, e.to_string()))?;
            Some(Declaration { name, ..stored })
        }
    };
    Ok(Session {
        id: SessionId(uuid(row, 0)?),
        tenant: TenantId(row.get(1)?),
        file: FileId(uuid(row, 2)?),
        wire: row.get(3)?,
        strategy: word(row, 4, Strategy::from_name)?,
        state: word(row, 5, SessionState::from_name)?,
        epoch: row.get(6)?,
        size: optional_size(row, 7)?,
        max_bytes: size(row, 8)?,
        versions_allowed: row.get(9)?,
        created: time(row, 10)?,
        expires: time(row, 11)?,
        reserved: size(row, 12)?,
        registers: row.get(13)?,
        key: optional_uuid(row, 14)?.map(KeyId),
        declaration,
        needs_file: row.get(17)?,
        parts: match row.get(18)? {
            None => None,
            Some(count) => Some(Parts { count, smallest: size(row, 19)?, largest: size(row, 20)? }),
        },
        direct: match row.get::<Option<String>>(21)? {
            None => None,
            Some(text) => Some(serde_json::from_str(&text).map_err(|e| unreadable(21, e.to_string()))?),
        },
    })
}

pub(super) fn session_by_id(c: &Connection, id: SessionId) -> R<Option<Session>> {
    one(c, &format!("{SESSION} WHERE id = ?1"), [id.0.as_bytes()], read_session)
}

pub(super) fn session(c: &Connection, tenant: &TenantId, id: SessionId) -> R<Option<Session>> {
    one(c, &format!("{SESSION} WHERE id = ?1 AND tenant = ?2"), params![id.0.as_bytes(), tenant.0], read_session)
}

pub(super) fn commit(c: &Connection, new: &NewVersion) -> R<Committed> {
    let Some(session) = session_by_id(c, new.session)? else { return Ok(Committed::Closed) };
    let live = match session.state {
        SessionState::Open | SessionState::Committed => true,
        SessionState::Aborted | SessionState::Expired | SessionState::Failed => false,
    };
    if !live || session.epoch != new.epoch || session.expires <= new.now {
        return Ok(Committed::Closed);
    }
    let present = file(c, &session.tenant, session.file)?;
    let current = present.as_ref().and_then(|file| file.version.as_ref());
    match new.over {
        Over::Anything => {}
        Over::Nothing if present.is_some() => return Ok(Committed::Exists),
        Over::Nothing => {}
        Over::This(_) if current.is_some_and(|version| version.pieces == new.pieces) => {}
        Over::This(seen) if current.map(|version| version.id) != seen => return Ok(Committed::Exists),
        Over::This(_) => {}
    }
    if let Some(present) = &present
        && session.state == SessionState::Committed
    {
        // What was committed by the same name is the same, whatever is known of it; and of a key that takes one body there is
        // nothing else, wherever that lies by now.
        let same = present.size == new.size && present.digests.same_bytes(&new.digests)
            || session.direct.as_ref().is_some_and(|direct| direct.create_only)
            || present.version.as_ref().is_some_and(|version| version.pieces == new.pieces);
        match (&present.version, present.used.is_some(), same) {
            (_, true, true) => {
                return Ok(Committed::SameAsUsed { size: present.size, digests: present.digests });
            }
            (_, true, false) => return Ok(Committed::Used),
            (Some(version), false, true) => return Ok(Committed::Same(version.clone())),
            (_, false, _) if !session.versions_allowed => return Ok(Committed::Closed),
            (_, false, _) => {}
        }
    }
    // An upload of a file's next version ends with the file, and no repetition brings back one that was deleted.
    if present.is_none() && (session.needs_file || session.state == SessionState::Committed) {
        return Ok(Committed::Closed);
    }
    // Parts are committed by their rows, unless the store has joined them.
    if session.strategy == Strategy::Multipart && session.direct.is_none() {
        return Ok(Committed::Closed);
    }
    if session.strategy == Strategy::Resumable
        && (session.state != SessionState::Open || resume::received(c, session.id)? != new.from)
    {
        return Ok(Committed::Closed);
    }
    make_version(c, &session, new, present)
}

/// The version itself, once nothing speaks against it.
pub(super) fn make_version(
    c: &Connection,
    session: &Session,
    new: &NewVersion,
    present: Option<FileInfo>,
) -> R<Committed> {
    // What lies elsewhere by now, or is being deleted, comes back by no commit.
    for piece in &new.pieces {
        let gone = "SELECT 1 FROM tombstones WHERE segment = ?1";
        if one(c, gone, [piece.segment.to_string()], |_| Ok(()))?.is_some() {
            return Ok(Committed::Closed);
        }
    }
    // What the session reserved is its own; only what goes beyond must fit.
    let beyond = new.size.saturating_sub(session.reserved);
    if (session.key.is_some() || session.declaration.is_some())
        && let Some(over) = quota::room(c, &session.tenant, beyond, 0)?
    {
        return Ok(Committed::OverQuota(over));
    }
    match session.strategy {
        Strategy::Single => {}
        Strategy::Resumable => resume::forget_progress(c, session.id)?,
        Strategy::Multipart => parts::forget(c, session.id)?,
    }
    let version = Version {
        id: new.version,
        tenant: session.tenant.clone(),
        file: session.file,
        size: new.size,
        digests: new.digests,
        committed: new.now,
        pieces: new.pieces.clone(),
    };
    insert_version(c, &version)?;
    if session.state == SessionState::Open {
        quota::session_ended(c, session)?;
        run(c, "UPDATE sessions SET state = 'committed', reserved = 0 WHERE id = ?1", [session.id.0.as_bytes()])?;
    }
    put_file(c, session, &version)?;
    if session.declaration.is_some() {
        put_receipt(c, session.id, &version)?;
    }
    let replaced = present.and_then(|p| p.version);
    let due = new.now.plus(new.keep_replaced);
    if registered(c, session.file)? {
        pin(c, version.id)?;
        if let Some(replaced) = replaced {
            unpin(c, replaced.id, due)?;
        }
    } else {
        if session.registers {
            files::hold(c, session.file, version.id, new.now)?;
        }
        if let Some(replaced) = replaced {
            drop_version_unless_held(c, replaced.id, due)?;
        }
    }
    if session.registers {
        attach(c, session, new)?;
    }
    // What is an entry's content has an id of its own from the beginning.
    if session.declaration.is_some() && session.file.0 != session.id.0 {
        entries::content_came(c, session.file, new.now)?;
    }
    Ok(Committed::New(version))
}

/// Takes the file into the store that its session names. A store that was deleted meanwhile takes nothing, and the file is
/// the tenant's all the same.
fn attach(c: &Connection, session: &Session, new: &NewVersion) -> R<()> {
    let Some(declared) = &session.declaration else { return Ok(()) };
    let Some(store) = declared.store else { return Ok(()) };
    let Some(row) = stores::row_of(c, &session.tenant, store)? else { return Ok(()) };
    let link = LinkFile {
        store: row,
        tenant: session.tenant.clone(),
        file: session.file,
        // New, and used for nothing else of its kind.
        id: StoreFileId(new.version.0),
        path: declared.store_path.clone(),
        registered_only: true,
        now: new.now,
        keep_replaced: new.keep_replaced,
    };
    stores::link(c, &link).map(drop)
}

fn put_file(c: &Connection, session: &Session, version: &Version) -> R<()> {
    let declared = session.declaration.as_ref();
    let metadata = declared.filter(|d| !d.metadata.is_empty()).map(|d| serde_json::to_string(&d.metadata)).transpose();
    let metadata = metadata.map_err(|error| SqlError::Failed(error.to_string()))?;
    run(
        c,
        "INSERT INTO files (id, tenant, session, version, size, crc32c, crc64nvme, created, expires,
         key, name, stored_as, mime_type, path, metadata)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11, ?12, ?13, ?14)
         ON CONFLICT (id) DO UPDATE SET version = ?4, size = ?5, crc32c = ?6, crc64nvme = ?7, session = ?3,
         key = ?10, name = ?11, stored_as = ?11, mime_type = ?12, path = ?13, metadata = ?14",
        params![
            session.file.0.as_bytes(),
            session.tenant.0,
            session.id.0.as_bytes(),
            version.id.0.as_bytes(),
            sql(version.size),
            version.digests.crc32c,
            version.digests.crc64nvme.map(u64::cast_signed),
            version.committed.0,
            session.expires.0,
            session.key.map(|key| key.0.into_bytes()),
            declared.map(|d| d.name.as_str()),
            declared.map(|d| d.mime_type.as_str()),
            declared.and_then(|d| d.path.as_deref()),
            metadata
        ],
    )
}

fn put_receipt(c: &Connection, session: SessionId, version: &Version) -> R<()> {
    let d = &version.digests;
    run(
        c,
        "INSERT INTO receipts (session, version, size, crc32c, crc64nvme, md5, sha256, committed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (session) DO UPDATE SET version = ?2, size = ?3, crc32c = ?4, crc64nvme = ?5, md5 = ?6, sha256 = ?7,
         committed = ?8",
        params![
            session.0.as_bytes(),
            version.id.0.as_bytes(),
            sql(version.size),
            d.crc32c,
            d.crc64nvme.map(u64::cast_signed),
            d.md5,
            d.sha256,
            version.committed.0
        ],
    )
}

pub(super) fn receipt(c: &Connection, session: SessionId) -> R<Option<Receipt>> {
    one(
        c,
        "SELECT version, size, crc32c, crc64nvme, md5, sha256, committed FROM receipts WHERE session = ?1",
        [session.0.as_bytes()],
        |row| {
            Ok(Receipt {
                version: VersionId(uuid(row, 0)?),
                size: size(row, 1)?,
                digests: digests(row, 2)?,
                committed: time(row, 6)?,
            })
        },
    )
}

/// Ends the open uploads of a file that is deleted.
pub(super) fn end_uploads_of(c: &Connection, file: FileId, now: Timestamp) -> R<()> {
    let open = all(
        c,
        "SELECT id FROM sessions WHERE file = ?1 AND name IS NOT NULL AND state = 'open'",
        [file.0.as_bytes()],
        |row| Ok(SessionId(uuid(row, 0)?)),
    )?;
    for session in open {
        resume::end_session(c, session, SessionState::Aborted, now)?;
    }
    Ok(())
}

fn registered(c: &Connection, file: FileId) -> R<bool> {
    let found =
        one(c, "SELECT registered IS NOT NULL FROM files WHERE id = ?1", [file.0.as_bytes()], |row| row.get(0))?;
    Ok(found == Some(true))
}

fn insert_version(c: &Connection, version: &Version) -> R<()> {
    let d = &version.digests;
    run(
        c,
        "INSERT INTO versions (id, tenant, file, size, crc32c, crc64nvme, md5, sha256, committed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            version.id.0.as_bytes(),
            version.tenant.0,
            version.file.0.as_bytes(),
            sql(version.size),
            d.crc32c,
            d.crc64nvme.map(u64::cast_signed),
            d.md5,
            d.sha256,
            version.committed.0
        ],
    )?;
    quota::version_made(c, &version.tenant, version.size)?;
    for (position, piece) in version.pieces.iter().enumerate() {
        run(
            c,
            "INSERT INTO pieces (version, position, segment, length, crc32c, crc64nvme, backend) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                version.id.0.as_bytes(),
                i64::try_from(position).unwrap_or(i64::MAX),
                piece.segment.to_string(),
                sql(piece.length),
                piece.digests.crc32c,
                piece.digests.crc64nvme.map(u64::cast_signed),
                piece.backend
            ],
        )?;
    }
    Ok(())
}

/// Holds a version once more.
pub(super) fn pin(c: &Connection, version: VersionId) -> R<()> {
    run(c, "UPDATE versions SET pins = pins + 1 WHERE id = ?1", [version.0.as_bytes()])?;
    Ok(())
}

/// Lets go of a version; the last one to do so makes its bytes due for deletion.
pub(super) fn unpin(c: &Connection, version: VersionId, due: Timestamp) -> R<()> {
    run(c, "UPDATE versions SET pins = pins - 1 WHERE id = ?1 AND pins > 0", [version.0.as_bytes()])?;
    drop_version_unless_held(c, version, due)
}

/// Rows before bytes: the version goes and its segments become tombstones, in one step.
pub(super) fn drop_version_unless_held(c: &Connection, version: VersionId, due: Timestamp) -> R<()> {
    let found = one(c, "SELECT pins > 0, tenant, size FROM versions WHERE id = ?1", [version.0.as_bytes()], |row| {
        Ok((row.get::<bool>(0)?, TenantId(row.get(1)?), size(row, 2)?))
    })?;
    let Some((false, tenant, bytes)) = found else { return Ok(()) };
    quota::version_dropped(c, &tenant, bytes)?;
    rows::entomb(c, "pieces", "version", version.0.as_bytes(), due)?;
    run(
        c,
        "UPDATE files SET version = NULL WHERE version = ?1 AND id = (SELECT file FROM versions WHERE id = ?1)",
        [version.0.as_bytes()],
    )?;
    run(c, "DELETE FROM versions WHERE id = ?1", [version.0.as_bytes()])?;
    Ok(())
}

const VERSION: &str = "SELECT id, tenant, file, size, crc32c, crc64nvme, md5, sha256, committed FROM versions";

/// A version without its pieces.
fn read_version(row: &Row<'_>) -> R<Version> {
    Ok(Version {
        id: VersionId(uuid(row, 0)?),
        tenant: TenantId(row.get(1)?),
        file: FileId(uuid(row, 2)?),
        size: size(row, 3)?,
        digests: digests(row, 4)?,
        committed: time(row, 8)?,
        pieces: Vec::new(),
    })
}

pub(super) fn version(c: &Connection, tenant: Option<&TenantId>, id: VersionId) -> R<Option<Version>> {
    let found = one(
        c,
        &format!("{VERSION} WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2)"),
        params![id.0.as_bytes(), tenant.map(TenantId::as_str)],
        read_version,
    )?;
    let Some(mut version) = found else { return Ok(None) };
    version.pieces = pieces(
        c,
        "SELECT segment, length, crc32c, crc64nvme, backend FROM pieces WHERE version = ?1 ORDER BY position",
        id.0.as_bytes(),
    )?;
    Ok(Some(version))
}

pub(super) fn versions_of(c: &Connection, tenant: &TenantId, file: FileId) -> R<Vec<Version>> {
    all(
        c,
        &format!("{VERSION} WHERE file = ?1 AND tenant = ?2 ORDER BY id DESC LIMIT 100"),
        params![file.0.as_bytes(), tenant.0],
        read_version,
    )
}

pub(super) fn versions_above(c: &Connection, after: Option<VersionId>, limit: u32) -> R<Vec<Version>> {
    let from = after.map_or([0; 16], |v| v.0.into_bytes());
    let ids = all(c, "SELECT id FROM versions WHERE id > ?1 ORDER BY id LIMIT ?2", params![from, limit], |row| {
        Ok(VersionId(uuid(row, 0)?))
    })?;
    ids.into_iter().filter_map(|id| version(c, None, id).transpose()).collect()
}

pub(super) fn file(c: &Connection, tenant: &TenantId, id: FileId) -> R<Option<FileInfo>> {
    let found = one(
        c,
        "SELECT f.version, f.size, f.crc32c, f.crc64nvme, f.expires, p.request, p.ordering, f.used_as, f.used_by
         FROM files f LEFT JOIN pushes p ON p.row = f.used_by WHERE f.id = ?1 AND f.tenant = ?2",
        params![id.0.as_bytes(), tenant.0],
        |row| {
            let used = match (row.get::<Option<i64>>(8)?, optional_uuid(row, 5)?) {
                (Some(_), Some(request)) => Some((RequestId(request), ordering(row, 6)?, row.get(7)?)),
                // The push is forgotten; that the file was used is not.
                (Some(_), None) => Some((RequestId(Uuid::nil()), Ordering::default(), Vec::new())),
                (None, _) => None,
            };
            let info = FileInfo {
                id,
                version: None,
                size: size(row, 1)?,
                digests: crcs(row, 2)?,
                used,
                expires: optional_time(row, 4)?,
            };
            Ok((info, optional_uuid(row, 0)?))
        },
    )?;
    let Some((mut info, current)) = found else { return Ok(None) };
    if let Some(current) = current {
        info.version = version(c, Some(tenant), VersionId(current))?;
    }
    Ok(Some(info))
}

/// Remembers that a push used a file. The file's own row stays until its session is over, for repeated calls.
pub(super) fn use_file(c: &Connection, file: FileId, push: i64, call: &[u8]) -> R<()> {
    run(c, "UPDATE files SET used_by = ?2, used_as = ?3 WHERE id = ?1", params![file.0.as_bytes(), push, call])?;
    Ok(())
}

pub(super) fn open_stream(
    c: &Connection,
    stream: StreamId,
    tenant: &TenantId,
    source: i64,
    file: FileId,
    now: Timestamp,
) -> R<()> {
    run(
        c,
        "INSERT INTO streams (id, tenant, source, opened) VALUES (?1, ?2, ?3, ?4)",
        params![stream.0.as_bytes(), tenant.0, source, now.0],
    )?;
    run(
        c,
        "INSERT INTO stream_files (stream, position, file) VALUES (?1, 0, ?2)",
        params![stream.0.as_bytes(), file.0.as_bytes()],
    )?;
    Ok(())
}

pub(super) fn add_chunk(c: &Connection, stream: StreamId, tenant: &TenantId, source: i64, file: FileId) -> R<bool> {
    let added = changed(
        c,
        "INSERT INTO stream_files (stream, position, file)
         SELECT s.id, (SELECT count(*) FROM stream_files f WHERE f.stream = s.id), ?4
         FROM streams s WHERE s.id = ?1 AND s.tenant = ?2 AND s.source = ?3 AND s.push IS NULL",
        params![stream.0.as_bytes(), tenant.0, source, file.0.as_bytes()],
    )?;
    Ok(added == 1)
}

pub(super) type StreamFiles = (Vec<FileId>, Option<(RequestId, Ordering)>);

pub(super) fn stream(c: &Connection, stream: StreamId, tenant: &TenantId, source: i64) -> R<Option<StreamFiles>> {
    let closed = one(
        c,
        "SELECT p.request, p.ordering FROM streams s LEFT JOIN pushes p ON p.row = s.push
         WHERE s.id = ?1 AND s.tenant = ?2 AND s.source = ?3",
        params![stream.0.as_bytes(), tenant.0, source],
        |row| match optional_uuid(row, 0)? {
            Some(request) => Ok(Some((RequestId(request), ordering(row, 1)?))),
            None => Ok(None),
        },
    )?;
    let Some(closed) = closed else { return Ok(None) };
    let files =
        all(c, "SELECT file FROM stream_files WHERE stream = ?1 ORDER BY position", [stream.0.as_bytes()], |row| {
            Ok(FileId(uuid(row, 0)?))
        })?;
    Ok(Some((files, closed)))
}
