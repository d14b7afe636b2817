//! A tenant's own limits, and what a paused one is refused.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Server, accepted};

/// Everything that uploads, pushes or changes is refused by every API; reading and the probes go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_organization_is_read_and_nothing_else() {
    let server = Server::start().await;
    server.item("http://a", json!({ "title": "kept", "data": "kept" })).await;
    let provider = server.call("PUT", server.rest("securityproviders/p")).json("{\"name\":\"p\"}");
    provider.send().await.expect(200);
    let file = server.filled("{}").await;
    let container = server.container().await;
    let opened = server.call("POST", server.cat("stream/open")).send().await.expect(201).json();
    let stream = opened["streamId"].as_str().unwrap().to_owned();
    let key = server.get("/keys").await["items"][0]["id"].as_str().unwrap().to_owned();

    let told = server.admin(&["tenant", "pause", &server.tenant]).await;
    assert!(told["paused"].is_string(), "{told}");
    for (method, path) in [
        ("POST", server.org("files")),
        ("PUT", server.src("documents?documentId=http://a")),
        ("DELETE", server.src("documents?documentId=http://a")),
        ("DELETE", server.src("documents/olderthan?orderingId=99999999999999&queueDelay=0")),
        ("PUT", server.src(&format!("documents/batch?fileId={file}"))),
        ("POST", server.src("status?statusType=REBUILD")),
        ("POST", server.cat("stream/open")),
        ("POST", server.cat(&format!("stream/{stream}/chunk"))),
        ("POST", server.cat(&format!("stream/{stream}/close"))),
        ("PUT", server.cat(&format!("stream/update?fileId={file}"))),
        ("PUT", server.cat(&format!("stream/merge?fileId={file}"))),
        ("POST", server.cat("stream/deleteolderthan/99999999999999?queueDelay=0")),
        ("PUT", server.org("providers/p/permissions")),
        ("DELETE", server.org("providers/p/permissions")),
        ("PUT", server.org("providers/p/mappings")),
        ("PUT", server.org(&format!("providers/p/permissions/batch?fileId={file}"))),
        ("DELETE", server.org("providers/p/permissions/olderthan?orderingId=9&queueDelay=0")),
        ("POST", server.rest("sources")),
        ("PUT", server.rest(&format!("sources/{}", server.source))),
        ("DELETE", server.rest(&format!("sources/{}", server.catalog))),
        ("POST", server.rest("indexes/fields/batch/create")),
        ("PUT", server.rest("securityproviders/p")),
    ] {
        server.call(method, path).json("{}").refused(400, "ORGANIZATION_IS_PAUSED").await;
    }
    // Who may not know is told nothing: the tenant and the right come first.
    let upload = server.key_with(&server.tenant, "upload").await;
    let call = server.call("PUT", server.src("documents?documentId=http://a")).bearer(&upload);
    call.refused(403, "ACCESS_DENIED").await;

    let made = server.native("POST", "/keys").json(json!({ "name": "x", "rights": ["read"] }));
    let problem = made.problem(403).await.json();
    assert_eq!(problem["type"], "/problems/tenant-paused", "{problem}");
    let problem = server.native("DELETE", &format!("/keys/{key}")).problem(403).await.json();
    assert_eq!(problem["type"], "/problems/tenant-paused", "{problem}");

    // A location that was given out before tells nothing on the wire, and everything to the tenant.
    let reply = server.upload(&container.upload_uri, "x").denied().await;
    let id = reply.header("x-request-id").expect("x-request-id");
    let record = server.get(&format!("/refusals/{id}")).await;
    assert_eq!((&record["rule"], &record["status"]), (&json!("tenant_paused"), &json!(403)), "{record}");

    for path in [
        server.rest("sources"),
        server.rest("sources/pages"),
        server.rest(&format!("sources/{}", server.source)),
        server.rest("indexes/page/fields"),
        format!("/landfall/v1/sources/{}/items?query=kept", server.source),
        String::from("/landfall/v1/usage"),
        String::from("/landfall/v1/keys"),
        String::from("/healthz"),
        String::from("/readyz"),
    ] {
        server.call("GET", path).send().await.expect(200);
    }
    assert_eq!(server.content("http://a", false).await, b"kept");
    let other = server.neighbour().await;
    let path = format!("/push/v1/organizations/{}/files", other.tenant);
    server.call("POST", path).bearer(&other.key).send().await.expect(201);

    let told = server.admin(&["tenant", "resume", &server.tenant]).await;
    assert!(told["paused"].is_null(), "{told}");
    server.upload(&container.upload_uri, "x").send().await.expect(200);
    server.call("PUT", server.src(&format!("documents/batch?fileId={file}"))).pushed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_before_a_pause_is_still_applied() {
    let server = Server::start().await;
    let path = server.src("documents/olderthan?orderingId=99999999999999&queueDelay=1");
    server.item("http://a", json!({ "orderingId": 5 })).await;
    let push = accepted(&server.call("DELETE", path).send().await.expect(202));
    server.admin(&["tenant", "pause", &server.tenant]).await;
    server.clock.advance(Duration::from_secs(61));
    assert_eq!(server.done(&push).await["state"], "done");
    assert_eq!(server.ids(&server.source).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_limited_to_so_many_items() {
    let server = Server::start().await;
    server.admin(&["tenant", "limit", &server.tenant, "--items-per-source", "3"]).await;
    let put = |id: &str| server.call("PUT", server.src(&format!("documents?documentId=http://{id}"))).json("{}");
    put("a").pushed().await;
    // A batch counts its records, and is taken whole or refused whole.
    let batch = |count: usize| {
        let items: Vec<_> = (0..count).map(|n| json!({ "documentId": format!("http://b/{n}") })).collect();
        json!({ "addOrUpdate": items, "delete": [{ "documentId": "http://never" }] }).to_string()
    };
    let file = server.filled(batch(3)).await;
    let call = server.call("PUT", server.src(&format!("documents/batch?fileId={file}")));
    call.clone().refused(412, "DOCUMENT_LIMIT_EXCEEDED").await;
    server.batch(batch(2)).await;
    put("c").refused(412, "DOCUMENT_LIMIT_EXCEEDED").await;
    // What is there may change, the other source has room of its own, and deleting makes room.
    put("a").pushed().await;
    let catalog = server.cat("documents?documentId=http://c");
    server.call("PUT", catalog).json("{}").send().await.expect(202);
    server.call("DELETE", server.src("documents?documentId=http://b/&deleteChildren=true")).pushed().await;
    put("c").pushed().await;
    assert_eq!(server.ids(&server.source).await, ["http://a", "http://c"]);
    // The container of the refused call is unused: with more room the same call goes through.
    server.admin(&["tenant", "limit", &server.tenant, "--items-per-source", "5"]).await;
    call.pushed().await;
    assert_eq!(server.ids(&server.source).await.len(), 5);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_compared_with_the_limit_alone() {
    let server = Server::start().await;
    server.admin(&["tenant", "limit", &server.tenant, "--items-per-source", "2"]).await;
    let load = async |names: &[&str]| {
        let opened = server.call("POST", server.cat("stream/open")).send().await.expect(201).json();
        let items: Vec<_> = names.iter().map(|n| json!({ "documentId": format!("http://{n}") })).collect();
        let content = json!({ "addOrUpdate": items }).to_string();
        server.upload(opened["uploadUri"].as_str().unwrap(), content).send().await.expect(200);
        let stream = opened["streamId"].as_str().unwrap().to_owned();
        server.call("POST", server.cat(&format!("stream/{stream}/close"))).send().await
    };
    for names in [["a", "b"], ["c", "d"]] {
        let reply = load(&names).await.expect(200).json();
        server.done(reply["requestId"].as_str().unwrap()).await;
    }
    assert_eq!(server.ids(&server.catalog).await, ["http://c", "http://d"]);
    load(&["e", "f", "g"]).await.error(412, "DOCUMENT_LIMIT_EXCEEDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_is_limited_to_so_many_changed_items() {
    let server = Server::start().await;
    server.admin(&["tenant", "limit", &server.tenant, "--items-per-day", "3"]).await;
    let put = |id: &str| server.call("PUT", server.src(&format!("documents?documentId=http://{id}"))).json("{}");
    put("a").pushed().await;
    put("a").pushed().await;
    let two = json!({ "addOrUpdate": [{ "documentId": "http://b" }, { "documentId": "http://c" }] }).to_string();
    let file = server.filled(two).await;
    let call = server.call("PUT", server.src(&format!("documents/batch?fileId={file}")));
    call.refused(429, "TOO_MANY_DOCUMENTS_DAILY").await;
    put("b").pushed().await;
    let reply = put("c").refused(429, "TOO_MANY_DOCUMENTS_DAILY").await;
    let wait: u64 = reply.header("retry-after").expect("Retry-After").parse().expect("whole seconds");
    assert!((1..=86_400).contains(&wait), "{wait}");
    server.call("DELETE", server.src("documents?documentId=http://b")).pushed().await;
    // After the time told it is another day.
    server.clock.advance(Duration::from_secs(wait + 1));
    put("c").pushed().await;
    assert_eq!(server.ids(&server.source).await, ["http://a", "http://c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_pauses_are_set_and_listed_beside_the_server() {
    let server = Server::start().await;
    let limits = |told: &serde_json::Value| (told["items_per_source"].clone(), told["items_per_day"].clone());
    let tenant = server.tenant.as_str();
    let first = server.admin(&["tenant", "list"]).await;
    assert_eq!((limits(&first), &first["paused"]), ((json!(null), json!(null)), &json!(null)), "{first}");
    let told = server.admin(&["tenant", "limit", tenant, "--items-per-source", "10"]).await;
    assert_eq!(limits(&told), (json!(10), json!(null)), "{told}");
    let told = server.admin(&["tenant", "limit", tenant, "--items-per-day", "0"]).await;
    assert_eq!(limits(&told), (json!(10), json!(0)), "what is not named stays");
    assert_eq!(server.admin(&["tenant", "list"]).await, told);
    let told =
        server.admin(&["tenant", "limit", tenant, "--items-per-source", "none", "--items-per-day", "none"]).await;
    assert_eq!(limits(&told), (json!(null), json!(null)), "{told}");
    let paused = server.admin(&["tenant", "pause", tenant]).await;
    assert_eq!(server.admin(&["tenant", "pause", tenant]).await, paused, "paused since the first time");
    assert_eq!(server.admin(&["tenant", "list"]).await, paused);
    assert_eq!(server.admin(&["tenant", "resume", tenant]).await, first);
    assert_eq!(server.admin(&["tenant", "resume", tenant]).await, first);
    for (wrong, said) in [
        (vec!["tenant", "pause", "nobody"], "nobody"),
        (vec!["tenant", "resume", "nobody"], "nobody"),
        (vec!["tenant", "limit", "nobody", "--items-per-day", "1"], "nobody"),
        (vec!["tenant", "limit", tenant, "--items-per-day=-1"], "none"),
        (vec!["tenant", "limit", tenant, "--items-per-day", "many"], "none"),
        (vec!["tenant", "limit", tenant, "--items-per-source", "9223372036854775808"], "none"),
    ] {
        let sentence = server.admin_refused(&wrong).await;
        assert!(sentence.contains(said), "{wrong:?}: {sentence}");
    }
}
