//! A user who floods the control socket is refused or cut off, and another one is answered all the while.
//!
//! That the other one is answered soon is measured (`tests/bench/floods`), not tested.

use std::{path::Path, time::Duration};

use harness::{
    Setup, cases,
    report::Case,
    somebody::Guest,
    within,
    words::{ask_to_write, object, refused},
};
use paw_api::{ErrorKind, action::ActionRpcClient as _, system::SystemRpcClient};
use paw_policy::State;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

use crate::{
    roles::{ADM, ALICE, BOB, CONFIG, House, USERS},
    without_root,
};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_root;
        flood_of_connections_leaves_others_theirs,
        half_open_handshakes_leave_others_their_places,
        flood_of_frames_is_told_when_to_come_again,
        huge_batches_and_frames_are_refused,
        who_reads_nothing_is_held_back,
        calls_in_flight_of_a_user_are_bounded_over_all_connections,
        flood_of_searches_leaves_others_their_answers,
        questions_of_one_user_leave_others_theirs,
    ]
}

const PING: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"system.ping\"}\n";

/// A house with these bounds of the control socket.
async fn house(bounds: &str) -> House {
    House::with(Setup::only(&format!("[rpc]\n{bounds}\n{CONFIG}")).shipped_policy()).await
}

/// A connection of Alice's, for bytes of any kind.
fn alice(house: &House, groups: &[u32]) -> (BufReader<UnixStream>, Guest) {
    let program = Path::new(env!("CARGO_BIN_EXE_be-somebody"));
    let socket = house.pawd.root.control();
    let (stream, guest) = Guest::connect(program, &socket, ALICE, ALICE, groups);
    (BufReader::new(stream), guest)
}

async fn line(stream: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    within("a line", stream.read_line(&mut line))
        .await
        .expect("it can be read");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
}

/// That this is a refusal for want of room or pace, which says when to come again.
fn is_busy(said: &Value) -> bool {
    let data = &said["error"]["data"];
    data["kind"] == "busy" && data["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0)
}

/// Another user, and root, are answered on connections of their own.
async fn others_are_answered(house: &mut House) {
    for (uid, groups) in [(BOB, &[USERS][..]), (0, &[])] {
        let status = house.guest(uid, groups).status();
        let status = within("status for another user", status).await;
        assert!(status.expect("it is answered").ready, "{uid}");
    }
}

async fn flood_of_connections_leaves_others_theirs() {
    let mut house = house("connections_per_user = 3").await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        let (mut stream, guest) = alice(&house, &[USERS]);
        stream.write_all(PING).await.expect("pawd reads");
        assert_eq!(line(&mut stream).await["result"], "pong");
        kept.push((stream, guest));
    }
    for _ in 0..5 {
        let (mut stream, _guest) = alice(&house, &[USERS]);
        let said = line(&mut stream).await;
        assert!(is_busy(&said), "{said}");
        let mut rest = Vec::new();
        within("its end", stream.read_to_end(&mut rest))
            .await
            .expect("it is closed");
    }
    others_are_answered(&mut house).await;
    // A place that is given back can be had again.
    kept.pop();
    let (mut stream, _guest) = alice(&house, &[USERS]);
    // The end of the one before may not have been seen yet: then this one is refused, and the next is not.
    stream.write_all(PING).await.expect("there is a socket");
    let first = line(&mut stream).await;
    assert!(first["result"] == "pong" || is_busy(&first), "{first}");
}

async fn half_open_handshakes_leave_others_their_places() {
    let mut house = house("connections = 64\nconnections_per_user = 8").await;
    let mut kept = Vec::new();
    for begun in [
        &b""[..],
        b"{\"jsonrpc\":\"2.0\",",
        b"[",
        b"GET / HTTP/1.1\r\nupgrade: websocket\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{",
        b"P",
        b" ",
        b"{",
    ] {
        let (mut stream, guest) = alice(&house, &[USERS]);
        stream.write_all(begun).await.expect("pawd reads");
        kept.push((stream, guest));
    }
    others_are_answered(&mut house).await;
    let (mut stream, _guest) = alice(&house, &[USERS]);
    let said = line(&mut stream).await;
    assert!(is_busy(&said), "{said}");
}

async fn flood_of_frames_is_told_when_to_come_again() {
    let mut house = house("requests_per_second = 20").await;
    let (mut stream, _guest) = alice(&house, &[USERS]);
    // Twice as many as come at once, over one connection and over the next.
    stream
        .write_all(&PING.repeat(60))
        .await
        .expect("pawd reads");
    let mut refused = 0;
    for number in 0..60 {
        let said = line(&mut stream).await;
        if said["result"] != "pong" {
            assert!(is_busy(&said), "{said}");
            refused += 1;
        }
        // Seldom enough for their own pace.
        if number % 20 == 0 {
            others_are_answered(&mut house).await;
        }
    }
    assert!(refused > 0, "all of them were answered");
    let (mut again, _guest) = alice(&house, &[USERS]);
    again.write_all(&PING.repeat(60)).await.expect("pawd reads");
    let mut said = line(&mut again).await;
    for _ in 1..60 {
        if is_busy(&said) {
            return;
        }
        said = line(&mut again).await;
    }
    panic!("a new connection has a fresh burst");
}

async fn huge_batches_and_frames_are_refused() {
    let mut house = house("").await;
    let (mut stream, _guest) = alice(&house, &[USERS]);
    let ping = String::from_utf8(PING.to_vec()).expect("it is ASCII");
    let batch = vec![ping.trim_end(); 65].join(",");
    let long = "x".repeat(1024 * 1024 + 1);
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (sent, code) in [
        (format!("[{batch}]\n"), -32010),
        (format!("{{\"jsonrpc\":\"{long}\"}}\n"), -32007),
        (format!("{nested}\n"), -32600),
    ] {
        stream.write_all(sent.as_bytes()).await.expect("pawd reads");
        let said = line(&mut stream).await;
        assert_eq!(said["error"]["code"], code, "{said}");
        others_are_answered(&mut house).await;
    }
    stream.write_all(PING).await.expect("pawd reads");
    assert_eq!(line(&mut stream).await["result"], "pong");
}

async fn who_reads_nothing_is_held_back() {
    let mut house = house("").await;
    let asked = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.discover\"}\n".repeat(20_000);
    let mut kept = Vec::new();
    for _ in 0..3 {
        let (mut stream, guest) = alice(&house, &[USERS]);
        let all = stream.write_all(&asked);
        let all = tokio::time::timeout(Duration::from_secs(2), all).await;
        assert!(all.is_err(), "pawd took all from who reads nothing");
        kept.push((stream, guest));
        others_are_answered(&mut house).await;
    }
}

async fn calls_in_flight_of_a_user_are_bounded_over_all_connections() {
    const ALL: usize = 512;
    let mut house = house("").await;
    let asked = ask_to_write(house.guest(ALICE, &[USERS]), "out.txt", "hello").await;
    assert_eq!(asked.state, State::WaitingApproval);
    let wait = |id: &str| {
        format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"action.wait\",\"params\":{{\"id\":\"{id}\"}}}}\n"
        )
    };
    // As many of one connection as it may have, and so on; a ping behind them tells that they were read.
    let mut kept = Vec::new();
    for _ in 0..ALL / 63 {
        let (mut stream, guest) = alice(&house, &[USERS]);
        let calls = wait(&asked.id).repeat(63);
        stream
            .write_all(calls.as_bytes())
            .await
            .expect("pawd reads");
        stream.write_all(PING).await.expect("pawd reads");
        assert_eq!(line(&mut stream).await["result"], "pong");
        kept.push((stream, guest));
    }
    let (mut stream, _guest) = alice(&house, &[USERS]);
    stream
        .write_all(wait(&asked.id).repeat(9).as_bytes())
        .await
        .expect("pawd reads");
    let said = line(&mut stream).await;
    assert!(is_busy(&said) && said["id"] == 7, "{said}");
    others_are_answered(&mut house).await;
    let bobs = ask_to_write(house.guest(BOB, &[USERS]), "out.txt", "hello").await;
    assert_eq!(bobs.state, State::WaitingApproval);
    // What ends makes room.
    kept.pop();
    stream.write_all(PING).await.expect("pawd reads");
    assert_eq!(line(&mut stream).await["result"], "pong");
}

async fn flood_of_searches_leaves_others_their_answers() {
    let mut house = house("").await;
    let searches = [
        "audit.verify",
        "audit.list",
        "action.list",
        "session.list",
        "system.metrics",
        "system.doctor",
        "sandbox.stats",
    ];
    let mut kept = Vec::new();
    for method in searches {
        let call = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\"}}\n");
        let (mut stream, guest) = alice(&house, &[ADM]);
        stream
            .write_all(call.repeat(60).as_bytes())
            .await
            .expect("pawd reads");
        kept.push((stream, guest));
    }
    others_are_answered(&mut house).await;
    let bob = house.guest(BOB, &[USERS]);
    let listed = paw_api::action::ActionRpcClient::list(bob, None, None, None);
    within("a list for another user", listed)
        .await
        .expect("it is answered");
    // Each is answered in the end: who is held back is not forgotten.
    for (stream, _) in &mut kept {
        for _ in 0..60 {
            let said = line(stream).await;
            assert!(said.get("result").is_some(), "{said}");
        }
    }
    drop(kept);
    let refused = house.guest(BOB, &[]).status().await;
    harness::words::refused(refused, ErrorKind::Denied);
}

/// A user who has asked for a quarter of what people may be asked asks for no more; others still do.
async fn questions_of_one_user_leave_others_theirs() {
    let setup = Setup::only(&format!("[actions]\napprovals = 8\n{CONFIG}")).shipped_policy();
    let mut house = House::with(setup).await;
    let alice = house.guest(ALICE, &[USERS]);
    for path in ["one.txt", "two.txt"] {
        ask_to_write(alice, path, "x").await;
    }
    let third = object(
        json!({"skill": "files", "tool": "write", "arguments": {"path": "three.txt", "text": "x"}}),
    );
    let third = alice.submit("tool_call".into(), third, None, None, None, None);
    refused(within("a third", third).await, ErrorKind::Busy);
    ask_to_write(house.guest(BOB, &[USERS]), "his.txt", "x").await;
    // Administrators are bounded by what is left alone.
    let root = house.guest(0, &[]);
    for path in ["a.txt", "b.txt", "c.txt"] {
        ask_to_write(root, path, "x").await;
    }
}
