//! What every sandbox of this launcher shares: where things are, and what was found out at the start.

use std::{
    cell::Cell,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use paw_confine::userns::Extent;
use paw_policy::Digest;

use crate::{
    bundle::Bundles, ceilings::Ceilings, cgroup::Parent, image::Shipped, memory::Memory,
    runtime::Runtimes,
};

/// Everything that does not change while the launcher lives.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) ceilings: Ceilings,
    /// Images and skills that ship; read-only to us.
    pub(crate) data: PathBuf,
    /// Skills that were installed, which are pawd's; nowhere where none can be.
    pub(crate) skills: Option<PathBuf>,
    /// Bundles and workspaces; ours.
    pub(crate) state: PathBuf,
    pub(crate) parent: Parent,
    pub(crate) bundles: Bundles,
    /// Where our own programs are.
    pub(crate) programs: PathBuf,
    /// Whether jobs run here. They expect to be nobody on the host, so not where we are root.
    pub(crate) has_jobs: bool,
    /// The images that ship.
    pub(crate) shipped: Shipped,
    /// What makes sandboxes.
    pub(crate) runtimes: Runtimes,
    /// The paw-init program.
    pub(crate) init: Program,
    /// Our own map, in terms of the host.
    pub(crate) map: [Extent; 2],
    /// The landlock ABI that sandboxes are bound with.
    pub(crate) landlock_abi: u32,
    /// The host's memory.
    pub(crate) memory: Memory,
    /// Process id of the doorkeeper.
    pub(crate) doorkeeper: u32,
    /// The network namespace that we were started in, by its inode: the host's, or one that a service manager made for us.
    pub(crate) network: u64,
    /// Limits that this kernel does not hold, in words.
    pub(crate) unheld: Vec<String>,
}

/// A program and its digest, which is computed again when the file became another one (an upgrade).
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    seen: Cell<Option<(Version, Digest)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    inode: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Program {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            seen: Cell::new(None),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The digest of the file as it is now.
    pub(crate) fn digest(&self) -> io::Result<Digest> {
        let found = fs::metadata(&self.path)?;
        let version = Version {
            inode: (found.dev(), found.ino()),
            size: found.size(),
            changed: (found.ctime(), found.ctime_nsec()),
        };
        match self.seen.get() {
            Some((seen, digest)) if seen == version => Ok(digest),
            _ => {
                let digest = Digest::of(&fs::read(&self.path)?);
                self.seen.set(Some((version, digest)));
                Ok(digest)
            }
        }
    }
}
