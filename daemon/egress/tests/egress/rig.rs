//! A broker with pawd's side of its protocol in the test's hands, and servers that say what they were asked.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use paw_api::egress::{
    Added, Begin, Decision, Finished, HEADER, Hand, HostName, NetRule, Ready, Reason, Recorded,
    Refused, Tag, Taken, VERSION, header, parse_header,
};
use paw_egress::{
    ceiling::Ceiling,
    hand::Values,
    names::Agents,
    run::{Shared, serve},
    upstream::{Lookup, Outside},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UnixStream},
    sync::{Notify, Semaphore},
    time::timeout,
};

/// How long anything here may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A run at the broker: what pawd would be.
pub(crate) struct Run {
    stream: UnixStream,
    last: u32,
    /// Whether decisions are acknowledged as recorded.
    pub(crate) record: bool,
    /// The value that is handed over where one of the vault is asked for; without one, the secret is refused.
    pub(crate) value: Option<Vec<u8>>,
    shared: Option<Arc<Shared>>,
    pub(crate) decisions: Vec<Decision>,
    pub(crate) finished: Vec<Finished>,
}

/// What came back over one connection.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    ended: bool,
    closed: bool,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(crate) fn status(&self) -> u16 {
        self.text()
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0)
    }

    pub(crate) fn body(&self) -> String {
        self.text()
            .split_once("\r\n\r\n")
            .map_or_else(String::new, |(_, body)| body.to_owned())
    }
}

/// Names that lead where the test says.
pub(crate) fn names(known: &[(&str, &[&str])]) -> Lookup {
    let known: BTreeMap<String, Vec<IpAddr>> = known
        .iter()
        .map(|(name, addresses)| {
            let parsed = addresses
                .iter()
                .map(|address| address.parse().unwrap())
                .collect();
            ((*name).to_owned(), parsed)
        })
        .collect();
    Arc::new(move |host: HostName| {
        let found = known.get(host.as_str()).cloned();
        Box::pin(async move { found.ok_or_else(|| std::io::ErrorKind::NotFound.into()) })
    })
}

/// A broker with this ceiling.
pub(crate) fn shared(ceiling: &str, credentials: &Path, lookup: Lookup) -> Arc<Shared> {
    let ceiling = Ceiling::parse(ceiling, Path::new("egress.toml"), credentials).unwrap();
    let mut trusted = rustls::RootCertStore::empty();
    trusted.add_parsable_certificates(ceiling.ca.iter().cloned());
    Arc::new(Shared {
        witness: Arc::new(paw_egress::witness::Door::new(ceiling.witness.as_ref())),
        ceiling: Arc::new(ceiling),
        outside: Outside::new(lookup, trusted),
        values: Values::default(),
        places: Arc::new(Semaphore::new(64)),
        agents: Agents::default(),
        ready: Ready {
            pid: 1,
            landlock_abi: 0,
        },
    })
}

/// An encrypted server on loopback that answers with what `answer` makes of a request: its port, and what it was asked.
pub(crate) async fn encrypted(
    key: &rcgen::CertifiedKey<rcgen::KeyPair>,
    answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
) -> (u16, Arc<Mutex<Vec<String>>>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let (seen, answer) = (asked.clone(), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, seen, answer) = (acceptor.clone(), seen.clone(), answer.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
                while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(read) => heard.extend_from_slice(&buffer[..read]),
                    }
                }
                let heard = String::from_utf8(heard).unwrap();
                seen.lock().unwrap().push(heard.clone());
                let _ = stream.write_all(&answer(&heard)).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (port, asked)
}

/// A ceiling that lets loopback be reached at this port, and a lookup that leads there.
pub(crate) fn loopback(port: u16) -> Arc<Shared> {
    shared(
        &format!(
            "hosts = [\"*\"]\nports = [{port}, 80, 443]\nallow_addresses = [\"127.0.0.1/32\"]"
        ),
        Path::new("/nonexistent"),
        names(&[
            ("allowed.example", &["127.0.0.1"]),
            ("other.example", &["127.0.0.1"]),
            ("a.wide.example", &["127.0.0.1"]),
        ]),
    )
}

impl Run {
    /// Begins a run.
    pub(crate) async fn begin(shared: &Arc<Shared>, rules: &[&str]) -> Result<Self, Refused> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(serve(theirs, Arc::clone(shared)));
        let mut run = Self::over(ours, rules).await?;
        run.shared = Some(Arc::clone(shared));
        Ok(run)
    }

    /// Begins a run over a connection.
    pub(crate) async fn over(stream: UnixStream, rules: &[&str]) -> Result<Self, Refused> {
        Self::of("clerk", stream, rules).await
    }

    /// Begins a run of an agent over a connection.
    pub(crate) async fn of(
        agent: &str,
        mut stream: UnixStream,
        rules: &[&str],
    ) -> Result<Self, Refused> {
        let rules: Vec<NetRule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        let begin = Begin {
            version: VERSION,
            run: "test".into(),
            agent: agent.into(),
            rules,
        };
        stream
            .write_all(&control(Tag::Begin, &begin))
            .await
            .unwrap();
        let (tag, _, payload) = next(&mut stream).await.unwrap();
        if tag == Tag::Refused {
            return Err(read(&payload));
        }
        assert_eq!(tag, Tag::Ready);
        let _: Ready = read(&payload);
        Ok(Self {
            stream,
            last: 0,
            record: true,
            value: None,
            shared: None,
            decisions: Vec::new(),
            finished: Vec::new(),
        })
    }

    /// The bare connection.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// A person has approved one more rule; what is wrong with it, if it was not added.
    pub(crate) async fn allow(&mut self, rule: &str) -> Option<Refused> {
        let rule: NetRule = rule.parse().unwrap();
        self.last += 1;
        self.stream
            .write_all(&frame(Tag::Allow, self.last, &rule))
            .await
            .unwrap();
        let (tag, number, payload) = timeout(LIMIT, next(&mut self.stream))
            .await
            .unwrap()
            .unwrap();
        assert_eq!((tag, number), (Tag::Added, self.last));
        read::<Added>(&payload).refused
    }

    /// Sends bytes over a connection of its own, and gives what comes back until that is closed.
    pub(crate) async fn say(&mut self, bytes: &[u8]) -> Answer {
        self.last += 1;
        let number = self.last;
        let mut out = header(0, Tag::Open, number).to_vec();
        for piece in bytes.chunks(32 * 1024) {
            out.extend_from_slice(&header(piece.len(), Tag::Data, number));
            out.extend_from_slice(piece);
        }
        self.stream.write_all(&out).await.unwrap();
        self.hear(number).await
    }

    /// Sends each of these over a connection of its own, all of them before anything is heard, and gives what comes back.
    pub(crate) async fn say_at_once(&mut self, requests: &[String]) -> Vec<Answer> {
        let mut numbers = Vec::new();
        let mut out = Vec::new();
        for request in requests {
            self.last += 1;
            numbers.push(self.last);
            out.extend_from_slice(&header(0, Tag::Open, self.last));
            out.extend_from_slice(&header(request.len(), Tag::Data, self.last));
            out.extend_from_slice(request.as_bytes());
        }
        self.stream.write_all(&out).await.unwrap();
        self.hear_all(&numbers).await
    }

    /// Sends bytes over a connection of its own, and takes nothing of what comes back; returns when some of it is there.
    pub(crate) async fn say_and_take_nothing(&mut self, bytes: &[u8]) {
        self.last += 1;
        let mut out = header(0, Tag::Open, self.last).to_vec();
        out.extend_from_slice(&header(bytes.len(), Tag::Data, self.last));
        out.extend_from_slice(bytes);
        self.stream.write_all(&out).await.unwrap();
        loop {
            match timeout(LIMIT, next(&mut self.stream))
                .await
                .unwrap()
                .unwrap()
            {
                (Tag::Decision, _, payload) => self.decided(&payload).await,
                (Tag::Data, ..) => return,
                _ => {}
            }
        }
    }

    /// Notes a decision, and records what is allowed.
    async fn decided(&mut self, payload: &[u8]) {
        let decision: Decision = read(payload);
        if decision.refused.is_none() {
            let refused = decision.vault && self.value.is_none();
            if let (true, Some(value)) = (decision.vault, &self.value) {
                let length = u32::try_from(value.len()).unwrap();
                let hand = hand("test", decision.seq, length);
                assert!(self.hand(&hand, value).await, "it is taken");
            }
            let recorded = Recorded {
                seq: decision.seq,
                ok: self.record && !refused,
                secret: refused,
            };
            let recorded = control(Tag::Recorded, &recorded);
            self.stream.write_all(&recorded).await.unwrap();
        }
        self.decisions.push(decision);
    }

    /// Hands a value over, on a connection of its own; whether that is answered as it has to be.
    pub(crate) async fn hand(&self, hand: &Hand, value: &[u8]) -> bool {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let shared = self.shared.as_ref().expect("a run that began here");
        tokio::spawn(serve(theirs, Arc::clone(shared)));
        ours.write_all(&control(Tag::Hand, hand)).await.unwrap();
        // One that is not wanted may be closed already.
        let _ = ours.write_all(value).await;
        let answer = timeout(LIMIT, next(&mut ours)).await.unwrap();
        matches!(answer, Some((Tag::Handed, 0, _)))
    }

    /// Hears one connection to its end.
    pub(crate) async fn hear(&mut self, number: u32) -> Answer {
        self.hear_all(&[number]).await.remove(0)
    }

    /// Hears connections to their ends.
    async fn hear_all(&mut self, numbers: &[u32]) -> Vec<Answer> {
        let mut answers: BTreeMap<u32, Answer> = numbers
            .iter()
            .map(|number| (*number, Answer::default()))
            .collect();
        while !answers.values().all(|answer| answer.ended && answer.closed) {
            let (tag, number, payload) = timeout(LIMIT, next(&mut self.stream))
                .await
                .expect("in time")
                .expect("a frame");
            match (tag, answers.get_mut(&number)) {
                (Tag::Decision, _) => self.decided(&payload).await,
                (Tag::Finished, _) => self.finished.push(read(&payload)),
                (Tag::Data, Some(answer)) => {
                    answer.bytes.extend_from_slice(&payload);
                    let taken = Taken {
                        bytes: u32::try_from(payload.len()).unwrap(),
                        closed: false,
                    };
                    self.stream
                        .write_all(&frame(Tag::Taken, number, &taken))
                        .await
                        .unwrap();
                }
                (Tag::End, Some(answer)) => {
                    answer.ended = true;
                    let taken = Taken {
                        bytes: 0,
                        closed: true,
                    };
                    let mut out = header(0, Tag::End, number).to_vec();
                    out.extend_from_slice(&frame(Tag::Taken, number, &taken));
                    self.stream.write_all(&out).await.unwrap();
                }
                (Tag::Taken, Some(answer)) => answer.closed |= read::<Taken>(&payload).closed,
                _ => {}
            }
        }
        answers.into_values().collect()
    }

    /// One plain request without a body.
    pub(crate) async fn get(&mut self, target: &str) -> Answer {
        let authority = target
            .trim_start_matches("http://")
            .trim_start_matches("https://")
            .split(['/', '?'])
            .next()
            .unwrap_or("");
        let text = format!("GET {target} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        self.say(text.as_bytes()).await
    }

    /// Why the newest request was refused.
    pub(crate) fn reason(&self) -> Option<Reason> {
        self.decisions.last().and_then(|decision| decision.refused)
    }

    /// Waits until the end of everything that was allowed has been said.
    pub(crate) async fn settle(&mut self) {
        let allowed = |decision: &&Decision| decision.refused.is_none();
        while self.finished.len() < self.decisions.iter().filter(allowed).count() {
            let (tag, _, payload) = timeout(LIMIT, next(&mut self.stream))
                .await
                .expect("in time")
                .expect("a frame");
            match tag {
                Tag::Finished => self.finished.push(read(&payload)),
                Tag::Decision => self.decisions.push(read(&payload)),
                _ => {}
            }
        }
    }
}

/// What a connection begins with that carries a value.
pub(crate) fn hand(run: &str, seq: u64, length: u32) -> Hand {
    Hand {
        version: VERSION,
        run: run.into(),
        seq,
        length,
    }
}

pub(crate) fn control(tag: Tag, message: &impl Serialize) -> Vec<u8> {
    frame(tag, 0, message)
}

pub(crate) fn frame(tag: Tag, number: u32, message: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_vec(message).unwrap();
    let mut out = header(json.len(), tag, number).to_vec();
    out.extend_from_slice(&json);
    out
}

pub(crate) fn read<T: DeserializeOwned>(payload: &[u8]) -> T {
    serde_json::from_slice(payload).unwrap()
}

pub(crate) async fn next(stream: &mut UnixStream) -> Option<(Tag, u32, Vec<u8>)> {
    let mut start = [0; HEADER];
    stream.read_exact(&mut start).await.ok()?;
    let (length, tag, number) = parse_header(start).unwrap();
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.ok()?;
    Some((tag, number, payload))
}

/// A server on loopback that answers every connection with the same bytes and remembers what it was asked.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicU64>,
    news: Arc<Notify>,
}

impl Server {
    /// A server that reads a head, and then answers and closes.
    pub(crate) async fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self {
            address,
            asked: Arc::default(),
            connections: Arc::default(),
            news: Arc::default(),
        };
        let (answer, asked, connections, news) = (
            answer.into(),
            server.asked.clone(),
            server.connections.clone(),
            server.news.clone(),
        );
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let (answer, asked, news) = (answer.clone(), asked.clone(), news.clone());
                tokio::spawn(async move {
                    let mut heard = Vec::new();
                    let mut buffer = [0; 4096];
                    loop {
                        let Ok(read) = stream.read(&mut buffer).await else {
                            return;
                        };
                        heard.extend_from_slice(&buffer[..read]);
                        if read == 0 || is_whole(&heard) {
                            break;
                        }
                    }
                    asked
                        .lock()
                        .unwrap()
                        .push(String::from_utf8_lossy(&heard).into_owned());
                    news.notify_waiters();
                    let _ = stream.write_all(&answer).await;
                });
            }
        });
        server
    }

    /// A server that says `hello` and who it is.
    pub(crate) async fn hello() -> Self {
        Self::saying("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// How often anybody connected.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Whether a request with a length, or without a body, is there to its end.
fn is_whole(heard: &[u8]) -> bool {
    let text = String::from_utf8_lossy(heard).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    if head.contains("transfer-encoding: chunked") {
        return body.ends_with("0\r\n\r\n");
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|length| length.trim().parse().ok())
        .unwrap_or(0);
    body.len() >= length
}
