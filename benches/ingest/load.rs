//! The load: plain sockets, one request after the other on each.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::peers::Server;

pub const MIB: u64 = 1024 * 1024;
/// Bytes sent at a time.
pub const BLOCK: usize = 256 * 1024;
const FILES: &str = "/aitronos/v1/organizations/default/files";

/// Bytes moved, and what that took.
pub struct Sample {
    pub bytes: u64,
    pub seconds: f64,
    pub cpu_seconds: f64,
}

impl Sample {
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds
    }

    pub fn cpu_per_gib(&self) -> f64 {
        self.cpu_seconds / (self.bytes as f64 / (1024.0 * MIB as f64))
    }

    /// The same until a server that syncs nothing has its bytes on the disk.
    pub fn synced(mut self, directory: &Path) -> Self {
        let begun = Instant::now();
        let synced = std::process::Command::new("sync").arg("-f").arg(directory).status();
        assert!(synced.is_ok_and(|status| status.success()), "sync failed");
        self.seconds += begun.elapsed().as_secs_f64();
        self
    }
}

/// Processor time of a process, in user and kernel mode.
pub fn cpu_seconds_of(pid: &str) -> f64 {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

pub fn own_cpu_seconds() -> f64 {
    cpu_seconds_of("self")
}

/// Whom to talk to.
#[derive(Clone)]
pub struct Client {
    pub port: u16,
    pub key: String,
}

/// One connection.
pub struct Connection {
    socket: TcpStream,
    read: Vec<u8>,
}

pub struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// When its last byte had come.
    pub came: Instant,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}\n{}", self.head, String::from_utf8_lossy(&self.body));
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The offset that a 308 tells.
    fn told(&self) -> u64 {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes=0-"));
        range.map_or(0, |last| last.parse::<u64>().expect("an offset") + 1)
    }
}

impl Connection {
    pub fn new(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        socket.set_nodelay(true).expect("a socket");
        Self { socket, read: Vec::with_capacity(4096) }
    }

    pub fn head(&mut self, method: &str, target: &str, headers: &str, length: u64) {
        let head =
            format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n{headers}\r\n");
        self.socket.write_all(head.as_bytes()).expect("a live server");
    }

    pub fn call(&mut self, method: &str, target: &str, headers: &str, body: &[u8]) -> Reply {
        let length = body.len();
        let mut request =
            format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n{headers}\r\n")
                .into_bytes();
        request.extend_from_slice(body);
        self.socket.write_all(&request).expect("a live server");
        self.reply()
    }

    pub fn reply(&mut self) -> Reply {
        self.read.clear();
        let mut buffer = [0u8; 64 * 1024];
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                break end;
            }
            let count = self.socket.read(&mut buffer).expect("an answer");
            assert!(count > 0, "the server closed the connection: {}", String::from_utf8_lossy(&self.read));
            self.read.extend_from_slice(&buffer[..count]);
        };
        let head = String::from_utf8_lossy(&self.read[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let mut reply = Reply { status, head, body: Vec::new(), came: Instant::now() };
        let length: usize = reply.header("content-length").map_or(0, |length| length.parse().expect("a length"));
        while self.read.len() < end + 4 + length {
            let count = self.socket.read(&mut buffer).expect("an answer");
            assert!(count > 0, "the answer is cut");
            self.read.extend_from_slice(&buffer[..count]);
        }
        reply.came = Instant::now();
        reply.body = self.read[end + 4..end + 4 + length].to_vec();
        reply
    }

    pub fn pour(&mut self, mut bytes: u64) -> io::Result<()> {
        let block = [5u8; BLOCK];
        while bytes > 0 {
            let now = bytes.min(BLOCK as u64);
            self.socket.write_all(&block[..now as usize])?;
            bytes -= now;
        }
        Ok(())
    }
}

pub fn path_of(url: &str) -> String {
    format!("/{}", url.splitn(4, '/').nth(3).expect("a URL with a path"))
}

impl Client {
    fn headers(&self) -> String {
        format!("X-API-Key: {}\r\nContent-Type: application/json\r\n", self.key)
    }

    fn open(&self, connection: &mut Connection, size: u64) -> (String, Value) {
        let ask = json!({ "filename": "a.bin", "file_size": size, "mime_type": "application/octet-stream" });
        let target = format!("{FILES}/upload-url");
        let reply = connection.call("POST", &target, &self.headers(), ask.to_string().as_bytes()).expect(200);
        let opened = reply.json();
        (path_of(opened["upload_url"].as_str().expect("a URL")), opened)
    }

    fn register(&self, connection: &mut Connection, opened: &Value, size: u64) {
        let ask = json!({ "filename": "a.bin", "file_size": size, "mime_type": "application/octet-stream",
            "gcs_path": opened["gcs_path"] });
        connection.call("POST", FILES, &self.headers(), ask.to_string().as_bytes()).expect(201);
    }

    /// One upload in one request.
    pub fn upload_whole(&self, size: u64) {
        let mut connection = Connection::new(self.port);
        let (target, _) = self.open(&mut connection, size);
        connection.head("PUT", &target, "", size);
        connection.pour(size).expect("a live server");
        connection.reply().expect(200);
    }

    /// A plain PUT.
    pub fn put(&self, size: u64) {
        let mut connection = Connection::new(self.port);
        let name = format!("/{:?}", std::thread::current().id()).replace(['(', ')'], "");
        connection.head("PUT", &name, "", size);
        connection.pour(size).expect("a live server");
        connection.reply().expect(201);
    }

    /// The tus protocol: a creation and one PATCH.
    pub fn tus(&self, size: u64) {
        let mut connection = Connection::new(self.port);
        let headers = format!("Tus-Resumable: 1.0.0\r\nUpload-Length: {size}\r\n");
        let reply = connection.call("POST", "/files/", &headers, b"").expect(201);
        let target = path_of(reply.header("location").expect("a location"));
        let headers = "Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n";
        connection.head("PATCH", &target, headers, size);
        connection.pour(size).expect("a live server");
        connection.reply().expect(204);
    }
}

/// How often something was done.
pub struct Rate {
    pub per_second: f64,
    pub count: f64,
    pub p99_ms: f64,
}

fn repeat(connections: usize, time: Duration, each: impl Fn() -> Box<dyn FnMut() + Send> + Sync) -> Rate {
    let barrier = Barrier::new(connections + 1);
    let (mut took, elapsed) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|_| {
                let mut one = each();
                let barrier = &barrier;
                scope.spawn(move || {
                    one();
                    barrier.wait();
                    let begun = Instant::now();
                    let mut took = Vec::new();
                    while begun.elapsed() < time {
                        let at = Instant::now();
                        one();
                        took.push(at.elapsed());
                    }
                    took
                })
            })
            .collect();
        barrier.wait();
        let begun = Instant::now();
        let took: Vec<Duration> = threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect();
        (took, begun.elapsed())
    });
    took.sort();
    let p99 = took.get(took.len() * 99 / 100).copied().unwrap_or_default();
    Rate {
        per_second: took.len() as f64 / elapsed.as_secs_f64(),
        count: took.len() as f64,
        p99_ms: p99.as_secs_f64() * 1000.0,
    }
}

pub fn creations(client: &Client, connections: usize, time: Duration) -> Rate {
    repeat(connections, time, || {
        let client = client.clone();
        let mut connection = Connection::new(client.port);
        Box::new(move || drop(client.open(&mut connection, 1_000_000)))
    })
}

/// Tickets for one PUT each, of our own API.
pub fn tickets(client: &Client, connections: usize, time: Duration) -> Rate {
    let ask = json!({ "name": "a.bin", "size": 1_000_000, "strategy": "single" }).to_string();
    repeat(connections, time, || {
        let (client, ask) = (client.clone(), ask.clone());
        let mut connection = Connection::new(client.port);
        Box::new(move || {
            let reply = connection.call("POST", "/landfall/v1/uploads", &client.headers(), ask.as_bytes());
            reply.expect(201);
        })
    })
}

pub fn tus_creations(port: u16, connections: usize, time: Duration) -> Rate {
    repeat(connections, time, || {
        let mut connection = Connection::new(port);
        Box::new(move || {
            let headers = "Tus-Resumable: 1.0.0\r\nUpload-Length: 1000000\r\n";
            connection.call("POST", "/files/", headers, b"").expect(201);
        })
    })
}

/// So many uploads at once, each on its own connection.
pub fn streams(server: &Server, count: usize, size: u64, one: impl Fn(&Client, u64) + Sync) -> Sample {
    let client = Client { port: server.port, key: server.key.clone() };
    let cpu = server.cpu_seconds();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| one(&client, size));
        }
    });
    Sample {
        bytes: size * count as u64,
        seconds: begun.elapsed().as_secs_f64(),
        cpu_seconds: server.cpu_seconds() - cpu,
    }
}

/// Files of 64 KiB a second: created, uploaded, registered.
pub fn small_files(client: &Client, count: usize, connections: usize) -> f64 {
    let next = AtomicUsize::new(0);
    let block = [9u8; 64 * 1024];
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut connection = Connection::new(client.port);
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    let size = block.len() as u64;
                    let (target, opened) = client.open(&mut connection, size);
                    connection.call("PUT", &target, "", &block).expect(200);
                    client.register(&mut connection, &opened, size);
                }
            });
        }
    });
    count as f64 / begun.elapsed().as_secs_f64()
}

/// What a cut cost.
pub struct Cut {
    /// From the cut to the told offset.
    pub milliseconds: f64,
    /// Bytes that had arrived, 256 KiB-aligned, and were not told.
    pub lost: u64,
}

/// Cuts a stream after so many bytes and asks at once how far it has come.
pub fn cut(client: &Client, size: u64, after: u64) -> Cut {
    let mut connection = Connection::new(client.port);
    let (target, _) = client.open(&mut connection, size);
    connection.head("PUT", &target, "", size);
    connection.pour(after).expect("a live server");
    // Until the server has taken all of it from its socket: what is still in a buffer has not arrived.
    let deadline = Instant::now() + Duration::from_secs(5);
    while unsent(&connection.socket) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(100));
    let mut asking = Connection::new(client.port);
    let begun = Instant::now();
    drop(connection);
    let reply = asking.call("PUT", &target, &format!("Content-Range: bytes */{size}\r\n"), b"").expect(308);
    let milliseconds = begun.elapsed().as_secs_f64() * 1000.0;
    let aligned = after / BLOCK as u64 * BLOCK as u64;
    Cut { milliseconds, lost: aligned.saturating_sub(reply.told()) }
}

/// Bytes that the other end's system has not taken yet.
fn unsent(socket: &TcpStream) -> u64 {
    let Ok(local) = socket.local_addr() else { return 0 };
    let wanted = format!(":{:04X} ", local.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let queue = |line: &str| {
        let field = line.split_whitespace().nth(4)?;
        u64::from_str_radix(field.split(':').next()?, 16).ok()
    };
    let of = |line: &&str| line.split_whitespace().nth(1).is_some_and(|a| format!("{a} ").ends_with(&wanted));
    table.lines().find(of).and_then(queue).unwrap_or(0)
}

/// Milliseconds from the last byte of an upload in chunks to its answer.
pub fn final_answer(client: &Client, size: u64, chunk: u64) -> f64 {
    let mut connection = Connection::new(client.port);
    let (target, _) = client.open(&mut connection, size);
    let mut at = 0;
    while at + chunk < size {
        let range = format!("Content-Range: bytes {at}-{}/{size}\r\n", at + chunk - 1);
        connection.head("PUT", &target, &range, chunk);
        connection.pour(chunk).expect("a live server");
        at = connection.reply().expect(308).told();
    }
    let range = format!("Content-Range: bytes {at}-{}/{size}\r\n", size - 1);
    connection.head("PUT", &target, &range, size - at);
    connection.pour(size - at).expect("a live server");
    let begun = Instant::now();
    connection.reply().expect(200);
    begun.elapsed().as_secs_f64() * 1000.0
}

/// So many bodies in flight at once: all of them half sent before the first is ended.
pub fn bodies_in_flight(client: &Client, count: usize, size: u64) {
    let mut connections: Vec<Connection> = (0..count)
        .map(|_| {
            let mut connection = Connection::new(client.port);
            let (target, _) = client.open(&mut connection, size);
            connection.head("PUT", &target, "", size);
            connection
        })
        .collect();
    let step = 128 * 1024;
    for _ in 0..size / step {
        for connection in &mut connections {
            connection.pour(step).expect("a live server");
        }
    }
    for connection in &mut connections {
        connection.reply().expect(200);
    }
}

/// So many sessions, each with a first chunk.
pub fn open_sessions(client: &Client, count: usize, chunk: u64) {
    let next = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            let next = Arc::clone(&next);
            scope.spawn(move || {
                let mut connection = Connection::new(client.port);
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    let (target, _) = client.open(&mut connection, 1024 * MIB);
                    let range = format!("Content-Range: bytes 0-{}/{}\r\n", chunk - 1, 1024 * MIB);
                    connection.head("PUT", &target, &range, chunk);
                    connection.pour(chunk).expect("a live server");
                    connection.reply().expect(308);
                }
            });
        }
    });
}

/// An upload in chunks on which a lot goes wrong.
pub struct Rough {
    client: Client,
    target: String,
    size: u64,
    chunk: u64,
    told: u64,
    sent: u64,
    worst: u64,
    cuts: u32,
    begun: Instant,
}

/// A byte of a file that is nowhere alike.
fn block_at(offset: u64) -> Vec<u8> {
    let mut block = vec![0u8; BLOCK];
    for (index, word) in block.chunks_exact_mut(8).enumerate() {
        let n = offset / 8 + index as u64;
        word.copy_from_slice(&(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n).to_le_bytes());
    }
    block
}

impl Rough {
    pub fn open(client: &Client, size: u64, chunk: u64) -> Self {
        let (target, _) = client.open(&mut Connection::new(client.port), size);
        Self { client: client.clone(), target, size, chunk, told: 0, sent: 0, worst: 0, cuts: 0, begun: Instant::now() }
    }

    /// Sends `length` bytes from the told offset of a chunk that is announced whole.
    fn send(&mut self, connection: &mut Connection, length: u64) -> u64 {
        let last = (self.told + self.chunk).min(self.size);
        let range = format!("Content-Range: bytes {}-{}/{}\r\n", self.told, last - 1, self.size);
        connection.head("PUT", &self.target, &range, last - self.told);
        let end = last.min(self.told + length);
        let mut at = self.told;
        while at < end {
            let block = block_at(at / BLOCK as u64 * BLOCK as u64);
            let from = (at % BLOCK as u64) as usize;
            let to = BLOCK.min(from + (end - at) as usize);
            if connection.socket.write_all(&block[from..to]).is_err() {
                break;
            }
            at += (to - from) as u64;
        }
        self.sent += at - self.told;
        at
    }

    /// Chunk after chunk up to an offset.
    pub fn until(&mut self, offset: u64) {
        let mut connection = Connection::new(self.client.port);
        while self.told + self.chunk <= offset.min(self.size - 1) {
            self.send(&mut connection, self.chunk);
            self.told = connection.reply().expect(308).told();
        }
    }

    /// A chunk that is cut after so many bytes; then the client asks where to go on.
    pub fn cut(&mut self, after: u64) {
        let mut connection = Connection::new(self.client.port);
        let reached = self.send(&mut connection, after);
        drop(connection);
        self.cuts += 1;
        let range = format!("Content-Range: bytes */{}\r\n", self.size);
        let reply = Connection::new(self.client.port).call("PUT", &self.target, &range, b"").expect(308);
        assert!(reply.told() >= self.told, "a told offset went down");
        self.worst = self.worst.max(reached - reply.told());
        self.told = reply.told();
    }

    /// The rest, and what all of it came to.
    pub fn end(mut self) -> String {
        use md5::{Digest, Md5};
        // What happened to the server since, the client learns by asking.
        let range = format!("Content-Range: bytes */{}\r\n", self.size);
        let reply = Connection::new(self.client.port).call("PUT", &self.target, &range, b"").expect(308);
        self.told = reply.told();
        let last = (self.size - 1) / self.chunk * self.chunk;
        self.until(last + self.chunk - 1);
        let mut connection = Connection::new(self.client.port);
        while self.told + self.chunk < self.size {
            self.send(&mut connection, self.chunk);
            self.told = connection.reply().expect(308).told();
        }
        self.send(&mut connection, self.size - self.told);
        let object = connection.reply().expect(200).json();
        let seconds = self.begun.elapsed().as_secs_f64();
        let mut hash = Md5::new();
        for offset in (0..self.size).step_by(BLOCK) {
            hash.update(block_at(offset));
        }
        let wanted = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let found = object["md5Hash"].as_str().map(decode_base64).unwrap_or_default();
        let found = found.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(found, wanted, "another file");
        format!(
            "{} MiB with {} cuts and one kill -9: MD5 {wanted} as sent; {} bytes were sent twice, {} at most after one cut; \
             {seconds:.1} s",
            self.size / MIB,
            self.cuts,
            self.sent - self.size,
            self.worst
        )
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default()
}
