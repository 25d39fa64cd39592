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
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tokio::{io::AsyncReadExt as _, net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

/// A certificate of that name that vouches for itself, and its key; it was good until 2001, or is still.
fn certificate(name: &str, expired: bool) -> (rcgen::Certificate, KeyPair) {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    if expired {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap(), key)
}

/// A server with this certificate; counts the bytes that it is told once it was agreed on who it is. Without one it speaks no TLS,
/// and counts what it can read in what it is told.
async fn server(
    shown: Option<(rcgen::Certificate, KeyPair)>,
    heard: Arc<AtomicUsize>,
    tasks: &mut JoinSet<()>,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = shown.map(|(certificate, key)| {
        let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der());
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private.unwrap())
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    });
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; 4096];
            match &acceptor {
                Some(acceptor) => {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let read = stream.read(&mut bytes).await.unwrap_or(0);
                        heard.fetch_add(read, Ordering::SeqCst);
                    }
                }
                None => {
                    let read = stream.read(&mut bytes).await.unwrap_or(0);
                    let in_clear = memchr::memmem::find(&bytes[..read], b"POST").is_some();
                    heard.fetch_add(usize::from(in_clear), Ordering::SeqCst);
                }
            }
        }
    });
    port
}

/// Asks the server, where this is the only authority that the host knows; what comes of it, and how many bytes the server heard.
async fn asked(
    shown: Option<(rcgen::Certificate, KeyPair)>,
    authority: &str,
) -> (ChatEvent, usize) {
    let heard = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let port = server(shown, Arc::clone(&heard), &mut tasks).await;
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
    let (known, known_key) = certificate("localhost", false);
    let known_pem = known.pem();
    // What is tried reaches a server that is who it says it is.
    let (_, heard) = asked(Some((known, known_key)), &known_pem).await;
    assert!(heard > 0, "it is asked");

    let (other_name, key) = certificate("elsewhere.example", false);
    let vouched = other_name.pem();
    let wrong_host = asked(Some((other_name, key)), &vouched).await;
    let (old, key) = certificate("localhost", true);
    let vouched = old.pem();
    let expired = asked(Some((old, key)), &vouched).await;
    let unknown = asked(Some(certificate("localhost", false)), &known_pem).await;
    let plain = asked(None, &known_pem).await;
    for (what, (ended, heard)) in [
        ("another name", wrong_host),
        ("expired", expired),
        ("vouches for itself", unknown),
        ("no TLS", plain),
    ] {
        assert_eq!(heard, 0, "{what}");
        let ChatEvent::Failed { .. } = &ended else {
            panic!("{what}: {ended:?}");
        };
        let said = format!("{ended:?}");
        assert!(said.contains("provider"), "{what}: {said}");
        // Whoever has to mend it is told what is wrong.
        assert!(
            what == "no TLS" || said.contains("ertificate"),
            "{what}: {said}"
        );
    }
}
