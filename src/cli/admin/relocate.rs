//! Bytes: moved from one place to another.

use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::{AdminError, Place, refused};
use crate::app::{self, StartError};
use crate::clock::Clock;
use crate::config::{self, ConfigError, Storage, storage_of};
use crate::faults;
use crate::upload::relocate::{Plan, Report, relocate};

/// How often a terminal is told.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Arguments of `landfall admin move`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Move {
    /// Where the bytes are: a configured place, written as in `storage`
    #[arg(long, value_name = "WHERE")]
    from: String,
    /// Where they shall be: another one
    #[arg(long, value_name = "WHERE")]
    to: String,
    /// Bytes in a second, such as 50MiB [default: as fast as it goes]
    #[arg(long, value_name = "SIZE")]
    rate: Option<String>,
    /// Pieces at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
    #[command(flatten)]
    place: Place,
}

impl Move {
    pub(super) const fn place(&self) -> &Place {
        &self.place
    }

    /// Moves until nothing is left or a signal comes, and says what was done as one line.
    pub(super) fn run(&self) -> Result<ExitCode, AdminError> {
        faults::setup();
        let config = self.place.config().map_err(StartError::from)?;
        let (from, to) = (named("from", &self.from)?, named("to", &self.to)?);
        if [&from, &to].into_iter().any(|place| matches!(place, Storage::Disk)) {
            let owner = std::fs::metadata(&config.data)?.uid();
            stranger(owner, rustix::process::geteuid().as_raw()).map_or(Ok(()), |why| Err(refused(why)))?;
        }
        let rate = match &self.rate {
            None => None,
            Some(text) => match config::size(text) {
                Some(rate @ 1..) => Some(rate),
                _ => return Err(refused(format!("`--rate` can't be `{text}`: it is a size such as 50MiB"))),
            },
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let report = runtime.block_on(async {
            let clock = Clock::system();
            faults::move_clock(&clock);
            let stop = stopped_by_signals()?;
            let (engine, from) = app::open_to_move(&config, clock, &from, &to).await?;
            let plan = Plan { from, rate, parallel: usize::from(self.parallel) };
            let shown = Shown::default();
            let told = shown.while_it_runs();
            let moved = relocate(&engine, plan, &stop, &|bytes| shown.one(bytes)).await;
            told.abort();
            if std::io::stderr().is_terminal() {
                eprintln!();
            }
            let report = moved.map_err(|error| refused(format!("{error}. Repeated, the command goes on")))?;
            Ok::<_, AdminError>((report, stop.load(Ordering::Relaxed)))
        });
        let (report, stopped) = report?;
        Ok(told(&report, stopped))
    }
}

/// The place that an argument names.
fn named(argument: &'static str, text: &str) -> Result<Storage, AdminError> {
    storage_of(argument, text).map_err(|error| match error {
        ConfigError::Invalid { field, value, remedy } => refused(format!("`--{field}` can't be `{value}`: {remedy}")),
        other @ (ConfigError::Unreadable { .. } | ConfigError::Syntax { .. } | ConfigError::Unknown { .. }) => {
            StartError::from(other).into()
        }
    })
}

/// Why this user must not write to the data directory: the server could not delete what another's command has made there.
fn stranger(owner: u32, user: u32) -> Option<String> {
    (owner != user).then(|| {
        format!(
            "the data directory belongs to the user with the number {owner}, and this one has {user}: run the command as that \
             user, as the server does (`sudo -u '#{owner}' landfall admin move …`)"
        )
    })
}

fn told(report: &Report, stopped: bool) -> ExitCode {
    let Report { moved, bytes, damaged, unread, left } = report;
    for sentence in damaged.iter().chain(unread) {
        eprintln!("left, because {sentence}: `landfall doctor --deep` says whose it is");
    }
    if left.uploads > 0 {
        eprintln!(
            "left: what {} uploads in progress have sent there, or may send: repeat the command when they are over",
            left.uploads
        );
    }
    println!(
        "{}",
        json!({
            "moved": moved, "bytes": bytes, "left": left.pieces, "left_bytes": left.bytes, "uploads": left.uploads,
            "to_delete": left.due, "damaged": damaged.len(), "unread": unread.len(), "stopped": stopped,
        })
    );
    if damaged.is_empty() && unread.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Becomes true with the first signal; a second one ends the process as it would have.
fn stopped_by_signals() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopping = Arc::clone(&stop);
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        eprintln!("stopping: what is in hand is ended; a second signal stops at once");
        stopping.store(true, Ordering::Relaxed);
        next().await;
        // Nothing is lost by it: a copy without a row goes with the sweep.
        std::process::exit(130);
    });
    Ok(stop)
}

/// What a terminal is shown.
#[derive(Clone, Default)]
struct Shown(Arc<(AtomicU64, AtomicU64)>);

impl Shown {
    fn one(&self, bytes: u64) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
        self.0.1.fetch_add(bytes, Ordering::Relaxed);
    }

    fn while_it_runs(&self) -> tokio::task::JoinHandle<()> {
        let shown = Arc::clone(&self.0);
        tokio::spawn(async move {
            while std::io::stderr().is_terminal() {
                tokio::time::sleep(TOLD_EVERY).await;
                let (pieces, bytes) = (shown.0.load(Ordering::Relaxed), shown.1.load(Ordering::Relaxed));
                eprint!("\r{pieces} pieces, {} MiB ", bytes >> 20);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::stranger;

    #[test]
    fn only_the_owner_of_a_data_directory_moves_bytes_there() {
        assert_eq!(stranger(999, 999), None);
        let said = stranger(999, 0).unwrap();
        assert!(said.contains("number 999") && said.contains("sudo -u '#999'"), "{said}");
    }
}
