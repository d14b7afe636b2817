//! Lists of a large catalogue, against the bare queries that find the same rows.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rusqlite::types::Value as Sql;
use rusqlite::{Connection as Database, OpenFlags, params_from_iter};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::load::{Client, Connection};

const FILES: &str = "/cognite/api/v1/projects/default/files";
/// What is asked for at once.
const PAGE: usize = 1000;
const REPEATED: usize = 15;

/// A filter, and the bare query for it.
pub struct Filter {
    pub name: &'static str,
    filter: Value,
    find: String,
    order: &'static str,
    values: Vec<Sql>,
}

fn headers(client: &Client) -> String {
    format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", client.key)
}

/// Declares so many files, of which one in ten has what each filter asks for.
pub fn fill(client: &Client, count: u64) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let mut connection = Connection::new(client.port);
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let class = n % 10;
                    let file = json!({
                        "name": format!("name-{class}"), "externalId": format!("{class}/{n}"), "source": format!("source-{class}"),
                        "mimeType": format!("text/x-{class}"), "directory": format!("/folder/{class}"),
                        "metadata": { "class": class.to_string(), "number": n.to_string() }, "assetIds": [class + 1],
                        "dataSetId": class + 1, "labels": [{ "externalId": format!("label-{class}") }],
                        "sourceCreatedTime": 1_000_000 + n, "sourceModifiedTime": 2_000_000 + n,
                    });
                    connection.call("POST", FILES, &headers(client), file.to_string().as_bytes()).expect(201);
                }
            });
        }
    });
}

/// As the server makes them: a digest of tenant, kind and values, each behind its length.
fn term(kind: u8, values: &[&[u8]]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in [b"default".as_slice(), &[kind]].iter().chain(values) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize()[..16].to_vec()
}

/// Every filter that goes by an index. `count` is how many files there are.
pub fn filters(count: u64) -> Vec<Filter> {
    const ALL: &str = "FROM entries e WHERE e.tenant = 'default'";
    let by_term = |name, filter, kind, values: &[&[u8]]| Filter {
        name,
        filter,
        find: "FROM entry_terms t CROSS JOIN entries e ON e.number = t.number WHERE t.term = ?1".into(),
        order: "t.number",
        values: vec![Sql::Blob(term(kind, values))],
    };
    let by_column = |name, filter, condition: &str, values| Filter {
        name,
        filter,
        find: format!("{ALL} AND {condition}"),
        order: "e.number",
        values,
    };
    let span = |name, column: &str, from: u64| {
        let (least, most) = (from + count / 2, from + count / 2 + 9_999);
        let values = vec![Sql::Integer(least as i64), Sql::Integer(most as i64)];
        by_column(
            name,
            json!({ name: { "min": least, "max": most } }),
            &format!("e.{column} BETWEEN ?1 AND ?2"),
            values,
        )
    };
    let recent = |name, column: &str| {
        by_column(name, json!({ name: { "min": 1 } }), &format!("e.{column} >= ?1"), vec![Sql::Integer(1)])
    };
    let prefix = |name, column: &str, least: &str, below: &str| {
        let values = vec![Sql::Text(least.into()), Sql::Text(below.into())];
        by_column(name, json!({ name: least }), &format!("e.{column} >= ?1 AND e.{column} < ?2"), values)
    };
    vec![
        by_column("plain", json!({}), "1", Vec::new()),
        by_term("name", json!({ "name": "name-3" }), b'n', &[b"name-3"]),
        by_term("mimeType", json!({ "mimeType": "text/x-3" }), b't', &[b"text/x-3"]),
        by_term("source", json!({ "source": "source-3" }), b's', &[b"source-3"]),
        by_term("metadata", json!({ "metadata": { "class": "3" } }), b'm', &[b"class", b"3"]),
        by_term("assetIds", json!({ "assetIds": [4] }), b'a', &[&4i64.to_be_bytes()]),
        by_term("dataSetIds", json!({ "dataSetIds": [{ "id": 4 }] }), b'd', &[&4i64.to_be_bytes()]),
        by_term("labels", json!({ "labels": { "containsAny": [{ "externalId": "label-3" }] } }), b'l', &[b"label-3"]),
        by_term("uploaded", json!({ "uploaded": false }), b'u', &[&0i64.to_be_bytes()]),
        prefix("directoryPrefix", "directory", "/folder/3", "/folder/4"),
        prefix("externalIdPrefix", "external_id", "3/", "30"),
        recent("createdTime", "created"),
        recent("lastUpdatedTime", "changed"),
        span("sourceCreatedTime", "source_created", 1_000_000),
        span("sourceModifiedTime", "source_modified", 2_000_000),
    ]
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Milliseconds until the last byte of a list's first page. One is asked for after the other, as the bare query is run, and
/// the answers are looked at afterwards.
pub fn list(client: &Client, filter: &Filter) -> f64 {
    let mut connection = Connection::new(client.port);
    let ask = json!({ "filter": filter.filter, "limit": PAGE }).to_string();
    let target = format!("{FILES}/list");
    let one = |_| {
        let begun = Instant::now();
        let reply = connection.call("POST", &target, &headers(client), ask.as_bytes()).expect(200);
        (reply.came.duration_since(begun).as_secs_f64() * 1000.0, reply)
    };
    let (times, replies): (Vec<f64>, Vec<_>) = (0..REPEATED).map(one).unzip();
    for reply in replies {
        assert_eq!(reply.json()["items"].as_array().expect("items").len(), PAGE, "{}", filter.name);
    }
    median(times)
}

/// Milliseconds for the same rows by the query alone, every column read.
pub fn bare(database: &Path, filter: &Filter) -> f64 {
    let connection = Database::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the database");
    let query = format!("SELECT e.* {} ORDER BY {} LIMIT {PAGE}", filter.find, filter.order);
    let mut statement = connection.prepare(&query).expect("SQL");
    let columns = statement.column_count();
    let one = |_| {
        let begun = Instant::now();
        let mut rows = statement.query(params_from_iter(&filter.values)).expect("rows");
        let mut count = 0;
        while let Some(row) = rows.next().expect("a row") {
            for column in 0..columns {
                std::hint::black_box(row.get::<_, Sql>(column).expect("a value"));
            }
            count += 1;
        }
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        assert_eq!(count, PAGE, "{}", filter.name);
        took
    };
    median((0..REPEATED).map(one).collect())
}
