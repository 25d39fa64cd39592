//! One connected socket with a limit on how long a write may stall.
//!
//! All three framings run over it, so that none of them can forget the limit: hyper and tungstenite have none of their own.

use std::{
    io,
    os::fd::AsFd,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::PollSemaphore;

use super::{Limits, limits::LONG_FRAME};

/// What the reader of frames and the socket beneath it tell each other.
#[derive(Debug, Default)]
pub(super) struct Flow {
    begun: AtomicBool,
    /// Bytes of the next frame that are kept.
    read: AtomicUsize,
    hung_up: AtomicBool,
}

impl Flow {
    /// Whether bytes of a frame came and its end did not.
    pub(super) fn frame_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// A frame ended, or did not yet: whether bytes of the next one came, and how many of them are kept.
    pub(super) fn frame_ended(&self, next_begun: bool, kept: usize) {
        self.begun.store(next_begun, Ordering::Relaxed);
        self.read.store(kept, Ordering::Relaxed);
    }

    /// Whether the other side is gone, rather than merely silent from now on.
    pub(super) fn hung_up(&self) -> bool {
        self.hung_up.load(Ordering::Relaxed)
    }
}

/// The socket.
pub(super) struct Guarded {
    stream: UnixStream,
    flow: Arc<Flow>,
    subscriptions: Arc<Semaphore>,
    most_subscriptions: usize,
    /// Where places for long frames come from, and the one that is held.
    long: (PollSemaphore, Option<OwnedSemaphorePermit>),
    patience: (Duration, Duration),
    stalled: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Guarded {
    pub(super) fn new(
        stream: UnixStream,
        flow: Arc<Flow>,
        subscriptions: Arc<Semaphore>,
        long: PollSemaphore,
        limits: &Limits,
    ) -> Self {
        Self {
            stream,
            flow,
            subscriptions,
            most_subscriptions: limits.subscriptions,
            long: (long, None),
            patience: (limits.write_stall, limits.write_stall_subscribed),
            stalled: None,
        }
    }

    /// The socket itself.
    pub(super) const fn get_ref(&self) -> &UnixStream {
        &self.stream
    }

    /// Called when a write could not go on; an error once that has been so for too long.
    fn stall(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let (patience, subscribed) = self.patience;
        let (since, timer) = self.stalled.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(sleep_until(now + patience)))
        });
        while timer.as_mut().poll(cx).is_ready() {
            let live = self.subscriptions.available_permits() < self.most_subscriptions;
            if !live || since.elapsed() >= subscribed {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the other side does not read",
                )));
            }
            timer.as_mut().reset(*since + subscribed);
        }
        Poll::Pending
    }

    fn written(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if outcome.is_pending() {
            return self.stall(cx);
        }
        self.stalled = None;
        outcome
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A frame that turns out to be long is read on once its user has a place for it.
        let flow = Arc::clone(&self.flow);
        let (places, held) = &mut self.long;
        if flow.read.load(Ordering::Relaxed) <= LONG_FRAME {
            *held = None;
        } else if held.is_none() {
            *held = ready!(places.poll_acquire(cx));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let more = buf.filled().len() - before;
        if more > 0 {
            self.flow.read.fetch_add(more, Ordering::Relaxed);
            self.flow.begun.store(true, Ordering::Relaxed);
        } else if buf.remaining() > 0 {
            // Both directions closed reads like one direction closed; only the kernel's flags tell them apart.
            let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
            let gone = poll(&mut fds, PollTimeout::ZERO).is_err() || fds[0].any().unwrap_or(true);
            self.flow.hung_up.store(gone, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
