//! A database remembers where its bytes are, and who looks elsewhere is refused before a port is bound.

use crate::bucket::Store;
use crate::postgres::Fresh;
use crate::process::{Place, on_disk};

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
async fn processes_at_one_database_share_one_prefix() {
    let (folder, database, store) = (tempfile::tempdir().unwrap(), fresh().await, Store::start());
    let place = |name: &str, storage: String| Place {
        data: folder.path().join(name),
        database: Some(database.url()),
        storage,
        ..on_disk(folder.path())
    };
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
}
