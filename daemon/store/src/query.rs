//! What is read: records by id, and pages of them, newest first.

use std::ops::RangeInclusive;

use paw_policy::{Kind, Name, State};
use redb::{ReadTransaction, ReadableTable as _, ReadableTableMetadata as _};
use uuid::Uuid;

use crate::{
    batch::parse,
    error::Fault,
    record::{ActionRecord, SessionRecord, TurnRecord},
    schema::{
        ACTIONS, ACTIONS_BY_SESSION, ACTIONS_BY_STATE, META, SESSIONS, SESSIONS_BY_OWNER, TURNS,
        meta, state_code,
    },
};

/// The most records in one page; a larger limit means this one.
pub const MAX_PAGE: usize = 1000;

/// The most records looked at for one page. A filter that hits seldom gives shorter pages instead of long waits.
pub const MAX_SCAN: usize = 10_000;

/// Which part of a list is wanted. The bounds are ids and are not part of the page themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Only what is older than this.
    pub before: Option<Uuid>,
    /// Only what is newer than this.
    pub after: Option<Uuid>,
    /// At most so many, and never more than [`MAX_PAGE`].
    pub limit: usize,
}

impl Page {
    /// The newest ones, at most so many.
    #[must_use]
    pub const fn newest(limit: usize) -> Self {
        Self {
            before: None,
            after: None,
            limit,
        }
    }

    fn limit(&self) -> usize {
        self.limit.min(MAX_PAGE)
    }

    /// The ids of this page; `None` when there can be none.
    fn ids(&self) -> Option<RangeInclusive<u128>> {
        let first = self
            .after
            .map_or(Some(0), |id| id.as_u128().checked_add(1))?;
        let last = self
            .before
            .map_or(Some(u128::MAX), |id| id.as_u128().checked_sub(1))?;
        (first <= last).then_some(first..=last)
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed<T> {
    /// The records, newest first.
    pub records: Vec<T>,
    /// What to give as [`Page::before`] for the next page; `None` when there is none.
    pub next: Option<Uuid>,
}

/// Which actions are wanted; an empty filter wants all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActionFilter {
    /// In one of these states; empty: in any.
    pub states: Vec<State>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// Of this session.
    pub session: Option<Uuid>,
    /// Asked for by this user.
    pub uid: Option<u32>,
    /// On behalf of this agent.
    pub agent: Option<Name>,
}

impl ActionFilter {
    fn wants(&self, action: &ActionRecord) -> bool {
        (self.states.is_empty() || self.states.contains(&action.state))
            && self.kind.is_none_or(|kind| kind == action.kind)
            && self.uid.is_none_or(|uid| uid == action.requested_by.uid)
            && self
                .agent
                .as_ref()
                .is_none_or(|agent| *agent == action.plan.agent)
            && self.session.is_none_or(|session| {
                action
                    .plan
                    .session
                    .as_deref()
                    .and_then(|text| text.parse().ok())
                    == Some(session)
            })
    }
}

/// How many records there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Actions in any state.
    pub actions: u64,
    /// Accepted and not yet judged to the end.
    pub queued: u64,
    /// Waiting for a person.
    pub waiting_approval: u64,
    /// Allowed and waiting for a place.
    pub approved: u64,
    /// Being done.
    pub executing: u64,
    /// Sessions.
    pub sessions: u64,
    /// Turns of all sessions.
    pub turns: u64,
    /// Commits since the file was made; it never becomes smaller.
    pub generation: u64,
}

pub(crate) fn action(txn: &ReadTransaction, id: Uuid) -> Result<Option<ActionRecord>, Fault> {
    let Some(document) = txn.open_table(ACTIONS)?.get(id.as_u128())? else {
        return Ok(None);
    };
    parse("action", id.as_u128(), document.value()).map(Some)
}

/// Those of these actions that are there, in this order, until their documents have more bytes together than these; of the first one that
/// has no room any more on, none.
pub(crate) fn actions_named(
    txn: &ReadTransaction,
    ids: &[Uuid],
    mut room: usize,
) -> Result<Vec<ActionRecord>, Fault> {
    let actions = txn.open_table(ACTIONS)?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let Some(document) = actions.get(id.as_u128())? else {
            continue;
        };
        let Some(left) = room.checked_sub(document.value().len()) else {
            break;
        };
        room = left;
        found.push(parse("action", id.as_u128(), document.value())?);
    }
    Ok(found)
}

pub(crate) fn session(txn: &ReadTransaction, id: Uuid) -> Result<Option<SessionRecord>, Fault> {
    let Some(document) = txn.open_table(SESSIONS)?.get(id.as_u128())? else {
        return Ok(None);
    };
    parse("session", id.as_u128(), document.value()).map(Some)
}

pub(crate) fn actions(
    txn: &ReadTransaction,
    filter: &ActionFilter,
    page: &Page,
) -> Result<Listed<ActionRecord>, Fault> {
    let Some(ids) = page.ids() else {
        return Ok(Listed {
            records: Vec::new(),
            next: None,
        });
    };
    let documents = txn.open_table(ACTIONS)?;
    let read = |id: u128| -> Result<ActionRecord, Fault> {
        let document = documents.get(id)?.ok_or_else(|| {
            Fault::Document(format!(
                "action {} is in an index only",
                Uuid::from_u128(id)
            ))
        })?;
        parse("action", id, document.value())
    };
    let wanted = |action: &ActionRecord| filter.wants(action);
    if let Some(session) = filter.session {
        let session = session.as_u128();
        let index = txn.open_table(ACTIONS_BY_SESSION)?;
        let newest = index
            .range((session, *ids.start())..=(session, *ids.end()))?
            .rev();
        gather(
            newest.map(|entry| Ok(entry?.0.value().1)),
            read,
            wanted,
            page.limit(),
        )
    } else if let [state] = filter.states[..] {
        let code = state_code(state);
        let index = txn.open_table(ACTIONS_BY_STATE)?;
        let newest = index
            .range((code, *ids.start())..=(code, *ids.end()))?
            .rev();
        gather(
            newest.map(|entry| Ok(entry?.0.value().1)),
            read,
            wanted,
            page.limit(),
        )
    } else {
        let newest = documents.range(ids)?.rev();
        gather(
            newest.map(|entry| Ok(entry?.0.value())),
            read,
            wanted,
            page.limit(),
        )
    }
}

/// The actions that stand in one of these states, oldest first.
pub(crate) fn ids_in(txn: &ReadTransaction, states: &[State]) -> Result<Vec<Uuid>, Fault> {
    let index = txn.open_table(ACTIONS_BY_STATE)?;
    let mut ids = Vec::new();
    for code in states.iter().copied().map(state_code) {
        for entry in index.range((code, 0)..=(code, u128::MAX))? {
            ids.push(Uuid::from_u128(entry?.0.value().1));
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

pub(crate) fn sessions(
    txn: &ReadTransaction,
    (owner, all): (Option<u32>, bool),
    page: &Page,
) -> Result<Listed<SessionRecord>, Fault> {
    let Some(ids) = page.ids() else {
        return Ok(Listed {
            records: Vec::new(),
            next: None,
        });
    };
    let documents = txn.open_table(SESSIONS)?;
    let read = |id: u128| -> Result<SessionRecord, Fault> {
        let document = documents.get(id)?.ok_or_else(|| {
            Fault::Document(format!(
                "session {} is in an index only",
                Uuid::from_u128(id)
            ))
        })?;
        parse("session", id, document.value())
    };
    let wanted = |session: &SessionRecord| all || session.parent.is_none();
    match owner {
        Some(owner) => {
            let index = txn.open_table(SESSIONS_BY_OWNER)?;
            let newest = index
                .range((owner, *ids.start())..=(owner, *ids.end()))?
                .rev();
            gather(
                newest.map(|entry| Ok(entry?.0.value().1)),
                read,
                wanted,
                page.limit(),
            )
        }
        None => {
            let newest = documents.range(ids)?.rev();
            gather(
                newest.map(|entry| Ok(entry?.0.value())),
                read,
                wanted,
                page.limit(),
            )
        }
    }
}

pub(crate) fn turns(
    txn: &ReadTransaction,
    session: Uuid,
    from: u64,
    limit: usize,
) -> Result<Vec<TurnRecord>, Fault> {
    let session = session.as_u128();
    let table = txn.open_table(TURNS)?;
    let found = table
        .range((session, from)..=(session, u64::MAX))?
        .take(limit.min(MAX_PAGE));
    found
        .map(|entry| parse("turn of session", session, entry?.1.value()))
        .collect()
}

pub(crate) fn counts(txn: &ReadTransaction) -> Result<Counts, Fault> {
    let index = txn.open_table(ACTIONS_BY_STATE)?;
    let within = |state: State| -> Result<u64, Fault> {
        let code = state_code(state);
        Ok(index.range((code, 0)..=(code, u128::MAX))?.count() as u64)
    };
    Ok(Counts {
        actions: txn.open_table(ACTIONS)?.len()?,
        queued: within(State::Queued)?,
        waiting_approval: within(State::WaitingApproval)?,
        approved: within(State::Approved)?,
        executing: within(State::Executing)?,
        sessions: txn.open_table(SESSIONS)?.len()?,
        turns: txn.open_table(TURNS)?.len()?,
        generation: meta(txn)?.generation,
    })
}

/// Reads every record and compares every index with what is there; says the first thing that does not agree.
pub(crate) fn check(txn: &ReadTransaction) -> Result<(), Fault> {
    let wrong = |what: String| Err(Fault::Document(what));
    txn.open_table(META)?;
    let by_state = txn.open_table(ACTIONS_BY_STATE)?;
    let by_session = txn.open_table(ACTIONS_BY_SESSION)?;
    let mut in_session = 0;
    let actions = txn.open_table(ACTIONS)?;
    for entry in actions.iter()? {
        let (id, document) = entry?;
        let (id, name) = (id.value(), Uuid::from_u128(id.value()));
        let action: ActionRecord = parse("action", id, document.value())?;
        if action.id != name || by_state.get((state_code(action.state), id))?.is_none() {
            return wrong(format!("action {name} is not in the index of its state"));
        }
        if let Some(session) = action
            .plan
            .session
            .as_deref()
            .and_then(|text| text.parse::<Uuid>().ok())
        {
            in_session += 1;
            if by_session.get((session.as_u128(), id))?.is_none() {
                return wrong(format!("action {name} is not in the index of its session"));
            }
        }
    }
    if by_state.len()? != actions.len()? || by_session.len()? != in_session {
        return wrong("an index of actions names some that are not there".into());
    }
    let by_owner = txn.open_table(SESSIONS_BY_OWNER)?;
    let sessions = txn.open_table(SESSIONS)?;
    for entry in sessions.iter()? {
        let (id, document) = entry?;
        let session: SessionRecord = parse("session", id.value(), document.value())?;
        if session.id.as_u128() != id.value()
            || by_owner.get((session.owner_uid, id.value()))?.is_none()
        {
            return wrong(format!(
                "session {} is not in the index of its owner",
                session.id
            ));
        }
    }
    if by_owner.len()? != sessions.len()? {
        return wrong("the index of sessions names some that are not there".into());
    }
    let mut last: Option<(u128, u64)> = None;
    for entry in txn.open_table(TURNS)?.iter()? {
        let (key, document) = entry?;
        let (session, seq) = key.value();
        let turn: TurnRecord = parse("turn of session", session, document.value())?;
        let expected = last
            .filter(|(before, _)| *before == session)
            .map_or(0, |(_, seq)| seq + 1);
        if seq != expected
            || turn.seq != seq
            || turn.session.as_u128() != session
            || sessions.get(session)?.is_none()
        {
            return wrong(format!(
                "turn {seq} of session {} is out of place",
                Uuid::from_u128(session)
            ));
        }
        last = Some((session, seq));
    }
    Ok(())
}

/// Takes records in the order of these ids until the page is full or enough were looked at.
fn gather<T>(
    ids: impl Iterator<Item = Result<u128, redb::StorageError>>,
    read: impl Fn(u128) -> Result<T, Fault>,
    wanted: impl Fn(&T) -> bool,
    limit: usize,
) -> Result<Listed<T>, Fault> {
    let mut records = Vec::new();
    let mut last = None;
    let mut ids = ids.peekable();
    for _ in 0..MAX_SCAN {
        if records.len() >= limit {
            break;
        }
        let Some(id) = ids.next().transpose()? else {
            break;
        };
        let record = read(id)?;
        if wanted(&record) {
            records.push(record);
        }
        last = Some(id);
    }
    let more = ids.peek().is_some();
    Ok(Listed {
        records,
        next: last.filter(|_| more).map(Uuid::from_u128),
    })
}
