//! What hostile probes have shown of each runtime, the last time they were run: one document for each.
//!
//! The table is made when the first one is written, and a store without it has none.

use redb::{ReadTransaction, ReadableTable as _, TableDefinition, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::error::Fault;

/// Name of a runtime to its document.
const PROOFS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("proofs");

/// What the probes saw of one runtime, and of what exactly they saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofRecord {
    /// Its name.
    pub runtime: String,
    /// Version of the program or library behind it.
    pub version: Option<String>,
    /// Digest of the program that makes its sandboxes.
    pub digest: Option<String>,
    /// Release and build of the host's kernel.
    pub kernel: String,
    /// Which start of the host it was.
    pub boot: String,
    /// When.
    pub at_ms: u64,
    /// How many probes were made.
    pub probes: u64,
    /// Those that were not held.
    pub fallen: Vec<String>,
    /// Those that could not be made, so that nothing is known of them.
    pub not_made: Vec<String>,
}

pub(crate) fn put(txn: &WriteTransaction, runtime: &str, document: &[u8]) -> Result<(), Fault> {
    txn.open_table(PROOFS)?.insert(runtime, document)?;
    Ok(())
}

pub(crate) fn all(txn: &ReadTransaction) -> Result<Vec<ProofRecord>, Fault> {
    let table = match txn.open_table(PROOFS) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut proofs = Vec::new();
    for entry in table.iter()? {
        let (runtime, document) = entry?;
        proofs.push(serde_json::from_slice(document.value()).map_err(|error| {
            Fault::Document(format!(
                "the proof of {} cannot be read: {error}",
                runtime.value()
            ))
        })?);
    }
    Ok(proofs)
}
