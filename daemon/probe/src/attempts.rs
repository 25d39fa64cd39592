//! How each thing is tried, and how what happened is said.

use std::{
    fs::{self, File, OpenOptions},
    io::{IoSliceMut, Read as _},
    net::{SocketAddr, TcpStream},
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{PermissionsExt as _, chroot, symlink},
            net::{SocketAddr as UnixAddr, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{
        ptrace,
        signal::kill,
        stat::{Mode, SFlag, makedev, mknod},
        uio::{RemoteIoVec, process_vm_readv},
    },
    unistd::{Pid, Uid, getppid, pivot_root, setresuid},
};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::neighbour;

/// How long somebody who does not answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The name of the error, or that it worked.
pub(crate) fn said<T>(result: Result<T, Errno>) -> String {
    match result {
        Ok(_) => "it worked".to_owned(),
        Err(errno) => format!("{errno:?}"),
    }
}

fn errno(error: &std::io::Error) -> Errno {
    match (error.raw_os_error(), error.kind()) {
        (Some(number), _) => Errno::from_raw(number),
        (None, std::io::ErrorKind::TimedOut) => Errno::ETIMEDOUT,
        (None, _) => Errno::UnknownErrno,
    }
}

fn said_of_file<T>(result: std::io::Result<T>) -> String {
    said(result.map_err(|error| errno(&error)))
}

fn count(number: usize, of: &str) -> String {
    if number == 0 {
        "none".to_owned()
    } else {
        format!("{number} {of}")
    }
}

/// A mount namespace of our own where that is possible, so that what works does so for this process alone. Where it is not, the
/// attempt that follows is made all the same.
fn apart() {
    if unshare(CloneFlags::CLONE_NEWNS).is_ok() {
        let _ = mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        );
    }
}

pub(crate) fn mounted(kind: &str) -> String {
    apart();
    said(mount(
        Some("none"),
        "/tmp",
        Some(kind),
        MsFlags::empty(),
        None::<&str>,
    ))
}

pub(crate) fn bound() -> String {
    apart();
    said(mount(
        Some("/proc"),
        "/tmp",
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    ))
}

pub(crate) fn pivoted() -> String {
    apart();
    // It has to be a mount, which it is in a sandbox.
    let _ = mount(
        Some("/tmp"),
        "/tmp",
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    );
    said(nix::unistd::chdir("/tmp").and_then(|()| pivot_root(".", ".")))
}

pub(crate) fn rooted() -> String {
    said_of_file(chroot("/tmp"))
}

pub(crate) fn entered(namespace: &str) -> String {
    match File::open(namespace) {
        Ok(file) => said(setns(file, CloneFlags::CLONE_NEWNS)),
        // Not even to be seen, which the calls before this one would not change: it is the filter that is asked.
        Err(error) => match File::open("/proc/self/ns/mnt") {
            Ok(own) => said(setns(own, CloneFlags::CLONE_NEWNS)),
            Err(_) => said(Err::<(), _>(errno(&error))),
        },
    }
}

/// Without stopping it.
pub(crate) fn traced(pid: i32) -> String {
    said(ptrace::seize(Pid::from_raw(pid), ptrace::Options::empty()))
}

pub(crate) fn taken(pid: i32) -> String {
    let taken = rustix::process::Pid::from_raw(pid)
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .and_then(|process| pidfd_getfd(&process, 0, PidfdGetfdFlags::empty()));
    said(taken.map_err(|error| Errno::from_raw(error.raw_os_error())))
}

/// Of the process that started us, which runs the same program; its address is in the list of its mappings.
pub(crate) fn memory_of_the_parent() -> String {
    let parent = getppid();
    let base = fs::read_to_string(format!("/proc/{parent}/maps"))
        .ok()
        .and_then(|maps| usize::from_str_radix(maps.split('-').next()?, 16).ok())
        .unwrap_or(0);
    let mut byte = [0];
    said(process_vm_readv(
        parent,
        &mut [IoSliceMut::new(&mut byte)],
        &[RemoteIoVec { base, len: 1 }],
    ))
}

pub(crate) fn read(path: &str) -> String {
    said_of_file(fs::read(path))
}

pub(crate) fn opened(path: &str) -> String {
    said_of_file(File::open(path))
}

/// What can be read of it; a file that is masked is there and empty.
pub(crate) fn contents(path: &str) -> String {
    let mut start = [0; 16];
    let length = File::open(path).and_then(|mut file| file.read(&mut start));
    count(length.unwrap_or(0), "bytes")
}

/// Opened for writing, and not written.
pub(crate) fn write(path: &str) -> String {
    said_of_file(OpenOptions::new().write(true).open(path))
}

pub(crate) fn create(path: &str) -> String {
    let made = OpenOptions::new().write(true).create_new(true).open(path);
    if made.is_ok() {
        let _ = fs::remove_file(path);
    }
    said_of_file(made)
}

pub(crate) fn connect(path: &str) -> String {
    said_of_file(UnixStream::connect(path))
}

pub(crate) fn through_a_symlink() -> String {
    let link = scratch("link");
    match symlink("/etc/shadow", &link) {
        Ok(()) => {
            let said = said_of_file(fs::read(&link));
            let _ = fs::remove_file(link);
            said
        }
        Err(error) => format!("no symlink: {error}"),
    }
}

/// A name of our own in the one place where everybody may write.
fn scratch(name: &str) -> PathBuf {
    Path::new("/tmp").join(format!("paw-probe-{}-{name}", std::process::id()))
}

pub(crate) fn listed(path: &str) -> String {
    match fs::read_dir(path).map(Iterator::count) {
        Ok(0) | Err(_) => "none".to_owned(),
        Ok(count) => format!("{count} entries"),
    }
}

/// The log of the host's kernel, by a device file of our own.
pub(crate) fn device() -> String {
    let path = scratch("device");
    let made = mknod(
        &path,
        SFlag::S_IFCHR,
        Mode::S_IRUSR | Mode::S_IWUSR,
        makedev(1, 11),
    );
    if let Err(errno) = made {
        return said(Err::<(), _>(errno));
    }
    let opened = File::open(&path);
    let _ = fs::remove_file(path);
    said_of_file(opened)
}

/// The first of this name anywhere in the hierarchies of the control groups.
pub(crate) fn below_cgroups(name: &str) -> String {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    let found = std::iter::once(root.to_owned())
        .chain(hierarchies.map(|entry| entry.path()))
        .map(|dir| dir.join(name))
        .find(|path| path.exists());
    match found {
        Some(path) => said_of_file(OpenOptions::new().write(true).open(path)),
        None => said(Err::<(), _>(Errno::ENOENT)),
    }
}

pub(crate) fn release_agent() -> String {
    below_cgroups("release_agent")
}

/// Its path there would hold the id by which others know it.
pub(crate) fn name_in_cgroup() -> String {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let named = text
        .lines()
        .filter(|line| line.rsplit(':').next().is_some_and(|path| path.len() > 1))
        .count();
    count(named, "names")
}

/// Asks the kernel to kill others first.
pub(crate) fn spared() -> String {
    said_of_file(fs::write("/proc/self/oom_score_adj", "-1000"))
}

/// Its own user is not root, and cannot be made to be.
pub(crate) fn became_root() -> String {
    let root = Uid::from_raw(0);
    said(setresuid(root, root, root))
}

/// Asks for every process id whether it may be signalled, beside those that are seen in `/proc`.
pub(crate) fn strangers() -> String {
    let reached = (1..=4_096)
        .filter(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        .filter(|pid| kill(Pid::from_raw(*pid), None) != Err(Errno::ESRCH))
        .count();
    if reached == 0 {
        "none of 4096".to_owned()
    } else {
        format!("{reached} of 4096")
    }
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    names
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .map(|entry| entry.path())
}

pub(crate) fn foreign_processes() -> String {
    let foreign = processes()
        .filter_map(|process| fs::read_to_string(process.join("comm")).ok())
        .filter(|name| !matches!(name.trim(), "init" | "paw-probe" | "exe"))
        .count();
    count(foreign, "processes")
}

/// Beside the three streams, and the one by which they are listed.
pub(crate) fn descriptors() -> String {
    let open = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok())
        .filter(|number| *number > 2)
        .count();
    count(open.saturating_sub(1), "descriptors")
}

/// Whatever leads further than a pipe, in any process that can be seen. The directory by which they are listed is not one.
pub(crate) fn held_open() -> String {
    let held = processes()
        .filter_map(|process| fs::read_dir(process.join("fd")).ok())
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|target| {
            let text = target.to_string_lossy();
            text.starts_with("socket:") || target.is_dir() && !text.starts_with("/proc")
        })
        .count();
    count(held, "of them")
}

pub(crate) fn interfaces() -> String {
    let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let other = text
        .lines()
        .skip(2)
        .filter(|line| !line.trim_start().starts_with("lo:"))
        .count();
    count(other, "interfaces")
}

pub(crate) fn abstract_sockets() -> String {
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    count(
        text.lines().filter(|line| line.contains(" @")).count(),
        "sockets",
    )
}

/// The socket by which a sandbox that was made is started, wherever one could be: below a directory of ours, or beside a working
/// directory that leads there.
pub(crate) fn start_sockets() -> String {
    let places = [
        "/var/lib/paw-launcher/bundles",
        "/proc/1/cwd",
        "/proc/self/cwd",
        "/run",
        "/tmp",
        "/.paw",
    ];
    let found = places
        .into_iter()
        .filter(|place| has_socket(Path::new(place), 3))
        .count();
    count(found, "sockets")
}

fn has_socket(dir: &Path, depth: u32) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        path.file_name().is_some_and(|name| name == "notify.sock")
            && UnixStream::connect(&path).is_ok()
            || depth > 0 && !path.is_symlink() && path.is_dir() && has_socket(&path, depth - 1)
    })
}

pub(crate) fn port_of_the_neighbour() -> String {
    let address = SocketAddr::from(([127, 0, 0, 1], neighbour::PORT));
    said_of_file(TcpStream::connect_timeout(&address, PATIENCE))
}

pub(crate) fn socket_of_the_neighbour() -> String {
    abstract_socket(neighbour::NAME)
}

pub(crate) fn abstract_socket(name: &str) -> String {
    said_of_file(
        UnixAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address)),
    )
}

pub(crate) fn file_of_the_neighbour() -> String {
    let said: Vec<String> = neighbour::FILES.into_iter().map(read).collect();
    match said.iter().find(|said| *said != "ENOENT") {
        Some(other) => other.clone(),
        None => "ENOENT".to_owned(),
    }
}

/// Any process that runs as the neighbour does.
pub(crate) fn process_of_the_neighbour() -> String {
    let reached = processes()
        .filter(|process| {
            fs::read(process.join("cmdline"))
                .is_ok_and(|line| line.ends_with(format!("\0{}\0", neighbour::WORD).as_bytes()))
        })
        .filter_map(|process| process.file_name()?.to_str()?.parse().ok())
        .filter(|pid| kill(Pid::from_raw(*pid), None).is_ok())
        .count();
    count(reached, "processes")
}

/// The address by which an interface of the host would be left; nothing is sent.
pub(crate) fn reach_the_host() -> String {
    let tried =
        std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect("192.0.2.1:9"));
    said_of_file(tried)
}

/// Makes a copy of this program set-uid and asks it who it is; 1000 is 232 as an exit code.
pub(crate) fn set_uid() -> String {
    let copy = scratch("set-uid");
    let made = fs::copy("/proc/self/exe", &copy)
        .and_then(|_| fs::set_permissions(&copy, fs::Permissions::from_mode(0o6755)));
    if let Err(error) = made {
        return format!("no copy: {error}");
    }
    let asked = Command::new(&copy).arg("euid").status();
    let _ = fs::remove_file(copy);
    match asked {
        Ok(status) => status
            .code()
            .map_or_else(|| "killed".to_owned(), |code| format!("user {code}")),
        Err(error) => said(Err::<(), _>(errno(&error))),
    }
}
