//! Commands with a terminal: over RPC, and in the window that pawctl itself runs in. Walls are tested in `e2e`.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use harness::{Pawd, Setup, Window, within, words::refused};
use jsonrpsee::{
    async_client::Client,
    core::{
        client::{ClientT as _, Error as CallError, Subscription},
        params::ObjectParams,
    },
};
use nix::sys::signal::Signal;
use paw_api::{
    ErrorKind,
    sandbox::{RunEvent, RunResult, RunSpec, SandboxRpcClient},
    trail::AuditRpcClient,
};
use serde_json::{Value, json};

fn spec(more: Value) -> RunSpec {
    let mut spec = json!({"argv": ["true"], "terminal": {"rows": 33, "cols": 111}});
    let all = spec.as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
    serde_json::from_value(spec).expect("every other member may be left out")
}

fn script(script: &str) -> RunSpec {
    spec(json!({"argv": ["sh", "-c", script], "stdin": true}))
}

/// A command that was begun.
struct Begun {
    action: String,
    sandbox: String,
    heard: Subscription<RunEvent>,
    shown: String,
}

async fn begin(client: &Client, spec: RunSpec) -> Begun {
    let begun = within("beginning a run", SandboxRpcClient::run(client, spec)).await;
    let mut heard = begun.expect("it is accepted");
    loop {
        match next(&mut heard).await {
            RunEvent::Started { action_id, id } => {
                return Begun {
                    action: action_id,
                    sandbox: id,
                    heard,
                    shown: String::new(),
                };
            }
            RunEvent::Waiting { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn next(heard: &mut Subscription<RunEvent>) -> RunEvent {
    within("the next event of a run", heard.next())
        .await
        .expect("it goes on")
        .expect("it can be read")
}

impl Begun {
    /// Waits until it has shown this.
    async fn until(&mut self, what: &str) {
        while !self.shown.contains(what) {
            match next(&mut self.heard).await {
                RunEvent::Stdout { data } => self.show(&data),
                other => panic!("{other:?} after {:?}", self.shown),
            }
        }
    }

    fn show(&mut self, data: &str) {
        let bytes = BASE64.decode(data).expect("base64");
        self.shown.push_str(&String::from_utf8_lossy(&bytes));
    }

    /// Everything that it showed, and how it ended.
    async fn end(mut self) -> (String, RunResult) {
        loop {
            match next(&mut self.heard).await {
                RunEvent::Stdout { data } => self.show(&data),
                RunEvent::Ended(result) => return (self.shown, *result),
                other => panic!("{other:?} after {:?}", self.shown),
            }
        }
    }

    async fn press(&self, client: &Client, keys: &[u8]) {
        let pressed = client.input(self.action.clone(), Some(BASE64.encode(keys)), None);
        within("input", pressed).await.expect("it is taken");
    }
}

async fn resize(client: &Client, id: &str, rows: Value, cols: Value) -> Result<bool, CallError> {
    let mut params = ObjectParams::new();
    params.insert("id", id).unwrap();
    params.insert("rows", rows).unwrap();
    params.insert("cols", cols).unwrap();
    within("resize", client.request("sandbox.resize", params)).await
}

#[tokio::test]
async fn command_has_a_terminal_of_the_size_that_was_asked_for() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let check = "test -t 0 && test -t 1 && test -t 2 && stty size && echo $TERM >&2; exit 7";
    let (shown, end) = begin(&client, script(check)).await.end().await;
    assert_eq!(
        (shown.as_str(), end.exit_code),
        ("33 111\r\nxterm\r\n", Some(7))
    );
    // What the environment says of it is what it is told.
    let own = spec(
        json!({"argv": ["sh", "-c", "echo $TERM"], "env": ["PATH=/usr/bin:/bin", "TERM=dumb"]}),
    );
    assert_eq!(begin(&client, own).await.end().await.0, "dumb\r\n");
    // Without one it has pipes, as ever.
    let mut pipes = script("test -t 0 || test -t 1 || echo \"pipes $TERM\"");
    pipes.terminal = None;
    assert_eq!(begin(&client, pipes).await.end().await.0, "pipes \n");
}

#[tokio::test]
async fn further_command_in_a_sandbox_has_a_terminal_of_its_own() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let command = "stty -echo; echo ready; read word; stty size; echo $word";
    let mut first = begin(&client, script(command)).await;
    first.until("ready\r\n").await;
    let mut second = script(command);
    second.sandbox = Some(first.sandbox.clone());
    let mut second = begin(&client, second).await;
    second.until("ready\r\n").await;
    // Each by its action: keys and sizes do not go to the other one.
    resize(&client, &second.action, json!(7), json!(8))
        .await
        .unwrap();
    second.press(&client, b"second\n").await;
    let (shown, _) = second.end().await;
    assert_eq!(shown, "ready\r\n7 8\r\nsecond\r\n");
    first.press(&client, b"first\n").await;
    let (shown, _) = first.end().await;
    assert_eq!(shown, "ready\r\n33 111\r\nfirst\r\n");
}

#[tokio::test]
async fn another_size_reaches_the_command_and_a_typed_interrupt_ends_it() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let waits = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done";
    let mut running = begin(&client, script(waits)).await;
    running.until("ready").await;
    resize(&client, &running.action, json!(50), json!(200))
        .await
        .unwrap();
    running.until("50 200\r\n").await;
    running.press(&client, &[3]).await;
    let (shown, end) = running.end().await;
    assert_eq!((end.exit_code, end.signal), (None, Some(2)), "{shown:?}");
}

#[tokio::test]
async fn size_that_is_none_and_terminal_that_is_none_are_refused() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    for (rows, cols) in [(0, 80), (24, 0), (24, 100_000), (u32::MAX, 1)] {
        let bad = spec(json!({"terminal": {"rows": rows, "cols": cols}}));
        let refusal = within("a run", SandboxRpcClient::run(&client, bad)).await;
        let refusal = refused(refusal.map(drop), ErrorKind::Invalid);
        assert_eq!(refusal.hint, "both are 1 to 65535");
    }
    for other in [json!({"detach": true}), json!({"lines": 3})] {
        let refusal = within("a run", SandboxRpcClient::run(&client, spec(other))).await;
        refused(refusal.map(drop), ErrorKind::Invalid);
    }
    // One with pipes has no size, whoever asks, before its end and after it.
    let mut pipes = script("echo ready; read word; echo $word");
    pipes.terminal = None;
    let mut pipes = begin(&client, pipes).await;
    pipes.until("ready").await;
    let action = pipes.action.clone();
    refused(
        resize(&client, &action, json!(24), json!(80)).await,
        ErrorKind::NotFound,
    );
    pipes.press(&client, b"word\n").await;
    assert_eq!(pipes.end().await.0, "ready\nword\n");
    refused(
        resize(&client, &action, json!(24), json!(80)).await,
        ErrorKind::NotFound,
    );

    let mut running = begin(&client, script("echo ready; read word; stty size")).await;
    running.until("ready").await;
    let action = running.action.clone();
    for (rows, cols) in [(json!(0), json!(80)), (json!(24), json!(100_000))] {
        refused(
            resize(&client, &action, rows, cols).await,
            ErrorKind::Invalid,
        );
    }
    for (rows, cols) in [
        (json!(-1), json!(80)),
        (json!("24"), json!(80)),
        (json!(2.5), json!(80)),
    ] {
        let error = resize(&client, &action, rows.clone(), cols)
            .await
            .unwrap_err();
        let CallError::Call(error) = error else {
            panic!("{error:?}");
        };
        assert_eq!(error.code(), -32602, "{rows}");
    }
    running.press(&client, b"\n").await;
    let (shown, _) = running.end().await;
    assert!(shown.ends_with("33 111\r\n"), "{shown:?}");
    refused(
        resize(&client, &action, json!(24), json!(80)).await,
        ErrorKind::NotFound,
    );
}

#[tokio::test]
async fn record_of_a_command_says_that_it_had_a_terminal() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let running = begin(&client, script("true")).await;
    let action = running.action.clone();
    running.end().await;
    let records = AuditRpcClient::list(&client, Some(action), None, None, None);
    let records = within("the records", records).await.unwrap();
    let said = records
        .iter()
        .filter(|record| record.to_string().contains("33 rows, 111 columns"));
    assert!(said.count() > 0, "{records:?}");
}

const RUN: [&str; 4] = ["sandbox", "run", "--tty", "--"];

fn window(pawd: &Pawd, script: &str) -> Window {
    pawd.pawctl_in_a_window((40, 132), &[&RUN[..], &["sh", "-c", script]].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn window_of_pawctl_is_the_commands_and_is_given_back() {
    let pawd = Pawd::start(Setup::new()).await;
    let mut window = window(&pawd, "stty size; read word; echo \"<$word>\"; exit 7");
    window.until("40 132\r\n");
    // No key is a signal of ours, or shown by our own terminal.
    assert!(!window.is_usual());
    window.press(b"wordx\x7fs\r");
    window.until("<words>");
    let ended = window.end();
    assert_eq!(ended.code(), Some(7));
    assert!(window.is_usual(), "it was not put back");
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_interrupt_is_the_commands_and_not_ours() {
    let pawd = Pawd::start(Setup::new()).await;
    let mut window = window(
        &pawd,
        "trap 'echo heard; exit 9' INT; echo ready; while :; do sleep 0.05; done",
    );
    window.until("ready");
    window.press(&[3]);
    window.until("heard");
    assert_eq!(window.end().code(), Some(9));
    assert!(window.is_usual());
}

#[tokio::test(flavor = "multi_thread")]
async fn resized_window_is_told_to_the_command() {
    let pawd = Pawd::start(Setup::new()).await;
    let mut window = window(
        &pawd,
        "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done",
    );
    window.until("ready");
    for (rows, cols) in [(50, 200), (10, 20)] {
        window.resize(rows, cols);
        window.until(&format!("{rows} {cols}\r\n"));
    }
    window.press(&[3]);
    assert_eq!(window.end().code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn window_is_given_back_when_pawctl_is_told_to_end() {
    let pawd = Pawd::start(Setup::new()).await;
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        let mut window = window(&pawd, "echo ready; sleep 600");
        window.until("ready");
        assert!(!window.is_usual());
        window.signal(signal);
        assert_eq!(window.end().code(), Some(130), "{signal}");
        assert!(window.is_usual(), "{signal}: it was not put back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn window_is_given_back_when_the_sandbox_is_killed_or_pawd_dies() {
    let pawd = Pawd::start(Setup::new()).await;
    let mut first = window(&pawd, "echo ready; sleep 600");
    first.until("ready");
    let client = pawd.client().await;
    let running = SandboxRpcClient::list(&client).await.unwrap();
    client.kill(running[0].id.clone()).await.unwrap();
    assert!(first.end().code().is_some_and(|code| code != 0));
    assert!(first.is_usual());

    let mut second = window(&pawd, "echo ready; sleep 600");
    second.until("ready");
    pawd.daemon.signal(Signal::SIGKILL);
    assert!(second.end().code().is_some_and(|code| code != 0));
    assert!(second.is_usual());
}

#[tokio::test(flavor = "multi_thread")]
async fn terminal_where_there_is_none_is_refused_with_a_sentence() {
    let pawd = Pawd::start(Setup::new()).await;
    for words in [
        &["run", "-t", "--", "true"][..],
        &["exec", "-t", "nowhere", "--", "true"],
    ] {
        let output = pawd.pawctl(&[&["sandbox"], words].concat()).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("stdout is not a terminal"), "{said}");
    }
}
