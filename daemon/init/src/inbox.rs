//! Bytes from the outside, cut into frames.

use std::os::fd::BorrowedFd;

use nix::{errno::Errno, unistd};
use paw_launch::frame::{self, FrameError, HEADER, MAX_PAYLOAD, Tag};

/// What came of reading once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// Perhaps there is a frame now.
    Some,
    /// The outside has closed its end.
    End,
}

/// What a frame is, whose, and its payload.
pub(crate) type Frame<'a> = (Tag, u32, &'a [u8]);

/// At most one whole frame that is not complete yet, and what was read behind it.
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    taken: usize,
    /// The beginning of a payload, out of frames that were parts of it.
    parts: Vec<u8>,
    /// Whether [`Inbox::parts`] belong to the frame that was given out last.
    used: bool,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(HEADER + MAX_PAYLOAD),
            taken: 0,
            parts: Vec::new(),
            used: false,
        }
    }

    /// Reads once; call it when `from` is readable.
    pub(crate) fn fill(
        &mut self,
        from: BorrowedFd<'_>,
        scratch: &mut [u8],
    ) -> Result<Filled, Errno> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        match unistd::read(from, scratch) {
            Ok(0) => Ok(Filled::End),
            Ok(read) => {
                self.bytes.extend_from_slice(&scratch[..read]);
                Ok(Filled::Some)
            }
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(Filled::Some),
            Err(errno) => Err(errno),
        }
    }

    /// The next whole frame, with the parts that came before it.
    pub(crate) fn next(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        if std::mem::take(&mut self.used) {
            self.parts = Vec::new();
        }
        loop {
            let rest = &self.bytes[self.taken..];
            let Some((header, rest)) = rest.split_first_chunk::<HEADER>() else {
                return Ok(None);
            };
            let (length, tag, child) = frame::parse_header(*header)?;
            let Some(payload) = rest.get(..length) else {
                return Ok(None);
            };
            self.taken += HEADER + length;
            if tag == Tag::Resume {
                // Whoever had begun something in parts was killed, and this is the next one.
                self.parts = Vec::new();
            }
            if tag != Tag::Part && self.parts.is_empty() {
                // Borrowed anew, because the one above would be held for the whole loop.
                let from = self.taken - length;
                return Ok(Some((tag, child, &self.bytes[from..self.taken])));
            }
            let whole = self.parts.len() + payload.len();
            if whole > MAX_PAYLOAD {
                return Err(FrameError::TooLong(
                    u32::try_from(whole).unwrap_or(u32::MAX),
                ));
            }
            self.parts.extend_from_slice(payload);
            if tag != Tag::Part {
                self.used = true;
                return Ok(Some((tag, child, &self.parts)));
            }
        }
    }

    /// Whether a frame was begun and not finished.
    pub(crate) fn has_half_a_frame(&self) -> bool {
        self.taken < self.bytes.len() || !(self.used || self.parts.is_empty())
    }
}
