//! Giving up user, groups and capabilities for good.
//!
//! The order matters and is kept here alone: the bounding set needs `CAP_SETPCAP`, groups need `CAP_SETGID`, so both come
//! before the user changes; the user changes before the capability sets are emptied; what was reached is read back.

use caps::{CapSet, Capability};
use nix::{
    errno::Errno,
    sys::{
        prctl,
        resource::{Resource, setrlimit},
    },
    unistd::{Gid, Uid, getegid, geteuid, getgroups, setgroups, setresgid, setresuid},
};

use crate::{
    ThreadError, alone,
    report::{Confinement, ReportError},
};

/// Which step of a drop failed. The process must not go on.
#[derive(Debug, thiserror::Error)]
pub enum DropError {
    /// There are other threads already.
    #[error(transparent)]
    Threads(#[from] ThreadError),
    /// We are neither root nor the user that was asked for.
    #[error(
        "become user {wanted}: the process runs as user {is}; start it as root, or as that user"
    )]
    NotRoot {
        /// Who we should be.
        wanted: u32,
        /// Who we are.
        is: u32,
    },
    /// Dropping to root would be no drop.
    #[error("drop to user 0: root is no target; give a system user")]
    ToRoot,
    /// A system call failed.
    #[error("{step}")]
    Step {
        /// Which one.
        step: &'static str,
        /// Why.
        source: Errno,
    },
    /// A capability set could not be changed.
    #[error("{step}")]
    Capabilities {
        /// Which set.
        step: &'static str,
        /// Why.
        source: caps::errors::CapsError,
    },
    /// `/proc` does not show us.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The kernel took every step and still shows something else.
    #[error("after the drop the kernel shows {0}")]
    NotHeld(String),
}

/// Becomes an unprivileged user with no capability in any set, for good, and reads back that it is so.
///
/// Root changes user, group and groups; a process that already is that user (a systemd unit) only empties its sets. Also sets
/// `no_new_privs`, makes the process undumpable and forbids core files.
///
/// # Errors
/// At the first step that fails; nothing is rolled back, so the caller ends the process.
pub fn drop_to(uid: u32, gid: u32, groups: &[u32]) -> Result<(), DropError> {
    drop_keeping(uid, gid, groups, &[])?;
    seal()?;
    let now = Confinement::of_self(None)?;
    let none = "0000000000000000";
    let [inheritable, permitted, effective, _bounding, ambient] = &now.caps;
    if [inheritable, permitted, effective, ambient]
        .iter()
        .any(|set| *set != none)
    {
        return Err(DropError::NotHeld(format!(
            "capabilities {}",
            now.caps.join(" ")
        )));
    }
    if now.uid != uid || now.gid != gid || !now.no_new_privs {
        return Err(DropError::NotHeld(format!(
            "uid {} gid {} no_new_privs {}",
            now.uid, now.gid, now.no_new_privs
        )));
    }
    Ok(())
}

/// Becomes another user but keeps these capabilities, permitted and effective; the step before a user namespace is made.
///
/// # Errors
/// As [`drop_to`]; also when a capability to keep is not there.
pub fn drop_keeping(
    uid: u32,
    gid: u32,
    groups: &[u32],
    keep: &[Capability],
) -> Result<(), DropError> {
    alone()?;
    if uid == 0 {
        return Err(DropError::ToRoot);
    }
    let step = |step| move |source| DropError::Step { step, source };
    let capabilities = |step| move |source| DropError::Capabilities { step, source };

    if geteuid().is_root() {
        shrink_bounding_set(keep)?;
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups).map_err(step("set the supplementary groups"))?;
        caps::securebits::set_keepcaps(!keep.is_empty()).map_err(capabilities("set keepcaps"))?;
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
        setresgid(group, group, group).map_err(step("change the group"))?;
        setresuid(user, user, user).map_err(step("change the user"))?;
    } else if geteuid().as_raw() != uid || getegid().as_raw() != gid {
        return Err(DropError::NotRoot {
            wanted: uid,
            is: geteuid().as_raw(),
        });
    } else {
        shrink_bounding_set(keep)?;
        let own = getgroups().map_err(step("read the supplementary groups"))?;
        // A unit's groups were chosen by its administrator; they are only checked when the caller asks for particular ones.
        if let Some(missing) = groups
            .iter()
            .find(|group| !own.contains(&Gid::from_raw(**group)) && **group != gid)
        {
            return Err(DropError::NotHeld(format!(
                "no supplementary group {missing}; add it with SupplementaryGroups="
            )));
        }
    }
    empty_sets_but(keep)
}

/// Gives up every capability but these, for good, whoever the process is; for a program that root of a user namespace starts.
///
/// # Errors
/// When the kernel refuses, or a capability to keep is not there; the process must not go on.
pub fn keep_only(keep: &[Capability]) -> Result<(), DropError> {
    alone()?;
    shrink_bounding_set(keep)?;
    empty_sets_but(keep)
}

/// Stays root, with these capabilities and no way back to the others: not by executing either, because no set has them.
///
/// What this host does not give in the first place is not asked for.
///
/// # Errors
/// When the kernel refuses; the process must not go on.
pub fn stay_root_with(keep: &[Capability]) -> Result<(), DropError> {
    alone()?;
    let capabilities = |step| move |source| DropError::Capabilities { step, source };
    shrink_bounding_set(keep)?;
    caps::clear(None, CapSet::Ambient).map_err(capabilities("empty the ambient set"))?;
    caps::clear(None, CapSet::Inheritable).map_err(capabilities("empty the inheritable set"))?;
    let had =
        caps::read(None, CapSet::Permitted).map_err(capabilities("read the permitted set"))?;
    let keep: caps::CapsHashSet = keep.iter().copied().filter(|it| had.contains(it)).collect();
    caps::set(None, CapSet::Effective, &keep).map_err(capabilities("set the effective set"))?;
    caps::set(None, CapSet::Permitted, &keep).map_err(capabilities("set the permitted set"))
}

/// What every process of ours forbids itself: rights by executing, being read by a debugger, writing core files.
///
/// # Errors
/// When the kernel refuses; the process must not go on.
pub fn seal() -> Result<(), DropError> {
    let step = |step| move |source| DropError::Step { step, source };
    prctl::set_no_new_privs().map_err(step("set no_new_privs"))?;
    prctl::set_dumpable(false).map_err(step("make the process undumpable"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(step("forbid core files"))?;
    Ok(())
}

fn empty_sets_but(keep: &[Capability]) -> Result<(), DropError> {
    let capabilities = |step| move |source| DropError::Capabilities { step, source };
    caps::clear(None, CapSet::Ambient).map_err(capabilities("empty the ambient set"))?;
    caps::clear(None, CapSet::Inheritable).map_err(capabilities("empty the inheritable set"))?;
    let keep: caps::CapsHashSet = keep.iter().copied().collect();
    // Effective before permitted: a capability must leave the smaller set first, and enter it last.
    caps::clear(None, CapSet::Effective).map_err(capabilities("empty the effective set"))?;
    caps::set(None, CapSet::Permitted, &keep).map_err(capabilities(
        "set the permitted set; is a capability missing in the unit?",
    ))?;
    caps::set(None, CapSet::Effective, &keep).map_err(capabilities("set the effective set"))?;
    Ok(())
}

/// Only a process with `CAP_SETPCAP` can shrink this set; for the others `no_new_privs` makes it meaningless.
fn shrink_bounding_set(keep: &[Capability]) -> Result<(), DropError> {
    let capabilities = |step| move |source| DropError::Capabilities { step, source };
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)
        .map_err(capabilities("read the effective set"))?
    {
        return Ok(());
    }
    for capability in caps::runtime::thread_all_supported() {
        let present = caps::has_cap(None, CapSet::Bounding, capability)
            .map_err(capabilities("read the bounding set"))?;
        if present && !keep.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability)
                .map_err(capabilities("shrink the bounding set"))?;
        }
    }
    Ok(())
}
