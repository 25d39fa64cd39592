//! Clients that send garbage, send slowly, or do not read. Each gets an error or is closed, and nobody else notices.

use std::time::{Duration, Instant};

use pawd::rpc::Limits;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::rig::{PING, PONG, Rig, SOON, ServerProcess, limits, request};

/// More than any test here needs.
const DESCRIPTORS: u32 = 256;

/// What one client may cost, in bytes.
const MOST: u64 = 20 * 1024 * 1024;

/// Writes until the other side takes no more for a while; how many bytes it took.
async fn write_until_stuck(stream: &mut UnixStream, one: &str, most: usize) -> usize {
    let mut written = 0;
    for _ in 0..most {
        match timeout(Duration::from_secs(1), stream.write_all(one.as_bytes())).await {
            Ok(Ok(())) => written += one.len(),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    written
}

#[tokio::test]
async fn garbage_is_answered_with_an_error_and_the_connection_goes_on() {
    let rig = Rig::start(limits());
    for garbage in [
        &b"{"[..],
        b"{}}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"test.ping\"} {}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"test.ping\",\"method\":\"test.ping\"}",
        b"[1,]",
        b"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"test.ping\"}",
        b"{\"id\":1}",
        b"{\"jsonrpc\":\"2.0\",\"id\":[1],\"method\":\"test.ping\"}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"test.ping\",\"params\":\"\xff\xfe\"}",
        b"{\0\0\0}",
        b"{\"\\u0000\":",
    ] {
        let mut bytes = garbage.to_vec();
        bytes.extend_from_slice(format!("\n{PING}\n").as_bytes());
        let answer = rig.exchange(bytes).await;
        let (error, pong) = answer
            .split_once('\n')
            .unwrap_or_else(|| panic!("{}: {answer:?}", garbage.escape_ascii()));
        let error: serde_json::Value = serde_json::from_str(error).unwrap();
        let code = error["error"]["code"].as_i64().unwrap();
        assert!(
            code == -32700 || code == -32600,
            "{}: {error}",
            garbage.escape_ascii()
        );
        assert_eq!(error["error"]["data"]["kind"], "invalid");
        assert_eq!(pong, PONG, "{}", garbage.escape_ascii());
    }
}

#[tokio::test]
async fn a_first_byte_of_no_framing_is_told_and_closed() {
    let rig = Rig::start(limits());
    for byte in [0_u8, 0x16, 0x80, 0xff, b'x', b'"'] {
        let answer = rig.exchange([byte]).await;
        assert!(answer.contains("-32700"), "{byte:#x}: {answer:?}");
    }
}

#[tokio::test]
async fn a_frame_that_does_not_end_is_told_and_closed() {
    let rig = Rig::start(Limits {
        frame: Duration::from_millis(100),
        ..limits()
    });
    let mut slow = rig.connect().await;
    // One byte at a time does not help: the time is that of the frame, not of the byte.
    let dribble = async {
        while slow.write.write_all(b"[").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::future::pending().await
    };
    let mut answer = String::new();
    tokio::select! {
        () = dribble => {}
        read = timeout(SOON, slow.read.read_line(&mut answer)) => drop(read.unwrap()),
    }
    assert!(answer.contains("-32021"), "{answer:?}");
    assert_eq!(rig.exchange(PING).await, PONG);
}

#[tokio::test]
async fn a_posted_body_that_does_not_end_is_told_and_closed() {
    let rig = Rig::start(Limits {
        frame: Duration::from_millis(100),
        ..limits()
    });
    let mut stream = UnixStream::connect(&rig.path).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: paw\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    timeout(SOON, stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_panic_in_a_handler_is_an_answer() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    for method in ["test.panic", "test.panic_later"] {
        let answer = client.call(method, json!([])).await;
        assert_eq!(answer["error"]["data"]["kind"], "internal", "{answer}");
        assert!(!answer.to_string().contains("on purpose"), "{answer}");
    }
    assert_eq!(client.call("test.ping", json!([])).await["result"], "pong");
}

#[tokio::test]
async fn a_call_is_dropped_when_its_caller_is_gone() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    client.send(&request(1, "test.hold", &json!([]))).await;
    rig.until_holding(1).await;
    drop(client);
    rig.until_holding(0).await;
}

/// The numbers are those of the measurement that made us write this loop: a server without it took two gigabytes.
#[tokio::test]
async fn a_client_that_never_reads_costs_little_and_nobody_notices() {
    let server = ServerProcess::start(DESCRIPTORS).await;
    let before = server.resident();
    let mut greedy = UnixStream::connect(&server.path).await.unwrap();
    let hundred = format!("{}\n", request(1, "test.big", &json!({"bytes": 100_000}))).repeat(100);
    let written = write_until_stuck(&mut greedy, &hundred, 200).await;
    assert!(written < 200 * hundred.len(), "it took everything");
    let grown = server.resident().saturating_sub(before);
    assert!(grown <= MOST, "{grown} bytes");

    let mut other = server.first_served().await;
    let mut slowest = Duration::ZERO;
    for _ in 0..1000 {
        let started = Instant::now();
        assert_eq!(other.call("test.ping", json!([])).await["result"], "pong");
        slowest = slowest.max(started.elapsed());
    }
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

#[tokio::test]
async fn long_requests_in_flight_cost_little() {
    let server = ServerProcess::start(DESCRIPTORS).await;
    let before = server.resident();
    let one = format!(
        "{}\n",
        request(1, "test.hold", &json!({"pad": "x".repeat(1_000_000)}))
    );
    let mut greedy = UnixStream::connect(&server.path).await.unwrap();
    let written = write_until_stuck(&mut greedy, &one, 200).await;
    let grown = server.resident().saturating_sub(before);
    assert!(written < 20 * one.len(), "it took {written} bytes");
    assert!(grown <= MOST, "{grown} bytes");
}

#[tokio::test]
async fn many_that_never_read_are_bounded_each() {
    let server = ServerProcess::start(DESCRIPTORS).await;
    let before = server.resident();
    let sixteen = format!(
        "{}\n",
        request(
            1,
            "test.count",
            &json!({"until": 1_000_000_000, "bytes": 1000})
        )
    )
    .repeat(16);
    let mut greedy = Vec::new();
    for _ in 0..10 {
        let mut stream = UnixStream::connect(&server.path).await.unwrap();
        stream.write_all(sixteen.as_bytes()).await.unwrap();
        greedy.push(stream);
    }
    // Others are served meanwhile, in which those 160 subscriptions could have run far ahead.
    for _ in 0..1000 {
        assert_eq!(server.exchange(PING).await, PONG);
    }
    let grown = server.resident().saturating_sub(before);
    assert!(grown <= MOST, "{grown} bytes for ten connections");
}

#[tokio::test]
async fn who_does_not_read_is_closed() {
    let rig = Rig::start(Limits {
        write_stall: Duration::from_millis(100),
        ..limits()
    });
    let mut greedy = UnixStream::connect(&rig.path).await.unwrap();
    let one = format!("{}\n", request(1, "test.big", &json!({"bytes": 100_000})));
    // The end is that the other side is gone, not merely stuck.
    let gone = async { while greedy.write_all(one.as_bytes()).await.is_ok() {} };
    timeout(SOON, gone).await.unwrap();
    assert_eq!(rig.exchange(PING).await, PONG);
}

#[tokio::test]
async fn who_pauses_a_subscription_is_not_closed_that_soon() {
    let stall = Duration::from_millis(50);
    let rig = Rig::start(Limits {
        write_stall: stall,
        write_stall_subscribed: SOON,
        ..limits()
    });
    let mut paused = rig.connect().await;
    paused
        .send(&request(
            1,
            "test.count",
            &json!({"until": 10_000, "bytes": 1000}),
        ))
        .await;
    // A connection without a subscription that stalls as long as that is closed, so the limit has passed for this one too.
    let mut stalled = UnixStream::connect(&rig.path).await.unwrap();
    let one = format!("{}\n", request(1, "test.big", &json!({"bytes": 100_000})));
    timeout(SOON, async {
        while stalled.write_all(one.as_bytes()).await.is_ok() {}
    })
    .await
    .unwrap();
    paused.value().await;
    for seq in 0..10_000 {
        assert_eq!(paused.value().await["params"]["result"]["seq"], seq);
    }
}

#[tokio::test]
async fn a_paused_subscription_is_closed_in_the_end() {
    let soon = Duration::from_millis(50);
    let rig = Rig::start(Limits {
        write_stall: soon,
        write_stall_subscribed: 2 * soon,
        ..limits()
    });
    let mut paused = rig.connect().await;
    paused
        .send(&request(
            1,
            "test.count",
            &json!({"until": 1_000_000, "bytes": 1000}),
        ))
        .await;
    rig.until_counting(1).await;
    rig.until_counting(0).await;
}
