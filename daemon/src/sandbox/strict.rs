//! What stands before rmcp and reads along: a skill that says too much at once, or too often, is cut off.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

/// The longest line that a skill may say, in bytes.
pub(super) const MAX_LINE: usize = 1024 * 1024;
/// The most lines of one call: the handshake, pages of tools, notifications, the answer.
pub(super) const MAX_LINES: usize = 256;

/// A reader that ends with an error at a line that is too long, or at a line too many.
pub(super) struct Strict<R> {
    inner: R,
    line: usize,
    lines: usize,
    breach: Arc<AtomicBool>,
}

impl<R> Strict<R> {
    pub(super) fn new(inner: R) -> (Self, Arc<AtomicBool>) {
        let breach = Arc::new(AtomicBool::new(false));
        (
            Self {
                inner,
                line: 0,
                lines: 0,
                breach: breach.clone(),
            },
            breach,
        )
    }

    fn accepts(&mut self, bytes: &[u8]) -> bool {
        bytes.split_inclusive(|b| *b == b'\n').all(|piece| {
            self.line += piece.len();
            let long = self.line > MAX_LINE;
            if piece.ends_with(b"\n") {
                self.line = 0;
                self.lines += 1;
            }
            !long && self.lines <= MAX_LINES
        })
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Strict<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(context, into))?;
        if this.accepts(&into.filled()[before..]) {
            return Poll::Ready(Ok(()));
        }
        this.breach.store(true, Ordering::Relaxed);
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the skill says too much",
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(said: &[u8], accepted: bool) {
        assert_eq!(Strict::new(()).0.accepts(said), accepted);
    }

    #[test]
    fn lines_are_bounded_in_length_and_number() {
        check(&[b'x'; MAX_LINE], true);
        check(&[b'x'; MAX_LINE + 1], false);
        check(&b"x\n".repeat(MAX_LINES), true);
        check(&b"x\n".repeat(MAX_LINES + 1), false);
        check(
            &[
                vec![b'x'; MAX_LINE - 1],
                b"\n".to_vec(),
                vec![b'x'; MAX_LINE],
            ]
            .concat(),
            true,
        );
    }
}
