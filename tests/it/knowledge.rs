//! The acceptance checks of the Aitronos Knowledge API (42 to 50), processing from upload to search, and the vendor's
//! page, executed.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Neighbour, Reply, Server, encode, is_uuid};

#[path = "../../src/process/extract/samples.rs"]
mod samples;

const MIB: usize = 1024 * 1024;

impl Reply {
    /// The details of an error of this API.
    #[track_caller]
    fn details(&self, status: u16, code: &str) -> Value {
        self.fault(status, code)["details"].clone()
    }
}

impl Server {
    /// A path of the organization.
    fn at(&self, rest: &str) -> String {
        format!("/v1/organizations/{}{rest}", self.tenant)
    }

    /// A path of the first store's files.
    fn in_store(&self, rest: &str) -> String {
        self.at(&format!("/stores/{}/files{rest}", self.store))
    }

    async fn ask_upload(&self, body: Value) -> Reply {
        self.call("POST", self.in_store("/upload-url")).json(body).send().await
    }

    /// An upload of so many bytes, opened.
    async fn opened(&self, name: &str, size: usize) -> (String, String) {
        let body = json!({"file_name": name, "file_size": size, "mime_type": "text/plain", "relative_path": "a/b"});
        let opened = self.ask_upload(body).await.expect(200).json();
        let text = |name: &str| opened[name].as_str().expect(name).to_owned();
        (text("upload_id"), text("signed_url"))
    }

    /// An upload that came whole and is not registered.
    async fn put(&self, name: &str, content: &[u8]) -> String {
        let (id, url) = self.opened(name, content.len()).await;
        self.bare("PUT", &url).header("Content-Type", "text/plain").body(content).send().await.expect(200);
        id
    }

    async fn link(&self, id: &str) -> Reply {
        self.call("POST", self.in_store("/register")).json(json!({"upload_id": id})).send().await
    }

    /// A file in the first store.
    async fn in_the_store(&self, name: &str, content: &[u8]) -> String {
        let id = self.put(name, content).await;
        self.link(&id).await.expect(201);
        id
    }

    /// Waits until a file's processing ended; its status.
    async fn processed(&self, id: &str) -> Value {
        for _ in 0..3_000 {
            let status = self.read_store(&format!("/{id}/status")).await;
            match status["status"].as_str().expect("a status") {
                "completed" | "failed" => return status,
                "pending" | "processing" => tokio::time::sleep(Duration::from_millis(20)).await,
                other => panic!("no state: {other}"),
            }
        }
        panic!("{id} is not processed");
    }

    async fn read_store(&self, rest: &str) -> Value {
        self.call("GET", self.in_store(rest)).send().await.expect(200).json()
    }

    /// What a search in the first store finds.
    async fn hits(&self, query: &str) -> Vec<Value> {
        let found = self.get(&format!("/stores/{}/search?query={}", self.store, encode(query))).await;
        found["items"].as_array().expect("items").clone()
    }

    async fn new_store(&self, name: &str) -> String {
        let made = self.call("POST", self.at("/knowledge/stores")).json(json!({"name": name})).send().await;
        made.expect(201).json()["id"].as_str().expect("an id").to_owned()
    }
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn is_public(id: &Value, prefix: &str) -> bool {
    let digits = id.as_str().and_then(|id| id.strip_prefix(prefix));
    digits.is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[tokio::test(flavor = "multi_thread")]
async fn check_42_an_upload_url_has_exactly_four_fields() {
    let server = Server::start().await;
    let body = json!({
        "file_name": "large-dataset.csv", "file_size": 104_857_600, "mime_type": "text/csv", "relative_path": "data/imports",
    });
    for query in ["", &format!("?organization_id={}", server.tenant)] {
        let path = server.in_store("/upload-url") + query;
        let opened = server.call("POST", path).json(&body).send().await.expect(200).json();
        assert_eq!(keys(&opened), ["chunk_size", "expires_at", "signed_url", "upload_id"]);
        assert!(is_public(&opened["upload_id"], "file_"), "{opened}");
        assert_eq!(opened["chunk_size"], 8_388_608);
        let url = opened["signed_url"].as_str().unwrap();
        assert!(url.starts_with(&server.url("/upload/storage/v1/b/")) && url.contains("upload_id="), "{url}");
        let expires: jiff::Timestamp = opened["expires_at"].as_str().unwrap().parse().unwrap();
        let life = expires.as_second() - server.clock.now().millis() / 1000;
        assert!((life - 7 * 24 * 3600).abs() < 60, "{life}");
    }
    let path = server.in_store("/upload-url?organization_id=other");
    let details = server.call("POST", path).json(&body).send().await.details(400, "INVALID_FIELD_VALUE");
    assert_eq!(details, json!({"field": "organization_id", "value": "other"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_43_an_unknown_store_and_a_foreign_one_are_the_same() {
    let server = Server::start().await;
    let Neighbour { tenant, .. } = server.neighbour().await;
    let theirs = server.admin(&["store", "create", "--tenant", &tenant, "Theirs"]).await;
    assert!(is_public(&theirs["id"], "vs_"), "{theirs}");
    let theirs = theirs["id"].as_str().unwrap();
    let body = json!({"file_name": "a.txt", "file_size": 1, "mime_type": "text/plain"});
    for store in [theirs, "vs_00000000000000000000000000000000", "vs_abc123", "x"] {
        let path = server.at(&format!("/stores/{store}/files/upload-url"));
        let reply = server.call("POST", path).json(&body).send().await;
        assert_eq!(reply.json()["error"]["system_message"], "Vector store not found");
        let details = reply.details(404, "VECTOR_STORE_NOT_FOUND");
        assert_eq!(details, json!({"store_id": store, "organization_id": server.tenant}));
        for (method, rest) in [("GET", ""), ("GET", "/file_x"), ("POST", "/file_x/retry"), ("DELETE", "/file_x")] {
            let path = server.at(&format!("/stores/{store}/files{rest}"));
            server.call(method, path).send().await.details(404, "VECTOR_STORE_NOT_FOUND");
        }
        let path = server.at(&format!("/knowledge/stores/{store}"));
        server.call("GET", path).send().await.details(404, "VECTOR_STORE_NOT_FOUND");
        server.native("GET", &format!("/stores/{store}/files")).problem(404).await;
    }
    for org in [tenant.as_str(), "nobody"] {
        let path = format!("/v1/organizations/{org}/stores/{theirs}/files/upload-url");
        let details = server.call("POST", path).json(&body).send().await.details(403, "ORGANIZATION_ACCESS_DENIED");
        assert_eq!(details, json!({"organization_id": org}));
    }
    server
        .call("POST", server.in_store("/upload-url"))
        .anonymous()
        .json(&body)
        .send()
        .await
        .details(401, "AUTHENTICATION_REQUIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_44_names_sizes_and_paths_are_checked() {
    let server = Server::start().await;
    let with = |name: &str, value: Value| {
        let mut body = json!({"file_name": "a.txt", "file_size": 10, "mime_type": "text/plain"});
        body[name] = value;
        body
    };
    for (field, value) in [
        ("file_name", json!("x".repeat(256))),
        ("file_name", json!("")),
        ("file_name", json!("a/b")),
        ("file_size", json!(0)),
        ("file_size", json!(-1)),
        ("file_size", json!(5_368_709_121_u64)),
        ("mime_type", json!("text")),
        ("relative_path", json!("../x")),
        ("relative_path", json!("/x")),
        ("relative_path", json!("a\\b")),
        ("relative_path", json!("a/../b")),
        ("relative_path", json!("x".repeat(1025))),
    ] {
        let details = server.ask_upload(with(field, value.clone())).await.details(400, "INVALID_FIELD_VALUE");
        assert_eq!(details["field"], field);
    }
    for (field, value) in [
        ("relative_path", Value::Null),
        ("relative_path", json!("")),
        ("file_name", json!("x".repeat(255))),
        ("file_size", json!(5_368_709_120_u64)),
        ("unknown", json!(1)),
    ] {
        server.ask_upload(with(field, value)).await.expect(200);
    }
    let body = json!({"filename": "a.txt", "file_size": 10, "mime_type": "text/plain"});
    let details = server.ask_upload(body).await.details(422, "VALIDATION_ERROR");
    assert_eq!(details["errors"][0]["field"], "file_name");
    for (field, value) in [("file_size", json!("10")), ("file_size", json!(1.5)), ("relative_path", json!(7))] {
        server.ask_upload(with(field, value)).await.details(422, "VALIDATION_ERROR");
    }
    for body in ["", "[]", "{"] {
        server.call("POST", server.in_store("/upload-url")).json(body).send().await.details(422, "VALIDATION_ERROR");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_45_a_file_is_registered_when_its_bytes_are_there() {
    let server = Server::start().await;
    let content = b"The lighthouse keeper counts the ships at dusk.";
    let (id, url) = server.opened("keeper.txt", content.len()).await;
    let details = server.link(&id).await.details(400, "UPLOAD_INCOMPLETE");
    assert_eq!(details, json!({"file_id": id, "received_bytes": 0, "expected_bytes": content.len()}));
    server.bare("PUT", &url).body(content.as_slice()).send().await.expect(200);
    assert_eq!(server.read_store("").await["total"], 0, "not yet");
    let made = server.link(&id).await.expect(201).json();
    assert_eq!(keys(&made), ["created_at", "file_id", "mime_type", "name", "relative_path", "size", "status"]);
    assert_eq!(made["file_id"], id);
    assert_eq!((&made["status"], &made["relative_path"]), (&json!("pending"), &json!("a/b")));
    assert_eq!(made["size"], content.len());
    server.processed(&id).await;
    assert_eq!(server.link(&id).await.expect(200).json(), made, "the same object");
    assert_eq!(server.read_store("").await["total"], 1);
    let file = server.call("GET", server.at(&format!("/files/{id}"))).send().await.expect(200).json();
    assert_eq!((&file["id"], &file["original_filename"]), (&json!(id), &json!("keeper.txt")));

    // A path given now replaces the first one; null keeps it.
    let path = server.in_store("/register");
    for (path_now, wanted) in [(json!("c"), "c"), (Value::Null, "a/b")] {
        let id = server.put("b.txt", b"text").await;
        let body = json!({"upload_id": id, "relative_path": path_now});
        let made = server.call("POST", path.as_str()).json(body).send().await.expect(201).json();
        assert_eq!(made["relative_path"], wanted);
    }
    let id = server.put("c.txt", b"text").await;
    let body = json!({"upload_id": id, "relative_path": "../c"});
    server.call("POST", path.as_str()).json(body).send().await.details(400, "INVALID_FIELD_VALUE");
    server.call("POST", path.as_str()).json("{}").send().await.details(422, "VALIDATION_ERROR");

    // Of another store, of the Files API, unknown.
    let other = server.new_store("Other").await;
    let others = server.at(&format!("/stores/{other}/files/register"));
    let details =
        server.call("POST", others).json(json!({"upload_id": id})).send().await.details(404, "FILE_NOT_FOUND");
    assert_eq!(details, json!({"file_id": id}));
    let body = json!({"filename": "f.txt", "file_size": 4, "mime_type": "text/plain"});
    let of_files = server.call("POST", server.at("/files/upload-url")).json(body).send().await.expect(200).json();
    let unknown = json!("file_00000000000000000000000000000000");
    for id in [&of_files["file_id"], &unknown, &json!("x")] {
        server.link(id.as_str().unwrap()).await.details(404, "FILE_NOT_FOUND");
    }
    server.bare("PUT", of_files["upload_url"].as_str().unwrap()).body("text").send().await.expect(200);
    server.link(of_files["file_id"].as_str().unwrap()).await.details(404, "FILE_NOT_FOUND");

    // What waits for longer than its session is gone; what is registered stays.
    let waiting = server.put("late.txt", b"text").await;
    server.clock.advance(Duration::from_secs(7 * 24 * 3600 + 1));
    server.link(&waiting).await.details(404, "FILE_NOT_FOUND");
    assert_eq!(server.link(made["file_id"].as_str().unwrap()).await.expect(200).json(), made);
    server.leaves_everything_whole().await;
}

/// A form of parts: name, filename, content.
fn form(parts: &[(&str, Option<&str>, &[u8])]) -> (String, Vec<u8>) {
    let boundary = "7d8f1c2ab3";
    let mut body = Vec::new();
    for (name, filename, content) in parts {
        body.extend(format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"").bytes());
        if let Some(filename) = filename {
            body.extend(format!("; filename=\"{filename}\"\r\nContent-Type: text/plain").bytes());
        }
        body.extend(b"\r\n\r\n");
        body.extend_from_slice(content);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{boundary}--\r\n").bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn check_46_a_direct_upload_takes_its_parts_in_either_order() {
    let server = Server::start().await;
    let send = async |parts: &[(&str, Option<&str>, &[u8])]| {
        let (kind, body) = form(parts);
        let path = format!("{}?organization_id={}", server.in_store("/upload"), server.tenant);
        server.call("POST", path).header("Content-Type", &kind).body(body).send().await
    };
    let file: (&str, Option<&str>, &[u8]) = ("file", Some("tide.txt"), b"The tide is in.");
    let path: (&str, Option<&str>, &[u8]) = ("relative_path", None, b"data/imports");
    for parts in [[file, path], [path, file]] {
        let made = send(&parts).await.expect(201).json();
        assert_eq!((&made["name"], &made["relative_path"]), (&json!("tide.txt"), &json!("data/imports")));
        assert_eq!((&made["size"], &made["status"]), (&json!(15), &json!("pending")));
        assert_eq!(server.processed(made["file_id"].as_str().unwrap()).await["status"], "completed");
    }
    assert_eq!(send(&[file]).await.expect(201).json()["relative_path"], Value::Null);
    let before = server.get("/usage").await;
    send(&[path]).await.details(422, "VALIDATION_ERROR");
    send(&[file, file]).await.details(422, "VALIDATION_ERROR");
    send(&[file, ("relative_path", None, b"../x")]).await.details(400, "INVALID_FIELD_VALUE");
    let large = vec![b'x'; 31 * MIB + 1];
    let details = send(&[("file", Some("large.txt"), &large)]).await.details(413, "FILE_TOO_LARGE");
    assert_eq!(details["max_bytes"], 32_505_856);
    let larger = vec![b'x'; 40 * MIB];
    send(&[("file", Some("larger.txt"), &larger)]).await.details(413, "FILE_TOO_LARGE");
    let after = server.get("/usage").await;
    for part in ["files", "stores", "bytes"] {
        assert_eq!(after[part], before[part], "a refused form left `{part}` behind");
    }
    send(&[("file", Some("just.txt"), &large[1..])]).await.expect(201);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_47_files_are_listed_by_state_name_and_stretch() {
    let server = Server::start().await;
    for name in ["Report one.txt", "other.txt", "rePORT two.txt"] {
        let id = server.in_the_store(name, b"some text").await;
        server.processed(&id).await;
    }
    let broken = server.in_the_store("report.pdf", b"%PDF-1.4 broken").await;
    server.processed(&broken).await;
    let names = async |query: &str| {
        let list = server.read_store(query).await;
        assert_eq!(keys(&list), ["has_more", "items", "limit", "skip", "total"]);
        let names: Vec<String> =
            list["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect();
        (names, list["total"].as_u64().unwrap(), list["has_more"].as_bool().unwrap())
    };
    let is = |names: &[&str], total: u64, more: bool| (names.iter().map(|n| (*n).to_owned()).collect(), total, more);
    let found = names("?status=completed&search=REPORT&skip=0&limit=10").await;
    assert_eq!(found, is(&["rePORT two.txt", "Report one.txt"], 2, false));
    assert_eq!(names("?search=report&limit=1&skip=1").await, is(&["rePORT two.txt"], 3, true));
    assert_eq!(names("?status=failed").await, is(&["report.pdf"], 1, false));
    assert_eq!(names("?status=pending").await, is(&[], 0, false));
    let list = server.read_store("").await;
    assert_eq!((&list["limit"], &list["skip"], &list["total"]), (&json!(20), &json!(0), &json!(4)));
    let item = &list["items"][0];
    assert_eq!(
        keys(item),
        [
            "created_at",
            "current_step",
            "error_message",
            "file_id",
            "mime_type",
            "name",
            "processed_at",
            "progress_percent",
            "relative_path",
            "size",
            "status"
        ]
    );
    assert!(item["error_message"].as_str().is_some_and(|reason| reason.contains("damaged")), "{item}");
    for (query, field) in
        [("?status=done", "status"), ("?limit=101", "limit"), ("?limit=0", "limit"), ("?skip=-1", "skip")]
    {
        let reply = server.call("GET", server.in_store(query)).send().await;
        assert_eq!(reply.details(400, "INVALID_FIELD_VALUE")["field"], field);
    }
    server.call("GET", server.in_store("?skip=x")).send().await.details(422, "VALIDATION_ERROR");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_48_processing_is_told_and_tried_again() {
    let server = Server::start().await;
    let pdf = samples::pdf("a phrase about lighthouses");
    let good = server.in_the_store("good.pdf", &pdf).await;
    let status = server.processed(&good).await;
    assert_eq!(
        keys(&status),
        ["completed_at", "current_step", "error_message", "progress_percent", "started_at", "status"]
    );
    assert_eq!((&status["status"], &status["progress_percent"]), (&json!("completed"), &json!(100)));
    assert!(status["started_at"].is_string() && status["completed_at"].is_string(), "{status}");
    let detail = server.read_store(&format!("/{good}")).await;
    assert_eq!(
        keys(&detail),
        [
            "chunk_count",
            "created_at",
            "error_message",
            "file_id",
            "mime_type",
            "name",
            "processing_completed_at",
            "processing_started_at",
            "relative_path",
            "size",
            "status"
        ]
    );
    assert_eq!((&detail["chunk_count"], &detail["size"]), (&json!(1), &json!(pdf.len())));
    let logs = server.read_store(&format!("/{good}/logs")).await;
    let logs = logs["logs"].as_array().unwrap();
    assert!(logs.len() >= 4, "{logs:?}");
    assert!(logs.iter().all(|entry| keys(entry) == ["level", "message", "timestamp"]), "{logs:?}");
    assert!(logs.iter().any(|entry| entry["message"].as_str().unwrap().contains("read as pdf")), "{logs:?}");

    let bad = server.in_the_store("bad.pdf", &pdf[..200]).await;
    let status = server.processed(&bad).await;
    assert_eq!((&status["status"], &status["completed_at"]), (&json!("failed"), &Value::Null));
    assert!(status["error_message"].as_str().is_some_and(|reason| reason.contains("damaged")), "{status}");
    assert_eq!(status["current_step"], "extracting", "where it failed");
    for id in [&bad, &good] {
        let again = server.call("POST", server.in_store(&format!("/{id}/retry"))).send().await.expect(200).json();
        assert_eq!((&again["status"], &again["progress_percent"]), (&json!("pending"), &json!(0)));
        assert_eq!(again["error_message"], Value::Null);
    }
    assert_eq!(server.processed(&bad).await["status"], "failed");
    assert_eq!(server.processed(&good).await["status"], "completed");
    let logs = server.read_store(&format!("/{bad}/logs")).await;
    let errors = logs["logs"].as_array().unwrap().iter().filter(|entry| entry["level"] == "error").count();
    assert_eq!(errors, 2, "{logs}");
    for rest in ["", "/status", "/logs"] {
        let unknown = "file_00000000000000000000000000000000";
        let path = server.in_store(&format!("/{unknown}{rest}"));
        assert_eq!(server.call("GET", path).send().await.details(404, "FILE_NOT_FOUND"), json!({"file_id": unknown}));
    }
    server.call("POST", server.in_store("/x/retry")).send().await.details(404, "FILE_NOT_FOUND");
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_49_files_leave_a_store_and_its_index() {
    let server = Server::start().await;
    let mut ids = Vec::new();
    for n in 0..4 {
        let id = server.in_the_store(&format!("{n}.txt"), format!("lighthouse number {n}").as_bytes()).await;
        server.processed(&id).await;
        ids.push(id);
    }
    assert_eq!(server.hits("lighthouse").await.len(), 4);
    let one = server.in_store(&format!("/{}", ids[0]));
    let gone = server.call("DELETE", one.as_str()).send().await.expect(204);
    assert!(gone.body.is_empty());
    server.call("DELETE", one.as_str()).send().await.details(404, "FILE_NOT_FOUND");
    server.call("GET", one).send().await.details(404, "FILE_NOT_FOUND");
    let bulk = server.in_store("/remove-bulk");
    let body = json!({"file_ids": [ids[1], "file_00000000000000000000000000000000", "x"]});
    server.call("POST", bulk.as_str()).json(body).send().await.expect(204);
    for body in [json!({"file_ids": []}), json!({}), json!({"file_ids": [1]}), json!({"file_ids": "x"})] {
        server.call("POST", bulk.as_str()).json(body).send().await.details(422, "VALIDATION_ERROR");
    }
    assert_eq!(server.hits("lighthouse").await.len(), 2);
    // They are the organization's still; deleted there, they leave every store.
    server.call("GET", server.at(&format!("/files/{}", ids[0]))).send().await.expect(200);
    server.call("DELETE", server.at(&format!("/files/{}", ids[2]))).send().await.expect(204);
    server.call("GET", server.in_store(&format!("/{}", ids[2]))).send().await.details(404, "FILE_NOT_FOUND");
    assert_eq!(server.hits("lighthouse").await.len(), 1);
    assert_eq!(server.read_store("").await["total"], 1);
    // Registered again, it is back.
    server.link(&ids[0]).await.expect(201);
    server.processed(&ids[0]).await;
    assert_eq!(server.hits("lighthouse").await.len(), 2);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_50_limits_are_public_and_usage_adds_up() {
    let server = Server::start().await;
    let config = server.call("GET", "/v1/files/config").anonymous().send().await.expect(200).json();
    assert_eq!(config["direct_upload_max_bytes"], 32_505_856);
    assert_eq!(config["chunked_upload_chunk_bytes"], 8_388_608);
    let pdf = &config["supported_types"]["pdf"];
    assert_eq!(keys(pdf), ["description", "extensions", "max_bytes"]);
    assert_eq!((&pdf["extensions"], &pdf["max_bytes"]), (&json!([".pdf"]), &json!(134_217_728)));
    let unsupported = config["unsupported_categories"].as_array().unwrap();
    assert!(unsupported.iter().all(|one| keys(one) == ["category", "extensions", "reason"]), "{unsupported:?}");

    let other = server.new_store("Other").await;
    server.in_the_store("a.txt", b"twelve bytes").await;
    let shared = server.in_the_store("b.txt", b"four").await;
    let attach = server.at(&format!("/vector-stores/{other}/files"));
    server.call("POST", attach).json(json!({"file_id": shared})).send().await.expect(201);
    let usage = server.call("GET", server.at("/stores/usage")).send().await.expect(200).json();
    assert_eq!(keys(&usage), ["file_count", "stores", "total_bytes", "used_bytes"]);
    assert_eq!((&usage["used_bytes"], &usage["file_count"]), (&json!(20), &json!(3)));
    assert!(usage["total_bytes"].as_u64().unwrap() > 20, "{usage}");
    let stores = usage["stores"].as_array().unwrap();
    assert_eq!(keys(&stores[0]), ["file_count", "store_id", "store_name", "used_bytes"]);
    assert_eq!((&stores[0]["store_name"], &stores[0]["used_bytes"]), (&json!("default"), &json!(16)));
    assert_eq!((&stores[1]["store_id"], &stores[1]["used_bytes"]), (&json!(other), &json!(4)));
    let listed: u64 = server.read_store("").await["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["size"].as_u64().unwrap())
        .sum();
    assert_eq!(listed, 16);
    let native = server.get("/usage").await;
    assert_eq!(native["stores"][0]["bytes"], 16, "{native}");
    server.call("GET", server.at("/stores/usage")).anonymous().send().await.details(401, "AUTHENTICATION_REQUIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_every_kind_are_found_by_a_phrase_within() {
    let server = Server::start().await;
    let long = (0..400).map(|n| format!("Sentence number {n} of a long story. ")).collect::<String>();
    let long = long.trim_end();
    let story = format!("{long}\n\nIn the end the keeper slept beneath the lantern.\n\n{long}");
    let files: [(&str, Vec<u8>, &str); 5] = [
        ("a.pdf", samples::pdf_flate("gulls over the harbour"), "gulls over the harbour"),
        ("b.docx", samples::docx("ropes beside the quay"), "ropes beside the quay"),
        ("c.txt", story.clone().into_bytes(), "slept beneath the lantern"),
        ("d.html", b"<html><body><p>nets on the <b>pier</b></p></body></html>".to_vec(), "nets on the pier"),
        ("e.xlsx", samples::xlsx("tides by month"), "tides by month"),
    ];
    let mut ids = Vec::new();
    for (name, content, _) in &files {
        ids.push(server.in_the_store(name, content).await);
    }
    for ((name, _, phrase), id) in files.iter().zip(&ids) {
        let status = server.processed(id).await;
        assert_eq!(status["status"], "completed", "{name}: {status}");
        let hits = server.hits(&format!("\"{phrase}\"")).await;
        assert_eq!(hits.len(), 1, "{name}: {hits:?}");
        assert_eq!((&hits[0]["file"]["file_id"], &hits[0]["file"]["name"]), (&json!(id), &json!(name)));
        assert!(hits[0]["text"].as_str().unwrap().contains(phrase), "{name}: {hits:?}");
        assert!(hits[0]["score"].as_f64().unwrap() > 0.0);
    }
    // Positions are of the whole text: characters, cut where the story pauses.
    let hits = server.hits("\"slept beneath the lantern\"").await;
    let at = |name: &str| usize::try_from(hits[0]["position"][name].as_u64().unwrap()).unwrap();
    let text: String = story.chars().skip(at("start")).take(at("end") - at("start")).collect();
    assert_eq!(hits[0]["text"], text);
    assert!(at("chunk") > 0);
    let detail = server.read_store(&format!("/{}", ids[2])).await;
    assert!(detail["chunk_count"].as_u64().unwrap() > 20, "{detail}");
    // The best first: a chunk that is all about it before one that names it.
    let best = server.in_the_store("best.txt", b"lantern lantern lantern").await;
    server.processed(&best).await;
    let hits = server.hits("lantern").await;
    assert_eq!((hits.len(), &hits[0]["file"]["file_id"]), (2, &json!(best)));
    let hits = server.hits("story").await;
    assert_eq!(hits.len(), 10, "the limit when none is given");
    let scores: Vec<f64> = hits.iter().map(|hit| hit["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");

    // What can't be read says why, in words that help.
    let unreadable: [(&str, Vec<u8>, &str); 5] = [
        ("x.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec(), "cannot be read from png"),
        ("x.pdf", samples::pdf_encrypted(true), "password"),
        ("scan.pdf", samples::pdf(""), "no text"),
        ("x.docx", b"PK\x03\x04 and then nothing of a zip".to_vec(), "damaged"),
        ("blank.txt", b" \n ".to_vec(), "no text"),
    ];
    for (name, content, reason) in unreadable {
        let id = server.in_the_store(name, &content).await;
        let status = server.processed(&id).await;
        assert_eq!(status["status"], "failed", "{name}");
        assert!(status["error_message"].as_str().unwrap().contains(reason), "{name}: {status}");
        assert_eq!(server.read_store(&format!("/{id}")).await["chunk_count"], 0);
    }
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_index_is_made_again() {
    let mut server = Server::start().await;
    let id = server.in_the_store("a.txt", b"the lighthouse").await;
    let failed = server.in_the_store("b.pdf", b"%PDF-1.4 broken").await;
    server.processed(&id).await;
    server.processed(&failed).await;
    assert_eq!(server.hits("lighthouse").await.len(), 1);
    let (data, home) = (server.data(), server.home());
    server
        .restart_after(|| {
            if let Some(database) = home.database() {
                database.sql("TRUNCATE texts, text_words, chunks, marks");
            }
            for file in ["search.db", "search.db-wal", "search.db-shm"] {
                let _ = std::fs::remove_file(data.join(file));
            }
        })
        .await;
    assert_eq!(server.processed(&id).await["status"], "completed");
    assert_eq!(server.hits("lighthouse").await.len(), 1);
    let status = server.read_store(&format!("/{failed}/status")).await;
    assert_eq!(status["status"], "failed", "it had no chunks");
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_are_made_changed_listed_and_deleted() {
    let server = Server::start().await;
    let all = server.at("/knowledge/stores");
    let body =
        json!({"name": "Charts", "description": "Of the coast", "access_mode": "private", "access_target_id": "dep_1"});
    let made = server.call("POST", all.as_str()).json(body).send().await.expect(201).json();
    for field in ["id", "name", "organization_id", "created_by", "created_at", "updated_at", "access_mode"] {
        assert!(made[field].is_string(), "{field} in {made}");
    }
    assert!(is_public(&made["id"], "vs_") && made["created_by"].as_str().unwrap().starts_with("ak_"), "{made}");
    assert_eq!((&made["is_active"], &made["access_mode"]), (&json!(true), &json!("private")));
    assert_eq!((&made["file_count"], &made["data_size"]), (&json!(0), &json!(0)));
    let id = made["id"].as_str().unwrap();
    let one = server.at(&format!("/knowledge/stores/{id}"));
    assert_eq!(server.call("GET", one.as_str()).send().await.expect(200).json(), made);
    let patched =
        json!({"name": "Maps", "is_active": false, "slice_ids": ["kslice_1", "kslice_2"], "description": null});
    let patched = server.call("PATCH", one.as_str()).json(patched).send().await.expect(200).json();
    assert_eq!(
        (&patched["name"], &patched["is_active"], &patched["description"]),
        (&json!("Maps"), &json!(false), &Value::Null)
    );
    assert_eq!((&patched["slice_id"], &patched["slice_ids"][1]), (&json!("kslice_1"), &json!("kslice_2")));
    assert_eq!(patched["access_mode"], "private", "as it was");
    for (body, field) in [
        (json!({"name": ""}), "name"),
        (json!({"name": "x".repeat(256)}), "name"),
        (json!({"access_mode": "nobody"}), "access_mode"),
        (json!({"slice_id": ""}), "slice_id"),
    ] {
        let reply = server.call("PATCH", one.as_str()).json(body).send().await;
        assert_eq!(reply.details(400, "INVALID_FIELD_VALUE")["field"], field);
    }
    server.call("PATCH", one.as_str()).json(json!({"is_active": 1})).send().await.details(422, "VALIDATION_ERROR");
    server.call("POST", all.as_str()).json("{}").send().await.details(422, "VALIDATION_ERROR");
    server.call("POST", all.as_str()).json(json!({"name": " "})).send().await.details(400, "INVALID_FIELD_VALUE");

    let slice = server.at("/knowledge/slices/kslice_2/stores");
    let second = server.call("POST", slice.as_str()).json(json!({"name": "atlas"})).send().await.expect(201).json();
    assert_eq!(second["slice_id"], "kslice_2");
    let names = async |path: &str| {
        let list = server.call("GET", path).send().await.expect(200).json();
        let items = list["items"].as_array().unwrap();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&all).await, ["atlas", "Maps", "default"]);
    assert_eq!(names(&format!("{all}?sort=name&order=asc")).await, ["atlas", "default", "Maps"]);
    assert_eq!(names(&format!("{all}?status=inactive")).await, ["Maps"]);
    assert_eq!(names(&format!("{all}?search=MA&slice_id=kslice_2")).await, ["Maps"]);
    assert_eq!(names(&slice).await, ["atlas", "Maps"]);
    assert_eq!(names(&format!("{all}?skip=1&limit=1")).await, ["Maps"]);
    for query in ["sort=x", "order=up", "status=x", "limit=0"] {
        server.call("GET", format!("{all}?{query}")).send().await.details(400, "INVALID_FIELD_VALUE");
    }

    // A store with files goes at once, with its chunks; the files stay the organization's.
    let file = server.in_the_store("a.txt", b"the lighthouse").await;
    server.processed(&file).await;
    let default = server.at(&format!("/knowledge/stores/{}", server.store));
    assert_eq!(server.call("GET", default.as_str()).send().await.expect(200).json()["file_count"], 1);
    server.call("DELETE", default.as_str()).send().await.expect(204);
    server.call("DELETE", default.as_str()).send().await.details(404, "VECTOR_STORE_NOT_FOUND");
    server.call("GET", server.in_store("")).send().await.details(404, "VECTOR_STORE_NOT_FOUND");
    server.call("GET", server.at(&format!("/files/{file}"))).send().await.expect(200);
    let usage = server.get("/usage").await;
    assert_eq!(usage["stores"].as_array().unwrap().len(), 2, "{usage}");
    // A key without the right.
    let key = server.key_with(&server.tenant, "read,upload").await;
    let reply = server.call("POST", all.as_str()).bearer(&key).json(json!({"name": "no"})).send().await;
    assert_eq!(reply.details(403, "INSUFFICIENT_PERMISSIONS")["right"], "sources");
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_organization_are_attached_in_a_wrapper() {
    let server = Server::start().await;
    let other = server.new_store("Other").await;
    let file = server.in_the_store("a.txt", b"the lighthouse").await;
    let files = server.at(&format!("/vector-stores/{other}/files"));
    let attach = async |id: &str| server.call("POST", files.as_str()).json(json!({"file_id": id})).send().await;
    let made = attach(&file).await.expect(201).json();
    assert_eq!((&made["success"], made["message"].is_string()), (&json!(true), true));
    let data = &made["data"];
    assert!(is_public(&data["id"], "vsf_"), "{data}");
    assert_eq!((&data["file_id"], &data["vector_store_id"]), (&json!(file), &json!(other)));
    assert_eq!(data["processing_status"], "pending");
    assert_eq!(attach(&file).await.expect(200).json()["data"]["id"], data["id"]);
    // An upload that nobody registered, and an unknown file.
    let waiting = server.put("w.txt", b"text").await;
    for id in [waiting.as_str(), "file_00000000000000000000000000000000", "x"] {
        assert_eq!(attach(id).await.details(404, "FILE_NOT_FOUND"), json!({"file_id": id}));
    }
    let read =
        async |rest: &str| server.call("GET", format!("{files}{rest}")).send().await.expect(200).json()["data"].clone();
    for _ in 0..1_000 {
        if read(&format!("/{file}/status")).await["status"] == "completed" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = read(&format!("/{file}/status")).await;
    assert_eq!((&status["status"], &status["chunk_count"]), (&json!("completed"), &json!(1)));
    assert_eq!(status["vector_store_file_id"], data["id"]);
    assert_eq!(read(&format!("/{file}")).await["processing_status"], "completed");
    assert!(read(&format!("/{file}/logs")).await["logs"].as_array().unwrap().len() > 3);
    let list = read("?page=1&page_size=1").await;
    assert_eq!(keys(&list), ["files", "page", "page_size", "total", "total_pages"]);
    assert_eq!((&list["total"], &list["total_pages"]), (&json!(1), &json!(1)));
    let retry = server.call("POST", format!("{files}/{file}/retry")).json(json!({"reset_error": true})).send().await;
    assert_eq!(retry.expect(200).json()["data"]["status"], "pending");
    server.call("DELETE", format!("{files}/{file}")).send().await.expect(204);
    server.call("GET", format!("{files}/{file}")).send().await.details(404, "FILE_NOT_FOUND");
    server.read_store(&format!("/{file}")).await;
    // What else the vendor has there is not served.
    for (method, path) in [
        ("GET", "/vector-stores".to_owned()),
        ("POST", "/vector-stores".to_owned()),
        ("GET", format!("/vector-stores/{other}")),
    ] {
        server.call(method, server.at(&path)).json("{}").send().await.details(404, "NOT_FOUND");
    }
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_api_lists_stores_and_their_files_and_searches() {
    let server = Server::start().await;
    let second = server.new_store("Second").await;
    let stores = server.get("/stores?limit=1").await;
    assert_eq!((&stores["items"][0]["id"], &stores["items"][0]["files"]), (&json!(second), &json!(0)));
    let next = stores["next_cursor"].as_str().expect("another page");
    let stores = server.get(&format!("/stores?limit=1&cursor={next}")).await;
    assert_eq!((&stores["items"][0]["id"], &stores["next_cursor"]), (&json!(server.store), &Value::Null));
    for n in 0..3 {
        let id = server.in_the_store(&format!("{n}.txt"), b"a text").await;
        server.processed(&id).await;
    }
    let path = format!("/stores/{}/files", server.store);
    let mut names = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = server.get(&format!("{path}?limit=2&state=completed{cursor}")).await;
        names.extend(page["items"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(names, ["2.txt", "1.txt", "0.txt"]);
    let search = format!("/stores/{}/search", server.store);
    assert_eq!(server.get(&format!("{search}?query=text&limit=2")).await["items"].as_array().unwrap().len(), 2);
    for bad in ["", "?query=", "?query=x&limit=0", "?query=x&limit=101", "?query=x&other=1"] {
        server.native("GET", &format!("{search}{bad}")).problem(422).await;
    }
    server.native("GET", &format!("{path}?state=done")).problem(422).await;
    let neighbour = server.neighbour().await;
    for path in [&path, &format!("{search}?query=text")] {
        server.native("GET", path).bearer(&neighbour.key).send().await.problem_with(404);
    }
    let listed = server.native("GET", "/stores").bearer(&neighbour.key).send().await.expect(200).json();
    assert!(listed["items"].as_array().unwrap().is_empty());
    let shown = server.admin(&["store", "create", "--tenant", &neighbour.tenant, "Theirs"]).await;
    assert_eq!(shown["name"], "Theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_our_own_api_comes_into_its_store_with_its_commit() {
    let server = Server::start().await;
    let content = b"The lighthouse, attached.";
    let ask =
        |store: &str| json!({"name": "a.txt", "size": content.len(), "strategy": "single", "attach": {"store": store}});
    let theirs = server.neighbour().await;
    let theirs = server.admin(&["store", "create", "--tenant", &theirs.tenant, "Theirs"]).await;
    for unknown in [theirs["id"].as_str().unwrap(), "vs_00000000000000000000000000000000"] {
        server.native("POST", "/uploads").json(ask(unknown)).problem(404).await;
    }
    let opened = server.native("POST", "/uploads").json(ask(&server.store)).send().await.expect(201).json();
    let mut put = server.bare("PUT", opened["url"].as_str().expect("url")).body(content.as_slice());
    for (name, value) in opened["required_headers"].as_object().into_iter().flatten() {
        put = put.header(name, value.as_str().unwrap());
    }
    put.send().await.expect(200);
    let list = server.read_store("").await;
    let id = list["items"][0]["file_id"].as_str().expect("it is in the store").to_owned();
    assert_eq!(server.processed(&id).await["status"], "completed");
    assert_eq!(server.hits("attached").await.len(), 1);
    server.native("DELETE", &format!("/files/{id}")).send().await.problem_with(409);
    server.native("DELETE", &format!("/files/{id}?force=true")).send().await.expect(204);
    assert!(server.hits("attached").await.is_empty());
    server.leaves_everything_whole().await;
}

/// A path that was never issued is unknown, whatever it would name: each API registers what it opened itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_registered_by_the_api_that_opened_it() {
    let server = Server::start().await;
    let no_file = async |id: &str| {
        let path = format!("files/{}/{id}/a.txt", server.tenant);
        let body = json!({"filename": "a.txt", "gcs_path": path, "file_size": 4, "mime_type": "text/plain"});
        let reply = server.call("POST", server.at("/files")).json(body).send().await;
        assert_eq!(reply.details(404, "FILE_NOT_FOUND"), json!({"gcs_path": path}));
    };
    // Of stores.
    let (id, url) = server.opened("a.txt", 4).await;
    no_file(&id).await;
    server.bare("PUT", &url).body("text").send().await.expect(200);
    no_file(&id).await;
    server.link(&id).await.expect(201);
    no_file(&id).await;
    // Our own, which registers by itself, with a store and without.
    let native = json!({"name": "a.txt", "size": 4, "mime_type": "text/plain", "strategy": "resumable"});
    let mut attached = native.clone();
    attached["attach"] = json!({"store": server.store});
    for body in [native, attached] {
        let opened = server.open(body).await;
        let id = format!("file_{}", opened["id"].as_str().unwrap().replace('-', ""));
        for sent in [false, true] {
            if sent {
                server.bare("PUT", opened["url"].as_str().unwrap()).body("text").send().await.expect(200);
                server.get(&format!("/files/{id}")).await;
            }
            no_file(&id).await;
            assert_eq!(server.link(&id).await.details(404, "FILE_NOT_FOUND"), json!({"file_id": id}));
        }
    }
    assert_eq!(server.read_store("").await["total"], 2);
    server.leaves_everything_whole().await;
}

// ------------------------------------------------------------------------------------------------ the vendor's page

/// "Get upload URL": its cURL request.
const PAGE_REQUEST: &str = r#"
curl -X POST "https://api.aitronos.com/v1/organizations/org_xyz789/stores/vs_abc123/files/upload-url" \
  -H "Authorization: Bearer $ACCESS_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{ "file_name": "large-dataset.csv", "file_size": 104857600, "mime_type": "text/csv", "relative_path": "data/imports" }'
"#;

const PAGE_ANSWER: &str = r#"
{ "upload_id": "file_abc123def456", "signed_url": "https://storage.googleapis.com/...", "chunk_size": 8388608,
  "expires_at": "2025-06-15T11:00:00Z" }
"#;

const PAGE_ERROR: &str = r#"
{ "success": false, "error": { "code": "VECTOR_STORE_NOT_FOUND", "message": "We couldn't find the requested resource.",
  "system_message": "Vector store not found", "type": "client_error", "status": 404,
  "details": { "store_id": "vs_abc123", "organization_id": "org_xyz789" }, "trace_id": "abc-123-def",
  "timestamp": "2025-06-15T10:00:00Z" } }
"#;

/// Sends the page's request with other ids and another token, and nothing else changed.
async fn page_request(server: &Server, store: &str) -> Reply {
    let (request, body) = PAGE_REQUEST.split_once("-d '").expect("a body");
    let body = body.trim().trim_end_matches('\'');
    let url = request.split('"').nth(1).expect("an url");
    let url = url.replace("https://api.aitronos.com", &server.url("")).replace("org_xyz789", &server.tenant);
    let mut call = server.bare("POST", &url.replace("vs_abc123", store)).body(body);
    for header in request.split("-H \"").skip(1) {
        let (name, value) = header.split('"').next().unwrap().split_once(": ").expect("a header");
        call = call.header(name, &value.replace("$ACCESS_TOKEN", &server.key));
    }
    call.send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_works_as_it_is_written() {
    let server = Server::start().await;
    let opened = page_request(&server, &server.store).await.expect(200).json();
    let documented: Value = serde_json::from_str(PAGE_ANSWER).unwrap();
    assert_eq!(keys(&opened), keys(&documented));
    assert_eq!(opened["chunk_size"], documented["chunk_size"]);
    assert_eq!(opened["expires_at"].as_str().unwrap().len(), documented["expires_at"].as_str().unwrap().len());

    let refused = page_request(&server, "vs_abc123").await.expect(404).json();
    let documented: Value = serde_json::from_str(PAGE_ERROR).unwrap();
    assert_eq!(keys(&refused["error"]), keys(&documented["error"]));
    for field in ["code", "message", "system_message", "type", "status"] {
        assert_eq!(refused["error"][field], documented["error"][field], "{field}");
    }
    let trace = refused["error"]["trace_id"].as_str().unwrap();
    assert!(is_uuid(trace) || !trace.is_empty());
    assert_eq!(refused["error"]["details"], json!({"store_id": "vs_abc123", "organization_id": server.tenant}));

    // "After uploading the file to the signed URL, call Register upload": in chunks of the recommended size.
    let url = opened["signed_url"].as_str().unwrap();
    let total = 104_857_600_usize;
    let line = b"date,ships\n2025-06-15,lighthouse\n";
    let chunk = usize::try_from(opened["chunk_size"].as_u64().unwrap()).unwrap();
    let mut sent = 0;
    while sent < total {
        let end = total.min(sent + chunk);
        let body: Vec<u8> = (sent..end).map(|at| line[at % line.len()]).collect();
        let reply = server.bare("PUT", url).header("Content-Range", &format!("bytes {sent}-{}/{total}", end - 1));
        let reply = reply.body(body).send().await;
        assert_eq!(reply.status, if end == total { 200 } else { 308 }, "{}", reply.text());
        sent = end;
    }
    let made = server.link(opened["upload_id"].as_str().unwrap()).await.expect(201).json();
    assert_eq!((&made["size"], &made["relative_path"]), (&json!(total), &json!("data/imports")));
    let status = server.processed(made["file_id"].as_str().unwrap()).await;
    assert_eq!(status["status"], "completed", "{status}");
    assert!(!server.hits("lighthouse").await.is_empty());
    let logs = server.read_store(&format!("/{}/logs", made["file_id"].as_str().unwrap())).await;
    let warned = logs["logs"].as_array().unwrap().iter().any(|entry| entry["level"] == "warning");
    assert!(warned, "text beyond the limit is not found, and that is said: {logs}");
}
