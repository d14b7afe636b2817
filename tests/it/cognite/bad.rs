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
