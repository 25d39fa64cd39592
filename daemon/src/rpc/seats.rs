//! Places for connections, counted per user, and what goes with them: a user's pace and [`Share`].
//!
//! The pace is a generic cell rate algorithm on one atomic number: thirty lines and no lock where every request passes.
//! governor would do the same with a map and 36 more packages.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Limits, share::Share};
use crate::metrics::OneMore;

/// Users that are remembered without a connection; beyond it, those who have been quiet are forgotten.
const REMEMBERED: usize = 1024;

/// The places of one socket.
#[derive(Debug)]
pub(super) struct Seats {
    taken: Mutex<Taken>,
    epoch: Instant,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of: HashMap<u32, (usize, Arc<Own>)>,
}

/// What all connections of one user have together.
#[derive(Debug)]
struct Own {
    pace: Pace,
    share: Arc<Share>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// Every place is taken.
    Everybody,
    /// This user has its share.
    User,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    uid: u32,
    own: Arc<Own>,
    _counted: OneMore,
}

impl Seats {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::default(),
            epoch: Instant::now(),
        })
    }

    /// A place for one more connection of `uid`.
    pub(super) fn take(
        self: &Arc<Self>,
        uid: u32,
        admin: bool,
        limits: &Limits,
    ) -> Result<Seat, Full> {
        let mut taken = self.lock();
        let reserved = if admin { 0 } else { limits.reserved_for_admin };
        if taken.all >= limits.connections.saturating_sub(reserved) {
            return Err(Full::Everybody);
        }
        if taken.of.len() >= REMEMBERED {
            let now = self.now();
            taken
                .of
                .retain(|_, (count, own)| *count > 0 || !own.pace.is_quiet(now));
        }
        // Root is who would lift the limit; holding root back helps nobody.
        let rate = if uid == 0 {
            0
        } else {
            limits.requests_per_second
        };
        let fresh = || Own {
            pace: Pace::new(rate, limits.request_burst),
            share: Arc::new(Share::new(limits)),
        };
        let (count, own) = taken
            .of
            .entry(uid)
            .or_insert_with(|| (0, Arc::new(fresh())));
        if *count >= limits.connections_per_uid {
            return Err(Full::User);
        }
        *count += 1;
        let own = Arc::clone(own);
        taken.all += 1;
        Ok(Seat {
            seats: Arc::clone(self),
            uid,
            own,
            _counted: OneMore::connection(),
        })
    }

    /// Whether this user has its share of the places already.
    pub(super) fn is_full(&self, uid: u32, limits: &Limits) -> bool {
        let taken = self.lock();
        let count = taken.of.get(&uid).map_or(0, |(count, _)| *count);
        count >= limits.connections_per_uid
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        // The counters are changed by single steps that cannot panic, so a poisoned lock still guards true numbers.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Counts one request; an error says how long to wait.
    pub(super) fn request(&self) -> Result<(), Duration> {
        if self.own.pace.interval == 0 {
            Ok(())
        } else {
            self.own.pace.step(self.seats.now())
        }
    }

    /// What this user has of pawd, over all connections.
    pub(super) fn share(&self) -> &Arc<Share> {
        &self.own.share
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        taken.all -= 1;
        // The entry stays, so that reconnecting does not give a user a fresh burst.
        if let Some((count, _)) = taken.of.get_mut(&self.uid) {
            *count -= 1;
        }
    }
}

/// One user's pace: the time, in nanoseconds, at which a user with exactly the allowed rate would be due again.
#[derive(Debug)]
struct Pace {
    due: AtomicU64,
    interval: u64,
    ahead: u64,
}

impl Pace {
    fn new(per_second: u32, burst: u32) -> Self {
        let interval = 1_000_000_000_u64
            .checked_div(per_second.into())
            .unwrap_or(0);
        Self {
            due: AtomicU64::new(0),
            interval,
            ahead: interval.saturating_mul(burst.max(1).into()),
        }
    }

    fn step(&self, now: u64) -> Result<(), Duration> {
        self.due
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |due| {
                let next = due.max(now).saturating_add(self.interval);
                (next <= now.saturating_add(self.ahead)).then_some(next)
            })
            .map(|_| ())
            .map_err(|due| {
                Duration::from_nanos(
                    due.saturating_add(self.interval)
                        .saturating_sub(now.saturating_add(self.ahead)),
                )
            })
    }

    fn is_quiet(&self, now: u64) -> bool {
        self.due.load(Ordering::Relaxed) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let pace = Pace::new(1000, 3);
        let passed = |now| (0..10).filter(|_| pace.step(now).is_ok()).count();
        assert_eq!(passed(0), 3);
        assert_eq!(pace.step(0), Err(Duration::from_millis(1)));
        assert_eq!(passed(1_000_000), 1);
        assert_eq!(passed(1_000_000_000), 3);
    }

    #[test]
    fn reconnecting_gives_no_fresh_burst() {
        let limits = Limits {
            requests_per_second: 1,
            request_burst: 1,
            ..Limits::default()
        };
        let seats = Seats::new();
        assert_eq!(seats.take(7, false, &limits).unwrap().request(), Ok(()));
        assert!(seats.take(7, false, &limits).unwrap().request().is_err());
    }

    #[test]
    fn the_last_places_are_for_administrators() {
        let limits = Limits {
            connections: 2,
            reserved_for_admin: 1,
            ..Limits::default()
        };
        let seats = Seats::new();
        let _first = seats.take(7, false, &limits).unwrap();
        assert_eq!(seats.take(8, false, &limits).unwrap_err(), Full::Everybody);
        let admin = seats.take(9, true, &limits).unwrap();
        assert_eq!(seats.take(9, true, &limits).unwrap_err(), Full::Everybody);
        drop(admin);
        assert!(seats.take(9, true, &limits).is_ok());
    }

    #[test]
    fn one_user_cannot_take_every_place() {
        let limits = Limits {
            connections_per_uid: 1,
            ..Limits::default()
        };
        let seats = Seats::new();
        let _first = seats.take(7, false, &limits).unwrap();
        assert_eq!(seats.take(7, false, &limits).unwrap_err(), Full::User);
        assert!(seats.take(8, false, &limits).is_ok());
    }
}
