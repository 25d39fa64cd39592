//! A provider that is not who it says it is: it is sent nothing.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use harness::{
    Pawd, Setup,
    words::{rest, say},
};
use paw_api::provider::ChatEvent;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// The answer of a server that speaks TLS 1.1 and nothing newer, to whoever asks in whatever version: one suite of its time
/// (RSA with AES-128-CBC), no compression, no extension. A client that took it would go on to its certificate.
const TLS_1_1: [u8; 47] = {
    let mut hello = [7; 47];
    // A record of a handshake, 42 bytes; a hello of the server, 38 bytes, in version 1.1, with 32 bytes at random and no session.
    let head = [22, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    let mut at = 0;
    while at < head.len() {
        hello[at] = head[at];
        at += 1;
    }
    [hello[43], hello[44], hello[45], hello[46]] = [0, 0, 0x2f, 0];
    hello
};

/// The first byte of a record of TLS that carries what is said.
const SAID: u8 = 23;

/// How a server introduces itself.
enum Speaks {
    /// With this certificate.
    Tls(Box<(rcgen::Certificate, KeyPair)>),
    /// In a version of TLS that nobody should speak any more.
    OldTls,
    /// Without TLS.
    Clear,
}

/// A certificate of that name that vouches for itself, and its key; `change` says what is wrong with it.
fn certificate(
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> (rcgen::Certificate, KeyPair) {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap(), key)
}

fn acceptor((certificate, key): (rcgen::Certificate, KeyPair)) -> TlsAcceptor {
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der());
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private.unwrap())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Answers the first words of a client in TLS 1.1; how many records of what it is told after that say something.
async fn old_tls(mut stream: TcpStream) -> usize {
    let mut bytes = vec![0; 4096];
    let _ = stream.read(&mut bytes).await;
    let _ = stream.write_all(&TLS_1_1).await;
    let mut heard = Vec::new();
    // It hangs up.
    let _ = stream.read_to_end(&mut heard).await;
    let (mut rest, mut said) = (&heard[..], 0);
    while let [kind, _, _, high, low, more @ ..] = rest {
        said += usize::from(*kind == SAID);
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        rest = more.get(length..).unwrap_or_default();
    }
    said
}

/// A server; counts what it is told once it was agreed on who it is. Without TLS it counts what it can read in what it is told.
async fn server(speaks: Speaks, heard: Arc<AtomicUsize>, tasks: &mut JoinSet<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (acceptor, is_clear) = match speaks {
        Speaks::Tls(shown) => (Some(acceptor(*shown)), false),
        Speaks::OldTls => (None, false),
        Speaks::Clear => (None, true),
    };
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; 4096];
            let more = match &acceptor {
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(mut stream) => stream.read(&mut bytes).await.unwrap_or(0),
                    Err(_) => 0,
                },
                None if is_clear => {
                    let read = stream.read(&mut bytes).await.unwrap_or(0);
                    let in_clear = memchr::memmem::find(&bytes[..read], b"POST").is_some();
                    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                    usize::from(in_clear)
                }
                None => old_tls(stream).await,
            };
            heard.fetch_add(more, Ordering::SeqCst);
        }
    });
    port
}

/// Asks the server, where this is the only authority that the host knows; what comes of it, and how many bytes the server heard.
async fn asked(speaks: Speaks, authority: &str) -> (ChatEvent, usize) {
    let heard = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let port = server(speaks, Arc::clone(&heard), &mut tasks).await;
    let url = format!("https://localhost:{port}/v1");
    let setup = Setup::new()
        .without_skills()
        .provider("secure", "openai", &url, "max_retries = 0\n")
        .authority("etc/ca.pem");
    let root = setup.root();
    root.write("etc/ca.pem", authority);
    let pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    let mut events = rest(&mut say(&client, "a question for nobody else").await).await;
    (
        events.remove(events.len() - 1),
        heard.load(Ordering::SeqCst),
    )
}

#[tokio::test]
async fn provider_with_a_bad_certificate_or_none_hears_no_byte_of_a_question() {
    let known = certificate("localhost", |_| {});
    let known_pem = known.0.pem();
    // What is tried reaches a server that is who it says it is; that one hangs up, so there is no answer either.
    let (ended, heard) = asked(Speaks::Tls(Box::new(known)), &known_pem).await;
    assert!(heard > 0, "it is asked");
    assert!(matches!(ended, ChatEvent::Failed { .. }), "{ended:?}");

    // All of these are vouched for by themselves, which this host believes.
    let vouched = async |name: &str, change: fn(&mut CertificateParams)| {
        let shown = certificate(name, change);
        let authority = shown.0.pem();
        asked(Speaks::Tls(Box::new(shown)), &authority).await
    };
    let unknown = Speaks::Tls(Box::new(certificate("localhost", |_| {})));
    // Whoever has to mend it is told what is wrong.
    for (what, word, (ended, heard)) in [
        (
            "another name",
            "not valid for name",
            vouched("elsewhere.example", |_| {}).await,
        ),
        (
            "expired",
            "certificate expired",
            vouched("localhost", |it| {
                it.not_before = date_time_ymd(2000, 1, 1);
                it.not_after = date_time_ymd(2001, 1, 1);
            })
            .await,
        ),
        (
            "not valid yet",
            "certificate not valid yet",
            vouched("localhost", |it| {
                it.not_before = date_time_ymd(2200, 1, 1);
                it.not_after = date_time_ymd(2201, 1, 1);
            })
            .await,
        ),
        (
            "for clients",
            "EkuError",
            vouched("localhost", |it| {
                it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            })
            .await,
        ),
        (
            "vouches for itself",
            "BadSignature",
            asked(unknown, &known_pem).await,
        ),
        (
            "TLS 1.1",
            "peer is incompatible",
            asked(Speaks::OldTls, &known_pem).await,
        ),
        (
            "no TLS",
            "InvalidContentType",
            asked(Speaks::Clear, &known_pem).await,
        ),
    ] {
        assert_eq!(heard, 0, "{what}");
        let ChatEvent::Failed { message, .. } = &ended else {
            panic!("{what}: {ended:?}");
        };
        assert!(
            message.contains("provider") && message.contains(word),
            "{what}: {message}"
        );
    }
}
