//! The compiled skill over raw JSON lines, with a proxy of the test's own: what it asks for, and what it makes of answers.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use paw_skill::testing::Conversation;
use serde_json::json;

/// A proxy that answers the first line of each request as it is told, and the skill beside it.
struct Rig {
    fetch: Conversation,
    asked: Arc<Mutex<Vec<String>>>,
}

fn rig(answer: impl Fn(&str, usize) -> Vec<u8> + Send + 'static) -> Rig {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut heard) = (stream.unwrap(), Vec::new());
            while !is_whole(&heard) {
                let mut piece = [0; 4096];
                match stream.read(&mut piece).unwrap() {
                    0 => break,
                    read => heard.extend_from_slice(&piece[..read]),
                }
            }
            let heard = String::from_utf8(heard).unwrap();
            let line = heard.lines().next().unwrap_or_default().to_owned();
            let before = {
                let mut seen = seen.lock().unwrap();
                seen.push(heard);
                seen.len()
            };
            // Who has read enough has left.
            let _ = stream.write_all(&answer(&line, before));
        }
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_paw-fetch"));
    command.env("http_proxy", format!("http://{at}"));
    Rig {
        fetch: Conversation::with(&mut command, "paw-fetch"),
        asked,
    }
}

fn is_whole(heard: &[u8]) -> bool {
    let text = String::from_utf8_lossy(heard);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    length.is_none_or(|length| body.len() >= length.parse().unwrap())
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[test]
fn a_text_is_told_with_its_status_and_its_type() {
    let mut rig = rig(|_, _| answer("404 Not Found", "Content-Type: text/html\r\n", b"<p>no</p>"));
    let (text, beside) = rig
        .fetch
        .call("get", json!({"url": "https://a.example/x?y=1#z"}));
    assert_eq!(
        text,
        "HTTP 404, text/html, 9 bytes, from https://a.example/x?y=1\n\n<p>no</p>"
    );
    assert_eq!(
        (&beside["status"], &beside["is_text"]),
        (&json!(404), &json!(true))
    );
    let asked = rig.asked.lock().unwrap()[0].clone();
    assert!(
        asked.starts_with("GET https://a.example/x?y=1 HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(asked.contains("host: a.example\r\n"), "{asked}");
}

#[test]
fn what_is_posted_is_sent_as_it_is_and_a_redirect_of_it_is_only_told() {
    let mut rig = rig(|_, _| answer("307 Temporary Redirect", "Location: /other\r\n", b""));
    let arguments = json!({"url": "http://a.example/in", "body": "{\"a\":1}"});
    let (text, beside) = rig.fetch.call("post", arguments);
    assert!(
        text.contains("it sends on to http://a.example/other\n"),
        "{text}"
    );
    assert_eq!(beside["location"], "http://a.example/other");
    let asked = rig.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 1);
    assert!(
        asked[0].starts_with("POST http://a.example/in HTTP/1.1\r\n"),
        "{asked:?}"
    );
    assert!(
        asked[0].contains("content-type: application/json\r\n"),
        "{asked:?}"
    );
    assert!(asked[0].ends_with("\r\n\r\n{\"a\":1}"), "{asked:?}");
    let long = json!({"url": "http://a.example/in", "body": "x".repeat(64 * 1024 + 1)});
    assert!(rig.fetch.refused("post", long).contains("at most 65536"));
    let split = json!({"url": "http://a.example/in", "body": "", "content_type": "a\r\nX-Evil: 1"});
    assert!(rig.fetch.refused("post", split).contains("cannot be asked"));
    assert_eq!(rig.asked.lock().unwrap().len(), 1);
}

#[test]
fn a_redirect_is_asked_for_like_the_first_and_not_for_ever() {
    let mut rig = rig(|line, _| match line {
        "GET http://a.example/ HTTP/1.1" => {
            answer("302 Found", "Location: https://b.example/b\r\n", b"")
        }
        "GET https://b.example/b HTTP/1.1" => {
            answer("200 OK", "Content-Type: text/plain\r\n", b"here")
        }
        "GET http://a.example/file HTTP/1.1" => {
            answer("302 Found", "Location: file:///etc/passwd\r\n", b"")
        }
        _ => answer("302 Found", "Location: /round\r\n", b""),
    });
    let (text, beside) = rig.fetch.call("get", json!({"url": "http://a.example/"}));
    assert!(text.ends_with("from https://b.example/b\n\nhere"), "{text}");
    assert_eq!(beside["redirects"], json!(["http://a.example/"]));
    let why = rig
        .fetch
        .refused("get", json!({"url": "http://a.example/file"}));
    assert!(why.contains("only http:// and https://"), "{why}");
    let why = rig
        .fetch
        .refused("get", json!({"url": "http://a.example/round"}));
    assert!(why.contains("after 5 others"), "{why}");
    assert_eq!(rig.asked.lock().unwrap().len(), 2 + 1 + 6);
}

#[test]
fn what_is_no_text_is_told_by_its_size_and_digest() {
    let mut rig = rig(|_, _| answer("200 OK", "Content-Type: image/png\r\n", b"\x89PNG\0"));
    let (text, beside) = rig.fetch.call("get", json!({"url": "http://a.example/"}));

    let digest = beside["sha256"].as_str().unwrap();
    assert_eq!(digest.len(), 64);
    assert!(
        text.contains("image/png, 5 bytes") && text.contains(digest),
        "{text}"
    );
    assert!(!text.contains("PNG\0"), "{text}");
}

#[test]
fn long_text_is_cut_and_what_never_ends_is_left() {
    let mut rig = rig(|line, _| {
        let length = if line.contains("/endless") {
            9 << 20
        } else {
            3000
        };
        let body = vec![b'x'; length];
        answer("200 OK", "Content-Type: text/plain\r\n", &body)
    });
    let (text, beside) = rig
        .fetch
        .call("get", json!({"url": "http://a.example/", "limit": 1000}));
    assert!(text.ends_with("xxx\n[cut after 1000 bytes]"), "{text}");
    assert_eq!(
        (&beside["bytes"], &beside["truncated"]),
        (&json!(3000), &json!(true))
    );
    let (text, _) = rig
        .fetch
        .call("get", json!({"url": "http://a.example/endless"}));
    assert!(text.contains("more than 8388608 bytes"), "{}", &text[..200]);
}

#[test]
fn host_that_a_person_is_asked_for_is_waited_for_and_another_is_not() {
    let refusal = |reason: &str| {
        let headers = format!("X-Paw-Refused: {reason}\r\nRetry-After: 1\r\n");
        answer("403 Forbidden", &headers, b"paw-egress: no\n")
    };
    let mut rig = rig(move |line, before| match before {
        1 | 2 => refusal("no_rule"),
        _ if line.contains("/never") => refusal("ceiling"),
        _ => answer("200 OK", "Content-Type: text/plain\r\n", b"reached"),
    });
    let (text, _) = rig
        .fetch
        .call("get", json!({"url": "http://later.example/"}));
    assert!(text.ends_with("\n\nreached"), "{text}");
    assert_eq!(rig.asked.lock().unwrap().len(), 3);
    let why = rig
        .fetch
        .refused("get", json!({"url": "http://later.example/never"}));
    assert_eq!(
        why,
        "http://later.example/never was not reached: paw-egress: no"
    );
}

#[test]
fn without_a_proxy_nothing_is_asked() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paw-fetch"));
    let mut fetch = Conversation::with(command.env_remove("http_proxy"), "paw-fetch");
    let why = fetch.refused("get", json!({"url": "http://a.example/"}));
    assert_eq!(why, "this call may reach nothing");
}
