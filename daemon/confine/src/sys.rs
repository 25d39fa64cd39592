//! The only `unsafe` of the project: system calls that no crate of ours wraps safely.
#![allow(unsafe_code)]

use std::{
    collections::BTreeSet,
    fmt, io,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::NonNull,
    sync::Mutex,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::wait::waitpid,
    unistd::{ForkResult, Gid, Pid},
};

/// Memory for a few secret bytes: never swapped, never in a core dump, all zeros in a child, wiped before it is given back.
///
/// Each has pages of its own, so it is for keys and for values that are about to be used, not for many at once; the kernel bounds how
/// much a process may lock (`RLIMIT_MEMLOCK`).
pub struct Locked {
    start: NonNull<u8>,
    mapped: usize,
    len: usize,
}

// SAFETY: the pages belong to this value alone; it hands out references only by the rules of borrowing.
unsafe impl Send for Locked {}
// SAFETY: the same; through a shared reference nothing is written.
unsafe impl Sync for Locked {}

impl Locked {
    /// That many zeros.
    ///
    /// # Errors
    /// What the kernel says: `ENOMEM` or `EPERM` when this process may not lock as much.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        // SAFETY: the call takes no pointer.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) })
            .map_err(|_| io::Error::last_os_error())?;
        let mapped = len.max(1).next_multiple_of(page);
        // SAFETY: no address is asked for and no descriptor given, so this only makes new pages.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or(Errno::ENOMEM)?;
        // From here on dropping it gives the pages back.
        let locked = Self { start, mapped, len };
        let at = locked.start.as_ptr().cast();
        // SAFETY: the range is exactly the mapping that was just made; none of the three calls changes what is in it here.
        let done = unsafe {
            [
                libc::mlock(at, mapped),
                libc::madvise(at, mapped, libc::MADV_DONTDUMP),
                libc::madvise(at, mapped, libc::MADV_WIPEONFORK),
            ]
        };
        for result in done {
            Errno::result(result)?;
        }
        Ok(locked)
    }
}

impl Deref for Locked {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes of the mapping are there and were set, and only a mutable borrow of this value writes to them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and this borrow is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Locked {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for Locked {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Locked(..)")
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        for byte in self.deref_mut() {
            // SAFETY: a mutable reference may be written through. Volatile, because nobody reads it again and a plain write could be
            // left out.
            unsafe { std::ptr::write_volatile(byte, 0) };
        }
        // SAFETY: the mapping is ours and nobody has a reference into it any more. It is unlocked with its end.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}

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

/// Bytes that a [`Newborn`] has for two system calls.
const STACK: usize = 16 * 1024;

/// A process in a user namespace of its own that does nothing there and ends with this value.
///
/// It borrows our memory where a fork would copy the tables of all of it, and every page that we write while it is there.
#[derive(Debug)]
pub struct Newborn {
    pid: Pid,
    /// Whoever waits for the end of this pipe lives until we close it.
    lifeline: Option<OwnedFd>,
    /// Freed once it is known to be gone.
    lent: ManuallyDrop<Box<Lent>>,
}

/// What a [`Newborn`] uses of our memory.
#[derive(Debug)]
struct Lent {
    /// Its copies of both ends of its lifeline.
    reads: i32,
    writes: i32,
    stack: [u8; STACK],
}

/// All that a [`Newborn`] does: waits until nobody holds the other end. What it calls are system calls without the C library,
/// because that would note their errors where ours are noted.
extern "C" fn wait_for_the_end(lent: *mut libc::c_void) -> libc::c_int {
    let lent = lent.cast::<Lent>();
    // SAFETY: `Newborn` keeps what is lent until this process is gone, and writes nothing to it. The numbers are copies of open
    // descriptors, which nothing else in this process owns.
    unsafe {
        rustix::io::close((*lent).writes);
        let reads = BorrowedFd::borrow_raw((*lent).reads);
        while rustix::io::read(reads, &mut [0; 1]) == Err(rustix::io::Errno::INTR) {}
    }
    0
}

impl Newborn {
    /// Makes one.
    ///
    /// # Errors
    /// When the process has more threads, the kernel has no room, or it lets nobody of ours have such a namespace.
    pub fn in_user_namespace() -> io::Result<Self> {
        crate::alone().map_err(io::Error::other)?;
        let (reads, writes) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let mut lent = Box::new(Lent {
            reads: reads.as_raw_fd(),
            writes: writes.as_raw_fd(),
            stack: [0; STACK],
        });
        let flags = libc::CLONE_NEWUSER | libc::CLONE_VM | libc::SIGCHLD;
        let there = std::ptr::from_mut(&mut *lent);
        // SAFETY: the process has exactly one thread, as just checked. The child shares our memory and runs beside us, on the
        // stack that it is given, whose end is aligned here; both it and the numbers are kept until it was waited for.
        let child = unsafe {
            let top = (&raw mut (*there).stack).cast::<u8>().add(STACK);
            let top = top.sub(top.addr() % 16);
            libc::clone(wait_for_the_end, top.cast(), flags, there.cast())
        };
        Ok(Self {
            pid: Pid::from_raw(Errno::result(child)?),
            lifeline: Some(writes),
            lent: ManuallyDrop::new(lent),
        })
    }

    /// Its process id, as long as this value is there.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        self.lifeline = None;
        let mut waited = Err(Errno::EINTR);
        while waited == Err(Errno::EINTR) {
            waited = waitpid(self.pid, None);
        }
        // Nobody else waits for it. Should its end be unknown all the same, it keeps what it uses.
        if waited.is_ok() {
            // SAFETY: it is gone, and this value is not used again.
            unsafe { ManuallyDrop::drop(&mut self.lent) };
        }
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

/// Makes a mount, and every mount below it, nosuid and nodev, and read-only where asked.
///
/// # Errors
/// What `mount_setattr` says.
pub fn restrict_mounts(tree: BorrowedFd<'_>, read_only: bool) -> Result<(), Errno> {
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    const RDONLY: u64 = 1;
    const NOSUID: u64 = 2;
    const NODEV: u64 = 4;
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let attributes = Attributes {
        set: NOSUID | NODEV | if read_only { RDONLY } else { 0 },
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: the path is an empty text that ends with a zero, and the pointer and the size describe `attributes`; both outlive
    // the call, which only reads them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | AT_RECURSIVE,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    Errno::result(done).map(drop)
}

/// A call that no library wraps safely, made in earnest and with the smallest thing to ask for: where nobody forbids it, it works,
/// and what it gave ends with this process. Four of them would change the host if they worked, or cannot be made to work without
/// a file that we do not have; they are made with zeros, and a kernel that is willing complains of those.
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
    KexecFileLoad,
    OpenByHandleAt,
    FsOpen,
    Syslog,
}

/// Memory for what a call reads and writes, as long as the longest structure of them.
#[repr(C, align(8))]
struct Room([u8; 256]);

impl Room {
    /// These numbers of 32 bits, and zeros behind them.
    fn of(numbers: &[u32]) -> Self {
        let mut room = [0; 256];
        for (place, number) in room.chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        Self(room)
    }

    fn address(&mut self) -> usize {
        self.0.as_mut_ptr() as usize
    }
}

/// Knocks at a call: enough to learn whether anybody answers.
///
/// # Errors
/// What the kernel, or a filter in front of it, answers.
pub fn knock(call: Knock) -> Result<i64, Errno> {
    const SESSION_KEYRING: usize = -3_isize as usize;
    const PROCESS_KEYRING: usize = -2_isize as usize;
    let none = usize::MAX;
    let here = libc::AT_FDCWD as usize;
    // A map of one element: type, length of a key, length of a value, elements.
    let mut map = Room::of(&[2, 4, 4, 1]);
    // A software clock: type, length of this structure in its first version.
    let mut event = Room::of(&[1, 64]);
    // The handle of a file: room for as many bytes as there are behind its two numbers.
    let mut handle = Room::of(&[128, 0]);
    let mut room = Room::of(&[]);
    let (number, arguments) = match call {
        Knock::Bpf => (libc::SYS_bpf, [0, map.address(), 64, 0, 0, 0]),
        Knock::IoUringSetup => (libc::SYS_io_uring_setup, [1, room.address(), 0, 0, 0, 0]),
        Knock::Userfaultfd => (libc::SYS_userfaultfd, [0; 6]),
        // Its number, and make it if there is none.
        Knock::Keyctl => (libc::SYS_keyctl, [0, SESSION_KEYRING, 1, 0, 0, 0]),
        Knock::AddKey => (
            libc::SYS_add_key,
            [
                c"user".as_ptr() as usize,
                c"paw-probe".as_ptr() as usize,
                c"x".as_ptr() as usize,
                1,
                PROCESS_KEYRING,
                0,
            ],
        ),
        Knock::PerfEventOpen => (
            libc::SYS_perf_event_open,
            [event.address(), 0, none, none, 0, 0],
        ),
        Knock::KexecLoad => (libc::SYS_kexec_load, [0; 6]),
        Knock::InitModule => (libc::SYS_init_module, [0; 6]),
        Knock::FinitModule => (libc::SYS_finit_module, [none, 0, 0, 0, 0, 0]),
        Knock::KexecFileLoad => (libc::SYS_kexec_file_load, [none, none, 0, 0, 0, 0]),
        Knock::OpenByHandleAt => {
            let path = c"/".as_ptr() as usize;
            ask(
                libc::SYS_name_to_handle_at,
                [here, path, handle.address(), room.address(), 0, 0],
            )?;
            (
                libc::SYS_open_by_handle_at,
                [here, handle.address(), 0, 0, 0, 0],
            )
        }
        Knock::FsOpen => (
            libc::SYS_fsopen,
            [c"tmpfs".as_ptr() as usize, 0, 0, 0, 0, 0],
        ),
        // How long it is.
        Knock::Syslog => (libc::SYS_syslog, [10, 0, 0, 0, 0, 0]),
    };
    ask(number, arguments)
}

/// Makes a call of [`knock`].
fn ask(number: libc::c_long, [a, b, c, d, e, f]: [usize; 6]) -> Result<i64, Errno> {
    // SAFETY: it is called by `knock` alone. Every address there is of a constant that the call reads, or of a `Room` on the stack
    // of our caller, which is longer than any structure that these calls read or write; every other argument is a number. A
    // descriptor that one of them gives is closed with the process.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}
