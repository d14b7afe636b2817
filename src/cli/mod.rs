//! The command line: arguments, then a role, then an exit code.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where the program speaks to people")]

mod admin;
mod client;
mod doctor;
mod notify;
mod serve;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigError};

/// A self-hosted service for large uploads.
#[derive(Debug, Parser)]
#[command(name = "landfall", version, about, max_term_width = 100)]
struct Landfall {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Run the server. Works without any configuration: the first start makes the data directory, a tenant, a key
    /// and a source, and prints the key once.
    Serve(serve::Serve),
    /// Manage tenants, keys, sources, stores and uploads, and move bytes. Prints lines of JSON; works while the server runs.
    #[command(subcommand)]
    Admin(admin::Admin),
    /// Check every invariant on disk and in the database. Changes nothing; exits with 1 and a list if one is broken.
    Doctor(doctor::Doctor),
    /// Upload files. A run that is cut short, killed or repeated on another machine goes on where the server is.
    Put(client::Put),
    /// Download a file. It is verified, and appears under its name when it is whole.
    Get(client::Get),
    /// List the tenant's files, newest first.
    Ls(client::Ls),
    /// Extract text: the server's own child process.
    #[command(hide = true)]
    ExtractWorker {
        /// Words that tell one from another in a list of processes
        #[arg(hide = true)]
        tags: Vec<OsString>,
    },
}

/// Where the data is.
#[derive(Debug, Args)]
struct Place {
    /// The data directory [default: ./landfall-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "LANDFALL_CONFIG")]
    config: Option<PathBuf>,
}

impl Place {
    /// The configuration: file, then environment, then the arguments.
    fn config(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(data) = &self.data {
            config.data.clone_from(data);
        }
        Ok(config)
    }
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let role = Landfall::parse().role;
    if !matches!(role, Role::Put(_) | Role::Get(_) | Role::Ls(_)) {
        // What the server makes holds secrets and other people's files: nobody else on the machine may read it. What the
        // client makes is its user's.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    }
    match role {
        Role::Serve(serve) => serve.run(),
        Role::Admin(admin) => admin.run(),
        Role::Doctor(doctor) => doctor.run(),
        Role::Put(put) => put.run(),
        Role::Get(get) => get.run(),
        Role::Ls(ls) => ls.run(),
        Role::ExtractWorker { tags: _ } => crate::process::extract::child_main(),
    }
}

/// Says why it did not work, on standard error.
fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("landfall: {error}");
    ExitCode::FAILURE
}
