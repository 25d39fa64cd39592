//! How often caches were looked into, and what that came to, over all providers of the process.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What looks came to, by what was looked for. They only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Looks {
    /// It was there.
    pub hits: u64,
    /// It was there, and old enough that another one is being fetched.
    pub stale: u64,
    /// It was not there, and had to be waited for, or was asked anew.
    pub misses: u64,
    /// It was not there, because it could not be fetched a moment ago.
    pub failed: u64,
    /// It was not there, and is not fetched, because as many fetches are under way as may be.
    pub refused: u64,
}

/// [`Looks`] while they grow.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(super) hits: AtomicU64,
    pub(super) stale: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) refused: AtomicU64,
}

impl Counts {
    pub(crate) const fn new() -> Self {
        Self {
            hits: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    pub(crate) fn so_far(&self) -> Looks {
        Looks {
            hits: self.hits.load(Relaxed),
            stale: self.stale.load(Relaxed),
            misses: self.misses.load(Relaxed),
            failed: self.failed.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }
}

pub(super) fn one_more(count: &AtomicU64) {
    count.fetch_add(1, Relaxed);
}
