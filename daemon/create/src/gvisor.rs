//! Becoming runsc: into the sandbox's leaf, ids and namespaces first, so that not even runsc itself is anywhere else.
//!
//! The skeleton of the root is copied into a temporary file system that is mounted here. runsc makes its root read-only by
//! mounting it again, which the kernel refuses to a user namespace where the mount below is nosuid or nodev, as everything of a
//! systemd unit without new privileges is. A mount that was made in this namespace may be mounted again at will.

use std::{
    fs, io,
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{prctl, signal::Signal},
};
use paw_confine::{
    sys,
    userns::{self, UsernsError},
};

/// Why this process did not become runsc.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GvisorError {
    #[error("take over descriptor 6")]
    Descriptor(#[source] io::Error),
    #[error("enter the cgroup {path}")]
    Cgroup { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Userns(#[from] UsernsError),
    #[error("make namespaces")]
    Namespaces(#[source] Errno),
    #[error("{step} {path}")]
    Root {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("ask to end with the launcher")]
    Lifeline(#[source] Errno),
    #[error("execute {path}")]
    Exec { path: PathBuf, source: io::Error },
}

/// What to become.
pub(crate) struct Order<'a> {
    pub(crate) bundle: &'a Path,
    pub(crate) id: &'a Path,
    pub(crate) state: &'a Path,
    pub(crate) runsc: &'a Path,
    pub(crate) platform: &'a Path,
    /// The leaf in each hierarchy.
    pub(crate) cgroups: &'a [PathBuf],
}

/// Becomes `runsc run`; returns only with the reason why not.
pub(crate) fn become_runsc(order: &Order<'_>) -> GvisorError {
    match prepare(order) {
        Ok(()) => {}
        Err(error) => return error,
    }
    let flag = |name: &str, value: &Path| format!("--{name}={}", value.display());
    let source = Command::new(order.runsc)
        .env_clear()
        .arg(flag("root", order.state))
        .arg(flag("platform", order.platform))
        // Its loopback is its own; there is no way out of it.
        .arg("--network=none")
        // The leaf is made, entered and limited; runsc would want the rights of the host's root to make one.
        .arg("--ignore-cgroups")
        .arg("run")
        .arg(flag("bundle", order.bundle))
        .arg(order.id)
        .exec();
    GvisorError::Exec {
        path: order.runsc.to_owned(),
        source,
    }
}

fn prepare(order: &Order<'_>) -> Result<(), GvisorError> {
    let namespace = sys::inherited(6).map_err(GvisorError::Descriptor)?;
    for dir in order.cgroups {
        let path = dir.join("cgroup.procs");
        fs::write(&path, "0").map_err(|source| GvisorError::Cgroup { path, source })?;
    }
    userns::enter(&namespace)?;
    drop(namespace);
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .map_err(GvisorError::Namespaces)?;
    let root = order.bundle.join("root");
    mount(
        Some("tmpfs"),
        &root,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=755,size=1m,nr_inodes=4096"),
    )
    .map_err(|errno| fault("mount", &root)(errno.into()))?;
    copy(&order.bundle.join("rootfs"), &root)?;
    // Last, because a change of ids makes the kernel forget it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(GvisorError::Lifeline)
}

/// Copies the skeleton: directories, symlinks, and small files. The launcher made it, so there is nothing else in it.
fn copy(from: &Path, to: &Path) -> Result<(), GvisorError> {
    for entry in fs::read_dir(from).map_err(fault("list", from))? {
        let entry = entry.map_err(fault("list", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(fault("look at", &source))?;
        if kind.is_symlink() {
            let link = fs::read_link(&source).map_err(fault("read", &source))?;
            symlink(link, &target).map_err(fault("make", &target))?;
        } else if kind.is_dir() {
            fs::create_dir(&target).map_err(fault("make", &target))?;
            let mode = entry
                .metadata()
                .map_err(fault("look at", &source))?
                .permissions();
            fs::set_permissions(&target, mode).map_err(fault("set the mode of", &target))?;
            copy(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(fault("copy", &source))?;
        }
    }
    Ok(())
}

fn fault(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GvisorError {
    let path = path.to_owned();
    move |source| GvisorError::Root { step, path, source }
}
