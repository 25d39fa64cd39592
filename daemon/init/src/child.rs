//! One command: its three pipes or its terminal, its windows, and its end.
//!
//! ```text
//! running ── reaped ──► draining ── both pipes empty, closed, or over budget ──► its end is told ── forgotten outside ──► gone
//! ```
//!
//! What it said is kept until the outside acknowledges it, and its end until the outside forgets it, so that another outside
//! can be told both again.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, kill, killpg},
    unistd::{self, Pid},
};
use paw_launch::{
    frame::{Exited, MAX_PAYLOAD, NotStarted, Size, StdinTaken, Tag, WINDOW},
    resume::ResumedChild,
};

use crate::{
    kept::Kept,
    outbox::Outbox,
    start::Started,
    terminal::{self, Terminal},
};

/// How much of one stream is still taken after the command's end: what fits into the largest pipe that an unprivileged
/// process may have. Whatever comes beyond it is a grandchild's, which may write for ever.
const LAST_WORDS: usize = 1024 * 1024;

/// From this many bytes of input on it is told that they were taken. The outside, whose window is four times as large, does not
/// wait for fewer; telling it of each line would be a second frame, and mostly a second time that it wakes, for every answer.
const WORTH_A_FRAME: usize = WINDOW / 4;

/// How a command ended.
enum End {
    Exited(Exited),
    NotStarted(NotStarted),
}

/// A command that was started, or could not be.
pub(crate) struct Child {
    /// Its process id and that of its group, inside.
    pub(crate) pid: Option<Pid>,
    pub(crate) stdin: Input,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    /// Until it was reaped, if it has one.
    terminal: Option<Terminal>,
    /// How it ended, once it was reaped.
    end: Option<End>,
    /// Whether that was told.
    told: bool,
}

impl Child {
    /// Takes the pipes or the terminal of a process that was started with them.
    pub(crate) fn new(started: Started) -> Result<Self, Errno> {
        let Started {
            mut process,
            terminal,
        } = started;
        let pid =
            Pid::from_raw(i32::try_from(process.id()).expect("process ids are positive and fit"));
        let streams = match &terminal {
            None => [
                process.stdin.take().map(OwnedFd::from),
                process.stdout.take().map(OwnedFd::from),
                process.stderr.take().map(OwnedFd::from),
            ],
            Some(terminal) => [Some(terminal.end()?), Some(terminal.end()?), None],
        };
        for pipe in streams.iter().flatten() {
            set_nonblocking(pipe.as_fd())?;
        }
        let mut child = Self::with(Some(pid), streams, None);
        child.stdin.is_terminal = terminal.is_some();
        child.terminal = terminal;
        Ok(child)
    }

    /// One that could not be started; its end is told like others.
    pub(crate) fn failed(why: NotStarted) -> Self {
        Self::with(None, [None, None, None], Some(End::NotStarted(why)))
    }

    fn with(
        pid: Option<Pid>,
        [stdin, stdout, stderr]: [Option<OwnedFd>; 3],
        end: Option<End>,
    ) -> Self {
        Self {
            pid,
            stdin: Input {
                pipe: stdin,
                waiting: VecDeque::new(),
                ended: false,
                is_terminal: false,
                end_is_typed: false,
                in_a_line: false,
                taken: 0,
                untold: 0,
            },
            stdout: Output::new(stdout, Tag::Stdout),
            stderr: Output::new(stderr, Tag::Stderr),
            terminal: None,
            end,
            told: false,
        }
    }

    /// Sends a signal to its process group, which may outlive it.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some(pid) = self.pid else { return };
        // A group that is gone needs no signal. One with a terminal may not have its group yet; it was not reaped, so its number
        // is nobody else's.
        if killpg(pid, signal) == Err(Errno::ESRCH) && self.terminal.is_some() {
            let _ = kill(pid, signal);
        }
    }

    /// Its terminal has another size. One that has ended has none any more.
    pub(crate) fn resize(&self, size: Size) -> Result<(), NoTerminal> {
        match &self.terminal {
            Some(terminal) => terminal.resize(size),
            None if self.is_draining() => {}
            None => return Err(NoTerminal),
        }
        Ok(())
    }

    /// It was reaped; what is in its pipes now is all that counts.
    pub(crate) fn ended(&mut self, end: Exited) {
        let not_started = self.terminal.take().and_then(Terminal::report);
        self.end = Some(not_started.map_or(End::Exited(end), End::NotStarted));
        self.stdin.close();
        self.stdout.last_words = Some(LAST_WORDS);
        self.stderr.last_words = Some(LAST_WORDS);
    }

    /// Says what is to be said again, takes the last words of one that has ended as far as the windows allow, and tells its
    /// end when there are no more of them.
    pub(crate) fn settle(&mut self, number: u32, outbox: &mut Outbox, scratch: &mut [u8]) {
        for output in [&mut self.stdout, &mut self.stderr] {
            output.say_again(number, outbox, scratch);
            while self.end.is_some() && output.is_wanted() && outbox.has_room() {
                output.relay(number, outbox, scratch);
            }
        }
        let Some(end) = self.end.as_ref().filter(|_| !self.told) else {
            return;
        };
        if self.stdout.is_done() && self.stderr.is_done() {
            self.told = true;
            match end {
                End::Exited(exited) => outbox.control(Tag::Exited, number, exited),
                End::NotStarted(why) => outbox.control(Tag::NotStarted, number, why),
            }
        }
    }

    /// Whether it was reaped already, or never ran.
    pub(crate) fn is_draining(&self) -> bool {
        self.end.is_some()
    }

    /// Whether the outside was told how it ended.
    pub(crate) const fn is_told(&self) -> bool {
        self.told
    }

    /// Another outside goes on with it: how far the earlier one got. Whatever is not acknowledged will be said again.
    pub(crate) fn resume(&mut self, number: u32) -> ResumedChild {
        self.told = false;
        self.stdin.untold = 0;
        ResumedChild {
            number,
            stdout: self.stdout.kept.again(),
            stderr: self.stderr.kept.again(),
            stdin: self.stdin.taken,
            takes_input: self.stdin.pipe.is_some() && !self.stdin.ended,
        }
    }
}

/// One stream from a command to the outside.
pub(crate) struct Output {
    pipe: Option<OwnedFd>,
    tag: Tag,
    /// What was said and is not acknowledged: at most a window.
    kept: Kept,
    last_words: Option<usize>,
}

impl Output {
    fn new(pipe: Option<OwnedFd>, tag: Tag) -> Self {
        Self {
            pipe,
            tag,
            kept: Kept::default(),
            last_words: None,
        }
    }

    /// Whether it is open and the outside has room for more of it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.pipe.is_some() && self.kept.room() > 0 && self.kept.is_said()
    }

    /// Whether there will be no more of it, and all was said.
    fn is_done(&self) -> bool {
        self.pipe.is_none() && self.kept.is_said()
    }

    /// The read end, while it is open.
    pub(crate) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// The outside took some of it. More than was sent is not believed.
    pub(crate) fn credit(&mut self, taken: u32) {
        self.kept.acknowledge(taken as usize);
    }

    /// Says what another outside has to hear again, as far as there is room.
    fn say_again(&mut self, number: u32, outbox: &mut Outbox, scratch: &mut [u8]) {
        let most = scratch.len().min(MAX_PAYLOAD);
        while !self.kept.is_said() && outbox.has_room() {
            let said = self.kept.next(&mut scratch[..most]);
            outbox.data(self.tag, number, &scratch[..said]);
        }
    }

    /// Reads once and passes on what came, at most one frame.
    pub(crate) fn relay(&mut self, number: u32, outbox: &mut Outbox, scratch: &mut [u8]) {
        let Some(pipe) = self.pipe.as_ref().filter(|_| self.kept.is_said()) else {
            return;
        };
        let most = self
            .kept
            .room()
            .min(MAX_PAYLOAD)
            .min(self.last_words.unwrap_or(MAX_PAYLOAD))
            .min(scratch.len());
        match unistd::read(pipe, &mut scratch[..most]) {
            Ok(0) => self.pipe = None,
            Ok(read) => {
                self.kept.keep_said(&scratch[..read]);
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

/// A command that runs with pipes was to be given another size.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoTerminal;

/// The outside sent more for a command's stdin than its window allows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

/// The stream from the outside to a command.
pub(crate) struct Input {
    pipe: Option<OwnedFd>,
    waiting: VecDeque<u8>,
    ended: bool,
    /// Whether it is a terminal, which has no end but the character for it.
    is_terminal: bool,
    /// Whether what waits is that character, which is nobody's input.
    end_is_typed: bool,
    /// Whether the last byte that was typed did not end a line.
    in_a_line: bool,
    /// Bytes that the command has taken.
    taken: u64,
    /// Those of them of which the outside was not told yet.
    untold: usize,
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
            self.tell(bytes.len(), true, number, outbox);
        } else if self.waiting.len() + bytes.len() > WINDOW {
            return Err(Overrun);
        } else {
            self.waiting.extend(bytes);
            self.flush(number, outbox);
        }
        Ok(())
    }

    /// No more bytes will come.
    pub(crate) fn end(&mut self, number: u32, outbox: &mut Outbox) {
        if !self.ended {
            self.ended = true;
            self.flush(number, outbox);
        }
    }

    /// Writes what the command takes without blocking, and acknowledges it.
    pub(crate) fn flush(&mut self, number: u32, outbox: &mut Outbox) {
        let mut written = 0;
        let mut gone = false;
        while let Some(pipe) = &self.pipe {
            if self.waiting.is_empty() {
                if self.ended && !self.type_the_end() {
                    self.close();
                }
                if self.waiting.is_empty() {
                    break;
                }
                continue;
            }
            match unistd::write(pipe, self.waiting.as_slices().0) {
                Ok(bytes) => {
                    self.in_a_line = !matches!(self.waiting[bytes - 1], b'\n' | b'\r');
                    self.waiting.drain(..bytes);
                    if !self.end_is_typed {
                        written += bytes;
                        self.taken += bytes as u64;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => {
                    gone = true;
                    if !self.end_is_typed {
                        written += self.waiting.len();
                    }
                    self.close();
                }
            }
        }
        if written > 0 {
            self.tell(written, gone, number, outbox);
        }
    }

    /// Puts the character behind everything by which a terminal's input ends; `false` where there is none, or it was typed.
    fn type_the_end(&mut self) -> bool {
        let terminal = self
            .pipe
            .as_ref()
            .filter(|_| self.is_terminal && !self.end_is_typed);
        let Some(end) = terminal.and_then(terminal::end_of_file) else {
            return false;
        };
        // In a line, the first only gives what was typed of it to the command.
        self.waiting
            .extend(&[end; 2][usize::from(!self.in_a_line)..]);
        self.end_is_typed = true;
        true
    }

    /// The command has closed its end.
    pub(crate) fn reader_left(&mut self, number: u32, outbox: &mut Outbox) {
        let left = if self.end_is_typed {
            0
        } else {
            self.waiting.len()
        };
        self.close();
        self.tell(left, true, number, outbox);
    }

    /// These bytes were taken, or nobody will take them.
    fn tell(&mut self, bytes: usize, closed: bool, number: u32, outbox: &mut Outbox) {
        self.untold += bytes;
        if closed || self.untold >= WORTH_A_FRAME {
            let bytes = u32::try_from(std::mem::take(&mut self.untold))
                .expect("at most a window and a frame");
            outbox.control(Tag::StdinTaken, number, &StdinTaken { bytes, closed });
        }
    }

    fn close(&mut self) {
        self.pipe = None;
        self.waiting = VecDeque::new();
    }
}

/// Makes a descriptor answer `EAGAIN` instead of waiting.
pub(crate) fn set_nonblocking(pipe: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}
