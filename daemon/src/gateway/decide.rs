//! Which errors are worth another attempt.

use std::time::Duration;

use paw_llm::{Level, LlmError, Step};

/// Decides by what failed: what is temporary, or broke on the way, is asked again; what the provider understood and refused is not.
/// Gives how long the provider asks us to wait, zero where it does not say; nothing where the same question fails again.
#[must_use]
pub fn again(error: &LlmError) -> Option<Duration> {
    match error {
        LlmError::Rate { .. } | LlmError::Overload { .. } | LlmError::Loading { .. } => {
            Some(error.retry_after().unwrap_or_default())
        }
        LlmError::Transport {
            step: Step::Resolve | Step::Connect | Step::Read,
            ..
        }
        | LlmError::TimedOut {
            level: Level::Connect | Level::FirstToken | Level::Stall,
            ..
        }
        | LlmError::Cut { .. }
        | LlmError::Malformed { .. } => Some(Duration::ZERO),
        // A certificate that is not trusted will not be trusted in a moment, and the total is all the time that there is.
        LlmError::Transport {
            step: Step::Tls, ..
        }
        | LlmError::TimedOut {
            level: Level::Total,
            ..
        }
        | LlmError::Auth { .. }
        | LlmError::Quota { .. }
        | LlmError::BadRequest { .. }
        | LlmError::ContextLength { .. }
        | LlmError::ContentFilter { .. }
        | LlmError::NotFound { .. }
        | LlmError::TooLarge { .. } => None,
    }
}
