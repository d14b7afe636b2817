//! The calls: each handler reads the call, asks the verbs and shapes the answer.

mod containers;
mod identities;
mod items;
mod platform;
mod records;
mod streams;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post, put};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use super::envelope;
use crate::http::call::{self, Answering, Call, Reply, answer};
use crate::http::doors::{self, Doors};
use crate::http::server::Early;
use crate::limits;
use crate::model::access::Right;
use crate::model::ids::TenantId;
use crate::model::refusal::Refusal;
use crate::upload::access::{self, Grant};

/// The name of this wire in tickets and in the configuration.
pub const WIRE: &str = "coveo";

/// What stands in the answers of upload URLs where the vendor's storage names a host.
const HOST_ID: &str = "landfall";

/// Every path that the vendor's clients call, under a mount of its own.
pub fn routes() -> Router<Arc<Doors>> {
    shared_routes()
        .route("/v1/organizations/{org}/files", post(new_container))
        .route("/v1/{*rest}", any(unknown))
        .method_not_allowed_fallback(wrong_method)
}

/// A new container, on the one path that another vendor has as well.
pub fn new_container(doors: State<Arc<Doors>>, request: Request) -> Answering {
    on(containers::create)(doors, request)
}

/// The same beside other vendors' APIs: what collides with theirs, and paths under `/v1` that no call has, are left open.
pub fn shared_routes() -> Router<Arc<Doors>> {
    let mut router = Router::new().route("/push/v1/organizations/{org}/files", post(new_container));
    for base in ["/v1", "/push/v1"] {
        let organization = format!("{base}/organizations/{{org}}");
        let at = |path: &str| format!("{organization}{path}");
        router = router
            .route(&at("/sources/{source}/documents"), put(on(items::put)).merge(delete(on(items::delete))))
            .route(&at("/sources/{source}/documents/batch"), put(on(items::batch)))
            .route(&at("/sources/{source}/documents/olderthan"), delete(on(items::older_than)))
            .route(&at("/sources/{source}/status"), post(on(items::status)))
            .route(
                &at("/providers/{provider}/permissions"),
                put(on(identities::put_members)).merge(delete(on(identities::delete))),
            )
            .route(&at("/providers/{provider}/permissions/batch"), put(on(identities::batch)))
            .route(&at("/providers/{provider}/permissions/olderthan"), delete(on(identities::older_than)))
            .route(&at("/providers/{provider}/mappings"), put(on(identities::put_mappings)));
        for kind in ["sources", "data-collections"] {
            let at = |path: &str| format!("{organization}/{kind}/{{source}}/stream{path}");
            router = router
                .route(&at("/open"), post(on(streams::open)))
                .route(&at("/{stream}/chunk"), post(on(streams::chunk)))
                .route(&at("/{stream}/close"), post(on(streams::close)))
                .route(&at("/update"), put(on(streams::update)))
                .route(&at("/merge"), put(on(streams::merge)))
                .route(&at("/deleteolderthan/{milliseconds}"), post(on(streams::delete_older_than)));
        }
    }
    let at = |path: &str| format!("/rest/organizations/{{org}}{path}");
    router
        .route(&at("/sources"), post(on(platform::create_source)).merge(get(on(platform::sources))))
        .route(&at("/sources/pages"), get(on(platform::source_pages)))
        .route(
            &at("/sources/{source}"),
            get(on(platform::source))
                .merge(put(on(platform::update_source)))
                .merge(delete(on(platform::delete_source))),
        )
        .route(&at("/indexes/page/fields"), get(on(platform::fields)))
        .route(&at("/indexes/fields/batch/create"), post(on(platform::create_fields)))
        .route(&at("/securityproviders/{provider}"), put(on(platform::put_provider)))
        .route("/rest/privilege/evaluate", post(on(platform::evaluate)))
        .route("/push/{*rest}", any(unknown))
        .route("/rest/{*rest}", any(unknown))
        .method_not_allowed_fallback(wrong_method)
}

/// A route for one handler.
fn on<H, F>(handler: H) -> impl Fn(State<Arc<Doors>>, Request) -> Answering + Clone + Send + Sync + 'static
where
    H: Fn(Arc<Doors>, Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    call::handle(|refused, id, _| refuse(refused, id), handler)
}

/// The answer to a refusal.
fn refuse(refused: &Refusal, request_id: &str) -> Response {
    let (status, body) = envelope::error(refused, request_id);
    let mut response = (status_code(status), json_type(), body).into_response();
    if let Some(seconds) = refused.retry_seconds() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The answer to a refusal on an upload URL of this wire: the vendor's storage speaks XML.
#[must_use]
pub fn refuse_upload(refused: &Refusal, request_id: &str, proposed: Option<u64>) -> Response {
    let (status, body) = envelope::upload_error(refused, request_id, HOST_ID, proposed);
    let mut response =
        (status_code(status), [(header::CONTENT_TYPE, HeaderValue::from_static(envelope::XML))], body).into_response();
    if let Some(seconds) = refused.retry_seconds() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Is a path one of this API's mounts? Of those that it shares with others, assembly knows.
#[must_use]
pub fn is_path(path: &str) -> bool {
    ["/push/", "/rest/", "/coveo/"].iter().any(|mount| path.starts_with(mount))
}

/// The answer to a request that is refused before a handler sees it.
#[must_use]
pub fn refuse_early(early: &Early, request_id: &str) -> Response {
    let code = early.kind.replace('-', "_").to_ascii_uppercase();
    (early.status, json_type(), envelope::error_body(&code, early.detail, request_id)).into_response()
}

/// The same on an upload URL of this wire.
#[must_use]
pub fn refuse_upload_early(early: &Early, request_id: &str) -> Response {
    let code = match early.status {
        StatusCode::URI_TOO_LONG => "URITooLong",
        StatusCode::NOT_IMPLEMENTED => "NotImplemented",
        _ => "InvalidRequest",
    };
    let xml = [(header::CONTENT_TYPE, HeaderValue::from_static(envelope::XML))];
    (early.status, xml, envelope::upload_error_body(code, early.detail, &[], request_id, HOST_ID)).into_response()
}

/// The answer to a path that no call has.
pub async fn unknown(request: Request) -> Response {
    let request_id = doors::request_id(&request);
    let body = envelope::error_body("NOT_FOUND", "there is no such call", &request_id);
    (StatusCode::NOT_FOUND, json_type(), body).into_response()
}

async fn wrong_method(request: Request) -> Response {
    let request_id = doors::request_id(&request);
    let message = format!("the call does not exist with the method {}", request.method());
    let body = envelope::error_body("METHOD_NOT_ALLOWED", &message, &request_id);
    (StatusCode::METHOD_NOT_ALLOWED, json_type(), body).into_response()
}

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn json_type() -> [(header::HeaderName, HeaderValue); 1] {
    [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]
}

/// Who calls, and may they do this in the organization of the path?
async fn grant(doors: &Doors, call: &Call, right: Right) -> Result<Grant, Refusal> {
    let caller = call.caller(doors).await?;
    access::grant(&doors.engine, &caller, &TenantId::from(call.parameter("org")), right).await
}

/// Who calls, and may they read this in the organization of the path? Its tenant.
async fn view(doors: &Doors, call: &Call, right: Right) -> Result<TenantId, Refusal> {
    let caller = call.caller(doors).await?;
    let tenant = TenantId::from(call.parameter("org"));
    access::view(&doors.engine, &caller, &tenant, right).await?;
    Ok(tenant)
}

/// The JSON body of a call.
async fn json(doors: &Doors, call: &mut Call, limit: u64) -> Result<Bytes, Refusal> {
    call.json(doors, limit, "send larger content through a file container").await
}

/// Reads a body that the call does not need, so that a wrong one is refused as everywhere.
async fn no_body(doors: &Doors, call: &mut Call) -> Result<(), Refusal> {
    json(doors, call, limits::SMALL_JSON_BYTES).await.map(drop)
}

/// Everything that makes a call the call it is, with its body.
fn identity(call: &Call, body: &[u8]) -> Vec<u8> {
    // The mounts are one API: a repetition through another one is a repetition.
    let path = call.path.find("/organizations/").map_or(call.path.as_str(), |at| &call.path[at..]);
    [call.method.as_str().as_bytes(), b" ", path.as_bytes(), b"?", call.query.as_bytes(), b"\n", body].concat()
}
