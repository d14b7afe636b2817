//! Checks 14 to 29: single items, their deletion and deletion by age.

use serde_json::json;

use crate::harness::{Server, accepted, base64, encode, gzip, snapshot, zlib};

const PAGE: &[u8] = b"<html><head><title>Harbour</title></head><body><p>The lighthouse keeper waits</p></body></html>";

#[tokio::test(flavor = "multi_thread")]
async fn check_14_large_item_flow() {
    let server = Server::start().await;
    let container = server.container().await;
    let bytes = zlib(PAGE);
    server.upload(&container.upload_uri, bytes.clone()).send().await.expect(200);
    let body = json!({ "FileExtension": ".html", "CompressedBinaryDataFileId": container.file_id });
    let call = server.call("PUT", server.src("documents?documentId=http://mydocument")).json(body);
    let push = call.pushed().await;
    assert_eq!(push["state"], "done", "{push}");
    assert_eq!(server.ids(&server.source).await, ["http://mydocument"]);
    let item = server.read("http://mydocument").await;
    assert_eq!(item["state"], "ready", "{item}");
    assert_eq!(item["file_extension"], ".html", "{item}");
    assert_eq!(server.content("http://mydocument", false).await, bytes);
    assert_eq!(server.content("http://mydocument", true).await, PAGE);
    let path = format!("/sources/{}/item/text?document_id=http://mydocument", server.source);
    let text = server.native("GET", &path).send().await.expect(200).text();
    assert!(text.contains("The lighthouse keeper waits"), "{text}");
    for (word, found) in [("lighthouse", 1), ("volcano", 0)] {
        let list = server.get(&format!("/sources/{}/items?query={word}", server.source)).await;
        assert_eq!(list["items"].as_array().unwrap().len(), found, "{word}: {list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_15_letter_case_of_keys() {
    let server = Server::start().await;
    let mut stored = Vec::new();
    for (at, keys) in [
        ["FileExtension", "CompressedBinaryDataFileId", "CompressionType"],
        ["fileExtension", "compressedBinaryDataFileId", "compressionType"],
        ["fileextension", "compressedbinarydatafileid", "compressiontype"],
    ]
    .into_iter()
    .enumerate()
    {
        let file = server.filled(zlib(PAGE)).await;
        let id = format!("http://mydocument/{at}");
        server.item(&id, json!({ keys[0]: ".html", keys[1]: file, keys[2]: "ZLIB" })).await;
        let mut item = server.read(&id).await;
        for own in ["document_id", "ordering_id", "request_id", "created_at", "changed_at", "push"] {
            item.as_object_mut().unwrap().remove(own);
        }
        stored.push((item, server.content(&id, true).await));
    }
    assert_eq!(stored[0].0, stored[1].0);
    assert_eq!(stored[0].0, stored[2].0);
    assert!(stored.iter().all(|(_, content)| content == PAGE));
    let call = server.call("PUT", server.src("documents?documentId=http://mydocument"));
    let quoted = call.json("{\n 'FileExtension':'.html',\n 'CompressedBinaryDataFileId': 'e2e4b52d-c47'\n}");
    quoted.refused(400, "INVALID_JSON").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_16_document_id_and_source_are_needed() {
    let server = Server::start().await;
    for query in ["", "?documentId=", "?orderingId=1"] {
        let call = server.call("PUT", server.src(&format!("documents{query}"))).json("{}");
        call.refused(412, "MISSING_PARAMETER").await;
    }
    for source in ["nowhere", "..%2F..", "%00"] {
        let path = server.org(&format!("sources/{source}/documents?documentId=http://a"));
        server.call("PUT", path).json("{}").refused(412, "SOURCE_DOES_NOT_EXIST").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_17_bodies_that_are_no_item() {
    let server = Server::start().await;
    let put = |body: &str| server.call("PUT", server.src("documents?documentId=http://a")).json(body);
    for body in [
        "{",
        "[]",
        "null",
        "\"a\"",
        "",
        "{\"data\":\"a\"} x",
        "{\"data\":\"a\",\"Data\":\"b\"}",
        "{\"title\":\"a\",\"title\":\"b\"}",
        "{\"data\":\"a\",\"compressedBinaryData\":\"YQ==\"}",
        "{\"data\":\"a\",\"compressedBinaryDataFileId\":\"60e285b1-58ec-5625-c5c4-53cd2434c19f\"}",
        "{\"data\":1}",
    ] {
        put(body).refused(400, "INVALID_JSON").await;
    }
    let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    put("{}").body(utf16).refused(400, "INVALID_JSON").await;
    put("{}").body(b"{\"title\":\"\xFF\"}".to_vec()).refused(400, "INVALID_JSON").await;
    // An item without any content is one.
    server.item("http://a", json!({ "title": "alone" })).await;
    assert_eq!(server.read("http://a").await["metadata"]["title"], "alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_18_media_type() {
    let server = Server::start().await;
    let put = || server.call("PUT", server.src("documents?documentId=http://a")).body("{\"data\":\"a\"}");
    put().header("Content-Type", "text/plain").refused(415, "UNSUPPORTED_MEDIA_TYPE").await;
    put().header("Content-Type", "application/xml").refused(415, "UNSUPPORTED_MEDIA_TYPE").await;
    put().header("Content-Type", "Application/JSON;charset=UTF-8").pushed().await;
    let status = server.call("POST", server.src("status?statusType=IDLE")).header("Content-Type", "text/plain");
    status.body("x").send().await.error(415, "UNSUPPORTED_MEDIA_TYPE");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_19_body_size() {
    const LIMIT: usize = 6 * 1024 * 1024;
    let server = Server::start().await;
    let frame = "{\"data\":\"\"}".len();
    let body = |size: usize| format!("{{\"data\":\"{}\"}}", "a".repeat(size - frame));
    let put = || server.call("PUT", server.src("documents?documentId=http://a"));
    let reply = put().json(body(LIMIT + 1)).refused(413, "REQUEST_ENTITY_TOO_LARGE").await;
    let message = reply.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains(&LIMIT.to_string()), "it names the limit: {message}");
    snapshot!("check_19_body_size", server, reply);
    put().json(body(5 * 1024 * 1024)).pushed().await;
    assert_eq!(server.content("http://a", true).await.len(), 5 * 1024 * 1024 - frame);
    put().json(body(LIMIT)).pushed().await;
    assert_eq!(server.content("http://a", true).await.len(), LIMIT - frame);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_20_compression_types() {
    let server = Server::start().await;
    let text = b"compressed by someone".as_slice();
    let content = |bytes: &[u8]| json!({ "compressedBinaryData": base64(bytes), "fileExtension": ".txt" });
    for (kind, bytes) in [
        ("ZLib", zlib(text)),
        ("ZLIB", zlib(text)),
        ("", zlib(text)),
        ("GZip", gzip(text)),
        ("UNCOMPRESSED", text.to_vec()),
        // The label is wrong and the bytes are right: the bytes count.
        ("UNCOMPRESSED", zlib(text)),
        ("ZLIB", gzip(text)),
        ("zlib", text.to_vec()),
    ] {
        let path = server.src(&format!("documents?documentId=http://a&compressionType={kind}"));
        let push = server.call("PUT", path).json(content(&bytes)).pushed().await;
        assert_eq!(push["state"], "done", "{push}");
        assert_eq!(server.content("http://a", true).await, text, "{kind}");
    }
    let path = server.src("documents?documentId=http://b&compressionType=brotli");
    let reply = server.call("PUT", path).json(content(text)).refused(412, "INVALID_PARAMETER").await;
    snapshot!("check_20_compression_types", server, reply);
    let own = json!({ "data": "a", "compressionType": "brotli" });
    let call = server.call("PUT", server.src("documents?documentId=http://b")).json(own);
    call.refused(412, "INVALID_PARAMETER").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_21_binary_data_that_is_not_base64() {
    let server = Server::start().await;
    for data in ["a b%", "####", "YQ=", "YQ===", "Y", "\u{e9}"] {
        let body = json!({ "compressedBinaryData": data });
        let call = server.call("PUT", server.src("documents?documentId=http://a")).json(body);
        call.refused(400, "INVALID_JSON").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_22_file_extension_without_its_dot() {
    let server = Server::start().await;
    server.item("http://a", json!({ "data": "a", "fileExtension": "txt" })).await;
    assert_eq!(server.ids(&server.source).await, ["http://a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_23_document_id_is_decoded() {
    let server = Server::start().await;
    let ids = [
        "http://my.doc/a?b=c&d=e#part",
        "http://my.doc/caf\u{e9}/\u{65e5}\u{672c}",
        "http://my.doc/a b+c%20d",
        "file://folder/a'b\"c<d>.txt",
    ];
    for id in ids {
        let call = server.call("PUT", server.src(&format!("documents?documentId={}", encode(id)))).json("{}");
        call.pushed().await;
    }
    let mut wanted = ids.map(String::from);
    wanted.sort();
    assert_eq!(server.ids(&server.source).await, wanted);
    for id in ids {
        let path = server.src(&format!("documents?documentId={}", encode(id)));
        server.call("DELETE", path).pushed().await;
    }
    assert!(server.ids(&server.source).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn check_24_document_id_as_java_sends_it() {
    let server = Server::start().await;
    let mut pushed = Vec::new();
    for full in ["https://my.doc/a?b=c&d=e", "https://my.doc/a?b=c&d=e#f"] {
        let sent = full.split('#').next().unwrap();
        let kind = if sent == full { "&compressionType=UNCOMPRESSED" } else { "" };
        let head = format!(
            "PUT /push/v1/organizations/{{o}}/sources/{{s}}/documents?documentId={sent}{kind} HTTP/1.1
            Host: {{host}}
            Authorization: Bearer {{key}}
            Content-Type: application/json
            Content-Length: {{length}}
            Connection: close"
        );
        let body = json!({ "documentId": full, "title": "t", "data": "text" });
        let reply = server.wire(&head, body.to_string().as_bytes()).await.expect(202);
        server.done(&accepted(&reply)).await;
        pushed.push(full.to_owned());
        assert_eq!(server.ids(&server.source).await, pushed);
    }
    // A difference that no client's habit explains.
    let body = json!({ "documentId": "https://other.doc/" });
    let call = server.call("PUT", server.src("documents?documentId=https://my.doc/a")).json(body);
    call.refused(412, "INVALID_PARAMETER").await;
    let call = server.call("PUT", server.src("documents?documentId=no+uri")).json("{}");
    call.refused(412, "INVALID_PARAMETER").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_25_ordering_ids() {
    let server = Server::start().await;
    let path = |ordering: &str| server.src(&format!("documents?documentId=http://a&orderingId={ordering}"));
    for bad in ["abc", "-1", "1.5", "0x10"] {
        server.call("PUT", path(bad)).json("{}").refused(412, "INVALID_PARAMETER").await;
        server.call("DELETE", path(bad)).refused(412, "INVALID_PARAMETER").await;
    }
    server.call("PUT", path("1000")).json(json!({ "title": "first" })).pushed().await;
    let older = server.call("PUT", path("999")).json(json!({ "title": "older" })).pushed().await;
    assert_eq!(older["counts"]["older"], 1, "{older}");
    assert_eq!(server.read("http://a").await["metadata"]["title"], "first");
    server.call("DELETE", path("999")).pushed().await;
    assert_eq!(server.ids(&server.source).await, ["http://a"]);
    server.call("PUT", path("1000")).json(json!({ "title": "equal" })).pushed().await;
    assert_eq!(server.read("http://a").await["metadata"]["title"], "equal");
    // Larger than 64 bits, as a published crawler sends it.
    server.call("PUT", path("19457712023373612345")).json(json!({ "title": "huge" })).pushed().await;
    assert_eq!(server.read("http://a").await["metadata"]["title"], "huge");
    server.call("PUT", path("19457712023373612344")).json(json!({ "title": "less" })).pushed().await;
    assert_eq!(server.read("http://a").await["metadata"]["title"], "huge");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_26_accepted_pushes_say_their_ids() {
    let server = Server::start().await;
    let reply = server.call("PUT", server.src("documents?documentId=http://a&orderingId=42")).json("{}").send().await;
    snapshot!("check_26_push_accepted", server, reply);
    let id = accepted(&reply.clone().expect(202));
    assert_eq!(reply.json()["orderingId"], "42");
    assert_eq!(server.done(&id).await["request_id"], id.as_str());
    let delete = server.call("DELETE", server.src("documents?documentId=http://a")).send().await.expect(202);
    accepted(&delete);
    let older = server.call("DELETE", server.src("documents/olderthan?orderingId=1")).send().await.expect(202);
    accepted(&older);
    let batch = format!("documents/batch?fileId={}", server.filled("{}").await);
    accepted(&server.call("PUT", server.src(&batch)).send().await.expect(202));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_27_content_of_containers_that_are_not_there() {
    let server = Server::start().await;
    let other = server.neighbour().await;
    let path = format!("/push/v1/organizations/{}/files", other.tenant);
    let theirs = server.call("POST", path).bearer(&other.key).send().await.expect(201).json();
    server.upload(theirs["uploadUri"].as_str().unwrap(), zlib(PAGE)).send().await.expect(200);
    let empty = server.container().await.file_id;
    let unknown = String::from("60e285b1-58ec-5625-c5c4-53cd2434c19f");
    for file in [theirs["fileId"].as_str().unwrap().to_owned(), empty, unknown, "nope".into(), "../../x".into()] {
        let body = json!({ "compressedBinaryDataFileId": file });
        let call = server.call("PUT", server.src("documents?documentId=http://a")).json(body);
        call.refused(412, "INVALID_PARAMETER").await;
    }
    // The neighbour's container is still good for the neighbour.
    let path =
        format!("/push/v1/organizations/{}/sources/{}/documents?documentId=http://a", other.tenant, other.source);
    let body = json!({ "compressedBinaryDataFileId": theirs["fileId"] });
    server.call("PUT", path).bearer(&other.key).json(body).send().await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_28_delete() {
    let server = Server::start().await;
    let all = ["http://a", "http://a/1", "http://a/2/x", "http://b", "http://b/1", "http://c", "http://c/1"];
    let items: Vec<_> = all.iter().map(|id| json!({ "documentId": id, "data": "x" })).collect();
    server.batch(json!({ "addOrUpdate": items }).to_string()).await;
    assert_eq!(server.ids(&server.source).await, all);
    let delete = |query: &str| server.call("DELETE", server.src(&format!("documents?documentId={query}")));
    delete(&encode("http://c")).pushed().await;
    assert_eq!(server.ids(&server.source).await, [&all[..5], &all[6..]].concat());
    delete(&format!("{}&deleteChildren=false", encode("http://c"))).pushed().await;
    assert_eq!(server.ids(&server.source).await, [&all[..5], &all[6..]].concat());
    let push = delete(&format!("{}&deleteChildren=true", encode("http://a"))).pushed().await;
    assert_eq!(push["counts"]["deleted"], 3, "{push}");
    delete(&format!("{}&deleteChildren=True", encode("http://b"))).pushed().await;
    assert_eq!(server.ids(&server.source).await, ["http://c/1"]);
    delete(&encode("http://unknown")).pushed().await;
    assert_eq!(server.ids(&server.source).await, ["http://c/1"]);
    server.call("DELETE", server.src("documents")).refused(412, "MISSING_PARAMETER").await;
    delete("http://c/1&deleteChildren=perhaps").refused(412, "INVALID_PARAMETER").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_29_delete_older_than() {
    let server = Server::start().await;
    for (id, ordering) in [("http://a", 10), ("http://b", 20), ("http://c", 30)] {
        let path = server.src(&format!("documents?documentId={id}&orderingId={ordering}"));
        server.call("PUT", path).json("{}").pushed().await;
    }
    let older = |query: &str| server.call("DELETE", server.src(&format!("documents/olderthan{query}")));
    older("").refused(412, "MISSING_PARAMETER").await;
    older("?queueDelay=0").refused(412, "MISSING_PARAMETER").await;
    older("?orderingId=20&queueDelay=-1").refused(412, "INVALID_PARAMETER").await;
    older("?orderingId=20&queueDelay=soon").refused(412, "INVALID_PARAMETER").await;
    older("?orderingId=x&queueDelay=0").refused(412, "INVALID_PARAMETER").await;
    let push = older("?orderingId=20&queueDelay=0").pushed().await;
    assert_eq!(push["counts"]["deleted"], 1, "{push}");
    assert_eq!(server.ids(&server.source).await, ["http://b", "http://c"]);
    // Without a delay of its own it waits for 15 minutes.
    let later = accepted(&older("?orderingId=30").send().await.expect(202));
    server.clock.advance(std::time::Duration::from_secs(14 * 60));
    server.item("http://d", json!({})).await;
    let waiting = server.get(&format!("/pushes/{later}")).await;
    assert_eq!(waiting["state"], "queued", "{waiting}");
    server.clock.advance(std::time::Duration::from_secs(2 * 60));
    // A new push wakes the processor, whose pauses do not know that the clock was moved.
    server.item("http://d", json!({})).await;
    server.done(&later).await;
    assert_eq!(server.ids(&server.source).await, ["http://c", "http://d"]);
}
