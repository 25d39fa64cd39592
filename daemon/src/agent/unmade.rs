//! Conversations whose first turns could not be told in short, so that not every turn pays for another try.
//!
//! After a failure the next try is as many turns later as it would have covered, and twice as many after each further one. It is kept in
//! memory alone: after a restart there is one try more.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

/// Conversations that are kept in mind; of more, the oldest are forgotten, and tried once more.
const MOST: usize = 1_024;

/// The fewest turns until the next try, and the most.
const LATER: (u64, u64) = (4, 256);

#[derive(Debug, Clone, Copy)]
struct Failed {
    /// The newest turn then.
    newest: u64,
    /// How many more there have to be.
    later: u64,
}

/// Which conversations those are. Ids of conversations are in the order in which they began.
#[derive(Debug, Default)]
pub struct Unmade(Mutex<BTreeMap<Uuid, Failed>>);

impl Unmade {
    /// Whether a summary may be asked for in a conversation whose newest turn is this one.
    pub(super) fn may_be_tried(&self, session: Uuid, newest: u64) -> bool {
        let failed = self.lock().get(&session).copied();
        failed.is_none_or(|failed| newest >= failed.newest.saturating_add(failed.later))
    }

    /// There was none, that would have been of so many turns.
    pub(super) fn was_not_made(&self, session: Uuid, newest: u64, turns: u64) {
        let mut all = self.lock();
        let later = match all.get(&session) {
            Some(failed) => failed.later.saturating_mul(2),
            None => turns,
        };
        let later = later.clamp(LATER.0, LATER.1);
        all.insert(session, Failed { newest, later });
        while all.len() > MOST {
            all.pop_first();
        }
    }

    /// There was one.
    pub(super) fn is_made(&self, session: Uuid) {
        self.lock().remove(&session);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Failed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_try_that_fails_puts_the_next_one_off_twice_as_long() {
        let (unmade, session) = (Unmade::default(), Uuid::nil());
        let tried = |turns: std::ops::Range<u64>| {
            let tries = |newest: &u64| {
                let may = unmade.may_be_tried(session, *newest);
                if may {
                    unmade.was_not_made(session, *newest, 6);
                }
                may
            };
            turns.filter(tries).collect::<Vec<_>>()
        };
        assert_eq!(tried(10..60), [10, 16, 28, 52]);
        unmade.is_made(session);
        assert_eq!(tried(60..63), [60]);
    }

    #[test]
    fn no_more_than_so_many_are_kept() {
        let unmade = Unmade::default();
        for number in 0..2_000 {
            unmade.was_not_made(Uuid::from_u128(number), 1, 1);
        }
        assert_eq!(unmade.lock().len(), MOST);
        assert!(!unmade.may_be_tried(Uuid::from_u128(1_999), 1));
    }
}
