//! Commands inside one sandbox, over the two pipes of its paw-init.
//!
//! Two tasks own the pipes. The reading one never waits for a consumer: what a consumer has not taken yet is bounded by the
//! window of its stream, and beyond that window paw-init may not send. The writing one is the only place where frames go
//! out; consumers tell it that they took something by a notification, not by a queue that could fill up.
//!
//! Nothing that comes out of a sandbox is believed. A frame that breaks the protocol ends the sandbox.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use paw_launch::{
    frame::{self, Exited, MAX_PAYLOAD, NotStarted, Size, Start, Tag, WINDOW},
    request::{Attestation, End, RefusalReason, SandboxId, Usage},
};
use tokio::{
    io::AsyncRead,
    net::unix::pipe,
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::{
    away::LauncherError,
    launcher::{Ending, Launcher, Made},
    life::Life,
    stream::stream,
    wire::{Entry, Fault, Inside, Outcome, StdinState, control, data, read, write},
};
pub use super::{stdin::Stdin, stream::Output};

/// Frames that wait to be written; each is at most one payload and a header.
const QUEUE: usize = 8;
/// Commands of one sandbox at once; as many as paw-init takes.
const MAX_CHILDREN: usize = 64;
/// How long the launcher may take from a kill to the end.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Why a sandbox, or a command in it, did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The launcher did not do its part.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    /// What the launcher handed over cannot be used.
    #[error("use the pipes of sandbox {id}")]
    Pipes {
        /// Which sandbox.
        id: SandboxId,
        /// Why they cannot be used.
        source: io::Error,
    },
    /// The command could not be started.
    #[error("start {program:?}: {step}: {source}")]
    NotStarted {
        /// Its name.
        program: String,
        /// What failed: `find`, `exec`, `cwd`, `env`, `argv`, `children`, `pipes` or `terminal`.
        step: String,
        /// What the kernel said inside.
        source: io::Error,
    },
    /// The command itself is too long to be told.
    #[error("a command with its environment may have {MAX_PAYLOAD} bytes at most")]
    TooLong,
    /// As many commands run in it as may.
    #[error("{MAX_CHILDREN} commands already run in sandbox {id}")]
    Full {
        /// Which sandbox.
        id: SandboxId,
    },
    /// Every place for a sandbox was taken, as long as it would have been waited for.
    #[error("every place for a sandbox was taken for {} s", .waited.as_secs_f64())]
    NoPlace {
        /// How long.
        waited: Duration,
    },
    /// Every place for a sandbox is taken, and as many wait for one as may.
    #[error("every place for a sandbox is taken, and {most} wait for one, which is the most")]
    Crowded {
        /// How many may.
        most: usize,
    },
    /// The sandbox ended, or was ended, before the command did. [`Sandbox::end`] tells how.
    #[error("the sandbox ended before the command did")]
    Gone,
    /// The sandbox broke the protocol. It is of no use any more.
    #[error("the sandbox broke the protocol: {0}")]
    Protocol(String),
    /// The launcher was away when the sandbox ended, so nobody knows how.
    #[error("sandbox {id} ended while the launcher was away; how it ended is not known")]
    Unknown {
        /// Which sandbox.
        id: SandboxId,
    },
    /// The launcher died, and nothing of what it made outlives it.
    #[error("the launcher ended while sandbox {id} ran, and the sandbox with it")]
    Orphaned {
        /// Which sandbox.
        id: SandboxId,
    },
    /// What was begun by an earlier pawd cannot be taken on.
    #[error("go on with sandbox {id} where an earlier pawd stopped: {why}")]
    NotResumed {
        /// Which sandbox.
        id: SandboxId,
        /// Why not.
        why: String,
    },
    /// The proxy's port could not be opened inside.
    #[error("open the port of the proxy inside the sandbox")]
    Port(#[source] io::Error),
    /// It was to be killed and did not end in time.
    #[error("sandbox {id} did not end within {} s after it was killed; see the launcher's journal", KILL_LIMIT.as_secs())]
    Unkillable {
        /// Which sandbox.
        id: SandboxId,
    },
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code or signal.
    pub exited: Exited,
    /// Whether some of its output was thrown away because it was more than its bound.
    pub output_truncated: bool,
}

/// A running sandbox. It is killed when this is dropped.
pub struct Sandbox {
    id: SandboxId,
    attestation: Box<Attestation>,
    pub(super) launcher: Launcher,
    pub(super) frames: mpsc::Sender<Bytes>,
    pub(super) tasks: JoinSet<()>,
    /// Carries its connections to paw-egress, if it may reach anything.
    pub(super) way: JoinSet<()>,
    pub(super) ended: oneshot::Receiver<Ending>,
    life: Life,
    pub(super) starter: Starter,
    /// When it got its first command, if it had waited for one.
    pub(super) claimed: Option<Instant>,
    is_over: bool,
}

/// Starts commands in a sandbox, as long as that runs. Cheap to clone; it does not keep the sandbox.
#[derive(Clone)]
pub struct Starter {
    pub(super) id: SandboxId,
    frames: mpsc::Sender<Bytes>,
    pub(super) inside: Arc<Inside>,
    pub(super) next: Arc<AtomicU32>,
}

impl fmt::Debug for Starter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Starter")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A command that was started, or is about to fail to.
pub struct Child {
    /// Where its input goes; dropping it is the end of its input.
    pub stdin: Stdin,
    /// What it says. Take it or drop it: the end of the process comes after the last of it.
    pub stdout: Output,
    /// What it complains of. Take it or drop it, too.
    pub stderr: Output,
    /// The process itself.
    pub process: Process,
}

/// The process of a command, apart from its streams.
///
/// Its end is kept inside until this is dropped, for another pawd that might need to hear it again.
pub struct Process {
    number: u32,
    program: String,
    id: SandboxId,
    frames: mpsc::Sender<Bytes>,
    inside: Arc<Inside>,
    exit: oneshot::Receiver<Outcome>,
    pub(super) truncated: Arc<AtomicBool>,
}

impl Sandbox {
    pub(super) fn open(
        id: SandboxId,
        attestation: Box<Attestation>,
        made: Made,
        launcher: Launcher,
    ) -> Result<Self, SandboxError> {
        let (mut sandbox, reader) = Self::unheard(id, attestation, made, launcher)?;
        sandbox.listen(reader);
        Ok(sandbox)
    }

    /// One to which frames can be written and whose own are not read yet.
    pub(super) fn unheard(
        id: SandboxId,
        attestation: Box<Attestation>,
        made: Made,
        launcher: Launcher,
    ) -> Result<(Self, pipe::Receiver), SandboxError> {
        let Made {
            stdin,
            stdout,
            ended,
        } = made;
        let opened = pipe::Sender::from_owned_fd(stdin)
            .and_then(|writer| Ok((writer, pipe::Receiver::from_owned_fd(stdout)?)));
        let (writer, reader) = opened.map_err(|source| {
            launcher.doom(id.clone());
            SandboxError::Pipes {
                id: id.clone(),
                source,
            }
        })?;
        let inside = Arc::new(Inside::default());
        let (frames, queue) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(write(writer, queue, inside.clone()));
        let starter = Starter {
            id: id.clone(),
            frames: frames.clone(),
            inside,
            next: Arc::default(),
        };
        let sandbox = Self {
            id,
            attestation,
            life: Life::of(&launcher),
            launcher,
            frames,
            tasks,
            way: JoinSet::new(),
            ended,
            starter,
            claimed: None,
            is_over: false,
        };
        Ok((sandbox, reader))
    }

    /// Reads its frames from now on.
    pub(super) fn listen(&mut self, reader: impl AsyncRead + Send + Unpin + 'static) {
        let doom = {
            let (launcher, id) = (self.launcher.clone(), self.id.clone());
            move || launcher.doom(id)
        };
        let (inside, mut life) = (self.starter.inside.clone(), self.life.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = read(reader, inside.clone(), doom) => {}
                () = life.is_over() => inside.fail(Fault::Orphaned),
            }
        });
    }

    /// Lets go of it without ending it: another pawd goes on with it. Nothing that is dropped from now on is told to it.
    pub fn leave(mut self) {
        self.starter.leave();
        self.is_over = true;
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> &SandboxId {
        &self.id
    }

    /// What the kernel says it is.
    #[must_use]
    pub const fn attestation(&self) -> &Attestation {
        &self.attestation
    }

    /// Starts commands in it, also from elsewhere.
    #[must_use]
    pub const fn starter(&self) -> &Starter {
        &self.starter
    }

    /// Ends it: whatever still runs in it is killed, and how it ended is waited for, at most `limit` before it is killed
    /// from outside.
    ///
    /// # Errors
    /// When the launcher cannot say how it ended.
    pub async fn end(mut self, limit: Duration) -> Result<(End, Usage), SandboxError> {
        // The reading task goes on, so that what it still says has a reader. A sandbox that takes no frame any more is killed
        // at the limit, like one that does not obey.
        let farewell = async {
            let _ = self.frames.send(data(Tag::End, 0, &[])).await;
            tokio::select! {
                biased;
                ended = &mut self.ended => Ok(ended),
                () = self.life.is_over() => Err(SandboxError::Orphaned { id: self.id.clone() }),
            }
        };
        let ended = match timeout(limit, farewell).await {
            Ok(ended) => ended?,
            Err(_) => {
                match self.launcher.kill(self.id.clone()).await {
                    // It ended by itself in this very moment, and that was told before the refusal.
                    Err(LauncherError::Refused(refusal))
                        if refusal.reason == RefusalReason::NotFound => {}
                    killed => killed?,
                }
                timeout(KILL_LIMIT, &mut self.ended).await.map_err(|_| {
                    SandboxError::Unkillable {
                        id: self.id.clone(),
                    }
                })?
            }
        };
        self.is_over = true;
        self.starter.inside.relay.close();
        while self.way.join_next().await.is_some() {}
        let (end, usage) = ended.map_err(|_| {
            let id = self.id.clone();
            if self.life.has_other() {
                SandboxError::Orphaned { id }
            } else {
                SandboxError::Unknown { id }
            }
        })?;
        Ok((end, self.used_since_its_claim(usage)))
    }
}

impl Starter {
    /// Starts a command. `argv[0]` is looked up in the `PATH` of `env` (`NAME=value`) when it has no slash; `cwd` is absolute;
    /// of all it writes to stdout and stderr together, what goes beyond `most_output` bytes is thrown away.
    ///
    /// # Errors
    /// When the sandbox is gone or full. That a command cannot be started is told by [`Process::wait`].
    pub async fn start(
        &self,
        argv: Vec<String>,
        env: Vec<String>,
        cwd: String,
        most_output: u64,
    ) -> Result<Child, SandboxError> {
        self.start_as(self.number(), argv, env, cwd, most_output, None)
            .await
    }

    /// In which sandbox.
    #[must_use]
    pub const fn sandbox(&self) -> &SandboxId {
        &self.id
    }

    /// A number for a command that is about to be started.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Lets go of every command in it without ending any, as [`Sandbox::leave`].
    pub fn leave(&self) {
        self.inside.lock().left = true;
    }

    /// As [`Starter::start`], under a number from [`Starter::number`], and with a terminal where it is given a size for one: then
    /// everything that it writes comes over its stdout.
    ///
    /// # Errors
    /// As [`Starter::start`].
    pub async fn start_as(
        &self,
        number: u32,
        argv: Vec<String>,
        env: Vec<String>,
        cwd: String,
        most_output: u64,
        terminal: Option<Size>,
    ) -> Result<Child, SandboxError> {
        let program = argv.first().cloned().unwrap_or_default();
        let start = Start {
            argv,
            env,
            cwd,
            terminal,
        };
        let start = control(Tag::Start, number, &start).ok_or(SandboxError::TooLong)?;
        let child = self.enter(number, program, [0, 0], most_output, WINDOW)?;
        self.frames
            .send(start)
            .await
            .map_err(|_| self.inside.fault(&self.id))?;
        Ok(child)
    }

    /// Makes room for what a command will say. Of its streams, the bytes of `known` were heard already; of its input, `window`
    /// bytes may be sent.
    pub(super) fn enter(
        &self,
        number: u32,
        program: String,
        known: [usize; 2],
        most_output: u64,
        window: usize,
    ) -> Result<Child, SandboxError> {
        let (stdout_in, stdout) = stream(self.inside.tell_writer.clone());
        let (stderr_in, stderr) = stream(self.inside.tell_writer.clone());
        let window = Arc::new(Semaphore::new(window));
        let (outcome, exit) = oneshot::channel();
        let truncated = Arc::new(AtomicBool::new(false));
        let entry = Entry {
            stdout: stdout_in,
            stderr: stderr_in,
            known,
            room: most_output,
            truncated: truncated.clone(),
            window: window.clone(),
            stdin: StdinState::Open,
            outcome: Some(outcome),
        };
        {
            let mut state = self.inside.lock();
            if let Some(fault) = &state.fault {
                return Err(fault.to_error(&self.id));
            }
            if state.children.len() >= MAX_CHILDREN {
                return Err(SandboxError::Full {
                    id: self.id.clone(),
                });
            }
            state.children.insert(number, entry);
        }
        let stdin = Stdin::new(number, window, &self.frames, &self.inside);
        Ok(Child {
            stdin,
            stdout,
            stderr,
            process: Process {
                number,
                program,
                id: self.id.clone(),
                frames: self.frames.clone(),
                inside: self.inside.clone(),
                exit,
                truncated,
            },
        })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !self.is_over {
            self.launcher.doom(self.id.clone());
        }
        self.tasks.abort_all();
    }
}

impl Process {
    /// Its number inside.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Whether some of its output was thrown away so far.
    #[must_use]
    pub fn output_is_truncated(&self) -> bool {
        self.truncated.load(Ordering::Relaxed)
    }

    /// Waits for its end, which comes after the last byte of its output was delivered.
    ///
    /// # Errors
    /// When it could not be started, or the sandbox ended first.
    pub async fn wait(&mut self) -> Result<Exit, SandboxError> {
        match (&mut self.exit).await {
            Ok(Ok(exit)) => Ok(exit),
            Ok(Err(NotStarted { errno, step })) => Err(SandboxError::NotStarted {
                program: self.program.clone(),
                // It comes from inside, and goes to people.
                step: step
                    .chars()
                    .filter(|c| c.is_ascii_graphic())
                    .take(32)
                    .collect(),
                source: io::Error::from_raw_os_error(errno),
            }),
            Err(_) => Err(self.inside.fault(&self.id)),
        }
    }

    /// Sends a signal to it and its process group. One that has ended already gets none.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub async fn signal(&self, signal: nix::sys::signal::Signal) -> Result<(), SandboxError> {
        let signal = signal as i32;
        self.tell(Tag::Signal, &frame::Signal { signal }).await
    }

    /// Gives its terminal another size; it must have one. One that has ended already is not told.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub async fn resize(&self, size: Size) -> Result<(), SandboxError> {
        self.tell(Tag::Resize, &size).await
    }

    async fn tell(&self, tag: Tag, message: &impl serde::Serialize) -> Result<(), SandboxError> {
        let frame = control(tag, self.number, message).ok_or(SandboxError::TooLong)?;
        self.frames
            .send(frame)
            .await
            .map_err(|_| self.inside.fault(&self.id))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.inside.forget(self.number);
    }
}
