//! Checks 30 to 35: batches in containers.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Server, accepted, in_bucket, snapshot, zlib};

/// Is the text anywhere in the files of a folder?
fn on_disk(folder: &Path, text: &[u8]) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return on_disk(&path, text);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn check_30_batch() {
    let server = Server::start().await;
    server.item("http://old", json!({ "data": "old" })).await;
    let before = server.get("/usage").await;
    // Larger than what is kept in a row, so that there are bytes to be deleted.
    let filler = "only-in-the-container ".repeat(10_000);
    let content = json!({
        "nothing": filler,
        "addOrUpdate": [
            { "documentId": "http://one", "title": "One", "data": "the first" },
            { "documentId": "http://two", "title": "Two", "compressedBinaryData": crate::harness::base64(&zlib(b"second")) },
        ],
        "delete": [{ "documentId": "http://old", "deleteChildren": false }],
    });
    let file = server.filled(content.to_string()).await;
    let there = in_bucket() || on_disk(&server.data(), b"only-in-the-container only");
    assert!(there, "the container is on disk before it is pushed");
    let push = server.call("PUT", server.src(&format!("documents/batch?fileId={file}"))).pushed().await;
    assert_eq!(push["state"], "done", "{push}");
    assert_eq!(push["counts"]["added"], 2, "{push}");
    assert_eq!(push["counts"]["deleted"], 1, "{push}");
    assert_eq!(server.ids(&server.source).await, ["http://one", "http://two"]);
    assert_eq!(server.read("http://one").await["metadata"]["title"], "One");
    assert_eq!(server.content("http://two", true).await, b"second");
    let after = server.get("/usage").await;
    assert_eq!(after["files"], before["files"], "the container no longer counts: {after}");
    assert_eq!(after["bytes"], before["bytes"], "{after}");
    for _ in 0..2_400 {
        if !on_disk(&server.data().join("blobs"), b"only-in-the-container only") {
            return;
        }
        server.clock.advance(Duration::from_secs(120));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the container's bytes are still on disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_31_batch_in_pascal_case() {
    let server = Server::start().await;
    server.item("https://www.example.com/delete", json!({})).await;
    server.item("https://www.example.com/delete/child", json!({})).await;
    let content = r#"{
        "AddOrUpdate": [
            {
                "DocumentId": "https://www.example.com/one",
                "Permissions": [{"PermissionSets": [{"AllowAnonymous": false,
                    "AllowedPermissions": [{"Identity": "asmith@example.com", "IdentityType": "User"}]}]}],
                "Author": "Alice Smith", "Date": "2017-11-08 11:13:41", "DocumentType": "Text",
                "FileExtension": ".html", "Data": "<p>This is a document.</p>"
            },
            {"documentid": "https://www.example.com/two", "DATA": "two"}
        ],
        "Delete": [{"DocumentId": "https://www.example.com/delete", "DeleteChildren": true}]
    }"#;
    let push = server.batch(content).await;
    assert_eq!(push["counts"]["added"], 2, "{push}");
    assert_eq!(push["counts"]["deleted"], 2, "{push}");
    assert_eq!(server.ids(&server.source).await, ["https://www.example.com/one", "https://www.example.com/two"]);
    let item = server.read("https://www.example.com/one").await;
    assert_eq!(item["metadata"]["Author"], "Alice Smith", "{item}");
    assert!(item["permissions"].to_string().contains("asmith@example.com"), "{item}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_32_batches_with_little_in_them() {
    let server = Server::start().await;
    for content in [
        r#"{"addOrUpdate":[],"delete":[]}"#,
        "{}",
        r#"{"addOrUpdate":[]}"#,
        r#"{"delete":[]}"#,
        r#"{"delete":[{"documentId":"http://a"}]}"#,
    ] {
        let push = server.batch(content).await;
        assert_eq!(push["state"], "done", "{content}: {push}");
    }
    assert!(server.ids(&server.source).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn check_33_batches_that_can_not_be() {
    let server = Server::start().await;
    let batch = |query: &str| server.call("PUT", server.src(&format!("documents/batch{query}"))).json("{}");
    batch("").refused(412, "MISSING_PARAMETER").await;
    batch("?fileId=").refused(412, "MISSING_PARAMETER").await;
    batch("?fileId=60e285b1-58ec-5625-c5c4-53cd2434c19f").refused(412, "INVALID_PARAMETER").await;
    batch("?fileId=..%2F..%2Fetc%2Fpasswd").refused(412, "INVALID_PARAMETER").await;
    for content in [
        "hello",
        "[]",
        " ",
        r#"{"addOrUpdate":[{"data":"a"}]}"#,
        r#"{"addOrUpdate":[{"documentId":"http://a"}]"#,
        r#"{"addOrUpdate":{"documentId":"http://a"}}"#,
        r#"{"addOrUpdate":[],"AddOrUpdate":[]}"#,
        r#"{"addOrUpdate":[{"documentId":"http://a"},{"documentId":"http://b","data":"x","Data":"y"}]}"#,
        r#"{"delete":["http://a"]}"#,
        r#"{"addOrUpdate":[{"documentId":"http://a","compressedBinaryData":"%%"}]}"#,
        r#"{"partialUpdate":[{"documentId":"http://a","operator":"fieldValueReplace","field":"f","value":1}]}"#,
    ] {
        let file = server.filled(content).await;
        let reply = batch(&format!("?fileId={file}")).refused(400, "INVALID_JSON").await;
        if content == "hello" {
            snapshot!("check_33_batch_that_is_no_json", server, reply);
        }
    }
    batch(&format!("?fileId={}", server.filled("").await)).refused(412, "INVALID_PARAMETER").await;
    let id = r#"{"addOrUpdate":[{"documentId":"http://a"},{"documentId":"no uri"}]}"#;
    batch(&format!("?fileId={}", server.filled(id).await)).refused(412, "INVALID_PARAMETER").await;
    assert!(server.ids(&server.source).await.is_empty(), "a batch is taken whole or not at all");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_34_batch_calls_without_a_body() {
    let server = Server::start().await;
    for (at, lines) in ["", "Content-Length: 0", "Content-Type: application/json\nContent-Length: 0"].iter().enumerate()
    {
        let file = server.filled(format!("{{\"addOrUpdate\":[{{\"documentId\":\"http://{at}\"}}]}}")).await;
        let head = format!(
            "PUT /push/v1/organizations/{{o}}/sources/{{s}}/documents/batch?fileId={file} HTTP/1.1
            Host: {{host}}
            Authorization: Bearer {{key}}
            Connection: close
            {lines}"
        );
        let reply = server.wire(&head, b"").await.expect(202);
        server.done(&accepted(&reply)).await;
    }
    let file = server.filled(r#"{"addOrUpdate":[{"documentId":"http://3"}]}"#).await;
    server.call("PUT", server.src(&format!("documents/batch?fileId={file}"))).json("{}").pushed().await;
    assert_eq!(server.ids(&server.source).await, ["http://0", "http://1", "http://2", "http://3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_35_the_same_batch_again() {
    let server = Server::start().await;
    let file = server.filled(r#"{"addOrUpdate":[{"documentId":"http://a","title":"batch"}]}"#).await;
    let call = || server.call("PUT", server.src(&format!("documents/batch?fileId={file}"))).json("{}");
    let first = call().send().await.expect(202);
    let push = server.done(&accepted(&first)).await;
    // A repeat that had an effect would bring this title back.
    server.item("http://a", json!({ "title": "later" })).await;
    let before = server.state().await;
    let again = call().send().await.expect(202);
    assert_eq!(again.json(), first.json());
    assert_eq!(server.done(&accepted(&again)).await, push);
    server.unchanged(&before).await;
    let (a, b, c, d) = tokio::join!(call().send(), call().send(), call().send(), call().send());
    for reply in [a, b, c, d] {
        assert_eq!(reply.expect(202).json(), first.json());
    }
    server.unchanged(&before).await;
    assert_eq!(server.read("http://a").await["metadata"]["title"], "later");

    let body = json!({ "compressedBinaryDataFileId": file });
    let item = server.call("PUT", server.src("documents?documentId=http://b")).json(body);
    item.refused(412, "INVALID_PARAMETER").await;
    let other = server.call("PUT", server.src(&format!("documents/batch?fileId={file}&orderingId=7")));
    other.refused(412, "INVALID_PARAMETER").await;
    let elsewhere = server.call("PUT", server.cat(&format!("documents/batch?fileId={file}")));
    elsewhere.refused(412, "INVALID_PARAMETER").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_35_a_put_after_use_changes_nothing() {
    let server = Server::start().await;
    let container = server.container().await;
    let content = r#"{"addOrUpdate":[{"documentId":"http://a"}]}"#;
    server.upload(&container.upload_uri, content).send().await.expect(200);
    let path = server.src(&format!("documents/batch?fileId={}", container.file_id));
    server.call("PUT", path).pushed().await;
    let before = server.state().await;
    server.upload(&container.upload_uri, content).send().await.expect(200);
    server.upload(&container.upload_uri, "{}").denied().await;
    server.upload(&container.upload_uri, content.replace("http://a", "http://b")).denied().await;
    server.unchanged(&before).await;
}

/// One hundred batches at once: every one is accepted and applied once.
#[tokio::test(flavor = "multi_thread")]
async fn many_batches_at_once() {
    let server = Server::start().await;
    let mut calls = Vec::new();
    for n in 0..100 {
        let server = &server;
        calls.push(async move {
            let content = json!({ "addOrUpdate": [{ "documentId": format!("http://{n:03}"), "data": "x" }] });
            let file = server.filled(content.to_string()).await;
            let reply = server.call("PUT", server.src(&format!("documents/batch?fileId={file}"))).send().await;
            accepted(&reply.expect(202))
        });
    }
    let ids: Vec<String> = futures_util::future::join_all(calls).await;
    for id in &ids {
        let push: Value = server.done(id).await;
        assert_eq!((&push["state"], &push["counts"]["added"]), (&json!("done"), &json!(1)), "{push}");
    }
    let found = server.ids(&server.source).await;
    assert_eq!(found, (0..100).map(|n| format!("http://{n:03}")).collect::<Vec<_>>());
    server.leaves_everything_whole().await;
}

/// A refused batch does not use its container up: the same URL takes a better one.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_may_be_put_right() {
    let server = Server::start().await;
    let container = server.container().await;
    let call = || server.call("PUT", server.src(&format!("documents/batch?fileId={}", container.file_id))).json("{}");
    server.upload(&container.upload_uri, "hello").send().await.expect(200);
    call().send().await.error(400, "INVALID_JSON");
    server.upload(&container.upload_uri, r#"{"addOrUpdate":[{"documentId":"http://a"}]}"#).send().await.expect(200);
    let push = call().pushed().await;
    assert_eq!(push["counts"]["added"], 1, "{push}");
    assert_eq!(server.ids(&server.source).await, ["http://a"]);
}
