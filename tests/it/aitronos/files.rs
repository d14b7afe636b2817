//! Checks 1 to 20: upload URLs, registration, the files, direct uploads.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{K, M, Session, hashes, is_time, put, whole};
use crate::harness::{Binary, Reply, Server, bytes_of, client, noise, read_reply};

const MAX: u64 = 5_368_709_120;

fn announced() -> Value {
    json!({ "filename": "a.bin", "file_size": 20 * M, "mime_type": "application/octet-stream" })
}

fn with(field: &str, value: impl Into<Value>) -> Value {
    let mut body = announced();
    body[field] = value.into();
    body
}

fn without(field: &str) -> Value {
    let mut body = announced();
    body.as_object_mut().unwrap().remove(field);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn check_01_upload_url() {
    let server = Server::start().await;
    let reply = server.ask(&announced()).send().await.expect(200).json();
    let names: Vec<&str> = reply.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected =
        ["upload_url", "gcs_path", "file_id", "expires_at", "max_file_size", "upload_type", "chunk_size_recommended"];
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!((&reply["max_file_size"], &reply["chunk_size_recommended"]), (&json!(MAX), &json!(5 * M)));
    assert_eq!(reply["upload_type"], "resumable");
    let id = reply["file_id"].as_str().unwrap();
    assert!(id.starts_with("file_") && id.len() > 16, "{id}");
    assert_eq!(reply["gcs_path"], format!("files/{}/{id}/a.bin", server.tenant));
    let url = reply["upload_url"].as_str().unwrap();
    let begin = format!("http://{}/upload/storage/v1/b/", server.address);
    assert!(url.starts_with(&begin) && url.contains("/o?uploadType=resumable&upload_id="), "{url}");
    assert!(is_time(&reply["expires_at"]));
    let expires: jiff::Timestamp = reply["expires_at"].as_str().unwrap().parse().unwrap();
    let week = server.clock.now().seconds() + 7 * 24 * 3600;
    assert!((expires.as_second() - week).abs() <= 60, "{reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_02_upload_type() {
    let server = Server::start().await;
    for kind in [json!("simple"), json!("resumable"), Value::Null] {
        let reply = server.ask(&with("upload_type", kind)).send().await.expect(200).json();
        assert_eq!(reply["upload_type"], "resumable");
    }
    for kind in ["multipart", "", "Simple"] {
        server.ask(&with("upload_type", kind)).send().await.bad_value("upload_type");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_03_file_size() {
    let server = Server::start().await;
    for size in [json!(0), json!(-1), json!(MAX + 1)] {
        let before = server.state().await;
        let error = server.ask(&with("file_size", size.clone())).send().await.bad_value("file_size");
        assert_eq!(error["details"], json!({ "field": "file_size", "value": size }));
        server.unchanged(&before).await;
    }
    server.ask(&with("file_size", MAX)).send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_04_types_of_the_size() {
    let server = Server::start().await;
    for size in [json!("10"), json!(1.5), Value::Null] {
        server.ask(&with("file_size", size)).send().await.wrong_type("file_size");
    }
    server.ask(&without("file_size")).send().await.wrong_type("file_size");
    // All that is wrong at once.
    let error = server.ask(&json!({ "mime_type": 1 })).send().await.wrong_type("filename");
    assert_eq!(error["details"]["errors"].as_array().unwrap().len(), 3, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_05_filename() {
    let server = Server::start().await;
    for name in [String::new(), "a".repeat(256), "a/b".into(), "a\u{0}b".into(), "a\\b".into(), "a\nb".into()] {
        server.ask(&with("filename", name)).send().await.bad_value("filename");
    }
    for name in ["a".repeat(255), "ä".repeat(255), "..".into(), "a b & c.bin".into()] {
        let reply = server.ask(&with("filename", name.clone())).send().await.expect(200).json();
        assert!(reply["gcs_path"].as_str().unwrap().ends_with(&format!("/{name}")));
    }
    server.ask(&without("filename")).send().await.wrong_type("filename");
    for mime_type in ["", "video", "video/", "/mp4", "a/b/c", "text/plain\r\nX: y"] {
        server.ask(&with("mime_type", mime_type)).send().await.bad_value("mime_type");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_06_bodies() {
    let server = Server::start().await;
    for body in ["", "   ", "x", "[]", "null", "\"a\"", "{\"filename\":", "{} {}"] {
        server.call("POST", server.files("/upload-url")).json(body).faulty(422, "VALIDATION_ERROR").await;
    }
    let text = server.call("POST", server.files("/upload-url")).header("Content-Type", "text/plain");
    text.body(announced().to_string()).send().await.wrong_type("Content-Type");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_07_credentials() {
    let server = Server::start().await;
    let ask = || server.ask(&announced());
    ask().anonymous().send().await.fault(401, "AUTHENTICATION_REQUIRED");
    ask().bearer("nope").send().await.fault(401, "TOKEN_INVALID");
    ask().anonymous().header("X-API-Key", "nope").send().await.fault(401, "TOKEN_INVALID");
    for (method, path) in [("GET", ""), ("GET", "/file_1"), ("GET", "/file_1/content"), ("DELETE", "/file_1")] {
        server.call(method, server.files(path)).anonymous().send().await.fault(401, "AUTHENTICATION_REQUIRED");
    }
    server.call("POST", server.files("/upload")).anonymous().send().await.fault(401, "AUTHENTICATION_REQUIRED");
    // Rights of a key of the organization itself.
    let read = server.key_with(&server.tenant, "read").await;
    let upload = server.key_with(&server.tenant, "upload").await;
    ask().bearer(&upload).send().await.expect(200);
    let error = ask().bearer(&read).send().await.fault(403, "INSUFFICIENT_PERMISSIONS");
    assert_eq!(error["details"]["right"], "upload");
    server.call("GET", server.files("")).bearer(&read).send().await.expect(200);
    server.call("GET", server.files("")).bearer(&upload).send().await.fault(403, "INSUFFICIENT_PERMISSIONS");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_08_other_organizations() {
    let server = Server::start().await;
    let other = server.neighbour().await;
    let mut answers = Vec::new();
    for organization in [other.tenant.as_str(), "nobody", "no body"] {
        let path = format!("/v1/organizations/{}/files/upload-url", organization.replace(' ', "%20"));
        let error = server.call("POST", path).json(announced()).faulty(403, "ORGANIZATION_ACCESS_DENIED").await;
        assert_eq!(error["details"], json!({ "organization_id": organization }));
        answers.push(["message", "system_message", "type"].map(|field| error[field].clone()));
    }
    assert_eq!(answers[0], answers[1], "one of others and one that is not are the same");
    for (method, rest) in [("GET", ""), ("GET", "/file_1"), ("DELETE", "/file_1"), ("GET", "/file_1/content")] {
        let path = format!("/v1/organizations/{}/files{rest}", other.tenant);
        server.call(method, path).send().await.fault(403, "ORGANIZATION_ACCESS_DENIED");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_09_kinds_of_credentials() {
    let server = Server::start().await;
    let key = server.key.clone();
    let ask = || server.ask(&announced()).anonymous();
    ask().header("X-API-Key", &key).send().await.expect(200);
    ask().header("api-key", &key).send().await.expect(200);
    ask().header("Authorization", &format!("Bearer {key}")).send().await.expect(200);
    ask().header("x-api-key", "dummy").header("Authorization", &format!("Bearer {key}")).send().await.expect(200);
    ask().header("x-api-key", &key).header("Authorization", "Bearer dummy").send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_10_batches_of_upload_urls() {
    let server = Server::start().await;
    let batch = |items: Vec<Value>| server.ask(&json!({ "files": items }));
    let reply = batch(vec![announced(), with("filename", "b.bin")]).send().await.expect(200).json();
    assert_eq!((&reply["success"], &reply["errors"]), (&json!(true), &Value::Null));
    assert_eq!((&reply["total_uploaded"], &reply["total_failed"]), (&json!(2), &json!(0)));
    assert!(reply["message"].is_string());
    let files = reply["files"].as_array().unwrap();
    assert_eq!(files.len(), 2);
    assert_ne!(files[0]["file_id"], files[1]["file_id"]);
    assert!(files[1]["gcs_path"].as_str().unwrap().ends_with("/b.bin"));
    // `files` wins over `filename`.
    let mut both = announced();
    both["files"] = json!([announced()]);
    assert!(server.ask(&both).send().await.expect(200).json()["files"].is_array());

    let before = server.state().await;
    batch(vec![]).send().await.wrong_type("files");
    batch(vec![announced(); 11]).send().await.wrong_type("files");
    server.ask(&json!({ "files": {} })).send().await.wrong_type("files");
    let error = batch(vec![announced(), with("file_size", 0)]).send().await.bad_value("file_size");
    assert_eq!(error["details"]["index"], 1);
    let error = batch(vec![without("filename"), announced()]).send().await.wrong_type("files[0].filename");
    assert_eq!(error["details"]["index"], 0);
    let error = batch(vec![announced(), json!(1)]).send().await.wrong_type("files[1]");
    assert_eq!(error["details"]["index"], 1);
    server.unchanged(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_11_registering_too_early() {
    let server = Server::start().await;
    let session = server.session(2 * M).await;
    for received in [0, M] {
        if received > 0 {
            put(&server.http, &session.url, "bytes 0-1048575/2097152", &noise(M as usize)).await.expect(308);
        }
        let error = server.register(&session).faulty(400, "UPLOAD_INCOMPLETE").await;
        let details = json!({ "file_id": session.file, "received_bytes": received, "expected_bytes": 2 * M });
        assert_eq!(error["details"], details);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_12_registering() {
    let server = Server::start().await;
    let content = noise(300_000);
    let session = server.session(content.len() as u64).await;
    whole(&server.http, &session.url, &content).await.expect(200);
    let mut body = session.registration();
    body["filename"] = "other name.bin".into();
    let file = server.call("POST", server.files("")).json(body).send().await.expect(201).json();
    assert_eq!((&file["id"], &file["storage_path"]), (&json!(session.file), &json!(session.path)));
    assert_eq!((&file["original_filename"], &file["file_size"]), (&json!("other name.bin"), &json!(300_000)));
    assert_eq!(
        (&file["mime_type"], &file["organization_id"]),
        (&json!("application/octet-stream"), &json!(server.tenant))
    );
    assert_ne!(file["uploaded_by"].is_null(), file["uploaded_by_api_key_id"].is_null());
    assert!(file["uploaded_by_api_key_id"].as_str().unwrap().starts_with("ak_"));
    assert!(is_time(&file["uploaded_at"]));
    let receipt = &file["receipt"];
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &content);
    let crc64 = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &content);
    use md5::Digest as _;
    assert_eq!((&receipt["size"], &receipt["crc32c"]), (&json!(300_000), &json!(format!("{crc:08x}"))));
    assert_eq!(receipt["crc64nvme"], format!("{crc64:016x}"));
    assert_eq!(receipt["md5"], hex::encode(md5::Md5::digest(&content)));
    assert!(is_time(&receipt["committed_at"]));
    // It stays under its path, whatever it is called.
    let got = server.call("GET", server.files(&format!("/{}", session.file))).send().await.expect(200).json();
    assert_eq!((&got["storage_path"], got.as_object().unwrap().len()), (&json!(session.path), 9));
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_13_registering_again() {
    let server = Server::start().await;
    let session = server.session(K).await;
    whole(&server.http, &session.url, &noise(K as usize)).await.expect(200);
    let first = server.register(&session).send().await.expect(201).json();
    server.clock.advance(Duration::from_secs(100));
    let before = server.state().await;
    let again = server.register(&session).send().await.expect(200).json();
    assert_eq!(again, first);
    server.unchanged(&before).await;
    assert_eq!(server.call("GET", server.files("")).send().await.expect(200).json()["total"], 1);
    // Also long after the session is over.
    server.clock.advance(Duration::from_secs(30 * 24 * 3600));
    assert_eq!(server.register(&session).send().await.expect(200).json(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_14_registering_something_else() {
    let server = Server::start().await;
    let content = noise(K as usize);
    let session = server.session(K).await;
    whole(&server.http, &session.url, &content).await.expect(200);
    let changed = |field: &str, value: Value| {
        let mut body = session.registration();
        body[field] = value;
        server.call("POST", server.files("")).json(body)
    };
    for size in [K - 1, K + 1] {
        let error = changed("file_size", size.into()).send().await.bad_value("file_size");
        assert_eq!(error["details"]["value"], size);
    }
    let error = changed("mime_type", "video/mp4".into()).send().await.bad_value("mime_type");
    assert_eq!(error["details"]["value"], "video/mp4");
    changed("filename", "a/b".into()).send().await.bad_value("filename");
    changed("file_size", "1".into()).send().await.wrong_type("file_size");
    changed("gcs_path", Value::Null).send().await.wrong_type("gcs_path");
    for (name, wrong) in [("crc32c", "00000000"), ("md5", "00000000000000000000000000000000")] {
        let error = changed(name, wrong.into()).send().await.bad_value(name);
        assert_eq!(error["details"]["value"], wrong);
        changed("digests", json!({ name: wrong })).send().await.bad_value(name);
        changed(name, "xyz".into()).send().await.bad_value(name);
        changed(name, 7.into()).send().await.wrong_type(name);
    }
    changed("sha256", "00".repeat(32).into()).send().await.bad_value("sha256");
    // Parameters of the type do not count, and it stays registrable.
    use md5::Digest as _;
    let mut body = session.registration();
    body["mime_type"] = "Application/Octet-Stream; x=y".into();
    body["md5"] = hex::encode(md5::Md5::digest(&content)).into();
    body["digests"] = json!({ "sha256": hex::encode_upper(sha2::Sha256::digest(&content)) });
    server.call("POST", server.files("")).json(body).send().await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_15_paths_of_others() {
    let server = Server::start().await;
    let other = server.neighbour().await;
    let path = format!("/v1/organizations/{}/files/upload-url", other.tenant);
    let theirs = server.call("POST", path).bearer(&other.key).json(with("file_size", 10)).send().await.expect(200);
    let theirs = Session::of(&theirs.json(), 10);
    whole(&server.http, &theirs.url, b"0123456789").await.expect(200);
    let mine = server.session(10).await;
    whole(&server.http, &mine.url, b"0123456789").await.expect(200);
    let invented = format!("files/{}/file_{}/a.bin", server.tenant, "0".repeat(32));
    let borrowed = theirs.path.replace(&other.tenant, &server.tenant);
    let renamed = mine.path.replace("a.bin", "b.bin");
    for path in [theirs.path.as_str(), &borrowed, &invented, &renamed, "../x", "", &format!("{}/", mine.path)] {
        let mut body = mine.registration();
        body["gcs_path"] = path.into();
        let error = server.call("POST", server.files("")).json(body).faulty(404, "FILE_NOT_FOUND").await;
        assert_eq!(error["details"], json!({ "gcs_path": path }));
    }
    let mut body = mine.registration();
    body["file_id"] = theirs.file.clone().into();
    server.call("POST", server.files("")).json(body.clone()).send().await.bad_value("file_id");
    body["file_id"] = mine.file.clone().into();
    server.call("POST", server.files("")).json(body).send().await.expect(201);

    // A batch: what fails fails alone.
    let second = server.session(3).await;
    whole(&server.http, &second.url, b"abc").await.expect(200);
    let items = json!({ "files": [theirs.registration(), second.registration(), {}] });
    let reply = server.call("POST", server.files("")).json(items).send().await.expect(201).json();
    assert_eq!(
        (&reply["success"], &reply["total_uploaded"], &reply["total_failed"]),
        (&json!(false), &json!(1), &json!(2))
    );
    assert_eq!(reply["files"][0]["id"], second.file);
    let codes: Vec<_> =
        reply["errors"].as_array().unwrap().iter().map(|e| (e["index"].clone(), e["code"].clone())).collect();
    assert_eq!(codes, [(json!(0), json!("FILE_NOT_FOUND")), (json!(2), json!("VALIDATION_ERROR"))]);
    let items = json!({ "files": [theirs.registration(), {}] });
    let error = server.call("POST", server.files("")).json(items).faulty(404, "FILE_NOT_FOUND").await;
    assert_eq!(error["details"]["index"], 0);
    let items = json!({ "files": [second.registration()] });
    let reply = server.call("POST", server.files("")).json(items).send().await.expect(200).json();
    assert_eq!((&reply["success"], &reply["errors"]), (&json!(true), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_16_pages() {
    let server = Server::start().await;
    let list = async |query: &str| server.call("GET", server.files(query)).send().await;
    let first = server.file(b"first").await;
    server.clock.advance(Duration::from_secs(5));
    let second = server.file(b"second").await;
    let page = list("?page=1&limit=1").await.expect(200).json();
    assert_eq!(
        (&page["total"], &page["has_more"], &page["page"], &page["limit"]),
        (&json!(2), &json!(true), &json!(1), &json!(1))
    );
    assert_eq!(page["files"].as_array().unwrap().len(), 1);
    assert_eq!(page["files"][0]["id"], second["id"], "newest first");
    let page = list("?page=2&limit=1").await.expect(200).json();
    assert_eq!((&page["has_more"], &page["files"][0]["id"]), (&json!(false), &first["id"]));
    let page = list("?page=3").await.expect(200).json();
    assert_eq!((&page["files"], &page["has_more"], &page["total"]), (&json!([]), &json!(false), &json!(2)));
    list("?page=18446744073709551615&limit=100").await.expect(200);
    for (query, field) in [("?page=0", "page"), ("?page=-1", "page"), ("?limit=0", "limit"), ("?limit=101", "limit")] {
        list(query).await.bad_value(field);
    }
    list("?page=x").await.wrong_type("page");
    list("?limit=1.5").await.wrong_type("limit");
    list("?unknown=1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_17_what_is_listed() {
    let server = Server::start().await;
    let session = server.session(4).await;
    whole(&server.http, &session.url, b"abcd").await.expect(200);
    let page = server.call("GET", server.files("")).send().await.expect(200).json();
    assert_eq!(page, json!({ "files": [], "total": 0, "page": 1, "limit": 50, "has_more": false }));
    server.call("GET", server.files(&format!("/{}", session.file))).send().await.fault(404, "FILE_NOT_FOUND");
    server.register(&session).send().await.expect(201);
    assert_eq!(server.call("GET", server.files("")).send().await.expect(200).json()["total"], 1);
    // Nobody else sees it.
    let other = server.neighbour().await;
    let path = format!("/v1/organizations/{}/files", other.tenant);
    assert_eq!(server.call("GET", path.clone()).bearer(&other.key).send().await.expect(200).json()["total"], 0);
    for (method, rest) in [("GET", ""), ("GET", "/content"), ("DELETE", "")] {
        let path = format!("{path}/{}{rest}", session.file);
        let error = server.call(method, path).bearer(&other.key).send().await.fault(404, "FILE_NOT_FOUND");
        assert_eq!(error["details"], json!({ "file_id": session.file }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_18_content() {
    let server = Server::start().await;
    let content = noise(700_000);
    let file = server.file(&content).await;
    let other = server.file(b"other").await;
    let of = async |file: &Value| {
        let path = server.files(&format!("/{}/content", file["id"].as_str().unwrap()));
        server.call("GET", path).send().await.expect(200).json()
    };
    let link = of(&file).await;
    let mut names: Vec<&String> = link.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["download_url", "file_id", "file_size", "filename", "mime_type"]);
    assert_eq!((&link["file_id"], &link["filename"]), (&file["id"], &json!("a.bin")));
    assert_eq!((&link["mime_type"], &link["file_size"]), (&json!("application/octet-stream"), &json!(700_000)));
    let url = link["download_url"].as_str().unwrap().to_owned();
    let reply = server.bare("GET", &url).send().await.expect(200);
    assert_eq!(reply.body, content);
    assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
    assert_eq!(reply.header("cache-control"), Some("private, max-age=3600"));
    // Ranges and HEAD.
    let part = server.bare("GET", &url).header("Range", "bytes=10-19").send().await.expect(206);
    assert_eq!((&part.body[..], part.header("content-range")), (&content[10..20], Some("bytes 10-19/700000")));
    server.bare("GET", &url).header("Range", "bytes=700000-").send().await.expect(416);
    let head = server.bare("HEAD", &url).send().await.expect(200);
    assert_eq!((head.header("content-length"), head.body.len()), (Some("700000"), 0));
    // Whatever is changed, the link does not hold.
    let parsed = url::Url::parse(&url).unwrap();
    let value = |name: &str| parsed.query_pairs().find(|(n, _)| n == name).unwrap().1.into_owned();
    let (token, expires) = (value("token"), value("expires"));
    let later = (expires.parse::<u64>().unwrap() + 1).to_string();
    let theirs = of(&other).await["download_url"].as_str().unwrap().to_owned();
    let swapped = theirs.replace(other["id"].as_str().unwrap(), file["id"].as_str().unwrap());
    let neighbour = server.neighbour().await;
    for wrong in [
        url.replace(&token, &format!("{}{}", if token.starts_with('A') { "B" } else { "A" }, &token[1..])),
        url.replace(&token, ""),
        url.replace(&expires, &later),
        url.replace(&expires, "x"),
        swapped,
        url.replace(&format!("/{}/", server.tenant), &format!("/{}/", neighbour.tenant)),
        parsed[..url::Position::AfterPath].to_owned(),
    ] {
        server.bare("GET", &wrong).send().await.fault(401, "TOKEN_INVALID");
    }
    server.clock.advance(Duration::from_secs(3590));
    server.bare("GET", &url).send().await.expect(200);
    server.clock.advance(Duration::from_secs(11));
    server.bare("GET", &url).send().await.fault(401, "TOKEN_INVALID");
    // A file in several pieces reads as one.
    let session = server.session(2 * M).await;
    let content = noise(2 * M as usize);
    put(&server.http, &session.url, "bytes 0-1048575/2097152", &content[..M as usize]).await.expect(308);
    put(&server.http, &session.url, "bytes 1048576-2097151/2097152", &content[M as usize..]).await.expect(200);
    let file = server.register(&session).send().await.expect(201).json();
    let url = of(&file).await["download_url"].as_str().unwrap().to_owned();
    assert_eq!(server.bare("GET", &url).send().await.expect(200).body, content);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_19_deletion() {
    let server = Server::start().await;
    let usage = server.get("/usage").await;
    let file = server.file(b"to be deleted").await;
    let id = file["id"].as_str().unwrap();
    let path = server.files(&format!("/{id}"));
    let link = server.call("GET", format!("{path}/content")).send().await.expect(200).json();
    let read = server.key_with(&server.tenant, "read").await;
    server.call("DELETE", path.clone()).bearer(&read).send().await.fault(403, "INSUFFICIENT_PERMISSIONS");
    let reply = server.call("DELETE", path.clone()).send().await.expect(204);
    assert_eq!((reply.body.len(), reply.header("content-type")), (0, None));
    for (method, rest) in [("GET", ""), ("GET", "/content"), ("DELETE", "")] {
        let error = server.call(method, format!("{path}{rest}")).send().await.fault(404, "FILE_NOT_FOUND");
        assert_eq!(error["details"], json!({ "file_id": id }));
    }
    let url = link["download_url"].as_str().unwrap();
    server.bare("GET", url).send().await.fault(404, "FILE_NOT_FOUND");
    for id in ["file_1", "x", &"a".repeat(5_000), "file_%2e%2e"] {
        server.call("GET", server.files(&format!("/{id}"))).send().await.fault(404, "FILE_NOT_FOUND");
    }
    assert_eq!(server.get("/usage").await, usage);
    server.leaves_everything_whole().await;
}

/// A form's part: name, file name, content type, content.
type Part<'a> = (&'a str, Option<&'a str>, Option<&'a str>, &'a [u8]);

fn form(parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, filename, kind, content) in parts {
        let filename = filename.map_or_else(String::new, |filename| format!("; filename=\"{filename}\""));
        let kind = kind.map_or_else(String::new, |kind| format!("Content-Type: {kind}\r\n"));
        let head = format!("--XyZ\r\nContent-Disposition: form-data; name=\"{name}\"{filename}\r\n{kind}\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--XyZ--\r\n");
    body
}

async fn send(server: &Server, body: Vec<u8>) -> Reply {
    let call = server.call("POST", server.files("/upload"));
    call.header("Content-Type", "multipart/form-data; boundary=XyZ").body(body).send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn check_20_direct_uploads() {
    let server = Server::start().await;
    let content = noise(3 * M as usize + 17);
    let parts = [
        ("purpose", None, None, b"vector_store".as_slice()),
        ("file", Some("a.pdf"), Some("application/pdf"), &content),
    ];
    let file = send(&server, form(&parts)).await.expect(201).json();
    assert_eq!((&file["original_filename"], &file["mime_type"]), (&json!("a.pdf"), &json!("application/pdf")));
    assert_eq!((&file["file_size"], &file["receipt"]["size"]), (&json!(content.len()), &json!(content.len())));
    let (md5, _) = hashes(&content);
    assert_eq!(crate::harness::base64(&hex::decode(file["receipt"]["md5"].as_str().unwrap()).unwrap()), md5);
    let path = server.files(&format!("/{}/content", file["id"].as_str().unwrap()));
    let link = server.call("GET", path).send().await.expect(200).json();
    let url = link["download_url"].as_str().unwrap();
    assert_eq!(server.bare("GET", url).send().await.expect(200).body, content);

    let two = [("files", Some("b.csv"), None, b"1,2".as_slice()), ("files", Some("c"), None, b"")];
    let reply = send(&server, form(&two)).await.expect(201).json();
    assert_eq!(
        (&reply["success"], &reply["total_uploaded"], &reply["errors"]),
        (&json!(true), &json!(2), &Value::Null)
    );
    let files = reply["files"].as_array().unwrap();
    let shown = |n: usize| (files[n]["original_filename"].as_str().unwrap(), files[n]["mime_type"].as_str().unwrap());
    assert_eq!((shown(0), shown(1)), (("b.csv", "text/csv"), ("c", "application/octet-stream")));
    assert_eq!(server.call("GET", server.files("")).send().await.expect(200).json()["total"], 3);

    // What is refused leaves nothing.
    let before = server.state().await;
    let many: Vec<_> = (0..11).map(|_| ("files", Some("n"), None, b"x".as_slice())).collect();
    send(&server, form(&many)).await.wrong_type("files");
    send(&server, form(&[])).await.fault(422, "VALIDATION_ERROR");
    send(&server, form(&[("other", None, None, b"x")])).await.wrong_type("file");
    send(&server, form(&[("file", None, None, b"x")])).await.wrong_type("file");
    send(&server, form(&[("file", Some(""), None, b"x")])).await.bad_value("filename");
    send(&server, form(&[parts[1], parts[1]])).await.wrong_type("file");
    send(&server, form(&[parts[1], two[0]])).await.wrong_type("file");
    send(&server, b"--XyZ\r\nnonsense".to_vec()).await.fault(422, "VALIDATION_ERROR");
    let whole = form(&[two[0], ("files", Some("d"), None, &content)]);
    for end in [whole.len() - 20, whole.len() - 1_000_000, 250] {
        send(&server, whole[..end].to_vec()).await.fault(422, "VALIDATION_ERROR");
    }
    server.call("POST", server.files("/upload")).json("{}").send().await.wrong_type("Content-Type");
    server.unchanged(&before).await;

    // One bad item of several.
    let mixed = [("files", Some("a/b"), None, content.as_slice()), ("files", Some("e.txt"), None, b"fine")];
    let reply = send(&server, form(&mixed)).await.expect(201).json();
    assert_eq!(
        (&reply["success"], &reply["total_uploaded"], &reply["total_failed"]),
        (&json!(false), &json!(1), &json!(1))
    );
    assert_eq!((&reply["errors"][0]["index"], &reply["errors"][0]["code"]), (&json!(0), &json!("INVALID_FIELD_VALUE")));
    server.leaves_everything_whole().await;
}

/// What stands before and behind the content of a form's one part.
fn edges(name: &str) -> (String, String) {
    let head = format!("--XyZ\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"large\"\r\n\r\n");
    (head, String::from("\r\n--XyZ--\r\n"))
}

/// A form with one large part, made while it is sent.
fn large(
    name: &str,
    length: u64,
) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Send + Sync + use<> {
    let (head, tail) = edges(name);
    let edge = |text: String| futures_util::stream::iter([Ok(Bytes::from(text))]);
    edge(head).chain(bytes_of(length)).chain(edge(tail))
}

#[tokio::test(flavor = "multi_thread")]
async fn check_20_direct_uploads_have_a_limit_and_take_no_memory() {
    const LIMIT: u64 = 104_857_600;
    let mut server = Binary::start("").await;
    let url = server.url(&format!("/v1/organizations/{}/files/upload", server.tenant));
    let send = async |name: &str, length: u64, announced: bool| {
        let mut request = client()
            .post(&url)
            .header("x-api-key", &server.key)
            .header("Content-Type", "multipart/form-data; boundary=XyZ")
            .body(reqwest::Body::wrap_stream(large(name, length)));
        if announced {
            let (head, tail) = edges(name);
            request = request.header("Content-Length", length + (head.len() + tail.len()) as u64);
        }
        Reply::read(request.send().await.expect("an answer")).await
    };
    for (name, announced) in [("file", true), ("files", false)] {
        send(name, LIMIT, announced).await.expect(201);
    }
    let usage = server.send("GET", "/landfall/v1/usage", None).await.expect(200).json();
    // The rest is never sent: the answer comes before it.
    for name in ["file", "files"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "POST /v1/organizations/{}/files/upload HTTP/1.1\r\nHost: {}\r\nX-API-Key: {}\r\nTransfer-Encoding: chunked\r\n\
             Content-Type: multipart/form-data; boundary=XyZ\r\n\r\n",
            server.tenant, server.address, server.key
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut body = std::pin::pin!(large(name, LIMIT + 1));
        let mut last = Bytes::new();
        while let Some(Ok(bytes)) = body.next().await {
            if !last.is_empty() {
                let frame = [format!("{:x}\r\n", last.len()).as_bytes(), &last, b"\r\n"].concat();
                stream.write_all(&frame).await.unwrap();
            }
            last = bytes;
        }
        let reply = tokio::time::timeout(Duration::from_secs(60), read_reply(&mut stream)).await.expect("an answer");
        let error = reply.fault(413, "FILE_TOO_LARGE");
        assert_eq!(error["details"], json!({ "max_bytes": LIMIT }));
    }
    let after = server.send("GET", "/landfall/v1/usage", None).await.expect(200).json();
    assert_eq!(after, usage, "nothing of it is left");
    server.stays_small();
}
