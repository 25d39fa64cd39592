//! Encoded runs of a text, read: base64, base32, hex, octal, decimal, binary, Morse, percent, entities, escapes.
//!
//! A run counts only if what it says is text a person could read, so that keys, hashes, certificates, images and identifiers
//! are nothing. One pass finds the runs; each is decoded at most once for each reading.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// What a run says, and where it stands in the text.
#[derive(Debug, PartialEq)]
pub(super) struct Decoded {
    pub(super) text: String,
    pub(super) span: (usize, usize),
}

/// The shortest run that is tried, in bytes.
const MIN_RUN: usize = 16;
/// The shortest text that is worth reading, in letters.
const MIN_LETTERS: usize = 8;
/// Escapes of one kind that make a text escaped.
const MIN_ESCAPES: usize = 6;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

const WORD: u8 = 1;
const NUMBER: u8 = 2;
const MORSE: u8 = 4;

const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        let mut of = 0;
        if b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_' | b'=') {
            of |= WORD;
        }
        if b.is_ascii_hexdigit()
            || matches!(
                b,
                b' ' | b','
                    | b':'
                    | b';'
                    | b'-'
                    | b'x'
                    | b'X'
                    | b'\\'
                    | b'\n'
                    | b'['
                    | b']'
                    | b'o'
                    | b'b'
                    | b'|'
            )
        {
            of |= NUMBER;
        }
        if matches!(b, b'.' | b'-' | b'/' | b' ' | b'|') {
            of |= MORSE;
        }
        class[byte] = of;
        byte += 1;
    }
    class
};

/// The runs of a text that say something, until they are longer than `budget` bytes together.
pub(super) fn runs(text: &str, mut budget: usize) -> Vec<Decoded> {
    let mut found = Vec::new();
    let bytes = text.as_bytes();
    let mut keep = |text: String, span: (usize, usize)| {
        if text.len() <= budget {
            budget -= text.len();
            found.push(Decoded { text, span });
        }
    };
    let mut whole_lines = 0;
    each_run(bytes, WORD, |from, to| {
        let ends_line = matches!(bytes.get(to), None | Some(b'\n' | b'\r'));
        whole_lines += usize::from(ends_line);
        if let Some(decoded) = word(&text[from..to]) {
            keep(decoded, (from, to));
        }
    });
    each_run(bytes, NUMBER, |from, to| {
        let run = &text[from..to];
        if run.bytes().filter(u8::is_ascii_hexdigit).count() >= MIN_RUN
            && let Some(decoded) = numbers(run)
        {
            keep(decoded, (from, to));
        }
    });
    each_run(bytes, MORSE, |from, to| {
        if let Some(decoded) = morse(&text[from..to]) {
            keep(decoded, (from, to));
        }
    });
    let escapes = |mark: u8| bytes.iter().filter(|byte| **byte == mark).count() >= MIN_ESCAPES;
    if escapes(b'%') {
        escaped(text, b'%')
            .into_iter()
            .for_each(|decoded| keep(decoded, (0, text.len())));
    }
    if escapes(b'&') {
        entities(text)
            .into_iter()
            .for_each(|decoded| keep(decoded, (0, text.len())));
    }
    if escapes(b'\\') {
        backslashes(text)
            .into_iter()
            .for_each(|decoded| keep(decoded, (0, text.len())));
    }
    if escapes(b'=') {
        escaped(text, b'=')
            .into_iter()
            .for_each(|decoded| keep(decoded, (0, text.len())));
    }
    if whole_lines >= 2 {
        wrapped(text)
            .into_iter()
            .for_each(|(decoded, span)| keep(decoded, span));
    }
    found
}

/// The runs of bytes of a class that are long enough, with their ends.
///
/// A run that is long enough holds one of every `MIN_RUN`th bytes, so the others are looked at only around those.
fn each_run(bytes: &[u8], class: u8, mut found: impl FnMut(usize, usize)) {
    let is = |at: usize| CLASS[bytes[at] as usize] & class != 0;
    let mut done = 0;
    let mut at = MIN_RUN - 1;
    while at < bytes.len() {
        if !is(at) {
            at += MIN_RUN;
            continue;
        }
        let mut from = at;
        while from > done && is(from - 1) {
            from -= 1;
        }
        let mut to = at + 1;
        while to < bytes.len() && is(to) {
            to += 1;
        }
        if to - from >= MIN_RUN {
            found(from, to);
        }
        done = to;
        at = to + MIN_RUN;
    }
}

/// Base64 broken into lines, as mail and PEM have it: joined, and read as one.
fn wrapped(text: &str) -> Option<(String, (usize, usize))> {
    let mut joined = String::new();
    let (mut start, mut at, mut lines) = (0, 0, 0);
    for line in text.split_inclusive('\n') {
        let content = line.trim();
        let is_code = (content.len() >= MIN_RUN || lines > 0 && !content.is_empty())
            && !content.starts_with('-')
            && content.bytes().all(|byte| CLASS[byte as usize] & WORD != 0);
        if is_code {
            if lines == 0 {
                start = at;
            }
            lines += 1;
            joined.push_str(content);
        } else {
            if lines >= 2
                && let Some(decoded) = word(&joined)
            {
                return Some((decoded, (start, at)));
            }
            lines = 0;
            joined.clear();
        }
        at += line.len();
    }
    if lines < 2 {
        return None;
    }
    Some((word(&joined)?, (start, at)))
}

/// What kinds of letters a run has.
#[derive(Default)]
struct Letters {
    upper: bool,
    lower: bool,
    beyond_hex: bool,
    beyond_binary: bool,
    beyond_base32: bool,
    url: bool,
}

impl Letters {
    fn of(run: &[u8]) -> Self {
        let mut letters = Self::default();
        for byte in run {
            letters.upper |= byte.is_ascii_uppercase();
            letters.lower |= byte.is_ascii_lowercase();
            letters.beyond_hex |= !byte.is_ascii_hexdigit();
            letters.beyond_binary |= !matches!(byte, b'0' | b'1');
            letters.beyond_base32 |=
                !(byte.is_ascii_uppercase() || matches!(byte, b'2'..=b'7' | b'='));
            letters.url |= matches!(byte, b'-' | b'_');
        }
        letters
    }
}

/// A run of letters, digits and the marks of base64.
fn word(run: &str) -> Option<String> {
    let trimmed = run.trim_matches(['-', '_', '/']);
    if trimmed.len() < MIN_RUN {
        return None;
    }
    let bytes = trimmed.as_bytes();
    let letters = Letters::of(bytes);
    if !letters.beyond_binary {
        return binary(bytes);
    }
    if !letters.beyond_hex {
        let even = &trimmed[..trimmed.len() & !1];
        return text_of(&hex::decode(even).ok()?);
    }
    if !letters.beyond_base32
        && bytes.len() >= 24
        && let Some(text) = base32(bytes)
    {
        return Some(text);
    }
    // Text in base64 has both; most words, paths and names do not.
    if !(letters.upper && letters.lower) {
        return None;
    }
    let engine = if letters.url { &BASE64_URL } else { &BASE64 };
    let data = trimmed.trim_end_matches('=');
    let data = if data.len() % 4 == 1 {
        &data[..data.len() - 1]
    } else {
        data
    };
    let mut head = [0; 12];
    engine
        .decode_slice(data.as_bytes().get(..16)?, &mut head)
        .ok()?;
    if head
        .iter()
        .any(|byte| *byte < 0x20 && !byte.is_ascii_whitespace())
    {
        return None;
    }
    text_of(&engine.decode(data).ok()?)
}

fn base32(run: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(run.len() * 5 / 8);
    let (mut bits, mut value) = (0, 0_u32);
    for byte in run.iter().filter(|byte| **byte != b'=') {
        let digit = if byte.is_ascii_uppercase() {
            byte - b'A'
        } else {
            byte - b'2' + 26
        };
        value = value << 5 | u32::from(digit);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            out.push((value >> bits) as u8);
            value &= (1 << bits) - 1;
        }
    }
    text_of(&out)
}

fn binary(digits: &[u8]) -> Option<String> {
    let bytes: Vec<u8> = digits
        .chunks_exact(8)
        .map(|eight| {
            eight
                .iter()
                .fold(0, |byte, digit| byte << 1 | (digit - b'0'))
        })
        .collect();
    text_of(&bytes)
}

/// Numbers with something between them: hex, decimal, octal or binary, whichever all of them are.
fn numbers(run: &str) -> Option<String> {
    let mut values: Vec<&str> = Vec::new();
    for number in run.split([' ', ',', ':', ';', '-', '\\', '\n', '[', ']', '|']) {
        let digits = number
            .trim_start_matches("0x")
            .trim_start_matches("0X")
            .trim_start_matches(['x', 'X', 'o', 'b']);
        if digits.is_empty() {
            continue;
        }
        if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            // A word before or after the numbers; in between it ends them.
            if values.len() >= MIN_LETTERS {
                break;
            }
            values.clear();
            continue;
        }
        values.push(digits);
    }
    let digits = |value: &str| value.bytes().all(|digit| digit.is_ascii_digit());
    // A word of hexadecimal letters may stand before the numbers or behind them.
    let read = |radix: u32, is: &dyn Fn(&str) -> bool| -> Option<String> {
        let stretches = values.split(|value| !is(value));
        let longest = stretches.max_by_key(|stretch| stretch.len())?;
        // The last letters of the word before may look like a number, too, and the first of the one behind.
        let edges = [(0, 0), (1, 0), (0, 1), (1, 1)];
        edges.iter().find_map(|(before, behind)| {
            let stretch = longest.get(*before..longest.len().checked_sub(*behind)?)?;
            if stretch.len() < MIN_LETTERS {
                return None;
            }
            let bytes: Option<Vec<u8>> = stretch
                .iter()
                .map(|value| u8::from_str_radix(value, radix).ok())
                .collect();
            text_of(&bytes?)
        })
    };
    let binary = |value: &str| value.len() >= 7 && value.bytes().all(|d| matches!(d, b'0' | b'1'));
    let decimal = |value: &str| (2..=3).contains(&value.len()) && digits(value);
    read(2, &binary)
        .or_else(|| read(16, &|value| value.len() == 2))
        .or_else(|| read(10, &decimal))
        .or_else(|| read(8, &|value| value.len() == 3 && digits(value)))
}

fn morse(run: &str) -> Option<String> {
    const CODES: [(&str, char); 36] = [
        (".-", 'a'),
        ("-...", 'b'),
        ("-.-.", 'c'),
        ("-..", 'd'),
        (".", 'e'),
        ("..-.", 'f'),
        ("--.", 'g'),
        ("....", 'h'),
        ("..", 'i'),
        (".---", 'j'),
        ("-.-", 'k'),
        (".-..", 'l'),
        ("--", 'm'),
        ("-.", 'n'),
        ("---", 'o'),
        (".--.", 'p'),
        ("--.-", 'q'),
        (".-.", 'r'),
        ("...", 's'),
        ("-", 't'),
        ("..-", 'u'),
        ("...-", 'v'),
        (".--", 'w'),
        ("-..-", 'x'),
        ("-.--", 'y'),
        ("--..", 'z'),
        ("-----", '0'),
        (".----", '1'),
        ("..---", '2'),
        ("...--", '3'),
        ("....-", '4'),
        (".....", '5'),
        ("-....", '6'),
        ("--...", '7'),
        ("---..", '8'),
        ("----.", '9'),
    ];
    let marks = |mark| run.bytes().filter(|byte| *byte == mark).count();
    if marks(b'.') < 4 || marks(b'-') < 4 {
        return None;
    }
    let words: Vec<&str> = run
        .split(['/', '|'])
        .flat_map(|part| part.split("   "))
        .collect();
    let mut text = String::new();
    for letters in words {
        for code in letters.split(' ').filter(|code| !code.is_empty()) {
            text.push(CODES.iter().find(|(morse, _)| *morse == code)?.1);
        }
        text.push(' ');
    }
    text_of(text.as_bytes())
}

/// `%41` or `=41` for letters. None if the escapes are few or hide nothing.
fn escaped(text: &str, mark: u8) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut count = 0;
    let mut at = 0;
    while at < bytes.len() {
        let value = (bytes[at] == mark)
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match value {
            Some(value) => {
                out.push(value);
                // Escaped spaces and marks are how links are written; escaped letters hide.
                count += usize::from(value.is_ascii_alphabetic());
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    (count >= MIN_ESCAPES).then(|| String::from_utf8_lossy(&out).into_owned())
}

/// `&#105;` and `&#x69;` for letters.
fn entities(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut count = 0;
    let mut rest = text;
    while let Some(at) = rest.find("&#") {
        out.push_str(&rest[..at]);
        let after = &rest[at + 2..];
        let digits_end = after
            .bytes()
            .take(8)
            .position(|byte| !byte.is_ascii_alphanumeric())
            .unwrap_or(after.len().min(8));
        let digits = after.get(..digits_end).unwrap_or("");
        let value = match digits.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => digits.parse().ok(),
        };
        match value.and_then(char::from_u32) {
            Some(character) => {
                out.push(character);
                count += usize::from(character.is_alphabetic());
                rest = after[digits_end..]
                    .strip_prefix(';')
                    .unwrap_or(&after[digits_end..]);
            }
            None => {
                out.push_str("&#");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    (count >= MIN_ESCAPES).then_some(out)
}

/// `\u0069`, `\x69`, `\u{69}` and `\151` for letters.
fn backslashes(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut count = 0;
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let read = |digits: Option<&str>, radix| {
            digits.and_then(|digits| u32::from_str_radix(digits, radix).ok())
        };
        let (value, length) = match after.as_bytes().first() {
            Some(b'u') if after.as_bytes().get(1) == Some(&b'{') => {
                let end = after
                    .bytes()
                    .take(10)
                    .position(|byte| byte == b'}')
                    .unwrap_or(0);
                (read(after.get(2..end), 16), end + 1)
            }
            Some(b'u') => (read(after.get(1..5), 16), 5),
            Some(b'U') => (read(after.get(1..9), 16), 9),
            Some(b'x') => (read(after.get(1..3), 16), 3),
            Some(b'0'..=b'3') => (read(after.get(..3), 8), 3),
            _ => (None, 0),
        };
        match value.and_then(char::from_u32) {
            Some(character) => {
                out.push(character);
                count += usize::from(character.is_alphabetic());
                rest = after.get(length..).unwrap_or("");
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    (count >= MIN_ESCAPES).then_some(out)
}

/// The text that bytes are, if a person could read it.
fn text_of(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (mut letters, mut strange) = (0, 0);
    for character in text.chars() {
        if character.is_alphabetic() {
            letters += 1;
        } else if character.is_control() && !character.is_whitespace() {
            strange += 1;
        }
    }
    (letters >= MIN_LETTERS && strange == 0 && letters * 2 >= text.chars().count())
        .then(|| text.to_owned())
}
