//! Copies made while others write.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use paw_policy::State;
use paw_store::{Batch, Store, StoreError};

use crate::support::{action, id, open, put, session, turn};

#[test]
fn backup_beside_a_writer_is_one_moment_of_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.redb"));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let mut batch = Batch::new();
                batch.put_session(&session(n, 1)).unwrap();
                batch.append_turn(&turn(id(n), 0)).unwrap();
                batch
                    .put_action(&action(n, State::Completed, Some(id(n)), "x"))
                    .unwrap();
                store.commit(&batch).unwrap();
            }
        });
        for round in 0..10 {
            let before = store.counts().unwrap();
            let copy = directory.path().join(format!("copy{round}.redb"));
            store.backup(&copy).unwrap();
            let after = store.counts().unwrap();
            let found = Store::verify(&copy).unwrap().counts;
            assert!(
                (before.generation..=after.generation).contains(&found.generation),
                "round {round}"
            );
            assert_eq!(
                found.generation,
                found.actions + 1,
                "each commit added one action, the first made the file"
            );
            assert_eq!(
                (found.actions, found.actions),
                (found.sessions, found.turns),
                "round {round}"
            );
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn backup_of_a_store_at_rest_has_the_same_records() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.redb"));
    for n in 1..=20 {
        put(&store, &action(n, State::Failed, None, "x"));
    }
    let path = directory.path().join("copy.redb");
    store.backup(&path).unwrap();
    let copy = open(&path);
    assert_eq!(copy.counts().unwrap(), store.counts().unwrap());
    for n in 1..=20 {
        assert_eq!(copy.action(id(n)).unwrap(), store.action(id(n)).unwrap());
    }
}

#[test]
fn backup_never_replaces_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.redb"));
    let path = directory.path().join("copy");
    fs::write(&path, b"mine").unwrap();
    assert!(matches!(
        store.backup(&path),
        Err(StoreError::Exists { .. })
    ));
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    assert!(matches!(
        store.backup(&directory.path().join("no/copy")),
        Err(StoreError::Missing { .. })
    ));
}
