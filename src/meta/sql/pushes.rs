//! Accepted pushes and who applies them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::rows::{
    all, changed, made, one, optional_time, optional_uuid, ordering, run, size, sql, time, unreadable, uuid, word,
};
use super::{tenants, uploads};
use crate::clock::Timestamp;
use crate::limits;
use crate::meta::{Accepted, Changes, FileUse, ItemRoom, Lease, LeasedChanges, NewPush, TenantInfo};
use crate::model::change::{Change, Ordering};
use crate::model::ids::{RequestId, TenantId, VersionId};
use crate::model::source::{Push, PushCounts, PushKind, PushState};
use crate::sql::{Connection, Row, params};

type R<T> = crate::sql::Result<T>;

pub(super) fn accept(c: &Connection, new: &NewPush) -> R<Accepted> {
    // A call that was accepted before is recognised by any of the containers it used up.
    for used in &new.uses {
        match check_use(c, new, used)? {
            Use::Free => {}
            Use::Before(request, ordering) => return Ok(Accepted::Before(request, ordering)),
            Use::Replaced => return Ok(Accepted::FileReplaced(used.file)),
            Use::Gone => return Ok(Accepted::FileGone(used.file)),
        }
    }
    if let Some(stream) = new.closes {
        let closed = one(
            c,
            "SELECT p.request, p.ordering, s.opened FROM streams s LEFT JOIN pushes p ON p.row = s.push
             WHERE s.id = ?1 AND s.tenant = ?2",
            params![stream.0.as_bytes(), new.tenant.0],
            |row| match optional_uuid(row, 0)? {
                Some(request) => Ok((Some((RequestId(request), ordering(row, 1)?)), time(row, 2)?)),
                None => Ok((None, time(row, 2)?)),
            },
        )?;
        match closed {
            None => return Ok(Accepted::StreamGone),
            Some((Some((request, ordering)), _)) => return Ok(Accepted::Before(request, ordering)),
            // Its chunks may be gone: what is left of it must not replace a source.
            Some((None, opened)) if opened <= new.now.minus(limits::STREAM_LIFE) => return Ok(Accepted::StreamGone),
            Some((None, _)) => {}
        }
    }
    if let Some(source) = new.source {
        let there =
            one(c, "SELECT 1 FROM sources WHERE row = ?1 AND tenant = ?2", params![source, new.tenant.0], |_| Ok(()))?;
        if there.is_none() {
            return Ok(Accepted::SourceGone);
        }
    }
    if let Some(refused) = check_tenant(c, new)? {
        return Ok(refused);
    }
    let ordering = match new.ordering {
        Some(ordering) => ordering,
        None => implicit_ordering(c, new.now)?,
    };
    let (inline, stored, bytes) = match &new.changes {
        Changes::Inline(bytes) => (Some(bytes.as_slice()), None, u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
        Changes::Stored { version, size, .. } => (None, Some(*version), *size),
    };
    let lane = lane(new);
    let push = made(
        c,
        "INSERT INTO pushes (request, tenant, lane, source, target, kind, ordering, state, due, cursor, puts,
                             changes, changes_version, changes_size, records, accepted)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'queued', ?8, 0, ?14, ?9, ?10, ?11, ?12, ?13) RETURNING row",
        params![
            new.request.0.as_bytes(),
            new.tenant.0,
            lane,
            new.source,
            new.target,
            new.kind.name(),
            ordering.to_bytes(),
            new.due.0,
            inline,
            stored.map(|v| v.0.into_bytes()),
            sql(bytes),
            sql(new.records),
            new.now.0,
            sql(new.puts)
        ],
    )?;
    count_day(c, new)?;
    let gone = new.now.plus(new.keep_replaced);
    for used in &new.uses {
        uploads::use_file(c, used.file, push, &used.call)?;
        if used.as_content {
            hold(c, push, used.version)?;
        } else {
            uploads::drop_version_unless_held(c, used.version, gone)?;
        }
    }
    if let Changes::Stored { file, version, .. } = &new.changes {
        uploads::use_file(c, *file, push, b"changes")?;
        hold(c, push, *version)?;
    }
    if let Some(stream) = new.closes {
        run(c, "UPDATE streams SET push = ?2 WHERE id = ?1", params![stream.0.as_bytes(), push])?;
    }
    Ok(Accepted::New(ordering))
}

fn lane(new: &NewPush) -> String {
    match new.source {
        Some(row) => source_lane(row),
        None => format!("p{}/{}", new.tenant, new.target),
    }
}

fn source_lane(row: i64) -> String {
    format!("s{row}")
}

/// Does the tenant's state or a limit of it stand in the way? A push that only deletes is stopped by no limit.
fn check_tenant(c: &Connection, new: &NewPush) -> R<Option<Accepted>> {
    let Some(tenant) = tenants::tenant(c, &new.tenant)? else { return Ok(None) };
    if tenant.paused.is_some() {
        return Ok(Some(Accepted::TenantPaused));
    }
    if new.changed == 0 || (tenant.items.per_source.is_none() && tenant.items.per_day.is_none()) {
        return Ok(None);
    }
    let room = room(c, &tenant, new.source, new.kind, new.now)?;
    if let (Some(limit), Some(left), Some(source)) = (room.limits.per_source, room.puts, new.source)
        && new.puts > left
        && added(c, new, source)? > left
    {
        return Ok(Some(Accepted::TooManyItems(limit)));
    }
    if let (Some(limit), Some(left)) = (room.limits.per_day, room.changed)
        && new.changed > left
    {
        return Ok(Some(Accepted::TooManyItemsToday(limit)));
    }
    Ok(None)
}

/// What the tenant's limits leave. Every record that waits to be applied counts as if it were of an item of its own.
pub(super) fn room(
    c: &Connection,
    tenant: &TenantInfo,
    source: Option<i64>,
    kind: PushKind,
    now: Timestamp,
) -> R<ItemRoom> {
    let mut room = ItemRoom { limits: tenant.items, ..ItemRoom::default() };
    if let (Some(limit), Some(source)) = (tenant.items.per_source, source) {
        // A load leaves nothing of what is there but what has a higher ordering id.
        let taken = if kind == PushKind::Load { 0 } else { held_or_waiting(c, source)? };
        room.puts = Some(limit.saturating_sub(taken));
    }
    if let Some(limit) = tenant.items.per_day {
        let items = "SELECT items FROM item_days WHERE tenant = ?1 AND day = ?2";
        let items = one(c, items, params![tenant.id.0, now.day()], |row| size(row, 0))?;
        room.changed = Some(limit.saturating_sub(items.unwrap_or(0)));
    }
    Ok(room)
}

fn held_or_waiting(c: &Connection, source: i64) -> R<u64> {
    let held = one(c, "SELECT items FROM sources WHERE row = ?1", [source], |row| size(row, 0))?;
    let waiting = one(
        c,
        "SELECT CAST(coalesce(sum(puts), 0) AS BIGINT) FROM pushes WHERE lane = ?1 AND state IN ('queued', 'applying')",
        [source_lane(source)],
        |row| size(row, 0),
    )?;
    Ok(held.unwrap_or(0).saturating_add(waiting.unwrap_or(0)))
}

/// How many items a push adds. A short one is read, so that a change to an item that exists is not taken for a new one;
/// of a long one every record counts.
fn added(c: &Connection, new: &NewPush, source: i64) -> R<u64> {
    match &new.changes {
        Changes::Inline(lines) if new.kind != PushKind::Load => unknown_items(c, source, lines),
        Changes::Inline(_) | Changes::Stored { .. } => Ok(new.puts),
    }
}

/// How many items these records would add that the source does not hold.
fn unknown_items(c: &Connection, source: i64, lines: &[u8]) -> R<u64> {
    let mut unknown = BTreeSet::new();
    for line in lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let change: Change = serde_json::from_slice(line).map_err(|error| unreadable(0, error.to_string()))?;
        if let Change::Put(draft) | Change::Merge(draft) = change {
            let held = one(
                c,
                "SELECT 1 FROM items WHERE source = ?1 AND document_id = ?2 AND deleted IS NULL",
                params![source, draft.document_id],
                |_| Ok(()),
            )?;
            if held.is_none() {
                unknown.insert(draft.document_id);
            }
        }
    }
    Ok(u64::try_from(unknown.len()).unwrap_or(u64::MAX))
}

/// Counts also where there is no limit, so that one that is set at noon knows the morning.
fn count_day(c: &Connection, new: &NewPush) -> R<()> {
    if new.changed == 0 {
        return Ok(());
    }
    // A clock that is set back finds the day that it left.
    run(c, "DELETE FROM item_days WHERE tenant = ?1 AND day < ?2 - 1", params![new.tenant.0, new.now.day()])?;
    run(
        c,
        "INSERT INTO item_days (tenant, day, items) VALUES (?1, ?2, ?3)
         ON CONFLICT (tenant, day) DO UPDATE SET items = item_days.items + ?3",
        params![new.tenant.0, new.now.day(), sql(new.changed)],
    )
}

/// The wall clock in milliseconds, but never less than what was given before: a clock that is set back must not make
/// a later change look older.
fn implicit_ordering(c: &Connection, now: Timestamp) -> R<Ordering> {
    const SETTING: &str = "last_ordering";
    let last = tenants::setting(c, SETTING)?.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    let now = Ordering(u128::try_from(now.millis()).unwrap_or(0));
    let ordering = now.max(last.map_or(Ordering::default(), Ordering::from_bytes));
    tenants::set_setting(c, SETTING, ordering.to_bytes().to_vec(), false)?;
    Ok(ordering)
}

enum Use {
    Free,
    Before(RequestId, Ordering),
    Replaced,
    Gone,
}

fn check_use(c: &Connection, new: &NewPush, used: &FileUse) -> R<Use> {
    let Some(file) = uploads::file(c, &new.tenant, used.file)? else { return Ok(Use::Gone) };
    if let Some((request, ordering, call)) = file.used {
        return Ok(if call == used.call && !request.0.is_nil() { Use::Before(request, ordering) } else { Use::Gone });
    }
    let current = file.version.as_ref().is_some_and(|v| v.id == used.version);
    // The chunks of a stream live as long as the stream, which sees to their rows.
    let alive = new.closes.is_some() || file.expires.is_none_or(|expires| expires > new.now);
    Ok(match (current, alive) {
        (true, true) => Use::Free,
        (false, true) if file.version.is_some() => Use::Replaced,
        (_, false) | (false, true) => Use::Gone,
    })
}

fn hold(c: &Connection, push: i64, version: VersionId) -> R<()> {
    let new = changed(
        c,
        "INSERT INTO push_contents (push, version) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![push, version.0.as_bytes()],
    )?;
    if new == 1 { uploads::pin(c, version) } else { Ok(()) }
}

/// The first push that is due in each lane of which none is leased, and the one of them that has waited longest. Goes
/// from lane to lane by the index, so that a lane with many pushes costs no more than one with few.
pub(super) fn next(c: &Connection, now: Timestamp) -> R<Option<i64>> {
    let mut best: Option<(i64, i64)> = None;
    let mut lane = String::new();
    loop {
        let above = one(
            c,
            "SELECT min(lane) FROM pushes WHERE state IN ('queued', 'applying') AND lane > ?1",
            [&lane],
            |row| row.get::<Option<String>>(0),
        )?;
        let Some(Some(above)) = above else { return Ok(best.map(|(_, row)| row)) };
        lane = above;
        let leased = one(
            c,
            "SELECT 1 FROM pushes WHERE lease IS NOT NULL AND lane = ?1 AND lease > ?2 LIMIT 1",
            params![lane, now.0],
            |_| Ok(()),
        )?;
        if leased.is_some() {
            continue;
        }
        // Only one that was asked to wait and was not begun lets others go first. One that is tried again later holds
        // its lane: what comes behind it may build on it.
        let first = one(
            c,
            "SELECT due, row FROM pushes WHERE state IN ('queued', 'applying') AND lane = ?1 AND (due <= ?2 OR state = 'applying')
             ORDER BY row LIMIT 1",
            params![lane, now.0],
            |row| Ok((row.get::<i64>(0)?, row.get::<i64>(1)?)),
        )?;
        let first = first.filter(|(due, _)| *due <= now.0);
        best = best.into_iter().chain(first).min();
    }
}

pub(super) fn lease(c: &Connection, now: Timestamp, lease: Duration, holder: [u8; 16]) -> R<Option<Lease>> {
    let until = now.plus(lease);
    let Some(row) = next(c, now)? else { return Ok(None) };
    let found = one(
        c,
        "SELECT row, request, tenant, source, target, kind, ordering, cursor, changes, changes_version, attempts
         FROM pushes WHERE row = ?1",
        [row],
        |row| {
            let inline: Option<Vec<u8>> = row.get(8)?;
            Ok((
                Lease {
                    push: row.get(0)?,
                    request: RequestId(uuid(row, 1)?),
                    tenant: TenantId(row.get(2)?),
                    source: row.get(3)?,
                    target: row.get(4)?,
                    kind: word(row, 5, PushKind::from_name)?,
                    ordering: ordering(row, 6)?,
                    cursor: size(row, 7)?,
                    changes: LeasedChanges::Inline(inline.unwrap_or_default()),
                    until,
                    attempts: row.get::<u32>(10)?.saturating_add(1),
                },
                optional_uuid(row, 9)?,
            ))
        },
    )?;
    let Some((mut lease, stored)) = found else { return Ok(None) };
    if let Some(stored) = stored {
        let version = uploads::version(c, None, VersionId(stored))?;
        lease.changes = LeasedChanges::Stored(version.ok_or_else(|| unreadable(9, "the changes are gone".into()))?);
    }
    run(
        c,
        "UPDATE pushes SET state = 'applying', lease = ?2, holder = ?3, attempts = attempts + 1 WHERE row = ?1",
        params![lease.push, until.0, holder],
    )?;
    Ok(Some(lease))
}

/// Does the caller still hold the lease? Another holder has another end.
pub(super) fn holds(c: &Connection, lease: &Lease) -> R<bool> {
    let held = one(
        c,
        "SELECT 1 FROM pushes WHERE row = ?1 AND lease = ?2 AND state = 'applying'",
        params![lease.push, lease.until.0],
        |_| Ok(()),
    )?;
    Ok(held.is_some())
}

pub(super) fn finish(
    c: &Connection,
    lease: &Lease,
    problem: Option<&str>,
    now: Timestamp,
    keep_replaced: Duration,
) -> R<()> {
    if !holds(c, lease)? {
        return Ok(());
    }
    let held =
        all(c, "SELECT version FROM push_contents WHERE push = ?1", [lease.push], |row| Ok(VersionId(uuid(row, 0)?)))?;
    run(c, "DELETE FROM push_contents WHERE push = ?1", [lease.push])?;
    for version in held {
        uploads::unpin(c, version, now.plus(keep_replaced))?;
    }
    let state = if problem.is_some() { "failed" } else { "extracting" };
    run(
        c,
        "UPDATE pushes SET state = ?2, lease = NULL, changes = NULL, changes_version = NULL,
             problem = coalesce(?3, problem), finished = CASE WHEN ?3 IS NULL THEN NULL ELSE ?4 END WHERE row = ?1",
        params![lease.push, state, problem, now.0],
    )?;
    settle(c, lease.push, now)
}

/// Ends a push that is applied once no item of it waits for its text.
pub(super) fn settle(c: &Connection, push: i64, now: Timestamp) -> R<()> {
    run(
        c,
        "UPDATE pushes SET state = 'done', finished = ?2 WHERE row = ?1 AND state = 'extracting' AND pending = 0",
        params![push, now.0],
    )?;
    Ok(())
}

pub(super) fn give_back(c: &Connection, lease: &Lease, due: Timestamp, problem: Option<&str>) -> R<()> {
    if holds(c, lease)? {
        // Without a problem it was only another one's turn, which is no try.
        run(
            c,
            "UPDATE pushes SET lease = NULL, due = ?2, problem = ?3, attempts = attempts - CASE WHEN ?3 IS NULL THEN 1 ELSE 0 END WHERE row = ?1",
            params![lease.push, due.0, problem],
        )?;
    }
    Ok(())
}

const PUSH: &str =
    "SELECT row, request, tenant, target, kind, ordering, state, records, added, updated, deleted, older, failed,
                           pending, problem, accepted, finished FROM pushes";

fn read_push(row: &Row<'_>) -> R<Push> {
    Ok(Push {
        row: row.get(0)?,
        request: RequestId(uuid(row, 1)?),
        tenant: TenantId(row.get(2)?),
        target: row.get(3)?,
        kind: word(row, 4, PushKind::from_name)?,
        ordering: ordering(row, 5)?,
        // Applying and extracting are one thing to those who wait.
        state: word(row, 6, |name| match name {
            "applying" | "extracting" => Some(PushState::Working),
            name => PushState::from_name(name),
        })?,
        counts: PushCounts {
            records: size(row, 7)?,
            added: size(row, 8)?,
            updated: size(row, 9)?,
            deleted: size(row, 10)?,
            older: size(row, 11)?,
            failed: size(row, 12)?,
            pending: size(row, 13)?,
        },
        problem: row.get(14)?,
        accepted: time(row, 15)?,
        finished: optional_time(row, 16)?,
        failures: Vec::new(),
    })
}

pub(super) fn push(c: &Connection, tenant: &TenantId, request: RequestId) -> R<Option<Push>> {
    let found = one(
        c,
        &format!("{PUSH} WHERE request = ?1 AND tenant = ?2"),
        params![request.0.as_bytes(), tenant.0],
        read_push,
    )?;
    let Some(mut push) = found else { return Ok(None) };
    push.failures =
        all(c, "SELECT document_id, reason FROM push_failures WHERE push = ?1 ORDER BY position", [push.row], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok(Some(push))
}

pub(super) fn pushes(
    c: &Connection,
    tenant: &TenantId,
    target: &str,
    state: Option<PushState>,
    before: Option<i64>,
    limit: u32,
) -> R<Vec<Push>> {
    let states: &str = match state {
        None => "1 = 1",
        Some(PushState::Queued) => "state = 'queued'",
        Some(PushState::Working) => "state IN ('applying', 'extracting')",
        Some(PushState::Done) => "state = 'done'",
        Some(PushState::Failed) => "state = 'failed'",
    };
    all(
        c,
        &format!("{PUSH} WHERE tenant = ?1 AND target = ?2 AND row < ?3 AND {states} ORDER BY row DESC LIMIT ?4"),
        params![tenant.0, target, before.unwrap_or(i64::MAX), limit],
        read_push,
    )
}
