//! Files declared, found, listed, changed and deleted.

use serde_json::{Value, json};

use super::ids;
use crate::harness::{Server, snapshot};

/// A file with everything that can be said about it.
fn everything() -> Value {
    json!({
        "name": "Annual report.pdf",
        "externalId": "report-1",
        "directory": "/reports/2026",
        "source": "archive",
        "mimeType": "application/pdf",
        "metadata": { "year": "2026", "kind": "annual" },
        "assetIds": [7, 5],
        "dataSetId": 12,
        "labels": [{ "externalId": "pump" }, { "externalId": "valve" }],
        "securityCategories": [3],
        "geoLocation": { "type": "Feature", "geometry": { "type": "Point", "coordinates": [10.5, 59.9] }, "properties": { "a": 1 } },
        "sourceCreatedTime": 1_600_000_000_000_i64,
        "sourceModifiedTime": 1_600_000_000_001_i64,
        "somethingElse": true,
        "directoryNot": null,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn check_02_a_new_file() {
    let server = Server::start().await;
    let reply = server.on_files("", json!({ "name": "a", "source": null })).send().await.expect(201);
    reply.identified();
    let file = reply.json();
    assert_eq!((&file["name"], &file["uploaded"]), (&json!("a"), &json!(false)));
    assert!(file["id"].as_i64().is_some_and(|id| (1..1 << 53).contains(&id)), "{file}");
    let url = file["uploadUrl"].as_str().expect("uploadUrl");
    assert!(url.starts_with(&format!("http://{}/", server.address)), "{url}");
    let times = ["createdTime", "lastUpdatedTime"].map(|name| file[name].as_i64().expect(name));
    assert_eq!(times[0], times[1]);
    let fields: Vec<_> = file.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["createdTime", "id", "lastUpdatedTime", "name", "uploadUrl", "uploaded"], "nothing is null");
    let whole = server.on_files("", everything()).send().await.expect(201);
    let mut shown = whole.json();
    for name in ["createdTime", "lastUpdatedTime", "uploadUrl"] {
        shown[name] = json!(format!("[{name}]"));
    }
    snapshot!("cognite_new_file", server, crate::harness::Reply { body: shown.to_string().into_bytes(), ..whole });
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_15_files_by_ids_in_the_order_asked_for() {
    let server = Server::start().await;
    let mut made = Vec::new();
    for n in 0..4 {
        made.push(server.declare(json!({ "name": "x", "externalId": format!("e{n}") })).await["id"].as_i64().unwrap());
    }
    made.reverse();
    let items: Vec<Value> = made.iter().map(|id| json!({ "id": id })).collect();
    let found = server.on_files("/byids", json!({ "items": items })).send().await.items();
    assert_eq!(ids(&found), made);
    assert!(found.iter().all(|file| file["uploadUrl"].is_null()), "{found:?}");
    let mixed = json!({ "items": [{ "externalId": "e2" }, { "id": made[3] }] });
    assert_eq!(ids(&server.on_files("/byids", mixed).send().await.items()), [made[1], made[3]]);
    let one = server.call("GET", server.project(&format!("/files/{}", made[0]))).send().await.expect(200);
    assert_eq!(one.json(), found[0]);
    server.call("GET", server.project("/files/x")).send().await.failure(400);
    let unknown = server.call("GET", server.project("/files/999999")).send().await.failure(400);
    assert_eq!(unknown["missing"], json!([{ "id": 999_999 }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_16_lists_in_pages_and_parts() {
    let server = Server::start().await;
    let mut made = Vec::new();
    for n in 0..5 {
        made.push(server.declare(json!({ "name": format!("f{n}") })).await["id"].as_i64().unwrap());
    }
    let mut seen = Vec::new();
    let mut sizes = Vec::new();
    let mut cursor = Value::Null;
    loop {
        let page = server.on_files("/list", json!({ "limit": 2, "cursor": cursor })).send().await;
        seen.extend(ids(&page.items()));
        sizes.push(page.items().len());
        match page.json().get("nextCursor") {
            Some(next) => cursor = next.clone(),
            None => break,
        }
    }
    assert_eq!((sizes, &seen), (vec![2, 2, 1], &made));
    let mut parts = Vec::new();
    for part in 1..=3 {
        let body = json!({ "partition": format!("{part}/3"), "cursor": null, "limit": 1000 });
        let page = server.on_files("/list", body).send().await;
        assert!(page.json().get("nextCursor").is_none());
        parts.extend(ids(&page.items()));
    }
    parts.sort_unstable();
    assert_eq!(parts, made);
    // By GET: the same, a limit that is too high is cut.
    let page = server.call("GET", server.project("/files?limit=1001")).send().await;
    assert_eq!(ids(&page.items()), made);
    let first = server.call("GET", server.project("/files/?limit=3")).send().await;
    let next = first.json()["nextCursor"].as_str().unwrap().to_owned();
    let rest = server.call("GET", server.project(&format!("/files?limit=3&cursor={next}"))).send().await;
    assert_eq!(ids(&rest.items()), made[3..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_finds_its_files_and_no_others() {
    let server = Server::start().await;
    let rich = server.declare(everything()).await;
    let (rich, created) = (rich["id"].as_i64().unwrap(), rich["createdTime"].as_i64().unwrap());
    let poor =
        server.declare(json!({ "name": "poor", "metadata": { "year": "2025" }, "labels": [{ "externalId": "pump" }] }));
    let poor = poor.await["id"].as_i64().unwrap();
    let full = server
        .with_content(json!({ "name": "full", "externalId": "report-2", "directory": "/reports/2027" }), b"x")
        .await;
    let all = [rich, poor, full];
    let square = |from: i64, to: i64| json!({ "type": "Polygon", "coordinates": [[[from, from], [to, from], [to, to], [from, to], [from, from]]] });
    for (filter, expected) in [
        (json!({}), &all[..]),
        (Value::Null, &all),
        (json!({ "name": "poor" }), &[poor]),
        (json!({ "name": "Poor" }), &[]),
        (json!({ "mimeType": "application/pdf" }), &[rich]),
        (json!({ "source": "archive" }), &[rich]),
        (json!({ "source": null }), &all),
        (json!({ "metadata": { "year": "2026" } }), &[rich]),
        (json!({ "metadata": { "year": "2026", "kind": "x" } }), &[]),
        (json!({ "metadata": { "year": "2026", "kind": "annual" } }), &[rich]),
        (json!({ "metadata": {} }), &all),
        (json!({ "assetIds": [5] }), &[rich]),
        (json!({ "assetIds": [6, 7] }), &[rich]),
        (json!({ "assetIds": [6] }), &[]),
        (json!({ "dataSetIds": [{ "id": 12 }, { "id": 13 }] }), &[rich]),
        (json!({ "labels": { "containsAny": [{ "externalId": "pump" }, { "externalId": "x" }] } }), &[rich, poor]),
        (json!({ "labels": { "containsAll": [{ "externalId": "pump" }, { "externalId": "valve" }] } }), &[rich]),
        (json!({ "directoryPrefix": "/reports" }), &[rich, full]),
        (json!({ "directoryPrefix": "/reports/2027" }), &[full]),
        (json!({ "externalIdPrefix": "report-" }), &[rich, full]),
        (json!({ "externalIdPrefix": "Report-" }), &[]),
        (json!({ "uploaded": true }), &[full]),
        (json!({ "uploaded": false }), &[rich, poor]),
        (json!({ "createdTime": { "min": created } }), &all),
        (json!({ "createdTime": { "max": created - 1 } }), &[]),
        (json!({ "lastUpdatedTime": { "min": created, "max": created + 600_000 } }), &all),
        (json!({ "uploadedTime": { "min": 0 } }), &[full]),
        (json!({ "uploadedTime": {} }), &[full]),
        (json!({ "sourceCreatedTime": { "min": 1_600_000_000_000_i64, "max": 1_600_000_000_000_i64 } }), &[rich]),
        (json!({ "sourceModifiedTime": { "max": 1_600_000_000_000_i64 } }), &[]),
        (json!({ "geoLocation": { "relation": "WITHIN", "shape": square(0, 90) } }), &[rich]),
        (json!({ "geoLocation": { "relation": "intersects", "shape": square(0, 9) } }), &[]),
        (json!({ "geoLocation": { "relation": "DISJOINT", "shape": square(0, 9) } }), &[rich]),
        (json!({ "name": "full", "uploaded": true, "directoryPrefix": "/", "createdTime": { "min": 1 } }), &[full]),
        (
            json!({ "uploaded": false, "labels": { "containsAny": [{ "externalId": "pump" }] }, "directoryPrefix": "/r" }),
            &[rich],
        ),
    ] {
        let list = server.on_files("/list", json!({ "filter": filter })).send().await;
        assert_eq!(ids(&list.items()), expected, "{filter}");
        let search = server.on_files("/search", json!({ "filter": filter, "search": { "name": null } })).send().await;
        assert_eq!(ids(&search.items()), expected, "{filter}");
        let count = server.on_files("/aggregate", json!({ "filter": filter })).send().await.items();
        assert_eq!(count, [json!({ "count": expected.len() })], "{filter}");
    }
    for (query, expected) in [
        ("name=poor", &[poor][..]),
        ("uploaded=True", &[full]),
        ("assetIds=[5,6]", &[rich]),
        ("externalIdPrefix=report-&source=archive", &[rich]),
        ("dataSetIds=[{\"id\":12}]", &[rich]),
    ] {
        let list = server.call("GET", server.project(&format!("/files?{query}"))).send().await;
        assert_eq!(ids(&list.items()), expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_searched_the_best_first() {
    let server = Server::start().await;
    let mut made = Vec::new();
    for name in ["old REPORT.pdf", "Report", "report_2.pdf", "other", "the reportage of 2026"] {
        made.push(server.declare(json!({ "name": name })).await["id"].as_i64().unwrap());
    }
    let search = async |name: &str, limit: u32| {
        let body = json!({ "search": { "name": name }, "limit": limit });
        ids(&server.on_files("/search", body).send().await.items())
    };
    assert_eq!(search("report", 10).await, [made[1], made[2], made[0], made[4]]);
    assert_eq!(search("RePorT", 2).await, [made[1], made[2]]);
    assert_eq!(search("2026 report", 10).await, [made[4]]);
    assert_eq!(search("%", 10).await, [0; 0]);
    assert_eq!(search("  ", 10).await, made);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_17_changes() {
    let server = Server::start().await;
    let id = server.with_content(everything(), b"content").await;
    let before = server.by_id(id).await;
    let update = json!({ "items": [{ "id": id, "update": {
        "source": { "setNull": true },
        "metadata": { "add": { "new": "1", "year": "2030" }, "remove": ["kind"] },
        "labels": { "add": [{ "externalId": "new" }] },
        "assetIds": { "remove": [7], "add": [8] },
        "dataSetId": { "set": 13 },
    } }] });
    let after = server.on_files("/update", update).send().await.items()[0].clone();
    assert!(after.get("source").is_none());
    assert_eq!(after["metadata"], json!({ "new": "1", "year": "2030" }));
    assert_eq!(after["labels"], json!([{ "externalId": "pump" }, { "externalId": "valve" }, { "externalId": "new" }]));
    assert_eq!((&after["assetIds"], &after["dataSetId"]), (&json!([5, 8]), &json!(13)));
    assert_eq!(after, server.by_id(id).await);
    for kept in ["name", "externalId", "directory", "mimeType", "uploadedTime", "createdTime", "geoLocation"] {
        assert_eq!(after[kept], before[kept], "{kept}");
    }
    assert_eq!(server.download(id).await.expect(200).body, b"content");
    // What it was found by before finds it no more.
    for (filter, count) in [
        (json!({ "source": "archive" }), 0),
        (json!({ "metadata": { "kind": "annual" } }), 0),
        (json!({ "metadata": { "new": "1" } }), 1),
        (json!({ "assetIds": [7] }), 0),
        (json!({ "assetIds": [8] }), 1),
    ] {
        let found = server.on_files("/aggregate", json!({ "filter": filter })).send().await.items();
        assert_eq!(found[0]["count"], count, "{filter}");
    }
    // As the client's mode `replace` sends it.
    let empty = json!({ "items": [{ "externalId": "report-1", "update": {
        "directory": { "setNull": true }, "metadata": { "set": {} }, "assetIds": { "set": [] }, "labels": { "set": [] },
        "geoLocation": { "setNull": true }, "sourceCreatedTime": { "setNull": true }, "mimeType": { "set": "text/plain" },
        "externalId": { "set": "report-9" }, "dataSetId": { "setNull": true }, "securityCategories": { "set": [] },
        "sourceModifiedTime": { "set": 5 },
    } }] });
    let after = server.on_files("/update", empty).send().await.items()[0].clone();
    let fields: Vec<_> = after.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        fields,
        [
            "createdTime",
            "externalId",
            "id",
            "lastUpdatedTime",
            "mimeType",
            "name",
            "sourceModifiedTime",
            "uploaded",
            "uploadedTime"
        ]
    );
    assert_eq!(server.download(id).await.header("content-type"), Some("text/plain"));
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_18_deleted_files_free_their_names() {
    let server = Server::start().await;
    let id = server.with_content(json!({ "name": "a", "externalId": "x" }), b"old").await;
    let waiting = server.declare(json!({ "name": "b", "externalId": "y" })).await;
    let body = json!({ "items": [{ "id": id }, { "externalId": "y" }] });
    let reply = server.on_files("/delete", body).send().await.expect(200);
    assert_eq!(reply.text(), "{}");
    assert_eq!(server.how_many().await, 0);
    let again = server.declare(json!({ "name": "a", "externalId": "x" })).await;
    assert!(again["id"].as_i64().unwrap() > waiting["id"].as_i64().unwrap(), "a number is never used again");
    assert_eq!(again["uploaded"], false);
    // Nothing can be sent to what is gone.
    server.bare("PUT", waiting["uploadUrl"].as_str().unwrap()).body(b"late".to_vec()).send().await.failure(404);
    assert_eq!(server.get("/files").await["items"], json!([]));
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_19_who_the_token_is() {
    let server = Server::start().await;
    let reply = server.call("GET", "/api/v1/token/inspect").send().await.expect(200);
    reply.identified();
    let body = reply.json();
    assert!(body["subject"].as_str().is_some_and(|subject| !subject.is_empty()));
    assert_eq!(body["projects"], json!([{ "projectUrlName": server.tenant, "groups": [] }]));
    assert_eq!(body["capabilities"][0]["filesAcl"]["actions"], json!(["READ", "WRITE"]));
    let key = server.key_with(&server.tenant, "read").await;
    let body = server.call("GET", "/api/v1/token/inspect").bearer(&key).send().await.expect(200).json();
    assert_eq!(body["capabilities"][0]["filesAcl"]["actions"], json!(["READ"]));
    server.call("GET", "/api/v1/token/inspect").anonymous().send().await.failure(401);
}
