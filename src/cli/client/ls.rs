//! `landfall ls`: the tenant's files.

use std::process::ExitCode;

use clap::Args;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::remote::Remote;
use super::terminal::{Terminal, plain, size, text};
use super::{Failed, Server};

/// Arguments of `landfall ls`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Ls {
    /// Only files in this folder, or below it
    #[arg(long, value_name = "FOLDER")]
    path: Option<String>,
    /// Only files of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    server: Server,
}

impl Ls {
    pub(in crate::cli) fn run(&self) -> ExitCode {
        self.server.run(async |remote, terminal| match self.list(&remote, &terminal).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                terminal.say(&error);
                ExitCode::FAILURE
            }
        })
    }

    async fn list(&self, remote: &Remote, terminal: &Terminal) -> Result<(), Failed> {
        let mut query = String::from("/files?limit=1000");
        for (name, value) in [("path", &self.path), ("name", &self.name)] {
            if let Some(value) = value {
                query.push_str(&format!("&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
            }
        }
        let mut cursor = String::new();
        if !terminal.json && !terminal.out(row("ID", "SIZE", "COMMITTED", "NAME")) {
            return Ok(());
        }
        loop {
            let page = remote.json(Method::GET, &format!("{query}{cursor}"), None, None).await?;
            for file in page["items"].as_array().map(Vec::as_slice).unwrap_or_default() {
                let goes_on = if terminal.json { terminal.out(file) } else { terminal.out(shown(file)) };
                if !goes_on {
                    return Ok(());
                }
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={}", utf8_percent_encode(next, NON_ALPHANUMERIC)),
                None => return Ok(()),
            }
        }
    }
}

fn shown(file: &Value) -> String {
    let name = match file["path"].as_str() {
        Some(path) => format!("{path}/{}", text(file, "name")),
        None => text(file, "name").to_owned(),
    };
    // To the second, which is as much as a person reads.
    let committed = text(file, "committed_at").split('.').next().unwrap_or_default().replace('T', " ");
    row(text(file, "id"), &size(file["size"].as_u64().unwrap_or(0)), &committed, &plain(&name))
}

fn row(id: &str, size: &str, committed: &str, name: &str) -> String {
    format!("{id:<37}  {size:>11}  {committed:<19}  {name}")
}
