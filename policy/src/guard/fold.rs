//! The folded view of a text: what a reader sees, in lower case and without what only a machine tells apart.
//!
//! Compatibility forms (NFKC), case, accents, invisible characters and, inside words of mixed scripts, letters that only
//! look alike (UTS 39) are folded. Layout stays. Each byte of the view knows its place in the text it came from.

use unicode_normalization::char::{canonical_combining_class, decompose_compatible};
use unicode_security::confusable_detection::skeleton;

/// How many times as long as its source a view may be before what stands for several characters is folded to a blank.
const SWOLLEN: usize = 2;

/// So much more, in bytes, for texts that begin with such characters.
const SWOLLEN_MORE: usize = 256;

/// A folded text, and where each of its bytes was.
#[derive(Debug)]
pub(super) struct Folded {
    pub(super) bytes: Vec<u8>,
    /// For each byte its offset in the source, and one more for the end; `None` if nothing moved.
    map: Option<Vec<u32>>,
}

impl Folded {
    /// Where the bytes of a range of the view stand in the source.
    pub(super) fn span(&self, start: usize, end: usize) -> (usize, usize) {
        match &self.map {
            None => (start, end),
            Some(map) => (map[start] as usize, map[end] as usize),
        }
    }

    fn push(&mut self, character: char, at: u32) {
        let mut buffer = [0; 4];
        let encoded = character.encode_utf8(&mut buffer).as_bytes();
        self.bytes.extend_from_slice(encoded);
        if let Some(map) = &mut self.map {
            map.extend(std::iter::repeat_n(at, encoded.len()));
        }
    }
}

/// Folds a text. Takes time and space linear in its length.
pub(super) fn fold(text: &str) -> Folded {
    if text.is_ascii() {
        return Folded {
            bytes: text.as_bytes().to_ascii_lowercase(),
            map: None,
        };
    }
    let (folded, mixed) = fold_wide(text, false);
    if mixed < 2 {
        return folded;
    }
    // Who mixes scripts inside words also writes whole words in the other script.
    fold_wide(text, true).0
}

/// What a pattern's letters become, so that it is written as people write and matches what is folded.
pub(super) fn fold_pattern(pattern: &str) -> String {
    let mut folded = String::with_capacity(pattern.len());
    for character in pattern.chars() {
        if character.is_ascii() {
            folded.push(character);
        } else {
            each_folded(character, |c| folded.push(c));
        }
    }
    folded
}

fn fold_wide(text: &str, whole_words: bool) -> (Folded, usize) {
    let mut folded = Folded {
        bytes: Vec::with_capacity(text.len()),
        map: Some(Vec::with_capacity(text.len() + 1)),
    };
    let mut word = Word::default();
    let mut mixed = 0;
    for (at, character) in text.char_indices() {
        if character.is_ascii() {
            let letter = character.is_ascii_alphabetic();
            if !letter {
                mixed += usize::from(word.end(&mut folded, text, whole_words, at));
            }
            folded.push(character.to_ascii_lowercase(), at as u32);
            if letter {
                word.latin = true;
            } else {
                word = Word::starting(folded.bytes.len(), at + 1);
            }
            continue;
        }
        if invisible(character) {
            continue;
        }
        let mut foreign = false;
        let mut latin = false;
        let start = folded.bytes.len();
        // A text of characters that stand for up to eighteen would take as many times as long. Letters in disguise stand for one or two.
        if start > SWOLLEN * at + SWOLLEN_MORE && stands_for(character) > 2 {
            folded.push(' ', at as u32);
        } else {
            each_folded(character, |c| {
                folded.push(c, at as u32);
                latin |= c.is_ascii_alphabetic();
                foreign |= looks_latin(c);
            });
        }
        let is_word = folded.bytes.len() == start || latin || foreign;
        word.latin |= latin;
        word.foreign |= foreign;
        if !is_word {
            mixed += usize::from(word.end(&mut folded, text, whole_words, at));
            word = Word::starting(folded.bytes.len(), at + character.len_utf8());
        }
    }
    mixed += usize::from(word.end(&mut folded, text, whole_words, text.len()));
    if let Some(map) = &mut folded.map {
        map.push(text.len() as u32);
    }
    (folded, mixed)
}

/// The word that is being read: where it began, and whose letters it has.
#[derive(Default)]
struct Word {
    folded: usize,
    source: usize,
    latin: bool,
    foreign: bool,
}

impl Word {
    fn starting(folded: usize, source: usize) -> Self {
        Self {
            folded,
            source,
            ..Self::default()
        }
    }

    /// Writes the word again by its skeleton if it mixes scripts. Says whether it did.
    fn end(&self, folded: &mut Folded, text: &str, whole_words: bool, end: usize) -> bool {
        if !self.foreign || !(self.latin || whole_words) || self.source >= end {
            return false;
        }
        let source = &text[self.source..end];
        let alike = |c: char| c.is_ascii() || latin_of(c).is_some() || invisible(c);
        if !self.latin && !source.chars().all(alike) {
            return false;
        }
        let map = folded.map.as_mut().expect("wide texts have a map");
        folded.bytes.truncate(self.folded);
        map.truncate(self.folded);
        for (at, character) in source.char_indices() {
            let at = (self.source + at) as u32;
            match latin_of(character) {
                Some(letter) => folded.push(letter, at),
                None if invisible(character) => {}
                None => each_folded(character, |c| folded.push(c, at)),
            }
        }
        self.latin
    }
}

/// A script whose letters are passed off as Latin ones.
fn looks_latin(character: char) -> bool {
    matches!(character as u32,
        0x0180..=0x02af | 0x0370..=0x058f | 0x10a0..=0x10ff | 0x13a0..=0x13ff | 0x1400..=0x167f
        | 0x1d00..=0x1dbf | 0x1e00..=0x1fff | 0x2c60..=0x2dff | 0xa4d0..=0xa4ff | 0xa640..=0xa7ff
        | 0xab30..=0xabbf | 0x10280..=0x1031f)
}

/// The ASCII letter that a letter of another script looks like.
fn latin_of(character: char) -> Option<char> {
    if character.is_ascii() {
        return None;
    }
    let letter = match character {
        'І' | 'Ӏ' | 'Ι' | 'ι' | 'ı' | 'ɪ' | 'і' => 'i',
        'в' | 'ʙ' | 'β' => 'b',
        'к' | 'ᴋ' | 'κ' => 'k',
        'м' | 'ᴍ' => 'm',
        'т' | 'ᴛ' | 'τ' => 't',
        'н' | 'ʜ' => 'h',
        'и' | 'п' | 'ɴ' | 'η' => 'n',
        'г' | 'ʀ' | 'я' | 'Я' => 'r',
        'ʟ' => 'l',
        'ɢ' | 'ɡ' => 'g',
        'ʏ' | 'γ' => 'y',
        'ᴀ' | 'α' => 'a',
        'ᴅ' | 'ԁ' => 'd',
        'ᴇ' | 'ε' | 'є' | 'э' => 'e',
        'ᴊ' => 'j',
        'ᴏ' | 'σ' => 'o',
        'ᴘ' => 'p',
        'ᴜ' | 'υ' | 'ц' => 'u',
        'ᴠ' | 'ν' => 'v',
        'ᴡ' | 'ω' | 'ш' => 'w',
        'ᴢ' => 'z',
        'ғ' => 'f',
        'ʂ' => 's',
        _ => {
            let mut buffer = [0; 4];
            let mut letters = skeleton(character.encode_utf8(&mut buffer));
            let first = letters.next()?;
            if !first.is_ascii_alphabetic() || letters.any(|c| canonical_combining_class(c) == 0) {
                return None;
            }
            // UTS 39 takes a capital I for an l.
            if first == 'l' && character.is_uppercase() {
                'i'
            } else {
                first.to_ascii_lowercase()
            }
        }
    };
    Some(letter)
}

/// Characters that show nothing: format characters, tags, variation selectors, fillers.
pub(super) fn invisible(character: char) -> bool {
    matches!(character as u32,
        0x00ad | 0x034f | 0x061c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f
        | 0x202a..=0x202e | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff9..=0xfffb
        | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff)
}

/// Compatibility decomposition without marks, in lower case. Hangul, ideographs and kana stay as they are.
fn each_folded(character: char, mut each: impl FnMut(char)) {
    match character as u32 {
        0xac00..=0xd7a3 | 0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x3041..=0x30ff => each(character),
        0x0400..=0x052f => character.to_lowercase().for_each(each),
        // Letters in squares and circles that Unicode does not decompose, and flags written as letters.
        code @ (0x1f150..=0x1f169 | 0x1f170..=0x1f189) => {
            let first = if code < 0x1f170 { 0x1f150 } else { 0x1f170 };
            each((b'a' + (code - first) as u8) as char);
        }
        code @ 0x1f1e6..=0x1f1ff => each((b'a' + (code - 0x1f1e6) as u8) as char),
        0x0131 => each('i'),
        0x00df => {
            each('s');
            each('s');
        }
        0x00f8 | 0x00d8 => each('o'),
        0x0142 | 0x0141 => each('l'),
        0x2018 | 0x2019 => each('\''),
        0x201c | 0x201d => each('"'),
        0x2010..=0x2015 => each('-'),
        0x3002 | 0x0964 => each('.'),
        0x061f => each('?'),
        // Braille cells of the letters, by the dots of the standard.
        code @ 0x2801..=0x283f => each(braille(code)),
        _ => decompose_compatible(character, |c| {
            if canonical_combining_class(c) == 0 {
                c.to_lowercase()
                    .filter(|c| canonical_combining_class(*c) == 0)
                    .for_each(&mut each);
            }
        }),
    }
}

/// How many characters a character is folded to.
fn stands_for(character: char) -> usize {
    let mut count = 0;
    each_folded(character, |_| count += 1);
    count
}

/// The letter of a braille cell, or a space.
fn braille(code: u32) -> char {
    /// Cells of a to z.
    const CELLS: [u8; 26] = [
        0x01, 0x03, 0x09, 0x19, 0x11, 0x0b, 0x1b, 0x13, 0x0a, 0x1a, 0x05, 0x07, 0x0d, 0x1d, 0x15,
        0x0f, 0x1f, 0x17, 0x0e, 0x1e, 0x25, 0x27, 0x3a, 0x2d, 0x3d, 0x35,
    ];
    let cell = (code - 0x2800) as u8;
    let letter = CELLS.iter().position(|c| *c == cell);
    letter.map_or(' ', |letter| (b'a' + letter as u8) as char)
}
