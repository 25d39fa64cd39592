//! One command in one sandbox of its own, from the plan to the end.

use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::Signal;
use paw_launch::{
    frame::Exited,
    request::{Attestation, End, SandboxId, SandboxPlan, Usage},
};
use tokio::{
    io::AsyncRead,
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{
    frames::{Child, Exit, Output, SandboxError, Starter},
    launcher::Launcher,
};

/// How much later than the launcher we notice that a deadline has passed.
const GRACE: Duration = Duration::from_secs(2);

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
    /// The most bytes of output that are passed on; the rest is thrown away, and [`RunEnd::output_truncated`] says so.
    pub most_output: u64,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Nobody takes the events any more; the sandbox was killed.
    #[error("whoever asked for it is gone; the sandbox was killed")]
    Abandoned,
}

/// Makes the sandbox, runs the command, and passes on what it says. A full `events` holds the command back. Dropping the
/// future kills the sandbox.
///
/// # Errors
/// When the sandbox could not be made, the command could not be started, or nobody takes `events` any more.
pub async fn run(
    launcher: &Launcher,
    spec: RunSpec,
    events: &mpsc::Sender<RunEvent>,
) -> Result<RunEnd, RunError> {
    let RunSpec {
        plan,
        argv,
        env,
        cwd,
        stdin,
        most_output,
    } = spec;
    let wall = Duration::from_millis(plan.limits.wall_ms);
    let sandbox = launcher.create(plan).await?;
    let deadline = Instant::now() + wall + GRACE;
    let started = RunEvent::Started {
        id: sandbox.id().clone(),
        attestation: Box::new(sandbox.attestation().clone()),
        starter: sandbox.starter().clone(),
    };
    events
        .send(started)
        .await
        .map_err(|_| RunError::Abandoned)?;

    let mut child = sandbox.starter().start(argv, env, cwd, most_output).await?;
    let exit = attend(&mut child, stdin, events, deadline).await?;
    let output_truncated = child.process.output_is_truncated();
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
) -> Result<Option<Exit>, RunError> {
    let ExecSpec {
        argv,
        env,
        cwd,
        stdin,
        most_output,
        limit,
    } = spec;
    let deadline = Instant::now() + limit;
    let mut child = starter.start(argv, env, cwd, most_output).await?;
    let attended = attend(&mut child, stdin, events, deadline).await;
    if !matches!(attended, Ok(Some(_))) {
        // Whoever asked is gone, or it does not end; the sandbox and its other commands go on.
        drop(child.process.signal(Signal::SIGKILL).await);
    }
    let output_truncated = child.process.output_is_truncated();
    attended.map(|exited| {
        exited.map(|exited| Exit {
            exited,
            output_truncated,
        })
    })
}

/// Feeds a command and passes on what it says, until it ends or the deadline is there.
async fn attend(
    child: &mut Child,
    stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    events: &mpsc::Sender<RunEvent>,
    deadline: Instant,
) -> Result<Option<Exited>, RunError> {
    let feed = feed(stdin, &mut child.stdin);
    let work = async {
        let passed = tokio::try_join!(
            pass_on(&mut child.stdout, events, RunEvent::Stdout),
            pass_on(&mut child.stderr, events, RunEvent::Stderr),
        );
        passed.map(drop)
    };
    let fed_work = async {
        tokio::pin!(work, feed);
        let mut feeding = true;
        loop {
            tokio::select! {
                worked = &mut work => return worked,
                // The input is over; the output is not.
                () = &mut feed, if feeding => feeding = false,
                // A silent command would never notice that nobody listens.
                () = events.closed() => return Err(RunError::Abandoned),
            }
        }
    };
    // Both streams end with the command, so its end is there right after them.
    let exit = match timeout_at(deadline, fed_work).await {
        Ok(passed) => {
            passed?;
            timeout_at(deadline, child.process.wait())
                .await
                .unwrap_or(Err(SandboxError::Gone))
        }
        Err(_) => Err(SandboxError::Gone),
    };
    match exit {
        Ok(exit) => Ok(Some(exit.exited)),
        // The sandbox ended under it: its deadline, its memory, a kill. That is an end like others.
        Err(SandboxError::Gone) => Ok(None),
        Err(fault) => Err(fault.into()),
    }
}

async fn pass_on(
    from: &mut Output,
    to: &mpsc::Sender<RunEvent>,
    event: fn(Bytes) -> RunEvent,
) -> Result<(), RunError> {
    while let Some(bytes) = from.next().await {
        to.send(event(bytes))
            .await
            .map_err(|_| RunError::Abandoned)?;
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
