//! A copy of the vault that is kept elsewhere, and put back. It is what the file holds, so nobody reads it without a key.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use paw_api::{Error, ErrorKind, secret::VaultCopy};
use paw_store::Caller;
use paw_vault::VaultError;

use super::{Secrets, With, admin::Told, opening, told};

/// What a copy is opened with that pawd has no key for.
const OPEN_WITH: &str =
    "say what it is opened with: --passphrase, or --recovery for the recovery key";

impl Secrets {
    /// All of the vault in one piece, once that is in the audit log.
    ///
    /// # Errors
    /// When it is sealed, too long, or that cannot be recorded.
    pub async fn export(&self, by: &Caller) -> Result<VaultCopy, Error> {
        let _turn = self.0.turn.lock().await;
        let vault = self.vault().map_err(|error| told(&error))?;
        let (copy, mark) = vault.export().map_err(|error| told(&error))?;
        let note = Told::of_vault(Some(by), "exported").at(mark, "done");
        let recorded = self.0.audit.durable(note).await;
        recorded.map_err(|error| {
            Error::new(ErrorKind::Unavailable, error.to_string(), error.remedy())
        })?;
        Ok(VaultCopy {
            copy: STANDARD.encode(copy),
            vault: mark.vault.to_string(),
            generation: mark.generation,
        })
    }

    /// Puts a copy in the place of what is there; with `force` also one that is older, or of another vault.
    ///
    /// # Errors
    /// When it is none, the key is not one of it, or it would take the place of something newer.
    pub async fn import(
        &self,
        by: &Caller,
        copy: &str,
        with: With,
        force: bool,
    ) -> Result<(), Error> {
        let copy = STANDARD.decode(copy).map_err(|_| {
            let hint = "send what `secret.export` gave, unchanged";
            Error::new(ErrorKind::Invalid, "the copy is no base64", hint)
        })?;
        let with_none = with.recovery.is_none() && with.passphrase.is_none() && with.key.is_none();
        let note = Told::of_vault(Some(by), "imported").with("force", force.to_string());
        let inner = Arc::clone(&self.0);
        self.change(note, move |vault, keys| {
            let seen = |vault| inner.seen(vault);
            if with_none && keys.newest().is_none() {
                return Err(VaultError::WrongKey);
            }
            let mark = opening(keys, &with, |key| vault.import(&copy, key, seen, force))?;
            Ok(((), mark))
        })
        .await
        // Whether the vault that is here is open has no part in it: what is missing is a key of the copy.
        .map_err(|error| match error.data.kind {
            ErrorKind::Denied if with_none => Error::new(
                ErrorKind::Denied,
                "the copy is not opened by the key that pawd was started with",
                OPEN_WITH,
            ),
            _ => error,
        })
    }
}
