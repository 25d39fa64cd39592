//! The layout of a workspace on disk: which generation it is, what is pending, what can be undone.

use std::path::Path;

use paw_launch::{
    request::SandboxId,
    workspace::{Bounds, LeftOut, Listing, Waiting},
};
use rustix::fs::FileType;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Fault,
    beneath::{Dir, own, read_own, write_own},
    entry::Change,
    place::Place,
};

/// The largest record of ours, in bytes. What is longer is never written, because it could never be read again.
const MAX_RECORD: u64 = 32 << 20;

/// The most names in one of our own directories.
const MAX_NAMES: usize = 4096;

/// A workspace, locked for this order.
#[derive(Debug)]
pub struct Store {
    pub(crate) root: Dir,
}

/// One generation.
#[derive(Debug)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// Its files.
    pub files: Dir,
    /// How it came about.
    pub log: Log,
}

/// How a generation came about.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Files, directories and links.
    pub files: u32,
    /// Bytes of all files.
    pub bytes: u64,
    /// Commits that can be undone, the oldest first.
    pub commits: Vec<Commit>,
}

/// A commit that can be undone.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// The sandbox that wrote it, and the name of its directory in `history`.
    pub layer: SandboxId,
    /// The host uid of whom it was.
    pub owner: Option<u32>,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// How many changes.
    pub changes: u32,
    /// Bytes of its new files.
    pub bytes: u64,
    /// Bytes of the files that it replaced and that are kept.
    pub kept: u64,
}

/// A layer, as it is kept in `layer.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The sandbox that wrote it.
    pub layer: SandboxId,
    /// The host uid of whom it is.
    pub owner: Option<u32>,
    /// When the run ended, in milliseconds since 1970.
    pub at_ms: u64,
    /// Bytes of its new files.
    pub bytes: u64,
    /// What it changes, in the order of places; `new/N` is the content of the change with the number N.
    pub changes: Vec<Change>,
    /// What of the run is not kept.
    pub left_out: Vec<LeftOut>,
}

pub(crate) fn json<T: Serialize>(value: &T, what: &str) -> Result<Vec<u8>, Fault> {
    let bytes = serde_json::to_vec(value).map_err(|source| Fault::Damaged {
        what: what.to_owned(),
        source,
    })?;
    if bytes.len() as u64 > MAX_RECORD {
        return Err(Fault::TooMuch {
            what: "bytes of names and targets in one layer, as they are recorded",
            most: MAX_RECORD,
        });
    }
    Ok(bytes)
}

pub(crate) fn record<T: DeserializeOwned>(dir: &Dir, name: &str) -> Result<T, Fault> {
    let bytes = read_own(dir, &own(name), MAX_RECORD)?;
    serde_json::from_slice(&bytes).map_err(|source| Fault::Damaged {
        what: name.to_owned(),
        source,
    })
}

/// A directory of ours, made if it is missing.
fn ensure(root: &Dir, name: &str) -> Result<Dir, Fault> {
    match root.look(&own(name))? {
        Some(_) => root.dir(&own(name)),
        None => root.make_dir(&own(name), 0o700),
    }
}

impl Store {
    /// Opens a workspace and waits until nobody else works on it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let root = Dir::open(path)?;
        root.lock()?;
        Ok(Self { root })
    }

    /// The generation that the workspace is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn current(&self) -> Result<Generation, Fault> {
        let target = self.root.target(&own("current"))?;
        let number = std::str::from_utf8(&target)
            .ok()
            .and_then(|text| text.strip_prefix("generations/")?.parse().ok())
            .ok_or_else(|| Fault::Files {
                step: "understand",
                path: "current".to_owned(),
                source: std::io::ErrorKind::InvalidData.into(),
            })?;
        self.generation(number)
    }

    /// A generation by its number.
    ///
    /// # Errors
    /// When it is not there.
    pub fn generation(&self, number: u64) -> Result<Generation, Fault> {
        let dir = self.root.dir(&own(&format!("generations/{number}")))?;
        let log = match dir.look(&own("log.json"))? {
            Some(_) => record(&dir, "log.json")?,
            // The first one is made by the launcher, or was a workspace before there were generations.
            None => Log::default(),
        };
        Ok(Generation {
            number,
            files: dir.dir(&own("files"))?,
            log,
        })
    }

    pub(crate) fn pending_dir(&self) -> Result<Dir, Fault> {
        ensure(&self.root, "pending")
    }

    pub(crate) fn history_dir(&self) -> Result<Dir, Fault> {
        ensure(&self.root, "history")
    }

    /// A pending layer, and the directory of its contents.
    ///
    /// # Errors
    /// When there is none.
    pub fn pending(&self, layer: &SandboxId) -> Result<(Layer, Dir), Fault> {
        let pending = self.pending_dir()?;
        let place = own(layer.as_str());
        if pending.look(&place)?.is_none() {
            return Err(Fault::NotPending(layer.clone()));
        }
        let dir = pending.dir(&place)?;
        Ok((record(&dir, "layer.json")?, dir.dir(&own("new"))?))
    }

    /// Throws a pending layer away, also one whose record cannot be read; nobody knows then how many changes it had.
    ///
    /// # Errors
    /// When there is none, or it cannot be removed.
    pub fn discard(&self, layer: &SandboxId) -> Result<u32, Fault> {
        let changes = match self.pending(layer) {
            Ok((found, _)) => count(found.changes.len()),
            Err(fault @ Fault::NotPending(_)) => return Err(fault),
            Err(_) => 0,
        };
        self.forget(layer)?;
        Ok(changes)
    }

    /// Removes a pending layer as a whole: first its name, so that no half of it is ever seen as one.
    pub(crate) fn forget(&self, layer: &SandboxId) -> Result<(), Fault> {
        let pending = self.pending_dir()?;
        let gone = own(&format!(".{layer}"));
        pending.remove_all(&gone)?;
        pending.rename(&own(layer.as_str()), &gone)?;
        pending.remove_all(&gone)
    }

    /// All pending layers, the oldest first; one whose record is damaged is the oldest of all.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn waiting(&self) -> Result<Vec<Waiting>, Fault> {
        let pending = self.pending_dir()?;
        let mut waiting = Vec::new();
        for (name, _) in pending.names(MAX_NAMES)? {
            let Some(id) = std::str::from_utf8(&name)
                .ok()
                .and_then(|name| name.parse::<SandboxId>().ok())
            else {
                continue;
            };
            let read = record(&pending.dir(&own(id.as_str()))?, "layer.json");
            waiting.push(match read {
                Ok(Layer {
                    owner,
                    at_ms,
                    changes,
                    bytes,
                    ..
                }) => Waiting {
                    layer: id,
                    owner,
                    at_ms,
                    changes: count(changes.len()),
                    bytes,
                },
                // It stands in nobody's way: nobody's, and the first to make room.
                Err(Fault::Damaged { .. } | Fault::TooMuch { .. }) => Waiting {
                    layer: id,
                    owner: None,
                    at_ms: 0,
                    changes: 0,
                    bytes: 0,
                },
                Err(fault) => return Err(fault),
            });
        }
        waiting.sort_by_key(|layer| layer.at_ms);
        Ok(waiting)
    }

    /// What is pending and what can be undone.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn list(&self) -> Result<Listing, Fault> {
        let Log {
            files,
            bytes,
            commits,
            ..
        } = self.current()?.log;
        Ok(Listing {
            files,
            bytes,
            pending: self.waiting()?,
            commits: commits
                .into_iter()
                .map(|commit| Waiting {
                    layer: commit.layer,
                    owner: commit.owner,
                    at_ms: commit.at_ms,
                    changes: commit.changes,
                    bytes: commit.bytes,
                })
                .collect(),
        })
    }

    /// Makes room for one more pending layer of so many bytes: what is too old goes, and then the oldest, never the new one.
    /// Gives what went.
    pub(crate) fn make_room(
        &self,
        bytes: u64,
        bounds: &Bounds,
        now_ms: u64,
    ) -> Result<Vec<SandboxId>, Fault> {
        let mut waiting = self.waiting()?;
        let mut dropped = Vec::new();
        while let Some(oldest) = waiting.first() {
            let all: u64 = waiting.iter().map(|layer| layer.bytes).sum();
            let old = now_ms.saturating_sub(oldest.at_ms) > bounds.pending_ms;
            let many = waiting.len() >= usize::try_from(bounds.pending).unwrap_or(usize::MAX);
            let big = all.saturating_add(bytes) > bounds.bytes;
            if !(old || many || big) {
                break;
            }
            let oldest = waiting.remove(0);
            self.forget(&oldest.layer)?;
            dropped.push(oldest.layer);
        }
        Ok(dropped)
    }

    /// Makes a generation the workspace: the one step of every commit.
    pub(crate) fn switch(&self, number: u64) -> Result<(), Fault> {
        let (new, current) = (own(".current"), own("current"));
        self.root.remove_all(&new)?;
        self.root
            .make_link(&new, format!("generations/{number}").as_bytes())?;
        self.root.rename(&new, &current)?;
        self.root.sync()
    }

    /// Removes what cannot be reached from `current` and is not seen by a sandbox.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn tidy(&self, live: &[u64]) -> Result<(), Fault> {
        let current = self.current()?;
        let kept: Vec<String> = live
            .iter()
            .chain([&current.number])
            .map(u64::to_string)
            .collect();
        self.keep("generations", &kept)?;
        let commits = current.log.commits.iter();
        let kept: Vec<String> = commits.map(|commit| commit.layer.to_string()).collect();
        self.history_dir()?;
        self.keep("history", &kept)?;
        let pending = self.pending_dir()?;
        for commit in &current.log.commits {
            // Interrupted right after its last step.
            if pending.look(&own(commit.layer.as_str()))?.is_some() {
                self.forget(&commit.layer)?;
            }
        }
        for (name, _) in pending.names(MAX_NAMES)? {
            if name.starts_with(b".") {
                pending.remove_all(&Place::new(&name)?)?;
            }
        }
        Ok(())
    }

    fn keep(&self, dir: &str, kept: &[String]) -> Result<(), Fault> {
        let dir = self.root.dir(&own(dir))?;
        for (name, _) in dir.names(MAX_NAMES)? {
            if !kept.iter().any(|kept| kept.as_bytes() == name) {
                dir.remove_all(&Place::new(&name)?)?;
            }
        }
        Ok(())
    }
}

/// Makes an empty workspace.
///
/// # Errors
/// When there is something already.
pub fn make(root: &Dir) -> Result<(), Fault> {
    root.make_dir(&own("generations"), 0o700)?;
    root.make_dir(&own("generations/0"), 0o700)?;
    root.make_dir(&own("generations/0/files"), 0o700)?;
    root.make_link(&own("current"), b"generations/0")
}

/// Writes `layer.json`.
pub(crate) fn write_layer(dir: &Dir, layer: &Layer) -> Result<(), Fault> {
    write_own(dir, &own("layer.json"), &json(layer, "layer.json")?)
}

/// How many, where it is bounded long before.
pub(crate) fn count(many: usize) -> u32 {
    u32::try_from(many).unwrap_or(u32::MAX)
}

/// Whether a workspace is made of it.
pub(crate) fn is_kept(kind: FileType) -> bool {
    matches!(
        kind,
        FileType::RegularFile | FileType::Directory | FileType::Symlink
    )
}
