//! What kind of process the launcher is, as others see it in `/proc`.

use std::fs;

use paw_launch::workspace::{Settle, WorkspaceRequest};

use super::layers::{sh, writer};
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
