//! The key that the host keeps for the vault: a credential of the service manager's, or a file that only root reads. It is read before
//! the drop; afterwards pawd may read neither.

use std::{
    fs::{Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use paw_vault::{
    Source, VaultError,
    key::{HostKey, KeyError},
};
use rustix::fs::OFlags;
use secrecy::zeroize::Zeroizing;

/// The credential, and the file below the configuration directory.
pub const CREDENTIAL: &str = "pawd-kek";
/// See [`CREDENTIAL`].
pub const FILE: &str = "vault.key";

/// What the name of a key ends in that is about to take the place of another one.
pub const NEXT: [&str; 2] = ["-next", ".next"];

/// The longest file that a key can be, in bytes: its digits, with a line end.
const MAX_FILE: usize = 66;

/// The mode of a key: its owner may read it, and nobody may do anything else.
const MODE: u32 = 0o400;

/// The mode that a credential shows where the service manager lets the user of the unit read it by an access list: its mask stands where
/// the rights of the group do, and the group is root's.
const MODE_BY_LIST: u32 = 0o440;

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
    /// It is no file, as a link or a directory is none.
    #[error(
        "the key of the vault, {path}, is no plain file; put the key itself there. {}",
        how(path)
    )]
    Kind {
        /// What stands there.
        path: PathBuf,
    },
    /// Others could use it or change it, too.
    #[error(
        "the key of the vault, {path}, must be root's with mode 0400 and has mode {mode:04o} and uid {uid}; run: chown root {path} && \
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
    #[error("the key of the vault, {path}, cannot be used. {}", how(path))]
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
        // A link is not followed, and a pipe not waited for.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // One of root's, where pawd is not started as root: it is for the service manager to hand over.
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied && source == Source::File =>
            {
                return Ok(());
            }
            Err(error)
                if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::LOOP) =>
            {
                return Err(StartKeyError::Kind {
                    path: path.to_owned(),
                });
            }
            Err(error) => return Err(failed(error)),
        };
        check(path, source, &file.metadata().map_err(failed)?)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
        file.take(MAX_FILE as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let unfit = |source| StartKeyError::Key {
            path: path.to_owned(),
            source,
        };
        if bytes.len() > MAX_FILE {
            return Err(unfit(KeyError::Length.into()));
        }
        let key = HostKey::parse(&bytes).map_err(unfit)?;
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

/// Whether that is a file which nobody but its owner can read, and nobody can change: root, or who pawd was started as.
fn check(path: &Path, source: Source, facts: &Metadata) -> Result<(), StartKeyError> {
    if !facts.is_file() {
        return Err(StartKeyError::Kind {
            path: path.to_owned(),
        });
    }
    let mode = facts.mode() & 0o7777;
    let ours = rustix::process::geteuid().as_raw();
    let by_list =
        source == Source::Credential && (mode, facts.uid(), facts.gid()) == (MODE_BY_LIST, 0, 0);
    if by_list || (mode == MODE && [0, ours].contains(&facts.uid())) {
        return Ok(());
    }
    Err(StartKeyError::Open {
        path: path.to_owned(),
        mode,
        uid: facts.uid(),
    })
}

/// How a key is made.
fn how(path: &Path) -> String {
    let path = path.display();
    format!(
        "For a new vault, make one: head -c 32 /dev/urandom | install -m 0400 /dev/stdin {path}; an older vault needs the key that it was made \
         with, or its recovery key"
    )
}
