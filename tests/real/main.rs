//! A real model behind a real llama.cpp server, asked through the real pawd: what no scripted model can show.
//!
//! `PAW_REAL_MODEL` names a directory that `packaging/quickstart.d/fetch-model` has filled; without it each test says so.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    env,
    net::TcpListener as Port,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use harness::{
    Asking, Pawd, Root, Running, Setup, cases,
    report::{Case, run},
    within,
    words::rest,
};
use jsonrpsee::async_client::Client;
use paw_api::{
    agent::AgentRpcClient,
    model::{ModelRpcClient, SwitchEvent},
    provider::{ChatEvent, ChatResult},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::interval,
};

/// The model's file in the directory.
const MODEL: &str = "model/SmolLM2-135M-Instruct.Q4_1.gguf";

fn main() -> ExitCode {
    let cases: Vec<Case> = cases![
        without_a_model;
        real_model_answers_in_pieces_over_the_wire_of_openai,
        real_model_answers_in_pieces_over_the_wire_of_anthropic,
        chat_that_is_cancelled_frees_the_slot_of_the_server,
        switch_to_a_model_that_still_loads_waits_for_it,
    ];
    run(cases)
}

fn directory() -> Option<PathBuf> {
    env::var_os("PAW_REAL_MODEL").map(PathBuf::from)
}

fn without_a_model() -> Option<String> {
    let Some(directory) = directory() else {
        return Some("PAW_REAL_MODEL names no directory with a model; packaging/test --only real fetches one".into());
    };
    let missing = [Path::new("venv/bin/python3"), Path::new(MODEL)];
    let missing = missing.iter().find(|path| !directory.join(path).exists())?;
    Some(format!(
        "there is no {} in {}",
        missing.display(),
        directory.display()
    ))
}

/// The server, and where it is or will be.
struct Server {
    address: String,
    _process: Running,
    _root: Root,
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    let port = Port::bind("127.0.0.1:0").expect("there is a loopback");
    port.local_addr().expect("it is bound").port()
}

impl Server {
    /// Begins to start it; it listens before its model is loaded.
    fn begin(port: u16) -> Self {
        let directory = directory().expect("it was looked at before");
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/quickstart.d/llama-server.py");
        let root = Root::bare();
        let mut command = Command::new(directory.join("venv/bin/python3"));
        command
            .arg(script)
            .arg("--model")
            .arg(directory.join(MODEL))
            .args([
                "--alias",
                "m",
                "--port",
                &port.to_string(),
                "--address-file",
            ])
            .arg(root.path().join("address"));
        Self {
            address: format!("127.0.0.1:{port}"),
            _process: Running::start("llama-server", command),
            _root: root,
        }
    }

    /// Waits until it takes connections.
    async fn listens(&self) {
        let connected = async {
            // Another program's start is no event of ours: nothing tells of it but a connection.
            let mut again = interval(Duration::from_millis(20));
            while TcpStream::connect(&self.address).await.is_err() {
                again.tick().await;
            }
        };
        within("the server to listen", connected).await;
    }

    /// What it says of its one slot.
    async fn slot(&self) -> Value {
        let mut stream = TcpStream::connect(&self.address).await.expect("it listens");
        let request = format!(
            "GET /slots HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it reads");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .expect("it answers");
        let (_, body) = answer.split_once("\r\n\r\n").expect("it has a body");
        let from = body.find('[').expect("a list");
        let to = body.rfind(']').expect("its end");
        let slots: Value = serde_json::from_str(&body[from..=to]).expect("it is JSON");
        slots[0].clone()
    }
}

/// A pawd with the server as its provider.
async fn pawd(kind: &str, port: u16) -> (Pawd, Client) {
    let url = format!("http://127.0.0.1:{port}");
    let setup = Setup::new().provider("real", kind, &url, "");
    let root = setup.root();
    // A small model that says what is likeliest says the same each time.
    let agent = "[agent.default]\nskills = [\"files\"]\ntemperature = 0.0\n";
    root.write("etc/pawd.d/50-agent.toml", agent);
    let pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    (pawd, client)
}

async fn ask(client: &Client, text: &str) -> (ChatResult, usize) {
    let begun = Asking::new(text).ask(client);
    let mut chat = within("beginning a chat", begun)
        .await
        .expect("it is accepted");
    let events = rest(&mut chat).await;
    let pieces = events
        .iter()
        .filter(|it| matches!(it, ChatEvent::Delta { .. }))
        .count();
    match events.into_iter().last() {
        Some(ChatEvent::Done(done)) => (done, pieces),
        other => panic!("{other:?}"),
    }
}

async fn answers_in_pieces(kind: &str) {
    let port = free_port();
    // It waits for a model that is loading, so nobody else has to.
    let server = Server::begin(port);
    server.listens().await;
    let (_pawd, client) = pawd(kind, port).await;
    let (done, pieces) = ask(&client, "Say hello in one short sentence.").await;
    assert!(pieces > 2, "{pieces} pieces of {done:?}");
    assert!(
        !done.text.trim().is_empty() && done.provider == "real" && done.model == "m",
        "{done:?}"
    );
    let usage = &done.usage;
    let (Some(asked), Some(said)) = (usage.input_tokens, usage.output_tokens) else {
        panic!("not counted: {done:?}");
    };
    // Its instructions and the question are some forty tokens; each piece is about one.
    assert!((20..200).contains(&asked), "{done:?}");
    assert!(
        said as usize + 2 >= pieces && said <= 4_096,
        "{pieces} pieces of {done:?}"
    );
    assert_eq!(done.attempts.last().unwrap().outcome, "ok");
}

async fn real_model_answers_in_pieces_over_the_wire_of_openai() {
    answers_in_pieces("openai-compatible").await;
}

async fn real_model_answers_in_pieces_over_the_wire_of_anthropic() {
    answers_in_pieces("anthropic").await;
}

async fn chat_that_is_cancelled_frees_the_slot_of_the_server() {
    let port = free_port();
    let server = Server::begin(port);
    server.listens().await;
    let (_pawd, client) = pawd("openai-compatible", port).await;
    let text = "Write a very long story about a lighthouse, at least two thousand words.";
    let begun = Asking::new(text).ask(&client);
    let mut chat = within("beginning a chat", begun)
        .await
        .expect("it is accepted");
    let mut pieces = 0;
    while pieces < 3 {
        let event = within("a piece", chat.next())
            .await
            .expect("it goes on")
            .expect("it can be read");
        pieces += usize::from(matches!(event, ChatEvent::Delta { .. }));
    }
    assert_eq!(server.slot().await["is_processing"], Value::Bool(true));
    chat.unsubscribe().await.expect("pawd is there");
    // With its only slot taken, the server would answer nobody else before the end of the story.
    let (done, _) = ask(&client, "Say yes.").await;
    assert!(done.usage.output_tokens.is_some(), "{done:?}");
    assert_eq!(server.slot().await["is_processing"], Value::Bool(false));
}

async fn switch_to_a_model_that_still_loads_waits_for_it() {
    let port = free_port();
    let (_pawd, client) = pawd("openai-compatible", port).await;
    let server = Server::begin(port);
    server.listens().await;
    let agent = Some("default".to_owned());
    let switching = ModelRpcClient::switch(&client, Some("m".into()), None, agent, None, None);
    let mut events = within("beginning a switch", switching)
        .await
        .expect("it is accepted");
    let mut steps = Vec::new();
    loop {
        let event = within("news of the switch", events.next())
            .await
            .expect("it goes on");
        match event.expect("it can be read") {
            SwitchEvent::Progress { step, .. } => steps.push(step),
            SwitchEvent::Done(done) => {
                assert_eq!(done.now.model, "m");
                break;
            }
            SwitchEvent::Failed { message, .. } => panic!("{message}"),
            SwitchEvent::Waiting { action_id } => panic!("{action_id} waits for a person"),
        }
    }
    assert!(
        steps.iter().any(|step| step == "loading"),
        "it was loaded already: {steps:?}"
    );
    let shown = AgentRpcClient::show(&client, "default".into())
        .await
        .expect("it is there");
    assert!(shown.switched);
    let (done, _) = ask(&client, "Say yes.").await;
    assert_eq!((done.provider.as_str(), done.model.as_str()), ("real", "m"));
}
