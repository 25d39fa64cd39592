//! A change of what the vault keeps becomes a plan that says all of it but the value, which is in no plan and no record.
//!
//! What cannot be is refused before there is a plan: a name that was mistyped may be a value, and is not kept.

use paw_api::{Error, ErrorKind};
use paw_policy::{Operation, SecretArguments, SecretChange};
use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::arguments::read;
use crate::{
    orchestrator::work::Progress,
    secrets::{Secrets, admin::user_of, told},
};

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretAsked {
    change: SecretChange,
    name: String,
    #[serde(default)]
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    user: Option<String>,
    version: Option<u64>,
    keep_ms: Option<u64>,
}

/// Whether a change of what is configured is one of a secret.
pub(super) fn is_one(arguments: &Map<String, Value>) -> bool {
    let change = arguments.get("change").and_then(Value::as_str);
    change.is_some_and(|change| change.starts_with("secret."))
}

/// The plan of what is asked, for which this goes with it.
pub(super) fn change(
    secrets: &Secrets,
    arguments: Map<String, Value>,
    beside: &Progress,
) -> Result<Operation, Error> {
    let SecretAsked { change, name, spec } = read(arguments)?;
    let invalid = |message: &str, hint: &str| Error::new(ErrorKind::Invalid, message, hint);
    paw_vault::check_name(&name).map_err(|error| told(&error.into()))?;
    let takes_value = matches!(change, SecretChange::Set | SecretChange::Rotate);
    let takes_user = matches!(change, SecretChange::Allow | SecretChange::Deny);
    if takes_value != matches!(beside, Progress::Value(_)) {
        let message = "a value is never said in the arguments of an action, which are kept";
        let hint = "use `pawctl secret set` or `pawctl secret rotate`, which ask for it";
        return Err(invalid(message, hint));
    }
    if takes_user != spec.user.is_some()
        || (spec.version.is_some() && change != SecretChange::Remove)
        || (spec.keep_ms.is_some() && change != SecretChange::Rotate)
    {
        let message = format!("{} does not take that", change.as_str());
        let hint = "it is \"user\" of allow and deny, \"version\" of remove, \"keep_ms\" of rotate";
        return Err(invalid(&message, hint));
    }
    let user = spec.user.as_deref().map(user_of).transpose()?;
    match change {
        SecretChange::Set => secrets.has_none(&name)?,
        SecretChange::Rotate | SecretChange::Remove | SecretChange::Allow | SecretChange::Deny => {
            drop(secrets.show(&name)?);
        }
    }
    Ok(Operation::SecretChange(SecretArguments {
        change,
        secret: name,
        user: user.map(|user| user.to_string()),
        version: spec.version,
        keep_ms: spec.keep_ms,
        value: takes_value.then(|| Uuid::new_v4().to_string()),
    }))
}
