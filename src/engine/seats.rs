//! Who writes to a resumable session in this process. A newer request asks the older one to stop and takes its place,
//! with the open segment if that was left in order; nobody waits for a connection that is silent.
//!
//! This makes hand-overs quick and cheap. That they are safe is the rows' doing: a writer records only while it holds
//! the session's epoch and the offset it began at.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, watch};

use crate::blob::SegmentWriter;
use crate::clock::{Clock, Timestamp};
use crate::model::file::Crcs;
use crate::model::ids::{SegmentId, SessionId};
use crate::model::session::{Progress, Session};

/// How long a newcomer waits for the older writer to stop in order. One that needs longer has a store that hangs
/// or is slow; what it did not record is sent again, which is no more than [`crate::limits::RECORD_BYTES`] tells.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a question waits for the writer's answer, before it is told what is recorded.
const QUESTION: Duration = Duration::from_millis(750);
/// Segments kept open between two requests at most. Beyond it, the next request begins a new one.
const PARKED_MAX: usize = 512;
/// For so long.
const PARKED_FOR: Duration = Duration::from_secs(120);

/// A segment that its writer left in order, at the recorded extent.
#[derive(Debug)]
pub struct Parked {
    /// Its writer.
    pub writer: Box<dyn SegmentWriter>,
    /// Its name.
    pub segment: SegmentId,
    /// The epoch that it was written in.
    pub epoch: u32,
    /// How far the session had come: the segment ends exactly there.
    pub received: u64,
    /// Bytes of the session in this segment.
    pub length: u64,
    /// Their checksums.
    pub crcs: Crcs,
}

impl Parked {
    /// Does the session still stand where this was left? Then it can be gone on with, and nobody has begun another segment.
    #[must_use]
    pub fn goes_on(&self, session: &Session, progress: &Progress) -> bool {
        self.epoch == session.epoch
            && self.received == progress.received
            && progress.pieces.last().is_some_and(|last| last.segment == self.segment)
    }
}

/// What is wanted of whoever has the seat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Called {
    /// A newer request wants it.
    Superseded,
    /// Somebody wants to know how far the session has come; [`Turn::answer`] the number.
    Asked(u64),
}

/// A newer request took over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superseded;

#[derive(Debug)]
struct Seat {
    /// The newest request's number.
    newest: watch::Sender<u64>,
    /// Questions asked, and answered.
    asked: watch::Sender<u64>,
    answered: watch::Sender<u64>,
    /// Held by the request that writes.
    place: Arc<tokio::sync::Mutex<Option<(Parked, Timestamp)>>>,
}

impl Default for Seat {
    fn default() -> Self {
        Self {
            newest: watch::Sender::new(0),
            asked: watch::Sender::new(0),
            answered: watch::Sender::new(0),
            place: Arc::default(),
        }
    }
}

/// The seats of one process.
#[derive(Debug, Default)]
pub struct Seats {
    seats: Mutex<HashMap<SessionId, Arc<Seat>>>,
}

impl Seats {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the session's seat: whoever has it is asked to stop, and whoever waits for it gives up.
    ///
    /// # Errors
    /// [`Superseded`] when a newer request came while this one waited.
    pub async fn enter(self: &Arc<Self>, id: SessionId) -> Result<Turn, Superseded> {
        let seat = Arc::clone(self.lock().entry(id).or_default());
        let mut number = 0;
        seat.newest.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        let mut newest = seat.newest.subscribe();
        let place = tokio::select! {
            biased;
            _ = newest.wait_for(|newest| *newest > number) => return Err(Superseded),
            place = Arc::clone(&seat.place).lock_owned() => Some(place),
            () = tokio::time::sleep(PATIENCE) => None,
        };
        if let Some(place) = place {
            let asked = seat.asked.subscribe();
            return Ok(Turn { seats: Arc::clone(self), id, seat, number, newest, asked, place, in_order: true });
        }
        // Whoever is there does not react. Its seat is left to it, and the rows will fence it.
        let fresh = Arc::new(Seat::default());
        {
            let mut seats = self.lock();
            match seats.get(&id) {
                Some(present) if !Arc::ptr_eq(present, &seat) => return Err(Superseded),
                _ => seats.insert(id, Arc::clone(&fresh)),
            };
        }
        // Others that waited for the old seat are older than this one.
        seat.newest.send_modify(|newest| *newest += 1);
        let place = Arc::clone(&fresh.place).lock_owned().await;
        fresh.newest.send_modify(|newest| *newest += 1);
        let (newest, asked) = (fresh.newest.subscribe(), fresh.asked.subscribe());
        Ok(Turn { seats: Arc::clone(self), id, seat: fresh, number: 1, newest, asked, place, in_order: false })
    }

    /// Makes the request that writes now, if there is one, record what it has; returns when it has done so or does not
    /// react.
    pub async fn ask(&self, id: SessionId) {
        let Some(seat) = self.lock().get(&id).map(Arc::clone) else { return };
        if seat.place.try_lock().is_ok() {
            return;
        }
        let mut number = 0;
        seat.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        let mut answered = seat.answered.subscribe();
        tokio::select! {
            _ = answered.wait_for(|answered| *answered >= number) => {}
            _ = seat.place.lock() => {}
            () = tokio::time::sleep(QUESTION) => {}
        }
    }

    /// Stops whoever writes to a session that is over, and closes the segment that waits for its next request.
    pub async fn close(self: &Arc<Self>, id: SessionId) {
        if !self.lock().contains_key(&id) {
            return;
        }
        if let Ok(mut turn) = self.enter(id).await {
            drop(turn.unpark());
        }
    }

    /// Closes segments that nobody has gone on with for a while.
    pub fn tidy(&self, now: Timestamp) {
        let over = now.minus(PARKED_FOR);
        self.lock().retain(|_, seat| {
            // A seat that somebody has, or is about to take, stays.
            if Arc::strong_count(seat) > 1 {
                return true;
            }
            let Ok(place) = seat.place.try_lock() else { return true };
            place.as_ref().is_some_and(|(_, since)| *since > over && *since <= now)
        });
    }

    /// The sessions with an open segment or a writer.
    #[must_use]
    pub fn ids(&self) -> Vec<SessionId> {
        self.lock().keys().copied().collect()
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The right to write to a session, until somebody newer comes.
#[derive(Debug)]
pub struct Turn {
    seats: Arc<Seats>,
    id: SessionId,
    seat: Arc<Seat>,
    number: u64,
    newest: watch::Receiver<u64>,
    asked: watch::Receiver<u64>,
    place: OwnedMutexGuard<Option<(Parked, Timestamp)>>,
    in_order: bool,
}

impl Turn {
    /// Did the one before stop in order? Otherwise it may still write, and has to be fenced.
    #[must_use]
    pub const fn in_order(&self) -> bool {
        self.in_order
    }

    /// The segment that the one before left.
    pub fn unpark(&mut self) -> Option<Parked> {
        self.place.take().map(|(parked, _)| parked)
    }

    /// Leaves the segment to the next one.
    pub fn park(&mut self, parked: Parked, clock: &Clock) {
        if self.seats.len() <= PARKED_MAX {
            *self.place = Some((parked, clock.now()));
        }
    }

    /// Waits until somebody wants something of whoever has the seat.
    pub async fn called(&mut self) -> Called {
        let (number, answered) = (self.number, *self.seat.answered.borrow());
        let (newest, asked) = (&mut self.newest, &mut self.asked);
        let superseded = async { newest.wait_for(|newest| *newest > number).await.is_ok() };
        let question = async { asked.wait_for(|asked| *asked > answered).await.map_or(0, |asked| *asked) };
        // The senders live as long as the seat, so neither wait ends without its reason.
        tokio::select! {
            biased;
            _ = superseded => Called::Superseded,
            asked = question => Called::Asked(asked),
        }
    }

    /// Everything up to this question is recorded.
    pub fn answer(&self, question: u64) {
        self.seat.answered.send_modify(|answered| *answered = question.max(*answered));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut seats = self.seats.lock();
        // Two: the map's and ours. With nothing left behind, nobody needs the seat.
        let last =
            seats.get(&self.id).is_some_and(|s| Arc::ptr_eq(s, &self.seat)) && Arc::strong_count(&self.seat) == 2;
        if last && self.place.is_none() {
            seats.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ordered_uuid;

    fn id() -> SessionId {
        SessionId(ordered_uuid(Clock::system().now()))
    }

    #[tokio::test]
    async fn a_newer_request_takes_the_seat() {
        let seats = Arc::new(Seats::default());
        let id = id();
        let mut first = seats.enter(id).await.unwrap();
        assert!(first.in_order());
        let (second, third, ()) = tokio::join!(
            seats.enter(id),
            async {
                tokio::task::yield_now().await;
                seats.enter(id).await
            },
            async {
                assert_eq!(first.called().await, Called::Superseded);
                tokio::time::sleep(Duration::from_millis(100)).await;
                drop(first);
            }
        );
        assert!(matches!(second, Err(Superseded)), "the one that waited gave up");
        let third = third.unwrap();
        assert!(third.in_order());
        drop(third);
        assert!(seats.is_empty());
    }

    #[tokio::test]
    async fn one_that_does_not_react_is_left_behind() {
        let seats = Arc::new(Seats::default());
        let id = id();
        let stuck = seats.enter(id).await.unwrap();
        let second = seats.enter(id).await.unwrap();
        assert!(!second.in_order());
        drop(stuck);
        assert_eq!(seats.len(), 1, "the seat in use stays");
        drop(second);
        assert!(seats.is_empty());
    }

    #[tokio::test]
    async fn a_question_waits_for_its_answer_and_not_for_ever() {
        let seats = Arc::new(Seats::default());
        let id = id();
        seats.ask(id).await;
        let mut turn = seats.enter(id).await.unwrap();
        let ((), ()) = tokio::join!(seats.ask(id), async {
            let Called::Asked(question) = turn.called().await else { panic!("nobody is newer") };
            turn.answer(question);
        });
        let begun = tokio::time::Instant::now();
        seats.ask(id).await;
        assert!(begun.elapsed() >= QUESTION, "nobody answered");
    }
}
