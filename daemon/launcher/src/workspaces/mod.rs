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
//! - `orders`: what pawd asks, and how it is carried out.
//! - [`layer`]: how a layer is mounted, and whether it can be.
//! - [`place`]: where workspaces are.

pub(crate) mod layer;
mod orders;
pub(crate) mod place;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    time::Instant,
};

use paw_launch::{
    request::{Refusal, RefusalReason, SandboxId},
    workspace::{Bounds, Order, Settle},
};
use paw_policy::Name;
use serde::Deserialize;
use tracing::{info, warn};

use self::layer::{Layer, LayerError, Quota};
use crate::{
    answer::Terms,
    ceilings::{Approved, refusal},
    connection::ConnectionId,
    job::Asked,
    slots::WorkspaceError,
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
    /// What a copy of a workspace may take.
    fn of_a_copy(&self) -> Quota {
        Quota::of_a_copy(self.bytes, self.files)
    }

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
    /// Why there are none here, if that is so.
    none: Option<&'static str>,
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
            none: None,
            no_overlay,
            runs: BTreeMap::new(),
            queue: VecDeque::new(),
            working: BTreeMap::new(),
            next: 0,
        }
    }

    /// None at all, and why.
    pub(crate) fn none(dir: PathBuf, why: &'static str) -> Self {
        Self {
            layers: dir.clone(),
            dir,
            none: Some(why),
            no_overlay: None,
            runs: BTreeMap::new(),
            queue: VecDeque::new(),
            working: BTreeMap::new(),
            next: 0,
        }
    }

    /// Why a workspace cannot be seen by any sandbox here, if that is so.
    pub(crate) fn objection(&self, name: &Name) -> Option<Refusal> {
        self.none.map(|why| {
            refusal(
                RefusalReason::Runtime,
                format!("the workspace {name} cannot be used by this runtime: {why}"),
                "use the runtime native or gvisor for what needs a workspace",
            )
        })
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
                    Layer::copy(&dir, owner, bounds.of_a_copy())
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

    /// The copy of a run is there: what the run may write on top of it is bounded by its plan's `disk`.
    fn bound(&self, id: &SandboxId, disk: u64) -> Result<(), Refusal> {
        let layer = self.runs.get(id).and_then(|run| run.layer.as_ref());
        layer
            .map_or(Ok(()), |layer| layer.bound(Quota::of(disk)))
            .map_err(|error| {
                refusal(
                    RefusalReason::Failed,
                    paw_log::Chain(&error).to_string(),
                    "see the journal of paw-launcher",
                )
            })
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
