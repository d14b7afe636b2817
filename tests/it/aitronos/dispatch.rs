//! Checks 51 and 53: whose a call at the root is, and what clients repeat.

use std::time::Duration;

use serde_json::json;

use super::K;
use crate::harness::{Server, noise};

#[tokio::test(flavor = "multi_thread")]
async fn check_51_the_shared_path() {
    let server = Server::start().await;
    let key = server.key.clone();
    let path = server.files("");
    let post = || server.call("POST", path.clone());
    let with_key = || post().anonymous().header("X-API-Key", &key);
    // No body, an empty one, no fields: a container.
    for call in [post(), post().json(""), post().json("{}"), post().json("[]")] {
        let body = call.send().await.expect(201).json();
        assert!(body["uploadUri"].is_string() && body["fileId"].is_string(), "{body}");
    }
    // Fields: a registration.
    let session = server.session(K).await;
    super::whole(&server.http, &session.url, &noise(K as usize)).await.expect(200);
    post().json(session.registration()).send().await.expect(201);
    post().json(json!({ "files": [session.registration()] })).send().await.expect(200);
    post().json(json!({ "name": "x" })).send().await.wrong_type("gcs_path");
    // Headers of this API's clients.
    with_key().json("{}").send().await.wrong_type("gcs_path");
    with_key().send().await.fault(422, "VALIDATION_ERROR");
    post().header("api-key", "dummy").json("{}").send().await.wrong_type("gcs_path");
    post().header("User-Agent", "aitronos/4.5.8").json("{}").send().await.wrong_type("gcs_path");
    post().header("X-Fern-Language", "Python").send().await.fault(422, "VALIDATION_ERROR");
    // The mounts.
    let mounted = |prefix: &str| server.call("POST", format!("{prefix}{path}"));
    mounted("/aitronos").send().await.fault(422, "VALIDATION_ERROR");
    mounted("/aitronos").json("{}").send().await.wrong_type("gcs_path");
    mounted("/aitronos").json(session.registration()).send().await.expect(200);
    mounted("/coveo").send().await.expect(201);
    mounted("/coveo").json(session.registration()).send().await.expect(201).json()["uploadUri"].as_str().unwrap();
    mounted("/coveo").header("X-API-Key", &key).send().await.expect(201);
    // Who is refused before the choice.
    post().anonymous().send().await.error(401, "UNAUTHORIZED");
    post().anonymous().json(session.registration()).send().await.error(401, "UNAUTHORIZED");
    post().bearer("nope").json("{}").send().await.error(401, "INVALID_TOKEN");
    with_key().header("x-api-key", "nope").anonymous().send().await.expect(422);
    post().anonymous().header("x-api-key", "nope").send().await.fault(401, "TOKEN_INVALID");
    mounted("/aitronos").anonymous().send().await.fault(401, "AUTHENTICATION_REQUIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_51_the_organizations_setting() {
    let server = Server::start().await;
    for api in ["coveo", "aitronos"] {
        let tenant = format!("org_{api}");
        server.admin(&["tenant", "create", &tenant, "--api", api]).await;
        let key = server.key_with(&tenant, "all").await;
        let path = format!("/v1/organizations/{tenant}/files");
        let bearer = server.call("POST", path.clone()).bearer(&key);
        let fields = server.call("POST", path.clone()).bearer(&key).json(json!({ "gcs_path": "x" }));
        let header = server.call("POST", path.clone()).anonymous().header("X-API-Key", &key);
        let anonymous = server.call("POST", path).anonymous();
        if api == "coveo" {
            for call in [bearer, fields, header] {
                assert!(call.send().await.expect(201).json()["uploadUri"].is_string());
            }
            anonymous.send().await.error(401, "UNAUTHORIZED");
        } else {
            for call in [bearer, fields, header] {
                call.send().await.fault(422, "VALIDATION_ERROR");
            }
            anonymous.send().await.fault(401, "AUTHENTICATION_REQUIRED");
        }
        // The mounts come first.
        let path = format!("/v1/organizations/{tenant}/files");
        server.call("POST", format!("/coveo{path}")).bearer(&key).send().await.expect(201);
        server.call("POST", format!("/aitronos{path}")).bearer(&key).send().await.fault(422, "VALIDATION_ERROR");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_no_call_has() {
    let server = Server::start().await;
    let organization = format!("/v1/organizations/{}", server.tenant);
    for path in
        ["/v1/nothing", "/v1/", &format!("{organization}/nothing"), &format!("{organization}/files/a/b"), "/aitronos/x"]
    {
        let error = server.call("GET", path).send().await.fault(404, "NOT_FOUND");
        assert!(error["details"]["path"].is_string(), "{error}");
    }
    for kind in ["sources", "providers", "data-collections"] {
        server.call("GET", format!("{organization}/{kind}/x")).send().await.error(404, "NOT_FOUND");
    }
    server.call("GET", "/coveo/v1/x").send().await.error(404, "NOT_FOUND");
    for (method, path) in
        [("PUT", ""), ("GET", "/upload-url"), ("POST", "/file_1"), ("PUT", "/upload"), ("PATCH", "/x/content")]
    {
        let reply = server.call(method, format!("{organization}/files{path}")).send().await;
        reply.fault(405, "METHOD_NOT_ALLOWED");
        assert!(reply.header("allow").is_some_and(|allow| !allow.is_empty()), "{path}");
        server
            .call(method, format!("/aitronos{organization}/files{path}"))
            .send()
            .await
            .fault(405, "METHOD_NOT_ALLOWED");
    }
    let source = format!("{organization}/sources/x/documents");
    server.call("PATCH", source).send().await.error(405, "METHOD_NOT_ALLOWED");
    let long = format!("{organization}/files/{}", "a".repeat(20_000));
    server.call("GET", long).send().await.fault(414, "URI_TOO_LONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_prefix_has_every_call() {
    let server = Server::start().await;
    let at = |rest: &str| format!("/aitronos{}", server.files(rest));
    let ask = json!({ "filename": "a.bin", "file_size": 3, "mime_type": "application/octet-stream" });
    let reply = server.call("POST", at("/upload-url")).json(ask).send().await.expect(200).json();
    let session = super::Session::of(&reply, 3);
    super::whole(&server.http, &session.url, b"abc").await.expect(200);
    server.call("POST", at("")).json(session.registration()).send().await.expect(201);
    let link = server.call("GET", at(&format!("/{}/content", session.file))).send().await.expect(200).json();
    let url = link["download_url"].as_str().unwrap();
    assert_eq!(server.bare("GET", url).send().await.expect(200).body, b"abc");
    server.bare("GET", &url.replace("/v1/", "/aitronos/v1/")).send().await.expect(200);
    assert_eq!(server.call("GET", at("")).send().await.expect(200).json()["total"], 1);
    let form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x.txt\"\r\n\r\nhello\r\n--b--\r\n";
    let upload = server.call("POST", at("/upload")).header("Content-Type", "multipart/form-data; boundary=b");
    upload.body(form).send().await.expect(201);
    server.call("GET", at(&format!("/{}", session.file))).send().await.expect(200);
    server.call("DELETE", at(&format!("/{}", session.file))).send().await.expect(204);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_53_too_many_requests() {
    let server = Server::start_with(|c| (c.rate_limit, c.rate_burst) = (Some(1), Some(2))).await;
    let list = || server.call("GET", server.files(""));
    let mut limited = None;
    for _ in 0..10 {
        let reply = list().send().await;
        if reply.status != 200 {
            limited = Some(reply);
            break;
        }
    }
    let reply = limited.expect("a limit");
    let error = reply.fault(429, "RATE_LIMIT_EXCEEDED");
    let seconds: u64 = reply.header("retry-after").expect("Retry-After").parse().unwrap();
    assert_eq!(error["details"], json!({ "retry_after": seconds }));
    assert_eq!(reply.header("x-ratelimit-reset"), None, "the client would sleep until 1970");
    server.clock.advance(Duration::from_secs(seconds));
    list().send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_and_paused_organizations_have_their_own_answers() {
    let server = Server::start().await;
    server.admin(&["tenant", "create", "small"]).await;
    let key = server.key_with("small", "all").await;
    let path = "/v1/organizations/small/files/upload-url";
    let ask = json!({ "filename": "a.bin", "file_size": 10, "mime_type": "a/b" });
    server.admin(&["tenant", "pause", "small"]).await;
    server.call("POST", path).bearer(&key).json(&ask).send().await.fault(403, "ORGANIZATION_PAUSED");
    server.call("GET", "/v1/organizations/small/files").bearer(&key).send().await.expect(200);
    server.admin(&["tenant", "resume", "small"]).await;
    server.call("POST", path).bearer(&key).json(&ask).send().await.expect(200);
}
