//! A PostgreSQL server for tests, of the machine's own package: with data of its own, reached through a socket in a temporary
//! folder, and gone when the process of the tests is, however that ends. Also compiled into the tests under `tests/`.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, reason = "a test that can't have a server fails")]
#![allow(clippy::zombie_processes, reason = "the watchdog outlives this process")]

#[path = "../../tests/support/port.rs"]
pub(crate) mod port;

use std::io::{PipeWriter, pipe};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// How often something is asked before it counts as never happening, and the pause between.
const TRIES: usize = 600;
const PAUSE: Duration = Duration::from_millis(50);

/// The user that a server makes for us.
const USER: &str = "landfall";
/// What the socket of a server is named after that listens on no port.
const NO_PORT: u16 = 5432;

/// A server. It is stopped when this is dropped, or when the process ends.
#[derive(Debug)]
pub(crate) struct Server {
    directory: PathBuf,
    /// On loopback, where it listens on one.
    port: Option<u16>,
    child: Mutex<Option<Child>>,
    /// Closed with this process, which is what the watchdog waits for.
    _alive: PipeWriter,
}

/// The server that all tests of this process share, each with a database of its own.
pub(crate) fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(Server::start)
}

/// A database of its own, which goes with this.
#[derive(Debug)]
pub(crate) struct Fresh {
    server: &'static Server,
    name: String,
}

impl Fresh {
    /// A new database, a copy of one that `fill` made once in this process.
    pub(crate) fn filled_by(fill: fn(&str)) -> Self {
        static TEMPLATE: OnceLock<()> = OnceLock::new();
        TEMPLATE.get_or_init(|| {
            shared().sql("postgres", "CREATE DATABASE filled");
            // On a thread of its own: it may wait for answers in its way.
            std::thread::spawn(move || fill(&shared().url("filled"))).join().expect("a database is filled");
        });
        Self::copied_from("filled")
    }

    /// A new database with nothing in it.
    pub(crate) fn empty() -> Self {
        Self::copied_from("template0")
    }

    /// A copy of this one, which nobody may be connected to.
    pub(crate) fn copied(&self) -> Self {
        Self::copied_from(&self.name)
    }

    fn copied_from(template: &str) -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        // A template is copied while nobody looks at it, so one at a time.
        static COPYING: Mutex<()> = Mutex::new(());
        let name = format!("test{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let copying = COPYING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared().sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {template}"));
        drop(copying);
        Self { server: shared(), name }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// Runs statements in it.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.server.sql(&self.name, sql)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Saves it to a file, as an operator would.
    pub(crate) fn dump(&self, file: &Path) {
        self.server.tool("pg_dump", &["--format=custom", "--file", file.to_str().unwrap(), &self.name]);
    }

    /// Makes it again what it was when it was saved.
    pub(crate) fn restore(&self, file: &Path) {
        self.server.sql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.name));
        self.server.sql("postgres", &format!("CREATE DATABASE {} TEMPLATE template0", self.name));
        self.server.tool("pg_restore", &["--exit-on-error", "--dbname", &self.name, file.to_str().unwrap()]);
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        self.server.try_sql("postgres", &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)).ok();
    }
}

/// The folder of the newest installed server's programs.
fn programs() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.filter_map(Result::ok).collect::<Vec<_>>())
        .unwrap_or_default()
        .into_iter()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, programs)| programs.join("initdb").is_file() && programs.join("postgres").is_file())
        .collect();
    found.sort();
    found.pop().expect("Debian's package postgresql is installed").1
}

/// The server refuses to run as root: then it is another user's.
fn as_other(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}

impl Server {
    /// Makes a server with data of its own.
    pub(crate) fn start() -> Self {
        Self::start_on(None)
    }

    /// Makes one that also listens on a free port of loopback.
    pub(crate) fn start_on_a_port() -> Self {
        Self::start_on(Some(port::free()))
    }

    fn start_on(port: Option<u16>) -> Self {
        let directory = tempfile::Builder::new().prefix("landfall-postgres").tempdir().unwrap().keep();
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        let data = directory.join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();
        if rustix::process::geteuid().is_root() {
            let chown = Command::new("chown").arg("-R").arg("postgres:postgres").arg(&directory).status();
            assert!(chown.unwrap().success(), "chown");
        }
        let (wait, alive) = pipe().unwrap();
        // Ends the server when nobody holds the other end of the pipe any more, and takes the data away.
        let script = "trap '' INT TERM HUP; cat; kill -QUIT $(head -n 1 \"$1/data/postmaster.pid\") 2>/dev/null; \
                      for i in 1 2 3 4 5 6 7 8 9 10; do [ -e \"$1/data/postmaster.pid\" ] || break; sleep 0.2; done; rm -rf \"$1\"";
        Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&directory)
            .stdin(wait)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let made = as_other(&programs().join("initdb"))
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username", USER, "--pgdata"])
            .arg(&data)
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let server = Self { directory, port, child: Mutex::default(), _alive: alive };
        server.run();
        server
    }

    /// Starts it again after [`Self::kill`].
    pub(crate) fn run(&self) {
        self.run_with(&[]);
    }

    /// The same with other settings.
    pub(crate) fn run_with(&self, settings: &[&str]) {
        let log = std::fs::File::options().create(true).append(true).open(self.directory.join("log")).unwrap();
        let child = as_other(&programs().join("postgres"))
            .arg("-D")
            .arg(self.directory.join("data"))
            .arg("-k")
            .arg(&self.directory)
            .args(["-c", if self.port.is_some() { "listen_addresses=127.0.0.1" } else { "listen_addresses=" }])
            .args(["-c", &format!("port={}", self.port.unwrap_or(NO_PORT))])
            .args(["-c", "max_connections=400", "-c", "shared_buffers=64MB"])
            .args(["-c", "fsync=on", "-c", "autovacuum=off", "-c", "max_wal_size=4GB"])
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        *self.child.lock().unwrap() = Some(child);
        for _ in 0..TRIES {
            if self.try_sql("postgres", "SELECT 1").is_ok() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        panic!(
            "the server does not start: {}",
            std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
        );
    }

    /// Stops it as a crash would: nothing is written any more.
    pub(crate) fn kill(&self) {
        self.end_with(rustix::process::Signal::QUIT);
    }

    /// Stops it in order, whoever is connected.
    pub(crate) fn stop(&self) {
        self.end_with(rustix::process::Signal::INT);
    }

    fn end_with(&self, signal: rustix::process::Signal) {
        self.signal(signal);
        let child = self.child.lock().unwrap().take();
        child.expect("a running server").wait().unwrap();
    }

    /// Sends a signal to its first process.
    fn signal(&self, signal: rustix::process::Signal) {
        // The child is the server itself: what changes the user does not stay in between.
        let id = self.child.lock().unwrap().as_ref().expect("a running server").id();
        let id = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join(format!(".s.PGSQL.{}", self.port.unwrap_or(NO_PORT)))
    }

    pub(crate) fn url(&self, database: &str) -> String {
        let port = self.port.unwrap_or(NO_PORT);
        format!("postgres:///{database}?host={}&port={port}&user={USER}", self.directory.display())
    }

    /// The same by its port, of this host.
    pub(crate) fn url_at(&self, host: &str, database: &str) -> String {
        format!("postgres://{USER}@{host}:{}/{database}", self.port.expect("a server on a port"))
    }

    /// Puts a file beside its data that only the server may read. Its path.
    pub(crate) fn place(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        if rustix::process::geteuid().is_root() {
            let chown = Command::new("chown").arg("postgres:postgres").arg(&path).status();
            assert!(chown.unwrap().success(), "chown");
        }
        path
    }

    /// Runs one of PostgreSQL's own programs on it.
    fn tool(&self, program: &str, arguments: &[&str]) {
        let output = Command::new(programs().join(program))
            .args(["--username", USER, "--port", &self.port.unwrap_or(NO_PORT).to_string(), "--host"])
            .arg(&self.directory)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs statements in a database; what they answer, a line each.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same, with what goes wrong.
    pub(crate) fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = Command::new(programs().join("psql"))
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"])
            .args(["--username", USER, "--dbname", database, "--command", sql])
            .args(["--port", &self.port.unwrap_or(NO_PORT).to_string(), "--host"])
            .arg(&self.directory)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.lock().unwrap().is_some() {
            self.kill();
        }
    }
}
