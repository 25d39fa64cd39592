//! PID 1 of every sandbox: starts the commands it is told over stdin and reports over stdout, in the frames of
//! [`paw_launch::frame`].
//!
//! It runs inside, without privilege, and nobody trusts it: whatever it says is bounded again outside. It decides nothing
//! about isolation; it was put into its cage before its first instruction. One thread, one list of what it waits for, no allocation that grows
//! without a bound, so that a command can neither block it nor blow it up.

mod child;
mod inbox;
mod kept;
mod net;
mod outbox;
mod resume;
mod serve;
mod start;
mod terminal;
mod watch;

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

/// Exit code after bytes that are no frames (`EX_DATAERR`).
const UNREADABLE: u8 = 65;
/// Exit code when the kernel refused what must work, or nobody reads stdout any more (`EX_IOERR`).
const BROKEN: u8 = 74;

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_some_and(|word| word == terminal::WORD) {
        return terminal::become_command(arguments);
    }
    let fault = match serve::serve(io::stdin(), io::stdout()) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(fault) => fault,
    };
    // Nothing is left to do about a stderr that cannot be written to; the exit code says it too.
    let _ = writeln!(io::stderr(), "paw-init: {fault}");
    match fault {
        serve::Fault::Unreadable(_)
        | serve::Fault::HalfFrame
        | serve::Fault::Control { .. }
        | serve::Fault::Broken(_) => ExitCode::from(UNREADABLE),
        serve::Fault::Kernel { .. } => ExitCode::from(BROKEN),
    }
}
