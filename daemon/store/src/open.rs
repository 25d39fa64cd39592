//! What is still to come to an end: read action by action, so that a hundred thousand that wait are never in memory together.

use paw_policy::State;
use uuid::Uuid;

use crate::{error::StoreError, query, record::ActionRecord, store::Store};

/// Records that are read together where all of them are looked at.
const AT_ONCE: usize = 64;

impl Store {
    /// The action with this id as it was committed, without what was noted of it since: this waits for nobody who writes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn committed_action(&self, id: Uuid) -> Result<Option<ActionRecord>, StoreError> {
        self.read_applied(|txn| query::action(txn, id))
    }

    /// The actions that stand in one of these states, oldest first, without looking at the others.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn ids_in(&self, states: &[State]) -> Result<Vec<Uuid>, StoreError> {
        self.read(|txn| query::ids_in(txn, states))
    }

    /// Hands over the actions that stand in one of these states, oldest first, and never holds more than a few of them: the records of
    /// a hundred thousand that wait are more than shall be in memory at once.
    ///
    /// # Errors
    /// When the file cannot be read, or one of them is in an index only.
    pub fn each_in(
        &self,
        states: &[State],
        mut each: impl FnMut(ActionRecord),
    ) -> Result<(), StoreError> {
        for ids in self.ids_in(states)?.chunks(AT_ONCE) {
            let found = self.actions_named(ids, usize::MAX)?;
            if found.len() != ids.len() {
                return Err(StoreError::Corrupt {
                    path: self.path().to_owned(),
                    detail: "an action is in an index only".into(),
                });
            }
            found.into_iter().for_each(&mut each);
        }
        Ok(())
    }
}
