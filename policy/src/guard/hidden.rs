//! Text that only a machine reads: tag characters, chains of variation selectors, zero-width codes, turned direction.
//!
//! Each is a finding by itself: no person types them. What people do type stays harmless: emoji sequences (ZWJ, one variation
//! selector, flags of regions), the non-joiner of Persian, the joiners of Indic scripts, marks of direction in Arabic and
//! Hebrew, spaces without width in Thai and Khmer, soft hyphens.

use super::Family;

/// Something hidden, where it is, and what it says.
#[derive(Debug, PartialEq)]
pub(super) struct Hidden {
    pub(super) family: Family,
    pub(super) span: (usize, usize),
    /// What was hidden, if it can be read.
    pub(super) payload: Option<String>,
}

/// Fewer hidden characters than this are an accident.
const MIN_PAYLOAD: usize = 4;
/// Zero-width characters inside Latin words that are still an accident of copying.
const MIN_ZERO_WIDTH: usize = 3;
/// A code of zeros and ones has at least this many digits.
const MIN_CODE: usize = 16;

/// Finds what is hidden in a text, in one pass.
pub(super) fn scan(text: &str) -> Vec<Hidden> {
    let mut found = Vec::new();
    if text.is_ascii() || !may_hide(text.as_bytes()) {
        return found;
    }
    let mut tags = Run::default();
    let mut selectors = Run::default();
    let mut code = Run::default();
    let mut inside_words: Option<(usize, usize, usize)> = None;
    let mut turned: Option<(usize, String)> = None;
    let mut before = ' ';
    let mut flag = false;
    let mut chars = text.char_indices().peekable();
    while let Some((at, character)) = chars.next() {
        let end = at + character.len_utf8();
        let code_point = character as u32;
        match code_point {
            0xe0000..=0xe007f => {
                let letter = (code_point - 0xe0000) as u8;
                if !flag {
                    tags.push(at, end, (0x20..0x7f).contains(&letter).then_some(letter));
                }
                if letter == 0x7f {
                    flag = false;
                }
                continue;
            }
            0xfe00..=0xfe0f => selectors.push(at, end, Some((code_point - 0xfe00) as u8)),
            0xe0100..=0xe01ef => selectors.push(at, end, Some((code_point - 0xe0100 + 16) as u8)),
            _ => {
                end_of_selectors(&mut selectors, &mut found);
                flag = character == '\u{1f3f4}';
            }
        }
        if zero_width(character) {
            code.push(at, end, Some(zero_width_digit(character)));
            let after = chars.peek().map_or(' ', |(_, next)| *next);
            let latin = |c: char| c.is_ascii_graphic() || zero_width(c);
            if latin(before) && latin(after) && (before.is_ascii() || after.is_ascii()) {
                let (start, count, _) = inside_words.unwrap_or((at, 0, end));
                inside_words = Some((start, count + 1, end));
            }
        } else if !matches!(code_point, 0xfe00..=0xfe0f) {
            end_of_code(&mut code, &mut found);
        }
        match (character, &mut turned) {
            ('\u{202d}' | '\u{202e}', None) => turned = Some((at, String::new())),
            ('\u{202c}' | '\n', Some(_)) => end_of_turn(&mut turned, at, &mut found),
            (character, Some((_, inside))) => inside.push(character),
            (_, None) => {}
        }
        before = character;
    }
    if tags.bytes.len() >= MIN_PAYLOAD {
        found.push(tags.found(Family::HiddenTags));
    }
    end_of_selectors(&mut selectors, &mut found);
    end_of_code(&mut code, &mut found);
    end_of_turn(&mut turned, text.len(), &mut found);
    if let Some((start, count, end)) = inside_words
        && count >= MIN_ZERO_WIDTH
    {
        found.push(Hidden {
            family: Family::HiddenZeroWidth,
            span: (start, end),
            payload: None,
        });
    }
    found
}

/// Whether the bytes of one of the characters that hide something are in a text: most texts that are not ASCII have none.
fn may_hide(bytes: &[u8]) -> bool {
    let high = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let mut rest = bytes.iter().enumerate();
    rest.any(|(at, byte)| match byte {
        0xe1 => (high(at + 1), high(at + 2)) == (0xa0, 0x8e),
        0xe2 => match high(at + 1) {
            0x80 => matches!(high(at + 2), 0x8b..=0x8f | 0xa8..=0xae),
            0x81 => high(at + 2) >= 0xa0,
            _ => false,
        },
        0xef => matches!(
            (high(at + 1), high(at + 2)),
            (0xb8, 0x80..=0x8f) | (0xbb, 0xbf)
        ),
        0xf3 => high(at + 1) == 0xa0,
        _ => false,
    })
}

/// Hidden characters one after the other.
#[derive(Default)]
struct Run {
    span: Option<(usize, usize)>,
    bytes: Vec<u8>,
}

impl Run {
    fn push(&mut self, at: usize, end: usize, byte: Option<u8>) {
        let start = self.span.map_or(at, |(start, _)| start);
        self.span = Some((start, end));
        self.bytes.extend(byte);
    }

    fn found(&mut self, family: Family) -> Hidden {
        let bytes = std::mem::take(&mut self.bytes);
        Hidden {
            family,
            span: self.span.take().unwrap_or_default(),
            payload: readable(bytes),
        }
    }
}

/// One selector after a character is how emoji and ideographs are written; several are a message.
fn end_of_selectors(run: &mut Run, found: &mut Vec<Hidden>) {
    if run.bytes.len() >= MIN_PAYLOAD {
        found.push(run.found(Family::HiddenSelectors));
    }
    run.bytes.clear();
    run.span = None;
}

fn end_of_code(run: &mut Run, found: &mut Vec<Hidden>) {
    if run.bytes.len() >= MIN_CODE {
        let digits = std::mem::take(&mut run.bytes);
        let first = digits[0];
        let bytes = |one: bool| {
            let bits = digits.chunks_exact(8);
            bits.map(|eight| {
                eight
                    .iter()
                    .fold(0, |byte, d| byte << 1 | u8::from((*d != first) == one))
            })
            .collect()
        };
        found.push(Hidden {
            family: Family::HiddenZeroWidth,
            span: run.span.take().unwrap_or_default(),
            payload: readable(bytes(true)).or_else(|| readable(bytes(false))),
        });
    }
    run.bytes.clear();
    run.span = None;
}

/// Latin letters written from right to left: what a person sees is the mirror of what a machine reads.
fn end_of_turn(turned: &mut Option<(usize, String)>, end: usize, found: &mut Vec<Hidden>) {
    let Some((start, inside)) = turned.take() else {
        return;
    };
    if inside.chars().filter(char::is_ascii_alphabetic).count() >= MIN_PAYLOAD {
        found.push(Hidden {
            family: Family::Bidi,
            span: (start, end),
            payload: Some(inside.chars().rev().collect()),
        });
    }
}

fn readable(bytes: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(bytes).ok()?;
    (text.chars().filter(|c| !c.is_control()).count() >= MIN_PAYLOAD).then_some(text)
}

fn zero_width(character: char) -> bool {
    matches!(
        character,
        '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{180e}'
    )
}

fn zero_width_digit(character: char) -> u8 {
    (character as u32 & 0xff) as u8
}
