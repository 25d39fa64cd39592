//! Cgroups that runc makes beside ours.
//!
//! It joins every hierarchy, also those that limit nothing, and removes what it made when it is asked to delete. When it was
//! killed before, empty groups of our sandboxes' names stand there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{cgroup::Parent, hierarchies};

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
    let mounts = hierarchies::mounted();
    for mount in mounts.map_err(fault("read", Path::new("/proc/self/mountinfo")))? {
        let dir = mount.join(parent.path().trim_start_matches('/'));
        let Ok(listing) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in listing.filter_map(Result::ok) {
            if Parent::is_leaf(&entry.file_name()) {
                let path = entry.path();
                hierarchies::remove(&path).map_err(fault("remove", &path))?;
            }
        }
    }
    Ok(())
}

fn fault(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LeftoverError {
    let path = path.to_owned();
    move |source| LeftoverError { step, path, source }
}
