//! One order, from the first to the last word.

use std::path::Path;

use paw_launch::workspace::{Answer, Bounds, Order, Settle, Settled, Task};

use crate::{
    Fault,
    beneath::Dir,
    collect::{self, Collected, Origin},
    commit, copy, show,
    store::{Store, count},
    undo,
};

/// Carries out a task on the workspace at `root`; `left` is the directory of a run, for the orders that have to do with one.
pub fn serve(task: &Task, root: &Path, left: Option<&Path>) -> Answer {
    match left.map(Dir::open).transpose() {
        Ok(left) => serve_opened(task, root, left),
        Err(fault) => Answer::Refused(fault.refused()),
    }
}

/// [`serve`] with the directory of the run open already.
pub fn serve_opened(task: &Task, root: &Path, left: Option<Dir>) -> Answer {
    match carry_out(task, root, left) {
        Ok(answer) => answer,
        Err(fault) => Answer::Refused(fault.refused()),
    }
}

fn carry_out(task: &Task, root: &Path, left: Option<Dir>) -> Result<Answer, Fault> {
    let Task {
        order,
        bounds,
        now_ms,
        live,
    } = task;
    let store = Store::open(root)?;
    store.tidy(live)?;
    let began = store.current()?.number;
    let left = || {
        let missing = Fault::Files {
            step: "find",
            path: "the directory of the run".to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        };
        left.ok_or(missing)
    };
    let answer = match order {
        Order::Copy { generation } => {
            let from = store.generation(*generation)?;
            let copied = copy::copy(&from.files, &left()?, bounds)?;
            Answer::Copied {
                files: copied.files,
                bytes: copied.bytes,
            }
        }
        Order::Collect {
            layer,
            generation,
            overlay,
            owner,
            commit,
        } => {
            let origin = Origin {
                layer: layer.clone(),
                owner: *owner,
                now_ms: *now_ms,
                overlay: *overlay,
            };
            let from = store.generation(*generation)?;
            let collected = collect::collect(&store, &left()?, &from, &origin, bounds)?;
            settle(&store, collected, *commit, bounds, *now_ms)?
        }
        Order::Diff { layer, from } => Answer::Diff(Box::new(show::diff(&store, layer, *from)?)),
        Order::Commit { layer, digest } => Answer::Committed(commit::commit(
            &store,
            layer,
            Some(*digest),
            bounds,
            *now_ms,
        )?),
        Order::Discard { layer } => Answer::Discarded {
            changes: store.discard(layer)?,
        },
        Order::Undo { layer, last } => Answer::Undone {
            layers: undo::undo(&store, layer, last, bounds)?,
        },
        Order::List => Answer::List(store.list()?),
    };
    // What this order made superfluous, but for the generation that was the workspace until now: who came while this was done
    // began with it and is not in `live`. It is done; what cannot be removed now is removed by the next one.
    let _ = store.tidy(&[live, &[began][..]].concat());
    Ok(answer)
}

fn settle(
    store: &Store,
    Collected { layer, dropped }: Collected,
    at_once: bool,
    bounds: &Bounds,
    now_ms: u64,
) -> Result<Answer, Fault> {
    let mut settled = Settled {
        then: Settle::Stage,
        changes: count(layer.changes.len()),
        left_out: layer.left_out,
        dropped,
    };
    if layer.changes.is_empty() {
        settled.then = Settle::Discard;
    } else if at_once {
        settled.then = Settle::Commit;
        if let Err(fault) = commit::commit(store, &layer.layer, None, bounds, now_ms) {
            // Whoever wanted it committed is told that it failed; nobody asked for it to be kept.
            store.forget(&layer.layer)?;
            return Err(fault);
        }
    }
    Ok(Answer::Settled(settled))
}
