//! `landfall put`, `get` and `ls`: the built binary against a real server, through a proxy that counts, cuts, holds and
//! damages.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::harness::{Binary, PROGRAM, Server, noise};
use crate::uploads::sha256;

const MIB: u64 = 1 << 20;
const NEVER: u64 = u64::MAX;
/// Heads of requests and answers.
const HEADS: u64 = 64 * 1024;

/// One direction of a proxy: bytes passed on in all, and at which of them something is to happen, once.
struct Way {
    passed: AtomicU64,
    cut_at: AtomicU64,
    damage_at: AtomicU64,
    /// Nothing beyond it is passed on until it is moved.
    hold_at: AtomicU64,
}

impl Default for Way {
    fn default() -> Self {
        let never = || AtomicU64::new(NEVER);
        Self { passed: AtomicU64::new(0), cut_at: never(), damage_at: never(), hold_at: never() }
    }
}

impl Way {
    fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    async fn pass(&self, mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            while self.passed() >= self.hold_at.load(Ordering::SeqCst) {
                // Also the end of a connection is seen while nothing is passed on.
                if from.ready(tokio::io::Interest::READABLE).await.is_ok_and(|ready| ready.is_read_closed()) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let Ok(n @ 1..) = from.read(&mut buffer).await else { return };
            let after = self.passed.fetch_add(n as u64, Ordering::SeqCst) + n as u64;
            if after >= self.cut_at.load(Ordering::SeqCst) {
                self.cut_at.store(NEVER, Ordering::SeqCst);
                return;
            }
            if after >= self.damage_at.load(Ordering::SeqCst) {
                self.damage_at.store(NEVER, Ordering::SeqCst);
                buffer[n / 2] ^= 1;
            }
            if to.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    }
}

struct Proxy {
    address: SocketAddr,
    up: Arc<Way>,
    down: Arc<Way>,
}

impl Proxy {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (up, down) = (Arc::<Way>::default(), Arc::<Way>::default());
        let (to_server, to_client) = (Arc::clone(&up), Arc::clone(&down));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (up, down) = (Arc::clone(&to_server), Arc::clone(&to_client));
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    let (from_client, into_client) = client.into_split();
                    let (from_server, into_server) = server.into_split();
                    // The end of one direction is the end of both: a cut.
                    tokio::select! {
                        () = up.pass(from_client, into_server) => {}
                        () = down.pass(from_server, into_client) => {}
                    }
                });
            }
        });
        Self { address, up, down }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until no connection passes through it: what a client that was killed had sent on its way is not counted to
    /// the next one.
    async fn alone(&self) {
        for _ in 0..6_000 {
            // Its own and the acceptor's.
            if Arc::strong_count(&self.up) <= 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("a connection stays");
    }

    async fn reached(&self, bytes: u64) {
        for _ in 0..6_000 {
            if self.up.passed() >= bytes {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("only {} of {bytes} bytes were sent", self.up.passed());
    }
}

/// A place with files, from which the client is run.
pub(crate) struct Desk {
    dir: TempDir,
    url: String,
    key: String,
}

impl Desk {
    pub(crate) fn new(url: String, key: &str) -> Self {
        Self { dir: TempDir::new().unwrap(), url, key: key.to_owned() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        std::fs::write(self.file(name), content).unwrap();
        self.file(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).unwrap()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command.env("LANDFALL_URL", &self.url).env("LANDFALL_KEY", &self.key);
        command.args(arguments).current_dir(self.dir.path()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let run = self.command(arguments).output();
        tokio::time::timeout(Duration::from_secs(200), run).await.expect("an end").expect("the built binary")
    }

    /// Runs it; it must end well. What it printed, and what it said.
    #[track_caller]
    pub(crate) fn well(output: &Output) -> (String, String) {
        let (out, err) = said(output);
        assert!(output.status.success(), "{}: {out}{err}", output.status);
        (out, err)
    }
}

pub(crate) fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

pub(crate) fn line(out: &str) -> Value {
    assert_eq!(out.lines().count(), 1, "{out}");
    serde_json::from_str(out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

fn id(line: &Value) -> &str {
    line["id"].as_str().expect("an id")
}

/// Bytes of which no two pieces are equal, quickly made.
pub(crate) fn content(length: u64) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut bytes = Vec::with_capacity(length as usize + 8);
    while bytes.len() < length as usize {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(length as usize);
    bytes
}

impl Server {
    async fn content_of(&self, file: &str) -> Vec<u8> {
        self.native("GET", &format!("/files/{file}/content")).send().await.expect(200).body
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_put_listed_and_got() {
    let server = Server::start().await;
    let desk = Desk::new(server.url(""), &server.key);
    let (small, large) = (noise(1000), content(20 * MIB + 1));
    desk.write("small.txt", &small);
    desk.write("large é.bin", &large);
    desk.write("empty", b"");
    let put = desk
        .run(&["put", "small.txt", "large é.bin", "empty", "--path", "a/b", "--mime-type", "text/x", "--json"])
        .await;
    let (out, err) = Desk::well(&put);
    assert_eq!(err, "", "nothing is drawn where no terminal is");
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{out}");
    for (line, (name, bytes)) in lines.iter().zip([("small.txt", &small), ("large é.bin", &large), ("empty", &vec![])])
    {
        assert_eq!((&line["file"], &line["size"], &line["resumed_at"]), (&json!(name), &json!(bytes.len()), &json!(0)));
        assert_eq!(line["digests"]["sha256"], sha256(bytes), "{line}");
        assert_eq!(&server.content_of(id(line)).await, bytes, "{name}");
        let seen = server.get(&format!("/files/{}", id(line))).await;
        assert_eq!((&seen["name"], &seen["path"], &seen["mime_type"]), (&json!(name), &json!("a/b"), &json!("text/x")));
    }
    let (out, err) = Desk::well(&desk.run(&["put", "small.txt"]).await);
    assert!(out.starts_with("file_") && out.trim_end().ends_with("small.txt") && err.is_empty(), "{out}{err}");

    let (out, err) = Desk::well(&desk.run(&["ls"]).await);
    let table: Vec<&str> = out.lines().collect();
    assert!(table.len() == 5 && table[0].starts_with("ID ") && err.is_empty(), "{out}{err}");
    assert!(table[1].ends_with("  small.txt") && table[2].ends_with("  a/b/empty"), "newest first: {out}");
    let (out, _) = Desk::well(&desk.run(&["ls", "--path", "a", "--name", "large é.bin", "--json"]).await);
    assert_eq!((id(&line(&out)), &line(&out)["size"]), (id(&lines[1]), &json!(large.len())));

    let elsewhere = Desk::new(server.url(""), &server.key);
    let (out, err) = Desk::well(&elsewhere.run(&["get", id(&lines[1]), "--json"]).await);
    assert_eq!((line(&out)["file"].as_str(), err.as_str()), (Some("large é.bin"), ""));
    assert_eq!(elsewhere.read("large é.bin"), large);
    assert!(!elsewhere.file("large é.bin.part").exists());
    // What is there is not replaced, unless that is wanted.
    elsewhere.write("small.txt", b"mine");
    let refused = elsewhere.run(&["get", id(&lines[0])]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).1.contains("--force"), "{refused:?}");
    assert_eq!(elsewhere.read("small.txt"), b"mine");
    Desk::well(&elsewhere.run(&["get", id(&lines[0]), "--force"]).await);
    assert_eq!(elsewhere.read("small.txt"), small);
    Desk::well(&elsewhere.run(&["get", id(&lines[2]), "-o", "none"]).await);
    assert_eq!(elsewhere.read("none"), b"");
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_reasons() {
    let server = Server::start().await;
    let desk = Desk::new(server.url(""), &server.key);
    desk.write("good", b"good");
    let some = desk.run(&["put", "missing", "good", ".", "--json"]).await;
    let (out, err) = said(&some);
    assert_eq!(some.status.code(), Some(1), "{out}{err}");
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["error"].is_string() && lines[1]["id"].is_string() && lines[2]["error"].is_string(), "{out}");
    assert!(err.contains("missing: "), "{err}");
    for usage in [
        &["put"][..],
        &["get"],
        &["put", "good", "--chunk", "x"],
        &["put", "good", "--url", "nowhere"],
        &["ls", "--colour"],
    ] {
        assert_eq!(desk.run(usage).await.status.code(), Some(2), "{usage:?}");
    }
    let mut bare = desk.command(&["ls"]);
    bare.env_remove("LANDFALL_KEY");
    assert_eq!(bare.output().await.unwrap().status.code(), Some(2), "a key is wanted");
    let none = format!("file_{}", "0".repeat(32));
    for (arguments, word) in [
        (&["get", "x"][..], "landfall ls"),
        (&["get", &none], "404"),
        (&["ls", "--key", "lfxxxxxxxx-0000-0000-0000-000000000000"], "401"),
        (&["put", "good", "--path", "../x"], "path"),
        (&["ls", "--url", "http://127.0.0.1:1", "--retries", "0"], "given up after 1 tries"),
    ] {
        let output = desk.run(arguments).await;
        let (out, err) = said(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {out}{err}");
        assert!(err.contains(word) && !err.contains(&server.key), "{arguments:?}: {err}");
    }
    let over = desk.run(&["ls", "--url", "http://127.0.0.1:1", "--retries", "1"]).await;
    assert!(said(&over).1.contains("trying again in 0."), "it says what it waits for: {over:?}");
}

/// `kill -9` of the client, and another machine: only the rest is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_was_killed_goes_on_elsewhere() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.address).await;
    let bytes = content(40 * MIB + 12_345);
    let desk = Desk::new(proxy.url(), &server.key);
    desk.write("film.mp4", &bytes);
    proxy.up.hold_at.store(29 * MIB, Ordering::SeqCst);
    let mut killed = desk.command(&["put", "film.mp4", "--chunk", "8MiB"]).spawn().unwrap();
    proxy.reached(29 * MIB).await;
    killed.kill().await.unwrap();
    // First: what is held here keeps the end of the connection back.
    proxy.up.hold_at.store(NEVER, Ordering::SeqCst);
    proxy.alone().await;
    let mut received = 0;
    for _ in 0..500 {
        let found = server.get("/uploads?state=open").await;
        received = found["items"][0]["received"].as_u64().unwrap();
        if received > 24 * MIB {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(received > 24 * MIB, "what arrived of the last chunk is kept as well: {received}");
    assert_eq!(server.get("/files").await["items"], json!([]));

    let before = proxy.up.passed();
    let elsewhere = Desk::new(proxy.url(), &server.key);
    elsewhere.write("film.mp4", &bytes);
    let (out, err) = Desk::well(&elsewhere.run(&["put", "film.mp4", "--json"]).await);
    let done = line(&out);
    assert_eq!(done["resumed_at"], received, "{err}");
    let sent = proxy.up.passed() - before;
    let rest = bytes.len() as u64 - received;
    assert!((rest..rest + HEADS).contains(&sent), "{sent} bytes were sent, {rest} were missing");
    assert_eq!(server.content_of(id(&done)).await, bytes);
    assert_eq!(server.get("/files").await["items"].as_array().unwrap().len(), 1);
    let usage = server.get("/usage").await;
    assert_eq!((&usage["reserved"], &usage["open_sessions"]), (&json!(0), &json!(0)), "{usage}");
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_costs_little() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.address).await;
    let desk = Desk::new(proxy.url(), &server.key);
    let bytes = content(40 * MIB);
    desk.write("a", &bytes);
    proxy.up.cut_at.store(21 * MIB, Ordering::SeqCst);
    let (out, err) = Desk::well(&desk.run(&["put", "a", "--json"]).await);
    assert!(err.contains("trying again in"), "{err}");
    assert_eq!(line(&out)["digests"]["sha256"], sha256(&bytes));
    let sent = proxy.up.passed();
    assert!(sent < 42 * MIB, "{sent} bytes were sent");
    // A small file goes again as a whole.
    let small = content(3 * MIB);
    desk.write("b", &small);
    proxy.up.cut_at.store(sent + MIB, Ordering::SeqCst);
    let (out, err) = Desk::well(&desk.run(&["put", "b", "--json"]).await);
    assert!(err.contains("trying again in"), "{err}");
    assert_eq!(server.content_of(id(&line(&out))).await, small);
    // The last answer is lost: the upload is complete all the same, and once.
    let files = server.get("/files").await["items"].as_array().unwrap().len();
    desk.write("c", &bytes[1..]);
    let mut last = desk.command(&["put", "c", "--json"]);
    let before = proxy.up.passed();
    let running = tokio::spawn(async move { last.output().await.unwrap() });
    proxy.reached(before + 20 * MIB).await;
    proxy.down.cut_at.store(proxy.down.passed() + 1, Ordering::SeqCst);
    let (out, err) = Desk::well(&running.await.unwrap());
    assert!(err.contains("trying again in"), "{err}");
    assert_eq!(line(&out)["size"], bytes.len() - 1);
    assert_eq!(server.get("/files").await["items"].as_array().unwrap().len(), files + 1);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_may_be_killed_and_come_back() {
    let mut server = Binary::start("").await;
    let proxy = Proxy::to(server.address).await;
    let desk = Desk::new(proxy.url(), &server.key);
    let bytes = content(48 * MIB);
    desk.write("a", &bytes);
    proxy.up.hold_at.store(29 * MIB, Ordering::SeqCst);
    let mut put = desk.command(&["put", "a", "--json", "--chunk", "8MiB"]);
    let running = tokio::spawn(async move { put.output().await.unwrap() });
    proxy.reached(29 * MIB).await;
    server.kill();
    proxy.up.hold_at.store(NEVER, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // Exact after the kill: nothing is given back or taken twice.
    server.start_again().await;
    let usage = server.send("GET", "/landfall/v1/usage", None).await.expect(200).json();
    assert_eq!(usage["reserved"], json!(48 * MIB), "{usage}");
    let (out, err) = Desk::well(&running.await.unwrap());
    assert!(err.contains("trying again in"), "{err}");
    let done = line(&out);
    assert_eq!(done["digests"]["sha256"], sha256(&bytes));
    let sent = proxy.up.passed();
    assert!(sent < (48 + 8) * MIB, "what was acknowledged is not sent again: {sent}");
    let usage = server.send("GET", "/landfall/v1/usage", None).await.expect(200).json();
    assert_eq!((&usage["reserved"], &usage["bytes"]), (&json!(0), &json!(48 * MIB)), "{usage}");
    server.leaves_everything_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_goes_on_where_it_stopped() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.address).await;
    let desk = Desk::new(proxy.url(), &server.key);
    let bytes = content(10 * MIB);
    let file = server.stored("data", &bytes, json!({})).await["file_id"].as_str().unwrap().to_owned();
    // A cut within one run.
    proxy.down.cut_at.store(5 * MIB, Ordering::SeqCst);
    let (out, err) = Desk::well(&desk.run(&["get", &file, "--json"]).await);
    assert!(err.contains("trying again in"), "{err}");
    assert_eq!(line(&out)["resumed_at"], 0);
    assert!(desk.read("data") == bytes && proxy.down.passed() < 10 * MIB + HEADS * 4, "{}", proxy.down.passed());
    // What an earlier run left.
    let before = proxy.down.passed();
    let part = |content: &[u8]| {
        let _ = std::fs::remove_file(desk.file("data"));
        desk.write("data.part", content);
    };
    part(&bytes[..7 * MIB as usize]);
    let (out, err) = Desk::well(&desk.run(&["get", &file, "--json"]).await);
    assert_eq!((line(&out)["resumed_at"].as_u64(), err.as_str()), (Some(7 * MIB), ""));
    assert!(desk.read("data") == bytes && !desk.file("data.part").exists());
    assert!(proxy.down.passed() - before < 3 * MIB + HEADS, "only the rest came");
    // What is not of this file is found out, and costs a second try.
    part(&noise(MIB as usize));
    let (_, err) = Desk::well(&desk.run(&["get", &file]).await);
    assert!(desk.read("data") == bytes && err.contains("beginning anew"), "{err}");
    part(&[bytes.clone(), vec![1]].concat());
    Desk::well(&desk.run(&["get", &file]).await);
    assert_eq!(desk.read("data"), bytes);
    // All of it is there already.
    part(&bytes);
    Desk::well(&desk.run(&["get", &file]).await);
    assert_eq!(desk.read("data"), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_on_the_way_is_seen() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.address).await;
    let desk = Desk::new(proxy.url(), &server.key);
    let bytes = content(20 * MIB);
    desk.write("a", &bytes);
    proxy.up.damage_at.store(9 * MIB, Ordering::SeqCst);
    let failed = desk.run(&["put", "a"]).await;
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(said(&failed).1.contains("sha256"), "{failed:?}");
    assert_eq!(server.get("/files").await["items"], json!([]));
    let (out, _) = Desk::well(&desk.run(&["put", "a", "--json"]).await);
    let put = line(&out);
    std::fs::remove_file(desk.file("a")).unwrap();
    proxy.down.damage_at.store(proxy.down.passed() + 9 * MIB, Ordering::SeqCst);
    let failed = desk.run(&["get", id(&put)]).await;
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(said(&failed).1.contains("damaged") && !desk.file("a").exists(), "{failed:?}");
    Desk::well(&desk.run(&["get", id(&put)]).await);
    assert_eq!(desk.read("a"), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_in_parts_and_only_missing_ones_go_again() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.address).await;
    let bytes = content(80 * MIB + 12_345);
    let desk = Desk::new(proxy.url(), &server.key);
    desk.write("film.mp4", &bytes);
    // Of four parts at once none may be whole; what came before them is.
    proxy.up.hold_at.store(60 * MIB, Ordering::SeqCst);
    let mut killed = desk.command(&["put", "film.mp4", "--chunk", "8MiB"]).spawn().unwrap();
    proxy.reached(60 * MIB).await;
    let mut found = json!(null);
    for _ in 0..500 {
        found = server.get("/uploads?state=open").await["items"][0].clone();
        if found["received"].as_u64().unwrap() >= 24 * MIB {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((&found["strategy"], &found["parts"]), (&json!("multipart"), &json!(11)), "{found}");
    assert!(found["received"].as_u64().unwrap() >= 24 * MIB, "{found}");
    killed.kill().await.unwrap();
    // First: what is held here keeps the end of the connection back.
    proxy.up.hold_at.store(NEVER, Ordering::SeqCst);
    proxy.alone().await;
    let received = server.get("/uploads?state=open").await["items"][0]["received"].as_u64().unwrap();
    let before = proxy.up.passed();
    let elsewhere = Desk::new(proxy.url(), &server.key);
    elsewhere.write("film.mp4", &bytes);
    let (out, err) = Desk::well(&elsewhere.run(&["put", "film.mp4", "--json"]).await);
    let done = line(&out);
    assert!(done["resumed_at"].as_u64().unwrap() >= received, "{err}");
    let sent = proxy.up.passed() - before;
    let rest = bytes.len() as u64 - received;
    assert!(sent < rest + HEADS, "{sent} bytes were sent, {rest} were missing");
    assert!(server.content_of(id(&done)).await == bytes);
    assert!(done["digests"]["crc64nvme"].is_string() && done["digests"]["sha256"].is_null(), "{done}");
    // It comes back in ranges: a kill keeps what was written, a cut costs its range.
    proxy.down.hold_at.store(proxy.down.passed() + 50 * MIB, Ordering::SeqCst);
    let mut killed = desk.command(&["get", id(&done), "-o", "got"]).spawn().unwrap();
    let left = desk.file("got.part");
    for _ in 0..1_000 {
        if std::fs::metadata(&left).is_ok_and(|about| about.len() >= 8 * MIB) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    killed.kill().await.unwrap();
    proxy.alone().await;
    let kept = std::fs::metadata(&left).unwrap().len();
    assert!(kept >= 8 * MIB, "{kept}");
    proxy.down.hold_at.store(NEVER, Ordering::SeqCst);
    let before = proxy.down.passed();
    let (out, _) = Desk::well(&desk.run(&["get", id(&done), "-o", "got", "--json"]).await);
    assert_eq!(line(&out)["resumed_at"], kept);
    let came = proxy.down.passed() - before;
    assert!(came < bytes.len() as u64 - kept + HEADS, "{came} bytes came");
    assert!(desk.read("got") == bytes);
    let before = proxy.down.passed();
    proxy.down.cut_at.store(before + 30 * MIB, Ordering::SeqCst);
    let (_, err) = Desk::well(&desk.run(&["get", id(&done), "-o", "cut"]).await);
    assert!(err.contains("trying again in"), "{err}");
    let came = proxy.down.passed() - before;
    assert!(came < bytes.len() as u64 + 9 * MIB, "{came} bytes came");
    assert!(desk.read("cut") == bytes);
    Desk::well(&desk.run(&["get", id(&done), "-o", "again", "--parallel", "1"]).await);
    assert!(desk.read("again") == bytes);
    // A cut costs its part.
    let other = content(70 * MIB);
    desk.write("b", &other);
    let before = proxy.up.passed();
    proxy.up.cut_at.store(before + 40 * MIB, Ordering::SeqCst);
    let (out, err) = Desk::well(&desk.run(&["put", "b", "--json", "--parallel", "2"]).await);
    assert!(err.contains("trying again in"), "{err}");
    let sent = proxy.up.passed() - before;
    assert!(sent < (70 + 17) * MIB, "{sent} bytes were sent");
    assert!(server.content_of(id(&line(&out))).await == other);
    // In order, where that is wanted.
    let (out, _) = Desk::well(&desk.run(&["put", "b", "--json", "--parallel", "1"]).await);
    assert_eq!(line(&out)["digests"]["sha256"], sha256(&other));
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_somebody_else_cut_are_not_mixed_with_ours() {
    let server = Server::start().await;
    let desk = Desk::new(server.url(""), &server.key);
    let bytes = content(70 * MIB);
    desk.write("a", &bytes);
    let mut crcs = landfall::model::file::RunningCrcs::default();
    crcs.update(&bytes);
    let digests = json!({
        "crc32c": format!("{:08x}", crcs.value().crc32c), "crc64nvme": format!("{:016x}", crcs.value().crc64nvme),
    });
    let ask = json!({ "name": "a", "size": bytes.len(), "parts": 2, "digests": digests });
    let foreign = server.open(ask).await;
    server.bare("PUT", foreign["part_urls"][0].as_str().unwrap()).body(&bytes[..10]).send().await.expect(200);
    let (out, err) = Desk::well(&desk.run(&["put", "a", "--json"]).await);
    assert!(err.contains("beginning anew"), "{err}");
    assert!(server.content_of(id(&line(&out))).await == bytes);
    assert_eq!(server.get("/usage").await["open_sessions"], 0);
    server.leaves_everything_whole().await;
}
