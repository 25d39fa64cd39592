//! Pages of a log: newest first for a list, oldest first for following it.
//!
//! A reader shows what stands in the files and checks nothing: whether it is what was written is for [`crate::verify`].

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use paw_api::audit::{Entry, Event};
use paw_policy::Kind;
use serde_json::{Value, value::RawValue};
use uuid::Uuid;

use crate::{
    format::{MAX_LOG_LINE, is_checkpoint, parse_record},
    index::{self, Wanted},
    segment::{self, Lines, Next},
};

/// The most records in one page.
pub const MAX_PAGE: usize = 1000;

/// So many bytes of records are in one page at most, so that it fits into an answer; a single record is always shorter.
pub const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// The most lines looked at for one page, so that a filter that the index does not help with, and that hits seldom, gives shorter pages
/// instead of long waits.
pub const MAX_SCAN: usize = 1_000_000;

const CHUNK: u64 = 256 * 1024;

/// Which records are wanted; an empty filter wants all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this action.
    pub action: Option<Uuid>,
    /// Of one of these events; of any where none is named.
    pub events: Vec<Event>,
    /// That says this about this: a name of the detail, and its value.
    pub detail: Option<(String, String)>,
    /// Not before this time, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// Not after this time, in milliseconds since the Unix epoch.
    pub until_ms: Option<u64>,
    /// Of what this user did.
    pub uid: Option<u32>,
    /// About this agent.
    pub agent: Option<String>,
    /// About actions of this kind.
    pub kind: Option<Kind>,
    /// Of what ended so.
    pub outcome: Option<String>,
}

/// One page of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// The records, exactly as they are stored.
    pub records: Vec<Value>,
    /// What to give as `before` for the next page; `None` when there is none.
    pub next: Option<u64>,
}

/// Records older than `before`, newest first, at most `limit` and never more than [`MAX_PAGE`] or longer than [`MAX_PAGE_BYTES`].
///
/// # Errors
/// When the files cannot be read.
pub fn list(dir: &Path, filter: &Filter, before: Option<u64>, limit: usize) -> io::Result<Listed> {
    let before = before.unwrap_or(u64::MAX);
    let limit = limit.min(MAX_PAGE);
    let mut listed = Listed {
        records: Vec::new(),
        next: None,
    };
    if limit == 0 {
        return Ok(listed);
    }
    let (mut looked, mut bytes) = (0, 0);
    let wanted = Wanted::of(filter);
    for number in segment::list(dir)?.into_iter().rev() {
        let path = segment::path(dir, number);
        if first_after(&path)?.is_some_and(|last| last.saturating_add(1) >= before) {
            continue;
        }
        let file = segment::open(&path)?;
        let length = file.metadata()?.len();
        for (from, to) in places(dir, number, length, before, &wanted) {
            let mut lines = Backwards::between(&file, from, to)?;
            while let Some(line) = lines.next()? {
                let Some(seq) = wanted_seq(&line, filter) else {
                    continue;
                };
                looked += 1;
                if seq.number < before {
                    if seq.wanted
                        && let Ok(value) = serde_json::from_slice(&line)
                    {
                        bytes += line.len();
                        if bytes > MAX_PAGE_BYTES {
                            listed.next = Some(seq.number.saturating_add(1));
                            return Ok(listed);
                        }
                        listed.records.push(value);
                    }
                    if (listed.records.len() >= limit || looked >= MAX_SCAN) && seq.number > 1 {
                        listed.next = Some(seq.number);
                        return Ok(listed);
                    }
                }
            }
        }
    }
    Ok(listed)
}

/// Where in a segment what is wanted may be, the last place first: blocks that may have it, and whatever is in no block.
fn places(dir: &Path, number: u32, length: u64, before: u64, wanted: &Wanted) -> Vec<(u64, u64)> {
    let mut places = Vec::new();
    let mut add = |from, to| match places.last_mut() {
        Some((_, end)) if *end == from => *end = to,
        _ => places.push((from, to)),
    };
    let mut end = 0;
    for block in index::blocks(dir, number, length) {
        if block.from > end {
            add(end, block.from);
        }
        if block.first < before && block.may_have(wanted) {
            add(block.from, block.to);
        }
        end = block.to;
    }
    add(end, length);
    places.reverse();
    places
}

/// Every record from number `from` on, oldest first, as it is stored and without its line end. What is removed by its time meanwhile is
/// left out; half a line at the end is none yet.
///
/// # Errors
/// When the files cannot be read, or what `take` says.
pub fn each(
    dir: &Path,
    from: u64,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let numbers = segment::list(dir)?;
    // The last segment that begins with nothing newer, or the first one.
    let mut start = 0;
    for (index, number) in numbers.iter().enumerate() {
        match first_after(&segment::path(dir, *number)) {
            Ok(last) if last.is_some_and(|last| last < from) => start = index,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    for number in numbers.into_iter().skip(start) {
        let mut lines = match Lines::open(&segment::path(dir, number)) {
            Ok(lines) => lines,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        while let Next::Line(line) = lines.next()? {
            if !is_checkpoint(line) && parse_record(line).is_ok_and(|record| record.seq >= from) {
                take(line)?;
            }
        }
    }
    Ok(())
}

/// Records newer than `after`, oldest first, at most `limit` and never more than [`MAX_PAGE`]: what `tail -f` shows next.
///
/// # Errors
/// When the files cannot be read.
pub fn tail(dir: &Path, after: u64, limit: usize) -> io::Result<Vec<Value>> {
    let limit = limit.min(MAX_PAGE);
    let numbers = segment::list(dir)?;
    let mut start = 0;
    for (index, number) in numbers.iter().enumerate() {
        if first_after(&segment::path(dir, *number))?.is_some_and(|last| last <= after) {
            start = index;
        }
    }
    let mut records = Vec::new();
    for number in numbers.into_iter().skip(start) {
        let mut lines = Lines::open(&segment::path(dir, number))?;
        while let Next::Line(line) = lines.next()? {
            if records.len() >= limit {
                return Ok(records);
            }
            if is_checkpoint(line) || parse_record(line).map_or(true, |record| record.seq <= after)
            {
                continue;
            }
            records.extend(serde_json::from_slice(line));
        }
    }
    Ok(records)
}

/// Number of the last record before a segment, as its first line says.
fn first_after(path: &Path) -> io::Result<Option<u64>> {
    Ok(segment::first_checkpoint(path)?.map(|checkpoint| checkpoint.seq))
}

struct Looked {
    number: u64,
    wanted: bool,
}

/// The number of a record and whether the filter wants it; `None` for what is no record.
fn wanted_seq(line: &[u8], filter: &Filter) -> Option<Looked> {
    if is_checkpoint(line) {
        return None;
    }
    let record = parse_record(line).ok()?;
    let everything = *filter == Filter::default();
    Some(Looked {
        number: record.seq,
        wanted: everything
            || (filter.since_ms.is_none_or(|since| record.utc_ms >= since)
                && filter.until_ms.is_none_or(|until| record.utc_ms <= until)
                && wants(record.entry, filter)),
    })
}

fn wants(entry: &RawValue, filter: &Filter) -> bool {
    // An entry of a newer version that cannot be read is not known to be wanted.
    serde_json::from_str::<Entry>(entry.get()).is_ok_and(|entry| {
        filter
            .action
            .is_none_or(|action| entry.action == Some(action))
            && (filter.events.is_empty() || filter.events.contains(&entry.event))
            && filter
                .uid
                .is_none_or(|uid| entry.actor.is_some_and(|actor| actor.uid == uid))
            && filter.kind.is_none_or(|kind| entry.kind == Some(kind))
            && (filter.outcome.is_none() || entry.outcome == filter.outcome)
            && filter
                .agent
                .as_ref()
                .is_none_or(|agent| entry.detail.get("agent") == Some(agent))
            && filter.detail.as_ref().is_none_or(|(name, value)| {
                entry.detail.get(name).is_some_and(|said| said == value)
            })
    })
}

/// The lines of a part of a file from its end to its beginning.
struct Backwards<'a> {
    file: &'a File,
    /// Where the part begins.
    floor: u64,
    /// Where the bytes of `rest` begin in the file.
    start: u64,
    rest: Vec<u8>,
}

impl<'a> Backwards<'a> {
    fn between(file: &'a File, floor: u64, end: u64) -> io::Result<Self> {
        let mut lines = Self {
            file,
            floor,
            start: end,
            rest: Vec::new(),
        };
        // Whatever is behind the last line end is not a line yet.
        lines.next()?;
        Ok(lines)
    }

    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') {
                let line = self.rest.split_off(end + 1);
                self.rest.pop();
                return Ok(Some(line));
            }
            if self.start == self.floor {
                return Ok((!self.rest.is_empty()).then(|| std::mem::take(&mut self.rest)));
            }
            if self.rest.len() > MAX_LOG_LINE {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line is longer than a log can have",
                ));
            }
            let count = (self.start - self.floor).min(CHUNK);
            let mut chunk = vec![0; count as usize];
            self.file.read_exact_at(&mut chunk, self.start - count)?;
            chunk.append(&mut self.rest);
            (self.rest, self.start) = (chunk, self.start - count);
        }
    }
}
