//! What is said of a model, and what becomes of it, as callers hear it.

use std::{sync::Arc, time::Duration};

use paw_api::{Error, ErrorKind};
use paw_llm::LlmError;
use paw_policy::Name;

use super::ready::NotReady;
use crate::{
    config::value,
    providers::{Known, Providers},
    records::shorten,
};

/// How long a model may take to be ready where the caller does not say.
const READY_LIMIT: Duration = Duration::from_secs(5 * 60);

/// The longest that a caller may say.
const READY_MOST: Duration = Duration::from_secs(60 * 60);

/// The name of a model, if it can be one.
///
/// # Errors
/// `invalid`, with what may be one.
pub fn named(model: String) -> Result<String, Error> {
    value::model(&model).map_err(|hint| {
        Error::new(
            ErrorKind::Invalid,
            "that cannot be the name of a model",
            hint,
        )
    })
}

/// How long a model may take to be ready.
///
/// # Errors
/// `invalid` for no time at all, and for more than an hour.
pub fn limit(timeout_ms: Option<u64>) -> Result<Duration, Error> {
    let limit = timeout_ms.map_or(READY_LIMIT, Duration::from_millis);
    if limit.is_zero() || limit > READY_MOST {
        let message = format!("a model is given {} ms to be ready", limit.as_millis());
        let hint = format!("use 1 to {} ms", READY_MOST.as_millis());
        return Err(Error::new(ErrorKind::Invalid, message, hint));
    }
    Ok(limit)
}

/// The provider of this name, if it is asked anything now.
///
/// # Errors
/// `unavailable` while it waits for something, `not_found` when there is none.
pub fn known(providers: &Providers, name: &str) -> Result<(Name, Arc<Known>), Error> {
    if let Some(waits) = providers.waits(name) {
        let message = format!("provider {name}: {waits}");
        return Err(Error::new(ErrorKind::Unavailable, message, waits.remedy()).about(name));
    }
    match providers.get(name) {
        Some((name, known)) => Ok((name.clone(), Arc::clone(known))),
        None => Err(unknown(name)),
    }
}

/// There is no provider of this name.
#[must_use]
pub fn unknown(name: &str) -> Error {
    let name = shorten(name);
    let message = format!("there is no provider {name}");
    Error::new(ErrorKind::NotFound, message, "see `pawctl provider list`").about(name)
}

/// An error of a provider, as an error to a caller.
#[must_use]
pub fn failed(name: &Name, model: &str, error: &LlmError) -> Error {
    let kind = match error {
        LlmError::TimedOut { .. } => ErrorKind::TimedOut,
        LlmError::Rate { .. } => ErrorKind::Busy,
        LlmError::Loading { .. } | LlmError::Overload { .. } | LlmError::Transport { .. } => {
            ErrorKind::Unavailable
        }
        LlmError::Key { .. }
        | LlmError::Auth { .. }
        | LlmError::Quota { .. }
        | LlmError::BadRequest { .. }
        | LlmError::ContextLength { .. }
        | LlmError::ContentFilter { .. }
        | LlmError::NotFound { .. }
        | LlmError::Malformed { .. }
        | LlmError::Cut { .. }
        | LlmError::TooLarge { .. } => ErrorKind::Failed,
    };
    let what = error.kind();
    let message = format!(
        "provider {name} ({model}): {what}: {}",
        paw_log::Chain(error)
    );
    let told = Error::new(kind, message, error.hint()).about(name.as_str());
    match error.retry_after() {
        Some(wait) => told.retry_after_ms(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        None => told,
    }
}

/// Why a model is not ready, as an error to a caller.
#[must_use]
pub fn not_ready((name, known): (&Name, &Known), model: &str, error: &NotReady) -> Error {
    let (kind, hint) = match error {
        NotReady::Failed(error @ LlmError::NotFound { .. }) if known.client.holds_models() => {
            let hint = format!("fetch it first: `pawctl model pull {model} --provider {name}`");
            let told = failed(name, model, error);
            return Error::new(ErrorKind::NotFound, told.message, hint).about(name.as_str());
        }
        NotReady::Failed(error) => return failed(name, model, error),
        NotReady::Unlisted { listed } => (
            ErrorKind::NotFound,
            format!(
                "it lists: {}; if it has one that it does not list, say --unlisted",
                listed.join(", ")
            ),
        ),
        NotReady::Late(_) => (
            ErrorKind::TimedOut,
            "give it longer with --timeout, or see what keeps the provider busy".to_owned(),
        ),
    };
    let message = format!("provider {name} ({model}): {error}");
    Error::new(kind, message, hint).about(name.as_str())
}
