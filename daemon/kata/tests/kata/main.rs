//! The real paw-launcher-kata over its real socket, with a real containerd shim, and no containerd. Needs root.
//!
//! The shim is Kata's where that and `/dev/kvm` are, and runc's otherwise: the protocol is the same, what stands between the
//! sandbox and the host is not, and the launcher says so. `PAW_TEST_SHIM` names another one.
#![allow(
    clippy::unwrap_used,
    reason = "these are tests, which the linter cannot know of a runner of our own"
)]

mod cases;
mod fake;
mod rig;
#[path = "../../../launcher/tests/launcher/rig.rs"]
#[allow(dead_code, reason = "the other launcher's tests need more of it")]
mod shared;

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
    let obstacle = rig::obstacle();
    for (name, test) in chosen {
        let begun = Instant::now();
        let said = match &obstacle {
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
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
