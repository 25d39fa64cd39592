//! The open store: one handle that any thread may use.

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use redb::{ReadTransaction, WriteTransaction};
use uuid::Uuid;

use crate::{
    batch::Batch,
    error::{Fault, StoreError},
    file::{self, OpenOptions, Opened},
    forget::{Kept, Surplus, surplus},
    grant::{self, GrantRecord},
    job::{self, JobRecord, RunRecord},
    notes::{Notes, replay},
    outage::{self, OutageRecord},
    point::{self, Point},
    proof::{self, ProofRecord},
    prune::prune,
    query::{self, ActionFilter, Counts, Listed, Page},
    record::{ActionRecord, SessionRecord, TurnRecord},
    schema::{self, MIGRATIONS, Migration, version_after},
    session,
    spent::{self, Account, Sum},
    summary::{self, SummaryRecord},
    turn::Turn,
};

/// The most actions that one transaction of [`Store::prune`] removes.
const PRUNE_STEP: usize = 1000;

/// How long a read waits for the commit that is under way, when it has to write first. A commit that takes longer waits for a disk that
/// does not answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// The open store. Reads run beside each other and beside a write; writes wait for each other. A note that is not in the tables yet is put
/// there before anything is read, which is a write: so a read after a note waits for the commit that is under way, its wait for the disk
/// included, but not for longer than a second. Then it is an error, or, where a list is shown, what was there before.
pub struct Store {
    pub(crate) path: PathBuf,
    options: OpenOptions,
    /// Taken for writing only to reopen the file after a failure. `None` when that did not succeed.
    opened: RwLock<Option<Opened>>,
    turn: Turn,
    pub(crate) notes: Mutex<Notes>,
    /// Held by whoever makes the files for notes.
    pub(crate) beginning: Mutex<()>,
    /// Numbers of the newest note, of the newest one in the tables, and of the newest one that is there durably.
    pub(crate) noted: AtomicU64,
    pub(crate) applied: AtomicU64,
    pub(crate) stored: AtomicU64,
}

impl Store {
    /// Opens the store at `path`, checks it whole, and brings it to this program's schema version.
    ///
    /// What was noted beside it and is not in it yet is put there first. An older store is copied to `PATH.vN.bak` before it is changed.
    ///
    /// # Errors
    /// When another process has it, a newer program wrote it, it is damaged, or it cannot be read and written. The file is
    /// as it was in each of these cases.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Self, StoreError> {
        Self::open_with(path, options, MIGRATIONS)
    }

    pub(crate) fn open_with(
        path: &Path,
        options: OpenOptions,
        migrations: &[Migration],
    ) -> Result<Self, StoreError> {
        let known = version_after(migrations);
        let mut opened = match file::open(path, options.cache) {
            Err(StoreError::Missing { .. }) if options.create => {
                file::create(path, &options, known)?;
                tracing::info!(path = %path.display(), "store created");
                file::open(path, options.cache)?
            }
            other => other?,
        };
        let found = read_in(&opened, path, schema::meta)?;
        if found.schema > known {
            return Err(StoreError::Newer {
                path: path.to_owned(),
                found: found.schema,
                known,
                written_by: found.written_by,
            });
        }
        let noted = replay(&opened, path)?;
        if found.schema < known {
            let copy = file::beside(path, &format!("v{}.bak", found.schema));
            opened
                .database
                .close()
                .map_err(|e| Fault::from(e).at("close", path))?;
            file::copy_closed(path, &copy)?;
            opened = file::open(path, options.cache)?;
            migrate(&opened, found.schema, &options.program, migrations)
                .map_err(|fault| fault.at("migrate", path))?;
            tracing::info!(from = found.schema, to = known, copy = %copy.display(), "store migrated");
        } else if found.written_by != options.program {
            let name =
                |txn: &WriteTransaction| schema::set_meta(txn, "written_by", &options.program);
            write_in(&opened, name).map_err(|(fault, _)| fault.at("write", path))?;
        }
        Ok(Self {
            path: path.to_owned(),
            options,
            opened: RwLock::new(Some(opened)),
            turn: Turn::default(),
            notes: Mutex::default(),
            beginning: Mutex::default(),
            noted: AtomicU64::new(noted),
            applied: AtomicU64::new(noted),
            stored: AtomicU64::new(noted),
        })
    }

    /// Makes all changes of the batch, durably, or none.
    ///
    /// # Errors
    /// When the batch contradicts what is stored, or the file cannot be written. None of its changes happened then, what was
    /// stored stays readable, and a later commit succeeds as soon as the cause is gone.
    pub fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.write(|txn| batch.apply(txn))
    }

    /// Makes the changes of all these batches, one after the other, in one transaction, durably, or none of any.
    ///
    /// # Errors
    /// As [`Store::commit`], of the first batch that cannot be made.
    pub fn commit_together(&self, batches: &[&Batch]) -> Result<(), StoreError> {
        self.write(|txn| batches.iter().try_for_each(|batch| batch.apply(txn)))
    }

    /// Removes the oldest finished actions until only `keep` of them are left; returns how many it removed.
    ///
    /// # Errors
    /// When the file cannot be written; what was removed until then stays removed.
    pub fn prune(&self, keep: u64) -> Result<usize, StoreError> {
        let there = self.counts()?;
        let open = there.queued + there.waiting_approval + there.approved + there.executing;
        if there.actions.saturating_sub(open) <= keep {
            return Ok(0);
        }
        let mut removed = 0;
        loop {
            let step = self.write(|txn| prune(txn, keep, PRUNE_STEP))?;
            removed += step;
            if step < PRUNE_STEP {
                return Ok(removed);
            }
        }
    }

    /// The conversations that are more than is kept of their owners, of each owner those first that were spoken in last.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn surplus_sessions(&self, kept: Kept) -> Result<Vec<Surplus>, StoreError> {
        self.read(|txn| surplus(txn, kept))
    }

    /// The action with this id.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn action(&self, id: Uuid) -> Result<Option<ActionRecord>, StoreError> {
        self.read(|txn| query::action(txn, id))
    }

    /// Those of these actions that are there, in this order, read at once; as many of them as have so many bytes together as they are
    /// stored.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn actions_named(
        &self,
        ids: &[Uuid],
        room: usize,
    ) -> Result<Vec<ActionRecord>, StoreError> {
        self.read(|txn| query::actions_named(txn, ids, room))
    }

    /// The actions that the filter wants, newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn actions(
        &self,
        filter: &ActionFilter,
        page: &Page,
    ) -> Result<Listed<ActionRecord>, StoreError> {
        self.read_or_before(|txn| query::actions(txn, filter, page))
    }

    /// The session with this id.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn session(&self, id: Uuid) -> Result<Option<SessionRecord>, StoreError> {
        self.read(|txn| query::session(txn, id))
    }

    /// The sessions of this owner, or of everybody, newest first; with `all` those, too, that an agent began with another one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sessions(
        &self,
        (owner, all): (Option<u32>, bool),
        page: &Page,
    ) -> Result<Listed<SessionRecord>, StoreError> {
        self.read_or_before(|txn| query::sessions(txn, (owner, all), page))
    }

    /// The sessions that this one's agent began with others, those that these began, and so on.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn begun_by(&self, session: Uuid) -> Result<Vec<Uuid>, StoreError> {
        self.read(|txn| session::begun_by(txn, session))
    }

    /// The turns of a session from this place on, oldest first, at most `limit` and never more than [`crate::MAX_PAGE`].
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn turns(
        &self,
        session: Uuid,
        from: u64,
        limit: usize,
    ) -> Result<Vec<TurnRecord>, StoreError> {
        self.read(|txn| query::turns(txn, session, from, limit))
    }

    /// What probes saw of each runtime.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn proofs(&self) -> Result<Vec<ProofRecord>, StoreError> {
        self.read(proof::all)
    }

    /// What is known of targets that are left alone.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn outages(&self) -> Result<Vec<OutageRecord>, StoreError> {
        self.read(outage::all)
    }

    /// What people granted, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn grants(&self) -> Result<Vec<GrantRecord>, StoreError> {
        self.read(grant::all)
    }

    /// Every job, oldest first. Whoever adds them bounds how many there are.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn jobs(&self) -> Result<Vec<JobRecord>, StoreError> {
        self.read_or_before(job::all)
    }

    /// The newest runs of a job, newest first, at most so many.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn runs(&self, job: Uuid, most: usize) -> Result<Vec<RunRecord>, StoreError> {
        self.read_or_before(|txn| job::runs(txn, job, most))
    }

    /// What the first turns of a session come to, where that was made.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn summary(&self, session: Uuid) -> Result<Option<SummaryRecord>, StoreError> {
        self.read(|txn| summary::of(txn, session))
    }

    /// What was spent of each of these accounts, in their order.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn spent(&self, accounts: &[&Account]) -> Result<Vec<Sum>, StoreError> {
        if accounts.is_empty() {
            return Ok(Vec::new());
        }
        self.read(|txn| spent::of(txn, accounts))
    }

    /// What was spent of a budget in the time that began then, in milliseconds since 1970: whose part it is and how much, at most
    /// so many.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn spent_in(
        &self,
        budget: &str,
        since_ms: u64,
        most: usize,
    ) -> Result<Vec<(String, Sum)>, StoreError> {
        self.read(|txn| spent::in_time(txn, budget, since_ms, most))
    }

    /// How many records there are.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn counts(&self) -> Result<Counts, StoreError> {
        self.read_or_before(query::counts)
    }

    /// Whether commits can succeed as far as is known: false after one failed and the file could not be reopened for writing.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        // While it is being opened anew it is not, and that may take as long as the disk does.
        let opened = self.opened.try_read();
        opened.is_ok_and(|opened| opened.as_ref().is_some_and(|opened| opened.writable))
    }

    /// For how long a commit has been waiting for a disk that does not answer; none while all goes its way.
    #[must_use]
    pub fn stalled(&self) -> Option<Duration> {
        self.turn.held().filter(|held| *held >= PATIENCE)
    }

    fn can_write(&self) -> bool {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        opened.as_ref().is_some_and(|opened| opened.writable)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) const fn cache(&self) -> usize {
        self.options.cache
    }

    /// Reads from one snapshot, in which everything is that was noted before.
    pub(crate) fn read<T>(
        &self,
        look: impl Fn(&ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.apply_within(Some(PATIENCE))?;
        self.read_applied(look)
    }

    /// The same, but where the disk does not answer, from what was there before: for what is shown and decides nothing.
    fn read_or_before<T>(
        &self,
        look: impl Fn(&ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        match self.apply_within(Some(PATIENCE)) {
            Ok(()) | Err(StoreError::Stalled { .. }) => self.read_applied(look),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn read_applied<T>(
        &self,
        look: impl Fn(&ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let first = {
            let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
            match opened.as_ref() {
                Some(opened) => match opened.database.begin_read_for(&look) {
                    Err(fault) if fault.needs_reopen() => None,
                    done => Some(done),
                },
                None => None,
            }
        };
        let done = match first {
            Some(done) => done,
            None => {
                self.reopen()?;
                let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
                opened
                    .as_ref()
                    .map_or(Err(Fault::Engine(redb::Error::DatabaseClosed)), |opened| {
                        opened.database.begin_read_for(&look)
                    })
            }
        };
        done.map_err(|fault| fault.at("read", &self.path))
    }

    /// Writes in one transaction that is durable when this returns, and all notes before it with it.
    pub(crate) fn write<T>(
        &self,
        change: impl Fn(&WriteTransaction) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.apply_within(None)?;
        let (value, noted) = self.write_by(None, |opened| {
            write_in(opened, |txn| {
                let value = change(txn)?;
                Ok((value, schema::noted(txn)?))
            })
        })?;
        self.stored.fetch_max(noted, SeqCst);
        Ok(value)
    }

    /// Writes in its turn, and opens the file anew where that fails in a way that wants it.
    pub(crate) fn write_by<T>(
        &self,
        patience: Option<Duration>,
        write: impl Fn(&Opened) -> Result<T, Failed<T>>,
    ) -> Result<T, StoreError> {
        let _writing = self
            .turn
            .take(patience)
            .map_err(|since| StoreError::Stalled {
                path: self.path.clone(),
                since,
            })?;
        if !self.can_write() {
            self.reopen()?;
        }
        let outcome = {
            let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
            match opened.as_ref() {
                Some(opened) if opened.writable => write(opened),
                // Something made it unwritable between the two looks, or it still is: try to open it, to say why.
                _ => {
                    return Err(file::open(&self.path, self.cache()).err().unwrap_or(
                        StoreError::ReadOnly {
                            path: self.path.clone(),
                        },
                    ));
                }
            }
        };
        let (fault, attempted) = match outcome {
            Ok(value) => return Ok(value),
            Err(failed) => failed,
        };
        let reopen = fault.needs_reopen();
        let error = fault.at("write", &self.path);
        if reopen {
            tracing::warn!(path = %self.path.display(), error = %error, "store commit failed, reopening");
            self.reopen()?;
            // A failure of the very last sync leaves open what is on the disk; the generation tells.
            if let Some((generation, value)) = attempted
                && self.read_applied(schema::meta)?.generation >= generation
            {
                return Ok(value);
            }
        }
        Err(error)
    }

    /// Opens the file anew: redb gives up on a handle after the first failed access.
    fn reopen(&self) -> Result<(), StoreError> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        // The old handle goes first, because it holds the lock of the file.
        *opened = None;
        let fresh = file::open(&self.path, self.cache())
            .and_then(|fresh| replay(&fresh, &self.path).map(|noted| (fresh, noted)));
        let (fresh, noted) = match fresh {
            Ok((fresh, noted)) => {
                self.stored.fetch_max(noted, SeqCst);
                (fresh, noted)
            }
            Err(
                error @ (StoreError::Full { .. }
                | StoreError::ReadOnly { .. }
                | StoreError::Permission { .. }
                | StoreError::Io { .. }),
            ) => {
                tracing::warn!(path = %self.path.display(), error = %error, "store cannot be written; what was stored stays readable");
                let unwritten = file::open_unwritten(&self.path, self.cache())?;
                let noted = replay(&unwritten, &self.path)?;
                (unwritten, noted)
            }
            Err(error) => return Err(error),
        };
        *opened = Some(fresh);
        self.notes().waiting.retain(|(number, _)| *number > noted);
        self.applied.fetch_max(noted, SeqCst);
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.settle() {
            tracing::warn!(path = %self.path.display(), error = %error, "what was noted is stored at the next start");
        }
    }
}

/// A read that ends with its snapshot.
trait BeginReadFor {
    fn begin_read_for<T>(
        &self,
        look: impl Fn(&ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, Fault>;
}

impl BeginReadFor for redb::Database {
    fn begin_read_for<T>(
        &self,
        look: impl Fn(&ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let txn = redb::ReadableDatabase::begin_read(self)?;
        look(&txn)
    }
}

/// Reads from a store that is not yet, or not for long, behind a [`Store`].
pub(crate) fn read_in<T>(
    opened: &Opened,
    path: &Path,
    look: impl Fn(&ReadTransaction) -> Result<T, Fault>,
) -> Result<T, StoreError> {
    opened
        .database
        .begin_read_for(look)
        .map_err(|fault| fault.at("read", path))
}

/// The fault, and what the transaction would have given had its outcome not been lost.
pub(crate) type Failed<T> = (Fault, Option<(u64, T)>);

pub(crate) fn write_in<T>(
    opened: &Opened,
    change: impl FnOnce(&WriteTransaction) -> Result<T, Fault>,
) -> Result<T, Failed<T>> {
    let prepared = (|| {
        let mut txn = opened.database.begin_write()?;
        // Without the second phase, whoever chooses the bytes that are stored could choose what a crash leaves behind.
        txn.set_two_phase_commit(true);
        let value = change(&txn)?;
        let generation = schema::next_generation(&txn)?;
        Ok((txn, generation, value))
    })();
    let (txn, generation, value) = prepared.map_err(|fault: Fault| (fault, None))?;
    point::reached(Point::CommitBegins);
    match txn.commit() {
        Ok(()) => {
            point::reached(Point::CommitDone);
            Ok(value)
        }
        Err(error) => Err((Fault::from(error), Some((generation, value)))),
    }
}

fn migrate(
    opened: &Opened,
    from: u64,
    program: &str,
    migrations: &[Migration],
) -> Result<(), Fault> {
    let skipped = usize::try_from(from.saturating_sub(1)).unwrap_or(usize::MAX);
    let steps = migrations.get(skipped..).unwrap_or_default();
    write_in(opened, |txn| {
        for step in steps {
            step(txn)?;
        }
        schema::set_meta(txn, "schema", &version_after(migrations).to_string())?;
        schema::set_meta(txn, "written_by", program)
    })
    .map_err(|(fault, _)| fault)
}

#[cfg(test)]
mod tests {
    use redb::TableDefinition;

    use super::*;

    const EXTRA: TableDefinition<'_, u64, u64> = TableDefinition::new("extra");

    fn add_table(txn: &WriteTransaction) -> Result<(), Fault> {
        txn.open_table(EXTRA)?.insert(1, 1)?;
        Ok(())
    }

    fn fail(txn: &WriteTransaction) -> Result<(), Fault> {
        add_table(txn)?;
        Err(Fault::Document(
            "the migration found what it did not expect".into(),
        ))
    }

    fn v1() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        std::fs::write(&path, include_bytes!("../fixtures/v1.redb")).unwrap();
        (directory, path)
    }

    fn version(path: &Path) -> (u64, String) {
        let opened = file::open_unwritten(path, 1 << 20).unwrap();
        let meta = read_in(&opened, path, schema::meta).unwrap();
        (meta.schema, meta.written_by)
    }

    #[test]
    fn older_store_is_copied_and_migrated() {
        let (_directory, path) = v1();
        let store = Store::open_with(&path, OpenOptions::new("2.0.0"), &[add_table]).unwrap();
        assert_eq!(store.counts().unwrap().actions, 2);
        let extra = store.read(|txn| Ok(txn.open_table(EXTRA)?.get(1)?.map(|value| value.value())));
        assert_eq!(extra.unwrap(), Some(1));
        drop(store);
        assert_eq!(version(&path), (2, "2.0.0".to_owned()));
        assert_eq!(
            version(&file::beside(&path, "v1.bak")),
            (1, "0.1.0".to_owned())
        );
        assert_eq!(
            Store::verify(&file::beside(&path, "v1.bak"))
                .unwrap()
                .counts
                .actions,
            2
        );
    }

    /// What is stored under an id that no action has is no record.
    fn damage(txn: &WriteTransaction) -> Result<(), Fault> {
        txn.open_table(schema::ACTIONS)?.insert(7_u128, &b"{"[..])?;
        Ok(())
    }

    #[test]
    fn damaged_record_is_told_apart_from_a_damaged_store() {
        let (_directory, path) = v1();
        let store = Store::open_with(&path, OpenOptions::new("2.0.0"), &[damage]).unwrap();
        let error = store.action(Uuid::from_u128(7)).unwrap_err();
        assert!(matches!(error, StoreError::Unreadable { .. }), "{error:?}");
        assert!(error.to_string().contains("is damaged"), "{error}");
        assert_eq!(store.action(Uuid::from_u128(8)).unwrap(), None);
    }

    #[test]
    fn failed_migration_leaves_the_older_store() {
        let (_directory, path) = v1();
        let error = Store::open_with(&path, OpenOptions::new("2.0.0"), &[fail])
            .err()
            .unwrap();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        assert_eq!(version(&path), (1, "0.1.0".to_owned()));
        assert_eq!(
            Store::open(&path, OpenOptions::new("1.0.0"))
                .unwrap()
                .counts()
                .unwrap()
                .actions,
            2
        );
    }

    #[test]
    fn newer_store_is_refused_with_both_versions_and_left_alone() {
        let (_directory, path) = v1();
        drop(Store::open_with(&path, OpenOptions::new("2.0.0"), &[add_table]).unwrap());
        for error in [
            Store::open(&path, OpenOptions::new("1.0.0")).err().unwrap(),
            Store::verify(&path).err().unwrap(),
        ] {
            let text = error.to_string();
            assert!(
                matches!(
                    error,
                    StoreError::Newer {
                        found: 2,
                        known: 1,
                        ..
                    }
                ),
                "{error:?}"
            );
            assert!(
                text.contains("version 2")
                    && text.contains("up to 1")
                    && text.contains("pawd 2.0.0"),
                "{text}"
            );
        }
        assert_eq!(version(&path), (2, "2.0.0".to_owned()));
    }
}
