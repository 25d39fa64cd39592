//! Beginnings and ends: of sandboxes, and of the launcher.

use std::{fs, time::Instant};

use paw_confine::report::Confinement;
use paw_launch::{
    frame::Tag,
    request::{ProofState, RefusalReason, Reply, Request},
};

use super::gvisor::gvisor;
use crate::rig::{
    As, BASE, Client, Rig, Running, UID, await_end, directory_of, elapsed_ms, lives, plan,
    sandbox_processes,
};

pub(crate) fn killed_launcher_is_swept_up_after() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    let mut running = client.create(plan(1));
    running.start(&["sleep", "60"]);
    let Reply::Sandboxes { sandboxes } = client.ask(Request::List).0 else {
        panic!()
    };
    let pid = sandboxes[0].pid;
    rig.crash_and_restart(As::Root);
    assert!(!lives(pid));
    assert_eq!(
        (rig.leaves(), rig.state("bundles"), sandbox_processes()),
        (vec![], vec![], vec![])
    );
    let mut client = rig.client();
    assert!(matches!(
        client.ask(Request::Status).0,
        Reply::Status { running: 0, .. }
    ));
    assert_eq!(client.run(plan(1), &["echo", "again"]).stdout, "again\n");
}

pub(crate) fn two_capabilities_are_enough_to_sweep_and_to_run() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    let mut running = client.create(plan(1));
    running.start(&["sh", "-c", "sleep 60 & sleep 60"]);
    let Reply::Sandboxes { sandboxes } = client.ask(Request::List).0 else {
        panic!()
    };
    rig.crash_and_restart(As::Unit);
    assert!(!lives(sandboxes[0].pid));
    assert_eq!(
        (rig.leaves(), rig.state("bundles"), sandbox_processes()),
        (vec![], vec![], vec![])
    );
    let output = rig.client().run(plan(1), &["echo", "ran"]);
    assert_eq!(output.stdout, "ran\n");
    let launcher = Confinement::of(rig.launcher.id()).unwrap();
    assert_eq!(
        (launcher.uid, launcher.userns, launcher.seccomp),
        (UID, true, 2)
    );
}

pub(crate) fn end_of_the_lifeline_kills_everything() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    let mut running = client.create(plan(1));
    running.start(&["sleep", "60"]);
    let Reply::Sandboxes { sandboxes } = client.ask(Request::List).0 else {
        panic!()
    };
    let door = children(rig.launcher.id());
    assert!(rig.cut_lifeline().success());
    assert!(!lives(sandboxes[0].pid));
    for pid in door {
        await_end(pid);
    }
    assert_eq!(
        (rig.leaves(), rig.state("bundles"), sandbox_processes()),
        (vec![], vec![], vec![])
    );
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

pub(crate) fn nothing_is_left_behind_after_many_runs() {
    let rig = Rig::new();
    let mut client = rig.client();
    let host_mounts = || {
        fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .count()
    };
    let descriptors = || {
        fs::read_dir(format!("/proc/{}/fd", rig.launcher.id()))
            .unwrap()
            .count()
    };
    client.run(plan(0), &["true"]);
    let before = (
        host_mounts(),
        descriptors(),
        children(rig.launcher.id()).len(),
    );
    let mut times = Vec::new();
    for id in 1..=20 {
        let begun = Instant::now();
        let mut running = client.create(plan(id));
        times.push(elapsed_ms(begun));
        assert_eq!(running.run(&["echo", "ran"]).stdout, "ran\n");
        client.kill(&running.id);
    }
    times.sort_unstable();
    crate::say(&format!(
        "  create: min {} p50 {} max {} ms",
        times[0], times[10], times[19]
    ));
    assert_eq!(
        (
            host_mounts(),
            descriptors(),
            children(rig.launcher.id()).len()
        ),
        before
    );
    assert_eq!(
        (rig.leaves(), rig.state("bundles"), sandbox_processes()),
        (vec![], vec![], vec![])
    );
}

pub(crate) fn launcher_is_nobody_on_the_host() {
    let rig = Rig::new();
    let launcher = Confinement::of(rig.launcher.id()).unwrap();
    assert_eq!(
        (
            launcher.uid,
            launcher.gid,
            launcher.userns,
            launcher.no_new_privs,
            launcher.seccomp
        ),
        (UID, UID, true, true, 2)
    );
    let [door] = children(rig.launcher.id())[..] else {
        panic!()
    };
    let door = Confinement::of(door).unwrap();
    assert_eq!(
        (
            door.uid,
            door.caps_effective.as_str(),
            door.seccomp,
            door.userns
        ),
        (UID, "0000000000000000", 2, false)
    );
    // Its capabilities are those of its own namespace: files of the host's root stay closed to it.
    let status = fs::read_to_string(format!("/proc/{}/uid_map", rig.launcher.id())).unwrap();
    let mapped: Vec<u32> = status
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
        .collect();
    assert_eq!(mapped, [UID, BASE]);
}

pub(crate) fn ceilings_that_others_may_write_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("launcher.toml");
    directory_of(&dir.path().join("x"), 12345);
    fs::write(&config, "image_dirs = []\nmount_prefixes = []\n").unwrap();
    std::os::unix::fs::chown(&config, Some(12345), None).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_paw-launcher"))
        .args([
            "--state",
            "/x",
            "--libexec",
            "/x",
            "--data",
            "/x",
            "--config",
        ])
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("12345"),
        "{output:?}"
    );
}

pub(crate) fn runtimes_are_proven_by_use_and_gvisor_too() {
    let rig = Rig::new();
    let mut client = rig.client();
    let state = |client: &mut Client| {
        let Reply::Runtimes { runtimes } = client.ask(Request::Runtimes).0 else {
            panic!()
        };
        runtimes
            .iter()
            .map(|runtime| runtime.state)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        state(&mut client),
        [
            ProofState::Unverified,
            ProofState::Unverified,
            ProofState::Absent
        ]
    );
    client.run(plan(1), &["true"]);
    assert_eq!(
        state(&mut client),
        [
            ProofState::Proven,
            ProofState::Unverified,
            ProofState::Absent
        ]
    );
    client.run(gvisor(2), &["true"]);
    assert_eq!(
        state(&mut client),
        [ProofState::Proven, ProofState::Proven, ProofState::Absent]
    );
}

pub(crate) fn sandbox_outlives_the_connection_and_can_be_attached_to() {
    let rig = Rig::new();
    let first = rig.client().create(plan(1));
    let (id, digest) = (first.id.clone(), first.attestation.digest);
    drop(first);
    let mut client = rig.client();
    let (Reply::Created { attestation }, fds) = client.ask(Request::Attach { id: id.clone() })
    else {
        panic!()
    };
    assert_eq!(attestation.digest, digest);
    let output = Running::new(id.clone(), *attestation, fds).run(&["echo", "still here"]);
    assert_eq!(output.stdout, "still here\n");
    client.kill(&id);
    assert!(matches!(client.ask(Request::Attach { id }).0, Reply::Ended { end, .. } if end.killed));
    let stranger = Request::Attach { id: plan(99).id };
    assert!(
        matches!(client.ask(stranger).0, Reply::Refused(refusal) if refusal.reason == RefusalReason::NotFound)
    );
}

/// Another outside attaches to a sandbox whose first one died without reading anything, and goes on with its command.
fn check_another_goes_on(plan: paw_launch::request::SandboxPlan) {
    let rig = Rig::new();
    let mut running = rig.client().create(plan);
    running.start(&["sh", "-c", "echo one; read line; echo \"$line\"; exit 5"]);
    // Before it has said anything, or in the middle: whoever reads these three bytes is dead afterwards.
    running.read(&mut [0; 3]);
    let id = running.id.clone();
    drop(running);
    let mut client = rig.client();
    let (Reply::Created { attestation }, fds) = client.ask(Request::Attach { id: id.clone() })
    else {
        panic!()
    };
    let mut running = Running::new(id.clone(), *attestation, fds);
    let resumed = running.resume(b"nobody guesses !");
    assert_eq!((resumed.children.len(), resumed.children[0].stdout), (1, 0));
    running.write(Tag::Stdin, 1, b"two\n");
    let output = running.outcome();
    assert_eq!(
        (output.stdout.as_str(), output.code),
        ("one\ntwo\n", Some(5))
    );
    client.kill(&id);
}

pub(crate) fn another_outside_goes_on_natively() {
    check_another_goes_on(plan(1));
}

pub(crate) fn another_outside_goes_on_in_gvisor() {
    check_another_goes_on(gvisor(1));
}

pub(crate) fn end_of_a_sandbox_is_remembered_for_who_was_away() {
    let rig = Rig::new();
    let mut client = rig.client();
    let running = client.create(plan(1));
    client.kill(&running.id);
    drop(client);
    let mut client = rig.client();
    let id = running.id.clone();
    match client.ask(Request::Attach { id }).0 {
        Reply::Ended { end, .. } => assert!(end.killed && end.signal == Some(9), "{end:?}"),
        other => panic!("{other:?}"),
    }
    let id = plan(2).id;
    assert!(
        matches!(client.ask(Request::Attach { id }).0, Reply::Refused(refusal) if refusal.reason == RefusalReason::NotFound)
    );
}

pub(crate) fn sandbox_that_nobody_waits_for_any_more_is_killed() {
    let rig = Rig::new();
    let (mut client, mut asker) = (rig.client(), rig.client());
    asker.send(Request::Create(Box::new(plan(1))));
    drop(asker);
    // Its end is told to whoever is there.
    let (end, _) = client.ended(&plan(1).id);
    assert!(end.killed, "{end:?}");
    assert_eq!(
        (rig.leaves(), rig.state("bundles"), sandbox_processes()),
        (vec![], vec![], vec![])
    );
}

pub(crate) fn killed_launcher_with_three_sandboxes_and_one_being_made_leaves_nothing() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    let mut all: Vec<Running> = (1..=3).map(|number| client.create(plan(number))).collect();
    for running in &mut all {
        running.start(&["sh", "-c", "while :; do echo more; done"]);
    }
    client.send(Request::Create(Box::new(plan(4))));
    rig.crash_and_restart(As::Root);
    assert_eq!(
        (rig.leaves(), rig.state("bundles"), sandbox_processes()),
        (vec![], vec![], vec![])
    );
}

/// Starts a tree of processes that does not want to end, and expects that a kill ends all of it.
fn check_tree(script: &str) {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut running = client.create(plan(1));
    running.start(&["sh", "-c", &format!("{script}\necho grown; exec sleep 600")]);
    running.await_output();
    assert!(sandbox_processes().len() >= 3, "{script}: it has not grown");
    client.kill(&running.id);
    assert_eq!(
        (rig.leaves(), rig.state("bundles"), sandbox_processes()),
        (vec![], vec![], vec![]),
        "{script}"
    );
}

pub(crate) fn kill_ends_the_whole_tree_whatever_it_does() {
    // Ignoring every polite signal.
    check_tree("trap '' TERM INT HUP; (trap '' TERM INT HUP; sleep 600) & sleep 600 &");
    // Twice forked, in a session of its own, so that no group and no parent leads to it.
    check_tree("(busybox setsid sh -c 'sleep 600 & sleep 600' &); busybox setsid sleep 600 &");
    // Stopped: a signal waits until somebody lets it go on.
    check_tree("sleep 600 & kill -STOP $!; sleep 600 & kill -STOP $!");
}

pub(crate) fn program_that_says_no_hello_is_killed_and_refused() {
    let check = |script: &str, expected: &str| {
        let dir = tempfile::tempdir().unwrap();
        let init = dir.path().join("paw-init");
        // A script whose interpreter is in the image.
        fs::write(&init, format!("#!/bin/sh\n{script}\n")).unwrap();
        let rig = Rig::with_init(&init);
        let refusal = rig.client().refused(plan(1));
        assert!(refusal.message.contains(expected), "{refusal:?}");
        assert_eq!(
            (rig.leaves(), rig.state("bundles"), sandbox_processes()),
            (vec![], vec![], vec![])
        );
    };
    check("echo went wrong >&2; exit 3", "went wrong");
    check("echo not a frame at all; sleep 60", "hello");
    check("exec >&-; sleep 60", "ended before its hello");
    // A true hello, but from another program than the one that was mounted: the interpreter.
    check(
        r#"printf '\017\000\000\000\001\000\000\000\000{"version": 3 }'; sleep 60"#,
        "the program is another one",
    );
}
