//! Providers that are slow, silent or endless.

use std::time::Instant;

use paw_llm::{Finish, Level, LlmError};

use crate::server::{
    HELLO, NDJSON, OLLAMA, OPENAI, SHORT, SSE, USAGE, WORLD, answer, ask, chunk, flood, impatient,
    listen, provider, question, read, run,
};

#[test]
fn silent_provider_is_left_at_the_first_token_limit() {
    run(async {
        let flood = ": still here\n\n".repeat(1000);
        for head in [
            "",
            SSE,
            &format!("{SSE}{}", chunk(": still here\n\n")),
            &format!("{SSE}{}", chunk(&flood)),
        ] {
            let (url, listener) = listen().await;
            let provider = impatient(OPENAI, &url, |timeouts| timeouts.first_token = SHORT);
            let begun = Instant::now();
            let ((_, end), _open) = tokio::join!(ask(&provider), answer(&listener, head));
            let error = end.expect_err("a fault");
            assert!(
                matches!(
                    error,
                    LlmError::TimedOut {
                        level: Level::FirstToken,
                        after: SHORT
                    }
                ),
                "{error:?}"
            );
            assert!(begun.elapsed() >= SHORT, "{:?}", begun.elapsed());
        }
    });
}

#[test]
fn flood_of_comments_does_not_hold_off_the_first_token_limit() {
    run(async {
        let (url, listener) = listen().await;
        let provider = impatient(OPENAI, &url, |timeouts| timeouts.first_token = SHORT);
        let comments = chunk(&": still here\n\n".repeat(5000));
        let ((_, end), _) = tokio::join!(ask(&provider), flood(&listener, SSE, &comments));
        assert!(
            matches!(
                end,
                Err(LlmError::TimedOut {
                    level: Level::FirstToken,
                    ..
                })
            ),
            "{end:?}"
        );
    });
}

#[test]
fn stalled_provider_is_left_at_the_stall_limit_after_its_text() {
    run(async {
        let (url, listener) = listen().await;
        let provider = impatient(OPENAI, &url, |timeouts| timeouts.stall = SHORT);
        let ((text, end), _open) = tokio::join!(
            ask(&provider),
            answer(&listener, format!("{SSE}{}", chunk(HELLO)))
        );
        assert_eq!(text, "Hello");
        assert!(
            matches!(
                end,
                Err(LlmError::TimedOut {
                    level: Level::Stall,
                    after: SHORT
                })
            ),
            "{end:?}"
        );
    });
}

#[test]
fn answer_without_end_is_left_at_the_total_limit() {
    run(async {
        let (url, listener) = listen().await;
        let provider = impatient(OPENAI, &url, |timeouts| timeouts.total = SHORT);
        let ((_, end), _) = tokio::join!(
            ask(&provider),
            flood(&listener, SSE, chunk(&HELLO.repeat(100)))
        );
        assert!(
            matches!(
                end,
                Err(LlmError::TimedOut {
                    level: Level::Total,
                    after: SHORT
                })
            ),
            "{end:?}"
        );
    });
}

#[test]
fn total_limit_holds_even_when_the_rest_is_already_there() {
    run(async {
        let (url, listener) = listen().await;
        let provider = impatient(OPENAI, &url, |timeouts| timeouts.total = SHORT);
        // In one piece, so that it is read without waiting and the timer is never asked.
        let whole = format!("{SSE}{}0\r\n\r\n", chunk(&format!("{HELLO}{WORLD}{USAGE}")));
        let client = async {
            let mut stream = provider.chat(question()).await.expect("a stream");
            // That time passes is the very thing that is tested.
            tokio::time::sleep(2 * SHORT).await;
            read(&mut stream).await
        };
        let ((_, end), _open) = tokio::join!(client, answer(&listener, &whole));
        assert!(
            matches!(
                end,
                Err(LlmError::TimedOut {
                    level: Level::Total,
                    after: SHORT
                })
            ),
            "{end:?}"
        );
    });
}

#[test]
fn slow_reader_is_not_a_stalled_provider() {
    run(async {
        let (url, listener) = listen().await;
        let provider = impatient(OPENAI, &url, |timeouts| {
            (timeouts.first_token, timeouts.stall) = (SHORT, SHORT)
        });
        let whole = format!(
            "{SSE}{}{}{}0\r\n\r\n",
            chunk(HELLO),
            chunk(WORLD),
            chunk(USAGE)
        );
        let client = async {
            let mut stream = provider.chat(question()).await.expect("a stream");
            // That time passes is the very thing that is tested.
            tokio::time::sleep(2 * SHORT).await;
            stream.next().await.expect("an event").expect("no error");
            tokio::time::sleep(2 * SHORT).await;
            read(&mut stream).await
        };
        let ((text, end), _open) = tokio::join!(client, answer(&listener, &whole));
        assert_eq!(text, " world");
        assert_eq!(end.expect("a whole answer").finish, Finish::Stop);
    });
}

#[test]
fn connection_that_is_not_made_in_time_is_left_at_the_connect_limit() {
    run(async {
        let (url, listener) = listen().await;
        // TCP is accepted by the kernel; the TLS session never comes.
        let provider = impatient(OPENAI, &url.replace("http:", "https:"), |timeouts| {
            timeouts.connect = SHORT
        });
        let (_, end) = ask(&provider).await;
        assert!(
            matches!(
                end,
                Err(LlmError::TimedOut {
                    level: Level::Connect,
                    after: SHORT
                })
            ),
            "{end:?}"
        );
        drop(listener);
    });
}

#[test]
fn endless_line_is_refused_long_before_its_end() {
    run(async {
        for (kind, head) in [(OLLAMA, NDJSON), (OPENAI, SSE)] {
            let (url, listener) = listen().await;
            let provider = provider(kind, &url);
            let garbage = chunk(&"x".repeat(1024 * 1024));
            let ((_, end), sent) = tokio::join!(ask(&provider), flood(&listener, head, &garbage));
            assert_eq!(end.expect_err("a fault").kind(), "too_large");
            assert!(sent < 100 * 1024 * 1024, "{sent} bytes were taken");
        }
    });
}

#[test]
fn endless_list_and_endless_error_are_bounded() {
    run(async {
        let head = "transfer-encoding: chunked\r\ncontent-type: application/json\r\n\r\n";
        let garbage = chunk(&"x".repeat(1024 * 1024));
        for (status, expected) in [("200 OK", "too_large"), ("500 Oops", "overload")] {
            let (url, listener) = listen().await;
            let provider = provider(OPENAI, &url);
            let (models, sent) = tokio::join!(
                provider.models(),
                flood(&listener, format!("HTTP/1.1 {status}\r\n{head}"), &garbage)
            );
            assert_eq!(models.expect_err("a fault").kind(), expected);
            assert!(sent < 100 * 1024 * 1024, "{sent} bytes were taken");
        }
    });
}
