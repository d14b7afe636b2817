//! Connections: our own accept loop on hyper, and what happens around every request.

mod around;
mod attentive;
mod cors;
mod origin;
mod plane;
mod seen;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

pub use self::around::{problem, wrap};
use self::attentive::Attentive;
pub use self::cors::page;
pub use self::origin::{origin, seen_host, seen_prefix, seen_scheme};
pub use self::plane::{ControlPlane, OnControlPlane, on_control_plane};
use self::tls::Tls;
pub use self::tls::{Chain, Examined, Shown, TlsFiles};
use crate::config::Config;
use crate::telemetry;

/// Connections up to which each gets a buffer of this size: a few fast streams gain by it, many would only cost memory.
/// An idle connection keeps what its last request has filled.
const BUFFERS: [(usize, usize); 2] = [(32, 512 * 1024), (128, 64 * 1024)];
/// The buffer of every other; a request head must fit.
const SMALL_BUFFER_BYTES: usize = HEAD_BYTES;
/// Longest request head.
const HEAD_BYTES: usize = 32 * 1024;
/// Pauses after an accept that failed for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How often metrics are folded together.
const UPKEEP: Duration = Duration::from_secs(5);

// ---------------------------------------------------------------------------------------------------- what is served

/// A bound port.
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("address", &self.address).field("tls", &self.tls.is_some()).finish()
    }
}

impl Listener {
    /// Reads the certificate, if there is one, and binds the port.
    ///
    /// # Errors
    /// The port can't be bound, or a file can't be read; the message names it.
    pub async fn bind(address: SocketAddr, tls: Option<TlsFiles>) -> io::Result<Self> {
        let tls = match tls {
            None => None,
            Some(files) => Some(Tls::of(files)?),
        };
        Self::bind_with(address, tls).await
    }

    /// Binds the port for TLS with a certificate that is in no file.
    ///
    /// # Errors
    /// The port can't be bound.
    pub async fn bind_showing(address: SocketAddr, shown: Arc<Shown>) -> io::Result<Self> {
        Self::bind_with(address, Some(Tls::Shown(shown))).await
    }

    async fn bind_with(address: SocketAddr, tls: Option<Tls>) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        Ok(Self { address: tcp.local_addr()?, tcp, tls: tls.map(Arc::new) })
    }

    /// Where it listens, with the port that was given when none was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Why a request is refused before any API sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Early {
    /// The status.
    pub status: StatusCode,
    /// A stable word, such as `uri-too-long`.
    pub kind: &'static str,
    /// One sentence.
    pub detail: &'static str,
}

/// How such a refusal is told: the path, which says whose client asks, the refusal, and the request's id.
pub type EarlyEnvelope = fn(&str, &Early, &str) -> Response;

impl Early {
    /// As problem details.
    #[must_use]
    pub fn problem(&self, request_id: &str) -> Response {
        problem(self.status, self.kind, self.detail, request_id)
    }
}

/// What [`serve`] and [`wrap`] need to know.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The configuration.
    pub config: Arc<Config>,
    /// The shape of what is refused before any API sees it.
    pub early: EarlyEnvelope,
}

impl ServerOptions {
    /// From a valid configuration, with a shape of no API in particular for early refusals.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { config: Arc::new(config.clone()), early: |_, early, id| early.problem(id) }
    }
}

/// The two runtimes: bytes are moved on one, everything else happens on the other.
#[derive(Clone, Debug)]
pub struct Planes {
    /// Connections and the bytes on them.
    pub data: Handle,
    /// JSON handlers and the processor.
    pub control: Handle,
}

/// Which connection a request came on: an extension of every request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionInfo {
    /// The other end.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// Is it TLS up to us?
    pub tls: bool,
}

/// The request's id: an extension of every request, and its answer's `x-request-id`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestId(pub String);

// ------------------------------------------------------------------------------------------------------- connections

/// Serves until told to stop, and then until every connection has ended or the time for that is over: idle connections
/// close at once, running requests may end. Connections run on the runtime that this is called on.
pub async fn serve(listener: Listener, router: Router, options: ServerOptions, mut stop: watch::Receiver<bool>) {
    let Listener { tcp, tls, .. } = listener;
    let config = &options.config;
    let most = u32::try_from(config.connections_max).unwrap_or(u32::MAX);
    let slots = Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS)));
    let open = Arc::new(AtomicUsize::new(0));
    let (cut, cut_receiver) = watch::channel(false);
    let header_time = Duration::from_secs(config.header_seconds);
    let answer_time = Duration::from_secs(config.answer_idle_seconds);
    let mut hangups = tls.as_ref().and_then(|_| signal(SignalKind::hangup()).ok());
    let mut upkeep = tokio::time::interval(UPKEEP);
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            () = hangup(&mut hangups) => {
                if let Some(tls) = &tls {
                    tls.reload();
                }
                continue;
            }
            _ = upkeep.tick() => {
                telemetry::upkeep();
                continue;
            }
            // At the cap nothing is accepted: new connections wait in the system's queue, which is bounded.
            accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                tcp.accept().await.map(|(stream, peer)| (stream, peer, slot))
            } => accepted,
        };
        let (stream, peer, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !of_one_connection(&error) {
                    tracing::error!(%error, "can't accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let connection = Connection {
            router: router.clone(),
            buffer: buffer(open.fetch_add(1, Ordering::Relaxed)),
            header_time,
            answer_time,
            stop: stop.clone(),
            cut: cut_receiver.clone(),
        };
        let (tls, open) = (tls.clone(), Arc::clone(&open));
        tokio::spawn(async move {
            metrics::gauge!("landfall_connections").increment(1.0);
            connection.run(stream, peer, tls).await;
            metrics::gauge!("landfall_connections").decrement(1.0);
            open.fetch_sub(1, Ordering::Relaxed);
            drop(slot);
        });
    }
    drop(tcp);
    let grace = Duration::from_secs(config.stop_seconds);
    if tokio::time::timeout(grace, slots.acquire_many(most)).await.is_err() {
        tracing::warn!(connections = open.load(Ordering::Relaxed), "cutting what has not ended in time");
        cut.send_replace(true);
        let _ = tokio::time::timeout(Duration::from_secs(1), slots.acquire_many(most)).await;
    }
}

async fn hangup(signals: &mut Option<Signal>) {
    match signals {
        Some(signals) => {
            signals.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Did only this one connection fail, so that the next may be accepted at once?
fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// The buffer of a connection, with so many open before it.
fn buffer(open: usize) -> usize {
    BUFFERS.iter().find(|(below, _)| open < *below).map_or(SMALL_BUFFER_BYTES, |(_, bytes)| *bytes)
}

struct Connection {
    router: Router,
    buffer: usize,
    header_time: Duration,
    answer_time: Duration,
    stop: watch::Receiver<bool>,
    cut: watch::Receiver<bool>,
}

impl Connection {
    async fn run(mut self, stream: TcpStream, peer: SocketAddr, tls: Option<Arc<Tls>>) {
        let Ok(local) = stream.local_addr() else { return };
        // Answers are small and written whole.
        let _ = stream.set_nodelay(true);
        let info = ConnectionInfo { peer, local, tls: tls.is_some() };
        let stream = Attentive::new(stream, self.answer_time);
        match tls {
            None => self.http(stream, info).await,
            Some(tls) => {
                let handshake = tokio::time::timeout(self.header_time, tls.accept(stream));
                let stop = async { self.stop.wait_for(|stop| *stop).await.is_ok() };
                let stream = tokio::select! {
                    stream = handshake => stream,
                    _ = stop => return,
                };
                match stream {
                    Ok(Ok(Some(stream))) => self.http(stream, info).await,
                    Ok(Ok(None)) => {}
                    Ok(Err(error)) => tracing::debug!(%error, %peer, "the TLS handshake failed"),
                    Err(_) => tracing::debug!(%peer, "the TLS handshake took too long"),
                }
            }
        }
    }

    async fn http(mut self, stream: impl AsyncRead + AsyncWrite + Unpin, info: ConnectionInfo) {
        let router = self.router;
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(info);
            router.clone().oneshot(request)
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_time)
            .max_header_size(HEAD_BYTES)
            .max_buf_size(self.buffer);
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, peer = %info.peer, "a connection ended with an error");
                    }
                    return;
                }
                _ = self.stop.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = self.cut.wait_for(|cut| *cut) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
