//! Whose turn it is to write. A commit waits for the disk, which may not answer for a long time; whoever only wants to read and has to
//! write for it (a note that is not in the tables yet) does not wait that long.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// One writer at a time, and since when.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    since: Mutex<Option<Instant>>,
    free: Condvar,
}

/// Given back when dropped.
#[derive(Debug)]
pub(crate) struct Writing<'a>(&'a Turn);

impl Turn {
    /// Waits until nobody writes; with patience, not for one that has been at it for so long. Whoever comes late to a commit that hangs
    /// does not wait at all. An error says for how long it has been going on.
    pub(crate) fn take(&self, patience: Option<Duration>) -> Result<Writing<'_>, Duration> {
        let mut since = self.since();
        while let Some(began) = *since {
            since = match patience {
                None => self
                    .free
                    .wait(since)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    let left = patience
                        .checked_sub(began.elapsed())
                        .ok_or_else(|| began.elapsed())?;
                    let waited = self.free.wait_timeout(since, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        *since = Some(Instant::now());
        Ok(Writing(self))
    }

    /// For how long the one who writes has been at it.
    pub(crate) fn held(&self) -> Option<Duration> {
        self.since().map(|began| began.elapsed())
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        *self.0.since() = None;
        self.0.free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_patient_for_a_while_waits_for_no_write_that_hangs() {
        let turn = Turn::default();
        let first = turn.take(Some(Duration::ZERO)).unwrap();
        assert!(turn.take(Some(Duration::ZERO)).is_err());
        assert!(turn.take(Some(Duration::from_millis(5))).is_err());
        assert!(turn.held() >= Some(Duration::from_millis(5)));
        drop(first);
        assert!(turn.held().is_none());
        assert!(turn.take(Some(Duration::ZERO)).is_ok());
    }

    #[test]
    fn who_waits_has_its_turn_when_the_one_before_is_done() {
        let turn = Turn::default();
        let first = turn.take(None).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| turn.take(None).map(drop));
            let third = scope.spawn(|| turn.take(Some(Duration::from_secs(60))).map(drop));
            drop(first);
            assert!(second.join().unwrap().is_ok() && third.join().unwrap().is_ok());
        });
    }
}
