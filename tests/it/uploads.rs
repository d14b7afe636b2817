//! Uploads of our own API: opened, followed, resumed, committed, ended; and what they take of a tenant's quota.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Reply, Server, encode, in_bucket, is_uuid, noise};

const GRANULE: usize = 256 * 1024;
pub(crate) const NOBODY: &str = "60e285b1-58ec-5625-c5c4-53cd2434c19f";

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn text(json: &Value, name: &str) -> String {
    json[name].as_str().unwrap_or_else(|| panic!("`{name}` in {json}")).to_owned()
}

impl Server {
    /// Opens an upload; the answer.
    pub(crate) async fn open(&self, body: Value) -> Value {
        self.native("POST", "/uploads").json(body).send().await.expect(201).json()
    }

    /// Uploads these bytes in one PUT; the receipt.
    pub(crate) async fn stored(&self, name: &str, content: &[u8], more: Value) -> Value {
        let mut body = json!({ "name": name, "size": content.len() });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let upload = self.open(body).await;
        self.bare("PUT", &text(&upload, "url")).body(content).send().await.expect(200);
        self.native("POST", &format!("/uploads/{}/commit", text(&upload, "id"))).send().await.expect(200).json()
    }

    /// Sends a range of a file to a session URL.
    async fn chunk(&self, url: &str, range: &str, bytes: &[u8]) -> Reply {
        self.bare("PUT", url).header("Content-Range", range).body(bytes).send().await
    }

    async fn commit(&self, id: &str, body: Value) -> Reply {
        self.native("POST", &format!("/uploads/{id}/commit")).json(body).send().await
    }

    async fn upload_names(&self, query: &str) -> Vec<String> {
        let list = self.get(&format!("/uploads?{query}")).await;
        list["items"].as_array().unwrap().iter().map(|u| text(u, "name")).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_put_makes_a_file() {
    let server = Server::start().await;
    let content = noise(100_000);
    let ask = json!({
        "name": "report.pdf", "size": content.len(), "mime_type": "application/pdf", "path": "a/b",
        "metadata": { "author": "me" }, "digests": { "sha256": sha256(&content) }, "expires_in": 3600,
    });
    let reply = server.native("POST", "/uploads").json(&ask).send().await.expect(201);
    let upload = reply.json();
    let id = text(&upload, "id");
    assert!(is_uuid(&id), "{upload}");
    assert_eq!(reply.header("location"), Some(server.url(&format!("/landfall/v1/uploads/{id}")).as_str()));
    assert_eq!((&upload["state"], &upload["strategy"]), (&json!("open"), &json!("single")), "{upload}");
    assert_eq!((&upload["size"], &upload["received"]), (&json!(100_000), &json!(0)), "{upload}");
    assert_eq!((&upload["path"], &upload["metadata"]["author"]), (&json!("a/b"), &json!("me")), "{upload}");
    assert!(upload["required_headers"].is_object() && upload.get("chunk_size").is_none(), "{upload}");
    let url = text(&upload, "url");
    assert!(url.starts_with(&server.url("/put/native/")), "{url}");

    let early = server.commit(&id, json!({})).await.problem_with(409).json();
    assert_eq!(early["type"], "/problems/upload-incomplete");
    assert_eq!((&early["received"], &early["expected"]), (&json!(0), &json!(100_000)), "{early}");

    let put = server.bare("PUT", &url).body(content.clone()).send().await.expect(200);
    assert!(put.header("etag").is_some() && put.body.is_empty());
    let receipt = server.commit(&id, json!({})).await.expect(200).json();
    assert_eq!((&receipt["size"], &receipt["digests"]["sha256"]), (&json!(100_000), &json!(sha256(&content))));
    for digest in ["crc32c", "crc64nvme"] {
        assert!(receipt["digests"][digest].is_string(), "{receipt}");
    }
    let file = text(&receipt, "file_id");
    assert_eq!(file, text(&upload, "file_id"));
    let claims = json!({ "size": 100_000, "digests": { "sha256": sha256(&content) } });
    assert_eq!(server.commit(&id, claims).await.expect(200).json(), receipt, "the same receipt");
    let content_path = format!("/files/{file}/content");
    assert_eq!(server.native("GET", &content_path).send().await.expect(200).body, content);

    let seen = server.get(&format!("/uploads/{id}")).await;
    assert_eq!((&seen["state"], &seen["received"]), (&json!("committed"), &json!(100_000)), "{seen}");
    assert_eq!(seen["committed_at"], receipt["committed_at"]);
    assert!(seen["next_offset"].is_null() && seen["problem"].is_null(), "{seen}");
    // Equal bytes again are a repetition; others are refused.
    server.bare("PUT", &url).body(content.clone()).send().await.expect(200);
    let other = server.bare("PUT", &url).body(noise(99_999)).problem(422).await.json();
    assert_eq!(other["field"], "Content-Length");
    let mut changed = content.clone();
    changed[0] ^= 1;
    server.bare("PUT", &url).body(changed).problem(422).await;
    // Other values than those of the committed bytes.
    for (claim, word) in [
        (json!({ "size": 5 }), "size"),
        (json!({ "digests": { "sha256": sha256(b"") } }), "sha256"),
        (json!({ "digests": { "crc32c": "00000000" } }), "crc32c"),
        (json!({ "digests": { "crc64nvme": "0000000000000000" } }), "crc64nvme"),
    ] {
        let refused = server.commit(&id, claim).await.problem_with(409).json();
        assert!(refused["detail"].as_str().unwrap().contains(word), "{refused}");
    }
    let unknown = server.commit(&id, json!({ "digests": { "md5": "0".repeat(32) } })).await.problem_with(422).json();
    assert_eq!(unknown["field"], "digests.md5", "nobody computed it");
    assert_eq!(server.commit(&id, json!({})).await.expect(200).json(), receipt);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_is_checked_and_named() {
    let server = Server::start().await;
    let post = |body: &Value| server.native("POST", "/uploads").json(body);
    for (body, field) in [
        (json!({ "name": "a", "size": 1, "sise": 1 }), "sise"),
        (json!({ "size": 1 }), "name"),
        (json!({ "name": "a/b", "size": 1 }), "name"),
        (json!({ "name": "a", "size": -1 }), "size"),
        (json!({ "name": "a", "size": "1" }), "size"),
        (json!({ "name": "a", "strategy": "single" }), "size"),
        (json!({ "name": "a", "size": 1, "mime_type": "text" }), "mime_type"),
        (json!({ "name": "a", "size": 1, "strategy": "tape" }), "strategy"),
        (json!({ "name": "a", "size": 1, "strategy": "multipart", "parts": 0 }), "parts"),
        (json!({ "name": "a", "size": 1, "strategy": "multipart", "parts": 10_001 }), "parts"),
        (json!({ "name": "a", "size": 1, "strategy": "multipart", "parts": "2" }), "parts"),
        (json!({ "name": "a", "size": 1, "strategy": "multipart", "parts": -1 }), "parts"),
        (json!({ "name": "a", "size": 11u64 << 30, "parts": 2 }), "parts"),
        (json!({ "name": "a", "strategy": "multipart" }), "parts"),
        (json!({ "name": "a", "size": 1, "strategy": "single", "parts": 2 }), "parts"),
        (json!({ "name": "a", "size": 1, "strategy": "resumable", "parts": 2 }), "parts"),
        (json!({ "name": "a", "parts": 2, "digests": { "md5": "0".repeat(32) } }), "digests.md5"),
        (json!({ "name": "a", "parts": 2, "digests": { "sha256": "0".repeat(64) } }), "digests.sha256"),
        (json!({ "name": "a", "size": 1, "digests": { "sha1": "00" } }), "digests.sha1"),
        (json!({ "name": "a", "size": 1, "digests": { "md5": "00" } }), "digests.md5"),
        (json!({ "name": "a", "size": 1, "path": "../b" }), "path"),
        (json!({ "name": "a", "size": 1, "attach": { "shop": "vs_1" } }), "attach.shop"),
        (json!({ "name": "a", "size": 1, "attach": { "store": "vs_1" } }), "attach.store"),
        (json!({ "name": "a", "size": 1, "metadata": { "a": 1 } }), "metadata"),
        (json!({ "name": "a", "size": 1, "expires_in": 59 }), "expires_in"),
        (json!({ "name": "a", "size": 1, "expires_in": 604_801 }), "expires_in"),
    ] {
        let problem = post(&body).problem(422).await.json();
        assert_eq!(problem["field"], field, "{body}: {problem}");
    }
    let twice = server.native("POST", "/uploads").json(r#"{"name":"a","name":"b","size":1}"#).problem(422).await;
    assert_eq!(twice.json()["field"], "name");
    let large = json!({ "name": "a", "size": 5u64 << 30 | 1, "strategy": "single" });
    let problem = post(&large).problem(413).await.json();
    assert_eq!(problem["limit"], 5u64 << 30, "{problem}");
    for body in ["{", "[]"] {
        server.native("POST", "/uploads").json(body).problem(400).await;
    }
    server.native("POST", "/uploads").header("Content-Type", "text/plain").body("{}").problem(415).await;
    server.native("POST", "/uploads").anonymous().json("{}").problem(401).await;
    let reader = server.key_with(&server.tenant, "read").await;
    for (method, path) in [
        ("POST", "/uploads".to_owned()),
        ("GET", "/uploads".to_owned()),
        ("GET", format!("/uploads/{NOBODY}")),
        ("DELETE", format!("/uploads/{NOBODY}")),
        ("POST", format!("/uploads/{NOBODY}/urls")),
        ("POST", format!("/uploads/{NOBODY}/commit")),
    ] {
        let refused = server.native(method, &path).bearer(&reader).problem(403).await.json();
        assert!(refused["detail"].as_str().unwrap().contains("upload"), "{refused}");
    }
    for (path, field) in [
        ("/uploads?stat=open", "stat"),
        ("/uploads?state=opened", "state"),
        ("/uploads?size=x", "size"),
        ("/uploads?sha256=00", "sha256"),
        ("/uploads?limit=0", "limit"),
        ("/uploads?cursor=AAAA", "cursor"),
    ] {
        assert_eq!(server.native("GET", path).problem(422).await.json()["field"], field, "{path}");
    }
    let nowhere = json!({ "name": "a", "size": 1, "attach": { "store": format!("vs_{}", "0".repeat(32)) } });
    post(&nowhere).problem(404).await;
    // Everything at its bounds.
    let most = json!({
        "name": "é".repeat(255), "size": 0, "metadata": { "k": "v".repeat(4095) }, "expires_in": 60,
    });
    post(&most).send().await.expect(201);
    let strategy = async |body: Value| text(&server.open(body).await, "strategy");
    assert_eq!(strategy(json!({ "name": "a", "size": 64 << 20 })).await, "single");
    assert_eq!(strategy(json!({ "name": "a", "size": (64 << 20) + 1 })).await, "multipart");
    let known = json!({ "name": "a", "size": (64 << 20) + 1, "digests": { "sha256": "0".repeat(64) } });
    assert_eq!(strategy(known).await, "resumable", "parts have no SHA-256 together");
    assert_eq!(strategy(json!({ "name": "a", "parts": 10_000 })).await, "multipart");
    assert_eq!(strategy(json!({ "name": "a" })).await, "resumable");
    assert_eq!(strategy(json!({ "name": "a", "size": 1, "strategy": "resumable" })).await, "resumable");
}

/// Section 6: begun here, continued through the session URL, committed once with the right digest.
#[tokio::test(flavor = "multi_thread")]
async fn a_resumable_upload_begun_here_and_continued_through_its_session_url_commits_once() {
    let server = Server::start().await;
    let content = noise(3 * GRANULE + 1000);
    let ask = json!({
        "name": "film.mp4", "size": content.len(), "strategy": "resumable", "mime_type": "video/mp4",
        "digests": { "sha256": sha256(&content) },
    });
    let upload = server.open(ask).await;
    let (id, url) = (text(&upload, "id"), text(&upload, "url"));
    assert_eq!(upload["chunk_size"].as_u64().unwrap() % GRANULE as u64, 0, "{upload}");
    assert!(upload.get("required_headers").is_none() && url.contains("upload_id="), "{upload}");
    let total = content.len();
    let first = server.chunk(&url, &format!("bytes 0-{}/{total}", GRANULE - 1), &content[..GRANULE]).await.expect(308);
    assert_eq!(first.header("range"), Some(format!("bytes=0-{}", GRANULE - 1).as_str()));
    let seen = server.get(&format!("/uploads/{id}")).await;
    assert_eq!((&seen["received"], &seen["next_offset"]), (&json!(GRANULE), &json!(GRANULE)), "{seen}");
    let early = server.commit(&id, json!({})).await.problem_with(409).json();
    assert_eq!((&early["received"], &early["expected"]), (&json!(GRANULE), &json!(total)), "{early}");
    assert_eq!(server.get("/files").await["items"], json!([]), "nothing is seen before the commit");

    // Another machine asks what is unfinished, and where to send the rest.
    let found =
        server.get(&format!("/uploads?state=open&name=film.mp4&size={total}&sha256={}", sha256(&content))).await;
    assert_eq!(found["items"][0]["id"], id.as_str(), "{found}");
    assert_eq!(found["items"][0]["received"], GRANULE, "{found}");
    let fresh = server.native("POST", &format!("/uploads/{id}/urls")).json("{}").send().await.expect(200).json();
    let rest = &content[GRANULE..];
    let range = format!("bytes {GRANULE}-{}/{total}", total - 1);
    let done = server.chunk(&text(&fresh, "url"), &range, rest).await.expect(200);
    assert_eq!(done.json()["size"], total.to_string());
    let receipt = server.commit(&id, json!({ "size": total })).await.expect(200).json();
    assert_eq!(receipt["digests"]["sha256"], sha256(&content), "{receipt}");
    assert_eq!(server.chunk(&url, &range, rest).await.expect(200).json(), done.json(), "a lost answer");
    assert_eq!(server.commit(&id, json!({})).await.expect(200).json(), receipt);
    let files = server.get("/files").await;
    assert_eq!(files["items"].as_array().unwrap().len(), 1, "{files}");
    assert_eq!(files["items"][0]["version"], receipt["version"]);
    let path = format!("/files/{}/content", text(&receipt, "file_id"));
    assert_eq!(server.native("GET", &path).send().await.expect(200).body, content);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_nobody_knew_is_named_at_the_commit() {
    let server = Server::start().await;
    let content = noise(2 * GRANULE);
    let upload = server.open(json!({ "name": "stream", "digests": { "md5": "0".repeat(32) } })).await;
    assert!(upload["size"].is_null(), "{upload}");
    let (id, url) = (text(&upload, "id"), text(&upload, "url"));
    let range = format!("bytes 0-{}/*", content.len() - 1);
    server.chunk(&url, &range, &content).await.expect(308);
    let unknown = server.commit(&id, json!({})).await.problem_with(409).json();
    assert_eq!((&unknown["received"], &unknown["expected"]), (&json!(content.len()), &Value::Null), "{unknown}");
    let short = server.commit(&id, json!({ "size": content.len() + 1 })).await.problem_with(409).json();
    assert_eq!(short["expected"], content.len() + 1, "{short}");
    let long = server.commit(&id, json!({ "size": GRANULE })).await.problem_with(422).json();
    assert_eq!(long["type"], "/problems/digest-mismatch");
    assert_eq!(
        (&long["declared"], &long["received"]),
        (&json!(GRANULE.to_string()), &json!((2 * GRANULE).to_string()))
    );
    let size = content.len();
    let wrong = server.commit(&id, json!({ "size": size, "digests": { "crc32c": "00000000" } })).await;
    let wrong = wrong.problem_with(422).json();
    assert_eq!((&wrong["type"], &wrong["declared"]), (&json!("/problems/digest-mismatch"), &json!("00000000")));
    let late = server.commit(&id, json!({ "size": size, "digests": { "sha256": sha256(b"") } })).await;
    assert_eq!(late.problem_with(422).json()["field"], "digests.sha256");
    assert_eq!(server.get(&format!("/uploads/{id}")).await["state"], "open", "a mistaken commit ends nothing");
    // What was declared when it was opened does not hold: the upload is over.
    let over = server.commit(&id, json!({ "size": size })).await.problem_with(422).json();
    assert_eq!((&over["type"], &over["declared"]), (&json!("/problems/digest-mismatch"), &json!("0".repeat(32))));
    assert_eq!(server.get(&format!("/uploads/{id}")).await["state"], "failed");
    server.commit(&id, json!({ "size": size })).await.problem_with(409);

    let upload = server.open(json!({ "name": "stream" })).await;
    let (id, url) = (text(&upload, "id"), text(&upload, "url"));
    server.chunk(&url, &range, &content).await.expect(308);
    let crc = format!("{:08x}", crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &content));
    let receipt = server.commit(&id, json!({ "size": size, "digests": { "crc32c": crc } })).await.expect(200).json();
    assert_eq!((&receipt["size"], &receipt["digests"]["crc32c"]), (&json!(size), &json!(crc)), "{receipt}");
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_files_are_files() {
    let server = Server::start().await;
    for strategy in ["single", "resumable"] {
        let upload = server.open(json!({ "name": "empty", "size": 0, "strategy": strategy })).await;
        let (id, url) = (text(&upload, "id"), text(&upload, "url"));
        if strategy == "single" {
            server.bare("PUT", &url).body("").send().await.expect(200);
        }
        let receipt = server.commit(&id, json!({ "size": 0 })).await.expect(200).json();
        assert_eq!((&receipt["size"], &receipt["digests"]["crc32c"]), (&json!(0), &json!("00000000")), "{receipt}");
        let path = format!("/files/{}/content", text(&receipt, "file_id"));
        assert!(server.native("GET", &path).send().await.expect(200).body.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_listed_filtered_and_paged() {
    let server = Server::start().await;
    for n in 0..5 {
        server.open(json!({ "name": format!("u{n}"), "size": n, "digests": { "sha256": sha256(&[n]) } })).await;
    }
    server.stored("done", b"x", json!({})).await;
    // What another API opens without a file of its own is no upload of this list.
    server.container().await;
    assert_eq!(server.upload_names("").await, ["done", "u4", "u3", "u2", "u1", "u0"]);
    assert_eq!(server.upload_names("state=committed").await, ["done"]);
    assert_eq!(server.upload_names("state=open&name=u3").await, ["u3"]);
    assert_eq!(server.upload_names("size=2").await, ["u2"]);
    assert_eq!(server.upload_names(&format!("sha256={}", sha256(&[1]))).await, ["u1"]);
    assert_eq!(server.upload_names(&format!("sha256={}&name=u0", sha256(&[1]))).await, [""; 0]);
    // A cursor survives inserts and deletes between pages.
    let first = server.get("/uploads?limit=2&state=open").await;
    let cursor = text(&first, "next_cursor");
    server.open(json!({ "name": "later", "size": 1 })).await;
    let gone = text(&first["items"][1], "id");
    server.native("DELETE", &format!("/uploads/{gone}")).send().await.expect(204);
    let second = server.get(&format!("/uploads?limit=2&state=open&cursor={}", encode(&cursor))).await;
    let names: Vec<String> = second["items"].as_array().unwrap().iter().map(|u| text(u, "name")).collect();
    assert_eq!(names, ["u2", "u1"], "{second}");
    let cursor = text(&second, "next_cursor");
    let third = server.get(&format!("/uploads?limit=2&state=open&cursor={}", encode(&cursor))).await;
    assert_eq!((&third["items"][0]["name"], &third["next_cursor"]), (&json!("u0"), &Value::Null), "{third}");
    // Time runs out at once, swept or not.
    server.open(json!({ "name": "brief", "size": 1, "expires_in": 60 })).await;
    server.clock.advance(Duration::from_secs(61));
    assert_eq!(server.upload_names("state=expired").await, ["brief"]);
    assert_eq!(server.upload_names("state=open&name=brief").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_ends_by_delete_and_by_time() {
    let server = Server::start().await;
    for strategy in ["single", "resumable"] {
        let upload = server.open(json!({ "name": "a", "size": 2 * GRANULE, "strategy": strategy })).await;
        let (id, url) = (text(&upload, "id"), text(&upload, "url"));
        let path = format!("/uploads/{id}");
        if strategy == "resumable" {
            server.chunk(&url, &format!("bytes 0-{}/*", GRANULE - 1), &noise(GRANULE)).await.expect(308);
        }
        assert!(server.native("DELETE", &path).send().await.expect(204).body.is_empty());
        server.native("DELETE", &path).send().await.expect(204);
        assert_eq!(server.get(&path).await["state"], "aborted");
        let late = server.bare("PUT", &url).body(noise(2 * GRANULE)).send().await;
        assert_eq!(late.status, if strategy == "single" { 403 } else { 499 }, "{}", late.text());
        server.native("POST", &format!("{path}/urls")).json("{}").problem(410).await;
        server.commit(&id, json!({})).await.problem_with(410);
    }
    let brief = server.open(json!({ "name": "b", "size": 3, "expires_in": 60 })).await;
    let (id, url) = (text(&brief, "id"), text(&brief, "url"));
    server.clock.advance(Duration::from_secs(61));
    server.bare("PUT", &url).body("abc").problem(403).await;
    assert_eq!(server.get(&format!("/uploads/{id}")).await["state"], "expired");
    server.native("POST", &format!("/uploads/{id}/urls")).json("{}").problem(410).await;
    server.native("DELETE", &format!("/uploads/{id}")).send().await.expect(204);

    let done = server.open(json!({ "name": "c", "size": 3 })).await;
    let (id, url) = (text(&done, "id"), text(&done, "url"));
    server.bare("PUT", &url).body("abc").send().await.expect(200);
    server.native("DELETE", &format!("/uploads/{id}")).problem(409).await;
    server.native("POST", &format!("/uploads/{id}/urls")).json("{}").problem(409).await;
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_urls_are_given_for_live_uploads() {
    let server = Server::start().await;
    let upload = server.open(json!({ "name": "a", "size": 3, "expires_in": 604_800 })).await;
    let path = format!("/uploads/{}/urls", text(&upload, "id"));
    server.clock.advance(Duration::from_secs(6 * 24 * 3600));
    let fresh = server.native("POST", &path).send().await.expect(200).json();
    assert!(fresh["required_headers"].is_object(), "{fresh}");
    let parts = server.native("POST", &path).json(json!({ "parts": [1] })).problem(422).await.json();
    assert_eq!(parts["field"], "parts");
    let unknown = server.native("POST", &path).json(json!({ "part": [1] })).problem(422).await.json();
    assert_eq!(unknown["field"], "part");
    server.bare("PUT", &text(&fresh, "url")).body("abc").send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_problem_is_told_with_its_time() {
    let server = Server::start().await;
    let upload = server.open(json!({ "name": "a", "size": 4, "digests": { "sha256": sha256(b"abcd") } })).await;
    let (path, url) = (format!("/uploads/{}", text(&upload, "id")), text(&upload, "url"));
    assert!(server.get(&path).await["problem"].is_null());
    let long = server.bare("PUT", &url).body("abcde").problem(422).await.json();
    assert_eq!(long["field"], "Content-Length");
    let seen = server.get(&path).await;
    assert!(seen["problem"]["detail"].as_str().unwrap().contains('5'), "{seen}");
    assert!(seen["problem"]["at"].as_str().unwrap().ends_with('Z'), "{seen}");
    let other = server.bare("PUT", &url).body("abcx").problem(422).await.json();
    assert_eq!((&other["type"], &other["declared"]), (&json!("/problems/digest-mismatch"), &json!(sha256(b"abcd"))));
    assert!(server.get(&path).await["problem"]["detail"].as_str().unwrap().contains("sha256"));
    // A cut, by a client that promises more than it sends.
    let head = format!(
        "PUT {} HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\n\r\nab",
        &url[url.find("/put").unwrap()..],
        server.address
    );
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
    tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
    drop(stream);
    for _ in 0..500 {
        if server.get(&path).await["problem"]["detail"].as_str().unwrap().contains("cut") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seen = server.get(&path).await;
    assert!(seen["problem"]["detail"].as_str().unwrap().contains("cut after 2 bytes"), "{seen}");
    server.bare("PUT", &url).body("abcd").send().await.expect(200);

    let upload = server.open(json!({ "name": "a", "size": 2 * GRANULE, "strategy": "resumable" })).await;
    let (path, url) = (format!("/uploads/{}", text(&upload, "id")), text(&upload, "url"));
    server.chunk(&url, "bytes 0-9/10", b"0123456789").await.expect(400);
    let seen = server.get(&path).await;
    assert!(seen["problem"]["detail"].as_str().unwrap().contains("the total can't be 10 bytes"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_upload_of_a_file_is_its_next_version() {
    let server = Server::start().await;
    let first = server
        .stored("a.txt", b"one", json!({ "path": "p", "metadata": { "k": "v" }, "mime_type": "text/plain" }))
        .await;
    let file = text(&first, "file_id");
    let second = server.stored("b.txt", b"second", json!({ "file_id": file })).await;
    assert_eq!(second["file_id"], file.as_str());
    assert_ne!(second["version"], first["version"]);
    let seen = server.get(&format!("/files/{file}")).await;
    assert_eq!((&seen["name"], &seen["size"], &seen["version"]), (&json!("b.txt"), &json!(6), &second["version"]));
    assert_eq!(
        (&seen["path"], &seen["metadata"]["k"], &seen["mime_type"]),
        (&json!("p"), &json!("v"), &json!("text/plain"))
    );
    assert_eq!(server.get("/files").await["items"].as_array().unwrap().len(), 1);
    let content = server.native("GET", &format!("/files/{file}/content")).send().await.expect(200);
    assert_eq!(content.body, b"second");
    // The receipt of the first upload is what it was.
    let uploads = server.get("/uploads?name=a.txt").await;
    let again = server.commit(&text(&uploads["items"][0], "id"), json!({})).await.expect(200).json();
    assert_eq!(again, first);
    let none = json!({ "name": "c", "size": 1, "file_id": format!("file_{}", "0".repeat(32)) });
    server.native("POST", "/uploads").json(none).problem(404).await;
    server.native("POST", "/uploads").json(json!({ "name": "c", "size": 1, "file_id": "x" })).problem(404).await;
    // An upload of a file's next version ends with the file.
    let open = server.open(json!({ "name": "d", "size": 3, "file_id": file })).await;
    server.native("DELETE", &format!("/files/{file}")).send().await.expect(204);
    assert_eq!(server.get(&format!("/uploads/{}", text(&open, "id"))).await["state"], "aborted");
    server.bare("PUT", &text(&open, "url")).body("abc").problem(403).await;
    server.native("GET", &format!("/files/{file}")).problem(404).await;
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_post_is_done_once() {
    let server = Server::start().await;
    let body = json!({ "name": "once", "size": 3 });
    let post =
        |mark: &str, body: &Value| server.native("POST", "/uploads").header("Idempotency-Key", mark).json(body).send();
    let first = post("m-1", &body).await.expect(201);
    let (id, url) = (text(&first.json(), "id"), text(&first.json(), "url"));
    server.bare("PUT", &url).body("abc").send().await.expect(200);
    let again = post("m-1", &body).await.expect(201);
    assert_eq!((again.json(), again.header("location")), (first.json(), first.header("location")), "the first answer");
    let other = post("m-1", &json!({ "name": "once", "size": 4 })).await.problem_with(422).json();
    assert_eq!(other["field"], "Idempotency-Key");
    // The same mark on another call is another call.
    let commit = format!("/uploads/{id}/commit");
    let elsewhere = server.native("POST", &commit).header("Idempotency-Key", "m-1").json(&body).send().await;
    elsewhere.problem_with(422);
    for bad in ["", "with space", &"x".repeat(256)] {
        assert_eq!(post(bad, &body).await.problem_with(422).json()["field"], "Idempotency-Key");
    }
    // Another tenant's marks are its own.
    let other = server.neighbour().await;
    let theirs = server.native("POST", "/uploads").bearer(&other.key).header("Idempotency-Key", "m-1").json(&body);
    assert_ne!(theirs.send().await.expect(201).json()["id"], first.json()["id"]);
    // Marks on calls that make nothing.
    let file = text(&server.commit(&id, json!({})).await.expect(200).json(), "file_id");
    let link = |seconds: u64| {
        let call = server.native("POST", &format!("/files/{file}/link")).header("Idempotency-Key", "l-1");
        call.json(json!({ "expires_in": seconds })).send()
    };
    let one = link(60).await.expect(200).json();
    server.clock.advance(Duration::from_secs(5));
    assert_eq!(link(60).await.expect(200).json(), one);
    link(61).await.problem_with(422);
    server.clock.advance(Duration::from_secs(25 * 3600));
    assert_ne!(text(&post("m-1", &body).await.expect(201).json(), "id"), id, "after a day the mark is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_repeats_at_once_make_one_upload() {
    let server = Server::start().await;
    server.admin(&["tenant", "quota", &server.tenant, "--bytes", "1000", "--sessions", "1"]).await;
    let body = json!({ "name": "once", "size": 1000 });
    let call = || server.native("POST", "/uploads").header("Idempotency-Key", "k").json(&body).send();
    let replies = join_all((0..1000).map(|_| call())).await;
    let answers: BTreeSet<String> = replies.into_iter().map(|reply| reply.expect(201).json().to_string()).collect();
    assert_eq!(answers.len(), 1);
    assert_eq!(server.get("/uploads").await["items"].as_array().unwrap().len(), 1);
    let usage = server.get("/usage").await;
    assert_eq!((&usage["reserved"], &usage["open_sessions"]), (&json!(1000), &json!(1)), "{usage}");
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_for_a_store_is_in_it_with_its_commit() {
    let server = Server::start().await;
    let made = server.admin(&["store", "create", "--tenant", &server.tenant, "shelf"]).await;
    let store = text(&made, "id");
    let receipt = server.stored("a.txt", b"a needle", json!({ "attach": { "store": store } })).await;
    let file = text(&receipt, "file_id");
    let listed = server.get(&format!("/stores/{store}/files")).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    let seen = server.get(&format!("/files/{file}")).await;
    let kinds: Vec<String> = seen["registrations"].as_array().unwrap().iter().map(|r| text(r, "kind")).collect();
    assert_eq!(kinds, ["tenant", "store"], "{seen}");
    assert_eq!(
        (&seen["registrations"][1]["store"], &seen["registrations"][1]["version"]),
        (&json!(store), &receipt["version"])
    );
    // What holds it keeps it, unless that is forced.
    let held = server.native("DELETE", &format!("/files/{file}")).problem(409).await.json();
    assert_eq!(held["type"], "/problems/wrong-state", "{held}");
    server.native("DELETE", &format!("/files/{file}?force=true")).send().await.expect(204);
    server.native("GET", &format!("/files/{file}")).problem(404).await;
    assert_eq!(server.get(&format!("/stores/{store}/files")).await["items"], json!([]));
    // Another tenant's store is none.
    let other = server.neighbour().await;
    let theirs = json!({ "name": "x", "size": 1, "attach": { "store": store } });
    server.native("POST", "/uploads").bearer(&other.key).json(theirs).send().await.problem_with(404);
    server.leaves_everything_whole().await;
}

/// What belongs to another tenant is answered exactly as what does not exist, on every route.
#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_uploads_and_files_are_unknown() {
    let server = Server::start().await;
    let receipt = server.stored("a", b"secret", json!({})).await;
    let (file, no_file) = (text(&receipt, "file_id"), format!("file_{}", "0".repeat(32)));
    let open = text(&server.open(json!({ "name": "b", "size": 3 })).await, "id");
    let other = server.neighbour().await;
    let before = server.state().await;
    let plain = |reply: Reply| {
        let mut body = reply.problem_with(404).json();
        body.as_object_mut().unwrap().remove("request_id");
        body
    };
    for (method, path, own, none) in [
        ("GET", "/uploads/{}", &open, NOBODY),
        ("DELETE", "/uploads/{}", &open, NOBODY),
        ("POST", "/uploads/{}/urls", &open, NOBODY),
        ("POST", "/uploads/{}/commit", &open, NOBODY),
        ("GET", "/files/{}", &file, &no_file),
        ("GET", "/files/{}/content", &file, &no_file),
        ("POST", "/files/{}/link", &file, &no_file),
        ("DELETE", "/files/{}", &file, &no_file),
        ("DELETE", "/files/{}?force=true", &file, &no_file),
    ] {
        let ask = |id: &str| server.native(method, &path.replace("{}", id)).bearer(&other.key).send();
        let unknown = plain(ask(none).await);
        assert_eq!(plain(ask(own).await), unknown, "{method} {path}");
        assert_eq!(plain(ask("..%2Fx").await), unknown, "{method} {path}");
    }
    let next = |id: &str| {
        server.native("POST", "/uploads").bearer(&other.key).json(json!({ "name": "x", "size": 1, "file_id": id }))
    };
    assert_eq!(plain(next(&file).send().await), plain(next(&no_file).send().await));
    for path in ["/uploads", "/files"] {
        let list = server.native("GET", path).bearer(&other.key).send().await.expect(200).json();
        assert_eq!(list, json!({ "items": [], "next_cursor": null }), "{path}");
    }
    server.unchanged(&before).await;
    assert_eq!(server.get(&format!("/uploads/{open}")).await["state"], "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_open_uploads_may_bring_is_reserved_and_given_back() {
    let server = Server::start().await;
    let set = server.admin(&["tenant", "quota", &server.tenant, "--bytes", "10KB", "--sessions", "3"]).await;
    assert_eq!((&set["quota_bytes"], &set["quota_sessions"]), (&json!(10_000), &json!(3)), "{set}");
    let usage = async || server.get("/usage").await;
    let reserved = async || usage().await["reserved"].as_u64().unwrap();
    assert_eq!(usage().await["quota"], json!({ "bytes": 10_000, "open_sessions": 3 }));
    let first = server.open(json!({ "name": "a", "size": 6000 })).await;
    assert_eq!(reserved().await, 6000, "when the URL is issued, before a byte came");
    let post = |size: u64| server.native("POST", "/uploads").json(json!({ "name": "b", "size": size }));
    let over = post(4001).problem(507).await.json();
    assert_eq!(over["type"], "/problems/quota");
    assert_eq!(
        (&over["limit"], &over["used"], &over["wanted"]),
        (&json!(10_000), &json!(6000), &json!(4001)),
        "{over}"
    );
    let second = post(4000).send().await.expect(201).json();
    // Abort, expiry and commit give it back.
    server.native("DELETE", &format!("/uploads/{}", text(&second, "id"))).send().await.expect(204);
    assert_eq!(reserved().await, 6000);
    server.bare("PUT", &text(&first, "url")).body(noise(6000)).send().await.expect(200);
    let held = usage().await;
    assert_eq!((&held["reserved"], &held["bytes"], &held["open_sessions"]), (&json!(0), &json!(6000), &json!(0)));
    let brief = server.open(json!({ "name": "c", "size": 4000, "expires_in": 60 })).await;
    post(1).problem(507).await;
    server.clock.advance(Duration::from_secs(61));
    for _ in 0..3_000 {
        server.app().engine().work.wake();
        if reserved().await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(reserved().await, 0, "its time is over: {brief}");
    // A size that nobody knows grows into the quota, and no further.
    let grows = server.open(json!({ "name": "d" })).await;
    let url = text(&grows, "url");
    let refused = server.chunk(&url, &format!("bytes 0-{}/*", GRANULE - 1), &noise(GRANULE)).await;
    refused.expect(413);
    assert_eq!(reserved().await, 0);
    let seen = server.get(&format!("/uploads/{}", text(&grows, "id"))).await;
    assert!(seen["problem"]["detail"].as_str().unwrap().contains("quota") && seen["received"] == 0, "{seen}");
    let receipt = server.commit(&text(&first, "id"), json!({})).await.expect(200).json();
    server.native("DELETE", &format!("/uploads/{}", text(&grows, "id"))).send().await.expect(204);
    // Deleting a file gives its bytes back.
    server.native("DELETE", &format!("/files/{}", text(&receipt, "file_id"))).send().await.expect(204);
    let empty = usage().await;
    assert_eq!((&empty["bytes"], &empty["reserved"]), (&json!(0), &json!(0)), "{empty}");
    for _ in 0..3 {
        post(1).send().await.expect(201);
    }
    let over = post(1).problem(507).await.json();
    assert!(over["detail"].as_str().unwrap().contains("open uploads"), "{over}");
    let none = server.admin(&["tenant", "quota", &server.tenant, "--bytes", "none", "--sessions", "none"]).await;
    assert!(none["quota_bytes"].is_null() && none["quota_sessions"].is_null(), "{none}");
    post(1_000_000).send().await.expect(201);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_watermark_nothing_new_is_taken() {
    if in_bucket() {
        return;
    }
    let server = Server::start_with(|config| config.free_space_min = 1 << 60).await;
    let full = server.native("POST", "/uploads").json(json!({ "name": "a", "size": 1 })).problem(507).await.json();
    assert_eq!(full["type"], "/problems/out-of-space", "{full}");
    let roomy = Server::start().await;
    let huge =
        roomy.native("POST", "/uploads").json(json!({ "name": "a", "size": 5u64 << 40, "strategy": "resumable" }));
    assert_eq!(huge.problem(507).await.json()["type"], "/problems/out-of-space");
    roomy.open(json!({ "name": "a", "size": 1 })).await;
}
