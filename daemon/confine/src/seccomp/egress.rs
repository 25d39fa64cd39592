//! What paw-egress may call: a runtime of one thread with a few for names, sockets to servers, and reading the files by which
//! names are resolved. It writes no file, executes nothing and forks nothing.

use super::{Otherwise, Profile, When, call_when, calls, pawd};

/// The lists of paw-egress.
#[must_use]
pub fn egress() -> Profile {
    let mut allowed = pawd::runtime();
    allowed.extend(pawd::sockets());
    allowed.extend(calls! {
        "read what the resolver of the C library reads": SYS_openat SYS_newfstatat SYS_fstat SYS_statx SYS_faccessat
            SYS_faccessat2 SYS_readlinkat SYS_getdents64 SYS_lseek SYS_pread64 SYS_getcwd SYS_statfs SYS_fstatfs;
        "memory as a file: journal entries that are too long for a datagram": SYS_memfd_create;
        #[cfg(target_arch = "x86_64")]
        "older forms that glibc still uses": SYS_open SYS_stat SYS_lstat SYS_access SYS_readlink;
    });
    allowed.push(call_when!(
        SYS_clone,
        When::Bits {
            argument: 0,
            mask: libc::CLONE_THREAD as u32,
            bits: libc::CLONE_THREAD as u32
        },
        "a thread that waits for a name; without this flag it would be a process"
    ));
    Profile {
        process: "paw-egress",
        allowed,
        refused: pawd::refused(),
        absent: pawd::absent(),
        otherwise: Otherwise::Kill,
    }
}
