//! A model that says what a test tells it to, over the wires of Ollama and OpenAI, on loopback.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::within;

/// What the model does with its next question. Without one it says `Hello`, ` world`.
#[derive(Debug)]
pub enum Answer {
    /// Says these pieces and ends as it should.
    Says(Vec<String>),
    /// Says this and calls these tools, each with its arguments.
    Calls(String, Vec<(String, Value)>),
    /// Calls these tools, then closes the connection.
    CallsAndBreaksOff(Vec<(String, Value)>),
    /// Does whatever the last message that it is shown tells it: calls what stands behind each `CALL `, `NAME {ARGUMENTS}` to the end of
    /// the line, or says that it is done. A model that obeys everybody.
    Obeys,
    /// Does the same for what the descriptions of its tools tell it.
    ObeysTools,
    /// Does as the steps say, one after the other, as they come. When no more come it says nothing more.
    Steps(mpsc::Receiver<Step>),
    /// Refuses with this status, these headers and this body.
    Status(u16, Vec<(&'static str, String)>, String),
}

/// What the model says to who asks whether it is there.
#[derive(Debug, Clone, Default)]
pub enum Check {
    /// As it should.
    #[default]
    Good,
    /// Refuses with this status and this body.
    Status(u16, String),
    /// Nothing, with the connection open.
    Silence,
}

/// One thing that a model does.
#[derive(Debug, Clone)]
pub enum Step {
    /// Says a piece.
    Piece(String),
    /// Ends as it should.
    End,
    /// Closes the connection in the middle.
    Cut,
    /// Sends these bytes instead of a piece.
    Raw(String),
}

impl Answer {
    /// Says these pieces and ends.
    #[must_use]
    pub fn says(pieces: &[&str]) -> Self {
        Self::Says(pieces.iter().map(ToString::to_string).collect())
    }

    /// Calls these tools.
    #[must_use]
    pub fn calls(calls: &[(&str, Value)]) -> Self {
        let call = |(name, arguments): &(&str, Value)| ((*name).to_owned(), arguments.clone());
        Self::Calls(String::new(), calls.iter().map(call).collect())
    }

    /// Calls these tools, then closes the connection.
    #[must_use]
    pub fn calls_and_breaks_off(calls: &[(&str, Value)]) -> Self {
        match Self::calls(calls) {
            Self::Calls(_, calls) => Self::CallsAndBreaksOff(calls),
            other => other,
        }
    }

    /// Over the wire of Ollama, an answer for which it counts so many tokens, all of them of the question.
    #[must_use]
    pub fn counted(tokens: u64) -> Self {
        let (steps, answer) = Self::steps();
        let message = json!({"role": "assistant", "content": "yes"});
        let end = json!({"model": "m", "message": message, "done": true, "done_reason": "stop",
            "prompt_eval_count": tokens, "eval_count": 0});
        steps
            .try_send(Step::Raw(format!("{end}\n")))
            .expect("few steps");
        answer
    }

    /// Has too much to do, and says so.
    #[must_use]
    pub fn overload() -> Self {
        Self::Status(503, Vec::new(), json!({"error": "busy"}).to_string())
    }

    /// Says these pieces, then closes the connection.
    #[must_use]
    pub fn cut(pieces: &[&str]) -> Self {
        let (steps, answer) = Self::steps();
        for piece in pieces {
            steps
                .try_send(Step::Piece((*piece).to_owned()))
                .expect("few steps");
        }
        steps.try_send(Step::Cut).expect("few steps");
        answer
    }

    /// An answer whose steps come later.
    #[must_use]
    pub fn steps() -> (mpsc::Sender<Step>, Self) {
        let (to, from) = mpsc::channel(64);
        (to, Self::Steps(from))
    }
}

/// What a model falls into that answers nobody any more, also not whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It takes what is asked and closes the connection.
    HangsUp,
    /// It says that it cannot serve now.
    Busy,
}

/// What an Ollama holds besides what it says.
#[derive(Debug)]
struct Library {
    /// Models that it lists, and has where it is asked to load one.
    has: Vec<String>,
    /// What it says of each of them besides.
    says: Value,
    /// Those in its memory.
    loaded: BTreeSet<String>,
    /// What it does with whoever wants one loaded or unloaded.
    loads: VecDeque<Answer>,
    /// What it does with whoever wants one fetched.
    pulls: VecDeque<Answer>,
}

/// Whether a model says at once how much it holds, and how often it was asked that.
type Window = (watch::Sender<bool>, watch::Sender<usize>);

/// A question that was asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// `POST /api/chat`.
    pub line: String,
    /// Header lines.
    pub headers: Vec<String>,
    /// What was sent, where it was JSON.
    pub body: Value,
}

/// The model's server; it ends with this value.
pub struct Model {
    address: SocketAddr,
    script: Arc<Mutex<VecDeque<Answer>>>,
    checks: Arc<Mutex<Check>>,
    asked: watch::Receiver<Vec<Question>>,
    trouble: Arc<Mutex<Option<Trouble>>>,
    library: Arc<Mutex<Library>>,
    /// Whether it says at once how much it holds, and how often it was asked that.
    window: Arc<Window>,
    _connections: JoinSet<()>,
}

impl Model {
    /// Starts it on a free port. Must be called within a tokio runtime.
    ///
    /// # Panics
    /// When there is no loopback.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("there is a loopback");
        let address = listener.local_addr().expect("it is bound");
        let script = Arc::new(Mutex::new(VecDeque::new()));
        let (tell, asked) = watch::channel(Vec::new());
        let mut connections = JoinSet::new();
        let checks = Arc::new(Mutex::new(Check::Good));
        let (answers, checked) = (Arc::clone(&script), Arc::clone(&checks));
        let trouble = Arc::new(Mutex::new(None));
        let falls = Arc::clone(&trouble);
        let library = Arc::new(Mutex::new(Library {
            has: vec!["m".to_owned()],
            says: json!({}),
            loaded: BTreeSet::new(),
            loads: VecDeque::new(),
            pulls: VecDeque::new(),
        }));
        let window = Arc::new((watch::Sender::new(true), watch::Sender::new(0)));
        let (held, shows) = (Arc::clone(&library), Arc::clone(&window));
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, checked) = (Arc::clone(&answers), Arc::clone(&checked));
                let (falls, tell) = (Arc::clone(&falls), tell.clone());
                let (held, shows) = (Arc::clone(&held), Arc::clone(&shows));
                open.spawn(async move {
                    // Who asks may go away at any time; that is for the test to notice.
                    let _ = serve(stream, &answers, &falls, (&checked, &held, &shows), &tell).await;
                });
            }
        });
        Self {
            address,
            script,
            checks,
            asked,
            trouble,
            library,
            window,
            _connections: connections,
        }
    }

    /// What to do with the next question for a chat.
    ///
    /// # Panics
    /// Never; the lock is a leaf.
    pub fn will(&self, answer: Answer) {
        self.script
            .lock()
            .expect("nobody panics with it")
            .push_back(answer);
    }

    /// Which models it lists from now on, and has where it is asked to load one.
    ///
    /// # Panics
    /// Never; the lock is a leaf.
    pub fn has(&self, names: &[&str]) {
        let names = names.iter().map(ToString::to_string).collect();
        self.library.lock().expect("nobody panics with it").has = names;
    }

    /// What it says from now on of each of its models, besides its name: fields of an object.
    ///
    /// # Panics
    /// Never; the lock is a leaf.
    pub fn says_of_its_models(&self, fields: Value) {
        self.library.lock().expect("nobody panics with it").says = fields;
    }

    /// Models that were loaded and not unloaded again.
    ///
    /// # Panics
    /// Never; the lock is a leaf.
    #[must_use]
    pub fn loaded(&self) -> Vec<String> {
        let library = self.library.lock().expect("nobody panics with it");
        library.loaded.iter().cloned().collect()
    }

    /// What to do with whoever wants a model loaded next: refuse, or wait for a step.
    ///
    /// # Panics
    /// Never; the lock is a leaf.
    pub fn will_load(&self, answer: Answer) {
        let mut library = self.library.lock().expect("nobody panics with it");
        library.loads.push_back(answer);
    }

    /// What to do with whoever wants a model fetched next; pieces are statuses. Without one it says `pulling`, and has it.
    ///
    /// # Panics
    /// Never; the lock is a leaf.
    pub fn will_pull(&self, answer: Answer) {
        let mut library = self.library.lock().expect("nobody panics with it");
        library.pulls.push_back(answer);
    }

    /// Answers nobody from now on, or everybody again.
    ///
    /// # Panics
    /// Never; the lock is a leaf.
    pub fn falls_into(&self, trouble: Option<Trouble>) {
        *self.trouble.lock().expect("nobody panics with it") = trouble;
    }

    /// What to say from now on to who asks whether it is there.
    ///
    /// # Panics
    /// Never; the lock is a leaf.
    pub fn says_of_itself(&self, check: Check) {
        *self.checks.lock().expect("nobody panics with it") = check;
    }

    /// Says from now on how much it holds at once, as it does otherwise, or when it is told to.
    pub fn says_its_window(&self, at_once: bool) {
        self.window.0.send_replace(at_once);
    }

    /// How often it was asked how much it holds.
    #[must_use]
    pub fn asked_for_its_window(&self) -> usize {
        *self.window.1.borrow()
    }

    /// Waits until it was asked this often how much it holds.
    ///
    /// # Panics
    /// When it is not in time.
    pub async fn was_asked_for_its_window(&self, times: usize) {
        let mut asked = self.window.1.subscribe();
        let reached = asked.wait_for(|asked| *asked >= times);
        within("a question for the window", reached)
            .await
            .expect("the model runs");
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same by an address that counts as elsewhere: one that is not of the loopback, and leads to it.
    #[must_use]
    pub fn url_elsewhere(&self) -> String {
        self.url().replace("127.0.0.1", "0.0.0.0")
    }

    /// Everything that was asked so far, also for the list of models.
    #[must_use]
    pub fn asked(&self) -> Vec<Question> {
        self.asked.borrow().clone()
    }

    /// How often it was asked for an answer; whether it is there is asked besides.
    #[must_use]
    pub fn questions(&self) -> usize {
        let asked = self.asked();
        let answers = asked
            .iter()
            .filter(|it| it.line.starts_with("POST") && it.line.contains("/chat"));
        answers.count()
    }

    /// Waits until this many chats were asked for.
    ///
    /// # Panics
    /// When they are not in time.
    pub async fn was_asked(&self, times: usize) {
        self.reaches("POST", times).await;
    }

    /// Waits until it was asked this often for an answer, over the wire of Ollama.
    ///
    /// # Panics
    /// When it is not in time.
    pub async fn was_questioned(&self, times: usize) {
        self.reaches("POST /api/chat", times).await;
    }

    /// How often it was asked whether it is there, or what it has.
    #[must_use]
    pub fn checks(&self) -> usize {
        count(&self.asked.borrow(), "GET")
    }

    /// Waits until it was asked this often whether it is there, or what it has.
    ///
    /// # Panics
    /// When it is not in time.
    pub async fn was_checked(&self, times: usize) {
        self.reaches("GET", times).await;
    }

    /// Waits until this was asked for, such as `GET /v1/models`.
    ///
    /// # Panics
    /// When it is not in time.
    pub async fn was_asked_for(&self, line: &str) {
        self.reaches(line, 1).await;
    }

    async fn reaches(&self, start: &str, times: usize) {
        let mut asked = self.asked.clone();
        let reached = asked.wait_for(|all| count(all, start) >= times);
        within("a question to the model", reached)
            .await
            .expect("the model runs");
    }
}

fn count(asked: &[Question], start: &str) -> usize {
    asked
        .iter()
        .filter(|one| one.line.starts_with(start))
        .count()
}

async fn serve(
    stream: TcpStream,
    script: &Mutex<VecDeque<Answer>>,
    trouble: &Mutex<Option<Trouble>>,
    (checks, library, window): (&Mutex<Check>, &Mutex<Library>, &Window),
    tell: &watch::Sender<Vec<Question>>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(question) = read(&mut stream).await? {
        let line = question.line.clone();
        let out = stream.get_mut();
        let trouble = *trouble.lock().expect("nobody panics with it");
        if let Some(trouble) = trouble {
            tell.send_modify(|all| all.push(question));
            match trouble {
                Trouble::HangsUp => return Ok(()),
                Trouble::Busy => {
                    whole(out, 503, &[], &json!({"error": "busy"}).to_string()).await?;
                    continue;
                }
            }
        }
        // Asked by the way, before the first question to a model of Ollama.
        if line == "POST /api/show" {
            window.1.send_modify(|asked| *asked += 1);
            let mut at_once = window.0.subscribe();
            drop(at_once.wait_for(|at_once| *at_once).await);
            let says = library.lock().expect("nobody panics with it").says.clone();
            let shown = with(&says, json!({"model_info": {"m.context_length": 4096}}));
            whole(out, 200, &[], &shown.to_string()).await?;
            continue;
        }
        let model = question.body["model"].as_str().map(str::to_owned);
        let told = last_message(&question.body);
        let described = descriptions(&question.body);
        let keeps = question.body["keep_alive"] != json!("0s");
        tell.send_modify(|all| all.push(question));
        let path = line.split(' ').nth(1).unwrap_or_default();
        if path == "/api/generate" {
            if !hold(out, library, &model.unwrap_or_default(), keeps).await? {
                return Ok(());
            }
            continue;
        }
        let (has, loaded, says) = {
            let library = library.lock().expect("nobody panics with it");
            let (has, says) = (library.has.clone(), library.says.clone());
            (has, library.loaded.clone(), says)
        };
        let fixed = match path {
            "/api/version" => Some(json!({"version": "0.9.0"})),
            "/api/tags" => Some(json!({
                "models": has.iter().map(|name| with(&says, json!({"name": name, "size": 1}))).collect::<Vec<_>>()
            })),
            "/api/ps" => Some(json!({
                "models": loaded.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()
            })),
            "/v1/models" => Some(json!({
                "object": "list",
                "data": has.iter().map(|name| with(&says, json!({"id": name, "object": "model"}))).collect::<Vec<_>>()
            })),
            _ => None,
        };
        if let Some(body) = fixed {
            let check = checks.lock().expect("nobody panics with it").clone();
            match check {
                Check::Good => whole(out, 200, &[], &body.to_string()).await?,
                Check::Status(status, body) => whole(out, status, &[], &body).await?,
                Check::Silence => return silence(out).await,
            }
            continue;
        }
        let wire = match path {
            "/api/chat" => Wire::Ollama,
            "/v1/chat/completions" => Wire::OpenAi,
            "/api/pull" => Wire::Pull,
            _ => {
                whole(out, 404, &[], "{}").await?;
                continue;
            }
        };
        let answer = match wire {
            Wire::Ollama | Wire::OpenAi => script
                .lock()
                .expect("nobody panics with it")
                .pop_front()
                .unwrap_or_else(|| Answer::says(&["Hello", " world"])),
            Wire::Pull => library
                .lock()
                .expect("nobody panics with it")
                .pulls
                .pop_front()
                .unwrap_or_else(|| Answer::says(&["pulling"])),
        };
        match answer {
            Answer::Status(status, headers, body) => whole(out, status, &headers, &body).await?,
            Answer::Says(pieces) => {
                begin(out, wire).await?;
                for piece in pieces {
                    chunk(out, &wire.piece(&piece)).await?;
                }
                finish(out, wire).await?;
            }
            Answer::Calls(text, calls) => {
                begin(out, wire).await?;
                chunk(out, &wire.calls(&text, &calls)).await?;
                finish(out, wire).await?;
            }
            Answer::CallsAndBreaksOff(calls) => {
                begin(out, wire).await?;
                chunk(out, &wire.calls("", &calls)).await?;
                return Ok(());
            }
            obeying @ (Answer::Obeys | Answer::ObeysTools) => {
                let orders = match obeying {
                    Answer::ObeysTools => &described,
                    _ => &told,
                };
                let calls: Vec<_> = orders.lines().filter_map(order).collect();
                begin(out, wire).await?;
                if calls.is_empty() {
                    chunk(out, &wire.piece("I did all that I was told.")).await?;
                } else {
                    chunk(out, &wire.calls("", &calls)).await?;
                }
                finish(out, wire).await?;
            }
            Answer::Steps(steps) => {
                if !walk(out, wire, steps).await? {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// An object with these fields besides its own, or in their place.
fn with(fields: &Value, mut object: Value) -> Value {
    if let (Some(object), Some(fields)) = (object.as_object_mut(), fields.as_object()) {
        object.extend(fields.clone());
    }
    object
}

/// The words of the last message of a question.
fn last_message(body: &Value) -> String {
    let messages = body["messages"].as_array();
    let last = messages.and_then(|messages| messages.last());
    match last.map(|message| &message["content"]) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// What the tools of a question are said to be, one in each line.
fn descriptions(body: &Value) -> String {
    let tools = body["tools"].as_array().into_iter().flatten();
    let described = tools.filter_map(|tool| tool["function"]["description"].as_str());
    described.collect::<Vec<_>>().join("\n")
}

/// The call that a line orders.
fn order(line: &str) -> Option<(String, Value)> {
    let (_, order) = line.split_once("CALL ")?;
    let (name, arguments) = order.split_once(' ')?;
    // Whatever follows the arguments is talk.
    let mut values = serde_json::Deserializer::from_str(arguments).into_iter::<Value>();
    Some((name.to_owned(), values.next()?.ok()?))
}

/// Loads or unloads a model; says whether the connection is still of use.
async fn hold(
    out: &mut TcpStream,
    library: &Mutex<Library>,
    model: &str,
    keeps: bool,
) -> io::Result<bool> {
    let (answer, known) = {
        let mut library = library.lock().expect("nobody panics with it");
        let known = library.has.iter().any(|name| name == model);
        (library.loads.pop_front(), known)
    };
    match answer {
        Some(Answer::Status(status, headers, body)) => {
            return whole(out, status, &headers, &body).await.map(|()| true);
        }
        Some(Answer::Steps(mut steps)) => match steps.recv().await {
            Some(Step::Cut) => return Ok(false),
            Some(_) => {}
            None => return silence(out).await.map(|()| false),
        },
        Some(
            Answer::Says(_)
            | Answer::Calls(..)
            | Answer::CallsAndBreaksOff(_)
            | Answer::Obeys
            | Answer::ObeysTools,
        )
        | None => {}
    }
    if !known {
        let said = json!({"error": format!("model '{model}' not found")});
        whole(out, 404, &[], &said.to_string()).await?;
        return Ok(true);
    }
    let reason = {
        let mut library = library.lock().expect("nobody panics with it");
        if keeps {
            library.loaded.insert(model.to_owned());
            "load"
        } else {
            library.loaded.remove(model);
            "unload"
        }
    };
    let said = json!({"model": model, "response": "", "done": true, "done_reason": reason});
    whole(out, 200, &[], &said.to_string()).await.map(|()| true)
}

/// Does the steps; says whether the connection is still of use.
async fn walk(
    out: &mut TcpStream,
    wire: Wire,
    mut steps: mpsc::Receiver<Step>,
) -> io::Result<bool> {
    begin(out, wire).await?;
    loop {
        match steps.recv().await {
            Some(Step::Piece(text)) => chunk(out, &wire.piece(&text)).await?,
            Some(Step::Raw(text)) => chunk(out, &text).await?,
            Some(Step::End) => return finish(out, wire).await.map(|()| true),
            Some(Step::Cut) => return Ok(false),
            None => return silence(out).await.map(|()| false),
        }
    }
}

/// Silent, with the connection open, until the other side gives up.
pub(crate) async fn silence(out: &mut TcpStream) -> io::Result<()> {
    let mut byte = [0];
    out.read(&mut byte).await.map(|_| ())
}

#[derive(Debug, Clone, Copy)]
enum Wire {
    Ollama,
    OpenAi,
    Pull,
}

impl Wire {
    fn piece(self, text: &str) -> String {
        match self {
            Self::Ollama => format!(
                "{}\n",
                json!({"model": "m", "message": {"role": "assistant", "content": text}, "done": false})
            ),
            Self::Pull => format!("{}\n", json!({"status": text})),
            Self::OpenAi => format!(
                "data: {}\n\n",
                json!({"object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": {"content": text}}]})
            ),
        }
    }

    fn calls(self, text: &str, calls: &[(String, Value)]) -> String {
        match self {
            Self::Ollama | Self::Pull => {
                let calls: Vec<Value> = calls
                    .iter()
                    .map(|(name, arguments)| json!({"function": {"name": name, "arguments": arguments}}))
                    .collect();
                let message = json!({"role": "assistant", "content": text, "tool_calls": calls});
                format!(
                    "{}\n",
                    json!({"model": "m", "message": message, "done": false})
                )
            }
            Self::OpenAi => {
                let calls: Vec<Value> = calls
                    .iter()
                    .enumerate()
                    .map(|(index, (name, arguments))| {
                        let function = json!({"name": name, "arguments": arguments.to_string()});
                        json!({"index": index, "id": format!("call_{index}"), "type": "function", "function": function})
                    })
                    .collect();
                let delta = json!({"content": text, "tool_calls": calls});
                let chunk = json!({"object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": delta}]});
                format!("data: {chunk}\n\n")
            }
        }
    }

    fn end(self) -> String {
        match self {
            Self::Ollama => {
                let counts =
                    json!({"prompt_eval_count": 3, "eval_count": 2, "done_reason": "stop"});
                let last = json!({"model": "m", "message": {"role": "assistant", "content": ""}, "done": true});
                format!("{}\n", with(&counts, last))
            }
            Self::Pull => self.piece("success"),
            Self::OpenAi => {
                let stop = json!({"object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
                let counts = json!({"object": "chat.completion.chunk", "model": "m", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}});
                format!("data: {stop}\n\ndata: {counts}\n\ndata: [DONE]\n\n")
            }
        }
    }
}

pub(crate) async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Question>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let (mut headers, mut length) = (Vec::new(), 0);
    loop {
        let mut header = String::new();
        if stream.read_line(&mut header).await? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        headers.push(header.trim().to_owned());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let line = line.split(" HTTP").next().unwrap_or_default().to_owned();
    Ok(Some(Question {
        line,
        headers,
        body,
    }))
}

pub(crate) async fn whole(
    out: &mut TcpStream,
    status: u16,
    headers: &[(&str, String)],
    body: &str,
) -> io::Result<()> {
    let more: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let head = format!(
        "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{more}\r\n",
        body.len()
    );
    out.write_all(format!("{head}{body}").as_bytes()).await
}

async fn begin(out: &mut TcpStream, wire: Wire) -> io::Result<()> {
    let kind = match wire {
        Wire::Ollama | Wire::Pull => "application/x-ndjson",
        Wire::OpenAi => "text/event-stream",
    };
    out.write_all(
        format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n")
            .as_bytes(),
    )
    .await
}

pub(crate) async fn chunk(out: &mut TcpStream, text: &str) -> io::Result<()> {
    out.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
        .await
}

async fn finish(out: &mut TcpStream, wire: Wire) -> io::Result<()> {
    chunk(out, &wire.end()).await?;
    out.write_all(b"0\r\n\r\n").await
}
