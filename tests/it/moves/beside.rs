//! Moves beside what else goes on: the sweep, another move, downloads.

use std::process::Child;
use std::time::Duration;

use serde_json::{Value, json};

use super::{MIB, NOW, in_the_bucket, moved, moving, on_the_disk, serving, swept, whole, writing};
use crate::bucket::Store;
use crate::harness::noise;
use crate::process::{Place, continued, on_disk, stopped_at};

/// What a command says at its end that had stopped.
async fn went_on(child: Child) -> Value {
    let output = continued(child).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_stood_still_for_a_day_is_not_relied_on() {
    for (point, to_disk) in [("move.begun", true), ("move.compared", true), ("move.compared", false)] {
        let (folder, store) = (tempfile::tempdir().unwrap(), Store::start());
        let (disk, there) = (String::from("disk"), store.url("there"));
        let (from, to) = if to_disk { (there, disk) } else { (disk, there) };
        let place = writing(&on_disk(folder.path()), &from, &[&to]);
        let running = place.serve().await.unwrap().with_first_key().await;
        let key = running.key.clone();
        let upload = running.uploaded("a", &noise(300_000)).await;
        let copies = || if to_disk { on_the_disk(&place) } else { in_the_bucket(&store, "there/") };
        let mover = stopped_at(point, moving(&place, &from, &to, &[])).await;
        assert_eq!(copies(), 1);
        drop(running);
        let later = Place { later: 25 * 3600, ..place.clone() };
        let sweeping = later.serve_with(NOW).await.unwrap();
        for _ in 0..1_000 {
            if copies() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(copies(), 0, "{}", sweeping.log());
        drop(sweeping);
        let said = went_on(mover).await;
        assert_eq!((&said["moved"], &said["left"]), (&json!(0), &json!(1)), "{point}: {said}");
        let running = serving(&place, &key).await;
        assert!(running.content(&upload).await == (200, noise(300_000)), "{point}");
        whole(&place).await;
        let said = moved(&place, &from, &to, &[]).await.unwrap();
        assert_eq!((&said["moved"], &said["left"]), (&json!(1), &json!(0)), "{point}: {said}");
        assert!(running.content(&upload).await == (200, noise(300_000)), "{point}");
        whole(&place).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_moves_at_once_move_everything_once() {
    const FILES: usize = 40;
    let (folder, store) = (tempfile::tempdir().unwrap(), Store::start());
    let there = store.url("there");
    let place = writing(&on_disk(folder.path()), "disk", &[&there]);
    let running = place.serve().await.unwrap().with_first_key().await;
    let key = running.key.clone();
    let mut kept = Vec::new();
    for index in 0..FILES {
        kept.push(running.uploaded(&format!("{index}"), &noise(50_000 + index)).await);
    }
    // Both have the same pieces in hand: one stands still between the copy and the row.
    let first = stopped_at("move.compared", moving(&place, "disk", &there, &["--parallel", "2"])).await;
    let (second, first) = tokio::join!(moved(&place, "disk", &there, &[]), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        went_on(first).await
    });
    let second = second.unwrap();
    let count = |said: &Value| said["moved"].as_u64().unwrap();
    assert_eq!(count(&first) + count(&second), 40, "{first} {second}");
    let said = moved(&place, "disk", &there, &[]).await.unwrap();
    assert_eq!((&said["moved"], &said["left"]), (&json!(0), &json!(0)), "{said}");
    for (index, upload) in kept.iter().enumerate() {
        assert!(running.content(upload).await == (200, noise(50_000 + index)));
    }
    whole(&place).await;
    assert_eq!(in_the_bucket(&store, "there/"), FILES, "what came second is deleted at once");
    drop(running);
    swept(&place, &key, || on_the_disk(&place) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_comes_to_its_end_when_its_bytes_are_due_meanwhile() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Store::start());
    let there = store.url("there");
    let place = writing(&on_disk(folder.path()), "disk", &[&there]);
    let bytes = noise(64 * MIB);
    // What this server deletes at once is due an hour later by the clock of the command.
    let later = Place { later: 2 * 3600, ..place.clone() };
    let running = later.serve_with(NOW).await.unwrap().with_first_key().await;
    let upload = running.uploaded("a", &bytes).await;
    let url = format!("http://{}/landfall/v1/files/{}/content", running.address, upload["file_id"].as_str().unwrap());
    let request = crate::harness::client().get(url).header("X-API-Key", &running.key);
    let mut slow = request.send().await.unwrap();
    let mut downloaded = slow.chunk().await.unwrap().unwrap().to_vec();
    let said = moved(&place, "disk", &there, &[]).await.unwrap();
    assert_eq!((&said["moved"], &said["left"]), (&json!(1), &json!(0)), "{said}");
    // The sweep comes twice a minute. It finds what is due and read, and puts it off by an hour.
    let database = place.data.join("landfall.db");
    let rows = rusqlite::Connection::open(database).unwrap();
    let due = || rows.query_row("SELECT max(due) FROM tombstones", [], |row| row.get::<_, i64>(0)).unwrap();
    let moved = due();
    for _ in 0..3_000 {
        if due() > moved {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(due() > moved, "{}", running.log());
    while let Some(chunk) = slow.chunk().await.unwrap() {
        downloaded.extend_from_slice(&chunk);
    }
    assert!(downloaded == bytes);
    assert!(running.content(&upload).await == (200, bytes));
}
