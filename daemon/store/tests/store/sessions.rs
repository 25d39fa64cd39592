//! What is kept beside conversations, and what goes with one that is removed.

use paw_policy::{Taint, TaintSet};
use paw_store::{Batch, Page, SessionRecord, StoreError, SummaryRecord, digest_of};
use uuid::Uuid;

use crate::support::{id, open, session, turn};

fn summary(session: Uuid, until: u64, text: &str) -> SummaryRecord {
    SummaryRecord {
        session,
        until,
        digest: digest_of(None, &[turn(session, 0)]),
        text: text.into(),
        taint: TaintSet::of(Taint::Web),
        action: id(9),
        provider: "local".parse().unwrap(),
        model: "m".into(),
        local: true,
        at_ms: 7,
    }
}

fn begun_by(parent: u64, n: u64) -> SessionRecord {
    SessionRecord {
        parent: Some(id(parent)),
        ..session(n, 1000)
    }
}

#[test]
fn summary_of_more_turns_takes_the_place_of_one_of_fewer_and_goes_with_its_session() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store.redb"));
    assert_eq!(store.summary(id(1)).unwrap(), None);
    let mut batch = Batch::new();
    batch.put_session(&session(1, 1000)).unwrap();
    for (until, text) in [(4, "four"), (8, "eight"), (6, "six")] {
        batch.summarise(summary(id(1), until, text)).unwrap();
    }
    // Of a session that is not there there is nothing to be kept.
    batch.summarise(summary(id(2), 4, "none")).unwrap();
    store.commit(&batch).unwrap();
    assert_eq!(
        store.summary(id(1)).unwrap(),
        Some(summary(id(1), 8, "eight"))
    );
    assert_eq!(store.summary(id(2)).unwrap(), None);
    let mut batch = Batch::new();
    batch.delete_session(id(1)).unwrap();
    store.commit(&batch).unwrap();
    assert_eq!(store.summary(id(1)).unwrap(), None);
}

#[test]
fn name_of_turns_is_made_of_all_of_them_in_their_order() {
    let turns: Vec<_> = (0..4).map(|seq| turn(id(1), seq)).collect();
    let whole = digest_of(None, &turns);
    let half = digest_of(None, &turns[..2]);
    assert_eq!(digest_of(Some(half), &turns[2..]), whole);
    for at in 0..4 {
        let mut other = turns.clone();
        other[at].text.push('!');
        assert_ne!(digest_of(None, &other), whole);
    }
}

#[test]
fn sessions_that_agents_began_go_with_the_one_that_began_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store.redb"));
    let mut batch = Batch::new();
    batch.put_session(&session(1, 1000)).unwrap();
    for (parent, n) in [(1, 2), (2, 3), (1, 4)] {
        batch.put_session(&begun_by(parent, n)).unwrap();
        batch.append_turn(&turn(id(n), 0)).unwrap();
    }
    batch.put_session(&session(5, 1000)).unwrap();
    store.commit(&batch).unwrap();
    let listed = |all| {
        let page = store
            .sessions((Some(1000), all), &Page::newest(100))
            .unwrap();
        page.records.iter().map(|it| it.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(false), [id(5), id(1)]);
    assert_eq!(listed(true), [id(5), id(4), id(3), id(2), id(1)]);
    let mut begun = store.begun_by(id(1)).unwrap();
    begun.sort_unstable();
    assert_eq!(begun, [id(2), id(3), id(4)]);
    // One that is removed by itself is none of them any more.
    let mut batch = Batch::new();
    batch.delete_session(id(4)).unwrap();
    store.commit(&batch).unwrap();
    assert_eq!(store.begun_by(id(1)).unwrap().len(), 2);
    let mut batch = Batch::new();
    batch.forget_session(id(1), 1).unwrap();
    store.commit(&batch).unwrap();
    assert_eq!(listed(true), [id(5)]);
    assert_eq!(store.counts().unwrap().turns, 0);
    assert!(store.begun_by(id(1)).unwrap().is_empty());
}

#[test]
fn session_that_was_deleted_is_not_put_back_by_a_turn_that_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store.redb"));
    let mut step = Batch::new();
    // As a turn stores a step: what was said, then the session as it was read before.
    step.append_turn(&turn(id(1), 0)).unwrap();
    step.put_session(&session(1, 1000)).unwrap();
    let refused = store.commit(&step);
    assert!(
        matches!(refused, Err(StoreError::Refused { .. })),
        "{refused:?}"
    );
    assert_eq!(store.session(id(1)).unwrap(), None);
}
