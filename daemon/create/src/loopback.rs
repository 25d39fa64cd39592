//! Brings up the loopback interface of a sandbox, which a new network namespace has and leaves down.
//!
//! Programs inside find their proxy there, and many others expect it. It leads nowhere but back into the sandbox. It is done
//! from outside because nobody inside has the right to, and by this process because it ends right afterwards: whoever enters
//! another network namespace should not go on to do something else.

use std::os::fd::AsRawFd as _;

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The loopback interface is always the first one of its namespace.
const LOOPBACK: i32 = 1;
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;

/// Brings it up in the network namespace of this process.
pub(crate) fn up(pid: i32) -> Result<(), Errno> {
    let pid = Pid::from_raw(pid).ok_or(Errno::ESRCH)?;
    let process = pidfd_open(pid, PidfdFlags::empty())
        .map_err(|error| Errno::from_raw(error.raw_os_error()))?;
    setns(&process, CloneFlags::CLONE_NEWNET)?;
    let kernel = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    send(kernel.as_raw_fd(), &request(), MsgFlags::empty())?;
    let mut answer = [0; 256];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match answer
        .get(..length)
        .and_then(|answer| answer.first_chunk::<20>())
    {
        // A header of 16 bytes, and then the negative error number, 0 for none.
        Some(answer) if answer[4..6] == NLMSG_ERROR.to_ne_bytes() => {
            match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
                0 => Ok(()),
                error => Err(Errno::from_raw(-error)),
            }
        }
        Some(_) | None => Err(Errno::EBADMSG),
    }
}

/// `nlmsghdr` and `ifinfomsg`: set the one flag that says up, and change no other.
fn request() -> [u8; 32] {
    let mut message = [0; 32];
    message[..4].copy_from_slice(&32_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    message[20..24].copy_from_slice(&LOOPBACK.to_ne_bytes());
    message[24..28].copy_from_slice(&IFF_UP.to_ne_bytes());
    message[28..32].copy_from_slice(&IFF_UP.to_ne_bytes());
    message
}
