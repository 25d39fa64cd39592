//! The time at which a life of pawd begins: not before the end of the one before it, whatever the host's clock says.

use std::{path::Path, time::UNIX_EPOCH};

use paw_audit::segment::WITNESS;
use tracing::warn;

use crate::clock::{behind_ms, not_before};

/// By so many milliseconds a clock may be behind without a word.
const USUAL: u64 = 1_000;

/// Has time go on from when the store and the newest checkpoint of this log were written last. Of what is not there nothing is known. To be
/// called before the store is opened, which writes to it.
pub(super) fn goes_on(store: &Path, log: &Path) {
    for written in [store, &log.join(WITNESS)] {
        let at = std::fs::metadata(written).and_then(|found| found.modified());
        if let Some(since) = at.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()) {
            not_before(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        }
    }
    let behind = behind_ms();
    if behind > USUAL {
        warn!(
            behind_ms = behind,
            remedy = "see that the clock is right (timedatectl), then restart pawd",
            "the clock of this host is behind the time at which pawd wrote last; time goes on from there"
        );
    }
}
