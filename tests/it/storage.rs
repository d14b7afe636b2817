//! Bytes in a bucket: what of it a client and an operator can see. The rest of this suite runs on one with
//! `LANDFALL_TEST_STORAGE=s3`.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bucket::{Harm, Store};
use crate::harness::{Binary, PROGRAM, Server, bytes_of, noise, program};

async fn on(store: &Store) -> Server {
    Server::start_with(|config| config.set_text("storage", &store.url("here")).unwrap()).await
}

/// Waits for what happens in the background.
async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it does not come to be");
}

async fn opened(server: &Server, ask: Value) -> Value {
    server.native("POST", "/uploads").json(ask).send().await.expect(201).json()
}

async fn committed(server: &Server, upload: &Value) {
    let path = format!("/uploads/{}/commit", upload["id"].as_str().unwrap());
    server.native("POST", &path).send().await.expect(200);
}

async fn content(server: &Server, id: &Value) -> Vec<u8> {
    server.native("GET", &format!("/files/{}/content", id.as_str().unwrap())).send().await.expect(200).body
}

#[tokio::test(flavor = "multi_thread")]
async fn every_strategy_comes_back_as_it_was_sent() {
    let store = Store::start();
    let mut server = on(&store).await;
    let data = noise(20_000_000);
    // One PUT.
    let upload = opened(&server, json!({ "name": "a", "size": data.len(), "strategy": "single" })).await;
    server.bare("PUT", upload["url"].as_str().unwrap()).body(data.clone()).send().await.expect(200);
    committed(&server, &upload).await;
    assert!(content(&server, &upload["file_id"]).await == data);
    // A resumable session with a restart between, so that another process seals what the first one left.
    let session = opened(&server, json!({ "name": "b", "size": data.len(), "strategy": "resumable" })).await;
    let url = session["url"].as_str().unwrap().to_owned();
    let size = data.len();
    let (mut from, step) = (0, 9 * 1024 * 1024);
    while from < size {
        let to = size.min(from + step);
        let range = format!("bytes {from}-{}/{size}", to - 1);
        let reply = server.bare("PUT", &url).header("Content-Range", &range).body(&data[from..to]).send().await;
        reply.expect(if to == size { 200 } else { 308 });
        server.restart().await;
        from = to;
    }
    committed(&server, &session).await;
    assert!(content(&server, &session["file_id"]).await == data);
    // Parts.
    let ask = json!({ "name": "c", "size": size, "strategy": "multipart", "parts": 2 });
    let upload = opened(&server, ask).await;
    for (part, url) in data.chunks(size / 2).zip(upload["part_urls"].as_array().unwrap()) {
        server.bare("PUT", url.as_str().unwrap()).body(part).send().await.expect(200);
    }
    committed(&server, &upload).await;
    assert!(content(&server, &upload["file_id"]).await == data);
    // Ranges.
    let path = format!("/files/{}/content", session["file_id"].as_str().unwrap());
    for (from, to) in [(0, 0), (9_437_000, 9_438_000), (19_999_999, 19_999_999)] {
        let reply = server.native("GET", &path).header("Range", &format!("bytes={from}-{to}")).send().await.expect(206);
        assert!(reply.body == data[from..=to]);
    }
    assert!(store.uploads("").is_empty());
    until(|| store.objects("here/").len() == 1 + 1 + 3 + 2).await;
    let (data, _kept) = server.stopped().await;
    let mut doctor = tokio::process::Command::from(program(&data));
    doctor.args(["doctor", "--deep", "--data"]).arg(&data).env("LANDFALL_STORAGE", store.url("here"));
    let output = doctor.output().await.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("; 0 segments without a row; 0 invariants"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_45_upload_urls_lead_to_the_server() {
    let store = Store::start();
    let server = on(&store).await;
    let path = |rest: &str| format!("/api/v1/projects/{}/files/{rest}", server.tenant);
    for client in ["CognitePythonSDK:8.22.0", "CognitePythonSDK:7.0.0", ""] {
        let ask = |path: String| server.call("POST", path).header("x-cdp-sdk", client).json(json!({ "name": "a" }));
        let parts = ask(path("initmultipartupload?parts=2")).send().await.json();
        let urls: Vec<&str> = parts["uploadUrls"].as_array().unwrap().iter().map(|url| url.as_str().unwrap()).collect();
        assert!(urls.len() == 2 && urls.iter().all(|url| url.starts_with(&server.url("/"))), "{urls:?}");
        let whole = ask(path("").trim_end_matches('/').to_owned()).send().await.json();
        assert!(whole["uploadUrl"].as_str().unwrap().starts_with(&server.url("/")), "{whole}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_told_and_comes_back() {
    let store = Store::start();
    let server = on(&store).await;
    let ready = async || server.bare("GET", &server.url("/readyz")).send().await.status;
    assert_eq!(ready().await, 200);
    for what in ["HeadBucket", "PutObject", "HeadObject", "GetObject"] {
        store.harm(what, u32::MAX, Harm::Refuse(503, "SlowDown"));
    }
    assert_eq!(ready().await, 503);
    let upload = opened(&server, json!({ "name": "a", "size": 5, "strategy": "single" })).await;
    let put = async || server.bare("PUT", upload["url"].as_str().unwrap()).body("12345").send().await;
    let refused = put().await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    store.spare();
    put().await.expect(200);
    committed(&server, &upload).await;
    assert_eq!(ready().await, 200);
    assert_eq!(content(&server, &upload["file_id"]).await, b"12345");
    // What is damaged or lost in the store never looks whole.
    let key = store.objects("here/").into_iter().find(|(key, _)| !key.ends_with("owner")).unwrap().0;
    store.damage(&key, 2);
    let path = format!("/files/{}/content", upload["file_id"].as_str().unwrap());
    let url = server.url(&format!("/landfall/v1{path}"));
    // It breaks off, perhaps before the head of the answer is out.
    if let Ok(damaged) = server.http.get(&url).bearer_auth(&server.key).send().await {
        assert!(damaged.bytes().await.is_err());
    }
    store.lose(&key);
    assert_eq!(server.native("GET", &path).send().await.status, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_stream_needs_little_memory() {
    const LENGTH: u64 = 300 * 1024 * 1024;
    let store = Store::start();
    let mut server = Binary::start(&format!("storage = {:?}\ncontainer_max = \"1GiB\"", store.url("long"))).await;
    let container = server.container().await;
    let before = server.resident();
    store.calls();
    let reply = server.put(&container.upload_uri, Some(LENGTH), bytes_of(LENGTH)).await;
    reply.expect(200);
    assert!(server.peak() - before < 100 * 1024 * 1024, "{} before, {} at most", before, server.peak());
    // One for each 8 MiB, and perhaps one that was made again.
    let parts = store.count("UploadPart");
    assert!((38..=60).contains(&parts), "{parts}");
    assert_eq!(store.objects("long/").iter().map(|(_, size)| size).max(), Some(&LENGTH));
    server.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_can_not_be_used_is_told_before_a_port_is_bound() {
    let store = Store::start();
    let serve = async |storage: String, data: &std::path::Path| {
        let mut command = tokio::process::Command::new(PROGRAM);
        command.args(["serve", "--listen", "127.0.0.1:0", "--storage", &storage, "--data"]).arg(data);
        command.env("AWS_EC2_METADATA_DISABLED", "true").stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await.expect("it ends").unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let directory = tempfile::tempdir().unwrap();
    let data = |name: &str| directory.path().join(name);
    let said = serve("s3://bytes/x?colour=red".into(), &data("a")).await;
    assert!(said.contains("`storage`") && said.contains("colour"), "{said}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let said = serve(store.url("x").replace(&store.address().to_string(), &closed.to_string()), &data("b")).await;
    assert!(said.contains("can't be used") && said.contains("PutObject"), "{said}");
    let said = serve(store.url("x").split("&credentials").next().unwrap().into(), &data("c")).await;
    assert!(said.contains("no credentials"), "{said}");
    store.rotate("AKIAOTHER", "another", false);
    let said = serve(store.url("x"), &data("d")).await;
    assert!(said.contains("refuses the credentials"), "{said}");
    store.rotate(crate::bucket::ACCESS_KEY, crate::bucket::SECRET_KEY, true);
    let server = on(&store).await;
    let said = serve(store.url("here"), &data("e")).await;
    assert!(said.contains("another installation"), "{said}");
    drop(server);
}
