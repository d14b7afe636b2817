//! Connections: our own accept loop on hyper, and what happens around every request.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, TRANSFER_ENCODING, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS, X_XSS_PROTECTION,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tower::{Layer, Service, ServiceExt};
use tracing::Instrument;

use super::body::{close_after, expects_continue, lend};
use crate::clock::{Clock, random_uuid};
use crate::config::Config;
use crate::telemetry;
use crate::ticket::SESSION_PATH;

/// Connections up to which each gets a buffer of this size: a few fast streams gain by it, many would only cost memory.
/// An idle connection keeps what its last request has filled.
const BUFFERS: [(usize, usize); 2] = [(32, 512 * 1024), (128, 64 * 1024)];
/// The buffer of every other; a request head must fit.
const SMALL_BUFFER_BYTES: usize = HEAD_BYTES;
/// Longest request head.
const HEAD_BYTES: usize = 32 * 1024;
/// Longest path with its query.
const TARGET_BYTES: usize = 16 * 1024;
/// Pauses after an accept that failed for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How often metrics are folded together.
const UPKEEP: Duration = Duration::from_secs(5);

// ---------------------------------------------------------------------------------------------------- what is served

/// Where certificate and key are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// PEM file with the certificate chain.
    pub certificate: PathBuf,
    /// PEM file with its key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// The configured files, if there are any.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        let (certificate, key) = config.tls_certificate.clone().zip(config.tls_key.clone())?;
        Some(Self { certificate, key })
    }

    fn read(&self) -> io::Result<Arc<rustls::ServerConfig>> {
        let named = |path: &PathBuf, error: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect)
            .map_err(|error| named(&self.certificate, &error))?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| named(&self.key, &error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| named(&self.certificate, &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The certificate in use, which a SIGHUP replaces.
struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<rustls::ServerConfig>>,
}

impl Tls {
    fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn reload(&self) {
        match self.files.read() {
            Ok(config) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
                tracing::info!("the certificate was read again");
            }
            Err(error) => tracing::error!(%error, "the certificate can't be read again; the old one stays"),
        }
    }
}

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
            Some(files) => Some(Arc::new(Tls { current: RwLock::new(files.read()?), files })),
        };
        let tcp = TcpListener::bind(address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("can't listen on {address}: {error}")))?;
        Ok(Self { address: tcp.local_addr()?, tcp, tls })
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
                let handshake = tokio::time::timeout(self.header_time, tls.acceptor().accept(stream));
                let stop = async { self.stop.wait_for(|stop| *stop).await.is_ok() };
                let stream = tokio::select! {
                    stream = handshake => stream,
                    _ = stop => return,
                };
                match stream {
                    Ok(Ok(stream)) => self.http(stream, info).await,
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

/// A stream whose writing fails when the other end takes nothing for a while.
struct Attentive<S> {
    stream: S,
    patience: Duration,
    stands: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncWrite + Unpin> Attentive<S> {
    fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, stands: None }
    }

    fn watch<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stands = None;
            return written;
        }
        let patience = self.patience;
        let stands = self.stands.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match stands.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Attentive<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Attentive<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.watch(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

// ----------------------------------------------------------------------------------------------------- control plane

/// Runs what is behind it on another runtime, to its end, whatever becomes of the connection.
#[must_use]
pub fn on_control_plane(handle: &Handle) -> ControlPlane {
    ControlPlane { handle: handle.clone() }
}

/// The layer of [`on_control_plane`].
#[derive(Clone, Debug)]
pub struct ControlPlane {
    handle: Handle,
}

impl<S> Layer<S> for ControlPlane {
    type Service = OnControlPlane<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OnControlPlane { inner, handle: self.handle.clone() }
    }
}

/// The service of [`on_control_plane`].
#[derive(Clone, Debug)]
pub struct OnControlPlane<S> {
    inner: S,
    handle: Handle,
}

impl<S> Service<Request> for OnControlPlane<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let id = request.extensions().get::<RequestId>().map_or_else(String::new, |id| id.0.clone());
        let task = self.handle.spawn(self.inner.clone().oneshot(request).in_current_span());
        Box::pin(async move {
            match task.await {
                Ok(response) => response,
                Err(ended) => match ended.try_into_panic() {
                    // `wrap` answers it, as it answers every other.
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => {
                        Ok(problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the server is stopping", &id))
                    }
                },
            }
        })
    }
}

// --------------------------------------------------------------------------------------------------- every request

/// Puts around every route what every request gets: an id, bounds, answers for other origins, headers that keep
/// browsers safe, a log line and metrics; a panic becomes an answer, and a body that was not read is seen to.
/// A handler runs to its end even when its client goes away.
pub fn wrap(router: Router, options: &ServerOptions, clock: &Clock) -> Router {
    let around = Around { config: Arc::clone(&options.config), early: options.early, clock: clock.clone() };
    router.layer(axum::middleware::from_fn_with_state(around, entry))
}

#[derive(Clone)]
struct Around {
    config: Arc<Config>,
    early: EarlyEnvelope,
    clock: Clock,
}

async fn entry(State(around): State<Around>, request: Request, next: Next) -> Response {
    ToItsEnd(Some(Box::pin(around.run(request, next)))).await
}

/// A future that goes on by itself when nobody waits for it any more.
struct ToItsEnd(Option<Pin<Box<dyn Future<Output = Response> + Send>>>);

impl Future for ToItsEnd {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        let Some(future) = self.0.as_mut() else { return Poll::Pending };
        let polled = future.as_mut().poll(cx);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl Drop for ToItsEnd {
    fn drop(&mut self) {
        if let Some(future) = self.0.take()
            && !std::thread::panicking()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(future);
        }
    }
}

impl Around {
    async fn run(self, mut request: Request, next: Next) -> Response {
        let begun = self.clock.monotonic();
        let id = random_uuid().to_string();
        let span = tracing::info_span!("request", id);
        let seen = Seen {
            method: request.method().clone(),
            path: telemetry::redact_path(request.uri().path()),
            route: request
                .extensions()
                .get::<MatchedPath>()
                .map_or_else(|| String::from("none"), |route| route.as_str().to_owned()),
            info: request.extensions().get::<ConnectionInfo>().copied(),
            id,
            begun,
            clock: self.clock.clone(),
        };
        metrics::gauge!("landfall_http_requests_in_flight").increment(1.0);
        let expects = expects_continue(request.headers());
        // hyper drops a Content-Length beside a Transfer-Encoding unseen. Such a request ends its connection, so that
        // whatever another server took for the next request is never read as one.
        let chunked = request.headers().contains_key(TRANSFER_ENCODING);
        let origin = Cors::of(&self.config, request.headers());
        let early = bounds(&request)
            .map(|early| {
                let path = request.uri().path();
                (self.early)(path.strip_prefix(self.config.public_prefix()).unwrap_or(path), &early, &seen.id)
            })
            .or_else(|| preflight(&origin, &request, &seen.id));
        let (body, kept) = lend(std::mem::take(request.body_mut()));
        let mut response = if let Some(response) = early {
            drop(body);
            response
        } else {
            *request.body_mut() = body;
            request.extensions_mut().insert(RequestId(seen.id.clone()));
            let answered = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
            answered.unwrap_or_else(|panic| {
                span.in_scope(|| tracing::error!(panic = said(&*panic), "a handler panicked"));
                problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "an internal error occurred", &seen.id)
            })
        };
        kept.settle(expects, &mut response).await;
        let tls = seen.info.is_some_and(|info| info.tls);
        let headers = response.headers_mut();
        if chunked {
            close_after(headers);
        }
        if let Ok(id) = HeaderValue::from_str(&seen.id) {
            headers.insert(HeaderName::from_static("x-request-id"), id);
        }
        protect(headers, tls);
        origin.answer(headers);
        seen.watch(response)
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// The answer of no API in particular: RFC 9457 problem details.
#[must_use]
pub fn problem(status: StatusCode, kind: &str, detail: &str, request_id: &str) -> Response {
    let body = serde_json::json!({
        "type": format!("/problems/{kind}"),
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
        "request_id": request_id,
    });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

/// Requests that no handler should have to think about.
fn bounds(request: &Request) -> Option<Early> {
    let refuse = |status, kind, detail| Some(Early { status, kind, detail });
    let headers = request.headers();
    if request.uri().path_and_query().is_some_and(|target| target.as_str().len() > TARGET_BYTES) {
        return refuse(StatusCode::URI_TOO_LONG, "uri-too-long", "the path and its query are limited to 16384 bytes");
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if hosts.next().is_some() || authority.is_some_and(|a| host.is_some_and(|host| host.as_bytes() != a)) {
        return refuse(StatusCode::BAD_REQUEST, "ambiguous-host", "the request names more than one host");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return refuse(
            StatusCode::NOT_IMPLEMENTED,
            "transfer-coding",
            "the only transfer coding is `chunked`, given once",
        );
    }
    None
}

fn protect(headers: &mut HeaderMap, tls: bool) {
    // A handler that serves pages or strangers' files has said what its answer needs.
    let mut default = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    default(X_CONTENT_TYPE_OPTIONS, "nosniff");
    default(X_FRAME_OPTIONS, "DENY");
    default(REFERRER_POLICY, "no-referrer");
    default(CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'");
    default(X_XSS_PROTECTION, "0");
    if tls {
        default(STRICT_TRANSPORT_SECURITY, "max-age=31536000; includeSubDomains");
    }
}

// ------------------------------------------------------------------------------------------------------ other origins

/// Methods that scripts of other origins may use.
const CORS_METHODS: &str = "GET, HEAD, PUT, POST, PATCH, DELETE, OPTIONS";
/// Methods of resumable sessions.
const SESSION_METHODS: &str = "PUT, POST, DELETE, OPTIONS";
/// Headers of answers that they may read.
const CORS_EXPOSED: &str = "ETag, Location, Range, Content-Range, Content-Disposition, Retry-After, X-Request-Id, \
                            x-amz-request-id, x-amz-checksum-crc32c, x-amz-checksum-crc64nvme, x-amz-checksum-sha256, \
                            X-GUploader-UploadID, X-HTTP-Status-Code-Override";
/// Seconds for which a browser may remember a preflight.
const CORS_MAX_AGE: &str = "3600";

/// What a request's origin may see.
enum Cors {
    /// The request has no origin: no browser asks.
    Absent,
    /// The origin is not in the configuration.
    Unknown,
    /// Every origin may.
    Any,
    /// This one may.
    This(HeaderValue),
}

impl Cors {
    fn of(config: &Config, headers: &HeaderMap) -> Self {
        let Some(origin) = headers.get(ORIGIN) else { return Self::Absent };
        if config.cors_origins.iter().any(|pattern| pattern == "*") {
            return Self::Any;
        }
        let text = origin.to_str().unwrap_or_default();
        let known = config.cors_origins.iter().any(|pattern| match pattern.split_once('*') {
            None => pattern == text,
            Some((before, after)) => {
                text.len() >= before.len() + after.len() && text.starts_with(before) && text.ends_with(after)
            }
        });
        if known { Self::This(origin.clone()) } else { Self::Unknown }
    }

    fn answer(&self, headers: &mut HeaderMap) {
        headers.append(
            VARY,
            HeaderValue::from_static("Origin, Access-Control-Request-Headers, Access-Control-Request-Method"),
        );
        match self {
            Self::Absent | Self::Unknown => return,
            Self::Any => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
            Self::This(origin) => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(CORS_EXPOSED));
    }
}

/// The answer to a browser that asks before it sends; it needs no credential and looks at no signature.
fn preflight(origin: &Cors, request: &Request, id: &str) -> Option<Response> {
    let headers = request.headers();
    if *request.method() != Method::OPTIONS {
        return None;
    }
    let refuse = |status, detail| Some(problem(status, "cors", detail, id));
    let asked = headers.get(ACCESS_CONTROL_REQUEST_METHOD).and_then(|method| method.to_str().ok());
    let (Some(asked), false) = (asked, matches!(origin, Cors::Absent)) else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "OPTIONS needs the headers Origin and Access-Control-Request-Method, and is for browsers only",
        );
    };
    if matches!(origin, Cors::Unknown) || !CORS_METHODS.split(", ").any(|method| method == asked) {
        return refuse(
            StatusCode::FORBIDDEN,
            "this origin or method is not allowed; `cors_origins` in the configuration has the list",
        );
    }
    let mut response = Response::new(Body::empty());
    let mut methods = CORS_METHODS;
    // What is expected of the storages that our upload URLs stand for: S3 says 200, GCS says 204.
    if request.uri().path().contains(SESSION_PATH) {
        *response.status_mut() = StatusCode::NO_CONTENT;
        methods = SESSION_METHODS;
    }
    let out = response.headers_mut();
    out.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    out.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(CORS_MAX_AGE));
    let wanted = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter().filter_map(|value| value.to_str().ok());
    let names: Vec<String> = wanted
        .flat_map(|names| names.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .map(|name| name.as_str().to_owned())
        .collect();
    if let Ok(names) = HeaderValue::from_str(&names.join(", "))
        && !names.is_empty()
    {
        out.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    Some(response)
}

// ------------------------------------------------------------------------------------------------------- what is seen

/// What the log line says about a request.
struct Seen {
    method: Method,
    path: String,
    route: String,
    info: Option<ConnectionInfo>,
    id: String,
    begun: Duration,
    clock: Clock,
}

impl Seen {
    /// Writes the log line when the answer has gone out, or the client has.
    fn watch(self, response: Response) -> Response {
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

// ------------------------------------------------------------------------------------------------------- our own name

/// The base URL of this server as the client sees it, without a slash at its end: the configured one, or where the
/// request came in.
#[must_use]
pub fn origin(config: &Config, headers: &HeaderMap, info: &ConnectionInfo) -> String {
    if let Some(url) = &config.public_url {
        return url.clone();
    }
    let scheme = seen_scheme(config, headers, info);
    format!("{scheme}://{}{}", seen_host(config, headers, info), seen_prefix(config, headers, info))
}

/// The scheme that the client used, as far as a trusted proxy tells it.
#[must_use]
pub fn seen_scheme(config: &Config, headers: &HeaderMap, info: &ConnectionInfo) -> &'static str {
    let forwarded = if config.trusts(info.peer.ip()) { last(headers, "x-forwarded-proto") } else { None };
    match forwarded {
        Some("https") => "https",
        Some("http") => "http",
        _ if info.tls => "https",
        _ => "http",
    }
}

/// The path that a proxy takes off every request before it passes it on: the configured one, or what a trusted proxy
/// says; empty without one.
#[must_use]
pub fn seen_prefix<'a>(config: &'a Config, headers: &'a HeaderMap, info: &ConnectionInfo) -> &'a str {
    if config.public_url.is_some() {
        return config.public_prefix();
    }
    let forwarded = if config.trusts(info.peer.ip()) { last(headers, "x-forwarded-prefix") } else { None };
    forwarded.map(|prefix| prefix.trim_end_matches('/')).filter(|prefix| is_prefix(prefix)).unwrap_or_default()
}

/// The host that the client asked for, which is the one it signed.
#[must_use]
pub fn seen_host(config: &Config, headers: &HeaderMap, info: &ConnectionInfo) -> String {
    let forwarded = if config.trusts(info.peer.ip()) { last(headers, "x-forwarded-host") } else { None };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    match forwarded.filter(|host| is_host(host)).or(host.filter(|host| is_host(host))) {
        Some(host) => host.to_owned(),
        None => info.local.to_string(),
    }
}

/// The last value of a list: what the nearest proxy, the one that is believed, has said itself.
fn last<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    value.rsplit(',').next().map(str::trim)
}

/// A name, an IPv4 or a bracketed IPv6 address, and maybe a port.
fn is_host(text: &str) -> bool {
    let (name, rest) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (address, rest),
        Some(_) => return false,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit()),
        None => rest.is_empty(),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
    port && !name.is_empty() && text.len() <= 255 && name.bytes().all(plain)
}

fn is_prefix(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    text.len() <= 256
        && text.strip_prefix('/').is_some_and(|path| {
            path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain))
        })
}

#[cfg(test)]
mod tests;
