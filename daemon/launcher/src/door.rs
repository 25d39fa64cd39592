//! The doorkeeper: a small process that stays outside the user namespace, because only there the kernel says who connects.
//!
//! Inside the launcher's namespace every uid of the host reads as 65534, so the launcher itself could not tell pawd from any
//! other user. The doorkeeper accepts, asks the kernel for the peer, and hands over the connections of pawd's user; the others
//! are closed before a byte of theirs is read. It is forked before the launcher leaves, has no capability, sees no message, and
//! ends when the launcher does.

use std::os::fd::{AsFd, OwnedFd};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{AddressFamily, SockFlag, SockType, socketpair},
    unistd::Pid,
};
use paw_confine::{peer, seccomp, sys};
use paw_launch::packet;
use rustix::{
    io::Errno as IoErrno,
    net::{SocketFlags, accept_with},
};
use serde::{Deserialize, Serialize};

/// What comes with a connection.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Visitor {
    /// Its process, for the log.
    pub(crate) pid: i32,
}

/// Why there is no doorkeeper.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoorError {
    /// The channel to it could not be made.
    #[error("make the channel to the doorkeeper")]
    Channel(#[source] Errno),
    /// It could not be forked.
    #[error("fork the doorkeeper")]
    Fork(#[source] std::io::Error),
}

/// Starts the doorkeeper on a listening socket. Gives our end of the channel and its pid.
pub(crate) fn keep(
    listener: OwnedFd,
    allowed: u32,
    own: (u32, u32),
) -> Result<(OwnedFd, Pid), DoorError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
        .map_err(DoorError::Channel)?;
    match sys::fork_alone().map_err(DoorError::Fork)? {
        Some(child) => Ok((ours, child)),
        None => {
            drop(ours);
            let served = confine(own).and_then(|()| serve(&listener, &theirs, allowed));
            sys::exit_now(i32::from(served.is_err()))
        }
    }
}

/// What the doorkeeper needs is less than what any other process of ours does.
fn confine((uid, gid): (u32, u32)) -> Result<(), ()> {
    paw_confine::drop::drop_to(uid, gid, &[]).map_err(|_| ())?;
    seccomp::doorkeeper().apply().map_err(|_| ())
}

fn serve(listener: &OwnedFd, launcher: &OwnedFd, allowed: u32) -> Result<(), ()> {
    loop {
        let mut waiting = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(launcher.as_fd(), PollFlags::empty()),
        ];
        match poll(&mut waiting, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return Err(()),
        }
        if waiting[1].any() != Some(false) {
            // The launcher is gone.
            return Ok(());
        }
        let Some(visitor) = accept(listener)? else {
            continue;
        };
        let Ok(peer) = peer::peer(&visitor) else {
            continue;
        };
        if peer.uid != allowed {
            continue;
        }
        // A launcher that does not take its connections has more of them than it wants; this one is closed.
        let _ = packet::send(
            launcher.as_fd(),
            &Visitor { pid: peer.pid },
            &[visitor.as_fd()],
        );
    }
}

fn accept(listener: &OwnedFd) -> Result<Option<OwnedFd>, ()> {
    match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok(visitor) => Ok(Some(visitor)),
        // The visitor left again before it was let in.
        Err(IoErrno::INTR | IoErrno::AGAIN | IoErrno::CONNABORTED) => Ok(None),
        Err(_) => Err(()),
    }
}
