//! How long to wait before another attempt.

use std::time::Duration;

/// The bound of the first random wait; each further one is twice as long.
const BASE: Duration = Duration::from_millis(200);

/// The longest random wait.
const MOST: Duration = Duration::from_secs(10);

/// Exponential backoff with full jitter (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015): a random time
/// up to a bound that doubles with each wait. What the provider asks for comes before it, so that callers who were all told the
/// same time do not come back at the same time. `random` is uniform over all of `u64`; `waits` counts those made so far.
#[must_use]
pub fn wait(waits: u32, at_least: Duration, random: u64) -> Duration {
    let bound = BASE
        .saturating_mul(2_u32.saturating_pow(waits))
        .min(MOST)
        .as_nanos();
    let jitter = bound * u128::from(random) / u128::from(u64::MAX);
    at_least.saturating_add(Duration::from_nanos(
        u64::try_from(jitter).unwrap_or(u64::MAX),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bound_doubles_with_each_wait_until_it_is_reached() {
        let longest = |waits| wait(waits, Duration::ZERO, u64::MAX);
        assert_eq!(longest(0), BASE);
        assert_eq!(longest(1), BASE * 2);
        assert_eq!(longest(5), BASE * 32);
        assert_eq!(longest(6), MOST);
        assert_eq!(longest(u32::MAX), MOST);
    }

    proptest! {
        #[test]
        fn no_wait_is_shorter_than_asked_or_longer_than_the_bound_beyond_it(
            waits: u32,
            at_least in 0_u64..86_400_000,
            random: u64,
        ) {
            let at_least = Duration::from_millis(at_least);
            let wait = wait(waits, at_least, random);
            prop_assert!(wait >= at_least && wait <= at_least + MOST);
        }
    }
}
