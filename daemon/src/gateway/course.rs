//! Who is asked next, and when: the course of one question over the targets of its plan.
//!
//! ```text
//!  round 0   every target once, in order, each as soon as the one before has failed
//!  round 1…  retries: a wait (what a target asks for, and a random time that grows), then those that may be well again, in order
//!  the end   when nobody is left to be asked, or the wait would pass the deadline
//! ```
//!
//! One that is left alone ([`super::breaker`]) is passed by in every round, and nobody waits for it; but somebody is always asked. It
//! knows no provider and no clock, and does nothing itself.

use tokio::time::Instant;

use super::{backoff, decide::Verdict};

/// What is known of a target before it is asked.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Whether it is on this host.
    pub local: bool,
    /// Tokens that it can hold, where that is known.
    pub context: Option<u64>,
    /// How often it is asked again.
    pub max_retries: u32,
}

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// This target is asked.
    Ask(usize),
    /// Nobody is asked before then; this target is the one that is waited for.
    Wait(usize, Instant),
    /// Nobody is left to be asked in time.
    End,
}

/// What stands before the targets and is asked on the way.
pub trait Gate {
    /// Whether a target would be asked now.
    fn is_open(&self, at: usize) -> bool;
    /// Takes leave to ask it; there is none while it is left alone.
    fn enter(&mut self, at: usize) -> bool;
    /// Takes leave to ask it although it is left alone, because nobody else is asked.
    fn insist(&mut self, at: usize);
    /// Takes a retry out of its budget.
    fn pay(&mut self, at: usize) -> bool;
}

/// The course of one question.
#[derive(Debug)]
pub struct Course {
    legs: Vec<Leg>,
    /// Whether the question may go on from this host to elsewhere.
    may_leave_host: bool,
    deadline: Instant,
    /// Where the round goes on.
    next: usize,
    waits: u32,
    /// Whose retry was paid for before the wait.
    paid: Option<usize>,
}

#[derive(Debug)]
struct Leg {
    terms: Terms,
    at: At,
    retries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// It was not asked yet.
    Start,
    /// It failed for the moment and is not asked before then. To look again at one that loads, or was not asked, is no retry.
    Failed { until: Instant, loading: bool },
    /// It is not asked any more.
    Out,
}

impl Course {
    /// A question that has this time.
    #[must_use]
    pub fn new(terms: Vec<Terms>, may_leave_host: bool, deadline: Instant) -> Self {
        let leg = |terms| Leg {
            terms,
            at: At::Start,
            retries: 0,
        };
        Self {
            legs: terms.into_iter().map(leg).collect(),
            may_leave_host,
            deadline,
            next: 0,
            waits: 0,
            paid: None,
        }
    }

    /// What is done next. `random` is uniform over all of `u64`.
    pub fn next(&mut self, now: Instant, random: u64, gate: &mut impl Gate) -> Move {
        while self.next < self.legs.len() {
            let at = self.next;
            self.next += 1;
            if self.may_ask(at, now, gate) {
                self.begin(at);
                return Move::Ask(at);
            }
        }
        // The gate lets somebody through at each moment, but the targets stood before it one after the other, and meanwhile it may
        // have let others through.
        if !self.legs.is_empty() && self.legs.iter().all(|leg| leg.at == At::Start) {
            gate.insist(0);
            self.begin(0);
            return Move::Ask(0);
        }
        while let Some((at, until, loading)) = self.soonest(gate) {
            let wait = backoff::wait(self.waits, until.saturating_duration_since(now), random);
            let Some(until) = now.checked_add(wait).filter(|until| *until < self.deadline) else {
                return Move::End;
            };
            if !loading && self.paid != Some(at) && !self.retry(at, gate) {
                continue;
            }
            self.paid = Some(at);
            self.waits += 1;
            self.next = 0;
            return Move::Wait(at, until);
        }
        Move::End
    }

    /// A further target, one that was not asked yet, is asked beside those that are under way. It is paid for like a retry.
    pub fn beside(&mut self, gate: &mut impl Gate) -> Option<usize> {
        let after = self.next..self.legs.len();
        let mut fresh = after.filter(|at| self.legs[*at].at == At::Start);
        let at = fresh.find(|at| gate.enter(*at))?;
        if !gate.pay(at) {
            return None;
        }
        self.next = at + 1;
        self.begin(at);
        Some(at)
    }

    /// What this target was waited for may be there by now: it is looked at again at once.
    pub fn look_again(&mut self, at: usize, now: Instant) {
        if let At::Failed { until, .. } = &mut self.legs[at].at {
            *until = now.min(*until);
        }
    }

    /// A target that was asked failed.
    pub fn failed(&mut self, at: usize, verdict: Verdict, now: Instant) {
        let until = |wait| now.checked_add(wait);
        let (until, loading) = match verdict {
            Verdict::Later(wait) => (until(wait), false),
            Verdict::Loading(wait) | Verdict::Limited(wait) => (until(wait), true),
            Verdict::Elsewhere => (None, false),
            Verdict::Larger => {
                let held = self.legs[at].terms.context;
                for leg in &mut self.legs {
                    if held.is_none() || leg.terms.context <= held {
                        leg.at = At::Out;
                    }
                }
                (None, false)
            }
            Verdict::Nobody => {
                for leg in &mut self.legs {
                    leg.at = At::Out;
                }
                (None, false)
            }
        };
        // Another one may have said meanwhile that nobody is to be asked any more.
        if self.legs[at].at != At::Out {
            self.legs[at].at = until.map_or(At::Out, |until| At::Failed { until, loading });
        }
    }

    fn may_ask(&mut self, at: usize, now: Instant, gate: &mut impl Gate) -> bool {
        match self.legs[at].at {
            At::Start => gate.enter(at),
            At::Failed { until, .. } if until > now => false,
            At::Failed { loading, .. } => {
                if !gate.enter(at) {
                    return false;
                }
                let paid = self.paid.take_if(|paid| *paid == at).is_some();
                loading || paid || self.retry(at, gate)
            }
            At::Out => false,
        }
    }

    /// What was said to a target on this host does not go on to one elsewhere that has not heard it.
    fn begin(&mut self, at: usize) {
        if self.legs[at].terms.local && !self.may_leave_host {
            for leg in &mut self.legs {
                if !leg.terms.local && leg.at == At::Start {
                    leg.at = At::Out;
                }
            }
        }
    }

    /// Whether there is a retry for it; it is spent. One that has none is not asked any more.
    fn retry(&mut self, at: usize, gate: &mut impl Gate) -> bool {
        let leg = &mut self.legs[at];
        let paid = leg.retries < leg.terms.max_retries && gate.pay(at);
        if paid {
            leg.retries += 1;
        } else {
            leg.at = At::Out;
        }
        paid
    }

    /// Whoever is well again first. Nobody waits for one that is left alone: whoever asks hears when that is over.
    fn soonest(&self, gate: &impl Gate) -> Option<(usize, Instant, bool)> {
        let open = self.legs.iter().enumerate();
        let open = open.filter(|(at, _)| gate.is_open(*at));
        let failed = open.filter_map(|(at, leg)| match leg.at {
            At::Failed { until, loading } => Some((at, until, loading)),
            At::Start | At::Out => None,
        });
        failed.min_by_key(|(_, until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(600);

    const fn terms(local: bool, max_retries: u32) -> Terms {
        Terms {
            local,
            context: None,
            max_retries,
        }
    }

    /// A gate with these retries, at which these are left alone.
    struct Doors {
        retries: usize,
        shut: Vec<usize>,
    }

    impl Gate for Doors {
        fn is_open(&self, at: usize) -> bool {
            !self.shut.contains(&at)
        }

        fn enter(&mut self, at: usize) -> bool {
            self.is_open(at)
        }

        fn insist(&mut self, at: usize) {
            assert!(!self.is_open(at));
        }

        fn pay(&mut self, _: usize) -> bool {
            let left = self.retries.checked_sub(1);
            self.retries = left.unwrap_or(0);
            left.is_some()
        }
    }

    const fn doors(retries: usize) -> Doors {
        Doors {
            retries,
            shut: Vec::new(),
        }
    }

    /// Everybody who is asked, with the time since the start, while they fail like this.
    fn run(
        terms: Vec<Terms>,
        may_leave_host: bool,
        mut fails: impl FnMut(usize) -> Verdict,
        mut gate: Doors,
    ) -> Vec<(usize, Duration)> {
        let start = Instant::now();
        let mut course = Course::new(terms, may_leave_host, start + LIMIT);
        let (mut now, mut asked) = (start, Vec::new());
        loop {
            match course.next(now, u64::MAX / 2, &mut gate) {
                Move::Ask(at) => {
                    asked.push((at, now - start));
                    course.failed(at, fails(at), now);
                }
                Move::Wait(_, until) => now = until,
                Move::End => return asked,
            }
        }
    }

    #[test]
    fn one_beside_another_is_a_fresh_one_that_is_paid_for_and_may_be_asked() {
        let start = Instant::now();
        let begun = |terms: Vec<Terms>, may: bool, gate: &mut Doors| {
            let mut course = Course::new(terms, may, start + LIMIT);
            assert_eq!(course.next(start, 0, gate), Move::Ask(0));
            course
        };
        let three = || vec![terms(true, 0), terms(true, 0), terms(true, 0)];
        let mut gate = doors(2);
        gate.shut.push(1);
        assert_eq!(
            begun(three(), false, &mut gate).beside(&mut gate),
            Some(2),
            "who is left alone is passed by"
        );
        assert_eq!(
            begun(three(), false, &mut doors(0)).beside(&mut doors(0)),
            None,
            "nothing pays for it"
        );
        let away = || vec![terms(true, 0), terms(false, 0)];
        assert_eq!(
            begun(away(), false, &mut doors(2)).beside(&mut doors(2)),
            None
        );
        assert_eq!(
            begun(away(), true, &mut doors(2)).beside(&mut doors(2)),
            Some(1)
        );
        // Both failed: who was asked beside the first one is not asked again at once, and the third one is.
        let mut gate = doors(9);
        let mut course = begun(three(), false, &mut gate);
        assert_eq!(course.beside(&mut gate), Some(1));
        course.failed(1, SOON, start);
        course.failed(0, SOON, start);
        assert_eq!(course.next(start, 0, &mut gate), Move::Ask(2));
        // A question that one refused is not asked again of the other.
        let mut course = begun(three(), false, &mut gate);
        assert_eq!(course.beside(&mut gate), Some(1));
        course.failed(1, Verdict::Nobody, start);
        course.failed(0, SOON, start);
        assert_eq!(course.next(start, 0, &mut gate), Move::End);
    }

    fn order(asked: &[(usize, Duration)]) -> Vec<usize> {
        asked.iter().map(|(at, _)| *at).collect()
    }

    const SOON: Verdict = Verdict::Later(Duration::ZERO);

    #[test]
    fn every_target_is_asked_at_once_before_any_is_asked_again() {
        let asked = run(vec![terms(false, 1); 3], false, |_| SOON, doors(99));
        assert_eq!(order(&asked), [0, 1, 2, 0, 1, 2]);
        let times: Vec<_> = asked.iter().map(|(_, time)| *time).collect();
        assert_eq!(
            times[2],
            Duration::ZERO,
            "no failure is waited for while somebody is left"
        );
        assert!(
            times[3] > Duration::ZERO && times[3] == times[5],
            "{times:?}"
        );
    }

    #[test]
    fn target_that_would_fail_again_is_asked_once() {
        let fails = |at| if at == 0 { Verdict::Elsewhere } else { SOON };
        let asked = run(vec![terms(false, 2); 2], false, fails, doors(99));
        assert_eq!(order(&asked), [0, 1, 1, 1]);
    }

    #[test]
    fn target_that_is_left_alone_is_passed_by_and_not_waited_for() {
        let gate = Doors {
            retries: 99,
            shut: vec![0],
        };
        let asked = run(vec![terms(false, 1); 2], false, |_| SOON, gate);
        assert_eq!(order(&asked), [1, 1]);
    }

    #[test]
    fn somebody_is_asked_even_if_each_was_left_alone_when_its_turn_came() {
        let gate = Doors {
            retries: 99,
            shut: vec![0, 1],
        };
        let asked = run(vec![terms(false, 1); 2], false, |_| SOON, gate);
        assert_eq!(order(&asked), [0]);
    }

    #[test]
    fn question_that_is_refused_goes_nowhere_else() {
        let asked = run(
            vec![terms(false, 2); 3],
            false,
            |_| Verdict::Nobody,
            doors(99),
        );
        assert_eq!(order(&asked), [0]);
    }

    #[test]
    fn question_that_is_too_long_goes_only_to_targets_that_are_known_to_hold_more() {
        let held = |context| Terms {
            context,
            ..terms(false, 2)
        };
        for (contexts, expected) in [
            ([Some(8), Some(8), None, Some(9)], vec![0, 3]),
            ([None, Some(8), None, Some(9)], vec![0]),
        ] {
            let terms = contexts.into_iter().map(held).collect();
            let asked = run(terms, false, |_| Verdict::Larger, doors(99));
            assert_eq!(order(&asked), expected);
        }
    }

    #[test]
    fn target_that_asks_for_time_is_waited_for_and_others_are_not() {
        let hint = Duration::from_secs(20);
        let fails = |at| if at == 0 { Verdict::Later(hint) } else { SOON };
        let asked = run(vec![terms(false, 1); 2], false, fails, doors(99));
        assert_eq!(order(&asked), [0, 1, 1, 0]);
        assert!(asked[2].1 < hint && asked[3].1 >= hint, "{asked:?}");
    }

    #[test]
    fn model_that_loads_is_looked_at_again_without_a_retry() {
        let mut looks = 0;
        let fails = |at| {
            looks += usize::from(at == 0);
            match (at, looks) {
                (0, ..5) => Verdict::Loading(Duration::ZERO),
                _ => Verdict::Nobody,
            }
        };
        let asked = run(vec![terms(true, 0); 2], false, fails, doors(0));
        assert_eq!(
            order(&asked),
            [0, 1],
            "a refused question is not asked again"
        );
        let mut looks = 0;
        let loads = |_| {
            looks += 1;
            if looks < 5 {
                Verdict::Loading(Duration::ZERO)
            } else {
                Verdict::Elsewhere
            }
        };
        assert_eq!(run(vec![terms(true, 0)], false, loads, doors(0)).len(), 5);
    }

    proptest! {
        #[test]
        fn no_hedge_is_unpaid_and_none_goes_on_from_this_host(
            legs in prop::collection::vec((any::<bool>(), 0_u32..3), 1..6),
            may_leave_host: bool,
            late in prop::collection::vec(any::<bool>(), 32),
            first_fails in prop::collection::vec(any::<bool>(), 32),
            tokens in 0_usize..6,
        ) {
            let terms: Vec<_> = legs.iter().map(|(local, retries)| terms(*local, *retries)).collect();
            let (start, mut gate) = (Instant::now(), doors(tokens));
            let mut course = Course::new(terms.clone(), may_leave_host, start + LIMIT);
            let (mut late, mut first_fails) = (late.into_iter(), first_fails.into_iter());
            let (mut now, mut asked) = (start, Vec::new());
            loop {
                match course.next(now, u64::MAX / 2, &mut gate) {
                    Move::Ask(at) => {
                        asked.push(at);
                        let beside = late.next().unwrap_or(false).then(|| course.beside(&mut gate)).flatten();
                        asked.extend(beside);
                        let mut failed: Vec<_> = beside.into_iter().chain([at]).collect();
                        if first_fails.next().unwrap_or(false) {
                            failed.reverse();
                        }
                        prop_assert!(failed.len() == 1 || failed[0] != failed[1]);
                        for at in failed {
                            course.failed(at, SOON, now);
                        }
                    }
                    Move::Wait(_, until) => now = until,
                    Move::End => break,
                }
            }
            let mut times = vec![0_u32; terms.len()];
            let mut here = false;
            for at in &asked {
                let away_from_here = times[*at] == 0 && here && !terms[*at].local;
                prop_assert!(!away_from_here || may_leave_host, "{asked:?}");
                here |= terms[*at].local;
                times[*at] += 1;
            }
            for (times, terms) in times.iter().zip(&terms) {
                prop_assert!(*times <= 1 + terms.max_retries, "{asked:?}");
            }
        }

        #[test]
        fn no_retry_is_unpaid_and_no_question_goes_on_from_this_host(
            legs in prop::collection::vec((any::<bool>(), 0_u32..4), 1..6),
            may_leave_host: bool,
            ways in prop::collection::vec(0_u8..5, 64),
            tokens in 0_usize..12,
            shut in prop::collection::vec(0_usize..6, 0..3),
        ) {
            let terms: Vec<_> = legs.iter().map(|(local, retries)| terms(*local, *retries)).collect();
            let mut ways = ways.into_iter();
            let mut loads = 0;
            let fails = |_| match ways.next() {
                Some(0) => SOON,
                Some(1) => Verdict::Later(Duration::from_secs(7)),
                Some(2) => { loads += 1; Verdict::Loading(Duration::ZERO) }
                Some(3) => Verdict::Larger,
                _ => Verdict::Elsewhere,
            };
            let gate = Doors { retries: tokens, shut };
            let asked = run(terms.clone(), may_leave_host, fails, gate);
            let mut times = vec![0_u32; terms.len()];
            let mut here = false;
            for (at, time) in &asked {
                prop_assert!(*time < LIMIT);
                let first = times[*at] == 0;
                prop_assert!(
                    !(first && here && !terms[*at].local) || may_leave_host,
                    "a question went on from this host: {asked:?}"
                );
                here |= terms[*at].local;
                times[*at] += 1;
            }
            let retries: u32 = times.iter().map(|times| times.saturating_sub(1)).sum();
            prop_assert!(retries <= u32::try_from(tokens).unwrap() + loads, "{asked:?}");
            for (times, terms) in times.iter().zip(&terms) {
                prop_assert!(*times <= 1 + terms.max_retries + loads);
            }
        }
    }
}
