//! Calls to the store: signed, within bounds, and tried again where that may help. Every call may be repeated: what is
//! sent under a name is the same each time.

use std::fmt;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderName, Method};

use super::{Element, Stream};
use crate::blob::BlobError;
use crate::clock::{Clock, random_bytes};
use crate::outbound::{self, Head, Outbound, OutboundError, Payload};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(3);
/// How long nothing may move on a call.
pub(in crate::blob) const STALL: Duration = Duration::from_secs(15);
/// How often a call is made.
const TRIES: u32 = 4;
/// After this time none is made again.
const PATIENCE: Duration = Duration::from_secs(15);
/// The first pause between two tries; each is four times the one before, give or take a half.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 150 });
/// How often a body that breaks is asked for.
const BREAKS: usize = 3;
/// The longest answer that is read whole.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// What a failed call means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::blob) enum Kind {
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
pub(in crate::blob) struct Fault {
    pub(in crate::blob) kind: Kind,
    /// A sentence; it names no secret.
    pub(in crate::blob) what: String,
}

impl Fault {
    /// One that does not pass by itself.
    pub(in crate::blob) fn lasting(what: impl Into<String>) -> Self {
        Self { kind: Kind::Lasting, what: what.into() }
    }

    /// An answer that is no success, and what it means.
    pub(in crate::blob) fn answered(kind: Kind, status: u16, code: &str, message: &str) -> Self {
        let what = match kind {
            Kind::Denied => {
                format!("the store refuses the credentials, or they lack a permission: {status} {code} {message}")
            }
            Kind::Missing
            | Kind::Changed
            | Kind::Parts
            | Kind::Full
            | Kind::Passing
            | Kind::Unserved
            | Kind::Lasting => format!("the store answered {status} {code} {message}"),
        };
        Self { kind, what: what.trim_end().to_owned() }
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
pub(in crate::blob) enum Body {
    None,
    Text(String),
    Bytes {
        length: u64,
        make: Box<dyn Fn() -> futures_util::stream::BoxStream<'static, io::Result<Bytes>> + Send + Sync>,
    },
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
pub(in crate::blob) struct Ask<'a> {
    /// What it is, as the protocol calls it.
    pub(in crate::blob) what: &'static str,
    pub(in crate::blob) method: Method,
    /// The object's; the bucket itself where it is empty.
    pub(in crate::blob) key: &'a str,
    pub(in crate::blob) query: Vec<(&'static str, String)>,
    pub(in crate::blob) headers: Vec<(&'static str, String)>,
    pub(in crate::blob) body: Body,
    /// The name of the document that is the answer, where one is. Anything else is no success, whatever the status.
    pub(in crate::blob) answer: Option<&'static str>,
}

impl<'a> Ask<'a> {
    pub(in crate::blob) const fn new(what: &'static str, method: Method, key: &'a str) -> Self {
        Self { what, method, key, query: Vec::new(), headers: Vec::new(), body: Body::None, answer: None }
    }

    pub(in crate::blob) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(in crate::blob) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(in crate::blob) const fn answered_by(mut self, document: &'static str) -> Self {
        self.answer = Some(document);
        self
    }

    pub(in crate::blob) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

/// An answer that was read whole.
pub(in crate::blob) struct Answer {
    pub(in crate::blob) head: Head,
    /// Empty where none was asked for.
    pub(in crate::blob) document: Element,
}

/// A call as it is sent: its URL and headers say who asks.
pub(in crate::blob) struct Signed {
    pub(in crate::blob) url: String,
    pub(in crate::blob) headers: Vec<(HeaderName, String)>,
}

/// How one kind of store is spoken to.
#[async_trait]
pub(in crate::blob) trait Protocol: Send + Sync {
    /// Where it is, for people.
    fn place(&self) -> String;

    /// Adds what proves who asks.
    async fn sign(&self, ask: &Ask<'_>) -> Result<Signed, Fault>;

    /// What an answer that is no success means.
    fn judge(&self, status: u16, head: &Head, document: Option<&Element>) -> Fault;

    /// The store refused the credentials: others are asked for the next time.
    async fn forget(&self);
}

/// Makes calls to one store.
pub(in crate::blob) struct Caller<P> {
    outbound: Outbound,
    clock: Clock,
    pub(in crate::blob) protocol: P,
}

impl<P: Protocol> fmt::Debug for Caller<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("place", &self.place()).finish_non_exhaustive()
    }
}

impl<P: Protocol> Caller<P> {
    /// Nothing may move on a call for `stall` at most. A store that is reached without encryption is in our own network,
    /// and no proxy is asked for it (`near`).
    pub(in crate::blob) fn new(protocol: P, stall: Duration, near: bool) -> Result<Self, OutboundError> {
        let outbound = Outbound::to_service(CONNECT, stall, near)?;
        Ok(Self { outbound, clock: Clock::system(), protocol })
    }

    /// Where the store is, for people.
    pub(in crate::blob) fn place(&self) -> String {
        self.protocol.place()
    }

    /// Makes a call, more than once where that may help.
    pub(in crate::blob) async fn call(&self, ask: &Ask<'_>) -> Result<Answer, Fault> {
        self.tried(ask.what, || self.once(ask)).await
    }

    /// Makes a call whose answer comes as a stream. Only the beginning is tried again.
    pub(in crate::blob) async fn stream(&self, ask: &Ask<'_>) -> Result<(Head, Stream), Fault> {
        self.tried(ask.what, || self.begin(ask)).await
    }

    /// Asks for the bytes from the first position to before the second of an object of this size.
    pub(in crate::blob) async fn range(
        &self,
        ask: Ask<'_>,
        (from, to): (u64, u64),
        size: u64,
    ) -> Result<Stream, Fault> {
        let ask = ask.header("range", format!("bytes={from}-{}", to - 1));
        let (head, stream) = self.stream(&ask).await?;
        // A store that does not know ranges would answer with other bytes than those that were asked for.
        let wanted = match head.header("content-range") {
            Some(told) if head.status == 206 => told.starts_with(&format!("bytes {from}-")),
            Some(_) | None => head.status == 206 || (from == 0 && to == size),
        };
        if wanted { Ok(exactly(to - from, stream)) } else { Err(Fault::lasting("the store answers no such range")) }
    }

    /// Asks for a small object, whole. One that is longer or shorter is none.
    pub(in crate::blob) async fn small(&self, ask: &Ask<'_>, length: usize) -> Result<Bytes, Fault> {
        let key = ask.key;
        let mut cut = None;
        for _ in 0..BREAKS {
            let (_, mut stream) = self.stream(ask).await?;
            let mut whole = BytesMut::with_capacity(length);
            cut = loop {
                match stream.next().await {
                    Some(Ok(bytes)) if whole.len() + bytes.len() <= length => whole.extend_from_slice(&bytes),
                    Some(Ok(_)) => break Some(Fault::lasting(format!("{key} is too long"))),
                    Some(Err(error)) => break Some(error.into()),
                    None if whole.len() < length => break Some(Fault::lasting(format!("{key} is too short"))),
                    None => return Ok(whole.freeze()),
                }
            };
        }
        Err(cut.unwrap_or_else(|| Fault::lasting(format!("{key} can't be read"))))
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
                    self.protocol.forget().await;
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
            Some(document) if document.name == "Error" => Err(self.protocol.judge(500, &head, Some(&document))),
            _ => Err(Fault { kind: Kind::Passing, what: format!("its answer is no {wanted}") }),
        }
    }

    async fn begin(&self, ask: &Ask<'_>) -> Result<(Head, Stream), Fault> {
        let Signed { url, headers } = self.protocol.sign(ask).await?;
        let request =
            outbound::Ask { method: ask.method.clone(), url: &url, key: None, headers, payload: ask.body.payload() };
        let (head, stream) = self.outbound.open(request).await?;
        if (200..300).contains(&head.status) {
            return Ok((head, stream.boxed()));
        }
        let body = whole(stream).await?;
        Err(self.protocol.judge(head.status, &head, Element::read(&body).as_ref()))
    }

    /// Asks at a URL that needs no signature, and reads the head of the answer alone, more than once where that may help.
    /// `read` knows which answers mean something.
    pub(in crate::blob) async fn head_of<T>(
        &self,
        what: &'static str,
        (method, url, headers): (Method, &str, Vec<(HeaderName, String)>),
        read: impl Fn(&Head) -> Option<T>,
    ) -> Result<T, Fault> {
        let (method, headers, read) = (&method, &headers, &read);
        self.tried(what, || async move {
            let (method, headers, payload) = (method.clone(), headers.clone(), Payload::None);
            let (head, stream) = self.outbound.open(outbound::Ask { method, url, key: None, headers, payload }).await?;
            let body = whole(stream).await?;
            match read(&head) {
                Some(told) => Ok(told),
                None => Err(self.protocol.judge(head.status, &head, Element::read(&body).as_ref())),
            }
        })
        .await
    }

    /// Sends a request to a URL that was signed for somebody else, and tells the head of its answer alone.
    pub(in crate::blob) async fn sent_to(
        &self,
        url: &str,
        headers: Vec<(HeaderName, String)>,
        body: Bytes,
    ) -> Result<Head, Fault> {
        let length = u64::try_from(body.len()).unwrap_or(0);
        let payload = Payload::Stream(length, futures_util::stream::once(async { Ok(body) }).boxed());
        let ask = outbound::Ask { method: Method::PUT, url, key: None, headers, payload };
        let (head, stream) = self.outbound.open(ask).await?;
        whole(stream).await?;
        Ok(head)
    }
}

/// Scheme and host of an endpoint.
pub(in crate::blob) fn split(endpoint: &str) -> (&'static str, String) {
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

/// A body of exactly so many bytes, whatever the answer said: behind it may come those of another object.
fn exactly(length: u64, stream: Stream) -> Stream {
    let broken = |what: &str| OutboundError { passing: true, what: what.into() };
    let next = move |state: Option<(u64, Stream)>| async move {
        let (left, mut stream) = state?;
        match stream.next().await {
            Some(Ok(bytes)) => match left.checked_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX)) {
                Some(left) => Some((Ok(bytes), Some((left, stream)))),
                None => Some((Err(broken("the store answers more than a range has")), None)),
            },
            Some(Err(error)) => Some((Err(error), None)),
            None if left > 0 => Some((Err(broken("it ended early")), None)),
            None => None,
        }
    };
    futures_util::stream::unfold(Some((length, stream)), next).boxed()
}

async fn whole(
    mut stream: impl futures_util::Stream<Item = Result<Bytes, OutboundError>> + Unpin,
) -> Result<Bytes, Fault> {
    let mut whole = BytesMut::new();
    while let Some(bytes) = stream.next().await {
        whole.extend_from_slice(&bytes?);
        if whole.len() > ANSWER_BYTES {
            return Err(Fault { kind: Kind::Lasting, what: format!("its answer has more than {ANSWER_BYTES} bytes") });
        }
    }
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_within_the_patience() {
        let all: Duration = (1..TRIES).map(pause).sum();
        assert!(all < PATIENCE && pause(3) > pause(1), "{all:?}");
    }
}
