//! The Aitronos APIs: Files, and Knowledge stores. docs/aitronos.md is their page.

mod envelope;
mod json;
mod query;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::http::call::{self, Answering, Call};
use crate::http::doors::{self, Doors};
use crate::limits;
use crate::model::access::Right;
use crate::model::ids::TenantId;
use crate::model::refusal::Refusal;
use crate::upload::access::{self, Grant};
use envelope::Fault;

/// The name of this wire in sessions and in the configuration.
pub const WIRE: &str = "aitronos";

/// What a handler answers.
type Reply = Result<Response, Fault>;

/// Every call that has a mount to itself: at the root, and under the vendor's prefix.
pub fn routes() -> Router<Arc<Doors>> {
    Router::new().method_not_allowed_fallback(wrong_method)
}

/// The calls whose bodies are files: they stay where bytes are moved.
pub fn bodies() -> Router<Arc<Doors>> {
    Router::new().method_not_allowed_fallback(wrong_method)
}

/// Everything under the vendor's prefix that is no call.
pub fn nowhere() -> Router<Arc<Doors>> {
    Router::new().route("/{*rest}", any(unknown))
}

/// A route for one handler.
fn on<H, F>(handler: H) -> impl Fn(State<Arc<Doors>>, Request) -> Answering + Clone + Send + Sync + 'static
where
    H: Fn(Arc<Doors>, Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    move |State(doors), request| {
        let handler = handler.clone();
        Box::pin(async move {
            let call = Call::read(request).await;
            let request_id = call.request_id.clone();
            match handler(Arc::clone(&doors), call).await {
                Ok(response) => response,
                Err(fault) => envelope::answer(&fault, &request_id, doors.engine.clock.now()),
            }
        })
    }
}

/// The answer to a path that no call has.
pub async fn unknown(State(doors): State<Arc<Doors>>, request: Request) -> Response {
    let fault = Fault::no_such_path(request.uri().path());
    envelope::answer(&fault, &doors::request_id(&request), doors.engine.clock.now())
}

/// The answer to a path that has no call with this method; the router adds `Allow`.
pub async fn wrong_method(State(doors): State<Arc<Doors>>, request: Request) -> Response {
    let fault = Fault::wrong_method(request.method());
    envelope::answer(&fault, &doors::request_id(&request), doors.engine.clock.now())
}

/// The answer to a refusal outside the calls.
pub fn refuse(refused: Refusal, request_id: &str, now: Timestamp) -> Response {
    envelope::answer(&Fault::from(refused), request_id, now)
}

/// Who calls, and may they do this in the organization of the path? One that is unknown and one of others are the same.
async fn grant(doors: &Doors, call: &Call, right: Right) -> Result<Grant, Fault> {
    let caller = call.caller(doors).await?;
    let organization = call.parameter("org");
    match access::grant(&doors.engine, &caller, &TenantId::from(organization), right).await {
        Ok(grant) => Ok(grant),
        Err(Refusal::TenantUnknown | Refusal::Forbidden { right: "" }) => Err(Fault::organization(organization)),
        Err(refused) => Err(refused.into()),
    }
}

/// The JSON body of a call.
async fn body(doors: &Doors, call: &mut Call) -> Result<Bytes, Fault> {
    Ok(call.json(doors, limits::SMALL_JSON_BYTES, "send fewer items at once").await?)
}

/// A JSON answer.
fn answer(status: StatusCode, body: &impl Serialize) -> Reply {
    Ok(call::answer(status, body)?)
}

/// A time as this API writes it: RFC 3339 in UTC, whole seconds, `Z`.
fn time(at: Timestamp) -> String {
    match jiff::Timestamp::from_second(at.seconds()) {
        Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Err(_) => String::from("9999-12-30T22:00:00Z"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_whole_seconds() {
        assert_eq!(time(Timestamp(1_767_022_200_999)), "2025-12-29T15:30:00Z");
        assert_eq!(time(Timestamp(i64::MAX)), "9999-12-30T22:00:00Z");
    }
}
