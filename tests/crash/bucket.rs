//! Worlds whose bytes are in a bucket. The store is in this process and survives the server's death, as one next door
//! would.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::Outcome;
use crate::store::Store;

static STORE: LazyLock<Store> = LazyLock::new(Store::start_for_ever);

pub fn store() -> &'static Store {
    &STORE
}

/// Beside a data directory: its bytes are in the bucket.
fn marker(data: &Path) -> PathBuf {
    data.with_extension("in-bucket")
}

pub fn mark(data: &Path) -> Outcome {
    std::fs::write(marker(data), "").map_err(|e| e.to_string())
}

/// What the keys of this data directory's segments begin with, if they are in the bucket.
pub fn prefix(data: &Path) -> Option<String> {
    let own = data.parent()?.file_name()?.to_string_lossy().into_owned();
    marker(data).exists().then(|| format!("crash/{}/", own.trim_start_matches('.')))
}

/// The configuration's field.
pub fn storage(data: &Path) -> String {
    prefix(data).map_or_else(|| "disk".into(), |prefix| store().url(prefix.trim_end_matches('/')))
}
