//! The only `unsafe` of the project: system calls that no crate of ours wraps safely.
#![allow(unsafe_code)]

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::Mutex,
};

use nix::{
    errno::Errno,
    unistd::{ForkResult, Gid, Pid},
};

/// The landlock ABI of the running kernel; 0 where landlock is not built in or not switched on.
#[must_use]
pub fn landlock_abi() -> u32 {
    const CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with a null attribute, size 0 and this flag the call reads and writes no memory of ours; it only returns a number.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(abi).unwrap_or(0)
}

/// Supplementary groups of the process that connected to or made this socket, from the credentials at that time.
///
/// # Errors
/// What `getsockopt` says; `ERANGE` when there are more than 1024 groups.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<Gid>> {
    let mut groups = [0 as libc::gid_t; 1024];
    let mut length = libc::socklen_t::try_from(size_of_val(&groups)).map_err(|_| Errno::ERANGE)?;
    // SAFETY: the pointer and the length describe `groups`, which outlives the call, and the kernel writes at most `length`
    // bytes; `length` is ours as well.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    let count = usize::try_from(length).map_err(|_| Errno::ERANGE)? / size_of::<libc::gid_t>();
    Ok(groups[..count].iter().copied().map(Gid::from_raw).collect())
}

/// Asks for the current execution domain without changing it; succeeds for every process that no filter stops.
///
/// # Errors
/// `EPERM` when a seccomp filter refuses the call.
pub fn personality() -> Result<i32, Errno> {
    const ASK: libc::c_ulong = 0xffff_ffff;
    // SAFETY: with this argument the call takes no pointer and changes nothing.
    Errno::result(unsafe { libc::personality(ASK) })
}

/// Forks a process that has one thread: 0 threads are lost, so the child may do whatever the parent may.
///
/// Returns the child's pid in the parent and nothing in the child.
///
/// # Errors
/// When the process has more threads, or the kernel has no room.
pub fn fork_alone() -> io::Result<Option<Pid>> {
    crate::alone().map_err(io::Error::other)?;
    // SAFETY: the process has exactly one thread, as just checked, so no lock can be held by a thread that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Ends the process at once: no destructors, no buffers of the parent written a second time.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes a number and does not return; a forked child needs none of the work that `exit` would do.
    unsafe { libc::_exit(code) }
}

/// Takes over a descriptor that this process was started with, by its number, and makes it close-on-exec.
///
/// # Errors
/// When the number is 0 to 2, not open, or was taken over before.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    static TAKEN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
    let bad = |why: &str| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("descriptor {number} {why}"),
        )
    };
    if number < 3 {
        return Err(bad("is one of stdin, stdout and stderr"));
    }
    let mut taken = TAKEN
        .lock()
        .map_err(|_| bad("cannot be taken over after a panic"))?;
    if taken.contains(&number) {
        return Err(bad("was taken over already"));
    }
    // SAFETY: the borrow ends with the statement, and `fcntl` on a number that is not open only fails.
    rustix::io::fcntl_setfd(
        unsafe { BorrowedFd::borrow_raw(number) },
        rustix::io::FdFlags::CLOEXEC,
    )?;
    taken.insert(number);
    // SAFETY: the number is open, as just seen, and the set above lets it become an `OwnedFd` only once. It is for numbers
    // that whoever started us has named, which nothing else in the process owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A call that with all arguments zero can neither read nor write memory of ours, nor end or stop this process.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "each is the name of a system call")]
pub enum Knock {
    Bpf,
    IoUringSetup,
    Userfaultfd,
    Keyctl,
    AddKey,
    PerfEventOpen,
    KexecLoad,
    InitModule,
    FinitModule,
    OpenByHandleAt,
    ProcessVmReadv,
    FsOpen,
    Syslog,
}

impl Knock {
    const fn number(self) -> libc::c_long {
        match self {
            Self::Bpf => libc::SYS_bpf,
            Self::IoUringSetup => libc::SYS_io_uring_setup,
            Self::Userfaultfd => libc::SYS_userfaultfd,
            Self::Keyctl => libc::SYS_keyctl,
            Self::AddKey => libc::SYS_add_key,
            Self::PerfEventOpen => libc::SYS_perf_event_open,
            Self::KexecLoad => libc::SYS_kexec_load,
            Self::InitModule => libc::SYS_init_module,
            Self::FinitModule => libc::SYS_finit_module,
            Self::OpenByHandleAt => libc::SYS_open_by_handle_at,
            Self::ProcessVmReadv => libc::SYS_process_vm_readv,
            Self::FsOpen => libc::SYS_fsopen,
            Self::Syslog => libc::SYS_syslog,
        }
    }
}

/// Knocks at a call that no library wraps, with six zeros: enough to learn whether anybody answers.
///
/// # Errors
/// What the kernel, or a filter in front of it, answers.
pub fn knock(call: Knock) -> Result<i64, Errno> {
    // SAFETY: every call in the list takes at most six arguments; zeros are null pointers, lengths of nothing, no flags and
    // command 0, none of which is more than a question. A descriptor that one of them might give is closed with the process.
    Errno::result(unsafe {
        libc::syscall(
            call.number(),
            0_usize,
            0_usize,
            0_usize,
            0_usize,
            0_usize,
            0_usize,
        )
    })
}
