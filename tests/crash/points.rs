//! Every crash point by kill -9 and by power cut.

use std::path::Path;
use std::sync::{Arc, Mutex};

use landfall::faults;

use crate::client::{Client, Failed, Upload};
use crate::parts::{self, InParts};
use crate::resumable::{self, Session};
use crate::server::{Server, Start, doctor};
use crate::stores::{self, Store};
use crate::world::{self, Cut, LATER, PATIENCE, World, interrupted, text};
use crate::{Outcome, all, disk, ensure, eyes, wait_until};

/// What a server is doing when it reaches a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum During {
    /// A container, a PUT, a push, its processing.
    Upload,
    /// The second PUT to a container: the version is swapped.
    Swap,
    /// The sweep of what is past its expiry.
    Sweep,
    /// The sweep of what an earlier sweep left for later.
    LaterSweep,
}

/// Which test a point has.
enum Tested {
    Crash(During),
    /// In a resumable upload.
    InSession(Session),
    /// In a resumable upload whose bytes are in a bucket; the others are crashed there as well.
    InBucket(Session),
    /// In an upload in parts.
    OfParts(InParts),
    /// In an upload that goes to a bucket itself: in `direct.rs`.
    Direct,
    /// Of a store.
    InStore(Store),
    /// While bytes are moved to another place: in `moves.rs`.
    InMove,
    /// In the first start of a data directory.
    FirstStart,
    /// Each time that it is passed, the first to the last.
    EveryTime,
    /// By switching a sync off, or by letting an operation fail: in `faulty.rs`.
    Elsewhere,
}

use Tested::{Crash, Direct, Elsewhere, EveryTime, FirstStart, InBucket, InMove, InSession, InStore, OfParts};

const CASES: &[(&str, Tested)] = &[
    ("start.place", FirstStart),
    ("start.remembered", FirstStart),
    ("start.tenant", FirstStart),
    ("start.sources", FirstStart),
    ("start.intent", FirstStart),
    ("start.key", FirstStart),
    ("start.shown", FirstStart),
    ("single.session_row", Crash(During::Upload)),
    ("single.ticket_sent", Crash(During::Upload)),
    ("segment.created", Crash(During::Upload)),
    ("segment.half_written", Crash(During::Upload)),
    ("segment.unsynced", Crash(During::Upload)),
    ("segment.synced", Crash(During::Upload)),
    ("segment.named", Crash(During::Upload)),
    ("single.committed", Crash(During::Upload)),
    ("single.committed", Crash(During::Swap)),
    ("single.reply", Crash(During::Upload)),
    ("single.reply", Crash(During::Swap)),
    ("resumable.session_row", InSession(Session::Fresh)),
    ("segment.created", InSession(Session::GoingOn)),
    ("segment.half_written", InSession(Session::Fresh)),
    ("segment.half_written", InSession(Session::GoingOn)),
    ("segment.unsynced", InSession(Session::Fresh)),
    ("segment.synced", InSession(Session::Fresh)),
    ("segment.named", InSession(Session::Fresh)),
    ("segment.named", InSession(Session::GoingOn)),
    ("resumable.taken_over", InSession(Session::GoingOn)),
    ("resumable.recorded", InSession(Session::Fresh)),
    ("resumable.recorded", InSession(Session::GoingOn)),
    ("resumable.last_written", InSession(Session::Fresh)),
    ("resumable.last_written", InSession(Session::GoingOn)),
    ("resumable.committed", InSession(Session::Fresh)),
    ("resumable.reply", InSession(Session::Fresh)),
    ("resumable.reply", InSession(Session::GoingOn)),
    ("object.begun", InBucket(Session::Long)),
    ("object.part", InBucket(Session::Long)),
    ("object.part", InBucket(Session::Fresh)),
    ("object.tail", InBucket(Session::Fresh)),
    ("object.tail", InBucket(Session::GoingOn)),
    ("object.sealing", InBucket(Session::GoingOn)),
    ("object.sealing", InBucket(Session::LongGoingOn)),
    ("object.sealed", InBucket(Session::GoingOn)),
    ("object.sealed", InBucket(Session::LongGoingOn)),
    ("parts.session_row", OfParts(InParts::First)),
    ("parts.tickets_sent", OfParts(InParts::First)),
    ("segment.created", OfParts(InParts::First)),
    ("segment.half_written", OfParts(InParts::First)),
    ("segment.half_written", OfParts(InParts::Later)),
    ("segment.unsynced", OfParts(InParts::Later)),
    ("segment.synced", OfParts(InParts::Later)),
    ("segment.named", OfParts(InParts::Again)),
    ("part.written", OfParts(InParts::First)),
    ("part.written", OfParts(InParts::Again)),
    ("part.recorded", OfParts(InParts::First)),
    ("part.recorded", OfParts(InParts::Later)),
    ("part.recorded", OfParts(InParts::Again)),
    ("part.reply", OfParts(InParts::First)),
    ("part.reply", OfParts(InParts::Again)),
    ("parts.committed", OfParts(InParts::First)),
    ("parts.committed", OfParts(InParts::Replacing)),
    ("parts.reply", OfParts(InParts::First)),
    ("parts.reply", OfParts(InParts::Replacing)),
    ("direct.session_begun", Direct),
    ("direct.joined", Direct),
    ("direct.committed", Direct),
    ("file.checked", InSession(Session::Fresh)),
    ("file.registered", InSession(Session::Fresh)),
    ("register.checked", Crash(During::Upload)),
    ("register.committed", Crash(During::Upload)),
    ("register.reply", Crash(During::Upload)),
    ("process.leased", Crash(During::Upload)),
    ("process.text_written", Crash(During::Upload)),
    ("process.applied", Crash(During::Upload)),
    ("process.finished", Crash(During::Upload)),
    ("store.registered", InStore(Store::Filled)),
    ("store.step", InStore(Store::Filled)),
    ("store.step", InStore(Store::FilledLate)),
    ("store.chunks_written", InStore(Store::Filled)),
    ("store.processed", InStore(Store::Filled)),
    ("store.emptied", InStore(Store::Deleted)),
    ("move.intended", InMove),
    ("move.begun", InMove),
    ("move.copied", InMove),
    ("move.compared", InMove),
    ("move.switched", InMove),
    ("sweep.expired", Crash(During::Sweep)),
    ("sweep.tombstone", Crash(During::Sweep)),
    ("sweep.marked", Crash(During::Sweep)),
    ("sweep.unlinked", Crash(During::Sweep)),
    ("sweep.row_deleted", Crash(During::LaterSweep)),
    ("database.uncommitted", EveryTime),
    ("database.committed", EveryTime),
    ("database.doubt", Elsewhere),
    ("process.end", Elsewhere),
    ("segment.create", Elsewhere),
    ("segment.write", Elsewhere),
    ("segment.read", Elsewhere),
    ("sync.segment", Elsewhere),
    ("sync.directory", Elsewhere),
    ("sync.database", Elsewhere),
    ("sweep.agreement", Elsewhere),
];

fn crash_cases() -> impl Iterator<Item = (&'static str, During)> {
    CASES.iter().filter_map(|(point, tested)| match tested {
        Crash(during) => Some((*point, *during)),
        InSession(_) | InBucket(_) | OfParts(_) | InStore(_) | InMove | Direct | FirstStart | EveryTime | Elsewhere => {
            None
        }
    })
}

fn in_sessions(kind: &str, case: fn(&str, Session) -> Outcome) {
    all(CASES.iter().filter_map(|(point, tested)| match tested {
        InSession(session) => Some((format!("{kind} at {point} ({session:?})"), case(point, *session))),
        Crash(_) | InBucket(_) | OfParts(_) | InStore(_) | InMove | Direct | FirstStart | EveryTime | Elsewhere => None,
    }));
}

fn in_buckets(kind: &str, case: fn(&str, Session) -> Outcome) {
    all(CASES.iter().filter_map(|(point, tested)| match tested {
        InBucket(session) => Some((format!("{kind} at {point} ({session:?})"), case(point, *session))),
        Crash(_) | InSession(_) | OfParts(_) | InStore(_) | InMove | Direct | FirstStart | EveryTime | Elsewhere => {
            None
        }
    }));
}

fn of_parts(kind: &str, case: fn(&str, InParts) -> Outcome) {
    all(CASES.iter().filter_map(|(point, tested)| match tested {
        OfParts(when) => Some((format!("{kind} at {point} ({when:?})"), case(point, *when))),
        Crash(_) | InSession(_) | InBucket(_) | InStore(_) | InMove | Direct | FirstStart | EveryTime | Elsewhere => {
            None
        }
    }));
}

fn in_stores(kind: &str, case: fn(&str, Store) -> Outcome) {
    all(CASES.iter().filter_map(|(point, tested)| match tested {
        InStore(store) => Some((format!("{kind} at {point} ({store:?})"), case(point, *store))),
        Crash(_) | InSession(_) | InBucket(_) | OfParts(_) | InMove | Direct | FirstStart | EveryTime | Elsewhere => {
            None
        }
    }));
}

fn others(which: fn(&Tested) -> bool) -> Vec<&'static str> {
    let names: Vec<_> = CASES.iter().filter(|(_, tested)| which(tested)).map(|(point, _)| *point).collect();
    assert!(!names.is_empty());
    names
}

#[test]
fn every_point_has_a_case() {
    for point in faults::POINTS {
        assert!(CASES.iter().any(|(name, _)| name == point), "the fail point `{point}` has no crash test: add a case");
    }
    for (name, _) in CASES {
        assert!(faults::POINTS.contains(name), "`{name}` is no fail point any more: remove its case");
    }
}

/// What the client does while the server runs towards its point; what got an answer is in `upload`.
fn use_server(client: &Client, during: During, upload: &Mutex<Upload>) -> Outcome {
    let step = |result: Result<(), Failed>| match result {
        Ok(()) | Err(Failed::Cut(_)) => Ok(()),
        Err(Failed::Answer(text)) => Err(format!("a wrong answer before the crash: {text}")),
    };
    // The upload is copied and written back: the watcher must not wait for a client that waits for a stopped server.
    let mut mine = upload.lock().expect("no panic").clone();
    let ended = match during {
        During::Upload => client.go_on(&mut mine),
        During::Swap => client.container().and_then(|container| {
            mine.acked.container = Some(container.clone());
            client.put(&container, &text("firstneedle", 300_000))?;
            client.put(&container, &mine.body)?;
            mine.acked.put = true;
            Ok(())
        }),
        During::Sweep | During::LaterSweep => Ok(()),
    };
    *upload.lock().expect("no panic") = mine;
    step(ended)
}

/// A server on its way to the point, and when that is.
fn begin(
    world: &World,
    data: &Path,
    point: &str,
    during: During,
    action: &str,
    upload: &mut Upload,
) -> Outcome<(Server, u64)> {
    // The first PUT of a swap passes the point as well.
    let count = if during == During::Swap { "1*off->" } else { "" };
    let point = format!("{point}={count}return({action})");
    match during {
        During::Upload | During::Swap => Ok((world.start(data, &Start::failing(point))?, 0)),
        During::Sweep | During::LaterSweep => {
            let server = world.start(data, &Start::default())?;
            world.client.finish(upload)?;
            world.acknowledged(data, upload, 0)?;
            server.terminate()?;
            let mut clock = LATER;
            if during == During::LaterSweep {
                world.swept(data, clock)?;
                clock += LATER;
            }
            // It may be dead before it listens: the sweep begins with the start.
            Ok((world.spawn(data, &Start::at(clock).and(&point)), clock))
        }
    }
}

fn killed(point: &str, during: During) -> Outcome {
    killed_in(&World::new()?, point, during)
}

fn killed_in_bucket(point: &str, during: During) -> Outcome {
    killed_in(&World::in_bucket()?, point, during)
}

fn killed_beyond(point: &str, during: During) -> Outcome {
    killed_in(&World::beyond_one_machine()?, point, during)
}

fn killed_in(world: &World, point: &str, during: During) -> Outcome {
    let data = world.path("data");
    world.copy_past(&data)?;
    let upload = Mutex::new(interrupted());
    let (mut server, clock) = begin(world, &data, point, during, "kill", &mut upload.lock().expect("no panic"))?;
    use_server(&world.client, during, &upload)?;
    server.died_at_its_point()?;
    world.holds_after(&data, &mut upload.into_inner().expect("no panic"), clock)
}

/// Runs to the point, where the server stops, does `cut` with the stopped server, and ends it.
fn stopped(world: &World, data: &Path, point: &str, during: During, cut: Cut<'_>) -> Outcome<(Upload, u64)> {
    let upload = Arc::new(Mutex::new(interrupted()));
    let (mut server, clock) = begin(world, data, point, during, "stop", &mut upload.lock().expect("no panic"))?;
    let client = std::thread::spawn({
        let (client, upload) = (world.client.clone(), Arc::clone(&upload));
        move || use_server(&client, during, &upload)
    });
    let reached = server.stopped_at_its_point();
    let cut = reached.and_then(|()| cut());
    // The client waits for an answer of a stopped server, and gets none.
    server.kill();
    let used = client.join().map_err(|_| String::from("the client panicked"))?;
    cut?;
    used?;
    let upload = upload.lock().expect("no panic").clone();
    Ok((upload, clock))
}

fn cut_off(point: &str, during: During) -> Outcome {
    world::cut_off(
        |world, data, cut| stopped(world, data, point, during, cut),
        |world, data, (mut upload, clock)| world.holds_after(data, &mut upload, clock),
    )
}

fn cut_off_strictly(point: &str, during: During) -> Outcome {
    world::cut_off_strictly(
        |world, data, cut| stopped(world, data, point, during, cut),
        |world, data, (mut upload, clock)| world.holds_after(data, &mut upload, clock),
    )
}

/// A first start that was killed is a first start again.
fn killed_in_a_first_start(point: &str) -> Outcome {
    let world = World::new()?;
    let data = world.path("data");
    let mut server = world.spawn(&data, &Start::failing(format!("{point}=return(kill)")));
    server.died_at_its_point()?;
    // Only a start that came to its printing has shown a key; nobody is known to have seen it.
    let shown = server.keys();
    ensure!(shown.len() == usize::from(point == "start.shown"), "the first start printed {} keys", shown.len());
    let server = world.start(&data, &Start::default())?;
    let client = Client { key: server.key_after(&shown)?, ..world.client.clone() };
    let valid = "SELECT count(*) FROM keys WHERE revoked IS NULL";
    ensure!(eyes::count(&data, valid)? == 1, "a key that nobody has seen still holds");
    let mut upload = interrupted();
    client.finish(&mut upload)?;
    let found = wait_until(PATIENCE, || client.found("newneedle").is_ok_and(|found| found == [upload.document]));
    ensure!(found, "the first upload is not found");
    ensure!(client.content(upload.document)? == upload.body, "the first upload has other bytes");
    server.terminate()?;
    doctor(&data, 0)?;
    // The key was seen: no start makes another.
    let server = world.start(&data, &Start::default())?;
    ensure!(client.content(upload.document)? == upload.body, "the key that was shown does not hold any more");
    ensure!(server.keys().len() == shown.len() + 1, "a later start printed a key");
    server.terminate()
}

/// A start, a container, a PUT, a push and its processing pass a transaction more often than this, and not as often as
/// that.
const LEAST: u32 = 8;
const MOST: u32 = 200;
const DONE: &str = "SELECT count(*) FROM pushes WHERE state = 'done'";

/// Kills the server when it passes the point for the n-th time, for every n up to the one that the upload ends before.
fn killed_every_time(point: &str) -> Outcome {
    for time in 0..MOST {
        let world = World::new()?;
        let data = world.path("data");
        world.copy_past(&data)?;
        let mut upload = interrupted();
        let mut server = world.spawn(&data, &Start::failing(format!("{point}={time}*off->return(kill)")));
        server.answers_or_ended();
        match world.client.go_on(&mut upload) {
            Ok(()) | Err(Failed::Cut(_)) => {}
            Err(Failed::Answer(text)) => return Err(format!("time {time}: a wrong answer before the crash: {text}")),
        }
        let done = || eyes::count(&data, DONE).is_ok_and(|pushes| pushes == 3);
        let mut ended = false;
        wait_until(PATIENCE, || {
            ended = server.has_ended();
            ended || done()
        });
        if !ended {
            ensure!(done(), "time {time}: the server neither died nor ended the upload: {}", server.tail());
            ensure!(time > LEAST, "an upload passes {point} only {time} times");
            eprintln!("kill -9 at {point}: {time} times");
            return Ok(());
        }
        server.died_at_its_point()?;
        world.holds_after(&data, &mut upload, 0).map_err(|sentence| format!("time {time}: {sentence}"))?;
    }
    Err(format!("an upload passes {point} more than {MOST} times"))
}

/// Cuts the power when the server passes the point for the n-th time, for every n up to the one that the upload ends
/// before.
fn cut_every_time(point: &str) -> Outcome {
    for time in 0..MOST {
        let world = World::new()?;
        let (image, copied, mount) = (world.path("disk"), world.path("after"), world.path("mnt"));
        disk::make(&image, 192)?;
        let data = mount.join("data");
        let mounted = disk::Mount::new(&image, &mount)?;
        world.copy_past(&data)?;
        disk::run("sync", &["-f", disk::shown(&mount)])?;
        let mut server = world.spawn(&data, &Start::failing(format!("{point}={time}*off->return(stop)")));
        let port = world.client.port;
        wait_until(PATIENCE, || {
            server.has_ended() || server.is_stopped() || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        let client = std::thread::spawn({
            let client = world.client.clone();
            move || {
                let mut upload = interrupted();
                let ended = client.go_on(&mut upload);
                (upload, ended)
            }
        });
        let mut stopped = false;
        let mut done = false;
        wait_until(PATIENCE, || {
            stopped = server.is_stopped();
            done = client.is_finished() && eyes::count(&data, DONE).is_ok_and(|pushes| pushes == 3);
            stopped || done
        });
        if stopped {
            disk::copy(&image, &copied)?;
        }
        let tail = server.tail();
        server.kill();
        let (mut upload, ended) = client.join().map_err(|_| String::from("the client panicked"))?;
        mounted.unmount()?;
        if let Err(Failed::Answer(text)) = ended {
            return Err(format!("time {time}: a wrong answer before the cut: {text}"));
        }
        if !stopped {
            ensure!(done, "time {time}: the server neither stopped nor ended the upload: {tail}");
            ensure!(time > LEAST, "an upload passes {point} only {time} times");
            eprintln!("power cut at {point}: {time} times");
            return Ok(());
        }
        let mounted = disk::Mount::new(&copied, &mount)?;
        let held = world.holds_after(&data, &mut upload, 0).map_err(|sentence| format!("time {time}: {sentence}"));
        held.and(mounted.unmount())?;
    }
    Err(format!("an upload passes {point} more than {MOST} times"))
}

fn each(kind: &str, group: fn(During) -> bool, case: fn(&str, During) -> Outcome) {
    let cases: Vec<_> = crash_cases().filter(|(_, during)| group(*during)).collect();
    assert!(!cases.is_empty());
    all(cases.into_iter().map(|(point, during)| (format!("{kind} at {point} ({during:?})"), case(point, during))));
}

fn in_uploads(during: During) -> bool {
    matches!(during, During::Upload | During::Swap)
}

fn in_sweeps(during: During) -> bool {
    !in_uploads(during)
}

#[test]
fn killed_in_the_first_start() {
    let points = others(|tested| matches!(tested, FirstStart));
    all(points.into_iter().map(|point| (format!("kill -9 at {point}"), killed_in_a_first_start(point))));
}

#[test]
fn killed_at_every_transaction() {
    let points = others(|tested| matches!(tested, EveryTime));
    all(points.into_iter().map(|point| (format!("kill -9 at every {point}"), killed_every_time(point))));
}

#[test]
fn power_cut_at_every_transaction() {
    let points = others(|tested| matches!(tested, EveryTime));
    all(points.into_iter().map(|point| (format!("power cut at every {point}"), cut_every_time(point))));
}

#[test]
fn killed_in_an_upload() {
    each("kill -9", in_uploads, killed);
}

#[test]
fn killed_in_an_upload_into_a_bucket() {
    each("bucket, kill -9", in_uploads, killed_in_bucket);
}

#[test]
fn killed_in_a_sweep_of_a_bucket() {
    each("bucket, kill -9", in_sweeps, killed_in_bucket);
}

#[test]
fn killed_in_a_resumable_upload_into_a_bucket() {
    in_sessions("bucket, kill -9", resumable::killed_in_bucket);
}

#[test]
fn killed_where_a_bucket_has_steps_of_its_own() {
    in_buckets("bucket, kill -9", resumable::killed_in_bucket);
}

#[test]
fn killed_in_an_upload_in_parts_into_a_bucket() {
    of_parts("bucket, kill -9", parts::killed_in_bucket);
}

#[test]
fn killed_in_an_upload_beyond_one_machine() {
    each("PostgreSQL and a bucket, kill -9", in_uploads, killed_beyond);
}

#[test]
fn killed_in_a_sweep_beyond_one_machine() {
    each("PostgreSQL and a bucket, kill -9", in_sweeps, killed_beyond);
}

#[test]
fn killed_in_a_resumable_upload_beyond_one_machine() {
    in_sessions("PostgreSQL and a bucket, kill -9", resumable::killed_beyond);
}

#[test]
fn killed_where_a_bucket_has_steps_of_its_own_beyond_one_machine() {
    in_buckets("PostgreSQL and a bucket, kill -9", resumable::killed_beyond);
}

#[test]
fn killed_in_an_upload_in_parts_beyond_one_machine() {
    of_parts("PostgreSQL and a bucket, kill -9", parts::killed_beyond);
}

#[test]
fn killed_in_a_resumable_upload() {
    in_sessions("kill -9", resumable::killed);
}

#[test]
fn power_cut_in_a_resumable_upload() {
    in_sessions("power cut", resumable::cut_off);
}

#[test]
fn strict_power_cut_in_a_resumable_upload() {
    in_sessions("strict power cut", resumable::cut_off_strictly);
}

#[test]
fn killed_in_an_upload_in_parts() {
    of_parts("kill -9", parts::killed);
}

#[test]
fn power_cut_in_an_upload_in_parts() {
    of_parts("power cut", parts::cut_off);
}

#[test]
fn strict_power_cut_in_an_upload_in_parts() {
    of_parts("strict power cut", parts::cut_off_strictly);
}

#[test]
fn killed_in_a_store() {
    in_stores("kill -9", stores::killed);
}

#[test]
fn power_cut_in_a_store() {
    in_stores("power cut", stores::cut_off);
}

#[test]
fn killed_in_a_sweep() {
    each("kill -9", in_sweeps, killed);
}

#[test]
fn power_cut_in_an_upload() {
    each("power cut", in_uploads, cut_off);
}

#[test]
fn power_cut_in_a_sweep() {
    each("power cut", in_sweeps, cut_off);
}

#[test]
fn strict_power_cut_in_an_upload() {
    each("strict power cut", in_uploads, cut_off_strictly);
}

#[test]
fn the_list_of_cases_is_able_to_fail() {
    let nothing = std::panic::catch_unwind(|| all([(String::from("a case"), Err(String::from("a reason")))]));
    assert!(nothing.is_err(), "a case that failed must fail its test");
    let run = || -> Outcome {
        ensure!(1 + 1 == 3, "sums");
        Ok(())
    };
    assert_eq!(run(), Err(String::from("sums")));
}
