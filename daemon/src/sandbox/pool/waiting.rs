//! A sandbox while it waits, and when that is over.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use paw_launch::request::Usage;
use tokio::sync::oneshot;

use crate::sandbox::frames::Sandbox;

impl Sandbox {
    /// Ready when it has ended, after which this is not to be asked again.
    pub(super) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.ended).poll(context).map(drop)
    }

    /// Whether a command can still be started in it, as far as is known.
    pub(super) fn is_whole(&mut self) -> bool {
        let ended = !matches!(
            self.ended.try_recv(),
            Err(oneshot::error::TryRecvError::Empty)
        );
        !ended && self.starter().inside.lock().fault.is_none()
    }

    /// What it used, without the time that it waited: a command can be over before the launcher has heard of the claim, and then
    /// the launcher counts the waiting, too.
    pub(in crate::sandbox) fn used_since_its_claim(&self, usage: Usage) -> Usage {
        let wall_ms = self.claimed.map_or(usage.wall_ms, |since| {
            let own = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            usage.wall_ms.min(own)
        });
        Usage { wall_ms, ..usage }
    }

    /// Its waiting is over: the launcher is told, while the first command may already be on its way. Should the launcher not
    /// start the deadline of the plan, it is killed.
    pub(super) fn claim(&mut self) {
        self.claimed = Some(Instant::now());
        let (launcher, id) = (self.launcher.clone(), self.id().clone());
        self.tasks.spawn(async move {
            if let Err(error) = launcher.claim(id.clone()).await {
                tracing::warn!(paw_sandbox = %id, error = %paw_log::Chain(&error), "a sandbox without a deadline of its own is killed");
                launcher.doom(id);
            }
        });
    }
}
