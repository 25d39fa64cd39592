//! Why a target has no answer: its provider failed, or it was not asked. Pure.

use std::{borrow::Cow, fmt, time::Duration};

use paw_llm::LlmError;

use super::decide::{self, Verdict};
use crate::quota::Refusal;

/// Either of them.
#[derive(Debug)]
pub enum Why {
    /// The provider failed.
    Provider(LlmError),
    /// A limit or a budget has no room for it.
    Quota(Refusal),
}

impl Why {
    /// What it means for who is asked next. A limit that is used up is looked at again, which is no retry; a budget that is spent may
    /// have room for another target, which costs less.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Provider(error) => decide::next(error),
            Self::Quota(Refusal::Limited { wait, .. }) => Verdict::Limited(*wait),
            Self::Quota(Refusal::Spent { .. }) => Verdict::Elsewhere,
            Self::Quota(Refusal::Unreadable { .. }) => Verdict::Nobody,
        }
    }

    /// The stable word for programs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Provider(error) => error.kind(),
            Self::Quota(refusal) => refusal.kind(),
        }
    }

    /// What to do about it, for people.
    #[must_use]
    pub fn hint(&self) -> Cow<'static, str> {
        match self {
            Self::Provider(error) => error.hint().into(),
            Self::Quota(refusal) => refusal.hint().into(),
        }
    }

    /// How long it is until it may be well, where that is known.
    #[must_use]
    pub fn retry_after(&self, now_ms: u64) -> Option<Duration> {
        match self {
            Self::Provider(error) => error.retry_after(),
            Self::Quota(refusal) => refusal.retry_after(now_ms),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Provider(error) => paw_log::Chain(error).fmt(f),
            Self::Quota(refusal) => refusal.fmt(f),
        }
    }
}
