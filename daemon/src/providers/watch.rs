//! Asks each provider from time to time whether it is there, so that one that nobody talks to is seen to fail, and to be back.
//!
//! One task for each provider, so at most one check of it is under way; a check has no place in any queue and holds nothing that a
//! chat waits for. Traffic that goes well is as good as a check and stands in for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use paw_policy::Name;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{Known, Providers};

/// The first check comes within this time, so that one soon knows, and not all at once.
const FIRST: Duration = Duration::from_secs(2);

/// Checks every provider there is until it is told to stop; one that comes with a reload is taken up, one that went is left.
pub async fn watch(mut providers: watch::Receiver<Arc<Providers>>, stop: CancellationToken) {
    let mut checks = JoinSet::new();
    let mut checked = BTreeMap::new();
    loop {
        let now = Arc::clone(&providers.borrow_and_update());
        follow(&now, &mut checked, &mut checks);
        drop(now);
        tokio::select! {
            () = stop.cancelled() => break,
            changed = providers.changed() => if changed.is_err() { break },
            Some(ended) = checks.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    error!(error = %error, "the checks of a provider ended; traffic alone tells of it now");
                }
            }
        }
    }
    checks.shutdown().await;
}

/// Begins with those that are new, and leaves those that are not there any more or are others now.
fn follow(
    now: &Providers,
    checked: &mut BTreeMap<Name, (Arc<Known>, AbortHandle)>,
    checks: &mut JoinSet<()>,
) {
    checked.retain(|name, (known, check)| {
        let stays = now
            .get(name.as_str())
            .is_some_and(|(_, found)| Arc::ptr_eq(found, known));
        if !stays {
            check.abort();
        }
        stays
    });
    for (name, known) in now.iter() {
        if !checked.contains_key(name) {
            let check = checks.spawn(keep_checking(Arc::clone(known)));
            checked.insert(name.clone(), (Arc::clone(known), check));
        }
    }
}

async fn keep_checking(known: Arc<Known>) {
    let every = known.settings.check_interval;
    sleep(fraction(every.min(FIRST), random())).await;
    loop {
        if !known.is_well_since(every, Instant::now()) {
            // What it came to is noted; nobody else waits for it.
            drop(known.check().await);
        }
        sleep(jittered(every, random())).await;
    }
}

/// Three quarters to five quarters of a time, so that those who began together do not stay together.
fn jittered(every: Duration, random: u64) -> Duration {
    every * 3 / 4 + fraction(every / 2, random)
}

/// A part of a time; `random` is uniform over all of `u64`.
fn fraction(of: Duration, random: u64) -> Duration {
    let part = of.as_nanos() * u128::from(random) / u128::from(u64::MAX);
    Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX))
}

/// Without a random number checks only come later.
fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_or(u64::MAX, |()| u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_spread_around_their_interval() {
        let minute = Duration::from_secs(60);
        let check = |random, seconds| {
            assert_eq!(jittered(minute, random).as_secs(), seconds);
        };
        check(0, 45);
        check(u64::MAX / 2, 59);
        check(u64::MAX, 75);
    }
}
