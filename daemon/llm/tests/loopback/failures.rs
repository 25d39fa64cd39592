//! Providers that refuse, break off or send us elsewhere.

use std::time::Duration;

use paw_llm::{Done, LlmError, Provider, Step};
use tokio::time::timeout;

use crate::server::{
    HELLO, NDJSON, OLLAMA, OPENAI, SHORT, SSE, accept, ask, chunk, config, listen, outcome,
    provider, request, run, send,
};

#[test]
fn stream_that_breaks_off_is_cut_after_its_text() {
    run(async {
        let identity =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        let ndjson = format!(
            "{NDJSON}{}",
            chunk("{\"message\":{\"content\":\"Hello\"},\"done\":false}\n")
        );
        for (kind, response) in [
            (OPENAI, format!("{SSE}{}", chunk(HELLO))),
            (OPENAI, format!("{SSE}{}0\r\n\r\n", chunk(HELLO))),
            (
                OPENAI,
                format!(
                    "{SSE}{}{}0\r\n\r\n",
                    chunk(HELLO),
                    chunk("data: {\"choices\":[{\"delta\":{\"con")
                ),
            ),
            (OPENAI, format!("{SSE}ffff\r\n{HELLO}")),
            (OPENAI, format!("{identity}{HELLO}")),
            (OLLAMA, ndjson.clone()),
            (OLLAMA, format!("{ndjson}0\r\n\r\n")),
        ] {
            let (text, end) = outcome(kind, &response, false).await;
            assert_eq!(text, "Hello", "{response}");
            assert!(
                matches!(end, Err(LlmError::Cut { .. })),
                "{response} {end:?}"
            );
        }
    });
}

#[test]
fn error_inside_the_stream_comes_after_its_text() {
    run(async {
        let (text, end) = outcome(
            OPENAI,
            &format!(
                "{SSE}{}{}",
                chunk(HELLO),
                chunk("data: {\"error\":{\"message\":\"sk-secret gone\"}}\n\n")
            ),
            true,
        )
        .await;
        assert_eq!(
            (
                text.as_str(),
                end.expect_err("a fault").to_string().as_str()
            ),
            ("Hello", "the provider cannot serve now: [key] gone")
        );
    });
}

#[test]
fn failed_connection_names_its_step() {
    run(async {
        let step = |outcome: Result<Done, LlmError>| match outcome {
            Err(LlmError::Transport { step, source }) => {
                assert!(!format!("{source:?}").contains("http"), "{source:?}");
                step
            }
            other => panic!("{other:?}"),
        };
        let (url, listener) = listen().await;
        drop(listener);
        assert_eq!(step(ask(&provider(OPENAI, &url)).await.1), Step::Connect);

        let (url, listener) = listen().await;
        let reset = async {
            let mut stream = accept(&listener).await;
            request(&mut stream).await;
            stream.set_zero_linger().expect("an option");
        };
        let provider_that_resets = provider(OPENAI, &url);
        assert_eq!(
            step(tokio::join!(ask(&provider_that_resets), reset).0.1),
            Step::Read
        );

        let (url, listener) = listen().await;
        let no_tls = async {
            let mut stream = accept(&listener).await;
            send(&mut stream, "HTTP/1.1 400 Bad Request\r\n\r\n").await;
            stream
        };
        let provider_without_tls = provider(OPENAI, &url.replace("http:", "https:"));
        assert_eq!(
            step(tokio::join!(ask(&provider_without_tls), no_tls).0.1),
            Step::Tls
        );

        // A label this long is refused by the resolver itself, so no DNS server is needed.
        let mut nowhere = config(OPENAI, &format!("http://{}.invalid", "x".repeat(64)));
        nowhere.allow_plaintext = true;
        let provider_nowhere = Provider::new(nowhere).expect("a good configuration");
        assert_eq!(step(ask(&provider_nowhere).await.1), Step::Resolve);
    });
}

#[test]
fn status_and_body_before_a_stream_become_the_right_error() {
    run(async {
        let check = async |kind,
                           status: &str,
                           headers: &str,
                           body: &str,
                           expected: &str,
                           wait: Option<u64>| {
            let response = format!(
                "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}",
                body.len()
            );
            let error = outcome(kind, &response, true).await.1.expect_err("a fault");
            assert_eq!(
                (error.kind(), error.retry_after()),
                (expected, wait.map(Duration::from_secs)),
                "{response}"
            );
            assert!(
                !format!("{error} {error:?}").contains("sk-secret"),
                "{error:?}"
            );
        };
        check(
            OPENAI,
            "401 Unauthorized",
            "",
            r#"{"error":{"message":"bad key sk-secret","code":"invalid_api_key"}}"#,
            "auth",
            None,
        )
        .await;
        check(
            OLLAMA,
            "404 Not Found",
            "",
            r#"{"error":"model 'm' not found"}"#,
            "not_found",
            None,
        )
        .await;
        check(
            OPENAI,
            "429 Too Many",
            "retry-after: 7\r\n",
            r#"{"error":{"message":"slow down"}}"#,
            "rate",
            Some(7),
        )
        .await;
        check(
            OPENAI,
            "429 Too Many",
            "retry-after: 7\r\n",
            r#"{"error":{"code":"insufficient_quota"}}"#,
            "quota",
            None,
        )
        .await;
        check(
            OPENAI,
            "503 Unavailable",
            "retry-after: 2\r\n",
            r#"{"error":{"message":"Loading model","code":503}}"#,
            "loading",
            Some(2),
        )
        .await;
        check(
            OLLAMA,
            "503 Unavailable",
            "",
            r#"{"error":"server busy, please try again"}"#,
            "overload",
            None,
        )
        .await;
        check(OPENAI, "500 Oops", "", "sk-secret", "overload", None).await;
        check(
            OPENAI,
            "200 OK",
            "content-type: application/json\r\n",
            r#"{"error":{"message":"x","code":429}}"#,
            "rate",
            None,
        )
        .await;
        check(
            OPENAI,
            "200 OK",
            "content-type: application/json\r\n",
            r#"{"choices":[]}"#,
            "cut",
            None,
        )
        .await;
        check(
            OLLAMA,
            "200 OK",
            "content-type: text/html; charset=utf-8\r\n",
            "<html>",
            "malformed",
            None,
        )
        .await;
        check(OLLAMA, "204 No Content", "", "", "cut", None).await;
    });
}

#[test]
fn error_body_that_breaks_off_still_tells_its_status() {
    run(async {
        let (_, end) = outcome(
            OPENAI,
            "HTTP/1.1 401 No\r\ncontent-length: 999\r\n\r\n{\"error\":",
            false,
        )
        .await;
        assert_eq!(end.expect_err("a fault").kind(), "auth");
    });
}

#[test]
fn redirect_is_not_followed() {
    run(async {
        for status in ["301 Moved", "307 Temporary", "308 Permanent"] {
            let (elsewhere, trap) = listen().await;
            let response = format!(
                "HTTP/1.1 {status}\r\nlocation: {elsewhere}/v1/sk-secret\r\ncontent-length: 0\r\n\r\n"
            );
            let error = outcome(OPENAI, &response, true)
                .await
                .1
                .expect_err("a fault");
            assert_eq!(error.kind(), "malformed");
            assert!(
                error.to_string().contains(&elsewhere) && !error.to_string().contains("sk-secret"),
                "{error}"
            );
            assert!(
                timeout(SHORT, trap.accept()).await.is_err(),
                "the other host was contacted"
            );
        }
    });
}
