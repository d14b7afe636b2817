//! Stores and their files.

use std::time::Duration;

use serde_json::Value;

use super::rows::{all, changed, json_map, made, one, optional_time, optional_uuid, run, size, sql, time, uuid, word};
use super::{files, jobs, uploads};
use crate::clock::Timestamp;
use crate::limits;
use crate::meta::{
    Began, Holder, LeasedJob, LinkFile, Linked, NewStore, Processed, StoreFileFilter, StoreFilter, StoreOrder,
    StoreUsage,
};
use crate::model::ids::{FileId, KeyId, StoreFileId, StoreId, TenantId, VersionId};
use crate::model::job::JobKind;
use crate::model::store::{LogEntry, LogLevel, ProcessingState, Step, Store, StoreFile};
use crate::sql::{Connection, Flavour, Owned as Sql, Row, params};

type R<T> = crate::sql::Result<T>;

const STORE: &str =
    "SELECT row, id, tenant, name, description, active, properties, created_by, created, changed, files, bytes
    FROM stores";

fn read_store(row: &Row<'_>) -> R<Store> {
    Ok(Store {
        row: row.get(0)?,
        id: StoreId(uuid(row, 1)?),
        tenant: TenantId(row.get(2)?),
        name: row.get(3)?,
        description: row.get(4)?,
        active: row.get(5)?,
        properties: json_map(row, 6)?,
        created_by: optional_uuid(row, 7)?.map(KeyId),
        created: time(row, 8)?,
        changed: time(row, 9)?,
        files: size(row, 10)?,
        bytes: size(row, 11)?,
    })
}

const FILE: &str = "SELECT f.row, f.id, s.id, s.row, s.tenant, f.file, f.version, f.name, f.size, f.mime_type, f.path,
    f.state, f.step, f.chunks, f.problem, f.created, f.started, f.ended
    FROM store_files f JOIN stores s ON s.row = f.store AND s.deleted IS NULL";

fn read_file(row: &Row<'_>) -> R<StoreFile> {
    Ok(StoreFile {
        row: row.get(0)?,
        id: StoreFileId(uuid(row, 1)?),
        store: StoreId(uuid(row, 2)?),
        store_row: row.get(3)?,
        tenant: TenantId(row.get(4)?),
        file: FileId(uuid(row, 5)?),
        version: VersionId(uuid(row, 6)?),
        name: row.get(7)?,
        size: size(row, 8)?,
        mime_type: row.get(9)?,
        path: row.get(10)?,
        state: word(row, 11, ProcessingState::from_name)?,
        step: word(row, 12, Step::from_name)?,
        chunks: size(row, 13)?,
        problem: row.get(14)?,
        created: time(row, 15)?,
        started: optional_time(row, 16)?,
        ended: optional_time(row, 17)?,
    })
}

/// Names are searched without case, also beyond ASCII.
fn folded(name: &str) -> String {
    name.to_lowercase()
}

pub(super) fn create(c: &Connection, new: &NewStore) -> R<Store> {
    let row = made(
        c,
        "INSERT INTO stores (id, tenant, name, folded, description, active, properties, created_by, created, changed)
         VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6, ?7, ?8, ?8) RETURNING row",
        params![
            new.id.0.as_bytes(),
            new.tenant.0,
            new.name,
            folded(&new.name),
            new.description,
            Value::Object(new.properties.clone()).to_string(),
            new.created_by.map(|key| key.0.into_bytes()),
            new.now.0
        ],
    )?;
    Ok(Store {
        row,
        id: new.id,
        tenant: new.tenant.clone(),
        name: new.name.clone(),
        description: new.description.clone(),
        active: true,
        properties: new.properties.clone(),
        created_by: new.created_by,
        created: new.now,
        changed: new.now,
        files: 0,
        bytes: 0,
    })
}

pub(super) fn store(c: &Connection, tenant: &TenantId, id: StoreId) -> R<Option<Store>> {
    one(
        c,
        &format!("{STORE} WHERE id = ?1 AND tenant = ?2 AND deleted IS NULL"),
        params![id.0.as_bytes(), tenant.0],
        read_store,
    )
}

pub(super) fn list(c: &Connection, tenant: &TenantId, filter: &StoreFilter) -> R<(Vec<Store>, u64)> {
    let has_property = match c.flavour() {
        Flavour::Sqlite => {
            "EXISTS (SELECT 1 FROM json_each(properties) p WHERE p.key = ?4
             AND (p.atom = ?5 OR (p.type = 'array' AND EXISTS (SELECT 1 FROM json_each(p.value) e WHERE e.atom = ?5))))"
        }
        Flavour::Postgres => {
            "EXISTS (SELECT 1 FROM json_each(CAST(replace(properties, '\\u0000', '\\ufffe') AS json)) p WHERE p.key = ?4
             AND CASE json_typeof(p.value)
                 WHEN 'string' THEN p.value #>> '{}' = ?5
                 WHEN 'array' THEN EXISTS (SELECT 1 FROM json_array_elements(p.value) e
                     WHERE json_typeof(e) = 'string' AND e #>> '{}' = ?5)
                 ELSE false END)"
        }
    };
    let which = format!(
        "tenant = ?1 AND deleted IS NULL AND (?2 IS NULL OR instr(folded, ?2) > 0)
         AND (?3 IS NULL OR active = ?3) AND (?4 IS NULL OR {has_property})"
    );
    let (key, value) = filter.property.clone().unzip();
    let search = filter.search.as_deref().map(folded);
    let column = match filter.order {
        StoreOrder::Created => "created",
        StoreOrder::Name => "folded",
        StoreOrder::Bytes => "bytes",
    };
    let direction = if filter.ascending { "ASC" } else { "DESC" };
    let found = all(
        c,
        &format!(
            "{STORE} WHERE {which} AND row < ?6 ORDER BY {column} {direction}, row {direction} LIMIT ?7 OFFSET ?8"
        ),
        params![
            tenant.0,
            search,
            filter.active,
            key,
            value,
            filter.before.unwrap_or(i64::MAX),
            filter.limit,
            sql(filter.offset)
        ],
        read_store,
    )?;
    let count = format!("SELECT count(*) FROM stores WHERE {which}");
    let total = one(c, &count, params![tenant.0, search, filter.active, key, value], |row| size(row, 0))?;
    Ok((found, total.unwrap_or(0)))
}

pub(super) fn update(c: &Connection, store: &Store) -> R<bool> {
    let changed = changed(
        c,
        "UPDATE stores SET name = ?2, folded = ?3, description = ?4, active = ?5, properties = ?6, changed = ?7
         WHERE row = ?1 AND deleted IS NULL",
        params![
            store.row,
            store.name,
            folded(&store.name),
            store.description,
            store.active,
            Value::Object(store.properties.clone()).to_string(),
            store.changed.0
        ],
    )?;
    Ok(changed == 1)
}

pub(super) fn delete(c: &Connection, store: i64, now: Timestamp) -> R<bool> {
    let deleted =
        changed(c, "UPDATE stores SET deleted = ?2 WHERE row = ?1 AND deleted IS NULL", params![store, now.0])?;
    if deleted == 1 {
        jobs::enqueue(c, JobKind::Empty, store, -store, now)?;
    }
    Ok(deleted == 1)
}

pub(super) fn empty(c: &Connection, store: i64, limit: u32, now: Timestamp, keep_replaced: Duration) -> R<bool> {
    let held = all(
        c,
        "SELECT f.row, f.version, f.size FROM store_files f JOIN stores s ON s.row = f.store AND s.deleted IS NOT NULL
         WHERE f.store = ?1 LIMIT ?2",
        params![store, limit],
        |row| Ok((row.get::<i64>(0)?, VersionId(uuid(row, 1)?), size(row, 2)?)),
    )?;
    for (row, version, bytes) in &held {
        let_go(c, store, *row, *version, *bytes, now, now.plus(keep_replaced))?;
    }
    if u32::try_from(held.len()).is_ok_and(|count| count >= limit) {
        return Ok(true);
    }
    run(c, "DELETE FROM jobs WHERE kind = ?1 AND subject = ?2", params![JobKind::Empty.name(), store])?;
    run(c, "DELETE FROM stores WHERE row = ?1 AND deleted IS NOT NULL", [store])?;
    Ok(false)
}

pub(super) fn link(c: &Connection, link: &LinkFile) -> R<Linked> {
    let there = one(
        c,
        "SELECT 1 FROM stores WHERE row = ?1 AND tenant = ?2 AND deleted IS NULL",
        params![link.store, link.tenant.0],
        |_| Ok(()),
    )?;
    if there.is_none() {
        return Ok(Linked::StoreGone);
    }
    let Some(found) = files::record(c, &link.tenant, link.file)? else { return Ok(Linked::FileGone) };
    if found.registered.is_none() {
        if link.registered_only {
            return Ok(Linked::FileGone);
        }
        files::hold(c, found.id, found.version, link.now)?;
    }
    let held = file(c, link.store, link.file)?;
    let path = link.path.clone().or_else(|| held.as_ref().and_then(|held| held.path.clone()));
    if let Some(held) = held {
        if held.version == found.version {
            return Ok(Linked::Before(held));
        }
        // The file has a newer version by now: the store moves on to it, and keeps the file's place.
        let_go_of_version(c, link.store, held.row, held.version, held.size, link.now.plus(link.keep_replaced))?;
        run(
            c,
            "UPDATE store_files SET version = ?2, name = ?3, folded = ?4, size = ?5, mime_type = ?6, path = ?7,
             state = 'pending', step = 'queued', problem = NULL, started = NULL, ended = NULL WHERE row = ?1",
            params![
                held.row,
                found.version.0.as_bytes(),
                found.name,
                folded(&found.name),
                sql(found.size),
                found.mime_type,
                path
            ],
        )?;
    } else {
        run(
            c,
            "INSERT INTO store_files (id, store, file, version, name, folded, size, mime_type, path, state, step, created)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'pending', 'queued', ?10)",
            params![
                link.id.0.as_bytes(),
                link.store,
                link.file.0.as_bytes(),
                found.version.0.as_bytes(),
                found.name,
                folded(&found.name),
                sql(found.size),
                found.mime_type,
                path,
                link.now.0
            ],
        )?;
    }
    uploads::pin(c, found.version)?;
    run(
        c,
        "UPDATE stores SET files = files + 1, bytes = bytes + ?2 WHERE row = ?1",
        params![link.store, sql(found.size)],
    )?;
    let Some(linked) = file(c, link.store, link.file)? else { return Ok(Linked::FileGone) };
    note(c, linked.row, link.now, LogLevel::Info, "registered; waits to be processed")?;
    jobs::enqueue(c, JobKind::Process, linked.row, -link.store, link.now)?;
    Ok(Linked::New(linked))
}

/// The store that a session's file was opened for, if it is still there.
pub(super) fn row_of(c: &Connection, tenant: &TenantId, id: StoreId) -> R<Option<i64>> {
    Ok(store(c, tenant, id)?.map(|store| store.row))
}

pub(super) fn file(c: &Connection, store: i64, file: FileId) -> R<Option<StoreFile>> {
    one(c, &format!("{FILE} WHERE f.store = ?1 AND f.file = ?2"), params![store, file.0.as_bytes()], read_file)
}

pub(super) fn files_by_row(c: &Connection, store: Option<i64>, rows: &[i64]) -> R<Vec<StoreFile>> {
    all(
        c,
        &format!("{FILE} WHERE f.row IN ({}) AND (?2 IS NULL OR f.store = ?2)", c.flavour().numbers("?1")),
        params![Value::from(rows.to_vec()).to_string(), store],
        read_file,
    )
}

pub(super) fn files(c: &Connection, store: i64, filter: &StoreFileFilter) -> R<(Vec<StoreFile>, u64)> {
    let mut which = String::from("f.store = ?");
    let mut values = vec![Sql::Integer(store)];
    if let Some(state) = filter.state {
        which.push_str(" AND f.state = ?");
        values.push(Sql::Text(state.name().into()));
    }
    if let Some(search) = &filter.search {
        which.push_str(" AND instr(f.folded, ?) > 0");
        values.push(Sql::Text(folded(search)));
    }
    let count = format!("SELECT count(*) FROM store_files f WHERE {which}");
    let total = one(c, &count, values.clone(), |row| size(row, 0))?;
    if let Some(before) = filter.before {
        which.push_str(" AND f.row < ?");
        values.push(Sql::Integer(before));
    }
    values.extend([Sql::Integer(i64::from(filter.limit)), Sql::Integer(sql(filter.offset))]);
    let list = format!("{FILE} WHERE {which} ORDER BY f.row DESC LIMIT ? OFFSET ?");
    Ok((all(c, &list, values, read_file)?, total.unwrap_or(0)))
}

pub(super) fn unlink(c: &Connection, store: i64, files: &[FileId], now: Timestamp, keep_replaced: Duration) -> R<u64> {
    let mut count = 0;
    for id in files {
        if let Some(held) = file(c, store, *id)? {
            let_go(c, store, held.row, held.version, held.size, now, now.plus(keep_replaced))?;
            count += 1;
        }
    }
    Ok(count)
}

/// How many stores hold a file.
pub(super) fn holders_of(c: &Connection, tenant: &TenantId, file: FileId) -> R<Vec<Holder>> {
    all(
        c,
        "SELECT s.id, f.version, f.created FROM store_files f JOIN stores s ON s.row = f.store AND s.deleted IS NULL
         WHERE f.file = ?1 AND s.tenant = ?2 ORDER BY f.row DESC LIMIT 1000",
        params![file.0.as_bytes(), tenant.0],
        |row| Ok(Holder { store: StoreId(uuid(row, 0)?), version: VersionId(uuid(row, 1)?), since: time(row, 2)? }),
    )
}

pub(super) fn holders(c: &Connection, file: FileId) -> R<u64> {
    let count =
        "SELECT count(*) FROM store_files f JOIN stores s ON s.row = f.store AND s.deleted IS NULL WHERE f.file = ?1";
    Ok(one(c, count, [file.0.as_bytes()], |row| size(row, 0))?.unwrap_or(0))
}

/// Takes a file out of every store.
pub(super) fn leave_all(c: &Connection, file: FileId, now: Timestamp, due: Timestamp) -> R<()> {
    let held =
        all(c, "SELECT store, row, version, size FROM store_files WHERE file = ?1", [file.0.as_bytes()], |row| {
            Ok((row.get::<i64>(0)?, row.get::<i64>(1)?, VersionId(uuid(row, 2)?), size(row, 3)?))
        })?;
    for (store, row, version, bytes) in held {
        let_go(c, store, row, version, bytes, now, due)?;
    }
    Ok(())
}

fn let_go(
    c: &Connection,
    store: i64,
    row: i64,
    version: VersionId,
    bytes: u64,
    now: Timestamp,
    due: Timestamp,
) -> R<()> {
    let_go_of_version(c, store, row, version, bytes, due)?;
    run(c, "DELETE FROM store_files WHERE row = ?1", [row])?;
    jobs::enqueue(c, JobKind::Forget, row, -store, now)
}

/// The row names the version no more, or is about to: the version may go.
fn let_go_of_version(c: &Connection, store: i64, row: i64, version: VersionId, bytes: u64, due: Timestamp) -> R<()> {
    jobs::forget(c, JobKind::Process, row, due)?;
    run(c, "UPDATE stores SET files = files - 1, bytes = bytes - ?2 WHERE row = ?1", params![store, sql(bytes)])?;
    uploads::unpin(c, version, due)
}

pub(super) fn retry(c: &Connection, store: i64, id: FileId, now: Timestamp) -> R<Option<StoreFile>> {
    let Some(found) = file(c, store, id)? else { return Ok(None) };
    match found.state {
        ProcessingState::Pending | ProcessingState::Processing => return Ok(Some(found)),
        ProcessingState::Completed | ProcessingState::Failed => {}
    }
    make_due(c, found.row, store, now)?;
    note(c, found.row, now, LogLevel::Info, "to be processed again, as was asked")?;
    file(c, store, id)
}

fn make_due(c: &Connection, row: i64, store: i64, now: Timestamp) -> R<()> {
    run(
        c,
        "UPDATE store_files SET state = 'pending', step = 'queued', problem = NULL, started = NULL, ended = NULL WHERE row = ?1",
        [row],
    )?;
    jobs::enqueue(c, JobKind::Process, row, -store, now)
}

pub(super) fn requeue(c: &Connection, after: i64, limit: u32, now: Timestamp) -> R<Option<i64>> {
    let rows = all(
        c,
        "SELECT row, store, state FROM store_files WHERE row > ?1 ORDER BY row LIMIT ?2",
        params![after, limit],
        |row| Ok((row.get::<i64>(0)?, row.get::<i64>(1)?, word(row, 2, ProcessingState::from_name)?)),
    )?;
    for (row, store, state) in &rows {
        // What failed had no chunks, and what waits will have some.
        if *state == ProcessingState::Completed {
            make_due(c, *row, *store, now)?;
            note(c, *row, now, LogLevel::Warning, "the full-text index was lost; to be processed again")?;
        }
    }
    Ok(rows.last().map(|(row, _, _)| *row))
}

pub(super) fn log(c: &Connection, row: i64) -> R<Vec<LogEntry>> {
    all(c, "SELECT at, level, message FROM store_logs WHERE file = ?1 ORDER BY position", [row], |row| {
        Ok(LogEntry { at: time(row, 0)?, level: word(row, 1, LogLevel::from_name)?, message: row.get(2)? })
    })
}

fn note(c: &Connection, row: i64, at: Timestamp, level: LogLevel, message: &str) -> R<()> {
    let message: String = message.chars().take(limits::LOG_MESSAGE_CHARS).collect();
    run(
        c,
        "INSERT INTO store_logs (file, position, at, level, message)
         SELECT ?1, coalesce(max(position), 0) + 1, ?2, ?3, ?4 FROM store_logs WHERE file = ?1",
        params![row, at.0, level.name(), message],
    )?;
    run(
        c,
        "DELETE FROM store_logs WHERE file = ?1
         AND position <= (SELECT max(position) FROM store_logs WHERE file = ?1) - ?2",
        params![row, limits::LOG_ENTRIES],
    )
}

fn note_all(c: &Connection, row: i64, log: &[LogEntry]) -> R<()> {
    log.iter().try_for_each(|entry| note(c, row, entry.at, entry.level, &entry.message))
}

pub(super) fn begin_step(c: &Connection, job: &LeasedJob, began: &Began) -> R<bool> {
    if !jobs::holds(c, job)? {
        return Ok(false);
    }
    let first = began.step == Step::Detecting;
    let changed = changed(
        c,
        "UPDATE store_files SET state = 'processing', step = ?2, problem = NULL, ended = NULL,
         started = CASE WHEN ?3 = 1 OR started IS NULL THEN ?4 ELSE started END WHERE row = ?1",
        params![job.subject, began.step.name(), first, began.now.0],
    )?;
    note_all(c, job.subject, &began.log)?;
    Ok(changed == 1)
}

pub(super) fn end_processing(c: &Connection, job: &LeasedJob, processed: &Processed) -> R<()> {
    if !jobs::holds(c, job)? {
        return Ok(());
    }
    let step = match processed.state {
        ProcessingState::Completed => Some(Step::Completed),
        ProcessingState::Pending => Some(Step::Queued),
        // Where it stood is worth knowing.
        ProcessingState::Processing | ProcessingState::Failed => None,
    };
    let ended = processed.state != ProcessingState::Pending;
    run(
        c,
        "UPDATE store_files SET state = ?2, step = coalesce(?3, step), chunks = coalesce(?4, chunks), problem = ?5, ended = ?6 WHERE row = ?1",
        params![
            job.subject,
            processed.state.name(),
            step.map(Step::name),
            processed.chunks.map(sql),
            processed.problem,
            ended.then_some(processed.now.0)
        ],
    )?;
    note_all(c, job.subject, &processed.log)?;
    match processed.due {
        Some(due) => jobs::give_back(c, job, due),
        None => run(c, "DELETE FROM jobs WHERE kind = ?1 AND subject = ?2", params![job.kind.name(), job.subject]),
    }
}

pub(super) fn usage(c: &Connection, tenant: &TenantId) -> R<Vec<StoreUsage>> {
    all(
        c,
        "SELECT id, name, files, bytes FROM stores WHERE tenant = ?1 AND deleted IS NULL ORDER BY row",
        [&tenant.0],
        |row| {
            Ok(StoreUsage { id: StoreId(uuid(row, 0)?), name: row.get(1)?, files: size(row, 2)?, bytes: size(row, 3)? })
        },
    )
}
