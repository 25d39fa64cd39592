//! The shapes of a text: how words, capitals, marks and gaps follow each other, whatever the words are.
//!
//! Letters that a search found to break a model are pieces of words, of programs and of markup that were never beside each other
//! before. No list of words knows them, and each search finds others; but words that run into each other, brackets that close
//! what was not opened, and marks of several languages of machines behind a plain sentence are always there. Programs, links, logs
//! and tables have marks as well, in an order.

use super::cipher;

/// Bytes of a block. Two neighbours make a window.
pub const BLOCK: usize = 80;
/// Features are hashed into this many bits.
pub const BITS: u32 = 14;
/// A line with fewer marks of programs than this is not looked at.
const MIN_MARKS: u32 = 3;
/// So many plain words in a row are prose.
const PROSE: u32 = 5;
/// How many brackets may be open at once; further ones are not followed.
const DEPTH: usize = 16;

/// The longest word and the longest run of marks that are one, in bytes.
const LONGEST_WORD: usize = 64;
const LONGEST_MARK: usize = 6;

/// What brackets do is told apart from shapes by these.
const CLOSED: u32 = 300;
const OPEN: u32 = 340;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Space,
    Letter,
    Digit,
    Mark,
}

const KINDS: [Kind; 256] = {
    let mut kinds = [Kind::Mark; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        if b <= b' ' {
            kinds[byte] = Kind::Space;
        } else if b.is_ascii_alphabetic() || b == b'\'' || b >= 0x80 {
            kinds[byte] = Kind::Letter;
        } else if b.is_ascii_digit() {
            kinds[byte] = Kind::Digit;
        }
        byte += 1;
    }
    kinds
};

/// What stands between a token and the one before.
#[derive(Clone, Copy, PartialEq)]
enum Gap {
    None = 0,
    Space = 1,
    Wide = 2,
    Line = 3,
}

/// Whether a line has marks that programs have and letters to people have not.
fn has_marks(line: &[u8]) -> bool {
    let mark = |byte: &u8| {
        let letter = byte.is_ascii_alphanumeric() || *byte >= 0x80;
        let plain = matches!(
            *byte,
            b' ' | b'\t' | b'\r' | b'.' | b',' | b'\'' | b'-' | b'?' | b':' | b';'
        );
        u32::from(!letter & !plain)
    };
    line.iter().map(mark).sum::<u32>() >= MIN_MARKS
}

/// Calls `feature` with the block and the hash of each shape of a text, in order, for those of its lines that have marks.
#[inline]
pub fn walk(text: &[u8], mut feature: impl FnMut(usize, u32)) {
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let end = at + super::newline(rest).unwrap_or(rest.len());
        if has_marks(&text[at..end]) {
            walk_line(text, at, end, &mut feature);
        }
        at = end + 1;
    }
}

fn walk_line(text: &[u8], from: usize, to: usize, feature: &mut impl FnMut(usize, u32)) {
    let text = &text[..to];
    let (mut before, mut before_that) = (1_u32, 1_u32);
    let (mut plain, mut prose) = (0_u32, 0_u32);
    let mut brackets = Brackets::default();
    let mut gap = Gap::Line;
    let mut at = from;
    while at < to {
        let start = at;
        let block = start / BLOCK;
        let kind = KINDS[text[at] as usize];
        let end_of = |most: usize| {
            let end = (start + most).min(to);
            let other = text[start..end]
                .iter()
                .position(|byte| KINDS[*byte as usize] != kind);
            other.map_or(end, |length| start + length)
        };
        let shape = match kind {
            Kind::Space => {
                gap = match gap {
                    Gap::Line => Gap::Line,
                    Gap::None if text[at] == b' ' => Gap::Space,
                    Gap::None | Gap::Space | Gap::Wide => Gap::Wide,
                };
                at += 1;
                continue;
            }
            Kind::Digit => {
                at = end_of(to);
                10 + (at - start).min(4) as u32
            }
            Kind::Letter => {
                at = end_of(LONGEST_WORD);
                word(&text[start..at])
            }
            Kind::Mark => {
                at = end_of(LONGEST_MARK);
                for mark in &text[start..at] {
                    if let Some(event) = brackets.meet(*mark) {
                        feature(block, index(CLOSED + event as u32 + prose));
                    }
                }
                hash_of(&text[start..at])
            }
        };
        let joins =
            at - start == 1 && matches!(text[start], b',' | b'.' | b'"' | b'-' | b'?' | b'!');
        if kind == Kind::Letter && gap != Gap::Wide && is_plain(shape) {
            plain += 1;
            prose |= u32::from(plain >= PROSE);
        } else if !joins {
            plain = 0;
        }
        // One shape, two and three in a row; the first two also by whether there was prose before them on the line.
        let shape = shape.wrapping_mul(4) + gap as u32;
        let turned = shape.wrapping_mul(0x9e35);
        feature(block, index(shape ^ prose << 31));
        feature(block, index(turned ^ before ^ prose << 31));
        feature(
            block,
            index(turned ^ before.wrapping_mul(0x85eb) ^ before_that),
        );
        before_that = before.wrapping_mul(0x01b3);
        before = shape;
        gap = Gap::None;
    }
    if brackets.depth > 0 {
        let last = text.iter().rposition(|byte| *byte > b' ').unwrap_or(from);
        feature(last / BLOCK, index(OPEN + brackets.depth.min(4) as u32));
        feature(last / BLOCK, index(OPEN + 10 + prose));
    }
}

/// The brackets that are open on a line.
#[derive(Default)]
struct Brackets {
    open: [u8; DEPTH],
    depth: usize,
}

/// What a closing bracket does.
#[derive(Clone, Copy)]
enum Closing {
    /// It closes nothing.
    Nothing = 0,
    /// It closes what was opened last.
    Pair = 10,
    /// Another was opened last.
    Other = 20,
}

impl Brackets {
    fn meet(&mut self, mark: u8) -> Option<Closing> {
        let opening = match mark {
            b'(' | b'[' | b'{' => {
                if self.depth < DEPTH {
                    self.open[self.depth] = mark;
                    self.depth += 1;
                }
                return None;
            }
            b')' => b'(',
            b']' => b'[',
            b'}' => b'{',
            _ => return None,
        };
        let Some(depth) = self.depth.checked_sub(1) else {
            return Some(Closing::Nothing);
        };
        self.depth = depth;
        Some(if self.open[depth] == opening {
            Closing::Pair
        } else {
            Closing::Other
        })
    }
}

/// The shape of a word: whether everybody knows it, how long it is, and where its capitals are.
fn word(word: &[u8]) -> u32 {
    let upper = word.iter().filter(|byte| byte.is_ascii_uppercase()).count();
    let high = word.iter().any(|byte| *byte >= 0x80);
    let first = word[0].is_ascii_uppercase();
    let length = match word.len() {
        1 => 0,
        2..=3 => 1,
        4..=7 => 2,
        8..=12 => 3,
        _ => 4,
    };
    let case = if high {
        4 + u32::from(upper > 0)
    } else if upper == 0 || first && upper == 1 {
        let common = cipher::is_common(word);
        match (common, first) {
            (true, false) => 0,
            (true, true) => 1,
            (false, false) => 2,
            (false, true) => 3,
        }
    } else if upper == word.len() {
        6
    } else if first {
        7
    } else {
        8
    };
    16 + case + (length << 8)
}

/// Whether the shape of a word is one of prose: short enough, and with no capital but the first.
fn is_plain(shape: u32) -> bool {
    (shape - 16) & 0xff < 5
}

fn hash_of(marks: &[u8]) -> u32 {
    marks.iter().fold(100, |hash: u32, byte| {
        hash.wrapping_mul(0x0100_0193) ^ u32::from(*byte)
    })
}

fn index(hash: u32) -> u32 {
    (hash ^ (hash >> 15)).wrapping_mul(0x9e37_79b1) >> (32 - BITS)
}
