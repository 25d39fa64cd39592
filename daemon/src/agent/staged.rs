//! What a person's command wrote to a workspace: kept until somebody decides on it, and told with the command's end.

use paw_api::workspace::{LeftOut, RunLayer};
use paw_launch::{request::SandboxId, workspace::Settle};
use serde_json::Value;

use super::Agents;
use crate::{
    orchestrator::work::{Ending, Outcome},
    sandbox,
};

/// Keeps it, if the command came to its end; otherwise the plan of its sandbox says what becomes of it. That this failed is told
/// with the command's own end, which is not changed by it.
pub(super) async fn staged(
    agents: &Agents,
    id: SandboxId,
    agent: String,
    mut outcome: Outcome,
) -> Outcome {
    if !matches!(outcome.ending, Ending::Completed(_)) {
        return outcome;
    }
    let layer = match sandbox::settle(agents.launchers.usual(), id, Settle::Stage).await {
        Ok(settled) => {
            let then = if settled.changes > 0 {
                "stage"
            } else {
                "discard"
            };
            let left_out = settled.left_out.into_iter();
            RunLayer {
                agent,
                then: then.into(),
                changes: settled.changes,
                left_out: left_out
                    .map(|it| LeftOut {
                        path: it.path,
                        why: it.why,
                    })
                    .collect(),
            }
        }
        Err(error) => RunLayer {
            agent,
            then: "discard".into(),
            changes: 0,
            left_out: vec![LeftOut {
                path: ".".into(),
                why: format!("{}; {}", paw_log::Chain(&error), error.remedy()),
            }],
        },
    };
    if let Ending::Completed(Value::Object(result)) = &mut outcome.ending {
        let layer = serde_json::to_value(layer).unwrap_or(Value::Null);
        result.insert("workspace".into(), layer);
    }
    outcome
}
