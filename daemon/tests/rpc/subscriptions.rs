//! Subscriptions: order, end, back-pressure.

use std::sync::atomic::Ordering;

use pawd::rpc::Limits;
use serde_json::json;

use crate::rig::{PING, PONG, Rig, limits, request};

#[tokio::test]
async fn every_item_comes_once_and_in_order() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    let id = client
        .call("test.count", json!({"until": 5000, "bytes": 10}))
        .await["result"]
        .clone();
    for seq in 0..5000 {
        let item = client.value().await;
        assert_eq!(
            (&item["method"], &item["params"]["subscription"]),
            (&json!("test.counted"), &id)
        );
        assert_eq!(item["params"]["result"]["seq"], seq);
    }
    assert_eq!(
        client.value().await["params"]["result"],
        json!({"last": "done"})
    );
}

#[tokio::test]
async fn unsubscribing_ends_it_by_name_and_by_position() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    for by_name in [true, false] {
        let id = client.call("test.count", json!({"until": 0})).await["result"].clone();
        rig.until_counting(1).await;
        let params = if by_name {
            json!({"subscription": id})
        } else {
            json!([id])
        };
        assert_eq!(client.call("test.stop_count", params).await["result"], true);
        rig.until_counting(0).await;
    }
    assert_eq!(
        client.call("test.stop_count", json!(["no such"])).await["result"],
        false
    );
    assert_eq!(
        client.call("test.stop_count", json!([])).await["error"]["code"],
        -32602
    );
}

#[tokio::test]
async fn nobody_can_end_the_subscription_of_another_connection() {
    let rig = Rig::start(limits());
    let (mut one, mut other) = (rig.connect().await, rig.connect().await);
    let id = one.call("test.count", json!({"until": 0})).await["result"].clone();
    rig.until_counting(1).await;
    assert_eq!(
        other.call("test.stop_count", json!([id])).await["result"],
        false
    );
    assert_eq!(*rig.shared.counting.borrow(), 1);
}

#[tokio::test]
async fn a_subscription_ends_with_its_connection() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    client.call("test.count", json!({"until": 0})).await;
    rig.until_counting(1).await;
    drop(client);
    rig.until_counting(0).await;
}

#[tokio::test]
async fn a_subscription_goes_on_after_half_a_close() {
    let rig = Rig::start(limits());
    let answer = rig
        .exchange(request(1, "test.count", &json!({"until": 3})))
        .await;
    assert_eq!(answer.lines().count(), 5, "{answer}");
    assert!(answer.contains(r#"{"last":"done"}"#), "{answer}");
}

#[tokio::test]
async fn a_connection_has_a_bounded_number_of_them() {
    let rig = Rig::start(Limits {
        subscriptions: 2,
        ..limits()
    });
    let mut client = rig.connect().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(client.call("test.count", json!({"until": 0})).await["result"].clone());
    }
    assert_eq!(
        client.call("test.count", json!({"until": 0})).await["error"]["code"],
        -32005
    );
    rig.until_counting(2).await;
    client.call("test.stop_count", json!([ids[0]])).await;
    rig.until_counting(1).await;
    assert!(client.call("test.count", json!({"until": 0})).await["result"].is_string());
}

#[tokio::test]
async fn a_batch_cannot_hold_one() {
    let rig = Rig::start(limits());
    let answer = rig
        .exchange(format!(
            "[{}]",
            request(1, "test.count", &json!({"until": 1}))
        ))
        .await;
    assert!(answer.contains("-32003"), "{answer}");
    assert_eq!(rig.shared.sent.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn one_that_is_refused_says_why() {
    let rig = Rig::start(limits());
    let answer = rig.connect().await.call("test.refuse", json!([])).await;
    assert_eq!(
        (&answer["error"]["code"], &answer["error"]["message"]),
        (&json!(-32006), &json!("not today"))
    );
}

#[tokio::test]
async fn who_sends_waits_for_who_reads_and_nothing_is_lost() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    client
        .send(&request(
            1,
            "test.count",
            &json!({"until": 100_000, "bytes": 1000}),
        ))
        .await;
    client.value().await;
    // Another connection is served meanwhile; by its end the sender had every chance to run away.
    for _ in 0..200 {
        assert_eq!(rig.exchange(PING).await, PONG);
    }
    let ahead = rig.shared.sent.load(Ordering::Relaxed);
    assert!(ahead < 5000, "{ahead} items of 1 kB are somewhere");
    for seq in 0..100_000 {
        assert_eq!(client.value().await["params"]["result"]["seq"], seq);
    }
}
