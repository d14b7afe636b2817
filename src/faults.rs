//! Named fail points. Without the feature `failpoints` every function here is empty and the compiler removes it.
//!
//! A test sets `FAILPOINTS` (the syntax of the crate `fail`) to `name=return(action)`, for example
//! `FAILPOINTS="single.committed=return(kill)"`. Actions:
//!
//! | action | effect |
//! |---|---|
//! | `kill` | the process kills itself with SIGKILL at this point |
//! | `stop` | the process stops itself with SIGSTOP, so that a disk image can be copied as a power cut would leave it |
//! | `error` | the operation fails with EIO |
//! | `full` | the operation fails with ENOSPC |
//! | `skip` | the operation (a sync, a wait) is not done, although it is reported as done |
//!
//! The syntax also counts: `1*off->return(kill)` kills at the second time, `1*return(error)` fails once.
//!
//! [`POINTS`] lists every name; `tests/crash` compares it with the cases that use them.

use std::io;

/// Every point: the crash points in the order a file passes them, then those of every transaction, then the operations
/// that can be made to fail, then the syncs that can be switched off, then the sweeper's hour of waiting, which a test
/// can't sit out.
pub const POINTS: &[&str] = &[
    "start.place",
    "start.remembered",
    "start.tenant",
    "start.sources",
    "start.intent",
    "start.key",
    "start.shown",
    "single.session_row",
    "single.ticket_sent",
    "segment.create",
    "segment.created",
    "segment.write",
    "segment.half_written",
    "segment.unsynced",
    "segment.synced",
    "segment.named",
    "segment.read",
    "object.begun",
    "object.part",
    "object.tail",
    "object.sealing",
    "object.sealed",
    "single.committed",
    "single.reply",
    "resumable.session_row",
    "resumable.taken_over",
    "resumable.recorded",
    "resumable.last_written",
    "resumable.committed",
    "resumable.reply",
    "parts.session_row",
    "parts.tickets_sent",
    "part.written",
    "part.recorded",
    "part.reply",
    "parts.committed",
    "direct.session_begun",
    "direct.joined",
    "direct.committed",
    "parts.reply",
    "file.checked",
    "file.registered",
    "register.checked",
    "register.committed",
    "register.reply",
    "process.leased",
    "process.text_written",
    "process.applied",
    "process.finished",
    "store.registered",
    "store.step",
    "store.chunks_written",
    "store.processed",
    "store.emptied",
    "move.intended",
    "move.begun",
    "move.copied",
    "move.compared",
    "move.switched",
    "sweep.expired",
    "sweep.tombstone",
    "sweep.marked",
    "sweep.unlinked",
    "sweep.row_deleted",
    "database.uncommitted",
    "database.committed",
    "database.doubt",
    "process.end",
    "segment.create",
    "segment.write",
    "segment.read",
    "sync.segment",
    "sync.directory",
    "sync.database",
    "sweep.agreement",
];

/// A crash point: `kill` and `stop` act here, other actions do nothing.
pub fn point(name: &str) {
    let _ = eval(name);
}

/// A point in front of an operation that can fail.
///
/// # Errors
/// The error that the test asked for, with `error` (EIO) or `full` (ENOSPC).
pub fn io_point(name: &str) -> io::Result<()> {
    match eval(name).as_deref() {
        Some("error") => Err(io::Error::from_raw_os_error(libc::EIO)),
        Some("full") => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        _ => Ok(()),
    }
}

/// A point in front of a sync, which can fail, or be switched off: then the answer is true. Passed once per sync, so that
/// a test can count them.
///
/// # Errors
/// As [`io_point`].
pub fn sync_point(name: &str) -> io::Result<bool> {
    match eval(name).as_deref() {
        Some("error") => Err(io::Error::from_raw_os_error(libc::EIO)),
        Some("full") => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        action => Ok(action == Some("skip")),
    }
}

/// Is the sync or the wait `name` switched off by a test?
#[must_use]
pub fn skipped(name: &str) -> bool {
    eval(name).as_deref() == Some("skip")
}

#[cfg(feature = "failpoints")]
fn eval(name: &str) -> Option<String> {
    let action = fail::eval(name, |argument| argument)??;
    match action.as_str() {
        "kill" => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        "stop" => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
            // The kernel may hand the signal to another thread first. Without this, the one that is to stop here
            // would run on for some microseconds, perhaps into the very sync that the test wants to cut off.
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        _ => {}
    }
    Some(action)
}

#[cfg(not(feature = "failpoints"))]
#[inline(always)]
fn eval(_name: &str) -> Option<String> {
    None
}

/// With the feature, moves the clock by the seconds in `LANDFALL_TEST_CLOCK`, so that a test can start a server in the
/// future of its data.
pub fn move_clock(_clock: &crate::clock::Clock) {
    #[cfg(feature = "failpoints")]
    #[allow(clippy::disallowed_methods, reason = "a test's switch, compiled only with the feature")]
    if let Some(seconds) = std::env::var("LANDFALL_TEST_CLOCK").ok().and_then(|s| s.parse().ok()) {
        _clock.advance(std::time::Duration::from_secs(seconds));
    }
}

/// Reads the `FAILPOINTS` variable. Called once at start.
pub fn setup() {
    #[cfg(feature = "failpoints")]
    std::mem::forget(fail::FailScenario::setup());
}
