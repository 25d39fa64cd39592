//! Where something is beneath a workspace: bytes of anybody's choosing, bounded, and shown without a chance to deceive.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest path beneath a workspace, in bytes.
pub const MAX_PATH: usize = 1024;

/// How deep directories may go.
pub const MAX_DEPTH: usize = 32;

/// A path beneath a workspace. It has neither `.` nor `..`, no empty part, no zero byte, and its bounds are kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(Vec<u8>);

/// Why bytes are no [`Place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPlace {
    /// Longer than [`MAX_PATH`].
    #[error("its path has more than {MAX_PATH} bytes")]
    Long,
    /// Deeper than [`MAX_DEPTH`].
    #[error("it is more than {MAX_DEPTH} directories deep")]
    Deep,
    /// A part that names nothing, or leads elsewhere.
    #[error("its path has a part that is empty, `.`, `..`, or has a zero byte")]
    Part,
    /// Text that no path is shown as.
    #[error("it is not written as a path is shown")]
    Escape,
}

impl Place {
    /// Checks a path.
    ///
    /// # Errors
    /// When it is out of bounds or leads elsewhere.
    pub fn new(bytes: &[u8]) -> Result<Self, BadPlace> {
        if bytes.len() > MAX_PATH {
            return Err(BadPlace::Long);
        }
        let parts = || bytes.split(|byte| *byte == b'/');
        if parts().any(|part| matches!(part, b"" | b"." | b"..") || part.contains(&0)) {
            return Err(BadPlace::Part);
        }
        if parts().count() > MAX_DEPTH {
            return Err(BadPlace::Deep);
        }
        Ok(Self(bytes.to_vec()))
    }

    /// An entry of the directory at `dir`, which is the workspace itself when there is none.
    ///
    /// # Errors
    /// As [`Place::new`].
    pub fn below(dir: Option<&Self>, name: &[u8]) -> Result<Self, BadPlace> {
        match dir {
            None => Self::new(name),
            Some(dir) => Self::new(&[&dir.0, &b"/"[..], name].concat()),
        }
    }

    /// The path as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its directory, unless that is the workspace itself, and its name.
    #[must_use]
    pub fn split(&self) -> (Option<Self>, &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (Some(Self(self.0[..at].to_vec())), &self.0[at + 1..]),
            None => (None, &self.0),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&shown(&self.0))
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        Self::new(&meant(text).ok_or(BadPlace::Escape)?)
    }
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&shown(&self.0))
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Bytes as text that can be shown and read back: a backslash is doubled, and each byte of what is not text, not printable, or
/// could hide or reorder what stands around it is written as `\x` and two digits.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            let mut own = [0; 4];
            match character {
                '\\' => text.push_str("\\\\"),
                plain if is_plain(plain) => text.push(plain),
                other => escape(&mut text, other.encode_utf8(&mut own).as_bytes()),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// The beginning of a shown path, where many are named and each is only a hint: in bytes, because all of them have to fit into
/// an answer beside a change with the longest names there are.
pub(crate) fn brief(shown: &str) -> String {
    const MOST: usize = 160;
    if shown.len() <= MOST {
        return shown.to_owned();
    }
    format!("{}…", &shown[..shown.floor_char_boundary(MOST)])
}

/// The bytes that [`shown`] shows as this text; nothing when it shows none so.
#[must_use]
pub fn meant(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        (rest, _) = match (first, after) {
            (b'\\', [b'\\', more @ ..]) => (more, bytes.push(b'\\')),
            (b'\\', [b'x', high, low, more @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok()?;
                (more, bytes.push(u8::from_str_radix(digits, 16).ok()?))
            }
            (b'\\', _) => return None,
            (plain, more) => (more, bytes.push(*plain)),
        };
    }
    (shown(&bytes) == text).then_some(bytes)
}

/// Whether a character shows itself and nothing else: no control, no other space than the usual one, nothing invisible, nothing
/// that changes the direction of text or joins what stands beside it.
pub(crate) fn is_plain(character: char) -> bool {
    let invisible = matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{ffff}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{10ffff}');
    character == ' ' || !(character.is_control() || character.is_whitespace() || invisible)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn path_that_leads_elsewhere_is_none() {
        for (path, bad) in [
            (&b"a/../b"[..], BadPlace::Part),
            (b"..", BadPlace::Part),
            (b"a/./b", BadPlace::Part),
            (b"/a", BadPlace::Part),
            (b"a/", BadPlace::Part),
            (b"", BadPlace::Part),
            (b"a\0b", BadPlace::Part),
            (&[b'a'; MAX_PATH + 1], BadPlace::Long),
            (
                &b"a/".repeat(MAX_DEPTH)[..2 * MAX_DEPTH - 1],
                BadPlace::Deep,
            ),
        ] {
            let found = Place::new(path);
            if bad == BadPlace::Deep {
                assert!(found.is_ok());
                assert_eq!(Place::new(&[path, b"/a"].concat()), Err(bad));
            } else {
                assert_eq!(found, Err(bad), "{path:?}");
            }
        }
    }

    #[test]
    fn nothing_that_could_deceive_is_shown() {
        for (bytes, text) in [
            (&b"plain name.txt"[..], "plain name.txt"),
            (b"a\nb\x1b[2J", "a\\x0ab\\x1b[2J"),
            ("\u{202e}txt.exe".as_bytes(), "\\xe2\\x80\\xaetxt.exe"),
            ("zero\u{200b}width".as_bytes(), "zero\\xe2\\x80\\x8bwidth"),
            (b"\xff\xfe", "\\xff\\xfe"),
            (b"back\\slash", "back\\\\slash"),
            ("Grüße 名前".as_bytes(), "Grüße 名前"),
        ] {
            assert_eq!(shown(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_what_is_meant(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(meant(&shown(&bytes)), Some(bytes));
        }

        #[test]
        fn no_two_names_are_shown_alike(text in ".{0,60}") {
            // Whatever is taken as a path is the only way to write it.
            if let Some(bytes) = meant(&text) {
                prop_assert_eq!(shown(&bytes), text);
            }
        }
    }
}
