//! Signed checkpoints of the audit log on their way off this host, to one place that `egress.toml` names. Who takes over all of the host
//! later can then not write its past anew: the place has what was signed before.
//!
//! ```text
//!  paw-audit ─ signed ─► pawd ─ checkpoint ─► [ queue, bounded ] ─ one after the other ─► syslog over TLS, or HTTPS
//!                          ◄──── how far ────┘      ▲ the oldest goes when it is full      │
//!                                                   └──────── again, ever later ◄── failed ┘
//! ```
//!
//! Nobody here can make a checkpoint: they are signed by paw-audit's key, which is in no other process. What could be done by who takes
//! over pawd, or this process, is to send none, which shows at the other end. A newer one covers all that an older one does, so a full
//! queue loses the oldest.

#[doc(hidden)]
pub mod fuzz;
mod sink;

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use paw_api::egress::{Checkpoint, MAX_CHECKPOINT, MOST_CHECKPOINTS, Tag, Witnessed};
use tokio::{
    io::AsyncWriteExt as _,
    net::UnixStream,
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};

use self::sink::{Link, SendError};
pub use self::sink::{Sink, SinkFile};
use crate::{
    ceiling::Ceiling,
    lane::frame,
    names::Places,
    run::{RunError, control, next},
    upstream::Outside,
};

/// How long one may take to be sent, connecting included.
const SEND_LIMIT: Duration = Duration::from_secs(30);

/// The pause after the first failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Where checkpoints come in, and how far they have come.
#[derive(Debug)]
pub struct Door {
    queue: Mutex<Queue>,
    news: Notify,
    state: watch::Sender<Witnessed>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(u64, Arc<Checkpoint>)>,
    /// The last one that came in, and how many did.
    last: Option<Arc<Checkpoint>>,
    count: u64,
}

impl Door {
    /// One in front of this place; of nowhere, where none is named, and then nothing is kept.
    #[must_use]
    pub fn new(sink: Option<&Sink>) -> Self {
        let (state, _) = watch::channel(Witnessed {
            sink: sink.map(ToString::to_string),
            ..Witnessed::default()
        });
        Self {
            queue: Mutex::default(),
            news: Notify::new(),
            state,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one more, at once.
    fn offer(&self, checkpoint: Checkpoint) {
        if self.state.borrow().sink.is_none() {
            return;
        }
        let mut queue = self.lock();
        // pawd says the newest one again when it is back.
        if queue.last.as_deref() == Some(&checkpoint) {
            return;
        }
        let checkpoint = Arc::new(checkpoint);
        queue.count += 1;
        let id = queue.count;
        queue.last = Some(Arc::clone(&checkpoint));
        queue.waiting.push_back((id, checkpoint));
        let lost = queue.waiting.len() > MOST_CHECKPOINTS;
        if lost {
            queue.waiting.pop_front();
        }
        let queued = length(&queue);
        drop(queue);
        self.state.send_modify(|state| {
            state.queued = queued;
            state.dropped += u64::from(lost);
        });
        self.news.notify_one();
    }

    /// The oldest one that waits, once there is one.
    async fn oldest(&self) -> (u64, Arc<Checkpoint>) {
        loop {
            let oldest = self.lock().waiting.front().cloned();
            if let Some(oldest) = oldest {
                return oldest;
            }
            self.news.notified().await;
        }
    }

    /// This one, and what stood before it, is there.
    fn arrived(&self, id: u64, checkpoint: &Checkpoint) {
        let mut queue = self.lock();
        while queue.waiting.pop_front_if(|(of, _)| *of <= id).is_some() {}
        let queued = length(&queue);
        drop(queue);
        self.state.send_modify(|state| {
            state.queued = queued;
            state.sent = state.sent.max(checkpoint.seq);
            state.error = None;
        });
    }

    fn failed(&self, error: String) {
        tracing::warn!(
            error,
            "a checkpoint of the audit log does not leave this host"
        );
        self.state.send_modify(|state| state.error = Some(error));
    }
}

fn length(queue: &Queue) -> u32 {
    u32::try_from(queue.waiting.len()).unwrap_or(u32::MAX)
}

/// Sends what comes in, for as long as it is polled.
pub async fn send(
    door: Arc<Door>,
    sink: Sink,
    outside: Outside,
    ceiling: Arc<Ceiling>,
    names: Places,
) -> Infallible {
    let mut link: Option<Link> = None;
    let mut pause = FIRST_PAUSE;
    // Nobody says of a line of syslog that it has arrived. The last one is sent again where its connection ends.
    let mut unsure: Option<(u64, Arc<Checkpoint>)> = None;
    loop {
        let (id, checkpoint) = if let Some(open) = &mut link {
            tokio::select! {
                biased;
                () = open.ended() => {
                    link = None;
                    door.failed(format!("{sink}: the other side has ended the connection"));
                    wait(&mut pause).await;
                    continue;
                }
                oldest = door.oldest() => oldest,
            }
        } else if let Some(last) = unsure.clone() {
            last
        } else {
            door.oldest().await
        };
        let sending = sink.send(&mut link, &outside, &ceiling, &names, &checkpoint);
        let sent = timeout(SEND_LIMIT, sending)
            .await
            .unwrap_or(Err(SendError::Slow));
        match sent {
            Ok(()) => {
                // One that is only said again is no sign that all is well.
                if unsure.as_ref().is_none_or(|(of, _)| *of != id) {
                    pause = FIRST_PAUSE;
                }
                door.arrived(id, &checkpoint);
                unsure = link.is_some().then_some((id, checkpoint));
            }
            Err(error) => {
                link = None;
                door.failed(format!("{sink}: {}", paw_log::Chain(&error)));
                wait(&mut pause).await;
            }
        }
    }
}

/// Waits before the next try, longer each time.
async fn wait(pause: &mut Duration) {
    sleep_until(Instant::now() + *pause).await;
    *pause = LONGEST_PAUSE.min(*pause * 2);
}

/// Serves the connection over which pawd hands on checkpoints, until it is closed. Each change of how far they have come is told.
pub(crate) async fn serve(stream: UnixStream, door: &Door) -> Result<(), RunError> {
    let (mut from, mut to) = stream.into_split();
    let mut state = door.state.subscribe();
    state.mark_changed();
    // A frame that is being read is read to its end, whatever there is to be told meanwhile.
    let hear = async {
        while let Some((tag, _, payload)) = next(&mut from).await? {
            if tag != Tag::Checkpoint {
                return Err(RunError::Unexpected(tag));
            }
            let checkpoint: Checkpoint = control(tag, &payload)?;
            if checkpoint.line.len() > MAX_CHECKPOINT
                || checkpoint.line.bytes().any(|byte| byte.is_ascii_control())
            {
                let long = io::Error::other("a checkpoint is no line, or too long");
                return Err(RunError::Io(long));
            }
            door.offer(checkpoint);
        }
        Ok::<(), RunError>(())
    };
    let tell = async {
        while state.changed().await.is_ok() {
            let json = serde_json::to_vec(&*state.borrow_and_update())
                .expect("numbers and texts are always JSON");
            to.write_all(&frame(Tag::Witnessed, 0, &json)).await?;
        }
        Ok::<(), RunError>(())
    };
    tokio::select! {
        heard = hear => heard,
        told = tell => told,
    }
}
