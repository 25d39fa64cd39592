//! Where those stand for whom the launcher has no place: in order, and for no longer than what they want to run may take. Nobody looks
//! again by the clock; each end of a sandbox is a reason to.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{Mutex, MutexGuard};

/// The most that stand in the line of one launcher; whoever comes then is told to come again.
pub(super) const MOST: usize = 64;

/// The line of one launcher.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Who holds it is first. Tokio's is given in the order of asking.
    first: Mutex<()>,
    standing: AtomicUsize,
}

/// One who stands in it, and leaves it when dropped.
pub(super) struct Standing<'a>(&'a Line);

impl Line {
    /// A place at its end, if it is not full.
    pub(super) fn stand(&self) -> Option<Standing<'_>> {
        let more = |standing: usize| (standing < MOST).then_some(standing + 1);
        let stood = self.standing.fetch_update(Relaxed, Relaxed, more);
        stood.is_ok().then(|| Standing(self))
    }

    /// How many stand in it.
    pub(super) fn standing(&self) -> usize {
        self.standing.load(Relaxed)
    }
}

impl Standing<'_> {
    /// Waits until everybody before has had their turn, which lasts until what is returned is dropped.
    pub(super) async fn is_first(&self) -> MutexGuard<'_, ()> {
        self.0.first.lock().await
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.0.standing.fetch_sub(1, Relaxed);
    }
}
