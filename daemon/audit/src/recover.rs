//! Opening a log: where it goes on, and what a crash left at its end.
//!
//! What was signed must be there; where it is not, the writer does not start. What came after the newest signature may have
//! been half-written when the power went: everything from the first line that does not fit is dropped, and a record says so.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use ed25519_dalek::{SigningKey, VerifyingKey};
use paw_api::audit::{Entry, Event};

use crate::{
    chain::{Chain, is_ours},
    format::{Checkpoint, Stamp, VERSION, is_checkpoint, read_checkpoint},
    index::{self, Indexer},
    key,
    log::{Log, LogError, Place, SIGN_WITHIN, begin_segment, checkpoint_of},
    mac::{Codes, NEXT, NextKey, Ratchet},
    room::Room,
    segment::{self, LOCK, Lines, Next, WITNESS},
    vaults::Others,
};

/// What was found at the end of the last segment.
struct End {
    chain: Chain,
    /// How many bytes are good.
    len: u64,
    /// How many are not.
    dropped: u64,
}

impl Log {
    /// Opens the log in this place for writing, or begins one.
    ///
    /// # Errors
    /// When another writer has it, it cannot be read or written, or something that was signed is missing or changed.
    pub fn open(place: Place) -> Result<Self, LogError> {
        let lock = lock(&place.dir)?;
        let numbers =
            segment::list(&place.dir).map_err(|source| LogError::io("read", &place.dir, source))?;
        let missing = |name| LogError::Tampered {
            path: place.state.join(name),
            what: "the log is there and its key is not".into(),
        };
        let key = match key::load(&place.state)? {
            Some(key) => key,
            None if numbers.is_empty() => key::create(&place.state)?,
            None => return Err(missing(key::SEED)),
        };
        let saved = NextKey::load(&place.state)?;
        let vaults = Others::load(&place.state)?;
        let codes = saved
            .as_ref()
            .map_or_else(Codes::default, |(_, next)| Codes::from(next.clone()));
        key::publish(&place.dir, &key.verifying_key())?;
        let witness = read_witness(&place, &key)?;
        let mut numbers = numbers;
        let mut end = None;
        let mut headless = Vec::new();
        while let Some(number) = numbers.last().copied() {
            let path = segment::path(&place.dir, number);
            end = read_end(&path, number, &key, &codes)?;
            if end.is_some() {
                break;
            }
            // A segment without its first line: the crash came while it was being made, unless a signature says otherwise.
            headless.push(path);
            numbers.pop();
        }
        let at = Stamp::now();
        let (chain, good, mut dropped) = match end {
            Some(End {
                chain,
                len,
                dropped,
            }) => (chain, len, dropped),
            None => (Chain::new(key.verifying_key(), Codes::default()), 0, 0),
        };
        let mut tip = chain.tip;
        if let Some(witness) = &witness
            && (witness.seq > tip.seq || witness.n >= tip.next_checkpoint)
        {
            let what = match numbers.last() {
                Some(_) => format!(
                    "record {} was signed, and the log ends with record {}",
                    witness.seq, tip.seq
                ),
                None => format!("record {} was signed, and there is no log", witness.seq),
            };
            return Err(LogError::Tampered {
                path: place.dir,
                what,
            });
        }
        dropped += remove(&headless)?;
        let (next_key, code) = match saved {
            Some((_, next)) if next.next() > tip.seq + 1 => {
                let what = format!(
                    "the key of record {} was in use, and the log ends with record {}",
                    next.next(),
                    tip.seq
                );
                return Err(LogError::Tampered {
                    path: place.dir,
                    what,
                });
            }
            Some((mut file, next)) => {
                let mut next = chain.codes.into_key(tip.seq + 1).unwrap_or(next);
                if next.epoch() < tip.epoch {
                    // The crash came when another first key was about to be given: nobody ever got it.
                    next = Ratchet::begin(tip.epoch, tip.seq + 1)?;
                    let kept = file.save(&next);
                    kept.map_err(|source| LogError::io("write", file.path(), source))?;
                }
                (file, next)
            }
            None if is_ours(&tip) => return Err(missing(NEXT)),
            None => {
                let first = Ratchet::begin(1, tip.seq + 1)?;
                (NextKey::create(&place.state, &first)?, first)
            }
        };
        let failed = |step, path: &Path, source| LogError::io(step, path, source);
        let mut segment = numbers.last().copied().unwrap_or(0);
        if segment > 0 {
            let path = segment::path(&place.dir, segment);
            let file = OpenOptions::new()
                .append(true)
                .open(&path)
                .map_err(|e| failed("open", &path, e))?;
            if dropped > 0 {
                file.set_len(good).map_err(|e| failed("cut", &path, e))?;
            }
            // Whatever is continued must be on the disk, also what the writer before could not sync any more.
            file.sync_all().map_err(|e| failed("sync", &path, e))?;
        }
        tip.first = tip.first.max(1);
        let goes_on = segment > 0 && is_ours(&tip);
        if !goes_on {
            // The first segment of all, or the first of this version.
            segment += 1;
            let n = tip.next_checkpoint;
            let first = checkpoint_of(&tip, code.epoch(), (segment, 0), n, at, true);
            let path = segment::path(&place.dir, segment);
            begin_segment(&path, &first, &key).map_err(|e| failed("begin", &path, e))?;
            tip.next_checkpoint += 1;
            tip.unsigned = 0;
            (tip.version, tip.epoch) = (VERSION, code.epoch());
        }
        let path = segment::path(&place.dir, segment);
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(|e| failed("open", &path, e))?;
        let len = file
            .metadata()
            .map_err(|e| failed("look at", &path, e))?
            .len();
        let begun = segment::first_checkpoint(&path).map_err(|e| failed("read", &path, e))?;
        let (begun_ms, before) = begun.map_or((at.utc_ms, tip.seq), |it| (it.utc_ms, it.seq));
        let older = numbers.partition_point(|number| *number < segment);
        index::complete(&place.dir, &numbers[..older]);
        let index = Indexer::open(&place.dir, segment, len);
        let mut log = Self {
            place,
            index,
            key,
            _lock: lock,
            segment,
            before,
            begun_ms,
            room: Room::behind(&file, len),
            file,
            len,
            written: (tip.clone(), code.locked()?),
            tip,
            code: code.locked()?,
            next_key,
            vaults,
            signed: None,
            group: Vec::new(),
            sync_by: None,
            sign_by: None,
        };
        if dropped > 0 {
            let mut entry = Entry::new(Event::LogRecovered);
            entry
                .detail
                .insert("dropped_bytes".into(), dropped.to_string());
            entry
                .detail
                .insert("after_record".into(), log.last().to_string());
            tracing::warn!(
                dropped_bytes = dropped,
                after_record = log.last(),
                "audit log recovered"
            );
            log.append(&entry, at);
            log.commit(true, Instant::now())?;
        }
        match log.seal(at) {
            Ok(()) => log.remove_pruned(),
            // As while it runs: it refuses what has no room, and signs when there is some again.
            Err(error) if error.is_passing() => {
                tracing::warn!(error = %paw_log::Chain(&error), "audit log cannot be signed");
                log.sign_by = Some(Instant::now() + SIGN_WITHIN);
            }
            Err(error) => return Err(error),
        }
        Ok(log)
    }
}

/// Removes these files; returns how many bytes they had.
fn remove(paths: &[PathBuf]) -> Result<u64, LogError> {
    let mut bytes = 0;
    for path in paths {
        bytes += fs::metadata(path)
            .map_err(|source| LogError::io("look at", path, source))?
            .len();
        fs::remove_file(path).map_err(|source| LogError::io("remove", path, source))?;
    }
    Ok(bytes)
}

fn lock(dir: &Path) -> Result<File, LogError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(&path)
        .map_err(|source| LogError::io("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(LogError::InUse(dir.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(LogError::io("lock", &path, source)),
    }
}

/// The newest checkpoint that the writer before remembered. One that cannot be read is not a missing one.
fn read_witness(place: &Place, key: &SigningKey) -> Result<Option<Checkpoint>, LogError> {
    let path = place.state.join(WITNESS);
    let line = match fs::read(&path) {
        Ok(line) => line,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LogError::io("read", &path, source)),
    };
    match read_checkpoint(line.trim_ascii_end(), &key.verifying_key()) {
        Ok(checkpoint) => Ok(Some(checkpoint)),
        Err(error) => Err(LogError::Tampered {
            path,
            what: error.to_string(),
        }),
    }
}

/// Follows a segment to its last good line; `None` when it has not even a first one.
fn read_end(
    path: &Path,
    number: u32,
    key: &SigningKey,
    codes: &Codes,
) -> Result<Option<End>, LogError> {
    let failed = |source| LogError::io("read", path, source);
    let key = key.verifying_key();
    let mut lines = Lines::open(path).map_err(failed)?;
    let total = fs::metadata(path).map_err(failed)?.len();
    let mut chain = match lines.next().map_err(failed)? {
        Next::Line(first) => match Chain::resume(key, codes.clone(), first) {
            Ok((chain, checkpoint)) if checkpoint.segment == number && checkpoint.offset == 0 => {
                Some(chain)
            }
            _ => None,
        },
        Next::Partial | Next::End => None,
    };
    let mut good = 0;
    if let Some(chain) = &mut chain {
        loop {
            match lines.next().map_err(failed)? {
                Next::End => {
                    return Ok(Some(End {
                        chain: chain.clone(),
                        len: total,
                        dropped: 0,
                    }));
                }
                Next::Partial => break,
                Next::Line(line) => {
                    let line = line.to_vec();
                    if let Err(error) = chain.step(&line, number, lines.offset) {
                        if is_signed(&line, &key) {
                            return Err(LogError::Tampered {
                                path: path.to_owned(),
                                what: error.to_string(),
                            });
                        }
                        break;
                    }
                }
            }
        }
        good = lines.offset;
    }
    // What a later signature covers was on the disk, so that it is not a crash that changed it.
    loop {
        match lines.next().map_err(failed)? {
            Next::End => break,
            Next::Line(line) if is_signed(line, &key) => {
                let what = "a signed checkpoint follows a line that was changed".to_owned();
                return Err(LogError::Tampered {
                    path: path.to_owned(),
                    what,
                });
            }
            Next::Line(_) | Next::Partial => (),
        }
    }
    Ok(chain.map(|chain| End {
        chain,
        len: good,
        dropped: total - good,
    }))
}

fn is_signed(line: &[u8], key: &VerifyingKey) -> bool {
    is_checkpoint(line) && read_checkpoint(line, key).is_ok()
}
