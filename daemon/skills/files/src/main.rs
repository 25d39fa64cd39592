//! The shipped skill `files`: what an agent does with the files beneath one directory, as an MCP server over stdin and stdout.
//!
//! It runs in a sandbox that already confines it, and still resolves each path as if it did not: the kernel is asked to stay
//! beneath the root and to follow no link, so that neither a name from a model nor a link that an earlier call left behind
//! leads anywhere else.
//!
//! - [`path`]: names, from a caller that may be anybody. Pure.
//! - [`tree`]: opening, listing, reading, writing.
//! - [`search`]: texts and names that are looked for.
//! - [`kept`]: what was there before a change. [`change`]: changes, and how they are taken back.
//! - [`calls`]: the tools as a model sees them.

mod calls;
mod change;
mod kept;
mod path;
mod search;
mod tree;

use std::{env, ffi::OsString, path::PathBuf, process::ExitCode};

use paw_skill::{NO_INPUT, Program, USAGE, complain, declared};

/// As it calls itself.
const NAME: &str = "paw-files";

/// The longest line that is taken: the largest write, with each of its bytes escaped as JSON allows, and its frame.
const MAX_LINE: usize = 6 * tree::MAX_WRITE + 64 * 1024;

fn main() -> ExitCode {
    let Some(root) = root_of(env::args_os().skip(1).collect()) else {
        return complain(NAME, "usage: paw-files --root DIRECTORY", USAGE);
    };
    let tree = match tree::Tree::open(&root) {
        Ok(tree) => tree,
        Err(fault) => {
            let root = root.display();
            let why = format!("open root {root}: {fault}; give a directory that exists");
            return complain(NAME, why, NO_INPUT);
        }
    };
    let program = Program {
        name: NAME,
        tools: declared(include_str!("../skill.toml")),
        max_line: MAX_LINE,
    };
    program.serve(calls::Files(tree))
}

fn root_of(arguments: Vec<OsString>) -> Option<PathBuf> {
    match <[OsString; 2]>::try_from(arguments) {
        Ok([option, root]) if option == "--root" => Some(PathBuf::from(root)),
        _ => None,
    }
}
