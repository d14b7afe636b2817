//! What one server works with: its keepers, its clock, its limits. The verbs are functions over it.

mod checks;
mod readers;
mod seats;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::blob::{BlobError, BlobStore};
use crate::clock::{Clock, Timestamp};
use crate::limits;
use crate::meta::{MetaError, MetaStore, OverQuota};
use crate::model::ids::{SessionId, TenantId};
use crate::model::refusal::Refusal;
use crate::search::{SearchError, SearchIndex};
use crate::ticket::Tickets;
use crate::token::Tokens;

pub use checks::{Alone, Checks};
pub use readers::{Kept, Readers};
pub use seats::{Called, Parked, Seats, Superseded, Turn};

/// The limits that are configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Largest container, in bytes, inclusive.
    pub container_max: u64,
    /// Below so many free bytes nothing new is taken.
    pub free_space_min: u64,
    /// Are unknown identity providers made on first use?
    pub create_providers: bool,
    /// Is the MD5 of resumable uploads computed, although no client asked for it?
    pub keep_md5: bool,
    /// Whose clients send to the store itself.
    pub direct: Vec<DirectWire>,
}

/// A wire whose clients send to the store itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectWire {
    /// The dialect's name.
    pub wire: String,
    /// Do its clients send the header with which the store takes one body only? Otherwise the store keeps versions.
    pub create_only: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            container_max: limits::CONTAINER_DEFAULT_BYTES,
            free_space_min: 256 * 1024 * 1024,
            create_providers: false,
            keep_md5: true,
            direct: Vec::new(),
        }
    }
}

/// One server's keepers and settings.
#[derive(Debug)]
pub struct Engine {
    /// The facts.
    pub meta: Arc<dyn MetaStore>,
    /// The bytes.
    pub blobs: Arc<dyn BlobStore>,
    /// The full text.
    pub search: Arc<dyn SearchIndex>,
    /// Time.
    pub clock: Clock,
    /// The signer of upload locations.
    pub tickets: Tickets,
    /// The judge of bearer tokens.
    pub tokens: Tokens,
    /// The configured limits.
    pub policy: Policy,
    /// Why requests were refused.
    pub refusals: Refusals,
    /// Wakes the processor.
    pub work: Wake,
    /// Who writes to which resumable session.
    pub seats: Arc<Seats>,
    /// Which segments are being read and may not be deleted.
    pub readers: Readers,
    /// Which sessions' bytes are being compared with what was declared.
    pub checks: Checks,
    /// The last trouble of uploads in progress.
    pub troubles: Troubles,
    /// Bodies that are being received.
    pub receiving: AtomicUsize,
}

impl Engine {
    /// An engine that has just been put together.
    #[must_use]
    pub fn new(
        meta: Arc<dyn MetaStore>,
        blobs: Arc<dyn BlobStore>,
        search: Arc<dyn SearchIndex>,
        clock: Clock,
        tickets: Tickets,
        policy: Policy,
    ) -> Self {
        Self {
            meta,
            blobs,
            search,
            tokens: Tokens::new(clock.clone()),
            clock,
            tickets,
            policy,
            refusals: Refusals::default(),
            work: Wake::default(),
            seats: Arc::default(),
            readers: Readers::default(),
            checks: Checks::default(),
            troubles: Troubles::default(),
            receiving: AtomicUsize::new(0),
        }
    }
}

/// The last trouble of each upload in progress, in memory: a bounded number, the oldest go first.
#[derive(Debug, Default)]
pub struct Troubles {
    noted: Mutex<(VecDeque<SessionId>, HashMap<SessionId, Trouble>)>,
}

/// What went wrong with an upload, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// One sentence.
    pub what: String,
    /// When.
    pub at: Timestamp,
}

impl Troubles {
    /// Remembers the last trouble of a session.
    pub fn note(&self, session: SessionId, what: String, at: Timestamp) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let (order, troubles) = &mut *noted;
        if troubles.insert(session, Trouble { what, at }).is_none() {
            order.push_back(session);
            if order.len() > limits::TROUBLES_KEPT
                && let Some(oldest) = order.pop_front()
            {
                troubles.remove(&oldest);
            }
        }
    }

    /// The last trouble of a session, if it is remembered.
    #[must_use]
    pub fn of(&self, session: SessionId) -> Option<Trouble> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).1.get(&session).cloned()
    }
}

/// Says that something is due. Whoever looks after it was said sees it, however late.
#[derive(Debug)]
pub struct Wake(watch::Sender<u64>);

impl Default for Wake {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Wake {
    /// Something is due.
    pub fn wake(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Sees everything that is said from now on.
    #[must_use]
    pub fn listen(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// Why a request was refused, for those who may know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusalRecord {
    /// Whose request it was.
    pub tenant: TenantId,
    /// The broken rule, as a stable word.
    pub rule: String,
    /// One sentence with the values.
    pub detail: String,
    /// Method and path, without the query and not longer than is useful.
    pub request: String,
    /// The status that the wire got.
    pub status: u16,
    /// When.
    pub at: Timestamp,
    /// Did the signature hold? Without one, anybody may have sent it.
    pub verified: bool,
}

/// The last refusals by request id, in memory: bounded rings for each tenant, so that no tenant's mistakes push out
/// another's, and that who only knows a tenant's name pushes out nothing of those who have its keys.
#[derive(Debug, Default)]
pub struct Refusals {
    rings: Mutex<HashMap<TenantId, Rings>>,
}

#[derive(Debug, Default)]
struct Rings {
    verified: Ring,
    unverified: Ring,
}

#[derive(Debug, Default)]
struct Ring {
    order: VecDeque<String>,
    records: HashMap<String, RefusalRecord>,
}

impl Ring {
    fn push(&mut self, request_id: &str, record: RefusalRecord, most: usize) {
        if self.order.len() >= most
            && let Some(oldest) = self.order.pop_front()
        {
            self.records.remove(&oldest);
        }
        self.order.push_back(request_id.to_owned());
        self.records.insert(request_id.to_owned(), record);
    }
}

impl Refusals {
    /// Remembers one, forgetting the tenant's oldest of its kind when there are too many. The tenant must exist.
    pub fn record(&self, request_id: &str, record: RefusalRecord) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let rings = rings.entry(record.tenant.clone()).or_default();
        if record.verified {
            rings.verified.push(request_id, record, limits::REFUSALS_KEPT);
        } else {
            rings.unverified.push(request_id, record, limits::UNVERIFIED_REFUSALS_KEPT);
        }
    }

    /// The record of a request of this tenant.
    #[must_use]
    pub fn of(&self, tenant: &TenantId, request_id: &str) -> Option<RefusalRecord> {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let rings = rings.get(tenant)?;
        rings.verified.records.get(request_id).or_else(|| rings.unverified.records.get(request_id)).cloned()
    }
}

impl From<MetaError> for Refusal {
    fn from(error: MetaError) -> Self {
        match error {
            MetaError::OutOfSpace => Self::OutOfSpace,
            MetaError::Closed => Self::Unavailable,
            MetaError::Failed(_) | MetaError::Format(_) => {
                tracing::error!(%error, "the database failed");
                Self::Unavailable
            }
        }
    }
}

impl From<OverQuota> for Refusal {
    fn from(over: OverQuota) -> Self {
        Self::Quota { what: over.what, limit: over.limit, used: over.used, wanted: over.wanted }
    }
}

impl From<Superseded> for Refusal {
    fn from(_: Superseded) -> Self {
        Self::Superseded
    }
}

impl From<BlobError> for Refusal {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::OutOfSpace => Self::OutOfSpace,
            BlobError::Io(_) | BlobError::Exists(_) => {
                tracing::error!(%error, "the byte store failed");
                Self::Unavailable
            }
            // Bytes that a row promises are not there: nothing a client can do, and the log must say so.
            BlobError::NotFound(_) | BlobError::Truncated { .. } => {
                tracing::error!(%error, "stored bytes are damaged");
                Self::Internal
            }
        }
    }
}

impl From<SearchError> for Refusal {
    fn from(error: SearchError) -> Self {
        tracing::error!(%error, "the index failed");
        Self::Unavailable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(tenant: &str, verified: bool) -> RefusalRecord {
        RefusalRecord {
            tenant: tenant.into(),
            rule: "signature".into(),
            detail: String::new(),
            request: "PUT /".into(),
            status: 403,
            at: Timestamp(0),
            verified,
        }
    }

    #[test]
    fn refusals_are_bounded_and_each_tenant_has_its_own() {
        let refusals = Refusals::default();
        for n in 0..=limits::REFUSALS_KEPT {
            refusals.record(&n.to_string(), record("a", true));
        }
        assert!(refusals.of(&"a".into(), "0").is_none());
        assert!(refusals.of(&"a".into(), "1").is_some());
        assert!(refusals.of(&"b".into(), "1").is_none());
        refusals.record("x", record("b", true));
        assert!(refusals.of(&"a".into(), "1").is_some());
    }

    #[test]
    fn requests_that_nobody_vouches_for_push_out_only_their_like() {
        let refusals = Refusals::default();
        refusals.record("mine", record("a", true));
        refusals.record("stranger", record("a", false));
        for n in 0..2 * limits::REFUSALS_KEPT {
            refusals.record(&format!("s{n}"), record("a", false));
        }
        assert!(refusals.of(&"a".into(), "mine").is_some());
        assert!(refusals.of(&"a".into(), "stranger").is_none());
        assert!(refusals.of(&"a".into(), &format!("s{}", 2 * limits::REFUSALS_KEPT - 1)).is_some());
    }
}
