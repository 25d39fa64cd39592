//! One started process in a guard: whatever happens, it is killed by its own process id, and its end is seen.

#![allow(
    clippy::print_stderr,
    reason = "what a process said is shown beside the test that failed"
)]

use std::{
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{Pid, geteuid},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
    sync::watch,
};

use crate::{
    root::{gid, uid},
    within,
};

/// Lines of stderr that are kept for a test that fails.
const KEPT: usize = 400;

/// A process that runs.
pub struct Running {
    name: &'static str,
    pid: Pid,
    child: Child,
    ended: Option<ExitStatus>,
    said: Said,
}

/// What a process wrote to its stderr, line by line.
#[derive(Clone)]
struct Said {
    lines: Arc<Mutex<Vec<String>>>,
    /// Counts lines; closed at the end.
    news: watch::Receiver<usize>,
}

impl Running {
    /// Starts `command` as whoever the processes of a test run as.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn unprivileged(name: &'static str, mut command: Command) -> Self {
        if geteuid().is_root() {
            command.uid(uid()).gid(gid());
        }
        Self::start(name, command)
    }

    /// Starts `command` as it is. Its stdin is empty, its stderr is kept.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(name: &'static str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let program = command.get_program().to_owned();
        let mut child = match tokio::process::Command::from(command).spawn() {
            Ok(child) => child,
            Err(error) => panic!("start {}: {error}", program.display()),
        };
        let pid = Pid::from_raw(
            i32::try_from(child.id().expect("it was not waited for"))
                .expect("process ids are small"),
        );
        let stderr = child.stderr.take().expect("it was asked for");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (tell, news) = watch::channel(0);
        let kept = Arc::clone(&lines);
        tokio::spawn(async move {
            let mut reader = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                let mut kept = kept.lock().expect("nobody panics with it");
                if kept.len() < KEPT {
                    kept.push(line);
                }
                tell.send_modify(|count| *count += 1);
            }
        });
        Self {
            name,
            pid,
            child,
            ended: None,
            said: Said { lines, news },
        }
    }

    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn signal(&self, signal: Signal) {
        assert!(self.ended.is_none(), "{} has ended", self.name);
        kill(self.pid, signal).expect("it is not reaped");
    }

    /// Kills it as the kernel would in need, unless it has died already.
    pub fn strike(&self) {
        if self.ended.is_none() {
            // It is not reaped before its end was asked for, so the number is still its own.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn end(&mut self) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        let status = within(&format!("end of {}", self.name), self.child.wait())
            .await
            .expect("it is our child");
        self.ended = Some(status);
        status
    }

    /// Kills it as the kernel would in need, and waits for its end.
    ///
    /// # Panics
    /// When something else ended it.
    pub async fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        let status = self.end().await;
        assert_eq!(
            status.signal(),
            Some(9),
            "{} ended by itself: {status}\n{}",
            self.name,
            self.stderr()
        );
    }

    /// Waits until it ends by itself; gives its exit code and everything that it wrote to stderr.
    ///
    /// # Panics
    /// When it does not end in time, or by a signal.
    pub async fn refused(&mut self) -> (i32, String) {
        let status = self.end().await;
        let mut news = self.said.news.clone();
        within("end of its stderr", async {
            while news.changed().await.is_ok() {}
        })
        .await;
        let text = self.stderr();
        (
            status
                .code()
                .unwrap_or_else(|| panic!("{} ended by a signal: {status}\n{text}", self.name)),
            text,
        )
    }

    /// Everything that it wrote to stderr so far.
    ///
    /// # Panics
    /// Never; the lock is a leaf.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.said
            .lines
            .lock()
            .expect("nobody panics with it")
            .join("\n")
    }

    /// Waits until a line of its stderr contains `text` for the `nth` time, and gives that line.
    ///
    /// # Panics
    /// When no such line comes.
    pub async fn says(&self, text: &str, nth: usize) -> String {
        let mut news = self.said.news.clone();
        within(&format!("{} says {text:?}", self.name), async {
            loop {
                news.mark_unchanged();
                let found = self
                    .said
                    .lines
                    .lock()
                    .expect("nobody panics with it")
                    .iter()
                    .filter(|line| line.contains(text))
                    .nth(nth - 1)
                    .cloned();
                if let Some(line) = found {
                    return line;
                }
                assert!(
                    news.changed().await.is_ok(),
                    "{} ended without saying {text:?}:\n{}",
                    self.name,
                    self.stderr()
                );
            }
        })
        .await
    }
}

impl Running {
    /// Kills it, if it still runs, and sees it end.
    pub fn abandon(&mut self) {
        if self.ended.is_none() && !matches!(self.child.try_wait(), Ok(Some(_))) {
            // Not reaped yet, so the number is still this process and no other.
            let _ = kill(self.pid, Signal::SIGKILL);
            // tokio may reap it first; either way it has ended.
            let _ = waitpid(self.pid, None);
            self.ended = Some(ExitStatus::from_raw(9));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.abandon();
        if thread::panicking() {
            eprintln!(
                "--- {} (pid {}) said:\n{}",
                self.name,
                self.pid,
                self.stderr()
            );
        }
    }
}
