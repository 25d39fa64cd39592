//! Denied calls in the audit log, folded: who is denied the same a thousand times a second has a record for the first, and one for all that
//! follow within the second, which has their number and is written when it ends. So nobody without rights can fill the log or hold up what
//! belongs in it, and each of them waits for the record that they are in.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use paw_api::audit::{Actor, Entry, Event};

use super::Peer;

/// How long what follows a record is counted, in milliseconds.
const FOLD_MS: u64 = 1_000;

/// How many pairs of caller and method are remembered. Beyond it each denial has a record of its own.
const REMEMBERED: usize = 1_024;

/// A user, and what they were denied.
pub type Pair = (u32, &'static str);

/// What was denied lately; `W` is what waits for a record.
#[derive(Debug)]
pub struct Denials<W>(Mutex<HashMap<Pair, Folded<W>>>);

#[derive(Debug)]
struct Folded<W> {
    since_ms: u64,
    /// What waits for the record of those that followed, how many these are, and the last of them.
    rest: Option<(W, u64, Actor)>,
}

impl<W> Default for Denials<W> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<W: Clone> Denials<W> {
    /// Takes note of a denial; gives what waits for its record. That is begun at once by `record`, or is that of all that follow within the
    /// second: then `later` is called for the first of them, and has to ask for it by [`Self::rest`] after the time that it is given.
    pub fn note(
        &self,
        peer: &Peer,
        method: &'static str,
        now_ms: u64,
        record: impl FnOnce(Entry) -> W,
        later: impl FnOnce(Pair, Duration) -> W,
    ) -> W {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = |folded: &Folded<W>| now_ms.saturating_sub(folded.since_ms) < FOLD_MS;
        if lately.len() >= REMEMBERED {
            lately.retain(|_, folded| folded.rest.is_some() || is_new(folded));
        }
        let pair = (peer.uid, method);
        match lately.get_mut(&pair) {
            Some(Folded {
                rest: Some((waits, many, last)),
                ..
            }) => {
                (*many, *last) = (*many + 1, actor(peer));
                return waits.clone();
            }
            Some(folded) if is_new(folded) => {
                let left = FOLD_MS - now_ms.saturating_sub(folded.since_ms);
                let waits = later(pair, Duration::from_millis(left));
                folded.rest = Some((waits.clone(), 1, actor(peer)));
                return waits;
            }
            Some(_) | None => {}
        }
        if lately.len() < REMEMBERED || lately.contains_key(&pair) {
            lately.insert(
                pair,
                Folded {
                    since_ms: now_ms,
                    rest: None,
                },
            );
        }
        record(entry(actor(peer), method))
    }

    /// The record of all that were counted, who begin anew with this.
    pub fn rest(&self, pair: Pair, now_ms: u64) -> Option<Entry> {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let folded = lately.get_mut(&pair)?;
        let (_, many, last) = folded.rest.take()?;
        folded.since_ms = now_ms;
        let mut entry = entry(last, pair.1);
        entry.detail.insert("calls".into(), many.to_string());
        Some(entry)
    }
}

fn actor(peer: &Peer) -> Actor {
    Actor {
        uid: peer.uid,
        gid: peer.gid,
        pid: peer.pid,
        role: peer.role,
        unit: peer.unit.as_deref().map(str::to_owned),
    }
}

fn entry(actor: Actor, method: &'static str) -> Entry {
    let mut entry = Entry::new(Event::RpcDenied);
    entry.actor = Some(actor);
    entry.detail.insert("method".into(), method.to_owned());
    entry
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Denials, and the records that were begun; who is denied waits for the one of this number, or for the rest of a pair.
    #[derive(Default)]
    struct Log {
        denials: Denials<Waits>,
        begun: RefCell<Vec<Entry>>,
    }

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Waits {
        Record(usize),
        Rest(Pair, Duration),
    }

    impl Log {
        fn note(&self, (uid, method): Pair, pid: i32, at: u64) -> Waits {
            let peer = Peer {
                uid,
                gid: uid,
                pid,
                role: None,
                name: None,
                unit: None,
            };
            let record = |entry| {
                self.begun.borrow_mut().push(entry);
                Waits::Record(self.begun.borrow().len())
            };
            self.denials.note(&peer, method, at, record, Waits::Rest)
        }
    }

    const WHO: Pair = (7, "audit.list");

    #[test]
    fn what_follows_within_a_second_waits_for_the_record_that_it_is_counted_in() {
        let log = Log::default();
        assert_eq!(log.note(WHO, 1, 10_000), Waits::Record(1));
        assert!(log.denials.rest(WHO, 10_000).is_none(), "nobody follows");
        let rest = Waits::Rest(WHO, Duration::from_millis(600));
        for n in 0..500 {
            // Also behind the second, until the record is written.
            assert_eq!(log.note(WHO, n, 10_400 + 2 * n as u64), rest);
        }
        let record = log.denials.rest(WHO, 11_400).unwrap();
        assert_eq!(record.detail["calls"], "500");
        assert_eq!(record.actor.unwrap().pid, 499, "the last of them");
        assert!(log.denials.rest(WHO, 11_400).is_none(), "once");
        let rest = Waits::Rest(WHO, Duration::from_millis(1));
        assert_eq!(log.note(WHO, 1, 12_399), rest);
        assert_eq!(log.denials.rest(WHO, 12_400).unwrap().detail["calls"], "1");
        assert_eq!(log.note(WHO, 1, 13_400), Waits::Record(2));
        assert!(!log.begun.borrow()[1].detail.contains_key("calls"));
    }

    #[test]
    fn another_caller_or_method_has_its_own_record() {
        let log = Log::default();
        for who in [WHO, (8, "audit.list"), (7, "config.show")] {
            log.note(who, 1, 10_000);
        }
        assert_eq!(log.begun.borrow().len(), 3);
    }

    #[test]
    fn who_waits_is_not_forgotten_for_those_that_come() {
        let log = Log::default();
        log.note(WHO, 1, 10_000);
        log.note(WHO, 1, 10_000);
        for uid in 1_000..5_000 {
            assert!(matches!(
                log.note((uid, "audit.list"), 1, 10_000),
                Waits::Record(_)
            ));
        }
        assert!(log.denials.0.lock().unwrap().len() <= REMEMBERED);
        assert_eq!(log.denials.rest(WHO, 11_000).unwrap().detail["calls"], "1");
        // Those of a second ago make room.
        log.note((1, "audit.list"), 1, 11_000);
        assert_eq!(log.denials.0.lock().unwrap().len(), 2);
    }
}
