//! What became of the conversations that each arm of a route was given: made of the records of their actions. Pure.
//!
//! A chat counts for the target that its plan names first, whoever answered it in the end: an arm that fails would otherwise look better
//! the more of its questions others answer. Times, tokens and costs are those of the arm's own attempts.

use paw_api::provider::Arm;
use paw_policy::{Name, Operation, State, Target};
use paw_store::ActionRecord;

use crate::{config::routes::RouteTarget, providers::seen::percentiles, records::dollars};

/// The most arms that are told: those of the route, and some that were its arms before.
const MOST: usize = 64;

/// What is known of the arms of one route.
#[derive(Debug)]
pub struct Arms {
    route: Name,
    arms: Vec<Tally>,
    chats: u64,
    since: Option<u64>,
}

#[derive(Debug, Default)]
struct Tally {
    target: Option<Target>,
    weight: Option<u32>,
    chats: u64,
    errors: u64,
    first_token_ms: Vec<u32>,
    total_ms: Vec<u32>,
    input_tokens: u64,
    output_tokens: u64,
    cost_micros: u64,
    estimated: bool,
}

impl Arms {
    /// Nothing yet.
    #[must_use]
    pub fn new(route: Name, targets: &[RouteTarget], weighted: bool) -> Self {
        let arm = |it: &RouteTarget| Tally {
            target: Some(it.target.clone()),
            weight: weighted.then_some(it.weight),
            ..Tally::default()
        };
        Self {
            route,
            arms: targets.iter().map(arm).collect(),
            chats: 0,
            since: None,
        }
    }

    /// Counts an action, if it was a chat by this route and is over.
    pub fn add(&mut self, record: &ActionRecord) {
        let Operation::Chat(chat) = &record.plan.operation else {
            return;
        };
        if chat.route.as_ref() != Some(&self.route) || !record.state.is_final() {
            return;
        }
        // Who was denied, or was not asked in time, was given to nobody.
        if record.started_ms.is_none() {
            return;
        }
        let given = Target {
            provider: chat.provider.clone(),
            model: chat.model.clone(),
        };
        let known = |arm: &Tally| arm.target.as_ref() == Some(&given);
        let place = match self.arms.iter().position(known) {
            Some(place) => place,
            None if self.arms.len() < MOST => {
                self.arms.push(Tally {
                    target: Some(given.clone()),
                    ..Tally::default()
                });
                self.arms.len() - 1
            }
            None => return,
        };
        self.chats += 1;
        let oldest = self.since.get_or_insert(record.created_ms);
        *oldest = record.created_ms.min(*oldest);
        self.arms[place].add(record, &given);
    }

    /// What was counted: how many chats, since when, and each arm.
    #[must_use]
    pub fn told(self) -> (u64, Option<u64>, Vec<Arm>) {
        let arms = self.arms.into_iter().filter_map(Tally::told).collect();
        (self.chats, self.since, arms)
    }
}

impl Tally {
    fn add(&mut self, record: &ActionRecord, given: &Target) {
        self.chats += 1;
        let mut answered = record.state == State::Cancelled;
        let (provider, model) = (given.provider.as_str(), given.model.as_str());
        let attempts = record.attempts.iter();
        for attempt in
            attempts.filter(|it| (it.provider.as_str(), it.model.as_str()) == (provider, model))
        {
            let short = |ms: u64| u32::try_from(ms).unwrap_or(u32::MAX);
            if attempt.outcome == "ok" {
                self.total_ms.push(short(attempt.ms));
                self.first_token_ms
                    .extend(attempt.first_token_ms.map(short));
            }
            // One that was outrun had no time to fail, and an answer from before is its own.
            answered |= matches!(attempt.outcome.as_str(), "ok" | "outrun" | "cached");
            let sum =
                |sum: &mut u64, more: Option<u64>| *sum = sum.saturating_add(more.unwrap_or(0));
            sum(&mut self.input_tokens, attempt.input_tokens);
            sum(&mut self.output_tokens, attempt.output_tokens);
            sum(&mut self.cost_micros, attempt.cost_micros);
            self.estimated |= attempt.cost_estimated;
        }
        self.errors += u64::from(!answered);
    }

    fn told(self) -> Option<Arm> {
        let target = self.target?;
        Some(Arm {
            provider: target.provider.to_string(),
            model: target.model,
            weight: self.weight,
            chats: self.chats,
            errors: self.errors,
            first_token_ms: percentiles(self.first_token_ms),
            total_ms: percentiles(self.total_ms),
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cost: dollars(self.cost_micros),
            cost_estimated: self.estimated,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use paw_policy::{ChatArguments, Decision, Digest, Kind, Plan, Risk, Role, TaintSet};
    use paw_store::{Attempt, Caller};
    use uuid::Uuid;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn target(provider: &str, model: &str) -> Target {
        Target {
            provider: name(provider),
            model: model.into(),
        }
    }

    fn arm(provider: &str, weight: u32) -> RouteTarget {
        RouteTarget {
            target: target(provider, "m"),
            weight,
            context: None,
            tools: None,
            vision: None,
        }
    }

    /// A chat by this route that was given to this target, over or not, with these attempts: whose, how it ended, how long it took.
    fn chat(
        route: &str,
        given: &Target,
        state: State,
        attempts: &[(&str, &str, u64)],
    ) -> ActionRecord {
        let operation = Operation::Chat(ChatArguments {
            text: "hello".into(),
            provider: given.provider.clone(),
            model: given.model.clone(),
            route: Some(name(route)),
            fallbacks: Vec::new(),
            local_only: false,
            places: BTreeMap::new(),
            schema: None,
            images: Vec::new(),
        });
        let attempts = attempts.iter().map(|(provider, outcome, ms)| Attempt {
            provider: (*provider).into(),
            model: "m".into(),
            outcome: (*outcome).into(),
            ms: *ms,
            first_token_ms: (*outcome == "ok").then_some(ms / 2),
            input_tokens: Some(3),
            output_tokens: Some(2),
            cost_micros: Some(500_000),
            cost_estimated: *outcome != "ok",
            ..Attempt::default()
        });
        ActionRecord {
            attempts: attempts.collect(),
            ..record(operation, state)
        }
    }

    fn record(operation: Operation, state: State) -> ActionRecord {
        let plan = Plan {
            agent: name("default"),
            session: None,
            operation,
        };
        ActionRecord {
            id: Uuid::nil(),
            digest: Digest::of(b""),
            plan,
            kind: Kind::Chat,
            risk: Risk::Low,
            taint: TaintSet::default(),
            decision: Decision::Allow,
            rules: Vec::new(),
            state,
            requested_by: Caller {
                uid: 1,
                gid: 1,
                pid: 1,
                name: None,
                unit: None,
                role: Role::User,
            },
            approved_by: None,
            first_yes: None,
            created_ms: 1_000,
            decided_ms: Some(1_000),
            started_ms: Some(1_000),
            ended_ms: state.is_final().then_some(2_000),
            expires_ms: None,
            deadline_ms: None,
            result: None,
            error: None,
            attestation: None,
            sandbox: None,
            wait_reason: None,
            attempts: Vec::new(),
            parent: None,
            circumstances: paw_policy::Circumstances::default(),
            interrupted: 0,
        }
    }

    /// Chats and errors of each arm.
    fn counted(records: &[ActionRecord]) -> Vec<(String, u64, u64)> {
        let mut arms = Arms::new(name("main"), &[arm("one", 3), arm("two", 1)], true);
        records.iter().for_each(|record| arms.add(record));
        let (chats, _, arms) = arms.told();
        assert_eq!(chats, arms.iter().map(|arm| arm.chats).sum::<u64>());
        arms.into_iter()
            .map(|arm| (arm.provider, arm.chats, arm.errors))
            .collect()
    }

    #[test]
    fn chat_counts_for_whom_it_was_given_to_and_its_error_too_whoever_answered() {
        let (one, two) = (target("one", "m"), target("two", "m"));
        let records = [
            chat("main", &one, State::Completed, &[("one", "ok", 10)]),
            chat(
                "main",
                &one,
                State::Completed,
                &[("one", "cut", 10), ("two", "ok", 10)],
            ),
            chat("main", &two, State::Failed, &[("two", "overload", 10)]),
            // Nobody failed here.
            chat("main", &two, State::Cancelled, &[("two", "cancelled", 10)]),
            chat(
                "main",
                &two,
                State::Completed,
                &[("two", "outrun", 10), ("one", "ok", 10)],
            ),
            chat("main", &two, State::Completed, &[("two", "cached", 0)]),
        ];
        assert_eq!(
            counted(&records),
            [("one".to_owned(), 2, 1), ("two".to_owned(), 4, 1)]
        );
    }

    #[test]
    fn what_is_no_chat_of_the_route_or_is_not_over_counts_nowhere() {
        let one = target("one", "m");
        let mut denied = chat("main", &one, State::Rejected, &[]);
        denied.started_ms = None;
        let records = [
            chat("other", &one, State::Completed, &[("one", "ok", 10)]),
            chat("main", &one, State::Executing, &[]),
            denied,
        ];
        assert_eq!(
            counted(&records),
            [("one".to_owned(), 0, 0), ("two".to_owned(), 0, 0)]
        );
    }

    #[test]
    fn times_tokens_and_cost_are_those_of_the_arms_own_attempts() {
        let mut arms = Arms::new(name("main"), &[arm("one", 3)], false);
        let given = target("one", "m");
        arms.add(&chat(
            "main",
            &given,
            State::Completed,
            &[("one", "cut", 900), ("two", "ok", 70), ("one", "ok", 40)],
        ));
        let mut older = chat("main", &given, State::Completed, &[("one", "ok", 40)]);
        older.created_ms = 500;
        arms.add(&older);
        let (chats, since, arms) = arms.told();
        assert_eq!((chats, since, arms.len()), (2, Some(500), 1));
        let arm = &arms[0];
        assert_eq!((arm.weight, arm.errors), (None, 0));
        assert_eq!((arm.input_tokens, arm.output_tokens), (9, 6));
        assert_eq!((arm.cost, arm.cost_estimated), (1.5, true));
        let times = [&arm.first_token_ms, &arm.total_ms].map(|it| it.as_ref().unwrap().p95);
        assert_eq!(times, [20, 40], "of what was answered");
    }

    #[test]
    fn arms_of_before_are_told_and_there_are_not_endlessly_many() {
        let records: Vec<_> = (0..100)
            .map(|number| {
                let gone = target(&format!("gone-{number}"), "m");
                chat("main", &gone, State::Completed, &[])
            })
            .collect();
        let counted = counted(&records);
        assert_eq!(counted.len(), MOST);
        assert_eq!(counted[2], ("gone-0".to_owned(), 1, 1));
    }
}
