//! Checks 48 to 50: the form of upload URLs and keys, the log, and restarts.

use serde_json::json;

use crate::harness::{Binary, PAIR, Server, bytes_of};

/// Would a strict parser of RFC 2396, as `java.net.URI` is, take it?
fn strictly_legal(uri: &str) -> bool {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&b);
    let reserved = |b: u8| b";/?:@&=+$,".contains(&b);
    let mut bytes = uri.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            if !(bytes.next().is_some_and(|h| h.is_ascii_hexdigit())
                && bytes.next().is_some_and(|h| h.is_ascii_hexdigit()))
            {
                return false;
            }
        } else if !unreserved(b) && !reserved(b) {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn check_48_upload_uri() {
    assert!(strictly_legal("http://h/a?b=%2F"));
    assert!(!strictly_legal("http://h/a|b") && !strictly_legal("http://h/a b") && !strictly_legal("http://h/%2"));
    let server = Binary::start("").await;
    let container = server.container().await;
    let uri = &container.upload_uri;
    assert!(strictly_legal(uri), "{uri}");
    let parsed = url::Url::parse(uri).expect("a WHATWG URL");
    assert_eq!(parsed.as_str(), uri, "a browser sends it as it is");
    assert!(parsed.username().is_empty() && parsed.password().is_none() && parsed.fragment().is_none());
    assert!(!uri.contains(&server.key));
    let names: Vec<String> = parsed.query_pairs().map(|(name, _)| name.into_owned()).collect();
    let signed = ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders"];
    assert!(signed.iter().all(|name| names.iter().any(|n| n == name)), "{names:?}");
    assert_eq!(names.iter().filter(|name| !signed.contains(&name.as_str())).collect::<Vec<_>>(), ["X-Amz-Signature"]);

    // The log shows that the requests were served, and neither the signature nor the key.
    let signature = parsed.query_pairs().find(|(name, _)| name == "X-Amz-Signature").unwrap().1.into_owned();
    server.put(uri, Some(10), bytes_of(10)).await.expect(200);
    server.put(&uri.replace("X-Amz-Date=2", "X-Amz-Date=3"), Some(10), bytes_of(10)).await.access_denied();
    let log = server.log();
    assert!(log.contains("/put/") || log.contains("/files"), "requests are logged: {log}");
    assert!(!log.contains(&signature), "the signature is in the log");
    assert!(!log.contains(&server.key), "the key is in the log");

    // Nor is it when somebody puts it into a path, in whatever spelling.
    let dashes = server.key.replace('-', "%2D");
    let encoded: String = server.key.bytes().map(|b| format!("%{b:02x}")).collect();
    for spelled in [&server.key, &dashes, &encoded] {
        server.send("GET", &format!("/landfall/v1/keys/{spelled}"), None).await;
        server.send("GET", &format!("/push/v1/organizations/a%2F{spelled}/files"), None).await;
        let log = server.log();
        assert!(!log.contains(spelled.as_str()), "{spelled} is in the log");
    }
    assert!(server.log().contains("/keys/(key)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_49_form_of_keys() {
    let server = Server::start().await;
    let word = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let other = server.key_with(&server.tenant, "read").await;
    for key in [&server.key, &other] {
        let parts: Vec<&str> = key.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [10, 4, 4, 4, 12], "{key}");
        assert!(parts.iter().all(|part| word(part)) && key.starts_with("lf"), "{key}");
    }
    assert_ne!(server.key, other);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_50_restart_between_steps() {
    let mut server = Server::start().await;
    let container = server.container().await;
    server.restart().await;
    let content = json!({ "addOrUpdate": [{ "documentId": "http://a", "data": "survives a restart" }] });
    let etag = server.upload(&container.upload_uri, content.to_string()).send().await.expect(200);
    server.restart().await;
    let again = server.upload(&container.upload_uri, content.to_string()).send().await.expect(200);
    assert_eq!(again.header("etag"), etag.header("etag"), "equal bytes repeat the old answer");
    server.restart().await;
    let call = |server: &Server| {
        let path = server.src(&format!("documents/batch?fileId={}", container.file_id));
        (path, server.key.clone())
    };
    let (path, _) = call(&server);
    let first = server.call("PUT", path.clone()).json("{}").send().await.expect(202).json();
    server.restart().await;
    let push = server.done(first["requestId"].as_str().unwrap()).await;
    assert_eq!(push["state"], "done", "{push}");
    server.restart().await;
    let second = server.call("PUT", path).json("{}").send().await.expect(202).json();
    assert_eq!(second, first);
    assert_eq!(server.ids(&server.source).await, ["http://a"]);
    assert_eq!(server.content("http://a", true).await, b"survives a restart");
    let found = server.get(&format!("/sources/{}/items?query=survives", server.source)).await;
    assert_eq!(found["items"].as_array().unwrap().len(), 1, "{found}");
    // Streams go on as well.
    let opened = server.call("POST", server.cat("stream/open")).json("{}").send().await.expect(201).json();
    server.restart().await;
    let stream = opened["streamId"].as_str().unwrap();
    let chunk = server.call("POST", server.cat(&format!("stream/{stream}/chunk"))).json("{}").send().await.expect(200);
    server.restart().await;
    let uri = chunk.json()["uploadUri"].as_str().unwrap().to_owned();
    let call = PAIR.iter().fold(server.bare("PUT", &uri), |call, (name, value)| call.header(name, value));
    call.body(content.to_string()).send().await.expect(200);
    server.restart().await;
    let path = server.cat(&format!("stream/{stream}/close"));
    let closed = server.call("POST", path).json("{}").send().await.expect(200).json();
    server.done(closed["requestId"].as_str().unwrap()).await;
    assert_eq!(server.ids(&server.catalog).await, ["http://a"]);
    server.leaves_everything_whole().await;
}

/// Path and query of an upload URL.
fn path_of(uri: &str) -> String {
    let url = url::Url::parse(uri).expect("a URL");
    format!("{}?{}", url.path(), url.query().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_urls_hold_behind_proxies() {
    // A public URL with a path: the proxy may take the path off or leave it on, and send its own Host.
    let server = Server::start_with(|c| c.public_url = Some("https://files.example.com/up".into())).await;
    let container = server.container().await;
    assert!(container.upload_uri.starts_with("https://files.example.com/up/put/"), "{}", container.upload_uri);
    let path = path_of(&container.upload_uri);
    for path in [path.as_str(), path.strip_prefix("/up").unwrap()] {
        server.upload(&server.url(path), "behind a proxy").send().await.expect(200);
    }
    server.call("POST", server.org("files").replace("/push/", "/up/push/")).send().await.expect(201);

    // Nothing configured, but a proxy that is believed says what it did.
    let server = Server::start_with(|c| c.trusted_proxies = vec!["127.0.0.1".into()]).await;
    let container = server
        .call("POST", server.org("files"))
        .header("x-forwarded-host", "files.example.com")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-prefix", "/up/")
        .send()
        .await
        .expect(201)
        .json();
    let uri = container["uploadUri"].as_str().unwrap();
    assert!(uri.starts_with("https://files.example.com/up/put/"), "{uri}");
    let path = path_of(uri);
    let stripped = server.url(path.strip_prefix("/up").unwrap());
    server
        .upload(&stripped, "x")
        .header("x-forwarded-host", "files.example.com")
        .header("x-forwarded-prefix", "/up")
        .send()
        .await
        .expect(200);
    server.upload(&stripped, "y").send().await.access_denied();

    // A host may be spelled with the port that its scheme has anyway, and in capitals.
    let server = Server::start_with(|c| c.trusted_proxies = vec!["127.0.0.1".into()]).await;
    for (asked, sent) in [("Files.Example:443", "files.example"), ("files.example", "FILES.EXAMPLE:443")] {
        let call = server.call("POST", server.org("files")).header("x-forwarded-proto", "https");
        let container = call.header("x-forwarded-host", asked).send().await.expect(201).json();
        let uri = container["uploadUri"].as_str().unwrap();
        assert!(uri.starts_with("https://files.example/put/"), "{uri}");
        let put = |host: &str| {
            let call = server.upload(&server.url(&path_of(uri)), "x").header("x-forwarded-proto", "https");
            call.header("x-forwarded-host", host)
        };
        put(sent).send().await.expect(200);
        put("files.example:8443").send().await.access_denied();
    }

    // Nobody else is believed.
    let server = Server::start().await;
    let container = server.call("POST", server.org("files")).header("x-forwarded-host", "evil.example").send().await;
    assert!(!container.expect(201).text().contains("evil.example"));
}
