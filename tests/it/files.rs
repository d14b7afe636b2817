//! Files of our own API: listed, described, read, linked to, deleted.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Server, encode, noise};
use crate::uploads::sha256;

fn text(json: &Value, name: &str) -> String {
    json[name].as_str().unwrap_or_else(|| panic!("`{name}` in {json}")).to_owned()
}

impl Server {
    async fn file_names(&self, query: &str) -> Vec<String> {
        let list = self.get(&format!("/files?{query}")).await;
        list["items"].as_array().unwrap().iter().map(|file| text(file, "name")).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_listed_filtered_and_paged() {
    let server = Server::start().await;
    server.stored("a.txt", b"a", json!({ "path": "x", "mime_type": "text/plain" })).await;
    server.stored("b.txt", b"bb", json!({ "path": "x/y" })).await;
    let third = server.stored("c.txt", b"ccc", json!({ "path": "xy" })).await;
    server.clock.advance(Duration::from_secs(10));
    server.stored("a.txt", b"dddd", json!({})).await;
    // Open uploads and containers of other APIs are no files.
    server.open(json!({ "name": "open", "size": 1 })).await;
    server.filled("container").await;
    assert_eq!(server.file_names("").await, ["a.txt", "c.txt", "b.txt", "a.txt"], "newest first");
    assert_eq!(server.file_names("path=x").await, ["b.txt", "a.txt"], "in the folder, or below it");
    assert_eq!(server.file_names("path=x/").await, ["b.txt", "a.txt"]);
    assert_eq!(server.file_names("path=x/y").await, ["b.txt"]);
    assert_eq!(server.file_names("path=%25").await, [""; 0]);
    assert_eq!(server.file_names("name=a.txt").await, ["a.txt", "a.txt"]);
    assert_eq!(server.file_names("mime_type=text/plain").await, ["a.txt"]);
    assert_eq!(server.file_names("min_size=3").await, ["a.txt", "c.txt"]);
    let after = encode(&text(&third, "committed_at"));
    assert_eq!(server.file_names(&format!("committed_after={after}")).await, ["a.txt"]);
    for (path, field) in [
        ("/files?nme=a", "nme"),
        ("/files?min_size=x", "min_size"),
        ("/files?committed_after=soon", "committed_after"),
        ("/files?limit=1001", "limit"),
        ("/files?cursor=AAAA", "cursor"),
    ] {
        assert_eq!(server.native("GET", path).problem(422).await.json()["field"], field, "{path}");
    }
    let first = server.get("/files?limit=2").await;
    let cursor = encode(&text(&first, "next_cursor"));
    server.stored("new", b"n", json!({})).await;
    let gone = text(&first["items"][1], "id");
    server.native("DELETE", &format!("/files/{gone}")).send().await.expect(204);
    let second = server.get(&format!("/files?limit=2&cursor={cursor}")).await;
    let names: Vec<String> = second["items"].as_array().unwrap().iter().map(|file| text(file, "name")).collect();
    assert_eq!((names, &second["next_cursor"]), (vec!["b.txt".to_owned(), "a.txt".to_owned()], &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_described_with_digests_versions_and_registrations() {
    let server = Server::start().await;
    let digests = json!({ "digests": { "sha256": sha256(b"one"), "md5": "f97c5d29941bfb1b2fdab0874906ab82" } });
    let receipt = server.stored("a.txt", b"one", digests).await;
    let file = text(&receipt, "file_id");
    let seen = server.get(&format!("/files/{file}")).await;
    assert_eq!(seen["digests"], receipt["digests"], "{seen}");
    let mut known: Vec<&String> = seen["digests"].as_object().unwrap().keys().collect();
    known.sort();
    assert_eq!(known, ["crc32c", "crc64nvme", "md5", "sha256"], "{seen}");
    assert_eq!(seen["versions"][0]["version"], receipt["version"], "{seen}");
    assert_eq!((&seen["versions"][0]["current"], &seen["versions"][0]["size"]), (&json!(true), &json!(3)), "{seen}");
    assert_eq!(seen["registrations"][0]["kind"], "tenant", "{seen}");
    assert_eq!(seen["committed_at"], receipt["committed_at"]);
    for id in ["file_", "x", &file.to_uppercase(), &file[5..]] {
        server.native("GET", &format!("/files/{id}")).problem(404).await;
    }
    let upload = server.key_with(&server.tenant, "upload").await;
    server.native("GET", &format!("/files/{file}")).bearer(&upload).problem(403).await;
    server.native("GET", &format!("/files/{file}")).anonymous().problem(401).await;
    server.native("GET", &format!("/files/{file}?x=1")).problem(422).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_comes_in_ranges_under_conditions_and_as_an_attachment() {
    let server = Server::start().await;
    let content = noise(700_000);
    let receipt = server.stored("page.html", &content, json!({ "mime_type": "text/html" })).await;
    let path = format!("/files/{}/content", text(&receipt, "file_id"));
    let whole = server.native("GET", &path).send().await.expect(200);
    assert_eq!(whole.body, content);
    assert_eq!(whole.header("content-type"), Some("text/html"));
    assert_eq!(whole.header("content-disposition"), Some("attachment; filename=\"page.html\""));
    assert_eq!(whole.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let etag = whole.header("etag").unwrap().to_owned();
    assert_eq!(etag, format!("\"{}\"", text(&receipt, "version")));
    let part = server.native("GET", &path).header("Range", "bytes=300000-300009").send().await.expect(206);
    assert_eq!(part.body, &content[300_000..300_010]);
    assert_eq!(part.header("content-range"), Some("bytes 300000-300009/700000"));
    let current = server.native("GET", &path).header("Range", "bytes=5-").header("If-Range", &etag);
    assert_eq!(current.send().await.expect(206).body.len(), content.len() - 5);
    let stale = server.native("GET", &path).header("Range", "bytes=5-").header("If-Range", "\"other\"");
    assert_eq!(stale.send().await.expect(200).body.len(), content.len());
    server.native("GET", &path).header("If-None-Match", &etag).send().await.expect(304);
    server.native("GET", &path).header("Range", "bytes=700000-").send().await.expect(416);
    let head = server.native("HEAD", &path).send().await.expect(200);
    assert_eq!((head.header("content-length"), head.header("etag")), (Some("700000"), Some(etag.as_str())));
    let upload = server.key_with(&server.tenant, "upload").await;
    server.native("GET", &path).bearer(&upload).problem(403).await;
    server.native("GET", &path).anonymous().problem(401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_needs_no_key_and_holds_for_its_file_and_time() {
    let server = Server::start().await;
    let file = text(&server.stored("a.txt", b"linked", json!({})).await, "file_id");
    let other = text(&server.stored("b.txt", b"other", json!({})).await, "file_id");
    let path = format!("/files/{file}/link");
    let link = server.native("POST", &path).json(json!({ "expires_in": 60 })).send().await.expect(200).json();
    let url = text(&link, "url");
    assert!(link["expires_at"].as_str().unwrap().ends_with('Z'), "{link}");
    let open = |url: &str| server.bare("GET", url);
    let got = open(&url).send().await.expect(200);
    assert_eq!((got.text().as_str(), got.header("x-content-type-options")), ("linked", Some("nosniff")));
    assert_eq!(open(&url).header("Range", "bytes=1-2").send().await.expect(206).body, b"in");
    assert_eq!(server.bare("HEAD", &url).send().await.expect(200).header("content-length"), Some("6"));
    // Bound to file, tenant and time.
    let neighbour = server.neighbour().await;
    let moved = |from: &str, to: &str| url.replacen(from, to, 1);
    let expires = url.split("expires=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    let later = (expires.parse::<u64>().unwrap() + 60).to_string();
    for bad in [
        moved(&file, &other),
        moved(&format!("tenant={}", server.tenant), &format!("tenant={}", neighbour.tenant)),
        moved(&expires, &later),
        format!("{url}x"),
        url[..url.len() - 1].to_owned(),
    ] {
        open(&bad).problem(403).await;
    }
    open(&url[..url.find("&token").unwrap()]).problem(422).await;
    open(&format!("{url}&x=1")).problem(422).await;
    let landfall = format!("/landfall/v1/files/{file}/download");
    server.call("GET", landfall).problem(422).await;
    server.clock.advance(Duration::from_secs(61));
    open(&url).problem(410).await;
    let fresh = server.native("POST", &path).send().await.expect(200).json();
    server.native("DELETE", &format!("/files/{file}")).send().await.expect(204);
    open(&text(&fresh, "url")).problem(404).await;
    for (body, field) in [(json!({ "expires_in": 59 }), "expires_in"), (json!({ "expires": 60 }), "expires")] {
        let refused = server.native("POST", &format!("/files/{other}/link")).json(body).problem(422).await.json();
        assert_eq!(refused["field"], field, "{refused}");
    }
    let upload = server.key_with(&server.tenant, "upload").await;
    server.native("POST", &format!("/files/{other}/link")).bearer(&upload).problem(403).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_file_is_gone_and_its_bytes_follow() {
    let server = Server::start().await;
    let file = text(&server.stored("a.txt", &noise(5000), json!({})).await, "file_id");
    assert_eq!(server.get("/usage").await["bytes"], 5000);
    let reader = server.key_with(&server.tenant, "read").await;
    let path = format!("/files/{file}");
    server.native("DELETE", &path).bearer(&reader).problem(403).await;
    server.native("DELETE", &format!("{path}?force=maybe")).problem(422).await;
    assert!(server.native("DELETE", &path).send().await.expect(204).body.is_empty());
    assert_eq!(server.get("/usage").await["bytes"], 0);
    server.native("DELETE", &path).problem(404).await;
    server.native("GET", &format!("{path}/content")).problem(404).await;
    assert_eq!(server.get("/files").await["items"], json!([]));
    let forced = text(&server.stored("b.txt", b"b", json!({})).await, "file_id");
    server.native("DELETE", &format!("/files/{forced}?force=true")).send().await.expect(204);
    server.leaves_everything_whole().await;
}
