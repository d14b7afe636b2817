//! Time and randomness. Nothing else in the crate asks the operating system for either, so that a test can
//! move the clock by an hour and see what a week-old session does.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

const DAY_MS: i64 = 24 * 3600 * 1000;

/// A wall-clock instant in milliseconds since the Unix epoch (UTC).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Days since the Unix epoch, in UTC.
    #[must_use]
    pub const fn day(self) -> i64 {
        self.0.div_euclid(DAY_MS)
    }

    /// How long its day still lasts, in UTC: more than nothing, and at most a day.
    #[must_use]
    pub fn rest_of_day(self) -> Duration {
        Duration::from_millis(u64::try_from(DAY_MS - self.0.rem_euclid(DAY_MS)).unwrap_or(0))
    }

    /// This instant moved forward by `by`; saturates at the end of time.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This instant moved back by `by`; saturates at the beginning of time.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Reads an RFC 3339 time. The last day of the year 9999 is one, and can't be reckoned with in every time zone: such
    /// a time becomes the last one that can.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            return Some(Self(time.as_millisecond()));
        }
        let pieces = jiff::fmt::temporal::Pieces::parse(text).ok()?;
        let whole = pieces.time().is_some() && pieces.offset().is_some();
        (whole && pieces.date().year() == 9999).then_some(Self(jiff::Timestamp::MAX.as_millisecond()))
    }

    /// RFC 3339 in UTC with milliseconds and `Z`, as `2026-01-02T03:04:05.678Z`.
    #[must_use]
    pub fn rfc3339(self) -> String {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => format!("{t:.3}"),
            Err(_) => String::from("9999-12-30T22:00:00.000Z"),
        }
    }

    /// `yyyyMMddTHHmmssZ`, the form SigV4 signs.
    #[must_use]
    pub fn sigv4(self) -> String {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => t.strftime("%Y%m%dT%H%M%SZ").to_string(),
            Err(_) => String::from("99991230T220000Z"),
        }
    }

    /// The same instant for the HTTP date functions; instants before 1970 become 1970.
    #[must_use]
    pub fn system_time(self) -> std::time::SystemTime {
        std::time::UNIX_EPOCH + Duration::from_millis(u64::try_from(self.0).unwrap_or(0))
    }
}

/// The clock of one server. Clones share their offsets, so that moving one moves all.
#[derive(Clone, Debug)]
pub struct Clock {
    started: Instant,
    wall_offset_ms: Arc<AtomicI64>,
    monotonic_offset_ms: Arc<AtomicI64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl Clock {
    /// The operating system's clock.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
    pub fn system() -> Self {
        Self { started: Instant::now(), wall_offset_ms: Arc::default(), monotonic_offset_ms: Arc::default() }
    }

    /// The wall clock. It may jump; tickets and sessions expire by it.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
    pub fn now(&self) -> Timestamp {
        let wall = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        Timestamp(wall.saturating_add(self.wall_offset_ms.load(Ordering::Relaxed)))
    }

    /// Time since this clock was made, which never jumps. Deleting bytes also asks this one.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        let offset = self.monotonic_offset_ms.load(Ordering::Relaxed);
        self.started.elapsed() + Duration::from_millis(u64::try_from(offset).unwrap_or(0))
    }

    /// Moves both clocks forward. Only tests and the fail points do this.
    pub fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.wall_offset_ms.fetch_add(ms, Ordering::Relaxed);
        self.monotonic_offset_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Moves the wall clock alone, forward or back, as an operator or a time server would. Tests only.
    pub fn jump_wall(&self, by_ms: i64) {
        self.wall_offset_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

/// `N` bytes from the operating system's generator.
///
/// # Panics
/// When the operating system has no entropy source: nothing secret could be made, so nothing may go on.
#[must_use]
#[allow(clippy::disallowed_methods, clippy::panic, reason = "the one place that asks for entropy")]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    if let Err(error) = getrandom::fill(&mut bytes) {
        panic!("the operating system gives no random bytes: {error}");
    }
    bytes
}

/// A random (version 4) UUID.
#[must_use]
pub fn random_uuid() -> uuid::Uuid {
    uuid::Builder::from_random_bytes(random_bytes()).into_uuid()
}

/// A time-ordered (version 7) UUID: its first 48 bits are `now`, then come a count within the millisecond (RFC 9562 6.2,
/// method 1) and 62 random bits. Rows keyed by it go to the end of their index, and files named by it fan out by time.
#[must_use]
pub fn ordered_uuid(now: Timestamp) -> uuid::Uuid {
    /// The last millisecond, and how many ids it has had.
    static LAST: AtomicI64 = AtomicI64::new(0);
    const COUNTS: i64 = 1 << 12;
    let next = |last: i64| {
        let same = last.div_euclid(COUNTS) == now.0 && last.rem_euclid(COUNTS) < COUNTS - 1;
        Some(if same { last + 1 } else { now.0.saturating_mul(COUNTS) })
    };
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_default();
    let count = next(last).unwrap_or_default().rem_euclid(COUNTS);
    let mut rest: [u8; 10] = random_bytes();
    // The version takes the upper four bits of the first byte.
    let [high, low] = u16::try_from(count).unwrap_or_default().to_be_bytes();
    rest[0] = high;
    rest[1] = low;
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(now.0).unwrap_or(0), &rest).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_millisecond_are_in_order() {
        let now = Timestamp(1_700_000_000_123);
        let ids: Vec<_> = (0..100).map(|_| ordered_uuid(now)).collect();
        // Other tests make ids meanwhile, which only begins the count anew.
        let ordered = ids.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!(ordered >= 95, "{ordered} of 99");
        assert!(ids.iter().all(|id| id.get_version_num() == 7 && id.as_u64_pair().0 >> 16 == 1_700_000_000_123));
    }
}
