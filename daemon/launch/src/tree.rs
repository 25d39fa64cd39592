//! What a tree is, as one digest: every path in it with its kind, mode, size and content.
//!
//! The walk is canonical: a directory before what is in it, names in the order of their bytes, every field with its length. Times
//! and owners are not in it, because no tree keeps them.

use std::{
    ffi::CStr,
    fs,
    io::Read as _,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use paw_policy::Digest;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

/// The first bytes of what is digested; another walk would be another number.
const WALK: &[u8] = b"paw-tree-1\n";

/// How every directory on the way is opened.
pub const DIR: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Stays beneath, and passes through nothing that leads elsewhere.
pub const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// A tree, measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Of every path with its kind, mode, size and content.
    pub digest: Digest,
    /// Of its files.
    pub bytes: u64,
    /// Files, directories and links, the root not counted.
    pub entries: u64,
}

/// Walks a tree.
///
/// # Errors
/// When something in it cannot be read, or is neither file, directory nor link (`NOTSUP`).
pub fn measure(root: &OwnedFd) -> Result<Measured, Errno> {
    let mut walk = Walk {
        hash: Sha256::new_with_prefix(WALK),
        bytes: 0,
        entries: 0,
    };
    walk.below(root, &[])?;
    Ok(Measured {
        digest: Digest::from_bytes(walk.hash.finalize().into()),
        bytes: walk.bytes,
        entries: walk.entries,
    })
}

struct Walk {
    hash: Sha256,
    bytes: u64,
    entries: u64,
}

impl Walk {
    fn below(&mut self, dir: &OwnedFd, above: &[u8]) -> Result<(), Errno> {
        for name in names(dir)? {
            let mut path = above.to_vec();
            path.extend([&b"/"[..], &name].concat());
            let found = rustix::fs::statat(dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
            self.entries += 1;
            let mode = (found.st_mode & 0o7777).to_le_bytes();
            match FileType::from_raw_mode(found.st_mode) {
                FileType::Directory => {
                    self.entry(b'd', &path, &mode, &[]);
                    self.below(&open_beneath(dir.as_fd(), &name)?, &path)?;
                }
                FileType::RegularFile => {
                    let (size, digest) = content(dir, &name)?;
                    self.bytes += size;
                    let size = size.to_le_bytes();
                    self.entry(b'f', &path, &mode, &[&size[..], &digest].concat());
                }
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(dir, name.as_slice(), Vec::new())?;
                    self.entry(b'l', &path, &[], target.as_bytes());
                }
                // Nothing else is ever made.
                _ => return Err(Errno::NOTSUP),
            }
        }
        Ok(())
    }

    fn entry(&mut self, kind: u8, path: &[u8], mode: &[u8], rest: &[u8]) {
        self.hash.update([kind]);
        for field in [path, mode, rest] {
            self.hash.update((field.len() as u64).to_le_bytes());
            self.hash.update(field);
        }
    }
}

fn content(dir: &OwnedFd, name: &[u8]) -> Result<(u64, [u8; 32]), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = fs::File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = file
            .read(&mut buffer)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        if count == 0 {
            return Ok((size, hash.finalize().into()));
        }
        size += count as u64;
        hash.update(&buffer[..count]);
    }
}

/// Names in a directory, in order.
///
/// # Errors
/// When it cannot be listed.
pub fn names(dir: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_bytes().to_vec());
        }
    }
    names.sort();
    Ok(names)
}

/// A directory in a directory.
///
/// # Errors
/// When there is none of this name, or the way to it leads elsewhere.
pub fn open_beneath(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(dir, name, DIR, Mode::empty(), BENEATH)
}
