//! The wall clock, in one place: everything else is given the time.
//!
//! Time here never goes back and never stands still, whatever becomes of the host's clock: what has ended does not begin again because
//! somebody set the clock back, and what is to end in an hour does, also when the clock was ahead for a while and was set right.
//!
//! ```text
//!  host's clock   10:00 ── 11:00 ─┐ set back          ┌─ set ahead ── 13:00 ─┐ set right
//!                                 └ 09:00 ── 10:00 ──┘                      └ 11:30 ── 12:00
//!  now_ms         10:00 ── 11:00 ── 11:00 ── 12:00 ───── 13:00 ───────────── 13:00 ─── 13:30
//! ```
//!
//! Two things go by the host's clock itself ([`wall_ms`]): when a job is due, and one-time codes, which another clock has to agree with. A
//! code counts once, whatever the time.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// By so much the host's clock may differ from the time that passes without having been set: it is corrected all the time, and stands while
/// the host sleeps.
const SET: u64 = 10 * 60 * 1_000;

/// The time of this life of pawd. Pure: both clocks are arguments.
#[derive(Debug, Clone, Copy)]
struct Clock {
    /// A time that was told, in milliseconds since 1970, and what the clock that cannot be set said then. All that comes later is at least as
    /// much later.
    told: u64,
    since: Duration,
    /// What both clocks said when they were looked at last.
    wall: u64,
    passed: Duration,
    /// When the host's clock was seen to have been set last.
    set: Option<Duration>,
}

impl Clock {
    const fn new(wall: u64, passed: Duration) -> Self {
        Self {
            told: wall,
            since: passed,
            wall,
            passed,
            set: None,
        }
    }

    /// The time at this moment.
    fn now(&mut self, wall: u64, passed: Duration) -> u64 {
        let went_by = millis(passed.saturating_sub(self.passed));
        if wall.abs_diff(self.wall.saturating_add(went_by)) > SET {
            self.set = Some(passed);
        }
        (self.wall, self.passed) = (wall, passed.max(self.passed));
        let least = self
            .told
            .saturating_add(millis(self.passed.saturating_sub(self.since)));
        if wall > least {
            (self.told, self.since) = (wall, self.passed);
            return wall;
        }
        least
    }

    /// Has it be this late at least.
    fn not_before(&mut self, ms: u64) {
        let least = self
            .told
            .saturating_add(millis(self.passed.saturating_sub(self.since)));
        if ms > least {
            (self.told, self.since) = (ms, self.passed);
        }
    }

    /// How long ago the host's clock was set; nothing where that was not seen.
    fn set_ago(&self) -> Option<Duration> {
        self.set.map(|set| self.passed.saturating_sub(set))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The clock of this process.
static CLOCK: Mutex<Option<(Instant, Clock)>> = Mutex::new(None);

fn with<T>(look: impl FnOnce(&mut Clock, u64, Duration) -> T) -> T {
    let wall = wall_ms();
    let mut clock = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let (began, clock) =
        clock.get_or_insert_with(|| (Instant::now(), Clock::new(wall, Duration::ZERO)));
    let passed = began.elapsed();
    look(clock, wall, passed)
}

/// Milliseconds since 1970. It never goes back, and an hour later it is an hour later at least.
#[must_use]
pub fn now_ms() -> u64 {
    with(Clock::now)
}

/// Has the time be this late at least, because something was written then: a clock that was set back while pawd did not run makes nothing
/// young again.
pub fn not_before(ms: u64) {
    with(|clock, wall, passed| {
        clock.now(wall, passed);
        clock.not_before(ms);
    });
}

/// How long ago the host's clock was set in this life of pawd; nothing where it was not.
#[must_use]
pub fn set_ago() -> Option<Duration> {
    with(|clock, wall, passed| {
        clock.now(wall, passed);
        clock.set_ago()
    })
}

/// By how much the host's clock is behind the time, in milliseconds: it was set back.
#[must_use]
pub fn behind_ms() -> u64 {
    with(|clock, wall, passed| clock.now(wall, passed).saturating_sub(wall))
}

/// What the wall clock says, in milliseconds since 1970; 0 on a host whose clock is before it. For what another clock has to agree with.
#[must_use]
pub fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |past| {
            u64::try_from(past.as_millis()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;
    const NOON: u64 = 1_800_000_000_000;

    fn after(hours: u64) -> Duration {
        Duration::from_millis(hours * HOUR)
    }

    #[test]
    fn clock_that_is_set_back_makes_nothing_young_again() {
        let mut clock = Clock::new(NOON, Duration::ZERO);
        assert_eq!(clock.now(NOON + HOUR, after(1)), NOON + HOUR);
        // Two hours back; then an hour goes by.
        assert_eq!(clock.now(NOON - HOUR, after(1)), NOON + HOUR);
        assert_eq!(clock.now(NOON, after(2)), NOON + 2 * HOUR);
    }

    /// As by a server of time that was wrong for a while: time went on before, too, but stood still until the clock had come so far.
    #[test]
    fn clock_that_was_ahead_and_is_set_right_lets_time_go_on() {
        let year = 365 * 24 * HOUR;
        let mut clock = Clock::new(NOON, Duration::ZERO);
        assert_eq!(clock.now(NOON + year, after(0)), NOON + year);
        assert_eq!(clock.now(NOON + HOUR, after(1)), NOON + year + HOUR);
        assert_eq!(clock.now(NOON + 2 * HOUR, after(2)), NOON + year + 2 * HOUR);
    }

    #[test]
    fn what_was_written_before_is_not_later_than_now() {
        let mut clock = Clock::new(NOON - HOUR, Duration::ZERO);
        clock.not_before(NOON);
        assert_eq!(clock.now(NOON - HOUR, after(0)), NOON);
        assert_eq!(clock.now(NOON, after(1)), NOON + HOUR);
        clock.not_before(NOON);
        assert_eq!(clock.now(NOON + 2 * HOUR, after(3)), NOON + 3 * HOUR);
    }

    #[test]
    fn clock_that_was_set_is_seen_to_have_been() {
        let mut clock = Clock::new(NOON, Duration::ZERO);
        clock.now(NOON + 5 * HOUR, after(5));
        // Corrected by a little.
        clock.now(NOON + 6 * HOUR + 60_000, after(6));
        assert_eq!(clock.set_ago(), None);
        clock.now(NOON + 9 * HOUR, after(7));
        assert_eq!(clock.set_ago(), Some(after(0)));
        clock.now(NOON + 10 * HOUR, after(8));
        assert_eq!(clock.set_ago(), Some(after(1)));
    }

    proptest! {
        #[test]
        fn time_goes_on_at_least_as_fast_as_it_passes(
            steps in proptest::collection::vec((0..4_000_000_000_000_u64, 0..10_000_000_u64, any::<bool>()), 1..60)
        ) {
            let mut passed = Duration::ZERO;
            let mut clock = Clock::new(NOON, passed);
            let (mut last, mut at) = (NOON, passed);
            for (wall, micros, floor) in steps {
                passed += Duration::from_micros(micros);
                if floor {
                    clock.not_before(wall);
                }
                let now = clock.now(wall, passed);
                prop_assert!(now >= wall);
                // A millisecond may be on either side of a look.
                prop_assert!(now + 1 >= last + millis(passed - at), "{now} after {last}");
                prop_assert!(now >= last);
                (last, at) = (now, passed);
            }
        }
    }
}
