//! The tables, their version, and how an older version becomes this one.
//!
//! Every version that was ever released has a file in `fixtures/` that a test opens. A new version adds one function to
//! [`MIGRATIONS`] and one fixture; it changes nothing that is there.

use paw_policy::State;
use redb::{ReadTransaction, ReadableTable as _, TableDefinition, TableError, WriteTransaction};
use uuid::Uuid;

use crate::error::Fault;

/// Brings the tables from one version to the next, inside the transaction that also raises the version.
pub(crate) type Migration = fn(&WriteTransaction) -> Result<(), Fault>;

/// The first leads from version 1 to version 2, and so on.
pub(crate) const MIGRATIONS: &[Migration] = &[];

/// The schema version that this program writes.
pub const SCHEMA_VERSION: u64 = version_after(MIGRATIONS);

/// The version to which these migrations lead.
pub(crate) const fn version_after(migrations: &[Migration]) -> u64 {
    1 + migrations.len() as u64
}

/// Facts about the file itself: `schema`, `written_by`, `generation`, all as text; and of what is noted beside it `notes_of`, the id of
/// this file that its notes name, and `noted`, the number of the newest one that is in the tables.
pub(crate) const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
/// Action id to its document.
pub(crate) const ACTIONS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("actions");
/// State and action id. The open ones are found at start by it.
pub(crate) const ACTIONS_BY_STATE: TableDefinition<'_, (u8, u128), ()> =
    TableDefinition::new("actions_by_state");
/// Session id and action id.
pub(crate) const ACTIONS_BY_SESSION: TableDefinition<'_, (u128, u128), ()> =
    TableDefinition::new("actions_by_session");
/// Session id to its document.
pub(crate) const SESSIONS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("sessions");
/// Owner's uid and session id.
pub(crate) const SESSIONS_BY_OWNER: TableDefinition<'_, (u32, u128), ()> =
    TableDefinition::new("sessions_by_owner");
/// Session id and the id of one that its agent began with another agent. It is made when the first row is written, and a store without
/// such sessions has none.
pub(crate) const SESSIONS_BY_PARENT: TableDefinition<'_, (u128, u128), ()> =
    TableDefinition::new("sessions_by_parent");
/// Session id and place to the turn's document.
pub(crate) const TURNS: TableDefinition<'_, (u128, u64), &[u8]> = TableDefinition::new("turns");

/// The number that stands for a state in the index. It is part of the file format: numbers are added, never changed.
pub(crate) const fn state_code(state: State) -> u8 {
    match state {
        State::Queued => 0,
        State::WaitingApproval => 1,
        State::Approved => 2,
        State::Executing => 3,
        State::Completed => 4,
        State::Failed => 5,
        State::Rejected => 6,
        State::Expired => 7,
        State::Cancelled => 8,
        State::TimedOut => 9,
    }
}

/// The states in which something can still happen to an action.
pub const OPEN_STATES: [State; 4] = [
    State::Queued,
    State::WaitingApproval,
    State::Approved,
    State::Executing,
];

/// What the file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) schema: u64,
    pub(crate) written_by: String,
    /// Counts the commits since the file was made, so that a lost one shows.
    pub(crate) generation: u64,
    /// Whose notes are this file's; none where there never were any.
    pub(crate) notes_of: Option<Uuid>,
    /// The newest note that is in the tables.
    pub(crate) noted: u64,
}

pub(crate) fn meta(txn: &ReadTransaction) -> Result<Meta, Fault> {
    let table = match txn.open_table(META) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => {
            return Err(Fault::Document(
                "it is not a store of pawd: table meta is missing".into(),
            ));
        }
        Err(error) => return Err(error.into()),
    };
    let text = |key: &str| -> Result<String, Fault> {
        let value = table
            .get(key)?
            .ok_or_else(|| Fault::Document(format!("{key:?} is missing in table meta")))?;
        Ok(value.value().to_owned())
    };
    let number = |key: &str| -> Result<u64, Fault> {
        text(key)?
            .parse()
            .map_err(|_| Fault::Document(format!("{key:?} in table meta is not a number")))
    };
    let notes_of = table
        .get("notes_of")?
        .map(|id| id.value().parse())
        .transpose()
        .map_err(|_| Fault::Document("\"notes_of\" in table meta is not an id".into()))?;
    Ok(Meta {
        schema: number("schema")?,
        written_by: text("written_by")?,
        generation: number("generation")?,
        noted: notes_of.map_or(Ok(0), |_| number("noted"))?,
        notes_of,
    })
}

pub(crate) fn set_meta(txn: &WriteTransaction, key: &str, value: &str) -> Result<(), Fault> {
    txn.open_table(META)?.insert(key, value)?;
    Ok(())
}

/// The number of the newest note that is in the tables.
pub(crate) fn noted(txn: &WriteTransaction) -> Result<u64, Fault> {
    let table = txn.open_table(META)?;
    let Some(text) = table.get("noted")? else {
        return Ok(0);
    };
    text.value()
        .parse()
        .map_err(|_| Fault::Document("\"noted\" in table meta is not a number".into()))
}

/// All notes up to this one are in the tables now.
pub(crate) fn set_noted(txn: &WriteTransaction, number: u64) -> Result<(), Fault> {
    set_meta(txn, "noted", &number.to_string())
}

/// From now on the notes that name this id are this file's, and none of them is in its tables.
pub(crate) fn set_notes_of(txn: &WriteTransaction, id: Uuid) -> Result<(), Fault> {
    set_meta(txn, "notes_of", &id.to_string())?;
    set_noted(txn, 0)
}

/// Counts one more commit, and says which it is.
pub(crate) fn next_generation(txn: &WriteTransaction) -> Result<u64, Fault> {
    let mut table = txn.open_table(META)?;
    let last = table
        .get("generation")?
        .and_then(|text| text.value().parse::<u64>().ok());
    let next =
        last.ok_or_else(|| Fault::Document("\"generation\" in table meta is missing".into()))? + 1;
    table.insert("generation", next.to_string().as_str())?;
    Ok(next)
}

/// Makes every table of this version, empty, so that a snapshot always finds them.
pub(crate) fn create(txn: &WriteTransaction, schema: u64, written_by: &str) -> Result<(), Fault> {
    set_meta(txn, "schema", &schema.to_string())?;
    set_meta(txn, "written_by", written_by)?;
    set_meta(txn, "generation", "1")?;
    set_notes_of(txn, Uuid::now_v7())?;
    txn.open_table(ACTIONS)?;
    txn.open_table(ACTIONS_BY_STATE)?;
    txn.open_table(ACTIONS_BY_SESSION)?;
    txn.open_table(SESSIONS)?;
    txn.open_table(SESSIONS_BY_OWNER)?;
    txn.open_table(TURNS)?;
    Ok(())
}
