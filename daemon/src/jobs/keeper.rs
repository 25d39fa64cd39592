//! The one task that owns all jobs: it waits until one is due, claims the run in the store, submits it, and notes how it came out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use paw_api::{
    Error, ErrorKind,
    audit::{Entry, Event},
};
use paw_policy::{Name, Role, Via};
use paw_store::{
    Batch, Caller, JobRecord, RUNS_KEPT, RunOutcome, RunRecord, StoreError,
    point::{self, Point},
};
use serde_json::{Map, Value};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    Command, INBOX, Jobs, Wanted, find,
    notice::tell,
    outcome::come_to,
    schedule::{Due, Schedule, anew, plan},
};
use crate::{
    audit::Audit,
    clock::{now_ms, wall_ms},
    config::Config,
    events::News,
    intake::{Asked, Intake, MAX_TEXT, unreadable},
    orchestrator::{handle::Actions, work::Progress},
    records,
    storage::Storage,
};

/// Jobs that one user may have.
const MOST_OF_ONE: usize = 100;

/// Jobs of all users.
const MOST: usize = 1_000;

/// Runs of one job that go on at once, where it overlaps.
const MOST_AT_ONCE: usize = 8;

/// The longest wait for what is due. The clock of the host may be set, and no timer of ours hears of that.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// When a claim that could not be stored is tried again.
const TRY_AGAIN_MS: u64 = 30_000;

/// Bytes of a schedule: five fields of crontab(5), with every hour listed in one of them, have a hundred.
const MAX_CRON: usize = 256;

/// Bytes of the name of a time zone; the longest that there is has 32.
const MAX_TZ: usize = 64;

/// What the keeper uses.
pub struct Ports {
    /// The one way in.
    pub intake: Intake,
    /// The driver's door.
    pub actions: Actions,
    /// The store.
    pub storage: Storage,
    /// The audit log.
    pub audit: Audit,
    /// News.
    pub news: Arc<News>,
}

/// A job, and what this pawd knows of it.
struct Kept {
    record: JobRecord,
    /// None for one whose schedule this host cannot read any more, which is never due.
    schedule: Option<Schedule>,
    /// Runs that go on.
    running: usize,
    /// Not before this: what was due could not be claimed.
    hold_ms: u64,
}

/// The keeper.
pub struct Keeper {
    ports: Arc<Ports>,
    inbox: mpsc::Receiver<Command>,
    jobs: BTreeMap<Uuid, Kept>,
    /// Runs that go on; each ends with its job and how it came out.
    runs: JoinSet<RunRecord>,
}

/// Whose turn it is to begin a run.
#[derive(Debug, Clone, Copy)]
enum Why {
    /// It was due.
    Due(Due),
    /// A person wants it now.
    Asked,
}

impl Keeper {
    /// A keeper that knows every job of the store, and the door to it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn new(ports: Ports) -> Result<(Self, Jobs), StoreError> {
        let (to, inbox) = mpsc::channel(INBOX);
        let mut keeper = Self {
            ports: Arc::new(ports),
            inbox,
            jobs: BTreeMap::new(),
            runs: JoinSet::new(),
        };
        let store = Arc::clone(&keeper.ports);
        for record in store.storage.read().jobs()? {
            let id = record.id;
            let schedule = Schedule::read(&record.cron, &record.tz).map_err(|error| {
                warn!(job = %record.name, owner = record.owner.uid, error = %error, "a job has no schedule that can be read here; it does not run");
            });
            keeper.jobs.insert(id, Kept::new(record, schedule.ok()));
            let runs = store.storage.read().runs(id, RUNS_KEPT as usize)?;
            for run in runs.into_iter().filter(|run| run.outcome.is_none()) {
                keeper.watch(run);
            }
        }
        Ok((keeper, Jobs(to)))
    }

    /// Runs until `stop`. What goes on then has its outcome looked for by the next pawd.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let next = self.jobs.values().filter_map(Kept::due_ms).min();
            let wait = next.map_or(LOOK_AGAIN, |next| {
                Duration::from_millis(next.saturating_sub(wall_ms())).min(LOOK_AGAIN)
            });
            tokio::select! {
                () = stop.cancelled() => return,
                command = self.inbox.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => return,
                },
                Some(done) = self.runs.join_next() => match done {
                    Ok(run) => self.ended(run).await,
                    Err(error) => warn!(error = %error, "the watch over a run was lost; the next pawd looks for its outcome"),
                },
                () = tokio::time::sleep_until(Instant::now() + wait) => self.look().await,
            }
        }
    }

    async fn command(&mut self, command: Command) {
        // Whoever asked may be gone; what was asked for is done all the same.
        match command {
            Command::Add { wanted, by, reply } => drop(reply.send(self.add(wanted, by).await)),
            Command::Remove { job, by, reply } => {
                drop(reply.send(self.remove(&job, &by).await));
            }
            Command::Run { job, by, reply } => drop(reply.send(self.run_now(&job, &by).await)),
        }
    }

    async fn add(&mut self, wanted: Wanted, by: Caller) -> Result<JobRecord, Error> {
        let config = Arc::clone(&self.ports.intake.config.borrow());
        let agent = agent(&config, wanted.agent.as_deref())?;
        let invalid = |message: String, hint: &str| Error::new(ErrorKind::Invalid, message, hint);
        for (what, text, most) in [
            ("schedule", &wanted.cron, MAX_CRON),
            ("time zone", &wanted.tz, MAX_TZ),
        ] {
            if text.len() > most {
                let message = format!("a {what} of {} bytes; {most} are taken", text.len());
                return Err(invalid(message, "say it shorter"));
            }
        }
        let schedule = Schedule::read(&wanted.cron, &wanted.tz).map_err(|error| {
            let hint = "five fields as in crontab(5), and a time zone as in `timedatectl list-timezones` (Debian: apt-get install tzdata)";
            invalid(format!("schedule {:?} in {}: {error}", wanted.cron, wanted.tz), hint)
        })?;
        if wanted.text.trim().is_empty() || wanted.text.len() > MAX_TEXT {
            let message = format!(
                "a text of {} bytes; 1 to {MAX_TEXT} are taken, and not only blanks",
                wanted.text.len()
            );
            return Err(invalid(
                message,
                "say something shorter, or something at all",
            ));
        }
        // What is due when is a matter of the clock on the wall.
        let Some(next_ms) = schedule.after(wall_ms()) else {
            return Err(invalid(
                format!("schedule {:?} never comes", wanted.cron),
                "look at its day and month",
            ));
        };
        let name = self.name(wanted.name, &by)?;
        let record = JobRecord {
            id: Uuid::now_v7(),
            name,
            owner: by,
            agent,
            text: wanted.text,
            cron: wanted.cron.split_whitespace().collect::<Vec<_>>().join(" "),
            tz: wanted.tz,
            overlap: wanted.overlap,
            catch_up: wanted.catch_up,
            created_ms: now_ms(),
            next_ms: Some(next_ms),
            runs: 0,
        };
        self.record(Event::JobAdded, &record, &record.owner).await?;
        let mut batch = Batch::new();
        batch.put_job(&record).map_err(|error| unreadable(&error))?;
        self.commit(batch).await?;
        info!(job = %record.name, uid = record.owner.uid, "job added");
        self.jobs
            .insert(record.id, Kept::new(record.clone(), Some(schedule)));
        Ok(record)
    }

    /// The name that was asked for, or the first free number.
    fn name(&self, wanted: Option<Name>, by: &Caller) -> Result<Name, Error> {
        let own: Vec<&Name> = self
            .jobs
            .values()
            .filter(|kept| kept.record.owner.uid == by.uid)
            .map(|kept| &kept.record.name)
            .collect();
        if own.len() >= MOST_OF_ONE || self.jobs.len() >= MOST {
            let message = format!(
                "you have {} jobs, and there are {} in all; {MOST_OF_ONE} and {MOST} are the most",
                own.len(),
                self.jobs.len()
            );
            return Err(Error::new(
                ErrorKind::Busy,
                message,
                "remove some: pawctl job remove",
            ));
        }
        match wanted {
            Some(name) if own.contains(&&name) => {
                let message = format!("you have a job {name} already");
                Err(Error::new(
                    ErrorKind::Conflict,
                    message,
                    "name it otherwise, or remove that one",
                ))
            }
            Some(name) => Ok(name),
            None => (1..=MOST_OF_ONE)
                .filter_map(|number| format!("job-{number}").parse().ok())
                .find(|name| !own.contains(&name))
                .ok_or_else(|| {
                    Error::new(ErrorKind::Conflict, "no number is free", "give it a name")
                }),
        }
    }

    async fn remove(&mut self, word: &str, by: &Caller) -> Result<JobRecord, Error> {
        let record = find(self.records(), word, by)?.clone();
        self.record(Event::JobRemoved, &record, by).await?;
        let mut batch = Batch::new();
        batch
            .remove_job(record.id)
            .map_err(|error| unreadable(&error))?;
        self.commit(batch).await?;
        info!(job = %record.name, uid = by.uid, "job removed");
        self.jobs.remove(&record.id);
        Ok(record)
    }

    async fn run_now(&mut self, word: &str, by: &Caller) -> Result<RunRecord, Error> {
        let id = find(self.records(), word, by)?.id;
        let Some(kept) = self.jobs.get(&id) else {
            return Err(Error::new(
                ErrorKind::NotFound,
                "the job is gone",
                "see `pawctl job list`",
            ));
        };
        if let Some(why) = kept.occupied() {
            return Err(Error::new(
                ErrorKind::Conflict,
                why,
                "wait for it: pawctl job history",
            ));
        }
        let next_ms = kept.record.next_ms;
        self.begin(id, Why::Asked, next_ms).await
    }

    fn records(&self) -> impl Iterator<Item = &JobRecord> {
        self.jobs.values().map(|kept| &kept.record)
    }

    /// Does what is due.
    async fn look(&mut self) {
        let now = wall_ms();
        for kept in self.jobs.values_mut() {
            if let (Some(schedule), Some(next_ms)) = (&kept.schedule, kept.record.next_ms)
                && let Some(sooner) = anew(schedule, next_ms, now)
            {
                warn!(job = %kept.record.name, next_ms, sooner_ms = sooner, "the clock was set back; a job is due sooner than was noted");
                kept.record.next_ms = Some(sooner);
                kept.hold_ms = 0;
            }
        }
        let due: Vec<Uuid> = self
            .jobs
            .iter()
            .filter(|(_, kept)| kept.due_ms().is_some_and(|due_ms| due_ms <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            if let Err(error) = self.due(id, now).await {
                if let Some(kept) = self.jobs.get_mut(&id) {
                    kept.hold_ms = now.saturating_add(TRY_AGAIN_MS);
                }
                warn!(job = %id, error = error.message, "what was due could not be claimed; it is tried again");
            }
        }
    }

    async fn due(&mut self, id: Uuid, now: u64) -> Result<(), Error> {
        let Some(kept) = self.jobs.get(&id) else {
            return Ok(());
        };
        let (Some(schedule), Some(due_ms)) = (&kept.schedule, kept.record.next_ms) else {
            return Ok(());
        };
        let plan = plan(schedule, due_ms, now, kept.record.catch_up);
        if let Some(due) = plan.skip {
            let note = "it was missed: pawd did not run, or the clock was set";
            self.skip(
                id,
                due,
                note,
                plan.run.map_or(plan.next_ms, |due| Some(due.at_ms)),
            )
            .await?;
        }
        if let Some(due) = plan.run {
            match self.jobs.get(&id).and_then(Kept::occupied) {
                Some(why) => self.skip(id, due, &why, plan.next_ms).await?,
                // What cannot be begun is a run that failed, and is on record as such.
                None => drop(self.begin(id, Why::Due(due), plan.next_ms).await?),
            }
        }
        Ok(())
    }

    /// Notes that nothing was begun for what was due.
    async fn skip(
        &mut self,
        id: Uuid,
        due: Due,
        note: &str,
        next_ms: Option<u64>,
    ) -> Result<(), Error> {
        let Some(mut run) = self.new_run(id, Why::Due(due)) else {
            return Ok(());
        };
        (run.outcome, run.ended_ms) = (Some(RunOutcome::Skipped), Some(run.at_ms));
        run.note = Some(note.to_owned());
        self.claim(&run, next_ms).await?;
        self.tell(&run).await;
        Ok(())
    }

    /// Claims a run and submits it. An error means that nothing was claimed, and nothing begins.
    async fn begin(
        &mut self,
        id: Uuid,
        why: Why,
        next_ms: Option<u64>,
    ) -> Result<RunRecord, Error> {
        let (Some(mut run), Some(kept)) = (self.new_run(id, why), self.jobs.get(&id)) else {
            return Err(Error::new(
                ErrorKind::NotFound,
                "the job is gone",
                "see `pawctl job list`",
            ));
        };
        let record = &kept.record;
        let asked = Asked {
            kind: "chat".into(),
            arguments: Map::from_iter([("text".to_owned(), Value::from(record.text.as_str()))]),
            agent: Some(record.agent.to_string()),
            via: Via::Job(id.to_string()),
            ..Asked::default()
        };
        let caller = Caller {
            role: record.owner.role.min(Role::User),
            ..record.owner.clone()
        };
        let judged = self.ports.intake.judge(asked, caller, Progress::None);
        let submission = match judged.await {
            Ok(submission) => submission,
            Err(error) => {
                (run.outcome, run.ended_ms) = (Some(RunOutcome::Failed), Some(run.at_ms));
                run.note = Some(error.message);
                self.claim(&run, next_ms).await?;
                self.tell(&run).await;
                return Ok(run);
            }
        };
        // Its action is named in the claim, so whatever happens now, the next pawd knows what to look for.
        run.action = Some(submission.record.id);
        self.claim(&run, next_ms).await?;
        point::reached(Point::Claimed);
        match self.ports.actions.submit(submission).await {
            Ok(_) => self.watch(run.clone()),
            Err(error) => {
                (run.outcome, run.ended_ms) = (Some(RunOutcome::Failed), Some(now_ms()));
                (run.note, run.action) = (Some(error.message), None);
                self.note(&run).await;
            }
        }
        Ok(run)
    }

    fn new_run(&self, id: Uuid, why: Why) -> Option<RunRecord> {
        let (due_ms, times) = match why {
            Why::Due(due) => (Some(due.at_ms), due.times),
            Why::Asked => (None, 1),
        };
        Some(RunRecord {
            job: id,
            seq: self.jobs.get(&id)?.record.runs,
            due_ms,
            times,
            at_ms: now_ms(),
            action: None,
            outcome: None,
            note: None,
            ended_ms: None,
        })
    }

    /// Stores a run, and when its job is due again, in one step.
    async fn claim(&mut self, run: &RunRecord, next_ms: Option<u64>) -> Result<(), Error> {
        let Some(kept) = self.jobs.get(&run.job) else {
            return Ok(());
        };
        let record = JobRecord {
            next_ms,
            runs: run.seq.saturating_add(1),
            ..kept.record.clone()
        };
        let mut batch = Batch::new();
        batch
            .put_job(&record)
            .and_then(|batch| batch.put_run(run))
            .map_err(|error| unreadable(&error))?;
        self.commit(batch).await?;
        if let Some(kept) = self.jobs.get_mut(&run.job) {
            kept.record = record;
        }
        Ok(())
    }

    /// Waits for the end of a run beside everything else.
    fn watch(&mut self, run: RunRecord) {
        if let Some(kept) = self.jobs.get_mut(&run.job) {
            kept.running += 1;
        }
        let ports = Arc::clone(&self.ports);
        self.runs.spawn(async move {
            let (outcome, note) = match run.action {
                Some(action) => come_to(&ports.actions, &ports.storage, action).await,
                None => (
                    RunOutcome::Unknown,
                    Some("pawd ended before it began".to_owned()),
                ),
            };
            RunRecord {
                outcome: Some(outcome),
                note,
                ended_ms: Some(now_ms()),
                ..run
            }
        });
    }

    async fn ended(&mut self, run: RunRecord) {
        if let Some(kept) = self.jobs.get_mut(&run.job) {
            kept.running = kept.running.saturating_sub(1);
        }
        self.note(&run).await;
    }

    /// Notes how a run came out, and tells.
    async fn note(&self, run: &RunRecord) {
        let batch = || {
            let mut batch = Batch::new();
            batch.put_run(run)?;
            Ok(batch)
        };
        self.ports.storage.commit_at_last(batch).await;
        self.tell(run).await;
    }

    async fn tell(&self, run: &RunRecord) {
        if let Some(kept) = self.jobs.get(&run.job) {
            tell(&self.ports, &kept.record, run).await;
        }
    }

    async fn record(&self, event: Event, job: &JobRecord, by: &Caller) -> Result<(), Error> {
        let mut entry = Entry::new(event);
        entry.actor = Some(records::actor(by));
        for (key, value) in [
            ("job", job.id.to_string()),
            ("name", job.name.to_string()),
            ("owner", job.owner.uid.to_string()),
            ("agent", job.agent.to_string()),
            ("cron", format!("{} {}", job.cron, job.tz)),
            ("text", records::shorten(&job.text)),
        ] {
            entry.detail.insert(key.into(), value);
        }
        self.ports
            .audit
            .durable(entry)
            .await
            .map(drop)
            .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string(), error.remedy()))
    }

    async fn commit(&self, batch: Batch) -> Result<(), Error> {
        let written = self.ports.storage.commit(batch).await;
        written.map_err(|error| unreadable(&error))
    }
}

impl Kept {
    const fn new(record: JobRecord, schedule: Option<Schedule>) -> Self {
        Self {
            record,
            schedule,
            running: 0,
            hold_ms: 0,
        }
    }

    fn due_ms(&self) -> Option<u64> {
        self.schedule.as_ref()?;
        Some(self.record.next_ms?.max(self.hold_ms))
    }

    /// Why no further run may begin now.
    fn occupied(&self) -> Option<String> {
        match (self.record.overlap, self.running) {
            (false, 1..) => Some("the run before it goes on".into()),
            (true, MOST_AT_ONCE..) => Some(format!("{} runs before it go on", self.running)),
            (false | true, _) => None,
        }
    }
}

/// Which agent is told; there has to be such a one now.
fn agent(config: &Config, name: Option<&str>) -> Result<Name, Error> {
    let name = name.unwrap_or("default");
    let found = config.agents.keys().find(|known| known.as_str() == name);
    found.cloned().ok_or_else(|| {
        let message = format!("there is no agent {}", records::shorten(name));
        Error::new(ErrorKind::NotFound, message, "see `pawctl agent list`").about(name)
    })
}
