//! What is written: a list of typed changes that happen together or not at all.

use std::collections::HashMap;

use paw_policy::{State, plan::is_deeper_than};
use redb::WriteTransaction;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    error::{Fault, StoreError},
    grant::{self, GrantRecord},
    job::{self, JobRecord, RunRecord},
    outage::{self, OutageRecord, Outlet},
    placed::Placed,
    proof::{self, ProofRecord},
    record::{ActionRecord, SessionRecord, TurnRecord},
    schema::{ACTIONS, ACTIONS_BY_SESSION, ACTIONS_BY_STATE, state_code},
    session,
    spent::{self, Account, Sum},
    summary::{self, SummaryRecord},
};

/// The most changes in one batch.
pub const MAX_BATCH: usize = 1000;

/// The longest document of one record, in bytes.
pub const MAX_RECORD: usize = 1024 * 1024;

/// How deep arrays and objects may be nested in one document. Whoever reads it stops at 128.
const MAX_DEPTH: usize = 100;

/// Changes that happen together or not at all.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Batch(Vec<Change>);

/// One change. Its form is that of the notes beside the store: names are added, never changed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Change {
    PutAction {
        id: Uuid,
        state: State,
        session: Option<Uuid>,
        document: Box<RawValue>,
    },
    PutSession {
        id: Uuid,
        owner: u32,
        document: Box<RawValue>,
    },
    AppendTurn {
        session: Uuid,
        seq: u64,
        document: Box<RawValue>,
    },
    Say {
        session: Uuid,
        turns: Vec<TurnRecord>,
    },
    DeleteSession {
        id: Uuid,
    },
    ForgetSession {
        id: Uuid,
        updated_ms: u64,
    },
    PutProof {
        runtime: String,
        document: Box<RawValue>,
    },
    PutOutage {
        outlet: Outlet,
        document: Box<RawValue>,
    },
    RemoveOutage(Outlet),
    PutGrant {
        id: Uuid,
        document: Box<RawValue>,
    },
    RemoveGrant(Uuid),
    PutJob {
        id: Uuid,
        document: Box<RawValue>,
    },
    RemoveJob(Uuid),
    PutRun {
        job: Uuid,
        seq: u64,
        document: Box<RawValue>,
    },
    AddSpent {
        account: Account,
        sum: Sum,
    },
    ForgetSpent {
        budget: String,
        before_ms: u64,
    },
    ForgetPart {
        part: String,
    },
    Summarise(SummaryRecord),
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
                Ok(id) => Some(id),
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
            session: turn.session,
            seq: turn.seq,
            document,
        })
    }

    /// Adds these turns at the end of a session, at whatever place that is by then; the session says so, and takes on their taint. A session
    /// that is not there any more takes none.
    ///
    /// # Errors
    /// When a record is too long or the batch is full.
    pub fn say(&mut self, session: Uuid, turns: Vec<TurnRecord>) -> Result<&mut Self, StoreError> {
        for turn in &turns {
            document("turn of session", session, turn)?;
        }
        self.add(Change::Say { session, turns })
    }

    /// Removes a session and its turns; its actions stay. A session that is not there is none to remove.
    ///
    /// # Errors
    /// When the batch is full.
    pub fn delete_session(&mut self, id: Uuid) -> Result<&mut Self, StoreError> {
        self.add(Change::DeleteSession { id })
    }

    /// Removes a session and its turns, if nothing was said in it since then and nothing is under way in it; its actions stay.
    ///
    /// # Errors
    /// When the batch is full.
    pub fn forget_session(&mut self, id: Uuid, updated_ms: u64) -> Result<&mut Self, StoreError> {
        self.add(Change::ForgetSession { id, updated_ms })
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
        self.add(Change::RemoveGrant(id))
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
        self.add(Change::RemoveJob(id))
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
            job: run.job,
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

    /// Removes what was spent of every account that is split by this part, among others: `session=ID`.
    ///
    /// # Errors
    /// When the batch is full.
    pub fn forget_part(&mut self, part: &str) -> Result<&mut Self, StoreError> {
        self.add(Change::ForgetPart {
            part: part.to_owned(),
        })
    }

    /// Keeps what the first turns of a session come to, in place of a summary of fewer of them. A session that is not there any more takes none.
    ///
    /// # Errors
    /// When the record is too long or the batch is full.
    pub fn summarise(&mut self, summary: SummaryRecord) -> Result<&mut Self, StoreError> {
        document("summary of session", summary.session, &summary)?;
        self.add(Change::Summarise(summary))
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

    /// Whether it may contradict what is stored when its turn comes; it is not noted then, because a note cannot be refused later.
    pub(crate) fn may_be_refused(&self) -> bool {
        self.0
            .iter()
            .any(|change| matches!(change, Change::AppendTurn { .. }))
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
        self.0.iter().try_for_each(|change| change.apply(txn))
    }
}

/// Makes the changes of all these in this transaction, in their order; but of each action only what it is in the end.
pub(crate) fn apply_all(txn: &WriteTransaction, batches: &[&Batch]) -> Result<(), Fault> {
    let changes = || batches.iter().flat_map(|batch| &batch.0).enumerate();
    let mut newest = HashMap::new();
    for (place, change) in changes() {
        if let Change::PutAction { id, .. } = change {
            newest.insert(*id, place);
        }
    }
    for (place, change) in changes() {
        match change {
            Change::PutAction { id, .. } if newest[id] != place => {}
            change => change.apply(txn)?,
        }
    }
    Ok(())
}

impl Change {
    fn apply(&self, txn: &WriteTransaction) -> Result<(), Fault> {
        match self {
            Self::PutAction {
                id,
                state,
                session,
                document,
            } => put_action(txn, *id, *state, *session, document),
            Self::PutSession {
                id,
                owner,
                document,
            } => session::put(txn, id.as_u128(), *owner, document.get().as_bytes()),
            Self::AppendTurn {
                session,
                seq,
                document,
            } => session::append_turn(txn, session.as_u128(), *seq, document.get().as_bytes()),
            Self::Say { session, turns } => session::say(txn, session.as_u128(), turns),
            Self::DeleteSession { id } => session::delete(txn, id.as_u128()),
            Self::ForgetSession { id, updated_ms } => session::forget(txn, *id, *updated_ms),
            Self::PutProof { runtime, document } => {
                proof::put(txn, runtime, document.get().as_bytes())
            }
            Self::PutOutage { outlet, document } => {
                outage::put(txn, outlet, document.get().as_bytes())
            }
            Self::RemoveOutage(outlet) => outage::remove(txn, outlet),
            Self::PutGrant { id, document } => {
                grant::put(txn, id.as_u128(), document.get().as_bytes())
            }
            Self::RemoveGrant(id) => grant::remove(txn, id.as_u128()),
            Self::PutJob { id, document } => job::put(txn, id.as_u128(), document.get().as_bytes()),
            Self::RemoveJob(id) => job::remove(txn, id.as_u128()),
            Self::PutRun { job, seq, document } => {
                job::put_run(txn, job.as_u128(), *seq, document.get().as_bytes())
            }
            Self::AddSpent { account, sum } => spent::add(txn, account, *sum),
            Self::ForgetSpent { budget, before_ms } => spent::forget(txn, budget, *before_ms),
            Self::ForgetPart { part } => spent::forget_part(txn, part),
            Self::Summarise(record) => summary::put(txn, record),
        }
    }
}

fn put_action(
    txn: &WriteTransaction,
    id: Uuid,
    state: State,
    session: Option<Uuid>,
    document: &RawValue,
) -> Result<(), Fault> {
    let id = id.as_u128();
    remove_action(txn, id)?;
    txn.open_table(ACTIONS)?
        .insert(id, document.get().as_bytes())?;
    txn.open_table(ACTIONS_BY_STATE)?
        .insert((state_code(state), id), ())?;
    if let Some(session) = session {
        txn.open_table(ACTIONS_BY_SESSION)?
            .insert((session.as_u128(), id), ())?;
    }
    Ok(())
}

/// Removes an action and its index entries, which are found through the record that is stored.
pub(crate) fn remove_action(txn: &WriteTransaction, id: u128) -> Result<(), Fault> {
    let mut actions = txn.open_table(ACTIONS)?;
    let Some(old) = actions.remove(id)? else {
        return Ok(());
    };
    let old: Placed<'_> = serde_json::from_slice(old.value()).map_err(unreadable("action", id))?;
    txn.open_table(ACTIONS_BY_STATE)?
        .remove((state_code(old.state), id))?;
    if let Some(session) = old.session() {
        txn.open_table(ACTIONS_BY_SESSION)?.remove((session, id))?;
    }
    Ok(())
}

/// Reads a stored document.
pub(crate) fn parse<T: DeserializeOwned>(what: &str, id: u128, bytes: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(bytes).map_err(unreadable(what, id))
}

fn unreadable(what: &str, id: u128) -> impl FnOnce(serde_json::Error) -> Fault {
    move |error| {
        Fault::Record(format!(
            "{what} {} cannot be read: {error}",
            Uuid::from_u128(id)
        ))
    }
}

pub(crate) fn written(record: &impl Serialize) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(record)
        .map_err(|error| Fault::Document(format!("a record cannot be written as JSON: {error}")))
}

fn document(what: &str, id: Uuid, record: &impl Serialize) -> Result<Box<RawValue>, StoreError> {
    let document = serde_json::value::to_raw_value(record).map_err(|error| {
        refused(format!(
            "{what} {id}: it cannot be written as JSON: {error}"
        ))
    })?;
    if document.get().len() > MAX_RECORD {
        return Err(refused(format!(
            "{what} {id}: it has {} bytes and at most {MAX_RECORD} are allowed",
            document.get().len()
        )));
    }
    // What is nested deeper could not be read again.
    if is_deeper_than(MAX_DEPTH, document.get().as_bytes()) {
        return Err(refused(format!(
            "{what} {id}: it is nested deeper than {MAX_DEPTH} arrays and objects"
        )));
    }
    Ok(document)
}

fn ordered(what: &str, id: Uuid) -> Result<Uuid, StoreError> {
    if id.get_version_num() == 7 {
        Ok(id)
    } else {
        Err(refused(format!("{what} {id}: its id is not of version 7")))
    }
}

const fn refused(what: String) -> StoreError {
    StoreError::Refused { what }
}
