//! What stands at a place, what changes there, and the digest of all of it.

use std::io::{Read, Write};

use paw_launch::workspace::{Kind, Thing};
use paw_policy::Digest;
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Fault, beneath::Dir, place::Place};

/// A file, a directory or a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Entry {
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// Bytes.
        size: u64,
        /// Of its content.
        digest: Digest,
    },
    /// A directory.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Where it leads; any bytes but zero, as a path is shown.
        target: Target,
    },
}

/// Where a link leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(pub Vec<u8>);

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&crate::place::shown(&self.0))
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        crate::place::meant(&text)
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("not written as a target is shown"))
    }
}

/// One change of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Where.
    pub place: Place,
    /// What has to be there before.
    pub old: Option<Entry>,
    /// What is there afterwards.
    pub new: Option<Entry>,
}

impl Change {
    /// The change that takes this one back.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self {
            place: self.place.clone(),
            old: self.new.clone(),
            new: self.old.clone(),
        }
    }
}

/// The permission bits of a file that is kept: no set-uid, set-gid or sticky bit, and its owner can always read and write it.
#[must_use]
pub const fn file_mode(mode: u32) -> u32 {
    mode & 0o777 | 0o600
}

/// The permission bits of a directory that is kept.
#[must_use]
pub const fn dir_mode(mode: u32) -> u32 {
    mode & 0o777 | 0o700
}

impl Entry {
    /// What stands at a place of a workspace; nothing where there is nothing, or nothing that a workspace is made of.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn at(dir: &Dir, place: &Place) -> Result<Option<Self>, Fault> {
        let Some(found) = dir.look(place)? else {
            return Ok(None);
        };
        Ok(match found.kind {
            FileType::RegularFile => {
                let (size, digest) = copy(&mut dir.file(place)?, None, u64::MAX, place)?;
                Some(Self::File {
                    mode: file_mode(found.mode),
                    size,
                    digest,
                })
            }
            FileType::Directory => Some(Self::Directory {
                mode: dir_mode(found.mode),
            }),
            FileType::Symlink => Some(Self::Link {
                target: Target(dir.target(place)?),
            }),
            _ => None,
        })
    }

    /// Whether it is a directory.
    #[must_use]
    pub const fn is_dir(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }

    /// Bytes of a file.
    #[must_use]
    pub const fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Directory { .. } | Self::Link { .. } => 0,
        }
    }

    /// It for people.
    #[must_use]
    pub fn thing(&self) -> Thing {
        let (kind, mode, digest, target) = match self {
            Self::File { mode, digest, .. } => (Kind::File, *mode, Some(*digest), None),
            Self::Directory { mode } => (Kind::Directory, *mode, None, None),
            Self::Link { target } => (
                Kind::Link,
                0o777,
                None,
                Some(crate::place::shown(&target.0)),
            ),
        };
        Thing {
            kind,
            mode,
            size: self.size(),
            digest,
            target,
        }
    }

    fn feed(&self, to: &mut Sha256) {
        match self {
            Self::File { mode, size, digest } => {
                to.update([1]);
                to.update(mode.to_le_bytes());
                to.update(size.to_le_bytes());
                to.update(digest.as_bytes());
            }
            Self::Directory { mode } => {
                to.update([2]);
                to.update(mode.to_le_bytes());
            }
            Self::Link { target } => {
                to.update([3]);
                to.update((target.0.len() as u64).to_le_bytes());
                to.update(&target.0);
            }
        }
    }
}

/// The digest of a list of changes: every byte of every path, what is replaced, and what replaces it, each with its length, so that
/// no two lists have the same.
#[must_use]
pub fn digest(changes: &[Change]) -> Digest {
    let mut all = Sha256::new();
    all.update(b"paw-workspace/1");
    for change in changes {
        let path = change.place.as_bytes();
        all.update((path.len() as u64).to_le_bytes());
        all.update(path);
        for side in [&change.old, &change.new] {
            match side {
                None => all.update([0]),
                Some(entry) => entry.feed(&mut all),
            }
        }
    }
    Digest::from_bytes(all.finalize().into())
}

/// Reads a file to its end, and copies it where that is asked for. Gives its size and the digest of what was read; a file with
/// more than `most` bytes is refused before it is copied that far.
pub(crate) fn copy(
    from: &mut impl Read,
    mut to: Option<&mut dyn Write>,
    most: u64,
    place: &Place,
) -> Result<(u64, Digest), Fault> {
    let fault = |step| {
        move |source| Fault::Files {
            step,
            path: place.to_string(),
            source,
        }
    };
    let mut content = Sha256::new();
    let mut size = 0_u64;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(fault("read")(error)),
        };
        size += count as u64;
        if size > most {
            return Err(Fault::TooMuch {
                what: "bytes in one layer, with holes and second names of files written out",
                most,
            });
        }
        content.update(&buffer[..count]);
        if let Some(to) = &mut to {
            to.write_all(&buffer[..count]).map_err(fault("write"))?;
        }
    }
    Ok((size, Digest::from_bytes(content.finalize().into())))
}
