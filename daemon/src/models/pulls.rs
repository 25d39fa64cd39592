//! Places of models that are being fetched.

use std::sync::Arc;

use paw_api::{Error, ErrorKind};
use paw_policy::Digest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::providers::Known;

/// Models that are fetched at the same time. What a provider does with its network and disk is its own; this bounds ours.
const PULLS: usize = 2;

/// The places; cheap to clone.
#[derive(Debug, Clone)]
pub struct Pulls(Arc<Semaphore>);

impl Default for Pulls {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PULLS)))
    }
}

impl Pulls {
    /// Pulls that are under way, and how many may be.
    #[must_use]
    pub fn fill(&self) -> (usize, usize) {
        (PULLS - self.0.available_permits(), PULLS)
    }

    /// Whether there is one.
    ///
    /// # Errors
    /// `busy` where there is none.
    pub fn free(&self) -> Result<(), Error> {
        match self.0.available_permits() {
            0 => Err(full()),
            _ => Ok(()),
        }
    }

    /// One of them.
    ///
    /// # Errors
    /// `busy` where there is none.
    pub fn take(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| full())
    }
}

/// What says where a model would come from: that provider elsewhere, or of another kind, is another one.
#[must_use]
pub fn place(of: &Known) -> Digest {
    let (kind, url) = (of.settings.kind.as_str(), &of.settings.base_url);
    Digest::of(format!("{kind} {url}").as_bytes())
}

fn full() -> Error {
    let message = format!("{PULLS} models are being fetched, which is the most");
    Error::new(ErrorKind::Busy, message, "wait until one of them is there")
}
