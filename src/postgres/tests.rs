use crate::sql::SqlError;

use super::testing::Fresh;
use super::*;

const PLAN: Plan = Plan {
    part: "tests",
    migrations: &["CREATE TABLE numbers (n BIGINT PRIMARY KEY)"],
    lanes: 1,
    readers: 1,
    serializable: true,
};
const ADD: &str = "INSERT INTO numbers (n) VALUES (?1)";

fn numbers(c: &Connection) -> sql::Result<Vec<i64>> {
    c.all("SELECT n FROM numbers ORDER BY n", sql::NONE, |row| row.get(0))
}

async fn opened() -> (Fresh, Target, Database) {
    tokio::task::spawn_blocking(|| {
        let fresh = Fresh::empty();
        let target = Target::parse(&fresh.url()).unwrap();
        let database = Database::open(&target, PLAN).unwrap();
        (fresh, target, database)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn what_is_posted_is_run_in_its_order_and_seen_by_what_comes_behind() {
    let (_fresh, target, _database) = opened().await;
    tokio::task::spawn_blocking(move || {
        let c = Connection::from(Link::open(&target, VERB_STATEMENT, WRITER).unwrap());
        c.control("BEGIN").unwrap();
        // More than may be on their way at once, and more bytes.
        for n in 0..200i64 {
            c.post(ADD, [n]).unwrap();
        }
        let long = "x".repeat(700_000);
        for _ in 0..3 {
            c.post("UPDATE numbers SET n = n + 1000 WHERE n = 7 AND ?1 <> ''", [&long]).unwrap();
        }
        c.post("DELETE FROM numbers WHERE n >= ?1 AND n < 1000", [10i64]).unwrap();
        assert_eq!(numbers(&c).unwrap(), [0, 1, 2, 3, 4, 5, 6, 8, 9, 1007]);
        c.control("COMMIT").unwrap();
        assert_eq!(numbers(&c).unwrap().len(), 10);
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn one_that_failed_is_told_by_the_next_that_is_waited_for() {
    let (_fresh, target, _database) = opened().await;
    tokio::task::spawn_blocking(move || {
        let c = Connection::from(Link::open(&target, VERB_STATEMENT, WRITER).unwrap());
        let waits: [fn(&Connection) -> sql::Result<()>; 4] = [
            |c| numbers(c).map(drop),
            |c| c.execute(ADD, [5i64]).map(drop),
            |c| c.control("RELEASE SAVEPOINT verb"),
            Connection::settle,
        ];
        for wait in waits {
            c.control("BEGIN; SAVEPOINT verb").unwrap();
            c.post(ADD, [1i64]).unwrap();
            c.post(ADD, [1i64]).unwrap();
            c.post(ADD, [2i64]).unwrap();
            assert!(matches!(wait(&c), Err(SqlError::Unique(_))), "the first failure, not one that follows from it");
            c.control("ROLLBACK TO SAVEPOINT verb").unwrap();
            assert!(numbers(&c).unwrap().is_empty());
            c.control("ROLLBACK").unwrap();
        }
    })
    .await
    .unwrap();
}

/// Adds 1, until the others wait behind it, so that they are one group.
fn holds_the_lane(c: &Connection) -> sql::Result<()> {
    std::thread::sleep(Duration::from_millis(200));
    c.post(ADD, [1i64])
}

#[tokio::test]
async fn what_a_verb_posted_fails_that_verb_and_no_other_of_its_group() {
    let (_fresh, _target, database) = opened().await;
    let first = database.write(0, holds_the_lane);
    let twice = database.write(0, |c| {
        c.post(ADD, [2i64])?;
        c.post(ADD, [2i64])
    });
    let unread = database.write(0, |c| {
        c.post(ADD, [1i64])?;
        Err::<(), _>(SqlError::Failed("its own".into()))
    });
    let last = database.write(0, |c| c.post(ADD, [3i64]));
    let (first, twice, unread, last) = tokio::join!(first, twice, unread, last);
    first.unwrap();
    let failed = |result: Result<()>| result.unwrap_err().to_string();
    let twice = failed(twice);
    assert!(twice.contains("23505"), "{twice}");
    let unread = failed(unread);
    assert!(unread.contains("23505"), "what failed first is told: {unread}");
    last.unwrap();
    assert_eq!(database.look(numbers).await.unwrap(), [1, 3]);
}

#[tokio::test]
async fn the_last_verb_of_a_group_fails_alone_too() {
    let (_fresh, _target, database) = opened().await;
    let slow = database.write(0, holds_the_lane);
    let last = database.write(0, |c| {
        c.post(ADD, [2i64])?;
        c.post(ADD, [1i64])
    });
    let (slow, last) = tokio::join!(slow, last);
    slow.unwrap();
    assert!(last.unwrap_err().to_string().contains("23505"));
    assert_eq!(database.look(numbers).await.unwrap(), [1]);
}

#[tokio::test]
async fn a_verb_is_run_again_when_what_it_posted_was_in_the_way_of_another() {
    use std::sync::atomic::AtomicU32;
    let (_fresh, target, database) = opened().await;
    database.write(0, |c| c.post(ADD, [1i64])).await.unwrap();
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let changed = database.write(0, move |c| {
        // The snapshot is taken here. Another changes the row before we do, once.
        numbers(c)?;
        if counted.fetch_add(1, Ordering::Relaxed) == 0 {
            let other = Link::open(&target, VERB_STATEMENT, WRITER)?;
            other.batch("UPDATE numbers SET n = n + 10")?;
        }
        c.post("UPDATE numbers SET n = n + ?1", [100i64])
    });
    changed.await.unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 2);
    assert_eq!(database.look(numbers).await.unwrap(), [111]);
}
