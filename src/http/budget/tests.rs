//! Who gets memory, and who has to give it back. Time is paused: waiting takes none.

use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::clock::random_uuid;

const KIB: u64 = 1024;
const SIZE: u64 = 1024 * KIB;
/// What tenants with next to nothing do not need.
const OPEN: u64 = 768 * KIB;

fn budget() -> Budget {
    Budget::new(SIZE, true)
}

fn join(budget: &Budget, tenant: &str) -> Member {
    budget.join(&tenant.into())
}

/// Is it there now?
async fn now(taking: Taking) -> Option<Lease> {
    tokio::time::timeout(Duration::ZERO, taking).await.ok()
}

/// Lets the spawned tasks go on until they wait.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn waits(taking: Taking) -> tokio::task::JoinHandle<Lease> {
    tokio::spawn(taking)
}

#[tokio::test(start_paused = true)]
async fn one_tenant_may_have_nearly_everything_and_a_newcomer_waits_for_nobody() {
    let budget = budget();
    let hog = join(&budget, "hog");
    let all = now(hog.take(OPEN, Turn::New)).await.expect("nobody else is there");
    let second = join(&budget, "hog");
    assert!(now(second.take(KIB, Turn::New)).await.is_none(), "the rest is for others");
    for n in 0..8 {
        let newcomer = join(&budget, &format!("t{n}"));
        let lease = now(newcomer.take(32 * KIB, Turn::Small)).await;
        assert!(lease.is_some(), "tenant {n}");
        assert!(now(newcomer.take(64 * KIB, Turn::Small)).await.is_none(), "that is more than next to nothing");
        std::mem::forget(lease);
    }
    assert_eq!(budget.used(), SIZE);
    drop(all);
    assert!(now(second.take(KIB, Turn::New)).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_tenant_that_holds_least_is_next_and_within_it_the_small_and_the_eldest() {
    let budget = budget();
    let hog = join(&budget, "hog");
    let mut held = now(hog.take(OPEN, Turn::New)).await.expect("room");
    let (one, two, small) = (join(&budget, "hog"), join(&budget, "hog"), join(&budget, "hog"));
    let other = join(&budget, "other");
    let first = waits(one.take(64 * KIB, Turn::New));
    let second = waits(two.take(64 * KIB, Turn::New));
    settle().await;
    let little = waits(small.take(64 * KIB, Turn::Small));
    let theirs = waits(other.take(64 * KIB, Turn::New));
    settle().await;
    let mut order = Vec::new();
    for _ in 0..4 {
        drop(held.split(64 * KIB));
        settle().await;
        order.push([&first, &second, &little, &theirs].map(|task| task.is_finished()));
    }
    assert_eq!(
        order,
        [[false, false, false, true], [false, false, true, true], [true, false, true, true], [true, true, true, true]]
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_waited_for_and_not_taken_is_free_again() {
    let budget = budget();
    let hog = join(&budget, "hog");
    let held = now(hog.take(OPEN, Turn::New)).await.expect("room");
    // One gives up in the line, one after it was given.
    let (one, two) = (join(&budget, "a"), join(&budget, "b"));
    let mut gives_up = Box::pin(one.take(64 * KIB, Turn::New));
    let mut never_looks = Box::pin(two.take(64 * KIB, Turn::New));
    assert!(gives_up.as_mut().now_or_never().is_none());
    assert!(never_looks.as_mut().now_or_never().is_none());
    drop(gives_up);
    drop(held);
    assert_eq!(budget.used(), 64 * KIB);
    drop(never_looks);
    assert_eq!(budget.used(), 0);
    drop((hog, one, two));
    assert!(budget.0.lock().parties.is_empty());
}

#[tokio::test(start_paused = true)]
async fn bodies_that_all_wait_for_more_end_one_after_the_other() {
    let budget = budget();
    let mut tasks = Vec::new();
    for n in 0..40_u64 {
        let member = join(&budget, if n % 2 == 0 { "a" } else { "b" });
        tasks.push(tokio::spawn(async move {
            let mut held = member.take(16 * KIB, Turn::New).await;
            for _ in 0..15 {
                tokio::time::sleep(Duration::from_millis(1 + n)).await;
                held.absorb(member.take(16 * KIB, Turn::Begun).await);
            }
            let held_before = held.bytes();
            member.ended();
            drop(held);
            held_before
        }));
    }
    let most = {
        let budget = budget.clone();
        tokio::spawn(async move {
            let mut most = 0;
            loop {
                most = budget.used().max(most);
                if most > 0 && budget.used() == 0 {
                    return most;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    };
    for task in tasks {
        assert_eq!(task.await.expect("it ends"), 256 * KIB);
    }
    let most = most.await.expect("it ends");
    assert!(most <= OPEN + 256 * KIB, "{most}: no more than one body above the budget");
}

#[tokio::test(start_paused = true)]
async fn without_favours_nothing_is_above_the_budget() {
    let budget = Budget::new(SIZE, false);
    let (one, two) = (join(&budget, "a"), join(&budget, "b"));
    let _held = (now(one.take(OPEN / 2, Turn::New)).await, now(two.take(OPEN / 2, Turn::New)).await);
    assert!(now(one.take(64 * KIB, Turn::Begun)).await.is_none());
    assert_eq!(budget.used(), OPEN);
    assert!(one.try_take(KIB).is_none());
    // What has come already is counted all the same.
    let came = one.count(64 * KIB);
    assert_eq!((budget.used(), one.held()), (OPEN + 64 * KIB, OPEN / 2 + 64 * KIB));
    drop(came);
    assert_eq!(budget.used(), OPEN);
}

/// Bodies of a tenant, each with its memory.
async fn bodies(budget: &Budget, tenant: &str, count: usize, bytes: u64) -> Vec<(Member, Lease)> {
    let mut all = Vec::new();
    for _ in 0..count {
        let member = join(budget, tenant);
        let lease = now(member.take(bytes, Turn::New)).await.expect("room");
        all.push((member, lease));
    }
    all
}

#[tokio::test(start_paused = true)]
async fn slow_bodies_yield_to_others_after_a_while_the_large_first_and_no_more_than_needed() {
    let budget = budget();
    let small = bodies(&budget, "hog", 4, 32 * KIB).await;
    let large = bodies(&budget, "hog", 5, 128 * KIB).await;
    let pace = |member: &Member| member.pace(true);
    assert!(small.iter().chain(&large).all(|(member, _)| pace(member) != Verdict::Yield), "nobody waits");
    let other = join(&budget, "other");
    let theirs = waits(other.take(200 * KIB, Turn::New));
    settle().await;
    assert!(small.iter().chain(&large).all(|(member, _)| pace(member) != Verdict::Yield), "not for long");
    tokio::time::sleep(limits::BODY_PRESS_AFTER * 2).await;
    assert!(small.iter().all(|(member, _)| pace(member) != Verdict::Yield), "larger ones first");
    assert_eq!(large[0].0.pace(false), Verdict::Write, "a fast one only writes");
    let yields = large[1..].iter().filter(|(member, _)| pace(member) == Verdict::Yield).count();
    assert_eq!(yields, 2, "256 KiB are enough for 200");
    let mut large = large;
    large.truncate(3);
    assert!(theirs.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_tenant_within_its_part_never_yields_to_another() {
    let budget = budget();
    let honest = bodies(&budget, "honest", 2, 64 * KIB).await;
    let hog = bodies(&budget, "hog", 10, 64 * KIB).await;
    let more = join(&budget, "hog");
    let third = join(&budget, "third");
    let waiting = (waits(more.take(64 * KIB, Turn::New)), waits(third.take(64 * KIB, Turn::New)));
    settle().await;
    tokio::time::sleep(limits::BODY_PRESS_AFTER * 2).await;
    assert!(honest.iter().all(|(member, _)| member.pace(true) != Verdict::Yield));
    assert_eq!(hog.iter().filter(|(member, _)| member.pace(true) == Verdict::Yield).count(), 2);
    drop(hog);
    assert!(waiting.0.await.is_ok() && waiting.1.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_slow_favourite_makes_room_for_the_next() {
    let budget = budget();
    let mut all = bodies(&budget, "a", 3, 256 * KIB).await;
    let first = now(all[0].0.take(256 * KIB, Turn::Begun)).await.expect("the favourite is above the budget");
    assert!(now(all[1].0.take(256 * KIB, Turn::Begun)).await.is_none(), "there is one at a time");
    let again = waits(all[1].0.take(256 * KIB, Turn::Begun));
    settle().await;
    assert!(!again.is_finished());
    all[0].0.pace(true);
    settle().await;
    assert!(again.is_finished());
    assert_eq!(budget.used(), OPEN + 512 * KIB);
    drop(first);
    all.clear();
}

#[tokio::test(start_paused = true)]
async fn a_session_has_its_places_and_is_forgotten() {
    let places = Places::default();
    let (one, two) = (SessionId(random_uuid()), SessionId(random_uuid()));
    let mut taken = Vec::new();
    for _ in 0..limits::SESSION_BODIES {
        taken.push(places.enter(one).await.expect("a place"));
    }
    let waiting = tokio::spawn(places.enter(one));
    settle().await;
    assert!(!waiting.is_finished());
    assert!(places.enter(two).await.is_some());
    taken.pop();
    assert!(waiting.await.expect("it runs").is_some());
    drop(places.enter(one));
    taken.clear();
    assert!(places.lock().is_empty());
}
