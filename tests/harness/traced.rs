//! A process whose system calls are seen, and which can be held before one of them.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, geteuid},
};
use tokio::sync::watch;

use crate::{
    Root, pawd,
    root::{gid, uid},
    stage, within,
};

/// No call has this number.
const NONE: i64 = -1;

/// Waits where it can be found, and becomes the program.
const SCRIPT: &str = "kill -STOP $$; exec \"$@\"";

/// One system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Which.
    pub number: i64,
    /// Its first argument.
    pub first: u64,
    /// When it began.
    pub began: Instant,
    /// What it returned, once it has.
    pub returned: Option<i64>,
}

/// A program that runs under our eyes. It has one thread, or the others are not seen. It is killed when this is dropped.
pub struct Traced {
    pid: Pid,
    seen: Arc<Mutex<Vec<Call>>>,
    /// How many calls were seen, and how often it was held.
    news: watch::Receiver<(usize, usize)>,
    hold: Arc<AtomicI64>,
    go_on: mpsc::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Traced {
    /// The real audit writer of a root, as [`pawd::start_audit`] starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn audit(root: &Root) -> Self {
        let command = Self::command(&stage::program("paw-audit"));
        let mut command = pawd::audit_command(root, command);
        if geteuid().is_root() {
            command.uid(uid()).gid(gid());
        }
        Self::start(command)
    }

    /// What becomes the program once it is traced; further arguments are the program's.
    #[must_use]
    pub fn command(program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(program);
        command
    }

    /// Starts what [`Traced::command`] began.
    ///
    /// # Panics
    /// When it cannot be started or traced.
    #[must_use]
    #[expect(
        clippy::zombie_processes,
        reason = "whoever traces a child waits for it by its id, as is done here to its end"
    )]
    pub fn start(mut command: Command) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let hold = Arc::new(AtomicI64::new(NONE));
        let (tell, news) = watch::channel((0, 0));
        let (go_on, goes_on) = mpsc::channel();
        let (began, begins) = mpsc::channel();
        let eyes = Eyes {
            seen: Arc::clone(&seen),
            hold: Arc::clone(&hold),
            tell,
            goes_on,
        };
        // Whoever traces a process is one thread.
        let thread = thread::spawn(move || {
            let child = command.spawn().expect("sh starts");
            let pid = Pid::from_raw(i32::try_from(child.id()).expect("process ids are small"));
            waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("it is our child");
            let options =
                ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
            ptrace::seize(pid, options).expect("it is our child");
            kill(pid, Signal::SIGCONT).expect("it waits for that");
            let _ = began.send(pid);
            eyes.look(pid);
        });
        let pid = begins.recv().expect("it was started");
        Self {
            pid,
            seen,
            news,
            hold,
            go_on,
            thread: Some(thread),
        }
    }

    /// Every call so far, in order.
    ///
    /// # Panics
    /// Never; the lock is a leaf.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.seen.lock().expect("nobody panics with it").clone()
    }

    /// Waits until what it has called is as wanted.
    ///
    /// # Panics
    /// When it does not become so in time.
    pub async fn until(&self, what: &str, wanted: impl Fn(&[Call]) -> bool) {
        let mut news = self.news.clone();
        within(what, async {
            while !wanted(&self.calls()) {
                news.changed().await.expect("it runs");
            }
        })
        .await;
    }

    /// From now on it stands still before each call of this number, until [`Traced::go_on`].
    pub fn hold(&self, number: i64) {
        self.hold.store(number, Ordering::SeqCst);
    }

    /// It stands still before nothing more. One that does already still has to be told to go on.
    pub fn hold_no_more(&self) {
        self.hold.store(NONE, Ordering::SeqCst);
    }

    /// Waits until it was held so often, from the beginning.
    ///
    /// # Panics
    /// When it is not in time.
    pub async fn was_held(&self, times: usize) {
        let mut news = self.news.clone();
        let held = news.wait_for(|(_, held)| *held >= times);
        within("a call that is held", held).await.expect("it runs");
    }

    /// It is killed before the call that it stands before.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn kill(self) {
        kill(self.pid, Signal::SIGKILL).expect("it stands still");
    }

    /// Waits until it ends by itself; every call that it made.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(mut self) -> Vec<Call> {
        let thread = self.thread.take().expect("it was started");
        let ended = tokio::task::spawn_blocking(|| thread.join());
        within("the end of what is traced", ended)
            .await
            .expect("nothing panics")
            .expect("nothing panics");
        self.calls()
    }

    /// It goes on with the call that it stands before.
    pub fn go_on(&self) {
        // One that has ended needs nothing.
        let _ = self.go_on.send(());
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.hold_no_more();
        self.go_on();
        // It is reaped by the thread, which has not ended yet, or both are gone.
        if self.thread.as_ref().is_some_and(|it| !it.is_finished()) {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What the thread has that traces.
struct Eyes {
    seen: Arc<Mutex<Vec<Call>>>,
    hold: Arc<AtomicI64>,
    tell: watch::Sender<(usize, usize)>,
    goes_on: mpsc::Receiver<()>,
}

impl Eyes {
    /// Looks until the end of the process.
    fn look(&self, pid: Pid) {
        let mut inside = false;
        loop {
            let Ok(status) = waitpid(pid, None) else {
                return;
            };
            let deliver = match status {
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return,
                WaitStatus::PtraceSyscall(_) => {
                    self.stopped(pid, inside);
                    inside = !inside;
                    None
                }
                WaitStatus::Stopped(_, signal) => Some(signal),
                _ => None,
            };
            if ptrace::syscall(pid, deliver).is_err() {
                // Killed meanwhile; its end comes next.
                continue;
            }
        }
    }

    fn stopped(&self, pid: Pid, inside: bool) {
        let Some((number, first, returned)) = registers(pid) else {
            return;
        };
        let mut seen = self.seen.lock().expect("nobody panics with it");
        if inside {
            if let Some(last) = seen.last_mut() {
                last.returned = Some(returned);
            }
            return;
        }
        seen.push(Call {
            number,
            first,
            began: Instant::now(),
            returned: None,
        });
        drop(seen);
        let held = self.hold.load(Ordering::SeqCst) == number;
        self.tell.send_modify(|(calls, holds)| {
            *calls += 1;
            *holds += usize::from(held);
        });
        if held {
            // Nobody who could say so is left: it goes on, to its end.
            let _ = self.goes_on.recv();
        }
    }
}

/// Number, first argument and result of the call that a process is stopped at.
#[cfg(target_arch = "x86_64")]
fn registers(pid: Pid) -> Option<(i64, u64, i64)> {
    let registers = ptrace::getregs(pid).ok()?;
    Some((
        registers.orig_rax.cast_signed(),
        registers.rdi,
        registers.rax.cast_signed(),
    ))
}

/// Number, first argument and result of the call that a process is stopped at.
#[cfg(target_arch = "aarch64")]
fn registers(pid: Pid) -> Option<(i64, u64, i64)> {
    let registers = ptrace::getregs(pid).ok()?;
    let [first, ..] = registers.regs;
    Some((registers.regs[8].cast_signed(), first, first.cast_signed()))
}
