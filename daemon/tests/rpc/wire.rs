//! The shape of every error of the protocol against the golden files, which hold what was sent and what came back.
//!
//! `PAW_GOLDEN=write` writes them anew; what changes in them is a change of the contract.

use std::{fs, path::Path};

use pawd::rpc::Limits;
use serde_json::{Value, json};

use crate::rig::{PING, Rig, limits, request};

async fn check(name: &str, sent: &str) {
    let rig = Rig::start(Limits {
        request: 200,
        answer: 300,
        depth: 8,
        batch: 2,
        ..limits()
    });
    check_answer(name, sent, &rig.exchange(sent).await);
}

fn check_answer(name: &str, sent: &str, answer: &str) {
    let answer: Value = serde_json::from_str(answer).unwrap();
    let sent = serde_json::from_str(sent).unwrap_or_else(|_| json!(sent));
    let seen = json!({"sent": sent, "answer": answer});
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("api/wire")
        .join(format!("{name}.json"));
    if std::env::var_os("PAW_GOLDEN").is_some() {
        fs::write(&path, format!("{seen:#}\n")).unwrap();
    }
    let golden: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(seen, golden, "{name}");
}

#[tokio::test]
async fn faults_of_the_protocol_have_their_golden_shape() {
    check("fault-not-json", "{\"jsonrpc\":").await;
    check("fault-not-a-request", r#"{"id":5}"#).await;
    check("fault-empty-batch", "[]").await;
    check("fault-too-deep", "[[[[[[[[[]]]]]]]]]").await;
    check("fault-unknown-method", &request(1, "test.pin", &json!([]))).await;
    check(
        "fault-unknown-member",
        &request(1, "test.echo", &json!({"txet": "a", "text": "a"})),
    )
    .await;
    check("fault-missing-member", &request(1, "test.echo", &json!({}))).await;
    check(
        "fault-too-many-positions",
        &request(1, "test.ping", &json!([1])),
    )
    .await;
    check("fault-request-too-big", &"[".repeat(201)).await;
    check(
        "fault-answer-too-big",
        &request(1, "test.big", &json!({"bytes": 300})),
    )
    .await;
    check("fault-batch-too-big", &format!("[{PING},{PING},{PING}]")).await;
    check(
        "fault-batch-answer-too-big",
        &format!("[{0},{0}]", request(1, "test.big", &json!({"bytes": 200}))),
    )
    .await;
    check(
        "fault-handler-panicked",
        &request(1, "test.panic", &json!([])),
    )
    .await;
    check(
        "fault-subscription-in-batch",
        &format!("[{}]", request(1, "test.count", &json!({"until": 1}))),
    )
    .await;
    check("error-with-id", &request(1, "test.fail", &json!([]))).await;
    check("batch", &format!("[{PING},{PING}]")).await;
}

#[tokio::test]
async fn a_refused_connection_has_its_golden_shape() {
    let rig = Rig::start(Limits {
        connections: 0,
        ..limits()
    });
    check_answer(
        "busy-connections",
        "",
        &rig.connect().await.line().await.unwrap(),
    );
}
