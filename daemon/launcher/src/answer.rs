//! What pawd may ask, one branch for each request.

use std::{
    ops::Bound,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use paw_launch::{
    packet::PacketError,
    request::{
        Image, MAX_LISTED, Numbered, Refusal, RefusalReason, Reply, Request, SandboxId,
        SandboxPlan, VERSION,
    },
};

use crate::{
    ceilings::{Approved, ceiling, refusal},
    connection::{ConnectionError, ConnectionId},
    job::Asked,
    sandbox::Sandbox,
    serve::{Launcher, tell},
    workspaces::Before,
};

/// What was set aside for a sandbox before it is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Its range of ids.
    pub(crate) slot: u32,
    /// The id of the workspace that it mounts.
    pub(crate) owner: Option<u32>,
    /// How long it may wait for its first command, if it is to wait for one.
    pub(crate) idle: Option<Duration>,
}

impl Launcher {
    /// A packet that is no request has no number that could be repeated; what answers has number 0.
    pub(crate) fn malformed(
        &mut self,
        id: ConnectionId,
        error: &PacketError,
    ) -> Result<(), ConnectionError> {
        let message = paw_log::Chain(error).to_string();
        self.reply(
            id,
            0,
            Reply::Refused(refusal(
                RefusalReason::Malformed,
                message,
                "use the same version of pawd and paw-launcher",
            )),
        )
    }

    /// Descriptors that came with a request which takes none are closed.
    pub(crate) fn answer(
        &mut self,
        id: ConnectionId,
        Numbered { seq, request }: Numbered,
        fds: Vec<OwnedFd>,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        let greeted = self
            .connections
            .iter_mut()
            .find(|connection| connection.id == id)
            .map(|connection| &mut connection.greeted);
        let reply = match (request, greeted) {
            (Request::Hello { version }, Some(greeted)) if version == VERSION => {
                *greeted = true;
                Reply::Hello {
                    version: VERSION,
                    pid: std::process::id(),
                }
            }
            (Request::Hello { version }, _) => {
                let message = format!("version {version} of the protocol; this is {VERSION}");
                Reply::Refused(refusal(
                    RefusalReason::Malformed,
                    message,
                    "restart pawd and paw-launcher after an upgrade",
                ))
            }
            (_, Some(false) | None) => Reply::Refused(refusal(
                RefusalReason::Malformed,
                "the first request is no hello".to_owned(),
                "say hello first",
            )),
            (Request::Create(plan), _) => match self.create((id, seq), *plan, None, now) {
                // The reply follows when the sandbox is attested.
                Ok(()) => return Ok(()),
                Err(refusal) => Reply::Refused(refusal),
            },
            (Request::Prepare { plan, idle_ms }, _) => {
                match self.prepare((id, seq), *plan, idle_ms, now) {
                    Ok(()) => return Ok(()),
                    Err(refusal) => Reply::Refused(refusal),
                }
            }
            (Request::Claim { id }, _) => self.claim(&id, now),
            (Request::Kill { id }, _) => match self.sandboxes.get_mut(&id) {
                Some(sandbox) => {
                    sandbox.kill(now);
                    Reply::Killing
                }
                None => not_found(&id),
            },
            (Request::Attach { id: sandbox }, _) => return self.attach(id, seq, &sandbox),
            (Request::List, _) => self.list(Bound::Unbounded, now),
            (Request::ListAfter { id }, _) => self.list(Bound::Excluded(id), now),
            (Request::Stats { id }, _) => match self
                .sandboxes
                .get(&id)
                .and_then(|sandbox| sandbox.usage(now))
            {
                Some(usage) => Reply::Stats(usage),
                None => not_found(&id),
            },
            (Request::Runtimes, _) => Reply::Runtimes {
                runtimes: self.host.runtimes.states(),
            },
            (Request::Status, _) => self.status(now),
            (Request::Image { order }, _) => {
                let begun = self.image(order, fds).and_then(|job| {
                    let asked = Asked::Connection(id, seq);
                    self.jobs.begin(&self.host, job, asked, now)
                });
                match begun {
                    // The reply follows when the job is over.
                    Ok(()) => return Ok(()),
                    Err(refusal) => Reply::Refused(refusal),
                }
            }
            (Request::Workspaces { about }, _) => {
                match self.workspace(about, Asked::Connection(id, seq)) {
                    Ok(Some(reply)) => reply,
                    // The reply follows when the order is carried out.
                    Ok(None) => return Ok(()),
                    Err(refusal) => Reply::Refused(refusal),
                }
            }
        };
        self.reply(id, seq, reply)
    }

    /// Begins to make a sandbox; `idle` is how long it may wait for its first command, if it is to wait for one.
    pub(crate) fn create(
        &mut self,
        asked: (ConnectionId, u64),
        plan: SandboxPlan,
        idle: Option<Duration>,
        now: Instant,
    ) -> Result<(), Refusal> {
        if self.stopping {
            return Err(refusal(
                RefusalReason::Failed,
                "the launcher is stopping".to_owned(),
                "ask again when it is back",
            ));
        }
        if self.sandboxes.contains_key(&plan.id) {
            return Err(refusal(
                RefusalReason::Exists,
                format!("there is a sandbox {}", plan.id),
                "use a new id",
            ));
        }
        let max = self.host.ceilings.max_sandboxes;
        if self.sandboxes.len() >= usize::try_from(max).unwrap_or(usize::MAX) {
            let message = format!("{max} sandboxes are there, which is the most");
            return Err(refusal(
                RefusalReason::Full,
                message,
                "wait for one to end, or raise max_sandboxes in launcher.toml",
            ));
        }
        let is_named = matches!(plan.image, Image::Named(_));
        let approved = self.host.ceilings.approve(
            plan,
            &self.host.data,
            &self.host.state,
            self.host.skills.as_deref(),
        );
        let mut plan = approved.map_err(|error| {
            if is_named && error.reason == RefusalReason::Missing && !self.host.has_jobs {
                let remedy = "use the runtime native or gvisor for an added image; one of a directory below image_dirs of \
                    launcher-kata.toml can be used by its path";
                refusal(
                    RefusalReason::Missing,
                    format!("{} that came with the package; added ones are kept by paw-launcher", error.message),
                    remedy,
                )
            } else {
                error
            }
        })?;
        let runtime = self.host.runtimes.get(plan.runtime)?;
        if runtime.isolation() < plan.floor {
            let message = format!(
                "the runtime {} isolates by {} here, and the plan asks for {} at least",
                plan.runtime,
                runtime.isolation(),
                plan.floor
            );
            return Err(refusal(
                RefusalReason::Runtime,
                message,
                "see `pawctl sandbox runtimes`; nothing weaker takes its place",
            ));
        }
        if let Some(objection) = runtime.objection(&plan.limits) {
            return Err(ceiling(&objection, "ask for a limit that it can keep"));
        }
        if let Some(objection) = plan
            .workspace()
            .and_then(|name| self.workspaces.objection(name))
        {
            return Err(objection);
        }
        let owner = match plan.workspace() {
            Some(name) => Some(self.slots.workspace(name).map_err(|error| {
                refusal(
                    RefusalReason::Failed,
                    paw_log::Chain(&error).to_string(),
                    "see the journal of paw-launcher",
                )
            })?),
            None => None,
        };
        let settings = &self.host.ceilings.workspaces;
        let before = self
            .workspaces
            .open(&mut plan, owner.unwrap_or(0), settings)?;
        let Some(slot) = self.slots.take() else {
            self.workspaces.close(&plan.id);
            return Err(refusal(
                RefusalReason::Full,
                "no range of ids is free".to_owned(),
                "wait for a sandbox to end",
            ));
        };
        let terms = Terms { slot, owner, idle };
        match before {
            Before::Nothing => self.make(asked, plan, terms, now),
            Before::Copy => {
                self.copy_then_make(plan, asked, terms);
                Ok(())
            }
        }
    }

    /// Makes an approved sandbox, whose ids are taken and whose workspace, if it has one, is ready.
    pub(crate) fn make(
        &mut self,
        asked: (ConnectionId, u64),
        plan: Approved,
        Terms { slot, owner, idle }: Terms,
        now: Instant,
    ) -> Result<(), Refusal> {
        let id = plan.id.clone();
        let map = self.slots.map(slot, owner);
        // A runtime may have left while the workspace was copied.
        let begun = self.host.runtimes.get(plan.runtime).and_then(|runtime| {
            Sandbox::begin(&self.host, runtime, plan, asked, (slot, map), idle, now)
                .map_err(|error| tell(&id, &error))
        });
        match begun {
            Ok(sandbox) => {
                self.sandboxes.insert(id, sandbox);
                Ok(())
            }
            Err(refusal) => {
                self.slots.give_back(slot);
                self.workspaces.close(&id);
                Err(refusal)
            }
        }
    }

    pub(crate) fn attach(
        &mut self,
        id: ConnectionId,
        seq: u64,
        sandbox: &SandboxId,
    ) -> Result<(), ConnectionError> {
        let found = self
            .sandboxes
            .get(sandbox)
            .and_then(|sandbox| Some((sandbox.attestation()?.clone(), sandbox.descriptors())));
        match found {
            None => {
                let reply = match self.ends.of(sandbox) {
                    Some((end, usage)) => Reply::Ended { end, usage },
                    None => not_found(sandbox),
                };
                self.reply(id, seq, reply)
            }
            Some((attestation, Ok(fds))) => self.reply_with(
                id,
                seq,
                Reply::Created {
                    attestation: Box::new(attestation),
                },
                fds,
            ),
            Some((_, Err(error))) => {
                let message = format!("copy the descriptors of the sandbox: {error}");
                self.reply(
                    id,
                    seq,
                    Reply::Refused(refusal(
                        RefusalReason::Failed,
                        message,
                        "raise LimitNOFILE= of paw-launcher",
                    )),
                )
            }
        }
    }

    fn list(&self, from: Bound<SandboxId>, now: Instant) -> Reply {
        Reply::Sandboxes {
            sandboxes: self
                .sandboxes
                .range((from, Bound::Unbounded))
                .filter_map(|(_, sandbox)| sandbox.summary(now))
                .take(MAX_LISTED)
                .collect(),
        }
    }

    fn status(&self, now: Instant) -> Reply {
        let proc_status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let rss = paw_confine::report::Confinement::parse(&proc_status).map_or(0, |own| own.rss);
        let (waiting, running): (Vec<_>, Vec<_>) = self
            .sandboxes
            .values()
            .filter_map(|sandbox| sandbox.summary(now))
            .partition(|summary| summary.waiting);
        let count = |summaries: Vec<_>| u32::try_from(summaries.len()).unwrap_or(u32::MAX);
        Reply::Status {
            proc_status,
            landlock_abi: self.host.landlock_abi,
            rss,
            running: count(running),
            waiting: count(waiting),
            doorkeeper: self.host.doorkeeper,
            unheld: self.host.unheld.clone(),
            memory_watch: self.host.memory.watch(),
        }
    }
}

pub(crate) fn not_found(id: &SandboxId) -> Reply {
    Reply::Refused(refusal(
        RefusalReason::NotFound,
        format!("no sandbox {id}"),
        "list the sandboxes",
    ))
}
