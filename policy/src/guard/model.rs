//! The statistical classifiers: logistic regression over hashed words, pairs of words, pieces of words
//! and marks of the folded view, and over the shapes of the text as it is written ([`shape`]).
//!
//! A view is read in blocks of 210 bytes, for shapes of 80; a window is two neighbouring blocks, and a text is as suspicious as its
//! most suspicious window, so that one sentence in a long page counts as much as alone. The weights are a file of the repository,
//! made by `policy/examples/guard-train.rs`; this module only reads them.

use std::ops::Range;

use super::shape;

/// Bytes of a block. Two neighbours make a window.
pub const BLOCK: usize = 210;
/// Features are hashed into this many bits.
pub const BITS: u32 = 18;
/// The longest word that is read letter by letter, in bytes.
const LONGEST_WORD: usize = 24;
const MAGIC: &[u8; 8] = b"PAWGUAR2";
/// Bias, scale, slope and offset of the calibration.
const HEADER: usize = 4 * 4;
/// The magic and two tables.
const LENGTH: usize = MAGIC.len() + 2 * HEADER + (1 << BITS) + (1 << shape::BITS);

/// The weights of both classifiers: of words in a folded view, and of shapes in a text as it is written.
#[derive(Debug)]
pub struct Model {
    words: Table<{ 1 << BITS }>,
    shapes: Table<{ 1 << shape::BITS }>,
}

/// The weights of one classifier, and how a sum of them becomes a probability.
#[derive(Debug)]
struct Table<const SIZE: usize> {
    weights: Box<[i8; SIZE]>,
    bias: f32,
    scale: f32,
    slope: f32,
    offset: f32,
}

/// What a trainer learnt for one classifier.
#[derive(Debug, Clone, Copy)]
pub struct Learnt<'a> {
    /// One for each hash.
    pub weights: &'a [f32],
    /// What a window without features has.
    pub bias: f32,
    /// Slope and offset that turn a sum into log odds.
    pub calibration: (f32, f32),
}

/// What a classifier says about a view.
#[derive(Debug, Clone, PartialEq)]
pub struct Guess {
    /// How likely the view is an attack, 0 to 1.
    pub probability: f32,
    /// The window that is most like one, in bytes of the view.
    pub window: Range<usize>,
}

/// Why a file of weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// It does not begin as such a file does.
    #[error("not a file of guard weights")]
    Magic,
    /// It is shorter or longer than its kind is.
    #[error("{0} bytes instead of {LENGTH}")]
    Length(usize),
}

impl Model {
    /// Reads what [`Model::write`] wrote.
    pub fn read(bytes: &[u8]) -> Result<Self, ModelError> {
        let tables = bytes.strip_prefix(MAGIC).ok_or(ModelError::Magic)?;
        let read = |tables| {
            let (words, rest) = Table::read(tables)?;
            let (shapes, rest) = Table::read(rest)?;
            rest.is_empty().then_some(Self { words, shapes })
        };
        read(tables).ok_or(ModelError::Length(bytes.len()))
    }

    /// The bytes of weights that were learnt, rounded to 255 steps.
    pub fn write(words: Learnt<'_>, shapes: Learnt<'_>) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        words.write(&mut bytes);
        shapes.write(&mut bytes);
        bytes
    }

    /// The window of a folded view whose words are most suspicious.
    pub fn guess(&self, view: &[u8]) -> Guess {
        let mut windows = Windows::new(&self.words);
        walk(view, |block, index| windows.feature(block, index));
        windows.guess(view.len(), BLOCK)
    }

    /// The window of a text, as it is written, whose shapes are most like letters that a search found.
    pub fn shapes(&self, text: &[u8]) -> Guess {
        let mut windows = Windows::new(&self.shapes);
        shape::walk(text, |block, index| windows.feature(block, index));
        windows.guess(text.len(), shape::BLOCK)
    }
}

impl Learnt<'_> {
    fn write(self, bytes: &mut Vec<u8>) {
        let mut sizes: Vec<f32> = self
            .weights
            .iter()
            .map(|w| w.abs())
            .filter(|w| *w > 0.0)
            .collect();
        sizes.sort_by(f32::total_cmp);
        // A handful of giant weights must not cost all others their precision.
        let largest = sizes.get(sizes.len().saturating_sub(1 + sizes.len() / 2000));
        let scale = largest.copied().unwrap_or(1.0).max(1e-6) / 127.0;
        for number in [self.bias, scale, self.calibration.0, self.calibration.1] {
            bytes.extend(number.to_le_bytes());
        }
        let rounded = |w: &f32| (w / scale).round().clamp(-127.0, 127.0) as i8 as u8;
        bytes.extend(self.weights.iter().map(rounded));
    }
}

impl<const SIZE: usize> Table<SIZE> {
    /// The table that bytes begin with, and the bytes behind it. None if they are too few.
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = bytes.split_at_checked(HEADER)?;
        let (weights, rest) = rest.split_at_checked(SIZE)?;
        let number = |index: usize| {
            let at = 4 * index;
            f32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let weights: Box<[i8]> = weights.iter().map(|byte| *byte as i8).collect();
        let table = Self {
            weights: weights.try_into().ok()?,
            bias: number(0),
            scale: number(1),
            slope: number(2),
            offset: number(3),
        };
        Some((table, rest))
    }

    fn value(&self, sum: i32, count: u32) -> f32 {
        self.bias + sum as f32 * self.scale * norm(count)
    }
}

/// The features of a view so far: of the block that is read, of the one before it, and the most suspicious window.
struct Windows<'a, const SIZE: usize> {
    table: &'a Table<SIZE>,
    block: usize,
    now: (i32, u32),
    last: (i32, u32),
    best: (f32, usize),
}

impl<'a, const SIZE: usize> Windows<'a, SIZE> {
    fn new(table: &'a Table<SIZE>) -> Self {
        Self {
            table,
            block: 0,
            now: (0, 0),
            last: (0, 0),
            best: (f32::MIN, 0),
        }
    }

    #[inline]
    fn feature(&mut self, block: usize, index: u32) {
        if block != self.block {
            self.close();
            let next_to_it = block == self.block + 1;
            self.last = if next_to_it { self.now } else { (0, 0) };
            self.now = (0, 0);
            self.block = block;
        }
        self.now.0 += i32::from(self.table.weights[index as usize]);
        self.now.1 += 1;
    }

    fn close(&mut self) {
        let count = self.last.1 + self.now.1;
        if count > 0 {
            let value = self.table.value(self.last.0 + self.now.0, count);
            if value > self.best.0 {
                self.best = (value, self.block);
            }
        }
    }

    /// The most suspicious window of a view of so many bytes, in blocks of so many.
    fn guess(mut self, length: usize, block: usize) -> Guess {
        self.close();
        let (value, at) = self.best;
        if value == f32::MIN {
            return Guess {
                probability: 0.0,
                window: 0..0,
            };
        }
        Guess {
            probability: sigmoid(self.table.slope * value + self.table.offset),
            window: at.saturating_sub(1) * block..((at + 1) * block).min(length),
        }
    }
}

/// What a sum over so many features is multiplied with.
pub fn norm(count: u32) -> f32 {
    // Half-way between the sum and the mean; few features prove little, so that a single word is not a sentence.
    4.0 / (count as f32 + 64.0).sqrt()
}

/// Log odds to a probability.
pub fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + (-value).exp())
}

#[derive(Clone, Copy, PartialEq)]
enum Class {
    Space,
    Letter,
    Digit,
    Mark,
    High,
}

const CLASS: [Class; 256] = {
    let mut class = [Class::Mark; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        class[byte] = if b <= b' ' {
            Class::Space
        } else if b.is_ascii_alphabetic() || b == b'\'' {
            Class::Letter
        } else if b.is_ascii_digit() {
            Class::Digit
        } else if b >= 0x80 {
            Class::High
        } else {
            Class::Mark
        };
        byte += 1;
    }
    class
};

/// Calls `feature` with the block and the hash of each feature of a folded view, in order: words and marks, pairs of
/// neighbours, four letters of a word, and how marks stand between words.
///
/// Longer and skipping pairs were tried, and cost more than they found in sources that were not learnt from.
#[inline]
pub fn walk(view: &[u8], mut feature: impl FnMut(usize, u32)) {
    let mut before = 1_u32;
    let mut at = 0;
    while at < view.len() {
        let start = at;
        let block = start / BLOCK;
        let hash = match CLASS[view[at] as usize] {
            Class::Space => {
                at += 1;
                continue;
            }
            Class::Digit => {
                while at < view.len() && CLASS[view[at] as usize] == Class::Digit {
                    at += 1;
                }
                // Numbers are alike; how long they are says enough.
                7 + (at - start).min(4) as u32
            }
            Class::Mark => {
                while at < view.len() && at - start < 8 && CLASS[view[at] as usize] == Class::Mark {
                    at += 1;
                }
                if at - start >= 2 {
                    let glued = u32::from(start > 0 && view[start - 1] > b' ')
                        + 2 * u32::from(view.get(at).is_some_and(|next| *next > b' '));
                    marks(&view[start..at], glued, block, &mut feature);
                }
                hash_of(&view[start..at])
            }
            Class::Letter | Class::High => {
                let hash;
                (at, hash) = word(view, at, |piece| feature(block, piece));
                hash
            }
        };
        feature(block, index(hash));
        feature(block, index(hash ^ before.wrapping_mul(0x85eb_ca6b)));
        before = hash;
    }
}

/// What kinds of marks follow each other, and whether words touch them: letters that a search found look like no language.
#[inline]
fn marks(run: &[u8], glued: u32, block: usize, feature: &mut impl FnMut(usize, u32)) {
    let shape = run.iter().take(4).fold(77_u32, |shape, byte| {
        shape.wrapping_mul(31).wrapping_add(match byte {
            b'(' | b'[' | b'{' | b'<' => 1,
            b')' | b']' | b'}' | b'>' => 2,
            b'"' | b'`' => 3,
            b'.' | b',' | b';' | b':' | b'!' | b'?' => 4,
            _ => 5,
        })
    });
    feature(block, index(shape));
    feature(block, index(9000 + glued));
    feature(block, index(shape.wrapping_mul(7).wrapping_add(glued)));
}

/// The end of the word that begins at `at`, and its hash; `piece` is told its four-letter pieces, with its edges. Scripts without
/// spaces give one word for each character.
#[inline]
fn word(view: &[u8], at: usize, mut piece: impl FnMut(u32)) -> (usize, u32) {
    const LONGEST: usize = 64;
    let is_character = |byte: u8| (0xe3..=0xed).contains(&byte);
    let longest = if is_character(view[at]) { 3 } else { LONGEST };
    let (mut hash, mut letters) = (EMPTY, u32::from(b'^'));
    let mut length = 0;
    for byte in view[at..].iter().take(longest) {
        let ends = match CLASS[*byte as usize] {
            Class::Letter => longest == 3,
            Class::High => longest == LONGEST && is_character(*byte),
            Class::Space | Class::Digit | Class::Mark => true,
        };
        if ends {
            break;
        }
        hash = hashed(hash, *byte);
        if length < LONGEST_WORD {
            letters = letters << 8 | u32::from(*byte);
            if length >= 2 {
                piece(index(letters ^ PIECE));
            }
        }
        length += 1;
    }
    if length >= 2 {
        piece(index((letters << 8 | u32::from(b'$')) ^ PIECE));
    }
    (at + length, hash)
}

/// Pieces of words are told from words by it.
const PIECE: u32 = 0x5bd1_e995;
const EMPTY: u32 = 0x811c_9dc5;

fn hashed(hash: u32, byte: u8) -> u32 {
    (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
}

fn hash_of(word: &[u8]) -> u32 {
    word.iter().fold(EMPTY, |hash, byte| hashed(hash, *byte))
}

fn index(hash: u32) -> u32 {
    (hash ^ (hash >> 15)).wrapping_mul(0x9e37_79b1) >> (32 - BITS)
}
