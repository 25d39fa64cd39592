//! What takes one call or a few: each is tried for real, and what happened is said in one word.
//!
//! Each is tried in a process of its own, so that what one achieves does not help the next, and cleans up after itself where it
//! succeeds: without a sandbox around it, most of them do, and a test runs them there to see that they can. Where a filter of
//! ours answers, the error is exactly the filter's; where a kernel does, its choice of error is its own business, and `an error`
//! is expected. What gVisor gives, because it is of the sandbox's own kernel and nothing of the host's, is a blank there and not
//! tried.

use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
};
use paw_confine::sys::{Knock, knock};

use crate::attempts::{
    abstract_sockets, became_root, below_cgroups, bound, connect, contents, create, descriptors,
    device, entered, file_of_the_neighbour, foreign_processes, held_open, interfaces, listed,
    memory_of_the_parent, mounted, name_in_cgroup, opened, pivoted, port_of_the_neighbour,
    process_of_the_neighbour, reach_the_host, read, release_agent, rooted, said, set_uid,
    socket_of_the_neighbour, spared, start_sockets, strangers, taken, through_a_symlink, traced,
    write,
};

/// One thing to try.
pub(crate) struct Probe {
    pub(crate) name: &'static str,
    /// What must happen natively, and on gVisor.
    native: &'static str,
    gvisor: &'static str,
    pub(crate) attempt: fn() -> String,
}

impl Probe {
    /// What must happen in this runtime.
    pub(crate) fn expected(&self, runtime: &str) -> &'static str {
        match (runtime, self.native) {
            ("gvisor", _) => self.gvisor,
            // Natively landlock's answer, which nobody puts on for a container of a shim: there it is the kernel's own.
            ("shim", "EACCES") => "an error",
            (_, native) => native,
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
    "mount a file system", "EPERM", "an error", mounted("tmpfs");
    "mount the host's proc", "EPERM", "an error", mounted("proc");
    "mount the control groups", "EPERM", "an error", mounted("cgroup2");
    "mount the directory of another over one's own", "EPERM", "an error", bound();
    "open a file system by fsopen", "EPERM", "an error", said(knock(Knock::FsOpen));
    "make a mount namespace", "EPERM", "", said(unshare(CloneFlags::CLONE_NEWNS));
    "make a user namespace", "EPERM", "", said(unshare(CloneFlags::CLONE_NEWUSER));
    "make a network namespace", "EPERM", "an error", said(unshare(CloneFlags::CLONE_NEWNET));
    "make a namespace of processes", "EPERM", "", said(unshare(CloneFlags::CLONE_NEWPID));
    "enter the namespaces of the first process", "EPERM", "an error", entered("/proc/1/ns/mnt");
    "pivot_root", "EPERM", "an error", pivoted();
    "change the root", "EPERM", "an error", rooted();
    "trace the first process", "EPERM", "an error", traced(1);
    "take a descriptor of the first process", "EPERM", "an error", taken(1);
    "read the memory of another process by call", "EPERM", "", memory_of_the_parent();
    "signal a process outside", "none of 4096", "none of 4096", strangers();
    "see a process outside", "none", "none", foreign_processes();
    "read /etc/shadow", "ENOENT", "an error", read("/etc/shadow");
    "read /etc/shadow through a symlink", "ENOENT", "an error", through_a_symlink();
    "read /etc/shadow by ..", "ENOENT", "an error", read("/tmp/../../../../../../etc/shadow");
    "read the host through /proc/1/root", "EACCES", "an error", read("/proc/1/root/etc/shadow");
    "read the host through its working directory", "EACCES", "an error", read("/proc/1/cwd/etc/shadow");
    "open the memory of the first process", "EACCES", "an error", opened("/proc/1/mem");
    "read the memory of the kernel", "none", "none", contents("/proc/kcore");
    "find an open descriptor", "none", "none", descriptors();
    "find a socket or a directory held open by anybody", "none", "none", held_open();
    "open /dev/mem", "ENOENT", "an error", write("/dev/mem");
    "open /dev/kvm", "ENOENT", "an error", write("/dev/kvm");
    "make a device and open it", "EACCES", "an error", device();
    "find a disk in /sys", "none", "none", listed("/sys/block");
    "find the security modules in /sys", "none", "none", listed("/sys/kernel/security");
    "find a cgroup", "none", "none", listed("/sys/fs/cgroup");
    "find out its name from its cgroup", "none", "none", name_in_cgroup();
    "write to the root", "EROFS", "an error", create("/file");
    "write beside paw-init", "EROFS", "an error", create("/.paw/file");
    "write to paw-init", "EACCES", "an error", write("/.paw/init");
    "write core_pattern", "EACCES", "an error", write("/proc/sys/kernel/core_pattern");
    "write sysrq-trigger", "an error", "an error", write("/proc/sysrq-trigger");
    "write a release_agent", "ENOENT", "an error", release_agent();
    "write the list of a cgroup's processes", "ENOENT", "an error", below_cgroups("cgroup.procs");
    "be spared when memory is short", "EACCES", "", spared();
    "become root by a set-uid file", "user 232", "user 232", set_uid();
    "become root by a call", "an error", "an error", became_root();
    "load a BPF program", "EPERM", "an error", said(knock(Knock::Bpf));
    "use io_uring", "EPERM", "", said(knock(Knock::IoUringSetup));
    "use userfaultfd", "EPERM", "an error", said(knock(Knock::Userfaultfd));
    "use the kernel's keyrings", "EPERM", "", said(knock(Knock::Keyctl));
    "add a key", "EPERM", "an error", said(knock(Knock::AddKey));
    "watch by perf_event_open", "EPERM", "an error", said(knock(Knock::PerfEventOpen));
    "load a kernel", "EPERM", "refused", said(knock(Knock::KexecLoad));
    "load a kernel from a file", "EPERM", "refused", said(knock(Knock::KexecFileLoad));
    "load a module", "EPERM", "refused", said(knock(Knock::InitModule));
    "load a module from a file", "EPERM", "refused", said(knock(Knock::FinitModule));
    "open a file by its handle", "EPERM", "an error", said(knock(Knock::OpenByHandleAt));
    "read the kernel's log", "EPERM", "", said(knock(Knock::Syslog));
    "make a raw socket", "EPERM", "an error", said(socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Icmp));
    "make a packet socket", "EPERM", "an error", said(socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None));
    "make a vsock socket", "EPERM", "an error", said(socket(AddressFamily::Vsock, SockType::Stream, SockFlag::empty(), None));
    "find an abstract socket of the host", "none", "none", abstract_sockets();
    "reach the launcher's socket", "ENOENT", "an error", connect("/run/pawd/launcher.sock");
    "reach pawd's socket", "ENOENT", "an error", connect("/run/pawd/control.sock");
    "reach a start socket", "none", "none", start_sockets();
    "list the bundles of others", "none", "none", listed("/var/lib/paw-launcher/bundles");
    "list the workspaces of others", "none", "none", listed("/var/lib/paw-launcher/workspaces");
    "reach a port of another sandbox", "an error", "an error", port_of_the_neighbour();
    "reach an abstract socket of another sandbox", "an error", "an error", socket_of_the_neighbour();
    "read a file of another sandbox", "ENOENT", "ENOENT", file_of_the_neighbour();
    "signal another sandbox", "none", "none", process_of_the_neighbour();
    "find an interface beside the loopback", "none", "none", interfaces();
    "reach an address of the host", "an error", "an error", reach_the_host();
};
