//! What every answer carries, whatever was asked and however it ends.

use serde_json::{Value, json};

use crate::harness::{Call, Reply, Server};

/// The answer to a call, which has this status and an id.
async fn answered(call: Call<'_>, status: u16) -> Reply {
    let reply = call.send().await.expect(status);
    reply.identified();
    reply
}

/// A link that does not hold: its last character is another.
fn changed(url: &str) -> String {
    let other = if url.ends_with('A') { 'B' } else { 'A' };
    format!("{}{other}", &url[..url.len() - 1])
}

fn text(json: &Value, name: &str) -> String {
    json[name].as_str().unwrap_or_else(|| panic!("`{name}` in {json}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_20_every_answer_has_an_id() {
    let server = Server::start().await;
    for mount in ["", "/cognite"] {
        let api = format!("{mount}/api/v1");
        let project = format!("{api}/projects/{}", server.tenant);
        let id = server.with_content(json!({ "name": "a", "externalId": format!("x{mount}") }), b"content").await;
        let it = json!({ "items": [{ "id": id }] });
        let path = format!("{project}/files/initmultipartupload?parts=1");
        let parts = answered(server.call("POST", path).json(json!({ "name": "in parts" })), 201).await.json();
        let part = parts["uploadUrls"][0].as_str().unwrap().to_owned();

        // The URLs that bytes are sent to.
        let opened = answered(server.call("POST", format!("{project}/files/uploadlink")).json(&it), 200).await;
        let whole = text(&opened.json()["items"][0], "uploadUrl");
        for url in [&whole, &part] {
            answered(server.bare("PUT", url).body(b"content".to_vec()), 200).await;
            answered(server.bare("PUT", &changed(url)).body(b"content".to_vec()), 403).await.failure(403);
            answered(server.bare("GET", url), 405).await.failure(405);
            answered(server.bare("POST", url).body(b"content".to_vec()), 405).await.failure(405);
            let wrong = crate::harness::base64(&[0; 16]);
            answered(server.bare("PUT", url).header("Content-MD5", &wrong).body(b"x".to_vec()), 400).await.failure(400);
            let path = url.splitn(4, '/').nth(3).unwrap();
            let long = format!(
                "PUT /{path} HTTP/1.1\nHost: {{host}}\nContent-Length: {}\nExpect: 100-continue\nConnection: close",
                6_000_000_000_u64
            );
            server.wire(&long, b"").await.failure(413);
        }

        // The URLs that bytes come from.
        let links = answered(server.call("POST", format!("{project}/files/downloadlink")).json(&it), 200).await;
        let link = text(&links.json()["items"][0], "downloadUrl");
        answered(server.bare("GET", &link), 200).await;
        answered(server.bare("HEAD", &link), 200).await;
        answered(server.bare("GET", &link).header("Range", "bytes=0-0"), 206).await;
        answered(server.bare("GET", &link).header("Range", "bytes=100-"), 416).await;
        answered(server.bare("GET", &changed(&link)), 403).await.failure(403);
        answered(server.bare("PUT", &link).body(b"x".to_vec()), 405).await.failure(405);

        // Every call: one that is good, one whose body or query is not, one without a token, one with a wrong method.
        let view = json!({ "type": "view", "space": "cdf_cdm", "externalId": "CogniteFile", "version": "v1" });
        let node = json!({ "instanceType": "node", "space": "s", "externalId": "n" });
        let mut whole_node = node.clone();
        whole_node["sources"] = json!([{ "source": view, "properties": { "name": "n" } }]);
        let complete = json!({ "id": parts["id"], "uploadId": parts["uploadId"] });
        let update = json!({ "items": [{ "id": id, "update": { "source": { "set": "s" } } }] });
        let posts = [
            ("/files", json!({ "name": "a" }), 201),
            ("/files/", json!({ "name": "a" }), 201),
            ("/files/initmultipartupload?parts=1", json!({ "name": "a" }), 201),
            ("/files/uploadlink", it.clone(), 200),
            ("/files/multiuploadlink?parts=1", it.clone(), 200),
            ("/files/completemultipartupload", complete, 200),
            ("/files/downloadlink", it.clone(), 200),
            ("/files/byids", it.clone(), 200),
            ("/files/list", json!({}), 200),
            ("/files/search", json!({}), 200),
            ("/files/aggregate", json!({}), 200),
            ("/files/update", update, 200),
            ("/models/instances", json!({ "items": [whole_node] }), 200),
            ("/models/instances/byids", json!({ "items": [node], "sources": [{ "source": view }] }), 200),
            ("/models/instances/delete", json!({ "items": [node] }), 200),
            ("/files/delete", it.clone(), 200),
        ];
        for (path, body, status) in posts {
            let path = format!("{project}{path}");
            let call = || server.call("POST", &path);
            answered(call().json(&body), status).await;
            answered(call().json("[]"), 400).await.failure(400);
            answered(call().json(&body).header("Content-Encoding", "br"), 415).await.failure(415);
            answered(call().json(&body).anonymous(), 401).await.failure(401);
            answered(server.call("PATCH", &path).json(&body), 405).await.failure(405);
        }
        let declared = server.declare(json!({ "name": "b" })).await;
        let one = format!("{project}/files/{}", declared["id"]);
        let gets = [
            (format!("{project}/files"), Some(format!("{project}/files?limit=0"))),
            (format!("{project}/files/"), Some(format!("{project}/files/?limit=0"))),
            (one, Some(format!("{project}/files/x"))),
            (format!("{api}/token/inspect"), None),
        ];
        for (good, bad) in &gets {
            answered(server.call("GET", good), 200).await;
            answered(server.call("HEAD", good), 200).await;
            if let Some(bad) = bad {
                answered(server.call("GET", bad), 400).await.failure(400);
            }
            answered(server.call("GET", good).anonymous(), 401).await.failure(401);
            answered(server.call("DELETE", good), 405).await.failure(405);
        }

        // What no call has, what is refused before one sees it, and what is over.
        for path in [format!("{project}/files/list/x"), format!("{project}/assets"), format!("{api}/x")] {
            answered(server.call("GET", path), 404).await.failure(404);
        }
        let long = format!("{project}/files?cursor={}", "x".repeat(20_000));
        answered(server.call("GET", long), 414).await.failure(414);
        answered(server.bare("PUT", &whole).body(b"late".to_vec()), 404).await.failure(404);
        answered(server.bare("PUT", &part).body(b"late".to_vec()), 404).await.failure(404);
        answered(server.bare("GET", &link), 404).await.failure(404);
    }
    server.leaves_everything_whole().await;
}
