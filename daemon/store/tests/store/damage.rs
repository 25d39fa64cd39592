//! Files that are not what was written.

use std::{fs, path::Path};

use paw_policy::State;
use paw_store::{OpenOptions, Store, StoreError};

use crate::support::{action, id, is_root, open, options, put};

/// A closed store with ten actions, as bytes.
fn good(path: &Path) -> Vec<u8> {
    let store = open(path);
    for n in 1..=10 {
        put(&store, &action(n, State::Completed, None, &"x".repeat(300)));
    }
    drop(store);
    fs::read(path).unwrap()
}

#[test]
fn damaged_file_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let good = good(&path);
    let check = |name: &str, bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = crate::support::try_open(&path, options())
            .err()
            .unwrap_or_else(|| panic!("{name} was opened"));
        assert!(
            matches!(error, StoreError::Corrupt { .. }),
            "{name}: {error:?}"
        );
        assert!(error.to_string().contains("store.redb"), "{name}: {error}");
        assert!(
            error.remedy().contains("copy the newest backup over it"),
            "{name}"
        );
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            bytes.len() as u64,
            "{name}: the length changed"
        );
        assert!(
            matches!(Store::verify(&path), Err(StoreError::Corrupt { .. })),
            "{name}"
        );
        assert_eq!(
            fs::read(&path).unwrap(),
            bytes,
            "{name}: verify changed the file"
        );
    };
    check("an empty file", b"");
    check("one byte", b"r");
    check("text", b"this was never a store of any kind\n");
    check("zeros", &vec![0; good.len()]);
    check(
        "random bytes",
        &(0..good.len() as u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect::<Vec<_>>(),
    );
    check("the first half", &good[..good.len() / 2]);
    check("all but the last page", &good[..good.len() - 4096]);
    check("the first page", &good[..4096]);
    let mut without_head = good.clone();
    without_head[..64].fill(0);
    check("no head", &without_head);
    fs::write(&path, &good).unwrap();
    assert_eq!(
        open(&path).counts().unwrap().actions,
        10,
        "the bytes themselves were good"
    );
}

/// No flipped bit may ever show other data, fewer data, or a panic. Some bits (free pages, padding) do not matter.
#[test]
fn flipped_bit_is_refused_or_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let good = good(&path);
    let expected: Vec<_> = (1..=10)
        .map(|n| action(n, State::Completed, None, &"x".repeat(300)))
        .collect();
    let mut refused = 0;
    let rounds = 400_usize;
    for round in 0..rounds {
        // Every byte of the head once, then spread over the file.
        let at = if round < 200 {
            round
        } else {
            (round * 7919 * 13) % good.len()
        };
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (round % 8);
        fs::write(&path, &bytes).unwrap();
        match crate::support::try_open(&path, options()) {
            Err(StoreError::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("byte {at}: {other:?}"),
            Ok(store) => {
                for (n, action) in (1..).zip(&expected) {
                    assert_eq!(
                        store.action(id(n)).unwrap().as_ref(),
                        Some(action),
                        "byte {at}"
                    );
                }
                assert_eq!(
                    store.counts().unwrap().generation,
                    11,
                    "byte {at}: an older state was taken"
                );
            }
        }
    }
    assert!(refused > 20, "only {refused} of {rounds} were noticed");
}

#[test]
fn missing_store_is_made_only_when_asked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let error = crate::support::try_open(
        &path,
        OpenOptions {
            create: false,
            ..options()
        },
    )
    .err()
    .unwrap();
    assert!(matches!(error, StoreError::Missing { .. }), "{error:?}");
    assert!(!path.exists());
    let store = open(&path);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    assert_eq!(store.counts().unwrap().actions, 0);
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        1,
        "nothing else is left there"
    );
}

#[test]
fn missing_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = crate::support::try_open(&directory.path().join("no/store.redb"), options())
        .err()
        .unwrap();
    assert!(matches!(error, StoreError::Missing { .. }), "{error:?}");
}

#[test]
fn half_made_store_of_a_crash_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    fs::write(directory.path().join("store.redb.new"), b"half").unwrap();
    assert_eq!(open(&path).counts().unwrap().actions, 0);
}

#[test]
fn second_opener_is_refused_and_the_first_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let first = open(&path);
    assert!(matches!(
        crate::support::try_open(&path, options()),
        Err(StoreError::InUse { .. })
    ));
    assert!(matches!(
        Store::verify(&path),
        Err(StoreError::InUse { .. })
    ));
    put(&first, &action(1, State::Queued, None, "x"));
    drop(first);
    assert_eq!(open(&path).counts().unwrap().actions, 1);
}

#[test]
fn file_of_another_user_is_refused() {
    if is_root() {
        eprintln!("SKIPPED file_of_another_user_is_refused: root may open everything");
        return;
    }
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    drop(open(&path));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    assert!(matches!(
        crate::support::try_open(&path, options()),
        Err(StoreError::Permission { .. })
    ));
}

/// The file of version 1 as it was first released.
const V1: &[u8] = include_bytes!("../../fixtures/v1.redb");

#[test]
fn store_of_version_1_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    fs::write(&path, V1).unwrap();
    let about = Store::verify(&path).unwrap();
    assert_eq!((about.schema, about.written_by.as_str()), (1, "0.1.0"));
    let store = open(&path);
    let session = crate::support::session(1, 1000);
    assert_eq!(
        store.action(id(2)).unwrap(),
        Some(action(2, State::Completed, Some(session.id), "hello"))
    );
    assert_eq!(
        crate::support::open_actions(&store),
        [action(3, State::WaitingApproval, None, "wait")]
    );
    assert_eq!(
        store
            .sessions((Some(1000), true), &paw_store::Page::newest(5))
            .unwrap()
            .records,
        std::slice::from_ref(&session)
    );
    assert_eq!(
        store.turns(session.id, 0, 5).unwrap(),
        [
            crate::support::turn(session.id, 0),
            crate::support::turn(session.id, 1)
        ]
    );
}

/// Run it once for a new version, by hand, with the name of the new fixture.
#[test]
#[ignore = "writes the fixture named by PAW_STORE_FIXTURE; not a test"]
fn write_fixture() {
    let path = std::env::var("PAW_STORE_FIXTURE").unwrap();
    let store = crate::support::try_open(path.as_ref(), OpenOptions::new("0.1.0")).unwrap();
    let session = crate::support::session(1, 1000);
    let mut batch = paw_store::Batch::new();
    batch.put_session(&session).unwrap();
    batch
        .put_action(&action(2, State::Completed, Some(session.id), "hello"))
        .unwrap();
    batch
        .put_action(&action(3, State::WaitingApproval, None, "wait"))
        .unwrap();
    batch
        .append_turn(&crate::support::turn(session.id, 0))
        .unwrap();
    batch
        .append_turn(&crate::support::turn(session.id, 1))
        .unwrap();
    store.commit(&batch).unwrap();
}
