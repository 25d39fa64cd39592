//! The key that signs checkpoints: 32 bytes in the writer's own directory, and its public half beside the log.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use ed25519_dalek::{SigningKey, VerifyingKey};

use crate::segment;

/// Name of the public key, beside the log: 64 hexadecimal digits and a line end.
pub const PUBLIC: &str = "audit.pub";

/// Name of the seed, in the writer's own directory.
pub const SEED: &str = "audit.key";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read or made.
    #[error("{step} {path}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read or write it.
    #[error(
        "{path} has mode {mode:o}; others must not have any rights: chmod 600, and consider the key known"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is not a key.
    #[error(
        "{0} is not a key: restore it, or move the log and this file away together to begin a new log"
    )]
    Bad(PathBuf),
    /// There is no randomness.
    #[error("get random bytes for a new key")]
    Random(#[source] getrandom::Error),
    /// There is no memory for it that is never swapped.
    #[error(
        "lock memory for the key of the next record; raise LimitMEMLOCK= of paw-audit, which needs two pages"
    )]
    Memory(#[source] io::Error),
}

/// Reads the signing key; `None` when there is none yet.
///
/// # Errors
/// When it cannot be read, is none, or others may read it.
pub fn load(state: &Path) -> Result<Option<SigningKey>, KeyError> {
    let path = state.join(SEED);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(KeyError::Io {
                step: "read",
                path,
                source,
            });
        }
    };
    let about = fs::metadata(&path).map_err(|source| KeyError::Io {
        step: "look at",
        path: path.clone(),
        source,
    })?;
    let mode = about.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open { path, mode });
    }
    let seed: [u8; 32] = bytes.try_into().map_err(|_| KeyError::Bad(path))?;
    Ok(Some(SigningKey::from_bytes(&seed)))
}

/// Makes the signing key, durably.
///
/// # Errors
/// When it exists or cannot be written.
pub fn create(state: &Path) -> Result<SigningKey, KeyError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(KeyError::Random)?;
    let path = state.join(SEED);
    write_durably(&path, &seed, 0o600).map_err(|source| KeyError::Io {
        step: "write",
        path,
        source,
    })?;
    Ok(SigningKey::from_bytes(&seed))
}

/// Writes the public half beside the log.
///
/// # Errors
/// When it cannot be written.
pub fn publish(dir: &Path, key: &VerifyingKey) -> Result<(), KeyError> {
    let path = dir.join(PUBLIC);
    let text = format!("{}\n", hex::encode(key.to_bytes()));
    if fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    write_durably(&path, text.as_bytes(), 0o644).map_err(|source| KeyError::Io {
        step: "write",
        path,
        source,
    })
}

/// Reads a public key file.
///
/// # Errors
/// When it cannot be read or is not a key.
pub fn read_public(path: &Path) -> Result<VerifyingKey, KeyError> {
    let text = segment::read_small(path, 4096).map_err(|source| KeyError::Io {
        step: "read",
        path: path.to_owned(),
        source,
    })?;
    let mut bytes = [0; 32];
    let bad = || KeyError::Bad(path.to_owned());
    hex::decode_to_slice(text.trim_ascii_end(), &mut bytes).map_err(|_| bad())?;
    VerifyingKey::from_bytes(&bytes).map_err(|_| bad())
}

/// Puts a small file in place as a whole, durably: who looks sees the old one or the new one.
pub(crate) fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
