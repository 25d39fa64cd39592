//! Commands with a terminal in each runtime, in the window of a real pawctl.

use harness::{cases, report::Case, standalone::Standalone};

use crate::{shim::without_shim, without_sandboxes};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = cases![
        without_sandboxes;
        terminal_works_in_a_native_sandbox,
        terminal_without_signals_works_in_a_sandbox_of_gvisor,
        terminals_of_the_host_and_of_others_are_out_of_reach,
        sandbox_cannot_have_all_terminals_of_the_host,
    ];
    cases.extend(cases![
        without_shim;
        terminal_works_in_a_sandbox_of_a_shim,
    ]);
    cases
}

/// What a person does at a terminal: looks at its size, edits a line, interrupts, makes the window larger, and leaves.
fn used(system: &Standalone, runtime: &str) {
    let script = "test -t 0 && test -t 1 && test -t 2 && stty size; echo >/dev/tty own; \
        read word; echo \"<$word>\"; \
        trap 'echo heard' INT; trap 'stty size' WINCH; echo ready; \
        while :; do read word; case $word in end) exit 7;; esac; done";
    let words = [
        "sandbox",
        "run",
        "-t",
        "--runtime",
        runtime,
        "--timeout",
        "60s",
        "--",
        "sh",
        "-c",
        script,
    ];
    let mut window = system.pawctl_in_a_window((40, 132), &words);
    window.until("40 132\r\nown\r\n");
    assert!(!window.is_usual(), "{runtime}");
    window.press(b"wordx\x7fs\r");
    window.until("<words>\r\nready\r\n");
    window.press_until(&[3], "heard");
    window.resize(50, 200);
    window.until("50 200");
    window.press(b"end\r");
    assert_eq!(window.end().code(), Some(7), "{runtime}");
    assert!(window.is_usual(), "{runtime}: it was not put back");
}

async fn terminal_works_in_a_native_sandbox() {
    let system = Standalone::start("").await;
    used(&system, "native");
}

/// Its own kernel, as of 20221219, has terminals without signals, without editing and without `/dev/tty`; what a command does with
/// keys itself works.
async fn terminal_without_signals_works_in_a_sandbox_of_gvisor() {
    let system = Standalone::start("").await;
    let script = "test -t 0 && test -t 1 && test -t 2 && stty size; echo ready; \
        read word; echo \"<$word>\"; stty size; exit 7";
    let words = [
        "sandbox",
        "run",
        "-t",
        "--runtime",
        "gvisor",
        "--timeout",
        "60s",
        "--",
        "sh",
        "-c",
        script,
    ];
    let mut window = system.pawctl_in_a_window((40, 132), &words);
    window.until("40 132\r\nready\r\n");
    assert!(!window.is_usual());
    window.press(b"words\r");
    window.until("<words>\r\n40 132\r\n");
    assert_eq!(window.end().code(), Some(7));
    assert!(window.is_usual(), "it was not put back");
}

async fn terminal_works_in_a_sandbox_of_a_shim() {
    let system = Standalone::start_with_shim("").await;
    used(&system, "kata");
}

/// A terminal of ours is open meanwhile, and another sandbox has one: inside there is only the sandbox's own.
async fn terminals_of_the_host_and_of_others_are_out_of_reach() {
    let system = Standalone::start("").await;
    let mut other = system.pawctl_in_a_window(
        (24, 80),
        &[
            "sandbox",
            "run",
            "-t",
            "--runtime",
            "native",
            "--",
            "sh",
            "-c",
            "echo ready; read word",
        ],
    );
    other.until("ready");
    let mut window = system.pawctl_in_a_window(
        (24, 80),
        &[
            "sandbox",
            "run",
            "-t",
            "--runtime",
            "native",
            "--",
            "sh",
            "-c",
            "echo $(ls /dev/pts) and $(tty)",
        ],
    );
    window.until("0 ptmx and /dev/pts/0\r\n");
    assert_eq!(window.end().code(), Some(0));
    other.press(b"\r");
    assert_eq!(other.end().code(), Some(0));
}

async fn sandbox_cannot_have_all_terminals_of_the_host() {
    let system = Standalone::start("").await;
    // Each shell holds one terminal and starts the next, until there is none.
    let shell = "D=$((D + 1)); export D; sh -c \"$S\" 3<>/dev/ptmx 2>/dev/null || { test -e /tmp/full || echo $((D - 1)); : >/tmp/full; }";
    let variable = format!("S={shell}");
    let words = [
        "sandbox",
        "run",
        "--runtime",
        "native",
        "--env",
        "PATH=/bin:/usr/bin",
        "--env",
        &variable,
        "--",
        "sh",
        "-c",
        shell,
    ];
    let output = system.pawctl(&words).await;
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "16\n",
        "{output:?}"
    );
}
