//! The Cognite Files API. docs/cognite.md is its page.

mod envelope;
mod files;
mod json;
mod links;
mod nodes;
mod query;
mod read;
mod wire;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::clock::Timestamp;
use crate::http::call::{self, Answering, Call};
use crate::http::doors::Doors;
use crate::http::server::Early;
use crate::model::access::Right;
use crate::model::ids::TenantId;
use crate::model::refusal::Refusal;
use crate::upload::access::{self, Grant};
use envelope::Fault;

/// The name of this wire in sessions and in the configuration.
pub const WIRE: &str = "cognite";

/// Largest JSON body, unpacked.
const JSON_BYTES: u64 = 8 * 1024 * 1024;

/// What a handler answers.
type Reply = Result<Response, Fault>;

/// Where downloads are, below the mount.
const DOWNLOAD: &str = "/download";

/// Every call, and what downloads come from, under a mount of its own.
pub fn routes() -> Router<Arc<Doors>> {
    Router::new()
        .route(&format!("{DOWNLOAD}/{{project}}/{{file}}"), get(on(links::content)))
        .merge(shared_routes())
        .method_not_allowed_fallback(wrong_method)
}

/// The vendor's own paths, which no other vendor has.
pub fn shared_routes() -> Router<Arc<Doors>> {
    let project = |path: &str| format!("/api/v1/projects/{{project}}{path}");
    let files = |path: &str| project(&format!("/files{path}"));
    Router::new()
        .route("/api/v1/token/inspect", get(on(inspect)))
        .route(&files(""), get(on(read::list_by_query)).merge(post(on(links::create))))
        .route(&files("/"), get(on(read::list_by_query)).merge(post(on(links::create))))
        .route(&files("/initmultipartupload"), post(on(links::create_in_parts)))
        .route(&files("/uploadlink"), post(on(links::upload_link)))
        .route(&files("/multiuploadlink"), post(on(links::part_links)))
        .route(&files("/completemultipartupload"), post(on(links::complete)))
        .route(&files("/downloadlink"), post(on(links::download_links)))
        .route(&files("/byids"), post(on(read::by_ids)))
        .route(&files("/list"), post(on(read::list)))
        .route(&files("/search"), post(on(read::search)))
        .route(&files("/aggregate"), post(on(read::aggregate)))
        .route(&files("/update"), post(on(files::update)))
        .route(&files("/delete"), post(on(files::delete)))
        .route(&files("/{id}"), get(on(read::by_id)).merge(post(on(no_call))))
        .route(&project("/models/instances"), post(on(nodes::apply)))
        .route(&project("/models/instances/byids"), post(on(nodes::by_ids)))
        .route(&project("/models/instances/delete"), post(on(nodes::delete)))
        .method_not_allowed_fallback(wrong_method)
}

/// A file's path takes no POST; any other name there is that of a call which does not exist.
async fn no_call(_: Arc<Doors>, call: Call) -> Reply {
    Err(match call.parameter("id").parse::<i64>() {
        Ok(_) => Fault::wrong_method(&call.method),
        Err(_) => Fault::no_such_path(&call.path),
    })
}

/// Is a path one of this API?
#[must_use]
pub fn is_path(path: &str) -> bool {
    ["/api/v1", "/cognite"]
        .iter()
        .any(|mount| path.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// The path without the slashes that a base URL with a slash at its end puts before it, if there are some.
#[must_use]
pub fn tidy(path: &str) -> Option<String> {
    let (mount, rest) = path.split_at(path.find("//api/v1/")?);
    let mount = mount.trim_end_matches('/');
    (mount.is_empty() || mount == "/cognite").then(|| format!("{mount}/{}", rest.trim_start_matches('/')))
}

/// A route for one handler.
fn on<H, F>(handler: H) -> impl Fn(State<Arc<Doors>>, Request) -> Answering + Clone + Send + Sync + 'static
where
    H: Fn(Arc<Doors>, Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    call::handle(
        |fault, _, _| envelope::answer(fault),
        move |doors, call: Call| {
            // What a client says about itself, for those who look for its mistakes.
            let said = |name: &str| String::from_utf8_lossy(call.headers.get(name).map_or(b"", |v| v.as_bytes()));
            tracing::debug!(request_id = call.request_id, sdk = %said("x-cdp-sdk"), app = %said("x-cdp-app"), "called");
            handler(doors, call)
        },
    )
}

/// The answer to a path that no call has.
pub async fn unknown(request: Request) -> Response {
    envelope::answer(&Fault::no_such_path(request.uri().path()))
}

/// The answer to a path that has no call with this method; the router adds `Allow`.
async fn wrong_method(request: Request) -> Response {
    envelope::answer(&Fault::wrong_method(request.method()))
}

/// The answer to a request that is refused before a handler sees it.
#[must_use]
pub fn refuse_early(early: &Early, _request_id: &str) -> Response {
    envelope::answer(&Fault::early(early))
}

/// The refusal of a body that was sent to an upload URL.
#[must_use]
pub fn refuse_upload(refused: &Refusal, _request_id: &str, _announced: Option<u64>) -> Response {
    envelope::answer(&Fault::upload(refused))
}

/// Who calls, and may they do this in the project of the path? A project that is unknown and one of others are the same.
async fn grant(doors: &Doors, call: &Call, right: Right) -> Result<Grant, Fault> {
    let caller = call.caller(doors).await?;
    Ok(access::grant(&doors.engine, &caller, &project(call), right).await?)
}

/// The same for a call that only reads: whose files it sees.
async fn view(doors: &Doors, call: &Call, right: Right) -> Result<TenantId, Fault> {
    let caller = call.caller(doors).await?;
    let tenant = project(call);
    access::view(&doors.engine, &caller, &tenant, right).await?;
    Ok(tenant)
}

fn project(call: &Call) -> TenantId {
    TenantId::from(call.parameter("project"))
}

/// The JSON body of a call, which must be an object.
async fn body(doors: &Doors, call: &mut Call) -> Result<Map<String, Value>, Fault> {
    json::object(&call.json_or_gzip(doors, JSON_BYTES, "send fewer items at once").await?)
}

/// A JSON answer.
fn answer(status: StatusCode, body: &impl Serialize) -> Reply {
    Ok(call::answer(status, body)?)
}

fn items<T: Serialize>(items: impl IntoIterator<Item = T>) -> Reply {
    #[derive(Serialize)]
    struct Items<T> {
        items: Vec<T>,
    }
    answer(StatusCode::OK, &Items { items: items.into_iter().collect() })
}

fn now(doors: &Doors) -> Timestamp {
    doors.engine.clock.now()
}

/// Whose the token is, and what it may do where.
async fn inspect(doors: Arc<Doors>, call: Call) -> Reply {
    let inspection = call.inspect(&doors).await?;
    let projects: Vec<Value> =
        inspection.tenants.iter().map(|(tenant, _)| json!({ "projectUrlName": tenant, "groups": [] })).collect();
    let capabilities = inspection.tenants.iter().filter_map(|(tenant, rights)| {
        let actions: Vec<&str> = [(Right::Read, "READ"), (Right::Upload, "WRITE")]
            .into_iter()
            .filter(|(right, _)| rights.has(*right))
            .map(|(_, action)| action)
            .collect();
        let acl = json!({ "actions": actions, "scope": { "all": {} } });
        (!actions.is_empty()).then(|| json!({ "filesAcl": acl, "projectScope": { "projects": [tenant] } }))
    });
    let capabilities: Vec<Value> = capabilities.collect();
    let body = json!({ "subject": inspection.subject, "projects": projects, "capabilities": capabilities });
    answer(StatusCode::OK, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_of_a_base_url_are_taken_off() {
        assert_eq!(tidy("//api/v1/x").as_deref(), Some("/api/v1/x"));
        assert_eq!(tidy("///api/v1/x//y").as_deref(), Some("/api/v1/x//y"));
        assert_eq!(tidy("/cognite//api/v1/x").as_deref(), Some("/cognite/api/v1/x"));
        for path in ["/api/v1/x", "/put/x//api/v1/", "/x//api/v1/y", "//api/v2/x", ""] {
            assert_eq!(tidy(path), None, "{path}");
        }
    }
}
