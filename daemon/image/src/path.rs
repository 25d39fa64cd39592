//! Names in archives: which of them may become a path in a tree, and what a whiteout says. Pure.

/// The longest path in a tree, in bytes.
const MAX_PATH: usize = 1024;

/// The longest name in a path, in bytes, as every file system has it.
const MAX_NAME: usize = 255;

/// How deep a tree may be.
const MAX_DEPTH: usize = 64;

/// Why a name in an archive is not used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("the name {0:?} leaves the tree")]
    Outside(String),
    #[error("the name {0:?} has control characters")]
    Control(String),
    #[error(
        "the name {0:?} is longer or deeper than {MAX_PATH} bytes, {MAX_NAME} for each part, and {MAX_DEPTH} parts"
    )]
    TooLong(String),
    #[error("the name {0:?} is reserved for whiteouts and says none")]
    Reserved(String),
}

/// The parts of a path that stays in its tree; none for the root itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TreePath(Vec<Vec<u8>>);

/// What the last part of a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// An entry of this name.
    Entry(TreePath),
    /// That this entry of the layers below is gone.
    Without(TreePath),
    /// That everything of the layers below in this directory is gone.
    Empty(TreePath),
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(120).collect()
}

impl TreePath {
    /// Checks a name as it stands in an archive.
    pub(crate) fn parse(name: &[u8]) -> Result<Self, PathError> {
        if name.first() == Some(&b'/') {
            return Err(PathError::Outside(shown(name)));
        }
        if name.iter().any(|byte| *byte < 0x20 || *byte == 0x7f) {
            return Err(PathError::Control(shown(name)));
        }
        let parts: Vec<Vec<u8>> = name
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
            .map(<[u8]>::to_vec)
            .collect();
        if parts.iter().any(|part| part == b"..") {
            return Err(PathError::Outside(shown(name)));
        }
        if name.len() > MAX_PATH
            || parts.len() > MAX_DEPTH
            || parts.iter().any(|part| part.len() > MAX_NAME)
        {
            return Err(PathError::TooLong(shown(name)));
        }
        Ok(Self(parts))
    }

    /// The directory in which it is, and its name there; none for the root itself.
    pub(crate) fn split(&self) -> Option<(Self, &[u8])> {
        let (name, above) = self.0.split_last()?;
        Some((Self(above.to_vec()), name))
    }

    /// It with one more part, which is a name of the file system and not of an archive.
    pub(crate) fn join(&self, name: &[u8]) -> Self {
        let mut parts = self.0.clone();
        parts.push(name.to_vec());
        Self(parts)
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// For people.
    pub(crate) fn shown(&self) -> String {
        shown(&self.0.join(&b'/'))
    }
}

/// What a name in a layer asks for.
pub(crate) fn asks(name: &[u8]) -> Result<Asks, PathError> {
    let path = TreePath::parse(name)?;
    let Some((dir, last)) = path.split() else {
        return Ok(Asks::Entry(path));
    };
    match last.strip_prefix(b".wh.") {
        None => Ok(Asks::Entry(path)),
        Some(b".wh..opq") => Ok(Asks::Empty(dir)),
        // Other names of this kind are a file system's own; what stands for none is a way to smuggle a name past this check.
        Some(b"" | b"." | b"..") => Err(PathError::Reserved(shown(name))),
        Some(gone) if gone.starts_with(b".wh.") => Err(PathError::Reserved(shown(name))),
        Some(gone) => Ok(Asks::Without(dir.join(gone))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_stay_in_the_tree_are_paths() {
        let check = |name: &[u8], expected: Option<&str>| {
            let got = TreePath::parse(name).ok().map(|path| path.shown());
            assert_eq!(
                got.as_deref(),
                expected,
                "{}",
                String::from_utf8_lossy(name)
            );
        };
        check(b"usr/bin/env", Some("usr/bin/env"));
        check(b"./usr//bin/", Some("usr/bin"));
        check(b"./", Some(""));
        check(b"a..b/...", Some("a..b/..."));
        check(b"/etc/passwd", None);
        check(b"..", None);
        check(b"usr/../../etc", None);
        check(b"a\0b", None);
        check(b"a\nb", None);
        check(b"a\x1b[2Jb", None);
        check(&[b'a'; 256], None);
        check("d/".repeat(65).as_bytes(), None);
        check("abcdefg/".repeat(150).as_bytes(), None);
    }

    #[test]
    fn whiteouts_are_told_from_names() {
        let path = |name: &str| TreePath::parse(name.as_bytes()).unwrap();
        assert_eq!(asks(b"a/b"), Ok(Asks::Entry(path("a/b"))));
        assert_eq!(asks(b"a/.wh.b"), Ok(Asks::Without(path("a/b"))));
        assert_eq!(asks(b"a/.wh..wh..opq"), Ok(Asks::Empty(path("a"))));
        assert_eq!(asks(b".wh..wh..opq"), Ok(Asks::Empty(path(""))));
        for reserved in [
            &b"a/.wh."[..],
            b"a/.wh...",
            b"a/.wh..",
            b"a/.wh..wh.plnk",
            b".wh..wh.aufs",
        ] {
            assert!(matches!(asks(reserved), Err(PathError::Reserved(_))));
        }
        assert!(matches!(asks(b"a/.wh.b/../c"), Err(PathError::Outside(_))));
    }
}
