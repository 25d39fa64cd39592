//! Limits hold, and whoever meddles with them between the setting and the start gets nothing for it.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, thread};

use nix::sys::stat::Mode;
use paw_launch::request::{Limits, RefusalReason, SandboxPlan};

use crate::rig::{Rig, plan, sandbox_processes};

/// A rig whose paw-create runs a script first, with the leaf's directories in `$LEAVES` and paw-create's own command line, as
/// somebody with the launcher's own rights could.
fn meddler(script: &str) -> Rig {
    let rig = Rig::new();
    let create = rig.dir.path().join("libexec/paw-create");
    let real = rig.dir.path().join("libexec/paw-create-real");
    fs::rename(&create, &real).unwrap();
    let text = format!(
        "#!/bin/busybox sh\nLEAVES=$(/bin/busybox find /sys/fs/cgroup -type d -path '*{}/sb-*' 2>/dev/null)\nREAL={}\n{script}\nexec $REAL \"$@\"\n",
        rig.cgroup,
        real.display()
    );
    fs::write(&create, text).unwrap();
    crate::rig::open_to_all(&create);
    rig
}

fn nothing_is_left(rig: &Rig) {
    assert_eq!(
        (rig.leaves(), rig.state("bundles"), sandbox_processes()),
        (vec![], vec![], vec![])
    );
}

/// A file of the leaf, in whichever hierarchy has it; v1 and v2 name some of them differently.
fn leaf_file(rig: &Rig, names: &[&str]) -> Option<PathBuf> {
    rig.leaves()
        .into_iter()
        .flat_map(|leaf| names.iter().map(move |name| leaf.join(name)))
        .find(|path| path.exists())
}

pub(crate) fn limit_that_somebody_changes_before_the_start_is_noticed_and_refused() {
    let changes: [(&str, &[&str], &str); 4] = [
        ("pids", &["pids.max"], "33"),
        // A larger one first has to fit below the limit of memory and swap together.
        (
            "memory",
            &["memory.limit_in_bytes", "memory.max"],
            "33554432",
        ),
        ("cpu quota", &["cpu.cfs_quota_us", "cpu.max"], "200000"),
        (
            "swap",
            &["memory.memsw.limit_in_bytes", "memory.swap.max"],
            "134217728",
        ),
    ];
    for (what, names, value) in changes {
        let writes: String = names
            .iter()
            .map(|name| {
                format!("for leaf in $LEAVES; do [ ! -e $leaf/{name} ] || echo {value} >$leaf/{name} || exit 9; done\n")
            })
            .collect();
        let rig = meddler(&writes);
        let refusal = rig.client().refused(plan(1));
        assert_eq!(
            refusal.reason,
            RefusalReason::Attestation,
            "{what}: {refusal:?}"
        );
        assert!(refusal.message.contains(what), "{what}: {refusal:?}");
        nothing_is_left(&rig);
    }
}

pub(crate) fn sandbox_that_is_moved_out_of_its_limits_is_refused() {
    // Under v1 not even the launcher's user may move it, so it is root who does, while paw-create has told of it only to us.
    let rig = meddler(
        "dir=${REAL%/libexec/*}; said=$($REAL \"$@\" 2>&1); pid=${said##*:}; echo ${pid%%\\}*} >$dir/pid; read -r go <$dir/go; echo \"$said\"; exit 0",
    );
    let (pid, go) = (rig.dir.path().join("pid"), rig.dir.path().join("go"));
    for fifo in [&pid, &go] {
        nix::unistd::mkfifo(fifo, Mode::from_bits_truncate(0o666)).unwrap();
        fs::set_permissions(fifo, PermissionsExt::from_mode(0o666)).unwrap();
    }
    let refusal = thread::scope(|scope| {
        scope.spawn(|| {
            let made = fs::read_to_string(&pid).unwrap();
            for leaf in rig.leaves() {
                let above = leaf.parent().unwrap();
                // Under v2 a group with others below it has no members.
                let supervisor = above.join("supervisor");
                let to = if supervisor.exists() {
                    &supervisor
                } else {
                    above
                };
                fs::write(to.join("cgroup.procs"), made.trim()).unwrap();
            }
            fs::write(&go, "go\n").unwrap();
        });
        rig.client().refused(plan(1))
    });
    assert_eq!(refusal.reason, RefusalReason::Attestation, "{refusal:?}");
    assert!(refusal.message.contains("cgroup"), "{refusal:?}");
    nothing_is_left(&rig);
}

pub(crate) fn io_weight_is_set_and_read_back_or_refused() {
    let rig = Rig::new();
    let mut client = rig.client();
    let names = ["blkio.bfq.weight", "io.weight", "io.bfq.weight"];
    let plain = client.create(plan(1));
    let has_weights = leaf_file(&rig, &names).is_some();
    let told = plain.attestation.facts.limits.io_weight;
    assert_eq!(told.is_some(), has_weights, "{told:?}");
    client.kill(&plain.id);

    let weighed = SandboxPlan {
        limits: Limits {
            io_weight: Some(50),
            ..plan(2).limits
        },
        ..plan(2)
    };
    if has_weights {
        let running = client.create(weighed);
        let text = fs::read_to_string(leaf_file(&rig, &names).unwrap()).unwrap();
        assert!(text.split_whitespace().any(|word| word == "50"), "{text:?}");
        assert_eq!(running.attestation.facts.limits.io_weight, Some(50));
        client.kill(&running.id);
    } else {
        let refusal = client.refused(weighed);
        assert_eq!(refusal.reason, RefusalReason::Unsupported, "{refusal:?}");
        assert!(!plain.attestation.facts.unheld.is_empty());
    }
    nothing_is_left(&rig);
}

pub(crate) fn swap_cannot_be_used() {
    let rig = Rig::new();
    let mut client = rig.client();
    let running = client.create(plan(1));
    let limit = leaf_file(&rig, &["memory.memsw.limit_in_bytes", "memory.swap.max"]);
    match limit {
        // Together with what is in memory, or alone.
        Some(path) if path.ends_with("memory.memsw.limit_in_bytes") => {
            assert_eq!(
                fs::read_to_string(path).unwrap().trim(),
                plan(1).limits.memory.to_string()
            );
        }
        Some(path) => assert_eq!(fs::read_to_string(path).unwrap().trim(), "0"),
        None => {
            let swaps = fs::read_to_string("/proc/swaps").unwrap();
            assert_eq!(swaps.lines().count(), 1, "{swaps}");
        }
    }
    client.kill(&running.id);
}

pub(crate) fn throttled_time_is_told() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut running = client.create(SandboxPlan {
        limits: Limits {
            cpu_milli: 100,
            ..plan(1).limits
        },
        ..plan(1)
    });
    running.run(&[
        "sh",
        "-c",
        "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done",
    ]);
    let (_, usage) = client.kill(&running.id);
    assert!(usage.cpu_throttled > 0, "{usage:?}");
}
