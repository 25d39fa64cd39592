//! The layer of one run: a temporary file system with the run's quota, and in it the upper directory of an overlay.
//!
//! ```text
//! STATE/layers/ID            tmpfs: size and inodes are what the run may write
//!   upper/                   what it wrote; belongs to the owner of the workspace
//!   work/                    the overlay's own
//!   merged/                  overlay of upper over a generation of the workspace; what is mounted in the sandbox
//! ```
//!
//! All of it is mounted here, in a mount namespace of the launcher's own, so the same thing works for every runtime and nothing is
//! left on the host when the launcher ends. Mounts here are shared: a sandbox gets a copy of all of them when its namespace is
//! made, and loses those copies with ours, or a memory file system would live on in somebody else's namespace.
//!
//! The pages of a layer are charged to the sandbox that writes them. On a kernel whose tmpfs has no user attributes (before 6.6) an
//! overlay cannot remove a directory for good; there `merged` is a plain directory with a copy of the workspace.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::statvfs::statvfs,
};

/// Why there is no layer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    /// The kernel refused.
    #[error("{step} {path}")]
    Kernel {
        step: &'static str,
        path: PathBuf,
        source: Errno,
    },
    /// A file system refused.
    #[error("{step} {path}")]
    Files {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Not wanted.
    #[error("overlay = false in [workspaces] of launcher.toml")]
    Off,
    /// An overlay that forgets what was removed.
    #[error(
        "a directory that was removed in an overlay comes back; a kernel from 6.6 on has attributes in tmpfs, which this takes"
    )]
    Forgetful,
}

fn kernel(step: &'static str, path: &Path) -> impl FnOnce(Errno) -> LayerError {
    let path = path.to_owned();
    move |source| LayerError::Kernel { step, path, source }
}

fn files(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LayerError {
    let path = path.to_owned();
    move |source| LayerError::Files { step, path, source }
}

/// How much a run may write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quota {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl Quota {
    /// That of a plan's `disk`.
    pub(crate) fn of(disk: u64) -> Self {
        Self {
            bytes: disk,
            // An inode costs kernel memory too; one for each 4 KiB is more than files need. The layer's own come on top.
            inodes: (disk / 4096).clamp(64, 1 << 20) + 8,
        }
    }

    /// That of a copy while it is made: room for a workspace within these bounds, however its bytes are spread over pages.
    pub(crate) fn of_a_copy(bytes: u64, files: u32) -> Self {
        let (files, page) = (u64::from(files), rustix::param::page_size() as u64);
        Self {
            bytes: bytes.saturating_add(files * page),
            inodes: files + 8,
        }
    }
}

/// A mounted layer. It ends with [`Layer::close`].
#[derive(Debug)]
pub(crate) struct Layer {
    dir: PathBuf,
    /// The generation beneath it; nothing where the layer is a copy.
    pub(crate) lower: Option<PathBuf>,
}

/// Gives the launcher a mount namespace of its own, in which the mounts below `dir` are shared with what is made later.
pub(crate) fn own_mounts(dir: &Path) -> Result<(), LayerError> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(kernel("make a mount namespace for", dir))?;
    let none = None::<&str>;
    mount(Some(dir), dir, none, MsFlags::MS_BIND, none).map_err(kernel("bind", dir))?;
    mount(none, dir, none, MsFlags::MS_SHARED, none).map_err(kernel("share the mounts of", dir))
}

impl Layer {
    /// A layer over a generation of a workspace.
    pub(crate) fn overlay(
        dir: &Path,
        lower: &Path,
        owner: u32,
        quota: Quota,
    ) -> Result<Self, LayerError> {
        let layer = Self::room(dir, owner, quota, Some(lower.to_owned()))?;
        let options = format!(
            "lowerdir={},upperdir={},workdir={},userxattr",
            lower.display(),
            layer.left().display(),
            layer.work().display()
        );
        let merged = layer.merged();
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        match mount(
            Some("overlay"),
            &merged,
            Some("overlay"),
            flags,
            Some(options.as_str()),
        ) {
            Ok(()) => Ok(layer),
            Err(errno) => {
                layer.close();
                Err(kernel("mount an overlay on", &merged)(errno))
            }
        }
    }

    /// An empty directory to be filled with a copy of a workspace, and to be [bounded](Self::bound) then.
    pub(crate) fn copy(dir: &Path, owner: u32, quota: Quota) -> Result<Self, LayerError> {
        Self::room(dir, owner, quota, None)
    }

    /// The copy is there: from now on so much may come on top of it, as on top of what is beneath an overlay.
    pub(crate) fn bound(&self, quota: Quota) -> Result<(), LayerError> {
        let used = statvfs(&self.dir).map_err(kernel("look at the size of", &self.dir))?;
        let options = format!(
            "size={},nr_inodes={}",
            (used.blocks() - used.blocks_free()) * used.fragment_size() + quota.bytes,
            (used.files() - used.files_free()) + quota.inodes,
        );
        mount(
            None::<&str>,
            &self.dir,
            None::<&str>,
            MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some(options.as_str()),
        )
        .map_err(kernel("set the size of", &self.dir))
    }

    fn room(
        dir: &Path,
        owner: u32,
        quota: Quota,
        lower: Option<PathBuf>,
    ) -> Result<Self, LayerError> {
        fs::create_dir(dir).map_err(files("make", dir))?;
        let options = format!("mode=711,size={},nr_inodes={}", quota.bytes, quota.inodes);
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        if let Err(errno) = mount(
            Some("tmpfs"),
            dir,
            Some("tmpfs"),
            flags,
            Some(options.as_str()),
        ) {
            // The first error is the one to tell; the directory is removed at the next start.
            let _ = fs::remove_dir(dir);
            return Err(kernel("mount a temporary file system on", dir)(errno));
        }
        let layer = Self {
            dir: dir.to_owned(),
            lower,
        };
        match layer.furnish(owner) {
            Ok(()) => Ok(layer),
            Err(error) => {
                layer.close();
                Err(error)
            }
        }
    }

    fn furnish(&self, owner: u32) -> Result<(), LayerError> {
        let owned = [self.left()];
        let plain = [self.work(), self.merged()];
        let needed: &[PathBuf] = if self.lower.is_some() { &plain } else { &[] };
        for path in owned.iter().chain(needed) {
            fs::create_dir(path).map_err(files("make", path))?;
            let mode = if *path == self.merged() { 0o711 } else { 0o700 };
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
                .map_err(files("set the mode of", path))?;
        }
        for path in &owned {
            chown(path, Some(owner), Some(owner)).map_err(files("give away", path))?;
        }
        Ok(())
    }

    /// What is mounted in the sandbox.
    pub(crate) fn merged(&self) -> PathBuf {
        match self.lower {
            Some(_) => self.dir.join("merged"),
            None => self.left(),
        }
    }

    /// What the run leaves: the upper directory, or its copy.
    pub(crate) fn left(&self) -> PathBuf {
        self.dir.join("upper")
    }

    /// The overlay's own directory.
    pub(crate) fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Unmounts it, and with that forgets all of it.
    pub(crate) fn close(&self) {
        let complain = |error: &dyn std::error::Error| {
            tracing::warn!(layer = %self.dir.display(), error = %paw_log::Chain(error), "cannot remove a layer; it goes with the launcher");
        };
        if self.lower.is_some()
            && let Err(errno) = umount2(&self.merged(), MntFlags::MNT_DETACH)
            && errno != Errno::EINVAL
        {
            complain(&errno);
        }
        if let Err(errno) = umount2(&self.dir, MntFlags::MNT_DETACH) {
            complain(&errno);
        }
        if let Err(error) = fs::remove_dir(&self.dir) {
            complain(&error);
        }
    }
}

/// Whether overlays do here what they have to, tried once: mounted in our namespace, and what was removed stays removed.
pub(crate) fn probe(dir: &Path) -> Result<(), LayerError> {
    let (one, two) = (dir.join("room"), dir.join("probe"));
    let quota = Quota::of(64 << 10);
    // The lower layer of the probe is in a layer of its own, so nothing of it is left on disk either.
    let room = Layer::copy(&one, 0, quota)?;
    let tried = (|| {
        let lower = room.left();
        let inner = lower.join("d");
        fs::create_dir(&inner).map_err(files("make", &inner))?;
        fs::write(inner.join("f"), "f").map_err(files("write", &inner))?;
        let layer = Layer::overlay(&two, &lower, 0, quota)?;
        let seen = layer.merged().join("d");
        let removed = fs::remove_dir_all(&seen)
            .and_then(|()| fs::create_dir(&seen))
            .and_then(|()| fs::read_dir(&seen)?.next().map_or(Ok(true), |_| Ok(false)));
        layer.close();
        match removed {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(LayerError::Forgetful),
        }
    })();
    room.close();
    tried
}
