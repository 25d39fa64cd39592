//! What must outlive pawd of one sandbox: whose it is, its commands, how far each was heard, and the last of what it said.
//!
//! It is a file and no table of the store, because it has to survive exactly what its sandbox survives. Nothing of that
//! sandbox is left after a crash of the host, so nothing here has to be on the disk: a page that was written is there for the
//! next pawd however this one ends, without an fsync in the way of every command and of every piece of output. And in one file
//! there is one order: what was heard stands before the end that came after it.
//!
//! ```text
//!  ID.0   head ─ command ─ said ─ said ─ … full ┐
//!  ID.1   head ◄────────────────────────────────┘ said ─ exited ─ over      then ID.0 from its beginning again, and so on
//! ```
//!
//! A head says everything that was said so far but the output itself, so each file stands for itself; the other one has the
//! output before it. A record that a death tore is at the end, and was not acknowledged: it is cut off and will come again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use paw_launch::{
    frame::Exited,
    request::{Attestation, SandboxId, SandboxPlan},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{RunEnd, register::Stream};

/// The format. A file of another one is not understood, and its sandbox is ended.
const VERSION: u32 = 1;

/// With so much output in it a file is full. Both together hold at least this much of the last.
const FULL: usize = super::register::MAX_LOG;

/// No file becomes longer: a head, what makes it full, and the last piece, which is at most a window.
const MAX_FILE: u64 = 4 * FULL as u64;

/// Bytes before the payload of a record: kind, number of a command, length.
const HEADER: usize = 9;

/// Kinds of records. They are part of the format: numbers are added, never changed.
mod kind {
    pub(super) const HEAD: u8 = 1;
    pub(super) const COMMAND: u8 = 2;
    pub(super) const STDOUT: u8 = 3;
    pub(super) const STDERR: u8 = 4;
    pub(super) const EXITED: u8 = 5;
    pub(super) const OVER: u8 = 6;
}

/// What a sandbox is and whose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The action that it was made for.
    pub action: Uuid,
    /// Host uid of who asked for it.
    pub owner: u32,
    /// What was asked of the launcher.
    pub plan: SandboxPlan,
    /// What the kernel said it is.
    pub attestation: Box<Attestation>,
}

/// A command in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Its number inside.
    pub number: u32,
    /// The action that it is.
    pub action: Uuid,
    /// Whether it was to be given input.
    pub stdin: bool,
    /// The most bytes of output that are passed on.
    pub most_output: u64,
    /// Whether its output is kept; of others only the end is.
    pub kept: bool,
    /// Bytes of stdout that are kept, or were before newer ones took their place.
    pub stdout: u64,
    /// Bytes of stderr, likewise.
    pub stderr: u64,
    /// How it ended.
    pub exit: Option<Exit>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code or signal.
    pub exited: Exited,
    /// Whether some of its output was thrown away.
    pub truncated: bool,
}

/// The sandbox is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Over {
    /// How it ended, if that is known.
    pub end: Option<RunEnd>,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Everything but the output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    version: u32,
    /// Counts the files; the newest has the highest.
    turn: u64,
    /// What it is.
    pub about: About,
    /// Its commands: first the one that it was made for, then those whose action may still be open.
    pub commands: Vec<Command>,
    /// That it is gone.
    pub over: Option<Over>,
}

/// The files of one sandbox, open for more.
#[derive(Debug)]
pub struct Keep {
    dir: PathBuf,
    id: SandboxId,
    saved: Saved,
    file: File,
    /// Bytes of output in the newest file.
    filled: usize,
}

/// What the files of a sandbox say.
#[derive(Debug)]
pub struct Loaded {
    /// To go on with them.
    pub keep: Keep,
    /// What it said last, in order.
    pub said: Vec<(Stream, Bytes)>,
}

impl Keep {
    /// Begins the files of a new sandbox.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn create(dir: &Path, id: &SandboxId, about: About) -> io::Result<Self> {
        let saved = Saved {
            version: VERSION,
            turn: 0,
            about,
            commands: Vec::new(),
            over: None,
        };
        let file = begin(dir, id, &saved)?;
        Ok(Self {
            dir: dir.to_owned(),
            id: id.clone(),
            saved,
            file,
            filled: 0,
        })
    }

    /// Reads what an earlier pawd wrote, and cuts off what it was writing when it died.
    ///
    /// # Errors
    /// When there is nothing that can be understood.
    pub fn load(dir: &Path, id: &SandboxId) -> io::Result<Loaded> {
        let mut found: Vec<Parsed> = (0..2)
            .filter_map(|turn| Parsed::read(&path(dir, id, turn)))
            .collect();
        found.sort_by_key(|parsed| parsed.saved.turn);
        let Some(newest) = found.pop() else {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        };
        let mut said = Vec::new();
        if let Some(before) = found
            .pop()
            .filter(|p| p.saved.turn + 1 == newest.saved.turn)
        {
            said = before.said;
        }
        let filled = newest.said.iter().map(|(_, bytes)| bytes.len()).sum();
        said.extend(newest.said);
        let file = OpenOptions::new()
            .append(true)
            .open(path(dir, id, newest.saved.turn))?;
        file.set_len(newest.whole)?;
        let keep = Self {
            dir: dir.to_owned(),
            id: id.clone(),
            saved: newest.saved,
            file,
            filled,
        };
        Ok(Loaded { keep, said })
    }

    /// Everything but the output.
    #[must_use]
    pub const fn saved(&self) -> &Saved {
        &self.saved
    }

    /// A command is about to be started.
    ///
    /// # Errors
    /// When it cannot be written; it must not be started then, or it would be nobody's.
    pub fn command(&mut self, command: Command) -> io::Result<()> {
        self.write(kind::COMMAND, command.number, &json(&command)?)?;
        // Of further commands that have ended, only those are of interest whose action may not be closed yet.
        let ended = self
            .saved
            .commands
            .iter()
            .skip(1)
            .filter(|c| c.exit.is_some());
        if ended.count() > MAX_ENDED_COMMANDS
            && let Some(oldest) = self
                .saved
                .commands
                .iter()
                .skip(1)
                .position(|c| c.exit.is_some())
        {
            self.saved.commands.remove(oldest + 1);
        }
        self.saved.commands.push(command);
        Ok(())
    }

    /// A command said something; afterwards it may be acknowledged.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn said(&mut self, number: u32, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        if self.filled >= FULL {
            self.turn()?;
        }
        let kind = match stream {
            Stream::Stdout => kind::STDOUT,
            Stream::Stderr => kind::STDERR,
        };
        self.write(kind, number, bytes)?;
        self.filled += bytes.len();
        self.saved.heard(number, stream, bytes.len());
        Ok(())
    }

    /// A command has ended; afterwards it may be forgotten inside.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn exited(&mut self, number: u32, exit: Exit) -> io::Result<()> {
        self.write(kind::EXITED, number, &json(&exit)?)?;
        self.saved.exited(number, exit);
        Ok(())
    }

    /// The sandbox is gone.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn over(&mut self, over: Over) -> io::Result<()> {
        self.write(kind::OVER, 0, &json(&over)?)?;
        self.saved.over = Some(over);
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        let mut saved = self.saved.clone();
        saved.turn += 1;
        self.file = begin(&self.dir, &self.id, &saved)?;
        self.saved = saved;
        self.filled = 0;
        Ok(())
    }

    fn write(&mut self, kind: u8, number: u32, payload: &[u8]) -> io::Result<()> {
        self.file.write_all(&record(kind, number, payload)?)
    }
}

/// Further commands that have ended and are still known by a sandbox.
const MAX_ENDED_COMMANDS: usize = 64;

impl Saved {
    fn command(&mut self, number: u32) -> Option<&mut Command> {
        self.commands.iter_mut().find(|it| it.number == number)
    }

    fn heard(&mut self, number: u32, stream: Stream, length: usize) {
        if let Some(command) = self.command(number) {
            match stream {
                Stream::Stdout => command.stdout += length as u64,
                Stream::Stderr => command.stderr += length as u64,
            }
        }
    }

    fn exited(&mut self, number: u32, exit: Exit) {
        if let Some(command) = self.command(number) {
            command.exit = Some(exit);
        }
    }
}

/// Makes the directory in which the files are.
///
/// # Errors
/// When it cannot be made.
pub fn prepare(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// Of which sandboxes there are files.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(dir: &Path) -> io::Result<Vec<SandboxId>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let id = name.to_str().and_then(|name| name.split_once('.'));
        if let Some(Ok(id)) = id.map(|(id, _)| id.parse()) {
            ids.push(id);
        }
    }
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// Removes the files of a sandbox.
pub fn remove(dir: &Path, id: &SandboxId) {
    for turn in 0..2 {
        match fs::remove_file(path(dir, id, turn)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(paw_sandbox = %id, %error, "what a sandbox said cannot be removed");
            }
        }
    }
}

fn path(dir: &Path, id: &SandboxId, turn: u64) -> PathBuf {
    dir.join(format!("{id}.{}", turn % 2))
}

fn begin(dir: &Path, id: &SandboxId, saved: &Saved) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path(dir, id, saved.turn))?;
    file.write_all(&record(kind::HEAD, 0, &json(saved)?)?)?;
    Ok(file)
}

fn record(kind: u8, number: u32, payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut record = Vec::with_capacity(HEADER + payload.len());
    record.push(kind);
    record.extend_from_slice(&number.to_le_bytes());
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(payload);
    Ok(record)
}

fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::other)
}

/// One file.
struct Parsed {
    saved: Saved,
    said: Vec<(Stream, Bytes)>,
    /// Up to here its records are whole.
    whole: u64,
}

impl Parsed {
    /// What can be understood of it; nothing, when its head is not whole.
    fn read(path: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        let file = File::open(path).ok()?;
        file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
        let bytes = Bytes::from(bytes);
        let (head, mut at) = next(&bytes, 0)?;
        let saved: Saved = understood(&head, kind::HEAD)?;
        if saved.version != VERSION {
            return None;
        }
        let (mut saved, mut said) = (saved, Vec::new());
        while let Some((record, behind)) = next(&bytes, at) {
            match record.kind {
                kind::COMMAND => saved.commands.push(understood(&record, kind::COMMAND)?),
                kind::STDOUT | kind::STDERR => {
                    let stream = if record.kind == kind::STDOUT {
                        Stream::Stdout
                    } else {
                        Stream::Stderr
                    };
                    saved.heard(record.number, stream, record.payload.len());
                    said.push((stream, record.payload));
                }
                kind::EXITED => {
                    let exit = understood(&record, kind::EXITED)?;
                    saved.exited(record.number, exit);
                }
                kind::OVER => saved.over = Some(understood(&record, kind::OVER)?),
                _ => return None,
            }
            at = behind;
        }
        Some(Self {
            saved,
            said,
            whole: at as u64,
        })
    }
}

struct Record {
    kind: u8,
    number: u32,
    payload: Bytes,
}

fn next(bytes: &Bytes, at: usize) -> Option<(Record, usize)> {
    let header = bytes.get(at..)?.first_chunk::<HEADER>()?;
    let [kind, n0, n1, n2, n3, l0, l1, l2, l3] = *header;
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok()?;
    let from = at + HEADER;
    let behind = from.checked_add(length).filter(|end| *end <= bytes.len())?;
    let record = Record {
        kind,
        number: u32::from_le_bytes([n0, n1, n2, n3]),
        payload: bytes.slice(from..behind),
    };
    Some((record, behind))
}

fn understood<T: DeserializeOwned>(record: &Record, kind: u8) -> Option<T> {
    (record.kind == kind)
        .then(|| serde_json::from_slice(&record.payload).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use paw_launch::request::{End, Usage};

    use super::*;
    use crate::sandbox::outside::{attestation, plan};

    fn about() -> About {
        let plan = plan();
        About {
            action: Uuid::from_u128(7),
            owner: 1000,
            attestation: Box::new(attestation(&plan)),
            plan,
        }
    }

    fn command(number: u32) -> Command {
        Command {
            number,
            action: Uuid::from_u128(u128::from(number)),
            stdin: false,
            most_output: 1 << 30,
            kept: true,
            stdout: 0,
            stderr: 0,
            exit: None,
        }
    }

    const EXIT: Exit = Exit {
        exited: Exited {
            code: Some(3),
            signal: None,
        },
        truncated: true,
    };

    fn text(said: &[(Stream, Bytes)]) -> Vec<u8> {
        said.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect()
    }

    #[test]
    fn what_was_written_is_read_whatever_is_torn_off_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let about = about();
        let id = about.plan.id.clone();
        let mut keep = Keep::create(dir.path(), &id, about).unwrap();
        let mut lengths = vec![(keep.file.metadata().unwrap().len(), keep.saved.clone(), 0)];
        let mut note = |keep: &Keep, said: usize| {
            lengths.push((
                keep.file.metadata().unwrap().len(),
                keep.saved.clone(),
                said,
            ));
        };
        keep.command(command(1)).unwrap();
        note(&keep, 0);
        keep.said(1, Stream::Stdout, b"out").unwrap();
        note(&keep, 3);
        keep.said(1, Stream::Stderr, b"error").unwrap();
        note(&keep, 8);
        keep.exited(1, EXIT).unwrap();
        note(&keep, 8);
        let end = RunEnd {
            exit: Some(EXIT.exited),
            end: End {
                exit_code: Some(0),
                signal: None,
                oom_killed: false,
                timed_out: false,
                killed: false,
            },
            usage: Usage::default(),
            output_truncated: false,
        };
        keep.over(Over {
            end: Some(end),
            at_ms: 5,
        })
        .unwrap();
        note(&keep, 8);
        let whole = fs::read(path(dir.path(), &id, 0)).unwrap();
        let said = b"outerror";
        for length in 0..=whole.len() {
            fs::write(path(dir.path(), &id, 0), &whole[..length]).unwrap();
            let loaded = Keep::load(dir.path(), &id);
            let expected = lengths.iter().rev().find(|(end, ..)| *end <= length as u64);
            match (loaded, expected) {
                (Ok(loaded), Some((end, saved, heard))) => {
                    assert_eq!(loaded.keep.saved(), saved, "{length} bytes");
                    assert_eq!(text(&loaded.said), said[..*heard]);
                    assert_eq!(loaded.keep.file.metadata().unwrap().len(), *end);
                }
                (Err(_), None) => {}
                (loaded, _) => panic!("{length} bytes: {loaded:?}"),
            }
        }
    }

    #[test]
    fn files_stay_small_and_the_last_output_and_all_counts_stay() {
        let dir = tempfile::tempdir().unwrap();
        let about = about();
        let id = about.plan.id.clone();
        let mut keep = Keep::create(dir.path(), &id, about).unwrap();
        keep.command(command(1)).unwrap();
        let mut all = Vec::new();
        for number in 0..2_000_u32 {
            let piece = format!("{number:01000}");
            keep.said(1, Stream::Stdout, piece.as_bytes()).unwrap();
            all.extend(piece.into_bytes());
            let size = |turn| fs::metadata(path(dir.path(), &id, turn)).map_or(0, |it| it.len());
            assert!(size(0) + size(1) <= 2 * FULL as u64 + 64 * 1024);
        }
        drop(keep);
        let loaded = Keep::load(dir.path(), &id).unwrap();
        assert_eq!(loaded.keep.saved().commands[0].stdout, all.len() as u64);
        let kept = text(&loaded.said);
        assert!(kept.len() >= FULL && all.ends_with(&kept));
        assert_eq!(list(dir.path()).unwrap(), std::slice::from_ref(&id));
        remove(dir.path(), &id);
        assert_eq!(list(dir.path()).unwrap(), []);
    }

    #[test]
    fn a_head_that_was_torn_leaves_what_stood_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let about = about();
        let id = about.plan.id.clone();
        let mut keep = Keep::create(dir.path(), &id, about).unwrap();
        keep.command(command(1)).unwrap();
        keep.said(1, Stream::Stdout, &vec![b'x'; FULL]).unwrap();
        let before = keep.saved.clone();
        keep.said(1, Stream::Stdout, b"y").unwrap();
        let head = fs::read(path(dir.path(), &id, 1)).unwrap();
        fs::write(path(dir.path(), &id, 1), &head[..100]).unwrap();
        let loaded = Keep::load(dir.path(), &id).unwrap();
        assert_eq!(loaded.keep.saved(), &before);
        assert_eq!(loaded.said.len(), 1);
    }
}
