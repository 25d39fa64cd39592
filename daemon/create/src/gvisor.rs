//! Becoming runsc: into the sandbox's leaf, ids and namespaces first, so that not even runsc itself is anywhere else.

use std::{
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    errno::Errno,
    sched::CloneFlags,
    sys::{prctl, signal::Signal},
};
use paw_confine::{
    sys,
    userns::{self, UsernsError},
};

use crate::root::{self, BUNDLE, Kept, RootError};

/// Why this process did not become runsc.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GvisorError {
    #[error("take over descriptor 6")]
    Descriptor(#[source] io::Error),
    #[error(transparent)]
    Userns(#[from] UsernsError),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("ask to end with the launcher")]
    Lifeline(#[source] Errno),
    #[error("execute {path}")]
    Exec { path: PathBuf, source: io::Error },
}

/// What to become.
pub(crate) struct Order<'a> {
    pub(crate) bundle: &'a Path,
    pub(crate) id: &'a Path,
    pub(crate) runsc: &'a Path,
    /// What runsc is told besides: its platform, and what only some releases know.
    pub(crate) flags: &'a [PathBuf],
    /// Where the leaf is entered.
    pub(crate) entrances: &'a [PathBuf],
}

/// Becomes `runsc run`; returns only with the reason why not.
pub(crate) fn become_runsc(order: &Order<'_>) -> GvisorError {
    match prepare(order) {
        Ok(()) => {}
        Err(error) => return error,
    }
    let flag = |name: &str, value: &Path| format!("--{name}={}", value.display());
    let bundle = Path::new(BUNDLE);
    let source = Command::new(order.runsc)
        .env_clear()
        .arg(flag("root", &bundle.join("run")))
        .args(order.flags)
        // Its loopback is its own; there is no way out of it.
        .arg("--network=none")
        // The leaf is made, entered and limited; runsc would want the rights of the host's root to make one.
        .arg("--ignore-cgroups")
        .arg("run")
        .arg(flag("bundle", bundle))
        .arg(order.id)
        .exec();
    GvisorError::Exec {
        path: order.runsc.to_owned(),
        source,
    }
}

fn prepare(order: &Order<'_>) -> Result<(), GvisorError> {
    let namespace = sys::inherited(6).map_err(GvisorError::Descriptor)?;
    root::enter(order.entrances)?;
    userns::enter(&namespace)?;
    drop(namespace);
    let namespaces = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    let runsc = Kept {
        source: order.runsc,
        path: order.runsc,
    };
    root::assemble(order.bundle, namespaces, &[runsc])?;
    // Last, because a change of ids makes the kernel forget it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(GvisorError::Lifeline)
}
