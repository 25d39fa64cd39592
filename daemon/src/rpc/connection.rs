//! One bounded conversation, whatever the framing.
//!
//! ```text
//!            ┌───── paused: 64 calls in flight, answers unsent, a refusal ───────┐
//!            │                                                                  │
//! reading ───┴──▶ frame ──▶ dispatch ──▶ answered at once ──▶ unsent ──▶ written┘
//!    │                         └──▶ call in flight ──────────▲
//!    │                         └──▶ subscription ──▶ queue ──┘
//!    ├─ half closed or pawd stops ──▶ draining: nothing is read, what is in flight is answered ──▶ closed
//!    └─ gone, or a frame that does not end, or a write that stalls ──▶ closed, calls in flight are dropped
//! ```
//!
//! While it is paused nothing is read, so the kernel's buffer fills and the client waits: what one connection costs is
//! bounded by the limits, whatever it sends. Everything happens in one task; only subscriptions have their own.

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jsonrpsee::core::server::MethodSink;
use paw_api::{
    error::{Error, ErrorKind},
    fault::Fault,
};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep, sleep_until},
};

use super::{
    dispatch::{self, Answer, Begun, Session},
    flow::Flow,
    share::Unsent,
};

/// Unsent bytes above which nothing more is read, so that many small answers leave in one write.
const COALESCED: usize = 64 * 1024;

/// One thing off the wire.
pub(super) enum Incoming {
    /// A frame: one request, notification or batch.
    Frame(Bytes),
    /// A frame that was too long; it was skipped.
    TooBig,
    /// Something of the framing itself.
    Nothing,
}

/// The other side may close its direction and still wait for answers.
pub(super) const HALF_CLOSES: bool = true;
/// When the other side closes, it is gone.
pub(super) const CLOSES_AT_ONCE: bool = false;

/// Talks until either side ends it.
pub(super) async fn converse<W>(wire: W, session: Arc<Session>, flow: Arc<Flow>, half_closes: bool)
where
    W: Stream<Item = io::Result<Incoming>> + Sink<Answer, Error = io::Error> + Unpin,
{
    let (out, items) = mpsc::channel(session.shared.limits.subscription_queue);
    let mut talk = Talk {
        wire,
        flow,
        calls: FuturesUnordered::new(),
        held: 0,
        sink: Some(MethodSink::new(out)),
        items: Some(items),
        unsent: session.seat.share().unsent(),
        rest: None,
        timing_frame: false,
        session,
    };
    if talk.run(half_closes).await.is_ok() {
        let _ = talk.wire.close().await;
    }
}

/// A call in flight, and how many bytes its frame had.
struct Call {
    answer: BoxFuture<'static, Option<Answer>>,
    bytes: usize,
}

impl Future for Call {
    type Output = (Option<Answer>, usize);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let bytes = self.bytes;
        self.answer.as_mut().poll(cx).map(|answer| (answer, bytes))
    }
}

/// The connection ended without a goodbye.
struct Gone;

enum Event {
    Incoming(Incoming),
    EndOfInput,
    Outgoing(Option<Answer>),
    FrameTooSlow,
    Stop,
    Quiet,
    Gone,
}

struct Talk<W> {
    wire: W,
    flow: Arc<Flow>,
    session: Arc<Session>,
    calls: FuturesUnordered<Call>,
    /// Bytes of the frames whose calls are in flight.
    held: usize,
    /// Where subscriptions send to; none once nothing more is read, so that `items` ends with the last of them.
    sink: Option<MethodSink>,
    /// What subscriptions sent; none once there is none.
    items: Option<mpsc::Receiver<Answer>>,
    /// Bytes handed to `wire` since it was last empty.
    unsent: Unsent,
    /// Until this nothing is read: something was refused.
    rest: Option<Pin<Box<Sleep>>>,
    timing_frame: bool,
}

impl<W> Talk<W>
where
    W: Stream<Item = io::Result<Incoming>> + Sink<Answer, Error = io::Error> + Unpin,
{
    async fn run(&mut self, half_closes: bool) -> Result<(), Gone> {
        let stop = self.session.shared.stop.clone();
        let mut stopped = pin!(stop.cancelled());
        let mut timer = pin!(sleep(self.session.shared.limits.frame));
        loop {
            let event =
                std::future::poll_fn(|cx| self.poll(cx, stopped.as_mut(), timer.as_mut())).await;
            match event {
                Event::Incoming(incoming) => self.take(incoming)?,
                Event::Outgoing(None) => {}
                Event::Outgoing(Some(answer)) => self.send(answer)?,
                Event::EndOfInput if !half_closes || self.flow.hung_up() => return Err(Gone),
                Event::EndOfInput | Event::Stop => self.sink = None,
                Event::FrameTooSlow => {
                    let limit = self.session.shared.limits.frame.as_secs();
                    let text = format!("the frame was not complete after {limit} s");
                    let error = Error::new(
                        ErrorKind::TimedOut,
                        text,
                        "send whole frames; between them the connection may be silent",
                    );
                    self.send(dispatch::error(error))?;
                    return Ok(());
                }
                Event::Quiet => return Ok(()),
                Event::Gone => return Err(Gone),
            }
            if let Some(until) = self.session.rests_until() {
                self.rest = Some(Box::pin(sleep_until(until.into())));
            }
            // Frames that are in the buffer already cost no system call, and so none of the points where tokio lets others in.
            tokio::task::consume_budget().await;
            self.session.slice.pass_on().await;
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stopped: Pin<&mut impl Future>,
        timer: Pin<&mut Sleep>,
    ) -> Poll<Event> {
        let shared = Arc::clone(&self.session.shared);
        let limits = &shared.limits;
        if self.sink.is_some() && stopped.poll(cx).is_ready() {
            return Poll::Ready(Event::Stop);
        }
        loop {
            if self.unsent.bytes() < limits.unsent
                && let Poll::Ready(Some((answer, bytes))) = self.calls.poll_next_unpin(cx)
            {
                self.held -= bytes;
                return Poll::Ready(Event::Outgoing(answer));
            }
            let room = self.unsent.bytes() < COALESCED;
            if room && let Some(items) = &mut self.items {
                match items.poll_recv(cx) {
                    Poll::Ready(Some(item)) => return Poll::Ready(Event::Outgoing(Some(item))),
                    Poll::Ready(None) => self.items = None,
                    Poll::Pending => {}
                }
            }
            if let Some(rest) = &mut self.rest
                && rest.as_mut().poll(cx).is_ready()
            {
                self.rest = None;
            }
            let reading = room
                && self.rest.is_none()
                && self.sink.is_some()
                && self.calls.len() < limits.in_flight
                && self.held < limits.in_flight_bytes;
            if reading {
                match self.wire.poll_next_unpin(cx) {
                    Poll::Ready(Some(Ok(incoming))) => {
                        return Poll::Ready(Event::Incoming(incoming));
                    }
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(Event::Gone),
                    Poll::Ready(None) => return Poll::Ready(Event::EndOfInput),
                    Poll::Pending => {}
                }
            }
            if self.unsent.bytes() > 0 {
                match self.wire.poll_flush_unpin(cx) {
                    Poll::Ready(Ok(())) => {
                        let was_paused = self.unsent.bytes() >= COALESCED;
                        self.unsent.written();
                        if was_paused {
                            continue;
                        }
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Event::Gone),
                    Poll::Pending => {}
                }
            }
            if self.sink.is_none()
                && self.items.is_none()
                && self.calls.is_empty()
                && self.unsent.bytes() == 0
            {
                return Poll::Ready(Event::Quiet);
            }
            return if self.is_frame_too_slow(cx, timer, reading) {
                Poll::Ready(Event::FrameTooSlow)
            } else {
                Poll::Pending
            };
        }
    }

    /// Times the frame that is being read. Time in which we do not read is ours, not the client's.
    fn is_frame_too_slow(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        reading: bool,
    ) -> bool {
        if !reading || !self.flow.frame_begun() {
            self.timing_frame = false;
            return false;
        }
        if !self.timing_frame {
            self.timing_frame = true;
            timer
                .as_mut()
                .reset(Instant::now() + self.session.shared.limits.frame);
        }
        timer.poll(cx).is_ready()
    }

    fn take(&mut self, incoming: Incoming) -> Result<(), Gone> {
        self.timing_frame = false;
        let frame = match incoming {
            Incoming::Nothing => return Ok(()),
            Incoming::TooBig => {
                let limit = self.session.shared.limits.request;
                return self.send(dispatch::error(Fault::RequestTooBig { limit }));
            }
            Incoming::Frame(frame) if frame.trim_ascii().is_empty() => return Ok(()),
            Incoming::Frame(frame) => frame,
        };
        let Some(sink) = &self.sink else {
            return Ok(());
        };
        match dispatch::begin(&self.session, sink, &frame) {
            Begun::Silent => Ok(()),
            Begun::Answered(answer) => self.send(answer),
            Begun::InFlight(call) | Begun::Subscribing(call) => {
                self.held += frame.len();
                self.calls.push(Call {
                    answer: call,
                    bytes: frame.len(),
                });
                Ok(())
            }
        }
    }

    fn send(&mut self, answer: Answer) -> Result<(), Gone> {
        self.unsent.add(answer.get().len() + 1);
        self.wire.start_send_unpin(answer).map_err(|_| Gone)
    }
}
