//! What the pool decides, one claim for each test, and what holds whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use paw_launch::request::{Image, Isolation, Limits, Mount, MountSource, SandboxPlan};
use paw_policy::{Taint, TaintSet};
use proptest::prelude::*;

use super::*;
use crate::sandbox::{pool::Owner, sandbox_id};

const BOUNDS: Bounds = Bounds {
    max: 4,
    memory: 256 << 20,
    idle: Duration::from_secs(120),
};

fn owner(agent: &str, uid: u32, taint: Taint) -> Owner {
    Owner {
        agent: agent.parse().unwrap(),
        uid,
        taint: TaintSet::of(taint),
    }
}

fn plan() -> SandboxPlan {
    SandboxPlan {
        id: sandbox_id([7; 8]),
        runtime: Runtime::Native,
        floor: Isolation::Process,
        image: Image::Host,
        mounts: vec![Mount {
            source: MountSource::Skill("files".parse().unwrap()),
            target: "/skill".into(),
            writable: false,
        }],
        limits: Limits {
            cpu_milli: 1000,
            memory: 1 << 26,
            disk: 1 << 20,
            pids: 16,
            open_files: 64,
            wall_ms: 30_000,
            io_weight: None,
        },
    }
}

fn key(agent: &str, uid: u32, taint: Taint, plan: &SandboxPlan) -> Key {
    Key::of(owner(agent, uid, taint), plan).unwrap()
}

fn usual() -> Key {
    key("assistant", 1000, Taint::User, &plan())
}

fn id(number: u64) -> SandboxId {
    sandbox_id(number.to_le_bytes())
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn made_numbers(effects: &[Effect]) -> Vec<u64> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Make(number, _) => Some(*number),
            Effect::Drop(_) => None,
        })
        .collect()
}

/// A stock in which one of this key waits.
fn with_one(key: &Key, now: Instant) -> Stock {
    let mut stock = Stock::new(BOUNDS);
    stock.ask(key, now);
    let (_, effects) = stock.ask(key, now);
    assert_eq!(made_numbers(&effects), [1]);
    assert_eq!(stock.made(1, id(1), 0, now), []);
    stock
}

#[test]
fn what_is_asked_for_once_is_not_kept() {
    let mut stock = Stock::new(BOUNDS);
    let now = Instant::now();
    assert_eq!(stock.ask(&usual(), now), (None, vec![]));
    assert_eq!(
        stock.ask(&usual(), now + AGAIN + seconds(1)),
        (None, vec![])
    );
}

#[test]
fn what_is_asked_for_again_waits_for_the_third() {
    let now = Instant::now();
    let mut stock = with_one(&usual(), now);
    let (claimed, effects) = stock.ask(&usual(), now + seconds(1));
    assert_eq!(claimed, Some(id(1)));
    assert_eq!(made_numbers(&effects), [2], "the next one is made");
    assert_eq!(stock.claim(&usual()), None, "each is claimed once");
}

#[test]
fn nothing_is_handed_out_to_anybody_else() {
    let now = Instant::now();
    let mut others = vec![
        key("other", 1000, Taint::User, &plan()),
        key("assistant", 1001, Taint::User, &plan()),
        key("assistant", 1000, Taint::Web, &plan()),
    ];
    let both = TaintSet::of(Taint::User).with(&TaintSet::of(Taint::Web));
    others.push(
        Key::of(
            Owner {
                taint: both,
                ..owner("assistant", 1000, Taint::User)
            },
            &plan(),
        )
        .unwrap(),
    );
    let changes: [fn(&mut SandboxPlan); 11] = [
        |plan| plan.runtime = Runtime::Gvisor,
        |plan| plan.floor = Isolation::Kernel,
        |plan| plan.image = Image::Dir("/srv/image".into()),
        |plan| plan.mounts.clear(),
        |plan| plan.mounts[0].writable = true,
        |plan| plan.limits.cpu_milli += 1,
        |plan| plan.limits.memory += 1,
        |plan| plan.limits.disk += 1,
        |plan| plan.limits.pids += 1,
        |plan| plan.limits.open_files += 1,
        |plan| plan.limits.wall_ms += 1,
    ];
    for change in changes {
        let mut other = plan();
        change(&mut other);
        others.push(key("assistant", 1000, Taint::User, &other));
    }
    let mut stock = with_one(&usual(), now);
    for other in others {
        assert_eq!(stock.ask(&other, now).0, None, "{other:?}");
    }
    let mut same = plan();
    same.id = id(99);
    assert_eq!(
        stock.claim(&key("assistant", 1000, Taint::User, &same)),
        Some(id(1))
    );
}

#[test]
fn busy_hours_keep_more_and_quiet_ones_none() {
    let now = Instant::now();
    let mut stock = Stock::new(Bounds { max: 16, ..BOUNDS });
    let mut at = now;
    let mut numbers = Vec::new();
    for _ in 0..4_000 {
        at += Duration::from_millis(10);
        numbers.extend(made_numbers(&stock.ask(&usual(), at).1));
    }
    assert!(
        (8..=12).contains(&numbers.len()),
        "a hundred a second, each taking 50 ms: {numbers:?}"
    );
    for number in numbers {
        assert_eq!(stock.made(number, id(number), 0, at), []);
    }
    assert_eq!(stock.expire(at + BOUNDS.idle - seconds(1)), []);
    let later = stock.next().unwrap();
    assert_eq!(later, at + BOUNDS.idle);
    assert!(!stock.expire(later).is_empty());
    assert!(stock.is_empty());
    assert_eq!(stock.next(), None, "then there is nothing to wake up for");
}

#[test]
fn what_has_no_room_is_not_kept() {
    let now = Instant::now();
    for bounds in [
        Bounds { max: 0, ..BOUNDS },
        Bounds {
            memory: (1 << 20) - 1,
            ..BOUNDS
        },
    ] {
        let mut stock = Stock::new(bounds);
        for _ in 0..3 {
            assert_eq!(stock.ask(&usual(), now), (None, vec![]), "{bounds:?}");
        }
    }
    // One that turns out to be larger than there is room for goes at once.
    let mut stock = Stock::new(BOUNDS);
    stock.ask(&usual(), now);
    stock.ask(&usual(), now);
    assert_eq!(
        stock.made(1, id(1), BOUNDS.memory + 1, now),
        [Effect::Drop(id(1))]
    );
}

#[test]
fn what_could_not_be_made_is_not_tried_again_at_once() {
    let now = Instant::now();
    let mut stock = Stock::new(BOUNDS);
    stock.ask(&usual(), now);
    stock.ask(&usual(), now);
    stock.failed(1, now);
    assert_eq!(stock.ask(&usual(), now + seconds(1)).1, []);
    let later = now + SETBACK + seconds(1);
    assert_eq!(made_numbers(&stock.ask(&usual(), later).1), [2]);
}

#[test]
fn one_that_dies_is_replaced_unless_it_dies_at_once() {
    let now = Instant::now();
    let mut stock = with_one(&usual(), now);
    assert_eq!(made_numbers(&stock.gone(&id(1), now + seconds(5))), [2]);
    assert_eq!(stock.made(2, id(2), 0, now + seconds(6)), []);
    let at_once = now + seconds(6) + Duration::from_millis(10);
    assert_eq!(stock.gone(&id(2), at_once), []);
}

#[test]
fn whoever_runs_at_once_gets_the_place_of_what_waits() {
    let now = Instant::now();
    let mut stock = with_one(&usual(), now);
    assert_eq!(stock.make_room(now), Room::Dropped(id(1)));
    assert_eq!(stock.make_room(now), Room::None);
    let mut stock = Stock::new(BOUNDS);
    stock.ask(&usual(), now);
    stock.ask(&usual(), now);
    assert_eq!(stock.make_room(now), Room::Coming(1));
    assert_eq!(stock.make_room(now), Room::None);
    assert_eq!(stock.made(1, id(1), 0, now), [Effect::Drop(id(1))]);
    assert_eq!(stock.ask(&usual(), now).1, [], "and no other takes it");
}

#[test]
fn everything_goes_when_plans_may_be_others() {
    let now = Instant::now();
    let mut stock = with_one(&usual(), now);
    let (_, effects) = stock.ask(&usual(), now);
    assert_eq!(made_numbers(&effects), [2]);
    assert_eq!(stock.reset(BOUNDS), []);
    assert_eq!(stock.made(2, id(2), 0, now), [Effect::Drop(id(2))]);
    assert_eq!(stock.ask(&usual(), now), (None, vec![]), "it is forgotten");
}

#[test]
fn what_is_asked_for_less_gives_way() {
    let now = Instant::now();
    let cold = key("other", 1000, Taint::User, &plan());
    let mut stock = Stock::new(Bounds { max: 1, ..BOUNDS });
    stock.ask(&cold, now);
    stock.ask(&cold, now);
    assert_eq!(stock.made(1, id(1), 0, now), []);
    let later = now + seconds(30);
    let dropped = (0..4)
        .flat_map(|_| stock.ask(&usual(), later).1)
        .collect::<Vec<_>>();
    assert!(
        matches!(dropped.as_slice(), [Effect::Drop(one), Effect::Make(2, _)] if *one == id(1)),
        "{dropped:?}"
    );
}

/// What may happen to a pool.
#[derive(Debug, Clone)]
enum Step {
    Ask(usize),
    /// The oldest making ends, with this much memory.
    Made(u64),
    Failed,
    /// One of those that wait dies.
    Gone(usize),
    Room,
    Reset,
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..6_usize).prop_map(Step::Ask),
        5 => (0..(100_u64 << 20)).prop_map(Step::Made),
        1 => Just(Step::Failed),
        1 => (0..8_usize).prop_map(Step::Gone),
        1 => Just(Step::Room),
        1 => Just(Step::Reset),
        3 => (0..40_000_u64).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn whatever_happens_the_pool_keeps_its_promises(steps in steps()) {
        let keys: Vec<Key> = (0..6)
            .map(|number| {
                let agent = ["assistant", "other"][number % 2];
                let taint = [Taint::User, Taint::Web, Taint::Model][number / 2];
                key(agent, 1000, taint, &plan())
            })
            .collect();
        let mut stock = Stock::new(BOUNDS);
        let mut now = Instant::now();
        let mut next_id = 0;
        // What the world outside knows: which are being made, which wait, for whom each was made, since when.
        let mut making: Vec<(u64, Key)> = Vec::new();
        let mut waiting: BTreeMap<SandboxId, (Key, Instant, u64)> = BTreeMap::new();
        let mut claimed: BTreeSet<SandboxId> = BTreeSet::new();
        for step in steps {
            let mut effects = Vec::new();
            match step {
                Step::Ask(which) => {
                    let (taken, more) = stock.ask(&keys[which], now);
                    if let Some(taken) = taken {
                        let made_for = waiting.remove(&taken).map(|(key, ..)| key);
                        prop_assert_eq!(made_for.as_ref(), Some(&keys[which]), "made for another");
                        prop_assert!(claimed.insert(taken), "claimed twice");
                    }
                    effects = more;
                }
                Step::Made(memory) if !making.is_empty() => {
                    let (number, key) = making.remove(0);
                    next_id += 1;
                    waiting.insert(id(next_id), (key, now, memory.max(1 << 20)));
                    effects = stock.made(number, id(next_id), memory, now);
                }
                Step::Failed if !making.is_empty() => stock.failed(making.remove(0).0, now),
                Step::Gone(which) => {
                    if let Some(gone) = waiting.keys().nth(which).cloned() {
                        waiting.remove(&gone);
                        effects = stock.gone(&gone, now);
                    }
                }
                Step::Room => {
                    let had = !waiting.is_empty();
                    match stock.make_room(now) {
                        Room::Dropped(id) => prop_assert!(waiting.remove(&id).is_some()),
                        Room::Coming(number) => {
                            prop_assert!(!had && making.iter().any(|(one, _)| *one == number));
                        }
                        Room::None => prop_assert!(!had),
                    }
                }
                Step::Reset => effects = stock.reset(BOUNDS),
                Step::Pass(millis) => {
                    now += Duration::from_millis(millis);
                    effects = stock.expire(now);
                }
                Step::Made(_) | Step::Failed => {}
            }
            for effect in effects {
                match effect {
                    Effect::Make(number, key) => making.push((number, *key)),
                    Effect::Drop(id) => prop_assert!(waiting.remove(&id).is_some(), "dropped {id} twice"),
                }
            }
            prop_assert!(waiting.len() + making.len() <= 4, "{} wait", waiting.len());
            let memory: u64 = waiting.values().map(|(.., memory)| memory).sum();
            prop_assert!(memory <= BOUNDS.memory, "{memory}");
            prop_assert!(waiting.values().all(|(_, since, _)| stock.next() <= Some(*since + BOUNDS.idle)));
        }
        // Left alone, it comes to rest.
        for (number, _) in making.drain(..) {
            stock.failed(number, now);
        }
        stock.expire(now + BOUNDS.idle);
        prop_assert!(stock.is_empty() && stock.next().is_none());
    }
}
