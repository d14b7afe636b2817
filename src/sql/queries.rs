//! Queries of a database that wait for one of a few threads.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::oneshot;

use super::DatabaseError;

/// How long a caller waits for room in a queue before it looks again.
const FULL: Duration = Duration::from_millis(1);

type Query = Box<dyn FnOnce() + Send>;

/// Queries in the order in which they came, and at most so many threads that take from them. Whoever asked holds no place
/// meanwhile: a task that is not polled for a while, as one of several that a worker has under way, would keep it from
/// everybody. Clones share both.
#[derive(Clone)]
pub struct Queries {
    most: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Query>,
    threads: usize,
}

impl fmt::Debug for Queries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queries").field("most", &self.most).finish_non_exhaustive()
    }
}

/// Puts something into a bounded queue. While it is full, as under overload, callers wait here without holding a thread.
///
/// # Errors
/// [`DatabaseError::Closed`] when nobody takes from it any more.
pub async fn queue<T>(queue: &mpsc::SyncSender<T>, mut what: T) -> Result<(), DatabaseError> {
    loop {
        match queue.try_send(what) {
            Ok(()) => return Ok(()),
            Err(mpsc::TrySendError::Full(back)) => {
                what = back;
                tokio::time::sleep(FULL).await;
            }
            Err(mpsc::TrySendError::Disconnected(_)) => return Err(DatabaseError::Closed),
        }
    }
}

impl Queries {
    /// For so many at once, each in a thread of the pool for work that waits.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, state: Arc::default() }
    }

    /// Runs a query when it is its turn; not at all when nobody waits for it any more.
    ///
    /// # Errors
    /// The query's own, and [`DatabaseError::Failed`] when it panicked.
    pub async fn ask<T: Send + 'static>(
        &self,
        query: impl FnOnce() -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let (answer, wait) = oneshot::channel();
        let query: Query = Box::new(move || {
            if !answer.is_closed() {
                let _ = answer.send(query());
            }
        });
        let another_thread = {
            let mut state = self.state();
            state.waiting.push_back(query);
            let another = state.threads < self.most;
            state.threads += usize::from(another);
            another
        };
        if another_thread {
            let queries = self.clone();
            drop(tokio::task::spawn_blocking(move || queries.run()));
        }
        wait.await.map_err(|_| DatabaseError::Failed("the query was not run".into()))?
    }

    fn run(&self) {
        loop {
            let next = {
                let mut state = self.state();
                let next = state.waiting.pop_front();
                // With the same lock: whoever adds a query sees either this thread or that it needs another one.
                state.threads -= usize::from(next.is_none());
                next
            };
            let Some(query) = next else { return };
            // Whoever asked learns it from the answer that never comes.
            let _ = catch_unwind(AssertUnwindSafe(query));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn whoever_asks_and_is_not_polled_keeps_no_place() {
        let queries = Queries::new(4);
        // Asked and then left alone, as futures are whose owner waits for something else.
        let mut left: Vec<_> = (0..16).map(|n| Box::pin(queries.ask(move || Ok(n)))).collect();
        for query in &mut left {
            let _ = query.as_mut().now_or_never();
        }
        let mine = tokio::time::timeout(Duration::from_secs(30), queries.ask(|| Ok("mine"))).await;
        assert_eq!(mine.expect("in time").unwrap(), "mine");
        drop(left);
    }

    #[tokio::test]
    async fn a_query_that_panics_takes_nothing_with_it() {
        let queries = Queries::new(2);
        for _ in 0..8 {
            let failed = queries.ask(|| -> Result<(), DatabaseError> { panic!("as a test") }).await;
            assert!(matches!(failed, Err(DatabaseError::Failed(_))), "{failed:?}");
        }
        assert_eq!(queries.ask(|| Ok(1)).await.unwrap(), 1);
    }
}
