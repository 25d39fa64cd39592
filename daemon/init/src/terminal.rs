//! A terminal for a command: what it sees as one, and the end that paw-init holds.
//!
//! A process gets a controlling terminal between its fork and its program, where code of ours could not run without `unsafe`. So
//! paw-init starts itself again, and that second one takes the terminal and becomes the command:
//!
//! ```text
//! paw-init ── spawn ──► paw-init terminal PROGRAM …   stdin and stdout: the command's end; stderr: the report
//!    │                    │ a session of its own, whose terminal it is
//!    │                    │ stderr: the terminal, too
//!    │                    ▼
//!    │ ◄─ errno, step ─ could not execute             or: becomes PROGRAM, and the report ends empty
//!    ▼
//!  reads the report when the process has ended
//! ```
//!
//! The command cannot write a report: its end closes when a program is executed.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Command, ExitCode, Stdio},
};

use nix::errno::Errno;
use paw_launch::frame::{NotStarted, Size};
use rustix::{
    io::fcntl_dupfd_cloexec,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    stdio::dup2_stderr,
    termios::{SpecialCodeIndex, Winsize, tcgetattr, tcsetwinsize},
};

use crate::{child::set_nonblocking, start::failed};

/// The first argument of a paw-init that takes a terminal and becomes a command.
pub(crate) const WORD: &str = "terminal";

/// Exit code of one that did not become its command; the report says why, and is what counts.
const NOT_EXECUTED: u8 = 126;

/// No `errno` of Linux is as high.
const MAX_ERRNO: i32 = 4096;

/// The longest report, in bytes: an `errno` and the name of a step.
const LONGEST_REPORT: usize = 64;

/// What paw-init keeps of a command's terminal.
pub(crate) struct Terminal {
    /// Takes what is typed and gives what is shown.
    end: OwnedFd,
    /// The command's end, too, so that one that lets go of it for a while finds it again as it was.
    _inner: OwnedFd,
    /// Where a process that could not become its command says why.
    report: io::PipeReader,
}

/// What the process is started with: its end of the terminal as stdin and stdout, the report as stderr.
pub(crate) struct Given {
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
}

/// Makes a terminal of this size.
pub(crate) fn open(size: Size) -> Result<(Terminal, Given), NotStarted> {
    let fault =
        |errno: rustix::io::Errno| failed("terminal", Errno::from_raw(errno.raw_os_error()));
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let end = openpt(flags).map_err(fault)?;
    grantpt(&end).map_err(fault)?;
    unlockpt(&end).map_err(fault)?;
    tcsetwinsize(&end, winsize(size)).map_err(fault)?;
    let name = ptsname(&end, Vec::new()).map_err(fault)?;
    let inner = rustix::fs::open(
        name.as_c_str(),
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(fault)?;
    let broken = |fault: io::Error| failed("terminal", errno_of(&fault));
    let again = inner.try_clone().map_err(broken)?;
    let (report, said) = io::pipe().map_err(broken)?;
    set_nonblocking(report.as_fd()).map_err(|errno| failed("terminal", errno))?;
    let terminal = Terminal {
        end,
        _inner: inner.try_clone().map_err(broken)?,
        report,
    };
    let given = Given {
        stdin: inner.into(),
        stdout: again.into(),
        stderr: said.into(),
    };
    Ok((terminal, given))
}

/// The character that ends the input here, as the command has it set now; none where it has none.
pub(crate) fn end_of_file(end: impl AsFd) -> Option<u8> {
    let is = tcgetattr(end).ok()?.special_codes[SpecialCodeIndex::VEOF];
    (is != 0).then_some(is)
}

/// The program to start in place of a command, before its own words.
pub(crate) fn itself() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(WORD);
    command
}

impl Terminal {
    /// Our end, once more.
    pub(crate) fn end(&self) -> Result<OwnedFd, Errno> {
        self.end.try_clone().map_err(|fault| errno_of(&fault))
    }

    /// Gives it another size, of which the kernel tells the command.
    pub(crate) fn resize(&self, size: Size) {
        // It is a terminal, and takes any size.
        let _ = tcsetwinsize(&self.end, winsize(size));
    }

    /// What was reported by a process that has ended; nothing if it became its command.
    pub(crate) fn report(self) -> Option<NotStarted> {
        let mut said = [0; LONGEST_REPORT];
        // It was written at once, and half a report is none. Another command might hold the other end, so this does not wait.
        let mut report = self.report;
        let length = report.read(&mut said).ok()?;
        let (errno, step) = said[..length].split_first_chunk::<4>()?;
        let errno = i32::from_le_bytes(*errno);
        // Whatever else a process could write to its stderr before it takes the terminal is no report.
        (1..MAX_ERRNO).contains(&errno).then(|| NotStarted {
            errno,
            step: String::from_utf8_lossy(step).into_owned(),
        })
    }
}

fn winsize(size: Size) -> Winsize {
    Winsize {
        ws_row: size.rows.get(),
        ws_col: size.cols.get(),
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn errno_of(fault: &io::Error) -> Errno {
    fault.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Takes the terminal on stdin and becomes the command: `PROGRAM NAME ARGUMENT…`, with this process's environment and directory.
pub(crate) fn become_command(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let Ok(report) = fcntl_dupfd_cloexec(io::stderr(), 3) else {
        return ExitCode::from(NOT_EXECUTED);
    };
    let (errno, step) = match take() {
        Err(errno) => (errno.raw_os_error(), "terminal"),
        Ok(()) => {
            let program = words.next().unwrap_or_default();
            let name = words.next().unwrap_or_default();
            let fault = Command::new(program).arg0(name).args(words).exec();
            (fault.raw_os_error().unwrap_or(Errno::EINVAL as i32), "exec")
        }
    };
    let said = [&errno.to_le_bytes()[..], step.as_bytes()].concat();
    // Nobody is left to be told that it could not be told; the exit code says that the command did not run.
    let _ = File::from(report).write_all(&said);
    ExitCode::from(NOT_EXECUTED)
}

/// Makes what is on stdin the terminal of a session of our own, and stderr, too.
fn take() -> Result<(), rustix::io::Errno> {
    // Not rustix's: it takes the answer for the id of a process, and gVisor's is 0.
    nix::unistd::setsid().map_err(|errno| rustix::io::Errno::from_raw_os_error(errno as i32))?;
    rustix::process::ioctl_tiocsctty(io::stdin())?;
    dup2_stderr(io::stdin())
}
