//! The table of errors: each of its codes at least once, as a whole answer, and the order in which faults are found.

use serde_json::json;

use crate::harness::{Reply, Server, in_bucket, snapshot};

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_the_table() {
    let server = Server::start().await;
    let put = || server.call("PUT", server.src("documents?documentId=http://a"));
    let upload = server.key_with(&server.tenant, "upload").await;
    let nowhere = server.org("sources/nowhere/documents?documentId=http://a");
    for (name, status, code, call) in [
        ("error_400_invalid_json", 400, "INVALID_JSON", put().json("{\"data\":")),
        ("error_400_two_contents", 400, "INVALID_JSON", put().json(r#"{"data":"a","compressedBinaryData":"YQ=="}"#)),
        ("error_400_duplicate_key", 400, "INVALID_JSON", put().json(r#"{"data":"a","DATA":"b"}"#)),
        ("error_401_unauthorized", 401, "UNAUTHORIZED", put().anonymous().json("{}")),
        ("error_401_invalid_token", 401, "INVALID_TOKEN", put().bearer("nope").json("{}")),
        ("error_403_access_denied", 403, "ACCESS_DENIED", put().bearer(&upload).json("{}")),
        (
            "error_404_organization_not_found",
            404,
            "ORGANIZATION_NOT_FOUND",
            server.call("POST", "/push/v1/organizations/nobody/files"),
        ),
        ("error_412_source_does_not_exist", 412, "SOURCE_DOES_NOT_EXIST", server.call("PUT", nowhere).json("{}")),
        (
            "error_412_missing_parameter",
            412,
            "MISSING_PARAMETER",
            server.call("PUT", server.src("documents")).json("{}"),
        ),
        (
            "error_412_invalid_parameter",
            412,
            "INVALID_PARAMETER",
            server.call("PUT", server.src("documents?documentId=http://a&orderingId=abc")).json("{}"),
        ),
        (
            "error_413_request_entity_too_large",
            413,
            "REQUEST_ENTITY_TOO_LARGE",
            put().json(json!({ "data": "a".repeat(6 << 20) })),
        ),
        (
            "error_415_unsupported_media_type",
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            put().header("Content-Type", "text/plain").body("{}"),
        ),
    ] {
        let reply = call.refused(status, code).await;
        snapshot!(name, server, reply);
    }
    let limit = async |arguments: &[&str]| {
        let tenant = server.tenant.as_str();
        server.admin(&[&["tenant", "limit", tenant], arguments].concat()).await;
    };
    limit(&["--items-per-source", "0"]).await;
    let reply = put().json("{}").refused(412, "DOCUMENT_LIMIT_EXCEEDED").await;
    snapshot!("error_412_document_limit_exceeded", server, reply);
    limit(&["--items-per-source", "none", "--items-per-day", "0"]).await;
    let left = server.clock.now().rest_of_day().as_secs();
    let reply = put().json("{}").refused(429, "TOO_MANY_DOCUMENTS_DAILY").await;
    let wait: u64 = reply.header("retry-after").expect("Retry-After").parse().expect("whole seconds");
    assert!(wait.abs_diff(left) < 60 || wait.abs_diff(left) > 86_000, "{wait} seconds, {left} are left of the day");
    snapshot!("error_429_too_many_documents_daily", server, until_midnight(reply));
    limit(&["--items-per-day", "none"]).await;
    server.admin(&["tenant", "pause", &server.tenant]).await;
    let reply = put().json("{}").refused(400, "ORGANIZATION_IS_PAUSED").await;
    snapshot!("error_400_organization_is_paused", server, reply);
    server.admin(&["tenant", "resume", &server.tenant]).await;
    put().json("{}").pushed().await;
}

/// How long a day still lasts differs from run to run.
fn until_midnight(mut reply: Reply) -> Reply {
    for (_, value) in reply.headers.iter_mut().filter(|(name, _)| name == "retry-after") {
        *value = String::from("[until midnight]");
    }
    reply
}

/// 401, 404, 403, 412 source, 412 parameter, 415, 413, 400: a request with every fault from one on gets that one.
#[tokio::test(flavor = "multi_thread")]
async fn faults_are_found_in_their_order() {
    let server = Server::start().await;
    let upload = server.key_with(&server.tenant, "upload").await;
    let faulty = |tenant: &str, source: &str, query: &str, key: Option<&str>, kind: &str, body: String| {
        let path = format!("/push/v1/organizations/{tenant}/sources/{source}/documents{query}");
        let call = server.call("PUT", path).anonymous().header("Content-Type", kind).body(body);
        match key {
            Some(key) => call.bearer(key),
            None => call,
        }
    };
    let large = || "[".repeat((6 << 20) + 1);
    let (o, s, key) = (server.tenant.as_str(), server.source.as_str(), server.key.as_str());
    let good = "?documentId=http://a";
    faulty("nobody", "nowhere", "", None, "text/plain", large()).refused(401, "UNAUTHORIZED").await;
    faulty("nobody", "nowhere", "", Some("nope"), "text/plain", large()).refused(401, "INVALID_TOKEN").await;
    faulty("nobody", "nowhere", "", Some(&upload), "text/plain", large()).refused(404, "ORGANIZATION_NOT_FOUND").await;
    faulty(o, "nowhere", "", Some(&upload), "text/plain", large()).refused(403, "ACCESS_DENIED").await;
    faulty(o, "nowhere", "", Some(key), "text/plain", large()).refused(412, "SOURCE_DOES_NOT_EXIST").await;
    faulty(o, s, "", Some(key), "text/plain", large()).refused(412, "MISSING_PARAMETER").await;
    faulty(o, s, good, Some(key), "text/plain", large()).refused(415, "UNSUPPORTED_MEDIA_TYPE").await;
    faulty(o, s, good, Some(key), "application/json", large()).refused(413, "REQUEST_ENTITY_TOO_LARGE").await;
    faulty(o, s, good, Some(key), "application/json", "[".into()).refused(400, "INVALID_JSON").await;
    faulty(o, s, good, Some(key), "application/json", "{}".into()).send().await.expect(202);
}

/// The generic refusal hides the rule from the wire; the tenant's own key reads it.
#[tokio::test(flavor = "multi_thread")]
async fn a_403_that_explains_itself() {
    let server = Server::start().await;
    let other = server.neighbour().await;
    let container = server.container().await;
    let put = server.bare("PUT", &container.upload_uri).body("x").header("Content-Type", "application/octet-stream");
    let reply = put.denied().await;
    let id = ["x-amz-request-id", "x-request-id"].iter().find_map(|name| reply.header(name)).expect("a request id");
    assert!(reply.text().contains(&format!("<RequestId>{id}</RequestId>")), "{}", reply.text());
    let record = server.get(&format!("/refusals/{id}")).await;
    assert_eq!(record["status"], 403, "{record}");
    assert!(record["detail"].as_str().unwrap().contains("x-amz-server-side-encryption"), "{record}");
    assert!(!record.to_string().contains("X-Amz-Signature"), "{record}");
    let theirs = server.native("GET", &format!("/refusals/{id}")).bearer(&other.key).send().await.problem_with(404);
    let unknown = server.native("GET", "/refusals/00000000-0000-0000-0000-000000000000").send().await.problem_with(404);
    assert_eq!(theirs.json()["title"], unknown.json()["title"]);
}

/// A full disk is told before a byte is taken, and reading goes on.
#[tokio::test(flavor = "multi_thread")]
async fn no_space_left() {
    if in_bucket() {
        return;
    }
    let server = Server::start_with(|config| config.free_space_min = 1 << 60).await;
    let container = server.container().await;
    let before = server.state().await;
    let reply = server.upload(&container.upload_uri, "x").send().await.expect(507);
    assert!(reply.text().contains("<Code>InsufficientStorage</Code>"), "{}", reply.text());
    server.unchanged(&before).await;
    let batch = server.call("PUT", server.src(&format!("documents/batch?fileId={}", container.file_id)));
    batch.refused(412, "INVALID_PARAMETER").await;
}
