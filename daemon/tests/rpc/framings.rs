//! Each framing does what it says, and nothing else is one.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use crate::rig::{PING, PONG, Rig, SOON, limits, request};

fn post(body: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: paw\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn web_socket(rig: &Rig) -> WebSocketStream<UnixStream> {
    let stream = UnixStream::connect(&rig.path).await.unwrap();
    tokio_tungstenite::client_async("ws://localhost/", stream)
        .await
        .unwrap()
        .0
}

async fn next_value(socket: &mut WebSocketStream<UnixStream>) -> Value {
    loop {
        if let Message::Text(text) = timeout(SOON, socket.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
        {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

#[tokio::test]
async fn a_line_is_answered_by_a_line() {
    let rig = Rig::start(limits());
    assert_eq!(
        rig.exchange(format!("{PING}\n\r\n  {PING}\r\n")).await,
        format!("{PONG}{PONG}")
    );
}

#[tokio::test]
async fn a_last_line_needs_no_newline() {
    let rig = Rig::start(limits());
    assert_eq!(rig.exchange(PING).await, PONG);
}

#[tokio::test]
async fn bytes_may_come_one_by_one() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    for byte in format!("{PING}\n").bytes() {
        client.write.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(client.line().await.unwrap(), PONG);
}

#[tokio::test]
async fn a_batch_is_answered_in_its_order_without_its_notifications() {
    let rig = Rig::start(limits());
    let notification = r#"{"jsonrpc":"2.0","method":"test.ping"}"#;
    let echo = request(2, "test.echo", &json!({"text": "a"}));
    let answer: Value = serde_json::from_str(
        &rig.exchange(format!("[{PING},{notification},{echo},7]"))
            .await,
    )
    .unwrap();
    let seen: Vec<_> = answer
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["id"].clone(), one["result"].clone()))
        .collect();
    assert_eq!(
        seen,
        [
            (json!(1), json!("pong")),
            (json!(2), json!("a")),
            (json!(null), json!(null))
        ]
    );
}

#[tokio::test]
async fn notifications_are_swallowed() {
    let rig = Rig::start(limits());
    let notification = r#"{"jsonrpc":"2.0","method":"test.hold"}"#;
    assert_eq!(
        rig.exchange(format!("{notification}\n[{notification}]\n{PING}\n"))
            .await,
        PONG
    );
    assert_eq!(*rig.shared.holding.borrow(), 0);
}

#[tokio::test]
async fn answers_come_when_they_are_ready() {
    let rig = Rig::start(limits());
    let mut client = rig.connect().await;
    client.send(&request(7, "test.hold", &json!([]))).await;
    client.send(PING).await;
    assert_eq!(client.line().await.unwrap(), PONG);
    rig.shared.release.add_permits(1);
    assert_eq!(
        client.value().await,
        json!({"jsonrpc": "2.0", "id": 7, "result": "released"})
    );
}

#[tokio::test]
async fn a_post_is_answered_and_the_connection_is_kept() {
    let rig = Rig::start(limits());
    let both = format!("{}{}", post(PING), post(&format!("[{PING}]")));
    let answer = rig.exchange(both).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert_eq!(
        answer.matches("content-type: application/json").count(),
        2,
        "{answer}"
    );
    assert!(
        answer.contains(PONG.trim_end()) && answer.ends_with(&format!("[{}]", PONG.trim_end())),
        "{answer}"
    );
}

#[tokio::test]
async fn a_posted_notification_has_no_content() {
    let rig = Rig::start(limits());
    let answer = rig
        .exchange(post(r#"{"jsonrpc":"2.0","method":"test.ping"}"#))
        .await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
}

#[tokio::test]
async fn a_posted_subscription_streams_lines_until_its_end() {
    let rig = Rig::start(limits());
    let answer = rig
        .exchange(post(&request(1, "test.count", &json!({"until": 3}))))
        .await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("application/x-ndjson") && head.contains("chunked"),
        "{head}"
    );
    let lines: Vec<Value> = body
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let seen: Vec<_> = lines
        .iter()
        .skip(1)
        .map(|line| line["params"]["result"].clone())
        .collect();
    assert!(lines[0]["result"].is_string(), "{lines:?}");
    assert_eq!(
        seen.iter()
            .map(|item| item["seq"].clone())
            .take(3)
            .collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(seen[3], json!({"last": "done"}));
    assert!(body.ends_with("0\r\n\r\n"), "{body}");
}

#[tokio::test]
async fn a_posted_subscription_ends_when_its_client_hangs_up() {
    let rig = Rig::start(limits());
    let mut stream = UnixStream::connect(&rig.path).await.unwrap();
    stream
        .write_all(post(&request(1, "test.count", &json!({"until": 0}))).as_bytes())
        .await
        .unwrap();
    rig.until_counting(1).await;
    drop(stream);
    rig.until_counting(0).await;
}

#[tokio::test]
async fn a_posted_call_is_dropped_when_its_client_hangs_up() {
    let rig = Rig::start(limits());
    let mut stream = UnixStream::connect(&rig.path).await.unwrap();
    stream
        .write_all(post(&request(1, "test.hold", &json!([]))).as_bytes())
        .await
        .unwrap();
    rig.until_holding(1).await;
    drop(stream);
    rig.until_holding(0).await;
}

#[tokio::test]
async fn a_posted_subscription_that_is_refused_ends_with_its_error() {
    let rig = Rig::start(limits());
    let answer = rig
        .exchange(post(&request(1, "test.refuse", &json!([]))))
        .await;
    assert!(
        answer.contains("not today") && answer.ends_with("0\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn what_is_not_a_call_over_http_is_refused() {
    let rig = Rig::start(limits());
    let check = async |head: &str, status: &str| {
        let answer = rig
            .exchange(format!("{head}\r\nHost: paw\r\nConnection: close\r\n\r\n"))
            .await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{head}: {answer}"
        );
    };
    check("GET /healthz HTTP/1.1", "200").await;
    check("POST /healthz HTTP/1.1", "405").await;
    check("GET / HTTP/1.1", "405").await;
    check("DELETE / HTTP/1.1", "405").await;
    check("GET /metrics/../.. HTTP/1.1", "404").await;
    check("POST /rpc HTTP/1.1", "404").await;
    check("POST / HTTP/1.1", "415").await;
    check("POST / HTTP/1.1\r\nContent-Type: text/plain", "415").await;
    check(
        "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket",
        "400",
    )
    .await;
    check(
        "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a",
        "426",
    )
    .await;
}

#[tokio::test]
async fn http_2_is_refused() {
    let rig = Rig::start(limits());
    let answer = rig
        .exchange("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_post_that_is_too_big_is_refused_without_reading_it() {
    let rig = Rig::start(limits());
    let head = "POST / HTTP/1.1\r\nHost: paw\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 104857600\r\n\r\n";
    let mut stream = UnixStream::connect(&rig.path).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    timeout(SOON, stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn web_socket_speaks_the_same() {
    let rig = Rig::start(limits());
    let mut socket = web_socket(&rig).await;
    socket.send(Message::text(PING)).await.unwrap();
    assert_eq!(
        next_value(&mut socket).await,
        json!({"jsonrpc": "2.0", "id": 1, "result": "pong"})
    );
    socket
        .send(Message::Ping("are you there".into()))
        .await
        .unwrap();
    assert_eq!(
        timeout(SOON, socket.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap(),
        Message::Pong("are you there".into())
    );
    socket
        .send(Message::text(format!("[{PING},{PING}]")))
        .await
        .unwrap();
    assert_eq!(next_value(&mut socket).await.as_array().unwrap().len(), 2);
    socket
        .send(Message::text(request(
            2,
            "test.count",
            &json!({"until": 2}),
        )))
        .await
        .unwrap();
    assert!(next_value(&mut socket).await["result"].is_string());
    for seq in 0..2 {
        assert_eq!(
            next_value(&mut socket).await["params"]["result"]["seq"],
            seq
        );
    }
}

#[tokio::test]
async fn a_web_socket_message_that_is_too_big_ends_it() {
    let rig = Rig::start(limits());
    let mut socket = web_socket(&rig).await;
    let _ = socket
        .send(Message::text("x".repeat(2 * 1024 * 1024)))
        .await;
    let ended = timeout(SOON, async {
        while let Some(Ok(message)) = socket.next().await {
            assert!(message.is_close())
        }
    })
    .await;
    assert!(ended.is_ok());
    assert_eq!(rig.exchange(PING).await, PONG);
}

#[tokio::test]
async fn calls_of_a_web_socket_end_with_it() {
    let rig = Rig::start(limits());
    let mut socket = web_socket(&rig).await;
    socket
        .send(Message::text(request(1, "test.hold", &json!([]))))
        .await
        .unwrap();
    rig.until_holding(1).await;
    drop(socket);
    rig.until_holding(0).await;
}

#[tokio::test]
async fn the_typed_client_speaks_it() {
    use jsonrpsee::core::client::{ClientT, SubscriptionClientT};
    let rig = Rig::start(limits());
    let client = paw_api::client::connect(&rig.path).await.unwrap();
    let pong: String = client
        .request("test.ping", jsonrpsee::rpc_params![])
        .await
        .unwrap();
    assert_eq!(pong, "pong");
    let mut items = client
        .subscribe::<Value, _>("test.count", jsonrpsee::rpc_params![100], "test.stop_count")
        .await
        .unwrap();
    for seq in 0..100 {
        assert_eq!(
            timeout(SOON, items.next()).await.unwrap().unwrap().unwrap()["seq"],
            seq
        );
    }
}
