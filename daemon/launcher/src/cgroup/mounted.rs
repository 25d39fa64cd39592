//! Where the kernel keeps its cgroup hierarchies, and their files.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{CgroupError, files};
use crate::pseudo;

/// Mount points of the v1 hierarchies that have any of these controllers, by all that each has as `/proc/PID/cgroup` names them.
pub(super) fn v1_mounts(wanted: &[&str]) -> Result<BTreeMap<String, PathBuf>, CgroupError> {
    let own = read_text(Path::new("/proc/self/cgroup"))?;
    let mounts = read_text(Path::new("/proc/self/mountinfo"))?;
    let mut found = BTreeMap::new();
    for controllers in own.lines().filter_map(|line| line.split(':').nth(1)) {
        if !controllers.split(',').any(|name| wanted.contains(&name)) {
            continue;
        }
        let mount = mounts.lines().find_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let mut kind = kind.split(' ');
            let is_cgroup = kind.next() == Some("cgroup");
            let options: Vec<&str> = kind.nth(1)?.split(',').collect();
            (is_cgroup && controllers.split(',').all(|name| options.contains(&name)))
                .then(|| place.split(' ').nth(4).map(PathBuf::from))
                .flatten()
        });
        found.extend(mount.map(|mount| (controllers.to_owned(), mount)));
    }
    Ok(found)
}

/// Whether this host has swap at all.
pub(super) fn swap_is_in_use() -> Result<bool, CgroupError> {
    Ok(read_text(Path::new("/proc/swaps"))?.lines().count() > 1)
}

/// A file of a hierarchy or of `/proc`.
pub(super) fn read_text(path: &Path) -> Result<String, CgroupError> {
    pseudo::read(path).map_err(files("read", path))
}

/// Writes a file of a hierarchy.
pub(super) fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    fs::write(path, text).map_err(files("write", path))
}
