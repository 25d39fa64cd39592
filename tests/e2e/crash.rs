//! Killing the processes of a running system, and what is left afterwards.

use std::time::Duration;

use harness::{
    cases,
    report::Case,
    standalone::{Standalone, gone, kill9},
    within,
    words::{answer, ask_to_write, finally, object, show},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    action::{Action, ActionRpcClient, Answer},
    sandbox::{RunEvent, RunSpec, SandboxRpcClient},
    trail::AuditRpcClient,
};
use paw_policy::State;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::without_sandboxes;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_sandboxes;
        stop_leaves_nothing_behind,
        stop_is_the_last_record_of_the_audit_log,
        killed_launcher_ends_the_system_and_leaves_nothing,
        killed_audit_writer_ends_the_system_and_leaves_nothing,
        killed_pawd_takes_everything_with_it,
        launcher_that_dies_at_any_moment_loses_no_action_and_does_none_twice,
        question_outlives_the_kill_of_everything,
        user_that_is_missing_is_refused_with_how_to_make_it,
        link_in_the_launchers_state_is_not_followed_by_root,
    ]
}

/// Starts a command that would run for ten minutes.
async fn busy(system: &Standalone) -> jsonrpsee::core::client::Subscription<RunEvent> {
    let client = system.client().await;
    let spec: RunSpec =
        serde_json::from_value(json!({"argv": ["sleep", "600"], "timeout_ms": 600_000}))
            .expect("the rest may be left out");
    let mut run = within("beginning a run", SandboxRpcClient::run(&client, spec))
        .await
        .expect("it is accepted");
    while !matches!(
        within("the start", run.next())
            .await
            .expect("it goes on")
            .expect("it can be read"),
        RunEvent::Started { .. }
    ) {}
    // The client lives on in its subscription only while it is kept.
    std::mem::forget(client);
    run
}

/// Waits for the end of every process that was seen, by the kernel's own word, and expects that nothing else is left.
async fn nothing_is_left(system: &Standalone, seen: &[u32]) {
    no_process_is_left(seen).await;
    assert_eq!(system.left_behind(), Vec::<String>::new());
}

async fn no_process_is_left(seen: &[u32]) {
    let seen = seen.to_vec();
    let running = tokio::task::spawn_blocking(move || {
        seen.into_iter()
            .filter(|pid| !gone(*pid))
            .collect::<Vec<_>>()
    });
    assert_eq!(
        running.await.expect("it does not panic"),
        Vec::<u32>::new(),
        "these still run"
    );
}

fn pids(system: &Standalone) -> Vec<u32> {
    system.seen().iter().map(|process| process.pid).collect()
}

fn named(system: &Standalone, name: &str) -> u32 {
    let suffix = format!("/{name}");
    let seen = system.seen();
    let found = seen.iter().find(|process| {
        process
            .command
            .split(' ')
            .next()
            .is_some_and(|program| program.ends_with(&suffix))
    });
    found
        .unwrap_or_else(|| panic!("{name} is not among {seen:#?}"))
        .pid
}

async fn stop_leaves_nothing_behind() {
    let mut system = Standalone::start("\n[actions]\ndrain = \"1s\"\n").await;
    let _run = busy(&system).await;
    let seen = pids(&system);
    assert!(seen.len() >= 4, "{:#?}", system.seen());
    assert_eq!(system.stop().await, 0);
    nothing_is_left(&system, &seen).await;
}

async fn stop_is_the_last_record_of_the_audit_log() {
    let mut system = Standalone::start("").await;
    assert_eq!(system.stop().await, 0);
    system.start_again().await;
    let client = system.client().await;
    let records = AuditRpcClient::list(&client, None, Some("daemon_stopping".into()), None, None)
        .await
        .expect("root may read the log");
    assert_eq!(records.len(), 1, "{}", Value::Array(records));
    let verified = within("verifying", client.verify())
        .await
        .expect("root may verify");
    assert!(verified.ok, "{verified:?}");
}

async fn check_kill(name: &str) {
    let mut system = Standalone::start("\n[actions]\ndrain = \"1s\"\n").await;
    let _run = busy(&system).await;
    let seen = pids(&system);
    kill9(named(&system, name));
    let (code, said) = system.daemon.refused().await;
    assert_eq!(code, 70, "{said}");
    assert!(said.contains(name), "{said}");
    no_process_is_left(&seen).await;
    // Groups and directories of a launcher that was killed are found and removed by the next one.
    system.start_again().await;
    let of_sandboxes = |line: &String| line.starts_with("cgroup") || line.starts_with("directory");
    assert_eq!(
        system
            .left_behind()
            .into_iter()
            .filter(of_sandboxes)
            .collect::<Vec<_>>(),
        Vec::<String>::new()
    );
}

async fn killed_launcher_ends_the_system_and_leaves_nothing() {
    check_kill("paw-launcher").await;
}

async fn killed_audit_writer_ends_the_system_and_leaves_nothing() {
    check_kill("paw-audit").await;
}

async fn killed_pawd_takes_everything_with_it() {
    let mut system = Standalone::start("").await;
    let _run = busy(&system).await;
    let seen = pids(&system);
    system.daemon.kill9().await;
    nothing_is_left(&system, &seen).await;
}

/// How often the launcher dies.
const DEATHS: u64 = 16;

/// What is being done each time.
const AT_ONCE: usize = 3;

async fn launcher_that_dies_at_any_moment_loses_no_action_and_does_none_twice() {
    let skills = "[agent.default]\nskills = [\"files\", \"shell\"]\n";
    let files = [("etc/pawd.d/10-skills.toml", skills)];
    let mut system = Standalone::start_with("", false, &files).await;
    let mut asked = Vec::new();
    for death in 0..DEATHS {
        let client = system.client().await;
        for number in 0..AT_ONCE {
            let token = format!("token-{death}-{number}");
            let command = json!({"command": format!("echo done >>{token}")});
            let action = call_of(&client, "shell", "run", command).await;
            let said = answer(&client, &action.id, action.digest, Answer::Approve).await;
            said.expect("an administrator may");
            asked.push((action.id, token));
        }
        // Sooner and later, by the same steps each time this runs.
        let moment = Duration::from_millis(death * 7919 % 400);
        drop(timeout(moment, system.daemon.end()).await);
        kill9(named(&system, "paw-launcher"));
        let (code, said) = system.daemon.refused().await;
        assert_eq!(code, 70, "{said}");
        system.start_again().await;
    }
    let client = system.client().await;
    let mut ended = Vec::new();
    for (id, token) in asked {
        ended.push((finally(&client, &id).await, token));
    }
    let mut whole = 0;
    for (action, token) in &ended {
        // A file of its own, as commands do not wait for each other.
        let read = call_of(&client, "files", "read", json!({"path": token})).await;
        let read = finally(&client, &read.id).await.result;
        let text = read.as_ref().and_then(|read| read["text"].as_str());
        let times = text.map_or(0, |text| text.lines().count());
        match action.state {
            State::Completed => {
                whole += 1;
                assert_eq!(times, 1, "{action:?}");
            }
            // Once or not at all, and it says that nobody knows.
            State::Failed => {
                let kind = &action.error.as_ref().expect("it says why").kind;
                assert!(
                    ["interrupted", "launcher_lost", "unavailable", "workspace"]
                        .contains(&kind.as_str()),
                    "{action:?}"
                );
                assert!(times <= 1, "{action:?}");
            }
            other => panic!("{other}: {action:?}"),
        }
    }
    assert!(
        whole > 0 && whole < ended.len(),
        "{whole} of {} were done, so no death came between",
        ended.len()
    );
}

/// A call that a person asks for.
async fn call_of(client: &Client, skill: &str, tool: &str, arguments: Value) -> Action {
    let asked = object(json!({"skill": skill, "tool": tool, "arguments": arguments}));
    let submitted = client.submit("tool_call".into(), asked, None, None, None, None);
    within("submitting a call", submitted)
        .await
        .expect("it is accepted")
}

async fn question_outlives_the_kill_of_everything() {
    let mut system = Standalone::start("").await;
    let asked = ask_to_write(&system.client().await, "note.txt", "text").await;
    let seen = pids(&system);
    for pid in &seen {
        kill9(*pid);
    }
    system.daemon.end().await;
    no_process_is_left(&seen).await;
    system.start_again().await;
    let again = show(&system.client().await, &asked.id).await;
    assert_eq!(
        (again.state, again.digest),
        (State::WaitingApproval, asked.digest)
    );
}

async fn user_that_is_missing_is_refused_with_how_to_make_it() {
    let root = tempfile::tempdir().expect("a directory of our own");
    let etc = root.path().join("etc");
    std::fs::create_dir(&etc).expect("it is empty");
    std::fs::write(
        etc.join("pawd.toml"),
        "[confinement]\nuser = \"paw-nosuch\"\n",
    )
    .expect("there is room");
    let mut command = std::process::Command::new(harness::stage::program("pawd"));
    command.arg("--standalone").arg("--root").arg(root.path());
    let (code, text) = within(
        "the refusal",
        harness::Running::start("pawd", command).refused(),
    )
    .await;
    assert_eq!(code, 77, "{text}");
    assert!(
        text.contains("there is no user paw-nosuch") && text.contains("useradd"),
        "{text}"
    );
    assert!(!root.path().join("run").exists(), "nothing was made");
}

async fn link_in_the_launchers_state_is_not_followed_by_root() {
    use std::os::unix::fs::MetadataExt;
    let mut system = Standalone::start("").await;
    assert_eq!(system.stop().await, 0);
    let victim = tempfile::tempdir().expect("a directory of root's");
    let before = std::fs::metadata(victim.path()).expect("it is there");
    std::fs::write(victim.path().join("kept"), "kept").expect("there is room");
    let bundles = system.root.path().join("launcher/bundles");
    std::fs::remove_dir_all(&bundles).expect("the launcher made it");
    std::os::unix::fs::symlink(victim.path(), &bundles).expect("its name is free");
    let mut command = std::process::Command::new(harness::stage::program("pawd"));
    command
        .arg("--standalone")
        .arg("--root")
        .arg(system.root.path());
    let (code, text) = within(
        "the refusal",
        harness::Running::start("pawd", command).refused(),
    )
    .await;
    assert_ne!(code, 0, "{text}");
    assert!(text.contains("bundles"), "{text}");
    let after = std::fs::metadata(victim.path()).expect("it is still there");
    assert_eq!(
        (after.uid(), after.gid(), after.mode()),
        (before.uid(), before.gid(), before.mode())
    );
    assert!(
        victim.path().join("kept").exists(),
        "nothing in it was swept"
    );
}
