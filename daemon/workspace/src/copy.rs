//! A copy of a generation, for a run that cannot have an overlay.
//!
//! ```text
//!  Share ──this file system cannot──► Inside ──nor can it do that──► Through
//!  blocks of both files are           the kernel copies              read and written
//!  the same until one is written to
//! ```
//!
//! What is tried first is what costs least. A way that the file systems do not have is not tried for a second file. A copy goes
//! with its run, so nothing of it is made durable. Files of a generation are never written to, so each is read once.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
};

use paw_launch::workspace::Bounds;
use rustix::{
    fs::{FileType, copy_file_range, ioctl_ficlone},
    io::Errno,
};

use crate::{
    Fault,
    beneath::Dir,
    entry::{dir_mode, file_mode},
    place::Place,
};

/// How the content of a file gets into its copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Both have the same blocks, until one of them is written to.
    Share,
    /// The kernel copies.
    Inside,
    /// We read and write.
    Through,
}

impl Way {
    /// What to try instead, where this failed because the file systems, or the two of them together, do not have it.
    const fn instead(self, errno: Errno) -> Option<Self> {
        if !matches!(
            errno,
            Errno::OPNOTSUPP
                | Errno::XDEV
                | Errno::INVAL
                | Errno::NOTTY
                | Errno::NOSYS
                | Errno::PERM
        ) {
            return None;
        }
        match self {
            Self::Share => Some(Self::Inside),
            Self::Inside => Some(Self::Through),
            Self::Through => None,
        }
    }
}

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Files, directories and links.
    pub files: u32,
    /// Bytes of all files.
    pub bytes: u64,
    /// How the last file was copied, and all before it at best.
    pub way: Way,
}

/// Fills a directory with a copy of another.
///
/// # Errors
/// When it cannot be read or written, or is more than the bounds of a workspace.
pub fn copy(from: &Dir, to: &Dir, bounds: &Bounds) -> Result<Copied, Fault> {
    let mut copied = Copied {
        files: 0,
        bytes: 0,
        way: Way::Share,
    };
    directory(from, to, bounds, &mut copied)?;
    Ok(copied)
}

fn directory(from: &Dir, to: &Dir, bounds: &Bounds, copied: &mut Copied) -> Result<(), Fault> {
    let most = usize::try_from(bounds.files).unwrap_or(usize::MAX);
    for (name, _) in from.names(most)? {
        let here = Place::new(&name)?;
        let Some(found) = from.look(&here)? else {
            continue;
        };
        copied.files = copied.files.saturating_add(1);
        if copied.files > bounds.files {
            return Err(Fault::TooMuch {
                what: "entries of a workspace that is copied",
                most: bounds.files.into(),
            });
        }
        match found.kind {
            FileType::Directory => {
                let below = to.make_dir(&here, dir_mode(found.mode))?;
                directory(&from.dir(&here)?, &below, bounds, copied)?;
            }
            FileType::RegularFile => {
                copied.bytes = copied.bytes.saturating_add(found.size);
                if copied.bytes > bounds.bytes {
                    return Err(Fault::TooMuch {
                        what: "bytes of a workspace that is copied",
                        most: bounds.bytes,
                    });
                }
                let content = from.file(&here)?;
                let file = to.create(&here, file_mode(found.mode))?;
                fill(&content, &file, &mut copied.way).map_err(|source| Fault::Files {
                    step: "copy",
                    path: here.to_string(),
                    source,
                })?;
            }
            FileType::Symlink => to.make_link(&here, &from.target(&here)?)?,
            // No workspace has anything else.
            _ => {}
        }
    }
    Ok(())
}

/// Copies what is in a file, in the best way that there is. Where one breaks off, the next goes on from there.
fn fill(from: &File, to: &File, way: &mut Way) -> io::Result<()> {
    loop {
        let done = match way {
            Way::Share => ioctl_ficlone(to, from),
            Way::Inside => inside(from, to),
            Way::Through => return through(from, to),
        };
        match done {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => *way = way.instead(errno).ok_or(errno)?,
        }
    }
}

fn inside(from: &File, to: &File) -> rustix::io::Result<()> {
    const AT_ONCE: usize = 64 << 20;
    while copy_file_range(from, None, to, None, AT_ONCE)? > 0 {}
    Ok(())
}

fn through(mut from: &File, mut to: &File) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_system_cannot_do_is_done_in_the_next_way() {
        for errno in [Errno::OPNOTSUPP, Errno::XDEV, Errno::INVAL, Errno::NOTTY] {
            assert_eq!(Way::Share.instead(errno), Some(Way::Inside), "{errno}");
            assert_eq!(Way::Inside.instead(errno), Some(Way::Through), "{errno}");
        }
    }

    #[test]
    fn what_fails_for_another_reason_has_failed() {
        for errno in [Errno::NOSPC, Errno::IO, Errno::DQUOT, Errno::BADF] {
            for way in [Way::Share, Way::Inside] {
                assert_eq!(way.instead(errno), None, "{errno}");
            }
        }
    }
}
