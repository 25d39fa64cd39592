//! Reading configuration files: who may have written them, and what they say byte for byte.

use std::{
    fs, io,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::{fault::Faults, file::File};

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// How many faults of one file are looked for.
const MAX_FAULTS: usize = 100;

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its path, as faults name it.
    pub name: String,
    /// What it says.
    pub text: String,
}

impl Source {
    /// Line and column, both from 1, of a byte.
    #[must_use]
    pub fn place(&self, offset: usize) -> (usize, usize) {
        let before = self
            .text
            .get(..offset.min(self.text.len()))
            .unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .map_or(0, |tail| tail.chars().count())
            + 1;
        (line, column)
    }
}

/// Why a file cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be read.
    #[error("read {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else may write it.
    #[error(
        "{path} may be written by {who}; whoever writes it decides what pawd does. Run: {remedy}"
    )]
    Writable {
        /// Which one.
        path: PathBuf,
        /// Who.
        who: String,
        /// The command that mends it.
        remedy: String,
    },
    /// It is too long.
    #[error("{path} has more than {MAX_FILE} bytes")]
    TooLong {
        /// Which one.
        path: PathBuf,
    },
}

/// Reads `etc/pawd.toml`, if it is there, and `etc/pawd.d/*.toml` in the order of their names.
///
/// # Errors
/// When one cannot be read or may be written by others.
pub fn read_all(etc: &Path) -> Result<Vec<Source>, SourceError> {
    let mut sources = Vec::new();
    if !etc.exists() {
        return Ok(sources);
    }
    check_owner(
        etc,
        &fs::metadata(etc).map_err(|source| SourceError::Read {
            path: etc.into(),
            source,
        })?,
    )?;
    let main = etc.join("pawd.toml");
    if main.exists() {
        sources.push(read(&main)?);
    }
    sources.extend(read_directory(&etc.join("pawd.d"), "toml")?.unwrap_or_default());
    Ok(sources)
}

/// Reads the files of a directory that end in `.EXTENSION`, in the order of their names; none if there is no directory.
///
/// # Errors
/// As [`read_all`].
pub fn read_directory(
    directory: &Path,
    extension: &str,
) -> Result<Option<Vec<Source>>, SourceError> {
    let failed = |source| SourceError::Read {
        path: directory.into(),
        source,
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    check_owner(directory, &fs::metadata(directory).map_err(failed)?)?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    paths
        .iter()
        .map(|path| read(path))
        .collect::<Result<_, _>>()
        .map(Some)
}

fn read(path: &Path) -> Result<Source, SourceError> {
    let failed = |source| SourceError::Read {
        path: path.into(),
        source,
    };
    let file = fs::File::open(path).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    check_owner(path, &facts)?;
    let mut text = String::new();
    file.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(SourceError::TooLong { path: path.into() });
    }
    Ok(Source {
        name: path.display().to_string(),
        text,
    })
}

/// Refuses what somebody other than root or ourselves may write. The sticky bit does not help: it protects names, not bytes.
fn check_owner(path: &Path, facts: &fs::Metadata) -> Result<(), SourceError> {
    let refuse = |who: String, remedy: String| SourceError::Writable {
        path: path.into(),
        who,
        remedy,
    };
    let ours = rustix::process::geteuid().as_raw();
    let shown = path.display();
    if facts.uid() != 0 && facts.uid() != ours {
        return Err(refuse(
            format!("its owner, uid {}", facts.uid()),
            format!("chown root:root {shown}"),
        ));
    }
    if facts.mode() & 0o002 != 0 {
        return Err(refuse("everybody".into(), format!("chmod o-w {shown}")));
    }
    if facts.mode() & 0o020 != 0 && facts.gid() != 0 {
        return Err(refuse(
            format!("group {}", facts.gid()),
            format!("chmod g-w {shown}"),
        ));
    }
    Ok(())
}

/// What a file says; every fault that can be seen without knowing what the values mean is noted.
pub fn parse(source: &Source, faults: &mut Faults) -> File {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    if !errors.is_empty() {
        for error in errors.iter().take(MAX_FAULTS) {
            faults.at(
                source,
                error.span().unwrap_or(0..0),
                error.message(),
                "see pawd.toml(5) for the format",
            );
        }
        return File::default();
    }
    let mut table = table;
    for _ in 0..MAX_FAULTS {
        match File::deserialize(toml::de::Deserializer::from(table.clone())) {
            Ok(file) => return file,
            Err(error) => {
                let span = error.span().unwrap_or(0..0);
                faults.at(source, span.clone(), error.message(), hint(error.message()));
                // What is at fault is taken out, so that the next round sees what else is.
                if !remove(table.get_mut(), span.start) {
                    return File::default();
                }
            }
        }
    }
    File::default()
}

/// Takes out the innermost key that stands at this byte or whose value spans it.
fn remove(table: &mut DeTable<'_>, at: usize) -> bool {
    let holds =
        |span: std::ops::Range<usize>| span.start <= at && at < span.end.max(span.start + 1);
    let found = table.iter().find(|(key, value)| {
        holds(key.span()) || holds(value.span()) || inside(value.get_ref(), at)
    });
    let Some((key, _)) = found else { return false };
    let key = key.clone();
    let on_key = holds(key.span());
    if !on_key
        && let Some(value) = table.get_mut(&key)
        && let DeValue::Table(inner) = value.get_mut()
        && remove(inner, at)
    {
        return true;
    }
    table.remove(&key).is_some()
}

/// Whether a key or value within stands at this byte; a table's own span is only its header.
fn inside(value: &DeValue<'_>, at: usize) -> bool {
    match value {
        DeValue::Table(table) => table.iter().any(|(key, value)| {
            key.span().contains(&at) || value.span().contains(&at) || inside(value.get_ref(), at)
        }),
        _ => false,
    }
}

/// What to do about a fault, from serde's words for it.
fn hint(message: &str) -> String {
    let words: Vec<&str> = message.split('`').collect();
    match words.as_slice() {
        [start, unknown, _, expected @ ..] if start.starts_with("unknown field") => {
            let known = expected.iter().step_by(2);
            match known.min_by_key(|word| distance(unknown, word)) {
                Some(nearest) if distance(unknown, nearest) <= 3 => {
                    format!("did you mean `{nearest}`?")
                }
                _ => "remove it, or see pawd.toml(5) for the keys of this section".into(),
            }
        }
        [start, missing, ..] if start.starts_with("missing field") => {
            format!("add `{missing} = …`")
        }
        _ => "see pawd.toml(5) for what may stand here".into(),
    }
}

/// Edit distance of two short words.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let cost = (diagonal + usize::from(x != y))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}
