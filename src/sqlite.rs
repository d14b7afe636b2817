//! A SQLite file with one writer thread that commits whatever waits in one transaction, readers beside it, and
//! checkpoints off the writer's path. The keepers of facts and of full text are made of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use tokio::sync::{Semaphore, oneshot};

use crate::faults;

/// Why the database could not do it. Nothing may be assumed about what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// No space left for its files.
    #[error("no space left for the database")]
    OutOfSpace,
    /// It is shutting down.
    #[error("the database is closed")]
    Closed,
    /// Written by a newer version of this program.
    #[error("the data has format {found}, this version of landfall knows up to {known}: use the newer version")]
    Newer {
        /// The format found.
        found: i64,
        /// The newest format known.
        known: i64,
    },
    /// Written by an older version of this program, and opened only to be read.
    #[error("the data has format {found}, this version of landfall has format {known}: run the server once")]
    Older {
        /// The format found.
        found: i64,
        /// The format that a start of the server would make of it.
        known: i64,
    },
    /// Opened only to be read, and not there.
    #[error("there is no {}: run the server once, or give another directory with --data", .0.display())]
    Absent(PathBuf),
    /// Anything else.
    #[error("the database failed: {0}")]
    Failed(String),
}

type Result<T> = std::result::Result<T, SqliteError>;

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
    reading: Arc<Semaphore>,
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
    /// [`SqliteError::Newer`] for a format of the future, else what SQLite says.
    pub fn open(path: &Path, migrations: &[&str]) -> Result<Self> {
        let mut connection = connect(path, false)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        migrate(&mut connection, migrations)?;
        // The database's own directory entry is as much a part of it as its content.
        if let Some(parent) = path.parent()
            && !faults::skipped("sync.database")
        {
            std::fs::File::open(parent).and_then(|d| d.sync_all()).map_err(|e| SqliteError::Failed(e.to_string()))?;
        }
        let checkpoints = connect(path, false)?;
        let (verbs, queue) = mpsc::sync_channel(QUEUE);
        let large = Arc::new(AtomicBool::new(false));
        let log_is_large = Arc::clone(&large);
        spawn("sqlite-writer", move || writer(connection, &queue, &log_is_large))?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            verbs,
            readers: Mutex::default(),
            reading: Arc::new(Semaphore::new(READERS)),
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
    /// [`SqliteError::Absent`], [`SqliteError::Older`], [`SqliteError::Newer`], else what SQLite says.
    pub fn open_to_read(path: &Path, migrations: &[&str]) -> Result<Self> {
        if !path.is_file() {
            return Err(SqliteError::Absent(path.to_owned()));
        }
        let connection = connect(path, true)?;
        let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        if found > known {
            return Err(SqliteError::Newer { found, known });
        }
        if found < known {
            return Err(SqliteError::Older { found, known });
        }
        // Nobody takes verbs from this queue.
        let (verbs, _) = mpsc::sync_channel(1);
        let readers = Mutex::new(vec![connection]);
        let reading = Arc::new(Semaphore::new(READERS));
        Ok(Self { shared: Arc::new(Shared { path: path.to_owned(), verbs, readers, reading }) })
    }

    /// Runs a verb on the writer, in its own savepoint; answers when its group is durable.
    ///
    /// # Errors
    /// [`SqliteError`]; whether the verb's group was committed is then unknown to the caller.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, wait) = oneshot::channel();
        let mut verb: Verb = Box::new(move |connection| {
            let result = connection.map(|connection| in_savepoint(connection, work));
            Box::new(move |committed| {
                let _ = answer.send(match committed {
                    Ok(()) => match result {
                        Some(result) => result.map_err(failed),
                        None => Err(SqliteError::Failed("the verb was not run".into())),
                    },
                    Err(Refused::Full) => Err(SqliteError::OutOfSpace),
                    Err(Refused::RolledBack) => Err(SqliteError::Failed("the transaction was rolled back".into())),
                });
            })
        });
        // The queue is bounded: under overload callers wait here, without holding a thread.
        loop {
            match self.shared.verbs.try_send(verb) {
                Ok(()) => break,
                Err(mpsc::TrySendError::Full(back)) => {
                    verb = back;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(mpsc::TrySendError::Disconnected(_)) => return Err(SqliteError::Closed),
            }
        }
        wait.await.map_err(|_| SqliteError::Closed)?
    }

    /// Runs a query on a reader, in the pool for work that waits. For what may read many pages.
    ///
    /// # Errors
    /// [`SqliteError`].
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        let place = Arc::clone(&self.shared.reading).acquire_owned().await.map_err(|_| SqliteError::Closed)?;
        // The place is free when the query has ended, also where nobody looks at its answer: a task that waits for a
        // place may be the very one that would.
        let query = move || {
            let _place = place;
            shared.read(work)
        };
        tokio::task::spawn_blocking(query).await.map_err(|error| SqliteError::Failed(error.to_string()))?
    }

    /// Looks up a few rows by their keys, on the thread of the task that asks: another thread's wake-up would cost several
    /// times what the query does.
    ///
    /// # Errors
    /// [`SqliteError`].
    pub fn look<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.shared.read(work)
    }
}

impl Shared {
    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let idle = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path, true)?,
        };
        // One snapshot: what several statements read belongs together.
        let run = |statement: &str| connection.prepare_cached(statement).and_then(|mut s| s.execute([]));
        let result = run("BEGIN").and_then(|_| work(&connection)).map_err(failed);
        if !connection.is_autocommit() {
            let _ = run("ROLLBACK");
        }
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map(drop).map_err(|error| SqliteError::Failed(error.to_string()))
}

fn connect(path: &Path, read_only: bool) -> Result<Connection> {
    let access = if read_only {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    } else {
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
    };
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
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

fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<()> {
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if found > known {
        return Err(SqliteError::Newer { found, known });
    }
    for migration in migrations.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(migration).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", known).map_err(failed)?;
    transaction.commit().map_err(failed)
}

fn in_savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.prepare_cached("SAVEPOINT verb")?.execute([])?;
    let result = work(connection);
    // An error as grave as a full disk ends the whole transaction, and the savepoint with it.
    if !connection.is_autocommit() {
        if result.is_err() {
            connection.prepare_cached("ROLLBACK TO verb")?.execute([])?;
        }
        connection.prepare_cached("RELEASE verb")?.execute([])?;
    }
    result
}

/// Commits whatever waits, together. No timer: while one group is being synced, the next one gathers.
fn writer(connection: Connection, queue: &mpsc::Receiver<Verb>, log_is_large: &AtomicBool) {
    while let Ok(first) = queue.recv() {
        let mut answers = Vec::new();
        let outcome = group(&connection, first, queue, &mut answers);
        if outcome.is_err() && !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        for answer in answers {
            answer(outcome);
        }
        if log_is_large.swap(false, Ordering::Relaxed) {
            let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
    }
}

fn group(
    connection: &Connection,
    first: Verb,
    queue: &mpsc::Receiver<Verb>,
    answers: &mut Vec<Answer>,
) -> std::result::Result<(), Refused> {
    let begun = connection.execute_batch("BEGIN IMMEDIATE");
    if let Err(error) = &begun {
        tracing::error!(%error, "the database did not begin a transaction");
    }
    let mut next = Some(first);
    while let Some(verb) = next.take() {
        if begun.is_err() || connection.is_autocommit() {
            // Nothing runs outside a transaction.
            answers.push(verb(None));
        } else {
            answers.push(verb(Some(connection)));
        }
        if answers.len() < GROUP {
            next = queue.try_recv().ok();
        }
    }
    begun.map_err(refused)?;
    if connection.is_autocommit() {
        return Err(Refused::Full);
    }
    faults::point("database.uncommitted");
    match connection.execute_batch("COMMIT") {
        Ok(()) => {
            faults::point("database.committed");
            // What callers are told when they can't know: the transaction was made, and its answer says no.
            faults::io_point("database.doubt").map_err(|_| Refused::RolledBack)
        }
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => Err(Refused::Full),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Err(Refused::RolledBack),
        Err(error) => {
            // What is on the disk now is unknown, and asking again could be told that all is well.
            tracing::error!(%error, "the database could not be synced; stopping");
            std::process::abort();
        }
    }
}

fn refused(error: rusqlite::Error) -> Refused {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Refused::Full,
        _ => Refused::RolledBack,
    }
}

fn failed(error: rusqlite::Error) -> SqliteError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => SqliteError::OutOfSpace,
        _ => SqliteError::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn answers_that_nobody_looks_at_keep_no_reader() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(&directory.path().join("a.db"), &["CREATE TABLE t (n INTEGER)"]).unwrap();
        let query = || database.read(|c| c.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)));
        let mut asked: Vec<_> = (0..READERS).map(|_| Box::pin(query())).collect();
        for _ in 0..200 {
            // Asked, and then left alone: whoever would look is busy with a question of its own.
            for asking in &mut asked {
                let looked = std::future::poll_fn(|context| Poll::Ready(asking.as_mut().poll(context))).await;
                if let Poll::Ready(answer) = looked {
                    answer.unwrap();
                    *asking = Box::pin(query());
                }
            }
            tokio::time::timeout(Duration::from_secs(60), query()).await.expect("an answer").unwrap();
        }
    }
}
