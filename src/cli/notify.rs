//! Tells the supervisor of services that the server is ready, that it runs, and that it stops.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use crate::app::App;
use crate::config::Supervisor;

/// How the supervisor is told, if there is one.
#[derive(Debug)]
pub(super) struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    pub(super) fn new(supervisor: Option<&Supervisor>) -> Self {
        let to = supervisor.map(address).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "the supervisor of services can't be told anything");
            None
        });
        Self { to, watchdog: supervisor.and_then(|supervisor| supervisor.watchdog) }
    }

    fn tell(&self, what: &str) {
        if let Some((socket, to)) = &self.to
            && let Err(error) = socket.send_to_addr(what.as_bytes(), to)
        {
            tracing::warn!(%error, what, "the supervisor of services was not told");
        }
    }

    pub(super) fn ready(&self) {
        self.tell("READY=1");
    }

    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Tells that the server runs, as long as it does: three times in what the supervisor allows, and only after both planes had
    /// a turn. Database and bucket are not asked, as a new process could not reach them either. Never ends.
    pub(super) async fn runs(&self, app: &App) {
        let (Some(watchdog), Some(_)) = (self.watchdog, &self.to) else { return std::future::pending().await };
        loop {
            app.turn().await;
            self.tell("WATCHDOG=1");
            tokio::time::sleep(watchdog / 3).await;
        }
    }
}

fn address(supervisor: &Supervisor) -> io::Result<(UnixDatagram, SocketAddr)> {
    let to = match supervisor.socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(Path::new(&supervisor.socket))?,
    };
    let socket = UnixDatagram::unbound()?;
    // A supervisor that does not listen holds up nobody.
    socket.set_nonblocking(true)?;
    Ok((socket, to))
}
