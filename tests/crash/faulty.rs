//! Power cuts right after an answer, the same with each sync switched off, which must lose bytes, and operations that
//! fail: a full disk, failed syncs, a directory that is gone.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::client::{Failed, Reply, Upload, expect};
use crate::parts::path_of;
use crate::server::{Server, Start, doctor};
use crate::world::{World, interrupted, text, until_ready};
use crate::{Outcome, all, disk, ensure, eyes, strict};

/// The last thing that the client got an answer for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Acked {
    Put,
    /// Of a body so large that its writing out began, and was waited for, while it came.
    LargePut,
    Push,
}

/// More than the windows that may be under way at once, and not a whole number of them.
const LARGE_BYTES: usize = 45_000_001;

/// What the server keeps its bytes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum On {
    Ext4,
    /// The bytes alone; the database is on a file system that keeps everything.
    Strict,
}

/// What was there after the cut: everything, or what is missing.
type Found = Result<(), String>;

fn until_acked(world: &World, upload: &mut Upload, acked: Acked) -> Outcome {
    let mut steps = || -> Result<(), Failed> {
        let container = world.client.container()?;
        world.client.put(&container, &upload.body)?;
        upload.acked.container = Some(container.clone());
        upload.acked.put = true;
        if acked == Acked::Push {
            upload.acked.push = Some(world.client.push(upload.document, &container)?);
        }
        Ok(())
    };
    steps().map_err(|e| format!("before the cut: {e:?}"))
}

/// Is everything there that was acknowledged?
fn look(world: &World, data: &Path, upload: &Upload) -> Found {
    let _server = world.start(data, &Start::default())?;
    doctor(data, 0)?;
    world.acknowledged(data, upload, 0)
}

/// The power is cut as soon as the client has read its answer. `go_on` lets the client end its upload afterwards, and
/// the sweep what is over.
fn cut_after_answer(on: On, acked: Acked, skip: Option<&str>) -> Outcome<Found> {
    let world = World::new()?;
    let start = skip.map_or_else(Start::default, |sync| Start::failing(format!("{sync}=return(skip)")));
    let mut upload = interrupted();
    if acked == Acked::LargePut {
        upload.body = text("newneedle", LARGE_BYTES);
    }
    let after = |data: &Path, upload: &mut Upload| {
        look(&world, data, upload)?;
        // Nothing more is expected of what lost bytes; and reading a large text has tests of its own.
        if skip.is_none() && acked != Acked::LargePut { world.holds_after(data, upload, 0) } else { Ok(()) }
    };
    let to_stopped = |data: &Path, upload: &mut Upload| -> Outcome<Server> {
        let mut server = world.start(data, &start)?;
        until_acked(&world, upload, acked)?;
        server.stop_now()?;
        Ok(server)
    };
    match on {
        On::Ext4 => {
            let (image, copied, mount) = (world.path("disk"), world.path("after"), world.path("mnt"));
            let data = mount.join("data");
            disk::make(&image, 192)?;
            let mounted = disk::Mount::new(&image, &mount)?;
            world.copy_past(&data)?;
            disk::run("sync", &["-f", disk::shown(&mount)])?;
            let server = to_stopped(&data, &mut upload)?;
            disk::copy(&image, &copied)?;
            server.kill();
            mounted.unmount()?;
            let mounted = disk::Mount::new(&copied, &mount)?;
            let found = after(&data, &mut upload);
            mounted.unmount()?;
            Ok(found)
        }
        On::Strict => {
            let (data, kept) = (world.path("data"), world.path("kept"));
            world.copy_past(&data)?;
            let blobs = data.join("blobs");
            let mounted = strict::Disk::mount(&blobs)?;
            let server = to_stopped(&data, &mut upload)?;
            mounted.copy_durable(&kept)?;
            server.kill();
            mounted.unmount()?;
            fs::remove_dir_all(&blobs).map_err(|e| e.to_string())?;
            fs::rename(&kept, &blobs).map_err(|e| e.to_string())?;
            Ok(after(&data, &mut upload))
        }
    }
}

#[test]
fn what_was_answered_survives_a_power_cut() {
    let cases = [On::Ext4, On::Strict].map(|on| [Acked::Put, Acked::LargePut, Acked::Push].map(|acked| (on, acked)));
    all(cases.into_iter().flatten().map(|(on, acked)| {
        let name = format!("power cut on {on:?} after the answer to a {acked:?}");
        (name, cut_after_answer(on, acked, None).and_then(|found| found))
    }));
}

/// The tests above can see a missing sync: without it, the very same case loses what was acknowledged.
#[test]
fn without_a_sync_a_power_cut_loses_bytes() {
    let cases = [
        ("sync.segment", On::Ext4, Acked::Put, "bytes are lost"),
        ("sync.segment", On::Ext4, Acked::LargePut, "bytes are lost"),
        ("sync.segment", On::Ext4, Acked::Push, "bytes are lost"),
        ("sync.segment", On::Strict, Acked::Put, "bytes are lost"),
        ("sync.directory", On::Strict, Acked::Put, "is not there: bytes are lost"),
        ("sync.directory", On::Strict, Acked::Push, "is not there: bytes are lost"),
        // Bytes that are there, and facts that know nothing of them.
        ("sync.database", On::Ext4, Acked::Put, "it may be an older backup"),
        ("sync.database", On::Ext4, Acked::Push, "it may be an older backup"),
    ];
    all(cases.into_iter().map(|(sync, on, acked, loss)| {
        let name = format!("without {sync}, power cut on {on:?} after the answer to a {acked:?}");
        let outcome = cut_after_answer(on, acked, Some(sync)).and_then(|found| match found {
            Ok(()) => Err("nothing was lost: the test does not see a missing sync".into()),
            Err(what) if what.contains(loss) => Ok(()),
            Err(what) => Err(format!("lost otherwise than by the missing sync: {what}")),
        });
        (name, outcome)
    }));
}

/// A power cut in the first minute of a data directory: directory, database and byte store are new.
fn cut_on_the_first_day(skip: Option<&str>) -> Outcome<Found> {
    let world = World::new()?;
    let (image, copied, mount) = (world.path("disk"), world.path("after"), world.path("mnt"));
    let data = mount.join("data");
    disk::make(&image, 192)?;
    let mounted = disk::Mount::new(&image, &mount)?;
    let start = skip.map_or_else(Start::default, |sync| Start::failing(format!("{sync}=return(skip)")));
    let mut server = world.start(&data, &start)?;
    let client = crate::client::Client { port: world.client.port, key: server.first_key()? };
    let container = client.container().map_err(Failed::said)?;
    let body = interrupted().body;
    client.put(&container, &body).map_err(Failed::said)?;
    server.stop_now()?;
    disk::copy(&image, &copied)?;
    server.kill();
    mounted.unmount()?;
    let mounted = disk::Mount::new(&copied, &mount)?;
    let look = || -> Found {
        let _server = world.start(&data, &Start::default())?;
        doctor(&data, 0)?;
        client.push("moved", &container).map_err(|e| format!("the key or the bytes are gone: {e:?}"))?;
        Ok(())
    };
    let found = look();
    mounted.unmount()?;
    Ok(found)
}

/// The first PUT of a byte store that is empty, so that the directories of its day and minute are new as well. With
/// `nth`, one of the three syncs of directories is left out.
fn cut_after_the_first_put(nth: Option<u32>) -> Outcome<Found> {
    let world = World::new()?;
    let (data, kept) = (world.path("data"), world.path("kept"));
    let server = world.start(&data, &Start::default())?;
    let client = crate::client::Client { key: server.first_key()?, ..world.client.clone() };
    server.terminate()?;
    let blobs = data.join("blobs");
    let mounted = strict::Disk::mount(&blobs)?;
    let skip = |n| Start::failing(format!("sync.directory={n}*off->1*return(skip)->off"));
    let mut server = world.start(&data, &nth.map_or_else(Start::default, skip))?;
    let container = client.container().map_err(Failed::said)?;
    let body = interrupted().body;
    client.put(&container, &body).map_err(Failed::said)?;
    server.stop_now()?;
    mounted.copy_durable(&kept)?;
    server.kill();
    mounted.unmount()?;
    fs::remove_dir(&blobs).map_err(|e| e.to_string())?;
    fs::rename(&kept, &blobs).map_err(|e| e.to_string())?;
    let _server = world.start(&data, &Start::default())?;
    Ok(doctor(&data, 0).and_then(|_| {
        let found = eyes::container(&data, &container.id)?;
        ensure!(found.as_ref() == Some(&body), "acknowledged bytes are other bytes");
        Ok(())
    }))
}

#[test]
fn each_sync_of_a_directory_is_needed() {
    let without = |nth| match cut_after_the_first_put(Some(nth))? {
        Ok(()) => Err("nothing was lost: the test does not see a missing sync".into()),
        Err(what) if what.contains("is not there: bytes are lost") => Ok(()),
        Err(what) => Err(format!("lost otherwise than by the missing sync: {what}")),
    };
    let mut cases = vec![("with all syncs".to_owned(), cut_after_the_first_put(None).and_then(|found| found))];
    for (nth, name) in ["the day's name", "the minute's name", "the segment's name"].iter().enumerate() {
        cases.push((format!("without the sync of {name}"), without(nth as u32)));
    }
    all(cases);
}

#[test]
fn a_new_data_directory_survives_a_power_cut() {
    let survived = cut_on_the_first_day(None).and_then(|found| found);
    let lost = match cut_on_the_first_day(Some("sync.database")) {
        Ok(Ok(())) => Err("nothing was lost: the test does not see a missing sync".into()),
        // The facts are gone, and new ones do not take the bytes for their own.
        Ok(Err(what)) if what.contains("its bytes belong to another installation") => Ok(()),
        Ok(Err(what)) => Err(format!("lost otherwise than by the missing sync: {what}")),
        Err(error) => Err(error),
    };
    all([("a new data directory".to_owned(), survived), ("the same without sync.database".to_owned(), lost)]);
}

/// An operation fails once: the client is told so, nothing is lost or stored by halves, and its retry succeeds.
fn fails_once(point: &str, status: u16) -> Outcome {
    let world = World::new()?;
    let data = world.path("data");
    world.copy_past(&data)?;
    let server = world.start(&data, &Start::failing(point))?;
    let mut upload = interrupted();
    let container = world.client.container().map_err(Failed::said)?;
    let reply = world.client.put_any(&container, &upload.body).map_err(|e| format!("no answer: {e}"))?;
    ensure!(reply.status == status, "{} instead of {status}", reply.status);
    upload.acked.container = Some(container);
    world.acknowledged(&data, &upload, 0)?;
    let left: Vec<String> = eyes::files(&data).into_keys().collect();
    let before = eyes::segments(&data)?;
    world.client.finish(&mut upload)?;
    // The kernel may call lost pages clean: whatever the failed attempt left is never tried again.
    let again = eyes::segments(&data)?.into_iter().find(|name| left.contains(name) && !before.contains(name));
    ensure!(again.is_none(), "the segment of the failed attempt was used after all: {again:?}");
    server.terminate()?;
    world.holds_after(&data, &mut upload, 0)
}

#[test]
fn what_fails_once_is_told_and_succeeds_again() {
    let cases = [
        ("segment.create=1*return(error)", 503),
        ("segment.create=1*return(full)", 507),
        ("segment.write=1*return(error)", 503),
        ("segment.write=1*return(full)", 507),
        // In the middle of the body.
        ("segment.write=1*off->1*return(full)", 507),
        ("sync.segment=1*return(error)", 503),
        // The new directories of a day and a minute, and then the segment's own name.
        ("sync.directory=1*return(error)", 503),
        ("sync.directory=2*off->1*return(error)", 503),
    ];
    all(cases.into_iter().map(|(point, status)| (point.to_owned(), fails_once(point, status))));
}

/// Something in the reading of a text fails at first: the text comes later, the bytes are what they were. All that the server
/// printed meanwhile.
fn comes_later(points: &str) -> Outcome<String> {
    let world = World::new()?;
    let data = world.path("data");
    world.copy_past(&data)?;
    let server = world.start(&data, &Start::failing(points))?;
    let mut upload = interrupted();
    world.client.finish(&mut upload)?;
    until_ready(&data, upload.document, &upload.body, "newneedle")?;
    let said = server.output();
    server.terminate()?;
    world.holds_after(&data, &mut upload, 0)?;
    Ok(said)
}

#[test]
fn a_read_that_fails_once_is_repeated() {
    all([("segment.read".to_owned(), comes_later("segment.read=1*return(error)").map(drop))]);
}

/// Nobody waits for a lease to run out, which is an hour.
#[test]
fn an_end_that_can_not_be_recorded_is_recorded_later() {
    let case = || -> Outcome {
        let said = comes_later("process.end=3*return(error)")?;
        ensure!(said.matches("the end of a step could not be recorded").count() == 3, "it did not fail: {said}");
        Ok(())
    };
    all([("process.end".to_owned(), case())]);
}

/// Ends a disk's free space with one file.
fn fill(path: &Path) -> Outcome {
    use std::io::Write as _;
    let mut file = fs::File::create(path).map_err(|e| e.to_string())?;
    let block = vec![1; 64 * 1024];
    // Bounded by the image's size, and by a number in case that fails to be one.
    for _ in 0..100_000 {
        if file.write_all(&block).is_err() {
            break;
        }
    }
    let _ = file.sync_all();
    Ok(())
}

/// A real disk runs full: container and PUT are refused with 507, what is there stays, and once there is space again
/// the same client's same calls succeed, on the same server.
fn full_disk() -> Outcome {
    let world = World::new()?;
    let (image, mount) = (world.path("disk"), world.path("mnt"));
    let data = mount.join("data");
    disk::make(&image, 24)?;
    let mounted = disk::Mount::new(&image, &mount)?;
    world.copy_past(&data)?;
    let server = world.start(&data, &Start::default())?;
    let mut upload = interrupted();
    upload.acked.container = Some(world.client.container().map_err(Failed::said)?);
    fill(&mount.join("filler"))?;
    let container = upload.acked.container.clone().ok_or("no container")?;
    let reply = world.client.put_any(&container, &upload.body).map_err(|e| format!("no answer: {e}"))?;
    ensure!(reply.status == 507, "a PUT on a full disk: {} instead of 507", reply.status);
    // The log of the database has some space of its own; when it is used up, calls are refused as well.
    let mut refused = None;
    for _ in 0..2_000 {
        match world.client.container() {
            Ok(_) => {}
            Err(Failed::Answer(answer)) => {
                refused = Some(answer);
                break;
            }
            Err(cut @ Failed::Cut(_)) => {
                return Err(format!("a full disk ended the server: {cut:?}: {}", server.tail()));
            }
        }
    }
    ensure!(refused.as_ref().is_some_and(|a| a.starts_with("507")), "a call on a full disk: {refused:?}");
    world.acknowledged(&data, &upload, 0)?;
    fs::remove_file(mount.join("filler")).map_err(|e| e.to_string())?;
    world.client.finish(&mut upload)?;
    server.terminate()?;
    let held = world.holds_after(&data, &mut upload, 0);
    held.and(mounted.unmount())
}

/// A real disk runs full under a file's next content (check 52 of the Cognite API): whole and as a part, announced and
/// not. Each PUT is told 507 in the API's shape, what was served before is served on, and with space again the same
/// calls succeed.
fn full_disk_of_a_catalogue() -> Outcome {
    let world = World::new()?;
    let (image, mount) = (world.path("disk"), world.path("mnt"));
    let data = mount.join("data");
    disk::make(&image, 24)?;
    let mounted = disk::Mount::new(&image, &mount)?;
    world.copy_past(&data)?;
    let server = world.start(&data, &Start::default())?;
    let client = &world.client;
    let authorization = format!("Bearer {}", client.key);
    let call = |path: &str, body: Value, wanted: u16| -> Outcome<Value> {
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        let path = format!("/api/v1/projects/default/files{path}");
        let reply = expect(client.send("POST", &path, &headers, body.to_string().as_bytes()), wanted);
        let reply = reply.map_err(|failed| format!("{path}: {}", failed.said()))?;
        serde_json::from_slice(&reply.body).map_err(|e| format!("{path}: {e}: {reply:?}"))
    };
    let url = |value: &Value| value.as_str().map(path_of).ok_or_else(|| format!("no URL: {value}"));
    let put = |path: &str, body: &[u8], wanted: u16| {
        expect(client.send("PUT", path, &[], body), wanted).map_err(|failed| format!("a PUT: {}", failed.said()))
    };
    let full = |reply: Reply| -> Outcome {
        ensure!(reply.status == 507, "a PUT on a full disk: {} instead of 507", reply.status);
        let said: Value = serde_json::from_slice(&reply.body).map_err(|e| format!("{e}: {reply:?}"))?;
        let error = said["error"].as_object().ok_or_else(|| format!("no envelope: {said}"))?;
        ensure!(error.len() == 2 && error["code"] == 507 && error["message"].is_string(), "another envelope: {said}");
        ensure!(reply.header("x-request-id").is_some_and(|id| !id.is_empty()), "no id: {reply:?}");
        ensure!(reply.header("retry-after").is_none(), "an invitation to repeat: {reply:?}");
        Ok(())
    };
    let (old, new) = (text("oldneedle", 700_000), text("newneedle", 900_000));
    let served = |wanted: &[u8]| -> Outcome {
        let links = call("/downloadlink", json!({ "items": [{ "externalId": "x" }] }), 200)?;
        let link = url(&links["items"][0]["downloadUrl"])?;
        let reply = expect(client.send("GET", &link, &[], b""), 200).map_err(Failed::said)?;
        ensure!(reply.body == wanted, "another content is served");
        Ok(())
    };

    let file = call("", json!({ "name": "a", "externalId": "x" }), 201)?;
    let whole = url(&file["uploadUrl"])?;
    put(&whole, &old, 200)?;
    let it = json!({ "items": [{ "externalId": "x" }] });
    let parts = call("/multiuploadlink?parts=1", it, 200)?["items"][0].clone();
    let part = url(&parts["uploadUrls"][0])?;
    let complete = json!({ "externalId": "x", "uploadId": parts["uploadId"] });
    // More than the disk has, in a body that nobody announced: it is full in the middle of it, and then it is not.
    for path in [&whole, &part] {
        let endless = vec![7; 24 << 20];
        full(client.send_in_chunks("PUT", path, &endless).map_err(|e| format!("no answer: {e}"))?)?;
        served(&old)?;
    }
    fill(&mount.join("filler"))?;
    for path in [&whole, &part] {
        full(client.send("PUT", path, &[], &new).map_err(|e| format!("no answer: {e}"))?)?;
        served(&old)?;
    }
    fs::remove_file(mount.join("filler")).map_err(|e| e.to_string())?;
    let incomplete = call("/completemultipartupload", complete.clone(), 400)?;
    ensure!(incomplete["error"]["code"] == 400, "completed without a part: {incomplete}");
    served(&old)?;
    put(&whole, &new, 200)?;
    served(&new)?;
    put(&part, &old, 200)?;
    call("/completemultipartupload", complete, 200)?;
    served(&old)?;
    server.terminate()?;
    doctor(&data, 0)?;
    mounted.unmount()
}

/// A file system that turns read-only, as ext4 does after an error: a PUT gets 503 and nothing is lost, a start is
/// refused with a sentence, and all is well once it is writable again.
fn read_only() -> Outcome {
    let world = World::new()?;
    let (image, mount) = (world.path("disk"), world.path("mnt"));
    let data = world.path("data");
    world.copy_past(&data)?;
    disk::make(&image, 24)?;
    let blobs = data.join("blobs");
    let mounted = disk::Mount::new(&image, &mount)?;
    disk::run("cp", &["-a", disk::shown(&blobs.join(".")), disk::shown(&mount)])?;
    mounted.unmount()?;
    let mounted = disk::Mount::new(&image, &blobs)?;
    let server = world.start(&data, &Start::default())?;
    let mut upload = interrupted();
    upload.acked.container = Some(world.client.container().map_err(Failed::said)?);
    let container = upload.acked.container.clone().ok_or("no container")?;
    mounted.remount("ro")?;
    let reply = world.client.put_any(&container, &upload.body).map_err(|e| format!("no answer: {e}"))?;
    ensure!(reply.status == 503, "a PUT on a read-only disk: {} instead of 503", reply.status);
    world.acknowledged(&data, &upload, 0)?;
    mounted.remount("rw")?;
    world.client.finish(&mut upload)?;
    server.terminate()?;
    let held = world.holds_after(&data, &mut upload, 0);
    held.and(mounted.unmount())
}

/// The byte store's directory is gone while the server runs: 503, no acknowledgement; it is back: the retry succeeds.
fn lost_directory() -> Outcome {
    let world = World::new()?;
    let data = world.path("data");
    world.copy_past(&data)?;
    let server = world.start(&data, &Start::default())?;
    let mut upload = interrupted();
    upload.acked.container = Some(world.client.container().map_err(Failed::said)?);
    let container = upload.acked.container.clone().ok_or("no container")?;
    let (blobs, away) = (data.join("blobs"), data.join("blobs-away"));
    fs::rename(&blobs, &away).map_err(|e| e.to_string())?;
    let reply = world.client.put_any(&container, &upload.body).map_err(|e| format!("no answer: {e}"))?;
    ensure!(reply.status == 503, "a PUT without a byte store: {} instead of 503", reply.status);
    let ready = world.client.send("GET", "/readyz", &[], b"").map_err(|e| e.to_string())?;
    ensure!(ready.status == 503, "ready without a byte store: {}", ready.status);
    fs::rename(&away, &blobs).map_err(|e| e.to_string())?;
    world.acknowledged(&data, &upload, 0)?;
    world.client.finish(&mut upload)?;
    server.terminate()?;
    world.holds_after(&data, &mut upload, 0)
}

#[test]
fn a_disk_in_trouble_is_told_and_loses_nothing() {
    all([
        ("a full disk".to_owned(), full_disk()),
        ("a full disk under a catalogue's file".to_owned(), full_disk_of_a_catalogue()),
        ("a disk that turns read-only".to_owned(), read_only()),
        ("a lost directory".to_owned(), lost_directory()),
    ]);
}

/// The judge of every case: the doctor sees what is lost and what is left over, and is silent about what the sweeper
/// had no chance to take.
fn the_doctor_sees() -> Outcome {
    let world = World::new()?;
    let data = world.path("data");
    world.copy_past(&data)?;
    doctor(&data, 0)?;
    let complains = |of: &str| match doctor(&data, 0) {
        Err(said) if said.contains(of) => Ok(()),
        other => Err(format!("the doctor does not see `{of}`: {other:?}")),
    };
    let orphan = {
        let named = eyes::segments(&data)?;
        let found = eyes::files(&data).into_iter().find(|(name, _)| !named.contains(name));
        found.ok_or("the past has no orphan")?.1.path().to_owned()
    };
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 24 * 3600);
    let file = fs::File::options().write(true).open(&orphan).map_err(|e| e.to_string())?;
    file.set_modified(long_ago).map_err(|e| e.to_string())?;
    // Nobody swept this database before: the sweeper is not to blame.
    complains("has no row, and this database was not in use when it was written")?;
    eyes::pretend_sweeping(&data, 3 * 3600)?;
    complains("has no row and was not swept for two days")?;
    fs::remove_file(&orphan).map_err(|e| e.to_string())?;
    doctor(&data, 0)?;
    let (segment, bytes) = eyes::files(&data).pop_first().ok_or("the past has no bytes")?;
    let path = bytes.path();
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    let mut damaged = bytes.clone();
    damaged[1000] ^= 1;
    fs::write(path, &damaged).map_err(|e| e.to_string())?;
    complains("damaged")?;
    fs::write(path, &bytes[..bytes.len() - 1]).map_err(|e| e.to_string())?;
    complains(&format!("segment {segment} ends at"))?;
    fs::remove_file(path).map_err(|e| e.to_string())?;
    complains(&format!("segment {segment} is not there: bytes are lost"))?;
    fs::write(path, &bytes).map_err(|e| e.to_string())?;
    doctor(&data, 0).map(drop)
}

#[test]
fn the_doctor_is_able_to_complain() {
    all([("the doctor".to_owned(), the_doctor_sees())]);
}
