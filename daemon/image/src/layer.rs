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

/// Applies an archive to its end. `entries` is what may still come, over all archives, directories that nobody names included;
/// gives the count of devices, pipes and sockets that were left out.
pub(crate) fn apply(
    root: &Root,
    from: &mut dyn Read,
    meaning: Meaning,
    entries: &mut u64,
) -> Result<u64, LayerError> {
    let mut left_out = 0;
    // The root is there, and counts for nothing.
    let mut made = BTreeSet::from([TreePath::parse(b"")?]);
    {
        let mut archive = tar::Archive::new(&mut *from);
        for entry in archive.entries().map_err(LayerError::Read)? {
            let before = made.len();
            let kept = one(root, entry.map_err(LayerError::Read)?, meaning, &mut made)?;
            left_out += u64::from(!kept);
            let count = (made.len() - before).max(1) as u64;
            *entries = entries.checked_sub(count).ok_or(LayerError::Entries)?;
        }
    }
    // What stands behind the end of an archive belongs to its digest as well.
    io::copy(from, &mut io::sink()).map_err(LayerError::Read)?;
    Ok(left_out)
}

/// Applies one entry. `false`: it is nothing that a tree has.
fn one<R: Read>(
    root: &Root,
    mut entry: tar::Entry<'_, R>,
    meaning: Meaning,
    made: &mut BTreeSet<TreePath>,
) -> Result<bool, LayerError> {
    let name = entry.path_bytes().into_owned();
    let path = match meaning {
        Meaning::Whole => TreePath::parse(&name)?,
        Meaning::Layer => match asks(&name)? {
            Asks::Entry(path) => path,
            Asks::Without(path) => {
                root.without(&path, made)?;
                return Ok(true);
            }
            Asks::Empty(path) => {
                root.empty(&path, made)?;
                return Ok(true);
            }
        },
    };
    match entry.header().entry_type() {
        tar::EntryType::Directory => root.directory(&path, made)?,
        // Archives of old kinds say that it is a directory by its name.
        tar::EntryType::Regular | tar::EntryType::Continuous if name.ends_with(b"/") => {
            root.directory(&path, made)?;
        }
        tar::EntryType::Regular | tar::EntryType::Continuous => {
            // Its content would be a list of where its parts belong.
            if is_sparse(&mut entry)? {
                return Err(LayerError::Kind(path.shown()));
            }
            let executable = entry.header().mode().map_err(LayerError::Read)? & 0o111 != 0;
            let mtime = entry.header().mtime().unwrap_or(0);
            root.file(&path, executable, mtime, &mut entry, made)?;
        }
        tar::EntryType::Symlink => {
            let target = target(&entry, &path)?;
            root.symlink(&path, &target, made)?;
        }
        tar::EntryType::Link => {
            let target = TreePath::parse(&target(&entry, &path)?)?;
            root.hard_link(&path, &target, made)?;
        }
        // What a sandbox has of these is its own, made by the launcher.
        tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => return Ok(false),
        // It speaks of the archive and is no entry of it.
        tar::EntryType::XGlobalHeader => {}
        _ => return Err(LayerError::Kind(path.shown())),
    }
    Ok(true)
}

/// Whether a file is sparse in the way that extended headers say it.
fn is_sparse<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<bool, LayerError> {
    let Some(extensions) = entry.pax_extensions().map_err(LayerError::Read)? else {
        return Ok(false);
    };
    for extension in extensions {
        let extension = extension.map_err(LayerError::Read)?;
        if extension.key_bytes().starts_with(b"GNU.sparse.") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn target<R: Read>(entry: &tar::Entry<'_, R>, path: &TreePath) -> Result<Vec<u8>, LayerError> {
    match entry.link_name_bytes() {
        Some(target) if !target.is_empty() && !target.contains(&0) && target.len() < 4096 => {
            Ok(target.into_owned())
        }
        _ => Err(LayerError::Kind(path.shown())),
    }
}
