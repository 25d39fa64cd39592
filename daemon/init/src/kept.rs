//! What one stream of a command said and the outside has not acknowledged: it can be said again.

use std::collections::VecDeque;

use paw_launch::frame::WINDOW;

/// At most a window of bytes, the oldest first.
#[derive(Default)]
pub(crate) struct Kept {
    bytes: VecDeque<u8>,
    /// How many of them were said to the outside that is there now.
    said: usize,
    /// How many were acknowledged before them.
    acknowledged: u64,
}

impl Kept {
    /// How much more may be said before something is acknowledged.
    pub(crate) fn room(&self) -> usize {
        WINDOW - self.bytes.len()
    }

    /// Whether all of it was said to the outside that is there now.
    pub(crate) fn is_said(&self) -> bool {
        self.said == self.bytes.len()
    }

    /// Keeps what is being said right now; everything before it was.
    pub(crate) fn keep_said(&mut self, bytes: &[u8]) {
        debug_assert!(self.is_said() && bytes.len() <= self.room());
        self.bytes.extend(bytes);
        self.said = self.bytes.len();
    }

    /// Lets go of what was acknowledged. More than was said is not believed.
    pub(crate) fn acknowledge(&mut self, taken: usize) {
        let taken = taken.min(self.said);
        self.said -= taken;
        self.acknowledged += taken as u64;
        self.bytes.drain(..taken);
        if self.bytes.is_empty() {
            // A sandbox that is silent shall cost nothing for what it once said.
            self.bytes = VecDeque::new();
        }
    }

    /// Everything is to be said again; how much was acknowledged before it.
    pub(crate) fn again(&mut self) -> u64 {
        self.said = 0;
        self.acknowledged
    }

    /// Puts the next bytes that were not said into `into`; how many.
    pub(crate) fn next(&mut self, into: &mut [u8]) -> usize {
        let (front, back) = self.bytes.as_slices();
        let rest = if self.said < front.len() {
            &front[self.said..]
        } else {
            &back[self.said - front.len()..]
        };
        let next = rest.len().min(into.len());
        into[..next].copy_from_slice(&rest[..next]);
        self.said += next;
        next
    }
}
