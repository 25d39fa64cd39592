//! A sandbox of libcontainer: everything is set up and paw-init waits to be started.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use libcontainer::{
    container::builder::ContainerBuilder, error::LibcontainerError, syscall::syscall::SyscallType,
};
use nix::{
    sched::CloneFlags,
    sys::{prctl, signal::Signal},
};
use paw_confine::{seccomp, sys};
use rustix::fs::statfs;

use crate::{
    executor::Confined,
    loopback,
    root::{self, BUNDLE, Kept, RootError},
};

/// Where libcontainer looks for cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    /// A descriptor that the launcher has to give is not there.
    #[error("take over descriptor {0}")]
    Descriptor(i32, #[source] std::io::Error),
    /// We could not be bound to the launcher's life.
    #[error("ask to end with the launcher")]
    Lifeline(#[source] nix::errno::Errno),
    /// The leaf or the root is at fault.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The sandbox's filter is at fault.
    #[error("compile the system call filter of the sandbox")]
    Seccomp(#[from] seccomp::SeccompError),
    /// libcontainer failed at some step.
    #[error("make the container")]
    Container(#[from] LibcontainerError),
    /// The loopback interface stays down.
    #[error("bring up the loopback interface of the sandbox")]
    Loopback(#[source] nix::errno::Errno),
    /// libcontainer says it made one, and there is no process.
    #[error("the container has no process")]
    NoProcess,
}

/// Makes it, and gives the process id of its paw-init.
pub(crate) fn create(bundle: &Path, id: &str, entrances: &[PathBuf]) -> Result<i32, CreateError> {
    // Without the launcher nobody would start, watch or kill what we make.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(CreateError::Lifeline)?;
    let take =
        |number| sys::inherited(number).map_err(|source| CreateError::Descriptor(number, source));
    let (stdin, stdout, stderr) = (take(3)?, take(4)?, take(5)?);
    // The specification names it as /proc/self/fd/6; it only has to stay open until libcontainer has entered it.
    let _user_namespace: OwnedFd = take(6)?;

    // Everything that libcontainer makes from here on is born in the leaf.
    root::enter(entrances)?;
    let unified = unified();
    let cgroups = unified.map(|source| Kept {
        source,
        path: Path::new(CGROUPS),
    });
    let root = root::assemble(bundle, CloneFlags::empty(), cgroups.as_slice())?;
    let container = ContainerBuilder::new(id.to_owned(), SyscallType::Linux)
        .with_root_path(Path::new(BUNDLE).join("run"))?
        .with_executor(Confined::new(seccomp::sandbox().compile()?, root.temporary))
        .with_stdin(stdin)
        .with_stdout(stdout)
        .with_stderr(stderr)
        .validate_id()?
        .as_init(BUNDLE)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()?;
    let pid = container.pid().map(nix_pid).ok_or(CreateError::NoProcess)?;
    loopback::up(pid).map_err(CreateError::Loopback)?;
    Ok(pid)
}

/// Where v2 of cgroups is mounted, if it is. libcontainer gets it read-only and as all there is, so that it leaves this process in
/// the leaf where it is: its own way of joining waits until no process of the whole system is forking or ending, in each hierarchy
/// of v1 again, and looks for them in fifty files. Where there is none it finds no cgroups at all and looks a little longer.
///
/// That it stays is what libcgroups promises of a tree that is read-only, as of one in a container, to whoever is root of no more
/// than a user namespace (`Manager::with_rootless`). Nothing depends on the promise: were the write an error, no sandbox would be
/// made, and wherever else this process ended up, the launcher looks at its membership and its limits before it starts anything.
fn unified() -> Option<&'static Path> {
    [CGROUPS, "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(Path::new)
        .find(|path| statfs(*path).is_ok_and(|found| found.f_type == CGROUP2_MAGIC))
}

/// libcontainer speaks another version of `nix`.
fn nix_pid(pid: impl std::fmt::Display) -> i32 {
    pid.to_string().parse().unwrap_or(-1)
}
