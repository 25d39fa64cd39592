//! The same promises where the sandbox has a kernel of its own.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use paw_launch::{
    request::{
        Limits, Mount, MountSource, ProofState, RefusalReason, Reply, Request, Runtime, SandboxPlan,
    },
    workspace::Settle,
};

use crate::rig::{BASE, Rig, plan};

pub(super) fn gvisor(id: u64) -> SandboxPlan {
    let plan = plan(id);
    SandboxPlan {
        runtime: Runtime::Gvisor,
        limits: Limits {
            memory: 128 << 20,
            ..plan.limits
        },
        ..plan
    }
}

pub(crate) fn gvisor_runs_a_command_on_a_kernel_of_its_own() {
    let rig = Rig::new();
    let output = rig.client().run(
        gvisor(1),
        &[
            "sh",
            "-c",
            "id -u; dmesg | head -n 1; echo to stderr >&2; exit 7",
        ],
    );
    assert_eq!(
        output.stdout, "1000\n[   0.000000] Starting gVisor...\n",
        "{output:?}"
    );
    assert_eq!(
        (output.stderr.as_str(), output.code),
        ("to stderr\n", Some(7))
    );
}

pub(crate) fn gvisor_attestation_says_what_the_kernel_says() {
    let rig = Rig::new();
    let mut client = rig.client();
    let running = client.create(gvisor(1));
    let facts = &running.attestation.facts;
    assert_eq!(facts.runtime, Runtime::Gvisor);
    assert!(facts.runtime_version.starts_with("runsc 20"), "{facts:?}");
    assert!(
        (BASE + 65536..BASE + 8 * 65536).contains(&facts.uid),
        "{facts:?}"
    );
    assert_eq!((facts.seccomp, facts.no_new_privs), (2, true));
    assert_eq!(
        (facts.interfaces.as_slice(), facts.routes.len()),
        (&["lo".to_owned()][..], 0)
    );
    assert!(!facts.unseen.is_empty());
    let runsc = paw_policy::Digest::of(&fs::read("/usr/bin/runsc").unwrap());
    assert_eq!(facts.runtime_digest, runsc);
    // Seen again from here: every process in the leaf belongs to this slot, and to nobody else's.
    let mut seen = 0;
    for leaf in rig.leaves() {
        for pid in fs::read_to_string(leaf.join("cgroup.procs"))
            .unwrap()
            .lines()
        {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let uid = status
                .lines()
                .find_map(|line| line.strip_prefix("Uid:\t"))
                .unwrap();
            let uid: u32 = uid.split('\t').next().unwrap().parse().unwrap();
            assert!((BASE + 65536..BASE + 2 * 65536).contains(&uid), "{status}");
            seen += 1;
        }
    }
    assert!(
        seen >= 3,
        "runsc, its gofer and its kernel are {seen} processes"
    );
    let Reply::Runtimes { runtimes } = client.ask(Request::Runtimes).0 else {
        panic!("no runtimes");
    };
    let state = runtimes
        .iter()
        .find(|state| state.name == Runtime::Gvisor)
        .unwrap();
    assert_eq!(state.version.as_ref(), Some(&facts.runtime_version));
    client.kill(&running.id);
}

pub(crate) fn gvisor_has_no_network_and_sees_nothing_of_the_host() {
    let rig = Rig::new();
    let script = "sed -n 's/^ *\\([^:]*\\):.*/\\1/p' /proc/net/dev; ls / | tr '\\n' ' '; touch /x /bin/x /.paw/x 2>&1 | wc -l; \
        echo x 2>/dev/null > /proc/sys/kernel/core_pattern || echo refused; mount -t tmpfs x /tmp 2>/dev/null || echo no mount; \
        wc -l < /proc/1/cmdline; set -- /proc/[0-9]*; echo $#; ls /dev/kvm /dev/mem 2>/dev/null; echo end";
    for name in ["grep", "sed", "tr"] {
        let image = rig.dir.path().join("data/images/busybox/bin");
        std::os::unix::fs::symlink("busybox", image.join(name)).unwrap();
    }
    let output = rig.client().run(gvisor(1), &["sh", "-c", script]);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "lo",
            "bin dev etc proc run sys tmp 3",
            "refused",
            "no mount",
            "0",
            "2",
            "end"
        ],
        "{output:?}"
    );
}

pub(crate) fn gvisor_memory_over_the_limit_is_killed_and_told() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut running = client.create(gvisor(1));
    running.start(&["sh", "-c", "dd if=/dev/zero of=/dev/null bs=400M count=1"]);
    let (end, _) = client.ended(&running.id);
    assert!(end.oom_killed && !end.timed_out && !end.killed, "{end:?}");
}

pub(crate) fn gvisor_deadline_and_kill_leave_nothing_behind() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut plan = gvisor(1);
    plan.limits.wall_ms = 500;
    let mut late = client.create(plan);
    late.start(&["sleep", "1000"]);
    let (end, usage) = client.ended(&late.id);
    assert!(end.timed_out, "{end:?}");
    assert!(usage.wall_ms >= 500, "{usage:?}");
    let mut killed = client.create(gvisor(2));
    killed.start(&["sleep", "1000"]);
    let (end, _) = client.kill(&killed.id);
    assert!(end.killed, "{end:?}");
    assert_eq!((rig.leaves(), rig.state("bundles")), (vec![], vec![]));
}

pub(crate) fn gvisor_workspace_belongs_to_its_agent() {
    let rig = Rig::new();
    let mut client = rig.client();
    let with = |plan: SandboxPlan| SandboxPlan {
        mounts: vec![Mount {
            source: MountSource::Workspace("assistant".parse().unwrap()),
            target: "/workspace".into(),
            writable: true,
        }],
        ..plan
    };
    // Written under one kernel, read under the other, and the other way round.
    let output = client.run(with(gvisor(1)), &["sh", "-c", "echo one > /workspace/a"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    client.settle(1, Settle::Commit);
    let output = client.run(
        with(plan(2)),
        &["sh", "-c", "cat /workspace/a && echo two >> /workspace/a"],
    );
    assert_eq!(
        (output.stdout.as_str(), output.code),
        ("one\n", Some(0)),
        "{output:?}"
    );
    client.settle(2, Settle::Commit);
    let output = client.run(with(gvisor(3)), &["cat", "/workspace/a"]);
    assert_eq!(output.stdout, "one\ntwo\n", "{output:?}");
}

/// A runsc that says this of its version, with this mode. It is started before the launcher confines itself, so it is a script.
fn told(version: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let runsc = dir.path().join("runsc");
    fs::write(&runsc, format!("#!/bin/sh\necho '{version}'\n")).unwrap();
    fs::set_permissions(&runsc, fs::Permissions::from_mode(mode)).unwrap();
    (dir, runsc)
}

pub(crate) fn runsc_that_is_old_dateless_or_open_to_others_is_absent_and_says_why() {
    let good = "runsc version 0.0~20221219.0";
    for (version, mode, expected) in [
        (good, 0o755, None),
        (
            "runsc version release-20200101.0",
            0o755,
            Some("20221219 is the oldest that is used"),
        ),
        ("runsc version 1.0", 0o755, Some("which has no date in it")),
        (good, 0o757, Some("can be written by others")),
        (good, 0o775, Some("can be written by others")),
        ("", 0, Some("no runsc at")),
    ] {
        let (dir, runsc) = told(version, mode);
        if mode == 0 {
            fs::remove_file(&runsc).unwrap();
        }
        let rig = Rig::configured(&format!("[gvisor]\nrunsc = {runsc:?}\n"));
        let mut client = rig.client();
        let Reply::Runtimes { runtimes } = client.ask(Request::Runtimes).0 else {
            panic!("no runtimes");
        };
        let seen = runtimes
            .iter()
            .find(|state| state.name == Runtime::Gvisor)
            .unwrap();
        let Some(expected) = expected else {
            assert_eq!(seen.state, ProofState::Unverified, "{seen:?}");
            continue;
        };
        assert_eq!(seen.state, ProofState::Absent, "{version} {mode:o}");
        assert!(seen.reason.contains(expected), "{seen:?}");
        let refusal = client.refused(gvisor(1));
        assert_eq!(refusal.reason, RefusalReason::Runtime, "{refusal:?}");
        assert!(refusal.message.contains(expected), "{refusal:?}");
        drop(dir);
    }
}

pub(crate) fn gvisor_with_too_little_memory_is_refused() {
    let rig = Rig::new();
    let mut plan = gvisor(1);
    plan.limits.memory = 32 << 20;
    let refusal = rig.client().refused(plan);
    assert_eq!(refusal.reason, RefusalReason::Ceiling, "{refusal:?}");
    assert!(refusal.message.contains("gVisor"), "{refusal:?}");
}
