//! pawd's part of the way of signed checkpoints off this host: it hands them from the writer of the audit log to paw-egress, which alone has
//! a network, and remembers how far they have come. It holds one at most, the newest, and nobody who appends ever waits for it.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use paw_api::{
    audit::Signed,
    egress::{Checkpoint, Tag, VERSION, Witness, Witnessed},
    system::WitnessState,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::UnixStream,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::egress::{EgressError, control, next, read};

/// The pause before paw-egress is looked for again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// How long paw-egress may take to take a checkpoint, or to say where they go.
const LIMIT: Duration = Duration::from_secs(5);

/// How far checkpoints have come, now and later.
#[derive(Debug, Clone)]
pub struct Witnesses {
    signed: watch::Receiver<Option<Signed>>,
    state: watch::Receiver<Witnessed>,
}

/// Has a task among `parts` hand on what is signed, until `stop`; what is known of it.
pub fn witnesses(
    parts: &mut JoinSet<()>,
    socket: PathBuf,
    signed: watch::Receiver<Option<Signed>>,
    stop: CancellationToken,
) -> Witnesses {
    let (tell, state) = watch::channel(Witnessed::default());
    let known = Witnesses {
        signed: signed.clone(),
        state,
    };
    let work = async move {
        let mut pause = FIRST_PAUSE;
        let handing = async {
            loop {
                match hand_on(&socket, signed.clone(), &tell).await {
                    Ok(()) => return,
                    Err((error, was_there)) => {
                        debug!(error = %paw_log::Chain(&error), "checkpoints are not handed on");
                        if was_there {
                            pause = FIRST_PAUSE;
                        }
                    }
                }
                tell.send_modify(|state| {
                    if state.sink.is_some() {
                        state.error = Some("paw-egress does not answer".into());
                    }
                });
                // A socket that is not there yet tells nobody when it comes.
                sleep_until(Instant::now() + pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = handing => {}
        }
    };
    parts.spawn(work);
    known
}

/// Hands on each newest checkpoint over one connection. `Ok` when no more will come; else why the connection is over, and whether there was
/// one.
async fn hand_on(
    socket: &Path,
    mut signed: watch::Receiver<Option<Signed>>,
    tell: &watch::Sender<Witnessed>,
) -> Result<(), (EgressError, bool)> {
    let away = EgressError::Away;
    let opened = async {
        let mut stream = UnixStream::connect(socket).await?;
        let witness = Witness { version: VERSION };
        stream
            .write_all(&control(Tag::Witness, 0, &witness))
            .await?;
        Ok::<_, io::Error>(stream)
    };
    let stream = opened.await.map_err(|error| (away(error), false))?;
    let (mut from, mut to) = stream.into_split();
    let hear = async {
        loop {
            match next(&mut from).await? {
                Some((Tag::Witnessed, _, payload)) => {
                    tell.send_replace(read(&payload)?);
                }
                Some((other, ..)) => {
                    let what = format!("it says a frame {other:?}");
                    return Err(EgressError::Confused(what));
                }
                None => return Err(away(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    };
    let say = async {
        // The newest one is new to who was just reached.
        signed.mark_changed();
        while signed.changed().await.is_ok() {
            let newest = signed.borrow_and_update().clone();
            let Some(Signed { seq, checkpoint }) = newest else {
                continue;
            };
            let line = checkpoint;
            let frame = control(Tag::Checkpoint, 0, &Checkpoint { seq, line });
            let said = timeout(LIMIT, to.write_all(&frame)).await;
            said.map_err(|_| away(io::ErrorKind::TimedOut.into()))?
                .map_err(away)?;
        }
        Ok::<(), EgressError>(())
    };
    tokio::select! {
        heard = hear => heard,
        said = say => said,
    }
    .map_err(|error| (error, true))
}

impl Witnesses {
    /// How far they have come; nothing where they go nowhere.
    #[must_use]
    pub fn state(&self) -> Option<WitnessState> {
        let Witnessed {
            sink,
            queued,
            dropped,
            sent,
            error,
        } = self.state.borrow().clone();
        let signed = self.signed.borrow().as_ref().map_or(0, |newest| newest.seq);
        Some(WitnessState {
            sink: sink?,
            sent,
            behind: signed.saturating_sub(sent),
            queued: u64::from(queued),
            dropped,
            error,
        })
    }
}
