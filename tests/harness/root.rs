//! A directory in which one pawd has everything that it would have on a host.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, getegid, geteuid};
use tempfile::TempDir;

/// Who the processes of a test run as when the test itself is root.
pub const NOBODY: u32 = 65534;

/// The uid that processes under test get.
#[must_use]
pub fn uid() -> u32 {
    if geteuid().is_root() {
        NOBODY
    } else {
        geteuid().as_raw()
    }
}

/// The gid that processes under test get.
#[must_use]
pub fn gid() -> u32 {
    if geteuid().is_root() {
        NOBODY
    } else {
        getegid().as_raw()
    }
}

/// Name of the group whose members the tests make administrators: the one that runs them.
///
/// # Panics
/// When this group has no name.
#[must_use]
pub fn our_group() -> String {
    let group = nix::unistd::Group::from_gid(getegid()).expect("the group database is readable");
    group.expect("our group has a name").name
}

/// The directory of `pawd --root`; removed at the end.
pub struct Root {
    dir: TempDir,
}

impl Root {
    /// A root with the directories that packages and systemd would have made, owned by who the processes run as.
    ///
    /// # Panics
    /// When they cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let root = Self::bare();
        for (name, mode) in [
            ("etc", 0o755),
            ("run", 0o755),
            ("state", 0o700),
            ("audit", 0o700),
            ("log", 0o750),
            ("launcher", 0o700),
            ("skills", 0o755),
        ] {
            fs::create_dir(root.path().join(name)).expect("the root is ours");
            root.mode(name, mode);
            root.give(name);
        }
        // Configuration belongs to the administrator, here as on a host.
        chown(
            root.path().join("etc"),
            Some(geteuid().as_raw()),
            Some(getegid().as_raw()),
        )
        .expect("the root is ours");
        root
    }

    /// A root with nothing in it, as `pawd --standalone` finds it.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn bare() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("pawd-")
            .tempdir()
            .expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        Self { dir }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The control socket of the pawd that runs here.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.path().join("run/control.sock")
    }

    /// Writes a file below the root, for the administrator: others may read it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a name below the root"))
            .expect("the root is ours");
        fs::write(&path, text).expect("the root is ours");
        self.mode(name, 0o644);
    }

    /// Sets the mode of a file or directory below the root.
    ///
    /// # Panics
    /// When it is not there.
    pub fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path().join(name), fs::Permissions::from_mode(mode))
            .expect("it is there");
    }

    /// Gives a file or directory below the root to who the processes run as.
    ///
    /// # Panics
    /// When it is not there.
    pub fn give(&self, name: &str) {
        nix::unistd::chown(
            &self.path().join(name),
            Some(Uid::from_raw(uid())),
            Some(Gid::from_raw(gid())),
        )
        .expect("it is there");
    }
}

impl Default for Root {
    fn default() -> Self {
        Self::new()
    }
}
