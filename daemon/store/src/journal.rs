//! What was noted and is not in the tables' file yet: two files beside it that are filled in turn.
//!
//! A record is in the page cache when [`Journal::append`] returns, so it outlives this process, whatever kills it. It is on the disk once
//! the file is synced. Its place is used again once the tables' file has it, durably.
//!
//! ```text
//! file:    head record record …
//! head:    magic, id of the store, nonce, digest of the three
//! record:  length of its text, number, digest of nonce, number and text; text
//! ```
//!
//! Numbers go up by one, over both files and for ever. A reader takes those that follow what the tables have, and stops at the first that
//! is not there: what lies behind a hole was never promised to be on the disk. The nonce is new each time a file is begun and known to
//! nobody outside, so nothing that somebody had stored can pass for a record.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use paw_policy::Digest;
use uuid::Uuid;

use crate::file::{beside, sync_directory};

/// How long one of the files may become, in bytes.
const MOST: u64 = 8 * 1024 * 1024;

const MAGIC: &[u8; 8] = b"pawnote1";
const HEAD: usize = 8 + 16 + 16 + 32;
const RECORD: usize = 4 + 8 + 32;

/// The two files, open for writing.
#[derive(Debug)]
pub(crate) struct Journal {
    store: Uuid,
    halves: [Half; 2],
    current: usize,
}

#[derive(Debug)]
struct Half {
    file: Arc<File>,
    nonce: Uuid,
    /// How much of it counts; nothing of one that is to be begun anew.
    len: u64,
    /// Number of its newest record.
    last: u64,
    unsynced: bool,
}

impl Journal {
    /// Begins both files anew. What they held has to be in the tables' file, durably.
    pub(crate) fn begin(path: &Path, store: Uuid) -> io::Result<Self> {
        let open = |path: PathBuf| -> io::Result<Half> {
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            if file.metadata()?.len() > 0 {
                // Durably: what a crash left behind a hole must not follow what is noted from now on.
                file.set_len(0)?;
                file.sync_all()?;
            }
            Ok(Half {
                file: Arc::new(file),
                nonce: Uuid::nil(),
                len: 0,
                last: 0,
                unsynced: false,
            })
        };
        let [first, second] = names(path);
        let halves = [open(first)?, open(second)?];
        sync_directory(path).map_err(io::Error::other)?;
        Ok(Self {
            store,
            halves,
            current: 0,
        })
    }

    /// Appends a record; false when there is no room before more of them are `stored` durably in the tables' file.
    pub(crate) fn append(&mut self, number: u64, text: &[u8], stored: u64) -> io::Result<bool> {
        let need = (RECORD + text.len()) as u64;
        if need + HEAD as u64 > MOST {
            return Ok(false);
        }
        let free = |half: &Half| half.last <= stored;
        if free(&self.halves[self.current]) {
            self.halves[self.current].len = 0;
        }
        if self.halves[self.current].len + need > MOST {
            let other = 1 - self.current;
            if !free(&self.halves[other]) {
                return Ok(false);
            }
            self.halves[other].len = 0;
            self.current = other;
        }
        let half = &mut self.halves[self.current];
        let mut bytes = Vec::with_capacity(HEAD + RECORD + text.len());
        if half.len == 0 {
            half.nonce = Uuid::now_v7();
            bytes.extend_from_slice(&head(self.store, half.nonce));
        }
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(digest(half.nonce, number, text).as_bytes());
        bytes.extend_from_slice(text);
        // What fails half-way is no record, and is written over by the next one.
        half.unsynced = true;
        half.file.write_all_at(&bytes, half.len)?;
        half.len += bytes.len() as u64;
        half.last = number;
        Ok(true)
    }

    /// The files that have something which may not be on the disk; from now on they count as synced.
    pub(crate) fn unsynced(&mut self) -> Vec<Arc<File>> {
        // The older one first: its records are of use without the newer one's, and not the other way round.
        let mut files = Vec::new();
        for half in [1 - self.current, self.current] {
            let half = &mut self.halves[half];
            if std::mem::take(&mut half.unsynced) {
                files.push(Arc::clone(&half.file));
            }
        }
        files
    }

    /// Whether so much is noted that it is time to have it in the tables' file.
    pub(crate) fn is_long(&self, stored: u64) -> bool {
        let held = self.halves.iter().filter(|half| half.last > stored);
        held.map(|half| half.len).sum::<u64>() > MOST / 2
    }
}

/// The records of this store that follow number `after`, in order, up to the first that is missing.
pub(crate) fn read(path: &Path, store: Uuid, after: u64) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in names(path) {
        match fs::read(&name) {
            Ok(bytes) => records(&bytes, store, &mut found)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by_key(|(number, _)| *number);
    found.retain(|(number, _)| *number > after);
    let there = (after + 1..)
        .zip(&found)
        .take_while(|(expected, (number, _))| expected == number);
    found.truncate(there.count());
    Ok(found)
}

fn names(path: &Path) -> [PathBuf; 2] {
    [beside(path, "notes-a"), beside(path, "notes-b")]
}

fn head(store: Uuid, nonce: Uuid) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(MAGIC);
    head[8..24].copy_from_slice(store.as_bytes());
    head[24..40].copy_from_slice(nonce.as_bytes());
    let sum = Digest::of(&head[..40]);
    head[40..].copy_from_slice(sum.as_bytes());
    head
}

fn digest(nonce: Uuid, number: u64, text: &[u8]) -> Digest {
    let mut bytes = Vec::with_capacity(24 + text.len());
    bytes.extend_from_slice(nonce.as_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(text);
    Digest::of(&bytes)
}

/// Adds the records of one file to `found`, up to the first that is none.
pub(crate) fn records(
    bytes: &[u8],
    store: Uuid,
    found: &mut Vec<(u64, Vec<u8>)>,
) -> io::Result<()> {
    let Some((first, mut rest)) = bytes.split_at_checked(HEAD) else {
        return Ok(());
    };
    // A power failure may leave the length of a new file without its bytes.
    if first.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    let id = |at: usize| Uuid::from_slice(&first[at..at + 16]).map_err(io::Error::other);
    let (of, nonce) = (id(8)?, id(24)?);
    if head(of, nonce) != *first {
        let what = "the head of what was noted beside it is damaged";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    // Beside a copy that was put in place of the store lie the notes of the store that was there.
    if of != store {
        return Ok(());
    }
    while let Some((about, behind)) = rest.split_at_checked(RECORD) {
        let length = u32::from_le_bytes([about[0], about[1], about[2], about[3]]) as usize;
        let number = about[4..12]
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let Some((text, behind)) = behind.split_at_checked(length) else {
            break;
        };
        if digest(nonce, number, text).as_bytes()[..] != about[12..] {
            break;
        }
        found.push((number, text.to_vec()));
        rest = behind;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: Uuid = Uuid::from_u128(7);

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        (directory, path)
    }

    fn numbers(path: &Path, store: Uuid, after: u64) -> Vec<u64> {
        let found = read(path, store, after).unwrap();
        found.into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn what_is_cut_anywhere_is_read_up_to_the_cut() {
        let (_directory, path) = place();
        let mut journal = Journal::begin(&path, STORE).unwrap();
        for number in 1..=5 {
            assert!(journal.append(number, &[b'x'; 40], 0).unwrap());
        }
        let [file, _] = names(&path);
        let whole = fs::read(&file).unwrap();
        let record = RECORD + 40;
        for cut in 0..=whole.len() {
            fs::write(&file, &whole[..cut]).unwrap();
            let there = cut.saturating_sub(HEAD) / record;
            assert_eq!(numbers(&path, STORE, 0).len(), there, "cut at {cut}");
        }
    }

    #[test]
    fn flipped_bit_ends_what_is_read_and_changes_nothing_of_it() {
        let (_directory, path) = place();
        let mut journal = Journal::begin(&path, STORE).unwrap();
        for number in 1..=3 {
            journal.append(number, b"what was noted", 0).unwrap();
        }
        let [file, _] = names(&path);
        let whole = fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&file, &bytes).unwrap();
            match read(&path, STORE, 0) {
                Err(_) => assert!(at < HEAD, "byte {at}"),
                Ok(found) => {
                    let good = at.saturating_sub(HEAD) / (RECORD + 14);
                    assert_eq!(found.len(), good, "byte {at}");
                    assert!(found.iter().all(|(_, text)| text == b"what was noted"));
                }
            }
        }
    }

    #[test]
    fn nothing_behind_a_hole_and_nothing_of_another_store_is_read() {
        let (_directory, path) = place();
        let mut journal = Journal::begin(&path, STORE).unwrap();
        for number in [4, 5, 7] {
            journal.append(number, b"x", 0).unwrap();
        }
        assert_eq!(numbers(&path, STORE, 3), [4, 5]);
        assert_eq!(numbers(&path, STORE, 4), [5]);
        assert_eq!(numbers(&path, STORE, 2), [0; 0]);
        assert_eq!(numbers(&path, Uuid::from_u128(8), 3), [0; 0]);
    }

    #[test]
    fn files_take_turns_and_are_full_only_while_the_tables_lack_both() {
        let (_directory, path) = place();
        let mut journal = Journal::begin(&path, STORE).unwrap();
        let text = vec![b'x'; 1024 * 1024];
        let mut number = 0;
        while journal.append(number + 1, &text, 0).unwrap() {
            number += 1;
        }
        assert_eq!(number, 14, "seven fit into each");
        assert!(journal.is_long(0) && !journal.is_long(number));
        assert_eq!(numbers(&path, STORE, 0).len(), 14);
        assert!(journal.append(15, &text, 7).unwrap(), "the first is free");
        assert_eq!(numbers(&path, STORE, 7), (8..=15).collect::<Vec<_>>());
        assert_eq!(journal.unsynced().len(), 2);
        assert_eq!(journal.unsynced().len(), 0);
    }

    /// Its bytes are all there, as a former life of the file left them, behind what was written since.
    #[test]
    fn record_of_a_former_life_of_the_file_is_none() {
        let (_directory, path) = place();
        let mut journal = Journal::begin(&path, STORE).unwrap();
        for number in 1..=9 {
            journal.append(number, b"same length", 0).unwrap();
        }
        journal.append(10, b"same length", 9).unwrap();
        assert_eq!(numbers(&path, STORE, 9), [10]);
        assert_eq!(numbers(&path, STORE, 1), [0; 0], "2 to 9 are gone");
    }
}
