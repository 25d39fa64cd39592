//! A workspace in a temporary directory, and what a run could have left.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use paw_launch::{
    request::SandboxId,
    workspace::{Answer, Bounds, Diff, Order, Refused, Settle, Settled, Task},
};
use paw_workspace::{beneath::Dir, serve::serve, store};
use rustix::fs::{CWD, FileType, Mode};

pub(crate) const BOUNDS: Bounds = Bounds {
    bytes: 1 << 20,
    files: 200,
    pending: 4,
    pending_ms: 1_000_000,
    undo: 3,
    undo_bytes: 1 << 20,
};

pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) bounds: Bounds,
    pub(crate) now_ms: u64,
}

pub(crate) fn id(number: u64) -> SandboxId {
    format!("{number:016x}").parse().unwrap()
}

impl Rig {
    /// A workspace with these files.
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), files)
    }

    /// One in memory, for tests that make hundreds: what they wait for otherwise is the disk, which is not what they are about.
    pub(crate) fn in_memory(files: &[(&str, &str)]) -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        Self::in_dir(dir.unwrap(), files)
    }

    fn in_dir(dir: tempfile::TempDir, files: &[(&str, &str)]) -> Self {
        let root = dir.path().join("workspace");
        fs::create_dir(&root).unwrap();
        store::make(&Dir::open(&root).unwrap()).unwrap();
        for (path, text) in files {
            let path = root.join("generations/0/files").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        Self {
            dir,
            bounds: BOUNDS,
            now_ms: 1,
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("workspace")
    }

    /// The files as they are now.
    pub(crate) fn files(&self) -> PathBuf {
        self.root().join("current/files")
    }

    pub(crate) fn generation(&self) -> u64 {
        let link = fs::read_link(self.root().join("current")).unwrap();
        link.file_name().unwrap().to_str().unwrap().parse().unwrap()
    }

    /// An empty directory, as the upper one of an overlay is at first.
    pub(crate) fn upper(&self) -> PathBuf {
        let path = self.dir.path().join("upper");
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    pub(crate) fn task(&self, order: Order) -> Task {
        Task {
            order,
            bounds: self.bounds,
            now_ms: self.now_ms,
            live: Vec::new(),
        }
    }

    pub(crate) fn order(&self, order: Order) -> Answer {
        serve(&self.task(order), &self.root(), None)
    }

    pub(crate) fn collect_order(&self, number: u64, commit: bool) -> Order {
        Order::Collect {
            layer: id(number),
            generation: self.generation(),
            overlay: true,
            owner: Some(7),
            commit,
        }
    }

    pub(crate) fn collect(&self, number: u64, upper: &Path, commit: bool) -> Answer {
        let task = self.task(self.collect_order(number, commit));
        serve(&task, &self.root(), Some(upper))
    }

    /// Stages what the run left.
    pub(crate) fn stage(&self, number: u64, upper: &Path) -> Settled {
        match self.collect(number, upper, false) {
            Answer::Settled(settled) => settled,
            other => panic!("{other:?}"),
        }
    }

    /// Stages a run that wrote one file.
    pub(crate) fn stage_file(&self, number: u64, path: &str, text: &str) {
        let upper = self.upper();
        fs::write(upper.join(path), text).unwrap();
        assert_eq!(self.stage(number, &upper).then, Settle::Stage);
    }

    pub(crate) fn diff(&self, number: u64) -> Diff {
        match self.order(Order::Diff {
            layer: id(number),
            from: 0,
        }) {
            Answer::Diff(diff) => *diff,
            other => panic!("{other:?}"),
        }
    }

    /// Commits what is shown.
    pub(crate) fn commit(&self, number: u64) -> Result<(), Refused> {
        let digest = self.diff(number).digest;
        match self.order(Order::Commit {
            layer: id(number),
            digest,
        }) {
            Answer::Committed(_) => Ok(()),
            Answer::Refused(refused) => Err(refused),
            other => panic!("{other:?}"),
        }
    }

    /// Takes back a commit and every one after it, by whoever knows all of them.
    pub(crate) fn undo(&self, number: u64) -> Result<Vec<SandboxId>, Refused> {
        let last = match self.order(Order::List) {
            Answer::List(listing) => listing.commits.last().map(|commit| commit.layer.clone()),
            other => panic!("{other:?}"),
        };
        self.undo_seen(number, last.unwrap_or_else(|| id(number)))
    }

    /// Takes back a commit and every one after it, by whoever has seen this one as the last.
    pub(crate) fn undo_seen(
        &self,
        number: u64,
        last: SandboxId,
    ) -> Result<Vec<SandboxId>, Refused> {
        match self.order(Order::Undo {
            layer: id(number),
            last,
        }) {
            Answer::Undone { layers } => Ok(layers),
            Answer::Refused(refused) => Err(refused),
            other => panic!("{other:?}"),
        }
    }

    /// All of the files as they are now: path, mode, and text or target.
    pub(crate) fn state(&self) -> Vec<(String, u32, String)> {
        state(&self.files())
    }
}

pub(crate) fn state(dir: &Path) -> Vec<(String, u32, String)> {
    let mut state = Vec::new();
    fill(dir, dir, &mut state);
    state.sort();
    state
}

fn fill(top: &Path, dir: &Path, state: &mut Vec<(String, u32, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap();
        let name = path
            .strip_prefix(top)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        if found.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            state.push((name, 0, format!("-> {}", target.display())));
        } else if found.is_dir() {
            state.push((name, found.permissions().mode() & 0o7777, "/".to_owned()));
            fill(top, &path, state);
        } else {
            let text = fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&text).into_owned();
            state.push((name, found.permissions().mode() & 0o7777, text));
        }
    }
}

/// What an overlay writes where something of the lower layer was removed.
pub(crate) fn whiteout(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

/// A directory that replaces the one beneath it.
pub(crate) fn opaque(path: &Path) {
    fs::create_dir(path).unwrap();
    rustix::fs::setxattr(
        path,
        "user.overlay.opaque",
        b"y",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
}

pub(crate) fn fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

pub(crate) fn link(path: &Path, target: &str) {
    symlink(target, path).unwrap();
}

pub(crate) fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
