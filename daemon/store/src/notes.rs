//! Notes: changes that outlive this process at once, and are on the disk and in the store's own file a little later.
//!
//! ```text
//! note ─► file beside the store ─► waiting ──apply: somebody reads, or it is time──► in the tables ──next durable commit──► stored
//!           └── sync: on the disk                  (numbers: noted ≥ applied ≥ stored)
//! ```
//!
//! Order of locks: the open file, then redb's write transaction, then the notes.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering::SeqCst},
    time::Duration,
};

use redb::{Durability, WriteTransaction};
use uuid::Uuid;

use crate::{
    batch::{self, Batch},
    error::{Fault, StoreError},
    file::Opened,
    journal::{self, Journal},
    point::{self, Point},
    schema,
    store::{PATIENCE, Store, read_in, write_in},
};

/// The most notes that wait for their way into the tables; whoever adds one more puts them there.
const MOST_WAITING: usize = 2048;

/// What was noted: in a file beside the store at once, in the tables when somebody reads, or later.
#[derive(Default)]
pub(crate) struct Notes {
    /// None until the first one.
    pub(crate) journal: Option<Journal>,
    pub(crate) waiting: VecDeque<(u64, Arc<Batch>)>,
}

impl Store {
    /// Notes all changes of the batch, or none. They outlive this process from now on, and the machine from the next [`Store::sync`] or
    /// commit on; whoever reads sees them. What cannot be noted is committed.
    ///
    /// # Errors
    /// When it cannot be written; nothing of it happened then.
    pub fn note(&self, batch: Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        if batch.may_be_refused() || !self.is_writable() {
            return self.commit(&batch);
        }
        let text = serde_json::to_vec(&batch).map_err(|error| StoreError::Refused {
            what: format!("what cannot be written as JSON: {error}"),
        })?;
        self.begin_journal()?;
        point::reached(Point::NoteBegins);
        let mut notes = self.notes();
        let Some(journal) = &mut notes.journal else {
            drop(notes);
            return self.commit(&batch);
        };
        let number = self.noted.load(SeqCst) + 1;
        let there = journal
            .append(number, &text, self.stored.load(SeqCst))
            .map_err(|error| StoreError::io("note something beside", &self.path, error))?;
        if !there {
            drop(notes);
            return self.commit(&batch);
        }
        point::reached(Point::NoteWritten);
        notes.waiting.push_back((number, Arc::new(batch)));
        self.noted.store(number, SeqCst);
        let many = notes.waiting.len() >= MOST_WAITING;
        drop(notes);
        if many && let Err(error) = self.apply_within(Some(PATIENCE)) {
            // It is noted all the same; whoever reads next will hear of this.
            tracing::warn!(path = %self.path.display(), error = %error, "notes cannot be put into the store");
        }
        Ok(())
    }

    /// Has everything on the disk that was noted before this was asked.
    ///
    /// # Errors
    /// When it cannot be brought there.
    pub fn sync(&self) -> Result<(), StoreError> {
        let files = self
            .notes()
            .journal
            .as_mut()
            .map(Journal::unsynced)
            .unwrap_or_default();
        match files.iter().try_for_each(|file| file.sync_data()) {
            Ok(()) => {
                point::reached(Point::NotesSynced);
                Ok(())
            }
            Err(error) => {
                // The kernel may have dropped those pages and call them clean. Nothing needs them once the tables are durable.
                tracing::warn!(path = %self.path.display(), error = %error, "notes cannot be synced; storing them");
                self.settle()
            }
        }
    }

    /// Puts what was noted into the tables, where it costs the next reader nothing any more.
    ///
    /// # Errors
    /// When it cannot be put there; it stays noted.
    pub fn apply(&self) -> Result<(), StoreError> {
        self.apply_within(None)
    }

    /// The same, but it waits for no write that has been under way for so long.
    pub(crate) fn apply_within(&self, patience: Option<Duration>) -> Result<(), StoreError> {
        let noted = self.noted.load(SeqCst);
        if self.applied.load(SeqCst) >= noted {
            return Ok(());
        }
        let done = self.write_by(patience, |opened| {
            let txn = opened.database.begin_write();
            put_notes(txn, || self.notes().waiting.iter().cloned().collect())
                .map_err(|fault| (fault, None))
        });
        match done {
            Ok(last) => {
                self.applied.fetch_max(last, SeqCst);
                let mut notes = self.notes();
                while notes.waiting.front().is_some_and(|(it, _)| *it <= last) {
                    notes.waiting.pop_front();
                }
                Ok(())
            }
            // Opening the file anew has put them there.
            Err(_) if self.applied.load(SeqCst) >= noted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Has everything that was noted in the tables, durably, so that its place beside them is free again.
    ///
    /// # Errors
    /// When it cannot be put there; it stays noted.
    pub fn settle(&self) -> Result<(), StoreError> {
        if self.stored.load(SeqCst) >= self.noted.load(SeqCst) {
            return Ok(());
        }
        self.write(|_| Ok(()))
    }

    /// Whether so much is noted that it is time to settle.
    #[must_use]
    pub fn wants_settling(&self) -> bool {
        let stored = self.stored.load(SeqCst);
        let notes = self.notes();
        notes
            .journal
            .as_ref()
            .is_some_and(|journal| journal.is_long(stored))
    }

    pub(crate) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the files for notes, if this is the first. What an earlier life noted is in the tables, durably, since the store was opened.
    fn begin_journal(&self) -> Result<(), StoreError> {
        if self.notes().journal.is_some() {
            return Ok(());
        }
        let _alone = self
            .beginning
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.notes().journal.is_some() {
            return Ok(());
        }
        let of = match self.read_applied(schema::meta)?.notes_of {
            Some(id) => id,
            None => {
                let id = Uuid::now_v7();
                self.write_by(Some(PATIENCE), |opened| {
                    write_in(opened, |txn| schema::set_notes_of(txn, id))
                })?;
                id
            }
        };
        let journal = Journal::begin(&self.path, of)
            .map_err(|error| StoreError::io("note something beside", &self.path, error))?;
        self.notes().journal = Some(journal);
        Ok(())
    }
}

/// Puts notes into the tables, without making them durable there. Which ones is asked when nobody else can; gives the number of the
/// newest one that is there now.
fn put_notes(
    txn: Result<WriteTransaction, redb::TransactionError>,
    waiting: impl FnOnce() -> Vec<(u64, Arc<Batch>)>,
) -> Result<u64, Fault> {
    let mut txn = txn?;
    txn.set_durability(Durability::None)?;
    let there = schema::noted(&txn)?;
    let waiting = waiting();
    let missing: Vec<_> = waiting
        .iter()
        .filter(|(number, _)| *number > there)
        .collect();
    let Some((last, _)) = missing.last() else {
        return Ok(there);
    };
    let batches: Vec<&Batch> = missing.iter().map(|(_, batch)| &**batch).collect();
    batch::apply_all(&txn, &batches)?;
    schema::set_noted(&txn, *last)?;
    point::reached(Point::NotesApplied);
    txn.commit()?;
    Ok(*last)
}

/// Puts what was noted beside a store into it, durably; gives the number of the newest note. A commit of it is none that is counted.
pub(crate) fn replay(opened: &Opened, path: &Path) -> Result<u64, StoreError> {
    let meta = read_in(opened, path, schema::meta)?;
    let Some(of) = meta.notes_of else {
        return Ok(0);
    };
    let missing = journal::read(path, of, meta.noted)
        .map_err(|error| StoreError::io("read what was noted beside", path, error))?;
    let Some((last, _)) = missing.last() else {
        return Ok(meta.noted);
    };
    let put = || {
        let mut batches: Vec<Batch> = Vec::with_capacity(missing.len());
        for (number, text) in &missing {
            batches.push(serde_json::from_slice(text).map_err(|error| {
                Fault::Document(format!(
                    "note {number} beside it cannot be understood: {error}"
                ))
            })?);
        }
        let mut txn = opened.database.begin_write()?;
        txn.set_two_phase_commit(true);
        let batches: Vec<&Batch> = batches.iter().collect();
        batch::apply_all(&txn, &batches)?;
        schema::set_noted(&txn, *last)?;
        point::reached(Point::ReplayBegins);
        txn.commit()?;
        point::reached(Point::ReplayDone);
        Ok(())
    };
    put().map_err(|fault: Fault| fault.at("put what was noted into", path))?;
    tracing::info!(path = %path.display(), notes = missing.len(), "notes put into the store");
    Ok(*last)
}
