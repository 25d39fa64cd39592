//! What a kill may leave, one claim for each order.

use std::{fs, path::PathBuf};

use paw_launch::workspace::{Answer, Order, Task};

use crate::{
    killed_at,
    rig::{Rig, id, whiteout},
};

/// Every test, by the claim it makes.
pub(crate) const ALL: [(&str, fn()); 4] = [
    (
        "commit_killed_anywhere_is_done_or_not_begun",
        commit_killed_anywhere_is_done_or_not_begun,
    ),
    (
        "commit_at_the_end_of_a_run_killed_anywhere_is_done_or_not_begun",
        commit_at_the_end_of_a_run_killed_anywhere_is_done_or_not_begun,
    ),
    (
        "undo_killed_anywhere_is_done_or_not_begun",
        undo_killed_anywhere_is_done_or_not_begun,
    ),
    (
        "collecting_killed_anywhere_leaves_a_whole_layer_or_none",
        collecting_killed_anywhere_leaves_a_whole_layer_or_none,
    ),
];

type State = Vec<(String, u32, String)>;

/// Carries out an order on a fresh rig again and again, killed one call later each time.
fn at_each_call(
    prepare: impl Fn() -> (Rig, PathBuf, Task),
    check: impl Fn(&Rig, usize),
    expected: &[State],
) {
    // Before that it is still being loaded.
    let (mut seen, mut call) = (vec![false; expected.len()], 40);
    loop {
        call += 1;
        let (rig, left, task) = prepare();
        let killed = killed_at(&rig, &left, &task, call).unwrap();
        let is = rig.state();
        let at = expected.iter().position(|state| *state == is);
        seen[at.unwrap_or_else(|| panic!("killed at call {call}: {is:?}"))] = true;
        // Whoever comes next finds a workspace that works, and nothing of what was interrupted.
        assert!(matches!(rig.order(Order::List), Answer::List(_)));
        assert_eq!(rig.state(), is);
        let count = |dir: &str| fs::read_dir(rig.root().join(dir)).unwrap().count();
        assert_eq!(count("generations"), 1, "killed at call {call}");
        let names = |dir: &str| -> Vec<String> {
            let entries = fs::read_dir(rig.root().join(dir)).unwrap();
            entries
                .map(|it| it.unwrap().file_name().into_string().unwrap())
                .collect()
        };
        assert!(!names("pending").iter().any(|name| name.starts_with('.')));
        let Answer::List(list) = rig.order(Order::List) else {
            unreachable!()
        };
        assert_eq!(
            count("history"),
            list.commits.len(),
            "killed at call {call}"
        );
        check(&rig, call);
        if !killed {
            break;
        }
    }
    assert!(call > 90, "only {call} calls: this was not the order");
    assert!(seen.iter().all(|seen| *seen), "{seen:?}");
}

const BEFORE: [(&str, &str); 4] = [("a", "1"), ("b", "1"), ("d/x", "x"), ("keep", "k")];

fn run(rig: &Rig) -> PathBuf {
    let upper = rig.upper();
    fs::write(upper.join("a"), "2").unwrap();
    whiteout(&upper.join("b"));
    whiteout(&upper.join("d"));
    fs::create_dir(upper.join("e")).unwrap();
    fs::write(upper.join("e/y"), "y").unwrap();
    upper
}

fn states() -> [State; 2] {
    let rig = Rig::in_memory(&BEFORE);
    let before = rig.state();
    let left = run(&rig);
    rig.stage(1, &left);
    rig.commit(1).unwrap();
    [before, rig.state()]
}

pub(crate) fn commit_killed_anywhere_is_done_or_not_begun() {
    let prepare = || {
        let rig = Rig::in_memory(&BEFORE);
        let left = run(&rig);
        rig.stage(1, &left);
        let digest = rig.diff(1).digest;
        let task = rig.task(Order::Commit {
            layer: id(1),
            digest,
        });
        (rig, left, task)
    };
    let [before, after] = states();
    // What was not committed is still there to be committed, and what was is not there twice.
    let check = |rig: &Rig, call| {
        let Answer::List(list) = rig.order(Order::List) else {
            unreachable!()
        };
        assert_eq!(
            list.pending.len() + list.commits.len(),
            1,
            "killed at call {call}"
        );
        if rig.state() == before {
            rig.commit(1).unwrap();
        }
        assert_eq!(rig.state(), after);
        rig.undo(1).unwrap();
        assert_eq!(rig.state(), before);
    };
    at_each_call(prepare, check, &[before.clone(), after.clone()]);
}

pub(crate) fn commit_at_the_end_of_a_run_killed_anywhere_is_done_or_not_begun() {
    let prepare = || {
        let rig = Rig::in_memory(&BEFORE);
        let left = run(&rig);
        let task = rig.task(rig.collect_order(1, true));
        (rig, left, task)
    };
    at_each_call(prepare, |_, _| {}, &states());
}

pub(crate) fn undo_killed_anywhere_is_done_or_not_begun() {
    let prepare = || {
        let rig = Rig::in_memory(&BEFORE);
        let left = run(&rig);
        rig.collect(1, &left, true);
        let task = rig.task(Order::Undo {
            layer: id(1),
            last: id(1),
        });
        (rig, left, task)
    };
    at_each_call(prepare, |_, _| {}, &states());
}

pub(crate) fn collecting_killed_anywhere_leaves_a_whole_layer_or_none() {
    let prepare = || {
        let rig = Rig::in_memory(&BEFORE);
        let left = run(&rig);
        let task = rig.task(rig.collect_order(1, false));
        (rig, left, task)
    };
    let [before, after] = states();
    let check = |rig: &Rig, _| {
        let Answer::List(list) = rig.order(Order::List) else {
            unreachable!()
        };
        if !list.pending.is_empty() {
            rig.commit(1).unwrap();
            assert_eq!(rig.state(), after);
        }
    };
    at_each_call(prepare, check, &[before]);
}
