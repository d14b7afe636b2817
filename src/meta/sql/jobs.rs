//! Leasing and ending jobs.

use std::ops::Range;
use std::time::Duration;

use super::pushes;
use super::rows::{all, one, run, word};
use crate::clock::Timestamp;
use crate::limits;
use crate::meta::{Extraction, LeasedJob};
use crate::model::job::JobKind;
use crate::model::source::ItemState;
use crate::sql::{Connection, NONE, params};

type R<T> = crate::sql::Result<T>;

/// Of a reason, which may quote what a client sent, so much is kept.
const REASON_CHARS: usize = 500;

/// Makes a job due. What was due with the same row before, such as an extraction for an older push of the item, is not
/// needed any more.
pub(super) fn enqueue(c: &Connection, kind: JobKind, subject: i64, push: i64, due: Timestamp) -> R<()> {
    for other in JobKind::ALL.into_iter().filter(|other| other.subject() == kind.subject()) {
        forget(c, other, subject, due)?;
    }
    insert(c, kind, subject, push, due)?;
    if kind == JobKind::Extract {
        run(c, "UPDATE pushes SET pending = pending + 1 WHERE row = ?1", [push])?;
    }
    Ok(())
}

/// Makes a job due of which nobody counts that it waits, and of whose subject no other is.
fn insert(c: &Connection, kind: JobKind, subject: i64, push: i64, due: Timestamp) -> R<()> {
    run(
        c,
        "INSERT INTO jobs (kind, subject, push, due) VALUES (?1, ?2, ?3, ?4)",
        params![kind.name(), subject, push, due.0],
    )
}

/// The same for an item, by its source and document id. Its row is found by the statement: asked for first, it would cost the
/// way to the database and back.
pub(super) fn insert_of(c: &Connection, kind: JobKind, item: (i64, &str), push: i64, due: Timestamp) -> R<()> {
    run(
        c,
        "INSERT INTO jobs (kind, subject, push, due) SELECT ?1, row, ?2, ?3 FROM items WHERE source = ?4 AND document_id = ?5",
        params![kind.name(), push, due.0, item.0, item.1],
    )
}

/// Takes an item's job back; whoever asks sees to what the job's push counts.
pub(super) fn take_back_of(c: &Connection, kind: JobKind, item: (i64, &str)) -> R<()> {
    run(
        c,
        "DELETE FROM jobs WHERE kind = ?1 AND subject = (SELECT row FROM items WHERE source = ?2 AND document_id = ?3)",
        params![kind.name(), item.0, item.1],
    )
}

/// Takes a job back that is not needed any more.
pub(super) fn forget(c: &Connection, kind: JobKind, subject: i64, now: Timestamp) -> R<()> {
    let taken_back = "DELETE FROM jobs WHERE kind = ?1 AND subject = ?2 RETURNING push";
    match one(c, taken_back, params![kind.name(), subject], |row| row.get(0))? {
        Some(push) if kind == JobKind::Extract => one_less(c, push, now),
        Some(_) | None => Ok(()),
    }
}

/// A push waits for one text less.
pub(super) fn one_less(c: &Connection, push: i64, now: Timestamp) -> R<()> {
    run(c, "UPDATE pushes SET pending = pending - 1 WHERE row = ?1 AND pending > 0", [push])?;
    pushes::settle(c, push, now)
}

pub(super) fn lease(
    c: &Connection,
    now: Timestamp,
    lease: Duration,
    limit: u32,
    holder: [u8; 16],
) -> R<Vec<LeasedJob>> {
    let until = now.plus(lease);
    let waiting = waiting(c, now, limit)?;
    let share = limit.div_ceil(u32::try_from(waiting.len()).unwrap_or(u32::MAX).max(1));
    let mut jobs = Vec::new();
    for push in waiting {
        jobs.extend(all(
            c,
            &format!(
                "SELECT kind, subject, push, attempts FROM jobs WHERE push = ?1 AND due <= ?2 ORDER BY due LIMIT ?3{}",
                c.flavour().passing_over_taken()
            ),
            params![push, now.0, share],
            |row| {
                Ok(LeasedJob {
                    kind: word(row, 0, JobKind::from_name)?,
                    subject: row.get(1)?,
                    push: row.get(2)?,
                    until,
                    attempts: row.get::<u32>(3)?.saturating_add(1),
                })
            },
        )?);
    }
    jobs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    for job in &jobs {
        // The lease is also the next time to look: a worker that dies leaves the job to the next one.
        run(
            c,
            "UPDATE jobs SET lease = ?3, due = ?3, holder = ?4, attempts = attempts + 1 WHERE kind = ?1 AND subject = ?2",
            params![job.kind.name(), job.subject, until.0, holder],
        )?;
    }
    Ok(jobs)
}

/// Some pushes and some stores that have jobs due, one of each in turn.
pub(super) fn waiting(c: &Connection, now: Timestamp, limit: u32) -> R<Vec<i64>> {
    // Pushes come to an end, so the first ones go first. Stores do not: whoever begins is another one each time.
    let stores = one(c, "SELECT min(push) FROM jobs", NONE, |row| row.get::<Option<i64>>(0))?.flatten();
    let lowest = stores.unwrap_or(0).min(0);
    let begin = if lowest < 0 { -(now.millis().rem_euclid(-lowest)) - 1 } else { 0 };
    let pushes = due(c, now, 0..i64::MAX, limit)?;
    let mut stores = due(c, now, begin..0, limit)?;
    let more = limit.saturating_sub(u32::try_from(stores.len()).unwrap_or(limit));
    stores.extend(due(c, now, lowest..begin, more)?);
    let (mut pushes, mut stores) = (pushes.into_iter(), stores.into_iter());
    let mut waiting = Vec::new();
    while waiting.len() < usize::try_from(limit).unwrap_or(usize::MAX) {
        let before = waiting.len();
        waiting.extend(pushes.next());
        waiting.extend(stores.next());
        if waiting.len() == before {
            break;
        }
    }
    Ok(waiting)
}

/// Those of a range that have jobs due, from one to the next by the index.
fn due(c: &Connection, now: Timestamp, range: Range<i64>, limit: u32) -> R<Vec<i64>> {
    let mut found = Vec::new();
    let mut from = range.start;
    while found.len() < usize::try_from(limit).unwrap_or(usize::MAX) {
        let next = "SELECT min(push) FROM jobs WHERE push >= ?1 AND push < ?2";
        let next = one(c, next, [from, range.end], |row| row.get::<Option<i64>>(0))?.flatten();
        let Some(next) = next else { break };
        let due = one(c, "SELECT 1 FROM jobs WHERE push = ?1 AND due <= ?2 LIMIT 1", params![next, now.0], |_| Ok(()))?;
        if due.is_some() {
            found.push(next);
        }
        from = next + 1;
    }
    Ok(found)
}

pub(super) fn holds(c: &Connection, job: &LeasedJob) -> R<bool> {
    let held = one(
        c,
        "SELECT 1 FROM jobs WHERE kind = ?1 AND subject = ?2 AND push = ?3 AND lease = ?4",
        params![job.kind.name(), job.subject, job.push, job.until.0],
        |_| Ok(()),
    )?;
    Ok(held.is_some())
}

pub(super) fn finish(c: &Connection, job: &LeasedJob, extraction: Option<&Extraction>, now: Timestamp) -> R<()> {
    if !holds(c, job)? {
        return Ok(());
    }
    if let Some(extraction) = extraction {
        run(
            c,
            "UPDATE items SET state = ?3, problem = ?4 WHERE row = ?1 AND push = ?2",
            params![job.subject, job.push, extraction.state.name(), extraction.problem],
        )?;
        if extraction.state == ItemState::Failed {
            let document =
                one(c, "SELECT document_id FROM items WHERE row = ?1", [job.subject], |row| row.get::<String>(0))?;
            let reason = extraction.problem.as_deref().unwrap_or("the text could not be extracted");
            fail(c, job.push, document.as_deref().unwrap_or(""), reason)?;
        }
    }
    run(c, "DELETE FROM jobs WHERE kind = ?1 AND subject = ?2", params![job.kind.name(), job.subject])?;
    if job.kind == JobKind::Extract {
        one_less(c, job.push, now)?;
    }
    Ok(())
}

/// Counts a failure of a push and remembers the first ones by document id.
pub(super) fn fail(c: &Connection, push: i64, document_id: &str, reason: &str) -> R<()> {
    let reason: String = reason.chars().take(REASON_CHARS).collect();
    run(c, "UPDATE pushes SET failed = failed + 1 WHERE row = ?1", [push])?;
    run(
        c,
        "INSERT INTO push_failures (push, position, document_id, reason)
         SELECT ?1, failed, ?2, ?3 FROM pushes WHERE row = ?1 AND failed <= ?4",
        params![push, document_id, reason, i64::try_from(limits::PUSH_FAILURES).unwrap_or(i64::MAX)],
    )?;
    Ok(())
}

pub(super) fn give_back(c: &Connection, job: &LeasedJob, due: Timestamp) -> R<()> {
    if holds(c, job)? {
        run(
            c,
            "UPDATE jobs SET lease = NULL, due = ?3 WHERE kind = ?1 AND subject = ?2",
            params![job.kind.name(), job.subject, due.0],
        )?;
    }
    Ok(())
}

pub(super) fn release_leases(c: &Connection, holder: [u8; 16]) -> R<()> {
    run(c, "UPDATE pushes SET lease = NULL WHERE lease IS NOT NULL AND holder = ?1", [holder])?;
    // A leased job's due time is its lease's end.
    run(c, "UPDATE jobs SET due = 0, lease = NULL WHERE lease IS NOT NULL AND holder = ?1", [holder])
}

pub(super) fn requeue_items(c: &Connection, after: i64, limit: u32, now: Timestamp) -> R<Option<i64>> {
    let rows = all(
        c,
        "SELECT row, push FROM items WHERE row > ?1 AND deleted IS NULL ORDER BY row LIMIT ?2",
        params![after, limit],
        |row| Ok((row.get::<i64>(0)?, row.get::<i64>(1)?)),
    )?;
    for (row, push) in &rows {
        run(
            c,
            "INSERT INTO jobs (kind, subject, push, due) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            params![JobKind::Extract.name(), row, push, now.0],
        )?;
    }
    Ok(rows.last().map(|(row, _)| *row))
}

pub(super) fn next_due(c: &Connection) -> R<Option<Timestamp>> {
    let due = one(
        c,
        "SELECT min(due) FROM (SELECT min(due) AS due FROM jobs
         UNION ALL SELECT min(CASE WHEN lease > due THEN lease ELSE due END) FROM pushes
         WHERE state IN ('queued', 'applying')) AS waiting",
        NONE,
        |row| row.get::<Option<i64>>(0),
    )?;
    Ok(due.flatten().map(Timestamp))
}
