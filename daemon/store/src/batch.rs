//! What is written: a list of typed changes that happen together or not at all.

use paw_policy::State;
use redb::{ReadableTable as _, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    error::{Fault, StoreError},
    grant::{self, GrantRecord},
    job::{self, JobRecord, RunRecord},
    outage::{self, OutageRecord, Outlet},
    proof::{self, ProofRecord},
    record::{ActionRecord, SessionRecord, TurnRecord},
    schema::{
        ACTIONS, ACTIONS_BY_SESSION, ACTIONS_BY_STATE, OPEN_STATES, SESSIONS, SESSIONS_BY_OWNER,
        TURNS, state_code,
    },
    spent::{self, Account, Sum},
};

/// The most changes in one batch.
pub const MAX_BATCH: usize = 1000;

/// The longest document of one record, in bytes.
pub const MAX_RECORD: usize = 1024 * 1024;

/// Changes that happen together or not at all.
#[derive(Debug, Default)]
pub struct Batch(Vec<Change>);

#[derive(Debug)]
enum Change {
    PutAction {
        id: u128,
        state: State,
        session: Option<u128>,
        document: Vec<u8>,
    },
    PutSession {
        id: u128,
        owner: u32,
        document: Vec<u8>,
    },
    AppendTurn {
        session: u128,
        seq: u64,
        document: Vec<u8>,
    },
    DeleteSession {
        id: u128,
    },
    PutProof {
        runtime: String,
        document: Vec<u8>,
    },
    PutOutage {
        outlet: Outlet,
        document: Vec<u8>,
    },
    RemoveOutage(Outlet),
    PutGrant {
        id: u128,
        document: Vec<u8>,
    },
    RemoveGrant(u128),
    PutJob {
        id: u128,
        document: Vec<u8>,
    },
    RemoveJob {
        id: u128,
    },
    PutRun {
        job: u128,
        seq: u64,
        document: Vec<u8>,
    },
    AddSpent {
        account: Account,
        sum: Sum,
    },
    ForgetSpent {
        budget: String,
        before_ms: u64,
    },
}

impl Batch {
    /// A batch without changes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores this action, in place of an earlier record with the same id.
    ///
    /// # Errors
    /// When the record is too long, its id is not of version 7, its session is not an id, or the batch is full.
    pub fn put_action(&mut self, action: &ActionRecord) -> Result<&mut Self, StoreError> {
        let session = match &action.plan.session {
            None => None,
            Some(text) => match text.parse::<Uuid>() {
                Ok(id) => Some(id.as_u128()),
                Err(_) => {
                    return Err(refused(format!(
                        "action {}: its session {text:?} is not an id",
                        action.id
                    )));
                }
            },
        };
        let document = document("action", action.id, action)?;
        self.add(Change::PutAction {
            id: ordered("action", action.id)?,
            state: action.state,
            session,
            document,
        })
    }

    /// Stores this session, in place of an earlier record with the same id.
    ///
    /// # Errors
    /// When the record is too long, its id is not of version 7, or the batch is full.
    pub fn put_session(&mut self, session: &SessionRecord) -> Result<&mut Self, StoreError> {
        let document = document("session", session.id, session)?;
        self.add(Change::PutSession {
            id: ordered("session", session.id)?,
            owner: session.owner_uid,
            document,
        })
    }

    /// Adds this turn at the end of its session, which must exist. Its `seq` must be the next one: 0 in a new session.
    ///
    /// # Errors
    /// When the record is too long or the batch is full.
    pub fn append_turn(&mut self, turn: &TurnRecord) -> Result<&mut Self, StoreError> {
        let document = document("turn of session", turn.session, turn)?;
        self.add(Change::AppendTurn {
            session: turn.session.as_u128(),
            seq: turn.seq,
            document,
        })
    }

    /// Removes a session and its turns; its actions stay. A session that is not there is none to remove.
    ///
    /// # Errors
    /// When the batch is full.
    pub fn delete_session(&mut self, id: Uuid) -> Result<&mut Self, StoreError> {
        self.add(Change::DeleteSession { id: id.as_u128() })
    }

    /// Stores what probes saw of a runtime, in place of what they saw before.
    ///
    /// # Errors
    /// When the record is too long or the batch is full.
    pub fn put_proof(&mut self, proof: &ProofRecord) -> Result<&mut Self, StoreError> {
        let document = document("proof", Uuid::nil(), proof)?;
        self.add(Change::PutProof {
            runtime: proof.runtime.clone(),
            document,
        })
    }

    /// Stores what is known of an outage, in place of what was known before.
    ///
    /// # Errors
    /// When the record is too long or the batch is full.
    pub fn put_outage(&mut self, record: &OutageRecord) -> Result<&mut Self, StoreError> {
        let document = document("outage", Uuid::nil(), record)?;
        self.add(Change::PutOutage {
            outlet: record.outlet.clone(),
            document,
        })
    }

    /// Removes an outage that is over. One that is not there is none to remove.
    ///
    /// # Errors
    /// When the batch is full.
    pub fn remove_outage(&mut self, outlet: &Outlet) -> Result<&mut Self, StoreError> {
        self.add(Change::RemoveOutage(outlet.clone()))
    }

    /// Stores a grant.
    ///
    /// # Errors
    /// When the record is too long, its id is not of version 7, or the batch is full.
    pub fn put_grant(&mut self, grant: &GrantRecord) -> Result<&mut Self, StoreError> {
        let document = document("grant", grant.id, grant)?;
        self.add(Change::PutGrant {
            id: ordered("grant", grant.id)?,
            document,
        })
    }

    /// Removes a grant. One that is not there is none to remove.
    ///
    /// # Errors
    /// When the batch is full.
    pub fn remove_grant(&mut self, id: Uuid) -> Result<&mut Self, StoreError> {
        self.add(Change::RemoveGrant(id.as_u128()))
    }

    /// Stores this job, in place of an earlier record with the same id.
    ///
    /// # Errors
    /// When the record is too long, its id is not of version 7, or the batch is full.
    pub fn put_job(&mut self, job: &JobRecord) -> Result<&mut Self, StoreError> {
        let document = document("job", job.id, job)?;
        self.add(Change::PutJob {
            id: ordered("job", job.id)?,
            document,
        })
    }

    /// Removes a job and its runs; what they did stays. A job that is not there is none to remove.
    ///
    /// # Errors
    /// When the batch is full.
    pub fn remove_job(&mut self, id: Uuid) -> Result<&mut Self, StoreError> {
        self.add(Change::RemoveJob { id: id.as_u128() })
    }

    /// Stores this run, in place of an earlier record with the same number. Of each job the newest [`RUNS_KEPT`] are kept, and of
    /// one that is not there any more none.
    ///
    /// # Errors
    /// When the record is too long or the batch is full.
    ///
    /// [`RUNS_KEPT`]: crate::RUNS_KEPT
    pub fn put_run(&mut self, run: &RunRecord) -> Result<&mut Self, StoreError> {
        let document = document("run of job", run.job, run)?;
        self.add(Change::PutRun {
            job: run.job.as_u128(),
            seq: run.seq,
            document,
        })
    }

    /// Adds to what was spent of an account.
    ///
    /// # Errors
    /// When the batch is full.
    pub fn add_spent(&mut self, account: &Account, sum: Sum) -> Result<&mut Self, StoreError> {
        self.add(Change::AddSpent {
            account: account.clone(),
            sum,
        })
    }

    /// Removes what was spent of a budget in times that began before this one, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the batch is full.
    pub fn forget_spent(&mut self, budget: &str, before_ms: u64) -> Result<&mut Self, StoreError> {
        self.add(Change::ForgetSpent {
            budget: budget.to_owned(),
            before_ms,
        })
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many changes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn add(&mut self, change: Change) -> Result<&mut Self, StoreError> {
        if self.0.len() >= MAX_BATCH {
            return Err(refused(format!("more than {MAX_BATCH} changes at once")));
        }
        self.0.push(change);
        Ok(self)
    }

    /// Makes the changes in this transaction, in their order.
    pub(crate) fn apply(&self, txn: &WriteTransaction) -> Result<(), Fault> {
        for change in &self.0 {
            match change {
                Change::PutAction {
                    id,
                    state,
                    session,
                    document,
                } => put_action(txn, *id, *state, *session, document)?,
                Change::PutSession {
                    id,
                    owner,
                    document,
                } => put_session(txn, *id, *owner, document)?,
                Change::AppendTurn {
                    session,
                    seq,
                    document,
                } => append_turn(txn, *session, *seq, document)?,
                Change::DeleteSession { id } => delete_session(txn, *id)?,
                Change::PutProof { runtime, document } => proof::put(txn, runtime, document)?,
                Change::PutOutage { outlet, document } => outage::put(txn, outlet, document)?,
                Change::RemoveOutage(outlet) => outage::remove(txn, outlet)?,
                Change::PutGrant { id, document } => grant::put(txn, *id, document)?,
                Change::RemoveGrant(id) => grant::remove(txn, *id)?,
                Change::PutJob { id, document } => job::put(txn, *id, document)?,
                Change::RemoveJob { id } => job::remove(txn, *id)?,
                Change::PutRun { job, seq, document } => job::put_run(txn, *job, *seq, document)?,
                Change::AddSpent { account, sum } => spent::add(txn, account, *sum)?,
                Change::ForgetSpent { budget, before_ms } => {
                    spent::forget(txn, budget, *before_ms)?;
                }
            }
        }
        Ok(())
    }
}

fn put_action(
    txn: &WriteTransaction,
    id: u128,
    state: State,
    session: Option<u128>,
    document: &[u8],
) -> Result<(), Fault> {
    remove_action(txn, id)?;
    txn.open_table(ACTIONS)?.insert(id, document)?;
    txn.open_table(ACTIONS_BY_STATE)?
        .insert((state_code(state), id), ())?;
    if let Some(session) = session {
        txn.open_table(ACTIONS_BY_SESSION)?
            .insert((session, id), ())?;
    }
    Ok(())
}

/// Removes an action and its index entries, which are found through the record that is stored.
fn remove_action(txn: &WriteTransaction, id: u128) -> Result<(), Fault> {
    let mut actions = txn.open_table(ACTIONS)?;
    let Some(old) = actions.remove(id)? else {
        return Ok(());
    };
    let old: ActionRecord = parse("action", id, old.value())?;
    txn.open_table(ACTIONS_BY_STATE)?
        .remove((state_code(old.state), id))?;
    if let Some(session) = old.plan.session.and_then(|text| text.parse::<Uuid>().ok()) {
        txn.open_table(ACTIONS_BY_SESSION)?
            .remove((session.as_u128(), id))?;
    }
    Ok(())
}

fn put_session(txn: &WriteTransaction, id: u128, owner: u32, document: &[u8]) -> Result<(), Fault> {
    let mut by_owner = txn.open_table(SESSIONS_BY_OWNER)?;
    if let Some(old) = txn.open_table(SESSIONS)?.insert(id, document)? {
        let old: SessionRecord = parse("session", id, old.value())?;
        by_owner.remove((old.owner_uid, id))?;
    }
    by_owner.insert((owner, id), ())?;
    Ok(())
}

fn append_turn(
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
    let next = match turns.range((session, 0)..=(session, u64::MAX))?.next_back() {
        Some(last) => last?.0.value().1.saturating_add(1),
        None => 0,
    };
    if seq != next {
        return Err(Fault::Refused(format!(
            "turn {seq} of session {name}: the next one is {next}"
        )));
    }
    turns.insert((session, seq), document)?;
    Ok(())
}

fn delete_session(txn: &WriteTransaction, id: u128) -> Result<(), Fault> {
    let mut sessions = txn.open_table(SESSIONS)?;
    let Some(old) = sessions.remove(id)? else {
        return Ok(());
    };
    let old: SessionRecord = parse("session", id, old.value())?;
    txn.open_table(SESSIONS_BY_OWNER)?
        .remove((old.owner_uid, id))?;
    txn.open_table(TURNS)?
        .retain_in((id, 0)..=(id, u64::MAX), |_, _| false)?;
    Ok(())
}

/// Removes at most `limit` finished actions, oldest first, until only `keep` of them are left; returns how many it removed.
pub(crate) fn prune(txn: &WriteTransaction, keep: u64, limit: usize) -> Result<usize, Fault> {
    let victims: Vec<u128> = {
        let by_state = txn.open_table(ACTIONS_BY_STATE)?;
        let mut open = 0;
        for state in OPEN_STATES {
            let code = state_code(state);
            open += by_state.range((code, 0)..=(code, u128::MAX))?.count() as u64;
        }
        let actions = txn.open_table(ACTIONS)?;
        let finished = redb::ReadableTableMetadata::len(&actions)?.saturating_sub(open);
        let surplus = usize::try_from(finished.saturating_sub(keep))
            .unwrap_or(usize::MAX)
            .min(limit);
        let mut victims = Vec::with_capacity(surplus);
        let mut oldest = actions.iter()?;
        while victims.len() < surplus {
            let Some(entry) = oldest.next() else { break };
            let id = entry?.0.value();
            let is_open = OPEN_STATES
                .iter()
                .map(|state| by_state.get((state_code(*state), id)))
                .try_fold(false, |any, found| {
                    found.map(|found| any || found.is_some())
                })?;
            if !is_open {
                victims.push(id);
            }
        }
        victims
    };
    for id in &victims {
        remove_action(txn, *id)?;
    }
    Ok(victims.len())
}

/// Reads a stored document.
pub(crate) fn parse<T: DeserializeOwned>(what: &str, id: u128, bytes: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(bytes).map_err(|error| {
        Fault::Document(format!(
            "{what} {} cannot be read: {error}",
            Uuid::from_u128(id)
        ))
    })
}

fn document(what: &str, id: Uuid, record: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    let bytes = serde_json::to_vec(record).map_err(|error| {
        refused(format!(
            "{what} {id}: it cannot be written as JSON: {error}"
        ))
    })?;
    if bytes.len() > MAX_RECORD {
        return Err(refused(format!(
            "{what} {id}: it has {} bytes and at most {MAX_RECORD} are allowed",
            bytes.len()
        )));
    }
    Ok(bytes)
}

fn ordered(what: &str, id: Uuid) -> Result<u128, StoreError> {
    if id.get_version_num() == 7 {
        Ok(id.as_u128())
    } else {
        Err(refused(format!("{what} {id}: its id is not of version 7")))
    }
}

const fn refused(what: String) -> StoreError {
    StoreError::Refused { what }
}
