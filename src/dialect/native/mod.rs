//! Landfall's own API: what the vendors' APIs can't say.

mod envelope;
mod fields;
mod files;
mod items;
mod query;
mod stores;
mod tenant;
mod uploads;
mod wire;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{any, delete, get, post};
use http::{HeaderValue, StatusCode};

use crate::http::call::{self, Answering, Call, Reply, answer};
use crate::http::doors::{self, Doors};
use crate::http::server::{self, Early, RequestId};
use crate::model::refusal::Refusal;

/// Its name in upload locations.
pub const WIRE: &str = "native";

/// The base of every path.
const BASE: &str = "/landfall/v1";

/// Every path.
pub fn routes() -> Router<Arc<Doors>> {
    let at = |path: &str| format!("{BASE}{path}");
    Router::new()
        .route(&at("/sources"), get(on(items::sources)))
        .route(&at("/sources/{source}/items"), get(on(items::items)))
        .route(&at("/sources/{source}/item"), get(on(items::item)))
        .route(&at("/sources/{source}/item/text"), get(on(items::text)))
        .route(&at("/sources/{source}/item/content"), get(on(items::content)))
        .route(&at("/sources/{source}/pushes"), get(on(items::pushes)))
        .route(&at("/pushes/{request}"), get(on(items::push)))
        .route(&at("/stores"), get(on(stores::stores)))
        .route(&at("/stores/{store}/files"), get(on(stores::files)))
        .route(&at("/stores/{store}/search"), get(on(stores::search)))
        .route(&at("/uploads"), get(on(uploads::list)).post(on(uploads::create)))
        .route(&at("/uploads/{upload}"), get(on(uploads::one)).delete(on(uploads::abort)))
        .route(&at("/uploads/{upload}/urls"), post(on(uploads::urls)))
        .route(&at("/uploads/{upload}/commit"), post(on(uploads::commit)))
        .route(&at("/files"), get(on(files::list)))
        .route(&at("/files/{file}"), get(on(files::one)).delete(on(files::delete)))
        .route(&at("/files/{file}/content"), get(on(files::content)))
        .route(&at("/files/{file}/link"), post(on(files::link)))
        .route(&at("/files/{file}/download"), get(on(files::download)))
        .route(&at("/usage"), get(on(tenant::usage)))
        .route(&at("/refusals/{request}"), get(on(tenant::refusal)))
        .route(&at("/keys"), get(on(tenant::keys)).post(on(tenant::create_key)))
        .route(&at("/keys/{key}"), delete(on(tenant::revoke_key)))
        .route(&at("/{*rest}"), any(unknown))
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::middleware::map_response(same_id))
}

/// Is a path one of this API's?
#[must_use]
pub fn is_path(path: &str) -> bool {
    path.strip_prefix(BASE).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The answer to a request that is refused before a handler sees it.
#[must_use]
pub fn refuse_early(early: &Early, request_id: &str) -> Response {
    with_id(early.problem(request_id), request_id)
}

/// Our own name for the request's id, beside the one that every answer has.
async fn same_id(extension: axum::extract::Extension<RequestId>, response: Response) -> Response {
    with_id(response, &extension.0.0)
}

fn with_id(mut response: Response, request_id: &str) -> Response {
    if let Ok(id) = HeaderValue::try_from(request_id) {
        response.headers_mut().insert("request-id", id);
    }
    response
}

/// The answer to a refused PUT to an upload URL.
pub fn refuse_upload(refused: &Refusal, request_id: &str, _announced: Option<u64>) -> Response {
    with_id(envelope::refuse(refused, request_id), request_id)
}

/// A route for one handler.
fn on<H, F>(handler: H) -> impl Fn(State<Arc<Doors>>, Request) -> Answering + Clone + Send + Sync + 'static
where
    H: Fn(Arc<Doors>, Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    call::handle(|refused, id, _| envelope::refuse(refused, id), handler)
}

async fn unknown(request: Request) -> Response {
    let id = doors::request_id(&request);
    envelope::refuse(&Refusal::NotFound { what: "the path" }, &id)
}

async fn wrong_method(request: Request) -> Response {
    let id = doors::request_id(&request);
    let detail = format!("the call does not exist with the method {}", request.method());
    server::problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", &detail, &id)
}
