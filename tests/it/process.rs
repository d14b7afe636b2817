//! The built binary as a server, where a test wants to see it refuse, or to have it on data that are not its own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{PROGRAM, Reply, client};
use crate::postgres::Fresh;

const PAUSE: Duration = Duration::from_millis(20);
const TRIES: usize = 3_000;

/// Where facts and bytes are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) data: PathBuf,
    /// Without one they are in the data directory.
    pub(crate) database: Option<String>,
    pub(crate) storage: String,
    /// Where else bytes are.
    pub(crate) more_storage: String,
    /// The APIs whose clients send to the bucket themselves.
    pub(crate) direct: String,
    /// What time it is there, in seconds from now.
    pub(crate) later: u64,
}

impl Place {
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.env("LANDFALL_DATA", &self.data).env("LANDFALL_STORAGE", &self.storage);
        command.env("LANDFALL_MORE_STORAGE", &self.more_storage).env("LANDFALL_DIRECT", &self.direct);
        command.env("LANDFALL_TEST_CLOCK", self.later.to_string()).env("AWS_EC2_METADATA_DISABLED", "true");
        if let Some(database) = &self.database {
            command.env("LANDFALL_DATABASE", database);
        }
        command.stdin(Stdio::null());
        command
    }

    /// `landfall doctor --deep`: did it find everything whole, and what did it say?
    pub(crate) async fn doctor(&self) -> (bool, String) {
        let mut command = self.command();
        command.args(["doctor", "--deep"]);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the built binary");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// Starts a server. The sentence with which it refuses, if it does.
    pub(crate) async fn serve(&self) -> Result<Running, String> {
        self.serve_with("").await
    }

    /// The same with fail points.
    pub(crate) async fn serve_with(&self, points: &str) -> Result<Running, String> {
        let log = self.data.with_extension(format!("log-{}", landfall::clock::random_uuid()));
        let out = File::create(&log).unwrap();
        let mut command = self.command();
        command.args(["serve", "--listen", "127.0.0.1:0"]).env("FAILPOINTS", points).env_remove("LANDFALL_LOG_FILTER");
        let child = command.stdout(out.try_clone().unwrap()).stderr(out).spawn().expect("the built binary");
        let mut running = Running { child, log, address: SocketAddr::from(([127, 0, 0, 1], 0)), key: String::new() };
        for _ in 0..TRIES {
            let ended = running.child.try_wait().unwrap().is_some();
            let listens = |line: &str| {
                let line: Value = serde_json::from_str(line).ok()?;
                let fields = if line["fields"].is_object() { &line["fields"] } else { &line };
                (fields["message"] == "listening").then(|| fields["address"].as_str()?.parse().ok()).flatten()
            };
            if let Some(address) = running.log().lines().find_map(listens) {
                running.address = address;
                return Ok(running);
            }
            if ended {
                return Err(running.log());
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("it neither serves nor refuses: {}", running.log());
    }
}

/// A server that listens. Ends with its guard.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
}

impl Running {
    /// With the key that its first start shows.
    pub(crate) async fn with_first_key(mut self) -> Self {
        for _ in 0..TRIES {
            let log = self.log();
            if let Some(key) = log.split_whitespace().find_map(|word| word.strip_prefix("LANDFALL_KEY=")) {
                self.key = key.to_owned();
                return self;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("no key is shown: {}", self.log());
    }

    /// Everything that it printed and logged.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// A call to it, with the key, of a path or of a URL that it gave.
    pub(crate) async fn call(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Reply {
        let path = match url.split_once("://") {
            Some((_, rest)) => &rest[rest.find('/').unwrap_or(rest.len())..],
            None => url,
        };
        let url = format!("http://{}{path}", self.address);
        let mut request = client().request(method.parse().unwrap(), url).header("X-API-Key", &self.key).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Reply::read(request.send().await.expect("an answer")).await
    }

    pub(crate) async fn json(&self, method: &str, path: &str, body: &Value, wanted: u16) -> Value {
        let reply = self.call(method, path, &[("Content-Type", "application/json")], body.to_string()).await;
        reply.expect(wanted).json()
    }

    /// Waits until it has died by itself.
    pub(crate) async fn ended(&mut self) {
        for _ in 0..TRIES {
            if self.child.try_wait().unwrap().is_some() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("it lives: {}", self.log());
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of the places at a database, with a data directory of its own in a folder.
pub(crate) fn at_database(folder: &Path, name: &str, database: &Fresh, storage: &str) -> Place {
    Place { data: folder.join(name), database: Some(database.url()), storage: storage.to_owned(), ..on_disk(folder) }
}

/// A place in a folder, without a database of its own.
pub(crate) fn on_disk(folder: &Path) -> Place {
    Place {
        data: folder.join("data"),
        database: None,
        storage: "disk".into(),
        more_storage: String::new(),
        direct: String::new(),
        later: 0,
    }
}

/// A command that stopped itself, all of its threads, at a fail point.
pub(crate) async fn stopped_at(point: &str, mut command: Command) -> Child {
    let mut child = command.env("FAILPOINTS", format!("{point}=1*return(stop)")).spawn().unwrap();
    for _ in 0..TRIES {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        if stat.rsplit(')').next().unwrap().trim_start().starts_with('T') {
            return child;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let _ = child.kill();
    let _ = child.wait();
    panic!("{point} was not reached");
}

/// How it ends, once it goes on.
pub(crate) async fn continued(child: Child) -> Output {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap()
}

/// A child that ends with its guard.
#[derive(Debug)]
pub(crate) struct Guarded(pub(crate) Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program of others, built or installed by one of the scripts in `tests/support` if it is not there yet.
pub(crate) fn fetched(script: &str, package: &str, version: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(script);
    let output = Command::new(script).args([package, version]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}
