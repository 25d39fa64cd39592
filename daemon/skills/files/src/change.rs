//! Changes of files: each keeps what it replaces or removes before it does so, and can be taken back.

use std::{
    ffi::CStr,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use crate::{
    kept::{Entry, MAX_CHANGE, Thing, digest, remove},
    path::{Inside, showable},
    tree::{
        MAX_LEVELS, MAX_TREE, MAX_WRITE, Tree, TreeError, names_in, open_strictly, read_all,
        replace, want_file,
    },
};

const FILE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// One text in the place of another.
pub(crate) struct Edit<'a> {
    pub(crate) old: &'a str,
    pub(crate) new: &'a str,
    /// Wherever it stands; else it has to stand there once.
    pub(crate) all: bool,
}

/// A change that was taken back.
#[derive(Debug)]
pub(crate) struct Undone {
    pub(crate) id: String,
    pub(crate) what: String,
    pub(crate) path: String,
}

/// What stands beneath a path, as it can be kept.
#[derive(Default)]
struct Gathered {
    things: Vec<Thing>,
    files: Vec<Vec<u8>>,
    bytes: usize,
    /// Files, directories and links.
    count: usize,
    /// It is more than is kept, or has names that cannot be.
    too_large: bool,
}

impl Tree {
    /// Writes a whole file; gives the change's id, if it can be taken back.
    pub(crate) fn replace(
        &self,
        path: &Inside,
        text: &[u8],
        create_dirs: bool,
        for_good: bool,
    ) -> Result<Option<String>, TreeError> {
        if text.len() > MAX_WRITE {
            return Err(TreeError::TooMuch { bytes: text.len() });
        }
        if let (true, Some((parent, _))) = (create_dirs, path.split()) {
            self.make_directories(&parent)?;
        }
        self.changed("write", path, text, for_good)
    }

    /// Puts one text in the place of another; gives in how many places, and the change's id.
    pub(crate) fn edit(
        &self,
        path: &Inside,
        edit: &Edit<'_>,
    ) -> Result<(usize, Option<String>), TreeError> {
        if edit.old.is_empty() || edit.old == edit.new {
            return Err(TreeError::NoEdit);
        }
        let file = self.open_beneath(path, FILE)?;
        let stat = fs::fstat(&file).map_err(|errno| TreeError::of("look at", path, errno))?;
        want_file(&stat, path)?;
        let bytes = read_all(&file, MAX_WRITE);
        let bytes = bytes.map_err(|errno| TreeError::of("read", path, errno))?;
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or_else(|| TreeError::NoText {
            path: path.to_string(),
        })?;
        let path_shown = || path.to_string();
        let times = match text.matches(edit.old).count() {
            0 => return Err(TreeError::NotThere { path: path_shown() }),
            times if times > 1 && !edit.all => {
                let path = path_shown();
                return Err(TreeError::NotOnce { path, times });
            }
            times => times,
        };
        // Before it is made: many short texts may become long ones.
        let grown = (edit.new.len() as u64).saturating_mul(times as u64);
        if grown.saturating_add(text.len() as u64) > 4 * MAX_WRITE as u64 {
            return Err(TreeError::TooMuch {
                bytes: usize::try_from(grown).unwrap_or(usize::MAX),
            });
        }
        let text = text.replace(edit.old, edit.new);
        if text.len() > MAX_WRITE {
            return Err(TreeError::TooMuch { bytes: text.len() });
        }
        let change = self.changed("edit", path, text.as_bytes(), false)?;
        Ok((times, change))
    }

    fn changed(
        &self,
        what: &str,
        path: &Inside,
        text: &[u8],
        for_good: bool,
    ) -> Result<Option<String>, TreeError> {
        let (directory, name) = self.place(path)?;
        let mut before = Gathered::default();
        let mode = match fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                want_file(&stat, path)?;
                let file = open_strictly(directory.as_fd(), name, FILE);
                let file = file.map_err(|errno| TreeError::of("open", path, errno))?;
                before
                    .file(&file, String::new(), stat.st_mode)
                    .map_err(|errno| TreeError::of("read", path, errno))?;
                stat.st_mode & 0o777
            }
            Err(Errno::NOENT) => 0o644,
            Err(errno) => return Err(TreeError::of("look at", path, errno)),
        };
        let change = self.keep_before(what, path, before, Some(digest(text)), for_good)?;
        let written = self.write(path, text, Mode::from_raw_mode(mode));
        self.done(change, written)
    }

    /// Removes a file, a link or a directory; gives how many of them, and the change's id, if it can be taken back.
    pub(crate) fn delete(
        &self,
        path: &Inside,
        recursive: bool,
        for_good: bool,
    ) -> Result<(usize, Option<String>), TreeError> {
        let shown = || path.to_string();
        let (directory, name) = self.place(path).map_err(|error| match error {
            TreeError::NoDirectory { path } => TreeError::Missing { path },
            other => other,
        })?;
        let mut before = Gathered::default();
        let name =
            std::ffi::CString::new(name).map_err(|_| TreeError::Missing { path: shown() })?;
        let fits = before
            .all(&directory, &name, String::new(), MAX_LEVELS)
            .map_err(|errno| TreeError::of("look at", path, errno))?;
        if !fits {
            return Err(TreeError::TreeTooLarge { path: shown() });
        }
        let count = before.count;
        if count > 1 && !recursive {
            return Err(TreeError::NotEmpty { path: shown() });
        }
        let change = self.keep_before("delete", path, before, None, for_good)?;
        let removed = remove(&directory, &*name);
        let change = self.done(
            change,
            removed.map_err(|errno| TreeError::of("remove", path, errno)),
        )?;
        Ok((count, change))
    }

    /// Takes a change back. It is named, and never just the latest: who approves it approves that one, whatever is changed meanwhile.
    pub(crate) fn undo(&self, change: &str) -> Result<Undone, TreeError> {
        let mut kept = self.kept()?;
        let at = kept.iter().position(|(known, _)| known == change);
        let id: String = change.escape_default().take(40).collect();
        let (id, entry) = kept.swap_remove(at.ok_or(TreeError::NoChange { id })?);
        let path: Inside = entry.path.parse()?;
        self.is_as_left(&path, entry.after.as_deref())?;
        self.restore(&path, &id, &entry)?;
        self.forget(&id);
        Ok(Undone {
            id,
            what: entry.what,
            path: entry.path,
        })
    }

    /// Whether nobody has changed it since.
    fn is_as_left(&self, path: &Inside, after: Option<&str>) -> Result<(), TreeError> {
        let now = match self.open_beneath(path, FILE | OFlags::NOFOLLOW) {
            Err(TreeError::Missing { .. }) => None,
            Err(TreeError::Link { .. } | TreeError::Kind { .. }) => Some(String::new()),
            Err(error) => return Err(error),
            Ok(file) => {
                let bytes = read_all(&file, MAX_WRITE);
                let bytes = bytes.map_err(|errno| TreeError::of("read", path, errno))?;
                // A directory, or more than a change can have left there.
                Some(bytes.map_or_else(String::new, |bytes| digest(&bytes)))
            }
        };
        if now.as_deref() == after {
            Ok(())
        } else {
            Err(TreeError::ChangedSince {
                path: path.to_string(),
            })
        }
    }

    fn restore(&self, path: &Inside, id: &str, entry: &Entry) -> Result<(), TreeError> {
        let of = |step| move |errno| TreeError::of(step, path, errno);
        if let (false, Some((parent, _))) = (entry.before.is_empty(), path.split()) {
            self.make_directories(&parent)?;
        }
        let (directory, name) = self.place(path)?;
        match entry.before.first() {
            None => fs::unlinkat(&directory, name, AtFlags::empty()).map_err(of("remove")),
            Some(Thing::File { mode, number, .. }) => {
                let bytes = self.kept_file(id, *number)?;
                self.write(path, &bytes, Mode::from_raw_mode(mode & 0o777))
            }
            Some(Thing::Link { to, .. }) => {
                fs::symlinkat(to.as_str(), &directory, name).map_err(of("link"))
            }
            Some(Thing::Directory { .. }) => {
                // Not beside it and then renamed: an overlay renames no directories.
                let made = self.make_again(&directory, name, id, entry);
                if made.is_err() {
                    // The first fault is the one to tell.
                    let _ = remove(&directory, name);
                }
                made
            }
        }
    }

    /// Makes a directory of what was kept of it.
    fn make_again(
        &self,
        at: &OwnedFd,
        named: &str,
        id: &str,
        entry: &Entry,
    ) -> Result<(), TreeError> {
        let of = |errno| TreeError::System {
            step: "put back",
            path: entry.path.clone(),
            source: Errno::into(errno),
        };
        let mode_of = |mode: &u32| Mode::from_raw_mode(mode & 0o777);
        for thing in &entry.before {
            let (Thing::Directory { path, .. }
            | Thing::File { path, .. }
            | Thing::Link { path, .. }) = thing;
            let inside: Inside = path.parse()?;
            let Some((parent, name)) = inside.split() else {
                // The directory itself. It stays ours to fill; its own mode is that of most.
                fs::mkdirat(at, named, Mode::from_raw_mode(0o755)).map_err(of)?;
                continue;
            };
            let parent = match parent.as_str() {
                "." => named.to_owned(),
                below => format!("{named}/{below}"),
            };
            let parent = open_strictly(at.as_fd(), parent.as_str(), DIRECTORY).map_err(of)?;
            match thing {
                Thing::Directory { mode, .. } => {
                    fs::mkdirat(&parent, name, mode_of(mode)).map_err(of)?;
                }
                Thing::File { mode, number, .. } => {
                    let bytes = self.kept_file(id, *number)?;
                    let made = replace(parent.as_fd(), name, &bytes, mode_of(mode));
                    made.map_err(|(_, errno)| of(errno))?;
                }
                Thing::Link { to, .. } => {
                    fs::symlinkat(to.as_str(), &parent, name).map_err(of)?;
                }
            }
        }
        Ok(())
    }

    fn keep_before(
        &self,
        what: &str,
        path: &Inside,
        before: Gathered,
        after: Option<String>,
        for_good: bool,
    ) -> Result<Option<String>, TreeError> {
        if before.too_large {
            return if for_good {
                Ok(None)
            } else {
                Err(TreeError::TooLargeToKeep {
                    path: path.to_string(),
                })
            };
        }
        let entry = Entry {
            what: what.to_owned(),
            path: path.to_string(),
            before: before.things,
            after,
            bytes: before.bytes as u64,
        };
        self.keep(&entry, &before.files).map(Some)
    }

    /// What was not done needs no undo.
    fn done(
        &self,
        change: Option<String>,
        done: Result<(), TreeError>,
    ) -> Result<Option<String>, TreeError> {
        if let (Err(_), Some(id)) = (&done, &change) {
            self.forget(id);
        }
        done.map(|()| change)
    }
}

impl Gathered {
    /// Takes a file.
    fn file(&mut self, file: &OwnedFd, path: String, mode: u32) -> Result<(), Errno> {
        self.count += 1;
        match read_all(file, MAX_CHANGE - self.bytes)? {
            Some(bytes) => {
                self.bytes += bytes.len();
                self.things.push(Thing::File {
                    path,
                    mode: mode & 0o777,
                    number: self.files.len(),
                });
                self.files.push(bytes);
            }
            None => self.too_large = true,
        }
        Ok(())
    }

    /// Takes whatever has this name; false where it is more than may be removed at once.
    fn all(
        &mut self,
        directory: &OwnedFd,
        name: &CStr,
        path: String,
        levels: u32,
    ) -> Result<bool, Errno> {
        if self.count >= MAX_TREE || levels == 0 {
            return Ok(false);
        }
        let stat = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let file = open_strictly(directory.as_fd(), name, FILE)?;
                self.file(&file, path, stat.st_mode)?;
            }
            FileType::Symlink => {
                self.count += 1;
                match fs::readlinkat(directory, name, Vec::new())?.into_string() {
                    Ok(to) => self.things.push(Thing::Link { path, to }),
                    Err(_) => self.too_large = true,
                }
            }
            FileType::Directory => {
                self.count += 1;
                self.things.push(Thing::Directory {
                    path: path.clone(),
                    mode: stat.st_mode & 0o777,
                });
                let below = open_strictly(directory.as_fd(), name, DIRECTORY)?;
                let (names, more) = names_in(&below)?;
                if more {
                    return Ok(false);
                }
                for name in names {
                    let shown = showable(&name);
                    // A name that could not be written down again.
                    self.too_large |= shown.as_bytes() != name.to_bytes();
                    let path = match path.as_str() {
                        "" => shown,
                        above => format!("{above}/{shown}"),
                    };
                    if !self.all(&below, &name, path, levels - 1)? {
                        return Ok(false);
                    }
                }
            }
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => return Ok(false),
        }
        Ok(true)
    }
}
