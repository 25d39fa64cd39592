//! More runs at once than the launcher has places for: they wait for one, within their own time, and all of them end as they should.

use harness::{Pawd, Setup, within, words::finally};
use jsonrpsee::{async_client::Client, core::client::Subscription};
use paw_api::{
    action::ActionRpcClient,
    sandbox::{RunEvent, RunSpec, SandboxRpcClient},
    system::SystemRpcClient as _,
};
use paw_policy::State;
use serde_json::json;

async fn begin(client: &Client, argv: &[&str], timeout_ms: u64) -> Subscription<RunEvent> {
    let spec: RunSpec =
        serde_json::from_value(json!({"argv": argv, "timeout_ms": timeout_ms})).unwrap();
    within("beginning a run", SandboxRpcClient::run(client, spec))
        .await
        .expect("the run is accepted")
}

/// One that runs until it is killed; its sandbox.
async fn lasting(client: &Client) -> (Subscription<RunEvent>, String) {
    let mut run = begin(client, &["sleep", "600"], 600_000).await;
    loop {
        let event = within("the start of a run", run.next()).await;
        if let RunEvent::Started { id, .. } = event.expect("it goes on").unwrap() {
            return (run, id);
        }
    }
}

/// The last thing that a run says.
async fn last(run: &mut Subscription<RunEvent>) -> RunEvent {
    loop {
        let event = within("the end of a run", run.next()).await;
        let event = event.expect("it goes on").unwrap();
        if matches!(event, RunEvent::Ended(_) | RunEvent::Failed { .. }) {
            return event;
        }
    }
}

/// Waits until so many stand in line for a place.
async fn stand(client: &Client, count: u32) {
    let line = "paw_bounded_used{of=\"sandbox_line\",unit=\"entries\"} ";
    let counted = async {
        loop {
            let text = client.metrics().await.unwrap().text;
            let found = text.lines().find_map(|it| it.strip_prefix(line));
            let found: f64 = found.expect("it is counted").parse().unwrap();
            if found == f64::from(count) {
                return;
            }
        }
    };
    within("a line", counted).await;
}

async fn start(places: usize) -> (Pawd, Client) {
    let pawd = Pawd::start(Setup::new().with("\n[sandbox.pool]\nmax = 0\n")).await;
    pawd.launcher.as_ref().unwrap().has_places(places);
    let client = pawd.client().await;
    (pawd, client)
}

#[tokio::test]
async fn runs_beyond_the_places_of_the_launcher_wait_for_one_and_are_all_done() {
    let (pawd, client) = start(2).await;
    let (_first, one) = lasting(&client).await;
    let (_second, two) = lasting(&client).await;
    let mut runs = Vec::new();
    for code in 0..6 {
        let exit = format!("exit {code}");
        runs.push(begin(&client, &["sh", "-c", &exit], 60_000).await);
    }
    stand(&client, 6).await;
    for id in [one, two] {
        SandboxRpcClient::kill(&client, id).await.unwrap();
    }
    for (code, run) in (0..).zip(&mut runs) {
        match last(run).await {
            RunEvent::Ended(end) => assert_eq!(end.exit_code, Some(code), "{end:?}"),
            other => panic!("{other:?}"),
        }
    }
    stand(&client, 0).await;
    pawd.launcher.as_ref().unwrap().wait_for_running(0);
}

#[tokio::test]
async fn who_waits_for_a_place_does_so_within_its_own_time_and_can_be_cancelled() {
    let (_pawd, client) = start(1).await;
    let (_holding, id) = lasting(&client).await;
    let mut late = begin(&client, &["true"], 300).await;
    match last(&mut late).await {
        RunEvent::Failed { message, error } => assert!(
            message.contains("every place for a sandbox was taken")
                && error.hint.contains("max_sandboxes"),
            "{message} {error:?}"
        ),
        other => panic!("{other:?}"),
    }
    let all = ActionRpcClient::list(&client, None, None, None)
        .await
        .unwrap()
        .items;
    let timed_out = all.iter().filter(|it| it.state == State::TimedOut).count();
    assert_eq!(timed_out, 1, "{all:?}");
    let patient = begin(&client, &["true"], 60_000).await;
    stand(&client, 1).await;
    let all = ActionRpcClient::list(&client, None, None, None)
        .await
        .unwrap()
        .items;
    let waits = all.iter().filter(|it| it.state == State::Executing);
    let newest = waits.max_by_key(|it| it.id.clone()).unwrap().id.clone();
    client.cancel(newest.clone()).await.unwrap();
    drop(patient);
    assert_eq!(finally(&client, &newest).await.state, State::Cancelled);
    stand(&client, 0).await;
    SandboxRpcClient::kill(&client, id).await.unwrap();
    match last(&mut begin(&client, &["true"], 60_000).await).await {
        RunEvent::Ended(end) => assert_eq!(end.exit_code, Some(0)),
        other => panic!("{other:?}"),
    }
}
