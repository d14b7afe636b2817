//! Files of a tenant: registered, listed, deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use super::rows::{all, digests, one, optional_time, optional_uuid, run, size, sql, time, unreadable, uuid};
use super::{entries, stores, uploads};
use crate::clock::Timestamp;
use crate::meta::{FileDeleted, FileFilter, RegisterFile, Registered};
use crate::model::file::FileRecord;
use crate::model::ids::{FileId, KeyId, TenantId, VersionId};
use crate::sql::{Connection, Row, params};

type R<T> = crate::sql::Result<T>;

const FILE: &str = "SELECT f.id, f.tenant, f.key, f.name, f.mime_type, f.path, f.metadata, f.registered,
    v.id, v.size, v.crc32c, v.crc64nvme, v.md5, v.sha256, v.committed, f.stored_as
    FROM files f JOIN versions v ON v.id = f.version";

fn read(row: &Row<'_>) -> R<FileRecord> {
    let metadata: Option<String> = row.get(6)?;
    let metadata: BTreeMap<String, String> = match metadata {
        Some(text) => serde_json::from_str(&text).map_err(|error| unreadable(6, error.to_string()))?,
        None => BTreeMap::new(),
    };
    Ok(FileRecord {
        id: FileId(uuid(row, 0)?),
        tenant: TenantId(row.get(1)?),
        key: optional_uuid(row, 2)?.map(KeyId),
        name: row.get(3)?,
        stored_as: row.get(15)?,
        mime_type: row.get(4)?,
        path: row.get(5)?,
        metadata,
        registered: optional_time(row, 7)?,
        version: VersionId(uuid(row, 8)?),
        size: size(row, 9)?,
        digests: digests(row, 10)?,
        committed: time(row, 14)?,
    })
}

pub(super) fn record(c: &Connection, tenant: &TenantId, id: FileId) -> R<Option<FileRecord>> {
    one(
        c,
        &format!("{FILE} WHERE f.id = ?1 AND f.tenant = ?2 AND f.name IS NOT NULL"),
        params![id.0.as_bytes(), tenant.0],
        read,
    )
}

pub(super) fn register(c: &Connection, ask: &RegisterFile) -> R<Registered> {
    let Some(found) = record(c, &ask.tenant, ask.file)? else { return Ok(Registered::Gone) };
    if found.registered.is_some() {
        return Ok(Registered::Before(found));
    }
    hold(c, found.id, found.version, ask.now)?;
    run(c, "UPDATE files SET name = ?2 WHERE id = ?1", params![found.id.0.as_bytes(), ask.name])?;
    Ok(Registered::New(FileRecord { registered: Some(ask.now), name: ask.name.clone(), ..found }))
}

/// From now on the file is one of the tenant's, and holds its version.
pub(super) fn hold(c: &Connection, file: FileId, version: VersionId, now: Timestamp) -> R<()> {
    run(c, "UPDATE files SET registered = ?2, expires = NULL WHERE id = ?1", params![file.0.as_bytes(), now.0])?;
    uploads::pin(c, version)
}

pub(super) fn list(c: &Connection, tenant: &TenantId, filter: &FileFilter) -> R<Vec<FileRecord>> {
    let (before_time, before_id) =
        filter.before.map_or((i64::MAX, [0xff; 16]), |(registered, id)| (registered.0, id.0.into_bytes()));
    let below = filter.path.as_ref().map(|path| format!("{path}/"));
    all(
        c,
        &format!(
            "{FILE} WHERE f.tenant = ?1 AND f.registered IS NOT NULL AND (f.registered, f.id) < (?2, ?3)
             AND (?4 IS NULL OR f.path = ?4 OR substr(f.path, 1, length(?5)) = ?5)
             AND (?6 IS NULL OR f.name = ?6) AND (?7 IS NULL OR f.mime_type = ?7)
             AND (?8 IS NULL OR v.size >= ?8) AND (?9 IS NULL OR v.committed > ?9)
             ORDER BY f.registered DESC, f.id DESC LIMIT ?10 OFFSET ?11"
        ),
        params![
            tenant.0,
            before_time,
            before_id,
            filter.path,
            below,
            filter.name,
            filter.mime_type,
            filter.min_size.map(sql),
            filter.committed_after.map(|t| t.0),
            filter.limit,
            sql(filter.offset)
        ],
        read,
    )
}

pub(super) fn count(c: &Connection, tenant: &TenantId) -> R<u64> {
    let count = "SELECT count(*) FROM files WHERE tenant = ?1 AND registered IS NOT NULL";
    Ok(one(c, count, [&tenant.0], |row| size(row, 0))?.unwrap_or(0))
}

pub(super) fn delete(
    c: &Connection,
    tenant: &TenantId,
    id: FileId,
    force: bool,
    now: Timestamp,
    keep_replaced: Duration,
) -> R<FileDeleted> {
    let Some(found) = record(c, tenant, id)?.filter(|file| file.registered.is_some()) else {
        return Ok(FileDeleted::Missing);
    };
    if !force && let held @ 1.. = stores::holders(c, id)? {
        return Ok(FileDeleted::Held(held));
    }
    drop_file(c, id, found.version, now, keep_replaced)?;
    entries::forget(c, id)?;
    Ok(FileDeleted::Done)
}

/// Lets go of a registered file: it leaves its stores, its uploads end, and its bytes are due for deletion.
pub(super) fn drop_file(
    c: &Connection,
    id: FileId,
    version: VersionId,
    now: Timestamp,
    keep_replaced: Duration,
) -> R<()> {
    stores::leave_all(c, id, now, now.plus(keep_replaced))?;
    run(c, "DELETE FROM files WHERE id = ?1", [id.0.as_bytes()])?;
    uploads::end_uploads_of(c, id, now)?;
    uploads::unpin(c, version, now.plus(keep_replaced))
}

pub(super) fn discard(c: &Connection, tenant: &TenantId, id: FileId, now: Timestamp) -> R<bool> {
    let Some(found) = record(c, tenant, id)?.filter(|file| file.registered.is_none()) else { return Ok(false) };
    // Its upload is over with it: no repetition may bring it back.
    run(
        c,
        "UPDATE sessions SET state = 'aborted', epoch = epoch + 1 WHERE id = (SELECT session FROM files WHERE id = ?1)",
        [id.0.as_bytes()],
    )?;
    run(c, "DELETE FROM files WHERE id = ?1", [id.0.as_bytes()])?;
    uploads::drop_version_unless_held(c, found.version, now)?;
    Ok(true)
}
