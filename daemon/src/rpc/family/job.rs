//! `job.*`

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    job::{Job, JobRpcServer, JobRun},
    system::FailingJob,
};
use paw_store::{Caller, JobRecord, RUNS_KEPT, RunOutcome, RunRecord};

use super::{Family, LISTED, fail};
use crate::{
    intake::{may_see, unreadable},
    jobs::{self, Wanted},
    records::{shorten, shorten_to},
    rpc::caller,
};

/// Characters of a text that a list has no room for.
const BEGINNING: usize = 200;

/// The most failing jobs that a status names.
const MAX_FAILING: usize = 100;

#[async_trait]
impl JobRpcServer for Family {
    async fn list(&self, extensions: &Extensions) -> RpcResult<Vec<Job>> {
        let caller = caller(extensions).map_err(fail)?;
        let all = self.storage.read().jobs();
        let all = all.map_err(|error| fail(unreadable(&error)))?;
        let mut room = LISTED;
        all.into_iter()
            .filter(|job| may_see(&caller, job.owner.uid))
            .map(|mut job| {
                // Where many are told much, the later ones are shown by how it begins.
                let length = serde_json::to_vec(&job.text).map_or(LISTED, |text| text.len());
                match room.checked_sub(length) {
                    Some(left) => room = left,
                    None => job.text = shorten_to(&job.text, BEGINNING),
                }
                self.job(job)
            })
            .collect::<Result<_, _>>()
            .map_err(fail)
    }

    async fn add(
        &self,
        extensions: &Extensions,
        cron: String,
        tz: String,
        text: String,
        name: Option<String>,
        agent: Option<String>,
        overlap: Option<bool>,
        catch_up: Option<bool>,
    ) -> RpcResult<Job> {
        let caller = caller(extensions).map_err(fail)?;
        let name = match name {
            None => None,
            Some(name) => Some(name.parse().map_err(|error| {
                let message = format!("{} is no name: {error}", shorten(&name));
                let hint = "small letters, digits and hyphens";
                fail(Error::new(ErrorKind::Invalid, message, hint))
            })?),
        };
        let wanted = Wanted {
            name,
            cron,
            tz,
            agent,
            text,
            overlap: overlap.unwrap_or(false),
            catch_up: catch_up.unwrap_or(false),
        };
        let added = self.jobs.add(wanted, caller).await.map_err(fail)?;
        self.job(added).map_err(fail)
    }

    async fn remove(&self, extensions: &Extensions, job: String) -> RpcResult<Job> {
        let caller = caller(extensions).map_err(fail)?;
        let removed = self.jobs.remove(job, caller).await.map_err(fail)?;
        Ok(shown(removed, &[]))
    }

    async fn run(&self, extensions: &Extensions, job: String) -> RpcResult<JobRun> {
        let caller = caller(extensions).map_err(fail)?;
        let run = self.jobs.run(job, caller).await;
        run.map(shown_run).map_err(fail)
    }

    async fn history(
        &self,
        extensions: &Extensions,
        job: String,
        limit: Option<u32>,
    ) -> RpcResult<Vec<JobRun>> {
        let caller = caller(extensions).map_err(fail)?;
        let all = self.storage.read().jobs();
        let all = all.map_err(|error| fail(unreadable(&error)))?;
        let id = jobs::find(all.iter(), &job, &caller).map_err(fail)?.id;
        let most = u64::from(limit.unwrap_or(20)).clamp(1, RUNS_KEPT);
        let runs = self.storage.read().runs(id, most as usize);
        let runs = runs.map_err(|error| fail(unreadable(&error)))?;
        Ok(runs.into_iter().map(shown_run).collect())
    }
}

impl Family {
    fn job(&self, job: JobRecord) -> Result<Job, Error> {
        let runs = self.runs_of(&job)?;
        Ok(shown(job, &runs))
    }

    /// Its newest run, and those before it as far as they say how many in a row came to no good end.
    fn runs_of(&self, job: &JobRecord) -> Result<Vec<RunRecord>, Error> {
        let newest = |most: usize| {
            let runs = self.storage.read().runs(job.id, most);
            runs.map_err(|error| unreadable(&error))
        };
        let runs = newest(1)?;
        match runs.first() {
            Some(run) if run.outcome == Some(RunOutcome::Ok) => Ok(runs),
            Some(_) => newest(RUNS_KEPT as usize),
            None => Ok(runs),
        }
    }

    /// Jobs that this caller may see whose last run came to no good end.
    pub(super) fn failing_jobs(&self, caller: &Caller) -> Result<Vec<FailingJob>, Error> {
        let jobs = self.storage.read().jobs();
        let jobs = jobs.map_err(|error| unreadable(&error))?;
        let mut failing = Vec::new();
        for job in jobs
            .into_iter()
            .filter(|job| may_see(caller, job.owner.uid))
        {
            let (failures, last) = in_a_row(&self.runs_of(&job)?);
            let Some((run, outcome)) = last else { continue };
            failing.push(FailingJob {
                id: job.id.to_string(),
                name: job.name.to_string(),
                owner: job.owner.uid,
                failures,
                outcome: outcome.as_str().to_owned(),
                at: run.at_ms,
                why: run.note.as_deref().map(|why| shorten_to(why, BEGINNING)),
            });
        }
        failing.sort_by_key(|job| std::cmp::Reverse(job.failures));
        failing.truncate(MAX_FAILING);
        Ok(failing)
    }
}

/// How many runs in a row came to no good end, and the newest of them; of runs that are newest first.
fn in_a_row(runs: &[RunRecord]) -> (u32, Option<(RunRecord, RunOutcome)>) {
    let (mut failures, mut newest) = (0, None);
    for run in runs {
        match run.outcome {
            Some(RunOutcome::Ok) => break,
            Some(RunOutcome::Skipped) | None => {}
            Some(outcome @ (RunOutcome::Failed | RunOutcome::TimedOut | RunOutcome::Unknown)) => {
                failures += 1;
                newest.get_or_insert_with(|| (run.clone(), outcome));
            }
        }
    }
    (failures, newest)
}

/// As callers see it, with its newest runs, newest first.
fn shown(job: JobRecord, runs: &[RunRecord]) -> Job {
    let (failures, failed) = in_a_row(runs);
    let last = runs.first();
    let outcome = |run: &RunRecord| run.outcome.map_or("running", |outcome| outcome.as_str());
    Job {
        id: job.id.to_string(),
        name: job.name.to_string(),
        owner: job.owner.uid,
        agent: job.agent.to_string(),
        text: job.text,
        cron: job.cron,
        tz: job.tz,
        overlap: job.overlap,
        catch_up: job.catch_up,
        created: job.created_ms,
        next: job.next_ms,
        last: last.map(|run| outcome(run).to_owned()),
        last_at: last.map(|run| run.at_ms),
        failures,
        why: failed.and_then(|(run, _)| Some(shorten_to(run.note.as_deref()?, BEGINNING))),
    }
}

fn shown_run(run: RunRecord) -> JobRun {
    JobRun {
        seq: run.seq,
        due: run.due_ms,
        times: run.times,
        at: run.at_ms,
        action: run.action.map(|id| id.to_string()),
        outcome: run.outcome.map(|outcome| outcome.as_str().to_owned()),
        note: run.note,
        ended: run.ended_ms,
    }
}
