//! paw-create: makes one sandbox with libcontainer and exits. A fresh process for each sandbox.
//!
//! It is separate from the launcher for two reasons. libcontainer forks and then allocates, so it must never run in a process
//! with threads; and a sandbox that waits to be started is a fork of its maker, with every descriptor that was open there, so
//! the maker must have none but this sandbox's own. For the same reason there is no tracing subscriber: libcontainer's log
//! lines would come out of the sandbox's stderr, with host paths in them.
//!
//! ```text
//! paw-create BUNDLE ID STATE       fd 3 stdin, 4 stdout, 5 stderr of the sandbox, 6 its user namespace
//!   stdout: {"pid": N}             paw-init waits to be started, as a child of our parent
//!   stderr: {"error": "..."}       nothing was left behind; exit code 1, or 64 when called wrongly
//! ```

mod executor;

use std::{
    env,
    io::Write as _,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::ExitCode,
};

use libcontainer::{
    container::builder::ContainerBuilder, error::LibcontainerError, syscall::syscall::SyscallType,
};
use nix::sys::{prctl, signal::Signal};
use paw_confine::{seccomp, sys};

use crate::executor::Confined;

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
enum CreateError {
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

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [bundle, id, state] = arguments.as_slice() else {
        return fail(
            64,
            "usage: paw-create BUNDLE ID STATE; it is started by paw-launcher, with descriptors 3 to 6",
        );
    };
    match create(bundle, &id.to_string_lossy(), state) {
        Ok(pid) => {
            let said = writeln!(std::io::stdout(), "{}", serde_json::json!({ "pid": pid }));
            if said.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => fail(1, &chain(&error)),
    }
}

fn create(bundle: &Path, id: &str, state: &Path) -> Result<i32, CreateError> {
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

fn fail(code: u8, what: &str) -> ExitCode {
    // Nothing is left to do when even this cannot be said: the exit code says it too.
    let _ = writeln!(
        std::io::stderr(),
        "{}",
        serde_json::json!({ "error": what })
    );
    ExitCode::from(code)
}

/// An error with every cause, as one line. libcontainer's errors sometimes repeat their cause, which is left out then.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
