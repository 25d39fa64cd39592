//! One layer, or a plain root, from an archive into a tree.

use std::{
    collections::BTreeSet,
    io::{self, Read},
};

use crate::{
    path::{Asks, PathError, TreePath, asks},
    root::{Root, RootError},
};

/// Why a layer is not applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    #[error("read the archive")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("it has more entries than images.max_entries of launcher.toml")]
    Entries,
    #[error("{0:?} is a sparse file or of another kind that is not understood")]
    Kind(String),
}

/// What an archive means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A layer: names of a certain kind take away what is below it.
    Layer,
    /// Everything there is; such names are names.
    Whole,
}

/// Applies an archive to its end. `entries` is what may still come, over all archives; gives the count of devices, pipes and
/// sockets that were left out.
pub(crate) fn apply(
    root: &Root,
    from: &mut dyn Read,
    meaning: Meaning,
    entries: &mut u64,
) -> Result<u64, LayerError> {
    let mut left_out = 0;
    let mut made = BTreeSet::new();
    {
        let mut archive = tar::Archive::new(&mut *from);
        for entry in archive.entries().map_err(LayerError::Read)? {
            let mut entry = entry.map_err(LayerError::Read)?;
            *entries = entries.checked_sub(1).ok_or(LayerError::Entries)?;
            let name = entry.path_bytes().into_owned();
            let path = match meaning {
                Meaning::Whole => TreePath::parse(&name)?,
                Meaning::Layer => match asks(&name)? {
                    Asks::Entry(path) => path,
                    Asks::Without(path) => {
                        root.without(&path, &made)?;
                        continue;
                    }
                    Asks::Empty(path) => {
                        root.empty(&path, &made)?;
                        continue;
                    }
                },
            };
            let kind = entry.header().entry_type();
            match kind {
                tar::EntryType::Directory => root.directory(&path, &mut made)?,
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    // Archives of old kinds say that it is a directory by its name.
                    if name.ends_with(b"/") {
                        root.directory(&path, &mut made)?;
                        continue;
                    }
                    let executable = entry.header().mode().map_err(LayerError::Read)? & 0o111 != 0;
                    let mtime = entry.header().mtime().unwrap_or(0);
                    root.file(&path, executable, mtime, &mut entry, &mut made)?;
                }
                tar::EntryType::Symlink => {
                    let target = target(&entry, &path)?;
                    root.symlink(&path, &target, &mut made)?;
                }
                tar::EntryType::Link => {
                    let target = TreePath::parse(&target(&entry, &path)?)?;
                    root.hard_link(&path, &target, &mut made)?;
                }
                // What a sandbox has of these is its own, made by the launcher.
                tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => {
                    left_out += 1
                }
                // It speaks of the archive and is no entry of it.
                tar::EntryType::XGlobalHeader => {}
                _ => return Err(LayerError::Kind(path.shown())),
            }
        }
    }
    // What stands behind the end of an archive belongs to its digest as well.
    io::copy(from, &mut io::sink()).map_err(LayerError::Read)?;
    Ok(left_out)
}

fn target<R: Read>(entry: &tar::Entry<'_, R>, path: &TreePath) -> Result<Vec<u8>, LayerError> {
    match entry.link_name_bytes() {
        Some(target) if !target.is_empty() && !target.contains(&0) && target.len() < 4096 => {
            Ok(target.into_owned())
        }
        _ => Err(LayerError::Kind(path.shown())),
    }
}
