//! An upstream that fails in every way a provider can, in the words of each wire format, on loopback.
//!
//! Each provider of a test has a *scene* here, which the first segment of its path names: `http://127.0.0.1:PORT/NAME/v1`. A scene
//! plays its fault once or for good, and else answers [`TEXT`] with [`INPUT`] and [`OUTPUT`] tokens. It counts the questions that
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

use crate::model::{chunk, read, silence, whole};

/// What is said where nothing is wrong.
pub const TEXT: &str = "Hello world";

/// Tokens of each question.
pub const INPUT: u64 = 3;

/// Tokens of each answer.
pub const OUTPUT: u64 = 2;

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `ollama`
    Ollama,
    /// `openai`
    OpenAi,
    /// `openai-compatible`
    Compatible,
    /// `anthropic`
    Anthropic,
    /// `gemini`
    Gemini,
    /// `mistral`
    Mistral,
}

/// What a provider has against a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Too many questions in a short time.
    Rate,
    /// Nothing is left of what was paid for.
    Quota,
    /// It cannot serve now.
    Overload,
    /// The question is too long.
    Context,
    /// Its filter refuses the question.
    Filter,
    /// It does not know the key.
    Auth,
    /// It does not know the model.
    Model,
}

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
    asked: Vec<Instant>,
    said: Vec<Value>,
}

impl Scene {
    const fn new(dialect: Dialect, fault: Fault, times: Option<usize>) -> Self {
        Self {
            dialect,
            fault,
            times,
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
    let socket = TcpSocket::new_v4().expect("there is IPv4");
    socket
        .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .expect("there is a loopback");
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
            whole(out, 200, &[], &body.to_string()).await?;
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

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Ollama,
        Self::OpenAi,
        Self::Compatible,
        Self::Anthropic,
        Self::Gemini,
        Self::Mistral,
    ];

    /// The word for it in the configuration.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::OpenAi => "openai",
            Self::Compatible => "openai-compatible",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Mistral => "mistral",
        }
    }

    /// One record of a stream.
    #[must_use]
    pub fn record(self, record: &Value) -> String {
        self.raw(&record.to_string())
    }

    /// Bytes where a record should be.
    #[must_use]
    pub fn raw(self, record: &str) -> String {
        match self {
            Self::Ollama => format!("{record}\n"),
            Self::Gemini => format!("data: {record}\r\n\r\n"),
            Self::OpenAi | Self::Compatible | Self::Anthropic | Self::Mistral => {
                format!("data: {record}\n\n")
            }
        }
    }

    /// What shows that somebody is there, and is no record of an answer.
    #[must_use]
    pub const fn alive(self) -> &'static str {
        match self {
            Self::Ollama => "\n",
            Self::Anthropic => "event: ping\ndata: {\"type\": \"ping\"}\n\n",
            Self::OpenAi | Self::Compatible | Self::Gemini | Self::Mistral => ": wait\n\n",
        }
    }

    /// What comes before the first piece.
    #[must_use]
    pub fn opening(self) -> String {
        match self {
            Self::Ollama | Self::Gemini => String::new(),
            Self::OpenAi | Self::Compatible | Self::Mistral => self.record(&completion(
                &json!({"role": "assistant", "content": ""}),
                None,
            )),
            Self::Anthropic => {
                let usage = json!({"input_tokens": INPUT, "output_tokens": 1});
                let start =
                    json!({"type": "message_start", "message": {"model": "m", "usage": usage}});
                let block = json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}});
                self.record(&start) + &self.record(&block)
            }
        }
    }

    /// A piece of an answer.
    #[must_use]
    pub fn piece(self, text: &str) -> String {
        self.record(&match self {
            Self::Ollama => {
                json!({"model": "m", "message": {"role": "assistant", "content": text}, "done": false})
            }
            Self::OpenAi | Self::Compatible | Self::Mistral => {
                completion(&json!({"content": text}), None)
            }
            Self::Anthropic => {
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
            }
            Self::Gemini => {
                json!({"modelVersion": "m", "candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}]})
            }
        })
    }

    /// What comes after the last piece.
    #[must_use]
    pub fn ending(self) -> String {
        match self {
            Self::Ollama => self.record(&json!({
                "model": "m", "message": {"role": "assistant", "content": ""}, "done": true, "done_reason": "stop",
                "prompt_eval_count": INPUT, "eval_count": OUTPUT,
            })),
            Self::OpenAi | Self::Compatible => {
                let counts = json!({"model": "m", "choices": [], "usage": completion_usage()});
                self.record(&completion(&json!({}), Some("stop")))
                    + &self.record(&counts)
                    + &self.raw("[DONE]")
            }
            Self::Mistral => {
                let mut last = completion(&json!({"content": ""}), Some("stop"));
                last["usage"] = completion_usage();
                self.record(&last) + &self.raw("[DONE]")
            }
            Self::Anthropic => [
                json!({"type": "content_block_stop", "index": 0}),
                json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": OUTPUT}}),
                json!({"type": "message_stop"}),
            ]
            .iter()
            .map(|event| self.record(event))
            .collect(),
            Self::Gemini => self.record(&json!({
                "modelVersion": "m",
                "candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": "STOP"}],
                "usageMetadata": {"promptTokenCount": INPUT, "candidatesTokenCount": OUTPUT},
            })),
        }
    }

    /// A whole answer.
    #[must_use]
    pub fn answer(self) -> String {
        let (first, second) = TEXT.split_at(TEXT.len() / 2);
        self.opening() + &self.piece(first) + &self.piece(second) + &self.ending()
    }

    /// A whole answer without the last thing that makes it one, although all of it was said.
    #[must_use]
    pub fn unfinished(self) -> String {
        let whole = self.answer();
        let end = match self {
            Self::Ollama => self.ending().len(),
            Self::OpenAi | Self::Compatible | Self::Mistral => self.raw("[DONE]").len(),
            Self::Anthropic => self.record(&json!({"type": "message_stop"})).len(),
            Self::Gemini => self.ending().len(),
        };
        whole[..whole.len() - end].to_owned()
    }

    /// A refusal in this dialect: its status, and its body with these further details.
    #[must_use]
    pub fn refuses(self, refusal: Refusal, details: Option<Value>) -> (u16, String) {
        let (status, word, message) = self.words(refusal);
        let mut body = match self {
            Self::Ollama if details.is_none() => json!({"error": message}),
            Self::Ollama => json!({"error": {"message": message}}),
            Self::OpenAi | Self::Compatible => {
                json!({"error": {"message": message, "type": word, "param": null, "code": word}})
            }
            Self::Anthropic => {
                json!({"type": "error", "error": {"type": word, "message": message}, "request_id": "req_1"})
            }
            Self::Gemini => json!({"error": {"code": status, "message": message, "status": word}}),
            Self::Mistral => {
                json!({"object": "error", "message": message, "type": word, "param": null, "code": "1300"})
            }
        };
        if let Some(details) = details {
            let place = match self {
                Self::Mistral => &mut body,
                _ => &mut body["error"],
            };
            place["details"] = details;
        }
        (status, body.to_string())
    }

    /// Status, word and message of a refusal, as the provider was seen to say it.
    fn words(self, refusal: Refusal) -> (u16, &'static str, &'static str) {
        match (refusal, self) {
            (Refusal::Rate, Self::OpenAi | Self::Compatible) => {
                (429, "rate_limit_exceeded", "slow down")
            }
            (Refusal::Rate, Self::Anthropic) => (429, "rate_limit_error", "slow down"),
            (Refusal::Rate, Self::Gemini) => (429, "RESOURCE_EXHAUSTED", "slow down"),
            (Refusal::Rate, Self::Mistral) => (429, "rate_limited", "slow down"),
            (Refusal::Rate, Self::Ollama) => (429, "", "too many requests"),
            (Refusal::Quota, Self::Ollama) => (429, "", "you have reached your weekly usage limit"),
            (Refusal::Quota, Self::Anthropic) => (429, "billing_error", "nothing is left"),
            (Refusal::Quota, Self::Gemini) => (429, "RESOURCE_EXHAUSTED", "quota of the day"),
            (Refusal::Quota, Self::OpenAi | Self::Compatible | Self::Mistral) => {
                (429, "insufficient_quota", "check your plan")
            }
            (Refusal::Overload, Self::Anthropic) => (529, "overloaded_error", "Overloaded"),
            (Refusal::Overload, Self::Gemini) => (503, "UNAVAILABLE", "The model is overloaded."),
            (Refusal::Overload, Self::Ollama) => (503, "", "server busy, please try again"),
            (Refusal::Overload, Self::OpenAi | Self::Compatible | Self::Mistral) => {
                (503, "server_error", "The server is overloaded")
            }
            (Refusal::Context, Self::OpenAi | Self::Compatible) => {
                (400, "context_length_exceeded", "it is too long")
            }
            (Refusal::Context, Self::Anthropic) => (
                400,
                "invalid_request_error",
                "prompt is too long: 210000 tokens > 200000 maximum",
            ),
            (Refusal::Context, Self::Gemini) => (
                400,
                "INVALID_ARGUMENT",
                "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            ),
            (Refusal::Context, Self::Mistral) => (
                400,
                "invalid_request_error",
                "Prompt contains 9 tokens, too large for model with 8 maximum context length",
            ),
            (Refusal::Context, Self::Ollama) => {
                (400, "", "the input length exceeds the context length")
            }
            (Refusal::Filter, Self::OpenAi | Self::Compatible) => {
                (400, "content_filter", "it was filtered")
            }
            (Refusal::Filter, Self::Anthropic) => (
                400,
                "invalid_request_error",
                "Output blocked by content filtering policy",
            ),
            (Refusal::Filter, Self::Gemini) => (
                400,
                "INVALID_ARGUMENT",
                "blocked by content filtering policy",
            ),
            (Refusal::Filter, Self::Mistral) => {
                (400, "content_policy_violation", "it was filtered")
            }
            (Refusal::Filter, Self::Ollama) => {
                (400, "", "refused by the content management policy")
            }
            (Refusal::Auth, Self::OpenAi | Self::Compatible) => {
                (401, "invalid_api_key", "the key is wrong")
            }
            (Refusal::Auth, Self::Anthropic) => (401, "authentication_error", "invalid x-api-key"),
            (Refusal::Auth, Self::Gemini) => (401, "UNAUTHENTICATED", "the key is wrong"),
            (Refusal::Auth, Self::Mistral | Self::Ollama) => (401, "", "Unauthorized"),
            (Refusal::Model, Self::OpenAi | Self::Compatible) => {
                (404, "model_not_found", "there is no such model")
            }
            (Refusal::Model, Self::Anthropic) => (404, "not_found_error", "model: m"),
            (Refusal::Model, Self::Gemini) => (404, "NOT_FOUND", "models/m is not found"),
            (Refusal::Model, Self::Mistral | Self::Ollama) => (404, "", "model 'm' not found"),
        }
    }
}

fn completion(delta: &Value, finish: Option<&str>) -> Value {
    json!({"object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
}

fn completion_usage() -> Value {
    json!({"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT})
}
