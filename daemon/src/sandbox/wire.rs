//! What goes over the two pipes of a sandbox: the tasks that read and write frames, and what they know of its commands.
//!
//! ```text
//!  command   registered ── frames of its output ──► exited | not started ──► forgotten
//!                └──────────── any fault: streams end, whoever waits is told ──────┘
//! ```

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use paw_launch::frame::{
    Credit, Exited, FrameError, HEADER, Hello, MAX_PAYLOAD, NotStarted, StdinTaken, Tag, VERSION,
    WINDOW, header, parse_header,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::AsyncWriteExt as _,
    net::unix::pipe,
    sync::{Notify, Semaphore, mpsc, oneshot},
};
use tokio_util::codec::{Decoder, FramedRead};

use super::{
    frames::{Exit, SandboxError},
    stream::Stream,
};

/// How a command came to its end, as paw-init says.
pub(super) type Outcome = Result<Exit, NotStarted>;

/// What the two tasks and all consumers know of one sandbox.
#[derive(Default)]
pub(super) struct Inside {
    pub(super) state: Mutex<InsideState>,
    pub(super) tell_writer: Arc<Notify>,
}

#[derive(Default)]
pub(super) struct InsideState {
    pub(super) children: BTreeMap<u32, Entry>,
    pub(super) fault: Option<Fault>,
}

pub(super) struct Entry {
    pub(super) stdout: Arc<Stream>,
    pub(super) stderr: Arc<Stream>,
    /// Bytes of output that are still wanted.
    pub(super) room: u64,
    pub(super) truncated: Arc<AtomicBool>,
    /// Bytes of input that paw-init still takes; closed when the command takes none.
    pub(super) window: Arc<Semaphore>,
    pub(super) stdin: StdinState,
    pub(super) outcome: Option<oneshot::Sender<Outcome>>,
}

#[derive(PartialEq)]
pub(super) enum StdinState {
    Open,
    /// No more will be sent; paw-init has to be told after everything that was sent.
    Ending,
    Ended,
}

/// Why nothing more comes out of the sandbox.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    Gone,
    Protocol(String),
}

impl Fault {
    pub(super) fn to_error(&self) -> SandboxError {
        match self {
            Self::Gone => SandboxError::Gone,
            Self::Protocol(what) => SandboxError::Protocol(what.clone()),
        }
    }
}

impl From<FrameError> for Fault {
    fn from(fault: FrameError) -> Self {
        Self::Protocol(fault.to_string())
    }
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl Inside {
    pub(super) fn lock(&self) -> MutexGuard<'_, InsideState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fault(&self) -> Fault {
        self.lock().fault.clone().unwrap_or(Fault::Gone)
    }

    /// Nothing more will come: streams end, and whoever waits for a command is told.
    pub(super) fn fail(&self, fault: Fault) {
        let mut state = self.lock();
        state.fault.get_or_insert(fault);
        for entry in std::mem::take(&mut state.children).into_values() {
            entry.close();
        }
    }

    fn hear(&self, frame: Frame) -> Result<(), Fault> {
        let Frame {
            tag,
            child,
            payload,
        } = frame;
        let mut state = self.lock();
        let known = state.children.get_mut(&child);
        match tag {
            Tag::Hello => {
                let hello: Hello = read_control(&payload)?;
                if hello.version != VERSION {
                    return Err(Fault::Protocol(format!(
                        "its paw-init speaks version {} and pawd speaks {VERSION}",
                        hello.version
                    )));
                }
            }
            Tag::Stdout | Tag::Stderr => {
                let Some(entry) = known else {
                    return Err(stranger(child));
                };
                let kept = payload
                    .len()
                    .min(usize::try_from(entry.room).unwrap_or(usize::MAX));
                entry.room -= kept as u64;
                if kept < payload.len() {
                    entry.truncated.store(true, Ordering::Relaxed);
                }
                let stream = if tag == Tag::Stdout {
                    &entry.stdout
                } else {
                    &entry.stderr
                };
                let delivered = stream.deliver(&payload[..kept], payload.len() - kept);
                delivered.map_err(|_| {
                    Fault::Protocol("more output than its window allows".to_owned())
                })?;
            }
            Tag::StdinTaken => {
                let StdinTaken { bytes, closed } = read_control(&payload)?;
                let Some(entry) = known else {
                    return Err(stranger(child));
                };
                let bytes = bytes as usize;
                if bytes > WINDOW || entry.window.available_permits() + bytes > WINDOW {
                    return Err(Fault::Protocol(
                        "it took more input than it was given".to_owned(),
                    ));
                }
                entry.window.add_permits(bytes);
                if closed {
                    entry.window.close();
                }
            }
            Tag::Exited => {
                let exited: Exited = read_control(&payload)?;
                let Some(mut entry) = state.children.remove(&child) else {
                    return Err(stranger(child));
                };
                let exit = Exit {
                    exited,
                    output_truncated: entry.truncated.load(Ordering::Relaxed),
                };
                if let Some(outcome) = entry.outcome.take() {
                    // Who dropped the child does not wait for its end.
                    let _ = outcome.send(Ok(exit));
                }
                entry.close();
            }
            Tag::NotStarted => {
                let not_started: NotStarted = read_control(&payload)?;
                let Some(mut entry) = state.children.remove(&child) else {
                    return Err(stranger(child));
                };
                if let Some(outcome) = entry.outcome.take() {
                    let _ = outcome.send(Err(not_started));
                }
                entry.close();
            }
            Tag::Start | Tag::Stdin | Tag::StdinEnd | Tag::Credit | Tag::Signal | Tag::End => {
                return Err(Fault::Protocol(
                    "it sent a frame that only we send".to_owned(),
                ));
            }
        }
        Ok(())
    }

    /// Frames that are due because consumers took something or closed an input.
    pub(super) fn due(&self) -> Vec<Bytes> {
        let mut due = Vec::new();
        for (number, entry) in &mut self.lock().children {
            let [stdout, stderr] = [&entry.stdout, &entry.stderr]
                .map(|stream| u32::try_from(stream.take_owed()).unwrap_or(0));
            if stdout + stderr > 0 {
                due.extend(control(Tag::Credit, *number, &Credit { stdout, stderr }));
            }
            if entry.stdin == StdinState::Ending {
                entry.stdin = StdinState::Ended;
                due.push(data(Tag::StdinEnd, *number, &[]));
            }
        }
        due
    }
}

impl Entry {
    pub(super) fn close(self) {
        self.stdout.end();
        self.stderr.end();
        self.window.close();
    }
}

fn stranger(child: u32) -> Fault {
    Fault::Protocol(format!("it speaks of command {child}, which does not run"))
}

pub(super) async fn read(reader: pipe::Receiver, inside: Arc<Inside>, doom: impl FnOnce()) {
    let mut frames = FramedRead::with_capacity(reader, Frames, HEADER + MAX_PAYLOAD);
    let fault = loop {
        match frames.next().await {
            None => break Fault::Gone,
            Some(Err(fault)) => break fault,
            Some(Ok(frame)) => {
                if let Err(fault) = inside.hear(frame) {
                    break fault;
                }
            }
        }
    };
    if let Fault::Protocol(what) = &fault {
        tracing::warn!(what, "sandbox broke the protocol");
        doom();
    }
    inside.fail(fault);
}

pub(super) async fn write(
    mut writer: pipe::Sender,
    mut queue: mpsc::Receiver<Bytes>,
    inside: Arc<Inside>,
) {
    let written: io::Result<()> = async {
        loop {
            tokio::select! {
                frame = queue.recv() => match frame {
                    None => return Ok(()),
                    Some(frame) => writer.write_all(&frame).await?,
                },
                () = inside.tell_writer.notified() => {
                    // What an ending input still has in the queue goes before its end.
                    let due = inside.due();
                    for _ in 0..queue.len() {
                        if let Ok(frame) = queue.try_recv() {
                            writer.write_all(&frame).await?;
                        }
                    }
                    for frame in due {
                        writer.write_all(&frame).await?;
                    }
                },
            }
        }
    }
    .await;
    // The reading task sees the same end and says why; this one only stops.
    drop(written);
}

struct Frame {
    tag: Tag,
    child: u32,
    payload: Bytes,
}

struct Frames;

impl Decoder for Frames {
    type Item = Frame;
    type Error = Fault;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, Fault> {
        let Some(start) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let (length, tag, child) = parse_header(*start)?;
        if bytes.len() < HEADER + length {
            bytes.reserve(HEADER + length - bytes.len());
            return Ok(None);
        }
        let mut frame = bytes.split_to(HEADER + length);
        Ok(Some(Frame {
            tag,
            child,
            payload: frame.split_off(HEADER).freeze(),
        }))
    }

    fn decode_eof(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, Fault> {
        // Half a frame at the end is what a killed paw-init leaves behind, and no news.
        self.decode(bytes).inspect(|frame| {
            if frame.is_none() {
                bytes.clear();
            }
        })
    }
}

pub(super) fn data(tag: Tag, child: u32, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER + payload.len());
    frame.extend_from_slice(&header(payload.len(), tag, child));
    frame.extend_from_slice(payload);
    frame.freeze()
}

/// A control frame, unless it is too long for one.
pub(super) fn control(tag: Tag, child: u32, message: &impl Serialize) -> Option<Bytes> {
    let json = serde_json::to_vec(message).ok()?;
    (json.len() <= MAX_PAYLOAD).then(|| data(tag, child, &json))
}

fn read_control<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(payload)
        .map_err(|fault| Fault::Protocol(format!("a control frame is not readable: {fault}")))
}
