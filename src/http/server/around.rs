//! What every request gets, whatever its route.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, TRANSFER_ENCODING,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS, X_XSS_PROTECTION,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::FutureExt;
use tokio::runtime::Handle;
use tracing::Instrument;

use super::cors::{Cors, preflight};
use super::seen::Seen;
use super::{ConnectionInfo, Early, EarlyEnvelope, RequestId, ServerOptions};
use crate::clock::{Clock, random_uuid};
use crate::config::Config;
use crate::http::unread::{close_after, expects_continue, lend};
use crate::telemetry;

/// Longest path with its query.
const TARGET_BYTES: usize = 16 * 1024;

/// Puts around every route what every request gets: an id, bounds, answers for other origins, headers that keep
/// browsers safe, a log line and metrics; a panic becomes an answer, and a body that was not read is seen to.
/// A handler runs to its end even when its client goes away.
pub fn wrap(router: Router, options: &ServerOptions, clock: &Clock) -> Router {
    let around = Around { config: Arc::clone(&options.config), early: options.early, clock: clock.clone() };
    router.layer(axum::middleware::from_fn_with_state(around, entry))
}

#[derive(Clone)]
struct Around {
    config: Arc<Config>,
    early: EarlyEnvelope,
    clock: Clock,
}

async fn entry(State(around): State<Around>, request: Request, next: Next) -> Response {
    ToItsEnd(Some(Box::pin(around.run(request, next)))).await
}

/// A future that goes on by itself when nobody waits for it any more.
struct ToItsEnd(Option<Pin<Box<dyn Future<Output = Response> + Send>>>);

impl Future for ToItsEnd {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        let Some(future) = self.0.as_mut() else { return Poll::Pending };
        let polled = future.as_mut().poll(cx);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl Drop for ToItsEnd {
    fn drop(&mut self) {
        if let Some(future) = self.0.take()
            && !std::thread::panicking()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(future);
        }
    }
}

impl Around {
    async fn run(self, mut request: Request, next: Next) -> Response {
        let begun = self.clock.monotonic();
        let id = random_uuid().to_string();
        let span = tracing::info_span!("request", id);
        let seen = Seen {
            method: request.method().clone(),
            path: telemetry::redact_path(request.uri().path()),
            route: request
                .extensions()
                .get::<MatchedPath>()
                .map_or_else(|| String::from("none"), |route| route.as_str().to_owned()),
            info: request.extensions().get::<ConnectionInfo>().copied(),
            id,
            begun,
            clock: self.clock.clone(),
        };
        metrics::gauge!("landfall_http_requests_in_flight").increment(1.0);
        let expects = expects_continue(request.headers());
        // hyper drops a Content-Length beside a Transfer-Encoding unseen. Such a request ends its connection, so that
        // whatever another server took for the next request is never read as one.
        let chunked = request.headers().contains_key(TRANSFER_ENCODING);
        let origin = Cors::of(&self.config, request.headers());
        let early = bounds(&request)
            .map(|early| {
                let path = request.uri().path();
                (self.early)(path.strip_prefix(self.config.public_prefix()).unwrap_or(path), &early, &seen.id)
            })
            .or_else(|| preflight(&origin, &request, &seen.id));
        let (body, kept) = lend(std::mem::take(request.body_mut()));
        let mut response = if let Some(response) = early {
            drop(body);
            response
        } else {
            *request.body_mut() = body;
            request.extensions_mut().insert(RequestId(seen.id.clone()));
            let answered = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
            answered.unwrap_or_else(|panic| {
                span.in_scope(|| tracing::error!(panic = said(&*panic), "a handler panicked"));
                problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "an internal error occurred", &seen.id)
            })
        };
        kept.settle(expects, &mut response).await;
        let tls = seen.info.is_some_and(|info| info.tls);
        let headers = response.headers_mut();
        if chunked {
            close_after(headers);
        }
        if let Ok(id) = HeaderValue::from_str(&seen.id) {
            headers.insert(HeaderName::from_static("x-request-id"), id);
        }
        protect(headers, tls);
        origin.answer(headers);
        seen.watch(response)
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// The answer of no API in particular: RFC 9457 problem details.
#[must_use]
pub fn problem(status: StatusCode, kind: &str, detail: &str, request_id: &str) -> Response {
    let body = serde_json::json!({
        "type": format!("/problems/{kind}"),
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
        "request_id": request_id,
    });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

/// Requests that no handler should have to think about.
fn bounds(request: &Request) -> Option<Early> {
    let refuse = |status, kind, detail| Some(Early { status, kind, detail });
    let headers = request.headers();
    if request.uri().path_and_query().is_some_and(|target| target.as_str().len() > TARGET_BYTES) {
        return refuse(StatusCode::URI_TOO_LONG, "uri-too-long", "the path and its query are limited to 16384 bytes");
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if hosts.next().is_some() || authority.is_some_and(|a| host.is_some_and(|host| host.as_bytes() != a)) {
        return refuse(StatusCode::BAD_REQUEST, "ambiguous-host", "the request names more than one host");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return refuse(
            StatusCode::NOT_IMPLEMENTED,
            "transfer-coding",
            "the only transfer coding is `chunked`, given once",
        );
    }
    None
}

fn protect(headers: &mut HeaderMap, tls: bool) {
    // A handler that serves pages or strangers' files has said what its answer needs.
    let mut default = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    default(X_CONTENT_TYPE_OPTIONS, "nosniff");
    default(X_FRAME_OPTIONS, "DENY");
    default(REFERRER_POLICY, "no-referrer");
    default(CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'");
    default(X_XSS_PROTECTION, "0");
    if tls {
        default(STRICT_TRANSPORT_SECURITY, "max-age=31536000; includeSubDomains");
    }
}
