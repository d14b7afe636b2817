//! The authority's protocol over our own calls.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header;
use http_body_util::BodyExt as _;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use crate::config::Config;
use crate::limits::{ACME_ANSWER_BYTES, ACME_ASKED_PAUSE_MAX, ACME_CONNECT, ACME_TIME};
use crate::outbound::{Ask, Bounds, Outbound, OutboundError, Payload};

/// Calls an authority.
#[derive(Clone, Debug)]
pub(super) struct Client {
    outbound: Outbound,
    /// The pause in seconds that the last refusal asked for.
    asked: Arc<AtomicU64>,
}

impl Client {
    /// # Errors
    /// A sentence that says why the file with roots can't be used.
    pub(super) fn new(config: &Config) -> Result<Self, String> {
        let bounds = Bounds { connect: ACME_CONNECT, whole: ACME_TIME, answer_bytes: ACME_ANSWER_BYTES };
        let outbound = match &config.acme_ca {
            Some(path) => {
                let roots = std::fs::read(path).map_err(|error| error.to_string())?;
                Outbound::bounded_by_roots(bounds, &roots)
            }
            None => Outbound::bounded(bounds, false),
        };
        let outbound = outbound.map_err(|error| error.to_string())?;
        Ok(Self { outbound, asked: Arc::default() })
    }

    /// The pause that the authority has asked for since this was last asked.
    pub(super) fn asked_pause(&self) -> Duration {
        Duration::from_secs(self.asked.swap(0, Ordering::Relaxed)).min(ACME_ASKED_PAUSE_MAX)
    }

    async fn call(&self, request: http::Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let (head, body) = request.into_parts();
        if head.uri.scheme_str() != Some("https") {
            return Err(Error::Str("the authority leads to a URL without TLS"));
        }
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(never) => match never {},
        };
        let url = head.uri.to_string();
        // The name of this program stands in its calls, not that of the library.
        let headers = head.headers.iter().filter(|(name, _)| *name != header::USER_AGENT);
        let headers =
            headers.filter_map(|(name, value)| Some((name.clone(), value.to_str().ok()?.to_owned()))).collect();
        let payload = if body.is_empty() {
            Payload::None
        } else {
            let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
            Payload::Stream(length, futures_util::stream::iter([Ok(body)]).boxed())
        };
        let ask = Ask { method: head.method, url: &url, key: None, headers, payload };
        let (head, body) = self.outbound.call(ask).await.map_err(failed)?;
        if let (429 | 503, Some(seconds)) = (head.status, head.header("retry-after").and_then(|s| s.parse().ok())) {
            self.asked.store(seconds, Ordering::Relaxed);
        }
        let mut answer = http::Response::builder().status(head.status).body(())?.into_parts().0;
        answer.headers = head.headers;
        Ok(BytesResponse { parts: answer, body: Box::new(body) })
    }
}

fn failed(error: OutboundError) -> Error {
    Error::Other(Box::new(error))
}

impl HttpClient for Client {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move { client.call(request).await })
    }
}
