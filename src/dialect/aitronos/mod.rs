//! The Aitronos APIs: Files, and Knowledge stores. docs/aitronos.md is their page.

mod envelope;
mod files;
mod json;
mod knowledge;
mod query;
mod stores;
mod upload;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, delete, get, patch, post};
use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use crate::clock::{Clock, Timestamp};
use crate::http::call::{self, Answering, Call};
use crate::http::doors::{self, Doors};
use crate::http::server::Early;
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

/// The path of files, on which another vendor has a call as well.
const FILES: &str = "/v1/organizations/{org}/files";

/// Every call but those of [`bodies`], under a mount of its own.
pub fn routes() -> Router<Arc<Doors>> {
    shared_routes(post(register)).route("/{*rest}", any(unknown))
}

/// The same beside other vendors' APIs: who decides about a POST to the files' path is given, and paths that no call has
/// are left open.
pub fn shared_routes(post_files: MethodRouter<Arc<Doors>>) -> Router<Arc<Doors>> {
    let file = format!("{FILES}/{{file_id}}");
    Router::new()
        .route(FILES, get(on(files::list)).merge(post_files))
        .route(&format!("{FILES}/upload-url"), post(on(files::upload_url)))
        .route(&file, get(on(files::get)).merge(delete(on(files::delete))))
        .route(&format!("{file}/content"), get(on(files::content)))
        .route(&format!("{file}/download"), get(on(files::download)))
        .merge(store_routes())
        .method_not_allowed_fallback(wrong_method)
}

/// Stores and their files.
fn store_routes() -> Router<Arc<Doors>> {
    let organization = |path: &str| format!("/v1/organizations/{{org}}{path}");
    let files = |path: &str| organization(&format!("/stores/{{store}}/files{path}"));
    let attached = |path: &str| organization(&format!("/vector-stores/{{store}}/files{path}"));
    Router::new()
        .route("/v1/files/config", get(on(knowledge::config)))
        .route(&organization("/stores/usage"), get(on(knowledge::usage)))
        .route(&files(""), get(on(knowledge::list)))
        .route(&files("/upload-url"), post(on(knowledge::upload_url)))
        .route(&files("/register"), post(on(knowledge::register_upload)))
        .route(&files("/remove-bulk"), post(on(knowledge::remove_bulk)))
        .route(&files("/{file_id}"), get(on(knowledge::get)).merge(delete(on(knowledge::delete))))
        .route(&files("/{file_id}/status"), get(on(knowledge::status)))
        .route(&files("/{file_id}/logs"), get(on(knowledge::logs)))
        .route(&files("/{file_id}/retry"), post(on(knowledge::retry)))
        .route(&organization("/knowledge/stores"), get(on(stores::list)).merge(post(on(stores::create))))
        .route(
            &organization("/knowledge/stores/{store}"),
            get(on(stores::get)).merge(patch(on(stores::update))).merge(delete(on(stores::delete))),
        )
        .route(&organization("/knowledge/slices/{slice}/stores"), get(on(stores::list)).merge(post(on(stores::create))))
        .route(&attached(""), get(on(stores::attached_files)).merge(post(on(stores::attach))))
        .route(&attached("/{file_id}"), get(on(stores::attached_file)).merge(delete(on(knowledge::delete))))
        .route(&attached("/{file_id}/status"), get(on(stores::attached_status)))
        .route(&attached("/{file_id}/logs"), get(on(stores::attached_logs)))
        .route(&attached("/{file_id}/retry"), post(on(stores::attached_retry)))
}

/// Registers uploaded files.
pub fn register(doors: State<Arc<Doors>>, request: Request) -> Answering {
    on(files::register)(doors, request)
}

/// The calls whose bodies are files: they stay where bytes are moved.
pub fn bodies() -> Router<Arc<Doors>> {
    Router::new()
        .route(&format!("{FILES}/upload"), post(on(upload::files)))
        .route("/v1/organizations/{org}/stores/{store}/files/upload", post(on(knowledge::upload)))
        .method_not_allowed_fallback(wrong_method)
}

/// A route for one handler.
fn on<H, F>(handler: H) -> impl Fn(State<Arc<Doors>>, Request) -> Answering + Clone + Send + Sync + 'static
where
    H: Fn(Arc<Doors>, Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    call::handle(envelope::answer, handler)
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

/// The answer to a request that is refused before a handler sees it.
#[must_use]
pub fn refuse_early(early: &Early, request_id: &str) -> Response {
    envelope::answer(&Fault::early(early), request_id, Clock::system().now())
}

/// The answer to a refusal outside the calls.
pub fn refuse(refused: Refusal, request_id: &str, now: Timestamp) -> Response {
    envelope::answer(&Fault::from(refused), request_id, now)
}

/// Who calls, and may they do this in the organization of the path? One that is unknown and one of others are the same.
async fn grant(doors: &Doors, call: &Call, right: Right) -> Result<Grant, Fault> {
    let caller = call.caller(doors).await?;
    let organization = call.parameter("org");
    let granted = access::grant(&doors.engine, &caller, &TenantId::from(organization), right).await;
    granted.map_err(|refused| denied(refused, organization))
}

/// The same for a call that only reads: whose files it sees.
async fn view(doors: &Doors, call: &Call, right: Right) -> Result<TenantId, Fault> {
    let caller = call.caller(doors).await?;
    let organization = call.parameter("org");
    let tenant = TenantId::from(organization);
    let seen = access::view(&doors.engine, &caller, &tenant, right).await;
    seen.map(|()| tenant).map_err(|refused| denied(refused, organization))
}

fn denied(refused: Refusal, organization: &str) -> Fault {
    match refused {
        Refusal::TenantUnknown | Refusal::Forbidden { right: "" } => Fault::organization(organization),
        other => other.into(),
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

fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
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
