//! Finds a credential in what an endpoint answers, as it is or encoded, and keeps it from the sandbox.
//!
//! A server may echo headers, write an error page with the request in it, or redirect with the token in the target. What is
//! found ends the answer. The end of a line that is not over yet is held back, as it could be the beginning of the credential;
//! how much of it depends on nothing that it says, or who guesses the credential byte by byte would see each right guess.

use std::{fmt, io, ops::Range, sync::Arc};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use memchr::memmem;
use paw_confine::sys::Locked;

/// The answer holds the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer holds the credential")]
pub struct Leak;

/// Every form in which the credential is looked for. They are as good as the credential, so they lie in locked memory and are searched
/// for one by one: an automaton for all of them would be a copy that nobody wipes.
pub struct Forms {
    all: Locked,
    each: Vec<Range<usize>>,
    /// As many bytes at the end of an unfinished line are held back.
    hold: usize,
}

/// The held part of a line is a multiple of this, so that it does not tell how long the credential is.
const STEP: usize = 256;

/// Looks through a body that comes in pieces.
#[derive(Debug)]
pub struct Sieve {
    forms: Arc<Forms>,
    held: BytesMut,
}

impl Forms {
    /// The forms of a credential: as it is, hexadecimal, percent-encoded, escaped for JSON and for HTML, and base64 at each of its
    /// three alignments.
    ///
    /// # Errors
    /// When there is no memory that can be locked.
    pub fn of(secret: &str) -> io::Result<Self> {
        let raw = secret.as_bytes();
        let escaped = secret.replace('\\', "\\\\").replace('"', "\\\"");
        let mut forms = vec![
            raw.to_vec(),
            hex::encode(raw).into_bytes(),
            hex::encode_upper(raw).into_bytes(),
            percent(raw, false, hex::encode_upper),
            percent(raw, false, hex::encode),
            percent(raw, true, hex::encode_upper),
            percent(raw, true, hex::encode),
            escaped.clone().into_bytes(),
            // Some write the slash of JSON with a backslash, and some do not.
            escaped.replace('/', "\\/").into_bytes(),
            by_number(secret, |code| format!("\\u{code:04x}")),
            by_number(secret, |code| format!("\\u{code:04X}")),
            by_number(secret, |code| format!("&#{code};")),
            by_number(secret, |code| format!("&#x{code:x};")),
            by_number(secret, |code| format!("&#x{code:X};")),
            by_name(secret).into_bytes(),
        ];
        for shift in 0..3 {
            // Before the credential stand 0, 1 or 2 bytes that we do not know, and so behind it; what depends on them is left out.
            let mut padded = vec![0; shift];
            padded.extend_from_slice(raw);
            let unknown = [0, 2, 3][shift];
            let known = padded.len() * 8 / 6;
            for engine in [&STANDARD, &URL_SAFE] {
                let text = engine.encode(&padded);
                if let Some(known) = text.as_bytes().get(unknown..known) {
                    forms.push(known.to_vec());
                }
            }
        }
        // A header holds no line break, and so does no form: nothing of the credential is before the last one.
        forms.retain(|form| form.len() >= 8 && !form.contains(&b'\n'));
        forms.sort();
        forms.dedup();
        let longest = forms.iter().map(Vec::len).max().unwrap_or(0);
        let mut all = Locked::zeroed(forms.iter().map(Vec::len).sum())?;
        let mut each = Vec::with_capacity(forms.len());
        let mut at = 0;
        for form in &forms {
            let place = at..at + form.len();
            all[place.clone()].copy_from_slice(form);
            at = place.end;
            each.push(place);
        }
        Ok(Self {
            all,
            each,
            hold: longest.next_multiple_of(STEP),
        })
    }

    /// Whether the bytes hold any form.
    #[must_use]
    pub fn are_in(&self, bytes: &[u8]) -> bool {
        let mut forms = self.each.iter().map(|place| &self.all[place.clone()]);
        forms.any(|form| memmem::find(bytes, form).is_some())
    }

    /// Whether any header does.
    #[must_use]
    pub fn are_in_headers(&self, headers: &HeaderMap) -> bool {
        headers.iter().any(|(name, value)| {
            self.are_in(value.as_bytes()) || self.are_in(name.as_str().as_bytes())
        })
    }
}

impl fmt::Debug for Forms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Forms(..)")
    }
}

impl Sieve {
    /// A sieve for one body.
    #[must_use]
    pub fn new(forms: Arc<Forms>) -> Self {
        Self {
            forms,
            held: BytesMut::new(),
        }
    }

    /// Takes a piece, and gives what can be passed on.
    ///
    /// # Errors
    /// When the credential is in what came so far; nothing of it was passed on.
    pub fn pass(&mut self, piece: &[u8]) -> Result<Bytes, Leak> {
        self.held.extend_from_slice(piece);
        if self.forms.are_in(&self.held) {
            return Err(Leak);
        }
        let line = self.held.iter().rposition(|byte| *byte == b'\n');
        let line = line.map_or(0, |at| at + 1);
        let clean = line.max(self.held.len().saturating_sub(self.forms.hold));
        Ok(self.held.split_to(clean).freeze())
    }

    /// What is still held back, at the end of the body: a line that was its last.
    pub fn rest(&mut self) -> Bytes {
        self.held.split().freeze()
    }
}

/// With everything but letters and digits as its number, as JSON and HTML may have it.
fn by_number(secret: &str, number: impl Fn(u32) -> String) -> Vec<u8> {
    let escaped = |sign: char| match sign {
        sign if sign.is_ascii_alphanumeric() || "-_.".contains(sign) => sign.to_string(),
        sign => number(u32::from(sign)),
    };
    secret.chars().map(escaped).collect::<String>().into_bytes()
}

/// With the signs that mean something in HTML by their names.
fn by_name(secret: &str) -> String {
    let mut text = secret.replace('&', "&amp;");
    for (sign, name) in [
        ('<', "&lt;"),
        ('>', "&gt;"),
        ('"', "&quot;"),
        ('\'', "&#39;"),
    ] {
        text = text.replace(sign, name);
    }
    text
}

fn percent(raw: &[u8], every: bool, digits: fn([u8; 1]) -> String) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() * 3);
    for byte in raw {
        if !every && (byte.is_ascii_alphanumeric() || b"-_.~".contains(byte)) {
            out.push(*byte);
        } else {
            out.push(b'%');
            out.extend_from_slice(digits([*byte]).as_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "sk-Test/\"Key+0123456789";

    #[test]
    fn every_form_is_found_wherever_it_stands() {
        let forms = Forms::of(SECRET).unwrap();
        let hidden =
            |text: Vec<u8>| assert!(forms.are_in(&text), "{}", String::from_utf8_lossy(&text));
        hidden(format!("a{SECRET}b").into_bytes());
        hidden(hex::encode(SECRET).into_bytes());
        hidden(hex::encode_upper(SECRET).into_bytes());
        for encoded in [
            "sk-Test%2F%22Key%2B0123456789",
            "sk-Test%2f%22Key%2b0123456789",
            "%73%6B%2D%54%65%73%74%2F%22%4B%65%79%2B%30%31%32%33%34%35%36%37%38%39",
            "%73%6b%2d%54%65%73%74%2f%22%4b%65%79%2b%30%31%32%33%34%35%36%37%38%39",
            r#"sk-Test\/\"Key+0123456789"#,
            r"sk-Test\u002f\u0022Key\u002b0123456789",
            r"sk-Test\u002F\u0022Key\u002B0123456789",
            "sk-Test/&quot;Key+0123456789",
            "sk-Test&#47;&#34;Key&#43;0123456789",
            "sk-Test&#x2f;&#x22;Key&#x2b;0123456789",
        ] {
            hidden(encoded.into());
        }
        hidden(serde_json::to_vec(SECRET).unwrap());
        for before in ["", "x", "xy", "xyz", "Bearer ", "user:"] {
            for after in ["", "1", "12"] {
                let text = format!("{before}{SECRET}{after}");
                hidden(STANDARD.encode(&text).into_bytes());
                hidden(URL_SAFE.encode(&text).into_bytes());
            }
        }
        assert!(!forms.are_in(b"sk-Test, and other words that begin like it"));
    }

    #[test]
    fn no_byte_of_it_passes_however_it_is_cut() {
        let forms = Arc::new(Forms::of(SECRET).unwrap());
        let text = format!("before\nand {SECRET} after");
        for size in 1..text.len() {
            let mut sieve = Sieve::new(Arc::clone(&forms));
            let mut passed = Vec::new();
            // A line that is over passes; nothing of the one with the credential does.
            let ended = text.as_bytes().chunks(size).try_for_each(|piece| {
                passed.extend_from_slice(&sieve.pass(piece)?);
                Ok::<_, Leak>(())
            });
            assert_eq!(ended, Err(Leak), "{size}");
            assert!(
                "before\n".as_bytes().starts_with(&passed),
                "{size}: {}",
                String::from_utf8_lossy(&passed)
            );
        }
    }

    #[test]
    fn lines_without_the_credential_pass_whole_and_without_waiting() {
        let mut sieve = Sieve::new(Arc::new(Forms::of(SECRET).unwrap()));
        assert_eq!(sieve.pass(b"data: one\n\n").unwrap(), "data: one\n\n");
        assert_eq!(sieve.pass(b"two\nthr").unwrap(), "two\n");
        assert_eq!(sieve.pass(b"ee\n").unwrap(), "three\n");
        assert_eq!(sieve.pass(b"sk-").unwrap(), "");
        assert_eq!(sieve.rest(), "sk-");
    }

    #[test]
    fn what_is_held_back_does_not_tell_whether_a_guess_is_right() {
        let forms = Arc::new(Forms::of(SECRET).unwrap());
        let passed_after = |guess: &str| {
            let mut sieve = Sieve::new(Arc::clone(&forms));
            ["x".repeat(1000).as_str(), guess, "#"]
                .map(|piece| sieve.pass(piece.as_bytes()).unwrap().len())
        };
        for length in 1..SECRET.len() {
            let right = &SECRET[..length];
            let wrong = "~".repeat(length);
            assert_eq!(passed_after(right), passed_after(&wrong), "{right}");
        }
        // Nor how long it is.
        assert_eq!(forms.hold % STEP, 0);
    }
}
