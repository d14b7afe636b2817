//! The root, where several vendors' APIs answer on their own paths: whose is a call that could be two vendors'?

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, header};
use serde_json::Value;
use tower::ServiceExt;

use crate::dialect::{aitronos, cognite, coveo};
use crate::http::doors::{self, Doors};
use crate::http::{auth, body};
use crate::limits;
use crate::model::ids::TenantId;

/// Paths below an organization that are Coveo's, errors included.
const COVEO: [&str; 3] = ["sources", "providers", "data-collections"];

/// Is a path under `/v1` Coveo's?
pub(super) fn of_coveo(path: &str) -> bool {
    let mut segments = path.split('/').skip(1);
    segments.next() == Some("v1")
        && segments.next() == Some("organizations")
        && segments.next().is_some()
        && segments.next().is_some_and(|segment| COVEO.contains(&segment))
}

/// A path under `/v1` that no call has.
pub(super) async fn unknown(state: State<Arc<Doors>>, request: Request) -> Response {
    if of_coveo(request.uri().path()) {
        coveo::api::unknown(request).await
    } else {
        aitronos::unknown(state, request).await
    }
}

/// A path that no route has. Cognite's clients put the slash of their base URL before it: without it, it may have one.
pub(super) async fn unrouted(routes: Router, mut request: Request) -> Response {
    let path = request.uri().path();
    if let Some(tidy) = cognite::tidy(path) {
        let query = request.uri().query().map_or_else(String::new, |query| format!("?{query}"));
        if let Ok(uri) = format!("{tidy}{query}").parse() {
            *request.uri_mut() = uri;
            return match routes.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
        }
    }
    if cognite::is_path(request.uri().path()) {
        cognite::unknown(request).await
    } else {
        coveo::api::unknown(request).await
    }
}

/// `POST /v1/organizations/{org}/files`: Coveo's clients ask for a container, Aitronos' register a file. What a client
/// says about itself decides; a wrong guess changes nothing that lasts.
pub(super) async fn files(State(doors): State<Arc<Doors>>, request: Request) -> Response {
    let id = doors::request_id(&request);
    let (parts, mut body) = request.into_parts();
    let api = match told(&doors, &parts).await {
        Some(api) => api,
        None if body.is_end_stream() => Api::Coveo,
        None => match auth::holder_in(&doors.engine, &parts.headers, Some(&organization(&parts))).await {
            // Whoever is refused is refused by what was known before the body.
            Err(_) => Api::Coveo,
            Ok(caller) => {
                let limit = limits::SMALL_JSON_BYTES;
                match body::read_all(body, limit, "send fewer items at once", &doors.timing, &caller.tenant).await {
                    Ok(bytes) => {
                        let api = meant(&bytes);
                        body = Body::from(bytes);
                        api
                    }
                    Err(refused) => return aitronos::refuse(refused, &id, doors.engine.clock.now()),
                }
            }
        },
    };
    let request = Request::from_parts(parts, body);
    match api {
        Api::Coveo => coveo::api::new_container(State(doors), request).await,
        Api::Aitronos => aitronos::register(State(doors), request).await,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Api {
    Coveo,
    Aitronos,
}

/// What the organization's setting and the headers say.
async fn told(doors: &Doors, request: &Parts) -> Option<Api> {
    if let Ok(Some(tenant)) = doors.engine.meta.tenant(&organization(request)).await {
        match tenant.api.as_str() {
            coveo::api::WIRE => return Some(Api::Coveo),
            aitronos::WIRE => return Some(Api::Aitronos),
            _ => {}
        }
    }
    by_headers(&request.headers).then_some(Api::Aitronos)
}

/// The organization of the path.
fn organization(request: &Parts) -> TenantId {
    let organization = request.uri.path().split('/').nth(3).unwrap_or_default();
    TenantId::from(percent_encoding::percent_decode_str(organization).decode_utf8_lossy().as_ref())
}

/// Headers that only Aitronos' clients send.
fn by_headers(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).map_or(b"".as_slice(), |agent| agent.as_bytes());
    auth::KEY_HEADERS.iter().any(|name| headers.contains_key(*name))
        || agent.starts_with(b"aitronos/")
        || headers.contains_key("x-fern-language")
}

/// What the body says: a container is asked for without any field.
fn meant(body: &[u8]) -> Api {
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(fields)) if !fields.is_empty() => Api::Aitronos,
        _ => Api::Coveo,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_with_fields_registers() {
        for (body, api) in [
            ("", Api::Coveo),
            ("{}", Api::Coveo),
            (" { } ", Api::Coveo),
            ("[]", Api::Coveo),
            ("x", Api::Coveo),
            (r#"{"gcs_path": 1}"#, Api::Aitronos),
            (r#"{"files": []}"#, Api::Aitronos),
            (r#"{"other": 1}"#, Api::Aitronos),
        ] {
            assert_eq!(meant(body.as_bytes()), api, "{body}");
        }
    }

    #[test]
    fn headers_of_one_vendors_clients_are_known() {
        let with = |name: &'static str, value: &str| {
            by_headers(&HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())]))
        };
        assert!(with("x-api-key", "k") && with("api-key", "k") && with("x-fern-language", "Python"));
        assert!(with("user-agent", "aitronos/4.5.8"));
        assert!(!with("user-agent", "curl/8") && !with("authorization", "Bearer k"));
    }
}
