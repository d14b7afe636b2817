//! Worlds whose bytes are in a bucket. The store is in this process and survives the server's death, as one next door
//! would.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::Outcome;
use crate::store::Store;

static STORE: LazyLock<Store> = LazyLock::new(Store::start_for_ever);

static GOOGLE: LazyLock<Store> = LazyLock::new(Store::google_for_ever);

pub fn store() -> &'static Store {
    &STORE
}

/// The store that has this data directory's bytes.
pub fn store_of(data: &Path) -> &'static Store {
    if google_marker(data).exists() { &GOOGLE } else { &STORE }
}

/// Beside a data directory: the bucket is in a store that speaks as Google's does.
fn google_marker(data: &Path) -> PathBuf {
    data.with_extension("in-google")
}

pub fn mark_google(data: &Path) -> Outcome {
    std::fs::write(google_marker(data), "").map_err(|e| e.to_string())
}

/// Beside a data directory: its bytes are in the bucket.
fn marker(data: &Path) -> PathBuf {
    data.with_extension("in-bucket")
}

pub fn mark(data: &Path) -> Outcome {
    std::fs::write(marker(data), "").map_err(|e| e.to_string())
}

/// Beside a data directory: its bytes are both there and in the bucket.
fn both_marker(data: &Path) -> PathBuf {
    data.with_extension("in-both")
}

/// Its bytes are in both from now on; new ones go where they went.
pub fn mark_both(data: &Path) -> Outcome {
    std::fs::write(both_marker(data), "").map_err(|e| e.to_string())
}

/// New bytes go to the other place from now on.
pub fn switch(data: &Path) -> Outcome {
    let marker = marker(data);
    if marker.exists() { std::fs::remove_file(marker).map_err(|e| e.to_string()) } else { mark(data) }
}

/// Are its bytes in both?
pub fn in_both(data: &Path) -> bool {
    both_marker(data).exists()
}

fn own_prefix(data: &Path) -> Option<String> {
    let own = data.parent()?.file_name()?.to_string_lossy().into_owned();
    Some(format!("crash/{}/", own.trim_start_matches('.')))
}

/// What the keys of this data directory's segments begin with, if new ones go to the bucket.
pub fn prefix(data: &Path) -> Option<String> {
    own_prefix(data).filter(|_| marker(data).exists())
}

/// The same, if there are any in the bucket.
pub fn any_prefix(data: &Path) -> Option<String> {
    own_prefix(data).filter(|_| marker(data).exists() || in_both(data))
}

fn place(data: &Path, prefix: Option<String>) -> String {
    prefix.map_or_else(|| "disk".into(), |prefix| store_of(data).url(prefix.trim_end_matches('/')))
}

/// The configuration's field.
pub fn storage(data: &Path) -> String {
    place(data, prefix(data))
}

/// The field for the other place, if there is one.
pub fn more_storage(data: &Path) -> String {
    match (in_both(data), prefix(data)) {
        (false, _) => String::new(),
        (true, Some(_)) => place(data, None),
        (true, None) => place(data, own_prefix(data)),
    }
}
