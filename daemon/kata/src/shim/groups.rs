//! The cgroups of one sandbox's shim: who is in them, and how they are emptied and removed.

use std::{fs, io, os::fd::AsFd, path::PathBuf, time::Instant};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use paw_launcher::hierarchies;
use rustix::process::{PidfdFlags, pidfd_open};

/// How often members are looked up and killed: one may have forked meanwhile.
const ROUNDS: usize = 100;

/// Enters the groups, with every later child. Under v1 by `tasks`, as this process has one thread: `cgroup.procs` waits until no
/// process of the whole system is forking or ending, for which the kernel takes ten milliseconds. v2 has no such file.
pub(crate) fn enter(groups: &[PathBuf]) -> io::Result<()> {
    groups.iter().try_for_each(|group| {
        let alone = group.join("tasks");
        if alone.exists() {
            fs::write(alone, "0")
        } else {
            fs::write(group.join("cgroup.procs"), "0")
        }
    })
}

/// Every process in any of them.
pub(crate) fn members(groups: &[PathBuf]) -> Vec<i32> {
    let mut pids: Vec<i32> = groups
        .iter()
        .filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok())
        .flat_map(|text| {
            text.lines()
                .filter_map(|line| line.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Waits until nobody is in them. `false`: the time is over.
pub(crate) fn await_empty(groups: &[PathBuf], until: Instant) -> bool {
    for _ in 0..ROUNDS {
        let pids = members(groups);
        if pids.is_empty() {
            return true;
        }
        for pid in pids {
            if !await_end(pid, until) {
                return false;
            }
        }
    }
    false
}

/// Kills everybody in them. `false`: some do not go.
pub(crate) fn kill_all(groups: &[PathBuf], until: Instant) -> bool {
    for _ in 0..ROUNDS {
        let pids = members(groups);
        if pids.is_empty() {
            return true;
        }
        for pid in &pids {
            // One that ended meanwhile cannot be killed, which is as good.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if !pids.into_iter().all(|pid| await_end(pid, until)) {
            return false;
        }
    }
    false
}

fn await_end(pid: i32, until: Instant) -> bool {
    let Some(pidfd) = rustix::process::Pid::from_raw(pid)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
    else {
        return true;
    };
    let left = until.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    let mut waiting = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    // An interrupted wait is as good as a round: the caller looks again.
    !matches!(poll(&mut waiting, timeout), Ok(0))
}

/// Removes the group of this path, and what is below it, in every hierarchy that is mounted; who is in it was killed.
pub(crate) fn remove_everywhere(path: &str) -> io::Result<()> {
    for mount in hierarchies::mounted()? {
        hierarchies::remove(&mount.join(path.trim_start_matches('/')))?;
    }
    Ok(())
}
