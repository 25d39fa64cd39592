//! Which conversations are more than are kept, of each owner: too old, too many, or too long together.

use std::collections::BTreeMap;

use redb::{ReadTransaction, ReadableTable as _};
use serde::Deserialize;
use uuid::Uuid;

use crate::{batch::parse, error::Fault, schema::SESSIONS};

/// How much of each owner's conversations is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// How many.
    pub sessions: u64,
    /// Bytes of their turns.
    pub bytes: u64,
    /// When the oldest of them was last spoken in, in milliseconds since 1970.
    pub since_ms: u64,
}

/// A conversation that is more than is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surplus {
    /// Which one.
    pub id: Uuid,
    /// Whose.
    pub owner: u32,
    /// When it was last spoken in, as this was found.
    pub updated_ms: u64,
    /// Why it is more than is kept.
    pub why: TooMuch,
}

/// Why a conversation is more than is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMuch {
    /// It was last spoken in too long ago.
    Old,
    /// There are too many that were spoken in later.
    Many,
    /// Those that were spoken in later are too long together with it.
    Long,
}

/// Of a conversation, what this asks for.
#[derive(Deserialize)]
struct Seen {
    owner_uid: u32,
    updated_ms: u64,
    #[serde(default)]
    bytes: u64,
}

/// Looks at every conversation.
pub(crate) fn surplus(txn: &ReadTransaction, kept: Kept) -> Result<Vec<Surplus>, Fault> {
    let mut by_owner: BTreeMap<u32, Vec<(u64, u128, u64)>> = BTreeMap::new();
    for entry in txn.open_table(SESSIONS)?.iter()? {
        let (id, document) = entry?;
        let id = id.value();
        let seen: Seen = parse("session", id, document.value())?;
        let its = by_owner.entry(seen.owner_uid).or_default();
        its.push((seen.updated_ms, id, seen.bytes));
    }
    let mut found = Vec::new();
    for (owner, mut its) in by_owner {
        // The one that was spoken in last comes first.
        its.sort_unstable_by(|one, other| other.cmp(one));
        let mut together = 0_u64;
        for (place, (updated_ms, id, bytes)) in (0_u64..).zip(its) {
            together = together.saturating_add(bytes);
            let why = if updated_ms < kept.since_ms {
                TooMuch::Old
            } else if place >= kept.sessions {
                TooMuch::Many
            } else if together > kept.bytes && place > 0 {
                TooMuch::Long
            } else {
                continue;
            };
            found.push(Surplus {
                id: Uuid::from_u128(id),
                owner,
                updated_ms,
                why,
            });
        }
    }
    Ok(found)
}
