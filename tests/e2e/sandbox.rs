//! Sandboxes on the real kernel: what they give back, what they may use, what they are.

use std::time::{Duration, Instant};

use harness::{
    cases,
    report::Case,
    standalone::{Standalone, look},
    within,
    words::{answer, ask_to_write, call, finally},
};
use paw_api::{
    action::Answer,
    sandbox::{RunEvent, RunSpec, SandboxRpcClient},
    trail::AuditRpcClient,
};
use paw_policy::State;
use serde_json::{Value, json};

use crate::without_sandboxes;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_sandboxes;
        files_are_listed_read_and_written_in_a_sandbox,
        command_gives_its_own_exit_code,
        sandbox_that_cannot_be_made_gives_125,
        short_command_is_over_at_once,
        deadline_ends_the_sandbox,
        memory_beyond_the_limit_is_not_given,
        fork_bomb_stays_within_its_limit,
        disk_beyond_the_limit_is_not_given,
        inside_is_nobody_on_the_host,
        nothing_of_a_sandbox_is_left_after_its_end,
        measurement_counts_every_sandbox,
    ]
}

async fn files_are_listed_read_and_written_in_a_sandbox() {
    let system = Standalone::start("").await;
    let client = system.client().await;
    let listed = call(&client, "list", json!({"path": "."})).await;
    assert_eq!(listed.state, State::Completed, "{listed:?}");
    let asked = ask_to_write(&client, "note.txt", "remember the milk").await;
    answer(&client, &asked.id, asked.digest, Answer::Approve)
        .await
        .expect("it may be approved");
    let written = finally(&client, &asked.id).await;
    assert_eq!(written.state, State::Completed, "{written:?}");
    let attestation = written
        .attestation
        .expect("what ran in a sandbox was attested");
    let result = written.result.expect("it was done");
    assert_eq!(
        result["sandbox"]["attestation"]["digest"],
        json!(attestation),
        "{result}"
    );
    let facts = &result["sandbox"]["attestation"]["facts"];
    assert_eq!(
        (&facts["seccomp"], &facts["no_new_privs"]),
        (&json!(2), &json!(true)),
        "{facts}"
    );
    let read = call(&client, "read", json!({"path": "note.txt"})).await;
    assert!(
        read.result
            .expect("it was done")
            .to_string()
            .contains("remember the milk")
    );
    let records = AuditRpcClient::list(&client, Some(written.id), None, None, None)
        .await
        .expect("root may read the log");
    assert!(
        Value::Array(records)
            .to_string()
            .contains(&attestation.to_string()),
        "the attestation is in the audit log"
    );
}

async fn command_gives_its_own_exit_code() {
    let system = Standalone::start("").await;
    for code in [0, 3, 124] {
        let output = system
            .pawctl(&[
                "sandbox",
                "run",
                "--",
                "sh",
                "-c",
                &format!("echo said; exit {code}"),
            ])
            .await;
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(code), &b"said\n"[..]),
            "{output:?}"
        );
    }
}

async fn sandbox_that_cannot_be_made_gives_125() {
    let system = Standalone::start("").await;
    for arguments in [
        &["--mount", "/etc:/mnt"][..],
        &["--image", "nowhere"],
        &["--memory", "1000G"],
    ] {
        let all = [&["sandbox", "run"], arguments, &["--", "true"]].concat();
        let output = system.pawctl(&all).await;
        assert_eq!(output.status.code(), Some(125), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

async fn short_command_is_over_at_once() {
    let system = Standalone::start("").await;
    let began = Instant::now();
    let output = system.pawctl(&["sandbox", "run", "--", "true"]).await;
    assert!(output.status.success(), "{output:?}");
    assert!(
        began.elapsed() < Duration::from_millis(1_500),
        "{:?} for `true`",
        began.elapsed()
    );
}

async fn measurement_counts_every_sandbox() {
    let system = Standalone::start("").await;
    let measure = [
        "-o",
        "json",
        "bench",
        "sandbox",
        "--requests",
        "6",
        "--concurrency",
        "2",
    ];
    let output = system.pawctl(&measure).await;
    assert!(output.status.success(), "{output:?}");
    let seen: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!((&seen["requests"], &seen["errors"]), (&json!(6), &json!(0)));
    assert!(
        seen["p50_us"].as_f64().is_some_and(|us| us > 500.0),
        "{seen}"
    );
    // A command that fails is an error of the measurement, and its exit code says so.
    let output = system
        .pawctl(&[&measure[..], &["--", "false"]].concat())
        .await;
    let seen: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(
        (output.status.code(), &seen["errors"]),
        (Some(1), &json!(6))
    );
}

async fn result_of(system: &Standalone, options: &[&str], command: &str) -> Value {
    let all = [
        &["sandbox", "run", "--json-result"],
        options,
        &["--", "sh", "-c", command],
    ]
    .concat();
    let output = system.pawctl(&all).await;
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text.lines().rev().find_map(|line| {
        serde_json::from_str::<Value>(line)
            .ok()
            .filter(Value::is_object)
    });
    result
        .or_else(|| serde_json::from_str(&text).ok())
        .unwrap_or_else(|| panic!("no result in {output:?}"))
}

async fn deadline_ends_the_sandbox() {
    let system = Standalone::start("").await;
    let result = result_of(&system, &["--timeout", "1s"], "sleep 600").await;
    assert_eq!(result["timed_out"], json!(true), "{result}");
    assert!(
        result["wall_ms"]
            .as_u64()
            .is_some_and(|wall| (900..5_000).contains(&wall)),
        "{result}"
    );
}

async fn memory_beyond_the_limit_is_not_given() {
    let system = Standalone::start("").await;
    let result = result_of(
        &system,
        &["--memory", "32M"],
        "head -c 200000000 /dev/zero | tail -c 150000000 >/dev/null",
    )
    .await;
    assert_eq!(result["oom_killed"], json!(true), "{result}");
    let within_limit = result_of(
        &system,
        &["--memory", "64M"],
        "head -c 1000000 /dev/zero | tail -c 1000 >/dev/null",
    )
    .await;
    assert_eq!(
        (&within_limit["exit_code"], &within_limit["oom_killed"]),
        (&json!(0), &json!(false)),
        "{within_limit}"
    );
}

async fn fork_bomb_stays_within_its_limit() {
    let system = Standalone::start("").await;
    let command = "i=0; while [ $i -lt 200 ]; do sleep 5 & i=$((i+1)); done 2>/dev/null; ls -d /proc/[0-9]* | wc -l";
    let all = [
        "sandbox",
        "run",
        "--pids",
        "20",
        "--timeout",
        "10s",
        "--",
        "sh",
        "-c",
        command,
    ];
    let output = system.pawctl(&all).await;
    let said = String::from_utf8_lossy(&output.stdout);
    // A shell that cannot fork gives up; either it says a small number, or nothing.
    let count = said
        .trim()
        .lines()
        .last()
        .and_then(|line| line.parse::<u32>().ok());
    assert!(
        count.is_none_or(|count| count <= 20) && !(output.status.success() && count.is_none()),
        "{output:?}"
    );
}

async fn disk_beyond_the_limit_is_not_given() {
    let system = Standalone::start("").await;
    let output = system
        .pawctl(&[
            "sandbox",
            "run",
            "--disk",
            "4M",
            "--",
            "sh",
            "-c",
            "dd if=/dev/zero of=/tmp/big bs=1M count=20",
        ])
        .await;
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("No space left"),
        "{output:?}"
    );
}

async fn inside_is_nobody_on_the_host() {
    let system = Standalone::start("").await;
    let client = system.client().await;
    let spec: RunSpec = serde_json::from_value(json!({"argv": ["sleep", "600"]}))
        .expect("the rest may be left out");
    let mut run = within("beginning a run", SandboxRpcClient::run(&client, spec))
        .await
        .expect("it is accepted");
    let id = loop {
        if let RunEvent::Started { id, .. } = within("the start", run.next())
            .await
            .expect("it goes on")
            .expect("it can be read")
        {
            break id;
        }
    };
    let listed = SandboxRpcClient::list(&client)
        .await
        .expect("root may list");
    let pid = listed.iter().find(|one| one.id == id).expect("it runs").pid;
    let init = look(pid).expect("it runs");
    let ours = look(std::process::id()).expect("we run");
    assert!(init.uids.iter().all(|uid| *uid > 100_000), "{init:#?}");
    assert!(
        init.capabilities == 0
            && init.no_new_privs
            && init.seccomp == 2
            && init.userns != ours.userns,
        "{init:#?}"
    );
    for namespace in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let inode =
            |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).expect("it runs");
        assert_ne!(inode(pid), inode(std::process::id()), "{namespace}");
    }
    within("unsubscribing", run.unsubscribe())
        .await
        .expect("it is ours");
}

async fn nothing_of_a_sandbox_is_left_after_its_end() {
    let system = Standalone::start("").await;
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    let before = (mounts(), system.seen().len());
    let output = system
        .pawctl(&[
            "sandbox",
            "run",
            "--",
            "sh",
            "-c",
            "sleep 600 & echo left > /tmp/file",
        ])
        .await;
    assert!(output.status.success(), "{output:?}");
    system.daemon.says("sandbox ended", 1).await;
    assert_eq!(
        (mounts(), system.seen().len()),
        before,
        "{:#?}",
        system.seen()
    );
    let listed = SandboxRpcClient::list(&system.client().await)
        .await
        .expect("root may list");
    assert!(listed.is_empty(), "{listed:?}");
}
