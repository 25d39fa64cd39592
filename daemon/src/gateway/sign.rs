//! What the end of an attempt or of a check says of the target: whether it is there, and does what it is there for. Pure.
//!
//! What fails before the question was read, or whatever it is, says so of the target. What fails later may do so because of this question
//! alone: one that makes the server stumble, or that takes it longer than there is time.

use paw_llm::{Level, LlmError, Step};

/// What an error says of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It is there and understood the question; a model that loads is no outage.
    There,
    /// It does not do what it is there for, and wants to be left alone for so many milliseconds.
    Failed(u64),
    /// It did not answer this question, and may answer others.
    Doubt,
    /// Nothing.
    Nothing,
}

/// What an error of an attempt says, whose answer had `begun` or not.
#[must_use]
pub fn sign(error: &LlmError, begun: bool) -> Sign {
    match error {
        // It may be who hears the answer that is slow, or the answer that is long.
        LlmError::TimedOut {
            level: Level::Total,
            ..
        } if begun => Sign::Nothing,
        LlmError::Loading { .. }
        | LlmError::BadRequest { .. }
        | LlmError::ContextLength { .. }
        | LlmError::ContentFilter { .. } => Sign::There,
        LlmError::Overload {
            full: false,
            retry_after: None,
            ..
        } => Sign::Doubt,
        LlmError::Rate { .. } | LlmError::Overload { .. } => {
            let asked = error.retry_after().unwrap_or_default();
            Sign::Failed(u64::try_from(asked.as_millis()).unwrap_or(u64::MAX))
        }
        LlmError::Auth { .. }
        | LlmError::Quota { .. }
        | LlmError::NotFound { .. }
        | LlmError::Transport {
            step: Step::Resolve | Step::Connect | Step::Tls,
            ..
        }
        | LlmError::TimedOut {
            level: Level::Connect,
            ..
        } => Sign::Failed(0),
        LlmError::Transport {
            step: Step::Read, ..
        }
        | LlmError::TimedOut {
            level: Level::FirstToken | Level::Stall | Level::Total,
            ..
        }
        | LlmError::Malformed { .. }
        | LlmError::Cut { .. } => Sign::Doubt,
        // It may be the question that is too large, or the answer; and nobody was asked whose key could not be had.
        LlmError::TooLarge { .. } | LlmError::Key { .. } => Sign::Nothing,
    }
}

/// What a check that came to this says: whether the provider is there, where it says anything of that.
#[must_use]
pub fn is_there<T>(outcome: &Result<T, LlmError>) -> Option<bool> {
    match outcome {
        Ok(_) | Err(LlmError::Loading { .. }) => Some(true),
        Err(
            LlmError::Transport {
                step: Step::Resolve | Step::Connect | Step::Tls | Step::Read,
                ..
            }
            | LlmError::TimedOut { .. }
            | LlmError::Overload { .. }
            | LlmError::Malformed { .. }
            | LlmError::Cut { .. },
        ) => Some(false),
        // Somebody answered, and not what was asked.
        Err(
            LlmError::Key { .. }
            | LlmError::Auth { .. }
            | LlmError::Quota { .. }
            | LlmError::Rate { .. }
            | LlmError::BadRequest { .. }
            | LlmError::ContextLength { .. }
            | LlmError::ContentFilter { .. }
            | LlmError::NotFound { .. }
            | LlmError::TooLarge { .. },
        ) => None,
    }
}
