//! What lies on the disk, for the fuzzer: notes beside a store, and records in it.

use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    ActionRecord, Batch, GrantRecord, JobRecord, OutageRecord, ProofRecord, SessionRecord,
    TurnRecord, journal,
};

/// Reads bytes as a file of notes beside the store with this number.
pub fn notes(bytes: &[u8], store: Uuid) {
    let mut found = Vec::new();
    if journal::records(bytes, store, &mut found).is_ok() {
        for (_, text) in found {
            let _ = serde_json::from_slice::<Batch>(&text);
        }
    }
}

/// A file of notes beside that store with one note, in the form in which it is written.
#[must_use]
pub fn a_note(store: Uuid) -> Vec<u8> {
    let directory = std::env::temp_dir().join(format!("paw-note-{}", std::process::id()));
    let path = directory.join("store.redb");
    let written = std::fs::create_dir_all(&directory).and_then(|()| {
        let mut journal = journal::Journal::begin(&path, store)?;
        journal.append(1, br#"[{"append_turn":{"session":"01890000-0000-7000-8000-000000000000","seq":1,"document":{}}}]"#, 0)?;
        std::fs::read(directory.join("store.redb.notes-a"))
    });
    // It is a few hundred bytes in a directory for such things.
    let _ = std::fs::remove_dir_all(&directory);
    written.unwrap_or_default()
}

/// Reads bytes as each of the records that there are, and as a note.
///
/// # Panics
/// When what was understood is not understood again after it was written.
pub fn records(bytes: &[u8]) {
    again::<ActionRecord>(bytes);
    again::<SessionRecord>(bytes);
    again::<TurnRecord>(bytes);
    again::<JobRecord>(bytes);
    again::<GrantRecord>(bytes);
    again::<OutageRecord>(bytes);
    again::<ProofRecord>(bytes);
    again::<Batch>(bytes);
}

fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(record) = serde_json::from_slice::<T>(bytes) else {
        return;
    };
    let written = serde_json::to_vec(&record).expect("what was read can be written");
    let read: T = serde_json::from_slice(&written).expect("what was written can be read");
    let once_more = serde_json::to_vec(&read).expect("what was read can be written");
    assert!(written == once_more, "it is another record afterwards");
}
