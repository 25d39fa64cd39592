//! What runs in a sandbox of a shim, and what it may.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use paw_launch::{
    frame::Tag,
    request::{Isolation, Mount, MountSource},
};

use crate::{
    rig::{BASE, Rig, is_kata, plan, script, shim},
    shared::open_to_all,
};

pub(crate) fn shim_runs_a_command_and_its_streams_and_code_pass() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut running = client.create(plan(1));
    let output = running.run(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str(), output.code),
        ("out\n", "err\n", Some(7))
    );
    assert_eq!(running.run(&["true"]).code, Some(0));
    let killed = running.run(&["sh", "-c", "kill -9 $$"]);
    assert_eq!((killed.code, killed.signal), (None, Some(9)));
    client.kill(&running.id);
    rig.assert_nothing_is_left();
}

pub(crate) fn shim_passes_binary_streams_unchanged() {
    let rig = Rig::new();
    let mut running = rig.client().create(plan(1));
    running.start(&["cat"]);
    let sent: Vec<u8> = (0..200_000_u32)
        .flat_map(|n| n.to_le_bytes())
        .take(200_000)
        .collect();
    for piece in sent.chunks(60_000) {
        running.send(Tag::Stdin, piece);
    }
    running.send(Tag::StdinEnd, b"");
    let (got, code) = running.collect();
    assert_eq!(code, Some(0));
    assert!(
        got == sent,
        "{} bytes came back of {}",
        got.len(),
        sent.len()
    );
}

pub(crate) fn shim_sandbox_sees_nothing_of_the_host_and_changes_nothing() {
    let rig = Rig::new();
    let script = "id -u; cat /proc/self/status | while read a b; do case $a in CapEff:|NoNewPrivs:|Seccomp:) echo $a $b;; esac; done; \
        touch /x /bin/x /.paw/x 2>/dev/null || echo read-only; mount -t tmpfs x /tmp 2>/dev/null || echo no mount; \
        unshare -U true 2>/dev/null || echo no namespace; echo x 2>/dev/null > /proc/sys/kernel/core_pattern || echo no setting; \
        ls /sys /dev/kvm /dev/mem /var /root 2>/dev/null; cat /proc/1/environ >/dev/null 2>&1 && echo environ; echo end";
    let output = rig.client().run(plan(1), &["sh", "-c", script]);
    let lines: Vec<&str> = output
        .stdout
        .lines()
        .filter(|line| !["environ", "/sys:"].contains(line))
        .collect();
    assert_eq!(
        lines,
        [
            "1000",
            "CapEff: 0000000000000000",
            "NoNewPrivs: 1",
            "Seccomp: 2",
            "read-only",
            "no mount",
            "no namespace",
            "no setting",
            "end"
        ],
        "{output:?}"
    );
}

pub(crate) fn shim_attestation_says_what_the_kernel_says() {
    let rig = Rig::new();
    let mut client = rig.client();
    let running = client.create(plan(1));
    let facts = &running.attestation.facts;
    let state = rig.state();
    assert_eq!(state.version.as_ref(), Some(&facts.runtime_version));
    assert_eq!(state.isolation, facts.isolation);
    assert!(!facts.unseen.is_empty());
    assert_eq!((facts.seccomp, facts.no_new_privs), (2, true));
    for group in facts.cgroups.values() {
        assert!(group.starts_with(&rig.cgroup), "{facts:?}");
    }
    if is_kata() {
        assert_eq!(facts.isolation, Isolation::Vm);
        client.kill(&running.id);
        return;
    }
    assert_eq!(facts.isolation, Isolation::Process);
    assert!(
        (BASE + 65536..BASE + 2 * 65536).contains(&facts.uid),
        "{facts:?}"
    );
    assert!(
        facts
            .capabilities
            .iter()
            .all(|set| set == "0000000000000000")
    );
    // A weight that nobody asked for is the kernel's own.
    let limits = paw_launch::request::Limits {
        io_weight: None,
        ..facts.limits
    };
    assert_eq!(limits, plan(1).limits);
    assert_eq!(facts.interfaces, ["lo"]);
    // Seen again from here.
    let status = rig
        .processes()
        .iter()
        .find(|(_, command)| command.starts_with("/.paw/init"))
        .map(|(pid, _)| fs::read_to_string(format!("/proc/{pid}/status")).unwrap())
        .unwrap();
    assert!(
        status.contains(&format!("\nUid:\t{}\t", facts.uid)),
        "{status}"
    );
    assert!(
        status.contains("\nSeccomp:\t2\n") && status.contains("\nCapBnd:\t0000000000000000\n"),
        "{status}"
    );
    client.kill(&running.id);
}

pub(crate) fn temporary_files_can_be_written_in_a_shim_within_their_limit() {
    let rig = Rig::new();
    let script = "for dir in /tmp /run /dev/shm; do echo $dir > $dir/x && cat $dir/x; done; \
        dd if=/dev/zero of=/tmp/big bs=1M count=100 2>&1 | grep -c 'No space left'";
    let image = rig.dir.path().join("data/images/busybox/bin");
    std::os::unix::fs::symlink("busybox", image.join("grep")).unwrap();
    let output = rig.client().run(plan(1), &["sh", "-c", script]);
    assert_eq!(output.stdout, "/tmp\n/run\n/dev/shm\n1\n", "{output:?}");
}

pub(crate) fn shim_memory_over_the_limit_is_killed_and_told() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut running = client.create(plan(1));
    let output = running.run(&["dd", "if=/dev/zero", "of=/dev/null", "bs=300M", "count=1"]);
    assert_eq!(output.signal, Some(9), "{output:?}");
    let (end, usage) = client.kill(&running.id);
    assert!(end.oom_killed && !end.timed_out, "{end:?}");
    assert!(
        is_kata() || usage.memory_peak <= plan(1).limits.memory,
        "{usage:?}"
    );
    rig.assert_nothing_is_left();
}

pub(crate) fn shim_processes_over_the_limit_are_denied() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut running = client.create(plan(1));
    let output = running.run(&[
        "sh",
        "-c",
        "i=0; while [ $i -lt 100 ]; do sleep 100 & i=$((i+1)); done; echo all",
    ]);
    assert!(!output.stdout.contains("all"), "{output:?}");
    let (_, usage) = client.kill(&running.id);
    assert!(is_kata() || usage.pids_denied > 0, "{usage:?}");
    rig.assert_nothing_is_left();
}

pub(crate) fn shim_deadline_kills_and_is_told() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut late = plan(1);
    late.limits.wall_ms = 500;
    let mut running = client.create(late);
    running.start(&["sh", "-c", "trap '' TERM; sleep 1000"]);
    let (end, usage) = client.ended(&running.id);
    assert!(end.timed_out && !end.killed, "{end:?}");
    assert!(usage.wall_ms >= 500, "{usage:?}");
    rig.assert_nothing_is_left();
}

/// The swap is made by what stands before the real shim, so after the specification was written and before anything is mounted.
pub(crate) fn source_that_is_swapped_after_its_check_is_mounted_as_it_was_checked() {
    let dir = tempfile::tempdir().unwrap();
    let wrapper = dir.path().join("containerd-shim-swap-v2");
    let swap = dir.path().join("swap");
    script(
        &wrapper,
        &format!(
            "#!/bin/sh\ncase $* in *start) . {};; esac\nexec {} \"$@\"\n",
            swap.display(),
            shim().display()
        ),
    );
    let rig = Rig::with_shim(&wrapper);
    let shared = rig.dir.path().join("shared");
    let make = |path: &Path, text: &str| {
        fs::create_dir(path).unwrap();
        open_to_all(path);
        fs::write(path.join("file"), text).unwrap();
        // Within the sandbox it is not root who writes.
        let mode = fs::Permissions::from_mode(0o666);
        fs::set_permissions(path.join("file"), mode).unwrap();
    };
    let (source, moved, secret) = (
        shared.join("project"),
        shared.join("moved"),
        dir.path().join("etc"),
    );
    make(&source, "project");
    make(&secret, "secret");
    open_to_all(dir.path());
    script(
        &swap,
        &format!(
            "mv {} {}; ln -s {} {}\n",
            source.display(),
            moved.display(),
            secret.display(),
            source.display()
        ),
    );
    let mut with = plan(1);
    with.mounts = vec![Mount {
        source: MountSource::Path(source.clone()),
        target: "/project".into(),
        writable: true,
    }];
    let script = "cat /project/file; echo changed > /project/file";
    let output = rig.client().run(with, &["sh", "-c", script]);
    assert!(source.is_symlink());
    assert_eq!(output.stdout, "project");
    assert_eq!(fs::read_to_string(moved.join("file")).unwrap(), "changed\n");
    assert_eq!(fs::read_to_string(secret.join("file")).unwrap(), "secret");
    rig.assert_nothing_is_left();
}
