//! A user namespace with a chosen map.
//!
//! A process cannot write a map of more than one id for itself: the right to do so lies in the parent namespace, which it
//! leaves by unsharing. So a child is born in it and waits, we write its maps from outside, keep the namespace by a descriptor,
//! and end the child. That needs `CAP_SETUID` and `CAP_SETGID` here, as root or as a user with just these two, and works the
//! same for the launcher's own namespace (then [`enter`]ed) and for the nested one of each sandbox.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::prctl,
    unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid},
};
use serde::{Deserialize, Serialize};

use crate::sys::Newborn;

/// A run of ids: `count` of them from `inside` on are those from `outside` on in the parent namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Which step of making or entering a user namespace failed.
#[derive(Debug, thiserror::Error)]
pub enum UsernsError {
    /// The child that holds the namespace could not be made.
    #[error("make the process that holds a user namespace")]
    Fork(#[source] io::Error),
    /// The child may not have one.
    #[error(
        "make a user namespace: {0}; check that user.max_user_namespaces is not 0 and that neither \
         kernel.unprivileged_userns_clone nor kernel.apparmor_restrict_unprivileged_userns forbids it"
    )]
    Unshare(Errno),
    /// A map could not be written.
    #[error(
        "write {file} as {map:?}; CAP_SETUID and CAP_SETGID are needed, and ids that are mapped here"
    )]
    Map {
        /// `uid_map` or `gid_map`.
        file: &'static str,
        /// What was written.
        map: String,
        /// Why not.
        source: io::Error,
    },
    /// Some other step failed.
    #[error("{step}")]
    Step {
        /// Which one.
        step: &'static str,
        /// Why.
        source: Errno,
    },
    /// The namespace could not be held.
    #[error("open the new user namespace")]
    Open(#[source] io::Error),
}

fn step(step: &'static str) -> impl Fn(Errno) -> UsernsError {
    move |source| UsernsError::Step { step, source }
}

/// Makes a user namespace with these maps. The descriptor is close-on-exec and keeps it alive; the caller owns it.
///
/// # Errors
/// At the first step that fails; nothing is left behind.
pub fn make(uids: &[Extent], gids: &[Extent]) -> Result<OwnedFd, UsernsError> {
    // A process that changed its user is undumpable, and then its files in /proc belong to root.
    let dumpable = prctl::get_dumpable().map_err(step("read dumpability"))?;
    prctl::set_dumpable(true).map_err(step("set dumpability"))?;
    let made = make_dumpable(uids, gids);
    prctl::set_dumpable(dumpable).map_err(step("restore dumpability"))?;
    made
}

fn make_dumpable(uids: &[Extent], gids: &[Extent]) -> Result<OwnedFd, UsernsError> {
    let holder = Newborn::in_user_namespace().map_err(unshared)?;
    map_child(holder.pid(), uids, gids)
}

/// Whether the kernel had no room for a process, or does not let us have the namespace.
fn unshared(error: io::Error) -> UsernsError {
    match error.raw_os_error().map(Errno::from_raw) {
        None | Some(Errno::EAGAIN | Errno::ENOMEM) => UsernsError::Fork(error),
        Some(errno) => UsernsError::Unshare(errno),
    }
}

fn map_child(child: Pid, uids: &[Extent], gids: &[Extent]) -> Result<OwnedFd, UsernsError> {
    for (file, extents) in [("uid_map", uids), ("gid_map", gids)] {
        let map: String = extents
            .iter()
            .map(|e| format!("{} {} {}\n", e.inside, e.outside, e.count))
            .collect();
        fs::write(format!("/proc/{child}/{file}"), &map).map_err(|source| UsernsError::Map {
            file,
            map,
            source,
        })?;
    }
    File::open(format!("/proc/{child}/ns/user"))
        .map(OwnedFd::from)
        .map_err(UsernsError::Open)
}

/// Moves the calling, single-threaded process into a user namespace of [`make`] and becomes its root, with every capability
/// there and none in the namespace it came from.
///
/// # Errors
/// At the first step that fails; the process must not go on.
pub fn enter(namespace: impl AsFd) -> Result<(), UsernsError> {
    setns(namespace, CloneFlags::CLONE_NEWUSER).map_err(step("enter the user namespace"))?;
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[]).map_err(step("leave the supplementary groups"))?;
    setresgid(group, group, group).map_err(step("become group 0 of the user namespace"))?;
    setresuid(user, user, user).map_err(step("become user 0 of the user namespace"))?;
    Ok(())
}

/// Reads a `uid_map` or `gid_map` of `/proc`. Lines that are not three numbers are left out.
#[must_use]
pub fn parse_map(text: &str) -> Vec<Extent> {
    text.lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse);
            match (
                numbers.next(),
                numbers.next(),
                numbers.next(),
                numbers.next(),
            ) {
                (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count)), None) => Some(Extent {
                    inside,
                    outside,
                    count,
                }),
                _ => None,
            }
        })
        .collect()
}

/// The id outside that an inside id stands for.
#[must_use]
pub fn outside(map: &[Extent], inside: u32) -> Option<u32> {
    map.iter().find_map(|e| {
        inside
            .checked_sub(e.inside)
            .filter(|offset| *offset < e.count)
            .map(|offset| e.outside + offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_is_read_as_the_kernel_writes_it() {
        let map = parse_map("         0     200000          1\n     65536     265536    1310720\n");
        let expected = [
            Extent {
                inside: 0,
                outside: 200_000,
                count: 1,
            },
            Extent {
                inside: 65536,
                outside: 265_536,
                count: 1_310_720,
            },
        ];
        assert_eq!(map, expected);
        assert_eq!(
            (outside(&map, 65537), outside(&map, 1)),
            (Some(265_537), None)
        );
    }
}
