//! `landfall put`, `get` and `ls`: the client of our own API.

mod get;
mod ls;
mod put;
mod remote;
mod terminal;

use std::process::ExitCode;

use clap::Args;

pub(super) use get::Get;
pub(super) use ls::Ls;
pub(super) use put::Put;
use remote::Remote;
use terminal::Terminal;

/// Which server, and who asks.
#[derive(Debug, Args)]
struct Server {
    /// The server's URL, such as https://files.example.com
    #[arg(long, value_name = "URL", env = "LANDFALL_URL", value_parser = parse_url)]
    url: String,
    /// The key
    #[arg(long, value_name = "KEY", env = "LANDFALL_KEY", hide_env_values = true)]
    key: String,
    /// Print JSON, one line for each file
    #[arg(long)]
    json: bool,
    /// How often in a row a call that fails is repeated while nothing moves on
    #[arg(long, value_name = "N", default_value_t = 12)]
    retries: u32,
}

fn parse_url(text: &str) -> Result<String, String> {
    let base = text.trim_end_matches('/');
    match url::Url::parse(base) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none() => {
            Ok(base.to_owned())
        }
        _ => Err("use a URL such as http://127.0.0.1:8080".into()),
    }
}

/// Why something did not work: a sentence.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}")]
struct Failed {
    what: String,
    /// The status of the refusal, if it is one.
    status: Option<u16>,
}

impl Failed {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), status: None }
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl Server {
    /// Runs a command against the server.
    fn run<F: Future<Output = ExitCode>>(&self, command: impl FnOnce(Remote, Terminal) -> F) -> ExitCode {
        let terminal = Terminal::new(self.json);
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return super::failed(&error),
        };
        match Remote::new(&self.url, &self.key, self.retries, terminal.clone()) {
            Ok(remote) => {
                let code = runtime.block_on(command(remote, terminal));
                // A read that still runs is nobody's any more.
                runtime.shutdown_background();
                code
            }
            Err(error) => super::failed(&error),
        }
    }
}
