//! What a client sees, with real sockets and raw requests.

use axum::Extension;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::routing::{any, get, post, put};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_rustls::rustls;

use super::*;
use crate::clock::Clock;
use crate::http::body::{BodyTiming, read_all, receive};

struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Counts handlers that came to their end.
static FINISHED: AtomicUsize = AtomicUsize::new(0);

/// An answer that no socket buffers.
const LARGE: usize = 64 << 20;

fn quick() -> Config {
    Config {
        answer_idle_seconds: 1,
        header_seconds: 1,
        body_idle_seconds: 1,
        body_grace_seconds: 1,
        body_rate_bytes: 1000,
        stop_seconds: 5,
        cors_origins: vec!["https://*.example.com".into(), "http://localhost:3000".into()],
        ..Config::default()
    }
}

async fn start(config: Config) -> Server {
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), TlsFiles::of(&config));
    let listener = listener.await.expect("a port");
    let address = listener.address();
    let (stop, stopping) = watch::channel(false);
    let timing = BodyTiming::new(&config);
    let received = {
        let (timing, stopping) = (timing.clone(), stopping.clone());
        move |body: Body| async move {
            let mut stream = receive(body, &timing, &"t".into(), None, stopping);
            let mut size = 0;
            while let Some(chunk) = stream.next().await {
                match chunk {
                    Ok(chunk) => size += chunk.len(),
                    Err(error) => return (StatusCode::BAD_REQUEST, format!("{error:?} after {size}")),
                }
            }
            (StatusCode::OK, size.to_string())
        }
    };
    let json = move |body: Body| async move {
        match read_all(body, 1000, "send less", &timing, &"t".into()).await {
            Ok(body) => (StatusCode::OK, body.len().to_string()),
            Err(refusal) => (StatusCode::PAYLOAD_TOO_LARGE, refusal.to_string()),
        }
    };
    let spread = config.clone();
    let named = move |headers: HeaderMap, Extension(info): Extension<ConnectionInfo>| async move {
        origin(&spread, &headers, &info)
    };
    let slow = || async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        FINISHED.fetch_add(1, Ordering::SeqCst);
        "slow"
    };
    let planes = on_control_plane(&Handle::current());
    let router = Router::new()
        .route("/put", put(received))
        .route("/json", post(json).layer(planes.clone()))
        .route("/refuse", any(|| async { (StatusCode::FORBIDDEN, "no") }))
        .route("/origin", get(named))
        .route("/large", get(async || vec![7; LARGE]))
        .route("/slow", get(slow))
        .route("/slow-control", get(slow).layer(planes.clone()))
        .route("/id", get(|Extension(RequestId(id)): Extension<RequestId>| async move { id }))
        .route(
            "/panic",
            get(|| async {
                if true {
                    panic!("on purpose")
                }
            }),
        )
        .route(
            "/panic-control",
            get(|| async {
                if true {
                    panic!("on purpose")
                }
            })
            .layer(planes),
        );
    let options = ServerOptions::new(&config);
    let router = wrap(router, &options, &Clock::system());
    let task = tokio::spawn(serve(listener, router, options, stopping));
    Server { address, stop, task }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("a connection")
    }

    /// Sends this and reads until the server closes.
    async fn all(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_ref()).await.expect("sent");
        rest(&mut stream).await
    }

    async fn get(&self, path: &str, headers: &str) -> String {
        self.all(format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n", self.address)).await
    }
}

async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut text = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut text)).await;
    // A reset after the answer is fine: the answer is what counts.
    let _ = read.expect("the server closes in time");
    String::from_utf8_lossy(&text).into_owned()
}

/// One answer with a Content-Length, on a connection that lives on.
async fn one(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut buffer)).await;
        let n = read.expect("an answer in time").expect("readable");
        assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..n]);
        let so_far = String::from_utf8_lossy(&text).to_lowercase();
        if let Some((head, body)) = so_far.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).and_then(|l| l.split("\r\n").next()).unwrap_or("0");
            if body.len() >= length.parse().expect("a length") {
                return String::from_utf8_lossy(&text).into_owned();
            }
        }
    }
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then_some(value)
    })
}

// ------------------------------------------------------------------------------------------------- bodies and answers

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_body_does_not_cost_the_answer() {
    let server = start(quick()).await;
    // Larger than what sockets buffer, smaller than what is drained: the client sends all of it before it reads.
    let size = 40 << 20;
    let mut stream = server.connect().await;
    let head = format!("PUT /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let block = vec![7; 1 << 20];
    for _ in 0..40 {
        stream.write_all(&block).await.expect("the server goes on reading");
    }
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(header(&answer, "connection"), Some("close"));
    assert!(answer.ends_with("no"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_looks_sees_the_refusal_of_a_huge_body_at_once() {
    let server = start(quick()).await;
    let mut stream = server.connect().await;
    let head = format!("PUT /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 300 << 20);
    stream.write_all(head.as_bytes()).await.expect("sent");
    let (mut reading, mut writing) = stream.into_split();
    let sending = tokio::spawn(async move {
        let block = vec![7; 1 << 20];
        let mut sent = 0;
        while sent < 300 && writing.write_all(&block).await.is_ok() {
            sent += 1;
        }
        sent
    });
    let mut answer = vec![0; 4096];
    let n = reading.read(&mut answer).await.expect("the answer comes first");
    assert!(answer[..n].starts_with(b"HTTP/1.1 403"), "{}", String::from_utf8_lossy(&answer));
    let sent = sending.await.expect("the client ends");
    assert!(sent < 100, "{sent} MiB were taken of a body that is drained up to 64");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_refused_body_keeps_the_connection() {
    let server = start(quick()).await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        let request = format!("PUT /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n{}", "x".repeat(5000));
        stream.write_all(request.as_bytes()).await.expect("sent");
        let answer = one(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert_eq!(header(&answer, "connection"), None);
    }
    stream.write_all(b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await.expect("sent");
    assert!(one(&mut stream).await.ends_with("\r\n\r\n3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_sends_nothing_when_refused_and_is_told_to_go_on_otherwise() {
    let server = start(quick()).await;
    let refused = "PUT /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n";
    let answer = server.all(refused).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(!answer.contains("100 Continue"), "{answer}");
    assert_eq!(header(&answer, "connection"), Some("close"));

    let too_large = "POST /json HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n";
    let answer = server.all(too_large).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.ends_with("limited to 1000 bytes"), "{answer}");

    let mut stream = server.connect().await;
    let taken = b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(taken).await.expect("sent");
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.expect("the interim answer");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").await.expect("sent");
    assert!(one(&mut stream).await.ends_with("\r\n\r\n3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_bodies_are_bounded_however_they_are_sent() {
    let server = start(quick()).await;
    let post = |head: &str, body: &str| format!("POST /json HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{body}");
    let mut stream = server.connect().await;
    for size in [0, 1, 1000] {
        let request = post(&format!("Content-Length: {size}"), &"x".repeat(size));
        stream.write_all(request.as_bytes()).await.expect("sent");
        assert!(one(&mut stream).await.ends_with(&format!("\r\n\r\n{size}")));
    }
    let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
    let answer = server.all(post("Transfer-Encoding: chunked", &format!("{chunk}{chunk}0\r\n\r\n"))).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n1000"), "{answer}");
    let answer = server.all(post("Transfer-Encoding: chunked", &format!("{chunk}{chunk}1\r\nx\r\n0\r\n\r\n"))).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

// ------------------------------------------------------------------------------------------------------------- pace

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_too_slowly_is_cut() {
    let server = start(quick()).await;
    let head = async {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /id HTTP/1.1\r\nHost: a\r\nX-Slow: ").await.expect("sent");
        let _ = rest(&mut stream).await;
    };
    let still = async {
        let answer = server.all("PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await;
        assert!(answer.contains("TooSlow after 3"), "{answer}");
        assert_eq!(header(&answer, "connection"), Some("close"));
    };
    let trickle = async {
        let mut stream = server.connect().await;
        stream.write_all(b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n").await.expect("sent");
        let (mut reading, mut writing) = stream.into_split();
        let drip = tokio::spawn(async move {
            while writing.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let answer = rest(&mut reading).await;
        assert!(answer.contains("TooSlow after"), "{answer}");
        drip.await.expect("cut");
    };
    tokio::join!(head, still, trickle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_is_not_the_clients_fault() {
    let timing = BodyTiming::new(&quick());
    let chunks = futures_util::stream::iter((0..3).map(|_| Ok::<_, io::Error>(Bytes::from_static(b"abc"))));
    let mut stream = receive(Body::from_stream(chunks), &timing, &"t".into(), None, watch::channel(false).1);
    for _ in 0..3 {
        assert_eq!(stream.next().await, Some(Ok(Bytes::from_static(b"abc"))));
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    assert_eq!(stream.next().await, None);
    assert_eq!(stream.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_body_is_told_from_a_whole_one() {
    let server = start(quick()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await.expect("sent");
    stream.shutdown().await.expect("half closed");
    let answer = rest(&mut stream).await;
    assert!(answer.is_empty() || answer.contains("Cut after 3"), "{answer}");
    let answer =
        server.all("PUT /put HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n").await;
    assert!(answer.contains("Garbled after 3"), "{answer}");
}

// ---------------------------------------------------------------------------------------------------------- smuggling

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled_past_the_framing() {
    let server = start(quick()).await;
    let smuggled = "GET /id HTTP/1.1\r\nHost: a\r\n\r\n";
    for head in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked", 5 + smuggled.len()),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {}", 5 + smuggled.len()),
    ] {
        let answer = server.all(format!("PUT /put HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n0\r\n\r\n{smuggled}")).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head}: {answer}");
        assert_eq!(header(&answer, "connection"), Some("close"), "{head}");
    }
    for (head, statuses) in [
        ("Content-Length: 3\r\nContent-Length: 4", &["400"][..]),
        ("Content-Length: +3", &["400"]),
        ("Content-Length: 3, 3", &["400"]),
        ("Content-Length: -1", &["400"]),
        ("Transfer-Encoding: identity", &["400", "501"]),
        ("Transfer-Encoding: gzip, chunked", &["501"]),
        ("Transfer-Encoding: chunked, chunked", &["501"]),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", &["501"]),
        ("Transfer-Encoding: xchunked", &["400", "501"]),
        ("Transfer-Encoding : chunked", &["400"]),
        ("Host: b\r\nContent-Length: 3", &["400"]),
        ("X: a\r\n b", &["400"]),
    ] {
        let answer = server.all(format!("PUT /put HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\nabc{smuggled}")).await;
        assert!(statuses.iter().any(|s| answer.starts_with(&format!("HTTP/1.1 {s}"))), "{head}: {answer}");
        let first_only = !answer.contains("HTTP/1.1 200");
        assert!(first_only || head.starts_with("Host"), "{head}: {answer}");
    }
    let answer = server.all("GET http://b/id HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("ambiguous-host"), "{answer}");
    let answer = server.all("PUT /put HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.") && answer.contains(" 400 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offered_upgrade_is_ignored() {
    let server = start(quick()).await;
    let mut stream = server.connect().await;
    for _ in 0..2 {
        let offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAA\r\n";
        let request = format!("PUT /put HTTP/1.1\r\nHost: a\r\n{offer}Content-Length: 3\r\n\r\nabc");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let answer = one(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n3"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_heads_are_bounded() {
    let server = start(quick()).await;
    let answer = server.get(&format!("/id?{}", "x".repeat(17_000)), "").await;
    assert!(answer.starts_with("HTTP/1.1 414"), "{answer}");
    let answer = server.get("/id", &format!("X-Large: {}\r\n", "x".repeat(40_000))).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many: String = (0..150).map(|n| format!("X-{n}: 1\r\n")).collect();
    let answer = server.get("/id", &many).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

// ------------------------------------------------------------------------------------------------------- every answer

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_an_id_of_ours_and_safe_headers() {
    let server = start(quick()).await;
    let mut ids = std::collections::HashSet::new();
    for (path, status) in [("/id", "200"), ("/none", "404"), ("/refuse", "403"), ("/panic", "500"), ("/put", "405")] {
        let answer = server.get(path, "X-Request-Id: mine\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        let id = header(&answer, "x-request-id").expect("an id").to_owned();
        assert!(uuid::Uuid::try_parse(&id).is_ok(), "{id}");
        if path == "/id" || path == "/panic" {
            assert!(answer.contains(&id) && answer.rsplit("\r\n\r\n").next().expect("a body").contains(&id));
        }
        assert!(ids.insert(id));
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("x-xss-protection", "0"),
        ] {
            assert_eq!(header(&answer, name), Some(value), "{path}");
        }
        assert_eq!(header(&answer, "strict-transport-security"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_an_answer_and_the_server_lives() {
    let server = start(quick()).await;
    for path in ["/panic", "/panic-control"] {
        let answer = server.get(path, "").await;
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
        assert_eq!(header(&answer, "content-type"), Some("application/problem+json"));
        assert!(!answer.contains("on purpose"), "{answer}");
    }
    assert!(server.get("/id", "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_ends_even_when_its_client_goes() {
    let server = start(quick()).await;
    let before = FINISHED.load(Ordering::SeqCst);
    for path in ["/slow", "/slow-control"] {
        let mut stream = server.connect().await;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(FINISHED.load(Ordering::SeqCst) >= before + 2);
}

// --------------------------------------------------------------------------------------------------- other origins

#[tokio::test(flavor = "multi_thread")]
async fn browsers_of_known_origins_may_ask_and_read() {
    let server = start(quick()).await;
    let ask = |origin: &str, method: &str| {
        format!(
            "OPTIONS /put?X-Amz-Signature=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nOrigin: {origin}\r\n\
             Access-Control-Request-Method: {method}\r\n\
             Access-Control-Request-Headers: Content-Type, X-Amz-Server-Side-Encryption\r\n\r\n"
        )
    };
    let vary = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method";
    for origin in ["https://app.example.com", "http://localhost:3000"] {
        let answer = server.all(ask(origin, "PUT")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(header(&answer, "access-control-allow-origin"), Some(origin));
        assert_eq!(header(&answer, "access-control-allow-credentials"), Some("true"));
        let headers = header(&answer, "access-control-allow-headers");
        assert_eq!(headers, Some("content-type, x-amz-server-side-encryption"));
        assert!(header(&answer, "access-control-allow-methods").expect("methods").contains("PUT"));
        assert_eq!(header(&answer, "vary"), Some(vary));
    }
    for (origin, method) in [
        ("https://example.org", "PUT"),
        ("https://.example.com.evil.org", "PUT"),
        ("http://localhost:3000", "TRACE"),
        ("null", "PUT"),
    ] {
        assert!(server.all(ask(origin, method)).await.starts_with("HTTP/1.1 403"), "{origin} {method}");
    }
    let bare = server.all("OPTIONS /put HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(bare.starts_with("HTTP/1.1 400"), "{bare}");

    for path in ["/id", "/refuse", "/none"] {
        let answer = server.get(path, "Origin: https://app.example.com\r\n").await;
        assert_eq!(header(&answer, "access-control-allow-origin"), Some("https://app.example.com"), "{path}");
        assert_eq!(header(&answer, "vary"), Some(vary), "{path}");
        assert!(header(&answer, "access-control-expose-headers").expect("exposed").contains("ETag"), "{path}");
    }
    let answer = server.get("/id", "Origin: https://example.org\r\n").await;
    assert_eq!(header(&answer, "access-control-allow-origin"), None);
    assert_eq!(header(&answer, "vary"), Some(vary));

    let open = start(Config { cors_origins: vec!["*".into()], ..quick() }).await;
    let answer = open.all(ask("https://example.org", "PUT")).await;
    assert_eq!(header(&answer, "access-control-allow-origin"), Some("*"));
    assert_eq!(header(&answer, "access-control-allow-credentials"), None);
}

// ------------------------------------------------------------------------------------------------------- our own name

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_what_the_client_says_and_proxies_only_when_trusted() {
    let server = start(quick()).await;
    let forged = "X-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /evil\r\n";
    let answer = server.get("/origin", forged).await;
    assert!(answer.ends_with(&format!("\r\n\r\nhttp://{}", server.address)), "{answer}");
    let answer = server.all("GET /origin HTTP/1.0\r\n\r\n").await;
    assert!(answer.ends_with(&format!("\r\n\r\nhttp://{}", server.address)), "{answer}");

    let behind = start(Config { trusted_proxies: vec!["127.0.0.0/8".into()], ..quick() }).await;
    let answer = behind.get("/origin", forged).await;
    assert!(answer.ends_with("\r\n\r\nhttps://evil.example/evil"), "{answer}");

    let public = start(Config { public_url: Some("https://files.example.com/up".into()), ..quick() }).await;
    let answer = public.get("/origin", forged).await;
    assert!(answer.ends_with("\r\n\r\nhttps://files.example.com/up"), "{answer}");
}

// --------------------------------------------------------------------------------------------------- connections

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_closes_what_is_idle_and_lets_a_body_end() {
    let server = start(Config { header_seconds: 60, body_idle_seconds: 60, ..quick() }).await;
    let mut fresh = server.connect().await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /id HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sent");
    assert!(one(&mut idle).await.starts_with("HTTP/1.1 200"));
    let mut sending = server.connect().await;
    sending.write_all(b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc").await.expect("sent");
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop.send_replace(true);
    assert_eq!(rest(&mut idle).await, "");
    assert_eq!(rest(&mut fresh).await, "");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!server.task.is_finished());
    assert!(TcpStream::connect(server.address).await.is_err(), "nothing new is accepted");
    sending.write_all(b"def").await.expect("sent");
    let answer = rest(&mut sending).await;
    assert!(answer.ends_with("\r\n\r\n6"), "{answer}");
    tokio::time::timeout(Duration::from_secs(1), server.task).await.expect("it ends").expect("without a panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_ever() {
    let server = start(Config { stop_seconds: 1, body_idle_seconds: 60, body_grace_seconds: 60, ..quick() }).await;
    let mut sending = server.connect().await;
    sending.write_all(b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc").await.expect("sent");
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop.send_replace(true);
    let answer = rest(&mut sending).await;
    assert!(answer.contains("Stopping after 3"), "{answer}");
    tokio::time::timeout(Duration::from_secs(3), server.task).await.expect("it ends").expect("without a panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_above_the_cap_wait() {
    let server = start(Config { connections_max: 2, header_seconds: 1, ..quick() }).await;
    let (mut one_open, _two_open) = (server.connect().await, server.connect().await);
    one_open.write_all(b"GET /id HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sent");
    assert!(one(&mut one_open).await.starts_with("HTTP/1.1 200"));
    let third = server.get("/id", "");
    tokio::pin!(third);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut third).await.is_err(), "it waits");
    assert!(third.await.starts_with("HTTP/1.1 200"), "the idle ones had to go");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_cut_off_and_one_that_pauses_is_not() {
    let server = start(quick()).await;
    let ask = b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut stream = server.connect().await;
    stream.write_all(ask).await.expect("sent");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(rest(&mut stream).await.len() < LARGE, "what the sockets had buffered");

    let server = start(Config { answer_idle_seconds: 60, ..quick() }).await;
    let mut stream = server.connect().await;
    stream.write_all(ask).await.expect("sent");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(rest(&mut stream).await.len() > LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_from_files_speaks_http_1_1_only() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = Config {
        tls_certificate: Some(directory.path().join("c.pem")),
        tls_key: Some(directory.path().join("k.pem")),
        ..quick()
    };
    let missing = Listener::bind(config.listen, TlsFiles::of(&config)).await.expect_err("no files").to_string();
    assert!(missing.contains("c.pem"), "{missing}");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    std::fs::write(directory.path().join("c.pem"), made.cert.pem()).expect("written");
    std::fs::write(directory.path().join("k.pem"), made.signing_key.serialize_pem()).expect("written");
    let server = start(config).await;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let name = rustls_pki_types::ServerName::try_from("localhost").expect("a name");
    let mut stream = connector.connect(name, server.connect().await).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    stream.write_all(b"GET /origin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.expect("sent");
    let answer = rest(&mut stream).await;
    assert!(answer.ends_with("\r\n\r\nhttps://localhost"), "{answer}");
    assert!(header(&answer, "strict-transport-security").is_some());

    let plain = server.get("/id", "").await;
    assert!(!plain.contains("200"), "{plain}");
}

#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("one thread").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_line_says_what_happened_and_keeps_secrets() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _captured = tracing::subscriber::set_default(subscriber);
    let router = Router::new().route("/put/{session}", put(|| async { (StatusCode::FORBIDDEN, "no") }));
    let router = wrap(router, &ServerOptions::new(&quick()), &Clock::system());
    let request = hyper::Request::put("/put/abc?X-Amz-Signature=SECRET1")
        .header("authorization", "Bearer SECRET2")
        .header("x-api-key", "SECRET3")
        .body(Body::from("SECRET4"))
        .expect("a request");
    let response = router.oneshot(request).await.expect("an answer");
    let id = response.headers()["x-request-id"].to_str().expect("text").to_owned();
    let sent = axum::body::to_bytes(response.into_body(), 100).await.expect("a body");
    assert_eq!(&sent[..], b"no");
    let text = String::from_utf8(lines.0.lock().expect("one thread").clone()).expect("text");
    assert!(!text.contains("SECRET"), "{text}");
    let line: serde_json::Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["method"], "PUT");
    assert_eq!(line["path"], "/put/abc");
    assert_eq!(line["route"], "/put/{session}");
    assert_eq!(line["status"], 403);
    assert_eq!(line["bytes"], 2);
    assert_eq!(line["request_id"], id.as_str());
}
