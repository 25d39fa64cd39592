//! Whether a log is what was written. It reads each byte once, keeps one line, and needs neither the writer nor its key.
//!
//! Where a line does not fit, the fault is named by what an editor of the file would have done to get there. The names help
//! a person; that there *is* a fault is what is proven.

mod ahead;

use std::{io, path::Path};

use ed25519_dalek::VerifyingKey;
use paw_api::audit::VaultMark;
use serde::Serialize;
use serde_json::value::RawValue;

use self::ahead::Rest;
use crate::{
    chain::{Break, Chain, Link},
    format::{Checkpoint, LineError, MAX_LOG_LINE, is_checkpoint, read_checkpoint},
    key,
    mac::{Codes, Ratchet},
    segment::{self, Lines, Next, WITNESS},
};

/// What an editor would have done to a log that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A line is not the one that was written.
    Modified,
    /// Records are missing between others, or a whole segment is.
    Deleted,
    /// A record stands where none was.
    Inserted,
    /// Records stand in another order.
    Reordered,
    /// The log ends before a record that was signed.
    Truncated,
    /// A checkpoint that must be there is not.
    CheckpointMissing,
    /// A checkpoint was not signed with the key.
    BadSignature,
    /// The newest checkpoint, or one that was kept elsewhere, tells of another history than the log.
    Forked,
    /// A record's code was not made with its key: the log was written anew by somebody who has the signing key alone.
    WrongKey,
}

/// What a verification comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Everything fits.
    Ok,
    /// Something does not; see [`Report::fault`].
    Tampered,
    /// It cannot be told; see [`Report::reason`].
    Unverifiable,
    /// Everything signed fits; unsigned bytes at the end are half-written, or were, and a record tells of their repair.
    TornTail,
}

/// What a verification saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether everything that was signed is there and unchanged.
    pub ok: bool,
    /// The same, finer.
    pub state: State,
    /// Records that fit.
    pub records: u64,
    /// Records before them that are not kept any longer, as the log says itself.
    pub removed: u64,
    /// Records whose code was checked, with a first key that was kept elsewhere.
    pub codes: u64,
    /// Checkpoints that were kept elsewhere and fit.
    pub witnesses: u64,
    /// The newest state of the vault that the log tells of.
    pub vault: Option<VaultMark>,
    /// Checkpoints that fit.
    pub checkpoints: u64,
    /// Records after the newest checkpoint: they fit, and whoever can write the file could have changed or cut them.
    pub unsigned: u64,
    /// Recoveries that the log tells of.
    pub recovered: u64,
    /// Number of the first record that does not fit, or is missing.
    pub first_bad_seq: Option<u64>,
    /// What is wrong.
    pub fault: Option<Fault>,
    /// In which file and why, for people.
    pub reason: Option<String>,
    /// The key that verified, as in `audit.pub`.
    pub key: Option<String>,
    /// Whether the key was given, and not only found beside the log, where who changed the log could have put it.
    pub key_given: bool,
}

/// What a log is verified with, beside its own files.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    /// The public key; without it the one beside the log.
    pub key: Option<VerifyingKey>,
    /// First keys of the records' codes.
    pub codes: Vec<Ratchet>,
    /// Checkpoints that were kept elsewhere, as they stand in the log or were told to the journal.
    pub witnesses: Vec<Vec<u8>>,
}

impl Checks {
    /// Finds checkpoints in a text: a journal's export, or a copy of `audit.checkpoint`.
    pub fn add_witnesses(&mut self, text: &str) {
        for line in text.lines() {
            // In JSON, a journal has quotes within quotes.
            let line = line.replace("\\\"", "\"");
            // Syslog over TLS has no line ends between what it carries.
            for (start, _) in line.match_indices("{\"checkpoint\":{") {
                let mut from = serde_json::Deserializer::from_str(&line[start..]).into_iter();
                if let Some(Ok::<&RawValue, _>(found)) = from.next() {
                    self.witnesses.push(found.get().as_bytes().to_vec());
                }
            }
        }
    }
}

/// Verifies the log in this directory, with this key or else with the one beside the log.
///
/// A log that is being written is verified up to where it was at some moment of the call.
#[must_use]
pub fn verify(dir: &Path, given: Option<&VerifyingKey>) -> Report {
    verify_with(
        dir,
        Checks {
            key: given.copied(),
            ..Checks::default()
        },
    )
}

/// Verifies the log in this directory with all of this.
///
/// A log that is being written is verified up to where it was at some moment of the call.
#[must_use]
pub fn verify_with(dir: &Path, with: Checks) -> Report {
    let look = || (read_witness(dir), segment::list(dir).ok());
    let mut again = AGAIN;
    let (mut witness, mut numbers) = look();
    loop {
        let seen = (witness.as_ref().ok().cloned(), numbers);
        let report = verify_once(dir, with.clone(), witness);
        // The writer may have removed old segments meanwhile, which it signs before.
        (witness, numbers) = look();
        again -= 1;
        if report.ok
            || again == 0
            || (witness.as_ref().ok(), &numbers) == (seen.0.as_ref(), &seen.1)
        {
            return report;
        }
    }
}

/// How often a log that does not fit, and went on meanwhile, is verified.
const AGAIN: usize = 10;

/// The newest checkpoint of this log.
fn read_witness(dir: &Path) -> io::Result<Vec<u8>> {
    segment::read_small(&dir.join(WITNESS), MAX_LOG_LINE as u64)
}

fn verify_once(dir: &Path, with: Checks, witness: io::Result<Vec<u8>>) -> Report {
    let given = with.key;
    let mut report = Report {
        ok: false,
        state: State::Unverifiable,
        records: 0,
        removed: 0,
        codes: 0,
        witnesses: 0,
        vault: None,
        checkpoints: 0,
        unsigned: 0,
        recovered: 0,
        first_bad_seq: None,
        fault: None,
        reason: None,
        key: None,
        key_given: given.is_some(),
    };
    let key = match given.map_or_else(|| key::read_public(&dir.join(key::PUBLIC)), Ok) {
        Ok(key) => key,
        Err(error) => {
            return report.unverifiable(format!(
                "{error}; give the public key that was kept elsewhere"
            ));
        }
    };
    report.key = Some(hex::encode(key.to_bytes()));
    // It was read before the log itself, so that what it tells of must be there.
    let numbers = match segment::list(dir) {
        Ok(numbers) if numbers.is_empty() && witness.is_err() => {
            return report.unverifiable(format!("no log in {}", dir.display()));
        }
        Ok(numbers) => numbers,
        Err(error) => return report.unverifiable(format!("read {}: {error}", dir.display())),
    };
    let has_codes = !with.codes.is_empty();
    let mut walk = Walk {
        dir,
        chain: Chain::new(key, Codes::with(with.codes)),
        key,
        report,
        torn: None,
        witness: None,
        elsewhere: Vec::new(),
    };
    let done = walk
        .read_witness(witness, &key)
        .and_then(|()| walk.read_elsewhere(&with.witnesses))
        .and_then(|()| walk.segments(&numbers))
        .and_then(|()| walk.end(&numbers));
    let Walk {
        chain,
        mut report,
        torn,
        ..
    } = walk;
    report.records = chain.tip.seq - report.removed;
    report.codes = chain.codes.checked;
    report.vault = chain.tip.vault;
    report.checkpoints = chain.tip.next_checkpoint;
    report.unsigned = chain.tip.unsigned;
    match (done, chain.codes.unknown_end()) {
        (Ok(()), Some((record, epoch))) => report.unverifiable(format!(
            "the codes of record {record} and those behind it are of epoch {epoch}, whose first key is not among those given"
        )),
        (Ok(()), None) if has_codes && report.codes == 0 => {
            report.unverifiable("no record has a code of the first keys given".to_owned())
        }
        (Ok(()), None) => {
            report.ok = true;
            report.state = if torn.is_some() || report.recovered > 0 {
                State::TornTail
            } else {
                State::Ok
            };
            report.reason = torn;
            report
        }
        (Err(Stop::Bad { fault, seq, reason }), _) => {
            report.state = State::Tampered;
            (report.fault, report.first_bad_seq, report.reason) = (Some(fault), seq, Some(reason));
            report
        }
        (Err(Stop::Unreadable(reason)), _) => report.unverifiable(reason),
    }
}

impl Report {
    fn unverifiable(mut self, reason: String) -> Self {
        self.state = State::Unverifiable;
        self.reason = Some(reason);
        self
    }
}

/// Why the walk ended early.
enum Stop {
    Bad {
        fault: Fault,
        seq: Option<u64>,
        reason: String,
    },
    Unreadable(String),
}

struct Walk<'a> {
    dir: &'a Path,
    chain: Chain,
    key: VerifyingKey,
    report: Report,
    /// What is half-written at the end.
    torn: Option<String>,
    witness: Option<Checkpoint>,
    /// What was kept elsewhere and is still to be compared, the last record first.
    elsewhere: Vec<Checkpoint>,
}

impl Walk<'_> {
    fn read_witness(&mut self, bytes: io::Result<Vec<u8>>, key: &VerifyingKey) -> Result<(), Stop> {
        match bytes {
            Ok(line) => match read_checkpoint(line.trim_ascii_end(), key) {
                Ok(checkpoint) => {
                    self.witness = Some(checkpoint);
                    Ok(())
                }
                Err(LineError::Version(version)) => Err(Stop::Unreadable(format!(
                    "{WITNESS} has version {version}; use a newer pawctl"
                ))),
                Err(error) => Err(Stop::Bad {
                    fault: Fault::BadSignature,
                    seq: None,
                    reason: format!("{WITNESS}: {error}"),
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Stop::Unreadable(format!("read {WITNESS}: {error}"))),
        }
    }

    fn read_elsewhere(&mut self, lines: &[Vec<u8>]) -> Result<(), Stop> {
        for line in lines {
            match read_checkpoint(line, &self.key) {
                Ok(checkpoint) => self.elsewhere.push(checkpoint),
                Err(LineError::Version(version)) => {
                    return Err(Stop::Unreadable(format!(
                        "a checkpoint that was kept elsewhere has version {version}; use a newer pawctl"
                    )));
                }
                Err(error) => {
                    return Err(Stop::Bad {
                        fault: Fault::Forked,
                        seq: None,
                        reason: format!(
                            "a checkpoint that was kept elsewhere is not of this log's key: {error}"
                        ),
                    });
                }
            }
        }
        self.elsewhere
            .sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.seq));
        Ok(())
    }

    /// Compares what was kept elsewhere with the record that the log has come to.
    fn compare_with_elsewhere(&mut self) -> Result<(), Stop> {
        let (seq, tag) = (self.chain.tip.seq, self.chain.tip.tag);
        while let Some(kept) = self.elsewhere.pop_if(|kept| kept.seq <= seq) {
            if kept.seq == seq && kept.tag.as_bytes() != &tag {
                return Err(Stop::Bad {
                    fault: Fault::Forked,
                    seq: Some(seq),
                    reason: format!(
                        "a checkpoint that was kept elsewhere tells of another record {seq}"
                    ),
                });
            }
            // What is before the first segment that is kept cannot be compared.
            self.report.witnesses += u64::from(kept.seq == seq);
        }
        Ok(())
    }

    /// Where the log begins with a later segment than the first, because the ones before it are not kept.
    fn begin_at(&mut self, number: u32) -> Result<(), Stop> {
        let missing = |reason: String| Stop::Bad {
            fault: Fault::Deleted,
            seq: Some(1),
            reason,
        };
        let path = segment::path(self.dir, number);
        let before = segment::path(self.dir, number - 1);
        let may = self.witness.as_ref().and_then(|it| it.log.as_ref());
        if may.is_none_or(|log| log.first < number) {
            return Err(missing(format!("{} is missing", before.display())));
        }
        let mut lines = Lines::open(&path)
            .map_err(|error| Stop::Unreadable(format!("read {}: {error}", path.display())))?;
        let codes = self.chain.codes.clone();
        if let Ok(Next::Line(line)) = lines.next()
            && let Ok((chain, checkpoint)) = Chain::resume(self.key, codes, line)
            && (checkpoint.segment, checkpoint.offset) == (number, 0)
        {
            self.report.removed = chain.tip.seq;
            self.chain = chain;
            // The line is walked over again, as that of every segment.
            self.chain.tip.next_checkpoint -= 1;
            return self.compare_with_elsewhere();
        }
        Err(Stop::Bad {
            fault: Fault::BadSignature,
            seq: None,
            reason: format!("{} does not begin with a checkpoint", path.display()),
        })
    }

    fn segments(&mut self, numbers: &[u32]) -> Result<(), Stop> {
        let first = numbers.first().copied().unwrap_or(1);
        if first > 1 {
            self.begin_at(first)?;
        }
        for (expected, number) in (first..).zip(numbers) {
            if *number != expected {
                let reason = format!("{} is missing", segment::path(self.dir, expected).display());
                return Err(Stop::Bad {
                    fault: Fault::Deleted,
                    seq: Some(self.chain.tip.seq + 1),
                    reason,
                });
            }
            self.segment(expected, numbers.last() == Some(number))?;
        }
        Ok(())
    }

    fn segment(&mut self, number: u32, is_last: bool) -> Result<(), Stop> {
        let path = segment::path(self.dir, number);
        let unreadable =
            |error: io::Error| Stop::Unreadable(format!("read {}: {error}", path.display()));
        let mut lines = Lines::open(&path).map_err(unreadable)?;
        let mut empty = true;
        loop {
            let offset = lines.next_offset();
            let (line, whole): (&[u8], bool) = match lines.next().map_err(unreadable)? {
                Next::End => break,
                Next::Partial => (b"", false),
                Next::Line(line) => (line, true),
            };
            let step = if whole {
                self.chain.step(line, number, offset)
            } else {
                Err(Break::Line(LineError::Unreadable))
            };
            let broken = match step {
                Ok(Link::Record { recovered }) => {
                    self.report.recovered += u64::from(recovered);
                    empty = false;
                    if !self.elsewhere.is_empty() {
                        self.compare_with_elsewhere()?;
                    }
                    continue;
                }
                Ok(Link::Checkpoint(checkpoint)) => {
                    empty = false;
                    self.compare_with_elsewhere()?;
                    self.compare_with_witness(&checkpoint)?;
                    continue;
                }
                Err(broken) => broken,
            };
            let was_checkpoint = is_checkpoint(line);
            let rest = Rest::read(&mut lines).map_err(unreadable)?;
            if broken == Break::Line(LineError::Unreadable)
                && is_last
                && !rest.has_lines
                && self.is_all_there()
            {
                self.note_torn(&path, offset, whole);
                return Ok(());
            }
            return Err(self.judge(broken, was_checkpoint, &rest, &path));
        }
        if empty && !(is_last && number > 1 && self.is_all_there()) {
            let reason = format!("{} is empty", path.display());
            return Err(Stop::Bad {
                fault: Fault::CheckpointMissing,
                seq: Some(self.chain.tip.seq + 1),
                reason,
            });
        }
        if empty {
            self.note_torn(&path, 0, true);
        }
        Ok(())
    }

    /// Whether everything that the newest known signature covers has been seen.
    fn is_all_there(&self) -> bool {
        let tip = &self.chain.tip;
        self.witness.as_ref().map_or(tip.seq == 0, |witness| {
            witness.seq <= tip.seq && witness.n < tip.next_checkpoint
        })
    }

    fn note_torn(&mut self, path: &Path, offset: u64, whole: bool) {
        // A writer at work is in the middle of a line now and then; that is not damage.
        if whole || !segment::has_writer(self.dir) {
            self.torn = Some(format!(
                "{} is half-written from byte {offset} on",
                path.display()
            ));
        }
    }

    fn compare_with_witness(&self, checkpoint: &Checkpoint) -> Result<(), Stop> {
        let said = |it: &Checkpoint| (it.seq, it.tag, it.log.as_ref().map(|log| log.root));
        match &self.witness {
            Some(witness) if witness.n == checkpoint.n && said(witness) != said(checkpoint) => {
                let reason = format!(
                    "{WITNESS} tells of another record {} than the log",
                    witness.seq
                );
                Err(Stop::Bad {
                    fault: Fault::Forked,
                    seq: Some(witness.seq.min(checkpoint.seq)),
                    reason,
                })
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self, numbers: &[u32]) -> Result<(), Stop> {
        let tip = &self.chain.tip;
        let bad = |fault, seq, reason: String| {
            Err(Stop::Bad {
                fault,
                seq: Some(seq),
                reason,
            })
        };
        if let Some(kept) = self.elsewhere.first() {
            return bad(
                Fault::Truncated,
                tip.seq + 1,
                format!(
                    "the log ends with record {} and a checkpoint that was kept elsewhere tells of record {}",
                    tip.seq, kept.seq
                ),
            );
        }
        if let Some(first) = numbers.first()
            && *first > tip.first.max(1)
        {
            let path = segment::path(self.dir, first - 1);
            return bad(Fault::Deleted, 1, format!("{} is missing", path.display()));
        }
        match &self.witness {
            None if tip.seq == 0 => Ok(()),
            None => bad(
                Fault::CheckpointMissing,
                tip.seq,
                format!("{WITNESS} is missing: nothing tells where the log should end"),
            ),
            Some(witness) if witness.seq > tip.seq => bad(
                Fault::Truncated,
                tip.seq + 1,
                format!(
                    "the log ends with record {} and record {} was signed",
                    tip.seq, witness.seq
                ),
            ),
            Some(witness) if witness.n >= tip.next_checkpoint => bad(
                Fault::CheckpointMissing,
                witness.seq,
                format!(
                    "checkpoint {} after record {} is missing",
                    witness.n, witness.seq
                ),
            ),
            Some(_) => Ok(()),
        }
    }

    /// Names what was done to the log.
    fn judge(&self, broken: Break, was_checkpoint: bool, rest: &Rest, path: &Path) -> Stop {
        let next = self.chain.tip.seq + 1;
        let reason = format!("{}: {broken}", path.display());
        let bad = |fault, seq| Stop::Bad {
            fault,
            seq: Some(seq),
            reason: reason.clone(),
        };
        match broken {
            Break::Line(LineError::Version(_)) => Stop::Unreadable(reason),
            Break::Line(LineError::Signature) => bad(Fault::BadSignature, next),
            Break::Line(LineError::Unreadable | LineError::Tag) if was_checkpoint => {
                bad(Fault::BadSignature, next)
            }
            Break::Line(LineError::Unreadable | LineError::Tag) | Break::Prev => {
                bad(Fault::Modified, next)
            }
            Break::Code => bad(Fault::WrongKey, next),
            // It fits the record before it, so that somebody added it who has not seen how the writer goes on.
            Break::Version { .. } | Break::Epoch { .. } => bad(Fault::Inserted, next),
            Break::Number { expected, found } if found < expected => bad(Fault::Inserted, found),
            Break::Number { expected, .. } if rest.has_record(expected) => {
                bad(Fault::Reordered, expected)
            }
            Break::Number { expected, .. } => bad(Fault::Deleted, expected),
            Break::CheckpointNumber { expected, found } if found < expected => {
                bad(Fault::Inserted, next)
            }
            Break::CheckpointNumber { .. } | Break::Unsigned | Break::Start => {
                bad(Fault::CheckpointMissing, next)
            }
            Break::Content { signed, at } if signed > at && rest.has_record(at + 1) => {
                bad(Fault::Reordered, at + 1)
            }
            Break::Content { signed, at } if signed > at => bad(Fault::Deleted, at + 1),
            Break::Content { signed, at } if signed < at => bad(Fault::Inserted, signed + 1),
            Break::Content { .. } => bad(Fault::Modified, self.first_unsigned()),
        }
    }

    /// The first record that no signature has covered yet.
    fn first_unsigned(&self) -> u64 {
        (self.chain.tip.seq - self.chain.tip.unsigned.min(self.chain.tip.seq)) + 1
    }
}
