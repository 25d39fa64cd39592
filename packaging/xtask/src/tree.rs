//! A directory whose whole content we decide: what is put into it is written only if it differs, and what was not put into
//! it this time is gone at the end.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// The directory, and what belongs into it.
pub(crate) struct Tree {
    root: PathBuf,
    kept: BTreeSet<PathBuf>,
}

impl Tree {
    /// A tree at `root`, which need not exist.
    pub(crate) fn at(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
        set_mode(&root, 0o755)?;
        Ok(Self {
            root,
            kept: BTreeSet::new(),
        })
    }

    /// A directory with its parents, each 0755.
    pub(crate) fn dir(&mut self, path: &str) -> Result<()> {
        let mut here = PathBuf::new();
        for part in Path::new(path).components() {
            here.push(part);
            let full = self.root.join(&here);
            if !full.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                remove(&full)?;
                fs::create_dir(&full).with_context(|| format!("make {}", full.display()))?;
            }
            set_mode(&full, 0o755)?;
            self.kept.insert(here.clone());
        }
        Ok(())
    }

    /// A file with these bytes.
    pub(crate) fn bytes(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let full = self.place(path)?;
        let same = full.symlink_metadata().is_ok_and(|found| found.is_file())
            && fs::read(&full).is_ok_and(|old| old == bytes);
        if !same {
            remove(&full)?;
            fs::write(&full, bytes).with_context(|| format!("write {}", full.display()))?;
        }
        set_mode(&full, mode)
    }

    /// A copy of a file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, from: &Path) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.bytes(path, mode, &bytes)
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let full = self.place(path)?;
        if fs::read_link(&full).is_ok_and(|old| old == Path::new(target)) {
            return Ok(());
        }
        remove(&full)?;
        symlink(target, &full).with_context(|| format!("link {}", full.display()))
    }

    /// Removes what was not put here, and gives the root.
    pub(crate) fn finish(self) -> Result<PathBuf> {
        sweep(&self.root, Path::new(""), &self.kept)?;
        Ok(self.root)
    }

    fn place(&mut self, path: &str) -> Result<PathBuf> {
        let relative = Path::new(path);
        let parent = relative
            .parent()
            .and_then(Path::to_str)
            .with_context(|| format!("{path} has no parent"))?;
        self.dir(parent)?;
        ensure!(
            self.kept.insert(relative.to_path_buf()),
            "{path} is put into the tree twice"
        );
        Ok(self.root.join(relative))
    }
}

fn sweep(root: &Path, below: &Path, kept: &BTreeSet<PathBuf>) -> Result<()> {
    let here = root.join(below);
    for entry in fs::read_dir(&here).with_context(|| format!("read {}", here.display()))? {
        let entry = entry.with_context(|| format!("read {}", here.display()))?;
        let relative = below.join(entry.file_name());
        if !kept.contains(&relative) {
            remove(&entry.path())?;
        } else if entry
            .file_type()
            .with_context(|| format!("look at {}", relative.display()))?
            .is_dir()
        {
            sweep(root, &relative, kept)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(()),
        Err(fault) => Err(fault),
    };
    removed.with_context(|| format!("remove {}", path.display()))
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    let now = fs::metadata(path)
        .with_context(|| format!("look at {}", path.display()))?
        .permissions()
        .mode()
        & 0o7777;
    if now == mode {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt, path::Path};

    use super::Tree;

    fn lay(root: &Path, names: &[&str]) {
        let mut tree = Tree::at(root.to_path_buf()).unwrap();
        for name in names {
            tree.bytes(name, 0o644, name.as_bytes()).unwrap();
        }
        tree.link("bin/sh", "busybox").unwrap();
        tree.finish().unwrap();
    }

    #[test]
    fn what_is_no_longer_put_there_goes() {
        let root = tempfile::tempdir().unwrap();
        lay(root.path(), &["bin/a", "old/b"]);
        lay(root.path(), &["bin/a"]);
        assert!(root.path().join("bin/a").exists());
        assert!(!root.path().join("old").exists());
    }

    #[test]
    fn what_did_not_change_is_not_written_again() {
        let root = tempfile::tempdir().unwrap();
        let inode = || fs::metadata(root.path().join("bin/a")).unwrap().ino();
        lay(root.path(), &["bin/a"]);
        let first = inode();
        let keeper = fs::File::open(root.path().join("bin/a")).unwrap();
        lay(root.path(), &["bin/a"]);
        assert_eq!(inode(), first);
        drop(keeper);
    }

    #[test]
    fn one_path_cannot_be_put_there_twice() {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::at(root.path().to_path_buf()).unwrap();
        tree.bytes("a/b", 0o644, b"1").unwrap();
        assert!(tree.bytes("a/b", 0o644, b"2").is_err());
    }
}
