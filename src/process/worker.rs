//! The loops that do what is due: pushes, jobs, and the sweep.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use super::apply::{self, Outcome as Applied};
use super::extract::Pool;
use super::stored;
use super::text::{self, Outcome};
use crate::clock::Timestamp;
use crate::engine::Engine;
use crate::faults;
use crate::limits;
use crate::meta::{Extraction, Lease, LeasedJob, MetaError};
use crate::model::job::{JobKind, Subject};
use crate::model::refusal::Refusal;
use crate::model::source::ItemState;
use crate::upload::sweep::{self, Sweeper};

/// Longest time without a look, for what became due by the clock alone.
const TICK: Duration = Duration::from_millis(500);
/// A lease outlives any honest step; a worker that died with its process gave its leases back at the next start.
const LEASE: Duration = Duration::from_secs(3600);
/// Where others share the work, a process that is gone for good must not keep it for long. What is not done by then is done
/// by another, and its end is recorded once.
const SHARED_LEASE: Duration = Duration::from_secs(300);

fn lease(engine: &Engine) -> Duration {
    if engine.meta.is_shared() { SHARED_LEASE } else { LEASE }
}

/// Pushes applied at once, each of another source or provider.
const PUSHES: usize = 2;
/// Jobs leased and worked on at once; the pool decides how many documents are really read at once.
const JOBS: usize = 32;
/// Tries before a step is given up.
const ATTEMPTS: u32 = 8;
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Runs until `stop` says so; a step that has begun is ended first.
pub async fn run(engine: Arc<Engine>, pool: Arc<Pool>, stop: watch::Receiver<bool>) {
    let pushes = async {
        futures_util::future::join_all((0..PUSHES).map(|_| pushes(&engine, stop.clone()))).await;
    };
    tokio::join!(pushes, jobs(&engine, &pool, stop.clone()), sweeps(&engine, stop.clone()));
}

/// Waits for work, for the tick, or for the end. False at the end.
async fn wait(work: &mut watch::Receiver<u64>, stop: &mut watch::Receiver<bool>, most: Duration) -> bool {
    if *stop.borrow() {
        return false;
    }
    tokio::select! {
        _ = work.changed() => true,
        () = tokio::time::sleep(most) => true,
        _ = stop.changed() => false,
    }
}

async fn pushes(engine: &Engine, mut stop: watch::Receiver<bool>) {
    let mut work = engine.work.listen();
    loop {
        match engine.meta.lease_push(engine.clock.now(), lease(engine)).await {
            Ok(Some(lease)) => {
                faults::point("process.leased");
                push(engine, &lease, &stop).await;
                if *stop.borrow() {
                    return;
                }
                continue;
            }
            Ok(None) => {}
            Err(MetaError::Closed) => return,
            Err(error) => tracing::error!(%error, "could not look for pushes"),
        }
        if !wait(&mut work, &mut stop, TICK).await {
            return;
        }
    }
}

async fn push(engine: &Engine, lease: &Lease, stop: &watch::Receiver<bool>) {
    let outcome = apply::push(engine, lease, stop).await;
    let now = engine.clock.now();
    let kept = limits::DOWNLOAD_MAX;
    let ended = async || match &outcome {
        Ok(Applied::Done) => engine.meta.finish_push(lease, None, now, kept).await,
        Ok(Applied::Failed(reason)) => {
            tracing::error!(request = %lease.request, reason, "a push could not be applied");
            engine.meta.finish_push(lease, Some(reason.clone()), now, kept).await
        }
        Ok(Applied::Lost) => Ok(()),
        Ok(Applied::Paused) => engine.meta.return_push(lease, now, None).await,
        // A fault of ours that comes again and again. What may pass (a full disk, too many open files) is waited for:
        // the push was accepted.
        Err(Refusal::Internal) if lease.attempts >= ATTEMPTS => {
            let reason = format!("given up after {} tries", lease.attempts);
            tracing::error!(request = %lease.request, reason, "a push could not be applied");
            engine.meta.finish_push(lease, Some(reason), now, kept).await
        }
        Err(refusal) => {
            let due = now.plus(backoff(lease.attempts));
            tracing::warn!(request = %lease.request, %refusal, "a push is tried again later");
            engine.meta.return_push(lease, due, Some(format!("tried again later: {refusal}"))).await
        }
    };
    recorded(stop, ended).await;
    // The next one of the same lane, and the texts of this one's items, are due now.
    engine.work.wake();
}

/// Records the end of a step. A lease whose end is not recorded keeps its push's lane, or its text from being found, until it
/// runs out, so a disk that is full for a moment or a database that is away is waited for.
async fn recorded<F: Future<Output = Result<(), MetaError>>>(stop: &watch::Receiver<bool>, end: impl Fn() -> F) {
    for wait in 0..u32::MAX {
        match end().await {
            Ok(()) | Err(MetaError::Closed) => return,
            Err(error) => tracing::error!(%error, "the end of a step could not be recorded; tried again"),
        }
        if *stop.borrow() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100) * 2u32.pow(wait.min(6))).await;
    }
}

fn backoff(attempts: u32) -> Duration {
    Duration::from_secs(1 << attempts.min(8))
}

/// Keeps up to [`JOBS`] jobs under way: a slow document holds its own place and nobody else's.
async fn jobs(engine: &Engine, pool: &Pool, mut stop: watch::Receiver<bool>) {
    let mut work = engine.work.listen();
    let stopping = &stop.clone();
    let busy: &Mutex<HashSet<(Subject, i64)>> = &Mutex::default();
    let mut running = FuturesUnordered::new();
    loop {
        let free = JOBS.saturating_sub(running.len());
        let mut found = 0;
        // Looking for several at once is cheaper than looking for each.
        let worth_looking = free >= JOBS / 4;
        if worth_looking && !*stop.borrow() {
            match engine.meta.lease_jobs(engine.clock.now(), lease(engine), u32::try_from(free).unwrap_or(1)).await {
                Ok(leased) => {
                    found = leased.len();
                    running.extend(leased.into_iter().map(|leased| {
                        let subject = (leased.kind.subject(), leased.subject);
                        let alone = busy.lock().unwrap_or_else(PoisonError::into_inner).insert(subject);
                        async move {
                            if !alone {
                                // An older content of the same thing is being read: its text must not come after ours.
                                let later = engine.clock.now().plus(TICK);
                                recorded(stopping, || engine.meta.return_job(&leased, later)).await;
                                return;
                            }
                            match leased.kind {
                                JobKind::Extract | JobKind::Unindex => job(engine, pool, &leased, stopping).await,
                                JobKind::Process => store_file(engine, pool, &leased, stopping).await,
                                JobKind::Forget | JobKind::Empty => leave(engine, &leased, stopping).await,
                            }
                            busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&subject);
                        }
                    }));
                }
                Err(MetaError::Closed) => return,
                Err(error) => tracing::error!(%error, "could not look for jobs"),
            }
        }
        if running.is_empty() {
            if found == 0 && !wait(&mut work, &mut stop, TICK).await {
                return;
            }
            continue;
        }
        tokio::select! {
            _ = running.next() => {}
            _ = work.changed(), if worth_looking => {}
        }
    }
}

async fn job(engine: &Engine, pool: &Pool, leased: &LeasedJob, stop: &watch::Receiver<bool>) {
    let outcome = text::job(engine, pool, leased).await;
    let now: Timestamp = engine.clock.now();
    let finished = async |extraction: &Option<Extraction>| {
        faults::io_point("process.end").map_err(|error| MetaError::Failed(error.to_string()))?;
        engine.meta.finish_job(leased, extraction.clone(), now).await
    };
    let (again, reason) = match outcome {
        Ok(Outcome::Done(extraction)) => {
            recorded(stop, || finished(&extraction)).await;
            faults::point("process.finished");
            return;
        }
        Ok(Outcome::Again(reason)) => (leased.attempts < ATTEMPTS, reason),
        // Bytes that are damaged stay damaged; what may pass is waited for.
        Err(Refusal::Internal) => (false, "the stored content is damaged".to_owned()),
        Err(refusal) => (true, refusal.to_string()),
    };
    if again {
        tracing::warn!(item = leased.subject, reason, "a text is extracted later");
        let later = now.plus(backoff(leased.attempts));
        recorded(stop, || engine.meta.return_job(leased, later)).await;
    } else {
        tracing::error!(item = leased.subject, reason, "a text could not be extracted");
        let extraction = Some(Extraction { state: ItemState::Failed, problem: Some(reason) });
        recorded(stop, || finished(&extraction)).await;
    }
}

async fn store_file(engine: &Engine, pool: &Pool, leased: &LeasedJob, stop: &watch::Receiver<bool>) {
    let outcome = stored::process(engine, pool, leased).await;
    let now = engine.clock.now();
    let later = Some(now.plus(backoff(leased.attempts)));
    let (outcome, due) = match outcome {
        Ok(stored::Outcome::Again(reason)) => {
            (stored::Outcome::Again(reason), later.filter(|_| leased.attempts < ATTEMPTS))
        }
        Ok(outcome) => (outcome, None),
        Err(Refusal::Internal) => {
            (stored::Outcome::Failed("the stored content is damaged: upload it again".into()), None)
        }
        // What may pass (a full disk, too many open files) is waited for: the file was accepted.
        Err(refusal) => (stored::Outcome::Again(refusal.to_string()), later),
    };
    let Some(processed) = stored::processed(&outcome, due, now) else { return };
    if let Some(problem) = &processed.problem {
        tracing::info!(file = leased.subject, problem, "a store's file was processed");
    }
    recorded(stop, || engine.meta.end_processing(leased, processed.clone())).await;
    faults::point("store.processed");
}

/// What was taken out of a store leaves the index, and a deleted store its files.
async fn leave(engine: &Engine, leased: &LeasedJob, stop: &watch::Receiver<bool>) {
    let left = async {
        if leased.kind == JobKind::Forget {
            engine.search.remove_chunks(leased.subject).await?;
        } else {
            let kept = limits::DOWNLOAD_MAX;
            let mut more = true;
            while more {
                more = engine.meta.empty_store(leased.subject, limits::EMPTIED_FILES, engine.clock.now(), kept).await?;
                faults::point("store.emptied");
            }
        }
        engine.meta.finish_job(leased, None, engine.clock.now()).await?;
        Ok::<_, Refusal>(())
    };
    if let Err(refusal) = left.await {
        tracing::warn!(subject = leased.subject, %refusal, "what left a store is cleared away later");
        let due = engine.clock.now().plus(backoff(leased.attempts));
        recorded(stop, || engine.meta.return_job(leased, due)).await;
    }
}

async fn sweeps(engine: &Engine, mut stop: watch::Receiver<bool>) {
    let mut sweeper = Sweeper::default();
    let mut work = engine.work.listen();
    loop {
        if let Err(refusal) = sweeper.sweep(engine).await {
            tracing::error!(%refusal, "the sweep stopped; it goes on at the next turn");
        }
        let next = tokio::time::sleep(SWEEP_EVERY);
        tokio::pin!(next);
        loop {
            tokio::select! {
                () = &mut next => break,
                _ = stop.changed() => return,
                // Bytes that a push used up go soon, not at the next sweep.
                _ = work.changed() => tokio::time::sleep(TICK).await,
            }
            if let Err(refusal) = sweep::unlink(engine, engine.clock.now()).await {
                tracing::error!(%refusal, "segments could not be deleted; they are at the next turn");
            }
        }
    }
}
