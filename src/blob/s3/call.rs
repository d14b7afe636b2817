//! Calls to the store: signed, within bounds, and tried again where that may help. Every call may be repeated: what is
//! sent under a name is the same each time.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use http::{HeaderName, Method};

use super::credentials::Credentials;
use super::wire::Element;
use crate::blob::BlobError;
use crate::clock::{Clock, random_bytes};
use crate::config::Bucket;
use crate::outbound::{self, Head, Outbound, OutboundError, Payload};
use crate::sigv4::{PresignRequest, Secret, SigningKey, presign};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(3);
/// How long nothing may move on a call.
pub(super) const STALL: Duration = Duration::from_secs(15);
/// How often a call is made.
const TRIES: u32 = 4;
/// After this time none is made again.
const PATIENCE: Duration = Duration::from_secs(15);
/// The first pause between two tries; each is four times the one before, give or take a half.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 150 });
/// How long a signature holds: long enough for clocks that are not quite right.
const SIGNED_SECONDS: u32 = 900;
/// The longest answer that is read whole.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// The region of stores that have none.
const REGION: &str = "us-east-1";

/// What a failed call means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The object or the upload is not there.
    Missing,
    /// It is another object than before.
    Changed,
    /// The parts are not those that the store has.
    Parts,
    /// The store is full.
    Full,
    /// The store does not let us.
    Denied,
    /// It may pass.
    Passing,
    /// The store does not know this call.
    Unserved,
    /// It does not pass by itself.
    Lasting,
}

/// Why a call failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}")]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// A sentence; it names no secret.
    pub(super) what: String,
}

impl Fault {
    /// One that does not pass by itself.
    pub(super) fn lasting(what: impl Into<String>) -> Self {
        Self { kind: Kind::Lasting, what: what.into() }
    }
}

impl From<Fault> for BlobError {
    fn from(fault: Fault) -> Self {
        match fault.kind {
            Kind::Full => Self::OutOfSpace,
            Kind::Denied => Self::Io(io::Error::new(io::ErrorKind::PermissionDenied, fault.what)),
            Kind::Missing | Kind::Changed | Kind::Parts | Kind::Passing | Kind::Unserved | Kind::Lasting => {
                Self::Io(io::Error::other(fault.what))
            }
        }
    }
}

impl From<OutboundError> for Fault {
    fn from(error: OutboundError) -> Self {
        let kind = if error.passing { Kind::Passing } else { Kind::Lasting };
        Self { kind, what: format!("the store does not answer: {}", error.what) }
    }
}

/// What is sent: made anew for every try.
pub(super) enum Body {
    None,
    Text(String),
    Bytes { length: u64, make: Box<dyn Fn() -> BoxStream<'static, io::Result<Bytes>> + Send + Sync> },
}

impl Body {
    fn payload(&self) -> Payload {
        match self {
            Self::None => Payload::None,
            Self::Text(text) => {
                let bytes = Bytes::from(text.clone());
                let length = u64::try_from(bytes.len()).unwrap_or(0);
                Payload::Stream(length, futures_util::stream::once(async { Ok(bytes) }).boxed())
            }
            Self::Bytes { length, make } => Payload::Stream(*length, make()),
        }
    }
}

/// A call.
pub(super) struct Ask<'a> {
    /// What it is, as the protocol calls it.
    pub(super) what: &'static str,
    pub(super) method: Method,
    /// The object's; the bucket itself where it is empty.
    pub(super) key: &'a str,
    pub(super) query: Vec<(&'static str, String)>,
    /// Those that begin with `x-amz-` are signed.
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body,
    /// The name of the document that is the answer, where one is. Anything else is no success, whatever the status.
    pub(super) answer: Option<&'static str>,
}

impl<'a> Ask<'a> {
    pub(super) const fn new(what: &'static str, method: Method, key: &'a str) -> Self {
        Self { what, method, key, query: Vec::new(), headers: Vec::new(), body: Body::None, answer: None }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) const fn answered_by(mut self, document: &'static str) -> Self {
        self.answer = Some(document);
        self
    }

    pub(super) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

/// An answer that was read whole.
pub(super) struct Answer {
    pub(super) head: Head,
    /// Empty where none was asked for.
    pub(super) document: Element,
}

/// Makes calls to one bucket.
pub(super) struct Caller {
    outbound: Outbound,
    credentials: Credentials,
    /// The store judges signatures by its own clock, so that this is the system's, also where a test moves the server's.
    clock: Clock,
    scheme: &'static str,
    host: String,
    /// What stands before a key in the path.
    root: String,
    /// Scheme and host by which clients reach the same bucket.
    public: (&'static str, String),
    region: String,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("host", &self.host).field("root", &self.root).finish_non_exhaustive()
    }
}

impl Caller {
    pub(super) fn new(
        bucket: &Bucket,
        environment: HashMap<String, String>,
        stall: Duration,
    ) -> Result<Self, OutboundError> {
        let named = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| environment.get(*name).cloned());
        let region = bucket.region.clone().or(named).unwrap_or_else(|| REGION.into());
        let own = || ("https", format!("s3.{region}.amazonaws.com"));
        let (scheme, host) = bucket.endpoint.as_deref().map_or_else(own, split);
        let public = bucket.public_endpoint.as_deref().map_or_else(|| (scheme, host.clone()), split);
        let placed = |host: String| if bucket.path_style { host } else { format!("{}.{host}", bucket.name) };
        let root = if bucket.path_style { format!("/{}", bucket.name) } else { String::new() };
        let (host, public) = (placed(host), (public.0, placed(public.1)));
        // A store that is reached without encryption is in our own network.
        let outbound = Outbound::to_service(CONNECT, stall, scheme == "http")?;
        let credentials = Credentials::new(bucket, environment)?;
        Ok(Self { outbound, credentials, clock: Clock::system(), scheme, host, root, public, region })
    }

    /// Where it is, for people.
    pub(super) fn place(&self) -> String {
        format!("{}://{}{}", self.scheme, self.host, self.root)
    }

    /// Makes a call, more than once where that may help.
    pub(super) async fn call(&self, ask: &Ask<'_>) -> Result<Answer, Fault> {
        self.tried(ask.what, || self.once(ask)).await
    }

    /// Makes a call whose answer comes as a stream. Only the beginning is tried again.
    pub(super) async fn stream(
        &self,
        ask: &Ask<'_>,
    ) -> Result<(Head, BoxStream<'static, Result<Bytes, OutboundError>>), Fault> {
        self.tried(ask.what, || self.begin(ask)).await
    }

    async fn tried<T, F>(&self, what: &'static str, mut once: impl FnMut() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let begun = self.clock.monotonic();
        let mut tries = 0;
        let mut reloaded = false;
        loop {
            let outcome = once().await;
            let told = match &outcome {
                Ok(_) => "ok",
                Err(fault) => match fault.kind {
                    Kind::Missing => "missing",
                    Kind::Denied => "denied",
                    Kind::Full => "full",
                    Kind::Changed | Kind::Parts | Kind::Passing | Kind::Unserved | Kind::Lasting => "failed",
                },
            };
            metrics::counter!("landfall_store_calls_total", "call" => what, "outcome" => told).increment(1);
            let fault = match outcome {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            match fault.kind {
                // Keys are rotated while we run.
                Kind::Denied if !reloaded => {
                    reloaded = true;
                    self.credentials.forget().await;
                }
                Kind::Passing => {
                    tries += 1;
                    if tries >= TRIES || self.clock.monotonic().saturating_sub(begun) >= PATIENCE {
                        return Err(Fault { what: format!("{what}: {} (tried {tries} times)", fault.what), ..fault });
                    }
                    tracing::debug!(what, why = fault.what, tries, "a call to the store is tried again");
                    tokio::time::sleep(pause(tries)).await;
                }
                Kind::Missing
                | Kind::Changed
                | Kind::Parts
                | Kind::Full
                | Kind::Denied
                | Kind::Unserved
                | Kind::Lasting => {
                    return Err(Fault { what: format!("{what}: {}", fault.what), ..fault });
                }
            }
        }
    }

    async fn once(&self, ask: &Ask<'_>) -> Result<Answer, Fault> {
        let (head, stream) = self.begin(ask).await?;
        let body = whole(stream).await?;
        let Some(wanted) = ask.answer else { return Ok(Answer { head, document: Element::default() }) };
        match Element::read(&body) {
            Some(document) if document.name == wanted => Ok(Answer { head, document }),
            // The status was sent before the store knew how it would end.
            Some(document) if document.name == "Error" => Err(judge(500, &head, Some(&document))),
            _ => Err(Fault { kind: Kind::Passing, what: format!("its answer is no {wanted}") }),
        }
    }

    async fn begin(&self, ask: &Ask<'_>) -> Result<(Head, BoxStream<'static, Result<Bytes, OutboundError>>), Fault> {
        let url = self.sign(ask).await?;
        let header = |(name, value): &(&'static str, String)| (HeaderName::from_static(name), value.clone());
        let request = outbound::Ask {
            method: ask.method.clone(),
            url: &url,
            key: None,
            headers: ask.headers.iter().map(header).collect(),
            payload: ask.body.payload(),
        };
        let (head, stream) = self.outbound.open(request).await?;
        if (200..300).contains(&head.status) {
            return Ok((head, stream.boxed()));
        }
        let body = whole(stream).await?;
        Err(judge(head.status, &head, Element::read(&body).as_ref()))
    }

    /// The whole URL, with a signature over it and over the headers that need one.
    async fn sign(&self, ask: &Ask<'_>) -> Result<String, Fault> {
        let headers = ask.headers.iter().filter(|(name, _)| name.starts_with("x-amz-"));
        let headers: Vec<(&str, &str)> = headers.map(|(name, value)| (*name, value.as_str())).collect();
        let query = ask.query.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let signer = self.signer().await?;
        Ok(signer.url((self.scheme, &self.host), ask.method.as_str(), ask.key, query, &headers, SIGNED_SECONDS))
    }

    /// Who signs now: credentials may be others later.
    pub(super) async fn signer(&self) -> Result<Signer<'_>, Fault> {
        let credential = self.credentials.get().await?;
        let secret = Secret::new(credential.secret_access_key.into_bytes());
        let key = SigningKey::new(credential.access_key_id, secret, self.region.clone());
        Ok(Signer { caller: self, key, token: credential.session_token })
    }

    /// Sends a request to a URL that was signed for somebody else, and answers its status alone.
    pub(super) async fn status_of(&self, url: &str, body: Bytes) -> Result<u16, Fault> {
        let length = u64::try_from(body.len()).unwrap_or(0);
        let payload = Payload::Stream(length, futures_util::stream::once(async { Ok(body) }).boxed());
        let ask = outbound::Ask { method: Method::PUT, url, key: None, headers: Vec::new(), payload };
        let (head, stream) = self.outbound.open(ask).await?;
        whole(stream).await?;
        Ok(head.status)
    }
}

/// Signs with the credentials of one moment.
pub(super) struct Signer<'a> {
    caller: &'a Caller,
    key: SigningKey,
    token: Option<String>,
}

impl Signer<'_> {
    /// A URL at which clients reach an object, for a PUT within so many seconds with exactly these headers.
    pub(super) fn public(
        &self,
        key: &str,
        query: Vec<(String, String)>,
        headers: &[(&str, &str)],
        life: u32,
    ) -> String {
        let (scheme, host) = &self.caller.public;
        self.url((scheme, host), "PUT", key, query, headers, life)
    }

    /// The same at which this server reaches it.
    pub(super) fn own(&self, key: &str, headers: &[(&str, &str)]) -> String {
        self.url((self.caller.scheme, &self.caller.host), "PUT", key, Vec::new(), headers, SIGNED_SECONDS)
    }

    fn url(
        &self,
        (scheme, host): (&str, &str),
        method: &str,
        key: &str,
        mut query: Vec<(String, String)>,
        headers: &[(&str, &str)],
        life: u32,
    ) -> String {
        if let Some(token) = &self.token {
            query.push(("X-Amz-Security-Token".into(), token.clone()));
        }
        let root = &self.caller.root;
        let slash = if key.is_empty() && !root.is_empty() { "" } else { "/" };
        presign(
            &self.key,
            &PresignRequest {
                method,
                scheme,
                host,
                path: &format!("{root}{slash}{key}"),
                query: &query,
                signed_headers: headers,
                date: self.caller.clock.now(),
                expires_seconds: life,
            },
        )
    }
}

/// Scheme and host of an endpoint.
fn split(endpoint: &str) -> (&'static str, String) {
    match endpoint.split_once("://") {
        Some(("http", host)) => ("http", host.to_owned()),
        Some((_, host)) => ("https", host.to_owned()),
        None => ("https", endpoint.to_owned()),
    }
}

fn pause(tries: u32) -> Duration {
    let [jitter] = random_bytes::<1>();
    let whole = PAUSE.saturating_mul(4u32.saturating_pow(tries.saturating_sub(1)));
    whole / 2 + whole.saturating_mul(u32::from(jitter)) / 256
}

async fn whole(mut stream: impl Stream<Item = Result<Bytes, OutboundError>> + Unpin) -> Result<Bytes, Fault> {
    let mut whole = BytesMut::new();
    while let Some(bytes) = stream.next().await {
        whole.extend_from_slice(&bytes?);
        if whole.len() > ANSWER_BYTES {
            return Err(Fault { kind: Kind::Lasting, what: format!("its answer has more than {ANSWER_BYTES} bytes") });
        }
    }
    Ok(whole.freeze())
}

/// What an answer that is no success means.
fn judge(status: u16, head: &Head, document: Option<&Element>) -> Fault {
    let code = document.and_then(|document| document.get("Code")).unwrap_or_default();
    let message = document.and_then(|document| document.get("Message")).unwrap_or_default();
    let kind = match (code, status) {
        ("NoSuchKey" | "NoSuchUpload" | "NotFound", _) => Kind::Missing,
        ("NoSuchBucket" | "PermanentRedirect" | "RequestTimeTooSkewed", _) => Kind::Lasting,
        ("InvalidPart" | "InvalidPartOrder" | "EntityTooSmall", _) => Kind::Parts,
        ("QuotaExceeded" | "InsufficientStorage" | "StorageFull" | "XMinioStorageFull", _) | (_, 507) => Kind::Full,
        ("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired", _) | (_, 401 | 403) => Kind::Denied,
        // What a connection damaged on its way is sent again.
        ("RequestTimeout" | "IncompleteBody" | "BadDigest" | "XAmzContentChecksumMismatch", _) => Kind::Passing,
        ("OperationAborted" | "ConditionalRequestConflict", _) => Kind::Passing,
        ("NotImplemented" | "MethodNotAllowed", _) | (_, 405 | 501) => Kind::Unserved,
        (_, 404) => Kind::Missing,
        (_, 412) => Kind::Changed,
        (_, 408 | 425 | 429 | 500 | 502 | 503 | 504) => Kind::Passing,
        // An answer to HEAD has no document that would say why.
        ("", 400) if document.is_none() => Kind::Denied,
        _ => Kind::Lasting,
    };
    let what = match (kind, head.header("x-amz-bucket-region")) {
        (Kind::Denied, _) => {
            format!("the store refuses the credentials, or they lack a permission: {status} {code} {message}")
        }
        (Kind::Lasting, Some(region)) if (300..400).contains(&status) => {
            format!("the bucket is in another region: set `region={region}` in `storage`")
        }
        (Kind::Lasting, _) if code == "RequestTimeTooSkewed" => {
            "this machine's clock or the store's is wrong: they differ by more than a signature allows".into()
        }
        _ => format!("the store answered {status} {code} {message}"),
    };
    Fault { kind, what: what.trim_end().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, code: &str) -> Kind {
        let head = Head { status, headers: http::HeaderMap::new() };
        let xml = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
        let document = Element::read(xml.as_bytes()).filter(|_| !code.is_empty());
        judge(status, &head, document.as_ref()).kind
    }

    #[test]
    fn an_answer_is_judged_by_its_code_and_then_by_its_status() {
        for (status, code, wanted) in [
            (404, "NoSuchKey", Kind::Missing),
            (404, "", Kind::Missing),
            (404, "NoSuchBucket", Kind::Lasting),
            (500, "NoSuchUpload", Kind::Missing),
            (503, "SlowDown", Kind::Passing),
            (429, "", Kind::Passing),
            (500, "InternalError", Kind::Passing),
            (400, "RequestTimeout", Kind::Passing),
            (400, "BadDigest", Kind::Passing),
            (400, "ExpiredToken", Kind::Denied),
            (400, "", Kind::Denied),
            (400, "InvalidPart", Kind::Parts),
            (403, "SignatureDoesNotMatch", Kind::Denied),
            (403, "RequestTimeTooSkewed", Kind::Lasting),
            (412, "PreconditionFailed", Kind::Changed),
            (507, "", Kind::Full),
            (400, "InvalidRequest", Kind::Lasting),
            (301, "PermanentRedirect", Kind::Lasting),
        ] {
            assert_eq!(kind(status, code), wanted, "{status} {code}");
        }
    }

    #[tokio::test]
    async fn a_url_names_the_bucket_where_it_belongs() {
        for (storage, key, wanted) in [
            ("s3://bytes", "a-b.1", "https://bytes.s3.eu-9.amazonaws.com/a-b.1?X-Amz-"),
            ("s3://bytes", "", "https://bytes.s3.eu-9.amazonaws.com/?X-Amz-"),
            ("s3://bytes?region=us-1", "k", "https://bytes.s3.us-1.amazonaws.com/k?X-Amz-"),
            ("s3://by.tes", "k", "https://s3.eu-9.amazonaws.com/by.tes/k?X-Amz-"),
            ("s3://bytes?endpoint=http://10.0.0.7:3900", "", "http://10.0.0.7:3900/bytes?X-Amz-"),
            ("s3://bytes?endpoint=http://10.0.0.7:3900", "x/k", "http://10.0.0.7:3900/bytes/x/k?X-Amz-"),
            ("s3://bytes?endpoint=https://s.example.com&path_style=false", "k", "https://bytes.s.example.com/k?X-Amz-"),
        ] {
            let mut config = crate::config::Config::default();
            config.set_text("storage", storage).unwrap();
            let crate::config::Storage::Bucket(bucket) = &config.storage else { panic!("{storage}") };
            let environment = [
                ("AWS_REGION", "eu-9"),
                ("AWS_ACCESS_KEY_ID", "AKIA"),
                ("AWS_SECRET_ACCESS_KEY", "secret"),
                ("AWS_SESSION_TOKEN", "a/token"),
            ];
            let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let caller = Caller::new(bucket, environment.into(), STALL).unwrap();
            let ask =
                Ask::new("PutObject", Method::PUT, key).header("x-amz-checksum-crc32c", "AAAA").header("range", "x");
            let url = caller.sign(&ask).await.unwrap();
            assert!(url.starts_with(wanted), "{url}");
            assert!(url.contains("X-Amz-Security-Token=a%2Ftoken"), "{url}");
            assert!(url.contains("X-Amz-SignedHeaders=host%3Bx-amz-checksum-crc32c&"), "{url}");
        }
    }

    #[test]
    fn pauses_grow_and_stay_within_the_patience() {
        let all: Duration = (1..TRIES).map(pause).sum();
        assert!(all < PATIENCE && pause(3) > pause(1), "{all:?}");
    }
}
