//! The shipped skill `files`: list, read and write beneath one directory, as an MCP server over stdin and stdout.
//!
//! It runs in a sandbox that already confines it, and still resolves each path as if it did not: the kernel is asked to stay
//! beneath the root and to follow no link, so that neither a name from a model nor a link that an earlier call left behind
//! leads anywhere else.

mod path;
mod server;
mod tree;

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

/// Exit code for a wrong command line (`EX_USAGE`).
const USAGE: u8 = 64;
/// Exit code when the root cannot be opened (`EX_NOINPUT`).
const NO_ROOT: u8 = 66;
/// Exit code when the conversation broke off (`EX_PROTOCOL`).
const BROKEN: u8 = 76;

fn main() -> ExitCode {
    let Some(root) = root_of(env::args_os().skip(1).collect()) else {
        return complain("usage: paw-files --root DIRECTORY", USAGE);
    };
    let tree = match tree::Tree::open(&root) {
        Ok(tree) => tree,
        Err(fault) => {
            return complain(
                &format!(
                    "open root {}: {fault}; give a directory that exists",
                    root.display()
                ),
                NO_ROOT,
            );
        }
    };
    match server::serve(tree) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => complain(&fault.to_string(), BROKEN),
    }
}

fn root_of(arguments: Vec<OsString>) -> Option<PathBuf> {
    match <[OsString; 2]>::try_from(arguments) {
        Ok([option, root]) if option == "--root" => Some(PathBuf::from(root)),
        _ => None,
    }
}

fn complain(text: &str, code: u8) -> ExitCode {
    // Nothing is left to do about a stderr that cannot be written to; the exit code says it too.
    let _ = writeln!(io::stderr(), "paw-files: {text}");
    ExitCode::from(code)
}
