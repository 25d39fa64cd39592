//! Stopping: what is in flight is answered, subscriptions say goodbye, and it ends in time.

use std::time::Duration;

use pawd::rpc::Limits;
use serde_json::json;
use tokio::{net::UnixStream, task::JoinSet, time::timeout};

use crate::rig::{Client, PING, PONG, Rig, SOON, ServerProcess, limits, request};

#[tokio::test]
async fn running_out_of_descriptors_is_told_and_passes() {
    let server = ServerProcess::start(40).await;
    let mut first = server.first_served().await;
    // More than the server has descriptors, fewer than it has places.
    let mut waiting = JoinSet::new();
    for _ in 0..50 {
        let mut client = Client::new(UnixStream::connect(&server.path).await.unwrap());
        waiting.spawn(async move { client.line().await });
    }
    let told = async {
        while let Some(line) = waiting.join_next().await {
            if let Ok(Some(line)) = line {
                return line;
            }
        }
        panic!("nobody was told");
    };
    let told = timeout(SOON, told).await.unwrap();
    assert!(told.contains("LimitNOFILE"), "{told}");
    assert_eq!(first.call("test.ping", json!([])).await["result"], "pong");
    waiting.shutdown().await;
    server.first_served().await;
}

#[tokio::test]
async fn a_call_in_flight_is_answered_before_the_end() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    client.send(&request(1, "test.hold", &json!([]))).await;
    rig.until_holding(1).await;
    rig.stop.cancel();
    rig.shared.release.add_permits(1);
    assert_eq!(client.value().await["result"], "released");
    assert_eq!(client.line().await, None);
    timeout(SOON, rig.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_that_does_not_end_is_answered_with_an_error() {
    let rig = Rig::start(Limits {
        drain: Duration::from_millis(50),
        ..limits()
    });
    let mut client = rig.connect().await;
    client.send(&request(7, "test.hold", &json!([]))).await;
    rig.until_holding(1).await;
    rig.stop.cancel();
    let answer = client.value().await;
    assert_eq!(
        (&answer["id"], &answer["error"]["data"]["kind"]),
        (&json!(7), &json!("unavailable"))
    );
    timeout(SOON, rig.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_subscription_sends_its_last_item() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    client.call("test.count", json!({"until": 0})).await;
    rig.until_counting(1).await;
    rig.stop.cancel();
    assert_eq!(
        client.value().await["params"]["result"],
        json!({"last": "stopping"})
    );
    assert_eq!(client.line().await, None);
    timeout(SOON, rig.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn idle_connections_are_closed_and_no_new_ones_taken() {
    let rig = Rig::start(limits());
    let mut idle = rig.connect().await;
    idle.send(PING).await;
    assert_eq!(idle.line().await.unwrap(), PONG);
    let mut silent = rig.connect().await;
    rig.stop.cancel();
    assert_eq!(idle.line().await, None);
    assert_eq!(silent.line().await, None);
    timeout(SOON, rig.served).await.unwrap().unwrap();
    assert!(UnixStream::connect(&rig.path).await.is_err());
}

#[tokio::test]
async fn one_who_never_reads_does_not_hold_up_the_end() {
    let rig = Rig::start(Limits {
        drain: Duration::from_millis(50),
        ..limits()
    });
    let mut greedy = rig.connect().await;
    greedy
        .send(&request(
            1,
            "test.count",
            &json!({"until": 1_000_000, "bytes": 1000}),
        ))
        .await;
    rig.until_counting(1).await;
    rig.stop.cancel();
    timeout(SOON, rig.served).await.unwrap().unwrap();
    rig.shared
        .counting
        .subscribe()
        .wait_for(|now| *now == 0)
        .await
        .unwrap();
}
