//! The files of a log: their names, and their lines one by one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use crate::format::{Checkpoint, MAX_LOG_LINE, parse_checkpoint};

/// The longest first line of a segment, in bytes: the 64 roots that a tree can have, and what is around them.
const MAX_FIRST: u64 = 8 * 1024;

/// Name of the newest checkpoint, beside the log and in the writer's own directory.
pub const WITNESS: &str = "audit.checkpoint";

/// Name of the file whose lock the writer holds.
pub const LOCK: &str = "audit.lock";

/// The path of a segment; the first has number 1.
#[must_use]
pub fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("audit.{number:06}.log"))
}

/// The numbers of the segments that are there, in order.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(dir: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| {
            name.strip_prefix("audit.")?
                .strip_suffix(".log")?
                .parse()
                .ok()
        });
        // Only the exact name counts, so that `audit.1.log` is not taken for a segment.
        if let Some(number) = number
            && path(dir, number).file_name() == Some(&name)
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens a file of a log, which somebody else may have put there: a plain file and nothing else.
///
/// # Errors
/// When it is a link, a pipe or anything else, or cannot be opened.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is no plain file"))
    }
}

/// Reads a file of a log that is never longer than this many bytes.
///
/// # Errors
/// When it is longer, or as [`open`].
pub(crate) fn read_small(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it is longer than {most} bytes")));
    }
    Ok(bytes)
}

/// What a segment's first line says, believed by nobody yet.
///
/// # Errors
/// When it cannot be read.
pub fn first_checkpoint(path: &Path) -> io::Result<Option<Checkpoint>> {
    let mut line = Vec::new();
    let mut from = BufReader::with_capacity(4096, open(path)?).take(MAX_FIRST);
    from.read_until(b'\n', &mut line)?;
    Ok(parse_checkpoint(line.trim_ascii_end()))
}

/// Whether a writer has this log open now.
#[must_use]
pub fn has_writer(dir: &Path) -> bool {
    File::open(dir.join(LOCK))
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
}

/// The lines of a segment, in order, one at a time.
pub(crate) struct Lines {
    from: BufReader<File>,
    line: Vec<u8>,
    /// Where the last line began.
    pub(crate) offset: u64,
    next: u64,
}

/// What came next.
pub(crate) enum Next<'a> {
    /// A line, without its end.
    Line(&'a [u8]),
    /// Bytes without an end: the file stops here, or the line is longer than any can be.
    Partial,
    /// Nothing.
    End,
}

impl Lines {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::open_at(path, 0)
    }

    /// Those from this place on, where one begins.
    pub(crate) fn open_at(path: &Path, place: u64) -> io::Result<Self> {
        let mut file = open(path)?;
        file.seek(SeekFrom::Start(place))?;
        Ok(Self {
            from: BufReader::with_capacity(256 * 1024, file),
            line: Vec::new(),
            offset: place,
            next: place,
        })
    }

    /// Where the next line begins.
    pub(crate) const fn next_offset(&self) -> u64 {
        self.next
    }

    pub(crate) fn next(&mut self) -> io::Result<Next<'_>> {
        self.line.clear();
        self.offset = self.next;
        let limit = MAX_LOG_LINE as u64 + 1;
        self.next += self
            .from
            .by_ref()
            .take(limit)
            .read_until(b'\n', &mut self.line)? as u64;
        Ok(match self.line.split_last() {
            None => Next::End,
            Some((b'\n', line)) => Next::Line(line),
            Some(_) => Next::Partial,
        })
    }
}
