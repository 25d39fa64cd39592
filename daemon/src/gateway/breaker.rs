//! Whether a target is asked at all: the breaker of one pair of provider and model with one credential.
//!
//! ```text
//!            an attempt fails                      its time has passed, or a check says that it is back
//!   closed ──────────────────► open until a time ──────────────────────────────────────────────────► half open: one attempt,
//!     ▲                          ▲   ▲      │                                                          the probe
//!     │                          │   └──────┘ a check says that it is gone: later                         │  │
//!     │                          └─────────────────────────────── the probe fails: for longer ────────────┘  │
//!     └────────────────────────────────────────── the probe, or whatever began meanwhile, succeeds ──────────┘
//! ```
//!
//! An attempt costs what a question costs and is somebody's time, so few are spent on a provider that is gone. A check (is the
//! provider there?) is cheap, so those look for its return. Both are needed: there may be nothing that could be checked, and one that
//! can be checked may still fail every question. So a check is believed when it says something new: that one that was gone is there
//! again, and once, that one that has failed a single time is there all the while.
//!
//! Times are milliseconds of the wall clock, because a breaker is stored. It knows no clock and does nothing itself.

use paw_store::Outage;

/// How long it is open at least; at most [`SPREAD`] more, so that those who failed together do not come back together.
const PERIOD: u64 = 5_100;

/// What is added at random. Two such periods end 10.2 s to 11.8 s after an outage began that nothing but probes can see: one that
/// lasts 10 s costs three attempts, and is over at most 2 s later.
const SPREAD: u64 = 800;

/// Probes that fail before it is open for longer each time.
const EVEN: u32 = 2;

/// The longest time between two probes.
const LONGEST: u64 = 60_000;

/// The longest time that a provider itself can ask to be left alone.
const LONGEST_ASKED: u64 = 300_000;

/// For how long a check that found nobody is believed.
const HOLD: u64 = 20_000;

/// For how long after an attempt checks alone decide.
const BLIND: u64 = 60_000;

/// The breaker of one target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breaker {
    outage: Option<Outage>,
    /// Whether the one probe is under way.
    probing: bool,
}

/// What it says to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It may be made.
    Yes,
    /// It may be made, and is the probe.
    Probe,
    /// Not before then.
    Not(u64),
}

/// Its state, as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Attempts are made.
    Closed,
    /// One attempt is made.
    HalfOpen,
    /// None is made before then.
    Open(u64),
}

/// What has changed, for those who keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was closed and is open.
    Opened,
    /// A probe failed.
    Longer,
    /// It is closed.
    Closed,
}

impl Breaker {
    /// One that was stored.
    #[must_use]
    pub const fn stored(outage: Outage) -> Self {
        Self {
            outage: Some(outage),
            probing: false,
        }
    }

    /// What is stored of it; nothing while it is closed.
    #[must_use]
    pub const fn outage(&self) -> Option<&Outage> {
        self.outage.as_ref()
    }

    /// Its state.
    #[must_use]
    pub fn state(&self, now: u64) -> State {
        match &self.outage {
            None => State::Closed,
            Some(_) if self.probing => State::HalfOpen,
            Some(outage) => match opens(outage, now) {
                until if until > now => State::Open(until),
                _ => State::HalfOpen,
            },
        }
    }

    /// Until when no attempt is made; nothing if one may be.
    #[must_use]
    pub fn refuses(&self, now: u64) -> Option<u64> {
        match self.state(now) {
            State::Closed => None,
            State::Open(until) => Some(until),
            // Nobody knows how long the probe takes; whoever comes meanwhile looks again in a moment.
            State::HalfOpen => self.probing.then_some(now + 1_000),
        }
    }

    /// Whether an attempt may be made; one that is the probe has to tell how it ended.
    pub fn ask(&mut self, now: u64) -> Answer {
        match (self.refuses(now), &self.outage) {
            (Some(until), _) => Answer::Not(until),
            (None, None) => Answer::Yes,
            (None, Some(_)) => {
                self.probing = true;
                Answer::Probe
            }
        }
    }

    /// An attempt that `began` then succeeded. One from before the outage says nothing of it.
    pub fn succeeded(&mut self, began: u64, probe: bool) -> Option<Change> {
        self.outage
            .take_if(|outage| probe || began >= outage.since)
            .map(|_| {
                self.probing = false;
                Change::Closed
            })
    }

    /// An attempt failed. `asked` is how long the provider wants to be left alone; `random` is uniform over all of `u64`. One that is
    /// closed opens only if it `may`, and what is no probe says nothing new to one that is open.
    pub fn failed(
        &mut self,
        now: u64,
        probe: bool,
        asked: u64,
        may: bool,
        random: u64,
    ) -> Option<Change> {
        let asked = now + asked.min(LONGEST_ASKED);
        match &mut self.outage {
            None if may => {
                self.outage = Some(Outage {
                    since: now,
                    failed: now,
                    until: asked.max(now + period(0, random)),
                    asked,
                    probes: 0,
                    gone: false,
                });
                Some(Change::Opened)
            }
            Some(outage) if probe => {
                self.probing = false;
                outage.probes = outage.probes.saturating_add(1);
                outage.failed = now;
                outage.until = asked.max(now + period(outage.probes, random));
                outage.asked = asked;
                outage.gone = false;
                Some(Change::Longer)
            }
            None | Some(_) => None,
        }
    }

    /// Whether an attempt that `began` then came after the last failure that counts.
    #[must_use]
    pub fn failed_before(&self, began: u64) -> bool {
        self.outage
            .as_ref()
            .is_some_and(|outage| outage.failed < began)
    }

    /// The probe was taken back, said nothing, or is being answered: the next one who asks makes it.
    pub const fn left(&mut self) {
        self.probing = false;
    }

    /// A check saw whether the provider is there.
    pub fn checked(&mut self, there: bool, now: u64) {
        let Some(outage) = &mut self.outage else {
            return;
        };
        if !there {
            outage.gone = true;
            outage.until = outage.until.max((now + HOLD).min(outage.failed + BLIND));
        } else if outage.gone || outage.probes == 0 {
            outage.gone = false;
            outage.until = outage.asked.max(now);
        }
    }
}

/// When an outage may be probed. A clock that was set back does not make it longer.
fn opens(outage: &Outage, now: u64) -> u64 {
    outage.until.min(now + LONGEST_ASKED)
}

/// How long it is open after so many failed probes.
fn period(probes: u32, random: u64) -> u64 {
    let spread = u64::try_from((u128::from(random) * u128::from(SPREAD)) >> 64).unwrap_or(SPREAD);
    let factor = 2_u64.saturating_pow(probes.saturating_sub(EVEN));
    (PERIOD + spread).saturating_mul(factor).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEAD_FOR: u64 = 10_000;

    /// A day of the wall clock, so that nothing is near its beginning.
    const START: u64 = 86_400_000;

    /// One load: a question every 5 ms to a target that is dead for ten seconds; gives how many reached it then, and when it first
    /// answered one again. Checks, where there are any, come every so often and see what is really there, or are always well.
    fn dead(every: Option<u64>, honest: bool, random: u64) -> (u32, u64) {
        let mut breaker = Breaker::default();
        let (mut reached, mut now) = (0, START);
        loop {
            let well = now >= START + DEAD_FOR;
            // The first one comes as soon as it is open.
            if every.is_some_and(|every| now == START + 5 || (now - START).is_multiple_of(every)) {
                breaker.checked(well || !honest, now);
            }
            let probe = match breaker.ask(now) {
                Answer::Yes => Some(false),
                Answer::Probe => Some(true),
                Answer::Not(_) => None,
            };
            if let Some(probe) = probe {
                if well {
                    breaker.succeeded(now, probe);
                    assert_eq!(breaker.ask(now), Answer::Yes);
                    return (reached, now - START - DEAD_FOR);
                }
                reached += 1;
                breaker.failed(now, probe, 0, true, random);
            }
            now += 5;
        }
    }

    proptest! {
        #[test]
        fn target_that_is_dead_for_ten_seconds_is_reached_three_times_and_is_back_in_two(
            random: u64,
            every in prop::option::of((1_u64..200).prop_map(|fives| fives * 5)),
            honest: bool,
        ) {
            let (reached, back) = dead(every, honest, random);
            prop_assert!(reached <= 3, "reached {reached} times");
            prop_assert!(back <= 2_000, "back after {back} ms");
        }

        #[test]
        fn no_two_probes_are_under_way_and_no_time_is_endless(
            steps in prop::collection::vec((0_u8..7, 0_u64..90_000, any::<u64>()), 0..200),
        ) {
            let (mut breaker, mut now, mut probes) = (Breaker::default(), START, 0);
            for (step, more, random) in steps {
                match step {
                    0 => now += more,
                    1 | 2 => match breaker.ask(now) {
                        Answer::Yes => prop_assert_eq!(breaker.state(now), State::Closed),
                        Answer::Probe => {
                            probes += 1;
                            prop_assert_eq!(breaker.state(now), State::HalfOpen);
                        }
                        Answer::Not(until) => prop_assert!(until > now && until <= now + LONGEST_ASKED),
                    },
                    3 => {
                        let probe = std::mem::take(&mut probes) > 0;
                        if breaker.succeeded(now, probe).is_some() {
                            prop_assert_eq!(breaker.state(now), State::Closed);
                        }
                    }
                    4 => {
                        let probe = std::mem::take(&mut probes) > 0;
                        breaker.failed(now, probe, random % 1_000_000, true, random);
                        prop_assert_ne!(breaker.state(now), State::Closed);
                    }
                    5 => {
                        probes = 0;
                        breaker.left();
                    }
                    _ => breaker.checked(random.is_multiple_of(2), now),
                }
                prop_assert!(probes <= 1);
                // Whatever checks say, somebody looks for himself in the end.
                let later = now + LONGEST_ASKED;
                prop_assert!(!matches!(breaker.clone().state(later), State::Open(_)));
            }
        }
    }

    fn open(now: u64) -> Breaker {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.failed(now, false, 0, true, 0), Some(Change::Opened));
        breaker
    }

    #[test]
    fn half_open_lets_one_probe_through() {
        let mut breaker = open(START);
        let later = START + PERIOD;
        assert_eq!(breaker.ask(later - 1), Answer::Not(later));
        assert_eq!(breaker.ask(later), Answer::Probe);
        assert!(matches!(breaker.ask(later), Answer::Not(_)));
        breaker.left();
        assert_eq!(breaker.ask(later), Answer::Probe);
        assert_eq!(breaker.succeeded(later, true), Some(Change::Closed));
        assert_eq!(breaker.ask(later), Answer::Yes);
    }

    #[test]
    fn answer_from_before_the_outage_does_not_end_it() {
        let mut breaker = open(START);
        assert_eq!(breaker.succeeded(START - 1, false), None);
        assert_eq!(breaker.succeeded(START + 1, false), Some(Change::Closed));
    }

    #[test]
    fn failures_of_those_who_began_before_make_an_outage_no_longer() {
        let mut breaker = open(START);
        let before = breaker.clone();
        assert_eq!(breaker.failed(START + 9, false, 0, true, 0), None);
        assert_eq!(breaker, before);
    }

    #[test]
    fn provider_that_asks_to_be_left_alone_is_whatever_a_check_says() {
        let mut breaker = Breaker::default();
        breaker.failed(START, false, 20_000, true, 0);
        breaker.checked(true, START + 1);
        assert_eq!(breaker.state(START + 1), State::Open(START + 20_000));
    }

    #[test]
    fn probes_come_at_longer_and_longer_times() {
        let (mut breaker, mut now, mut times) = (open(START), START, Vec::new());
        for _ in 0..9 {
            let State::Open(until) = breaker.state(now) else {
                panic!("{breaker:?}");
            };
            times.push(until - now);
            now = until;
            assert_eq!(breaker.ask(now), Answer::Probe);
            breaker.failed(now, true, 0, true, 0);
        }
        let period = PERIOD;
        assert_eq!(
            times,
            [
                period,
                period,
                period,
                period * 2,
                period * 4,
                period * 8,
                LONGEST,
                LONGEST,
                LONGEST
            ]
        );
    }

    #[test]
    fn one_that_may_not_open_stays_closed() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.failed(START, false, 0, false, 0), None);
        assert_eq!(breaker.ask(START), Answer::Yes);
    }
}
