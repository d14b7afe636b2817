//! Files in numbered parts, and whole files, at plain tickets.

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

use crate::harness::{Call, Reply, Server, noise};
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
