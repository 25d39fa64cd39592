//! The digest of everything that belongs to a skill, and what shows without reading it that it is still the same.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use paw_policy::Digest;

use super::ManifestError;

/// The most files and directories of one skill.
pub(crate) const MAX_FILES: usize = 16_384;
/// The most bytes of all files of one skill.
pub(crate) const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// How deep its directories may go.
pub(crate) const MAX_DEPTH: usize = 16;

/// Digest of a listing with one line for each file, in the order of their paths: `x` or `-`, digest, size, path.
pub(super) fn digest(dir: &Path) -> Result<Digest, ManifestError> {
    let mut files = Vec::new();
    let mut left = (MAX_FILES, MAX_BYTES);
    collect(dir, "", 0, &mut left, &mut files)?;
    files.sort();
    let listing: String = files
        .into_iter()
        .map(|(path, what)| format!("{what} {path}\n"))
        .collect();
    Ok(Digest::of(listing.as_bytes()))
}

fn collect(
    dir: &Path,
    prefix: &str,
    depth: usize,
    left: &mut (usize, u64),
    files: &mut Vec<(String, String)>,
) -> Result<(), ManifestError> {
    if depth > MAX_DEPTH {
        return Err(ManifestError::TooLarge {
            path: dir.to_owned(),
            limit: "16 levels of directories",
        });
    }
    unchangeable(
        dir,
        &fs::symlink_metadata(dir).map_err(|source| read("look at", dir, source))?,
    )?;
    for path in sorted(dir)? {
        left.0 = left.0.checked_sub(1).ok_or(ManifestError::TooLarge {
            path: path.clone(),
            limit: "16384 files of one skill",
        })?;
        let meta = fs::symlink_metadata(&path).map_err(|source| read("look at", &path, source))?;
        // Names go into the listing line by line, so they must not be able to look like two lines.
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|name| !name.contains(char::is_control));
        let Some(name) = name else {
            return Err(ManifestError::Foreign { path });
        };
        let inside = format!("{prefix}{name}");
        if meta.is_dir() {
            collect(&path, &format!("{inside}/"), depth + 1, left, files)?;
        } else if meta.is_file() {
            unchangeable(&path, &meta)?;
            left.1 = left
                .1
                .checked_sub(meta.len())
                .ok_or(ManifestError::TooLarge {
                    path: path.clone(),
                    limit: "256 MiB of one skill",
                })?;
            let bytes = fs::read(&path).map_err(|source| read("read", &path, source))?;
            let run = if meta.mode() & 0o111 == 0 { '-' } else { 'x' };
            files.push((
                inside,
                format!("{run} {} {}", Digest::of(&bytes), bytes.len()),
            ));
        } else {
            return Err(ManifestError::Foreign { path });
        }
    }
    Ok(())
}

/// What can be seen of the files of a skill without reading them: names, sizes, modes, inodes, and when each was changed last, which
/// only the kernel can set. While it is the same, so is the digest.
///
/// # Errors
/// When they cannot be looked at, or there are more than a skill may have.
pub(crate) fn stamp(dir: &Path) -> Result<Digest, ManifestError> {
    let (mut seen, mut left) = (String::new(), MAX_FILES);
    look(dir, 0, &mut left, &mut seen)?;
    Ok(Digest::of(seen.as_bytes()))
}

fn look(
    path: &Path,
    depth: usize,
    left: &mut usize,
    seen: &mut String,
) -> Result<(), ManifestError> {
    let too_large = |limit| ManifestError::TooLarge {
        path: path.to_owned(),
        limit,
    };
    if depth > MAX_DEPTH + 1 {
        return Err(too_large("16 levels of directories"));
    }
    let meta = fs::symlink_metadata(path).map_err(|source| read("look at", path, source))?;
    // Writing to a String cannot fail.
    let _ = writeln!(
        seen,
        "{:?} {} {} {:o} {} {}.{}",
        path.file_name().unwrap_or_default(),
        meta.dev(),
        meta.ino(),
        meta.mode(),
        meta.size(),
        meta.ctime(),
        meta.ctime_nsec()
    );
    if meta.is_dir() {
        for path in sorted(path)? {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| too_large("16384 files of one skill"))?;
            look(&path, depth + 1, left, seen)?;
        }
    }
    Ok(())
}

fn unchangeable(path: &Path, meta: &fs::Metadata) -> Result<(), ManifestError> {
    let (uid, mode) = (meta.uid(), meta.mode() & 0o7777);
    // Our own uid is trusted too: who can change files as us can change what we check, too.
    if mode & 0o022 == 0 && (uid == 0 || uid == rustix::process::geteuid().as_raw()) {
        Ok(())
    } else {
        Err(ManifestError::Writable {
            path: path.to_owned(),
            uid,
            mode,
        })
    }
}

pub(super) fn sorted(dir: &Path) -> Result<Vec<PathBuf>, ManifestError> {
    let entries = fs::read_dir(dir).map_err(|source| read("list", dir, source))?;
    let mut paths = entries
        .take(MAX_FILES + 1)
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| read("list", dir, source))?;
    paths.sort();
    Ok(paths)
}

pub(super) fn read(step: &'static str, path: &Path, source: io::Error) -> ManifestError {
    ManifestError::Read {
        step,
        path: path.to_owned(),
        source,
    }
}
