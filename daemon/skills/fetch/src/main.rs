//! The shipped skill `fetch`: HTTP through the proxy of the sandbox it is in, as an MCP server over stdin and stdout.
//!
//! It knows no rule and checks none: the proxy judges each request, those of redirects among them, and encrypts what is asked for as
//! `https://`, so there is no certificate and no key in here. It bounds what it reads, how long it waits, and what it says.

mod ask;
mod calls;
mod text;

use std::process::ExitCode;

use paw_skill::{Program, USAGE, complain, declared};

/// As it calls itself.
const NAME: &str = "paw-fetch";
/// The longest line that is taken, in bytes.
const MAX_LINE: usize = 1024 * 1024;

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 {
        return complain(NAME, "usage: paw-fetch", USAGE);
    }
    let program = Program {
        name: NAME,
        tools: declared(include_str!("../skill.toml")),
        max_line: MAX_LINE,
    };
    program.serve(calls::Fetch::through(std::env::var("http_proxy").ok()))
}
