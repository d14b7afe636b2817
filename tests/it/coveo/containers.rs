//! Checks 1 to 13: file containers and the PUT to their upload URLs.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Binary, PAIR, Server, bytes_of, is_uuid, raw, read_reply, snapshot};

const LIMIT: u64 = 268_435_456;

#[tokio::test(flavor = "multi_thread")]
async fn check_01_container_created() {
    let server = Server::start().await;
    let reply = server.call("POST", server.org("files")).send().await.expect(201);
    snapshot!("check_01_container_created", server, reply);
    let body = reply.json();
    let mut names: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["fileId", "requiredHeaders", "uploadUri"]);
    let pair = json!({ "x-amz-server-side-encryption": "AES256", "Content-Type": "application/octet-stream" });
    assert_eq!(body["requiredHeaders"], pair);
    assert!(is_uuid(body["fileId"].as_str().unwrap()));
    let uri = body["uploadUri"].as_str().unwrap();
    assert!(uri.starts_with(&format!("http://{}/", server.address)), "{uri}");
    let again = server.call("POST", server.org("files")).send().await.expect(201).json();
    assert_ne!(again["fileId"], body["fileId"]);
    assert_ne!(again["uploadUri"], body["uploadUri"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_02_container_on_every_mount() {
    let server = Server::start().await;
    for prefix in ["/v1", "/push/v1", "/coveo/push/v1", "/coveo/v1"] {
        let path = format!("{prefix}/organizations/{}/files", server.tenant);
        let body = server.call("POST", path).send().await.expect(201).json();
        let uri = body["uploadUri"].as_str().unwrap();
        server.upload(uri, "x").send().await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_03_container_bodies() {
    let server = Server::start().await;
    let call = || server.call("POST", server.org("files"));
    call().json("{}").send().await.expect(201);
    call().json("").send().await.expect(201);
    call().send().await.expect(201);
    let head = "
        POST /push/v1/organizations/{o}/files HTTP/1.1
        Host: {host}
        Authorization: Bearer {key}
        Connection: close";
    assert_eq!(server.wire(head, b"").await.expect(201).json()["requiredHeaders"].as_object().unwrap().len(), 2);
    let head = "
        POST /push/v1/organizations/{o}/files HTTP/1.1
        Host: {host}
        Authorization: Bearer {key}
        Content-Type: application/json
        Content-Length: 0
        Connection: close";
    server.wire(head, b"").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_04_container_url_style() {
    let server = Server::start().await;
    for style in ["true", "false", "True", ""] {
        let path = server.org(&format!("files?useVirtualHostedStyleUrl={style}&unknown=1"));
        server.call("POST", path).send().await.expect(201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_05_container_without_a_good_key() {
    let server = Server::start().await;
    let call = || server.call("POST", server.org("files"));
    call().anonymous().refused(401, "UNAUTHORIZED").await;
    call().bearer("nope").refused(401, "INVALID_TOKEN").await;
    let basic = call().anonymous().header("Authorization", "Basic eDp5").send().await.expect(401);
    assert!(["UNAUTHORIZED", "INVALID_TOKEN"].contains(&basic.json()["errorCode"].as_str().unwrap()));
    // One character of a good key changed, and a good key with something behind it.
    let mut wrong = server.key.clone();
    let last = if wrong.ends_with('0') { '1' } else { '0' };
    wrong.pop();
    wrong.push(last);
    call().bearer(&wrong).refused(401, "INVALID_TOKEN").await;
    call().bearer(&format!("{}x", server.key)).refused(401, "INVALID_TOKEN").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_06_container_without_the_right() {
    let server = Server::start().await;
    let items = server.key_with(&server.tenant, "items").await;
    server.call("POST", server.org("files")).bearer(&items).refused(403, "ACCESS_DENIED").await;
    let upload = server.key_with(&server.tenant, "upload").await;
    server.call("POST", server.org("files")).bearer(&upload).send().await.expect(201);
    let put = server.call("PUT", server.src("documents?documentId=http://a")).bearer(&upload).json("{}");
    put.refused(403, "ACCESS_DENIED").await;
    let unknown = server.call("POST", "/push/v1/organizations/nobody/files");
    unknown.clone().refused(404, "ORGANIZATION_NOT_FOUND").await;
    unknown.bearer(&items).refused(404, "ORGANIZATION_NOT_FOUND").await;
    let other = server.neighbour().await;
    let theirs = format!("/push/v1/organizations/{}/files", other.tenant);
    server.call("POST", theirs).refused(403, "ACCESS_DENIED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_07_put_with_both_headers() {
    let server = Server::start().await;
    let container = server.container().await;
    let reply = server.upload(&container.upload_uri, "content").send().await.expect(200);
    snapshot!("check_07_put_with_both_headers", server, reply);
    assert!(reply.body.is_empty());
    assert!(reply.header("etag").is_some_and(|tag| tag.starts_with('"')));
    // A second PUT before use replaces the first.
    server.upload(&container.upload_uri, r#"{"addOrUpdate":[]}"#).send().await.expect(200);
    let path = container.upload_uri.split_once(&server.address.to_string()).unwrap().1;
    for names in [["X-AMZ-SERVER-SIDE-ENCRYPTION", "CONTENT-TYPE"], ["X-Amz-Server-Side-Encryption", "content-type"]] {
        let head = format!(
            "PUT {path} HTTP/1.1
            HOST: {{host}}
            {}: AES256
            {}: application/octet-stream
            CONTENT-LENGTH: {{length}}
            connection: close",
            names[0], names[1]
        );
        let reply = server.wire(&head, br#"{"addOrUpdate":[{"documentId":"http://b"}]}"#).await.expect(200);
        assert!(reply.body.is_empty());
    }
    let call = server.call("PUT", server.src(&format!("documents/batch?fileId={}", container.file_id)));
    call.pushed().await;
    assert_eq!(server.ids(&server.source).await, ["http://b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_08_put_with_other_headers() {
    let server = Server::start().await;
    let container = server.container().await;
    let uri = container.upload_uri.as_str();
    let [(sse, aes), (kind, octets)] = PAIR;
    let put = || server.bare("PUT", uri).body("content");
    let denied = put().header(kind, octets).denied().await;
    snapshot!("check_08_put_denied", server, denied);
    put().header(kind, octets).header(sse, "aws:kms").denied().await;
    put().header(kind, octets).header(sse, "aes256").denied().await;
    put().header(kind, octets).header(sse, "").denied().await;
    put().header(sse, aes).header(kind, "application/json").denied().await;
    put().header(sse, aes).header(kind, "application/octet-stream; charset=utf-8").denied().await;
    put().header(sse, aes).denied().await;
    put().denied().await;
    // Headers that would change the meaning of a store's PUT, and that nobody signed.
    for header in ["x-amz-acl", "x-amz-meta-a", "x-amz-copy-source", "x-amz-tagging"] {
        put().header(kind, octets).header(sse, aes).header(header, "private").denied().await;
    }
    nothing_uploaded(&server, &container.file_id).await;
    // Headers that mean nothing here are allowed.
    let good = server.upload(uri, "content");
    good.header("User-Agent", "x").header("Accept-Encoding", "gzip").header("X-Other", "1").send().await.expect(200);
}

async fn nothing_uploaded(server: &Server, file: &str) {
    let batch = server.call("PUT", server.src(&format!("documents/batch?fileId={file}"))).json("{}");
    batch.refused(412, "INVALID_PARAMETER").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_08_a_refusal_reaches_a_client_that_only_writes() {
    let server = Server::start().await;
    let container = server.container().await;
    let (_, path) = container.upload_uri.split_once(&server.address.to_string()).unwrap();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 20000000\r\nContent-Type: text/plain\r\n\r\n",
        server.address
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'x'; 100_000];
    for _ in 0..200 {
        stream.write_all(&piece).await.expect("the server reads the body that it refuses");
    }
    read_reply(&mut stream).await.access_denied();
    nothing_uploaded(&server, &container.file_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_09_put_with_a_wrong_signature() {
    let server = Server::start().await;
    let container = server.container().await;
    let uri = container.upload_uri.clone();
    let at = uri.find("X-Amz-Signature=").expect("a signature") + "X-Amz-Signature=".len();
    for offset in [0, 31, 63] {
        let mut wrong = uri.clone().into_bytes();
        wrong[at + offset] = if wrong[at + offset] == b'0' { b'1' } else { b'0' };
        server.upload(&String::from_utf8(wrong).unwrap(), "content").denied().await;
    }
    let longer = uri.replace("X-Amz-Expires=3600", "X-Amz-Expires=36000");
    assert_ne!(longer, uri);
    server.upload(&longer, "content").denied().await;
    server.upload(&format!("{uri}&more=1"), "content").denied().await;
    // The path of another session under the same signature.
    let other = server.container().await.upload_uri;
    let swapped = format!("{}?{}", other.split_once('?').unwrap().0, uri.split_once('?').unwrap().1);
    server.upload(&swapped, "content").denied().await;
    let before = server.state().await;
    for method in ["GET", "POST", "DELETE"] {
        let call = PAIR.iter().fold(server.bare(method, &uri), |call, (name, value)| call.header(name, value));
        assert_eq!(call.send().await.status, 403, "{method}");
    }
    assert_eq!(server.bare("HEAD", &uri).send().await.status, 403);
    assert!([400, 403].contains(&server.upload(uri.split_once('?').unwrap().0, "content").send().await.status));
    server.unchanged(&before).await;
    nothing_uploaded(&server, &container.file_id).await;
    server.upload(&uri, "content").send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_10_put_after_an_hour() {
    let server = Server::start().await;
    let late = server.container().await;
    let unused = server.filled(r#"{"addOrUpdate":[{"documentId":"http://a"}]}"#).await;
    server.clock.advance(Duration::from_secs(59 * 60));
    server.upload(&late.upload_uri, r#"{"addOrUpdate":[]}"#).send().await.expect(200);
    let never = server.container().await;
    server.clock.advance(Duration::from_secs(2 * 60));
    let again = server.upload(&late.upload_uri, r#"{"addOrUpdate":[{"documentId":"http://b"}]}"#).send().await;
    again.access_denied();
    for file in [&late.file_id, &unused] {
        server
            .call("PUT", server.src(&format!("documents/batch?fileId={file}")))
            .refused(412, "INVALID_PARAMETER")
            .await;
    }
    server.clock.advance(Duration::from_secs(61 * 60));
    server.upload(&never.upload_uri, "content").denied().await;
    nothing_uploaded(&server, &never.file_id).await;
    assert!(server.ids(&server.source).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn check_11_largest_put() {
    let mut server = Binary::start("").await;
    let container = server.container().await;
    let reply = server.put(&container.upload_uri, Some(LIMIT), bytes_of(LIMIT)).await.expect(200);
    assert!(reply.body.is_empty());
    server.stays_small();

    // Told by its length: refused before a byte is sent.
    let other = server.container().await;
    let path = other.upload_uri.split_once(&server.address.to_string()).unwrap().1;
    let mut head = format!("PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n", server.address, LIMIT + 1);
    for (name, value) in PAIR {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let reply = raw(server.address, format!("{head}Expect: 100-continue\r\n\r\n").as_bytes()).await.expect(413);
    assert_eq!(reply.header("content-type"), Some("application/xml"));
    let text = reply.text();
    assert!(text.contains("<Code>EntityTooLarge</Code>"), "{text}");
    assert!(text.contains("<ProposedSize>268435457</ProposedSize><MaxSizeAllowed>268435456<"), "{text}");

    // Found out while counting.
    let reply = server.put(&other.upload_uri, None, bytes_of(LIMIT + 1)).await.expect(413);
    assert!(reply.text().contains("<Code>EntityTooLarge</Code>"), "{}", reply.text());
    let batch = format!(
        "/push/v1/organizations/{}/sources/{}/documents/batch?fileId={}",
        server.tenant, server.source, other.file_id
    );
    server.send("PUT", &batch, None).await.error(412, "INVALID_PARAMETER");
    let usage = server.send("GET", "/landfall/v1/usage", None).await.expect(200).json();
    assert_eq!(usage["bytes"], LIMIT, "{usage}");
    server.stays_small();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_12_put_with_and_without_authorization() {
    let server = Server::start().await;
    let container = server.container().await;
    server.upload(&container.upload_uri, "a").send().await.expect(200);
    let with = server.upload(&container.upload_uri, "b").header("Authorization", &format!("Bearer {}", server.key));
    with.send().await.expect(200);
    let wrong = server.upload(&container.upload_uri, "c").header("Authorization", "Bearer nope");
    wrong.send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_12_put_expecting_continue_and_in_chunks() {
    let server = Server::start().await;
    let container = server.container().await;
    let path = container.upload_uri.split_once(&server.address.to_string()).unwrap().1.to_owned();
    let head = |more: &str| {
        let mut head = format!("PUT {path} HTTP/1.1\r\nHost: {}\r\n{more}\r\n", server.address);
        for (name, value) in PAIR {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        format!("{head}\r\n")
    };
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head("Content-Length: 2\r\nExpect: 100-continue").as_bytes()).await.unwrap();
    let mut seen = [0; 25];
    stream.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").await.unwrap();
    read_reply(&mut stream).await.expect(200);

    let chunks = futures_util::stream::iter(["{\"addOr", "Update\":[{\"documentId\":", "\"http://a\"}]}"]);
    let body = reqwest::Body::wrap_stream(chunks.map(|c| Ok::<_, std::io::Error>(Bytes::from_static(c.as_bytes()))));
    let mut request = server.http.put(&container.upload_uri).body(body);
    for (name, value) in PAIR {
        request = request.header(name, value);
    }
    assert_eq!(request.send().await.unwrap().status().as_u16(), 200);
    server.call("PUT", server.src(&format!("documents/batch?fileId={}", container.file_id))).pushed().await;
    assert_eq!(server.ids(&server.source).await, ["http://a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_13_interrupted_put() {
    let server = Server::start().await;
    let container = server.container().await;
    let path = container.upload_uri.split_once(&server.address.to_string()).unwrap().1.to_owned();
    let content = br#"{"addOrUpdate":[{"documentId":"http://a","data":"whole"}]}"#;
    let mut head = format!("PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n", server.address, content.len());
    for (name, value) in PAIR {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let before = server.state().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    stream.write_all(&content[..content.len() / 2]).await.unwrap();
    stream.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    // In chunks there is no length that could tell; the missing end does.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let chunked = head.replace(&format!("Content-Length: {}", content.len()), "Transfer-Encoding: chunked");
    stream.write_all(format!("{chunked}\r\n2\r\n{{}}\r\n").as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    // One whose chunks are garbled is no better, and is told so.
    let reply = server.raw(format!("{chunked}\r\n2\r\n{{}}\r\nzz\r\n").as_bytes()).await.expect(400);
    assert!(reply.text().contains("IncompleteBody"), "{}", reply.text());
    let record = server.get(&format!("/refusals/{}", reply.header("x-request-id").unwrap())).await;
    assert!(record["detail"].as_str().unwrap().contains("framing"), "{record}");
    nothing_uploaded(&server, &container.file_id).await;
    server.unchanged(&before).await;
    server.upload(&container.upload_uri, content.to_vec()).send().await.expect(200);
    let push = server.call("PUT", server.src(&format!("documents/batch?fileId={}", container.file_id))).pushed().await;
    assert_eq!(push["state"], "done", "{push}");
    assert_eq!(server.ids(&server.source).await, ["http://a"]);
    server.leaves_everything_whole().await;
}

/// The rules of the store whose URLs these are: a preflight is never signed, and every answer may be read by a page.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_from_a_page_of_another_origin() {
    let server = Server::start().await;
    let container = server.container().await;
    let preflight = server
        .bare("OPTIONS", &container.upload_uri)
        .header("Origin", "https://app.example")
        .header("Access-Control-Request-Method", "PUT")
        .header("Access-Control-Request-Headers", "content-type,x-amz-server-side-encryption");
    let reply = preflight.send().await.expect(200);
    assert!(["*", "https://app.example"].contains(&reply.header("access-control-allow-origin").unwrap()));
    assert!(reply.header("access-control-allow-methods").unwrap().contains("PUT"));
    let allowed = reply.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
    assert!(allowed.contains("content-type") && allowed.contains("x-amz-server-side-encryption"), "{allowed}");
    let good =
        server.upload(&container.upload_uri, "x").header("Origin", "https://app.example").send().await.expect(200);
    let bad = server.bare("PUT", &container.upload_uri).header("Origin", "https://app.example").body("x").send().await;
    for reply in [good, bad.access_denied()] {
        assert!(reply.header("access-control-allow-origin").is_some(), "{reply:?}");
        let exposed = reply.header("access-control-expose-headers").unwrap().to_ascii_lowercase();
        assert!(exposed.contains("etag"), "{exposed}");
    }
}

/// What a client declares about its body is checked before anything is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_with_a_digest() {
    let server = Server::start().await;
    let container = server.container().await;
    let before = server.state().await;
    // Of "other", for a body that is "content".
    let wrong = server.upload(&container.upload_uri, "content").header("Content-MD5", "eV8yArF8trw9S3cdjGyerw==");
    let reply = wrong.send().await.expect(400);
    assert!(reply.text().contains("<Code>BadDigest</Code>"), "{}", reply.text());
    server.unchanged(&before).await;
    nothing_uploaded(&server, &container.file_id).await;
    let right = server.upload(&container.upload_uri, "content").header("Content-MD5", "mgNkuembtIDdJeHwKEyFVQ==");
    right.send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_file_does_not_pass_for_the_whole() {
    let server = Server::start().await;
    let container = server.container().await;
    let before = server.state().await;
    let part = server.upload(&container.upload_uri, "con").header("Content-Range", "bytes 0-2/7");
    let reply = part.send().await.expect(400);
    assert!(reply.text().contains("Content-Range"), "{}", reply.text());
    server.unchanged(&before).await;
    nothing_uploaded(&server, &container.file_id).await;
    server.upload(&container.upload_uri, "content").send().await.expect(200);
}

/// A PUT that is meant for an empty container only replaces nothing, also before its body is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_is_to_be_the_first() {
    let server = Server::start().await;
    let container = server.container().await;
    let put = |body: &str| server.upload(&container.upload_uri, body).header("If-None-Match", "*");
    put("first").send().await.expect(200);
    for body in ["first", "second"] {
        let before = server.state().await;
        let reply = put(body).send().await.expect(412);
        assert_eq!(reply.header("content-type"), Some("application/xml"));
        let text = reply.text();
        assert!(text.contains("<Error><Code>PreconditionFailed</Code>"), "{text}");
        assert!(text.contains("<Condition>If-None-Match</Condition>"), "{text}");
        server.unchanged(&before).await;
        let id = reply.header("x-request-id").unwrap();
        assert_eq!(server.get(&format!("/refusals/{id}")).await["rule"], "condition");
    }
    let other = server.upload(&container.upload_uri, "x").header("If-None-Match", "\"abc\"").send().await.expect(400);
    assert!(other.text().contains("<Code>InvalidArgument</Code>"), "{}", other.text());
    server.upload(&container.upload_uri, "third").send().await.expect(200);
    let path = server.src("documents?documentId=http://a");
    server.call("PUT", path).json(json!({ "compressedBinaryDataFileId": container.file_id })).pushed().await;
    put("third").send().await.expect(412);
    assert_eq!(server.content("http://a", false).await, b"third");
}
