//! What was tried to answer one question: every attempt with its time, its end and its cost, also of a question that was left.

use std::time::Duration;

use paw_llm::{LlmError, Step, Told, Usage};
use paw_store::{Attempt, Sum};
use tokio::time::Instant;

use super::price::{Price, Tokens};
use crate::{metrics, quota::Hold};

/// Attempts in the order of their beginning. Some of them may be under way.
#[derive(Debug, Default)]
pub struct Tried {
    ended: Vec<(Key, Attempt)>,
    open: Vec<(Key, Open)>,
    next: Key,
}

/// Names an attempt that is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(u32);

#[derive(Debug)]
struct Open {
    attempt: Attempt,
    since: Instant,
    terms: Terms,
    /// Bytes of the answer that were heard.
    said: usize,
    /// What its provider has told of its usage so far.
    told: Told,
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
            LlmError::Key { .. }
            | LlmError::Auth { .. }
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
    ) -> Key {
        let attempt = Attempt {
            provider: provider.to_owned(),
            model: model.to_owned(),
            at_ms,
            ..Attempt::default()
        };
        let key = self.next;
        self.next = Key(key.0.saturating_add(1));
        let open = Open {
            attempt,
            since: now,
            terms,
            said: 0,
            told: Told::default(),
            hold: None,
        };
        self.open.push((key, open));
        key
    }

    /// So much is set aside for an attempt that is under way; it is settled with its end.
    pub fn set_aside(&mut self, key: Key, hold: Hold) {
        if let Some(open) = self.of(key) {
            open.hold = Some(hold);
        }
    }

    /// Where the usage of an attempt that is under way is told.
    #[must_use]
    pub fn told(&mut self, key: Key) -> Told {
        self.of(key)
            .map(|open| open.told.clone())
            .unwrap_or_default()
    }

    fn of(&mut self, key: Key) -> Option<&mut Open> {
        let found = self.open.iter_mut().find(|(other, _)| *other == key);
        found.map(|(_, open)| open)
    }

    /// A piece of its answer came, of so many bytes.
    pub fn heard(&mut self, key: Key, bytes: usize, now: Instant) {
        if let Some(open) = self.of(key) {
            open.said = open.said.saturating_add(bytes);
            let since = open.since;
            let first = &mut open.attempt.first_token_ms;
            first.get_or_insert_with(|| millis(now.saturating_duration_since(since)));
        }
    }

    /// An attempt that is under way ended like this; it is told as it is recorded. Looking again and again whether a model is loaded is
    /// one attempt that lasts.
    pub fn end(&mut self, key: Key, outcome: &str, bill: Bill, now: Instant) -> Option<&Attempt> {
        let place = self.open.iter().position(|(other, _)| *other == key)?;
        let (
            _,
            Open {
                mut attempt,
                since,
                terms: Terms { price, asked },
                said,
                told,
                hold,
            },
        ) = self.open.remove(place);
        let (estimated, so_far) = (asked.and_said(said), told.so_far());
        let (usage, whole) = match bill {
            Bill::Told(usage) => (Some(usage), true),
            Bill::Unknown => (Some(so_far), false),
            // A provider that began to answer has taken the question.
            Bill::Nothing if said > 0 || so_far != Usage::default() => (Some(so_far), false),
            Bill::Nothing => (None, true),
        };
        // What was told before the end may be less than what was heard, and more where the model thought in silence.
        let counted = usage.map(|usage| Usage {
            output_tokens: usage.output_tokens.map(|told| {
                if whole {
                    told
                } else {
                    told.max(estimated.output)
                }
            }),
            ..usage
        });
        let came_to = counted.map_or_else(Sum::default, |usage| Sum {
            cost: price.cost(&usage, estimated),
            tokens: estimated.or_told(&usage).total(),
        });
        attempt.cost_micros = Some(came_to.cost);
        if let Some(hold) = hold {
            hold.settle(came_to);
        }
        if let Some(usage) = usage {
            let known = usage.output_tokens.filter(|_| whole);
            attempt.cost_estimated = !price.is_exact(&Usage {
                output_tokens: known,
                ..usage
            });
            attempt.input_tokens = usage.input_tokens;
            attempt.output_tokens = usage.output_tokens;
            attempt.cached_tokens = usage.cached_tokens;
        }
        attempt.outcome = outcome.to_owned();
        let took = now.saturating_duration_since(since);
        attempt.ms = millis(took);
        metrics::targets().ended(&attempt, outcome, took);
        match self.ended.last_mut().map(|(_, last)| last) {
            Some(last)
                if (last.outcome.as_str(), outcome) == ("loading", "loading")
                    && (&last.provider, &last.model) == (&attempt.provider, &attempt.model) =>
            {
                last.ms = (attempt.at_ms + attempt.ms).saturating_sub(last.at_ms);
            }
            _ => self.ended.push((key, attempt)),
        }
        self.ended.last().map(|(_, attempt)| attempt)
    }

    /// All of them. Those that are under way were left, and ended with what they were left for.
    #[must_use]
    pub fn left(mut self, outcome: &str, now: Instant) -> Vec<Attempt> {
        while let Some((key, _)) = self.open.first() {
            self.end(*key, outcome, Bill::Unknown, now);
        }
        self.ended.sort_by_key(|(key, _)| *key);
        self.ended.into_iter().map(|(_, attempt)| attempt).collect()
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
            let key = tried.begin(("local", "m"), Terms::default(), at, now);
            tried.heard(key, 1, now + Duration::from_millis(5));
            tried.heard(key, 1, now + Duration::from_millis(9));
            tried.end(key, outcome, Bill::Nothing, now + Duration::from_millis(10));
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
            let key = tried.begin(("local", "m"), terms, 1, now);
            if said > 0 {
                tried.heard(key, said, now);
            }
            let ended = tried.end(key, "ok", bill, now).unwrap();
            assert_eq!(
                (ended.cost_micros, ended.cost_estimated),
                (Some(expected.0), expected.1),
                "{bill:?}"
            );
        }
        // What was told before it broke off counts, and at least what was heard.
        for (thought, said, expected) in [(50, 9, 10 + 2 * 50), (1, 90, 10 + 2 * 30)] {
            let (mut tried, terms) = (
                Tried::default(),
                Terms {
                    price: price(true),
                    asked,
                },
            );
            let key = tried.begin(("local", "m"), terms, 1, now);
            tried.heard(key, said, now);
            tried.told(key).tell(Usage {
                output_tokens: Some(thought),
                ..told
            });
            let ended = tried.end(key, "cut", Bill::Unknown, now).unwrap();
            assert_eq!(
                (ended.cost_micros, ended.cost_estimated),
                (Some(expected), true)
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

    #[test]
    fn attempts_are_told_as_they_began_however_they_end() {
        let (mut tried, now) = (Tried::default(), Instant::now());
        let begin =
            |tried: &mut Tried, provider| tried.begin((provider, "m"), Terms::default(), 1, now);
        let (slow, quick) = (begin(&mut tried, "slow"), begin(&mut tried, "quick"));
        begin(&mut tried, "left");
        tried.heard(quick, 1, now);
        tried.end(quick, "ok", Bill::Unknown, now);
        tried.end(slow, "outrun", Bill::Unknown, now);
        let told: Vec<_> = tried
            .left("cancelled", now)
            .into_iter()
            .map(|it| (it.provider, it.outcome, it.first_token_ms.is_some()))
            .collect();
        let expected = [
            ("slow", "outrun", false),
            ("quick", "ok", true),
            ("left", "cancelled", false),
        ];
        let expected = expected.map(|(who, how, heard)| (who.to_owned(), how.to_owned(), heard));
        assert_eq!(told, expected);
    }
}
