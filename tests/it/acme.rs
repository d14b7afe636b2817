//! Certificates that the server orders by ACME, from a real authority.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use landfall::config::Config;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsConnector, rustls};

use crate::harness::{Server, program, storage};
use crate::pebble::Pebble;
use crate::postgres::port;
use crate::process::Guarded;

const NAMES: [&str; 2] = ["uploads.example.com", "files.example.com"];
const DAY: Duration = Duration::from_secs(24 * 3600);
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
const TRIES: usize = 1_500;
const PAUSE: Duration = Duration::from_millis(40);

/// A handshake with whoever listens there, who has to have a certificate of this root for this name.
async fn handshake(
    address: SocketAddr,
    name: &str,
    root: &[u8],
    protocol: &str,
) -> Result<TlsStream<TcpStream>, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| error.to_string())
}

/// The certificate that is shown there.
async fn shown(address: SocketAddr, name: &str, root: &[u8]) -> Result<Vec<u8>, String> {
    let stream = handshake(address, name, root, "http/1.1").await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
}

/// The certificate that is shown there once one is that differs from another.
async fn shown_after(address: SocketAddr, root: &[u8], before: &[u8], authority: &Pebble) -> Vec<u8> {
    let mut last = Ok(Vec::new());
    for _ in 0..TRIES {
        last = shown(address, NAMES[0], root).await;
        match last {
            Ok(certificate) if certificate != before => return certificate,
            Ok(_) | Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    panic!("no certificate comes: {last:?}\n{}", authority.log());
}

/// Asks for a path on a connection that stays open; the status line.
async fn asked(stream: &mut TlsStream<TcpStream>, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", NAMES[0]);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok\n") && !answer.ends_with(b"ready\n") {
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes).await.unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&bytes[..read]);
    }
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

/// What makes a server order certificates of this authority.
fn ordering(config: &mut Config, authority: &Pebble, port: u16) {
    config.acme_domains = NAMES.map(str::to_owned).to_vec();
    config.acme_terms_agreed = true;
    config.acme_contact = Some(String::from("ops@example.com"));
    config.acme_directory = authority.directory();
    config.acme_ca = Some(authority.trusted());
    config.listen = SocketAddr::from(([127, 0, 0, 1], port));
    config.admin_listen = Some(SocketAddr::from(([127, 0, 0, 1], port::free())));
}

/// An authority, and a server that has a certificate of it: that, and the authority's root.
async fn started() -> (Pebble, Server, Vec<u8>, Vec<u8>) {
    let (mut authority, port) = (Pebble::planned(), port::free());
    authority.run(port, LIFE).await;
    let server = Server::start_with(|config| ordering(config, &authority, port)).await;
    let root = authority.root().await;
    let certificate = shown_after(server.address, &root, &[], &authority).await;
    (authority, server, root, certificate)
}

/// A line of the metrics.
async fn metric(server: &Server, name: &str) -> f64 {
    let url = format!("http://{}/metrics", server.config.admin_listen.unwrap());
    let text = server.bare("GET", &url).send().await.expect(200).text();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Long enough for the keeper to have looked several times.
async fn some_turns() {
    tokio::time::sleep(Duration::from_secs(7)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_orders_a_certificate_and_a_restart_keeps_it() {
    let (mut authority, mut server, root, certificate) = started().await;
    for name in NAMES {
        assert!(shown(server.address, name, &root).await.as_ref() == Ok(&certificate), "one for both names");
    }
    assert!(shown(server.address, "other.example.com", &root).await.unwrap_err().contains("not valid for name"));
    let mut stream = handshake(server.address, NAMES[1], &root, "http/1.1").await.unwrap();
    assert_eq!(asked(&mut stream, "/readyz").await, "HTTP/1.1 200 OK");
    // Nothing is examined any more, whoever asks.
    let refused = handshake(server.address, NAMES[0], &root, "acme-tls/1").await.unwrap_err();
    assert!(refused.contains("AccessDenied"), "{refused}");
    let metric = metric(&server, "landfall_certificate_expires_seconds").await;
    assert!(metric > 0.0 && metric <= LIFE.as_secs_f64(), "{metric}");

    // Whether the authority is there does not matter.
    server.restart_after(|| authority.stop()).await;
    assert!(shown(server.address, NAMES[0], &root).await.as_ref() == Ok(&certificate), "at once");
    let orders = |log: &str| log.matches("Issued certificate").count();
    assert_eq!(orders(&authority.log()), 1, "{}", authority.log());
    authority.run(server.address.port(), LIFE).await;
    some_turns().await;
    assert!(shown(server.address, NAMES[0], &root).await == Ok(certificate));
    assert_eq!(orders(&authority.log()), 1, "{}", authority.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_and_connections_go_on() {
    let (authority, server, root, certificate) = started().await;
    let mut stream = handshake(server.address, NAMES[0], &root, "http/1.1").await.unwrap();
    assert_eq!(asked(&mut stream, "/healthz").await, "HTTP/1.1 200 OK");
    server.clock.advance(DAY * 58);
    some_turns().await;
    assert!(shown(server.address, NAMES[0], &root).await.as_ref() == Ok(&certificate), "it is not due yet");
    assert_eq!(asked(&mut stream, "/healthz").await, "HTTP/1.1 200 OK");
    server.clock.advance(DAY * 4);
    let renewed = shown_after(server.address, &root, &certificate, &authority).await;
    assert_eq!(asked(&mut stream, "/healthz").await, "HTTP/1.1 200 OK", "the old connection");
    // By the server's clock, which is wrong, the new one is due again: that is no reason to order one after the other.
    some_turns().await;
    assert!(shown(server.address, NAMES[0], &root).await.as_ref() == Ok(&renewed));
    server.clock.advance(Duration::from_secs(200));
    shown_after(server.address, &root, &renewed, &authority).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_heeded_that_wants_a_certificate_renewed() {
    let (mut authority, server, root, certificate) = started().await;
    // It is asked at once, and has no special wish.
    some_turns().await;
    authority.wants(&certificate, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z").await;
    some_turns().await;
    assert!(shown(server.address, NAMES[0], &root).await.as_ref() == Ok(&certificate), "it was asked a moment ago");
    server.clock.advance(Duration::from_secs(7 * 3600));
    let renewed = shown_after(server.address, &root, &certificate, &authority).await;
    some_turns().await;
    assert!(shown(server.address, NAMES[0], &root).await.as_ref() == Ok(&renewed), "once");

    // One that has lost its memory knows neither account nor certificate.
    authority.run(server.address.port(), LIFE).await;
    let root = authority.root().await;
    server.clock.advance(DAY * 62);
    shown_after(server.address, &root, &[], &authority).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_no_authority() {
    let (mut authority, port) = (Pebble::planned(), port::free());
    let server = Server::start_with(|config| ordering(config, &authority, port)).await;
    // Any root will do: nothing is shown.
    let root = std::fs::read(authority.trusted()).unwrap();
    let refused = shown(server.address, NAMES[0], &root).await.unwrap_err();
    assert!(refused.contains("AccessDenied"), "{refused}");
    let health = format!("http://{}/readyz", server.config.admin_listen.unwrap());
    assert_eq!(server.bare("GET", &health).send().await.expect(200).text(), "ready\n");
    some_turns().await;
    authority.run(port, LIFE).await;
    some_turns().await;
    let root = authority.root().await;
    let refused = shown(server.address, NAMES[0], &root).await.unwrap_err();
    assert!(refused.contains("AccessDenied"), "a failed order is not tried again at once: {refused}");
    server.clock.advance(Duration::from_secs(200));
    shown_after(server.address, &root, &[], &authority).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_process_answers_the_examiner_and_shows_the_certificate() {
    let (mut authority, port) = (Pebble::planned(), port::free());
    let one = Server::start_beyond_one_machine_with(|config| {
        ordering(config, &authority, port);
        config.admin_listen = None;
    })
    .await;
    let other = one.another().await;
    // The one that leads orders; the examiner is sent to the other.
    authority.run(other.address.port(), LIFE).await;
    one.clock.advance(Duration::from_secs(200));
    let root = authority.root().await;
    let certificate = shown_after(one.address, &root, &[], &authority).await;
    assert!(shown_after(other.address, &root, &[], &authority).await == certificate);
    some_turns().await;
    assert_eq!(authority.log().matches("Issued certificate").count(), 1, "{}", authority.log());
    // Who is left leads.
    let clock = one.clock.clone();
    one.stopped().await;
    clock.advance(DAY * 62);
    shown_after(other.address, &root, &certificate, &authority).await;
}

/// The built binary.
struct Binary {
    _child: Guarded,
    log: PathBuf,
}

impl Binary {
    fn start(data: &Path, port: u16, fields: &[(&str, &str)]) -> Self {
        let log = data.with_extension(format!("log-{}", landfall::clock::random_uuid()));
        let out = File::create(&log).unwrap();
        let mut command = program(data);
        command.args(["serve", "--data"]).arg(data).arg("--listen").arg(format!("127.0.0.1:{port}"));
        command.envs(fields.iter().copied()).stdout(out.try_clone().unwrap()).stderr(out).stdin(Stdio::null());
        Self { _child: Guarded(command.spawn().unwrap()), log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has said this; all that it said.
    async fn says(&self, what: &str) -> String {
        for _ in 0..TRIES {
            if self.said().contains(what) {
                return self.said();
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("it does not say {what}: {}", self.said());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_authority_refuses_is_said_and_no_secret_is() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (mut authority, port) = (Pebble::planned(), port::free());
    authority.run(port, LIFE).await;
    let (directory, roots) = (authority.directory(), authority.trusted());
    let fields = |domains: &'static str| {
        [
            ("LANDFALL_ACME_DOMAINS", domains),
            ("LANDFALL_ACME_TERMS_AGREED", "true"),
            ("LANDFALL_ACME_DIRECTORY", directory.as_str()),
            ("LANDFALL_ACME_CA", roots.to_str().unwrap()),
        ]
    };
    let mut said = String::new();
    {
        let binary = Binary::start(&data, port, &fields("blocked.example.com"));
        said += &binary.says("no certificate was issued").await;
        assert!(said.contains("there is no certificate yet: TLS handshakes fail"), "{said}");
        assert!(said.contains("blocked.example.com") && said.contains("rejectedIdentifier"), "{said}");
    }
    // Nobody is where the names lead.
    authority.lead_to("127.0.0.9").await;
    {
        let binary = Binary::start(&data, port, &fields("uploads.example.com"));
        let refused = binary.says("no certificate was issued").await;
        assert!(refused.contains("the authority refused uploads.example.com: "), "{refused}");
        assert!(refused.contains("\"again_in_seconds\":1"), "{refused}");
        said += &refused;
    }
    authority.lead_to("127.0.0.1").await;
    let binary = Binary::start(&data, port, &fields("uploads.example.com"));
    said += &binary.says("a certificate is shown").await;
    let root = authority.root().await;
    shown(SocketAddr::from(([127, 0, 0, 1], port)), "uploads.example.com", &root).await.unwrap();
    assert!(said.contains("Landfall listens on https://uploads.example.com:"), "{said}");
    assert!(!said.contains("PRIVATE KEY") && !said.contains("key_pkcs8"), "{said}");
    for entry in std::fs::read_dir(&data).unwrap().flatten() {
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} is its owner's alone: {mode:o}", entry.path());
    }
    drop(binary);
    let mut doctor = program(&data);
    doctor.args(["doctor", "--data"]).arg(&data);
    let output = tokio::task::spawn_blocking(move || doctor.output()).await.unwrap().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && told.contains("the certificate for uploads.example.com ends at 20"), "{told}");
    // Another name is another certificate.
    let binary = Binary::start(&data, port, &fields("uploads.example.com,more.example.com"));
    binary.says("it is for other names").await;
    for _ in 0..TRIES {
        if shown(SocketAddr::from(([127, 0, 0, 1], port)), "more.example.com", &root).await.is_ok() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("no certificate for the new name: {}", binary.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_that_are_none_are_refused_before_a_port_is_bound() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (authority, empty) = (Pebble::planned(), folder.path().join("empty.pem"));
    std::fs::write(&empty, "").unwrap();
    for (path, why) in [(empty, "there is no certificate in it"), (folder.path().join("none.pem"), "No such file")] {
        let mut config = Config { data: data.clone(), ..Config::default() };
        config.set_text("storage", &storage(&data)).unwrap();
        ordering(&mut config, &authority, port::free());
        config.acme_ca = Some(path.clone());
        let refused =
            landfall::app::App::start(config, landfall::clock::Clock::system()).await.unwrap_err().to_string();
        let parts = ["`acme_ca`", path.to_str().unwrap(), why, "PEM file"];
        assert!(parts.iter().all(|part| refused.contains(part)), "{refused}");
    }
}
