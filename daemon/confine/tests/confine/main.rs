//! Each protection, tried in a process that has it.
//!
//! Confinement is for good and for one thread, so every case runs in a process of its own: this program, started again with
//! `--child NAME`. A child says what happened by its exit: 0 as claimed, 1 otherwise, or the signal that the claim is about.
#![allow(
    clippy::unwrap_used,
    reason = "these are tests, which the linter cannot know of a runner of our own"
)]

mod children;
mod log;

use std::{
    io::Write,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitCode, ExitStatus, Stdio},
};

/// How a child has to end.
#[derive(Debug, PartialEq, Eq)]
enum Ends {
    Well,
    By(i32),
}

/// What each child claims, how it ends when the claim holds, and whether it takes root.
const CASES: &[(&str, Ends, bool)] = &[
    ("unlisted_call_kills", Ends::By(libc::SIGSYS), false),
    (
        "refused_call_fails_and_the_process_lives",
        Ends::Well,
        false,
    ),
    ("pawd_cannot_fork", Ends::By(libc::SIGSYS), false),
    ("pawd_cannot_execute", Ends::Well, false),
    ("pawd_can_start_threads", Ends::Well, false),
    ("pawd_can_do_its_work", Ends::Well, false),
    ("audit_has_no_network", Ends::Well, false),
    (
        "doorkeeper_cannot_open_files",
        Ends::By(libc::SIGSYS),
        false,
    ),
    ("sandbox_can_run_programs", Ends::Well, false),
    ("sandbox_cannot_make_namespaces", Ends::Well, false),
    ("filter_is_refused_with_other_threads", Ends::Well, false),
    ("landlock_holds_for_files", Ends::Well, false),
    ("landlock_holds_for_ports", Ends::Well, false),
    ("landlock_holds_for_processes_outside", Ends::Well, false),
    ("needed_path_that_is_missing_is_an_error", Ends::Well, false),
    ("proof_succeeds_when_everything_holds", Ends::Well, true),
    ("proof_fails_without_the_drop", Ends::Well, true),
    ("proof_fails_without_landlock", Ends::Well, true),
    ("proof_fails_without_seccomp", Ends::Well, true),
    ("proof_needs_a_file_that_exists", Ends::Well, true),
    ("drop_leaves_nothing", Ends::Well, true),
    ("drop_to_root_is_refused", Ends::Well, true),
    (
        "user_namespace_has_its_map_and_no_right_outside",
        Ends::Well,
        true,
    ),
    (
        "user_namespace_can_be_nested_with_several_extents",
        Ends::Well,
        true,
    ),
    (
        "two_capabilities_are_enough_for_a_user_namespace",
        Ends::Well,
        true,
    ),
    ("descriptor_is_taken_over_once", Ends::Well, false),
    (
        "locked_memory_is_kept_from_swap_core_files_and_children",
        Ends::Well,
        false,
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = arguments.as_slice()
        && flag == "--child"
    {
        return if children::run(name) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    // A child that confined itself cannot always remove what it made, so all of it is made in here.
    let dir = tempfile::tempdir().unwrap();
    let root = nix::unistd::geteuid().is_root();
    let (mut out, mut failed, mut passed, mut skipped) = (std::io::stdout(), Vec::new(), 0, 0);
    for (name, ends, needs_root) in CASES
        .iter()
        .filter(|(name, ..)| filter.is_none_or(|filter| name.contains(filter.as_str())))
    {
        let said = if *needs_root && !root {
            skipped += 1;
            "skipped: it gives up root, which takes being root".to_owned()
        } else {
            let mut child = Command::new("/proc/self/exe")
                .args(["--child", name])
                .env("TMPDIR", dir.path())
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            let (pid, status) = (child.id(), child.wait().unwrap());
            let logged = if *name == "unlisted_call_kills" {
                log::tells(pid)
            } else {
                log::Told::Yes
            };
            match (ended(status) == Some(ends), logged) {
                (true, log::Told::Yes) => {
                    passed += 1;
                    "ok".to_owned()
                }
                (true, log::Told::CannotLook(why)) => {
                    skipped += 1;
                    format!(
                        "skipped: it was killed, but whether that was logged cannot be seen: {why}"
                    )
                }
                (true, log::Told::No) => {
                    failed.push(*name);
                    "FAILED: it was killed, and the kernel's log does not say so".to_owned()
                }
                (false, _) => {
                    failed.push(*name);
                    format!("FAILED: {status}, expected {ends:?}")
                }
            }
        };
        // A report that nobody reads is no reason to fail: the exit code says it too.
        let _ = writeln!(out, "test {name} ... {said}");
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    let _ = writeln!(
        out,
        "test result: {verdict}. {passed} passed; {} failed; {skipped} skipped",
        failed.len()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn ended(status: ExitStatus) -> Option<&'static Ends> {
    const WELL: Ends = Ends::Well;
    const BY_SIGSYS: Ends = Ends::By(libc::SIGSYS);
    match (status.code(), status.signal()) {
        (Some(0), _) => Some(&WELL),
        (_, Some(libc::SIGSYS)) => Some(&BY_SIGSYS),
        _ => None,
    }
}
