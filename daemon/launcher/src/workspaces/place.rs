//! Where the workspaces are on disk, as far as the launcher has to know: names, the current generation, and what is pending.
//!
//! What is in them is for `paw-workspace`, which draws the layout. The launcher makes an empty one, follows the one link that says
//! which generation it is, and looks whether a name is there.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink},
    path::{Path, PathBuf},
};

use paw_launch::request::SandboxId;
use paw_policy::Name;
use tracing::info;

use crate::slots::WorkspaceError;

/// Says that [`DIR`] is as this version knows it.
const MARK: &str = "workspaces.layout";

/// All workspaces.
const DIR: &str = "workspaces";

/// Workspaces of an earlier version, which had their files right below their names, while they are moved.
const EARLIER: &str = "workspaces.1";

fn fault(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WorkspaceError {
    let path = path.to_owned();
    move |source| WorkspaceError::Files { step, path, source }
}

/// Brings workspaces of an earlier version into the layout of this one. It can be interrupted anywhere and goes on next time.
pub(crate) fn migrate(state: &Path) -> Result<(), WorkspaceError> {
    let (dir, earlier, mark) = (state.join(DIR), state.join(EARLIER), state.join(MARK));
    if !mark.exists() {
        if !earlier.exists() {
            fs::rename(&dir, &earlier).map_err(fault("rename", &dir))?;
        }
        fs::write(&mark, "2\n").map_err(fault("write", &mark))?;
    }
    if !dir.exists() {
        fs::create_dir(&dir).map_err(fault("make", &dir))?;
        mode(&dir, 0o711)?;
    }
    if !earlier.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(&earlier).map_err(fault("list", &earlier))? {
        let entry = entry.map_err(fault("list", &earlier))?;
        let path = entry.path();
        let owner = entry.metadata().map_err(fault("look at", &path))?.uid();
        let to = dir.join(entry.file_name());
        if !to.exists() {
            make(&dir, &to, owner)?;
        }
        // Onto the empty directory of the first generation: moved as a whole, or still where it was.
        fs::rename(&path, to.join("generations/0/files")).map_err(fault("move", &path))?;
        info!(workspace = %to.display(), "a workspace of an earlier version has its place in this one");
    }
    fs::remove_dir(&earlier).map_err(fault("remove", &earlier))
}

/// Makes an empty workspace. It is there as a whole or not at all.
pub(crate) fn make(dir: &Path, path: &Path, owner: u32) -> Result<(), WorkspaceError> {
    let new = dir.join(".new");
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(fault("remove", &new)(error));
        }
        _ => {}
    }
    let all = new.join("generations");
    let first = all.join("0");
    let files = first.join("files");
    fs::create_dir_all(&files).map_err(fault("make", &files))?;
    let link = new.join("current");
    symlink("generations/0", &link).map_err(fault("make", &link))?;
    // The mode first: afterwards it is somebody else's, and who else may look in is never everybody.
    for path in [&files, &first, &all, &new] {
        mode(path, 0o700)?;
        chown(path, Some(owner), Some(owner)).map_err(fault("give away", path))?;
    }
    lchown(&link, Some(owner), Some(owner)).map_err(fault("give away", &link))?;
    fs::rename(&new, path).map_err(fault("rename", &new))
}

fn mode(path: &Path, mode: u32) -> Result<(), WorkspaceError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(fault("set the mode of", path))
}

/// The current generation of a workspace, and where its files are.
pub(crate) fn current(dir: &Path, name: &Name) -> Result<(u64, PathBuf), WorkspaceError> {
    let root = dir.join(name.as_str());
    let link = root.join("current");
    let target = fs::read_link(&link).map_err(fault("read", &link))?;
    let number = target
        .to_str()
        .and_then(|text| text.strip_prefix("generations/")?.parse::<u64>().ok())
        .ok_or_else(|| fault("understand", &link)(io::ErrorKind::InvalidData.into()))?;
    Ok((number, root.join(format!("generations/{number}/files"))))
}

/// All workspaces, in the order of their names.
pub(crate) fn names(dir: &Path) -> Vec<Name> {
    let mut names: Vec<Name> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    names.sort();
    names
}

/// The workspace that has something of this sandbox: a pending layer, or a commit.
pub(crate) fn of(dir: &Path, id: &SandboxId) -> Option<Name> {
    names(dir).into_iter().find(|name| has(dir, name, id))
}

/// Whether a workspace has something of this sandbox.
pub(crate) fn has(dir: &Path, name: &Name, id: &SandboxId) -> bool {
    ["pending", "history"].iter().any(|kind| {
        let path = dir.join(name.as_str()).join(kind).join(id.as_str());
        fs::symlink_metadata(path).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    #[test]
    fn workspace_of_an_earlier_version_keeps_its_files() {
        let state = tempfile::tempdir().unwrap();
        let earlier = state.path().join("workspaces/clerk");
        fs::create_dir_all(earlier.join("current")).unwrap();
        fs::write(earlier.join("current/note"), "n").unwrap();
        for _ in 0..2 {
            // The second start finds nothing to do.
            migrate(state.path()).unwrap();
            let dir = state.path().join("workspaces");
            let (number, files) = current(&dir, &"clerk".parse().unwrap()).unwrap();
            assert_eq!(number, 0);
            assert_eq!(fs::read_to_string(files.join("current/note")).unwrap(), "n");
        }
    }

    #[test]
    fn interrupted_move_goes_on() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("workspaces");
        // Interrupted after the mark, and after the new place of a workspace was made, but before its files were moved there.
        fs::create_dir(&dir).unwrap();
        fs::create_dir_all(state.path().join("workspaces.1/other")).unwrap();
        fs::write(state.path().join("workspaces.1/other/f"), "f").unwrap();
        fs::write(state.path().join("workspaces.layout"), "2\n").unwrap();
        make(&dir, &dir.join("other"), own()).unwrap();
        migrate(state.path()).unwrap();
        let (_, files) = current(&dir, &"other".parse().unwrap()).unwrap();
        assert_eq!(fs::read_to_string(files.join("f")).unwrap(), "f");
        assert!(!state.path().join("workspaces.1").exists());
    }

    #[test]
    fn link_that_is_not_ours_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let name: Name = "clerk".parse().unwrap();
        make(dir.path(), &dir.path().join("clerk"), own()).unwrap();
        assert_eq!(current(dir.path(), &name).unwrap().0, 0);
        for target in [
            "/etc",
            "generations/../../other",
            "generations/-1",
            "generations/1/x",
        ] {
            fs::remove_file(dir.path().join("clerk/current")).unwrap();
            symlink(target, dir.path().join("clerk/current")).unwrap();
            assert!(current(dir.path(), &name).is_err(), "{target}");
        }
    }
}
