//! What time and deletion do to files, and nodes that are files.

use std::time::Duration;

use landfall::upload::sweep::Sweeper;
use serde_json::{Value, json};

use super::ids;
use crate::harness::Server;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Sweeps as a server does that runs on for so long.
async fn sweep_over(server: &Server, time: Duration) {
    let mut sweeper = Sweeper::default();
    sweeper.sweep(server.engine()).await.unwrap();
    server.clock.advance(time);
    sweeper.sweep(server.engine()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_53_a_file_whose_content_never_comes() {
    let server = Server::start().await;
    server.declare(json!({ "name": "a", "externalId": "x", "metadata": { "k": "v" } })).await;
    let full = server.with_content(json!({ "name": "b", "externalId": "y" }), b"content").await;
    let stale = server.on_files("/multiuploadlink?parts=2", json!({ "items": [{ "id": full }] })).send().await.items();
    server.bare("PUT", stale[0]["uploadUrls"][0].as_str().unwrap()).body(b"part".to_vec()).send().await.expect(200);
    server.admin(&["node", "create", "--tenant", &server.tenant, "--space", "s", "n"]).await;
    sweep_over(&server, 6 * DAY).await;
    assert_eq!(server.how_many().await, 3);
    // A link that was asked for since lets it wait longer.
    let waits = server.declare(json!({ "name": "c" })).await["id"].as_i64().unwrap();
    sweep_over(&server, DAY + Duration::from_secs(1)).await;
    let left = server.on_files("/list", "{}").send().await.items();
    assert_eq!(ids(&left).iter().filter(|id| [full, waits].contains(id)).count(), 2);
    assert_eq!(left.len(), 3, "the node's file stays as well: {left:?}");
    server.declare(json!({ "name": "a", "externalId": "x" })).await;
    assert_eq!(server.download(full).await.expect(200).body, b"content");
    // The bytes of the part that nobody completed go with their session.
    let usage = server.get("/usage").await;
    assert_eq!(usage["bytes"], 7, "{usage}");
    sweep_over(&server, 2 * DAY).await;
    let found = server.on_files("/aggregate", json!({ "filter": { "metadata": { "k": "v" } } })).send().await.items();
    assert_eq!(found[0]["count"], 0);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_deleted_by_our_own_api_leaves_the_catalogue() {
    let server = Server::start().await;
    let id =
        server.with_content(json!({ "name": "a.txt", "externalId": "x", "mimeType": "text/plain" }), b"content").await;
    let files = server.get("/files").await;
    let (name, file) = (&files["items"][0]["name"], files["items"][0]["id"].as_str().unwrap().to_owned());
    assert_eq!(name, "a.txt");
    server.native("DELETE", &format!("/files/{file}?force=true")).send().await.expect(204);
    let error = server.on_files("/byids", json!({ "items": [{ "id": id }] })).send().await.failure(400);
    assert_eq!(error["missing"], json!([{ "id": id }]));
    server.declare(json!({ "name": "b", "externalId": "x" })).await;
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_source_in_the_view_of_files_is_a_file() {
    let server = Server::start().await;
    let instances = |path: &str, body: Value| {
        server.call("POST", server.project(&format!("/models/instances{path}"))).json(body).send()
    };
    let view = json!({ "type": "view", "space": "cdf_cdm", "externalId": "CogniteFile", "version": "v1" });
    let node = |properties: Value| {
        let sources = json!([{ "source": view, "properties": properties }]);
        json!({ "items": [{ "instanceType": "node", "space": "s", "externalId": "n", "sources": sources }] })
    };
    let made = instances("", node(json!({ "name": "n.txt", "mimeType": "text/plain", "tags": ["a"] }))).await.items();
    assert_eq!(
        (&made[0]["space"], &made[0]["externalId"], &made[0]["instanceType"]),
        (&json!("s"), &json!("n"), &json!("node"))
    );
    let id = json!({ "instanceId": { "space": "s", "externalId": "n" } });
    let file = server.on_files("/byids", json!({ "items": [id] })).send().await.items()[0].clone();
    assert_eq!(
        (&file["name"], &file["mimeType"], &file["instanceId"]),
        (&json!("n.txt"), &json!("text/plain"), &id["instanceId"])
    );
    let url = server.on_files("/uploadlink", json!({ "items": [id] })).send().await.items()[0]["uploadUrl"].clone();
    server.bare("PUT", url.as_str().unwrap()).body(b"content".to_vec()).send().await.expect(200);
    // Applied again: what is said changes, the content stays.
    instances("", node(json!({ "directory": "d", "mimeType": null }))).await.items();
    let ask = json!({ "items": [{ "instanceType": "node", "space": "s", "externalId": "n" }, { "instanceType": "node", "space": "s", "externalId": "x" }], "sources": [{ "source": view }] });
    let found = instances("/byids", ask).await.items();
    assert_eq!(found.len(), 1, "unknown ones are left out");
    let mut properties = found[0]["properties"]["cdf_cdm"]["CogniteFile/v1"].clone();
    assert!(properties["uploadedTime"].as_str().is_some_and(|time| time.ends_with("+00:00")));
    properties["uploadedTime"] = Value::Null;
    assert_eq!(
        properties,
        json!({ "name": "n.txt", "directory": "d", "tags": ["a"], "isUploaded": true, "uploadedTime": null })
    );
    let number = file["id"].as_i64().unwrap();
    assert_eq!(server.download(number).await.body, b"content");
    // Only some of it can be changed as a file's.
    let update =
        |change: Value| server.on_files("/update", json!({ "items": [{ "id": number, "update": change }] })).send();
    update(json!({ "metadata": { "set": { "a": "b" } }, "externalId": { "set": "e" } })).await.expect(200);
    update(json!({ "source": { "set": "a" } })).await.names("instanceId");
    server.on_files("/delete", json!({ "items": [{ "id": number }] })).send().await.names("instanceId");
    for bad in [
        node(json!({ "isUploaded": true })),
        node(json!({ "name": 5 })),
        json!({ "items": [{ "instanceType": "edge", "space": "s", "externalId": "n", "sources": [] }] }),
        json!({ "items": [{ "instanceType": "node", "space": "s", "externalId": "m" }] }),
        json!({ "items": [{ "instanceType": "node", "space": "s", "externalId": "m", "sources": [{ "source": { "space": "cdf_cdm", "externalId": "CogniteAsset", "version": "v1" }, "properties": {} }] }] }),
    ] {
        instances("", bad).await.failure(400);
    }
    let gone = json!({ "items": [{ "instanceType": "node", "space": "s", "externalId": "n" }, { "instanceType": "node", "space": "s", "externalId": "x" }] });
    assert_eq!(instances("/delete", gone).await.items().len(), 1);
    assert_eq!(server.how_many().await, 0);
    server.leaves_everything_whole().await;
}
