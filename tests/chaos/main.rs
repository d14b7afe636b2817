//! Chaos: three processes on one PostgreSQL and one bucket behind nginx, loaded with uploads of every strategy, while a
//! random schedule kills and pauses processes, restarts the database and harms the bucket. Each client keeps its own
//! record of what it was told, and nothing of it may turn out to be untrue. Afterwards nothing may be left over.
//!
//! `LANDFALL_TEST_CHAOS_SECONDS` is how long (60), `LANDFALL_TEST_CHAOS_SEED` the schedule of an earlier run, and
//! `LANDFALL_TEST_CHAOS_KEEP` leaves the logs where they are. A minute needs 4 GB of room for
//! temporary files, ten minutes 14. What is measured is said in `docs/scaling.md`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::as_conversions,
    missing_docs,
    unreachable_pub,
    reason = "a test that can't go on has failed; the bans are the server's"
)]
#![cfg(feature = "failpoints")]

#[path = "../support/bucket.rs"]
mod bucket;
mod client;
#[path = "../support/harm.rs"]
mod harm;
#[path = "../support/nginx.rs"]
mod nginx;
#[path = "../../src/postgres/testing.rs"]
mod postgres;
mod storm;
mod uploads;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Web;
use storm::Rng;
use uploads::Desk;
use world::World;

/// Uploads that are under way at once.
const CLIENTS: u64 = 12;
/// After the storm everything has to end within this.
const CALM: Duration = Duration::from_secs(90);
/// From a client's trouble to the next byte that it is told of, for 99 of 100.
const RESUME_P99: Duration = Duration::from_secs(5);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

#[test]
fn nothing_is_lost_while_processes_die() {
    let length = Duration::from_secs(number("LANDFALL_TEST_CHAOS_SECONDS").unwrap_or(60));
    let seed = number("LANDFALL_TEST_CHAOS_SEED")
        .unwrap_or_else(|| u64::from_ne_bytes(landfall::clock::random_bytes::<8>()) >> 16);
    println!("chaos for {} s; again with LANDFALL_TEST_CHAOS_SEED={seed}", length.as_secs());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let world = Arc::new(World::start());
    let desk = Arc::new(Desk::new(Web::new(&world), seed, length));

    let began = Instant::now();
    let storm = std::thread::spawn({
        let (world, desk) = (Arc::clone(&world), Arc::clone(&desk));
        move || storm::rage(&world, storm::schedule(seed, length), began + length, || desk.has_broken())
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let desk = Arc::clone(&desk);
            runtime.spawn(async move { desk.work(Rng::new(seed ^ (number + 1).wrapping_mul(0x9E37_79B9))).await })
        })
        .collect();
    storm.join().expect("the storm");
    desk.close();
    let ended = runtime.block_on(async {
        tokio::time::timeout(CALM, futures_util::future::join_all(clients)).await.map(|ended| {
            for client in ended {
                client.expect("no client panics");
            }
        })
    });
    if ended.is_err() {
        desk.broken(format!("not every client could end within {} s of calm", CALM.as_secs()));
    }
    if !desk.has_broken() {
        runtime.block_on(desk.look_at_everything());
    }
    if !desk.has_broken()
        && let Err(sentence) = world.end_and_sweep()
    {
        desk.broken(sentence);
    }

    let figures = desk.figures(&world);
    println!("{figures}");
    let mut broken = desk.what_broke();
    broken.extend(world.panics());
    if let Some(late) = figures.too_slow(RESUME_P99) {
        broken.push(late);
    }
    let too_few = || world.storm.kills() < 5 || figures.harmed() < 10;
    if figures.uploads() < 20 || (length >= Duration::from_secs(60) && too_few()) {
        broken.push("too little happened for a test".into());
    }
    if !broken.is_empty() {
        let kept = world.keep();
        panic!("seed {seed}, logs in {}:\n{}", kept.display(), broken.join("\n"));
    }
}

#[test]
fn a_seed_makes_one_schedule() {
    let length = Duration::from_secs(60);
    assert_eq!(storm::schedule(7, length), storm::schedule(7, length));
    assert_ne!(storm::schedule(7, length), storm::schedule(8, length));
}
