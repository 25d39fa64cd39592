//! What was tried to answer one question: every attempt with its time, its end and its cost, also of a question that was left.

use std::time::Duration;

use paw_llm::{LlmError, Step, Usage};
use paw_store::{Attempt, Sum};
use tokio::time::Instant;

use super::price::{Price, Tokens};
use crate::quota::Hold;

/// Attempts in order. The last one may be under way.
#[derive(Debug, Default)]
pub struct Tried {
    ended: Vec<Attempt>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    attempt: Attempt,
    since: Instant,
    terms: Terms,
    /// Bytes of the answer that were heard.
    said: usize,
    /// What is set aside for it.
    hold: Option<Hold>,
}

/// What an attempt is counted by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// What its tokens cost.
    pub price: Price,
    /// Its question's tokens, as they are estimated.
    pub asked: Tokens,
}

/// What an attempt has used that came to its end.
#[derive(Debug, Clone, Copy)]
pub enum Bill {
    /// What the provider counted.
    Told(Usage),
    /// The question was sent and nobody told what it took: it is counted as it is estimated, with what was heard of its answer.
    Unknown,
    /// Nothing: it was not taken.
    Nothing,
}

impl Bill {
    /// Of an attempt that failed like this. One that a provider may have worked on counts.
    #[must_use]
    pub const fn of(error: &LlmError) -> Self {
        match error {
            LlmError::Auth { .. }
            | LlmError::Quota { .. }
            | LlmError::Rate { .. }
            | LlmError::Overload { .. }
            | LlmError::BadRequest { .. }
            | LlmError::ContextLength { .. }
            | LlmError::ContentFilter { .. }
            | LlmError::NotFound { .. }
            | LlmError::Loading { .. }
            | LlmError::Transport {
                step: Step::Resolve | Step::Connect | Step::Tls,
                ..
            } => Self::Nothing,
            LlmError::Transport {
                step: Step::Read, ..
            }
            | LlmError::TimedOut { .. }
            | LlmError::Malformed { .. }
            | LlmError::Cut { .. }
            | LlmError::TooLarge { .. } => Self::Unknown,
        }
    }
}

impl Tried {
    /// An attempt begins: at `at_ms` of the wall clock, `now` of the one that is measured with.
    pub fn begin(
        &mut self,
        (provider, model): (&str, &str),
        terms: Terms,
        at_ms: u64,
        now: Instant,
    ) {
        let attempt = Attempt {
            provider: provider.to_owned(),
            model: model.to_owned(),
            at_ms,
            ..Attempt::default()
        };
        self.open = Some(Open {
            attempt,
            since: now,
            terms,
            said: 0,
            hold: None,
        });
    }

    /// So much is set aside for the attempt that is under way; it is settled with its end.
    pub fn set_aside(&mut self, hold: Hold) {
        if let Some(open) = &mut self.open {
            open.hold = Some(hold);
        }
    }

    /// A piece of the answer came, of so many bytes.
    pub fn heard(&mut self, bytes: usize, now: Instant) {
        if let Some(open) = &mut self.open {
            open.said = open.said.saturating_add(bytes);
            let since = open.since;
            let first = &mut open.attempt.first_token_ms;
            first.get_or_insert_with(|| millis(now.saturating_duration_since(since)));
        }
    }

    /// The attempt that is under way ended like this. Looking again and again whether a model is loaded is one attempt that lasts.
    pub fn end(&mut self, outcome: &str, bill: Bill, now: Instant) {
        let Some(Open {
            mut attempt,
            since,
            terms: Terms { price, asked },
            said,
            hold,
        }) = self.open.take()
        else {
            return;
        };
        let (usage, estimated) = match bill {
            Bill::Told(usage) => (Some(usage), asked.and_said(said)),
            Bill::Unknown => (Some(Usage::default()), asked.and_said(said)),
            // A provider that began to answer has taken the question.
            Bill::Nothing if said > 0 => (Some(Usage::default()), asked.and_said(said)),
            Bill::Nothing => (None, Tokens::default()),
        };
        let came_to = usage.map_or_else(Sum::default, |usage| Sum {
            cost: price.cost(&usage, estimated),
            tokens: estimated.or_told(&usage).total(),
        });
        attempt.cost_micros = Some(came_to.cost);
        if let Some(hold) = hold {
            hold.settle(came_to);
        }
        if let Some(usage) = usage {
            attempt.cost_estimated = !price.is_exact(&usage);
            attempt.input_tokens = usage.input_tokens;
            attempt.output_tokens = usage.output_tokens;
            attempt.cached_tokens = usage.cached_tokens;
        }
        attempt.outcome = outcome.to_owned();
        attempt.ms = millis(now.saturating_duration_since(since));
        match self.ended.last_mut() {
            Some(last)
                if (last.outcome.as_str(), outcome) == ("loading", "loading")
                    && (&last.provider, &last.model) == (&attempt.provider, &attempt.model) =>
            {
                last.ms = (attempt.at_ms + attempt.ms).saturating_sub(last.at_ms);
            }
            _ => self.ended.push(attempt),
        }
    }

    /// The one that ended last.
    #[must_use]
    pub fn last(&self) -> Option<&Attempt> {
        self.ended.last()
    }

    /// How many have ended.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ended.len()
    }

    /// Whether none has ended.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ended.is_empty()
    }

    /// All of them. One that is under way was left, and ended with what it was left for.
    #[must_use]
    pub fn left(mut self, outcome: &str, now: Instant) -> Vec<Attempt> {
        self.end(outcome, Bill::Unknown, now);
        self.ended
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::prices::Rates;

    #[test]
    fn looking_whether_a_model_is_loaded_is_one_attempt_that_lasts() {
        let (mut tried, now) = (Tried::default(), Instant::now());
        for (at, outcome) in [(1_000, "loading"), (3_000, "loading"), (7_000, "ok")] {
            tried.begin(("local", "m"), Terms::default(), at, now);
            tried.heard(1, now + Duration::from_millis(5));
            tried.heard(1, now + Duration::from_millis(9));
            tried.end(outcome, Bill::Nothing, now + Duration::from_millis(10));
        }
        let ended: Vec<_> = tried
            .left("cancelled", now)
            .into_iter()
            .map(|it| (it.outcome, it.at_ms, it.ms, it.first_token_ms))
            .collect();
        assert_eq!(
            ended,
            [
                ("loading".to_owned(), 1_000, 2_010, Some(5)),
                ("ok".to_owned(), 7_000, 10, Some(5))
            ]
        );
    }

    #[test]
    fn each_attempt_costs_what_is_known_of_it() {
        let now = Instant::now();
        let price = |known| Price {
            known,
            rates: Rates {
                input: 1_000_000,
                cached: 0,
                output: 2_000_000,
            },
        };
        let asked = Tokens {
            input: 100,
            output: 0,
        };
        let told = Usage {
            input_tokens: Some(10),
            output_tokens: Some(5),
            ..Usage::default()
        };
        let half = Usage {
            output_tokens: None,
            ..told
        };
        for (known, said, bill, expected) in [
            (true, 9, Bill::Told(told), (20, false)),
            (false, 9, Bill::Told(told), (20, true)),
            // What was heard stands in for what was not counted.
            (true, 9, Bill::Told(half), (10 + 2 * 3, true)),
            (true, 0, Bill::Unknown, (100, true)),
            (true, 30, Bill::Unknown, (120, true)),
            (true, 0, Bill::Nothing, (0, false)),
            (true, 30, Bill::Nothing, (120, true)),
        ] {
            let mut tried = Tried::default();
            let terms = Terms {
                price: price(known),
                asked,
            };
            tried.begin(("local", "m"), terms, 1, now);
            if said > 0 {
                tried.heard(said, now);
            }
            tried.end("ok", bill, now);
            let ended = tried.last().unwrap();
            assert_eq!(
                (ended.cost_micros, ended.cost_estimated),
                (Some(expected.0), expected.1),
                "{bill:?}"
            );
        }
        // One that is left under way was asked.
        let mut tried = Tried::default();
        let terms = Terms {
            price: price(true),
            asked,
        };
        tried.begin(("local", "m"), terms, 1, now);
        assert_eq!(tried.left("cancelled", now)[0].cost_micros, Some(100));
    }
}
