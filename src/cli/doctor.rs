//! `landfall doctor`.

use std::process::ExitCode;

use clap::Args;

use super::{Place, failed};
use crate::app;
use crate::clock::Clock;
use crate::faults;
use crate::process::certificate::{self, Certificate};
use crate::upload::check;

/// The certificate that was ordered, if one was, or why it can't be read.
type Kept = Option<Result<Certificate, String>>;

/// Arguments of `landfall doctor`.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    place: Place,
    /// Read every stored byte and compare it with its checksum
    #[arg(long)]
    deep: bool,
}

impl Doctor {
    pub(super) fn run(&self) -> ExitCode {
        match self.check() {
            Ok((mut report, certificate)) => {
                match certificate {
                    Some(Ok(kept)) => {
                        println!("the certificate for {} ends at {}", kept.names.join(", "), kept.until.rfc3339());
                    }
                    Some(Err(reason)) => {
                        report.broken.push(format!("the certificate that is kept can't be used: {reason}"))
                    }
                    None => {}
                }
                for line in &report.broken {
                    println!("broken: {line}");
                }
                for line in &report.under_way {
                    println!("not broken: {line}; the sweeper judges");
                }
                println!(
                    "checked {} versions, {} bytes{}; {} segments without a row; {} invariants broken",
                    report.versions,
                    report.bytes,
                    if self.deep { ", every byte read" } else { "" },
                    report.unnamed,
                    report.broken.len()
                );
                if report.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(error) => failed(error.as_ref()),
        }
    }

    fn check(&self) -> Result<(check::Report, Kept), Box<dyn std::error::Error>> {
        let config = self.place.config()?;
        if !config.data.is_dir() {
            return Err(format!("there is no data directory {}: give one with --data", config.data.display()).into());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let clock = Clock::system();
            faults::move_clock(&clock);
            let engine = app::open_to_read(&config, clock).await?;
            let certificate = certificate::kept(engine.meta.as_ref()).await?;
            Ok((check::everything(&engine, self.deep).await?, certificate))
        })
    }
}
