//! Proofs that one record is in the log, for somebody who shall not see the others: checked with the public key alone.
//!
//! ```text
//! {"proof":{"v":1,"path":["…",…]}}      what stands beside the record's way up the Merkle tree, from the record on
//! {"v":2,"seq":…,…,"tag":"…"}           the record, as it stands in the log
//! {"checkpoint":{…},"signature":"…"}    a checkpoint after it, as it stands in the log: it signs the tree's root and size
//! ```
//!
//! Three lines and their ends, in which no byte can be another one. The record's place in the tree is not told: it follows from its number
//! and the checkpoint. The path has hashes alone, from which nobody learns what other records say.

use std::{fmt, io, path::Path};

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};

use crate::{
    chain::{Break, Chain, Link},
    format::{
        Checkpoint, Contents, LineError, MAX_LOG_LINE, Tag, VERSION_1, read_checkpoint,
        read_record, tag,
    },
    key::{self, KeyError},
    mac::Codes,
    segment::{self, Lines, Next},
    tree::{Beside, root_above},
};

/// The version of what a proof's first line says.
const VERSION: u32 = 1;

/// The most bytes that a proof has: two lines of a log, and a path of 64 hashes.
pub const MAX_PROOF: usize = 2 * MAX_LOG_LINE + 64 * 67 + 64;

/// Why there is no proof of a record.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The log cannot be read.
    #[error("read the log")]
    Read(#[from] io::Error),
    /// The key beside the log cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The log has no such record: it was never written, or removed when its time was over.
    #[error("the log has no record {0}")]
    NoRecord(u64),
    /// It is of version 1, which had no tree.
    #[error("record {0} was written before there was a tree over the records")]
    NoTree(u64),
    /// No checkpoint that is after it, or not the one that was asked for.
    #[error("{}", unsigned(*seq, *wanted))]
    Unsigned {
        /// Which record.
        seq: u64,
        /// Which checkpoint was asked for.
        wanted: Option<u64>,
    },
    /// The log is not what was written.
    #[error("the log does not fit behind record {after}")]
    Broken {
        /// The last record that fits.
        after: u64,
        /// What does not.
        source: Break,
    },
}

fn unsigned(seq: u64, wanted: Option<u64>) -> String {
    match wanted {
        None => format!("no checkpoint is after record {seq} yet"),
        Some(wanted) => format!("the log has no checkpoint {wanted} after record {seq}"),
    }
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is no proof, as one is written.
    #[error("it is not what a proof looks like")]
    Unreadable,
    /// It has a version that this program does not know.
    #[error("version {0} of proofs is not known; use a newer pawctl")]
    Version(u32),
    /// The record by itself is wrong.
    #[error("its record: {0}")]
    Record(LineError),
    /// The checkpoint by itself is wrong, or another key signed it.
    #[error("its checkpoint: {0}")]
    Checkpoint(LineError),
    /// The record is not in the tree that was signed.
    #[error("its record is not in the tree that was signed")]
    Root,
}

/// What a proof proves.
#[derive(Debug)]
pub struct Proven<'a> {
    /// The record, as it stands in the log.
    pub record: &'a str,
    /// Its number.
    pub seq: u64,
    /// The checkpoint that covers it.
    pub checkpoint: Checkpoint,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    proof: Way,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Way {
    v: u32,
    path: Vec<String>,
}

/// A proof as it is written.
struct Written<'a> {
    path: &'a [Tag],
    record: &'a str,
    checkpoint: &'a str,
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = First {
            proof: Way {
                v: VERSION,
                path: self.path.iter().map(hex::encode).collect(),
            },
        };
        let first = serde_json::to_string(&first).map_err(|_| fmt::Error)?;
        writeln!(f, "{first}\n{}\n{}", self.record, self.checkpoint)
    }
}

/// Proves that this record is in the log of this directory, by the first checkpoint after it or by that with the number `wanted`. What is
/// read of the log, from the record's segment to the checkpoint, is verified on the way.
///
/// # Errors
/// When there is no such record or checkpoint, or the log cannot be read or is not what was written.
pub fn prove(dir: &Path, seq: u64, wanted: Option<u64>) -> Result<String, ProveError> {
    let key = key::read_public(&dir.join(key::PUBLIC))?;
    let mut chain: Option<Chain> = None;
    // The record's line, and its way up once it is in the tree.
    let mut found: Option<(String, Beside)> = None;
    for number in from_segment_of(dir, seq)? {
        let mut lines = Lines::open(&segment::path(dir, number))?;
        loop {
            let offset = lines.next_offset();
            // Half a line at the end is none yet.
            let Next::Line(line) = lines.next()? else {
                break;
            };
            let Some(chain) = &mut chain else {
                let (begun, _) = Chain::resume(key, Codes::default(), line)
                    .map_err(|source| ProveError::Broken { after: 0, source })?;
                chain = Some(begun);
                continue;
            };
            let before =
                (found.is_none() && chain.tip.seq + 1 == seq).then(|| chain.tip.tree.clone());
            let after = chain.tip.seq;
            let link = chain
                .step(line, number, offset)
                .map_err(|source| ProveError::Broken { after, source })?;
            match (link, before, &mut found) {
                (Link::Record { .. }, Some(before), _) => {
                    if chain.tip.tree.size() == before.size() {
                        return Err(ProveError::NoTree(seq));
                    }
                    let record = String::from_utf8_lossy(line).into_owned();
                    found = Some((record, Beside::next_to(&before)));
                }
                (Link::Record { .. }, None, Some((_, beside))) => beside.push(&chain.tip.tag),
                (Link::Checkpoint(checkpoint), _, Some((record, beside)))
                    if wanted.is_none_or(|wanted| wanted == checkpoint.n) =>
                {
                    let written = Written {
                        path: &beside.path(),
                        record,
                        checkpoint: &String::from_utf8_lossy(line),
                    };
                    return Ok(written.to_string());
                }
                (Link::Record { .. } | Link::Checkpoint(_), ..) => {}
            }
        }
    }
    Err(match found {
        Some(_) => ProveError::Unsigned { seq, wanted },
        None => ProveError::NoRecord(seq),
    })
}

/// The segments from that on in which this record is; none where it is before all of them.
fn from_segment_of(dir: &Path, seq: u64) -> Result<Vec<u32>, ProveError> {
    let mut numbers = segment::list(dir)?;
    let mut start = None;
    for (place, number) in numbers.iter().enumerate() {
        let first = segment::first_checkpoint(&segment::path(dir, *number))?;
        if first.is_some_and(|first| first.seq < seq) {
            start = Some(place);
        }
    }
    Ok(match start {
        Some(start) => numbers.split_off(start),
        None => Vec::new(),
    })
}

/// Checks a proof with the key that the log is verified with.
///
/// # Errors
/// When it proves nothing, and why.
pub fn check<'a>(proof: &'a [u8], key: &VerifyingKey) -> Result<Proven<'a>, Flaw> {
    if proof.len() > MAX_PROOF {
        return Err(Flaw::Unreadable);
    }
    let text = std::str::from_utf8(proof).map_err(|_| Flaw::Unreadable)?;
    let mut lines = text.split('\n');
    let (Some(first), Some(record), Some(signed), Some(""), None) = (
        lines.next(),
        lines.next(),
        lines.next(),
        lines.next(),
        lines.next(),
    ) else {
        return Err(Flaw::Unreadable);
    };
    let First { proof: said } = serde_json::from_str(first).map_err(|_| Flaw::Unreadable)?;
    if said.v != VERSION {
        return Err(Flaw::Version(said.v));
    }
    let path: Option<Vec<Tag>> = said.path.iter().map(|text| tag(text)).collect();
    let path = path.ok_or(Flaw::Unreadable)?;
    let written = Written {
        path: &path,
        record,
        checkpoint: signed,
    };
    if written.to_string() != text {
        return Err(Flaw::Unreadable);
    }
    let checkpoint = read_checkpoint(signed.as_bytes(), key).map_err(Flaw::Checkpoint)?;
    let (read, tag, _) = read_record(record.as_bytes()).map_err(Flaw::Record)?;
    let Some(log) = checkpoint.log.as_ref().filter(|_| read.v != VERSION_1) else {
        return Err(Flaw::Root);
    };
    let is_there = index(read.seq, checkpoint.seq, log)
        .and_then(|index| root_above(&tag, index, log.size, &path))
        .is_some_and(|root| &root == log.root.as_bytes());
    if !is_there {
        return Err(Flaw::Root);
    }
    Ok(Proven {
        record,
        seq: read.seq,
        checkpoint,
    })
}

/// Where in the tree a record is, counted from 0: the tree has the last `size` records up to the checkpoint.
fn index(seq: u64, last: u64, log: &Contents) -> Option<u64> {
    let before = last.checked_sub(log.size)?;
    seq.checked_sub(before)?.checked_sub(1)
}
