//! Which database it is, and where in it a verb runs.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::meta::{MetaError, Result};
use crate::model::ids::{SessionId, TenantId};
use crate::model::session::Session;
use crate::sql::{self, Connection, DatabaseError, Target};
use crate::{postgres, sqlite};

/// The metadata file within a data directory.
pub const FILE_NAME: &str = "landfall.db";

/// Every migration, in order. A released one never changes.
const SQLITE: &[&str] = &[include_str!("../../../migrations/sqlite/0001_begin.sql")];
/// Also in order. Each lets the version before it go on serving: it only adds.
const POSTGRES: &[&str] = &[include_str!("../../../migrations/postgres/0001_begin.sql")];

/// Three lanes for tenants, so that they do not wait for each other's commits, while verbs of one tenant meet in one of
/// them; and one for the processor and the sweep, whose verbs change the same pushes and jobs.
const PLAN: postgres::Plan =
    postgres::Plan { part: "facts", migrations: POSTGRES, lanes: 4, readers: 8, serializable: true };

/// Metadata in a database.
#[derive(Clone, Debug)]
pub struct SqlMeta {
    pub(super) engine: Engine,
    /// Whose leases it takes, so that it gives back those and no others.
    pub(super) holder: [u8; 16],
    lanes: Arc<Near>,
}

#[derive(Clone, Debug)]
pub(super) enum Engine {
    Sqlite(sqlite::Database),
    Postgres(postgres::Database),
}

/// Which tenants sessions are of, as far as this process has met them: their verbs belong into the tenant's lane.
#[derive(Debug, Default)]
struct Near(Mutex<[HashMap<SessionId, u64>; 2]>);

/// Sessions of one generation; two are kept.
const NEAR: usize = 4096;

impl Near {
    fn note(&self, session: SessionId, tenant: &TenantId) -> u64 {
        let near = near(tenant.as_str());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [young, old] = &mut *known;
        if young.len() >= NEAR {
            *old = std::mem::take(young);
        }
        young.insert(session, near);
        near
    }

    fn of(&self, session: SessionId) -> u64 {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.iter().find_map(|generation| generation.get(&session));
        known.copied().unwrap_or_else(|| session.0.as_u64_pair().1)
    }
}

/// The same number for the same text.
pub(super) fn near(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What belongs to no tenant, such as leases and the sweep, and what the processor does for one.
pub(super) const NOBODY: u64 = 0;

/// Looks something up by its key with one query: on SQLite on the thread of the task that asks, with what it has; elsewhere
/// where it may wait, with copies.
macro_rules! look {
    ($self:ident, ($($name:ident),*), |$c:ident| $work:expr) => {
        look!($self, look, ($($name),*), |$c| $work)
    };
    ($self:ident, $how:ident, ($($name:ident),*), |$c:ident| $work:expr) => {
        match &$self.engine {
            Engine::Sqlite(database) => Ok(database.look(|$c| $work)?),
            Engine::Postgres(database) => {
                $(let $name = $name.clone();)*
                Ok(database.$how(move |$c| {
                    $(let $name = &$name;)*
                    $work
                }).await?)
            }
        }
    };
}
pub(super) use look;

impl SqlMeta {
    /// Opens the metadata in a data directory, bringing it to this version's format.
    ///
    /// # Errors
    /// For a format of the future, else what SQLite says.
    pub fn open(directory: &Path) -> Result<Self> {
        Ok(Self::on(Engine::Sqlite(sqlite::Database::open(&directory.join(FILE_NAME), SQLITE)?), [0; 16]))
    }

    /// Opens the metadata in a data directory as they are, only to be read.
    ///
    /// # Errors
    /// When they are not there or have another format than this version's, else what SQLite says.
    pub fn open_to_read(directory: &Path) -> Result<Self> {
        Ok(Self::on(Engine::Sqlite(sqlite::Database::open_to_read(&directory.join(FILE_NAME), SQLITE)?), [0; 16]))
    }

    /// Opens the metadata in a PostgreSQL database, bringing it to this version's format. Blocks. `holder` is this process
    /// and, after a restart, the same.
    ///
    /// # Errors
    /// For a server that could lose what was acknowledged, a format of the future, else what the server says.
    pub fn connect(target: &Target, holder: [u8; 16]) -> Result<Self> {
        Ok(Self::on(Engine::Postgres(postgres::Database::open(target, PLAN)?), holder))
    }

    /// Opens the metadata in a PostgreSQL database as they are, only to be read. Blocks.
    ///
    /// # Errors
    /// When they are not there or have another format than this version's, else what the server says.
    pub fn connect_to_read(target: &Target) -> Result<Self> {
        Ok(Self::on(Engine::Postgres(postgres::Database::open_to_read(target, PLAN)?), [0; 16]))
    }

    fn on(engine: Engine, holder: [u8; 16]) -> Self {
        Self { engine, holder, lanes: Arc::default() }
    }

    pub(super) async fn write<T: Send + 'static>(
        &self,
        near: u64,
        work: impl Fn(&Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T> {
        Ok(match &self.engine {
            Engine::Sqlite(database) => database.write(work).await?,
            Engine::Postgres(database) => database.write(near, work).await?,
        })
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T> {
        Ok(match &self.engine {
            Engine::Sqlite(database) => database.read(work).await?,
            Engine::Postgres(database) => database.read(work).await?,
        })
    }

    /// Where a session's verbs belong. One process with one writer has no use for it.
    pub(super) fn near_session(&self, session: SessionId) -> u64 {
        match &self.engine {
            Engine::Sqlite(_) => NOBODY,
            Engine::Postgres(_) => self.lanes.of(session),
        }
    }

    pub(super) fn near_sessions<'s>(&self, sessions: impl IntoIterator<Item = &'s Session>) -> u64 {
        match &self.engine {
            Engine::Sqlite(_) => NOBODY,
            Engine::Postgres(_) => {
                sessions.into_iter().fold(NOBODY, |_, session| self.lanes.note(session.id, &session.tenant))
            }
        }
    }
}

impl From<DatabaseError> for MetaError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::OutOfSpace => Self::OutOfSpace,
            DatabaseError::Closed => Self::Closed,
            DatabaseError::Newer { .. }
            | DatabaseError::Older { .. }
            | DatabaseError::Absent(_)
            | DatabaseError::Unfit(_) => Self::Format(error.to_string()),
            DatabaseError::Failed(reason) => Self::Failed(reason),
        }
    }
}
