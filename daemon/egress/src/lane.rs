//! One connection of a sandbox, between the frames of its run and the proxy that serves it.
//!
//! Each direction holds at most one window, whoever is slow. What is due to be sent is collected by the run's one writing task.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Buf as _, Bytes, BytesMut};
use paw_api::egress::{HEADER, MAX_CONNECTIONS, MAX_PAYLOAD, Tag, Taken, WINDOW, header};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

/// From this many taken bytes on they are acknowledged; fewer cannot stall a direction whose window is four times as large.
const WORTH_A_FRAME: usize = WINDOW / 4;

/// pawd broke the protocol. The run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A number that is in use, or not a new one.
    #[error("a connection was opened twice")]
    Reused,
    /// More than may be.
    #[error("more than {MAX_CONNECTIONS} connections at once")]
    TooMany,
    /// More than its window allows.
    #[error("more bytes than the window of a connection allows")]
    Overrun,
    /// More was acknowledged than was sent.
    #[error("more bytes were acknowledged than were sent")]
    Credit,
}

#[derive(Default)]
struct State {
    /// From the sandbox and not read yet.
    inbound: BytesMut,
    /// Nothing more comes from the sandbox.
    inbound_ended: bool,
    /// Read, and not acknowledged yet.
    owed: usize,
    /// We read no more; said, or to be said.
    closed: bool,
    closed_said: bool,
    /// To the sandbox and not sent yet.
    outbound: BytesMut,
    /// Sent and not acknowledged.
    unacknowledged: usize,
    /// We write no more; said, or to be said.
    ended: bool,
    ended_said: bool,
    /// The sandbox reads no more.
    outbound_closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// All connections of a run.
#[derive(Default)]
pub(crate) struct Lanes {
    lanes: Mutex<Numbered>,
    due: Arc<Notify>,
}

#[derive(Default)]
struct Numbered {
    open: BTreeMap<u32, Arc<Mutex<State>>>,
    last: u32,
}

/// The proxy's end of one connection. Dropping it ends both directions; what was written before is still sent.
pub(crate) struct Lane {
    state: Arc<Mutex<State>>,
    due: Arc<Notify>,
    /// Read before and put back.
    ahead: Bytes,
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs under these locks, so what they guard is whole even after a panic elsewhere.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lanes {
    /// Told when [`Lanes::due`] has something.
    pub(crate) fn notice(&self) -> Arc<Notify> {
        Arc::clone(&self.due)
    }

    /// A new connection. Numbers only grow, so that a late frame of an old one is never taken for one of a new one.
    pub(crate) fn open(&self, number: u32) -> Result<Lane, Broken> {
        let mut lanes = lock(&self.lanes);
        if number <= lanes.last {
            return Err(Broken::Reused);
        }
        // The sandbox forgets a connection as soon as it is over, and may begin another in the same breath.
        lanes.open.retain(|_, state| !lock(state).is_over());
        if lanes.open.len() >= MAX_CONNECTIONS {
            return Err(Broken::TooMany);
        }
        lanes.last = number;
        let state = Arc::<Mutex<State>>::default();
        lanes.open.insert(number, Arc::clone(&state));
        Ok(Lane {
            state,
            due: Arc::clone(&self.due),
            ahead: Bytes::new(),
        })
    }

    fn with(
        &self,
        number: u32,
        act: impl FnOnce(&mut State) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        // One that is forgotten already: the frames crossed on the way.
        let Some(state) = lock(&self.lanes).open.get(&number).cloned() else {
            return Ok(());
        };
        let mut state = lock(&state);
        act(&mut state)?;
        let (reader, writer) = (state.reader.take(), state.writer.take());
        drop(state);
        for waker in [reader, writer].into_iter().flatten() {
            waker.wake();
        }
        self.due.notify_one();
        Ok(())
    }

    /// Bytes from the sandbox.
    pub(crate) fn data(&self, number: u32, bytes: &[u8]) -> Result<(), Broken> {
        self.with(number, |state| {
            if state.closed {
                return Ok(());
            }
            if state.inbound.len() + state.owed + bytes.len() > WINDOW {
                return Err(Broken::Overrun);
            }
            state.inbound.extend_from_slice(bytes);
            Ok(())
        })
    }

    /// No more bytes from the sandbox.
    pub(crate) fn end(&self, number: u32) -> Result<(), Broken> {
        self.with(number, |state| {
            state.inbound_ended = true;
            Ok(())
        })
    }

    /// The sandbox took bytes, or takes no more.
    pub(crate) fn taken(&self, number: u32, taken: Taken) -> Result<(), Broken> {
        self.with(number, |state| {
            let bytes = taken.bytes as usize;
            if bytes > state.unacknowledged {
                return Err(Broken::Credit);
            }
            state.unacknowledged -= bytes;
            if taken.closed {
                state.outbound_closed = true;
                state.outbound = BytesMut::new();
                state.ended = true;
            }
            Ok(())
        })
    }

    /// Nobody is inside any more: every connection ends, and no new one begins.
    pub(crate) fn close(&self) {
        let mut lanes = lock(&self.lanes);
        lanes.last = u32::MAX;
        for state in lanes.open.values() {
            let mut state = lock(state);
            (state.inbound_ended, state.outbound_closed, state.ended) = (true, true, true);
            state.outbound = BytesMut::new();
            for waker in [state.reader.take(), state.writer.take()]
                .into_iter()
                .flatten()
            {
                waker.wake();
            }
        }
    }

    /// Frames to be sent now. Connections that are over on both sides are forgotten.
    pub(crate) fn take_due(&self) -> Vec<Bytes> {
        let mut due = Vec::new();
        lock(&self.lanes).open.retain(|number, state| {
            let mut state = lock(state);
            state.collect(*number, &mut due);
            let over = state.is_over();
            if let Some(writer) = state.writer.take() {
                writer.wake();
            }
            !over
        });
        due
    }
}

impl State {
    /// Both sides have said and heard everything.
    const fn is_over(&self) -> bool {
        self.ended_said && self.outbound_closed && self.closed_said && self.inbound_ended
    }

    fn collect(&mut self, number: u32, due: &mut Vec<Bytes>) {
        if !self.closed_said && (self.owed >= WORTH_A_FRAME || self.closed) {
            let taken = Taken {
                bytes: u32::try_from(self.owed).unwrap_or(u32::MAX),
                closed: self.closed,
            };
            (self.owed, self.closed_said) = (0, self.closed);
            let json = serde_json::to_vec(&taken).expect("a number and a flag are always JSON");
            due.push(frame(Tag::Taken, number, &json));
        }
        while !self.outbound.is_empty() && self.unacknowledged < WINDOW {
            let room = WINDOW - self.unacknowledged;
            let length = self.outbound.len().min(MAX_PAYLOAD).min(room);
            self.unacknowledged += length;
            due.push(frame(Tag::Data, number, &self.outbound.split_to(length)));
        }
        if self.ended && self.outbound.is_empty() && !self.ended_said {
            self.ended_said = true;
            due.push(frame(Tag::End, number, &[]));
        }
    }
}

/// A whole frame.
pub(crate) fn frame(tag: Tag, number: u32, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER + payload.len());
    frame.extend_from_slice(&header(payload.len(), tag, number));
    frame.extend_from_slice(payload);
    frame.freeze()
}

impl Lane {
    /// Puts bytes back that were read, to be read again.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        debug_assert!(self.ahead.is_empty());
        self.ahead = bytes;
    }
}

impl AsyncRead for Lane {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(into.remaining());
            into.put_slice(&self.ahead[..length]);
            self.ahead.advance(length);
            return Poll::Ready(Ok(()));
        }
        let mut state = lock(&self.state);
        if state.inbound.is_empty() {
            if state.inbound_ended {
                state.closed = true;
                drop(state);
                self.due.notify_one();
                return Poll::Ready(Ok(()));
            }
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let length = state.inbound.len().min(into.remaining());
        into.put_slice(&state.inbound.split_to(length));
        state.owed += length;
        let owing = state.owed >= WORTH_A_FRAME;
        drop(state);
        if owing {
            self.due.notify_one();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lane {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.state);
        if state.ended || state.outbound_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // What is sent and not acknowledged is kept by the sandbox, so one window is here and one is there.
        let room = WINDOW.saturating_sub(state.outbound.len());
        if room == 0 {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let length = bytes.len().min(room);
        state.outbound.extend_from_slice(&bytes[..length]);
        drop(state);
        self.due.notify_one();
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.state).ended = true;
        self.due.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        (state.closed, state.ended) = (true, true);
        state.inbound = BytesMut::new();
        drop(state);
        self.due.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn tags(frames: &[Bytes]) -> Vec<u8> {
        frames.iter().map(|frame| frame[4]).collect()
    }

    #[tokio::test]
    async fn a_connection_is_forgotten_when_both_directions_are_over_on_both_sides() {
        let lanes = Lanes::default();
        let mut lane = lanes.open(1).unwrap();
        lanes.data(1, b"question").unwrap();
        lanes.end(1).unwrap();
        let mut said = Vec::new();
        lane.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"question");
        lane.write_all(b"answer").await.unwrap();
        drop(lane);
        assert_eq!(
            tags(&lanes.take_due()),
            [Tag::Taken as u8, Tag::Data as u8, Tag::End as u8]
        );
        assert_eq!(lock(&lanes.lanes).open.len(), 1);
        lanes
            .taken(
                1,
                Taken {
                    bytes: 6,
                    closed: true,
                },
            )
            .unwrap();
        assert!(lanes.take_due().is_empty());
        assert_eq!(lock(&lanes.lanes).open.len(), 0);
        assert_eq!(lanes.open(1).err(), Some(Broken::Reused));
    }

    #[tokio::test]
    async fn neither_side_can_make_the_other_hold_more_than_a_window() {
        let lanes = Lanes::default();
        let mut lane = lanes.open(1).unwrap();
        lanes.data(1, &vec![0; WINDOW]).unwrap();
        assert_eq!(lanes.data(1, &[0]), Err(Broken::Overrun));
        lane.write_all(&vec![0; WINDOW]).await.unwrap();
        assert_eq!(lanes.take_due().len(), 1);
        lane.write_all(&vec![0; WINDOW]).await.unwrap();
        assert!(lanes.take_due().is_empty());
        let more = tokio::time::timeout(std::time::Duration::from_millis(20), lane.write(&[0]));
        assert!(more.await.is_err());
        assert_eq!(
            lanes.taken(
                1,
                Taken {
                    bytes: u32::try_from(WINDOW).unwrap() + 1,
                    closed: false
                }
            ),
            Err(Broken::Credit)
        );
    }

    #[tokio::test]
    async fn who_left_inside_ends_the_connection_here() {
        let lanes = Lanes::default();
        let mut lane = lanes.open(7).unwrap();
        lanes.end(7).unwrap();
        lanes
            .taken(
                7,
                Taken {
                    bytes: 0,
                    closed: true,
                },
            )
            .unwrap();
        assert!(lane.write_all(b"x").await.is_err());
        drop(lane);
        lanes.take_due();
        assert_eq!(lock(&lanes.lanes).open.len(), 0);
    }

    #[test]
    fn a_connection_that_is_over_takes_no_place() {
        let lanes = Lanes::default();
        let most = u32::try_from(MAX_CONNECTIONS).unwrap();
        let mut held: Vec<Lane> = (1..=most)
            .map(|number| lanes.open(number).unwrap())
            .collect();
        drop(held.pop());
        assert_eq!(tags(&lanes.take_due()), [Tag::Taken as u8, Tag::End as u8]);
        lanes.end(most).unwrap();
        let closed = Taken {
            bytes: 0,
            closed: true,
        };
        lanes.taken(most, closed).unwrap();
        // Nothing was due in between.
        assert!(lanes.open(most + 1).is_ok());
        assert_eq!(lanes.open(most + 2).err(), Some(Broken::TooMany));
    }

    #[test]
    fn more_connections_than_may_be_are_refused() {
        let lanes = Lanes::default();
        let most = u32::try_from(MAX_CONNECTIONS).unwrap();
        let _held: Vec<Lane> = (1..=most)
            .map(|number| lanes.open(number).unwrap())
            .collect();
        assert_eq!(lanes.open(most + 1).err(), Some(Broken::TooMany));
    }
}
