//! Bodies on their way in: read at a pace, within a budget.
//!
//! Who gets memory and who has to yield is decided in `http::budget`. What a body counts:
//!
//! - **A step**, [`limits::BODY_STEP_BYTES`] or more for a fast one, as long as it comes: for the connection's buffer and
//!   for what comes next. It is taken before the first byte is asked for, so that a client that waits for `100 Continue`
//!   waits on, and the system's own flow control holds back all others.
//! - **Of bytes, every chunk until its last copy is dropped.** When there is no step to be had, the receiver is asked to
//!   write (by an empty chunk) and the body waits with empty hands.
//! - **Of JSON, the buffer that holds it, until the call is done with it.** The buffer grows as bytes come.
//!
//! A small chunk is copied out of the connection's buffer: hyper allocates at least 8 KiB for each read whose neighbours
//! are still in use, so that a client that sends single bytes would hold 8 KiB with each of them.

use std::fmt;
use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use super::budget::{Budget, Lease, Member, Place, Places, Turn, Verdict};
use crate::config::Config;
use crate::limits;
use crate::model::ids::{SessionId, TenantId};
use crate::model::refusal::Refusal;
use crate::upload::receive::BodyError;

/// A chunk below this is copied out of the connection's buffer, which has up to so many bytes twice.
const COPY_BELOW: usize = 32 * 1024;
/// What a chunk takes besides its bytes.
const CHUNK_BYTES: u64 = 192;
/// Bytes that are unpacked at a time.
const GUNZIP_BYTES: usize = 64 * 1024;
/// JSON announced to be at most this long gets its whole buffer at once.
const BUFFER_AT_ONCE: u64 = 64 * 1024;

/// How bodies are read: their pace and the memory that all of them share. Clones share the memory.
#[derive(Clone, Debug)]
pub struct BodyTiming {
    idle: Duration,
    grace: Duration,
    rate_bytes: u64,
    yield_rate_bytes: u64,
    stop: Duration,
    bytes: Budget,
    json: Budget,
    places: Places,
}

impl BodyTiming {
    /// The pace and the memory that the configuration gives.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let stop = Duration::from_secs(config.stop_seconds);
        Self {
            idle: Duration::from_secs(config.body_idle_seconds),
            grace: Duration::from_secs(config.body_grace_seconds),
            rate_bytes: config.body_rate_bytes,
            yield_rate_bytes: config.body_yield_rate_bytes,
            // A body that is cut at a stop leaves a tenth of the time for what has to be said about it.
            stop: stop - stop / 10,
            bytes: Budget::new(config.body_memory_max / 2, false),
            json: Budget::new(config.body_memory_max / 2, true),
            places: Places::default(),
        }
    }

    /// Waits for a place and for the first step.
    fn begin(&self, member: &Member, session: Option<SessionId>, step: u64, turn: Turn) -> Beginning {
        let place = session.map(|session| self.places.enter(session));
        let (member, patience) = (member.clone(), self.idle);
        Box::pin(async move {
            let mut waits_for = "session";
            let begin = async {
                let place = match place {
                    Some(place) => Some(place.await?),
                    None => None,
                };
                waits_for = "memory";
                Some((place, member.take(step, turn).await))
            };
            if let Ok(Some(begun)) = tokio::time::timeout(patience, begin).await {
                return Some(begun);
            }
            busy(waits_for);
            None
        })
    }
}

impl Default for BodyTiming {
    fn default() -> Self {
        Self::new(&Config::default())
    }
}

/// Is a body of this length one that others let go first?
fn is_small(announced: u64) -> bool {
    announced <= limits::BODY_STEP_BYTES
}

fn busy(waits_for: &'static str) {
    metrics::counter!("landfall_bodies_refused_total", "reason" => waits_for).increment(1);
    match waits_for {
        "session" => tracing::warn!("refusing a body: its session receives as many as it may"),
        _ => tracing::warn!("refusing a body: as many are being received as fit into `body_memory_max`"),
    }
}

/// Takes memory for a body that has begun, and waits for it within the body's patience.
async fn more(member: &Member, bytes: u64, turn: Turn, patience: Duration) -> Option<Lease> {
    let lease = tokio::time::timeout(patience, member.take(bytes, turn)).await.ok();
    if lease.is_none() {
        busy("memory");
    }
    lease
}

/// A body as a stream of chunks that ends with an error when it stands still, comes too slowly, finds no memory or is
/// cut. An empty chunk asks the receiver to write what it has gathered.
///
/// Its memory is counted for the tenant. Of one session, where it has one, only [`limits::SESSION_BODIES`] are received
/// at once and others wait for their turn. Memory is taken before the first byte is asked for. At a stop the body may
/// end within the time for that.
pub fn receive(
    body: Body,
    timing: &BodyTiming,
    tenant: &TenantId,
    session: Option<SessionId>,
    stopping: watch::Receiver<bool>,
) -> Receiving {
    Receiving::new(body, timing, timing.bytes.join(tenant), session, Some(stopping))
}

type Beginning = Pin<Box<dyn Future<Output = Option<(Option<Place>, Lease)>> + Send>>;
type Going = Pin<Box<dyn Future<Output = Option<Lease>> + Send>>;

enum Memory {
    Begins(Beginning),
    Has(Lease),
    /// Waits for a step, and has asked its receiver to write.
    Waits(Going),
    Ended,
}

/// What [`receive`] gives.
pub struct Receiving {
    body: Body,
    member: Member,
    memory: Memory,
    place: Option<Place>,
    /// Is each chunk counted until it is dropped? Otherwise the reader counts its own buffer.
    counts_chunks: bool,
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
    ticks: Interval,
    idle: Duration,
    grace: Duration,
    rate_bytes: u64,
    yield_rate_bytes: u64,
    /// Time waited for the client since its last byte, and in all. What we take ourselves is not counted.
    silent: Duration,
    waited: Duration,
    received: u64,
    /// `waited` and `received` when the pace was last looked at, and what was seen.
    looked: (Duration, u64),
    slow: bool,
    /// Was the receiver asked to write what came last?
    asked: bool,
}

impl fmt::Debug for Receiving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiving").field("received", &self.received).finish_non_exhaustive()
    }
}

/// A chunk, or a whole body, and the memory that it is counted with.
struct Counted<T> {
    bytes: T,
    _lease: Lease,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Counted<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// What becomes of a body that stands still.
enum Standing {
    Waits,
    Writes,
    Ends,
}

impl Receiving {
    fn new(
        body: Body,
        timing: &BodyTiming,
        member: Member,
        session: Option<SessionId>,
        stopping: Option<watch::Receiver<bool>>,
    ) -> Self {
        let tick = (timing.idle.min(timing.grace) / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let mut ticks = tokio::time::interval(tick);
        ticks.reset();
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = timing.stop;
        let announced = body.size_hint().exact();
        let step = announced.unwrap_or(u64::MAX).saturating_add(CHUNK_BYTES).min(limits::BODY_STEP_BYTES);
        let turn = if announced.is_some_and(is_small) { Turn::Small } else { Turn::New };
        metrics::gauge!("landfall_bodies_in_flight").increment(1.0);
        Self {
            body,
            memory: Memory::Begins(timing.begin(&member, session, step, turn)),
            member,
            place: None,
            counts_chunks: stopping.is_some(),
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
            yield_rate_bytes: timing.yield_rate_bytes,
            silent: Duration::ZERO,
            waited: Duration::ZERO,
            received: 0,
            looked: (Duration::ZERO, 0),
            slow: false,
            asked: false,
        }
    }

    fn stands(&mut self, cx: &mut Context<'_>) -> Standing {
        let mut ticked = false;
        while self.ticks.poll_tick(cx).is_ready() {
            self.silent += self.ticks.period();
            self.waited += self.ticks.period();
            ticked = true;
        }
        let wanted = self.rate_bytes.saturating_mul(self.waited.as_secs());
        if self.silent >= self.idle || (self.waited > self.grace && self.received < wanted) {
            return Standing::Ends;
        }
        if !ticked {
            return Standing::Waits;
        }
        let (waited, received) = (self.waited.saturating_sub(self.looked.0), self.received - self.looked.1);
        if waited >= limits::BODY_YIELD_WINDOW {
            let wanted = u128::from(self.yield_rate_bytes) * waited.as_millis() / 1000;
            self.slow = u128::from(received) < wanted;
            self.looked = (self.waited, self.received);
        }
        match self.member.pace(self.slow) {
            Verdict::Stay => Standing::Waits,
            Verdict::Write if self.counts_chunks && self.holds_chunks() => Standing::Writes,
            Verdict::Write => Standing::Waits,
            Verdict::Yield => {
                metrics::counter!("landfall_bodies_refused_total", "reason" => "yielded").increment(1);
                tracing::info!(bytes = self.received, "ending a slow body: others wait for memory");
                Standing::Ends
            }
        }
    }

    fn holds_chunks(&self) -> bool {
        match &self.memory {
            Memory::Has(step) => self.member.held() > step.bytes(),
            Memory::Begins(_) | Memory::Waits(_) | Memory::Ended => self.member.held() > 0,
        }
    }

    /// Counts a chunk with what the step has, and takes the next step as far as there is memory.
    fn counted(&mut self, data: Bytes) -> Bytes {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.received = self.received.saturating_add(length);
        let Memory::Has(step) = &mut self.memory else { return data };
        if !self.counts_chunks {
            return data;
        }
        let bytes = if data.len() < COPY_BELOW { Bytes::copy_from_slice(&data) } else { data };
        let takes = length + CHUNK_BYTES;
        let mut lease = step.split(takes);
        if lease.bytes() < takes {
            // It is here already; the next step waits until that is in order again.
            lease.absorb(self.member.count(takes - lease.bytes()));
        }
        let wanted = length.saturating_mul(2).clamp(limits::BODY_STEP_BYTES, limits::BODY_STEP_MAX_BYTES);
        if step.bytes() > wanted {
            drop(step.split(step.bytes() - wanted));
        } else if step.bytes() < wanted
            && let Some(more) = self.member.try_take(wanted - step.bytes())
        {
            step.absorb(more);
        }
        if step.bytes() < limits::BODY_STEP_BYTES {
            let (member, patience) = (self.member.clone(), self.idle);
            // Whoever waits holds nothing.
            self.memory =
                Memory::Waits(Box::pin(
                    async move { more(&member, limits::BODY_STEP_BYTES, Turn::Begun, patience).await },
                ));
        }
        Bytes::from_owner(Counted { bytes, _lease: lease })
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.member.ended();
        metrics::gauge!("landfall_bodies_in_flight").decrement(1.0);
    }
}

impl Stream for Receiving {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if !this.asked && matches!(this.memory, Memory::Waits(_)) && this.holds_chunks() {
                this.asked = true;
                return Poll::Ready(Some(Ok(Bytes::new())));
            }
            let end = match &mut this.memory {
                Memory::Ended => return Poll::Ready(None),
                Memory::Begins(begins) => match ready!(begins.as_mut().poll(cx)) {
                    Some((place, step)) => {
                        this.place = place;
                        this.memory = Memory::Has(step);
                        continue;
                    }
                    None => Some(Err(BodyError::Busy)),
                },
                Memory::Waits(waits) => match ready!(waits.as_mut().poll(cx)) {
                    Some(step) => {
                        this.memory = Memory::Has(step);
                        continue;
                    }
                    None => Some(Err(BodyError::Busy)),
                },
                Memory::Has(_) => match Pin::new(&mut this.body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        this.silent = Duration::ZERO;
                        match frame.into_data() {
                            Ok(data) if !data.is_empty() => {
                                this.asked = false;
                                return Poll::Ready(Some(Ok(this.counted(data))));
                            }
                            // Trailers say nothing here.
                            _ => continue,
                        }
                    }
                    Poll::Ready(Some(Err(error))) => Some(Err(broken(&error))),
                    Poll::Ready(None) => None,
                    Poll::Pending if this.stopping.as_mut().poll(cx).is_ready() => Some(Err(BodyError::Stopping)),
                    Poll::Pending => match this.stands(cx) {
                        Standing::Ends => Some(Err(BodyError::TooSlow)),
                        Standing::Writes if !this.asked => {
                            this.asked = true;
                            return Poll::Ready(Some(Ok(Bytes::new())));
                        }
                        Standing::Writes | Standing::Waits => return Poll::Pending,
                    },
                },
            };
            this.memory = Memory::Ended;
            this.place = None;
            this.member.ended();
            return Poll::Ready(end);
        }
    }
}

/// Is it the connection, or what came over it? hyper's decoder of chunks says so by the kind of error that it wraps:
/// `UnexpectedEof` where the end is missing, `InvalidInput` and `InvalidData` where there is something else.
fn broken(error: &axum::Error) -> BodyError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => BodyError::Garbled,
                _ => BodyError::Cut,
            };
        }
        cause = error.source();
    }
    BodyError::Cut
}

/// Reads a whole body of at most `limit` bytes for a tenant. An announced length is tested before a byte is read. The
/// memory is counted until the bytes are dropped.
///
/// # Errors
/// [`Refusal::TooLarge`] with `remedy`, [`Refusal::Incomplete`], [`Refusal::Busy`].
pub async fn read_all(
    body: Body,
    limit: u64,
    remedy: &'static str,
    timing: &BodyTiming,
    tenant: &TenantId,
) -> Result<Bytes, Refusal> {
    let too_large = || Refusal::TooLarge { what: "the request body", limit, remedy };
    let busy = || Refusal::Busy { retry_after: limits::BUSY_RETRY };
    let announced = body.size_hint().exact();
    if announced.is_some_and(|announced| announced > limit) {
        return Err(too_large());
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let most = announced.unwrap_or(limit);
    let turn = if announced.is_some_and(is_small) { Turn::Small } else { Turn::Begun };
    let member = timing.json.join(tenant);
    let mut stream = Receiving::new(body, timing, member.clone(), None, None);
    let mut whole: Vec<u8> = Vec::new();
    let mut lease: Option<Lease> = None;
    let mut size = 0u64;
    while let Some(chunk) = stream.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(BodyError::TooLong) => return Err(too_large()),
            Err(BodyError::Stopping) => return Err(Refusal::Unavailable),
            Err(BodyError::Busy) => return Err(busy()),
            Err(error @ (BodyError::Cut | BodyError::Garbled | BodyError::TooSlow)) => {
                return Err(Refusal::Incomplete { reason: format!("{error} after {size} bytes") });
            }
        };
        size = size.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if size > limit {
            return Err(too_large());
        }
        let has = lease.as_ref().map_or(0, Lease::bytes);
        if size > has {
            let wants = if most <= BUFFER_AT_ONCE { most } else { has.saturating_mul(2).min(most) }.max(size);
            let more = more(&member, wants - has, turn, timing.idle).await.ok_or_else(busy)?;
            match &mut lease {
                Some(lease) => lease.absorb(more),
                None => lease = Some(more),
            }
            let room = usize::try_from(wants).unwrap_or(usize::MAX);
            whole.reserve_exact(room.saturating_sub(whole.len()));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(match lease {
        Some(lease) => Bytes::from_owner(Counted { bytes: whole, _lease: lease }),
        None => Bytes::new(),
    })
}

/// Unpacks gzip to at most `limit` bytes for a tenant. The memory is counted until the bytes are dropped.
///
/// # Errors
/// [`Refusal::TooLarge`] with `remedy`, [`Refusal::Malformed`] for what is no gzip, [`Refusal::Busy`].
pub async fn gunzip(
    packed: Bytes,
    limit: u64,
    remedy: &'static str,
    timing: &BodyTiming,
    tenant: &TenantId,
) -> Result<Bytes, Refusal> {
    let busy = || Refusal::Busy { retry_after: limits::BUSY_RETRY };
    let member = timing.json.join(tenant);
    let mut decoder = flate2::read::MultiGzDecoder::new(&packed[..]);
    let mut piece = vec![0; GUNZIP_BYTES];
    let mut whole: Vec<u8> = Vec::new();
    let mut lease: Option<Lease> = None;
    let mut size = 0u64;
    loop {
        let count = match decoder.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(_) => return Err(Refusal::malformed("the body is not what its Content-Encoding says: no gzip")),
        };
        size = size.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if size > limit {
            return Err(Refusal::TooLarge { what: "the unpacked request body", limit, remedy });
        }
        let has = lease.as_ref().map_or(0, Lease::bytes);
        if size > has {
            let wants = has.saturating_mul(2).min(limit).max(size);
            let more = more(&member, wants - has, Turn::Begun, timing.idle).await.ok_or_else(busy)?;
            match &mut lease {
                Some(lease) => lease.absorb(more),
                None => lease = Some(more),
            }
            let room = usize::try_from(wants).unwrap_or(usize::MAX);
            whole.reserve_exact(room.saturating_sub(whole.len()));
        }
        whole.extend_from_slice(piece.get(..count).unwrap_or_default());
        // Unpacking is work: others have their turn between.
        tokio::task::yield_now().await;
    }
    Ok(match lease {
        Some(lease) => Bytes::from_owner(Counted { bytes: whole, _lease: lease }),
        None => Bytes::new(),
    })
}

#[cfg(test)]
mod tests;
