//! What the launcher's jobs may call: one thread, files, and the one socket that they are started with.

use super::{Call, Otherwise, Profile, calls, pawd};

/// The lists of paw-image, which keeps images.
#[must_use]
pub fn image() -> Profile {
    Profile {
        process: "paw-image",
        allowed: work(),
        refused: refused(),
        absent: pawd::absent(),
        otherwise: Otherwise::Kill,
    }
}

/// The lists of paw-workspace, which works on one workspace.
#[must_use]
pub fn workspace() -> Profile {
    let mut allowed = work();
    allowed.extend(calls! {
        "whether a directory of a layer replaces the one beneath it": SYS_fgetxattr;
    });
    Profile {
        process: "paw-workspace",
        allowed,
        ..image()
    }
}

/// What every job calls.
fn work() -> Vec<Call> {
    let mut allowed = pawd::runtime();
    allowed.extend(pawd::files());
    allowed.extend(calls! {
        "what was made is on the disk before it has a name": SYS_syncfs;
        "the launcher's socket: a charge comes in, an outcome goes out": SYS_recvmsg SYS_sendmsg;
    });
    allowed
}

/// As for every process of ours, and no new socket at all: the one it has was there before.
fn refused() -> Vec<Call> {
    let mut refused = pawd::refused();
    refused.retain(|call| call.name != "SYS_socket");
    refused.extend(calls! {
        "a job talks to nobody but the launcher": SYS_socket SYS_socketpair SYS_connect SYS_bind SYS_listen;
        "a job is one process with one thread": SYS_clone;
    });
    refused
}
