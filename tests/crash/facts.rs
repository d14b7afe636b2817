//! Worlds whose facts are in PostgreSQL. The database server is this process's own and survives the server's death, as one
//! next door would.

use std::path::{Path, PathBuf};

use crate::Outcome;
use crate::postgres::{Fresh, shared};

/// Beside a data directory: the name of the database with its facts.
fn marker(data: &Path) -> PathBuf {
    data.with_extension("in-database")
}

/// Its facts are in this database from now on.
pub fn mark(data: &Path, database: &Fresh) -> Outcome {
    std::fs::write(marker(data), database.name()).map_err(|e| e.to_string())
}

/// The database with the facts of this data directory, if they are in one.
pub fn database(data: &Path) -> Option<String> {
    std::fs::read_to_string(marker(data)).ok()
}

/// The configuration's field.
pub fn url(data: &Path) -> Option<String> {
    database(data).map(|name| shared().url(&name))
}

/// The values of the rows that a query finds; a NULL is empty.
pub fn rows(database: &str, query: &str) -> Outcome<Vec<Vec<String>>> {
    let found = shared().try_sql(database, query)?;
    let rows = found.lines().filter(|line| !line.is_empty());
    Ok(rows.map(|line| line.split('|').map(str::to_owned).collect()).collect())
}
