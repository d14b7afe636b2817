//! A SQLite file with one writer thread that commits whatever waits in one transaction, readers beside it, and
//! checkpoints off the writer's path. The keepers of facts and of full text are made of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{OpenFlags, TransactionBehavior};
use tokio::sync::oneshot;

use crate::faults;
use crate::sql::{self, Connection, DatabaseError, Queries, SqlError, queue};

type Result<T> = std::result::Result<T, DatabaseError>;

/// Verbs committed together at most.
const GROUP: usize = 512;
/// Verbs that may wait; more callers wait for a place.
const QUEUE: usize = 4096;
/// Queries that run at once; each has a connection with a cache of its own.
const READERS: usize = 16;
/// How long a statement waits for another process (the command line) to let go of the file.
const BUSY: Duration = Duration::from_secs(10);
/// From so many pages on the write-ahead log is large: 64 MiB.
const LOG_PAGES: i64 = 16 * 1024;
/// How often the write-ahead log is moved into the database.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

type Answer = Box<dyn FnOnce(std::result::Result<(), Refused>) + Send>;
/// Runs on the writer's connection; without one, its transaction never was, and its answer is the group's.
type Verb = Box<dyn FnOnce(Option<&Connection>) -> Answer + Send>;

/// Why a whole group was not committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refused {
    Full,
    RolledBack,
}

/// One SQLite file.
#[derive(Clone)]
pub struct Database {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    verbs: mpsc::SyncSender<Verb>,
    readers: Mutex<Vec<Connection>>,
    queries: Queries,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens the file, making it when it is absent, and runs the migrations that it has not seen.
    ///
    /// # Errors
    /// [`DatabaseError::Newer`] for a format of the future, else what SQLite says.
    pub fn open(path: &Path, migrations: &[&str]) -> Result<Self> {
        let mut connection = connect(path, false)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        migrate(&mut connection, migrations)?;
        // The database's own directory entry is as much a part of it as its content.
        if let Some(parent) = path.parent()
            && !faults::skipped("sync.database")
        {
            std::fs::File::open(parent).and_then(|d| d.sync_all()).map_err(|e| DatabaseError::Failed(e.to_string()))?;
        }
        let checkpoints = connect(path, false)?;
        let (verbs, queue) = mpsc::sync_channel(QUEUE);
        let large = Arc::new(AtomicBool::new(false));
        let log_is_large = Arc::clone(&large);
        let connection = Connection::from(connection);
        spawn("sqlite-writer", move || writer(&connection, &queue, &log_is_large))?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            verbs,
            readers: Mutex::default(),
            queries: Queries::new(READERS),
        });
        let alive = Arc::downgrade(&shared);
        spawn("sqlite-checkpoint", move || {
            while alive.strong_count() > 0 {
                std::thread::sleep(CHECKPOINT_EVERY);
                // Passive: never makes the writer wait. What it leaves is taken the next time.
                let pages = checkpoints.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(1));
                match pages {
                    // Under a steady load the log only starts anew if the writer itself takes the rest between two groups.
                    Ok(pages) if pages > LOG_PAGES => large.store(true, Ordering::Relaxed),
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "the write-ahead log was not moved into the database"),
                }
            }
        })?;
        Ok(Self { shared })
    }

    /// Opens the file as it is, only to be read: nothing is made and no migration runs, so that it must have this
    /// version's format. Verbs are refused as by a database that is closed.
    ///
    /// # Errors
    /// [`DatabaseError::Absent`], [`DatabaseError::Older`], [`DatabaseError::Newer`], else what SQLite says.
    pub fn open_to_read(path: &Path, migrations: &[&str]) -> Result<Self> {
        if !path.is_file() {
            return Err(DatabaseError::Absent(path.to_owned()));
        }
        let connection = connect(path, true)?;
        let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        if found > known {
            return Err(DatabaseError::Newer { found, known });
        }
        if found < known {
            return Err(DatabaseError::Older { found, known });
        }
        // Nobody takes verbs from this queue.
        let (verbs, _) = mpsc::sync_channel(1);
        let readers = Mutex::new(vec![Connection::from(connection)]);
        let queries = Queries::new(READERS);
        Ok(Self { shared: Arc::new(Shared { path: path.to_owned(), verbs, readers, queries }) })
    }

    /// Runs a verb on the writer, in its own savepoint; answers when its group is durable.
    ///
    /// # Errors
    /// [`DatabaseError`]; whether the verb's group was committed is then unknown to the caller.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, wait) = oneshot::channel();
        let verb: Verb = Box::new(move |connection| {
            let result = connection.map(|connection| in_savepoint(connection, work));
            Box::new(move |committed| {
                let _ = answer.send(match committed {
                    Ok(()) => match result {
                        Some(result) => result.map_err(Into::into),
                        None => Err(DatabaseError::Failed("the verb was not run".into())),
                    },
                    Err(Refused::Full) => Err(DatabaseError::OutOfSpace),
                    Err(Refused::RolledBack) => Err(DatabaseError::Failed("the transaction was rolled back".into())),
                });
            })
        });
        queue(&self.shared.verbs, verb).await?;
        wait.await.map_err(|_| DatabaseError::Closed)?
    }

    /// Runs a query on a reader, in the pool for work that waits. For what may read many pages.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        self.shared.queries.ask(move || shared.read(work)).await
    }

    /// Looks up a few rows by their keys, on the thread of the task that asks: another thread's wake-up would cost several
    /// times what the query does.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn look<T>(&self, work: impl FnOnce(&Connection) -> sql::Result<T>) -> Result<T> {
        self.shared.read(work)
    }
}

impl Shared {
    fn read<T>(&self, work: impl FnOnce(&Connection) -> sql::Result<T>) -> Result<T> {
        let idle = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path, true)?.into(),
        };
        // One snapshot: what several statements read belongs together.
        let result = connection.control("BEGIN").and_then(|()| work(&connection)).map_err(Into::into);
        if connection.in_transaction() {
            let _ = connection.control("ROLLBACK");
        }
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map(drop).map_err(|error| DatabaseError::Failed(error.to_string()))
}

fn connect(path: &Path, read_only: bool) -> Result<rusqlite::Connection> {
    let access = if read_only {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    } else {
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
    };
    let connection =
        rusqlite::Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(128);
    let synchronous = if faults::skipped("sync.database") { "OFF" } else { "FULL" };
    // In KiB, as SQLite writes it.
    let cache = if read_only { "-2000" } else { "-16000" };
    for (name, value) in [("synchronous", synchronous), ("foreign_keys", "ON"), ("cache_size", cache)] {
        connection.pragma_update(None, name, value).map_err(failed)?;
    }
    connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(failed)?;
    // A leftover of a large transaction is given back at the next checkpoint.
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024).map_err(failed)?;
    Ok(connection)
}

fn migrate(connection: &mut rusqlite::Connection, migrations: &[&str]) -> Result<()> {
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if found > known {
        return Err(DatabaseError::Newer { found, known });
    }
    for migration in migrations.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(migration).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", known).map_err(failed)?;
    transaction.commit().map_err(failed)
}

fn in_savepoint<T>(connection: &Connection, work: impl FnOnce(&Connection) -> sql::Result<T>) -> sql::Result<T> {
    connection.control("SAVEPOINT verb")?;
    let result = work(connection);
    // An error as grave as a full disk ends the whole transaction, and the savepoint with it.
    if connection.in_transaction() {
        if result.is_err() {
            connection.control("ROLLBACK TO verb")?;
        }
        connection.control("RELEASE verb")?;
    }
    result
}

/// Commits whatever waits, together. No timer: while one group is being synced, the next one gathers.
fn writer(connection: &Connection, queue: &mpsc::Receiver<Verb>, log_is_large: &AtomicBool) {
    while let Ok(first) = queue.recv() {
        let mut answers = Vec::new();
        let outcome = group(connection, first, queue, &mut answers);
        if outcome.is_err() && connection.in_transaction() {
            let _ = connection.control("ROLLBACK");
        }
        for answer in answers {
            answer(outcome);
        }
        if log_is_large.swap(false, Ordering::Relaxed) {
            let _ = connection.first("PRAGMA wal_checkpoint(PASSIVE)", sql::NONE, |_| Ok(()));
        }
    }
}

fn group(
    connection: &Connection,
    first: Verb,
    queue: &mpsc::Receiver<Verb>,
    answers: &mut Vec<Answer>,
) -> std::result::Result<(), Refused> {
    let begun = connection.control("BEGIN IMMEDIATE");
    if let Err(error) = &begun {
        tracing::error!(%error, "the database did not begin a transaction");
    }
    let mut next = Some(first);
    while let Some(verb) = next.take() {
        if begun.is_err() || !connection.in_transaction() {
            // Nothing runs outside a transaction.
            answers.push(verb(None));
        } else {
            answers.push(verb(Some(connection)));
        }
        if answers.len() < GROUP {
            next = queue.try_recv().ok();
        }
    }
    begun.map_err(|error| refused(&error))?;
    if !connection.in_transaction() {
        return Err(Refused::Full);
    }
    faults::point("database.uncommitted");
    match connection.control("COMMIT") {
        Ok(()) => {
            faults::point("database.committed");
            // What callers are told when they can't know: the transaction was made, and its answer says no.
            faults::io_point("database.doubt").map_err(|_| Refused::RolledBack)
        }
        Err(SqlError::Full) => Err(Refused::Full),
        Err(SqlError::Busy(_)) => Err(Refused::RolledBack),
        Err(error) => {
            // What is on the disk now is unknown, and asking again could be told that all is well.
            tracing::error!(%error, "the database could not be synced; stopping");
            std::process::abort();
        }
    }
}

fn refused(error: &SqlError) -> Refused {
    match error {
        SqlError::Full => Refused::Full,
        _ => Refused::RolledBack,
    }
}

fn failed(error: rusqlite::Error) -> DatabaseError {
    SqlError::from(error).into()
}
