//! Killed at any system call, the workspace is as before or as after, and the next order finds nothing left behind.
//!
//! The victim is this program again: it carries out one order, and is stopped at each of its calls in turn and killed there.
#![allow(
    clippy::unwrap_used,
    reason = "these are tests, which the linter cannot know of a runner of our own"
)]

mod rig;

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{ChildStdin, Command, ExitCode, Stdio},
};

use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use paw_launch::workspace::{Answer, Order, Task};
use paw_workspace::serve::serve;

use crate::rig::{Rig, id, whiteout};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, root, left] = arguments.as_slice()
        && first == "victim"
    {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).unwrap();
        let task: Task = serde_json::from_str(&text).unwrap();
        let answer = serve(&task, Path::new(root), Some(Path::new(left)));
        return ExitCode::from(u8::from(matches!(answer, Answer::Refused(_))));
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let tests: [(&str, fn()); 4] = [
        ("commit_killed_anywhere_is_done_or_not_begun", commit),
        (
            "commit_at_the_end_of_a_run_killed_anywhere_is_done_or_not_begun",
            at_once,
        ),
        ("undo_killed_anywhere_is_done_or_not_begun", undo),
        (
            "collecting_killed_anywhere_leaves_a_whole_layer_or_none",
            collect,
        ),
    ];
    let mut out = std::io::stdout();
    for (name, test) in tests {
        if filter.is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        if let Some(why) = obstacle() {
            writeln!(out, "test {name} ... skipped: {why}").unwrap();
            continue;
        }
        test();
        writeln!(out, "test {name} ... ok").unwrap();
    }
    ExitCode::SUCCESS
}

/// Whether processes may be traced here.
fn obstacle() -> Option<String> {
    let rig = Rig::in_memory(&[]);
    let task = rig.task(Order::List);
    match killed_at(&rig, &rig.upper(), &task, 1) {
        Ok(_) => None,
        Err(errno) => Some(format!("a child cannot be traced: {errno}")),
    }
}

/// Runs an order and kills it at its call with this number. `false`: it ended before.
fn killed_at(rig: &Rig, left: &Path, task: &Task, call: usize) -> Result<bool, nix::Error> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("victim")
        .args([rig.root(), left.to_owned()])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let traced = trace(child.stdin.take().unwrap(), pid, task, call);
    // Reaped already, or never stopped.
    let _ = child.kill();
    let _ = child.wait();
    traced
}

fn trace(mut stdin: ChildStdin, pid: Pid, task: &Task, call: usize) -> Result<bool, nix::Error> {
    ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD)?;
    ptrace::interrupt(pid)?;
    waitpid(pid, None)?;
    // It waits for its order, or will.
    stdin.write_all(&serde_json::to_vec(task).unwrap()).unwrap();
    drop(stdin);
    let mut stops = 0;
    loop {
        ptrace::syscall(pid, None)?;
        match waitpid(pid, None)? {
            WaitStatus::PtraceSyscall(_) => {
                stops += 1;
                // Each call stops twice, before it and after it.
                if stops == 2 * call {
                    kill(pid, Signal::SIGKILL)?;
                    while !matches!(waitpid(pid, None)?, WaitStatus::Signaled(..)) {}
                    return Ok(true);
                }
            }
            WaitStatus::Exited(_, code) => {
                assert_eq!(code, 0, "the order was refused");
                return Ok(false);
            }
            _ => {}
        }
    }
}

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

fn commit() {
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

fn at_once() {
    let prepare = || {
        let rig = Rig::in_memory(&BEFORE);
        let left = run(&rig);
        let task = rig.task(rig.collect_order(1, true));
        (rig, left, task)
    };
    at_each_call(prepare, |_, _| {}, &states());
}

fn undo() {
    let prepare = || {
        let rig = Rig::in_memory(&BEFORE);
        let left = run(&rig);
        rig.collect(1, &left, true);
        let task = rig.task(Order::Undo { layer: id(1) });
        (rig, left, task)
    };
    at_each_call(prepare, |_, _| {}, &states());
}

fn collect() {
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
