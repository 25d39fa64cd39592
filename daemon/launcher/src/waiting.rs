//! Sandboxes that wait for their first command: how many, how long, and the claim that ends the waiting.
//!
//! Whoever asks for them is believed as little as anywhere: the ceilings bound the waiting, what waits leaves room for what is to
//! run at once, and when the host is short of memory nothing waits.

use std::time::{Duration, Instant};

use paw_launch::request::{Refusal, RefusalReason, Reply, SandboxId, SandboxPlan};
use tracing::info;

use crate::{
    answer::not_found,
    ceilings::{ceiling, refusal},
    connection::ConnectionId,
    sandbox::Sandbox,
    serve::Launcher,
};

impl Launcher {
    /// Begins to make a sandbox that waits.
    pub(crate) fn prepare(
        &mut self,
        asked: (ConnectionId, u64),
        plan: SandboxPlan,
        idle_ms: u64,
        now: Instant,
    ) -> Result<(), Refusal> {
        let ceilings = &self.host.ceilings;
        if idle_ms == 0 || idle_ms > ceilings.max_idle_ms {
            let message = format!(
                "idle_ms of {idle_ms} is not between 1 and {}",
                ceilings.max_idle_ms
            );
            return Err(ceiling(
                &message,
                "lower idle in [sandbox.pool] of pawd.toml, or raise max_idle_ms in launcher.toml",
            ));
        }
        if self.host.memory.is_short() {
            return Err(refusal(
                RefusalReason::Memory,
                "the host is short of memory".to_owned(),
                "nothing has to be done: sandboxes that run at once are made all the same",
            ));
        }
        let waiting = self
            .sandboxes
            .values()
            .filter(|sandbox| sandbox.is_to_wait())
            .count();
        if !leaves_room(self.sandboxes.len(), waiting, ceilings.max_sandboxes) {
            return Err(refusal(
                RefusalReason::Full,
                format!(
                    "{} sandboxes are there and {waiting} of them wait; the rest is kept for those that run at once",
                    self.sandboxes.len()
                ),
                "raise max_sandboxes in launcher.toml",
            ));
        }
        self.create(asked, plan, Some(Duration::from_millis(idle_ms)), now)
    }

    /// Starts the life of one that waits.
    pub(crate) fn claim(&mut self, id: &SandboxId, now: Instant) -> Reply {
        let sandbox = self.sandboxes.get_mut(id);
        if sandbox.is_some_and(|sandbox| sandbox.claim(now)) {
            info!(paw_sandbox = %id, "sandbox claimed");
            Reply::Claimed
        } else {
            not_found(id)
        }
    }

    /// Whether anything waits, or is being made to wait.
    pub(crate) fn anything_waits(&self) -> bool {
        self.sandboxes.values().any(Sandbox::is_to_wait)
    }

    /// The host is short of memory: whatever waits gives back what it has.
    pub(crate) fn drain(&mut self, now: Instant) {
        let waiting = self
            .sandboxes
            .values_mut()
            .filter(|sandbox| sandbox.is_to_wait());
        for sandbox in waiting {
            info!(paw_sandbox = %sandbox.plan.id, "the host is short of memory; a waiting sandbox is ended");
            sandbox.kill(now);
        }
    }

    /// A connection is gone, and what waits for its first command over it waits for nothing.
    pub(crate) fn forsake(&mut self, connection: ConnectionId) {
        let now = Instant::now();
        for sandbox in self.sandboxes.values_mut() {
            if sandbox.is_to_wait() && sandbox.asked.0 == connection {
                sandbox.kill(now);
            }
        }
    }
}

/// Whether one more may wait: at most half of all places are for waiting, and the last quarter is never taken for it.
fn leaves_room(there: usize, waiting: usize, max: u32) -> bool {
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    waiting < max / 2 && there < max - max / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_leaves_room_for_what_runs() {
        let check = |there, waiting, max, expected| {
            assert_eq!(
                leaves_room(there, waiting, max),
                expected,
                "{there} {waiting} {max}"
            );
        };
        check(0, 0, 8, true);
        check(3, 3, 8, true);
        check(4, 4, 8, false);
        check(5, 0, 8, true);
        check(6, 0, 8, false);
        check(0, 0, 2, true);
        check(0, 0, 1, false);
    }
}
