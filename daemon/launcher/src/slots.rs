//! Which ids each sandbox gets.
//!
//! Shown for paw-launcher, whose `first` is 65536; a launcher without a user namespace has the host's ids, and its `first` is
//! `base`.
//!
//! ```text
//! in the launcher's namespace      on the host
//! 0                                the launcher's own uid
//! 65536 + i          (slot 0)      base + i                 owner of workspace i; no sandbox has this slot
//! 65536 * (k + 1) .. (slot k)      base + 65536 * k ..      sandbox in slot k
//! ```
//!
//! A sandbox's ids are its slot's. With a workspace, inside-id 1000 alone is the workspace's owner, so that its files belong to
//! the same id in every life of the agent, whichever slot it gets; libcontainer has no id-mapped mounts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use paw_confine::userns::Extent;
use paw_policy::Name;

use crate::{ceilings::Ids, workspaces::place};

/// Ids of one slot.
pub(crate) const SLOT: u32 = 65536;

/// User and group of every program in a sandbox, as seen inside.
pub(crate) const INSIDE: u32 = 1000;

/// Where a sandbox's ids come from.
#[derive(Debug)]
pub(crate) struct Slots {
    /// The first id of slot 0, as we see it.
    first: u32,
    count: u32,
    taken: BTreeSet<u32>,
    workspaces: PathBuf,
    owners: BTreeMap<Name, u32>,
}

/// Why a workspace cannot be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkspaceError {
    /// All 65535 owner ids are in use.
    #[error("every owner id for workspaces is in use; remove workspaces of agents that are gone")]
    Full,
    /// The file system refused.
    #[error("{step} {path}")]
    Files {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// The map of the launcher's own namespace, in terms of the host.
pub(crate) fn launcher_map(own: u32, ids: Ids) -> [Extent; 2] {
    [
        Extent {
            inside: 0,
            outside: own,
            count: 1,
        },
        Extent {
            inside: SLOT,
            outside: ids.base,
            count: ids.slots * SLOT,
        },
    ]
}

impl Slots {
    /// Finds out which owner ids the existing workspaces have. Called inside the launcher's namespace.
    pub(crate) fn read(first: u32, ids: Ids, workspaces: PathBuf) -> Result<Self, WorkspaceError> {
        let files = |step, path: &Path| {
            let path = path.to_owned();
            move |source| WorkspaceError::Files { step, path, source }
        };
        let mut owners = BTreeMap::new();
        for entry in fs::read_dir(&workspaces).map_err(files("list", &workspaces))? {
            let entry = entry.map_err(files("list", &workspaces))?;
            let Some(name) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<Name>().ok())
            else {
                continue;
            };
            let owner = entry
                .metadata()
                .map_err(files("look at", &entry.path()))?
                .uid();
            owners.insert(name, owner);
        }
        Ok(Self {
            first,
            count: ids.slots,
            taken: BTreeSet::new(),
            workspaces,
            owners,
        })
    }

    /// The ids of a sandbox in this slot.
    pub(crate) fn map(&self, slot: u32, workspace_owner: Option<u32>) -> Vec<Extent> {
        sandbox_map(self.first, slot, workspace_owner)
    }

    /// Takes the lowest free slot; `None` when all are in use.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let slot = (1..self.count).find(|slot| !self.taken.contains(slot))?;
        self.taken.insert(slot);
        Some(slot)
    }

    /// Gives a slot back, once no process of it is left.
    pub(crate) fn give_back(&mut self, slot: u32) {
        self.taken.remove(&slot);
    }

    /// The owner of a workspace that is there.
    pub(crate) fn owner(&self, name: &Name) -> Option<u32> {
        self.owners.get(name).copied()
    }

    /// The owner of a workspace, which is made if it is new.
    pub(crate) fn workspace(&mut self, name: &Name) -> Result<u32, WorkspaceError> {
        if let Some(owner) = self.owners.get(name) {
            return Ok(*owner);
        }
        let used: BTreeSet<u32> = self.owners.values().copied().collect();
        let owner = (self.first + 1..self.first + SLOT)
            .find(|id| !used.contains(id))
            .ok_or(WorkspaceError::Full)?;
        let path = self.workspaces.join(name.as_str());
        place::make(&self.workspaces, &path, owner)?;
        self.owners.insert(name.clone(), owner);
        Ok(owner)
    }
}

/// The map of a sandbox's namespace, in terms of the launcher's; `base` is the first id of slot 0 there.
fn sandbox_map(base: u32, slot: u32, workspace_owner: Option<u32>) -> Vec<Extent> {
    let first = base + SLOT * slot;
    match workspace_owner {
        None => vec![Extent {
            inside: 0,
            outside: first,
            count: SLOT,
        }],
        Some(owner) => vec![
            Extent {
                inside: 0,
                outside: first,
                count: INSIDE,
            },
            Extent {
                inside: INSIDE,
                outside: owner,
                count: 1,
            },
            Extent {
                inside: INSIDE + 1,
                outside: first + INSIDE + 1,
                count: SLOT - INSIDE - 1,
            },
        ],
    }
}

#[cfg(test)]
mod tests {
    use paw_confine::userns::outside;

    use super::*;

    fn slots(count: u32) -> (tempfile::TempDir, Slots) {
        let dir = tempfile::tempdir().unwrap();
        let slots = Slots::read(
            SLOT,
            Ids {
                base: 1 << 20,
                slots: count,
            },
            dir.path().to_owned(),
        )
        .unwrap();
        (dir, slots)
    }

    #[test]
    fn no_two_sandboxes_share_a_slot_and_none_gets_the_workspaces() {
        let (_dir, mut slots) = slots(3);
        assert_eq!(
            (slots.take(), slots.take(), slots.take()),
            (Some(1), Some(2), None)
        );
    }

    #[test]
    fn slot_that_was_given_back_is_used_again() {
        let (_dir, mut slots) = slots(2);
        let slot = slots.take().unwrap();
        slots.give_back(slot);
        assert_eq!(slots.take(), Some(slot));
    }

    #[test]
    fn maps_of_two_slots_do_not_meet() {
        let (one, two) = (sandbox_map(SLOT, 1, None), sandbox_map(SLOT, 2, None));
        assert_eq!(
            outside(&one, SLOT - 1).unwrap() + 1,
            outside(&two, 0).unwrap()
        );
    }

    #[test]
    fn only_the_user_of_a_sandbox_is_the_owner_of_its_workspace() {
        let map = sandbox_map(SLOT, 1, Some(SLOT + 7));
        let seen = [0, 999, 1000, 1001, SLOT - 1].map(|id| outside(&map, id).unwrap());
        assert_eq!(
            seen,
            [
                2 * SLOT,
                2 * SLOT + 999,
                SLOT + 7,
                2 * SLOT + 1001,
                3 * SLOT - 1
            ]
        );
    }
}
