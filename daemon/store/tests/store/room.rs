//! Disks that cannot take any more.

use std::{fs, io::Write as _};

use paw_policy::State;
use paw_store::{Batch, Store, StoreError};

use crate::support::{Covered, Mounted, action, id, open, options, put};

#[test]
fn full_disk_refuses_the_commit_keeps_what_was_stored_and_heals_by_itself() {
    let Some(disk) = Mounted::tmpfs("full_disk", "8M") else {
        return;
    };
    let path = disk.path().join("store.redb");
    let store = open(&path);
    put(&store, &action(1, State::Completed, None, "before"));
    let ballast = fill(&disk);

    let big = "y".repeat(200_000);
    let mut stored = 1;
    let error = loop {
        let mut batch = Batch::new();
        batch
            .put_action(&action(stored + 1, State::Completed, None, &big))
            .unwrap();
        match store.commit(&batch) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100, "the disk never became full");
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.remedy().contains("free space"));
    let check = |when: &str| {
        assert_eq!(
            store.action(id(1)).unwrap(),
            Some(action(1, State::Completed, None, "before")),
            "{when}"
        );
        assert_eq!(store.action(id(stored + 1)).unwrap(), None, "{when}");
        assert_eq!(store.counts().unwrap().actions, stored, "{when}");
    };
    check("full");
    let mut batch = Batch::new();
    batch
        .put_action(&action(stored + 1, State::Completed, None, &big))
        .unwrap();
    assert!(
        matches!(store.commit(&batch), Err(StoreError::Full { .. })),
        "still full"
    );
    check("still full");

    fs::remove_file(&ballast).unwrap();
    store.commit(&batch).unwrap();
    assert!(store.is_writable());
    assert_eq!(store.counts().unwrap().actions, stored + 1);
    drop(store);
    assert_eq!(Store::verify(&path).unwrap().counts.actions, stored + 1);
}

#[test]
fn read_only_file_system_refuses_the_commit_and_keeps_what_was_stored() {
    let Some(disk) = Mounted::tmpfs("read_only_file_system", "16M") else {
        return;
    };
    let path = disk.path().join("store.redb");
    drop(open(&path));
    disk.remount("ro");
    let error = crate::support::try_open(&path, options()).err().unwrap();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error:?}");
    assert!(matches!(
        crate::support::try_open(&disk.path().join("other.redb"), options()),
        Err(StoreError::ReadOnly { .. })
    ));
    assert_eq!(Store::verify(&path).unwrap().counts.actions, 0);
    disk.remount("rw");
    put(&open(&path), &action(1, State::Queued, None, "x"));
}

/// The disk is full, and by the time the store wants to open its file anew, that cannot be written either.
#[test]
fn store_that_cannot_be_reopened_for_writing_stays_readable_and_heals_by_itself() {
    let Some(disk) = Mounted::tmpfs("store_that_cannot_be_reopened", "8M") else {
        return;
    };
    let path = disk.path().join("store.redb");
    let store = open(&path);
    put(&store, &action(1, State::Completed, None, "before"));
    let ballast = fill(&disk);
    let mut batch = Batch::new();
    for n in 2..9 {
        batch
            .put_action(&action(n, State::Completed, None, &"y".repeat(200_000)))
            .unwrap();
    }
    let covered = Covered::read_only(&disk);
    for _ in 0..2 {
        let error = store.commit(&batch).unwrap_err();
        assert!(
            matches!(error, StoreError::Full { .. } | StoreError::ReadOnly { .. }),
            "{error:?}"
        );
        assert!(!store.is_writable());
        assert_eq!(
            store.action(id(1)).unwrap(),
            Some(action(1, State::Completed, None, "before"))
        );
        assert_eq!(store.counts().unwrap().actions, 1);
    }
    drop(covered);
    fs::remove_file(&ballast).unwrap();
    store.commit(&batch).unwrap();
    assert!(store.is_writable());
    drop(store);
    assert_eq!(Store::verify(&path).unwrap().counts.actions, 8);
}

/// Fills the disk to the last block; returns what to remove.
fn fill(disk: &Mounted) -> std::path::PathBuf {
    let ballast = disk.path().join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    ballast
}
