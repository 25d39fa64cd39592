//! Images that were added: which tree a name means, and what the job that keeps them is told.
//!
//! ```text
//! STATE/images/names/NAME     a record, see paw_launch::image, written by the job
//! STATE/images/trees/DIGEST   a root, never changed once it is there
//! ```
//!
//! A sandbox holds a shared lock on its tree for as long as it lives, and the job removes only what it can lock for itself. So
//! neither has to be told about the other in time.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    rc::Rc,
};

use paw_launch::{
    image::{ImageCharge, ImageOrder, MAX_RECORD, Record},
    request::{Limits, Refusal, RefusalReason, SandboxId},
    tree,
};
use paw_policy::{Digest, Name};
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::{
    ceilings::{Approved, ApprovedImage, refusal},
    job::{Job, Program},
    serve::Launcher,
};

/// What the job may use. It streams, so it needs little memory; what it needs time for is writing.
const LIMITS: Limits = Limits {
    cpu_milli: 1000,
    memory: 256 << 20,
    disk: 0,
    pids: 2,
    open_files: 256,
    wall_ms: 600_000,
    io_weight: None,
};

impl Launcher {
    /// The job for an order.
    pub(crate) fn image(&self, order: ImageOrder, fds: Vec<OwnedFd>) -> Result<Job, Refusal> {
        let charge = ImageCharge {
            order,
            shipped: self.shipped(),
            used: self.used(),
            bounds: self.host.ceilings.images,
        };
        let order = serde_json::to_value(charge).map_err(|error| {
            refusal(
                RefusalReason::Failed,
                format!("the order cannot be written as JSON: {error}"),
                "report this as a fault",
            )
        })?;
        Ok(Job {
            program: Program::Image,
            arguments: vec![self.host.state.join(Program::Image.dir()).into()],
            order,
            fds,
            limits: LIMITS,
        })
    }

    /// Names of the images that came with the package.
    fn shipped(&self) -> Vec<Name> {
        let mut names: Vec<Name> = fs::read_dir(self.host.data.join("images"))
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        names.sort();
        names
    }
}

impl Launcher {
    /// Sandboxes by the tree in which they run.
    fn used(&self) -> BTreeMap<Digest, Vec<SandboxId>> {
        let mut used: BTreeMap<Digest, Vec<SandboxId>> = BTreeMap::new();
        for (id, sandbox) in &self.sandboxes {
            if let Some(tree) = &sandbox.plan.tree {
                used.entry(tree.digest).or_default().push(id.clone());
            }
        }
        used
    }
}

/// The tree of an added image, which stays as long as this value.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) digest: Digest,
    _lock: OwnedFd,
}

/// Where the root of a named image is, and what keeps it there: the one that came with the package, else the one that was added.
/// A name that nobody gave is found to be missing when its root is looked for.
pub(crate) fn named(
    name: &Name,
    data: &Path,
    state: &Path,
) -> Result<(PathBuf, Option<Rc<Tree>>), Refusal> {
    let shipped = data.join("images").join(name.as_str());
    let images = state.join("images");
    if shipped.exists() {
        return Ok((shipped, None));
    }
    match added(name, &images) {
        Ok((path, tree)) => Ok((path, Some(Rc::new(tree)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(refusal(
            RefusalReason::Missing,
            format!("no image {name}"),
            "see `pawctl sandbox image list`, or add it",
        )),
        Err(error) => Err(refusal(
            RefusalReason::Failed,
            format!("find the image {name}: {error}"),
            "ask again if it is being removed; else remove it and add it again",
        )),
    }
}

/// Digests of the images that ship, each measured when it is used for the first time, and again when something in it was changed: an
/// upgrade of the package does that while we run.
#[derive(Debug)]
pub(crate) struct Shipped {
    images: PathBuf,
    measured: RefCell<BTreeMap<PathBuf, Measured>>,
}

/// An image as it was measured.
#[derive(Debug)]
struct Measured {
    /// Its directories and files, each with what the kernel said of it before. A link is not among them: it cannot be changed, and what
    /// takes its place changes the directory.
    seen: Vec<(PathBuf, Stamp)>,
    digest: Digest,
}

/// What is another after every change of a file or directory: device and inode, seconds and nanoseconds of the last change.
type Stamp = (u64, u64, i64, i64);

impl Measured {
    fn new(image: &Path) -> io::Result<Self> {
        let mut seen = vec![(image.to_owned(), stamp(&fs::symlink_metadata(image)?))];
        let mut next = 0;
        while let Some((path, _)) = seen.get(next) {
            if fs::symlink_metadata(path)?.is_dir() {
                for entry in fs::read_dir(path.clone())? {
                    let entry = entry?;
                    let found = entry.metadata()?;
                    if !found.is_symlink() {
                        seen.push((entry.path(), stamp(&found)));
                    }
                }
            }
            next += 1;
        }
        let root = rustix::fs::open(image, tree::DIR, Mode::empty())?;
        let digest = tree::measure(&root)?.digest;
        Ok(Self { seen, digest })
    }

    /// Whether nothing in it was changed since.
    fn holds(&self) -> bool {
        self.seen
            .iter()
            .all(|(path, was)| fs::symlink_metadata(path).is_ok_and(|found| stamp(&found) == *was))
    }
}

fn stamp(found: &fs::Metadata) -> Stamp {
    (found.dev(), found.ino(), found.ctime(), found.ctime_nsec())
}

impl Shipped {
    pub(crate) fn new(data: &Path) -> Self {
        Self {
            images: data.join("images"),
            measured: RefCell::default(),
        }
    }

    /// The digest of the image of a plan: an added one is named by it. `None` for a directory of somebody's and for the host's own
    /// files, which change as their owner likes.
    pub(crate) fn digest(&self, plan: &Approved) -> io::Result<Option<Digest>> {
        if let Some(tree) = &plan.tree {
            return Ok(Some(tree.digest));
        }
        let ApprovedImage::Dir(path) = &plan.image else {
            return Ok(None);
        };
        if path.parent() != Some(&self.images) {
            return Ok(None);
        }
        if let Some(measured) = self.measured.borrow().get(path)
            && measured.holds()
        {
            return Ok(Some(measured.digest));
        }
        let measured = Measured::new(path)?;
        let digest = measured.digest;
        self.measured.borrow_mut().insert(path.clone(), measured);
        Ok(Some(digest))
    }
}

fn added(name: &Name, images: &Path) -> io::Result<(PathBuf, Tree)> {
    let mut text = String::new();
    fs::File::open(images.join("names").join(name.as_str()))?
        .take(MAX_RECORD)
        .read_to_string(&mut text)?;
    let Record { digest, .. } = serde_json::from_str(&text)?;
    let path = images.join("trees").join(digest.to_string());
    let lock = rustix::fs::open(
        &path,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared)?;
    Ok((
        path,
        Tree {
            digest,
            _lock: lock,
        },
    ))
}
