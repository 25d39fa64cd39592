//! What sandboxes that wait for their first command add to the words of [`crate::request`].

use serde::{Deserialize, Serialize};

use crate::request::{Request, SandboxId};

/// How the launcher learns that the host is short of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryWatch {
    /// The kernel wakes it when something has to wait for memory (PSI).
    Pressure,
    /// It looks at what is available while anything waits.
    Available,
    /// It cannot; nothing is made to wait.
    #[default]
    Nothing,
}

impl Request {
    /// The sandbox whose descriptors the answer brings, if it brings any.
    #[must_use]
    pub fn hands_over(&self) -> Option<&SandboxId> {
        match self {
            Self::Create(plan) | Self::Prepare { plan, .. } => Some(&plan.id),
            Self::Attach { id } => Some(id),
            Self::Hello { .. }
            | Self::Kill { .. }
            | Self::List
            | Self::Stats { .. }
            | Self::Runtimes
            | Self::Status
            | Self::Image { .. }
            | Self::ListAfter { .. }
            | Self::Workspaces { .. }
            | Self::Claim { .. } => None,
        }
    }
}
