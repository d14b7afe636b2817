//! An older backup of the database in front of newer bytes: nothing is lost without a word, and nothing is deleted before
//! somebody could look.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bucket::Store;
use crate::harness::noise;
use crate::moves::{moved, serving, writing};
use crate::postgres::Fresh;
use crate::process::{Place, Running, on_disk};

pub(crate) const UPLOADS: &str = "/landfall/v1/uploads";
const GRANULE: usize = 256 * 1024;
const DAY: u64 = 24 * 3600;

/// Facts and bytes, and how an operator saves and restores the facts.
struct Installation {
    place: Place,
    folder: tempfile::TempDir,
    bucket: Option<Store>,
    database: Option<Fresh>,
}

impl Installation {
    fn on_disk() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { place: on_disk(folder.path()), folder, bucket: None, database: None }
    }

    fn beyond_one_machine() -> Self {
        let (folder, bucket, database) = (tempfile::tempdir().unwrap(), Store::start(), Fresh::empty());
        let place = Place { database: Some(database.url()), storage: bucket.url("here"), ..on_disk(folder.path()) };
        Self { place, folder, bucket: Some(bucket), database: Some(database) }
    }

    fn copy(&self) -> PathBuf {
        self.folder.path().join("copy")
    }

    /// As the manual says it, while the server runs.
    fn save(&self) {
        match &self.database {
            Some(database) => database.dump(&self.copy()),
            None => {
                let facts = rusqlite::Connection::open(self.place.data.join("landfall.db")).unwrap();
                facts.execute("VACUUM INTO ?1", [self.copy().to_str().unwrap()]).unwrap();
            }
        }
    }

    /// As the manual says it, while no server runs.
    fn restore(&self) {
        match &self.database {
            Some(database) => database.restore(&self.copy()),
            None => {
                for entry in std::fs::read_dir(&self.place.data).unwrap().flatten() {
                    let name = entry.file_name().into_string().unwrap();
                    if name.starts_with("landfall.db") || name.starts_with("search.db") {
                        std::fs::remove_file(entry.path()).unwrap();
                    }
                }
                std::fs::copy(self.copy(), self.place.data.join("landfall.db")).unwrap();
            }
        }
    }

    /// Lets the database believe that it was last swept so long ago.
    fn is_from(&self, hours: u64) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let swept = format!("{} 7200000", now.as_millis() - u128::from(hours) * 3_600_000);
        let changed = match &self.database {
            Some(database) => database.sql(&format!(
                "UPDATE settings SET value = '{swept}'::bytea WHERE name = 'sweep' RETURNING 1; DELETE FROM settings WHERE name = 'unswept'"
            )),
            None => {
                let facts = rusqlite::Connection::open(self.place.data.join("landfall.db")).unwrap();
                facts.execute("DELETE FROM settings WHERE name = 'unswept'", []).unwrap();
                let sql = "UPDATE settings SET value = ?1 WHERE name = 'sweep'";
                facts.execute(sql, [swept.into_bytes()]).unwrap().to_string()
            }
        };
        assert_eq!(changed, "1", "it has been swept");
    }

    /// The names of all segments that have bytes.
    fn segments(&self) -> BTreeSet<String> {
        match &self.bucket {
            Some(bucket) => {
                let objects = bucket.objects("here/").into_iter().map(|(key, _)| key);
                let own = |key: String| key.trim_start_matches("here/").split('.').next().unwrap().to_owned();
                objects.chain(bucket.uploads("here/")).map(own).filter(|key| key != "owner").collect()
            }
            None => files_below(&self.place.data.join("blobs")),
        }
    }
}

fn files_below(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path().is_dir() {
            true => found.extend(files_below(&entry.path())),
            false => _ = found.insert(entry.file_name().into_string().unwrap()),
        }
    }
    found
}

impl Running {
    pub(crate) async fn opened(&self, name: &str, strategy: &str, size: usize) -> Value {
        self.json("POST", UPLOADS, &json!({ "name": name, "size": size, "strategy": strategy }), 201).await
    }

    pub(crate) async fn uploaded(&self, name: &str, bytes: &[u8]) -> Value {
        let upload = self.opened(name, "single", bytes.len()).await;
        self.call("PUT", upload["url"].as_str().unwrap(), &[], bytes.to_vec()).await.expect(200);
        self.json("POST", &format!("{UPLOADS}/{}/commit", upload["id"].as_str().unwrap()), &json!({}), 200).await;
        upload
    }

    pub(crate) async fn chunk(&self, upload: &Value, bytes: &[u8], from: usize, to: usize) -> u16 {
        let range = format!("bytes {from}-{}/{}", to - 1, bytes.len());
        let url = upload["url"].as_str().unwrap();
        self.call("PUT", url, &[("Content-Range", &range)], bytes[from..to].to_vec()).await.status
    }

    pub(crate) async fn content(&self, upload: &Value) -> (u16, Vec<u8>) {
        let path = format!("/landfall/v1/files/{}/content", upload["file_id"].as_str().unwrap());
        let reply = self.call("GET", &path, &[], "").await;
        (reply.status, reply.body)
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} does not come to be");
}

async fn an_older_backup(made: fn() -> Installation) {
    let here = tokio::task::spawn_blocking(made).await.unwrap();
    let mut server = here.place.serve().await.unwrap().with_first_key().await;
    let (kept, doomed, later, long) = (noise(300_000), noise(300_001), noise(300_002), noise(3 * GRANULE + 5));
    let kept_upload = server.uploaded("kept.bin", &kept).await;
    let doomed_upload = server.uploaded("doomed.bin", &doomed).await;
    let session = server.opened("long.bin", "resumable", long.len()).await;
    assert_eq!(server.chunk(&session, &long, 0, GRANULE).await, 308);
    let before = here.segments();
    here.save();

    // Life goes on.
    let later_upload = server.uploaded("later.bin", &later).await;
    let key = server.key.clone();
    server.kill();
    server = here.place.serve().await.unwrap();
    server.key.clone_from(&key);
    assert_eq!(server.chunk(&session, &long, GRANULE, 2 * GRANULE).await, 308);
    assert_eq!(server.chunk(&session, &long, 2 * GRANULE, long.len()).await, 200);
    let doomed_file = doomed_upload["file_id"].as_str().unwrap().to_owned();
    server.call("DELETE", &format!("/landfall/v1/files/{doomed_file}"), &[], "").await.expect(204);
    server.kill();
    // Who reads a file may go on for an hour.
    let in_hours = Place { later: 2 * 3600, ..here.place.clone() };
    server = in_hours.serve().await.unwrap();
    until("the end of a deleted file's bytes", || !before.is_subset(&here.segments())).await;
    server.kill();
    let bytes = here.segments();
    let unnamed: Vec<&String> = bytes.difference(&before).collect();
    assert!(unnamed.len() >= 2, "{before:?}, {bytes:?}");

    // Somebody restores the older state.
    here.restore();
    let names_everything = |(whole, said): (bool, String)| {
        assert!(!whole, "{said}");
        let broken = |what: &str| said.lines().any(|line| line.starts_with("broken:") && line.contains(what));
        assert!(broken(&doomed_file) && broken("doomed.bin") && broken("bytes are lost"), "{said}");
        assert!(!said.contains("kept.bin"), "{said}");
        for segment in &unnamed {
            assert!(said.contains(segment.as_str()), "{segment} is not named: {said}");
        }
        assert!(broken("may be an older backup"), "{said}");
    };
    names_everything(here.place.doctor().await);

    // It is from some hours ago, and the bytes are older than a day by now: a sweep has every reason but one.
    here.is_from(3);
    let in_days = |days: u64| Place { later: days * DAY, ..here.place.clone() };
    names_everything(in_days(2).doctor().await);
    for _ in 0..2 {
        server = in_days(2).serve_with("sweep.agreement=return(skip)").await.unwrap();
        until("a sweep", || server.log().contains("were written while this database was not in use")).await;
        server.key.clone_from(&key);
        assert!(server.content(&kept_upload).await == (200, kept.clone()));
        assert_eq!(server.content(&later_upload).await.0, 404);
        // A client that was in the middle is told what the older state knows, and goes on from there.
        let total = format!("bytes */{}", long.len());
        let asked = server.call("PUT", session["url"].as_str().unwrap(), &[("Content-Range", &total)], "").await;
        assert_eq!((asked.status, asked.header("range")), (308, Some(format!("bytes=0-{}", GRANULE - 1).as_str())));
        server.kill();
        assert!(unnamed.iter().all(|segment| here.segments().contains(*segment)), "bytes without a row are gone");
        names_everything(in_days(2).doctor().await);
    }
    server = in_days(2).serve().await.unwrap();
    server.key.clone_from(&key);
    assert_eq!(server.chunk(&session, &long, GRANULE, long.len()).await, 200);
    assert!(server.content(&session).await == (200, long));
    server.kill();

    // Whoever has not looked for a day does not want them.
    server = in_days(4).serve_with("sweep.agreement=return(skip)").await.unwrap();
    until("the end of bytes without a row", || !unnamed.iter().any(|segment| here.segments().contains(*segment))).await;
    server.kill();
    let (_, said) = in_days(4).doctor().await;
    assert!(said.contains("; 0 segments without a row; ") && said.contains("doomed.bin"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_before_newer_bytes_on_a_disk() {
    an_older_backup(Installation::on_disk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_before_newer_bytes_in_a_bucket() {
    an_older_backup(Installation::beyond_one_machine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_from_before_a_move_is_no_match_for_the_new_place() {
    let here = tokio::task::spawn_blocking(Installation::beyond_one_machine).await.unwrap();
    let store = here.bucket.as_ref().unwrap();
    let (old, new, newer) = (here.place.storage.clone(), store.url("there"), store.url("then"));
    let running = here.place.serve().await.unwrap().with_first_key().await;
    let key = running.key.clone();
    let upload = running.uploaded("a", b"12345").await;
    drop(running);
    here.save();
    let after = writing(&here.place, &new, &[&old]);
    drop(serving(&after, &key).await);
    let said = moved(&after, &old, &new, &[]).await.unwrap();
    assert_eq!((&said["moved"], &said["left"]), (&json!(1), &json!(0)), "{said}");
    here.restore();
    // The database knows nothing of the place that bytes were moved to, and takes it neither for a copy nor for a new one.
    let alone = writing(&here.place, &new, &[]);
    for said in [alone.serve().await.unwrap_err(), alone.doctor().await.1, after.serve().await.unwrap_err()] {
        assert!(said.contains("later state"), "{said}");
    }
    for place in [here.place.clone(), writing(&here.place, &newer, &[&old])] {
        let running = serving(&place, &key).await;
        assert_eq!(running.content(&upload).await, (200, b"12345".to_vec()));
    }
}
