//! One generation to the next.
//!
//! ```text
//! check digest and contents ─► check that the workspace is as the layer found it
//!   ─► history/ID: what will be replaced         rubbish until the last step
//!   ─► generations/M+1: links to every file of M, then the changes
//!   ─► everything durable
//!   ─► rename `current`                          before: as if nothing was done; after: done
//!   ─► the pending layer, and old generations that nobody sees, are removed
//! ```

use std::{collections::BTreeSet, io};

use paw_launch::{
    request::SandboxId,
    workspace::{Bounds, Committed},
};
use paw_policy::Digest;
use rustix::fs::FileType;

use crate::{
    Fault,
    beneath::{Dir, own, write_own},
    collect::numbered,
    entry::{self, Change, Entry, dir_mode},
    place::{Place, brief},
    store::{Commit, Generation, Layer, Log, Store, count, json},
};

/// How many conflicts are named.
const MAX_NAMED: usize = 20;

/// Makes a pending layer part of the workspace. With a digest, only if it is the one that was shown.
///
/// # Errors
/// When it is not what was shown, the workspace has changed where the layer does, or a bound would be passed; then nothing is
/// changed, and the layer stays pending.
pub fn commit(
    store: &Store,
    layer: &SandboxId,
    shown: Option<Digest>,
    bounds: &Bounds,
    now_ms: u64,
) -> Result<Committed, Fault> {
    let (layer, new) = store.pending(layer)?;
    if shown.is_some_and(|shown| shown != entry::digest(&layer.changes)) {
        return Err(Fault::Changed);
    }
    check_contents(&layer, &new)?;
    let current = store.current()?;
    let conflicts = conflicts(&current.files, &layer.changes)?;
    if !conflicts.is_empty() {
        return Err(Fault::Conflict(conflicts));
    }

    let history = store.history_dir()?;
    history.remove_all(&own(layer.layer.as_str()))?;
    let kept = keep(&history, &current, &layer)?;

    let mut next = Next::begin(store, &current, bounds)?;
    next.apply(&layer.changes, &new)?;
    let mut log = current.log.clone();
    log.commits.push(Commit {
        layer: layer.layer.clone(),
        owner: layer.owner,
        at_ms: now_ms,
        changes: count(layer.changes.len()),
        bytes: layer.bytes,
        kept,
    });
    trim(&mut log.commits, bounds);
    let log = next.publish(log)?;
    store.forget(&layer.layer)?;
    Ok(Committed {
        layer: layer.layer,
        changes: count(layer.changes.len()),
        files: log.files,
        bytes: log.bytes,
    })
}

/// The contents of a layer are those that its list names.
fn check_contents(layer: &Layer, new: &Dir) -> Result<(), Fault> {
    for (number, change) in layer.changes.iter().enumerate() {
        if matches!(change.new, Some(Entry::File { .. }))
            && Entry::at(new, &numbered(number))? != change.new
        {
            return Err(Fault::Content(change.place.to_string()));
        }
    }
    Ok(())
}

/// Places where the workspace is not what the changes expect, as text, at most [`MAX_NAMED`].
///
/// # Errors
/// When the workspace cannot be read.
pub fn conflicts(files: &Dir, changes: &[Change]) -> Result<Vec<String>, Fault> {
    let mut conflicts = Vec::new();
    let comes: BTreeSet<&Place> = changes
        .iter()
        .filter(|change| change.new.as_ref().is_some_and(Entry::is_dir))
        .map(|change| &change.place)
        .collect();
    // What is new needs its directory to be there still, or to come with it.
    let homeless = |place: &Place| match place.split().0 {
        Some(dir) if !comes.contains(&dir) => {
            let found = files.look(&dir)?;
            Ok(!found.is_some_and(|found| found.kind == FileType::Directory))
        }
        _ => Ok::<bool, Fault>(false),
    };
    for change in changes {
        if Entry::at(files, &change.place)? != change.old
            || (change.old.is_none() && homeless(&change.place)?)
        {
            if conflicts.len() == MAX_NAMED {
                conflicts.push("…".to_owned());
                break;
            }
            conflicts.push(brief(&change.place.to_string()));
        }
    }
    Ok(conflicts)
}

/// Keeps what a commit replaces, by second names. Gives how many bytes that are.
fn keep(history: &Dir, current: &Generation, layer: &Layer) -> Result<u64, Fault> {
    let dir = history.make_dir(&own(layer.layer.as_str()), 0o700)?;
    let old = dir.make_dir(&own("old"), 0o700)?;
    let mut bytes = 0;
    for (number, change) in layer.changes.iter().enumerate() {
        if let Some(Entry::File { size, .. }) = change.old {
            old.link_from(&current.files, &change.place, &numbered(number))?;
            bytes += size;
        }
    }
    write_own(
        &dir,
        &own("changes.json"),
        &json(&layer.changes, "changes.json")?,
    )?;
    old.sync()?;
    dir.sync()?;
    history.sync()?;
    Ok(bytes)
}

/// Forgets the oldest commits until the rest is within its bounds.
fn trim(commits: &mut Vec<Commit>, bounds: &Bounds) {
    let over = |commits: &[Commit]| {
        commits.len() > usize::try_from(bounds.undo).unwrap_or(usize::MAX)
            || commits.iter().map(|commit| commit.kept).sum::<u64>() > bounds.undo_bytes
    };
    while !commits.is_empty() && over(commits) {
        commits.remove(0);
    }
}

/// The next generation in the making. Until it is published it is rubbish, and the next order removes it.
pub(crate) struct Next<'a> {
    store: &'a Store,
    bounds: &'a Bounds,
    number: u64,
    dir: Dir,
    pub(crate) files: Dir,
    /// Every directory of it, to be made durable.
    directories: Vec<Place>,
}

impl<'a> Next<'a> {
    /// A generation with the same files as this one.
    pub(crate) fn begin(
        store: &'a Store,
        current: &Generation,
        bounds: &'a Bounds,
    ) -> Result<Self, Fault> {
        let number = current.number + 1;
        let generations = store.root.dir(&own("generations"))?;
        let place = own(&number.to_string());
        generations.remove_all(&place)?;
        let dir = generations.make_dir(&place, 0o700)?;
        let files = dir.make_dir(&own("files"), 0o700)?;
        let mut next = Self {
            store,
            bounds,
            number,
            dir,
            files,
            directories: Vec::new(),
        };
        let files = next
            .store
            .root
            .dir(&own(&format!("generations/{number}/files")))?;
        next.link_all(None, &current.files, &files)?;
        Ok(next)
    }

    fn link_all(&mut self, at: Option<&Place>, from: &Dir, to: &Dir) -> Result<(), Fault> {
        let most = usize::try_from(self.bounds.files).unwrap_or(usize::MAX);
        for (name, kind) in from.names(most)? {
            let here = Place::new(&name)?;
            match kind {
                FileType::Directory => {
                    let place = Place::below(at, &name)?;
                    let mode = from.look(&here)?.map_or(0o700, |found| found.mode);
                    let below = to.make_dir(&here, dir_mode(mode))?;
                    self.link_all(Some(&place), &from.dir(&here)?, &below)?;
                    self.directories.push(place);
                }
                FileType::RegularFile | FileType::Symlink => to.link_from(from, &here, &here)?,
                // A workspace from before there were generations may have others; they stay behind with its last one.
                _ => {}
            }
        }
        Ok(())
    }

    /// Applies changes that were seen not to conflict. `contents` has the new files by their numbers.
    pub(crate) fn apply(&mut self, changes: &[Change], contents: &Dir) -> Result<(), Fault> {
        // What goes, the deepest first.
        for change in changes.iter().rev() {
            let Some(old) = &change.old else { continue };
            let stays = old.is_dir() && change.new.as_ref().is_some_and(Entry::is_dir);
            if !stays {
                self.files
                    .remove(&change.place, old.is_dir())
                    .map_err(|fault| not_seen(fault, &change.place))?;
            }
        }
        // What comes, the highest first.
        for (number, change) in changes.iter().enumerate() {
            let place = &change.place;
            match &change.new {
                None => {}
                Some(Entry::Directory { mode }) => {
                    if change.old.as_ref().is_some_and(Entry::is_dir) {
                        self.files.dir(place)?.set_mode(*mode)?;
                    } else {
                        self.files.make_dir(place, *mode)?;
                        self.directories.push(place.clone());
                    }
                }
                Some(Entry::File { .. }) => {
                    self.files.link_from(contents, &numbered(number), place)?
                }
                Some(Entry::Link { target }) => self.files.make_link(place, &target.0)?,
            }
        }
        Ok(())
    }

    /// Counts it, makes it durable, and makes it the workspace.
    pub(crate) fn publish(self, mut log: Log) -> Result<Log, Fault> {
        let (files, bytes) = self.measure(&self.files)?;
        log.files = count(files);
        log.bytes = bytes;
        if bytes > self.bounds.bytes {
            return Err(Fault::TooMuch {
                what: "bytes in the workspace",
                most: self.bounds.bytes,
            });
        }
        write_own(&self.dir, &own("log.json"), &json(&log, "log.json")?)?;
        for place in &self.directories {
            // One that a change removed again needs nothing.
            if let Some(FileType::Directory) = self.files.look(place)?.map(|found| found.kind) {
                self.files.dir(place)?.sync()?;
            }
        }
        self.files.sync()?;
        self.dir.sync()?;
        self.store.root.dir(&own("generations"))?.sync()?;
        self.store.switch(self.number)?;
        Ok(log)
    }

    fn measure(&self, dir: &Dir) -> Result<(usize, u64), Fault> {
        let most = usize::try_from(self.bounds.files).unwrap_or(usize::MAX);
        let (mut files, mut bytes) = (0, 0);
        for (name, kind) in dir.names(most)? {
            let here = Place::new(&name)?;
            files += 1;
            if kind == FileType::Directory {
                let (more, of_them) = self.measure(&dir.dir(&here)?)?;
                files += more;
                bytes += of_them;
            } else if let Some(found) = dir.look(&here)? {
                bytes += found.size;
            }
            if files > most {
                return Err(Fault::TooMuch {
                    what: "files, directories and links in the workspace",
                    most: self.bounds.files.into(),
                });
            }
        }
        Ok((files, bytes))
    }
}

/// A directory that is to go and has something in it has something that the run did not see.
fn not_seen(fault: Fault, place: &Place) -> Fault {
    match fault {
        Fault::Files { source, .. } if source.kind() == io::ErrorKind::DirectoryNotEmpty => {
            Fault::Conflict(vec![format!("{place}/…")])
        }
        other => other,
    }
}
