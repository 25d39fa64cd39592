//! Bundles that are being sent: plain files and directories, made here one piece after the other.
//!
//! There is no archive to be read. Each piece names a file, its place in it, and bytes; links, devices, owners and modes cannot be
//! said, so none can come in. Names are checked word by word, and everything is counted before it is written.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::sandbox::seal::{MAX_BYTES, MAX_DEPTH, MAX_FILES};

/// Bundles that are being sent at the same time.
const MAX_SENDING: usize = 2;

/// After how long nobody is believed to go on sending.
const IDLE: Duration = Duration::from_secs(120);

/// The longest name of one file or directory, in bytes.
const MAX_NAME: usize = 255;

/// Pieces of one call.
pub const MAX_PIECES: usize = 256;

/// Bytes of one call.
pub const MAX_PIECE: usize = 128 * 1024;

/// Some bytes of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its path in the bundle.
    pub path: String,
    /// Whether it can be executed.
    pub executable: bool,
    /// Where in the file they are; 0 makes it, anything else goes on where the file ends.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Why a piece is not taken. Whatever of the bundle came before is dropped.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// Too many at once.
    #[error("{MAX_SENDING} bundles are being sent, which is the most")]
    Full,
    /// Nothing is being sent under this id by this user.
    #[error("no bundle of yours is being sent under this id")]
    Unknown,
    /// The piece before is still being written.
    #[error("the pieces before are still being written")]
    Busy,
    /// A name that leads elsewhere, or cannot be one.
    #[error(
        "{0:?} cannot be the path of a file in a bundle: names of 1 to 255 bytes with `/` between them, no `.` or `..`, at most \
         {MAX_DEPTH} levels, no control characters"
    )]
    Path(String),
    /// There is more than a skill may have.
    #[error("the bundle goes beyond {0}")]
    TooLarge(&'static str),
    /// It is there already, or does not go on where it ends.
    #[error("{0:?} is sent twice, or not from its beginning to its end")]
    Order(String),
    /// The disk does not take it.
    #[error("keep the bundle until it is whole")]
    Write(#[source] io::Error),
}

impl NotTaken {
    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Full => "wait until one of them has arrived",
            Self::Unknown => "send it again from its beginning; who pauses for two minutes has to",
            Self::Busy => "send one call after the other",
            Self::Path(_) => "rename it, or leave it out of the bundle",
            Self::TooLarge(_) => "make the bundle smaller",
            Self::Order(_) => "send each file once, in order",
            Self::Write(_) => {
                "see whether the disk of /var/lib/paw-skills is full, or the directory is missing"
            }
        }
    }
}

/// Bundles that are being sent, by their ids.
#[derive(Debug)]
pub struct Incoming {
    dir: PathBuf,
    sending: Mutex<BTreeMap<String, Sending>>,
}

#[derive(Debug)]
struct Sending {
    uid: u32,
    left: (usize, u64),
    bytes: u64,
    last: Instant,
    busy: bool,
}

impl Incoming {
    /// Nothing is being sent; what an earlier pawd had received in part is removed.
    #[must_use]
    pub fn new(skills: &Path) -> Self {
        let dir = skills.join("incoming");
        // It is made again with the first piece, which is where a fault of it is told.
        let _ = fs::remove_dir_all(&dir);
        Self {
            dir,
            sending: Mutex::default(),
        }
    }

    /// Takes some pieces; without an id, the first ones of a new bundle. Gives its id and how many bytes of it have arrived.
    /// Blocks.
    ///
    /// # Errors
    /// When they are not taken; see [`NotTaken`].
    pub fn take(
        &self,
        uid: u32,
        id: Option<String>,
        pieces: &[Piece],
        fresh: impl FnOnce() -> io::Result<String>,
    ) -> Result<(String, u64), NotTaken> {
        let (id, mut left) = match id {
            Some(id) => {
                let left = self.occupy(uid, &id)?;
                (id, left)
            }
            None => self.begin(uid, fresh)?,
        };
        let written = self.write(&id, pieces, &mut left);
        let mut sending = self.lock();
        match (written, sending.get_mut(&id)) {
            (Ok(bytes), Some(known)) => {
                known.busy = false;
                known.left = left;
                known.bytes += bytes;
                known.last = Instant::now();
                Ok((id, known.bytes))
            }
            (Ok(_), None) => Err(NotTaken::Unknown),
            (Err(error), _) => {
                sending.remove(&id);
                drop(sending);
                self.drop_files(&id);
                Err(error)
            }
        }
    }

    /// The directory of a bundle that is whole; it is the caller's from now on.
    ///
    /// # Errors
    /// When nothing is being sent under this id by this user.
    pub fn finish(&self, uid: u32, id: &str) -> Result<PathBuf, NotTaken> {
        self.occupy(uid, id)?;
        self.lock().remove(id);
        Ok(self.dir.join(id))
    }

    fn begin(
        &self,
        uid: u32,
        fresh: impl FnOnce() -> io::Result<String>,
    ) -> Result<(String, (usize, u64)), NotTaken> {
        let mut sending = self.lock();
        let idle: Vec<String> = sending
            .iter()
            .filter(|(_, known)| !known.busy && known.last.elapsed() >= IDLE)
            .map(|(id, _)| id.clone())
            .collect();
        for id in idle {
            sending.remove(&id);
            self.drop_files(&id);
        }
        if sending.len() >= MAX_SENDING {
            return Err(NotTaken::Full);
        }
        let id = fresh().map_err(NotTaken::Write)?;
        directory(&self.dir)?;
        directory(&self.dir.join(&id))?;
        let left = (MAX_FILES, MAX_BYTES);
        let known = Sending {
            uid,
            left,
            bytes: 0,
            last: Instant::now(),
            busy: true,
        };
        sending.insert(id.clone(), known);
        Ok((id, left))
    }

    fn occupy(&self, uid: u32, id: &str) -> Result<(usize, u64), NotTaken> {
        let mut sending = self.lock();
        let known = sending.get_mut(id).filter(|known| known.uid == uid);
        let known = known.ok_or(NotTaken::Unknown)?;
        if std::mem::replace(&mut known.busy, true) {
            return Err(NotTaken::Busy);
        }
        Ok(known.left)
    }

    fn write(&self, id: &str, pieces: &[Piece], left: &mut (usize, u64)) -> Result<u64, NotTaken> {
        let root = self.dir.join(id);
        let mut bytes = 0;
        for piece in pieces {
            let names = names(&piece.path)?;
            let length = piece.bytes.len() as u64;
            left.1 = left
                .1
                .checked_sub(length)
                .ok_or(NotTaken::TooLarge("256 MiB of one skill"))?;
            let one_more = |left: &mut (usize, u64)| {
                left.0 = left.0.checked_sub(1).ok_or(NotTaken::TooLarge(
                    "16384 files and directories of one skill",
                ))?;
                Ok(())
            };
            let mut place = root.clone();
            let (name, above) = names.split_last().ok_or_else(|| bad(&piece.path))?;
            for name in above {
                place.push(name);
                // Nothing but us makes anything here, so what is there is a directory or a file of ours, and never a link.
                if !place.is_dir() {
                    one_more(left)?;
                    directory(&place)?;
                }
            }
            place.push(name);
            if piece.offset == 0 {
                one_more(left)?;
            }
            append(&place, piece)?;
            bytes += length;
        }
        Ok(bytes)
    }

    fn drop_files(&self, id: &str) {
        // What is left is removed at the next start.
        let _ = fs::remove_dir_all(self.dir.join(id));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Sending>> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn append(place: &Path, piece: &Piece) -> Result<(), NotTaken> {
    let order = || NotTaken::Order(shown(&piece.path));
    let mut options = OpenOptions::new();
    if piece.offset == 0 {
        options.write(true).create_new(true).mode(0o600);
    } else {
        options.append(true);
    }
    let mut file = options.open(place).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists
        | io::ErrorKind::NotFound
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::NotADirectory => order(),
        _ => NotTaken::Write(error),
    })?;
    let write = || -> io::Result<bool> {
        if piece.offset != 0 && file.metadata()?.len() != piece.offset {
            return Ok(false);
        }
        file.write_all(&piece.bytes)?;
        let mode = if piece.executable { 0o755 } else { 0o644 };
        // Whatever our umask is: the launcher is somebody else, and so is whoever runs in a sandbox.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        Ok(true)
    };
    let mut write = write;
    if write().map_err(NotTaken::Write)? {
        Ok(())
    } else {
        Err(order())
    }
}

fn directory(path: &Path) -> Result<(), NotTaken> {
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error)
            if error.kind() == io::ErrorKind::NotADirectory
                || error.kind() == io::ErrorKind::AlreadyExists =>
        {
            return Err(NotTaken::Order(shown(&path.display().to_string())));
        }
        Err(error) => Err(error),
    }
    .map_err(NotTaken::Write)
}

fn names(path: &str) -> Result<Vec<&str>, NotTaken> {
    let names: Vec<&str> = path.split('/').collect();
    let plain = |name: &&str| {
        !name.is_empty()
            && name.len() <= MAX_NAME
            && *name != "."
            && *name != ".."
            && !name.contains(char::is_control)
    };
    if names.len() <= MAX_DEPTH && names.iter().all(plain) {
        Ok(names)
    } else {
        Err(bad(path))
    }
}

fn bad(path: &str) -> NotTaken {
    NotTaken::Path(shown(path))
}

fn shown(path: &str) -> String {
    path.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(path: &str, offset: u64, bytes: &[u8]) -> Piece {
        Piece {
            path: path.into(),
            executable: false,
            offset,
            bytes: bytes.into(),
        }
    }

    fn sent(pieces: &[Piece]) -> (tempfile::TempDir, Result<(String, u64), NotTaken>) {
        let dir = tempfile::tempdir().unwrap();
        let incoming = Incoming::new(dir.path());
        let taken = incoming.take(1, None, pieces, || Ok("a".into()));
        (dir, taken)
    }

    #[test]
    fn path_that_leads_elsewhere_is_not_taken_and_nothing_is_left() {
        let long = "x".repeat(256);
        let deep = vec!["d"; MAX_DEPTH + 1].join("/");
        for path in [
            "",
            "/",
            "/etc/passwd",
            "../up",
            "a/../b",
            "a/./b",
            ".",
            "..",
            "a//b",
            "a/",
            "a\0b",
            "a\nb",
            &long,
            &deep,
        ] {
            let (dir, taken) = sent(&[piece("first", 0, b"x"), piece(path, 0, b"x")]);
            assert!(
                matches!(taken, Err(NotTaken::Path(_))),
                "{path:?}: {taken:?}"
            );
            assert!(!dir.path().join("incoming/a").exists(), "{path:?}");
        }
    }

    #[test]
    fn files_are_plain_whatever_is_said() {
        let (dir, taken) = sent(&[
            piece("bin/run", 0, b"#!"),
            Piece {
                executable: true,
                ..piece("bin/run", 2, b"/bin/sh")
            },
        ]);
        assert_eq!(taken.unwrap(), ("a".to_owned(), 9));
        let file = dir.path().join("incoming/a/bin/run");
        assert_eq!(fs::read(&file).unwrap(), b"#!/bin/sh");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&file), 0o755);
        assert_eq!(mode(&dir.path().join("incoming/a/bin")), 0o755);
    }

    #[test]
    fn file_in_the_place_of_another_is_not_taken() {
        for pieces in [
            [piece("a", 0, b"x"), piece("a", 0, b"y")],
            [piece("a", 0, b"x"), piece("a", 5, b"y")],
            [piece("a", 0, b"x"), piece("a/b", 0, b"y")],
            [piece("a/b", 0, b"x"), piece("a", 0, b"y")],
            [piece("b", 0, b"x"), piece("c", 1, b"y")],
        ] {
            let (_dir, taken) = sent(&pieces);
            assert!(
                matches!(taken, Err(NotTaken::Order(_))),
                "{pieces:?}: {taken:?}"
            );
        }
    }

    #[test]
    fn bundle_of_another_user_cannot_be_continued_or_finished() {
        let dir = tempfile::tempdir().unwrap();
        let incoming = Incoming::new(dir.path());
        let (id, _) = incoming
            .take(1, None, &[piece("a", 0, b"x")], || Ok("i".into()))
            .unwrap();
        let other = incoming.take(2, Some(id.clone()), &[piece("b", 0, b"x")], || {
            Ok("j".into())
        });
        assert!(matches!(other, Err(NotTaken::Unknown)));
        assert!(matches!(incoming.finish(2, &id), Err(NotTaken::Unknown)));
        incoming.finish(1, &id).unwrap();
        assert!(matches!(incoming.finish(1, &id), Err(NotTaken::Unknown)));
    }

    #[test]
    fn more_than_two_bundles_at_once_are_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let incoming = Incoming::new(dir.path());
        for id in ["a", "b"] {
            incoming.take(1, None, &[], || Ok(id.into())).unwrap();
        }
        assert!(matches!(
            incoming.take(1, None, &[], || Ok("c".into())),
            Err(NotTaken::Full)
        ));
    }
}
