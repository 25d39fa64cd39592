//! Pages, filters and indexes, compared with a plain list.

use std::collections::BTreeMap;

use paw_policy::State;
use paw_store::{Account, ActionFilter, ActionRecord, Batch, Counts, Page, Store, StoreError, Sum};
use proptest::prelude::*;
use uuid::Uuid;

use crate::support::{action, id, open, put, session, turn};

const STATES: [State; 10] = [
    State::Queued,
    State::WaitingApproval,
    State::Approved,
    State::Executing,
    State::Completed,
    State::Failed,
    State::Rejected,
    State::Expired,
    State::Cancelled,
    State::TimedOut,
];

#[derive(Debug, Clone)]
enum Step {
    Action {
        n: u64,
        state: usize,
        session: Option<u64>,
        parent: Option<u64>,
    },
    Session {
        n: u64,
        owner: u32,
    },
    Turn {
        n: u64,
    },
    Delete {
        n: u64,
    },
    Prune {
        keep: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..30_u64, 0..STATES.len(), proptest::option::of(1..6_u64), proptest::option::of(1..30_u64)).prop_map(|(n, state, session, parent)| Step::Action { n, state, session, parent }),
        2 => (1..6_u64, 0..3_u32).prop_map(|(n, owner)| Step::Session { n, owner }),
        3 => (1..6_u64).prop_map(|n| Step::Turn { n }),
        1 => (1..6_u64).prop_map(|n| Step::Delete { n }),
        1 => (0..10_u64).prop_map(|keep| Step::Prune { keep }),
    ]
}

/// What the store should hold.
#[derive(Default)]
struct Model {
    actions: BTreeMap<Uuid, ActionRecord>,
    sessions: BTreeMap<Uuid, u32>,
    turns: BTreeMap<Uuid, u64>,
}

impl Model {
    fn listed(&self, wanted: impl Fn(&ActionRecord) -> bool) -> Vec<ActionRecord> {
        self.actions
            .values()
            .rev()
            .filter(|action| wanted(action))
            .cloned()
            .collect()
    }

    fn prune(&mut self, keep: usize) -> usize {
        let finished = || {
            let all = self.actions.values();
            all.filter(|action| action.state.is_final())
        };
        let surplus = finished().count().saturating_sub(keep);
        // Who asked for it may want to know what came of it.
        let wanted = |action: &&ActionRecord| {
            let parent = action.parent.and_then(|id| self.actions.get(&id));
            parent.is_some_and(|parent| !parent.state.is_final())
        };
        let victims: Vec<Uuid> = finished()
            .filter(|action| !wanted(action))
            .map(|action| action.id)
            .take(surplus)
            .collect();
        for id in &victims {
            self.actions.remove(id);
        }
        victims.len()
    }
}

fn all(store: &Store, filter: &ActionFilter, limit: usize) -> Vec<ActionRecord> {
    let mut found = Vec::new();
    let mut page = Page::newest(limit);
    loop {
        let listed = store.actions(filter, &page).unwrap();
        found.extend(listed.records);
        match listed.next {
            Some(next) => page.before = Some(next),
            None => return found,
        }
    }
}

fn compare(store: &Store, model: &Model) {
    assert_eq!(
        all(store, &ActionFilter::default(), 3),
        model.listed(|_| true)
    );
    for state in STATES {
        let filter = ActionFilter {
            states: vec![state],
            ..Default::default()
        };
        assert_eq!(
            all(store, &filter, 2),
            model.listed(|action| action.state == state),
            "{state}"
        );
    }
    for n in 1..6 {
        let filter = ActionFilter {
            session: Some(id(n)),
            ..Default::default()
        };
        let name = id(n).to_string();
        assert_eq!(
            all(store, &filter, 2),
            model.listed(|action| action.plan.session.as_ref() == Some(&name)),
            "session {n}"
        );
        let turns = store.turns(id(n), 0, 1000).unwrap();
        assert_eq!(
            turns.len() as u64,
            model.turns.get(&id(n)).copied().unwrap_or(0)
        );
    }
    let mut open = model.listed(|action| !action.state.is_final());
    open.reverse();
    assert_eq!(crate::support::open_actions(store), open);
    for owner in 0..3 {
        let found: Vec<Uuid> = store
            .sessions((Some(owner), true), &Page::newest(100))
            .unwrap()
            .records
            .iter()
            .map(|s| s.id)
            .collect();
        let expected: Vec<Uuid> = model
            .sessions
            .iter()
            .rev()
            .filter(|(_, of)| **of == owner)
            .map(|(id, _)| *id)
            .collect();
        assert_eq!(found, expected, "owner {owner}");
    }
    let counted = |state| model.listed(|action| action.state == state).len() as u64;
    let counts = store.counts().unwrap();
    assert_eq!(
        counts,
        Counts {
            actions: model.actions.len() as u64,
            queued: counted(State::Queued),
            waiting_approval: counted(State::WaitingApproval),
            approved: counted(State::Approved),
            executing: counted(State::Executing),
            sessions: model.sessions.len() as u64,
            turns: model.turns.values().sum(),
            generation: counts.generation,
        }
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn indexes_agree_with_a_plain_list(batches in proptest::collection::vec(proptest::collection::vec(step(), 1..12), 1..8)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let store = open(&path);
        let mut model = Model::default();
        let mut noted = false;
        for steps in batches {
            let mut batch = Batch::new();
            for step in steps {
                match step {
                    Step::Action { n, state, session, parent } => {
                        let mut record = action(n, STATES[state], session.map(id), "x");
                        record.parent = parent.map(id);
                        batch.put_action(&record).unwrap();
                        model.actions.insert(id(n), record);
                    }
                    Step::Session { n, owner } => {
                        batch.put_session(&session(n, owner)).unwrap();
                        model.sessions.insert(id(n), owner);
                    }
                    Step::Turn { n } if model.sessions.contains_key(&id(n)) => {
                        let next = model.turns.entry(id(n)).or_default();
                        if noted {
                            batch.append_turn(&turn(id(n), *next)).unwrap();
                        } else {
                            batch.say(id(n), vec![turn(id(n), *next)]).unwrap();
                        }
                        *next += 1;
                    }
                    Step::Turn { .. } => (),
                    Step::Delete { n } => {
                        batch.delete_session(id(n)).unwrap();
                        model.sessions.remove(&id(n));
                        model.turns.remove(&id(n));
                    }
                    Step::Prune { keep } => {
                        store.commit(&std::mem::take(&mut batch)).unwrap();
                        prop_assert_eq!(store.prune(keep).unwrap(), model.prune(keep as usize));
                    }
                }
            }
            // Noted or committed, nobody who reads sees a difference; and it is looked at only now and then, so that notes wait.
            noted = !noted;
            if noted {
                store.note(batch).unwrap();
                continue;
            }
            store.commit(&batch).unwrap();
            compare(&store, &model);
        }
        compare(&store, &model);
        drop(store);
        Store::verify(&path).unwrap();
        compare(&open(&path), &model);
    }
}

#[test]
fn refused_change_leaves_nothing_of_its_batch() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.redb"));
    let check = |what: &str, fill: &dyn Fn(&mut Batch)| {
        let mut batch = Batch::new();
        batch
            .put_action(&action(1, State::Queued, None, "x"))
            .unwrap();
        batch.put_session(&session(1, 1)).unwrap();
        fill(&mut batch);
        assert!(
            matches!(store.commit(&batch), Err(StoreError::Refused { .. })),
            "{what}"
        );
        let counts = store.counts().unwrap();
        assert_eq!(
            (counts.actions, counts.sessions, counts.turns),
            (0, 0, 0),
            "{what}"
        );
    };
    check("a turn of no session", &|batch| {
        batch.append_turn(&turn(id(2), 0)).unwrap();
    });
    check("a turn left out", &|batch| {
        batch.append_turn(&turn(id(1), 1)).unwrap();
    });
    check("a turn twice", &|batch| {
        batch.append_turn(&turn(id(1), 0)).unwrap();
        batch.append_turn(&turn(id(1), 0)).unwrap();
    });
}

#[test]
fn record_that_cannot_be_found_again_is_refused() {
    let mut batch = Batch::new();
    let mut random = action(1, State::Queued, None, "x");
    random.id = Uuid::from_u128(5);
    assert!(matches!(
        batch.put_action(&random),
        Err(StoreError::Refused { .. })
    ));
    let mut elsewhere = action(1, State::Queued, None, "x");
    elsewhere.plan.session = Some("not an id".to_owned());
    assert!(matches!(
        batch.put_action(&elsewhere),
        Err(StoreError::Refused { .. })
    ));
    let mut long = action(1, State::Queued, None, "x");
    long.result = Some("x".repeat(paw_store::MAX_RECORD).into());
    assert!(matches!(
        batch.put_action(&long),
        Err(StoreError::Refused { .. })
    ));
    assert!(batch.is_empty());
}

#[test]
fn page_lies_between_its_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.redb"));
    for n in 1..=9 {
        put(&store, &action(n, State::Completed, None, "x"));
    }
    let check = |before: Option<u64>,
                 after: Option<u64>,
                 limit: usize,
                 expected: &[u64],
                 next: Option<u64>| {
        let page = Page {
            before: before.map(id),
            after: after.map(id),
            limit,
        };
        let listed = store.actions(&ActionFilter::default(), &page).unwrap();
        let found: Vec<u64> = listed
            .records
            .iter()
            .map(|action| action.created_ms)
            .collect();
        assert_eq!(
            (found.as_slice(), listed.next),
            (expected, next.map(id)),
            "{before:?} {after:?} {limit}"
        );
    };
    check(None, None, 3, &[9, 8, 7], Some(7));
    check(Some(7), None, 3, &[6, 5, 4], Some(4));
    check(Some(4), None, 3, &[3, 2, 1], None);
    check(None, Some(7), 10, &[9, 8], None);
    check(Some(5), Some(2), 10, &[4, 3], None);
    check(Some(3), Some(2), 10, &[], None);
    check(Some(2), Some(8), 10, &[], None);
    check(None, None, 0, &[], None);
}

#[test]
fn what_is_spent_adds_up_and_former_times_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let account = |since_ms, of: &str| Account {
        budget: "daily".into(),
        since_ms,
        of: of.into(),
    };
    let other = Account {
        budget: "dailz".into(),
        ..account(1_000, "")
    };
    let sum = Sum { cost: 3, tokens: 5 };
    let store = open(&path);
    let spent = |store: &Store, account: &Account| store.spent(&[account]).unwrap()[0];
    assert_eq!(spent(&store, &account(1_000, "")), Sum::default());
    assert!(store.spent_in("daily", 1_000, 9).unwrap().is_empty());
    for _ in 0..2 {
        let mut batch = Batch::new();
        batch.add_spent(&account(1_000, "user=1"), sum).unwrap();
        batch.add_spent(&account(2_000, ""), sum).unwrap();
        batch.add_spent(&other, sum).unwrap();
        store.commit(&batch).unwrap();
    }
    drop(store);
    let store = open(&path);
    let twice = Sum {
        cost: 6,
        tokens: 10,
    };
    assert_eq!(
        store.spent_in("daily", 1_000, 9).unwrap(),
        [("user=1".to_owned(), twice)],
        "of this time and this budget alone"
    );
    let mut batch = Batch::new();
    batch.forget_spent("daily", 2_000).unwrap();
    store.commit(&batch).unwrap();
    assert!(store.spent_in("daily", 1_000, 9).unwrap().is_empty());
    assert_eq!(spent(&store, &account(2_000, "")), twice);
    assert_eq!(spent(&store, &other), twice);
}
