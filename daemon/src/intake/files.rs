//! What becomes of what a run wrote to a workspace: what waits, or was committed, becomes a plan that says all of it.
//!
//! Whose it is stands before everything: a layer of somebody else is as if it were not there. What policy says comes after that.

use paw_api::{Error, ErrorKind};
use paw_launch::{request::SandboxId, workspace::Change};
use paw_policy::{Digest, FileArguments, FileChange, Operation};
use paw_store::Caller;
use serde::Deserialize;

use super::{Asked, arguments::read};
use crate::{
    records::shorten_to,
    workspaces::{Workspaces, unknown},
};

/// Lines that a plan has of what it changes. All of it is bound by the digest; a person sees it with `pawctl workspace diff`.
const LINES: usize = 100;

/// Characters of one of them.
const LINE: usize = 300;

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilesAsked {
    change: FileChange,
    /// The sandbox that wrote it.
    id: String,
    /// What was shown of it; of a commit always, of an undo never.
    digest: Option<Digest>,
}

/// The plan of what is asked.
pub(super) async fn operation(
    workspaces: &Workspaces,
    asked: Asked,
    caller: &Caller,
) -> Result<Operation, Error> {
    let FilesAsked { change, id, digest } = read(asked.arguments)?;
    let layer: SandboxId = id.parse().map_err(|_| unknown(&id))?;
    let arguments = match (change, digest) {
        (FileChange::Commit, None) => {
            let hint = "give the one that `pawctl workspace diff` shows";
            let message = "a commit names the digest of what was shown";
            return Err(Error::new(ErrorKind::Invalid, message, hint).about(id));
        }
        (FileChange::Undo, Some(_)) => {
            let message = "an undo is of a commit, which needs no digest";
            return Err(Error::new(ErrorKind::Invalid, message, "leave it out").about(id));
        }
        (FileChange::Commit | FileChange::Discard, shown) => {
            let diff = workspaces.waits(&id, 0, caller).await?;
            if shown.is_some_and(|shown| shown != diff.digest) {
                return Err(not_what_was_shown(&id));
            }
            FileArguments {
                change,
                workspace: workspaces.of_waiting(&layer).await?,
                layer: id,
                owner: diff.owner,
                digest: Some(diff.digest),
                last: None,
                count: diff.total,
                difference: first(diff.changes.iter().map(line), diff.total),
            }
        }
        (FileChange::Undo, None) => {
            let (workspace, back) = workspaces.after(&layer, caller).await?;
            let count = u32::try_from(back.len()).unwrap_or(u32::MAX);
            let owner = back.first().and_then(|first| first.owner);
            let last = back.last().map(|last| last.layer.to_string());
            FileArguments {
                change,
                workspace,
                layer: id,
                owner: owner.filter(|uid| back.iter().all(|it| it.owner == Some(*uid))),
                digest: None,
                last,
                count,
                difference: first(back.iter().map(|commit| commit.layer.to_string()), count),
            }
        }
    };
    Ok(Operation::FileOperation(arguments))
}

/// What waits is not what somebody has seen.
#[must_use]
pub fn not_what_was_shown(id: &str) -> Error {
    let message = "what waits is not what was shown";
    let hint = "see what it is now: `pawctl workspace diff`";
    Error::new(ErrorKind::Conflict, message, hint).about(id)
}

/// The first of so many lines, and how many there are beside them: nobody takes a part for all of it.
fn first(lines: impl Iterator<Item = String>, of: u32) -> Vec<String> {
    let mut shown: Vec<String> = lines.take(LINES).collect();
    let more = of.saturating_sub(u32::try_from(shown.len()).unwrap_or(u32::MAX));
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown
}

fn line(change: &Change) -> String {
    let sign = match (&change.old, &change.new) {
        (None, _) => 'A',
        (Some(_), Some(_)) => 'M',
        (Some(_), None) => 'D',
    };
    shorten_to(&format!("{sign} {}", change.path), LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_shown_is_counted() {
        let lines = |count: u32| (0..count).map(|number| format!("A {number}"));
        assert_eq!(first(lines(2), 2), ["A 0", "A 1"]);
        assert_eq!(first(lines(2), 3), ["A 0", "A 1", "and 1 more"]);
        let many = first(lines(250), 250);
        assert_eq!((many.len(), many[LINES].as_str()), (101, "and 150 more"));
    }
}
