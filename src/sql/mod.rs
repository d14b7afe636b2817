//! SQL that two engines understand: one connection, one row, one error by meaning, over SQLite and PostgreSQL. The keepers
//! write their queries once, in the subset that both read; where there is none, [`Flavour`] decides beside the query.
//!
//! Places for values are written `?1`, `?2` or `?`. Numbers and flags are 64-bit integers in both engines, so that a
//! condition on a flag says `= 1`.

mod link;
mod queries;
mod values;

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

pub use link::{Link, Target};
pub use queries::{Queries, queue};
pub(crate) use values::params;
pub use values::{Column, Kind, NONE, Owned, Param, Params, Typed, Value, param};

/// Why a statement did not do it, by what can be done about it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SqlError {
    /// No space left for the database's files.
    #[error("no space left for the database")]
    Full,
    /// Another process or transaction did not let go in time.
    #[error("the database is busy: {0}")]
    Busy(String),
    /// A row with this key is there.
    #[error("{0}")]
    Unique(String),
    /// The transaction was in the way of another one and may be run again.
    #[error("in the way of another transaction: {0}")]
    Conflict(String),
    /// The connection is gone, and what was asked last may have been done or not.
    #[error("the connection to the database is lost: {0}")]
    Lost(String),
    /// A stored value is none that this program knows.
    #[error("column {column} can't be read: {what}")]
    Unreadable {
        /// The column's place in the row.
        column: usize,
        /// What is wrong with it.
        what: String,
    },
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// What a statement says.
pub type Result<T> = std::result::Result<T, SqlError>;

/// Why a database could not do it. Nothing may be assumed about what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
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
    /// The database server is not one that keeps what it says. The sentence says what to change.
    #[error("{0}")]
    Unfit(String),
    /// Anything else.
    #[error("the database failed: {0}")]
    Failed(String),
}

impl From<SqlError> for DatabaseError {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Full => Self::OutOfSpace,
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Which engine's SQL a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// SQLite's.
    Sqlite,
    /// PostgreSQL's.
    Postgres,
}

impl Flavour {
    /// The end of a query for rows that this transaction takes and others pass over. SQLite has one writer.
    #[must_use]
    pub const fn passing_over_taken(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " FOR UPDATE SKIP LOCKED",
        }
    }

    /// Stands in front of a column that is not to lead to an index. PostgreSQL counts what its indexes would meet.
    #[must_use]
    pub const fn off_index(self) -> &'static str {
        match self {
            Self::Sqlite => "+",
            Self::Postgres => "",
        }
    }

    /// Stands behind a table that is to be read by this index.
    #[must_use]
    pub fn by_index(self, index: &str) -> String {
        match self {
            Self::Sqlite => format!(" INDEXED BY {index}"),
            Self::Postgres => String::new(),
        }
    }

    /// Joins tables in the order in which they stand.
    #[must_use]
    pub const fn join_in_order(self) -> &'static str {
        match self {
            Self::Sqlite => "CROSS JOIN",
            Self::Postgres => "JOIN",
        }
    }

    /// A query for the whole numbers in a JSON array that stands at a place for a value.
    #[must_use]
    pub fn numbers(self, place: &str) -> String {
        match self {
            Self::Sqlite => format!("SELECT value FROM json_each({place})"),
            Self::Postgres => {
                format!("SELECT CAST(n AS BIGINT) FROM json_array_elements_text(CAST({place} AS json)) n")
            }
        }
    }

    /// A condition: a column's text is among those in a JSON array that stands at a place for a value. None of them may have a
    /// NUL character, which PostgreSQL's JSON lacks.
    #[must_use]
    pub fn among(self, column: &str, place: &str) -> String {
        match self {
            Self::Sqlite => format!("{column} IN (SELECT value FROM json_each({place}))"),
            // An array, and not a query to be joined with: then the index is asked for each, whatever is guessed of their number.
            Self::Postgres => format!("{column} = ANY (ARRAY(SELECT json_array_elements_text(CAST({place} AS json))))"),
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------- rows

/// A row of an answer.
pub struct Row<'r>(Answered<'r>);

enum Answered<'r> {
    Sqlite(&'r rusqlite::Row<'r>),
    Postgres(&'r tokio_postgres::Row),
}

impl fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").finish_non_exhaustive()
    }
}

impl Row<'_> {
    /// The value of a column, counted from 0, where it is.
    ///
    /// # Errors
    /// [`SqlError::Unreadable`] for a column that is not there or is of a type that neither engine uses here.
    pub fn value(&self, column: usize) -> Result<Value<'_>> {
        use rusqlite::types::ValueRef;
        let unreadable = |what: String| SqlError::Unreadable { column, what };
        match self.0 {
            Answered::Sqlite(row) => match row.get_ref(column).map_err(|error| unreadable(error.to_string()))? {
                ValueRef::Null => Ok(Value::Null),
                ValueRef::Integer(number) => Ok(Value::Integer(number)),
                ValueRef::Real(number) => Ok(Value::Real(number)),
                ValueRef::Text(text) => std::str::from_utf8(text)
                    .map(|text| Value::Text(Cow::Borrowed(text)))
                    .map_err(|error| unreadable(error.to_string())),
                ValueRef::Blob(bytes) => Ok(Value::Blob(Cow::Borrowed(bytes))),
            },
            Answered::Postgres(row) => row.try_get(column).map_err(|error| unreadable(link::said(&error))),
        }
    }

    /// The value of a column, counted from 0.
    ///
    /// # Errors
    /// [`SqlError::Unreadable`] when it is something else.
    pub fn get<T: Column>(&self, column: usize) -> Result<T> {
        let value = self.value(column)?;
        T::read(value)
            .ok_or_else(|| SqlError::Unreadable { column, what: format!("not a {}", std::any::type_name::<T>()) })
    }
}

// --------------------------------------------------------------------------------------------------------- connections

/// A connection to either engine, used by one thread at a time. Statements are prepared once for each text.
pub struct Connection(Engine);

enum Engine {
    Sqlite(rusqlite::Connection),
    Postgres(Link),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.flavour()).finish()
    }
}

impl From<rusqlite::Connection> for Connection {
    fn from(connection: rusqlite::Connection) -> Self {
        Self(Engine::Sqlite(connection))
    }
}

impl From<Link> for Connection {
    fn from(link: Link) -> Self {
        Self(Engine::Postgres(link))
    }
}

impl Connection {
    /// Whose SQL it speaks.
    #[must_use]
    pub const fn flavour(&self) -> Flavour {
        match &self.0 {
            Engine::Sqlite(_) => Flavour::Sqlite,
            Engine::Postgres(_) => Flavour::Postgres,
        }
    }

    /// Runs a statement that answers nothing; says how many rows it changed.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn execute(&self, sql: &str, params: impl Params) -> Result<usize> {
        match &self.0 {
            Engine::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql)?;
                bind(&mut statement, &params)?;
                Ok(statement.raw_execute()?)
            }
            Engine::Postgres(link) => link.execute(sql, &params),
        }
    }

    /// Runs a statement of which nobody wants to know how many rows it changed. On PostgreSQL it goes out with
    /// the next one that is waited for: whether it failed is then said there, or by [`Self::settle`]. What is posted is run in
    /// its order, and behind one that failed nothing of the transaction is.
    ///
    /// # Errors
    /// [`SqlError`], also of one that was posted before.
    pub fn post(&self, sql: &str, params: impl Params) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(_) => self.execute(sql, params).map(drop),
            Engine::Postgres(link) => link.post(sql, &params),
        }
    }

    /// Waits for everything that was posted.
    ///
    /// # Errors
    /// [`SqlError`], of the first that failed.
    pub fn settle(&self) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(_) => Ok(()),
            Engine::Postgres(link) => link.settle(),
        }
    }

    /// The first row of an answer, if there is one.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn first<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        match &self.0 {
            Engine::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql)?;
                bind(&mut statement, &params)?;
                let mut rows = statement.raw_query();
                match rows.next()? {
                    Some(row) => read(&Row(Answered::Sqlite(row))).map(Some),
                    None => Ok(None),
                }
            }
            Engine::Postgres(link) => {
                let row = link.first(sql, &params)?;
                row.map(|row| read(&Row(Answered::Postgres(&row)))).transpose()
            }
        }
    }

    /// Hands on the rows of an answer one by one, as long as they are wanted. Nothing may be asked of the connection
    /// meanwhile.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn each(&self, sql: &str, params: impl Params, mut wanted: impl FnMut(&Row<'_>) -> Result<bool>) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql)?;
                bind(&mut statement, &params)?;
                let mut rows = statement.raw_query();
                while let Some(row) = rows.next()? {
                    if !wanted(&Row(Answered::Sqlite(row)))? {
                        break;
                    }
                }
                Ok(())
            }
            Engine::Postgres(link) => link.each(sql, &params, |row| wanted(&Row(Answered::Postgres(row)))),
        }
    }

    /// All rows of an answer.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        self.each(sql, params, |row| {
            found.push(read(row)?);
            Ok(true)
        })?;
        Ok(found)
    }

    /// Runs statements without values whose answers nobody wants, such as those around a transaction: on SQLite one, on
    /// PostgreSQL several in one message.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn control(&self, sql: &str) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(connection) => connection.prepare_cached(sql)?.execute([]).map(drop).map_err(Into::into),
            Engine::Postgres(link) => link.batch(sql),
        }
    }

    /// Is a transaction open? SQLite alone ends one by itself, when it has no space left.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        match &self.0 {
            Engine::Sqlite(connection) => !connection.is_autocommit(),
            Engine::Postgres(_) => true,
        }
    }
}

fn bind(statement: &mut rusqlite::Statement<'_>, params: &impl Params) -> Result<()> {
    if statement.parameter_count() != params.count() {
        let wanted = statement.parameter_count();
        return Err(SqlError::Failed(format!("{} values for {wanted} places", params.count())));
    }
    for index in 0..params.count() {
        statement.raw_bind_parameter(index + 1, params.param(index).value())?;
    }
    Ok(())
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef};
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl From<rusqlite::Error> for SqlError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};
        let unique = |extended: i32| [SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE].contains(&extended);
        match error.sqlite_error() {
            Some(code) if code.code == ErrorCode::DiskFull => Self::Full,
            Some(code) if code.code == ErrorCode::DatabaseBusy => Self::Busy(error.to_string()),
            Some(code) if unique(code.extended_code) => Self::Unique(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}
