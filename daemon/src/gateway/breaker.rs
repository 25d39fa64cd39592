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
//! What may be the question's own fault does not open it by itself: a caller could keep a target from everybody by asking what it stumbles
//! over. It is *doubted* then, which is closed for people and lets one attempt at a time through, of another question:
//!
//! ```text
//!  closed ──a question fails, and it may be its own fault──► doubted ──any answer, or a minute──► closed
//!                                                               │ └──another caller's fails, or a check finds nobody──► open
//!                                                               └──that caller's next fails──┬─► open, if nobody else had an answer lately
//!                                                                                            └─► closed to that caller alone, for a while
//! ```
//!
//! Times are milliseconds of the wall clock, because a breaker is stored. It knows no clock and does nothing itself.

use paw_store::Outage;

/// How long it is open at least; at most [`SPREAD`] more, so that those who failed together do not come back together.
const PERIOD: u64 = 5_100;

/// What is added at random. Two such periods end 10.2 s to 11.8 s after an outage began that nothing but probes can see: one that
/// lasts 10 s costs three attempts, and is over at most 2 s later.
const SPREAD: u64 = 800;

/// A period begins when the attempt did that failed, and not when that was seen: so much of its time counts at most. One that says nothing
/// is waited for, and that would be added to each period otherwise.
const WAITED: u64 = PERIOD / 2;

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

/// How long a failure is doubted, and how long somebody's answer speaks for the target.
const LATELY: u64 = 60_000;

/// The breaker of one target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breaker {
    outage: Option<Outage>,
    doubt: Option<Doubt>,
    /// Whether the one probe is under way.
    probing: bool,
    /// Whether a check has let a probe in before its time. Where that fails, the time is as it was.
    early: bool,
    /// Who had an answer last, and when: two callers, the last one first.
    answered: [Option<(u32, u64)>; 2],
}

/// Whose attempt it is. Both are what the kernel and pawd say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asker {
    /// Which user of this host.
    pub uid: u32,
    /// Which question.
    pub action: u128,
}

/// Something failed, and it may be its own fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Doubt {
    by: Asker,
    since: u64,
    /// When it last failed.
    failed: u64,
    /// Questions of this caller that failed.
    questions: u32,
    /// Until when this caller is refused.
    until: u64,
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// Whose it is.
    pub by: Asker,
    /// Whether it is the probe.
    pub probe: bool,
    /// Whether it says so of the target, whatever was asked.
    pub sure: bool,
    /// How long the provider wants to be left alone, in milliseconds.
    pub asked: u64,
    /// How long the attempt took, in milliseconds.
    pub took: u64,
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
    /// It is closed, and looked after.
    Doubted,
    /// It is closed, and not doubted any more.
    Trusted,
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
            doubt: None,
            probing: false,
            early: false,
            answered: [None; 2],
        }
    }

    /// Since when somebody has to look after it; not while it is closed and not doubted.
    #[must_use]
    pub fn since(&self) -> Option<u64> {
        let outage = self.outage.as_ref().map(|outage| outage.since);
        outage.or_else(|| self.doubt.map(|doubt| doubt.since))
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
            Some(outage) => match opens(outage, self.early, now) {
                until if until > now => State::Open(until),
                _ => State::HalfOpen,
            },
        }
    }

    /// Until when no attempt of this question is made; nothing if one may be.
    #[must_use]
    pub fn refuses(&self, by: Asker, now: u64) -> Option<u64> {
        match self.state(now) {
            State::Closed => self.doubt_of(now)?.refuses(by, self.probing, now),
            State::Open(until) => Some(until),
            // Nobody knows how long the probe takes; whoever comes meanwhile looks again in a moment.
            State::HalfOpen => self.probing.then_some(now + 1_000),
        }
    }

    /// What is doubted still: not what was long ago, or before a clock was set back.
    fn doubt_of(&self, now: u64) -> Option<Doubt> {
        let lately = |doubt: &Doubt| (doubt.failed..doubt.failed + LATELY).contains(&now);
        self.doubt.filter(lately)
    }

    /// Whether an attempt may be made; one that is the probe has to tell how it ended.
    pub fn ask(&mut self, by: Asker, now: u64) -> Answer {
        let watched = self.outage.is_some() || self.doubt_of(now).is_some();
        match (self.refuses(by, now), watched) {
            (Some(until), _) => Answer::Not(until),
            (None, false) => Answer::Yes,
            (None, true) => {
                self.probing = true;
                Answer::Probe
            }
        }
    }

    /// An attempt of this caller that `began` then succeeded. One from before the outage says nothing of it.
    pub fn succeeded(&mut self, by: Asker, began: u64, probe: bool, now: u64) -> Option<Change> {
        let others = self.answered.into_iter().flatten();
        let other = others.into_iter().find(|(uid, _)| *uid != by.uid);
        self.answered = [Some((by.uid, now)), other];
        let doubted = self.doubt.take_if(|doubt| probe || began >= doubt.since);
        if doubted.is_some() {
            self.probing = false;
        }
        self.outage
            .take_if(|outage| probe || began >= outage.since)
            .map(|_| {
                (self.probing, self.early) = (false, false);
                Change::Closed
            })
    }

    /// An attempt failed. `random` is uniform over all of `u64`. One that is closed opens only if it `may`, and what is no probe says
    /// nothing new to one that is open.
    pub fn failed(
        &mut self,
        now: u64,
        Failure {
            by,
            probe,
            sure,
            asked,
            took,
        }: Failure,
        may: bool,
        random: u64,
    ) -> Option<Change> {
        let from = now - took.min(WAITED).min(now);
        let early = probe && std::mem::take(&mut self.early);
        let asked = now + asked.min(LONGEST_ASKED);
        match &mut self.outage {
            None => {
                if probe {
                    self.probing = false;
                }
                if !may {
                    return None;
                }
                if !sure && !self.is_borne_out(by, now) {
                    return self.doubts(by, now, random);
                }
                // Where it was doubted, it was tried again already, and a check that says that it is there says nothing new.
                let doubt = self.doubt_of(now);
                let probes = u32::from(doubt.is_some());
                // The outage began with what was doubted, which took about as long to fail.
                let began = doubt.map_or(from, |doubt| doubt.since.saturating_sub(now - from));
                let from = from.min(began.max(now - WAITED.min(now)));
                self.doubt = None;
                (self.probing, self.early) = (false, false);
                self.outage = Some(Outage {
                    since: now,
                    failed: now,
                    until: asked.max(from + period(probes, random)),
                    asked,
                    probes,
                    gone: false,
                });
                Some(Change::Opened)
            }
            Some(outage) if probe => {
                self.probing = false;
                outage.probes = outage.probes.saturating_add(1);
                outage.failed = now;
                if !early || outage.until <= now {
                    outage.until = from + period(outage.probes, random);
                }
                outage.until = asked.max(outage.until);
                outage.asked = asked;
                outage.gone = false;
                Some(Change::Longer)
            }
            Some(_) => None,
        }
    }

    /// Whether one more failure, which may be the question's own fault, makes it the target's: another caller's failed, too, or another
    /// question of this one, and nobody else had an answer lately.
    fn is_borne_out(&self, by: Asker, now: u64) -> bool {
        let Some(doubt) = self.doubt_of(now) else {
            return false;
        };
        let mut others = self.answered.iter().flatten();
        let lately = |at: u64| (at..at + LATELY).contains(&now);
        let others = others.any(|(uid, at)| *uid != by.uid && lately(*at));
        doubt.by.uid != by.uid || doubt.by.action != by.action && !others
    }

    fn doubts(&mut self, by: Asker, now: u64, random: u64) -> Option<Change> {
        let new = Doubt {
            by,
            since: now,
            failed: now,
            questions: 1,
            until: now,
        };
        match self.doubt_of(now) {
            None => {
                self.doubt = Some(new);
                Some(Change::Doubted)
            }
            // The same question says nothing new.
            Some(doubt) if doubt.by.action == by.action => None,
            Some(doubt) => {
                let until = now + period(doubt.questions - 1, random);
                self.doubt = Some(Doubt {
                    since: doubt.since,
                    questions: doubt.questions.saturating_add(1),
                    until,
                    ..new
                });
                None
            }
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

    /// A check saw whether the provider is there, or says nothing of that. One that is doubted opens only if it `may`.
    pub fn checked(&mut self, there: Option<bool>, may: bool, now: u64) -> Option<Change> {
        let Some(outage) = &mut self.outage else {
            let doubt = self.doubt?;
            if self.doubt_of(now).is_none() {
                self.doubt = None;
                return Some(Change::Trusted);
            }
            if there != Some(false) || !may {
                return None;
            }
            self.doubt = None;
            self.probing = false;
            self.outage = Some(Outage {
                since: doubt.since,
                failed: doubt.failed,
                until: now + HOLD,
                asked: now,
                probes: 0,
                gone: true,
            });
            return Some(Change::Opened);
        };
        let there = there?;
        if !there {
            (outage.gone, self.early) = (true, false);
            outage.until = outage.until.max((now + HOLD).min(outage.failed + BLIND));
        } else if outage.gone {
            outage.gone = false;
            outage.until = outage.asked.max(now);
        } else if outage.probes == 0 {
            self.early = true;
        }
        None
    }
}

impl Doubt {
    /// Until when an attempt of this question is not made.
    fn refuses(&self, by: Asker, probing: bool, now: u64) -> Option<u64> {
        if self.by.action == by.action {
            // It failed here; somebody else may know better.
            return Some(now + 1_000);
        }
        if self.by.uid == by.uid && now < self.until {
            return Some(self.until);
        }
        probing.then_some(now + 1_000)
    }
}

/// When an outage may be probed, by its time or before that. A clock that was set back does not make it longer.
fn opens(outage: &Outage, early: bool, now: u64) -> u64 {
    let until = if early { outage.asked } else { outage.until };
    until.min(now + LONGEST_ASKED)
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

    const BY: Asker = Asker { uid: 1, action: 1 };

    const fn sure(probe: bool, asked: u64) -> Failure {
        Failure {
            by: BY,
            probe,
            sure: true,
            asked,
            took: 0,
        }
    }

    /// A day of the wall clock, so that nothing is near its beginning.
    const START: u64 = 86_400_000;

    /// One load: a question every 5 ms to a target that is dead for ten seconds; gives how many reached it then, and when it first
    /// answered one again. Checks, where there are any, come every so often and see what is really there, or are always well. What fails
    /// takes so long, and whoever asked asks again then.
    fn dead(every: Option<u64>, honest: bool, sure: bool, took: u64, random: u64) -> (u32, u64) {
        let mut breaker = Breaker::default();
        let (mut reached, mut now) = (0, START);
        let mut waits: Option<(u64, Failure)> = None;
        loop {
            let by = Asker {
                uid: 1,
                action: u128::from(now),
            };
            let well = now >= START + DEAD_FOR;
            // The first one comes as soon as it is open.
            if every.is_some_and(|every| now == START + 5 || (now - START).is_multiple_of(every)) {
                breaker.checked(Some(well || !honest), true, now);
            }
            if let Some((_, failure)) = waits.take_if(|(until, _)| *until <= now) {
                breaker.failed(now, failure, true, random);
            }
            if waits.is_some() {
                now += 5;
                continue;
            }
            let probe = match breaker.ask(by, now) {
                Answer::Yes => Some(false),
                Answer::Probe => Some(true),
                Answer::Not(_) => None,
            };
            if let Some(probe) = probe {
                if well {
                    breaker.succeeded(by, now, probe, now);
                    assert_eq!(breaker.ask(by, now), Answer::Yes);
                    return (reached, now - START - DEAD_FOR);
                }
                reached += 1;
                let failure = Failure {
                    by,
                    probe,
                    sure,
                    asked: 0,
                    took,
                };
                if took == 0 {
                    breaker.failed(now, failure, true, random);
                } else {
                    waits = Some((now + took, failure));
                }
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
            sure: bool,
            took in (0_u64..=200).prop_map(|fives| fives * 5),
        ) {
            let (reached, back) = dead(every, honest, sure, took, random);
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
                    1 | 2 => match breaker.ask(BY, now) {
                        Answer::Yes => prop_assert_eq!(breaker.state(now), State::Closed),
                        Answer::Probe => {
                            probes += 1;
                            prop_assert_eq!(breaker.state(now), State::HalfOpen);
                        }
                        Answer::Not(until) => prop_assert!(until > now && until <= now + LONGEST_ASKED),
                    },
                    3 => {
                        let probe = std::mem::take(&mut probes) > 0;
                        if breaker.succeeded(BY, now, probe, now).is_some() {
                            prop_assert_eq!(breaker.state(now), State::Closed);
                        }
                    }
                    4 => {
                        let probe = std::mem::take(&mut probes) > 0;
                        breaker.failed(now, sure(probe, random % 1_000_000), true, random);
                        prop_assert_ne!(breaker.state(now), State::Closed);
                    }
                    5 => {
                        probes = 0;
                        breaker.left();
                    }
                    _ => drop(breaker.checked(Some(random.is_multiple_of(2)), true, now)),
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
        assert_eq!(
            breaker.failed(now, sure(false, 0), true, 0),
            Some(Change::Opened)
        );
        breaker
    }

    const fn of(uid: u32, action: u128) -> Asker {
        Asker { uid, action }
    }

    /// One that was asked by these, one after the other, a millisecond each; their questions may be what failed.
    fn doubted(by: &[Asker]) -> (Breaker, u64) {
        let (mut breaker, mut now) = (Breaker::default(), START);
        for by in by {
            now += 1;
            let failure = Failure {
                by: *by,
                probe: breaker.ask(*by, now) == Answer::Probe,
                sure: false,
                asked: 0,
                took: 0,
            };
            breaker.failed(now, failure, true, 0);
        }
        (breaker, now)
    }

    #[test]
    fn question_that_may_be_at_fault_itself_closes_the_target_to_nobody_else() {
        let (mut breaker, now) = doubted(&[of(1, 1), of(1, 1)]);
        assert_eq!(breaker.state(now), State::Closed);
        assert!(
            matches!(breaker.ask(of(1, 1), now), Answer::Not(_)),
            "it failed here"
        );
        assert_eq!(breaker.ask(of(2, 2), now), Answer::Probe);
        assert!(
            matches!(breaker.ask(of(3, 3), now), Answer::Not(_)),
            "one at a time"
        );
        breaker.succeeded(of(2, 2), now, true, now);
        assert_eq!(breaker.ask(of(1, 1), now), Answer::Yes);
        // Nobody has to answer for what was long ago.
        let (mut breaker, now) = doubted(&[of(1, 1)]);
        assert_eq!(breaker.ask(of(1, 1), now + LATELY), Answer::Yes);
    }

    #[test]
    fn failures_of_two_callers_are_the_targets() {
        let (breaker, now) = doubted(&[of(1, 1), of(2, 2)]);
        assert!(matches!(breaker.state(now), State::Open(_)));
        // Of one that is alone here, two questions.
        let (breaker, now) = doubted(&[of(1, 1), of(1, 2)]);
        assert!(matches!(breaker.state(now), State::Open(_)));
    }

    #[test]
    fn caller_whose_questions_fail_alone_is_kept_away_alone() {
        let (mut breaker, mut now) = (Breaker::default(), START);
        let mut reached = 0;
        for step in 0..2_000_u64 {
            now += 5;
            // Somebody else was answered a while ago, and asks nothing now.
            if step == 0 {
                breaker.succeeded(of(2, 0), now, false, now);
            }
            let by = of(1, u128::from(step));
            if let answer @ (Answer::Yes | Answer::Probe) = breaker.ask(by, now) {
                reached += 1;
                let probe = answer == Answer::Probe;
                let failure = Failure {
                    by,
                    probe,
                    sure: false,
                    asked: 0,
                    took: 0,
                };
                breaker.failed(now, failure, true, 0);
            }
            assert_eq!(breaker.state(now), State::Closed);
            assert_eq!(breaker.refuses(of(2, u128::MAX), now), None);
        }
        assert_eq!(reached, 3, "within ten seconds");
    }

    #[test]
    fn check_that_finds_nobody_opens_what_is_doubted_and_no_other_one() {
        let (mut breaker, now) = doubted(&[of(1, 1)]);
        assert_eq!(breaker.checked(Some(true), true, now), None);
        assert_eq!(breaker.checked(None, true, now), None);
        assert_eq!(breaker.checked(Some(false), false, now), None, "it may not");
        assert_eq!(
            breaker.checked(Some(false), true, now),
            Some(Change::Opened)
        );
        let mut closed = Breaker::default();
        assert_eq!(closed.checked(Some(false), true, now), None);
        // Nobody looks after what is not doubted any more.
        let (mut breaker, now) = doubted(&[of(1, 1)]);
        let later = breaker.checked(Some(false), true, now + LATELY);
        assert_eq!((later, breaker.since()), (Some(Change::Trusted), None));
    }

    #[test]
    fn half_open_lets_one_probe_through() {
        let mut breaker = open(START);
        let later = START + PERIOD;
        assert_eq!(breaker.ask(BY, later - 1), Answer::Not(later));
        assert_eq!(breaker.ask(BY, later), Answer::Probe);
        assert!(matches!(breaker.ask(BY, later), Answer::Not(_)));
        breaker.left();
        assert_eq!(breaker.ask(BY, later), Answer::Probe);
        assert_eq!(
            breaker.succeeded(BY, later, true, later),
            Some(Change::Closed)
        );
        assert_eq!(breaker.ask(BY, later), Answer::Yes);
    }

    #[test]
    fn answer_from_before_the_outage_does_not_end_it() {
        let mut breaker = open(START);
        assert_eq!(breaker.succeeded(BY, START - 1, false, START), None);
        assert_eq!(
            breaker.succeeded(BY, START + 1, false, START + 1),
            Some(Change::Closed)
        );
    }

    #[test]
    fn failures_of_those_who_began_before_make_an_outage_no_longer() {
        let mut breaker = open(START);
        let before = breaker.clone();
        assert_eq!(breaker.failed(START + 9, sure(false, 0), true, 0), None);
        assert_eq!(breaker, before);
    }

    #[test]
    fn provider_that_asks_to_be_left_alone_is_whatever_a_check_says() {
        let mut breaker = Breaker::default();
        breaker.failed(START, sure(false, 20_000), true, 0);
        breaker.checked(Some(true), true, START + 1);
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
            assert_eq!(breaker.ask(BY, now), Answer::Probe);
            breaker.failed(now, sure(true, 0), true, 0);
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
        assert_eq!(breaker.failed(START, sure(false, 0), false, 0), None);
        assert_eq!(breaker.ask(BY, START), Answer::Yes);
    }
}
