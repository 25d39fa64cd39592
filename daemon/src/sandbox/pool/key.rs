//! For whom a waiting sandbox was made, and what it is.
//!
//! It is handed out to nobody else: agent, user, origin of the data, and every word of the plan but the id have to be the same.

use paw_launch::request::{Image, MountSource, Runtime, SandboxId, SandboxPlan};
use paw_policy::{Name, TaintSet};

use crate::sandbox::sandbox_id;

/// On whose behalf a sandbox is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The agent.
    pub agent: Name,
    /// Host uid of the person.
    pub uid: u32,
    /// Where the data that it works on came from.
    pub taint: TaintSet,
}

/// An owner and a plan, without the id that each sandbox has for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    owner: Owner,
    plan: SandboxPlan,
}

impl Key {
    /// The key of a plan; none when something in it is for one run only, so that nothing can wait for it.
    #[must_use]
    pub fn of(owner: Owner, plan: &SandboxPlan) -> Option<Self> {
        let common = plan.mounts.iter().all(|mount| match mount.source {
            MountSource::Path(_) | MountSource::Skill(_) | MountSource::Installed(_) => true,
            // A layer is one run's own, and what reads a workspace shall read it as it is when it is asked.
            MountSource::Workspace(_) | MountSource::Layer { .. } => false,
        });
        common.then(|| Self {
            owner,
            plan: SandboxPlan {
                id: sandbox_id([0; 8]),
                ..plan.clone()
            },
        })
    }

    /// The plan of a sandbox of this key.
    #[must_use]
    pub fn plan(&self, id: SandboxId) -> SandboxPlan {
        SandboxPlan {
            id,
            ..self.plan.clone()
        }
    }

    /// Whether its root is the image of this name, whatever that name meant when it was made.
    #[must_use]
    pub fn is_of(&self, image: &Name) -> bool {
        matches!(&self.plan.image, Image::Named(name) if name == image)
    }

    /// What makes it.
    #[must_use]
    pub const fn runtime(&self) -> Runtime {
        self.plan.runtime
    }

    /// Its memory limit, in bytes.
    #[must_use]
    pub const fn memory_limit(&self) -> u64 {
        self.plan.limits.memory
    }
}
