//! Who asks: a key as a bearer token, as `X-API-Key` or as `api-key`, or a bearer token that an issuer signed; and how
//! often.

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
use crate::limits;
use crate::model::access::{Caller, Rights};
use crate::model::ids::{KeyId, TenantId};
use crate::model::issuer::{Issuer, Subject};
use crate::model::refusal::Refusal;
use crate::token::{Distrust, Token, Unfit, same_signature};

/// Credentials looked at in one request: each costs a look into the database.
const CREDENTIALS_MAX: usize = 4;
/// Headers that carry a key by itself.
pub const KEY_HEADERS: [&str; 2] = ["x-api-key", "api-key"];
/// After so many requests, keys that have been quiet are forgotten.
const FORGET_EVERY: u32 = 1024;

/// Why nobody is let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denied {
    /// What the wire is told.
    pub refusal: Refusal,
    /// The broken rules that somebody may know about.
    pub why: Vec<Why>,
}

/// Why credentials were refused, for those who may know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Why {
    /// Who may know: the tenant whose issuer judged the token, or whose key it was; `None` for nobody.
    pub tenant: Option<TenantId>,
    /// The broken rule, as a stable word.
    pub rule: &'static str,
    /// One sentence with the values; never the token.
    pub detail: String,
    /// Was it vouched for, by a signature that holds or a valid key? Without, anybody may have sent it.
    pub verified: bool,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, why: Vec::new() }
    }
}

impl Denied {
    fn token(tenant: Option<&TenantId>, unfit: Unfit, verified: bool) -> Self {
        let Unfit { rule, detail } = unfit;
        let why = Why { tenant: tenant.cloned(), rule, detail, verified };
        Self { refusal: Refusal::BadCredential, why: vec![why] }
    }

    fn silent(tenant: &TenantId, detail: String) -> Self {
        let why = Why { tenant: Some(tenant.clone()), rule: "issuer_silent", detail, verified: false };
        Self { refusal: Refusal::IssuerSilent { retry_after: limits::JWKS_RETRY }, why: vec![why] }
    }

    /// Whose call it would be nobody can say; both may know.
    fn two_tenants(callers: [Caller; 2]) -> Self {
        let why = callers.map(|caller| Why {
            tenant: Some(caller.tenant),
            rule: "two_tenants",
            detail: "the request presents valid credentials of two tenants: send the one that is meant".into(),
            verified: true,
        });
        Self { refusal: Refusal::BadCredential, why: why.into() }
    }
}

/// Who sent this request: whoever holds one of the keys that it presents, or is the subject of its token.
///
/// # Errors
/// [`Refusal::NoCredential`], [`Refusal::BadCredential`], [`Refusal::IssuerSilent`], [`Refusal::RateLimited`],
/// [`Refusal::Unavailable`].
pub async fn caller(engine: &Engine, limiter: &RateLimiter, headers: &HeaderMap) -> Result<Caller, Refusal> {
    caller_in(engine, limiter, headers, None).await.map_err(|denied| denied.refusal)
}

/// The same for a path that names a tenant: of tokens only those that this tenant's issuers signed are taken. A key is
/// taken whose ever it is; whether its tenant is the path's is for [`crate::upload::access`] to say.
///
/// # Errors
/// [`Denied`] with what [`caller`] refuses.
pub async fn caller_in(
    engine: &Engine,
    limiter: &RateLimiter,
    headers: &HeaderMap,
    tenant: Option<&TenantId>,
) -> Result<Caller, Denied> {
    let caller = holder_in(engine, headers, tenant).await?;
    limiter.check(caller.key)?;
    Ok(caller)
}

/// The same without counting the request.
///
/// # Errors
/// [`Denied`] with [`Refusal::NoCredential`], [`Refusal::BadCredential`], [`Refusal::IssuerSilent`] or
/// [`Refusal::Unavailable`].
pub async fn holder_in(engine: &Engine, headers: &HeaderMap, tenant: Option<&TenantId>) -> Result<Caller, Denied> {
    let mut denied = None;
    let mut found: Option<(Credential<'_>, Caller)> = None;
    for credential in credentials(headers) {
        // Clients send one key in two headers.
        if found.as_ref().is_some_and(|(known, _)| *known == credential) {
            continue;
        }
        let outcome = match credential {
            Credential::Key(key) => {
                engine.meta.caller(hash_key(key), engine.clock.now()).await.map_err(Refusal::from)?
            }
            Credential::Token(token) => match subject(engine, token, tenant).await {
                Ok(caller) => Some(caller),
                // What may hold is told before what does not; of either the first.
                Err(more) if denied.is_none() || more.refusal != Refusal::BadCredential => {
                    denied = Some(more);
                    None
                }
                Err(_) => None,
            },
            Credential::None => None,
        };
        match (outcome, &found) {
            (Some(caller), Some((_, first))) if first.tenant != caller.tenant => {
                return Err(Denied::two_tenants([first.clone(), caller]));
            }
            (Some(caller), None) => found = Some((credential, caller)),
            (Some(_), Some(_)) => {}
            (None, _) => drop(denied.get_or_insert_with(|| Refusal::BadCredential.into())),
        }
    }
    match found {
        Some((_, caller)) => Ok(caller),
        None => Err(denied.unwrap_or_else(|| Refusal::NoCredential.into())),
    }
}

/// Who asks, and what may they do where?
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspection {
    /// What the caller is called: the token's subject, or the key's id.
    pub subject: String,
    /// The tenants that it may enter, by their ids, with its rights there: at least one.
    pub tenants: Vec<(TenantId, Rights)>,
}

/// Who sent this request and where it may go, for a path that names no tenant. A token is good in every tenant that
/// trusts its issuer and has one of its audiences; the request is counted in the first of them.
///
/// # Errors
/// [`Denied`] with what [`caller`] refuses; [`Refusal::BadCredential`] for a token that is good nowhere.
pub async fn inspect(engine: &Engine, limiter: &RateLimiter, headers: &HeaderMap) -> Result<Inspection, Denied> {
    let mut denied = None;
    for credential in credentials(headers) {
        let callers = match credential {
            Credential::Key(key) => {
                let caller = engine.meta.caller(hash_key(key), engine.clock.now()).await.map_err(Refusal::from)?;
                caller.ok_or_else(|| Refusal::BadCredential.into()).map(|caller| vec![caller])
            }
            Credential::Token(token) => subjects(engine, token).await,
            Credential::None => Err(Refusal::BadCredential.into()),
        };
        match callers {
            Ok(callers) => {
                let Some(first) = callers.first() else { continue };
                limiter.check(first.key)?;
                let subject = first.subject.as_ref().map_or_else(|| first.key.to_string(), |s| s.name.clone());
                let tenants = callers.into_iter().map(|caller| (caller.tenant, caller.rights)).collect();
                return Ok(Inspection { subject, tenants });
            }
            Err(more) => {
                if denied.as_ref().is_none_or(|_: &Denied| more.refusal != Refusal::BadCredential) {
                    denied = Some(more);
                }
            }
        }
    }
    Err(denied.unwrap_or_else(|| Refusal::NoCredential.into()))
}

/// What a request presents.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Credential<'h> {
    Key(&'h str),
    Token(&'h str),
    /// Nothing that could be either.
    None,
}

fn credentials(headers: &HeaderMap) -> impl Iterator<Item = Credential<'_>> {
    fn text(value: Option<&[u8]>) -> Option<&str> {
        value.and_then(|value| std::str::from_utf8(value).ok()).map(str::trim).filter(|text| !text.is_empty())
    }
    let bearers = headers.get_all(AUTHORIZATION).iter().map(|value| match text(bearer(value.as_bytes())) {
        Some(token) if Token::has_form(token) => Credential::Token(token),
        Some(key) => Credential::Key(key),
        None => Credential::None,
    });
    let keys = KEY_HEADERS.into_iter().flat_map(|name| headers.get_all(name));
    let keys = keys.map(|value| text(Some(value.as_bytes())).map_or(Credential::None, Credential::Key));
    bearers.chain(keys).take(CREDENTIALS_MAX)
}

/// Whom a token is about, in the tenant of the path, or else in the one that trusts its issuer and has its audience.
async fn subject(engine: &Engine, text: &str, tenant: Option<&TenantId>) -> Result<Caller, Denied> {
    let token = Token::read(text).map_err(|unfit| Denied::token(tenant, unfit, false))?;
    let url = token.issuer().map_err(|unfit| Denied::token(tenant, unfit, false))?;
    let mut trusting = engine.meta.trusting(url, tenant).await.map_err(Refusal::from)?;
    if trusting.is_empty() {
        return Err(untrusted(&token, tenant));
    }
    // One issuer alone is asked whatever the audience: its refusal says more.
    if trusting.len() > 1 {
        trusting.retain(|(issuer, _)| token.is_for(&issuer.audiences));
    }
    match trusting.as_slice() {
        [(issuer, paused)] => {
            engine.tokens.check_signature(&token, issuer).await.map_err(|distrust| distrusted(issuer, distrust))?;
            vouched(engine, &token, issuer, *paused)
        }
        [] => {
            let detail = format!("no tenant that trusts the issuer has an audience of {}", token.shown_audiences());
            Err(Denied::token(None, Unfit { rule: "token_audience", detail }, false))
        }
        several => {
            let detail = format!("{} tenants take this token, and the path names none", several.len());
            Err(Denied::token(None, Unfit { rule: "token_ambiguous", detail }, false))
        }
    }
}

/// The same in every tenant in which the token gives a right.
async fn subjects(engine: &Engine, text: &str) -> Result<Vec<Caller>, Denied> {
    let token = Token::read(text).map_err(|unfit| Denied::token(None, unfit, false))?;
    let url = token.issuer().map_err(|unfit| Denied::token(None, unfit, false))?;
    let trusting = engine.meta.trusting(url, None).await.map_err(Refusal::from)?;
    let mut denied = None;
    let mut callers = Vec::new();
    // A signature holds or not for all who trust the issuer alike.
    let mut signatures: Vec<(&Issuer, Result<(), Distrust>)> = Vec::new();
    for (issuer, paused) in &trusting {
        let known = signatures.iter().find(|(other, _)| same_signature(issuer, other)).map(|(_, held)| held.clone());
        let held = match known {
            Some(held) => held,
            None => {
                let held = engine.tokens.check_signature(&token, issuer).await;
                signatures.push((issuer, held.clone()));
                held
            }
        };
        let caller = held.map_err(|distrust| distrusted(issuer, distrust));
        match caller.and_then(|()| vouched(engine, &token, issuer, *paused)) {
            Ok(caller) if caller.rights == Rights::default() => {}
            Ok(caller) => callers.push(caller),
            Err(more) => {
                denied.get_or_insert(more);
            }
        }
    }
    match callers.is_empty() {
        true => Err(denied.unwrap_or_else(|| untrusted(&token, None))),
        false => Ok(callers),
    }
}

fn untrusted(token: &Token, tenant: Option<&TenantId>) -> Denied {
    let who = tenant.map_or("no tenant trusts", |_| "the tenant does not trust");
    let detail = format!("{who} the issuer `{}`", token.shown_issuer());
    Denied::token(tenant, Unfit { rule: "token_issuer", detail }, false)
}

fn distrusted(issuer: &Issuer, distrust: Distrust) -> Denied {
    match distrust {
        Distrust::Unfit(unfit) => Denied::token(Some(&issuer.tenant), unfit, false),
        Distrust::Silent(what) => Denied::silent(&issuer.tenant, what),
    }
}

/// The caller that a token with a good signature makes.
fn vouched(engine: &Engine, token: &Token, issuer: &Issuer, paused: bool) -> Result<Caller, Denied> {
    let vouched =
        token.check(issuer, engine.clock.now()).map_err(|unfit| Denied::token(Some(&issuer.tenant), unfit, true))?;
    let subject = Subject { issuer: issuer.url.clone(), name: vouched.subject };
    Ok(Caller {
        key: subject.caller_id(&issuer.tenant),
        tenant: issuer.tenant.clone(),
        subject: Some(subject),
        rights: vouched.rights,
        expires: Some(vouched.expires),
        paused,
    })
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

/// How many requests a caller may send. Callers that are quiet take no memory.
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

    /// Counts a request of this caller.
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
    use crate::meta::sql::SqlMeta;
    use crate::meta::{MetaStore, TenantInfo};
    use crate::search::SqliteSearch;
    use crate::ticket::Tickets;

    async fn engine(directory: &std::path::Path, key: &str, expires: Duration) -> Engine {
        let meta = SqlMeta::open(directory).expect("a database");
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
        let limiter = RateLimiter::new(&Config::default(), &engine.clock);
        let ask = |lines: &[(&'static str, String)]| {
            let headers = headers(lines);
            let (engine, limiter) = (&engine, &limiter);
            async move { caller(engine, limiter, &headers).await.map(|caller| caller.tenant.0) }
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
