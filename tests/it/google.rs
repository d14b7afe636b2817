//! Uploads in chunks that clients send to the store itself, where it has sessions for them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::aitronos::{K, M, finished, offset, put, status, whole};
use crate::bucket::{Harm, Store};
use crate::client::{Desk, line};
use crate::direct::{self, commit, on, opened, text};
use crate::harness::{Binary, PROGRAM, Server, noise};
use crate::uploads::sha256;

/// Bytes of an upload in three chunks, of which the last is no multiple of anything.
const SIZE: u64 = 2 * M + 12_345;

fn data() -> Vec<u8> {
    noise(usize::try_from(SIZE).unwrap())
}

async fn chunk(server: &Server, url: &str, data: &[u8], from: u64, to: u64) -> crate::harness::Reply {
    let range = format!("bytes {from}-{}/{}", to - 1, data.len());
    put(&server.http, url, &range, &data[from as usize..to as usize]).await
}

/// Waits until no session of the store's is open.
async fn all_ended(store: &Store) {
    for _ in 0..3_000 {
        if store.sessions().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?} are open", store.sessions());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_an_organization_are_sent_to_the_store_in_chunks() {
    let store = Store::google();
    let server = on(&store, "aitronos").await;
    let data = data();
    let session = server.session(SIZE).await;
    assert!(store.is_session(&session.url), "{}", session.url);
    let error = server.register(&session).send().await.fault(400, "UPLOAD_INCOMPLETE");
    assert_eq!(error["details"]["received_bytes"], 0);
    // A chunk, one that breaks, the question, the rest: as its clients do it.
    assert_eq!(offset(&chunk(&server, &session.url, &data, 0, M).await), M);
    let sent = data[M as usize..(M + 3 * K) as usize + 1000].to_vec();
    let frames = [Ok(bytes::Bytes::from(sent)), Err(std::io::Error::other("cut"))];
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(frames));
    let range = format!("bytes {M}-{}/{SIZE}", SIZE - 1);
    let cut =
        server.http.put(&session.url).header("Content-Range", range).header("Content-Length", SIZE - M).body(body);
    assert!(cut.send().await.is_err());
    let mut held = 0;
    for _ in 0..500 {
        held = offset(&status(&server.http, &session.url).await);
        if held > M {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(held, M + 3 * K);
    let error = server.register(&session).send().await.fault(400, "UPLOAD_INCOMPLETE");
    assert_eq!(
        (&error["details"]["received_bytes"], &error["details"]["expected_bytes"]),
        (&json!(held), &json!(SIZE))
    );
    finished(&chunk(&server, &session.url, &data, held, SIZE).await, &data);
    // Whoever registers it has it committed; again, it is the same.
    let file = server.register(&session).send().await.expect(201).json();
    assert_eq!(file["file_size"], SIZE);
    assert!(file["receipt"]["crc32c"].is_string() && file["receipt"]["md5"].is_string(), "{file}");
    server.register(&session).send().await.expect(200);
    let content = server.call("GET", server.files(&format!("/{}/content", session.file))).send().await.expect(200);
    let link = content.json()["download_url"].as_str().unwrap().to_owned();
    assert!(server.bare("GET", &link).send().await.expect(200).body == data);
    assert_eq!(server.get("/usage").await["reserved"], 0);
    // In one request, without a word about ranges.
    let short = noise(300_000);
    let session = server.session(short.len() as u64).await;
    finished(&whole(&server.http, &session.url, &short).await, &short);
    server.register(&session).send().await.expect(201);
    // Several are opened at once, each with a location of its own.
    let one = json!({ "filename": "a", "file_size": 5, "mime_type": "text/plain" });
    let body = json!({ "files": [one, one, one] });
    let many = server.call("POST", server.files("/upload-url")).json(body).send().await.expect(200).json();
    assert_eq!(many.to_string().matches("uploadType=resumable").count(), 3, "{many}");
    direct::whole(server, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_for_a_store_are_sent_the_same_way_and_found() {
    let store = Store::google();
    let server = on(&store, "aitronos").await;
    let at = |rest: &str| format!("/v1/organizations/{}/stores/{}/files{rest}", server.tenant, server.store);
    let words = b"a text in which googleneedle is found".repeat(1000);
    let ask = json!({ "file_name": "a.txt", "file_size": words.len(), "mime_type": "text/plain" });
    let opened = server.call("POST", at("/upload-url")).json(ask).send().await.expect(200).json();
    let register = || server.call("POST", at("/register")).json(json!({ "upload_id": opened["upload_id"] }));
    assert!(store.is_session(text(&opened, "signed_url")));
    let early = register().send().await.json();
    assert_eq!(early["error"]["code"], "UPLOAD_INCOMPLETE", "{early}");
    finished(&whole(&server.http, text(&opened, "signed_url"), &words).await, &words);
    register().send().await.expect(201);
    register().send().await.expect(200);
    for _ in 0..3_000 {
        let found = server.get(&format!("/stores/{}/search?query=googleneedle", server.store)).await;
        if !found["items"].as_array().unwrap().is_empty() {
            return direct::whole(server, &store).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it is not found");
}

async fn resumable(server: &Server, more: Value) -> Value {
    let mut ask = json!({ "name": "a", "size": SIZE, "strategy": "resumable", "mime_type": "text/x" });
    ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    opened(server, ask).await
}

async fn one(server: &Server, upload: &Value) -> Value {
    server.get(&format!("/uploads/{}", text(upload, "id"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_an_upload_has_come_is_asked_of_the_store() {
    let store = Store::google();
    let server = on(&store, "native").await;
    let data = data();
    let upload = resumable(&server, json!({ "digests": { "sha256": sha256(&data) } })).await;
    let url = text(&upload, "url");
    assert!(store.is_session(url), "{upload}");
    let again = server.native("POST", &format!("/uploads/{}/urls", text(&upload, "id"))).json("{}").send().await;
    assert_eq!(again.expect(200).json()["url"], url, "the same as often as it is asked for");
    assert_eq!(store.sessions().len(), 1);
    assert_eq!(offset(&chunk(&server, url, &data, 0, M).await), M);
    let now = one(&server, &upload).await;
    assert_eq!((&now["state"], &now["received"], &now["next_offset"]), (&json!("open"), &json!(M), &json!(M)));
    let early = commit(&server, &upload).await.problem_with(409).json();
    assert_eq!((&early["received"], &early["expected"]), (&json!(M), &json!(SIZE)), "{early}");
    assert_eq!(chunk(&server, url, &data, M, SIZE).await.status, 200);
    // The question finds it complete: what was declared and the store did not tell is read once.
    let now = one(&server, &upload).await;
    assert_eq!((&now["state"], &now["received"]), (&json!("committed"), &json!(SIZE)), "{now}");
    let receipt = commit(&server, &upload).await.expect(200).json();
    assert_eq!(receipt["digests"]["sha256"], sha256(&data));
    assert!(direct::content(&server, &upload).await == data);
    // Nothing that comes later changes it.
    assert_eq!(whole(&server.http, url, &noise(1000)).await.status, 200);
    assert!(direct::content(&server, &upload).await == data);
    direct::whole(server, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_was_declared_ends_its_upload() {
    let store = Store::google();
    let server = on(&store, "native").await;
    let data = data();
    for (digest, length) in [("crc32c", 8), ("sha256", 64), ("md5", 32)] {
        let upload = resumable(&server, json!({ "digests": { digest: "0".repeat(length) } })).await;
        assert_eq!(whole(&server.http, text(&upload, "url"), &data).await.status, 200);
        let refused = commit(&server, &upload).await.problem_with(422).json();
        assert!(text(&refused, "detail").contains(digest), "{refused}");
        let now = one(&server, &upload).await;
        assert_eq!((&now["state"], now["problem"].is_object()), (&json!("failed"), true), "{now}");
    }
    // The store takes no other size than was declared.
    let upload = resumable(&server, json!({})).await;
    assert_eq!(whole(&server.http, text(&upload, "url"), &noise(1000)).await.status, 400);
    assert_eq!(one(&server, &upload).await["state"], "open");
    server.native("DELETE", &format!("/uploads/{}", text(&upload, "id"))).send().await.expect(204);
    assert_eq!(server.get("/usage").await["reserved"], 0);
    direct::gone(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_ends_ends_at_the_store() {
    let store = Store::google();
    let server = on(&store, "native,aitronos").await;
    let data = data();
    let upload = resumable(&server, json!({})).await;
    assert_eq!(offset(&chunk(&server, text(&upload, "url"), &data, 0, M).await), M);
    server.native("DELETE", &format!("/uploads/{}", text(&upload, "id"))).send().await.expect(204);
    all_ended(&store).await;
    assert_eq!(chunk(&server, text(&upload, "url"), &data, M, SIZE).await.status, 499);
    commit(&server, &upload).await.problem_with(410);
    // Complete, and cancelled before anybody asked: the object goes as well.
    let upload = resumable(&server, json!({})).await;
    assert_eq!(whole(&server.http, text(&upload, "url"), &data).await.status, 200);
    server.native("DELETE", &format!("/uploads/{}", text(&upload, "id"))).send().await.expect(204);
    direct::gone(&store).await;
    // The same when its time is over.
    let session = server.session(SIZE).await;
    assert_eq!(offset(&chunk(&server, &session.url, &data, 0, M).await), M);
    server.clock.advance(Duration::from_secs(8 * 24 * 3600));
    all_ended(&store).await;
    assert_eq!(status(&server.http, &session.url).await.status, 499);
    server.register(&session).send().await.fault(404, "FILE_NOT_FOUND");
    assert_eq!(server.get("/usage").await["reserved"], 0);
    direct::gone(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_store_has_lost_is_told() {
    let store = Store::google();
    let server = on(&store, "native").await;
    let data = data();
    for gone in [404, 410] {
        let asked = resumable(&server, json!({})).await;
        let committed = resumable(&server, json!({})).await;
        assert_eq!(offset(&chunk(&server, text(&asked, "url"), &data, 0, M).await), M);
        store.end_sessions(gone);
        assert_eq!(one(&server, &asked).await["state"], "failed");
        commit(&server, &committed).await.problem_with(410);
        assert_eq!(one(&server, &committed).await["state"], "failed");
    }
    // Complete, and forgotten how: the object is what counts.
    let upload = resumable(&server, json!({})).await;
    assert_eq!(whole(&server.http, text(&upload, "url"), &data).await.status, 200);
    store.forget_sessions();
    assert_eq!(one(&server, &upload).await["state"], "committed");
    assert!(direct::content(&server, &upload).await == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_gives_no_session_leaves_nothing_behind() {
    let store = Store::google();
    let server = on(&store, "native,aitronos").await;
    store.harm("BeginSession", u32::MAX, Harm::Refuse(503, "ServiceUnavailable"));
    let ask = json!({ "filename": "a.bin", "file_size": SIZE, "mime_type": "text/plain" });
    assert_eq!(server.ask(&ask).send().await.status, 503);
    assert_eq!(server.get("/usage").await["reserved"], 0, "nobody was told of it");
    // A marked call goes on with what it made.
    let ask = json!({ "name": "a", "size": SIZE, "strategy": "resumable" });
    let open = || server.native("POST", "/uploads").header("Idempotency-Key", "k").json(&ask);
    open().send().await.problem_with(503);
    store.spare();
    // An answer that was lost costs a session that nobody knows.
    store.harm("BeginSession", 1, Harm::CutAfter);
    let upload = open().send().await.expect(201).json();
    assert_eq!(open().send().await.expect(201).json()["url"], upload["url"]);
    assert_eq!(whole(&server.http, text(&upload, "url"), &data()).await.status, 200);
    // While the store is away nothing is said of it that is not known.
    store.harm("AskSession", u32::MAX, Harm::Refuse(503, "ServiceUnavailable"));
    store.harm("HeadObject", u32::MAX, Harm::Refuse(503, "ServiceUnavailable"));
    let path = format!("/uploads/{}", text(&upload, "id"));
    server.native("GET", &path).send().await.problem_with(503);
    commit(&server, &upload).await.problem_with(503);
    store.spare();
    commit(&server, &upload).await.expect(200);
    // Two who ask for the location at once are given one.
    let ask = json!({ "name": "b", "size": SIZE, "strategy": "resumable" });
    store.harm("BeginSession", 4, Harm::Refuse(503, "ServiceUnavailable"));
    server.native("POST", "/uploads").json(&ask).send().await.problem_with(503);
    store.spare();
    let open = server.get("/uploads?state=open&name=b").await["items"][0].clone();
    let urls = async || {
        let fresh = server.native("POST", &format!("/uploads/{}/urls", text(&open, "id"))).json("{}").send().await;
        fresh.expect(200).json()["url"].clone()
    };
    let (a, b, c) = tokio::join!(urls(), urls(), urls());
    assert!(a == b && b == c);
    let of_b = store.sessions();
    assert_eq!(of_b.iter().filter(|(key, _)| *key == of_b.last().unwrap().0).count(), 1, "{of_b:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_was_killed_goes_on_at_the_store() {
    let store = Store::google();
    let server = on(&store, "native").await;
    let bytes = noise(40 * M as usize + 12_345);
    let desk = Desk::new(server.url(""), &server.key);
    desk.write("film.mp4", &bytes);
    // The first chunk is taken, the second stands still.
    store.harm("SendToSession", 1, Harm::Delay(1));
    store.harm("SendToSession", 1, Harm::Delay(600_000));
    let mut put = desk.command(&["put", "film.mp4", "--chunk", "16MiB"]).spawn().unwrap();
    for _ in 0..12_000 {
        let taken = store.sessions().first().is_some_and(|(_, received)| *received >= 16 * M);
        if taken && store.count("SendToSession") == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    put.kill().await.unwrap();
    store.spare();
    let held = store.sessions()[0].1;
    assert!(held >= 16 * M && held < bytes.len() as u64, "{held}");
    store.calls();
    let (out, err) = Desk::well(&desk.run(&["put", "film.mp4", "--json"]).await);
    let done = line(&out);
    assert_eq!(done["resumed_at"], held, "{err}");
    let sent: u64 = store.calls().iter().filter(|call| call.what == "SendToSession").map(|call| call.bytes).sum();
    assert_eq!(sent, bytes.len() as u64 - held, "only the rest");
    assert!(direct::content(&server, &json!({ "file_id": done["id"] })).await == bytes);
    // One that came whole and was not asked about is only committed.
    let left = resumable(
        &server,
        json!({ "name": "left", "mime_type": "application/octet-stream", "size": bytes.len(),
        "digests": { "sha256": sha256(&bytes) } }),
    )
    .await;
    assert_eq!(whole(&server.http, text(&left, "url"), &bytes).await.status, 200);
    desk.write("left", &bytes);
    store.calls();
    let (out, _) = Desk::well(&desk.run(&["put", "left", "--json"]).await);
    assert_eq!((&line(&out)["upload"], store.count("SendToSession")), (&left["id"], 0));
    direct::whole(server, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_at_the_store_stands_in_no_log() {
    let store = Store::google();
    let url = store.url("here");
    let server = Binary::start(&format!("storage = \"{url}\"\ndirect = [\"aitronos\", \"native\"]\n")).await;
    let path = format!("/v1/organizations/{}/files", server.tenant);
    let ask = json!({ "filename": "a.bin", "file_size": 5, "mime_type": "text/plain" });
    let opened = server.send("POST", &format!("{path}/upload-url"), Some(ask)).await.expect(200).json();
    let session = text(&opened, "upload_url");
    let secret = session.split_once("upload_id=").unwrap().1;
    store.harm("AskSession", 20, Harm::CutBefore);
    let register =
        json!({ "filename": "a.bin", "gcs_path": opened["gcs_path"], "file_size": 5, "mime_type": "text/plain" });
    assert_eq!(server.send("POST", &path, Some(register.clone())).await.status, 503);
    store.spare();
    store.end_sessions(410);
    let told = server.send("POST", &path, Some(register)).await;
    assert!(told.status >= 400 && !told.text().contains(secret), "{}", told.text());
    let log = server.log();
    assert!(log.contains("lost an upload") && !log.contains(secret), "{log}");
    assert!(!log.contains("token-AKIA"), "nor do tokens");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_can_not_be_is_refused_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let serve = async |storage: &str, direct: &str| {
        let mut command = tokio::process::Command::new(PROGRAM);
        command.args(["serve", "--listen", "127.0.0.1:0", "--storage", storage, "--direct", direct]);
        command.arg("--data").arg(directory.path().join(landfall::clock::random_uuid().to_string()));
        command.env("NO_GCE_CHECK", "true").env_remove("GOOGLE_APPLICATION_CREDENTIALS");
        command.env("HOME", directory.path()).stdin(std::process::Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await.expect("it ends").unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let store = Store::google();
    let said = serve(&store.url("a"), "coveo").await;
    assert!(said.contains("`direct`") && said.contains("Leave it out"), "{said}");
    let url = store.url("b");
    let nobody = url.split("&credentials").next().unwrap();
    let said = serve(nobody, "native").await;
    assert!(said.contains("GOOGLE_APPLICATION_CREDENTIALS"), "{said}");
    let said = serve(&format!("{nobody}&credentials=none"), "native").await;
    assert!(said.contains("refuses the credentials"), "{said}");
    store.behave(crate::bucket::Ways { conditions: false, ..crate::bucket::Ways::default() });
    let said = serve(&store.url("c"), "native").await;
    assert!(said.contains("X-Goog-If-Generation-Match"), "{said}");
    assert!(store.objects("").iter().all(|(key, _)| !key.contains("owner")), "nothing was claimed");
}

/// The vendor's published client, unmodified, where `tests/clients/run` says how it is started.
#[tokio::test(flavor = "multi_thread")]
async fn the_published_client_of_files_sends_to_the_store() {
    let Ok(command) = std::env::var("LANDFALL_TEST_FILES_CLIENT") else { return };
    let store = Store::google();
    let server = on(&store, "aitronos").await;
    let mut words = command.split(' ');
    let mut client = tokio::process::Command::new(words.next().unwrap());
    for proxy in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
        client.env_remove(proxy);
    }
    client.args(words).env("LANDFALL_URL", server.url("")).env("LANDFALL_KEY", &server.key);
    client.env("LANDFALL_TENANT", &server.tenant).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(300), client.output()).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && !said.contains("not ok "), "{said}");
    assert!(said.lines().filter(|line| line.starts_with("ok ")).count() > 10, "{said}");
    assert!(store.count("SendToSession") >= 9, "{}", store.count("SendToSession"));
    direct::whole(server, &store).await;
}
