//! nginx of the machine's own package, with the configuration that is shipped: `deploy/nginx.conf`, in which ports and folders
//! are put in place of its own and nothing else.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test binary uses a part of it; the bans are the server's"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::postgres::port;

const SHIPPED: &str = include_str!("../../deploy/nginx.conf");

/// A running nginx. Ends with its guard.
pub struct Nginx {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

/// One text for another, which must be there exactly once: what is shipped may not change unseen.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "deploy/nginx.conf has `{from}` once");
    text.replace(from, to)
}

/// The shipped file for a folder of its own, a port, and these processes.
fn rendered(folder: &Path, port: u16, processes: &[u16]) -> String {
    let folder = folder.display();
    let mut servers = String::new();
    for process in processes {
        let _ = writeln!(servers, "        server 127.0.0.1:{process} max_fails=3 fail_timeout=1s;");
    }
    let shipped_servers = "        server 127.0.0.1:8081 max_fails=3 fail_timeout=1s;\n        \
                           server 127.0.0.1:8082 max_fails=3 fail_timeout=1s;\n";
    let mut text = replaced(SHIPPED, shipped_servers, &servers);
    text = replaced(&text, "listen 80;", &format!("listen 127.0.0.1:{port};"));
    text = replaced(&text, "pid /run/nginx.pid;", &format!("pid {folder}/nginx.pid;"));
    text = replaced(&text, "/var/log/nginx/error.log", &format!("{folder}/error.log"));
    text = replaced(&text, "include /etc/nginx/landfall-tls*.conf;", &format!("include {folder}/landfall-tls*.conf;"));
    // Folders that only root may make.
    let mut folders = String::from("http {\n");
    for name in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(folders, "    {name}_temp_path {folder}/{name};");
    }
    replaced(&text, "http {\n", &folders)
}

fn program() -> PathBuf {
    // It is on root's path alone.
    ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .expect("Debian's package nginx-light (or nginx) is installed")
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(program());
    command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf")).stdin(Stdio::null());
    command.arg("-e").arg(folder.join("error.log"));
    command
}

/// A folder in which nginx finds the shipped file; its workers may be another user's.
fn folder(port: u16, processes: &[u16]) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new().prefix("landfall-nginx").tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(folder.path().join("nginx.conf"), rendered(folder.path(), port, processes)).unwrap();
    folder
}

/// What `nginx -t` says of the shipped file, with these files beside it, in which `FOLDER` is where they are.
pub fn checked(beside: &[(&str, &str)]) -> Result<String, String> {
    let folder = folder(port::free(), &[1, 2, 3]);
    for (name, text) in beside {
        let text = text.replace("FOLDER", &folder.path().display().to_string());
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let output = command(folder.path()).arg("-t").output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(said) } else { Err(said) }
}

impl Nginx {
    /// Starts it in front of processes on these ports.
    pub fn start(port: u16, processes: &[u16]) -> Self {
        let folder = folder(port, processes);
        let log = std::fs::File::create(folder.path().join("out")).unwrap();
        let child = command(folder.path())
            .args(["-g", "daemon off;"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("nginx starts");
        let mut nginx = Self { child, port, folder };
        for _ in 0..600 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return nginx;
            }
            let ended = nginx.child.try_wait().unwrap();
            assert!(ended.is_none(), "nginx ended with {ended:?}: {}", nginx.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("nginx does not listen: {}", nginx.log());
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        read("out") + &read("error.log")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The first process ends its workers at once when it is asked to.
        let id = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        for _ in 0..250 {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
