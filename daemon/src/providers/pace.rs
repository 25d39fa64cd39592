//! How quickly the answers of a model begin: an average in which the newest times weigh most, and which fades. Pure.
//!
//! A target that was slow is not asked, so nothing would ever be heard of it again. Therefore what is known of it counts less the older
//! it is: after a while it is as good as one that nobody knows, and is tried again.

use std::time::Duration;

use tokio::time::Instant;

/// How much of the average the newest time is.
const NEWEST: f64 = 0.3;

/// After this time what is known counts half.
const HALF: Duration = Duration::from_secs(60);

/// The pace of one model.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    ms: f64,
    at: Instant,
}

impl Pace {
    /// An answer took so long to begin.
    #[must_use]
    pub fn new(ms: u64, now: Instant) -> Self {
        Self {
            ms: ms as f64,
            at: now,
        }
    }

    /// Another one did.
    pub fn took(&mut self, ms: u64, now: Instant) {
        // The older the average is, the more of it the newest time replaces.
        let keeps = (1.0 - NEWEST) * self.left(now);
        self.ms = self.ms * keeps + ms as f64 * (1.0 - keeps);
        self.at = now;
    }

    /// What one expects of it now, in milliseconds.
    #[must_use]
    pub fn expected(&self, now: Instant) -> f64 {
        self.ms * self.left(now)
    }

    /// When it was last heard of.
    #[must_use]
    pub const fn heard_at(&self) -> Instant {
        self.at
    }

    /// How much of what is known still counts.
    fn left(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64();
        0.5_f64.powf(age / HALF.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_that_was_slow_once_is_tried_again() {
        let start = Instant::now();
        let (slow, mut quick) = (Pace::new(8_000, start), Pace::new(100, start));
        let mut tried = None;
        for second in 1..3_600 {
            let now = start + Duration::from_secs(second);
            if slow.expected(now) < quick.expected(now) {
                tried = Some(second);
                break;
            }
            quick.took(100, now);
        }
        // Eighty times as slow is a little more than six halves.
        let tried = tried.expect("it is tried again");
        assert!((360..400).contains(&tried), "{tried}");
    }

    #[test]
    fn newest_times_weigh_most() {
        let start = Instant::now();
        let mut pace = Pace::new(1_000, start);
        for _ in 0..10 {
            pace.took(100, start);
        }
        assert!((100.0..130.0).contains(&pace.expected(start)));
        // After a long time the first one says it all.
        let later = start + Duration::from_secs(3_600);
        pace.took(700, later);
        assert!((pace.expected(later) - 700.0).abs() < 1.0);
    }

    proptest! {
        #[test]
        fn what_is_expected_lies_within_what_was_seen_and_fades(
            times in prop::collection::vec((0_u64..100_000, 0_u64..600), 1..40),
        ) {
            let mut now = Instant::now();
            let mut pace = Pace::new(times[0].0, now);
            for (ms, seconds) in &times[1..] {
                now += Duration::from_secs(*seconds);
                pace.took(*ms, now);
            }
            let most = times.iter().map(|(ms, _)| *ms).max().unwrap() as f64;
            let least = times.iter().map(|(ms, _)| *ms).min().unwrap() as f64;
            let expected = pace.expected(now);
            prop_assert!(expected <= most + 0.001 && expected >= least - 0.001);
            prop_assert!(pace.expected(now + HALF) <= expected / 2.0 + 0.001);
        }
    }
}
