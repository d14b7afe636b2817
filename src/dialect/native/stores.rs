//! Stores, their files, and chunks that fit a question.

use std::sync::Arc;

use http::StatusCode;

use super::query::Query;
use super::{Reply, answer, wire};
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::meta::{StoreFileFilter, StoreFilter};
use crate::model::access::{Caller, Right};
use crate::model::refusal::Refusal;
use crate::model::store::{ProcessingState, Store};
use crate::store::{self, browse, setup};
use crate::tenant;

const HITS_DEFAULT: u32 = 10;
const HITS_MAX: u32 = 100;
const QUERY_CHARS: usize = 1_000;

async fn enter(doors: &Doors, call: &Call) -> Result<Caller, Refusal> {
    let caller = call.caller(doors).await?;
    tenant::check(&caller, Right::Read)?;
    Ok(caller)
}

async fn enter_store(doors: &Doors, call: &Call) -> Result<Store, Refusal> {
    let caller = enter(doors, call).await?;
    store::find(&doors.engine, &caller.tenant, call.parameter("store")).await
}

pub(super) async fn stores(doors: Arc<Doors>, call: Call) -> Reply {
    let caller = enter(&doors, &call).await?;
    let query = Query::parse(&call.query, &["name", "limit", "cursor"])?;
    let limit = query.limit()?;
    let filter = StoreFilter {
        search: query.get("name").map(str::to_owned),
        before: query.cursor()?,
        limit: limit.saturating_add(1),
        ..StoreFilter::default()
    };
    let (stores, _) = setup::list(&doors.engine, &caller.tenant, filter).await?;
    let (stores, next) = page(stores, limit, |store| store.row);
    answer(StatusCode::OK, &wire::list(stores.iter().map(wire::store).collect(), next))
}

pub(super) async fn files(doors: Arc<Doors>, call: Call) -> Reply {
    let store = enter_store(&doors, &call).await?;
    let query = Query::parse(&call.query, &["state", "name", "limit", "cursor"])?;
    let limit = query.limit()?;
    let filter = StoreFileFilter {
        state: query.word("state", ProcessingState::from_name, "pending, processing, completed, failed")?,
        search: query.get("name").map(str::to_owned),
        before: query.cursor()?,
        limit: limit.saturating_add(1),
        ..StoreFileFilter::default()
    };
    let (files, _) = browse::files(&doors.engine, &store, filter).await?;
    let (files, next) = page(files, limit, |file| file.row);
    answer(StatusCode::OK, &wire::list(files.iter().map(wire::store_file).collect(), next))
}

/// What was asked for, and where it goes on: one more than wanted was fetched to know.
fn page<T>(mut rows: Vec<T>, limit: u32, row: impl Fn(&T) -> i64) -> (Vec<T>, Option<i64>) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(row);
    (rows, next)
}

pub(super) async fn search(doors: Arc<Doors>, call: Call) -> Reply {
    let store = enter_store(&doors, &call).await?;
    let query = Query::parse(&call.query, &["query", "limit"])?;
    let limit = match query.get("limit").map(str::parse) {
        None => HITS_DEFAULT,
        Some(Ok(limit @ 1..=HITS_MAX)) => limit,
        Some(_) => return Err(Refusal::invalid("limit", format!("must be a number from 1 to {HITS_MAX}"))),
    };
    let text = query.require("query")?;
    if text.trim().is_empty() || text.chars().count() > QUERY_CHARS {
        return Err(Refusal::invalid("query", format!("must have 1 to {QUERY_CHARS} characters that are not blank")));
    }
    let hits = browse::search(&doors.engine, &store, text, limit).await?;
    answer(StatusCode::OK, &wire::list(hits.iter().map(wire::hit).collect(), None))
}
