//! Why a change of what is registered cannot be meant.

use paw_api::{Error, ErrorKind};

use crate::{
    config::{Config, Fault, Faults},
    providers::register::Change,
};

/// A change takes nothing away from an agent that was registered, and names nothing that there is not.
pub(super) fn no_further_strays(
    change: &Change,
    before: &Config,
    after: &Config,
) -> Result<(), Error> {
    let mut further = after.strays.iter();
    let Some(stray) = further.find(|stray| !before.strays.contains(stray)) else {
        return Ok(());
    };
    let (about, name) = change.about();
    let kind = match change.agent() {
        Some(agent) if agent == stray.agent.as_str() => ErrorKind::Invalid,
        Some(_) | None => ErrorKind::Conflict,
    };
    let message = match kind {
        ErrorKind::Invalid => format!("agent {}: {}", stray.agent, stray.message),
        _ => format!(
            "agent {} does not agree with that {about}: {}",
            stray.agent, stray.message
        ),
    };
    Err(Error::new(kind, message, stray.hint.clone()).about(name))
}

/// Faults of what was asked for are the caller's; those that it makes elsewhere say where it is needed.
pub(super) fn cannot_be_meant(change: &Change, faults: &Faults, ours: &str) -> Error {
    let (about, name) = change.about();
    let about = format!("{about} {name}");
    let (own, elsewhere): (Vec<&Fault>, Vec<&Fault>) =
        faults.0.iter().partition(|fault| fault.file == ours);
    let words = |faults: &[&Fault]| {
        let each = faults.iter().map(|fault| fault.message.clone());
        each.collect::<Vec<_>>().join("; ")
    };
    match (own.first(), elsewhere.first()) {
        (Some(first), _) => {
            let message = format!("{about}: {}", words(&own));
            Error::new(ErrorKind::Invalid, message, first.hint.clone()).about(name)
        }
        (None, Some(first)) => {
            let place = format!("{}:{}", first.file, first.line);
            let message = format!("{about} is needed in {place}: {}", words(&elsewhere));
            let hint = "change that first, then run `pawctl config reload`";
            Error::new(ErrorKind::Conflict, message, hint).about(name)
        }
        (None, None) => Error::new(ErrorKind::Internal, "faults without a fault", "report it"),
    }
}
