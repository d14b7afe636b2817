//! Bytes are moved from one place to another while clients upload and download, and nobody notices.

mod beside;
mod storm;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::backups::UPLOADS;
use crate::bucket::{Harm, Store};
use crate::harness::{client, noise};
use crate::postgres::Fresh;
use crate::process::{Place, Running, at_database, on_disk};

/// Ends the sweeper's hour of waiting.
const NOW: &str = "sweep.agreement=return(skip)";
const MIB: usize = 1 << 20;

/// `landfall admin move` with the configuration of this place.
fn moving(place: &Place, from: &str, to: &str, more: &[&str]) -> Command {
    let mut command = place.command();
    command.args(["admin", "move", "--from", from, "--to", to]).args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a run says, if it came to its end, and else why it did not.
pub(crate) async fn moved(place: &Place, from: &str, to: &str, more: &[&str]) -> Result<Value, String> {
    let mut command = moving(place, from, to, more);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the built binary");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no line of JSON: {said}"))),
        false => Err(said),
    }
}

/// The same place, writing there and knowing those as well.
pub(crate) fn writing(place: &Place, storage: &str, more: &[&str]) -> Place {
    Place { storage: storage.into(), more_storage: more.join(" "), ..place.clone() }
}

pub(crate) async fn serving(place: &Place, key: &str) -> Running {
    let mut running = place.serve().await.unwrap();
    key.clone_into(&mut running.key);
    running
}

/// A deleted replacement, which is due an hour later, is gone.
async fn swept(place: &Place, key: &str, gone: impl Fn() -> bool) {
    let later = Place { later: 2 * 3600, ..place.clone() };
    let mut running = later.serve_with(NOW).await.unwrap();
    key.clone_into(&mut running.key);
    for _ in 0..1_000 {
        if gone() {
            return running.kill();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("what was moved is not deleted: {}", running.log());
}

fn on_the_disk(place: &Place) -> usize {
    fn below(folder: &Path) -> usize {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| if entry.path().is_dir() { below(&entry.path()) } else { 1 }).sum()
    }
    below(&place.data.join("blobs"))
}

fn in_the_bucket(store: &Store, prefix: &str) -> usize {
    store.objects(prefix).into_iter().filter(|(key, _)| !key.ends_with("/owner")).count()
}

async fn whole(place: &Place) -> String {
    let (whole, said) = place.doctor().await;
    assert!(whole, "{said}");
    said
}

async fn committed(running: &Running, upload: &Value) {
    running.json("POST", &format!("{UPLOADS}/{}/commit", upload["id"].as_str().unwrap()), &json!({}), 200).await;
}

async fn part(running: &Running, upload: &Value, number: usize, bytes: &[u8]) {
    let url = upload["part_urls"][number - 1].as_str().unwrap();
    running.call("PUT", url, &[], bytes.to_vec()).await.expect(200);
}

/// Uploads and downloads of a service whose bytes are moved from one place to another, and back.
async fn nobody_notices(start: &Place, store: &Store, other: &str) {
    let (disk, bucket) = (start.storage.clone(), other.to_owned());
    let running = start.serve().await.unwrap().with_first_key().await;
    let key = running.key.clone();
    let mut kept = Vec::new();
    for (index, length) in [0, 1, 70_000, 9 * MIB].into_iter().enumerate() {
        let bytes = noise(length);
        kept.push((running.uploaded(&format!("{index}"), &bytes).await, bytes));
    }
    // Of several pieces, in both ways.
    let chunked = noise(3 * MIB);
    let upload = running.opened("chunked", "resumable", chunked.len()).await;
    assert_eq!(running.chunk(&upload, &chunked, 0, MIB).await, 308);
    assert_eq!(running.chunk(&upload, &chunked, MIB, 3 * MIB).await, 200);
    kept.push((upload, chunked.clone()));
    // In progress while the places change.
    let long = noise(14 * MIB);
    let session = running.opened("session", "resumable", long.len()).await;
    assert_eq!(running.chunk(&session, &long, 0, 5 * MIB).await, 308);
    let ask = json!({ "name": "parts", "size": 12 * MIB, "strategy": "multipart", "parts": 2 });
    let parts = running.json("POST", UPLOADS, &ask, 201).await;
    part(&running, &parts, 1, &long[..6 * MIB]).await;
    drop(running);

    // First every process learns to read the new place; then it is written to.
    drop(serving(&writing(start, &disk, &[&bucket]), &key).await);
    let both = writing(start, &bucket, &[&disk]);
    let running = serving(&both, &key).await;
    for (upload, bytes) in &kept {
        assert!(running.content(upload).await == (200, bytes.clone()));
    }
    // A download that has begun before its bytes are moved comes to its end.
    let url =
        format!("http://{}/landfall/v1/files/{}/content", running.address, kept[3].0["file_id"].as_str().unwrap());
    let slow = client().get(url).header("X-API-Key", &key).send().await.unwrap();
    let mut slow = slow.bytes_stream();
    let mut downloaded = slow.next().await.unwrap().unwrap().to_vec();
    let said = moved(&both, &disk, &bucket, &[]).await.unwrap();
    assert_eq!((&said["left"], &said["uploads"], &said["damaged"]), (&json!(0), &json!(2), &json!(0)), "{said}");
    // An empty file has no piece, or an empty one.
    assert!(said["moved"].as_u64().unwrap() >= 5 && said["bytes"] == json!(1 + 70_000 + 12 * MIB), "{said}");
    while let Some(bytes) = slow.next().await {
        downloaded.extend_from_slice(&bytes.unwrap());
    }
    assert!(downloaded == kept[3].1);
    // What was in progress goes on, with bytes at both places.
    assert_eq!(running.chunk(&session, &long, 5 * MIB, 9 * MIB).await, 308);
    assert_eq!(running.chunk(&session, &long, 9 * MIB, 14 * MIB).await, 200);
    part(&running, &parts, 2, &long[6 * MIB..12 * MIB]).await;
    committed(&running, &parts).await;
    kept.push((session, long.clone()));
    kept.push((parts, long[..12 * MIB].to_vec()));
    let fresh = running.uploaded("fresh", &noise(1234)).await;
    kept.push((fresh, noise(1234)));
    for (upload, bytes) in &kept {
        assert!(running.content(upload).await == (200, bytes.clone()));
    }
    whole(&both).await;
    let said = moved(&both, &disk, &bucket, &[]).await.unwrap();
    assert_eq!((&said["left"], &said["uploads"]), (&json!(0), &json!(0)), "{said}");
    assert_eq!(said["bytes"], json!(5 * MIB + 6 * MIB), "{said}");
    let said = moved(&both, &disk, &bucket, &[]).await.unwrap();
    assert_eq!((&said["moved"], &said["left"]), (&json!(0), &json!(0)), "repeated, there is nothing to do: {said}");
    for (upload, bytes) in &kept {
        assert!(running.content(upload).await == (200, bytes.clone()));
    }
    whole(&both).await;
    drop(running);
    // What was copied goes an hour later; then the old place can be left out.
    swept(&both, &key, || on_the_disk(start) == 0).await;
    let alone = writing(start, &bucket, &[]);
    let running = serving(&alone, &key).await;
    for (upload, bytes) in &kept {
        assert!(running.content(upload).await == (200, bytes.clone()));
    }
    let said = whole(&alone).await;
    assert!(said.contains("; 0 segments without a row; 0 invariants"), "{said}");
    drop(running);

    // And back.
    drop(serving(&writing(start, &bucket, &[&disk]), &key).await);
    let back = writing(start, &disk, &[&bucket]);
    let running = serving(&back, &key).await;
    let said = moved(&back, &bucket, &disk, &["--parallel", "2"]).await.unwrap();
    assert_eq!((&said["left"], &said["uploads"], &said["damaged"]), (&json!(0), &json!(0), &json!(0)), "{said}");
    for (upload, bytes) in &kept {
        assert!(running.content(upload).await == (200, bytes.clone()));
    }
    drop(running);
    swept(&back, &key, || in_the_bucket(store, "there/") == 0).await;
    let running = serving(start, &key).await;
    for (upload, bytes) in &kept {
        assert!(running.content(upload).await == (200, bytes.clone()));
    }
    let said = whole(start).await;
    assert!(said.contains("; 0 segments without a row; 0 invariants"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_bytes_move_to_a_bucket_and_back() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Store::start());
    nobody_notices(&on_disk(folder.path()), &store, &store.url("there")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_with_facts_in_a_database() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Store::start());
    let database = tokio::task::spawn_blocking(Fresh::empty).await.unwrap();
    let place = Place { database: Some(database.url()), ..on_disk(folder.path()) };
    nobody_notices(&place, &store, &store.url("there")).await;
    drop(database);
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_change_places_one_after_the_other() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Store::start());
    let database = tokio::task::spawn_blocking(Fresh::empty).await.unwrap();
    let (here, there) = (store.url("here"), store.url("there"));
    let [one, two] = ["one", "two"].map(|name| at_database(folder.path(), name, &database, &here));
    let mut first = one.serve().await.unwrap().with_first_key().await;
    let key = first.key.clone();
    let mut second = serving(&two, &key).await;
    let mut kept = Vec::new();
    let mut upload = async |running: &Running, length: usize| {
        let name = format!("{}", kept.len());
        kept.push((running.uploaded(&name, &noise(length)).await, noise(length)));
        kept.clone()
    };
    upload(&first, 1000).await;
    let long = noise(3 * MIB);
    let session = second.opened("session", "resumable", long.len()).await;
    assert_eq!(second.chunk(&session, &long, 0, MIB).await, 308);
    let everywhere = async |running: [&Running; 2], kept: &[(Value, Vec<u8>)]| {
        for (upload, bytes) in kept {
            for running in running {
                assert!(running.content(upload).await == (200, bytes.clone()));
            }
        }
    };
    // Both learn to read the new place, then one after the other writes to it.
    let (known, after) =
        (|place: &Place| writing(place, &here, &[&there]), |place: &Place| writing(place, &there, &[&here]));
    first.kill();
    first = serving(&known(&one), &key).await;
    upload(&second, 2000).await;
    second.kill();
    second = serving(&known(&two), &key).await;
    first.kill();
    first = serving(&after(&one), &key).await;
    upload(&first, 3000).await;
    let all = upload(&second, 4000).await;
    everywhere([&first, &second], &all).await;
    // A session goes on at the other process, which writes elsewhere, and back.
    assert_eq!(first.chunk(&session, &long, MIB, 2 * MIB).await, 308);
    let said = moved(&after(&one), &here, &there, &[]).await.unwrap();
    assert_eq!((&said["moved"], &said["left"], &said["uploads"]), (&json!(3), &json!(0), &json!(1)), "{said}");
    assert_eq!(second.chunk(&session, &long, 2 * MIB, 3 * MIB).await, 200);
    let mut all = upload(&second, 5000).await;
    all.push((session, long));
    everywhere([&first, &second], &all).await;
    second.kill();
    second = serving(&after(&two), &key).await;
    let said = moved(&after(&two), &here, &there, &[]).await.unwrap();
    assert_eq!((&said["moved"], &said["left"], &said["uploads"]), (&json!(3), &json!(0), &json!(0)), "{said}");
    everywhere([&first, &second], &all).await;
    whole(&after(&one)).await;
    let alone = |place: &Place| writing(place, &there, &[]);
    first.kill();
    first = serving(&alone(&one), &key).await;
    second.kill();
    second = serving(&alone(&two), &key).await;
    everywhere([&first, &second], &all).await;
    whole(&alone(&two)).await;
    drop(database);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_left_out_only_when_nothing_needs_it() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Store::start());
    let disk = on_disk(folder.path());
    let running = disk.serve().await.unwrap().with_first_key().await;
    let key = running.key.clone();
    let upload = running.uploaded("a", b"12345").await;
    drop(running);
    let (there, then) = (store.url("there"), store.url("then"));
    let refused = |said: Result<Value, String>, words: &[&str]| {
        let said = said.unwrap_err();
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    };
    refused(moved(&disk, "disk", &there, &[]).await, &["s3://bytes/there/", "configured"]);
    let known = writing(&disk, "disk", &[&there]);
    refused(moved(&known, "disk", &there, &[]).await, &["s3://bytes/there/", "no server was started with it"]);
    let twice = writing(&disk, "disk", &[&there, &there.replace("eu-test-1", "eu-test-2")]).serve().await;
    assert!(twice.as_ref().is_err_and(|said| said.contains("`more_storage`") && said.contains("once")), "{twice:?}");
    // A process that writes to another place than the last one did must know that.
    let alone = writing(&disk, &there, &[]);
    for said in [alone.serve().await.unwrap_err(), alone.doctor().await.1] {
        assert!(said.contains("on the disk") && said.contains("`more_storage`"), "{said}");
    }
    assert!(store.objects("there/").is_empty(), "nothing is made where nothing belongs");
    drop(serving(&known, &key).await);
    refused(moved(&known, "disk", "disk", &[]).await, &["on the disk", "they are there"]);
    refused(moved(&known, "disk", "s4://x", &[]).await, &["`--to` can't be `s4://x`", "s3://"]);
    refused(moved(&known, "disk", &there, &["--rate", "slow"]).await, &["`--rate`", "50MiB"]);
    refused(moved(&known, "disk", &then, &[]).await, &["s3://bytes/then/", "configured"]);
    let both = writing(&disk, &there, &["disk"]);
    drop(serving(&both, &key).await);
    // Nobody writes there any more, but a row names bytes there.
    for said in [alone.serve().await.unwrap_err(), alone.doctor().await.1] {
        assert!(said.contains("on the disk") && said.contains("landfall admin move"), "{said}");
    }
    let running = serving(&both, &key).await;
    assert_eq!(running.content(&upload).await, (200, b"12345".to_vec()));
    let said = moved(&both, "disk", "s3://bytes/there", &[]).await.unwrap();
    assert_eq!((&said["moved"], &said["left"], &said["to_delete"]), (&json!(1), &json!(0), &json!(1)), "{said}");
    drop(running);
    let running = serving(&alone, &key).await;
    assert_eq!(running.content(&upload).await, (200, b"12345".to_vec()));
    drop(running);
    // It is not there any more for a server that was started without it.
    refused(moved(&both, &there, "disk", &[]).await, &["on the disk", "no server was started with it"]);
    // A copy of a place that is not the first one is known by its owner's mark.
    for (name, _) in store.objects("there/") {
        store.copy(&name, &name.replace("there/", "then/"));
    }
    let copy = writing(&disk, &then, &[]);
    let running = serving(&copy, &key).await;
    assert_eq!(running.content(&upload).await, (200, b"12345".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_takes_no_more_than_its_share_and_stops_when_told() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Store::start());
    let there = store.url("there");
    let disk = on_disk(folder.path());
    let known = writing(&disk, "disk", &[&there]);
    let running = known.serve().await.unwrap().with_first_key().await;
    let mut kept = Vec::new();
    for index in 0..6 {
        kept.push(running.uploaded(&format!("{index}"), &noise(MIB)).await);
    }
    let began = Instant::now();
    let mut first = moving(&known, "disk", &there, &["--rate", "512KiB", "--parallel", "1"]).spawn().unwrap();
    for _ in 0..1_000 {
        if in_the_bucket(&store, "there/") > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The first quarter of a MiB waits for nobody.
    assert!(began.elapsed() >= Duration::from_millis(1_500), "{:?}", began.elapsed());
    let pid = rustix::process::Pid::from_child(&first);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = tokio::task::spawn_blocking(move || {
        first.wait().unwrap();
        first.wait_with_output().unwrap()
    });
    let output = output.await.unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let done = said["moved"].as_u64().unwrap();
    assert!(output.status.success() && said["stopped"] == json!(true) && (1..6).contains(&done), "{said}");
    assert_eq!(said["left"], json!(6 - done), "{said}");
    let began = Instant::now();
    let said = moved(&known, "disk", &there, &["--rate", "2MiB"]).await.unwrap();
    assert_eq!((&said["moved"], &said["left"], &said["stopped"]), (&json!(6 - done), &json!(0), &json!(false)));
    // Four at once, whose first quarters wait for each other.
    assert!(began.elapsed() >= Duration::from_millis(500 * (6 - done) - 125), "{said}");
    for upload in &kept {
        assert!(running.content(upload).await == (200, noise(MIB)));
    }
    whole(&known).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_left_and_told() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Store::start());
    let (here, there) = (store.url("here"), store.url("there"));
    let place = writing(&on_disk(folder.path()), &here, &[&there]);
    let running = place.serve().await.unwrap().with_first_key().await;
    let mut names = BTreeMap::new();
    for (index, name) in ["damaged", "lost", "good"].into_iter().enumerate() {
        let before: Vec<_> = store.objects("here/").into_iter().map(|(key, _)| key).collect();
        let upload = running.uploaded(name, &noise(100 + index)).await;
        let key = store.objects("here/").into_iter().map(|(key, _)| key).find(|key| !before.contains(key)).unwrap();
        names.insert(name, (upload, key));
    }
    store.damage(&names["damaged"].1, 7);
    store.lose(&names["lost"].1);
    let said = moved(&place, &here, &there, &[]).await.unwrap_err();
    assert!(said.contains("are damaged") && said.contains("is not there") && said.contains("doctor"), "{said}");
    assert!(running.content(&names["good"].0).await == (200, noise(102)));
    assert_eq!(in_the_bucket(&store, "there/"), 1, "no copy is made of what is damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_fails_ends_a_run_and_changes_nothing() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Store::start());
    let there = store.url("there");
    let place = writing(&on_disk(folder.path()), "disk", &[&there]);
    let running = place.serve().await.unwrap().with_first_key().await;
    let upload = running.uploaded("a", &noise(MIB)).await;
    // It can't be written to, it loses what it took, or it can't be read.
    for (what, code) in [("PutObject", "SlowDown"), ("HeadObject", "SlowDown"), ("GetObject", "InternalError")] {
        store.harm(what, u32::MAX, Harm::Refuse(503, code));
        let said = moved(&place, "disk", &there, &[]).await.unwrap_err();
        // Before anything is moved the place is asked whose it is.
        let remedy = if what == "PutObject" { "Repeated, the command goes on" } else { "can't be used" };
        assert!(said.contains(what) && said.contains(remedy), "{said}");
        store.spare();
        assert!(running.content(&upload).await == (200, noise(MIB)));
        assert_eq!(on_the_disk(&place), 1);
    }
    // Nor onto a disk that has less than it is to keep free.
    let said = moved(&place, "disk", &there, &[]).await.unwrap();
    assert_eq!((&said["moved"], &said["left"]), (&json!(1), &json!(0)), "{said}");
    let mut back = moving(&place, &there, "disk", &[]);
    back.env("LANDFALL_FREE_SPACE_MIN", "1000TiB");
    let output = tokio::task::spawn_blocking(move || back.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("no space left"), "{said}");
    assert!(running.content(&upload).await == (200, noise(MIB)));
    whole(&place).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_send_to_a_bucket_go_on_where_they_began() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Store::start());
    let (here, there) = (store.url("here"), store.url("there"));
    let place = Place { direct: "native".into(), ..writing(&on_disk(folder.path()), &here, &[&there]) };
    let running = place.serve().await.unwrap().with_first_key().await;
    let key = running.key.clone();
    let http = client();
    let put = async |upload: &Value, url: &Value, bytes: &[u8]| {
        let mut request = http.put(url.as_str().unwrap()).body(bytes.to_vec());
        for (name, value) in upload["required_headers"].as_object().into_iter().flatten() {
            request = request.header(name, value.as_str().unwrap());
        }
        request.send().await.unwrap().status().as_u16()
    };
    let bytes = noise(12 * MIB);
    let before = running.opened("before", "single", bytes.len()).await;
    assert_eq!(put(&before, &before["url"], &bytes).await, 200);
    committed(&running, &before).await;
    let single = running.opened("single", "single", bytes.len()).await;
    let ask = json!({ "name": "parts", "size": bytes.len(), "strategy": "multipart", "parts": 2 });
    let parts = running.json("POST", UPLOADS, &ask, 201).await;
    assert_eq!(put(&parts, &parts["part_urls"][0], &bytes[..6 * MIB]).await, 200);
    drop(running);

    let after = Place { direct: "native".into(), ..writing(&place, &there, &[&here]) };
    let running = serving(&after, &key).await;
    let said = moved(&after, &here, &there, &[]).await.unwrap();
    assert_eq!((&said["moved"], &said["left"], &said["uploads"]), (&json!(1), &json!(0), &json!(2)), "{said}");
    assert!(running.content(&before).await == (200, bytes.clone()));
    committed(&running, &before).await;
    // The same location for their whole life.
    let again = running.json("GET", &format!("{UPLOADS}/{}", single["id"].as_str().unwrap()), &json!({}), 200).await;
    assert_eq!(again["state"], "open", "{again}");
    assert_eq!(put(&single, &single["url"], &bytes).await, 200);
    committed(&running, &single).await;
    assert_eq!(put(&parts, &parts["part_urls"][1], &bytes[6 * MIB..]).await, 200);
    committed(&running, &parts).await;
    assert_eq!(in_the_bucket(&store, "here/"), 3, "nothing of theirs went elsewhere");
    // A new one goes to the new place.
    let fresh = running.opened("fresh", "single", 5).await;
    assert!(fresh["url"].as_str().unwrap().contains("/there/"), "{fresh}");
    assert_eq!(put(&fresh, &fresh["url"], b"12345").await, 200);
    committed(&running, &fresh).await;
    whole(&after).await;
    let said = moved(&after, &here, &there, &[]).await.unwrap();
    assert_eq!((&said["moved"], &said["left"], &said["uploads"]), (&json!(2), &json!(0), &json!(0)), "{said}");
    for upload in [&before, &single, &parts] {
        assert!(running.content(upload).await == (200, bytes.clone()));
        committed(&running, upload).await;
    }
    whole(&after).await;
    drop(running);
    swept(&after, &key, || in_the_bucket(&store, "here/") == 0).await;
    // From a bucket to the disk: what is sent to the bucket meanwhile is found.
    let late = Place { direct: "native".into(), ..writing(&place, &there, &["disk"]) };
    let running = serving(&late, &key).await;
    let single = running.opened("last", "single", bytes.len()).await;
    drop(running);
    let disk = Place { direct: String::new(), ..writing(&place, "disk", &[&there]) };
    let running = serving(&disk, &key).await;
    assert_eq!(put(&single, &single["url"], &bytes).await, 200);
    committed(&running, &single).await;
    let said = moved(&disk, &there, "disk", &[]).await.unwrap();
    assert_eq!((&said["moved"], &said["left"], &said["uploads"]), (&json!(5), &json!(0), &json!(0)), "{said}");
    for upload in [&before, &single, &parts] {
        assert!(running.content(upload).await == (200, bytes.clone()));
    }
    whole(&disk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_s_newest_body_is_told_by_its_name_until_its_hour_is_over() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Store::with_versions());
    let (here, there) = (store.url("here"), store.url("there"));
    let place = Place { direct: "coveo".into(), ..writing(&on_disk(folder.path()), &here, &[&there]) };
    let running = place.serve().await.unwrap().with_first_key().await;
    let container = running.json("POST", "/push/v1/organizations/default/files", &json!({}), 201).await;
    let file = container["fileId"].as_str().unwrap();
    let put = async |bytes: &'static str| {
        let request = client().put(container["uploadUri"].as_str().unwrap()).body(bytes);
        let request = request.header("x-amz-server-side-encryption", "AES256");
        let sent = request.header("Content-Type", "application/octet-stream").send().await.unwrap();
        assert_eq!(sent.status().as_u16(), 200);
    };
    let push = async |document: &str| {
        let path =
            format!("/push/v1/organizations/default/sources/default-files/documents?documentId=test:%2F%2F{document}");
        running.json("PUT", &path, &json!({ "CompressedBinaryDataFileId": file }), 202).await
    };
    put("first").await;
    let request = push("a").await;
    let said = moved(&place, &here, &there, &[]).await.unwrap();
    assert_eq!((&said["moved"], &said["left"], &said["uploads"]), (&json!(0), &json!(1), &json!(1)), "{said}");
    // Used is final, whatever comes.
    put("second").await;
    assert_eq!(push("a").await["requestId"], request["requestId"]);
    whole(&place).await;
}
