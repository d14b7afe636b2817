//! Bytes in a container of Azure Blob Storage, which an emulator plays: what clients put there themselves, what the service sees
//! to, and what is looked at when it is used. The rest of this suite runs on it with `LANDFALL_TEST_STORAGE=azure`.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::azurite::{self, Azurite};
use crate::front::Front;
use crate::harm::Harm;
use crate::harness::{PROGRAM, Reply, Server, noise, program};
use crate::process::{Place, Running, on_disk};
use crate::uploads::sha256;

/// A container behind something that counts calls, and a server whose clients send there themselves.
struct Direct {
    front: Front,
    url: String,
    server: Server,
}

impl Direct {
    async fn start() -> Self {
        let emulator = tokio::task::spawn_blocking(Azurite::shared).await.unwrap();
        let front = Front::of_azure(emulator.endpoint());
        let endpoint = format!("http://{}/{}", front.address(), azurite::ACCOUNT);
        let url = emulator.url_at(&endpoint, &format!("direct/{}", landfall::clock::random_uuid()));
        let server = Server::start_with(|config| {
            config.set_text("storage", &url).unwrap();
            config.set_text("direct", "native").unwrap();
        })
        .await;
        front.calls();
        Self { front, url, server }
    }

    fn is_here(&self, url: &str) -> bool {
        url.starts_with(&format!("http://{}/{}/{}/direct/", self.front.address(), azurite::ACCOUNT, azurite::CONTAINER))
    }

    async fn opened(&self, ask: Value) -> Value {
        self.server.native("POST", "/uploads").json(ask).send().await.expect(201).json()
    }

    /// A PUT with everything that the upload says must come with it.
    async fn put(&self, upload: &Value, body: &[u8]) -> Reply {
        self.put_to(text(upload, "url"), upload, body).await
    }

    async fn put_to(&self, url: &str, upload: &Value, body: &[u8]) -> Reply {
        let mut call = self.server.bare("PUT", url).body(body);
        for (name, value) in upload["required_headers"].as_object().unwrap() {
            call = call.header(name, value.as_str().unwrap());
        }
        call.send().await
    }

    async fn commit(&self, upload: &Value) -> Reply {
        self.server.native("POST", &format!("/uploads/{}/commit", text(upload, "id"))).send().await
    }

    async fn content(&self, upload: &Value) -> Vec<u8> {
        let path = format!("/files/{}/content", text(upload, "file_id"));
        self.server.native("GET", &path).send().await.expect(200).body
    }

    async fn state(&self, upload: &Value) -> Value {
        self.server.get(&format!("/uploads/{}", text(upload, "id"))).await["state"].clone()
    }

    async fn whole(self) {
        let (data, _kept) = self.server.stopped().await;
        let mut doctor = tokio::process::Command::from(program(&data));
        doctor.args(["doctor", "--deep", "--data"]).arg(&data).env("LANDFALL_STORAGE", &self.url);
        let output = doctor.output().await.unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{said}");
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().expect(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_put_straight_and_once() {
    let direct = Direct::start().await;
    let data = noise(300_000);
    let ask = json!({ "name": "a.bin", "size": data.len(), "strategy": "single", "mime_type": "text/x" });
    let upload = direct.opened(ask).await;
    assert_eq!(direct.front.calls(), [], "a ticket costs no question to the store");
    assert!(direct.is_here(text(&upload, "url")), "{upload}");
    assert_eq!(upload["required_headers"], json!({ "content-type": "text/x", "x-ms-blob-type": "BlockBlob" }));
    assert_eq!(direct.commit(&upload).await.problem_with(409).json()["type"], "/problems/upload-incomplete");
    // Without the header that says what is to be made, nothing is.
    let bare = direct.server.bare("PUT", text(&upload, "url")).body(data.clone()).send().await;
    assert_eq!(bare.status, 400, "{}", bare.text());
    direct.put(&upload, &data).await.expect(201);
    // Nothing replaces it, before the commit or after it.
    let again = direct.put(&upload, b"other").await;
    assert_eq!(again.status, 403, "{}", again.text());
    let receipt = direct.commit(&upload).await.expect(200).json();
    assert_eq!((&receipt["size"], &receipt["file_id"]), (&json!(data.len()), &upload["file_id"]));
    assert_eq!(receipt["digests"], json!({}), "the store tells none that somebody else could not have said");
    assert_eq!(direct.commit(&upload).await.expect(200).json(), receipt);
    assert_eq!(direct.put(&upload, b"other").await.status, 403);
    assert!(direct.content(&upload).await == data);
    assert_eq!(direct.state(&upload).await, "committed");
    direct.whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_declared_is_compared_by_one_read() {
    let direct = Direct::start().await;
    let data = noise(100_000);
    let md5 = hex::encode(<md5::Md5 as md5::Digest>::digest(&data));
    let all = json!({ "sha256": sha256(&data), "md5": md5 });
    let ask = |digests: &Value| json!({ "name": "a", "size": data.len(), "strategy": "single", "digests": digests });
    let upload = direct.opened(ask(&all)).await;
    direct.put(&upload, &data).await.expect(201);
    direct.front.calls();
    let receipt = direct.commit(&upload).await.expect(200).json();
    assert_eq!(direct.front.count("GetBlob"), 1);
    assert_eq!((&receipt["digests"]["sha256"], &receipt["digests"]["md5"]), (&all["sha256"], &all["md5"]));
    // Another body of this length ends the upload, also when its maker says of it what was declared.
    for lying in [false, true] {
        let upload = direct.opened(ask(&all)).await;
        let mut other = data.clone();
        other[7] ^= 1;
        let mut call = direct.server.bare("PUT", text(&upload, "url")).header("x-ms-blob-type", "BlockBlob");
        if lying {
            call = call.header("x-ms-meta-sha256", &sha256(&data));
        }
        call.body(other).send().await.expect(201);
        direct.commit(&upload).await.problem_with(422);
        assert_eq!(direct.state(&upload).await, "failed");
        direct.commit(&upload).await.problem_with(409);
    }
    // And one of another length.
    let upload = direct.opened(ask(&json!({}))).await;
    direct.put(&upload, &data[1..]).await.expect(201);
    let refused = direct.commit(&upload).await.problem_with(422).json();
    assert_eq!((&refused["declared"], &refused["received"]), (&json!("100000"), &json!("99999")));
    assert_eq!(direct.server.get("/usage").await["reserved"], 0);
    direct.whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_leads_to_its_own_blob_for_as_long_as_it_says() {
    let direct = Direct::start().await;
    let upload = direct.opened(json!({ "name": "a", "size": 5, "strategy": "single" })).await;
    let url = text(&upload, "url").to_owned();
    // Not to another blob, and to nothing but making one.
    let own = &url[url.find("/direct/").unwrap() + 8 + 37..][..32];
    let (place, query) = url.split_once('?').unwrap();
    let container = &url[..url.find("/direct/").unwrap()];
    for other in [
        url.replacen(own, &"0".repeat(32), 1),
        url.replacen("sp=c", "sp=cw", 1),
        url.replacen("se=20", "se=21", 1),
        format!("{container}/direct/x?{query}"),
    ] {
        let refused = direct.put_to(&other, &upload, b"12345").await;
        assert_eq!(refused.status, 403, "{other}: {}", refused.text());
    }
    for (method, url) in [
        ("PUT", format!("{url}&comp=block&blockid=AAAA")),
        ("PUT", format!("{url}&comp=blocklist")),
        ("PUT", format!("{url}&comp=metadata")),
        ("GET", url.clone()),
        ("DELETE", url.clone()),
        ("GET", format!("{container}?restype=container&comp=list&{query}")),
        ("GET", place.to_owned()),
    ] {
        let call = direct.server.bare(method, &url).header("x-ms-version", "2021-12-02");
        let refused = if method == "PUT" { call.body("12345") } else { call }.send().await;
        assert!(matches!(refused.status, 401 | 403 | 404), "{method} {url}: {} {}", refused.status, refused.text());
    }
    direct.commit(&upload).await.problem_with(409);
    // The service's clock is its own: what is left of the session is all that a location gets.
    let life = Duration::from_secs(7 * 24 * 3600);
    direct.server.clock.advance(life - Duration::from_secs(3));
    let path = format!("/uploads/{}/urls", text(&upload, "id"));
    let fresh = direct.server.native("POST", &path).json("{}").send().await.expect(200).json();
    let short = text(&fresh, "url").to_owned();
    let left = short.split("se=").nth(1).unwrap()[..20].to_owned();
    assert!(left.as_str() < &url.split("se=").nth(1).unwrap()[..20], "{left}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let refused = direct.put_to(&short, &upload, b"12345").await;
    assert!(refused.status == 403 && refused.text().contains("AuthorizationFailure"), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_no_bytes_that_were_sent_is_no_file() {
    let direct = Direct::start().await;
    // The permission to make a blob is one to make any kind of it, of any length.
    for (kind, more) in [("PageBlob", Some(("x-ms-blob-content-length", "1048576"))), ("AppendBlob", None)] {
        let ask = json!({ "name": kind, "size": if more.is_some() { 1_048_576 } else { 0 }, "strategy": "single" });
        let upload = direct.opened(ask).await;
        let mut call = direct.server.bare("PUT", text(&upload, "url")).header("x-ms-blob-type", kind);
        if let Some((name, value)) = more {
            call = call.header(name, value);
        }
        let made = call.header("content-length", "0").send().await;
        assert_eq!(made.status, 201, "{}", made.text());
        direct.commit(&upload).await.problem_with(409);
        assert_eq!(direct.state(&upload).await, "open", "{kind}");
    }
    direct.whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_can_use_nothing_of_it() {
    let direct = Direct::start().await;
    let neighbour = direct.server.neighbour().await;
    let upload = direct.opened(json!({ "name": "a", "size": 5, "strategy": "single" })).await;
    direct.put(&upload, b"12345").await.expect(201);
    direct.front.calls();
    let path = format!("/uploads/{}", text(&upload, "id"));
    for (method, path) in
        [("GET", path.clone()), ("POST", format!("{path}/commit")), ("POST", format!("{path}/urls")), ("DELETE", path)]
    {
        let method: &'static str = method;
        direct.server.native(method, &path).bearer(&neighbour.key).json("{}").send().await.problem_with(404);
    }
    assert_eq!(direct.front.calls(), [], "the store is not asked for others");
    direct.commit(&upload).await.expect(200);
    direct.whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_azure_does_not_take_from_clients_comes_to_the_server() {
    let direct = Direct::start().await;
    let server = &direct.server;
    let data = noise(12_000_000);
    let ask = json!({ "name": "in parts", "size": data.len(), "strategy": "multipart", "parts": 2 });
    let upload = direct.opened(ask).await;
    let size = usize::try_from(upload["part_size"].as_u64().unwrap()).unwrap();
    for (part, url) in data.chunks(size).zip(upload["part_urls"].as_array().unwrap()) {
        assert!(url.as_str().unwrap().starts_with(&server.url("/")), "{url}");
        server.bare("PUT", url.as_str().unwrap()).body(part).send().await.expect(200);
    }
    direct.commit(&upload).await.expect(200);
    assert!(direct.content(&upload).await == data);
    for ask in [
        json!({ "name": "resumable", "strategy": "resumable" }),
        json!({ "name": "more than one body has", "size": 5_001u64 << 20, "strategy": "single" }),
    ] {
        let upload = direct.opened(ask).await;
        assert!(text(&upload, "url").starts_with(&server.url("/")), "{upload}");
    }
    assert!(server.container().await.upload_uri.starts_with(&server.url("/")), "an API that is not on the list");
    direct.whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_or_answers_wrongly_changes_nothing() {
    let direct = Direct::start().await;
    let upload = direct.opened(json!({ "name": "a", "size": 5, "strategy": "single" })).await;
    direct.put(&upload, b"12345").await.expect(201);
    for harm in
        [Harm::Refuse(503, "ServerBusy"), Harm::Refuse(403, "AuthorizationFailure"), Harm::CutBefore, Harm::NoETag]
    {
        direct.front.harm("GetBlobProperties", u32::MAX, harm);
        let refused = direct.commit(&upload).await;
        assert!(matches!(refused.status, 500 | 503), "{harm:?} {}", refused.status);
        direct.front.spare();
        assert_eq!(direct.state(&upload).await, "open", "{harm:?}");
    }
    let receipt = direct.commit(&upload).await.expect(200).json();
    direct.front.harm("GetBlobProperties", u32::MAX, Harm::CutBefore);
    assert_eq!(direct.commit(&upload).await.expect(200).json(), receipt, "the store is not asked again");
    direct.front.spare();
    assert_eq!(direct.content(&upload).await, b"12345");
    direct.whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_sends_to_the_store() {
    let direct = Direct::start().await;
    let desk = tempfile::tempdir().unwrap();
    let data = noise(300_000);
    std::fs::write(desk.path().join("small"), &data).unwrap();
    // The answer to the first PUT is lost: the next one is told that there is a blob already.
    direct.front.harm("PutBlob", 1, Harm::CutAfter);
    let mut command = tokio::process::Command::new(PROGRAM);
    for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    command.env("LANDFALL_URL", direct.server.url("")).env("LANDFALL_KEY", &direct.server.key);
    command.args(["put", "small", "--json"]).current_dir(desk.path()).kill_on_drop(true).stdin(Stdio::null());
    let output = tokio::time::timeout(Duration::from_secs(200), command.output()).await.expect("an end").unwrap();
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(direct.content(&json!({ "file_id": line["id"] })).await == data);
    assert!(direct.front.count("PutBlob") >= 2);
    direct.whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_strategy_comes_back_as_it_was_sent() {
    let emulator = tokio::task::spawn_blocking(Azurite::shared).await.unwrap();
    let url = emulator.url(&format!("through/{}", landfall::clock::random_uuid()));
    let mut server = Server::start_with(|config| config.set_text("storage", &url).unwrap()).await;
    let data = noise(20_000_000);
    let opened = async |server: &Server, ask: Value| -> Value {
        server.native("POST", "/uploads").json(ask).send().await.expect(201).json()
    };
    let content = async |server: &Server, upload: &Value| {
        let path = format!("/files/{}/content", text(upload, "file_id"));
        server.native("GET", &path).send().await.expect(200).body
    };
    let commit = async |server: &Server, upload: &Value| {
        server.native("POST", &format!("/uploads/{}/commit", text(upload, "id"))).send().await.expect(200);
    };
    // One PUT.
    let single = opened(&server, json!({ "name": "a", "size": data.len(), "strategy": "single" })).await;
    server.bare("PUT", text(&single, "url")).body(data.clone()).send().await.expect(200);
    commit(&server, &single).await;
    assert!(content(&server, &single).await == data);
    // A resumable session with a restart between its chunks, so that another process seals what the one before left.
    let session = opened(&server, json!({ "name": "b", "size": data.len(), "strategy": "resumable" })).await;
    let (mut from, step) = (0, 9 * 1024 * 1024);
    while from < data.len() {
        let to = data.len().min(from + step);
        let range = format!("bytes {from}-{}/{}", to - 1, data.len());
        let url = text(&session, "url");
        let reply = server.bare("PUT", url).header("Content-Range", &range).body(&data[from..to]).send().await;
        reply.expect(if to == data.len() { 200 } else { 308 });
        server.restart().await;
        from = to;
    }
    commit(&server, &session).await;
    assert!(content(&server, &session).await == data);
    // Parts, the last first.
    let ask = json!({ "name": "c", "size": data.len(), "strategy": "multipart", "parts": 3 });
    let parts = opened(&server, ask).await;
    let size = usize::try_from(parts["part_size"].as_u64().unwrap()).unwrap();
    let urls: Vec<&str> = parts["part_urls"].as_array().unwrap().iter().map(|url| url.as_str().unwrap()).collect();
    for (part, url) in data.chunks(size).zip(urls).collect::<Vec<_>>().into_iter().rev() {
        server.bare("PUT", url).body(part).send().await.expect(200);
    }
    commit(&server, &parts).await;
    assert!(content(&server, &parts).await == data);
    let (data, _kept) = server.stopped().await;
    let mut doctor = tokio::process::Command::from(program(&data));
    doctor.args(["doctor", "--deep", "--data"]).arg(&data).env("LANDFALL_STORAGE", &url);
    let output = doctor.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
}

/// How far a resumable upload has come; all of it when it is complete.
async fn reached(running: &Running, upload: &Value, total: usize) -> usize {
    let url = upload["url"].as_str().unwrap();
    let reply = running.call("PUT", url, &[("Content-Range", &format!("bytes */{total}"))], "").await;
    match (reply.status, reply.header("range")) {
        (308, None) => 0,
        (308, Some(range)) => range.strip_prefix("bytes=0-").unwrap().parse::<usize>().unwrap() + 1,
        (status, _) => {
            assert_eq!(status, 200);
            total
        }
    }
}

/// A process dies at every step that it takes towards the container, in chunks that it began and in those that it goes on with.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_between_two_calls_loses_nothing() {
    const BLOCK: usize = 8 << 20;
    let emulator = tokio::task::spawn_blocking(Azurite::shared).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let storage = emulator.url(&format!("crash/{}", landfall::clock::random_uuid()));
    let place = Place { storage, ..on_disk(folder.path()) };
    let mut running = place.serve().await.unwrap().with_first_key().await;
    let key = running.key.clone();
    let data = noise(2 * BLOCK + 700_000);
    let mut kept = Vec::new();
    // Where the chunks end, the last of which is sent to the process that dies.
    let (short, across, whole) = (256 << 10, BLOCK + (512 << 10), data.len());
    for (point, ends) in [
        ("object.part", &[whole][..]),
        ("object.part", &[short, whole]),
        ("object.tail", &[short]),
        ("object.tail", &[short, across]),
        ("object.sealing", &[short, whole]),
        ("object.sealing", &[across, whole]),
        ("object.sealed", &[across, whole]),
        ("resumable.recorded", &[short, across]),
        ("resumable.last_written", &[across, whole]),
        ("resumable.committed", &[across, whole]),
    ] {
        let upload = running.opened(point, "resumable", whole).await;
        let (last, before) = ends.split_last().unwrap();
        let mut from = 0;
        for to in before {
            assert_eq!(running.chunk(&upload, &data[..whole], from, *to).await, 308, "{point}");
            from = *to;
        }
        running.kill();
        let mut dying = place.serve_with(&format!("{point}=return(kill)")).await.unwrap();
        let path = upload["url"].as_str().unwrap().split('/').skip(3).collect::<Vec<_>>().join("/");
        let url = format!("http://{}/{path}", dying.address);
        let request = crate::harness::client().put(url).header("X-API-Key", &key);
        let request = request.header("Content-Range", format!("bytes {from}-{}/{whole}", last - 1));
        let sent = request.body(data[from..*last].to_vec()).send().await;
        assert!(sent.is_err(), "{point} {ends:?} was not reached: {sent:?}");
        dying.ended().await;
        running = crate::moves::serving(&place, &key).await;
        let reached = reached(&running, &upload, whole).await;
        assert!(reached >= from, "{point} {ends:?}: {reached}");
        if reached < whole {
            assert_eq!(running.chunk(&upload, &data, reached, whole).await, 200, "{point} {ends:?}");
        }
        assert!(running.content(&upload).await == (200, data.clone()), "{point} {ends:?}");
        kept.push(upload);
    }
    running.kill();
    let (whole, said) = place.doctor().await;
    assert!(whole, "{said}");
    let running = crate::moves::serving(&place, &key).await;
    for upload in &kept {
        assert!(running.content(upload).await == (200, data.clone()));
    }
}

/// What a server says that does not start.
fn refused(storage: &str, apis: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut serve = std::process::Command::new(PROGRAM);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(folder.path().join("data"));
    serve.env("LANDFALL_STORAGE", storage).env("LANDFALL_DIRECT", apis).stdin(Stdio::null());
    let output = serve.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_is_told_before_a_port_is_bound() {
    let said = tokio::task::spawn_blocking(|| {
        let emulator = Azurite::shared();
        let wrong = emulator.url("x").replacen("/bytes/", "/absent/", 1);
        let lost = format!("az://{}/bytes/x?endpoint={}&credentials=/nowhere", azurite::ACCOUNT, emulator.endpoint());
        [
            refused(&emulator.url("x"), "native,coveo"),
            refused(&wrong, ""),
            refused(&lost, ""),
            refused("az://account1", ""),
        ]
    });
    let [coveo, absent, lost, short] = said.await.unwrap();
    assert!(coveo.contains("`direct`") && coveo.contains("Leave it out"), "{coveo}");
    assert!(absent.contains("ContainerNotFound"), "{absent}");
    assert!(lost.contains("/nowhere") && lost.contains("AZURE_STORAGE_ACCOUNT_KEY"), "{lost}");
    assert!(short.contains("az://account/container/prefix"), "{short}");
}
