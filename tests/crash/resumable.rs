//! Resumable uploads that are crashed at every point of their own: what was told is never taken back, and the client ends
//! its upload by asking and going on.

use std::path::Path;

use serde_json::{Value, json};

use crate::client::{Client, Failed, Reply, expect};
use crate::server::{Server, Start, doctor};
use crate::world::{self, Cut, LATER, PATIENCE, World, text};
use crate::{Outcome, all, disk, ensure, eyes, strict, wait_until};

/// When a point is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Session {
    /// In an upload from its beginning.
    Fresh,
    /// In one that goes on after a restart.
    GoingOn,
    /// In an upload of several parts of an object, from its beginning.
    Long,
    /// And in one that goes on after a restart.
    LongGoingOn,
}

impl Session {
    fn goes_on(self) -> bool {
        matches!(self, Self::GoingOn | Self::LongGoingOn)
    }

    fn mine(self) -> Mine {
        match self {
            Self::Fresh | Self::GoingOn => mine(),
            Self::Long | Self::LongGoingOn => {
                let chunk = 9 << 20;
                Mine { body: text("sessionneedle", 2 * chunk + 100_001), chunk, ..mine() }
            }
        }
    }
}

const FILES: &str = "/aitronos/v1/organizations/default/files";
const CHUNK: usize = 512 * 1024;
const SIZE: usize = 2 * CHUNK + 100_001;
/// Past the life of a session.
const WEEK: u64 = 8 * 24 * 3600;

/// What a client of a resumable upload knows.
#[derive(Clone, Debug)]
struct Mine {
    body: Vec<u8>,
    /// How much it sends in one request.
    chunk: usize,
    opened: Option<Value>,
    /// The highest offset that it was told.
    told: usize,
    done: bool,
    registered: bool,
}

fn mine() -> Mine {
    let body = text("sessionneedle", SIZE);
    Mine { body, chunk: CHUNK, opened: None, told: 0, done: false, registered: false }
}

fn read(reply: &Reply) -> Result<Value, Failed> {
    serde_json::from_slice(&reply.body).map_err(|e| Failed::Answer(format!("not JSON ({e}): {reply:?}")))
}

impl Client {
    fn json(&self, method: &str, path: &str, body: &Value, wanted: u16) -> Result<Value, Failed> {
        let headers = [("X-API-Key", self.key.as_str()), ("Content-Type", "application/json")];
        read(&expect(self.send(method, path, &headers, body.to_string().as_bytes()), wanted)?)
    }

    fn session(&self, mine: &Mine, range: &str, body: &[u8]) -> Result<Reply, Failed> {
        let url = mine.opened.as_ref().and_then(|opened| opened["upload_url"].as_str()).expect("an open upload");
        let path = url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).expect("a URL with a path");
        self.send("PUT", &path, &[("Content-Range", range)], body).map_err(Failed::Cut)
    }

    /// Reads how far the upload has come from an answer on its URL.
    fn learn(mine: &mut Mine, reply: &Reply) -> Result<(), Failed> {
        match reply.status {
            308 => {
                let told = match reply.header("range") {
                    None => 0,
                    Some(range) => range
                        .strip_prefix("bytes=0-")
                        .and_then(|last| last.parse::<usize>().ok())
                        .map_or(Err(Failed::Answer(format!("a range that can't be: {range}"))), |last| Ok(last + 1))?,
                };
                if told < mine.told {
                    return Err(Failed::Answer(format!("told {told} after {}", mine.told)));
                }
                mine.told = told;
                Ok(())
            }
            200 => {
                let object = read(reply)?;
                if object["size"] != json!(mine.body.len().to_string()) {
                    return Err(Failed::Answer(format!("another size: {object}")));
                }
                mine.done = true;
                Ok(())
            }
            _ => Err(Failed::Answer(format!("{reply:?}"))),
        }
    }

    /// Every step that has no answer yet, up to the first that gets none; at most so many chunks.
    fn go_on_session(&self, mine: &mut Mine, mut chunks: usize) -> Result<(), Failed> {
        let size = mine.body.len();
        if mine.opened.is_none() {
            let ask = json!({ "filename": "a.txt", "file_size": size, "mime_type": "text/plain" });
            mine.opened = Some(self.json("POST", &format!("{FILES}/upload-url"), &ask, 200)?);
        }
        if !mine.done {
            let reply = self.session(mine, &format!("bytes */{size}"), b"")?;
            Self::learn(mine, &reply)?;
        }
        while !mine.done && chunks > 0 {
            let (from, to) = (mine.told, size.min(mine.told + mine.chunk));
            let reply = self.session(mine, &format!("bytes {from}-{}/{size}", to - 1), &mine.body[from..to])?;
            Self::learn(mine, &reply)?;
            chunks -= 1;
        }
        if mine.done && !mine.registered {
            let file = self.register_session(mine)?;
            if file["file_size"] != json!(size) {
                return Err(Failed::Answer(format!("another file: {file}")));
            }
            mine.registered = true;
        }
        Ok(())
    }

    fn register_session(&self, mine: &Mine) -> Result<Value, Failed> {
        let opened = mine.opened.as_ref().expect("an open upload");
        let size = mine.body.len();
        let ask = json!({ "filename": "a.txt", "file_size": size, "mime_type": "text/plain", "gcs_path": opened["gcs_path"] });
        let headers = [("X-API-Key", self.key.as_str()), ("Content-Type", "application/json")];
        let reply = self.send("POST", FILES, &headers, ask.to_string().as_bytes()).map_err(Failed::Cut)?;
        // Repeated, it is no news.
        if reply.status != 201 && reply.status != 200 {
            return Err(Failed::Answer(format!("register: {reply:?}")));
        }
        read(&reply)
    }

    fn session_content(&self, mine: &Mine) -> Result<Vec<u8>, Failed> {
        let id = mine.opened.as_ref().and_then(|opened| opened["file_id"].as_str()).expect("an open upload");
        let content = self.json("GET", &format!("{FILES}/{id}/content"), &Value::Null, 200)?;
        let url = content["download_url"].as_str().unwrap_or_default();
        let path = url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap_or_default();
        expect(self.send("GET", &path, &[], b""), 200).map(|reply| reply.body)
    }
}

fn before_crash(result: Result<(), Failed>) -> Outcome {
    match result {
        Ok(()) | Err(Failed::Cut(_)) => Ok(()),
        Err(Failed::Answer(text)) => Err(format!("a wrong answer before the crash: {text}")),
    }
}

/// A server on its way to the point.
fn begin(world: &World, data: &Path, point: &str, session: Session, action: &str, mine: &mut Mine) -> Outcome<Server> {
    if session.goes_on() {
        let server = world.start(data, &Start::default())?;
        world.client.go_on_session(mine, 1).map_err(|e| format!("the first chunk: {e:?}"))?;
        ensure!(mine.told == mine.chunk, "the first chunk is not recorded: {}", mine.told);
        server.terminate()?;
    }
    world.start(data, &Start::failing(format!("{point}=return({action})")))
}

/// After a crash: nothing that was told is lost, the client ends its upload, and its bytes are right.
fn holds_after(world: &World, data: &Path, mine: &mut Mine) -> Outcome {
    let server = world.start(data, &Start::default())?;
    doctor(data, 0)?;
    let before = mine.clone();
    world.client.go_on_session(mine, 10).map_err(|e| format!("the client's retry from {}: {e:?}", before.told))?;
    ensure!(mine.registered, "the upload did not end");
    let content = world.client.session_content(mine).map_err(|e| format!("the content: {e:?}"))?;
    ensure!(content == mine.body, "other bytes");
    // As a client whose last answers were lost.
    let again =
        world.client.session(mine, &format!("bytes */{}", mine.body.len()), b"").map_err(|e| format!("{e:?}"))?;
    ensure!(again.status == 200, "a question after the end: {again:?}");
    world.client.register_session(mine).map_err(|e| format!("a repeated register: {e:?}"))?;
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

pub fn killed(point: &str, session: Session) -> Outcome {
    killed_in(&World::new()?, point, session)
}

pub fn killed_in_bucket(point: &str, session: Session) -> Outcome {
    killed_in(&World::in_bucket()?, point, session)
}

pub fn killed_beyond(point: &str, session: Session) -> Outcome {
    killed_in(&World::beyond_one_machine()?, point, session)
}

fn killed_in(world: &World, point: &str, session: Session) -> Outcome {
    let data = world.path("data");
    world.copy_past(&data)?;
    let mut mine = session.mine();
    let mut server = begin(world, &data, point, session, "kill", &mut mine)?;
    before_crash(world.client.go_on_session(&mut mine, 10))?;
    server.died_at_its_point()?;
    holds_after(world, &data, &mut mine)
}

fn stopped(world: &World, data: &Path, point: &str, session: Session, cut: Cut<'_>) -> Outcome<Mine> {
    let mut mine = mine();
    let server = begin(world, data, point, session, "stop", &mut mine)?;
    let client = world.client.clone();
    world::stopped(server, mine, move |mine| before_crash(client.go_on_session(mine, 10)), cut)
}

pub fn cut_off(point: &str, session: Session) -> Outcome {
    world::cut_off(
        |world, data, cut| stopped(world, data, point, session, cut),
        |world, data, mut mine| holds_after(world, data, &mut mine),
    )
}

pub fn cut_off_strictly(point: &str, session: Session) -> Outcome {
    world::cut_off_strictly(
        |world, data, cut| stopped(world, data, point, session, cut),
        |world, data, mut mine| holds_after(world, data, &mut mine),
    )
}

/// The power is cut after a chunk's answer, with one sync switched off: was anything lost?
fn cut_after_chunk(skip: Option<&str>) -> Outcome<Result<(), String>> {
    let world = World::new()?;
    let (data, kept) = (world.path("data"), world.path("kept"));
    world.copy_past(&data)?;
    let mounted = strict::Disk::mount(&data.join("blobs"))?;
    let start = skip.map_or_else(Start::default, |sync| Start::failing(format!("{sync}=return(skip)")));
    let mut server = world.start(&data, &start)?;
    let mut mine = mine();
    world.client.go_on_session(&mut mine, 2).map_err(|e| format!("before the cut: {e:?}"))?;
    ensure!(mine.told == 2 * CHUNK, "told {}", mine.told);
    server.stop_now()?;
    mounted.copy_durable(&kept)?;
    server.kill();
    mounted.unmount()?;
    let blobs = data.join("blobs");
    disk::run("rm", &["-r", disk::shown(&blobs)])?;
    disk::run("mv", &[disk::shown(&kept), disk::shown(&blobs)])?;
    let server = world.start(&data, &Start::default())?;
    let found = doctor(&data, 0).map(drop).and_then(|()| {
        world.client.go_on_session(&mut mine, 10).map_err(|e| format!("{e:?}"))?;
        let content = world.client.session_content(&mine).map_err(|e| format!("{e:?}"))?;
        ensure!(content == mine.body, "other bytes");
        Ok(())
    });
    server.terminate()?;
    Ok(found)
}

#[test]
fn a_told_offset_survives_a_power_cut_because_of_its_syncs() {
    let whole = |skip, lost: bool| -> Outcome {
        let found = cut_after_chunk(skip)?;
        ensure!(found.is_err() == lost, "with {skip:?} switched off: {found:?}");
        Ok(())
    };
    all([
        (String::from("every sync"), whole(None, false)),
        (String::from("without the sync of the bytes"), whole(Some("sync.segment"), true)),
        (String::from("without the sync of the name"), whole(Some("sync.directory"), true)),
    ]);
}

/// The database makes its n-th transaction and says that it did not: nobody may delete what it may have named. With the
/// whole file in one chunk it is the commit alone that names the segment.
fn in_doubt(time: u32, chunk: usize) -> Outcome {
    let world = World::new()?;
    let data = world.path("data");
    world.copy_past(&data)?;
    let mut server = world.spawn(&data, &Start::failing(format!("database.doubt={time}*off->1*return(error)")));
    let mut mine = Mine { chunk, ..mine() };
    let mut ended = false;
    wait_until(PATIENCE, || {
        ended = world.client.go_on_session(&mut mine, 10).is_ok() && mine.registered;
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
fn a_database_in_doubt_costs_no_bytes() {
    let cases = [CHUNK, SIZE].into_iter().flat_map(|chunk| (4..16).map(move |time| (time, chunk)));
    all(cases.map(|(time, chunk)| (format!("doubt at transaction {time}, chunks of {chunk}"), in_doubt(time, chunk))));
}

#[test]
fn an_abandoned_upload_leaves_nothing() {
    let abandoned = || -> Outcome {
        let world = World::new()?;
        let data = world.path("data");
        world.copy_past(&data)?;
        let mut mine = mine();
        let mut server = begin(&world, &data, "resumable.recorded", Session::GoingOn, "kill", &mut mine)?;
        before_crash(world.client.go_on_session(&mut mine, 10))?;
        server.died_at_its_point()?;
        clean_at(&world, &data, WEEK)?;
        let server = world.start(&data, &Start::at(WEEK))?;
        let reply = world.client.session(&mine, "bytes */*", b"").map_err(|e| format!("{e:?}"))?;
        ensure!(reply.status == 404, "after its week: {reply:?}");
        let reserved = eyes::count(&data, "SELECT sum(reserved) + sum(open_sessions) FROM usage")?;
        ensure!(reserved == 0, "{reserved} are still reserved");
        server.terminate()
    };
    all([(String::from("abandoned"), abandoned())]);
}
