//! The one connection to a launcher: one task owns it, everybody else asks. Which launchers there are, [`super::launchers`] knows.
//!
//! ```text
//!            ┌──────────── greeted ────────────┐
//!            ▼                                 │
//!        connected ── broken, garbage ──► away │ asks fail at once, with the reason; after a pause:
//!            │                              └──┴─► connect, Hello
//!            └─ every Launcher dropped ──► done
//! ```
//!
//! Sandboxes outlive a broken connection. After a new one the launcher is asked what still runs, and whoever waits for the
//! end of something that is gone is told so. A sandbox whose making nobody waits for any more is killed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    os::fd::OwnedFd,
    path::PathBuf,
    time::Duration,
};

use paw_launch::{
    packet::{PacketError, Received},
    request::{
        Event, Message, Numbered, Refusal, RefusalReason, Reply, Request, RuntimeState, SandboxId,
        SandboxPlan, SandboxSummary, Usage, VERSION,
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

use super::away::{LauncherError, LauncherState, confused};
use super::frames::{Sandbox, SandboxError};
use super::launchers::Which;
use super::link::Link;
pub(super) use super::made::{Attached, Ending, Made};
use super::talk::{Talk, Waiting, next_page};
use crate::metrics;

/// Requests that wait for an answer at once; further ones wait in the queue.
const MAX_IN_FLIGHT: usize = 64;
/// Requests that wait to be sent to the task.
const QUEUE: usize = 64;
/// The first pause before another attempt to connect; each one after it is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long the launcher may take to say Hello, or to answer anything but a create.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long the making of a sandbox may take.
const CREATE_LIMIT: Duration = Duration::from_secs(30);

/// Asks the launcher. Cheap to clone; the connection ends with the last clone.
#[derive(Clone)]
pub struct Launcher {
    asks: mpsc::Sender<Ask>,
    kills: mpsc::UnboundedSender<SandboxId>,
    state: watch::Receiver<LauncherState>,
    ends: watch::Receiver<u64>,
}

impl fmt::Debug for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launcher")
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

struct Ask {
    request: Request,
    fds: Vec<OwnedFd>,
    answer: oneshot::Sender<Result<Answer, LauncherError>>,
}

pub(super) struct Answer {
    reply: Reply,
    /// Of [`Reply::Created`] only.
    made: Option<Made>,
    /// Of [`Reply::Done`] only.
    fds: Vec<OwnedFd>,
}

/// The task that owns the connection; nothing happens until [`Connection::run`] is polled.
#[must_use = "nothing is connected until it runs"]
pub struct Connection {
    which: Which,
    socket: PathBuf,
    asks: mpsc::Receiver<Ask>,
    kills: mpsc::UnboundedReceiver<SandboxId>,
    state: watch::Sender<LauncherState>,
    /// Counts the ends of sandboxes, and the other reasons for which a place may be free.
    ends: watch::Sender<u64>,
    /// Who waits for the end of which sandbox.
    lives: BTreeMap<SandboxId, oneshot::Sender<Ending>>,
    /// Sandboxes that may have been made although nobody heard of it.
    doomed: BTreeSet<SandboxId>,
}

/// A launcher at this socket, and the task that connects to it.
pub fn connect(which: Which, socket: PathBuf) -> (Launcher, Connection) {
    let (asks, asked) = mpsc::channel(QUEUE);
    // Not bounded here because `Drop` cannot wait; there is at most one entry for each sandbox, and the launcher bounds those.
    let (kills, killed) = mpsc::unbounded_channel();
    let (state, watched) = watch::channel(LauncherState::Connecting);
    let (ends, ended) = watch::channel(0);
    let connection = Connection {
        which,
        socket,
        asks: asked,
        kills: killed,
        state,
        ends,
        lives: BTreeMap::new(),
        doomed: BTreeSet::new(),
    };
    (
        Launcher {
            asks,
            kills,
            state: watched,
            ends: ended,
        },
        connection,
    )
}

impl Launcher {
    /// Makes a sandbox. Dropping the future, or what it returns, kills it.
    ///
    /// # Errors
    /// When the launcher is away or refuses, or hands over something that is no sandbox.
    pub async fn create(&self, plan: SandboxPlan) -> Result<Sandbox, SandboxError> {
        let (id, runtime) = (plan.id.clone(), plan.runtime);
        metrics::making(runtime, self.make(id, Request::Create(Box::new(plan)))).await
    }

    /// Makes a sandbox that waits at most `idle` for [`Launcher::claim`]. Dropping the future, or what it returns, kills it.
    ///
    /// # Errors
    /// As [`Launcher::create`].
    pub async fn prepare(
        &self,
        plan: SandboxPlan,
        idle: Duration,
    ) -> Result<Sandbox, SandboxError> {
        let (id, runtime) = (plan.id.clone(), plan.runtime);
        let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        let plan = Box::new(plan);
        metrics::making(runtime, self.make(id, Request::Prepare { plan, idle_ms })).await
    }

    async fn make(&self, id: SandboxId, request: Request) -> Result<Sandbox, SandboxError> {
        match self.ask(request, CREATE_LIMIT).await? {
            Answer {
                reply: Reply::Created { attestation },
                made: Some(made),
                ..
            } => Sandbox::open(id, attestation, made, self.clone()),
            other => Err(confused("create", &other.reply).into()),
        }
    }

    /// The descriptors of a sandbox that an earlier pawd had made, or how it has ended since. Dropping the future, or what it
    /// returns, kills it.
    ///
    /// # Errors
    /// When the launcher is away or knows no such sandbox.
    pub(super) async fn attach(&self, id: SandboxId) -> Result<Attached, LauncherError> {
        match self.ask(Request::Attach { id }, ANSWER_LIMIT).await? {
            Answer {
                reply: Reply::Created { attestation },
                made: Some(made),
                ..
            } => Ok(Attached::Running(attestation, made)),
            Answer {
                reply: Reply::Ended { end, usage },
                ..
            } => Ok(Attached::Ended(end, usage)),
            other => Err(confused("attach", &other.reply)),
        }
    }

    /// Kills every process of a sandbox; its end is told to whoever has it.
    ///
    /// # Errors
    /// When the launcher is away or knows no such sandbox.
    pub async fn kill(&self, id: SandboxId) -> Result<(), LauncherError> {
        match self.ask(Request::Kill { id }, ANSWER_LIMIT).await?.reply {
            Reply::Killing => Ok(()),
            other => Err(confused("kill", &other)),
        }
    }

    /// Starts the life that the plan of a waiting sandbox gives it.
    ///
    /// # Errors
    /// When the launcher is away, or no such sandbox waits.
    pub async fn claim(&self, id: SandboxId) -> Result<(), LauncherError> {
        match self.ask(Request::Claim { id }, ANSWER_LIMIT).await?.reply {
            Reply::Claimed => Ok(()),
            other => Err(confused("claim", &other)),
        }
    }

    /// Every sandbox there is, also those that an earlier pawd left behind.
    ///
    /// # Errors
    /// When the launcher is away.
    pub async fn list(&self) -> Result<Vec<SandboxSummary>, LauncherError> {
        let mut all = Vec::new();
        let mut request = Request::List;
        loop {
            match self.ask(request, ANSWER_LIMIT).await?.reply {
                Reply::Sandboxes { sandboxes } => {
                    let next = next_page(&sandboxes);
                    all.extend(sandboxes);
                    match next {
                        Some(after) => request = after,
                        None => return Ok(all),
                    }
                }
                other => return Err(confused("list", &other)),
            }
        }
    }

    /// What a running sandbox has used so far.
    ///
    /// # Errors
    /// When the launcher is away or knows no such sandbox.
    pub async fn stats(&self, id: SandboxId) -> Result<Usage, LauncherError> {
        match self.ask(Request::Stats { id }, ANSWER_LIMIT).await?.reply {
            Reply::Stats(usage) => Ok(usage),
            other => Err(confused("stats", &other)),
        }
    }

    /// Which runtimes there are.
    ///
    /// # Errors
    /// When the launcher is away.
    pub async fn runtimes(&self) -> Result<Vec<RuntimeState>, LauncherError> {
        match self.ask(Request::Runtimes, ANSWER_LIMIT).await?.reply {
            Reply::Runtimes { runtimes } => Ok(runtimes),
            other => Err(confused("runtimes", &other)),
        }
    }

    /// The launcher's own [`Reply::Status`], as it came.
    ///
    /// # Errors
    /// When the launcher is away.
    pub async fn status(&self) -> Result<Reply, LauncherError> {
        match self.ask(Request::Status, ANSWER_LIMIT).await?.reply {
            status @ Reply::Status { .. } => Ok(status),
            other => Err(confused("status", &other)),
        }
    }

    /// Has a job of the launcher do what only the launcher's user can: the result in the words of the job, and what it hands over.
    ///
    /// # Errors
    /// When the launcher is away, or the job is refused, fails, or takes longer than `limit`.
    pub async fn work(
        &self,
        request: Request,
        fds: Vec<OwnedFd>,
        limit: Duration,
    ) -> Result<(serde_json::Value, Vec<OwnedFd>), LauncherError> {
        let answer = self.ask_with(request, fds, limit).await?;
        match answer.reply {
            Reply::Done { result } => Ok((result, answer.fds)),
            other => Err(confused("a job", &other)),
        }
    }

    /// Whether the launcher is there, now and later.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LauncherState> {
        self.state.clone()
    }

    /// Changes whenever a place may have become free: with each end of a sandbox, and with the connection.
    pub(super) fn ends(&self) -> watch::Receiver<u64> {
        self.ends.clone()
    }

    /// Kills a sandbox without waiting, as soon as there is a connection.
    pub(crate) fn doom(&self, id: SandboxId) {
        // A connection task that has ended leaves nobody who could do it; the launcher's own deadline then will.
        let _ = self.kills.send(id);
    }

    async fn ask(&self, request: Request, limit: Duration) -> Result<Answer, LauncherError> {
        self.ask_with(request, Vec::new(), limit).await
    }

    async fn ask_with(
        &self,
        request: Request,
        fds: Vec<OwnedFd>,
        limit: Duration,
    ) -> Result<Answer, LauncherError> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.asks
                .send(Ask {
                    request,
                    fds,
                    answer,
                })
                .await
                .map_err(|_| LauncherError::Lost)?;
            answered.await.map_err(|_| LauncherError::Lost)?
        };
        timeout(limit, asked)
            .await
            .map_err(|_| LauncherError::Slow(limit))?
    }
}

/// Why a connection was given up.
enum Over {
    /// Nobody can ask any more.
    Unused,
    Broken(String),
}

impl Connection {
    /// Keeps the connection until every [`Launcher`] is dropped.
    pub async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let why = match self.greet().await {
                Ok((link, pid)) => {
                    info!(unit = self.which.unit(), socket = %self.socket.display(), pid, "launcher connected");
                    self.tell(LauncherState::Connected { pid });
                    pause = FIRST_PAUSE;
                    match self.serve(&link).await {
                        Over::Unused => return,
                        Over::Broken(why) => why,
                    }
                }
                Err(why) => why,
            };
            let is_off = self.which == Which::Kata && !self.socket.exists();
            if is_off {
                self.tell(LauncherState::Off);
            } else if self.tell(LauncherState::Away { why: why.clone() }) {
                warn!(unit = self.which.unit(), socket = %self.socket.display(), why, "launcher away");
            }
            if !self.refuse_until(Instant::now() + pause, &why).await {
                return;
            }
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Says how it is now; `true`, when that is news. Who watches is not woken up by what is none.
    fn tell(&self, now: LauncherState) -> bool {
        self.ends.send_modify(|ends| *ends += 1);
        self.state.send_if_modified(|state| {
            let is_news = *state != now;
            *state = now;
            is_news
        })
    }

    /// Connects and says Hello; the reason for people if that does not work.
    async fn greet(&self) -> Result<(Link, u32), String> {
        let greeted = async {
            let link = Link::connect(&self.socket).map_err(|fault| fault.to_string())?;
            let hello = Numbered {
                seq: 0,
                request: Request::Hello { version: VERSION },
            };
            link.send(&hello, &[])
                .await
                .map_err(|fault| paw_log::Chain(&fault).to_string())?;
            match link
                .receive()
                .await
                .map_err(|fault| paw_log::Chain(&fault).to_string())?
                .message
            {
                Message::Reply {
                    reply:
                        Reply::Hello {
                            version: VERSION,
                            pid,
                        },
                    ..
                } => Ok((link, pid)),
                Message::Reply {
                    reply: Reply::Hello { version, .. },
                    ..
                } => Err(format!(
                    "it speaks version {version} and pawd speaks {VERSION}; install both from one package"
                )),
                Message::Reply {
                    reply: Reply::Refused(refusal),
                    ..
                } => Err(format!("{}; {}", refusal.message, refusal.remedy)),
                _ => Err("its first message is not Hello".to_owned()),
            }
        };
        timeout(ANSWER_LIMIT, greeted)
            .await
            .unwrap_or_else(|_| Err("it did not say Hello in time".to_owned()))
    }

    /// Answers every ask with why there is no connection; false when nobody can ask any more.
    async fn refuse_until(&mut self, until: Instant, why: &str) -> bool {
        loop {
            tokio::select! {
                () = sleep_until(until) => return true,
                ask = self.asks.recv() => match ask {
                    None => return false,
                    // Who does not wait any more does not need the reason.
                    Some(ask) => drop(ask.answer.send(Err(LauncherError::Away { unit: self.which.unit(), socket: self.socket.clone(), why: why.to_owned() }))),
                },
            }
        }
    }

    async fn serve(&mut self, link: &Link) -> Over {
        let mut talk = Talk {
            seq: 0,
            waiting: BTreeMap::new(),
            outgoing: VecDeque::new(),
        };
        for id in std::mem::take(&mut self.doomed) {
            talk.kill(id);
        }
        if !self.lives.is_empty() {
            talk.say(
                Request::List,
                Waiting::RollCall {
                    asked: self.lives.keys().cloned().collect(),
                    running: BTreeSet::new(),
                },
            );
        }
        let over = self.converse(link, &mut talk).await;
        for waiting in talk.waiting.into_values() {
            if let Waiting::Caller {
                created: Some(id), ..
            } = waiting
            {
                self.doomed.insert(id);
            }
        }
        over
    }

    async fn converse(&mut self, link: &Link, talk: &mut Talk) -> Over {
        loop {
            let quiet = talk.outgoing.is_empty() && talk.waiting.len() < MAX_IN_FLIGHT;
            tokio::select! {
                // In this order, because the last Launcher may go right after it asked for a kill.
                biased;
                received = link.receive() => match received {
                    Ok(received) => self.hear(received, talk),
                    Err(fault) => return Over::Broken(paw_log::Chain(&fault).to_string()),
                },
                sent = link.send_front(&talk.outgoing), if !talk.outgoing.is_empty() => {
                    let sent_one = talk.outgoing.pop_front();
                    match sent {
                        Ok(()) => {}
                        Err(fault @ (PacketError::TooLong | PacketError::Unwritable(_))) => {
                            if let Some((one, _)) = sent_one
                                && let Some(Waiting::Caller { answer, .. }) = talk.waiting.remove(&one.seq)
                            {
                                drop(answer.send(Err(LauncherError::Unsendable(fault))));
                            }
                        }
                        Err(fault) => return Over::Broken(paw_log::Chain(&fault).to_string()),
                    }
                },
                Some(id) = self.kills.recv(), if quiet => talk.kill(id),
                ask = self.asks.recv(), if quiet => match ask {
                    None => return Over::Unused,
                    // Who gave up while it was in the queue gets nothing made.
                    Some(ask) if ask.answer.is_closed() => {}
                    Some(Ask { request, fds, answer }) => {
                        let created = request.hands_over().cloned();
                        talk.say_with(request, fds, Waiting::Caller { created, answer });
                    }
                },
            }
        }
    }

    fn hear(&mut self, received: Received<Message>, talk: &mut Talk) {
        let Received { message, fds } = received;
        match message {
            Message::Event(Event::Ended { id, end, usage }) => {
                self.ends.send_modify(|ends| *ends += 1);
                if let Some(waiting) = self.lives.remove(&id) {
                    // Who dropped the sandbox does not wait for its end.
                    let _ = waiting.send((end, usage));
                }
            }
            Message::Reply { seq, reply } => match talk.waiting.remove(&seq) {
                None => warn!(seq, "launcher answered a request that nobody made"),
                Some(Waiting::Kill(id)) => {
                    if let Reply::Refused(Refusal {
                        reason: RefusalReason::NotFound,
                        ..
                    }) = reply
                    {
                        self.lives.remove(&id);
                    }
                }
                Some(Waiting::RollCall { asked, mut running }) => {
                    if let Reply::Sandboxes { sandboxes } = reply {
                        let next = next_page(&sandboxes);
                        running.extend(sandboxes.into_iter().map(|sandbox| sandbox.id));
                        if let Some(after) = next {
                            talk.say(after, Waiting::RollCall { asked, running });
                            return;
                        }
                        // A sender that is dropped tells its receiver that the end was missed.
                        self.lives
                            .retain(|id, _| !asked.contains(id) || running.contains(id));
                    }
                }
                Some(Waiting::Caller { created, answer }) => {
                    self.answer(reply, fds, created, answer, talk)
                }
            },
        }
    }

    fn answer(
        &mut self,
        reply: Reply,
        fds: Vec<OwnedFd>,
        created: Option<SandboxId>,
        answer: oneshot::Sender<Result<Answer, LauncherError>>,
        talk: &mut Talk,
    ) {
        let result = match (reply, created) {
            (Reply::Refused(refusal), _) => Err(LauncherError::Refused(refusal)),
            (reply @ Reply::Created { .. }, Some(id)) => match <[OwnedFd; 2]>::try_from(fds) {
                Ok([stdin, stdout]) => {
                    let (ending, ended) = oneshot::channel();
                    self.lives.insert(id.clone(), ending);
                    let made = Made {
                        stdin,
                        stdout,
                        ended,
                    };
                    if answer
                        .send(Ok(Answer {
                            reply,
                            made: Some(made),
                            fds: Vec::new(),
                        }))
                        .is_err()
                    {
                        self.lives.remove(&id);
                        talk.kill(id);
                    }
                    return;
                }
                Err(_) => {
                    talk.kill(id);
                    Err(LauncherError::Confused {
                        asked: "create",
                        answer: "a sandbox without its two descriptors",
                    })
                }
            },
            (reply @ Reply::Done { .. }, _) => Ok(Answer {
                reply,
                made: None,
                fds,
            }),
            (reply, _) => Ok(Answer {
                reply,
                made: None,
                fds: Vec::new(),
            }),
        };
        // Who does not wait any more does not need it.
        let _ = answer.send(result);
    }
}
