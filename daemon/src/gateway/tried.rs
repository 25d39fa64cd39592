//! What was tried to answer one question: every attempt with its time and its end, also of a question that was left.

use std::time::Duration;

use paw_store::Attempt;
use tokio::time::Instant;

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
}

impl Tried {
    /// An attempt begins: at `at_ms` of the wall clock, `now` of the one that is measured with.
    pub fn begin(&mut self, provider: &str, model: &str, at_ms: u64, now: Instant) {
        let attempt = Attempt {
            provider: provider.to_owned(),
            model: model.to_owned(),
            outcome: String::new(),
            at_ms,
            ms: 0,
            first_token_ms: None,
        };
        self.open = Some(Open {
            attempt,
            since: now,
        });
    }

    /// A piece of the answer came; the first one counts.
    pub fn heard(&mut self, now: Instant) {
        if let Some(Open { attempt, since }) = &mut self.open
            && attempt.first_token_ms.is_none()
        {
            attempt.first_token_ms = Some(millis(now.saturating_duration_since(*since)));
        }
    }

    /// The attempt that is under way ended like this. Looking again and again whether a model is loaded is one attempt that lasts.
    pub fn end(&mut self, outcome: &str, now: Instant) {
        let Some(Open { mut attempt, since }) = self.open.take() else {
            return;
        };
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
        self.end(outcome, now);
        self.ended
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_whether_a_model_is_loaded_is_one_attempt_that_lasts() {
        let (mut tried, now) = (Tried::default(), Instant::now());
        for (at, outcome) in [(1_000, "loading"), (3_000, "loading"), (7_000, "ok")] {
            tried.begin("local", "m", at, now);
            tried.heard(now + Duration::from_millis(5));
            tried.heard(now + Duration::from_millis(9));
            tried.end(outcome, now + Duration::from_millis(10));
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
}
