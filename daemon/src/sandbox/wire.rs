//! What goes over the two pipes of a sandbox: the tasks that read and write frames, and what they know of its commands.
//!
//! ```text
//!  command   registered ── frames of its output ──► exited | not started ── who waited has it ──► forgotten
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

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use paw_launch::{
    egress::Listening,
    frame::{
        Credit, Exited, FrameError, HEADER, Hello, MAX_PAYLOAD, NotStarted, StdinTaken, Tag,
        VERSION, WINDOW, parse_header,
    },
    request::SandboxId,
    resume::{MAX_PIECE, MAX_WRITE, writes},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWriteExt as _},
    net::unix::pipe,
    sync::{Notify, Semaphore, mpsc, oneshot},
};
use tokio_util::codec::{Decoder, FramedRead};

use super::{
    frames::{Exit, SandboxError},
    relay::Relay,
    stream::Stream,
};

/// How a command came to its end, as paw-init says.
pub(super) type Outcome = Result<Exit, NotStarted>;

/// What the two tasks and all consumers know of one sandbox.
#[derive(Default)]
pub(super) struct Inside {
    pub(super) state: Mutex<InsideState>,
    pub(super) tell_writer: Arc<Notify>,
    /// Its connections to the proxy's port.
    pub(super) relay: Arc<Relay>,
    /// Who waits for that port to be open.
    pub(super) port: Mutex<Option<oneshot::Sender<Listening>>>,
}

#[derive(Default)]
pub(super) struct InsideState {
    pub(super) children: BTreeMap<u32, Entry>,
    /// Commands whose end nobody needs to hear again.
    pub(super) forgotten: Vec<u32>,
    /// Whether another pawd goes on from here: it is told nothing more.
    pub(super) left: bool,
    pub(super) fault: Option<Fault>,
}

pub(super) struct Entry {
    pub(super) stdout: Arc<Stream>,
    pub(super) stderr: Arc<Stream>,
    /// Bytes of stdout and stderr that an earlier pawd had already, and that come again.
    pub(super) known: [usize; 2],
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
    /// The launcher is gone, and this does not outlive it.
    Orphaned,
    Protocol(String),
}

impl Fault {
    pub(super) fn to_error(&self, id: &SandboxId) -> SandboxError {
        match self {
            Self::Gone => SandboxError::Gone,
            Self::Orphaned => SandboxError::Orphaned { id: id.clone() },
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

    /// Why nothing more comes out of it.
    pub(super) fn fault(&self, id: &SandboxId) -> SandboxError {
        self.lock()
            .fault
            .as_ref()
            .unwrap_or(&Fault::Gone)
            .to_error(id)
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
                let (stream, known) = if tag == Tag::Stdout {
                    (&entry.stdout, &mut entry.known[0])
                } else {
                    (&entry.stderr, &mut entry.known[1])
                };
                let again = payload.len().min(*known);
                *known -= again;
                let new = &payload[again..];
                let kept = new
                    .len()
                    .min(usize::try_from(entry.room).unwrap_or(usize::MAX));
                entry.room -= kept as u64;
                if kept < new.len() {
                    entry.truncated.store(true, Ordering::Relaxed);
                }
                let delivered = stream.deliver(&new[..kept], payload.len() - kept);
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
                let Some(entry) = state.children.remove(&child) else {
                    return Err(stranger(child));
                };
                let exit = Exit {
                    exited,
                    output_truncated: entry.truncated.load(Ordering::Relaxed),
                };
                self.tell_end(&mut state, child, entry, Ok(exit));
            }
            Tag::NotStarted => {
                let not_started: NotStarted = read_control(&payload)?;
                let Some(entry) = state.children.remove(&child) else {
                    return Err(stranger(child));
                };
                self.tell_end(&mut state, child, entry, Err(not_started));
            }
            Tag::EgressListen => {
                let waiting = self
                    .port
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                if let Some(waiting) = waiting {
                    // Who does not wait any more has given the sandbox up.
                    let _ = waiting.send(read_control(&payload)?);
                }
            }
            Tag::EgressOpen | Tag::EgressData | Tag::EgressEnd | Tag::EgressTaken => {
                let heard = self.relay.hear(tag, child, &payload);
                if heard.map_err(|broken| Fault::Protocol(broken.0.to_owned()))? {
                    self.tell_writer.notify_one();
                }
            }
            Tag::Start
            | Tag::Stdin
            | Tag::StdinEnd
            | Tag::Credit
            | Tag::Signal
            | Tag::End
            | Tag::Part
            | Tag::Resize
            | Tag::Resume
            | Tag::Forget => {
                return Err(Fault::Protocol(
                    "it sent a frame that only we send".to_owned(),
                ));
            }
        }
        Ok(())
    }

    /// Tells whoever waits for a command how it ended. With them it is safe, so they say when it may be forgotten inside.
    fn tell_end(&self, state: &mut InsideState, child: u32, mut entry: Entry, outcome: Outcome) {
        let waiting = entry.outcome.take();
        if waiting.is_none_or(|waiting| waiting.send(outcome).is_err()) {
            state.forgotten.push(child);
            self.tell_writer.notify_one();
        }
        entry.close();
    }

    /// Whoever waited for this command does not need it any more: one that has ended can be forgotten, one that runs on has
    /// nobody who waits.
    pub(super) fn forget(&self, child: u32) {
        let mut state = self.lock();
        match state.children.get_mut(&child) {
            Some(entry) => entry.outcome = None,
            None => state.forgotten.push(child),
        }
        drop(state);
        self.tell_writer.notify_one();
    }

    /// Frames that are due because consumers took something, closed an input, or noted an end.
    pub(super) fn due(&self) -> Vec<Bytes> {
        let mut due = self.relay.due();
        let state = &mut *self.lock();
        if state.left {
            return due;
        }
        for number in state.forgotten.drain(..) {
            due.push(data(Tag::Forget, number, &[]));
        }
        for (number, entry) in &mut state.children {
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

pub(super) async fn read(reader: impl AsyncRead + Unpin, inside: Arc<Inside>, doom: impl FnOnce()) {
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
                    Some(frame) => send(&mut writer, frame).await?,
                },
                () = inside.tell_writer.notified() => {
                    // What an ending input still has in the queue goes before its end.
                    let due = inside.due();
                    for _ in 0..queue.len() {
                        if let Ok(frame) = queue.try_recv() {
                            send(&mut writer, frame).await?;
                        }
                    }
                    for frame in due {
                        send(&mut writer, frame).await?;
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

/// Sends what is one frame, or several in a row, by writes that a death of ours cannot tear: each has at most [`MAX_WRITE`]
/// bytes, and ends where a frame ends.
async fn send(writer: &mut pipe::Sender, frames: Bytes) -> io::Result<()> {
    let mut rest = frames;
    while !rest.is_empty() {
        let mut whole = 0;
        while let Some(header) = rest[whole..].first_chunk::<HEADER>() {
            let (length, ..) = parse_header(*header).map_err(io::Error::other)?;
            if whole + HEADER + length > MAX_WRITE {
                break;
            }
            whole += HEADER + length;
        }
        if whole == 0 {
            return Err(io::Error::other("a frame that is longer than one write"));
        }
        let write = rest.split_to(whole);
        // A pipe that does not block takes so few bytes whole or says that it is full.
        writer.write_all(&write).await?;
    }
    Ok(())
}

/// A frame as it is written: itself, with its parts before it where it is long.
pub(super) fn data(tag: Tag, child: u32, payload: &[u8]) -> Bytes {
    let pieces = payload.len().div_ceil(MAX_PIECE).max(1);
    let mut frame = BytesMut::with_capacity(pieces * HEADER + payload.len());
    for write in writes(tag, child, payload) {
        frame.put_slice(&write);
    }
    frame.freeze()
}

/// Bytes as frames: each goes for itself, none needs the one before it.
pub(super) fn pieces(tag: Tag, child: u32, bytes: &[u8]) -> Bytes {
    let pieces = bytes.len().div_ceil(MAX_PIECE);
    let mut frames = BytesMut::with_capacity(pieces * HEADER + bytes.len());
    for piece in bytes.chunks(MAX_PIECE) {
        for write in writes(tag, child, piece) {
            frames.put_slice(&write);
        }
    }
    frames.freeze()
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
