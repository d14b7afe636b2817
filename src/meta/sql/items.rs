//! Items: applying changes and reading them back.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde_json::{Map, Value};

use super::rows::{all, json, json_map, one, optional_uuid, ordering, run, size, sql, time, word};
use super::{identities, jobs, pushes, uploads};
use crate::clock::Timestamp;
use crate::limits;
use crate::meta::{Applied, ItemFilter, Lease, Resolved, ResolvedContent};
use crate::model::change::{Change, ItemDraft, Ordering, Patch, PatchOperator};
use crate::model::ids::{SourceId, TenantId, VersionId};
use crate::model::job::JobKind;
use crate::model::source::{Content, Item, ItemState, PushKind};
use crate::sql::{Connection, Flavour, Owned as Sql, Row, params};

type R<T> = crate::sql::Result<T>;

const ITEM: &str = "SELECT i.row, i.source, s.id, i.document_id, i.ordering, i.push, i.parent_id, i.file_extension, i.metadata,
                           i.permissions, i.compression, i.content, i.content_version, i.content_size, i.state, i.problem,
                           i.created, i.changed, s.tenant
                    FROM items i JOIN sources s ON s.row = i.source";

fn read_item(row: &Row<'_>) -> R<Item> {
    let inline: Option<Vec<u8>> = row.get(11)?;
    let content = match (inline, optional_uuid(row, 12)?) {
        (_, Some(version)) => Content::Stored { version: VersionId(version), size: size(row, 13)? },
        (Some(bytes), None) => Content::Inline(bytes),
        (None, None) => Content::None,
    };
    Ok(Item {
        row: row.get(0)?,
        source_row: row.get(1)?,
        source: SourceId(row.get(2)?),
        document_id: row.get(3)?,
        ordering: ordering(row, 4)?,
        push: row.get(5)?,
        parent_id: row.get(6)?,
        file_extension: row.get(7)?,
        metadata: json_map(row, 8)?,
        permissions: json(row, 9)?,
        compression: row.get(10)?,
        content,
        state: word(row, 14, ItemState::from_name)?,
        problem: row.get(15)?,
        created: time(row, 16)?,
        changed: time(row, 17)?,
    })
}

pub(super) fn item(c: &Connection, source: i64, document_id: &str) -> R<Option<Item>> {
    one(
        c,
        &format!("{ITEM} WHERE i.source = ?1 AND i.document_id = ?2 AND i.deleted IS NULL"),
        params![source, document_id],
        read_item,
    )
}

pub(super) fn item_by_row(c: &Connection, row: i64) -> R<Option<(TenantId, Item)>> {
    one(c, &format!("{ITEM} WHERE i.row = ?1 AND i.deleted IS NULL"), [row], |row| {
        Ok((TenantId(row.get(18)?), read_item(row)?))
    })
}

pub(super) fn items(c: &Connection, source: i64, filter: &ItemFilter) -> R<Vec<Item>> {
    let mut query = format!("{ITEM} WHERE i.source = ? AND i.deleted IS NULL");
    let mut values = vec![Sql::Integer(source)];
    let mut and = |condition: &str, bound: Vec<Sql>| {
        query.push_str(" AND ");
        query.push_str(condition);
        values.extend(bound);
    };
    if let Some(prefix) = &filter.prefix {
        let (from, to) = prefix_range(prefix);
        and("i.document_id >= ?", vec![Sql::Text(from)]);
        if let Some(to) = to {
            and("i.document_id < ?", vec![Sql::Text(to)]);
        }
    }
    for (name, value) in &filter.fields {
        // As text, whatever its type; in an array, any element.
        let mut bound = vec![Sql::Text(name.clone())];
        let has = match c.flavour() {
            Flavour::Sqlite => {
                bound.extend(std::iter::repeat_n(Sql::Text(value.clone()), 4));
                "EXISTS (SELECT 1 FROM json_each(i.metadata) f WHERE f.key = ? COLLATE NOCASE AND
                    (f.atom = ? OR (f.type IN ('true', 'false') AND f.type = ?) OR CAST(f.atom AS TEXT) = ? OR
                     (f.type = 'array' AND EXISTS (SELECT 1 FROM json_each(f.value) e WHERE CAST(e.atom AS TEXT) = ?))))"
            }
            Flavour::Postgres => {
                bound.extend(std::iter::repeat_n(Sql::Text(value.clone()), 2));
                "EXISTS (SELECT 1 FROM json_each(CAST(replace(i.metadata, '\\u0000', '\\ufffe') AS json)) f
                    WHERE translate(f.key, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz')
                        = translate(?, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz')
                    AND CASE json_typeof(f.value)
                        WHEN 'array' THEN EXISTS (SELECT 1 FROM json_array_elements(f.value) e
                            WHERE json_typeof(e) NOT IN ('array', 'object', 'null') AND e #>> '{}' = ?)
                        WHEN 'object' THEN false WHEN 'null' THEN false
                        ELSE f.value #>> '{}' = ? END)"
            }
        };
        and(has, bound);
    }
    if let Some(after) = filter.changed_after {
        and("i.changed > ?", vec![Sql::Integer(after.0)]);
    }
    if let Some(state) = filter.state {
        and("i.state = ?", vec![Sql::Text(state.name().into())]);
    }
    if let Some(push) = filter.push {
        and("i.push = ?", vec![Sql::Integer(push)]);
    }
    if let Some(rows) = &filter.rows {
        let list = Value::from(rows.clone()).to_string();
        and(&format!("i.row IN ({})", c.flavour().numbers("?")), vec![Sql::Text(list)]);
    }
    if let Some(before) = filter.before {
        and("i.row < ?", vec![Sql::Integer(before)]);
    }
    query.push_str(" ORDER BY i.row DESC LIMIT ?");
    values.push(Sql::Integer(i64::from(filter.limit)));
    all(c, &query, values, read_item)
}

/// The range of texts that start with `prefix`: from it (inclusive) to the next text of its length (exclusive).
fn prefix_range(prefix: &str) -> (String, Option<String>) {
    let mut end: Vec<char> = prefix.chars().collect();
    while let Some(last) = end.pop() {
        let next = match u32::from(last) + 1 {
            0xD800 => Some('\u{E000}'),
            n => char::from_u32(n),
        };
        if let Some(next) = next {
            end.push(next);
            return (prefix.to_owned(), Some(end.into_iter().collect()));
        }
    }
    (prefix.to_owned(), None)
}

/// What is stored of an item that a change is about.
#[derive(Clone)]
struct Present {
    ordering: Ordering,
    push: i64,
    deleted: bool,
    version: Option<VersionId>,
    /// The pushes of its jobs that are due, or being done.
    extract: Option<i64>,
    unindex: Option<i64>,
}

/// A query for what is there of items, by a condition on `i`.
fn present_where(condition: &str) -> String {
    let (extract, unindex) = (JobKind::Extract.name(), JobKind::Unindex.name());
    // The jobs not as a join: each is one look into an index, whatever a database guesses of their number.
    format!(
        "SELECT i.document_id, i.ordering, i.push, i.deleted IS NOT NULL, i.content_version,
                (SELECT push FROM jobs WHERE kind = '{extract}' AND subject = i.row),
                (SELECT push FROM jobs WHERE kind = '{unindex}' AND subject = i.row)
         FROM items i WHERE i.source = ?1 AND {condition}"
    )
}

fn read_present(row: &Row<'_>) -> R<(String, Present)> {
    let present = Present {
        ordering: ordering(row, 1)?,
        push: row.get(2)?,
        deleted: row.get(3)?,
        version: optional_uuid(row, 4)?.map(VersionId),
        extract: row.get(5)?,
        unindex: row.get(6)?,
    };
    Ok((row.get(0)?, present))
}

/// One application: whose push, to which source, and what is counted.
struct Work<'a> {
    c: &'a Connection,
    lease: &'a Lease,
    source: i64,
    floor: Ordering,
    now: Timestamp,
    gone: Timestamp,
    counts: Cell<Counts>,
    /// What is there of the items that were looked at, or left behind.
    seen: RefCell<HashMap<String, Option<Present>>>,
}

/// What one application adds to the numbers of its push and source. Written once, at its end: of a row that changes with
/// every record, a database may keep every state until the transaction ends.
#[derive(Clone, Copy, Default)]
struct Counts {
    added: u64,
    updated: u64,
    deleted: u64,
    older: u64,
    /// Texts that the push waits for.
    pending: i64,
    /// Items that the source holds.
    held: i64,
}

impl<'a> Work<'a> {
    fn new(c: &'a Connection, lease: &'a Lease, source: i64, now: Timestamp, gone: Timestamp) -> Self {
        let (counts, seen) = (Cell::default(), RefCell::default());
        Self { c, lease, source, floor: Ordering::default(), now, gone, counts, seen }
    }

    /// Looks at what is there of many items at once: asked one by one, each would cost the way to the database and back.
    fn look_at<'t>(&self, ids: impl Iterator<Item = &'t str>) -> R<()> {
        let mut seen = self.seen.borrow_mut();
        let ids: BTreeSet<&str> = ids.filter(|id| !seen.contains_key(*id) && !id.contains('\0')).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let query = present_where(&self.c.flavour().among("i.document_id", "?2"));
        seen.extend(ids.iter().map(|id| ((*id).to_owned(), None)));
        let ids = Value::from_iter(ids).to_string();
        for (id, present) in all(self.c, &query, params![self.source, ids], read_present)? {
            seen.insert(id, Some(present));
        }
        Ok(())
    }

    fn present(&self, document_id: &str) -> R<Option<Present>> {
        if let Some(seen) = self.seen.borrow().get(document_id) {
            return Ok(seen.clone());
        }
        let query = present_where("i.document_id = ?2");
        let found = one(self.c, &query, params![self.source, document_id], read_present)?.map(|(_, present)| present);
        self.seen.borrow_mut().insert(document_id.to_owned(), found.clone());
        Ok(found)
    }

    /// An item is left so by this push, with these pushes' jobs.
    fn left(&self, document_id: &str, deleted: bool, version: Option<VersionId>, jobs: (Option<i64>, Option<i64>)) {
        let Lease { ordering, push, .. } = *self.lease;
        let present = Present { ordering, push, deleted, version, extract: jobs.0, unindex: jobs.1 };
        self.seen.borrow_mut().insert(document_id.to_owned(), Some(present));
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// Makes an item's job due, in the place of any other that `before` tells of.
    fn enqueue(&self, kind: JobKind, document_id: &str, before: Option<&Present>) -> R<()> {
        let item = (self.source, document_id);
        if before.is_some_and(|before| before.unindex.is_some()) {
            jobs::take_back_of(self.c, JobKind::Unindex, item)?;
        }
        if let Some(push) = before.and_then(|before| before.extract) {
            jobs::take_back_of(self.c, JobKind::Extract, item)?;
            if push == self.lease.push {
                self.count(|n| n.pending -= 1);
            } else {
                jobs::one_less(self.c, push, self.now)?;
            }
        }
        if kind == JobKind::Extract {
            self.count(|n| n.pending += 1);
        }
        jobs::insert_of(self.c, kind, item, self.lease.push, self.now)
    }

    /// Writes what was counted.
    fn end(self) -> R<()> {
        let n = self.counts.get();
        run(
            self.c,
            "UPDATE pushes SET added = added + ?2, updated = updated + ?3, deleted = deleted + ?4, older = older + ?5,
             pending = pending + ?6 WHERE row = ?1",
            params![self.lease.push, sql(n.added), sql(n.updated), sql(n.deleted), sql(n.older), n.pending],
        )?;
        if n.held != 0 {
            run(self.c, "UPDATE sources SET items = items + ?2 WHERE row = ?1", params![self.source, n.held])?;
        }
        Ok(())
    }

    fn is_older(&self, present: Option<&Present>) -> bool {
        let than_item = present.is_some_and(|p| {
            p.ordering > self.lease.ordering || (p.ordering == self.lease.ordering && p.push > self.lease.push)
        });
        than_item || self.floor > self.lease.ordering
    }
}

pub(super) fn apply(
    c: &Connection,
    lease: &Lease,
    changes: &[Resolved],
    now: Timestamp,
    keep_replaced: Duration,
) -> R<Applied> {
    let Some(source) = lease.source else { return Ok(Applied::LeaseLost) };
    if !pushes::holds(c, lease)? {
        return Ok(Applied::LeaseLost);
    }
    let Some(floor) = one(c, "SELECT floor FROM sources WHERE row = ?1", [source], |row| ordering(row, 0))? else {
        return Ok(Applied::SourceGone);
    };
    let work = Work { floor, ..Work::new(c, lease, source, now, now.plus(keep_replaced)) };
    let wanted = changes.iter().filter(|resolved| resolved.problem.is_none());
    work.look_at(wanted.map(|resolved| resolved.change.document_id()))?;
    let mut done = 0;
    let mut cursor = None;
    let mut deletions = 0;
    let mut puts = 0;
    for resolved in changes {
        if let Some(problem) = &resolved.problem {
            jobs::fail(c, lease.push, resolved.change.document_id(), problem)?;
        } else {
            match &resolved.change {
                Change::Put(draft) => put(&work, draft, &resolved.content, false)?,
                Change::Merge(draft) => put(&work, draft, &resolved.content, true)?,
                Change::Patch(patch) => apply_patch(&work, patch)?,
                Change::Delete { document_id, children } => {
                    deletions += delete(&work, document_id, *children)?;
                    if deletions >= limits::APPLY_RECORDS {
                        // The same record again, until nothing more is deleted by it.
                        break;
                    }
                }
            }
        }
        if lease.kind == PushKind::Load {
            run(
                c,
                "UPDATE items SET loaded = ?3 WHERE source = ?1 AND document_id = ?2",
                params![source, resolved.change.document_id(), lease.push],
            )?;
        }
        puts += i64::from(matches!(resolved.change, Change::Put(_) | Change::Merge(_)));
        done += 1;
        cursor = Some(resolved.end);
    }
    if let Some(cursor) = cursor {
        let moved =
            "UPDATE pushes SET cursor = ?2, puts = CASE WHEN puts > ?3 THEN puts - ?3 ELSE 0 END WHERE row = ?1";
        run(c, moved, params![lease.push, sql(cursor), puts])?;
    }
    work.end()?;
    Ok(Applied::Upto(done))
}

const TOO_MUCH_METADATA: &str = "the item's metadata would grow beyond 8 MiB";

fn put(work: &Work<'_>, draft: &ItemDraft, content: &ResolvedContent, merge: bool) -> R<()> {
    let present = work.present(&draft.document_id)?;
    if work.is_older(present.as_ref()) {
        work.count(|n| n.older += 1);
        return Ok(());
    }
    let alive = present.as_ref().is_some_and(|p| !p.deleted);
    let old = if merge && alive { item(work.c, work.source, &draft.document_id)? } else { None };
    let mut metadata = old.as_ref().map_or_else(Map::new, |o| o.metadata.clone());
    for (key, value) in &draft.metadata {
        metadata.insert(key.clone(), value.clone());
    }
    let metadata = Value::Object(metadata).to_string();
    if merge && metadata.len() > limits::METADATA_BYTES {
        return jobs::fail(work.c, work.lease.push, &draft.document_id, TOO_MUCH_METADATA);
    }
    let keeps = |new: &Option<String>, old: Option<&Option<String>>| new.clone().or_else(|| old.cloned().flatten());
    let permissions = match (&draft.permissions, &old) {
        (Value::Null, Some(old)) => old.permissions.clone(),
        (given, _) => given.clone(),
    };
    let keeps_content = old.is_some() && *content == ResolvedContent::None;
    let (inline, version, bytes) = match content {
        ResolvedContent::None => (None, None, 0),
        ResolvedContent::Inline(b) => (Some(b.as_slice()), None, u64::try_from(b.len()).unwrap_or(0)),
        ResolvedContent::Stored { version, size } => (None, Some(*version), *size),
    };
    run(
        work.c,
        "INSERT INTO items (source, document_id, ordering, push, parent_id, file_extension, metadata, permissions,
                            compression, content, content_version, content_size, state, created, changed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 'queued', ?13, ?13)
         ON CONFLICT (source, document_id) DO UPDATE SET ordering = ?3, push = ?4, parent_id = ?5, file_extension = ?6,
             metadata = ?7, permissions = ?8, state = 'queued', problem = NULL, changed = ?13,
             created = CASE WHEN items.deleted IS NULL THEN items.created ELSE ?13 END, deleted = NULL,
             compression = CASE WHEN ?14 = 1 THEN items.compression ELSE ?9 END,
             content = CASE WHEN ?14 = 1 THEN items.content ELSE ?10 END,
             content_version = CASE WHEN ?14 = 1 THEN items.content_version ELSE ?11 END,
             content_size = CASE WHEN ?14 = 1 THEN items.content_size ELSE ?12 END",
        params![
            work.source,
            draft.document_id,
            work.lease.ordering.to_bytes(),
            work.lease.push,
            keeps(&draft.parent_id, old.as_ref().map(|o| &o.parent_id)),
            keeps(&draft.file_extension, old.as_ref().map(|o| &o.file_extension)),
            metadata,
            permissions.to_string(),
            draft.compression,
            inline,
            version.map(|v| v.0.into_bytes()),
            sql(bytes),
            work.now.0,
            keeps_content
        ],
    )?;
    if !keeps_content {
        if let Some(version) = version {
            uploads::pin(work.c, version)?;
        }
        if let Some(replaced) = present.as_ref().and_then(|p| p.version) {
            uploads::unpin(work.c, replaced, work.gone)?;
        }
    }
    work.enqueue(JobKind::Extract, &draft.document_id, present.as_ref())?;
    let version = if keeps_content { present.and_then(|p| p.version) } else { version };
    work.left(&draft.document_id, false, version, (Some(work.lease.push), None));
    if !alive {
        work.count(|n| n.held += 1);
    }
    work.count(|n| *(if alive { &mut n.updated } else { &mut n.added }) += 1);
    Ok(())
}

fn apply_patch(work: &Work<'_>, patch: &Patch) -> R<()> {
    let present = work.present(&patch.document_id)?;
    if work.is_older(present.as_ref()) {
        work.count(|n| n.older += 1);
        return Ok(());
    }
    let Some(item) = item(work.c, work.source, &patch.document_id)? else {
        return jobs::fail(work.c, work.lease.push, &patch.document_id, "there is no such item to update partially");
    };
    let mut metadata = item.metadata;
    if let Err(reason) = patched(&mut metadata, patch) {
        return jobs::fail(work.c, work.lease.push, &patch.document_id, &reason);
    }
    let metadata = Value::Object(metadata).to_string();
    if metadata.len() > limits::METADATA_BYTES {
        return jobs::fail(work.c, work.lease.push, &patch.document_id, TOO_MUCH_METADATA);
    }
    run(
        work.c,
        "UPDATE items SET metadata = ?2, ordering = ?3, push = ?4, changed = ?5, state = 'queued', problem = NULL WHERE row = ?1",
        params![item.row, metadata, work.lease.ordering.to_bytes(), work.lease.push, work.now.0],
    )?;
    work.enqueue(JobKind::Extract, &patch.document_id, present.as_ref())?;
    work.left(&patch.document_id, false, present.and_then(|p| p.version), (Some(work.lease.push), None));
    work.count(|n| n.updated += 1);
    Ok(())
}

fn patched(metadata: &mut Map<String, Value>, patch: &Patch) -> Result<(), String> {
    // A field keeps the spelling under which it came first.
    let field = metadata.keys().find(|k| k.eq_ignore_ascii_case(&patch.field)).unwrap_or(&patch.field).clone();
    let several = |value: &Value| match value {
        Value::Array(values) => values.clone(),
        single => vec![single.clone()],
    };
    let wrong = |expected: &str| Err(format!("the field `{}` is not {expected}", patch.field));
    match patch.operator {
        PatchOperator::Replace => {
            metadata.insert(field, patch.value.clone());
        }
        PatchOperator::ArrayAppend => match metadata.entry(field).or_insert_with(|| Value::Array(Vec::new())) {
            Value::Array(values) => values.extend(several(&patch.value)),
            _ => return wrong("an array"),
        },
        PatchOperator::ArrayRemove => match metadata.get_mut(&field) {
            Some(Value::Array(values)) => {
                let removed = several(&patch.value);
                values.retain(|v| !removed.contains(v));
            }
            None => {}
            Some(_) => return wrong("an array"),
        },
        PatchOperator::DictionaryPut => match metadata.entry(field).or_insert_with(|| Value::Object(Map::new())) {
            Value::Object(dictionary) => match &patch.value {
                Value::Object(new) => dictionary.extend(new.clone()),
                _ => return Err("the value of a dictionaryPut must be an object".into()),
            },
            _ => return wrong("a dictionary"),
        },
        PatchOperator::DictionaryRemove => match metadata.get_mut(&field) {
            Some(Value::Object(dictionary)) => {
                for key in several(&patch.value) {
                    if let Value::String(key) = key {
                        dictionary.remove(&key);
                    }
                }
            }
            None => {}
            Some(_) => return wrong("a dictionary"),
        },
    }
    Ok(())
}

/// Deletes an item, and up to a transaction's worth of the items below it. Says how many rows it took.
fn delete(work: &Work<'_>, document_id: &str, children: bool) -> R<usize> {
    let present = work.present(document_id)?;
    if work.is_older(present.as_ref()) {
        work.count(|n| n.older += 1);
        return Ok(0);
    }
    if present.as_ref().is_none_or(|p| !p.deleted || p.push != work.lease.push) {
        // Also for an item that was never there: an older push that is yet to be applied must not bring it back.
        bury(work, document_id, present.as_ref())?;
        work.count(|n| n.deleted += u64::from(present.is_some_and(|p| !p.deleted)));
    }
    if !children {
        return Ok(0);
    }
    let (from, to) = prefix_range(document_id);
    // Always an upper bound, so that the index ends the search: no id is above the highest character repeated.
    let to = to.unwrap_or_else(|| "\u{10FFFF}".repeat(limits::DOCUMENT_ID_BYTES / 4 + 1));
    let below = all(
        work.c,
        "SELECT document_id FROM items WHERE source = ?1 AND document_id >= ?2 AND document_id < ?3
         AND deleted IS NULL AND (ordering < ?4 OR (ordering = ?4 AND push <= ?5)) LIMIT ?6",
        params![
            work.source,
            from,
            to,
            work.lease.ordering.to_bytes(),
            work.lease.push,
            i64::try_from(limits::APPLY_RECORDS).unwrap_or(i64::MAX)
        ],
        |row| row.get::<String>(0),
    )?;
    remove(work, &below)?;
    Ok(below.len())
}

/// Deletes items that are there.
fn remove(work: &Work<'_>, ids: &[String]) -> R<()> {
    work.look_at(ids.iter().map(String::as_str))?;
    for document_id in ids {
        bury(work, document_id, work.present(document_id)?.as_ref())?;
        work.count(|n| n.deleted += 1);
    }
    Ok(())
}

/// Leaves of an item only its ordering id. The text of one that was there leaves the index.
fn bury(work: &Work<'_>, document_id: &str, present: Option<&Present>) -> R<()> {
    run(
        work.c,
        "INSERT INTO items (source, document_id, ordering, push, metadata, permissions, content_size, state, created, changed, deleted)
         VALUES (?1, ?2, ?3, ?4, '{}', 'null', 0, 'ready', ?5, ?5, ?5)
         ON CONFLICT (source, document_id) DO UPDATE SET ordering = ?3, push = ?4, metadata = '{}', permissions = 'null',
             parent_id = NULL, file_extension = NULL, compression = NULL, content = NULL, content_version = NULL,
             content_size = 0, state = 'ready', problem = NULL, changed = ?5, deleted = ?5",
        params![work.source, document_id, work.lease.ordering.to_bytes(), work.lease.push, work.now.0],
    )?;
    if let Some(version) = present.and_then(|p| p.version) {
        uploads::unpin(work.c, version, work.gone)?;
    }
    if present.is_some_and(|p| !p.deleted) {
        work.enqueue(JobKind::Unindex, document_id, present)?;
        work.left(document_id, true, None, (None, Some(work.lease.push)));
        work.count(|n| n.held -= 1);
    } else {
        work.left(document_id, true, None, present.map_or((None, None), |p| (p.extract, p.unindex)));
    }
    Ok(())
}

pub(super) fn apply_deletions(c: &Connection, lease: &Lease, now: Timestamp, keep_replaced: Duration) -> R<bool> {
    if !pushes::holds(c, lease)? {
        return Ok(false);
    }
    let limit = i64::try_from(limits::APPLY_RECORDS).unwrap_or(i64::MAX);
    if lease.kind == PushKind::IdentitiesOlderThan {
        return identities::delete_older(c, lease, now);
    }
    let Some(source) = lease.source else { return Ok(false) };
    let work = Work::new(c, lease, source, now, now.plus(keep_replaced));
    let doomed = match lease.kind {
        PushKind::OlderThan => {
            run(
                c,
                "UPDATE sources SET floor = CASE WHEN floor < ?2 THEN ?2 ELSE floor END WHERE row = ?1",
                params![source, lease.ordering.to_bytes()],
            )?;
            all(
                c,
                "SELECT document_id FROM items WHERE source = ?1 AND ordering < ?2 AND deleted IS NULL LIMIT ?3",
                params![source, lease.ordering.to_bytes(), limit],
                |row| row.get::<String>(0),
            )?
        }
        PushKind::Load => all(
            c,
            "SELECT document_id FROM items WHERE source = ?1 AND push < ?2 AND ordering <= ?3 AND deleted IS NULL
             AND (loaded IS NULL OR loaded <> ?2) LIMIT ?4",
            params![source, lease.push, lease.ordering.to_bytes(), limit],
            |row| row.get::<String>(0),
        )?,
        PushKind::Items | PushKind::Identities | PushKind::IdentitiesOlderThan => Vec::new(),
    };
    remove(&work, &doomed)?;
    work.end()?;
    Ok(i64::try_from(doomed.len()).unwrap_or(0) == limit)
}
