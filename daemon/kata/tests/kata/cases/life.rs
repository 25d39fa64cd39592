//! What comes to its end, by whatever hand, leaves nothing.

use std::{
    fs,
    process::{Command, Stdio},
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    fake,
    rig::{Rig, config, is_kata, launch, lives, plan, processes, script, shim},
    shared::{as_user, await_end, built},
};

const ID: &str = "0000000000000001";

pub(crate) fn killed_shim_ends_its_sandbox_honestly_and_leaves_nothing() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut running = client.create(plan(1));
    running.start(&["sleep", "1000"]);
    kill(Pid::from_raw(rig.shim_of(ID)), Signal::SIGKILL).unwrap();
    let (end, _) = client.ended(&running.id);
    // Nobody asked for it, no time was over, and nobody saw it end by itself.
    assert!(!end.killed && !end.timed_out && !end.oom_killed, "{end:?}");
    assert_eq!((end.exit_code, end.signal), (None, Some(9)));
    rig.assert_nothing_is_left();
}

pub(crate) fn hung_shim_is_ended_by_the_deadline() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut late = plan(1);
    late.limits.wall_ms = 1000;
    let mut running = client.create(late);
    running.start(&["sleep", "1000"]);
    let hung = rig.shim_of(ID);
    kill(Pid::from_raw(hung), Signal::SIGSTOP).unwrap();
    // Nobody else waits for it.
    let begun = Instant::now();
    let other = client.create(plan(2));
    client.kill(&other.id);
    let (end, _) = client.ended(&running.id);
    assert!(end.timed_out, "{end:?}");
    assert!(!lives(hung));
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    rig.assert_nothing_is_left();
}

pub(crate) fn killed_kata_launcher_is_swept_up_after() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    for id in [1, 2] {
        client.create(plan(id)).start(&["sleep", "1000"]);
    }
    assert!(!rig.groups().is_empty());
    rig.crash_and_restart();
    rig.assert_nothing_is_left();
    // And it works again.
    let mut client = rig.client();
    let output = client.run(plan(1), &["echo", "again"]);
    assert_eq!(output.stdout, "again\n");
}

pub(crate) fn killed_attendant_ends_its_sandbox_and_leaves_nothing() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut running = client.create(plan(1));
    running.start(&["sleep", "1000"]);
    let attendant = rig
        .processes()
        .iter()
        .find(|(_, command)| command.contains("paw-shim attend"))
        .unwrap()
        .0;
    kill(Pid::from_raw(attendant), Signal::SIGKILL).unwrap();
    let (end, _) = client.ended(&running.id);
    assert!(!end.killed && !end.timed_out, "{end:?}");
    rig.assert_nothing_is_left();
}

pub(crate) fn many_runs_of_a_shim_leave_nothing() {
    let rig = Rig::new();
    let mut client = rig.client();
    let open = |rig: &Rig| {
        fs::read_dir(format!("/proc/{}/fd", rig.launcher.id()))
            .unwrap()
            .count()
    };
    client.run(plan(100), &["true"]);
    let before = open(&rig);
    for id in 1..=10 {
        client.run(plan(id), &["true"]);
    }
    rig.assert_nothing_is_left();
    assert_eq!(open(&rig), before);
}

pub(crate) fn record_that_names_a_foreign_file_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = dir.path().join("foreign");
    for path in [
        foreign.display().to_string(),
        format!("/run/../{}", foreign.display()),
    ] {
        fs::write(&foreign, "precious").unwrap();
        let line = serde_json::json!({ "shim": { "address": path, "version": 2 } });
        fs::write(dir.path().join("said"), format!("{line}\n")).unwrap();
        let status = Command::new(built().join("debug/paw-shim"))
            .args(["clear", "--id", "foreign", "--shim", "/bin/true"])
            .args(["--cgroup", "/paw-kata-none"])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{path}: {status}");
        assert!(foreign.exists(), "{path}");
    }
}

pub(crate) fn what_a_shims_program_leaves_when_it_clears_up_is_killed() {
    let (rig, left) = left_of_delete("");
    assert_eq!(left, []);
    rig.assert_nothing_is_left();
}

pub(crate) fn what_a_shims_program_does_ends_with_what_clears_up() {
    let (_rig, left) = left_of_delete("kill -9 $PPID; ");
    // It was killed before the refusal came; the kernel may be at it yet.
    for (pid, _) in left {
        await_end(pid.unsigned_abs());
    }
}

/// What runs on of a shim's program that does not end at `delete`, once its sandbox is refused.
fn left_of_delete(first: &str) -> (Rig, Vec<(i32, String)>) {
    let dir = tempfile::tempdir().unwrap();
    let (path, stay) = (
        dir.path().join("containerd-shim-v2"),
        dir.path().join("stay"),
    );
    script(&stay, "read forever < fifo\n");
    let stay = stay.display().to_string();
    script(
        &path,
        &format!(
            "#!/bin/sh\ncase $* in -v|--version) echo 'Version: 1.0.0';; *start) echo unix:///run/nobody;; *delete) {first}mkfifo fifo; sh {stay};; esac\n"
        ),
    );
    let rig = Rig::with_shim(&path);
    rig.client().refused(plan(1));
    let left = processes()
        .into_iter()
        .filter(|(_, command)| command.contains(&stay))
        .collect();
    (rig, left)
}

pub(crate) fn shim_that_is_slow_to_its_limits_is_cleared_up_in_time() {
    let rig = fake::slow();
    let begun = Instant::now();
    rig.client().refused(plan(1));
    // Two seconds for asking, in whichever version, and three for the shim's program.
    assert!(begun.elapsed().as_secs() < 7, "{:?}", begun.elapsed());
    rig.assert_nothing_is_left();
}

/// What clears up is killed before it has unmounted anything.
pub(crate) fn mount_left_in_a_bundle_is_not_emptied_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, precious) = (
        dir.path().join("containerd-shim-v2"),
        dir.path().join("precious"),
    );
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "precious").unwrap();
    let start = format!(
        "mount --bind {} rootfs/tmp; cp /proc/self/mountinfo {}; echo unix:///run/nobody",
        precious.display(),
        dir.path().join("mountinfo").display()
    );
    script(
        &path,
        &format!(
            "#!/bin/sh\ncase $* in -v|--version) echo 'Version: 1.0.0';; *start) {start};; *delete) kill -9 $PPID;; esac\n"
        ),
    );
    let rig = Rig::with_shim(&path);
    rig.client().refused(plan(1));
    let mounts = fs::read_to_string(dir.path().join("mountinfo")).unwrap();
    assert!(mounts.contains("/rootfs/tmp "), "{mounts}");
    assert!(precious.join("file").exists());
    assert_eq!(rig.mounts(), Vec::<String>::new());
    let bundles = rig.dir.path().join("state/bundles");
    assert_eq!(fs::read_dir(bundles).unwrap().count(), 0);
}

pub(crate) fn kata_launcher_keeps_few_capabilities_and_a_run_of_its_own() {
    let rig = Rig::new();
    let pid = rig.launcher.id();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("CapEff:"), field("CapBnd:"));
    let has = u64::from_str_radix(&field("CapBnd:"), 16).unwrap();
    // CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID, SETPCAP, SYS_CHROOT, SYS_PTRACE, SYS_ADMIN; for a machine FOWNER, NET_ADMIN,
    // SYS_RESOURCE and MKNOD as well.
    let (kept, machine) = ([0, 1, 5, 6, 7, 8, 18, 19, 21], [3, 12, 24, 27]);
    let mask = |numbers: &[u32]| {
        numbers
            .iter()
            .fold(0_u64, |mask, number| mask | (1 << number))
    };
    let more = if is_kata() { mask(&machine) } else { 0 };
    assert_eq!(has, mask(&kept) | more, "{has:x}");
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    assert_ne!(namespace(&pid.to_string()), namespace("self"));
    assert!(!std::path::Path::new("/run/paw").exists());
}

pub(crate) fn attendant_of_a_shim_has_no_right() {
    let rig = Rig::new();
    let mut client = rig.client();
    let running = client.create(plan(1));
    let attendant = rig
        .processes()
        .iter()
        .find(|(_, command)| command.contains("paw-shim attend"))
        .unwrap()
        .0;
    let status = fs::read_to_string(format!("/proc/{attendant}/status")).unwrap();
    for line in [
        "Uid:\t65534\t65534\t65534\t65534",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "Threads:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    client.kill(&running.id);
}

pub(crate) fn kata_launcher_that_is_not_enabled_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["libexec", "data", "state"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(
        dir.path().join("launcher-kata.toml"),
        config(dir.path(), &shim(), false),
    )
    .unwrap();
    let (mut launcher, _lifeline) = launch(dir.path(), "/paw-kata-none", Stdio::null());
    assert_eq!(launcher.wait().unwrap().code(), Some(78));
}

pub(crate) fn connection_of_another_user_is_closed_by_the_kata_launcher() {
    let rig = Rig::new();
    let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.settimeout(20)\ns.connect(sys.argv[1])\n\
        try:\n s.send(b'{\"seq\":1,\"request\":\"hello\",\"version\":1}')\n print(len(s.recv(100)))\nexcept OSError:\n print('closed')";
    // The socket's mode lets everybody connect; the doorkeeper does not let everybody in.
    let path = rig.dir.path().join("launcher.sock");
    let output = as_user(12345, "python3", &["-c", script, path.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said == "0\n" || said == "closed\n", "{said:?}");
    rig.client();
}
