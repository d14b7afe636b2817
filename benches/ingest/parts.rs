//! Files in parts: many at once, and what their completion costs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::load::{Client, Connection, MIB, path_of};

const UPLOADS: &str = "/landfall/v1/uploads";

/// An upload in parts.
pub struct Upload {
    id: String,
    targets: Vec<String>,
    size: u64,
}

/// What an upload in parts came to.
pub struct Parts {
    /// From the first byte to the answer that says that the file is there.
    pub seconds: f64,
    /// From asking to complete it to that answer.
    pub complete_ms: f64,
}

impl Client {
    fn bearer(&self) -> String {
        format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", self.key)
    }

    fn open_parts(&self, size: u64, count: u64) -> Upload {
        let ask = json!({ "name": "a.bin", "size": size, "strategy": "multipart", "parts": count });
        let mut connection = Connection::new(self.port);
        let opened = connection.call("POST", UPLOADS, &self.bearer(), ask.to_string().as_bytes()).expect(201).json();
        let urls = opened["part_urls"].as_array().expect("URLs");
        let targets = urls.iter().map(|url| path_of(url.as_str().expect("a URL"))).collect();
        Upload { id: opened["id"].as_str().expect("an id").to_owned(), targets, size }
    }

    fn complete(&self, upload: &Upload) -> Value {
        let target = format!("{UPLOADS}/{}/commit", upload.id);
        let mut connection = Connection::new(self.port);
        connection.call("POST", &target, &self.bearer(), b"{}").expect(200).json()
    }
}

impl Upload {
    /// Bytes of a part: all have the same, and the last one what is left.
    fn length(&self, index: usize) -> u64 {
        let count = self.targets.len() as u64;
        let each = self.size.div_ceil(count);
        each.min(self.size.saturating_sub(each * index as u64))
    }
}

/// A file of `count` parts, so many at a time.
pub fn upload(client: &Client, size: u64, count: u64, connections: usize) -> Parts {
    let upload = client.open_parts(size, count);
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut connection = Connection::new(client.port);
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(target) = upload.targets.get(index) else { return };
                    let length = upload.length(index);
                    connection.head("PUT", target, "", length);
                    connection.pour(length).expect("a live server");
                    connection.reply().expect(200);
                }
            });
        }
    });
    let asked = Instant::now();
    let receipt = client.complete(&upload);
    let complete_ms = asked.elapsed().as_secs_f64() * 1000.0;
    assert_eq!(receipt["size"], size, "another size");
    Parts { seconds: begun.elapsed().as_secs_f64(), complete_ms }
}

/// So many parts of one file in flight: all of them half sent before the first is ended.
pub fn in_flight(client: &Client, count: u64) {
    let upload = client.open_parts(count * 8 * MIB, count);
    let mut connections: Vec<Connection> = upload
        .targets
        .iter()
        .map(|target| {
            let mut connection = Connection::new(client.port);
            connection.head("PUT", target, "", 8 * MIB);
            connection
        })
        .collect();
    for _ in 0..32 {
        for connection in &mut connections {
            connection.pour(MIB / 4).expect("a live server");
        }
    }
    for connection in &mut connections {
        connection.reply().expect(200);
    }
    client.complete(&upload);
}
