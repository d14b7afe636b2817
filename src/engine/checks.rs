//! Work on one session that several calls may ask for at once and that is done once: the others wait, and find it done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::model::ids::SessionId;

type Waiting = Arc<Mutex<HashMap<SessionId, Arc<tokio::sync::Mutex<()>>>>>;

/// The sessions that somebody works on.
#[derive(Clone, Debug, Default)]
pub struct Checks(Waiting);

/// Keeps all others out as long as it lives.
#[derive(Debug)]
pub struct Alone {
    session: SessionId,
    /// Taken out when it is dropped.
    held: Option<OwnedMutexGuard<()>>,
    waiting: Waiting,
}

impl Checks {
    /// Waits until nobody else works on it.
    pub async fn enter(&self, session: SessionId) -> Alone {
        let own = {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(waiting.entry(session).or_default())
        };
        // Made before it waits: whoever gives up waiting tidies as well.
        let mut alone = Alone { session, held: None, waiting: Arc::clone(&self.0) };
        alone.held = Some(own.lock_owned().await);
        alone
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.held.take());
        // With the map in hand nobody comes to it, so that one whom nobody waits for or holds is forgotten.
        if waiting.get(&self.session).is_some_and(|own| Arc::strong_count(own) == 1) {
            waiting.remove(&self.session);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::clock::random_uuid;

    #[tokio::test(flavor = "multi_thread")]
    async fn one_at_a_time_and_nothing_is_left() {
        let checks = Checks::default();
        let (one, other) = (SessionId(random_uuid()), SessionId(random_uuid()));
        let inside = Arc::new(AtomicUsize::new(0));
        let each = (0..32).map(|_| {
            let (checks, inside) = (checks.clone(), Arc::clone(&inside));
            tokio::spawn(async move {
                let _alone = checks.enter(one).await;
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
            })
        });
        for done in each.collect::<Vec<_>>() {
            done.await.unwrap();
        }
        let held = checks.enter(one).await;
        // Another session is nobody's business, and who gives up leaves nothing.
        drop(checks.enter(other).await);
        assert!(tokio::time::timeout(Duration::from_millis(20), checks.enter(one)).await.is_err());
        drop(held);
        assert!(checks.0.lock().unwrap().is_empty());
    }
}
