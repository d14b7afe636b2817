//! `landfall doctor` looks, and changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;

use crate::harness::{Server, on_postgres, program};

/// Runs it; whether it found everything whole, and what it said.
async fn doctor(data: &Path) -> (bool, String) {
    let mut command = program(data);
    command.args(["doctor", "--deep", "--data"]).arg(data).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the built binary");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Every file of a directory with its content, but for what SQLite keeps beside a database that is open.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                found.insert(path.clone(), Vec::new());
                directories.push(path);
            } else if !path.to_string_lossy().ends_with("-shm") && !path.to_string_lossy().ends_with("-wal") {
                found.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_changes_nothing() {
    let server = Server::start().await;
    let file = server.filled(vec![b'x'; 100_000]).await;
    server.item("http://a", json!({ "compressedBinaryDataFileId": file })).await;
    let (whole, said) = doctor(&server.data()).await;
    assert!(whole && said.contains("; 0 invariants broken"), "beside the server: {said}");
    let (data, _kept) = server.stopped().await;
    let before = files(&data);
    let (whole, said) = doctor(&data).await;
    assert!(whole && said.contains("; 0 invariants broken"), "{said}");
    assert!(before == files(&data), "it changed a file");
    if on_postgres() {
        return;
    }
    // The index is derived, and none of the doctor's business.
    std::fs::remove_file(data.join("search.db")).unwrap();
    let (whole, said) = doctor(&data).await;
    assert!(whole, "{said}");
    assert!(!data.join("search.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_migrates_nothing() {
    let server = Server::start().await;
    let (data, kept) = server.stopped().await;
    let version = |set: Option<i64>| -> i64 {
        if let Some(database) = kept.database() {
            if let Some(version) = set {
                database.sql(&format!("UPDATE landfall_formats SET format = {version} WHERE part = 'facts'"));
            }
            return database.sql("SELECT format FROM landfall_formats WHERE part = 'facts'").parse().unwrap();
        }
        let connection = rusqlite::Connection::open(data.join("landfall.db")).unwrap();
        if let Some(version) = set {
            connection.pragma_update(None, "user_version", version).unwrap();
        }
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
    };
    let known = version(None);
    version(Some(known - 1));
    let (whole, said) = doctor(&data).await;
    assert!(!whole, "{said}");
    assert!(
        said.contains(&format!("the data has format {}", known - 1)) && said.contains("run the server once"),
        "{said}"
    );
    assert_eq!(version(None), known - 1);
    version(Some(known + 1));
    let (whole, said) = doctor(&data).await;
    assert!(!whole && said.contains("use the newer version"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    for data in [directory.path().join("nowhere"), directory.path().to_owned()] {
        let (whole, said) = doctor(&data).await;
        assert!(!whole && said.contains("--data"), "{said}");
    }
    assert!(files(directory.path()).is_empty());
}
