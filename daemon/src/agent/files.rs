//! What a run wrote to a workspace becomes part of it, is thrown away or is taken back, by the permit of an action.
//!
//! It is in the audit log, on disk, before it is done. What a kill interrupts is not done a second time: the launcher's journal brings it to
//! an end, or leaves everything as it was, and whoever asked looks which (`interrupted`).

use paw_api::{
    Error, ErrorKind,
    audit::{Entry, Event},
    workspace::{Committed, Discarded, Undone},
};
use paw_launch::workspace::{Answer, WorkspaceRequest};
use paw_policy::{FileArguments, FileChange};
use paw_store::Caller;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Agents,
    change::{intake, refused},
};
use crate::{
    intake::not_what_was_shown,
    orchestrator::work::{Ending, Outcome},
    records::actor,
    workspaces::{as_shown, confused, unknown},
};

/// Does it.
pub(super) async fn decide(agents: &Agents, by: (Uuid, &Caller), asked: FileArguments) -> Outcome {
    match done(agents, by, &asked).await {
        Ok(result) => Outcome::plain(Ending::Completed(result)),
        Err(error) => refused(error),
    }
}

async fn done(
    agents: &Agents,
    (action, caller): (Uuid, &Caller),
    asked: &FileArguments,
) -> Result<Value, Error> {
    let workspaces = &intake(agents)?.workspaces;
    let about = &asked.layer;
    let id = about.parse().map_err(|_| unknown(about))?;
    let (event, request) = match (asked.change, asked.digest, &asked.last) {
        (FileChange::Commit, Some(digest), None) => {
            let request = WorkspaceRequest::Commit { id, digest };
            (Event::WorkspaceCommitted, request)
        }
        (FileChange::Discard, Some(digest), None) => {
            // The launcher throws away what is there; that is still what was judged.
            if workspaces.waits(about, 0, caller).await?.digest != digest {
                return Err(not_what_was_shown(about));
            }
            (Event::WorkspaceDiscarded, WorkspaceRequest::Discard { id })
        }
        (FileChange::Undo, None, Some(last)) => {
            let last = last.parse().map_err(|_| unknown(last))?;
            (Event::WorkspaceUndone, WorkspaceRequest::Undo { id, last })
        }
        (FileChange::Commit | FileChange::Discard | FileChange::Undo, ..) => {
            let message = "a plan that names both a digest and a last commit, or neither";
            return Err(Error::new(ErrorKind::Internal, message, "report it"));
        }
    };
    let mut entry = Entry::new(event);
    entry.action = Some(action);
    entry.actor = Some(actor(caller));
    entry.digest = asked.digest;
    let counted = match asked.change {
        FileChange::Commit | FileChange::Discard => "changes",
        FileChange::Undo => "commits",
    };
    let mut detail = |key: &str, value: String| drop(entry.detail.insert(key.into(), value));
    detail("sandbox", about.clone());
    detail("workspace", asked.workspace.to_string());
    detail(counted, asked.count.to_string());
    agents
        .audit
        .durable(entry)
        .await
        .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string(), error.remedy()))?;
    Ok(match workspaces.done(about, request).await? {
        Answer::Committed(committed) => json!(as_shown::<Committed>(&committed)?),
        Answer::Discarded { changes } => json!(Discarded { changes }),
        Answer::Undone { layers } => json!(Undone {
            layers: layers.iter().map(ToString::to_string).collect(),
        }),
        _ => return Err(confused()),
    })
}
