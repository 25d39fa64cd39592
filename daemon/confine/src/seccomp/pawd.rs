//! What pawd may call: an async runtime with threads, TLS to providers, one database file, Unix sockets, the journal.
//!
//! It executes nothing and forks nothing. What pawd really calls is found by running it: the tests of `it` and `e2e` run all of
//! it under this list, and a call that is missing ends it with `SIGSYS`.

use super::{Call, Otherwise, Profile, When, call_when, calls};

/// The lists of pawd.
#[must_use]
pub fn pawd() -> Profile {
    let mut allowed = runtime();
    allowed.extend(files());
    allowed.extend(sockets());
    allowed.push(call_when!(
        SYS_clone,
        When::Bits {
            argument: 0,
            mask: libc::CLONE_THREAD as u32,
            bits: libc::CLONE_THREAD as u32
        },
        "threads of the async runtime; without this flag it would be a process"
    ));
    Profile {
        process: "pawd",
        allowed,
        refused: refused(),
        absent: absent(),
        otherwise: Otherwise::Kill,
    }
}

/// What every threaded program of ours needs to live and to end.
pub(super) fn runtime() -> Vec<Call> {
    calls! {
        "memory of the allocator, of thread stacks, of mapped files": SYS_brk SYS_mmap SYS_munmap SYS_mremap SYS_mprotect
            SYS_madvise SYS_membarrier SYS_mincore;
        "secrets kept out of swap": SYS_mlock SYS_mlock2 SYS_munlock;
        "locks and wake-ups between threads": SYS_futex SYS_set_robust_list SYS_get_robust_list SYS_rseq SYS_sched_yield;
        "how many threads to start": SYS_sched_getaffinity SYS_prlimit64 SYS_sysinfo SYS_getcpu;
        "names and registration of threads": SYS_prctl SYS_set_tid_address SYS_gettid SYS_sigaltstack;
        "signals: SIGTERM and SIGHUP arrive here, a panic aborts here": SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn
            SYS_rt_sigtimedwait SYS_signalfd4 SYS_tgkill SYS_tkill SYS_restart_syscall;
        "time, timers and waiting": SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday
            SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime;
        "readiness of descriptors": SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_ppoll SYS_pselect6
            SYS_eventfd2;
        "random numbers": SYS_getrandom;
        "who and what we are": SYS_getpid SYS_getppid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getgroups
            SYS_getresuid SYS_getresgid SYS_uname SYS_capget SYS_getrusage SYS_getsid SYS_getpgid;
        "the end of a thread and of the process": SYS_exit SYS_exit_group;
        "pipes and copies of descriptors": SYS_pipe2 SYS_dup SYS_dup3 SYS_fcntl SYS_close SYS_close_range;
        "reading and writing": SYS_read SYS_write SYS_readv SYS_writev;
        "terminal or not, bytes to read, non-blocking mode": SYS_ioctl;
        #[cfg(target_arch = "x86_64")]
        "older forms that glibc still uses": SYS_arch_prctl SYS_poll SYS_select SYS_epoll_wait SYS_epoll_create SYS_pipe
            SYS_dup2 SYS_time SYS_eventfd SYS_getrlimit;
    }
}

/// Files: the store, configuration, logs.
pub(super) fn files() -> Vec<Call> {
    calls! {
        "open and look at files": SYS_openat SYS_openat2 SYS_newfstatat SYS_fstat SYS_statx SYS_statfs SYS_fstatfs SYS_faccessat
            SYS_faccessat2 SYS_readlinkat SYS_getdents64 SYS_getcwd SYS_lseek SYS_umask;
        "the store: positioned and vectored transfer, durable, locked, grown and shrunk": SYS_pread64 SYS_pwrite64 SYS_preadv
            SYS_pwritev SYS_preadv2 SYS_pwritev2 SYS_fsync SYS_fdatasync SYS_ftruncate SYS_fallocate
            SYS_flock SYS_msync SYS_fadvise64;
        "make, rename and remove files and directories of ours, with their modes": SYS_mkdirat SYS_unlinkat SYS_renameat2 SYS_linkat
            SYS_symlinkat SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_utimensat;
        "backups are copied inside the kernel": SYS_copy_file_range SYS_sendfile SYS_splice;
        "memory as a file: journal entries that are too long for a datagram": SYS_memfd_create;
        "changes of configuration files": SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch;
        #[cfg(target_arch = "x86_64")]
        "older forms that glibc still uses": SYS_open SYS_stat SYS_lstat SYS_access SYS_readlink SYS_mkdir SYS_rmdir SYS_unlink
            SYS_rename SYS_renameat SYS_chmod SYS_symlink SYS_link
            SYS_sync_file_range;
    }
    .into_iter()
    .chain(RENAMEAT)
    .collect()
}

/// The call behind `rename` of the C library on this architecture, which the `libc` crate does not name.
#[cfg(target_arch = "aarch64")]
const RENAMEAT: [Call; 1] = [Call {
    name: "SYS_renameat",
    nr: 38,
    when: When::Always,
    reason: "rename files of ours",
}];
#[cfg(not(target_arch = "aarch64"))]
const RENAMEAT: [Call; 0] = [];

/// Sockets; landlock and the unit rule over where they lead.
pub(super) fn sockets() -> Vec<Call> {
    calls! {
        "connections to providers and clients": SYS_connect SYS_accept4 SYS_bind SYS_listen SYS_getsockname SYS_getpeername
            SYS_setsockopt SYS_getsockopt SYS_shutdown SYS_socketpair;
        "transfer, datagrams to the journal and to name servers, descriptors from the launcher": SYS_sendto SYS_recvfrom SYS_sendmsg
            SYS_recvmsg SYS_sendmmsg SYS_recvmmsg;
        "a process that was handed over by descriptor": SYS_pidfd_open SYS_pidfd_send_signal SYS_waitid SYS_wait4;
        "sockets; which families is refused below": SYS_socket;
        #[cfg(target_arch = "x86_64")]
        "older form that glibc still uses": SYS_accept;
    }
}

pub(super) fn absent() -> Vec<Call> {
    calls! {
        "its flags are behind a pointer; glibc falls back to clone": SYS_clone3;
    }
}

/// What is asked for by libraries, or by an attacker, and answered with `EPERM`.
pub(super) fn refused() -> Vec<Call> {
    let mut refused = calls! {
        "another user or group would be a way back to root": SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid
            SYS_setresgid SYS_setgroups SYS_setfsuid SYS_setfsgid SYS_capset;
        "other programs": SYS_execve SYS_execveat;
        "other processes' memory and descriptors": SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_pidfd_getfd
            SYS_kcmp SYS_process_madvise;
        "other namespaces and roots": SYS_unshare SYS_setns SYS_chroot SYS_pivot_root SYS_mount SYS_umount2 SYS_fsopen
            SYS_fsmount SYS_move_mount SYS_open_tree SYS_mount_setattr SYS_sethostname SYS_setdomainname;
        "kernel interfaces with a history of holes": SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_io_uring_setup
            SYS_io_uring_enter SYS_io_uring_register SYS_keyctl SYS_add_key SYS_request_key SYS_personality;
        "the kernel itself": SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_reboot SYS_swapon
            SYS_swapoff SYS_acct SYS_quotactl SYS_syslog SYS_settimeofday SYS_clock_settime SYS_adjtimex SYS_clock_adjtime;
        "device nodes": SYS_mknodat;
        "files by handle, around every path rule": SYS_open_by_handle_at SYS_name_to_handle_at;
        "priorities and placement that libraries try to improve": SYS_setpriority SYS_sched_setscheduler SYS_sched_setaffinity
            SYS_sched_setattr SYS_ioprio_set SYS_mbind SYS_set_mempolicy;
        "signals to others by number; only our own threads are signalled": SYS_kill;
        #[cfg(target_arch = "x86_64")]
        "ports and tables of the processor": SYS_iopl SYS_ioperm SYS_modify_ldt;
    };
    refused.push(call_when!(
        SYS_socket,
        When::NoneOf {
            argument: 0,
            values: &[
                libc::AF_UNIX as u32,
                libc::AF_INET as u32,
                libc::AF_INET6 as u32,
                libc::AF_NETLINK as u32
            ]
        },
        "only Unix and IP sockets, and netlink, by which glibc asks for the host's addresses"
    ));
    refused.push(call_when!(
        SYS_ioctl,
        When::Bits {
            argument: 1,
            mask: u32::MAX,
            bits: libc::TIOCSTI as u32
        },
        "would type into the terminal that started us"
    ));
    refused
}
