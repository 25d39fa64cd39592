//! Whether the vault is the one that the audit log knows: who puts back an older copy of its file, with secrets that were removed or
//! replaced since, or another one, is found out by the number of changes that the log tells of.

use std::sync::PoisonError;

use paw_api::audit::VaultMark;
use paw_vault::{Mark, Vault, VaultError};

use super::{Inner, Secrets, With};

impl Secrets {
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

    /// Remembers the state that a change led to.
    pub(super) fn reached(&self, mark: Mark) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(VaultMark {
            vault: mark.vault,
            generation: mark.generation,
        });
    }

    /// Opens the vault if it is the one on record. With the recovery key an older one is opened, too: who has put back a backup says so
    /// with it.
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
