//! Commands outlive pawd: the next one finds them, what they said, and how they ended. And they do not outlive the launcher.

use std::process::Stdio;

use base64::Engine as _;
use harness::{FakeLauncher, Pawd, Setup, within, words::finally};
use jsonrpsee::{async_client::Client, core::client::Subscription};
use paw_api::{
    ErrorKind,
    action::{Action, ActionRpcClient, Answer},
    sandbox::{LogEvent, RunEvent, RunResult, RunSpec, SandboxRpcClient},
};
use paw_policy::State;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use harness::words::{answer, ask_to_write, refused, show};

/// A run that was begun: its action, its sandbox, and what is heard of it.
struct Run {
    action: String,
    sandbox: String,
    heard: Subscription<RunEvent>,
}

fn spec(more: Value) -> RunSpec {
    serde_json::from_value(more).expect("every other member may be left out")
}

async fn begin(client: &Client, spec: RunSpec) -> Run {
    let begun = within("beginning a run", SandboxRpcClient::run(client, spec)).await;
    let mut heard = begun.expect("the run is accepted");
    loop {
        let event = within("the start", heard.next()).await;
        match event.expect("it goes on").expect("it can be read") {
            RunEvent::Started { action_id, id } => {
                return Run {
                    action: action_id,
                    sandbox: id,
                    heard,
                };
            }
            RunEvent::Waiting { .. } => {}
            other => panic!("{other:?} before the start"),
        }
    }
}

/// As [`begin`], for a command that says something first: it has begun, and not only its sandbox.
async fn begun(client: &Client, spec: RunSpec) -> Run {
    let mut run = begin(client, spec).await;
    let event = within("its first word", run.heard.next()).await;
    let event = event.expect("it goes on").expect("it can be read");
    assert!(matches!(event, RunEvent::Stdout { .. }), "{event:?}");
    run
}

async fn sh(client: &Client, script: &str) -> Run {
    begin(client, spec(json!({"argv": ["sh", "-c", script]}))).await
}

/// What a sandbox said on stdout: until `enough`, or to its end.
async fn said(client: &Client, sandbox: &str, enough: impl Fn(&str) -> bool) -> String {
    let begun = client.logs(sandbox.into(), Some(true));
    let mut log = within("reading along", begun).await.expect("it is known");
    let mut text = String::new();
    loop {
        let event = within("more of the log", log.next()).await;
        match event.expect("it goes on").expect("it can be read") {
            LogEvent::Stdout { data } => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(data);
                text.push_str(&String::from_utf8(bytes.expect("base64")).expect("text"));
                if enough(&text) {
                    return text;
                }
            }
            LogEvent::Stderr { .. } => {}
            LogEvent::End { .. } => return text,
        }
    }
}

fn result(action: Action) -> RunResult {
    assert_eq!(action.state, State::Completed, "{action:?}");
    serde_json::from_value(action.result.expect("it completed")).expect("it is a result")
}

fn failure(action: Action) -> String {
    assert_eq!(action.state, State::Failed, "{action:?}");
    let error = action.error.expect("it failed");
    assert!(!error.hint.is_empty(), "{error:?}");
    error.kind
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|number| format!("line {number}\n")).collect()
}

async fn killed_and_back(pawd: &mut Pawd) -> Client {
    pawd.daemon.kill9().await;
    pawd.start_again().await;
    pawd.client().await
}

#[tokio::test]
async fn a_command_and_all_it_says_outlive_many_kills_of_pawd() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let mut client = pawd.client().await;
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); sleep 0.001; done; echo complaint >&2; exit 7";
    let run = sh(&client, script).await;
    for seen in [100, 600, 1100, 1600, 2100] {
        let until = format!("line {seen}\n");
        said(&client, &run.sandbox, |text| text.contains(&until)).await;
        client = killed_and_back(&mut pawd).await;
        assert_eq!(show(&client, &run.action).await.state, State::Executing);
    }
    assert_eq!(said(&client, &run.sandbox, |_| false).await, lines(0..3000));
    let action = finally(&client, &run.action).await;
    assert_eq!(action.sandbox.as_deref(), Some(&*run.sandbox));
    let attestation = action.attestation.expect("it was attested");
    let result = result(action);
    assert_eq!(
        (result.exit_code, result.timed_out, result.output_truncated),
        (Some(7), false, false)
    );
    assert_eq!(result.attestation["digest"], json!(attestation));
}

#[tokio::test]
async fn output_in_flight_is_neither_lost_nor_doubled() {
    let mut pawd = Pawd::start(Setup::new()).await;
    // More than every window and pipe, less than what is kept; said as fast as it goes, while pawd dies.
    let whole = lines(0..17_000);
    for pieces in [1, 3, 20] {
        let client = pawd.client().await;
        let script = "i=0; while [ $i -lt 17000 ]; do echo line $i; i=$((i+1)); done";
        let run = sh(&client, script).await;
        said(&client, &run.sandbox, |text| text.len() > pieces * 4096).await;
        let client = killed_and_back(&mut pawd).await;
        let heard = said(&client, &run.sandbox, |_| false).await;
        assert!(heard == whole, "{} of {} bytes", heard.len(), whole.len());
        assert_eq!(
            result(finally(&client, &run.action).await).exit_code,
            Some(0)
        );
    }
}

#[tokio::test]
async fn command_that_ended_while_pawd_was_away_is_told_with_its_output() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let run = sh(&client, "echo $$; sleep 0.5; echo after; exit 3").await;
    let first = said(&client, &run.sandbox, |text| text.ends_with('\n')).await;
    pawd.daemon.kill9().await;
    let pid = first.trim().parse().expect("the shell's process");
    assert!(harness::standalone::gone(pid));
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(
        result(finally(&client, &run.action).await).exit_code,
        Some(3)
    );
    assert_eq!(
        said(&client, &run.sandbox, |_| false).await,
        format!("{first}after\n")
    );
}

#[tokio::test]
async fn sandbox_that_ended_while_pawd_was_away_is_told_as_it_ended() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let asked = spec(json!({"argv": ["sh", "-c", "echo up; exec sleep 600"], "timeout_ms": 1500}));
    let run = begun(&client, asked).await;
    pawd.daemon.kill9().await;
    pawd.launcher.as_ref().unwrap().wait_for_running(0);
    pawd.start_again().await;
    let result = result(finally(&pawd.client().await, &run.action).await);
    assert_eq!((result.exit_code, result.timed_out), (None, true));
    assert!(result.wall_ms >= 1500, "{result:?}");
}

#[tokio::test]
async fn deadline_counts_on_over_a_restart() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let asked = spec(json!({"argv": ["sh", "-c", "echo up; exec sleep 600"], "timeout_ms": 2500}));
    let run = begun(&client, asked).await;
    let client = killed_and_back(&mut pawd).await;
    let result = result(finally(&client, &run.action).await);
    assert!(result.timed_out, "{result:?}");
}

#[tokio::test]
async fn further_command_goes_on_and_another_can_be_started() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let asked = spec(json!({"argv": ["sh", "-c", "echo up; exec sleep 600"]}));
    let run = begun(&client, asked).await;
    let further =
        |script: &str| spec(json!({"argv": ["sh", "-c", script], "sandbox": run.sandbox}));
    let slow = begun(&client, further("echo up; sleep 1; exit 5")).await;
    let client = killed_and_back(&mut pawd).await;
    assert_eq!(
        result(finally(&client, &slow.action).await).exit_code,
        Some(5)
    );
    let new = begin(&client, further("exit 6")).await;
    assert_eq!(
        result(finally(&client, &new.action).await).exit_code,
        Some(6)
    );
    assert_eq!(show(&client, &run.action).await.state, State::Executing);
    within("killing", client.kill(run.sandbox.clone()))
        .await
        .unwrap();
    let end = result(finally(&client, &run.action).await);
    assert_eq!((end.exit_code, end.timed_out), (None, false));
}

#[tokio::test]
async fn command_whose_input_was_cut_is_ended_and_says_so() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let run = begin(&client, spec(json!({"argv": ["cat"], "stdin": true}))).await;
    let encoded = base64::engine::general_purpose::STANDARD.encode("half of it\n");
    within(
        "input",
        client.input(run.sandbox.clone(), Some(encoded), None),
    )
    .await
    .unwrap();
    said(&client, &run.sandbox, |text| text == "half of it\n").await;
    let client = killed_and_back(&mut pawd).await;
    assert_eq!(failure(finally(&client, &run.action).await), "interrupted");
    pawd.launcher.as_ref().unwrap().wait_for_running(0);
}

#[tokio::test]
async fn command_that_had_all_its_input_goes_on() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let script = "cat; echo all; exec sleep 600";
    let asked = spec(json!({"argv": ["sh", "-c", script], "stdin": true}));
    let run = begin(&client, asked).await;
    let encoded = base64::engine::general_purpose::STANDARD.encode("input\n");
    within(
        "input",
        client.input(run.sandbox.clone(), Some(encoded), Some(true)),
    )
    .await
    .unwrap();
    said(&client, &run.sandbox, |text| text == "input\nall\n").await;
    let client = killed_and_back(&mut pawd).await;
    assert_eq!(show(&client, &run.action).await.state, State::Executing);
}

#[tokio::test]
async fn stop_of_pawd_leaves_commands_running() {
    let mut pawd = Pawd::start(Setup::new().with("[actions]\ndrain = \"1s\"\n")).await;
    let client = pawd.client().await;
    let run = sh(&client, "echo one; sleep 4; echo two; exit 9").await;
    said(&client, &run.sandbox, |text| text == "one\n").await;
    assert_eq!(pawd.stop().await, 0);
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(show(&client, &run.action).await.state, State::Executing);
    assert_eq!(said(&client, &run.sandbox, |_| false).await, "one\ntwo\n");
    assert_eq!(
        result(finally(&client, &run.action).await).exit_code,
        Some(9)
    );
}

#[tokio::test]
async fn command_can_be_cancelled_after_a_restart() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let run = sh(&client, "echo up; exec sleep 600").await;
    // A sandbox starts before its command does; only a command that began can go on.
    said(&client, &run.sandbox, |text| text == "up\n").await;
    let client = killed_and_back(&mut pawd).await;
    within(
        "cancelling",
        ActionRpcClient::cancel(&client, run.action.clone()),
    )
    .await
    .unwrap();
    assert_eq!(finally(&client, &run.action).await.state, State::Cancelled);
    pawd.launcher.as_ref().unwrap().wait_for_running(0);
}

#[tokio::test]
async fn call_of_a_tool_does_not_outlive_pawd() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    // Its paw-init stands still, so the call cannot end before pawd does.
    pawd.launcher.as_ref().unwrap().will_stop();
    // One that may not be done twice.
    let action = ask_to_write(&client, "out.txt", "hello").await;
    answer(&client, &action.id, action.digest, Answer::Approve)
        .await
        .unwrap();
    pawd.launcher.as_ref().unwrap().wait_for_running(1);
    let client = killed_and_back(&mut pawd).await;
    assert_eq!(failure(finally(&client, &action.id).await), "interrupted");
    pawd.launcher.as_ref().unwrap().wait_for_running(0);
}

#[tokio::test]
async fn what_an_ended_sandbox_said_outlives_pawd_until_it_is_collected() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let run = sh(&client, "echo words; exit 4").await;
    finally(&client, &run.action).await;
    let before = within(
        "showing",
        SandboxRpcClient::show(&client, run.sandbox.clone()),
    )
    .await;
    let client = killed_and_back(&mut pawd).await;
    assert_eq!(said(&client, &run.sandbox, |_| false).await, "words\n");
    let after = within(
        "showing",
        SandboxRpcClient::show(&client, run.sandbox.clone()),
    )
    .await;
    assert_eq!(after.unwrap(), before.unwrap());
    let forgotten = within("collecting", client.gc()).await.unwrap();
    assert_eq!((forgotten.sandboxes, forgotten.bytes), (1, 6));
    let left = std::fs::read_dir(pawd.root.path().join("state/sandboxes")).unwrap();
    assert_eq!(left.count(), 0);
    let shown = SandboxRpcClient::show(&client, run.sandbox.clone()).await;
    refused(shown.map(drop), ErrorKind::NotFound);
}

#[tokio::test]
async fn detached_command_goes_on_when_its_asker_leaves() {
    let pawd = Pawd::start(Setup::new()).await;
    let output = pawd
        .pawctl(&[
            "sandbox",
            "run",
            "--detach",
            "--",
            "sh",
            "-c",
            "sleep 0.5; echo done; exit 2",
        ])
        .await;
    assert!(output.status.success(), "{output:?}");
    let sandbox = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let client = pawd.client().await;
    assert_eq!(said(&client, &sandbox, |_| false).await, "done\n");
    let shown = within("showing", SandboxRpcClient::show(&client, sandbox))
        .await
        .unwrap();
    assert_eq!(
        result(finally(&client, &shown.action_id).await).exit_code,
        Some(2)
    );
}

#[tokio::test]
async fn who_was_cut_off_is_told_how_to_find_the_command_again() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let mut command = tokio::process::Command::new(harness::stage::program("pawctl"));
    command.arg("--root").arg(pawd.root.path());
    command.args([
        "sandbox",
        "run",
        "--",
        "sh",
        "-c",
        "echo here; exec sleep 600",
    ]);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut asker = command.spawn().expect("pawctl starts");
    let mut heard = BufReader::new(asker.stdout.take().expect("a pipe")).lines();
    let first = within("its first line", heard.next_line()).await.unwrap();
    assert_eq!(first.as_deref(), Some("here"));
    pawd.daemon.kill9().await;
    let output = within("its end", asker.wait_with_output()).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let sandbox = &pawd.launcher.as_ref().unwrap().plans()[0].id;
    assert!(!output.status.success());
    assert!(
        said.contains("pawctl action wait ")
            && said.contains(&format!("pawctl sandbox logs -f {sandbox}")),
        "{said}"
    );
}

#[tokio::test]
async fn launcher_that_dies_fails_every_run_and_says_so() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let mut runs = Vec::new();
    for _ in 0..5 {
        let run = sh(&client, "while :; do echo more; sleep 0.01; done").await;
        said(&client, &run.sandbox, |text| text.len() > 20).await;
        runs.push(run);
    }
    drop(pawd.launcher.take());
    for run in &runs {
        assert_eq!(
            failure(finally(&client, &run.action).await),
            "launcher_lost"
        );
    }
}

#[tokio::test]
async fn launcher_that_died_beside_pawd_is_told_as_such() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let run = sh(&pawd.client().await, "sleep 600").await;
    pawd.daemon.kill9().await;
    drop(pawd.launcher.take());
    pawd.launcher = Some(FakeLauncher::start(&pawd.root));
    pawd.start_again().await;
    let action = finally(&pawd.client().await, &run.action).await;
    assert_eq!(failure(action), "launcher_lost");
}

#[tokio::test]
async fn sandbox_that_is_not_what_was_attested_is_not_taken_on() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let run = sh(&pawd.client().await, "sleep 600").await;
    let file = pawd
        .root
        .path()
        .join(format!("state/sandboxes/{}.0", run.sandbox));
    pawd.daemon.kill9().await;
    // What was noted of it is somebody else's: the kernel says it is another sandbox than the one that was attested.
    let mut bytes = std::fs::read(&file).unwrap();
    let digest = b"\"digest\":\"";
    let found = bytes
        .windows(digest.len())
        .position(|window| window == digest);
    let at = found.expect("a head") + digest.len();
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    std::fs::write(&file, &bytes).unwrap();
    pawd.start_again().await;
    let action = finally(&pawd.client().await, &run.action).await;
    assert_eq!(failure(action), "interrupted");
    pawd.launcher.as_ref().unwrap().wait_for_running(0);
}
