//! Bytes in a store elsewhere: Garage on loopback, reached through the server and straight.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use landfall::clock::Clock;
use landfall::sigv4::{PresignRequest, Secret, SigningKey, presign};

use crate::load::{Connection, MIB, path_of};
use crate::peers::{self, Server};

/// What the server's own parts have.
const PART: u64 = 8 * MIB;
const REGION: &str = "garage";

/// A Garage of one node, with a bucket.
pub struct Garage {
    pub server: Server,
    key: SigningKey,
    credentials: PathBuf,
}

pub fn garage(program: &Path, directory: &Path) -> Garage {
    fs::create_dir_all(directory).expect("a directory");
    let (rpc, admin, api) = (peers::free_port(), peers::free_port(), peers::free_port());
    let configuration = directory.join("garage.toml");
    let at = directory.display();
    let text = format!(
        "metadata_dir = \"{at}/meta\"\ndata_dir = \"{at}/data\"\ndb_engine = \"sqlite\"\nreplication_factor = 1\n\
         rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{}\"\n\
         [s3_api]\ns3_region = \"{REGION}\"\napi_bind_addr = \"127.0.0.1:{api}\"\n\
         [admin]\napi_bind_addr = \"127.0.0.1:{admin}\"\n",
        "5a".repeat(32)
    );
    fs::write(&configuration, text).expect("a configuration");
    let child = Command::new(program)
        .arg("-c")
        .arg(&configuration)
        .arg("server")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("Garage");
    let server = Server::of(child, api);
    let run = |arguments: &[&str]| {
        let output = Command::new(program).arg("-c").arg(&configuration).args(arguments).output().expect("Garage");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let node = run(&["node", "id", "-q"]);
    run(&["layout", "assign", "-z", "one", "-c", "10G", node.split('@').next().expect("a node")]);
    run(&["layout", "apply", "--version", "1"]);
    run(&["bucket", "create", "bytes"]);
    let made = run(&["key", "create", "bench"]);
    run(&["bucket", "allow", "--read", "--write", "--owner", "bytes", "--key", "bench"]);
    let said = |label: &str| {
        let line = made.lines().find(|line| line.starts_with(label)).expect("a key");
        line.split_whitespace().next_back().expect("a value").to_owned()
    };
    let (id, secret) = (said("Key ID"), said("Secret key"));
    let credentials = directory.join("credentials");
    let text = format!("[default]\naws_access_key_id={id}\naws_secret_access_key={secret}\n");
    fs::write(&credentials, text).expect("a file");
    Garage { server, key: SigningKey::new(id, Secret::new(secret), REGION), credentials }
}

impl Garage {
    /// As the server's configuration names it.
    pub fn storage(&self) -> String {
        let (port, credentials) = (self.server.port, self.credentials.display());
        format!("s3://bytes/bench?endpoint=http://127.0.0.1:{port}&region={REGION}&credentials={credentials}")
    }

    fn target(&self, method: &str, query: &[(&str, &str)]) -> String {
        let query: Vec<_> = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let url = presign(
            &self.key,
            &PresignRequest {
                method,
                scheme: "http",
                // As the generator's requests say it.
                host: "127.0.0.1",
                path: "/bytes/straight",
                query: &query,
                signed_headers: &[],
                date: Clock::system().now(),
                expires_seconds: 3600,
            },
        );
        path_of(&url)
    }

    /// Sends so many bytes as parts of one upload, some at once, and completes it. MB/s.
    pub fn straight(&self, size: u64, at_once: usize) -> f64 {
        let mut connection = Connection::new(self.server.port);
        let begun = Instant::now();
        let made = connection.call("POST", &self.target("POST", &[("uploads", "")]), "", b"").expect(200).text();
        let id = between(&made, "<UploadId>", "</UploadId>");
        let (count, next) = (size / PART, AtomicU64::new(0));
        let send = || {
            let mut connection = Connection::new(self.server.port);
            let mut tags = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed) + 1;
                if n > count {
                    return tags;
                }
                let query = [("partNumber", n.to_string()), ("uploadId", id.to_owned())];
                let query: Vec<_> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
                connection.head("PUT", &self.target("PUT", &query), "", PART);
                connection.pour(PART).expect("a live store");
                let reply = connection.reply().expect(200);
                tags.push((n, reply.header("etag").expect("an ETag").to_owned()));
            }
        };
        let mut tags: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(send)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect()
        });
        tags.sort();
        let parts: String = tags
            .iter()
            .map(|(n, tag)| {
                format!("<Part><PartNumber>{n}</PartNumber><ETag>{}</ETag></Part>", tag.replace('"', "&quot;"))
            })
            .collect();
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        let done = connection.call("POST", &self.target("POST", &[("uploadId", id)]), "", body.as_bytes());
        assert!(done.expect(200).text().contains("<CompleteMultipartUploadResult"), "it is complete");
        size as f64 / 1e6 / begun.elapsed().as_secs_f64()
    }
}

fn between<'t>(text: &'t str, begin: &str, end: &str) -> &'t str {
    text.split_once(begin).and_then(|(_, rest)| rest.split_once(end)).map(|(found, _)| found).expect(begin)
}
