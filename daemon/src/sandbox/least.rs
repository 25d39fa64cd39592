//! The sandbox of a tool call, with the least that its class needs.

use paw_launch::{
    request::{Isolation, Mount, MountSource, Runtime, SandboxId, SandboxPlan},
    workspace::Settle,
};
use paw_policy::{Name, ToolClass};

use super::{
    manifest::{Provenance, Skill},
    mounts,
};

/// The shipped skill whose program runs the scripts of folders.
const SHELL: &str = "shell";

/// The sandbox that a call of this tool gets, with the least that the tool's class needs: the workspace can be written to only
/// for a tool that is declared to write, so that a skill cannot write in a call that was allowed as a read.
#[must_use]
pub fn plan(
    skill: &Skill,
    class: ToolClass,
    agent: &Name,
    (runtime, floor): (Runtime, Isolation),
    (id, owner): (SandboxId, u32),
) -> SandboxPlan {
    let mut mounts = vec![Mount {
        source: match skill.origin {
            Provenance::Shipped => MountSource::Skill(skill.name.clone()),
            Provenance::Installed => MountSource::Installed(skill.digest),
        },
        target: "/skill".into(),
        writable: false,
    }];
    if skill.instructions.is_some() {
        // What runs its scripts.
        let shell = SHELL.parse().expect("`shell` is a name");
        mounts.push(Mount {
            source: MountSource::Skill(shell),
            target: "/shell".into(),
            writable: false,
        });
    }
    if let Some(workspace) = skill.directory(agent) {
        let source = if writes(class) {
            MountSource::Layer {
                workspace,
                // Unless this call says otherwise at its end.
                then: Settle::Discard,
                owner: Some(owner),
            }
        } else {
            MountSource::Workspace(workspace)
        };
        mounts.push(Mount {
            source,
            target: "/workspace".into(),
            writable: writes(class),
        });
    }
    mounts.extend(mounts::of_call(skill, class));
    SandboxPlan {
        id,
        runtime,
        image: skill.image.clone(),
        mounts,
        limits: skill.limits,
        floor,
    }
}

/// Whether a tool of this class may write to the workspace, in a layer of its own.
pub(crate) const fn writes(class: ToolClass) -> bool {
    match class {
        ToolClass::ReadPublic | ToolClass::ReadPrivate | ToolClass::Egress | ToolClass::Money => {
            false
        }
        ToolClass::WriteLocalReversible
        | ToolClass::WriteDestructive
        | ToolClass::Exec
        | ToolClass::Admin => true,
    }
}

/// Whether a tool of this class may reach what its skill names. Whatever is asked of a host is told to it, so a tool that reads
/// from one is declared to send.
#[must_use]
pub const fn reaches(class: ToolClass) -> bool {
    match class {
        ToolClass::Egress | ToolClass::Money => true,
        ToolClass::ReadPublic
        | ToolClass::ReadPrivate
        | ToolClass::WriteLocalReversible
        | ToolClass::WriteDestructive
        | ToolClass::Exec
        | ToolClass::Admin => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tools_that_write_get_a_writable_workspace() {
        let check = |class, writable| assert_eq!(writes(class), writable, "{class}");
        check(ToolClass::ReadPublic, false);
        check(ToolClass::ReadPrivate, false);
        check(ToolClass::Egress, false);
        check(ToolClass::Money, false);
        check(ToolClass::WriteLocalReversible, true);
        check(ToolClass::WriteDestructive, true);
        check(ToolClass::Exec, true);
        check(ToolClass::Admin, true);
    }

    #[test]
    fn only_tools_that_send_reach_anything() {
        let check = |class, reached| assert_eq!(reaches(class), reached, "{class}");
        check(ToolClass::ReadPublic, false);
        check(ToolClass::ReadPrivate, false);
        check(ToolClass::Egress, true);
        check(ToolClass::Money, true);
        check(ToolClass::WriteLocalReversible, false);
        check(ToolClass::WriteDestructive, false);
        check(ToolClass::Exec, false);
        check(ToolClass::Admin, false);
    }
}
