//! The hostile probes that are shipped, in each runtime that is here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use command_fds::{CommandFdExt as _, FdMapping};
use harness::{cases, report::Case, stage, standalone::Standalone};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::{shim::without_shim, without_sandboxes};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = cases![
        without_sandboxes;
        every_probe_is_held_natively,
        every_probe_succeeds_without_a_sandbox,
        runtime_is_proven_by_its_probes_and_refused_when_they_fall,
    ];
    cases.extend(cases![without_gvisor; every_probe_is_held_by_gvisor]);
    cases.extend(cases![without_shim; every_probe_is_held_by_a_shim]);
    cases
}

pub(crate) fn without_gvisor() -> Option<String> {
    without_sandboxes().or_else(|| {
        (!Path::new("/usr/bin/runsc").exists())
            .then(|| "/usr/bin/runsc is missing: apt-get install runsc".to_owned())
    })
}

/// At least so many things are tried in a runtime; fewer would be a report that was cut off.
const LEAST: usize = 70;

/// What the doctor says after it tried everything in every runtime, which takes a while.
async fn proved() -> &'static Value {
    static TOLD: OnceCell<Value> = OnceCell::const_new();
    TOLD.get_or_init(|| async {
        let system = if without_shim().is_none() {
            Standalone::start_with_shim("").await
        } else {
            Standalone::start("").await
        };
        let output = system
            .pawctl(&["doctor", "--prove", "-o", "json", "--timeout", "120s"])
            .await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    })
    .await
}

async fn held(runtime: &str) {
    let told = proved().await;
    let probes: Vec<&Value> = told["probes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|probe| probe["runtime"] == runtime)
        .collect();
    let fallen: Vec<&&Value> = probes.iter().filter(|probe| probe["ok"] != true).collect();
    assert!(fallen.is_empty(), "{fallen:#?}");
    assert!(
        probes.len() >= LEAST,
        "{} probes in {runtime}",
        probes.len()
    );
}

/// The program, as it is on the host.
pub(crate) fn program() -> PathBuf {
    stage::usr().join("lib/pawd/images/probe/bin/paw-probe")
}

/// What a process of ours tries when nothing stands around it but a namespace of processes, whose first one is ours, so that what
/// is tried on that one concerns nobody else. Each line of the report.
fn unbound(runtime: &str) -> Vec<(String, String, String)> {
    // With a descriptor that it was not meant to have.
    let open = fs::File::open("/etc").expect("it is there");
    let dir = tempfile::tempdir().expect("there is room");
    let script = "mkfifo $1/said && { $0 neighbour >$1/said & } && read -r said <$1/said && $0 calls $2; kill $!";
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--mount-proc", "sh", "-c", script])
        .arg(program())
        .args([dir.path().to_str().expect("plain"), runtime])
        .current_dir("/");
    command
        .fd_mappings(vec![FdMapping {
            parent_fd: open.into(),
            child_fd: 9,
        }])
        .expect("the number is free");
    let output = command.output().expect("it starts");
    for file in ["/tmp/paw-neighbour", "/dev/shm/paw-neighbour"] {
        // They were the neighbour's own.
        let _ = fs::remove_file(file);
    }
    let text = String::from_utf8(output.stdout.clone()).expect("it is JSON");
    assert!(!text.is_empty(), "{output:?}");
    text.lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("it is JSON");
            let word = |name: &str| line[name].as_str().expect("a text").to_owned();
            (word("probe"), word("expected"), word("observed"))
        })
        .collect()
}

/// Probes that do not succeed outside, and why they cannot.
const EXCEPTIONS: [(&str, &str); 17] = [
    (
        "signal a process outside",
        "on the host every process is to be seen, so none is outside; tried with /proc hidden",
    ),
    (
        "write beside paw-init",
        "that directory is made in a sandbox",
    ),
    ("write to paw-init", "that file is made in a sandbox"),
    (
        "load a kernel",
        "it would unload the one that is ready to be started; made with nothing to load",
    ),
    ("load a kernel from a file", "made with nothing to load"),
    ("load a module", "made with nothing to load"),
    ("load a module from a file", "made with nothing to load"),
    (
        "open /dev/mem",
        "kernels that are locked down refuse it to root as well",
    ),
    (
        "read the memory of the kernel",
        "kernels that are locked down refuse it to root as well",
    ),
    (
        "be spared when memory is short",
        "needs a capability that a container's root may lack",
    ),
    (
        "write core_pattern",
        "is read-only where the host is a container itself",
    ),
    (
        "write sysrq-trigger",
        "is read-only where the host is a container itself",
    ),
    (
        "reach the launcher's socket",
        "there is one where pawd is installed",
    ),
    (
        "reach pawd's socket",
        "there is one where pawd is installed",
    ),
    (
        "list the bundles of others",
        "there are some where pawd is installed",
    ),
    (
        "list the workspaces of others",
        "there are some where pawd is installed",
    ),
    (
        "reach a start socket",
        "there is one while a sandbox is being made",
    ),
];

/// Kernels are built without these, or hosts have none of them.
const MAYBE_MISSING: [&str; 10] = [
    "open /dev/kvm",
    "make a vsock socket",
    "make a packet socket",
    "use io_uring",
    "use userfaultfd",
    "load a BPF program",
    "watch by perf_event_open",
    "find a disk in /sys",
    "find the security modules in /sys",
    "reach an address of the host",
];

async fn every_probe_succeeds_without_a_sandbox() {
    let tried = ["native", "shim", "gvisor"].map(unbound);
    let mut blind = Vec::new();
    for (probe, expected, observed) in tried.iter().flatten() {
        if EXCEPTIONS.iter().any(|(name, _)| name == probe) {
            continue;
        }
        let is_error = observed.starts_with('E') && !observed.contains(' ');
        let held = observed == expected || expected == "an error" && is_error;
        let may_be_missing = MAYBE_MISSING.contains(&probe.as_str())
            && [
                "ENOSYS",
                "ENOENT",
                "EAFNOSUPPORT",
                "ENETUNREACH",
                "EPERM",
                "none",
            ]
            .contains(&observed.as_str());
        if held && !may_be_missing {
            blind.push(format!("{probe}: {observed}"));
        }
    }
    assert!(blind.is_empty(), "these would not see a hole: {blind:#?}");
    // With nothing to be seen in /proc, every process is one outside.
    let number = tried[0]
        .iter()
        .position(|(probe, ..)| probe == "signal a process outside")
        .expect("it is tried");
    let script = format!(
        "mount -t tmpfs none /proc && exec {} try {number}",
        program().display()
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .output()
        .expect("util-linux is there");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.ends_with("of 4096") && said != "none of 4096",
        "{output:?}"
    );
}

/// A secret where the probe looks for one, gone when this is dropped.
struct Hole(PathBuf);

impl Hole {
    fn make() -> Self {
        let etc = stage::usr().join("lib/pawd/images/probe/etc");
        fs::create_dir(&etc).expect("the stage is ours");
        let hole = Self(etc);
        fs::write(hole.0.join("shadow"), "a secret").expect("the stage is ours");
        hole
    }
}

impl Drop for Hole {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn runtime_is_proven_by_its_probes_and_refused_when_they_fall() {
    let mut system = Standalone::start("").await;
    let state = async |system: &Standalone| -> (String, String) {
        let output = system.pawctl(&["-o", "json", "sandbox", "runtimes"]).await;
        let runtimes: Value = serde_json::from_slice(&output.stdout).expect("a list");
        let native = runtimes
            .as_array()
            .expect("a list")
            .iter()
            .find(|runtime| runtime["name"] == "native")
            .expect("it is listed");
        let text = |name: &str| native[name].as_str().expect("a text").to_owned();
        (text("state"), text("reason"))
    };
    // To have been used is no proof.
    let output = system.pawctl(&["sandbox", "run", "--", "true"]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(state(&system).await.0, "unverified");
    let prove = ["doctor", "--prove", "-o", "json", "--timeout", "120s"];
    let output = system.pawctl(&prove).await;
    let (now, why) = state(&system).await;
    assert_eq!(now, "proven", "{why} {output:?}");
    // It is still known after a restart.
    system.stop().await;
    system.start_again().await;
    assert_eq!(state(&system).await.0, "proven");
    // A wall with a hole: the probe finds a file where there must be none.
    let hole = Hole::make();
    let output = system.pawctl(&prove).await;
    drop(hole);
    let (now, why) = state(&system).await;
    assert_eq!(now, "unverified", "{why} {output:?}");
    assert!(why.contains("/etc/shadow"), "{why}");
    let refused = system
        .pawctl(&["sandbox", "run", "--runtime", "native", "--", "true"])
        .await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(125), "{refused:?}");
    assert!(said.contains("doctor --prove"), "{said}");
}

async fn every_probe_is_held_natively() {
    held("native").await;
}

async fn every_probe_is_held_by_a_shim() {
    held("kata").await;
}

async fn every_probe_is_held_by_gvisor() {
    held("gvisor").await;
}
