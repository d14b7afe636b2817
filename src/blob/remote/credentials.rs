//! Credentials that are kept as long as they are good.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqsign_core::time::Timestamp;
use reqsign_core::{Error, SigningCredential};
use tokio::sync::Mutex as Turn;

use super::{Fault, Kind};
use crate::clock::Clock;

/// When so little of their life is left, new ones are asked for: whoever hands them out may be away for a while.
const RENEWED: Duration = Duration::from_secs(5 * 60);
/// Between two such questions, as long as the old ones are good.
const PAUSE: Duration = Duration::from_secs(30);

/// Those of one store.
pub(in crate::blob) struct Current<C> {
    kept: Mutex<Kept<C>>,
    /// Who has it asks.
    turn: Turn<()>,
    clock: Clock,
    /// What can be done where there are none.
    remedy: &'static str,
}

struct Kept<C> {
    credential: Option<C>,
    /// When they were asked for last, by the monotonic clock.
    asked: Option<Duration>,
    /// Why there are none, and since when.
    failed: Option<(Duration, Fault)>,
}

impl<C: SigningCredential + Clone> Current<C> {
    pub(in crate::blob) fn new(remedy: &'static str) -> Self {
        Self::by(Clock::system(), remedy)
    }

    fn by(clock: Clock, remedy: &'static str) -> Self {
        let kept = Mutex::new(Kept { credential: None, asked: None, failed: None });
        Self { kept, turn: Turn::default(), clock, remedy }
    }

    fn kept(&self) -> MutexGuard<'_, Kept<C>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Credentials that are good; `provide` has new ones, or says why not. It is asked once at a time, and whoever waits
    /// meanwhile gets the same answer.
    pub(in crate::blob) async fn get<F>(&self, provide: impl FnOnce() -> F) -> Result<C, Fault>
    where
        F: Future<Output = Result<Option<C>, String>>,
    {
        let came = self.clock.monotonic();
        let old = self.good();
        let _turn = match &old {
            Some((old, true)) => return Ok(old.clone()),
            Some((old, false)) => match self.turn.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(old.clone()),
            },
            None => {
                let turn = self.turn.lock().await;
                if let Some((credential, _)) = self.good() {
                    return Ok(credential);
                }
                if let Some((_, fault)) = self.kept().failed.as_ref().filter(|(at, _)| *at >= came) {
                    return Err(fault.clone());
                }
                turn
            }
        };
        self.kept().asked = Some(came);
        let why = match provide().await {
            Ok(Some(credential)) => {
                let mut kept = self.kept();
                kept.failed = None;
                return Ok(kept.credential.insert(credential).clone());
            }
            Ok(None) => "none were found".to_owned(),
            Err(why) => why,
        };
        if let Some((old, _)) = old {
            tracing::warn!(why, "no new credentials for the store; the old ones are good for some minutes");
            return Ok(old);
        }
        let fault = nobody(&why, self.remedy);
        self.kept().failed = Some((self.clock.monotonic(), fault.clone()));
        Err(fault)
    }

    /// Those that are there and good; may they stay for now?
    fn good(&self) -> Option<(C, bool)> {
        let kept = self.kept();
        let credential = kept.credential.clone().filter(SigningCredential::is_valid)?;
        let later = Timestamp::from_millisecond(self.clock.now().plus(RENEWED).millis()).ok()?;
        let just_asked = kept.asked.is_some_and(|at| self.clock.monotonic().saturating_sub(at) < PAUSE);
        let may_stay = credential.is_valid_at(later) || just_asked;
        Some((credential, may_stay))
    }

    /// The store refused these: they are asked for anew.
    pub(in crate::blob) async fn forget(&self) {
        self.kept().credential = None;
    }

    /// From now on these, as long as they are good.
    #[cfg(test)]
    pub(in crate::blob) async fn set(&self, credential: C) {
        self.kept().credential = Some(credential);
    }
}

/// Nothing says who we are.
pub(in crate::blob) fn nobody(why: &str, remedy: &str) -> Fault {
    Fault { kind: Kind::Passing, what: format!("no credentials for the store: {why}. {remedy}") }
}

/// Why asking failed. What the error says itself may quote what was answered; its kind says enough.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(in crate::blob) fn not_told(error: Error) -> String {
    format!("asking for them failed ({:?})", error.kind())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Good until then, by the machine's clock.
    #[derive(Clone, Debug)]
    struct Until(&'static str, Timestamp);

    impl SigningCredential for Until {
        fn is_valid(&self) -> bool {
            self.is_valid_at(Timestamp::now() + Duration::from_secs(20))
        }

        fn is_valid_at(&self, time: Timestamp) -> bool {
            self.1 > time
        }
    }

    fn until(name: &'static str, seconds: u64) -> Option<Until> {
        Some(Until(name, Timestamp::now() + Duration::from_secs(seconds)))
    }

    #[tokio::test]
    async fn what_is_about_to_end_is_renewed_and_serves_until_then() {
        let clock = Clock::system();
        let current = Current::by(clock.clone(), "Ask.");
        let asked = AtomicUsize::new(0);
        let get = async |answer: Result<Option<Until>, String>| {
            let provide = async || {
                asked.fetch_add(1, Ordering::SeqCst);
                answer
            };
            current.get(provide).await.map(|Until(name, _)| name).map_err(|fault| fault.what)
        };
        let away = || Err("away".to_owned());
        assert_eq!(get(away()).await.unwrap_err(), "no credentials for the store: away. Ask.");
        assert_eq!(get(Ok(until("long", 3600))).await.unwrap(), "long");
        assert_eq!(get(away()).await.unwrap(), "long");
        assert_eq!(asked.load(Ordering::SeqCst), 2, "nobody is asked while they are good for long");
        current.set(until("short", 200).unwrap()).await;
        clock.advance(PAUSE);
        assert_eq!(get(away()).await.unwrap(), "short", "whoever hands them out may be away");
        assert_eq!(get(away()).await.unwrap(), "short");
        assert_eq!(asked.load(Ordering::SeqCst), 3, "and is not asked by every call");
        clock.advance(PAUSE);
        assert_eq!(get(Ok(until("new", 3600))).await.unwrap(), "new");
        current.set(until("over", 10).unwrap()).await;
        assert!(get(away()).await.is_err());
        current.set(until("refused", 3600).unwrap()).await;
        current.forget().await;
        assert!(get(Ok(None)).await.unwrap_err().contains("none were found"));
    }

    #[tokio::test]
    async fn who_waits_gets_the_answer_of_who_asks() {
        let current = Arc::new(Current::<Until>::by(Clock::system(), "Ask."));
        let asked = Arc::new(AtomicUsize::new(0));
        for (round, answer) in
            [Err("away".to_owned()), Ok(until("short", 200)), Ok(until("short", 200))].into_iter().enumerate()
        {
            let calls = (0..20).map(|_| {
                let (current, asked, answer) = (Arc::clone(&current), Arc::clone(&asked), answer.clone());
                tokio::spawn(async move {
                    let provide = async || {
                        asked.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        answer
                    };
                    current.get(provide).await.is_ok()
                })
            });
            for call in calls.collect::<Vec<_>>() {
                assert_eq!(call.await.unwrap(), round > 0);
            }
            assert_eq!(asked.load(Ordering::SeqCst), (round + 1).min(2), "{round}");
        }
    }
}
