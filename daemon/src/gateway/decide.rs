//! Which errors are worth another attempt.

use std::time::Duration;

use paw_llm::{Level, LlmError, Step};

/// What to do after an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The same question may be answered later.
    Again {
        /// How long the provider asks us to wait; zero where it does not say.
        at_least: Duration,
    },
    /// The same question fails again.
    GiveUp,
}

/// Decides by what failed: what is temporary, or broke on the way, is asked again; what the provider understood and refused is not.
#[must_use]
pub fn next(error: &LlmError) -> Next {
    match error {
        LlmError::Rate { .. } | LlmError::Overload { .. } | LlmError::Loading { .. } => {
            Next::Again {
                at_least: error.retry_after().unwrap_or_default(),
            }
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
        | LlmError::Malformed { .. } => Next::Again {
            at_least: Duration::ZERO,
        },
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
        | LlmError::TooLarge { .. } => Next::GiveUp,
    }
}
