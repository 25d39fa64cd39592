//! The pattern families of `policy/guard/patterns.toml`: keywords first, then expressions in their neighbourhood.
//!
//! One pass finds the keywords; where there are none, no expression runs. Around a keyword those patterns that
//! name it are tried, as byte expressions without Unicode tables; all of it is linear in the length of the view. One set of all
//! expressions was a hundred times slower: together they need more states than any cache of an automaton holds.

use std::collections::BTreeMap;

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

use super::{Family, fold};

/// How far before and behind a keyword an expression is tried, in bytes.
const BEFORE: usize = 200;
const BEHIND: usize = 260;
/// The largest program of one expression, in bytes.
const MAX_COMPILED: usize = 4 << 20;

/// A file of patterns, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pattern: Vec<Pattern>,
}

/// One pattern, as it is written; the file itself says what the fields mean.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pattern {
    pub(super) id: String,
    pub(super) family: Family,
    /// How much a match says, 0 to 1.
    pub(super) score: f32,
    keys: Vec<String>,
    expression: String,
    /// Why it is there, who described it, and texts it must and must not match: read by people and by its test.
    #[cfg_attr(not(test), expect(dead_code, reason = "for people and tests"))]
    pub(super) reason: String,
    #[cfg_attr(not(test), expect(dead_code, reason = "for people and tests"))]
    pub(super) sources: Vec<String>,
    #[cfg_attr(not(test), expect(dead_code, reason = "for people and tests"))]
    pub(super) hits: Vec<String>,
    #[cfg_attr(not(test), expect(dead_code, reason = "for people and tests"))]
    #[serde(default)]
    pub(super) misses: Vec<String>,
}

/// Why a file of patterns cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// It is not TOML, or says what no pattern says.
    #[error("read the patterns")]
    Toml(#[from] toml::de::Error),
    /// An expression is not one, or is too large.
    #[error("compile the expressions")]
    Expression(#[from] regex::Error),
    /// A pattern names a keyword of nothing, which would be everywhere.
    #[error("pattern {0} has an empty keyword")]
    Keyword(String),
    /// More than there are bits.
    #[error("{0} patterns; at most {MAX_PATTERNS} can be used")]
    TooMany(usize),
    /// A score that is no probability.
    #[error("pattern {0} has a score outside 0 to 1")]
    Score(String),
}

/// Patterns, ready.
#[derive(Debug)]
pub(super) struct Patterns {
    pub(super) all: Vec<Pattern>,
    keywords: Keywords,
    each: Vec<Regex>,
}

/// One bit of a `u128` for each.
const MAX_PATTERNS: usize = 128;

/// A pattern that matched, and where in the view.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hit {
    pub(super) pattern: usize,
    pub(super) span: (usize, usize),
}

impl Patterns {
    pub(super) fn read(text: &str) -> Result<Self, PatternError> {
        let file: File = toml::from_str(text)?;
        for pattern in &file.pattern {
            if !(0.0..=1.0).contains(&pattern.score) {
                return Err(PatternError::Score(pattern.id.clone()));
            }
        }
        if file.pattern.len() > MAX_PATTERNS {
            return Err(PatternError::TooMany(file.pattern.len()));
        }
        let mut keys: BTreeMap<String, u128> = BTreeMap::new();
        for (index, pattern) in file.pattern.iter().enumerate() {
            for key in &pattern.keys {
                let key = fold::fold_pattern(key);
                if key.is_empty() {
                    return Err(PatternError::Keyword(pattern.id.clone()));
                }
                *keys.entry(key).or_default() |= 1 << index;
            }
        }
        let each = file
            .pattern
            .iter()
            .map(|pattern| {
                let expression = expanded(&pattern.expression);
                RegexBuilder::new(&expression)
                    .unicode(false)
                    .size_limit(MAX_COMPILED)
                    .build()
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            keywords: Keywords::new(keys),
            all: file.pattern,
            each,
        })
    }

    /// The patterns that match a folded view, each once, with the first place.
    pub(super) fn hits(&self, view: &[u8]) -> Vec<Hit> {
        let mut hits: Vec<Hit> = Vec::new();
        // For each pattern the piece around its keywords that is not tried yet.
        let mut open: Vec<(usize, usize)> = Vec::new();
        let (mut waiting, mut matched) = (0_u128, 0_u128);
        self.keywords.each(view, |named, start, end| {
            let mut named = named & !matched;
            if named == 0 {
                return;
            }
            if open.is_empty() {
                open.resize(self.each.len(), (0, 0));
            }
            let (start, end) = (start.saturating_sub(BEFORE), (end + BEHIND).min(view.len()));
            while named != 0 {
                let pattern = named.trailing_zeros() as usize;
                named &= named - 1;
                let bit = 1 << pattern;
                let piece = &mut open[pattern];
                if waiting & bit != 0 && start > piece.1 {
                    if let Some(hit) = self.tried(view, pattern, *piece) {
                        matched |= bit;
                        waiting &= !bit;
                        hits.push(hit);
                        continue;
                    }
                    waiting &= !bit;
                }
                *piece = if waiting & bit == 0 {
                    (start, end)
                } else {
                    (piece.0, end.max(piece.1))
                };
                waiting |= bit;
            }
        });
        while waiting != 0 {
            let pattern = waiting.trailing_zeros() as usize;
            waiting &= waiting - 1;
            hits.extend(self.tried(view, pattern, open[pattern]));
        }
        hits
    }

    fn tried(&self, view: &[u8], pattern: usize, (from, to): (usize, usize)) -> Option<Hit> {
        let found = self.each[pattern].find(&view[from..to])?;
        Some(Hit {
            pattern,
            span: (from + found.start(), from + found.end()),
        })
    }
}

/// The keywords of all patterns, found in one pass.
///
/// Three bytes are hashed at each place, and only where a keyword begins with such are those compared. The table of an automaton
/// of all keywords is larger than what a processor keeps near.
#[derive(Debug)]
struct Keywords {
    /// One bit for each hash of three bytes that a keyword begins with.
    begins: Box<[u64; 1 << (HASH_BITS - 6)]>,
    /// Whether a keyword of one or two bytes begins with a byte, and those keywords.
    begins_short: [bool; 256],
    short: Vec<(Vec<u8>, u128)>,
    /// Hash, keyword, and one bit for each pattern that names it; sorted.
    longer: Vec<(u32, Vec<u8>, u128)>,
    /// Where those of a hash begin in `longer`.
    first: Box<[u16; 1 << HASH_BITS]>,
}

const HASH_BITS: u32 = 15;

fn hash_of(three: u32) -> u32 {
    three.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)
}

impl Keywords {
    fn new(keys: BTreeMap<String, u128>) -> Self {
        let mut keywords = Self {
            begins: Box::new([0; 1 << (HASH_BITS - 6)]),
            begins_short: [false; 256],
            short: Vec::new(),
            longer: Vec::new(),
            first: Box::new([0; 1 << HASH_BITS]),
        };
        for (key, named_by) in keys {
            let key = key.into_bytes();
            if let [a, b, c, ..] = key.as_slice() {
                let hash = hash_of(u32::from_le_bytes([0, *a, *b, *c]));
                keywords.longer.push((hash, key, named_by));
            } else {
                keywords.begins_short[usize::from(key[0])] = true;
                keywords.short.push((key, named_by));
            }
        }
        keywords.longer.sort();
        for (index, (hash, ..)) in keywords.longer.iter().enumerate().rev() {
            keywords.first[*hash as usize] = index as u16;
            keywords.begins[*hash as usize >> 6] |= 1 << (hash & 63);
        }
        keywords
    }

    /// Calls `meet` with the patterns, the start and the end of each keyword in a view, by their starts.
    #[inline]
    fn each(&self, view: &[u8], mut meet: impl FnMut(u128, usize, usize)) {
        // The last three bytes, and a byte behind the end for each that is still to leave.
        let mut three = 0_u32;
        for (at, byte) in view.iter().chain(&[0, 0]).enumerate() {
            three = three >> 8 | u32::from(*byte) << 24;
            let Some(start) = at.checked_sub(2) else {
                continue;
            };
            if self.begins_short[(three >> 8 & 0xff) as usize] {
                for (key, named_by) in &self.short {
                    if view[start..].starts_with(key) {
                        meet(*named_by, start, start + key.len());
                    }
                }
            }
            let hash = hash_of(three & !0xff);
            if self.begins[hash as usize >> 6] >> (hash & 63) & 1 == 0 {
                continue;
            }
            let of_hash = &self.longer[usize::from(self.first[hash as usize])..];
            for (_, key, named_by) in of_hash.iter().take_while(|longer| longer.0 == hash) {
                if view[start..].starts_with(key) {
                    meet(*named_by, start, start + key.len());
                }
            }
        }
    }
}

/// Writes out the short forms of an expression: a space is any gap between words, `~` is up to four words; with a `?` behind
/// them they may be nothing. Letters are folded as texts are.
fn expanded(expression: &str) -> String {
    let mut out = String::with_capacity(expression.len() * 2);
    let folded = fold::fold_pattern(expression);
    let mut characters = folded.chars().peekable();
    let mut in_class = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                out.push(character);
                out.extend(characters.next());
            }
            ' ' if !in_class => match characters.next_if_eq(&'?') {
                Some(_) => out.push_str("[^a-z0-9]{0,5}"),
                None => out.push_str("[^a-z0-9]{1,5}"),
            },
            '~' if !in_class => match characters.next_if_eq(&'?') {
                Some(_) => out.push_str("(?:[^a-z0-9]+[a-z0-9']+){0,4}[^a-z0-9]*"),
                None => out.push_str("(?:[^a-z0-9]+[a-z0-9']+){0,4}[^a-z0-9]+"),
            },
            other => {
                in_class = match other {
                    '[' => true,
                    ']' => false,
                    _ => in_class,
                };
                out.push(other);
            }
        }
    }
    out
}
