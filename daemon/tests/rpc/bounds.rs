//! Limits of sizes, numbers and rates: an error that says so, and everybody else goes on.

use std::time::Duration;

use pawd::rpc::Limits;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::UnixStream};

use crate::rig::{Client, PING, PONG, Rig, limits, request};

#[tokio::test]
async fn a_line_that_is_too_long_is_skipped_and_the_connection_goes_on() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    let piece = vec![b'x'; 1024 * 1024];
    client.write.write_all(b"{\"jsonrpc\":\"").await.unwrap();
    for _ in 0..100 {
        client.write.write_all(&piece).await.unwrap();
    }
    client.send("").await;
    client.send(PING).await;
    assert_eq!(client.value().await["error"]["code"], -32007);
    assert_eq!(client.line().await.unwrap(), PONG);
}

#[tokio::test]
async fn a_request_at_the_limit_passes() {
    let rig = Rig::start(limits());
    let empty = request(1, "test.echo", &json!({"text": ""})).len();
    let mut client = rig.connect().await;
    let full = "a".repeat(1024 * 1024 - empty);
    assert_eq!(
        client.call("test.echo", json!({"text": full})).await["result"],
        full
    );
    assert_eq!(
        client
            .call("test.echo", json!({"text": format!("{full}a")}))
            .await["error"]["code"],
        -32007
    );
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_an_error() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    let most = 16 * 1024 * 1024;
    assert_eq!(
        client.call("test.big", json!({"bytes": most - 64})).await["result"]
            .as_str()
            .unwrap()
            .len(),
        most - 64
    );
    let answer = client.call("test.big", json!({"bytes": most})).await;
    assert_eq!(
        (&answer["error"]["code"], &answer["error"]["data"]["kind"]),
        (&json!(-32008), &json!("invalid"))
    );
}

#[tokio::test]
async fn a_batch_is_bounded_in_number_and_in_answer() {
    let rig = Rig::start(Limits {
        answer: 10_000,
        ..limits()
    });
    let mut client = rig.connect().await;
    let batch = |one: &str, count: usize| format!("[{}]", vec![one; count].join(","));
    client.send(&batch(PING, 64)).await;
    assert_eq!(client.value().await.as_array().unwrap().len(), 64);
    client.send(&batch(PING, 65)).await;
    assert_eq!(client.value().await["error"]["code"], -32010);
    client.send("[]").await;
    assert_eq!(client.value().await["error"]["code"], -32600);
    client
        .send(&batch(&request(1, "test.big", &json!({"bytes": 5000})), 3))
        .await;
    assert_eq!(client.value().await["error"]["code"], -32011);
}

#[tokio::test]
async fn deep_nesting_is_an_error_before_it_is_read() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    for depth in [65, 200, 500_000] {
        client
            .send(&format!("{}{}", "[".repeat(depth), "]".repeat(depth)))
            .await;
        assert_eq!(client.value().await["error"]["code"], -32600, "{depth}");
        client
            .send(&format!(
                "{}1{}",
                r#"{"a":"#.repeat(depth / 5),
                "}".repeat(depth / 5)
            ))
            .await;
        assert_eq!(client.value().await["error"]["code"], -32600, "{depth}");
    }
    let nested = format!("{}1{}", "[".repeat(62), "]".repeat(62));
    client.send(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"test.echo","params":{{"text":"a","again":{nested}}}}}"#)).await;
    assert_eq!(client.value().await["result"], "a");
}

#[tokio::test]
async fn nothing_is_read_while_64_calls_are_unanswered() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    for id in 0..65 {
        client.send(&request(id, "test.hold", &json!([]))).await;
    }
    client.send(PING).await;
    rig.until_holding(64).await;
    // Whatever else was sent must still be unread once another connection was served.
    assert_eq!(rig.exchange(PING).await, PONG);
    assert_eq!(*rig.shared.holding.borrow(), 64);
    rig.shared.release.add_permits(65);
    let mut answered = 0;
    while answered < 66 {
        let _: Value = client.value().await;
        answered += 1;
    }
}

#[tokio::test]
async fn connections_are_counted_from_accept_and_beyond_the_limit_told_why() {
    let rig = Rig::start(Limits {
        connections: 2,
        ..limits()
    });
    let (first, second) = (rig.connect().await, rig.connect().await);
    let mut third = rig.connect().await;
    let answer = third.value().await;
    assert_eq!(
        (&answer["error"]["code"], &answer["error"]["data"]["kind"]),
        (&json!(-32005), &json!("busy"))
    );
    assert!(
        answer["error"]["data"]["retry_after_ms"].is_u64(),
        "{answer}"
    );
    assert_eq!(third.line().await, None);
    drop((first, second));
    until_served(&rig).await;
}

#[tokio::test]
async fn one_user_has_a_bounded_number_of_connections() {
    let rig = Rig::start(Limits {
        connections_per_uid: 1,
        ..limits()
    });
    let first = rig.connect().await;
    assert_eq!(rig.connect().await.value().await["error"]["code"], -32005);
    drop(first);
    until_served(&rig).await;
}

/// A place is free as soon as the server has noticed that its user is gone, which no client can see.
async fn until_served(rig: &Rig) {
    for _ in 0..10_000 {
        let mut client = Client::new(UnixStream::connect(&rig.path).await.unwrap());
        // A connection that was refused may be closed already.
        let _ = client.write.write_all(format!("{PING}\n").as_bytes()).await;
        if client.line().await.as_deref() == Some(PONG) {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("no place became free");
}

#[tokio::test]
async fn one_user_has_a_bounded_rate_unless_it_is_root() {
    let rig = Rig::start(Limits {
        requests_per_second: 1,
        request_burst: 10,
        ..limits()
    });
    let mut client = rig.connect().await;
    let mut busy = Vec::new();
    for _ in 0..20 {
        client.send(PING).await;
        busy.push(client.value().await["error"]["data"]["kind"] == "busy");
    }
    let root = nix::unistd::geteuid().is_root();
    assert_eq!(busy, [vec![false; 10], vec![!root; 10]].concat());
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let rig = Rig::start(Limits {
        first_byte: Duration::from_millis(50),
        ..limits()
    });
    assert_eq!(rig.connect().await.line().await, None);
}

#[tokio::test]
async fn a_connection_that_spoke_may_be_silent() {
    let rig = Rig::start(Limits {
        first_byte: Duration::from_millis(20),
        frame: Duration::from_millis(20),
        ..limits()
    });
    let mut idle = rig.connect().await;
    idle.send(PING).await;
    assert_eq!(idle.line().await.unwrap(), PONG);
    // The silent one outlives a connection that runs into both limits.
    assert_eq!(rig.connect().await.line().await, None);
    let mut slow = rig.connect().await;
    slow.write.write_all(b"{").await.unwrap();
    assert_eq!(slow.value().await["error"]["code"], -32021);
    idle.send(PING).await;
    assert_eq!(idle.line().await.unwrap(), PONG);
}
