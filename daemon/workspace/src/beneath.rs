//! A directory, and what is done beneath it: each path is resolved by the kernel, which follows no link, leaves no mount and
//! goes no way up. Nothing here follows a name twice: what was opened is what is used.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, Dir as Reader, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

use crate::{Fault, place::Place};

/// The longest target of a symbolic link that is kept, in bytes.
const MAX_TARGET: usize = 4096;

/// No link is followed, not even one that stays beneath: a link is a name that somebody else chose.
const STRICT: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// What stands at a name, without following it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: FileType,
    /// Permission bits, set-uid and the like included.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Device number, for what is a device.
    pub device: u64,
}

impl From<Stat> for Found {
    fn from(stat: Stat) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            device: stat.st_rdev,
        }
    }
}

fn fault(step: &'static str, what: impl ToString) -> impl FnOnce(Errno) -> Fault {
    let path = what.to_string();
    move |errno| Fault::Files {
        step,
        path,
        source: errno.into(),
    }
}

impl Dir {
    /// Opens a directory by an absolute path that has no link in it.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        fs::openat2(
            fs::CWD,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
        .map(Self)
        .map_err(fault("open", path.display()))
    }

    /// Opens a directory beneath this one. Who owns a directory that it may not read gives itself the right.
    ///
    /// # Errors
    /// When there is none.
    pub fn dir(&self, place: &Place) -> Result<Self, Fault> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        self.enter(place, flags, 0o700)
            .map(Self)
            .map_err(fault("open", place))
    }

    /// Opens a regular file beneath this one for reading.
    ///
    /// # Errors
    /// When there is none, or something else.
    pub fn file(&self, place: &Place) -> Result<File, Fault> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = self
            .enter(place, flags, 0o600)
            .map_err(fault("open", place))?;
        let found = Found::from(fs::fstat(&opened).map_err(fault("look at", place))?);
        if found.kind == FileType::RegularFile {
            Ok(File::from(opened))
        } else {
            Err(fault("read", place)(Errno::INVAL))
        }
    }

    fn enter(&self, place: &Place, flags: OFlags, own: u32) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        match self.openat2(place, flags) {
            Err(Errno::ACCESS) => {
                let (parent, name) = self.parent(place)?;
                let stat = fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let is = FileType::from_raw_mode(stat.st_mode);
                if !matches!(is, FileType::RegularFile | FileType::Directory) {
                    return Err(Errno::ACCESS);
                }
                // The call follows links; what was just looked at is none, and nobody but us changes it any more.
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777 | own);
                fs::chmodat(&parent, name, mode, AtFlags::empty())?;
                self.openat2(place, flags)
            }
            other => other,
        }
    }

    fn openat2(&self, place: &Place, flags: OFlags) -> Result<OwnedFd, Errno> {
        loop {
            // The kernel asks to try again when something was renamed meanwhile.
            match fs::openat2(&self.0, place.as_bytes(), flags, Mode::empty(), STRICT) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    fn parent<'a>(&self, place: &'a Place) -> Result<(OwnedFd, &'a [u8]), Errno> {
        let (dir, name) = place.split();
        let parent = match dir {
            None => self.0.try_clone().map_err(|_| Errno::MFILE)?,
            Some(dir) => self.openat2(
                &dir,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            )?,
        };
        Ok((parent, name))
    }

    fn at<T>(
        &self,
        place: &Place,
        step: &'static str,
        act: impl FnOnce(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, Fault> {
        self.parent(place)
            .and_then(|(parent, name)| act(parent.as_fd(), name))
            .map_err(fault(step, place))
    }

    /// What is there; nothing where nothing is, nor a directory that it could be in.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn look(&self, place: &Place) -> Result<Option<Found>, Fault> {
        let looked = self.parent(place).and_then(|(parent, name)| {
            fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map(Found::from)
        });
        match looked {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(fault("look at", place)(errno)),
        }
    }

    /// Names in this directory and what the directory says they are, in the order of their bytes, at most so many.
    ///
    /// # Errors
    /// When it cannot be read, or has more.
    pub fn names(&self, most: usize) -> Result<Vec<(Vec<u8>, FileType)>, Fault> {
        let mut names = Vec::new();
        let reader = Reader::read_from(&self.0).map_err(fault("list", "a directory"))?;
        for entry in reader {
            let entry = entry.map_err(fault("list", "a directory"))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if names.len() >= most {
                return Err(Fault::TooMuch {
                    what: "entries",
                    most: most as u64,
                });
            }
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                let stat = fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW);
                kind = FileType::from_raw_mode(stat.map_err(fault("look at", "an entry"))?.st_mode);
            }
            names.push((name.to_vec(), kind));
        }
        names.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Ok(names)
    }

    /// Where a link leads.
    ///
    /// # Errors
    /// When there is none, or its target is too long.
    pub fn target(&self, place: &Place) -> Result<Vec<u8>, Fault> {
        let target = self.at(place, "read", |parent, name| {
            fs::readlinkat(parent, name, Vec::new())
        })?;
        if target.to_bytes().len() > MAX_TARGET {
            return Err(fault("read", place)(Errno::NAMETOOLONG));
        }
        Ok(target.into_bytes())
    }

    /// The value of an extended attribute of this directory, of at most 16 bytes.
    pub(crate) fn attribute(&self, name: &str) -> Option<Vec<u8>> {
        let mut value = [0_u8; 16];
        let length = fs::fgetxattr(&self.0, name, &mut value[..]).ok()?;
        Some(value[..length].to_vec())
    }

    /// Makes a file that must not exist.
    ///
    /// # Errors
    /// When it does, or cannot be made.
    pub fn create(&self, place: &Place, mode: u32) -> Result<File, Fault> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.at(place, "make", |parent, name| {
            let made = fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
            fs::fchmod(&made, Mode::from_raw_mode(mode))?;
            Ok(File::from(made))
        })
    }

    /// Makes a directory and opens it.
    ///
    /// # Errors
    /// When there is something already, or it cannot be made.
    pub fn make_dir(&self, place: &Place, mode: u32) -> Result<Self, Fault> {
        self.at(place, "make", |parent, name| {
            fs::mkdirat(parent, name, Mode::RWXU)
        })?;
        let made = self.dir(place)?;
        made.set_mode(mode)?;
        Ok(made)
    }

    /// Sets this directory's mode.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_mode(&self, mode: u32) -> Result<(), Fault> {
        fs::fchmod(&self.0, Mode::from_raw_mode(mode)).map_err(fault("set the mode of", "it"))
    }

    /// Makes a symbolic link, which may lead anywhere: nobody outside a sandbox follows it.
    ///
    /// # Errors
    /// When there is something already, or it cannot be made.
    pub fn make_link(&self, place: &Place, target: &[u8]) -> Result<(), Fault> {
        self.at(place, "make", |parent, name| {
            fs::symlinkat(target, parent, name)
        })
    }

    /// Gives a file or a link of another directory a second name here.
    ///
    /// # Errors
    /// When there is something already, or the file system refuses.
    pub fn link_from(&self, from: &Self, source: &Place, place: &Place) -> Result<(), Fault> {
        let (dir, name) = from.parent(source).map_err(fault("open", source))?;
        self.at(place, "link", |parent, to| {
            fs::linkat(&dir, name, parent, to, AtFlags::empty())
        })
    }

    /// Removes what is at a name, unless it is a directory with something in it.
    ///
    /// # Errors
    /// When it is not there, or has something in it.
    pub fn remove(&self, place: &Place, directory: bool) -> Result<(), Fault> {
        let flags = if directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        self.at(place, "remove", |parent, name| {
            fs::unlinkat(parent, name, flags)
        })
    }

    /// Removes a directory and everything in it, if it is there.
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub fn remove_all(&self, place: &Place) -> Result<(), Fault> {
        match self.look(place)? {
            None => return Ok(()),
            Some(found) if found.kind != FileType::Directory => return self.remove(place, false),
            Some(_) => {}
        }
        let dir = self.dir(place)?;
        // Without a right to write in it, its owner cannot empty it.
        dir.set_mode(0o700)?;
        for (name, kind) in dir.names(usize::MAX)? {
            // Names as they are: what stands here may have been written by a run, before its bounds were checked.
            if kind == FileType::Directory {
                match Place::new(&name) {
                    Ok(name) => dir.remove_all(&name)?,
                    Err(_) => {
                        return Err(fault("remove", crate::place::shown(&name))(Errno::INVAL));
                    }
                }
            } else {
                fs::unlinkat(&dir.0, &name[..], AtFlags::empty())
                    .map_err(fault("remove", crate::place::shown(&name)))?;
            }
        }
        self.remove(place, true)
    }

    /// Renames within this directory; what was there is replaced.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn rename(&self, from: &Place, to: &Place) -> Result<(), Fault> {
        let (dir, name) = self.parent(from).map_err(fault("open", from))?;
        self.at(to, "rename", |parent, to| {
            fs::renameat(&dir, name, parent, to)
        })
    }

    /// Makes what was done in this directory durable.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn sync(&self) -> Result<(), Fault> {
        fs::fsync(&self.0).map_err(fault("make durable", "a directory"))
    }

    /// Waits until this directory is nobody else's; it is ours until it is dropped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lock(&self) -> Result<(), Fault> {
        loop {
            match fs::flock(&self.0, fs::FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                other => return other.map_err(fault("lock", "the workspace")),
            }
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A plain name, for what this program makes itself.
pub(crate) fn own(name: &str) -> Place {
    Place::new(name.as_bytes()).expect("a name of ours is a path")
}

/// Reads a file of ours, which has at most so many bytes.
pub(crate) fn read_own(dir: &Dir, place: &Place, most: u64) -> Result<Vec<u8>, Fault> {
    use io::Read as _;
    let mut bytes = Vec::new();
    let mut file = dir.file(place)?.take(most + 1);
    file.read_to_end(&mut bytes)
        .map_err(|source| Fault::Files {
            step: "read",
            path: place.to_string(),
            source,
        })?;
    if bytes.len() as u64 > most {
        return Err(Fault::TooMuch {
            what: "bytes of a record",
            most,
        });
    }
    Ok(bytes)
}

/// Writes a file of ours that must not exist, and makes it durable.
pub(crate) fn write_own(dir: &Dir, place: &Place, bytes: &[u8]) -> Result<(), Fault> {
    use io::Write as _;
    let mut file = dir.create(place, 0o600)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|source| Fault::Files {
            step: "write",
            path: place.to_string(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        os::unix,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    use super::*;

    /// Somebody exchanges a directory for a link out of it, and a file for a link to a secret, all the while; nothing is read or made
    /// elsewhere, in ten thousand rounds of everything that is done beneath a directory.
    #[test]
    fn l4_no_race_of_links_leads_out_of_a_directory() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("file"), "secret").unwrap();
        let [d, link, file, other] =
            ["d", "link", "file", "other"].map(|it| inside.path().join(it));
        std::fs::create_dir(&d).unwrap();
        std::fs::write(d.join("file"), "plain").unwrap();
        unix::fs::symlink(outside.path(), &link).unwrap();
        std::fs::write(&file, "plain").unwrap();
        unix::fs::symlink(outside.path().join("file"), &other).unwrap();
        let root = Dir::open(&inside.path().canonicalize().unwrap()).unwrap();
        let done = AtomicBool::new(false);
        let place = |path: &str| Place::new(path.as_bytes()).unwrap();
        let (mut swaps, mut read, mut made) = (0_u32, 0, 0);
        thread::scope(|scope| {
            let swapping = scope.spawn(|| {
                let mut swaps = 0;
                while !done.load(Ordering::Relaxed) {
                    for (one, two) in [(&d, &link), (&file, &other)] {
                        renameat_with(CWD, one, CWD, two, RenameFlags::EXCHANGE).unwrap();
                    }
                    swaps += 1;
                }
                swaps
            });
            for _ in 0..10_000 {
                for path in ["file", "d/file"] {
                    if let Ok(mut found) = root.file(&place(path)) {
                        let mut text = String::new();
                        found.read_to_string(&mut text).unwrap();
                        assert_eq!(text, "plain");
                        read += 1;
                    }
                }
                if root.create(&place("d/new"), 0o600).is_ok() {
                    made += 1;
                }
                let _ = root.make_dir(&place("d/dir"), 0o700);
                let _ = root.make_link(&place("d/to"), b"x");
                for (path, directory) in [("d/new", false), ("d/to", false), ("d/dir", true)] {
                    let _ = root.remove(&place(path), directory);
                }
            }
            done.store(true, Ordering::Relaxed);
            swaps = swapping.join().unwrap();
        });
        assert!(
            swaps > 100 && read > 100 && made > 100,
            "{swaps} {read} {made}"
        );
        let left: Vec<_> = std::fs::read_dir(outside.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(
            std::fs::read_to_string(outside.path().join("file")).unwrap(),
            "secret"
        );
    }
}
