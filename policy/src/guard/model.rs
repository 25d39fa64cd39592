//! The statistical classifier: logistic regression over hashed words, pairs of words, pieces of words
//! and shapes of marks.
//!
//! A view is read in blocks of 210 bytes; a window is two neighbouring blocks, and a text is as suspicious as its most
//! suspicious window, so that one sentence in a long page counts as much as alone. The weights are a file of the repository,
//! made by `policy/examples/guard-train.rs`; this module only reads them.

use std::ops::Range;

/// Bytes of a block. Two neighbours make a window.
pub const BLOCK: usize = 210;
/// Features are hashed into this many bits.
pub const BITS: u32 = 18;
/// The longest word that is read letter by letter, in bytes.
const LONGEST_WORD: usize = 24;
const MAGIC: &[u8; 8] = b"PAWGUARD";
/// Magic, bias, scale, slope and offset of the calibration.
const HEADER: usize = 8 + 4 * 4;

/// The weights, and how a sum of them becomes a probability.
#[derive(Debug)]
pub struct Model {
    weights: Box<[i8]>,
    bias: f32,
    scale: f32,
    slope: f32,
    offset: f32,
}

/// What the classifier says about a view.
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
    #[error("{0} bytes instead of {expected}", expected = HEADER + (1 << BITS))]
    Length(usize),
}

impl Model {
    /// Reads what [`Model::write`] wrote.
    pub fn read(bytes: &[u8]) -> Result<Self, ModelError> {
        if !bytes.starts_with(MAGIC) {
            return Err(ModelError::Magic);
        }
        if bytes.len() != HEADER + (1 << BITS) {
            return Err(ModelError::Length(bytes.len()));
        }
        let number = |index: usize| {
            let at = MAGIC.len() + 4 * index;
            f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Ok(Self {
            weights: bytes[HEADER..].iter().map(|byte| *byte as i8).collect(),
            bias: number(0),
            scale: number(1),
            slope: number(2),
            offset: number(3),
        })
    }

    /// The bytes of weights that were learnt: one for each hash, rounded to 255 steps.
    ///
    /// `calibration` is the slope and offset that turn a sum into log odds.
    pub fn write(weights: &[f32], bias: f32, calibration: (f32, f32)) -> Vec<u8> {
        let mut sizes: Vec<f32> = weights
            .iter()
            .map(|w| w.abs())
            .filter(|w| *w > 0.0)
            .collect();
        sizes.sort_by(f32::total_cmp);
        // A handful of giant weights must not cost all others their precision.
        let largest = sizes.get(sizes.len().saturating_sub(1 + sizes.len() / 2000));
        let scale = largest.copied().unwrap_or(1.0).max(1e-6) / 127.0;
        let mut bytes = MAGIC.to_vec();
        for number in [bias, scale, calibration.0, calibration.1] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(
            weights
                .iter()
                .map(|w| (w / scale).round().clamp(-127.0, 127.0) as i8 as u8),
        );
        bytes
    }

    /// The most suspicious window of a folded view.
    pub fn guess(&self, view: &[u8]) -> Guess {
        let mut block = 0;
        let (mut sum, mut count) = (0_i32, 0_u32);
        let (mut last_sum, mut last_count) = (0_i32, 0_u32);
        let mut best = (f32::MIN, 0);
        let mut close = |block: usize, sum: i32, count: u32| {
            if count > 0 {
                let value = self.value(sum as f32, count);
                if value > best.0 {
                    best = (value, block);
                }
            }
        };
        walk(view, |at, index| {
            if at != block {
                close(block, last_sum + sum, last_count + count);
                let next_to_it = at == block + 1;
                (last_sum, last_count) = if next_to_it { (sum, count) } else { (0, 0) };
                (sum, count) = (0, 0);
                block = at;
            }
            sum += i32::from(self.weights[index as usize]);
            count += 1;
        });
        close(block, last_sum + sum, last_count + count);
        if best.0 == f32::MIN {
            return Guess {
                probability: 0.0,
                window: 0..0,
            };
        }
        let end = ((best.1 + 1) * BLOCK).min(view.len());
        Guess {
            probability: sigmoid(self.slope * best.0 + self.offset),
            window: best.1.saturating_sub(1) * BLOCK..end,
        }
    }

    fn value(&self, sum: f32, count: u32) -> f32 {
        self.bias + sum * self.scale * norm(count)
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
                at = word_end(view, at);
                letters(
                    &view[start..at.min(start + LONGEST_WORD)],
                    block,
                    &mut feature,
                );
                hash_of(&view[start..at])
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

/// The end of the word that begins at `at`. Scripts without spaces give one word for each character.
fn word_end(view: &[u8], at: usize) -> usize {
    let lead = view[at];
    if (0xe3..=0xed).contains(&lead) {
        return (at + 3).min(view.len());
    }
    let mut end = at;
    while end < view.len() && end - at < 64 {
        match CLASS[view[end] as usize] {
            Class::Letter => end += 1,
            Class::High if !(0xe3..=0xed).contains(&view[end]) => end += 1,
            Class::High | Class::Space | Class::Digit | Class::Mark => break,
        }
    }
    end
}

/// The four-letter pieces of a word, with its edges.
#[inline]
fn letters(word: &[u8], block: usize, feature: &mut impl FnMut(usize, u32)) {
    let mut piece = u32::from(b'^');
    for (position, byte) in word.iter().chain(b"$").enumerate() {
        piece = piece << 8 | u32::from(*byte);
        if position >= 2 {
            feature(block, index(piece ^ 0x5bd1_e995));
        }
    }
}

fn hash_of(word: &[u8]) -> u32 {
    word.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

fn index(hash: u32) -> u32 {
    (hash ^ (hash >> 15)).wrapping_mul(0x9e37_79b1) >> (32 - BITS)
}
