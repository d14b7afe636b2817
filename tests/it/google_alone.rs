//! What is left when a client of Google's store does as it likes, and what changes there behind Landfall's back.

use std::time::Duration;

use serde_json::{Value, json};

use crate::aitronos::{K, M, offset, put as chunk, whole};
use crate::bucket::{Harm, Store};
use crate::direct::{self, commit, content, on, opened, put, text};
use crate::harness::{Server, noise};
use crate::uploads::sha256;

async fn resumable(server: &Server, bytes: &[u8], more: Value) -> Value {
    let mut ask = json!({ "name": "a", "size": bytes.len(), "strategy": "resumable", "mime_type": "text/x" });
    ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    opened(server, ask).await
}

async fn one(server: &Server, upload: &Value) -> Value {
    server.get(&format!("/uploads/{}", text(upload, "id"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_stays_whatever_is_said_about_it_at_the_store() {
    let store = Store::google();
    let server = on(&store, "native").await;
    let data = noise(11 * M as usize);
    let single = opened(&server, json!({ "name": "a", "size": data.len(), "strategy": "single" })).await;
    put(&server, &single, &data).await.expect(200);
    let session = resumable(&server, &data, json!({})).await;
    assert_eq!(whole(&server.http, text(&session, "url"), &data).await.status, 200);
    let ask = json!({ "name": "b", "size": data.len(), "strategy": "multipart", "parts": 2 });
    let parts = opened(&server, ask).await;
    let size = usize::try_from(parts["part_size"].as_u64().unwrap()).unwrap();
    for (part, url) in data.chunks(size).zip(parts["part_urls"].as_array().unwrap()) {
        server.bare("PUT", url.as_str().unwrap()).body(part.to_vec()).send().await.expect(200);
    }
    for upload in [&single, &session, &parts] {
        commit(&server, upload).await.expect(200);
        assert!(content(&server, upload).await == data);
    }
    // A hold, another storage class, a label: the bytes are the same, and so is their number.
    store.redescribe();
    for upload in [&single, &session, &parts] {
        assert!(content(&server, upload).await == data, "{upload}");
    }
    direct::whole(server, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_takes_as_many_bytes_as_were_declared() {
    let store = Store::google();
    let server = on(&store, "native").await;
    for size in [0, 5] {
        let upload = opened(&server, json!({ "name": "a", "size": size, "strategy": "single" })).await;
        for wrong in [6, 100_000] {
            assert_eq!(put(&server, &upload, &noise(wrong)).await.status, 400, "more than its place in the quota");
        }
        assert_eq!(store.objects("here/").len(), 1 + usize::from(size > 0), "the owner alone");
        put(&server, &upload, &noise(size)).await.expect(200);
        commit(&server, &upload).await.expect(200);
    }
    // Of a file whose size nobody knows, the store would take as much as there is: its quota is kept by the server.
    let upload = opened(&server, json!({ "name": "b", "strategy": "resumable" })).await;
    assert!(text(&upload, "url").starts_with(&server.url("/")), "{upload}");
    let data = noise(K as usize);
    assert_eq!(chunk(&server.http, text(&upload, "url"), "bytes 0-262143/*", &data).await.status, 308);
    let wrong = json!({ "size": K + 1 });
    let claim = format!("/uploads/{}/commit", text(&upload, "id"));
    server.native("POST", &claim).json(wrong).send().await.problem_with(409);
    server.native("POST", &claim).json(json!({ "size": K })).send().await.expect(200);
    direct::whole(server, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cancels_at_the_store_has_cancelled_the_upload() {
    let store = Store::google();
    let server = on(&store, "native,aitronos").await;
    let data = noise(2 * M as usize);
    for commits in [false, true] {
        let upload = resumable(&server, &data, json!({})).await;
        let url = text(&upload, "url");
        let range = format!("bytes 0-{}/{}", M - 1, data.len());
        assert_eq!(offset(&chunk(&server.http, url, &range, &data[..M as usize]).await), M);
        assert_eq!(server.bare("DELETE", url).send().await.status, 499);
        if commits {
            let refused = commit(&server, &upload).await.problem_with(410);
            assert!(refused.text().contains("cancelled"), "{}", refused.text());
        }
        assert_eq!(one(&server, &upload).await["state"], "aborted");
    }
    let session = server.session(5).await;
    assert_eq!(server.bare("DELETE", &session.url).send().await.status, 499);
    server.register(&session).send().await.fault(404, "FILE_NOT_FOUND");
    assert_eq!(server.get("/usage").await["reserved"], 0);
    direct::gone(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_complete_and_is_gone_is_lost_and_not_awaited() {
    let store = Store::google();
    let server = on(&store, "native").await;
    let data = noise(300_000);
    for commits in [false, true] {
        let upload = resumable(&server, &data, json!({})).await;
        assert_eq!(whole(&server.http, text(&upload, "url"), &data).await.status, 200);
        let key = store.objects("here/").into_iter().find(|(key, _)| !key.ends_with("owner")).unwrap().0;
        store.lose(&key);
        if commits {
            commit(&server, &upload).await.problem_with(410);
        }
        assert_eq!(one(&server, &upload).await["state"], "failed");
    }
    direct::gone(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_read_once_however_many_ask_for_their_commit() {
    let store = Store::google();
    let server = on(&store, "native").await;
    let data = noise(2 * M as usize);
    let mut reads = Vec::new();
    for asked in [1, 12] {
        let upload = resumable(&server, &data, json!({ "digests": { "sha256": sha256(&data) } })).await;
        assert_eq!(whole(&server.http, text(&upload, "url"), &data).await.status, 200);
        store.calls();
        store.harm("GetObject", 100, Harm::Delay(300));
        let all = futures_util::future::join_all((0..asked).map(|_| commit(&server, &upload))).await;
        let first = all[0].json();
        assert!(all.iter().all(|receipt| receipt.status == 200 && receipt.json() == first));
        store.spare();
        reads.push(store.count("GetObject"));
    }
    assert_eq!(reads[0], reads[1], "each reader would have read all of them");
    direct::whole(server, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_says_nothing_of_what_only_the_store_knows() {
    let store = Store::google();
    let server = on(&store, "native").await;
    let data = noise(2 * M as usize);
    let upload = resumable(&server, &data, json!({})).await;
    let range = format!("bytes 0-{}/{}", M - 1, data.len());
    assert_eq!(offset(&chunk(&server.http, text(&upload, "url"), &range, &data[..M as usize]).await), M);
    let listed = async || server.get("/uploads?name=a").await["items"][0].clone();
    let now = listed().await;
    assert_eq!((&now["state"], &now["received"], &now["next_offset"]), (&json!("open"), &Value::Null, &Value::Null));
    let now = one(&server, &upload).await;
    assert_eq!((&now["received"], &now["next_offset"]), (&json!(M), &json!(M)));
    assert_eq!(whole(&server.http, text(&upload, "url"), &data[M as usize..]).await.status, 400);
    let range = format!("bytes {M}-{}/{}", data.len() - 1, data.len());
    assert_eq!(chunk(&server.http, text(&upload, "url"), &range, &data[M as usize..]).await.status, 200);
    commit(&server, &upload).await.expect(200);
    let now = listed().await;
    assert_eq!((&now["state"], &now["received"]), (&json!("committed"), &json!(data.len())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_reads_the_answers_of_a_session_that_was_begun_for_its_origin() {
    let store = Store::google();
    let server = Server::start_with(|config| {
        config.set_text("storage", &store.url("here")).unwrap();
        config.set_text("direct", "native,aitronos").unwrap();
        config.cors_origins = vec!["https://*.example.com".into()];
    })
    .await;
    let ask = json!({ "name": "a", "size": 5, "strategy": "resumable" });
    let seen = async |url: &str| {
        let asked =
            server.bare("PUT", url).header("origin", "https://other.example").header("content-range", "bytes */5");
        asked.header("content-length", "0").send().await.header("access-control-allow-origin").map(str::to_owned)
    };
    let origin = "https://app.example.com";
    for (from, told) in
        [(Some(origin), Some(origin)), (None, None), (Some("https://stranger.example"), None), (Some("null"), None)]
    {
        let mut open = server.native("POST", "/uploads").json(&ask);
        if let Some(from) = from {
            open = open.header("origin", from);
        }
        let upload = open.send().await.expect(201).json();
        assert_eq!(seen(text(&upload, "url")).await.as_deref(), told, "{from:?}");
    }
    let ask = json!({ "filename": "a.bin", "file_size": 5, "mime_type": "text/plain" });
    let opened = server.ask(&ask).header("origin", origin).send().await.expect(200).json();
    assert_eq!(seen(text(&opened, "upload_url")).await.as_deref(), Some(origin));
    tokio::time::sleep(Duration::ZERO).await;
}
