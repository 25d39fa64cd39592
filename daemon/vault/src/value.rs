//! What a vault gives out: a value in memory of its own, for as long as it is used.

use std::fmt;

use paw_confine::sys::Locked;
use secrecy::{ExposeSecret as _, SecretString};

use crate::{VaultError, rows::Class};

/// The value of a secret. It is wiped when it is dropped, never swapped and in no core dump; its `Debug` shows nothing.
pub struct Value(pub(crate) Locked);

impl Value {
    /// One that is not in the vault yet, in memory of its own from now on.
    ///
    /// # Errors
    /// When it can be no value, or this process may not lock as much memory.
    pub fn hold(text: &SecretString) -> Result<Self, VaultError> {
        let bytes = text.expose_secret().as_bytes();
        Class::of(bytes)?;
        let mut held = Locked::zeroed(bytes.len()).map_err(VaultError::Memory)?;
        held.copy_from_slice(bytes);
        Ok(Self(held))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a text that libraries take; `None` where it is none. It is wiped as well, but lies in usual memory: make it last, and keep it
    /// for one use.
    #[must_use]
    pub fn text(&self) -> Option<SecretString> {
        let text = std::str::from_utf8(&self.0).ok()?;
        Some(SecretString::from(text.to_owned()))
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Value(..)")
    }
}
