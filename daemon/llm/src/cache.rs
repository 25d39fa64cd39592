//! What is known of a provider and need not be asked each time: one flight for each key, kept for a while, errors for a moment.
//!
//! A cache belongs to one provider as it was configured and goes with it, so nobody is told what an earlier one of the same name said.
//! A flight is a task of its own: whoever began it may leave, and others who wait for it still get what it brings.

mod slots;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub(crate) use slots::Terms;

use crate::error::LlmError;
use crate::said::Said;
use slots::{Look, Slots};

type Outcome<V> = Result<V, Arc<LlmError>>;
type Landing<V> = watch::Receiver<Option<Outcome<V>>>;

/// Fetches that are under way at once: whoever names many things that are not there begins no more than these.
const MOST_FLIGHTS: usize = 32;

/// A cache; a clone is the same one.
pub(crate) struct Cache<K, V>(Arc<Mutex<Kept<K, V>>>);

struct Kept<K, V> {
    slots: Slots<K, V, Arc<LlmError>>,
    /// Where those under way will land.
    landings: BTreeMap<u64, Landing<V>>,
    /// Ended with the cache.
    flights: JoinSet<()>,
}

impl<K, V> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

impl<K, V> Cache<K, V>
where
    K: Ord + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// An empty one, of at most so many keys.
    pub(crate) fn new(most: usize, terms: Terms) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            slots: Slots::new(most, terms),
            landings: BTreeMap::new(),
            flights: JoinSet::new(),
        })))
    }

    /// The value of a key, which is fetched where there is none. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the fetch failed with, now or a moment ago.
    pub(crate) async fn get<F>(&self, key: &K, fetch: impl FnOnce() -> F) -> Result<V, LlmError>
    where
        F: Future<Output = Result<V, LlmError>> + Send + 'static,
    {
        let landing = {
            let mut kept = self.lock();
            match kept.slots.look(key, Instant::now()) {
                Look::Have(value) => return Ok(value),
                Look::Failed(error) => return Err(error.again()),
                Look::Refresh(value, flight) => {
                    self.take_off(&mut kept, key, flight, fetch());
                    return Ok(value);
                }
                Look::Fetch(flight) => self.take_off(&mut kept, key, flight, fetch()),
                Look::Wait(flight) => match kept.landings.get(&flight) {
                    // One that ended without landing has panicked; another one takes its place.
                    Some(landing) if landing.has_changed().is_ok() => Some(landing.clone()),
                    Some(_) | None => {
                        let flight = kept.slots.insist(key, Instant::now());
                        self.take_off(&mut kept, key, flight, fetch())
                    }
                },
            }
        };
        arrive(landing).await
    }

    /// The value of a key as it is now, which others get then, too.
    ///
    /// # Errors
    /// What the fetch failed with.
    pub(crate) async fn get_now<F>(&self, key: &K, fetch: F) -> Result<V, LlmError>
    where
        F: Future<Output = Result<V, LlmError>> + Send + 'static,
    {
        let landing = {
            let mut kept = self.lock();
            let flight = kept.slots.insist(key, Instant::now());
            self.take_off(&mut kept, key, flight, fetch)
        };
        arrive(landing).await
    }

    /// Forgets everything: something was done that changes it.
    pub(crate) fn forget(&self) {
        self.lock().slots.forget();
    }

    fn take_off<F>(
        &self,
        kept: &mut Kept<K, V>,
        key: &K,
        flight: u64,
        fetch: F,
    ) -> Option<Landing<V>>
    where
        F: Future<Output = Result<V, LlmError>> + Send + 'static,
    {
        // Those that landed are seen to have ended. One that panicked has landed nowhere, and whoever waited is told.
        while kept.flights.try_join_next().is_some() {}
        if kept.flights.len() >= MOST_FLIGHTS {
            return None;
        }
        let (told, landing) = watch::channel(None);
        kept.landings.insert(flight, landing.clone());
        let (cache, key) = (Arc::downgrade(&self.0), key.clone());
        kept.flights.spawn(async move {
            let outcome = fetch.await.map_err(Arc::new);
            if let Some(cache) = cache.upgrade() {
                let mut kept = lock(&cache);
                kept.slots
                    .landed(&key, flight, outcome.clone(), Instant::now());
                kept.landings.remove(&flight);
            }
            told.send_replace(Some(outcome));
        });
        Some(landing)
    }

    fn lock(&self) -> MutexGuard<'_, Kept<K, V>> {
        lock(&self.0)
    }
}

fn lock<K, V>(kept: &Mutex<Kept<K, V>>) -> MutexGuard<'_, Kept<K, V>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn arrive<V: Clone>(landing: Option<Landing<V>>) -> Result<V, LlmError> {
    let lost = || LlmError::Cut { source: None };
    let busy = || LlmError::Overload {
        retry_after: Some(Duration::from_secs(1)),
        again: true,
        said: Said::default(),
    };
    let mut landing = landing.ok_or_else(busy)?;
    let outcome = landing
        .wait_for(Option::is_some)
        .await
        .map_err(|_| lost())?;
    match &*outcome {
        Some(Ok(value)) => Ok(value.clone()),
        Some(Err(error)) => Err(error.again()),
        None => Err(lost()),
    }
}
