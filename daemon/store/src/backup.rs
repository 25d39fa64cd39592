//! Copies of the store, made while it is in use, and the check of such a copy.

use std::path::Path;

use redb::{Key, ReadTransaction, ReadableTable as _, TableDefinition, Value, WriteTransaction};
use uuid::Uuid;

use crate::{
    error::{Fault, StoreError},
    file,
    notes::replay,
    query::{self, Counts},
    schema::{
        ACTIONS, ACTIONS_BY_SESSION, ACTIONS_BY_STATE, META, SCHEMA_VERSION, SESSIONS,
        SESSIONS_BY_OWNER, TURNS, meta, set_notes_of,
    },
    store::{Store, read_in},
};

/// What [`Store::verify`] found in a good file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its schema version.
    pub schema: u64,
    /// The program version that wrote it last.
    pub written_by: String,
    /// How many records it has.
    pub counts: Counts,
}

impl Store {
    /// Copies what is stored at this moment into a new file of mode 0600, while others read and write.
    ///
    /// The copy appears complete and durable, or not at all.
    ///
    /// # Errors
    /// When `path` exists already, or cannot be written.
    pub fn backup(&self, path: &Path) -> Result<(), StoreError> {
        self.read(|source| {
            // This result is about the new file, and must not be taken for a fault of the store.
            let written = file::write_new(path, |backend| {
                let mut builder = redb::Builder::new();
                let database = builder
                    .set_cache_size(self.cache())
                    .create_with_backend(backend)?;
                let mut txn = database.begin_write()?;
                txn.set_two_phase_commit(true);
                copy_all(source, &txn)?;
                // Put in place of this store one day, it must not take on what is noted beside this one.
                set_notes_of(&txn, Uuid::now_v7())?;
                txn.commit()?;
                Ok(database.close()?)
            });
            Ok(written)
        })?
    }

    /// Checks a store that nobody has open: every page, every record, every index. The file is not changed, whatever is
    /// found, and need not be writable.
    ///
    /// # Errors
    /// When it is damaged, in use, from a newer program, or cannot be read.
    pub fn verify(path: &Path) -> Result<Verified, StoreError> {
        let opened = file::open_unwritten(path, 8 * 1024 * 1024)?;
        let about = read_in(&opened, path, meta)?;
        if about.schema > SCHEMA_VERSION {
            return Err(StoreError::Newer {
                path: path.to_owned(),
                found: about.schema,
                known: SCHEMA_VERSION,
                written_by: about.written_by,
            });
        }
        // Into memory, as all that is written here.
        replay(&opened, path)?;
        let counts = read_in(&opened, path, |txn| {
            query::check(txn)?;
            query::counts(txn)
        })?;
        Ok(Verified {
            schema: about.schema,
            written_by: about.written_by,
            counts,
        })
    }
}

fn copy_all(from: &ReadTransaction, to: &WriteTransaction) -> Result<(), Fault> {
    copy(from, to, META)?;
    copy(from, to, ACTIONS)?;
    copy(from, to, ACTIONS_BY_STATE)?;
    copy(from, to, ACTIONS_BY_SESSION)?;
    copy(from, to, SESSIONS)?;
    copy(from, to, SESSIONS_BY_OWNER)?;
    copy(from, to, TURNS)
}

fn copy<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &WriteTransaction,
    table: TableDefinition<'_, K, V>,
) -> Result<(), Fault> {
    let mut target = to.open_table(table)?;
    for entry in from.open_table(table)?.iter()? {
        let (key, value) = entry?;
        target.insert(key.value(), value.value())?;
    }
    Ok(())
}
