//! The rules in force: those of the files, and what people granted for a while beside them.
//!
//! Whoever judges reads one snapshot of both. A grant is added once it is durable, and taken out before its end is: so at no moment is
//! there more in force than the log says.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use paw_policy::{Digest, Rules, grant::MAX_TIME_MS};
use paw_store::GrantRecord;
use tokio::sync::watch;
use tracing::error;
use uuid::Uuid;

use crate::clock::now_ms;

/// Grants at once. Who needs more of them wants a rule.
pub const MAX_GRANTS: usize = 256;

/// What is in force.
#[derive(Debug)]
pub struct Grants {
    held: Mutex<Held>,
    force: watch::Sender<Arc<Rules>>,
}

#[derive(Debug)]
struct Held {
    files: Arc<Rules>,
    grants: BTreeMap<Uuid, GrantRecord>,
    /// Those that were never put in force, and are not told of as ended yet.
    never: Vec<Uuid>,
}

impl Grants {
    /// These rules with these grants, and where what is in force is told.
    #[must_use]
    pub fn new(files: Rules, grants: Vec<GrantRecord>) -> (Self, watch::Receiver<Arc<Rules>>) {
        let now_ms = now_ms();
        // One that would hold for longer than any is made for is of a clock that was ahead: it is not put in force, and so never outlives the
        // time that it was made for.
        let (held, left_out): (Vec<_>, Vec<_>) = grants
            .into_iter()
            .partition(|grant| grant.until_ms.saturating_sub(now_ms) <= MAX_TIME_MS);
        for grant in &left_out {
            error!(
                grant = %grant.id,
                until_ms = grant.until_ms,
                remedy = "see that the clock is right, and grant it again",
                "a grant is not in force: the clock was ahead when it was made"
            );
        }
        let held = Held {
            files: Arc::new(files),
            grants: held.into_iter().map(|grant| (grant.id, grant)).collect(),
            never: left_out.into_iter().map(|grant| grant.id).collect(),
        };
        let (force, watched) = watch::channel(held.rules());
        let held = Mutex::new(held);
        (Self { held, force }, watched)
    }

    /// Other rules of files, from now on; grants stay.
    pub fn replace(&self, files: Rules) {
        self.change(|held| held.files = Arc::new(files));
    }

    /// The digest of the rules of files that are in force.
    #[must_use]
    pub fn files_digest(&self) -> Digest {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.files.digest()
    }

    /// Puts a grant in force, which is durable by now.
    pub fn add(&self, grant: GrantRecord) {
        self.change(|held| drop(held.grants.insert(grant.id, grant)));
    }

    /// Takes a grant out of force.
    pub fn remove(&self, id: Uuid) -> Option<GrantRecord> {
        self.change(|held| held.grants.remove(&id))
    }

    /// Those that hold at this time, oldest first.
    #[must_use]
    pub fn list(&self, now_ms: u64) -> Vec<GrantRecord> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let all = held.grants.values();
        all.filter(|grant| now_ms < grant.until_ms)
            .cloned()
            .collect()
    }

    /// Takes out those that have ended, and says which; the rules say their end, too, so nothing depends on when.
    #[must_use]
    pub fn ended(&self, now_ms: u64) -> Vec<Uuid> {
        let ended: Vec<Uuid> = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let never = std::mem::take(&mut held.never);
            let all = held.grants.values();
            all.filter(|grant| grant.until_ms <= now_ms)
                .map(|grant| grant.id)
                .chain(never)
                .collect()
        };
        if !ended.is_empty() {
            self.change(|held| held.grants.retain(|id, _| !ended.contains(id)));
        }
        ended
    }

    fn change<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        // Told within the lock, so that an older state is never told after a newer one.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut held);
        self.force.send_replace(held.rules());
        result
    }
}

impl Held {
    /// The rules of both. A grant that is no rule of this version's schema grants nothing.
    fn rules(&self) -> Arc<Rules> {
        let texts = self.grants.values().map(|grant| grant.text.as_str());
        match self.files.with_grants(texts) {
            Ok(rules) => Arc::new(rules),
            Err(faults) => {
                let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                error!(
                    faults = faults.join("; "),
                    remedy = "revoke what `pawctl approval grants` lists, and grant it again",
                    "no grant is in force"
                );
                Arc::clone(&self.files)
            }
        }
    }
}
