//! Targets that are left alone because they failed: one document for each breaker that is not closed.
//!
//! The table is made when the first one is written, and a store without it has none.

use redb::{ReadTransaction, ReadableTable as _, TableDefinition, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::error::Fault;

/// Provider, model and credential to the document.
const OUTAGES: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("outages");

/// Whose outage it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Outlet {
    /// Which provider.
    pub provider: String,
    /// Which of its models.
    pub model: String,
    /// The name of the credential it was asked with; empty without one.
    pub credential: String,
}

/// What is known of an outage. Times are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// When it was first seen.
    pub since: u64,
    /// When an attempt last failed.
    pub failed: u64,
    /// When the next attempt may be made.
    pub until: u64,
    /// Until when the provider itself asked to be left alone.
    pub asked: u64,
    /// Probes that failed.
    pub probes: u32,
    /// Whether a check has since found nobody.
    pub gone: bool,
}

/// An outage and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutageRecord {
    /// Whose.
    pub outlet: Outlet,
    /// Where the provider was then; an earlier pawd did not say.
    #[serde(default)]
    pub place: Option<String>,
    /// What is known of it.
    pub outage: Outage,
}

fn key(outlet: &Outlet) -> (&str, &str, &str) {
    (&outlet.provider, &outlet.model, &outlet.credential)
}

pub(crate) fn put(txn: &WriteTransaction, outlet: &Outlet, document: &[u8]) -> Result<(), Fault> {
    txn.open_table(OUTAGES)?.insert(key(outlet), document)?;
    Ok(())
}

pub(crate) fn remove(txn: &WriteTransaction, outlet: &Outlet) -> Result<(), Fault> {
    txn.open_table(OUTAGES)?.remove(key(outlet))?;
    Ok(())
}

pub(crate) fn all(txn: &ReadTransaction) -> Result<Vec<OutageRecord>, Fault> {
    let table = match txn.open_table(OUTAGES) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut outages = Vec::new();
    for entry in table.iter()? {
        let (outlet, document) = entry?;
        outages.push(serde_json::from_slice(document.value()).map_err(|error| {
            Fault::Document(format!(
                "the outage of {:?} cannot be read: {error}",
                outlet.value()
            ))
        })?);
    }
    Ok(outages)
}
