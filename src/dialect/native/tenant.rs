//! Usage, refusals, keys.

use std::sync::Arc;

use axum::response::IntoResponse;
use http::StatusCode;
use serde_json::Value;

use super::query::Query;
use super::{Reply, answer, wire};
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::limits;
use crate::model::access::Right;
use crate::model::ids::TenantId;
use crate::model::refusal::Refusal;
use crate::tenant::{self, once as marked, recall, remember};
use crate::upload::access::{self, Grant};

pub(super) async fn usage(doors: Arc<Doors>, call: Call) -> Reply {
    let caller = call.caller(&doors).await?;
    Query::parse(&call.query, &[])?;
    answer(StatusCode::OK, &wire::usage(&tenant::usage(&doors.engine, &caller).await?))
}

pub(super) async fn refusal(doors: Arc<Doors>, call: Call) -> Reply {
    let caller = call.caller(&doors).await?;
    let request_id = call.parameter("request");
    answer(StatusCode::OK, &wire::refusal(request_id, &tenant::refusal(&doors.engine, &caller, request_id)?))
}

pub(super) async fn keys(doors: Arc<Doors>, call: Call) -> Reply {
    let caller = call.caller(&doors).await?;
    Query::parse(&call.query, &[])?;
    let keys = tenant::keys(&doors.engine, &caller).await?;
    answer(StatusCode::OK, &wire::list(keys.iter().map(|info| wire::key(info, None)).collect(), None))
}

pub(super) async fn create_key(doors: Arc<Doors>, mut call: Call) -> Reply {
    let caller = call.caller(&doors).await?;
    let mark = mark(&call)?;
    let body = call.json(&doors, limits::SMALL_JSON_BYTES, "a key needs a name, rights and a time").await?;
    let new = wire::new_key(&body, mark, doors.engine.clock.now())?;
    let (info, secret) = tenant::create_key(&doors.engine, &caller, new).await?;
    answer(StatusCode::CREATED, &wire::key(&info, secret.as_deref()))
}

/// Who calls, with this right in the tenant of its key.
pub(super) async fn grant(doors: &Doors, call: &Call, right: Right) -> Result<Grant, Refusal> {
    let caller = call.caller(doors).await?;
    access::grant(&doors.engine, &caller, &caller.tenant, right).await
}

/// Whose key asks, with this right, for what a paused tenant may do as well.
pub(super) async fn reader(doors: &Doors, call: &Call, right: Right) -> Result<TenantId, Refusal> {
    let caller = call.caller(doors).await?;
    tenant::check(&caller, right)?;
    Ok(caller.tenant)
}

/// Answers a call that may be repeated without harm. A repetition with the same mark gets the first answer.
pub(super) async fn once(
    doors: &Doors,
    tenant: &TenantId,
    call: &Call,
    mark: Option<String>,
    body: &[u8],
    make: impl Future<Output = Result<Value, Refusal>>,
) -> Reply {
    let Some(mark) = mark else { return answer(StatusCode::OK, &make.await?) };
    let what = format!("{} {}", call.method, call.path);
    let once = marked(mark, &what, body, doors.engine.clock.now());
    let first = match recall(&doors.engine, tenant, &once).await? {
        Some(first) => Some(first),
        None => {
            let made = make.await?;
            match remember(&doors.engine, tenant, once, made.to_string().into_bytes()).await? {
                Some(faster) => Some(faster),
                None => return answer(StatusCode::OK, &made),
            }
        }
    };
    let first: Value = serde_json::from_slice(&first.unwrap_or_default()).map_err(|_| Refusal::Internal)?;
    answer(StatusCode::OK, &first)
}

/// The client's mark on a call that may be repeated.
pub(super) fn mark(call: &Call) -> Result<Option<String>, Refusal> {
    let Some(value) = call.headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > 255 || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Refusal::invalid("Idempotency-Key", "must be 1 to 255 visible characters"));
    }
    Ok(Some(text.to_owned()))
}

pub(super) async fn revoke_key(doors: Arc<Doors>, call: Call) -> Reply {
    let caller = call.caller(&doors).await?;
    tenant::revoke_key(&doors.engine, &caller, call.parameter("key")).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
