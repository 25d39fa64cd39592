//! The terminal that pawctl itself runs in, while a command in a sandbox has it for its window.

use std::io;

use paw_api::sandbox::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::fail::Failure;

/// What a terminal that does not know its size is taken for.
const USUAL: TerminalSize = TerminalSize { rows: 24, cols: 80 };

/// The size of the terminal on stdout.
pub(crate) fn size() -> TerminalSize {
    let size = tcgetwinsize(io::stdout()).ok();
    let size = size.filter(|size| size.ws_row > 0 && size.ws_col > 0);
    size.map_or(USUAL, |size| TerminalSize {
        rows: size.ws_row.into(),
        cols: size.ws_col.into(),
    })
}

/// A terminal on stdin in which every key is a byte for the command, and which is as it was again at the end of this.
pub(crate) struct Raw(Termios);

impl Raw {
    /// From here on no key is a signal and nothing is shown that the command does not show.
    pub(crate) fn begin() -> Result<Self, Failure> {
        let failed = |error: rustix::io::Errno| Failure::io("give the keys away", &error.into());
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        // What was typed ahead is for the command.
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Without a terminal there is nothing to put back.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
