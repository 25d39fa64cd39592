//! Sandboxes that wait for their first command, on the real kernel.

use std::path::Path;

use harness::{
    POOL, cases,
    report::Case,
    somebody::Somebody,
    standalone::{Standalone, gone},
    within,
};
use jsonrpsee::async_client::Client;
use nix::sys::signal::Signal;
use paw_api::{
    sandbox::{RunEvent, RunResult, RunSpec, SandboxInfo, SandboxRpcClient},
    system::SystemRpcClient,
};
use serde_json::{Value, json};

use crate::without_sandboxes;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_sandboxes;
        sandbox_that_waited_is_used_once_and_attested_as_itself,
        sandbox_that_waits_is_for_one_user_alone,
        sandbox_that_waits_ends_at_its_bound_while_pawd_stands_still,
        nothing_that_waited_is_left_after_a_stop,
        measurements_of_the_pool_and_of_a_worker_count_what_they_say,
    ]
}

/// A group that every Debian has. Commands of administrators need nobody's approval.
const ROLES: &str = "\n[roles]\nadmin = \"adm\"\n";
const ADM: u32 = 4;
const ALICE: u32 = 48_001;
const BOB: u32 = 48_002;

async fn system(pool: &str) -> Standalone {
    let system = Standalone::start(ROLES).await;
    system.root.write(POOL.0, pool);
    let output = system.pawctl(&["config", "reload"]).await;
    assert!(output.status.success(), "{output:?}");
    system
}

async fn run(client: &Client) -> RunResult {
    let spec: RunSpec = serde_json::from_value(json!({"argv": ["echo", "said"]}))
        .expect("the rest may be left out");
    let mut running = within("beginning a run", SandboxRpcClient::run(client, spec))
        .await
        .expect("it is accepted");
    loop {
        match within("the run", running.next()).await {
            Some(Ok(RunEvent::Ended(result))) => return *result,
            Some(Ok(RunEvent::Failed { message, error })) => panic!("{message}: {error:?}"),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Runs the same twice and gives the sandbox that waits after it.
async fn warm(system: &Standalone, client: &Client, nth: usize) -> SandboxInfo {
    for _ in 0..2 {
        assert!(!run(client).await.pooled);
    }
    system.daemon.says("sandbox waits", nth).await;
    let listed = SandboxRpcClient::list(&system.client().await)
        .await
        .expect("root may list");
    let mut waiting = listed.into_iter().filter(|one| one.state == "waiting");
    waiting.next_back().expect("one waits")
}

async fn sandbox_that_waited_is_used_once_and_attested_as_itself() {
    let system = system(POOL.1).await;
    let client = system.client().await;
    let waiting = warm(&system, &client, 1).await;
    let status = client.status().await.expect("root may");
    assert_eq!((status.sandboxes.running, status.sandboxes.pooled), (0, 1));
    let result = run(&client).await;
    assert_eq!((&result.id, result.pooled), (&waiting.id, true));
    assert_eq!(result.attestation["digest"], json!(waiting.attestation));
    assert_eq!(result.attestation["facts"]["id"], json!(waiting.id));
    assert!(gone(waiting.pid), "it is used once");
}

async fn sandbox_that_waits_is_for_one_user_alone() {
    let system = system(POOL.1).await;
    system.root.mode("run/control.sock", 0o666);
    let program = Path::new(env!("CARGO_BIN_EXE_be-somebody"));
    let [alice, bob] = [ALICE, BOB]
        .map(|uid| Somebody::connect(program, &system.root.control(), uid, uid, &[ADM]));
    let waiting = warm(&system, &alice.client, 1).await;
    let of_bob = run(&bob.client).await;
    assert!(!of_bob.pooled && of_bob.id != waiting.id, "{of_bob:?}");
    let of_root = run(&system.client().await).await;
    assert!(!of_root.pooled && of_root.id != waiting.id, "{of_root:?}");
    let of_alice = run(&alice.client).await;
    assert_eq!((of_alice.id, of_alice.pooled), (waiting.id, true));
}

async fn sandbox_that_waits_ends_at_its_bound_while_pawd_stands_still() {
    let system = system("[sandbox.pool]\nmax = 1\nidle = \"4s\"\n").await;
    let waiting = warm(&system, &system.client().await, 1).await;
    system.daemon.signal(Signal::SIGSTOP);
    let ended = gone(waiting.pid);
    system.daemon.signal(Signal::SIGCONT);
    assert!(ended, "the launcher ends it without pawd");
}

async fn nothing_that_waited_is_left_after_a_stop() {
    let mut system = system(POOL.1).await;
    let waiting = warm(&system, &system.client().await, 1).await;
    assert_eq!(system.stop().await, 0);
    assert!(gone(waiting.pid));
    let left = system.left_behind();
    assert!(left.is_empty(), "{left:?}");
}

async fn measurements_of_the_pool_and_of_a_worker_count_what_they_say() {
    let system = system(POOL.1).await;
    let measure = async |options: &[&str]| -> Value {
        let all = [&["-o", "json", "bench", "sandbox"], options].concat();
        let output = system.pawctl(&all).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("one document")
    };
    let pool = measure(&["--pool", "--requests", "12"]).await;
    assert_eq!(pool["measures"], json!("claim_to_first_output"));
    let (claimed, cold) = (pool["requests"].as_u64(), pool["cold"].as_u64());
    assert_eq!(claimed.zip(cold).map(|(a, b)| a + b), Some(12), "{pool}");
    assert!(claimed > Some(0) && cold >= Some(2), "{pool}");
    let worker = measure(&["--worker", "--requests", "200"]).await;
    assert_eq!(
        (&worker["measures"], &worker["requests"], &worker["errors"]),
        (&json!("line_round_trip"), &json!(200), &json!(0))
    );
    let cold = measure(&["--requests", "4"]).await;
    assert_eq!(cold["measures"], json!("request_to_end"));
}
