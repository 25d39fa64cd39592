//! How a run of a job came out: as its action ended.

use paw_policy::State;
use paw_store::{ActionRecord, RunOutcome};
use tokio::sync::broadcast::error::RecvError;
use uuid::Uuid;

use crate::{orchestrator::handle::Actions, storage::Storage};

/// How an action ends, once it has.
pub(super) async fn come_to(
    actions: &Actions,
    storage: &Storage,
    action: Uuid,
) -> (RunOutcome, Option<String>) {
    // Listening begins before the first look, so that no change falls in between.
    let mut changes = actions.changes();
    loop {
        match storage.read().action(action) {
            Ok(Some(record)) if record.state.is_final() => return outcome(&record),
            Ok(Some(_)) => {}
            Ok(None) => {
                let note = "its action is not in the store: pawd ended before it was accepted";
                return (RunOutcome::Unknown, Some(note.into()));
            }
            Err(error) => {
                return (
                    RunOutcome::Unknown,
                    Some(paw_log::Chain(&error).to_string()),
                );
            }
        }
        loop {
            match changes.recv().await {
                Ok(change) if change.id == action => break,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => break,
                // pawd ends; its next life looks for the outcome.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

fn outcome(record: &ActionRecord) -> (RunOutcome, Option<String>) {
    let (kind, message) = match &record.error {
        Some(failure) => (failure.kind.as_str(), Some(failure.message.clone())),
        None => ("", None),
    };
    let outcome = match record.state {
        State::Completed => RunOutcome::Ok,
        State::TimedOut | State::Expired => RunOutcome::TimedOut,
        State::Failed if kind == "interrupted" => RunOutcome::Unknown,
        State::Failed | State::Rejected | State::Cancelled => RunOutcome::Failed,
        State::Queued | State::WaitingApproval | State::Approved | State::Executing => {
            RunOutcome::Unknown
        }
    };
    let note =
        (outcome != RunOutcome::Ok).then(|| message.unwrap_or_else(|| record.state.to_string()));
    (outcome, note)
}
