//! What a turn that waits listens for: its own calls' news out of everybody's.

use std::collections::BTreeSet;

use tokio::sync::{
    broadcast::{Receiver, error::RecvError},
    watch,
};
use uuid::Uuid;

use crate::orchestrator::handle::Change;

/// Those of these chats in whose name a person is asked.
pub(super) fn of_these(all: &BTreeSet<Uuid>, these: &[Uuid]) -> Vec<Uuid> {
    let asked = these.iter().filter(|id| all.contains(id));
    asked.copied().collect()
}

/// Waits until a person is asked for others of these than `before`.
pub(super) async fn are_others(
    persons: &mut watch::Receiver<BTreeSet<Uuid>>,
    these: &[Uuid],
    before: &[Uuid],
) {
    // It is never closed: the set is the agents'. What it gives is a look that must not be kept.
    drop(persons.wait_for(|now| of_these(now, these) != before).await);
}

/// The next change of one of these. Every change of any action is heard by every turn that waits, so others are passed over at once.
pub(super) async fn one_of(
    changes: &mut Receiver<Change>,
    these: &[Uuid],
) -> Result<Change, RecvError> {
    loop {
        let change = changes.recv().await?;
        if these.contains(&change.id) {
            return Ok(change);
        }
    }
}
