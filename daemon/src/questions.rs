//! Questions that sandboxes cause: what one was refused for want of a rule becomes an action, where policy asks a person.
//!
//! It knows neither what was refused before nor how often; whoever sends here bounds that for each run.

use paw_policy::Decision;
use tokio::sync::mpsc;

use crate::{agent::net::Ask, intake::Intake, orchestrator::handle::Actions};

/// Questions that may wait to be asked.
const WAITING: usize = 32;

/// Where questions go, and where they come out.
#[must_use]
pub fn channel() -> (mpsc::Sender<Ask>, mpsc::Receiver<Ask>) {
    mpsc::channel(WAITING)
}

/// Asks what comes, until nobody sends any more.
pub async fn ask(mut asked: mpsc::Receiver<Ask>, intake: Intake, actions: Actions) {
    while let Some(ask) = asked.recv().await {
        let sandbox = ask.sandbox.clone();
        let submitted = match intake.judge_ask(ask) {
            // What policy denies is on record as a refusal already; an action for each would be noise that a sandbox can make.
            Ok(submission) if submission.record.decision == Decision::Deny => continue,
            Ok(submission) => actions.submit(submission).await,
            Err(error) => Err(error),
        };
        if let Err(error) = submitted {
            tracing::debug!(paw_sandbox = %sandbox, error = error.message, "nobody is asked");
        }
    }
}
