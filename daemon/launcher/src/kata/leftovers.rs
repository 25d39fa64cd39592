//! Cgroups that runc makes beside ours.
//!
//! It joins every hierarchy, also those that limit nothing, and removes what it made when it is asked to delete. When it was
//! killed before, empty groups of our sandboxes' names stand there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::cgroup::Parent;

/// Why they are still there.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path}")]
pub(crate) struct LeftoverError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Removes them in every hierarchy that is mounted. Their processes are gone: what is in one hierarchy is in all.
pub(super) fn remove(parent: &Parent) -> Result<(), LeftoverError> {
    let path = Path::new("/proc/self/mountinfo");
    let mounts = fs::read_to_string(path).map_err(fault("read", path))?;
    for mount in mounts.lines().filter_map(hierarchy) {
        let dir = mount.join(parent.path().trim_start_matches('/'));
        let Ok(listing) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in listing.filter_map(Result::ok) {
            if Parent::is_leaf(&entry.file_name()) {
                let path = entry.path();
                remove_group(&path).map_err(fault("remove", &path))?;
            }
        }
    }
    Ok(())
}

/// Where a line of mountinfo mounts a hierarchy, if it does.
fn hierarchy(line: &str) -> Option<PathBuf> {
    let (place, kind) = line.split_once(" - ")?;
    kind.starts_with("cgroup")
        .then(|| place.split(' ').nth(4).map(PathBuf::from))?
}

/// Removes a group and those below it; its files are the kernel's.
fn remove_group(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.filter_map(Result::ok) {
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn fault(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LeftoverError {
    let path = path.to_owned();
    move |source| LeftoverError { step, path, source }
}
