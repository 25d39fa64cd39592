//! What can go wrong with the store, in terms of what an operator can do about it.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Why the store could not do what was asked. [`StoreError::remedy`] says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the file open.
    #[error("store {path} is in use by another process")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A newer program wrote it. Nothing was changed.
    #[error(
        "store {path} has schema version {found}, written by pawd {written_by}; this program knows versions up to {known}"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version that it has.
        found: u64,
        /// The newest version that this program knows.
        known: u64,
        /// The program version that wrote it last.
        written_by: String,
    },
    /// Its bytes are not what was written. Nothing was changed.
    #[error("store {path} is damaged: {detail}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// One record in it cannot be read; the others can.
    #[error("a record in store {path} is damaged: {detail}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Which one, and what was found.
        detail: String,
    },
    /// There is no room. What was stored stays readable, and nothing of the batch was stored.
    #[error("no space left for store {path}")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The file system does not let anybody write.
    #[error("store {path} is on a file system that cannot be written")]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// This process may not open it.
    #[error("not permitted to open store {path} for reading and writing")]
    Permission {
        /// The file.
        path: PathBuf,
    },
    /// The file or its directory is not there, and it was not asked to be made.
    #[error("store {path} or its directory does not exist")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is there already, and it is not replaced.
    #[error("{path} exists already")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// What was to be stored contradicts what is stored, or a bound. Nothing of the batch was stored.
    #[error("refused to store {what}")]
    Refused {
        /// Which record, and what is wrong with it.
        what: String,
    },
    /// The disk does not answer. Nothing of what was asked was begun.
    #[error("the disk of store {path} has not answered for {} s", since.as_secs())]
    Stalled {
        /// The file.
        path: PathBuf,
        /// Since when the write that is under way waits for it.
        since: Duration,
    },
    /// It was given to the writer, who has not said how it went: it may be stored yet.
    #[error("whether it is stored is not known yet: the disk of store {path} has not answered for {} s", waited.as_secs())]
    Unanswered {
        /// The file.
        path: PathBuf,
        /// How long that was waited for.
        waited: Duration,
    },
    /// Anything else that the file system said.
    #[error("{step} store {path}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreError {
    /// What the operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::InUse { path } => format!(
                "stop the other pawd first, or find it with: fuser -v {}",
                path.display()
            ),
            Self::Newer { written_by, .. } => format!(
                "install pawd {written_by} or later, or stop pawd and copy a backup that this version wrote over the file"
            ),
            Self::Corrupt { path, .. } | Self::Unreadable { path, .. } => format!(
                "keep {} for analysis and with pawd stopped, copy the newest backup over it (backups are in the backup directory beside it); check the disk and its logs",
                path.display()
            ),
            Self::Full { path } => {
                format!(
                    "free space on the file system of {}; the store goes on by itself when there is room",
                    path.display()
                )
            }
            Self::ReadOnly { path } => {
                format!(
                    "mount the file system of {} for writing; see the kernel log if it was remounted",
                    path.display()
                )
            }
            Self::Permission { path } => {
                format!(
                    "give {} and its directory to the user that pawd runs as, with mode 0600 and 0700",
                    path.display()
                )
            }
            Self::Missing { path } => {
                format!(
                    "create the state directory of {}, or copy a backup there with pawd stopped",
                    path.display()
                )
            }
            Self::Exists { path } => {
                format!("choose another name, or move {} away", path.display())
            }
            Self::Refused { .. } => {
                "report this as a fault of the program: it tried to store what cannot be".to_owned()
            }
            Self::Stalled { path, .. } | Self::Unanswered { path, .. } => format!(
                "look for the disk that holds {} in the kernel log; pawd goes on by itself when it answers",
                path.display()
            ),
            Self::Io { path, .. } => format!(
                "look for errors of the disk that holds {} in the kernel log",
                path.display()
            ),
        }
    }

    /// Sorts what the system said about `path` into what an operator can act on.
    pub(crate) fn io(step: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::Full { path },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            io::ErrorKind::PermissionDenied => Self::Permission { path },
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing { path },
            io::ErrorKind::AlreadyExists => Self::Exists { path },
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::Corrupt {
                path,
                detail: source.to_string(),
            },
            _ => Self::Io { step, path, source },
        }
    }
}

/// What goes wrong inside a transaction, before the path is known.
#[derive(Debug)]
pub(crate) enum Fault {
    /// redb said so.
    Engine(redb::Error),
    /// What is stored does not fit together.
    Document(String),
    /// A stored record cannot be read back.
    Record(String),
    /// The batch contradicts what is stored.
    Refused(String),
}

impl Fault {
    /// Whether the engine has given up on its file handle and wants it reopened.
    pub(crate) const fn needs_reopen(&self) -> bool {
        matches!(
            self,
            Self::Engine(
                redb::Error::Io(_)
                    | redb::Error::PreviousIo
                    | redb::Error::DatabaseClosed
                    | redb::Error::Corrupted(_)
            )
        )
    }

    pub(crate) fn at(self, step: &'static str, path: &Path) -> StoreError {
        let corrupt = |detail: String| StoreError::Corrupt {
            path: path.to_owned(),
            detail,
        };
        match self {
            Self::Document(detail) => corrupt(detail),
            Self::Record(detail) => StoreError::Unreadable {
                path: path.to_owned(),
                detail,
            },
            Self::Refused(what) => StoreError::Refused { what },
            Self::Engine(redb::Error::Io(source)) => StoreError::io(step, path, source),
            Self::Engine(redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch) => {
                StoreError::InUse {
                    path: path.to_owned(),
                }
            }
            Self::Engine(
                error @ (redb::Error::Corrupted(_)
                | redb::Error::UpgradeRequired(_)
                | redb::Error::RepairAborted
                | redb::Error::TableTypeMismatch { .. }
                | redb::Error::TableDoesNotExist(_)
                | redb::Error::TableIsMultimap(_)
                | redb::Error::TypeDefinitionChanged { .. }),
            ) => corrupt(error.to_string()),
            Self::Engine(error) => StoreError::Io {
                step,
                path: path.to_owned(),
                source: io::Error::other(error),
            },
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Engine(error.into())
    }
}
