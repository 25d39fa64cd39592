//! Error bodies of all dialects, and the one place that decides what kind of error each is.
//!
//! The shapes seen in the wild: `{"error": {message, type, param, code}}` (OpenAI; llama.cpp with a number as code),
//! `{"error": "text"}` (Ollama), `{"object": "error", message, type, code}` (Mistral, vLLM), `{"detail": …}` (FastAPI),
//! plain text or a web page (proxies). A provider's own code tells more than the HTTP status, so it is asked first.

use std::time::Duration;

use serde_json::Value;

use crate::error::LlmError;
use crate::said::Mask;

/// No provider is believed that it needs longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// What an error body says, in one shape.
#[derive(Default)]
struct Fault {
    message: String,
    /// The provider's own words for the kind: `code` and `type`, lower case.
    words: [String; 2],
    /// A status inside the body: the only one there is for an error inside a stream.
    status: Option<u16>,
}

/// Decides what an error body means. `status` is the HTTP status, `None` for an error inside a stream.
pub(crate) fn judge(
    status: Option<u16>,
    body: &[u8],
    retry_after: Option<Duration>,
    mask: &Mask,
) -> LlmError {
    let fault = read(body);
    let said = mask.clean(&fault.message);
    let message = fault.message.to_lowercase();
    for word in &fault.words {
        match word.as_str() {
            "insufficient_quota" | "billing_hard_limit_reached" | "billing_not_active" => {
                return LlmError::Quota { said };
            }
            "context_length_exceeded" | "exceed_context_size_error" => {
                return LlmError::ContextLength { said };
            }
            "content_filter" | "content_policy_violation" => {
                return LlmError::ContentFilter { said };
            }
            "model_not_found" | "deploymentnotfound" => return LlmError::NotFound { said },
            "invalid_api_key" | "authentication_error" => return LlmError::Auth { said },
            "rate_limit_exceeded" | "rate_limit_error" => {
                return LlmError::Rate { retry_after, said };
            }
            _ => {}
        }
    }
    let invalid = fault
        .words
        .iter()
        .any(|word| word == "invalid_request_error" || word == "badrequesterror");
    match status
        .or(fault.status)
        .unwrap_or(if invalid { 400 } else { 500 })
    {
        401 | 403 => LlmError::Auth { said },
        402 => LlmError::Quota { said },
        404 | 410 => LlmError::NotFound { said },
        413 => LlmError::TooLarge {
            what: "the request",
        },
        429 => LlmError::Rate { retry_after, said },
        // vLLM and others have no code for it, only the sentence.
        400..=499
            if ["context length", "context window", "context size"]
                .iter()
                .any(|words| message.contains(words)) =>
        {
            LlmError::ContextLength { said }
        }
        400..=499 => LlmError::BadRequest { said },
        503 if message.contains("loading") => LlmError::Loading { retry_after, said },
        500..=599 => LlmError::Overload { retry_after, said },
        other => LlmError::Malformed {
            what: format!("the HTTP status {other} has no meaning here"),
        },
    }
}

/// The wait a provider asks for: `retry-after-ms` is the finer one, `retry-after` is in seconds. The form with a date is
/// not read: it needs a clock that agrees with the provider's, and no model provider was seen to send it.
pub(crate) fn wait(retry_after_ms: Option<&str>, retry_after: Option<&str>) -> Option<Duration> {
    let number = |text: &str, unit: f64| {
        let seconds = text.trim().parse::<f64>().ok()? * unit;
        if seconds > LONGEST_WAIT.as_secs_f64() {
            return Some(LONGEST_WAIT);
        }
        // Negative numbers and NaN are nothing.
        Duration::try_from_secs_f64(seconds).ok()
    };
    retry_after_ms
        .and_then(|text| number(text, 0.001))
        .or_else(|| retry_after.and_then(|text| number(text, 1.0)))
}

fn read(body: &[u8]) -> Fault {
    let text = String::from_utf8_lossy(body);
    let Ok(Value::Object(mut outer)) = serde_json::from_str(&text) else {
        let page = text.trim_start().starts_with('<');
        return Fault {
            message: if page {
                "a web page instead of an error".to_owned()
            } else {
                text.into_owned()
            },
            ..Fault::default()
        };
    };
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
    Fault {
        message: match object.get("message").or_else(|| object.get("detail")) {
            Some(Value::String(message)) => message.clone(),
            Some(other) => other.to_string(),
            None => text.into_owned(),
        },
        words: [code, object.get("type")].map(|value| {
            value
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_lowercase()
        }),
        status: code
            .and_then(|code| code.as_u64().or_else(|| code.as_str()?.parse().ok()))
            .and_then(|code| u16::try_from(code).ok()),
    }
}
