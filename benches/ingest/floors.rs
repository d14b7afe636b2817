//! What the machine itself can do: the same bytes, syncs and transactions without a server.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::load::{BLOCK, MIB, Sample, own_cpu_seconds};

/// Touches memory, so that the host has given it before anything is timed.
pub fn warm(place: &Path) {
    let path = place.join("warm");
    let mut file = File::create(&path).expect("a file");
    let block = vec![1u8; 8 * MIB as usize];
    for _ in 0..384 {
        file.write_all(&block).expect("space");
    }
    drop(file);
    fs::remove_file(path).expect("the file");
}

pub fn remove(path: &Path) {
    let _ = fs::remove_dir_all(path);
}

/// Plain writes of 256 KiB and one fsync at each file's end, a thread for each file.
pub fn write_and_sync(place: &Path, count: usize, size: u64) -> Sample {
    let block = Arc::new(vec![7u8; BLOCK]);
    let directory = place.join("plain");
    fs::create_dir_all(&directory).expect("a directory");
    let (begun, cpu) = (Instant::now(), own_cpu_seconds());
    let threads: Vec<_> = (0..count)
        .map(|n| {
            let (block, path) = (Arc::clone(&block), directory.join(n.to_string()));
            std::thread::spawn(move || {
                let mut file = File::create(path).expect("a file");
                for _ in 0..size / BLOCK as u64 {
                    file.write_all(&block).expect("space");
                }
                file.sync_all().expect("a sync");
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a thread"));
    let sample = Sample {
        bytes: size * count as u64,
        seconds: begun.elapsed().as_secs_f64(),
        cpu_seconds: own_cpu_seconds() - cpu,
    };
    remove(&directory);
    sample
}

const SCHEMA: &str =
    "CREATE TABLE s (id BLOB PRIMARY KEY, tenant TEXT, state TEXT, size INTEGER, name TEXT, expires INTEGER)
    WITHOUT ROWID; CREATE INDEX e ON s (expires) WHERE state = 'open'; CREATE INDEX n ON s (tenant, id);
    CREATE TABLE u (tenant TEXT PRIMARY KEY, n INTEGER, b INTEGER) WITHOUT ROWID; INSERT INTO u VALUES ('t', 0, 0)";

fn database(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("a database");
    connection.pragma_update(None, "journal_mode", "WAL").expect("WAL");
    connection.pragma_update(None, "synchronous", "FULL").expect("FULL");
    connection.execute_batch(SCHEMA).expect("a schema");
    connection
}

fn insert(connection: &Connection, n: u64) {
    let id = u128::from(n).to_be_bytes();
    let insert = "INSERT INTO s VALUES (?1, 't', 'open', 1000, 'a.bin', ?2)";
    connection.prepare_cached(insert).expect("SQL").execute(rusqlite::params![id, n as i64]).expect("an insert");
    let quota = "UPDATE u SET n = n + 1, b = b + 1000";
    connection.prepare_cached(quota).expect("SQL").execute([]).expect("an update");
}

/// Sessions a second that SQLite itself makes durable, 32 to a transaction: what 64 connections commit together.
pub fn sqlite_inserts(path: &Path, time: Duration) -> f64 {
    let connection = database(path);
    let begun = Instant::now();
    let mut count = 0u64;
    while begun.elapsed() < time {
        connection.execute_batch("BEGIN IMMEDIATE").expect("a transaction");
        for _ in 0..32 {
            insert(&connection, count);
            count += 1;
        }
        connection.execute_batch("COMMIT").expect("a commit");
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Files a second with what each of them costs a durable server: a transaction, 64 KiB with a data sync, the sync of the
/// directory, a transaction, a transaction. Whoever waits commits together, as in the server.
pub fn small_files(directory: &Path, count: usize, loops: usize) -> f64 {
    fs::create_dir_all(directory).expect("a directory");
    let path = directory.join("floor.db");
    let (verbs, queue) = mpsc::channel::<mpsc::Sender<()>>();
    let writer = std::thread::spawn(move || {
        let connection = database(&path);
        let mut number = 0;
        while let Ok(first) = queue.recv() {
            connection.execute_batch("BEGIN IMMEDIATE").expect("a transaction");
            let mut waiting = vec![first];
            waiting.extend(queue.try_iter());
            for _ in &waiting {
                insert(&connection, number);
                number += 1;
            }
            connection.execute_batch("COMMIT").expect("a commit");
            waiting.into_iter().for_each(|answer| answer.send(()).expect("somebody waits"));
        }
    });
    let (next, barrier) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(loops + 1)));
    let threads: Vec<_> = (0..loops)
        .map(|_| {
            let (next, barrier, verbs) = (Arc::clone(&next), Arc::clone(&barrier), verbs.clone());
            let directory = directory.to_owned();
            std::thread::spawn(move || {
                let block = vec![3u8; 64 * 1024];
                let transaction = || {
                    let (answer, wait) = mpsc::channel();
                    verbs.send(answer).expect("a writer");
                    wait.recv().expect("an answer");
                };
                barrier.wait();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    transaction();
                    let mut file = File::create_new(directory.join(n.to_string())).expect("a file");
                    file.write_all(&block).expect("space");
                    file.sync_data().expect("a sync");
                    File::open(&directory).and_then(|d| d.sync_all()).expect("a sync");
                    transaction();
                    transaction();
                }
            })
        })
        .collect();
    drop(verbs);
    barrier.wait();
    let begun = Instant::now();
    threads.into_iter().for_each(|thread| thread.join().expect("a thread"));
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    writer.join().expect("the writer");
    rate
}
