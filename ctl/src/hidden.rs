//! Texts that must not be seen: asked for on a terminal that shows nothing meanwhile, or read from stdin.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use paw_api::secret::Hidden;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret as _, SecretString, zeroize::Zeroizing};

use crate::fail::Failure;

/// The longest one, in bytes: what a vault takes, and a line end.
const MAX: usize = 16 * 1024 + 2;

/// The key that ends a question, where it is no signal.
const CTRL_C: char = '\u{3}';

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
    let read = read_line(&mut text);
    let _ = writeln!(io::stderr());
    drop(quiet);
    read.map_err(|error| Failure::io("read from the terminal", &error))?;
    if text.contains(CTRL_C) {
        return Err(usage(doing, "it was not told", "nothing was changed"));
    }
    finished(doing, &text)
}

/// Reads up to a line end, a byte at a time, so that nothing is left in a buffer of the library.
fn read_line(text: &mut String) -> io::Result<()> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX + 1));
    let mut byte = [0];
    while bytes.len() <= MAX {
        match rustix::io::read(io::stdin(), &mut byte) {
            Ok(0) => break,
            Ok(_) => bytes.push(byte[0]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if byte[0] == b'\n' {
            break;
        }
    }
    let read = std::str::from_utf8(&bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))?;
    text.push_str(read);
    Ok(())
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

/// A terminal that does not show what is typed, and does again at the end.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> Result<Self, Failure> {
        let failed = |error: rustix::io::Errno| Failure::io("hide what is typed", &error.into());
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut quiet = before.clone();
        // Ctrl-C is a key here: whoever presses it shall have a terminal that works.
        quiet
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Without a terminal there is nothing to put back.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
