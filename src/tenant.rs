//! The verbs on a tenant itself: its keys, what it holds, why its requests were refused.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::clock::{Timestamp, ordered_uuid};
use crate::credential;
use crate::engine::{Engine, RefusalRecord};
use crate::meta::{KeyCreated, KeyInfo, Marked, Once, Usage};
use crate::model::access::{Caller, Right, Rights};
use crate::model::ids::{KeyId, TenantId};
use crate::model::refusal::Refusal;

/// How long a marked call is recognised.
const MARK_KEPT: Duration = Duration::from_secs(24 * 3600);

/// A client's mark on a call, with a digest of what is called and with which body.
#[must_use]
pub fn once(mark: String, call: &str, body: &[u8], now: Timestamp) -> Once {
    let digest = Sha256::new().chain_update(call).chain_update([0]).chain_update(body);
    Once { mark, body: digest.finalize().into(), since: now.minus(MARK_KEPT) }
}

/// The answer that an equal call got before, if there was one.
///
/// # Errors
/// [`Refusal::Invalid`] for a mark that stands for another call.
pub async fn recall(engine: &Engine, tenant: &TenantId, once: &Once) -> Result<Option<Vec<u8>>, Refusal> {
    first(engine.meta.recall(tenant, once.clone()).await?)
}

/// Keeps the answer of a marked call. If an equal call was faster, its answer holds, and is returned.
///
/// # Errors
/// As [`recall`].
pub async fn remember(
    engine: &Engine,
    tenant: &TenantId,
    once: Once,
    answer: Vec<u8>,
) -> Result<Option<Vec<u8>>, Refusal> {
    first(engine.meta.remember(tenant, once, answer, engine.clock.now()).await?)
}

fn first(marked: Marked) -> Result<Option<Vec<u8>>, Refusal> {
    match marked {
        Marked::New => Ok(None),
        Marked::Before(answer) => Ok(Some(answer)),
        Marked::OtherBody => Err(Refusal::other_call()),
    }
}

/// Checks a right of the caller in its own tenant.
///
/// # Errors
/// [`Refusal::Forbidden`].
pub fn check(caller: &Caller, right: Right) -> Result<(), Refusal> {
    if caller.rights.has(right) { Ok(()) } else { Err(Refusal::Forbidden { right: right.name() }) }
}

/// Checks a right of the caller for a change in its own tenant.
///
/// # Errors
/// [`Refusal::Forbidden`], [`Refusal::TenantPaused`].
fn check_change(caller: &Caller, right: Right) -> Result<(), Refusal> {
    check(caller, right)?;
    if caller.paused { Err(Refusal::TenantPaused) } else { Ok(()) }
}

/// A key to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewKey {
    /// What to call it.
    pub name: String,
    /// What it may do: nothing that its maker may not.
    pub rights: Rights,
    /// When it stops working.
    pub expires: Option<Timestamp>,
    /// The client's mark on the call, and the call's body.
    pub once: Option<(String, Vec<u8>)>,
}

/// Makes a key. The key itself is given only by the call that made it, not by its repetition.
///
/// # Errors
/// [`Refusal::Forbidden`] for a right that the caller has not, [`Refusal::TenantPaused`], [`Refusal::Invalid`] for a mark that was used on
/// another body.
pub async fn create_key(engine: &Engine, caller: &Caller, new: NewKey) -> Result<(KeyInfo, Option<String>), Refusal> {
    check_change(caller, Right::Keys)?;
    if let Some(beyond) = Right::ALL.into_iter().find(|r| new.rights.has(*r) && !caller.rights.has(*r)) {
        return Err(Refusal::Forbidden { right: beyond.name() });
    }
    let now = engine.clock.now();
    let key = credential::new_key();
    let info = KeyInfo {
        id: KeyId(ordered_uuid(now)),
        tenant: caller.tenant.clone(),
        name: new.name,
        rights: new.rights,
        created: now,
        // A key does not outlive the key that made it.
        expires: [new.expires, caller.expires].into_iter().flatten().min(),
        revoked: None,
    };
    let once = new.once.map(|(mark, body)| once(mark, "keys", &body, now));
    match engine.meta.create_key(info.clone(), credential::hash_key(&key), once).await? {
        KeyCreated::New => Ok((info, Some(key))),
        KeyCreated::Before(info) => Ok((info, None)),
        KeyCreated::OtherBody => Err(Refusal::other_call()),
    }
}

/// The tenant's keys, newest first.
///
/// # Errors
/// [`Refusal::Forbidden`].
pub async fn keys(engine: &Engine, caller: &Caller) -> Result<Vec<KeyInfo>, Refusal> {
    check(caller, Right::Keys)?;
    Ok(engine.meta.keys(Some(&caller.tenant)).await?)
}

/// Revokes a key of the tenant, at once.
///
/// # Errors
/// [`Refusal::Forbidden`], [`Refusal::TenantPaused`], [`Refusal::NotFound`].
pub async fn revoke_key(engine: &Engine, caller: &Caller, id: &str) -> Result<(), Refusal> {
    check_change(caller, Right::Keys)?;
    let unknown = Refusal::NotFound { what: "the key" };
    let Ok(id) = id.parse::<KeyId>() else { return Err(unknown) };
    if engine.meta.revoke_key(Some(&caller.tenant), id, engine.clock.now()).await? { Ok(()) } else { Err(unknown) }
}

/// What the tenant holds.
///
/// # Errors
/// [`Refusal::Forbidden`].
pub async fn usage(engine: &Engine, caller: &Caller) -> Result<Usage, Refusal> {
    check(caller, Right::Read)?;
    Ok(engine.meta.usage(&caller.tenant).await?)
}

/// Why a request of the tenant was refused, if that is still remembered.
///
/// # Errors
/// [`Refusal::NotFound`].
pub fn refusal(engine: &Engine, caller: &Caller, request_id: &str) -> Result<RefusalRecord, Refusal> {
    engine.refusals.of(&caller.tenant, request_id).ok_or(Refusal::NotFound { what: "the refusal" })
}
