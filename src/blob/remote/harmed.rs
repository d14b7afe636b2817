//! What every store over HTTP must stand, whatever it and the way to it do to calls.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Memory, STALL};
use crate::blob::contract::{read_all, segment};
use crate::blob::harm::{Harm, Harms};
use crate::blob::{BlobError, BlobStore, Extent, SegmentWriter};
use crate::model::ids::SegmentId;

/// What a part, or a full block, has.
pub(in crate::blob) const PART: usize = 8 << 20;
/// What all writers may hold together.
pub(in crate::blob) const MEMORY: u64 = 128 << 20;

/// A store that is harmed, and how its calls are called.
#[async_trait]
pub(in crate::blob) trait Harmed: Send + Sync + Sized {
    /// Sends a short segment whole.
    const WHOLE: &'static str;
    /// Sends what a persist makes durable.
    const PIECE: &'static str;
    /// Reads a range.
    const RANGE: &'static str;
    /// Calls that write, each with whether one that is damaged on its way is sent again.
    const WRITES: &'static [(&'static str, bool)];
    /// How the store says that it may pass: status and code.
    const PASSING: &'static [(u16, &'static str)];
    /// Harm to calls that write, that does not pass.
    const LASTING: &'static [(&'static str, Harm)];

    /// One on which nothing may move for so long.
    fn new(stall: Duration) -> Self;

    fn store(&self) -> &dyn BlobStore;

    fn harms(&self) -> &Harms;

    fn memory(&self) -> &Memory;

    /// Everything that is in the place.
    async fn names(&self) -> Vec<String>;
}

/// Bytes of which no two parts are alike.
pub(in crate::blob) fn data(length: usize) -> Bytes {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    Bytes::from((0..length).map(next).collect::<Vec<u8>>())
}

/// A writer to which these were written.
pub(in crate::blob) async fn written(store: &dyn BlobStore, id: SegmentId, data: &Bytes) -> Box<dyn SegmentWriter> {
    let mut writer = store.create(id, None).await.unwrap();
    for from in (0..data.len()).step_by(256 * 1024) {
        writer.write(&mut vec![data.slice(from..data.len().min(from + 256 * 1024))]).await.unwrap();
    }
    writer
}

/// A segment that its writer left: a full part or block, and two pieces of the next.
pub(in crate::blob) async fn left(store: &dyn BlobStore) -> (SegmentId, Box<dyn SegmentWriter>, Extent, Bytes) {
    let (id, all) = (segment(), data(PART + 500_000));
    let mut writer = written(store, id, &all.slice(..PART + 200_000)).await;
    writer.persist().await.unwrap();
    writer.write(&mut vec![all.slice(PART + 200_000..)]).await.unwrap();
    let extent = writer.persist().await.unwrap();
    (id, writer, extent, all)
}

pub(in crate::blob) async fn harmed_calls_are_made_again_and_nothing_is_lost<H: Harmed>() {
    let harmed = H::new(STALL);
    let (store, all) = (harmed.store(), data(2 * PART + 300_000));
    let mut passing = vec![Harm::CutBefore, Harm::CutAfter, Harm::Damage];
    for (status, code) in H::PASSING {
        passing.extend([Harm::Refuse(*status, code), Harm::RefuseAfter(*status, code)]);
    }
    for (what, again) in H::WRITES {
        for harm in passing.iter().copied().filter(|harm| *again || *harm != Harm::Damage) {
            harmed.harms().plan(what, 2, harm);
            let (id, length) = (segment(), if *what == H::WHOLE { 300_000 } else { all.len() });
            let finished = written(store, id, &all.slice(..length)).await.finish().await;
            let extent = finished.unwrap_or_else(|error| panic!("{what} {harm:?}: {error}"));
            harmed.harms().spare();
            assert!(read_all(store, id, &extent.backend).await == all[..length], "{what} {harm:?}");
            store.delete(id, "").await.unwrap();
            assert_eq!(harmed.names().await, Vec::<String>::new(), "{what} {harm:?}");
        }
    }
}

pub(in crate::blob) async fn a_call_that_stands_still_is_given_up_and_made_again<H: Harmed>() {
    let harmed = H::new(Duration::from_secs(2));
    harmed.harms().plan(H::WHOLE, 1, Harm::Delay(60_000));
    let id = segment();
    let extent = written(harmed.store(), id, &data(1000)).await.finish().await.unwrap();
    assert!(read_all(harmed.store(), id, &extent.backend).await == data(1000));
    assert!(harmed.harms().count(H::WHOLE) >= 2);
}

pub(in crate::blob) async fn what_does_not_pass_is_an_error_within_bounds<H: Harmed>() {
    let harmed = H::new(STALL);
    let (store, all) = (harmed.store(), data(PART + 300_000));
    for (what, harm) in H::LASTING {
        harmed.harms().plan(what, u32::MAX, *harm);
        let length = if *what == H::WHOLE { 300_000 } else { all.len() };
        let id = segment();
        let mut writer = store.create(id, None).await.unwrap();
        let outcome = match writer.write(&mut vec![all.slice(..length)]).await {
            Ok(()) => writer.finish().await,
            Err(error) => Err(error),
        };
        assert!(matches!(outcome, Err(BlobError::Io(_))), "{what} {harm:?}: {outcome:?}");
        let count = harmed.harms().count(what);
        assert!(count <= 10, "{what} {harm:?}: {count}");
        harmed.harms().spare();
        harmed.harms().calls();
        assert!(matches!(store.open(id, "").await, Err(BlobError::NotFound(_))), "{what} {harm:?}");
        store.delete(id, "").await.unwrap();
    }
    harmed.harms().plan(H::WHOLE, 1, Harm::Refuse(507, "InsufficientStorage"));
    assert!(matches!(written(store, segment(), &data(1)).await.finish().await, Err(BlobError::OutOfSpace)));
}

pub(in crate::blob) async fn a_read_that_breaks_goes_on_where_it_broke<H: Harmed>() {
    let harmed = H::new(STALL);
    let (store, harms) = (harmed.store(), harmed.harms());
    let (id, all) = (segment(), data(20 << 20));
    let whole = written(store, id, &all).await.finish().await.unwrap().backend;
    harms.plan(H::RANGE, 3, Harm::Truncate);
    harms.calls();
    assert!(read_all(store, id, &whole).await == all);
    // Ranges that grow, and one more for each that broke: not one for each read.
    assert!((4..=10).contains(&harms.count(H::RANGE)), "{}", harms.count(H::RANGE));
    let reader = store.open(id, &whole).await.unwrap();
    harms.plan(H::RANGE, u32::MAX, Harm::CutBefore);
    assert!(matches!(reader.read(5 << 20, 1000).await, Err(BlobError::Io(_))));
    harms.spare();
    assert_eq!(reader.read(5 << 20, 1000).await.unwrap(), all.slice(5 << 20..(5 << 20) + 1000));
    // Another one under the name is not what was opened.
    store.delete(id, &whole).await.unwrap();
    written(store, id, &data(21 << 20)).await.finish().await.unwrap();
    assert!(reader.read(0, 1000).await.is_err());
}

pub(in crate::blob) async fn several_may_seal_at_once<H: Harmed>() {
    let harmed = H::new(STALL);
    let store = harmed.store();
    for _ in 0..5 {
        let (id, _writer, extent, all) = left(store).await;
        let one = || store.seal(id, &extent.backend, extent.length);
        let (a, b, c) = tokio::join!(one(), one(), one());
        let sealed = a.unwrap();
        assert_eq!([b.unwrap(), c.unwrap()], [&*sealed, &*sealed]);
        assert!(read_all(store, id, &sealed).await == all);
    }
}

pub(in crate::blob) async fn many_writers_share_the_memory_there_is<H: Harmed>() {
    let harmed = H::new(STALL);
    let (store, all) = (harmed.store(), data(6 << 20));
    let mut writers = Vec::new();
    for _ in 0..45 {
        let id = segment();
        let mut writer = store.create(id, None).await.unwrap();
        for from in (0..all.len()).step_by(256 * 1024) {
            writer.write(&mut vec![all.slice(from..from + 256 * 1024)]).await.unwrap();
            let held = harmed.memory().held();
            assert!(held <= MEMORY, "{held}");
        }
        writers.push((id, writer));
    }
    assert!(harmed.harms().count(H::PIECE) > 0, "some had to send what they held");
    for (id, mut writer) in writers {
        writer.write(&mut vec![all.slice(..3 << 20)]).await.unwrap();
        let extent = writer.finish().await.unwrap();
        assert_eq!(extent.length, 9 << 20);
        assert!(read_all(store, id, &extent.backend).await == [&all[..], &all[..3 << 20]].concat());
        store.delete(id, &extent.backend).await.unwrap();
    }
    assert_eq!(harmed.memory().held(), 0);
}

/// All of these on one kind of store.
macro_rules! stands {
    ($name:ident: $harmed:ty) => {
        mod $name {
            use super::*;
            use crate::blob::remote::harmed;

            #[tokio::test]
            async fn harmed_calls_are_made_again_and_nothing_is_lost() {
                harmed::harmed_calls_are_made_again_and_nothing_is_lost::<$harmed>().await;
            }

            #[tokio::test]
            async fn a_call_that_stands_still_is_given_up_and_made_again() {
                harmed::a_call_that_stands_still_is_given_up_and_made_again::<$harmed>().await;
            }

            #[tokio::test]
            async fn what_does_not_pass_is_an_error_within_bounds() {
                harmed::what_does_not_pass_is_an_error_within_bounds::<$harmed>().await;
            }

            #[tokio::test]
            async fn a_read_that_breaks_goes_on_where_it_broke() {
                harmed::a_read_that_breaks_goes_on_where_it_broke::<$harmed>().await;
            }

            #[tokio::test]
            async fn several_may_seal_at_once() {
                harmed::several_may_seal_at_once::<$harmed>().await;
            }

            #[tokio::test]
            async fn many_writers_share_the_memory_there_is() {
                harmed::many_writers_share_the_memory_there_is::<$harmed>().await;
            }
        }
    };
}
pub(in crate::blob) use stands;
