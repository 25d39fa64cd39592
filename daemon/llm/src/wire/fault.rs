//! Error bodies of all dialects, and the one place that decides what kind of error each is.
//!
//! The shapes seen in the wild: `{"error": {message, type, param, code}}` (OpenAI; llama.cpp with a number as code),
//! `{"error": "text"}` (Ollama), `{"object": "error", message, type, code}` (Mistral, vLLM), `{"detail": …}` (FastAPI),
//! plain text or a web page (proxies). A provider's own code tells more than the HTTP status, so it is asked first.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822};
use serde_json::Value;

use crate::error::LlmError;
use crate::said::Mask;

/// No provider is believed that it needs longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// What an error body says, in one shape.
#[derive(Default)]
struct Fault {
    message: String,
    /// The provider's own words for the kind, lower case: `code`, `type`, `status`, and the reasons in Google's details.
    words: Vec<String>,
    /// A status inside the body: the only one there is for an error inside a stream.
    status: Option<u16>,
    /// How long to wait, where the body says it.
    wait: Option<Duration>,
    /// Whether a quota of a day is what is used up.
    is_used_up: bool,
}

/// What the headers of a refusal ask for. A refusal inside a stream has none: those of the success that it stands in mean nothing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    /// How long to wait.
    pub(crate) wait: Option<Duration>,
    /// Whether to ask again at all.
    pub(crate) again: Option<bool>,
}

/// Decides what an error body means. `status` is the HTTP status, `None` for an error inside a stream.
pub(crate) fn judge(status: Option<u16>, body: &[u8], wish: Wish, mask: &Mask) -> LlmError {
    match (classify(status, body, wish, mask), wish.again) {
        // It has a reason of its own to believe that the same request will be taken later.
        (LlmError::BadRequest { said }, Some(true)) => LlmError::Overload {
            retry_after: wish.wait,
            again: true,
            full: false,
            said,
        },
        (error, _) => error,
    }
}

fn classify(status: Option<u16>, body: &[u8], wish: Wish, mask: &Mask) -> LlmError {
    let fault = read(body);
    let said = mask.clean(&fault.message);
    let retry_after = wish.wait.or(fault.wait);
    let again = wish.again.unwrap_or(true);
    let message = fault.message.to_lowercase();
    if fault.is_used_up || USED_UP.iter().any(|words| message.contains(words)) {
        return LlmError::Quota { said };
    }
    for word in &fault.words {
        match word.as_str() {
            "insufficient_quota"
            | "billing_hard_limit_reached"
            | "billing_not_active"
            | "billing_error" => {
                return LlmError::Quota { said };
            }
            "context_length_exceeded" | "exceed_context_size_error" => {
                return LlmError::ContextLength { said };
            }
            "content_filter" | "content_policy_violation" => {
                return LlmError::ContentFilter { said };
            }
            "model_not_found" | "deploymentnotfound" | "not_found_error" => {
                return LlmError::NotFound { said };
            }
            "invalid_api_key"
            | "authentication_error"
            | "permission_error"
            | "api_key_invalid"
            | "unauthenticated"
            | "permission_denied" => {
                return LlmError::Auth { said };
            }
            "rate_limit_exceeded" | "rate_limit_error" | "rate_limited" | "resource_exhausted" => {
                return LlmError::Rate {
                    retry_after,
                    again,
                    said,
                };
            }
            "overloaded_error" | "unavailable" => {
                return LlmError::Overload {
                    retry_after,
                    again,
                    full: true,
                    said,
                };
            }
            "request_too_large" => {
                return LlmError::TooLarge {
                    what: "the request",
                };
            }
            _ => {}
        }
    }
    let invalid = fault.words.iter().any(|word| {
        matches!(
            word.as_str(),
            "invalid_request_error" | "badrequesterror" | "invalid_argument"
        )
    });
    let status = status.or(fault.status);
    match status.unwrap_or(if invalid { 400 } else { 500 }) {
        401 | 403 => LlmError::Auth { said },
        402 => LlmError::Quota { said },
        404 | 410 => LlmError::NotFound { said },
        413 => LlmError::TooLarge {
            what: "the request",
        },
        429 => LlmError::Rate {
            retry_after,
            again,
            said,
        },
        503 if message.contains("loading") => LlmError::Loading { retry_after, said },
        // Of the others, those that say that the moment was wrong: a timeout, a conflict, too early.
        408 | 409 | 425 | 500..=599 => LlmError::Overload {
            retry_after,
            again,
            full: matches!(status, Some(503 | 529)),
            said,
        },
        // Many have no code for it, only the sentence.
        400..=499 if TOO_LONG.iter().any(|words| message.contains(words)) => {
            LlmError::ContextLength { said }
        }
        400..=499 if FILTERED.iter().any(|words| message.contains(words)) => {
            LlmError::ContentFilter { said }
        }
        400..=499 => LlmError::BadRequest { said },
        other => LlmError::Malformed {
            what: format!("the HTTP status {other} has no meaning here"),
        },
    }
}

/// How providers say that the account has nothing left where they have no code for it: Anthropic, Ollama's cloud.
const USED_UP: [&str; 3] = [
    "credit balance is too low",
    "weekly usage limit",
    "monthly usage limit",
];

/// How providers say that the conversation does not fit: vLLM and llama.cpp, Anthropic, Google, Mistral.
const TOO_LONG: [&str; 6] = [
    "context length",
    "context window",
    "context size",
    "prompt is too long",
    "input token count",
    "too large for model",
];

/// How providers say that their filter refused: Azure, Anthropic.
const FILTERED: [&str; 2] = ["content management policy", "content filtering policy"];

/// What the headers of a refusal say of asking again. Headers of a success say the same things and mean nothing.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Hints<'a> {
    /// `retry-after-ms`, the finest one.
    pub(crate) retry_after_ms: Option<&'a str>,
    /// `retry-after`, in seconds or as a date.
    pub(crate) retry_after: Option<&'a str>,
    /// `date`: what the provider's clock says. Dates are compared with it, so that our clock need not agree.
    pub(crate) date: Option<&'a str>,
    /// What remains of a limit with when it is full again: of requests, then of tokens.
    pub(crate) resets: [(Option<&'a str>, Option<&'a str>); 6],
    /// `x-should-retry`.
    pub(crate) should_retry: Option<&'a str>,
}

/// The headers of [`Hints::resets`]: what remains, and when it is full again.
pub(crate) const RESETS: [(&str, &str); 6] = [
    (
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    (
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ),
    (
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset",
    ),
    (
        "anthropic-ratelimit-input-tokens-remaining",
        "anthropic-ratelimit-input-tokens-reset",
    ),
    (
        "anthropic-ratelimit-output-tokens-remaining",
        "anthropic-ratelimit-output-tokens-reset",
    ),
];

impl Hints<'_> {
    /// What the provider asks for, `now` by our clock. Resets count only where nothing remains: they always say when the bucket is
    /// full.
    pub(crate) fn wish(self, now: Timestamp) -> Wish {
        let now = self.date.and_then(http_date).unwrap_or(now);
        let until = |then: Timestamp| Duration::try_from(then.duration_since(now)).ok();
        let instant = |text: &str| until(text.trim().parse().ok()?).map(bounded);
        let reset = self
            .resets
            .into_iter()
            .filter(|(remaining, _)| remaining.is_some_and(|left| left.trim() == "0"))
            .filter_map(|(_, reset)| go_duration(reset?).or_else(|| instant(reset?)))
            .max();
        let after =
            |text: &str| number(text, 1.0).or_else(|| http_date(text).and_then(until).map(bounded));
        Wish {
            wait: self
                .retry_after_ms
                .and_then(|text| number(text, 0.001))
                .or_else(|| self.retry_after.and_then(after))
                .or(reset),
            again: match self.should_retry.map(str::trim) {
                Some("true") => Some(true),
                Some("false") => Some(false),
                _ => None,
            },
        }
    }
}

/// `Wed, 21 Oct 2026 07:28:00 GMT`; older forms are not sent by anybody any more.
fn http_date(text: &str) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new()
        .parse_timestamp(text.trim())
        .ok()
}

fn bounded(wait: Duration) -> Duration {
    wait.min(LONGEST_WAIT)
}

fn number(text: &str, unit: f64) -> Option<Duration> {
    seconds(text.trim().parse::<f64>().ok()? * unit)
}

/// Bounded; negative numbers and NaN are nothing.
fn seconds(seconds: f64) -> Option<Duration> {
    if seconds > LONGEST_WAIT.as_secs_f64() {
        return Some(LONGEST_WAIT);
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// A duration as Go writes it: `12ms`, `1.182s`, `6m0s`, `1h2m3s`; a number alone is seconds (Azure).
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    if let Ok(plain) = rest.parse::<f64>() {
        return seconds(plain);
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .filter(|at| *at > 0)?;
        let (count, unit_and_rest) = rest.split_at(digits);
        let unit_end = unit_and_rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(unit_and_rest.len());
        let (unit, after) = unit_and_rest.split_at(unit_end);
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += count.parse::<f64>().ok()? * unit;
        rest = after;
    }
    seconds(total)
}

fn read(body: &[u8]) -> Fault {
    let text = String::from_utf8_lossy(body);
    let outer = match serde_json::from_str(&text) {
        Ok(Value::Object(outer)) => outer,
        // Google answers a stream that was not asked for as events with a list.
        Ok(Value::Array(list)) => match list.into_iter().next() {
            Some(Value::Object(first)) => first,
            _ => return words_only(&text),
        },
        _ => return words_only(&text),
    };
    let mut outer = outer;
    let object = match outer.remove("error") {
        Some(Value::Object(inner)) => inner,
        Some(Value::String(message)) => {
            return Fault {
                message,
                ..Fault::default()
            };
        }
        _ => outer,
    };
    let code = object.get("code");
    let details = object
        .get("details")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let reasons = details.iter().map(|detail| detail.get("reason"));
    // Google calls what is full again in a minute and what is full again tomorrow by one name; only the quota's own tells.
    let quotas = details
        .iter()
        .filter_map(|detail| detail.get("violations")?.as_array())
        .flatten()
        .filter_map(|violation| violation.get("quotaId")?.as_str());
    Fault {
        message: match object.get("message").or_else(|| object.get("detail")) {
            Some(Value::String(message)) => message.clone(),
            Some(other) => other.to_string(),
            None => text.into_owned(),
        },
        words: reasons
            .chain([code, object.get("type"), object.get("status")])
            .filter_map(|value| Some(value?.as_str()?.to_lowercase()))
            .collect(),
        status: code
            .and_then(|code| code.as_u64().or_else(|| code.as_str()?.parse().ok()))
            .and_then(|code| u16::try_from(code).ok())
            // Mistral numbers its errors otherwise.
            .filter(|code| (400..600).contains(code)),
        wait: details
            .iter()
            .find_map(|detail| go_duration(detail.get("retryDelay")?.as_str()?)),
        is_used_up: quotas.into_iter().any(|id| id.contains("PerDay")),
    }
}

fn words_only(text: &str) -> Fault {
    let page = text.trim_start().starts_with('<');
    Fault {
        message: if page {
            "a web page instead of an error".to_owned()
        } else {
            text.to_owned()
        },
        ..Fault::default()
    }
}
