//! Notes in a directory: `NAME/VERSION`, a file for each version that is kept.
//!
//! A version is written beside the others and renamed, so a note is as before or as after. Everything has a bound.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// Most notes.
const MAX_NOTES: usize = 1000;
/// Most versions of one note; of more, the oldest go.
const MAX_VERSIONS: usize = 20;
/// Most bytes of one version.
const MAX_TEXT: usize = 16 * 1024;
/// The longest name, in bytes.
const MAX_NAME: usize = 64;

/// Why something is not done with a note. The text is for the model that asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoteError {
    #[error("a name of 1 to {MAX_NAME} letters a-z, digits, '-' and '_' is expected")]
    Name,
    #[error("there is no note {0}; list shows those that there are")]
    Unknown(String),
    #[error("note {name} has no version {version}; there are {known}")]
    Version {
        name: String,
        version: u64,
        known: String,
    },
    #[error("{0} bytes are more than the {MAX_TEXT} of a note; save it in pieces")]
    TooLong(usize),
    #[error("there are {MAX_NOTES} notes, which is the most; forget one")]
    TooMany,
    #[error("{step} note {name}: {source}")]
    System {
        step: &'static str,
        name: String,
        source: io::Error,
    },
}

/// A note, briefly.
#[derive(Debug, Serialize)]
pub(crate) struct Brief {
    pub(crate) name: String,
    /// The latest.
    pub(crate) version: u64,
    /// Of the latest, in bytes.
    pub(crate) size: u64,
}

/// All notes of an agent.
pub(crate) struct Notes(PathBuf);

impl Notes {
    /// Those of a directory that is there.
    pub(crate) fn at(root: PathBuf) -> Self {
        Self(root)
    }

    /// All notes by name.
    pub(crate) fn list(&self) -> Result<Vec<Brief>, NoteError> {
        let mut notes = Vec::new();
        for name in names(&self.0).map_err(|source| system("list", "", source))? {
            if is_name(&name)
                && let Some(version) = self.versions(&name)?.pop()
            {
                let place = self.0.join(&name).join(version.to_string());
                let size = fs::metadata(place).map_or(0, |meta| meta.len());
                notes.push(Brief {
                    name,
                    version,
                    size,
                });
            }
        }
        notes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(notes)
    }

    /// A version, the latest if none is named, and its text.
    pub(crate) fn read(
        &self,
        name: &str,
        version: Option<u64>,
    ) -> Result<(u64, String), NoteError> {
        let versions = self.known(name)?;
        let latest = versions.last().copied().unwrap_or_default();
        let wanted = version.unwrap_or(latest);
        if !versions.contains(&wanted) {
            let known: Vec<String> = versions.iter().map(u64::to_string).collect();
            return Err(NoteError::Version {
                name: name.to_owned(),
                version: wanted,
                known: known.join(", "),
            });
        }
        let text = fs::read_to_string(self.0.join(name).join(wanted.to_string()));
        Ok((wanted, text.map_err(|source| system("read", name, source))?))
    }

    /// A new version; gives its number.
    pub(crate) fn save(&self, name: &str, text: &str) -> Result<u64, NoteError> {
        if !is_name(name) {
            return Err(NoteError::Name);
        }
        if text.len() > MAX_TEXT {
            return Err(NoteError::TooLong(text.len()));
        }
        let mut versions = self.versions(name)?;
        if versions.is_empty() && self.list()?.len() >= MAX_NOTES {
            return Err(NoteError::TooMany);
        }
        let (dir, next) = (self.0.join(name), versions.last().unwrap_or(&0) + 1);
        write(&dir, next, text).map_err(|source| system("save", name, source))?;
        versions.push(next);
        for old in &versions[..versions.len().saturating_sub(MAX_VERSIONS)] {
            fs::remove_file(dir.join(old.to_string()))
                .map_err(|source| system("tidy up", name, source))?;
        }
        Ok(next)
    }

    /// Removes a note with all its versions.
    pub(crate) fn forget(&self, name: &str) -> Result<(), NoteError> {
        self.known(name)?;
        fs::remove_dir_all(self.0.join(name)).map_err(|source| system("forget", name, source))
    }

    /// The versions of a note that there is, the oldest first.
    fn known(&self, name: &str) -> Result<Vec<u64>, NoteError> {
        if !is_name(name) {
            return Err(NoteError::Name);
        }
        match self.versions(name)? {
            none if none.is_empty() => Err(NoteError::Unknown(name.to_owned())),
            versions => Ok(versions),
        }
    }

    fn versions(&self, name: &str) -> Result<Vec<u64>, NoteError> {
        let names = match names(&self.0.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names.map_err(|source| system("look for", name, source))?,
        };
        let mut versions: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
        versions.sort_unstable();
        Ok(versions)
    }
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(dir)?;
    let names = entries.filter_map(|entry| match entry {
        Ok(entry) => entry.file_name().into_string().ok().map(Ok),
        Err(error) => Some(Err(error)),
    });
    names.collect()
}

fn write(dir: &Path, version: u64, text: &str) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let beside = dir.join("new");
    let mut file = fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, dir.join(version.to_string()))?;
    fs::File::open(dir)?.sync_all()
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
    };
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain)
}

fn system(step: &'static str, name: &str, source: io::Error) -> NoteError {
    NoteError::System {
        step,
        name: name.to_owned(),
        source,
    }
}
