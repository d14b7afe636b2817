//! Credentials that are kept as long as they are good.

use reqsign_core::{Error, SigningCredential};
use tokio::sync::Mutex;

use super::{Fault, Kind};

/// Those of one store, asked for again shortly before they expire.
pub(in crate::blob) struct Current<C> {
    current: Mutex<Option<C>>,
    /// What can be done where there are none.
    remedy: &'static str,
}

impl<C: SigningCredential + Clone> Current<C> {
    pub(in crate::blob) fn new(remedy: &'static str) -> Self {
        Self { current: Mutex::default(), remedy }
    }

    /// Credentials that hold for some minutes more; `provide` has new ones, or says why not. It is asked once at a time.
    pub(in crate::blob) async fn get<F>(&self, provide: impl FnOnce() -> F) -> Result<C, Fault>
    where
        F: Future<Output = Result<Option<C>, String>>,
    {
        // Whoever comes meanwhile waits for the one that asks.
        let mut current = self.current.lock().await;
        if let Some(credential) = current.as_ref().filter(|credential| credential.is_valid()) {
            return Ok(credential.clone());
        }
        match provide().await {
            Ok(Some(credential)) => Ok(current.insert(credential).clone()),
            Ok(None) => Err(nobody("none were found", self.remedy)),
            Err(why) => Err(nobody(&why, self.remedy)),
        }
    }

    /// The store refused these: they are asked for anew.
    pub(in crate::blob) async fn forget(&self) {
        *self.current.lock().await = None;
    }

    /// From now on these, as long as they are good.
    #[cfg(test)]
    pub(in crate::blob) async fn set(&self, credential: C) {
        *self.current.lock().await = Some(credential);
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
