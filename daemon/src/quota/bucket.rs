//! How much may be asked in a minute: a bucket that fills at an even rate. Pure: it is told the time.
//!
//! Whoever takes more than the bucket holds takes it when the bucket is full, and leaves a debt that those after them wait for: over
//! any stretch of time not more is taken than the rate and one full bucket.

/// Parts of one unit: what one millisecond fills in at a rate of one a minute.
const PARTS: i64 = 60_000;

/// One bucket. It holds what flows in within a minute.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// In parts; below zero in debt.
    level: i64,
    /// When it had this level, in milliseconds of any clock that never goes back.
    at: u64,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn full(per_minute: u64, now: u64) -> Self {
        Self {
            level: capacity(per_minute),
            at: now,
        }
    }

    /// How many milliseconds it is until so many may be taken; 0 if they may be now.
    #[must_use]
    pub fn wait(&mut self, amount: u64, per_minute: u64, now: u64) -> u64 {
        self.fill(per_minute, now);
        let wanted = parts(amount).min(capacity(per_minute));
        let missing = wanted.saturating_sub(self.level).max(0);
        missing.unsigned_abs().div_ceil(per_minute.max(1))
    }

    /// Takes so many, whether they are there or not.
    pub fn take(&mut self, amount: u64) {
        self.level = self.level.saturating_sub(parts(amount));
    }

    /// Gives back so many that were taken and not used.
    pub fn give(&mut self, amount: u64, per_minute: u64) {
        self.level = self
            .level
            .saturating_add(parts(amount))
            .min(capacity(per_minute));
    }

    /// Whether it is as a new one would be.
    #[must_use]
    pub fn is_full(&mut self, per_minute: u64, now: u64) -> bool {
        self.fill(per_minute, now);
        self.level >= capacity(per_minute)
    }

    fn fill(&mut self, per_minute: u64, now: u64) {
        let passed = i64::try_from(now.saturating_sub(self.at)).unwrap_or(i64::MAX);
        let rate = i64::try_from(per_minute).unwrap_or(i64::MAX);
        self.level = self
            .level
            .saturating_add(passed.saturating_mul(rate))
            .min(capacity(per_minute));
        self.at = self.at.max(now);
    }
}

fn parts(amount: u64) -> i64 {
    i64::try_from(amount)
        .unwrap_or(i64::MAX)
        .saturating_mul(PARTS)
}

fn capacity(per_minute: u64) -> i64 {
    parts(per_minute)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_flows_in_is_the_rate() {
        let mut bucket = Bucket::full(60, 0);
        assert_eq!(bucket.wait(60, 60, 0), 0);
        bucket.take(60);
        assert_eq!(bucket.wait(1, 60, 0), 1_000, "one a second");
        assert_eq!(bucket.wait(3, 60, 500), 2_500);
        assert_eq!(bucket.wait(1, 60, 1_000), 0);
        assert!(!bucket.is_full(60, 59_999));
        assert!(bucket.is_full(60, 60_000));
    }

    #[test]
    fn more_than_it_holds_is_taken_of_a_full_one_and_owed() {
        let mut bucket = Bucket::full(60, 0);
        assert_eq!(bucket.wait(600, 60, 0), 0);
        bucket.take(600);
        assert_eq!(bucket.wait(1, 60, 0), 541_000);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let mut bucket = Bucket::full(60, 0);
        bucket.take(60);
        bucket.give(20, 60);
        assert_eq!((bucket.wait(20, 60, 0), bucket.wait(21, 60, 0)), (0, 1_000));
        bucket.give(1_000, 60);
        assert!(bucket.is_full(60, 0), "and never more than it holds");
    }

    proptest! {
        #[test]
        fn not_more_is_taken_than_the_rate_and_one_full_bucket(
            per_minute in 1_u64..1_000,
            steps in prop::collection::vec((0_u64..5_000, 1_u64..300), 1..64),
        ) {
            let mut bucket = Bucket::full(per_minute, 0);
            let (mut now, mut taken) = (0, 0);
            for (passed, amount) in steps {
                now += passed;
                // One larger than the bucket is not bounded by this sum.
                let amount = amount.min(per_minute);
                if bucket.wait(amount, per_minute, now) == 0 {
                    bucket.take(amount);
                    taken += amount;
                }
                prop_assert!(taken * 60_000 <= per_minute * (60_000 + now));
            }
        }

        #[test]
        fn after_the_wait_it_may_be_taken_and_not_before(
            per_minute in 1_u64..100_000,
            taken in 0_u64..200_000,
            amount in 1_u64..200_000,
        ) {
            let mut bucket = Bucket::full(per_minute, 0);
            bucket.take(taken);
            let wait = bucket.wait(amount, per_minute, 0);
            prop_assert_eq!(bucket.wait(amount, per_minute, wait), 0);
            if let Some(before) = wait.checked_sub(1) {
                let mut early = Bucket::full(per_minute, 0);
                early.take(taken);
                prop_assert_eq!(early.wait(amount, per_minute, before), 1);
            }
        }
    }
}
