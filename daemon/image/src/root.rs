//! A root that is being made: every step goes from its own descriptor, beneath it, through no symlink.
//!
//! Modes are made plain: directories 0755, files 0755 or 0644. Nothing keeps an owner, a set-uid bit, an extended attribute or
//! the nature of a device; symlinks are kept as they are, because they are resolved in the sandbox.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write as _},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use paw_launch::tree::{BENEATH, DIR, names, open_beneath};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps},
    io::Errno,
};

use crate::path::TreePath;

/// Why an entry was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    #[error("{step} {path:?}")]
    Step {
        step: &'static str,
        path: String,
        source: io::Error,
    },
    #[error(
        "{0:?} is reached through something that is no directory; an archive may not write through a link"
    )]
    Through(String),
    #[error("{path:?} is a hard link to {target:?}, which is no file or symlink of this image")]
    HardLink { path: String, target: String },
}

fn step<E: Into<io::Error>>(what: &'static str, path: &TreePath) -> impl FnOnce(E) -> RootError {
    let path = path.shown();
    move |source| RootError::Step {
        step: what,
        path,
        source: source.into(),
    }
}

/// The directory that becomes a tree.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl Root {
    /// An existing directory of ours.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, DIR, Mode::empty())?))
    }

    fn dir(&self, path: &TreePath) -> Result<OwnedFd, Errno> {
        let text = path.parts().collect::<Vec<_>>().join(&b'/');
        let text = if text.is_empty() { &b"."[..] } else { &text };
        rustix::fs::openat2(&self.0, text, DIR, Mode::empty(), BENEATH)
    }

    /// The directory of an entry, made as far as it is missing, and the entry's name in it.
    fn parent<'a>(
        &self,
        path: &'a TreePath,
        made: &mut BTreeSet<TreePath>,
    ) -> Result<Option<(OwnedFd, &'a [u8])>, RootError> {
        let Some((above, name)) = path.split() else {
            return Ok(None);
        };
        match self.dir(&above) {
            Ok(dir) => return Ok(Some((dir, name))),
            Err(Errno::NOENT) => {}
            Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
                return Err(RootError::Through(path.shown()));
            }
            Err(errno) => return Err(step("open the directory of", path)(errno)),
        }
        self.directory(&above, made)?;
        let dir = self
            .dir(&above)
            .map_err(step("open the directory of", path))?;
        Ok(Some((dir, name)))
    }

    /// Makes a directory; one that is there stays, with what is in it.
    pub(crate) fn directory(
        &self,
        path: &TreePath,
        made: &mut BTreeSet<TreePath>,
    ) -> Result<(), RootError> {
        let Some((dir, name)) = self.parent(path, made)? else {
            return Ok(());
        };
        let is_dir = kind(&dir, name).map_err(step("look at", path))? == Some(FileType::Directory);
        if !is_dir {
            clear(&dir, name).map_err(step("replace", path))?;
            rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755))
                .and_then(|()| {
                    rustix::fs::chmodat(&dir, name, Mode::from_raw_mode(0o755), AtFlags::empty())
                })
                .map_err(step("make the directory", path))?;
        }
        mark(made, path);
        Ok(())
    }

    /// Makes a file in the place of whatever is there.
    pub(crate) fn file(
        &self,
        path: &TreePath,
        executable: bool,
        mtime: u64,
        from: &mut dyn Read,
        made: &mut BTreeSet<TreePath>,
    ) -> Result<(), RootError> {
        let Some((dir, name)) = self.parent(path, made)? else {
            return Err(RootError::Through(path.shown()));
        };
        clear(&dir, name).map_err(step("replace", path))?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o600))
            .map_err(step("make the file", path))?;
        let mut file = fs::File::from(file);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = from
                .read(&mut buffer)
                .map_err(step("read the content of", path))?;
            if count == 0 {
                break;
            }
            file.write_all(&buffer[..count])
                .map_err(step("write", path))?;
        }
        let mode = if executable { 0o755 } else { 0o644 };
        let time = Timespec {
            tv_sec: i64::try_from(mtime).unwrap_or(0),
            tv_nsec: 0,
        };
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
            .and_then(|()| {
                rustix::fs::futimens(
                    &file,
                    &Timestamps {
                        last_access: time,
                        last_modification: time,
                    },
                )
            })
            .map_err(step("set the mode of", path))?;
        mark(made, path);
        Ok(())
    }

    /// Makes a symlink, whatever it says.
    pub(crate) fn symlink(
        &self,
        path: &TreePath,
        target: &[u8],
        made: &mut BTreeSet<TreePath>,
    ) -> Result<(), RootError> {
        let Some((dir, name)) = self.parent(path, made)? else {
            return Err(RootError::Through(path.shown()));
        };
        clear(&dir, name).map_err(step("replace", path))?;
        rustix::fs::symlinkat(target, &dir, name).map_err(step("make the link", path))?;
        mark(made, path);
        Ok(())
    }

    /// Gives a file of this root a second name; a symlink is one, too, and is not followed.
    pub(crate) fn hard_link(
        &self,
        path: &TreePath,
        target: &TreePath,
        made: &mut BTreeSet<TreePath>,
    ) -> Result<(), RootError> {
        let foreign = || RootError::HardLink {
            path: path.shown(),
            target: target.shown(),
        };
        let (above, target_name) = target.split().ok_or_else(foreign)?;
        let target_dir = self.dir(&above).map_err(|_| foreign())?;
        match kind(&target_dir, target_name) {
            Ok(Some(FileType::RegularFile | FileType::Symlink)) => {}
            Ok(_) | Err(_) => return Err(foreign()),
        }
        if path == target {
            return Ok(());
        }
        let Some((dir, name)) = self.parent(path, made)? else {
            return Err(RootError::Through(path.shown()));
        };
        clear(&dir, name).map_err(step("replace", path))?;
        // Looked up again, because what was replaced may have been a directory above it.
        rustix::fs::linkat(&target_dir, target_name, &dir, name, AtFlags::empty())
            .map_err(|_| foreign())?;
        mark(made, path);
        Ok(())
    }

    /// Takes away what the layers below have at a path; what this layer made stays.
    pub(crate) fn without(
        &self,
        path: &TreePath,
        made: &BTreeSet<TreePath>,
    ) -> Result<(), RootError> {
        let Some((above, name)) = path.split() else {
            return Ok(());
        };
        match self.dir(&above) {
            Ok(dir) => {
                if !made.contains(path) {
                    return clear(&dir, name).map_err(step("take away", path));
                }
                if kind(&dir, name).map_err(step("look at", path))? == Some(FileType::Directory) {
                    return self.empty(path, made);
                }
                Ok(())
            }
            // Nothing there, so nothing to take away.
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(Errno::LOOP | Errno::XDEV) => Err(RootError::Through(path.shown())),
            Err(errno) => Err(step("open the directory of", path)(errno)),
        }
    }

    /// Takes away what the layers below have in a directory.
    pub(crate) fn empty(
        &self,
        path: &TreePath,
        made: &BTreeSet<TreePath>,
    ) -> Result<(), RootError> {
        let dir = match self.dir(path) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(Errno::LOOP | Errno::XDEV) => return Err(RootError::Through(path.shown())),
            Err(errno) => return Err(step("open", path)(errno)),
        };
        for name in names(&dir).map_err(step("list", path))? {
            self.without(&path.join(&name), made)?;
        }
        Ok(())
    }

    /// The directory itself.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Everything is on the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

/// Remembers that this layer made an entry, and so that it wants the directories above it.
fn mark(made: &mut BTreeSet<TreePath>, path: &TreePath) {
    let mut path = path.clone();
    while made.insert(path.clone()) {
        match path.split() {
            Some((above, _)) => path = above,
            None => return,
        }
    }
}

/// What stands at a name, nothing followed.
fn kind(dir: impl AsFd, name: &[u8]) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Removes whatever stands at a name, with all that is in it, following nothing. Its depth was bounded when it was made.
fn clear(dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let below = open_beneath(dir.as_fd(), name)?;
    for entry in names(&below)? {
        clear(&below, &entry)?;
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}
