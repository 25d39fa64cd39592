//! The real launcher over its real socket, on the real kernel. Needs root; each test has a launcher of its own.
//!
//! `cargo test -p paw-launcher --test launcher -- PART_OF_A_NAME` runs some of them.
#![allow(
    clippy::unwrap_used,
    reason = "these are tests, which the linter cannot know of a runner of our own"
)]

mod cases;
mod rig;

use std::{
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

fn main() -> ExitCode {
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let chosen = cases::ALL.iter().filter(|(name, _)| {
        filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()))
    });
    let (mut failed, mut passed, mut skipped) = (Vec::new(), 0, 0);
    let (obstacle, gvisor) = (rig::obstacle(), rig::gvisor_obstacle());
    for (name, test) in chosen {
        let begun = Instant::now();
        let missing = gvisor.as_ref().filter(|_| name.contains("gvisor"));
        let said = match obstacle.as_ref().or(missing) {
            Some(reason) => {
                skipped += 1;
                format!("skipped: {reason}")
            }
            None => match catch_unwind(AssertUnwindSafe(test)) {
                Ok(()) => {
                    passed += 1;
                    format!("ok ({} ms)", begun.elapsed().as_millis())
                }
                Err(_) => {
                    failed.push(*name);
                    "FAILED".to_owned()
                }
            },
        };
        say(&format!("test {name} ... {said}"));
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    say(&format!(
        "test result: {verdict}. {passed} passed; {} failed; {skipped} skipped",
        failed.len()
    ));
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A line of the report. A report that nobody reads is no reason to fail: the exit code says it too.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
