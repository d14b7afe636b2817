//! Assembly: the one place that names concrete keepers, and puts the doors on their paths. A server is started and stopped.

mod direct;
mod first;
mod keepers;
mod mounts;
mod place;
mod remembered;
mod root;
mod stores;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::blob::Unusable;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::engine::Engine;
use crate::http::auth::RateLimiter;
use crate::http::body::BodyTiming;
use crate::http::doors::Doors;
use crate::http::server::{self, Listener, ServerOptions, TlsFiles};
use crate::meta::MetaError;
use crate::process::certificate::{Keeper, KeeperError};
use crate::process::extract::{ExtractLimits, Pool};
use crate::process::worker;
use crate::search::SearchError;
use crate::telemetry::{Metrics, TelemetryError};

pub use first::FirstStart;
pub use keepers::{Keepers, engine, open, open_to_move, open_to_read};

/// Why the server did not start. The sentence says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory can't be used.
    #[error("the data directory {directory} can't be used: {error}")]
    Data {
        /// Which directory.
        directory: String,
        /// Why.
        error: io::Error,
    },
    /// Another server uses it.
    #[error("the data directory {directory} is in use by another server: stop it, or give --data another directory")]
    Locked {
        /// Which directory.
        directory: String,
    },
    /// What is said about the database can't be used.
    #[error("the configuration field `database` can't be used: {reason}")]
    Database {
        /// Why, without the password.
        reason: String,
    },
    /// The database can't be used.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The index can't be used.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// A bucket or a container can't be used.
    #[error(transparent)]
    Storage(#[from] Unusable),
    /// The database names bytes that are elsewhere.
    #[error("the bytes that this database names are {known}, and this process would look for them {here}. {remedy}")]
    Elsewhere {
        /// Where they are.
        known: String,
        /// Where this process looks.
        here: String,
        /// What to do.
        remedy: String,
    },
    /// Nothing can be moved to this place or from it.
    #[error("nothing can be moved to or from bytes {place}: {reason}")]
    Unmovable {
        /// Where it is.
        place: String,
        /// Why.
        reason: &'static str,
    },
    /// A place has no owner's mark, although there should be bytes.
    #[error(
        "this database names bytes {place}, and there is no object `owner` that marks them as its own. Is the `endpoint` that of \
         another store? If it is the right one, put the object back, with the content {mark}"
    )]
    Unmarked {
        /// Which place.
        place: String,
        /// What its mark says.
        mark: String,
    },
    /// Certificates can't be kept up.
    #[error(transparent)]
    Certificate(#[from] KeeperError),
    /// The certificate's files can't be used.
    #[error("the configuration fields `tls_certificate` and `tls_key` can't be used: {0}")]
    Tls(io::Error),
    /// The address can't be listened on.
    #[error("can't listen on {address}: {error}; give --listen another address")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The log or the metrics can't be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// Anything else.
    #[error("the server could not start: {0}")]
    Io(#[from] io::Error),
}

/// A running server.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    engine: Arc<Engine>,
    first_start: Option<FirstStart>,
    stop: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    worker: JoinHandle<()>,
    planes: Option<(Runtime, Runtime)>,
    _lock: File,
}

impl App {
    /// Opens the keepers, makes what a first start makes, and begins to serve.
    ///
    /// # Errors
    /// [`StartError`], before a port is bound wherever possible.
    pub async fn start(mut config: Config, clock: Clock) -> Result<Self, StartError> {
        config.validate()?;
        let wires = direct::wires(&config)?;
        let config = Arc::new(config);
        let mut lock = keepers::lock(&config.data)?;
        let holder = keepers::holder(&mut lock)?;
        let keepers = open(&config, holder).await?;
        let blobs = place::settle(&config, keepers.meta.as_ref(), &clock, direct::wanted(&wires)).await?;
        keepers.meta.release_leases().await?;
        let search = Arc::clone(&keepers.search);
        let engine = Arc::new(engine(&config, clock, keepers.meta, blobs, keepers.search).await?);
        let first_start = first::start(&engine).await?;
        if !search.is_complete().await? {
            reindex(&engine).await?;
            search.set_complete().await?;
        }
        let mut keeper = Keeper::new(&config, &engine)?;
        let listener = match &mut keeper {
            None => bind(config.listen, TlsFiles::of(&config)).await?,
            Some(keeper) => {
                keeper.look().await?;
                let address = config.listen;
                let listener = Listener::bind_showing(address, Arc::clone(keeper.shown())).await;
                listener.map_err(|error| StartError::Listen { address, error })?
            }
        };
        let admin = match config.admin_listen {
            Some(address) => Some(bind(address, None).await?),
            None => None,
        };
        let address = listener.address();
        let (data, control) = (runtime("data")?, runtime("control")?);
        let (stop, stopping) = watch::channel(false);
        let doors = Arc::new(Doors {
            engine: Arc::clone(&engine),
            limiter: RateLimiter::new(&config, &engine.clock),
            timing: BodyTiming::new(&config),
            stopping: stopping.clone(),
            config: Arc::clone(&config),
        });
        let metrics = Metrics::install()?;
        let options = ServerOptions { early: mounts::refuse_early, ..ServerOptions::new(&config) };
        let mut public = mounts::router(&doors, &control, admin.is_none().then(|| metrics.clone()));
        // A proxy may take the public URL's path off, or leave it on.
        if !config.public_prefix().is_empty() {
            public = Router::new().nest(config.public_prefix(), public.clone()).merge(public);
        }
        let public = server::wrap(public, &options, &engine.clock);
        let mut servers = vec![data.spawn(server::serve(listener, public, options.clone(), stopping.clone()))];
        if let Some(listener) = admin {
            let router = server::wrap(mounts::health(&engine, Some(metrics)), &options, &engine.clock);
            servers.push(control.spawn(server::serve(listener, router, options, stopping.clone())));
        }
        let program = match &config.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()?,
        };
        let pool = Pool::new(program, vec!["extract-worker".into()], config.workers, ExtractLimits::default());
        if let Some(keeper) = keeper {
            // It leaves what it does when told to stop.
            servers.push(control.spawn(keeper.run(stopping.clone())));
        }
        let worker = control.spawn(worker::run(Arc::clone(&engine), Arc::new(pool), stopping));
        tracing::info!(%address, data = %config.data.display(), "listening");
        Ok(Self { address, engine, first_start, stop, servers, worker, planes: Some((data, control)), _lock: lock })
    }

    /// The address that it listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its engine.
    #[must_use]
    pub const fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// What was made, if this was the data directory's first start, or nobody has seen the key of the first one. Who
    /// shows it says so with [`Self::first_key_shown`].
    #[must_use]
    pub const fn first_start(&self) -> Option<&FirstStart> {
        self.first_start.as_ref()
    }

    /// Remembers that somebody has seen the first key. Until then every start makes another and revokes the one before.
    ///
    /// # Errors
    /// [`MetaError`]; then the next start shows another key.
    pub async fn first_key_shown(&self) -> Result<(), MetaError> {
        first::shown(&self.engine).await
    }

    /// Returns when both planes have run a task: a process of which one is stuck does not.
    pub async fn turn(&self) {
        for plane in self.planes.iter().flat_map(|(data, control)| [data, control]) {
            // Only a runtime that is shut down drops its task.
            let _ = plane.spawn(async {}).await;
        }
    }

    /// Stops accepting, lets bodies end within the configured time, ends the step that the processor is in.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        for server in std::mem::take(&mut self.servers) {
            let _ = server.await;
        }
        if tokio::time::timeout(Duration::from_secs(30), &mut self.worker).await.is_err() {
            tracing::warn!("the processor did not end its step in time; the step will be repeated");
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some((data, control)) = self.planes.take() {
            data.shutdown_background();
            control.shutdown_background();
        }
    }
}

fn runtime(name: &str) -> io::Result<Runtime> {
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build()
}

async fn bind(address: SocketAddr, tls: Option<TlsFiles>) -> Result<Listener, StartError> {
    Listener::bind(address, tls).await.map_err(|error| match error.kind() {
        // The files are read before the port is bound.
        io::ErrorKind::InvalidData => StartError::Tls(error),
        _ => StartError::Listen { address, error },
    })
}

/// Full text is derived: with an empty index, every item's and every store file's text is due again.
async fn reindex(engine: &Engine) -> Result<(), StartError> {
    let mut after = 0;
    while let Some(last) = engine.meta.requeue_items(after, 1000, engine.clock.now()).await? {
        after = last;
    }
    let mut after = 0;
    while let Some(last) = engine.meta.requeue_store_files(after, 1000, engine.clock.now()).await? {
        after = last;
    }
    Ok(())
}
