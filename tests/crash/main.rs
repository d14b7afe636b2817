//! Crashes. The built server is killed, or loses its power, at every named point of an upload, a push, its processing
//! and a sweep; afterwards every acknowledged byte must be there, nothing unfinished may show, the client's retry must
//! end the upload with one effect, and past its expiry nothing may be left over.
//!
//! A power cut is made in two ways. `disk.rs` copies the image of a mounted ext4 while the server is stopped: what a
//! real file system leaves. `strict.rs` is a file system that keeps a name or a byte only if it was synced: what any
//! file system may leave. The points are those of `landfall::faults::POINTS`, and a test compares the lists.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::as_conversions,
    missing_docs,
    unreachable_pub,
    reason = "a test that can't go on has failed; the bans are the server's"
)]
#![cfg(feature = "failpoints")]

mod bucket;
mod client;
mod direct;
mod disk;
mod eyes;
mod facts;
mod faulty;
#[path = "../support/harm.rs"]
mod harm;
mod moves;
mod parts;
mod points;
#[path = "../../src/postgres/testing.rs"]
mod postgres;
mod resumable;
mod server;
#[path = "../support/bucket.rs"]
mod store;
mod stores;
mod strict;
mod world;

use std::time::{Duration, Instant};

/// What a step of a case ends with: a sentence when something does not hold.
pub type Outcome<T = ()> = Result<T, String>;

/// Ends a case with a sentence unless a condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($sentence:tt)+) => {
        if !$condition {
            return Err(format!($($sentence)+));
        }
    };
}

/// Asks again and again, at most for so long. Did it become true?
pub fn wait_until(most: Duration, mut done: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    loop {
        if done() {
            return true;
        }
        if began.elapsed() > most {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs all cases and fails with a list, so that one run shows everything.
pub fn all(cases: impl IntoIterator<Item = (String, Outcome)>) {
    let mut failed = Vec::new();
    let mut count = 0;
    for (name, outcome) in cases {
        count += 1;
        eprintln!("{name}: {outcome:?}");
        if let Err(sentence) = outcome {
            failed.push(format!("{name}: {sentence}"));
        }
    }
    assert!(failed.is_empty(), "{} of {count} cases failed:\n{}", failed.len(), failed.join("\n"));
}
