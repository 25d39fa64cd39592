//! The input of one command, on its way to paw-init.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use paw_launch::frame::{MAX_PAYLOAD, Tag};
use tokio::{
    io::AsyncWrite,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_util::sync::{PollSemaphore, PollSender};

use super::wire::{Inside, StdinState, pieces};

/// Where the input of a command goes: at most a window of it is under way.
pub struct Stdin {
    number: u32,
    window: PollSemaphore,
    granted: Option<OwnedSemaphorePermit>,
    frames: PollSender<Bytes>,
    inside: Arc<Inside>,
}

impl Stdin {
    pub(super) fn new(
        number: u32,
        window: Arc<Semaphore>,
        frames: &mpsc::Sender<Bytes>,
        inside: &Arc<Inside>,
    ) -> Self {
        Self {
            number,
            window: PollSemaphore::new(window),
            granted: None,
            frames: PollSender::new(frames.clone()),
            inside: inside.clone(),
        }
    }

    fn end(&self) {
        if let Some(entry) = self.inside.lock().children.get_mut(&self.number)
            && entry.stdin == StdinState::Open
        {
            entry.stdin = StdinState::Ending;
        }
        self.inside.tell_writer.notify_one();
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        let permit = match this.granted.take() {
            Some(permit) => permit,
            None => {
                let wanted =
                    u32::try_from(bytes.len().min(MAX_PAYLOAD)).expect("a payload's length fits");
                ready!(this.window.poll_acquire_many(context, wanted)).ok_or_else(closed)?
            }
        };
        // The place in the queue comes last, so that nobody holds one while it waits for its window.
        match this.frames.poll_reserve(context) {
            Poll::Pending => {
                this.granted = Some(permit);
                return Poll::Pending;
            }
            Poll::Ready(reserved) => reserved.map_err(|_| closed())?,
        }
        let length = permit.num_permits().min(bytes.len());
        // A later call may bring fewer bytes than the window was asked for; the rest of the permit goes back by itself.
        let mut permit = permit;
        if let Some(used) = permit.split(length) {
            used.forget();
        }
        this.frames
            .send_item(pieces(Tag::Stdin, this.number, &bytes[..length]))
            .map_err(|_| closed())?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        self.end();
    }
}
