//! Records of a push, until each of them is found.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::load::{Client, Connection, path_of};

const ORGANIZATION: &str = "/push/v1/organizations/default";
/// What a call that waits for a push gives up after.
const NEVER: Duration = Duration::from_secs(600);

/// What one push cost.
pub struct Pushed {
    pub per_second: f64,
    /// Of them, until all are kept: their texts may still be waited for.
    pub kept_per_second: f64,
}

/// Pushes so many small records as one batch. Their names begin with `prefix`.
pub fn batch(client: &Client, prefix: &str, count: usize) -> Pushed {
    let mut connection = Connection::new(client.port);
    let headers = format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", client.key);
    let records: Vec<_> = (0..count)
        .map(|n| {
            json!({ "documentId": format!("https://records.example/{prefix}/{n}"), "title": format!("Record {n}"),
                "author": "bench", "number": n, "data": format!("The {n}th record of {prefix}, with some words to find it by.") })
        })
        .collect();
    let body = json!({ "addOrUpdate": records }).to_string();
    let opened = connection.call("POST", &format!("{ORGANIZATION}/files"), &headers, b"").expect(201).json();
    let required: String = opened["requiredHeaders"]
        .as_object()
        .expect("headers")
        .iter()
        .map(|(name, value)| format!("{name}: {}\r\n", value.as_str().expect("a value")))
        .collect();
    let target = path_of(opened["uploadUri"].as_str().expect("a URL"));
    connection.call("PUT", &target, &required, body.as_bytes()).expect(200);
    let file = opened["fileId"].as_str().expect("an id");
    let target = format!("{ORGANIZATION}/sources/default-files/documents/batch?fileId={file}");
    let begun = Instant::now();
    let accepted = connection.call("PUT", &target, &headers, b"").expect(202).json();
    let target = format!("/landfall/v1/pushes/{}", accepted["requestId"].as_str().expect("an id"));
    let mut kept = None;
    loop {
        let push = connection.call("GET", &target, &headers, b"").expect(200).json();
        let counted = |what: &str| push["counts"][what].as_u64().expect("a number");
        let applied = counted("added") + counted("updated");
        if applied >= count as u64 && kept.is_none() {
            kept = Some(begun.elapsed());
        }
        if push["state"] == "done" {
            assert_eq!(applied, count as u64, "{push}");
            let rate = |time: Duration| count as f64 / time.as_secs_f64();
            let whole = begun.elapsed();
            return Pushed { per_second: rate(whole), kept_per_second: rate(kept.unwrap_or(whole)) };
        }
        assert!(begun.elapsed() < NEVER, "the push does not end: {push}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
