//! What a note that returned is worth: it outlives the process, is seen by whoever reads, and is there once.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use paw_policy::{State, Taint, TaintSet};
use paw_store::{
    Account, ActionFilter, Batch, OpenOptions, Page, SessionRecord, Store, StoreError, Sum,
    TurnRecord,
};

use crate::support::{action, apart, id, open, session, turn};

const PATH: &str = "PAW_STORE_TEST_PATH";
const FIRST: &str = "PAW_STORE_TEST_FIRST";

fn account() -> Account {
    Account {
        budget: "b".into(),
        since_ms: 0,
        of: String::new(),
    }
}

/// An action that begins, in a conversation that it opens.
fn begins(n: u64) -> Batch {
    let mut batch = Batch::new();
    batch.put_session(&session(n, 1)).unwrap();
    let begun = action(n, State::Executing, Some(id(n)), "half");
    batch.put_action(&begun).unwrap();
    batch
}

/// Its end: what was said, and what it spent.
fn ends(n: u64) -> Batch {
    let mut batch = Batch::new();
    batch
        .put_action(&action(n, State::Completed, Some(id(n)), "half"))
        .unwrap();
    batch
        .say(id(n), vec![turn(id(n), 0), turn(id(n), 1)])
        .unwrap();
    let sum = Sum { cost: 1, tokens: n };
    batch.add_spent(&account(), sum).unwrap();
    batch
}

/// Says again what an action is.
fn kept(n: u64) -> Batch {
    let mut batch = Batch::new();
    batch
        .put_action(&action(n, State::Completed, Some(id(n)), "half"))
        .unwrap();
    batch
}

fn said(n: u64) -> Vec<TurnRecord> {
    vec![turn(id(n), 0), turn(id(n), 1)]
}

fn state(store: &Store, n: u64) -> Option<State> {
    store.action(id(n)).unwrap().map(|action| action.state)
}

#[test]
fn notes_are_read_like_what_is_committed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = open(&path);
    store.commit(&begins(1)).unwrap();
    store.note(begins(2)).unwrap();
    assert_eq!(state(&store, 2), Some(State::Executing));
    store.note(ends(1)).unwrap();
    store.note(ends(2)).unwrap();
    for n in [1, 2] {
        assert_eq!(state(&store, n), Some(State::Completed));
        assert_eq!(store.turns(id(n), 0, 10).unwrap(), said(n));
        let held: SessionRecord = store.session(id(n)).unwrap().unwrap();
        assert_eq!(held.turns, 2);
    }
    let counts = store.counts().unwrap();
    assert_eq!((counts.actions, counts.executing), (2, 0));
    assert_eq!(store.spent_in("b", 0, 9).unwrap()[0].1.tokens, 3);
    let one = |state| {
        let filter = ActionFilter {
            states: vec![state],
            ..ActionFilter::default()
        };
        let listed = store.actions(&filter, &Page::newest(10)).unwrap();
        listed.records.len()
    };
    assert_eq!((one(State::Executing), one(State::Completed)), (0, 2));
    store.settle().unwrap();
    drop(store);
    assert_eq!(Store::verify(&path).unwrap().counts.actions, 2);
}

#[test]
fn what_is_said_takes_the_next_places_and_its_taint_stays() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.redb"));
    store.note(begins(1)).unwrap();
    store.note(ends(1)).unwrap();
    let mut batch = Batch::new();
    let tainted = TurnRecord {
        taint: TaintSet::of(Taint::Web),
        at_ms: 77,
        ..turn(id(1), 9)
    };
    batch.say(id(1), vec![tainted]).unwrap();
    // Of a conversation that is not there nothing is kept, and nothing else of the batch is lost.
    batch.say(id(5), vec![turn(id(5), 0)]).unwrap();
    batch
        .put_action(&action(2, State::Completed, None, "x"))
        .unwrap();
    store.note(batch).unwrap();
    let turns = store.turns(id(1), 0, 10).unwrap();
    let places: Vec<u64> = turns.iter().map(|turn| turn.seq).collect();
    assert_eq!(places, [0, 1, 2]);
    let held = store.session(id(1)).unwrap().unwrap();
    assert_eq!((held.turns, held.updated_ms), (3, 77));
    assert!(held.taint.is_untrusted());
    assert_eq!(store.turns(id(5), 0, 10).unwrap(), []);
    assert_eq!(state(&store, 2), Some(State::Completed));
}

/// A commit after notes has them before it, and makes them durable: nothing of them is needed beside the store any more.
#[test]
fn commit_makes_durable_what_was_noted_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = open(&path);
    store.note(begins(1)).unwrap();
    let mut batch = Batch::new();
    batch.append_turn(&turn(id(1), 0)).unwrap();
    store.commit(&batch).unwrap();
    let other = directory.path().join("other.redb");
    fs::copy(&path, &other).unwrap();
    let copy = Store::open(&other, OpenOptions::new("1.2.3")).unwrap();
    assert_eq!(state(&copy, 1), Some(State::Executing));
    assert_eq!(copy.turns(id(1), 0, 10).unwrap().len(), 1);
}

#[test]
fn notes_beside_a_copy_that_took_the_place_of_the_store_are_not_taken_for_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let copy = directory.path().join("copy.redb");
    let store = open(&path);
    store.note(begins(1)).unwrap();
    store.backup(&copy).unwrap();
    store.note(begins(2)).unwrap();
    store.sync().unwrap();
    // As after a kill: the files are as they are at this moment.
    let notes: Vec<_> = ["notes-a", "notes-b"]
        .map(|name| path.with_extension(format!("redb.{name}")))
        .into_iter()
        .map(|name| (fs::read(&name).unwrap(), name))
        .collect();
    drop(store);
    for (bytes, name) in &notes {
        fs::write(name, bytes).unwrap();
    }
    fs::copy(&copy, &path).unwrap();
    let restored = open(&path);
    assert_eq!(state(&restored, 1), Some(State::Executing));
    assert_eq!(state(&restored, 2), None, "it came after the copy");
}

#[test]
fn damaged_head_of_the_notes_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = open(&path);
    store.note(begins(1)).unwrap();
    let name = path.with_extension("redb.notes-a");
    let mut bytes = fs::read(&name).unwrap();
    drop(store);
    bytes[30] ^= 1;
    fs::write(&name, &bytes).unwrap();
    let error = crate::support::try_open(&path, OpenOptions::new("1.2.3"))
        .err()
        .unwrap();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

/// More than both files beside the store hold: what does not fit is committed, and the place of what is in the store is used again.
#[test]
fn notes_beyond_their_room_are_kept_like_all_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = open(&path);
    let text = "x".repeat(100_000);
    for n in 1..=400 {
        let mut batch = Batch::new();
        batch
            .put_action(&action(n, State::Completed, None, &text))
            .unwrap();
        store.note(batch).unwrap();
    }
    let size = |name: &str| {
        let about = fs::metadata(path.with_extension(format!("redb.{name}")));
        about.unwrap().len()
    };
    assert!(size("notes-a") <= 8 << 20 && size("notes-b") <= 8 << 20);
    assert_eq!(store.counts().unwrap().actions, 400);
    drop(store);
    assert_eq!(Store::verify(&path).unwrap().counts.actions, 400);
}

/// Notes for ever and says each number after its note; the other half of the test below.
#[test]
#[ignore = "runs only as the child of killed_writer_loses_no_note"]
fn child_that_notes_until_it_is_killed() {
    let Ok(path) = std::env::var(PATH) else {
        return;
    };
    let store = open(path.as_ref());
    for n in std::env::var(FIRST).unwrap().parse::<u64>().unwrap().. {
        store.note(begins(n)).unwrap();
        store.note(ends(n)).unwrap();
        println!("\nack {n}");
        // All ways by which a note becomes more than that, each at its own pace.
        match n % 29 {
            3 | 17 => store.sync().unwrap(),
            7 => store.apply().unwrap(),
            11 => assert_eq!(state(&store, n), Some(State::Completed)),
            13 => store.settle().unwrap(),
            19 => store.commit(&kept(n)).unwrap(),
            _ => {}
        }
    }
}

#[test]
fn killed_writer_loses_no_note() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    drop(open(&path));
    let mut next = 1;
    for round in 0..60_u64 {
        let last = killed_after(&path, next, round);
        if round % 3 == 0 {
            // Whoever only looks sees them, too, and changes nothing.
            assert!(Store::verify(&path).unwrap().counts.actions >= last);
        }
        let store = Store::open(&path, crate::support::options()).unwrap();
        for n in next..=last {
            assert_eq!(
                (state(&store, n), store.turns(id(n), 0, 10).unwrap()),
                (Some(State::Completed), said(n)),
                "round {round}: what was noted of {n} is lost"
            );
        }
        // One more may have begun, or ended, and not been said.
        let more = match state(&store, last + 1) {
            None => 0,
            Some(State::Executing) => {
                store.note(ends(last + 1)).unwrap();
                1
            }
            Some(_) => 1,
        };
        assert_eq!(
            store.turns(id(last + 1), 0, 10).unwrap().len() as u64,
            2 * more
        );
        let spent = store.spent_in("b", 0, 9).unwrap()[0].1.cost;
        let actions = store.counts().unwrap().actions;
        assert_eq!(
            (actions, spent),
            (last + more, last + more),
            "round {round}: each is there once, and counted once"
        );
        next = last + more + 1;
        drop(store);
        Store::verify(&path).unwrap();
    }
    eprintln!("60 kills, {} actions", next - 1);
}

/// Lets a child note from this number on, and kills it at some moment; the last number it said.
fn killed_after(path: &Path, first: u64, round: u64) -> u64 {
    let mut child = apart(|| {
        Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                "notes::child_that_notes_until_it_is_killed",
            ])
            .env(PATH, path)
            .env(FIRST, first.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
    })
    .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acks = lines.map_while(Result::ok).filter_map(|line| {
        line.strip_prefix("ack ")
            .and_then(|n| n.parse::<u64>().ok())
    });
    let last = acks
        .by_ref()
        .nth((round % 41) as usize)
        .expect("the child notes");
    // A different moment of what comes next in each round.
    for _ in 0..(round * 7919) % 40_000 {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    acks.last().unwrap_or(last)
}
