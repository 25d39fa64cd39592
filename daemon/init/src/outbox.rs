//! Frames that wait for the outside to read them.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd},
};

use nix::{errno::Errno, unistd};
use paw_launch::frame::{self, HEADER, MAX_PAYLOAD, Tag};
use serde::Serialize;

/// With this much waiting, neither children nor the outside are read from, so nothing can add more than one frame each.
const FULL: usize = 256 * 1024;

/// Frames in the order in which they will be written.
#[derive(Default)]
pub(crate) struct Outbox {
    bytes: VecDeque<u8>,
}

impl Outbox {
    /// Adds a frame of raw bytes, at most [`MAX_PAYLOAD`] of them.
    pub(crate) fn data(&mut self, tag: Tag, child: u32, payload: &[u8]) {
        debug_assert!(payload.len() <= MAX_PAYLOAD);
        self.bytes.reserve(HEADER + payload.len());
        self.bytes.extend(frame::header(payload.len(), tag, child));
        self.bytes.extend(payload);
    }

    /// Adds a control frame.
    pub(crate) fn control(&mut self, tag: Tag, child: u32, message: &impl Serialize) {
        let json = serde_json::to_vec(message)
            .expect("control frames are flat structs of numbers and text");
        self.data(tag, child, &json);
    }

    /// Forgets what was not written yet, also the rest of a frame that was begun: whoever reads on skips it.
    pub(crate) fn clear(&mut self) {
        self.bytes = VecDeque::new();
    }

    /// Whether anything waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether more may be added by reading from somewhere.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes.len() < FULL
    }

    /// Writes what the pipe takes without blocking.
    pub(crate) fn flush(&mut self, to: BorrowedFd<'_>) -> Result<(), Errno> {
        while !self.bytes.is_empty() {
            match unistd::write(to.as_fd(), self.bytes.as_slices().0) {
                Ok(written) => drop(self.bytes.drain(..written)),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}
