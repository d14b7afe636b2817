//! What uploads cost, against floors taken in the same run. Run by `scripts/bench`; the method is in
//! docs/performance.md. Absolute figures belong to the machine, ratios travel.
//!
//! Every server is a process of its own on loopback; its processor time and its peak memory are the system's own
//! accounting. The load generator is this process: threads with plain sockets.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::as_conversions,
    clippy::cast_lossless,
    missing_docs,
    unreachable_pub,
    reason = "a measurement that can't go on has failed; the bans are the server's"
)]

#[path = "../../tests/support/bucket.rs"]
mod bucket;
mod catalogue;
mod far;
mod floors;
#[path = "../../tests/support/harm.rs"]
mod harm;
mod load;
mod parts;
mod peers;
#[path = "../../src/postgres/testing.rs"]
mod postgres;
mod push;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use load::{Client, MIB, Sample};
use peers::Server;

/// One measured thing: per subject its figures, one for each run.
#[derive(Default)]
struct Table {
    rows: Vec<String>,
    figures: BTreeMap<(String, String), Vec<f64>>,
}

impl Table {
    fn add(&mut self, row: &str, subject: &str, value: f64) {
        if !self.rows.iter().any(|known| known == row) {
            self.rows.push(row.to_owned());
        }
        eprintln!("  {row} | {subject}: {value:.3}");
        self.figures.entry((row.to_owned(), subject.to_owned())).or_default().push(value);
    }

    fn median(&self, row: &str, subject: &str) -> Option<f64> {
        let mut values = self.figures.get(&(row.to_owned(), subject.to_owned()))?.clone();
        values.sort_by(f64::total_cmp);
        Some(values[values.len() / 2])
    }

    /// Ratios run by run, because the machine's speed drifts; then their median.
    fn ratio(&self, row: &str, subject: &str, floor_row: &str, floor: &str) -> Option<f64> {
        let ours = self.figures.get(&(row.to_owned(), subject.to_owned()))?;
        let floor = self.figures.get(&(floor_row.to_owned(), floor.to_owned()))?;
        let mut ratios: Vec<f64> = ours.iter().zip(floor).map(|(a, b)| a / b).collect();
        ratios.sort_by(f64::total_cmp);
        Some(ratios[ratios.len() / 2])
    }

    fn print(&self, wanted: &[Wanted]) {
        println!("\n| row | subject | median | runs |\n|---|---|---|---|");
        for row in &self.rows {
            for ((_, subject), values) in self.figures.iter().filter(|((r, _), _)| r == row) {
                let runs: Vec<String> = values.iter().map(|v| shown(*v)).collect();
                let median = self.median(row, subject).unwrap_or(f64::NAN);
                println!("| {row} | {subject} | {} | {} |", shown(median), runs.join(", "));
            }
        }
        println!("\n| ratio | value | wanted | |\n|---|---|---|---|");
        for wanted in wanted {
            let value = wanted.value(self);
            let (value, verdict) = match value {
                None => (String::from("not measured"), ""),
                Some(value) => {
                    let met = if wanted.at_least { value >= wanted.limit } else { value <= wanted.limit };
                    (shown(value), if met { "met" } else { "**not met**" })
                }
            };
            let sign = if wanted.at_least { "≥" } else { "≤" };
            println!("| {} | {value} | {sign} {} | {verdict} |", wanted.what, shown(wanted.limit));
        }
    }
}

fn shown(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

/// A figure or a ratio that is wanted.
struct Wanted {
    what: &'static str,
    row: &'static str,
    subject: &'static str,
    against: Option<(&'static str, &'static str)>,
    at_least: bool,
    limit: f64,
}

impl Wanted {
    fn value(&self, table: &Table) -> Option<f64> {
        match self.against {
            Some((row, subject)) => table.ratio(self.row, self.subject, row, subject),
            None => table.median(self.row, self.subject),
        }
    }
}

const US: &str = "landfall";
const US_MD5: &str = "landfall, MD5";
const STREAM: &str = "one stream of 2 GiB, MB/s until synced";
const STREAM_CPU: &str = "one stream of 2 GiB, CPU-s/GiB";
const SIXTEEN: &str = "16 × 256 MiB, MB/s until synced";
const SIXTEEN_CPU: &str = "16 × 256 MiB, CPU-s/GiB";
const CREATIONS: &str = "creations/s, 64 connections";
const SMALL_1: &str = "64 KiB files/s, 1 connection";
const SMALL_16: &str = "64 KiB files/s, 16 connections";
const CUT_MS: &str = "cut to told offset, ms";
const CUT_TWICE: &str = "bytes sent twice after a cut, beyond 256 KiB alignment";
const FINAL_64M: &str = "final answer after 64 MiB, ms";
const FINAL_4G: &str = "final answer after 4 GiB, ms";
const BODIES_MIB: &str = "peak MiB, 1,000 bodies in flight";
const PARTS: &str = "2 GiB in 64 parts, 8 at once, MB/s until complete";
const COMPLETE_64: &str = "completing 2 GiB in 64 parts, ms";
const COMPLETE_250: &str = "completing 2 GiB in 250 parts, ms";
const COMPLETE_8G: &str = "completing 8 GiB in 16 parts, ms";
const COMPLETES: &str = "slowest of these ÷ fastest";
const PARTS_MIB: &str = "peak MiB, 64 parts in flight";
const LIST: &str = "list of 1,000 of 100,000 files ÷ bare SQL, slowest filter";
const FAR: &str = "one stream of 512 MiB into Garage, MB/s until complete";
const DIRECT: &str = "landfall on PostgreSQL, straight to a bucket";
const TICKETS: &str = "tickets/s for one PUT each, 64 connections";
const FAR_MIB: &str = "peak MiB, one stream into Garage";
const SESSIONS_MIB: &str = "peak MiB, 10,000 open sessions";

fn wanted() -> Vec<Wanted> {
    let ratio = |what, row, subject, against, limit| Wanted {
        what,
        row,
        subject,
        against: Some(against),
        at_least: true,
        limit,
    };
    let most = |what, row, limit| Wanted { what, row, subject: US, against: None, at_least: false, limit };
    vec![
        ratio("one stream ÷ plain write + fsync", STREAM, US, (STREAM, "write + fsync"), 1.3),
        ratio("one stream ÷ nginx", STREAM, US, (STREAM, "nginx-512k"), 1.0),
        ratio("one stream ÷ tusd", STREAM, US, (STREAM, "tusd"), 1.0),
        ratio("sixteen streams ÷ plain write + fsync", SIXTEEN, US, (SIXTEEN, "write + fsync"), 1.05),
        ratio("sixteen streams ÷ nginx", SIXTEEN, US, (SIXTEEN, "nginx-512k"), 1.0),
        ratio("sixteen streams ÷ tusd", SIXTEEN, US, (SIXTEEN, "tusd"), 1.0),
        most("CPU-s/GiB of one stream", STREAM_CPU, 0.55),
        ratio("creations ÷ tusd (which syncs nothing)", CREATIONS, US, (CREATIONS, "tusd"), 1.0),
        ratio("creations ÷ SQLite's own inserts", CREATIONS, US, (CREATIONS, "SQLite"), 0.25),
        ratio("small files ÷ the same syncs without HTTP, 16", SMALL_16, US, (SMALL_16, "syncs and transactions"), 0.7),
        most("cut to told offset, ms", CUT_MS, 20.0),
        most("bytes sent twice", CUT_TWICE, 0.0),
        Wanted {
            what: "final answer, 4 GiB ÷ 64 MiB",
            row: FINAL_4G,
            subject: US,
            against: Some((FINAL_64M, US)),
            at_least: false,
            limit: 3.0,
        },
        most("MiB with 1,000 bodies in flight", BODIES_MIB, 100.0),
        most("MiB with 10,000 open sessions", SESSIONS_MIB, 200.0),
        ratio("8 parts at once ÷ one stream", PARTS, US, (STREAM, US), 1.0),
        most(COMPLETE_64, COMPLETE_64, 20.0),
        most(COMPLETE_250, COMPLETE_250, 20.0),
        most(COMPLETE_8G, COMPLETE_8G, 20.0),
        most(COMPLETES, COMPLETES, 2.0),
        most("MiB with 64 parts in flight", PARTS_MIB, 150.0),
        most(LIST, LIST, 3.0),
        ratio("gateway into Garage ÷ parts straight to it", FAR, US, (FAR, "straight, best of 1 to 3 at once"), 0.8),
        most(FAR_MIB, FAR_MIB, 100.0),
        Wanted {
            what: "direct tickets/s on PostgreSQL, one replica",
            row: TICKETS,
            subject: DIRECT,
            against: None,
            at_least: true,
            limit: 1000.0,
        },
    ]
}

struct Options {
    runs: usize,
    data: PathBuf,
    nginx: Option<PathBuf>,
    tusd: Option<PathBuf>,
    garage: Option<PathBuf>,
    only: Option<String>,
}

fn options() -> Option<Options> {
    let mut options =
        Options { runs: 3, data: std::env::temp_dir(), nginx: None, tusd: None, garage: None, only: None };
    let mut arguments = std::env::args().skip(1);
    let mut measuring = false;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value");
        match argument.as_str() {
            "--measure" => measuring = true,
            "--runs" => options.runs = value().parse().expect("a number of runs"),
            "--data" => options.data = value().into(),
            "--nginx" => options.nginx = Some(value().into()),
            "--tusd" => options.tusd = Some(value().into()),
            "--garage" => options.garage = Some(value().into()),
            "--only" => options.only = Some(value()),
            // What cargo itself passes.
            _ => {}
        }
    }
    measuring.then_some(options)
}

fn main() {
    // Built by `cargo test --all-targets` and the like as well, which measure nothing.
    let Some(options) = options() else { return };
    let wants = |part: &str| options.only.as_deref().is_none_or(|only| only.split(',').any(|name| name == part));
    let mut table = Table::default();
    for run in 1..=options.runs {
        eprintln!("run {run} of {}", options.runs);
        let place = tempfile::Builder::new().prefix("landfall-bench-").tempdir_in(&options.data).expect("a directory");
        if wants("creations") {
            creations(&options, place.path(), &mut table);
        }
        if wants("streams") {
            streams(&options, place.path(), &mut table);
        }
        if wants("small") {
            small(place.path(), &mut table);
        }
        if wants("cut") {
            cut(place.path(), &mut table);
        }
        if wants("final") {
            final_answer(place.path(), &mut table);
        }
        if wants("memory") {
            memory(place.path(), &mut table);
        }
        if wants("parts") {
            in_parts(place.path(), &mut table);
        }
        if wants("lists") {
            lists(place.path(), &mut table);
        }
        if wants("far") {
            far_stream(&options, place.path(), &mut table);
        }
        if wants("tickets") {
            tickets(place.path(), &mut table);
        }
        if wants("pushes") {
            pushes(place.path(), &mut table);
        }
    }
    table.print(&wanted());
    if wants("rough") {
        rough(&options);
    }
}

/// A large file with ten cuts and a `kill -9` of the server on the way: what did that cost, and is it still the file?
fn rough(options: &Options) {
    let place = tempfile::Builder::new().prefix("landfall-bench-").tempdir_in(&options.data).expect("a directory");
    let data = place.path().join("rough");
    let mut server = peers::landfall(&data, "md5");
    let mut upload = load::Rough::open(&server.client(), 4096 * MIB, 8 * MIB);
    for cut in 1..=10u64 {
        upload.until(cut * 350 * MIB);
        upload.cut(cut * 613 * 1024 + 77);
        if cut == 6 {
            server = server.killed_and_started_again(&data);
        }
    }
    println!("\n{}", upload.end());
    server.stop();
}

fn landfall(place: &Path, name: &str, md5: bool) -> Server {
    peers::landfall(&place.join(name), if md5 { "md5" } else { "" })
}

fn creations(options: &Options, place: &Path, table: &mut Table) {
    const TIME: Duration = Duration::from_secs(4);
    table.add(CREATIONS, "SQLite", floors::sqlite_inserts(&place.join("floor.db"), TIME));
    let server = landfall(place, "creations", false);
    let rate = load::creations(&server.client(), 64, TIME);
    table.add(CREATIONS, US, rate.per_second);
    table.add("creations, p99 ms", US, rate.p99_ms);
    table.add("creations, CPU-ms each", US, server.cpu_seconds() * 1000.0 / rate.count);
    server.stop();
    if let Some(tusd) = &options.tusd {
        let server = peers::tusd(tusd, &place.join("tusd-creations"));
        let rate = load::tus_creations(server.port, 64, TIME);
        table.add(CREATIONS, "tusd", rate.per_second);
        server.stop();
    }
}

fn add_stream(table: &mut Table, rows: (&str, &str), subject: &str, sample: &Sample) {
    table.add(rows.0, subject, sample.megabytes_per_second());
    table.add(rows.1, subject, sample.cpu_per_gib());
}

fn streams(options: &Options, place: &Path, table: &mut Table) {
    let shapes = [((STREAM, STREAM_CPU), 1, 2048 * MIB), ((SIXTEEN, SIXTEEN_CPU), 16, 256 * MIB)];
    for (rows, count, size) in shapes {
        floors::warm(place);
        add_stream(table, rows, "write + fsync", &floors::write_and_sync(place, count, size));
        for (subject, md5) in [(US, false), (US_MD5, true)] {
            let server = landfall(place, "streams", md5);
            let sample = load::streams(&server, count, size, |client, size| client.upload_whole(size));
            add_stream(table, rows, subject, &sample);
            table.add("peak MiB of streams", subject, server.peak_mib());
            server.stop();
            floors::remove(&place.join("streams"));
        }
        if let Some(nginx) = &options.nginx {
            let server = peers::nginx(nginx, &place.join("nginx"));
            let sample =
                load::streams(&server, count, size, |client, size| client.put(size)).synced(&place.join("nginx"));
            add_stream(table, rows, "nginx-512k", &sample);
            server.stop();
            floors::remove(&place.join("nginx"));
        }
        if let Some(tusd) = &options.tusd {
            let server = peers::tusd(tusd, &place.join("tusd"));
            let sample =
                load::streams(&server, count, size, |client, size| client.tus(size)).synced(&place.join("tusd"));
            add_stream(table, rows, "tusd", &sample);
            server.stop();
            floors::remove(&place.join("tusd"));
        }
    }
}

fn small(place: &Path, table: &mut Table) {
    const FILES: usize = 1000;
    for (row, connections) in [(SMALL_1, 1), (SMALL_16, 16)] {
        let floor = floors::small_files(&place.join(format!("small-floor-{connections}")), FILES, connections);
        table.add(row, "syncs and transactions", floor);
        let server = landfall(place, &format!("small-{connections}"), false);
        // Once unmeasured: the first requests find nothing prepared.
        load::small_files(&server.client(), 50, connections);
        let rate = load::small_files(&server.client(), FILES, connections);
        table.add(row, US, rate);
        server.stop();
    }
}

fn cut(place: &Path, table: &mut Table) {
    let server = landfall(place, "cut", false);
    for time in 0..9 {
        let cut = load::cut(&server.client(), 256 * MIB, 20 * MIB + 7 * MIB * time + 1000);
        table.add(CUT_MS, US, cut.milliseconds);
        table.add(CUT_TWICE, US, cut.lost as f64);
    }
    server.stop();
}

fn final_answer(place: &Path, table: &mut Table) {
    let server = landfall(place, "final", false);
    for (row, size) in [(FINAL_64M, 64 * MIB), (FINAL_4G, 4096 * MIB)] {
        table.add(row, US, load::final_answer(&server.client(), size, 8 * MIB));
    }
    server.stop();
    floors::remove(&place.join("final"));
}

fn memory(place: &Path, table: &mut Table) {
    let server = landfall(place, "bodies", false);
    load::bodies_in_flight(&server.client(), 1000, 2 * MIB);
    table.add(BODIES_MIB, US, server.peak_mib());
    server.stop();
    floors::remove(&place.join("bodies"));
    let server = landfall(place, "sessions", false);
    load::open_sessions(&server.client(), 10_000, 300 * 1024);
    table.add(SESSIONS_MIB, US, server.peak_mib());
    server.stop();
    floors::remove(&place.join("sessions"));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn in_parts(place: &Path, table: &mut Table) {
    floors::warm(place);
    let mut completes = Vec::new();
    for (row, size, count, times) in
        [(COMPLETE_64, 2048 * MIB, 64, 3), (COMPLETE_250, 2048 * MIB, 250, 3), (COMPLETE_8G, 8192 * MIB, 16, 1)]
    {
        let server = landfall(place, "parts", false);
        let uploads: Vec<_> = (0..times).map(|_| parts::upload(&server.client(), size, count, 8)).collect();
        if row == COMPLETE_64 {
            let rates = uploads.iter().map(|upload| size as f64 / 1e6 / upload.seconds).collect();
            table.add(PARTS, US, median(rates));
        }
        completes.push(median(uploads.iter().map(|upload| upload.complete_ms).collect()));
        table.add(row, US, completes[completes.len() - 1]);
        server.stop();
        floors::remove(&place.join("parts"));
    }
    completes.sort_by(f64::total_cmp);
    table.add(COMPLETES, US, completes[completes.len() - 1] / completes[0]);
    let server = landfall(place, "parts", false);
    parts::in_flight(&server.client(), 64);
    table.add(PARTS_MIB, US, server.peak_mib());
    server.stop();
    floors::remove(&place.join("parts"));
}

/// Through the server into a store elsewhere, and straight to it from here.
fn far_stream(options: &Options, place: &Path, table: &mut Table) {
    const SIZE: u64 = 512 * MIB;
    let Some(program) = &options.garage else { return };
    let garage = far::garage(program, &place.join("garage"));
    // Once unmeasured: its first requests find nothing prepared.
    garage.straight(64 * MIB, 1);
    let straight = (1..=3).map(|at_once| garage.straight(SIZE, at_once));
    table.add(FAR, "straight, best of 1 to 3 at once", straight.fold(0.0, f64::max));
    let data = place.join("far");
    let server = peers::landfall_with(&data, &[("LANDFALL_DIGESTS", ""), ("LANDFALL_STORAGE", &garage.storage())]);
    let sample = load::streams(&server, 1, SIZE, |client, size| client.upload_whole(size));
    table.add(FAR, US, sample.megabytes_per_second());
    table.add(FAR_MIB, US, server.peak_mib());
    server.stop();
    garage.server.stop();
    floors::remove(&place.join("garage"));
}

/// On SQLite and on PostgreSQL; there also such that lead to a bucket, which is not asked for them.
fn tickets(place: &Path, table: &mut Table) {
    const TIME: Duration = Duration::from_secs(4);
    let database = postgres::Fresh::empty();
    let store = bucket::Store::start();
    let other = postgres::Fresh::empty();
    let (url, other, storage) = (database.url(), other.url(), store.url("bench"));
    let there = [("LANDFALL_DATABASE", &*url)];
    let direct = [("LANDFALL_DATABASE", &*other), ("LANDFALL_STORAGE", &*storage), ("LANDFALL_DIRECT", "native")];
    for (subject, settings) in [(US, &[][..]), ("landfall on PostgreSQL", &there), (DIRECT, &direct)] {
        let server = peers::landfall_with(&place.join(format!("tickets {subject}")), settings);
        load::tickets(&server.client(), 64, TIME / 8);
        drop(store.calls());
        let rate = load::tickets(&server.client(), 64, TIME);
        table.add(TICKETS, subject, rate.per_second);
        table.add("tickets, p99 ms", subject, rate.p99_ms);
        table.add("tickets, calls of the store", subject, store.calls().len() as f64);
        server.stop();
    }
}

/// Records of one batch, new and then sent again.
fn pushes(place: &Path, table: &mut Table) {
    const COUNT: usize = 5_000;
    let database = postgres::Fresh::empty();
    let url = database.url();
    let there = [("LANDFALL_DATABASE", &*url)];
    for (subject, settings) in [(US, &[][..]), ("landfall on PostgreSQL", &there)] {
        let server = peers::landfall_with(&place.join(format!("pushes {subject}")), settings);
        push::batch(&server.client(), "first", 100);
        for row in ["records/s of a push, new", "records/s of a push, sent again"] {
            let pushed = push::batch(&server.client(), "all", COUNT);
            table.add(row, subject, pushed.per_second);
            table.add(&format!("{row}, until they are kept"), subject, pushed.kept_per_second);
        }
        server.stop();
    }
}

fn lists(place: &Path, table: &mut Table) {
    const COUNT: u64 = 100_000;
    let data = place.join("lists");
    let server = landfall(place, "lists", false);
    catalogue::fill(&server.client(), COUNT);
    let mut slowest = 0f64;
    for filter in catalogue::filters(COUNT) {
        let row = format!("list of 1,000 by {}, ms", filter.name);
        let bare = catalogue::bare(&data.join("landfall.db"), &filter);
        let ours = catalogue::list(&server.client(), &filter);
        table.add(&row, "SQL", bare);
        table.add(&row, US, ours);
        slowest = slowest.max(ours / bare);
    }
    table.add(LIST, US, slowest);
    server.stop();
    floors::remove(&data);
}

/// A client of the server that is measured.
impl Server {
    fn client(&self) -> Client {
        Client { port: self.port, key: self.key.clone() }
    }
}
