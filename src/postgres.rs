//! A PostgreSQL database that several processes may share: a few lanes that commit whatever waits in one transaction each,
//! readers beside them, migrations, and one process that leads.
//!
//! Transactions are serializable, so that a verb that is right when it runs alone is right beside any other, here and in
//! another process. One that was in the way of another is run again, and then alone.
//!
//! A connection that is lost while a transaction is being committed leaves a doubt. Each group of verbs therefore inserts a
//! nonce: inserting it once more waits for the old transaction to end, and says whether it was made.

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::{Clock, random_bytes};
use crate::faults;
use crate::sql::{self, Connection, DatabaseError, Link, Queries, SqlError, Target, queue};

type Result<T> = std::result::Result<T, DatabaseError>;

/// Verbs committed together at most. PostgreSQL remembers up to 64 savepoints of a transaction where others find them
/// cheaply.
const GROUP: usize = 60;
/// Verbs that may wait in one lane; more callers wait for a place.
const QUEUE: usize = 4096;
/// So long a verb or a query is tried while the server is away or others are in the way.
const PATIENCE: Duration = Duration::from_secs(10);
/// A verb that waited longer than that for its lane is still tried for so long.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);
/// So many groups of a lane run alone after one was in the way of another: whoever is in the way once is so again.
const TURNS: u32 = 8;
/// Limits of one statement's time: of a verb, and of a query, which may read everything.
const VERB_STATEMENT: Duration = Duration::from_secs(10);
const QUERY_STATEMENT: Duration = Duration::from_secs(300);
/// How long a nonce is kept: longer than any doubt.
const NONCE_KEPT: &str = "1 hour";
const NONCES_SWEPT_EVERY: Duration = Duration::from_secs(300);

/// A writer waits for a lock less long than for everything, and one whose process is paused in a transaction loses it, so
/// that it holds up nobody. An index is read rather than a small table as a whole, because what was read is what a
/// serializable transaction is compared by.
const WRITER: &str = "SET lock_timeout = 8000; SET idle_in_transaction_session_timeout = 1000; SET jit = off; \
                      SET max_parallel_workers_per_gather = 0; SET enable_seqscan = off";
const READER: &str = "SET lock_timeout = 4000; SET idle_in_transaction_session_timeout = 60000; SET jit = off";

/// What the engine itself needs: the formats of what the database holds, the nonces, and the table whose lock is the turn.
const BASE: &str = "CREATE TABLE IF NOT EXISTS landfall_formats (part TEXT PRIMARY KEY, format BIGINT NOT NULL);
     CREATE TABLE IF NOT EXISTS landfall_nonces (id BYTEA PRIMARY KEY, made TIMESTAMPTZ NOT NULL DEFAULT now());
     CREATE TABLE IF NOT EXISTS landfall_turns (nobody BOOLEAN)";

/// Locks between processes that are held by a connection; the first number is ours alone.
const MIGRATING: &str = "1818321510, 1";
const LEADING: &str = "1818321510, 2";

/// What a database is opened for.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What its tables are called together; each part has its own format.
    pub part: &'static str,
    /// Every migration of the part, in order. A released one never changes, and each lets the version before it go on.
    pub migrations: &'static [&'static str],
    /// Connections that write at once.
    pub lanes: usize,
    /// Connections that read at once.
    pub readers: usize,
    /// Are verbs serializable? What is derived and replaced as a whole needs it less than speed.
    pub serializable: bool,
}

/// What a lane does with a verb that waits.
trait Verb: Send {
    /// Since when it waits, by the monotonic clock.
    fn since(&self) -> Duration;
    fn run(&mut self, connection: &Connection) -> Ran;
    /// Something that it posted failed.
    fn fail(&mut self, error: SqlError) -> Ran;
    fn answer(self: Box<Self>, outcome: &std::result::Result<(), Refused>);
}

enum Ran {
    /// It may be committed.
    Done,
    /// Its savepoint must be rolled back; the others of its group are not concerned.
    Failed,
    /// The whole group must be rolled back, and may be tried again.
    Again(SqlError),
}

/// Why a whole group was not committed, or may not have been.
#[derive(Clone, Debug)]
enum Refused {
    Full,
    Failed(String),
}

struct Asked<T, F> {
    work: F,
    result: Option<sql::Result<T>>,
    answer: oneshot::Sender<Result<T>>,
    since: Duration,
}

impl<T: Send, F: Fn(&Connection) -> sql::Result<T> + Send> Verb for Asked<T, F> {
    fn since(&self) -> Duration {
        self.since
    }

    fn run(&mut self, connection: &Connection) -> Ran {
        match (self.work)(connection) {
            Ok(value) => {
                self.result = Some(Ok(value));
                Ran::Done
            }
            // What it posted before failed before.
            Err(error) => self.fail(connection.settle().err().unwrap_or(error)),
        }
    }

    fn fail(&mut self, error: SqlError) -> Ran {
        match error {
            SqlError::Conflict(_) | SqlError::Lost(_) | SqlError::Busy(_) => Ran::Again(error),
            SqlError::Full | SqlError::Unique(_) | SqlError::Unreadable { .. } | SqlError::Failed(_) => {
                self.result = Some(Err(error));
                Ran::Failed
            }
        }
    }

    fn answer(self: Box<Self>, outcome: &std::result::Result<(), Refused>) {
        let _ = self.answer.send(match (outcome, self.result) {
            (Ok(()), Some(result)) => result.map_err(Into::into),
            (Ok(()), None) => Err(DatabaseError::Failed("the verb was not run".into())),
            (Err(Refused::Full), _) => Err(DatabaseError::OutOfSpace),
            (Err(Refused::Failed(reason)), _) => Err(DatabaseError::Failed(reason.clone())),
        });
    }
}

/// One part of a PostgreSQL database.
#[derive(Clone)]
pub struct Database {
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    clock: Clock,
    lanes: Vec<mpsc::SyncSender<Box<dyn Verb>>>,
    idle: Mutex<Vec<Connection>>,
    queries: Queries,
    /// The connection that leads, or asks who does.
    leader: Mutex<Option<(Link, bool)>>,
    /// When nonces were swept last, in milliseconds of the monotonic clock.
    swept: AtomicI64,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("target", &self.shared.target).finish_non_exhaustive()
    }
}

impl Database {
    /// Connects, checks that the server keeps what it says, and runs the migrations that it has not seen. Blocks.
    ///
    /// # Errors
    /// [`DatabaseError::Unfit`] for a server or a setting that loses what was acknowledged, [`DatabaseError::Newer`] for a
    /// format of the future, else what the server says.
    pub fn open(target: &Target, plan: Plan) -> Result<Self> {
        let clock = Clock::system();
        let connection = reach(target, &clock)?;
        check(&connection)?;
        migrate(&connection, plan)?;
        let mut lanes = Vec::with_capacity(plan.lanes);
        for number in 0..plan.lanes {
            let (verbs, queue) = mpsc::sync_channel(QUEUE);
            let lane =
                Lane { target: target.clone(), clock: clock.clone(), plan, connection: None, turns: 0, away: false };
            std::thread::Builder::new()
                .name(format!("{}-lane-{number}", plan.part))
                .spawn(move || lane.run(&queue))
                .map_err(|error| DatabaseError::Failed(error.to_string()))?;
            lanes.push(verbs);
        }
        Ok(Self::new(target, clock, plan, lanes))
    }

    /// Connects only to read: nothing is made and no migration runs, so that it must have this version's format. Verbs are
    /// refused as by a database that is closed. Blocks.
    ///
    /// # Errors
    /// As [`Self::open`], and [`DatabaseError::Older`].
    pub fn open_to_read(target: &Target, plan: Plan) -> Result<Self> {
        let clock = Clock::system();
        let connection = reach(target, &clock)?;
        check(&connection)?;
        let there = "SELECT 1 FROM pg_tables WHERE tablename = 'landfall_formats' AND schemaname = ANY (current_schemas(false))";
        if connection.first(there, sql::NONE, |_| Ok(()))?.is_none() {
            return Err(DatabaseError::Unfit(format!("there is nothing of landfall in {target}: run the server once")));
        }
        let (found, known) = (format(&connection, plan.part)?, known(plan));
        match found.cmp(&known) {
            std::cmp::Ordering::Greater => Err(DatabaseError::Newer { found, known }),
            std::cmp::Ordering::Less => Err(DatabaseError::Older { found, known }),
            std::cmp::Ordering::Equal => Ok(Self::new(target, clock, plan, Vec::new())),
        }
    }

    fn new(target: &Target, clock: Clock, plan: Plan, lanes: Vec<mpsc::SyncSender<Box<dyn Verb>>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                target: target.clone(),
                clock,
                lanes,
                idle: Mutex::default(),
                queries: Queries::new(plan.readers),
                leader: Mutex::default(),
                swept: AtomicI64::new(i64::MIN),
            }),
        }
    }

    /// Runs a verb in a lane, in its own savepoint; answers when its group is durable. It may be run several times, of which
    /// the last counts. Verbs that are `near` each other, because they change the same rows, meet in one lane and are not in
    /// each other's way; 0 has a lane of its own.
    ///
    /// # Errors
    /// [`DatabaseError`]; whether the verb's group was committed is then unknown to the caller.
    pub async fn write<T: Send + 'static>(
        &self,
        near: u64,
        work: impl Fn(&Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T> {
        // The first lane is for what is near nobody.
        let others = u64::try_from(self.shared.lanes.len().saturating_sub(1)).unwrap_or(0);
        let lane = if near == 0 || others == 0 { 0 } else { usize::try_from(1 + near % others).unwrap_or(0) };
        let Some(lane) = self.shared.lanes.get(lane) else { return Err(DatabaseError::Closed) };
        let (answer, wait) = oneshot::channel();
        let verb: Box<dyn Verb> = Box::new(Asked { work, result: None, answer, since: self.shared.clock.monotonic() });
        queue(lane, verb).await?;
        wait.await.map_err(|_| DatabaseError::Closed)?
    }

    /// Runs queries in one snapshot, in the pool for work that waits.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.ask(true, work).await
    }

    /// Runs one query, in the pool for work that waits.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn look<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.ask(false, work).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        snapshot: bool,
        work: impl Fn(&Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        let until = self.shared.clock.monotonic() + PATIENCE;
        self.shared.queries.ask(move || shared.read(snapshot, until, work)).await
    }

    /// Is this the process that does what one of many should do? It is as long as its connection lives.
    ///
    /// # Errors
    /// [`DatabaseError`] when nobody can know.
    pub async fn leads(&self) -> Result<bool> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || shared.leads())
            .await
            .map_err(|error| DatabaseError::Failed(error.to_string()))?
    }
}

impl Shared {
    fn read<T>(&self, snapshot: bool, until: Duration, work: impl Fn(&Connection) -> sql::Result<T>) -> Result<T> {
        let mut tries = 0;
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => Ok(connection),
                None => Link::open(&self.target, QUERY_STATEMENT, READER).map(Connection::from),
            };
            let error = match connection {
                Ok(connection) => match self.once(&connection, snapshot, &work) {
                    Err(error @ (SqlError::Lost(_) | SqlError::Conflict(_))) => error,
                    result => {
                        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                        return result.map_err(Into::into);
                    }
                },
                Err(error @ SqlError::Lost(_)) => error,
                Err(error) => return Err(error.into()),
            };
            // What was idle when the server went is lost as well.
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
            tries += 1;
            if self.clock.monotonic() >= until {
                return Err(away(&self.target, &error));
            }
            // The first try may only have found what a restart left.
            if tries > 1 {
                std::thread::sleep(pause(tries));
            }
        }
    }

    fn once<T>(
        &self,
        connection: &Connection,
        snapshot: bool,
        work: impl Fn(&Connection) -> sql::Result<T>,
    ) -> sql::Result<T> {
        if !snapshot {
            let result = work(connection);
            return connection.settle().and(result);
        }
        connection.control("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        let result = work(connection);
        connection.control("ROLLBACK")?;
        result
    }

    fn leads(&self) -> Result<bool> {
        let mut leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((link, true)) = &*leader {
            // It leads as long as its connection is there.
            if link.batch("SELECT 1").is_ok() {
                self.sweep(link);
                return Ok(true);
            }
        }
        let link = match leader.take() {
            Some((link, false)) => link,
            Some((_, true)) | None => Link::open(&self.target, VERB_STATEMENT, READER)?,
        };
        // An error where the lock is taken says so as well as an answer would.
        let ask =
            format!("DO $$ BEGIN IF NOT pg_try_advisory_lock({LEADING}) THEN RAISE lock_not_available; END IF; END $$");
        let leads = match link.batch(&ask) {
            Ok(()) => true,
            Err(SqlError::Busy(_)) => false,
            Err(error) => return Err(error.into()),
        };
        *leader = Some((link, leads));
        Ok(leads)
    }

    fn sweep(&self, link: &Link) {
        let now = i64::try_from(self.clock.monotonic().as_millis()).unwrap_or(i64::MAX);
        let last = self.swept.load(Ordering::Relaxed);
        if now.saturating_sub(last) < i64::try_from(NONCES_SWEPT_EVERY.as_millis()).unwrap_or(0) {
            return;
        }
        self.swept.store(now, Ordering::Relaxed);
        let sweep = format!("DELETE FROM landfall_nonces WHERE made < now() - interval '{NONCE_KEPT}'");
        if let Err(error) = link.batch(&sweep) {
            tracing::warn!(%error, "old nonces could not be swept");
        }
    }
}

/// The pause before another try: short at first, and never the same for two who wait.
fn pause(tries: u32) -> Duration {
    let most = 5u64 << tries.min(7);
    Duration::from_millis(most / 2 + u64::from(random_bytes::<1>()[0]) * most / 512)
}

fn away(target: &Target, error: &SqlError) -> DatabaseError {
    DatabaseError::Failed(format!("{target}: {error}"))
}

/// One connection that writes.
struct Lane {
    target: Target,
    clock: Clock,
    plan: Plan,
    connection: Option<Connection>,
    /// Groups that still run alone.
    turns: u32,
    /// Was the last group refused because the server can't be reached?
    away: bool,
}

impl Lane {
    fn run(mut self, queue: &mpsc::Receiver<Box<dyn Verb>>) {
        while let Ok(first) = queue.recv() {
            let mut verbs = vec![first];
            let outcome = self.group(&mut verbs, queue);
            if let Err(refused) = &outcome {
                tracing::error!(?refused, verbs = verbs.len(), "a transaction was not made, or nobody knows");
            }
            for verb in verbs {
                verb.answer(&outcome);
            }
        }
    }

    fn group(
        &mut self,
        verbs: &mut Vec<Box<dyn Verb>>,
        queue: &mpsc::Receiver<Box<dyn Verb>>,
    ) -> std::result::Result<(), Refused> {
        let nonce = hex::encode(random_bytes::<16>());
        let since = verbs.first().map_or(Duration::ZERO, |verb| verb.since());
        // Whoever waited long for the lane is not refused at the first blip. While the server is away, all are together.
        let least = if self.away { Duration::ZERO } else { self.clock.monotonic() + LEAST_PATIENCE };
        let until = least.max(since + PATIENCE);
        let mut tries = 0;
        loop {
            let error = match self.attempt(&nonce, verbs, (tries == 0).then_some(queue)) {
                Ok(()) => {
                    self.turns = self.turns.saturating_sub(1);
                    self.away = false;
                    return Ok(());
                }
                Err(error) => error,
            };
            tries += 1;
            match &error {
                SqlError::Conflict(_) => self.turns = TURNS,
                SqlError::Busy(_) => {}
                SqlError::Lost(_) => self.connection = None,
                SqlError::Full => return Err(Refused::Full),
                SqlError::Unique(_) | SqlError::Unreadable { .. } | SqlError::Failed(_) => {
                    return Err(Refused::Failed(error.to_string()));
                }
            }
            if self.clock.monotonic() >= until {
                self.away = matches!(error, SqlError::Lost(_));
                return Err(Refused::Failed(format!("{}: {error}", self.target)));
            }
            if tries > 1 || !matches!(error, SqlError::Conflict(_)) {
                std::thread::sleep(pause(tries));
            }
        }
    }

    /// One try to run and commit a group. More verbs join it only at the first, while no answer can be of an older one.
    fn attempt(
        &mut self,
        nonce: &str,
        verbs: &mut Vec<Box<dyn Verb>>,
        queue: Option<&mpsc::Receiver<Box<dyn Verb>>>,
    ) -> sql::Result<()> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Link::open(&self.target, VERB_STATEMENT, WRITER)?.into(),
        };
        let result = self.transaction(&connection, nonce, verbs, queue);
        // What can't be ended is not used again.
        if result == Ok(true) || connection.control("ROLLBACK").is_ok() {
            self.connection = Some(connection);
        }
        result.map(drop)
    }

    /// True when it was committed now, false when an earlier try was.
    fn transaction(
        &self,
        connection: &Connection,
        nonce: &str,
        verbs: &mut Vec<Box<dyn Verb>>,
        queue: Option<&mpsc::Receiver<Box<dyn Verb>>>,
    ) -> sql::Result<bool> {
        let level = if self.plan.serializable { "SERIALIZABLE" } else { "READ COMMITTED" };
        // A table's lock is taken before the snapshot and goes with the transaction, however that ends. Whoever was in the
        // way of another is alone with it: else a long group would lose to short ones again and again.
        let turn = match (self.plan.serializable, self.turns) {
            (false, _) => "",
            (true, 0) => "LOCK TABLE landfall_turns IN ROW SHARE MODE; ",
            (true, _) => "LOCK TABLE landfall_turns IN EXCLUSIVE MODE; ",
        };
        let begin = format!(
            "BEGIN ISOLATION LEVEL {level}; {turn}INSERT INTO landfall_nonces (id) VALUES ('\\x{nonce}'); SAVEPOINT verb"
        );
        match connection.control(&begin) {
            Ok(()) => {}
            // Only this group knows its nonce.
            Err(SqlError::Unique(_)) if queue.is_none() => return Ok(false),
            Err(error) => return Err(error),
        }
        let mut done = 0;
        loop {
            if done == verbs.len()
                && let Some(verb) = queue.filter(|_| done < GROUP).and_then(|queue| queue.try_recv().ok())
            {
                verbs.push(verb);
            }
            let more = done < verbs.len();
            if let Some(before) = done.checked_sub(1).and_then(|before| verbs.get_mut(before)) {
                // What it posted is answered here, where all wait anyway.
                let ended = if more {
                    connection.control("RELEASE SAVEPOINT verb; SAVEPOINT verb")
                } else {
                    connection.settle()
                };
                if let Err(error) = ended {
                    match before.fail(error) {
                        Ran::Done | Ran::Failed => connection.control("ROLLBACK TO SAVEPOINT verb")?,
                        Ran::Again(error) => return Err(error),
                    }
                }
            }
            let Some(verb) = verbs.get_mut(done) else { break };
            match verb.run(connection) {
                Ran::Done => {}
                Ran::Failed => connection.control("ROLLBACK TO SAVEPOINT verb")?,
                Ran::Again(error) => return Err(error),
            }
            done += 1;
        }
        faults::point("database.uncommitted");
        // A transaction in which something failed unseen would be rolled back by its COMMIT, which is no error; to release
        // the savepoint is one.
        connection.control("RELEASE SAVEPOINT verb; COMMIT")?;
        faults::point("database.committed");
        // The transaction was made, and its answer is lost.
        faults::io_point("database.doubt").map_err(|error| SqlError::Lost(error.to_string()))?;
        Ok(true)
    }
}

// -------------------------------------------------------------------------------------------------------------- opening

fn reach(target: &Target, clock: &Clock) -> Result<Connection> {
    let until = clock.monotonic() + PATIENCE;
    let mut tries = 0;
    loop {
        match Link::open(target, QUERY_STATEMENT, READER) {
            Ok(link) => return Ok(link.into()),
            Err(error @ SqlError::Lost(_)) if clock.monotonic() >= until => {
                return Err(DatabaseError::Unfit(format!(
                    "the database {target} can't be reached: {error}. Start it, or correct `database`"
                )));
            }
            Err(SqlError::Lost(_)) => {}
            Err(error) => {
                return Err(DatabaseError::Unfit(format!(
                    "the database {target} lets nobody in: {error}. Correct `database`, or the server's access rules"
                )));
            }
        }
        tries += 1;
        std::thread::sleep(pause(tries + 3));
    }
}

/// Refuses a server that could lose what it acknowledged.
fn check(connection: &Connection) -> Result<()> {
    let unfit = |what: String| Err(DatabaseError::Unfit(what));
    let settings =
        "SELECT current_setting('server_version_num'), current_setting('fsync'), current_setting('full_page_writes'),
         current_setting('synchronous_commit'), current_setting('server_encoding'), pg_is_in_recovery()";
    let read = |row: &sql::Row<'_>| {
        let text = |column| row.get::<String>(column);
        Ok(([text(0)?, text(1)?, text(2)?, text(3)?, text(4)?], row.get::<bool>(5)?))
    };
    let Some(([version, fsync, pages, commit, encoding], standby)) = connection.first(settings, sql::NONE, read)?
    else {
        return unfit("the database does not say how it is set".into());
    };
    if !version.parse::<u32>().is_ok_and(|version| version >= 130_000) {
        return unfit(format!("the database server has version {version}: PostgreSQL 13 or newer is needed"));
    }
    if standby {
        return unfit(
            "the database server is a standby, which takes no changes: name the primary in `database`".into(),
        );
    }
    for (name, value) in [("fsync", fsync), ("full_page_writes", pages), ("synchronous_commit", commit)] {
        if value == "off" {
            return unfit(format!(
                "the database server has {name} = off, and would lose what was acknowledged in a power cut: set {name} = on"
            ));
        }
    }
    if encoding != "UTF8" {
        return unfit(format!(
            "the database has the encoding {encoding}: create it anew with ENCODING 'UTF8' TEMPLATE template0"
        ));
    }
    Ok(())
}

fn known(plan: Plan) -> i64 {
    i64::try_from(plan.migrations.len()).unwrap_or(i64::MAX)
}

fn format(connection: &Connection, part: &str) -> Result<i64> {
    let format = "SELECT format FROM landfall_formats WHERE part = ?1";
    Ok(connection.first(format, [part], |row| row.get(0))?.unwrap_or(0))
}

fn migrate(connection: &Connection, plan: Plan) -> Result<()> {
    // Waits for another process that does the same; released with the connection, if not before.
    connection.control(&format!("SET lock_timeout = 60000; SELECT pg_advisory_lock({MIGRATING})"))?;
    connection.control(BASE).map_err(|error| {
        DatabaseError::Unfit(format!(
            "tables can't be made in the database: {error}. Let its user create tables in the schema, for example as its owner"
        ))
    })?;
    let (found, known) = (format(connection, plan.part)?, known(plan));
    if found > known {
        return Err(DatabaseError::Newer { found, known });
    }
    let part = plan.part;
    for (migration, format) in plan.migrations.iter().zip(1i64..).filter(|(_, format)| *format > found) {
        connection.control(&format!(
            "BEGIN; {migration};
             INSERT INTO landfall_formats (part, format) VALUES ('{part}', {format})
             ON CONFLICT (part) DO UPDATE SET format = {format}; COMMIT"
        ))?;
    }
    connection.control(&format!("SELECT pg_advisory_unlock({MIGRATING})"))?;
    Ok(())
}
