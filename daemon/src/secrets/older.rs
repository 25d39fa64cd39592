//! Whether the vault is the one that the audit log knows: who puts back an older copy of its file, with secrets that were removed or
//! replaced since, or another one, is found out by the number of changes that the log tells of.

use std::sync::PoisonError;

use paw_api::audit::VaultMark;
use paw_vault::{Mark, State, Vault, VaultError};
use uuid::Uuid;

use super::{Inner, Secrets, With};

/// What keeps secrets from being used, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// One word for programs.
    pub kind: &'static str,
    /// What is the matter.
    pub what: String,
    /// What to do.
    pub remedy: &'static str,
    /// Whether it is more than a key that somebody has to give.
    pub is_grave: bool,
}

impl Secrets {
    /// What is the matter with the vault; nothing where it is open, or there never was one.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        let grave = |kind, error: &VaultError| Trouble {
            kind,
            what: paw_log::Chain(error).to_string(),
            remedy: error.remedy(),
            is_grave: true,
        };
        let vault = match self.vault() {
            Ok(vault) => vault,
            Err(error) => return Some(grave("unusable", &error)),
        };
        let status = match vault.status() {
            Ok(status) => status,
            Err(error) => return Some(grave("unusable", &error)),
        };
        match (status.state, status.mark) {
            (State::Unsealed, _) => None,
            (State::Uninitialised, _) => self.newest().map(|known| Trouble {
                kind: "gone",
                what: format!(
                    "the vault that the audit log knows is gone: {}, after {} changes",
                    known.vault, known.generation
                ),
                remedy: "put back its file, or a copy of it: pawctl secret import",
                is_grave: true,
            }),
            (State::Sealed, mark) => {
                let known = mark.map(|mark| is_known(vault, mark, self.newest()));
                Some(match known {
                    Some(Err(error)) => grave("older", &error),
                    Some(Ok(())) | None => Trouble {
                        kind: "sealed",
                        what: VaultError::Sealed.to_string(),
                        remedy: VaultError::Sealed.remedy(),
                        is_grave: false,
                    },
                })
            }
        }
    }

    /// The newest state of the vault that is on record, as far as is known.
    pub(super) fn newest(&self) -> Option<VaultMark> {
        self.0.newest()
    }
}

impl Inner {
    fn newest(&self) -> Option<VaultMark> {
        let ours = *self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        ours.or(self.audit.health().vault)
    }

    /// How many changes this vault has seen, as far as is on record, whether it was the last one in use or not; 0 where none is.
    pub(super) fn seen(&self, vault: Uuid) -> u64 {
        let health = self.audit.health();
        let ours = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let marks = health.vault.iter().chain(&health.other_vaults);
        let known = marks.filter(|it| it.vault == vault).map(|it| it.generation);
        let ours = ours.get(&vault).copied();
        known.chain(ours).max().unwrap_or(0)
    }

    /// Remembers the state that a change led to.
    pub(super) fn reached(&self, mark: Mark) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(VaultMark {
            vault: mark.vault,
            generation: mark.generation,
        });
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.insert(mark.vault, mark.generation);
    }

    /// Opens the vault if it is the one on record. With the recovery key an older one is opened, too: who has put back a backup says so
    /// with it. That counts as a change after the newest one, so that what was put back is never taken for what was there before.
    pub(super) fn open(
        &self,
        vault: &Vault,
        with: &With,
        open: impl FnOnce() -> Result<(), VaultError>,
    ) -> Result<Mark, VaultError> {
        let known = self.newest().filter(|_| with.recovery.is_none());
        // By what the file says of itself, so that an older one is never open; and once more by what its key has signed.
        if let Some(mark) = vault.status()?.mark {
            is_known(vault, mark, known)?;
        }
        open()?;
        let mark = vault.mark()?;
        if let Err(error) = is_known(vault, mark, known) {
            vault.seal();
            return Err(error);
        }
        let seen = self.seen(mark.vault);
        if seen > mark.generation {
            return vault.count_from(seen).inspect_err(|_| vault.seal());
        }
        Ok(mark)
    }
}

fn is_known(vault: &Vault, mark: Mark, known: Option<VaultMark>) -> Result<(), VaultError> {
    let what = match known {
        Some(known) if known.vault != mark.vault => {
            "it is another vault than the one that the audit log knows; if it was put back on purpose, open it with its recovery key: pawctl secret unlock --recovery"
        }
        Some(known) if known.generation > mark.generation => {
            "it is an older copy: the audit log knows of changes that it has not seen; if it was put back on purpose, open it with the recovery key: pawctl secret unlock --recovery"
        }
        Some(_) | None => return Ok(()),
    };
    Err(VaultError::Tampered {
        path: vault.path().to_owned(),
        what,
    })
}
