//! What paw-launcher may call.
//!
//! A filter is inherited, so this one also binds paw-create, libcontainer, and every program in a sandbox. It is therefore
//! wider than the launcher's own needs: it holds what a sandbox may call, what making one takes, and refuses what neither
//! ever does. The tight list is put on by paw-create inside the sandbox (see `sandbox`).

use super::{Otherwise, Profile, calls, pawd, sandbox};

/// The lists of paw-launcher.
#[must_use]
pub fn launcher() -> Profile {
    let mut allowed = sandbox::programs();
    allowed.extend(calls! {
        "namespaces of a sandbox": SYS_unshare SYS_setns SYS_sethostname SYS_setdomainname;
        "the root of a sandbox: its mounts, and leaving the host's root": SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot
            SYS_fsopen SYS_fsmount SYS_fsconfig SYS_fspick SYS_move_mount SYS_open_tree SYS_mount_setattr;
    });
    let mut refused = sandbox::into_the_kernel();
    // clone3 stays: libcontainer makes its processes with it and has no other way. A sandbox loses it to its own filter.
    allowed
        .extend(calls! { "processes of libcontainer, whose parent is the launcher": SYS_clone3; });
    refused.retain(|call| !allowed.iter().any(|other| other.nr == call.nr));
    debug_assert!(
        pawd::absent()
            .iter()
            .all(|call| allowed.iter().any(|other| other.nr == call.nr))
    );
    Profile {
        process: "paw-launcher",
        allowed,
        refused,
        absent: Vec::new(),
        otherwise: Otherwise::Absent,
    }
}

/// The lists of paw-launcher where it starts runsc. gVisor's kernel is a program like any other for the host's, and watches
/// over its sandbox with these; a sandbox of libcontainer loses them again to its own filter.
#[must_use]
pub fn launcher_with_gvisor() -> Profile {
    let mut profile = launcher();
    profile.allowed.extend(calls! {
        "gVisor intercepts the system calls of its sandbox and reads and writes its memory": SYS_ptrace SYS_process_vm_readv
            SYS_process_vm_writev;
    });
    profile
        .refused
        .retain(|call| !profile.allowed.iter().any(|other| other.nr == call.nr));
    profile
}

/// The lists of paw-launcher-kata, which its shims, runc and hypervisors inherit. They are wide where a hypervisor is: what runs a
/// machine is a program like any other for the host's kernel, which `ioctl` makes more than that.
#[must_use]
pub fn launcher_with_shim() -> Profile {
    let mut profile = launcher();
    profile.process = "paw-launcher-kata";
    profile.allowed.extend(calls! {
        "runc limits the devices of a container through it where cgroups are of version 2": SYS_bpf;
        "memory of a machine: where it lies": SYS_mbind SYS_set_mempolicy;
    });
    profile
        .refused
        .retain(|call| !profile.allowed.iter().any(|other| other.nr == call.nr));
    profile
}

/// What paw-shim may call once its shim runs: it listens, reads, writes, and waits. It is killed for anything else.
#[must_use]
pub fn shim_attendant() -> Profile {
    let mut allowed = pawd::runtime();
    allowed.extend(calls! {
        "one connection to the shim, those of the shim that tell events": SYS_accept4 SYS_recvfrom SYS_recvmsg SYS_sendto
            SYS_sendmsg SYS_shutdown SYS_getsockopt;
        "in which cgroup the task is": SYS_openat SYS_statx SYS_newfstatat SYS_fstat SYS_lseek;
        "the shim is its child once the shim's starter has ended": SYS_wait4 SYS_waitid;
    });
    Profile {
        process: "paw-shim",
        allowed,
        refused: pawd::refused(),
        absent: pawd::absent(),
        otherwise: Otherwise::Kill,
    }
}

/// The lists of the launcher's doorkeeper, which accepts connections and hands them over. It is killed for anything else.
#[must_use]
pub fn doorkeeper() -> Profile {
    let mut allowed = pawd::runtime();
    allowed.extend(calls! {
        "accept, ask who it is, hand it over": SYS_accept4 SYS_getsockopt SYS_sendmsg;
    });
    Profile {
        process: "paw-launcher's doorkeeper",
        allowed,
        refused: pawd::refused(),
        absent: pawd::absent(),
        otherwise: Otherwise::Kill,
    }
}
