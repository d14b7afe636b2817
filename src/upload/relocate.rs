//! Moving bytes to another place while they are read and others come. A piece is copied under a new name, the copy is
//! compared, and one transaction puts it in the piece's place; what was copied goes later, like replaced content. Rows alone
//! say what is left, so that it may be stopped anywhere and begun again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;

use super::{commit, read};
use crate::blob::{BlobError, SegmentReader, SegmentWriter};
use crate::clock::{Clock, Timestamp, random_bytes};
use crate::engine::Engine;
use crate::faults;
use crate::limits;
use crate::meta::{HeldAt, IntendedCopy, MetaError, MovePiece, PlacedPiece};
use crate::model::file::{Digests, Piece, RunningCrcs, Version};
use crate::model::ids::{PlaceId, SegmentId, TenantId};
use crate::model::session::Hashes;

/// Pieces that are asked for at a time.
const PAGE: u32 = 500;
/// So many pieces that can't be read, without one between them that can, end a run.
const UNREAD_IN_A_ROW: usize = 16;
/// After so many bytes of a copy the free space is asked for again.
const ASKED_EVERY: u64 = 64 << 20;
/// How often a copy that is long on its way is given more time.
const RENEWED_AFTER: Duration = Duration::from_secs(3600);

/// How bytes are moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// From where; to where is what the engine writes to.
    pub from: PlaceId,
    /// Bytes in a second, if there is a limit.
    pub rate: Option<u64>,
    /// Pieces at once.
    pub parallel: usize,
}

/// What a run did, and what there is to do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Pieces that lie elsewhere now.
    pub moved: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Pieces whose bytes are not what their rows say, a sentence each. They were left.
    pub damaged: Vec<String>,
    /// Pieces that could not be read, a sentence each. They were left.
    pub unread: Vec<String>,
    /// What rows name at the old place now.
    pub left: HeldAt,
}

/// Why a run ended early. What was moved stays moved.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The bytes could not be read or written.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The rows could not.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// What became of one piece.
enum Outcome {
    Moved(u64),
    /// Its row names something else by now, or nothing.
    Changed,
    Damaged(String),
    Unread(String, BlobError),
}

/// Why a copy was not made.
enum NotCopied {
    /// What is stored is not what the row says.
    Damaged(String),
    /// It can't be read. That may be over, or the matter of one piece.
    Unread(BlobError),
    /// It took so long that the sweep has taken the copy.
    Late,
    Stopped(Stopped),
}

impl<E: Into<Stopped>> From<E> for NotCopied {
    fn from(error: E) -> Self {
        Self::Stopped(error.into())
    }
}

/// Moves what versions have at a place, as long as `stop` does not say otherwise: then what is in hand is ended. Uploads in
/// progress are left where they are. `progress` is told of each piece and its bytes.
///
/// # Errors
/// [`Stopped`]; repeated, it goes on.
pub async fn relocate(
    engine: &Engine,
    plan: Plan,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Report, Stopped> {
    let mut report = Report::default();
    let pace = Pace::new(plan.rate, &engine.clock);
    let mut after = None;
    let room = Room { engine, in_hand: AtomicU64::new(0) };
    let mut unread_in_a_row = 0;
    let failed = AtomicBool::new(false);
    let ends = || stop.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed);
    while !ends() {
        let page = engine.meta.pieces_at(plan.from, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some((last.version, last.position));
        let pieces = page.into_iter().filter(|placed| !placed.looked_for);
        let going = pieces.take_while(|_| !ends());
        let one = |placed| one(engine, &pace, &room, placed);
        let mut outcomes = futures_util::stream::iter(going).map(one).buffer_unordered(plan.parallel);
        let mut failure = None;
        while let Some(outcome) = outcomes.next().await {
            match outcome {
                Err(stopped) => {
                    // What is in hand comes to its own end.
                    failed.store(true, Ordering::Relaxed);
                    failure.get_or_insert(stopped);
                }
                Ok(Outcome::Moved(bytes)) => {
                    report.moved += 1;
                    report.bytes += bytes;
                    unread_in_a_row = 0;
                    progress(bytes);
                }
                Ok(Outcome::Changed) => {}
                Ok(Outcome::Damaged(sentence)) => report.damaged.push(sentence),
                Ok(Outcome::Unread(sentence, error)) => {
                    report.unread.push(sentence);
                    unread_in_a_row += 1;
                    if unread_in_a_row >= UNREAD_IN_A_ROW {
                        // It is the place, and not a piece.
                        failed.store(true, Ordering::Relaxed);
                        failure.get_or_insert(error.into());
                    }
                }
            }
        }
        if let Some(stopped) = failure {
            return Err(stopped);
        }
    }
    report.left = engine.meta.held_at(plan.from, engine.clock.now()).await?;
    Ok(report)
}

async fn one(engine: &Engine, pace: &Pace<'_>, room: &Room<'_>, placed: PlacedPiece) -> Result<Outcome, Stopped> {
    let (to, intended) = match copied(engine, pace, room, &placed).await {
        Ok(copy) => copy,
        Err(NotCopied::Stopped(stopped)) => return Err(stopped),
        Err(NotCopied::Late) => return Ok(Outcome::Changed),
        Err(NotCopied::Damaged(sentence)) => return left(engine, &placed, Outcome::Damaged(sentence)).await,
        Err(NotCopied::Unread(error)) => {
            let sentence = format!("segment {} can't be read: {error}", placed.piece.segment);
            return left(engine, &placed, Outcome::Unread(sentence, error)).await;
        }
    };
    let (segment, backend) = (to.segment, to.backend.clone());
    let PlacedPiece { version, position, tenant, piece, .. } = placed;
    let due = engine.clock.now().plus(limits::DOWNLOAD_MAX);
    let moved = MovePiece { version, position, tenant, from: piece.segment, to, intended, due };
    if engine.meta.move_piece(moved).await? {
        faults::point("move.switched");
        return Ok(Outcome::Moved(piece.length));
    }
    commit::discard(engine, segment, &backend).await;
    Ok(Outcome::Changed)
}

/// What could not be copied may have been deleted, or moved by another, while it was read.
async fn left(engine: &Engine, placed: &PlacedPiece, outcome: Outcome) -> Result<Outcome, Stopped> {
    let version = engine.meta.version(&placed.tenant, placed.version).await?;
    let named = version.is_some_and(|version| version.pieces.contains(&placed.piece));
    Ok(if named { outcome } else { Outcome::Changed })
}

/// That the sweep leaves a copy alone until some time, when it deletes it unless it is used or the promise renewed.
struct Promise<'e> {
    engine: &'e Engine,
    copy: IntendedCopy,
}

impl<'e> Promise<'e> {
    /// Before the copy is begun.
    async fn made(engine: &'e Engine, tenant: &TenantId, segment: SegmentId) -> Result<Self, NotCopied> {
        let due = engine.clock.now().plus(limits::ORPHAN_GRACE);
        let copy = IntendedCopy { tenant: tenant.clone(), segment, place: engine.blobs.place(), before: None, due };
        if engine.meta.intend_copy(copy.clone()).await? { Ok(Self { engine, copy }) } else { Err(NotCopied::Late) }
    }

    /// Renews it now and then.
    async fn kept(&mut self) -> Result<(), NotCopied> {
        let due = self.engine.clock.now().plus(limits::ORPHAN_GRACE);
        if due < self.copy.due.plus(RENEWED_AFTER) { Ok(()) } else { self.renewed(due).await }
    }

    async fn renewed(&mut self, due: Timestamp) -> Result<(), NotCopied> {
        self.copy = IntendedCopy { before: Some(self.copy.due), due, ..self.copy.clone() };
        if self.engine.meta.intend_copy(self.copy.clone()).await? { Ok(()) } else { Err(NotCopied::Late) }
    }
}

/// A durable copy of a piece that was compared with its row, and read back. With it, when it would be deleted.
async fn copied(
    engine: &Engine,
    pace: &Pace<'_>,
    room: &Room<'_>,
    placed: &PlacedPiece,
) -> Result<(Piece, Timestamp), NotCopied> {
    let mut room = room.reserve(placed.piece.length).await?;
    let known = known(engine, placed).await?;
    let piece = &known;
    let from = Source::open(engine, piece).await?;
    let attempt = u64::from_be_bytes(random_bytes()).max(1);
    let segment = SegmentId { attempt, ..piece.segment };
    let mut promise = Promise::made(engine, &placed.tenant, segment).await?;
    faults::point("move.intended");
    let mut writer = engine.blobs.create(segment, Some(piece.length)).await?;
    faults::point("move.begun");
    let digests = match poured(&from, piece, &mut promise, Some((&mut writer, pace, &mut room))).await {
        Ok(digests) => digests,
        Err(why) => {
            writer.discard().await;
            return Err(why);
        }
    };
    let extent = writer.finish().await?;
    faults::point("move.copied");
    let copy = Piece { segment, length: piece.length, digests, backend: extent.backend };
    // What is there now is all that there will be: it is read once before anything relies on it.
    let read = async { poured(&Source::open(engine, &copy).await?, &copy, &mut promise, None).await };
    let why = match read.await {
        Ok(_) if extent.length == piece.length => {
            faults::point("move.compared");
            return Ok((copy, promise.copy.due));
        }
        Ok(_) => "it is longer than what was copied".into(),
        Err(NotCopied::Damaged(sentence)) => sentence,
        Err(NotCopied::Late) => return Err(NotCopied::Late),
        Err(NotCopied::Unread(error)) => return Err(error.into()),
        Err(NotCopied::Stopped(stopped)) => return Err(NotCopied::Stopped(stopped)),
    };
    // Or it is not there any more, because it took too long.
    let due = engine.clock.now().plus(limits::ORPHAN_GRACE + RENEWED_AFTER);
    promise.renewed(due).await?;
    Err(wrong(engine, &copy, &why).await)
}

/// A piece with a checksum. One that a client sent to a store itself, which told none, is read once more than the others, and
/// compared with what else is known of it.
async fn known(engine: &Engine, placed: &PlacedPiece) -> Result<Piece, NotCopied> {
    let piece = &placed.piece;
    if piece.digests.crc32c.is_some() || piece.digests.crc64nvme.is_some() {
        return Ok(piece.clone());
    }
    let Some(version) = engine.meta.version(&placed.tenant, placed.version).await? else {
        return Err(NotCopied::Damaged(format!("nobody needs segment {}", piece.segment)));
    };
    let whole = if version.pieces.len() == 1 { version.digests } else { Digests::default() };
    let alone = Version { size: piece.length, digests: whole, pieces: vec![piece.clone()], ..version };
    let wanted = Hashes { md5: whole.md5.is_some(), sha256: whole.sha256.is_some() };
    let found = match read::digests(engine, &alone, wanted).await {
        Ok(found) => found,
        Err(refusal) => return Err(NotCopied::Unread(BlobError::Io(std::io::Error::other(refusal.to_string())))),
    };
    if differ(whole.md5, found.md5)
        || differ(whole.sha256, found.sha256)
        || differ(whole.crc32c, found.crc32c)
        || differ(whole.crc64nvme, found.crc64nvme)
    {
        return Err(NotCopied::Damaged(format!("the bytes of segment {} are damaged", piece.segment)));
    }
    Ok(Piece { digests: found.checksums(), ..piece.clone() })
}

fn differ<T: PartialEq>(known: Option<T>, found: Option<T>) -> bool {
    known.is_some() && known != found
}

/// A copy that is not what was copied goes, and nothing more is moved to such a place.
async fn wrong(engine: &Engine, copy: &Piece, why: &str) -> NotCopied {
    commit::discard(engine, copy.segment, &copy.backend).await;
    let error = std::io::Error::other(format!("what was copied to it is not what it gives back: {why}"));
    BlobError::Io(error).into()
}

/// A piece that is read.
struct Source(Box<dyn SegmentReader>);

impl Source {
    async fn open(engine: &Engine, piece: &Piece) -> Result<Self, NotCopied> {
        match engine.blobs.open(piece.segment, &piece.backend).await {
            Ok(reader) => Ok(Self(reader)),
            Err(BlobError::NotFound(segment)) => Err(NotCopied::Damaged(format!("segment {segment} is not there"))),
            Err(error) => Err(NotCopied::Unread(error)),
        }
    }

    async fn at(&self, piece: &Piece, offset: u64) -> Result<Bytes, NotCopied> {
        let most = u64::try_from(limits::WRITE_BYTES).unwrap_or(u64::MAX);
        let wanted = usize::try_from((piece.length - offset).min(most)).unwrap_or(limits::WRITE_BYTES);
        let bytes = self.0.read(offset, wanted).await.map_err(NotCopied::Unread)?;
        if bytes.is_empty() {
            let Piece { segment, length, .. } = piece;
            return Err(NotCopied::Damaged(format!("segment {segment} ends at {offset}, its row says {length}")));
        }
        Ok(bytes)
    }
}

type Target<'a, 'p> = (&'a mut Box<dyn SegmentWriter>, &'a Pace<'p>, &'a mut Reserved<'p>);

/// Reads a piece to its end, perhaps into a copy, and compares its checksums with those of its row.
async fn poured(
    from: &Source,
    piece: &Piece,
    promise: &mut Promise<'_>,
    mut to: Option<Target<'_, '_>>,
) -> Result<Digests, NotCopied> {
    let mut crcs = RunningCrcs::default();
    let mut at = 0;
    while at < piece.length {
        promise.kept().await?;
        let bytes = from.at(piece, at).await?;
        let length = u64::try_from(bytes.len()).unwrap_or(0);
        crcs.update(&bytes);
        at += length;
        if let Some((writer, pace, room)) = &mut to {
            pace.wait(length).await;
            writer.write(&mut vec![bytes]).await?;
            room.written(length).await?;
        }
    }
    let found = Digests::from(crcs.value());
    let known = piece.digests;
    if differ(known.crc32c, found.crc32c) || differ(known.crc64nvme, found.crc64nvme) {
        return Err(NotCopied::Damaged(format!("the bytes of segment {} are damaged", piece.segment)));
    }
    // Of what a client sent to a store itself, which told no checksum, one is known from now on.
    Ok(found)
}

/// Room for what is in hand: what is left free is nobody's for a copy.
struct Room<'e> {
    engine: &'e Engine,
    /// Bytes of copies that are begun and not written.
    in_hand: AtomicU64,
}

impl Room<'_> {
    async fn reserve(&self, bytes: u64) -> Result<Reserved<'_>, NotCopied> {
        self.in_hand.fetch_add(bytes, Ordering::Relaxed);
        let reserved = Reserved { room: self, left: bytes, unasked: 0 };
        self.ask().await?;
        Ok(reserved)
    }

    async fn ask(&self) -> Result<(), NotCopied> {
        let wanted = self.engine.policy.free_space_min.saturating_add(self.in_hand.load(Ordering::Relaxed));
        match self.engine.blobs.space().await? {
            Some(space) if space.free < wanted => Err(BlobError::OutOfSpace.into()),
            Some(_) | None => Ok(()),
        }
    }
}

/// What one copy still needs.
struct Reserved<'r> {
    room: &'r Room<'r>,
    left: u64,
    /// Written since somebody looked.
    unasked: u64,
}

impl Reserved<'_> {
    async fn written(&mut self, bytes: u64) -> Result<(), NotCopied> {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        self.room.in_hand.fetch_sub(bytes, Ordering::Relaxed);
        self.unasked += bytes;
        if self.unasked < ASKED_EVERY {
            return Ok(());
        }
        self.unasked = 0;
        // Others write there as well.
        self.room.ask().await
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.room.in_hand.fetch_sub(self.left, Ordering::Relaxed);
    }
}

/// Keeps a run from taking more than its share.
struct Pace<'c> {
    rate: Option<u64>,
    clock: &'c Clock,
    /// When the next bytes may go.
    next: Mutex<Duration>,
}

impl<'c> Pace<'c> {
    const fn new(rate: Option<u64>, clock: &'c Clock) -> Self {
        Self { rate, clock, next: Mutex::new(Duration::ZERO) }
    }

    /// How long so many bytes have to wait, of which the following wait for their time.
    fn turn(&self, bytes: u64, now: Duration) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        // What was not used is gone: no run after a pause.
        let turn = (*next).max(now);
        *next = turn
            + Duration::from_nanos(
                u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1))).unwrap_or(u64::MAX),
            );
        turn - now
    }

    async fn wait(&self, bytes: u64) {
        let turn = self.turn(bytes, self.clock.monotonic());
        if !turn.is_zero() {
            tokio::time::sleep(turn).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_wait_for_their_turn_and_nothing_is_saved_up() {
        let clock = Clock::system();
        let (free, slow) = (Pace::new(None, &clock), Pace::new(Some(1000), &clock));
        let seconds = Duration::from_secs;
        assert_eq!(free.turn(u64::MAX, seconds(1)), Duration::ZERO);
        assert_eq!(slow.turn(2000, seconds(10)), Duration::ZERO);
        assert_eq!(slow.turn(500, seconds(10)), seconds(2));
        assert_eq!(slow.turn(500, seconds(11)), Duration::from_millis(1500));
        assert_eq!(slow.turn(1000, seconds(60)), Duration::ZERO);
        assert_eq!(slow.turn(1000, seconds(60)), seconds(1));
    }
}
