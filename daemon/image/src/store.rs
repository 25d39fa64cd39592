//! Where images are, and how several of us keep out of each other's way.
//!
//! ```text
//! names/NAME      a record: which tree, and what is told of it      replaced as a whole, by way of names/.new
//! trees/DIGEST    a root; its name is the digest of all that is in it, and it never changes
//! trees/tmp-…     a root that is being made or unmade; whoever does it holds a lock on it
//! ```
//!
//! Nothing is ever moved from one directory to another: the launcher's landlock, under which every job lives, rules over no
//! files, and the kernel takes such a layer to forbid exactly that.
//!
//! A name is given, and a tree taken away, only under the lock on the directory itself. A tree that somebody runs in is locked by
//! the launcher. What is called `tmp-…` and is not locked was left by somebody who died.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use paw_launch::{
    image::{MAX_RECORD, Record},
    request::{Refusal, RefusalReason},
};
use paw_policy::{Digest, Name};
use rustix::fs::{FlockOperation, Mode, OFlags};

/// How the name of a tree begins that is being made or unmade. No digest begins like this.
const UNFINISHED: &str = "tmp-";

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// A file of ours cannot be used.
    #[error("{step} {path}")]
    Files {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// A record of ours cannot be read; its name is taken until it is removed.
    #[error("understand what stands for the image {name}; remove it and add it again")]
    Record {
        name: Name,
        source: serde_json::Error,
    },
    /// A record cannot be written as JSON.
    #[error("write as JSON")]
    Write(#[source] serde_json::Error),
    /// There is no such name.
    #[error("no image {0}")]
    Unknown(Name),
    /// It is the package's.
    #[error("the image {0} came with the package")]
    Shipped(Name),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let (reason, remedy) = match &error {
            StoreError::Unknown(_) => (
                RefusalReason::NotFound,
                "see `pawctl sandbox image list` for what there is",
            ),
            StoreError::Shipped(_) => (
                RefusalReason::Ceiling,
                "use another name; this one stands for what the package brought",
            ),
            StoreError::Files { .. } | StoreError::Record { .. } | StoreError::Write(_) => (
                RefusalReason::Failed,
                "see whether the disk of /var/lib/paw-launcher is full or read-only",
            ),
        };
        Self {
            reason,
            message: paw_job::chain(&error),
            remedy: remedy.to_owned(),
        }
    }
}

pub(crate) fn files<E: Into<io::Error>>(
    step: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Files {
        step,
        path,
        source: source.into(),
    }
}

/// The directory of all images.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
}

/// The lock under which names are given and trees taken away.
#[derive(Debug)]
pub(crate) struct Exclusive(#[allow(dead_code, reason = "it is held, not read")] OwnedFd);

impl Store {
    /// Finds it, and makes what of it is missing.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let store = Self {
            dir: dir.to_owned(),
        };
        // Sandboxes pass through `trees`, so it can be searched; what is in the others is nobody's but ours.
        for (path, mode) in [(store.names(), 0o700), (store.trees(), 0o711)] {
            match rustix::fs::mkdir(&path, Mode::from_raw_mode(mode)) {
                Ok(()) => rustix::fs::chmod(&path, Mode::from_raw_mode(mode))
                    .map_err(files("set the mode of", &path))?,
                Err(rustix::io::Errno::EXIST) => {}
                Err(errno) => return Err(files("make", &path)(errno)),
            }
        }
        Ok(store)
    }

    fn names(&self) -> PathBuf {
        self.dir.join("names")
    }

    pub(crate) fn trees(&self) -> PathBuf {
        self.dir.join("trees")
    }

    /// Where a tree is, or would be.
    pub(crate) fn tree(&self, digest: &Digest) -> PathBuf {
        self.trees().join(digest.to_string())
    }

    /// Waits until nobody else gives names or takes trees away.
    pub(crate) fn exclusive(&self) -> Result<Exclusive, StoreError> {
        let lock = open_dir(&self.dir)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(files("lock", &self.dir))?;
        Ok(Exclusive(lock))
    }

    /// Every name, in order, with its record.
    pub(crate) fn records(&self) -> Result<Vec<(Name, Record)>, StoreError> {
        let mut records = Vec::new();
        for name in entries(&self.names())? {
            if let Ok(name) = name.parse::<Name>() {
                let record = self.record(&name)?;
                records.push((name, record));
            }
        }
        records.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(records)
    }

    fn record(&self, name: &Name) -> Result<Record, StoreError> {
        let path = self.names().join(name.as_str());
        let mut text = String::new();
        fs::File::open(&path)
            .and_then(|file| file.take(MAX_RECORD).read_to_string(&mut text))
            .map_err(files("read", &path))?;
        serde_json::from_str(&text).map_err(|source| StoreError::Record {
            name: name.clone(),
            source,
        })
    }

    /// A directory of our own to make a tree in.
    pub(crate) fn workplace(&self) -> Result<Workplace, StoreError> {
        // Or a sweep in the moment between making and locking it would take it for nobody's.
        let _sweeping = self.exclusive()?;
        self.clear_abandoned()?;
        let path = self
            .trees()
            .join(format!("{UNFINISHED}add-{}", std::process::id()));
        rustix::fs::mkdir(&path, Mode::from_raw_mode(0o700)).map_err(files("make", &path))?;
        let Some(lock) = claim(&path)? else {
            return Err(files("lock", &path)(rustix::io::Errno::WOULDBLOCK));
        };
        Ok(Workplace { path, _lock: lock })
    }

    /// Removes what somebody who died was making or removing.
    pub(crate) fn clear_abandoned(&self) -> Result<(), StoreError> {
        for name in entries(&self.trees())? {
            if name.starts_with(UNFINISHED)
                && let Some(left) = abandoned(self.trees().join(name))?
            {
                left.remove()?;
            }
        }
        Ok(())
    }

    /// Gives what was made its places, durably. `true`: the tree was there already, and the one that was made is not needed.
    pub(crate) fn keep(
        &self,
        place: &Workplace,
        name: &Name,
        digest: &Digest,
        record: &[u8],
        _lock: &Exclusive,
    ) -> Result<bool, StoreError> {
        let new = self.names().join(".new");
        fs::File::create(&new)
            .and_then(|mut file| {
                file.write_all(record)?;
                file.sync_all()
            })
            .map_err(files("write", &new))?;
        let tree = self.tree(digest);
        let already = tree.exists();
        if !already {
            // From here on sandboxes may enter.
            rustix::fs::chmod(&place.path, Mode::from_raw_mode(0o755))
                .map_err(files("set the mode of", &place.path))?;
            fs::rename(&place.path, &tree).map_err(files("keep", &tree))?;
            sync_dir(&self.trees())?;
        }
        let path = self.names().join(name.as_str());
        fs::rename(&new, &path).map_err(files("keep", &path))?;
        sync_dir(&self.names())?;
        Ok(already)
    }

    /// Takes a name away, durably.
    pub(crate) fn forget(&self, name: &Name, _lock: &Exclusive) -> Result<(), StoreError> {
        let path = self.names().join(name.as_str());
        match fs::remove_file(&path) {
            Ok(()) => sync_dir(&self.names()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::Unknown(name.clone()))
            }
            Err(error) => Err(files("remove", &path)(error)),
        }
    }

    /// Takes a tree out of the store, to be removed from where it is then; `None` when somebody runs in it.
    pub(crate) fn take_out(
        &self,
        digest: &Digest,
        _lock: &Exclusive,
    ) -> Result<Option<Claimed>, StoreError> {
        let path = self.tree(digest);
        let Some(lock) = claim(&path)? else {
            return Ok(None);
        };
        let gone = self.trees().join(format!("{UNFINISHED}gone-{digest}"));
        fs::rename(&path, &gone).map_err(files("take out", &path))?;
        Ok(Some(Claimed {
            path: gone,
            _lock: lock,
        }))
    }
}

/// Where a tree is made; whatever is left of it goes when this does.
#[derive(Debug)]
pub(crate) struct Workplace {
    pub(crate) path: PathBuf,
    _lock: OwnedFd,
}

impl Drop for Workplace {
    fn drop(&mut self) {
        // What cannot be removed now is swept later.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A directory called `tmp-…` that is ours alone as long as this lives.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) path: PathBuf,
    _lock: OwnedFd,
}

impl Claimed {
    /// Removes it with all that is in it; gives the bytes of its files.
    pub(crate) fn remove(self) -> Result<u64, StoreError> {
        let bytes = weigh(&self.path)?;
        fs::remove_dir_all(&self.path).map_err(files("remove", &self.path))?;
        Ok(bytes)
    }
}

/// A directory called `tmp-…` that nobody works on any more; `None` while somebody does.
fn abandoned(path: PathBuf) -> Result<Option<Claimed>, StoreError> {
    Ok(claim(&path)?.map(|lock| Claimed { path, _lock: lock }))
}

fn claim(path: &Path) -> Result<Option<OwnedFd>, StoreError> {
    let lock = match open_dir(path) {
        // Its owner was done with it in this moment.
        Err(StoreError::Files { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        opened => opened?,
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(files("lock", path)(errno)),
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, StoreError> {
    rustix::fs::open(
        path,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(files("open", path))
}

fn sync_dir(path: &Path) -> Result<(), StoreError> {
    rustix::fs::fsync(open_dir(path)?).map_err(files("make durable", path))
}

/// Names in a directory of ours, which are all text.
pub(crate) fn entries(dir: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(files("list", dir))? {
        let name = entry.map_err(files("list", dir))?.file_name();
        names.extend(name.into_string());
    }
    Ok(names)
}

/// Bytes of the files below a directory. Its depth is bounded, because what made it was.
fn weigh(dir: &Path) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(files("list", dir))? {
        let entry = entry.map_err(files("list", dir))?;
        let found = entry.metadata().map_err(files("look at", &entry.path()))?;
        if found.is_dir() {
            bytes += weigh(&entry.path())?;
        } else if found.is_file() {
            bytes += found.len();
        }
    }
    Ok(bytes)
}
