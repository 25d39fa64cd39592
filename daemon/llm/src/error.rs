//! Everything that can go wrong between a question and its answer, closed and matchable.
//!
//! A variant is a decision somebody can take: fix the key, wait, choose another model, try another provider. The
//! provider's own words come along as [`Said`], which is bounded and never holds the key.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::said::Said;

/// The technical cause below an error of ours; kept as a source, not repeated in `Display`.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why there is no answer, or no complete one.
#[derive(Debug, thiserror::Error)]
pub enum LlmError {
    /// The key that it needs cannot be had now; nothing was sent.
    #[error("the provider's key cannot be had: {why}")]
    Key {
        /// Why, and what to do.
        why: String,
    },
    /// The provider does not accept the key, or the key may not do this (401, 403).
    #[error("the provider refused the credentials: {said}")]
    Auth {
        /// The provider's words.
        said: Said,
    },
    /// The account has nothing left; waiting does not help (402, `insufficient_quota`).
    #[error("the provider's quota is used up: {said}")]
    Quota {
        /// The provider's words.
        said: Said,
    },
    /// Too many requests or tokens in a short time (429).
    #[error("the provider limits the rate: {said}")]
    Rate {
        /// How long the provider asks us to wait, at most a day.
        retry_after: Option<Duration>,
        /// Whether it may be asked again; not where it says that it must not (`x-should-retry: false`).
        again: bool,
        /// The provider's words.
        said: Said,
    },
    /// The provider is up and cannot serve now (5xx).
    #[error("the provider cannot serve now: {said}")]
    Overload {
        /// How long the provider asks us to wait, at most a day.
        retry_after: Option<Duration>,
        /// As in [`LlmError::Rate`].
        again: bool,
        /// Whether it says that it has too much to do, whatever is asked. One that only fails may fail at this question.
        full: bool,
        /// The provider's words.
        said: Said,
    },
    /// The provider understood the request and does not take it; the same request will fail again.
    #[error("the provider rejected the request: {said}")]
    BadRequest {
        /// The provider's words.
        said: Said,
    },
    /// The conversation is longer than the model can read.
    #[error("the conversation does not fit the model's context: {said}")]
    ContextLength {
        /// The provider's words.
        said: Said,
    },
    /// The provider's filter refused the question.
    #[error("the provider's content filter refused the request: {said}")]
    ContentFilter {
        /// The provider's words.
        said: Said,
    },
    /// The provider knows no such model, or no such path (404).
    #[error("the provider does not know the model or the path: {said}")]
    NotFound {
        /// The provider's words.
        said: Said,
    },
    /// The network failed before an answer began.
    #[error("cannot {step} the provider")]
    Transport {
        /// Where it failed.
        step: Step,
        /// The cause, without the URL.
        source: Cause,
    },
    /// A limit of [`Timeouts`](crate::Timeouts) passed.
    #[error("the provider took longer than {after:?} {level}")]
    TimedOut {
        /// Which limit it was.
        level: Level,
        /// How long the limit is.
        after: Duration,
    },
    /// The provider answered something that is not its protocol.
    #[error("the provider's answer is not understood: {what}")]
    Malformed {
        /// What was wrong, bounded and free of control characters.
        what: String,
    },
    /// The stream ended before its terminator; what came before it is not the whole answer.
    #[error("the provider's answer was cut off")]
    Cut {
        /// The network's reason; `None` when the provider closed the stream in good order.
        source: Option<Cause>,
    },
    /// A bound was passed: ours on what a provider may send, or the provider's on the request (413).
    #[error("{what} is larger than allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
    },
    /// The provider is still loading the model (503 with its own mark); this is not an outage.
    #[error("the provider is still loading the model: {said}")]
    Loading {
        /// How long the provider asks us to wait, at most a day.
        retry_after: Option<Duration>,
        /// The provider's words.
        said: Said,
    },
}

/// Where the network failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The host name has no address.
    Resolve,
    /// No TCP connection.
    Connect,
    /// No trusted TLS session, or no certificate authorities on this host.
    Tls,
    /// The connection broke before the answer's header, or in the middle of an answer that is not a stream.
    Read,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "find the address of",
            Self::Connect => "connect to",
            Self::Tls => "make a trusted TLS session with",
            Self::Read => "read the answer of",
        })
    }
}

/// Which limit of [`Timeouts`](crate::Timeouts) passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Resolving, connecting and TLS together.
    Connect,
    /// From the request to the first record of the answer.
    FirstToken,
    /// Between two records of the answer.
    Stall,
    /// From the request to the end of the answer.
    Total,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "to accept a connection",
            Self::FirstToken => "to begin its answer",
            Self::Stall => "to go on with its answer",
            Self::Total => "to complete its answer",
        })
    }
}

impl LlmError {
    /// The stable word for programs: metrics, RPC errors, journal fields.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Key { .. } => "key",
            Self::Auth { .. } => "auth",
            Self::Quota { .. } => "quota",
            Self::Rate { .. } => "rate",
            Self::Overload { .. } => "overload",
            Self::BadRequest { .. } => "bad_request",
            Self::ContextLength { .. } => "context_length",
            Self::ContentFilter { .. } => "content_filter",
            Self::NotFound { .. } => "not_found",
            Self::Transport { .. } => "transport",
            Self::TimedOut { .. } => "timed_out",
            Self::Malformed { .. } => "malformed",
            Self::Cut { .. } => "cut",
            Self::TooLarge { .. } => "too_large",
            Self::Loading { .. } => "loading",
        }
    }

    /// What the operator can do about it, one sentence for people.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Key { .. } => {
                "see `pawctl secret list`, and `pawctl secret log` for what was refused"
            }
            Self::Auth { .. } => "check the provider's API key and what it is allowed to do",
            Self::Quota { .. } => {
                "check the account's plan and billing at the provider, or choose another provider"
            }
            Self::Rate { .. } => {
                "wait as long as the provider asks, send less at once, or choose another provider"
            }
            Self::Overload { .. } => "try again in a moment, or choose another provider",
            Self::BadRequest { .. } => {
                "read the provider's words; the same request will fail again"
            }
            Self::ContextLength { .. } => {
                "start a new session, shorten the message, or choose a model with a larger context"
            }
            Self::ContentFilter { .. } => "rephrase the message, or choose another model",
            Self::NotFound { .. } => {
                "check the model's name against the provider's list of models, and the provider's base_url"
            }
            Self::Transport { step, .. } => match step {
                Step::Resolve => "check the host name in base_url and this host's DNS",
                Step::Connect => {
                    "check that the provider is running and reachable at base_url from this host"
                }
                Step::Tls => {
                    "check the provider's certificate, this host's clock, and that ca-certificates is installed"
                }
                Step::Read => {
                    "the provider closed the connection; check that base_url speaks HTTP of the expected scheme, and its log"
                }
            },
            Self::TimedOut { level, .. } => match level {
                Level::Connect => {
                    "check that the provider is running and reachable, or raise timeouts.connect"
                }
                Level::FirstToken => {
                    "the model may be loading or the host busy; warm the model up or raise timeouts.first_token"
                }
                Level::Stall => "check the provider's load, or raise timeouts.stall",
                Level::Total => "ask for a shorter answer (max_tokens), or raise timeouts.total",
            },
            Self::Malformed { .. } => {
                "check that base_url is the API of a provider of the configured kind, not a web page or a proxy"
            }
            Self::Cut { .. } => {
                "the text so far is not the whole answer; ask again, and look into the provider's log if it happens often"
            }
            Self::TooLarge { .. } => {
                "shorten the message, or ask for a shorter answer (max_tokens of the agent); if neither is long, check what stands at base_url"
            }
            Self::Loading { .. } => "wait until the model is loaded",
        }
    }

    /// The error without what the provider said: providers quote questions, and a question is its author's alone.
    pub fn without_words(&self) -> &'static str {
        match self {
            Self::Key { .. } => "the provider's key cannot be had",
            Self::Auth { .. } => "the provider refused the credentials",
            Self::Quota { .. } => "the provider's quota is used up",
            Self::Rate { .. } => "the provider limits the rate",
            Self::Overload { .. } => "the provider cannot serve now",
            Self::BadRequest { .. } => "the provider rejected the request",
            Self::ContextLength { .. } => "the conversation does not fit the model's context",
            Self::ContentFilter { .. } => "the provider's content filter refused the request",
            Self::NotFound { .. } => "the provider does not know the model or the path",
            Self::Transport { step, .. } => match step {
                Step::Resolve => "cannot find the address of the provider",
                Step::Connect => "cannot connect to the provider",
                Step::Tls => "cannot make a trusted TLS session with the provider",
                Step::Read => "cannot read the answer of the provider",
            },
            Self::TimedOut { level, .. } => match level {
                Level::Connect => "the provider took too long to accept a connection",
                Level::FirstToken => "the provider took too long to begin its answer",
                Level::Stall => "the provider took too long to go on with its answer",
                Level::Total => "the provider took too long to complete its answer",
            },
            Self::Malformed { .. } => "the provider's answer is not understood",
            Self::Cut { .. } => "the provider's answer was cut off",
            Self::TooLarge { .. } => "the question or the answer is larger than allowed",
            Self::Loading { .. } => "the provider is still loading the model",
        }
    }

    /// The same error for somebody else, who waits for the same answer. What caused it is told as text.
    pub(crate) fn again(&self) -> Self {
        let cause = |source: &Cause| -> Cause {
            let mut text = source.to_string();
            let mut next = source.source();
            while let Some(error) = next {
                text.push_str(": ");
                text.push_str(&error.to_string());
                next = error.source();
            }
            text.into()
        };
        match self {
            Self::Key { why } => Self::Key { why: why.clone() },
            Self::Auth { said } => Self::Auth { said: said.clone() },
            Self::Quota { said } => Self::Quota { said: said.clone() },
            Self::Rate {
                retry_after,
                again,
                said,
            } => Self::Rate {
                retry_after: *retry_after,
                again: *again,
                said: said.clone(),
            },
            Self::Overload {
                retry_after,
                again,
                full,
                said,
            } => Self::Overload {
                retry_after: *retry_after,
                again: *again,
                full: *full,
                said: said.clone(),
            },
            Self::BadRequest { said } => Self::BadRequest { said: said.clone() },
            Self::ContextLength { said } => Self::ContextLength { said: said.clone() },
            Self::ContentFilter { said } => Self::ContentFilter { said: said.clone() },
            Self::NotFound { said } => Self::NotFound { said: said.clone() },
            Self::Transport { step, source } => Self::Transport {
                step: *step,
                source: cause(source),
            },
            Self::TimedOut { level, after } => Self::TimedOut {
                level: *level,
                after: *after,
            },
            Self::Malformed { what } => Self::Malformed { what: what.clone() },
            Self::Cut { source } => Self::Cut {
                source: source.as_ref().map(cause),
            },
            Self::TooLarge { what } => Self::TooLarge { what },
            Self::Loading { retry_after, said } => Self::Loading {
                retry_after: *retry_after,
                said: said.clone(),
            },
        }
    }

    /// How long the provider asks us to wait, at most a day.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rate { retry_after, .. }
            | Self::Overload { retry_after, .. }
            | Self::Loading { retry_after, .. } => *retry_after,
            Self::Key { .. }
            | Self::Auth { .. }
            | Self::Quota { .. }
            | Self::BadRequest { .. }
            | Self::ContextLength { .. }
            | Self::ContentFilter { .. }
            | Self::NotFound { .. }
            | Self::Transport { .. }
            | Self::TimedOut { .. }
            | Self::Malformed { .. }
            | Self::Cut { .. }
            | Self::TooLarge { .. } => None,
        }
    }
}
