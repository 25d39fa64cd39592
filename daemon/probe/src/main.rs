//! paw-probe: tries from inside a sandbox what must not work there, and says what happened.
//!
//! ```text
//! paw-probe calls native|shim|gvisor one line of JSON for each thing tried: what was expected, what was seen
//! paw-probe memory|fork|disk|inode|files|output|sleep|stubborn|daemon|orphan
//!                                    a bomb; whether it was held is seen from outside
//! paw-probe abstract NAME            tries to reach an abstract socket
//! paw-probe connect PATH...          tries to reach the sockets of these paths
//! paw-probe list PATH...             tries to list these directories
//! paw-probe neighbour                opens what a sandbox has, for the one beside it to find
//! ```
//!
//! It is shipped as the image `probe` and run by `pawctl doctor --prove` and by the tests. It has no right of its own: whatever
//! it manages to do, every program in that sandbox can do. Who asks it believes its words only where they speak against the
//! sandbox; what a limit held is judged outside.

mod attempts;
mod bombs;
mod neighbour;
mod probes;

use std::{
    env,
    io::Write as _,
    process::{Command, ExitCode, Stdio},
};

use serde::Serialize;

/// One line of the report.
#[derive(Debug, Serialize)]
struct Line {
    probe: &'static str,
    expected: &'static str,
    observed: String,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["calls", runtime] => calls(runtime),
        ["try", number] => attempt(number),
        ["abstract", name] => say(&attempts::abstract_socket(name)),
        ["connect", paths @ ..] => each(paths, attempts::connect),
        ["list", paths @ ..] => each(paths, attempts::listed),
        ["euid"] => {
            ExitCode::from(u8::try_from(nix::unistd::geteuid().as_raw() % 256).unwrap_or(1))
        }
        [neighbour::WORD] => neighbour::stay(),
        [bomb] => bombs::explode(bomb),
        _ => ExitCode::from(64),
    }
}

/// A line for each.
fn each(paths: &[&str], attempt: fn(&str) -> String) -> ExitCode {
    let said: Vec<String> = paths.iter().map(|path| attempt(path)).collect();
    say(&said.join("\n"))
}

fn say(what: &str) -> ExitCode {
    let said = write!(std::io::stdout(), "{what}");
    said.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

/// Tries everything that takes one call or a few, each in a process of its own, and reports it.
fn calls(runtime: &str) -> ExitCode {
    let mut out = std::io::stdout();
    let tried = probes::ALL.iter().enumerate();
    for (number, probe) in tried.filter(|(_, probe)| !probe.expected(runtime).is_empty()) {
        let line = Line {
            probe: probe.name,
            expected: probe.expected(runtime),
            observed: alone(number),
        };
        let Ok(text) = serde_json::to_string(&line) else {
            return ExitCode::FAILURE;
        };
        if writeln!(out, "{text}").is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// What the probe of this number says when it is tried by another process.
fn alone(number: usize) -> String {
    let tried = Command::new("/proc/self/exe")
        .args(["try", &number.to_string()])
        .stdin(Stdio::null())
        .output();
    match tried {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        Ok(output) => format!("ended by {}", output.status),
        Err(error) => format!("not tried: {error}"),
    }
}

fn attempt(number: &str) -> ExitCode {
    let probe = number
        .parse()
        .ok()
        .and_then(|number: usize| probes::ALL.get(number));
    probe.map_or(ExitCode::FAILURE, |probe| say(&(probe.attempt)()))
}
