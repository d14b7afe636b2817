//! What every door works with.

use std::sync::Arc;

use axum::extract::Request;
use http::{HeaderMap, Method};
use tokio::sync::watch;

use super::auth::RateLimiter;
use super::body::BodyTiming;
use super::server::{self, ConnectionInfo, RequestId};
use crate::config::Config;
use crate::engine::{Engine, RefusalRecord};
use crate::telemetry;

/// Longest method that is kept.
const METHOD_CHARS: usize = 16;

/// The engine, and what HTTP adds to it.
#[derive(Debug)]
pub struct Doors {
    /// The verbs' engine.
    pub engine: Arc<Engine>,
    /// Requests per key.
    pub limiter: RateLimiter,
    /// How slow a body may be, and how much memory all bodies share.
    pub timing: BodyTiming,
    /// Says when the server stops.
    pub stopping: watch::Receiver<bool>,
    /// The configuration.
    pub config: Arc<Config>,
}

impl Doors {
    /// The base of the locations that this request's answer names.
    #[must_use]
    pub fn origin(&self, headers: &HeaderMap, connection: &ConnectionInfo) -> String {
        server::origin(&self.config, headers, connection)
    }

    /// Keeps why a request was refused, for the keys of its tenant. Of unknown tenants there is nobody to tell.
    pub async fn record_refusal(&self, request_id: &str, record: RefusalRecord) {
        tracing::info!(request_id, rule = record.rule, detail = record.detail, "refused");
        if matches!(self.engine.meta.tenant(&record.tenant).await, Ok(Some(_))) {
            self.engine.refusals.record(request_id, record);
        }
    }
}

/// The id of a request, which its answer repeats.
#[must_use]
pub fn request_id(request: &Request) -> String {
    request.extensions().get::<RequestId>().map_or_else(String::new, |id| id.0.clone())
}

/// Method and path of a request as a record of its refusal keeps them: whoever sent it may be anybody.
#[must_use]
pub fn request_line(method: &Method, path: &str) -> String {
    let method: String = method.as_str().chars().take(METHOD_CHARS).collect();
    format!("{method} {}", telemetry::redact_path(path))
}

/// Which connection a request came on. Every listener says so.
#[must_use]
pub fn connection(extensions: &http::Extensions) -> ConnectionInfo {
    let nowhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    extensions.get().copied().unwrap_or(ConnectionInfo { peer: nowhere, local: nowhere, tls: false })
}
