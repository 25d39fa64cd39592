//! Jobs: short-lived programs of ours that work on the launcher's state.
//!
//! Whatever takes longer than a moment, or reads what somebody else wrote, is not done in the launcher's own process. Which
//! programs there are is a closed list, and no request names one. Each job is a fresh process with nothing but one socket, in a
//! cgroup of its own, and with a deadline:
//!
//! ```text
//!  request ──► Joining ──────────► Working ────────► Ending ──► reply, with what came of it
//!              it enters the       it was told       │  its process is reaped,
//!              cgroup, confines    what to do        │  its cgroup removed
//!              itself, says so;    │                 │
//!              the launcher looks  └── deadline, died, nonsense: killed
//! ```
//!
//! No step waits: the loop of [`crate::serve`] calls when the socket is ready, a child was reaped or a deadline passed.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt, FdMapping};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        socket::{AddressFamily, SockFlag, SockType, socketpair},
    },
    unistd::Pid,
};
use paw_confine::report::{Confinement, ReportError};
use paw_launch::{
    job::{Charge, MAX_RESULT, Outcome, Ready, SOCKET},
    packet::{self, PacketError},
    request::{Limits, Refusal, RefusalReason, Reply, VERSION},
};
use serde_json::Value;
use tracing::{info, warn};

use crate::{
    ceilings::refusal,
    cgroup::{CgroupError, Leaf},
    connection::ConnectionId,
    host::Host,
    spawn, sweep,
};

/// Jobs of one program at the same time; who asks for one more is told to come again. Each program has its own, so that no workspace
/// waits for images that somebody adds.
const MAX_JOBS: usize = 2;

/// How long a job may take until it is in its cgroup and confined.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);

/// How long it may take to end, once it has answered or cannot any more.
const GRACE: Duration = Duration::from_secs(2);

/// When to look again at a cgroup that the kernel still holds after its last process was reaped. There is no event for it.
const AGAIN: Duration = Duration::from_millis(5);

/// The programs. None of them is ever named by a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Program {
    /// Keeps images; the only place where archives of others are read.
    Image,
    /// Works on one workspace, as its owner.
    Workspace,
}

impl Program {
    pub(crate) const ALL: [Self; 2] = [Self::Image, Self::Workspace];

    /// Its file in the directory of our programs.
    pub(crate) const fn file(self) -> &'static str {
        match self {
            Self::Image => "paw-image",
            Self::Workspace => "paw-workspace",
        }
    }

    /// What of our state it works on.
    pub(crate) const fn dir(self) -> &'static str {
        match self {
            Self::Image => "images",
            Self::Workspace => "workspaces",
        }
    }

    /// Capabilities that its work takes, as the kernel writes them.
    const fn capabilities(self) -> u64 {
        match self {
            Self::Image | Self::Workspace => 0,
        }
    }
}

/// A piece of work.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) program: Program,
    /// What it is started with, in front of the directories of its cgroup.
    pub(crate) arguments: Vec<OsString>,
    /// In the words of the program.
    pub(crate) order: Value,
    /// What came with the request and goes with the order.
    pub(crate) fds: Vec<OwnedFd>,
    /// Memory, processes and CPU of it, and how long it may work; it has no disk of its own.
    pub(crate) limits: Limits,
}

/// Who is told what came of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The launcher itself wants it done.
    Nobody,
    /// A request of a connection.
    Connection(ConnectionId, u64),
    /// An order on a workspace, by its ticket.
    Workspace(u64),
}

/// A job that is over, and what is to be told.
#[derive(Debug)]
pub(crate) struct Over {
    pub(crate) asked: Asked,
    pub(crate) reply: Reply,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Why nothing came of a job.
#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error("make the socket of the job")]
    Socket(#[source] Errno),
    #[error("make the pipe of the job")]
    Pipe(#[source] io::Error),
    #[error("start {0}")]
    Spawn(&'static str, #[source] io::Error),
    #[error("{0} speaks version {1}; this is {VERSION}")]
    Version(&'static str, u32),
    #[error("{program} has not confined itself: the kernel shows {shown}")]
    Unconfined {
        program: &'static str,
        shown: String,
    },
    #[error("{0} says something that is no answer")]
    Nonsense(&'static str, #[source] PacketError),
    #[error("tell {0} what to do")]
    Tell(&'static str, #[source] PacketError),
    #[error("what {0} answers is longer than {MAX_RESULT} bytes")]
    TooLong(&'static str),
    #[error("{program} ended without an answer: exit code {code:?}, signal {signal:?}: {said}")]
    Died {
        program: &'static str,
        code: Option<i32>,
        signal: Option<i32>,
        said: String,
    },
    #[error("{0} took more memory than it may have, {1} bytes")]
    Memory(&'static str, u64),
    #[error("{program} took longer than {} s", limit.as_secs())]
    TooSlow {
        program: &'static str,
        limit: Duration,
    },
    #[error("the launcher is stopping")]
    Stopping,
}

impl JobError {
    fn refusal(&self) -> Refusal {
        let remedy = match self {
            Self::Stopping => "ask again when it is back",
            Self::TooSlow { .. } | Self::Memory(..) => {
                "give it less to do; its limits are in the manual, launcher.toml(5)"
            }
            Self::Version(..) => "install paw-launcher and its programs from one package",
            _ => "see the journal of paw-launcher, and `pawctl doctor`",
        };
        refusal(
            RefusalReason::Failed,
            paw_log::Chain(self).to_string(),
            remedy,
        )
    }
}

#[derive(Debug)]
enum Phase {
    /// It begins; this is what it will be told.
    Joining { charge: Charge, fds: Vec<OwnedFd> },
    /// It was told.
    Working,
    /// What came of it is known; its process may still be there.
    Ending { reply: Reply, fds: Vec<OwnedFd> },
}

#[derive(Debug)]
struct Running {
    program: Program,
    asked: Asked,
    limits: Limits,
    leaf: Leaf,
    socket: OwnedFd,
    said: OwnedFd,
    /// Until it is reaped.
    child: Option<Pid>,
    phase: Phase,
    /// It closed its socket, so nothing more comes.
    closed: bool,
    deadline: Instant,
    since: Instant,
}

/// All jobs.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    running: BTreeMap<u64, Running>,
    next: u64,
    stopping: bool,
}

impl Jobs {
    /// Starts one. What comes of it is in [`Jobs::finish`].
    pub(crate) fn begin(
        &mut self,
        host: &Host,
        job: Job,
        asked: Asked,
        now: Instant,
    ) -> Result<(), Refusal> {
        if self.stopping {
            return Err(JobError::Stopping.refusal());
        }
        if !host.has_jobs {
            return Err(refusal(
                RefusalReason::Failed,
                "no jobs run here: this launcher is root on the host, and they expect to be nobody"
                    .to_owned(),
                "ask paw-launcher",
            ));
        }
        if !self.has_room(job.program) {
            return Err(refusal(
                RefusalReason::Full,
                format!("{MAX_JOBS} jobs of this kind are at work, which is the most"),
                "ask again when one of them is done",
            ));
        }
        let number = self.next;
        self.next += 1;
        let leaf = host.parent.job(number);
        let program = job.program;
        match start(host, &leaf, &job) {
            Ok((child, socket, said)) => {
                self.running.insert(
                    number,
                    Running {
                        program,
                        asked,
                        limits: job.limits,
                        leaf,
                        socket,
                        said,
                        child: Some(child),
                        phase: Phase::Joining {
                            charge: Charge { order: job.order },
                            fds: job.fds,
                        },
                        closed: false,
                        deadline: now + BEGIN_LIMIT,
                        since: now,
                    },
                );
                Ok(())
            }
            Err(error) => {
                if let Err(error) = leaf.remove() {
                    warn!(program = program.file(), error = %paw_log::Chain(&error), "cannot remove the cgroup of a job; the next start does");
                }
                Err(tell(program, &error))
            }
        }
    }

    /// Whether one more of this program can begin.
    pub(crate) fn has_room(&self, program: Program) -> bool {
        let same = self.running.values().filter(|job| job.program == program);
        !self.stopping && same.count() < MAX_JOBS
    }

    /// Which descriptors to wait for, by the number of their job.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.running
            .iter()
            // The end of a job that has answered, or cannot answer any more, is told by SIGCHLD.
            .filter(|(_, job)| !job.closed && !matches!(job.phase, Phase::Ending { .. }))
            .map(|(number, job)| (*number, job.socket.as_fd()))
    }

    /// When something has to happen by itself.
    pub(crate) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.running.values().map(|job| job.deadline)
    }

    /// A job said something.
    pub(crate) fn hear(&mut self, number: u64, now: Instant) {
        if let Some(job) = self.running.get_mut(&number) {
            job.hear(now);
        }
    }

    /// A child was reaped. `false`: it is none of these.
    pub(crate) fn reaped(
        &mut self,
        pid: Pid,
        code: Option<i32>,
        signal: Option<i32>,
        now: Instant,
    ) -> bool {
        let Some(job) = self.running.values_mut().find(|job| job.child == Some(pid)) else {
            return false;
        };
        job.reaped(code, signal, now);
        true
    }

    /// Whatever is overdue is killed.
    pub(crate) fn overdue(&mut self, now: Instant) {
        for job in self.running.values_mut().filter(|job| job.deadline <= now) {
            job.overdue(now);
        }
    }

    /// Ends every job, and lets none begin any more.
    pub(crate) fn stop(&mut self, now: Instant) {
        self.stopping = true;
        for job in self.running.values_mut() {
            job.fail(&JobError::Stopping, now);
        }
    }

    /// Whether none is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Lets go of those whose last trace is removed.
    pub(crate) fn finish(&mut self, now: Instant) -> Vec<Over> {
        let mut over = Vec::new();
        self.running.retain(|_, job| match job.finish(now) {
            Some(done) => {
                over.push(done);
                false
            }
            None => true,
        });
        over
    }
}

/// Makes the cgroup with its limits, and starts the program with nothing of ours but one end of a socket.
fn start(host: &Host, leaf: &Leaf, job: &Job) -> Result<(Pid, OwnedFd, OwnedFd), JobError> {
    let name = job.program.file();
    leaf.make()?;
    leaf.limit(&job.limits)?;
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(JobError::Socket)?;
    // Our end only: the job is meant to wait.
    let (reader, writer) = io::pipe().map_err(JobError::Pipe)?;
    let said = OwnedFd::from(reader);
    for fd in [&ours, &said] {
        rustix::io::ioctl_fionbio(fd, true).map_err(|errno| JobError::Pipe(errno.into()))?;
    }
    let program = host.programs.join(name);
    let child = Command::new(&program)
        .args(&job.arguments)
        .args(leaf.entrances())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer)
        .fd_mappings(vec![FdMapping {
            parent_fd: theirs,
            child_fd: SOCKET,
        }])
        .map_err(|collision| JobError::Spawn(name, io::Error::other(collision)))?
        .spawn()
        .map_err(|source| JobError::Spawn(name, source))?;
    let pid = i32::try_from(child.id())
        .map_err(|error| JobError::Spawn(name, io::Error::other(error)))?;
    Ok((Pid::from_raw(pid), ours, said))
}

impl Running {
    fn hear(&mut self, now: Instant) {
        let name = self.program.file();
        match &mut self.phase {
            Phase::Joining { charge, fds } => match packet::receive::<Ready>(self.socket.as_fd()) {
                Ok(received) if received.message.version == VERSION => {
                    let bound = self.child.map_or(Ok(()), |child| {
                        look(child, self.program, &self.leaf, &self.limits)
                    });
                    let told = bound.and_then(|()| {
                        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                        packet::send(self.socket.as_fd(), charge, &fds)
                            .map_err(|source| JobError::Tell(name, source))
                    });
                    match told {
                        Ok(()) => {
                            self.phase = Phase::Working;
                            self.deadline = now + Duration::from_millis(self.limits.wall_ms);
                        }
                        Err(error) => self.fail(&error, now),
                    }
                }
                Ok(received) => {
                    self.fail(&JobError::Version(name, received.message.version), now);
                }
                Err(error) => self.unheard(error, now),
            },
            Phase::Working => match packet::receive::<Outcome>(self.socket.as_fd()) {
                Ok(received) => match received.message {
                    Outcome::Done(result) if result.to_string().len() > MAX_RESULT => {
                        self.fail(&JobError::TooLong(name), now);
                    }
                    Outcome::Done(result) => {
                        self.settle(Reply::Done { result }, received.fds, now);
                    }
                    Outcome::Refused(refusal) => {
                        self.settle(Reply::Refused(refusal), Vec::new(), now);
                    }
                },
                Err(error) => self.unheard(error, now),
            },
            Phase::Ending { .. } => {}
        }
    }

    fn unheard(&mut self, error: PacketError, now: Instant) {
        match error {
            PacketError::WouldBlock => {}
            // It ended, and SIGCHLD is about to say how; or it has closed its only way to answer, and has no reason to live.
            PacketError::Closed => {
                self.closed = true;
                self.deadline = self.deadline.min(now + GRACE);
            }
            error => self.fail(&JobError::Nonsense(self.program.file(), error), now),
        }
    }

    fn reaped(&mut self, code: Option<i32>, signal: Option<i32>, now: Instant) {
        self.child = None;
        // It may have answered as its last act.
        self.hear(now);
        if !matches!(self.phase, Phase::Ending { .. }) {
            let error = if self.leaf.oom_killed() {
                JobError::Memory(self.program.file(), self.limits.memory)
            } else {
                self.died(code, signal)
            };
            self.fail(&error, now);
        }
        self.deadline = now;
    }

    fn died(&self, code: Option<i32>, signal: Option<i32>) -> JobError {
        JobError::Died {
            program: self.program.file(),
            code,
            signal,
            said: spawn::read_some(&self.said).trim().to_owned(),
        }
    }

    fn overdue(&mut self, now: Instant) {
        let limit = match self.phase {
            Phase::Joining { .. } => BEGIN_LIMIT,
            Phase::Working => Duration::from_millis(self.limits.wall_ms),
            Phase::Ending { .. } => return self.kill(),
        };
        let program = self.program.file();
        let error = if self.closed {
            self.died(None, None)
        } else {
            JobError::TooSlow { program, limit }
        };
        self.fail(&error, now);
    }

    /// Ends it, with this as what came of it unless something has.
    fn fail(&mut self, error: &JobError, now: Instant) {
        if !matches!(self.phase, Phase::Ending { .. }) {
            let reply = Reply::Refused(tell(self.program, error));
            self.settle(reply, Vec::new(), now);
        }
        self.deadline = now;
        self.kill();
    }

    fn settle(&mut self, reply: Reply, fds: Vec<OwnedFd>, now: Instant) {
        self.phase = Phase::Ending { reply, fds };
        self.deadline = now + GRACE;
    }

    fn kill(&self) {
        if let Some(child) = self.child {
            // It is ours and not reaped yet, so the number is its.
            let _ = kill(child, Signal::SIGKILL);
        }
        if let Err(error) = sweep::kill_all(&self.leaf, &self.leaf.members()) {
            warn!(program = self.program.file(), error = %paw_log::Chain(&error), "cannot kill a job through its cgroup");
        }
    }

    fn finish(&mut self, now: Instant) -> Option<Over> {
        let Phase::Ending { reply, fds } = &mut self.phase else {
            return None;
        };
        if self.child.is_some() {
            // SIGCHLD wakes the loop. A deadline that has passed was acted upon; the next one is for a process that the kernel
            // does not let go.
            self.deadline = self.deadline.max(now + AGAIN);
            return None;
        }
        self.deadline = now + AGAIN;
        if !self.leaf.members().is_empty() {
            return None;
        }
        match self.leaf.remove() {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                warn!(program = self.program.file(), error = %paw_log::Chain(&error), "cannot remove the cgroup of a job; the next start does");
            }
        }
        let wall_ms = u64::try_from((now - self.since).as_millis()).unwrap_or(u64::MAX);
        info!(
            program = self.program.file(),
            wall_ms,
            done = matches!(reply, Reply::Done { .. }),
            "job ended"
        );
        Some(Over {
            asked: self.asked,
            reply: std::mem::replace(reply, Reply::Killing),
            fds: std::mem::take(fds),
        })
    }
}

/// Whether a job is bound as it says: in its cgroup, with its limits, without rights, behind a filter.
fn look(child: Pid, program: Program, leaf: &Leaf, limits: &Limits) -> Result<(), JobError> {
    leaf.holds(child.as_raw())?;
    leaf.read_back(limits)?;
    let shown = Confinement::of(child.as_raw().unsigned_abs())?;
    let [_, permitted, effective, ..] = &shown.caps;
    // A filter is inherited, so what counts is that there are more of them than we have ourselves.
    let own = Confinement::of_self(None)?;
    let within = |set: &String| {
        u64::from_str_radix(set, 16).is_ok_and(|set| set & !program.capabilities() == 0)
    };
    if !within(permitted)
        || !within(effective)
        || !shown.no_new_privs
        || shown.seccomp != 2
        || (own.seccomp_filters > 0 && shown.seccomp_filters <= own.seccomp_filters)
    {
        return Err(JobError::Unconfined {
            program: program.file(),
            shown: format!(
                "capabilities {permitted} {effective}, no_new_privs {}, filters {} (ours are {})",
                shown.no_new_privs, shown.seccomp_filters, own.seccomp_filters
            ),
        });
    }
    Ok(())
}

/// Logs why nothing came of it, and makes it a refusal.
fn tell(program: Program, error: &JobError) -> Refusal {
    warn!(program = program.file(), error = %paw_log::Chain(error), "job failed");
    error.refusal()
}
