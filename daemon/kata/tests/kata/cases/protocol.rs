//! Shims as they are, and as they should not be.

use std::{fs, os::unix::fs::PermissionsExt, time::Instant};

use paw_launch::request::{Isolation, ProofState, RefusalReason};

use crate::{
    fake,
    rig::{Rig, is_kata, plan, script, shim},
    shared::{copy, open_to_all},
};

pub(crate) fn shim_that_is_not_katas_is_no_virtual_machine() {
    let rig = Rig::new();
    let state = rig.state();
    assert_eq!(state.state, ProofState::Unverified, "{state:?}");
    if is_kata() {
        assert_eq!(state.isolation, Isolation::Vm);
        return;
    }
    assert_eq!(state.isolation, Isolation::Process);
    for floor in [Isolation::Kernel, Isolation::Vm] {
        let mut strict = plan(1);
        strict.floor = floor;
        let refusal = rig.client().refused(strict);
        assert_eq!(refusal.reason, RefusalReason::Runtime, "{refusal:?}");
        assert!(
            refusal.message.contains("isolates by process"),
            "{refusal:?}"
        );
    }
    rig.client().run(plan(2), &["true"]);
    assert_eq!(rig.state().state, ProofState::Proven);
    rig.assert_nothing_is_left();
}

pub(crate) fn both_versions_of_the_task_service_are_spoken() {
    // A shim that says it speaks one version and speaks the other; the real one stands behind it.
    for (says, speaks) in [(2, 3), (3, 2), (2, 2), (3, 3)] {
        let seen = fake::negotiate(says, speaks);
        let last = format!("containerd.task.v{speaks}.Task");
        let tried: Vec<&str> = seen.iter().map(String::as_str).collect();
        if says == speaks {
            assert_eq!(tried, [last.as_str()]);
        } else {
            assert_eq!(
                tried,
                [
                    format!("containerd.task.v{says}.Task").as_str(),
                    last.as_str()
                ]
            );
        }
    }
}

pub(crate) fn shim_that_prints_garbage_is_refused() {
    for said in [
        "echo hello",
        "echo unix://../x",
        "printf '\\377\\376'",
        "exit 3",
        "true",
    ] {
        let refusal = with_script(said);
        assert_eq!(refusal.reason, RefusalReason::Failed, "{said}: {refusal:?}");
    }
}

pub(crate) fn shim_that_listens_outside_of_the_private_run_is_refused() {
    // A file of ours: what is recorded as a shim's socket was once removed with root's rights.
    let foreign = tempfile::NamedTempFile::new().unwrap();
    let path = foreign.path().to_str().unwrap();
    for said in [
        format!("echo unix://{path}"),
        format!("echo unix:///run/..{path}"),
    ] {
        let refusal = with_script(&said);
        assert!(
            refusal.message.contains("does not say where it listens"),
            "{said}: {refusal:?}"
        );
        assert!(foreign.path().exists(), "{said}: removed");
    }
}

pub(crate) fn shim_that_answers_garbage_is_refused() {
    let rig = fake::garbage();
    let begun = Instant::now();
    let refusal = rig.client().refused(plan(1));
    assert_eq!(refusal.reason, RefusalReason::Failed, "{refusal:?}");
    assert!(begun.elapsed().as_secs() < 9, "{:?}", begun.elapsed());
    assert_eq!(rig.processes(), Vec::new());
}

pub(crate) fn shim_that_never_starts_is_given_up() {
    let begun = Instant::now();
    let refusal = with_script("sleep 1000");
    assert_eq!(refusal.reason, RefusalReason::Failed, "{refusal:?}");
    assert!(
        refusal.message.contains("did not end within"),
        "{refusal:?}"
    );
    assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
}

/// What a busy host makes slow first is not what uses all of the time.
pub(crate) fn shim_that_is_slow_to_start_is_waited_for_while_there_is_time() {
    let dir = tempfile::tempdir().unwrap();
    let wrapper = dir.path().join("containerd-shim-slow-v2");
    script(
        &wrapper,
        &format!(
            "#!/bin/sh\ncase $* in *start) sleep 5;; esac\nexec {} \"$@\"\n",
            shim().display()
        ),
    );
    open_to_all(dir.path());
    let rig = Rig::with_shim(&wrapper);
    let output = rig.client().run(plan(1), &["echo", "there"]);
    assert_eq!(output.stdout, "there\n");
    rig.assert_nothing_is_left();
}

pub(crate) fn task_outside_its_cgroup_is_refused() {
    let rig = fake::elsewhere();
    let refusal = rig.client().refused(plan(1));
    assert!(refusal.message.contains("is in cgroup"), "{refusal:?}");
}

pub(crate) fn missing_shim_is_absent_with_its_reason() {
    let rig = Rig::with_shim("/nowhere/containerd-shim-kata-v2".as_ref());
    let state = rig.state();
    assert_eq!(state.state, ProofState::Absent);
    assert!(state.reason.contains("no shim at /nowhere"), "{state:?}");
    assert_eq!(rig.client().refused(plan(1)).reason, RefusalReason::Runtime);
}

pub(crate) fn shim_that_others_may_write_is_absent_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("containerd-shim-runc-v2");
    copy(&shim(), &open);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o757)).unwrap();
    let state = Rig::with_shim(&open).state();
    assert_eq!(state.state, ProofState::Absent);
    assert!(
        state.reason.contains("can be written by others"),
        "{state:?}"
    );
}

/// What comes of a shim whose `start` is this.
fn with_script(start: &str) -> paw_launch::request::Refusal {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("containerd-shim-bad-v2");
    script(
        &path,
        &format!(
            "#!/bin/sh\ncase $* in -v|--version) echo 'Version: 1.0.0';; *start) {start};; esac\n"
        ),
    );
    let rig = Rig::with_shim(&path);
    let refusal = rig.client().refused(plan(1));
    rig.assert_nothing_is_left();
    refusal
}
