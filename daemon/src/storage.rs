//! The thread that writes the store: redb blocks for each commit, and nobody else shall. What came while it wrote is written together,
//! with one wait for the disk.
//!
//! What grants nothing is noted instead, by whoever has it: a write into the page cache, which waits for no disk. The thread brings notes
//! to the disk within [`SYNC_WITHIN`], all that came with one wait, and has them in the store's own file now and then.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use paw_store::{Batch, Store, StoreError};
use tokio::{
    runtime,
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tracing::{error, warn};

/// A note is on its way to the disk after so long; it is there within 50 ms, as other records that grant nothing.
const SYNC_WITHIN: Duration = Duration::from_millis(30);

/// A note is in the store's own file after so long.
const SETTLE_WITHIN: Duration = Duration::from_secs(1);

/// How long a caller who waits for a batch to be written hears nothing; then they hear that it is not known.
const CALLER_WAITS: Duration = Duration::from_secs(15);

/// Batches that may wait for the writer. Whoever has one more waits until there is room.
const BACKLOG: usize = 256;

/// Batches that are written together.
const TOGETHER: usize = 64;

/// Batches and notes between two looks for actions that are more than are kept.
const PRUNE_EVERY: usize = 256;

struct Job {
    batch: Batch,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

/// The store, with its writes on a thread of their own.
#[derive(Clone)]
pub struct Storage {
    store: Arc<Store>,
    jobs: mpsc::Sender<Job>,
    noted: Arc<Noted>,
    grown: Arc<Notify>,
}

/// What the thread has to be told of notes.
#[derive(Debug, Default)]
struct Noted {
    /// Whether there is one that the thread does not know of.
    owed: AtomicBool,
    told: Notify,
    /// How many came since it was last asked.
    count: AtomicUsize,
}

/// The thread's own.
struct Writer {
    store: Arc<Store>,
    inbox: mpsc::Receiver<Job>,
    noted: Arc<Noted>,
    keep: u64,
    /// When notes have to be brought to the disk, and into the store's own file.
    sync_at: Option<Instant>,
    settle_at: Option<Instant>,
    since_pruned: usize,
    /// Told after so many batches and notes.
    grown: Arc<Notify>,
}

impl Writer {
    async fn run(mut self) {
        let mut jobs = Vec::with_capacity(TOGETHER);
        loop {
            tokio::select! {
                biased;
                () = past(self.sync_at) => self.sync(),
                count = self.inbox.recv_many(&mut jobs, TOGETHER) => {
                    if count == 0 {
                        return;
                    }
                    self.since_pruned += count;
                    write(&self.store, &mut jobs);
                    self.prune();
                }
                () = self.noted.told.notified() => {
                    let now = Instant::now();
                    self.sync_at.get_or_insert(now + SYNC_WITHIN);
                    self.settle_at.get_or_insert(now + SETTLE_WITHIN);
                }
                () = past(self.settle_at) => self.settle(),
            }
        }
    }

    fn sync(&mut self) {
        self.sync_at = None;
        // Before, not after: what is noted meanwhile is told of again.
        self.noted.owed.store(false, SeqCst);
        let synced = self.store.sync().and_then(|()| self.store.apply());
        if let Err(error) = synced {
            warn!(error = %paw_log::Chain(&error), remedy = error.remedy(), "notes are not on the disk yet");
        }
        self.since_pruned += self.noted.count.swap(0, SeqCst);
        if self.store.wants_settling() {
            self.settle();
        }
        self.prune();
    }

    fn settle(&mut self) {
        self.settle_at = None;
        if let Err(error) = self.store.settle() {
            warn!(error = %paw_log::Chain(&error), remedy = error.remedy(), "notes stay beside the store");
            self.settle_at = Some(Instant::now() + SETTLE_WITHIN);
        }
    }

    fn prune(&mut self) {
        if self.since_pruned < PRUNE_EVERY {
            return;
        }
        self.since_pruned = 0;
        self.grown.notify_one();
        if let Err(error) = self.store.prune(self.keep) {
            warn!(error = %paw_log::Chain(&error), remedy = error.remedy(), "old actions were not removed");
        }
    }
}

/// Waits until this time; for ever if there is none.
async fn past(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Writes these together. Where that fails, each has its own answer: one that cannot be made does not keep others from being.
fn write(store: &Store, jobs: &mut Vec<Job>) {
    let together = match jobs.as_slice() {
        [_] => false,
        several => {
            let batches: Vec<&Batch> = several.iter().map(|job| &job.batch).collect();
            store.commit_together(&batches).is_ok()
        }
    };
    for Job { batch, reply } in jobs.drain(..) {
        let result = if together {
            Ok(())
        } else {
            store.commit(&batch)
        };
        // A caller that is gone does not undo what it asked for.
        drop(reply.send(result));
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage")
            .field("path", &self.store.path())
            .finish_non_exhaustive()
    }
}

impl Storage {
    /// Starts the writer, which ends with the last handle. Of actions that are final it keeps the newest `keep`.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(store: Arc<Store>, keep: u64) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>(BACKLOG);
        let noted = Arc::new(Noted::default());
        let grown = Arc::new(Notify::new());
        let writer = Writer {
            store: Arc::clone(&store),
            inbox,
            noted: Arc::clone(&noted),
            keep,
            sync_at: None,
            settle_at: None,
            since_pruned: 0,
            grown: Arc::clone(&grown),
        };
        // Of its own, so that its waits for the disk are nobody else's.
        let clock = runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        thread::Builder::new()
            .name("store".into())
            .spawn(move || clock.block_on(writer.run()))?;
        Ok(Self {
            store,
            jobs,
            noted,
            grown,
        })
    }

    /// Reads; each call sees one consistent state.
    #[must_use]
    pub fn read(&self) -> &Store {
        &self.store
    }

    /// Waits until so much was written that there may be more of something than is kept. For one who waits.
    pub async fn grown(&self) {
        self.grown.notified().await;
    }

    /// Batches that wait for the writer, and how many may.
    #[must_use]
    pub fn backlog(&self) -> (usize, usize) {
        let most = self.jobs.max_capacity();
        (most - self.jobs.capacity(), most)
    }

    /// The store itself, for work that blocks for long and belongs on a thread of its own.
    #[must_use]
    pub fn shared(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    /// Writes; durable on return.
    ///
    /// # Errors
    /// As [`Store::commit`]; nothing was written then.
    pub async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let gone = || StoreError::Refused {
            what: "anything: the writer has ended".into(),
        };
        self.jobs
            .send(Job { batch, reply })
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// The same for a caller who waits: where the disk does not answer, an error says in time that it is not known whether this is stored.
    ///
    /// # Errors
    /// As [`Storage::commit`]; [`StoreError::Unanswered`] when it is still to be written, or under way.
    pub async fn commit_for_caller(&self, batch: Batch) -> Result<(), StoreError> {
        match tokio::time::timeout(CALLER_WAITS, self.commit(batch)).await {
            Ok(written) => written,
            Err(_) => Err(StoreError::Unanswered {
                path: self.store.path().to_owned(),
                waited: CALLER_WAITS,
            }),
        }
    }

    /// Notes what grants nothing: it outlives this process on return, and is on the disk within 50 ms.
    ///
    /// # Errors
    /// As [`Store::note`]; nothing was written then.
    pub fn note(&self, batch: Batch) -> Result<(), StoreError> {
        self.store.note(batch)?;
        self.noted.count.fetch_add(1, SeqCst);
        if !self.noted.owed.swap(true, SeqCst) {
            self.noted.told.notify_one();
        }
        Ok(())
    }

    /// Writes what has happened already and must not be forgotten: tried again, ever slower, while it cannot be written. Whether it
    /// is written in the end: what makes no batch never is.
    pub async fn commit_at_last(&self, batch: impl Fn() -> Result<Batch, StoreError>) -> bool {
        let mut pause = Duration::from_millis(50);
        loop {
            let tried = match batch() {
                Ok(batch) => self.commit(batch).await,
                Err(error) => {
                    error!(error = %paw_log::Chain(&error), "an end cannot be stored; after a restart it counts as interrupted");
                    return false;
                }
            };
            match tried {
                Ok(()) => return true,
                Err(error) => {
                    warn!(error = %paw_log::Chain(&error), remedy = error.remedy(), "an end is not stored yet; trying again");
                }
            }
            // The disk tells nobody when it has room again: this is a retry with growing pauses, ended by shutdown.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}

#[cfg(test)]
mod tests {
    use paw_store::{Account, OpenOptions, Sum};
    use uuid::Uuid;

    use super::*;

    fn spend(tokens: u64) -> Batch {
        let account = Account {
            budget: "b".into(),
            since_ms: 0,
            of: String::new(),
        };
        let mut batch = Batch::new();
        batch
            .add_spent(&account, Sum { cost: 0, tokens })
            .expect("there is room");
        batch
    }

    /// A turn of a conversation that is not there.
    fn refused() -> Batch {
        let mut batch = Batch::new();
        batch
            .append_turn(&paw_store::TurnRecord {
                session: Uuid::nil(),
                seq: 7,
                role: paw_store::Speaker::User,
                text: "hello".into(),
                taint: paw_policy::TaintSet::default(),
                action: None,
                local: None,
                provider: None,
                model: None,
                calls: Vec::new(),
                result_of: None,
                attempts: Vec::new(),
                at_ms: 0,
            })
            .expect("there is room");
        batch
    }

    #[test]
    fn one_batch_that_is_refused_keeps_no_other_from_being_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let store =
            Store::open(&dir.path().join("store"), OpenOptions::new("1")).expect("a new store");
        let (mut jobs, mut answers) = (Vec::new(), Vec::new());
        for batch in [spend(1), refused(), spend(2)] {
            let (reply, answer) = oneshot::channel();
            jobs.push(Job { batch, reply });
            answers.push(answer);
        }
        write(&store, &mut jobs);
        let written: Vec<bool> = answers
            .into_iter()
            .map(|mut answer| answer.try_recv().expect("it is answered").is_ok())
            .collect();
        assert_eq!(written, [true, false, true]);
        let spent = store.spent_in("b", 0, 9).expect("it can be read");
        assert_eq!(spent[0].1.tokens, 3, "each once");
    }
}
