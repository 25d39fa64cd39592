//! What pawd adds to a chat can be measured by whoever runs it.

use std::net::TcpListener;

use harness::{Pawd, Setup};
use serde_json::Value;

/// A pawd with the provider `stub` at this port.
async fn start(port: u16) -> Pawd {
    let url = format!("http://127.0.0.1:{port}");
    let setup = Setup::new().provider("stub", "openai-compatible", &url, "max_retries = 0\n");
    Pawd::start(setup).await
}

#[tokio::test]
async fn what_pawd_adds_to_a_chat_is_measured() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    let pawd = start(port).await;
    let load = [
        "-o",
        "json",
        "bench",
        "chat",
        "--stub",
        "--requests",
        "20",
        "--concurrency",
        "2",
        "--tokens",
        "3",
    ];
    let refused = pawd.pawctl(&load).await;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && why.contains("nothing can listen at"),
        "{why}"
    );

    drop(free);
    let output = pawd.pawctl(&load).await;
    assert!(output.status.success(), "{output:?}");
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&seen["requests"], &seen["errors"]),
        (&20.into(), &0.into()),
        "{seen}"
    );
    let at = |name: &str| {
        seen[name]
            .as_f64()
            .unwrap_or_else(|| panic!("no {name} in {seen}"))
    };
    assert!(
        at("p50_us") > at("direct_p50_us") && at("direct_p50_us") > 0.0,
        "{seen}"
    );
    assert!(
        (at("p50_us") - at("direct_p50_us") - at("added_p50_us")).abs() < 0.2,
        "{seen}"
    );
    let chats = pawd
        .pawctl(&["-o", "json", "action", "list", "-n", "50"])
        .await;
    let chats: Value = serde_json::from_slice(&chats.stdout).unwrap();
    let done = chats["items"].as_array().unwrap();
    assert_eq!(
        done.iter().filter(|it| it["state"] == "completed").count(),
        20,
        "{chats}"
    );
}
