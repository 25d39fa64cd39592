//! Abuse of the control socket: an error or a closed connection for who does it, and nothing at all for everybody else.

use std::{
    fs,
    io::{IoSlice, Read as _},
    mem::MaybeUninit,
    os::fd::AsFd as _,
    time::Duration,
};

use harness::{Pawd, Setup, within};
use paw_api::system::SystemRpcClient;
use rustix::{
    fs::OFlags,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

/// The most that a client may cost which sends and never reads, in bytes.
const COST_MAX: u64 = 20 * 1024 * 1024;

async fn connect(pawd: &Pawd) -> UnixStream {
    UnixStream::connect(pawd.root.control())
        .await
        .expect("pawd listens")
}

/// The one line that comes back for these bytes.
pub(crate) async fn answer(pawd: &Pawd, bytes: &[u8]) -> Value {
    let mut stream = BufReader::new(connect(pawd).await);
    stream.get_mut().write_all(bytes).await.expect("pawd reads");
    let mut line = String::new();
    within("an answer", stream.read_line(&mut line))
        .await
        .expect("it can be read");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
}

/// Whether somebody who behaves is served.
async fn others_are_served(pawd: &Pawd) {
    assert_eq!(
        within("a ping of somebody else", pawd.client().await.ping())
            .await
            .expect("it is answered"),
        "pong"
    );
}

fn memory(pawd: &Pawd) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", pawd.daemon.pid())).expect("pawd runs");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("the kernel says it");
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .expect("a number")
        * 1024
}

/// Descriptors that come with a call are nobody's: pawd has none of them by the time it answers.
#[tokio::test]
async fn l3_descriptors_that_are_sent_along_are_closed() {
    let pawd = Pawd::start(Setup::new()).await;
    let mut stream = BufReader::new(connect(&pawd).await);
    for _ in 0..100 {
        let (mut inner, outer) = std::io::pipe().unwrap();
        let call = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"system.ping\"}\n";
        {
            let descriptors = [outer.as_fd(); 16];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            assert!(beside.push(SendAncillaryMessage::ScmRights(&descriptors)));
            let slice = [IoSlice::new(call)];
            let sent = sendmsg(stream.get_ref(), &slice, &mut beside, SendFlags::empty());
            assert_eq!(sent, Ok(call.len()));
        }
        let mut line = String::new();
        let answered = stream.read_line(&mut line);
        within("an answer", answered).await.unwrap();
        assert!(line.contains("pong"), "{line}");
        // A pipe has an end when nobody holds the other side of it.
        drop(outer);
        rustix::fs::fcntl_setfl(&inner, OFlags::NONBLOCK).unwrap();
        assert_eq!(inner.read(&mut [0]).unwrap(), 0);
    }
    others_are_served(&pawd).await;
}

#[tokio::test]
async fn garbage_is_answered_with_an_error() {
    let pawd = Pawd::start(Setup::new()).await;
    for (bytes, expected) in [
        (&b"{]\n"[..], -32700),
        (b"[1,2\n", -32700),
        (b"{\"jsonrpc\":\"1.0\",\"id\":1}\n", -32600),
        (b" \"text\"\n", -32600),
    ] {
        let said = answer(&pawd, bytes).await;
        let code = said["error"]["code"]
            .as_i64()
            .unwrap_or_else(|| panic!("{said} for {bytes:?}"));
        assert_eq!(code, expected, "{said}");
    }
    others_are_served(&pawd).await;
}

#[tokio::test]
async fn bytes_of_no_framing_are_answered_and_closed() {
    let pawd = Pawd::start(Setup::new()).await;
    let mut stream = connect(&pawd).await;
    stream
        .write_all(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        .await
        .unwrap();
    let mut said = Vec::new();
    // Closed at once or after a word about it; open for ever would be the fault.
    drop(within("the end of the connection", stream.read_to_end(&mut said)).await);
    others_are_served(&pawd).await;
}

#[tokio::test]
async fn half_a_frame_costs_others_nothing() {
    let pawd = Pawd::start(Setup::new()).await;
    let mut half = connect(&pawd).await;
    half.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"meth")
        .await
        .unwrap();
    let mut request = connect(&pawd).await;
    request.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    others_are_served(&pawd).await;
}

#[tokio::test]
async fn hundred_megabytes_in_one_line_are_refused_without_being_kept() {
    let pawd = Pawd::start(Setup::new()).await;
    others_are_served(&pawd).await;
    let before = memory(&pawd);
    let mut stream = connect(&pawd).await;
    let (piece, mut sent) = (vec![b'a'; 1024 * 1024], 0);
    stream
        .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"")
        .await
        .unwrap();
    while sent < 100 && stream.write_all(&piece).await.is_ok() {
        sent += 1;
        if sent == 50 {
            others_are_served(&pawd).await;
        }
    }
    let cost = memory(&pawd).saturating_sub(before);
    assert!(cost <= COST_MAX, "{cost} bytes for {sent} MiB");
    others_are_served(&pawd).await;
}

#[tokio::test]
async fn deep_nesting_is_refused() {
    let pawd = Pawd::start(Setup::new()).await;
    let deep = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"system.ping\",\"params\":{}{}}}\n",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let said = answer(&pawd, deep.as_bytes()).await;
    assert!(said["error"]["code"].is_i64(), "{said}");
    others_are_served(&pawd).await;
}

#[tokio::test]
async fn client_that_never_reads_is_held_back_and_costs_little() {
    let pawd = Pawd::start(Setup::new()).await;
    others_are_served(&pawd).await;
    let before = memory(&pawd);
    let mut stream = connect(&pawd).await;
    // Each answer is some ten kilobytes; twenty thousand of them would be hundreds of megabytes.
    let asked = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.discover\"}\n".repeat(20_000);
    let all = timeout(Duration::from_secs(3), stream.write_all(asked.as_bytes())).await;
    assert!(
        all.is_err(),
        "pawd took every request of a client that reads nothing"
    );
    let cost = memory(&pawd).saturating_sub(before);
    assert!(cost <= COST_MAX, "{cost} bytes");
    others_are_served(&pawd).await;
}

#[tokio::test]
async fn member_that_the_table_does_not_know_is_refused() {
    let pawd = Pawd::start(Setup::new()).await;
    let said = answer(
        &pawd,
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"system.ping\",\"params\":{\"uid\":0}}\n",
    )
    .await;
    assert_eq!(said["error"]["code"], json!(-32602), "{said}");
}

#[tokio::test]
async fn method_that_is_not_there_is_told_so() {
    let pawd = Pawd::start(Setup::new()).await;
    let said = answer(
        &pawd,
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"system.shutdown\"}\n",
    )
    .await;
    assert_eq!(said["error"]["code"], json!(-32601), "{said}");
}

#[tokio::test]
async fn curl_speaks_to_the_same_socket() {
    let pawd = Pawd::start(Setup::new()).await;
    let mut stream = connect(&pawd).await;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"system.ping"}"#;
    let request = format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    within("the answer", stream.read_to_string(&mut said))
        .await
        .unwrap();
    assert!(
        said.starts_with("HTTP/1.1 200") && said.contains("\"pong\""),
        "{said}"
    );
}

#[tokio::test]
async fn pawctl_gives_the_exit_codes_of_the_contract() {
    let pawd = Pawd::start(Setup::new()).await;
    for (arguments, code) in [
        (&["status", "-o", "json"][..], 0),
        (&["action", "show", "ffffffff"], 6),
        (&["frobnicate"], 2),
    ] {
        let output = pawd.pawctl(arguments).await;
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let nobody = harness::Root::new();
    let output = pawd
        .pawctl(&["status", "--socket", nobody.control().to_str().unwrap()])
        .await;
    assert_eq!(
        output.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Each request over HTTP begins a new count: many short ones on a kept connection are none that is long.
#[tokio::test]
async fn short_requests_on_kept_connections_take_no_place_of_a_long_frame() {
    let pawd = Pawd::start(Setup::new()).await;
    let request = |path: &str| {
        let filler = "a".repeat(1_500);
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nx: {filler}\r\n\r\n")
    };
    let mut kept = Vec::new();
    // More connections than a user has places, and more bytes on each than a frame may have that is not long.
    for path in ["/healthz", "/none"].repeat(5) {
        let mut stream = BufReader::new(connect(&pawd).await);
        for _ in 0..30 {
            let asked = request(path);
            stream.get_mut().write_all(asked.as_bytes()).await.unwrap();
            let (mut line, mut length) = (String::new(), 0);
            while line != "\r\n" {
                line.clear();
                within("an answer", stream.read_line(&mut line))
                    .await
                    .unwrap();
                if let Some(said) = line.strip_prefix("content-length: ") {
                    length = said.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            within("a body", stream.read_exact(&mut body))
                .await
                .unwrap();
        }
        kept.push(stream);
    }
    let text = "x".repeat(100_000);
    // What it is called with does not matter: it was read.
    let call =
        json!({"jsonrpc": "2.0", "id": 1, "method": "system.ping", "params": {"text": text}});
    let said = answer(&pawd, format!("{call}\n").as_bytes()).await;
    assert_eq!(said["id"], 1, "{said}");
}
