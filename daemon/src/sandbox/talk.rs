//! What was said to the launcher on one connection, and who waits for what it answers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    os::fd::OwnedFd,
};

use paw_launch::request::{MAX_LISTED, Numbered, Request, SandboxId, SandboxSummary};
use tokio::sync::oneshot;

use super::{away::LauncherError, launcher::Answer};

/// Who waits for one answer.
pub(super) enum Waiting {
    Caller {
        created: Option<SandboxId>,
        answer: oneshot::Sender<Result<Answer, LauncherError>>,
    },
    /// We ourselves: which of these sandboxes still run? And those that were named so far.
    RollCall {
        asked: BTreeSet<SandboxId>,
        running: BTreeSet<SandboxId>,
    },
    /// Nobody; but a sandbox that is not there any more has an end that was missed.
    Kill(SandboxId),
}

/// What was said on one connection and is not settled yet.
pub(super) struct Talk {
    pub(super) seq: u64,
    pub(super) waiting: BTreeMap<u64, Waiting>,
    /// Bounded: asks are taken only when it is empty, and kills are at most as many as sandboxes.
    pub(super) outgoing: VecDeque<(Numbered, Vec<OwnedFd>)>,
}

impl Talk {
    pub(super) fn say(&mut self, request: Request, waiting: Waiting) {
        self.say_with(request, Vec::new(), waiting);
    }

    pub(super) fn say_with(&mut self, request: Request, fds: Vec<OwnedFd>, waiting: Waiting) {
        self.seq += 1;
        self.waiting.insert(self.seq, waiting);
        let seq = self.seq;
        self.outgoing.push_back((Numbered { seq, request }, fds));
    }

    pub(super) fn kill(&mut self, id: SandboxId) {
        self.say(Request::Kill { id: id.clone() }, Waiting::Kill(id));
    }
}

/// How to ask for what comes after these; a list that is not full was the last.
pub(super) fn next_page(sandboxes: &[SandboxSummary]) -> Option<Request> {
    let last = sandboxes.last().filter(|_| sandboxes.len() >= MAX_LISTED)?;
    Some(Request::ListAfter {
        id: last.id.clone(),
    })
}
