//! The attempts that are under way: one, and where its answer is late to begin a second one beside it.
//!
//! ```text
//!  first ──its p95 passes, nothing heard──► first, second ──a piece, or the end, of one──► that one alone
//!                                               └──one fails──► the other alone
//! ```
//!
//! Who is heard first has won: the other one is left, which closes its connection, and is in the record as `outrun`. Nobody hears a
//! piece of both. The question of one that is left was sent, so it counts.

use std::{
    future::poll_fn,
    task::Poll::{Pending, Ready},
};

use paw_llm::LlmError;
use tokio::time::Instant;

use super::{
    Asked, Spoken, Tried,
    breakers::Pass,
    listen::{Heard, Voice},
    random,
    tried::{Bill, Key},
};
use crate::clock::now_ms;

/// One attempt.
pub(super) struct Runner {
    /// Place of the target that is asked.
    pub(super) at: usize,
    pub(super) pass: Option<Pass>,
    pub(super) key: Key,
    pub(super) voice: Voice,
}

/// At most two, in the order in which they began.
#[derive(Default)]
pub(super) struct Race(Vec<Runner>);

impl Race {
    pub(super) fn begin(&mut self, runner: Runner) {
        self.0.push(runner);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What one of them says next, and its place among them. The one that began first is listened to first.
    pub(super) async fn heard(&mut self) -> (usize, Heard) {
        poll_fn(|cx| {
            for (place, runner) in self.0.iter_mut().enumerate() {
                if let Ready(heard) = runner.voice.poll(cx) {
                    return Ready((place, heard));
                }
            }
            Pending
        })
        .await
    }

    /// The place of the target that this one asks.
    pub(super) fn target(&self, place: usize) -> usize {
        self.0[place].at
    }

    /// A piece of this one came: it goes on alone.
    pub(super) fn piece(
        &mut self,
        place: usize,
        bytes: usize,
        targets: &[Asked],
        tried: &mut Tried,
    ) {
        let now = Instant::now();
        let mut winner = self.0.remove(place);
        tried.heard(winner.key, bytes, now);
        if let Some(pass) = &mut winner.pass {
            pass.heard();
        }
        self.leave(place, targets, tried);
        self.0.push(winner);
    }

    /// This one ended: what that says is noted, and its target's place told. The other one goes on, unless there is an answer.
    pub(super) fn ended(
        &mut self,
        place: usize,
        said: &Result<Spoken, LlmError>,
        targets: &[Asked],
        tried: &mut Tried,
    ) -> usize {
        let runner = self.0.remove(place);
        let known = &targets[runner.at].known;
        known.note(said);
        if let Some(pass) = runner.pass {
            pass.ended(said, now_ms(), random().unwrap_or(u64::MAX));
        }
        let (outcome, bill) = match said {
            Ok(spoken) => ("ok", Bill::Told(spoken.done.usage)),
            Err(error) => (error.kind(), Bill::of(error)),
        };
        let attempt = tried.end(runner.key, outcome, bill, Instant::now());
        match said {
            Ok(_) => {
                attempt.into_iter().for_each(|it| known.took(it));
                self.leave(place, targets, tried);
            }
            Err(LlmError::TimedOut { .. }) => {
                let silent = attempt.filter(|it| it.first_token_ms.is_none());
                silent.into_iter().for_each(|it| known.took_longer(it));
            }
            Err(_) => {}
        }
        runner.at
    }

    /// Leaves those that are still under way, after the one at this place has won.
    fn leave(&mut self, winner: usize, targets: &[Asked], tried: &mut Tried) {
        for (place, loser) in self.0.drain(..).enumerate() {
            let outrun = tried.end(loser.key, "outrun", Bill::Unknown, Instant::now());
            // One that began before its winner would have taken longer still. Without that its slow answers were never seen, and
            // those of a second one would come ever earlier.
            if place < winner
                && let Some(attempt) = outrun
            {
                targets[loser.at].known.took_longer(attempt);
            }
        }
    }
}
