//! One output stream of a command, between the task that reads frames and whoever wants the bytes.
//!
//! It holds at most one window: the sandbox may send no more before somebody took what is here, and if it does all the
//! same, that is a fault and not more memory.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use paw_launch::frame::WINDOW;
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::Notify,
};

/// From this many taken bytes on they are acknowledged; fewer are not worth a frame, and cannot stall a stream whose window
/// is four times as large.
const WORTH_A_FRAME: usize = WINDOW / 4;

/// More came than the window allows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overrun;

#[derive(Default)]
struct State {
    /// Delivered and not taken yet.
    waiting: BytesMut,
    /// Taken, and not yet safe where it was taken to.
    unsettled: usize,
    /// Taken and safe, or thrown away, and not acknowledged yet.
    owed: usize,
    /// No more will come.
    ended: bool,
    /// Nobody wants what comes.
    abandoned: bool,
    reader: Option<Waker>,
}

/// The end that frames go into.
pub(super) struct Stream {
    state: Mutex<State>,
    /// Tells the task that writes frames that there is something to acknowledge.
    owing: Arc<Notify>,
}

/// The end that bytes come out of. What is left in it when it is dropped is thrown away, so that the command can go on.
pub struct Output {
    stream: Arc<Stream>,
}

/// A new stream; `owing` is notified when [`Stream::take_owed`] has something.
pub(super) fn stream(owing: Arc<Notify>) -> (Arc<Stream>, Output) {
    let stream = Arc::new(Stream {
        state: Mutex::default(),
        owing,
    });
    (stream.clone(), Output { stream })
}

impl Stream {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock, so the state is whole even after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `kept` for the reader and counts `discarded` as taken.
    pub(super) fn deliver(&self, kept: &[u8], discarded: usize) -> Result<(), Overrun> {
        let mut state = self.lock();
        let under_way = state.waiting.len() + state.unsettled + state.owed;
        if under_way + kept.len() + discarded > WINDOW {
            return Err(Overrun);
        }
        if state.abandoned {
            state.owed += kept.len();
        } else {
            state.waiting.extend_from_slice(kept);
        }
        state.owed += discarded;
        let (owing, reader) = (state.owed >= WORTH_A_FRAME, state.reader.take());
        drop(state);
        self.tell(owing, reader);
        Ok(())
    }

    /// No more will come.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        let reader = state.reader.take();
        drop(state);
        self.tell(false, reader);
    }

    /// Bytes to acknowledge now; 0 when it is not worth a frame yet.
    pub(super) fn take_owed(&self) -> usize {
        let mut state = self.lock();
        if state.owed < WORTH_A_FRAME {
            0
        } else {
            std::mem::take(&mut state.owed)
        }
    }

    fn tell(&self, owing: bool, reader: Option<Waker>) {
        if owing {
            self.owing.notify_one();
        }
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Output {
    /// The next bytes, as many as there are; nothing at the end.
    pub async fn next(&mut self) -> Option<Bytes> {
        let taken = self.take().await?;
        self.settle(taken.len());
        Some(taken)
    }

    /// The next bytes, which are not acknowledged before [`Output::settle`] says that they are safe: who comes after us can
    /// have them said again.
    pub async fn take(&mut self) -> Option<Bytes> {
        std::future::poll_fn(|context| self.poll_take(context, usize::MAX)).await
    }

    /// So many bytes that were taken are safe.
    pub fn settle(&mut self, length: usize) {
        let mut state = self.stream.lock();
        let length = length.min(state.unsettled);
        state.unsettled -= length;
        state.owed += length;
        let owing = state.owed >= WORTH_A_FRAME;
        drop(state);
        self.stream.tell(owing, None);
    }

    fn poll_take(&mut self, context: &mut Context<'_>, most: usize) -> Poll<Option<Bytes>> {
        let mut state = self.stream.lock();
        if state.waiting.is_empty() {
            if state.ended {
                return Poll::Ready(None);
            }
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let length = state.waiting.len().min(most);
        let taken = state.waiting.split_to(length).freeze();
        state.unsettled += length;
        Poll::Ready(Some(taken))
    }
}

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(bytes) = ready!(self.poll_take(context, into.remaining())) {
            into.put_slice(&bytes);
            self.settle(bytes.len());
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let mut state = self.stream.lock();
        state.abandoned = true;
        state.owed += state.waiting.len() + state.unsettled;
        state.unsettled = 0;
        state.waiting = BytesMut::new();
        let owing = state.owed >= WORTH_A_FRAME;
        drop(state);
        self.stream.tell(owing, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_delivered_is_taken_in_order_and_then_ends() {
        let (stream, mut output) = stream(Arc::default());
        stream.deliver(b"one", 0).unwrap();
        stream.deliver(b"two", 0).unwrap();
        stream.end();
        assert_eq!(output.next().await.as_deref(), Some(&b"onetwo"[..]));
        assert_eq!(output.next().await, None);
    }

    #[tokio::test]
    async fn only_what_was_taken_is_acknowledged() {
        let (stream, mut output) = stream(Arc::default());
        stream.deliver(&vec![0; WINDOW], 0).unwrap();
        assert_eq!(stream.take_owed(), 0);
        output.next().await;
        assert_eq!((stream.take_owed(), stream.take_owed()), (WINDOW, 0));
    }

    #[tokio::test]
    async fn what_is_not_safe_yet_is_not_acknowledged() {
        let (stream, mut output) = stream(Arc::default());
        stream.deliver(&vec![0; WINDOW], 0).unwrap();
        let taken = output.take().await.unwrap();
        assert_eq!(stream.take_owed(), 0);
        assert_eq!(stream.deliver(&[0], 0), Err(Overrun));
        output.settle(taken.len());
        assert_eq!(stream.take_owed(), WINDOW);
    }

    #[test]
    fn more_than_the_window_is_a_fault_and_not_more_memory() {
        let (stream, _output) = stream(Arc::default());
        stream.deliver(&vec![0; WINDOW], 0).unwrap();
        assert_eq!(stream.deliver(&[0], 0), Err(Overrun));
    }

    #[test]
    fn a_dropped_reader_lets_the_command_go_on() {
        let (stream, output) = stream(Arc::default());
        stream.deliver(&vec![0; WINDOW], 0).unwrap();
        drop(output);
        assert_eq!(stream.take_owed(), WINDOW);
        stream.deliver(&vec![0; WINDOW], 0).unwrap();
        assert_eq!(stream.take_owed(), WINDOW);
    }
}
