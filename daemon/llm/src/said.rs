//! What a provider said, made fit to be shown: bounded, without control characters, without our key.
//!
//! Providers quote the request in their errors, and some quote the key with it. The key is therefore taken out here,
//! where foreign text becomes ours, and not where it is printed.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

/// A provider's own words: at most [`Said::LIMIT`] bytes, one line, no control characters, never the key.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Said(String);

impl Said {
    /// The most bytes that are kept.
    pub const LIMIT: usize = 2048;

    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "(no words)"
        } else {
            &self.0
        })
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Knows the key that must not appear in anything a provider said. Its `Debug` does not show the key.
#[derive(Debug, Default, Clone)]
pub struct Mask(Option<SecretString>);

impl Mask {
    /// A mask for this key. Without a key, text is only bounded and cleaned.
    pub fn new(key: Option<SecretString>) -> Self {
        Self(key)
    }

    /// Makes foreign text fit to be shown.
    pub fn clean(&self, text: &str) -> Said {
        Said(self.clean_to(text, Said::LIMIT))
    }

    /// As [`Mask::clean`], with a bound of its own in bytes.
    pub(crate) fn clean_to(&self, text: &str, limit: usize) -> String {
        // Control characters go first: a key must not survive because one of them stands in its middle. The bound
        // comes last: a key must not survive in part because the cut falls into it.
        let plain: String = text
            .chars()
            .map(|c| if c.is_whitespace() { ' ' } else { c })
            .filter(|c| printable(*c))
            .collect();
        let mut plain = match &self.0 {
            Some(key) if !key.expose_secret().is_empty() => {
                plain.replace(key.expose_secret(), "[key]")
            }
            _ => plain,
        };
        plain.truncate(plain.floor_char_boundary(limit));
        plain.truncate(plain.trim_end().len());
        plain
    }
}

/// Whether a terminal shows this character and does nothing else with it. Bidirectional overrides and invisible
/// characters reorder or hide what stands around them.
pub(crate) fn printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(key: &str, text: &str) -> String {
        Mask::new(Some(key.into())).clean(text).as_str().to_owned()
    }

    #[test]
    fn key_never_survives_in_what_a_provider_said() {
        for text in [
            "bad key sk-secret!",
            "bad key sk-\u{7}secret!",
            "bad key sk-\u{200b}secret!",
        ] {
            assert_eq!(said("sk-secret", text), "bad key [key]!", "{text:?}");
        }
        let at_the_cut = format!("{}sk-secret", "x".repeat(Said::LIMIT - 4));
        assert!(!said("sk-secret", &at_the_cut).contains("sk-"));
    }

    #[test]
    fn control_characters_are_stripped_and_lines_joined() {
        assert_eq!(
            said("k", "a\x1b[31mb\r\nc\0\u{9b}d\u{202e}e"),
            "a[31mb  cde"
        );
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let cut = said("k", &"ü".repeat(5000));
        assert_eq!(cut.len(), Said::LIMIT);
        assert!(cut.chars().all(|c| c == 'ü'));
    }
}
