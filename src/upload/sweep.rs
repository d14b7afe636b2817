//! What is over goes: expired sessions, unused files, deleted segments, bytes without a row.
//!
//! Expiry itself is by the wall clock, at once. Deleting bytes because time has passed waits until the wall clock and
//! the monotonic clock have agreed for an hour, so that a clock that jumps destroys nothing.

use std::time::Duration;

use crate::blob::Listed;
use crate::clock::Timestamp;
use crate::engine::Engine;
use crate::faults;
use crate::limits;
use crate::meta::Tombstone;
use crate::model::ids::SegmentId;
use crate::model::refusal::Refusal;
use crate::model::session::SessionState;

const BATCH: u32 = 500;
const SETTING: &str = "sweep";
/// The two clocks agree when they moved by the same time, give or take this.
const TOLERANCE: Duration = Duration::from_secs(60);
/// After a shorter stop than this, agreement goes on where the last sweep left it.
const RESTART: Duration = Duration::from_secs(600);

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
        Ok(report)
    }

    async fn agree(&mut self, engine: &Engine, now: Timestamp) -> Result<(), Refusal> {
        let monotonic = engine.clock.monotonic();
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
                if let Some((wall_before, agreed)) = last(engine).await? {
                    let stopped = now.millis().saturating_sub(wall_before.millis());
                    if (0..=i64::try_from(RESTART.as_millis()).unwrap_or(0)).contains(&stopped) {
                        self.agreed = agreed;
                    }
                }
            }
        }
        self.last = Some((now, monotonic));
        let state = format!("{} {}", now.millis(), self.agreed.as_millis());
        engine.meta.set_setting(SETTING, state.into_bytes(), false).await?;
        Ok(())
    }
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
        let deleted = delete(engine, due, now).await?;
        faults::point("sweep.unlinked");
        count += u64::try_from(deleted.len()).unwrap_or(0);
        engine.meta.unlinked(deleted, now).await?;
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

/// Bytes that no row names: of a crash between bytes and rows, or of a body still on its way. Only the former stand
/// still for a day.
async fn orphans(engine: &Engine, now: Timestamp) -> Result<u64, Refusal> {
    let before = now.minus(limits::ORPHAN_GRACE);
    let mut old = Vec::new();
    engine.blobs.list(&mut |batch| old.extend(batch.into_iter().filter(|l| l.written <= before))).await?;
    let mut deleted = 0;
    for batch in old.chunks(1000) {
        let known = engine.meta.known_segments(batch.iter().map(|listed| listed.segment).collect()).await?;
        for (Listed { segment, backend, .. }, _) in batch.iter().zip(known).filter(|(_, known)| !known) {
            match engine.blobs.delete(*segment, backend).await {
                Ok(()) => deleted += 1,
                Err(error) => tracing::error!(%segment, %error, "an orphan can't be deleted; tried again in an hour"),
            }
        }
    }
    Ok(deleted)
}
