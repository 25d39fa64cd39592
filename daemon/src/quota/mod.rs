//! Limits and budgets: what an attempt to have an answer may take, before it is made.
//!
//! ```text
//!  attempt ─► hold ──a limit is used up──► not before so much time has passed
//!              │ └──a budget is spent────► not at this target
//!              ▼
//!         set aside ──it ends, is cut off or is left──► settled: what it came to is spent, the rest is given back
//! ```
//!
//! Limits are buckets in memory. What was spent of a budget is stored with the end of the action that spent it; a chat that ended
//! with pawd itself is counted at the next start as what is set aside for an attempt at the dearest of its targets.
//!
//! - [`scope`]: whose limit and whose budget it is. Pure.
//! - [`bucket`]: how much may be asked in a minute. Pure.
//! - [`ledger`]: what is spent and set aside. Pure.
//! - [`period`]: when a budget begins anew. Pure.
//! - [`refusal`]: why an attempt is not made. Pure.
//! - [`rates`]: how often pawd is called and agents act, in buckets of their own.

pub mod bucket;
pub mod ledger;
pub mod period;
pub mod rates;
pub mod refusal;
pub mod scope;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use paw_llm::Usage;
use paw_policy::{Name, Target};
use paw_store::{Account, Batch, StoreError, Sum};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use uuid::Uuid;

use crate::{
    clock::now_ms,
    config::{BudgetSettings, Config, LimitSettings, quotas::Period},
    gateway::price::{Price, Tokens},
    storage::Storage,
};
use bucket::Bucket;
use ledger::{Ledger, Most};
pub use refusal::Refusal;
pub use scope::Who;

/// Tokens that are set aside for an answer whose length nobody bounds: see `max_tokens` of an agent.
const UNBOUNDED_ANSWER: u64 = 4_096;

/// Buckets that are kept before those that are full again are looked for.
const BUCKETS: usize = 4_096;

/// One of so many places where something is done at once is one to wait for a limit in.
const WAITING: u32 = 4;

/// All limits and budgets.
#[derive(Debug)]
pub struct Quotas {
    config: watch::Receiver<Arc<Config>>,
    storage: Storage,
    /// What the times of buckets are counted from.
    start: Instant,
    inner: Mutex<Inner>,
    /// Places to wait in that are taken.
    seats: AtomicU32,
    /// Told when something that was set aside is given back.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    buckets: BTreeMap<(Name, String), Pair>,
    ledger: Ledger,
    /// With how many buckets those that are full again are looked for next.
    sweep_at: usize,
    /// The time of each budget whose former times were forgotten.
    current: BTreeMap<String, u64>,
}

/// The buckets of one limit.
#[derive(Debug, Clone, Copy)]
struct Pair {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

/// A place to wait in.
#[derive(Debug)]
pub struct Seat(Arc<Quotas>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.seats.fetch_sub(1, SeqCst);
    }
}

/// What is set aside for one attempt. Dropped unsettled, all of it counts as spent.
#[derive(Debug)]
pub struct Hold {
    quotas: Arc<Quotas>,
    action: Uuid,
    limits: Vec<(Name, String)>,
    accounts: Vec<Account>,
    reserved: Sum,
    settled: bool,
}

/// Part of a budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Whose, by what the budget is split; empty if it is not.
    pub of: String,
    /// What was spent since it last began.
    pub spent: Sum,
    /// What is set aside.
    pub reserved: Sum,
}

/// How much is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Buckets of limits.
    pub buckets: usize,
    /// With how many of them those that are full again are looked for.
    pub most_buckets: usize,
    /// Accounts of budgets in which something is set aside, or not stored yet: few for each action that is being done.
    pub accounts: usize,
    /// Questions that wait for a limit.
    pub waiting: u32,
    /// At most.
    pub most_waiting: u32,
}

/// What was spent, on its way into the store.
#[derive(Debug)]
pub struct Unstored {
    quotas: Arc<Quotas>,
    sums: Vec<(Account, Sum)>,
    /// Budgets that began anew, and when: what was spent of them before is not needed any more.
    over: Vec<(String, u64)>,
}

impl Quotas {
    /// Those of the configuration, with what was spent as the store has it.
    #[must_use]
    pub fn new(config: watch::Receiver<Arc<Config>>, storage: Storage) -> Arc<Self> {
        Arc::new(Self {
            config,
            storage,
            start: Instant::now(),
            inner: Mutex::default(),
            seats: AtomicU32::default(),
            freed: Notify::new(),
        })
    }

    /// Sets aside what an attempt may take: a request, and the tokens of this question and of an answer of at most `max_tokens`; and
    /// what they cost.
    ///
    /// # Errors
    /// When a limit or a budget has no room for it; then nothing is set aside.
    pub fn hold(
        self: &Arc<Self>,
        (who, target): (&Who, &Target),
        (question, max_tokens): (Tokens, Option<u32>),
        price: Price,
    ) -> Result<Hold, Refusal> {
        let config = Arc::clone(&self.config.borrow());
        let want = most((question, max_tokens), price);
        let named = config.names(target);
        let limits = config.limits.iter().filter_map(|(name, settings)| {
            let of = scope::key(&settings.scope, who, target, named)?;
            Some(((name.clone(), of), settings))
        });
        let limits: Vec<_> = limits.collect();
        let (now, wall) = (self.now(), now_ms());
        let mut inner = self.inner();
        let mut accounts = Vec::new();
        let counted = budgets(&config, (who, target), wall);
        let all: Vec<&Account> = counted.iter().map(|(_, _, account)| account).collect();
        // Under the lock: what leaves for the store is counted here until it is there, so nothing is in neither of them.
        let stored = self.storage.read().spent(&all);
        let stored = stored.map_err(|error| Refusal::unreadable(&error))?;
        for ((name, settings, account), stored) in counted.into_iter().zip(stored) {
            let most = Most {
                cost: settings.cost,
                tokens: settings.tokens,
            };
            let room = inner.ledger.room(&account, most, want, stored);
            room.map_err(|over| Refusal::Spent {
                budget: name.clone(),
                settings: Box::new(settings.clone()),
                over,
                again_ms: period::around(settings.per, wall).1,
            })?;
            accounts.push(account);
        }
        inner.sweep(&config, now);
        for (key, settings) in &limits {
            inner.wait(key, settings, want.tokens, now)?;
        }
        for (key, settings) in &limits {
            inner.take(key, settings, want.tokens, now);
        }
        for account in &accounts {
            inner.ledger.reserve(account, want);
        }
        drop(inner);
        Ok(Hold {
            quotas: Arc::clone(self),
            action: who.action,
            limits: limits.into_iter().map(|(key, _)| key).collect(),
            accounts,
            reserved: want,
            settled: false,
        })
    }

    /// An attempt ended with an earlier pawd: all that was set aside for it counts as spent.
    pub fn interrupted(
        &self,
        (who, target): (&Who, &Target),
        (question, max_tokens): (Tokens, Option<u32>),
        price: Price,
    ) {
        let config = Arc::clone(&self.config.borrow());
        let want = most((question, max_tokens), price);
        let mut inner = self.inner();
        for (_, _, account) in budgets(&config, (who, target), now_ms()) {
            inner.ledger.reserve(&account, want);
            inner.ledger.settle(who.action, &account, want, want);
        }
    }

    /// An attempt of an earlier pawd came to this, and the action goes on: it is stored with its end.
    pub fn spent_before(self: &Arc<Self>, (who, target): (&Who, &Target), sum: Sum) {
        let config = Arc::clone(&self.config.borrow());
        let mut inner = self.inner();
        for (_, _, account) in budgets(&config, (who, target), now_ms()) {
            inner.ledger.reserve(&account, sum);
            inner.ledger.settle(who.action, &account, sum, sum);
        }
    }

    /// What an action spent, to be stored with its end.
    #[must_use]
    pub fn unstored(self: &Arc<Self>, action: Uuid) -> Unstored {
        let mut inner = self.inner();
        let sums = inner.ledger.leave(action);
        let mut over = Vec::new();
        for (account, _) in &sums {
            if inner.is_new(account) {
                over.push((account.budget.clone(), account.since_ms));
            }
        }
        drop(inner);
        Unstored {
            quotas: Arc::clone(self),
            sums,
            over,
        }
    }

    /// What is spent and set aside of a budget now, by whose part it is, at most so many parts; and when it begins anew.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn state(
        &self,
        name: &Name,
        per: Period,
        most: usize,
    ) -> Result<(Vec<Part>, Option<u64>), StoreError> {
        let (since_ms, again_ms) = period::around(per, now_ms());
        let inner = self.inner();
        let stored = self
            .storage
            .read()
            .spent_in(name.as_str(), since_ms, most)?;
        let stored: BTreeMap<String, Sum> = stored.into_iter().collect();
        let open = inner.ledger.of(name.as_str(), since_ms).map(str::to_owned);
        let parts: BTreeSet<String> = stored.keys().cloned().chain(open).collect();
        let state = |of: String| {
            let account = Account {
                budget: name.to_string(),
                since_ms,
                of,
            };
            let stored = stored.get(&account.of).copied().unwrap_or_default();
            let (spent, reserved) = inner.ledger.state(&account, stored);
            Part {
                of: account.of,
                spent,
                reserved,
            }
        };
        Ok((parts.into_iter().take(most).map(state).collect(), again_ms))
    }

    fn settle(&self, hold: &Hold, came_to: Sum) {
        let config = Arc::clone(&self.config.borrow());
        let mut inner = self.inner();
        for account in &hold.accounts {
            inner
                .ledger
                .settle(hold.action, account, hold.reserved, came_to);
        }
        for key in &hold.limits {
            // One that was changed meanwhile has other buckets.
            if let Some(settings) = config.limits.get(&key.0) {
                inner.give(key, settings, (hold.reserved.tokens, came_to.tokens));
            }
        }
        drop(inner);
        self.freed.notify_waiters();
    }

    /// A place to wait for a limit in: few, because whoever waits keeps others from being served. None when all are taken.
    #[must_use]
    pub fn seat(self: &Arc<Self>) -> Option<Seat> {
        let most = (self.config.borrow().actions.concurrency / WAITING).max(1);
        let sat = self
            .seats
            .fetch_update(SeqCst, SeqCst, |taken| (taken < most).then_some(taken + 1));
        sat.is_ok().then(|| Seat(Arc::clone(self)))
    }

    /// How much is kept in memory of all of them.
    #[must_use]
    pub fn fill(&self) -> Fill {
        let places = (self.config.borrow().actions.concurrency / WAITING).max(1);
        let inner = self.inner();
        Fill {
            buckets: inner.buckets.len(),
            most_buckets: inner.sweep_at.max(BUCKETS),
            accounts: inner.ledger.open(),
            waiting: self.seats.load(SeqCst),
            most_waiting: places,
        }
    }

    /// Something that was set aside was given back since this was asked.
    pub fn freed(&self) -> impl Future<Output = ()> + '_ {
        self.freed.notified()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn pair(&mut self, key: &(Name, String), settings: &LimitSettings, now: u64) -> &mut Pair {
        let new = |per_minute: Option<u64>| per_minute.map(|it| Bucket::full(it, now));
        let pair = self.buckets.entry(key.clone()).or_insert_with(|| Pair {
            requests: new(settings.requests_per_minute),
            tokens: new(settings.tokens_per_minute),
        });
        // The configuration may say more than it did.
        pair.requests = pair.requests.or_else(|| new(settings.requests_per_minute));
        pair.tokens = pair.tokens.or_else(|| new(settings.tokens_per_minute));
        pair
    }

    fn wait(
        &mut self,
        key: &(Name, String),
        settings: &LimitSettings,
        tokens: u64,
        now: u64,
    ) -> Result<(), Refusal> {
        let pair = self.pair(key, settings, now);
        for (what, bucket, amount, per_minute) in [
            (
                "requests",
                &mut pair.requests,
                1,
                settings.requests_per_minute,
            ),
            (
                "tokens",
                &mut pair.tokens,
                tokens,
                settings.tokens_per_minute,
            ),
        ] {
            let (Some(bucket), Some(per_minute)) = (bucket, per_minute) else {
                continue;
            };
            let wait = bucket.wait(amount, per_minute, now);
            if wait > 0 {
                return Err(Refusal::Limited {
                    limit: key.0.clone(),
                    what,
                    per_minute,
                    wait: Duration::from_millis(wait),
                });
            }
        }
        Ok(())
    }

    fn take(&mut self, key: &(Name, String), settings: &LimitSettings, tokens: u64, now: u64) {
        let pair = self.pair(key, settings, now);
        if let Some(bucket) = &mut pair.requests {
            bucket.take(1);
        }
        if let Some(bucket) = &mut pair.tokens {
            bucket.take(tokens);
        }
    }

    /// Gives back what was taken and not used, and takes what was used and not taken.
    fn give(
        &mut self,
        key: &(Name, String),
        settings: &LimitSettings,
        (reserved, used): (u64, u64),
    ) {
        let Some(pair) = self.buckets.get_mut(key) else {
            return;
        };
        if let (Some(bucket), Some(per_minute)) = (&mut pair.tokens, settings.tokens_per_minute) {
            bucket.take(used.saturating_sub(reserved));
            bucket.give(reserved.saturating_sub(used), per_minute);
        }
    }

    /// Forgets buckets that are as new ones would be.
    fn sweep(&mut self, config: &Config, now: u64) {
        if self.buckets.len() < self.sweep_at.max(BUCKETS) {
            return;
        }
        self.buckets.retain(|(name, _), pair| {
            let Some(settings) = config.limits.get(name) else {
                return false;
            };
            let is_full = |bucket: &mut Option<Bucket>, per_minute: Option<u64>| {
                let full = bucket.as_mut().zip(per_minute);
                full.is_none_or(|(bucket, per_minute)| bucket.is_full(per_minute, now))
            };
            !(is_full(&mut pair.requests, settings.requests_per_minute)
                && is_full(&mut pair.tokens, settings.tokens_per_minute))
        });
        // So that looking for them costs each attempt the same, however many there are.
        self.sweep_at = 2 * self.buckets.len();
    }

    /// Whether this is the first that is stored of a budget in its time.
    fn is_new(&mut self, account: &Account) -> bool {
        let known = self.current.get(&account.budget);
        let new = known.is_none_or(|since| *since < account.since_ms);
        if new {
            self.current
                .insert(account.budget.clone(), account.since_ms);
        }
        new
    }
}

impl Unstored {
    /// Adds it to a batch.
    ///
    /// # Errors
    /// When the batch is full.
    pub fn put(&self, batch: &mut Batch) -> Result<(), StoreError> {
        for (account, sum) in &self.sums {
            batch.add_spent(account, *sum)?;
        }
        for (budget, since_ms) in &self.over {
            batch.forget_spent(budget, *since_ms)?;
        }
        Ok(())
    }

    /// The batch is stored, or is not.
    pub fn ended(self, stored: bool) {
        self.quotas.inner().ledger.left(&self.sums, stored);
    }
}

impl Hold {
    /// The attempt came to this; the rest is given back, but for the request itself.
    pub fn settle(mut self, came_to: Sum) {
        self.end(came_to);
    }

    fn end(&mut self, came_to: Sum) {
        self.settled = true;
        let quotas = Arc::clone(&self.quotas);
        quotas.settle(self, came_to);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.settled {
            self.end(self.reserved);
        }
    }
}

/// Budgets that an attempt is counted in, and in which account of each.
fn budgets<'a>(
    config: &'a Config,
    (who, target): (&Who, &Target),
    wall: u64,
) -> Vec<(&'a Name, &'a BudgetSettings, Account)> {
    let named = config.names(target);
    let budgets = config.budgets.iter().filter_map(|(name, settings)| {
        let of = scope::key(&settings.scope, who, target, named)?;
        let (since_ms, _) = period::around(settings.per, wall);
        let account = Account {
            budget: name.to_string(),
            since_ms,
            of,
        };
        Some((name, settings, account))
    });
    budgets.collect()
}

/// What an attempt may come to: the tokens of this question and of an answer of at most `max_tokens`.
#[must_use]
pub fn most((question, max_tokens): (Tokens, Option<u32>), price: Price) -> Sum {
    let whole = Tokens {
        output: max_tokens.map_or(UNBOUNDED_ANSWER, u64::from),
        ..question
    };
    Sum {
        cost: price.cost(&Usage::default(), whole),
        tokens: whole.total(),
    }
}
