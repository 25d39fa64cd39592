//! Signed checkpoints of the audit log leave the host: they arrive, arrive again once whoever takes them is back, and go to nobody else.

use std::{
    fs,
    net::SocketAddr,
    process::Output,
    sync::{Arc, Mutex, PoisonError},
};

use harness::{cases, report::Case, standalone::Standalone, within};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::without_sandboxes;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_sandboxes;
        checkpoints_leave_the_host_by_syslog_and_tell_of_a_log_that_was_cut,
        checkpoints_leave_the_host_by_https,
        sink_that_is_away_is_told_of_and_has_all_when_it_is_back,
        sink_that_is_not_who_it_says_gets_nothing,
    ]
}

/// An authority of its own, and what it vouches for.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("randomness");
        Self(CertifiedIssuer::self_signed(params, key).expect("it signs"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// What a server of this name is known by.
    fn vouch(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().expect("randomness");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.0).expect("it signs");
        let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .expect("they fit");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// What a sink was told, and waits for more of it.
#[derive(Clone)]
struct Told {
    all: Arc<Mutex<Vec<u8>>>,
    news: watch::Sender<usize>,
}

impl Told {
    fn new() -> Self {
        Self {
            all: Arc::default(),
            news: watch::Sender::new(0),
        }
    }

    fn add(&self, bytes: &[u8]) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(bytes);
        self.news.send_replace(all.len());
    }

    fn text(&self) -> String {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(all.clone()).expect("it is text")
    }

    /// The record that the newest checkpoint is for.
    fn newest(&self) -> u64 {
        let text = self.text();
        let found = text
            .match_indices("\"checkpoint\":{")
            .filter_map(|(at, _)| {
                let from = text[..at].rfind('{')?;
                let mut read =
                    serde_json::Deserializer::from_str(&text[from..]).into_iter::<Value>();
                read.next()?.ok()?["checkpoint"]["seq"].as_u64()
            });
        found.max().unwrap_or(0)
    }

    /// Waits until it has a checkpoint of this record or a later one.
    async fn has(&self, seq: u64) {
        let mut news = self.news.subscribe();
        within("a checkpoint", async {
            while self.newest() < seq {
                news.changed().await.expect("we hold it");
            }
        })
        .await;
    }
}

/// A server at this address that keeps what it is told. It answers a request of HTTP when it is over, and is gone when this is dropped.
async fn sink(at: SocketAddr, acceptor: TlsAcceptor, told: Told) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(at).await.expect("loopback is there");
    let at = listener.local_addr().expect("it is bound");
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, told) = (acceptor.clone(), told.clone());
            open.spawn(async move {
                // Who does not trust us goes away.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    told.add(&buffer[..count]);
                    heard.extend_from_slice(&buffer[..count]);
                    if heard.starts_with(b"POST ") && heard.ends_with(b"}") {
                        let done = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
                        let _ = stream.write_all(done).await;
                        let _ = stream.shutdown().await;
                        return;
                    }
                }
            });
        }
    });
    (at, server)
}

const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A system that sends its checkpoints to this URL of `logs.example`, whom this authority vouches for.
async fn system(url: &str, authority: &Authority, more: &str) -> Standalone {
    let ceiling = format!(
        "[addresses]\n\"logs.example\" = [\"127.0.0.1\"]\n[witness]\nurl = \"{url}\"\nca = \"ROOT/etc/ca.pem\"\n{more}"
    );
    let files = [
        ("etc/ca.pem", authority.pem()),
        ("etc/egress.toml", ceiling),
        (
            "etc/credentials/logs",
            "the-token-of-the-log-server".to_owned(),
        ),
    ];
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (*path, text.as_str()))
        .collect();
    Standalone::start_with("", false, &files).await
}

async fn json(system: &Standalone, arguments: &[&str]) -> Value {
    let output = system.pawctl(&[arguments, &["-o", "json"]].concat()).await;
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Waits until `status` says this of the sink.
async fn until(system: &Standalone, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    within(what, async {
        loop {
            let status = json(system, &["status"]).await;
            if holds(&status["audit"]["witness"]) {
                return status;
            }
        }
    })
    .await
}

/// Something that is on record; the number of its last record.
async fn act(system: &Standalone) -> u64 {
    let ran = system.pawctl(&["sandbox", "run", "--", "true"]).await;
    assert!(ran.status.success(), "{ran:?}");
    json(system, &["status"]).await["audit"]["seq"]
        .as_u64()
        .expect("a number")
}

async fn checkpoints_leave_the_host_by_syslog_and_tell_of_a_log_that_was_cut() {
    let (authority, told) = (Authority::new(), Told::new());
    let vouched = authority.vouch("logs.example");
    let (at, _server) = sink(LOOPBACK, vouched, told.clone()).await;
    let url = format!("syslog://logs.example:{}", at.port());
    let mut system = system(&url, &authority, "").await;
    told.has(1).await;
    let early = fs::read(system.root.path().join("log/audit.000001.log")).expect("it is there");
    let early_witness =
        fs::read(system.root.path().join("log/audit.checkpoint")).expect("it is there");
    let seq = act(&system).await;
    told.has(seq).await;
    let status = until(&system, "a sink that has all", |it| it["behind"] == 0).await;
    assert_eq!(status["audit"]["witness"]["sink"], url.as_str());
    assert!(status["audit"]["witness"]["error"].is_null(), "{status}");
    let metrics = system.pawctl(&["metrics"]).await;
    let metrics = String::from_utf8(metrics.stdout).expect("text");
    assert!(metrics.contains("paw_audit_witness_behind{"), "{metrics}");
    // Each is framed by its length, and nothing is between them.
    let text = told.text();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (length, message) = rest.split_once(' ').expect("a length");
        let length: usize = length.parse().expect("a number");
        assert!(message.starts_with("<109>1 2"), "{message}");
        rest = &message[length..];
    }
    system.stop().await;
    // A copy that somebody has cut, with a checkpoint that fits: only what the sink has tells.
    let copy = tempfile::tempdir().expect("a directory");
    let path = |name: &str| copy.path().join(name);
    let log = system.root.path().join("log");
    fs::create_dir(path("log")).expect("it is ours");
    for name in ["audit.000001.log", "audit.checkpoint", "audit.pub"] {
        fs::copy(log.join(name), path("log").join(name)).expect("it is there");
    }
    fs::write(path("sink"), text).expect("it is ours");
    let verify = async |with_sink: bool| -> Output {
        let (log, sink) = (path("log"), path("sink"));
        let mut arguments = vec!["audit", "verify", log.to_str().expect("text")];
        if with_sink {
            arguments.extend(["--witness", sink.to_str().expect("text")]);
        }
        system.pawctl(&arguments).await
    };
    let whole = verify(true).await;
    let said = String::from_utf8_lossy(&whole.stdout).into_owned();
    assert!(
        whole.status.success() && said.contains("Witnesses"),
        "{said}"
    );
    fs::write(path("log/audit.000001.log"), early).expect("it is ours");
    fs::write(path("log/audit.checkpoint"), early_witness).expect("it is ours");
    assert_eq!(verify(true).await.status.code(), Some(1));
}

async fn checkpoints_leave_the_host_by_https() {
    let (authority, told) = (Authority::new(), Told::new());
    let vouched = authority.vouch("logs.example");
    let (at, _server) = sink(LOOPBACK, vouched, told.clone()).await;
    let url = format!("https://logs.example:{}/in/pawd", at.port());
    let system = system(&url, &authority, "credential = \"logs\"\n").await;
    let seq = act(&system).await;
    told.has(seq).await;
    let text = told.text();
    assert!(text.starts_with("POST /in/pawd HTTP/1.1\r\n"), "{text}");
    assert!(
        text.contains("Bearer the-token-of-the-log-server\r\n"),
        "{text}"
    );
    until(&system, "a sink that has all", |it| {
        it["behind"] == 0 && it["queued"] == 0
    })
    .await;
}

async fn sink_that_is_away_is_told_of_and_has_all_when_it_is_back() {
    let (authority, told) = (Authority::new(), Told::new());
    let vouched = authority.vouch("logs.example");
    let (at, server) = sink(LOOPBACK, vouched.clone(), told.clone()).await;
    let url = format!("syslog://logs.example:{}", at.port());
    let system = system(&url, &authority, "").await;
    told.has(1).await;
    drop(server);
    // What is done goes on.
    let seq = act(&system).await;
    let away = |it: &Value| !it["error"].is_null() && it["behind"].as_u64() > Some(0);
    let status = until(&system, "a sink that is away", away).await;
    assert!(
        status["problems"]
            .to_string()
            .contains("do not leave this host"),
        "{status}"
    );
    assert_eq!(status["ready"], true);
    let doctor = json(&system, &["doctor"]).await;
    let findings = doctor["findings"].as_array().expect("a list");
    assert!(
        findings.iter().any(|it| it["id"] == "audit.witness"),
        "{doctor}"
    );
    assert!(told.newest() < seq);
    let (_, _server) = sink(at, vouched, told.clone()).await;
    told.has(seq).await;
    until(&system, "a sink that has all", |it| {
        it["error"].is_null() && it["behind"] == 0
    })
    .await;
    let doctor = json(&system, &["doctor"]).await;
    let findings = doctor["findings"].as_array().expect("a list");
    assert!(
        findings.iter().all(|it| it["id"] != "audit.witness"),
        "{doctor}"
    );
}

async fn sink_that_is_not_who_it_says_gets_nothing() {
    let (authority, other, told) = (Authority::new(), Authority::new(), Told::new());
    // Of an authority that nobody named, and of another name.
    for vouched in [
        other.vouch("logs.example"),
        authority.vouch("other.example"),
    ] {
        let (at, _server) = sink(LOOPBACK, vouched, told.clone()).await;
        let url = format!("syslog://logs.example:{}", at.port());
        let system = system(&url, &authority, "").await;
        let status = until(&system, "a sink that is refused", |it| {
            !it["error"].is_null()
        })
        .await;
        let error = status["audit"]["witness"]["error"].to_string();
        assert!(error.contains("cannot be trusted"), "{error}");
        act(&system).await;
        assert_eq!(told.text(), "");
    }
}
