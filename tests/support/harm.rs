//! What a network and a tired store do to calls, for the stores that tests play and for what stands in front of real ones.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test binary uses a part of it; the bans are the server's"
)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::runtime::Runtime;

/// Bodies of so many bytes are read before they are judged: who is refused before a short body was read would see a
/// broken connection.
pub const SHORT: u64 = 1024 * 1024;

/// What is done to a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Harm {
    /// The connection is cut before the store has seen it.
    CutBefore,
    /// It is done, and the connection is cut instead of an answer.
    CutAfter,
    /// This status and code, and nothing is done.
    Refuse(u16, &'static str),
    /// It is done, and the answer is this status and code.
    RefuseAfter(u16, &'static str),
    /// Status 200 with an error inside; nothing is done.
    ErrorInside(&'static str),
    /// The answer's body ends in its middle.
    Truncate,
    /// The same, and nobody says so: it looks whole.
    EndsEarly,
    /// The answer has no `ETag`.
    NoETag,
    /// The answer has this header besides.
    Says(&'static str, &'static str),
    /// The first byte of the body is another one when it arrives.
    Damage,
    /// It is done after this many milliseconds.
    Delay(u64),
}

/// A call as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// As the protocol calls it.
    pub what: &'static str,
    pub path: String,
    pub bytes: u64,
}

pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// Any body.
pub type Any = UnsyncBoxBody<Bytes, Error>;

/// What is to be done to calls of one kind.
struct Plan {
    what: &'static str,
    /// How many are left.
    times: u32,
    harm: Harm,
    /// When it is over, whether or not they came.
    until: Option<Instant>,
}

/// What is to be done to which calls, and those that came.
#[derive(Default)]
pub struct Harms {
    planned: Mutex<Vec<Plan>>,
    harmed: AtomicU64,
    calls: Mutex<Vec<Call>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Harms {
    /// The next so many calls of this kind are harmed.
    pub fn plan(&self, what: &'static str, times: u32, harm: Harm) {
        lock(&self.planned).push(Plan { what, times, harm, until: None });
    }

    /// The same, while this spell lasts.
    pub fn plan_for(&self, spell: Duration, what: &'static str, times: u32, harm: Harm) {
        lock(&self.planned).push(Plan { what, times, harm, until: Some(Instant::now() + spell) });
    }

    /// No call is harmed any more.
    pub fn spare(&self) {
        lock(&self.planned).clear();
    }

    /// How many calls were harmed.
    pub fn harmed(&self) -> u64 {
        self.harmed.load(Ordering::Relaxed)
    }

    /// What was asked so far, and forgets it.
    pub fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut *lock(&self.calls))
    }

    /// How many calls of a kind there were.
    pub fn count(&self, what: &str) -> usize {
        lock(&self.calls).iter().filter(|call| call.what == what).count()
    }

    /// A call comes; what is done to it.
    pub fn came<B>(&self, what: &'static str, request: &Request<B>) -> Option<Harm> {
        lock(&self.calls).push(Call { what, path: request.uri().path().into(), bytes: length(request) });
        let mut planned = lock(&self.planned);
        let now = Instant::now();
        planned.retain(|plan| plan.times > 0 && plan.until.is_none_or(|until| now < until));
        let plan = planned.iter_mut().find(|plan| plan.what == what)?;
        plan.times -= 1;
        self.harmed.fetch_add(1, Ordering::Relaxed);
        Some(plan.harm)
    }
}

/// Bytes of a body, as its sender says.
pub fn length<B>(request: &Request<B>) -> u64 {
    request.headers().get("content-length").and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0)
}

pub fn any<B>(body: B) -> Any
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    body.map_err(Into::into).boxed_unsync()
}

pub fn text(text: impl Into<Bytes>) -> Any {
    any(Full::new(text.into()).map_err(|never: Infallible| match never {}))
}

/// The request as the store sees it: a short body whole, and the first byte another one where it is damaged.
///
/// # Errors
/// When the body did not come to its end.
pub async fn taken(harm: Option<Harm>, request: Request<Incoming>) -> Result<Request<Any>, std::io::Error> {
    let short = length(&request) <= SHORT;
    let (head, body) = request.into_parts();
    let body = if harm == Some(Harm::Damage) {
        let mut first = true;
        any(StreamBody::new(body.into_data_stream().map(move |bytes| {
            bytes.map(|bytes| {
                let mut bytes = bytes.to_vec();
                if std::mem::take(&mut first) && !bytes.is_empty() {
                    bytes[0] ^= 1;
                }
                http_body::Frame::data(Bytes::from(bytes))
            })
        })))
    } else if short {
        text(body.collect().await.map_err(|_| cut())?.to_bytes())
    } else {
        any(body)
    };
    Ok(Request::from_parts(head, body))
}

fn cut() -> std::io::Error {
    std::io::Error::other("cut")
}

/// The answer to a call, or what became of it. `refusal` makes an answer of a status and a code.
///
/// # Errors
/// When the connection is to be cut.
pub async fn harmed<F, B, E>(
    harm: Option<Harm>,
    refusal: impl Fn(u16, &str) -> Response<Any>,
    call: impl FnOnce() -> F,
) -> Result<Response<Any>, std::io::Error>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    let run =
        async || call().await.map(|answer| answer.map(any)).map_err(|_| std::io::Error::other("the store failed"));
    match harm {
        None | Some(Harm::Damage) => run().await,
        Some(Harm::CutBefore) => Err(cut()),
        Some(Harm::CutAfter) => {
            // Its body too: a store that answers has read it.
            run().await?;
            Err(cut())
        }
        Some(Harm::Refuse(status, code)) => Ok(refusal(status, code)),
        Some(Harm::RefuseAfter(status, code)) => {
            run().await?;
            Ok(refusal(status, code))
        }
        Some(Harm::ErrorInside(code)) => Ok(refusal(200, code)),
        Some(Harm::NoETag) => {
            let mut answer = run().await?;
            answer.headers_mut().remove("etag");
            Ok(answer)
        }
        Some(Harm::Says(name, value)) => {
            let mut answer = run().await?;
            answer.headers_mut().insert(name, value.parse().unwrap());
            Ok(answer)
        }
        Some(Harm::Delay(millis)) => {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            run().await
        }
        Some(Harm::EndsEarly) => {
            let (mut head, body) = run().await?.into_parts();
            let whole = body.collect().await.map_err(|_| cut())?.to_bytes();
            head.headers.remove("content-length");
            Ok(Response::from_parts(head, text(whole.slice(..whole.len() / 2))))
        }
        Some(Harm::Truncate) => {
            let (head, body) = run().await?.into_parts();
            let whole = body.collect().await.map_err(|_| cut())?.to_bytes();
            let frames = [Ok(http_body::Frame::data(whole.slice(..whole.len() / 2))), Err(cut())];
            Ok(Response::from_parts(head, any(StreamBody::new(futures_util::stream::iter(frames)))))
        }
    }
}

/// A refusal in the XML that most stores speak.
pub fn in_xml(status: u16, code: &str) -> Response<Any> {
    let xml = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as asked</Message></Error>");
    Response::builder().status(status).header("content-type", "application/xml").body(text(xml)).unwrap()
}

/// Answers requests on a free loopback port, on threads of its own, which end with the runtime.
pub fn serve<F>(answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static) -> (SocketAddr, Runtime)
where
    F: Future<Output = Result<Response<Any>, std::io::Error>> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("store")
        .enable_all()
        .build()
        .unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((socket, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            let _ = socket.set_nodelay(true);
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(request));
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    (address, runtime)
}
