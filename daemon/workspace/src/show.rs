//! A layer for people: what changes, and how texts differ. Every amount is bounded, and whatever is shown is safe on a terminal.

use std::{io::Read as _, time::Duration};

use paw_launch::{
    request::SandboxId,
    workspace::{self, Diff, MAX_ANSWER},
};
use similar::TextDiff;

use crate::{
    Fault,
    beneath::Dir,
    collect::numbered,
    commit::conflicts,
    entry::{self, Change, Entry},
    place::{Place, is_plain},
    store::{Layer, Store, count},
};

/// The largest file whose text is compared, in bytes.
const MAX_TEXT: u64 = 256 * 1024;

/// The most bytes of one text difference, as JSON writes it; the rest of it is cut, and that is said.
const MAX_SHOWN: usize = 24 * 1024;

/// How much of an answer the changes of a page may fill; the rest is for what is left out, and for conflicts.
const PAGE: usize = MAX_ANSWER - 16 * 1024;

/// How long one comparison may take before it is made coarser.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a pending layer changes, from the change with this number on.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn diff(store: &Store, layer: &SandboxId, from: u32) -> Result<Diff, Fault> {
    let (layer, new) = store.pending(layer)?;
    let current = store.current()?;
    let conflicts = conflicts(&current.files, &layer.changes)?;
    let Layer {
        layer,
        owner,
        at_ms,
        changes,
        left_out,
        ..
    } = layer;
    let mut page = Vec::new();
    let mut size = 0;
    let mut next = None;
    let first = usize::try_from(from).unwrap_or(usize::MAX);
    for (number, change) in changes.iter().enumerate().skip(first) {
        let shown = show(change, &current.files, &new, number)?;
        size += cost(&shown);
        if size > PAGE && !page.is_empty() {
            next = Some(count(number));
            break;
        }
        page.push(shown);
    }
    Ok(Diff {
        layer,
        owner,
        at_ms,
        digest: entry::digest(&changes),
        total: count(changes.len()),
        changes: page,
        next,
        left_out: if from == 0 { left_out } else { Vec::new() },
        conflicts,
    })
}

/// Bytes of it as JSON.
fn cost(change: &workspace::Change) -> usize {
    serde_json::to_string(change).map_or(usize::MAX, |text| text.len() + 1)
}

fn show(
    change: &Change,
    files: &Dir,
    new: &Dir,
    number: usize,
) -> Result<workspace::Change, Fault> {
    let (text, note) = match (&change.old, &change.new) {
        (Some(Entry::File { digest: old, .. }), Some(Entry::File { digest: new, .. }))
            if old == new =>
        {
            (None, None)
        }
        (old @ (None | Some(Entry::File { .. })), Some(Entry::File { .. })) => {
            let before = if old.is_some() {
                read(files, &change.place)?
            } else {
                Text::Is(String::new())
            };
            compare(before, read(new, &numbered(number))?)
        }
        (Some(Entry::File { .. }), None) => {
            compare(read(files, &change.place)?, Text::Is(String::new()))
        }
        _ => (None, None),
    };
    Ok(workspace::Change {
        path: change.place.to_string(),
        old: change.old.as_ref().map(Entry::thing),
        new: change.new.as_ref().map(Entry::thing),
        text,
        note,
    })
}

enum Text {
    Is(String),
    Not(&'static str),
}

fn read(dir: &Dir, place: &Place) -> Result<Text, Fault> {
    // In a conflict it may not be there any more.
    let Ok(file) = dir.file(place) else {
        return Ok(Text::Not("the workspace has something else there now"));
    };
    let mut bytes = Vec::new();
    file.take(MAX_TEXT + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Fault::Files {
            step: "read",
            path: place.to_string(),
            source,
        })?;
    if bytes.len() as u64 > MAX_TEXT {
        return Ok(Text::Not("too large to be compared as text"));
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(Text::Is(text)),
        _ => Ok(Text::Not("binary")),
    }
}

fn compare(old: Text, new: Text) -> (Option<String>, Option<String>) {
    let (old, new) = match (old, new) {
        (Text::Is(old), Text::Is(new)) => (old, new),
        (Text::Not(why), _) | (_, Text::Not(why)) => return (None, Some(why.to_owned())),
    };
    let compared = TextDiff::configure()
        .timeout(PATIENCE)
        .diff_lines(&old, &new);
    let whole = compared.unified_diff().context_radius(3).to_string();
    let (mut text, mut size) = (String::new(), 0);
    for line in whole.lines() {
        let line = line_shown(line);
        size += json_len(&line);
        if size > MAX_SHOWN {
            let note = "the difference is longer than what is shown";
            return (Some(text), Some(note.to_owned()));
        }
        text.push_str(&line);
        text.push('\n');
    }
    (Some(text), None)
}

fn json_len(line: &str) -> usize {
    serde_json::to_string(line).map_or(usize::MAX / 2, |text| text.len())
}

/// A line of a text, with everything in it escaped that would not show itself. Tabs are what they are.
fn line_shown(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    for character in line.chars() {
        if is_plain(character) || character == '\t' {
            shown.push(character);
        } else {
            shown.extend(character.escape_unicode());
        }
    }
    shown
}
