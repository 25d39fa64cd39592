//! A `/run` of our own.
//!
//! Shims keep their sockets, states and shared directories in fixed places below `/run`, which a containerd of the host uses as
//! well. In a mount namespace with a `/run` of our own they can neither meet nor disturb those, and whatever one of them leaves
//! there is gone with the last process of this launcher's life, however that ended.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::pins;

/// What of the host's `/run` stays: the service manager hears that we are ready, and the journal takes our log.
const KEPT: [&str; 1] = ["/run/systemd"];

/// Where sockets of ours for one shim each are; short, because the path of a socket may have 108 bytes.
pub(crate) const SOCKETS: &str = "/run/paw";

/// Why there is no `/run` of our own.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path}")]
pub(crate) struct PrivateError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Leaves the host's mount namespace and mounts an empty `/run`.
pub(crate) fn make() -> Result<(), PrivateError> {
    let fault = |step: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| PrivateError { step, path, source }
    };
    let (root, run) = (Path::new("/"), Path::new("/run"));
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|errno| fault("leave the mount namespace of", root)(errno.into()))?;
    // What the host unmounts is unmounted here too; nothing of ours is seen there.
    mount(
        None::<&str>,
        root,
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .map_err(|errno| fault("stop sharing the mounts below", root)(errno.into()))?;
    let mut kept: Vec<(&Path, OwnedFd)> = Vec::new();
    for path in KEPT.map(Path::new).into_iter().filter(|path| path.exists()) {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(rustix::fs::CWD, path, flags)
            .map_err(|errno| fault("keep", path)(errno.into()))?;
        kept.push((path, tree));
    }
    mount(
        Some("tmpfs"),
        run,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=755,size=64m,nr_inodes=65536"),
    )
    .map_err(|errno| fault("mount an empty", run)(errno.into()))?;
    for (path, tree) in kept {
        make_dir(path, 0o755).map_err(fault("make", path))?;
        move_mount(
            &tree,
            "",
            rustix::fs::CWD,
            path,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(|errno| fault("put back", path)(errno.into()))?;
    }
    for (path, mode) in [(SOCKETS, 0o700), (pins::DIR, 0o711)] {
        let path = Path::new(path);
        make_dir(path, mode).map_err(fault("make", path))?;
    }
    Ok(())
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
