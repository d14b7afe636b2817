//! The lines that a first start prints are pasted into a shell, in the order in which they stand there.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Home, PROGRAM, client, program};
use crate::process::on_disk;

/// A first start; it ends with its guard.
struct First {
    server: Child,
    dir: Home,
}

impl First {
    fn new() -> Self {
        let dir = Home::new();
        let file = |name: &str| std::fs::File::create(dir.path().join(name)).unwrap();
        let server = program(&dir.path().join("data"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(dir.path().join("data"))
            .stdout(file("out"))
            .stderr(file("log"))
            .spawn()
            .expect("the built binary");
        Self { server, dir }
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.path().join(name)).unwrap()).into_owned()
    }

    /// What it printed, once it printed all of it.
    async fn said(&mut self) -> String {
        for _ in 0..3_000 {
            let out = self.read("out");
            if out.contains("/downloadlink") && out.ends_with("\n\n") {
                return out;
            }
            assert!(self.server.try_wait().unwrap().is_none(), "it ended: {}", self.read("log"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it does not introduce itself: {}{}", self.read("out"), self.read("log"));
    }
}

impl Drop for First {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The indented lines of a text.
fn lines(text: &str) -> String {
    text.lines().filter_map(|line| line.strip_prefix("    ")).map(|line| format!("{line}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_lines_can_be_pasted() {
    let mut first = First::new();
    let said = first.said().await;
    // The key stands alone before the lines.
    let (head, rest) = said.split_once("All of the following").expect("lines");
    let key = lines(head).trim().to_owned();
    assert!(!key.is_empty() && !key.contains(char::is_whitespace), "{said}");
    let script = lines(rest);
    let base = script.split_once("LANDFALL_URL=").unwrap().1.split(' ').next().unwrap().to_owned();
    assert!(script.contains(&format!("LANDFALL_KEY={key}\n")), "{script}");
    assert_eq!(said.matches("LANDFALL_KEY=").count(), 1, "it is set once: {said}");
    let desk = first.dir.path().join("desk");
    std::fs::create_dir(&desk).unwrap();
    let mut shell = Command::new("bash");
    shell.args(["-e", "-u", "-o", "pipefail", "-c", &script]).current_dir(&desk).stdin(Stdio::null());
    let program = std::path::Path::new(PROGRAM).parent().unwrap();
    shell.env("PATH", format!("{}:{}", program.display(), std::env::var("PATH").unwrap()));
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        shell.env_remove(name);
    }
    for name in ["LANDFALL_URL", "LANDFALL_KEY"] {
        shell.env_remove(name);
    }
    let output = tokio::task::spawn_blocking(move || shell.output()).await.unwrap().expect("bash");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {out}\n{err}", output.status);
    // What `put` sent, `ls` shows and `get` fetched.
    let big = std::fs::read(desk.join("big.txt")).unwrap();
    assert!(big.starts_with(b"a needle") && big == std::fs::read(desk.join("copy.txt")).unwrap());
    let listed = out.lines().find(|line| line.ends_with("  big.txt")).unwrap_or_else(|| panic!("{out}"));
    assert!(listed.contains("MiB"), "{listed}");
    // Each of the other APIs took what it was sent.
    let http = client();
    let get = async |path: &str| -> Value {
        let reply = http.get(format!("{base}{path}")).bearer_auth(&key).send().await.unwrap();
        assert_eq!(reply.status(), 200, "{path}");
        serde_json::from_str(&reply.text().await.unwrap()).unwrap()
    };
    let names = |list: &Value, name: &str| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|item| item[name].as_str().unwrap().to_owned()).collect()
    };
    let files = names(&get("/landfall/v1/files").await, "name");
    assert_eq!(files.iter().filter(|name| *name == "big.txt").count(), 3, "{files:?}");
    let link = out.rsplit_once("\"downloadUrl\":\"").unwrap_or_else(|| panic!("{out}")).1.split('"').next().unwrap();
    let parts = http.get(link).send().await.unwrap();
    assert!(parts.status() == 200 && parts.bytes().await.unwrap() == big);
    // Texts are read in the background.
    for path in ["/landfall/v1/sources/default-files/items?query=needle", &found_in_store(&script)] {
        let mut found = Value::Null;
        for _ in 0..3_000 {
            found = get(path).await;
            if found["items"].as_array().is_some_and(|items| !items.is_empty()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(found["items"].as_array().map(Vec::len), Some(1), "{path}: {found}");
    }
}

/// The path of the search in the store.
fn found_in_store(script: &str) -> String {
    let (_, rest) = script.rsplit_once("$LANDFALL_URL/landfall/v1/stores/").expect("a search in a store");
    format!("/landfall/v1/stores/{}", rest.split('"').next().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_can_t_listen_says_what_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = |listen: &str, variables: &[(&str, &str)]| {
        let mut command = on_disk(folder.path()).command();
        let output = command.args(["serve", "--listen", listen]).envs(variables.iter().copied()).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&address, &[]);
    assert_eq!(said.matches("can't listen on").count(), 1, "{said}");
    assert!(said.contains(&address) && said.contains("give --listen another address"), "{said}");
    let files = [("LANDFALL_TLS_CERTIFICATE", "/nowhere/c.pem"), ("LANDFALL_TLS_KEY", "/nowhere/k.pem")];
    let said = refused("127.0.0.1:0", &files);
    assert!(
        said.contains("`tls_certificate`") && said.contains("/nowhere/c.pem") && !said.contains("--listen"),
        "{said}"
    );
}
