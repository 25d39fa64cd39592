//! What a provider tells of its models is asked once for all who want to know, and forgotten when it may have changed.

use std::sync::Arc;

use paw_llm::{LlmError, Provider};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::server::{HANG, OLLAMA, OPENAI, accept, any_request, listen, provider, run, send};

/// Answers each request with the next of these, in turn, and tells that it came. Before it answers it takes a word from `go_on`.
async fn serve(
    listener: TcpListener,
    answers: Vec<String>,
    came: mpsc::UnboundedSender<String>,
    mut go_on: mpsc::UnboundedReceiver<()>,
) {
    for answer in answers {
        let mut stream = accept(&listener).await;
        let request = any_request(&mut stream).await;
        let line = request.lines().next().unwrap_or_default().to_owned();
        came.send(line).expect("the test listens");
        if go_on.recv().await.is_none() {
            return;
        }
        send(&mut stream, &answer).await;
    }
}

fn whole(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn list(names: &[&str]) -> String {
    let data: Vec<_> = names
        .iter()
        .map(|name| serde_json::json!({"id": name}))
        .collect();
    whole("200 OK", &serde_json::json!({"data": data}).to_string())
}

fn names(listed: Result<Vec<paw_llm::Model>, LlmError>) -> Vec<String> {
    let listed = listed.expect("a list");
    listed.into_iter().map(|model| model.name).collect()
}

struct Server {
    came: mpsc::UnboundedReceiver<String>,
    go_on: mpsc::UnboundedSender<()>,
    _task: JoinSet<()>,
}

async fn server(answers: Vec<String>) -> (String, Server) {
    let (url, listener) = listen().await;
    let (tell, came) = mpsc::unbounded_channel();
    let (go_on, wait) = mpsc::unbounded_channel();
    let mut task = JoinSet::new();
    task.spawn(serve(listener, answers, tell, wait));
    let server = Server {
        came,
        go_on,
        _task: task,
    };
    (url, server)
}

#[test]
fn many_who_want_the_list_at_once_cost_one_request_and_later_ones_none() {
    run(async {
        let (url, mut server) = server(vec![list(&["a"]), list(&["b"])]).await;
        let provider = Arc::new(provider(OPENAI, &url));
        let mut all = JoinSet::new();
        for _ in 0..20 {
            let provider: Arc<Provider> = Arc::clone(&provider);
            all.spawn(async move { names(provider.models().await) });
        }
        server.came.recv().await.expect("one request");
        server.go_on.send(()).expect("the server waits");
        for listed in all.join_all().await {
            assert_eq!(listed, ["a"]);
        }
        assert_eq!(names(provider.models().await), ["a"]);
        assert!(server.came.try_recv().is_err(), "it was asked again");
        // Whoever has to know how it is now asks, and the others hear of it.
        server.go_on.send(()).expect("the server waits");
        assert_eq!(names(provider.models_now().await), ["b"]);
        assert_eq!(names(provider.models().await), ["b"]);
    });
}

#[test]
fn whoever_leaves_does_not_take_the_answer_from_others() {
    run(async {
        let (url, mut server) = server(vec![list(&["a"])]).await;
        let provider = Arc::new(provider(OPENAI, &url));
        let first = Arc::clone(&provider);
        let mut leaves = JoinSet::new();
        leaves.spawn(async move { drop(first.models().await) });
        server.came.recv().await.expect("its request");
        leaves.shutdown().await;
        let other = provider.models();
        server.go_on.send(()).expect("the server waits");
        assert_eq!(names(other.await), ["a"]);
    });
}

#[test]
fn error_is_told_to_all_who_wait_and_to_who_comes_a_moment_later() {
    run(async {
        let refused = whole("401 No", "{\"error\":{\"message\":\"bad key sk-secret\"}}");
        let (url, mut server) = server(vec![refused, list(&["a"])]).await;
        let provider = provider(OPENAI, &url);
        server.go_on.send(()).expect("the server waits");
        let (one, other) = tokio::join!(provider.models(), provider.models());
        for told in [one, other, provider.models().await] {
            let error = told.expect_err("it is refused");
            assert!(matches!(error, LlmError::Auth { .. }), "{error:?}");
            assert!(error.to_string().contains("bad key [key]"), "{error}");
        }
        server.came.recv().await.expect("one request");
        assert!(server.came.try_recv().is_err(), "it was asked again");
    });
}

#[test]
fn what_is_in_memory_is_asked_once_within_two_seconds_but_by_who_has_to_know_it_now() {
    run(async {
        let holds = |name: &str| {
            whole(
                "200 OK",
                &format!("{{\"models\":[{{\"name\":\"{name}\"}}]}}"),
            )
        };
        let (url, mut server) = server(vec![holds("a"), holds("b")]).await;
        let provider = provider(OLLAMA, &url);
        for _ in 0..2 {
            server.go_on.send(()).expect("the server waits");
        }
        let loaded = async || provider.loaded(HANG).await.expect("told");
        for _ in 0..3 {
            assert_eq!(loaded().await, Some(vec!["a".to_owned()]));
        }
        server.came.recv().await.expect("one request");
        assert!(server.came.try_recv().is_err(), "it was asked again");
        let is_loaded = provider.is_loaded("b", HANG).await.expect("told");
        assert_eq!(is_loaded, Some(true), "as it is now");
        server.came.recv().await.expect("another request");
        assert_eq!(loaded().await, Some(vec!["b".to_owned()]));
        assert!(server.came.try_recv().is_err(), "it was asked again");
    });
}

#[test]
fn what_was_known_of_models_is_forgotten_when_one_was_pulled() {
    run(async {
        let tags = |name: &str| {
            whole(
                "200 OK",
                &format!("{{\"models\":[{{\"name\":\"{name}\"}}]}}"),
            )
        };
        let pulled = "{\"status\":\"pulling\"}\n{\"status\":\"success\"}\n";
        let (url, mut server) = server(vec![tags("a"), whole("200 OK", pulled), tags("b")]).await;
        let provider = provider(OLLAMA, &url);
        for _ in 0..3 {
            server.go_on.send(()).expect("the server waits");
        }
        assert_eq!(names(provider.models().await), ["a"]);
        let mut pull = provider
            .pull("b")
            .await
            .expect("it begins")
            .expect("an Ollama");
        while pull.next().await.expect("it goes on").is_some() {}
        assert_eq!(names(provider.models().await), ["b"]);
        let mut lines = Vec::new();
        while let Ok(line) = server.came.try_recv() {
            lines.push(line);
        }
        let expected = ["GET /api/tags", "POST /api/pull", "GET /api/tags"];
        assert_eq!(lines, expected.map(|line| format!("{line} HTTP/1.1")));
    });
}
