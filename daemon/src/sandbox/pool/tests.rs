//! The pool with a real socket and the real paw-init, and a launcher without walls.

use std::{sync::atomic::Ordering, time::Duration};

use paw_launch::request::Image;
use paw_policy::{Taint, TaintSet};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use super::*;
use crate::sandbox::{
    LauncherState,
    outside::{Habits, Outside, plan},
};

const LONG: Duration = Duration::from_secs(30);

const BOUNDS: Bounds = Bounds {
    max: 4,
    memory: 256 << 20,
    idle: Duration::from_secs(120),
};

struct Rig {
    outside: Outside,
    pool: Pool,
    bounds: watch::Sender<Bounds>,
    stop: CancellationToken,
    keeper: JoinHandle<()>,
}

impl Rig {
    async fn new(bounds: Bounds) -> Self {
        let outside = Outside::new();
        let launchers = outside.launchers();
        let connected = |state: &LauncherState| matches!(state, LauncherState::Connected { .. });
        timeout(LONG, launchers.usual().state().wait_for(connected))
            .await
            .unwrap()
            .unwrap();
        let (bounds, now) = watch::channel(bounds);
        let stop = CancellationToken::new();
        let (pool, keeper) = pool(launchers, now, stop.clone());
        let keeper = tokio::spawn(keeper.run());
        Self {
            outside,
            pool,
            bounds,
            stop,
            keeper,
        }
    }

    fn habits(&self) -> &Habits {
        self.outside.habits()
    }

    /// Asks for one as an action does.
    async fn take(&self, owner: Owner, plan: SandboxPlan) -> (bool, Sandbox) {
        let mut plan = plan;
        let origin = self.pool.origin(owner, &mut plan).await;
        let (pooled, id) = (origin.is_pooled(), plan.id.clone());
        let sandbox = timeout(LONG, origin.sandbox(plan)).await.unwrap().unwrap();
        assert_eq!(*sandbox.id(), id);
        assert_eq!(sandbox.attestation().facts.id, id);
        (pooled, sandbox)
    }

    /// Asks until one waits for this owner, which is not taken.
    async fn warm(&self, owner: &Owner) {
        self.warm_with(owner, &plan()).await;
    }

    async fn warm_with(&self, owner: &Owner, plan: &SandboxPlan) {
        for _ in 0..2 {
            let (_, sandbox) = self.take(owner.clone(), plan.clone()).await;
            sandbox.end(LONG).await.unwrap();
        }
        self.runs(1).await;
    }

    /// Waits until the launcher has so many.
    async fn runs(&self, count: usize) {
        let list = async {
            // The answers come as they change: nobody tells, so it is asked; each round is a message to another thread.
            while self.pool.launchers.list().await.map(|all| all.len()).ok() != Some(count) {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, list).await.unwrap();
    }
}

fn owner(agent: &str, uid: u32, taint: Taint) -> Owner {
    Owner {
        agent: agent.parse().unwrap(),
        uid,
        taint: TaintSet::of(taint),
    }
}

fn usual() -> Owner {
    owner("assistant", 1000, Taint::User)
}

async fn says(sandbox: &Sandbox, word: &str) -> bool {
    let argv = ["/bin/echo", word].map(str::to_owned).to_vec();
    let started = sandbox.starter().start(argv, vec![], "/".into(), 100);
    let mut child = started.await.unwrap();
    let said = timeout(LONG, child.stdout.next()).await.unwrap();
    said.as_deref() == Some(format!("{word}\n").as_bytes())
}

#[tokio::test]
async fn one_that_waited_is_used_once_and_claimed_at_the_launcher() {
    let rig = Rig::new(BOUNDS).await;
    rig.warm(&usual()).await;
    let (pooled, sandbox) = rig.take(usual(), plan()).await;
    assert!(pooled);
    assert!(says(&sandbox, "hello").await);
    let id = sandbox.id().clone();
    // The claim goes another way than the command, and may come later.
    let claimed = async {
        while rig.habits().claimed.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, claimed).await.unwrap();
    let claimed = rig.habits().claimed.lock().unwrap().clone();
    assert_eq!(claimed, std::slice::from_ref(&id));
    sandbox.end(LONG).await.unwrap();
    rig.runs(1).await;
    let (_, next) = rig.take(usual(), plan()).await;
    assert_ne!(*next.id(), id);
}

#[tokio::test]
async fn one_that_waits_is_for_its_agent_user_taint_and_plan_alone() {
    let rig = Rig::new(BOUNDS).await;
    rig.warm(&usual()).await;
    let mut larger = plan();
    larger.limits.memory += 1;
    let mut elsewhere = plan();
    elsewhere.image = Image::Dir("/srv/image".into());
    for (owner, plan) in [
        (owner("other", 1000, Taint::User), plan()),
        (owner("assistant", 1001, Taint::User), plan()),
        (owner("assistant", 1000, Taint::Web), plan()),
        (usual(), larger),
        (usual(), elsewhere),
    ] {
        let (pooled, _sandbox) = rig.take(owner.clone(), plan).await;
        assert!(!pooled, "{owner:?}");
    }
    let (pooled, _sandbox) = rig.take(usual(), plan()).await;
    assert!(pooled);
}

#[tokio::test]
async fn one_whose_deadline_the_launcher_does_not_start_is_killed() {
    let rig = Rig::new(BOUNDS).await;
    rig.warm(&usual()).await;
    rig.habits().refuses_claims.store(true, Ordering::Relaxed);
    let (pooled, sandbox) = rig.take(usual(), plan()).await;
    assert!(pooled);
    let argv = ["/bin/sleep", "600"].map(str::to_owned).to_vec();
    let started = sandbox.starter().start(argv, vec![], "/".into(), 100);
    let mut child = started.await.unwrap();
    let ended = timeout(LONG, child.process.wait()).await.unwrap();
    assert!(matches!(ended, Err(SandboxError::Gone)), "{ended:?}");
    assert!(sandbox.end(LONG).await.unwrap().0.killed);
}

#[tokio::test]
async fn one_that_died_while_it_waited_is_not_handed_out() {
    let rig = Rig::new(BOUNDS).await;
    rig.warm(&usual()).await;
    let dead = rig.pool.launchers.list().await.unwrap().remove(0).id;
    rig.pool.launchers.kill(dead.clone()).await.unwrap();
    rig.runs(0).await;
    let (pooled, sandbox) = rig.take(usual(), plan()).await;
    assert!(!pooled);
    assert_ne!(*sandbox.id(), dead);
    assert!(says(&sandbox, "hello").await);
    // It was asked for again, so another one is made in its place.
    rig.runs(2).await;
}

#[tokio::test]
async fn fifty_at_once_get_one_each() {
    let rig = Rig::new(BOUNDS).await;
    rig.warm(&usual()).await;
    let taking = (0..50).map(|_| rig.take(usual(), plan()));
    let taken = futures_util::future::join_all(taking).await;
    let ids: std::collections::BTreeSet<_> = taken
        .iter()
        .map(|(_, sandbox)| sandbox.id().clone())
        .collect();
    assert_eq!(ids.len(), 50);
    assert!(taken.iter().any(|(pooled, _)| *pooled));
    for (_, sandbox) in &taken {
        assert!(says(sandbox, "mine").await);
    }
}

#[tokio::test]
async fn what_waits_is_never_the_reason_that_there_is_no_place() {
    let rig = Rig::new(BOUNDS).await;
    rig.warm(&usual()).await;
    rig.habits().max.store(1, Ordering::Relaxed);
    let other = owner("other", 1000, Taint::User);
    let (pooled, _sandbox) = rig.take(other.clone(), plan()).await;
    assert!(!pooled);
    // Where nothing waits, full is full for as long as it would be waited for.
    let refused = rig.pool.cold().sandbox(brief()).await;
    assert!(
        matches!(&refused, Err(SandboxError::NoPlace { .. })),
        "{:?}",
        refused.map(drop)
    );
    assert_eq!(rig.pool.line().0, 0);
}

/// One that is not waited for any longer than a moment.
fn brief() -> SandboxPlan {
    let mut plan = plan();
    plan.limits.wall_ms = 100;
    plan
}

#[tokio::test]
async fn who_finds_no_place_is_next_when_there_is_one_and_too_many_are_refused() {
    let rig = Rig::new(Bounds { max: 0, ..BOUNDS }).await;
    rig.habits().max.store(1, Ordering::Relaxed);
    let (_, first) = rig.take(usual(), plan()).await;
    let mut line = Vec::new();
    for _ in 0..line::MOST {
        let (pool, plan) = (rig.pool.clone(), plan());
        let id = plan.id.clone();
        let made = tokio::spawn(async move { pool.cold().sandbox(plan).await });
        line.push((id, made));
        while rig.pool.line().0 < line.len() {
            tokio::task::yield_now().await;
        }
    }
    let refused = rig.pool.cold().sandbox(plan()).await;
    assert!(
        matches!(&refused, Err(SandboxError::Crowded { .. })),
        "{:?}",
        refused.map(drop)
    );
    // Whoever leaves it holds up nobody.
    line.remove(0).1.abort();
    first.end(LONG).await.unwrap();
    for (id, made) in line {
        let sandbox = timeout(LONG, made).await.unwrap().unwrap().unwrap();
        assert_eq!(*sandbox.id(), id, "in the order of asking");
        sandbox.end(LONG).await.unwrap();
    }
    assert_eq!(rig.pool.line().0, 0);
}

#[tokio::test]
async fn everything_that_waits_ends_with_a_new_configuration() {
    let rig = Rig::new(BOUNDS).await;
    rig.warm(&usual()).await;
    rig.bounds.send_replace(BOUNDS);
    rig.runs(0).await;
}

#[tokio::test]
async fn what_waits_of_an_image_ends_before_its_name_means_another() {
    let rig = Rig::new(BOUNDS).await;
    let image = |name: &str| SandboxPlan {
        image: Image::Named(name.parse().unwrap()),
        ..plan()
    };
    rig.warm_with(&usual(), &image("mine")).await;
    let old = rig.pool.launchers.list().await.unwrap().remove(0).id;
    rig.pool.forget(&"other".parse().unwrap()).await;
    rig.runs(1).await;
    rig.pool.forget(&"mine".parse().unwrap()).await;
    assert_eq!(rig.pool.launchers.list().await.unwrap().len(), 0);
    let (pooled, next) = rig.take(usual(), image("mine")).await;
    assert!(!pooled);
    assert_ne!(*next.id(), old);
}

#[tokio::test]
async fn what_is_being_made_of_an_image_ends_before_its_name_means_another() {
    let rig = Rig::new(BOUNDS).await;
    let image = SandboxPlan {
        image: Image::Named("mine".parse().unwrap()),
        ..plan()
    };
    for _ in 0..2 {
        let (_, sandbox) = rig.take(usual(), image.clone()).await;
        sandbox.end(LONG).await.unwrap();
    }
    // The keeper is still at it: it was told to make one a moment ago, and answers in order.
    rig.pool.forget(&"mine".parse().unwrap()).await;
    assert_eq!(rig.pool.launchers.list().await.unwrap().len(), 0);
    let (pooled, _sandbox) = rig.take(usual(), image).await;
    assert!(!pooled);
}

#[tokio::test]
async fn everything_that_waits_ends_with_pawd() {
    let rig = Rig::new(BOUNDS).await;
    rig.warm(&usual()).await;
    rig.stop.cancel();
    timeout(LONG, rig.keeper).await.unwrap().unwrap();
    assert_eq!(rig.pool.launchers.list().await.unwrap().len(), 0);
    // What is asked for after that is made all the same.
    let mut plan = plan();
    let origin = rig.pool.origin(usual(), &mut plan).await;
    assert!(!origin.is_pooled());
    origin.sandbox(plan).await.unwrap();
}

#[tokio::test]
async fn everything_that_waits_ends_when_the_launcher_comes_back() {
    let rig = Rig::new(BOUNDS).await;
    rig.warm(&usual()).await;
    rig.outside.hang_up();
    let mut state = rig.pool.launchers.usual().state();
    timeout(LONG, state.changed()).await.unwrap().unwrap();
    let connected = |state: &LauncherState| matches!(state, LauncherState::Connected { .. });
    timeout(LONG, state.wait_for(connected))
        .await
        .unwrap()
        .unwrap();
    rig.runs(0).await;
}

#[tokio::test]
async fn without_a_pool_nothing_is_made_before_it_is_asked_for() {
    let rig = Rig::new(Bounds { max: 0, ..BOUNDS }).await;
    for _ in 0..4 {
        let (pooled, sandbox) = rig.take(usual(), plan()).await;
        assert!(!pooled);
        sandbox.end(LONG).await.unwrap();
    }
    assert_eq!(rig.habits().asked.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn one_that_waits_too_long_is_let_go_of() {
    let idle = Duration::from_millis(300);
    let rig = Rig::new(Bounds { idle, ..BOUNDS }).await;
    rig.warm(&usual()).await;
    rig.runs(0).await;
}
