//! What the vault keeps changes, or who may use it, by the permit of an action. The value came beside the plan and is had once.

use paw_api::{Error, ErrorKind};
use paw_policy::{SecretArguments, SecretChange};
use paw_store::Caller;
use serde_json::json;

use super::change::refused;
use crate::{
    orchestrator::work::{Ending, Outcome, Progress},
    secrets::Secrets,
};

/// Changes it.
pub(super) async fn change(
    secrets: &Secrets,
    caller: &Caller,
    asked: SecretArguments,
    progress: Progress,
) -> Outcome {
    let value = match progress {
        Progress::Value(value) => Some(value),
        Progress::None
        | Progress::Chat(_)
        | Progress::Switch(_)
        | Progress::Pull { .. }
        | Progress::Run { .. } => None,
    };
    let name = asked.secret.as_str();
    let changed = match (asked.change, value, asked.user.as_deref()) {
        (SecretChange::Set, Some(value), _) => secrets.set(caller, name, value).await,
        (SecretChange::Rotate, Some(value), _) => {
            let keep = asked.keep_ms.unwrap_or(0);
            secrets.rotate(caller, name, value, keep).await
        }
        (SecretChange::Set | SecretChange::Rotate, None, _) => Err(Error::new(
            ErrorKind::Unavailable,
            "the value was in memory alone, and pawd has been started again since this was asked for",
            "nothing has changed; say it again",
        )),
        (SecretChange::Remove, ..) => secrets.remove(caller, name, asked.version).await,
        (SecretChange::Allow, _, Some(user)) => secrets.let_use(caller, name, user, true).await,
        (SecretChange::Deny, _, Some(user)) => secrets.let_use(caller, name, user, false).await,
        (SecretChange::Allow | SecretChange::Deny, _, None) => Err(Error::new(
            ErrorKind::Internal,
            "a plan that names nobody",
            "report it",
        )),
    };
    match changed {
        Ok(secret) => Outcome::plain(Ending::Completed(json!(secret))),
        Err(error) => refused(error),
    }
}
