//! What takes one call or a few: each is tried for real, and what happened is said in one word.
//!
//! Each is tried in a process of its own, so that what one achieves does not help the next. Where a filter of ours answers, the
//! error is exactly the filter's; where a kernel does, its choice of error is its own business, and `an error` is expected. What
//! gVisor gives, because it is of the sandbox's own kernel and nothing of the host's, is a blank there and not tried.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixStream,
    },
    path::Path,
    process::Command,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        ptrace,
        signal::kill,
        socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
    },
    unistd::{Pid, pivot_root},
};
use paw_confine::sys::{Knock, knock};

/// One thing to try.
pub(crate) struct Probe {
    pub(crate) name: &'static str,
    native: &'static str,
    gvisor: &'static str,
    pub(crate) attempt: fn() -> String,
}

impl Probe {
    /// What must happen in this runtime.
    pub(crate) fn expected(&self, runtime: &str) -> &'static str {
        if runtime == "gvisor" {
            self.gvisor
        } else {
            self.native
        }
    }
}

/// Names of calls and files that are tried, with what native and gVisor answer.
macro_rules! probes {
    ($($name:literal, $native:literal, $gvisor:literal, $attempt:expr;)+) => {
        &[$(Probe { name: $name, native: $native, gvisor: $gvisor, attempt: || $attempt }),+]
    };
}

/// Every probe.
pub(crate) const ALL: &[Probe] = probes! {
    "mount a file system", "EPERM", "an error", said(mount(Some("none"), "/tmp", Some("tmpfs"), MsFlags::empty(), None::<&str>));
    "mount the host's proc", "EPERM", "an error", said(mount(Some("proc"), "/tmp", Some("proc"), MsFlags::empty(), None::<&str>));
    "open a file system by fsopen", "EPERM", "an error", said(knock(Knock::FsOpen));
    "make a mount namespace", "EPERM", "", said(unshare(CloneFlags::CLONE_NEWNS));
    "make a user namespace", "EPERM", "", said(unshare(CloneFlags::CLONE_NEWUSER));
    "make a network namespace", "EPERM", "an error", said(unshare(CloneFlags::CLONE_NEWNET));
    "pivot_root", "EPERM", "an error", said(pivot_root("/tmp", "/tmp"));
    "trace the first process", "EPERM", "an error", said(ptrace::attach(Pid::from_raw(1)));
    "read the memory of another process by call", "EPERM", "an error", said(knock(Knock::ProcessVmReadv));
    "signal a process outside", "none of 65536", "none of 65536", strangers();
    "see a process outside", "none", "none", foreign_processes();
    "read /etc/shadow", "ENOENT", "an error", read("/etc/shadow");
    "read /etc/shadow through a symlink", "ENOENT", "an error", through_a_symlink();
    "read /etc/shadow by ..", "ENOENT", "an error", read("/tmp/../../../../../../etc/shadow");
    "read the host through /proc/1/root", "EACCES", "an error", read("/proc/1/root/etc/shadow");
    "read the memory of the first process", "EACCES", "an error", read("/proc/1/mem");
    "find an open descriptor", "none", "none", descriptors();
    "open /dev/mem", "ENOENT", "an error", write("/dev/mem");
    "open /dev/kvm", "ENOENT", "an error", write("/dev/kvm");
    "find anything in /sys", "none", "none", listed("/sys/kernel/security");
    "find a cgroup", "none", "none", listed("/sys/fs/cgroup");
    "write to the root", "EROFS", "an error", create("/file");
    "write beside paw-init", "EROFS", "an error", create("/.paw/file");
    "write to paw-init", "EACCES", "an error", write("/.paw/init");
    "write core_pattern", "EACCES", "an error", write("/proc/sys/kernel/core_pattern");
    "write sysrq-trigger", "an error", "an error", write("/proc/sysrq-trigger");
    "write release_agent", "ENOENT", "an error", write("/sys/fs/cgroup/release_agent");
    "become root by a set-uid file", "user 232", "user 232", set_uid();
    "load a BPF program", "EPERM", "an error", said(knock(Knock::Bpf));
    "use io_uring", "EPERM", "an error", said(knock(Knock::IoUringSetup));
    "use userfaultfd", "EPERM", "an error", said(knock(Knock::Userfaultfd));
    "use the kernel's keyrings", "EPERM", "an error", said(knock(Knock::Keyctl));
    "add a key", "EPERM", "an error", said(knock(Knock::AddKey));
    "watch by perf_event_open", "EPERM", "an error", said(knock(Knock::PerfEventOpen));
    "load a kernel", "EPERM", "an error", said(knock(Knock::KexecLoad));
    "load a module", "EPERM", "an error", said(knock(Knock::InitModule));
    "load a module from a file", "EPERM", "an error", said(knock(Knock::FinitModule));
    "open a file by its handle", "EPERM", "an error", said(knock(Knock::OpenByHandleAt));
    "read the kernel's log", "EPERM", "an error", said(knock(Knock::Syslog));
    "make a raw socket", "EPERM", "an error", said(socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Icmp));
    "make a packet socket", "EPERM", "an error", said(socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None));
    "make a vsock socket", "EPERM", "an error", said(socket(AddressFamily::Vsock, SockType::Stream, SockFlag::empty(), None));
    "find an abstract socket of the host", "none", "none", abstract_sockets();
    "reach the launcher's socket", "ENOENT", "an error", connect("/run/pawd/launcher.sock");
    "reach pawd's socket", "ENOENT", "an error", connect("/run/pawd/control.sock");
    "list the bundles of others", "none", "none", listed("/var/lib/paw-launcher/bundles");
    "find an interface beside the loopback", "none", "none", interfaces();
};

/// The name of the error, or that it worked.
fn said<T>(result: Result<T, Errno>) -> String {
    match result {
        Ok(_) => "it worked".to_owned(),
        Err(errno) => format!("{errno:?}"),
    }
}

fn errno(error: &std::io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}

fn said_of_file<T>(result: std::io::Result<T>) -> String {
    said(result.map_err(|error| errno(&error)))
}

fn read(path: &str) -> String {
    said_of_file(fs::read(path))
}

fn write(path: &str) -> String {
    said_of_file(OpenOptions::new().write(true).open(path))
}

fn create(path: &str) -> String {
    said_of_file(File::create(path))
}

fn connect(path: &str) -> String {
    said_of_file(UnixStream::connect(path))
}

fn through_a_symlink() -> String {
    match symlink("/etc/shadow", "/tmp/link") {
        Ok(()) => read("/tmp/link"),
        Err(error) => format!("no symlink: {error}"),
    }
}

fn listed(path: &str) -> String {
    match fs::read_dir(path).map(Iterator::count) {
        Ok(0) | Err(_) => "none".to_owned(),
        Ok(count) => format!("{count} entries"),
    }
}

/// Asks for every process id whether it may be signalled, beside those that are seen in `/proc`.
fn strangers() -> String {
    let reached = (1..=65_536)
        .filter(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        .filter(|pid| kill(Pid::from_raw(*pid), None) != Err(Errno::ESRCH))
        .count();
    if reached == 0 {
        "none of 65536".to_owned()
    } else {
        format!("{reached} of 65536")
    }
}

fn foreign_processes() -> String {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    let foreign = names
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok())
        .filter(|name| !matches!(name.trim(), "init" | "paw-probe" | "exe"))
        .count();
    count(foreign, "processes")
}

/// Beside the three streams, and the one by which they are listed.
fn descriptors() -> String {
    let open = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok())
        .filter(|number| *number > 2)
        .count();
    count(open.saturating_sub(1), "descriptors")
}

fn interfaces() -> String {
    let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let other = text
        .lines()
        .skip(2)
        .filter(|line| !line.trim_start().starts_with("lo:"))
        .count();
    count(other, "interfaces")
}

fn abstract_sockets() -> String {
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    count(
        text.lines().filter(|line| line.contains(" @")).count(),
        "sockets",
    )
}

fn count(number: usize, of: &str) -> String {
    if number == 0 {
        "none".to_owned()
    } else {
        format!("{number} {of}")
    }
}

/// Makes a copy of this program set-uid and asks it who it is; 1000 is 232 as an exit code.
fn set_uid() -> String {
    let copy = "/tmp/set-uid";
    let made = fs::copy("/proc/self/exe", copy)
        .and_then(|_| fs::set_permissions(copy, fs::Permissions::from_mode(0o6755)));
    if let Err(error) = made {
        return format!("no copy: {error}");
    }
    match Command::new(copy).arg("euid").status() {
        Ok(status) => status
            .code()
            .map_or_else(|| "killed".to_owned(), |code| format!("user {code}")),
        Err(error) => said(Err::<(), _>(errno(&error))),
    }
}
