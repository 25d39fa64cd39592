//! Texts that must not be seen: asked for on a terminal that shows nothing meanwhile, or read from stdin.

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    os::fd::AsFd as _,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, SigmaskHow, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use paw_api::secret::Hidden;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use secrecy::{ExposeSecret as _, SecretString, zeroize::Zeroizing};

use crate::fail::Failure;

/// The longest one, in bytes: what a vault takes, and a line end.
const MAX: usize = 16 * 1024 + 2;

/// The key that ends a question, where it is no signal.
const CTRL_C: u8 = 3;

/// What ends the program, once the terminal is as it was.
const ENDS: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

/// Asks for one on the terminal; where stdin is none, all of stdin is it, without the line end behind it.
pub(crate) fn ask(doing: &str, what: &str) -> Result<Hidden, Failure> {
    if io::stdin().is_terminal() {
        typed(doing, what)
    } else {
        piped(doing)
    }
}

/// Asks for one twice, where somebody types it.
pub(crate) fn ask_twice(doing: &str, what: &str) -> Result<Hidden, Failure> {
    if !io::stdin().is_terminal() {
        return piped(doing);
    }
    let first = typed(doing, what)?;
    let again = typed(doing, "The same again")?;
    if first.0.expose_secret() == again.0.expose_secret() {
        Ok(first)
    } else {
        Err(usage(
            doing,
            "what was typed is not the same twice",
            "try again",
        ))
    }
}

/// Asks for a passphrase: one line, since a terminal gives no other one.
pub(crate) fn passphrase(
    doing: &str,
    what: &str,
    ask: fn(&str, &str) -> Result<Hidden, Failure>,
) -> Result<Hidden, Failure> {
    let said = ask(doing, what)?;
    if said.0.expose_secret().contains(['\n', '\r']) {
        return Err(usage(
            doing,
            "the passphrase has more than one line",
            "give it once, on one line",
        ));
    }
    Ok(said)
}

fn piped(doing: &str) -> Result<Hidden, Failure> {
    let mut text = Zeroizing::new(String::with_capacity(MAX + 1));
    io::stdin()
        .lock()
        .take(MAX as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::io("read stdin", &error))?;
    finished(doing, &text)
}

fn typed(doing: &str, what: &str) -> Result<Hidden, Failure> {
    let quiet = Quiet::begin()?;
    // Where stderr is gone, nobody is asked, and nothing comes.
    let _ = write!(io::stderr(), "{what}: ");
    let mut text = Zeroizing::new(String::with_capacity(MAX + 1));
    let read = quiet.read_line(&mut text);
    let _ = writeln!(io::stderr());
    drop(quiet);
    let told = read.map_err(|error| Failure::io("read from the terminal", &error))?;
    if !told {
        return Err(usage(doing, "it was not told", "nothing was changed"));
    }
    finished(doing, &text)
}

fn finished(doing: &str, text: &str) -> Result<Hidden, Failure> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(usage(
            doing,
            "it is empty",
            "give it on the terminal or on stdin",
        ));
    }
    if text.len() > MAX - 2 {
        return Err(usage(doing, "it is longer than 16384 bytes", "keep less"));
    }
    Ok(Hidden(SecretString::from(text.to_owned())))
}

fn usage(doing: &str, why: &str, remedy: &str) -> Failure {
    Failure::Usage {
        doing: doing.to_owned(),
        why: why.to_owned(),
        remedy: remedy.to_owned(),
    }
}

/// A terminal that does not show what is typed, and does again at the end, whatever ends it.
struct Quiet {
    before: Termios,
    signals: SignalFd,
    /// Signals that were held back before.
    mask: SigSet,
}

impl Quiet {
    fn begin() -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io("hide what is typed", &error);
        let before = tcgetattr(io::stdin()).map_err(|error| failed(error.into()))?;
        let ends: SigSet = ENDS.into_iter().collect();
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&ends, flags).map_err(|error| failed(error.into()))?;
        let mask = ends
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .map_err(|error| failed(error.into()))?;
        let mut silent = before.clone();
        // Ctrl-C is a key here, and ends the line: whoever presses it shall have a terminal that works.
        silent
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VEOL] = CTRL_C;
        let quiet = Self {
            before,
            signals,
            mask,
        };
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)
            .map_err(|error| failed(error.into()))?;
        Ok(quiet)
    }

    /// Reads up to a line end, a byte at a time, so that nothing is left in a buffer of the library; whether there was one, and nobody
    /// wanted to end this.
    fn read_line(&self, text: &mut String) -> io::Result<bool> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX + 1));
        let mut byte = [0];
        while bytes.len() <= MAX && byte[0] != b'\n' {
            if self.is_ended()? {
                return Ok(false);
            }
            match rustix::io::read(io::stdin(), &mut byte) {
                Ok(0) => break,
                Ok(_) if byte[0] == CTRL_C => return Ok(false),
                Ok(_) => bytes.push(byte[0]),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let read = std::str::from_utf8(&bytes)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))?;
        text.push_str(read);
        Ok(true)
    }

    /// Waits until something was typed, or a signal has come, which then waits for the terminal to be as it was.
    fn is_ended(&self) -> io::Result<bool> {
        let stdin = io::stdin();
        let mut fds = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut fds, PollTimeout::NONE)?;
        Ok(fds[0].any().unwrap_or(false))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Without a terminal there is nothing to put back; what was typed and not read is forgotten.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
        let _ = self.mask.thread_set_mask();
    }
}
