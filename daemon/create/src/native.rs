//! A sandbox of libcontainer: everything is set up and paw-init waits to be started.

use std::{os::fd::OwnedFd, path::Path};

use libcontainer::{
    container::builder::ContainerBuilder, error::LibcontainerError, syscall::syscall::SyscallType,
};
use nix::sys::{prctl, signal::Signal};
use paw_confine::{seccomp, sys};

use crate::executor::Confined;

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    /// A descriptor that the launcher has to give is not there.
    #[error("take over descriptor {0}")]
    Descriptor(i32, #[source] std::io::Error),
    /// We could not be bound to the launcher's life.
    #[error("ask to end with the launcher")]
    Lifeline(#[source] nix::errno::Errno),
    /// The sandbox's filter is at fault.
    #[error("compile the system call filter of the sandbox")]
    Seccomp(#[from] seccomp::SeccompError),
    /// libcontainer failed at some step.
    #[error("make the container")]
    Container(#[from] LibcontainerError),
    /// libcontainer says it made one, and there is no process.
    #[error("the container has no process")]
    NoProcess,
}

/// Makes it, and gives the process id of its paw-init.
pub(crate) fn create(bundle: &Path, id: &str, state: &Path) -> Result<i32, CreateError> {
    // Without the launcher nobody would start, watch or kill what we make.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(CreateError::Lifeline)?;
    let take =
        |number| sys::inherited(number).map_err(|source| CreateError::Descriptor(number, source));
    let (stdin, stdout, stderr) = (take(3)?, take(4)?, take(5)?);
    // The specification names it as /proc/self/fd/6; it only has to stay open until libcontainer has entered it.
    let _user_namespace: OwnedFd = take(6)?;

    let container = ContainerBuilder::new(id.to_owned(), SyscallType::Linux)
        .with_root_path(state)?
        .with_executor(Confined::new(seccomp::sandbox().compile()?))
        .with_stdin(stdin)
        .with_stdout(stdout)
        .with_stderr(stderr)
        .validate_id()?
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()?;
    container.pid().map(nix_pid).ok_or(CreateError::NoProcess)
}

/// libcontainer speaks another version of `nix`.
fn nix_pid(pid: impl std::fmt::Display) -> i32 {
    pid.to_string().parse().unwrap_or(-1)
}
