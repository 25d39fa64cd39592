//! Sandboxes that were made before anybody asked: attested, waiting for their first command, used once.
//!
//! ```text
//!  action ── take ──► Keeper ── one of this key waits ──► it is theirs; the launcher starts its deadline
//!                       │  └─── none does ──► made for this action alone; where no place is, it stands in line until one is
//!                       └── prepares the next one, as the recent demand calls for
//! ```
//!
//! - [`stock`]: what to make, to hand out, to drop. Pure.
//! - [`key`]: for whom a sandbox was made; nobody else gets it.
//! - [`keeper`]: the one task that owns what waits.
//! - [`line`]: who waits for a place at all.
//!
//! **A command never runs without a deadline.** The launcher holds the deadlines. A waiting sandbox has one from the moment it is
//! attested, the bound of its waiting, which is checked against a ceiling that is root's. Taking it sends two things at the same
//! time: the command into the sandbox, and the claim to the launcher, which replaces the bound by the deadline of the plan. If
//! the claim comes late or never, the bound still stands; if it is refused, the sandbox is killed. At worst, then, a command lives
//! for the bound and the plan's deadline together, and both have a ceiling.

mod keeper;
mod key;
mod line;
mod stock;
mod waiting;

use std::{sync::Arc, time::Duration};

use paw_launch::request::{RefusalReason, SandboxPlan};
use paw_policy::Name;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub use keeper::Keeper;
pub use key::{Key, Owner};

use self::line::Line;
use super::{
    LauncherError, Launchers,
    frames::{Sandbox, SandboxError},
    launchers::Which,
};
use crate::config::PoolBounds as Bounds;

/// Asks that wait for the keeper.
const QUEUE: usize = 64;

enum Ask {
    /// One of this key, if one waits.
    Take(Box<Key>, oneshot::Sender<Option<Sandbox>>),
    /// A place for one that is to run at once; whether there was one to give up.
    Room(oneshot::Sender<bool>),
    /// Nothing of this image may wait; dropped when it has ended.
    Forget(Name, oneshot::Sender<()>),
}

/// Where actions get their sandboxes from. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    launchers: Launchers,
    asks: mpsc::Sender<Ask>,
    lines: Arc<Lines>,
}

/// A line for each launcher: a place of one is none of the other's.
#[derive(Debug, Default)]
struct Lines {
    usual: Line,
    kata: Line,
}

/// A pool in front of these launchers, and the task that keeps it.
pub fn pool(
    launchers: Launchers,
    bounds: watch::Receiver<Bounds>,
    stop: CancellationToken,
) -> (Pool, Keeper) {
    let (asks, asked) = mpsc::channel(QUEUE);
    let keeper = Keeper::new(launchers.clone(), asked, bounds, stop);
    let pool = Pool {
        launchers,
        asks,
        lines: Arc::default(),
    };
    (pool, keeper)
}

/// The sandbox of one action: one that waited for it, or one that is still to be made.
pub enum Origin {
    /// It waited.
    Ready(Box<Sandbox>),
    /// It is made; what waits gives way to it.
    Pool(Pool),
    /// It is made, where there is no pool.
    Launchers(Launchers),
}

impl Pool {
    /// Where the sandbox of this plan comes from. If one waits for this owner and plan, it is taken, and the plan gets its id.
    pub async fn origin(&self, owner: Owner, plan: &mut SandboxPlan) -> Origin {
        let taken = match Key::of(owner, plan) {
            Some(key) => self.take(key).await,
            None => None,
        };
        let Some(sandbox) = taken else {
            return self.cold();
        };
        plan.id = sandbox.id().clone();
        Origin::Ready(Box::new(sandbox))
    }

    /// One that is made for this action, whatever waits.
    #[must_use]
    pub fn cold(&self) -> Origin {
        Origin::Pool(self.clone())
    }

    /// Ends what waits of this image, and what is being made of it, because its name is about to mean another root, or just began
    /// to: with what was made before, an action would get the old one. It has ended when this returns.
    pub async fn forget(&self, image: &Name) {
        let (reply, forgotten) = oneshot::channel();
        // Without its keeper there is no pool, and nothing waits.
        if self
            .asks
            .send(Ask::Forget(image.clone(), reply))
            .await
            .is_ok()
        {
            // Nothing is ever sent: it is over when the last sandbox lets go of the other end.
            let _ = forgotten.await;
        }
    }

    async fn take(&self, key: Key) -> Option<Sandbox> {
        let (reply, taken) = oneshot::channel();
        // Without its keeper there is no pool, and then each is made when it is asked for.
        self.asks.send(Ask::Take(Box::new(key), reply)).await.ok()?;
        let mut sandbox = taken.await.ok()??;
        sandbox.claim();
        Some(sandbox)
    }

    /// Makes one, as soon as there is a place for it, and within the time that it may take itself: whoever wants more at once than the
    /// launcher has places for waits, and is refused only where too many do.
    async fn create(&self, plan: SandboxPlan) -> Result<Sandbox, SandboxError> {
        let line = match Which::makes(plan.runtime) {
            Which::Usual => &self.lines.usual,
            Which::Kata => &self.lines.kata,
        };
        // Nobody overtakes who stands there already.
        if line.standing() == 0 {
            let made = self.create_now(&plan).await;
            if !made.as_ref().is_err_and(is_full) {
                return made;
            }
        }
        let Some(standing) = line.stand() else {
            return Err(SandboxError::Crowded { most: line::MOST });
        };
        let limit = Duration::from_millis(plan.limits.wall_ms);
        let has_turn = async {
            let _first = standing.is_first().await;
            let mut ends = self.launchers.of(plan.runtime).ends();
            loop {
                // An end that comes while it is asked is one to ask again for.
                ends.borrow_and_update();
                let made = self.create_now(&plan).await;
                if !made.as_ref().is_err_and(is_full) {
                    return made;
                }
                if ends.changed().await.is_err() {
                    return Err(LauncherError::Lost.into());
                }
            }
        };
        let over = |_| Err(SandboxError::NoPlace { waited: limit });
        timeout(limit, has_turn).await.unwrap_or_else(over)
    }

    /// How many wait for a place, and how many may.
    #[must_use]
    pub fn line(&self) -> (usize, usize) {
        let standing = self.lines.usual.standing() + self.lines.kata.standing();
        (standing, 2 * line::MOST)
    }

    /// Makes one if there is a place. What waits is never the reason that there is none.
    async fn create_now(&self, plan: &SandboxPlan) -> Result<Sandbox, SandboxError> {
        loop {
            match self.launchers.create(plan.clone()).await {
                Err(SandboxError::Launcher(LauncherError::Refused(refusal)))
                    if refusal.reason == RefusalReason::Full =>
                {
                    // Each round takes one from the pool, and it makes no new ones meanwhile.
                    if !self.make_room().await {
                        return Err(LauncherError::Refused(refusal).into());
                    }
                }
                made => return made,
            }
        }
    }

    async fn make_room(&self) -> bool {
        let (reply, made) = oneshot::channel();
        self.asks.send(Ask::Room(reply)).await.is_ok() && made.await.unwrap_or(false)
    }
}

/// Whether there was no place.
fn is_full(error: &SandboxError) -> bool {
    matches!(error, SandboxError::Launcher(LauncherError::Refused(refusal)) if refusal.reason == RefusalReason::Full)
}

impl Origin {
    /// Whether it waited.
    #[must_use]
    pub const fn is_pooled(&self) -> bool {
        matches!(self, Self::Ready(_))
    }

    /// The sandbox. Dropping the future, or what it returns, kills it.
    ///
    /// # Errors
    /// As [`Launchers::create`].
    pub async fn sandbox(self, plan: SandboxPlan) -> Result<Sandbox, SandboxError> {
        match self {
            Self::Ready(sandbox) => Ok(*sandbox),
            Self::Pool(pool) => pool.create(plan).await,
            Self::Launchers(launchers) => launchers.create(plan).await,
        }
    }
}

impl From<&Launchers> for Origin {
    fn from(launchers: &Launchers) -> Self {
        Self::Launchers(launchers.clone())
    }
}

#[cfg(test)]
mod tests;
