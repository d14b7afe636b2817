//! The built server as a child process: started with fail points, watched until it dies or stops at one, stopped from
//! outside, asked by `doctor`.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{Outcome, bucket, facts, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_landfall");
/// A server that is told to end, or that runs into its fail point, needs far less even on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(40);

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// `FAILPOINTS`.
    pub fail: String,
    /// How far in the future, in seconds.
    pub clock: u64,
    /// The APIs whose clients send to the bucket themselves.
    pub direct: &'static str,
}

impl Start {
    pub fn failing(points: impl Into<String>) -> Self {
        Self { fail: points.into(), ..Self::default() }
    }

    /// A start in the future, where the sweeper does not wait for an hour of agreeing clocks first.
    pub fn at(clock: u64) -> Self {
        Self { fail: "sweep.agreement=return(skip)".into(), clock, ..Self::default() }
    }

    pub fn and(mut self, point: &str) -> Self {
        self.fail = if self.fail.is_empty() { point.into() } else { format!("{};{point}", self.fail) };
        self
    }
}

/// A running server. Ends with its guard.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Server {
    /// Starts one over `data`; its output goes to `log`.
    pub fn spawn(data: &Path, port: u16, log: &Path, start: &Start) -> Self {
        let output = File::options().create(true).append(true).open(log).expect("a log file");
        let errors = output.try_clone().expect("the log file again");
        let child = Command::new(BINARY)
            .envs(facts::url(data).map(|url| ("LANDFALL_DATABASE", url)))
            .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data"])
            .arg(data)
            .env("LANDFALL_STORAGE", bucket::storage(data))
            .env("LANDFALL_MORE_STORAGE", bucket::more_storage(data))
            .env("LANDFALL_DIRECT", start.direct)
            .env("FAILPOINTS", &start.fail)
            .env("LANDFALL_TEST_CLOCK", start.clock.to_string())
            // The images are small on purpose.
            .env("LANDFALL_FREE_SPACE_MIN", "1MiB")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .expect("the built binary starts");
        Self { child, port, log: log.to_owned() }
    }

    /// Starts one and waits until it answers.
    pub fn start(data: &Path, port: u16, log: &Path, start: &Start) -> Outcome<Self> {
        let mut server = Self::spawn(data, port, log, start);
        if server.answers_or_ended() && !server.has_ended() {
            return Ok(server);
        }
        Err(format!("the server did not start: {}", server.tail()))
    }

    /// Waits until it answers, or has ended.
    pub fn answers_or_ended(&mut self) -> bool {
        let port = self.port;
        wait_until(PATIENCE, || self.has_ended() || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_some()
    }

    /// The key that a first start prints, after it has begun to listen.
    pub fn first_key(&self) -> Outcome<String> {
        self.key_after(&[])
    }

    /// The key that a start prints after these, which are in the log already.
    pub fn key_after(&self, before: &[String]) -> Outcome<String> {
        let mut key = None;
        wait_until(PATIENCE, || {
            key = self.keys().into_iter().nth(before.len());
            key.is_some()
        });
        key.ok_or_else(|| format!("the first start printed no key: {}", self.tail()))
    }

    /// Every key that was printed to the log, by this start and by those before.
    pub fn keys(&self) -> Vec<String> {
        let output = self.output();
        output.split_whitespace().filter_map(|w| w.strip_prefix("LANDFALL_KEY=").map(str::to_owned)).collect()
    }

    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of its output, for a failure's message.
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until it killed itself at its fail point. Nothing else here kills it meanwhile.
    pub fn died_at_its_point(&mut self) -> Outcome {
        let status = self.ended()?;
        if status.signal() == Some(Signal::KILL.as_raw()) {
            return Ok(());
        }
        Err(format!("the server ended with {status} and not at its fail point: {}", self.tail()))
    }

    fn ended(&mut self) -> Outcome<ExitStatus> {
        let mut status = None;
        wait_until(PATIENCE, || {
            status = self.child.try_wait().expect("a child can be asked");
            status.is_some()
        });
        status.ok_or_else(|| format!("the server still runs: the point was not reached: {}", self.tail()))
    }

    /// Waits until it stopped itself, all of its threads. A thread inside a sync stops when the sync is over.
    pub fn stopped_at_its_point(&mut self) -> Outcome {
        if wait_until(PATIENCE, || self.is_stopped()) {
            return Ok(());
        }
        Err(format!("the point was not reached: the server never stopped: {}", self.tail()))
    }

    /// Stops it from outside, at once.
    pub fn stop_now(&mut self) -> Outcome {
        kill_process(self.pid(), Signal::STOP).map_err(|e| format!("SIGSTOP: {e}"))?;
        self.stopped_at_its_point()
    }

    pub fn is_stopped(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        tasks.is_ok_and(|tasks| {
            tasks.flatten().all(|task| {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                // The state follows the name, which is in brackets and may hold anything.
                stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
            })
        })
    }

    /// Ends it as a power cut would: at once.
    pub fn kill(mut self) {
        self.end_now();
    }

    fn end_now(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(mut self) -> Outcome {
        kill_process(self.pid(), Signal::TERM).map_err(|e| format!("SIGTERM: {e}"))?;
        let status = self.ended()?;
        if status.success() { Ok(()) } else { Err(format!("SIGTERM ended it with {status}: {}", self.tail())) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end_now();
    }
}

/// `landfall doctor --deep`, which reads every byte. `Ok` with what it printed.
pub fn doctor(data: &Path, clock: u64) -> Outcome<String> {
    let output = Command::new(BINARY)
        .envs(facts::url(data).map(|url| ("LANDFALL_DATABASE", url)))
        .args(["doctor", "--deep", "--data"])
        .arg(data)
        .env("LANDFALL_STORAGE", bucket::storage(data))
        .env("LANDFALL_MORE_STORAGE", bucket::more_storage(data))
        .env("LANDFALL_TEST_CLOCK", clock.to_string())
        .env_remove("FAILPOINTS")
        .output()
        .expect("the built binary starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(said) } else { Err(format!("doctor: {said}")) }
}

/// `landfall admin move` from the other place to where new bytes go, beside a server.
fn moving(data: &Path, points: &str) -> Command {
    let mut command = Command::new(BINARY);
    command
        .envs(facts::url(data).map(|url| ("LANDFALL_DATABASE", url)))
        .args(["admin", "move", "--from", &bucket::more_storage(data), "--to", &bucket::storage(data), "--data"])
        .arg(data)
        .env("LANDFALL_STORAGE", bucket::storage(data))
        .env("LANDFALL_MORE_STORAGE", bucket::more_storage(data))
        .env("LANDFALL_FREE_SPACE_MIN", "1MiB")
        .env("FAILPOINTS", points)
        .stdin(Stdio::null());
    command
}

/// What a move printed, or `None` when it killed itself at its fail point.
pub fn move_bytes(data: &Path, points: &str) -> Outcome<Option<String>> {
    let output = moving(data, points).output().expect("the built binary starts");
    if output.status.signal() == Some(Signal::KILL.as_raw()) {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(Some(said)) } else { Err(format!("the move ended with {}: {said}", output.status)) }
}

/// A move that is to stop at its fail point.
pub fn spawn_move(data: &Path, log: &Path, points: &str) -> Server {
    let output = File::options().create(true).append(true).open(log).expect("a log file");
    let child = moving(data, points).stdout(output.try_clone().expect("the log file again")).stderr(output).spawn();
    Server { child: child.expect("the built binary starts"), port: 0, log: log.to_owned() }
}
