//! `job.*`

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    job::{Job, JobRpcServer, JobRun},
};
use paw_store::{JobRecord, RUNS_KEPT, RunRecord};

use super::{Family, LISTED, fail};
use crate::{
    intake::{may_see, unreadable},
    jobs::{self, Wanted},
    records::{shorten, shorten_to},
    rpc::caller,
};

/// Characters of a text that a list has no room for.
const BEGINNING: usize = 200;

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
        Ok(shown(removed, None))
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
        let mut last = self
            .storage
            .read()
            .runs(job.id, 1)
            .map_err(|error| unreadable(&error))?;
        Ok(shown(job, last.pop()))
    }
}

fn shown(job: JobRecord, last: Option<RunRecord>) -> Job {
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
        last: last.as_ref().map(|run| outcome(run).to_owned()),
        last_at: last.map(|run| run.at_ms),
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
