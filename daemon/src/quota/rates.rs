//! How often pawd is called, and agents act, in a minute: buckets as those of limits, one for each that a rate is split by.
//!
//! It is told the time. What is refused takes nothing, and says after how long it would not be.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use paw_api::{Error, ErrorKind};
use paw_policy::Name;
use tokio::{sync::watch, time::Instant};

use super::bucket::Bucket;
use crate::config::{
    Config, RateSettings,
    rates::{By, Counted},
};

/// Buckets that are kept before those that are full again are looked for.
const BUCKETS: usize = 4_096;

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    /// A call of this method.
    Call(&'static str),
    /// An action on behalf of this agent, and whether a person is asked about it.
    Action(&'a Name, bool),
}

/// Who asks for it, as the kernel says.
#[derive(Debug, Clone, Copy)]
pub struct Whose<'a> {
    /// Their number.
    pub uid: u32,
    /// Their name, where it is known.
    pub name: Option<&'a str>,
}

/// All rates of the configuration.
#[derive(Debug)]
pub struct Rates {
    config: watch::Receiver<Arc<Config>>,
    /// What the times of buckets are counted from.
    start: Instant,
    inner: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    all: BTreeMap<(Name, String), Bucket>,
    /// With how many those that are full again are looked for next.
    sweep_at: usize,
}

/// A rate is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
struct UsedUp {
    rate: Name,
    what: &'static str,
    per_minute: u64,
    wait_ms: u64,
}

impl From<UsedUp> for Error {
    fn from(used: UsedUp) -> Self {
        let UsedUp {
            rate,
            what,
            per_minute,
            wait_ms,
        } = used;
        let seconds = wait_ms.div_ceil(1_000);
        let message =
            format!("rate {rate} of {per_minute} {what} a minute is used up for {seconds} s");
        let hint = format!("try again then, or raise [rate.{rate}] in pawd.toml(5)");
        Self::new(ErrorKind::Busy, message, hint).retry_after_ms(wait_ms)
    }
}

impl Rates {
    /// Those of the configuration.
    #[must_use]
    pub fn new(config: watch::Receiver<Arc<Config>>) -> Arc<Self> {
        Arc::new(Self {
            config,
            start: Instant::now(),
            inner: Mutex::default(),
        })
    }

    /// Counts one of these in every rate that it is counted in, or in none.
    ///
    /// # Errors
    /// `busy` when one of them is used up, with the time after which it is not.
    pub fn count(&self, what: What<'_>, whose: Whose<'_>) -> Result<(), Error> {
        let config = self.config.borrow();
        if config.rates.is_empty() {
            return Ok(());
        }
        let passed: Duration = self.start.elapsed();
        let now = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        Ok(self.inner().count(&config.rates, what, whose, now)?)
    }

    /// Buckets that are kept, and with how many those that are full again are looked for.
    #[must_use]
    pub fn fill(&self) -> (usize, usize) {
        let inner = self.inner();
        (inner.all.len(), inner.sweep_at.max(BUCKETS))
    }

    fn inner(&self) -> MutexGuard<'_, Buckets> {
        // Each bucket is changed by single steps that cannot panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    fn count(
        &mut self,
        rates: &BTreeMap<Name, RateSettings>,
        what: What<'_>,
        whose: Whose<'_>,
        now: u64,
    ) -> Result<(), UsedUp> {
        self.sweep(rates, now);
        let counted = rates.iter().filter_map(|(name, settings)| {
            Some(((name.clone(), key(settings, what, whose)?), settings))
        });
        let counted: Vec<_> = counted.collect();
        for (key, settings) in &counted {
            let wait = self
                .bucket(key, settings, now)
                .wait(1, settings.per_minute, now);
            if wait > 0 {
                return Err(UsedUp {
                    rate: key.0.clone(),
                    what: settings.of.what(),
                    per_minute: settings.per_minute,
                    wait_ms: wait,
                });
            }
        }
        for (key, settings) in &counted {
            self.bucket(key, settings, now).take(1);
        }
        Ok(())
    }

    fn bucket(&mut self, key: &(Name, String), settings: &RateSettings, now: u64) -> &mut Bucket {
        self.all
            .entry(key.clone())
            .or_insert_with(|| Bucket::full(settings.per_minute, now))
    }

    /// Forgets buckets that are as new ones would be.
    fn sweep(&mut self, rates: &BTreeMap<Name, RateSettings>, now: u64) {
        if self.all.len() < self.sweep_at.max(BUCKETS) {
            return;
        }
        self.all.retain(|(name, _), bucket| {
            let settings = rates.get(name);
            settings.is_some_and(|settings| !bucket.is_full(settings.per_minute, now))
        });
        // So that looking for them costs each call the same, however many there are.
        self.sweep_at = 2 * self.all.len();
    }
}

/// What a rate counts together with this: of what it is split by; empty if by nothing, none if it does not count it.
fn key(settings: &RateSettings, what: What<'_>, whose: Whose<'_>) -> Option<String> {
    let fits = match (&settings.of, what) {
        (Counted::Calls(named), What::Call(method)) => {
            named.as_deref().is_none_or(|named| named == method)
        }
        (Counted::Actions(named), What::Action(agent, _))
        | (Counted::Questions(named), What::Action(agent, true)) => {
            named.as_ref().is_none_or(|named| named == agent)
        }
        (Counted::Questions(_), What::Action(_, false))
        | (Counted::Calls(_), What::Action(..))
        | (Counted::Actions(_) | Counted::Questions(_), What::Call(_)) => false,
    };
    let is_theirs = |user: &String| {
        whose.name == Some(user) || user.parse::<u32>().is_ok_and(|uid| uid == whose.uid)
    };
    if !fits || !settings.user.as_ref().is_none_or(is_theirs) {
        return None;
    }
    let part = |by: &By| match (by, what) {
        (By::Method, What::Call(method)) => format!("method={method}"),
        (By::Agent, What::Action(agent, _)) => format!("agent={agent}"),
        // A name may be given to somebody else.
        (By::User, _) => format!("user={}", whose.uid),
        // The configuration has none of these.
        (By::Method, What::Action(..)) | (By::Agent, What::Call(_)) => String::new(),
    };
    let parts: Vec<String> = settings.each.iter().map(part).collect();
    Some(parts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Whose<'_> = Whose {
        uid: 7,
        name: Some("ann"),
    };
    const BOB: Whose<'_> = Whose { uid: 8, name: None };

    fn rate(of: Counted, user: Option<&str>, each: &[By], per_minute: u64) -> RateSettings {
        RateSettings {
            of,
            user: user.map(str::to_owned),
            each: each.iter().copied().collect(),
            per_minute,
        }
    }

    fn named(rates: Vec<RateSettings>) -> BTreeMap<Name, RateSettings> {
        let named = rates.into_iter().enumerate();
        named
            .map(|(at, rate)| (format!("r{at}").parse().unwrap(), rate))
            .collect()
    }

    #[test]
    fn each_is_counted_where_it_belongs_and_nowhere_else() {
        let agent: Name = "clerk".parse().unwrap();
        let (call, action) = (What::Call("chat.send"), What::Action(&agent, false));
        let of = |of, user, each: &[By], what, whose| key(&rate(of, user, each, 1), what, whose);
        let calls = |method: Option<&str>| Counted::Calls(method.map(str::to_owned));
        let actions = |agent: Option<&Name>| Counted::Actions(agent.cloned());
        let questions = |agent: Option<&Name>| Counted::Questions(agent.cloned());
        let (asked, other) = (What::Action(&agent, true), "other".parse().unwrap());
        for of_none in [call, action] {
            assert_eq!(of(questions(None), None, &[], of_none, ANN), None);
        }
        assert_eq!(of(questions(Some(&other)), None, &[], asked, ANN), None);
        for counts in [actions(None), questions(None), questions(Some(&agent))] {
            assert_eq!(of(counts, None, &[], asked, ANN), Some(String::new()));
        }
        assert_eq!(of(calls(None), None, &[], call, ANN), Some(String::new()));
        assert_eq!(of(calls(None), None, &[], action, ANN), None);
        assert_eq!(of(actions(None), None, &[], call, ANN), None);
        assert_eq!(
            of(calls(Some("chat.send")), None, &[], call, ANN),
            Some(String::new())
        );
        assert_eq!(of(calls(Some("action.list")), None, &[], call, ANN), None);
        assert_eq!(
            of(actions(Some(&agent)), None, &[], action, ANN),
            Some(String::new())
        );
        assert_eq!(of(actions(Some(&other)), None, &[], action, ANN), None);
        assert_eq!(
            of(calls(None), Some("ann"), &[], call, ANN),
            Some(String::new())
        );
        assert_eq!(
            of(calls(None), Some("7"), &[], call, ANN),
            Some(String::new())
        );
        assert_eq!(of(calls(None), Some("ann"), &[], call, BOB), None);
        let each = of(calls(None), None, &[By::User, By::Method], call, ANN);
        assert_eq!(each.as_deref(), Some("method=chat.send,user=7"));
        let each = of(actions(None), None, &[By::User, By::Agent], action, BOB);
        assert_eq!(each.as_deref(), Some("agent=clerk,user=8"));
    }

    #[test]
    fn what_is_refused_takes_nothing_and_is_taken_after_the_time_that_is_told() {
        let rates = named(vec![
            rate(Counted::Calls(None), None, &[By::User], 2),
            rate(Counted::Calls(None), None, &[], 3),
        ]);
        let mut buckets = Buckets::default();
        let mut call = |whose, now| buckets.count(&rates, What::Call("chat.send"), whose, now);
        assert_eq!((call(ANN, 0), call(ANN, 0)), (Ok(()), Ok(())));
        let used = call(ANN, 0).unwrap_err();
        assert_eq!((used.rate.as_str(), used.wait_ms), ("r0", 30_000));
        assert_eq!(
            call(BOB, 0),
            Ok(()),
            "the refused one took nothing of the second"
        );
        let used = call(BOB, 0).unwrap_err();
        assert_eq!((used.rate.as_str(), used.wait_ms), ("r1", 20_000));
        assert_eq!(call(BOB, 19_999).unwrap_err().wait_ms, 1);
        assert_eq!(call(BOB, 20_000), Ok(()));
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let rates = named(vec![rate(Counted::Calls(None), None, &[By::User], 60)]);
        let mut buckets = Buckets::default();
        for uid in 0..10_000 {
            let whose = Whose { uid, name: None };
            // One is full again after a second.
            let now = u64::from(uid) * 10;
            buckets
                .count(&rates, What::Call("chat.send"), whose, now)
                .unwrap();
            assert!(buckets.all.len() <= BUCKETS, "{}", buckets.all.len());
        }
    }
}
