//! How the last sandboxes ended: a pawd that was away when it happened, or died with the news, asks again.

use std::collections::VecDeque;

use paw_launch::request::{End, SandboxId, Usage};

/// How many are remembered: as many as run at once, in a large installation, and each is some bytes.
const REMEMBERED: usize = 512;

/// The oldest first.
#[derive(Debug, Default)]
pub(crate) struct Ends(VecDeque<(SandboxId, End, Usage)>);

impl Ends {
    /// One more.
    pub(crate) fn note(&mut self, id: SandboxId, end: End, usage: Usage) {
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((id, end, usage));
    }

    /// How this one ended, if that is remembered.
    pub(crate) fn of(&self, id: &SandboxId) -> Option<(End, Usage)> {
        let found = self.0.iter().rev().find(|(ended, ..)| ended == id);
        found.map(|(_, end, usage)| (*end, *usage))
    }
}
