//! Values of the vault on their way in: each over a connection of its own, for the one decision that waits for it.
//!
//! ```text
//!  run ── expects (run, seq) ──► slot ◄── value ── connection that begins with Hand ── pawd
//!   └─ recorded ──► takes it, uses it for its request, and wipes it
//! ```
//!
//! A value that nobody waits for is not read. A slot goes with whoever waits, so there are never more than connections.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use paw_api::egress::{Hand, MAX_SECRET, MIN_SECRET, Tag, VERSION, header};
use paw_confine::sys::Locked;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::oneshot,
};

use crate::run::RunError;

type Place = (String, u64);

/// Who waits for which value.
#[derive(Debug, Default)]
pub struct Values(Mutex<BTreeMap<Place, oneshot::Sender<Locked>>>);

/// A place for one value, which is given up when this goes.
#[derive(Debug)]
pub(crate) struct Expected<'a> {
    values: &'a Values,
    place: Place,
    value: oneshot::Receiver<Locked>,
}

impl Values {
    /// Waits for the value of this decision from now on.
    pub(crate) fn expect(&self, run: &str, seq: u64) -> Expected<'_> {
        let (give, value) = oneshot::channel();
        let place = (run.to_owned(), seq);
        self.lock().insert(place.clone(), give);
        Expected {
            values: self,
            place,
            value,
        }
    }

    /// Serves a connection that began with `hand`.
    ///
    /// # Errors
    /// When pawd broke the protocol, or the connection broke.
    pub(crate) async fn take(&self, mut stream: UnixStream, hand: Hand) -> Result<(), RunError> {
        let length = hand.length as usize;
        if hand.version != VERSION || !(MIN_SECRET..=MAX_SECRET).contains(&length) {
            return Err(RunError::Unexpected(Tag::Hand));
        }
        let waiting = self.lock().remove(&(hand.run, hand.seq));
        if let Some(waiting) = waiting {
            let mut value = Locked::zeroed(length)?;
            stream.read_exact(&mut value).await?;
            // Who does not wait any more has given up; it is wiped here, then.
            drop(waiting.send(value));
        }
        stream.write_all(&header(0, Tag::Handed, 0)).await?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, oneshot::Sender<Locked>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Expected<'_> {
    /// The value, if it is there: it was handed over before the decision was said to be on record.
    pub(crate) fn value(mut self) -> Option<Locked> {
        self.value.try_recv().ok()
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.values.lock().remove(&self.place);
    }
}
