//! Conversations in the tables: their records, their turns, and their end.

use redb::{ReadTransaction, ReadableTable as _, TableError, WriteTransaction};
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    batch::{parse, written},
    error::Fault,
    record::{SessionRecord, TurnRecord},
    schema::{
        ACTIONS_BY_SESSION, ACTIONS_BY_STATE, OPEN_STATES, SESSIONS, SESSIONS_BY_OWNER,
        SESSIONS_BY_PARENT, TURNS, state_code,
    },
    summary,
};

pub(crate) fn put(
    txn: &WriteTransaction,
    id: u128,
    owner: u32,
    document: &[u8],
) -> Result<(), Fault> {
    let mut by_owner = txn.open_table(SESSIONS_BY_OWNER)?;
    if let Some(old) = txn.open_table(SESSIONS)?.insert(id, document)? {
        let old: SessionRecord = parse("session", id, old.value())?;
        by_owner.remove((old.owner_uid, id))?;
    }
    by_owner.insert((owner, id), ())?;
    let new: Begun = parse("session", id, document)?;
    if let Some(parent) = new.parent {
        let mut by_parent = txn.open_table(SESSIONS_BY_PARENT)?;
        by_parent.insert((parent.as_u128(), id), ())?;
    }
    Ok(())
}

/// Of a session, what says who began it.
#[derive(Deserialize)]
struct Begun {
    #[serde(default)]
    parent: Option<Uuid>,
}

pub(crate) fn append_turn(
    txn: &WriteTransaction,
    session: u128,
    seq: u64,
    document: &[u8],
) -> Result<(), Fault> {
    let name = Uuid::from_u128(session);
    if txn.open_table(SESSIONS)?.get(session)?.is_none() {
        return Err(Fault::Refused(format!(
            "turn {seq} of session {name}: there is no such session"
        )));
    }
    let mut turns = txn.open_table(TURNS)?;
    let next = next_place(&turns, session)?;
    if seq != next {
        return Err(Fault::Refused(format!(
            "turn {seq} of session {name}: the next one is {next}"
        )));
    }
    turns.insert((session, seq), document)?;
    Ok(())
}

/// The place behind the last turn of a session.
fn next_place(
    turns: &redb::Table<'_, (u128, u64), &'static [u8]>,
    session: u128,
) -> Result<u64, Fault> {
    let mut there = turns.range((session, 0)..=(session, u64::MAX))?;
    Ok(match there.next_back() {
        Some(last) => last?.0.value().1.saturating_add(1),
        None => 0,
    })
}

pub(crate) fn say(txn: &WriteTransaction, session: u128, said: &[TurnRecord]) -> Result<(), Fault> {
    let mut sessions = txn.open_table(SESSIONS)?;
    let mut record: SessionRecord = match sessions.get(session)? {
        Some(document) => parse("session", session, document.value())?,
        None => return Ok(()),
    };
    let mut turns = txn.open_table(TURNS)?;
    let first = next_place(&turns, session)?;
    for (seq, turn) in (first..).zip(said) {
        let turn = TurnRecord {
            seq,
            ..turn.clone()
        };
        let document = written(&turn)?;
        turns.insert((session, seq), document.as_slice())?;
        record.bytes += document.len() as u64;
        record.turns = seq + 1;
        record.updated_ms = turn.at_ms;
        record.taint = record.taint.with(&turn.taint);
    }
    sessions.insert(session, written(&record)?.as_slice())?;
    Ok(())
}

/// Removes a session with those that its agent began with others, and so on: none of them is older than who began it, so this ends.
pub(crate) fn delete(txn: &WriteTransaction, id: u128) -> Result<(), Fault> {
    let old: SessionRecord = match txn.open_table(SESSIONS)?.remove(id)? {
        Some(old) => parse("session", id, old.value())?,
        None => return Ok(()),
    };
    let begun: Vec<u128> = {
        let mut by_parent = txn.open_table(SESSIONS_BY_PARENT)?;
        if let Some(parent) = old.parent {
            by_parent.remove((parent.as_u128(), id))?;
        }
        let begun = by_parent.range((id, 0)..=(id, u128::MAX))?;
        begun
            .map(|entry| Ok(entry?.0.value().1))
            .collect::<Result<_, redb::StorageError>>()?
    };
    for child in begun {
        delete(txn, child)?;
    }
    txn.open_table(SESSIONS_BY_OWNER)?
        .remove((old.owner_uid, id))?;
    txn.open_table(TURNS)?
        .retain_in((id, 0)..=(id, u64::MAX), |_, _| false)?;
    summary::remove(txn, id)
}

/// The sessions that this one's agent began with others, those that these began, and so on.
pub(crate) fn begun_by(txn: &ReadTransaction, id: Uuid) -> Result<Vec<Uuid>, Fault> {
    let by_parent = match txn.open_table(SESSIONS_BY_PARENT) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let (mut found, mut next) = (Vec::new(), vec![id]);
    while let Some(parent) = next.pop() {
        let parent = parent.as_u128();
        for entry in by_parent.range((parent, 0)..=(parent, u128::MAX))? {
            let child = Uuid::from_u128(entry?.0.value().1);
            found.push(child);
            next.push(child);
        }
    }
    Ok(found)
}

pub(crate) fn forget(txn: &WriteTransaction, id: Uuid, updated_ms: u64) -> Result<(), Fault> {
    let as_it_was = match txn.open_table(SESSIONS)?.get(id.as_u128())? {
        Some(document) => {
            let now: SessionRecord = parse("session", id.as_u128(), document.value())?;
            now.updated_ms == updated_ms
        }
        None => false,
    };
    if !as_it_was || is_spoken_in(txn, id)? {
        return Ok(());
    }
    delete(txn, id.as_u128())
}

/// Whether an action of this session has not come to its end.
fn is_spoken_in(txn: &WriteTransaction, session: Uuid) -> Result<bool, Fault> {
    let session = session.as_u128();
    let by_state = txn.open_table(ACTIONS_BY_STATE)?;
    for entry in txn
        .open_table(ACTIONS_BY_SESSION)?
        .range((session, 0)..=(session, u128::MAX))?
        .rev()
    {
        let action = entry?.0.value().1;
        for state in OPEN_STATES {
            if by_state.get((state_code(state), action))?.is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
