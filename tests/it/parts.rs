//! Files in numbered parts, and whole files, at plain tickets.

use std::io::Write as _;
use std::time::Duration;

use futures_util::future::join_all;
use landfall::model::ids::{FileId, TenantId};
use landfall::model::refusal::Refusal;
use landfall::model::session::{Declaration, Parts};
use landfall::upload::access::Grant;
use landfall::upload::open::{self, NewFile, Opened, OpenedParts, Plainly};
use landfall::upload::parts;
use landfall::upload::track::Claim;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Binary, Call, Reply, Server, in_bucket, noise, read_reply};
use crate::uploads::sha256;

fn text(json: &Value, name: &str) -> String {
    json[name].as_str().unwrap_or_else(|| panic!("`{name}` in {json}")).to_owned()
}

fn list(json: &Value, name: &str) -> Vec<String> {
    let list = json[name].as_array().unwrap_or_else(|| panic!("`{name}` in {json}"));
    list.iter().map(|one| one.as_str().expect("a text").to_owned()).collect()
}

/// The bytes of every part but the last.
const SIZE: usize = 300_000;

/// An upload in parts of [`SIZE`] bytes.
struct InParts<'s> {
    server: &'s Server,
    id: String,
    file: String,
    urls: Vec<String>,
    content: Vec<u8>,
}

impl<'s> InParts<'s> {
    async fn open(server: &'s Server, content: Vec<u8>, more: Value) -> Self {
        let count = content.len().div_ceil(SIZE).max(1);
        let mut ask = json!({ "name": "film.mp4", "size": content.len(), "strategy": "multipart", "parts": count });
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let opened = server.open(ask).await;
        let urls = list(&opened, "part_urls");
        assert_eq!(urls.len(), count, "{opened}");
        Self { server, id: text(&opened, "id"), file: text(&opened, "file_id"), urls, content }
    }

    fn bytes(&self, number: usize) -> &[u8] {
        let from = (number - 1) * SIZE;
        &self.content[from..self.content.len().min(from + SIZE)]
    }

    fn put(&self, number: usize, bytes: &[u8]) -> Call<'s> {
        self.server.bare("PUT", &self.urls[number - 1]).body(bytes)
    }

    async fn send(&self, number: usize) {
        let reply = self.put(number, self.bytes(number)).send().await.expect(200);
        assert!(reply.header("etag").is_some() && reply.body.is_empty(), "{reply:?}");
    }

    async fn commit(&self) -> Reply {
        self.server.native("POST", &format!("/uploads/{}/commit", self.id)).send().await
    }

    async fn seen(&self) -> Value {
        self.server.get(&format!("/uploads/{}", self.id)).await
    }

    async fn stored(&self) -> Vec<u8> {
        self.server.native("GET", &format!("/files/{}/content", self.file)).send().await.expect(200).body
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_07_parts_come_in_any_order_and_make_the_file() {
    let server = Server::start().await;
    let upload = InParts::open(&server, noise(2 * SIZE + 5), json!({})).await;
    for number in [3, 1, 2] {
        upload.send(number).await;
    }
    let receipt = upload.commit().await.expect(200).json();
    assert_eq!(receipt["size"], json!(upload.content.len()));
    assert_eq!(upload.commit().await.expect(200).json(), receipt, "the same receipt");
    assert_eq!(sha256(&upload.stored().await), sha256(&upload.content));
    let seen = upload.seen().await;
    assert_eq!((&seen["state"], &seen["received"]), (&json!("committed"), &json!(upload.content.len())), "{seen}");
    server.leaves_everything_whole().await;
}

/// A dialect's own calls, without its words.
struct Dialect<'s> {
    server: &'s Server,
    grant: Grant,
}

impl<'s> Dialect<'s> {
    fn new(server: &'s Server) -> Self {
        Self { server, grant: Grant::internal(TenantId::from(server.tenant.as_str())) }
    }

    fn ask<'a>(base: &'a str, content_of: Option<FileId>, next_of: Option<FileId>) -> Plainly<'a> {
        let declaration = Declaration { name: "a.bin".into(), mime_type: "a/b".into(), ..Declaration::default() };
        let file = NewFile { size: None, registers: true, declaration, next_of };
        let life = Duration::from_secs(7 * 24 * 3600);
        Plainly { wire: "native", base, max_bytes: 1_000_000, life, file, content_of }
    }

    async fn whole(&self, content_of: Option<FileId>, next_of: Option<FileId>) -> Result<Opened, Refusal> {
        open::whole(self.server.engine(), &self.grant, Self::ask(&self.server.url(""), content_of, next_of)).await
    }

    async fn parts(&self, count: u32, content_of: Option<FileId>) -> OpenedParts {
        let base = self.server.url("");
        let parts = Parts { count, smallest: 5, largest: 1_000 };
        open::multipart(self.server.engine(), &self.grant, Self::ask(&base, content_of, None), parts).await.unwrap()
    }

    async fn stored(&self, file: FileId) -> Vec<u8> {
        self.server.native("GET", &format!("/files/{}/content", file.public())).send().await.expect(200).body
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_in_parallel_are_followed_while_they_come() {
    let server = Server::start().await;
    let upload = InParts::open(&server, noise(19 * SIZE + 1), json!({ "digests": {} })).await;
    let seen = upload.seen().await;
    assert_eq!((&seen["parts"], &seen["received"]), (&json!(20), &json!(0)), "{seen}");
    assert_eq!((&seen["missing_count"], seen["missing_parts"].as_array().unwrap().len()), (&json!(20), 20), "{seen}");
    join_all((2..=20).map(|number| upload.send(number))).await;
    let seen = upload.seen().await;
    assert_eq!((&seen["missing_parts"], &seen["state"]), (&json!([1]), &json!("open")), "{seen}");
    assert_eq!(seen["received"], json!(18 * SIZE + 1), "{seen}");
    let early = upload.commit().await.problem_with(409).json();
    assert_eq!(early["type"], "/problems/upload-incomplete", "{early}");
    assert_eq!((&early["missing_parts"], &early["missing_count"]), (&json!([1]), &json!(1)), "{early}");
    assert_eq!(early["received"], json!(18 * SIZE + 1), "{early}");
    upload.send(1).await;
    let receipts = join_all((0..4).map(|_| upload.commit())).await;
    let receipts: Vec<Value> = receipts.into_iter().map(|reply| reply.expect(200).json()).collect();
    assert!(receipts.iter().all(|receipt| *receipt == receipts[0]), "one version, one receipt: {receipts:?}");
    assert!(upload.stored().await == upload.content);
    let about = server.get(&format!("/files/{}", upload.file)).await;
    assert_eq!(about["versions"].as_array().map(Vec::len), Some(1), "{about}");
    // A range over the border of two parts.
    let (from, to) = (SIZE * 4 - 10, SIZE * 6 + 10);
    let ranged = server
        .native("GET", &format!("/files/{}/content", upload.file))
        .header("Range", &format!("bytes={from}-{}", to - 1))
        .send()
        .await
        .expect(206);
    assert!(ranged.body == upload.content[from..to]);
    assert!(upload.seen().await.get("missing_parts").is_none());
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_14_of_one_part_the_last_body_counts() {
    let server = Server::start().await;
    let upload = InParts::open(&server, noise(SIZE + 9), json!({})).await;
    upload.put(1, &noise(SIZE / 2)).send().await.expect(200);
    upload.put(1, &vec![b'x'; SIZE]).send().await.expect(200);
    upload.send(2).await;
    upload.send(1).await;
    upload.send(1).await;
    assert_eq!(upload.seen().await["received"], json!(SIZE + 9));
    upload.commit().await.expect(200);
    assert!(upload.stored().await == upload.content);
    // Too late: nothing of it counts, whatever it brings.
    for (number, bytes) in [(1, vec![b'y'; SIZE]), (2, noise(9)), (2, Vec::new())] {
        let late = upload.put(number, &bytes).problem(404).await.json();
        assert_eq!(late["type"], "/problems/not-found", "{late}");
    }
    assert!(upload.stored().await == upload.content);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_written_when_the_file_is_committed_does_not_touch_it() {
    let server = Server::start().await;
    let upload = InParts::open(&server, noise(2 * SIZE), json!({})).await;
    upload.send(1).await;
    upload.send(2).await;
    // It has begun and stands still.
    let path = upload.urls[0].split_once(&server.address.to_string()).unwrap().1.to_owned();
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\nConnection: close\r\n\r\n");
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.write_all(&vec![b'z'; SIZE - 1]).await.unwrap();
    upload.commit().await.expect(200);
    slow.write_all(b"z").await.unwrap();
    read_reply(&mut slow).await.problem_with(404);
    assert!(upload.stored().await == upload.content);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_34_a_body_that_is_cut_changes_nothing() {
    let server = Server::start().await;
    let upload = InParts::open(&server, noise(SIZE + 100), json!({})).await;
    let path = |number: usize| upload.urls[number - 1].split_once(&server.address.to_string()).unwrap().1.to_owned();
    let cut = async |number: usize, head: &str, body: &[u8]| {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!("PUT {} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n", path(number));
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&rest));
    };
    upload.send(1).await;
    for number in [1, 2] {
        cut(number, "Content-Length: 200000", b"").await;
        cut(number, "Content-Length: 200000", &noise(199_999)).await;
        cut(number, "Transfer-Encoding: chunked", b"5\r\nhello\r\n").await;
    }
    let seen = upload.seen().await;
    assert_eq!((&seen["missing_parts"], &seen["received"]), (&json!([2]), &json!(SIZE)), "{seen}");
    assert!(seen["problem"]["detail"].as_str().is_some_and(|d| d.contains("incomplete")), "{seen}");
    upload.commit().await.problem_with(409);
    upload.send(2).await;
    upload.commit().await.expect(200);
    assert!(upload.stored().await == upload.content);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_claimed_of_the_whole_must_hold() {
    let server = Server::start().await;
    let content = noise(SIZE + 100);
    let crc = |bytes: &[u8]| {
        let mut crcs = landfall::model::file::RunningCrcs::default();
        crcs.update(bytes);
        format!("{:016x}", crcs.value().crc64nvme)
    };
    let declared = json!({ "digests": { "crc64nvme": crc(&content) } });
    let upload = InParts::open(&server, content.clone(), declared).await;
    upload.send(1).await;
    upload.put(2, &noise(100)).send().await.expect(200);
    let other = upload.commit().await.problem_with(422).json();
    assert_eq!(other["type"], "/problems/digest-mismatch", "{other}");
    assert_eq!(other["declared"], json!(crc(&content)), "{other}");
    upload.put(2, &noise(99)).send().await.expect(200);
    let short = upload.commit().await.problem_with(422).json();
    assert_eq!((&short["declared"], &short["received"]), (&json!("300100"), &json!("300099")), "{short}");
    let path = format!("/uploads/{}/commit", upload.id);
    upload.send(2).await;
    for (claim, field) in [
        (json!({ "digests": { "md5": "0".repeat(32) } }), "digests.md5"),
        (json!({ "digests": { "sha256": "0".repeat(64) } }), "digests.sha256"),
    ] {
        let refused = server.native("POST", &path).json(claim).problem(422).await.json();
        assert_eq!(refused["field"], field, "{refused}");
    }
    for claim in [json!({ "size": 5 }), json!({ "digests": { "crc32c": "00000000" } })] {
        let refused = server.native("POST", &path).json(claim).problem(422).await.json();
        assert_eq!(refused["type"], "/problems/digest-mismatch", "{refused}");
    }
    let right = json!({ "size": content.len(), "digests": { "crc64nvme": crc(&content) } });
    let receipt = server.native("POST", &path).json(&right).send().await.expect(200).json();
    assert_eq!(receipt["digests"]["crc64nvme"], crc(&content));
    assert_eq!(server.native("POST", &path).json(&right).send().await.expect(200).json(), receipt);
    server.native("POST", &path).json(json!({ "size": 5 })).problem(409).await;
    assert!(upload.stored().await == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_urls_are_given_while_the_upload_lives() {
    let server = Server::start().await;
    let upload = InParts::open(&server, noise(2 * SIZE + 1), json!({})).await;
    let urls = format!("/uploads/{}/urls", upload.id);
    let ask = async |body: Value| server.native("POST", &urls).json(body).send().await.expect(200).json();
    let some = ask(json!({ "parts": [3, 1] })).await;
    assert_eq!(list(&some, "part_urls"), [upload.urls[2].clone(), upload.urls[0].clone()], "the same for its life");
    assert_eq!(some["parts"], json!([3, 1]), "{some}");
    assert_eq!(list(&ask(json!({})).await, "part_urls"), upload.urls);
    for wrong in [json!([0]), json!([4]), json!(["1"]), json!(1), json!([-1]), json!([1, 2, 3, 1])] {
        let refused = server.native("POST", &urls).json(json!({ "parts": wrong })).problem(422).await.json();
        assert_eq!(refused["field"], "parts", "{refused}");
    }
    let same = server.native("POST", "/uploads").header("Idempotency-Key", "k");
    let body = json!({ "name": "a", "parts": 2 });
    let first = same.clone().json(&body).send().await.expect(201).json();
    assert_eq!(same.json(&body).send().await.expect(201).json(), first, "one upload");
    assert!(first["part_size"].is_null() && first["size"].is_null(), "{first}");
    // Another tenant's upload is unknown.
    let other = server.neighbour().await;
    for (method, path) in [
        ("GET", format!("/uploads/{}", upload.id)),
        ("POST", urls.clone()),
        ("POST", format!("/uploads/{}/commit", upload.id)),
        ("DELETE", format!("/uploads/{}", upload.id)),
    ] {
        let foreign = server.native(method, &path).bearer(&other.key).send().await.problem_with(404).json();
        let unknown = path.replace(&upload.id, crate::uploads::NOBODY);
        let unknown = server.native(method, &unknown).bearer(&other.key).send().await.problem_with(404).json();
        assert_eq!((&foreign["detail"], &foreign["type"]), (&unknown["detail"], &unknown["type"]));
    }
    server.native("DELETE", &format!("/uploads/{}", upload.id)).send().await.expect(204);
    server.native("POST", &urls).json("{}").send().await.problem_with(410);
    for number in 1..=3 {
        upload.put(number, upload.bytes(number)).send().await.problem_with(404);
    }
    upload.commit().await.problem_with(410);
    let usage = server.get("/usage").await;
    assert_eq!((&usage["reserved"], &usage["open_sessions"]), (&json!(0), &json!(1)), "{usage}");
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_37_every_character_of_a_url_counts_and_it_expires() {
    let server = Server::start().await;
    let upload = InParts::open(&server, noise(10), json!({ "expires_in": 3600 })).await;
    let url = upload.urls[0].clone();
    let base = server.url("/part/");
    assert!(url.starts_with(&base), "{url}");
    let before = server.state().await;
    let calls: Vec<_> = (base.len()..url.len())
        .flat_map(|at| ['0', 'b', '-'].map(|other| (at, other)))
        .filter(|(at, other)| url.as_bytes()[*at] != *other as u8)
        .map(|(at, other)| {
            let mut changed = url.clone();
            changed.replace_range(at..=at, &other.to_string());
            changed
        })
        .collect();
    assert!(calls.len() > 200);
    for changed in calls {
        server.bare("PUT", &changed).body("0123456789").send().await.problem_with(403);
    }
    let (path, query) = url.split_once('?').unwrap();
    for changed in [
        format!("{url}0"),
        format!("{url}&a=b"),
        format!("{path}/?{query}"),
        path.to_owned(),
        format!("{path}?proof=0&{query}"),
        url.replace("expires=", "expires=0"),
        url.replace("expires=", "expires=%30"),
        url.replace("/1?", "/01?"),
        url.replace("/1?", "/2?"),
        url.replace("/1?", "/whole?"),
        url.replace("/native/", "/coveo/"),
    ] {
        server.bare("PUT", &changed).body("0123456789").send().await.problem_with(403);
    }
    // Also in what leads here.
    for other in ["/parts/", "/qart/", "/part", "/par/", "/put/x/", "/"] {
        let changed = url.replace("/part/", other);
        let refused = server.bare("PUT", &changed).body("0123456789").send().await;
        assert_eq!(refused.status, 403, "{changed}: {}", refused.text());
    }
    server.unchanged(&before).await;
    let refused = server.bare("PUT", &url.replace("proof=", "proof=A")).body("x").send().await.problem_with(403);
    let id = refused.header("request-id").unwrap();
    let record = server.get(&format!("/refusals/{id}")).await;
    assert_eq!((&record["rule"], &record["status"]), (&json!("signature"), &json!(403)), "{record}");
    for method in ["GET", "POST", "DELETE", "PATCH", "HEAD"] {
        let refused = server.bare(method, &url).send().await.expect(405);
        assert_eq!(refused.header("allow"), Some("PUT, OPTIONS"), "{method}");
    }
    upload.send(1).await;
    server.clock.advance(Duration::from_secs(3601));
    upload.put(1, b"0123456789").send().await.problem_with(403);
    upload.commit().await.problem_with(410);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_headers_hosts_and_framings_do_not_matter() {
    let server = Server::start().await;
    let upload = InParts::open(&server, noise(3 * SIZE), json!({})).await;
    let path = |number: usize| upload.urls[number - 1].split_once(&server.address.to_string()).unwrap().1.to_owned();
    upload
        .put(1, upload.bytes(1))
        .header("Authorization", "Bearer somebody-elses")
        .header("Content-Type", "video/mp4")
        .header("x-amz-checksum-crc32c", "nonsense")
        .header("x-some-sdk", "1")
        .header("If-None-Match", "*")
        .send()
        .await
        .expect(200);
    // By another name, and in chunks.
    let mut chunked = Vec::new();
    for chunk in upload.bytes(2).chunks(70_000) {
        chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let head = |number: usize, more: &str| {
        format!("PUT {} HTTP/1.1\r\nHost: files.example\r\nConnection: close\r\n{more}\r\n\r\n", path(number))
    };
    let send = async |head: String, body: &[u8]| server.raw(&[head.as_bytes(), body].concat()).await;
    send(head(2, "Transfer-Encoding: chunked"), &chunked).await.expect(200);
    // Nothing, and nothing says so: what came before is answered, else it is refused.
    for empty in ["Transfer-Encoding: chunked", ""] {
        let body: &[u8] = if empty.is_empty() { b"" } else { b"0\r\n\r\n" };
        let again = send(head(2, empty), body).await.expect(200);
        assert!(again.header("etag").is_some(), "{again:?}");
        let refused = send(head(3, empty), body).await.problem_with(400).json();
        assert_eq!(refused["type"], "/problems/malformed", "{refused}");
    }
    assert_eq!(upload.seen().await["missing_parts"], json!([3]));
    // And nothing of a length that is told is a part.
    send(head(3, "Content-Length: 0"), b"").await.expect(200);
    assert_eq!(upload.seen().await["missing_parts"], json!([]));
    let wrong = upload.put(3, upload.bytes(3)).header("Content-MD5", &crate::harness::base64(&[0; 16]));
    assert_eq!(wrong.problem(422).await.json()["type"], "/problems/digest-mismatch");
    upload.put(3, b"0123").header("Content-Range", "bytes 0-3/9").problem(422).await;
    // Whoever waits to be asked for the body is refused before, or asked.
    let refused = send(head(3, &format!("Content-Length: {}\r\nExpect: 100-continue", 3 * SIZE + 1)), b"").await;
    assert_eq!(refused.problem_with(413).json()["limit"], json!(3 * SIZE));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let waits = head(3, &format!("Content-Length: {SIZE}\r\nExpect: 100-continue"));
    stream.write_all(waits.as_bytes()).await.unwrap();
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(upload.bytes(3)).await.unwrap();
    read_reply(&mut stream).await.expect(200);
    upload.commit().await.expect(200);
    assert!(upload.stored().await == upload.content);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_exact_in_parts() {
    let server = Server::start().await;
    server.admin(&["tenant", "quota", &server.tenant, "--bytes", "1000"]).await;
    let usage = async || {
        let usage = server.get("/usage").await;
        (usage["bytes"].as_u64().unwrap(), usage["reserved"].as_u64().unwrap())
    };
    let open = async |body: Value| server.open(body).await;
    let declared = open(json!({ "name": "a", "size": 600, "parts": 2 })).await;
    assert_eq!(usage().await, (0, 600));
    let over = server.native("POST", "/uploads").json(json!({ "name": "b", "size": 401, "parts": 1 }));
    assert_eq!(over.problem(507).await.json()["type"], "/problems/quota");
    let unknown = open(json!({ "name": "c", "parts": 3 })).await;
    let put = |upload: &Value, number: usize, length: usize| {
        server.bare("PUT", &list(upload, "part_urls")[number - 1]).body(vec![b'q'; length])
    };
    put(&unknown, 1, 400).send().await.expect(200);
    assert_eq!(usage().await, (0, 1000));
    let full = put(&unknown, 2, 1).problem(507).await.json();
    assert_eq!((&full["used"], &full["wanted"]), (&json!(1000), &json!(1)), "{full}");
    put(&declared, 1, 600).send().await.expect(200);
    put(&declared, 2, 1).problem(507).await;
    put(&declared, 2, 0).header("Content-Length", "0").send().await.expect(200);
    put(&unknown, 1, 399).send().await.expect(200);
    put(&unknown, 3, 0).header("Content-Length", "0").send().await.expect(200);
    put(&unknown, 2, 1).send().await.expect(200);
    assert_eq!(usage().await, (0, 1000));
    for upload in [&declared, &unknown] {
        server.native("POST", &format!("/uploads/{}/commit", text(upload, "id"))).send().await.expect(200);
    }
    assert_eq!(usage().await, (1000, 0));
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_ends_on_what_it_began_with() {
    let server = Server::start().await;
    let old = noise(40 * SIZE);
    let upload = InParts::open(&server, old.clone(), json!({})).await;
    join_all((1..=40).map(|number| upload.send(number))).await;
    upload.commit().await.expect(200);
    let path = format!("/landfall/v1/files/{}/content", upload.file);
    let mut reader = TcpStream::connect(server.address).await.unwrap();
    let ask = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", server.key);
    reader.write_all(ask.as_bytes()).await.unwrap();
    let mut first = vec![0; 10_000];
    reader.read_exact(&mut first).await.unwrap();
    let new: Vec<u8> = old.iter().rev().copied().collect();
    let next = InParts::open(&server, new.clone(), json!({ "file_id": upload.file })).await;
    assert_eq!(next.file, upload.file);
    join_all((1..=40).map(|number| next.send(number))).await;
    assert!(upload.stored().await == old, "until it is complete");
    next.commit().await.expect(200);
    assert!(upload.stored().await == new);
    let mut rest = Vec::new();
    while first.len() + rest.len() < old.len() {
        let mut more = vec![0; 1 << 16];
        let n = reader.read(&mut more).await.unwrap();
        assert!(n > 0, "it ended after {} bytes", first.len() + rest.len());
        rest.extend_from_slice(&more[..n]);
    }
    let all = [first, rest].concat();
    let body = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let mut got = all[body..].to_vec();
    while got.len() < old.len() {
        let mut more = vec![0; 1 << 16];
        let n = reader.read(&mut more).await.unwrap();
        assert!(n > 0, "it ended after {} bytes", got.len());
        got.extend_from_slice(&more[..n]);
    }
    assert!(got == old);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_51_many_large_parts_take_little_memory() {
    const COUNT: usize = 250;
    const LENGTH: u64 = 5 << 20;
    let mut server = Binary::start("").await;
    let ask = json!({ "name": "film.mp4", "size": COUNT as u64 * LENGTH, "parts": COUNT });
    let opened = server.send("POST", "/landfall/v1/uploads", Some(ask)).await.expect(201).json();
    let urls = list(&opened, "part_urls");
    assert_eq!((urls.len(), &opened["part_size"]), (COUNT, &json!(LENGTH)));
    server.put_five_at_a_time(&urls, LENGTH).await;
    let commit = format!("/landfall/v1/uploads/{}/commit", text(&opened, "id"));
    let began = std::time::Instant::now();
    let receipt = server.send("POST", &commit, None).await.expect(200).json();
    let _ = writeln!(std::io::stderr(), "completed {COUNT} parts in {:?}", began.elapsed());
    assert_eq!(receipt["size"], json!(COUNT as u64 * LENGTH));
    server.stays_small();
    server.leaves_everything_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialect_opens_parts_and_wholes_of_one_file() {
    let server = Server::start().await;
    let dialect = Dialect::new(&server);
    let whole = dialect.whole(None, None).await.unwrap();
    server.bare("PUT", &whole.url).body("first").send().await.expect(200);
    assert_eq!(dialect.stored(whole.file).await, b"first");
    let opened = dialect.parts(2, Some(whole.file)).await;
    assert_eq!(opened.file, whole.file);
    server.bare("PUT", &opened.urls[1]).body("56").send().await.expect(200);
    let complete = || parts::complete(server.engine(), &dialect.grant, opened.session, Claim::default());
    assert!(matches!(complete().await, Err(Refusal::PartsMissing { missing, received: 2 }) if missing.first == [1]));
    server.bare("PUT", &opened.urls[0]).body("1234").send().await.expect(200);
    assert!(matches!(complete().await, Err(Refusal::PartsTooSmall { parts, smallest: 5 }) if parts.first == [1]));
    server.bare("PUT", &opened.urls[0]).body("12345").send().await.expect(200);
    assert_eq!(dialect.stored(whole.file).await, b"first", "until it is complete");
    let (file, receipt) = complete().await.unwrap();
    assert_eq!((file, receipt.size), (whole.file, 7));
    assert_eq!(complete().await.unwrap(), (file, receipt));
    assert_eq!(dialect.stored(file).await, b"1234556");
    server.bare("PUT", &whole.url).body("another").send().await.expect(200);
    assert_eq!(dialect.stored(file).await, b"another", "until it expires");
    server.bare("PUT", &opened.urls[0]).body("12345").send().await.problem_with(404);
    let both = join_all([dialect.whole(None, Some(file)), dialect.whole(None, Some(file))]).await;
    assert!(both.iter().all(|opened| opened.as_ref().unwrap().file == file));
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_file_at_a_plain_ticket_is_replaced_until_it_expires() {
    let server = Server::start().await;
    let dialect = Dialect::new(&server);
    let opened = dialect.whole(None, None).await.unwrap();
    let path = opened.url.split_once(&server.address.to_string()).unwrap().1.to_owned();
    let head = |more: &str| format!("PUT {path} HTTP/1.1\r\nHost: other\r\nConnection: close\r\n{more}\r\n\r\n");
    let send = async |more: &str, body: &[u8]| server.raw(&[head(more).as_bytes(), body].concat()).await;
    // An empty stream is no file, as long as nothing came before.
    send("Transfer-Encoding: chunked", b"0\r\n\r\n").await.problem_with(400);
    send("Content-Length: 0", b"").await.expect(200);
    assert_eq!(dialect.stored(opened.file).await, b"");
    let first = send("Transfer-Encoding: chunked", b"5\r\nfirst\r\n0\r\n\r\n").await.expect(200);
    assert_eq!(dialect.stored(opened.file).await, b"first");
    let again = send("Transfer-Encoding: chunked", b"0\r\n\r\n").await.expect(200);
    assert_eq!(again.header("etag"), first.header("etag"), "what it got before");
    assert_eq!(dialect.stored(opened.file).await, b"first");
    let mut cut = TcpStream::connect(server.address).await.unwrap();
    cut.write_all([head("Content-Length: 200000").as_bytes(), b"some"].concat().as_slice()).await.unwrap();
    cut.shutdown().await.unwrap();
    read_reply(&mut cut).await.problem_with(400);
    assert_eq!(dialect.stored(opened.file).await, b"first");
    let large = send("Content-Length: 1000001\r\nExpect: 100-continue", b"").await.problem_with(413).json();
    assert_eq!(large["limit"], 1_000_000, "{large}");
    let bytes = server.get("/usage").await["bytes"].clone();
    assert_eq!(bytes, 5, "what was replaced is not counted");
    for refused in
        [server.bare("PUT", &opened.url.replace("/whole?", "/1?")), server.bare("PUT", &format!("{}A", opened.url))]
    {
        refused.body("x").problem(403).await;
    }
    server.bare("GET", &opened.url).send().await.expect(405);
    let parts = dialect.parts(1, Some(opened.file)).await;
    server.native("DELETE", &format!("/files/{}", opened.file.public())).send().await.expect(204);
    send("Content-Length: 5", b"again").await.problem_with(404);
    send("Content-Length: 5", b"first").await.problem_with(404);
    server.bare("PUT", &parts.urls[0]).body("x").send().await.problem_with(404);
    let usage = server.get("/usage").await;
    assert_eq!((&usage["bytes"], &usage["reserved"], &usage["open_sessions"]), (&json!(0), &json!(0), &json!(0)));
    let late = dialect.whole(None, None).await.unwrap();
    server.clock.advance(Duration::from_secs(7 * 24 * 3600 + 1));
    server.bare("PUT", &late.url).body("x").send().await.problem_with(403);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_and_a_paused_tenant_take_no_part() {
    if in_bucket() {
        return;
    }
    let server = Server::start_with(|config| config.free_space_min = 1 << 60).await;
    let dialect = Dialect::new(&server);
    assert_eq!(dialect.whole(None, None).await.unwrap_err(), Refusal::OutOfSpace);
    server.native("POST", "/uploads").json(json!({ "name": "a", "parts": 2 })).problem(507).await;
    drop(server);
    let server = Server::start().await;
    let upload = InParts::open(&server, noise(10), json!({})).await;
    server.admin(&["tenant", "pause", &server.tenant]).await;
    upload.put(1, b"0123456789").problem(403).await;
    server.admin(&["tenant", "resume", &server.tenant]).await;
    upload.send(1).await;
    upload.commit().await.expect(200);
}
