//! A database remembers where its bytes are, and who looks elsewhere is refused before a port is bound.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::bucket::Store;
use crate::harness::noise;
use crate::moves::{moved, serving, writing};
use crate::postgres::Fresh;
use crate::process::{Place, at_database, continued, on_disk, stopped_at};

async fn fresh() -> Fresh {
    tokio::task::spawn_blocking(Fresh::empty).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_on_a_disk_are_one_process_s() {
    let (folder, database) = (tempfile::tempdir().unwrap(), fresh().await);
    let one = Place { database: Some(database.url()), ..on_disk(folder.path()) };
    let mut running = one.serve().await.unwrap();
    let name = std::fs::read_to_string(one.data.join("storage")).unwrap().trim().to_owned();
    let other = Place { data: folder.path().join("other"), ..one.clone() };
    let said = other.serve().await.unwrap_err();
    let shown = other.data.display().to_string();
    assert!(said.contains(&name) && said.contains(&shown) && said.contains("need a bucket"), "{said}");
    assert!(!other.data.join("storage").exists(), "nothing is made where nothing belongs");
    let (whole, said) = other.doctor().await;
    assert!(!whole && said.contains(&name) && said.contains(&shown), "{said}");
    let (whole, said) = one.doctor().await;
    assert!(whole, "{said}");
    // The same directory again, and one that was put back from a backup.
    running.kill();
    one.serve().await.unwrap().kill();
    std::fs::write(other.data.join("storage"), &name).unwrap();
    other.serve().await.unwrap().kill();
    std::fs::write(other.data.join("storage"), "another\n").unwrap();
    let said = other.serve().await.unwrap_err();
    assert!(said.contains(&name) && said.contains("says another"), "{said}");
    drop(database);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_disks_that_start_at_once_a_database_has_one() {
    // As the place that a database begins with, and as a further one.
    for beside in [false, true] {
        let (folder, database, store) = (tempfile::tempdir().unwrap(), fresh().await, Store::start());
        let here = store.url("here");
        let at = |name: &str| {
            let disk = at_database(folder.path(), name, &database, "disk");
            if beside { writing(&disk, &here, &["disk"]) } else { disk }
        };
        if beside {
            at_database(folder.path(), "none", &database, &here).serve().await.unwrap().kill();
        }
        let (slow, quick) = (at("slow"), at("quick"));
        let mut command = slow.command();
        command.args(["serve", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        // It has seen that no disk is remembered, and is about to remember its own.
        let stopped = stopped_at("start.place", command).await;
        let running = quick.serve().await.unwrap();
        let output = continued(stopped).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let name = std::fs::read_to_string(quick.data.join("storage")).unwrap().trim().to_owned();
        assert!(!output.status.success() && said.contains(&name) && said.contains("need a bucket"), "{said}");
        let again = slow.serve().await.unwrap_err();
        assert!(again.contains(&name), "{again}");
        drop(running);
        let running = quick.serve().await.unwrap();
        running.call("GET", "/readyz", &[], "").await.expect(200);
        let (whole, said) = quick.doctor().await;
        assert!(whole, "{said}");
        drop((running, database));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_at_one_database_share_one_prefix() {
    let (folder, database, store) = (tempfile::tempdir().unwrap(), fresh().await, Store::start());
    let place = |name: &str, storage: String| at_database(folder.path(), name, &database, &storage);
    // One that can't be used is not remembered.
    let said = place("a", store.url("here").replace(&store.address().to_string(), "127.0.0.1:9")).serve().await;
    assert!(said.unwrap_err().contains("can't be used"));
    let one = place("one", store.url("here")).serve().await.unwrap();
    let two = place("two", store.url("here")).serve().await.unwrap();
    let elsewhere = place("three", store.url("there"));
    for refused in [elsewhere.serve().await.unwrap_err(), elsewhere.doctor().await.1] {
        assert!(refused.contains("s3://bytes/here/") && refused.contains("s3://bytes/there/"), "{refused}");
        assert!(refused.contains("the same `storage`"), "{refused}");
    }
    assert!(store.objects("there/").is_empty(), "nothing is made where nothing belongs");
    let said = place("four", "disk".into()).serve().await.unwrap_err();
    assert!(said.contains("s3://bytes/here/") && said.contains("which has no file"), "{said}");
    // A copy has the owner's mark.
    drop((one, two));
    store.copy("here/owner", "there/owner");
    elsewhere.serve().await.unwrap().kill();
    drop(database);
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_on_a_disk_remember_it_as_well() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Store::start());
    let disk = on_disk(folder.path());
    let bucket = Place { storage: store.url("here"), ..disk.clone() };
    disk.serve().await.unwrap().kill();
    let said = bucket.serve().await.unwrap_err();
    assert!(said.contains("on the disk") && said.contains("s3://bytes/here/") && said.contains("`disk`"), "{said}");
    disk.serve().await.unwrap().kill();
    // And the other way round.
    let folder = tempfile::tempdir().unwrap();
    let disk = on_disk(folder.path());
    let bucket = Place { storage: store.url("there"), ..disk.clone() };
    bucket.serve().await.unwrap().kill();
    let said = disk.serve().await.unwrap_err();
    assert!(said.contains("in s3://bytes/there/"), "{said}");
    bucket.serve().await.unwrap().kill();
    // Programs that know of one place alone take what a database of several remembers for another one.
    for remembered in ["bucket bytes/there/", "several bucket bytes/there/"] {
        let facts = rusqlite::Connection::open(bucket.data.join("landfall.db")).unwrap();
        let first =
            facts.query_row("SELECT value FROM settings WHERE name = 'storage'", [], |row| row.get::<_, Vec<u8>>(0));
        assert_eq!(String::from_utf8(first.unwrap()).unwrap(), remembered);
        drop(facts);
        writing(&bucket, &bucket.storage, &["disk"]).serve().await.unwrap().kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_of_the_same_name_in_another_store_is_not_taken_for_it() {
    let (folder, store, other) = (tempfile::tempdir().unwrap(), Store::start(), Store::start());
    let (here, there) = (store.url("here"), store.url("there"));
    let place = writing(&on_disk(folder.path()), &here, &[&there]);
    let running = place.serve().await.unwrap().with_first_key().await;
    let upload = running.uploaded("a", b"12345").await;
    // Where a mover runs, the same names may lead elsewhere.
    let to_stray = writing(&place, &here, &[&other.url("there")]);
    let from_stray = writing(&place, &other.url("here"), &[&there]);
    for stray in [&to_stray, &from_stray] {
        let said = moved(stray, &here, &there, &[]).await.unwrap_err();
        assert!(said.contains("`owner`"), "{said}");
    }
    assert!(other.objects("").is_empty(), "nothing is made where nothing belongs");
    for key in ["here/owner", "there/owner"] {
        other.put(key, b"a76f1a9c-0d5b-4a3e-9a2b-3f5b2a1c7d10");
    }
    for stray in [&to_stray, &from_stray] {
        let said = moved(stray, &here, &there, &[]).await.unwrap_err();
        assert!(said.contains("another installation"), "{said}");
    }
    assert_eq!(running.content(&upload).await, (200, b"12345".to_vec()));
    let said = moved(&place, &here, &there, &[]).await.unwrap();
    assert_eq!((&said["moved"], &said["left"]), (&json!(1), &json!(0)), "{said}");
    assert_eq!(running.content(&upload).await, (200, b"12345".to_vec()));
    let key = running.key.clone();
    drop(running);
    // What rows name is not in a store that has no mark.
    other.lose("there/owner");
    let said = to_stray.serve().await.unwrap_err();
    assert!(said.contains("`owner`") && said.contains("endpoint"), "{said}");
    assert!(other.objects("there/").is_empty(), "it was not taken");
    let twice = writing(&place, &here, &[&other.url("here")]).serve().await;
    assert!(twice.as_ref().is_err_and(|said| said.contains("prefix of its own")), "{twice:?}");
    let running = serving(&place, &key).await;
    assert_eq!(running.content(&upload).await, (200, b"12345".to_vec()));
}

/// The data directory of a database that is not this one.
fn refuses(said: Result<crate::process::Running, String>) {
    assert!(
        said.as_ref().is_err_and(|said| said.contains("the data directory") && said.contains("another")),
        "{said:?}"
    );
}

fn remove_facts(data: &Path) {
    for entry in std::fs::read_dir(data).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("landfall.db") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_has_one_owner() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Store::start());
    let (first, second, third) = (fresh().await, fresh().await, fresh().await);
    let disk = on_disk(folder.path());
    let running = disk.serve().await.unwrap().with_first_key().await;
    let key = running.key.clone();
    let upload = running.uploaded("a", &noise(1000)).await;
    drop(running);
    let over = Place { database: Some(first.url()), ..disk.clone() };
    let beside = writing(&Place { database: Some(third.url()), ..disk.clone() }, &store.url("here"), &["disk"]);
    // With its mark, and as older versions left it.
    let owner = disk.data.join("owner");
    for marked in [true, false] {
        assert_eq!(owner.exists(), marked);
        refuses(over.serve().await);
        refuses(beside.serve().await);
        assert!(!disk.data.join("storage").exists(), "nothing is made where nothing belongs");
        if marked {
            std::fs::remove_file(&owner).unwrap();
        }
    }
    let running = serving(&disk, &key).await;
    assert_eq!(running.content(&upload).await, (200, noise(1000)));
    assert!(owner.exists(), "it is its own again");
    drop(running);
    let (whole, said) = disk.doctor().await;
    assert!(whole, "{said}");
    // Facts that were put back from before a database had a name.
    let mark = std::fs::read_to_string(&owner).unwrap();
    let facts = rusqlite::Connection::open(disk.data.join("landfall.db")).unwrap();
    assert_eq!(facts.execute("DELETE FROM settings WHERE name IN ('installation', 'storage')", []).unwrap(), 2);
    drop(facts);
    drop(serving(&disk, &key).await);
    assert_eq!(std::fs::read_to_string(&owner).unwrap(), mark);
    // Facts that were lost, or thrown away.
    remove_facts(&disk.data);
    refuses(disk.serve().await);
    // A disk with the name by which another database knows it.
    let known = Place { data: folder.path().join("known"), ..over.clone() };
    known.serve().await.unwrap().kill();
    refuses(Place { database: Some(second.url()), ..known.clone() }.serve().await);
    known.serve().await.unwrap().kill();
    drop((first, second, third));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_know_a_place_waits_for_it() {
    let (folder, database, store) = (tempfile::tempdir().unwrap(), fresh().await, Store::start());
    let (here, there) = (store.url("here"), store.url("there"));
    let [one, two] = ["one", "two"].map(|name| at_database(folder.path(), name, &database, &here));
    let mut first = one.serve().await.unwrap().with_first_key().await;
    let key = first.key.clone();
    let mut second = serving(&two, &key).await;
    first.kill();
    first = serving(&writing(&one, &there, &[&here]), &key).await;
    let upload = first.uploaded("a", &noise(1000)).await;
    assert_eq!(second.content(&upload).await.0, 503, "it is not lost, only not known");
    // A text that it can't read is no failure of the text.
    let container = first.json("POST", "/push/v1/organizations/default/files", &json!({}), 201).await;
    let headers = [("x-amz-server-side-encryption", "AES256"), ("Content-Type", "application/octet-stream")];
    let text = format!("a needle {}", "in a haystack ".repeat(10_000));
    first.call("PUT", container["uploadUri"].as_str().unwrap(), &headers, text).await.expect(200);
    first.kill();
    let path = "/push/v1/organizations/default/sources/default-files/documents?documentId=test:%2F%2Fa";
    let ask = json!({ "CompressedBinaryDataFileId": container["fileId"], "FileExtension": ".txt" });
    second.json("PUT", path, &ask, 202).await;
    for _ in 0..500 {
        if second.log().contains("place 1") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(second.log().contains("place 1"), "{}", second.log());
    second.kill();
    second = serving(&writing(&two, &here, &[&there]), &key).await;
    assert_eq!(second.content(&upload).await, (200, noise(1000)));
    for _ in 0..1_000 {
        let found = second.json("GET", "/landfall/v1/sources/default-files/items?query=needle", &json!({}), 200).await;
        if found["items"].as_array().is_some_and(|items| items.len() == 1) {
            drop(database);
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the text is not found: {}", second.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_place_that_is_away_stops_nothing_else() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Store::start());
    let (here, there) = (store.url("here"), store.url("there"));
    let old = writing(&on_disk(folder.path()), &here, &[]);
    let running = old.serve().await.unwrap().with_first_key().await;
    let key = running.key.clone();
    let upload = running.uploaded("old", b"12345").await;
    drop(running);
    let known = writing(&old, &there, &[&here]);
    drop(serving(&known, &key).await);
    let gone = |url: &str| url.replace(&store.address().to_string(), "127.0.0.1:9");
    let running = serving(&writing(&old, &there, &[&gone(&here)]), &key).await;
    let log = running.log();
    assert!(log.lines().any(|line| line.contains("ERROR") && line.contains("s3://bytes/here/")), "{log}");
    let fresh = running.uploaded("new", b"6789").await;
    assert_eq!(running.content(&fresh).await, (200, b"6789".to_vec()));
    assert_eq!(running.content(&upload).await.0, 503);
    running.call("GET", "/readyz", &[], "").await.expect(200);
    drop(running);
    // One that nobody knows yet is a mistake, and so is the one for new bytes.
    let then = gone(&store.url("then"));
    for mistaken in [writing(&old, &there, &[&here, &then]), writing(&old, &gone(&there), &[&here])] {
        let said = mistaken.serve().await.unwrap_err();
        assert!(said.contains("can't be used"), "{said}");
    }
    let running = serving(&known, &key).await;
    assert_eq!(running.content(&upload).await, (200, b"12345".to_vec()));
}
