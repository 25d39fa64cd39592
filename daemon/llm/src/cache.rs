//! What is known of a provider and need not be asked each time: one flight for each key, kept for a while, errors for a moment.
//!
//! A cache belongs to one provider as it was configured and goes with it, so nobody is told what an earlier one of the same name said.
//! A flight is a task of its own: whoever began it may leave, and others who wait for it still get what it brings.

mod looks;
mod slots;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub(crate) use looks::Counts;
pub use looks::Looks;
pub(crate) use slots::Terms;

use crate::error::LlmError;
use crate::said::Said;
use looks::one_more;
use slots::{Look, Slots};

type Outcome<V> = Result<V, Arc<LlmError>>;
type Landing<V> = watch::Receiver<Option<Outcome<V>>>;

/// Fetches that are under way at once: whoever names many things that are not there begins no more than these.
pub(crate) const MOST_FLIGHTS: usize = 32;

/// What a look found.
enum Seen<V> {
    Here(V),
    Failed(Arc<LlmError>),
    /// Where it will land; nowhere, if as many are under way as may be.
    Coming(Option<Landing<V>>),
}

/// A cache; a clone is the same one.
pub(crate) struct Cache<K, V> {
    kept: Arc<Mutex<Kept<K, V>>>,
    counts: &'static Counts,
}

struct Kept<K, V> {
    slots: Slots<K, V, Arc<LlmError>>,
    /// Where those under way will land.
    landings: BTreeMap<u64, Landing<V>>,
    /// Ended with the cache.
    flights: JoinSet<()>,
}

impl<K, V> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self {
            kept: Arc::clone(&self.kept),
            counts: self.counts,
        }
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
    /// An empty one, of at most so many keys; its looks are counted there.
    pub(crate) fn new(most: usize, terms: Terms, counts: &'static Counts) -> Self {
        let kept = Arc::new(Mutex::new(Kept {
            slots: Slots::new(most, terms),
            landings: BTreeMap::new(),
            flights: JoinSet::new(),
        }));
        Self { kept, counts }
    }

    /// Keys that something is kept of.
    pub(crate) fn len(&self) -> usize {
        self.lock().slots.len()
    }

    /// Fetches that are under way.
    pub(crate) fn flights(&self) -> usize {
        self.lock().landings.len()
    }

    /// The value of a key, which is fetched where there is none. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the fetch failed with, now or a moment ago.
    pub(crate) async fn get<F>(&self, key: &K, fetch: impl FnOnce() -> F) -> Result<V, LlmError>
    where
        F: Future<Output = Result<V, LlmError>> + Send + 'static,
    {
        match self.seen(key, fetch) {
            Seen::Here(value) => Ok(value),
            Seen::Failed(error) => Err(error.again()),
            Seen::Coming(landing) => arrive(landing).await,
        }
    }

    /// The value of a key as far as it is there at once. Where there is none, or an old one, it is fetched for who looks later.
    /// Must be called within a tokio runtime.
    pub(crate) fn glance<F>(&self, key: &K, fetch: impl FnOnce() -> F) -> Option<V>
    where
        F: Future<Output = Result<V, LlmError>> + Send + 'static,
    {
        match self.seen(key, fetch) {
            Seen::Here(value) => Some(value),
            Seen::Failed(_) | Seen::Coming(_) => None,
        }
    }

    /// One look at a key, with the flight that it begins.
    fn seen<F>(&self, key: &K, fetch: impl FnOnce() -> F) -> Seen<V>
    where
        F: Future<Output = Result<V, LlmError>> + Send + 'static,
    {
        let mut kept = self.lock();
        let look = kept.slots.look(key, Instant::now());
        one_more(match &look {
            Look::Have(_) => &self.counts.hits,
            Look::Refresh(..) => &self.counts.stale,
            Look::Fetch(_) | Look::Wait(_) => &self.counts.misses,
            Look::Failed(_) => &self.counts.failed,
        });
        match look {
            Look::Have(value) => Seen::Here(value),
            Look::Failed(error) => Seen::Failed(error),
            Look::Refresh(value, flight) => {
                self.take_off(&mut kept, key, flight, fetch());
                Seen::Here(value)
            }
            Look::Fetch(flight) => Seen::Coming(self.take_off(&mut kept, key, flight, fetch())),
            Look::Wait(flight) => Seen::Coming(match kept.landings.get(&flight) {
                // One that ended without landing has panicked; another one takes its place.
                Some(landing) if landing.has_changed().is_ok() => Some(landing.clone()),
                Some(_) | None => {
                    let flight = kept.slots.insist(key, Instant::now());
                    self.take_off(&mut kept, key, flight, fetch())
                }
            }),
        }
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
            one_more(&self.counts.misses);
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
            one_more(&self.counts.refused);
            return None;
        }
        let (told, landing) = watch::channel(None);
        kept.landings.insert(flight, landing.clone());
        let (cache, key) = (Arc::downgrade(&self.kept), key.clone());
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
        lock(&self.kept)
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
        full: true,
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

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    static LOOKS: Counts = Counts::new();

    const TERMS: Terms = Terms {
        fresh: Duration::from_secs(60),
        stale: Duration::from_secs(600),
        failed: Duration::from_secs(1),
    };

    /// A fetch that was begun and does not come to its end.
    async fn begun(cache: &Cache<usize, usize>, key: usize) {
        let get = cache.get(&key, pending);
        tokio::time::timeout(Duration::ZERO, get)
            .await
            .expect_err("it is under way");
    }

    #[tokio::test]
    async fn no_more_fetches_are_under_way_than_may_be_whoever_names_things() {
        let cache = Cache::new(256, TERMS, &LOOKS);
        for key in 0..MOST_FLIGHTS {
            begun(&cache, key).await;
        }
        assert_eq!(cache.flights(), MOST_FLIGHTS);
        let refused = cache.get(&MOST_FLIGHTS, || ready(Ok(1))).await;
        let again = refused.as_ref().err().and_then(LlmError::retry_after);
        assert!(
            matches!(refused, Err(LlmError::Overload { .. })),
            "{refused:?}"
        );
        assert!(again.is_some());
        let now = cache.get_now(&0, ready(Ok(1))).await;
        assert!(matches!(now, Err(LlmError::Overload { .. })), "{now:?}");
        assert_eq!(LOOKS.so_far().refused, 2);
        // Who waits for one that is under way begins none.
        begun(&cache, 1).await;
        assert_eq!(LOOKS.so_far().refused, 2);
    }

    #[tokio::test]
    async fn looks_are_counted_by_what_they_came_to() {
        static LOOKS: Counts = Counts::new();
        let terms = Terms {
            fresh: Duration::ZERO,
            ..TERMS
        };
        let cache = Cache::new(4, terms, &LOOKS);
        let get = |value: usize| cache.get(&1, move || ready(Ok(value)));
        assert_eq!(get(1).await.unwrap(), 1);
        assert_eq!(
            get(2).await.unwrap(),
            1,
            "it will do, and another one is fetched"
        );
        assert_eq!(get(3).await.unwrap(), 1, "while that is under way");
        let failed = || ready(Err(LlmError::Cut { source: None }));
        for _ in 0..2 {
            cache.get(&2, failed).await.unwrap_err();
        }
        let expected = Looks {
            hits: 1,
            stale: 1,
            misses: 2,
            failed: 1,
            refused: 0,
        };
        assert_eq!(LOOKS.so_far(), expected);
    }
}
