//! Texts and names that are looked for, in everything beneath a directory, within bounds.

use std::os::fd::AsFd as _;

use rustix::{
    fs::{self, AtFlags, FileType, OFlags},
    io::Errno,
};

use crate::{
    path::{Inside, showable},
    tree::{Tree, TreeError, names_in, open_strictly, read_all},
};

/// Most hits of one search.
const MAX_HITS: usize = 200;
/// Most files and directories that are looked at.
const MAX_LOOKED_AT: usize = 20_000;
/// Most bytes that are read for one search.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The largest file that is looked into, in bytes.
const MAX_FILE: usize = 4 * 1024 * 1024;
/// Deepest level.
const MAX_DEPTH: u32 = 32;
/// How much of a line is shown, in characters.
const MAX_LINE: usize = 200;
/// The longest text or name that is looked for, in bytes.
const MAX_WANTED: usize = 1024;

/// What is looked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    text: Option<String>,
    name: Option<String>,
    ignore_case: bool,
}

impl Wanted {
    /// A text in a line, a name with `*` and `?`, or both.
    pub(crate) fn new(
        text: Option<String>,
        name: Option<String>,
        ignore_case: bool,
    ) -> Result<Self, TreeError> {
        let fold = |text: String| {
            if ignore_case {
                text.to_lowercase()
            } else {
                text
            }
        };
        let given = |text: &String| (1..=MAX_WANTED).contains(&text.len()) && !text.contains('\n');
        if !text.iter().chain(&name).all(given) || text.is_none() && name.is_none() {
            return Err(TreeError::Wanted);
        }
        Ok(Self {
            text: text.map(fold),
            name: name.map(fold),
            ignore_case,
        })
    }

    fn fold(&self, text: &str) -> String {
        if self.ignore_case {
            text.to_lowercase()
        } else {
            text.to_owned()
        }
    }

    fn is_named(&self, name: &str) -> bool {
        let pattern = self.name.as_ref();
        pattern.is_none_or(|pattern| matches(pattern.as_bytes(), self.fold(name).as_bytes()))
    }
}

/// Something found.
#[derive(Debug)]
pub(crate) struct Hit {
    pub(crate) path: String,
    /// The line, from 1 on, and its beginning; nothing where only a name was looked for.
    pub(crate) line: Option<(usize, String)>,
}

/// All that was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) hits: Vec<Hit>,
    /// Files that were not looked into.
    pub(crate) skipped: usize,
    /// Whether there may be more.
    pub(crate) truncated: bool,
    looked_at: usize,
    read: usize,
}

impl Tree {
    /// Looks in one file, or in all beneath a directory.
    pub(crate) fn search(&self, path: &Inside, wanted: &Wanted) -> Result<Found, TreeError> {
        let mut found = Found {
            hits: Vec::new(),
            skipped: 0,
            truncated: false,
            looked_at: 0,
            read: 0,
        };
        // Looked at without opening it: what is a pipe would wait.
        let start = self.open_beneath(path, OFlags::PATH)?;
        let stat = fs::fstat(&start).map_err(|errno| TreeError::of("look at", path, errno))?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            let directory = self.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let prefix = path.prefix();
            walk(&directory, &prefix, MAX_DEPTH, wanted, &mut found)
                .map_err(|errno| TreeError::of("search", path, errno))?;
            return Ok(found);
        }
        let Some((parent, name)) = path.split() else {
            return Ok(found);
        };
        let directory = self.open_beneath(&parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
        if wanted.is_named(name) {
            let name = std::ffi::CString::new(name).unwrap_or_default();
            look(&directory, &name, path.to_string(), wanted, &mut found);
        }
        Ok(found)
    }
}

fn walk(
    directory: &std::os::fd::OwnedFd,
    prefix: &str,
    depth: u32,
    wanted: &Wanted,
    found: &mut Found,
) -> Result<(), Errno> {
    let (names, more) = names_in(directory)?;
    found.truncated |= more;
    for name in names {
        let shown = showable(&name);
        if prefix.is_empty() && crate::kept::is_ours(&shown) {
            continue;
        }
        found.looked_at += 1;
        if found.looked_at > MAX_LOOKED_AT || found.hits.len() >= MAX_HITS {
            found.truncated = true;
            return Ok(());
        }
        let stat = match fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It went away between two calls.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        let path = format!("{prefix}{shown}");
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind.is_file() && wanted.is_named(&shown) {
            look(directory, &name, path.clone(), wanted, found);
        }
        if kind.is_dir() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let below = (depth > 1).then(|| open_strictly(directory.as_fd(), &*name, flags));
            match below {
                Some(Ok(below)) => {
                    walk(&below, &format!("{path}/"), depth - 1, wanted, found)?;
                }
                // Too deep, or it went away, became something else, or is not ours to read.
                Some(Err(_)) | None => found.truncated = true,
            }
        }
    }
    Ok(())
}

/// Looks into one file.
fn look(
    directory: &std::os::fd::OwnedFd,
    name: &std::ffi::CStr,
    path: String,
    wanted: &Wanted,
    found: &mut Found,
) {
    let Some(text) = &wanted.text else {
        found.hits.push(Hit { path, line: None });
        return;
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let read = open_strictly(directory.as_fd(), name, flags)
        .and_then(|file| read_all(&file, MAX_FILE.min(MAX_BYTES - found.read)));
    let Ok(Some(bytes)) = read else {
        found.skipped += 1;
        return;
    };
    found.read += bytes.len();
    let Some(content) = String::from_utf8(bytes)
        .ok()
        .filter(|it| !it.contains('\0'))
    else {
        found.skipped += 1;
        return;
    };
    for (at, line) in content.lines().enumerate() {
        let hit = if wanted.ignore_case {
            line.to_lowercase().contains(text.as_str())
        } else {
            line.contains(text.as_str())
        };
        if !hit {
            continue;
        }
        if found.hits.len() >= MAX_HITS {
            found.truncated = true;
            return;
        }
        let shown = line.chars().take(MAX_LINE).collect();
        found.hits.push(Hit {
            path: path.clone(),
            line: Some((at + 1, shown)),
        });
    }
}

/// Whether a name is as a pattern says, in which `*` is any text and `?` any byte. Linear in the name for each `*`.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut of, mut star) = (0, 0, None);
    while of < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, of));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[of] => {
                at += 1;
                of += 1;
            }
            Some(_) | None => {
                let Some((star_at, star_of)) = star else {
                    return false;
                };
                // The last star takes one more.
                at = star_at + 1;
                of = star_of + 1;
                star = Some((star_at, of));
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_the_whole_name() {
        let check = |pattern: &str, name: &str, expected: bool| {
            let found = matches(pattern.as_bytes(), name.as_bytes());
            assert_eq!(found, expected, "{pattern} {name}");
        };
        check("*.rs", "main.rs", true);
        check("*.rs", "main.rst", false);
        check("ma?n*", "main.rs", true);
        check("*a*b*c*", "xxaxxbxxc", true);
        check("*a*b*c*", "xxaxxcxxb", false);
        check("", "", true);
        check("*", "", true);
        check("?", "", false);
        check("a", "ab", false);
        // What makes careless matchers slow.
        check(&"*a".repeat(200), &"a".repeat(199), false);
    }
}
