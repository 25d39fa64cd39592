//! What the rules allow is reached, and nothing else is.

use paw_api::egress::{MAX_RULES, Reason};

use crate::rig::{Run, Server, loopback, names, shared};

#[tokio::test]
async fn what_a_rule_names_is_reached_and_its_end_is_told() {
    let server = Server::hello().await;
    let mut run = Run::begin(
        &loopback(server.port()),
        &[&format!("allowed.example:{}", server.port())],
    )
    .await
    .unwrap();
    let answer = run
        .get(&format!("http://allowed.example:{}/x?y", server.port()))
        .await;
    assert_eq!((answer.status(), answer.body().as_str()), (200, "hello"));
    run.settle().await;
    assert_eq!(run.decisions[0].refused, None);
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
    let received = u64::try_from(head.len() + "hello".len()).unwrap();
    assert_eq!(run.decisions[0].address, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(
        (run.finished[0].received, run.finished[0].status),
        (received, Some(200))
    );
    assert!(run.finished[0].sent > 20);
    assert!(
        server.asked()[0].starts_with("GET /x?y HTTP/1.1\r\n"),
        "{}",
        server.asked()[0]
    );
}

#[tokio::test]
async fn without_a_rule_nothing_is_reached() {
    let server = Server::hello().await;
    let mut run = Run::begin(&loopback(server.port()), &[]).await.unwrap();
    let answer = run
        .get(&format!("http://allowed.example:{}/", server.port()))
        .await;
    assert_eq!((answer.status(), run.reason()), (403, Some(Reason::NoRule)));
    assert!(
        answer.text().contains("Retry-After: 5"),
        "{}",
        answer.text()
    );
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn neighbours_of_a_rule_are_not_reached() {
    let server = Server::hello().await;
    let port = server.port();
    let rules = [
        format!("allowed.example:{port},method=GET,path=/v1/"),
        format!("*.wide.example:{port}"),
    ];
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let mut run = Run::begin(&loopback(port), &rules).await.unwrap();
    for (request, reason) in [
        (
            format!(
                "GET http://other.example:{port}/v1/x HTTP/1.1\r\nHost: other.example:{port}\r\n\r\n"
            ),
            Reason::NoRule,
        ),
        (
            format!(
                "GET http://wide.example:{port}/ HTTP/1.1\r\nHost: wide.example:{port}\r\n\r\n"
            ),
            Reason::NoRule,
        ),
        (
            format!(
                "GET http://allowed.example:{port}/v2/x HTTP/1.1\r\nHost: allowed.example:{port}\r\n\r\n"
            ),
            Reason::NotThis,
        ),
        (
            format!(
                "GET http://allowed.example:{port}/v1/../v2 HTTP/1.1\r\nHost: allowed.example:{port}\r\n\r\n"
            ),
            Reason::Malformed,
        ),
        (
            format!(
                "GET http://allowed.example:{port}/v1/%2e%2e/v2 HTTP/1.1\r\nHost: allowed.example:{port}\r\n\r\n"
            ),
            Reason::Malformed,
        ),
        (
            format!(
                "POST http://allowed.example:{port}/v1/x HTTP/1.1\r\nHost: allowed.example:{port}\r\nContent-Length: 0\r\n\r\n"
            ),
            Reason::NotThis,
        ),
        (
            format!(
                "CONNECT allowed.example:{port} HTTP/1.1\r\nHost: allowed.example:{port}\r\n\r\n"
            ),
            Reason::Unseen,
        ),
        (
            "GET http://allowed.example/v1/ HTTP/1.1\r\nHost: allowed.example\r\n\r\n".to_owned(),
            Reason::NoRule,
        ),
        (
            "GET http://allowed.example:22/v1/ HTTP/1.1\r\nHost: allowed.example:22\r\n\r\n"
                .to_owned(),
            Reason::Ceiling,
        ),
    ] {
        let answer = run.say(request.as_bytes()).await;
        assert_eq!(run.reason(), Some(reason), "{request}: {}", answer.text());
        assert!(matches!(answer.status(), 400 | 403), "{request}");
    }
    assert_eq!(server.connections(), 0);
    assert_eq!(
        run.get(&format!("http://a.wide.example:{port}/"))
            .await
            .status(),
        200
    );
    assert_eq!(
        run.get(&format!("http://allowed.example:{port}/v1/x"))
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn an_encrypted_connection_passes_bytes_both_ways() {
    let server = Server::saying("pong").await;
    let port = server.port();
    let mut run = Run::begin(&loopback(port), &[&format!("allowed.example:{port}")])
        .await
        .unwrap();
    let answer = run
        .say(format!("CONNECT allowed.example:{port} HTTP/1.1\r\n\r\nping\r\n\r\n").as_bytes())
        .await;
    assert_eq!(
        answer.text(),
        "HTTP/1.1 200 Connection established\r\n\r\npong"
    );
    assert_eq!(server.asked(), ["ping\r\n\r\n"]);
    run.settle().await;
    assert_eq!(run.finished[0].received, 4);
}

#[tokio::test]
async fn rules_beyond_the_ceiling_are_refused_for_the_whole_run() {
    let ceiling = shared(
        "hosts = [\"*.example\"]\nports = [443]",
        std::path::Path::new("/nonexistent"),
        names(&[]),
    );
    for (rule, ok) in [
        ("a.example:443", true),
        ("*.a.example:443", true),
        ("a.example:80", false),
        ("example:443", false),
        ("a.test:443", false),
        ("*.test:443", false),
        ("broker/openai", false),
    ] {
        assert_eq!(Run::begin(&ceiling, &[rule]).await.is_ok(), ok, "{rule}");
    }
}

#[tokio::test]
async fn without_a_ceiling_nothing_is_allowed() {
    let ceiling = shared("", std::path::Path::new("/nonexistent"), names(&[]));
    assert!(
        Run::begin(&ceiling, &["allowed.example:443"])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_rule_that_a_person_adds_counts_from_then_on() {
    let server = Server::hello().await;
    let port = server.port();
    let mut run = Run::begin(&loopback(port), &[]).await.unwrap();
    let target = format!("http://allowed.example:{port}/");
    assert_eq!(run.get(&target).await.status(), 403);
    let refused = run.allow(&format!("allowed.example:{port}")).await;
    assert_eq!(refused, None);
    assert_eq!(run.get(&target).await.status(), 200);
}

#[tokio::test]
async fn approved_rule_that_cannot_be_added_is_refused_with_its_reason() {
    let mut run = Run::begin(&loopback(1), &[]).await.unwrap();
    let refused = run.allow("allowed.example:22").await.unwrap();
    assert!(refused.message.contains("22"), "{refused:?}");
    for number in 0..MAX_RULES {
        assert_eq!(run.allow(&format!("{number}.example:80")).await, None);
    }
    let refused = run.allow("allowed.example:80").await.unwrap();
    assert!(refused.message.contains("at most 64 rules"), "{refused:?}");
}

#[tokio::test]
async fn what_is_not_recorded_is_not_done() {
    let server = Server::hello().await;
    let port = server.port();
    let mut run = Run::begin(&loopback(port), &[&format!("allowed.example:{port}")])
        .await
        .unwrap();
    run.record = false;
    let answer = run.get(&format!("http://allowed.example:{port}/")).await;
    assert_eq!(
        (answer.status(), run.reason()),
        (503, Some(Reason::Unrecorded))
    );
    assert_eq!(server.connections(), 0);
}
