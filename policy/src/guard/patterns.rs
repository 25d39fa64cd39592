//! The pattern families of `policy/guard/patterns.toml`: keywords first, then expressions in their neighbourhood.
//!
//! One Aho-Corasick pass finds the keywords; where there are none, no expression runs. Around a keyword those patterns that
//! name it are tried, as byte expressions without Unicode tables; all of it is linear in the length of the view. One set of all
//! expressions was a hundred times slower: together they need more states than any cache of an automaton holds.

use std::collections::BTreeMap;

use aho_corasick::{
    Anchored,
    automaton::{Automaton as _, StateID},
    dfa::DFA,
};
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
    /// The keywords are too many.
    #[error("compile the keywords")]
    Keywords(#[from] aho_corasick::BuildError),
    /// The automaton of the keywords cannot be begun.
    #[error("begin the automaton of the keywords")]
    Start(#[from] aho_corasick::MatchError),
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
    keywords: DFA,
    start: StateID,
    /// For each keyword the patterns that name it, one bit each.
    named_by: Vec<u128>,
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
                *keys.entry(fold::fold_pattern(key)).or_default() |= 1 << index;
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
        let keywords = DFA::new(keys.keys())?;
        Ok(Self {
            start: keywords.start_state(Anchored::No)?,
            keywords,
            named_by: keys.into_values().collect(),
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
        let mut meet = |key: usize, start: usize, end: usize| {
            let mut named = self.named_by[key] & !matched;
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
        };
        // The automaton by hand: its iterator begins a search anew behind every keyword, which takes as long as the search.
        let mut state = self.start;
        for (at, byte) in view.iter().enumerate() {
            state = self.keywords.next_state(Anchored::No, state, *byte);
            if self.keywords.is_special(state) && self.keywords.is_match(state) {
                for index in 0..self.keywords.match_len(state) {
                    let key = self.keywords.match_pattern(state, index);
                    let length = self.keywords.pattern_len(key);
                    meet(key.as_usize(), at + 1 - length, at + 1);
                }
            }
        }
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
