//! Whole answers: streaming, requests, connections, cancellation, models and health.

use paw_llm::{ChatEvent, Done, Finish, Health, ProviderKind, Usage};
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;

use crate::server::{
    HELLO, NDJSON, OLLAMA, OPENAI, SSE, USAGE, WORLD, accept, answer, any_request, ask, chunk,
    closed, listen, outcome, provider, question, read, request, run, send,
};

#[test]
fn text_arrives_while_the_answer_is_still_being_written() {
    run(async {
        let (url, listener) = listen().await;
        let (go_on, wait) = oneshot::channel();
        let server = async {
            let (_, mut stream) = answer(&listener, format!("{SSE}{}", chunk(HELLO))).await;
            wait.await.expect("the client has read the first piece");
            send(
                &mut stream,
                &format!("{}{}0\r\n\r\n", chunk(WORLD), chunk(USAGE)),
            )
            .await;
            stream
        };
        let provider = provider(OPENAI, &url);
        let client = async {
            let mut stream = provider.chat(question()).await.expect("a stream");
            let first = stream.next().await.expect("an event").expect("no error");
            assert_eq!(first, ChatEvent::Text("Hello".to_owned()));
            go_on.send(()).expect("the server waits");
            read(&mut stream).await
        };
        let ((text, end), _server) = tokio::join!(client, server);
        let usage = Usage {
            input_tokens: Some(3),
            output_tokens: Some(2),
            ..Usage::default()
        };
        assert_eq!(text, " world");
        assert_eq!(
            end.expect("a whole answer"),
            Done {
                finish: Finish::Stop,
                usage,
                model: Some("m-1".to_owned())
            }
        );
    });
}

#[test]
fn request_goes_to_the_right_path_with_the_key_in_its_header_only() {
    run(async {
        for (kind, path, model_path) in [
            (OLLAMA, "/api/chat", "/api/tags"),
            (OPENAI, "/v1/chat/completions", "/v1/models"),
        ] {
            let (url, listener) = listen().await;
            let provider = provider(kind, &url);
            let (_, (seen, _)) = tokio::join!(
                provider.chat(question()),
                answer(
                    &listener,
                    "HTTP/1.1 500 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )
            );
            assert!(
                seen.starts_with(&format!("POST {path} HTTP/1.1\r\n")),
                "{seen}"
            );
            assert!(
                seen.contains("authorization: Bearer sk-secret\r\n")
                    && seen.contains("content-type: application/json\r\n"),
                "{seen}"
            );
            assert_eq!(seen.matches("sk-secret").count(), 1, "{seen}");
            assert!(seen.contains("\"stream\":true"), "{seen}");
            let (_, (seen, _)) = tokio::join!(
                provider.models(),
                answer(&listener, "HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")
            );
            assert!(
                seen.starts_with(&format!("GET {model_path} HTTP/1.1\r\n")),
                "{seen}"
            );
        }
    });
}

#[test]
fn key_and_version_go_in_the_headers_of_the_dialect_and_nowhere_else() {
    run(async {
        for (kind, path, headers) in [
            (
                ProviderKind::Anthropic,
                "/v1/messages",
                &["x-api-key: sk-secret", "anthropic-version: 2023-06-01"][..],
            ),
            (
                ProviderKind::Gemini,
                "/v1beta/models/m:streamGenerateContent?alt=sse",
                &["x-goog-api-key: sk-secret"],
            ),
            (
                ProviderKind::Mistral,
                "/v1/chat/completions",
                &["authorization: Bearer sk-secret"],
            ),
            (
                ProviderKind::Compatible,
                "/v1/chat/completions",
                &["authorization: Bearer sk-secret"],
            ),
        ] {
            let (url, listener) = listen().await;
            let provider = provider(kind, &url);
            let refusal = "HTTP/1.1 500 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let (_, (seen, _)) =
                tokio::join!(provider.chat(question()), answer(&listener, refusal));
            assert!(
                seen.starts_with(&format!("POST {path} HTTP/1.1\r\n")),
                "{seen}"
            );
            for header in headers {
                assert!(seen.contains(&format!("{header}\r\n")), "{header}: {seen}");
            }
            assert_eq!(seen.matches("sk-secret").count(), 1, "{seen}");
        }
    });
}

#[test]
fn whole_answer_in_the_place_of_a_stream_is_understood() {
    run(async {
        let body =
            r#"{"model":"m-1","choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}]}"#;
        let response = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (text, end) = outcome(OPENAI, &response, true).await;
        assert_eq!(text, "Hello");
        assert_eq!(end.expect("a whole answer").finish, Finish::Stop);
    });
}

#[test]
fn ollama_is_told_the_context_that_it_tells_and_is_asked_once() {
    run(async {
        let (url, listener) = listen().await;
        let provider = provider(OLLAMA, &url);
        let server = async {
            let mut stream = accept(&listener).await;
            let mut seen = vec![any_request(&mut stream).await];
            let shown = r#"{"model_info":{"llama.context_length":4096}}"#;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", shown.len());
            send(&mut stream, &format!("{head}{shown}")).await;
            for _ in 0..2 {
                seen.push(any_request(&mut stream).await);
                let said = chunk("{\"message\":{\"content\":\"hi\"},\"done\":true}\n");
                send(&mut stream, &format!("{NDJSON}{said}0\r\n\r\n")).await;
            }
            seen
        };
        let client = async {
            for _ in 0..2 {
                assert_eq!(ask(&provider).await.0, "hi");
            }
        };
        let ((), seen) = tokio::join!(client, server);
        assert!(seen[0].starts_with("POST /api/show ") && seen[0].ends_with(r#"{"model":"m"}"#));
        for chat in &seen[1..] {
            assert!(
                chat.starts_with("POST /api/chat ") && chat.contains(r#""num_ctx":4096"#),
                "{chat}"
            );
        }
    });
}

#[test]
fn connection_is_used_again_after_a_whole_answer() {
    run(async {
        let (url, listener) = listen().await;
        let provider = provider(OLLAMA, &url);
        let server = async {
            let mut stream = accept(&listener).await;
            for _ in 0..3 {
                request(&mut stream).await;
                send(
                    &mut stream,
                    &format!(
                        "{NDJSON}{}",
                        chunk("{\"message\":{\"content\":\"hi\"},\"done\":true}\n")
                    ),
                )
                .await;
                // The end of the body comes as a packet of its own, as Go's servers send it.
                tokio::task::yield_now().await;
                send(&mut stream, "0\r\n\r\n").await;
            }
            stream
        };
        let client = async {
            for _ in 0..3 {
                assert_eq!(ask(&provider).await.0, "hi");
            }
        };
        tokio::join!(client, server);
    });
}

#[test]
fn name_localhost_reaches_this_host() {
    run(async {
        let (url, listener) = listen().await;
        let provider = provider(OLLAMA, &url.replace("127.0.0.1", "localhost"));
        let body = "{\"version\":\"0.9\"}";
        let response = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (health, _) = tokio::join!(provider.check(), answer(&listener, &response));
        assert_eq!(health.expect("healthy"), Health::Ready);
    });
}

#[test]
fn cancelled_wait_loses_nothing() {
    run(async {
        let (url, listener) = listen().await;
        let provider = provider(OPENAI, &url);
        let whole = format!("{}{}{}0\r\n\r\n", chunk(HELLO), chunk(WORLD), chunk(USAGE));
        let server = async {
            let (_, mut stream) = answer(&listener, SSE).await;
            for byte in whole.as_bytes() {
                stream.write_all(&[*byte]).await.expect("written");
                tokio::task::yield_now().await;
            }
            stream
        };
        let client = async {
            let mut stream = provider.chat(question()).await.expect("a stream");
            let (mut text, mut cancelled) = (String::new(), 0);
            loop {
                tokio::select! {
                    biased;
                    event = stream.next() => match event.map(|event| event.expect("no error")) {
                        Some(ChatEvent::Text(piece)) => text.push_str(&piece),
                        Some(ChatEvent::ToolCall(_) | ChatEvent::Done(_)) => {}
                        None => break,
                    },
                    () = tokio::task::yield_now() => cancelled += 1,
                }
            }
            assert!(cancelled > 10, "only {cancelled} waits were cancelled");
            text
        };
        let (text, _open) = tokio::join!(client, server);
        assert_eq!(text, "Hello world");
    });
}

#[test]
fn dropped_stream_closes_the_connection() {
    run(async {
        let (url, listener) = listen().await;
        let provider = provider(OPENAI, &url);
        let client = async {
            let mut stream = provider.chat(question()).await.expect("a stream");
            stream.next().await.expect("an event").expect("no error");
        };
        let server = async {
            closed(&mut answer(&listener, format!("{SSE}{}", chunk(HELLO))).await.1).await
        };
        tokio::join!(client, server);
    });
}

#[test]
fn dropped_question_closes_the_connection() {
    run(async {
        let (url, listener) = listen().await;
        let provider = provider(OPENAI, &url);
        let (asked, was_asked) = oneshot::channel();
        let server = async {
            let mut stream = answer(&listener, "").await.1;
            asked.send(()).expect("the client waits");
            closed(&mut stream).await;
        };
        let client = async {
            tokio::select! {
                outcome = provider.chat(question()) => panic!("nobody answered: {:?}", outcome.err()),
                told = was_asked => told.expect("the server was asked"),
            }
        };
        tokio::join!(client, server);
    });
}

#[test]
fn models_and_health_are_told_in_both_dialects() {
    run(async {
        let reply = async |kind, status: &str, body: &str| {
            let response = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let (url, listener) = listen().await;
            let provider = provider(kind, &url);
            let (models, _) = tokio::join!(provider.models(), answer(&listener, &response));
            let (health, _) = tokio::join!(provider.check(), answer(&listener, &response));
            (
                models
                    .map(|models| {
                        models
                            .into_iter()
                            .map(|model| model.name)
                            .collect::<Vec<_>>()
                    })
                    .map_err(|e| e.kind()),
                health.map_err(|e| e.kind()),
            )
        };
        let loading =
            r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;
        let (m1, ready) = (Ok(vec!["m1".to_owned()]), Ok(Health::Ready));
        assert_eq!(
            reply(OPENAI, "200 OK", r#"{"data":[{"id":"m1"}]}"#).await,
            (m1.clone(), ready)
        );
        assert_eq!(
            reply(
                OLLAMA,
                "200 OK",
                r#"{"version":"1","models":[{"name":"m1"}]}"#
            )
            .await,
            (m1, ready)
        );
        assert_eq!(
            reply(OLLAMA, "200 OK", "Welcome").await,
            (Err("malformed"), Err("malformed"))
        );
        assert_eq!(
            reply(OPENAI, "503 X", loading).await,
            (Err("loading"), Ok(Health::Loading))
        );
        assert_eq!(
            reply(OPENAI, "401 X", "{}").await,
            (Err("auth"), Err("auth"))
        );
        assert_eq!(
            reply(OLLAMA, "500 X", "").await,
            (Err("overload"), Err("overload"))
        );
    });
}

#[test]
fn list_of_models_is_read_to_its_last_part() {
    run(async {
        let (anthropic, gemini) = (ProviderKind::Anthropic, ProviderKind::Gemini);
        for (kind, first, second, asked) in [
            (
                anthropic,
                r#"{"data":[{"id":"a"}],"has_more":true,"last_id":"a&b"}"#,
                r#"{"data":[{"id":"b"}],"has_more":false,"last_id":"b"}"#,
                "GET /v1/models?limit=1000&after_id=a%26b HTTP/1.1",
            ),
            (
                gemini,
                r#"{"models":[{"name":"models/a"}],"nextPageToken":"to ken"}"#,
                r#"{"models":[{"name":"models/b"}]}"#,
                "GET /v1beta/models?pageSize=1000&pageToken=to+ken HTTP/1.1",
            ),
        ] {
            let part = |body: &str| {
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                )
            };
            let (url, listener) = listen().await;
            let provider = provider(kind, &url);
            let server = async {
                drop(answer(&listener, part(first)).await);
                answer(&listener, part(second)).await.0
            };
            let (models, request) = tokio::join!(provider.models(), server);
            let names: Vec<_> = models
                .expect("a list")
                .into_iter()
                .map(|it| it.name)
                .collect();
            assert_eq!(names, ["a", "b"]);
            assert!(request.starts_with(asked), "{request}");

            // One that never comes to its end is given up.
            let (url, listener) = listen().await;
            let endless = crate::server::provider(kind, &url);
            let server = async {
                loop {
                    drop(answer(&listener, part(first)).await);
                }
            };
            let models = tokio::select! {
                models = endless.models() => models,
                () = server => unreachable!("it has no end"),
            };
            assert_eq!(models.expect_err("too long").kind(), "too_large");
        }
    });
}

#[test]
fn debug_of_a_provider_holds_no_key() {
    let shown = format!("{:?}", provider(OPENAI, "https://api.example.org/v1"));
    assert!(
        shown.contains("api.example.org") && !shown.contains("sk-secret"),
        "{shown}"
    );
}
