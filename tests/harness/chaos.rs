//! An upstream that fails in every way a provider can, in the words of each wire format, on loopback.
//!
//! Each provider of a test has a *scene* here, which the first segment of its path names: `http://127.0.0.1:PORT/NAME/v1`. A scene
//! plays its fault once or for good, and else answers as [`Dialect::answer`] says. It counts the questions that
//! reached it. Who only wants to know whether the provider is there, or what it has, is always answered well.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::{
    dialect::Dialect,
    model::{chunk, read, silence, whole},
    within,
};

/// What a scene does instead of answering.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answers as it should, with these headers.
    Headers(Vec<(&'static str, String)>),
    /// Refuses with this status, these headers and this body.
    Status(u16, Vec<(&'static str, String)>, String),
    /// Begins a stream with these headers, sends these bytes, and goes on like this.
    Stream(Vec<(&'static str, String)>, String, Then),
    /// Reads the question and answers nothing.
    Instead(Then),
    /// Begins a stream with these bytes, and sends the others so often, or until somebody hangs up; then it ends as it should.
    Flood(String, String, Option<usize>),
    /// The same in a refusal with this status.
    FloodOf(u16, String, Option<usize>),
}

/// How a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Its body ends in good order.
    Ends,
    /// It is closed.
    Closes,
    /// It is reset.
    Resets,
    /// Nothing more comes.
    Waits,
}

struct Scene {
    dialect: Dialect,
    fault: Fault,
    /// How often the fault is still played; always without a number.
    times: Option<usize>,
    /// Whether who only wants to know whether it is there meets the fault, too.
    is_dead: bool,
    asked: Vec<Instant>,
    said: Vec<Value>,
}

impl Scene {
    const fn new(dialect: Dialect, fault: Fault, times: Option<usize>) -> Self {
        Self {
            dialect,
            fault,
            times,
            is_dead: false,
            asked: Vec::new(),
            said: Vec::new(),
        }
    }
}

type Scenes = Arc<Mutex<BTreeMap<String, Scene>>>;

/// The upstream; it ends with this value.
pub struct Chaos {
    address: SocketAddr,
    scenes: Scenes,
    /// Floods that are under way.
    floods: watch::Sender<usize>,
    _connections: JoinSet<()>,
}

impl Chaos {
    /// Starts it on a free port. Must be called within a tokio runtime.
    ///
    /// # Panics
    /// When there is no loopback.
    #[must_use]
    pub fn start() -> Self {
        Self::on(reserve(), &[])
    }

    /// Starts it on a port that was reserved, which took no connection before, with these scenes, where nothing is wrong.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn on(socket: TcpSocket, well: &[(&str, Dialect)]) -> Self {
        let scenes = Scenes::default();
        for (name, dialect) in well {
            let scene = Scene::new(*dialect, Fault::Headers(Vec::new()), None);
            lock(&scenes).insert((*name).to_owned(), scene);
        }
        let listener = socket.listen(1024).expect("the port is reserved");
        let address = listener.local_addr().expect("it is bound");
        let mut connections = JoinSet::new();
        let floods = watch::Sender::new(0);
        connections.spawn(accept(listener, Arc::clone(&scenes), floods.clone()));
        Self {
            address,
            scenes,
            floods,
            _connections: connections,
        }
    }

    /// Puts a scene on: its fault is played so often, or always.
    pub fn plays(&self, name: &str, dialect: Dialect, fault: Fault, times: Option<usize>) {
        lock(&self.scenes).insert(name.to_owned(), Scene::new(dialect, fault, times));
    }

    /// Puts a scene on whose fault everybody meets from now on, also who only wants to know whether it is there.
    pub fn dies(&self, name: &str, dialect: Dialect, fault: Fault) {
        let mut scene = Scene::new(dialect, fault, None);
        scene.is_dead = true;
        lock(&self.scenes).insert(name.to_owned(), scene);
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL of a provider of this dialect with this scene.
    #[must_use]
    pub fn url(&self, name: &str, dialect: Dialect) -> String {
        url(self.address, name, dialect)
    }

    /// When the questions to a scene came.
    #[must_use]
    pub fn asked(&self, name: &str) -> Vec<Instant> {
        let scenes = lock(&self.scenes);
        scenes
            .get(name)
            .map(|scene| scene.asked.clone())
            .unwrap_or_default()
    }
}

impl Chaos {
    /// What was sent to a scene, question by question.
    #[must_use]
    pub fn said(&self, name: &str) -> Vec<Value> {
        let scenes = lock(&self.scenes);
        scenes
            .get(name)
            .map(|scene| scene.said.clone())
            .unwrap_or_default()
    }

    /// Waits until no flood is under way any more.
    pub async fn is_quiet(&self) {
        // It ends with this value, which holds the other end.
        let _ = self.floods.subscribe().wait_for(|open| *open == 0).await;
    }
}

/// A port where nobody listens: whoever connects is refused.
///
/// # Panics
/// When there is no loopback.
#[must_use]
pub fn reserve() -> TcpSocket {
    let socket = reusable();
    socket
        .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .expect("there is a loopback");
    socket
}

/// Connections that were closed a moment ago are still known at an address, and do not keep it.
fn reusable() -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("there is IPv4");
    socket.set_reuseaddr(true).expect("it is a socket");
    socket
}

/// The same at this address, once nobody has it any more; at any without one.
///
/// # Panics
/// When it does not become free in time.
pub async fn reserve_at(address: Option<SocketAddr>) -> TcpSocket {
    let Some(address) = address else {
        return reserve();
    };
    let socket = reusable();
    within("a port to become free", async {
        while socket.bind(address).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    socket
}

/// The base URL of a provider of this dialect with this scene, at this address.
#[must_use]
pub fn url(address: SocketAddr, name: &str, dialect: Dialect) -> String {
    let version = match dialect {
        Dialect::Ollama => "",
        Dialect::OpenAi | Dialect::Compatible | Dialect::Anthropic | Dialect::Mistral => "/v1",
        Dialect::Gemini => "/v1beta",
    };
    format!("http://{address}/{name}{version}")
}

fn lock(scenes: &Scenes) -> MutexGuard<'_, BTreeMap<String, Scene>> {
    scenes.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, scenes: Scenes, floods: watch::Sender<usize>) {
    let mut open = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (scenes, floods) = (Arc::clone(&scenes), floods.clone());
        open.spawn(async move {
            // Who asks may go away at any time; that is for the test to notice.
            let _ = serve(stream, &scenes, &floods).await;
        });
    }
}

async fn serve(
    stream: TcpStream,
    scenes: &Scenes,
    floods: &watch::Sender<usize>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(question) = read(&mut stream).await? {
        let (verb, path) = question.line.split_once(' ').unwrap_or_default();
        let name = path.split('/').nth(1).unwrap_or_default();
        let out = stream.get_mut();
        let by_the_way = match (verb, path.rsplit('/').next()) {
            (_, Some("show")) => Some(json!({"model_info": {"m.context_length": 4096}})),
            ("GET", Some("version")) => Some(json!({"version": "0.9.0"})),
            ("GET", _) => Some(json!({"models": [], "data": []})),
            _ => None,
        };
        if let Some(body) = by_the_way {
            match of_the_dead(scenes, name) {
                Some((dialect, fault)) => {
                    if !play(out, dialect, fault).await? {
                        return Ok(());
                    }
                }
                None => whole(out, 200, &[], &body.to_string()).await?,
            }
            continue;
        }
        let Some((dialect, fault)) = next(scenes, name, &question.body) else {
            whole(out, 404, &[], "{}").await?;
            continue;
        };
        let fault = fault.unwrap_or_else(|| Fault::Headers(Vec::new()));
        let is_flood = matches!(fault, Fault::Flood(..) | Fault::FloodOf(..));
        floods.send_modify(|open| *open += usize::from(is_flood));
        let played = play(out, dialect, fault).await;
        floods.send_modify(|open| *open -= usize::from(is_flood));
        if !played? {
            return Ok(());
        }
    }
    Ok(())
}

/// What who only wants to know whether it is there meets of a scene that is dead.
fn of_the_dead(scenes: &Scenes, name: &str) -> Option<(Dialect, Fault)> {
    let scenes = lock(scenes);
    let scene = scenes.get(name).filter(|scene| scene.is_dead)?;
    Some((scene.dialect, scene.fault.clone()))
}

/// Notes a question to a scene, and says what is played.
fn next(scenes: &Scenes, name: &str, said: &Value) -> Option<(Dialect, Option<Fault>)> {
    let mut scenes = lock(scenes);
    let scene = scenes.get_mut(name)?;
    scene.asked.push(Instant::now());
    scene.said.push(said.clone());
    let plays = match &mut scene.times {
        None => true,
        Some(0) => false,
        Some(left) => {
            *left -= 1;
            true
        }
    };
    Some((scene.dialect, plays.then(|| scene.fault.clone())))
}

/// Plays it; says whether the connection is still of use.
async fn play(out: &mut TcpStream, dialect: Dialect, fault: Fault) -> io::Result<bool> {
    match fault {
        Fault::Headers(headers) => {
            begin(out, dialect, &headers).await?;
            chunk(out, &dialect.answer()).await?;
            end(out, Then::Ends).await
        }
        Fault::Status(status, headers, body) => {
            whole(out, status, &headers, &body).await.map(|()| true)
        }
        Fault::Stream(headers, bytes, then) => {
            begin(out, dialect, &headers).await?;
            if !bytes.is_empty() {
                chunk(out, &bytes).await?;
            }
            end(out, then).await
        }
        Fault::Instead(then) => end(out, then).await,
        Fault::Flood(first, again, times) => {
            begin(out, dialect, &[]).await?;
            if !first.is_empty() {
                chunk(out, &first).await?;
            }
            flood(out, &again, times).await?;
            chunk(out, &dialect.ending()).await?;
            end(out, Then::Ends).await
        }
        Fault::FloodOf(status, again, times) => {
            let head = format!(
                "HTTP/1.1 {status} Said\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
            );
            out.write_all(head.as_bytes()).await?;
            flood(out, &again, times).await?;
            end(out, Then::Ends).await
        }
    }
}

/// Sends this so often; without a number, until the other side hangs up.
async fn flood(out: &mut TcpStream, again: &str, times: Option<usize>) -> io::Result<()> {
    let mut left = times;
    while left != Some(0) {
        chunk(out, again).await?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

async fn begin(
    out: &mut TcpStream,
    dialect: Dialect,
    headers: &[(&'static str, String)],
) -> io::Result<()> {
    let kind = match dialect {
        Dialect::Ollama => "application/x-ndjson",
        _ => "text/event-stream",
    };
    let mut head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    out.write_all(format!("{head}\r\n").as_bytes()).await
}

async fn end(out: &mut TcpStream, then: Then) -> io::Result<bool> {
    match then {
        Then::Ends => out.write_all(b"0\r\n\r\n").await.map(|()| true),
        Then::Closes => Ok(false),
        Then::Resets => out.set_zero_linger().map(|()| false),
        Then::Waits => silence(out).await.map(|()| false),
    }
}
