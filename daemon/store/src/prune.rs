//! What is forgotten: finished actions, oldest first, beyond those that are kept.

use redb::{ReadableTable as _, WriteTransaction};
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    batch::{parse, remove_action},
    error::Fault,
    schema::{ACTIONS, ACTIONS_BY_STATE, OPEN_STATES, state_code},
};

/// Of an action, who asked for it.
#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    parent: Option<Uuid>,
}

/// Removes at most `limit` finished actions, oldest first, until only `keep` of them are left; returns how many it removed. What was
/// asked for by an action that goes on stays as long as that: it wants to know what came of it, and would do it again.
pub(crate) fn prune(txn: &WriteTransaction, keep: u64, limit: usize) -> Result<usize, Fault> {
    let victims: Vec<u128> = {
        let by_state = txn.open_table(ACTIONS_BY_STATE)?;
        let mut open = 0;
        for state in OPEN_STATES {
            let code = state_code(state);
            open += by_state.range((code, 0)..=(code, u128::MAX))?.count() as u64;
        }
        let actions = txn.open_table(ACTIONS)?;
        let finished = redb::ReadableTableMetadata::len(&actions)?.saturating_sub(open);
        let surplus = usize::try_from(finished.saturating_sub(keep))
            .unwrap_or(usize::MAX)
            .min(limit);
        let mut victims = Vec::with_capacity(surplus);
        let mut oldest = actions.iter()?;
        while victims.len() < surplus {
            let Some(entry) = oldest.next() else { break };
            let (id, document) = entry?;
            let is_open = |id: u128| {
                OPEN_STATES
                    .iter()
                    .map(|state| by_state.get((state_code(*state), id)))
                    .try_fold(false, |any, found| {
                        found.map(|found| any || found.is_some())
                    })
            };
            let id = id.value();
            if is_open(id)? {
                continue;
            }
            let Asked { parent } = parse("action", id, document.value())?;
            if !parent.map_or(Ok(false), |parent| is_open(parent.as_u128()))? {
                victims.push(id);
            }
        }
        victims
    };
    for id in &victims {
        remove_action(txn, *id)?;
    }
    Ok(victims.len())
}
