//! Taking commits back: a next generation with the files that were replaced, and a shorter history.

use paw_launch::{request::SandboxId, workspace::Bounds};

use crate::{
    Fault,
    beneath::own,
    commit::{Next, conflicts},
    entry::Change,
    store::{Store, record},
};

/// Takes back the commit of this layer and every one after it, of which `last` is the last. Gives the layers that were taken back,
/// the newest first.
///
/// # Errors
/// When there is no such commit, there are later ones than whoever decided has seen, or the workspace is not what these commits made
/// of it; then nothing is changed.
pub fn undo(
    store: &Store,
    layer: &SandboxId,
    last: &SandboxId,
    bounds: &Bounds,
) -> Result<Vec<SandboxId>, Fault> {
    let current = store.current()?;
    let commits = &current.log.commits;
    let Some(first) = commits.iter().rposition(|commit| commit.layer == *layer) else {
        return Err(Fault::NotCommitted(layer.clone()));
    };
    if commits.last().is_none_or(|commit| commit.layer != *last) {
        return Err(Fault::NotLast(last.clone()));
    }
    let history = store.history_dir()?;
    let mut next = Next::begin(store, &current, bounds)?;
    let mut undone = Vec::new();
    for commit in commits[first..].iter().rev() {
        let dir = history.dir(&own(commit.layer.as_str()))?;
        let changes: Vec<Change> = record(&dir, "changes.json")?;
        let back: Vec<Change> = changes.iter().map(Change::inverse).collect();
        let conflicts = conflicts(&next.files, &back)?;
        if !conflicts.is_empty() {
            return Err(Fault::Conflict(conflicts));
        }
        next.apply(&back, &dir.dir(&own("old"))?)?;
        undone.push(commit.layer.clone());
    }
    let mut log = current.log.clone();
    log.commits.truncate(first);
    next.publish(log)?;
    Ok(undone)
}
