//! Uploads that go to a bucket themselves, killed between what the store did and what the server wrote down.

use serde_json::{Value, json};

use crate::client::{Client, Failed, Reply};
use crate::parts::path_of;
use crate::server::{Start, doctor};
use crate::world::{LATER, PATIENCE, World, text};
use crate::{Outcome, all, bucket, ensure, wait_until};

const UPLOADS: &str = "/landfall/v1/uploads";
/// Two parts, of which a store takes no smaller one.
const BYTES: usize = 6 * 1024 * 1024;

fn start(fail: &str) -> Start {
    Start { fail: fail.into(), direct: "native", ..Start::default() }
}

fn call(client: &Client, method: &str, path: &str, body: &Value) -> Result<Reply, Failed> {
    let headers = [("X-API-Key", client.key.as_str()), ("Content-Type", "application/json")];
    client.send(method, path, &headers, body.to_string().as_bytes()).map_err(Failed::Cut)
}

fn answered(reply: Result<Reply, Failed>, status: u16) -> Outcome<Value> {
    let reply = reply.map_err(Failed::said)?;
    ensure!(reply.status == status, "{reply:?}");
    serde_json::from_slice(&reply.body).map_err(|e| format!("not JSON ({e}): {reply:?}"))
}

/// Sends everything to the store, which this process plays.
fn sent(upload: &Value, body: &[u8]) -> Outcome {
    let store = Client { port: bucket::store().address().port(), key: String::new() };
    let put = |url: &Value, headers: &[(&str, &str)], bytes: &[u8]| -> Outcome {
        let url = url.as_str().ok_or("no URL")?;
        ensure!(url.contains(&format!(":{}/", store.port)), "{url} leads elsewhere");
        let reply = store.send("PUT", &path_of(url), headers, bytes).map_err(|e| e.to_string())?;
        ensure!(reply.status == 200, "{reply:?}");
        Ok(())
    };
    match upload["part_urls"].as_array() {
        Some(urls) => {
            let size = usize::try_from(upload["part_size"].as_u64().unwrap_or(0)).map_err(|e| e.to_string())?;
            body.chunks(size).zip(urls).try_for_each(|(part, url)| put(url, &[], part))
        }
        None => {
            let headers = upload["required_headers"].as_object().ok_or("no headers")?;
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default())).collect();
            put(&upload["url"], &headers, body)
        }
    }
}

fn killed(point: &str, ask: &Value) -> Outcome {
    let world = World::in_bucket()?;
    let data = world.path("data");
    world.copy_past(&data)?;
    let body = text("directneedle", 2 * BYTES);
    let mut server = world.start(&data, &start(&format!("{point}=return(kill)")))?;
    let mut ask = ask.clone();
    ask["name"] = json!("a.txt");
    ask["size"] = json!(body.len());
    let upload = answered(call(&world.client, "POST", UPLOADS, &ask), 201)?;
    sent(&upload, &body)?;
    let commit = format!("{UPLOADS}/{}/commit", upload["id"].as_str().unwrap_or_default());
    let cut = call(&world.client, "POST", &commit, &json!({}));
    ensure!(matches!(cut, Err(Failed::Cut(_))), "an answer from a server that was to die: {cut:?}");
    server.died_at_its_point()?;

    let server = world.start(&data, &start(""))?;
    let receipt = answered(call(&world.client, "POST", &commit, &json!({})), 200)?;
    ensure!(receipt["size"] == json!(body.len()), "{receipt}");
    let again = answered(call(&world.client, "POST", &commit, &json!({})), 200)?;
    ensure!(again == receipt, "{again} after {receipt}");
    let content = format!("/landfall/v1/files/{}/content", receipt["file_id"].as_str().unwrap_or_default());
    let read =
        world.client.send("GET", &content, &[("X-API-Key", &world.client.key)], b"").map_err(|e| e.to_string())?;
    ensure!(read.body == body, "other bytes");
    server.terminate()?;
    doctor(&data, 0).map(drop)
}

#[test]
fn killed_between_the_store_and_the_rows() {
    let single = json!({ "strategy": "single" });
    let parts = json!({ "strategy": "multipart", "parts": 2 });
    all([
        (String::from("joined"), killed("direct.joined", &parts)),
        (String::from("parts, committed"), killed("direct.committed", &parts)),
        (String::from("one PUT, committed"), killed("direct.committed", &single)),
    ]);
}

/// Joined, and nobody comes back: nothing of it stays.
#[test]
fn what_nobody_comes_back_to_goes() {
    let abandoned = || -> Outcome {
        let world = World::in_bucket()?;
        let data = world.path("data");
        world.copy_past(&data)?;
        let body = text("directneedle", 2 * BYTES);
        let mut server = world.start(&data, &start("direct.joined=return(kill)"))?;
        let ask = json!({ "name": "a", "size": body.len(), "strategy": "multipart", "parts": 2, "expires_in": 3600 });
        let upload = answered(call(&world.client, "POST", UPLOADS, &ask), 201)?;
        sent(&upload, &body)?;
        let id = upload["id"].as_str().unwrap_or_default().to_owned();
        let cut = call(&world.client, "POST", &format!("{UPLOADS}/{id}/commit"), &json!({}));
        ensure!(matches!(cut, Err(Failed::Cut(_))), "an answer from a server that was to die: {cut:?}");
        server.died_at_its_point()?;
        let key = id.replace('-', "");
        let there = || bucket::store().objects("").into_iter().any(|(name, _)| name.contains(&key));
        ensure!(there(), "nothing was joined");
        let server = world.start(&data, &Start { direct: "native", ..Start::at(LATER) })?;
        ensure!(wait_until(PATIENCE, || !there()), "the object is left");
        server.terminate()?;
        doctor(&data, LATER).map(drop)
    };
    all([(String::from("abandoned"), abandoned())]);
}

/// A file in chunks, to a session of the store's: killed when that has begun and no row knows it, and when it was committed.
#[test]
fn killed_while_a_session_of_the_store_is_opened_or_used() {
    let killed = |point: &str| -> Outcome {
        let world = World::in_google()?;
        let data = world.path("data");
        world.copy_past(&data)?;
        let body = text("directneedle", BYTES);
        let mut server = world.start(&data, &start(&format!("{point}=return(kill)")))?;
        let ask = json!({ "name": "a.txt", "size": body.len(), "strategy": "resumable" }).to_string();
        let key = [("X-API-Key", world.client.key.as_str()), ("Content-Type", "application/json")];
        let open = || {
            let headers = [key[0], key[1], ("Idempotency-Key", "once")];
            world.client.send("POST", UPLOADS, &headers, ask.as_bytes()).map_err(Failed::Cut)
        };
        let commit = |id: &Value| {
            call(&world.client, "POST", &format!("{UPLOADS}/{}/commit", id.as_str().unwrap_or_default()), &json!({}))
        };
        let store = bucket::store_of(&data);
        let at_store = Client { port: store.address().port(), key: String::new() };
        let send = |upload: &Value| -> Outcome {
            let url = upload["url"].as_str().ok_or("no URL")?;
            ensure!(store.is_session(url), "{url} leads elsewhere");
            let reply = at_store.send("PUT", &path_of(url), &[], &body).map_err(|e| e.to_string())?;
            ensure!(reply.status == 200, "{reply:?}");
            Ok(())
        };
        if point == "direct.session_begun" {
            let cut = open();
            ensure!(matches!(cut, Err(Failed::Cut(_))), "an answer from a server that was to die: {cut:?}");
        } else {
            let upload = answered(open(), 201)?;
            send(&upload)?;
            let cut = commit(&upload["id"]);
            ensure!(matches!(cut, Err(Failed::Cut(_))), "an answer from a server that was to die: {cut:?}");
        }
        server.died_at_its_point()?;

        let server = world.start(&data, &start(""))?;
        let upload = answered(open(), 201)?;
        if point == "direct.session_begun" {
            send(&upload)?;
        }
        let receipt = answered(commit(&upload["id"]), 200)?;
        ensure!(receipt["size"] == json!(body.len()), "{receipt}");
        ensure!(answered(commit(&upload["id"]), 200)? == receipt, "another receipt than {receipt}");
        let content = format!("/landfall/v1/files/{}/content", receipt["file_id"].as_str().unwrap_or_default());
        let read = world.client.send("GET", &content, &key[..1], b"").map_err(|e| e.to_string())?;
        ensure!(read.body == body, "other bytes");
        server.terminate()?;
        doctor(&data, 0).map(drop)
    };
    all(["direct.session_begun", "direct.committed"].map(|point| (String::from(point), killed(point))));
}
