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
