//! What is refused, with its exact status, and changes nothing.

use serde_json::{Value, json};

use crate::harness::Server;

/// The answer to a body of `POST /files` that must be refused.
async fn refused(server: &Server, body: Value) -> crate::harness::Reply {
    let before = server.how_many().await;
    let reply = server.on_files("", body).send().await;
    assert_eq!(server.how_many().await, before);
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn check_25_bodies_and_names() {
    let server = Server::start().await;
    for body in ["", "[]", "{", "null", "1", "{} x", "\"a\""] {
        server.on_files("", body).send().await.failure(400);
        server.on_files("/list", body).send().await.failure(400);
    }
    for name in [Value::Null, json!(""), json!("ä".repeat(257)), json!(7)] {
        refused(&server, json!({ "name": name })).await.names("name");
    }
    refused(&server, json!({})).await.names("name");
    server.declare(json!({ "name": "ä".repeat(256) })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_26_fields() {
    let server = Server::start().await;
    let pairs: serde_json::Map<_, _> = (0..257).map(|n| (n.to_string(), json!(""))).collect();
    for (field, value) in [
        ("directory", json!("reports")),
        ("directory", json!("")),
        ("source", json!("x".repeat(129))),
        ("mimeType", json!("x".repeat(257))),
        ("externalId", json!("x".repeat(256))),
        ("externalId", json!("")),
        ("externalId", json!(5)),
        ("metadata", json!({ "a": 5 })),
        ("metadata", json!({ "a": null })),
        ("metadata", json!([])),
        ("metadata", Value::Object(pairs)),
        ("metadata", json!({ "k": "x".repeat(10_241) })),
        ("metadata", json!({ "x".repeat(129): "" })),
        ("assetIds", json!([1.5])),
        ("assetIds", json!([1, 1])),
        ("assetIds", json!(1)),
        ("dataSetId", json!("x")),
        ("labels", json!(["x"])),
        ("labels", json!([{ "externalId": "" }])),
        ("labels", json!((0..11).map(|n| json!({ "externalId": n.to_string() })).collect::<Vec<_>>())),
        ("securityCategories", json!(["x"])),
        ("sourceCreatedTime", json!("today")),
        ("geoLocation", json!("x")),
        ("geoLocation", json!({ "type": "Point", "coordinates": [1, 2] })),
        ("geoLocation", json!({ "type": "Feature" })),
        ("geoLocation", json!({ "type": "Feature", "geometry": { "type": "Circle", "coordinates": [1, 2] } })),
        ("geoLocation", json!({ "type": "Feature", "geometry": { "type": "Point", "coordinates": [1] } })),
    ] {
        refused(&server, json!({ "name": "a", field: value })).await.names(field);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_27_an_external_id_is_taken() {
    let server = Server::start().await;
    server.declare(json!({ "name": "a", "externalId": "x" })).await;
    let error = server.on_files("", json!({ "name": "b", "externalId": "x" })).send().await.failure(409);
    assert_eq!((&error["duplicated"], &error["missing"]), (&json!([{ "externalId": "x" }]), &Value::Null));
    let path = "/initmultipartupload?parts=2&overwrite=False";
    server.on_files(path, json!({ "name": "b", "externalId": "x" })).send().await.failure(409);
    assert_eq!(server.how_many().await, 1);
    // Another project has its own.
    let other = server.neighbour().await;
    let path = format!("/api/v1/projects/{}/files", other.tenant);
    let reply =
        server.call("POST", path).bearer(&other.key).json(json!({ "name": "a", "externalId": "x" })).send().await;
    reply.expect(201);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_41_bad_identifiers() {
    let server = Server::start().await;
    let id = server.declare(json!({ "name": "a", "externalId": "x" })).await["id"].as_i64().unwrap();
    let many: Vec<_> = (0..1001).map(|n| json!({ "id": n + 1 })).collect();
    for items in [
        Value::Array(many),
        json!([]),
        json!([{ "id": id }, { "id": id }]),
        json!([{ "id": id }, { "externalId": "x" }]),
        json!([{ "id": id, "externalId": "x" }]),
        json!([{}]),
        json!([{ "id": 1.5 }]),
        json!([{ "id": null }]),
        json!("x"),
        Value::Null,
    ] {
        server.on_files("/byids", json!({ "items": items })).send().await.failure(400);
    }
    // One file by two of its names: nothing changes.
    let edit = json!({ "source": { "set": "s" } });
    let twice = json!([{ "id": id, "update": edit }, { "externalId": "x", "update": edit }]);
    server.on_files("/update", json!({ "items": twice })).send().await.failure(400);
    server.on_files("/delete", json!({ "items": [{ "externalId": "x" }, { "id": id }] })).send().await.failure(400);
    let file = server.on_files("/byids", json!({ "items": [{ "id": id }] })).send().await.items().remove(0);
    assert!(file["source"].is_null(), "{file}");
    let two = json!([{ "id": id }, { "externalId": "y" }]);
    let error = server.on_files("/byids", json!({ "items": two })).send().await.failure(400);
    assert_eq!(error["missing"], json!([{ "externalId": "y" }]));
    let found = server.on_files("/byids", json!({ "items": two, "ignoreUnknownIds": true })).send().await.items();
    assert_eq!(super::ids(&found), [id]);
    // Another project's files are unknown.
    let other = server.neighbour().await;
    let path = format!("/api/v1/projects/{}/files/byids", other.tenant);
    let reply = server.call("POST", path).bearer(&other.key).json(json!({ "items": [{ "id": id }] })).send().await;
    assert_eq!(reply.failure(400)["missing"], json!([{ "id": id }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_42_bad_lists() {
    let server = Server::start().await;
    for n in 0..3 {
        server.declare(json!({ "name": format!("f{n}") })).await;
    }
    for limit in [json!(0), json!(1001), json!(-1), json!("5"), json!(1.5)] {
        server.on_files("/list", json!({ "limit": limit })).send().await.names("limit");
        server.on_files("/search", json!({ "limit": limit })).send().await.names("limit");
    }
    for limit in ["0", "-1", "x"] {
        server.call("GET", server.project(&format!("/files?limit={limit}"))).send().await.names("limit");
    }
    for partition in ["1/11", "0/3", "4/3", "x"] {
        server.on_files("/list", json!({ "partition": partition })).send().await.names("partition");
    }
    let page = server.on_files("/list", json!({ "limit": 1 })).send().await.json();
    let cursor = page["nextCursor"].as_str().unwrap();
    for (cursor, filter) in [
        ("x".to_owned(), json!({})),
        (String::new(), json!({})),
        (cursor.to_uppercase(), json!({})),
        (cursor.to_owned(), json!({ "uploaded": false })),
    ] {
        server.on_files("/list", json!({ "cursor": cursor, "filter": filter })).send().await.names("cursor");
    }
    server.on_files("/list", json!({ "cursor": 5 })).send().await.names("cursor");
    for (field, value) in [
        ("assetSubtreeIds", json!([{ "id": 1 }])),
        ("createdTime", json!({ "minimum": 9_000_000_000_000_000_u64 })),
        ("labels", json!({ "containsAny": [{ "externalId": "x" }], "containsSome": [] })),
        ("geoLocation", json!({ "relation": "WITHIN", "shape": { "type": "Point", "coordinates": [1, 1] }, "x": 1 })),
        ("rootAssetIds", json!([1])),
        ("assetExternalIds", json!(["x"])),
        ("dataSetIds", json!([{ "externalId": "x" }])),
        ("dataSetIds", json!([1])),
        ("namePrefix", json!("x")),
        ("name", json!(1)),
        ("metadata", json!({ "a": 1 })),
        ("labels", json!({ "containsAny": ["x"] })),
        ("labels", json!({})),
        ("labels", json!({ "containsAny": [], "containsAll": [] })),
        ("createdTime", json!({ "min": "x" })),
        ("uploaded", json!("true")),
        ("geoLocation", json!({ "relation": "NEAR", "shape": { "type": "Point", "coordinates": [1, 2] } })),
        ("geoLocation", json!({ "relation": "WITHIN", "shape": { "type": "Circle" } })),
    ] {
        for path in ["/list", "/search", "/aggregate"] {
            server.on_files(path, json!({ "filter": { field: value } })).send().await.names(field);
        }
    }
    server.call("GET", server.project("/files?filter=x")).send().await.names("filter");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_43_bad_changes() {
    let server = Server::start().await;
    let one = server.declare(json!({ "name": "a", "externalId": "x", "source": "s" })).await["id"].as_i64().unwrap();
    let two = server.declare(json!({ "name": "b", "externalId": "y" })).await["id"].as_i64().unwrap();
    let before = server.by_id(one).await;
    let update =
        |update: Value| server.on_files("/update", json!({ "items": [{ "id": one, "update": update }] })).send();
    for (field, change) in [
        ("name", json!({ "name": { "set": "c" } })),
        ("source", json!({ "source": { "set": "a", "setNull": true } })),
        ("source", json!({ "source": {} })),
        ("source", json!({ "source": "a" })),
        ("source", json!({ "source": { "set": 5 } })),
        ("source", json!({ "source": { "add": ["a"] } })),
        ("source", json!({ "source": { "set": "x".repeat(129) } })),
        ("metadata", json!({ "metadata": { "set": {}, "add": { "a": "b" } } })),
        ("metadata", json!({ "metadata": { "remove": [1] } })),
        ("metadata", json!({ "metadata": { "add": { "a": "x".repeat(10_241) } } })),
        ("assetIds", json!({ "assetIds": { "set": [1], "remove": [2] } })),
        ("assetIds", json!({ "assetIds": { "add": ["x"] } })),
        ("labels", json!({ "labels": { "set": [{ "externalId": "a" }], "add": [] } })),
        ("directory", json!({ "directory": { "set": "no slash" } })),
        ("geoLocation", json!({ "geoLocation": { "set": { "type": "Circle" } } })),
    ] {
        update(change).await.names(field);
    }
    server.on_files("/update", json!({ "items": [{ "id": one }] })).send().await.names("update");
    let source = json!({ "source": { "set": "new" } });
    let unknown = json!({ "items": [{ "id": one, "update": source }, { "externalId": "z", "update": source }] });
    let error = server.on_files("/update", unknown).send().await.failure(400);
    assert_eq!(error["missing"], json!([{ "externalId": "z" }]));
    let taken =
        json!({ "items": [{ "id": one, "update": { "source": { "set": "new" }, "externalId": { "set": "y" } } }] });
    let error = server.on_files("/update", taken).send().await.failure(409);
    assert_eq!(error["duplicated"], json!([{ "externalId": "y" }]));
    let same = json!({ "externalId": { "set": "q" } });
    let both = json!({ "items": [{ "id": one, "update": same }, { "id": two, "update": same }] });
    server.on_files("/update", both).send().await.failure(409);
    assert_eq!(server.by_id(one).await, before);
    // Two files may exchange their ids.
    let exchange = json!({ "items": [
        { "id": one, "update": { "externalId": { "set": "y" } } }, { "id": two, "update": { "externalId": { "set": "x" } } },
    ] });
    let found = server.on_files("/update", exchange).send().await.items();
    assert_eq!((&found[0]["externalId"], &found[1]["externalId"]), (&json!("y"), &json!("x")));
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_44_bad_deletions() {
    let server = Server::start().await;
    let id = server.declare(json!({ "name": "a", "externalId": "x" })).await["id"].as_i64().unwrap();
    let both = json!([{ "id": id }, { "externalId": "y" }]);
    let error = server.on_files("/delete", json!({ "items": both })).send().await.failure(400);
    assert_eq!(error["missing"], json!([{ "externalId": "y" }]));
    server.by_id(id).await;
    server.admin(&["node", "create", "--tenant", &server.tenant, "--space", "s", "n"]).await;
    let node = json!({ "items": [{ "instanceId": { "space": "s", "externalId": "n" } }, { "id": id }] });
    server.on_files("/delete", node).send().await.names("instanceId");
    server.by_id(id).await;
    let reply = server.on_files("/delete", json!({ "items": both, "ignoreUnknownIds": true })).send().await.expect(200);
    assert_eq!(reply.text(), "{}");
    server.on_files("/byids", json!({ "items": [{ "id": id }] })).send().await.failure(400);
}
