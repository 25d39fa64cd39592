//! What is kept, for how long, and who fetches it: the state of a cache. Pure: it is told the time.
//!
//! ```text
//!            look                       fetch landed
//!  nothing ───────► Fetch ─ in flight ─┬─ value ──► fresh ──► stale ──► nothing
//!     ▲               │ others Wait    │               ▲        │ given at once, and one look begins a flight
//!     │               ▼                │               └────────┘
//!     └── its time ── failed ◄── error ┘   an error leaves a stale value where it is
//! ```
//!
//! A flight that was begun before its key was forgotten changes nothing when it lands.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// How long what was fetched is worth something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// A value is given without a second thought.
    pub(crate) fresh: Duration,
    /// It is given while another one is being fetched. Counted from when it was fetched, so it is longer than `fresh`.
    pub(crate) stale: Duration,
    /// An error is given instead of asking again.
    pub(crate) failed: Duration,
}

/// What a look at a key comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look<V, E> {
    /// This is it.
    Have(V),
    /// This will do; whoever looked begins this flight for the next ones.
    Refresh(V, u64),
    /// There is none, and whoever looked begins this flight.
    Fetch(u64),
    /// There is none, and this flight is under way.
    Wait(u64),
    /// It failed a moment ago.
    Failed(E),
}

/// All of a cache.
#[derive(Debug)]
pub(crate) struct Slots<K, V, E> {
    slots: BTreeMap<K, Slot<V, E>>,
    most: usize,
    terms: Terms,
    next: u64,
}

#[derive(Debug)]
struct Slot<V, E> {
    value: Option<(V, Instant)>,
    failed: Option<(E, Instant)>,
    flight: Option<u64>,
    looked: Instant,
}

impl<K: Ord + Clone, V: Clone, E: Clone> Slots<K, V, E> {
    /// An empty one, of at most so many keys.
    pub(crate) fn new(most: usize, terms: Terms) -> Self {
        Self {
            slots: BTreeMap::new(),
            most: most.max(1),
            terms,
            next: 0,
        }
    }

    /// Looks for a key.
    pub(crate) fn look(&mut self, key: &K, now: Instant) -> Look<V, E> {
        let Terms {
            fresh,
            stale,
            failed,
        } = self.terms;
        let age = |since: Instant| now.saturating_duration_since(since);
        if !self.slots.contains_key(key) {
            self.make_room();
        }
        let slot = self.slots.entry(key.clone()).or_insert(Slot {
            value: None,
            failed: None,
            flight: None,
            looked: now,
        });
        slot.looked = now;
        slot.value.take_if(|(_, at)| age(*at) >= stale);
        slot.failed.take_if(|(_, at)| age(*at) >= failed);
        let look = match (&slot.value, slot.flight, &slot.failed) {
            (Some((value, at)), _, _) if age(*at) < fresh => Look::Have(value.clone()),
            // While it is being fetched, or cannot be, the old one will do.
            (Some((value, _)), Some(_), _) | (Some((value, _)), None, Some(_)) => {
                Look::Have(value.clone())
            }
            (Some((value, _)), None, None) => Look::Refresh(value.clone(), self.next + 1),
            (None, Some(flight), _) => Look::Wait(flight),
            (None, None, Some((error, _))) => Look::Failed(error.clone()),
            (None, None, None) => Look::Fetch(self.next + 1),
        };
        if let Look::Refresh(_, flight) | Look::Fetch(flight) = look {
            self.next = flight;
            slot.flight = Some(flight);
        }
        look
    }

    /// Begins a flight whatever is there: for who wants to know how it is now.
    pub(crate) fn insist(&mut self, key: &K, now: Instant) -> u64 {
        if !self.slots.contains_key(key) {
            self.make_room();
        }
        self.next += 1;
        let slot = self.slots.entry(key.clone()).or_insert(Slot {
            value: None,
            failed: None,
            flight: None,
            looked: now,
        });
        slot.flight = Some(self.next);
        self.next
    }

    /// A flight landed. One that was overtaken, or whose key was forgotten, is of no use to anybody else.
    pub(crate) fn landed(&mut self, key: &K, flight: u64, outcome: Result<V, E>, now: Instant) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        if slot.flight != Some(flight) {
            return;
        }
        slot.flight = None;
        match outcome {
            Ok(value) => (slot.value, slot.failed) = (Some((value, now)), None),
            Err(error) => slot.failed = Some((error, now)),
        }
    }

    /// Keys that something is kept of, or that are being fetched.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Forgets everything, also what is being fetched.
    pub(crate) fn forget(&mut self) {
        self.slots.clear();
    }

    /// Room for one more: whoever was looked for longest ago goes, and what is being fetched only if nothing else is there.
    fn make_room(&mut self) {
        while self.slots.len() >= self.most {
            let oldest = self
                .slots
                .iter()
                .min_by_key(|(_, slot)| (slot.flight.is_some(), slot.looked))
                .map(|(key, _)| key.clone());
            match oldest {
                Some(key) => drop(self.slots.remove(&key)),
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TERMS: Terms = Terms {
        fresh: Duration::from_secs(10),
        stale: Duration::from_secs(60),
        failed: Duration::from_secs(2),
    };

    /// What can happen: time passes, somebody looks or insists, a flight lands, everything is forgotten.
    #[derive(Debug, Clone)]
    enum Op {
        Pass(u64),
        Look(u8),
        Insist(u8),
        Land(usize, bool),
        Forget,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            4 => (0_u64..40_000).prop_map(Op::Pass),
            6 => (0_u8..4).prop_map(Op::Look),
            1 => (0_u8..4).prop_map(Op::Insist),
            4 => (any::<usize>(), any::<bool>()).prop_map(|(at, good)| Op::Land(at, good)),
            1 => Just(Op::Forget),
        ];
        prop::collection::vec(op, 1..120)
    }

    /// A flight, and whether what it brings may still be given.
    struct Flight {
        key: u8,
        id: u64,
        begun: Instant,
        forgotten: bool,
    }

    proptest! {
        /// A value names the flight that brought it, so whatever is given can be traced.
        #[test]
        fn nothing_is_given_that_is_too_old_or_was_forgotten_and_nothing_is_fetched_twice(ops in ops(), most in 1_usize..5) {
            let start = Instant::now();
            let mut now = start;
            let mut slots: Slots<u8, u64, u64> = Slots::new(most, TERMS);
            let mut flights: Vec<Flight> = Vec::new();
            // When each flight landed, and after which forgetting it was begun.
            let mut landed: BTreeMap<u64, (u8, Instant, bool)> = BTreeMap::new();
            let mut forgotten_before = 0_u64;
            for op in ops {
                match op {
                    Op::Pass(ms) => now += Duration::from_millis(ms),
                    Op::Look(key) => {
                        let look = slots.look(&key, now);
                        match look {
                            Look::Have(value) | Look::Refresh(value, _) => {
                                let (of, at, good) = landed[&value];
                                prop_assert!(of == key && good && value > forgotten_before);
                                prop_assert!(now - at < TERMS.stale);
                            }
                            Look::Failed(flight) => {
                                let (of, at, good) = landed[&flight];
                                prop_assert!(of == key && !good && flight > forgotten_before);
                                prop_assert!(now - at < TERMS.failed);
                            }
                            Look::Wait(id) => {
                                prop_assert!(flights.iter().any(|it| it.id == id && it.key == key && !it.forgotten));
                            }
                            Look::Fetch(_) => {}
                        }
                        if let Look::Fetch(id) | Look::Refresh(_, id) = look {
                            // Unless there was no room for what it belongs to.
                            let under_way = flights.iter().filter(|it| it.key == key && !it.forgotten).count();
                            prop_assert!(under_way == 0 || most < 4);
                            flights.push(Flight { key, id, begun: now, forgotten: false });
                        }
                    }
                    Op::Insist(key) => {
                        let id = slots.insist(&key, now);
                        // The one before is overtaken.
                        flights.iter_mut().filter(|it| it.key == key).for_each(|it| it.forgotten = true);
                        flights.push(Flight { key, id, begun: now, forgotten: false });
                    }
                    Op::Land(at, good) => {
                        if flights.is_empty() {
                            continue;
                        }
                        let flight = flights.remove(at % flights.len());
                        prop_assert!(flight.begun <= now);
                        landed.insert(flight.id, (flight.key, now, good));
                        slots.landed(&flight.key, flight.id, if good { Ok(flight.id) } else { Err(flight.id) }, now);
                    }
                    Op::Forget => {
                        slots.forget();
                        forgotten_before = slots.next;
                        flights.iter_mut().for_each(|it| it.forgotten = true);
                    }
                }
                prop_assert!(slots.slots.len() <= most);
            }
        }
    }

    #[test]
    fn stale_value_is_given_at_once_and_fetched_again_by_one() {
        let (mut slots, start) = (Slots::<&str, u8, ()>::new(4, TERMS), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(slots.look(&"k", start), Look::Fetch(1));
        assert_eq!(slots.look(&"k", start), Look::Wait(1));
        slots.landed(&"k", 1, Ok(7), start);
        assert_eq!(slots.look(&"k", after(9)), Look::Have(7));
        assert_eq!(slots.look(&"k", after(10)), Look::Refresh(7, 2));
        assert_eq!(slots.look(&"k", after(10)), Look::Have(7));
        // An error does not take the old value away, and keeps others from asking for a moment.
        slots.landed(&"k", 2, Err(()), after(11));
        assert_eq!(slots.look(&"k", after(12)), Look::Have(7));
        assert_eq!(slots.look(&"k", after(13)), Look::Refresh(7, 3));
        assert_eq!(slots.look(&"k", after(60)), Look::Wait(3));
    }

    #[test]
    fn error_is_given_for_a_moment_only() {
        let (mut slots, start) = (Slots::<&str, u8, ()>::new(4, TERMS), Instant::now());
        assert_eq!(slots.look(&"k", start), Look::Fetch(1));
        slots.landed(&"k", 1, Err(()), start);
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(slots.look(&"k", after(1_999)), Look::Failed(()));
        assert_eq!(slots.look(&"k", after(2_000)), Look::Fetch(2));
    }
}
