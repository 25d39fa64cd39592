//! Denied calls in the audit log, folded: a caller that is denied a thousand times a second is one record a second with a count,
//! so that nobody without rights can fill the log or hold up what belongs in it. Whoever is denied meanwhile waits for that one record, too.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use paw_api::audit::{Actor, Entry, Event};

use super::Peer;

/// How long one record stands for all that follow, in milliseconds.
const FOLD_MS: u64 = 1_000;

/// How many pairs of caller and method are remembered; beyond it all are forgotten, and each is recorded anew.
const REMEMBERED: usize = 1_024;

/// What was denied lately; `W` is what waits for a record.
#[derive(Debug)]
pub struct Denials<W>(Mutex<HashMap<(u32, &'static str), Folded<W>>>);

#[derive(Debug)]
struct Folded<W> {
    since_ms: u64,
    unsaid: u64,
    /// Waits for the record that stands for them.
    record: W,
}

impl<W> Default for Denials<W> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<W: Clone> Denials<W> {
    /// Takes note of a denial; gives what waits for its record. That is begun by `record` where it is one's turn, and at once.
    pub fn note(
        &self,
        peer: &Peer,
        method: &'static str,
        now_ms: u64,
        record: impl FnOnce(Entry) -> W,
    ) -> W {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lately.len() >= REMEMBERED {
            lately.clear();
        }
        let unsaid = match lately.get_mut(&(peer.uid, method)) {
            Some(folded) if now_ms.saturating_sub(folded.since_ms) < FOLD_MS => {
                folded.unsaid += 1;
                return folded.record.clone();
            }
            Some(folded) => folded.unsaid,
            None => 0,
        };
        let mut entry = Entry::new(Event::RpcDenied);
        entry.actor = Some(Actor {
            uid: peer.uid,
            gid: peer.gid,
            pid: peer.pid,
            role: peer.role,
            unit: peer.unit.as_deref().map(str::to_owned),
        });
        entry.detail.insert("method".into(), method.to_owned());
        if unsaid > 0 {
            entry.detail.insert("folded".into(), unsaid.to_string());
        }
        let record = record(entry);
        let folded = Folded {
            since_ms: now_ms,
            unsaid: 0,
            record: record.clone(),
        };
        lately.insert((peer.uid, method), folded);
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32) -> Peer {
        Peer {
            uid,
            gid: uid,
            pid: 1,
            role: None,
            name: None,
            unit: None,
        }
    }

    /// Numbers of the records that were begun, and the last one.
    fn note(
        denials: &Denials<usize>,
        begun: &mut Vec<Entry>,
        who: (u32, &'static str),
        at: u64,
    ) -> usize {
        denials.note(&peer(who.0), who.1, at, |entry| {
            begun.push(entry);
            begun.len()
        })
    }

    #[test]
    fn denials_within_a_second_are_one_record_which_all_of_them_wait_for_and_are_counted() {
        let (denials, mut begun) = (Denials::default(), Vec::new());
        let who = (7, "audit.list");
        assert_eq!(note(&denials, &mut begun, who, 10_000), 1);
        for _ in 0..500 {
            assert_eq!(note(&denials, &mut begun, who, 10_999), 1);
        }
        assert_eq!(note(&denials, &mut begun, who, 11_000), 2);
        assert_eq!(begun[1].detail["folded"], "500");
    }

    #[test]
    fn another_caller_or_method_has_its_own_record() {
        let (denials, mut begun) = (Denials::default(), Vec::new());
        for who in [(7, "audit.list"), (8, "audit.list"), (7, "config.show")] {
            note(&denials, &mut begun, who, 10_000);
        }
        assert_eq!(begun.len(), 3);
    }
}
