//! Conversations that are more than is kept are forgotten: too old, too many of one user, or too long together.
//!
//! Which ones is the store's to find, how much is kept is configured (`[sessions]`). That one is forgotten is in the audit log before it
//! is; its actions stay as long as actions do. One that is spoken in meanwhile, or in which something is under way, stays: the record
//! of its end is then followed by another one, when that comes.

use std::{sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use paw_api::audit::{Entry, Event};
use paw_store::{Batch, Kept, StoreError, Surplus, TooMuch};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    audit::Audit,
    clock::{now_ms, set_ago, wall_ms},
    config::{Config, SessionBounds},
    quota::scope,
    records::with_those,
    storage::Storage,
};

/// How often it is looked for those that have become too old.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// So many more conversations than when it was looked last are reason to look again.
const GROWN_BY: u64 = 64;

/// So many are forgotten with one wait for the disk for their records and one for them, so that it keeps pace with those that begin.
const TOGETHER: usize = 64;

/// So long the host's clock must not have been set before anything is forgotten for its age.
const STEADY: Duration = Duration::from_secs(3600);

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// Forgets what is more than is kept, until pawd stops.
pub async fn keep(
    mut config: watch::Receiver<Arc<Config>>,
    storage: Storage,
    audit: Audit,
    stop: CancellationToken,
) {
    let mut often = interval(LOOK_EVERY);
    often.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut known, mut bounds) = (0, None);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = often.tick() => {}
            changed = config.changed() => {
                if changed.is_err() {
                    return;
                }
                if bounds == Some(config.borrow().sessions) {
                    continue;
                }
            }
            () = storage.grown() => {
                if sessions(&storage) < known + GROWN_BY {
                    continue;
                }
            }
        }
        let now = config.borrow_and_update().sessions;
        bounds = Some(now);
        tokio::select! {
            () = stop.cancelled() => return,
            () = look(now, &storage, &audit) => {}
        }
        known = sessions(&storage);
    }
}

fn sessions(storage: &Storage) -> u64 {
    storage.read().counts().map_or(0, |counts| counts.sessions)
}

async fn look(bounds: SessionBounds, storage: &Storage, audit: &Audit) {
    // A clock that was just set makes everything old at once, and may be set right in a moment; what is forgotten is gone.
    let is_known = set_ago().is_none_or(|ago| ago >= STEADY);
    let now = now_ms().min(wall_ms());
    let age = (bounds.days > 0 && is_known).then(|| u64::from(bounds.days) * DAY_MS);
    let kept = Kept {
        sessions: bounds.keep,
        bytes: bounds.bytes,
        since_ms: age.map_or(0, |age| now.saturating_sub(age)),
    };
    let store = storage.shared();
    let found = tokio::task::spawn_blocking(move || store.surplus_sessions(kept)).await;
    let surplus = match found {
        Ok(Ok(surplus)) => surplus,
        Ok(Err(error)) => {
            return warn!(error = %paw_log::Chain(&error), remedy = error.remedy(), "old conversations were not looked for");
        }
        Err(error) => return warn!(error = %error, "old conversations were not looked for"),
    };
    for some in surplus.chunks(TOGETHER) {
        if let Err(why) = forget(some, storage, audit).await {
            return warn!(error = %why, "old conversations were not forgotten; it is tried again");
        }
    }
    if !surplus.is_empty() {
        info!(
            conversations = surplus.len(),
            "old conversations were forgotten"
        );
    }
}

/// Forgets these: first all their records are on the disk, then all of them are gone; each with one wait for the disk.
async fn forget(some: &[Surplus], storage: &Storage, audit: &Audit) -> Result<(), String> {
    let mut begun = Vec::with_capacity(some.len());
    for one in some {
        let those = storage.read().begun_by(one.id);
        begun.push(those.map_err(|error| paw_log::Chain(&error).to_string())?);
    }
    let records = some.iter().zip(&begun);
    let recorded = records.map(|(one, begun)| audit.durable(entry(one, begun)));
    try_join_all(recorded)
        .await
        .map_err(|error| error.to_string())?;
    let forgotten = some.iter().zip(&begun).map(async |(one, begun)| {
        let mut batch = Batch::new();
        batch.forget_session(one.id, one.updated_ms)?;
        for id in [one.id].iter().chain(begun) {
            batch.forget_part(&scope::of_session(&id.to_string()))?;
        }
        storage.commit(batch).await
    });
    let forgotten = try_join_all(forgotten).await;
    forgotten
        .map(drop)
        .map_err(|error: StoreError| paw_log::Chain(&error).to_string())
}

/// The record that one is forgotten, and those that its agent began with it.
fn entry(one: &Surplus, begun: &[Uuid]) -> Entry {
    let mut entry = Entry::new(Event::SessionDeleted);
    let detail = &mut entry.detail;
    detail.insert("session".into(), one.id.to_string());
    detail.insert("of_uid".into(), one.owner.to_string());
    let why = match one.why {
        TooMuch::Old => "older than is kept",
        TooMuch::Many => "more than are kept",
        TooMuch::Long => "longer together than is kept",
    };
    detail.insert("why".into(), why.into());
    with_those(&mut entry, begun);
    entry
}
