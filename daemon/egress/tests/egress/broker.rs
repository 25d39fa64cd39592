//! Endpoints with a credential: it goes out with the request and never comes in.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
};

use paw_api::egress::{Hand, Reason};
use paw_egress::run::Shared;

use crate::rig::{Run, encrypted, hand, names, shared};

const SECRET: &str = "sk-live/0123456789+abcdefghij";

/// An https endpoint that answers with what `answer` makes of the request.
struct Endpoint {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    _dir: tempfile::TempDir,
    shared: Arc<Shared>,
}

async fn endpoint(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Endpoint {
    endpoint_with("credential", answer).await
}

/// One whose broker's key is written so: in a file as `credential`, or in the vault as `secret`.
async fn endpoint_with(
    source: &str,
    answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
) -> Endpoint {
    let key = rcgen::generate_simple_self_signed(["api.example".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    fs::write(&ca, key.cert.pem()).unwrap();
    let credential = dir.path().join("api");
    fs::write(&credential, format!("{SECRET}\n")).unwrap();
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o400)).unwrap();

    let (port, asked) = encrypted(&key, answer).await;
    let ceiling = format!(
        "ports = []\nallow_addresses = [\"127.0.0.1/32\"]\n[broker.api]\nurl = \"https://api.example:{port}/base\"\n\
         {source} = \"api\"\nca = {ca:?}\n[broker.other]\nurl = \"https://other.example:{port}/\"\ncredential = \"api\"\nca = {ca:?}"
    );
    let shared = shared(
        &ceiling,
        dir.path(),
        names(&[
            ("api.example", &["127.0.0.1"]),
            ("other.example", &["127.0.0.1"]),
            ("broker", &["127.0.0.1"]),
        ]),
    );
    Endpoint {
        port,
        asked,
        _dir: dir,
        shared,
    }
}

fn ok(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl Endpoint {
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    async fn run(&self) -> Run {
        Run::begin(&self.shared, &["broker/api"]).await.unwrap()
    }
}

#[tokio::test]
async fn the_credential_is_added_on_the_way_out_and_named_in_the_decision() {
    let endpoint = endpoint(|_| ok("done")).await;
    let mut run = endpoint.run().await;
    let answer = run.get("http://broker/api/v1/models?limit=3").await;
    assert_eq!((answer.status(), answer.body().as_str()), (200, "done"));
    let asked = &endpoint.asked()[0];
    assert!(
        asked.starts_with("GET /base/v1/models?limit=3 HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(
        asked.contains(&format!("authorization: Bearer {SECRET}\r\n")),
        "{asked}"
    );
    assert!(
        asked.contains(&format!("host: api.example:{}\r\n", endpoint.port)),
        "{asked}"
    );
    assert_eq!(run.decisions[0].secret.as_deref(), Some("api"));
}

#[tokio::test]
async fn without_a_record_the_credential_is_not_used() {
    let endpoint = endpoint(|_| ok("done")).await;
    let mut run = endpoint.run().await;
    run.record = false;
    assert_eq!(run.get("http://broker/api/").await.status(), 503);
    assert!(endpoint.asked().is_empty());
}

#[tokio::test]
async fn nothing_that_the_sandbox_sends_takes_the_credentials_place() {
    let endpoint = endpoint(|_| ok("done")).await;
    let mut run = endpoint.run().await;
    for headers in [
        "Authorization: Bearer mine\r\n",
        "authorization: Bearer mine\r\nAUTHORIZATION: Basic mine\r\n",
        "Connection: authorization\r\nAuthorization: Bearer mine\r\n",
        "Connection: close, Authorization, Host\r\n",
        "Proxy-Authorization: Bearer mine\r\nCookie: session=mine\r\n",
        "X-HTTP-Method-Override: DELETE; Bearer mine\r\n",
    ] {
        let request = format!("GET http://broker/api/ HTTP/1.1\r\nHost: broker\r\n{headers}\r\n");
        assert_eq!(run.say(request.as_bytes()).await.status(), 200, "{headers}");
        let asked = endpoint.asked().pop().unwrap();
        assert_eq!(asked.matches("authorization:").count(), 1, "{asked}");
        assert!(
            asked.contains(&format!("authorization: Bearer {SECRET}\r\n")),
            "{asked}"
        );
        assert!(!asked.contains("mine"), "{asked}");
    }
}

#[tokio::test]
async fn another_path_or_another_broker_is_not_reached() {
    let endpoint = endpoint(|_| ok("done")).await;
    let mut run = endpoint.run().await;
    for target in [
        "http://broker/",
        "http://broker/api",
        "http://broker/other/",
        "http://broker/other/../api/",
        "http://broker/api/../other/",
        "http://broker/api/..",
        "http://broker/api/%2e%2e/other/",
        "http://broker/api%2f..%2fother/",
        "http://broker/api/..%2fother/",
        "http://broker/api/%2e%2e%2fother/",
        "http://broker/api\\..\\other/",
        "http://broker//api/",
        "http://broker/api//x",
        "http://broker/API/",
        "http://broker/api;/x",
        "http://broker/api/..;/x",
        "http://broker/api/%252e%252e/",
        "http://broker:81/api/",
        "http://broker:443/api/",
        "https://broker/api/",
        "http://broker.example/api/",
        "http://api.example/api/",
        "http://user@broker/api/",
    ] {
        let answer = run.get(target).await;
        assert!(
            matches!(answer.status(), 400 | 403),
            "{target}: {}",
            answer.text()
        );
    }
    let answer = run.say(b"CONNECT broker:80 HTTP/1.1\r\n\r\n").await;
    assert_eq!(answer.status(), 403);
    assert!(endpoint.asked().is_empty());
}

#[tokio::test]
async fn an_answer_that_shows_the_credential_is_thrown_away() {
    type Making = fn(&str) -> Vec<u8>;
    let answers: [(&str, Making); 10] = [
        ("echoed headers", |asked| ok(asked)),
        ("a header", |_| {
            format!("HTTP/1.1 200 OK\r\nX-Echo: {SECRET}\r\nContent-Length: 0\r\n\r\n").into_bytes()
        }),
        ("the words of the status", |_| {
            format!("HTTP/1.1 401 Invalid token {SECRET}\r\nContent-Length: 0\r\n\r\n").into_bytes()
        }),
        ("a redirect", |_| {
            format!("HTTP/1.1 302 Found\r\nLocation: https://evil.example/?t={SECRET}\r\nContent-Length: 0\r\n\r\n").into_bytes()
        }),
        ("an error page", |_| {
            format!("HTTP/1.1 500 Oops\r\nContent-Length: 60\r\n\r\nbad token {SECRET:<50}")
                .into_bytes()
        }),
        ("base64", |_| {
            use base64::Engine as _;
            ok(&base64::engine::general_purpose::STANDARD.encode(format!("Bearer {SECRET}")))
        }),
        ("hexadecimal", |_| ok(&hex::encode(SECRET))),
        ("chunks of one byte", |_| {
            let chunks: String = SECRET.chars().map(|c| format!("1\r\n{c}\r\n")).collect();
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
                .into_bytes()
        }),
        ("a trailer", |_| {
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n0\r\nX-T: {SECRET}\r\n\r\n").into_bytes()
        }),
        ("a compressed body", |_| {
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd".to_vec()
        }),
    ];
    for (what, making) in answers {
        let endpoint = endpoint(making).await;
        let mut run = endpoint.run().await;
        let answer = run.get("http://broker/api/").await.text();
        assert!(
            !answer.contains(SECRET) && !answer.contains(&hex::encode(SECRET)),
            "{what}: {answer}"
        );
        assert!(
            !answer.contains(&SECRET[..20]) && !answer.contains("abcd"),
            "{what}: {answer}"
        );
        run.settle().await;
        let fault = run.finished[0].fault;
        assert_eq!(
            fault,
            // What is never passed on has nothing to be looked for.
            (!["a trailer", "the words of the status"].contains(&what)).then_some(Reason::Leak),
            "{what}"
        );
    }
}

/// An answer whose chunks are what was asked for, piece by piece, as an endpoint gives that returns a text it was sent.
fn said_back(guess: &str) -> Vec<u8> {
    let pieces = ["x".repeat(600), guess.to_owned(), "#".to_owned()];
    let chunks: String = pieces
        .iter()
        .map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len()))
        .collect();
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn an_answer_does_not_tell_how_much_of_a_guess_is_right() {
    let endpoint = endpoint(|asked| {
        let target = asked.split(' ').nth(1).unwrap_or_default();
        let guess = target.rsplit("/base/").next().unwrap_or_default();
        said_back(guess)
    })
    .await;
    let mut run = endpoint.run().await;
    for length in [1, 5, 10, 18] {
        let [right, wrong] = [&SECRET[..length], &"~".repeat(length)].map(str::to_owned);
        let mut sizes = Vec::new();
        for guess in [right, wrong] {
            let answer = run.get(&format!("http://broker/api/{guess}")).await;
            assert_eq!(answer.status(), 200);
            let body = answer.body();
            let chunks = body.split("\r\n").step_by(2);
            sizes.push(chunks.map(str::to_owned).collect::<Vec<_>>());
        }
        assert_eq!(sizes[0], sizes[1], "{length}");
    }
}

#[tokio::test]
async fn a_session_that_the_endpoint_opens_stays_outside() {
    let endpoint = endpoint(|_| {
        b"HTTP/1.1 200 OK\r\nSet-Cookie: session=as-good-as-a-key\r\nContent-Length: 2\r\n\r\nok"
            .to_vec()
    })
    .await;
    let mut run = endpoint.run().await;
    let answer = run.get("http://broker/api/").await.text();
    assert!(
        answer.ends_with("ok") && !answer.contains("as-good-as"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_endpoint_with_the_wrong_certificate_gets_nothing() {
    let endpoint = endpoint(|_| ok("done")).await;
    let mut run = Run::begin(&endpoint.shared, &["broker/other"])
        .await
        .unwrap();
    let answer = run.get("http://broker/other/").await;
    assert_eq!(
        (answer.status(), run.reason()),
        (502, Some(Reason::Unreachable))
    );
    assert!(endpoint.asked().is_empty());
}

#[tokio::test]
async fn a_rule_can_narrow_a_broker_to_methods_and_paths() {
    let endpoint = endpoint(|_| ok("done")).await;
    let mut run = Run::begin(&endpoint.shared, &["broker/api,method=GET,path=/v1/"])
        .await
        .unwrap();
    assert_eq!(run.get("http://broker/api/v1/x").await.status(), 200);
    assert_eq!(run.get("http://broker/api/v2/x").await.status(), 403);
    let post = b"POST http://broker/api/v1/x HTTP/1.1\r\nHost: broker\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(run.say(post).await.status(), 403);
    assert_eq!(endpoint.asked().len(), 1);
}

#[test]
fn brokers_that_cannot_be_meant_are_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write("good", SECRET, 0o400);
    write("open", SECRET, 0o644);
    write("short", "abc", 0o400);
    write("lines", "abcdefgh\nijklmnop", 0o400);
    let check = |broker: &str, ok: bool| {
        let text = format!("[broker.api]\n{broker}");
        let parsed =
            paw_egress::ceiling::Ceiling::parse(&text, Path::new("egress.toml"), dir.path());
        assert_eq!(parsed.is_ok(), ok, "{broker}: {:?}", parsed.err());
    };
    check(
        "url = \"https://api.example/\"\ncredential = \"good\"",
        true,
    );
    check(
        "url = \"https://api.example/\"\ncredential = \"good\"\nheader = \"x-api-key\"\nvalue = \"{}\"",
        true,
    );
    check(
        "url = \"http://api.example/\"\ncredential = \"good\"",
        false,
    );
    check("url = \"https://127.0.0.1/\"\ncredential = \"good\"", false);
    check(
        "url = \"https://user:pw@api.example/\"\ncredential = \"good\"",
        false,
    );
    check(
        "url = \"https://api.example/?key=1\"\ncredential = \"good\"",
        false,
    );
    check(
        "url = \"https://api.example/\"\ncredential = \"missing\"",
        false,
    );
    check(
        "url = \"https://api.example/\"\ncredential = \"../good\"",
        false,
    );
    check(
        "url = \"https://api.example/\"\ncredential = \"open\"",
        false,
    );
    check(
        "url = \"https://api.example/\"\ncredential = \"short\"",
        false,
    );
    check(
        "url = \"https://api.example/\"\ncredential = \"lines\"",
        false,
    );
    check(
        "url = \"https://api.example/\"\ncredential = \"good\"\nheader = \"host\"",
        false,
    );
    check(
        "url = \"https://api.example/\"\ncredential = \"good\"\nvalue = \"fixed\"",
        false,
    );
    check(
        "url = \"https://api.example/\"\ncredential = \"good\"\nsecret = \"inline\"",
        false,
    );
}

/// A run whose broker's secret is in the vault, and what pawd hands over of it.
async fn of_vault(endpoint: &Endpoint, value: Option<&str>) -> Run {
    let mut run = endpoint.run().await;
    run.value = value.map(|value| value.as_bytes().to_vec());
    run
}

#[tokio::test]
async fn a_secret_of_the_vault_is_used_for_the_request_that_it_was_handed_over_for() {
    let endpoint = endpoint_with("secret", |_| ok("done")).await;
    let mut run = of_vault(&endpoint, Some(SECRET)).await;
    assert_eq!(run.get("http://broker/api/x").await.body(), "done");
    assert!(endpoint.asked()[0].contains(&format!("authorization: Bearer {SECRET}\r\n")));
    let decision = &run.decisions[0];
    assert_eq!(
        (
            decision.secret.as_deref(),
            decision.broker.as_deref(),
            decision.vault
        ),
        (Some("api"), Some("api"), true)
    );
    // The next request waits for a value of its own.
    run.value = Some(b"another-one-0123".to_vec());
    run.get("http://broker/api/x").await;
    assert!(endpoint.asked()[1].contains("authorization: Bearer another-one-0123\r\n"));
}

#[tokio::test]
async fn without_the_value_nothing_of_the_request_goes_out() {
    let endpoint = endpoint_with("secret", |_| ok("done")).await;
    let mut run = of_vault(&endpoint, None).await;
    let answer = run.get("http://broker/api/x").await;
    assert_eq!(answer.status(), 403);
    assert!(
        answer.text().contains("X-Paw-Refused: secret\r\n"),
        "{}",
        answer.text()
    );
    // On record, and handed over to another decision, to another run, or not at all.
    run.value = Some(SECRET.into());
    run.record = false;
    assert_eq!(run.get("http://broker/api/x").await.status(), 503);
    for unfit in ["1234567", "0123456789\r\nHost: other"] {
        run.record = true;
        run.value = Some(unfit.into());
        if unfit.len() >= paw_api::egress::MIN_SECRET {
            let answer = run.get("http://broker/api/x").await;
            assert_eq!(answer.status(), 403);
            assert!(!answer.text().contains(unfit), "{}", answer.text());
        }
    }
    assert!(endpoint.asked().is_empty());
}

#[tokio::test]
async fn value_that_nobody_waits_for_is_not_kept() {
    let endpoint = endpoint_with("secret", |_| ok("done")).await;
    let mut run = of_vault(&endpoint, None).await;
    let length = u32::try_from(SECRET.len()).unwrap();
    for early in [hand("test", 1, length), hand("other", 1, length)] {
        assert!(run.hand(&early, SECRET.as_bytes()).await);
    }
    assert_eq!(run.get("http://broker/api/x").await.status(), 403);
    for broken in [
        hand("test", 1, 0),
        hand("test", 1, u32::MAX),
        Hand {
            version: 1,
            ..hand("test", 1, length)
        },
    ] {
        assert!(!run.hand(&broken, SECRET.as_bytes()).await, "{broken:?}");
    }
    assert!(endpoint.asked().is_empty());
}

#[tokio::test]
async fn a_secret_of_the_vault_is_kept_from_the_answer() {
    let endpoint = endpoint_with("secret", ok).await;
    let mut run = of_vault(&endpoint, Some(SECRET)).await;
    let answer = run.get("http://broker/api/x").await;
    assert!(!answer.text().contains(SECRET), "{}", answer.text());
    assert!(!answer.text().contains("Bearer"), "{}", answer.text());
}
