//! What pawd asks about workspaces, and how `paw-workspace` is made to do it.

use std::{
    ffi::OsString,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use paw_launch::{
    request::{Limits, Refusal, RefusalReason, Reply, SandboxId},
    workspace::{Answer, Order, Settle, Settled, Task, WorkspaceRequest},
};
use paw_policy::Name;

use super::{Phase, Queued, Request, Then, place};
use crate::{
    answer::Terms,
    ceilings::{Approved, refusal},
    job::{Asked, Job, Program},
    serve::Launcher,
};

/// How long a layer waits to be told what becomes of it before it is staged.
const PATIENCE: Duration = Duration::from_secs(30);

/// Orders that wait for their workspace; who asks for one more is told to come again.
const MAX_QUEUE: usize = 256;

/// What one order may use. It streams contents, and keeps the list of changes in memory.
const LIMITS: Limits = Limits {
    cpu_milli: 1000,
    memory: 256 << 20,
    disk: 0,
    pids: 2,
    open_files: 512,
    wall_ms: 120_000,
    io_weight: None,
};

impl Launcher {
    /// Answers a request about workspaces, or begins what answers it.
    pub(crate) fn workspace(
        &mut self,
        request: WorkspaceRequest,
        asked: Asked,
    ) -> Result<Option<Reply>, Refusal> {
        if self.workspaces.queue.len() >= MAX_QUEUE {
            return Err(refusal(
                RefusalReason::Full,
                format!("{MAX_QUEUE} orders on workspaces wait, which is the most"),
                "ask again in a moment",
            ));
        }
        let nothing = |id: &SandboxId| {
            refusal(
                RefusalReason::NotFound,
                format!("no workspace has anything of a sandbox {id}"),
                "see `pawctl workspace list`",
            )
        };
        let (name, order) = match request {
            WorkspaceRequest::Settle { id, then } => return self.settle(&id, then, asked),
            WorkspaceRequest::Names => {
                let names = place::names(&self.workspaces.dir);
                return done(&Answer::Names { names }).map(Some);
            }
            WorkspaceRequest::List { name } => {
                if !self.workspaces.dir.join(name.as_str()).exists() {
                    return Err(refusal(
                        RefusalReason::NotFound,
                        format!("there is no workspace {name}"),
                        "it is made when the agent first uses it",
                    ));
                }
                (name, Order::List)
            }
            WorkspaceRequest::Diff { id: layer, from } => (
                self.name_of(&layer).ok_or_else(|| nothing(&layer))?,
                Order::Diff { layer, from },
            ),
            WorkspaceRequest::Commit { id: layer, digest } => (
                self.name_of(&layer).ok_or_else(|| nothing(&layer))?,
                Order::Commit { layer, digest },
            ),
            WorkspaceRequest::Discard { id: layer } => (
                self.name_of(&layer).ok_or_else(|| nothing(&layer))?,
                Order::Discard { layer },
            ),
            WorkspaceRequest::Undo { id: layer, last } => (
                self.name_of(&layer).ok_or_else(|| nothing(&layer))?,
                Order::Undo { layer, last },
            ),
        };
        self.workspaces.queue.push_back(Queued {
            name,
            order,
            run: None,
            then: Then::Tell(asked),
        });
        Ok(None)
    }

    fn name_of(&self, id: &SandboxId) -> Option<Name> {
        place::of(&self.workspaces.dir, id)
    }

    fn settle(
        &mut self,
        id: &SandboxId,
        then: Settle,
        asked: Asked,
    ) -> Result<Option<Reply>, Refusal> {
        match self.workspaces.runs.get_mut(id).map(|run| &mut run.phase) {
            Some(Phase::Live(said @ None)) => {
                *said = Some((then, asked));
                Ok(None)
            }
            Some(Phase::Ended(_)) => {
                self.carry_out(id, then, asked);
                Ok(None)
            }
            Some(Phase::Live(Some(_)) | Phase::Working) => Err(refusal(
                RefusalReason::Exists,
                format!("it was said already what becomes of the layer of {id}"),
                "settle a layer once",
            )),
            None => Err(refusal(
                RefusalReason::NotFound,
                format!("there is no layer of a sandbox {id}"),
                "its plan says what became of it; see `pawctl workspace list`",
            )),
        }
    }

    /// The sandbox of a layer is gone. What is killed or late is not asked about when nothing of it is to be kept anyway.
    pub(crate) fn layer_ended(&mut self, id: &SandboxId, cut_off: bool, now: Instant) {
        let Some(run) = self.workspaces.runs.get_mut(id) else {
            return;
        };
        let said = match run.phase {
            Phase::Live(said) => said,
            Phase::Ended(_) | Phase::Working => return,
        };
        if run.layer.is_none() || self.stopping {
            self.workspaces.close(id);
            return;
        }
        run.phase = Phase::Ended(now + PATIENCE);
        let at_once = cut_off && run.otherwise.0 == Settle::Discard;
        match said {
            Some((then, asked)) => self.carry_out(id, then, asked),
            None if at_once => self.workspaces.otherwise(id),
            None => {}
        }
    }

    fn carry_out(&mut self, id: &SandboxId, then: Settle, asked: Asked) {
        match then {
            Settle::Commit => self.workspaces.collect(id, true, asked),
            Settle::Stage => self.workspaces.collect(id, false, asked),
            Settle::Discard => {
                self.workspaces.close(id);
                let answer = Answer::Settled(Settled {
                    then,
                    changes: 0,
                    left_out: Vec::new(),
                    dropped: Vec::new(),
                });
                let reply = done(&answer).unwrap_or_else(Reply::Refused);
                self.respond(asked, reply);
            }
        }
    }

    fn respond(&mut self, asked: Asked, reply: Reply) {
        if let Asked::Connection(connection, seq) = asked
            && let Err(error) = self.reply(connection, seq, reply)
        {
            self.close(connection, &error);
        }
    }

    /// Has the workspace of a plan copied, and the sandbox made after that.
    pub(crate) fn copy_then_make(&mut self, plan: Approved, asked: Request, terms: Terms) {
        let Some(run) = self.workspaces.runs.get(&plan.id) else {
            return;
        };
        self.workspaces.queue.push_back(Queued {
            name: run.name.clone(),
            order: Order::Copy {
                generation: run.generation,
            },
            run: Some(plan.id.clone()),
            then: Then::Make(asked, Box::new(plan), terms),
        });
    }

    /// Begins what can begin.
    pub(crate) fn begin_orders(&mut self, now: Instant) {
        while self.jobs.has_room(Program::Workspace)
            && let Some(queued) = self.workspaces.take()
        {
            let ticket = self.workspaces.next;
            self.workspaces.next += 1;
            let begun = self.order_job(&queued).and_then(|job| {
                self.jobs
                    .begin(&self.host, job, Asked::Workspace(ticket), now)
            });
            match begun {
                Ok(()) => drop(self.workspaces.working.insert(ticket, queued)),
                Err(refusal) => self.answered(queued, Reply::Refused(refusal), now),
            }
        }
    }

    fn order_job(&self, queued: &Queued) -> Result<Job, Refusal> {
        let now_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        let task = Task {
            order: queued.order.clone(),
            bounds: self.host.ceilings.workspaces.bounds(),
            now_ms,
            live: self.workspaces.live(&queued.name),
        };
        let order = serde_json::to_value(task).map_err(|error| {
            refusal(
                RefusalReason::Failed,
                format!("the order cannot be written as JSON: {error}"),
                "report this as a fault",
            )
        })?;
        let root = self.workspaces.dir.join(queued.name.as_str());
        let run = queued
            .run
            .as_ref()
            .and_then(|id| self.workspaces.runs.get(id));
        let owner = match run {
            Some(run) => run.owner,
            None => self.slots.owner(&queued.name).ok_or_else(|| {
                refusal(
                    RefusalReason::Failed,
                    format!("nobody is known to own the workspace {}", queued.name),
                    "start paw-launcher again, which looks who does",
                )
            })?,
        };
        let mut arguments: Vec<OsString> = vec![owner.to_string().into(), root.into()];
        arguments.push(
            run.and_then(|run| run.layer.as_ref())
                .map(|layer| layer.left().into())
                .unwrap_or_default(),
        );
        Ok(Job {
            program: Program::Workspace,
            arguments,
            order,
            fds: Vec::new(),
            limits: self.order_limits(&queued.order),
        })
    }

    /// What an order may use. The pages of a copy count as the memory of who fills it, so they come on top.
    fn order_limits(&self, order: &Order) -> Limits {
        let copy = match order {
            Order::Copy { .. } => self.host.ceilings.workspaces.of_a_copy().bytes,
            Order::Collect { .. }
            | Order::Diff { .. }
            | Order::Commit { .. }
            | Order::Discard { .. }
            | Order::Undo { .. }
            | Order::List => 0,
        };
        Limits {
            memory: LIMITS.memory.saturating_add(copy),
            ..LIMITS
        }
    }

    /// An order is done, or could not be.
    pub(crate) fn order_over(&mut self, ticket: u64, reply: Reply, now: Instant) {
        if let Some(queued) = self.workspaces.working.remove(&ticket) {
            self.answered(queued, reply, now);
        }
    }

    fn answered(&mut self, queued: Queued, reply: Reply, now: Instant) {
        match queued.then {
            Then::Tell(asked) => {
                if let Some(id) = queued.run {
                    // Collected, or beyond help: either way the run's own part is over.
                    self.workspaces.close(&id);
                }
                self.respond(asked, reply);
            }
            Then::Make(asked, plan, terms) => {
                let id = plan.id.clone();
                let made = copied(reply)
                    .and_then(|()| self.workspaces.bound(&id, plan.limits.disk))
                    .inspect_err(|_| {
                        self.slots.give_back(terms.slot);
                        self.workspaces.close(&id);
                    })
                    .and_then(|()| self.make(asked, *plan, terms, now));
                if let Err(refusal) = made {
                    let asked = Asked::Connection(asked.0, asked.1);
                    self.respond(asked, Reply::Refused(refusal));
                }
            }
        }
    }
}

/// Whether a copy was made.
fn copied(reply: Reply) -> Result<(), Refusal> {
    let failed =
        |message: String, remedy: &str| Err(refusal(RefusalReason::Failed, message, remedy));
    match reply {
        Reply::Refused(refusal) => Err(refusal),
        Reply::Done { result } => match serde_json::from_value(result) {
            Ok(Answer::Copied { .. }) => Ok(()),
            Ok(Answer::Refused(refused)) => failed(refused.message, &refused.remedy),
            Ok(_) | Err(_) => failed(
                "what paw-workspace answers is no answer".to_owned(),
                "install paw-launcher and its programs from one package",
            ),
        },
        _ => failed("there is no answer".to_owned(), "report this as a fault"),
    }
}

/// An answer that needs no job.
fn done(answer: &Answer) -> Result<Reply, Refusal> {
    serde_json::to_value(answer)
        .map(|result| Reply::Done { result })
        .map_err(|error| {
            refusal(
                RefusalReason::Failed,
                format!("the answer cannot be written as JSON: {error}"),
                "report this as a fault",
            )
        })
}
