//! What each process of ours is, seen from outside after it has started.

use harness::{
    cases,
    report::Case,
    standalone::{Seen, Standalone, look},
};

use crate::without_sandboxes;

pub(crate) fn cases() -> Vec<Case> {
    cases![without_sandboxes; no_process_is_root_after_the_start, every_process_is_confined, status_says_what_the_kernel_says]
}

fn our_userns() -> u64 {
    look(std::process::id()).expect("we run").userns
}

async fn processes() -> (Standalone, Vec<Seen>) {
    let system = Standalone::start("").await;
    let seen = system.seen();
    assert!(
        seen.len() >= 3,
        "pawd, the launcher and the audit writer are expected: {seen:#?}"
    );
    (system, seen)
}

async fn no_process_is_root_after_the_start() {
    let (_system, seen) = processes().await;
    for process in &seen {
        assert!(process.uids.iter().all(|uid| *uid != 0), "{process:#?}");
        let powerless = process.capabilities == 0 || process.userns != our_userns();
        assert!(powerless, "a capability over the host: {process:#?}");
    }
    let mut uids: Vec<u32> = seen.iter().map(|process| process.uids[0]).collect();
    uids.sort_unstable();
    uids.dedup();
    assert!(
        uids.len() >= 3,
        "each process has a user of its own: {seen:#?}"
    );
}

async fn every_process_is_confined() {
    let (_system, seen) = processes().await;
    for process in &seen {
        assert!(process.no_new_privs && process.seccomp == 2, "{process:#?}");
    }
}

async fn status_says_what_the_kernel_says() {
    let (system, seen) = processes().await;
    let said = system.processes().await;
    for name in ["pawd", "paw-launcher", "paw-audit", "paw-egress"] {
        let process = seen.iter().find(|process| {
            process
                .command
                .split(' ')
                .next()
                .is_some_and(|program| program.ends_with(&format!("/{name}")))
        });
        assert_eq!(
            said.get(name).copied(),
            process.map(|process| process.pid),
            "{name} of {said:?}"
        );
    }
}
