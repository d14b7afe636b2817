//! Who may call, under which paths, and what other calls are answered.

use serde_json::{Value, json};

use crate::harness::{Reply, Server};

#[tokio::test(flavor = "multi_thread")]
async fn check_23_and_24_who_may_call() {
    let server = Server::start().await;
    let other = server.neighbour().await;
    let (list, inspect) = (server.project("/files/list"), "/api/v1/token/inspect".to_owned());
    for path in [&list, &inspect] {
        let method = if *path == list { "POST" } else { "GET" };
        let call = || server.call(method, path.clone()).anonymous();
        for call in [
            call(),
            call().header("Authorization", &format!("Basic {}", server.key)),
            call().header("Authorization", "Bearer"),
            call().header("Authorization", "Bearer garbage"),
            call().header("Authorization", "Bearer eyJhbGciOiJub25lIn0.e30."),
        ] {
            let error = call.send().await.failure(401);
            assert_eq!(error, json!({ "code": 401, "message": "Unauthorized" }));
        }
    }
    server.call("POST", list).bearer(&other.key).json("{}").send().await.failure(401);
    server.call("POST", "/api/v1/projects/nobody/files/list").json("{}").send().await.failure(401);
    let reader = server.key_with(&server.tenant, "read").await;
    for path in ["", "/initmultipartupload?parts=1", "/uploadlink", "/multiuploadlink?parts=1", "/update", "/delete"] {
        let error = server.on_files(path, json!({ "name": "a" })).bearer(&reader).send().await.failure(403);
        assert!(error["message"].as_str().unwrap().contains("insufficient access rights"), "{error}");
    }
    server.on_files("/list", "{}").bearer(&reader).send().await.expect(200);
    let writer = server.key_with(&server.tenant, "upload").await;
    server.on_files("/list", "{}").bearer(&writer).send().await.failure(403);
    server.on_files("", json!({ "name": "a" })).bearer(&writer).send().await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_04_every_spelling_of_a_path() {
    let server = Server::start().await;
    let body = |n: i32| json!({ "name": "a", "externalId": format!("x{n}") });
    for (n, path) in [
        "/api/v1/projects/{}/files/?overwrite=True",
        "//api/v1/projects/{}/files?overwrite=TRUE",
        "/cognite/api/v1/projects/{}/files",
        "/cognite/api/v1/projects/{}/files/?overwrite=false",
        "/cognite//api/v1/projects/{}/files/",
    ]
    .iter()
    .enumerate()
    {
        let path = path.replace("{}", &server.tenant);
        let reply = server.call("POST", path).json(body(n as i32)).header("x-cdp-app", "caf\u{e9}").send().await;
        let url = reply.expect(201).json()["uploadUrl"].as_str().unwrap().to_owned();
        server.bare("PUT", &url).body(b"x".to_vec()).send().await.expect(200);
    }
    assert_eq!(server.how_many().await, 5);
    server.call("POST", server.project("/files?overwrite=1")).json(body(9)).send().await.names("overwrite");
    server.call("GET", "//api/v1/token/inspect").send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_22_urls_on_the_host_of_the_request() {
    let server = Server::start_with(|config| config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()]).await;
    let file = |host: String, proto: Option<&'static str>| {
        let mut call = server.on_files("", json!({ "name": "a" })).header("Host", &host);
        if let Some(proto) = proto {
            call = call.header("X-Forwarded-Proto", proto);
        }
        async move { call.send().await.expect(201).json()["uploadUrl"].as_str().unwrap().to_owned() }
    };
    let port = server.address.port();
    for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}"), "files.example".into()] {
        assert!(file(host.clone(), None).await.starts_with(&format!("http://{host}/")));
        assert!(file(host.clone(), Some("https")).await.starts_with(&format!("https://{host}/")));
    }
    // The host is not part of what is signed: a client may reach us by another name.
    let url = file("files.example".into(), Some("https")).await;
    let url = url.replace("https://files.example", &format!("http://{}", server.address));
    server.bare("PUT", &url).body(b"x".to_vec()).send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_47_calls_that_do_not_exist() {
    let server = Server::start().await;
    for path in [
        "/api/v1".to_owned(),
        "/api/v1/x".into(),
        "//api/v1/x".into(),
        "/cognite".into(),
        "/cognite/x".into(),
        "/cognite/api/v1/x".into(),
        server.project(""),
        server.project("/files/initupload/x"),
        server.project("/assets"),
        server.project("/files/1/x"),
    ] {
        server.call("GET", path).send().await.failure(404);
    }
    // A link whose `?` was encoded: its secret is not said again.
    let lost = "/cognite/download/default/file_1/expires=1&token=SECRET";
    let error = server.call("GET", lost.to_owned()).send().await.failure(404);
    assert!(!error["message"].as_str().unwrap().contains("SECRET"), "{error}");
    for path in ["/set-pending-instance-ids", "/unlink-instance-ids", "/initupload"] {
        server.on_files(path, "{}").send().await.failure(404);
    }
    for (method, path) in [("DELETE", "/files"), ("PUT", "/files/"), ("GET", "/files/list/x"), ("POST", "/files/1")] {
        let reply = server.call(method, server.project(path)).send().await;
        reply.failure(if path.ends_with('x') { 404 } else { 405 });
    }
    server.call("POST", "/api/v1/token/inspect").send().await.failure(405);
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_of_other_origins_may_call() {
    let server = Server::start_with(|config| config.cors_origins = vec!["https://app.example".into()]).await;
    let asks = "authorization, content-type, accept, x-cdp-app, x-cdp-sdk, cdf-version, content-encoding";
    let preflight = async |path: &str, method: &str| -> Reply {
        let call = server.bare("OPTIONS", path).header("Origin", "https://app.example");
        call.header("Access-Control-Request-Method", method).header("Access-Control-Request-Headers", asks).send().await
    };
    let file = server.declare(json!({ "name": "a" })).await;
    let upload = file["uploadUrl"].as_str().unwrap().to_owned();
    for (path, method) in [(server.project("/files"), "POST"), (upload, "PUT")] {
        let reply = preflight(&path, method).await;
        assert!((200..300).contains(&reply.status), "{reply:?}");
        assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.example"));
        let methods = reply.header("access-control-allow-methods").unwrap();
        assert!(["GET", "POST", "PUT", "OPTIONS"].iter().all(|method| methods.contains(method)), "{methods}");
        let headers = reply.header("access-control-allow-headers").unwrap().to_lowercase();
        assert!(headers == "*" || asks.split(", ").all(|header| headers.contains(header)), "{headers}");
    }
    let call = server.on_files("/list", "{}").header("Origin", "https://app.example");
    let exposed = call.send().await.expect(200).header("access-control-expose-headers").unwrap().to_lowercase();
    assert!(exposed.contains("x-request-id"), "{exposed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_46_nothing_redirects() {
    let server = Server::start().await;
    let id = server.with_content(json!({ "name": "a" }), b"x").await;
    let paths: [(&'static str, &str, Value); 4] = [
        ("GET", "/files", Value::Null),
        ("GET", "/files/", Value::Null),
        ("POST", "/files/", json!({ "name": "b" })),
        ("POST", "/files/byids", json!({ "items": [{ "id": id }] })),
    ];
    for (method, path, body) in paths {
        let call = server.call(method, server.project(path));
        let reply = if body.is_null() { call.send().await } else { call.json(body).send().await };
        assert!((200..300).contains(&reply.status), "{method} {path}: {}", reply.status);
    }
    assert_eq!(server.download(id).await.status, 200);
}
