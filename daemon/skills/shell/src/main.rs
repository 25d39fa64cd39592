//! The shipped skill `shell`: a command line in the sandbox it is in, as an MCP server over stdin and stdout.
//!
//! With `--scripts DIR` it is what skills in the agent-skills format are served by: then it runs the files below that directory
//! and nothing else. It confines nothing, because the sandbox does; it bounds what it reads and says.

mod run;
mod server;

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

/// Exit code for a wrong command line (`EX_USAGE`).
const USAGE: u8 = 64;
/// Exit code when the conversation broke off (`EX_PROTOCOL`).
const BROKEN: u8 = 76;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let offers = match arguments.as_slice() {
        [] => server::Offers::Commands,
        [option, dir] if option == "--scripts" => server::Offers::Scripts(PathBuf::from(dir)),
        _ => return complain("usage: paw-shell [--scripts DIRECTORY]", USAGE),
    };
    match server::serve(offers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => complain(&fault.to_string(), BROKEN),
    }
}

fn complain(text: &str, code: u8) -> ExitCode {
    // Nothing is left to do about a stderr that cannot be written to; the exit code says it too.
    let _ = writeln!(io::stderr(), "paw-shell: {text}");
    ExitCode::from(code)
}
