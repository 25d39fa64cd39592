//! One run: its rules, what it decided, and the connection to pawd that carries all of it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use paw_api::egress::{
    Added, Begin, Decision, Finished, FrameError, HEADER, Hand, MAX_PAYLOAD, NetRule, Ready,
    Reason, Recorded, Refused, Tag, Taken, VERSION, Witness, parse_header,
};
use paw_confine::sys::Locked;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use crate::{
    ceiling::Ceiling,
    hand::Values,
    lane::{Broken, Lanes, frame},
    names::{Agents, Places},
    proxy,
    rules::{Refusal, Rules},
    upstream::Outside,
    witness::Door,
};

/// How long pawd may take to say what a connection is for.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);

/// How long connections may take to end when their run does.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// How long a decision may wait for its record.
const RECORD_LIMIT: Duration = Duration::from_secs(15);

/// Control frames that may wait to be written.
const QUEUE: usize = 64;

/// Connections of all runs at once: each may hold two windows, and as much again on its way to a server. The memory of the unit is
/// made for so many.
pub const MAX_LANES: usize = 512;

/// What all runs share.
pub struct Shared {
    /// What may be reached at most.
    pub ceiling: Arc<Ceiling>,
    /// The way out.
    pub outside: Outside,
    /// Who waits for a value of the vault.
    pub values: Values,
    /// Places for connections.
    pub places: Arc<Semaphore>,
    /// Those for lookups, by agent.
    pub agents: Agents,
    /// What `ready` says.
    pub ready: Ready,
    /// Where checkpoints of the audit log come in.
    pub witness: Arc<Door>,
}

/// One run, as its connections know it.
pub struct Run {
    pub(crate) shared: Arc<Shared>,
    pub(crate) rules: Rules,
    /// Places for lookups.
    pub(crate) names: Places,
    name: String,
    say: mpsc::Sender<Bytes>,
    decided: AtomicU64,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<Recorded>>>,
}

/// What may go on, because it is on record.
pub(crate) struct Allowed {
    /// The number of its decision.
    pub(crate) seq: u64,
    /// The value of the vault's secret, where it takes one.
    pub(crate) value: Option<Locked>,
}

/// Why a run ended before pawd closed it.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The connection broke.
    #[error("the connection of the run")]
    Io(#[from] std::io::Error),
    /// What came is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame came at the wrong time, or too much of it.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// A control frame cannot be read.
    #[error("read a control frame {tag:?}")]
    Control {
        /// Which one.
        tag: Tag,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A frame came that only we send, or at the wrong time.
    #[error("a frame {0:?} may not come here")]
    Unexpected(Tag),
    /// pawd is of another version.
    #[error("pawd speaks version {0} and paw-egress speaks {VERSION}")]
    Version(u32),
    /// pawd did not say what the connection is for.
    #[error("nothing was said within {} s", BEGIN_LIMIT.as_secs())]
    Slow,
}

/// Serves one connection of pawd, until it is closed.
///
/// # Errors
/// When pawd broke the protocol, or the connection broke.
pub async fn serve(mut stream: UnixStream, shared: Arc<Shared>) -> Result<(), RunError> {
    let first = timeout(BEGIN_LIMIT, next(&mut stream))
        .await
        .map_err(|_| RunError::Slow)??;
    let Some((tag, _, payload)) = first else {
        return Ok(());
    };
    if tag == Tag::Hand {
        let hand: Hand = control(tag, &payload)?;
        let taken = timeout(BEGIN_LIMIT, shared.values.take(stream, hand));
        return taken.await.map_err(|_| RunError::Slow)?;
    }
    if tag == Tag::Witness {
        let witness: Witness = control(tag, &payload)?;
        return match witness.version {
            VERSION => crate::witness::serve(stream, &shared.witness).await,
            other => Err(RunError::Version(other)),
        };
    }
    if tag != Tag::Begin {
        return Err(RunError::Unexpected(tag));
    }
    let (mut from, mut to) = stream.into_split();
    let begin: Begin = control(tag, &payload)?;
    let rules = if begin.version == VERSION {
        Rules::new(Arc::clone(&shared.ceiling), begin.rules)
    } else {
        Err(format!(
            "pawd speaks version {} and paw-egress speaks {VERSION}",
            begin.version
        ))
    };
    let rules = match rules {
        Ok(rules) => rules,
        Err(message) => {
            to.write_all(&told(Tag::Refused, 0, &beyond(message)))
                .await?;
            return Ok(());
        }
    };
    to.write_all(&told(Tag::Ready, 0, &shared.ready)).await?;
    let (say, queue) = mpsc::channel(QUEUE);
    let run = Arc::new(Run {
        names: shared.agents.places(&begin.agent),
        shared,
        rules,
        name: begin.run,
        say,
        decided: AtomicU64::new(0),
        waiting: Mutex::default(),
    });
    let lanes = Arc::new(Lanes::default());
    tracing::debug!(run = run.name, "run begins");
    // Whichever ends first ends the other; what still runs ends with it.
    let writing = write(&mut to, queue, &lanes);
    tokio::pin!(writing);
    let mut serving = JoinSet::new();
    let ended = tokio::select! {
        heard = hear(&mut from, &run, &lanes, &mut serving) => heard,
        written = &mut writing => written.map_err(RunError::Io),
    };
    if ended.is_ok() {
        // pawd is done with the run, and still wants to know how it ended.
        lanes.close();
        let drained = async { while serving.join_next().await.is_some() {} };
        tokio::select! {
            _ = timeout(DRAIN_LIMIT, drained) => {}
            _ = &mut writing => {}
        }
        serving.shutdown().await;
        // The last one who could say anything is gone, so this ends when all of it is written.
        drop(run);
        let _ = timeout(DRAIN_LIMIT, writing).await;
    }
    tracing::debug!("run ended");
    ended
}

async fn hear(
    from: &mut OwnedReadHalf,
    run: &Arc<Run>,
    lanes: &Lanes,
    serving: &mut JoinSet<()>,
) -> Result<(), RunError> {
    while let Some((tag, number, payload)) = next(from).await? {
        match tag {
            Tag::Open => {
                let lane = lanes.open(number)?;
                let place: Option<OwnedSemaphorePermit> =
                    Arc::clone(&run.shared.places).try_acquire_owned().ok();
                let run = Arc::clone(run);
                serving.spawn(async move {
                    match place {
                        Some(_place) => proxy::serve(lane, &run).await,
                        None => proxy::turn_away(lane, &run).await,
                    }
                });
            }
            Tag::Data => lanes.data(number, &payload)?,
            Tag::End => lanes.end(number)?,
            Tag::Taken => lanes.taken(number, control::<Taken>(tag, &payload)?)?,
            Tag::Recorded => {
                let recorded: Recorded = control(tag, &payload)?;
                if let Some(waiting) = run.lock().remove(&recorded.seq) {
                    // Who does not wait any more has given up.
                    let _ = waiting.send(recorded);
                }
            }
            Tag::Allow => {
                let rule: NetRule = control(tag, &payload)?;
                let refused = run.rules.add(rule).err().map(beyond);
                if let Some(refused) = &refused {
                    tracing::warn!(
                        run = run.name,
                        objection = refused.message,
                        "a rule was approved and cannot be added"
                    );
                }
                let added = Added { refused };
                let _ = run.say.send(told(Tag::Added, number, &added)).await;
            }
            Tag::Begin
            | Tag::Ready
            | Tag::Refused
            | Tag::Decision
            | Tag::Finished
            | Tag::Added
            | Tag::Hand
            | Tag::Handed
            | Tag::Witness
            | Tag::Checkpoint
            | Tag::Witnessed => {
                return Err(RunError::Unexpected(tag));
            }
        }
        while let Some(served) = serving.try_join_next() {
            if let Err(error) = served {
                tracing::error!(run = run.name, error = %error, "a connection ended by a fault of paw-egress");
            }
        }
    }
    Ok(())
}

async fn write(
    to: &mut OwnedWriteHalf,
    mut queue: mpsc::Receiver<Bytes>,
    lanes: &Lanes,
) -> std::io::Result<()> {
    let due = lanes.notice();
    loop {
        tokio::select! {
            said = queue.recv() => match said {
                Some(said) => to.write_all(&said).await?,
                None => return Ok(()),
            },
            () = due.notified() => {
                for frame in lanes.take_due() {
                    to.write_all(&frame).await?;
                }
            }
        }
    }
}

impl Run {
    /// Says that something is allowed, and waits until that is on record; and until the value is there that it takes.
    pub(crate) async fn allow(&self, decision: Decision) -> Result<Allowed, Refusal> {
        let unrecorded = || {
            Refusal::new(
                Reason::Unrecorded,
                "it could not be recorded, so it is not done",
            )
        };
        let seq = self.decided.fetch_add(1, Ordering::Relaxed) + 1;
        let expected = decision
            .vault
            .then(|| self.shared.values.expect(&self.name, seq));
        let (tell, told_so) = oneshot::channel();
        self.lock().insert(seq, tell);
        self.tell(Tag::Decision, &Decision { seq, ..decision })
            .await;
        let recorded = timeout(RECORD_LIMIT, told_so).await;
        self.lock().remove(&seq);
        match recorded {
            Ok(Ok(Recorded { ok: true, .. })) => {}
            Ok(Ok(Recorded { secret: true, .. })) => return Err(no_secret()),
            Ok(Ok(_) | Err(_)) | Err(_) => return Err(unrecorded()),
        }
        let value = match expected {
            None => None,
            Some(expected) => Some(expected.value().ok_or_else(no_secret)?),
        };
        Ok(Allowed { seq, value })
    }

    /// Says that something was refused. Nobody waits for its record: it grants nothing.
    pub(crate) async fn refuse(&self, decision: Decision) {
        let seq = self.decided.fetch_add(1, Ordering::Relaxed) + 1;
        self.tell(Tag::Decision, &Decision { seq, ..decision })
            .await;
    }

    /// Says how something that was allowed has ended.
    pub(crate) async fn finish(&self, finished: Finished) {
        self.tell(Tag::Finished, &finished).await;
    }

    async fn tell(&self, tag: Tag, message: &impl Serialize) {
        // When nobody writes any more, the run is over and this task is about to end.
        let _ = self.say.send(told(tag, 0, message)).await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, oneshot::Sender<Recorded>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is not allowed, and what to do about it.
fn beyond(message: String) -> Refused {
    let remedy =
        "allow it in /etc/pawd/egress.toml and restart paw-egress, or ask for less".to_owned();
    Refused { message, remedy }
}

/// Why, is in the audit log: what it says is not for who asked.
fn no_secret() -> Refusal {
    Refusal::new(
        Reason::Secret,
        "the secret of this broker is not for this run, or is not to be had; see pawctl secret log",
    )
}

fn told(tag: Tag, number: u32, message: &impl Serialize) -> Bytes {
    let json =
        serde_json::to_vec(message).expect("numbers, flags and bounded texts are always JSON");
    frame(tag, number, &json)
}

pub(crate) fn control<T: DeserializeOwned>(tag: Tag, payload: &[u8]) -> Result<T, RunError> {
    serde_json::from_slice(payload).map_err(|source| RunError::Control { tag, source })
}

/// The next frame; nothing at the end.
pub(crate) async fn next(
    from: &mut (impl AsyncRead + Unpin),
) -> Result<Option<(Tag, u32, BytesMut)>, RunError> {
    let mut start = [0; HEADER];
    match from.read_exact(&mut start).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let (length, tag, number) = parse_header(start)?;
    debug_assert!(length <= MAX_PAYLOAD);
    let mut payload = BytesMut::zeroed(length);
    from.read_exact(&mut payload).await?;
    Ok(Some((tag, number, payload)))
}
