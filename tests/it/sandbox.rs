//! `sandbox.run`: streams, exit codes, input, deadlines, refusals. Walls are tested in `e2e`.

use std::process::Stdio;

use base64::Engine as _;
use harness::{Pawd, Setup, within};
use jsonrpsee::{async_client::Client, core::client::Subscription};
use paw_api::{
    ErrorKind,
    action::{ActionRpcClient, Answer},
    sandbox::{RunEvent, RunResult, RunSpec, SandboxRpcClient},
    system::ConfigRpcClient,
};
use paw_launch::request::RefusalReason;
use paw_policy::State;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use harness::words::{answer, finally, refused, show};

fn spec(argv: &[&str]) -> RunSpec {
    serde_json::from_value(json!({"argv": argv})).expect("every other member may be left out")
}

async fn run(client: &Client, spec: RunSpec) -> Subscription<RunEvent> {
    within("beginning a run", SandboxRpcClient::run(client, spec))
        .await
        .expect("the run is accepted")
}

async fn next(run: &mut Subscription<RunEvent>) -> RunEvent {
    within("the next event of a run", run.next())
        .await
        .expect("the run goes on")
        .expect("it can be read")
}

/// What a run wrote, of which the tests make text, and how it ended.
async fn rest(run: &mut Subscription<RunEvent>) -> (String, String, RunEvent) {
    let (stdout, stderr, last) = wrote(run).await;
    let text = |bytes| String::from_utf8(bytes).expect("the tests write text");
    (text(stdout), text(stderr), last)
}

/// What a run wrote, and how it ended.
async fn wrote(run: &mut Subscription<RunEvent>) -> (Vec<u8>, Vec<u8>, RunEvent) {
    let decode = |data: &str| {
        base64::engine::general_purpose::STANDARD
            .decode(data)
            .expect("base64")
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match next(run).await {
            RunEvent::Stdout { data } => stdout.extend(decode(&data)),
            RunEvent::Stderr { data } => stderr.extend(decode(&data)),
            RunEvent::Waiting { .. } | RunEvent::Started { .. } => {}
            last @ (RunEvent::Ended(_) | RunEvent::Failed { .. }) => {
                return (stdout, stderr, last);
            }
        }
    }
}

fn ended(event: RunEvent) -> RunResult {
    match event {
        RunEvent::Ended(result) => *result,
        other => panic!("the run ended with {other:?}"),
    }
}

#[tokio::test]
async fn output_and_exit_code_of_the_command_come_back() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let (stdout, stderr, end) = rest(
        &mut run(
            &client,
            spec(&["sh", "-c", "echo out; echo err >&2; exit 7"]),
        )
        .await,
    )
    .await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("out\n", "err\n"));
    let end = ended(end);
    assert_eq!(
        (
            end.exit_code,
            end.signal,
            end.timed_out,
            end.output_truncated
        ),
        (Some(7), None, false, false)
    );
    assert!(end.attestation["digest"].is_string(), "{end:?}");
}

#[tokio::test]
async fn signal_that_ended_the_command_is_told() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let end = ended(
        rest(&mut run(&client, spec(&["sh", "-c", "kill -TERM $$"])).await)
            .await
            .2,
    );
    assert_eq!((end.exit_code, end.signal), (None, Some(15)));
}

#[tokio::test]
async fn every_byte_passes_unchanged_through_each_of_the_three_streams() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    // Every value a thousand times, in many orders.
    let sent: Vec<u8> = (0..1_000_u32)
        .flat_map(|turn| (0..=u8::MAX).map(move |n| n.wrapping_mul(turn as u8 | 1)))
        .collect();
    for (script, is_stderr) in [("cat", false), ("cat >&2", true)] {
        let reads = RunSpec {
            stdin: true,
            ..spec(&["sh", "-c", script])
        };
        let mut running = run(&client, reads).await;
        let id = loop {
            if let RunEvent::Started { id, .. } = next(&mut running).await {
                break id;
            }
        };
        for part in sent.chunks(65_000) {
            let encoded = base64::engine::general_purpose::STANDARD.encode(part);
            within("input", client.input(id.clone(), Some(encoded), None))
                .await
                .unwrap();
        }
        within("input", client.input(id, None, Some(true)))
            .await
            .unwrap();
        let (stdout, stderr, end) = wrote(&mut running).await;
        let (told, other) = if is_stderr {
            (stderr, stdout)
        } else {
            (stdout, stderr)
        };
        assert!(told == sent, "{} bytes of {}", told.len(), sent.len());
        assert_eq!((other.len(), ended(end).exit_code), (0, Some(0)));
    }
}

#[tokio::test]
async fn sandbox_that_outlives_its_deadline_is_killed() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let mut running = run(
        &client,
        RunSpec {
            timeout_ms: Some(1_000),
            ..spec(&["sleep", "600"])
        },
    )
    .await;
    match rest(&mut running).await.2 {
        RunEvent::Ended(end) => assert!(end.timed_out, "{end:?}"),
        other => panic!("{other:?}"),
    }
    pawd.launcher.as_ref().unwrap().wait_for_running(0);
}

#[tokio::test]
async fn unsubscribing_kills_the_sandbox() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let mut running = run(&client, spec(&["sleep", "600"])).await;
    let action = loop {
        if let RunEvent::Started { action_id, .. } = next(&mut running).await {
            break action_id;
        }
    };
    within("unsubscribing", running.unsubscribe())
        .await
        .unwrap();
    assert_eq!(finally(&client, &action).await.state, State::Cancelled);
    let launcher = pawd.launcher.unwrap();
    tokio::task::spawn_blocking(move || launcher.wait_for_running(0))
        .await
        .unwrap();
}

#[tokio::test]
async fn refusal_of_the_launcher_is_shown_with_its_remedy() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    pawd.launcher.as_ref().unwrap().will_refuse(
        RefusalReason::Ceiling,
        "memory beyond the ceiling",
        "raise max_memory in launcher.toml",
    );
    match rest(&mut run(&client, spec(&["true"])).await).await.2 {
        RunEvent::Failed { message, error } => {
            assert!(message.contains("memory beyond the ceiling"), "{message}");
            assert!(
                format!("{message} {}", error.hint).contains("raise max_memory in launcher.toml"),
                "{error:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn command_that_is_not_there_is_told_as_such() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    match rest(&mut run(&client, spec(&["/nowhere/at/all"])).await)
        .await
        .2
    {
        RunEvent::Failed { message, error } => assert!(
            message.contains("/nowhere/at/all") && !error.hint.is_empty(),
            "{message} {error:?}"
        ),
        other => panic!("{other:?}"),
    }
}

/// Asks for a run that cannot be meant or made, and expects that no sandbox is asked for.
async fn check_refused(change: fn(&mut RunSpec), kind: ErrorKind) {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let mut asked = spec(&["true"]);
    change(&mut asked);
    refused(SandboxRpcClient::run(&client, asked).await.map(drop), kind);
    assert!(
        pawd.launcher
            .is_some_and(|launcher| launcher.plans().is_empty())
    );
}

/// Asks for a run for which there is no runtime, and expects that no sandbox is made.
async fn check_no_runtime(pawd: &Pawd, change: fn(&mut RunSpec), why: &str) {
    let client = pawd.client().await;
    let mut asked = spec(&["true"]);
    change(&mut asked);
    let mut running = run(&client, asked).await;
    match rest(&mut running).await.2 {
        RunEvent::Failed { message, error } => assert!(
            message.contains(why) && error.hint.contains("isolation_floor"),
            "{message} {error:?}"
        ),
        other => panic!("{other:?}"),
    }
    let launcher = pawd.launcher.as_ref().expect("these tests have one");
    assert!(launcher.plans().is_empty());
}

#[tokio::test]
async fn runtime_that_is_not_here_is_refused_and_not_replaced() {
    let pawd = Pawd::start(Setup::new()).await;
    let gvisor = |spec: &mut RunSpec| spec.runtime = Some("gvisor".into());
    check_no_runtime(&pawd, gvisor, "the runtime gvisor is not here").await;
    let vm = |spec: &mut RunSpec| spec.isolation_floor = Some("vm".into());
    check_no_runtime(&pawd, vm, "isolates by vm or more").await;
}

#[tokio::test]
async fn what_is_advised_is_what_helps() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let check = async |change: fn(&mut RunSpec), advice: &str| {
        let mut asked = spec(&["true"]);
        change(&mut asked);
        match rest(&mut run(&client, asked).await).await.2 {
            RunEvent::Failed { message, error } => {
                assert!(error.hint.contains(advice), "{message} {error:?}");
            }
            other => panic!("{other:?}"),
        }
    };
    let launcher = pawd.launcher.as_ref().unwrap();
    let gvisor = |spec: &mut RunSpec| spec.runtime = Some("gvisor".into());
    check(gvisor, "install runsc").await;
    launcher.may_not_use_gvisor();
    check(gvisor, "add it to runtimes").await;
    check(|spec| spec.workdir = Some("/nowhere".into()), "--workdir").await;
}

#[tokio::test]
async fn nothing_weaker_than_the_configured_floor_is_used() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    pawd.root.write(
        "etc/pawd.d/50-kernel.toml",
        "[sandbox]\nisolation_floor = \"kernel\"\n",
    );
    ConfigRpcClient::reload(&client).await.unwrap();
    let mut asked = spec(&["true"]);
    asked.runtime = Some("native".into());
    refused(
        SandboxRpcClient::run(&client, asked).await.map(drop),
        ErrorKind::Denied,
    );
    check_no_runtime(&pawd, |_| {}, "isolates by kernel or more").await;
    let process = |spec: &mut RunSpec| spec.isolation_floor = Some("process".into());
    check_no_runtime(&pawd, process, "isolates by kernel or more").await;
}

#[tokio::test]
async fn nonsense_is_refused_before_anything_happens() {
    check_refused(|spec| spec.argv.clear(), ErrorKind::Invalid).await;
    check_refused(
        |spec| spec.env = vec!["no value".into()],
        ErrorKind::Invalid,
    )
    .await;
    check_refused(
        |spec| spec.mounts = vec!["relative:/x".into()],
        ErrorKind::Invalid,
    )
    .await;
    check_refused(
        |spec| spec.runtime = Some("docker".into()),
        ErrorKind::Invalid,
    )
    .await;
}

#[tokio::test]
async fn slow_reader_gets_every_byte() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let mut running = run(&client, spec(&["sh", "-c", "i=0; while [ $i -lt 40000 ]; do echo 0123456789abcdef0123456789abcdef; i=$((i+1)); done"])).await;
    // Another caller is served while the output of this one is held back.
    let other = pawd.client().await;
    let list = within(
        "a list meanwhile",
        ActionRpcClient::list(&other, None, None, None),
    )
    .await
    .unwrap();
    assert_eq!(list.items.len(), 1);
    let (stdout, _, end) = rest(&mut running).await;
    assert_eq!((stdout.len(), ended(end).exit_code), (40_000 * 33, Some(0)));
}

#[tokio::test]
async fn command_whose_asker_has_left_runs_after_the_approval() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let asks = paw_policy::rules::DEFAULT.replace(
        "principal in Role::\"admin\", action == Action::\"sandbox_run\"",
        "principal in Role::\"nobody\", action == Action::\"sandbox_run\"",
    );
    pawd.root.write("etc/policy/10-default.cedar", &asks);
    ConfigRpcClient::reload(&client).await.unwrap();
    let asker = pawd.client().await;
    let mut asked = run(&asker, spec(&["true"])).await;
    let RunEvent::Waiting { action_id } = next(&mut asked).await else {
        panic!("a person is asked")
    };
    drop((asked, asker));
    let action = show(&client, &action_id).await;
    answer(&client, &action_id, action.digest, Answer::Approve)
        .await
        .unwrap();
    let ended = finally(&client, &action_id).await;
    assert_eq!(ended.state, State::Completed, "{ended:?}");
    assert_eq!(ended.result.unwrap()["exit_code"], 0);
}

#[tokio::test]
async fn run_takes_one_connection_also_with_input() {
    let setup = Setup::new().with("[rpc]\nconnections_per_user = 2\n");
    let pawd = Pawd::start(setup).await;
    let mut command = tokio::process::Command::new(harness::stage::program("pawctl"));
    command.arg("--root").arg(pawd.root.path());
    command.args(["sandbox", "run", "--stdin", "--", "cat"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut asker = command.spawn().expect("pawctl starts");
    let (mut input, output) = (asker.stdin.take().unwrap(), asker.stdout.take().unwrap());
    let mut heard = BufReader::new(output).lines();
    input.write_all(b"one\n").await.unwrap();
    let first = within("its first line", heard.next_line()).await.unwrap();
    assert_eq!(first.as_deref(), Some("one"));
    // The second place is free for another one, and a third there is not.
    let other = pawd.client().await;
    assert!(
        ActionRpcClient::list(&other, None, None, None)
            .await
            .is_ok()
    );
    let refused = pawd.pawctl(&["sandbox", "run", "--", "true"]).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("as many connections as it may") && said.contains("again in 1 s"),
        "{said}"
    );
    let refused = pawd.pawctl(&["status"]).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("as many connections as it may") && said.contains("again in 1 s"),
        "{said}"
    );
    drop(input);
    assert!(within("its end", asker.wait()).await.unwrap().success());
}
