//! Looking into stores: files, how their processing stands, and chunks that fit a question.

use std::collections::HashMap;

use crate::engine::Engine;
use crate::meta::StoreFileFilter;
use crate::model::refusal::Refusal;
use crate::model::store::{LogEntry, Store, StoreFile};
use crate::search::Found;

/// Chunks asked for beyond those wanted: some may be of files that just left the store.
const SPARE: u32 = 100;

/// Files of a store that match, newest first, and how many there are in all.
///
/// # Errors
/// The keepers' own.
pub async fn files(engine: &Engine, store: &Store, filter: StoreFileFilter) -> Result<(Vec<StoreFile>, u64), Refusal> {
    Ok(engine.meta.store_files(store.row, filter).await?)
}

/// What the processor said about a file, oldest first.
///
/// # Errors
/// The keepers' own.
pub async fn log(engine: &Engine, file: &StoreFile) -> Result<Vec<LogEntry>, Refusal> {
    Ok(engine.meta.store_file_log(file.row).await?)
}

/// A chunk that fits, and the file that it is of.
#[derive(Clone, PartialEq, Debug)]
pub struct Hit {
    /// The file.
    pub file: StoreFile,
    /// The chunk.
    pub found: Found,
}

/// Chunks of a store in which every word (and every "quoted phrase") of `query` occurs, the best first.
///
/// # Errors
/// The keepers' own.
pub async fn search(engine: &Engine, store: &Store, query: &str, limit: u32) -> Result<Vec<Hit>, Refusal> {
    let found = engine.search.find_chunks(store.row, query, limit.saturating_add(SPARE)).await?;
    let rows: Vec<i64> = found.iter().map(|found| found.file).collect();
    let files = engine.meta.store_files_by_row(Some(store.row), rows).await?;
    let files: HashMap<i64, StoreFile> = files.into_iter().map(|file| (file.row, file)).collect();
    let hits = found.into_iter().filter_map(|found| Some(Hit { file: files.get(&found.file)?.clone(), found }));
    Ok(hits.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
}
