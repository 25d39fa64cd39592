//! What an error means for who is asked next.

use std::time::Duration;

use paw_llm::{Level, LlmError, Step};

/// Who may still answer a question that failed at one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Another target at once, and the same one later: not before this time, which it asks for, has passed.
    Later(Duration),
    /// The same, of one that is loading its model. That is no outage, and to look again is no retry.
    Loading(Duration),
    /// The same, of one that may not be asked before then.
    Limited(Duration),
    /// Another target; this one would fail again.
    Elsewhere,
    /// A target that is known to hold more.
    Larger,
    /// Nobody: the question itself is refused.
    Nobody,
}

/// Decides by what failed: what is temporary, or broke on the way, may be well a moment later; what the provider has against the
/// one who asks, others need not have; what it understood and refused, others would refuse, too.
#[must_use]
pub fn next(error: &LlmError) -> Verdict {
    match error {
        LlmError::Loading { .. } => Verdict::Loading(error.retry_after().unwrap_or_default()),
        LlmError::Rate { again: false, .. } | LlmError::Overload { again: false, .. } => {
            Verdict::Elsewhere
        }
        LlmError::Rate { .. } | LlmError::Overload { .. } => {
            Verdict::Later(error.retry_after().unwrap_or_default())
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
        | LlmError::Malformed { .. } => Verdict::Later(Duration::ZERO),
        // A certificate that is not trusted will not be trusted in a moment, and the total is all the time that a target has.
        LlmError::Transport {
            step: Step::Tls, ..
        }
        | LlmError::TimedOut {
            level: Level::Total,
            ..
        }
        | LlmError::Key { .. }
        | LlmError::Auth { .. }
        | LlmError::Quota { .. }
        | LlmError::NotFound { .. } => Verdict::Elsewhere,
        LlmError::ContextLength { .. } => Verdict::Larger,
        LlmError::BadRequest { .. }
        | LlmError::ContentFilter { .. }
        | LlmError::TooLarge { .. } => Verdict::Nobody,
    }
}
