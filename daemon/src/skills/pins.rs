//! What was approved: one file, `skills.json` in pawd's state, which is as before or as after, whatever is killed when.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use paw_policy::plan::is_deeper_than;
use paw_policy::{Digest, Name};
use serde::{Deserialize, Serialize};

use crate::sandbox::{Announced, Tool};

/// The largest file that is read, in bytes: 256 skills, each with as many tools as it may have, both as they were announced and as they
/// are told.
const MAX_FILE: u64 = 160 * 1024 * 1024;

/// How deep it may be nested; whoever reads it takes a little more.
const MAX_DEPTH: usize = 120;

/// Everything that was approved.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pins {
    /// By the names of the skills.
    pub skills: BTreeMap<Name, Pin>,
}

/// What was approved of one skill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Over all its files, their names, and which of them can be executed.
    pub digest: Digest,
    /// Its version, as text for people.
    pub version: String,
    /// Whether it may be used.
    pub enabled: bool,
    /// Why not, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When it was approved last, in milliseconds since 1970.
    pub since_ms: u64,
    /// Over what its program announced then; none of one that declares its tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<Digest>,
    /// The tools that its program announced then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, Tool>,
    /// What its program announced last, where that is something else and nobody has approved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Announced>,
}

/// Why what was approved is not known, or not kept.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// The file is there and cannot be read.
    #[error("read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{path} is not what pawd wrote")]
    Json {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The disk does not take it.
    #[error("write {path}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn path(state: &Path) -> PathBuf {
    state.join("skills.json")
}

impl Pins {
    /// Reads the file; without it, nothing was approved.
    ///
    /// # Errors
    /// When it is there and cannot be understood: then nobody knows what was approved, and pawd does not guess.
    pub fn read(state: &Path) -> Result<Self, PinsError> {
        let path = path(state);
        let read = || {
            let length = fs::metadata(&path)?.len();
            if length > MAX_FILE {
                return Err(io::Error::other("it is longer than 64 MiB"));
            }
            fs::read(&path)
        };
        match read() {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| PinsError::Json { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(PinsError::Read { path, source }),
        }
    }

    /// Puts it in the place of what was there; it is on disk when this returns.
    ///
    /// # Errors
    /// When the disk does not take it; then the file is as before.
    pub fn write(&self, state: &Path) -> Result<(), PinsError> {
        let (path, new) = (path(state), state.join("skills.json.new"));
        let written = || {
            let text = serde_json::to_vec(self)?;
            if text.len() as u64 > MAX_FILE || is_deeper_than(MAX_DEPTH, &text) {
                return Err(io::Error::other(
                    "what the skills announce is longer than 64 MiB or nested too deep: it could not be read again",
                ));
            }
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(state)?.sync_all()
        };
        written().map_err(|source| PinsError::Write { path, source })
    }
}
