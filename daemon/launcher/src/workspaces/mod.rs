//! Workspaces: each run writes to a layer of its own, and what becomes of it is decided after its end.
//!
//! ```text
//!   create ──► Live ──sandbox is gone──► Ended ──► Working ──► gone
//!    (where overlays do not work:          │        paw-workspace collects, and commits where that was said
//!     a copy is made first)                ├─ discard: gone at once
//!                                          └─ nothing said for a while: staged
//! ```
//!
//! Orders on one workspace are carried out one after the other, by `paw-workspace`, which may touch that workspace and nothing else.
//! Nothing in here reads what a run wrote. A layer of which nothing was said when the launcher stops is gone with its run.
//!
//! - [`layer`]: how a layer is mounted, and whether it can be.
//! - [`place`]: where workspaces are.

pub(crate) mod layer;
pub(crate) mod place;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ffi::OsString,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use paw_launch::{
    request::{Limits, Refusal, RefusalReason, Reply, SandboxId},
    workspace::{Answer, Bounds, Order, Settle, Settled, Task, WorkspaceRequest},
};
use paw_policy::Name;
use serde::Deserialize;
use tracing::{info, warn};

use self::layer::{Layer, LayerError, Quota};
use crate::{
    ceilings::{Approved, refusal},
    connection::ConnectionId,
    job::{Asked, Job, Program},
    sandbox::Terms,
    serve::Launcher,
    slots::WorkspaceError,
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

/// `[workspaces]` of `launcher.toml`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WorkspaceSettings {
    /// Whether overlays are used where they work; if not, each run that writes gets a copy.
    pub(crate) overlay: bool,
    pub(crate) bytes: u64,
    pub(crate) files: u32,
    pub(crate) pending: u32,
    pub(crate) pending_days: u32,
    pub(crate) undo: u32,
    pub(crate) undo_bytes: u64,
}

impl Default for WorkspaceSettings {
    fn default() -> Self {
        Self {
            overlay: true,
            bytes: 1 << 30,
            files: 50_000,
            pending: 16,
            pending_days: 30,
            undo: 32,
            undo_bytes: 1 << 30,
        }
    }
}

impl WorkspaceSettings {
    fn bounds(&self) -> Bounds {
        Bounds {
            bytes: self.bytes,
            files: self.files,
            pending: self.pending,
            pending_ms: u64::from(self.pending_days) * 24 * 3600 * 1000,
            undo: self.undo,
            undo_bytes: self.undo_bytes,
        }
    }
}

/// All workspaces, and what is done with them.
#[derive(Debug)]
pub(crate) struct Workspaces {
    dir: PathBuf,
    layers: PathBuf,
    /// Why nothing can be written here, if that is so.
    unwritable: Option<&'static str>,
    /// Why a layer is a copy here and no overlay.
    pub(crate) no_overlay: Option<String>,
    runs: BTreeMap<SandboxId, Run>,
    queue: VecDeque<Queued>,
    /// By the number of their tickets.
    working: BTreeMap<u64, Queued>,
    next: u64,
}

/// A sandbox that sees a workspace.
#[derive(Debug)]
struct Run {
    name: Name,
    owner: u32,
    generation: u64,
    /// Nothing for a sandbox that only reads.
    layer: Option<Layer>,
    /// What becomes of the layer when nobody says it, and whose it is.
    otherwise: (Settle, Option<u32>),
    phase: Phase,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Its sandbox is there; what was said before its end, and who is told.
    Live(Option<(Settle, Asked)>),
    /// Nothing was said; at this time it becomes of it what its plan says.
    Ended(Instant),
    Working,
}

/// What an overlay is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overlay {
    /// A generation of the workspace, which is not changed.
    pub(crate) lower: PathBuf,
    /// What the run writes.
    pub(crate) upper: PathBuf,
    /// The overlay's own directory.
    pub(crate) work: PathBuf,
}

/// An order that waits or is carried out.
#[derive(Debug)]
struct Queued {
    name: Name,
    order: Order,
    /// Whose directory goes with it.
    run: Option<SandboxId>,
    then: Then,
}

/// What its answer is for.
#[derive(Debug)]
enum Then {
    /// For whoever asked, if anybody did.
    Tell(Asked),
    /// The sandbox can be made now.
    Make(Request, Box<Approved>, Terms),
}

/// A request of a connection.
type Request = (ConnectionId, u64);

/// What has to happen before the sandbox of a plan can be made.
pub(crate) enum Before {
    /// Nothing.
    Nothing,
    /// A copy, which takes its time.
    Copy,
}

impl Workspaces {
    pub(crate) fn new(dir: PathBuf, layers: PathBuf, overlay: Result<(), LayerError>) -> Self {
        let no_overlay = overlay
            .err()
            .map(|error| paw_log::Chain(&error).to_string());
        if let Some(why) = &no_overlay {
            warn!(
                why,
                "no overlays here: each run that writes to a workspace gets a copy of it"
            );
        }
        Self {
            dir,
            layers,
            unwritable: None,
            no_overlay,
            runs: BTreeMap::new(),
            queue: VecDeque::new(),
            working: BTreeMap::new(),
            next: 0,
        }
    }

    /// Workspaces that can only be read, and why.
    pub(crate) fn only_read(dir: PathBuf, why: &'static str) -> Self {
        Self {
            layers: dir.clone(),
            dir,
            unwritable: Some(why),
            no_overlay: None,
            runs: BTreeMap::new(),
            queue: VecDeque::new(),
            working: BTreeMap::new(),
            next: 0,
        }
    }

    /// Gives the mounts of a plan their sources: a generation to read, or a layer to write.
    pub(crate) fn open(
        &mut self,
        plan: &mut Approved,
        owner: u32,
        bounds: &WorkspaceSettings,
    ) -> Result<Before, Refusal> {
        let Some(name) = plan.workspace().cloned() else {
            return Ok(Before::Nothing);
        };
        let failed = |error: &dyn std::error::Error| {
            refusal(
                RefusalReason::Failed,
                paw_log::Chain(error).to_string(),
                "see the journal of paw-launcher",
            )
        };
        let (generation, files) =
            place::current(&self.dir, &name).map_err(|error: WorkspaceError| failed(&error))?;
        let writes = plan
            .mounts
            .iter()
            .any(|mount| mount.workspace.is_some() && mount.writable);
        let mut before = Before::Nothing;
        let mut layer = None;
        let mut source = files.clone();
        if writes {
            if let Some(why) = self.unwritable {
                return Err(refusal(
                    RefusalReason::Runtime,
                    format!("the workspace {name} cannot be written to: {why}"),
                    "use the runtime native or gvisor for what writes to a workspace",
                ));
            }
            if place::has(&self.dir, &name, &plan.id) || self.runs.contains_key(&plan.id) {
                return Err(refusal(
                    RefusalReason::Exists,
                    format!(
                        "the workspace {name} has something of a sandbox {}",
                        plan.id
                    ),
                    "use a new id",
                ));
            }
            let dir = self.layers.join(plan.id.as_str());
            let made = match &self.no_overlay {
                None => Layer::overlay(&dir, &files, owner, Quota::of(plan.limits.disk)),
                Some(_) => {
                    before = Before::Copy;
                    // The copy counts, too: there is room for all of a workspace beside what the run may write.
                    let quota = Quota {
                        bytes: plan.limits.disk + bounds.bytes,
                        inodes: Quota::of(plan.limits.disk).inodes + u64::from(bounds.files),
                    };
                    Layer::copy(&dir, owner, quota)
                }
            };
            let made = made.map_err(|error| failed(&error))?;
            source = made.merged();
            plan.overlay = made.lower.clone().map(|lower| Overlay {
                lower,
                upper: made.left(),
                work: made.work(),
            });
            layer = Some(made);
        }
        let mut otherwise = (Settle::Discard, None);
        for mount in plan
            .mounts
            .iter_mut()
            .filter(|mount| mount.workspace.is_some())
        {
            mount.source.clone_from(&source);
            if mount.writable {
                otherwise = mount.layer;
            }
        }
        self.runs.insert(
            plan.id.clone(),
            Run {
                name,
                owner,
                generation,
                layer,
                otherwise,
                phase: Phase::Live(None),
            },
        );
        Ok(before)
    }

    /// Forgets what a run wrote.
    pub(crate) fn close(&mut self, id: &SandboxId) {
        if let Some(layer) = self.runs.remove(id).and_then(|run| run.layer) {
            layer.close();
        }
    }

    /// When something has to happen by itself.
    pub(crate) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.runs.values().filter_map(|run| match run.phase {
            Phase::Ended(until) => Some(until),
            Phase::Live(_) | Phase::Working => None,
        })
    }

    /// Of layers of which nothing was said for too long becomes what their plans say.
    pub(crate) fn overdue(&mut self, now: Instant) {
        let overdue: Vec<SandboxId> = self
            .runs
            .iter()
            .filter(|(_, run)| matches!(run.phase, Phase::Ended(until) if until <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in overdue {
            self.otherwise(&id);
        }
    }

    fn otherwise(&mut self, id: &SandboxId) {
        let Some(then) = self.runs.get(id).map(|run| run.otherwise.0) else {
            return;
        };
        info!(paw_sandbox = %id, ?then, "nobody said what becomes of a layer");
        match then {
            Settle::Discard => self.close(id),
            Settle::Stage => self.collect(id, false, Asked::Nobody),
            Settle::Commit => self.collect(id, true, Asked::Nobody),
        }
    }

    fn collect(&mut self, id: &SandboxId, commit: bool, asked: Asked) {
        let Some(run) = self.runs.get_mut(id) else {
            return;
        };
        run.phase = Phase::Working;
        let order = Order::Collect {
            layer: id.clone(),
            generation: run.generation,
            overlay: run
                .layer
                .as_ref()
                .is_some_and(|layer| layer.lower.is_some()),
            owner: run.otherwise.1,
            commit,
        };
        let name = run.name.clone();
        self.queue.push_back(Queued {
            name,
            order,
            run: Some(id.clone()),
            then: Then::Tell(asked),
        });
    }

    /// Generations of a workspace that a sandbox sees.
    fn live(&self, name: &Name) -> Vec<u64> {
        let seen: BTreeSet<u64> = self
            .runs
            .values()
            .filter(|run| run.name == *name)
            .map(|run| run.generation)
            .collect();
        seen.into_iter().collect()
    }

    /// Takes the next order whose workspace nobody works on.
    fn take(&mut self) -> Option<Queued> {
        let busy: BTreeSet<&Name> = self.working.values().map(|order| &order.name).collect();
        let at = self
            .queue
            .iter()
            .position(|order| !busy.contains(&order.name))?;
        self.queue.remove(at)
    }

    /// The launcher stops: what is not begun is not done, and nothing will be said any more.
    pub(crate) fn abandon(&mut self) {
        for queued in std::mem::take(&mut self.queue) {
            if let Some(id) = queued.run {
                self.close(&id);
            }
        }
        let ended: Vec<SandboxId> = self
            .runs
            .iter()
            .filter(|(_, run)| matches!(run.phase, Phase::Ended(_)))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ended {
            warn!(paw_sandbox = %id, "the launcher stops before anybody said what becomes of a layer; it is gone");
            self.close(&id);
        }
    }
}

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
            WorkspaceRequest::Undo { id: layer } => (
                self.name_of(&layer).ok_or_else(|| nothing(&layer))?,
                Order::Undo { layer },
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
        while self.jobs.has_room()
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
            None => self.slots.owner(&queued.name).unwrap_or(0),
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
            limits: LIMITS,
        })
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
