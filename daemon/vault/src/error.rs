//! Why a vault does not do what it was asked.

use std::{io, path::PathBuf};

use crate::{Unfit, key::KeyError};

/// Why a vault does not do what it was asked. No text of it holds a value or a key.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// There is none yet.
    #[error("there is no vault yet")]
    Uninitialised,
    /// There is one already.
    #[error("there is a vault already")]
    Initialised,
    /// No key has opened it.
    #[error("the vault is sealed")]
    Sealed,
    /// It is open already.
    #[error("the vault is not sealed")]
    Unsealed,
    /// The key is another one, or its place in the header was changed; nobody can tell which.
    #[error("this is not the key of the vault")]
    WrongKey,
    /// Too many keys were tried.
    #[error("too many wrong keys were tried; the next one may be tried in {wait_ms} ms")]
    Paused {
        /// How long to wait, in milliseconds.
        wait_ms: u64,
    },
    /// What is there is not what was written.
    #[error("the vault {path} is not what was written: {what}")]
    Tampered {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: &'static str,
    },
    /// It could not be opened when it was first looked at, or again after a failure.
    #[error("the vault cannot be used: {why}")]
    Unusable {
        /// What was found then.
        why: String,
    },
    /// Another process has it.
    #[error("{path} is in use by another process")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// There is no secret of that name.
    #[error("there is no such secret")]
    NotFound,
    /// There is one of that name.
    #[error("there is a secret of that name already")]
    Exists,
    /// What is to be put back is no copy of a vault.
    #[error("this is no whole copy of a vault: {0}")]
    NoCopy(&'static str),
    /// What is to be put back is older than what is there.
    #[error("the copy is older than the vault: it has seen {copy} changes, the vault {here}")]
    Older {
        /// Changes that the copy has seen.
        copy: u64,
        /// Changes that the vault has seen.
        here: u64,
    },
    /// What is to be put back is a copy of another vault than the one that is there.
    #[error("the copy is one of another vault")]
    AnotherVault,
    /// There is too much for a copy.
    #[error("the vault is longer than a copy can be, {} bytes", crate::MAX_COPY)]
    CopyTooLong,
    /// Its time is over, or it was revoked.
    #[error("there is no such version of that secret")]
    NoVersion,
    /// A name, a value or a list is not as it must be.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// A key is not as it must be.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The kernel gives no memory that is kept from swap and dumps.
    #[error("lock memory for secrets")]
    Memory(#[source] io::Error),
    /// The kernel gives no random numbers.
    #[error("get random numbers")]
    Random(#[source] getrandom::Error),
    /// The file cannot be used.
    #[error("{step} {path}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database cannot be used.
    #[error("{step} {path}")]
    Engine {
        /// What was being done.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the database said.
        source: Box<redb::Error>,
    },
}

impl VaultError {
    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Uninitialised => "make one: pawctl secret init",
            Self::Initialised => "to have another key, run: pawctl secret rekey",
            Self::Sealed => {
                "open it: pawctl secret unlock; or give pawd its key and restart it (paw-vault(7))"
            }
            Self::Unsealed => "nothing is to be done",
            Self::WrongKey => {
                "use the key that the vault was made with, or the recovery key: pawctl secret unlock --recovery"
            }
            Self::Paused { .. } => "wait, and see `pawctl secret log` for who tried",
            Self::Tampered { .. } => {
                "keep the file as evidence, and put back a backup of it that is no older than the audit log says"
            }
            Self::InUse { .. } => "only one pawd may run on one state directory",
            Self::NotFound => "see `pawctl secret list`",
            Self::Exists => "to give it another value, run: pawctl secret rotate NAME",
            Self::NoCopy(_) => {
                "use a copy that `pawctl secret export` made, and that nobody changed"
            }
            Self::Older { .. } | Self::AnotherVault => {
                "use a newer copy; or put it back all the same, and lose what came after it: --force"
            }
            Self::CopyTooLong => {
                "stop pawd and copy vault.redb of its state directory: it is of no use without a key, either"
            }
            Self::NoVersion => "see `pawctl secret show NAME`",
            Self::Unfit(_) | Self::Key(_) => "correct it, and try again",
            Self::Memory(_) => {
                "raise the limit of locked memory: LimitMEMLOCK=8M in the unit, or ulimit -l 8192"
            }
            Self::Random(_) => "see the kernel log",
            Self::Unusable { .. } => "mend what it says, then restart pawd",
            Self::Io { .. } | Self::Engine { .. } => {
                "see that the disk of pawd's state directory has room and no errors"
            }
        }
    }
}
