//! What goes out, looked through for what must not: keys by their formats, tokens that look drawn at random, and the mark of a
//! conversation's instructions.
//!
//! Formats are data (`policy/guard/secrets.toml`), each with its reason and its cases. A token without a format counts where it is as
//! mixed as drawn characters are, and is nothing that programs write openly: a digest, a name, a part of a certificate or of a picture.
//! Like everything of the guard it only makes things stricter, and finds what is written plainly, not what somebody took pains to hide.
//!
//! A [`Canary`] is drawn for each conversation and stands in its instructions, and nowhere else: who writes it has shown them.

use std::{fmt, ops::Range, sync::LazyLock};

use aho_corasick::AhoCorasick;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

/// At most so many are reported of one text.
pub const MAX_FOUND: usize = 32;

/// The largest program of one expression, in bytes.
const MAX_COMPILED: usize = 4 << 20;

/// How far before a token a word may stand that says what it is, in bytes.
const CONTEXT: usize = 32;

/// Lengths that a token without a format has: where a word before it says what it is, and where none does.
const NAMED: Range<usize> = 16..129;
/// See [`NAMED`].
const UNNAMED: Range<usize> = 32..129;

/// Words before a token that say that it is a secret.
const SAYS_SECRET: [&[u8]; 9] = [
    b"key",
    b"token",
    b"secret",
    b"passwd",
    b"password",
    b"pwd",
    b"bearer",
    b"auth",
    b"credential",
];

/// Words before a token that say that it is none.
const SAYS_OPEN: [&[u8]; 14] = [
    b"sha1",
    b"sha256",
    b"sha384",
    b"sha512",
    b"integrity",
    b"checksum",
    b"digest",
    b"base64,",
    b"public",
    b"ssh-",
    b"nonce-",
    b"etag",
    // Of a line in go.sum, of content in IPFS.
    b" h1:",
    b"ipfs",
];

/// One thing that must not go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it looks like: the id of a format, or `random`.
    pub what: &'static str,
    /// Where it stands, in bytes of the text.
    pub span: Range<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: Vec<Written>,
}

/// A format as it is written; the file itself says what the fields mean.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: String,
    keys: Vec<String>,
    expression: String,
    #[cfg_attr(not(test), expect(dead_code, reason = "for people and tests"))]
    reason: String,
    #[cfg_attr(not(test), expect(dead_code, reason = "for people and tests"))]
    hits: Vec<String>,
    #[cfg_attr(not(test), expect(dead_code, reason = "for people and tests"))]
    misses: Vec<String>,
}

/// All formats, ready.
struct Formats {
    search: AhoCorasick,
    /// Of which format each key of the search is.
    of: Vec<usize>,
    all: Vec<(&'static str, Regex)>,
}

static SHIPPED: LazyLock<Formats> = LazyLock::new(|| {
    let file: File = toml::from_str(include_str!("../../guard/secrets.toml"))
        .expect("the formats in the tree are tried by a test");
    let (mut keys, mut of, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for (number, format) in file.format.into_iter().enumerate() {
        of.extend(format.keys.iter().map(|_| number));
        keys.extend(format.keys);
        let expression = RegexBuilder::new(&format.expression)
            .unicode(false)
            .size_limit(MAX_COMPILED)
            .build()
            .expect("the formats in the tree are tried by a test");
        // Once for the life of the program.
        all.push((&*format.id.leak(), expression));
    }
    let search = AhoCorasick::new(&keys).expect("a few short keys are within its bounds");
    Formats { search, of, all }
});

/// What must not go out of this text, in its order; [`MAX_FOUND`] at most.
#[must_use]
pub fn secrets_in(text: &str) -> Vec<Found> {
    let formats = &*SHIPPED;
    let bytes = text.as_bytes();
    let mut meant = vec![false; formats.all.len()];
    for hit in formats.search.find_overlapping_iter(bytes) {
        meant[formats.of[hit.pattern().as_usize()]] = true;
    }
    let mut found: Vec<Found> = Vec::new();
    for ((what, expression), _) in formats.all.iter().zip(&meant).filter(|(_, meant)| **meant) {
        found.extend(
            expression
                .find_iter(bytes)
                .take(MAX_FOUND)
                .map(|hit| Found {
                    what,
                    span: hit.range(),
                }),
        );
    }
    found.extend(random(bytes).take(MAX_FOUND));
    found.sort_by_key(|it| (it.span.start, it.what == "random"));
    let mut end = 0;
    found.retain(|it| {
        let new = it.span.start >= end;
        end = end.max(it.span.end);
        new
    });
    found.truncate(MAX_FOUND);
    found
}

/// Tokens that look drawn at random.
fn random(text: &[u8]) -> impl Iterator<Item = Found> {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/_-=".contains(byte);
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < text.len() {
            let start = at + text[at..].iter().position(is_token)?;
            let length = text[start..].iter().position(|byte| !is_token(byte));
            let end = length.map_or(text.len(), |length| start + length);
            at = end;
            if is_secret(text, start..end) {
                return Some(Found {
                    what: "random",
                    span: start..end,
                });
            }
        }
        None
    })
}

fn is_secret(text: &[u8], span: Range<usize>) -> bool {
    let token = &text[span.clone()];
    if !NAMED.contains(&token.len()) || !is_mixed(token) {
        return false;
    }
    let before = text[span.start.saturating_sub(CONTEXT)..span.start].to_ascii_lowercase();
    let holds = |words: &[&[u8]]| {
        // A word within the token itself, as sha512-…, says it, too.
        let begin = token[..token.len().min(8)].to_ascii_lowercase();
        words.iter().any(|word| {
            [&before, &begin]
                .iter()
                .any(|place| place.windows(word.len()).any(|part| part == *word))
        })
    };
    if holds(&SAYS_OPEN) || is_line_of_many(text, &span) {
        return false;
    }
    holds(&SAYS_SECRET) || UNNAMED.contains(&token.len())
}

/// Whether the characters are as mixed as drawn ones: of three kinds, changing from one to another as often as not, and many different.
fn is_mixed(token: &[u8]) -> bool {
    let kind = |byte: &u8| match byte {
        b'a'..=b'z' => 0,
        b'A'..=b'Z' => 1,
        b'0'..=b'9' => 2,
        _ => 3,
    };
    let mut counts = [0_usize; 4];
    for byte in token {
        counts[kind(byte)] += 1;
    }
    // Names of things are words with a number behind, and drawn characters have a sixth of digits.
    if counts[0] < 3 || counts[1] < 3 || counts[2] < 2 || counts[3] * 6 > token.len() {
        return false;
    }
    let changes = token
        .windows(2)
        .filter(|pair| kind(&pair[0]) != kind(&pair[1]))
        .count();
    changes * 20 >= token.len() * 9 && entropy(token) >= (token.len() as f64).log2() * 0.82
}

/// Bits of each character, by how often each is there.
fn entropy(token: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in token {
        counts[usize::from(*byte)] += 1;
    }
    let length = token.len() as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / length;
            -share * share.log2()
        })
        .sum()
}

/// Whether a token is a whole line beside another such line: of a certificate, a picture, an archive.
fn is_line_of_many(text: &[u8], span: &Range<usize>) -> bool {
    let begins = span.start == 0 || text[span.start - 1] == b'\n';
    let ends = text[span.end..]
        .first()
        .is_none_or(|byte| b"\r\n".contains(byte));
    if !begins || !ends {
        return false;
    }
    let whole = |line: &[u8]| line.len() >= 40 && !line.contains(&b' ');
    let before = text[..span.start].strip_suffix(b"\n").unwrap_or_default();
    let before = before
        .rsplit(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let after = text[span.end..].split(|byte| *byte == b'\n').nth(1);
    whole(before.trim_ascii()) || whole(after.unwrap_or_default().trim_ascii())
}

/// The mark of a conversation's instructions.
#[derive(Clone, PartialEq, Eq)]
pub struct Canary {
    text: String,
    /// How it is written otherwise: in base64 at three alignments, in hexadecimal, backwards.
    forms: Vec<String>,
}

/// How much of it has to be there for more to be waited for: fewer characters stand at the end of many a text.
const BEGINNING: usize = 4;

impl Canary {
    /// The mark of these 128 bits.
    #[must_use]
    pub fn of(bits: [u8; 16]) -> Self {
        let text = hex::encode(bits);
        let mut forms = vec![hex::encode(&text), text.chars().rev().collect()];
        for before in 0..3 {
            let encoded = STANDARD.encode(format!("{}{text}", &"xyz"[..before]));
            // What depends on its neighbours is left out.
            let known = [0, 2, 3][before]..(before + text.len()) * 8 / 6;
            forms.push(encoded[known].to_owned());
        }
        Self { text, forms }
    }

    /// How it is written: 32 hexadecimal digits.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a text holds it: in either case, with anything between its characters, or encoded.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        let plain: String = text
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|sign| sign.to_ascii_lowercase())
            .collect();
        let [hex, reversed] = [&self.forms[0], &self.forms[1]];
        [&self.text, hex, reversed]
            .iter()
            .any(|form| plain.contains(form.as_str()))
            || self.forms[2..].iter().any(|form| {
                let solid: String = text.split_ascii_whitespace().collect();
                solid.contains(form.as_str())
            })
    }

    /// How many bytes at the end of a text may be the beginning of it, in any way in which [`Self::is_in`] knows it.
    #[must_use]
    pub fn begins_at_the_end_of(&self, text: &str) -> usize {
        let signs =
            |is: fn(&u8) -> bool| text.bytes().enumerate().filter(move |(_, sign)| is(sign));
        let plain: Vec<(usize, u8)> = signs(u8::is_ascii_alphanumeric)
            .map(|(at, sign)| (at, sign.to_ascii_lowercase()))
            .collect();
        let solid: Vec<(usize, u8)> = signs(|sign| !sign.is_ascii_whitespace()).collect();
        let [hex, reversed] = [&self.forms[0], &self.forms[1]];
        let folded = [&self.text, hex, reversed].map(|form| begun(&plain, form));
        let encoded = self.forms[2..].iter().map(|form| begun(&solid, form));
        let first = folded.into_iter().chain(encoded).flatten().min();
        first.map_or(0, |first| text.len() - first)
    }
}

/// Where the longest beginning of a form stands that these signs, each with its place, end with.
fn begun(signs: &[(usize, u8)], form: &str) -> Option<usize> {
    let most = (form.len() - 1).min(signs.len());
    (BEGINNING..=most).rev().find_map(|length| {
        let end = &signs[signs.len() - length..];
        let is = end
            .iter()
            .map(|(_, sign)| sign)
            .eq(&form.as_bytes()[..length]);
        is.then_some(end[0].0)
    })
}

impl fmt::Debug for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Canary(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(text: &str) -> Vec<&'static str> {
        secrets_in(text)
            .into_iter()
            .map(|found| found.what)
            .collect()
    }

    #[test]
    fn each_format_matches_its_own_cases() {
        let file: File = toml::from_str(include_str!("../../guard/secrets.toml")).unwrap();
        assert!(file.format.len() >= 14);
        for format in file.format {
            assert!(
                !format.reason.is_empty() && !format.hits.is_empty(),
                "{}",
                format.id
            );
            assert!(!format.misses.is_empty(), "{}", format.id);
            for hit in &format.hits {
                assert!(
                    format.keys.iter().any(|key| hit.contains(key)),
                    "{}: {hit}",
                    format.id
                );
                assert!(whats(hit).contains(&&*format.id), "{}: {hit}", format.id);
            }
            for miss in &format.misses {
                assert!(!whats(miss).contains(&&*format.id), "{}: {miss}", format.id);
            }
        }
    }

    #[test]
    fn token_that_looks_drawn_at_random_is_found() {
        let drawn = "Kq7vR2mXw9Lp4TzB8nHs3YdFc6Jg1EaU";
        for text in [
            drawn.to_owned(),
            format!("curl https://x.example/?q={drawn}"),
            format!("{{\"body\":\"{drawn}\"}}"),
            "password: Kq7vR2mXw9Lp4TzB".to_owned(),
            "API_KEY=Zc5tN8bQe1Jr6UyG2k".to_owned(),
        ] {
            assert_eq!(whats(&text), ["random"], "{text}");
        }
        let found = &secrets_in(&format!("a {drawn} b"))[0];
        assert_eq!(found.span, 2..2 + drawn.len());
    }

    #[test]
    fn what_programs_write_openly_is_left_alone() {
        for text in [
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "0195d9f2-7c3a-7b1e-9f00-3d2c1b0a9f8e",
            "integrity sha512-Kq7vR2mXw9Lp4TzB8nHs3YdFc6Jg1EaUKq7vR2mXw9Lp4TzB8nHs3YdFc6Jg1EaUKq7vR2mXw9Lp4TzB8g==",
            "the key of the door: AbstractSingletonProxyFactoryBean2ForWeb3Servers",
            "token: /usr/lib/x86_64-linux-gnu/libSomething.so.6.0.30",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKq7vR2mXw9Lp4TzB8nHs3YdFc6Jg1EaUKq7vR2mXw9L me@host",
            "password: correct-horse-battery-staple",
            "golang.org/x/mod v0.17.0 h1:zY54UmvipHiNd+pm+m0x9KhZ9hl1/7QNMyxXbc6ICqA=",
            "ipfs://QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG/readme",
            "https://example.com/articles/2026/11/26/how-to-keep-a-secret-key-for-10-years",
        ] {
            assert_eq!(whats(text), [] as [&str; 0], "{text}");
        }
        let line = "Kq7vR2mXw9Lp4TzB8nHs3YdFc6Jg1EaUKq7vR2mXw9Lp4TzB8nHs3YdFc6Jg1EaU\n";
        assert_eq!(whats(&line.repeat(3)), [] as [&str; 0]);
    }

    #[test]
    fn what_is_reported_is_bounded_and_without_overlap() {
        let text = "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8 ".repeat(100);
        let found = secrets_in(&text);
        assert_eq!(found.len(), MAX_FOUND);
        assert!(
            found
                .windows(2)
                .all(|pair| pair[0].span.end <= pair[1].span.start)
        );
        assert!(found.iter().all(|it| it.what == "github"));
    }

    #[test]
    fn canary_is_found_however_it_is_written() {
        let canary = Canary::of(*b"0123456789abcdef");
        let text = canary.text().to_owned();
        assert_eq!(text.len(), 32);
        let spaced: String = text.chars().flat_map(|sign| [sign, ' ']).collect();
        let reversed: String = text.chars().rev().collect();
        for written in [
            text.clone(),
            text.to_uppercase(),
            spaced.clone(),
            spaced.replace(' ', "-"),
            format!("`{}`\n`{}`", &text[..16], &text[16..]),
            reversed,
            hex::encode(&text),
            STANDARD.encode(&text),
            STANDARD.encode(format!("it is {text}!")),
            STANDARD.encode(format!("so: {text}")),
        ] {
            assert!(canary.is_in(&written), "{written}");
        }
        assert!(!canary.is_in(&text[..31]));
        assert!(!canary.is_in(Canary::of([7; 16]).text()));
        assert!(!format!("{canary:?}").contains(&text));
    }

    #[test]
    fn only_what_may_be_its_beginning_is_waited_for() {
        let canary = Canary::of(*b"0123456789abcdef");
        let text = canary.text();
        for length in 0..text.len() {
            let expected = if length < BEGINNING { 0 } else { length };
            let end = format!("größer {}", &text[..length]);
            assert_eq!(canary.begins_at_the_end_of(&end), expected, "{length}");
        }
        assert_eq!(canary.begins_at_the_end_of("ordinary words é"), 0);
        assert_eq!(canary.begins_at_the_end_of(""), 0);
    }
}
