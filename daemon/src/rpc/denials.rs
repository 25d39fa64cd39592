//! Denied calls in the audit log, folded: a caller that is denied a thousand times a second is one record a second with a count,
//! so that nobody without rights can fill the log or hold up what belongs in it.

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

/// What was denied lately.
#[derive(Debug, Default)]
pub struct Denials(Mutex<HashMap<(u32, &'static str), Folded>>);

#[derive(Debug)]
struct Folded {
    since_ms: u64,
    unsaid: u64,
}

impl Denials {
    /// Takes note of a denial; gives the record that has to be written, if it is one's turn.
    pub fn note(&self, peer: &Peer, method: &'static str, now_ms: u64) -> Option<Entry> {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lately.len() >= REMEMBERED {
            lately.clear();
        }
        let folded = lately.entry((peer.uid, method)).or_insert(Folded {
            since_ms: 0,
            unsaid: 0,
        });
        if now_ms.saturating_sub(folded.since_ms) < FOLD_MS {
            folded.unsaid += 1;
            return None;
        }
        let unsaid = std::mem::replace(
            folded,
            Folded {
                since_ms: now_ms,
                unsaid: 0,
            },
        )
        .unsaid;
        let mut entry = Entry::new(Event::RpcDenied);
        entry.actor = Some(Actor {
            uid: peer.uid,
            gid: peer.gid,
            pid: peer.pid,
            role: peer.role,
        });
        entry.detail.insert("method".into(), method.to_owned());
        if unsaid > 0 {
            entry.detail.insert("folded".into(), unsaid.to_string());
        }
        Some(entry)
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
        }
    }

    #[test]
    fn denials_within_a_second_are_one_record_and_are_counted() {
        let denials = Denials::default();
        assert!(denials.note(&peer(7), "audit.list", 10_000).is_some());
        for _ in 0..500 {
            assert_eq!(denials.note(&peer(7), "audit.list", 10_999), None);
        }
        let entry = denials.note(&peer(7), "audit.list", 11_000).unwrap();
        assert_eq!(entry.detail["folded"], "500");
    }

    #[test]
    fn another_caller_or_method_has_its_own_record() {
        let denials = Denials::default();
        assert!(denials.note(&peer(7), "audit.list", 10_000).is_some());
        assert!(denials.note(&peer(8), "audit.list", 10_000).is_some());
        assert!(denials.note(&peer(7), "config.show", 10_000).is_some());
    }
}
