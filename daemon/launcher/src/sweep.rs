//! What an earlier life of the launcher left behind: processes, cgroups, bundles, container state.
//!
//! The sandboxes of an earlier life belong to user namespaces below *its* namespace, over which this one has no power: no
//! capability reaches them. What is left is the oldest rule of `kill`: a process may signal those of its own user. The ids of
//! every sandbox are mapped here, so a child becomes the owner and kills. Mounts need no sweeping: they end with the last
//! process of their namespace.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid},
};
use paw_confine::{report::Confinement, sys};
use rustix::process::PidfdFlags;
use tracing::{info, warn};

use crate::cgroup::{CgroupError, Leaf, Parent};

/// How long the processes of all leftovers together may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a leaf is looked at again: a process may have forked while it was being killed.
const ROUNDS: usize = 100;

/// Why leftovers are still there. The launcher does not start beside them: their ids would be given out a second time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SweepError {
    /// A cgroup could not be cleared.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A directory could not be cleared.
    #[error("{step} {path}")]
    Files {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// A process could not be killed.
    #[error(
        "processes {pids:?} of an earlier life in cgroup {cgroup} do not end; kill them and start again"
    )]
    Alive { cgroup: String, pids: Vec<i32> },
}

/// Clears everything. `dirs` are the directories in which each entry is a leftover.
pub(crate) fn sweep(parent: &Parent, dirs: &[&Path]) -> Result<(), SweepError> {
    let until = Instant::now() + PATIENCE;
    let leftovers = parent.leftovers()?;
    for leaf in &leftovers {
        clear(leaf, until)?;
        info!(cgroup = leaf.path(), "removed a sandbox of an earlier life");
    }
    for dir in dirs {
        let files = |step, path: &Path| {
            let path = path.to_owned();
            move |source| SweepError::Files { step, path, source }
        };
        for entry in fs::read_dir(dir).map_err(files("list", dir))? {
            let path = entry.map_err(files("list", dir))?.path();
            fs::remove_dir_all(&path).map_err(files("remove", &path))?;
        }
    }
    Ok(())
}

fn clear(leaf: &Leaf, until: Instant) -> Result<(), SweepError> {
    for _ in 0..ROUNDS {
        let pids = leaf.members();
        if pids.is_empty() && leaf.remove()? {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(SweepError::Alive {
                cgroup: leaf.path().to_owned(),
                pids,
            });
        }
        kill_all(leaf, &pids)?;
        await_ends(&pids, until);
    }
    Err(SweepError::Alive {
        cgroup: leaf.path().to_owned(),
        pids: leaf.members(),
    })
}

/// Kills every process of a leaf, whoever it belongs to.
pub(crate) fn kill_all(leaf: &Leaf, pids: &[i32]) -> Result<(), CgroupError> {
    if leaf.kill()? || pids.is_empty() {
        return Ok(());
    }
    leaf.freeze(true)?;
    for pid in pids {
        match kill(Pid::from_raw(*pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(Errno::EPERM) => kill_as_owner(*pid),
            Err(errno) => warn!(pid, %errno, "cannot kill a process of a sandbox"),
        }
    }
    leaf.freeze(false)
}

/// Kills a process of another user of our namespace, in the shape of that user.
fn kill_as_owner(pid: i32) {
    let Some(owner) = u32::try_from(pid)
        .ok()
        .and_then(|pid| Confinement::of(pid).ok())
    else {
        return;
    };
    match sys::fork_alone() {
        Ok(None) => {
            let (user, group) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
            let done = setgroups(&[])
                .and_then(|()| setresgid(group, group, group))
                .and_then(|()| setresuid(user, user, user))
                .and_then(|()| kill(Pid::from_raw(pid), Signal::SIGKILL));
            sys::exit_now(i32::from(done.is_err()))
        }
        Ok(Some(child)) => match waitpid(child, None) {
            Ok(status) if status == nix::sys::wait::WaitStatus::Exited(child, 0) => {}
            other => warn!(pid, ?other, "cannot kill a process of an earlier life"),
        },
        Err(error) => warn!(pid, %error, "cannot fork to kill a process of an earlier life"),
    }
}

/// Waits until these processes have ended, or the time is up.
fn await_ends(pids: &[i32], until: Instant) {
    for pid in pids {
        let Some(pidfd) = open_process(*pid) else {
            continue;
        };
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut waiting = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        // An interrupted wait is as good as a round: the caller looks again.
        let _ = poll(&mut waiting, timeout);
    }
}

fn open_process(pid: i32) -> Option<OwnedFd> {
    rustix::process::pidfd_open(rustix::process::Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}
