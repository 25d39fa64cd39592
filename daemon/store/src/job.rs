//! What is to be done at set times, and what became of it: one document for each job and for each of its last runs.
//!
//! The tables are made when the first row is written, and a store without them has none.

use paw_policy::Name;
use redb::{
    ReadTransaction, ReadableTable as _, Table, TableDefinition, TableError, WriteTransaction,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{batch::parse, error::Fault, record::Caller};

/// Job id to its document.
const JOBS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("jobs");

/// Job id and number to the run's document.
const RUNS: TableDefinition<'_, (u128, u64), &[u8]> = TableDefinition::new("runs");

/// Runs that are kept of each job, the newest ones.
pub const RUNS_KEPT: u64 = 100;

/// Something that an agent is told at set times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its id, version 7.
    pub id: Uuid,
    /// What its owner calls it; no two of theirs have the same.
    pub name: Name,
    /// Whose it is, as they were when they made it.
    pub owner: Caller,
    /// Which agent is told.
    pub agent: Name,
    /// What it is told.
    pub text: String,
    /// When, as a crontab says it: minute, hour, day of the month, month, day of the week.
    pub cron: String,
    /// In which time zone, by its name in the IANA database.
    pub tz: String,
    /// Whether a run begins beside one that goes on.
    pub overlap: bool,
    /// Whether what was missed is made up for, by one run.
    pub catch_up: bool,
    /// When it was made.
    pub created_ms: u64,
    /// When it is next due; never, if none.
    pub next_ms: Option<u64>,
    /// How many runs there were, which is the number of the next one.
    pub runs: u64,
}

/// How a run came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// Its action completed.
    Ok,
    /// Its action did not.
    Failed,
    /// Its action had no time left.
    TimedOut,
    /// It was not begun.
    Skipped,
    /// pawd ended in the middle, and nobody knows how far it came.
    Unknown,
}

impl RunOutcome {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
        }
    }
}

/// One run of a job, from its claim to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Of which job.
    pub job: Uuid,
    /// Its number: the first is 0.
    pub seq: u64,
    /// When it was due; none of one that a person asked for.
    pub due_ms: Option<u64>,
    /// How many times it was due that it stands for, more than one where some were missed.
    pub times: u64,
    /// When it was claimed.
    pub at_ms: u64,
    /// Its action, if one was made.
    pub action: Option<Uuid>,
    /// How it came out; none while it goes on.
    pub outcome: Option<RunOutcome>,
    /// Why it came out like that, where that is not plain.
    pub note: Option<String>,
    /// When it ended.
    pub ended_ms: Option<u64>,
}

pub(crate) fn put(txn: &WriteTransaction, id: u128, document: &[u8]) -> Result<(), Fault> {
    txn.open_table(JOBS)?.insert(id, document)?;
    Ok(())
}

pub(crate) fn remove(txn: &WriteTransaction, id: u128) -> Result<(), Fault> {
    txn.open_table(JOBS)?.remove(id)?;
    let mut runs: Table<'_, (u128, u64), &[u8]> = txn.open_table(RUNS)?;
    runs.retain_in((id, 0)..=(id, u64::MAX), |_, _| false)?;
    Ok(())
}

/// Of a job that is not there any more, nothing is kept.
pub(crate) fn put_run(
    txn: &WriteTransaction,
    job: u128,
    seq: u64,
    document: &[u8],
) -> Result<(), Fault> {
    if txn.open_table(JOBS)?.get(job)?.is_none() {
        return Ok(());
    }
    let mut runs = txn.open_table(RUNS)?;
    runs.insert((job, seq), document)?;
    let first = seq.saturating_sub(RUNS_KEPT - 1);
    runs.retain_in((job, 0)..(job, first), |_, _| false)?;
    Ok(())
}

pub(crate) fn all(txn: &ReadTransaction) -> Result<Vec<JobRecord>, Fault> {
    let table = match txn.open_table(JOBS) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let read = |entry: Result<(redb::AccessGuard<'_, u128>, redb::AccessGuard<'_, &[u8]>), _>| {
        let (id, document) = entry?;
        parse("job", id.value(), document.value())
    };
    table.iter()?.map(read).collect()
}

/// The newest runs of a job, newest first, at most so many.
pub(crate) fn runs(txn: &ReadTransaction, job: Uuid, most: usize) -> Result<Vec<RunRecord>, Fault> {
    let table = match txn.open_table(RUNS) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let job = job.as_u128();
    let mut found = Vec::new();
    for entry in table.range((job, 0)..=(job, u64::MAX))?.rev().take(most) {
        found.push(parse("run of job", job, entry?.1.value())?);
    }
    Ok(found)
}
