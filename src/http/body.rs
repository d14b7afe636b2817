//! Bodies on their way in: read at a pace, within a budget, and thrown away politely when they are refused.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Interval, MissedTickBehavior};

use crate::config::Config;
use crate::limits;
use crate::model::refusal::Refusal;
use crate::upload::receive::BodyError;

/// Unread bytes up to which a refused body is read before the answer, so that the connection lives on.
const DRAIN_FIRST_BYTES: u64 = 256 * 1024;
/// And the time for it.
const DRAIN_FIRST_TIME: Duration = Duration::from_millis(500);
/// The budget is counted in units of so many bytes.
const UNIT_BYTES: u64 = 1024;

/// How bodies are read: their pace and the memory that all of them share. Clones share the memory.
#[derive(Clone, Debug)]
pub struct BodyTiming {
    idle: Duration,
    grace: Duration,
    rate_bytes: u64,
    stop: Duration,
    budget: Arc<Semaphore>,
    budget_units: u64,
}

impl BodyTiming {
    /// The pace and the memory that the configuration gives.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let budget_units = (config.body_memory_max / UNIT_BYTES).clamp(1, u64::from(u32::MAX));
        let stop = Duration::from_secs(config.stop_seconds);
        Self {
            idle: Duration::from_secs(config.body_idle_seconds),
            grace: Duration::from_secs(config.body_grace_seconds),
            rate_bytes: config.body_rate_bytes,
            // A body that is cut at a stop leaves a tenth of the time for what has to be said about it.
            stop: stop - stop / 10,
            budget: Arc::new(Semaphore::new(usize::try_from(budget_units).unwrap_or(Semaphore::MAX_PERMITS))),
            budget_units,
        }
    }

    fn reserve(&self, bytes: u64) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + 'static {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES).min(self.budget_units)).unwrap_or(u32::MAX);
        let (budget, patience) = (Arc::clone(&self.budget), self.idle);
        async move {
            if let Ok(Ok(permit)) = tokio::time::timeout(patience, budget.acquire_many_owned(units)).await {
                return Some(permit);
            }
            tracing::warn!("refusing a body: as many are being received as fit into `body_memory_max`");
            None
        }
    }
}

impl Default for BodyTiming {
    fn default() -> Self {
        Self::new(&Config::default())
    }
}

/// A body as a stream of chunks that ends with an error when it stands still, comes too slowly or is cut.
///
/// Its memory is reserved before the first byte is asked for, so that a client that waits for `100 Continue` waits on,
/// and the system's own flow control holds back all others. At a stop it may end within the time for that.
pub fn receive(body: Body, timing: &BodyTiming, stopping: watch::Receiver<bool>) -> Receiving {
    // What a receiver gathers before it writes, and the connection's buffer.
    let most = u64::try_from(limits::WRITE_BYTES).unwrap_or(u64::MAX).saturating_add(64 * 1024);
    let reserve = body.size_hint().exact().unwrap_or(most).min(most);
    Receiving::new(body, timing, reserve, Some(stopping))
}

enum Memory {
    Waiting(Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>),
    Held { _permit: OwnedSemaphorePermit },
    Ended,
}

/// What [`receive`] gives.
pub struct Receiving {
    body: Body,
    memory: Memory,
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
    ticks: Interval,
    idle: Duration,
    grace: Duration,
    rate_bytes: u64,
    /// Time waited for the client since its last byte, and in all. What we take ourselves is not counted.
    silent: Duration,
    waited: Duration,
    received: u64,
}

impl fmt::Debug for Receiving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiving").field("received", &self.received).finish_non_exhaustive()
    }
}

impl Receiving {
    fn new(body: Body, timing: &BodyTiming, reserve: u64, stopping: Option<watch::Receiver<bool>>) -> Self {
        let tick = (timing.idle.min(timing.grace) / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let mut ticks = tokio::time::interval(tick);
        ticks.reset();
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = timing.stop;
        metrics::gauge!("landfall_bodies_in_flight").increment(1.0);
        Self {
            body,
            memory: Memory::Waiting(Box::pin(timing.reserve(reserve))),
            stopping: Box::pin(async move {
                if let Some(mut stopping) = stopping
                    && stopping.wait_for(|stopping| *stopping).await.is_ok()
                {
                    return tokio::time::sleep(stop).await;
                }
                std::future::pending::<()>().await;
            }),
            ticks,
            idle: timing.idle,
            grace: timing.grace,
            rate_bytes: timing.rate_bytes,
            silent: Duration::ZERO,
            waited: Duration::ZERO,
            received: 0,
        }
    }

    fn too_slow(&mut self, cx: &mut Context<'_>) -> bool {
        while self.ticks.poll_tick(cx).is_ready() {
            self.silent += self.ticks.period();
            self.waited += self.ticks.period();
        }
        let wanted = self.rate_bytes.saturating_mul(self.waited.as_secs());
        self.silent >= self.idle || (self.waited > self.grace && self.received < wanted)
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        metrics::gauge!("landfall_bodies_in_flight").decrement(1.0);
    }
}

impl Stream for Receiving {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let end = match &mut this.memory {
                Memory::Ended => return Poll::Ready(None),
                Memory::Waiting(reserved) => match ready!(reserved.as_mut().poll(cx)) {
                    Some(permit) => {
                        this.memory = Memory::Held { _permit: permit };
                        continue;
                    }
                    None => Some(Err(BodyError::Stopping)),
                },
                Memory::Held { .. } => match Pin::new(&mut this.body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        this.silent = Duration::ZERO;
                        match frame.into_data() {
                            Ok(data) if !data.is_empty() => {
                                this.received =
                                    this.received.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
                                return Poll::Ready(Some(Ok(data)));
                            }
                            // Trailers say nothing here.
                            _ => continue,
                        }
                    }
                    Poll::Ready(Some(Err(_))) => Some(Err(BodyError::Cut)),
                    Poll::Ready(None) => None,
                    Poll::Pending if this.stopping.as_mut().poll(cx).is_ready() => Some(Err(BodyError::Stopping)),
                    Poll::Pending if this.too_slow(cx) => Some(Err(BodyError::TooSlow)),
                    Poll::Pending => return Poll::Pending,
                },
            };
            this.memory = Memory::Ended;
            return Poll::Ready(end);
        }
    }
}

/// Reads a whole body of at most `limit` bytes. An announced length is tested before a byte is read.
///
/// # Errors
/// [`Refusal::TooLarge`] with `remedy`, [`Refusal::Incomplete`], [`Refusal::Unavailable`].
pub async fn read_all(body: Body, limit: u64, remedy: &'static str, timing: &BodyTiming) -> Result<Bytes, Refusal> {
    let too_large = || Refusal::TooLarge { what: "the request body", limit, remedy };
    let announced = body.size_hint().exact();
    if announced.is_some_and(|announced| announced > limit) {
        return Err(too_large());
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let mut stream = Receiving::new(body, timing, announced.unwrap_or(limit), None);
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    let mut size = 0u64;
    while let Some(chunk) = stream.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(BodyError::TooLong) => return Err(too_large()),
            Err(BodyError::Stopping) => return Err(Refusal::Unavailable),
            Err(error @ (BodyError::Cut | BodyError::TooSlow)) => {
                return Err(Refusal::Incomplete { reason: format!("{error} after {size} bytes") });
            }
        };
        size = size.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if size > limit {
            return Err(too_large());
        }
        // Most bodies are one chunk, which needs no copy.
        if first.is_empty() && whole.is_empty() {
            first = chunk;
        } else {
            if whole.is_empty() {
                whole.reserve(usize::try_from(announced.unwrap_or(size)).unwrap_or(0));
                whole.extend_from_slice(&first);
            }
            whole.extend_from_slice(&chunk);
        }
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// Reads a body and throws it away, within [`limits::DRAIN_BYTES`] and [`limits::DRAIN_TIME`]; true when it came to
/// its end. A client that waits for `100 Continue` is not asked for a body, so that is false.
///
/// Handlers need not call it: [`super::server::wrap`] does it for every body that was not read to its end.
pub async fn drain(mut body: Body, headers: &HeaderMap) -> bool {
    body.is_end_stream() || (!expects_continue(headers) && discard(&mut body, limits::DRAIN_TIME).await)
}

/// Does the client wait for our word before it sends the body?
pub fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Says that the connection ends with this answer.
pub fn close_after(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

async fn discard(body: &mut Body, time: Duration) -> bool {
    let read = async {
        let mut left = limits::DRAIN_BYTES;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(u64::try_from(length).unwrap_or(u64::MAX)) {
                Some(rest) => left = rest,
                None => return false,
            }
        }
        true
    };
    tokio::time::timeout(time, read).await.unwrap_or(false)
}

/// A body that was lent to a handler; what the handler leaves of it comes back.
#[derive(Debug)]
pub(super) struct Kept(Arc<Mutex<Loan>>);

#[derive(Debug)]
struct Loan {
    body: Rest,
    /// Has a byte been asked for?
    touched: bool,
}

#[derive(Debug)]
enum Rest {
    Here(Body),
    Ended,
    Broken,
}

/// What a handler gets in a body's place.
struct Lent(Arc<Mutex<Loan>>);

/// Lends a body.
pub(super) fn lend(body: Body) -> (Body, Kept) {
    let rest = if body.is_end_stream() { Rest::Ended } else { Rest::Here(body) };
    let loan = Arc::new(Mutex::new(Loan { body: rest, touched: false }));
    (Body::new(Lent(Arc::clone(&loan))), Kept(loan))
}

fn lock(loan: &Mutex<Loan>) -> std::sync::MutexGuard<'_, Loan> {
    loan.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let mut loan = lock(&self.0);
        loan.touched = true;
        let polled = match &mut loan.body {
            Rest::Here(body) => ready!(Pin::new(body).poll_frame(cx)),
            Rest::Ended => return Poll::Ready(None),
            // A body that was taken away must not look complete.
            Rest::Broken => return Poll::Ready(Some(Err(axum::Error::new("the body is gone")))),
        };
        match &polled {
            Some(Ok(_)) => {}
            Some(Err(_)) => loan.body = Rest::Broken,
            None => loan.body = Rest::Ended,
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        match &lock(&self.0).body {
            Rest::Here(body) => body.is_end_stream(),
            Rest::Ended => true,
            Rest::Broken => false,
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match &lock(&self.0).body {
            Rest::Here(body) => body.size_hint(),
            Rest::Ended => http_body::SizeHint::with_exact(0),
            Rest::Broken => http_body::SizeHint::default(),
        }
    }
}

impl Kept {
    /// Sees to what the handler has left unread, so that the client gets to read the answer: a small rest is read
    /// first and the connection lives on; of a large one the answer goes out at once, and the rest is thrown away
    /// behind it before the connection closes. A client that still waits for `100 Continue` sends nothing at all.
    pub(super) async fn settle(self, expects_continue: bool, response: &mut Response) {
        let (rest, touched) = {
            let mut loan = lock(&self.0);
            (std::mem::replace(&mut loan.body, Rest::Broken), loan.touched)
        };
        let mut body = match rest {
            Rest::Ended => return,
            Rest::Here(body) if body.is_end_stream() => return,
            Rest::Here(body) => body,
            Rest::Broken => return close_after(response.headers_mut()),
        };
        if expects_continue && !touched {
            return close_after(response.headers_mut());
        }
        // Only for a body that nobody has begun: one that was given up half way is slow, or too long.
        if !touched
            && body.size_hint().exact().is_some_and(|left| left <= DRAIN_FIRST_BYTES)
            && discard(&mut body, DRAIN_FIRST_TIME).await
        {
            return;
        }
        close_after(response.headers_mut());
        tokio::spawn(async move { discard(&mut body, limits::DRAIN_TIME).await });
    }
}
