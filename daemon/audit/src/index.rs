//! What makes a filter quick: beside each segment a file that says, for every few hundred records, what they may be about.
//!
//! A block has the times and numbers of its records, and two Bloom filters: one over each of who, which agent, kind, event, outcome, action
//! and secret by itself, one over the first five in pairs. The first has few members however different the records are, so that what
//! never was is in none of them; the second tells of two that are never together. A reader looks into the blocks that may have what is
//! wanted, and at whatever no block covers. Nothing is signed here and nothing depends on it: without the file, or with a
//! damaged one, a list takes longer, until the writer starts again and makes what is missing. Who can write the directory could hide
//! records from a list by it, and not from [`crate::verify`] or an export, which do not read it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use paw_api::audit::Entry;

use crate::{
    format::{is_checkpoint, parse_record},
    read::Filter,
    segment::{self, Lines, Next},
};

/// How many records are in one block.
const BLOCK_RECORDS: u64 = 256;

/// Bytes of each of a block's filters: with 350 members one of a thousand answers is wrong.
const BLOOM: usize = 1024;

/// So many segments are given what is missing beside them when the writer starts: each takes a third of a second.
const MADE_AT_START: usize = 8;

/// A block of another version is none.
const MAGIC: [u8; 4] = *b"pai2";
const NUMBERS: usize = 6;
const SUM: usize = 8;
const ENTRY: usize = MAGIC.len() + NUMBERS * 8 + 2 * BLOOM + SUM;

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
    blooms: Box<[u8; 2 * BLOOM]>,
}

/// What somebody could ask for and find a record, or what somebody asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tokens {
    alone: Vec<u64>,
    pairs: Vec<u64>,
}

impl Tokens {
    /// Of these parts, of which a record has each, and all together.
    fn of(parts: &[u64]) -> Self {
        let mut tokens = Self::default();
        for (index, one) in parts.iter().enumerate() {
            tokens.alone.push(*one);
            let pairs = parts[..index].iter().map(|other| finish(one ^ other));
            tokens.pairs.extend(pairs);
        }
        tokens
    }

    /// The bits that stand for them.
    fn bits(&self) -> impl Iterator<Item = usize> {
        let alone = self.alone.iter().flat_map(|token| bits(*token));
        let pairs = self.pairs.iter().flat_map(|token| bits(*token));
        alone.chain(pairs.map(|bit| bit + BLOOM * 8))
    }
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
            blooms: Box::new([0; 2 * BLOOM]),
        }
    }

    fn add(&mut self, tokens: &Tokens) {
        for bit in tokens.bits() {
            self.blooms[bit / 8] |= 1 << (bit % 8);
        }
    }

    fn has(&self, tokens: &Tokens) -> bool {
        let mut bits = tokens.bits();
        bits.all(|bit| self.blooms[bit / 8] & (1 << (bit % 8)) != 0)
    }

    /// Whether a record that is wanted may be among them.
    pub(crate) fn may_have(&self, wanted: &Wanted) -> bool {
        self.min_ms <= wanted.until_ms
            && self.max_ms >= wanted.since_ms
            && wanted.any.iter().any(|tokens| self.has(tokens))
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
        bytes.extend_from_slice(&*self.blooms);
        let sum = sum(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (body, its_sum) = bytes.split_at_checked(ENTRY - SUM)?;
        if !body.starts_with(&MAGIC) || its_sum != sum(body) {
            return None;
        }
        let (numbers, blooms) = body[MAGIC.len()..].split_at(NUMBERS * 8);
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
            blooms: Box::new(blooms.try_into().ok()?),
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

/// Makes what is missing beside segments that are written no more, because another version wrote them or somebody removed it: beside the
/// newest of them first, and beside a few at a time.
pub(crate) fn complete(dir: &Path, numbers: &[u32]) {
    let without = |number: &&u32| {
        let mut magic = Vec::with_capacity(MAGIC.len());
        let read = segment::open(&path(dir, **number))
            .and_then(|it| it.take(MAGIC.len() as u64).read_to_end(&mut magic));
        read.is_err()
            || magic != MAGIC && !(magic.is_empty() && is_bare(&segment::path(dir, **number)))
    };
    for number in numbers.iter().rev().filter(without).take(MADE_AT_START) {
        if let Ok(facts) = segment::path(dir, *number).metadata() {
            Indexer::open(dir, *number, facts.len()).flush(true);
        }
    }
}

/// Whether a segment has its first line and nothing else: then there is nothing in the file beside it.
fn is_bare(path: &Path) -> bool {
    Lines::open(path).is_ok_and(|mut lines| {
        matches!(lines.next(), Ok(Next::Line(_))) && matches!(lines.next(), Ok(Next::End))
    })
}

/// Writes the file beside the segment that is written. What fails here is a list that takes longer, and never a record.
#[derive(Debug)]
pub(crate) struct Indexer {
    file: Option<File>,
    /// What is being collected, with how many records.
    block: Option<(Block, u64)>,
}

impl Indexer {
    /// Goes on beside a segment that has come to this length, with what is in no block yet.
    pub(crate) fn open(dir: &Path, number: u32, length: u64) -> Self {
        let blocks = blocks(dir, number, length);
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .open(path(dir, number))
            .and_then(|file| file.set_len((blocks.len() * ENTRY) as u64).map(|()| file));
        let mut indexer = Self {
            file: file.ok(),
            block: None,
        };
        let end = blocks.last().map_or(0, |block| block.to);
        if let Err(error) = indexer.read(&segment::path(dir, number), end, length) {
            tracing::warn!(error = %error, "the audit log cannot be read for its index; lists take longer");
            indexer.forget();
        }
        indexer
    }

    /// Takes up the records between these places of a segment.
    fn read(&mut self, path: &Path, from: u64, length: u64) -> io::Result<()> {
        let mut lines = Lines::open_at(path, from)?;
        while lines.next_offset() < length
            && let Next::Line(line) = lines.next()?
        {
            if is_checkpoint(line) {
                continue;
            }
            let Ok(record) = parse_record(line) else {
                continue;
            };
            let (seq, utc_ms) = (record.seq, record.utc_ms);
            // One of another version, which cannot be read, is one that no filter finds.
            let entry = serde_json::from_str::<Entry>(record.entry.get());
            let tokens = entry.map(|entry| tokens(&entry)).unwrap_or_default();
            let (from, to) = (lines.offset, lines.next_offset());
            self.take(&tokens, seq, utc_ms, from, to);
            self.flush(false);
        }
        Ok(())
    }

    /// Takes up a record whose line is between these places.
    pub(crate) fn add(&mut self, entry: &Entry, seq: u64, utc_ms: u64, from: u64, to: u64) {
        if self.file.is_some() {
            self.take(&tokens(entry), seq, utc_ms, from, to);
        }
    }

    fn take(&mut self, tokens: &Tokens, seq: u64, utc_ms: u64, from: u64, to: u64) {
        let (block, count) = self.block.get_or_insert_with(|| (Block::new(from, seq), 0));
        block.to = to;
        block.last = seq;
        block.min_ms = block.min_ms.min(utc_ms);
        block.max_ms = block.max_ms.max(utc_ms);
        block.add(tokens);
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
    /// All of one of these.
    any: Vec<Tokens>,
}

impl Wanted {
    pub(crate) fn of(filter: &Filter) -> Self {
        let parts: Vec<u64> = [
            filter.uid.map(|uid| part(0, &uid.to_le_bytes())),
            filter.agent.as_ref().map(|it| part(1, it.as_bytes())),
            filter.kind.map(|it| part(2, word(&it).as_bytes())),
            filter.outcome.as_ref().map(|it| part(3, it.as_bytes())),
        ]
        .into_iter()
        .flatten()
        .collect();
        let secret = filter.detail.as_ref().filter(|(name, _)| name == "secret");
        let of = |event: Option<u64>| {
            let parts: Vec<u64> = parts.iter().copied().chain(event).collect();
            let mut tokens = Tokens::of(&parts);
            let action = filter.action.map(|it| part(ACTION, it.as_bytes()));
            let secret = secret.map(|(_, value)| part(SECRET, value.as_bytes()));
            tokens.alone.extend(action.into_iter().chain(secret));
            tokens
        };
        let events = filter.events.iter();
        let mut any: Vec<Tokens> = events
            .map(|event| of(Some(part(4, word(event).as_bytes()))))
            .collect();
        if any.is_empty() {
            any.push(of(None));
        }
        Self {
            since_ms: filter.since_ms.unwrap_or(0),
            until_ms: filter.until_ms.unwrap_or(u64::MAX),
            any,
        }
    }
}

const ACTION: u8 = 100;
const SECRET: u8 = 101;

/// Everything that somebody could ask for and find this record.
fn tokens(entry: &Entry) -> Tokens {
    let parts: Vec<u64> = [
        entry
            .actor
            .as_ref()
            .map(|actor| part(0, &actor.uid.to_le_bytes())),
        entry.detail.get("agent").map(|it| part(1, it.as_bytes())),
        entry.kind.map(|it| part(2, word(&it).as_bytes())),
        entry.outcome.as_ref().map(|it| part(3, it.as_bytes())),
        Some(part(4, word(&entry.event).as_bytes())),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut tokens = Tokens::of(&parts);
    let action = entry.action.map(|it| part(ACTION, it.as_bytes()));
    let secret = entry.detail.get("secret");
    let secret = secret.map(|it| part(SECRET, it.as_bytes()));
    tokens.alone.extend(action.into_iter().chain(secret));
    tokens
}

/// The word that stands for a kind or an event in the log.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
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

/// Whether bytes are those that were written; against a disk and a crash, and nobody else.
fn sum(bytes: &[u8]) -> [u8; SUM] {
    let mut words = bytes.chunks_exact(8);
    let mut sum = bytes.len() as u64;
    for word in words.by_ref() {
        let mut eight = [0; 8];
        eight.copy_from_slice(word);
        sum = finish(sum ^ u64::from_le_bytes(eight));
    }
    for byte in words.remainder() {
        sum = finish(sum ^ u64::from(*byte));
    }
    sum.to_le_bytes()
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
            unit: None,
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
            block.add(&tokens(&entry(n)));
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
    fn what_never_was_is_in_few_blocks_however_different_their_records_are() {
        let mut block = Block::new(10, 1);
        for n in 0..256 {
            let mut entry = entry(n);
            let actor = entry.actor.as_mut().expect("it has one");
            actor.uid = n;
            entry.detail.insert("agent".into(), format!("agent {n}"));
            entry.outcome = Some(format!("outcome {n}"));
            block.add(&tokens(&entry));
        }
        (block.min_ms, block.max_ms) = (0, u64::MAX);
        let may = |filter: Filter| block.may_have(&Wanted::of(&filter));
        let user = |uid| Filter {
            uid: Some(uid),
            ..Filter::default()
        };
        assert!((0..256).all(|uid| may(user(uid))));
        let wrong = (256..10_256).filter(|uid| may(user(*uid))).count();
        assert!(wrong < 500, "{wrong} of 10,000");
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
