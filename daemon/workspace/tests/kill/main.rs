//! Killed at any system call, the workspace is as before or as after, and the next order finds nothing left behind.
//!
//! The victim is this program again: it carries out one order, and is stopped at each of its calls in turn and killed there.
#![allow(
    clippy::unwrap_used,
    reason = "these are tests, which the linter cannot know of a runner of our own"
)]

mod cases;
#[path = "../rig/mod.rs"]
mod rig;

use std::{
    io::{Read as _, Write as _},
    path::Path,
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

use crate::rig::Rig;

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
    let mut out = std::io::stdout();
    for (name, test) in cases::ALL {
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
