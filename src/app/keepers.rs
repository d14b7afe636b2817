//! The keepers of a data directory or a database, and the engine over them: of a server, and of commands beside one.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use super::{StartError, direct, place};
use crate::blob::{BlobStore, sync_directory};
use crate::clock::{Clock, random_bytes};
use crate::config::{Config, Storage};
use crate::engine::{Engine, Policy};
use crate::meta::sql::SqlMeta;
use crate::meta::{MetaError, MetaStore};
use crate::model::ids::PlaceId;
use crate::search::{NoSearch, PostgresSearch, SearchIndex, SqliteSearch};
use crate::sql::Target;
use crate::ticket::Tickets;

/// The lock of a data directory.
const LOCK: &str = "lock";
const TICKET_SECRET: &str = "ticket_secret";

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
pub(super) fn holder(lock: &mut File) -> Result<[u8; 16], io::Error> {
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

pub(super) fn lock(directory: &Path) -> Result<File, StartError> {
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
