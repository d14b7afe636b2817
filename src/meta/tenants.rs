//! Tenants, their keys and their limits.

use super::sweep::StoreUsage;
use crate::clock::Timestamp;
use crate::model::access::Rights;
use crate::model::ids::{KeyId, SourceId, TenantId};
use crate::model::session::Session;

/// A key as it is listed: never the key itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyInfo {
    /// Its public id.
    pub id: KeyId,
    /// The tenant that it belongs to.
    pub tenant: TenantId,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub rights: Rights,
    /// When it was made.
    pub created: Timestamp,
    /// When it stops working.
    pub expires: Option<Timestamp>,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
}

/// A client's mark on a call: its repetition is recognised and has no second effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Once {
    /// What the client calls the call.
    pub mark: String,
    /// A digest of the call's body: the same mark on another body is a mistake.
    pub body: [u8; 32],
    /// Marks older than this are forgotten.
    pub since: Timestamp,
}

/// What is known about a marked call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Marked {
    /// The mark is new; from now on it stands for this call.
    New,
    /// An equal call got this answer.
    Before(Vec<u8>),
    /// The mark was used for another call or body.
    OtherBody,
}

/// What became of an upload that its client marked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opening {
    /// It is open.
    New,
    /// An equal call opened this one before.
    Before(Box<Session>),
    /// The mark was used for another call or body.
    OtherBody,
    /// The tenant's quota does not allow it.
    OverQuota(OverQuota),
}

/// What became of a new key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyCreated {
    /// It holds.
    New,
    /// An equal call made this one before.
    Before(KeyInfo),
    /// The mark was used for another body.
    OtherBody,
}

/// How many items a tenant may have and change; `None` is without a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ItemLimits {
    /// Items that one source may hold.
    pub per_source: Option<u64>,
    /// Items that may be added or changed in one day (UTC).
    pub per_day: Option<u64>,
}

/// A change of [`ItemLimits`]: the outer `None` leaves a limit as it is, the inner one takes it away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NewItemLimits {
    /// Items that one source may hold.
    pub per_source: Option<Option<u64>>,
    /// Items that may be added or changed in one day (UTC).
    pub per_day: Option<Option<u64>>,
}

/// How many items a push may add and change now; `None` is without a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ItemRoom {
    /// Items that may be added: what the source's limit leaves beside what it holds and what waits.
    pub puts: Option<u64>,
    /// Items that may be added or changed: what the day's limit leaves.
    pub changed: Option<u64>,
    /// The limits themselves.
    pub limits: ItemLimits,
}

/// A tenant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TenantInfo {
    /// Its id.
    pub id: TenantId,
    /// Which API its callers speak, or `auto`.
    pub api: String,
    /// When it was made.
    pub created: Timestamp,
    /// What it may hold.
    pub quota: Quota,
    /// Since when nothing is taken or changed, while it is paused.
    pub paused: Option<Timestamp>,
    /// How many items it may have and change.
    pub items: ItemLimits,
}

impl TenantInfo {
    /// A tenant as it begins: neither paused nor limited.
    #[must_use]
    pub fn new(id: TenantId, api: impl Into<String>, created: Timestamp) -> Self {
        Self { id, api: api.into(), created, paused: None, items: ItemLimits::default(), quota: Quota::default() }
    }
}

/// What a tenant may hold; `None` for no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quota {
    /// Bytes, committed and reserved by open sessions.
    pub bytes: Option<u64>,
    /// Open sessions.
    pub sessions: Option<u64>,
}

/// A quota that does not allow something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OverQuota {
    /// `bytes` or `open uploads`.
    pub what: &'static str,
    /// The quota.
    pub limit: u64,
    /// How much of it is in use or reserved.
    pub used: u64,
    /// How much more was asked for.
    pub wanted: u64,
}

/// Bytes and files of a tenant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Bytes in committed versions.
    pub bytes: u64,
    /// Committed versions.
    pub files: u64,
    /// Bytes that open sessions may still bring.
    pub reserved: u64,
    /// Open sessions.
    pub open_sessions: u64,
    /// What it may hold.
    pub quota: Quota,
    /// By source: id, items, bytes of their content.
    pub sources: Vec<(SourceId, u64, u64)>,
    /// By store.
    pub stores: Vec<StoreUsage>,
}
