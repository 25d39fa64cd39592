//! Values on their way into the vault. Each is beside an action that is judged, or waits for a person, and nowhere else.

use std::sync::Arc;

use paw_api::{Error, ErrorKind};
use paw_vault::Value;
use secrecy::SecretString;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Secrets, told};

/// So many at once. Each has locked memory of its own, and what is used needs some, too: what waits shall not take it all.
pub const MOST: usize = 32;

/// One of them, with its place.
#[derive(Debug)]
pub struct Held {
    value: Value,
    _place: OwnedSemaphorePermit,
}

impl Held {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.value.bytes()
    }
}

/// Places for them.
#[derive(Debug)]
pub(super) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
    }
}

impl Secrets {
    /// Takes a value in, for as long as what this gives is there.
    ///
    /// # Errors
    /// `busy` where there is no place for one, and why it can be none.
    pub fn hold(&self, text: &SecretString) -> Result<Held, Error> {
        let place = Arc::clone(&self.0.places.0).try_acquire_owned();
        let place = place.map_err(|_| {
            let message = format!("{MOST} values wait to be kept, which is the most");
            let hint = "answer or cancel what waits: `pawctl approval list`";
            Error::new(ErrorKind::Busy, message, hint)
        })?;
        let value = Value::hold(text).map_err(|error| told(&error))?;
        Ok(Held {
            value,
            _place: place,
        })
    }

    /// How many values are on their way, and how many may be.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        (MOST - self.0.places.0.available_permits(), MOST)
    }
}
