//! What is asked for as `https://`: judged like any other request, and encrypted by the proxy, to a server that is trusted.

use std::{fs, sync::Arc};

use paw_api::egress::Reason;
use paw_egress::run::Shared;

use crate::rig::{Run, encrypted, names, shared};

/// A server with a certificate for `secure.example`, and a broker that trusts it; other names lead there, too.
struct System {
    port: u16,
    asked: Arc<std::sync::Mutex<Vec<String>>>,
    shared: Arc<Shared>,
    _dir: tempfile::TempDir,
}

async fn system() -> System {
    let key = rcgen::generate_simple_self_signed(["secure.example".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    fs::write(&ca, key.cert.pem()).unwrap();
    let answer = |_: &str| {
        b"HTTP/1.1 200 OK\r\nX-Paw-Refused: no_rule\r\nContent-Length: 4\r\n\r\ndone".to_vec()
    };
    let (port, asked) = encrypted(&key, answer).await;
    let ceiling = format!(
        "hosts = [\"*\"]\nports = [{port}, 443]\nallow_addresses = [\"127.0.0.1/32\"]\nca = {ca:?}"
    );
    let lookup = names(&[
        ("secure.example", &["127.0.0.1"]),
        ("other.example", &["127.0.0.1"]),
        ("inside.example", &["127.0.0.2"]),
    ]);
    System {
        port,
        asked,
        shared: shared(&ceiling, dir.path(), lookup),
        _dir: dir,
    }
}

#[tokio::test]
async fn what_is_asked_for_as_https_is_judged_and_then_encrypted_by_the_proxy() {
    let system = system().await;
    let host = format!("secure.example:{}", system.port);
    let rule = format!("{host},method=GET,path=/v1/");
    let mut run = Run::begin(&system.shared, &[&rule]).await.unwrap();
    let answer = run.get(&format!("https://{host}/v1/a?b=c")).await;
    assert_eq!((answer.status(), answer.body().as_str()), (200, "done"));
    // Nobody but the proxy says that it refused something.
    assert!(!answer.text().to_lowercase().contains("x-paw-refused"));
    let asked = system.asked.lock().unwrap().remove(0);
    assert!(asked.starts_with("GET /v1/a?b=c HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("host: {host}\r\n")), "{asked}");

    for (method, target, reason) in [
        ("GET", format!("https://{host}/v2/a"), Reason::NotThis),
        ("POST", format!("https://{host}/v1/a"), Reason::NotThis),
        (
            "GET",
            format!("https://{host}/v1/../v2/a"),
            Reason::Malformed,
        ),
        (
            "GET",
            "https://secure.example/v1/a".to_owned(),
            Reason::NoRule,
        ),
    ] {
        let authority = target.split('/').nth(2).unwrap();
        let said = format!("{method} {target} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        let answer = run.say(said.as_bytes()).await;
        assert_eq!(run.reason(), Some(reason), "{target}: {}", answer.text());
    }
    assert!(system.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn server_that_nobody_vouches_for_under_that_name_is_told_nothing() {
    let system = system().await;
    let rules = ["other", "inside"].map(|name| format!("{name}.example:{}", system.port));
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let mut run = Run::begin(&system.shared, &rules).await.unwrap();
    for (rule, reason) in [(rules[0], Reason::Unreachable), (rules[1], Reason::Address)] {
        let answer = run.get(&format!("https://{rule}/")).await;
        assert!(matches!(answer.status(), 403 | 502), "{}", answer.text());
        let refused = run.decisions.last().and_then(|decision| decision.refused);
        let ended = run.finished.last().and_then(|finished| finished.fault);
        assert_eq!(refused.or(ended), Some(reason), "{rule}");
    }
    assert!(system.asked.lock().unwrap().is_empty());
}
