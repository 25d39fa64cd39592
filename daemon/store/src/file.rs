//! Making and opening the file: nothing is ever put in place of a store that is there, not even an empty one.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use redb::{Builder, Database, backends::FileBackend};

use crate::{
    error::{Fault, StoreError},
    overlay::Overlay,
    schema,
};

/// How to open a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOptions {
    /// Make a new store when there is no file. Without it a missing file is an error.
    pub create: bool,
    /// The version of the program, written into the file so that a later refusal can name it.
    pub program: String,
    /// The most memory for pages, in bytes.
    pub cache: usize,
}

impl OpenOptions {
    /// Makes a new store where there is none; 8 MiB of memory for pages.
    #[must_use]
    pub fn new(program: &str) -> Self {
        Self {
            create: true,
            program: program.to_owned(),
            cache: 8 * 1024 * 1024,
        }
    }
}

/// How a file was opened.
pub(crate) struct Opened {
    pub(crate) database: Database,
    /// False when changes would be kept in memory only.
    pub(crate) writable: bool,
}

/// Opens the file at `path` for reading and writing, and checks each of its pages first.
///
/// The whole check costs a read of the file at each start. It is what turns damage into an error: redb trusts a file that
/// was closed cleanly, and may panic over it later.
pub(crate) fn open(path: &Path, cache: usize) -> Result<Opened, StoreError> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|e| StoreError::io("open", path, e))?;
    refuse_unlikely(&file, path)?;
    let database = FileBackend::new(file)
        .and_then(|backend| builder(cache).create_with_backend(backend))
        .map_err(|e| Fault::from(e).at("open", path))?;
    Ok(Opened {
        database,
        writable: true,
    })
}

/// Opens the file at `path` so that nothing is written to it, whatever state it is in.
///
/// The lock is shared, so that several may look, but not beside somebody who writes.
pub(crate) fn open_unwritten(path: &Path, cache: usize) -> Result<Opened, StoreError> {
    let file = File::open(path).map_err(|e| StoreError::io("open", path, e))?;
    refuse_unlikely(&file, path)?;
    match file.try_lock_shared() {
        Ok(()) => (),
        Err(TryLockError::WouldBlock) => {
            return Err(StoreError::InUse {
                path: path.to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", path, error)),
    }
    let overlay = Overlay::new(file).map_err(|e| StoreError::io("read", path, e))?;
    let database = builder(cache)
        .create_with_backend(overlay)
        .map_err(|e| Fault::from(e).at("read", path))?;
    Ok(Opened {
        database,
        writable: false,
    })
}

/// Makes an empty store at `path`. It appears there complete or not at all.
pub(crate) fn create(path: &Path, options: &OpenOptions, version: u64) -> Result<(), StoreError> {
    write_new(path, |backend| {
        let database = builder(options.cache).create_with_backend(backend)?;
        let mut txn = database.begin_write()?;
        txn.set_two_phase_commit(true);
        schema::create(&txn, version, &options.program)?;
        txn.commit()?;
        Ok(database.close()?)
    })
}

/// Lets `fill` write a database beside `path` and then gives it that name, if the name is still free.
pub(crate) fn write_new(
    path: &Path,
    fill: impl FnOnce(FileBackend) -> Result<(), Fault>,
) -> Result<(), StoreError> {
    if path.symlink_metadata().is_ok() {
        return Err(StoreError::Exists {
            path: path.to_owned(),
        });
    }
    let draft = beside(path, "new");
    let failed = |step| move |error| StoreError::io(step, path, error);
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&draft)
        .map_err(failed("create"))?;
    match file.try_lock() {
        Ok(()) => (),
        Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: draft }),
        Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", path, error)),
    }
    let written = (|| {
        // A draft that is there was left by a crash: nobody holds its lock.
        file.set_len(0).map_err(failed("create"))?;
        let handle = file.try_clone().map_err(failed("create"))?;
        FileBackend::new(handle)
            .map_err(Fault::from)
            .and_then(fill)
            .map_err(|fault| fault.at("create", path))?;
        file.sync_all().map_err(failed("create"))?;
        fs::hard_link(&draft, path).map_err(failed("create"))
    })();
    // The draft has its name at `path` now, or is of no use.
    let removed = fs::remove_file(&draft).map_err(failed("create"));
    written?;
    removed?;
    sync_directory(path)
}

/// Copies the closed file at `path` to `copy`, in place of an older copy, durably.
pub(crate) fn copy_closed(path: &Path, copy: &Path) -> Result<(), StoreError> {
    let draft = beside(copy, "new");
    let copied = (|| {
        let mut from = File::open(path)?;
        let mut to = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()?;
        fs::rename(&draft, copy)
    })();
    if let Err(error) = copied {
        // What cannot be removed is overwritten by the next try.
        let _ = fs::remove_file(&draft);
        return Err(StoreError::io("copy", copy, error));
    }
    sync_directory(copy)
}

/// `path` with one more ending.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

fn builder(cache: usize) -> Builder {
    let mut builder = Builder::new();
    builder
        .set_cache_size(cache)
        .set_check_integrity_on_open(true);
    builder
}

/// redb makes a new database of an empty file. Ours are never empty, so that would be the loss of everything, unnoticed.
fn refuse_unlikely(file: &File, path: &Path) -> Result<(), StoreError> {
    let about = file
        .metadata()
        .map_err(|e| StoreError::io("open", path, e))?;
    let corrupt = |detail: &str| {
        Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail: detail.into(),
        })
    };
    match (about.is_file(), about.len()) {
        (false, _) => corrupt("it is not a file"),
        (true, 0) => corrupt("it is empty"),
        (true, _) => Ok(()),
    }
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .map_err(|e| StoreError::io("sync directory of", path, e))
}
