//! What people granted for a while: one document for each.
//!
//! The table is made when the first one is written, and a store without it has none.

use paw_policy::{Digest, Name};
use redb::{ReadTransaction, ReadableTable as _, TableDefinition, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{error::Fault, record::Caller};

/// Id of a grant to its document.
const GRANTS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("grants");

/// One grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRecord {
    /// Its id, version 7.
    pub id: Uuid,
    /// The rule that it is.
    pub text: String,
    /// The action that was approved with it.
    pub action: Uuid,
    /// The digest of that action's plan.
    pub digest: Digest,
    /// Who made it.
    pub by: Caller,
    /// The user whose actions it permits.
    pub uid: u32,
    /// On behalf of which agent.
    pub agent: Name,
    /// What the approver had to say about it.
    pub note: Option<String>,
    /// When it was made, in milliseconds since 1970.
    pub made_ms: u64,
    /// When it ends.
    pub until_ms: u64,
}

pub(crate) fn put(txn: &WriteTransaction, id: u128, document: &[u8]) -> Result<(), Fault> {
    txn.open_table(GRANTS)?.insert(id, document)?;
    Ok(())
}

pub(crate) fn remove(txn: &WriteTransaction, id: u128) -> Result<(), Fault> {
    txn.open_table(GRANTS)?.remove(id)?;
    Ok(())
}

pub(crate) fn all(txn: &ReadTransaction) -> Result<Vec<GrantRecord>, Fault> {
    let table = match txn.open_table(GRANTS) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut grants = Vec::new();
    for entry in table.iter()? {
        let (id, document) = entry?;
        grants.push(serde_json::from_slice(document.value()).map_err(|error| {
            let id = Uuid::from_u128(id.value());
            Fault::Document(format!("grant {id} cannot be read: {error}"))
        })?);
    }
    Ok(grants)
}
