//! The wall clock, in one place: everything else is given the time.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since 1970, and never less than it was in this life of pawd: what has ended does not begin again because somebody set the
/// clock back.
#[must_use]
pub fn now_ms() -> u64 {
    static BEGAN: OnceLock<(u64, Instant)> = OnceLock::new();
    static LATEST: AtomicU64 = AtomicU64::new(0);
    let wall = wall_ms();
    let (began, since) = *BEGAN.get_or_init(|| (wall, Instant::now()));
    let passed = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    let now = wall.max(began.saturating_add(passed));
    now.max(LATEST.fetch_max(now, Ordering::Relaxed))
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
