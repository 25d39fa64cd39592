//! Jobs: what an agent is told at set times.
//!
//! A job is stored, and so is each run of it before it begins: whatever ends pawd in between, no run begins twice, and each one has
//! an outcome that a person can see.
//!
//! ```text
//! due ─► plan ─┬─► skipped: too late, or the run before it goes on
//!              └─► judged ─► claimed (durable) ─► submitted ─► ok | failed | timed_out
//!                                │ pawd ends
//!                                └─► its action is looked for at the next start: as it ended, or unknown
//! ```
//!
//! - [`schedule`]: when a job is due, and what is to be done about it; pure.
//! - [`keeper`]: the one task that owns all jobs.
//! - `outcome`: how a run came out; `notice`: whom that is told.
//!
//! A run is an action of kind `chat` like any other, in a conversation of its own. It is asked for in the name of the job's owner with the role
//! `user`, whatever role they have: nobody sits there who could answer for more.

pub mod keeper;
mod notice;
mod outcome;
pub mod schedule;

use std::time::Duration;

use paw_api::{Error, ErrorKind};
use paw_policy::Name;
use paw_store::{Caller, JobRecord, RunRecord};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use uuid::Uuid;

use crate::{intake::may_see, records::shorten};

/// Commands that may wait for the keeper.
const INBOX: usize = 64;

/// What a caller wants done at set times.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What it shall be called; numbered if not given.
    pub name: Option<Name>,
    /// When, as a crontab says it.
    pub cron: String,
    /// In which time zone.
    pub tz: String,
    /// Which agent is told; the default one if not given.
    pub agent: Option<String>,
    /// What.
    pub text: String,
    /// Whether a run begins beside one that goes on.
    pub overlap: bool,
    /// Whether what was missed is made up for.
    pub catch_up: bool,
}

/// What the keeper is asked.
#[derive(Debug)]
pub(crate) enum Command {
    Add {
        wanted: Wanted,
        by: Caller,
        reply: oneshot::Sender<Result<JobRecord, Error>>,
    },
    Remove {
        job: String,
        by: Caller,
        reply: oneshot::Sender<Result<JobRecord, Error>>,
    },
    Run {
        job: String,
        by: Caller,
        reply: oneshot::Sender<Result<RunRecord, Error>>,
    },
}

/// How long a caller hears nothing of what is to be stored; a run also waits for its records.
const CALLER_WAITS: Duration = Duration::from_secs(30);

/// The keeper's door.
#[derive(Debug, Clone)]
pub struct Jobs(mpsc::Sender<Command>);

impl Jobs {
    /// Makes a job; returns once it is durable.
    ///
    /// # Errors
    /// `invalid` for what is no schedule, `not_found` without such an agent, `conflict` for a name that is taken, `busy` when there are
    /// too many.
    pub async fn add(&self, wanted: Wanted, by: Caller) -> Result<JobRecord, Error> {
        self.ask(|reply| Command::Add { wanted, by, reply }).await
    }

    /// Removes a job and what is known of its runs. One that goes on is not cancelled.
    ///
    /// # Errors
    /// `not_found`, also for somebody else's.
    pub async fn remove(&self, job: String, by: Caller) -> Result<JobRecord, Error> {
        self.ask(|reply| Command::Remove { job, by, reply }).await
    }

    /// Begins a run now; returns once it is claimed.
    ///
    /// # Errors
    /// `not_found`, `conflict` when the run before it goes on and the job does not overlap, and what judging says.
    pub async fn run(&self, job: String, by: Caller) -> Result<RunRecord, Error> {
        self.ask(|reply| Command::Run { job, by, reply }).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let stopping = || {
            let hint = "try again when it is back";
            Error::new(ErrorKind::Unavailable, "pawd is stopping", hint).retry_after_ms(2_000)
        };
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.0.send(command(reply)).await.map_err(|_| stopping())?;
            answer.await.map_err(|_| stopping())?
        };
        timeout(CALLER_WAITS, asked).await.unwrap_or_else(|_| {
            let secs = CALLER_WAITS.as_secs();
            let what = format!("whether it is stored is not known yet: nothing was heard of it for {secs} s");
            let hint = "see what there is with `pawctl job list`, and with `pawctl status` whether the disk answers";
            Err(Error::new(ErrorKind::TimedOut, what, hint))
        })
    }
}

/// The job that a word names: an id, or a name among those of the caller. Somebody else's is as if it were not there.
///
/// # Errors
/// `not_found`.
pub fn find<'a>(
    mut jobs: impl Iterator<Item = &'a JobRecord>,
    word: &str,
    by: &Caller,
) -> Result<&'a JobRecord, Error> {
    let id = word.parse::<Uuid>().ok();
    let is_it = |job: &&JobRecord| match id {
        Some(id) => job.id == id && may_see(by, job.owner.uid),
        None => job.name.as_str() == word && job.owner.uid == by.uid,
    };
    jobs.find(is_it).ok_or_else(|| {
        let message = format!("there is no job {}", shorten(word));
        Error::new(ErrorKind::NotFound, message, "see `pawctl job list`").about(word)
    })
}
