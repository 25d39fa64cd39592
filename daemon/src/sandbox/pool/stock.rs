//! What waits, what is being made, and what should: the pool's decisions, without a sandbox or a clock in them.
//!
//! ```text
//!  asked for ──► claimed from what waits, or made for whoever asks
//!      └──► asked for twice within a minute: making ──► waiting ──► claimed, once
//!                                              │           └──► dropped: idle, pressure, room, another plan, another image
//!                                              └──► doomed while it was made: dropped as soon as it is there
//! ```
//!
//! Only being asked makes anything, so a pool that nobody asks comes to rest: what waits is dropped when its time is over, and
//! then there is nothing left to be woken for.

use std::time::{Duration, Instant};

use paw_launch::request::{Runtime, SandboxId};
use paw_policy::Name;

use super::key::Key;
use crate::config::PoolBounds as Bounds;

/// Something is worth keeping when it is asked for again within this time.
const AGAIN: Duration = Duration::from_secs(60);
/// In this time half of the demand is forgotten.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// How long nothing is made after something could not be.
const SETBACK: Duration = Duration::from_secs(10);
/// One that was dropped by somebody else after less than this is not replaced before it is asked for again.
const STEADY: Duration = Duration::from_secs(1);
/// Keys that are remembered.
const MAX_KEYS: usize = 64;
/// How long the first making is taken to last.
const FIRST_GUESS: Duration = Duration::from_millis(50);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Make one for this key, and report under this number.
    Make(u64, Box<Key>),
    /// End this one.
    Drop(SandboxId),
}

/// How room was made for a sandbox that is to run at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Room {
    /// This one goes.
    Dropped(SandboxId),
    /// The one that is being made under this number goes as soon as it is there.
    Coming(u64),
    /// The pool has nothing that could go.
    None,
}

#[derive(Debug)]
struct Demand {
    key: Key,
    /// Arrivals, those of long ago counting less.
    heat: f64,
    last: Instant,
    /// How long making one takes.
    making: Duration,
    /// The most memory that one was seen to use.
    memory: u64,
}

#[derive(Debug)]
struct Waiting {
    id: SandboxId,
    key: Key,
    since: Instant,
    memory: u64,
}

#[derive(Debug)]
struct Making {
    number: u64,
    key: Key,
    since: Instant,
    memory: u64,
    doomed: bool,
}

/// The pool's state.
#[derive(Debug)]
pub(super) struct Stock {
    bounds: Bounds,
    demands: Vec<Demand>,
    /// The longest waiting first.
    waiting: Vec<Waiting>,
    making: Vec<Making>,
    number: u64,
    /// Until then nothing is made.
    held: Option<Instant>,
}

impl Stock {
    /// An empty one.
    #[must_use]
    pub(super) const fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            demands: Vec::new(),
            waiting: Vec::new(),
            making: Vec::new(),
            number: 0,
            held: None,
        }
    }

    /// Somebody asks for one. It is theirs alone: what was claimed is known here no more.
    pub(super) fn ask(&mut self, key: &Key, now: Instant) -> (Option<SandboxId>, Vec<Effect>) {
        let again = self.note(key, now);
        let effects = if again {
            self.fill(key, now, 1)
        } else {
            Vec::new()
        };
        (self.claim(key), effects)
    }

    /// The one of this key that waited least: the others may go idle.
    pub(super) fn claim(&mut self, key: &Key) -> Option<SandboxId> {
        let at = self.waiting.iter().rposition(|one| one.key == *key)?;
        Some(self.waiting.remove(at).id)
    }

    /// One was made, and used this much memory so far.
    pub(super) fn made(
        &mut self,
        number: u64,
        id: SandboxId,
        memory: u64,
        now: Instant,
    ) -> Vec<Effect> {
        let Some(making) = self.end_making(number) else {
            return vec![Effect::Drop(id)];
        };
        let memory = memory.max(least_memory(&making.key));
        if let Some(demand) = self.demand(&making.key) {
            // Half the old and half the new: one that was slow by chance is soon forgotten.
            demand.making = (demand.making + (now - making.since)) / 2;
            demand.memory = demand.memory.max(memory);
        }
        if making.doomed || self.memory() + memory > self.bounds.memory {
            return vec![Effect::Drop(id)];
        }
        self.waiting.push(Waiting {
            id,
            key: making.key,
            since: now,
            memory,
        });
        Vec::new()
    }

    /// One could not be made; nothing is tried for a while.
    pub(super) fn failed(&mut self, number: u64, now: Instant) {
        self.end_making(number);
        self.held = Some(now + SETBACK);
    }

    /// One that waited is gone by itself. It is replaced, unless that happens all the time.
    pub(super) fn gone(&mut self, id: &SandboxId, now: Instant) -> Vec<Effect> {
        let Some(at) = self.waiting.iter().position(|one| one.id == *id) else {
            return Vec::new();
        };
        let gone = self.waiting.remove(at);
        if now - gone.since < STEADY {
            return Vec::new();
        }
        self.fill(&gone.key, now, 0)
    }

    /// Those whose time is over.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Effect> {
        let idle = self.bounds.idle;
        self.waiting
            .extract_if(.., |one| now >= one.since + idle)
            .map(|one| Effect::Drop(one.id))
            .collect()
    }

    /// When there is something to [`Stock::expire`].
    #[must_use]
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting
            .iter()
            .map(|one| one.since + self.bounds.idle)
            .min()
    }

    /// One place is needed for a sandbox that is to run at once; nothing is made for a while.
    pub(super) fn make_room(&mut self, now: Instant) -> Room {
        self.held = Some(now + SETBACK);
        if !self.waiting.is_empty() {
            return Room::Dropped(self.waiting.remove(0).id);
        }
        match self.making.iter_mut().find(|one| !one.doomed) {
            Some(making) => {
                making.doomed = true;
                Room::Coming(making.number)
            }
            None => Room::None,
        }
    }

    /// Everything goes, and what was asked for is forgotten: plans may be others from now on.
    pub(super) fn reset(&mut self, bounds: Bounds) -> Vec<Effect> {
        self.bounds = bounds;
        self.demands.clear();
        self.held = None;
        for making in &mut self.making {
            making.doomed = true;
        }
        self.waiting
            .drain(..)
            .map(|one| Effect::Drop(one.id))
            .collect()
    }

    /// What is of this image goes, and what is made of it goes as soon as it is there: the name may mean another root from now on.
    /// Also the numbers of the latter.
    pub(super) fn forget(&mut self, image: &Name) -> (Vec<SandboxId>, Vec<u64>) {
        self.demands.retain(|demand| !demand.key.is_of(image));
        let of_it = self.making.iter_mut().filter(|one| one.key.is_of(image));
        let coming = of_it
            .map(|one| {
                one.doomed = true;
                one.number
            })
            .collect();
        let waiting = self.waiting.extract_if(.., |one| one.key.is_of(image));
        (waiting.map(|one| one.id).collect(), coming)
    }

    /// Whether it is at rest with nothing in it.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.making.is_empty()
    }

    /// Notes that somebody asked; whether somebody did not long ago.
    fn note(&mut self, key: &Key, now: Instant) -> bool {
        if let Some(demand) = self.demand(key) {
            let again = now.saturating_duration_since(demand.last) <= AGAIN;
            demand.heat = heat(demand, now) + 1.0;
            demand.last = now;
            return again;
        }
        if self.demands.len() >= MAX_KEYS {
            let coldest = (0..self.demands.len()).min_by(|a, b| {
                heat(&self.demands[*a], now).total_cmp(&heat(&self.demands[*b], now))
            });
            self.demands.swap_remove(coldest.unwrap_or(0));
        }
        self.demands.push(Demand {
            key: key.clone(),
            heat: 1.0,
            last: now,
            making: FIRST_GUESS,
            memory: least_memory(key),
        });
        false
    }

    /// Makes as many as are wanted and there is room for; `taken` of those that wait are about to be claimed.
    fn fill(&mut self, key: &Key, now: Instant, taken: usize) -> Vec<Effect> {
        if self.held.is_some_and(|held| now < held) {
            return Vec::new();
        }
        self.held = None;
        let Some(demand) = self.demands.iter().find(|one| one.key == *key) else {
            return Vec::new();
        };
        let (memory, hot) = (demand.memory, heat(demand, now));
        let wanted = wanted(demand, now);
        let waiting = self.waiting.iter().filter(|one| one.key == *key).count();
        let coming = self
            .making
            .iter()
            .filter(|one| one.key == *key && !one.doomed)
            .count();
        let missing = wanted.saturating_sub(waiting.saturating_sub(taken) + coming);
        let mut effects = Vec::new();
        for _ in 0..missing {
            let places = usize::try_from(self.bounds.max).unwrap_or(usize::MAX);
            let full = self.waiting.len().saturating_sub(taken.min(waiting)) + self.making.len()
                >= places
                || self.memory() + memory > self.bounds.memory;
            if full {
                // What is asked for less gives way; what takes its place is made when it is asked for again.
                effects.extend(self.give_way(key, hot, now));
                break;
            }
            self.number += 1;
            self.making.push(Making {
                number: self.number,
                key: key.clone(),
                since: now,
                memory,
                doomed: false,
            });
            effects.push(Effect::Make(self.number, Box::new(key.clone())));
        }
        effects
    }

    fn give_way(&mut self, key: &Key, hot: f64, now: Instant) -> Option<Effect> {
        let at = self.waiting.iter().position(|one| {
            let demand = self.demands.iter().find(|demand| demand.key == one.key);
            one.key != *key && demand.is_none_or(|demand| heat(demand, now) * 2.0 < hot)
        })?;
        Some(Effect::Drop(self.waiting.remove(at).id))
    }

    fn demand(&mut self, key: &Key) -> Option<&mut Demand> {
        self.demands.iter_mut().find(|one| one.key == *key)
    }

    fn end_making(&mut self, number: u64) -> Option<Making> {
        let at = self.making.iter().position(|one| one.number == number)?;
        Some(self.making.swap_remove(at))
    }

    /// Memory of what waits and of what is being made.
    fn memory(&self) -> u64 {
        let waiting: u64 = self.waiting.iter().map(|one| one.memory).sum();
        let making: u64 = self.making.iter().map(|one| one.memory).sum();
        waiting + making
    }
}

/// What is left of the demand at this time.
fn heat(demand: &Demand, now: Instant) -> f64 {
    let passed = now.saturating_duration_since(demand.last);
    demand.heat * (-(passed.as_secs_f64() / HALF_LIFE.as_secs_f64())).exp2()
}

/// One for the next who asks, and twice as many as are asked for in the time that making one takes.
fn wanted(demand: &Demand, now: Instant) -> usize {
    let rate = heat(demand, now) * std::f64::consts::LN_2 / HALF_LIFE.as_secs_f64();
    // A float becomes the nearest integer there is, and the pool's bound is far below the largest.
    1 + (2.0 * rate * demand.making.as_secs_f64()) as usize
}

/// What a waiting sandbox takes at least, where the kernel counts less or nothing.
const fn least_memory(key: &Key) -> u64 {
    match key.runtime() {
        Runtime::Native => 1 << 20,
        Runtime::Gvisor => 32 << 20,
        // A virtual machine has its memory for itself.
        Runtime::Kata => key.memory_limit(),
    }
}

#[cfg(test)]
mod tests;
