//! What programs in a sandbox may call: whatever shells, interpreters and compilers use, and nothing that reaches out of it.
//!
//! An unlisted call is answered with `ENOSYS`, as an older kernel would, because these programs are not ours.

use super::{Call, Otherwise, Profile, When, call_when, calls, pawd};

/// Flags of `clone` that make a namespace; `CLONE_NEWTIME` cannot be given to `clone`.
const NAMESPACE_FLAGS: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWCGROUP,
];

/// The lists of a sandbox.
#[must_use]
pub fn sandbox() -> Profile {
    Profile {
        process: "sandbox",
        allowed: programs(),
        refused: refused(),
        absent: pawd::absent(),
        otherwise: Otherwise::Absent,
    }
}

/// What ordinary programs call.
pub(super) fn programs() -> Vec<Call> {
    let mut allowed = pawd::runtime();
    allowed.extend(pawd::files());
    allowed.extend(pawd::sockets());
    allowed.extend(calls! {
        "processes and programs": SYS_clone SYS_execve SYS_execveat SYS_wait4 SYS_waitid SYS_kill SYS_setpgid SYS_getpgid SYS_setsid
            SYS_getsid SYS_getpriority SYS_setpriority SYS_times SYS_pidfd_open SYS_pidfd_send_signal;
        "ids; the map of the user namespace bounds them": SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid
            SYS_setresgid SYS_setgroups SYS_setfsuid SYS_setfsgid SYS_capset;
        "working directory": SYS_chdir SYS_fchdir;
        "more about files": SYS_truncate SYS_sync SYS_syncfs SYS_readahead SYS_vmsplice SYS_tee SYS_mknodat;
        "extended attributes": SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr
            SYS_setxattr SYS_lsetxattr SYS_fsetxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr;
        "timers, alarms and signals": SYS_timer_create SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun
            SYS_timer_delete SYS_setitimer SYS_getitimer SYS_rt_sigsuspend SYS_rt_sigpending SYS_rt_sigqueueinfo
            SYS_rt_tgsigqueueinfo;
        "scheduling of its own threads": SYS_sched_setaffinity SYS_sched_getparam SYS_sched_setparam SYS_sched_getscheduler
            SYS_sched_setscheduler SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_rr_get_interval
            SYS_sched_getattr SYS_sched_setattr SYS_ioprio_get SYS_ioprio_set SYS_getcpu;
        "memory of interpreters and just-in-time compilers": SYS_mlockall SYS_munlockall SYS_pkey_mprotect SYS_pkey_alloc
            SYS_pkey_free SYS_remap_file_pages SYS_get_mempolicy SYS_memfd_secret;
        "System V and POSIX objects of its own ipc namespace": SYS_shmget SYS_shmat SYS_shmdt SYS_shmctl SYS_semget SYS_semop
            SYS_semctl SYS_semtimedop SYS_msgget SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend
            SYS_mq_timedreceive SYS_mq_notify SYS_mq_getsetattr;
        "asynchronous file transfer of databases": SYS_io_setup SYS_io_destroy SYS_io_submit SYS_io_cancel SYS_io_getevents;
        "a program may confine itself further": SYS_seccomp SYS_landlock_create_ruleset SYS_landlock_add_rule
            SYS_landlock_restrict_self;
        "the execution domain, as it is": SYS_personality;
        "futexes of newer libraries": SYS_futex_waitv;
        #[cfg(target_arch = "x86_64")]
        "older forms that libraries still use": SYS_fork SYS_vfork SYS_alarm SYS_pause SYS_getpgrp SYS_creat SYS_mknod SYS_chown
            SYS_lchown SYS_utime SYS_utimes SYS_futimesat SYS_getdents SYS_ustat SYS_inotify_init SYS_signalfd SYS_setrlimit SYS_fchmodat2;
    });
    allowed
}

/// What would reach out of the sandbox, or into the kernel.
pub(super) fn refused() -> Vec<Call> {
    let mut refused = calls! {
        "other namespaces, mounts and roots": SYS_unshare SYS_setns SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_fsopen
            SYS_fsmount SYS_fsconfig SYS_fspick SYS_move_mount SYS_open_tree SYS_mount_setattr SYS_sethostname
            SYS_setdomainname;
    };
    refused.extend(into_the_kernel());
    refused.extend(NAMESPACE_FLAGS.iter().map(|flag| {
        let flag = flag.cast_unsigned();
        call_when!(
            SYS_clone,
            When::Bits {
                argument: 0,
                mask: flag,
                bits: flag
            },
            "a process in a namespace of its own"
        )
    }));
    refused.extend([
        call_when!(
            SYS_socket,
            When::NoneOf { argument: 0, values: &[libc::AF_UNIX as u32, libc::AF_INET as u32, libc::AF_INET6 as u32] },
            "only Unix and IP sockets; packet, netlink, vsock, alg and the others reach into the kernel"
        ),
        call_when!(
            SYS_socketpair,
            When::NoneOf { argument: 0, values: &[libc::AF_UNIX as u32] },
            "only Unix socket pairs"
        ),
        call_when!(
            SYS_personality,
            When::NoneOf { argument: 0, values: &[0, u32::MAX] },
            "other execution domains switch protections off"
        ),
        call_when!(
            SYS_ioctl,
            When::Bits { argument: 1, mask: u32::MAX, bits: libc::TIOCSTI as u32 },
            "would type into a terminal that somebody else reads"
        ),
        call_when!(
            SYS_ioctl,
            When::Bits { argument: 1, mask: u32::MAX, bits: 0x541C },
            "TIOCLINUX would paste into a console that somebody else reads"
        ),
        call_when!(
            SYS_ioctl,
            When::Bits { argument: 1, mask: u32::MAX, bits: libc::TIOCSETD as u32 },
            "TIOCSETD would have the kernel load a line discipline, for modems and radios, into the sandbox's terminal"
        ),
        call_when!(
            SYS_ioctl,
            When::Bits { argument: 1, mask: u32::MAX, bits: libc::TIOCCONS as u32 },
            "TIOCCONS would take over what the host's console shows"
        ),
    ]);
    refused
}

/// What neither a sandbox nor the launcher ever needs.
pub(super) fn into_the_kernel() -> Vec<Call> {
    calls! {
        "other processes' memory and descriptors": SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_pidfd_getfd
            SYS_kcmp SYS_process_madvise SYS_process_mrelease;
        "kernel interfaces with a history of holes": SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_io_uring_setup
            SYS_io_uring_enter SYS_io_uring_register SYS_keyctl SYS_add_key SYS_request_key SYS_lookup_dcookie SYS_nfsservctl
            SYS_vhangup;
        "the kernel itself": SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_reboot SYS_swapon SYS_swapoff
            SYS_acct SYS_quotactl SYS_quotactl_fd SYS_syslog SYS_settimeofday SYS_clock_settime SYS_adjtimex SYS_clock_adjtime;
        "files by handle, around every path rule": SYS_open_by_handle_at SYS_name_to_handle_at;
        "events of the whole host": SYS_fanotify_init SYS_fanotify_mark;
        "placement of pages, across processes": SYS_move_pages SYS_migrate_pages SYS_mbind SYS_set_mempolicy;
        #[cfg(target_arch = "x86_64")]
        "ports and tables of the processor, modules by file": SYS_iopl SYS_ioperm SYS_modify_ldt SYS_kexec_file_load SYS_uselib
            SYS__sysctl;
    }
}
