//! Who asks: a key as a bearer token, as `X-API-Key` or as `api-key`, and how often.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use governor::Quota;
use governor::clock::Clock as _;
use governor::nanos::Nanos;
use governor::state::keyed::DefaultKeyedStateStore;

use crate::clock::Clock;
use crate::config::Config;
use crate::credential::hash_key;
use crate::engine::Engine;
use crate::model::access::Caller;
use crate::model::ids::KeyId;
use crate::model::refusal::Refusal;

/// Credentials looked at in one request: each costs a look into the database.
const CREDENTIALS_MAX: usize = 4;
/// Headers that carry a key by itself.
pub const KEY_HEADERS: [&str; 2] = ["x-api-key", "api-key"];
/// After so many requests, keys that have been quiet are forgotten.
const FORGET_EVERY: u32 = 1024;

/// Whoever holds the keys that a request presents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Holder {
    /// The caller: of several keys of one tenant, the first one's.
    One(Caller),
    /// Callers of two tenants: whose call it would be nobody can say.
    Two([Caller; 2]),
}

/// Who sent this request, without counting it.
///
/// # Errors
/// [`Refusal::NoCredential`], [`Refusal::BadCredential`], [`Refusal::Unavailable`].
pub async fn holder(engine: &Engine, headers: &HeaderMap) -> Result<Holder, Refusal> {
    let mut presented = false;
    let mut found: Option<(&str, Caller)> = None;
    let tokens = headers.get_all(AUTHORIZATION).iter().map(|value| bearer(value.as_bytes()));
    let keys = KEY_HEADERS.into_iter().flat_map(|name| headers.get_all(name)).map(|value| Some(value.as_bytes()));
    for key in tokens.chain(keys).take(CREDENTIALS_MAX) {
        presented = true;
        let Some(key) = key.and_then(|key| std::str::from_utf8(key).ok()).map(str::trim) else { continue };
        if key.is_empty() || found.as_ref().is_some_and(|(known, _)| *known == key) {
            continue;
        }
        let Some(caller) = engine.meta.caller(hash_key(key), engine.clock.now()).await? else { continue };
        match &found {
            Some((_, first)) if first.tenant != caller.tenant => return Ok(Holder::Two([first.clone(), caller])),
            Some(_) => {}
            None => found = Some((key, caller)),
        }
    }
    match found {
        Some((_, caller)) => Ok(Holder::One(caller)),
        None => Err(if presented { Refusal::BadCredential } else { Refusal::NoCredential }),
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// Our clock, as the limiter asks it.
#[derive(Clone)]
struct Ticking(Clock);

impl governor::clock::Clock for Ticking {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.monotonic())
    }
}

type Limiter =
    governor::RateLimiter<KeyId, DefaultKeyedStateStore<KeyId>, Ticking, governor::middleware::NoOpMiddleware<Nanos>>;

/// How many requests a key may send. Keys that are quiet take no memory.
pub struct RateLimiter {
    limiter: Option<Limiter>,
    clock: Ticking,
    checked: AtomicU32,
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter").field("limits", &self.limiter.is_some()).finish_non_exhaustive()
    }
}

impl RateLimiter {
    /// The configured limit; none without one.
    #[must_use]
    pub fn new(config: &Config, clock: &Clock) -> Self {
        let clock = Ticking(clock.clone());
        let limiter = config.rate_limit.and_then(NonZeroU32::new).map(|rate| {
            let burst = config.rate_burst.and_then(NonZeroU32::new).unwrap_or(rate);
            let quota = Quota::per_second(rate).allow_burst(burst);
            governor::RateLimiter::new(quota, DefaultKeyedStateStore::default(), clock.clone())
        });
        Self { limiter, clock, checked: AtomicU32::new(0) }
    }

    /// Counts a request of this key.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`] with a time of whole seconds, at least one.
    pub fn check(&self, key: KeyId) -> Result<(), Refusal> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        if self.checked.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            limiter.retain_recent();
        }
        limiter.check_key(&key).map_err(|early| {
            let wait = early.wait_time_from(self.clock.now());
            let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            Refusal::RateLimited { retry_after: Duration::from_secs(whole.max(1)) }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::blob::{Form, Memory};
    use crate::clock::random_uuid;
    use crate::credential::new_key;
    use crate::engine::Policy;
    use crate::meta::KeyInfo;
    use crate::meta::sqlite::SqliteMeta;
    use crate::meta::{MetaStore, TenantInfo};
    use crate::model::access::Rights;
    use crate::search::SqliteSearch;
    use crate::ticket::Tickets;

    async fn engine(directory: &std::path::Path, key: &str, expires: Duration) -> Engine {
        let meta = SqliteMeta::open(directory).expect("a database");
        let clock = Clock::system();
        let created = clock.now();
        let tenant = TenantInfo::new("t".into(), "auto", created);
        assert!(meta.create_tenant(tenant).await.expect("a tenant"));
        let info = KeyInfo {
            id: KeyId(random_uuid()),
            tenant: "t".into(),
            name: "test".into(),
            rights: Rights::all(),
            created,
            expires: Some(created.plus(expires)),
            revoked: None,
        };
        meta.create_key(info, hash_key(key), None).await.expect("a key");
        Engine::new(
            Arc::new(meta),
            Arc::new(Memory::new(Form::Disk, clock.clone())),
            Arc::new(SqliteSearch::open(directory).expect("an index")),
            clock,
            Tickets::new(b"secret"),
            Policy::default(),
        )
    }

    fn headers(lines: &[(&'static str, String)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    #[tokio::test]
    async fn one_valid_credential_is_enough() {
        let directory = tempfile::tempdir().expect("a directory");
        let key = new_key();
        let engine = engine(directory.path(), &key, Duration::from_secs(60)).await;
        let ask = |lines: &[(&'static str, String)]| {
            let headers = headers(lines);
            let engine = &engine;
            async move {
                holder(engine, &headers).await.map(|holder| match holder {
                    Holder::One(caller) => caller.tenant.0,
                    Holder::Two(callers) => panic!("{callers:?}"),
                })
            }
        };
        let (good, bad) = (key.clone(), new_key());
        for lines in [
            vec![("authorization", format!("Bearer {good}"))],
            vec![("authorization", format!("bearer  {good}"))],
            vec![("x-api-key", good.clone())],
            vec![("api-key", good.clone())],
            vec![("x-api-key", bad.clone()), ("api-key", good.clone())],
            vec![("authorization", format!("Bearer {bad}")), ("x-api-key", good.clone())],
            vec![("authorization", format!("Bearer {good}")), ("x-api-key", bad.clone())],
            vec![("authorization", "Basic abc".into()), ("x-api-key", good.clone())],
        ] {
            assert_eq!(ask(&lines).await, Ok("t".into()), "{lines:?}");
        }
        for lines in [
            vec![("authorization", format!("Bearer {bad}"))],
            vec![("authorization", format!("Basic {good}"))],
            vec![("authorization", good.clone())],
            vec![("authorization", "Bearer".into())],
            vec![("authorization", "Bearer ".into())],
            vec![("x-api-key", String::new())],
            vec![("x-api-key", format!("Bearer {good}"))],
        ] {
            assert_eq!(ask(&lines).await, Err(Refusal::BadCredential), "{lines:?}");
        }
        assert_eq!(ask(&[]).await, Err(Refusal::NoCredential));
        engine.clock.advance(Duration::from_secs(61));
        assert_eq!(ask(&[("x-api-key", good)]).await, Err(Refusal::BadCredential));
    }

    #[test]
    fn a_key_has_its_own_limit_and_is_told_when_to_come_again() {
        let clock = Clock::system();
        let config = Config { rate_limit: Some(2), rate_burst: Some(3), ..Config::default() };
        let limiter = RateLimiter::new(&config, &clock);
        let (one, two) = (KeyId(random_uuid()), KeyId(random_uuid()));
        for _ in 0..3 {
            assert_eq!(limiter.check(one), Ok(()));
        }
        assert_eq!(limiter.check(one), Err(Refusal::RateLimited { retry_after: Duration::from_secs(1) }));
        assert_eq!(limiter.check(two), Ok(()));
        clock.advance(Duration::from_secs(1));
        assert_eq!(limiter.check(one), Ok(()));
        for _ in 0..5000 {
            assert_eq!(limiter.check(KeyId(random_uuid())), Ok(()));
            clock.advance(Duration::from_secs(1));
        }
        let kept = limiter.limiter.as_ref().map_or(0, governor::RateLimiter::len);
        assert!(kept < 2000, "{kept} keys are remembered");
        let free = RateLimiter::new(&Config::default(), &clock);
        assert!((0..1000).all(|_| free.check(one).is_ok()));
    }
}
