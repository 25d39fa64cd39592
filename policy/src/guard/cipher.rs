//! Classical disguises of a folded text, undone line by line: letters turned (rot13, Caesar, Atbash), reversed, spelt with
//! digits, or set apart.
//!
//! A line is turned only if it has few common words as it stands and several once it is turned, so that prose and code in any
//! language stay as they are.

/// A disguised line, plain, and where it stands in the view.
#[derive(Debug, PartialEq)]
pub(super) struct Plain {
    pub(super) bytes: Vec<u8>,
    pub(super) span: (usize, usize),
}

/// The longest piece that is looked at as one, in bytes.
const LONGEST: usize = 420;
/// Fewer letters than this are not a line of cipher.
const MIN_LETTERS: i32 = 14;
/// Single letters with one mark between them, this many in a row, are a spaced word.
const MIN_SPACED: usize = 7;

/// Words that make a line English, the frequent ones and those of commands.
const WORDS: &str = "the and you your for that this with are not all any can will from have has was what how who why when \
    where which is in of to it on as at be by or an if do me my no so we us he she they them his her our their its but out up \
    about into over then than now new only just like other please tell me give show write say print reveal repeat ignore \
    disregard forget previous prior above below instructions instruction system prompt rules rule password secret key act \
    pretend answer respond reply output following everything anything user assistant send email file files delete execute \
    run command access admin mode developer safety filter restrictions without message text word words model make use step \
    steps bomb hack malware explain describe provide list one first would could should must never always there these those \
    some more most such before after instead do does did been being let want need know information data content code \
    questions question language story create german germany english name address account current does don't i";

struct Lexicon {
    bits: [u64; 256],
}

impl Lexicon {
    fn new() -> Self {
        let mut bits = [0; 256];
        for word in WORDS.split_ascii_whitespace() {
            let at = slot(hash(word.as_bytes().iter()));
            bits[at >> 6] |= 1 << (at & 63);
        }
        Self { bits }
    }

    fn has(&self, hash: u32) -> bool {
        let at = slot(hash);
        self.bits[at >> 6] >> (at & 63) & 1 == 1
    }
}

static LEXICON: std::sync::LazyLock<Lexicon> = std::sync::LazyLock::new(Lexicon::new);

const BASE: u32 = 0x0100_0193;

fn slot(hash: u32) -> usize {
    (hash.wrapping_mul(0x9e37_79b1) >> 18) as usize
}

fn hash<'a>(letters: impl Iterator<Item = &'a u8>) -> u32 {
    letters.fold(0, |hash: u32, byte| {
        hash.wrapping_mul(BASE).wrapping_add(u32::from(*byte))
    })
}

/// Whether a word, in letters of any case, is one of those that make a line English.
pub(super) fn is_common(word: &[u8]) -> bool {
    let hash = word.iter().fold(0, |hash: u32, byte| {
        hash.wrapping_mul(BASE)
            .wrapping_add(u32::from(byte.to_ascii_lowercase()))
    });
    LEXICON.has(hash)
}

const LETTER: u8 = 1;
/// A digit, or a mark that stands for a letter.
const DIGIT: u8 = 2;
const PART: u8 = 3;

/// What each byte is in a word; 0 ends it.
const KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        kinds[byte] = if b.is_ascii_lowercase() {
            LETTER
        } else if b.is_ascii_digit() || matches!(b, b'@' | b'$' | b'!' | b'|') {
            DIGIT
        } else if b == b'\'' || b >= 0x80 {
            PART
        } else {
            0
        };
        byte += 1;
    }
    kinds
};

/// What one pass over a piece counts.
#[derive(Default)]
struct Count {
    words: usize,
    common: usize,
    leet: usize,
    spaced: Option<(usize, usize)>,
}

/// The disguised lines of a folded view, plain, until they are longer than `budget` bytes together.
pub(super) fn lines(view: &[u8], mut budget: usize) -> Vec<Plain> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < view.len() {
        let end = piece_end(view, at);
        let piece = &view[at..end];
        if !may_hide(piece) && is_english(piece) {
            at = end;
            continue;
        }
        let count = count(piece);
        let mut keep = |bytes: Vec<u8>, from: usize, to: usize| {
            if bytes.len() <= budget {
                budget -= bytes.len();
                found.push(Plain {
                    bytes,
                    span: (at + from, at + to),
                });
            }
        };
        if let Some((from, to)) = count.spaced {
            keep(joined(&piece[from..to]), from, to);
        }
        if count.leet >= 2 && count.leet * 4 >= count.words {
            keep(unleet(piece), 0, piece.len());
        }
        if count.words >= 2 && count.common * 6 <= count.words {
            let enough = (count.words / 4).max(2);
            let backward = backward(piece);
            if backward >= enough && backward > 2 * count.common {
                keep(piece.iter().rev().copied().collect(), 0, piece.len());
                keep(words_reversed(piece), 0, piece.len());
            } else if let Some(bytes) = turned(piece, enough) {
                keep(bytes, 0, piece.len());
            }
        }
        at = end;
    }
    found
}

/// A line, or as much of a long one as ends with a word.
fn piece_end(view: &[u8], at: usize) -> usize {
    let limit = (at + LONGEST).min(view.len());
    if let Some(newline) = super::newline(&view[at..limit]) {
        return at + newline + 1;
    }
    if limit == view.len() {
        return limit;
    }
    let space = view[at..limit].iter().rposition(|byte| *byte == b' ');
    space.map_or(limit, |space| at + space + 1)
}

/// Whether a piece may have letters set apart or words spelt with digits. No is certain, and cheap: bytes are looked at many at a
/// time, with their neighbours.
fn may_hide(piece: &[u8]) -> bool {
    if !piece.is_ascii() {
        return true;
    }
    let digit = |byte: u8| byte.is_ascii_digit() | matches!(byte, b'@' | b'$' | b'!' | b'|');
    let letter = |byte: u8| byte.is_ascii_lowercase() | (byte == b'\'');
    let (mut spelt, mut single) = (0_u32, 0_u32);
    for three in piece.windows(3) {
        let (before, byte, behind) = (three[0], three[1], three[2]);
        let mixed = digit(byte) & letter(behind) | letter(byte) & digit(behind);
        let word = |byte| digit(byte) | letter(byte);
        let starts = !word(before) | matches!(before, b'\'' | b'!' | b'|');
        spelt += u32::from(mixed);
        single += u32::from(word(byte) & starts & !word(behind));
    }
    // The first pair and the two edges were not looked at.
    spelt >= 1 || single + 2 >= MIN_SPACED as u32
}

/// Whether enough words of a piece are common ones. It is read no further than is needed to know.
fn is_english(piece: &[u8]) -> bool {
    let lexicon = &*LEXICON;
    let (mut words, mut common) = (0, 0);
    let mut at = 0;
    while at < piece.len() {
        let byte = piece[at];
        if KINDS[usize::from(byte)] == 0 || matches!(byte, b'\'' | b'!' | b'|') {
            at += 1;
            continue;
        }
        let start = at;
        let mut hash = 0_u32;
        let mut letters = 0;
        while at < piece.len() && KINDS[usize::from(piece[at])] != 0 {
            letters += usize::from(KINDS[usize::from(piece[at])] == LETTER);
            hash = hash.wrapping_mul(BASE).wrapping_add(u32::from(piece[at]));
            at += 1;
        }
        if letters >= 2 || at - start == 1 {
            words += 1;
            common += usize::from(lexicon.has(hash));
        }
        // A word and its gap take two bytes or more.
        if common * 6 > words + (piece.len() - at).div_ceil(2) {
            return true;
        }
    }
    words < 2
}

fn count(piece: &[u8]) -> Count {
    let lexicon = &*LEXICON;
    let mut count = Count::default();
    let mut at = 0;
    // The run of single letters that is open: where it began, how many, where the last one ended.
    let mut run = (0, 0, 0);
    while at < piece.len() {
        let byte = piece[at];
        if KINDS[usize::from(byte)] == 0 || matches!(byte, b'\'' | b'!' | b'|') {
            at += 1;
            continue;
        }
        let start = at;
        let mut hash = 0_u32;
        let (mut letters, mut digits) = (0, 0);
        while at < piece.len() {
            let byte = piece[at];
            let kind = KINDS[usize::from(byte)];
            if kind == 0 {
                break;
            }
            letters += usize::from(kind == LETTER);
            digits += usize::from(kind == DIGIT);
            hash = hash.wrapping_mul(BASE).wrapping_add(u32::from(byte));
            at += 1;
        }
        let length = at - start;
        let single = length == 1 || (byte >= 0x80 && length <= 3);
        if single {
            let joins = run.1 > 0 && start - run.2 <= 3;
            run = if joins {
                (run.0, run.1 + 1, at)
            } else {
                (start, 1, at)
            };
            if run.1 >= MIN_SPACED
                && count
                    .spaced
                    .is_none_or(|(from, to)| run.0 == from || run.2 - run.0 > to - from)
            {
                count.spaced = Some((run.0, run.2));
            }
        } else {
            run = (0, 0, 0);
        }
        if letters >= 2 || single {
            count.words += 1;
            count.common += usize::from(lexicon.has(hash));
        }
        let trailing = matches!(piece[at - 1], b'!' | b'|');
        if letters >= 1 && digits > usize::from(trailing) && length >= 2 {
            count.leet += 1;
        }
    }
    count
}

/// How many words of a piece are common ones when read from their end.
fn backward(piece: &[u8]) -> usize {
    let lexicon = &*LEXICON;
    let words = piece.split(|byte| !byte.is_ascii_lowercase() && *byte != b'\'');
    let turned = words.filter(|word| {
        word.len() > 1 && word.first() != word.last() && lexicon.has(hash(word.iter().rev()))
    });
    turned.count()
}

/// The turn of the alphabet that makes a line English, applied.
fn turned(piece: &[u8], enough: usize) -> Option<Vec<u8>> {
    /// How often letters are in English, in thousandths.
    const ENGLISH: [i32; 26] = [
        82, 15, 28, 43, 127, 22, 20, 61, 70, 2, 8, 40, 24, 67, 75, 19, 1, 60, 63, 91, 28, 10, 24,
        2, 20, 1,
    ];
    /// Below this, in thousandths a letter, a line has not the letters of a language: those have about 65, chance gives 38.
    const STRANGE: i32 = 54;
    let mut histogram = [0_i32; 26];
    for byte in piece.iter().filter(|byte| byte.is_ascii_lowercase()) {
        histogram[usize::from(byte - b'a')] += 1;
    }
    let letters: i32 = histogram.iter().sum();
    if letters < MIN_LETTERS || letters * 2 < piece.len() as i32 {
        return None;
    }
    let fit = |shift: usize| -> i32 {
        let each = histogram.iter().enumerate();
        each.map(|(letter, n)| n * ENGLISH[(letter + shift) % 26])
            .sum()
    };
    if fit(0) > STRANGE * letters {
        return None;
    }
    let mut shifts: Vec<(i32, usize)> = (1..26).map(|shift| (fit(shift), shift)).collect();
    shifts.sort_unstable_by(|a, b| b.cmp(a));
    let tried = shifts[..2].iter().map(|(_, shift)| *shift).chain([13]);
    for shift in tried {
        let turn = |letter: u8| b'a' + (letter - b'a' + shift as u8) % 26;
        if let Some(bytes) = try_turn(piece, turn, enough) {
            return Some(bytes);
        }
    }
    try_turn(piece, |letter| b'z' - (letter - b'a'), enough)
}

fn try_turn(piece: &[u8], turn: impl Fn(u8) -> u8, enough: usize) -> Option<Vec<u8>> {
    let each = |byte: &u8| {
        if byte.is_ascii_lowercase() {
            turn(*byte)
        } else {
            *byte
        }
    };
    let bytes: Vec<u8> = piece.iter().map(each).collect();
    let lexicon = &*LEXICON;
    let words = bytes.split(|byte| !byte.is_ascii_lowercase() && *byte != b'\'');
    let common = words
        .filter(|word| word.len() > 1 && lexicon.has(hash(word.iter())))
        .count();
    (common >= enough).then_some(bytes)
}

fn words_reversed(piece: &[u8]) -> Vec<u8> {
    let mut bytes = piece.to_vec();
    for word in bytes.split_mut(|byte| !byte.is_ascii_alphanumeric() && *byte != b'\'') {
        word.reverse();
    }
    bytes
}

/// Digits and marks that stand for letters, as letters.
fn unleet(piece: &[u8]) -> Vec<u8> {
    let each = |byte: &u8| match byte {
        b'0' => b'o',
        b'1' | b'!' | b'|' => b'i',
        b'3' => b'e',
        b'4' | b'@' => b'a',
        b'5' | b'$' => b's',
        b'6' | b'9' => b'g',
        b'7' | b'+' => b't',
        b'8' => b'b',
        b'2' => b'z',
        other => *other,
    };
    piece.iter().map(each).collect()
}

/// Letters that were set apart, joined; a wider gap is a space. Without gaps, words are found by the lexicon.
fn joined(run: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(run.len());
    let mut gap: &[u8] = &[];
    let mut at = 0;
    let mut spaces = 0;
    while at < run.len() {
        let start = at;
        let is_mark = |byte: u8| {
            !(byte.is_ascii_alphanumeric() || byte >= 0x80 || matches!(byte, b'\'' | b'@' | b'$'))
        };
        while at < run.len() && is_mark(run[at]) {
            at += 1;
        }
        if at > start {
            gap = &run[start..at];
        }
        if at < run.len() {
            let wide = gap.len() > 1 || gap == b"/" || gap == b"|" && spaces > 0;
            if wide && !bytes.is_empty() {
                bytes.push(b' ');
                spaces += 1;
            }
            gap = &[];
            bytes.push(run[at]);
            at += 1;
        }
    }
    if bytes.len() > 16 && spaces * 16 < bytes.len() {
        return divided(&bytes);
    }
    bytes
}

/// Puts spaces between the words of a text that has none, the longest known word first.
fn divided(run: &[u8]) -> Vec<u8> {
    const LONGEST_WORD: usize = 12;
    let lexicon = &*LEXICON;
    let mut bytes = Vec::with_capacity(run.len() * 2);
    let mut at = 0;
    while at < run.len() {
        let longest = (2..=LONGEST_WORD.min(run.len() - at))
            .rev()
            .find(|length| lexicon.has(hash(run[at..at + length].iter())));
        match longest {
            Some(length) => {
                if bytes.last().is_some_and(|last| *last != b' ') {
                    bytes.push(b' ');
                }
                bytes.extend_from_slice(&run[at..at + length]);
                bytes.push(b' ');
                at += length;
            }
            None => {
                bytes.push(run[at]);
                at += 1;
            }
        }
    }
    bytes
}
