//! What was there before a change, so that it can be taken back: in `.paw-undo` of the root, bounded, the oldest go first.
//!
//! ```text
//! .paw-undo/ID/0, 1, …      the files that a change replaced or removed
//! .paw-undo/ID/entry.json   what the change was; written last, so an entry that has none is none
//! ```
//!
//! ID is the time of the change, so two runs whose changes are decided on later do not both write the same name.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{self, AtFlags, Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    path::Inside,
    tree::{Tree, TreeError, names_in, open_strictly, read_all, replace},
};

/// Where it is kept.
const DIR: &str = ".paw-undo";
/// What an entry is.
const ENTRY: &str = "entry.json";

/// After so long, what has no entry is what a server left that ended in the middle.
const UNFINISHED: Duration = Duration::from_secs(600);
/// Most changes that are kept.
const MAX_CHANGES: usize = 32;
/// Most bytes of the files of one change, and of all changes.
pub(crate) const MAX_CHANGE: usize = 4 * 1024 * 1024;
const MAX_BYTES: u64 = 8 * 1024 * 1024;
/// The largest description of a change, in bytes.
const MAX_ENTRY: usize = 4 * 1024 * 1024;

/// Whether a name in the root is this module's.
pub(crate) fn is_ours(name: &str) -> bool {
    name == DIR
}

/// A change.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// Which tool made it.
    pub(crate) what: String,
    /// What it changed.
    pub(crate) path: String,
    /// What was there, directories before what is in them; nothing where nothing was.
    pub(crate) before: Vec<Thing>,
    /// The digest of the file that it left there; nothing where it left nothing.
    pub(crate) after: Option<String>,
    /// Bytes of the files.
    pub(crate) bytes: u64,
}

/// Something that was there; its path is relative to that of the change, and empty for what stood there itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Thing {
    Directory {
        path: String,
        mode: u32,
    },
    /// Its bytes are in the file of this number.
    File {
        path: String,
        mode: u32,
        number: usize,
    },
    Link {
        path: String,
        to: String,
    },
}

/// A change with its id.
pub(crate) type Known = (String, Entry);

/// The digest of a file.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Tree {
    /// Keeps what a change will replace or remove; gives the change's id. The oldest changes go where there is no room.
    pub(crate) fn keep(&self, entry: &Entry, files: &[Vec<u8>]) -> Result<String, TreeError> {
        let dir = self.kept_dir()?.ok_or_else(|| damaged(DIR))?;
        let mut kept = self.make_room(&dir, entry.bytes)?;
        let latest: u128 = kept
            .pop()
            .and_then(|(id, _)| id.parse().ok())
            .unwrap_or_default();
        // In order whatever the clock does.
        let id = format!("{:020}", nanos().max(latest + 1));
        let written = self.write_entry(&dir, &id, entry, files);
        if written.is_err() {
            self.forget(&id);
        }
        written.map(|()| id)
    }

    fn write_entry(
        &self,
        dir: &OwnedFd,
        id: &str,
        entry: &Entry,
        files: &[Vec<u8>],
    ) -> Result<(), TreeError> {
        let of = |step, errno| TreeError::System {
            step,
            path: format!("{DIR}/{id}"),
            source: Errno::into(errno),
        };
        fs::mkdirat(dir, id, Mode::from_raw_mode(0o700)).map_err(|errno| of("make", errno))?;
        let place = open_strictly(dir.as_fd(), id, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| of("open", errno))?;
        let private = Mode::from_raw_mode(0o600);
        for (number, bytes) in files.iter().enumerate() {
            replace(place.as_fd(), &number.to_string(), bytes, private)
                .map_err(|(step, errno)| of(step, errno))?;
        }
        let text = serde_json::to_vec(entry).map_err(|_| damaged(&entry.path))?;
        replace(place.as_fd(), ENTRY, &text, private).map_err(|(step, errno)| of(step, errno))
    }

    /// All changes that can be taken back, the oldest first.
    pub(crate) fn kept(&self) -> Result<Vec<Known>, TreeError> {
        match self.open_kept_dir()? {
            Some(dir) => Ok(entries(&dir)?.0),
            None => Ok(Vec::new()),
        }
    }

    /// One of the files of a change.
    pub(crate) fn kept_file(&self, id: &str, number: usize) -> Result<Vec<u8>, TreeError> {
        let path = format!("{DIR}/{id}/{number}");
        open_strictly(self.root(), path.as_str(), OFlags::RDONLY)
            .and_then(|file| read_all(&file, MAX_CHANGE))
            .ok()
            .flatten()
            .ok_or_else(|| damaged(&path))
    }

    /// A change cannot be taken back any more.
    pub(crate) fn forget(&self, id: &str) {
        // What is left of it is no entry, and goes with the next change.
        if let Ok(Some(dir)) = self.open_kept_dir() {
            let _ = remove(&dir, id);
        }
    }

    /// Removes what is no entry, and the oldest until there is room for one of so many bytes; gives the others.
    fn make_room(&self, dir: &OwnedFd, bytes: u64) -> Result<Vec<Known>, TreeError> {
        let (mut kept, rest) = entries(dir)?;
        let gone = |removed| match removed {
            // Another server of the same files was quicker.
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        };
        let now = nanos();
        for name in rest {
            let began = name.parse().unwrap_or(0_u128);
            // What another server is just writing is no entry yet.
            if now.saturating_sub(began) >= UNFINISHED.as_nanos() {
                gone(remove(dir, &name)).map_err(|errno| system("remove", &name, errno))?;
            }
        }
        let total = |kept: &[Known]| kept.iter().map(|(_, it)| it.bytes).sum::<u64>();
        while kept.len() >= MAX_CHANGES || total(&kept).saturating_add(bytes) > MAX_BYTES {
            if kept.is_empty() {
                break;
            }
            let (id, _) = kept.remove(0);
            gone(remove(dir, &id)).map_err(|errno| system("remove", &id, errno))?;
        }
        Ok(kept)
    }

    fn kept_dir(&self) -> Result<Option<OwnedFd>, TreeError> {
        match fs::mkdirat(self.root(), DIR, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => self.open_kept_dir(),
            Err(errno) => Err(system("make", DIR, errno)),
        }
    }

    /// What is kept, if anything is.
    fn open_kept_dir(&self) -> Result<Option<OwnedFd>, TreeError> {
        match open_strictly(self.root(), DIR, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(system("open", DIR, errno)),
        }
    }
}

/// The entries, the oldest first, and the names of what is none.
fn entries(dir: &OwnedFd) -> Result<(Vec<Known>, Vec<String>), TreeError> {
    let (names, _) = names_in(dir).map_err(|errno| system("list", DIR, errno))?;
    let (mut kept, mut rest) = (Vec::new(), Vec::new());
    for name in names {
        let Ok(name) = name.into_string() else {
            continue;
        };
        let is_id = name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit());
        let path = format!("{name}/{ENTRY}");
        let entry = is_id
            .then(|| open_strictly(dir.as_fd(), path.as_str(), OFlags::RDONLY).ok())
            .flatten()
            .and_then(|file| read_all(&file, MAX_ENTRY).ok().flatten())
            .and_then(|text| serde_json::from_slice::<Entry>(&text).ok());
        match entry {
            // What it says itself has to be a path, whoever wrote it.
            Some(entry) if entry.path.parse::<Inside>().is_ok() => kept.push((name, entry)),
            Some(_) | None => rest.push(name),
        }
    }
    Ok((kept, rest))
}

/// Removes a file, or a directory with all that is in it.
pub(crate) fn remove(
    directory: &OwnedFd,
    name: impl rustix::path::Arg + Copy,
) -> Result<(), Errno> {
    match fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        removed => return removed,
    }
    let below = open_strictly(directory.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    loop {
        let (names, more) = names_in(&below)?;
        for name in &names {
            remove(&below, &**name)?;
        }
        if !more {
            break;
        }
    }
    fs::unlinkat(directory, name, AtFlags::REMOVEDIR)
}

/// Nanoseconds since 1970.
fn nanos() -> u128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos())
}

fn damaged(path: &str) -> TreeError {
    TreeError::Damaged {
        path: path.to_owned(),
    }
}

fn system(step: &'static str, path: &str, errno: Errno) -> TreeError {
    TreeError::System {
        step,
        path: path.to_owned(),
        source: errno.into(),
    }
}
