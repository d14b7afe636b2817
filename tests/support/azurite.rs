//! Azurite, the emulator of Azure Blob Storage, run for tests: installed with npm at the versions of `azurite/package-lock.json`
//! into a cache outside the repository when it is not there. It listens on loopback at a free port, keeps everything in a
//! folder of its own, and ends with this process.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "each test binary uses a part of it; the bans are the server's"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;

/// The account that the emulator has, and its key, which are the same everywhere.
pub const ACCOUNT: &str = "devstoreaccount1";
pub const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// The one container.
pub const CONTAINER: &str = "bytes";

/// Runs it until this process is gone, and with it what it reads from; nobody drops what is static. Then its folder goes too.
/// What was deleted it keeps for a minute, and not for twenty.
const UNTIL: &str = "
    process.stdin.on('end', () => {
        require('fs').rmSync(process.cwd(), { recursive: true, force: true });
        process.exit();
    }).resume();
    const at = require('path').dirname(process.argv[1]);
    require(`${at}/utils/constants`).DEFAULT_GC_INTERVAL_MS = 15_000;
    require(`${at}/../common/utils/constants`).DEFAULT_EXTENT_GC_PROTECT_TIME_IN_MS = 45_000;
    require(process.argv[1]);
";

/// A running emulator. Ends with its guard, or with this process.
pub struct Azurite {
    /// Before the container in a URL.
    endpoint: String,
    credentials: PathBuf,
    _directory: tempfile::TempDir,
    child: Child,
    _until: ChildStdin,
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

static SHARED: LazyLock<Azurite> = LazyLock::new(Azurite::start);

impl Azurite {
    /// The one of this process.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let credentials = directory.path().join("credentials");
        fs::write(&credentials, format!("AZURE_STORAGE_ACCOUNT_KEY={KEY}\n")).unwrap();
        let mut child = Command::new("node")
            .args(["-e", UNTIL])
            .arg(installed().join("node_modules/azurite/dist/src/blob/main.js"))
            .args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--skipApiVersionCheck"])
            .args(["--silent", "--disableTelemetry", "--location", "."])
            .current_dir(directory.path())
            // What it would leave elsewhere goes with the folder.
            .env("TMPDIR", directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("node, which runs the emulator");
        let until = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let endpoint = lines.find_map(|line| {
            let line = line.unwrap();
            Some(line.split_once("listens on ")?.1.trim().to_owned())
        });
        let endpoint = format!("{}/{ACCOUNT}", endpoint.expect("the emulator says where it listens"));
        // What else it says is not wanted, and must not stand in its way.
        std::thread::spawn(move || lines.for_each(drop));
        let azurite = Self { endpoint, credentials, _directory: directory, child, _until: until };
        azurite.make_container();
        azurite
    }

    /// The container is made by Node's own client of HTTP with a signature of the vendor's rules, so that no code of the
    /// server's is needed for it.
    fn make_container(&self) {
        let script = r"
            const [url, account, key, name] = process.argv.slice(1);
            const date = new Date().toUTCString(), version = '2021-12-02';
            const resource = `/${account}${new URL(url).pathname}/${name}\nrestype:container`;
            const text = `PUT${'\n'.repeat(12)}x-ms-date:${date}\nx-ms-version:${version}\n${resource}`;
            const hmac = require('crypto').createHmac('sha256', Buffer.from(key, 'base64')).update(text).digest('base64');
            const headers = { 'x-ms-date': date, 'x-ms-version': version, authorization: `SharedKey ${account}:${hmac}` };
            const request = require('http').request(`${url}/${name}?restype=container`, { method: 'PUT', headers });
            request.on('response', (answer) => {
                console.log(answer.statusCode);
                process.exit([201, 409].includes(answer.statusCode) ? 0 : 1);
            }).end();
        ";
        let made = Command::new("node").args(["-e", script, &self.endpoint, ACCOUNT, KEY, CONTAINER]).output().unwrap();
        assert!(made.status.success(), "a container: {}", String::from_utf8_lossy(&made.stdout));
    }

    /// What stands before the container in a URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The container for the configuration's field `storage`.
    pub fn url(&self, prefix: &str) -> String {
        self.url_at(&self.endpoint, prefix)
    }

    /// The same where something stands in front of it.
    pub fn url_at(&self, endpoint: &str, prefix: &str) -> String {
        let credentials = self.credentials.display();
        format!("az://{ACCOUNT}/{CONTAINER}/{prefix}?endpoint={endpoint}&credentials={credentials}")
    }
}

/// Where it is installed.
fn installed() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/azurite");
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("LANDFALL_TEST_CACHE").unwrap_or_else(|| {
        let home = || variable("HOME").unwrap_or_else(std::env::temp_dir).join(".cache");
        variable("XDG_CACHE_HOME").unwrap_or_else(home).join("landfall")
    });
    let cache = cache.join("azurite");
    fs::create_dir_all(&cache).unwrap();
    // Several processes may want it at once.
    let lock = fs::File::create(cache.join("lock")).unwrap();
    lock.lock().unwrap();
    let (wanted, have) = (here.join("package-lock.json"), cache.join("installed-lock.json"));
    if fs::read(&have).ok() != fs::read(&wanted).ok() {
        for name in ["package.json", "package-lock.json"] {
            fs::copy(here.join(name), cache.join(name)).unwrap();
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&cache).stdout(Stdio::null());
        let outcome = npm.status().expect("npm, which installs the emulator");
        assert!(outcome.success(), "the emulator could not be installed into {}", cache.display());
        // Last, so that an interrupted installation is begun again.
        fs::copy(&wanted, &have).unwrap();
    }
    cache
}
