//! The breakers of all targets that are configured: they outlive a reload of the configuration and a restart of pawd.
//!
//! They are stored with the place that their provider is at: one that moves begins anew, also over a restart.
//!
//! A target has a breaker if the configuration names it: the model of a provider, of an agent, of a route. Which other models callers
//! name is theirs, and their failures are not kept.
//!
//! At most half of a route's targets are open at once: a breaker that would make it more does not open, and where more are open all the
//! same (two routes, a stored state, a question that only some of them may answer) those that failed last are asked. So there is always
//! somebody who is asked, and a provider that is asked by its own name is asked whatever its breaker says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use paw_llm::LlmError;
use paw_policy::Target;
use paw_store::{Batch, OutageRecord, Outlet, Store, StoreError};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::{
    breaker::{Answer, Asker, Breaker, Change, Failure, State},
    sign::{Sign, sign},
};
use crate::config::{Config, ProviderSettings};

/// All of them.
#[derive(Debug)]
pub struct Breakers {
    inner: Mutex<Inner>,
    /// Told after each change that is stored or that somebody has to look after.
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    breakers: BTreeMap<Outlet, Breaker>,
    /// Where each provider is; one that moves begins anew.
    places: BTreeMap<String, String>,
    routes: Vec<Vec<Outlet>>,
    /// Those that are stored otherwise.
    unsaved: BTreeSet<Outlet>,
}

/// Leave to make one attempt. Dropped untold, it was left in the middle.
#[derive(Debug)]
pub struct Pass {
    breakers: Arc<Breakers>,
    outlet: Outlet,
    by: Asker,
    began: u64,
    probe: bool,
    /// Whether its answer has begun.
    begun: bool,
    /// Whether it was the probe until then.
    was_probe: bool,
}

/// The outlet of a target: with which credential it is asked.
#[must_use]
pub fn outlet(target: &Target, settings: &ProviderSettings) -> Outlet {
    Outlet {
        provider: target.provider.to_string(),
        model: target.model.clone(),
        credential: match &settings.api_key_secret {
            // No credential has such a name.
            Some(secret) => format!("secret:{secret}"),
            None => settings.api_key_credential.clone().unwrap_or_default(),
        },
    }
}

impl Breakers {
    /// As they were stored, of what is configured.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn read(store: &Store, config: &Config) -> Result<Arc<Self>, StoreError> {
        let mut inner = Inner::default();
        inner.configure(config);
        for record in store.outages()? {
            let OutageRecord {
                outlet,
                place,
                outage,
            } = record;
            let is_there = place.is_none() || place.as_ref() == inner.places.get(&outlet.provider);
            match inner.breakers.get_mut(&outlet) {
                Some(breaker) if is_there => *breaker = Breaker::stored(outage),
                Some(_) | None => drop(inner.unsaved.insert(outlet)),
            }
        }
        Ok(Arc::new(Self {
            inner: Mutex::new(inner),
            changed: Notify::new(),
        }))
    }

    /// The configuration is another one.
    pub fn configure(&self, config: &Config) {
        self.inner().configure(config);
        self.changed.notify_one();
    }

    /// Until when a target of a question to `all` is not asked; nothing if it is.
    #[must_use]
    pub fn refuses(&self, by: Asker, all: &[Outlet], at: usize, now: u64) -> Option<u64> {
        self.inner().refuses(by, all, at, now)
    }

    /// Leave to ask a target of a question to `all`, if it is asked now.
    #[must_use]
    pub fn pass(self: &Arc<Self>, by: Asker, all: &[Outlet], at: usize, now: u64) -> Option<Pass> {
        let outlet = all[at].clone();
        let mut inner = self.inner();
        if inner.refuses(by, all, at, now).is_some() {
            return None;
        }
        let answer = inner
            .breakers
            .get_mut(&outlet)
            .map_or(Answer::Yes, |breaker| breaker.ask(by, now));
        drop(inner);
        Some(Pass {
            breakers: Arc::clone(self),
            outlet,
            by,
            began: now,
            probe: answer == Answer::Probe,
            begun: false,
            was_probe: false,
        })
    }

    /// The state of one target.
    #[must_use]
    pub fn state(&self, outlet: &Outlet, now: u64) -> State {
        let inner = self.inner();
        let breaker = inner.breakers.get(outlet);
        breaker.map_or(State::Closed, |breaker| breaker.state(now))
    }

    /// The worst state of the models of a provider.
    #[must_use]
    pub fn state_of(&self, provider: &str, now: u64) -> State {
        self.inner()
            .of(provider)
            .map(|(_, breaker)| breaker.state(now))
            .max()
            .unwrap_or(State::Closed)
    }

    /// The state of each target.
    #[must_use]
    pub fn states(&self, now: u64) -> Vec<(Outlet, State)> {
        let inner = self.inner();
        let all = inner.breakers.iter();
        all.map(|(outlet, breaker)| (outlet.clone(), breaker.state(now)))
            .collect()
    }

    /// Closes all of a provider.
    pub fn reset(&self, provider: &str) {
        let mut inner = self.inner();
        let open: Vec<_> = inner.of(provider).map(|(outlet, _)| outlet).collect();
        for outlet in open {
            inner.breakers.insert(outlet.clone(), Breaker::default());
            inner.unsaved.insert(outlet);
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// A check saw whether a provider is there, or says nothing of that.
    pub fn checked(&self, provider: &str, there: Option<bool>, now: u64) {
        let all: Vec<Outlet> = self
            .inner()
            .of(provider)
            .map(|(outlet, _)| outlet)
            .collect();
        for outlet in all {
            self.change(&outlet, |breaker, may| breaker.checked(there, may, now));
        }
    }

    /// Providers with a breaker that is not closed, or that is doubted, and since when.
    pub(super) fn out(&self) -> BTreeMap<String, u64> {
        let mut out = BTreeMap::new();
        for (outlet, breaker) in &self.inner().breakers {
            if let Some(began) = breaker.since() {
                let since = out.entry(outlet.provider.clone()).or_insert(began);
                *since = began.min(*since);
            }
        }
        out
    }

    /// What has to be stored since this was last asked, at most so many.
    pub(super) fn unsaved(&self, most: usize) -> Result<(Vec<Outlet>, Batch), StoreError> {
        let mut inner = self.inner();
        let mut batch = Batch::new();
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(outlet) = inner.unsaved.pop_first()
        {
            match inner.breakers.get(&outlet).and_then(Breaker::outage) {
                Some(outage) => batch.put_outage(&OutageRecord {
                    place: inner.places.get(&outlet.provider).cloned(),
                    outlet: outlet.clone(),
                    outage: outage.clone(),
                })?,
                None => batch.remove_outage(&outlet)?,
            };
            taken.push(outlet);
        }
        Ok((taken, batch))
    }

    /// These could not be stored; they are tried again with the next change.
    pub(super) fn not_saved(&self, outlets: Vec<Outlet>) {
        self.inner().unsaved.extend(outlets);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one, and says what that came to.
    fn change(&self, outlet: &Outlet, change: impl FnOnce(&mut Breaker, bool) -> Option<Change>) {
        let mut inner = self.inner();
        let may = inner.may_open(outlet);
        let Some(breaker) = inner.breakers.get_mut(outlet) else {
            return;
        };
        let Some(change) = change(breaker, may) else {
            return;
        };
        let until = breaker.outage().map_or(0, |outage| outage.until);
        match change {
            Change::Doubted | Change::Trusted => {}
            Change::Opened | Change::Longer | Change::Closed => {
                inner.unsaved.insert(outlet.clone());
            }
        }
        drop(inner);
        self.changed.notify_one();
        let (provider, model) = (&outlet.provider, &outlet.model);
        match change {
            Change::Doubted => info!(provider, model, "breaker doubted"),
            Change::Trusted => {}
            Change::Opened => {
                warn!(provider, model, until, "breaker open");
            }
            Change::Longer => {
                warn!(provider, model, until, "breaker stays open");
            }
            Change::Closed => info!(provider, model, "breaker closed"),
        }
    }
}

impl Inner {
    fn configure(&mut self, config: &Config) {
        let outlet = |target: &Target| {
            let settings = config.providers.get(&target.provider)?;
            Some(outlet(target, settings))
        };
        let target = |(provider, model): (_, &String)| Target {
            provider,
            model: model.clone(),
        };
        let providers = config
            .providers
            .iter()
            .map(|(name, settings)| (name.clone(), &settings.model));
        let agents = config
            .agents
            .values()
            .filter_map(|agent| Some((agent.provider.clone()?, agent.model.as_ref()?)));
        self.routes = config
            .routes
            .values()
            .map(|route| {
                let targets = route.targets.iter();
                targets.filter_map(|it| outlet(&it.target)).collect()
            })
            .collect();
        let named: BTreeSet<Outlet> = providers
            .chain(agents)
            .filter_map(|names| outlet(&target(names)))
            .chain(self.routes.iter().flatten().cloned())
            .collect();
        let places: BTreeMap<String, String> = config
            .providers
            .iter()
            .map(|(name, settings)| (name.to_string(), settings.base_url.to_string()))
            .collect();
        let before = std::mem::take(&mut self.breakers);
        for (outlet, breaker) in before {
            let stays = named.contains(&outlet)
                && self.places.get(&outlet.provider) == places.get(&outlet.provider);
            if stays {
                self.breakers.insert(outlet, breaker);
            } else if breaker.outage().is_some() {
                self.unsaved.insert(outlet);
            }
        }
        let names = named.iter().map(|it| (&*it.provider, &*it.model));
        crate::metrics::targets().configure(names);
        for outlet in named {
            self.breakers.entry(outlet).or_default();
        }
        self.places = places;
    }

    fn of(&self, provider: &str) -> impl Iterator<Item = (Outlet, &Breaker)> {
        self.breakers
            .iter()
            .filter(move |(outlet, _)| outlet.provider == provider)
            .map(|(outlet, breaker)| (outlet.clone(), breaker))
    }

    /// Whether another open one leaves half of each route's targets. One that stands alone has nobody to leave to.
    fn may_open(&self, outlet: &Outlet) -> bool {
        let is_open = |other: &&Outlet| {
            let breaker = self.breakers.get(*other);
            breaker.is_some_and(|breaker| breaker.outage().is_some())
        };
        self.routes
            .iter()
            .filter(|route| route.len() > 1 && route.contains(outlet))
            .all(|route| route.iter().filter(is_open).count() < route.len() / 2)
    }

    fn refuses(&self, by: Asker, all: &[Outlet], at: usize, now: u64) -> Option<u64> {
        let mut refusing: Vec<_> = all
            .iter()
            .enumerate()
            .filter_map(|(place, outlet)| {
                let breaker = self.breakers.get(outlet)?;
                let until = breaker.refuses(by, now)?;
                Some((breaker.since()?, place, until))
            })
            .collect();
        refusing.sort_unstable();
        refusing.truncate(all.len() / 2);
        refusing
            .into_iter()
            .find_map(|(_, place, until)| (place == at).then_some(until))
    }
}

impl Pass {
    /// The answer has begun. If it is the probe's, the next attempt may be made: an answer takes as long as there is to say, and as
    /// whoever hears it likes, and meanwhile nobody else would be let through.
    pub fn heard(&mut self) {
        self.begun = true;
        if std::mem::take(&mut self.probe) {
            self.was_probe = true;
            self.make_room();
        }
    }

    /// The attempt ended like this.
    pub fn ended<T>(mut self, outcome: &Result<T, LlmError>, now: u64, random: u64) {
        let (by, began) = (self.by, self.began);
        let probe = std::mem::take(&mut self.probe);
        let (begun, was_probe) = (self.begun, self.was_probe);
        let (breakers, outlet) = (Arc::clone(&self.breakers), self.outlet.clone());
        breakers.change(&outlet, |breaker, may| {
            let (sure, asked) = match outcome.as_ref().err().map(|error| sign(error, begun)) {
                None | Some(Sign::There) => return breaker.succeeded(by, began, probe, now),
                Some(Sign::Nothing) => {
                    if probe {
                        breaker.left();
                    }
                    return None;
                }
                Some(Sign::Failed(asked)) => (true, asked),
                Some(Sign::Doubt) => (false, 0),
            };
            // What broke off after it had begun counts, but of several that did so together one.
            let failure = Failure {
                by,
                probe: probe || was_probe && breaker.failed_before(began),
                sure,
                asked,
                took: now.saturating_sub(began),
            };
            breaker.failed(now, failure, may, random)
        });
    }

    fn make_room(&self) {
        let left = |breaker: &mut Breaker, _| {
            breaker.left();
            None
        };
        self.breakers.change(&self.outlet, left);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe {
            self.make_room();
        }
    }
}

#[cfg(test)]
mod tests {
    use paw_llm::Level;
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 86_400_000;

    fn outlet(at: usize) -> Outlet {
        Outlet {
            provider: format!("p{at}"),
            model: "m".into(),
            credential: String::new(),
        }
    }

    fn all(routes: &[Vec<usize>]) -> Arc<Breakers> {
        let routes: Vec<Vec<Outlet>> = routes
            .iter()
            .map(|route| route.iter().copied().map(outlet).collect())
            .collect();
        let breakers = (0..6).map(|at| (outlet(at), Breaker::default())).collect();
        Arc::new(Breakers {
            inner: Mutex::new(Inner {
                breakers,
                routes,
                ..Inner::default()
            }),
            changed: Notify::new(),
        })
    }

    const ANYBODY: Asker = Asker { uid: 1, action: 1 };

    fn gone() -> Result<(), LlmError> {
        Err(LlmError::TimedOut {
            level: Level::Connect,
            after: std::time::Duration::from_secs(1),
        })
    }

    fn open(breakers: &Breakers, route: &[usize], now: u64) -> usize {
        let is_open = |at: &&usize| breakers.state(&outlet(**at), now) != State::Closed;
        route.iter().filter(is_open).count()
    }

    proptest! {
        #[test]
        fn half_of_every_route_stays_closed_whoever_fails(
            steps in prop::collection::vec((0_usize..6, any::<bool>(), 0_u64..9_000), 0..80),
        ) {
            let routes = [vec![0, 1], vec![1, 2, 3], vec![0, 2, 4, 5]];
            let breakers = all(&routes);
            let mut now = START;
            for (at, fails, more) in steps {
                now += more;
                if let Some(pass) = breakers.pass(ANYBODY, &[outlet(at)], 0, now) {
                    pass.ended(&if fails { gone() } else { Ok(()) }, now, 0);
                }
                for route in &routes {
                    prop_assert!(open(&breakers, route, now) <= route.len() / 2);
                }
            }
        }
    }

    #[test]
    fn question_to_targets_that_are_all_open_is_asked_of_half() {
        let breakers = all(&[]);
        let targets: Vec<_> = (0..4).map(outlet).collect();
        for (at, target) in targets.iter().enumerate() {
            let now = START + at as u64;
            let pass = breakers
                .pass(ANYBODY, std::slice::from_ref(target), 0, now)
                .unwrap();
            pass.ended(&gone(), now, 0);
        }
        let asked: Vec<_> = (0..4)
            .filter(|at| {
                breakers
                    .refuses(ANYBODY, &targets, *at, START + 9)
                    .is_none()
            })
            .collect();
        assert_eq!(asked, [2, 3], "those that failed last");
    }

    #[test]
    fn pass_that_is_dropped_leaves_the_probe_to_the_next() {
        let breakers = all(&[]);
        let targets = [outlet(0), outlet(1)];
        let ask = |now| breakers.pass(ANYBODY, &targets, 0, now);
        ask(START).unwrap().ended(&gone(), START, 0);
        let later = START + 60_000;
        let probe = ask(later);
        assert!(probe.is_some() && ask(later).is_none(), "one at a time");
        drop(probe);
        assert!(ask(later).is_some());
    }

    /// Two of which the first is open and may be probed from this time on.
    fn one_is_open() -> (Arc<Breakers>, [Outlet; 2], u64) {
        let (breakers, targets) = (all(&[]), [outlet(0), outlet(1)]);
        let pass = breakers.pass(ANYBODY, &targets, 0, START).unwrap();
        pass.ended(&gone(), START, 0);
        (breakers, targets, START + 60_000)
    }

    #[test]
    fn probe_whose_answer_has_begun_keeps_nobody_away() {
        let (breakers, targets, later) = one_is_open();
        let ask = |now| breakers.pass(ANYBODY, &targets, 0, now);
        let mut probe = ask(later).unwrap();
        assert!(ask(later).is_none(), "one at a time");
        probe.heard();
        let next = ask(later).expect("it has begun to answer");
        assert!(ask(later).is_none(), "one at a time");
        probe.ended(&Ok(()), later + 1, 0);
        assert_eq!(breakers.state(&outlet(0), later + 1), State::Closed);
        drop(next);
        assert!(ask(later + 1).is_some());
    }

    #[test]
    fn answers_that_begin_and_break_off_leave_the_target_alone_for_longer_once() {
        let (breakers, targets, later) = one_is_open();
        let mut begun: Vec<_> = (0..5)
            .map(|_| {
                let mut pass = breakers.pass(ANYBODY, &targets, 0, later).unwrap();
                pass.heard();
                pass
            })
            .collect();
        let until = |now| match breakers.state(&outlet(0), now) {
            State::Open(until) => until,
            other => panic!("{other:?}"),
        };
        begun.pop().unwrap().ended(&gone(), later + 1, 0);
        let first = until(later + 1);
        for pass in begun {
            pass.ended(&gone(), later + 9, 0);
        }
        assert_eq!(until(later + 9), first);
        assert!(breakers.pass(ANYBODY, &targets, 0, later + 9).is_none());
    }

    #[test]
    fn answer_that_is_heard_too_slowly_opens_nothing() {
        for (begun, doubted) in [(true, false), (false, true)] {
            let breakers = all(&[]);
            let mut pass = breakers.pass(ANYBODY, &[outlet(0)], 0, START).unwrap();
            if begun {
                pass.heard();
            }
            let late = LlmError::TimedOut {
                level: Level::Total,
                after: std::time::Duration::from_secs(60),
            };
            pass.ended(&Err::<(), _>(late), START, 0);
            assert_eq!(breakers.state(&outlet(0), START), State::Closed);
            assert_eq!(breakers.out().contains_key("p0"), doubted);
        }
    }

    #[test]
    fn answer_that_says_that_the_provider_is_well_opens_nothing() {
        let breakers = all(&[]);
        for error in [
            LlmError::Loading {
                retry_after: None,
                said: paw_llm::Mask::new(None).clean("loading"),
            },
            LlmError::TooLarge { what: "it" },
        ] {
            let pass = breakers.pass(ANYBODY, &[outlet(0)], 0, START).unwrap();
            pass.ended(&Err::<(), _>(error), START, 0);
            assert_eq!(breakers.state(&outlet(0), START), State::Closed);
        }
    }
}
