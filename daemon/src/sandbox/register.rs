//! Which commands run in which sandboxes, whose they are, and what they said lately.
//!
//! ```text
//!  enter ──► running: can be shown, read along, and started in ── leave ──► ended: can be shown and read, until others push it out
//!                 └──── pawd ends ──── the next one opens it ──► running again, once it was adopted
//! ```
//!
//! What is kept is bounded: the last bytes of each, and the last sandboxes that have ended. It outlives pawd ([`keep`]).

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use paw_launch::request::{Attestation, SandboxId, SandboxPlan};
use tokio::sync::watch;
use tracing::warn;
use uuid::Uuid;

use super::{
    RunEnd,
    frames::Starter,
    keep::{self, About, Command, Exit, Keep, Over, Saved},
};
use crate::clock::now_ms;

/// The most that is kept of what one sandbox said, in bytes.
pub(super) const MAX_LOG: usize = 256 * 1024;

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
#[derive(Clone)]
pub struct Register {
    dir: Arc<Path>,
    inner: Arc<Mutex<Inner>>,
}

/// A sandbox that ran when an earlier pawd ended.
#[derive(Debug, Clone)]
pub struct Found {
    /// Which one.
    pub id: SandboxId,
    /// What is known of it.
    pub saved: Saved,
}

impl Register {
    /// What an earlier pawd left in this directory, and which of it was not over.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(dir: PathBuf) -> io::Result<(Self, Vec<Found>)> {
        keep::prepare(&dir)?;
        let (mut inner, mut running, mut ended) = (Inner::default(), Vec::new(), Vec::new());
        for id in keep::list(&dir)? {
            let loaded = match Keep::load(&dir, &id) {
                Ok(loaded) => loaded,
                Err(error) => {
                    warn!(paw_sandbox = %id, %error, "what an earlier pawd noted of a sandbox cannot be understood; it is removed");
                    keep::remove(&dir, &id);
                    continue;
                }
            };
            let saved = loaded.keep.saved().clone();
            let log = Log::default();
            for (stream, bytes) in loaded.said {
                log.show(stream, bytes);
            }
            let known = Known {
                owner: saved.about.owner,
                action: saved.about.action,
                plan: saved.about.plan.clone(),
                attestation: saved.about.attestation.clone(),
                ended: saved.over.is_some(),
                end: saved.over.and_then(|over| over.end),
            };
            match saved.over {
                Some(over) => {
                    log.close();
                    ended.push((over.at_ms, id.clone()));
                }
                None => {
                    log.keep(loaded.keep);
                    running.push(Found {
                        id: id.clone(),
                        saved,
                    });
                }
            }
            let entry = Entry {
                known,
                starter: None,
                log: Arc::new(log),
            };
            inner.entries.insert(id, entry);
        }
        ended.sort();
        inner.ended = ended.into_iter().map(|(_, id)| id).collect();
        let register = Self {
            dir: dir.into(),
            inner: Arc::new(Mutex::new(inner)),
        };
        register.bound();
        Ok((register, running))
    }

    /// A sandbox is there and its command is about to start. Without a place to note it, nothing is started.
    ///
    /// # Errors
    /// When it cannot be noted.
    pub fn enter(&self, known: Known, starter: Starter) -> io::Result<Arc<Log>> {
        let about = About {
            action: known.action,
            owner: known.owner,
            plan: known.plan.clone(),
            attestation: known.attestation.clone(),
        };
        let log = Log::default();
        log.keep(Keep::create(&self.dir, &known.plan.id, about)?);
        let log = Arc::new(log);
        let entry = Entry {
            starter: Some(starter),
            log: Arc::clone(&log),
            known,
        };
        self.lock()
            .entries
            .insert(entry.known.plan.id.clone(), entry);
        Ok(log)
    }

    /// A sandbox of an earlier pawd is ours now, and further commands can be started in it.
    pub fn adopt(&self, id: &SandboxId, starter: Starter) -> Option<Arc<Log>> {
        let mut inner = self.lock();
        let entry = inner.entries.get_mut(id)?;
        entry.starter = Some(starter);
        Some(Arc::clone(&entry.log))
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
        let log = Arc::clone(&entry.log);
        inner.ended.push_back(id.clone());
        drop(inner);
        log.over(end);
        log.close();
        self.bound();
    }

    /// Lets go of the oldest that have ended, where there are too many.
    fn bound(&self) {
        let mut inner = self.lock();
        let mut gone = Vec::new();
        while inner.ended.len() > MAX_ENDED {
            if let Some(oldest) = inner.ended.pop_front() {
                inner.entries.remove(&oldest);
                gone.push(oldest);
            }
        }
        drop(inner);
        for id in &gone {
            keep::remove(&self.dir, id);
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
        drop(inner);
        for id in &ended {
            keep::remove(&self.dir, id);
        }
        (ended.len(), kept)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last of what a sandbox's command said.
#[derive(Debug, Default)]
pub struct Log {
    kept: Mutex<Kept>,
    /// Where it is noted for the next pawd, as long as that works.
    file: Mutex<Option<Keep>>,
    /// Number of pieces so far; every change wakes those who read along.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
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
    /// A command is about to be started.
    ///
    /// # Errors
    /// When it cannot be noted; it must not be started then.
    pub fn begin(&self, command: Command) -> io::Result<()> {
        match &mut *self.file() {
            Some(file) => file.command(command),
            None => Ok(()),
        }
    }

    /// Makes what was said safe, then shows it. On a thread that may block: a disk can take its time.
    pub async fn push(self: &Arc<Self>, number: u32, stream: Stream, bytes: Bytes) {
        let log = Arc::clone(self);
        let pushed = tokio::task::spawn_blocking(move || {
            log.note(|file| file.said(number, stream, &bytes));
            log.show(stream, bytes);
        });
        if let Err(error) = pushed.await {
            warn!(%error, "a piece of output was lost");
        }
    }

    /// A command has ended.
    pub fn exited(&self, number: u32, exit: Exit) {
        self.note(|file| file.exited(number, exit));
    }

    fn over(&self, end: Option<RunEnd>) {
        let at_ms = now_ms();
        self.note(|file| file.over(Over { end, at_ms }));
        drop(self.file().take());
    }

    fn keep(&self, keep: Keep) {
        *self.file() = Some(keep);
    }

    /// Writes, as long as that works. When it does not, the sandbox goes on, and a pawd that has to take it on will say that
    /// output is missing.
    fn note(&self, write: impl FnOnce(&mut Keep) -> io::Result<()>) {
        let mut file = self.file();
        if let Some(Err(error)) = file.as_mut().map(write) {
            warn!(%error, "what a sandbox says cannot be noted any more; after a restart of pawd some of it will be missing");
            *file = None;
        }
    }

    fn file(&self) -> MutexGuard<'_, Option<Keep>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what was said, and lets go of the oldest where it becomes too much.
    fn show(&self, stream: Stream, bytes: Bytes) {
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
            log.show(Stream::Stdout, Bytes::from(vec![number; 16 * 1024]));
        }
        let read = log.read(0);
        assert_eq!(read.pieces.len(), MAX_LOG / (16 * 1024));
        assert_eq!(read.pieces[0].1[0], 24);
        assert_eq!((read.next, read.closed), (40, false));
        assert_eq!(log.read(39).pieces.len(), 1);
        assert_eq!(log.read(40).pieces.len(), 0);
    }
}
