//! The one task that owns every open action: it judges nothing and executes nothing, it makes each step durable before the
//! next one and starts what has its permit.
//!
//! A step is written twice before it has any effect: to the audit log, so that it cannot be denied later, and to the store,
//! so that it survives. Only then is the caller told or the execution begun. After a crash the store says where each action
//! stood: what waited still waits; what was being done goes on where the executor can take it on, and is otherwise `failed` with
//! kind `interrupted`, because nobody knows how far it got; only what may be done twice is done again.

use std::{collections::BTreeMap, future::ready, sync::Arc, time::Duration};

use futures_util::FutureExt;
use paw_api::{Error, ErrorKind, audit::Event};
use paw_policy::{Decision, Digest, Permit, Plan, Rules, State};
use paw_store::{
    ActionRecord, Caller, GrantRecord, OPEN_STATES, StoreError,
    point::{self, Point},
};
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    admission::line,
    answering::EXPIRE_AT_ONCE,
    approval::Questions,
    ending::fault_of_ours,
    handle::{Actions, CHANGES, Change, Command, End, INBOX, Load, Reply, Submission},
    lifecycle::{Step, next},
    queue::{Queue, Urgency},
    steps::{
        Lasting, Unwritten, batch, denial, internal, past, permit, say, say_end, tick, until, write,
    },
    waiting::Aside,
    work::{Ending, Execute, Outcome, Progress, Task, failure},
};
use crate::{
    audit::Audit,
    clock::now_ms,
    config::ActionBounds,
    events::News,
    grants::Grants,
    metrics,
    quota::{Quotas, rates::Rates},
    records::entry_of,
    storage::Storage,
};

/// How long cancelled executions may take to end when pawd stops, after its drain time.
const LAST_CALL: Duration = Duration::from_secs(5);

/// What the driver's own tasks tell it.
#[derive(Debug)]
pub(super) enum Happened {
    /// The acceptance is durable, or is not.
    Accepted {
        id: Uuid,
        result: Result<(), Unwritten>,
    },
    /// A person's answer is durable, or is not.
    Answered {
        id: Uuid,
        /// Of the record that waits meanwhile in the store.
        was: Option<Digest>,
        result: Result<(), Error>,
        grant: Option<Box<GrantRecord>>,
        reply: Option<Reply>,
    },
    /// An execution ended.
    Ended { id: Uuid, outcome: Outcome },
    /// The end is durable.
    Closed { id: Uuid },
    /// A record of what changed nothing is in the log, or is lost with its writer.
    Noted,
}

/// What the driver uses.
pub struct Ports {
    /// The store.
    pub storage: Storage,
    /// The audit log.
    pub audit: Audit,
    /// Who executes.
    pub executor: Arc<dyn Execute>,
    /// The rules in force.
    pub rules: watch::Receiver<Arc<Rules>>,
    /// What people granted.
    pub grants: Arc<Grants>,
    /// Where news are said.
    pub news: Arc<News>,
    /// What may be asked and spent.
    pub quotas: Arc<Quotas>,
    /// How often agents may act.
    pub rates: Arc<Rates>,
}

/// An action that is not final, and of which something is done or about to be: what waits for a person is set aside.
pub(super) struct Open {
    pub(super) record: ActionRecord,
    pub(super) progress: Progress,
    pub(super) cancel: CancellationToken,
    /// Who waits for the next durable step.
    pub(super) reply: Option<Reply>,
    /// Who stays for its end.
    pub(super) end: Option<End>,
    /// Whether a step is being made durable; nothing else may begin then.
    pub(super) busy: bool,
    /// Whether its conversation begins with it.
    pub(super) opens: bool,
    /// Its permit, while it begins with its acceptance.
    pub(super) permit: Option<Permit<Plan>>,
    /// Whether somebody waits for it.
    pub(super) urgency: Urgency,
    /// Whether it was told to stop because its deadline passed.
    pub(super) overdue: bool,
}

/// The driver.
pub struct Driver {
    pub(super) ports: Ports,
    pub(super) bounds: ActionBounds,
    pub(super) queue: Queue,
    pub(super) questions: Questions,
    /// Each has a place of its own: a tree of them as they are would hold half as much room again empty, and move it about.
    pub(super) open: BTreeMap<Uuid, Box<Open>>,
    /// What waits for a person, each with its question.
    pub(super) aside: BTreeMap<Uuid, Aside>,
    /// How many questions are just being closed because their time came.
    pub(super) expiring: usize,
    pub(super) inbox: mpsc::Receiver<Command>,
    pub(super) tasks: JoinSet<Happened>,
    pub(super) changes: broadcast::Sender<Change>,
    pub(super) load: watch::Sender<Load>,
    pub(super) draining: bool,
    /// Told to every execution when the drain is over.
    pub(super) leave: CancellationToken,
    /// Told to every execution when the drain begins.
    pub(super) drain: CancellationToken,
}

impl Driver {
    /// A driver that knows every open action of the store, and the handle to it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn new(ports: Ports, bounds: ActionBounds) -> Result<(Self, Actions), StoreError> {
        let (to, inbox) = mpsc::channel(INBOX);
        let changes = broadcast::Sender::new(CHANGES);
        let (load, watched) = watch::channel(Load::default());
        let mut driver = Self {
            queue: Queue::new(line(&bounds)),
            questions: Questions::default(),
            open: BTreeMap::new(),
            aside: BTreeMap::new(),
            expiring: 0,
            inbox,
            tasks: JoinSet::new(),
            changes: changes.clone(),
            load,
            draining: false,
            leave: CancellationToken::new(),
            drain: CancellationToken::new(),
            bounds,
            ports,
        };
        let storage = driver.ports.storage.clone();
        storage
            .read()
            .each_in(&OPEN_STATES, |record| driver.adopt(record))?;
        Ok((
            driver,
            Actions {
                inbox: to,
                changes,
                load: watched,
            },
        ))
    }

    /// Runs until `stop`, then drains: what is being done may end, what waits stays stored. `alive` is called at least as
    /// often as `pulse`, as long as the driver is not stuck.
    pub async fn run(mut self, stop: CancellationToken, pulse: Option<Duration>, alive: impl Fn()) {
        let mut beat = pulse.map(tokio::time::interval);
        self.recover();
        let mut deadline: Option<Instant> = None;
        loop {
            self.pump();
            self.load.send_if_modified(|load| {
                let now = self.queue_load();
                std::mem::replace(load, now) != now
            });
            if self.draining && self.queue.running() == 0 && self.tasks.is_empty() {
                break;
            }
            tokio::select! {
                command = self.inbox.recv() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                Some(done) = self.tasks.join_next() => match done {
                    Ok(happened) => self.happened(happened),
                    Err(error) => warn!(error = %error, "a task of the driver was lost"),
                },
                () = until(self.questions.next_expiry()), if self.expiring < EXPIRE_AT_ONCE => self.expire(),
                () = until(self.queue.next_deadline()) => self.end_what_is_overdue(),
                () = tick(&mut beat) => alive(),
                () = stop.cancelled(), if !self.draining => {
                    self.draining = true;
                    self.drain.cancel();
                    deadline = Some(Instant::now() + self.bounds.drain);
                    info!(executing = self.queue.running(), limit_ms = self.bounds.drain.as_millis(), "draining");
                }
                () = past(deadline) => {
                    if self.open.values().all(|open| open.cancel.is_cancelled()) {
                        warn!(executing = self.queue.running(), "executions did not end when told; they count as interrupted");
                        break;
                    }
                    // In this order: what can be left looks for that first.
                    self.leave.cancel();
                    self.open.values().for_each(|open| open.cancel.cancel());
                    deadline = Some(Instant::now() + LAST_CALL);
                }
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Submit { submission, reply } => self.submit(*submission, reply),
            Command::Answer { id, said, reply } => self.answer(id, &said, reply),
            Command::Asked { after, most, reply } => {
                // Whoever asked may be gone.
                drop(reply.send(self.questions.asked(after, most).collect()));
            }
            Command::Together { id, reply } => {
                // Whoever asked may be gone.
                let _ = reply.send(self.questions.together(id).len().max(1));
            }
            Command::Cancel { id, by, reply } => self.cancel(id, &by, reply),
            Command::Rest(id) => self.queue.rest(id),
            Command::Wake(id) => self.queue.wake(id),
            Command::Bounds(bounds) => {
                self.queue.resize(line(&bounds));
                self.bounds = bounds;
            }
        }
    }

    fn submit(&mut self, submission: Submission, reply: Reply) {
        point::reached(Point::Taken);
        let Submission {
            mut record,
            judged,
            session,
            progress,
            urgency,
            end,
        } = submission;
        if self.open.contains_key(&record.id) || self.aside.contains_key(&record.id) {
            let error = Error::new(
                ErrorKind::Conflict,
                "this action is under way",
                "wait for its end",
            );
            return say(reply, Err(error.about(record.id)));
        }
        let urgency = self.inherited(&record, urgency);
        if let Err(error) = self.admit(&record, urgency) {
            return say(reply, Err(error));
        }
        let (now, rules) = (now_ms(), Arc::clone(&self.ports.rules.borrow()));
        let step = match record.decision {
            Decision::Allow => Step::Allow,
            Decision::Ask => Step::Ask,
            Decision::Deny => Step::Deny,
        };
        match next(record.state, step) {
            Ok(state) => record.state = state,
            Err(error) => return say(reply, Err(internal(&error))),
        }
        let mut begun = None;
        match record.decision {
            Decision::Allow => {
                record.decided_ms = Some(now);
                begun = self.begin_at_once((&record, urgency), &rules, &judged);
            }
            Decision::Ask => {
                let wait =
                    u64::try_from(self.bounds.approval_expiry.as_millis()).unwrap_or(u64::MAX);
                let expires = now.saturating_add(wait);
                record.expires_ms = Some(record.deadline_ms.map_or(expires, |at| at.min(expires)));
                record.wait_reason = Some("a person has to approve it".into());
            }
            Decision::Deny => {
                (record.decided_ms, record.ended_ms) = (Some(now), Some(now));
                record.error = Some(failure(
                    "denied",
                    denial(&record),
                    "ask an administrator, or change the policy",
                ));
            }
        }
        let id = record.id;
        let lasting = match record.decision {
            Decision::Allow => Lasting::of(&record, &progress),
            Decision::Ask | Decision::Deny => Lasting::Both,
        };
        let mut entries = vec![entry_of(Event::ActionJudged, &record, &rules)];
        let permit = begun.map(|begun| {
            (record.state, record.started_ms) = (begun.state, Some(now));
            entries.push(entry_of(Event::ActionStarted, &record, &rules));
            begun.permit
        });
        let batch = batch(&record, session.as_ref());
        let cancel = CancellationToken::new();
        self.open.insert(
            id,
            Box::new(Open {
                record,
                progress,
                cancel,
                reply: Some(reply),
                end,
                busy: true,
                opens: session.is_some(),
                permit,
                urgency,
                overdue: false,
            }),
        );
        let (storage, audit) = (self.ports.storage.clone(), self.ports.audit.clone());
        if lasting == Lasting::Soon {
            match audit.now(entries) {
                // It waits for nothing, so nobody has to be waited for.
                Ok(()) => {
                    point::reached(Point::StepRecorded);
                    let stored = batch.and_then(|batch| storage.note(batch));
                    return self
                        .accepted(id, stored.map_err(|error| Unwritten::by_the_store(&error)));
                }
                Err(back) => entries = back,
            }
        }
        self.tasks.spawn(async move {
            let result = write(&storage, &audit, entries, lasting, batch).await;
            Happened::Accepted { id, result }
        });
    }

    fn cancel(&mut self, id: Uuid, by: &Caller, reply: Reply) {
        point::reached(Point::Cancels);
        if self.aside.contains_key(&id) {
            return self.cancel_waiting(id, by, reply);
        }
        let Some(open) = self.open.get_mut(&id) else {
            let hint = format!("see what became of it: pawctl action show {id}");
            return say(
                reply,
                Err(Error::new(ErrorKind::Conflict, "the action is final", hint).about(id)),
            );
        };
        if open.busy || open.reply.is_some() {
            let hint = "try again in a moment";
            return say(
                reply,
                Err(
                    Error::new(ErrorKind::Busy, "the action is just changing", hint)
                        .retry_after_ms(100)
                        .about(id),
                ),
            );
        }
        info!(paw_action = %id, uid = by.uid, "action is being cancelled");
        open.reply = Some(reply);
        match open.record.state {
            State::Executing => open.cancel.cancel(),
            State::Queued | State::WaitingApproval | State::Approved => {
                self.queue.done(id, now_ms());
                self.end(id, Outcome::plain(Ending::Cancelled));
            }
            State::Completed
            | State::Failed
            | State::Rejected
            | State::Expired
            | State::Cancelled
            | State::TimedOut => {}
        }
    }

    /// Starts approved actions while there are places.
    fn pump(&mut self) {
        while !self.draining {
            let Some(id) = self.queue.pop(now_ms()) else {
                return;
            };
            self.start(id);
        }
    }

    fn start(&mut self, id: Uuid) {
        point::reached(Point::Starts);
        let rules = Arc::clone(&self.ports.rules.borrow());
        let Some(open) = self.open.get_mut(&id) else {
            return self.queue.done(id, now_ms());
        };
        let reads = self.ports.executor.reads(&open.record.plan);
        let permit = match permit(&rules, &mut open.record, &reads) {
            Ok(permit) => permit,
            Err(error) => {
                let hint = "submit it again: it is judged anew";
                self.queue.done(id, now_ms());
                return self.end(
                    id,
                    Outcome::failed("denied", format!("there is no permit: {error}"), hint),
                );
            }
        };
        match next(open.record.state, Step::Start) {
            Ok(state) => open.record.state = state,
            Err(error) => {
                warn!(paw_action = %id, error = %error, "an action stood in line that may not start");
                return self.queue.done(id, now_ms());
            }
        }
        open.record.started_ms = Some(now_ms());
        let entry = entry_of(Event::ActionStarted, &open.record, &rules);
        let lasting = match Lasting::of(&open.record, &open.progress) {
            Lasting::Both => Lasting::Both,
            // That it begins, nobody is told.
            Lasting::Stored | Lasting::Soon => Lasting::Soon,
        };
        let batch = batch(&open.record, None);
        let (storage, audit) = (self.ports.storage.clone(), self.ports.audit.clone());
        self.tell(id, State::Executing);
        self.execute(id, permit, async move {
            let written = write(&storage, &audit, vec![entry], lasting, batch).await;
            written.map_err(|why| why.error)
        });
    }

    /// Spends the permit, once the beginning is durable.
    fn execute(
        &mut self,
        id: Uuid,
        permit: Permit<Plan>,
        begun: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        let Some(open) = self.open.get_mut(&id) else {
            return self.queue.done(id, now_ms());
        };
        let task = Task {
            id,
            parent: open.record.parent,
            permit,
            caller: open.record.requested_by.clone(),
            through: open.record.circumstances.through.clone(),
            taint: open.record.taint.clone(),
            deadline_ms: open.record.deadline_ms,
            opens: open.opens,
            progress: std::mem::replace(&mut open.progress, Progress::None),
            cancel: open.cancel.clone(),
            leave: self.leave.clone(),
            drain: self.drain.clone(),
        };
        let executor = Arc::clone(&self.ports.executor);
        self.tasks.spawn(async move {
            if let Err(error) = begun.await {
                return Happened::Ended {
                    id,
                    outcome: Outcome::failed("unavailable", error.message, error.data.hint),
                };
            }
            point::reached(Point::Begun);
            let work = std::panic::AssertUnwindSafe(executor.execute(task)).catch_unwind();
            let outcome = work.await.unwrap_or_else(|_| fault_of_ours());
            point::reached(Point::Executed);
            Happened::Ended { id, outcome }
        });
    }

    fn happened(&mut self, happened: Happened) {
        match happened {
            Happened::Accepted { id, result } => self.accepted(id, result),
            Happened::Answered {
                id,
                was,
                result,
                grant,
                reply,
            } => self.answered((id, was), result, grant, reply),
            Happened::Ended { id, outcome } => {
                self.queue.done(id, now_ms());
                self.end(id, outcome);
            }
            Happened::Closed { id } => self.closed(id),
            Happened::Noted => {}
        }
    }

    /// The end is stored.
    pub(super) fn closed(&mut self, id: Uuid) {
        point::reached(Point::EndStored);
        let Some(open) = self.open.remove(&id) else {
            return;
        };
        metrics::ended(&open.record);
        self.tell(id, open.record.state);
        if open.record.state == State::Expired {
            self.expiring = self.expiring.saturating_sub(1);
        }
        let Open {
            record, reply, end, ..
        } = *open;
        match (reply, end) {
            (Some(reply), Some(end)) => {
                say(reply, Ok(record.clone()));
                say_end(end, record);
            }
            (Some(reply), None) => say(reply, Ok(record)),
            (None, Some(end)) => say_end(end, record),
            (None, None) => {}
        }
    }

    fn accepted(&mut self, id: Uuid, result: Result<(), Unwritten>) {
        point::reached(Point::Accepted);
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        open.busy = false;
        let permit = open.permit.take();
        if let Err(why) = result {
            self.queue.done(id, now_ms());
            if let Some(open) = self.open.remove(&id) {
                self.not_accepted(*open, why);
            }
            return;
        }
        let (record, reply) = (open.record.clone(), open.reply.take());
        match record.state {
            State::WaitingApproval => {
                info!(
                    message_id = paw_log::events::ACTION_WAITING,
                    paw_action = %id,
                    paw_agent = %record.plan.agent,
                    risk = %record.risk,
                    "action waits for a person"
                );
                if let Some(open) = self.open.remove(&id) {
                    self.set_aside(*open);
                }
            }
            State::Approved => self.queue.push(open.ticket()),
            State::Executing => self.tell(id, State::Approved),
            State::Queued => {}
            State::Completed
            | State::Failed
            | State::Rejected
            | State::Expired
            | State::Cancelled
            | State::TimedOut => {
                metrics::ended(&record);
                if let Some(end) = self.open.remove(&id).and_then(|open| open.end) {
                    say_end(end, record.clone());
                }
            }
        }
        self.tell(id, record.state);
        if let Some(reply) = reply {
            say(reply, Ok(record));
        }
        point::reached(Point::AcceptedTold);
        if let Some(permit) = permit {
            self.execute(id, permit, ready(Ok(())));
        }
    }

    pub(super) fn tell(&self, id: Uuid, state: State) {
        // Without listeners nobody has to be told.
        drop(self.changes.send(Change { id, state }));
        self.ports.news.say(
            now_ms(),
            &format!("action.{state}"),
            Some(id.to_string()),
            format!("action {id} is {state}"),
        );
    }
}
