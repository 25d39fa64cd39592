//! What kind of process the launcher is, as others see it in `/proc`.

use std::{fs, os::unix::fs::PermissionsExt as _};

use paw_launch::{
    request::SandboxPlan,
    workspace::{Settle, WorkspaceRequest},
};
use serde_json::{Value, json};

use super::{
    gvisor::gvisor,
    jobs::own,
    layers::{sh, writer},
};
use crate::rig::{Rig, await_end, open_to_all, plan};

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap().trim().to_owned()
}

pub(crate) fn launcher_has_one_thread_whatever_it_does() {
    let rig = Rig::new();
    let pid = rig.launcher_pid();
    let mut client = rig.client();
    assert_eq!(threads(pid), 1);
    let mut running = client.create(plan(1));
    running.start(&["sleep", "60"]);
    assert_eq!(threads(pid), 1);
    // A job, and another sandbox beside the one that runs.
    sh(
        &mut client,
        writer(2, Settle::Stage),
        "echo x > /workspace/a",
    );
    client.settle(2, Settle::Stage);
    let name = "clerk".parse().unwrap();
    client.workspace(WorkspaceRequest::List { name });
    assert_eq!(threads(pid), 1);
    client.kill(&running.id);
    assert_eq!(threads(pid), 1);
}

/// Whoever stands before paw-create leaves a process behind, as a crash of it could, and says which.
pub(crate) fn orphans_of_what_the_launcher_starts_are_its_children_and_are_reaped() {
    let rig = Rig::new();
    let said = rig.dir.path().join("shared/orphan");
    fs::write(&said, "").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(&said, mode).unwrap();
    let create = rig.dir.path().join("libexec/paw-create");
    // Who reads its last words waits for nobody who holds them.
    let script = "sleep 1000 < /dev/null > /dev/null 2>&1 &";
    fs::write(
        &create,
        format!(
            "#!/bin/sh\n{script}\necho $! > {}\nexit 3\n",
            said.display()
        ),
    )
    .unwrap();
    open_to_all(&create);
    rig.client().refused(plan(1));
    let orphan: u32 = fs::read_to_string(&said).unwrap().trim().parse().unwrap();
    let parent = status(orphan, "PPid:");
    let number = i32::try_from(orphan).unwrap();
    // First of all it is ended, whatever it turns out to have been.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(number),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    assert_eq!(parent, rig.launcher_pid().to_string());
    await_end(orphan);
    // It answers in between, so it has heard of every end before.
    rig.client();
    assert!(
        !fs::exists(format!("/proc/{orphan}")).unwrap(),
        "it is still there, as a zombie"
    );
}

/// Says what it has, and becomes the real one.
const TELLS: &str = r"#!/usr/bin/python3 -I
import json, os, sys
fds = [n for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n)]
links = {n: os.readlink('/proc/self/fd/' + n) for n in fds}
with open('@DIR@/shared/seen', 'w') as seen:
    json.dump({'links': links, 'env': dict(os.environ), 'cwd': os.getcwd()}, seen)
os.execv('@DIR@/libexec/real', sys.argv)
";

/// What paw-create had when it began to make this one.
fn given(plan: SandboxPlan) -> Value {
    let rig = Rig::new();
    let dir = rig.dir.path();
    let create = dir.join("libexec/paw-create");
    fs::rename(&create, dir.join("libexec/real")).unwrap();
    fs::write(&create, TELLS.replace("@DIR@", dir.to_str().unwrap())).unwrap();
    open_to_all(&create);
    let seen = dir.join("shared/seen");
    fs::write(&seen, "").unwrap();
    fs::set_permissions(&seen, fs::Permissions::from_mode(0o666)).unwrap();
    let mut client = rig.client();
    // One that runs already, and whose descriptors the launcher has.
    let before = client.create(SandboxPlan {
        id: crate::rig::sandbox_id(9),
        ..plan.clone()
    });
    let output = client.run(plan, &["echo", "ran"]);
    assert_eq!(output.stdout, "ran\n", "{output:?}");
    client.kill(&before.id);
    serde_json::from_slice(&fs::read(seen).unwrap()).unwrap()
}

fn has_its_own_alone(seen: &Value, numbers: &[&str]) {
    let links = seen["links"].as_object().unwrap();
    assert_eq!(own(links), numbers, "{links:?}");
    let kind = |number: &str| {
        let link = links[number].as_str().unwrap();
        link.split(':').next().unwrap().to_owned()
    };
    assert_eq!(kind("6"), "user", "{links:?}");
    let pipes = numbers.iter().filter(|number| kind(number) == "pipe");
    // Where it reports by a pipe, that pipe has two numbers.
    assert_eq!(pipes.count(), if numbers.len() == 7 { 5 } else { 3 });
    assert_eq!(seen["cwd"], json!("/"));
    let env = seen["env"].as_object().unwrap();
    assert!(env.keys().all(|key| key == "LC_CTYPE"), "{env:?}");
}

pub(crate) fn paw_create_has_the_descriptors_of_its_own_sandbox_alone() {
    let seen = given(plan(1));
    has_its_own_alone(&seen, &["0", "1", "2", "3", "4", "5", "6"]);
    assert_eq!(seen["links"]["0"], json!("/dev/null"));
}

pub(crate) fn paw_create_has_the_descriptors_of_its_own_gvisor_sandbox_alone() {
    has_its_own_alone(&given(gvisor(1)), &["0", "1", "2", "6"]);
}
