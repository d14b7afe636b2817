//! Assembly: the one place that names concrete keepers, and puts the doors on their paths.

mod direct;
mod place;
mod remembered;
mod root;
mod stores;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use http::{HeaderValue, StatusCode, header};
use serde_json::Map;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::blob::{BlobStore, Unusable, sync_directory};
use crate::clock::{Clock, random_bytes, random_uuid};
use crate::config::{Config, ConfigError, Storage};
use crate::credential;
use crate::dialect::{aitronos, cognite, coveo, native};
use crate::engine::{Engine, Policy};
use crate::faults;
use crate::http::auth::RateLimiter;
use crate::http::body::BodyTiming;
use crate::http::doors::Doors;
use crate::http::server::{self, Early, Listener, ServerOptions, TlsFiles};
use crate::ingress::part::{self, PartDoor, Says};
use crate::ingress::put::{self, Envelope, PutDoor};
use crate::ingress::resumable;
use crate::meta::sql::SqlMeta;
use crate::meta::{KeyInfo, MetaError, MetaStore, NewSource, NewStore, StoreFilter, TenantInfo};
use crate::model::access::Rights;
use crate::model::ids::{KeyId, PlaceId, SourceId, StoreId, TenantId};
use crate::process::certificate::{Keeper, KeeperError};
use crate::process::extract::{ExtractLimits, Pool};
use crate::process::worker;
use crate::search::{NoSearch, PostgresSearch, SearchError, SearchIndex, SqliteSearch};
use crate::sql::Target;
use crate::telemetry::{Metrics, TelemetryError};
use crate::ticket::{self, Tickets};

/// The lock of a data directory.
const LOCK: &str = "lock";
const BLOBS: &str = "blobs";
const TICKET_SECRET: &str = "ticket_secret";
/// Settings: the id of the key that the first start made, and whether it was shown.
const FIRST_KEY: &str = "first_key";
const FIRST_KEY_SHOWN: &str = "first_key_shown";
/// The first tenant, its sources and its store.
const TENANT: &str = "default";
const SOURCE: &str = "default-files";
const CATALOG: &str = "default-catalog";
const STORE: &str = "default";

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
    /// The bucket can't be used.
    #[error(transparent)]
    Bucket(#[from] Unusable),
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

/// What the first start made. The key is shown once and never again.
#[derive(Clone)]
pub struct FirstStart {
    /// The tenant.
    pub tenant: String,
    /// Its key, with every right.
    pub key: String,
    /// A source for pushed items.
    pub source: String,
    /// A source for streams.
    pub catalog: String,
    /// A store.
    pub store: String,
}

impl std::fmt::Debug for FirstStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FirstStart").field("tenant", &self.tenant).finish_non_exhaustive()
    }
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
        let mut lock = lock(&config.data)?;
        let holder = holder(&mut lock)?;
        let keepers = open(&config, holder).await?;
        let blobs = place::settle(&config, keepers.meta.as_ref(), &clock, direct::wanted(&wires)).await?;
        keepers.meta.release_leases().await?;
        let search = Arc::clone(&keepers.search);
        let engine = Arc::new(engine(&config, clock, keepers.meta, blobs, keepers.search).await?);
        let first_start = first_start(&engine).await?;
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
        let options = ServerOptions { early: refuse_early, ..ServerOptions::new(&config) };
        let mut public = router(&doors, &control, admin.is_none().then(|| metrics.clone()));
        // A proxy may take the public URL's path off, or leave it on.
        if !config.public_prefix().is_empty() {
            public = Router::new().nest(config.public_prefix(), public.clone()).merge(public);
        }
        let public = server::wrap(public, &options, &engine.clock);
        let mut servers = vec![data.spawn(server::serve(listener, public, options.clone(), stopping.clone()))];
        if let Some(listener) = admin {
            let router = server::wrap(health(&engine, Some(metrics)), &options, &engine.clock);
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
        self.engine.meta.set_setting(FIRST_KEY_SHOWN, Vec::new(), true).await.map(drop)
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
    Listener::bind(address, tls).await.map_err(|error| StartError::Listen { address, error })
}

/// The keepers of what is known. Where the bytes are is known only with them.
#[derive(Debug)]
pub struct Keepers {
    /// The facts.
    pub meta: Arc<dyn MetaStore>,
    /// The full text.
    pub search: Arc<dyn SearchIndex>,
}

/// Opens the keepers of a data directory or, where there is one, of a database, making what is absent. `holder` is this
/// process and, after a restart, the same; who takes no work may give any.
///
/// # Errors
/// [`StartError`].
pub async fn open(config: &Config, holder: [u8; 16]) -> Result<Keepers, StartError> {
    let directory = &config.data;
    let unusable = |error| StartError::Data { directory: directory.display().to_string(), error };
    make(directory).map_err(unusable)?;
    let (meta, search) = facts(config, holder).await?;
    Ok(Keepers { meta, search })
}

type Facts = (Arc<dyn MetaStore>, Arc<dyn SearchIndex>);

async fn facts(config: &Config, holder: [u8; 16]) -> Result<Facts, StartError> {
    let Some(target) = target(config)? else {
        return Ok((Arc::new(SqlMeta::open(&config.data)?), Arc::new(SqliteSearch::open(&config.data)?)));
    };
    off_the_runtime(move || {
        let facts: Facts = (Arc::new(SqlMeta::connect(&target, holder)?), Arc::new(PostgresSearch::connect(&target)?));
        Ok(facts)
    })
    .await
}

fn target(config: &Config) -> Result<Option<Target>, StartError> {
    let parsed = config.database.as_ref().map(|url| Target::parse(url.secret())).transpose();
    parsed.map_err(|reason| StartError::Database { reason })
}

/// Runs what blocks where it may.
async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| StartError::Io(io::Error::other(error)))?
}

fn make(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if directory.is_dir() {
        return Ok(());
    }
    // Others on the machine have no business in it.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    match std::path::absolute(directory)?.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// Who this process is among those that use one database: a random name in the lock's file, so that the next process of this
/// data directory knows which leases are nobody's any more. It may be lost: leases also end by themselves.
fn holder(lock: &mut File) -> Result<[u8; 16], io::Error> {
    let mut name = Vec::new();
    lock.read_to_end(&mut name)?;
    if let Ok(name) = name.try_into() {
        return Ok(name);
    }
    let name = random_bytes();
    lock.rewind()?;
    lock.write_all(&name)?;
    Ok(name)
}

fn lock(directory: &Path) -> Result<File, StartError> {
    let shown = || directory.display().to_string();
    let unusable = |error| StartError::Data { directory: shown(), error };
    make(directory).map_err(unusable)?;
    #[allow(clippy::disallowed_methods, reason = "the lock file holds nothing that may not be lost")]
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(directory.join(LOCK))
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::Locked { directory: shown() }),
        Err(std::fs::TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// An engine over opened keepers.
///
/// # Errors
/// [`MetaError`] when the installation's secret can't be read or made.
pub async fn engine(
    config: &Config,
    clock: Clock,
    meta: Arc<dyn MetaStore>,
    blobs: Arc<dyn BlobStore>,
    search: Arc<dyn SearchIndex>,
) -> Result<Engine, MetaError> {
    let secret = match meta.setting(TICKET_SECRET).await? {
        Some(secret) => secret,
        None => meta.set_setting(TICKET_SECRET, Tickets::new_secret(), true).await?,
    };
    Ok(assemble(config, clock, meta, blobs, search, &secret))
}

fn assemble(
    config: &Config,
    clock: Clock,
    meta: Arc<dyn MetaStore>,
    blobs: Arc<dyn BlobStore>,
    search: Arc<dyn SearchIndex>,
    secret: &[u8],
) -> Engine {
    let policy = Policy {
        container_max: config.container_max,
        free_space_min: config.free_space_min,
        create_providers: config.create_providers,
        keep_md5: config.digests.iter().any(|digest| digest == "md5"),
        // Judged when the server starts; nobody else issues tickets.
        direct: direct::wires(config).unwrap_or_default(),
    };
    Engine::new(meta, blobs, search, clock, Tickets::new(secret), policy)
}

/// An engine over a data directory as it is: nothing is made, migrated or changed, whatever is asked of it.
///
/// # Errors
/// [`StartError`] when something is missing or has another format than this version's.
pub async fn open_to_read(config: &Config, clock: Clock) -> Result<Engine, StartError> {
    let meta = match target(config)? {
        None => SqlMeta::open_to_read(&config.data)?,
        Some(target) => off_the_runtime(move || Ok(SqlMeta::connect_to_read(&target)?)).await?,
    };
    let blobs = place::compare(config, &meta, &clock).await?;
    // It issues no ticket, so that it needs no secret, and full text is derived.
    Ok(assemble(config, clock, Arc::new(meta), blobs, Arc::new(NoSearch), &[]))
}

/// An engine beside a server, over the places that the server knows: what it writes goes to `to`. With it the number of
/// `from`.
///
/// # Errors
/// [`StartError`], also when a place is not configured, or no server was started with it.
pub async fn open_to_move(
    config: &Config,
    clock: Clock,
    from: &Storage,
    to: &Storage,
) -> Result<(Engine, PlaceId), StartError> {
    let meta = open(config, random_bytes()).await?.meta;
    let (blobs, from) = place::between(config, meta.as_ref(), &clock, from, to).await?;
    Ok((assemble(config, clock, meta, blobs, Arc::new(NoSearch), &[]), from))
}

/// What a first start makes, until somebody has seen its key. Of several processes that start at once at one database one
/// does it: another's key, which nobody has seen yet, would be revoked.
async fn first_start(engine: &Engine) -> Result<Option<FirstStart>, StartError> {
    if !engine.meta.leads().await? {
        return Ok(None);
    }
    let tenant = TenantId::from(TENANT);
    let unseen = match engine.meta.setting(FIRST_KEY).await? {
        // The key was made, or was about to be, and is not known to have been shown: only its hash is left of it.
        Some(id) if engine.meta.setting(FIRST_KEY_SHOWN).await?.is_none() => {
            String::from_utf8(id).ok().and_then(|id| id.parse::<KeyId>().ok())
        }
        Some(_) => return Ok(None),
        None => None,
    };
    let begun = match engine.meta.tenants().await?.as_slice() {
        [] => true,
        // A first start that was cut off: what it made is kept, the rest is made now.
        [only] => only.id == tenant && engine.meta.keys(Some(&tenant)).await?.is_empty(),
        _ => false,
    };
    if !begun && unseen.is_none() {
        return Ok(None);
    }
    let now = engine.clock.now();
    engine.meta.create_tenant(TenantInfo::new(tenant.clone(), "auto", now)).await?;
    faults::point("start.tenant");
    for (id, name, stream_enabled) in [(SOURCE, "Files", false), (CATALOG, "Catalog", true)] {
        let new = NewSource {
            tenant: tenant.clone(),
            id: SourceId::from(id),
            name: name.into(),
            stream_enabled,
            properties: Map::new(),
            now,
        };
        engine.meta.create_source(new).await?;
    }
    let tenants_stores = engine.meta.stores(&tenant, StoreFilter { limit: 1, ..StoreFilter::default() }).await?.0;
    let store = match tenants_stores.into_iter().next() {
        Some(store) => store.id,
        None => {
            let new = NewStore {
                id: StoreId(random_uuid()),
                tenant: tenant.clone(),
                name: STORE.into(),
                description: None,
                properties: Map::new(),
                created_by: None,
                now,
            };
            engine.meta.create_store(new).await?.id
        }
    };
    faults::point("start.sources");
    if let Some(unseen) = unseen {
        engine.meta.revoke_key(Some(&tenant), unseen, now).await?;
    }
    let key = credential::new_key();
    let id = KeyId(crate::clock::ordered_uuid(now));
    let info = KeyInfo {
        id,
        tenant,
        name: "first key".into(),
        rights: Rights::all(),
        created: now,
        expires: None,
        revoked: None,
    };
    // Intent first: a start after this one knows which key nobody has seen.
    engine.meta.set_setting(FIRST_KEY, id.to_string().into_bytes(), false).await?;
    faults::point("start.intent");
    // The key is last: whoever has one can use everything that was made before it.
    engine.meta.create_key(info, credential::hash_key(&key), None).await?;
    faults::point("start.key");
    Ok(Some(FirstStart {
        tenant: TENANT.into(),
        key,
        source: SOURCE.into(),
        catalog: CATALOG.into(),
        store: store.public(),
    }))
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

fn router(doors: &Arc<Doors>, control: &Runtime, metrics: Option<Metrics>) -> Router {
    let coveo_says: Envelope = coveo::api::refuse_upload;
    let native_says: Envelope = native::refuse_upload;
    let put_door = Arc::new(PutDoor {
        doors: Arc::clone(doors),
        envelopes: HashMap::from([(coveo::api::WIRE, coveo_says), (native::WIRE, native_says)]),
        fallback: coveo::api::refuse_upload,
    });
    let native_says = Says { refuse: native::refuse_upload, early: native::refuse_early };
    let part_door = Arc::new(PartDoor {
        doors: Arc::clone(doors),
        wires: HashMap::from([
            (native::WIRE, native_says),
            (cognite::WIRE, Says { refuse: cognite::refuse_upload, early: cognite::refuse_early }),
        ]),
        fallback: native_says,
    });
    let stray_door = Arc::clone(&part_door);
    let on_control = server::on_control_plane(control.handle());
    let apis = Router::new()
        .merge(coveo::api::shared_routes())
        .merge(aitronos::shared_routes(post(root::files)))
        .route("/v1/", any(root::unknown))
        .route("/v1/{*rest}", any(root::unknown))
        .nest("/coveo", coveo::api::routes())
        .nest("/aitronos", aitronos::routes())
        .merge(cognite::shared_routes())
        .nest("/cognite", cognite::routes())
        .merge(native::routes())
        .with_state(Arc::clone(doors))
        .merge(health(&doors.engine, metrics));
    let again = apis.clone().fallback(cognite::unknown);
    let apis = apis
        .fallback(move |request: Request| async move {
            match part::refuse_stray(&stray_door, &request) {
                Some(refused) => refused,
                None => root::unrouted(again, request).await,
            }
        })
        .layer(on_control);
    // Bodies stay on the data plane, on the connection's own task.
    let bodies = resumable::routes()
        .merge(aitronos::bodies())
        .nest("/aitronos", aitronos::bodies())
        .with_state(Arc::clone(doors));
    put::routes().with_state(put_door).merge(part::routes().with_state(part_door)).merge(bodies).merge(apis)
}

/// What no handler sees is refused in the shape of the API that its path is of.
fn refuse_early(path: &str, early: &Early, request_id: &str) -> Response {
    if path.strip_prefix('/').is_some_and(|path| path.starts_with(&format!("{}/", ticket::PREFIX))) {
        coveo::api::refuse_upload_early(early, request_id)
    } else if coveo::api::is_path(path) || root::of_coveo(path) {
        coveo::api::refuse_early(early, request_id)
    } else if ["/v1/", "/aitronos/"].iter().any(|mount| path.starts_with(mount)) {
        aitronos::refuse_early(early, request_id)
    } else if cognite::is_path(path) || part::wire_of(path) == Some(cognite::WIRE) {
        cognite::refuse_early(early, request_id)
    } else if native::is_path(path) || part::wire_of(path).is_some() {
        native::refuse_early(early, request_id)
    } else {
        early.problem(request_id)
    }
}

/// Probes for whoever runs the server.
fn health(engine: &Arc<Engine>, metrics: Option<Metrics>) -> Router {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Arc::clone(engine));
    match metrics {
        Some(metrics) => router.route("/metrics", get(move || async move { exposition(&metrics) })),
        None => router,
    }
}

async fn ready(State(engine): State<Arc<Engine>>, _request: Request) -> Response {
    let space = match engine.blobs.ping().await {
        Ok(()) => engine.blobs.space().await,
        Err(error) => Err(error),
    };
    let reason = match (engine.meta.ping().await, space) {
        (Err(error), _) => format!("the database can't write: {error}\n"),
        (_, Err(error)) => {
            // What it says may name the inside of a network.
            tracing::warn!(%error, "the byte store can't be asked");
            "the byte store can't be asked\n".into()
        }
        (Ok(()), Ok(Some(space))) if space.free < engine.policy.free_space_min => {
            format!("{} bytes are free, {} are needed\n", space.free, engine.policy.free_space_min)
        }
        (Ok(()), Ok(_)) => return "ready\n".into_response(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

fn exposition(metrics: &Metrics) -> Response {
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, text)], metrics.render()).into_response()
}
