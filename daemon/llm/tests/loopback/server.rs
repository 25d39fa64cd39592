//! The server that does what a test tells it to, and the client that asks it.

use std::future::Future;
use std::time::Duration;

use paw_llm::{
    ChatEvent, ChatRequest, ChatStream, Done, LlmError, Message, Provider, ProviderConfig,
    ProviderKind, Timeouts,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Nothing here takes this long unless it hangs.
pub(super) const HANG: Duration = Duration::from_secs(20);
/// A limit that a test wants to see pass.
pub(super) const SHORT: Duration = Duration::from_millis(150);

pub(super) const OLLAMA: ProviderKind = ProviderKind::Ollama;
pub(super) const OPENAI: ProviderKind = ProviderKind::OpenAi;

pub(super) const SSE: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
pub(super) const NDJSON: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
pub(super) const HELLO: &str =
    "data: {\"model\":\"m-1\",\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
pub(super) const WORLD: &str =
    "data: {\"choices\":[{\"delta\":{\"content\":\" world\"},\"finish_reason\":\"stop\"}]}\n\n";
pub(super) const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";

pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async { timeout(HANG, test).await.expect("the test hangs") });
}

pub(super) async fn listen() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    (
        format!("http://{}", listener.local_addr().expect("its address")),
        listener,
    )
}

pub(super) async fn accept(listener: &TcpListener) -> TcpStream {
    listener.accept().await.expect("a connection").0
}

/// Reads one request to the end of its body. The question that comes before the first one to a model of Ollama is answered by
/// the way.
pub(super) async fn request(stream: &mut TcpStream) -> String {
    let mut seen = any_request(stream).await;
    while seen.starts_with("POST /api/show ") {
        send(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
        )
        .await;
        seen = any_request(stream).await;
    }
    seen
}

/// Reads whatever request comes.
pub(super) async fn any_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |n| n.parse().expect("a length"));
            if body.len() >= length {
                return text;
            }
        }
        assert_ne!(
            stream.read_buf(&mut bytes).await.expect("a request"),
            0,
            "closed within the request: {text}"
        );
    }
}

pub(super) fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

pub(super) async fn send(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.expect("written");
}

/// Accepts, reads the request, and answers it in one piece; the connection stays open as long as the result is kept.
pub(super) async fn answer(
    listener: &TcpListener,
    response: impl AsRef<str>,
) -> (String, TcpStream) {
    let mut stream = accept(listener).await;
    let request = request(&mut stream).await;
    send(&mut stream, response.as_ref()).await;
    (request, stream)
}

pub(super) fn config(kind: ProviderKind, url: &str) -> ProviderConfig {
    let timeouts = Timeouts {
        connect: HANG,
        first_token: HANG,
        stall: HANG,
        total: HANG,
    };
    ProviderConfig {
        kind,
        base_url: url.parse().expect("a URL"),
        api_key: Some("sk-secret".into()),
        timeouts,
        allow_plaintext: false,
    }
}

pub(super) fn provider(kind: ProviderKind, url: &str) -> Provider {
    Provider::new(config(kind, url)).expect("a good configuration")
}

pub(super) fn impatient(
    kind: ProviderKind,
    url: &str,
    change: impl FnOnce(&mut Timeouts),
) -> Provider {
    let mut config = config(kind, url);
    change(&mut config.timeouts);
    Provider::new(config).expect("a good configuration")
}

pub(super) fn question() -> ChatRequest {
    ChatRequest::new("m", vec![Message::user("hi")])
}

/// The text up to the end, and the end.
pub(super) async fn read(stream: &mut ChatStream) -> (String, Result<Done, LlmError>) {
    let mut text = String::new();
    loop {
        match stream
            .next()
            .await
            .expect("an end before the end of the stream")
        {
            Ok(ChatEvent::Text(piece)) => text.push_str(&piece),
            Ok(ChatEvent::ToolCall(call)) => panic!("nobody asked for a call of {}", call.name),
            Ok(ChatEvent::Done(done)) => {
                assert!(stream.next().await.is_none(), "something after the end");
                return (text, Ok(done));
            }
            Err(error) => {
                assert!(stream.next().await.is_none(), "something after the error");
                return (text, Err(error));
            }
        }
    }
}

pub(super) async fn ask(provider: &Provider) -> (String, Result<Done, LlmError>) {
    match provider.chat(question()).await {
        Ok(mut stream) => read(&mut stream).await,
        Err(error) => (String::new(), Err(error)),
    }
}

/// Asks once while `response` is all that comes; the connection stays open if `open`.
pub(super) async fn outcome(
    kind: ProviderKind,
    response: &str,
    open: bool,
) -> (String, Result<Done, LlmError>) {
    let (url, listener) = listen().await;
    let server = async {
        if open {
            Some(answer(&listener, response).await)
        } else {
            drop(answer(&listener, response).await);
            None
        }
    };
    let provider = provider(kind, &url);
    let (outcome, _kept_open) = tokio::join!(ask(&provider), server);
    outcome
}

/// Resolves when the client closed its side.
pub(super) async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is a close too.
    let _end_or_reset = stream.read_to_end(&mut rest).await;
}

/// Writes `again` until the client closes.
pub(super) async fn flood(
    listener: &TcpListener,
    head: impl AsRef<str>,
    again: impl AsRef<str>,
) -> usize {
    let (_, mut stream) = answer(listener, head).await;
    let mut sent = 0;
    while stream.write_all(again.as_ref().as_bytes()).await.is_ok() {
        sent += again.as_ref().len();
    }
    sent
}
