//! What the first turns of a conversation come to, for a model that has no room for them: one document for each conversation.
//!
//! It is derived: made of turns that stay, and it can be made of them again. The table is made when the first row is written, and a store
//! without summaries has none.

use paw_policy::{Digest, Name, TaintSet, plan::canonical};
use redb::{ReadTransaction, ReadableTable as _, TableDefinition, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::{
    batch::{parse, written},
    error::Fault,
    record::TurnRecord,
    schema::SESSIONS,
};

/// Session id to the document of its summary.
const SUMMARIES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("summaries");

/// What the first turns of a conversation come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryRecord {
    /// Of which session.
    pub session: Uuid,
    /// How many turns are in it: those before this place.
    pub until: u64,
    /// Names exactly those turns; see [`digest_of`].
    pub digest: Digest,
    /// What they come to.
    pub text: String,
    /// Where all of them came from.
    pub taint: TaintSet,
    /// The chat that it was made for.
    pub action: Uuid,
    /// The provider that made it.
    pub provider: Name,
    /// The model that made it.
    pub model: String,
    /// Whether it was made on this host, or something that it is made of was said there.
    pub local: bool,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Names turns in their order, after those that `before` names: SHA-256 over the name so far and the canonical JSON of `role`, `seq`, `taint`
/// and `text` of the next one, one after the other.
#[must_use]
pub fn digest_of<'a>(
    before: Option<Digest>,
    turns: impl IntoIterator<Item = &'a TurnRecord>,
) -> Digest {
    let first = before.unwrap_or_else(|| Digest::of(b""));
    turns.into_iter().fold(first, |so_far, turn| {
        let said =
            json!({"role": turn.role, "seq": turn.seq, "taint": turn.taint, "text": turn.text});
        Digest::of(format!("{so_far}\n{}", canonical(&said)).as_bytes())
    })
}

/// Keeps a summary in place of one of fewer turns. Of a session that is not there any more none is kept.
pub(crate) fn put(txn: &WriteTransaction, record: &SummaryRecord) -> Result<(), Fault> {
    let session = record.session.as_u128();
    if txn.open_table(SESSIONS)?.get(session)?.is_none() {
        return Ok(());
    }
    let mut summaries = txn.open_table(SUMMARIES)?;
    let known: Option<SummaryRecord> = match summaries.get(session)? {
        Some(document) => Some(parse("summary of session", session, document.value())?),
        None => None,
    };
    if known.is_none_or(|known| known.until < record.until) {
        summaries.insert(session, written(record)?.as_slice())?;
    }
    Ok(())
}

pub(crate) fn remove(txn: &WriteTransaction, session: u128) -> Result<(), Fault> {
    txn.open_table(SUMMARIES)?.remove(session)?;
    Ok(())
}

pub(crate) fn of(txn: &ReadTransaction, session: Uuid) -> Result<Option<SummaryRecord>, Fault> {
    let table = match txn.open_table(SUMMARIES) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let session = session.as_u128();
    let document = table.get(session)?;
    document
        .map(|document| parse("summary of session", session, document.value()))
        .transpose()
}
