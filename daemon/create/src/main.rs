//! paw-create: makes one sandbox and exits, or becomes what runs it. A fresh process for each sandbox.
//!
//! It is separate from the launcher for two reasons. libcontainer forks and then allocates, so it must never run in a process
//! with threads; and a sandbox that waits to be started is a fork of its maker, with every descriptor that was open there, so
//! the maker must have none but this sandbox's own. For the same reason there is no tracing subscriber: libcontainer's log
//! lines would come out of the sandbox's stderr, with host paths in them.
//!
//! ```text
//! paw-create native BUNDLE ID ENTRANCE...          fd 3 stdin, 4 stdout, 5 stderr of the sandbox, 6 its user namespace
//!   stdout: {"pid": N}                       paw-init waits to be started, as a child of our parent
//!   stderr: {"error": "..."}                 nothing was left behind; exit code 1, or 64 when called wrongly
//! paw-create gvisor BUNDLE ID RUNSC FLAG... ENTRANCE...     fd 0 to 2 of the sandbox, 6 its user namespace
//!   becomes runsc, which ends with paw-init and its exit code; fails like native
//! ```
//!
//! BUNDLE is a directory with `config.json`, `root.json` and `run`; an ENTRANCE is a file by which the leaf is entered.

mod executor;
mod gvisor;
mod loopback;
mod native;
mod root;

use std::{env, error::Error, io::Write as _, path::PathBuf, process::ExitCode};

const USAGE: &str = "usage: paw-create native BUNDLE ID ENTRANCE... | gvisor BUNDLE ID RUNSC FLAG... ENTRANCE...; \
    it is started by paw-launcher, with the descriptors of one sandbox";

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let (runtime, rest) = match arguments.split_first() {
        Some((runtime, rest)) => (runtime.to_str(), rest),
        None => (None, &[][..]),
    };
    match (runtime, rest) {
        (Some("native"), [bundle, id, entrances @ ..]) => {
            match native::create(bundle, &id.to_string_lossy(), entrances) {
                Ok(pid) => {
                    let said = writeln!(std::io::stdout(), "{}", serde_json::json!({ "pid": pid }));
                    if said.is_ok() {
                        ExitCode::SUCCESS
                    } else {
                        ExitCode::FAILURE
                    }
                }
                Err(error) => fail(1, &chain(&error)),
            }
        }
        (Some("gvisor"), [bundle, id, runsc, more @ ..]) => {
            let is_flag = |word: &PathBuf| word.as_os_str().as_encoded_bytes().starts_with(b"--");
            let (flags, entrances) =
                more.split_at(more.iter().take_while(|it| is_flag(it)).count());
            let order = gvisor::Order {
                bundle,
                id,
                runsc,
                flags,
                entrances,
            };
            fail(1, &chain(&gvisor::become_runsc(&order)))
        }
        _ => fail(64, USAGE),
    }
}

fn fail(code: u8, what: &str) -> ExitCode {
    // Nothing is left to do when even this cannot be said: the exit code says it too.
    let _ = writeln!(
        std::io::stderr(),
        "{}",
        serde_json::json!({ "error": what })
    );
    ExitCode::from(code)
}

/// An error with every cause, as one line. libcontainer's errors sometimes repeat their cause, which is left out then.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
