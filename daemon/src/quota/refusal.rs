//! Why an attempt is not made, for people and for programs. Pure.

use std::{fmt, time::Duration};

use paw_api::budget::Money;
use paw_policy::Name;
use paw_store::StoreError;

use super::ledger::Over;
use crate::config::{
    BudgetSettings,
    quotas::{Each, Period},
};

/// Why an attempt is not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A limit is used up.
    Limited {
        /// Which.
        limit: Name,
        /// What of it: `requests` or `tokens`.
        what: &'static str,
        /// How much of it there is in a minute.
        per_minute: u64,
        /// How long it is until there is enough again.
        wait: Duration,
    },
    /// A budget has no room for it.
    Spent {
        /// Which.
        budget: Name,
        /// What it says.
        settings: Box<BudgetSettings>,
        /// What is spent and set aside of it.
        over: Over,
        /// When it begins anew, in milliseconds since 1970.
        again_ms: Option<u64>,
    },
    /// What was spent cannot be read.
    Unreadable {
        /// Why.
        message: String,
        /// What to do.
        remedy: String,
    },
}

impl Refusal {
    /// What was spent cannot be read.
    #[must_use]
    pub fn unreadable(error: &StoreError) -> Self {
        Self::Unreadable {
            message: paw_log::Chain(error).to_string(),
            remedy: error.remedy(),
        }
    }

    /// The stable word for programs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Limited { .. } => "limited",
            Self::Spent { .. } => "over_budget",
            Self::Unreadable { .. } => "unavailable",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Limited { limit, .. } => {
                format!("try again then, or raise [limit.{limit}] in pawd.toml(5)")
            }
            Self::Spent { budget, .. } => format!(
                "ask an administrator, who sees what is spent with `pawctl budget show {budget}`"
            ),
            Self::Unreadable { remedy, .. } => remedy.clone(),
        }
    }

    /// How long it is until it would not be refused any more, where that is known.
    #[must_use]
    pub fn retry_after(&self, now_ms: u64) -> Option<Duration> {
        match self {
            Self::Limited { wait, .. } => Some(*wait),
            Self::Spent { again_ms, .. } => {
                again_ms.map(|at| Duration::from_millis(at.saturating_sub(now_ms)))
            }
            Self::Unreadable { .. } => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limited {
                limit,
                what,
                per_minute,
                wait,
            } => {
                let seconds = wait.as_millis().div_ceil(1_000);
                write!(
                    f,
                    "limit {limit} of {per_minute} {what} a minute is used up for {seconds} s"
                )
            }
            Self::Spent {
                budget,
                settings,
                over,
                ..
            } => {
                write!(f, "budget {budget}")?;
                let mut sep = " of ";
                if let Some(cost) = settings.cost {
                    write!(f, "{sep}{}", Money(cost))?;
                    sep = " and ";
                }
                if let Some(tokens) = settings.tokens {
                    write!(f, "{sep}{tokens} tokens")?;
                }
                match settings.per {
                    Period::Day | Period::Month => write!(f, " a {}", settings.per.as_str())?,
                    Period::Ever => {}
                }
                for each in &settings.scope.each {
                    write!(f, " for each {}", Each::as_str(*each))?;
                }
                // What others spent is theirs to know, and an administrator's.
                let own = [Each::User, Each::Session];
                if own.iter().any(|each| settings.scope.each.contains(each)) {
                    write!(
                        f,
                        " has no room for this: {} and {} tokens are spent, {} and {} tokens are set aside",
                        Money(over.spent.cost),
                        over.spent.tokens,
                        Money(over.reserved.cost),
                        over.reserved.tokens
                    )
                } else {
                    write!(f, " has no room for this")
                }
            }
            Self::Unreadable { message, .. } => {
                write!(f, "what was spent cannot be read: {message}")
            }
        }
    }
}
