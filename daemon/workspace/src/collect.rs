//! From what a run left to a pending layer: the difference to the generation that it began with.
//!
//! What is left is hostile. It is read once, through descriptors, with every amount bounded, while nobody can change it any more;
//! and what comes out is made of files, directories and links only, with contents of our own inodes. A device, a socket, a pipe
//! is left out and named. A second name of a file is a file. Set-uid bits do not come along. Holes are written out, and count.

use std::collections::BTreeSet;

use paw_launch::{
    request::SandboxId,
    workspace::{Bounds, LeftOut},
};
use rustix::fs::FileType;

use crate::{
    Fault,
    beneath::{Dir, own},
    entry::{self, Change, Entry, Target, dir_mode, file_mode},
    place::{Place, brief, shown},
    store::{Generation, Layer, Store, write_layer},
};

/// How many of the things that are left out are named.
const MAX_NAMED: usize = 16;

/// What is known of a layer beside its files.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The sandbox that wrote it.
    pub layer: SandboxId,
    /// The host uid of whom it is.
    pub owner: Option<u32>,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
    /// Whether what it left is the upper directory of an overlay, or a whole copy.
    pub overlay: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Collected {
    /// The layer; it is pending, unless it changes nothing.
    pub layer: Layer,
    /// Older pending layers that had to make room.
    pub dropped: Vec<SandboxId>,
}

/// Keeps what a run left as a pending layer, if it is a change at all.
///
/// # Errors
/// When it is beyond a bound or cannot be read; then nothing is kept.
pub fn collect(
    store: &Store,
    left: &Dir,
    from: &Generation,
    origin: &Origin,
    bounds: &Bounds,
) -> Result<Collected, Fault> {
    let pending = store.pending_dir()?;
    let part = own(&format!(".{}", origin.layer));
    pending.remove_all(&part)?;
    let dir = pending.make_dir(&part, 0o700)?;
    let done = fill(&dir, left, from, origin, bounds).and_then(|layer| {
        let mut dropped = Vec::new();
        if !layer.changes.is_empty() {
            dropped = store.make_room(layer.bytes, bounds, origin.now_ms)?;
            dir.sync()?;
            pending.rename(&part, &own(origin.layer.as_str()))?;
            pending.sync()?;
        }
        Ok(Collected { layer, dropped })
    });
    match done {
        Ok(collected) if !collected.layer.changes.is_empty() => Ok(collected),
        other => {
            pending.remove_all(&part)?;
            other
        }
    }
}

fn fill(
    dir: &Dir,
    left: &Dir,
    from: &Generation,
    origin: &Origin,
    bounds: &Bounds,
) -> Result<Layer, Fault> {
    let new = dir.make_dir(&own("new"), 0o700)?;
    let mut comparison = Comparison {
        base: &from.files,
        new: &new,
        overlay: origin.overlay,
        bounds,
        bytes: 0,
        changes: Vec::new(),
        left_out: BTreeSet::new(),
        unnamed: 0,
    };
    comparison.directory(None, left, true, !origin.overlay)?;
    let Comparison {
        bytes,
        mut changes,
        left_out,
        unnamed,
        ..
    } = comparison;
    changes.sort_by(|(one, _), (other, _)| one.place.cmp(&other.place));
    // Contents were written in the order in which they were found; now they get the numbers of their changes.
    for (number, (_, written)) in changes.iter().enumerate() {
        if let Some(written) = written {
            new.rename(&found(*written), &numbered(number))?;
        }
    }
    new.sync()?;
    let mut left_out: Vec<LeftOut> = left_out.into_iter().collect();
    if unnamed > 0 {
        left_out.push(LeftOut {
            path: "…".to_owned(),
            why: format!("and {unnamed} more"),
        });
    }
    let layer = Layer {
        layer: origin.layer.clone(),
        owner: origin.owner,
        at_ms: origin.now_ms,
        bytes,
        changes: changes.into_iter().map(|(change, _)| change).collect(),
        left_out,
    };
    write_layer(dir, &layer)?;
    Ok(layer)
}

/// The content of a change.
pub(crate) fn numbered(number: usize) -> Place {
    own(&number.to_string())
}

fn found(number: usize) -> Place {
    own(&format!("f{number}"))
}

struct Comparison<'a> {
    base: &'a Dir,
    new: &'a Dir,
    overlay: bool,
    bounds: &'a Bounds,
    bytes: u64,
    /// Each with the number under which its content was written.
    changes: Vec<(Change, Option<usize>)>,
    left_out: BTreeSet<LeftOut>,
    unnamed: usize,
}

impl Comparison<'_> {
    fn most(&self) -> usize {
        usize::try_from(self.bounds.files).unwrap_or(usize::MAX)
    }

    /// Compares a directory. `in_base`: the base has a directory here. `whole`: what is not in it is not there any more.
    fn directory(
        &mut self,
        at: Option<&Place>,
        left: &Dir,
        in_base: bool,
        whole: bool,
    ) -> Result<(), Fault> {
        let names = left.names(self.most())?;
        if in_base && whole {
            let base = match at {
                None => self.base.names(self.most())?,
                Some(at) => self.base.dir(at)?.names(self.most())?,
            };
            for (name, kind) in base {
                if crate::store::is_kept(kind)
                    && names
                        .binary_search_by(|(other, _)| other.cmp(&name))
                        .is_err()
                {
                    self.gone(&Place::below(at, &name)?)?;
                }
            }
        }
        for (name, _) in names {
            let here = Place::new(&name)?;
            match Place::below(at, &name) {
                Ok(place) => self.one(&place, &here, left, (in_base, whole))?,
                Err(bad) => {
                    let dir = at.map(|at| format!("{at}/")).unwrap_or_default();
                    self.leave_out(format!("{dir}{}", shown(&name)), bad.to_string());
                }
            }
        }
        Ok(())
    }

    /// Compares what a run left at a place; `here` is its name in the directory `left`.
    fn one(
        &mut self,
        place: &Place,
        here: &Place,
        left: &Dir,
        (in_base, whole): (bool, bool),
    ) -> Result<(), Fault> {
        let Some(found) = left.look(here)? else {
            return Ok(());
        };
        let old = if in_base {
            Entry::at(self.base, place)?
        } else {
            None
        };
        let was_dir = old.as_ref().is_some_and(Entry::is_dir);
        match found.kind {
            FileType::CharacterDevice if self.overlay && found.device == 0 => {
                if old.is_some() {
                    self.gone(place)?;
                }
            }
            FileType::Directory => {
                let new = Entry::Directory {
                    mode: dir_mode(found.mode),
                };
                self.changed(place, old, new, None)?;
                let dir = left.dir(here)?;
                let opaque = dir.attribute("user.overlay.opaque").as_deref() == Some(b"y");
                self.directory(Some(place), &dir, was_dir, whole || opaque)?;
            }
            FileType::RegularFile => {
                let written = self.changes.len();
                let rest = self.bounds.bytes.saturating_sub(self.bytes);
                if found.size > rest {
                    return Err(Fault::TooMuch {
                        what: "bytes in one layer, with holes and second names of files written out",
                        most: self.bounds.bytes,
                    });
                }
                let mode = file_mode(found.mode);
                let mut from = left.file(here)?;
                let mut to = self.new.create(&self::found(written), mode)?;
                let (size, digest) = entry::copy(&mut from, Some(&mut to), rest, place)?;
                let new = Entry::File { mode, size, digest };
                if old.as_ref() == Some(&new) {
                    return self.new.remove(&self::found(written), false);
                }
                to.sync_all().map_err(|source| Fault::Files {
                    step: "make durable",
                    path: place.to_string(),
                    source,
                })?;
                self.bytes += size;
                if was_dir {
                    self.gone_below(place)?;
                }
                self.changed(place, old, new, Some(written))?;
            }
            FileType::Symlink => {
                let new = Entry::Link {
                    target: Target(left.target(here)?),
                };
                if was_dir {
                    self.gone_below(place)?;
                }
                self.changed(place, old, new, None)?;
            }
            other => self.leave_out(place.to_string(), what(other).to_owned()),
        }
        Ok(())
    }

    fn changed(
        &mut self,
        place: &Place,
        old: Option<Entry>,
        new: Entry,
        written: Option<usize>,
    ) -> Result<(), Fault> {
        if old.as_ref() == Some(&new) {
            return Ok(());
        }
        self.push(place, old, Some(new), written)
    }

    /// Everything of the base at this place is gone.
    fn gone(&mut self, place: &Place) -> Result<(), Fault> {
        let Some(old) = Entry::at(self.base, place)? else {
            return Ok(());
        };
        if old.is_dir() {
            self.gone_below(place)?;
        }
        self.push(place, Some(old), None, None)
    }

    fn gone_below(&mut self, place: &Place) -> Result<(), Fault> {
        for (name, kind) in self.base.dir(place)?.names(self.most())? {
            if crate::store::is_kept(kind) {
                self.gone(&Place::below(Some(place), &name)?)?;
            }
        }
        Ok(())
    }

    fn push(
        &mut self,
        place: &Place,
        old: Option<Entry>,
        new: Option<Entry>,
        written: Option<usize>,
    ) -> Result<(), Fault> {
        if self.changes.len() >= self.most() {
            return Err(Fault::TooMuch {
                what: "changes in one layer",
                most: self.bounds.files.into(),
            });
        }
        let change = Change {
            place: place.clone(),
            old,
            new,
        };
        self.changes.push((change, written));
        Ok(())
    }

    fn leave_out(&mut self, path: String, why: String) {
        if self.left_out.len() < MAX_NAMED {
            let path = brief(&path);
            self.left_out.insert(LeftOut { path, why });
        } else {
            self.unnamed += 1;
        }
    }
}

fn what(kind: FileType) -> &'static str {
    match kind {
        FileType::Socket => "a socket is not kept",
        FileType::Fifo => "a named pipe is not kept",
        FileType::BlockDevice | FileType::CharacterDevice => "a device is not kept",
        _ => "it is neither a file, nor a directory, nor a link",
    }
}
