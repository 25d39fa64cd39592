//! The thread that writes the store: redb blocks for each commit, and nobody else shall.

use std::{sync::Arc, thread, time::Duration};

use paw_store::{Batch, Store, StoreError};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

/// Batches that may wait for the writer. Whoever has one more waits until there is room.
const BACKLOG: usize = 256;

/// Commits between two looks for actions that are more than are kept.
const PRUNE_EVERY: u32 = 256;

struct Job {
    batch: Batch,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

/// The store, with its writes on a thread of their own.
#[derive(Clone)]
pub struct Storage {
    store: Arc<Store>,
    jobs: mpsc::Sender<Job>,
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
        let (jobs, mut inbox) = mpsc::channel::<Job>(BACKLOG);
        let writer = Arc::clone(&store);
        thread::Builder::new().name("store".into()).spawn(move || {
            let mut since_pruned = 0;
            while let Some(job) = inbox.blocking_recv() {
                // A caller that is gone does not undo what it asked for.
                drop(job.reply.send(writer.commit(&job.batch)));
                since_pruned += 1;
                if since_pruned >= PRUNE_EVERY {
                    since_pruned = 0;
                    if let Err(error) = writer.prune(keep) {
                        warn!(error = %paw_log::Chain(&error), remedy = error.remedy(), "old actions were not removed");
                    }
                }
            }
        })?;
        Ok(Self { store, jobs })
    }

    /// Reads; each call sees one consistent state.
    #[must_use]
    pub fn read(&self) -> &Store {
        &self.store
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
