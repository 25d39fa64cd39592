//! One command in one sandbox of its own, from the plan to the end.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use nix::sys::signal::Signal;
use paw_launch::{
    frame::{Exited, Size},
    request::{Attestation, End, SandboxId, SandboxPlan, Usage},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncRead,
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    egress::{EgressError, Net},
    frames::{Child, Exit, Output, Process, Sandbox, SandboxError, Starter},
    keep::{self, Command},
    pool::Origin,
    register::{Log, Stream},
};

/// How much later than the launcher we notice that a deadline has passed.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// The size of a terminal, and every other one that it is given.
pub type Sizes = watch::Receiver<Size>;

/// What to run.
pub struct RunSpec {
    /// The sandbox.
    pub plan: SandboxPlan,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment, `NAME=value`.
    pub env: Vec<String>,
    /// Absolute working directory inside.
    pub cwd: String,
    /// Its input; without one its stdin is at its end from the start.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// The size of its terminal, now and later; without one it has three pipes.
    pub terminal: Option<Sizes>,
    /// The most bytes of output that are passed on; the rest is thrown away, and [`RunEnd::output_truncated`] says so.
    pub most_output: u64,
    /// What it may reach; nothing at all without it.
    pub net: Option<Net>,
}

/// A further command for a sandbox that runs.
pub struct ExecSpec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment, `NAME=value`.
    pub env: Vec<String>,
    /// Absolute working directory inside.
    pub cwd: String,
    /// Its input; without one its stdin is at its end from the start.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// The size of its terminal, now and later; without one it has three pipes.
    pub terminal: Option<Sizes>,
    /// The most bytes of output that are passed on.
    pub most_output: u64,
    /// How long it may take; the sandbox may end before.
    pub limit: Duration,
}

/// What happens while it runs, in this order.
#[derive(Debug, Clone)]
pub enum RunEvent {
    /// The sandbox is there and attested; the command is about to start.
    Started {
        /// Which sandbox.
        id: SandboxId,
        /// What the kernel says it is.
        attestation: Box<Attestation>,
        /// Starts further commands in it.
        starter: Starter,
    },
    /// It wrote this to stdout.
    Stdout(Bytes),
    /// It wrote this to stderr.
    Stderr(Bytes),
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// How the command ended; nothing when the sandbox ended first, and `end` says why.
    pub exit: Option<Exited>,
    /// How the sandbox ended.
    pub end: End,
    /// What it used.
    pub usage: Usage,
    /// Whether some of the output was thrown away.
    pub output_truncated: bool,
}

/// Why it did not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The sandbox was not made, or the command was not started in it.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// It may reach something, and has no way there.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// Nobody takes the events any more; the sandbox was killed.
    #[error("whoever asked for it is gone; the sandbox was killed")]
    Abandoned,
    /// It could not be noted for a pawd that comes after this one, so it was not started.
    #[error("note the sandbox in the state of pawd")]
    NotNoted(#[source] io::Error),
    /// It goes on without this pawd.
    #[error("the command goes on and is taken on by the next pawd")]
    Left,
}

/// Where a command is noted, so that another pawd could go on with it.
#[derive(Clone)]
pub struct Noting {
    /// The log of its sandbox.
    pub log: Arc<Log>,
    /// The action that it is.
    pub action: Uuid,
    /// Whether what it says is noted too, and not only its end.
    pub output: bool,
}

impl Noting {
    fn begin(&self, number: u32, stdin: bool, most_output: u64) -> Result<(), RunError> {
        let command = Command {
            number,
            action: self.action,
            stdin,
            most_output,
            kept: self.output,
            stdout: 0,
            stderr: 0,
            exit: None,
        };
        self.log.begin(command).map_err(RunError::NotNoted)
    }
}

/// Takes or makes the sandbox, runs the command, and passes on what it says. A full `events` holds the command back. Dropping the
/// future kills the sandbox.
///
/// # Errors
/// When the sandbox could not be made, the command could not be started, or nobody takes `events` any more.
pub async fn run(
    origin: impl Into<Origin>,
    spec: RunSpec,
    events: &mpsc::Sender<RunEvent>,
) -> Result<RunEnd, RunError> {
    let never = CancellationToken::new();
    run_noted(origin, spec, events, |_| Ok(None), &never).await
}

/// As [`run()`], for a command that another pawd can go on with: `note` says where it is noted, which stands before it begins,
/// and `leave` lets go of it without ending it.
///
/// # Errors
/// As [`run()`], and when it cannot be noted.
pub async fn run_noted(
    origin: impl Into<Origin>,
    spec: RunSpec,
    events: &mpsc::Sender<RunEvent>,
    note: impl FnOnce(&Sandbox) -> io::Result<Option<Noting>>,
    leave: &CancellationToken,
) -> Result<RunEnd, RunError> {
    let RunSpec {
        plan,
        argv,
        env,
        cwd,
        stdin,
        mut terminal,
        most_output,
        net,
    } = spec;
    // First, because nothing has to be undone when it is refused.
    let way = match net {
        None => None,
        Some(net) => Some(net.begin(&plan.id).await?),
    };
    let wall = Duration::from_millis(plan.limits.wall_ms);
    let mut sandbox = tokio::select! {
        biased;
        // Nothing has begun, so there is nothing to go on with; whoever makes it sees that nobody waits.
        () = leave.cancelled() => return Err(RunError::Abandoned),
        made = origin.into().sandbox(plan) => made?,
    };
    if let Some(way) = way {
        sandbox.open_way(way).await?;
    }
    let deadline = Instant::now() + wall + GRACE;
    let noting = note(&sandbox).map_err(RunError::NotNoted)?;
    let started = RunEvent::Started {
        id: sandbox.id().clone(),
        attestation: Box::new(sandbox.attestation().clone()),
        starter: sandbox.starter().clone(),
    };
    events
        .send(started)
        .await
        .map_err(|_| RunError::Abandoned)?;

    let number = sandbox.starter().number();
    if let Some(noting) = &noting {
        noting.begin(number, stdin.is_some(), most_output)?;
    }
    let size = terminal.as_mut().map(now);
    let starting = sandbox
        .starter()
        .start_as(number, argv, env, cwd, most_output, size);
    let child = starting.await?;
    let attending = Attending {
        child,
        stdin,
        terminal,
        events: Some(events),
        noting: noting.as_ref(),
        deadline,
    };
    attend_run(sandbox, attending, leave).await
}

/// Sees a command and its sandbox through to their ends; `leave` lets go of both without ending either.
///
/// # Errors
/// When its end cannot be known, or nobody takes the events any more.
pub async fn attend_run(
    sandbox: Sandbox,
    attending: Attending<'_>,
    leave: &CancellationToken,
) -> Result<RunEnd, RunError> {
    let mut attending = attending;
    let attended = tokio::select! {
        biased;
        () = leave.cancelled(), if attending.noting.is_some() => None,
        exit = attending.until_its_end() => Some(exit),
    };
    let Some(exit) = attended else {
        sandbox.leave();
        return Err(RunError::Left);
    };
    let exit = match exit {
        Ok(exit) => exit,
        Err(error) => {
            if let RunError::Sandbox(_) = error {
                // It could not be started. That is told once nothing is left of it, whether its end can be known or not.
                let _ = sandbox.end(GRACE).await;
            }
            return Err(error);
        }
    };
    let output_truncated = attending.child.process.output_is_truncated();
    let (end, usage) = sandbox.end(GRACE).await?;
    Ok(RunEnd {
        exit,
        end,
        usage,
        output_truncated,
    })
}

/// Runs a further command in a sandbox that runs already, and passes on what it says, as [`run()`] does. When the sandbox ends
/// first, there is no exit.
///
/// # Errors
/// When the command could not be started, or nobody takes `events` any more; then it is killed.
pub async fn exec(
    starter: &Starter,
    spec: ExecSpec,
    events: &mpsc::Sender<RunEvent>,
    noting: Option<&Noting>,
    leave: &CancellationToken,
) -> Result<Option<Exit>, RunError> {
    let ExecSpec {
        argv,
        env,
        cwd,
        stdin,
        mut terminal,
        most_output,
        limit,
    } = spec;
    let deadline = Instant::now() + limit;
    let number = starter.number();
    if let Some(noting) = noting {
        noting.begin(number, stdin.is_some(), most_output)?;
    }
    let size = terminal.as_mut().map(now);
    let starting = starter.start_as(number, argv, env, cwd, most_output, size);
    let attending = Attending {
        child: starting.await?,
        stdin,
        terminal,
        events: Some(events),
        noting,
        deadline,
    };
    attend_exec(starter, attending, leave).await
}

/// Sees a further command through to its end, as [`attend_run`] does.
///
/// # Errors
/// As [`exec`].
pub async fn attend_exec(
    starter: &Starter,
    attending: Attending<'_>,
    leave: &CancellationToken,
) -> Result<Option<Exit>, RunError> {
    let mut attending = attending;
    let attended = tokio::select! {
        biased;
        () = leave.cancelled(), if attending.noting.is_some() => None,
        exit = attending.until_its_end() => Some(exit),
    };
    let Some(attended) = attended else {
        starter.leave();
        return Err(RunError::Left);
    };
    let process = &attending.child.process;
    if !matches!(attended, Ok(Some(_))) {
        // Whoever asked is gone, or it does not end; the sandbox and its other commands go on.
        drop(process.signal(Signal::SIGKILL).await);
    }
    let output_truncated = process.output_is_truncated();
    attended.map(|exited| {
        exited.map(|exited| Exit {
            exited,
            output_truncated,
        })
    })
}

/// A command that was started, and whoever has to do with it.
pub struct Attending<'a> {
    /// The command.
    pub child: Child,
    /// Its input.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Other sizes of its terminal, if it has one.
    pub terminal: Option<Sizes>,
    /// Who listens.
    pub events: Option<&'a mpsc::Sender<RunEvent>>,
    /// Where it is noted.
    pub noting: Option<&'a Noting>,
    /// When it is given up.
    pub deadline: Instant,
}

impl Attending<'_> {
    /// Feeds the command, notes and passes on what it says, until it ends or the deadline is there.
    async fn until_its_end(&mut self) -> Result<Option<Exited>, RunError> {
        let Child {
            stdin,
            stdout,
            stderr,
            process,
        } = &mut self.child;
        let (events, deadline, number) = (self.events, self.deadline, process.number());
        let log = self
            .noting
            .filter(|noting| noting.output)
            .map(|noting| &noting.log);
        let log = log.map(|log| (log, number));
        let feed = feed(self.stdin.take(), stdin);
        let sizes = self.terminal.take();
        let work = async {
            let passed = tokio::try_join!(
                pass_on(stdout, log, Stream::Stdout, events),
                pass_on(stderr, log, Stream::Stderr, events),
            );
            passed.map(drop)
        };
        let unheard = async {
            match events {
                Some(events) => events.closed().await,
                None => std::future::pending().await,
            }
        };
        let fed_work = async {
            let sizing = fit(process, sizes);
            tokio::pin!(work, feed, sizing, unheard);
            let (mut feeding, mut fitting) = (true, true);
            loop {
                tokio::select! {
                    worked = &mut work => return worked,
                    // The input is over; the output is not.
                    () = &mut feed, if feeding => feeding = false,
                    () = &mut sizing, if fitting => fitting = false,
                    // A silent command would never notice that nobody listens.
                    () = &mut unheard => return Err(RunError::Abandoned),
                }
            }
        };
        let since = std::time::Instant::now();
        // Both streams end with the command, so its end is there right after them.
        let exit = match timeout_at(deadline, fed_work).await {
            Ok(passed) => {
                passed?;
                timeout_at(deadline, process.wait())
                    .await
                    .unwrap_or(Err(SandboxError::Gone))
            }
            Err(_) => Err(SandboxError::Gone),
        };
        crate::metrics::executed(since, exit.is_ok());
        match exit {
            Ok(exit) => {
                if let Some(noting) = self.noting {
                    let noted = keep::Exit {
                        exited: exit.exited,
                        truncated: exit.output_truncated,
                    };
                    noting.log.exited(number, noted);
                }
                Ok(Some(exit.exited))
            }
            // The sandbox ended under it: its deadline, its memory, a kill. That is an end like others.
            Err(SandboxError::Gone) => Ok(None),
            Err(fault) => Err(fault.into()),
        }
    }
}

/// The size that a terminal has now; those after it are told to the command.
fn now(sizes: &mut Sizes) -> Size {
    *sizes.borrow_and_update()
}

/// Tells a command with a terminal of every other size; of several at once only the last counts.
async fn fit(process: &Process, sizes: Option<Sizes>) {
    let Some(mut sizes) = sizes else { return };
    while sizes.changed().await.is_ok() {
        let size = now(&mut sizes);
        if process.resize(size).await.is_err() {
            return;
        }
    }
}

async fn pass_on(
    from: &mut Output,
    log: Option<(&Arc<Log>, u32)>,
    stream: Stream,
    to: Option<&mpsc::Sender<RunEvent>>,
) -> Result<(), RunError> {
    while let Some(bytes) = from.take().await {
        if let Some((log, number)) = log {
            log.push(number, stream, bytes.clone()).await;
        }
        from.settle(bytes.len());
        let event = match stream {
            Stream::Stdout => RunEvent::Stdout(bytes),
            Stream::Stderr => RunEvent::Stderr(bytes),
        };
        if let Some(to) = to {
            to.send(event).await.map_err(|_| RunError::Abandoned)?;
        }
    }
    Ok(())
}

async fn feed(from: Option<Box<dyn AsyncRead + Send + Unpin>>, to: &mut super::frames::Stdin) {
    use tokio::io::AsyncWriteExt as _;
    if let Some(mut from) = from {
        // A command that does not want its input any more is no fault, and a source that breaks is the end of the input.
        let _ = tokio::io::copy(&mut from, to).await;
    }
    let _ = to.shutdown().await;
}
