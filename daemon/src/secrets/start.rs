//! The key that the host keeps for the vault: a credential of the service manager's, or a file that only root reads. It is read before
//! the drop; afterwards pawd may read neither.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use paw_vault::{Source, VaultError, key::HostKey};
use secrecy::zeroize::Zeroizing;

/// The credential, and the file below the configuration directory.
pub const CREDENTIAL: &str = "pawd-kek";
/// See [`CREDENTIAL`].
pub const FILE: &str = "vault.key";

/// What the name of a key ends in that is about to take the place of another one.
pub const NEXT: [&str; 2] = ["-next", ".next"];

/// The longest file that is read, in bytes: a key as digits, with a line end.
const MAX_FILE: u64 = 128;

/// Keys that pawd was started with: none, one, or more while one is being replaced by another.
#[derive(Debug, Default)]
pub struct StartKeys(pub Vec<(HostKey, Source)>);

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StartKeyError {
    /// It cannot be read.
    #[error("read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could use it, too.
    #[error(
        "the key of the vault, {path}, must be its owner's alone and root's (mode {mode:03o}, uid {uid}); run: chown root {path}, \
         chmod 0400 {path}"
    )]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// Whose it is.
        uid: u32,
    },
    /// It is no key.
    #[error("the key of the vault, {path}")]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: VaultError,
    },
}

impl StartKeys {
    /// Reads the key: the credential and the file, whichever is there. A vault is opened by exactly one of them.
    ///
    /// # Errors
    /// When there is one and it cannot be used.
    pub fn read(etc: &Path, credentials: Option<&Path>) -> Result<Self, StartKeyError> {
        let [credential_next, file_next] = NEXT;
        let mut keys = Self::default();
        if let Some(directory) = credentials {
            for end in ["", credential_next] {
                let path = directory.join(format!("{CREDENTIAL}{end}"));
                keys.add(&path, Source::Credential)?;
            }
        }
        for end in ["", file_next] {
            keys.add(&etc.join(format!("{FILE}{end}")), Source::File)?;
        }
        Ok(keys)
    }

    fn add(&mut self, path: &Path, source: Source) -> Result<(), StartKeyError> {
        let failed = |source| StartKeyError::Read {
            path: path.to_owned(),
            source,
        };
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // One of root's, where pawd is not started as root: it is for the service manager to hand over.
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied && source == Source::File =>
            {
                return Ok(());
            }
            Err(error) => return Err(failed(error)),
        };
        let facts = file.metadata().map_err(failed)?;
        let mode = facts.mode() & 0o777;
        let ours = rustix::process::geteuid().as_raw();
        if mode & 0o077 != 0 || (facts.uid() != 0 && facts.uid() != ours) {
            return Err(StartKeyError::Open {
                path: path.to_owned(),
                mode,
                uid: facts.uid(),
            });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize + 1));
        file.take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let key = HostKey::parse(&bytes).map_err(|source| StartKeyError::Key {
            path: path.to_owned(),
            source,
        })?;
        self.0.push((key, source));
        Ok(())
    }

    /// The one that a vault is to have now: a credential before a file, and what is to replace another one before that.
    #[must_use]
    pub fn newest(&self) -> Option<&(HostKey, Source)> {
        let of = |wanted: Source| self.0.iter().rfind(move |(_, source)| *source == wanted);
        of(Source::Credential).or_else(|| of(Source::File))
    }
}
