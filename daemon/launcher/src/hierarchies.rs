//! Every hierarchy of control groups there is, also those that limit nothing: runc joins them all.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where they are mounted.
///
/// # Errors
/// When the kernel does not say what is mounted.
pub fn mounted() -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts.lines().filter_map(hierarchy).collect())
}

/// Removes a group and those below it, if it is there; its files are the kernel's. Who was in it has ended.
///
/// # Errors
/// When somebody is in it.
pub fn remove(dir: &Path) -> io::Result<()> {
    let Ok(listing) = fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in listing.filter_map(Result::ok) {
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where a line of mountinfo mounts a hierarchy, if it does.
fn hierarchy(line: &str) -> Option<PathBuf> {
    let (place, kind) = line.split_once(" - ")?;
    kind.starts_with("cgroup")
        .then(|| place.split(' ').nth(4).map(PathBuf::from))?
}
