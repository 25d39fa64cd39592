//! One command: its three pipes, its windows, and its end.
//!
//! ```text
//! running ── reaped ──► draining ── both pipes empty, closed, or over budget ──► exited is sent, child forgotten
//! ```

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, killpg},
    unistd::{self, Pid},
};
use paw_launch::frame::{Exited, MAX_PAYLOAD, StdinTaken, Tag, WINDOW};

use crate::outbox::Outbox;

/// How much of one stream is still taken after the command's end: what fits into the largest pipe that an unprivileged
/// process may have. Whatever comes beyond it is a grandchild's, which may write for ever.
const LAST_WORDS: usize = 1024 * 1024;

/// A command that was started.
pub(crate) struct Child {
    /// Its process id and that of its group, inside.
    pub(crate) pid: Pid,
    pub(crate) stdin: Input,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    /// How it ended, once it was reaped.
    end: Option<Exited>,
}

impl Child {
    /// Takes the pipes of a process that was started with three of them.
    pub(crate) fn new(mut process: process::Child) -> Result<Self, Errno> {
        let stdin = process.stdin.take().map(OwnedFd::from);
        let stdout = process.stdout.take().map(OwnedFd::from);
        let stderr = process.stderr.take().map(OwnedFd::from);
        for pipe in [&stdin, &stdout, &stderr].into_iter().flatten() {
            set_nonblocking(pipe.as_fd())?;
        }
        let pid =
            Pid::from_raw(i32::try_from(process.id()).expect("process ids are positive and fit"));
        Ok(Self {
            pid,
            stdin: Input {
                pipe: stdin,
                waiting: VecDeque::new(),
                ended: false,
            },
            stdout: Output {
                pipe: stdout,
                tag: Tag::Stdout,
                window: WINDOW,
                last_words: None,
            },
            stderr: Output {
                pipe: stderr,
                tag: Tag::Stderr,
                window: WINDOW,
                last_words: None,
            },
            end: None,
        })
    }

    /// Sends a signal to its process group, which may outlive it.
    pub(crate) fn signal(&self, signal: Signal) {
        // A group that is gone needs no signal.
        let _ = killpg(self.pid, signal);
    }

    /// It was reaped; what is in its pipes now is all that counts.
    pub(crate) fn ended(&mut self, end: Exited) {
        self.end = Some(end);
        self.stdin.close();
        self.stdout.last_words = Some(LAST_WORDS);
        self.stderr.last_words = Some(LAST_WORDS);
    }

    /// Takes its last words as far as the windows allow; its end, when there are no more of them.
    pub(crate) fn settle(
        &mut self,
        number: u32,
        outbox: &mut Outbox,
        scratch: &mut [u8],
    ) -> Option<Exited> {
        let end = self.end?;
        for output in [&mut self.stdout, &mut self.stderr] {
            while output.is_wanted() && outbox.has_room() {
                output.relay(number, outbox, scratch);
            }
        }
        (self.stdout.pipe.is_none() && self.stderr.pipe.is_none()).then_some(end)
    }

    /// Whether it was reaped already.
    pub(crate) fn is_draining(&self) -> bool {
        self.end.is_some()
    }
}

/// One stream from a command to the outside.
pub(crate) struct Output {
    pipe: Option<OwnedFd>,
    tag: Tag,
    window: usize,
    last_words: Option<usize>,
}

impl Output {
    /// Whether it is open and the outside has room for more of it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.pipe.is_some() && self.window > 0
    }

    /// The read end, while it is open.
    pub(crate) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// The outside took some of it. More than was sent is not believed.
    pub(crate) fn credit(&mut self, taken: u32) {
        self.window = WINDOW.min(self.window.saturating_add(taken as usize));
    }

    /// Reads once and passes on what came, at most one frame.
    pub(crate) fn relay(&mut self, number: u32, outbox: &mut Outbox, scratch: &mut [u8]) {
        let Some(pipe) = &self.pipe else { return };
        let most = self
            .window
            .min(MAX_PAYLOAD)
            .min(self.last_words.unwrap_or(MAX_PAYLOAD))
            .min(scratch.len());
        match unistd::read(pipe, &mut scratch[..most]) {
            Ok(0) => self.pipe = None,
            Ok(read) => {
                self.window -= read;
                outbox.data(self.tag, number, &scratch[..read]);
                if let Some(left) = &mut self.last_words {
                    *left -= read;
                    if *left == 0 {
                        self.pipe = None;
                    }
                }
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if self.last_words.is_none() => {}
            Err(_) => self.pipe = None,
        }
    }
}

/// The outside sent more for a command's stdin than its window allows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

/// The stream from the outside to a command.
pub(crate) struct Input {
    pipe: Option<OwnedFd>,
    waiting: VecDeque<u8>,
    ended: bool,
}

impl Input {
    /// The write end, while it is open.
    pub(crate) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Whether bytes wait for the command to take them.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Keeps bytes until the command takes them. What a closed stdin cannot take is acknowledged and gone.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        number: u32,
        outbox: &mut Outbox,
    ) -> Result<(), Overrun> {
        if self.pipe.is_none() || self.ended {
            taken(bytes.len(), true, number, outbox);
        } else if self.waiting.len() + bytes.len() > WINDOW {
            return Err(Overrun);
        } else {
            self.waiting.extend(bytes);
            self.flush(number, outbox);
        }
        Ok(())
    }

    /// No more bytes will come.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        if self.waiting.is_empty() {
            self.close();
        }
    }

    /// Writes what the command's pipe takes without blocking, and acknowledges it.
    pub(crate) fn flush(&mut self, number: u32, outbox: &mut Outbox) {
        let Some(pipe) = &self.pipe else { return };
        let mut written = 0;
        let mut gone = false;
        while !self.waiting.is_empty() {
            match unistd::write(pipe, self.waiting.as_slices().0) {
                Ok(bytes) => {
                    written += bytes;
                    self.waiting.drain(..bytes);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => {
                    gone = true;
                    break;
                }
            }
        }
        if gone {
            written += self.waiting.len();
            self.close();
        }
        if written > 0 {
            taken(written, gone, number, outbox);
        }
        if self.ended && self.waiting.is_empty() {
            self.close();
        }
    }

    /// The command has closed its end.
    pub(crate) fn reader_left(&mut self, number: u32, outbox: &mut Outbox) {
        let left = self.waiting.len();
        self.close();
        taken(left, true, number, outbox);
    }

    fn close(&mut self) {
        self.pipe = None;
        self.waiting = VecDeque::new();
    }
}

fn taken(bytes: usize, closed: bool, number: u32, outbox: &mut Outbox) {
    let bytes = u32::try_from(bytes).expect("at most a window and a frame");
    outbox.control(Tag::StdinTaken, number, &StdinTaken { bytes, closed });
}

/// Makes a descriptor answer `EAGAIN` instead of waiting.
pub(crate) fn set_nonblocking(pipe: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}
