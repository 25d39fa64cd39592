//! Which states of a vault the log may be told of. A vault only ever sees more changes: who says that it has seen fewer would have an
//! older copy of its file taken for the newest, so that is not written at all, whoever says it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use paw_api::audit::VaultMark;
use uuid::Uuid;

use crate::{key::write_durably, log::LogError};

/// Name of the file in the writer's own directory with the vaults that were in use before the newest one.
pub const OTHERS: &str = "audit.vaults";

/// The most changes of a vault that no record tells of: pawd may have died between a change and its record a few times, and a log may have
/// been put back that is somewhat older than the vault.
pub const MAX_AHEAD: u64 = 1_000;

/// The most vaults that a log tells of, one after the other.
pub const MAX_VAULTS: usize = 64;

/// Why a state of a vault is not written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// It would be older than what is known.
    #[error("vault {vault} has seen {known} changes, as the log tells, and not {said}")]
    Older {
        /// Which vault.
        vault: Uuid,
        /// What the log tells.
        known: u64,
        /// What was said.
        said: u64,
    },
    /// It would be so much newer than what is known that nobody can have made so many changes without a record.
    #[error(
        "vault {vault} has seen {known} changes, as the log tells; {said} are more than {MAX_AHEAD} further"
    )]
    Ahead {
        /// Which vault.
        vault: Uuid,
        /// What the log tells.
        known: u64,
        /// What was said.
        said: u64,
    },
    /// There have been too many vaults.
    #[error("the log tells of {MAX_VAULTS} vaults already, which is the most")]
    TooMany,
}

impl Contradiction {
    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Older { .. } => {
                "find out who put back an older vault, or took over pawd; who means to go back to it opens it with its recovery key: pawctl secret unlock --recovery"
            }
            Self::Ahead { .. } => {
                "find out who took over pawd; or, if an old log was put back, keep it elsewhere and begin a new one: move log and state directory of paw-audit away"
            }
            Self::TooMany => {
                "keep the log elsewhere and begin a new one: move log and state directory of paw-audit away"
            }
        }
    }
}

/// The vaults that the log has told of, but for the one that it told of last.
#[derive(Debug)]
pub(crate) struct Others {
    path: PathBuf,
    known: BTreeMap<Uuid, u64>,
}

impl Others {
    /// What the writer before knew.
    ///
    /// # Errors
    /// When the file is there and is not what was written.
    pub(crate) fn load(state: &Path) -> Result<Self, LogError> {
        let path = state.join(OTHERS);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"[]".to_vec(),
            Err(source) => return Err(LogError::io("read", &path, source)),
        };
        match serde_json::from_slice::<Vec<VaultMark>>(&bytes) {
            Ok(marks) => Ok(Self {
                path,
                known: marks.iter().map(|it| (it.vault, it.generation)).collect(),
            }),
            Err(error) => Err(LogError::Tampered {
                path,
                what: error.to_string(),
            }),
        }
    }

    /// Whether the log may be told of this state, after the one that it was told of last.
    pub(crate) fn check(
        &self,
        newest: Option<VaultMark>,
        mark: VaultMark,
    ) -> Result<(), Contradiction> {
        let VaultMark { vault, generation } = mark;
        let newest = newest.filter(|it| it.vault == vault);
        let known = self.known.get(&vault).copied();
        let Some(known) = known.max(newest.map(|it| it.generation)) else {
            return if self.known.len() >= MAX_VAULTS {
                Err(Contradiction::TooMany)
            } else {
                Ok(())
            };
        };
        let said = generation;
        if said < known {
            Err(Contradiction::Older { vault, known, said })
        } else if said.saturating_sub(known) > MAX_AHEAD {
            Err(Contradiction::Ahead { vault, known, said })
        } else {
            Ok(())
        }
    }

    /// Remembers the vault that another one takes the place of, durably.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(crate) fn leave(&mut self, mark: VaultMark) -> Result<(), LogError> {
        let before = self.known.insert(mark.vault, mark.generation);
        let written = serde_json::to_vec(&self.all()).map_err(io::Error::other);
        let written = written.and_then(|bytes| write_durably(&self.path, &bytes, 0o600));
        written.map_err(|source| {
            match before {
                Some(before) => self.known.insert(mark.vault, before),
                None => self.known.remove(&mark.vault),
            };
            LogError::io("write", &self.path, source)
        })
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<VaultMark> {
        let mark = |(vault, generation): (&Uuid, &u64)| VaultMark {
            vault: *vault,
            generation: *generation,
        };
        self.known.iter().map(mark).collect()
    }
}
