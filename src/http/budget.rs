//! Memory for bodies on their way in, shared fairly between tenants, and the places of an upload session.
//!
//! There are two budgets, one for bytes that go to a segment and one for JSON, because they hold memory differently:
//! the receiver of bytes writes them and has the memory back, JSON stays until its last byte. Nothing is reserved for
//! what a client announces: a body takes memory in steps, as it comes.
//!
//! Who gets memory:
//!
//! - **A quarter of a budget is for tenants that hold next to nothing** (a 32nd of the budget, what they ask for
//!   included), so that the small bodies of one tenant wait for nobody else's.
//! - **The rest goes to whoever asks.** When it does not suffice, the tenant that holds least is next, and others wait
//!   behind it even if what they want is smaller. Within a tenant: first what announced to be small, then bodies that
//!   have begun, the eldest first, then new ones as they came.
//! - **Slow bodies yield.** When somebody has waited for [`limits::BODY_PRESS_AFTER`], bodies that come slower than the
//!   configured rate end: of tenants that hold more than an equal part of what is held, for one of their own or for a
//!   tenant that holds less. Larger ones go first, and no more than are needed. A tenant that holds less than its part
//!   never yields.
//!
//! Why nobody waits for ever:
//!
//! - A body of bytes holds nothing while it waits, because its receiver is asked to write first.
//! - A body of JSON may hold what it has while it waits for more, so that all of them could wait for each other. One of
//!   them at a time is the favourite, the eldest of the tenant that holds least: it gets what it asks for, above the
//!   budget as well, until it ends or becomes slow. What is above the budget is bounded by the size of one body for the
//!   favourite, and for earlier ones until they yield.
//! - Every wait has an end: the body is refused with [`Refusal::Busy`](crate::model::refusal::Refusal::Busy), and
//!   whatever it holds is free.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Sleep;

use crate::limits;
use crate::model::ids::{SessionId, TenantId};

/// One part in so many of a budget is for tenants that hold next to nothing.
const RESERVE_PART: u64 = 4;
/// And so little is next to nothing.
const FLOOR_PART: u64 = 32;

/// Memory that bodies share. Clones are the same memory.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    size: u64,
    /// May one body at a time have more than there is?
    favours: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    /// Bytes for which somebody has waited too long.
    pressing: u64,
    /// Bytes of bodies that were told to end, and still hold them.
    yielding: u64,
    waiting: usize,
    last: u64,
    favourite: Option<u64>,
    parties: HashMap<TenantId, Party>,
}

/// A tenant that has bodies.
#[derive(Debug, Default)]
struct Party {
    used: u64,
    pressing: u64,
    slow_bytes: u64,
    slow_bodies: u64,
    accounts: HashMap<u64, Account>,
    waiting: BTreeMap<(Turn, u64), Waiter>,
}

/// What a body holds.
#[derive(Debug, Default)]
struct Account {
    held: u64,
    slow: bool,
    yielding: bool,
}

#[derive(Debug)]
struct Waiter {
    bytes: u64,
    pressing: bool,
    given: oneshot::Sender<()>,
}

/// When it is a body's turn among those of its tenant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Turn {
    /// It asks once, and for little.
    Small,
    /// It has begun.
    Begun,
    /// It begins.
    New,
}

/// What a body has to do for others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Nothing.
    Stay,
    /// Its receiver is to write what it has gathered: memory is short.
    Write,
    /// It ends.
    Yield,
}

impl Budget {
    /// So many bytes; `favours` where bodies hold memory while they wait for more.
    pub(super) fn new(size: u64, favours: bool) -> Self {
        Self(Arc::new(Shared { size, favours, state: Mutex::default() }))
    }

    /// A body of a tenant, which holds nothing yet.
    pub(super) fn join(&self, tenant: &TenantId) -> Member {
        let mut state = self.0.lock();
        state.last += 1;
        let id = state.last;
        state.parties.entry(tenant.clone()).or_default().accounts.insert(id, Account::default());
        Member(Arc::new(Joined { shared: Arc::clone(&self.0), tenant: tenant.clone(), id }))
    }

    #[cfg(test)]
    fn used(&self) -> u64 {
        self.0.lock().used
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_size(&self) -> u64 {
        self.size - self.size / RESERVE_PART
    }

    /// Is this within what tenants with next to nothing may always have?
    fn is_floor(&self, state: &State, party: &Party, bytes: u64) -> bool {
        party.used + bytes <= self.size / FLOOR_PART && state.used + bytes <= self.size
    }

    /// Who is next, if there is memory for it; and does it become the favourite?
    fn next(&self, state: &State) -> Option<(TenantId, (Turn, u64), bool)> {
        let mut least: Option<(&TenantId, &Party, (Turn, u64), u64)> = None;
        let mut eldest: Option<(&TenantId, &Party, (Turn, u64))> = None;
        for (tenant, party) in &state.parties {
            let Some((key, waiter)) = party.waiting.first_key_value() else { continue };
            if self.is_floor(state, party, waiter.bytes) {
                return Some((tenant.clone(), *key, false));
            }
            if least.is_none_or(|(_, other, _, _)| party.used < other.used) {
                least = Some((tenant, party, *key, waiter.bytes));
            }
            let favourite = state.favourite.map(|id| (Turn::Begun, id));
            if let Some(key) = favourite.filter(|key| party.waiting.contains_key(key)) {
                return Some((tenant.clone(), key, false));
            }
            if let Some((key, _)) = party.waiting.range((Turn::Begun, 0)..(Turn::New, 0)).next()
                && eldest.is_none_or(|(_, other, _)| party.used < other.used)
            {
                eldest = Some((tenant, party, *key));
            }
        }
        let (tenant, _, key, bytes) = least?;
        if state.used + bytes <= self.open_size() {
            return Some((tenant.clone(), key, false));
        }
        let (tenant, _, key) = eldest.filter(|_| self.favours && state.favourite.is_none())?;
        Some((tenant.clone(), key, true))
    }

    /// Gives to those who wait, as far as there is memory.
    fn serve(&self, state: &mut State) {
        while state.waiting > 0 {
            let Some((tenant, key, favoured)) = self.next(state) else { return };
            if favoured {
                state.favourite = Some(key.1);
            }
            let State { parties, used, pressing, waiting, .. } = state;
            let Some(party) = parties.get_mut(&tenant) else { return };
            let Some(waiter) = party.waiting.remove(&key) else { return };
            *waiting -= 1;
            if waiter.pressing {
                *pressing -= waiter.bytes;
                party.pressing -= waiter.bytes;
            }
            *used += waiter.bytes;
            party.add(key.1, waiter.bytes);
            // Whoever waits takes itself out of the line before it stops listening.
            let _ = waiter.given.send(());
        }
    }
}

impl Party {
    fn add(&mut self, id: u64, bytes: u64) {
        self.used += bytes;
        if let Some(account) = self.accounts.get_mut(&id) {
            account.held += bytes;
            if account.slow {
                self.slow_bytes += bytes;
            }
        }
    }
}

/// A body's part in a budget. Clones are the same body.
#[derive(Clone, Debug)]
pub(super) struct Member(Arc<Joined>);

#[derive(Debug)]
struct Joined {
    shared: Arc<Shared>,
    tenant: TenantId,
    id: u64,
}

impl Member {
    /// Takes memory, and waits for it as long as it is let.
    pub(super) fn take(&self, bytes: u64, turn: Turn) -> Taking {
        let mut state = self.0.shared.lock();
        let key = (turn, self.0.id);
        if state.waiting == 0 && self.fits(&state, bytes) {
            state.used += bytes;
            if let Some(party) = state.parties.get_mut(&self.0.tenant) {
                party.add(self.0.id, bytes);
            }
            return Taking { member: self.clone(), key, bytes, given: None, patience: None };
        }
        let (given, receiver) = oneshot::channel();
        if let Some(party) = state.parties.get_mut(&self.0.tenant) {
            party.waiting.insert(key, Waiter { bytes, pressing: false, given });
            state.waiting += 1;
        }
        self.0.shared.serve(&mut state);
        let patience = Some(Box::pin(tokio::time::sleep(limits::BODY_PRESS_AFTER)));
        Taking { member: self.clone(), key, bytes, given: Some(receiver), patience }
    }

    /// Takes memory if there is some that nobody waits for.
    pub(super) fn try_take(&self, bytes: u64) -> Option<Lease> {
        let mut state = self.0.shared.lock();
        if state.waiting > 0 || !self.fits(&state, bytes) {
            return None;
        }
        Some(self.add(&mut state, bytes))
    }

    /// Counts memory that is taken already.
    pub(super) fn count(&self, bytes: u64) -> Lease {
        self.add(&mut self.0.shared.lock(), bytes)
    }

    fn add(&self, state: &mut State, bytes: u64) -> Lease {
        state.used += bytes;
        if let Some(party) = state.parties.get_mut(&self.0.tenant) {
            party.add(self.0.id, bytes);
        }
        Lease { member: self.clone(), bytes }
    }

    fn fits(&self, state: &State, bytes: u64) -> bool {
        state.used + bytes <= self.0.shared.open_size()
            || state.favourite == Some(self.0.id)
            || state.parties.get(&self.0.tenant).is_some_and(|party| self.0.shared.is_floor(state, party, bytes))
    }

    /// What it holds.
    pub(super) fn held(&self) -> u64 {
        let state = self.0.shared.lock();
        let account = state.parties.get(&self.0.tenant).and_then(|party| party.accounts.get(&self.0.id));
        account.map_or(0, |account| account.held)
    }

    /// Says how the body comes, and hears what it has to do for others.
    pub(super) fn pace(&self, slow: bool) -> Verdict {
        let shared = &self.0.shared;
        let mut guard = shared.lock();
        let state = &mut *guard;
        let parties = u64::try_from(state.parties.len()).unwrap_or(u64::MAX).max(1);
        let Some(party) = state.parties.get_mut(&self.0.tenant) else { return Verdict::Stay };
        let Some(account) = party.accounts.get_mut(&self.0.id) else { return Verdict::Stay };
        if account.slow != slow {
            account.slow = slow;
            if slow {
                party.slow_bytes += account.held;
                party.slow_bodies += 1;
            } else {
                party.slow_bytes -= account.held;
                party.slow_bodies -= 1;
            }
            if slow && state.favourite == Some(self.0.id) {
                state.favourite = None;
                shared.serve(state);
            }
        }
        let Some(party) = state.parties.get(&self.0.tenant) else { return Verdict::Stay };
        let Some(account) = party.accounts.get(&self.0.id) else { return Verdict::Stay };
        if slow && state.pressing > 0 && account.held.saturating_mul(party.slow_bodies) >= party.slow_bytes {
            // Both sides times the number of tenants: is it above an equal part of what is held?
            let part = party.used.saturating_mul(parties);
            let own = if part >= state.used { party.pressing } else { 0 };
            let others: u64 = if part > state.used {
                let within = |other: &&Party| other.used.saturating_mul(parties) <= state.used;
                state.parties.values().filter(within).map(|other| other.pressing).sum()
            } else {
                0
            };
            if own + others > state.yielding {
                let held = account.held;
                state.yielding += held;
                if let Some(account) =
                    state.parties.get_mut(&self.0.tenant).and_then(|party| party.accounts.get_mut(&self.0.id))
                {
                    account.yielding = true;
                }
                return Verdict::Yield;
            }
        }
        if state.waiting > 0 || state.used > shared.open_size() / 4 { Verdict::Write } else { Verdict::Stay }
    }

    /// The body has ended; what it holds may live on.
    pub(super) fn ended(&self) {
        self.pace(false);
        let shared = &self.0.shared;
        let mut state = shared.lock();
        if state.favourite == Some(self.0.id) {
            state.favourite = None;
            shared.serve(&mut state);
        }
    }

    fn give_back(&self, bytes: u64) {
        let shared = &self.0.shared;
        let mut guard = shared.lock();
        let State { used, yielding, parties, .. } = &mut *guard;
        *used -= bytes;
        if let Some(party) = parties.get_mut(&self.0.tenant) {
            party.used -= bytes;
            if let Some(account) = party.accounts.get_mut(&self.0.id) {
                account.held -= bytes;
                if account.slow {
                    party.slow_bytes -= bytes;
                }
                if account.yielding {
                    *yielding -= bytes.min(*yielding);
                }
            }
        }
        shared.serve(&mut guard);
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        if state.favourite == Some(self.id) {
            state.favourite = None;
        }
        if let Some(party) = state.parties.get_mut(&self.tenant) {
            if party.accounts.remove(&self.id).is_some_and(|account| account.slow) {
                party.slow_bodies -= 1;
            }
            if party.accounts.is_empty() {
                state.parties.remove(&self.tenant);
            }
        }
        self.shared.serve(state);
    }
}

/// Memory that a body has until this is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    member: Member,
    bytes: u64,
}

impl Lease {
    /// How much.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes a part out of it.
    pub(super) fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { member: self.member.clone(), bytes }
    }

    /// Adds another one of the same body.
    pub(super) fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.member.give_back(self.bytes);
        }
    }
}

/// Memory on its way to a body.
#[derive(Debug)]
pub(super) struct Taking {
    member: Member,
    key: (Turn, u64),
    /// Zero once it was handed over.
    bytes: u64,
    /// None where it was there at once.
    given: Option<oneshot::Receiver<()>>,
    /// How long it waits before slow bodies have to yield to it.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Taking {
    fn press(&self) {
        let mut guard = self.member.0.shared.lock();
        let state = &mut *guard;
        if let Some(party) = state.parties.get_mut(&self.member.0.tenant)
            && let Some(waiter) = party.waiting.get_mut(&self.key)
        {
            waiter.pressing = true;
            party.pressing += waiter.bytes;
            state.pressing += waiter.bytes;
        }
    }
}

impl Future for Taking {
    type Output = Lease;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Lease> {
        let this = &mut *self;
        if let Some(given) = &mut this.given
            && Pin::new(given).poll(cx).is_pending()
        {
            if let Some(patience) = &mut this.patience
                && patience.as_mut().poll(cx).is_ready()
            {
                this.patience = None;
                this.press();
            }
            return Poll::Pending;
        }
        this.given = None;
        Poll::Ready(Lease { member: this.member.clone(), bytes: std::mem::take(&mut this.bytes) })
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        {
            let shared = &self.member.0.shared;
            let mut guard = shared.lock();
            let state = &mut *guard;
            if self.given.is_some()
                && let Some(party) = state.parties.get_mut(&self.member.0.tenant)
                && let Some(waiter) = party.waiting.remove(&self.key)
            {
                state.waiting -= 1;
                if waiter.pressing {
                    party.pressing -= waiter.bytes;
                    state.pressing -= waiter.bytes;
                }
                // It may have stood in the way of others.
                shared.serve(state);
                return;
            }
        }
        // It was given and never taken.
        self.member.give_back(self.bytes);
    }
}

// ------------------------------------------------------------------------------------------------ places of a session

/// Bodies that come for one upload session at once. Clones are the same places.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<SessionId, Seats>>>);

#[derive(Debug)]
struct Seats {
    free: Arc<Semaphore>,
    guests: usize,
}

/// A place of a session; dropping it lets the next body in.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    _guest: Guest,
}

/// Somebody who has a place or waits for one: a session without any is forgotten.
#[derive(Debug)]
struct Guest {
    places: Places,
    session: SessionId,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Seats>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place; none when nobody can have one any more.
    pub(super) fn enter(&self, session: SessionId) -> impl Future<Output = Option<Place>> + Send + 'static {
        let free = {
            let mut sessions = self.lock();
            let seats = sessions
                .entry(session)
                .or_insert_with(|| Seats { free: Arc::new(Semaphore::new(limits::SESSION_BODIES)), guests: 0 });
            seats.guests += 1;
            Arc::clone(&seats.free)
        };
        let guest = Guest { places: self.clone(), session };
        async move {
            let permit = free.acquire_owned().await.ok()?;
            Some(Place { _permit: permit, _guest: guest })
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut sessions = self.places.lock();
        if let Some(seats) = sessions.get_mut(&self.session) {
            seats.guests -= 1;
            if seats.guests == 0 {
                sessions.remove(&self.session);
            }
        }
    }
}

#[cfg(test)]
mod tests;
