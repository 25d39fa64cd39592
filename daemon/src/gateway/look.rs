//! What goes on beside the questions: whoever is left alone is looked after until it is back, and what changes of a breaker is stored.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tracing::warn;

use super::{breakers::Breakers, random, sign::is_there};
use crate::{clock::now_ms, config::Config, providers::Providers, storage::Storage};

/// How long a provider may take to say whether it is there.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// The times between two checks: an eighth of what the outage has lasted, within these. So its end is seen soon after it, measured
/// by how long it was, and one that stays away costs little.
const OFTEN: Duration = Duration::from_millis(250);
const SELDOM: Duration = Duration::from_secs(15);

/// Changes that are stored together.
const BATCH: usize = 256;

/// Looks after the breakers until the configuration ends.
pub async fn keep(
    breakers: Arc<Breakers>,
    storage: Storage,
    mut config: watch::Receiver<Arc<Config>>,
    providers: watch::Receiver<Arc<Providers>>,
) {
    let mut looks = JoinSet::new();
    let mut out: BTreeMap<String, (u64, AbortHandle)> = BTreeMap::new();
    loop {
        save(&breakers, &storage).await;
        let now = breakers.out();
        out.retain(|provider, (since, look)| {
            let goes_on = now.get(provider) == Some(since);
            if !goes_on {
                look.abort();
            }
            goes_on
        });
        for (provider, since) in now {
            out.entry(provider.clone()).or_insert_with(|| {
                let look = look(Arc::clone(&breakers), providers.clone(), provider);
                (since, looks.spawn(look))
            });
        }
        tokio::select! {
            () = breakers.changed.notified() => {}
            changed = config.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = Arc::clone(&config.borrow_and_update());
                breakers.configure(&now);
            }
            Some(over) = looks.join_next() => {
                if let Err(error) = over && !error.is_cancelled() {
                    warn!(error = %error, "a look after a provider did not end well");
                }
            }
        }
    }
}

async fn save(breakers: &Breakers, storage: &Storage) {
    loop {
        let (outlets, batch) = match breakers.unsaved(BATCH) {
            Ok(some) => some,
            Err(error) => {
                warn!(error = %paw_log::Chain(&error), "a breaker cannot be written down");
                return;
            }
        };
        if outlets.is_empty() {
            return;
        }
        if let Err(error) = storage.commit(batch).await {
            warn!(error = %paw_log::Chain(&error), remedy = error.remedy(), "breakers were not stored");
            breakers.not_saved(outlets);
            return;
        }
    }
}

/// Asks a provider again and again whether it is there, until it is told to stop.
async fn look(
    breakers: Arc<Breakers>,
    providers: watch::Receiver<Arc<Providers>>,
    provider: String,
) {
    let began = Instant::now();
    loop {
        let known = providers
            .borrow()
            .get(&provider)
            .map(|(_, known)| Arc::clone(known));
        if let Some(known) = known {
            let there = match timeout(CHECK_LIMIT, known.client.check()).await {
                Ok(outcome) => is_there(&outcome),
                Err(_) => Some(false),
            };
            breakers.checked(&provider, there, now_ms());
        }
        // A provider says nothing by itself, so there is no event that could be waited for.
        let pause = pause(began.elapsed(), random().unwrap_or(0));
        sleep_until(Instant::now() + pause).await;
    }
}

/// The time until the next check, a quarter of it at random, so that providers that fail together are not checked together.
fn pause(outage: Duration, random: u64) -> Duration {
    let most = (outage / 8).clamp(OFTEN, SELDOM);
    most.mul_f64(1.0 - 0.25 * (random as f64 / u64::MAX as f64))
}
