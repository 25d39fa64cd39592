//! Actions of one sort that wait among each other: users take turns, and of one user the first that came is the first. Pure.
//!
//! Each is put into a round: a user's first one into the round that is being served, each further one into the next. So who has a hundred of
//! them in line and who has one are served alternately, and who comes back at once is behind those of the same round.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

/// Where one stands: its round, then when it came.
pub(super) type Stand = (u64, u64);

/// Those of one sort.
#[derive(Debug, Default)]
pub(super) struct Turns {
    line: BTreeMap<Stand, (Uuid, u32)>,
    users: HashMap<u32, User>,
    /// The round of whoever was served last.
    round: u64,
}

#[derive(Debug, Clone, Copy)]
struct User {
    /// The round of the last one of theirs.
    round: u64,
    waiting: usize,
}

impl Turns {
    /// Puts one of a user at the end of what is theirs, and says where that is.
    pub(super) fn add(&mut self, arrival: u64, id: Uuid, uid: u32) -> Stand {
        let of = self.users.entry(uid);
        let user = of
            .and_modify(|user| user.round = self.round.max(user.round + 1))
            .or_insert(User {
                round: self.round,
                waiting: 0,
            });
        user.waiting += 1;
        let stand = (user.round, arrival);
        self.line.insert(stand, (id, uid));
        stand
    }

    /// Whose turn it is, with its user, and when that one came.
    pub(super) fn first(&self) -> Option<((Uuid, u32), u64)> {
        let ((_, arrival), one) = self.line.first_key_value()?;
        Some((*one, *arrival))
    }

    /// Whether a user has something here.
    pub(super) fn has(&self, uid: u32) -> bool {
        self.users.get(&uid).is_some_and(|user| user.waiting > 0)
    }

    /// Takes one out, because it is served or not wanted any more.
    pub(super) fn remove(&mut self, stand: Stand, is_served: bool) {
        let Some((_, uid)) = self.line.remove(&stand) else {
            return;
        };
        if let Some(user) = self.users.get_mut(&uid) {
            user.waiting -= 1;
        }
        if is_served && stand.0 > self.round {
            self.round = stand.0;
            // Who had their turn in an earlier round and has nothing here is as one who never came.
            let round = self.round;
            self.users
                .retain(|_, user| user.waiting > 0 || user.round >= round);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }
}
