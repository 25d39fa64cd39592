//! When it is worth asking again for something that goes by: from how fast it went by. Pure: time is an argument.

/// The least and the longest time that is said, in milliseconds.
const BOUNDS: (u64, u64) = (50, 60_000);

/// What is said while nothing went by, in milliseconds.
const UNKNOWN: u64 = 1_000;

/// One that just went by counts for so much of the mean: what is usual, and soon so again after a burst.
const NEWEST: u64 = 8;

/// How fast something goes by.
#[derive(Debug, Default, Clone, Copy)]
pub struct Pace {
    /// When the last one did.
    last_ms: Option<u64>,
    /// The usual time between two, in thousandths of a millisecond: less than one lies between two where a thousand come in a second.
    mean_us: Option<u64>,
}

impl Pace {
    /// One went by.
    pub fn step(&mut self, now_ms: u64) {
        if let Some(last) = self.last_ms {
            let took = now_ms.saturating_sub(last).saturating_mul(1_000);
            self.mean_us = Some(match self.mean_us {
                Some(mean) => (mean.saturating_mul(NEWEST - 1).saturating_add(took)) / NEWEST,
                None => took,
            });
        }
        self.last_ms = Some(now_ms);
    }

    /// Nothing is there that could go by. The time until the next one does is none that it took.
    pub fn rest(&mut self) {
        self.last_ms = None;
    }

    /// In how many milliseconds the next one is likely to have gone by: the usual time between two. Where the last one is longer ago
    /// than that, it takes about as long again.
    #[must_use]
    pub fn again(&self, now_ms: u64) -> u64 {
        let since = self.last_ms.map_or(0, |last| now_ms.saturating_sub(last));
        let usual = self.mean_us.map_or(UNKNOWN, |mean| mean.div_ceil(1_000));
        usual.max(since).clamp(BOUNDS.0, BOUNDS.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_by_evenly_is_told_as_it_goes() {
        let mut pace = Pace::default();
        assert_eq!(pace.again(0), UNKNOWN);
        for step in 0..100 {
            pace.step(step * 400);
        }
        assert_eq!(pace.again(99 * 400), 400);
    }

    #[test]
    fn what_stands_still_takes_as_long_again() {
        let mut pace = Pace::default();
        for step in 0..100 {
            pace.step(step * 400);
        }
        assert_eq!(pace.again(99 * 400 + 7_000), 7_000);
        assert_eq!(pace.again(u64::MAX), BOUNDS.1);
    }

    #[test]
    fn idle_time_is_no_time_that_something_took() {
        let mut pace = Pace::default();
        for step in 0..100 {
            pace.step(step * 400);
        }
        pace.rest();
        let later = 99 * 400 + 3_600_000;
        assert_eq!(pace.again(later), 400, "as it was usual");
        pace.step(later);
        assert_eq!(pace.again(later), 400);
        pace.step(later + 400);
        assert_eq!(pace.again(later + 400), 400);
    }

    #[test]
    fn what_rushes_by_is_not_asked_for_at_once() {
        let mut pace = Pace::default();
        for step in 0..100 {
            pace.step(step);
        }
        assert_eq!(pace.again(99), BOUNDS.0);
    }
}
