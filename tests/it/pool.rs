//! Sandboxes that wait for their first command: who gets one, and when none is left.

use harness::{POOL, Pawd, Setup, within};
use jsonrpsee::async_client::Client;
use paw_api::{
    sandbox::{RunEvent, RunResult, RunSpec, SandboxRpcClient},
    system::{ConfigRpcClient, SystemRpcClient},
};
use serde_json::json;

fn spec(more: serde_json::Value) -> RunSpec {
    let mut spec = json!({"argv": ["echo", "said"]});
    if let (Some(spec), serde_json::Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    serde_json::from_value(spec).expect("the rest may be left out")
}

/// Runs a command to its end.
async fn run(client: &Client, spec: RunSpec) -> RunResult {
    let mut running = within("beginning a run", SandboxRpcClient::run(client, spec))
        .await
        .expect("the run is accepted");
    loop {
        let event = within("the next event of a run", running.next())
            .await
            .expect("the run goes on")
            .expect("it can be read");
        match event {
            RunEvent::Ended(result) => return *result,
            RunEvent::Failed { message, error } => panic!("{message}: {error:?}"),
            _ => {}
        }
    }
}

/// A pawd with a pool, in which one sandbox waits for `echo said`, and its id.
async fn with_one() -> (Pawd, Client, String) {
    let pawd = Pawd::start(Setup::new()).await;
    pawd.root.write(POOL.0, POOL.1);
    let client = pawd.client().await;
    ConfigRpcClient::reload(&client).await.expect("it is good");
    for _ in 0..2 {
        let result = run(&client, spec(json!({}))).await;
        assert!(!result.pooled, "{result:?}");
    }
    let waiting = waiting(&pawd, 1).remove(0);
    (pawd, client, waiting)
}

fn waiting(pawd: &Pawd, count: usize) -> Vec<String> {
    let launcher = pawd.launcher.as_ref().expect("there is one");
    let ids = tokio::task::block_in_place(|| launcher.wait_for_waiting(count));
    ids.iter().map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn third_command_gets_the_sandbox_that_waited() {
    let (_pawd, client, waiting) = with_one().await;
    let status = client.status().await.expect("it is allowed");
    assert_eq!((status.sandboxes.running, status.sandboxes.pooled), (0, 1));
    let listed = SandboxRpcClient::list(&client)
        .await
        .expect("it is allowed");
    let listed: Vec<_> = listed.iter().map(|one| (&*one.id, &*one.state)).collect();
    assert_eq!(listed, [(&*waiting, "waiting")]);
    let result = run(&client, spec(json!({}))).await;
    assert_eq!((&result.id, result.pooled), (&waiting, true));
    assert_eq!(result.attestation["facts"]["id"], json!(waiting));
    assert!(
        result.first_output_us.is_some_and(|us| us > 0),
        "{result:?}"
    );
    assert_eq!(result.exit_code, Some(0));
    let detail = SandboxRpcClient::show(&client, waiting.clone())
        .await
        .expect("it is ours");
    assert_eq!((detail.id, &*detail.state), (waiting, "ended"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_plan_gets_none_that_waited() {
    let (_pawd, client, waiting) = with_one().await;
    for more in [
        json!({"memory": 134_217_728}),
        json!({"timeout_ms": 29_000}),
        json!({"image": "host"}),
        json!({"mounts": ["/srv:/mnt:ro"]}),
        json!({"cold": true}),
    ] {
        let result = run(&client, spec(more.clone())).await;
        assert!(!result.pooled && result.id != waiting, "{more}");
    }
    assert!(run(&client, spec(json!({}))).await.pooled);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_crashed_while_it_waited_is_not_handed_out() {
    let (pawd, client, dead) = with_one().await;
    let launcher = pawd.launcher.as_ref().expect("there is one");
    launcher.crash(&dead.parse().expect("it is an id"));
    pawd.daemon.says("a waiting sandbox ended", 1).await;
    let result = run(&client, spec(json!({}))).await;
    assert!(!result.pooled && result.id != dead, "{result:?}");
    assert_eq!(result.exit_code, Some(0));
    let next = waiting(&pawd, 1).remove(0);
    let result = run(&client, spec(json!({}))).await;
    assert_eq!((result.id, result.pooled), (next, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn life_of_a_command_begins_with_its_claim() {
    let (_pawd, client, _) = with_one().await;
    let short = |argv: serde_json::Value| spec(json!({"argv": argv, "timeout_ms": 2_000}));
    for _ in 0..2 {
        run(&client, short(json!(["true"]))).await;
    }
    waiting(&_pawd, 2);
    let result = run(&client, short(json!(["sleep", "600"]))).await;
    assert!(result.pooled && result.timed_out, "{result:?}");
    assert!((1_500..20_000).contains(&result.wall_ms), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_after_a_reload_or_a_stop() {
    let (mut pawd, client, _) = with_one().await;
    ConfigRpcClient::reload(&client).await.expect("it is good");
    waiting(&pawd, 0);
    for _ in 0..2 {
        run(&client, spec(json!({}))).await;
    }
    waiting(&pawd, 1);
    assert_eq!(pawd.stop().await, 0);
    let launcher = pawd.launcher.as_ref().expect("there is one");
    tokio::task::block_in_place(|| launcher.wait_for_running(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_answered_and_measured() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let result = run(&client, spec(json!({"argv": ["cat"], "lines": 50}))).await;
    let rounds = result.rounds.expect("they were asked for");
    assert_eq!((rounds.count, result.exit_code), (50, Some(0)));
    assert!(
        rounds.p50_us > 0.0 && rounds.p50_us <= rounds.p99_us && rounds.p99_us <= rounds.max_us,
        "{rounds:?}"
    );
    let silent = spec(json!({"argv": ["true"], "lines": 50}));
    let mut running = SandboxRpcClient::run(&client, silent)
        .await
        .expect("the run is accepted");
    let last = loop {
        match within("the next event", running.next()).await {
            Some(Ok(RunEvent::Started { .. })) => {}
            other => break other,
        }
    };
    assert!(
        matches!(&last, Some(Ok(RunEvent::Failed { .. }))),
        "{last:?}"
    );
}
