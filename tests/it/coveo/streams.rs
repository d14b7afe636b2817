//! Checks 38 to 40: streams into sources that take them.

use serde_json::{Value, json};

use crate::harness::{Server, accepted, is_uuid, snapshot};

async fn open(server: &Server) -> Value {
    server.call("POST", server.cat("stream/open")).json("{}").send().await.expect(201).json()
}

async fn chunk(server: &Server, stream: &str, content: Value) -> String {
    let path = server.cat(&format!("stream/{stream}/chunk"));
    let body = server.call("POST", path).json("{}").send().await.expect(200).json();
    server.upload(body["uploadUri"].as_str().unwrap(), content.to_string()).send().await.expect(200);
    body["fileId"].as_str().unwrap().to_owned()
}

async fn close(server: &Server, stream: &str) -> Value {
    let path = server.cat(&format!("stream/{stream}/close"));
    let reply = server.call("POST", path).json("{}").send().await.expect(200);
    server.done(&accepted(&reply)).await
}

fn items(ids: &[&str]) -> Value {
    json!({ "addOrUpdate": ids.iter().map(|id| json!({ "documentId": id, "title": id })).collect::<Vec<_>>() })
}

async fn update(server: &Server, content: Value) -> Value {
    let file = server.filled(content.to_string()).await;
    server.call("PUT", server.cat(&format!("stream/update?fileId={file}"))).json("{}").pushed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn check_38_stream_load() {
    let server = Server::start().await;
    update(&server, items(&["http://old", "http://kept"])).await;
    assert_eq!(server.ids(&server.catalog).await, ["http://kept", "http://old"]);

    let reply = server.call("POST", server.cat("stream/open")).json("{}").send().await;
    snapshot!("check_38_stream_open", server, reply);
    let opened = reply.expect(201).json();
    assert!(is_uuid(opened["streamId"].as_str().unwrap()), "{opened}");
    assert!(is_uuid(opened["fileId"].as_str().unwrap()), "{opened}");
    assert_eq!(opened["requiredHeaders"].as_object().unwrap().len(), 2, "{opened}");
    let stream = opened["streamId"].as_str().unwrap();

    chunk(&server, stream, items(&["http://kept", "http://new1"])).await;
    chunk(&server, stream, items(&["http://new2"])).await;
    assert_eq!(server.ids(&server.catalog).await, ["http://kept", "http://old"], "nothing shows before the close");
    let reply = server.call("POST", server.cat(&format!("stream/{stream}/close"))).json("{}").send().await;
    snapshot!("check_38_stream_close", server, reply);
    let push = server.done(&accepted(&reply.expect(200))).await;
    assert_eq!(push["state"], "done", "{push}");
    assert_eq!(server.ids(&server.catalog).await, ["http://kept", "http://new1", "http://new2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_38_stream_load_in_the_first_container() {
    let server = Server::start().await;
    let opened = open(&server).await;
    let content = items(&["http://a"]).to_string();
    server.upload(opened["uploadUri"].as_str().unwrap(), content).send().await.expect(200);
    close(&server, opened["streamId"].as_str().unwrap()).await;
    assert_eq!(server.ids(&server.catalog).await, ["http://a"]);
    // A second open is allowed; the close that comes last wins.
    let (first, second) = (open(&server).await, open(&server).await);
    chunk(&server, first["streamId"].as_str().unwrap(), items(&["http://first"])).await;
    chunk(&server, second["streamId"].as_str().unwrap(), items(&["http://second"])).await;
    close(&server, second["streamId"].as_str().unwrap()).await;
    assert_eq!(server.ids(&server.catalog).await, ["http://second"]);
    close(&server, first["streamId"].as_str().unwrap()).await;
    assert_eq!(server.ids(&server.catalog).await, ["http://first"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_38_a_bad_chunk_refuses_the_whole_load() {
    let server = Server::start().await;
    update(&server, items(&["http://kept"])).await;
    let opened = open(&server).await;
    let stream = opened["streamId"].as_str().unwrap();
    chunk(&server, stream, items(&["http://new"])).await;
    chunk(&server, stream, json!({ "addOrUpdate": [{ "title": "nameless" }] })).await;
    let path = server.cat(&format!("stream/{stream}/close"));
    server.call("POST", path).json("{}").refused(400, "INVALID_JSON").await;
    assert_eq!(server.ids(&server.catalog).await, ["http://kept"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_39_stream_update_and_partial_update() {
    let server = Server::start().await;
    let documents = json!({ "addOrUpdate": [
        { "documentId": "http://a", "colour": "red", "sizes": ["S"], "stock": { "S": 1, "M": 2 } },
        { "documentId": "http://b", "colour": "red", "sizes": ["S"], "stock": { "S": 1, "M": 2 } },
    ]});
    update(&server, documents).await;
    for (id, operators) in [
        ("http://a", ["FIELDVALUEREPLACE", "ARRAYAPPEND", "ARRAYREMOVE", "DICTIONARYPUT", "DICTIONARYREMOVE"]),
        ("http://b", ["fieldValueReplace", "arrayAppend", "arrayRemove", "dictionaryPut", "dictionaryRemove"]),
    ] {
        let patch = |operator: &str, field: &str, value: Value| json!({ "documentId": id, "operator": operator, "field": field, "value": value });
        let push = update(
            &server,
            json!({
                "addOrUpdate": [{ "documentId": format!("{id}/beside") }],
                "partialUpdate": [
                    patch(operators[0], "colour", json!("blue")),
                    patch(operators[1], "sizes", json!(["L", "XL"])),
                    patch(operators[2], "sizes", json!(["S"])),
                    patch(operators[3], "stock", json!({ "L": 3 })),
                    patch(operators[4], "stock", json!("M")),
                ],
            }),
        )
        .await;
        assert_eq!(push["state"], "done", "{push}");
        assert_eq!(push["counts"]["failed"], 0, "{push}");
        let item = server.read_in(&server.catalog, id).await;
        assert_eq!(item["metadata"]["colour"], "blue", "{item}");
        assert_eq!(item["metadata"]["sizes"], json!(["L", "XL"]), "{item}");
        assert_eq!(item["metadata"]["stock"], json!({ "S": 1, "L": 3 }), "{item}");
    }
    assert_eq!(server.ids(&server.catalog).await, ["http://a", "http://a/beside", "http://b", "http://b/beside"]);

    let file = server.filled(r#"{"addOrMerge":[{"documentId":"http://a","colour":"green"}]}"#).await;
    server.call("PUT", server.cat(&format!("stream/merge?fileId={file}"))).json("{}").pushed().await;
    let item = server.read_in(&server.catalog, "http://a").await;
    assert_eq!(item["metadata"]["colour"], "green", "{item}");
    assert_eq!(item["metadata"]["sizes"], json!(["L", "XL"]), "{item}");

    let wrong = server.filled(r#"{"partialUpdate":[{"documentId":"http://a","operator":"x","field":"f","value":1}]}"#);
    let path = server.cat(&format!("stream/update?fileId={}", wrong.await));
    server.call("PUT", path).json("{}").refused(412, "INVALID_PARAMETER").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_39_stream_delete_older_than() {
    let server = Server::start().await;
    update(&server, items(&["http://a"])).await;
    let wait = std::time::Duration::from_millis(5);
    tokio::time::sleep(wait).await;
    let now = server.clock.now().millis();
    tokio::time::sleep(wait).await;
    update(&server, items(&["http://b"])).await;
    let path = server.cat(&format!("stream/deleteolderthan/{now}?queueDelay=0"));
    let reply = server.call("POST", path).json("{}").send().await.expect(201);
    server.done(&accepted(&reply)).await;
    assert_eq!(server.ids(&server.catalog).await, ["http://b"]);
    let path = server.cat("stream/deleteolderthan/yesterday?queueDelay=0");
    server.call("POST", path).refused(412, "INVALID_PARAMETER").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_39_streams_that_are_not_open() {
    let server = Server::start().await;
    let opened = open(&server).await;
    let stream = opened["streamId"].as_str().unwrap();
    chunk(&server, stream, items(&["http://a"])).await;
    let path = server.cat(&format!("stream/{stream}/close"));
    let first = server.call("POST", path.clone()).json("{}").send().await.expect(200).json();
    server.done(first["requestId"].as_str().unwrap()).await;
    let again = server.call("POST", path).json("{}").send().await;
    assert!(
        (again.status == 200 && again.json() == first) || again.status == 412,
        "a close repeated is the first one's answer or a refusal: {}",
        again.text()
    );
    for id in [stream, "60e285b1-58ec-5625-c5c4-53cd2434c19f", "nope"] {
        let path = server.cat(&format!("stream/{id}/chunk"));
        server.call("POST", path).json("{}").refused(412, "INVALID_PARAMETER").await;
    }
    let path = server.cat("stream/60e285b1-58ec-5625-c5c4-53cd2434c19f/close");
    server.call("POST", path).refused(412, "INVALID_PARAMETER").await;
    assert_eq!(server.ids(&server.catalog).await, ["http://a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_40_streams_into_a_push_source() {
    let server = Server::start().await;
    let file = server.filled(items(&["http://a"]).to_string()).await;
    let path = server.src(&format!("stream/update?fileId={file}"));
    server.call("PUT", path).json("{}").refused(412, "INVALID_PARAMETER").await;
    server.call("POST", server.src("stream/open")).json("{}").refused(412, "INVALID_PARAMETER").await;
    let path = server.src(&format!("stream/merge?fileId={file}"));
    server.call("PUT", path).refused(412, "INVALID_PARAMETER").await;
    server.call("PUT", server.cat("stream/update")).refused(412, "MISSING_PARAMETER").await;
    let path = server.cat(&format!("stream/update?fileId={file}&shard=not-one"));
    server.call("PUT", path).refused(412, "INVALID_PARAMETER").await;
    // The refused calls did not use the container up.
    server.call("PUT", server.cat(&format!("stream/update?fileId={file}&shard=a1"))).pushed().await;
    assert_eq!(server.ids(&server.catalog).await, ["http://a"]);
}

/// The same calls under the other name that the vendor's description gives sources.
#[tokio::test(flavor = "multi_thread")]
async fn streams_into_data_collections() {
    let server = Server::start().await;
    let path = |rest: &str| server.org(&format!("data-collections/{}/stream/{rest}", server.catalog));
    let opened = server.call("POST", path("open")).json("{}").send().await.expect(201).json();
    let content = items(&["http://a"]).to_string();
    server.upload(opened["uploadUri"].as_str().unwrap(), content).send().await.expect(200);
    let close = path(&format!("{}/close", opened["streamId"].as_str().unwrap()));
    let reply = server.call("POST", close).json("{}").send().await.expect(200);
    server.done(&accepted(&reply)).await;
    assert_eq!(server.ids(&server.catalog).await, ["http://a"]);
}

/// A load that would leave a source empty deletes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_without_items_deletes_nothing() {
    let server = Server::start().await;
    update(&server, items(&["http://kept"])).await;
    let nothing = open(&server).await;
    close(&server, nothing["streamId"].as_str().unwrap()).await;
    assert_eq!(server.ids(&server.catalog).await, ["http://kept"]);
    let empty = open(&server).await;
    let stream = empty["streamId"].as_str().unwrap();
    chunk(&server, stream, json!({ "addOrUpdate": [], "delete": [] })).await;
    close(&server, stream).await;
    assert_eq!(server.ids(&server.catalog).await, ["http://kept"]);
}
