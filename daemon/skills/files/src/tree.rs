//! The directory tree beneath the root: every access resolved by the kernel, every amount bounded.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use serde::Serialize;

use crate::path::{BadPath, Inside, showable};

/// Deepest level of one listing.
pub(crate) const MAX_DEPTH: u32 = 8;
/// Most entries of one listing.
pub(crate) const MAX_ENTRIES: usize = 1000;
/// Most names that are sorted for one directory; a larger one is listed in part, as the kernel gives it.
const MAX_NAMES: usize = 10_000;
/// Most bytes of all paths of one listing together, for the same line of 1 MiB.
const MAX_PATHS: usize = 128 * 1024;
/// Most bytes of one read. Control characters grow sixfold in JSON, and the whole answer must stay below a line of 1 MiB.
pub(crate) const MAX_READ: usize = 128 * 1024;
/// Most bytes of one write.
pub(crate) const MAX_WRITE: usize = 512 * 1024;

/// Most files and directories of one that is deleted.
pub(crate) const MAX_TREE: usize = 1000;
/// Most levels of a directory that is deleted.
pub(crate) const MAX_LEVELS: u32 = 32;

/// No link is followed, not even one that stays beneath the root: a link is a name that somebody else chose.
const STRICT: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Why something was not done with a file. The text is for the model that asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    #[error(transparent)]
    Path(#[from] BadPath),
    #[error("{path} is not there; list its directory to see what is")]
    Missing { path: String },
    #[error(
        "{path} is a symbolic link, has one on its way, or leads out of the workspace; links are not followed"
    )]
    Link { path: String },
    #[error("{path} is {what}, not {wanted}")]
    Kind {
        path: String,
        what: &'static str,
        wanted: &'static str,
    },
    #[error("the directory of {path} is not there; set create_dirs to make it")]
    NoDirectory { path: String },
    #[error("{bytes} bytes are more than the {MAX_WRITE} that one call may write")]
    TooMuch { bytes: usize },
    #[error("{path} has more than {MAX_WRITE} bytes, or is no text; write it as a whole")]
    NoText { path: String },
    #[error("the text to be replaced is empty, or the same as the new one")]
    NoEdit,
    #[error("the text to be replaced is not in {path}; read it again")]
    NotThere { path: String },
    #[error("the text to be replaced is in {path} {times} times; give more of it, or set all")]
    NotOnce { path: String, times: usize },
    #[error(
        "text or name are expected, of 1 to 1024 bytes and without line breaks: what to look for"
    )]
    Wanted,
    #[error("{path} is a directory with something in it; set recursive to delete all of it")]
    NotEmpty { path: String },
    #[error(
        "{path} holds more than {MAX_TREE} files and directories, more than {MAX_LEVELS} levels, or a device, pipe or socket; delete what is in it first"
    )]
    TreeTooLarge { path: String },
    #[error(
        "{path} is too large to be kept for undo; set for_good to do it all the same, for good"
    )]
    TooLargeToKeep { path: String },
    #[error("there is no change {id}; the latest 32 are kept, as far as there is room")]
    NoChange { id: String },
    #[error(
        "{path} is not as that change left it: somebody changed it since; give another change to take that one back"
    )]
    ChangedSince { path: String },
    #[error("what was kept of {path} cannot be read any more")]
    Damaged { path: String },
    #[error("{step} {path}: {source}")]
    System {
        step: &'static str,
        path: String,
        source: io::Error,
    },
}

impl TreeError {
    pub(crate) fn of(step: &'static str, path: &Inside, errno: Errno) -> Self {
        let path = path.to_string();
        match errno {
            Errno::NOENT => Self::Missing { path },
            Errno::LOOP | Errno::XDEV => Self::Link { path },
            Errno::NOTDIR => Self::Kind {
                path,
                what: "a file, or has one on its way",
                wanted: "a directory",
            },
            Errno::ISDIR => Self::Kind {
                path,
                what: "a directory",
                wanted: "a file",
            },
            errno => Self::System {
                step,
                path,
                source: errno.into(),
            },
        }
    }
}

/// One line of a listing.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Entry {
    /// Relative to the root; escaped where it is not plain text.
    pub(crate) path: String,
    /// `file`, `directory`, `link` or `other`.
    pub(crate) kind: &'static str,
    /// In bytes, of a file.
    pub(crate) size: u64,
}

/// What a directory holds.
#[derive(Debug, Serialize)]
pub(crate) struct Listing {
    pub(crate) entries: Vec<Entry>,
    /// Whether there is more than is shown.
    pub(crate) truncated: bool,
    /// Bytes of paths that may still be added.
    #[serde(skip)]
    room: usize,
}

/// A piece of a file.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Size of the whole file, in bytes.
    pub(crate) size: u64,
    /// The piece.
    pub(crate) bytes: Vec<u8>,
}

/// An opened root.
pub(crate) struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// Opens the root; every later path is resolved from this very directory, wherever its name may point by then.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let root = fs::open(
            root,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self { root })
    }

    /// Lists a directory down to `depth` levels, directories before what is in them.
    pub(crate) fn list(&self, path: &Inside, depth: u32) -> Result<Listing, TreeError> {
        let directory = self.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut listing = Listing {
            entries: Vec::new(),
            truncated: false,
            room: MAX_PATHS,
        };
        walk(
            &directory,
            &path.prefix(),
            depth.clamp(1, MAX_DEPTH),
            &mut listing,
        )
        .map_err(|errno| TreeError::of("list", path, errno))?;
        Ok(listing)
    }

    /// Reads at most `limit` bytes, and at most [`MAX_READ`], from `offset` on.
    pub(crate) fn read(
        &self,
        path: &Inside,
        offset: u64,
        limit: usize,
    ) -> Result<Piece, TreeError> {
        // Without NONBLOCK the opening of a FIFO would wait for a writer that never comes.
        let file = self.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = fs::fstat(&file).map_err(|errno| TreeError::of("look at", path, errno))?;
        want_file(&stat, path)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if offset >= size {
            return Ok(Piece {
                size,
                bytes: Vec::new(),
            });
        }
        let mut bytes = vec![0; limit.min(MAX_READ)];
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::io::pread(
                &file,
                &mut bytes[filled..],
                offset.saturating_add(filled as u64),
            ) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(TreeError::of("read", path, errno)),
            }
        }
        bytes.truncate(filled);
        Ok(Piece { size, bytes })
    }

    /// Writes a whole file, so that a reader sees the old text or the new one and a crash leaves one of them.
    pub(crate) fn write(&self, path: &Inside, text: &[u8], mode: Mode) -> Result<(), TreeError> {
        let (directory, name) = self.place(path)?;
        replace(directory.as_fd(), name, text, mode)
            .map_err(|(step, errno)| TreeError::of(step, path, errno))
    }

    /// The directory of a file that is written or removed, and the file's name.
    pub(crate) fn place<'a>(&self, path: &'a Inside) -> Result<(OwnedFd, &'a str), TreeError> {
        let Some((parent, name)) = path.split() else {
            return Err(TreeError::Kind {
                path: path.to_string(),
                what: "the workspace itself",
                wanted: "something in it",
            });
        };
        match self.open_beneath(&parent, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(TreeError::Missing { .. }) => Err(TreeError::NoDirectory {
                path: path.to_string(),
            }),
            opened => Ok((opened?, name)),
        }
    }

    /// Makes a directory and those above it where they are missing.
    pub(crate) fn make_directories(&self, path: &Inside) -> Result<(), TreeError> {
        for directory in path.ancestors() {
            let directory: Inside = directory.parse()?;
            let Some((parent, name)) = directory.split() else {
                continue;
            };
            // One level at a time, each resolved strictly, because mkdirat itself would follow a link on its way.
            let parent = self.open_beneath(&parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
            match fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(TreeError::of("make directory", &directory, errno)),
            }
        }
        Ok(())
    }

    pub(crate) fn open_beneath(&self, path: &Inside, flags: OFlags) -> Result<OwnedFd, TreeError> {
        open_strictly(self.root.as_fd(), path.as_str(), flags)
            .map_err(|errno| TreeError::of("open", path, errno))
    }

    /// The root, for what is kept in it.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Opens what is beneath a directory, following no link.
pub(crate) fn open_strictly(
    from: BorrowedFd<'_>,
    path: impl rustix::path::Arg + Copy,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    loop {
        // EAGAIN is the kernel's word for a rename that raced with the walk; it asks to be asked again.
        match fs::openat2(from, path, flags | OFlags::CLOEXEC, Mode::empty(), STRICT) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            // The kernel of Debian 12's gVisor does not know the call.
            Err(Errno::NOSYS) => {
                return path
                    .into_with_c_str(|path| open_step_by_step(from, path.to_bytes(), flags));
            }
            opened => return opened,
        }
    }
}

/// The same without openat2: each name is opened in the directory before it, which is held meanwhile, and none may be a link or lead up.
fn open_step_by_step(from: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let strictly = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |from: BorrowedFd<'_>, name: &[u8], flags: OFlags| {
        if matches!(name, b"" | b"..") {
            return Err(Errno::XDEV);
        }
        fs::openat(from, name, flags | strictly, Mode::empty())
    };
    let mut names = path.split(|byte| *byte == b'/');
    let last = names.next_back().unwrap_or_default();
    let mut held: Option<OwnedFd> = None;
    for name in names {
        let at = held.as_ref().map_or(from, AsFd::as_fd);
        held = Some(open(at, name, OFlags::RDONLY | OFlags::DIRECTORY)?);
    }
    open(held.as_ref().map_or(from, AsFd::as_fd), last, flags)
}

/// The names in a directory, in their order, and whether there are more.
pub(crate) fn names_in(directory: &OwnedFd) -> Result<(Vec<CString>, bool), Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        if names.len() == MAX_NAMES {
            names.sort();
            return Ok((names, true));
        }
        names.push(entry.file_name().to_owned());
    }
    names.sort();
    Ok((names, false))
}

/// All of a regular file; nothing where it is none, or has more than `most` bytes.
pub(crate) fn read_all(file: &OwnedFd, most: usize) -> Result<Option<Vec<u8>>, Errno> {
    let stat = fs::fstat(file)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Ok(None);
    }
    // One byte more, to see that it grew.
    let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
    if size > most {
        return Ok(None);
    }
    let mut bytes = vec![0; size + 1];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::pread(file, &mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(filled);
    Ok((filled <= most).then_some(bytes))
}

fn walk(directory: &OwnedFd, prefix: &str, depth: u32, listing: &mut Listing) -> Result<(), Errno> {
    let (names, more) = names_in(directory)?;
    listing.truncated |= more;
    for name in names {
        let shown = showable(&name);
        if prefix.is_empty() && crate::kept::is_ours(&shown) {
            continue;
        }
        let path = format!("{prefix}{shown}");
        if listing.entries.len() == MAX_ENTRIES || listing.room < path.len() {
            listing.truncated = true;
            return Ok(());
        }
        let stat = match fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It went away between two calls.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        listing.room -= path.len();
        let size = if kind.is_file() {
            u64::try_from(stat.st_size).unwrap_or(0)
        } else {
            0
        };
        listing.entries.push(Entry {
            path: path.clone(),
            kind: word(kind),
            size,
        });
        if kind.is_dir() && depth > 1 {
            match open_strictly(
                directory.as_fd(),
                name.as_c_str(),
                OFlags::RDONLY | OFlags::DIRECTORY,
            ) {
                Ok(below) => walk(&below, &format!("{path}/"), depth - 1, listing)?,
                // It went away, became something else, or is not ours to read; its line stands, what is in it does not.
                Err(_) => listing.truncated = true,
            }
        }
    }
    Ok(())
}

fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "link",
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => "other",
    }
}

/// Whether it is a regular file.
pub(crate) fn want_file(stat: &Stat, path: &Inside) -> Result<(), TreeError> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "a directory",
        FileType::Symlink => {
            return Err(TreeError::Link {
                path: path.to_string(),
            });
        }
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => "a device, pipe or socket",
    };
    Err(TreeError::Kind {
        path: path.to_string(),
        what,
        wanted: "a file",
    })
}

/// Writes beside the file, makes it durable, and renames over it; a link of that name would be replaced, not followed.
pub(crate) fn replace(
    directory: BorrowedFd<'_>,
    name: &str,
    text: &[u8],
    mode: Mode,
) -> Result<(), (&'static str, Errno)> {
    // One call runs at a time in this process, and EXCL finds another process of the same number.
    let beside = format!(
        ".paw-files-{}.part",
        rustix::process::getpid().as_raw_nonzero()
    );
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let create = || fs::openat(directory, &beside, flags, Mode::from_raw_mode(0o600));
    let file = match create() {
        // Process ids begin anew in each sandbox, so a file of this name is what a killed one left behind.
        Err(Errno::EXIST) => {
            fs::unlinkat(directory, &beside, AtFlags::empty()).and_then(|()| create())
        }
        created => created,
    };
    let file = file.map_err(|errno| ("create a file beside", errno))?;
    let written = write_all(&file, text)
        .map_err(|errno| ("write", errno))
        .and_then(|()| fs::fchmod(&file, mode).map_err(|errno| ("set the mode of", errno)))
        .and_then(|()| fs::fsync(&file).map_err(|errno| ("make durable", errno)))
        .and_then(|()| {
            fs::renameat(directory, &beside, directory, name)
                .map_err(|errno| ("rename over", errno))
        });
    if written.is_err() {
        // The first fault is the one to tell; what is left behind is overwritten next time.
        let _ = fs::unlinkat(directory, &beside, AtFlags::empty());
        return written;
    }
    fs::fsync(directory).map_err(|errno| ("make durable the directory of", errno))
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Both ways of opening give the same, whatever is asked for.
    #[test]
    fn step_by_step_is_as_strict_as_the_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "hello").unwrap();
        std::fs::write(root.join("file"), "hello").unwrap();
        for (link, to) in [
            ("link", "file"),
            ("away", "/etc/passwd"),
            ("a/down", "b"),
            ("a/up", "../file"),
            ("dangling", "nothing"),
        ] {
            symlink(to, root.join(link)).unwrap();
        }
        let root = fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let directory = OFlags::RDONLY | OFlags::DIRECTORY;
        for (path, flags, opens) in [
            (".", directory, true),
            ("a", directory, true),
            ("a/b", directory, true),
            ("a/b/file", OFlags::RDONLY, true),
            ("file", OFlags::RDONLY, true),
            ("file", directory, false),
            ("nothing", OFlags::RDONLY, false),
            ("nothing/file", OFlags::RDONLY, false),
            ("file/below", OFlags::RDONLY, false),
            ("link", OFlags::RDONLY, false),
            ("away", OFlags::RDONLY, false),
            ("dangling", OFlags::RDONLY, false),
            ("a/down", directory, false),
            ("a/down/file", OFlags::RDONLY, false),
            ("a/up", OFlags::RDONLY, false),
            ("..", directory, false),
            ("a/../..", directory, false),
            ("../etc/passwd", OFlags::RDONLY, false),
            ("/etc/passwd", OFlags::RDONLY, false),
        ] {
            let kernel = fs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), STRICT);
            let steps = open_step_by_step(root.as_fd(), path.as_bytes(), flags);
            assert_eq!(
                (kernel.is_ok(), steps.is_ok()),
                (opens, opens),
                "{path}: {kernel:?} {steps:?}"
            );
        }
    }
}
