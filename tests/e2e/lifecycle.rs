//! Sandboxes that run: shown, looked into, read along, measured, forgotten.

use std::process::Stdio;

use harness::{cases, report::Case, stage, standalone::Standalone, within};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::without_sandboxes;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_sandboxes;
        running_sandbox_is_shown_and_its_end_too,
        further_command_runs_in_the_same_sandbox,
        further_command_chooses_nothing_of_the_sandbox,
        log_is_kept_and_followed_to_its_end,
    ]
}

/// A command in a sandbox, that has said its first line.
struct Running {
    pawctl: Child,
    id: String,
}

/// Starts `script`, which has to say a line at once, and finds out in which sandbox.
async fn start(system: &Standalone, script: &str) -> Running {
    let mut pawctl = Command::new(stage::program("pawctl"))
        .arg("--root")
        .arg(system.root.path())
        .args([
            "sandbox",
            "run",
            "--timeout",
            "60s",
            "--",
            "sh",
            "-c",
            script,
        ])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("pawctl starts");
    let mut said = BufReader::new(pawctl.stdout.take().expect("it is piped")).lines();
    within("its first line", said.next_line())
        .await
        .expect("it can be read")
        .expect("it says one");
    let listed = json(system, &["sandbox", "list"]).await;
    let id = listed[0]["id"].as_str().expect("it is listed").to_owned();
    Running { pawctl, id }
}

async fn json(system: &Standalone, arguments: &[&str]) -> Value {
    let output = system.pawctl(&[&["-o", "json"], arguments].concat()).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("one document")
}

async fn running_sandbox_is_shown_and_its_end_too() {
    let system = Standalone::start("").await;
    let mut running = start(&system, "echo up; exec sleep 1000").await;
    let shown = json(&system, &["sandbox", "show", &running.id]).await;
    assert_eq!(
        (&shown["state"], &shown["runtime"], &shown["owner"]),
        (&"running".into(), &"native".into(), &0.into()),
        "{shown}"
    );
    assert_eq!(shown["attestation"]["facts"]["seccomp"], 2, "{shown}");
    let used = json(&system, &["sandbox", "stats"]).await;
    assert_eq!(used[0]["id"], running.id.as_str(), "{used}");
    assert!(
        used[0]["memory_peak"]
            .as_u64()
            .is_some_and(|bytes| bytes > 0),
        "{used}"
    );
    let killed = system.pawctl(&["sandbox", "kill", &running.id]).await;
    assert!(killed.status.success(), "{killed:?}");
    within("the end", running.pawctl.wait())
        .await
        .expect("it ends");
    let shown = json(&system, &["sandbox", "show", &running.id]).await;
    assert_eq!(
        (&shown["state"], &shown["end"]["killed"]),
        (&"ended".into(), &true.into()),
        "{shown}"
    );
    let gone = json(&system, &["sandbox", "gc"]).await;
    assert_eq!(gone["sandboxes"], 1, "{gone}");
    let output = system.pawctl(&["sandbox", "show", &running.id]).await;
    assert_eq!(output.status.code(), Some(6), "{output:?}");
}

async fn further_command_runs_in_the_same_sandbox() {
    let system = Standalone::start("").await;
    let mut running = start(&system, "echo mine > /tmp/mark; echo up; exec sleep 1000").await;
    let exec = [
        "sandbox",
        "exec",
        &running.id,
        "--",
        "sh",
        "-c",
        "cat /tmp/mark; exit 9",
    ];
    let output = system.pawctl(&exec).await;
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(9), &b"mine\n"[..]),
        "{output:?}"
    );
    let missing = system
        .pawctl(&["sandbox", "exec", &running.id, "--", "/no/such/program"])
        .await;
    assert_eq!(missing.status.code(), Some(125), "{missing:?}");
    // It is an action like every other: judged and recorded.
    let actions = json(&system, &["action", "list"]).await;
    let commands = actions["items"].as_array().expect("a page").len();
    assert_eq!(commands, 3, "{actions}");
    system.pawctl(&["sandbox", "kill", &running.id]).await;
    within("the end", running.pawctl.wait())
        .await
        .expect("it ends");
    let late = system
        .pawctl(&["sandbox", "exec", &running.id, "--", "true"])
        .await;
    assert_eq!(late.status.code(), Some(6), "{late:?}");
}

async fn further_command_chooses_nothing_of_the_sandbox() {
    let system = Standalone::start("").await;
    let running = start(&system, "echo up; exec sleep 1000").await;
    let spec = format!(
        r#"{{"spec":{{"argv":["true"],"sandbox":"{}","memory":1}}}}"#,
        running.id
    );
    let output = system.pawctl(&["rpc", "sandbox.run", &spec]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("can choose nothing"),
        "{output:?}"
    );
}

async fn log_is_kept_and_followed_to_its_end() {
    let system = Standalone::start("").await;
    let mut running = start(
        &system,
        "echo first; read -t 1000 line < /dev/zero; exec sleep 1000",
    )
    .await;
    let kept = system.pawctl(&["sandbox", "logs", &running.id]).await;
    assert_eq!(kept.stdout, b"first\n", "{kept:?}");
    let mut follower = Command::new(stage::program("pawctl"))
        .arg("--root")
        .arg(system.root.path())
        .args(["sandbox", "logs", "-f", &running.id])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("pawctl starts");
    let mut said = BufReader::new(follower.stdout.take().expect("it is piped")).lines();
    let first = within("the first line", said.next_line())
        .await
        .expect("it can be read");
    assert_eq!(first.as_deref(), Some("first"));
    system.pawctl(&["sandbox", "kill", &running.id]).await;
    let ended = within("the end of the log", follower.wait())
        .await
        .expect("it ends");
    assert!(ended.success(), "{ended:?}");
    within("the end", running.pawctl.wait())
        .await
        .expect("it ends");
    let kept = system.pawctl(&["sandbox", "logs", &running.id]).await;
    assert_eq!(kept.stdout, b"first\n", "{kept:?}");
}
