//! What makes a filter quick: beside each segment a file that says, for every few hundred records, what they may be about.
//!
//! A block has the times and numbers of its records, and a Bloom filter over who, which agent, kind, event and outcome, in every
//! combination in which a record has them, and over the action and the secret. A reader looks into the blocks that may have what is wanted,
//! and at whatever no block covers. Nothing is signed here and nothing depends on it: without the file, or with a
//! damaged one, a list takes longer. Who can write the directory could hide records from a list by it, and not from
//! [`crate::verify`] or an export, which do not read it.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use paw_api::audit::Entry;
use sha2::{Digest as _, Sha256};

use crate::{read::Filter, segment};

/// How many records are in one block.
const BLOCK_RECORDS: u64 = 256;

/// Bytes of a block's filter: for about 600 different combinations one of a thousand answers is wrong.
const BLOOM: usize = 1024;

const MAGIC: [u8; 4] = *b"pai1";
const NUMBERS: usize = 6;
const SUM: usize = 8;
const ENTRY: usize = MAGIC.len() + NUMBERS * 8 + BLOOM + SUM;

/// Name of the file beside a segment.
fn path(dir: &Path, number: u32) -> PathBuf {
    segment::path(dir, number).with_extension("index")
}

/// What is known of the records between two places of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// Where the first of its lines begins, and where the last one ends.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Numbers of the first and last record.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Between these times they were written.
    min_ms: u64,
    max_ms: u64,
    bloom: Box<[u8; BLOOM]>,
}

impl Block {
    fn new(from: u64, first: u64) -> Self {
        Self {
            from,
            to: from,
            first,
            last: first,
            min_ms: u64::MAX,
            max_ms: 0,
            bloom: Box::new([0; BLOOM]),
        }
    }

    fn add(&mut self, token: u64) {
        for bit in bits(token) {
            self.bloom[bit / 8] |= 1 << (bit % 8);
        }
    }

    fn has(&self, token: u64) -> bool {
        bits(token).all(|bit| self.bloom[bit / 8] & (1 << (bit % 8)) != 0)
    }

    /// Whether a record that is wanted may be among them.
    pub(crate) fn may_have(&self, wanted: &Wanted) -> bool {
        self.min_ms <= wanted.until_ms
            && self.max_ms >= wanted.since_ms
            && wanted.all.iter().all(|token| self.has(*token))
            && (wanted.any.is_empty() || wanted.any.iter().any(|token| self.has(*token)))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENTRY);
        bytes.extend_from_slice(&MAGIC);
        for number in [
            self.from,
            self.to,
            self.first,
            self.last,
            self.min_ms,
            self.max_ms,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&*self.bloom);
        let sum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&sum[..SUM]);
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_at_checked(ENTRY - SUM)?;
        if !body.starts_with(&MAGIC) || sum != &Sha256::digest(body)[..SUM] {
            return None;
        }
        let (numbers, bloom) = body[MAGIC.len()..].split_at(NUMBERS * 8);
        let number = |index: usize| {
            let bytes = numbers[index * 8..][..8].try_into().ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        Some(Self {
            from: number(0)?,
            to: number(1)?,
            first: number(2)?,
            last: number(3)?,
            min_ms: number(4)?,
            max_ms: number(5)?,
            bloom: Box::new(bloom.try_into().ok()?),
        })
    }
}

/// The blocks of a segment of this length, in order; none of what is damaged, or no longer there.
pub(crate) fn blocks(dir: &Path, number: u32, length: u64) -> Vec<Block> {
    // An entry is shorter than what it is about.
    let Ok(bytes) = segment::read_small(&path(dir, number), length) else {
        return Vec::new();
    };
    let mut end = 0;
    bytes
        .chunks_exact(ENTRY)
        .map_while(Block::read)
        .take_while(|block| {
            let fits = block.from >= end && block.to > block.from && block.to <= length;
            end = block.to;
            fits
        })
        .collect()
}

/// Removes the file beside a segment that is removed.
pub(crate) fn remove(dir: &Path, number: u32) {
    // One that is not there is removed, and one that stays is read by nobody.
    let _ = fs::remove_file(path(dir, number));
}

/// Writes the file beside the segment that is written. What fails here is a list that takes longer, and never a record.
#[derive(Debug)]
pub(crate) struct Indexer {
    file: Option<File>,
    /// What is being collected, with how many records.
    block: Option<(Block, u64)>,
}

impl Indexer {
    /// Goes on beside a segment that has come to this length.
    pub(crate) fn open(dir: &Path, number: u32, length: u64) -> Self {
        let good = blocks(dir, number, length).len() * ENTRY;
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .open(path(dir, number))
            .and_then(|file| file.set_len(good as u64).map(|()| file));
        Self {
            file: file.ok(),
            block: None,
        }
    }

    /// Takes up a record whose line is between these places.
    pub(crate) fn add(&mut self, entry: &Entry, seq: u64, utc_ms: u64, from: u64, to: u64) {
        if self.file.is_none() {
            return;
        }
        let (block, count) = self.block.get_or_insert_with(|| (Block::new(from, seq), 0));
        block.to = to;
        block.last = seq;
        block.min_ms = block.min_ms.min(utc_ms);
        block.max_ms = block.max_ms.max(utc_ms);
        for token in tokens(entry) {
            block.add(token);
        }
        *count += 1;
    }

    /// Forgets what was collected of lines that are not in the file after all, and of those before them that are in no block yet.
    pub(crate) fn forget(&mut self) {
        self.block = None;
    }

    /// Writes the block if it is full, or if the segment ends.
    pub(crate) fn flush(&mut self, ends: bool) {
        let Some((block, count)) = &self.block else {
            return;
        };
        if !ends && *count < BLOCK_RECORDS {
            return;
        }
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(&block.bytes())
        {
            tracing::warn!(error = %error, "the index of the audit log cannot be written; lists take longer");
            // Whatever of it was written is no block, and nothing behind it would be read.
            self.file = None;
        }
        self.block = None;
    }
}

/// What a filter asks of blocks.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    since_ms: u64,
    until_ms: u64,
    all: Vec<u64>,
    any: Vec<u64>,
}

impl Wanted {
    pub(crate) fn of(filter: &Filter) -> Self {
        let mut all = Vec::new();
        if let Some(action) = filter.action {
            all.push(alone(ACTION, action.as_bytes()));
        }
        if let Some((name, value)) = &filter.detail
            && name == "secret"
        {
            all.push(alone(SECRET, value.as_bytes()));
        }
        let parts = [
            filter.uid.map(|uid| part(0, &uid.to_le_bytes())),
            filter.agent.as_ref().map(|it| part(1, it.as_bytes())),
            filter.kind.map(|it| part(2, word(&it).as_bytes())),
            filter.outcome.as_ref().map(|it| part(3, it.as_bytes())),
        ];
        let known = parts.iter().any(Option::is_some);
        let parts = parts.into_iter().flatten().fold(0, |all, it| all ^ it);
        let with = |event| finish(parts ^ part(4, word(event).as_bytes()));
        let any: Vec<u64> = filter.events.iter().map(with).collect();
        if any.is_empty() && known {
            all.push(finish(parts));
        }
        Self {
            since_ms: filter.since_ms.unwrap_or(0),
            until_ms: filter.until_ms.unwrap_or(u64::MAX),
            all,
            any,
        }
    }
}

const ACTION: u8 = 100;
const SECRET: u8 = 101;

/// Everything that somebody could ask for and find this record.
fn tokens(entry: &Entry) -> Vec<u64> {
    let parts: Vec<u64> = [
        entry.actor.map(|actor| part(0, &actor.uid.to_le_bytes())),
        entry.detail.get("agent").map(|it| part(1, it.as_bytes())),
        entry.kind.map(|it| part(2, word(&it).as_bytes())),
        entry.outcome.as_ref().map(|it| part(3, it.as_bytes())),
        Some(part(4, word(&entry.event).as_bytes())),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut tokens: Vec<u64> = (1_usize..1 << parts.len())
        .map(|chosen| {
            let chosen = (0..parts.len()).filter(|index| chosen & (1 << index) != 0);
            finish(chosen.fold(0, |all, index| all ^ parts[index]))
        })
        .collect();
    if let Some(action) = entry.action {
        tokens.push(alone(ACTION, action.as_bytes()));
    }
    if let Some(secret) = entry.detail.get("secret") {
        tokens.push(alone(SECRET, secret.as_bytes()));
    }
    tokens
}

/// The word that stands for a kind or an event in the log.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn alone(what: u8, bytes: &[u8]) -> u64 {
    finish(part(what, bytes))
}

/// FNV-1a over what it is and what it says. Nobody gains anything by two that are the same.
fn part(what: u8, bytes: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325_u64;
    let hash = [what].iter().chain(bytes).fold(start, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    finish(hash)
}

/// Spreads what differs over all bits.
const fn finish(mut hash: u64) -> u64 {
    hash ^= hash >> 30;
    hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^= hash >> 27;
    hash = hash.wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

fn bits(token: u64) -> impl Iterator<Item = usize> {
    (0..4).map(move |n| (token >> (n * 16)) as usize % (BLOOM * 8))
}

#[cfg(test)]
mod tests {
    use paw_api::audit::{Actor, Event};
    use paw_policy::Kind;

    use super::*;

    fn entry(n: u32) -> Entry {
        let mut entry = Entry::new(Event::ActionEnded);
        entry.action = Some(uuid::Uuid::from_u128(u128::from(n)));
        entry.actor = Some(Actor {
            uid: n % 3,
            gid: 1,
            pid: 1,
            role: None,
        });
        entry.kind = Some(Kind::Chat);
        entry.outcome = Some(
            if n.is_multiple_of(50) {
                "failed"
            } else {
                "completed"
            }
            .into(),
        );
        entry.detail.insert("agent".into(), format!("a{}", n % 5));
        entry
    }

    #[test]
    fn block_has_what_its_records_are_about_and_little_else() {
        let mut block = Block::new(10, 1);
        for n in 0..256 {
            for token in tokens(&entry(n)) {
                block.add(token);
            }
        }
        (block.min_ms, block.max_ms, block.to) = (100, 200, 5000);
        let again = Block::read(&block.bytes());
        assert_eq!(again.as_ref(), Some(&block));
        let may = |filter: Filter| block.may_have(&Wanted::of(&filter));
        let of = |uid, agent: &str, outcome: &str| Filter {
            uid: Some(uid),
            agent: Some(agent.into()),
            outcome: Some(outcome.into()),
            events: vec![Event::JobAdded, Event::ActionEnded],
            ..Filter::default()
        };
        assert!(may(of(0, "a0", "failed")), "record 0");
        assert!(
            !may(of(1, "a1", "failed")),
            "each of it is there, and never together"
        );
        let action = |n| Filter {
            action: Some(uuid::Uuid::from_u128(n)),
            ..Filter::default()
        };
        assert!((0..256).all(|n| may(action(n))));
        let wrong = (256..10_256).filter(|n| may(action(*n))).count();
        assert!(wrong < 200, "{wrong} of 10,000");
        let between = |since, until| Filter {
            since_ms: Some(since),
            until_ms: Some(until),
            ..Filter::default()
        };
        assert!(may(between(200, 300)) && may(between(0, 100)));
        assert!(!may(between(201, 300)) && !may(between(0, 99)));
    }

    #[test]
    fn damaged_block_is_none() {
        let good = Block::new(10, 1).bytes();
        for byte in 0..good.len() {
            let mut bytes = good.clone();
            bytes[byte] ^= 1;
            assert_eq!(Block::read(&bytes), None, "byte {byte}");
        }
        assert_eq!(Block::read(&good[..40]), None);
    }
}
