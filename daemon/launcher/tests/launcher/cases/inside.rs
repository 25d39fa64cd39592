//! What holds inside a sandbox: commands, limits, mounts, attestation.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    time::Instant,
};

use paw_confine::report::Confinement;
use paw_launch::{
    egress::PORT,
    request::{Image, Limits, Mount, MountSource, Reply, Request, SandboxPlan},
    tree::measure,
    workspace::Settle,
};

use crate::{
    rig::{BASE, Rig, Running, elapsed_ms, open_to_all, plan},
    say,
};

/// The first version of landlock that has rules about ports.
const KNOWS_PORTS: u32 = 4;

pub(crate) fn command_runs_in_a_bare_image() {
    let rig = Rig::new();
    let output = rig
        .client()
        .run(plan(1), &["sh", "-c", "id -u; echo to stderr >&2; exit 7"]);
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str(), output.code),
        ("1000\n", "to stderr\n", Some(7))
    );
}

pub(crate) fn command_runs_in_a_view_of_the_host() {
    let rig = Rig::new();
    let plan = SandboxPlan {
        image: Image::Host,
        ..plan(1)
    };
    let output = rig.client().run(
        plan,
        &[
            "/bin/sh",
            "-c",
            "ls -d /root /home /var /etc/shadow 2>/dev/null; /usr/bin/env true && echo ran",
        ],
    );
    assert_eq!(output.stdout, "ran\n", "{}", output.stderr);
}

pub(crate) fn sandbox_has_no_right_and_sees_nothing_of_the_host() {
    let rig = Rig::new();
    let script = "cat /proc/1/comm; ls /proc > /tmp/seen; grep -c '^[0-9]' /tmp/seen; touch /x /bin/x /.paw/x /etc/x 2>&1 | wc -l; cat /proc/self/attr/x 2>/dev/null; \
        ls /sys /.paw; cat /proc/sys/kernel/core_pattern >/dev/null && echo x > /proc/sys/kernel/hostname; ls -ld /proc/1/root/home 2>/dev/null";
    let image = rig.dir.path().join("data/images/busybox/bin");
    symlink("busybox", image.join("grep")).unwrap();
    let output = rig.client().run(plan(1), &["sh", "-c", script]);
    // paw-init, the shell and ls; four files that cannot be made; nothing in /sys; the program in /.paw.
    assert_eq!(
        output.stdout, "init\n3\n4\n/.paw:\ninit\n\n/sys:\n",
        "{}",
        output.stderr
    );
}

pub(crate) fn forbidden_calls_fail_inside() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut running = client.create(plan(1));
    for argv in [
        &["mount", "-t", "tmpfs", "x", "/tmp"][..],
        &["unshare", "-U", "true"],
        &["unshare", "-n", "true"],
    ] {
        let output = running.run(argv);
        assert_ne!(output.code, Some(0), "{argv:?}");
        let refused = ["not permitted", "permission denied"]
            .iter()
            .any(|words| output.stderr.contains(words));
        assert!(refused, "{argv:?}: {output:?}");
    }
    client.kill(&running.id);
}

pub(crate) fn attestation_says_what_the_kernel_says() {
    let rig = Rig::new();
    let mut client = rig.client();
    let running = client.create(plan(1));
    let facts = &running.attestation.facts;
    let Reply::Sandboxes { sandboxes } = client.ask(Request::List).0 else {
        panic!()
    };
    let status = Confinement::of(sandboxes[0].pid).unwrap();
    assert_eq!(
        (facts.uid, facts.gid, facts.seccomp, facts.no_new_privs),
        (status.uid, status.gid, 2, true)
    );
    assert!(
        status.uid >= BASE && status.uid < BASE + 8 * 65536,
        "{}",
        status.uid
    );
    assert_eq!(facts.capabilities, status.caps);
    // What weight a kernel without one shows is told by a test of its own.
    let limits = Limits {
        io_weight: facts.limits.io_weight,
        ..plan(1).limits
    };
    assert_eq!(facts.limits, limits);
    assert_eq!(facts.interfaces, ["lo"]);
    for (name, inode) in &facts.namespaces {
        let link = fs::read_link(format!("/proc/{}/ns/{name}", sandboxes[0].pid)).unwrap();
        assert_eq!(link.to_str().unwrap(), format!("{name}:[{inode}]"));
        assert_ne!(
            link,
            fs::read_link(format!("/proc/self/ns/{name}")).unwrap()
        );
    }
    let digest = paw_policy::Digest::of(&serde_json::to_vec(facts).unwrap());
    assert_eq!(running.attestation.digest, digest);
    let init = paw_policy::Digest::of(&fs::read(rig.dir.path().join("libexec/paw-init")).unwrap());
    assert_eq!(facts.init_digest, init);
    let image = fs::File::open(rig.dir.path().join("data/images/busybox")).unwrap();
    let root = measure(&image.into()).unwrap().digest;
    assert_eq!(facts.root_digest, Some(root));
    let made_by =
        paw_policy::Digest::of(&fs::read(rig.dir.path().join("libexec/paw-create")).unwrap());
    assert_eq!(facts.runtime_digest, made_by);
}

/// As an upgrade of the package does, which leaves the launcher running.
pub(crate) fn shipped_image_that_changes_is_measured_again() {
    let rig = Rig::new();
    let image = rig.dir.path().join("data/images/busybox");
    let deep = image.join("usr/share/deep");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "first").unwrap();
    fs::write(deep.join("other"), "").unwrap();
    for path in [
        "usr",
        "usr/share",
        "usr/share/deep",
        "usr/share/deep/file",
        "usr/share/deep/other",
    ] {
        open_to_all(&image.join(path));
    }
    let mut client = rig.client();
    let mut told = |id| {
        let digest = client.create(plan(id)).attestation.facts.root_digest;
        let is = measure(&fs::File::open(&image).unwrap().into()).unwrap();
        assert_eq!(digest, Some(is.digest), "sandbox {id}");
        is.digest
    };
    let first = told(1);
    assert_eq!(told(2), first);
    fs::write(deep.join("file"), "other").unwrap();
    let changed = told(3);
    assert_ne!(changed, first);
    fs::remove_file(deep.join("other")).unwrap();
    assert_ne!(told(4), changed);
}

/// Landlock would not be missed otherwise: a sandbox has a network of its own, in which it harms nobody.
pub(crate) fn port_that_is_not_the_proxys_cannot_be_bound() {
    let rig = Rig::new();
    let image = rig.dir.path().join("data/images/busybox/bin");
    for name in ["nc", "timeout"] {
        symlink("busybox", image.join(name)).unwrap();
    }
    let mut client = rig.client();
    let mut running = client.create(plan(1));
    let abi = running.attestation.facts.landlock_abi;
    if abi < KNOWS_PORTS {
        say(&format!(
            "  skipped: landlock of this kernel is of version {abi}, and knows ports from {KNOWS_PORTS} on"
        ));
        return;
    }
    let mut listen = |port: u16| {
        let port = port.to_string();
        running.run(&["timeout", "1", "nc", "-l", "-p", &port])
    };
    let refused = listen(5000);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
    // It waits there until it is ended.
    let waits = listen(PORT);
    assert_eq!(
        (waits.signal, waits.stderr.as_str()),
        (Some(15), ""),
        "{waits:?}"
    );
    client.kill(&running.id);
}

pub(crate) fn memory_over_the_limit_is_killed_and_told() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut running = client.create(plan(1));
    let output = running.run(&["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"]);
    assert_eq!(output.signal, Some(9), "{output:?}");
    let (end, usage) = client.kill(&running.id);
    assert!(end.oom_killed, "{end:?}");
    assert!(
        usage.memory_peak > 32 << 20 && usage.memory_peak <= 64 << 20,
        "{usage:?}"
    );
}

pub(crate) fn processes_over_the_limit_are_denied_and_told() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut running = client.create(plan(1));
    running.run(&[
        "sh",
        "-c",
        "i=0; while [ $i -lt 100 ]; do sleep 20 & i=$((i+1)); done",
    ]);
    let (_, usage) = client.kill(&running.id);
    assert!(usage.pids_denied > 0, "{usage:?}");
}

pub(crate) fn files_over_the_limit_do_not_fit() {
    let rig = Rig::new();
    let output = rig.client().run(
        plan(1),
        &["dd", "if=/dev/zero", "of=/tmp/x", "bs=1M", "count=9"],
    );
    assert!(output.stderr.contains("No space left"), "{output:?}");
}

pub(crate) fn sandbox_past_its_deadline_is_killed_and_told() {
    let rig = Rig::new();
    let mut client = rig.client();
    let begun = Instant::now();
    let mut running = client.create(SandboxPlan {
        limits: Limits {
            wall_ms: 1_500,
            ..plan(1).limits
        },
        ..plan(1)
    });
    running.start(&["sleep", "60"]);
    let (end, usage) = client.ended(&running.id);
    assert!(end.timed_out && !end.killed, "{end:?}");
    assert!(
        usage.wall_ms >= 1_500 && elapsed_ms(begun) < 20_000,
        "{usage:?}"
    );
}

pub(crate) fn workspace_outlives_its_sandboxes_and_has_one_owner() {
    let rig = Rig::new();
    let mut client = rig.client();
    let with_workspace = |id, name: &str| SandboxPlan {
        mounts: vec![Mount {
            source: MountSource::Workspace(name.parse().unwrap()),
            target: "/work".into(),
            writable: true,
        }],
        ..plan(id)
    };
    client.run(
        with_workspace(1, "a"),
        &["sh", "-c", "echo kept > /work/file"],
    );
    client.settle(1, Settle::Commit);
    // Another slot is used, because the first one is taken by another sandbox.
    let other = client.create(plan(2));
    let output = client.run(
        with_workspace(3, "a"),
        &[
            "sh",
            "-c",
            "cat /work/file && echo more >> /work/file && stat -c %u /work/file",
        ],
    );
    assert_eq!(output.stdout, "kept\n1000\n", "{}", output.stderr);
    client.kill(&other.id);
    let owner = fs::metadata(rig.dir.path().join("state/workspaces/a/current/files/file"))
        .unwrap()
        .uid();
    assert!(owner > BASE && owner < BASE + 65536, "{owner}");
    let stranger = client.run(with_workspace(4, "b"), &["ls", "/work"]);
    assert_eq!(stranger.stdout, "");
    assert_ne!(
        fs::metadata(rig.dir.path().join("state/workspaces/b"))
            .unwrap()
            .uid(),
        owner
    );
}

pub(crate) fn read_only_mount_cannot_be_written() {
    let rig = Rig::new();
    let shared = rig.dir.path().join("shared/x");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let with = |id, writable| SandboxPlan {
        mounts: vec![Mount {
            source: MountSource::Path(shared.clone()),
            target: "/some/where".into(),
            writable,
        }],
        ..plan(id)
    };
    let mut client = rig.client();
    assert_ne!(
        client
            .run(with(1, false), &["touch", "/some/where/file"])
            .code,
        Some(0)
    );
    assert_eq!(
        client
            .run(with(2, true), &["touch", "/some/where/file"])
            .code,
        Some(0)
    );
}

pub(crate) fn sandboxes_do_not_share_ids() {
    let rig = Rig::new();
    let mut client = rig.client();
    let running: Vec<Running> = (0..4).map(|id| client.create(plan(id))).collect();
    let mut slots: Vec<u32> = running
        .iter()
        .map(|running| (running.attestation.facts.uid - BASE) / 65536)
        .collect();
    slots.sort_unstable();
    assert_eq!(slots, [1, 2, 3, 4]);
    for running in running {
        client.kill(&running.id);
    }
}
