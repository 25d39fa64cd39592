//! The task that owns what waits.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use paw_launch::request::SandboxId;
use paw_policy::Name;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Ask, Key,
    stock::{Effect, Room, Stock},
};
use crate::{
    config::PoolBounds as Bounds,
    sandbox::{
        LauncherError, Launchers,
        frames::{Sandbox, SandboxError},
        sandbox_id,
    },
};

/// How long one that is not needed any more may take to end before it is killed.
const END_LIMIT: Duration = Duration::from_secs(2);

/// What came of a making.
struct Made {
    number: u64,
    result: Result<(Sandbox, u64), SandboxError>,
}

/// The keeper; nothing waits until [`Keeper::run`] is polled.
#[must_use = "nothing is kept until it runs"]
pub struct Keeper {
    launchers: Launchers,
    asks: mpsc::Receiver<Ask>,
    bounds: watch::Receiver<Bounds>,
    stop: CancellationToken,
    stock: Stock,
    waiting: BTreeMap<SandboxId, Sandbox>,
    making: JoinSet<Made>,
    ending: JoinSet<()>,
    /// Who waits for the place of one that is still being made.
    rooms: Vec<(u64, oneshot::Sender<bool>)>,
    /// Who waits for the end of one that is still being made: until the last of this is dropped.
    ends: Vec<(u64, Arc<oneshot::Sender<()>>)>,
}

impl Keeper {
    pub(super) fn new(
        launchers: Launchers,
        asks: mpsc::Receiver<Ask>,
        mut bounds: watch::Receiver<Bounds>,
        stop: CancellationToken,
    ) -> Self {
        let first = *bounds.borrow_and_update();
        Self {
            launchers,
            asks,
            bounds,
            stop,
            stock: Stock::new(first),
            waiting: BTreeMap::new(),
            making: JoinSet::new(),
            ending: JoinSet::new(),
            rooms: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Keeps the pool until `stop`, and is back when nothing waits any more.
    pub async fn run(mut self) {
        // What the other launcher has made to wait is seen to end, as everything is.
        let mut launcher = self.launchers.usual().state();
        // Only what changes from now on is news.
        launcher.mark_unchanged();
        loop {
            let next = self.stock.next();
            tokio::select! {
                () = self.stop.cancelled() => break,
                ask = self.asks.recv() => match ask {
                    Some(Ask::Take(key, reply)) => self.take(&key, reply),
                    Some(Ask::Room(reply)) => self.make_room(reply),
                    Some(Ask::Forget(image, reply)) => self.forget(&image, reply),
                    None => break,
                },
                Some(made) = self.making.join_next() => match made {
                    Ok(made) => self.made(made),
                    Err(error) => warn!(%error, "the making of a sandbox was lost"),
                },
                // Their ends are in the launcher's journal; here only the tasks are let go of.
                Some(_) = self.ending.join_next() => {}
                id = first_gone(&mut self.waiting) => self.gone(&id),
                () = until(next) => {
                    let effects = self.stock.expire(Instant::now());
                    self.act(effects);
                }
                Ok(()) = self.bounds.changed() => self.drain("the configuration was read again"),
                Ok(()) = launcher.changed() => self.drain("the connection to the launcher changed"),
            }
        }
        self.drain("pawd stops");
        self.asks.close();
        // One that is just being made ends as soon as it is there.
        while let Some(made) = self.making.join_next().await {
            if let Ok(made) = made {
                self.made(made);
            }
        }
        while self.ending.join_next().await.is_some() {}
    }

    fn take(&mut self, key: &Key, reply: oneshot::Sender<Option<Sandbox>>) {
        let (mut claimed, effects) = self.stock.ask(key, Instant::now());
        let mut found = None;
        while let Some(id) = claimed {
            let waited = self.waiting.remove(&id);
            found = waited.and_then(|mut sandbox| sandbox.is_whole().then_some(sandbox));
            if found.is_some() {
                break;
            }
            // It has ended, and nobody has told us yet.
            claimed = self.stock.claim(key);
        }
        // Who does not wait any more drops it, which ends it: it is never put back.
        drop(reply.send(found));
        self.act(effects);
    }

    fn make_room(&mut self, reply: oneshot::Sender<bool>) {
        match self.stock.make_room(Instant::now()) {
            Room::Dropped(id) => {
                if let Some(sandbox) = self.waiting.remove(&id) {
                    info!(paw_sandbox = %id, "a waiting sandbox makes room");
                    self.ending.spawn(async move {
                        end(sandbox).await;
                        let _ = reply.send(true);
                    });
                }
            }
            Room::Coming(number) => self.rooms.push((number, reply)),
            Room::None => {
                let _ = reply.send(false);
            }
        }
    }

    fn forget(&mut self, image: &Name, reply: oneshot::Sender<()>) {
        let reply = Arc::new(reply);
        let (waiting, coming) = self.stock.forget(image);
        for sandbox in waiting.iter().filter_map(|id| self.waiting.remove(id)) {
            let reply = reply.clone();
            self.ending.spawn(async move {
                end(sandbox).await;
                drop(reply);
            });
        }
        self.ends
            .extend(coming.into_iter().map(|number| (number, reply.clone())));
    }

    fn made(&mut self, Made { number, result }: Made) {
        let now = Instant::now();
        let forgotten: Vec<_> = self.ends.extract_if(.., |(of, _)| *of == number).collect();
        let room = self.rooms.iter().position(|(wanted, _)| *wanted == number);
        let room = room.map(|at| self.rooms.swap_remove(at).1);
        match result {
            Ok((sandbox, memory)) => {
                let id = sandbox.id().clone();
                info!(paw_sandbox = %id, memory, "sandbox waits");
                let effects = self.stock.made(number, id.clone(), memory, now);
                if effects.is_empty() {
                    self.waiting.insert(id, sandbox);
                    return;
                }
                self.ending.spawn(async move {
                    end(sandbox).await;
                    drop(forgotten);
                    if let Some(room) = room {
                        let _ = room.send(true);
                    }
                });
            }
            Err(error) => {
                info!(error = %paw_log::Chain(&error), "no sandbox is made to wait for a while");
                self.stock.failed(number, now);
                if let Some(room) = room {
                    let _ = room.send(true);
                }
            }
        }
    }

    fn gone(&mut self, id: &SandboxId) {
        info!(paw_sandbox = %id, "a waiting sandbox ended");
        self.waiting.remove(id);
        let effects = self.stock.gone(id, Instant::now());
        self.act(effects);
    }

    fn drain(&mut self, why: &'static str) {
        if !self.stock.is_empty() {
            info!(
                why,
                waiting = self.waiting.len(),
                "sandboxes that wait are ended"
            );
        }
        let bounds = *self.bounds.borrow_and_update();
        let effects = self.stock.reset(bounds);
        self.act(effects);
    }

    fn act(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Make(number, key) => self.make(number, &key),
                Effect::Drop(id) => {
                    if let Some(sandbox) = self.waiting.remove(&id) {
                        self.ending.spawn(end(sandbox));
                    }
                }
            }
        }
    }

    fn make(&mut self, number: u64, key: &Key) {
        let mut random = [0; 8];
        if let Err(error) = getrandom::fill(&mut random) {
            warn!(%error, "draw a sandbox id");
            self.stock.failed(number, Instant::now());
            return;
        }
        let (launchers, plan) = (self.launchers.clone(), key.plan(sandbox_id(random)));
        let idle = bound(self.bounds.borrow().idle);
        self.making.spawn(async move {
            let result = make(&launchers, plan, idle).await;
            Made { number, result }
        });
    }
}

/// How long the launcher lets one wait: longer than we do, so that it never ends one that was just handed out.
fn bound(idle: Duration) -> Duration {
    idle + (idle / 4).max(Duration::from_secs(1))
}

async fn make(
    launchers: &Launchers,
    plan: paw_launch::request::SandboxPlan,
    idle: Duration,
) -> Result<(Sandbox, u64), SandboxError> {
    let sandbox = launchers.prepare(plan, idle).await?;
    let used = launchers.stats(sandbox.id().clone()).await;
    match used {
        Ok(usage) => Ok((sandbox, usage.memory_peak)),
        // It ended right after it was made.
        Err(LauncherError::Refused(_)) => Err(SandboxError::Gone),
        Err(error) => Err(error.into()),
    }
}

async fn end(sandbox: Sandbox) {
    let id = sandbox.id().clone();
    if let Err(error) = sandbox.end(END_LIMIT).await {
        debug!(paw_sandbox = %id, error = %paw_log::Chain(&error), "a waiting sandbox was let go of");
    }
}

/// The first of them that has ended; never, while all are there.
async fn first_gone(waiting: &mut BTreeMap<SandboxId, Sandbox>) -> SandboxId {
    poll_fn(|context| {
        let gone = waiting
            .iter_mut()
            .find_map(|(id, sandbox)| sandbox.poll_gone(context).is_ready().then(|| id.clone()));
        gone.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
