//! What paw-audit may call: one thread or a few, one directory of files, one Unix socket; no network at all.

use super::{Otherwise, Profile, When, call_when, calls, pawd};

/// The lists of paw-audit.
#[must_use]
pub fn audit() -> Profile {
    let mut allowed = pawd::runtime();
    allowed.extend(pawd::files());
    allowed.extend(calls! {
        "one listening Unix socket, handed over at start, and datagrams to the journal": SYS_accept4 SYS_getsockname SYS_getpeername
            SYS_getsockopt SYS_setsockopt SYS_shutdown SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_connect SYS_socket
            SYS_bind SYS_listen;
    });
    allowed.push(call_when!(
        SYS_clone,
        When::Bits {
            argument: 0,
            mask: libc::CLONE_THREAD as u32,
            bits: libc::CLONE_THREAD as u32
        },
        "a thread; without this flag it would be a process"
    ));
    let mut refused = pawd::refused();
    refused.push(call_when!(
        SYS_socket,
        When::NoneOf {
            argument: 0,
            values: &[libc::AF_UNIX as u32]
        },
        "the log is written here, it is not sent anywhere"
    ));
    Profile {
        process: "paw-audit",
        allowed,
        refused,
        absent: pawd::absent(),
        otherwise: Otherwise::Kill,
    }
}
