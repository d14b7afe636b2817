//! Content and requests that mean harm.

use std::io::Write as _;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::{Binary, Server, base64, encode, on_postgres, zlib};

/// One gibibyte of zeros in about a megabyte.
fn bomb() -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..1024 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap()
}

impl Binary {
    fn source_path(&self, rest: &str) -> String {
        format!("/push/v1/organizations/{}/sources/{}/{rest}", self.tenant, self.source)
    }

    /// Waits until a push is done; its record.
    async fn followed(&self, request_id: &str, seconds: u64) -> Value {
        for _ in 0..seconds * 10 {
            let push = self.send("GET", &format!("/landfall/v1/pushes/{request_id}"), None).await.expect(200).json();
            if push["state"] == "done" || push["state"] == "failed" {
                return push;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("the push {request_id} does not end within {seconds} s");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decompression_bombs() {
    let mut server = Binary::start("").await;
    let bytes = bomb();
    assert!(bytes.len() < 2 << 20, "{}", bytes.len());
    let container = server.container().await;
    let stream = futures_util::stream::iter([Ok(Bytes::from(bytes.clone()))]);
    server.put(&container.upload_uri, Some(bytes.len() as u64), stream).await.expect(200);
    let body = json!({ "fileExtension": ".txt", "compressedBinaryDataFileId": container.file_id, "title": "bomb" });
    let reply =
        server.send("PUT", &server.source_path("documents?documentId=http://bomb"), Some(body)).await.expect(202);
    let inline = json!({ "fileExtension": ".html", "compressedBinaryData": base64(&bytes), "title": "bomb" });
    let path = server.source_path("documents?documentId=http://inline");
    let second = server.send("PUT", &path, Some(inline)).await.expect(202);
    // A bomb in a bomb.
    let twice = json!({ "fileExtension": ".txt", "compressedBinaryData": base64(&zlib(&bytes)) });
    let path = server.source_path("documents?documentId=http://twice");
    let third = server.send("PUT", &path, Some(twice)).await.expect(202);
    for reply in [reply, second, third] {
        let push = server.followed(reply.json()["requestId"].as_str().unwrap(), 120).await;
        assert_eq!(push["state"], "done", "{push}");
    }
    // The server lives, the item is there with its metadata, and a harmless one is still extracted.
    let path = format!("/landfall/v1/sources/{}/items?query=bomb", server.source);
    let found = server.send("GET", &path, None).await.expect(200).json();
    assert_eq!(found["items"].as_array().unwrap().len(), 2, "{found}");
    let fine = json!({ "fileExtension": ".txt", "data": "harmless words" });
    let reply =
        server.send("PUT", &server.source_path("documents?documentId=http://fine"), Some(fine)).await.expect(202);
    server.followed(reply.json()["requestId"].as_str().unwrap(), 60).await;
    let path = format!("/landfall/v1/sources/{}/items?query=harmless", server.source);
    assert_eq!(server.send("GET", &path, None).await.json()["items"].as_array().unwrap().len(), 1);
    server.stays_small();
}

/// Decoding on request is bounded as well: the answer may be cut off or refused, the server stays small.
#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_not_decoded_in_memory() {
    let mut server = Binary::start("").await;
    let body = json!({ "compressedBinaryData": base64(&bomb()) });
    let path = server.source_path("documents?documentId=http://bomb");
    let reply = server.send("PUT", &path, Some(body)).await.expect(202);
    server.followed(reply.json()["requestId"].as_str().unwrap(), 120).await;
    let path = format!("/landfall/v1/sources/{}/item/content?document_id=http://bomb&decoded=true", server.source);
    let mut reply = server.http.get(server.url(&path)).bearer_auth(&server.key).send().await.unwrap();
    let status = reply.status().as_u16();
    assert!([200, 413, 422].contains(&status), "{status}");
    let mut seen = 0;
    while let Ok(Some(chunk)) = reply.chunk().await {
        seen += chunk.len();
        assert!(status != 200 || chunk.iter().all(|b| *b == 0), "zeros");
    }
    assert!(seen <= 1 << 30, "{seen}");
    server.stays_small();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_pdf() {
    let server = Server::start().await;
    // A page tree that is its own child, a stream that claims to be longer than the file, and numbers without end.
    let circle = "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[2 0 R 2 0 R]/Count 2>>endobj\ntrailer<</Root 1 0 R>>\n";
    let long = "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Length 99999999999>>stream\nx\ntrailer<</Root 1 0 R/Size 99999999>>\nstartxref\n99999999999\n%%EOF";
    let nested = format!("%PDF-1.4\n1 0 obj{}endobj\ntrailer<</Root 1 0 R>>", "[".repeat(200_000));
    for (at, content) in [circle.to_owned(), long.to_owned(), nested].into_iter().enumerate() {
        let id = format!("http://pdf/{at}");
        let push = server.item(&id, json!({ "fileExtension": ".pdf", "title": "hostile", "data": content })).await;
        assert_eq!(push["state"], "done", "{push}");
        let item = server.read(&id).await;
        assert!(["ready", "failed"].contains(&item["state"].as_str().unwrap()), "{item}");
        assert_eq!(server.content(&id, false).await, content.as_bytes());
    }
    let found = server.get(&format!("/sources/{}/items?query=hostile", server.source)).await;
    assert_eq!(found["items"].as_array().unwrap().len(), 3, "findable by their metadata: {found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_mean_harm() {
    let server = Server::start().await;
    let put = |body: String| server.call("PUT", server.src("documents?documentId=http://a")).json(body);
    for body in [
        "[".repeat(1_000_000),
        format!("{{\"a\":{}", "{\"a\":".repeat(500_000)),
        format!("{{\"a\":{}}}", "9".repeat(400).repeat(2) + "e99999"),
        r#"{"compressedBinaryData":"AAAA*AAA"}"#.into(),
        r#"{"title":"a","TITLE":"b"}"#.into(),
        r#"{"title":"\uD800"}"#.into(),
        format!("{{{}}}", (0..3).map(|_| "\"same\":1").collect::<Vec<_>>().join(",")),
        format!("{{\"a\":[{}1]}}", "1,".repeat(1_000_001)),
    ] {
        let shown: String = body.chars().take(60).collect();
        let before = server.state().await;
        let reply = put(body).send().await;
        assert!([400, 413].contains(&reply.status), "{shown}: {}", reply.text());
        server.unchanged(&before).await;
    }
    for (content, code) in [
        (r#"{"addOrUpdate":[{"documentId":"http://a","compressedBinaryData":"!"}]}"#.to_owned(), 400),
        (format!("{{\"addOrUpdate\":[{}", "[".repeat(1_000_000)), 400),
        (format!("{{\"{}\":1}}", "k".repeat(1_000_000)), 400),
        (r#"{"addOrUpdate":[{"documentId":"http://a","documentid":"http://b"}]}"#.to_owned(), 400),
    ] {
        let file = server.filled(content).await;
        let call = server.call("PUT", server.src(&format!("documents/batch?fileId={file}")));
        call.refused(code, "INVALID_JSON").await;
    }
}

/// A million items, made while they are sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_items_in_one_batch() {
    // A row costs PostgreSQL the way there and back; what is looked for shows with fewer as well.
    let items: u64 = if on_postgres() { 50_000 } else { 1_000_000 };
    let mut server = Binary::start("").await;
    let container = server.container().await;
    let pieces = (0..items / 1_000).map(move |piece| {
        let mut text = String::with_capacity(80_000);
        if piece == 0 {
            text.push_str("{\"addOrUpdate\":[");
        }
        for n in piece * 1_000..(piece + 1) * 1_000 {
            if n > 0 {
                text.push(',');
            }
            text.push_str(&format!("{{\"documentId\":\"http://m/{n:07}\",\"title\":\"number {n}\"}}"));
        }
        if (piece + 1) * 1_000 == items {
            text.push_str("]}");
        }
        Ok(Bytes::from(text))
    });
    server.put(&container.upload_uri, None, futures_util::stream::iter(pieces)).await.expect(200);
    let path = server.source_path(&format!("documents/batch?fileId={}", container.file_id));
    let reply = server.send("PUT", &path, None).await.expect(202);
    let id = reply.json()["requestId"].as_str().unwrap().to_owned();
    let mut applied = Value::Null;
    for _ in 0..900 {
        let push = server.send("GET", &format!("/landfall/v1/pushes/{id}"), None).await.expect(200).json();
        assert_ne!(push["state"], "failed", "{push}");
        applied = push["counts"]["added"].clone();
        if applied == items {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(applied, items);
    let usage = server.send("GET", "/landfall/v1/usage", None).await.expect(200).json();
    assert!(usage["sources"].to_string().contains(&format!("\"items\":{items}")), "{usage}");
    for n in [0, items / 2, items - 1] {
        let id = encode(&format!("http://m/{n:07}"));
        let path = format!("/landfall/v1/sources/{}/item?document_id={id}", server.source);
        let item = server.send("GET", &path, None).await.expect(200).json();
        assert_eq!(item["metadata"]["title"], format!("number {n}"), "{item}");
    }
    server.stays_small();
}

/// Names that lead elsewhere on a disk mean nothing, in whatever field they stand.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_elsewhere() {
    let server = Server::start().await;
    let outside = server.data().parent().unwrap().join("outside");
    for name in ["../../outside", "/etc/passwd", "..%2F..%2Foutside", "a\0b", "C:\\x", "con", "....//outside"] {
        let encoded = encode(name);
        let before = server.state().await;
        for (method, path) in [
            ("POST", format!("/push/v1/organizations/{encoded}/files")),
            ("PUT", server.org(&format!("sources/{encoded}/documents?documentId=http://a"))),
            ("PUT", server.src(&format!("documents/batch?fileId={encoded}"))),
            ("PUT", server.src(&format!("documents?documentId={encoded}"))),
            ("PUT", server.cat(&format!("stream/update?fileId={encoded}"))),
            ("POST", server.cat(&format!("stream/{encoded}/chunk"))),
            ("POST", server.cat(&format!("stream/{encoded}/close"))),
            ("GET", format!("/landfall/v1/sources/{encoded}/items")),
            ("GET", format!("/landfall/v1/pushes/{encoded}")),
            ("GET", format!("/landfall/v1/refusals/{encoded}")),
            ("GET", format!("/rest/organizations/{}/sources/{encoded}", server.tenant)),
            ("DELETE", format!("/landfall/v1/keys/{encoded}")),
            ("PUT", server.org(&format!("providers/{encoded}/permissions"))),
        ] {
            let call = server.call(method, path.clone());
            let call = if method == "PUT" { call.json("{}") } else { call };
            let status = call.send().await.status;
            assert!((400..500).contains(&status), "{method} {path}: {status}");
        }
        server.unchanged(&before).await;
        // Where any text will do, it is kept as text.
        let id = format!("file:///{encoded}");
        let body = json!({
            "documentId": id, "fileExtension": name, "parentId": name, "title": name, "data": "x",
            "permissions": [{ "allowedPermissions": [{ "identity": name, "identityType": "USER", "securityProvider": name }] }],
        });
        let push = server.batch(json!({ "addOrUpdate": [body] }).to_string()).await;
        assert_eq!((&push["state"], &push["counts"]["added"]), (&json!("done"), &json!(1)), "{push}");
        assert_eq!(server.read(&id).await["metadata"]["title"], name);
        let delete = server.src(&format!("documents?documentId={}", encode(&id)));
        server.call("DELETE", delete).pushed().await;
    }
    assert!(!outside.exists());
    let beside: Vec<_> = std::fs::read_dir(server.data().parent().unwrap()).unwrap().flatten().collect();
    assert_eq!(beside.len(), 1, "nothing beside the data directory: {beside:?}");
    // Paths that step up on the wire itself.
    for path in ["/push/../../etc/passwd", "/put/coveo/../../x", "//put", "/put/coveo/default/%2e%2e%2f"] {
        let head = format!("GET {path} HTTP/1.1\nHost: {{host}}\nConnection: close");
        let status = server.wire(&head, b"").await.status;
        assert!((400..500).contains(&status), "{path}: {status}");
    }
}

/// A good key is worth nothing in another organization, and another's ids are worth nothing with it.
#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_on_every_route() {
    let server = Server::start().await;
    let other = server.neighbour().await;
    server.item("http://a", json!({ "data": "mine" })).await;
    let mine = server.filled("{}").await;
    let opened = server.call("POST", server.cat("stream/open")).send().await.expect(201).json();
    let stream = opened["streamId"].as_str().unwrap().to_owned();
    server.call("PUT", server.rest("securityproviders/p")).json("{\"name\":\"p\"}").send().await.expect(200);
    let before = server.state().await;
    let routes = |org: &str, source: &str, catalog: &str| -> Vec<(&'static str, String)> {
        let base = format!("/push/v1/organizations/{org}");
        let rest = format!("/rest/organizations/{org}");
        vec![
            ("POST", format!("{base}/files")),
            ("PUT", format!("{base}/sources/{source}/documents?documentId=http://a")),
            ("DELETE", format!("{base}/sources/{source}/documents?documentId=http://a")),
            ("DELETE", format!("{base}/sources/{source}/documents/olderthan?orderingId=99999999999999&queueDelay=0")),
            ("PUT", format!("{base}/sources/{source}/documents/batch?fileId={mine}")),
            ("POST", format!("{base}/sources/{source}/status?statusType=REBUILD")),
            ("POST", format!("{base}/sources/{catalog}/stream/open")),
            ("POST", format!("{base}/sources/{catalog}/stream/{stream}/chunk")),
            ("POST", format!("{base}/sources/{catalog}/stream/{stream}/close")),
            ("PUT", format!("{base}/sources/{catalog}/stream/update?fileId={mine}")),
            ("PUT", format!("{base}/sources/{catalog}/stream/merge?fileId={mine}")),
            ("POST", format!("{base}/sources/{catalog}/stream/deleteolderthan/99999999999999?queueDelay=0")),
            ("PUT", format!("{base}/providers/p/permissions")),
            ("DELETE", format!("{base}/providers/p/permissions")),
            ("PUT", format!("{base}/providers/p/mappings")),
            ("PUT", format!("{base}/providers/p/permissions/batch?fileId={mine}")),
            ("DELETE", format!("{base}/providers/p/permissions/olderthan?orderingId=9&queueDelay=0")),
            ("GET", format!("{rest}/sources")),
            ("POST", format!("{rest}/sources")),
            ("GET", format!("{rest}/sources/pages")),
            ("GET", format!("{rest}/sources/{source}")),
            ("PUT", format!("{rest}/sources/{source}")),
            ("DELETE", format!("{rest}/sources/{source}")),
            ("GET", format!("{rest}/indexes/page/fields")),
            ("POST", format!("{rest}/indexes/fields/batch/create")),
            ("PUT", format!("{rest}/securityproviders/p")),
        ]
    };
    let send = |method: &'static str, path: String| {
        let call = server.call(method, path).bearer(&other.key);
        if method == "PUT" || method == "POST" { call.json("{}") } else { call }
    };
    for (method, path) in routes(&server.tenant, &server.source, &server.catalog) {
        send(method, path.clone()).send().await.error(403, "ACCESS_DENIED");
    }
    // In their own organization, with the first one's sources, containers and streams.
    for (method, path) in routes(&other.tenant, &server.source, &server.catalog) {
        if path.contains(&server.source) || path.contains(&server.catalog) || path.contains("/providers/") {
            let reply = send(method, path.clone()).send().await;
            assert!([404, 412].contains(&reply.status), "{method} {path}: {} {}", reply.status, reply.text());
        }
    }
    let path =
        format!("/push/v1/organizations/{}/sources/{}/documents/batch?fileId={mine}", other.tenant, other.source);
    server.call("PUT", path).bearer(&other.key).send().await.error(412, "INVALID_PARAMETER");
    server.unchanged(&before).await;
    assert_eq!(server.content("http://a", false).await, b"mine");
    server.call("PUT", server.src(&format!("documents/batch?fileId={mine}"))).pushed().await;
}

/// Why an upload URL did not hold is recorded for the tenant whose URL it is, and read by nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_refusals() {
    let server = Server::start().await;
    let other = server.neighbour().await;
    let upload = server.key_with(&server.tenant, "upload").await;
    let container = server.container().await;
    let uri = container.upload_uri.as_str();
    let kms = server
        .bare("PUT", uri)
        .header("Content-Type", "application/octet-stream")
        .header("x-amz-server-side-encryption", "aws:kms");
    let mut changed = uri.to_owned();
    let last = if changed.ends_with('0') { '1' } else { '0' };
    changed.pop();
    changed.push(last);
    for (call, rule, detail) in [
        (kms.body("x"), "signature", "x-amz-server-side-encryption"),
        (server.upload(&changed, "x"), "signature", ""),
        (server.upload(uri, "x").header("x-amz-acl", "private"), "", "x-amz-acl"),
    ] {
        let reply = call.denied().await;
        let id = ["x-amz-request-id", "x-request-id"].iter().find_map(|name| reply.header(name)).unwrap();
        let record = server.get(&format!("/refusals/{id}")).await;
        assert_eq!(record["status"], 403, "{record}");
        assert!(record["rule"].as_str().unwrap().contains(rule), "{record}");
        assert!(record["detail"].as_str().is_some_and(|d| !d.is_empty() && d.contains(detail)), "{record}");
        assert!(record["request"].as_str().unwrap().starts_with("PUT /put/"), "{record}");
        assert!(!record.to_string().contains("X-Amz-Signature"), "{record}");
        let ask = || server.native("GET", &format!("/refusals/{id}"));
        ask().bearer(&other.key).send().await.problem_with(404);
        ask().anonymous().send().await.problem_with(401);
        ask().bearer(&upload).send().await.expect(200);
    }
    server.clock.advance(std::time::Duration::from_secs(61 * 60));
    let late = server.upload(uri, "x").denied().await;
    let id = ["x-amz-request-id", "x-request-id"].iter().find_map(|name| late.header(name)).unwrap();
    assert_eq!(server.get(&format!("/refusals/{id}")).await["rule"], "expired");
    // Tickets that name another tenant: nothing is told to the one who is named.
    let forged = uri.replace(&format!("/{}/", server.tenant), &format!("/{}/", other.tenant));
    assert_ne!(forged, uri);
    let reply = server.upload(&forged, "x").denied().await;
    let id = ["x-amz-request-id", "x-request-id"].iter().find_map(|name| reply.header(name)).unwrap();
    server.native("GET", &format!("/refusals/{id}")).send().await.problem_with(404);
}

/// Whose call would it be? Nobody's; and both can read why.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_the_keys_of_two_tenants_is_nobodys() {
    let server = Server::start().await;
    let other = server.neighbour().await;
    let second = server.key_with(&server.tenant, "all").await;
    let calls = || {
        [
            server.native("GET", "/usage"),
            server.call("POST", server.org("files")),
            server.call("GET", format!("/v1/organizations/{}/files", server.tenant)),
            server.call("POST", format!("/v1/organizations/{}/files", server.tenant)),
        ]
    };
    for name in ["X-API-Key", "api-key", "Authorization"] {
        let value = |key: &str| if name == "Authorization" { format!("Bearer {key}") } else { key.to_owned() };
        for call in calls() {
            let before = server.state().await;
            let reply = call.header(name, &value(&other.key)).send().await.expect(401);
            server.unchanged(&before).await;
            let id = reply.header("x-request-id").unwrap();
            for (key, stranger) in [(&server.key, &other.tenant), (&other.key, &server.tenant)] {
                let record = server.native("GET", &format!("/refusals/{id}")).bearer(key).send().await.expect(200);
                let record = record.json();
                assert_eq!((&record["rule"], &record["status"]), (&json!("two_tenants"), &json!(401)), "{record}");
                assert!(
                    record["detail"].as_str().is_some_and(|detail| !detail.contains(stranger.as_str())),
                    "{record}"
                );
            }
        }
        for mine in [&server.key, &second] {
            server.native("GET", "/usage").header(name, &value(mine)).send().await.expect(200);
        }
        // One that holds nowhere is passed over.
        server
            .native("GET", "/usage")
            .header(name, &value("lf00000000-0000-0000-0000-000000000000"))
            .send()
            .await
            .expect(200);
    }
}

/// Whoever knows a tenant's name can have its upload URLs refused, and pushes out no record of those with a ticket.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_push_out_records_of_refusals() {
    let server = Server::start().await;
    let container = server.container().await;
    server.upload(&container.upload_uri, "x").send().await.expect(200);
    let told = |reply: &crate::harness::Reply| reply.header("x-request-id").unwrap().to_owned();
    // A signature that holds, and a body that does not keep its word.
    let reply =
        server.upload(&container.upload_uri, "y").header("Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA==").send().await;
    let mine = told(&reply.expect(400));
    let path = |n: usize| format!("/put/coveo/{}/{n:032x}?X-Amz-Signature=1", server.tenant);
    let first = told(&server.upload(&server.url(&path(0)), "x").denied().await);
    assert_eq!(server.get(&format!("/refusals/{first}")).await["rule"], "parameter_missing");
    let mut last = String::new();
    for n in 1..1_200 {
        let reply = server.bare("GET", &server.url(&path(n))).send().await;
        last = told(&reply.access_denied());
    }
    assert_eq!(server.get(&format!("/refusals/{mine}")).await["rule"], "digest_mismatch");
    server.get(&format!("/refusals/{last}")).await;
    server.native("GET", &format!("/refusals/{first}")).problem(404).await;
    // What is kept of a request is bounded, and no key stays in it.
    let long = format!("/put/coveo/{}/{}/{}", server.tenant, server.key, "x".repeat(9_000));
    let long = told(&server.upload(&server.url(&long), "x").denied().await);
    let record = server.get(&format!("/refusals/{long}")).await;
    let request = record["request"].as_str().unwrap();
    assert!(request.starts_with("PUT /put/coveo/") && request.len() < 300, "{request}");
    assert!(!record.to_string().contains(&server.key), "{record}");
}

/// What is refused before a handler sees it has the shape of the API that its path is of.
#[tokio::test(flavor = "multi_thread")]
async fn early_refusals_have_the_shape_of_their_path() {
    let server = Server::start_with(|c| c.public_url = Some("http://files.example.com/up".into())).await;
    let long = "x".repeat(17_000);
    for mount in ["/push/v1", "/v1", "/rest", "/coveo/push/v1", "/up/push/v1"] {
        let call = server.call("PUT", format!("{mount}/organizations/o/sources/s/documents?documentId={long}"));
        call.json("{}").send().await.error(414, "URI_TOO_LONG");
    }
    server.native("GET", &format!("/sources/s/items?query={long}")).problem(414).await;
    let container = server.container().await;
    let path = container.upload_uri.split_once("/up").unwrap().1;
    for prefix in ["", "/up"] {
        let reply = server.upload(&server.url(&format!("{prefix}{path}&x={long}")), "x").send().await.expect(414);
        assert_eq!(reply.header("content-type"), Some("application/xml"));
        assert!(reply.text().contains("<Error><Code>URITooLong</Code>"), "{}", reply.text());
        assert!(reply.text().contains(reply.header("x-request-id").unwrap()), "{}", reply.text());
    }
    let reply = server.call("GET", format!("/healthz?{long}")).send().await.expect(414);
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    // Two hosts, and a coding that nobody knows.
    let two = "POST /push/v1/organizations/{o}/files HTTP/1.1\nHost: {host}\nHost: other\nConnection: close";
    server.wire(two, b"").await.error(400, "AMBIGUOUS_HOST");
    let coding = "GET /landfall/v1/usage HTTP/1.1\nHost: {host}\nTransfer-Encoding: gzip, chunked\nConnection: close";
    server.wire(coding, b"0\r\n\r\n").await.problem_with(501);
}

/// Heads that two readers would read differently, and bodies that stand still.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_mean_harm() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    let server = Server::start_with(|config| {
        config.header_seconds = 1;
        config.body_idle_seconds = 1;
    })
    .await;
    let before = server.state().await;
    for lines in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: -1",
        "Content-Length: 2x",
        "Transfer-Encoding: gzip, identity",
        "Host : x",
        " folded: x",
    ] {
        let head = format!(
            "PUT {} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n{lines}\r\n\r\n{{}}",
            server.src("documents?documentId=http://smuggled"),
            server.address,
            server.key
        );
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        let read = stream.read_to_end(&mut seen);
        let _ = tokio::time::timeout(std::time::Duration::from_secs(10), read).await.expect("the connection ends");
        let text = String::from_utf8_lossy(&seen);
        // With both, the body is what the chunks say, and `{}` is no chunk.
        assert!(
            text.is_empty() || text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.1 501"),
            "{lines}: {text}"
        );
    }
    server.unchanged(&before).await;

    // A head that does not end.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"PUT / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
    let mut seen = Vec::new();
    let read = stream.read_to_end(&mut seen);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(15), read).await.expect("a slow head is cut off");
    // A body that stands still: nothing of it stays, and the same URL takes a whole one afterwards.
    let container = server.container().await;
    let before = server.state().await;
    let path = container.upload_uri.split_once(&server.address.to_string()).unwrap().1;
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 100\r\nx-amz-server-side-encryption: AES256\r\nContent-Type: application/octet-stream\r\n\r\nhalf",
        server.address
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    let read = stream.read_to_end(&mut seen);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(15), read).await.expect("a slow body is cut off");
    let text = String::from_utf8_lossy(&seen);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    server.unchanged(&before).await;
    server.upload(&container.upload_uri, "whole").send().await.expect(200);

    // A head without end in size.
    let mut request = format!("GET / HTTP/1.1\r\nHost: {}\r\n", server.address);
    for n in 0..5_000 {
        request.push_str(&format!("X-{n}: {}\r\n", "v".repeat(200)));
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let _ = stream.write_all(format!("{request}\r\n").as_bytes()).await;
    let mut seen = Vec::new();
    let read = stream.read_to_end(&mut seen);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(15), read).await.expect("a large head is cut off");
    let text = String::from_utf8_lossy(&seen);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 431") || text.starts_with("HTTP/1.1 400"), "{text}");
    server.get("/usage").await;
}
