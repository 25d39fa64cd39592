//! The command line of pawd: everything it shows comes from the control socket, and everything it does is asked for there.
//!
//! - [`cli`]: the words on the command line, and nothing else; man pages and completions are made from it.
//! - `values`: what times, sizes and numbers of CPUs on the command line mean.
//! - `connect`: one connection to the control socket, raw results kept as they came.
//! - `fail`: what can go wrong, said in three lines, and the exit code that follows.
//! - `cmd`: one file for each family of commands.
//! - `render`: tables, JSON, and text that cannot drive a terminal.
//! - `hidden`: texts that must not be seen, from the terminal or stdin.
//! - `bench`: the load loop.
//!
//! pawctl holds no rights of its own. What it may do is decided by pawd, from the uid and groups that the kernel reports.

mod bench;
pub mod cli;
mod cmd;
mod connect;
mod fail;
mod hidden;
mod render;
mod values;
mod window;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::{cli::Cli, fail::Failure, render::Out};

/// The version that `--version` prints.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Reads the command line, does what it says, and gives the exit code of the contract.
#[must_use]
pub fn run() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let mut out = Out::of_process(&cli.global);
    let outcome = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let outcome = runtime.block_on(cmd::run(cli, &mut out));
            // A thread that still reads a terminal must not hold the exit back.
            runtime.shutdown_background();
            outcome
        }
        Err(source) => Err(Failure::Local {
            doing: "start".to_owned(),
            why: source.to_string(),
            remedy: "look at the limits of this shell: ulimit -a".to_owned(),
        }),
    };
    let code = match outcome.and_then(|code| out.finish().map(|()| code)) {
        Ok(code) => code,
        // The reader of a pipe has seen enough: that is no failure.
        Err(Failure::PipeClosed) => 0,
        Err(failure) => {
            out.fail(&failure);
            failure.exit_code()
        }
    };
    ExitCode::from(code)
}
