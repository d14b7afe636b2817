//! What every index must find, run against every one.

use super::*;
use crate::postgres::testing::Fresh;
use crate::sql::Target;

/// Runs each case on every index.
macro_rules! on_every_index {
    ($($name:ident;)*) => {
        mod on_sqlite {
            $(
                #[tokio::test]
                async fn $name() {
                    let directory = tempfile::tempdir().unwrap();
                    let index = super::SqliteSearch::open(directory.path()).unwrap();
                    super::$name(&index).await;
                    let again = super::SqliteSearch::open(directory.path()).unwrap();
                    super::still_as_it_was(&index, &again).await;
                }
            )*
        }

        mod on_postgres {
            $(
                #[tokio::test]
                async fn $name() {
                    let open = tokio::task::spawn_blocking(super::on_postgres_index);
                    let (index, again, _database) = open.await.unwrap();
                    super::$name(&index).await;
                    super::still_as_it_was(&index, &again).await;
                }
            )*
        }
    };
}

fn on_postgres_index() -> (PostgresSearch, PostgresSearch, Fresh) {
    let database = Fresh::filled_by(crate::meta::contract::filled);
    let target = Target::parse(&database.url()).unwrap();
    (PostgresSearch::connect(&target).unwrap(), PostgresSearch::connect(&target).unwrap(), database)
}

/// Another process that opens it later finds the same.
async fn still_as_it_was(index: &dyn SearchIndex, again: &dyn SearchIndex) {
    assert_eq!(index.is_complete().await.unwrap(), again.is_complete().await.unwrap());
    assert_eq!(index.document(1).await.unwrap(), again.document(1).await.unwrap());
}

fn document(item: i64, scope: i64, text: &str) -> Document {
    Document { item, scope, text: text.into(), ..Document::default() }
}

async fn words_and_phrases_are_found_in_their_scope_only(index: &dyn SearchIndex) {
    assert!(!index.is_complete().await.unwrap());
    index.set_complete().await.unwrap();
    index.put(document(1, 7, "the quick brown fox")).await.unwrap();
    index.put(document(2, 7, "a brown quick Füchslein")).await.unwrap();
    index.put(document(3, 8, "the quick brown fox")).await.unwrap();
    assert_eq!(index.find(7, "quick brown", None, 10).await.unwrap(), [2, 1]);
    assert_eq!(index.find(7, "\"quick brown\"", None, 10).await.unwrap(), [1]);
    assert_eq!(index.find(7, "fuchslein", None, 10).await.unwrap(), [2]);
    assert_eq!(index.find(7, "quick", Some(2), 10).await.unwrap(), [1]);
    for hostile in ["\"", "*", "a OR b NEAR(", "scope : scope8", "-fox", "quick)", "title:x", "a\0b", "\"a\0b"] {
        index.find(7, hostile, None, 10).await.unwrap();
    }
    assert!(index.find(7, "scope8", None, 10).await.unwrap().is_empty());
    index.put(document(1, 7, "replaced")).await.unwrap();
    assert_eq!(index.find(7, "quick", None, 10).await.unwrap(), [2]);
    index.remove(2).await.unwrap();
    assert!(index.find(7, "quick", None, 10).await.unwrap().is_empty());
    assert_eq!(index.document(1).await.unwrap().unwrap().text, "replaced");
    assert!(index.is_complete().await.unwrap());
}

async fn chunks_are_found_in_their_store_the_best_first_and_replaced_as_a_whole(index: &dyn SearchIndex) {
    let chunk = |text: &str, start| Chunk { start, end: start + 9, text: text.into() };
    let long = format!("one tide, {}", "and other words ".repeat(40));
    index.put_chunks(1, 7, vec![chunk(&long, 0), chunk("tide and tide, quick brown tide", 9)]).await.unwrap();
    index.put_chunks(2, 7, vec![chunk("nothing of it", 0)]).await.unwrap();
    index.put_chunks(3, 8, vec![chunk("tide", 0)]).await.unwrap();
    let found = index.find_chunks(7, "TIDE", 10).await.unwrap();
    let places: Vec<_> = found.iter().map(|f| (f.file, f.position, f.chunk.start, f.chunk.end)).collect();
    assert_eq!(places, [(1, 1, 9, 18), (1, 0, 0, 9)]);
    assert!(found[0].score > found[1].score && found[1].score > 0.0, "{found:?}");
    assert_eq!(index.find_chunks(7, "tide", 1).await.unwrap().len(), 1);
    assert_eq!(index.find_chunks(7, "\"quick brown\"", 10).await.unwrap().len(), 1);
    for query in ["scope7", "\"brown quick\"", "", "*"] {
        assert!(index.find_chunks(7, query, 10).await.unwrap().is_empty(), "{query}");
    }
    index.put_chunks(1, 7, vec![chunk("replaced", 0)]).await.unwrap();
    assert!(index.find_chunks(7, "tide", 10).await.unwrap().is_empty());
    assert_eq!(index.find_chunks(7, "nothing", 10).await.unwrap().len(), 1, "the neighbour is as it was");
    index.remove_chunks(2).await.unwrap();
    assert!(index.find_chunks(7, "nothing", 10).await.unwrap().is_empty());
    assert_eq!(index.find_chunks(8, "tide", 10).await.unwrap().len(), 1);
}

async fn a_text_is_found_by_words_and_phrases_wherever_they_stand(index: &dyn SearchIndex) {
    let mut text = "the common word ".repeat(2_000);
    text.push_str("a rare phrase at last, in Köln und ÅRHUS 2024: x-y_z naïve.txt me@example.org ");
    text.push_str(&"more of the common word ".repeat(2_000));
    let title = String::from("Title of It");
    let metadata = String::from("author somebody");
    index.put(Document { title, metadata, ..document(1, 7, &text) }).await.unwrap();
    index.put(document(2, 7, "a phrase that is rare")).await.unwrap();
    let found = async |query: &str| index.find(7, query, None, 10).await.unwrap();
    assert_eq!(found("\"rare phrase\"").await, [1]);
    assert_eq!(found("rare phrase").await, [2, 1]);
    for query in [
        "common last",
        "title somebody \"phrase at last\"",
        "KOLN",
        "århus",
        "arhus",
        "2024",
        "x y",
        "\"x y z\"",
        "x-y_z",
        "naive.txt",
        "naïve",
        "me@example.org",
        "example",
        "word.more",
    ] {
        assert_eq!(found(query).await, [1], "{query}");
    }
    for query in ["last it \"phrase last\"", "\"it author\"", "exampl", "20"] {
        assert!(found(query).await.is_empty(), "{query}");
    }
}

on_every_index! {
    words_and_phrases_are_found_in_their_scope_only;
    chunks_are_found_in_their_store_the_best_first_and_replaced_as_a_whole;
    a_text_is_found_by_words_and_phrases_wherever_they_stand;
}
