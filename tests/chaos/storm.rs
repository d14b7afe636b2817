//! What befalls the processes, the database and the bucket, and when.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::bucket::Harm;
use crate::world::{REPLICAS, World};

/// Numbers that follow from a seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x6C61_6E64_6661_6C6C)
    }

    pub fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From `from`, below `to`.
    pub fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    /// True so many times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.within(0, 100) < percent
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.within(0, all.len() as u64) as usize]
    }

    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.within(from, to))
    }
}

/// What happens at one time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A process is killed, and started again after a while.
    Kill(usize, Duration),
    /// A process stands still for so long.
    Pause(usize, Duration),
    /// The same, and not passed over when something befalls the process just then.
    Stand(usize, Duration),
    /// The database server is restarted, in order or as by a crash, and is away for so long.
    Restart { in_order: bool, away: Duration },
    /// The next calls of a kind to the bucket are harmed, if they come soon.
    Harm(&'static str, u32, Harm),
}

const CALLS: [&str; 10] = [
    "PutObject",
    "UploadPart",
    "CreateMultipartUpload",
    "CompleteMultipartUpload",
    "ListParts",
    "GetObject",
    "HeadObject",
    "DeleteObject",
    "AbortMultipartUpload",
    "PutObject",
];

/// How long a harm waits for its calls. Some kinds of call are rare: one that needs them would otherwise meet everything that was
/// meant for minutes before it at once.
const SPELL: Duration = Duration::from_secs(3);

/// What happens when. The same for the same seed and length.
pub fn schedule(seed: u64, length: Duration) -> Vec<(Duration, Event)> {
    let mut rng = Rng::new(seed);
    let mut events = Vec::new();
    let mut at = Duration::from_secs(1);
    // Once a process stands still for half of the run; in a long one for longer than its leases last.
    let (from, long) =
        if length >= Duration::from_secs(400) { (20, Duration::from_secs(320)) } else { (5, length / 2) };
    events.push((Duration::from_secs(from), Event::Stand(rng.within(0, REPLICAS as u64) as usize, long)));
    while at + Duration::from_secs(3) < length {
        let replica = rng.within(0, REPLICAS as u64) as usize;
        let event = match rng.within(0, 100) {
            0..40 => Event::Kill(replica, rng.millis(100, 1_500)),
            // Some longer than the database waits for one that holds something, and than clients do.
            40..55 if rng.chance(70) => Event::Pause(replica, rng.millis(300, 2_000)),
            40..55 => Event::Pause(replica, rng.millis(3_000, 9_000)),
            55..63 => Event::Restart { in_order: rng.chance(50), away: rng.millis(0, 1_500) },
            _ => {
                let harm = match rng.within(0, 6) {
                    0 => Harm::Refuse(500, "InternalError"),
                    1 => Harm::Refuse(503, "SlowDown"),
                    2 => Harm::RefuseAfter(500, "InternalError"),
                    3 => Harm::CutBefore,
                    4 => Harm::CutAfter,
                    _ => Harm::Delay(rng.within(100, 1_500)),
                };
                Event::Harm(rng.of(&CALLS), rng.within(1, 7) as u32, harm)
            }
        };
        events.push((at, event));
        at += rng.millis(300, 1_100);
    }
    events.sort_by_key(|(at, _)| *at);
    events
}

/// What really happened.
#[derive(Debug, Default)]
pub struct Storm {
    kills: AtomicU64,
    pauses: AtomicU64,
    restarts: AtomicU64,
    harms: AtomicU64,
    passed_over: AtomicU64,
}

impl Storm {
    pub fn kills(&self) -> u64 {
        self.kills.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        write!(
            f,
            "{} kills, {} pauses, {} database restarts, {} harms to the bucket ({} events passed over: the process was down already)",
            of(&self.kills),
            of(&self.pauses),
            of(&self.restarts),
            of(&self.harms),
            of(&self.passed_over)
        )
    }
}

/// Lets it happen. When it is over everything runs, and nothing is harmed any more.
pub fn rage(world: &Arc<World>, events: Vec<(Duration, Event)>, until: Instant, enough: impl Fn() -> bool) {
    let began = Instant::now();
    let mut under_way = Vec::new();
    for (at, event) in events {
        while began.elapsed() < at && !enough() {
            std::thread::sleep(Duration::from_millis(5));
        }
        if enough() {
            break;
        }
        let world = Arc::clone(world);
        // They overlap.
        under_way.push(std::thread::spawn(move || {
            let left = || until.saturating_duration_since(Instant::now());
            let (count, happened) = match event {
                Event::Kill(replica, down) => (&world.storm.kills, world.kill(replica, down)),
                Event::Pause(replica, long) => (&world.storm.pauses, world.pause(replica, long.min(left()))),
                Event::Stand(replica, long) => {
                    world.stand(replica, || long.min(left()));
                    (&world.storm.pauses, true)
                }
                Event::Restart { in_order, away } => (&world.storm.restarts, world.restart_database(in_order, away)),
                Event::Harm(what, times, harm) => {
                    world.store.harm_for(SPELL, what, times, harm);
                    (&world.storm.harms, true)
                }
            };
            if happened { count } else { &world.storm.passed_over }.fetch_add(1, Ordering::Relaxed);
        }));
    }
    while Instant::now() < until && !enough() {
        std::thread::sleep(Duration::from_millis(20));
    }
    for event in under_way {
        event.join().expect("an event");
    }
    world.store.spare();
}
