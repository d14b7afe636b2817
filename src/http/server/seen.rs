//! What is logged and counted of a request.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;

use super::ConnectionInfo;
use crate::clock::Clock;

/// What the log line says about a request.
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) route: String,
    pub(super) info: Option<ConnectionInfo>,
    pub(super) id: String,
    pub(super) begun: Duration,
    pub(super) clock: Clock,
}

impl Seen {
    /// Writes the log line when the answer has gone out, or the client has.
    pub(super) fn watch(self, response: Response) -> Response {
        let status = response.status();
        response.map(|body| Body::new(Watched { body, sent: 0, status, seen: self }))
    }

    /// The method as a label: from a set that a client can't enlarge.
    fn method(&self) -> &'static str {
        match self.method.as_str() {
            "GET" => "GET",
            "HEAD" => "HEAD",
            "PUT" => "PUT",
            "POST" => "POST",
            "PATCH" => "PATCH",
            "DELETE" => "DELETE",
            "OPTIONS" => "OPTIONS",
            _ => "other",
        }
    }
}

struct Watched {
    body: Body,
    sent: u64,
    status: StatusCode,
    seen: Seen,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let length = frame.data_ref().map_or(0, Bytes::len);
            self.sent = self.sent.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let seen = &self.seen;
        let took = seen.clock.monotonic().saturating_sub(seen.begun);
        let route = seen.route.clone();
        let labels = [
            ("method", seen.method().to_owned()),
            ("route", route.clone()),
            ("status", self.status.as_u16().to_string()),
        ];
        metrics::counter!("landfall_http_requests_total", &labels).increment(1);
        metrics::histogram!("landfall_http_request_duration_seconds", "route" => route).record(took.as_secs_f64());
        metrics::counter!("landfall_http_sent_bytes_total").increment(self.sent);
        metrics::gauge!("landfall_http_requests_in_flight").decrement(1.0);
        tracing::info!(
            method = seen.method.as_str(),
            path = seen.path,
            route = seen.route,
            status = self.status.as_u16(),
            bytes = self.sent,
            duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            request_id = seen.id,
            peer = seen.info.map(|info| info.peer.to_string()),
            "request"
        );
    }
}
