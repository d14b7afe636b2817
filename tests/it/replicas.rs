//! Several servers on one database and one bucket: any request of any upload may come to any of them.

use serde_json::{Value, json};

use crate::harness::{Call, PROGRAM, Reply, Server, noise};
use crate::uploads::sha256;

const GRANULE: usize = 256 * 1024;

fn text(json: &Value, name: &str) -> String {
    json[name].as_str().unwrap_or_else(|| panic!("`{name}` in {json}")).to_owned()
}

impl Server {
    /// A call to this server with a URL that another one gave, as it comes through what stands in front of both.
    fn for_another<'s>(&'s self, method: &'static str, url: &str) -> Call<'s> {
        let (_, rest) = url.split_once("://").unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        self.bare(method, &format!("/{path}")).header("Host", host)
    }

    async fn file_content(&self, file: &str) -> Vec<u8> {
        self.native("GET", &format!("/files/{file}/content")).send().await.expect(200).body
    }

    async fn commit_upload(&self, id: &str) -> Reply {
        self.native("POST", &format!("/uploads/{id}/commit")).send().await.expect(200)
    }
}

/// All of them end, and `landfall doctor` finds nothing broken.
async fn leave_everything_whole(servers: Vec<Server>) {
    let place = servers[0].own_bucket();
    let mut stopped = Vec::new();
    for server in servers {
        stopped.push(server.stopped().await);
    }
    let (data, home) = &stopped[0];
    let mut doctor = std::process::Command::new(PROGRAM);
    doctor.args(["doctor", "--deep", "--data"]).arg(data).stdin(std::process::Stdio::null());
    doctor.env("LANDFALL_STORAGE", place).env("LANDFALL_DATABASE", home.database().expect("a database").url());
    let output = tokio::task::spawn_blocking(move || doctor.output()).await.unwrap().expect("the built binary");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_of_one_is_taken_by_another() {
    let one = Server::start_beyond_one_machine().await;
    let other = one.another().await;
    let content = noise(100_000);
    let upload = one.open(json!({ "name": "a", "size": content.len() })).await;
    other.for_another("PUT", &text(&upload, "url")).body(content.clone()).send().await.expect(200);
    let receipt = one.commit_upload(&text(&upload, "id")).await.json();
    assert_eq!(other.commit_upload(&text(&upload, "id")).await.json(), receipt, "the same receipt");
    for server in [&one, &other] {
        assert_eq!(sha256(&server.file_content(&text(&upload, "file_id")).await), sha256(&content));
    }
    leave_everything_whole(vec![one, other]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_one_session_go_to_any_of_them() {
    let one = Server::start_beyond_one_machine().await;
    let (two, three) = (one.another().await, one.another().await);
    // Long enough for parts of an object, with tails between.
    let content = noise(41 * GRANULE + 7);
    let ask = json!({ "name": "film.mp4", "size": content.len(), "strategy": "resumable" });
    let upload = one.open(ask).await;
    let (url, total) = (text(&upload, "url"), content.len());
    let servers = [&one, &two, &three];
    for (turn, from) in (0..total).step_by(3 * GRANULE).enumerate() {
        let to = total.min(from + 3 * GRANULE);
        let range = format!("bytes {from}-{}/{total}", to - 1);
        let writer = servers[turn % 3];
        let reply =
            writer.for_another("PUT", &url).header("Content-Range", &range).body(&content[from..to]).send().await;
        assert_eq!(reply.status, if to == total { 200 } else { 308 }, "{reply:?}");
        if to == total {
            break;
        }
        // Every other one says the same, and what was sent is not wanted again.
        let asked =
            servers[(turn + 1) % 3].for_another("PUT", &url).header("Content-Range", &format!("bytes */{total}"));
        let said = asked.body(Vec::new()).send().await;
        assert_eq!(
            (said.status, said.header("range")),
            (308, Some(format!("bytes=0-{}", to - 1).as_str())),
            "{said:?}"
        );
        // The one before still has its writer: it is told where the file ends, and changes nothing.
        if let Some(before) = turn.checked_sub(1) {
            let stale = servers[before % 3].for_another("PUT", &url).header("Content-Range", &range);
            let told = stale.body(&content[from..to]).send().await;
            assert_eq!(told.header("range"), said.header("range"), "{told:?}");
        }
    }
    for server in servers {
        assert_eq!(sha256(&server.file_content(&text(&upload, "file_id")).await), sha256(&content));
    }
    leave_everything_whole(vec![one, two, three]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_go_to_any_of_them_and_one_that_is_gone_is_not_missed() {
    let one = Server::start_beyond_one_machine().await;
    let two = one.another().await;
    let content = noise(3 * 300_000 + 5);
    let ask = json!({ "name": "b", "size": content.len(), "strategy": "multipart", "parts": 4 });
    let upload = one.open(ask).await;
    let urls: Vec<String> =
        upload["part_urls"].as_array().unwrap().iter().map(|url| url.as_str().unwrap().into()).collect();
    let mut servers = vec![one, two];
    for (place, (url, bytes)) in urls.iter().zip(content.chunks(300_000)).enumerate() {
        servers[place % servers.len()].for_another("PUT", url).body(bytes).send().await.expect(200);
        if place == 1 {
            // A data directory holds nothing that is missed with it.
            let (data, home) = servers.remove(0).stopped().await;
            std::fs::remove_dir_all(data).unwrap();
            drop(home);
        }
    }
    let left = servers.remove(0);
    left.commit_upload(&text(&upload, "id")).await;
    let fresh = left.another().await;
    assert_eq!(sha256(&fresh.file_content(&text(&upload, "file_id")).await), sha256(&content));
    leave_everything_whole(vec![left, fresh]).await;
}
