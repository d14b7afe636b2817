//! Calls that this program makes to others. Redirects are not followed, so that a key goes nowhere but where it was
//! meant to; answers are read within limits; a connection on which nothing moves is given up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(15);
/// How long nothing may move on a call.
const STALL: Duration = Duration::from_secs(120);
/// The longest answer that is read into memory.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Why a call did not come to an answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}")]
pub struct OutboundError {
    /// A sentence; it names no secret.
    pub what: String,
    /// May it pass by itself?
    pub passing: bool,
}

impl OutboundError {
    fn passing(what: impl Into<String>) -> Self {
        Self { what: what.into(), passing: true }
    }

    fn lasting(what: impl Into<String>) -> Self {
        Self { what: what.into(), passing: false }
    }
}

impl From<reqwest::Error> for OutboundError {
    fn from(error: reqwest::Error) -> Self {
        let lasting = error.is_builder();
        // The URL may be a secret, and what went wrong stands in the sources.
        let error = error.without_url();
        let mut what = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !what.contains(&cause_text) {
                what = format!("{what}: {cause_text}");
            }
            source = cause.source();
        }
        // A certificate that is refused now is refused in a minute.
        let lasting = lasting || what.to_ascii_lowercase().contains("certificate");
        Self { passing: !lasting, what }
    }
}

/// What is sent.
pub enum Payload {
    /// Nothing.
    None,
    /// JSON.
    Json(String),
    /// Bytes of this length, made as they are sent.
    Stream(u64, BoxStream<'static, io::Result<Bytes>>),
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Payload")
    }
}

/// A call to make.
#[derive(Debug)]
pub struct Ask<'a> {
    /// Its method.
    pub method: Method,
    /// The whole URL.
    pub url: &'a str,
    /// The key, where one is to be shown.
    pub key: Option<&'a str>,
    /// More headers.
    pub headers: Vec<(HeaderName, String)>,
    /// The body.
    pub payload: Payload,
}

/// The head of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
}

impl Head {
    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Bounds of calls whose answers are short and must come soon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// How long a connection may take to be made.
    pub connect: Duration,
    /// How long a call may take in all.
    pub whole: Duration,
    /// The longest answer, in bytes.
    pub answer_bytes: usize,
}

/// Makes calls.
#[derive(Clone, Debug)]
pub struct Outbound {
    http: reqwest::Client,
    answer_bytes: usize,
    /// How long nothing may move on a call.
    stall: Duration,
}

impl Outbound {
    /// A client with the proxies and the certificates of the system.
    ///
    /// # Errors
    /// [`OutboundError`] when the system has no certificates to trust.
    pub fn new() -> Result<Self, OutboundError> {
        Ok(Self { http: builder(CONNECT).build()?, answer_bytes: ANSWER_BYTES, stall: STALL })
    }

    /// A client for short calls; a direct one asks no proxy.
    ///
    /// # Errors
    /// [`OutboundError`] when the system has no certificates to trust.
    pub fn bounded(bounds: Bounds, direct: bool) -> Result<Self, OutboundError> {
        let builder = builder(bounds.connect).timeout(bounds.whole);
        let builder = if direct { builder.no_proxy() } else { builder };
        Ok(Self { http: builder.build()?, answer_bytes: bounds.answer_bytes, stall: STALL })
    }

    /// A client for short calls that believes no roots but those in a PEM text.
    ///
    /// # Errors
    /// [`OutboundError`] when there is no certificate in it.
    pub fn bounded_by_roots(bounds: Bounds, pem: &[u8]) -> Result<Self, OutboundError> {
        let roots = reqwest::Certificate::from_pem_bundle(pem)?;
        if roots.is_empty() {
            return Err(OutboundError::lasting("there is no certificate in it"));
        }
        let builder = builder(bounds.connect).timeout(bounds.whole).tls_certs_only(roots);
        Ok(Self { http: builder.build()?, answer_bytes: bounds.answer_bytes, stall: STALL })
    }

    /// A client for a service that is called all the time, with bodies of any length: a connection on which nothing moves
    /// for `stall` is given up. A direct one asks no proxy.
    ///
    /// # Errors
    /// [`OutboundError`] when the system has no certificates to trust.
    pub fn to_service(connect: Duration, stall: Duration, direct: bool) -> Result<Self, OutboundError> {
        // Shorter than any service keeps a connection that is not used.
        let builder = builder(connect).pool_idle_timeout(Duration::from_secs(4));
        let builder = if direct { builder.no_proxy() } else { builder };
        Ok(Self { http: builder.build()?, answer_bytes: ANSWER_BYTES, stall })
    }

    /// Asks for something without showing a key, and reads the whole answer, which must be of a bounded size.
    ///
    /// # Errors
    /// [`OutboundError`].
    pub async fn get(&self, url: &str) -> Result<(Head, Bytes), OutboundError> {
        self.call(Ask { method: Method::GET, url, key: None, headers: Vec::new(), payload: Payload::None }).await
    }

    /// Makes a call and reads the whole answer, which must be of a bounded size.
    ///
    /// # Errors
    /// [`OutboundError`].
    pub async fn call(&self, ask: Ask<'_>) -> Result<(Head, Bytes), OutboundError> {
        let (head, mut body) = self.open(ask).await?;
        let mut whole = BytesMut::new();
        while let Some(bytes) = body.next().await {
            whole.extend_from_slice(&bytes?);
            if whole.len() > self.answer_bytes {
                return Err(OutboundError::lasting(format!("the answer has more than {} bytes", self.answer_bytes)));
            }
        }
        Ok((head, whole.freeze()))
    }

    /// Makes a call; the answer's body comes as a stream.
    ///
    /// # Errors
    /// [`OutboundError`].
    pub async fn open(
        &self,
        ask: Ask<'_>,
    ) -> Result<(Head, impl Stream<Item = Result<Bytes, OutboundError>> + Unpin + use<>), OutboundError> {
        let moved = Arc::new(AtomicU64::new(0));
        let response = self.request(ask, &moved)?.send();
        let response = tokio::select! {
            response = response => response?,
            () = stalled(&moved, self.stall) => {
                return Err(OutboundError::passing(format!("nothing moved for {} seconds", self.stall.as_secs())));
            }
        };
        let head = Head { status: response.status().as_u16(), headers: response.headers().clone() };
        let stall = self.stall;
        let body = futures_util::stream::unfold(Some(response), move |response| async move {
            let mut response = response?;
            match tokio::time::timeout(stall, response.chunk()).await {
                Ok(Ok(None)) => None,
                Ok(Ok(Some(bytes))) => Some((Ok(bytes), Some(response))),
                Ok(Err(error)) => Some((Err(error.into()), None)),
                Err(_) => {
                    let what = format!("nothing came for {} seconds", stall.as_secs());
                    Some((Err(OutboundError::passing(what)), None))
                }
            }
        });
        Ok((head, Box::pin(body)))
    }

    fn request(&self, ask: Ask<'_>, moved: &Arc<AtomicU64>) -> Result<reqwest::RequestBuilder, OutboundError> {
        let mut request = self.http.request(ask.method, ask.url);
        if let Some(key) = ask.key {
            let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                .map_err(|_| OutboundError::lasting("the key has characters that no key has"))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        Ok(match ask.payload {
            Payload::None => request,
            Payload::Json(text) => request.header(header::CONTENT_TYPE, "application/json").body(text),
            Payload::Stream(length, stream) => {
                let moved = Arc::clone(moved);
                let counted = stream.inspect(move |_| {
                    moved.fetch_add(1, Ordering::Relaxed);
                });
                request.header(header::CONTENT_LENGTH, length).body(reqwest::Body::wrap_stream(counted))
            }
        })
    }
}

fn builder(connect: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(connect)
        .user_agent(concat!("landfall/", env!("CARGO_PKG_VERSION")))
}

/// Ends when nothing was sent for a while.
async fn stalled(moved: &AtomicU64, stall: Duration) {
    let mut before = moved.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(stall).await;
        let now = moved.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}
