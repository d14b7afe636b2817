//! Servers as processes of their own, and what the system says of them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server.
pub struct Server {
    child: Child,
    pub port: u16,
    pub key: String,
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

fn until_listening(port: u16, child: &mut Child) {
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the server does not listen");
        assert!(child.try_wait().expect("a child").is_none(), "the server ended");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// This project's server, on a new data directory.
pub fn landfall(data: &Path, digests: &str) -> Server {
    landfall_with(data, &[("LANDFALL_DIGESTS", digests)])
}

/// The same with other settings.
pub fn landfall_with(data: &Path, settings: &[(&str, &str)]) -> Server {
    let port = free_port();
    let (mut child, mut lines) = spawn(data, settings, port);
    let form = |word: &&str| word.len() == 38 && word.starts_with("lf") && word.matches('-').count() == 4;
    let key = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).find(form).map(str::to_owned));
    let key = key.expect("the first start prints a key");
    std::thread::spawn(move || lines.for_each(drop));
    until_listening(port, &mut child);
    Server { child, port, key }
}

type Lines = std::io::Lines<BufReader<std::process::ChildStdout>>;

fn spawn(data: &Path, settings: &[(&str, &str)], port: u16) -> (Child, Lines) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_landfall"))
        .args(["serve", "--data"])
        .arg(data)
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .envs(settings.iter().copied())
        .env("LANDFALL_LOG_FILTER", "warn")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the built server");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    (child, lines)
}

/// nginx with WebDAV and a body buffer of 512 KiB.
pub fn nginx(program: &Path, directory: &Path) -> Server {
    let port = free_port();
    let files = directory.join("files");
    fs::create_dir_all(&files).expect("a directory");
    let at = directory.display();
    let configuration = format!(
        "daemon off; worker_processes 2; pid {at}/pid; error_log /dev/null;\n\
         events {{ worker_connections 2048; }}\n\
         http {{ access_log off; client_body_buffer_size 512k; client_max_body_size 0; client_body_temp_path {at}/temp;\n\
         server {{ listen 127.0.0.1:{port}; location / {{ root {at}/files; dav_methods PUT; }} }} }}\n"
    );
    // Its workers run as somebody else when it is started by root.
    let user = if fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0) {
        "user root;\n"
    } else {
        ""
    };
    let path = directory.join("nginx.conf");
    fs::write(&path, format!("{user}{configuration}")).expect("a configuration");
    let child = Command::new(program)
        .args(["-e", "/dev/null", "-p"])
        .arg(directory)
        .arg("-c")
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx");
    Server::of(child, port)
}

/// tusd with its defaults.
pub fn tusd(program: &Path, directory: &Path) -> Server {
    let port = free_port();
    fs::create_dir_all(directory).expect("a directory");
    let child = Command::new(program)
        .args(["-host", "127.0.0.1", "-port", &port.to_string(), "-hooks-enabled-events", "", "-upload-dir"])
        .arg(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("tusd");
    Server::of(child, port)
}

impl Server {
    /// A process, as soon as it listens.
    pub fn of(mut child: Child, port: u16) -> Self {
        until_listening(port, &mut child);
        Self { child, port, key: String::new() }
    }

    fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut at = 0;
        while let Some(pid) = all.get(at).copied() {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            at += 1;
        }
        all
    }

    /// Processor time that it has used, in user and kernel mode.
    pub fn cpu_seconds(&self) -> f64 {
        self.processes().into_iter().map(|pid| crate::load::cpu_seconds_of(&pid.to_string())).sum()
    }

    /// The most memory that it ever had, in MiB.
    pub fn peak_mib(&self) -> f64 {
        let peak = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        };
        self.processes().into_iter().filter_map(peak).sum::<f64>() / 1024.0
    }

    /// Kills it as a crash would, and starts it again at once on the same port.
    pub fn killed_and_started_again(mut self, data: &Path) -> Self {
        self.child.kill().expect("a process");
        self.child.wait().expect("a process");
        let (mut child, lines) = spawn(data, &[("LANDFALL_DIGESTS", "md5")], self.port);
        std::thread::spawn(move || lines.for_each(drop));
        until_listening(self.port, &mut child);
        Self { child, port: self.port, key: self.key }
    }

    /// Ends it.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let begun = Instant::now();
        while self.child.try_wait().expect("a child").is_none() {
            if begun.elapsed() > Duration::from_secs(15) {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
