//! Checks 36, 37, 41, 42 and 43: status, identities, limits, errors and the platform's calls around a push.

use serde_json::json;

use crate::harness::{Server, accepted, snapshot};

#[tokio::test(flavor = "multi_thread")]
async fn check_36_status() {
    let server = Server::start().await;
    let status = |query: &str| server.call("POST", server.src(&format!("status{query}")));
    for kind in ["REBUILD", "IDLE", "rebuild", "REFRESH", "INCREMENTAL", "idle"] {
        let reply = status(&format!("?statusType={kind}")).json("{}").send().await.expect(201);
        assert_eq!(reply.json(), json!({}), "{kind}");
    }
    status("?statusType=IDLE").send().await.expect(201);
    let foo = status("?statusType=FOO").refused(412, "INVALID_PARAMETER").await;
    snapshot!("check_36_status_unknown", server, foo);
    let none = status("").refused(412, "MISSING_PARAMETER").await;
    snapshot!("check_36_status_missing", server, none);
    status("?statusType=").refused(412, "MISSING_PARAMETER").await;
    let upload = server.key_with(&server.tenant, "upload").await;
    status("?statusType=IDLE").bearer(&upload).refused(403, "ACCESS_DENIED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_37_identities() {
    let server = Server::start().await;
    let provider = json!({
        "name": "My Provider", "type": "EXPANDED", "nodeRequired": false,
        "referencedBy": [{ "id": server.source, "type": "SOURCE" }],
        "cascadingSecurityProviders": { "Email": { "name": "Email Security Provider", "type": "EMAIL" } },
    });
    let made = server.call("PUT", server.rest("securityproviders/My%20Provider")).json(&provider).send().await;
    assert_eq!(made.expect(200).json()["name"], "My Provider");
    let path = |rest: &str| server.org(&format!("providers/My%20Provider/{rest}"));
    let who = json!({ "name": "asmith@example.com", "type": "USER", "additionalInfo": {} });
    let members =
        json!({ "identity": { "name": "Team", "type": "VIRTUAL_GROUP" }, "members": [who], "wellKnowns": [] });
    let mappings = json!({
        "identity": { "Name": "asmith", "Type": "User" },
        "mappings": [{ "name": "asmith@example.com", "type": "USER", "provider": "Email Security Provider" }],
        "wellKnowns": [],
    });
    let mut calls = vec![
        server.call("PUT", path("permissions")).json(&members),
        server.call("PUT", path("permissions?orderingId=5")).json(json!({ "Identity": who, "Members": [] })),
        server.call("PUT", path("mappings?orderingId=6")).json(&mappings),
        server.call("DELETE", path("permissions?orderingId=7")).json(json!({ "identity": who })),
        server.call("DELETE", path("permissions")).json(&who),
        server.call("DELETE", path("permissions/olderthan?orderingId=3&queueDelay=0")),
    ];
    for deleted in [json!([{ "identity": who }]), json!([who])] {
        let content = json!({ "members": [members], "mappings": [mappings], "deleted": deleted });
        let file = server.filled(content.to_string()).await;
        calls.push(server.call("PUT", path(&format!("permissions/batch?fileId={file}"))).json("{}"));
        let file = server.filled(json!({ "Deleted": deleted }).to_string()).await;
        calls.push(server.call("PUT", path(&format!("permissions/batch?fileId={file}&orderingId=9"))));
    }
    for call in calls {
        let push = call.pushed().await;
        assert_eq!(push["state"], "done", "{push}");
        assert_eq!(push["counts"]["failed"], 0, "{push}");
    }

    server.call("DELETE", path("permissions/olderthan?queueDelay=0")).refused(412, "MISSING_PARAMETER").await;
    server.call("PUT", path("permissions/batch")).refused(412, "MISSING_PARAMETER").await;
    server.call("PUT", path("permissions")).json("{}").refused(400, "INVALID_JSON").await;
    let kind = json!({ "identity": { "name": "a", "type": "ROBOT" } });
    server.call("PUT", path("permissions")).json(kind).refused(412, "INVALID_PARAMETER").await;
    let unknown = server.call("PUT", server.org("providers/nobody/permissions")).json(&members);
    unknown.refused(412, "INVALID_PARAMETER").await;
    let items = server.key_with(&server.tenant, "items,upload").await;
    let call = server.call("PUT", path("permissions")).bearer(&items).json(&members);
    call.refused(403, "ACCESS_DENIED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_41_too_many_requests() {
    let server = Server::start_with(|config| config.rate_limit = Some(5)).await;
    let mut refused = None;
    for _ in 0..200 {
        let reply = server.call("POST", server.src("status?statusType=IDLE")).send().await;
        if reply.status != 201 {
            refused = Some(reply);
            break;
        }
    }
    let reply = refused.expect("a limit of 5 a second is reached").error(429, "TOO_MANY_REQUESTS");
    let wait: u64 = reply.header("retry-after").expect("Retry-After").parse().expect("whole seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    snapshot!("check_41_too_many_requests", server, reply);
    // After the time told the same key is served again.
    tokio::time::sleep(std::time::Duration::from_secs(wait)).await;
    server.call("POST", server.src("status?statusType=IDLE")).send().await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_42_every_error_is_json() {
    let server = Server::start().await;
    for path in ["/push/v1/organizations", "/push/v1/nothing", "/rest/nothing", "/coveo/nothing"] {
        let reply = server.call("GET", path).send().await;
        assert_eq!(reply.status, 404, "{path}");
        let code = reply.json()["errorCode"].as_str().unwrap_or_default().to_owned();
        reply.error(404, &code);
        assert!(!code.is_empty());
    }
    let unknown = server.call("GET", server.src("nothing")).send().await;
    snapshot!("check_42_unknown_route", server, unknown);
    assert_eq!(unknown.status, 404);
    for (method, path) in [
        ("GET", server.org("files")),
        ("DELETE", server.org("files")),
        ("POST", server.src("documents")),
        ("GET", server.src("status")),
        ("PATCH", server.src("documents/batch")),
        ("GET", server.cat("stream/open")),
        ("PATCH", server.rest("sources")),
    ] {
        let before = server.state().await;
        let reply = server.call(method, path.clone()).send().await;
        assert_eq!(reply.status, 405, "{method} {path}");
        let code = reply.json()["errorCode"].as_str().unwrap_or_default().to_owned();
        assert!(!code.is_empty(), "{path}");
        let reply = reply.error(405, &code);
        assert!(reply.header("allow").is_some(), "{path}");
        server.unchanged(&before).await;
        if path.ends_with("/files") && method == "GET" {
            snapshot!("check_42_wrong_method", server, reply);
        }
    }
    let outside = server.call("GET", "/nothing").anonymous().send().await.expect(404);
    outside.json();
    assert!(outside.header("x-request-id").is_some());
    // Successes carry the request's id as well.
    for path in [server.src("status?statusType=IDLE"), server.org("files")] {
        let reply = server.call("POST", path).send().await.expect(201);
        assert!(reply.header("x-request-id").is_some_and(|id| !id.is_empty()));
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
    let one = server.call("POST", server.org("files")).send().await;
    let two = server.call("POST", server.org("files")).send().await;
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_43_platform_calls() {
    let server = Server::start().await;
    let ask = |kind: &str, domain: &str, key: &str| {
        let body = json!({
            "organizationId": server.tenant,
            "requestedPrivilege": { "type": kind, "targetDomain": domain, "targetId": "*", "owner": "SEARCH_API" },
        });
        server.call("POST", "/rest/privilege/evaluate").bearer(key).json(body)
    };
    for (kind, domain) in [("VIEW", "FIELD"), ("EDIT", "FIELD"), ("EDIT", "SOURCE"), ("VIEW", "ORGANIZATION")] {
        assert_eq!(ask(kind, domain, &server.key).send().await.expect(200).json()["approved"], true, "{kind} {domain}");
    }
    let items = server.key_with(&server.tenant, "items").await;
    assert_eq!(ask("CREATE", "FIELD", &items).send().await.expect(200).json()["approved"], false);
    ask("VIEW", "FIELD", "nope").refused(401, "INVALID_TOKEN").await;

    let fields = || server.call("GET", server.rest("indexes/page/fields?page=0&perPage=1000"));
    let page = fields().send().await.expect(200);
    let built_in = page.json();
    assert!(built_in["items"].as_array().unwrap().contains(&json!({ "name": "permanentid", "type": "STRING" })));
    assert_eq!(built_in["totalPages"], 1);
    let create = |body: serde_json::Value| server.call("POST", server.rest("indexes/fields/batch/create")).json(body);
    let made = create(json!([{ "name": "colour", "type": "STRING" }, { "name": "price", "type": "DOUBLE" }]));
    let reply = made.send().await.expect(204);
    assert!(reply.body.is_empty());
    let after = fields().send().await.expect(200).json();
    assert_eq!(after["totalEntries"].as_u64().unwrap(), built_in["totalEntries"].as_u64().unwrap() + 2, "{after}");
    assert!(after["items"].as_array().unwrap().contains(&json!({ "name": "price", "type": "DOUBLE" })));
    for bad in [
        json!([{ "name": "Colour", "type": "STRING" }]),
        json!([{ "name": "a", "type": "TEXT" }]),
        json!([{ "name": "fresh", "type": "STRING" }, { "name": "colour", "type": "DOUBLE" }]),
    ] {
        create(bad).refused(412, "INVALID_PARAMETER").await;
    }
    create(json!({})).refused(400, "INVALID_JSON").await;
    assert_eq!(fields().send().await.expect(200).json(), after, "fields are created all or none");
    create(json!([])).bearer(&items).refused(403, "ACCESS_DENIED").await;

    let source =
        json!({ "sourceType": "PUSH", "name": "My source", "sourceVisibility": "SECURED", "pushEnabled": true });
    let reply = server.call("POST", server.rest("sources")).json(&source).send().await;
    snapshot!("check_43_source_created", server, rewritten(reply.clone()));
    let made = reply.expect(201).json();
    let id = made["id"].as_str().expect("id").to_owned();
    assert_eq!(made["name"], "My source");
    let put = server.call("PUT", server.org(&format!("sources/{id}/documents?documentId=http://a"))).json("{}");
    let push = accepted(&put.send().await.expect(202));
    server.done(&push).await;
    let catalog =
        json!({ "sourceType": "CATALOG", "name": "Shop", "sourceVisibility": "SHARED", "streamEnabled": true });
    let made = server.call("POST", server.rest("sources")).json(catalog).send().await.expect(201).json();
    let open = server.org(&format!("sources/{}/stream/open", made["id"].as_str().unwrap()));
    server.call("POST", open).json("{}").send().await.expect(201);

    let list = server.call("GET", server.rest("sources")).send().await.expect(200).json();
    assert_eq!(list.as_array().unwrap().len(), 4, "{list}");
    let pages = server.call("GET", server.rest("sources/pages?page=0&perPage=3")).send().await.expect(200).json();
    assert_eq!(pages["sourceModels"].as_array().unwrap().len(), 3, "{pages}");
    assert_eq!((&pages["totalEntries"], &pages["totalPages"]), (&json!(4), &json!(2)), "{pages}");
    let pages = server.call("GET", server.rest("sources/pages?filter=My%20source")).send().await.expect(200).json();
    assert_eq!(pages["totalEntries"], 1, "{pages}");
    assert_eq!(pages["sourceModels"][0]["id"], id.as_str(), "{pages}");

    let one = server.rest(&format!("sources/{id}"));
    assert_eq!(server.call("GET", one.clone()).send().await.expect(200).json()["name"], "My source");
    let renamed = json!({ "name": "Renamed" });
    let reply = server.call("PUT", one.clone()).json(renamed).send().await.expect(200);
    assert_eq!(reply.json()["name"], "Renamed");
    server.call("DELETE", one.clone()).refused(412, "INVALID_PARAMETER").await;
    let delete = server.org(&format!("sources/{id}/documents?documentId=http://a"));
    server.done(&accepted(&server.call("DELETE", delete).send().await.expect(202))).await;
    let gone = server.call("DELETE", one.clone()).send().await;
    assert!([200, 204].contains(&gone.status), "{}", gone.text());
    assert!([404, 412].contains(&server.call("GET", one).send().await.status));
    server.call("POST", server.rest("sources")).json("{}").refused(400, "INVALID_JSON").await;
    server.call("POST", server.rest("sources")).bearer(&items).json(source).refused(403, "ACCESS_DENIED").await;
}

/// The id of a new source ends in letters of its own.
fn rewritten(mut reply: crate::harness::Reply) -> crate::harness::Reply {
    let mut body = reply.json();
    body["id"] = json!("[new source]");
    reply.body = body.to_string().into_bytes();
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_ids_are_bounded() {
    let server = Server::start_with(|config| config.create_providers = true).await;
    let long = "x".repeat(256);
    let create = |name: &str| server.call("POST", server.rest("sources")).json(json!({ "name": name }));
    for name in [long.as_str(), "a\0b", "a\nb"] {
        create(name).refused(412, "INVALID_PARAMETER").await;
        let path = server.rest(&format!("sources/{}", server.source));
        server.call("PUT", path).json(json!({ "name": name })).refused(412, "INVALID_PARAMETER").await;
        let id = crate::harness::encode(name);
        let put = server.call("PUT", server.rest(&format!("securityproviders/{id}")));
        let reply = put.json("{}").refused(412, "INVALID_PARAMETER").await;
        assert!(reply.json()["message"].as_str().unwrap().starts_with("`providerId` "), "{}", reply.text());
        let member = json!({ "identity": { "name": "a", "type": "USER" }, "members": [] });
        let put = server.call("PUT", server.org(&format!("providers/{id}/permissions")));
        put.json(member).refused(412, "INVALID_PARAMETER").await;
    }
    create(&"é".repeat(255)).send().await.expect(201);
    let id = crate::harness::encode(&"é".repeat(255));
    server.call("PUT", server.rest(&format!("securityproviders/{id}"))).json("{}").send().await.expect(200);
}
