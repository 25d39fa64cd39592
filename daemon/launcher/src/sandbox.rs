//! One sandbox, from the request to its end.
//!
//! ```text
//!            request
//!               ▼
//!  ┌─────── Creating ──► Greeting ──► Running ──────┐
//!  │  paw-create works   paw-init     Created was   │
//!  │  in its own         was started, said, its     │
//!  │  process            its hello    deadline      │
//!  │       │             is awaited   runs          │
//!  │       └──────────────┬───────────────┘         │
//!  │   failed, deadline   ▼  killed, deadline, exit │
//!  └─────────────────► Ending ◄─────────────────────┘
//!                         ▼  its last process is reaped, cgroup and directories are removed
//!                    Refused, or Ended
//! ```
//!
//! One that was prepared runs too, but waits for its first command: its deadline is then the bound of its waiting, until a
//! claim starts that of its plan. It is never without one.
//!
//! This module owns the steps and keeps each of them short; [`crate::serve`] owns the loop that calls them when something
//! happened. No step waits: processes are awaited by SIGCHLD, output by readiness, everything by a deadline.

mod seen;

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    rc::Rc,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use paw_confine::userns::{Extent, outside};
use paw_launch::{
    request::{Attestation, End, Limits, Usage},
    shim::CLEARING,
};
use paw_policy::Digest;
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use tracing::warn;

use crate::{
    attest::Expected,
    bundle::Bundle,
    ceilings::Approved,
    cgroup::Leaf,
    connection::ConnectionId,
    host::Host,
    runtime::Maker,
    spawn::{Order, Spawned, Streams, hear_hello, read_some},
    steps::{Step, Steps},
    sweep,
};

pub(crate) use crate::refused::CreateError;

/// How long making a sandbox may take, from the request to the attestation.
pub(crate) const CREATE_LIMIT: Duration = Duration::from_secs(10);

/// When to look again at a cgroup that the kernel still holds after its last process was reaped. There is no event for it.
const AGAIN: Duration = Duration::from_millis(5);

/// Where a sandbox is in its life.
#[derive(Debug)]
enum Phase {
    /// paw-create is at work.
    Creating { child: Pid, report: OwnedFd },
    /// paw-init was started; what it has said so far.
    Greeting { said: Vec<u8> },
    /// It was attested, and told to pawd.
    Running {
        attestation: Box<Attestation>,
        since: Instant,
    },
    /// It is being removed.
    Ending {
        since: Option<Instant>,
        why: Option<CreateError>,
        clearing: Clearing,
    },
}

/// Whether the runtime's own leftovers are cleared away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clearing {
    /// Its processes come first.
    Due,
    /// This child does it.
    By(Pid),
    Done,
}

/// A sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) plan: Approved,
    runtime: Rc<dyn Maker>,
    /// Who asked, and the number of the request.
    pub(crate) asked: (ConnectionId, u64),
    pub(crate) slot: u32,
    /// Its ids, in terms of the launcher's namespace.
    map: Vec<Extent>,
    phase: Phase,
    leaf: Leaf,
    /// What the leaf is limited to.
    limits: Limits,
    bundle: Bundle,
    init_digest: Digest,
    root_digest: Option<Digest>,
    streams: Streams,
    /// paw-init, or what lives and ends with it, from when it is known until it is reaped.
    init: Option<Pid>,
    exit: Option<(Option<i32>, Option<i32>)>,
    usage: Usage,
    oom_killed: bool,
    killed: bool,
    timed_out: bool,
    /// How long it may wait for its first command; nothing once it was claimed, or when it never was to wait.
    idle: Option<Duration>,
    deadline: Instant,
    steps: Steps,
}

/// What a finished sandbox leaves to be told.
#[derive(Debug)]
pub(crate) enum Finished {
    /// It never ran.
    Refused(CreateError),
    /// It ran.
    Ended(End, Usage),
}

#[derive(Deserialize)]
struct Report {
    pid: Option<i32>,
    error: Option<String>,
}

impl Sandbox {
    /// Makes everything that paw-create needs, and starts it.
    pub(crate) fn begin(
        host: &Host,
        runtime: Rc<dyn Maker>,
        plan: Approved,
        asked: (ConnectionId, u64),
        (slot, map): (u32, Vec<Extent>),
        idle: Option<Duration>,
        now: Instant,
    ) -> Result<Self, CreateError> {
        let mut steps = Steps::begin();
        let leaf = host.parent.leaf(&plan.id);
        let init_digest = host.init.digest().map_err(CreateError::Init)?;
        let root_digest = host.shipped.digest(&plan).map_err(CreateError::Root)?;
        // Without such an id nothing can belong to it, and nothing is mounted.
        let owner = outside(&map, 0).unwrap_or(u32::MAX);
        let bundle = host.bundles.make(&plan, owner, leaf.path(), &*runtime)?;
        let limits = runtime.leaf_limits(&plan.limits);
        let started = leaf
            .make()
            .and_then(|()| leaf.limit(&limits))
            .map_err(CreateError::from)
            .and_then(|()| {
                runtime.spawn(&Order {
                    id: plan.id.as_str(),
                    dir: &bundle.dir,
                    leaf: &leaf,
                    map: &map,
                })
            });
        match started {
            Ok(Spawned {
                child,
                report,
                ours,
            }) => {
                steps.done(Step::Prepare);
                let (phase, init) = match report {
                    Some(report) => (Phase::Creating { child, report }, None),
                    None => (Phase::Greeting { said: Vec::new() }, Some(child)),
                };
                Ok(Self {
                    plan,
                    runtime,
                    asked,
                    slot,
                    map,
                    phase,
                    leaf,
                    limits,
                    bundle,
                    init_digest,
                    root_digest,
                    streams: ours,
                    init,
                    exit: None,
                    usage: Usage::default(),
                    oom_killed: false,
                    killed: false,
                    timed_out: false,
                    idle,
                    deadline: now + CREATE_LIMIT,
                    steps,
                })
            }
            Err(error) => {
                remove(host, &plan, &leaf, &*runtime);
                Err(error)
            }
        }
    }

    /// Whether a reaped child is of this sandbox.
    pub(crate) fn owns(&self, pid: Pid) -> bool {
        self.init == Some(pid)
            || match self.phase {
                Phase::Creating { child, .. } => child == pid,
                Phase::Ending { clearing, .. } => clearing == Clearing::By(pid),
                Phase::Greeting { .. } | Phase::Running { .. } => false,
            }
    }

    /// A child of this sandbox was reaped: paw-create, or paw-init.
    pub(crate) fn reaped(
        &mut self,
        pid: Pid,
        code: Option<i32>,
        signal: Option<i32>,
        now: Instant,
    ) {
        if self.init == Some(pid) {
            self.init = None;
            self.exit = Some((code, signal));
            // Afterwards the cgroup is removed, and what it counted with it.
            self.steps.done(Step::Live);
            self.usage = self.leaf.usage();
            let told = self.runtime.told(&self.bundle.dir);
            self.oom_killed = self.leaf.oom_killed() || told.oom_killed;
            if let Some(why) = told.lost {
                if !matches!(self.phase, Phase::Ending { .. }) {
                    warn!(paw_sandbox = %self.plan.id, why, "a sandbox was lost; what is left of it is killed");
                }
                // Nobody saw how its first process ended; it is killed now if it is still there.
                self.exit = Some((None, Some(Signal::SIGKILL as i32)));
            }
            match &self.phase {
                Phase::Creating { .. } | Phase::Greeting { .. } => {
                    self.fail(CreateError::NoHello(self.last_words()), now)
                }
                Phase::Running { since, .. } => {
                    let since = Some(*since);
                    self.enter_ending(since, None, now);
                }
                Phase::Ending { .. } => self.deadline = now,
            }
            return;
        }
        if let Phase::Ending { clearing, .. } = &mut self.phase {
            *clearing = Clearing::Done;
            self.deadline = now;
            if code != Some(0) {
                // Whoever still runs for it could go on in a bundle that is being removed.
                self.kill_beside();
                warn!(paw_sandbox = %self.plan.id, code, signal, "the runtime's own leftovers are not all cleared away; the next start does");
            }
            return;
        }
        let Phase::Creating { report, .. } = &self.phase else {
            return;
        };
        self.steps.done(Step::Create);
        let said = read_some(report);
        let reported = said
            .lines()
            .rev()
            .find_map(|line| serde_json::from_str::<Report>(line).ok());
        let done = match reported {
            Some(Report { pid: Some(pid), .. }) if code == Some(0) => {
                self.init = Some(Pid::from_raw(pid));
                if self.killed {
                    Err(CreateError::Killed)
                } else {
                    self.start(pid)
                }
            }
            Some(Report {
                error: Some(error), ..
            }) => Err(CreateError::Created(error)),
            _ => Err(CreateError::Created(format!(
                "exit code {code:?}, signal {signal:?}: {}",
                said.trim()
            ))),
        };
        match done {
            Ok(()) => self.phase = Phase::Greeting { said: Vec::new() },
            Err(error) => self.fail(error, now),
        }
    }

    /// Lets paw-init go, once its limits are seen to bind it. Until then it has executed nothing.
    fn start(&self, pid: i32) -> Result<(), CreateError> {
        self.leaf.holds(pid)?;
        self.leaf.read_back(&self.limits)?;
        let run = self.bundle.dir.join("run").join(self.plan.id.as_str());
        // A socket's path may have 108 bytes; through the descriptor of its directory it is short wherever the state is.
        let dir = rustix::fs::open(&run, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| CreateError::Start(errno.into()))?;
        UnixStream::connect(format!("/proc/self/fd/{}/notify.sock", dir.as_raw_fd()))
            .and_then(|mut socket| io::Write::write_all(&mut socket, b"start"))
            .map_err(CreateError::Start)
    }

    /// paw-init, while it is known and not reaped.
    pub(crate) fn init(&self) -> Option<Pid> {
        self.init
    }

    /// The descriptor to wait for, while a hello is awaited.
    pub(crate) fn awaits_hello(&self) -> Option<&OwnedFd> {
        matches!(self.phase, Phase::Greeting { .. }).then_some(&self.streams.stdout)
    }

    /// paw-init said something. `true`: the sandbox runs now, and is attested.
    pub(crate) fn hear(&mut self, host: &Host, now: Instant) -> bool {
        let Phase::Greeting { said } = &mut self.phase else {
            return false;
        };
        match hear_hello(&self.streams.stdout, said) {
            Ok(false) => return false,
            Ok(true) => {}
            Err(CreateError::NoHello(_)) => {
                // Its descriptors are closed when it ends, all of them at once, so what it had to say is there already.
                self.fail(CreateError::NoHello(self.last_words()), now);
                return false;
            }
            Err(error) => {
                self.fail(error, now);
                return false;
            }
        }
        self.steps.done(Step::Greet);
        let Some(pid) = self.init else { return false };
        let expected = Expected {
            plan: &self.plan,
            limits: &self.limits,
            map: &self.map,
            dir: &self.bundle.dir,
            leaf: &self.leaf,
            bound: &self.bundle.bound,
            init_digest: self.init_digest,
            root_digest: self.root_digest,
            launcher_map: &host.map,
            landlock_abi: host.landlock_abi,
            unheld: &host.unheld,
            host_network: host.network,
        };
        match self.runtime.attest(pid.as_raw(), &expected) {
            Ok(attestation) => {
                self.steps.done(Step::Attest);
                self.deadline = now + self.idle.unwrap_or_else(|| self.life());
                self.phase = Phase::Running {
                    attestation: Box::new(attestation),
                    since: now,
                };
                true
            }
            Err(error) => {
                self.fail(error.into(), now);
                false
            }
        }
    }

    /// The life that its plan gives it.
    fn life(&self) -> Duration {
        Duration::from_millis(self.plan.limits.wall_ms)
    }

    /// Its waiting is over and its life begins. `false`: it does not wait.
    pub(crate) fn claim(&mut self, now: Instant) -> bool {
        let life = self.life();
        let waited = self.idle.take().is_some();
        // Of one that ended meanwhile its end is told, and that is not the claim's fault.
        if let Phase::Running { since, .. } = &mut self.phase
            && waited
        {
            *since = now;
            self.deadline = now + life;
        }
        waited
    }

    /// Whether it is there, or being made, to wait for its first command.
    pub(crate) fn is_to_wait(&self) -> bool {
        self.idle.is_some()
    }

    /// When something has to happen by itself.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Its deadline passed.
    pub(crate) fn overdue(&mut self, now: Instant) {
        match &self.phase {
            Phase::Creating { .. } | Phase::Greeting { .. } => self.fail(CreateError::TooSlow, now),
            Phase::Running { since, .. } => {
                let since = Some(*since);
                self.timed_out = true;
                self.enter_ending(since, None, now);
            }
            Phase::Ending { clearing, .. } => {
                if let Clearing::By(child) = clearing {
                    // It has had its time.
                    let _ = kill(*child, Signal::SIGKILL);
                }
                self.kill_processes();
            }
        }
    }

    /// Ends it, because pawd asked or the launcher stops.
    pub(crate) fn kill(&mut self, now: Instant) {
        self.killed = true;
        match &self.phase {
            // paw-create has children of its own, which only it knows. It is done in a moment, and then nothing is started.
            Phase::Creating { .. } => {}
            Phase::Greeting { .. } => self.fail(CreateError::Killed, now),
            Phase::Running { since, .. } => {
                let since = Some(*since);
                self.enter_ending(since, None, now);
            }
            Phase::Ending { .. } => self.kill_processes(),
        }
    }

    fn fail(&mut self, error: CreateError, now: Instant) {
        self.enter_ending(None, Some(error), now);
    }

    fn enter_ending(&mut self, since: Option<Instant>, why: Option<CreateError>, now: Instant) {
        if let Phase::Creating { child, .. } = self.phase {
            // It is ours and not reaped yet, or it would not be in this phase any more; or it was just reaped, and then this
            // number is nobody's.
            let _ = kill(child, Signal::SIGKILL);
        }
        self.phase = Phase::Ending {
            since,
            why,
            clearing: Clearing::Due,
        };
        self.kill_first();
        // Whoever else is in its leaf is looked for when this has passed, which it has.
        self.deadline = now;
    }

    /// The first process takes every other one of its pid namespace with it.
    fn kill_first(&self) {
        if let Some(init) = self.init {
            let _ = kill(init, Signal::SIGKILL);
        }
    }

    fn kill_processes(&self) {
        self.kill_first();
        if let Err(error) = sweep::kill_all(&self.leaf, &self.leaf.members()) {
            warn!(paw_sandbox = %self.plan.id, error = %paw_log::Chain(&error), "cannot kill a sandbox through its cgroup");
        }
    }

    /// Kills what the runtime runs beside the sandbox.
    fn kill_beside(&self) {
        if let Some(group) = self.runtime.beside(&self.leaf)
            && let Err(error) = sweep::kill_all(&group, &group.members())
        {
            warn!(paw_sandbox = %self.plan.id, error = %paw_log::Chain(&error), "cannot kill what the runtime runs beside a sandbox");
        }
    }

    /// Removes what is left, when its last process is gone. `None`: not yet; [`Sandbox::deadline`] says when to try again.
    pub(crate) fn finish(&mut self, host: &Host, now: Instant) -> Option<Finished> {
        if !matches!(self.phase, Phase::Ending { .. }) {
            return None;
        }
        let cleared = self.init.is_none() && self.clear(now);
        let Phase::Ending { since, why, .. } = &mut self.phase else {
            return None;
        };
        // Reaping comes first: SIGCHLD wakes the loop, so nothing has to be looked at before.
        if cleared {
            self.deadline = now + AGAIN;
        } else if self.init.is_some() {
            self.deadline = now + CREATE_LIMIT;
        }
        // A cgroup that has a member yet cannot be removed.
        if !cleared || !remove(host, &self.plan, &self.leaf, &*self.runtime) {
            return None;
        }
        self.steps.done(Step::Remove);
        self.steps.tell(self.runtime.name());
        Some(match why.take() {
            Some(error) => Finished::Refused(error),
            None => {
                let (exit_code, signal) = self.exit.unwrap_or_default();
                let end = End {
                    exit_code,
                    signal,
                    oom_killed: self.oom_killed,
                    timed_out: self.timed_out,
                    killed: self.killed,
                };
                let wall_ms = since.map_or(0, |since| seen::millis(now - since));
                Finished::Ended(
                    end,
                    Usage {
                        wall_ms,
                        ..self.usage
                    },
                )
            }
        })
    }

    /// Has the runtime's own leftovers cleared away. `true` when that is over.
    fn clear(&mut self, now: Instant) -> bool {
        let Phase::Ending { clearing, .. } = &mut self.phase else {
            return false;
        };
        if *clearing == Clearing::Due {
            let order = Order {
                id: self.plan.id.as_str(),
                dir: &self.bundle.dir,
                leaf: &self.leaf,
                map: &self.map,
            };
            *clearing = match self.runtime.clear(&order) {
                Ok(Some(child)) => {
                    self.deadline = now + CLEARING;
                    Clearing::By(child)
                }
                Ok(None) => Clearing::Done,
                Err(error) => {
                    warn!(paw_sandbox = %self.plan.id, error = %paw_log::Chain(&error), "cannot clear up behind the runtime; the next start does");
                    Clearing::Done
                }
            };
        }
        *clearing == Clearing::Done
    }

    /// What paw-init, or the last step before it, said on its stderr.
    fn last_words(&self) -> String {
        let said = read_some(&self.streams.stderr);
        let (code, signal) = self.exit.unwrap_or_default();
        if said.trim().is_empty() {
            format!("exit code {code:?}, signal {signal:?}")
        } else {
            said.trim().to_owned()
        }
    }
}

/// Removes cgroup and directories. `false`: the kernel still holds the cgroup.
fn remove(host: &Host, plan: &Approved, leaf: &Leaf, runtime: &dyn Maker) -> bool {
    let complain = |error: &dyn std::error::Error| {
        warn!(paw_sandbox = %plan.id, error = %paw_log::Chain(error), "cannot remove everything of a sandbox; the next start does");
    };
    match leaf.remove() {
        Ok(true) => {}
        Ok(false) => return false,
        Err(error) => complain(&error),
    }
    if let Err(error) = host.bundles.remove(plan.id.as_str(), runtime) {
        complain(&error);
    }
    true
}
