//! A copy of the vault that is kept elsewhere, and put back. It is what the file holds, so nobody reads it without a key.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use paw_api::{Error, ErrorKind, secret::VaultCopy};
use paw_store::Caller;

use super::{Secrets, With, admin::Told, opening, told};

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
        let note = Told::of_vault(Some(by), "imported").with("force", force.to_string());
        self.change(note, move |vault, keys| {
            let mark = opening(keys, &with, |key| vault.import(&copy, key, force))?;
            Ok(((), mark))
        })
        .await
    }
}
