//! Stores that are crashed while they are filled and while they are emptied: what was registered is processed once, and
//! what left is found no more.

use std::path::Path;

use serde_json::{Value, json};

use crate::client::{Client, Failed, expect};
use crate::server::{Server, Start, doctor};
use crate::world::{self, Cut, LATER, PATIENCE, World, text};
use crate::{Outcome, ensure, eyes, wait_until};

/// What is going on when a point is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Store {
    /// A file is uploaded, registered and processed.
    Filled,
    /// The same, and the point is passed for the last of four times.
    FilledLate,
    /// A store that holds a file is deleted.
    Deleted,
}

const ORGANIZATION: &str = "/v1/organizations/default";
const SIZE: usize = 40_000;
const WORD: &str = "storeneedle";

/// What a client knows.
#[derive(Clone, Debug)]
struct Mine {
    body: Vec<u8>,
    store: Option<String>,
    opened: Option<Value>,
    put: bool,
    registered: bool,
    deleted: bool,
}

fn mine() -> Mine {
    Mine { body: text(WORD, SIZE), store: None, opened: None, put: false, registered: false, deleted: false }
}

impl Client {
    fn ask(&self, method: &str, path: &str, body: &Value, wanted: &[u16]) -> Result<Value, Failed> {
        let headers = [("X-API-Key", self.key.as_str()), ("Content-Type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let reply = self.send(method, path, &headers, body.as_bytes()).map_err(Failed::Cut)?;
        if !wanted.contains(&reply.status) {
            return Err(Failed::Answer(format!("{method} {path}: {reply:?}")));
        }
        if reply.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&reply.body).map_err(|e| Failed::Answer(format!("not JSON ({e}): {reply:?}")))
    }

    /// Every step that has no answer yet, up to the first that gets none.
    fn fill(&self, mine: &mut Mine) -> Result<(), Failed> {
        let store = match &mine.store {
            Some(store) => store.clone(),
            None => {
                let stores = self.ask("GET", "/landfall/v1/stores", &Value::Null, &[200])?;
                mine.store.insert(stores["items"][0]["id"].as_str().unwrap_or_default().to_owned()).clone()
            }
        };
        let files = format!("{ORGANIZATION}/stores/{store}/files");
        if mine.opened.is_none() {
            let ask = json!({ "file_name": "a.txt", "file_size": SIZE, "mime_type": "text/plain" });
            mine.opened = Some(self.ask("POST", &format!("{files}/upload-url"), &ask, &[200])?);
        }
        let opened = mine.opened.clone().unwrap_or_default();
        if !mine.put {
            let url = opened["signed_url"].as_str().unwrap_or_default();
            let path = url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap_or_default();
            expect(self.send("PUT", &path, &[], &mine.body), 200)?;
            mine.put = true;
        }
        if !mine.registered {
            let ask = json!({ "upload_id": opened["upload_id"] });
            self.ask("POST", &format!("{files}/register"), &ask, &[200, 201])?;
            mine.registered = true;
        }
        Ok(())
    }

    fn status(&self, mine: &Mine) -> Result<Value, Failed> {
        let (store, id) = (mine.store.clone().unwrap_or_default(), file_id(mine));
        self.ask("GET", &format!("{ORGANIZATION}/stores/{store}/files/{id}"), &Value::Null, &[200])
    }

    fn delete_store(&self, mine: &mut Mine) -> Result<(), Failed> {
        let store = mine.store.clone().unwrap_or_default();
        // Repeated, there is none any more.
        self.ask("DELETE", &format!("{ORGANIZATION}/knowledge/stores/{store}"), &Value::Null, &[204, 404])?;
        mine.deleted = true;
        Ok(())
    }
}

fn file_id(mine: &Mine) -> String {
    mine.opened.as_ref().and_then(|opened| opened["upload_id"].as_str()).unwrap_or_default().to_owned()
}

fn use_server(client: &Client, store: Store, mine: &mut Mine) -> Outcome {
    let used = if store == Store::Deleted { client.delete_store(mine) } else { client.fill(mine) };
    match used {
        Ok(()) | Err(Failed::Cut(_)) => Ok(()),
        Err(Failed::Answer(text)) => Err(format!("a wrong answer before the crash: {text}")),
    }
}

fn processed(client: &Client, mine: &Mine) -> Outcome {
    let done = wait_until(PATIENCE, || client.status(mine).is_ok_and(|status| status["status"] == "completed"));
    ensure!(done, "the file is not processed: {:?}", client.status(mine));
    Ok(())
}

/// A server on its way to the point.
fn begin(world: &World, data: &Path, point: &str, store: Store, action: &str, mine: &mut Mine) -> Outcome<Server> {
    if store == Store::Deleted {
        let server = world.start(data, &Start::default())?;
        world.client.fill(mine).map_err(|e| format!("a file: {e:?}"))?;
        processed(&world.client, mine)?;
        server.terminate()?;
    }
    let count = if store == Store::FilledLate { "3*off->" } else { "" };
    world.start(data, &Start::failing(format!("{point}={count}return({action})")))
}

fn holds_after(world: &World, data: &Path, store: Store, mine: &mut Mine) -> Outcome {
    let server = world.start(data, &Start::default())?;
    doctor(data, 0)?;
    let client = &world.client;
    if store == Store::Deleted {
        client.delete_store(mine).map_err(|e| format!("the client's retry: {e:?}"))?;
        let empty = wait_until(PATIENCE, || {
            let rows = "SELECT (SELECT count(*) FROM stores) + (SELECT count(*) FROM store_files)
                + (SELECT count(*) FROM store_logs) + (SELECT count(*) FROM jobs)";
            eyes::count(data, rows).is_ok_and(|rows| rows == 0) && eyes::chunks(data).is_ok_and(|chunks| chunks == 0)
        });
        ensure!(empty, "the store does not become empty: {:?} chunks", eyes::chunks(data));
    } else {
        client.fill(mine).map_err(|e| format!("the client's retry: {e:?}"))?;
        processed(client, mine)?;
        let status = client.status(mine).map_err(|e| format!("{e:?}"))?;
        let chunks = eyes::chunks(data)?;
        ensure!(chunks > 10 && status["chunk_count"] == json!(chunks), "{chunks} chunks are indexed: {status}");
        let id = mine.store.clone().unwrap_or_default();
        let found = client.ask("GET", &format!("/landfall/v1/stores/{id}/search?query={WORD}"), &Value::Null, &[200]);
        let found = found.map_err(|e| format!("a search: {e:?}"))?;
        let hits = found["items"].as_array().map(Vec::len);
        ensure!(hits == Some(1) && found["items"][0]["file"]["file_id"] == json!(file_id(mine)), "found: {found}");
        // As a client whose last answer was lost.
        mine.registered = false;
        client.fill(mine).map_err(|e| format!("a repeated register: {e:?}"))?;
        let rows = eyes::count(data, "SELECT count(*) FROM store_files")?;
        ensure!(rows == 1, "{rows} files are in the store");
        let jobs = eyes::count(data, "SELECT count(*) FROM jobs")?;
        ensure!(jobs == 0, "{jobs} jobs are left");
    }
    doctor(data, 0)?;
    server.terminate()?;
    let server = world.start(data, &Start::at(LATER))?;
    let clean = wait_until(PATIENCE, || {
        let files: Vec<String> = eyes::files(data).into_keys().collect();
        eyes::segments(data).is_ok_and(|segments| segments == files)
    });
    ensure!(clean, "orphans: files {:?}, rows {:?}", eyes::files(data).keys(), eyes::segments(data));
    let kept = eyes::count(data, "SELECT count(*) FROM files WHERE registered IS NOT NULL AND version IS NOT NULL")?;
    ensure!(kept == 1, "the organization has {kept} files");
    server.terminate()?;
    let said = doctor(data, LATER)?;
    ensure!(said.contains("; 0 segments without a row; 0 invariants broken"), "doctor: {said}");
    Ok(())
}

pub fn killed(point: &str, store: Store) -> Outcome {
    let world = World::new()?;
    let data = world.path("data");
    world.copy_past(&data)?;
    let mut mine = mine();
    let mut server = begin(&world, &data, point, store, "kill", &mut mine)?;
    use_server(&world.client, store, &mut mine)?;
    server.died_at_its_point()?;
    holds_after(&world, &data, store, &mut mine)
}

pub fn cut_off(point: &str, store: Store) -> Outcome {
    let stopped = |world: &World, data: &Path, cut: Cut<'_>| {
        let mut mine = mine();
        let server = begin(world, data, point, store, "stop", &mut mine)?;
        let client = world.client.clone();
        world::stopped(server, mine, move |mine| use_server(&client, store, mine), cut)
    };
    world::cut_off(stopped, |world, data, mut mine| holds_after(world, data, store, &mut mine))
}
