//! Limits hold, and whoever meddles with them between the setting and the start gets nothing for it.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    thread,
};

use nix::sys::stat::Mode;
use paw_launch::request::{Limits, RefusalReason, Reply, Request, SandboxPlan};

use super::gvisor::gvisor;
use crate::rig::{Rig, copy, plan, probe, sandbox_id, sandbox_processes};

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

/// Between its making and its start a sandbox waits at a socket: whoever reached that could start what was not attested yet.
pub(crate) fn start_socket_of_another_sandbox_cannot_be_reached() {
    try_to_start_another(plan(1));
}

pub(crate) fn start_socket_of_another_sandbox_cannot_be_reached_from_gvisor() {
    try_to_start_another(gvisor(1));
}

fn try_to_start_another(plan_of_one: SandboxPlan) {
    // The second one is held where it is made and not started.
    let rig = meddler(&format!(
        "case \"$*\" in *{}*) dir=${{REAL%/libexec/*}}; said=$($REAL \"$@\" 2>&1); echo made >$dir/made; read -r go <$dir/go; echo \"$said\"; exit 0;; esac",
        sandbox_id(2)
    ));
    copy(
        probe(),
        &rig.dir.path().join("data/images/busybox/bin/paw-probe"),
    );
    let (made, go) = (rig.dir.path().join("made"), rig.dir.path().join("go"));
    for fifo in [&made, &go] {
        nix::unistd::mkfifo(fifo, Mode::from_bits_truncate(0o666)).unwrap();
        fs::set_permissions(fifo, PermissionsExt::from_mode(0o666)).unwrap();
    }
    let mut client = rig.client();
    let mut one = client.create(plan_of_one);
    let socket = rig.dir.path().join(format!(
        "state/bundles/{0}/run/{0}/notify.sock",
        sandbox_id(2)
    ));
    let seq = client.send(Request::Create(Box::new(plan(2))));
    assert_eq!(fs::read_to_string(&made).unwrap(), "made\n");
    for above in ["", "/proc/1/root", "/proc/1/cwd", "/proc/self/cwd"] {
        let path = format!("{above}{}", socket.display());
        let said = one.run(&["paw-probe", "connect", &path]);
        // Of what the first process has, it may not even be asked.
        let refused = said.stdout == "EACCES" && above.starts_with("/proc/1");
        assert!(refused || said.stdout == "ENOENT", "{path}: {said:?}");
    }
    // It is there all the while, and somebody listens: root finds both where the launcher keeps its bundles.
    let seen = format!("/proc/{}/root{}", rig.launcher_pid(), socket.display());
    UnixStream::connect(&seen).unwrap_or_else(|error| panic!("{seen}: {error}"));
    fs::write(&go, "go\n").unwrap();
    // Whether one that root started itself is kept is another matter.
    if let (Reply::Created { .. }, _) = client.answer(seq) {
        client.kill(&sandbox_id(2));
    }
    client.kill(&one.id);
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
