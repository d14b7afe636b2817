//! What is over goes: expired sessions, unused files, deleted segments, bytes without a row.
//!
//! Expiry itself is by the wall clock, at once. Deleting bytes because time has passed waits until the wall clock and
//! the monotonic clock have agreed for an hour, so that a clock that jumps destroys nothing.

use std::collections::HashSet;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::engine::Engine;
use crate::faults;
use crate::limits;
use crate::meta::Tombstone;
use crate::model::ids::{SegmentId, SessionId};
use crate::model::refusal::Refusal;
use crate::model::session::SessionState;

const BATCH: u32 = 500;
const SETTING: &str = "sweep";
/// Setting: when nobody swept.
const GAPS: &str = "unswept";
/// As many of them are remembered; each is ten minutes long at least and counts for a day.
const GAPS_KEPT: usize = 150;
/// The two clocks agree when they moved by the same time, give or take this.
const TOLERANCE: Duration = Duration::from_secs(60);
/// After a shorter stop than this, agreement goes on where the last sweep left it.
const RESTART: Duration = Duration::from_secs(600);

/// A sweep that takes longer says at its end that it was there.
const LONG: Duration = Duration::from_secs(60);

/// Looking at every segment there is costs as much as there is.
const COMPARE_EVERY: Duration = Duration::from_secs(3600);

/// A segment that can't be deleted is tried again after this.
const RETRY: Duration = Duration::from_secs(3600);

/// Sessions end in rows: by their time, or by another process. Whoever still writes to one here is stopped, and the segment
/// that waits for its next request is closed, so that the disk has its bytes back.
async fn stop_writers(engine: &Engine, now: Timestamp) -> Result<(), Refusal> {
    let mut over = Vec::new();
    for id in engine.seats.ids() {
        let upload = engine.meta.upload(id).await?;
        if !upload.is_some_and(|upload| upload.session.state == SessionState::Open && upload.session.expires > now) {
            over.push(id);
        }
        // There may be thousands: others have their turn between.
        tokio::task::yield_now().await;
    }
    // One that does not react is waited for as long as a newer request would, and no other waits with it.
    futures_util::future::join_all(over.into_iter().map(|id| engine.seats.close(id))).await;
    Ok(())
}

/// What one sweep did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Sessions that expired.
    pub sessions: u64,
    /// Unused files that were let go.
    pub files: u64,
    /// Segments deleted.
    pub segments: u64,
    /// Segments without a row that were deleted.
    pub orphans: u64,
}

/// The sweeper of one server. Remembers how long the clocks have agreed.
#[derive(Debug, Default)]
pub struct Sweeper {
    last: Option<(Timestamp, Duration)>,
    agreed: Duration,
    /// When every segment was last compared with its row, by the monotonic clock.
    compared: Option<Duration>,
}

impl Sweeper {
    /// One sweep, bounded; call it again and again.
    ///
    /// # Errors
    /// The keepers' own; what was done stays done.
    pub async fn sweep(&mut self, engine: &Engine) -> Result<Report, Refusal> {
        let now = engine.clock.now();
        let mut report = Report::default();
        // Of many at one database one does the rest. Nothing breaks if for a moment it is two: every step can be repeated.
        if !engine.meta.leads().await? {
            stop_writers(engine, now).await?;
            return Ok(report);
        }
        loop {
            let expired = engine.meta.expire_sessions(now, BATCH).await?;
            report.sessions += expired;
            if expired < u64::from(BATCH) {
                break;
            }
        }
        faults::point("sweep.expired");
        stop_writers(engine, now).await?;
        self.agree(engine, now).await?;
        let clocks_agree = self.agreed >= limits::CLOCK_AGREEMENT || faults::skipped("sweep.agreement");
        if clocks_agree {
            loop {
                let swept = engine.meta.expire_files(now, BATCH).await?;
                report.files += swept.files;
                if swept.files < u64::from(BATCH) && swept.rows == 0 {
                    break;
                }
            }
        }
        faults::point("sweep.tombstone");
        report.segments += unlink(engine, now).await?;
        if clocks_agree {
            forget(engine, now).await?;
            let monotonic = engine.clock.monotonic();
            if self.compared.is_none_or(|last| monotonic.saturating_sub(last) >= COMPARE_EVERY) {
                self.compared = Some(monotonic);
                report.orphans += orphans(engine, now).await?;
            }
        }
        if report != Report::default() {
            tracing::info!(?report, "swept");
        }
        if self.last.is_some_and(|(_, began)| engine.clock.monotonic().saturating_sub(began) > LONG) {
            self.remember(engine, engine.clock.now()).await?;
        }
        Ok(report)
    }

    async fn agree(&mut self, engine: &Engine, now: Timestamp) -> Result<(), Refusal> {
        let monotonic = engine.clock.monotonic();
        let before = last(engine).await?;
        note_gap(engine, before.map(|(wall_before, _)| wall_before), now).await?;
        match self.last {
            Some((wall_before, monotonic_before)) => {
                let passed = monotonic.saturating_sub(monotonic_before);
                let expected = wall_before.plus(passed);
                let apart = expected.millis().abs_diff(now.millis());
                if u128::from(apart) <= TOLERANCE.as_millis() {
                    self.agreed += passed;
                } else {
                    tracing::warn!(apart_ms = apart, "the wall clock jumped; nothing is deleted for an hour");
                    self.agreed = Duration::ZERO;
                }
            }
            None => {
                if let Some((wall_before, agreed)) = before {
                    let stopped = now.millis().saturating_sub(wall_before.millis());
                    if (0..=i64::try_from(RESTART.as_millis()).unwrap_or(0)).contains(&stopped) {
                        self.agreed = agreed;
                    }
                }
            }
        }
        self.last = Some((now, monotonic));
        self.remember(engine, now).await
    }

    async fn remember(&self, engine: &Engine, now: Timestamp) -> Result<(), Refusal> {
        let state = format!("{} {}", now.millis(), self.agreed.as_millis());
        engine.meta.set_setting(SETTING, state.into_bytes(), false).await?;
        Ok(())
    }
}

/// A time in which nobody swept this database. Bytes without a row that were written then may be those of a later state of
/// it, which an older backup replaced: they are kept for a day after the gap was noticed, so that somebody can look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gap {
    from: Timestamp,
    until: Timestamp,
}

impl Gap {
    /// The time since the last sweep, if it is longer than a restart takes, or than a sweep and what comes after it before a
    /// crash. A database that was never swept may stand before bytes of any age.
    pub(super) fn since(swept: Option<Timestamp>, now: Timestamp) -> Option<Self> {
        let from = swept.map_or(Timestamp(i64::MIN), |swept| swept.plus(RESTART));
        (from < now).then_some(Self { from, until: now })
    }

    pub(super) fn has(&self, written: Timestamp) -> bool {
        self.from < written && written <= self.until
    }

    fn counts(&self, now: Timestamp) -> bool {
        now < self.until.plus(limits::ORPHAN_GRACE)
    }
}

async fn note_gap(engine: &Engine, swept: Option<Timestamp>, now: Timestamp) -> Result<(), Refusal> {
    let Some(gap) = Gap::since(swept, now) else { return Ok(()) };
    let mut known = gaps(engine).await?;
    known.retain(|gap| gap.counts(now));
    known.push(gap);
    let first = known.len().saturating_sub(GAPS_KEPT);
    let shown: Vec<String> =
        known.iter().skip(first).map(|gap| format!("{} {}", gap.from.millis(), gap.until.millis())).collect();
    engine.meta.set_setting(GAPS, shown.join(";").into_bytes(), false).await?;
    Ok(())
}

/// When nobody swept, as far as it still counts.
pub(super) async fn gaps(engine: &Engine) -> Result<Vec<Gap>, Refusal> {
    let text = engine.meta.setting(GAPS).await?.and_then(|text| String::from_utf8(text).ok()).unwrap_or_default();
    let read = |gap: &str| {
        let (from, until) = gap.split_once(' ')?;
        Some(Gap { from: Timestamp(from.parse().ok()?), until: Timestamp(until.parse().ok()?) })
    };
    Ok(text.split(';').filter_map(read).collect())
}

/// When the last sweep was, and for how long the clocks had agreed then.
pub(super) async fn last(engine: &Engine) -> Result<Option<(Timestamp, Duration)>, Refusal> {
    Ok(read(engine.meta.setting(SETTING).await?))
}

fn read(setting: Option<Vec<u8>>) -> Option<(Timestamp, Duration)> {
    let text = String::from_utf8(setting?).ok()?;
    let (wall, agreed) = text.split_once(' ')?;
    Some((Timestamp(wall.parse().ok()?), Duration::from_millis(agreed.parse().ok()?)))
}

/// Deletes the segments that no row names any more and nobody reads. Cheap when there are none.
///
/// # Errors
/// The keepers' own; what was done stays done.
pub async fn unlink(engine: &Engine, now: Timestamp) -> Result<u64, Refusal> {
    let mut count = 0;
    if !engine.meta.leads().await? {
        return Ok(count);
    }
    loop {
        let due = engine.meta.due_tombstones(now, BATCH).await?;
        if due.is_empty() {
            return Ok(count);
        }
        // Said first: a copy that is on its way to take a piece's place must not do so once it is deleted. What is cut off here
        // is deleted when its row goes.
        let marked = engine.meta.unlinked(due.iter().map(|tombstone| tombstone.segment).collect(), now).await?;
        faults::point("sweep.marked");
        let marked: HashSet<SegmentId> = marked.into_iter().collect();
        let due = due.into_iter().filter(|tombstone| marked.contains(&tombstone.segment)).collect();
        let deleted = delete(engine, due, now).await?;
        faults::point("sweep.unlinked");
        count += u64::try_from(deleted.len()).unwrap_or(0);
    }
}

/// Tombstones that have outlived every request: the segment is deleted once more, then the row goes.
async fn forget(engine: &Engine, now: Timestamp) -> Result<(), Refusal> {
    loop {
        let old = engine.meta.old_tombstones(now.minus(limits::DOWNLOAD_MAX), BATCH).await?;
        if old.is_empty() {
            return Ok(());
        }
        let deleted = delete(engine, old, now).await?;
        engine.meta.drop_tombstones(deleted).await?;
        faults::point("sweep.row_deleted");
    }
}

/// Deletes segments. One that can't be deleted is tried again later and keeps no other from being deleted.
async fn delete(engine: &Engine, tombstones: Vec<Tombstone>, now: Timestamp) -> Result<Vec<SegmentId>, Refusal> {
    let mut deleted = Vec::new();
    let mut failed = Vec::new();
    for tombstone in tombstones {
        if engine.readers.reads(tombstone.segment) {
            failed.push(tombstone.segment);
            continue;
        }
        match engine.blobs.delete(tombstone.segment, &tombstone.backend).await {
            Ok(()) => deleted.push(tombstone.segment),
            Err(error) => {
                tracing::error!(segment = %tombstone.segment, %error, "a segment can't be deleted; tried again in an hour");
                failed.push(tombstone.segment);
            }
        }
    }
    if !failed.is_empty() {
        engine.meta.postpone(failed, now.plus(RETRY)).await?;
    }
    Ok(deleted)
}

/// Are bytes of this upload not there that a row names?
async fn lacks(engine: &Engine, session: SessionId) -> Result<bool, Refusal> {
    for (segment, backend) in engine.meta.pieces_of(session).await? {
        if engine.blobs.length(segment, &backend).await?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Bytes that no row names: of a crash between bytes and rows, or of a body still on its way. Only the former stand
/// still for a day. Those of a gap are nobody's to judge yet.
async fn orphans(engine: &Engine, now: Timestamp) -> Result<u64, Refusal> {
    let before = now.minus(limits::ORPHAN_GRACE);
    let mut gaps = gaps(engine).await?;
    gaps.retain(|gap| gap.counts(now));
    // With what finds them, which may be more than their names.
    let mut old = Vec::new();
    let mut doubtful = Vec::new();
    let listing = engine
        .blobs
        .list(&mut |batch| {
            for listed in batch {
                if gaps.iter().any(|gap| gap.has(listed.written)) {
                    doubtful.push(listed.segment);
                } else if listed.written <= before {
                    old.push((listed.segment, listed.backend));
                }
            }
        })
        .await;
    let mut kept = 0;
    for batch in doubtful.chunks(1000) {
        kept += engine.meta.known_segments(batch.to_vec()).await?.iter().filter(|known| !**known).count();
    }
    if kept > 0 {
        tracing::warn!(
            segments = kept,
            "bytes without a row were written while this database was not in use: it may be an older backup. They are kept \
             for a day; `landfall doctor` names them"
        );
    }
    let mut deleted = 0;
    let mut judged: Option<(SessionId, Result<bool, Refusal>)> = None;
    let mut unasked = None;
    for batch in old.chunks(1000) {
        let known = engine.meta.known_segments(batch.iter().map(|(segment, _)| *segment).collect()).await?;
        for ((segment, backend), _) in batch.iter().zip(known).filter(|(_, known)| !known) {
            // Asked once for each upload: a listing has what belongs together one after the other.
            let lacking = match judged {
                Some((session, lacking)) if session == segment.session => lacking,
                Some(_) | None => lacks(engine, segment.session).await,
            };
            judged = Some((segment.session, lacking.clone()));
            match lacking {
                Ok(false) => {}
                Ok(true) => {
                    tracing::error!(
                        %segment,
                        "bytes without a row stay, because what rows name of the same upload is not there: they may be a copy \
                         of it. `landfall doctor` names both"
                    );
                    continue;
                }
                // A place that can't be asked about one upload keeps no other from being judged.
                Err(refusal) => {
                    unasked.get_or_insert(refusal);
                    continue;
                }
            }
            match engine.blobs.delete(*segment, backend).await {
                Ok(()) => deleted += 1,
                Err(error) => tracing::error!(%segment, %error, "an orphan can't be deleted; tried again in an hour"),
            }
        }
    }
    // What was listed is judged each for itself, although it may not be all.
    listing?;
    unasked.map_or(Ok(deleted), Err)
}
