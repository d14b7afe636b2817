//! Our own API: conventions, sources and items, pushes, the tenant.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Server, encode, gzip, is_uuid, snapshot, zlib};

const PAGE: &[u8] = b"<html><head><title>Harbour</title></head><body><p>The lighthouse keeper waits</p></body></html>";

/// Five items of different kinds, one of them with compressed content.
async fn filled() -> Server {
    let server = Server::start().await;
    let file = server.filled(zlib(PAGE)).await;
    let items = json!({ "addOrUpdate": [
        { "documentId": "http://a/1", "title": "Boat", "colour": "red", "data": "a small red boat" },
        { "documentId": "http://a/2", "title": "Ship", "colour": "blue", "data": "a large blue ship" },
        { "documentId": "http://b/1", "title": "Buoy", "colour": "red", "data": "a buoy in the harbour" },
        { "documentId": "http://b/2", "title": "Empty", "year": 2026, "tags": ["x", "y"] },
    ]});
    server.batch(items.to_string()).await;
    server.item("http://c/1", json!({ "fileExtension": ".html", "compressedBinaryDataFileId": file })).await;
    server
}

impl Server {
    async fn listed(&self, query: &str) -> Vec<String> {
        let list = self.get(&format!("/sources/{}/items?{query}", self.source)).await;
        let mut ids: Vec<String> =
            list["items"].as_array().unwrap().iter().map(|i| i["document_id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_are_listed() {
    let server = Server::start().await;
    let other = server.neighbour().await;
    let list = server.get("/sources").await;
    assert!(list["next_cursor"].is_null(), "{list}");
    let ids: BTreeSet<&str> = list["items"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
    assert_eq!(ids, BTreeSet::from([server.source.as_str(), server.catalog.as_str()]));
    assert!(!ids.contains(other.source.as_str()));
    for source in list["items"].as_array().unwrap() {
        assert!(source["name"].is_string(), "{source}");
        assert_eq!(source["stream_enabled"], source["id"] == server.catalog.as_str(), "{source}");
    }
    server.native("GET", "/sources").anonymous().problem(401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_are_listed_and_filtered() {
    let server = filled().await;
    let all = ["http://a/1", "http://a/2", "http://b/1", "http://b/2", "http://c/1"];
    assert_eq!(server.listed("").await, all);
    assert_eq!(server.listed("prefix=http%3A%2F%2Fa%2F").await, all[..2]);
    assert_eq!(server.listed("prefix=nothing").await, [""; 0]);
    assert_eq!(server.listed("field.colour=red").await, ["http://a/1", "http://b/1"]);
    assert_eq!(server.listed("field.colour=red&prefix=http://b").await, ["http://b/1"]);
    assert_eq!(server.listed("field.colour=red&field.title=Boat").await, ["http://a/1"]);
    assert_eq!(server.listed("field.year=2026").await, ["http://b/2"]);
    assert_eq!(server.listed("field.colour=green").await, [""; 0]);
    assert_eq!(server.listed("query=harbour").await, ["http://b/1", "http://c/1"]);
    assert_eq!(server.listed("query=Lighthouse%20keeper").await, ["http://c/1"]);
    assert_eq!(server.listed("query=Boat").await, ["http://a/1"], "titles are searched");
    assert_eq!(server.listed("query=red&field.colour=red").await, ["http://a/1", "http://b/1"]);
    assert_eq!(server.listed("query=volcano").await, [""; 0]);
    assert_eq!(server.listed("state=ready").await, all);
    assert_eq!(server.listed("state=failed").await, [""; 0]);
    let item = server.read("http://b/2").await;
    let changed = item["changed_at"].as_str().expect("changed_at");
    server.clock.advance(std::time::Duration::from_secs(10));
    server.item("http://b/2", json!({ "title": "Later" })).await;
    assert_eq!(server.listed(&format!("changed_after={}", encode(changed))).await.last().unwrap(), "http://c/1");
    let later = server.read("http://c/1").await["changed_at"].as_str().unwrap().to_owned();
    assert_eq!(server.listed(&format!("changed_after={}", encode(&later))).await, ["http://b/2"]);
    // A search that means to break out of its quotes finds nothing and breaks nothing.
    for query in ["\"", "a AND", "NEAR(", "*", "' OR 1=1 --", "col:x", "-", "^x"] {
        server.listed(&format!("query={}", encode(query))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_parameters_of_lists_are_named() {
    let server = filled().await;
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("cursor=nonsense", "cursor"),
        ("state=unknown", "state"),
        ("changed_after=yesterday", "changed_after"),
        ("statee=ready", "statee"),
        ("field.=x", "field."),
    ] {
        let path = format!("/sources/{}/items?{query}", server.source);
        let before = server.state().await;
        let reply = server.native("GET", &path).send().await;
        assert_eq!(reply.status, 422, "{query}: {}", reply.text());
        let problem = reply.problem_with(422).json();
        assert_eq!(problem["field"], field, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(field), "{problem}");
        server.unchanged(&before).await;
    }
    let path = format!("/sources/{}/pushes?state=odd", server.source);
    assert_eq!(server.native("GET", &path).problem(422).await.json()["field"], "state");
    let path = format!("/sources/{}/item", server.source);
    assert_eq!(server.native("GET", &path).problem(422).await.json()["field"], "document_id");
    let reply = server.native("GET", &format!("/sources/{}/items?statee=x", server.source)).send().await;
    snapshot!("native_unknown_field", server, mask(reply));
}

/// The request's id is different every time and not always a UUID.
fn mask(mut reply: crate::harness::Reply) -> crate::harness::Reply {
    let id = reply.header("request-id").unwrap_or_default().to_owned();
    reply.body = reply.text().replace(&id, "[request]").into_bytes();
    for (name, value) in &mut reply.headers {
        if name == "request-id" {
            *value = String::from("[request]");
        }
    }
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_stable_while_rows_are_added() {
    let server = Server::start().await;
    let put = |range: std::ops::Range<u32>| {
        let items: Vec<_> = range.map(|n| json!({ "documentId": format!("http://{n:03}") })).collect();
        json!({ "addOrUpdate": items }).to_string()
    };
    server.batch(put(0..25)).await;
    let mut seen: Vec<String> = Vec::new();
    let mut cursor = String::new();
    let mut pages = 0;
    while pages < 20 {
        let page = server.get(&format!("/sources/{}/items?limit=7{cursor}", server.source)).await;
        let ids = page["items"].as_array().unwrap().iter().map(|i| i["document_id"].as_str().unwrap().to_owned());
        seen.extend(ids);
        pages += 1;
        // Between the pages others are added, and one that was seen and one that was not are deleted.
        server.batch(put(100 + pages * 10..103 + pages * 10)).await;
        if pages == 1 {
            for id in [&seen[0], "http://001"] {
                let path = server.src(&format!("documents?documentId={}", encode(id)));
                server.call("DELETE", path).pushed().await;
            }
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encode(next)),
            None => break,
        }
    }
    assert_eq!(pages, 4);
    let unique: BTreeSet<&String> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len(), "no row twice");
    let wanted: Vec<String> = (0..25).rev().filter(|n| *n != 1).map(|n| format!("http://{n:03}")).collect();
    assert_eq!(seen, wanted, "newest first, none left out, none of the later ones");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_and_its_text() {
    let server = filled().await;
    let item = server.read("http://a/1").await;
    assert_eq!(item["document_id"], "http://a/1", "{item}");
    assert_eq!(item["metadata"], json!({ "title": "Boat", "colour": "red" }), "{item}");
    assert_eq!(item["state"], "ready", "{item}");
    assert!(item["problem"].is_null(), "{item}");
    for time in ["created_at", "changed_at"] {
        let text = item[time].as_str().expect(time);
        assert!(text.ends_with('Z') && text.len() >= 20 && text.starts_with("20"), "{item}");
    }
    let path = |rest: &str, id: &str| format!("/sources/{}/item{rest}?document_id={}", server.source, encode(id));
    let reply = server.native("GET", &path("/text", "http://c/1")).send().await.expect(200);
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(reply.text().contains("lighthouse keeper"), "{}", reply.text());
    let told = &server.read("http://c/1").await["text"];
    assert_eq!((&told["truncated"], &told["size"]), (&json!(false), &json!(reply.body.len())), "{told}");
    for rest in ["", "/text", "/content"] {
        server.native("GET", &path(rest, "http://nowhere")).problem(404).await;
        server.native("GET", &path(rest, &"x".repeat(5000))).problem(404).await;
    }
    server.native("GET", &path("/content", "http://b/2")).problem(404).await;
    // What goes wrong with one item is told about that item.
    let push = server.item("http://bad", json!({ "fileExtension": ".pdf", "data": "%PDF-1.7 this is none" })).await;
    let bad = server.read("http://bad").await;
    assert_eq!(push["state"], "done", "{push}");
    assert!(["ready", "failed"].contains(&bad["state"].as_str().unwrap()), "{bad}");
    assert_eq!(bad["state"] == "failed", bad["problem"].is_string(), "{bad}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_content_of_an_item() {
    let server = filled().await;
    let path =
        |id: &str, more: &str| format!("/sources/{}/item/content?document_id={}{more}", server.source, encode(id));
    let stored = zlib(PAGE);
    let get = |more: &str| server.native("GET", &path("http://c/1", more));
    let whole = get("").send().await.expect(200);
    assert_eq!(whole.body, stored);
    assert_eq!(whole.header("content-length").unwrap(), stored.len().to_string());
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("x-content-type-options"), Some("nosniff"));
    assert!(whole.header("content-disposition").is_some_and(|d| d.starts_with("attachment")));
    let etag = whole.header("etag").expect("ETag").to_owned();

    let part = get("").header("Range", "bytes=2-5").send().await.expect(206);
    assert_eq!(part.body, &stored[2..6]);
    assert_eq!(part.header("content-range").unwrap(), format!("bytes 2-5/{}", stored.len()));
    let tail = get("").header("Range", "bytes=-3").send().await.expect(206);
    assert_eq!(tail.body, &stored[stored.len() - 3..]);
    let rest = get("").header("Range", "bytes=10-").send().await.expect(206);
    assert_eq!(rest.body, &stored[10..]);
    let beyond = get("").header("Range", "bytes=99999-").send().await.expect(416);
    assert_eq!(beyond.header("content-range").unwrap(), format!("bytes */{}", stored.len()));
    let current = get("").header("Range", "bytes=0-0").header("If-Range", &etag).send().await.expect(206);
    assert_eq!(current.body, &stored[..1]);
    let stale = get("").header("Range", "bytes=0-0").header("If-Range", "\"other\"").send().await.expect(200);
    assert_eq!(stale.body, stored);

    let same = get("").header("If-None-Match", &etag).send().await.expect(304);
    assert!(same.body.is_empty());
    assert_eq!(same.header("etag"), Some(etag.as_str()));
    get("").header("If-None-Match", "\"other\"").send().await.expect(200);
    let head = server.native("HEAD", &path("http://c/1", "")).send().await.expect(200);
    assert!(head.body.is_empty());
    assert_eq!(head.header("content-length").unwrap(), stored.len().to_string());
    assert_eq!(head.header("etag"), Some(etag.as_str()));

    let decoded = get("&decoded=true").send().await.expect(200);
    assert_eq!(decoded.body, PAGE);
    assert_eq!(get("&decoded=false").send().await.expect(200).body, stored);
    let wrong = get("&decoded=perhaps").problem(422).await.json();
    assert_eq!(wrong["field"], "decoded", "{wrong}");
    // Text that came in the push itself.
    let inline = server.native("GET", &path("http://a/1", "")).send().await.expect(200);
    assert_eq!(inline.body, b"a small red boat");
    let part = server.native("GET", &path("http://a/1", "")).header("Range", "bytes=2-6").send().await.expect(206);
    assert_eq!(part.body, b"small");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_decoded_from_every_compression_and_head_claims_no_length() {
    let server = Server::start().await;
    let two = [gzip(b"one "), gzip(b"two")].concat();
    for (id, compression, stored, decoded) in [
        ("http://d/gzip", "GZIP", gzip(PAGE), PAGE),
        ("http://d/members", "GZIP", two, b"one two".as_slice()),
        ("http://d/zlib", "ZLIB", zlib(PAGE), PAGE),
    ] {
        let file = server.filled(stored).await;
        server.item(id, json!({ "compressedBinaryDataFileId": file, "compressionType": compression })).await;
        let path = format!("/sources/{}/item/content?document_id={}&decoded=true", server.source, encode(id));
        assert_eq!(server.native("GET", &path).send().await.expect(200).body, decoded, "{id}");
        let head = server.native("HEAD", &path).send().await.expect(200);
        assert_eq!((head.header("content-length"), head.body.len()), (None, 0), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_can_be_followed() {
    let server = Server::start().await;
    let content = json!({
        "addOrUpdate": [{ "documentId": "http://a" }, { "documentId": "http://b" }],
        "delete": [{ "documentId": "http://unknown" }],
    });
    let push = server.batch(content.to_string()).await;
    let id = push["request_id"].as_str().expect("request_id");
    assert!(is_uuid(id), "{push}");
    for (count, value) in [("added", 2), ("updated", 0), ("older", 0), ("failed", 0), ("deleted", 0)] {
        assert_eq!(push["counts"][count], value, "`{count}` in {push}");
    }
    assert_eq!(push["failures"], json!([]), "{push}");
    let again = server.item("http://a", json!({ "title": "x" })).await;
    assert_eq!(again["counts"]["updated"], 1, "{again}");
    let list = server.get(&format!("/sources/{}/pushes", server.source)).await;
    let ids: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|p| &p["request_id"]).collect();
    assert_eq!(ids, [&again["request_id"], &push["request_id"]], "newest first");
    let done = server.get(&format!("/sources/{}/pushes?state=done&limit=1", server.source)).await;
    assert_eq!(done["items"].as_array().unwrap().len(), 1);
    let next = done["next_cursor"].as_str().expect("a second page");
    let second =
        server.get(&format!("/sources/{}/pushes?state=done&limit=1&cursor={}", server.source, encode(next))).await;
    assert_eq!(second["items"][0]["request_id"], push["request_id"]);
    assert!(second["next_cursor"].is_null(), "{second}");
    let none = server.get(&format!("/sources/{}/pushes?state=failed", server.source)).await;
    assert_eq!(none["items"], json!([]));
    server.native("GET", "/pushes/60e285b1-58ec-5625-c5c4-53cd2434c19f").problem(404).await;
    server.native("GET", "/pushes/..%2Fx").problem(404).await;
}

/// More permissions than an item may have: accepted, then failed and told why.
#[tokio::test(flavor = "multi_thread")]
async fn failures_of_a_push_are_told() {
    let server = Server::start().await;
    let allowed: Vec<_> = (0..5_001).map(|n| json!({ "identity": format!("u{n}"), "identityType": "USER" })).collect();
    let content = json!({ "addOrUpdate": [
        { "documentId": "http://much", "permissions": [{ "allowedPermissions": allowed }] },
        { "documentId": "http://fine", "permissions": [{ "allowedPermissions": &allowed[..5_000] }] },
    ]});
    let push = server.batch(content.to_string()).await;
    assert_eq!((&push["counts"]["added"], &push["counts"]["failed"]), (&json!(1), &json!(1)), "{push}");
    let failure = &push["failures"][0];
    assert_eq!(failure["document_id"], "http://much", "{push}");
    assert!(failure["reason"].as_str().unwrap().contains("5000"), "{push}");
    assert_eq!(server.ids(&server.source).await, ["http://fine"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_counts_what_is_held() {
    let server = Server::start().await;
    let empty = server.get("/usage").await;
    assert_eq!((&empty["bytes"], &empty["files"]), (&json!(0), &json!(0)), "{empty}");
    server.filled(vec![b'x'; 1000]).await;
    let one = server.get("/usage").await;
    assert_eq!((&one["bytes"], &one["files"]), (&json!(1000), &json!(1)), "{one}");
    server.item("http://a", json!({ "data": "12345" })).await;
    let usage = server.get("/usage").await;
    let sources = usage["sources"].as_array().expect("sources");
    let own = sources.iter().find(|s| s["id"] == server.source.as_str()).expect("the source");
    assert_eq!((&own["items"], &own["bytes"]), (&json!(1), &json!(5)), "{usage}");
    let other = server.neighbour().await;
    let theirs = server.native("GET", "/usage").bearer(&other.key).send().await.expect(200).json();
    assert_eq!((&theirs["bytes"], &theirs["files"]), (&json!(0), &json!(0)), "{theirs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_listed_and_revoked() {
    let server = Server::start().await;
    let made = server.native("POST", "/keys").json(json!({ "name": "reader", "rights": ["read"] })).send().await;
    let made = made.expect(201).json();
    let (id, key) = (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned());
    server.native("GET", "/usage").bearer(&key).send().await.expect(200);
    let header = server.native("GET", "/usage").anonymous().header("X-API-Key", &key);
    header.send().await.expect(200);
    let refused = server.native("GET", "/keys").bearer(&key).problem(403).await.json();
    assert!(refused["detail"].as_str().unwrap().contains("keys"), "it names the right: {refused}");
    let post = server.native("POST", "/keys").bearer(&key).json(json!({ "name": "x", "rights": ["all"] }));
    post.problem(403).await;

    let list = server.get("/keys").await;
    let listed = list["items"].as_array().unwrap().iter().find(|k| k["id"] == id.as_str()).expect("the new key");
    assert_eq!((&listed["name"], &listed["rights"]), (&json!("reader"), &json!(["read"])), "{listed}");
    assert!(!list.to_string().contains(&key), "a key is shown once");
    assert!(!list.to_string().contains(&server.key));

    for (body, field) in [
        (json!({ "name": "x", "right": ["read"] }), "right"),
        (json!({ "name": "x", "rights": ["root"] }), "rights"),
        (json!({ "name": "x", "rights": ["read"], "expires_at": "soon" }), "expires_at"),
    ] {
        let problem = server.native("POST", "/keys").json(body).problem(422).await.json();
        assert_eq!(problem["field"], field, "{problem}");
    }
    let text = server.native("POST", "/keys").header("Content-Type", "text/plain").body("{}");
    text.problem(415).await;
    assert_eq!(server.get("/keys").await, list, "refused calls made no key");

    let gone = server.native("DELETE", &format!("/keys/{id}")).send().await.expect(204);
    assert!(gone.body.is_empty());
    server.native("GET", "/usage").bearer(&key).problem(401).await;
    server.native("DELETE", "/keys/60e285b1-58ec-5625-c5c4-53cd2434c19f").problem(404).await;
    let other = server.neighbour().await;
    let own = server.get("/keys").await["items"][0]["id"].as_str().unwrap().to_owned();
    server.native("DELETE", &format!("/keys/{own}")).bearer(&other.key).send().await.problem_with(404);
    server.get("/usage").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_says_exactly_what_it_is() {
    let server = Server::start().await;
    let before = server.get("/keys").await;
    let long = "x".repeat(256);
    for (body, field) in [
        (r#"{"name":"a","name":"b","rights":["read"]}"#.to_owned(), "name"),
        (r#"{"rights":["read"],"rights":["all"]}"#.to_owned(), "rights"),
        (json!({ "rights": [] }).to_string(), "rights"),
        (json!({ "rights": [""] }).to_string(), "rights"),
        (json!({ "rights": ["read"], "name": "a\0b" }).to_string(), "name"),
        (json!({ "rights": ["read"], "name": "a\nb" }).to_string(), "name"),
        (json!({ "rights": ["read"], "name": long }).to_string(), "name"),
    ] {
        let problem = server.native("POST", "/keys").json(&body).problem(422).await.json();
        assert_eq!((&problem["field"], &problem["type"]), (&json!(field), &json!("/problems/invalid-field")), "{body}");
    }
    assert_eq!(server.get("/keys").await, before);
    let body = json!({ "rights": ["read"], "expires_at": "9999-12-31T23:59:59Z" });
    let made = server.native("POST", "/keys").json(body).send().await.expect(201).json();
    assert!(made["expires_at"].as_str().unwrap().starts_with("9999-12-3"), "{made}");
    server.native("GET", "/usage").bearer(made["key"].as_str().unwrap()).send().await.expect(200);
    for arguments in [
        vec!["key", "create", "--tenant", &server.tenant, "--rights", ""],
        vec!["key", "create", "--tenant", &server.tenant, "--name", "a\nb"],
        vec!["source", "create", "--tenant", &server.tenant, &long],
    ] {
        server.admin_refused(&arguments).await;
    }
}

/// The ticket is a capability that was given out: it ends with its own time, not with the key's.
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_outlives_the_key_that_asked_for_it() {
    let server = Server::start().await;
    let made = server.native("POST", "/keys").json(json!({ "rights": ["upload"] })).send().await.expect(201).json();
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let opened = server.call("POST", server.org("files")).bearer(key).send().await.expect(201).json();
    server.native("DELETE", &format!("/keys/{id}")).send().await.expect(204);
    server.call("POST", server.org("files")).bearer(key).refused(401, "INVALID_TOKEN").await;
    let uri = opened["uploadUri"].as_str().unwrap();
    server.upload(uri, "x").send().await.expect(200);
    server.clock.advance(std::time::Duration::from_secs(3601));
    server.upload(uri, "x").denied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_may_be_repeated() {
    let server = Server::start().await;
    let body = json!({ "name": "once", "rights": ["read"] });
    let post = |body: &Value| server.native("POST", "/keys").header("Idempotency-Key", "k-1").json(body);
    let first = post(&body).send().await.expect(201).json();
    let again = post(&body).send().await.expect(201).json();
    assert_eq!(again["id"], first["id"]);
    assert!(again.get("key").is_none_or(Value::is_null), "a key is shown once: {again}");
    let other = post(&json!({ "name": "other", "rights": ["read"] }));
    other.problem(422).await;
    let replies = futures_util::future::join_all((0..20).map(|_| post(&body).send())).await;
    for reply in replies {
        assert_eq!(reply.expect(201).json()["id"], first["id"]);
    }
    let named = |list: &Value| list["items"].as_array().unwrap().iter().filter(|k| k["name"] == "once").count();
    assert_eq!(named(&server.get("/keys").await), 1);
    let long = server.native("POST", "/keys").header("Idempotency-Key", &"x".repeat(256)).json(&body);
    long.problem(422).await;
    // Many at once under a new name make one.
    let body = json!({ "name": "at once", "rights": ["read"] });
    let call = || server.native("POST", "/keys").header("Idempotency-Key", "k-2").json(&body).send();
    let replies = futures_util::future::join_all((0..20).map(|_| call())).await;
    let ids: BTreeSet<String> =
        replies.into_iter().map(|r| r.expect(201).json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 1);
    server.clock.advance(std::time::Duration::from_secs(25 * 3600));
    let late = call().await.expect(201).json();
    assert!(!ids.contains(late["id"].as_str().unwrap()), "after a day the name is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_have_one_form() {
    let server = Server::start().await;
    let unauthorised = server.native("GET", "/usage").anonymous().problem(401).await;
    snapshot!("native_401", server, mask(unauthorised));
    let upload = server.key_with(&server.tenant, "upload").await;
    let forbidden = server.native("GET", "/usage").bearer(&upload).problem(403).await;
    snapshot!("native_403", server, mask(forbidden));
    let unknown = server.native("GET", "/pushes/60e285b1-58ec-5625-c5c4-53cd2434c19f").problem(404).await;
    snapshot!("native_404", server, mask(unknown));
    server.native("GET", "/nothing").problem(404).await;
    let method = server.native("PATCH", "/usage").problem(405).await;
    assert!(method.header("allow").is_some());
    let before = server.state().await;
    for body in ["{", "[]", "{\"name\":\"a\",\"rights\":[\"read\"]} x"] {
        let reply = server.native("POST", "/keys").json(body).send().await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
        reply.problem_with(400);
    }
    server.unchanged(&before).await;
    let large = server.native("POST", "/keys").json(format!("{{\"name\":\"{}\"}}", "a".repeat(2 << 20)));
    let problem = large.problem(413).await.json();
    assert_eq!(problem["limit"], 1 << 20, "it names the limit: {problem}");
    let good = server.native("GET", "/usage").send().await.expect(200);
    assert!(good.header("request-id").is_some_and(|id| !id.is_empty()));
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(server.call("GET", path).anonymous().send().await.status, 200, "{path}");
    }
}

/// What belongs to another tenant is answered exactly as what does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_ids_are_unknown() {
    let server = filled().await;
    let other = server.neighbour().await;
    let push = server.item("http://a/1", json!({ "data": "secret" })).await["request_id"].as_str().unwrap().to_owned();
    let file = server.filled("x").await;
    let _ = file;
    let before = server.state().await;
    let same = |path: &str, own: &str, unknown: &str| (path.replace("{}", own), path.replace("{}", unknown));
    let key = server.get("/keys").await["items"][0]["id"].as_str().unwrap().to_owned();
    let none = "60e285b1-58ec-5625-c5c4-53cd2434c19f";
    for (method, (theirs, unknown)) in [
        ("GET", same("/sources/{}/items", &server.source, "nowhere")),
        ("GET", same("/sources/{}/item?document_id=http://a/1", &server.source, "nowhere")),
        ("GET", same("/sources/{}/item/text?document_id=http://a/1", &server.source, "nowhere")),
        ("GET", same("/sources/{}/item/content?document_id=http://a/1", &server.source, "nowhere")),
        ("GET", same("/sources/{}/pushes", &server.source, "nowhere")),
        ("GET", same("/pushes/{}", &push, none)),
        ("GET", same("/refusals/{}", &push, none)),
        ("DELETE", same("/keys/{}", &key, none)),
    ] {
        let ask = |path: &str| server.native(method, path).bearer(&other.key).send();
        let (theirs_reply, unknown_reply) =
            (ask(&theirs).await.problem_with(404), ask(&unknown).await.problem_with(404));
        let plain = |reply: &crate::harness::Reply, names: [&str; 2]| {
            let mut body = reply.json();
            body.as_object_mut().unwrap().remove("request_id");
            // What was asked for may be repeated; nothing else may differ.
            names.iter().fold(body.to_string(), |text, name| text.replace(name, "[asked]"))
        };
        let names = [server.source.as_str(), "nowhere"];
        assert_eq!(plain(&theirs_reply, names), plain(&unknown_reply, names), "{method} {theirs}");
    }
    server.unchanged(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests() {
    let server = Server::start_with(|config| config.rate_limit = Some(3)).await;
    let mut refused = None;
    for _ in 0..200 {
        let reply = server.native("GET", "/usage").send().await;
        if reply.status != 200 {
            refused = Some(reply);
            break;
        }
    }
    let reply = refused.expect("a limit of 3 a second is reached").problem_with(429);
    let wait: u64 = reply.header("retry-after").expect("Retry-After").parse().expect("whole seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    assert!(reply.header("ratelimit").is_some(), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_end_at_their_time() {
    let server = Server::start().await;
    let at = server.clock.now().plus(std::time::Duration::from_secs(3600)).rfc3339();
    let body = json!({ "name": "for an hour", "rights": ["read"], "expires_at": at });
    let key = server.native("POST", "/keys").json(body).send().await.expect(201).json()["key"].clone();
    let ask = || server.native("GET", "/usage").bearer(key.as_str().unwrap());
    ask().send().await.expect(200);
    server.clock.advance(std::time::Duration::from_secs(3601));
    ask().problem(401).await;
    let call = server.call("POST", server.org("files")).bearer(key.as_str().unwrap());
    call.refused(401, "INVALID_TOKEN").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_unpacked_whatever_it_is_packed_in() {
    let server = Server::start().await;
    let text = "a line that repeats itself, and then another one\n".repeat(5_000)
        + &crate::harness::base64(&crate::harness::noise(60_000));
    let packings = [
        ("raw", text.as_bytes().to_vec()),
        ("zlib", crate::harness::zlib(text.as_bytes())),
        ("gzip", crate::harness::gzip(text.as_bytes())),
        ("base64-zlib", crate::harness::base64(&crate::harness::zlib(text.as_bytes())).into_bytes()),
        ("base64-gzip", crate::harness::base64(&crate::harness::gzip(text.as_bytes())).into_bytes()),
    ];
    for (name, bytes) in packings {
        let id = format!("file://{name}");
        let file = server.filled(bytes.clone()).await;
        server.item(&id, json!({ "compressedBinaryDataFileId": file, "fileExtension": ".txt" })).await;
        assert_eq!(server.content(&id, false).await, bytes, "{name} as it came");
        assert_eq!(server.content(&id, true).await, text.as_bytes(), "{name} unpacked");
        let path = format!("/sources/{}/item/content?document_id={}&decoded=true", server.source, encode(&id));
        let head = server.native("HEAD", &path).send().await.expect(200);
        assert_eq!(head.header("content-length"), None, "{name}: its length is not known");
    }
}
