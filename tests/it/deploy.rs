//! What is shipped in `deploy/`, as far as a test can try it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{PROGRAM, Server, noise};
use crate::nginx::{self, Nginx};
use crate::postgres::port;

fn shipped(name: &str) -> String {
    std::fs::read_to_string(root().join("deploy").join(name)).unwrap()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What a block of a page of documentation says, from the line after its fence.
fn block_with(page: &str, line: &str) -> String {
    let block = page.split("```").skip(1).step_by(2).find(|block| block.lines().any(|l| l.trim() == line));
    let block = block.unwrap_or_else(|| panic!("no block has `{line}`"));
    block.split_once('\n').unwrap().1.to_owned()
}

#[test]
fn nginx_takes_the_shipped_file() {
    let said = nginx::checked(&[]).unwrap();
    assert!(said.contains("test is successful") && !said.contains("[warn]"), "{said}");
    // And the lines for TLS that its page shows.
    let tls = block_with(&shipped("README.md"), "listen 443 ssl;");
    let made = rcgen::generate_simple_self_signed(vec!["files.example.com".into()]).unwrap();
    let tls = tls.replace("/etc/ssl/", "FOLDER/").replace("443", &port::free().to_string());
    let files = [
        ("landfall-tls.conf", tls.as_str()),
        ("files.pem", &made.cert.pem()),
        ("files.key", &made.signing_key.serialize_pem()),
    ];
    let said = nginx::checked(&files).unwrap();
    assert!(said.contains("test is successful") && !said.contains("[warn]"), "{said}");
    assert!(nginx::checked(&[("landfall-tls.conf", "listen nonsense;")]).is_err(), "it is read");
}

/// A process that hears requests and answers none, but for those without a body that `answers` says.
struct Deaf {
    port: u16,
    heard: Receiver<String>,
}

impl Deaf {
    /// Hears heads; hangs up after each, or answers 200.
    fn new(answers: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (told, heard) = channel();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let mut socket: TcpStream = socket;
                socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte).is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                }
                if head.is_empty() {
                    continue;
                }
                if told.send(String::from_utf8_lossy(&head).into_owned()).is_err() {
                    return;
                }
                if answers {
                    let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    // Closed with unread bytes, the answer could be lost.
                    let _ = socket.shutdown(std::net::Shutdown::Write);
                    let _ = std::io::copy(&mut socket, &mut std::io::sink());
                }
            }
        });
        Self { port, heard }
    }

    fn heard(&self) -> Option<String> {
        self.heard.recv_timeout(Duration::from_secs(20)).ok()
    }

    fn heard_nothing(&self) -> bool {
        self.heard.recv_timeout(Duration::from_millis(300)).is_err()
    }
}

/// Sends a head, and a body after it; the status.
fn asked(port: u16, head: &str, body: &[u8]) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.write_all(format!("{head}\r\nHost: files.example.com\r\nConnection: close\r\n").as_bytes()).unwrap();
    if body.is_empty() {
        socket.write_all(b"\r\n").unwrap();
    } else {
        socket.write_all(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes()).unwrap();
        // Behind the head, as it comes from afar.
        std::thread::sleep(Duration::from_millis(50));
        let _ = socket.write_all(body);
    }
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn a_body_goes_to_one_process_and_what_may_be_repeated_to_another() {
    let (deaf, other) = (Deaf::new(false), Deaf::new(true));
    // Nobody listens on the first one's port: whatever it is, it goes to the next.
    let closed = port::free();
    let proxy = Nginx::start(port::free(), &[closed, other.port]);
    for _ in 0..2 {
        assert_eq!(asked(proxy.port(), "PUT /part/x HTTP/1.1", &[7; 300_000]), "200");
        assert_eq!(asked(proxy.port(), "POST /landfall/v1/uploads HTTP/1.1", b"{}"), "200");
        assert!(other.heard().is_some() && other.heard().is_some());
    }
    // It was heard, and nobody answers: a question is asked elsewhere, and a body is not sent again. Both get their turn.
    let proxy = Nginx::start(port::free(), &[deaf.port, other.port]);
    let (mut refused, mut asked_elsewhere) = (0, 0);
    for _ in 0..4 {
        let status = asked(proxy.port(), "PUT /part/x HTTP/1.1", &[7; 300_000]);
        match status.as_str() {
            "502" => {
                refused += 1;
                assert!(deaf.heard().is_some_and(|head| head.starts_with("PUT /part/x ")));
                assert!(other.heard_nothing(), "the body was sent to a second process");
            }
            "200" => assert!(other.heard().is_some() && deaf.heard_nothing()),
            _ => panic!("{status}"),
        }
        assert_eq!(asked(proxy.port(), "GET /readyz HTTP/1.1", b""), "200");
        assert!(other.heard().is_some());
        asked_elsewhere += usize::from(deaf.heard.try_recv().is_ok());
    }
    assert!(refused > 0 || asked_elsewhere > 0, "the deaf one is never asked");
}

/// A process that stands still: the system goes on taking its connections, and nobody reads what comes on them.
struct Still(TcpListener);

impl Still {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// How often it was tried.
    fn tries(&self) -> usize {
        self.0.set_nonblocking(true).unwrap();
        std::iter::from_fn(|| self.0.accept().ok()).count()
    }
}

/// A process that answers every head at once, but for one with a body, which it goes on waiting for.
fn busy() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while socket.read(&mut byte).is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                    let whole = head.ends_with(b"\r\n\r\n");
                    if whole && !String::from_utf8_lossy(&head).contains("Content-Length: 9") {
                        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                        head.clear();
                    }
                }
            });
        }
    });
    port
}

/// Sends a head like a client that gives up soon. The connection, and whether there was an answer.
fn tried(port: u16, head: &str) -> (TcpStream, bool) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket.write_all(format!("{head}\r\nHost: files.example.com\r\n\r\n").as_bytes()).unwrap();
    let mut answer = [0; 12];
    let answered = socket.read_exact(&mut answer).is_ok() && answer.ends_with(b"200");
    (socket, answered)
}

#[test]
fn a_process_that_stands_still_is_left_alone() {
    let still = Still::new();
    let proxy = Nginx::start(port::free(), &[still.port(), busy(), busy()]);
    // Whoever works has uploads under way, and so more connections than one whose clients have given up.
    let uploads: Vec<_> = (0..6).map(|_| tried(proxy.port(), "PUT /part/x HTTP/1.1\r\nContent-Length: 900")).collect();
    let mut answered = 0;
    for head in ["GET /x", "PUT /x", "POST /x", "DELETE /x"].into_iter().cycle().take(16) {
        answered += usize::from(tried(proxy.port(), &format!("{head} HTTP/1.1\r\nContent-Length: 0")).1);
    }
    drop(uploads);
    let tries = still.tries();
    assert!((1..=4).contains(&tries) && answered >= 14, "it was tried {tries} times, {answered} of 16 were answered");
}

#[test]
fn nobody_but_the_proxy_says_where_a_request_came_from() {
    let other = Deaf::new(true);
    let proxy = Nginx::start(port::free(), &[other.port]);
    let lie = "GET /x?y=%2F HTTP/1.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Prefix: /evil\r\n\
               X-Forwarded-For: 1.2.3.4";
    assert_eq!(asked(proxy.port(), lie, b""), "200");
    let head = other.heard().unwrap();
    assert!(
        head.starts_with("GET /x?y=%2F HTTP/1.1\r\n") && !head.contains("evil") && !head.contains("1.2.3.4"),
        "{head}"
    );
    for line in ["Host: files.example.com", "X-Forwarded-Proto: http", "X-Forwarded-Host: files.example.com"] {
        assert!(head.lines().any(|l| l == line), "{line}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_and_downloads_pass_the_proxy_as_they_are() {
    let port = port::free();
    let server = Server::start_with(|config| {
        config.set_text("public_url", &format!("http://127.0.0.1:{port}")).unwrap();
        config.set_text("trusted_proxies", "127.0.0.1").unwrap();
    })
    .await;
    let behind = server.address.port();
    let proxy = tokio::task::spawn_blocking(move || Nginx::start(port, &[behind])).await.unwrap();
    let content = noise(12_000_000);
    let base = format!("http://127.0.0.1:{}", proxy.port());
    let call = async |method: &str, url: String, body: Vec<u8>| {
        let request = server.http.request(method.parse().unwrap(), url).header("X-API-Key", &server.key);
        crate::harness::Reply::read(request.body(body).send().await.unwrap()).await
    };
    let ask = serde_json::json!({ "name": "a", "size": content.len(), "strategy": "single" });
    let request = server.http.post(format!("{base}/landfall/v1/uploads")).header("X-API-Key", &server.key);
    let request = request.header("Content-Type", "application/json").body(ask.to_string());
    let upload = crate::harness::Reply::read(request.send().await.unwrap()).await.expect(201).json();
    let url = upload["url"].as_str().unwrap();
    assert!(url.starts_with(&format!("{base}/")), "{url}");
    call("PUT", url.to_owned(), content.clone()).await.expect(200);
    let file = upload["file_id"].as_str().unwrap();
    let path = format!("{base}/landfall/v1/files/{file}/content");
    assert!(call("GET", path, Vec::new()).await.expect(200).body == content);
}

#[test]
fn systemd_takes_the_shipped_unit() {
    let Some(analyze) =
        ["/usr/bin/systemd-analyze", "/bin/systemd-analyze"].into_iter().find(|p| Path::new(p).is_file())
    else {
        return;
    };
    let unit = shipped("landfall.service");
    assert_eq!(unit.matches("/usr/local/bin/landfall").count(), 1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("landfall.service");
    std::fs::write(&path, unit.replace("/usr/local/bin/landfall", PROGRAM)).unwrap();
    let output = Command::new(analyze).arg("verify").arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && !said.contains("landfall.service:"), "{said}");
    // There is one copy of it.
    let manual = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    assert!(manual.contains("../deploy/landfall.service") && !manual.contains("ExecStart="));
}

/// A YAML file as JSON.
fn parsed(text: &str) -> Value {
    let script = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)";
    let mut child = Command::new("python3")
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "Debian's package python3-yaml is installed, and the file is YAML");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_containers_fit_each_other() {
    let text = shipped("compose.yaml");
    let compose = parsed(&text);
    let services = compose["services"].as_object().unwrap();
    let (one, two) = (&services["landfall-1"], &services["landfall-2"]);
    let but_volumes = |service: &Value| {
        let mut service = service.clone();
        service.as_object_mut().unwrap().remove("volumes");
        service
    };
    assert_eq!(but_volumes(one), but_volumes(two), "they differ in nothing but their data directories");
    assert_ne!(one["volumes"], two["volumes"]);
    // Only fields that there are.
    let manual = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    for (name, _) in one["environment"].as_object().unwrap() {
        assert!(name.starts_with("AWS_") || manual.contains(&format!("`{name}`")), "{name}");
    }
    for (name, service) in services {
        assert!(service["healthcheck"]["test"].is_array(), "{name} says how it is");
        assert!(service["restart"].is_string(), "{name} is started again");
        if let Some(image) = service["image"].as_str() {
            assert!(image.split_once(':').is_some_and(|(_, tag)| !tag.is_empty() && tag != "latest"), "{image}");
        }
        for other in service["depends_on"].as_object().into_iter().flatten().map(|(other, _)| other) {
            assert!(services.contains_key(other), "{name} waits for {other}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let from = volume.as_str().unwrap().split(':').next().unwrap();
            let known = match from.strip_prefix("./") {
                Some(file) => root().join("deploy").join(file).is_file(),
                None => compose["volumes"].as_object().unwrap().contains_key(from),
            };
            assert!(known, "{name} has {from}");
        }
    }
    for service in [one, two, &services["proxy"]] {
        assert!(service["healthcheck"]["test"].to_string().contains("/readyz"));
    }
    // Every secret is one that the page makes.
    let page = block_with(&shipped("README.md"), "docker compose up -d --build");
    for name in text.split("${").skip(1).filter_map(|rest| rest.split([':', '}']).next()) {
        assert!(page.lines().any(|line| line.starts_with(&format!("{name}="))), "{name}");
    }
    // What the proxy's command puts in place of something is there.
    let command = services["proxy"]["command"].to_string();
    let nginx = shipped("nginx.conf");
    for pattern in command.split("'s/").skip(1).filter_map(|rest| rest.split('/').next()) {
        assert_eq!(nginx.matches(pattern).count(), 1, "{pattern}");
    }
    // The database's user and name, and the bucket's, are those that are made.
    let database = one["environment"]["LANDFALL_DATABASE"].as_str().unwrap();
    let made = &services["database"]["environment"];
    assert!(database.starts_with(&format!("postgres://{}:", made["POSTGRES_USER"].as_str().unwrap())));
    assert!(database.contains(&format!("@database/{}?", made["POSTGRES_DB"].as_str().unwrap())));
    let bucket = services["bucket"]["environment"]["GARAGE_DEFAULT_BUCKET"].as_str().unwrap();
    let storage = one["environment"]["LANDFALL_STORAGE"].as_str().unwrap();
    assert!(storage.starts_with(&format!("s3://{bucket}/")));
    landfall::config::Config::default().set_text("storage", storage).unwrap();
}

#[test]
fn the_image_is_built_from_what_it_copies() {
    let text = shipped("Containerfile");
    let folder = tempfile::tempdir().unwrap();
    let copied: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("COPY ").filter(|line| !line.starts_with("--from")))
        .flat_map(|line| line.split(' ').rev().skip(1))
        .collect();
    for name in &copied {
        let done = Command::new("cp").arg("-r").arg(root().join(name)).arg(folder.path()).status().unwrap();
        assert!(done.success(), "{name}");
    }
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--no-deps", "--format-version=1"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // What the code includes from outside its folder.
    let mut folders = vec![root().join("src")];
    while let Some(directory) = folders.pop() {
        for path in std::fs::read_dir(&directory).unwrap().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let code = std::fs::read_to_string(&path).unwrap_or_default();
            for name in code.split("include_str!(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                let included = path.parent().unwrap().join(name).canonicalize().unwrap();
                let below = included.strip_prefix(root().canonicalize().unwrap()).unwrap().to_owned();
                assert!(folder.path().join(&below).is_file(), "{} includes {}", path.display(), below.display());
            }
        }
    }
    let user = text.lines().rfind(|line| line.starts_with("USER ")).unwrap();
    assert_ne!(user, "USER root");
    for image in text.lines().filter_map(|line| line.strip_prefix("FROM ")) {
        let image = image.split(' ').next().unwrap();
        assert!(image.split_once(':').is_some_and(|(_, tag)| tag != "latest"), "{image}");
    }
}
