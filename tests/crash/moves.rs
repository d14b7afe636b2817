//! Moves of bytes to another place that are killed at every step, beside a server that goes on: every file can be read
//! before, in between and afterwards, a repeated move ends what is left, and nothing is left over.

use serde_json::Value;

use crate::server::{Start, doctor, move_bytes, spawn_move};
use crate::world::{World, interrupted};
use crate::{Outcome, all, bucket, disk, ensure, eyes, strict};

/// From the disk to the bucket, or back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    ToBucket,
    /// Of files whose uploads nobody remembers.
    LongAgo,
    ToDisk,
    /// With facts in a database, where one process moves and another serves.
    BeyondOneMachine,
}

/// Bytes that lie at one place, and a server that writes to the other.
fn killed(point: &str, way: Way) -> Outcome {
    let world = match way {
        Way::ToBucket | Way::LongAgo => World::new()?,
        Way::ToDisk => World::in_bucket()?,
        Way::BeyondOneMachine => World::beyond_one_machine()?,
    };
    let data = world.path("data");
    world.copy_past(&data)?;
    bucket::mark_both(&data)?;
    world.start(&data, &Start::default())?.terminate()?;
    bucket::switch(&data)?;
    if way == Way::LongAgo {
        eyes::forget_sessions(&data)?;
    }
    let server = world.start(&data, &Start::default())?;
    let readable = || world.acknowledged(&data, &interrupted(), 0);
    readable()?;
    let said = move_bytes(&data, &format!("{point}=return(kill)"))?;
    ensure!(said.is_none(), "the move did not come to its point: {said:?}");
    doctor(&data, 0)?;
    readable()?;
    let said = move_bytes(&data, "")?.ok_or("a move without fail points was killed")?;
    let line: Value = serde_json::from_str(&said).map_err(|e| format!("not JSON ({e}): {said}"))?;
    ensure!(line["left"] == 0 && line["damaged"] == 0 && line["uploads"] == 0, "{said}");
    // Two items and a container, of which the run before may have come to one, or to those of its group.
    let moved = line["moved"].as_u64().unwrap_or(u64::MAX);
    ensure!(if point == "move.switched" { moved < 3 } else { moved == 3 }, "{said}");
    doctor(&data, 0)?;
    readable()?;
    server.terminate()?;
    world.holds_after(&data, &mut interrupted(), 0)
}

#[test]
fn killed_while_bytes_are_moved() {
    let points = ["move.intended", "move.begun", "move.copied", "move.compared", "move.switched"];
    let both = points.into_iter().flat_map(|point| [(point, Way::ToBucket), (point, Way::ToDisk)]);
    let others = [
        ("move.copied", Way::LongAgo),
        ("move.switched", Way::BeyondOneMachine),
        ("move.compared", Way::BeyondOneMachine),
    ];
    // And within the steps of the place that is written to.
    let at_disk = ["segment.created", "segment.half_written", "segment.unsynced", "segment.synced", "segment.named"];
    let cases =
        both.chain(others).chain(at_disk.map(|point| (point, Way::ToDisk))).chain([("object.part", Way::ToBucket)]);
    all(cases.map(|(point, way)| (format!("{point} ({way:?})"), killed(point, way))));
}

/// The power is cut when a row names a copy on a disk that keeps names and bytes only when they were synced.
fn cut_off(point: &str) -> Outcome {
    let world = World::in_bucket()?;
    let (data, kept) = (world.path("data"), world.path("kept"));
    world.copy_past(&data)?;
    bucket::mark_both(&data)?;
    world.start(&data, &Start::default())?.terminate()?;
    bucket::switch(&data)?;
    let blobs = data.join("blobs");
    let strict = strict::Disk::mount(&blobs)?;
    let server = world.start(&data, &Start::default())?;
    let mut moving = spawn_move(&data, &world.path("log"), &format!("{point}=return(stop)"));
    let cut = moving.stopped_at_its_point().and_then(|()| strict.copy_durable(&kept));
    moving.kill();
    server.kill();
    strict.unmount()?;
    cut?;
    disk::run("rm", &["-r", disk::shown(&blobs)])?;
    disk::run("mv", &[disk::shown(&kept), disk::shown(&blobs)])?;
    doctor(&data, 0)?;
    let server = world.start(&data, &Start::default())?;
    world.acknowledged(&data, &interrupted(), 0)?;
    move_bytes(&data, "")?.ok_or("a move without fail points was killed")?;
    world.acknowledged(&data, &interrupted(), 0)?;
    server.terminate()?;
    world.holds_after(&data, &mut interrupted(), 0)
}

#[test]
fn cut_off_while_bytes_are_moved_to_a_strict_disk() {
    let points = ["segment.synced", "move.copied", "move.compared", "move.switched"];
    all(points.map(|point| (format!("cut off at {point}"), cut_off(point))));
}
