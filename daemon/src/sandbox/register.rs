//! Which commands run in which sandboxes, whose they are, and what they said lately.
//!
//! ```text
//!  enter ──► running: can be shown, read along, and started in ── leave ──► ended: can be shown and read, until others push it out
//! ```
//!
//! What is kept is bounded: the last bytes of each, and the last sandboxes that have ended. It lives as long as pawd.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use paw_launch::request::{Attestation, SandboxId, SandboxPlan};
use tokio::sync::watch;
use uuid::Uuid;

use super::{RunEnd, frames::Starter};

/// The most that is kept of what one sandbox said, in bytes.
const MAX_LOG: usize = 256 * 1024;

/// Sandboxes that have ended and are remembered.
const MAX_ENDED: usize = 64;

/// Which stream of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Its stdout.
    Stdout,
    /// Its stderr.
    Stderr,
}

/// What is known of a sandbox that was made for a person's command.
#[derive(Debug, Clone)]
pub struct Known {
    /// Host uid of who asked for it.
    pub owner: u32,
    /// The action it belongs to.
    pub action: Uuid,
    /// What was asked of the launcher.
    pub plan: SandboxPlan,
    /// What the kernel said it was.
    pub attestation: Box<Attestation>,
    /// Whether it has ended.
    pub ended: bool,
    /// How it ended, if that is known.
    pub end: Option<RunEnd>,
}

struct Entry {
    known: Known,
    starter: Option<Starter>,
    log: Arc<Log>,
}

#[derive(Default)]
struct Inner {
    entries: BTreeMap<SandboxId, Entry>,
    /// Those that have ended, the oldest first.
    ended: VecDeque<SandboxId>,
}

/// All of them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Register(Arc<Mutex<Inner>>);

impl Register {
    /// A sandbox is there and its command is about to start.
    pub fn enter(&self, known: Known, starter: Starter) -> Arc<Log> {
        let log = Arc::new(Log::default());
        let entry = Entry {
            starter: Some(starter),
            log: Arc::clone(&log),
            known,
        };
        self.lock()
            .entries
            .insert(entry.known.plan.id.clone(), entry);
        log
    }

    /// It is gone; nothing can be started in it any more, and its log is complete.
    pub fn leave(&self, id: &SandboxId, end: Option<RunEnd>) {
        let mut inner = self.lock();
        let Some(entry) = inner.entries.get_mut(id) else {
            return;
        };
        entry.starter = None;
        entry.known.ended = true;
        entry.known.end = end;
        entry.log.close();
        inner.ended.push_back(id.clone());
        while inner.ended.len() > MAX_ENDED {
            if let Some(oldest) = inner.ended.pop_front() {
                inner.entries.remove(&oldest);
            }
        }
    }

    /// What is known of it.
    #[must_use]
    pub fn known(&self, id: &SandboxId) -> Option<Known> {
        self.lock().entries.get(id).map(|entry| entry.known.clone())
    }

    /// Starts commands in it, while it runs.
    #[must_use]
    pub fn starter(&self, id: &SandboxId) -> Option<Starter> {
        self.lock()
            .entries
            .get(id)
            .and_then(|entry| entry.starter.clone())
    }

    /// What it said.
    #[must_use]
    pub fn log(&self, id: &SandboxId) -> Option<Arc<Log>> {
        self.lock()
            .entries
            .get(id)
            .map(|entry| Arc::clone(&entry.log))
    }

    /// Forgets those that have ended; how many there were, and how many bytes were kept of them.
    pub fn forget_ended(&self) -> (usize, usize) {
        let mut inner = self.lock();
        let ended = std::mem::take(&mut inner.ended);
        let kept = ended
            .iter()
            .filter_map(|id| inner.entries.remove(id))
            .map(|entry| entry.log.lock().bytes)
            .sum();
        (ended.len(), kept)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last of what a sandbox's command said.
#[derive(Default)]
pub struct Log {
    kept: Mutex<Kept>,
    /// Number of pieces so far; every change wakes those who read along.
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    pieces: VecDeque<(Stream, Bytes)>,
    bytes: usize,
    /// How many pieces were let go of.
    gone: u64,
    closed: bool,
}

/// Pieces of a log from some point on.
#[derive(Debug)]
pub struct Read {
    /// In the order in which they were said.
    pub pieces: Vec<(Stream, Bytes)>,
    /// Where to read on.
    pub next: u64,
    /// Whether nothing more will come.
    pub closed: bool,
}

impl Log {
    /// Keeps what was said, and lets go of the oldest where it becomes too much.
    pub fn push(&self, stream: Stream, bytes: Bytes) {
        let count = {
            let mut kept = self.lock();
            kept.bytes += bytes.len();
            kept.pieces.push_back((stream, bytes));
            while kept.bytes > MAX_LOG {
                let Some((_, oldest)) = kept.pieces.pop_front() else {
                    break;
                };
                kept.bytes -= oldest.len();
                kept.gone += 1;
            }
            kept.gone + kept.pieces.len() as u64
        };
        self.news.send_replace(count);
    }

    /// What is kept from this piece on; earlier ones that are gone are left out.
    #[must_use]
    pub fn read(&self, from: u64) -> Read {
        let kept = self.lock();
        let skip = usize::try_from(from.saturating_sub(kept.gone)).unwrap_or(usize::MAX);
        Read {
            pieces: kept.pieces.iter().skip(skip).cloned().collect(),
            next: kept.gone + kept.pieces.len() as u64,
            closed: kept.closed,
        }
    }

    /// To be told of changes.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    fn close(&self) {
        self.lock().closed = true;
        self.news.send_modify(|_| {});
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_there_is_too_much() {
        let log = Log::default();
        for number in 0..40_u8 {
            log.push(Stream::Stdout, Bytes::from(vec![number; 16 * 1024]));
        }
        let read = log.read(0);
        assert_eq!(read.pieces.len(), MAX_LOG / (16 * 1024));
        assert_eq!(read.pieces[0].1[0], 24);
        assert_eq!((read.next, read.closed), (40, false));
        assert_eq!(log.read(39).pieces.len(), 1);
        assert_eq!(log.read(40).pieces.len(), 0);
    }
}
