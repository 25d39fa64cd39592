//! What was last seen of a provider, by traffic and by checks alike. Pure: it is told the time.
//!
//! ```text
//!  unknown ──an answer──► ready ◄──an answer── failing
//!     │                     │                     ▲
//!     ├──it loads──► loading ◄──it loads──┘       │
//!     └──an error that is the provider's ─────────┘
//! ```
//!
//! An error that lies in the question, such as a conversation that is too long, is an answer: the provider is there.

use std::{collections::VecDeque, time::Duration};

use paw_api::provider::{Latency, Percentiles};
use paw_llm::{Health, LlmError};
use paw_store::Attempt;
use tokio::time::Instant;

use super::pace::Pace;

/// Answers whose times are remembered: enough for a p95, few enough that it tells of today.
const CALLS: usize = 256;

/// Models whose pace is remembered; callers may name others.
const PACES: usize = 32;

/// With fewer answers nobody knows what is usual.
const USUAL: usize = 20;

/// A provider that comes and goes is told of no more often than this.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    sight: Sight,
    last_error: Option<(String, u64)>,
    seen_at: Option<u64>,
    answered: Option<Instant>,
    calls: Calls,
    paces: Vec<(Box<str>, Pace)>,
    told: Told,
}

/// How it is, as far as one can see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sight {
    /// Nobody has asked it yet.
    #[default]
    Unknown,
    /// It answers.
    Ready,
    /// It is there, and loads its model.
    Loading,
    /// It fails whoever asks.
    Failing,
}

impl Sight {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ready => "ready",
            Self::Loading => "loading",
            Self::Failing => "failing",
        }
    }
}

/// What the journal is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It does not answer any more.
    Lost,
    /// It answers again.
    Recovered,
}

/// What the journal was told.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    lost: bool,
    at: Option<Instant>,
}

impl Seen {
    /// A question ended like this, at `now_ms` of the wall clock and `now` of the one that is measured with. What the provider said is not
    /// remembered: it may quote the question, and everybody sees what is remembered here.
    pub fn asked(
        &mut self,
        outcome: Result<(), &LlmError>,
        now_ms: u64,
        now: Instant,
    ) -> Option<News> {
        let (sight, error) = outcome.map_or_else(judge, |()| (Sight::Ready, None));
        let error = error.map(|error| error.without_words().to_owned());
        self.see(sight, error, now_ms, now)
    }

    /// A check ended like this. It asks for nothing that could be at fault, so each error is the provider's.
    pub fn checked(
        &mut self,
        outcome: Result<Health, &LlmError>,
        now_ms: u64,
        now: Instant,
    ) -> Option<News> {
        let (sight, error) = match outcome {
            Ok(Health::Ready) => (Sight::Ready, None),
            Ok(Health::Loading) => (Sight::Loading, None),
            Err(error) => (Sight::Failing, Some(paw_log::Chain(error).to_string())),
        };
        self.see(sight, error, now_ms, now)
    }

    fn see(
        &mut self,
        sight: Sight,
        error: Option<String>,
        now_ms: u64,
        now: Instant,
    ) -> Option<News> {
        self.sight = sight;
        match sight {
            Sight::Ready => (self.seen_at, self.answered) = (Some(now_ms), Some(now)),
            Sight::Loading => self.seen_at = Some(now_ms),
            Sight::Unknown | Sight::Failing => {}
        }
        if let Some(error) = error {
            self.last_error = Some((error, now_ms));
        }
        self.news(now)
    }

    fn news(&mut self, now: Instant) -> Option<News> {
        let lately = |at: Instant| now.saturating_duration_since(at) < TELL_AGAIN;
        match (self.sight, self.told.lost) {
            (Sight::Failing, false) if !self.told.at.is_some_and(lately) => {
                self.told = Told {
                    lost: true,
                    at: Some(now),
                };
                Some(News::Lost)
            }
            (Sight::Ready, true) => {
                self.told.lost = false;
                Some(News::Recovered)
            }
            (Sight::Unknown | Sight::Ready | Sight::Loading | Sight::Failing, _) => None,
        }
    }

    /// A question was answered to its end.
    pub fn took(&mut self, attempt: &Attempt, now: Instant) {
        self.calls.add(attempt);
        let begun = attempt.first_token_ms.unwrap_or(attempt.ms);
        self.paced(&attempt.model, begun, now);
    }

    /// An attempt was left, or failed, after all its time and before its answer began: it takes at least so long.
    pub fn took_longer(&mut self, attempt: &Attempt, now: Instant) {
        self.paced(&attempt.model, attempt.ms, now);
        self.calls.push(Call {
            model: attempt.model.as_str().into(),
            first_token_ms: Some(short(attempt.ms)),
            total_ms: None,
        });
    }

    fn paced(&mut self, model: &str, ms: u64, now: Instant) {
        if let Some((_, pace)) = self.paces.iter_mut().find(|(name, _)| **name == *model) {
            pace.took(ms, now);
            return;
        }
        if self.paces.len() == PACES {
            // Whoever was not heard of for longest has the least to say.
            let oldest = self.paces.iter().enumerate();
            let oldest = oldest.min_by_key(|(_, (_, pace))| pace.heard_at());
            if let Some((at, _)) = oldest {
                self.paces.swap_remove(at);
            }
        }
        self.paces.push((model.into(), Pace::new(ms, now)));
    }

    /// How soon one expects an answer of a model to begin, in milliseconds; nothing where nobody has heard one.
    #[must_use]
    pub fn pace(&self, model: &str, now: Instant) -> Option<f64> {
        let found = self.paces.iter().find(|(name, _)| **name == *model);
        found.map(|(_, pace)| pace.expected(now))
    }

    /// Within which time 19 of 20 answers of a model begin; nothing while that is not known.
    #[must_use]
    pub fn usual_first_token(&self, model: &str) -> Option<Duration> {
        let calls = self.calls.0.iter().filter(|call| &*call.model == model);
        let times: Vec<u32> = calls.filter_map(|call| call.first_token_ms).collect();
        if times.len() < USUAL {
            return None;
        }
        percentiles(times).map(|it| Duration::from_millis(it.p95))
    }

    /// How it is.
    #[must_use]
    pub const fn sight(&self) -> Sight {
        self.sight
    }

    /// What it last failed with, and when; also of a provider that is well again.
    #[must_use]
    pub const fn last_error(&self) -> Option<&(String, u64)> {
        self.last_error.as_ref()
    }

    /// When it was last seen to be there.
    #[must_use]
    pub const fn seen_at(&self) -> Option<u64> {
        self.seen_at
    }

    /// Whether it is well, and has shown that within this time.
    #[must_use]
    pub fn is_well_since(&self, time: Duration, now: Instant) -> bool {
        self.sight == Sight::Ready
            && self
                .answered
                .is_some_and(|at| now.saturating_duration_since(at) < time)
    }

    /// How long its last answers took.
    #[must_use]
    pub fn latency(&self) -> Option<Latency> {
        self.calls.latency()
    }
}

/// What an error says of the provider, and whether it is to be remembered as the provider's. What lies in a question is that caller's
/// alone.
fn judge(error: &LlmError) -> (Sight, Option<&LlmError>) {
    match error {
        LlmError::BadRequest { .. }
        | LlmError::ContextLength { .. }
        | LlmError::ContentFilter { .. }
        | LlmError::NotFound { .. }
        | LlmError::TooLarge { .. } => (Sight::Ready, None),
        // It answers, to others as well as it can.
        LlmError::Rate { .. } => (Sight::Ready, Some(error)),
        LlmError::Loading { .. } => (Sight::Loading, None),
        LlmError::Key { .. }
        | LlmError::Auth { .. }
        | LlmError::Quota { .. }
        | LlmError::Overload { .. }
        | LlmError::Transport { .. }
        | LlmError::TimedOut { .. }
        | LlmError::Malformed { .. }
        | LlmError::Cut { .. } => (Sight::Failing, Some(error)),
    }
}

/// Times of the last answers, oldest first.
#[derive(Debug, Clone, Default)]
struct Calls(VecDeque<Call>);

#[derive(Debug, Clone)]
struct Call {
    model: Box<str>,
    /// None of an answer without a piece.
    first_token_ms: Option<u32>,
    /// None of one that was not heard to its end.
    total_ms: Option<u32>,
}

impl Calls {
    fn add(&mut self, attempt: &Attempt) {
        self.push(Call {
            model: attempt.model.as_str().into(),
            first_token_ms: attempt.first_token_ms.map(short),
            total_ms: Some(short(attempt.ms)),
        });
    }

    fn push(&mut self, call: Call) {
        if self.0.len() == CALLS {
            self.0.pop_front();
        }
        self.0.push_back(call);
    }

    fn latency(&self) -> Option<Latency> {
        let first = self.0.iter().filter_map(|call| call.first_token_ms);
        let whole: Vec<u32> = self.0.iter().filter_map(|call| call.total_ms).collect();
        let answers = whole.len() as u64;
        Some(Latency {
            total_ms: percentiles(whole)?,
            first_token_ms: percentiles(first.collect()),
            answers,
        })
    }
}

/// No answer may take longer than a day, so nothing is cut off here.
fn short(ms: u64) -> u32 {
    u32::try_from(ms).unwrap_or(u32::MAX)
}

/// By nearest rank: each is a time that was measured. None of nothing.
#[must_use]
pub fn percentiles(mut times: Vec<u32>) -> Option<Percentiles> {
    times.sort_unstable();
    let rank = |percent: usize| {
        let rank = (times.len() * percent).div_ceil(100);
        times.get(rank.checked_sub(1)?).copied().map(u64::from)
    };
    Some(Percentiles {
        p50: rank(50)?,
        p95: rank(95)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(first_token_ms: Option<u64>, ms: u64) -> Attempt {
        Attempt {
            provider: "local".into(),
            model: "m".into(),
            outcome: "ok".into(),
            ms,
            first_token_ms,
            ..Attempt::default()
        }
    }

    fn cut() -> LlmError {
        LlmError::Cut { source: None }
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let check = |times: &[u32], expected: Option<(u64, u64)>| {
            let found = percentiles(times.to_vec()).map(|it| (it.p50, it.p95));
            assert_eq!(found, expected, "{times:?}");
        };
        check(&[], None);
        check(&[7], Some((7, 7)));
        check(&[9, 1], Some((1, 9)));
        check(&(1..=100).rev().collect::<Vec<_>>(), Some((50, 95)));
    }

    #[test]
    fn only_the_last_answers_count_and_no_more_are_kept() {
        let mut seen = Seen::default();
        for _ in 0..CALLS {
            seen.took(&answer(Some(9_000), 9_000), Instant::now());
        }
        for _ in 0..CALLS {
            seen.took(&answer(None, 10), Instant::now());
        }
        let latency = seen.latency().unwrap();
        assert_eq!(
            (latency.answers, latency.first_token_ms, latency.total_ms),
            (CALLS as u64, None, Percentiles { p50: 10, p95: 10 })
        );
    }

    #[test]
    fn what_is_usual_is_known_of_each_model_after_some_answers() {
        let mut seen = Seen::default();
        let usual = |seen: &Seen, model| seen.usual_first_token(model).map(|it| it.as_millis());
        for ms in 1..USUAL as u64 {
            seen.took(&answer(Some(ms), 100), Instant::now());
        }
        seen.took(&answer(None, 100), Instant::now());
        assert_eq!(usual(&seen, "m"), None);
        // One that was left is as slow as it was heard to be, and is no answer.
        seen.took_longer(&answer(None, 500), Instant::now());
        assert_eq!(usual(&seen, "m"), Some(19));
        seen.took_longer(&answer(None, 500), Instant::now());
        assert_eq!(usual(&seen, "m"), Some(500));
        assert_eq!(usual(&seen, "other"), None);
        assert_eq!(seen.latency().unwrap().answers, USUAL as u64);
    }

    #[test]
    fn pace_is_known_of_a_bounded_number_of_models() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        for at in 0..100_u64 {
            let attempt = Attempt {
                model: at.to_string(),
                ..answer(Some(at), 500)
            };
            seen.took(&attempt, now + Duration::from_secs(at));
        }
        assert_eq!(seen.paces.len(), PACES);
        assert_eq!(seen.pace("0", now), None);
        assert!(seen.pace("99", now).is_some());
    }

    #[test]
    fn error_that_lies_in_a_question_is_an_answer_and_nobody_elses_to_read() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        let error = LlmError::TooLarge { what: "it" };
        assert_eq!(seen.asked(Err(&error), 5, now), None);
        assert_eq!(
            (seen.sight(), seen.seen_at(), seen.last_error()),
            (Sight::Ready, Some(5), None)
        );
        assert_eq!(seen.checked(Err(&error), 6, now), Some(News::Lost));
    }

    #[test]
    fn last_error_stays_with_its_time_when_the_provider_is_well_again() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        assert_eq!(seen.asked(Err(&cut()), 5, now), Some(News::Lost));
        assert_eq!((seen.sight(), seen.seen_at()), (Sight::Failing, None));
        assert_eq!(
            seen.checked(Ok(Health::Ready), 6, now),
            Some(News::Recovered)
        );
        assert_eq!((seen.sight(), seen.seen_at()), (Sight::Ready, Some(6)));
        assert_eq!(seen.last_error().map(|(_, at)| *at), Some(5));
    }

    #[test]
    fn provider_that_loads_is_there_and_not_lost() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        assert_eq!(seen.checked(Ok(Health::Loading), 5, now), None);
        assert_eq!((seen.sight(), seen.seen_at()), (Sight::Loading, Some(5)));
        assert!(!seen.is_well_since(Duration::from_secs(1), now));
    }

    #[test]
    fn provider_that_comes_and_goes_is_told_of_once_a_minute() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        let mut told = Vec::new();
        for second in 0..180 {
            let now = now + Duration::from_secs(second);
            told.extend(seen.asked(Err(&cut()), 0, now));
            told.extend(seen.checked(Ok(Health::Ready), 0, now));
        }
        assert_eq!(told, [News::Lost, News::Recovered].repeat(3));
    }
}
