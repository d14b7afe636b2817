//! Three processes of the built server on one database and one bucket, nginx before them, and a record of when clients
//! had nobody to talk to.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::bucket::Store;
use crate::nginx::Nginx;
use crate::postgres::{self, port};
use crate::storm::Storm;

const BINARY: &str = env!("CARGO_BIN_EXE_landfall");
pub const REPLICAS: usize = 3;
const PREFIX: &str = "chaos";
const DATABASE: &str = "landfall";
/// What a start, a stop or a sweep takes at most, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// Past the life of every session.
const LATER: u64 = 9 * DAY;
const DAY: u64 = 24 * 3600;
/// A machine that lets nobody run for so long is not what is tested.
const STALL: Duration = Duration::from_millis(150);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When there was nobody: no process that ran and had begun to serve, or no database.
#[derive(Debug)]
struct Sky {
    up: [bool; REPLICAS],
    database: bool,
    away_since: Option<Instant>,
    away: Vec<(Instant, Instant)>,
}

impl Sky {
    fn change(&mut self, change: impl FnOnce(&mut Self)) {
        change(self);
        let there = self.database && self.up.contains(&true);
        match (there, self.away_since) {
            (false, None) => self.away_since = Some(Instant::now()),
            (true, Some(since)) => {
                self.away.push((since, Instant::now()));
                self.away_since = None;
            }
            (true, None) | (false, Some(_)) => {}
        }
    }
}

/// How a process is started.
#[derive(Clone, Copy, Debug, Default)]
struct Start {
    later: u64,
}

/// One of the processes. Locked while something befalls it.
#[derive(Debug)]
struct Replica {
    port: u16,
    data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Replica {
    fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(Pid::from_child)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn serves(&self) -> bool {
        use std::io::{Read, Write};
        let ask = || -> std::io::Result<bool> {
            let mut socket = std::net::TcpStream::connect(("127.0.0.1", self.port))?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
            let mut answer = [0; 12];
            socket.read_exact(&mut answer)?;
            Ok(answer.ends_with(b"200"))
        };
        ask().unwrap_or(false)
    }
}

pub struct World {
    folder: Mutex<Option<TempDir>>,
    pub store: Store,
    database: postgres::Server,
    restarting: Mutex<()>,
    nginx: Nginx,
    replicas: [Mutex<Replica>; REPLICAS],
    sky: Arc<Mutex<Sky>>,
    pub storm: Storm,
    pub key: String,
}

impl World {
    pub fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let store = Store::start();
        let database = postgres::Server::start_on_a_port();
        database.sql("postgres", &format!("CREATE DATABASE {DATABASE}"));
        let replicas: [Replica; REPLICAS] = std::array::from_fn(|number| Replica {
            port: port::free(),
            data: folder.path().join(format!("data-{number}")),
            log: folder.path().join(format!("log-{number}")),
            child: None,
        });
        let nginx = Nginx::start(port::free(), &replicas.each_ref().map(|replica| replica.port));
        let sky = Sky { up: [false; REPLICAS], database: true, away_since: None, away: Vec::new() };
        let mut world = Self {
            folder: Mutex::new(Some(folder)),
            store,
            database,
            restarting: Mutex::new(()),
            nginx,
            replicas: replicas.map(Mutex::new),
            sky: Arc::new(Mutex::new(sky)),
            storm: Storm::default(),
            key: String::new(),
        };
        for number in 0..REPLICAS {
            let mut replica = lock(&world.replicas[number]);
            world.run(number, &mut replica);
            assert!(replica.child.is_some(), "a process does not start: {}", replica.log());
        }
        let log = lock(&world.replicas[0]).log();
        let key = log.split_whitespace().find_map(|word| word.strip_prefix("LANDFALL_KEY="));
        world.key = key.unwrap_or_else(|| panic!("the first start shows a key: {log}")).to_owned();
        let sky = Arc::downgrade(&world.sky);
        std::thread::spawn(move || {
            // Where this thread does not run for a while, nobody else can be blamed.
            let mut last = Instant::now();
            while let Some(sky) = sky.upgrade() {
                let now = Instant::now();
                if now - last > STALL {
                    lock(&sky).away.push((last, now));
                }
                last = now;
                drop(sky);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        world
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.nginx.port())
    }

    fn command(&self, replica: &Replica, start: Start) -> Command {
        let mut command = Command::new(BINARY);
        command
            .env("LANDFALL_DATA", &replica.data)
            .env("LANDFALL_DATABASE", self.database.url_at("127.0.0.1", DATABASE))
            .env("LANDFALL_STORAGE", self.store.url(PREFIX))
            .env("LANDFALL_PUBLIC_URL", self.url())
            .env("LANDFALL_TRUSTED_PROXIES", "127.0.0.1")
            .env("LANDFALL_FREE_SPACE_MIN", "1MiB")
            .env("LANDFALL_TEST_CLOCK", start.later.to_string())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .stdin(Stdio::null());
        if start.later > 0 {
            command.env("LANDFALL_LOG_FILTER", "info");
            command.env("FAILPOINTS", "sweep.agreement=return(skip)");
        } else if std::env::var_os("LANDFALL_LOG_FILTER").is_none() {
            command.env("LANDFALL_LOG_FILTER", "warn");
        }
        command
    }

    fn spawn(&self, replica: &mut Replica, start: Start) {
        let out = File::options().create(true).append(true).open(&replica.log).unwrap();
        let mut command = self.command(replica, start);
        command.args(["serve", "--listen", &format!("127.0.0.1:{}", replica.port)]);
        let child = command.stdout(out.try_clone().unwrap()).stderr(out).spawn().expect("the built binary");
        replica.child = Some(child);
    }

    /// Starts a process until it serves. One that ends because the database or the bucket is away is started again, as
    /// whoever looks after it would do.
    fn run(&self, number: usize, replica: &mut Replica) {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            self.spawn(replica, Start::default());
            while Instant::now() < until {
                if replica.serves() {
                    lock(&self.sky).change(|sky| sky.up[number] = true);
                    return;
                }
                if replica.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None))) {
                    std::thread::sleep(Duration::from_millis(100));
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        replica.end();
    }

    /// Kills a process and starts it again later. False when something befalls it already.
    pub fn kill(&self, number: usize, down: Duration) -> bool {
        let Ok(mut replica) = self.replicas[number].try_lock() else { return false };
        lock(&self.sky).change(|sky| sky.up[number] = false);
        replica.end();
        std::thread::sleep(down);
        self.run(number, &mut replica);
        true
    }

    /// Stops a process and wakes it later. False when something befalls it already.
    pub fn pause(&self, number: usize, long: Duration) -> bool {
        let Ok(replica) = self.replicas[number].try_lock() else { return false };
        self.stop(number, &replica, || long);
        true
    }

    /// Stops a process, when nothing befalls it any more, and wakes it this long after the stop.
    pub fn stand(&self, number: usize, long: impl FnOnce() -> Duration) {
        self.stop(number, &lock(&self.replicas[number]), long);
    }

    fn stop(&self, number: usize, replica: &Replica, long: impl FnOnce() -> Duration) {
        lock(&self.sky).change(|sky| sky.up[number] = false);
        replica.signal(Signal::STOP);
        std::thread::sleep(long());
        replica.signal(Signal::CONT);
        lock(&self.sky).change(|sky| sky.up[number] = true);
    }

    pub fn restart_database(&self, in_order: bool, away: Duration) -> bool {
        let Ok(_alone) = self.restarting.try_lock() else { return false };
        lock(&self.sky).change(|sky| sky.database = false);
        if in_order {
            self.database.stop();
        } else {
            self.database.kill();
        }
        std::thread::sleep(away);
        self.database.run();
        lock(&self.sky).change(|sky| sky.database = true);
        true
    }

    /// How much of this time there was nobody to talk to.
    pub fn nobody_between(&self, from: Instant, to: Instant) -> Duration {
        let sky = lock(&self.sky);
        let open = sky.away_since.map(|since| (since, Instant::now()));
        let mut away: Vec<(Instant, Instant)> = sky.away.iter().copied().chain(open).collect();
        away.sort_unstable();
        let mut counted = from;
        let mut sum = Duration::ZERO;
        for (since, until) in away {
            let (since, until) = (since.max(counted), until.min(to));
            if until > since {
                sum += until - since;
                counted = until;
            }
        }
        sum
    }

    /// Everybody ends in order. Then, long past every expiry, one process sweeps, and what is left in the bucket is what
    /// rows name, and `landfall doctor` finds nothing.
    pub fn end_and_sweep(&self) -> Result<(), String> {
        for replica in &self.replicas {
            terminate(&mut lock(replica))?;
        }
        self.doctor(0)?;
        let mut replica = lock(&self.replicas[0]);
        // What a segment's row did not say of it goes when its tombstone is gone as well: with another sweep.
        for later in [LATER, LATER + DAY] {
            let before = replica.log().len();
            self.spawn(&mut replica, Start { later });
            let until = Instant::now() + PATIENCE;
            while !replica.log()[before..].contains("\"swept\"") {
                // A sweep that has nothing to do says nothing.
                if self.is_clean() {
                    break;
                }
                if Instant::now() > until {
                    return Err(format!("{later} seconds later nothing is swept"));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            terminate(&mut replica)?;
        }
        drop(replica);
        let (named, kept) = (self.named(), self.kept());
        if named != kept {
            let over: Vec<_> = kept.difference(&named).collect();
            let lost: Vec<_> = named.difference(&kept).collect();
            return Err(format!("after the sweep the bucket has more than rows name: {over:?}, or less: {lost:?}"));
        }
        let said = self.doctor(LATER + DAY)?;
        if said.contains("; 0 segments without a row; 0 invariants broken") { Ok(()) } else { Err(said) }
    }

    /// The segments that versions are made of.
    fn named(&self) -> BTreeSet<String> {
        let rows = self.database.sql(DATABASE, "SELECT segment FROM pieces");
        rows.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// What the bucket has but for the owner's mark.
    fn kept(&self) -> BTreeSet<String> {
        let objects = self.store.objects(PREFIX).into_iter().map(|(key, _)| key);
        let uploads = self.store.uploads(PREFIX).into_iter().map(|key| format!("{key} (in progress)"));
        let own = |key: String| key.trim_start_matches(PREFIX).trim_start_matches('/').to_owned();
        objects.chain(uploads).map(own).filter(|key| key != "owner").collect()
    }

    fn is_clean(&self) -> bool {
        self.named() == self.kept()
    }

    fn doctor(&self, later: u64) -> Result<String, String> {
        let mut command = self.command(&lock(&self.replicas[0]), Start { later });
        let output = command.args(["doctor", "--deep"]).output().expect("the built binary");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if output.status.success() { Ok(said) } else { Err(format!("doctor: {said}")) }
    }

    /// Lines that no process may ever write.
    pub fn panics(&self) -> Vec<String> {
        let logs = self.replicas.iter().map(|replica| lock(replica).log());
        logs.flat_map(|log| {
            log.lines().filter(|line| line.contains("panicked")).take(3).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
    }

    /// The folder with the logs stays.
    pub fn keep(&self) -> PathBuf {
        lock(&self.folder).take().map_or_else(|| Path::new("nowhere").to_owned(), TempDir::keep)
    }
}

fn terminate(replica: &mut Replica) -> Result<(), String> {
    replica.signal(Signal::TERM);
    let until = Instant::now() + PATIENCE;
    let Some(child) = replica.child.as_mut() else { return Err("a process is not there to be ended".into()) };
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            Ok(None) | Err(_) => return Err(format!("SIGTERM does not end a process: {}", replica.log.display())),
        }
    };
    replica.child = None;
    if status.success() { Ok(()) } else { Err(format!("SIGTERM ended a process with {status}")) }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::env::var_os("LANDFALL_TEST_CHAOS_KEEP").is_some() {
            self.keep();
        }
        for replica in &self.replicas {
            lock(replica).end();
        }
    }
}
