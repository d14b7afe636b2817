//! Uploads in parts that are crashed at every point of their own: a part that was acknowledged is kept, completion is all
//! or nothing, and the client ends its upload by sending what is missing and completing again.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::client::{Client, Failed, Reply, expect};
use crate::server::{Server, Start, doctor};
use crate::world::{self, Cut, LATER, PATIENCE, World, text};
use crate::{Outcome, all, disk, ensure, eyes, strict, wait_until};

/// When a point is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InParts {
    /// The first time.
    First,
    /// When two parts have come before a restart.
    Later,
    /// When the first part, which came before a restart with other bytes, is sent again.
    Again,
    /// When the file's next version comes in parts.
    Replacing,
}

const UPLOADS: &str = "/landfall/v1/uploads";
const PART: usize = 300_000;
const COUNT: usize = 3;
/// Past the life of a session.
const WEEK: u64 = 8 * 24 * 3600;

/// What a client of an upload in parts knows.
#[derive(Clone, Debug)]
struct Mine {
    body: Vec<u8>,
    opened: Option<Value>,
    acknowledged: BTreeSet<u64>,
    receipt: Option<Value>,
    /// The file that it is the next version of, and what that had before.
    before: Option<(String, Vec<u8>)>,
    /// Does the server not know yet that the first part has other bytes?
    first_is_wrong: bool,
}

fn mine() -> Mine {
    let body = text("partsneedle", 2 * PART + 100_001);
    Mine { body, opened: None, acknowledged: BTreeSet::new(), receipt: None, before: None, first_is_wrong: false }
}

impl Mine {
    fn part(&self, number: u64) -> &[u8] {
        let number = usize::try_from(number).expect("a small number");
        &self.body[(number - 1) * PART..self.body.len().min(number * PART)]
    }

    fn text(&self, name: &str) -> String {
        self.opened.as_ref().and_then(|opened| opened[name].as_str()).expect("an open upload").to_owned()
    }
}

fn read(reply: &Reply) -> Result<Value, Failed> {
    serde_json::from_slice(&reply.body).map_err(|e| Failed::Answer(format!("not JSON ({e}): {reply:?}")))
}

pub fn path_of(url: &str) -> String {
    url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).expect("a URL with a path")
}

impl Client {
    fn native(&self, method: &str, path: &str, body: &Value, wanted: u16) -> Result<Value, Failed> {
        let headers = [("X-API-Key", self.key.as_str()), ("Content-Type", "application/json")];
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        read(&expect(self.send(method, path, &headers, &body), wanted)?)
    }

    fn open_parts(&self, mine: &mut Mine) -> Result<(), Failed> {
        let mut ask = json!({ "name": "a.txt", "size": mine.body.len(), "strategy": "multipart", "parts": COUNT });
        if let Some((file, _)) = &mine.before {
            ask["file_id"] = json!(file);
        }
        mine.opened = Some(self.native("POST", UPLOADS, &ask, 201)?);
        Ok(())
    }

    fn send_part(&self, mine: &Mine, number: u64, bytes: &[u8]) -> Result<(), Failed> {
        let at = usize::try_from(number - 1).expect("a small number");
        let url = mine.opened.as_ref().and_then(|opened| opened["part_urls"][at].as_str()).expect("a URL");
        expect(self.send("PUT", &path_of(url), &[], bytes), 200).map(drop)
    }

    /// Every step that has no answer yet, up to the first that gets none; at most so many parts.
    fn go_on_parts(&self, mine: &mut Mine, most: usize) -> Result<(), Failed> {
        if mine.opened.is_none() {
            self.open_parts(mine)?;
        }
        if mine.receipt.is_some() {
            return Ok(());
        }
        let seen = self.native("GET", &format!("{UPLOADS}/{}", mine.text("id")), &Value::Null, 200)?;
        let missing: Vec<u64> = match seen["state"].as_str() {
            Some("open") => {
                let missing = seen["missing_parts"].as_array().into_iter().flatten();
                missing.filter_map(Value::as_u64).collect()
            }
            Some("committed") => Vec::new(),
            _ => return Err(Failed::Answer(format!("{seen}"))),
        };
        if let Some(lost) = missing.iter().find(|number| mine.acknowledged.contains(number)) {
            return Err(Failed::Answer(format!("the acknowledged part {lost} is lost: {seen}")));
        }
        let wrong = mine.first_is_wrong.then_some(1);
        for number in wrong.into_iter().chain(missing).take(most) {
            self.send_part(mine, number, mine.part(number))?;
            mine.acknowledged.insert(number);
            mine.first_is_wrong &= number != 1;
        }
        if most >= COUNT {
            mine.receipt = Some(self.complete_parts(mine)?);
        }
        Ok(())
    }

    fn complete_parts(&self, mine: &Mine) -> Result<Value, Failed> {
        let receipt = self.native("POST", &format!("{UPLOADS}/{}/commit", mine.text("id")), &Value::Null, 200)?;
        if receipt["size"] == json!(mine.body.len()) {
            Ok(receipt)
        } else {
            Err(Failed::Answer(format!("another size: {receipt}")))
        }
    }

    fn content_of(&self, file: &str) -> Result<Vec<u8>, Failed> {
        let path = format!("/landfall/v1/files/{file}/content");
        expect(self.send("GET", &path, &[("X-API-Key", &self.key)], b""), 200).map(|reply| reply.body)
    }
}

fn before_crash(result: Result<(), Failed>) -> Outcome {
    match result {
        Ok(()) | Err(Failed::Cut(_)) => Ok(()),
        Err(Failed::Answer(text)) => Err(format!("a wrong answer before the crash: {text}")),
    }
}

/// A server on its way to the point.
fn begin(world: &World, data: &Path, point: &str, when: InParts, action: &str, mine: &mut Mine) -> Outcome<Server> {
    let told = |e: Failed| format!("before the crash: {e:?}");
    if when != InParts::First {
        let server = world.start(data, &Start::default())?;
        match when {
            InParts::First => {}
            InParts::Later => world.client.go_on_parts(mine, 2).map_err(told)?,
            InParts::Again => {
                world.client.open_parts(mine).map_err(told)?;
                world.client.send_part(mine, 1, &vec![b'x'; PART]).map_err(told)?;
                (mine.acknowledged, mine.first_is_wrong) = ([1].into(), true);
            }
            InParts::Replacing => {
                let mut first = Mine { body: text("beforeneedle", 2 * PART + 7), ..mine.clone() };
                world.client.go_on_parts(&mut first, COUNT).map_err(told)?;
                mine.before = Some((first.text("file_id"), first.body));
            }
        }
        server.terminate()?;
    }
    world.start(data, &Start::failing(format!("{point}=return({action})")))
}

/// After a crash: no acknowledged part is lost, the client ends its upload, and its bytes are right.
fn holds_after(world: &World, data: &Path, mine: &mut Mine) -> Outcome {
    let server = world.start(data, &Start::default())?;
    doctor(data, 0)?;
    if let Some((file, content)) = &mine.before {
        let now = world.client.content_of(file).map_err(|e| format!("the content before: {e:?}"))?;
        ensure!(now == *content || now == mine.body, "neither the old nor the new content");
    }
    let sent = mine.acknowledged.clone();
    world.client.go_on_parts(mine, COUNT + 1).map_err(|e| format!("the client's retry after {sent:?}: {e:?}"))?;
    let again = world.client.complete_parts(mine).map_err(|e| format!("a repeated completion: {e:?}"))?;
    ensure!(Some(&again) == mine.receipt.as_ref(), "another receipt: {again}, {:?}", mine.receipt);
    let content = world.client.content_of(&mine.text("file_id")).map_err(|e| format!("the content: {e:?}"))?;
    ensure!(content == mine.body, "other bytes");
    let files = eyes::count(data, "SELECT count(*) FROM files WHERE registered IS NOT NULL")?;
    ensure!(files == 1, "{files} files are registered");
    doctor(data, 0)?;
    server.terminate()?;
    clean_at(world, data, LATER)?;
    let kept = eyes::count(data, "SELECT count(*) FROM files WHERE registered IS NOT NULL")?;
    ensure!(kept == 1, "the sweep took a registered file");
    Ok(())
}

/// Past every expiry exactly the bytes are there that rows name.
fn clean_at(world: &World, data: &Path, clock: u64) -> Outcome {
    let server = world.start(data, &Start::at(clock))?;
    let clean = wait_until(PATIENCE, || {
        let files: Vec<String> = eyes::files(data).into_keys().collect();
        eyes::segments(data).is_ok_and(|segments| segments == files)
    });
    ensure!(clean, "orphans: files {:?}, rows {:?}", eyes::files(data).keys(), eyes::segments(data));
    server.terminate()?;
    let said = doctor(data, clock)?;
    ensure!(said.contains("; 0 segments without a row; 0 invariants broken"), "doctor: {said}");
    Ok(())
}

pub fn killed(point: &str, when: InParts) -> Outcome {
    killed_in(&World::new()?, point, when)
}

pub fn killed_in_bucket(point: &str, when: InParts) -> Outcome {
    killed_in(&World::in_bucket()?, point, when)
}

pub fn killed_beyond(point: &str, when: InParts) -> Outcome {
    killed_in(&World::beyond_one_machine()?, point, when)
}

fn killed_in(world: &World, point: &str, when: InParts) -> Outcome {
    let data = world.path("data");
    world.copy_past(&data)?;
    let mut mine = mine();
    let mut server = begin(world, &data, point, when, "kill", &mut mine)?;
    before_crash(world.client.go_on_parts(&mut mine, COUNT + 1))?;
    server.died_at_its_point()?;
    holds_after(world, &data, &mut mine)
}

fn stopped(world: &World, data: &Path, point: &str, when: InParts, cut: Cut<'_>) -> Outcome<Mine> {
    let mut mine = mine();
    let server = begin(world, data, point, when, "stop", &mut mine)?;
    let client = world.client.clone();
    world::stopped(server, mine, move |mine| before_crash(client.go_on_parts(mine, COUNT + 1)), cut)
}

pub fn cut_off(point: &str, when: InParts) -> Outcome {
    world::cut_off(
        |world, data, cut| stopped(world, data, point, when, cut),
        |world, data, mut mine| holds_after(world, data, &mut mine),
    )
}

pub fn cut_off_strictly(point: &str, when: InParts) -> Outcome {
    world::cut_off_strictly(
        |world, data, cut| stopped(world, data, point, when, cut),
        |world, data, mut mine| holds_after(world, data, &mut mine),
    )
}

/// The power is cut after so many parts' answers, or after the completion's, with one sync switched off: was anything
/// lost?
fn cut_after(parts: usize, skip: Option<&str>) -> Outcome<Result<(), String>> {
    let world = World::new()?;
    let (data, kept) = (world.path("data"), world.path("kept"));
    world.copy_past(&data)?;
    let mounted = strict::Disk::mount(&data.join("blobs"))?;
    let start = skip.map_or_else(Start::default, |sync| Start::failing(format!("{sync}=return(skip)")));
    let mut server = world.start(&data, &start)?;
    let mut mine = mine();
    world.client.go_on_parts(&mut mine, parts).map_err(|e| format!("before the cut: {e:?}"))?;
    ensure!(mine.acknowledged.len() == parts.min(COUNT), "acknowledged {:?}", mine.acknowledged);
    server.stop_now()?;
    mounted.copy_durable(&kept)?;
    server.kill();
    mounted.unmount()?;
    let blobs = data.join("blobs");
    disk::run("rm", &["-r", disk::shown(&blobs)])?;
    disk::run("mv", &[disk::shown(&kept), disk::shown(&blobs)])?;
    let server = world.start(&data, &Start::default())?;
    let found = doctor(&data, 0).map(drop).and_then(|()| {
        world.client.go_on_parts(&mut mine, COUNT).map_err(|e| format!("{e:?}"))?;
        let content = world.client.content_of(&mine.text("file_id")).map_err(|e| format!("{e:?}"))?;
        ensure!(content == mine.body, "other bytes");
        Ok(())
    });
    server.terminate()?;
    Ok(found)
}

#[test]
fn an_acknowledged_part_survives_a_power_cut_because_of_its_syncs() {
    let whole = |parts, skip, lost: bool| -> Outcome {
        let found = cut_after(parts, skip)?;
        ensure!(found.is_err() == lost, "with {skip:?} switched off: {found:?}");
        Ok(())
    };
    all([
        (String::from("every sync, two parts"), whole(2, None, false)),
        (String::from("every sync, completed"), whole(COUNT, None, false)),
        (String::from("without the sync of the bytes"), whole(2, Some("sync.segment"), true)),
        (String::from("without the sync of the name"), whole(2, Some("sync.directory"), true)),
        (String::from("completed without the sync of the bytes"), whole(COUNT, Some("sync.segment"), true)),
    ]);
}

/// The database makes its n-th transaction and says that it did not: nobody may delete what it may have named.
fn in_doubt(time: u32) -> Outcome {
    let world = World::new()?;
    let data = world.path("data");
    world.copy_past(&data)?;
    let mut server = world.spawn(&data, &Start::failing(format!("database.doubt={time}*off->1*return(error)")));
    let mut mine = mine();
    let mut ended = false;
    wait_until(PATIENCE, || {
        ended = world.client.go_on_parts(&mut mine, COUNT + 1).is_ok() && mine.receipt.is_some();
        ended || server.has_ended()
    });
    // A start that was told no ends; the next one finds everything.
    if ended {
        server.terminate()?;
    } else {
        server.kill();
    }
    holds_after(&world, &data, &mut mine)
}

#[test]
fn a_database_in_doubt_costs_no_part() {
    all((4..12).map(|time| (format!("doubt at transaction {time}"), in_doubt(time))));
}

#[test]
fn abandoned_parts_leave_nothing() {
    let abandoned = || -> Outcome {
        let world = World::new()?;
        let data = world.path("data");
        world.copy_past(&data)?;
        let mut mine = mine();
        let mut server = begin(&world, &data, "part.recorded", InParts::Later, "kill", &mut mine)?;
        before_crash(world.client.go_on_parts(&mut mine, COUNT + 1))?;
        server.died_at_its_point()?;
        clean_at(&world, &data, WEEK)?;
        let reserved = eyes::count(&data, "SELECT sum(reserved) + sum(open_sessions) FROM usage")?;
        ensure!(reserved == 0, "{reserved} are still reserved");
        let parts = eyes::count(&data, "SELECT count(*) FROM session_parts")?;
        ensure!(parts == 0, "{parts} parts are left");
        Ok(())
    };
    all([(String::from("abandoned"), abandoned())]);
}
