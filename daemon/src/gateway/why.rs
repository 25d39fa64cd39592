//! Why a target has no answer: its provider failed, or it was not asked. Pure.

use std::{borrow::Cow, fmt, time::Duration};

use paw_llm::LlmError;
use paw_policy::Ceiling;

use super::decide::{self, Verdict};
use crate::quota::Refusal;

/// Either of them.
#[derive(Debug)]
pub enum Why {
    /// The provider failed.
    Provider(LlmError),
    /// A limit or a budget has no room for it.
    Quota(Refusal),
    /// It may not be sent what is so confidential.
    Confidential {
        /// What the question is.
        asked: Ceiling,
        /// What it may be sent at most.
        ceiling: Ceiling,
    },
}

impl Why {
    /// What it means for who is asked next. A limit that is used up is looked at again, which is no retry; a budget that is spent may
    /// have room for another target, which costs less.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Provider(error) => decide::next(error),
            Self::Quota(Refusal::Limited { wait, .. }) => Verdict::Limited(*wait),
            Self::Quota(Refusal::Spent { .. }) | Self::Confidential { .. } => Verdict::Elsewhere,
            Self::Quota(Refusal::Unreadable { .. }) => Verdict::Nobody,
        }
    }

    /// The stable word for programs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Provider(error) => error.kind(),
            Self::Quota(refusal) => refusal.kind(),
            Self::Confidential { .. } => "denied",
        }
    }

    /// What to do about it, for people.
    #[must_use]
    pub fn hint(&self) -> Cow<'static, str> {
        match self {
            Self::Provider(error) => error.hint().into(),
            Self::Quota(refusal) => refusal.hint().into(),
            Self::Confidential { asked, .. } => beyond_hint(*asked).into(),
        }
    }

    /// How long it is until it may be well, where that is known.
    #[must_use]
    pub fn retry_after(&self, now_ms: u64) -> Option<Duration> {
        match self {
            Self::Provider(error) => error.retry_after(),
            Self::Quota(refusal) => refusal.retry_after(now_ms),
            Self::Confidential { .. } => None,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Provider(error) => paw_log::Chain(error).fmt(f),
            Self::Quota(refusal) => refusal.fmt(f),
            Self::Confidential { asked, ceiling } => f.write_str(&beyond(*asked, *ceiling)),
        }
    }
}

/// What is said of one that may not be sent what is so confidential.
#[must_use]
pub fn beyond(asked: Ceiling, ceiling: Ceiling) -> String {
    format!("this conversation holds what is {asked}, and it may be sent what is {ceiling} at most")
}

/// What to do about that.
#[must_use]
pub const fn beyond_hint(asked: Ceiling) -> &'static str {
    match asked {
        Ceiling::Secret => "begin a new conversation, or ask a provider on this host",
        Ceiling::Public | Ceiling::Private => {
            "begin a new conversation, or ask a provider whose may_receive is more"
        }
    }
}
