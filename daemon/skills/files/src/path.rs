//! Names of files, from a caller that may be anybody, and back to a reader that may be a terminal.

use std::{ffi::CStr, fmt, str::FromStr};

/// The longest path, in bytes.
const MAX_PATH: usize = 1024;
/// The longest name between two slashes, in bytes; what Linux file systems take.
const MAX_NAME: usize = 255;

/// A path beneath the root: relative, without `.`, `..`, empty names or control characters; empty for the root itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inside(String);

/// Why a text is not such a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPath {
    #[error("an absolute path; give it relative to the workspace, as in notes/today.txt")]
    Absolute,
    #[error("`..` in a path; nothing outside the workspace can be reached")]
    Parent,
    #[error("`.paw-undo` holds what undo needs, and is nobody else's; use undo")]
    Ours,
    #[error("a control character in a path")]
    Control,
    #[error("a path of more than {MAX_PATH} bytes, or a name of more than {MAX_NAME}")]
    TooLong,
}

impl FromStr for Inside {
    type Err = BadPath;

    fn from_str(text: &str) -> Result<Self, BadPath> {
        if text.starts_with('/') {
            return Err(BadPath::Absolute);
        }
        if text.chars().any(is_unshowable) {
            return Err(BadPath::Control);
        }
        let mut names = Vec::new();
        for name in text.split('/').filter(|name| !matches!(*name, "" | ".")) {
            match name {
                ".." => return Err(BadPath::Parent),
                long if long.len() > MAX_NAME => return Err(BadPath::TooLong),
                name => names.push(name),
            }
        }
        if names.first().is_some_and(|name| crate::kept::is_ours(name)) {
            return Err(BadPath::Ours);
        }
        let path = names.join("/");
        if path.len() > MAX_PATH {
            Err(BadPath::TooLong)
        } else {
            Ok(Self(path))
        }
    }
}

impl Inside {
    /// The path as the kernel wants it; `.` for the root.
    pub(crate) fn as_str(&self) -> &str {
        if self.0.is_empty() { "." } else { &self.0 }
    }

    /// Its directory and its last name; nothing for the root, which has no name.
    pub(crate) fn split(&self) -> Option<(Self, &str)> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.0.rsplit_once('/') {
            Some((directory, name)) => (Self(directory.to_owned()), name),
            None => (Self(String::new()), &self.0),
        })
    }

    /// What stands before the names in it.
    pub(crate) fn prefix(&self) -> String {
        if self.0.is_empty() {
            String::new()
        } else {
            format!("{}/", self.0)
        }
    }

    /// Every directory on the way to it and itself, outermost first.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = &str> {
        let slashes = self.0.match_indices('/').map(|(at, _)| at);
        slashes
            .chain((!self.0.is_empty()).then_some(self.0.len()))
            .map(|end| &self.0[..end])
    }
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A name as the file system has it, safe to show: unchanged when it is plain text, else escaped as in a byte string.
pub(crate) fn showable(name: &CStr) -> String {
    match name.to_str() {
        Ok(text) if !text.chars().any(is_unshowable) => text.to_owned(),
        _ => name.to_bytes().escape_ascii().to_string(),
    }
}

/// Control characters, and those that turn the direction of the text around them, which make one name look like another.
fn is_unshowable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, BadPath>) {
        let path = text.parse::<Inside>();
        assert_eq!(
            path.as_ref().map(Inside::as_str).map_err(|bad| *bad),
            expected,
            "{text:?}"
        );
    }

    #[test]
    fn only_paths_beneath_the_root_can_be_written_down() {
        check("", Ok("."));
        check("./", Ok("."));
        check("a", Ok("a"));
        check("a//./b/", Ok("a/b"));
        check("..a/b..", Ok("..a/b.."));
        check("/", Err(BadPath::Absolute));
        check("/etc/passwd", Err(BadPath::Absolute));
        check("..", Err(BadPath::Parent));
        check("a/../../etc", Err(BadPath::Parent));
        check("a/..", Err(BadPath::Parent));
        check(".paw-undo/1", Err(BadPath::Ours));
        check(".//.paw-undo", Err(BadPath::Ours));
        check("a/.paw-undo", Ok("a/.paw-undo"));
        check("a\0b", Err(BadPath::Control));
        check("a\x1b[2J", Err(BadPath::Control));
        check("invoice\u{202e}txt.exe", Err(BadPath::Control));
        check(&"n".repeat(255), Ok(&"n".repeat(255)));
        check(&"n".repeat(256), Err(BadPath::TooLong));
        check(&"n/".repeat(600), Err(BadPath::TooLong));
    }

    #[test]
    fn ancestors_come_outermost_first() {
        let path: Inside = "a/b/c".parse().unwrap();
        assert_eq!(path.ancestors().collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
        let root: Inside = "".parse().unwrap();
        assert_eq!(root.ancestors().count(), 0);
    }

    #[test]
    fn a_hostile_name_is_shown_escaped() {
        assert_eq!(showable(c"plain n\xc3\xa4me"), "plain näme");
        assert_eq!(showable(c"\x1b[31mred"), "\\x1b[31mred");
        assert_eq!(showable(c"\xff"), "\\xff");
    }
}
