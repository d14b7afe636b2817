//! Issuers' keys: fetched when a token needs them, kept while they are fresh, and kept on while their issuer is silent.
//!
//! One call at a time goes to an issuer, on a task of its own: whoever waits for it may go away without ending it, and no
//! issuer makes the tokens of another wait. How often an issuer is called does not depend on what tokens say:
//!
//! | what is known | it is called |
//! |---|---|
//! | no keys | at once, then every [`JWKS_RETRY`] until it answers |
//! | keys, their life over | at once, then every [`JWKS_PAUSE`]; until then the old ones hold, for [`JWKS_STALE`] |
//! | fresh keys, not the one that is asked for | every [`JWKS_PAUSE`] |

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use serde::Deserialize;

use super::jwks::{Key, Keys};
use crate::clock::Clock;
use crate::limits::{
    ISSUER_CONNECT, ISSUER_TIME, JWKS_BYTES, JWKS_LIFE, JWKS_LIFE_MIN, JWKS_PAUSE, JWKS_RETRY, JWKS_STALE,
};
use crate::model::issuer::{Algorithm, KeySource};
use crate::outbound::{Bounds, Outbound, OutboundError};

/// What became of the search for a key.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// This is it.
    Key(Key),
    /// The issuer has none such.
    Unknown,
    /// It has several, and the token names none.
    Many,
    /// The issuer did not say. The sentence tells why.
    Silent(String),
}

/// Every issuer's keys.
pub(super) struct KeyRing {
    clock: Clock,
    /// To this machine without a proxy, and to others.
    http: OnceLock<Result<[Outbound; 2], OutboundError>>,
    issuers: Mutex<HashMap<KeySource, Arc<Mutex<State>>>>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyRing")
    }
}

/// What is known of one issuer's keys. Times are the clock's monotonic ones.
#[derive(Default)]
struct State {
    keys: Option<Kept>,
    /// When it was last called.
    called: Option<Duration>,
    /// When it was last called for the sake of a key that fresh ones did not have.
    looked: Option<Duration>,
    /// Why the last call brought nothing.
    failed: Option<String>,
    flight: Option<Flight>,
    /// When a token last needed it.
    used: Duration,
}

struct Kept {
    keys: Keys,
    since: Duration,
    life: Duration,
}

/// A call that is under way.
type Flight = Shared<BoxFuture<'static, ()>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KeyRing {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, http: OnceLock::new(), issuers: Mutex::default() }
    }

    /// The key of an issuer by which a token is to be judged.
    pub(super) async fn find(self: &Arc<Self>, source: &KeySource, kid: Option<&str>, algorithm: Algorithm) -> Found {
        let state = self.state(source);
        let mut waited = false;
        // At most one call is waited for, so that this ends.
        loop {
            let flight = {
                let mut known = lock(&state);
                let now = self.clock.monotonic();
                known.used = now;
                let (found, fresh) = known.look(kid, algorithm, now);
                let usable = matches!(found, Found::Key(_) | Found::Many);
                if waited || (usable && fresh) {
                    return found;
                }
                let flight = match &known.flight {
                    Some(flight) => flight.clone(),
                    None if known.may_call(fresh, now) => {
                        let flight = self.call(source, &state);
                        known.called = Some(now);
                        if fresh {
                            known.looked = Some(now);
                        }
                        known.flight = Some(flight.clone());
                        flight
                    }
                    None => return found,
                };
                // An issuer that is down is called again, but nobody whose key is known waits for it a second time.
                if usable && known.failed.is_some() {
                    return found;
                }
                flight
            };
            flight.await;
            waited = true;
        }
    }

    fn state(&self, source: &KeySource) -> Arc<Mutex<State>> {
        let mut issuers = lock(&self.issuers);
        if let Some(state) = issuers.get(source) {
            return Arc::clone(state);
        }
        // What no token needed for so long is no tenant's issuer any more, or as good as.
        let now = self.clock.monotonic();
        issuers.retain(|_, state| now.saturating_sub(lock(state).used) < JWKS_STALE);
        let state = Arc::new(Mutex::new(State { used: now, ..State::default() }));
        issuers.insert(source.clone(), Arc::clone(&state));
        state
    }

    /// Begins a call, on its own task.
    fn call(self: &Arc<Self>, source: &KeySource, state: &Arc<Mutex<State>>) -> Flight {
        let (ring, source, state) = (Arc::clone(self), source.clone(), Arc::clone(state));
        let task = tokio::spawn(async move {
            let answer = ring.fetch(&source).await;
            let mut known = lock(&state);
            known.flight = None;
            match answer {
                Ok((keys, life)) => {
                    let (count, beyond) = keys.count();
                    tracing::info!(url = source.url, count, beyond, "an issuer's keys were fetched");
                    known.keys = Some(Kept { keys, since: ring.clock.monotonic(), life });
                    known.failed = None;
                }
                Err(what) => {
                    tracing::warn!(url = source.url, what, "an issuer's keys can't be fetched");
                    known.failed = Some(what);
                }
            }
        });
        async move { drop(task.await) }.boxed().shared()
    }

    async fn fetch(&self, source: &KeySource) -> Result<(Keys, Duration), String> {
        let made = self.http.get_or_init(|| {
            let bounds = Bounds { connect: ISSUER_CONNECT, whole: ISSUER_TIME, answer_bytes: JWKS_BYTES };
            Ok([Outbound::bounded(bounds, true)?, Outbound::bounded(bounds, false)?])
        });
        let [direct, others] = made.as_ref().map_err(ToString::to_string)?;
        let http = if source.is_local() { direct } else { others };
        match tokio::time::timeout(ISSUER_TIME, fetch(http, source)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("there was no answer within {} seconds", ISSUER_TIME.as_secs())),
        }
    }
}

impl State {
    /// What the kept keys say, and are they fresh?
    fn look(&self, kid: Option<&str>, algorithm: Algorithm, now: Duration) -> (Found, bool) {
        let silent = || Found::Silent(self.failed.clone().unwrap_or_else(|| String::from("it was not asked yet")));
        let Some(kept) = self.kept(now) else {
            return (silent(), false);
        };
        let mut fitting = kept.keys.fitting(kid, algorithm);
        let found = match (fitting.next(), fitting.next()) {
            (Some(key), None) => Found::Key(key.clone()),
            // One name for two keys: the first, so that what holds does not depend on the signature.
            (Some(key), Some(_)) if kid.is_some() => Found::Key(key.clone()),
            (Some(_), Some(_)) => Found::Many,
            // An issuer that does not answer may have made this key since.
            (None, _) if self.failed.is_some() => silent(),
            (None, _) => Found::Unknown,
        };
        (found, now.saturating_sub(kept.since) < kept.life)
    }

    fn may_call(&self, fresh: bool, now: Duration) -> bool {
        let over = |last: Option<Duration>, pause| last.is_none_or(|last| now.saturating_sub(last) >= pause);
        if fresh {
            return over(self.looked, JWKS_PAUSE);
        }
        let usable = self.kept(now).is_some();
        over(self.called, if usable { JWKS_PAUSE } else { JWKS_RETRY })
    }

    /// The last keys, unless they are too old to be believed.
    fn kept(&self, now: Duration) -> Option<&Kept> {
        self.keys.as_ref().filter(|kept| now.saturating_sub(kept.since) < JWKS_STALE)
    }
}

/// What is read of a discovery document (OpenID Connect Discovery 1.0, 3).
#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
}

async fn fetch(http: &Outbound, source: &KeySource) -> Result<(Keys, Duration), String> {
    let url = match &source.discovered {
        None => source.url.clone(),
        Some(issuer) => {
            let (body, _) = get(http, &source.url).await?;
            let document: Document = serde_json::from_slice(&body)
                .map_err(|_| format!("`{}` is no discovery document with `issuer` and `jwks_uri`", source.url))?;
            // Otherwise one issuer could have another's keys (4.3).
            if document.issuer != *issuer {
                return Err(format!("`{}` is the document of another issuer than `{issuer}`", source.url));
            }
            source.check(&document.jwks_uri)?;
            document.jwks_uri
        }
    };
    let (body, cache_control) = get(http, &url).await?;
    Ok((Keys::read(&body).map_err(|what| format!("`{url}`: {what}"))?, life(cache_control.as_deref())))
}

async fn get(http: &Outbound, url: &str) -> Result<(bytes::Bytes, Option<String>), String> {
    let (head, body) = http.get(url).await.map_err(|error| format!("`{url}`: {error}"))?;
    if head.status != 200 {
        return Err(format!("`{url}` answers with status {}", head.status));
    }
    Ok((body, head.header("cache-control").map(str::to_owned)))
}

/// How long keys are fresh by their answer's `Cache-Control`, within our bounds.
fn life(cache_control: Option<&str>) -> Duration {
    let mut life = JWKS_LIFE;
    for directive in cache_control.unwrap_or_default().split(',').map(str::trim) {
        if directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache") {
            life = Duration::ZERO;
        } else if let Some((name, seconds)) = directive.split_once('=')
            && name.trim().eq_ignore_ascii_case("max-age")
            && let Ok(seconds) = seconds.trim().trim_matches('"').parse()
        {
            life = life.min(Duration::from_secs(seconds));
        }
    }
    life.max(JWKS_LIFE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fresh_as_long_as_their_issuer_says_within_bounds() {
        for (header, seconds) in [
            (None, 3600),
            (Some(""), 3600),
            (Some("public, max-age=300, must-revalidate"), 300),
            (Some("Max-Age = \"300\""), 300),
            (Some("max-age=0"), 60),
            (Some("max-age=86400"), 3600),
            (Some("max-age=x"), 3600),
            (Some("max-age=-1"), 3600),
            (Some("no-store"), 60),
            (Some("no-cache, max-age=600"), 60),
        ] {
            assert_eq!(life(header), Duration::from_secs(seconds), "{header:?}");
        }
    }
}
