//! Layers: what a run writes is its own until it is decided on, bounded, and seen from outside.

use std::{fs, path::PathBuf, time::Instant};

use paw_launch::{
    request::{Mount, MountSource, RefusalReason, Reply, Request, Runtime, SandboxPlan},
    workspace::{Answer, Settle, Why, WorkspaceRequest},
};

use crate::rig::{As, Client, Output, Rig, plan, sandbox_id};

/// A run on the workspace of an agent; of its layer becomes this when nobody says.
pub(super) fn writer(id: u64, otherwise: Settle) -> SandboxPlan {
    SandboxPlan {
        mounts: vec![Mount {
            source: MountSource::Layer {
                workspace: "clerk".parse().unwrap(),
                then: otherwise,
                owner: Some(1234),
            },
            target: "/workspace".into(),
            writable: true,
        }],
        ..plan(id)
    }
}

fn reader(id: u64) -> SandboxPlan {
    SandboxPlan {
        mounts: vec![Mount {
            source: MountSource::Workspace("clerk".parse().unwrap()),
            target: "/workspace".into(),
            writable: false,
        }],
        ..plan(id)
    }
}

pub(super) fn sh(client: &mut Client, plan: SandboxPlan, script: &str) -> Output {
    client.run(plan, &["sh", "-c", script])
}

/// The workspace as it is on disk.
fn files(rig: &Rig) -> PathBuf {
    rig.dir.path().join("state/workspaces/clerk/current/files")
}

fn pending(client: &mut Client) -> usize {
    match client.workspace(WorkspaceRequest::List {
        name: "clerk".parse().unwrap(),
    }) {
        Answer::List(list) => list.pending.len(),
        other => panic!("{other:?}"),
    }
}

/// What the launcher has mounted for layers, and what is left of them.
fn remains(rig: &Rig) -> (usize, Vec<String>) {
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", rig.launcher_pid())).unwrap();
    let layers = format!("{}/state/layers/", rig.dir.path().display());
    let mounted = mounts.lines().filter(|line| line.contains(&layers)).count();
    (mounted, rig.state("layers"))
}

pub(crate) fn run_writes_to_a_layer_and_the_workspace_stays_as_it_was() {
    let rig = Rig::new();
    let mut client = rig.client();
    let script = "echo one > /workspace/a && mkdir /workspace/d && echo two > /workspace/d/b";
    let output = sh(&mut client, writer(1, Settle::Stage), script);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(fs::read_dir(files(&rig)).unwrap().count(), 0);
    assert_eq!(client.settle(1, Settle::Stage).changes, 3);
    assert_eq!(fs::read_dir(files(&rig)).unwrap().count(), 0);

    let Answer::Diff(diff) = client.workspace(WorkspaceRequest::Diff {
        id: sandbox_id(1),
        from: 0,
    }) else {
        panic!("no diff")
    };
    let paths: Vec<&str> = diff.changes.iter().map(|it| it.path.as_str()).collect();
    assert_eq!((paths, diff.owner), (vec!["a", "d", "d/b"], Some(1234)));
    client.workspace(WorkspaceRequest::Commit {
        id: sandbox_id(1),
        digest: diff.digest,
    });
    assert_eq!(
        fs::read_to_string(files(&rig).join("d/b")).unwrap(),
        "two\n"
    );
    // What was removed and made anew is what the next one sees.
    let script = "rm -r /workspace/d && mkdir /workspace/d && ls /workspace/d";
    let output = sh(&mut client, writer(2, Settle::Stage), script);
    assert_eq!(
        (output.stdout.as_str(), output.code),
        ("", Some(0)),
        "{output:?}"
    );
    assert_eq!(client.settle(2, Settle::Commit).changes, 1);
    assert_eq!(fs::read_dir(files(&rig).join("d")).unwrap().count(), 0);
    client.workspace(WorkspaceRequest::Undo {
        id: sandbox_id(2),
        last: sandbox_id(2),
    });
    assert_eq!(
        fs::read_to_string(files(&rig).join("d/b")).unwrap(),
        "two\n"
    );
    assert_eq!(remains(&rig), (0, vec![]));
}

pub(crate) fn layer_is_an_overlay_of_what_was_made_for_it() {
    let rig = Rig::new();
    let mut client = rig.client();
    let running = client.create(writer(1, Settle::Discard));
    let mounts = running.attestation.facts.mounts.clone();
    assert!(
        mounts
            .iter()
            .any(|mount| mount.starts_with("/workspace overlay rw")),
        "{mounts:?}"
    );
    client.kill(&running.id);
}

pub(crate) fn disk_bomb_in_a_workspace_stays_within_its_quota() {
    let rig = Rig::new();
    let mut client = rig.client();
    // The plan has 8 MiB of disk.
    let script = "dd if=/dev/zero of=/workspace/x bs=1M count=64; du -k /workspace/x";
    let output = sh(&mut client, writer(1, Settle::Discard), script);
    assert!(output.stderr.contains("No space left"), "{output:?}");
    let kib: u64 = output
        .stdout
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(kib <= 8 << 10, "{output:?}");
    assert_eq!(remains(&rig), (0, vec![]));
}

pub(crate) fn inode_bomb_in_a_workspace_stays_within_its_quota() {
    let rig = Rig::new();
    let mut client = rig.client();
    let script = "for i in $(seq 1 3000); do : > /workspace/f$i; done";
    let output = sh(&mut client, writer(1, Settle::Discard), script);
    let made: u64 = output
        .stdout
        .split("/workspace/f")
        .nth(1)
        .or_else(|| output.stderr.split("/workspace/f").nth(1))
        .and_then(|rest| rest.split(':').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{output:?}"));
    // One for each 4 KiB of its disk.
    assert!((1000..=2056).contains(&made), "{made}");
}

pub(crate) fn gvisor_run_writes_to_a_layer_within_its_quota() {
    let rig = Rig::new();
    let mut client = rig.client();
    let gvisor = |id, otherwise| {
        let mut plan = writer(id, otherwise);
        plan.runtime = Runtime::Gvisor;
        plan.limits.memory = 256 << 20;
        plan.limits.wall_ms = 60_000;
        plan
    };
    let script = "echo one > /workspace/a && mkdir /workspace/d && cat /workspace/a";
    let output = sh(&mut client, gvisor(1, Settle::Stage), script);
    assert_eq!(
        (output.stdout.as_str(), output.code),
        ("one\n", Some(0)),
        "{output:?}"
    );
    assert_eq!(fs::read_dir(files(&rig)).unwrap().count(), 0);
    assert_eq!(client.settle(1, Settle::Commit).changes, 2);
    assert_eq!(fs::read_to_string(files(&rig).join("a")).unwrap(), "one\n");
    let script = "rm -r /workspace/d; dd if=/dev/zero of=/workspace/x bs=1M count=64";
    let output = sh(&mut client, gvisor(2, Settle::Discard), script);
    assert!(output.stderr.contains("No space left"), "{output:?}");
    assert!(files(&rig).join("d").exists());
    assert_eq!(remains(&rig), (0, vec![]));
}

pub(crate) fn what_a_killed_run_wrote_is_gone_when_its_plan_says_so() {
    let rig = Rig::new();
    let mut client = rig.client();
    sh(
        &mut client,
        writer(1, Settle::Discard),
        "echo x > /workspace/a",
    );
    // It was killed, so nobody is waited for.
    assert_eq!(remains(&rig), (0, vec![]));
    assert_eq!(pending(&mut client), 0);
    assert_eq!(fs::read_dir(files(&rig)).unwrap().count(), 0);
}

pub(crate) fn what_nobody_decided_on_outlives_the_launcher() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    sh(
        &mut client,
        writer(1, Settle::Stage),
        "echo x > /workspace/a",
    );
    client.settle(1, Settle::Stage);
    rig.crash_and_restart(As::Root);
    let mut client = rig.client();
    assert_eq!(pending(&mut client), 1);
    assert_eq!(remains(&rig), (0, vec![]));
}

pub(crate) fn two_runs_at_once_see_what_was_there_and_one_of_them_wins() {
    let rig = Rig::new();
    let mut client = rig.client();
    sh(
        &mut client,
        writer(1, Settle::Stage),
        "echo old > /workspace/a",
    );
    client.settle(1, Settle::Commit);
    let mut slow = client.create(writer(2, Settle::Stage));
    sh(
        &mut client,
        writer(3, Settle::Stage),
        "echo fast > /workspace/a",
    );
    client.settle(3, Settle::Commit);
    // The one that goes on sees what it began with, and is not taken for one that saw the other.
    let output = slow.run(&["sh", "-c", "cat /workspace/a; echo slow > /workspace/a"]);
    assert_eq!(output.stdout, "old\n");
    client.kill(&sandbox_id(2));
    let about = WorkspaceRequest::Settle {
        id: sandbox_id(2),
        then: Settle::Commit,
    };
    let answer = client.workspace(about);
    assert!(
        matches!(&answer, Answer::Refused(refused) if refused.why == Why::Conflict && refused.message.ends_with(": a")),
        "{answer:?}"
    );
    assert_eq!(fs::read_to_string(files(&rig).join("a")).unwrap(), "fast\n");
}

pub(crate) fn run_that_reads_cannot_write_and_keeps_what_it_began_with() {
    let rig = Rig::new();
    let mut client = rig.client();
    sh(
        &mut client,
        writer(1, Settle::Stage),
        "echo old > /workspace/a",
    );
    client.settle(1, Settle::Commit);
    let mut reading = client.create(reader(2));
    sh(
        &mut client,
        writer(3, Settle::Stage),
        "echo new > /workspace/a",
    );
    client.settle(3, Settle::Commit);
    let output = reading.run(&["sh", "-c", "cat /workspace/a; echo x > /workspace/a"]);
    assert_eq!(output.stdout, "old\n");
    assert_ne!(output.code, Some(0), "{output:?}");
    client.kill(&sandbox_id(2));
    let output = sh(&mut client, reader(4), "cat /workspace/a");
    assert_eq!(output.stdout, "new\n");
    // Generations that nobody sees any more are gone with the next order.
    pending(&mut client);
    let generations = rig.dir.path().join("state/workspaces/clerk/generations");
    assert_eq!(fs::read_dir(generations).unwrap().count(), 1);
}

pub(crate) fn without_overlays_each_run_has_a_copy_of_its_own() {
    let rig = Rig::configured("\n[workspaces]\noverlay = false\nbytes = 16777216\n");
    let mut client = rig.client();
    let script = "mkdir /workspace/d && echo one > /workspace/d/a && echo two > /workspace/b";
    sh(&mut client, writer(1, Settle::Stage), script);
    assert_eq!(client.settle(1, Settle::Commit).changes, 3);
    let script = "rm -r /workspace/d && echo changed > /workspace/b && mount | grep -c overlay";
    let output = sh(&mut client, writer(2, Settle::Stage), script);
    assert_eq!(output.stdout, "0\n", "{output:?}");
    assert_eq!(
        fs::read_to_string(files(&rig).join("d/a")).unwrap(),
        "one\n"
    );
    assert_eq!(client.settle(2, Settle::Commit).changes, 3);
    assert_eq!(
        fs::read_to_string(files(&rig).join("b")).unwrap(),
        "changed\n"
    );
    assert!(!files(&rig).join("d").exists());
    assert_eq!(remains(&rig), (0, vec![]));
}

/// A rig whose runs have copies, and a workspace in it.
fn copying(more: &str) -> (Rig, Client) {
    let rig = Rig::configured(&format!("\n[workspaces]\noverlay = false\n{more}"));
    let mut client = rig.client();
    // It is made when it is first used.
    sh(&mut client, writer(1, Settle::Discard), "true");
    (rig, client)
}

pub(crate) fn bombs_in_a_copy_stay_within_the_quota_of_their_run() {
    let (rig, mut client) = copying("bytes = 67108864\n");
    fs::write(files(&rig).join("there"), vec![7; 4 << 20]).unwrap();
    let script = "dd if=/dev/zero of=/workspace/x bs=1M count=64; du -k /workspace/x";
    let output = sh(&mut client, writer(2, Settle::Discard), script);
    assert!(output.stderr.contains("No space left"), "{output:?}");
    let kib = output.stdout.split_whitespace().next();
    // The plan has 8 MiB of disk, and what was copied takes nothing of it.
    let kib: u64 = kib.unwrap().parse().unwrap();
    assert!((7 << 10..=8 << 10).contains(&kib), "{output:?}");
    let script = "i=0; while true > /workspace/f$i; do i=$((i + 1)); done 2>/dev/null; ls /workspace | wc -l";
    let output = sh(&mut client, writer(3, Settle::Discard), script);
    let made: u64 = output.stdout.trim().parse().unwrap();
    assert!((1000..=2057).contains(&made), "{output:?}");
    assert_eq!(remains(&rig), (0, vec![]));
}

pub(crate) fn workspace_with_more_than_a_job_may_use_is_copied() {
    let (rig, mut client) = copying("bytes = 536870912\n");
    // Who copies has 256 MiB for itself.
    let large = fs::File::create(files(&rig).join("large")).unwrap();
    large.set_len(300 << 20).unwrap();
    let script = "wc -c < /workspace/large && echo x > /workspace/a && cat /workspace/a";
    let output = sh(&mut client, writer(2, Settle::Discard), script);
    assert_eq!(output.stdout, "314572800\nx\n", "{output:?}");
}

pub(crate) fn names_and_links_of_a_run_harm_nobody_outside() {
    let rig = Rig::new();
    let mut client = rig.client();
    let victim = rig.dir.path().join("victim");
    fs::write(&victim, "whole").unwrap();
    let script = format!(
        "cd /workspace && ln -s {victim} link && ln -s / root && echo x > $'a\\nb' && mkfifo pipe && echo s > su && \
         chmod 6755 su && ln su su2 && echo y > -- && mknod null c 1 3; echo done",
        victim = victim.display()
    );
    let output = sh(&mut client, writer(1, Settle::Stage), &script);
    assert_eq!(output.stdout, "done\n", "{output:?}");
    let settled = client.settle(1, Settle::Stage);
    assert_eq!(settled.left_out.len(), 1, "{settled:?}");
    let Answer::Diff(diff) = client.workspace(WorkspaceRequest::Diff {
        id: sandbox_id(1),
        from: 0,
    }) else {
        panic!("no diff")
    };
    let text = serde_json::to_string(&diff).unwrap();
    assert!(!text.chars().any(char::is_control), "{text}");
    client.workspace(WorkspaceRequest::Commit {
        id: sandbox_id(1),
        digest: diff.digest,
    });
    assert_eq!(fs::read_to_string(&victim).unwrap(), "whole");
    use std::os::unix::fs::MetadataExt;
    let of = |name: &str| fs::symlink_metadata(files(&rig).join(name)).unwrap();
    assert_eq!(of("su").mode() & 0o7777, 0o755);
    assert_ne!(of("su").ino(), of("su2").ino());
    assert!(of("link").is_symlink());
    assert!(!files(&rig).join("pipe").exists() && !files(&rig).join("null").exists());
}

pub(crate) fn layer_cannot_be_settled_twice_or_by_guessing() {
    let rig = Rig::new();
    let mut client = rig.client();
    sh(
        &mut client,
        writer(1, Settle::Stage),
        "echo x > /workspace/a",
    );
    client.settle(1, Settle::Stage);
    for (id, then) in [(1, Settle::Commit), (77, Settle::Discard)] {
        let about = WorkspaceRequest::Settle {
            id: sandbox_id(id),
            then,
        };
        let reply = client.ask(Request::Workspaces { about }).0;
        assert!(
            matches!(&reply, Reply::Refused(refusal) if refusal.reason == RefusalReason::NotFound),
            "{reply:?}"
        );
    }
    // The id of what is pending is not given to another run.
    let refusal = client.refused(writer(1, Settle::Stage));
    assert_eq!(refusal.reason, RefusalReason::Exists);
}

pub(crate) fn an_order_is_carried_out_by_the_owner_of_the_workspace() {
    let rig = Rig::new();
    let mut client = rig.client();
    sh(
        &mut client,
        writer(1, Settle::Stage),
        "echo x > /workspace/a",
    );
    let begun = Instant::now();
    client.settle(1, Settle::Commit);
    crate::say(&format!(
        "  an order takes {} ms",
        begun.elapsed().as_millis()
    ));
    use std::os::unix::fs::MetadataExt;
    let owner = fs::metadata(rig.dir.path().join("state/workspaces/clerk"))
        .unwrap()
        .uid();
    let log = rig
        .dir
        .path()
        .join("state/workspaces/clerk/current/log.json");
    assert_eq!(fs::metadata(log).unwrap().uid(), owner);
    assert_eq!(fs::metadata(files(&rig).join("a")).unwrap().uid(), owner);
}

pub(crate) fn order_on_a_workspace_that_nobody_owns_is_refused() {
    let rig = Rig::new();
    let mut client = rig.client();
    // It came after the launcher had looked who owns what.
    fs::create_dir(rig.dir.path().join("state/workspaces/stray")).unwrap();
    let about = WorkspaceRequest::List {
        name: "stray".parse().unwrap(),
    };
    let reply = client.ask(Request::Workspaces { about }).0;
    assert!(
        matches!(&reply, Reply::Refused(refusal) if refusal.message.contains("nobody is known to own")),
        "{reply:?}"
    );
    // Others go on.
    sh(
        &mut client,
        writer(1, Settle::Stage),
        "echo x > /workspace/a",
    );
    assert_eq!(client.settle(1, Settle::Commit).changes, 1);
}

pub(crate) fn sandbox_that_fails_after_its_copy_gives_everything_back() {
    let rig = Rig::configured("\n[workspaces]\noverlay = false\nbytes = 16777216\n");
    let mut client = rig.client();
    // What a sandbox is made with is gone when its copy is ready.
    let init = rig.dir.path().join("libexec/paw-init");
    let aside = rig.dir.path().join("aside");
    fs::rename(&init, &aside).unwrap();
    // More often than there are slots.
    for id in 1..=9 {
        let refusal = client.refused(writer(id, Settle::Stage));
        assert_eq!(refusal.reason, RefusalReason::Failed, "{id}: {refusal:?}");
        assert_eq!(remains(&rig), (0, vec![]), "{id}");
    }
    fs::rename(&aside, &init).unwrap();
    let output = sh(
        &mut client,
        writer(1, Settle::Stage),
        "echo x > /workspace/a",
    );
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(client.settle(1, Settle::Commit).changes, 1);
}
