//! A provider behind TLS: what is made for it is made once, and questions share it.

use std::sync::{Arc, Mutex, PoisonError};

use harness::{
    Dialect, Pawd, Setup,
    dialect::TEXT,
    words::{done, rest, say},
};
use jsonrpsee::async_client::Client;
use rustls::HandshakeKind;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A server that answers every question, and how each of its connections was agreed on; it ends with this value.
struct Secure {
    url: String,
    /// Its certificate, which vouches for itself.
    certificate: String,
    handshakes: Arc<Mutex<Vec<HandshakeKind>>>,
    _connections: JoinSet<()>,
}

impl Secure {
    /// One that keeps connections open, or closes each after its answer.
    async fn start(keeps: bool) -> Self {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der());
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private.unwrap())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let handshakes = Arc::<Mutex<Vec<HandshakeKind>>>::default();
        let seen = Arc::clone(&handshakes);
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                open.spawn(async move {
                    // Who asks may go away at any time.
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let kind = stream.get_ref().1.handshake_kind().unwrap();
                    let all = seen.lock();
                    all.unwrap_or_else(PoisonError::into_inner).push(kind);
                    while answer(&mut stream, keeps).await.is_some() && keeps {}
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self {
            url: format!("https://localhost:{port}/v1"),
            certificate: key.cert.pem(),
            handshakes,
            _connections: connections,
        }
    }

    fn handshakes(&self) -> Vec<HandshakeKind> {
        let all = self.handshakes.lock();
        all.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A pawd for which this server is the only authority.
    async fn asked_by(&self) -> Pawd {
        let setup = Setup::new()
            .without_skills()
            .provider("secure", "openai", &self.url, "max_retries = 0\n")
            .authority("etc/ca.pem");
        let root = setup.root();
        root.write("etc/ca.pem", &self.certificate);
        Pawd::start_in(root, setup).await
    }
}

/// Reads one question and answers it; nothing when there was none.
async fn answer(stream: &mut TlsStream<TcpStream>, keeps: bool) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .map_or(0, |length| length.trim().parse().unwrap_or(0));
    stream.read_exact(&mut vec![0; length]).await.ok()?;
    let (kind, body) = if head.starts_with("post") {
        ("text/event-stream", Dialect::OpenAi.answer())
    } else {
        ("application/json", "{\"data\": []}".to_owned())
    };
    let connection = if keeps { "keep-alive" } else { "close" };
    let said = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(said.as_bytes()).await.ok()?;
    stream.flush().await.ok()
}

async fn ask(client: &Client) {
    let events = rest(&mut say(client, "hello").await).await;
    assert_eq!(done(&events).text, TEXT);
}

#[tokio::test]
async fn questions_share_a_connection_that_was_agreed_on_once() {
    let secure = Secure::start(true).await;
    let pawd = secure.asked_by().await;
    let client = pawd.client().await;
    ask(&client).await;
    let before = secure.handshakes();
    assert!(before.contains(&HandshakeKind::Full), "{before:?}");
    for _ in 0..3 {
        ask(&client).await;
    }
    assert_eq!(secure.handshakes(), before);
}

#[tokio::test]
async fn further_connections_go_on_from_what_was_agreed_on_before() {
    let secure = Secure::start(false).await;
    let pawd = secure.asked_by().await;
    let client = pawd.client().await;
    ask(&client).await;
    let before = secure.handshakes().len();
    for _ in 0..3 {
        ask(&client).await;
    }
    // Whoever makes a context for each question has nothing to go on from, and reads all authorities again.
    let after = secure.handshakes().split_off(before);
    assert!(after.len() >= 3, "{after:?}");
    assert!(
        after.iter().all(|kind| *kind == HandshakeKind::Resumed),
        "{after:?}"
    );
}
