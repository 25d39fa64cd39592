//! What a plan mounts, bound where nobody else can change what a path means.
//!
//! A shim mounts by paths, long after the launcher looked at them. Whoever may write beside a mount's source could put a symlink
//! in its place meanwhile, and of a virtual machine nobody sees from outside what is mounted in it. So the descriptor that was
//! checked is bound below the launcher's own `/run`, and that path is what the shim is told. It is not in the bundle: what is
//! removed with all that is in it must have no mount in it.

use std::{
    fs, io,
    os::{fd::BorrowedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
};
use rustix::{
    fs::CWD,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

/// Where the mounts of every sandbox are; a container's ids have to pass through.
pub(super) const DIR: &str = "/run/paw-mounts";

/// The mounts of the sandboxes of this life. Those of an earlier one ended with its namespace.
#[derive(Debug)]
pub(crate) struct Pins {
    dir: PathBuf,
}

impl Pins {
    /// Those in the launcher's own `/run`, which is mounted.
    pub(super) fn new() -> Self {
        Self { dir: DIR.into() }
    }

    /// Binds what is open, with what is mounted below it; gives where.
    pub(crate) fn pin(
        &self,
        sandbox: &str,
        number: usize,
        (opened, is_dir): (BorrowedFd<'_>, bool),
    ) -> io::Result<PathBuf> {
        let dir = self.dir.join(sandbox);
        if number == 0 {
            fs::create_dir(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))?;
        }
        let at = dir.join(number.to_string());
        if is_dir {
            fs::create_dir(&at)?;
        } else {
            fs::File::create_new(&at)?;
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(opened, "", flags)?;
        move_mount(&tree, "", CWD, &at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        // What the host mounts there from now on was not checked.
        mount(
            None::<&str>,
            &at,
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )?;
        Ok(at)
    }

    /// Unbinds everything of a sandbox. What is bound is never listed, let alone removed: a mount point that is still one is not
    /// empty to the kernel.
    pub(crate) fn release(&self, sandbox: &str) -> io::Result<()> {
        let dir = self.dir.join(sandbox);
        let listing = match fs::read_dir(&dir) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in listing {
            remove(&entry?.path())?;
        }
        fs::remove_dir(&dir)
    }
}

fn remove(at: &Path) -> io::Result<()> {
    match umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // It was made, and nothing was bound to it.
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    if fs::symlink_metadata(at)?.is_dir() {
        fs::remove_dir(at)
    } else {
        fs::remove_file(at)
    }
}
