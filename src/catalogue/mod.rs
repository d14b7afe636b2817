//! The verbs on a tenant's catalogue: entries found, listed, changed and deleted. That an entry is made together with the
//! upload of its content is `upload::entry`'s.

use crate::clock::ordered_uuid;
use crate::engine::Engine;
use crate::limits;
use crate::meta::{DeleteEntries, EntriesChanged, EntriesDeleted, NodeEntry};
use crate::model::entry::{Entry, EntryFilter, EntryRef, Facts, FactsEdit, NodeId, Stretch};
use crate::model::ids::{FileId, TenantId};
use crate::model::refusal::Refusal;

/// Entries of the tenant by their names, in the order asked for.
///
/// # Errors
/// The keepers' own.
pub async fn find(engine: &Engine, tenant: &TenantId, entries: Vec<EntryRef>) -> Result<Vec<Option<Entry>>, Refusal> {
    Ok(engine.meta.entries(tenant, entries).await?)
}

/// A stretch of the entries that are meant, in the order of their numbers, and the number above which the next one
/// begins, unless this is the last.
///
/// # Errors
/// The keepers' own.
pub async fn list(
    engine: &Engine,
    tenant: &TenantId,
    filter: EntryFilter,
    stretch: Stretch,
) -> Result<(Vec<Entry>, Option<i64>), Refusal> {
    // One more says whether there are more.
    let asked = Stretch { limit: stretch.limit.saturating_add(1), ..stretch };
    let mut found = engine.meta.find_entries(tenant, filter, asked).await?;
    let limit = usize::try_from(stretch.limit).unwrap_or(usize::MAX);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().map(|entry| entry.number).filter(|_| more);
    Ok((found, next))
}

/// Entries that are meant and have these words in their names, the best first.
///
/// # Errors
/// The keepers' own.
pub async fn search(
    engine: &Engine,
    tenant: &TenantId,
    words: &str,
    filter: EntryFilter,
    limit: u32,
) -> Result<Vec<Entry>, Refusal> {
    Ok(engine.meta.search_entries(tenant, words, filter, limit).await?)
}

/// How many entries are meant.
///
/// # Errors
/// The keepers' own.
pub async fn count(engine: &Engine, tenant: &TenantId, filter: EntryFilter) -> Result<u64, Refusal> {
    Ok(engine.meta.count_entries(tenant, filter).await?)
}

/// Makes entries that stand for nodes, or changes those that are there, all or none. For each: its node, what is said about
/// it if it is new, what changes if it is not.
///
/// # Errors
/// The keepers' own.
pub async fn put_nodes(
    engine: &Engine,
    tenant: &TenantId,
    nodes: impl IntoIterator<Item = (NodeId, Facts, FactsEdit)>,
) -> Result<EntriesChanged, Refusal> {
    let now = engine.clock.now();
    let file = || FileId(ordered_uuid(now));
    let nodes = nodes.into_iter().map(|(node, facts, edit)| NodeEntry { node, file: file(), facts, edit }).collect();
    Ok(engine.meta.put_nodes(tenant, nodes, now).await?)
}

/// Changes what is said about entries, of all or of none. Their content stays.
///
/// # Errors
/// The keepers' own.
pub async fn change(
    engine: &Engine,
    tenant: &TenantId,
    changes: Vec<(EntryRef, FactsEdit)>,
) -> Result<EntriesChanged, Refusal> {
    Ok(engine.meta.change_entries(tenant, changes, engine.clock.now()).await?)
}

/// Deletes entries, all or none: their names are free at once, their uploads end, their bytes go later.
///
/// # Errors
/// The keepers' own.
pub async fn delete(
    engine: &Engine,
    tenant: &TenantId,
    entries: Vec<EntryRef>,
    ignore_unknown: bool,
    as_nodes: bool,
) -> Result<EntriesDeleted, Refusal> {
    let delete = DeleteEntries {
        tenant: tenant.clone(),
        entries,
        ignore_unknown,
        as_nodes,
        now: engine.clock.now(),
        keep_replaced: limits::DOWNLOAD_MAX,
    };
    let deleted = engine.meta.delete_entries(delete).await?;
    engine.work.wake();
    Ok(deleted)
}
