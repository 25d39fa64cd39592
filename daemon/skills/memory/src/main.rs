//! The shipped skill `memory`: what an agent keeps from one conversation to the next, as an MCP server over stdin and stdout.
//!
//! Its directory is its own, for each agent another one. It does not know where a note came from: that is pawd's to keep, because whoever
//! runs in a sandbox could say anything.

mod calls;
mod notes;

use std::{env, ffi::OsString, path::PathBuf, process::ExitCode};

use paw_skill::{NO_INPUT, Program, USAGE, complain, declared};

/// As it calls itself.
const NAME: &str = "paw-memory";
/// The longest line that is taken, in bytes.
const MAX_LINE: usize = 1024 * 1024;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let root = match <[OsString; 2]>::try_from(arguments) {
        Ok([option, root]) if option == "--root" => PathBuf::from(root),
        _ => return complain(NAME, "usage: paw-memory --root DIRECTORY", USAGE),
    };
    if !root.is_dir() {
        let why = format!("{} is no directory; give one that exists", root.display());
        return complain(NAME, why, NO_INPUT);
    }
    let program = Program {
        name: NAME,
        tools: declared(include_str!("../skill.toml")),
        max_line: MAX_LINE,
    };
    program.serve(calls::Memory(notes::Notes::at(root)))
}
