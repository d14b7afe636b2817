//! Bytes that clients send to the bucket themselves: what the store sees to, what the server asks it, and what neither
//! believes.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bucket::{Harm, Store, Ways};
use crate::harness::{PAIR, PROGRAM, Reply, Server, accepted, in_azure, in_bucket, noise, program};
use crate::uploads::sha256;

const MIB: usize = 1 << 20;

/// One that speaks as Amazon's does, and one that speaks as Google's.
fn both() -> [Store; 2] {
    [Store::start(), Store::google()]
}

/// The header that has a key take one body only.
fn condition(store: &Store) -> (&'static str, &'static str) {
    if store.is_google() { ("x-goog-if-generation-match", "0") } else { ("if-none-match", "*") }
}

/// The checksum that a store tells of what it joined.
fn sum(store: &Store) -> &'static str {
    if store.is_google() { "crc32c" } else { "crc64nvme" }
}

/// What was asked, but for who asks.
fn asked(store: &Store) -> Vec<crate::bucket::Call> {
    store.calls().into_iter().filter(|call| call.what != "Token").collect()
}

/// A server whose clients of these APIs send to the store themselves.
pub(crate) async fn on(store: &Store, apis: &str) -> Server {
    Server::start_with(|config| {
        config.set_text("storage", &store.url("here")).unwrap();
        config.set_text("direct", apis).unwrap();
    })
    .await
}

pub(crate) async fn opened(server: &Server, ask: Value) -> Value {
    server.native("POST", "/uploads").json(ask).send().await.expect(201).json()
}

pub(crate) async fn commit(server: &Server, upload: &Value) -> Reply {
    server.native("POST", &format!("/uploads/{}/commit", text(upload, "id"))).send().await
}

pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().expect(name)
}

/// A PUT with everything that the upload says must come with it.
pub(crate) async fn put(server: &Server, upload: &Value, body: &[u8]) -> Reply {
    let mut call = server.bare("PUT", text(upload, "url")).body(body);
    for (name, value) in upload["required_headers"].as_object().unwrap() {
        call = call.header(name, value.as_str().unwrap());
    }
    call.send().await
}

pub(crate) async fn content(server: &Server, upload: &Value) -> Vec<u8> {
    let path = format!("/files/{}/content", text(upload, "file_id"));
    server.native("GET", &path).send().await.expect(200).body
}

fn is_at(store: &Store, url: &str) -> bool {
    url.starts_with(&format!("http://{}/", store.address()))
}

pub(crate) async fn whole(server: Server, store: &Store) {
    let (data, _kept) = server.stopped().await;
    let mut doctor = tokio::process::Command::from(program(&data));
    doctor.args(["doctor", "--deep", "--data"]).arg(&data).env("LANDFALL_STORAGE", store.url("here"));
    let output = doctor.output().await.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
}

fn batch(document: &str, words: &str) -> String {
    json!({ "addOrUpdate": [{ "documentId": document, "data": words }], "delete": [] }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_put_to_the_store_and_pushed() {
    let store = Store::with_versions();
    let server = on(&store, "coveo").await;
    store.calls();
    let container = server.container().await;
    assert!(is_at(&store, &container.upload_uri), "{}", container.upload_uri);
    assert_eq!(store.calls(), [], "a ticket costs no question to the store");
    let push = || server.call("PUT", server.src(&format!("documents/batch?fileId={}", container.file_id))).json("{}");
    push().refused(412, "INVALID_PARAMETER").await;

    // The store sees to the headers: all of them, and no others of its own.
    let body = batch("http://a", "first");
    let bare = || server.bare("PUT", &container.upload_uri).body(body.clone());
    let [(sse, aes), (kind, octets)] = PAIR;
    for wrong in [
        bare(),
        bare().header(sse, aes),
        bare().header(kind, octets),
        bare().header(sse, "aws:kms").header(kind, octets),
        bare().header(sse, aes).header(kind, "application/json"),
        bare().header(sse, aes).header(kind, octets).header("x-amz-acl", "public-read"),
        bare().header(sse, aes).header(kind, octets).header("x-amz-copy-source", "/bytes/here/owner"),
    ] {
        let refused = wrong.send().await;
        assert_eq!(refused.status, 403, "{}", refused.text());
    }
    push().refused(412, "INVALID_PARAMETER").await;

    // The last body before the push counts.
    server.upload(&container.upload_uri, body.clone()).send().await.expect(200);
    server.upload(&container.upload_uri, batch("http://a", "second")).send().await.expect(200);
    let first = push().send().await.expect(202);
    server.done(&accepted(&first)).await;
    assert_eq!(server.content("http://a", false).await, b"second");
    // What comes after it changes nothing, and the call may be repeated.
    server.upload(&container.upload_uri, batch("http://a", "third")).send().await.expect(200);
    assert_eq!(push().send().await.expect(202).json(), first.json());
    assert_eq!(server.content("http://a", false).await, b"second");
    let other = server.call("PUT", server.src(&format!("documents/batch?fileId={}&orderingId=7", container.file_id)));
    other.json("{}").refused(412, "INVALID_PARAMETER").await;
    whole(server, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_of_an_item_and_streams_come_the_same_way() {
    let store = Store::with_versions();
    let server = on(&store, "coveo").await;
    // As the content of one item, and of items in a batch.
    let file = server.filled(noise(100_000)).await;
    server.item("http://one", json!({ "compressedBinaryDataFileId": file })).await;
    assert_eq!(server.content("http://one", false).await, noise(100_000));
    let file = server.filled("inner").await;
    let items = json!({ "addOrUpdate": [{ "documentId": "http://two", "compressedBinaryDataFileId": file }] });
    server.batch(items.to_string()).await;
    assert_eq!(server.content("http://two", false).await, b"inner");
    // A stream's chunks wait for its end longer than their URLs live.
    let opened = server.call("POST", server.cat("stream/open")).send().await.expect(201).json();
    let items = json!({ "addOrUpdate": [{ "documentId": "http://three", "data": "streamed" }] });
    assert!(is_at(&store, text(&opened, "uploadUri")));
    server.upload(text(&opened, "uploadUri"), items.to_string()).send().await.expect(200);
    server.clock.advance(Duration::from_secs(2 * 3600));
    let path = server.cat(&format!("stream/{}/close", text(&opened, "streamId")));
    let closed = server.call("POST", path).send().await.expect(200);
    server.done(&accepted(&closed)).await;
    assert_eq!(server.read_in(&server.catalog, "http://three").await["document_id"], "http://three");
    whole(server, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_refused_when_it_is_used() {
    let store = Store::with_versions();
    let server = Server::start_with(|config| {
        config.set_text("storage", &store.url("here")).unwrap();
        config.set_text("direct", "coveo").unwrap();
        config.container_max = 1000;
    })
    .await;
    let container = server.container().await;
    server.upload(&container.upload_uri, vec![b' '; 1001]).send().await.expect(200);
    let push = || server.call("PUT", server.src(&format!("documents/batch?fileId={}", container.file_id))).json("{}");
    push().refused(413, "REQUEST_ENTITY_TOO_LARGE").await;
    let one = json!({ "compressedBinaryDataFileId": container.file_id });
    let path = server.src("documents?documentId=http%3A%2F%2Fa");
    server.call("PUT", path).json(one).refused(413, "REQUEST_ENTITY_TOO_LARGE").await;
    // A smaller one in its place is taken.
    server.upload(&container.upload_uri, batch("http://a", "small")).send().await.expect(200);
    push().pushed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_put_once() {
    for store in both() {
        let server = on(&store, "native").await;
        asked(&store);
        let data = noise(300_000);
        let other = vec![7; data.len()];
        let ask = json!({ "name": "a.bin", "size": data.len(), "strategy": "single", "mime_type": "text/x" });
        let upload = opened(&server, ask).await;
        assert_eq!(asked(&store), [], "a ticket costs no question to the store");
        assert!(is_at(&store, text(&upload, "url")));
        let (condition, value) = condition(&store);
        let mut required = json!({ "content-type": "text/x", condition: value });
        if store.is_google() {
            required["x-goog-content-length-range"] = json!("300000,300000");
        }
        assert_eq!(upload["required_headers"], required);
        assert_eq!(commit(&server, &upload).await.problem_with(409).json()["type"], "/problems/upload-incomplete");
        // Without the condition, or with another type, it is not the request that was signed.
        let bare = || server.bare("PUT", text(&upload, "url")).body(data.clone());
        for wrong in [bare(), bare().header("content-type", "text/x"), bare().header(condition, value)] {
            let status = wrong.send().await.status;
            assert!(matches!(status, 400 | 403), "{status}");
        }
        put(&server, &upload, &data).await.expect(200);
        // Nothing replaces it, before the commit or after it.
        assert_eq!(put(&server, &upload, &other).await.status, 412);
        let receipt = commit(&server, &upload).await.expect(200).json();
        assert_eq!((&receipt["size"], &receipt["file_id"]), (&json!(data.len()), &upload["file_id"]));
        assert_eq!(
            receipt["digests"].as_object().unwrap().keys().collect::<Vec<_>>(),
            if store.is_google() { vec!["crc32c", "md5"] } else { vec!["crc64nvme"] },
            "what the store told"
        );
        assert_eq!(commit(&server, &upload).await.expect(200).json(), receipt);
        assert_eq!(put(&server, &upload, &other).await.status, 412);
        assert!(content(&server, &upload).await == data);
        let one = server.get(&format!("/uploads/{}", text(&upload, "id"))).await;
        assert_eq!((&one["state"], &one["received"]), (&json!("committed"), &json!(data.len())));
        let fresh = server.native("POST", &format!("/uploads/{}/urls", text(&upload, "id"))).json("{}").send().await;
        fresh.problem_with(409);
        whole(server, &store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_are_compared_by_the_store_or_by_a_read_and_never_assumed() {
    let store = Store::start();
    let server = on(&store, "native").await;
    let data = noise(100_000);
    let md5 = |data: &[u8]| hex::encode(<md5::Md5 as md5::Digest>::digest(data));
    let crc32c = format!("{:08x}", crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &data));
    let all = json!({ "sha256": sha256(&data), "md5": md5(&data), "crc32c": crc32c });
    let ask = |digests: &Value| json!({ "name": "a", "size": data.len(), "strategy": "single", "digests": digests });
    // The store compares what can be told to it in one header, and the MD5.
    let upload = opened(&server, ask(&all)).await;
    let headers = upload["required_headers"].as_object().unwrap();
    assert!(headers.contains_key("x-amz-checksum-sha256") && headers.contains_key("content-md5"), "{upload}");
    let reversed: Vec<u8> = data.iter().rev().copied().collect();
    let other = put(&server, &upload, &reversed).await;
    assert!(other.status == 400 && other.text().contains("BadDigest"), "{}", other.text());
    put(&server, &upload, &data).await.expect(200);
    store.calls();
    let receipt = commit(&server, &upload).await.expect(200).json();
    assert_eq!(store.count("GetObject"), 0, "the store has told enough");
    assert_eq!(receipt["digests"], json!({ "sha256": sha256(&data), "md5": md5(&data) }));
    // One that keeps none is not believed: the bytes are read once.
    store.behave(Ways { checksums: false, ..Ways::default() });
    let upload = opened(&server, ask(&json!({ "sha256": sha256(&data) }))).await;
    put(&server, &upload, &data).await.expect(200);
    store.calls();
    let receipt = commit(&server, &upload).await.expect(200).json();
    assert!(store.count("GetObject") > 0);
    assert_eq!((&receipt["digests"]["sha256"], &receipt["digests"]["crc32c"]), (&json!(sha256(&data)), &json!(crc32c)));
    // Where nobody declared anything, nothing is known, and nothing is told.
    let upload = opened(&server, ask(&json!({}))).await;
    put(&server, &upload, &data).await.expect(200);
    let receipt = commit(&server, &upload).await.expect(200).json();
    assert_eq!(receipt["digests"], json!({}));
    assert!(content(&server, &upload).await == data);
    let claim = format!("/uploads/{}/commit", text(&upload, "id"));
    let claimed = server.native("POST", &claim).json(json!({ "digests": { "crc32c": crc32c } })).send().await;
    assert_eq!(claimed.problem_with(422).json()["field"], "digests.crc32c");
    // Claimed with the first commit, it is compared: a wrong one changes nothing.
    let upload = opened(&server, ask(&json!({}))).await;
    put(&server, &upload, &data).await.expect(200);
    let claim = format!("/uploads/{}/commit", text(&upload, "id"));
    let wrong = json!({ "digests": { "crc32c": "00000000" } });
    server.native("POST", &claim).json(wrong).send().await.problem_with(422);
    let right = server.native("POST", &claim).json(json!({ "digests": { "crc32c": crc32c } })).send().await.expect(200);
    assert_eq!(right.json()["digests"]["crc32c"], crc32c);
    whole(server, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_another_size_ends_its_upload() {
    for store in both() {
        let server = on(&store, "native").await;
        let upload = opened(&server, json!({ "name": "a", "size": 10, "strategy": "single" })).await;
        for wrong in [&b"eleven byte"[..], b"nine byte"] {
            assert!(matches!(put(&server, &upload, wrong).await.status, 400 | 403), "it takes what was declared");
        }
        // Whatever the store was told, it is compared here.
        let other = opened(&server, json!({ "name": "b", "size": 11, "strategy": "single" })).await;
        put(&server, &other, b"eleven byte").await.expect(200);
        store.copy(&key(&other), &key(&upload));
        server.native("DELETE", &format!("/uploads/{}", text(&other, "id"))).send().await.expect(204);
        let claim = format!("/uploads/{}/commit", text(&upload, "id"));
        server.native("POST", &claim).json(json!({ "size": 11 })).send().await.problem_with(422);
        let refused = commit(&server, &upload).await.problem_with(422).json();
        assert_eq!((&refused["declared"], &refused["received"]), (&json!("10"), &json!("11")));
        assert_eq!(server.get(&format!("/uploads/{}", text(&upload, "id"))).await["state"], "failed");
        commit(&server, &upload).await.problem_with(409);
        assert_eq!(server.get("/usage").await["reserved"], 0);
        gone(&store).await;
    }
}

/// The key in the bucket to which an upload's URL leads.
fn key(upload: &Value) -> String {
    let url = reqwest::Url::parse(text(upload, "url")).unwrap();
    url.path().split_once("/bytes/").unwrap().1.to_owned()
}

/// Waits until nothing is left in the store but its owner.
pub(crate) async fn gone(store: &Store) {
    for _ in 0..3_000 {
        if store.objects("here/").len() == 1 && store.versions("here/").len() == 1 && store.uploads("here/").is_empty()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?} and {:?} are left", store.versions("here/"), store.uploads("here/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_aborted_is_removed() {
    for store in [Store::start(), Store::with_versions(), Store::google()] {
        let server = on(&store, "native").await;
        let single = opened(&server, json!({ "name": "a", "size": 5, "strategy": "single" })).await;
        put(&server, &single, b"12345").await.expect(200);
        let ask = json!({ "name": "b", "size": 12 * MIB, "strategy": "multipart", "parts": 2 });
        let parts = opened(&server, ask).await;
        server.bare("PUT", parts["part_urls"][0].as_str().unwrap()).body(noise(6 * MIB)).send().await.expect(200);
        assert_eq!(store.uploads("here/").len(), 1);
        for upload in [&single, &parts] {
            let path = format!("/uploads/{}", text(upload, "id"));
            server.native("DELETE", &path).send().await.expect(204);
            commit(&server, upload).await.problem_with(410);
        }
        gone(&store).await;
        let late = server.bare("PUT", parts["part_urls"][1].as_str().unwrap()).body(noise(6 * MIB)).send().await;
        assert_eq!(late.status, 404, "the store knows the upload no more");
        // And a file that is deleted goes as well.
        let upload = opened(&server, json!({ "name": "a", "size": 5, "strategy": "single" })).await;
        put(&server, &upload, b"12345").await.expect(200);
        commit(&server, &upload).await.expect(200);
        server.native("DELETE", &format!("/files/{}", text(&upload, "file_id"))).send().await.expect(204);
        server.clock.advance(Duration::from_secs(3601));
        gone(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_go_to_the_store_and_are_joined() {
    for store in [Store::start(), Store::with_versions(), Store::google()] {
        let server = on(&store, "native").await;
        let data = noise(11 * MIB + 7);
        let ask = json!({ "name": "a", "size": data.len(), "strategy": "multipart", "parts": 2 });
        let upload = opened(&server, ask).await;
        let urls: Vec<&str> = upload["part_urls"].as_array().unwrap().iter().map(|url| url.as_str().unwrap()).collect();
        assert!(urls.len() == 2 && urls.iter().all(|url| is_at(&store, url)), "{urls:?}");
        let size = usize::try_from(upload["part_size"].as_u64().unwrap()).unwrap();
        let parts: Vec<&[u8]> = data.chunks(size).collect();
        let send = async |at: usize, body: &[u8]| server.bare("PUT", urls[at]).body(body).send().await.expect(200);
        // A part that is sent again takes the place of the one before.
        send(1, &noise(MIB)).await;
        send(1, parts[1]).await;
        let path = format!("/uploads/{}", text(&upload, "id"));
        let now = server.get(&path).await;
        assert_eq!((&now["missing_parts"], &now["received"]), (&json!([1]), &json!(parts[1].len())));
        let refused = commit(&server, &upload).await.problem_with(409).json();
        assert_eq!(refused["missing_parts"], json!([1]));
        // Too small, and a wrong sum: told before anything is joined.
        send(0, &noise(MIB)).await;
        assert_eq!(commit(&server, &upload).await.problem_with(409).json()["type"], "/problems/parts-too-small");
        send(0, &noise(size - 1)).await;
        commit(&server, &upload).await.problem_with(422);
        let fresh =
            server.native("POST", &format!("{path}/urls")).json(json!({ "parts": [1] })).send().await.expect(200);
        let fresh = fresh.json();
        server.bare("PUT", fresh["part_urls"][0].as_str().unwrap()).body(parts[0]).send().await.expect(200);
        assert_eq!(server.get(&path).await["missing_count"], 0);
        // Two at once: one effect.
        let (one, two) = tokio::join!(commit(&server, &upload), commit(&server, &upload));
        let receipt = one.expect(200).json();
        assert_eq!((&receipt, &receipt["size"]), (&two.expect(200).json(), &json!(data.len())));
        assert!(receipt["digests"][sum(&store)].is_string(), "the store has told the sum of its parts");
        assert!(content(&server, &upload).await == data);
        assert_eq!(store.uploads(""), Vec::<String>::new());
        assert_eq!(server.bare("PUT", urls[0]).body("late").send().await.status, 404);
        assert!(content(&server, &upload).await == data);
        whole(server, &store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_can_not_join_comes_to_the_server() {
    for store in both() {
        let server = on(&store, "native").await;
        for ask in [
            json!({ "name": "small parts", "size": 100, "strategy": "multipart", "parts": 3 }),
            json!({ "name": "of unknown size", "strategy": "multipart", "parts": 3 }),
            json!({ "name": "empty", "size": 0, "strategy": "multipart", "parts": 1 }),
        ] {
            let upload = opened(&server, ask).await;
            let url = upload["part_urls"][0].as_str().unwrap();
            assert!(url.starts_with(&server.url("/")), "{url}");
        }
        // Nor chunks, but in a bucket of Google's those of a file whose size is known.
        for (size, goes) in [(json!(5), store.is_google()), (Value::Null, false)] {
            let ask = json!({ "name": "a", "strategy": "resumable", "size": size });
            let resumable = opened(&server, ask).await;
            assert_eq!(text(&resumable, "url").starts_with(&server.url("/")), !goes);
        }
        // Nor does an API that is not on the list.
        assert!(server.container().await.upload_uri.starts_with(&server.url("/")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_or_answers_wrongly_changes_nothing() {
    for store in both() {
        let server = on(&store, "native").await;
        let data = noise(11 * MIB);
        let single = opened(&server, json!({ "name": "a", "size": 5, "strategy": "single" })).await;
        put(&server, &single, b"12345").await.expect(200);
        store.harm("HeadObject", u32::MAX, Harm::Refuse(503, "SlowDown"));
        let refused = commit(&server, &single).await.problem_with(503);
        assert!(refused.header("retry-after").is_some());
        store.spare();
        commit(&server, &single).await.expect(200);

        let parts = async |name: &str| {
            let ask = json!({ "name": name, "size": data.len(), "strategy": "multipart", "parts": 2 });
            let upload = opened(&server, ask).await;
            let size = usize::try_from(upload["part_size"].as_u64().unwrap()).unwrap();
            for (part, url) in data.chunks(size).zip(upload["part_urls"].as_array().unwrap()) {
                server.bare("PUT", url.as_str().unwrap()).body(part).send().await.expect(200);
            }
            upload
        };
        let complete = "CompleteMultipartUpload";
        for (name, harm) in [
            ("error inside", Harm::ErrorInside("InternalError")),
            ("refused", Harm::Refuse(500, "InternalError")),
            ("cut", Harm::CutBefore),
        ] {
            let upload = parts(name).await;
            store.harm(complete, u32::MAX, harm);
            commit(&server, &upload).await.problem_with(503);
            assert_eq!(server.get(&format!("/uploads/{}", text(&upload, "id"))).await["state"], "open");
            store.spare();
            commit(&server, &upload).await.expect(200);
            assert!(content(&server, &upload).await == data, "{name}");
        }
        // Done, and the answer is lost: the next try finds no upload and the object.
        for harm in [Harm::CutAfter, Harm::RefuseAfter(500, "InternalError"), Harm::Truncate] {
            let upload = parts("done").await;
            store.harm(complete, 1, harm);
            commit(&server, &upload).await.expect(200);
            assert!(content(&server, &upload).await == data, "{harm:?}");
        }
        // Done, and the server could not find out: the next call does.
        let upload = parts("late").await;
        store.harm("HeadObject", u32::MAX, Harm::CutBefore);
        commit(&server, &upload).await.problem_with(503);
        assert_eq!(store.uploads("here/"), Vec::<String>::new());
        store.spare();
        commit(&server, &upload).await.expect(200);
        assert!(content(&server, &upload).await == data);
        // Lost for good: said so, and over.
        let upload = parts("lost").await;
        let key = store.uploads("here/").pop().unwrap();
        store.lose(&key);
        commit(&server, &upload).await.problem_with(410);
        assert_eq!(server.get(&format!("/uploads/{}", text(&upload, "id"))).await["state"], "failed");
        // It never began: nothing was opened that could be used, and the same call goes on.
        store.harm("CreateMultipartUpload", u32::MAX, Harm::Refuse(503, "SlowDown"));
        let ask = json!({ "name": "again", "size": data.len(), "strategy": "multipart", "parts": 2 });
        let open = || server.native("POST", "/uploads").header("Idempotency-Key", "k").json(&ask);
        open().send().await.problem_with(503);
        store.spare();
        let upload = open().send().await.expect(201).json();
        assert_eq!(upload["part_urls"].as_array().unwrap().len(), 2);
        assert_eq!(open().send().await.expect(201).json()["id"], upload["id"]);
        assert_eq!(store.uploads("here/").len(), 1);
        whole(server, &store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_can_use_nothing_of_it() {
    let store = Store::with_versions();
    let server = on(&store, "native,coveo").await;
    let neighbour = server.neighbour().await;
    let container = server.container().await;
    server.upload(&container.upload_uri, batch("http://a", "mine")).send().await.expect(200);
    let path = format!(
        "/push/v1/organizations/{}/sources/{}/documents/batch?fileId={}",
        neighbour.tenant, neighbour.source, container.file_id
    );
    store.calls();
    server.call("PUT", path).bearer(&neighbour.key).json("{}").send().await.error(412, "INVALID_PARAMETER");
    others(&server, &store, &neighbour.key).await;
}

/// An upload of our own API is nobody else's.
async fn others(server: &Server, store: &Store, key: &str) {
    let upload = opened(server, json!({ "name": "a", "size": 5, "strategy": "single" })).await;
    put(server, &upload, b"12345").await.expect(200);
    let path = format!("/uploads/{}", text(&upload, "id"));
    for (method, path) in
        [("GET", path.clone()), ("POST", format!("{path}/commit")), ("POST", format!("{path}/urls")), ("DELETE", path)]
    {
        let method: &'static str = method;
        server.native(method, &path).bearer(key).json("{}").send().await.problem_with(404);
    }
    assert_eq!(store.count("HeadObject"), 0, "the store is not asked for others");
    commit(server, &upload).await.expect(200);
    // Tickets of one session lead to its own key alone.
    let url = text(&upload, "url");
    let other = url.replacen(&url[url.find("here/").unwrap() + 5..][..32], &"0".repeat(32), 1);
    let wrong = json!({ "url": other, "required_headers": upload["required_headers"] });
    assert_eq!(put(server, &wrong, b"12345").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_at_google_s() {
    let store = Store::google();
    let server = on(&store, "native").await;
    let neighbour = server.neighbour().await;
    store.calls();
    others(&server, &store, &neighbour.key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_insists_sends_parts_to_the_store() {
    for store in both() {
        let server = on(&store, "cognite!").await;
        let ask = |client: &str, parts: usize| {
            let path = format!("/api/v1/projects/{}/files/initmultipartupload?parts={parts}", server.tenant);
            server.call("POST", path).header("x-cdp-sdk", client).json(json!({ "name": "a" }))
        };
        // A client that would send its token along gets URLs of the server, as does every whole file.
        let parts = ask("CognitePythonSDK:8.22.0", 2).send().await.json();
        assert!(parts["uploadUrls"][0].as_str().unwrap().starts_with(&server.url("/")), "{parts}");
        let path = format!("/api/v1/projects/{}/files", server.tenant);
        let single = server.call("POST", path.clone()).json(json!({ "name": "a" })).send().await.json();
        assert!(text(&single, "uploadUrl").starts_with(&server.url("/")));
        let data = noise(11 * MIB);
        let parts = ask("", 2).send().await.expect(201).json();
        let complete = || {
            let body = json!({ "id": parts["id"], "uploadId": parts["uploadId"] });
            server.call("POST", format!("{path}/completemultipartupload")).json(body)
        };
        for (part, url) in data.chunks(6 * MIB).zip(parts["uploadUrls"].as_array().unwrap()) {
            assert!(is_at(&store, url.as_str().unwrap()));
            assert_eq!(complete().send().await.status, 400);
            server.bare("PUT", url.as_str().unwrap()).body(part).send().await.expect(200);
        }
        complete().send().await.expect(200);
        complete().send().await.expect(200);
        let link =
            server.call("POST", format!("{path}/downloadlink")).json(json!({ "items": [{ "id": parts["id"] }] }));
        let link = link.send().await.expect(200).json();
        let got = server.bare("GET", link["items"][0]["downloadUrl"].as_str().unwrap()).send().await.expect(200);
        assert!(got.body == data);
        whole(server, &store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_sends_to_the_store() {
    for store in both() {
        let server = on(&store, "native").await;
        let desk = tempfile::tempdir().unwrap();
        let run = async |arguments: &[&str]| {
            let mut command = tokio::process::Command::new(PROGRAM);
            for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
                command.env_remove(proxy);
            }
            command.env("LANDFALL_URL", server.url("")).env("LANDFALL_KEY", &server.key).args(arguments);
            command.current_dir(desk.path()).kill_on_drop(true).stdin(Stdio::null());
            let output =
                tokio::time::timeout(Duration::from_secs(200), command.output()).await.expect("an end").unwrap();
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success(), "{said}");
            said
        };
        let (small, large) = (noise(1000), noise(66 * MIB));
        std::fs::write(desk.path().join("small"), &small).unwrap();
        std::fs::write(desk.path().join("large"), &large).unwrap();
        store.calls();
        let line: Value = serde_json::from_str(&run(&["put", "small", "--json"]).await).unwrap();
        assert!(content(&server, &json!({ "file_id": line["id"] })).await == small);
        // An upload in parts that another run left is gone on with.
        let crcs = |algorithm| crc_fast::checksum(algorithm, &large);
        let digests = json!({
            "crc32c": format!("{:08x}", crcs(crc_fast::CrcAlgorithm::Crc32Iscsi)),
            "crc64nvme": format!("{:016x}", crcs(crc_fast::CrcAlgorithm::Crc64Nvme)),
        });
        let ask = json!({ "name": "large", "size": large.len(), "strategy": "multipart", "digests": digests });
        let left = opened(&server, ask).await;
        let size = usize::try_from(left["part_size"].as_u64().unwrap()).unwrap();
        server.bare("PUT", left["part_urls"][0].as_str().unwrap()).body(&large[..size]).send().await.expect(200);
        store.calls();
        let line: Value = serde_json::from_str(run(&["put", "large", "--json"]).await.lines().last().unwrap()).unwrap();
        assert_eq!(line["upload"], left["id"]);
        assert_eq!(store.count("UploadPart"), large.len().div_ceil(size) - 1, "only what was missing");
        // Google's tells one of the two that were declared: the other costs a read.
        assert_eq!(store.count("GetObject") == 0, !store.is_google());
        assert!(content(&server, &json!({ "file_id": line["id"] })).await == large);
        whole(server, &store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_can_not_do_it_is_told_before_a_port_is_bound() {
    let directory = tempfile::tempdir().unwrap();
    let serve = async |store: &Store, direct: &str, data: &str| {
        let mut command = tokio::process::Command::new(PROGRAM);
        command.args(["serve", "--listen", "127.0.0.1:0", "--storage", &store.url(data), "--direct", direct]);
        command.arg("--data").arg(directory.path().join(data));
        command.env("AWS_EC2_METADATA_DISABLED", "true").stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await.expect("it ends").unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let store = Store::start();
    let said = serve(&store, "native,coveo", "a").await;
    assert!(said.contains("versioning") && said.contains("`direct`"), "{said}");
    let said = serve(&store, "aitronos", "b").await;
    assert!(said.contains("`direct`") && said.contains("Leave it out"), "{said}");
    store.behave(Ways { conditions: false, ..Ways::default() });
    let said = serve(&store, "native", "c").await;
    assert!(said.contains("If-None-Match"), "{said}");
    assert!(store.objects("").iter().all(|(key, _)| !key.contains("owner")), "nothing was claimed");
}

/// In the store that this run is about, where there is one: perhaps a real one.
#[tokio::test(flavor = "multi_thread")]
async fn the_store_of_this_run_takes_what_clients_send() {
    // What Azure takes is in `azure.rs`.
    if !in_bucket() || in_azure() {
        return;
    }
    let versions = std::env::var("LANDFALL_TEST_VERSIONS").is_ok();
    let apis = if versions { "native,coveo" } else { "native" };
    let server = Server::start_with(|config| config.set_text("direct", apis).unwrap()).await;
    if versions {
        let container = server.container().await;
        server.bare("PUT", &container.upload_uri).body("x").send().await.expect(403);
        server.upload(&container.upload_uri, batch("http://a", "first")).send().await.expect(200);
        server.upload(&container.upload_uri, batch("http://a", "second")).send().await.expect(200);
        let path = server.src(&format!("documents/batch?fileId={}", container.file_id));
        server.call("PUT", path).json("{}").pushed().await;
        server.upload(&container.upload_uri, batch("http://a", "third")).send().await.expect(200);
        assert_eq!(server.content("http://a", false).await, b"second");
    }
    let data = noise(11 * MIB);
    let digests = json!({ "sha256": sha256(&data[..100_000]) });
    let ask = json!({ "name": "a", "size": 100_000, "strategy": "single", "digests": digests });
    let single = opened(&server, ask).await;
    assert!(!text(&single, "url").starts_with(&server.url("/")));
    put(&server, &single, &data[..100_000]).await.expect(200);
    assert_eq!(put(&server, &single, &data[..100_000]).await.status, 412);
    assert_eq!(commit(&server, &single).await.expect(200).json()["digests"]["sha256"], sha256(&data[..100_000]));
    assert!(content(&server, &single).await == data[..100_000]);
    let crc64 = format!("{:016x}", crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &data));
    let ask = json!({ "name": "b", "size": data.len(), "strategy": "multipart", "parts": 2, "digests": { "crc64nvme": crc64 } });
    let parts = opened(&server, ask).await;
    let size = usize::try_from(parts["part_size"].as_u64().unwrap()).unwrap();
    for (part, url) in data.chunks(size).zip(parts["part_urls"].as_array().unwrap()) {
        server.bare("PUT", url.as_str().unwrap()).body(part).send().await.expect(200);
    }
    assert_eq!(commit(&server, &parts).await.expect(200).json()["digests"]["crc64nvme"], crc64);
    assert!(content(&server, &parts).await == data);
    server.leaves_everything_whole().await;
}

/// The vendor's published client, unmodified, where `tests/clients/run` says how it is started.
#[tokio::test(flavor = "multi_thread")]
async fn the_published_client_of_containers_sends_to_the_store() {
    let Ok(command) = std::env::var("LANDFALL_TEST_CONTAINER_CLIENT") else { return };
    let store = Store::with_versions();
    let server = on(&store, "coveo").await;
    store.calls();
    let mut words = command.split(' ');
    let mut client = tokio::process::Command::new(words.next().unwrap());
    for proxy in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        client.env_remove(proxy);
    }
    client.args(words).env("LANDFALL_URL", server.url("")).env("LANDFALL_KEY", &server.key);
    client
        .env("LANDFALL_TENANT", &server.tenant)
        .env("LANDFALL_STORE", store.address().to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(300), client.output()).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && !said.contains("not ok "), "{said}");
    assert!(said.lines().filter(|line| line.starts_with("ok ")).count() > 10, "{said}");
    assert!(store.calls().iter().any(|call| call.what == "PutObject" && call.path.ends_with("-0000000000000000")));
    whole(server, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_name_the_store_as_clients_reach_it() {
    for store in both() {
        let server = Server::start_with(|config| {
            let url = format!("{}&public_endpoint=https://storage.example.com", store.url("here"));
            config.set_text("storage", &url).unwrap();
            config.set_text("direct", "native").unwrap();
        })
        .await;
        let upload = opened(&server, json!({ "name": "a", "size": 5, "strategy": "single" })).await;
        assert!(text(&upload, "url").starts_with("https://storage.example.com/bytes/here/"), "{upload}");
        let ask = json!({ "name": "b", "size": 12 * MIB, "strategy": "multipart", "parts": 2 });
        let upload = opened(&server, ask).await;
        assert!(
            upload["part_urls"][1].as_str().unwrap().starts_with("https://storage.example.com/bytes/here/"),
            "{upload}"
        );
    }
}
