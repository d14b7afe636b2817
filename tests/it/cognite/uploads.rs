//! Content on its way in and out: whole, in parts, anew, and what is not taken.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::aitronos::M;
use crate::harness::{Reply, Server, gzip, in_bucket, noise};

const FIVE: usize = 5 * M as usize;

/// An upload in parts, as its opener was told about it.
struct Parts {
    file: Value,
    id: String,
    urls: Vec<String>,
}

impl Parts {
    #[track_caller]
    fn of(file: Value) -> Self {
        let urls = file["uploadUrls"].as_array().expect("uploadUrls").iter();
        Self {
            id: file["uploadId"].as_str().expect("uploadId").to_owned(),
            urls: urls.map(|url| url.as_str().expect("a URL").to_owned()).collect(),
            file,
        }
    }

    fn number(&self) -> i64 {
        self.file["id"].as_i64().expect("id")
    }

    async fn put(&self, server: &Server, part: usize, body: &[u8]) {
        server.bare("PUT", &self.urls[part]).body(body).send().await.expect(200);
    }

    async fn complete(&self, server: &Server) -> Reply {
        let body = json!({ "id": self.number(), "uploadId": self.id });
        server.on_files("/completemultipartupload", body).send().await
    }
}

impl Server {
    async fn in_parts(&self, body: Value, count: usize) -> Parts {
        let reply = self.on_files(&format!("/initmultipartupload?parts={count}"), body).send().await.expect(201);
        reply.identified();
        let parts = Parts::of(reply.json());
        assert_eq!(parts.urls.len(), count);
        parts
    }
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_03_compressed_bodies() {
    let server = Server::start().await;
    let send = |body: Vec<u8>, coding: &'static str| {
        let call = server.call("POST", server.project("/files")).header("Content-Type", "application/json");
        call.header("Content-Encoding", coding).body(body).send()
    };
    let good = gzip(br#"{"name":"a"}"#);
    send(good.clone(), "gzip").await.expect(201);
    send(good.clone(), "GZIP").await.expect(201);
    send(br#"{"name":"a"}"#.to_vec(), "identity").await.expect(201);
    let mut corrupt = good.clone();
    corrupt[12] ^= 0x40;
    send(corrupt, "gzip").await.failure(400);
    send(good[..good.len() - 3].to_vec(), "gzip").await.failure(400);
    send(b"{}".to_vec(), "gzip").await.failure(400);
    for coding in ["br", "deflate", "gzip, gzip"] {
        send(good.clone(), coding).await.failure(415);
    }
    assert_eq!(server.how_many().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_05_and_06_one_put() {
    let server = Server::start().await;
    let file = server.declare(json!({ "name": "a.bin", "mimeType": "text/csv" })).await;
    let id = file["id"].as_i64().unwrap();
    let url = file["uploadUrl"].as_str().unwrap();
    let call = server
        .bare("PUT", url)
        .header("Authorization", "Bearer nonsense")
        .header("x-cdp-sdk", "CognitePythonSDK:8.22.0");
    let reply = call.header("Content-Type", "image/png").body(b"a,b".to_vec()).send().await.expect(200);
    reply.identified();
    let shown = server.by_id(id).await;
    assert_eq!(shown["uploaded"], true);
    assert_eq!(shown["uploadedTime"], shown["lastUpdatedTime"]);
    let got = server.download(id).await.expect(200);
    assert_eq!((got.body.as_slice(), got.header("content-type")), (&b"a,b"[..], Some("text/csv")));
    // In chunks, without a length.
    let body = noise(300_000);
    let chunks = body.chunks(70_000).map(|chunk| Ok(bytes::Bytes::copy_from_slice(chunk))).collect::<Vec<_>>();
    let reply = crate::aitronos::streamed(&server.http, url, "", futures_util::stream::iter(chunks)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(server.download(id).await.body, body);
    // An empty file.
    server.bare("PUT", url).header("Content-Length", "0").body(Vec::new()).send().await.expect(200);
    let empty = server.download(id).await.expect(200);
    assert_eq!((empty.body.len(), empty.header("content-length")), (0, Some("0")));
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_07_parts_in_any_order() {
    let server = Server::start().await;
    let parts = server.in_parts(json!({ "name": "a.bin", "externalId": "a" }), 3).await;
    assert!(!parts.id.is_empty() && parts.file.get("items").is_none());
    assert_eq!(parts.urls.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
    let bodies = [noise(FIVE), noise(FIVE + 7)[7..].to_vec(), b"the end".to_vec()];
    for part in [2, 0, 1] {
        parts.put(&server, part, &bodies[part]).await;
    }
    assert_eq!(server.by_id(parts.number()).await["uploaded"], false);
    let done = parts.complete(&server).await.expect(200);
    done.identified();
    assert_eq!(done.text(), "{}");
    assert_eq!(server.by_id(parts.number()).await["uploaded"], true);
    let got = server.download(parts.number()).await.expect(200);
    assert_eq!(digest(&got.body), digest(&bodies.concat()));
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_08_and_09_links_of_files_that_are_there() {
    let server = Server::start().await;
    let id = server.with_content(json!({ "name": "a", "externalId": "x" }), b"old").await;
    let node = json!({ "space": "s", "externalId": "n" });
    server.admin(&["node", "create", "--tenant", &server.tenant, "--space", "s", "n"]).await;
    for which in [json!({ "externalId": "x" }), json!({ "id": id }), json!({ "instanceId": node })] {
        let body = json!({ "items": [which] });
        let items = server.on_files("/multiuploadlink?parts=3", &body).send().await.items();
        assert_eq!((items.len(), items[0]["uploadUrls"].as_array().unwrap().len()), (1, 3));
        if which.get("instanceId").is_none() {
            assert_eq!(items[0]["id"], id);
        }
        let items = server.on_files("/uploadlink", &body).send().await.items();
        assert_eq!(items.len(), 1);
        assert!(items[0]["uploadUrl"].is_string() && items[0]["uploadId"].is_null());
    }
    // The old content is there until the new one is.
    let items = server.on_files("/uploadlink", json!({ "items": [{ "id": id }] })).send().await.items();
    assert_eq!(server.download(id).await.body, b"old");
    let url = items[0]["uploadUrl"].as_str().unwrap().to_owned();
    server.bare("PUT", &url).body(b"new".to_vec()).send().await.expect(200);
    assert_eq!(server.download(id).await.body, b"new");
    // A node's file comes in parts as well.
    let body = json!({ "items": [{ "instanceId": node }] });
    let parts = Parts::of(server.on_files("/multiuploadlink?parts=1", &body).send().await.items()[0].clone());
    parts.put(&server, 0, b"of a node").await;
    let complete = json!({ "instanceId": node, "uploadId": parts.id });
    assert_eq!(server.on_files("/completemultipartupload", complete).send().await.expect(200).text(), "{}");
    assert_eq!(server.download(parts.number()).await.body, b"of a node");
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_10_download_links() {
    let server = Server::start().await;
    let id = server
        .with_content(json!({ "name": "Größe.txt", "externalId": "x", "mimeType": "text/plain" }), b"0123456789")
        .await;
    let link = |which: Value| {
        let server = &server;
        async move { server.on_files("/downloadlink", json!({ "items": [which] })).send().await.items()[0].clone() }
    };
    let by_external = link(json!({ "externalId": "x" })).await;
    let keys = |link: &Value| link.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&by_external), ["downloadUrl", "externalId"]);
    let by_id = link(json!({ "id": id })).await;
    assert_eq!(keys(&by_id), ["downloadUrl", "id"]);
    let url = by_id["downloadUrl"].as_str().unwrap();
    let get = |headers: &[(&str, &str)]| {
        headers.iter().fold(server.bare("GET", url), |call, (name, value)| call.header(name, value)).send()
    };
    let whole = get(&[("Accept-Encoding", "gzip, deflate"), ("Authorization", "Bearer x")]).await.expect(200);
    whole.identified();
    assert_eq!(whole.body, b"0123456789");
    assert_eq!((whole.header("content-type"), whole.header("content-encoding")), (Some("text/plain"), None));
    assert!(
        whole
            .header("content-disposition")
            .unwrap()
            .starts_with("attachment; filename=\"Gr__e.txt\"; filename*=UTF-8''")
    );
    assert_eq!(
        (whole.header("accept-ranges"), whole.header("x-content-type-options")),
        (Some("bytes"), Some("nosniff"))
    );
    assert!(whole.header("content-security-policy").unwrap().starts_with("sandbox"));
    let part = get(&[("Range", "bytes=0-0")]).await.expect(206);
    assert_eq!((part.body.as_slice(), part.header("content-range")), (&b"0"[..], Some("bytes 0-0/10")));
    get(&[("Range", "bytes=10-")]).await.expect(416);
    let etag = whole.header("etag").unwrap();
    assert_eq!(get(&[("Range", "bytes=1-2"), ("If-Range", etag)]).await.expect(206).body, b"12");
    get(&[("Range", "bytes=1-2"), ("If-Range", "\"x\"")]).await.expect(200);
    let head = server.bare("HEAD", url).send().await.expect(200);
    assert_eq!((head.body.len(), head.header("content-length")), (0, Some("10")));
    server.bare("PUT", url).body(b"x".to_vec()).send().await.failure(405);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_11_13_and_14_small_parts_and_repetitions() {
    let server = Server::start().await;
    let one = server.in_parts(json!({ "name": "one" }), 1).await;
    one.put(&server, 0, b"x").await;
    one.complete(&server).await.expect(200);
    let before = server.by_id(one.number()).await;
    server.clock.advance(Duration::from_secs(5));
    assert_eq!(one.complete(&server).await.expect(200).text(), "{}");
    assert_eq!(server.by_id(one.number()).await, before);
    let empty = server.in_parts(json!({ "name": "empty" }), 1).await;
    server.bare("PUT", &empty.urls[0]).header("Content-Length", "0").body(Vec::new()).send().await.expect(200);
    empty.complete(&server).await.expect(200);
    // Exactly five mebibytes are enough, and the last bytes of a part win.
    let two = server.in_parts(json!({ "name": "two" }), 2).await;
    two.put(&server, 0, &vec![1; FIVE]).await;
    two.put(&server, 1, b"end").await;
    two.put(&server, 0, &vec![2; FIVE]).await;
    two.complete(&server).await.expect(200);
    assert_eq!(server.download(two.number()).await.body, [vec![2; FIVE], b"end".to_vec()].concat());
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_12_overwriting() {
    let server = Server::start().await;
    let body = json!({ "name": "a", "externalId": "x", "source": "s", "metadata": { "a": "1" }, "assetIds": [1] });
    let id = server.with_content(body, b"old").await;
    let again = json!({ "name": "b", "externalId": "x", "directory": "/d", "metadata": { "b": "2" } });
    let reply = server.on_files("/?overwrite=True", &again).send().await.expect(201);
    let file = reply.json();
    assert_eq!((&file["id"], &file["uploaded"]), (&json!(id), &json!(true)), "the state before the upload");
    assert_eq!((&file["name"], &file["directory"], &file["source"]), (&json!("b"), &json!("/d"), &json!("s")));
    assert_eq!((&file["metadata"], &file["assetIds"]), (&json!({ "b": "2" }), &json!([1])));
    assert_eq!(server.download(id).await.body, b"old");
    // A download that runs ends on the old bytes: its link was asked for before, its file is open.
    server.bare("PUT", file["uploadUrl"].as_str().unwrap()).body(b"new".to_vec()).send().await.expect(200);
    assert_eq!(server.download(id).await.body, b"new");
    let parts = server.on_files("/initmultipartupload?parts=1&overwrite=true", &again).send().await.expect(201);
    let parts = Parts::of(parts.json());
    assert_eq!(parts.number(), id);
    parts.put(&server, 0, b"in parts").await;
    assert_eq!(server.download(id).await.body, b"new");
    parts.complete(&server).await.expect(200);
    assert_eq!(server.download(id).await.body, b"in parts");
    // Without an external id there is nothing to overwrite.
    server.on_files("?overwrite=true", json!({ "name": "b" })).send().await.expect(201);
    assert_eq!(server.how_many().await, 2);
    // A node's file is not overwritten.
    server.admin(&["node", "create", "--tenant", &server.tenant, "--space", "s", "n"]).await;
    let update = json!({ "items": [{ "instanceId": { "space": "s", "externalId": "n" }, "update": { "externalId": { "set": "n" } } }] });
    server.on_files("/update", update).send().await.expect(200);
    server.on_files("?overwrite=true", json!({ "name": "b", "externalId": "n" })).send().await.failure(400);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_28_and_30_bad_numbers_of_parts() {
    let server = Server::start().await;
    for query in ["", "?parts=", "?parts=0", "?parts=-1", "?parts=251", "?parts=abc", "?parts=1.5"] {
        server.on_files(&format!("/initmultipartupload{query}"), json!({ "name": "a" })).send().await.names("parts");
    }
    let body = json!({ "items": [{ "name": "a" }] });
    server.on_files("/initmultipartupload?parts=1", body).send().await.names("items");
    let both = json!({ "items": [{ "instanceId": { "space": "s", "externalId": "n" } }], "name": "a" });
    server.on_files("/initmultipartupload?parts=1", both).send().await.names("items");
    assert_eq!(server.how_many().await, 0);
    let most = server.in_parts(json!({ "name": "a" }), 250).await;
    assert_eq!(most.urls.len(), 250);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_29_bad_links() {
    let server = Server::start().await;
    let id = server.declare(json!({ "name": "a", "externalId": "x" })).await["id"].as_i64().unwrap();
    for path in ["/multiuploadlink?parts=2", "/uploadlink"] {
        for body in [
            json!({ "items": [] }),
            json!({ "items": [{ "id": id }, { "externalId": "x" }] }),
            json!({ "name": "a" }),
            json!({ "items": [{ "id": id, "externalId": "x" }] }),
            json!({ "items": [{}] }),
            json!({ "items": ["x"] }),
            json!({ "items": [{ "id": "1" }] }),
            json!({ "items": [{ "instanceId": { "space": "s" } }] }),
        ] {
            server.on_files(path, body).send().await.failure(400);
        }
        for unknown in [
            json!({ "id": 999_999 }),
            json!({ "externalId": "y" }),
            json!({ "instanceId": { "space": "s", "externalId": "y" } }),
        ] {
            let error = server.on_files(path, json!({ "items": [unknown] })).send().await.failure(400);
            assert_eq!(error["missing"], json!([unknown]));
        }
    }
    server.on_files("/multiuploadlink", json!({ "items": [{ "id": id }] })).send().await.names("parts");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_31_and_32_parts_that_are_missing_or_too_small() {
    let server = Server::start().await;
    let parts = server.in_parts(json!({ "name": "a" }), 3).await;
    parts.put(&server, 0, &vec![1; FIVE]).await;
    parts.put(&server, 2, b"end").await;
    let error = parts.complete(&server).await.failure(400);
    assert!(error["message"].as_str().unwrap().contains('2'), "{error}");
    parts.put(&server, 1, &vec![2; FIVE - 1]).await;
    parts.complete(&server).await.failure(400);
    assert_eq!(server.by_id(parts.number()).await["uploaded"], false);
    parts.put(&server, 1, &vec![2; FIVE]).await;
    parts.complete(&server).await.expect(200);
    assert_eq!(server.download(parts.number()).await.body.len(), 2 * FIVE + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_33_bad_completions() {
    let server = Server::start().await;
    let (one, other) = (
        server.in_parts(json!({ "name": "a", "externalId": "x" }), 1).await,
        server.in_parts(json!({ "name": "b" }), 1).await,
    );
    one.put(&server, 0, b"x").await;
    let complete = |body: Value| server.on_files("/completemultipartupload", body).send();
    for id in ["", "x", "AAAAAAAAAAAAAAAAAAAAAA==", other.id.as_str()] {
        complete(json!({ "id": one.number(), "uploadId": id })).await.names("uploadId");
    }
    complete(json!({ "id": one.number() })).await.names("uploadId");
    complete(json!({ "id": one.number(), "uploadId": 5 })).await.names("uploadId");
    complete(json!({ "uploadId": one.id })).await.failure(400);
    complete(json!({ "id": one.number(), "externalId": "x", "uploadId": one.id })).await.failure(400);
    let error = complete(json!({ "id": 999_999, "uploadId": one.id })).await.failure(400);
    assert_eq!(error["missing"], json!([{ "id": 999_999 }]));
    let theirs = server.neighbour().await;
    let body = json!({ "id": one.number(), "uploadId": one.id });
    server.on_files("/completemultipartupload", &body).bearer(&theirs.key).send().await.failure(401);
    let path = format!("/api/v1/projects/{}/files/completemultipartupload", theirs.tenant);
    server.call("POST", path).bearer(&theirs.key).json(&body).send().await.failure(400);
    assert_eq!(server.by_id(one.number()).await["uploaded"], false);
    one.complete(&server).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_34_and_35_bodies_that_are_cut_off() {
    let mut server = Server::start().await;
    let id = server.with_content(json!({ "name": "a" }), b"good").await;
    let whole = server.on_files("/uploadlink", json!({ "items": [{ "id": id }] })).send().await.items()[0]["uploadUrl"]
        .as_str()
        .unwrap()
        .to_owned();
    let parts = server.in_parts(json!({ "name": "b" }), 1).await;
    let cut = async |server: &Server, url: &str| {
        let path = url.splitn(4, '/').nth(3).unwrap();
        let head = format!("PUT /{path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 200000\r\n\r\n", server.address);
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
        drop(stream);
    };
    cut(&server, &whole).await;
    cut(&server, &parts.urls[0]).await;
    parts.complete(&server).await.failure(400);
    parts.put(&server, 0, b"a good one").await;
    cut(&server, &parts.urls[0]).await;
    // A stop waits for every request to end.
    server.restart().await;
    assert_eq!(server.download(id).await.body, b"good");
    parts.complete(&server).await.expect(200);
    assert_eq!(server.download(parts.number()).await.body, b"a good one");
    // What a client sends that reads its stream a second time: an empty chunked body. It gets the first answer.
    let empty = || crate::aitronos::streamed(&server.http, &whole, "", futures_util::stream::empty());
    assert_eq!(empty().await.status, 400);
    server.bare("PUT", &whole).body(b"better".to_vec()).send().await.expect(200);
    assert_eq!(empty().await.status, 200);
    assert_eq!(server.download(id).await.body, b"better");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_36_bodies_that_are_too_long() {
    let server = Server::start().await;
    let file = server.declare(json!({ "name": "a" })).await;
    let parts = server.in_parts(json!({ "name": "b" }), 2).await;
    for (url, limit) in [(file["uploadUrl"].as_str().unwrap(), 5_368_709_120_u64), (&parts.urls[0], 4_194_304_000)] {
        let path = url.splitn(4, '/').nth(3).unwrap();
        let head = format!(
            "PUT /{path} HTTP/1.1\nHost: {{host}}\nContent-Length: {}\nExpect: 100-continue\nConnection: close",
            limit + 1
        );
        server.wire(&head, b"").await.failure(413);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_37_links_that_do_not_hold() {
    let server = Server::start().await;
    let id = server.with_content(json!({ "name": "a" }), b"content").await;
    let file = server.declare(json!({ "name": "b" })).await;
    let upload = file["uploadUrl"].as_str().unwrap().to_owned();
    let parts = server.in_parts(json!({ "name": "c" }), 2).await;
    for method in ["GET", "POST", "DELETE"] {
        server.bare(method, &upload).send().await.failure(405);
        server.bare(method, &parts.urls[0]).send().await.failure(405);
    }
    let link = async |query: &str| {
        let path = format!("/downloadlink{query}");
        let links = server.on_files(&path, json!({ "items": [{ "id": id }] })).send().await.items();
        links[0]["downloadUrl"].as_str().unwrap().to_owned()
    };
    let (short, long) = (link("").await, link("?extendedExpiration=True").await);
    // Behind host and mount, every character counts.
    for (method, url, from) in
        [("PUT", &upload, "/part/cognite/"), ("PUT", &parts.urls[1], "/part/cognite/"), ("GET", &short, "/download/")]
    {
        let start = url.find(from).expect("the mount") + from.len();
        for at in start..url.len() {
            let mut other = url.clone().into_bytes();
            if [b'/', b'?', b'&', b'='].contains(&other[at]) {
                continue;
            }
            other[at] = if other[at] == b'1' { b'2' } else { b'1' };
            let reply = server.bare(method, std::str::from_utf8(&other).unwrap()).body(b"x".to_vec()).send().await;
            assert_eq!(reply.status, 403, "character {at} of {url}: {}", reply.text());
            reply.failure(403);
        }
    }
    for url in [&upload, &short] {
        assert!(!url.contains("/v1/files/gcs_proxy/"));
    }
    server.clock.advance(Duration::from_secs(31));
    server.bare("GET", &short).send().await.failure(403);
    server.bare("GET", &long).send().await.expect(200);
    server.clock.advance(Duration::from_secs(3600 - 30));
    server.bare("GET", &long).send().await.failure(403);
    server.clock.advance(Duration::from_secs(7 * 24 * 3600 - 3600 - 60));
    server.bare("PUT", &upload).body(b"x".to_vec()).send().await.expect(200);
    server.clock.advance(Duration::from_secs(61));
    server.bare("PUT", &upload).body(b"x".to_vec()).send().await.failure(403);
    server.bare("PUT", &parts.urls[0]).body(b"x".to_vec()).send().await.failure(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_39_parts_after_the_end() {
    let server = Server::start().await;
    let parts = server.in_parts(json!({ "name": "a" }), 1).await;
    parts.put(&server, 0, b"x").await;
    parts.complete(&server).await.expect(200);
    server.bare("PUT", &parts.urls[0]).body(b"y".to_vec()).send().await.failure(404);
    let gone = server.in_parts(json!({ "name": "b" }), 1).await;
    gone.put(&server, 0, b"x").await;
    let whole = server.declare(json!({ "name": "c" })).await;
    let url = whole["uploadUrl"].as_str().unwrap();
    server.bare("PUT", url).body(b"x".to_vec()).send().await.expect(200);
    let delete = json!({ "items": [{ "id": gone.number() }, { "id": whole["id"] }] });
    server.on_files("/delete", delete).send().await.expect(200);
    server.bare("PUT", &gone.urls[0]).body(b"y".to_vec()).send().await.failure(404);
    server.bare("PUT", url).body(b"y".to_vec()).send().await.failure(404);
    gone.complete(&server).await.failure(400);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_40_downloads_that_can_t_be() {
    let server = Server::start().await;
    let id = server.declare(json!({ "name": "a" })).await["id"].as_i64().unwrap();
    let error = server.on_files("/downloadlink", json!({ "items": [{ "id": id }] })).send().await.failure(400);
    assert_eq!(error["message"], "Files not uploaded");
    let many: Vec<_> = (0..101).map(|n| json!({ "id": n + 1 })).collect();
    server.on_files("/downloadlink", json!({ "items": many })).send().await.names("items");
    let error = server.on_files("/downloadlink", json!({ "items": [{ "externalId": "x" }] })).send().await.failure(400);
    assert_eq!(error["missing"], json!([{ "externalId": "x" }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_48_and_49_at_once() {
    let server = Server::start().await;
    for round in 0..5 {
        let body = json!({ "name": "a", "externalId": format!("x{round}") });
        let make = || server.on_files("", &body).send();
        let (one, two) = tokio::join!(make(), make());
        let mut statuses = [one.status, two.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409]);
        let parts = server.in_parts(json!({ "name": "a" }), 1).await;
        parts.put(&server, 0, b"x").await;
        let (one, two) = tokio::join!(parts.complete(&server), parts.complete(&server));
        assert_eq!((one.expect(200).text(), two.expect(200).text()), ("{}".into(), "{}".into()));
        assert_eq!(server.download(parts.number()).await.body, b"x");
    }
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_03_a_small_body_that_unpacks_to_much() {
    let mut server = crate::harness::Binary::start("").await;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let zeros = vec![0; M as usize];
    for _ in 0..1024 {
        std::io::Write::write_all(&mut encoder, &zeros).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    let url = server.url(&format!("/api/v1/projects/{}/files", server.tenant));
    for _ in 0..5 {
        let request = server.http.post(&url).bearer_auth(&server.key).header("Content-Type", "application/json");
        let request = request.header("Content-Encoding", "gzip").body(bomb.clone());
        Reply::read(request.send().await.expect("an answer")).await.failure(413);
    }
    server.stays_small();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_38_a_download_outlives_its_link() {
    let server = Server::start().await;
    let body = noise(24 * M as usize);
    let id = server.with_content(json!({ "name": "a", "externalId": "x" }), &body).await;
    let links = server.on_files("/downloadlink", json!({ "items": [{ "id": id }] })).send().await.items();
    let url = links[0]["downloadUrl"].as_str().unwrap();
    server.clock.advance(Duration::from_secs(28));
    // Its beginning is read, and the rest waits in the server.
    let mut running = server.http.get(url).send().await.unwrap();
    let mut got = running.chunk().await.unwrap().expect("a beginning").to_vec();
    server.clock.advance(Duration::from_secs(300));
    // Meanwhile the content is replaced: the download ends on the old bytes.
    let again = server.on_files("?overwrite=true", json!({ "name": "a", "externalId": "x" })).send().await.expect(201);
    let upload = again.json()["uploadUrl"].as_str().unwrap().to_owned();
    server.bare("PUT", &upload).body(b"new".to_vec()).send().await.expect(200);
    server.clock.advance(Duration::from_secs(2 * 3600));
    let unlinked = landfall::upload::sweep::unlink(server.engine(), server.clock.now()).await.unwrap();
    assert!(unlinked <= 1, "the server's own sweeper may be faster");
    while let Some(chunk) = running.chunk().await.unwrap() {
        got.extend_from_slice(&chunk);
    }
    assert_eq!(digest(&got), digest(&body));
    server.bare("GET", url).send().await.failure(403);
    assert_eq!(server.download(id).await.body, b"new");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_50_a_crash_between_parts_and_completion() {
    let mut server = crate::harness::Binary::start("").await;
    let files = format!("/api/v1/projects/{}/files", server.tenant);
    let made = server.send("POST", &format!("{files}/initmultipartupload?parts=2"), Some(json!({ "name": "a" }))).await;
    let parts = Parts::of(made.expect(201).json());
    let bodies = [noise(FIVE), b"end".to_vec()];
    for (url, body) in parts.urls.iter().zip(&bodies) {
        assert_eq!(server.http.put(url).body(body.clone()).send().await.unwrap().status(), 200);
    }
    server.crash().await;
    let complete = json!({ "id": parts.number(), "uploadId": parts.id });
    let path = format!("{files}/completemultipartupload");
    server.send("POST", &path, Some(complete.clone())).await.expect(200);
    server.crash().await;
    assert_eq!(server.send("POST", &path, Some(complete)).await.expect(200).text(), "{}");
    let ask = json!({ "items": [{ "id": parts.number() }] });
    let links = server.send("POST", &format!("{files}/downloadlink"), Some(ask)).await.items();
    let got = server.http.get(links[0]["downloadUrl"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(digest(&got.bytes().await.unwrap()), digest(&bodies.concat()));
    // Check 54: neither the key nor a proof is in the log, at any level.
    let log = server.log();
    assert!(!log.contains(&server.key));
    for url in parts.urls.iter().chain([&links[0]["downloadUrl"].as_str().unwrap().to_owned()]) {
        let secret = url.rsplit('=').next().unwrap();
        assert!(secret.len() >= 16 && !log.contains(secret), "{secret}");
    }
    server.leaves_everything_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_51_many_large_parts_five_at_a_time() {
    const PARTS: usize = 250;
    let mut server = crate::harness::Binary::start("").await;
    let files = format!("/api/v1/projects/{}/files", server.tenant);
    let path = format!("{files}/initmultipartupload?parts={PARTS}");
    let parts = Parts::of(server.send("POST", &path, Some(json!({ "name": "a" }))).await.expect(201).json());
    assert_eq!(parts.urls.len(), PARTS);
    server.put_five_at_a_time(&parts.urls, FIVE as u64).await;
    let complete = json!({ "id": parts.number(), "uploadId": parts.id });
    server.send("POST", &format!("{files}/completemultipartupload"), Some(complete)).await.expect(200);
    let ask = json!({ "items": [{ "id": parts.number() }] });
    let links = server.send("POST", &format!("{files}/downloadlink"), Some(ask)).await.items();
    let head = server.http.head(links[0]["downloadUrl"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], (PARTS * FIVE).to_string().as_str());
    server.stays_small();
    server.leaves_everything_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_52_no_room() {
    let server = Server::start().await;
    let id = server.with_content(json!({ "name": "a" }), b"old").await;
    let items = server.on_files("/uploadlink", json!({ "items": [{ "id": id }] })).send().await.items();
    let url = items[0]["uploadUrl"].as_str().unwrap();
    server.admin(&["tenant", "quota", &server.tenant, "--bytes", "10"]).await;
    server.bare("PUT", url).body(vec![0; 100]).send().await.failure(507);
    assert_eq!(server.download(id).await.body, b"old");
    let made = server.how_many().await;
    server.admin(&["tenant", "quota", &server.tenant, "--sessions", "0"]).await;
    server.on_files("", json!({ "name": "b", "externalId": "b" })).send().await.failure(413);
    assert_eq!(server.how_many().await, made, "neither the file nor its upload is there");
    server.admin(&["tenant", "quota", &server.tenant, "--sessions", "none", "--bytes", "none"]).await;
    server.bare("PUT", url).body(vec![0; 100]).send().await.expect(200);
}

/// A disk that is really full is in the crash tests.
#[tokio::test(flavor = "multi_thread")]
async fn check_52_a_disk_that_is_nearly_full() {
    if in_bucket() {
        return;
    }
    let mut server = Server::start().await;
    let id = server.with_content(json!({ "name": "a" }), b"old").await;
    let items = server.on_files("/uploadlink", json!({ "items": [{ "id": id }] })).send().await.items();
    let url = items[0]["uploadUrl"].as_str().unwrap();
    let parts = server.in_parts(json!({ "name": "b" }), 1).await;
    let before = server.by_id(id).await;
    let files = server.how_many().await;
    let enough = std::mem::replace(&mut server.config.free_space_min, 1 << 60);
    server.restart().await;
    let full = |reply: Reply| {
        assert!(reply.header("retry-after").is_none(), "{reply:?}");
        assert_eq!(reply.failure(507), json!({ "code": 507, "message": reply.json()["error"]["message"] }));
    };
    full(server.bare("PUT", url).body(b"new".to_vec()).send().await);
    full(server.bare("PUT", url).header("Content-Length", "0").body(Vec::new()).send().await);
    full(server.bare("PUT", &parts.urls[0]).body(b"new".to_vec()).send().await);
    full(server.on_files("", json!({ "name": "c" })).send().await);
    parts.complete(&server).await.failure(400);
    assert_eq!(server.how_many().await, files);
    assert_eq!(server.download(id).await.body, b"old");
    assert_eq!(server.by_id(id).await, before);
    server.config.free_space_min = enough;
    server.restart().await;
    server.bare("PUT", url).body(b"new".to_vec()).send().await.expect(200);
    assert_eq!(server.download(id).await.body, b"new");
    parts.put(&server, 0, b"a part").await;
    parts.complete(&server).await.expect(200);
    server.leaves_everything_whole().await;
}
