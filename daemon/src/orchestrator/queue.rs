//! Which approved action is done next: first come, first served, at most so many at once, and a bounded line behind them.

use std::collections::{BTreeSet, VecDeque};

use uuid::Uuid;

/// The line of approved actions and the places that are taken.
#[derive(Debug)]
pub struct Queue {
    line: VecDeque<Uuid>,
    running: BTreeSet<Uuid>,
    /// Being done, without a place: they wait for others that need one.
    resting: BTreeSet<Uuid>,
    places: usize,
    bound: usize,
}

/// The line is as long as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{waiting} actions are waiting, and {running} are being done")]
pub struct Full {
    /// How many wait.
    pub waiting: usize,
    /// How many are being done.
    pub running: usize,
}

impl Queue {
    /// An empty queue with so many places and so long a line at most.
    #[must_use]
    pub const fn new(places: usize, bound: usize) -> Self {
        Self {
            line: VecDeque::new(),
            running: BTreeSet::new(),
            resting: BTreeSet::new(),
            places,
            bound,
        }
    }

    /// Whether one more could stand in line.
    ///
    /// # Errors
    /// When the line is at its bound.
    pub fn room(&self) -> Result<(), Full> {
        if self.line.len() < self.bound {
            Ok(())
        } else {
            Err(Full {
                waiting: self.line.len(),
                running: self.running.len(),
            })
        }
    }

    /// Puts an approved action at the end of the line. What was accepted is never refused here: [`Queue::room`] is asked before.
    pub fn push(&mut self, id: Uuid) {
        self.line.push_back(id);
    }

    /// The next action that has a place now. It holds the place until [`Queue::done`].
    pub fn pop(&mut self) -> Option<Uuid> {
        if self.running.len() >= self.places {
            return None;
        }
        let id = self.line.pop_front()?;
        self.running.insert(id);
        Some(id)
    }

    /// Gives this action a place now, if one is free and nobody is in line for it. It holds the place until [`Queue::done`].
    pub fn take(&mut self, id: Uuid) -> bool {
        let free = self.line.is_empty() && self.running.len() < self.places;
        free && self.running.insert(id)
    }

    /// Gives a place to an action that is being done already. It may be one more than there are: what runs is not ended for it.
    pub fn resume(&mut self, id: Uuid) {
        self.running.insert(id);
    }

    /// An action that is being done waits for others and lends its place to them: if those who wait kept theirs, those they wait for
    /// might never get one.
    pub fn rest(&mut self, id: Uuid) {
        if self.running.remove(&id) {
            self.resting.insert(id);
        }
    }

    /// It goes on, and has a place again, as [`Queue::resume`] gives one.
    pub fn wake(&mut self, id: Uuid) {
        if self.resting.remove(&id) {
            self.running.insert(id);
        }
    }

    /// Gives back the place of an action, or takes it out of the line.
    pub fn done(&mut self, id: Uuid) {
        if !self.running.remove(&id) && !self.resting.remove(&id) {
            self.line.retain(|waiting| *waiting != id);
        }
    }

    /// Other bounds, from now on. Places that are taken beyond them are given back as their actions end.
    pub const fn resize(&mut self, places: usize, bound: usize) {
        self.places = places;
        self.bound = bound;
    }

    /// How many are being done, those included that rest.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len() + self.resting.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn nobody_is_given_a_place_before_those_in_line() {
        let mut queue = Queue::new(2, 2);
        assert!(queue.take(id(1)));
        queue.push(id(2));
        assert!(!queue.take(id(3)), "somebody stands in line for it");
        assert_eq!(queue.pop(), Some(id(2)));
        assert!(!queue.take(id(3)), "there is none");
        queue.done(id(1));
        assert!(queue.take(id(3)));
        assert_eq!(queue.running(), 2);
    }

    #[test]
    fn a_full_line_says_so_and_loses_nothing() {
        let mut queue = Queue::new(1, 2);
        queue.push(id(1));
        assert_eq!(queue.pop(), Some(id(1)));
        queue.push(id(2));
        queue.push(id(3));
        assert_eq!(
            queue.room(),
            Err(Full {
                waiting: 2,
                running: 1
            })
        );
        queue.done(id(1));
        assert_eq!(queue.pop(), Some(id(2)));
        assert_eq!(queue.room(), Ok(()));
    }

    #[test]
    fn who_waits_for_others_lends_them_its_place() {
        let mut queue = Queue::new(1, 2);
        assert!(queue.take(id(1)));
        queue.push(id(2));
        assert_eq!(queue.pop(), None);
        queue.rest(id(1));
        assert_eq!(queue.pop(), Some(id(2)));
        assert_eq!(queue.running(), 2);
        queue.wake(id(1));
        queue.push(id(3));
        queue.done(id(2));
        assert_eq!(queue.pop(), None, "it has its place again");
        queue.rest(id(1));
        queue.done(id(1));
        queue.wake(id(1));
        assert_eq!(queue.pop(), Some(id(3)));
        assert_eq!(queue.running(), 1);
    }

    proptest! {
        #[test]
        fn each_action_gets_one_place_in_its_order(places in 1usize..5, ends in prop::collection::vec(any::<bool>(), 1..60)) {
            let mut queue = Queue::new(places, usize::MAX);
            let (mut next, mut begun, mut running) = (0u128, Vec::new(), VecDeque::new());
            for end in ends {
                queue.push(id(next));
                next += 1;
                while let Some(started) = queue.pop() {
                    begun.push(started);
                    running.push_back(started);
                }
                prop_assert!(queue.running() <= places);
                if end && let Some(oldest) = running.pop_front() {
                    queue.done(oldest);
                }
            }
            prop_assert!(begun.iter().copied().eq((0..begun.len() as u128).map(id)));
        }
    }
}
