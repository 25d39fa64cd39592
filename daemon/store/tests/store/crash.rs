//! What a commit that returned is worth.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use paw_policy::State;
use paw_store::{Batch, Store};

use crate::support::{action, id, open, session, turn};

const PATH: &str = "PAW_STORE_TEST_PATH";
const FIRST: &str = "PAW_STORE_TEST_FIRST";

/// Commits for ever and says each number after its commit; the other half of the test below.
#[test]
#[ignore = "runs only as the child of killed_writer_loses_no_acknowledged_commit"]
fn child_that_commits_until_it_is_killed() {
    let Ok(path) = std::env::var(PATH) else {
        return;
    };
    let store = open(path.as_ref());
    for n in std::env::var(FIRST).unwrap().parse::<u64>().unwrap().. {
        let mut batch = Batch::new();
        batch
            .put_action(&action(n, State::Queued, None, "first half"))
            .unwrap();
        batch.put_session(&session(n, 1)).unwrap();
        batch.append_turn(&turn(id(n), 0)).unwrap();
        store.commit(&batch).unwrap();
        println!("\nack {n}");
    }
}

#[test]
fn killed_writer_loses_no_acknowledged_commit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    drop(open(&path));
    let mut next = 1;
    let mut unacknowledged = 0;
    for round in 0..50_u64 {
        let mut child = crate::support::apart(|| {
            Command::new(std::env::current_exe().unwrap())
                .args([
                    "--ignored",
                    "--exact",
                    "--nocapture",
                    "crash::child_that_commits_until_it_is_killed",
                ])
                .env(PATH, &path)
                .env(FIRST, next.to_string())
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
        let mut last = acks
            .by_ref()
            .nth((round % 7) as usize)
            .expect("the child commits");
        // A different moment of the next commit in each round.
        for _ in 0..(round * 7919) % 40_000 {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        last = acks.last().unwrap_or(last);

        let store = Store::open(&path, crate::support::options()).unwrap();
        for n in next..=last {
            assert!(
                store.action(id(n)).unwrap().is_some(),
                "round {round}: acknowledged action {n} is lost"
            );
            assert_eq!(
                store.turns(id(n), 0, 10).unwrap(),
                [turn(id(n), 0)],
                "round {round}: turn {n}"
            );
        }
        // One more may have been committed and not said. It is there whole or not at all.
        let more = store.action(id(last + 1)).unwrap().is_some();
        assert_eq!(
            more,
            store.session(id(last + 1)).unwrap().is_some(),
            "round {round}: half a commit"
        );
        assert_eq!(
            more,
            !store.turns(id(last + 1), 0, 1).unwrap().is_empty(),
            "round {round}: half a commit"
        );
        assert_eq!(store.action(id(last + 2)).unwrap(), None);
        unacknowledged += u32::from(more);
        next = last + 1 + u64::from(more);
        assert_eq!(store.counts().unwrap().actions, next - 1);
        drop(store);
        Store::verify(&path).unwrap();
    }
    eprintln!(
        "50 kills, {} commits, {unacknowledged} committed and not said",
        next - 1
    );
}
