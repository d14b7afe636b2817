//! Looking into sources: items, their text, and what became of pushes.

use crate::engine::Engine;
use crate::limits;
use crate::meta::ItemFilter;
use crate::model::ids::{RequestId, TenantId};
use crate::model::refusal::Refusal;
use crate::model::source::{Item, Push, PushState, Source};
use crate::search::Document;

/// Rounds of asking the index and filtering its answer, at most, for one page.
const ROUNDS: usize = 50;

/// A page of a list, and where the next one begins.
#[derive(Clone, PartialEq, Debug)]
pub struct Page<T> {
    /// What is on it, newest first.
    pub items: Vec<T>,
    /// The row below which the next page begins.
    pub next: Option<i64>,
}

/// Items of a source, newest first; with `query`, those whose text or metadata match it.
///
/// # Errors
/// The keepers' own.
pub async fn items(
    engine: &Engine,
    source: &Source,
    query: Option<&str>,
    filter: ItemFilter,
) -> Result<Page<Item>, Refusal> {
    let limit = usize::try_from(filter.limit).unwrap_or(usize::MAX);
    let Some(query) = query else {
        let one_more = ItemFilter { limit: filter.limit.saturating_add(1), ..filter };
        let items = engine.meta.items(source.row, one_more).await?;
        return Ok(page(items, limit, |item| item.row));
    };
    // The index knows the words, the facts know the rest: page through the one, filter by the other.
    let mut found: Vec<Item> = Vec::new();
    let mut before = filter.before;
    for _ in 0..ROUNDS {
        let rows = engine.search.find(source.row, query, before, 1000).await?;
        let Some(lowest) = rows.last().copied() else { return Ok(page(found, limit, |item| item.row)) };
        let wanted = filter.limit.saturating_add(1).saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
        let filter = ItemFilter { rows: Some(rows), limit: wanted, ..filter.clone() };
        found.extend(engine.meta.items(source.row, filter).await?);
        if found.len() > limit {
            break;
        }
        before = Some(lowest);
    }
    let mut page = page(found, limit, |item| item.row);
    page.next = page.next.or(before);
    Ok(page)
}

fn page<T>(mut items: Vec<T>, limit: usize, row: impl Fn(&T) -> i64) -> Page<T> {
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(row) } else { None };
    Page { items, next }
}

/// An item by its document id.
///
/// # Errors
/// [`Refusal::NotFound`].
pub async fn item(engine: &Engine, source: &Source, document_id: &str) -> Result<Item, Refusal> {
    if document_id.len() > limits::DOCUMENT_ID_BYTES {
        return Err(Refusal::NotFound { what: "the item" });
    }
    engine.meta.item(source.row, document_id).await?.ok_or(Refusal::NotFound { what: "the item" })
}

/// An item's text.
///
/// # Errors
/// [`Refusal::NotFound`] when no text was indexed for it.
pub async fn text(engine: &Engine, item: &Item) -> Result<Document, Refusal> {
    engine.search.document(item.row).await?.ok_or(Refusal::NotFound { what: "the item's text" })
}

/// A push of the tenant.
///
/// # Errors
/// [`Refusal::NotFound`].
pub async fn push(engine: &Engine, tenant: &TenantId, request: &str) -> Result<Push, Refusal> {
    let unknown = Refusal::NotFound { what: "the push" };
    let Ok(request) = request.parse::<RequestId>() else { return Err(unknown) };
    engine.meta.push(tenant, request).await?.ok_or(unknown)
}

/// Pushes of a source, newest first.
///
/// # Errors
/// The keepers' own.
pub async fn pushes(
    engine: &Engine,
    source: &Source,
    state: Option<PushState>,
    before: Option<i64>,
    limit: u32,
) -> Result<Page<Push>, Refusal> {
    let pushes = engine.meta.pushes(&source.tenant, &source.id.0, state, before, limit.saturating_add(1)).await?;
    Ok(page(pushes, usize::try_from(limit).unwrap_or(usize::MAX), |push| push.row))
}
