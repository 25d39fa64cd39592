//! What pawd counts and times of itself: as programs collect it, bounded in what it names, and true.

use harness::{
    Asking, Model, Pawd, Setup, Trouble,
    openmetrics::Exposition,
    within,
    words::{accepted, answer, ask_to_write, call, finally, refused, rest, say},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    ErrorKind,
    action::{ActionRpcClient, Answer},
    provider::ChatEvent,
    system::{Metrics, SystemRpcClient},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// What is told now.
pub(crate) async fn told(client: &Client) -> Exposition {
    let told = within("reading the metrics", SystemRpcClient::metrics(client)).await;
    Exposition::read(&told.expect("it is told").text)
}

async fn ask(client: &Client, model: Option<&str>) -> Vec<ChatEvent> {
    let begun = Asking::new("hello")
        .model(model.map(str::to_owned))
        .ask(client);
    rest(&mut within("beginning a chat", begun).await.expect("accepted")).await
}

/// Everything that the manual lists. A name that is added or goes belongs there, too.
const NAMES: [&str; 32] = [
    "paw_action_queue_wait_seconds",
    "paw_action_run_seconds",
    "paw_actions",
    "paw_actions_in_line",
    "paw_actions_open",
    "paw_approval_wait_seconds",
    "paw_audit_append_seconds",
    "paw_audit_seq",
    "paw_audit_writable",
    "paw_bounded_limit",
    "paw_bounded_used",
    "paw_build",
    "paw_kept_answer_lookups",
    "paw_model_cache_lookups",
    "paw_process_resident_memory_bytes",
    "paw_provider_attempt_seconds",
    "paw_provider_attempts",
    "paw_provider_breaker",
    "paw_provider_cost_dollars",
    "paw_provider_first_token_seconds",
    "paw_provider_hedges",
    "paw_provider_retries",
    "paw_provider_state",
    "paw_provider_tokens",
    "paw_ready",
    "paw_rpc_call_seconds",
    "paw_rpc_errors",
    "paw_sandbox_create_seconds",
    "paw_sandbox_exec_seconds",
    "paw_sandboxes",
    "paw_store_size_bytes",
    "paw_uptime_seconds",
];

#[tokio::test]
async fn every_metric_is_told_as_openmetrics_and_is_in_the_manual() {
    let model = Model::start().await;
    let setup = Setup::new()
        .ollama(&model)
        .with("\n[route.main]\ntargets = [{ provider = \"local\" }]\ncache = {}\n")
        .with("\n[agent.talker]\ntemperature = 0.0\nroute = \"main\"\n");
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    // What is counted or timed is told once it has happened. Answers are kept of who has no tools.
    ask(&client, None).await;
    let begun = Asking::new("hello").agent("talker".to_owned()).ask(&client);
    rest(&mut within("beginning a chat", begun).await.expect("accepted")).await;
    let asked = ask_to_write(&client, "out.txt", "text").await;
    let denied = answer(&client, &asked.id, asked.digest, Answer::Deny).await;
    denied.expect("it is denied");
    refused(
        ActionRpcClient::show(&client, "nothing".into()).await,
        ErrorKind::Invalid,
    );
    let ran = pawd.pawctl(&["sandbox", "run", "--", "true"]).await;
    assert!(ran.status.success(), "{ran:?}");
    let told = told(&client).await;
    assert_eq!(told.names().collect::<Vec<_>>(), NAMES);
    let manual = include_str!("../../packaging/man/paw-metrics.7");
    for name in NAMES {
        let ending = match told.family(name).kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let entry = format!("\n.B {name}{ending}\n");
        assert!(manual.contains(&entry), "no entry of {name}{ending}");
    }
}

#[tokio::test]
async fn what_happened_is_counted_and_timed() {
    let model = Model::start().await;
    let price = "\n[price.\"local/m\"]\ninput = 1_000_000_000\noutput = 1_000_000_000\n";
    let setup = Setup::new()
        .ollama_with(&model, "max_retries = 1\n")
        .with(price);
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    let before = told(&client).await;
    model.will(harness::Answer::cut(&["half an"]));
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    rest(&mut chat).await;
    let action = finally(&client, &id).await;
    let after = told(&client).await;
    let more = |name: &str, labels: &[(&str, &str)]| {
        after.value(name, labels) - before.value(name, labels)
    };
    let local = ("provider", "local");
    let m = ("model", "m");
    for outcome in ["cut", "ok"] {
        let labels = [local, m, ("outcome", outcome)];
        assert_eq!(more("paw_provider_attempts", &labels), 1.0, "{outcome}");
        assert_eq!(more("paw_provider_attempt_seconds", &labels), 1.0);
    }
    assert_eq!(more("paw_provider_first_token_seconds", &[local, m]), 2.0);
    assert_eq!(more("paw_provider_retries", &[local, m]), 1.0);
    assert_eq!(more("paw_provider_hedges", &[]), 0.0);
    for (kind, tokens) in [
        ("input", action.attempts[1].usage.input_tokens),
        ("output", action.attempts[1].usage.output_tokens),
    ] {
        let counted = more("paw_provider_tokens", &[local, m, ("kind", kind)]);
        assert_eq!(Some(counted as u64), tokens, "{kind}");
    }
    let cost: f64 = action.attempts.iter().filter_map(|it| it.cost).sum();
    let counted = more("paw_provider_cost_dollars", &[local, m]);
    assert!(
        cost > 0.0 && (counted - cost).abs() < 1e-6,
        "{counted} of {cost}"
    );
    let chat = [("kind", "chat")];
    let done = [("kind", "chat"), ("state", "completed")];
    assert_eq!(more("paw_actions", &done), 1.0);
    assert_eq!(more("paw_action_queue_wait_seconds", &chat), 1.0);
    assert_eq!(more("paw_action_run_seconds", &chat), 1.0);
    assert_eq!(
        more("paw_rpc_call_seconds", &[("method", "chat.send")]),
        1.0
    );
    assert!(more("paw_audit_append_seconds", &[]) >= 2.0);
    assert_eq!(
        after.value("paw_provider_state", &[local, ("state", "ready")]),
        1.0
    );
    assert_eq!(after.value("paw_ready", &[]), 1.0);
    assert_eq!(
        after.value("paw_bounded_used", &[("of", "rpc_connections")]),
        1.0
    );
}

#[tokio::test]
async fn what_callers_name_is_in_no_label() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    for number in 0..20 {
        ask(&client, Some(&format!("secret-{number}"))).await;
    }
    let provider = Some("secret-provider".to_owned());
    let begun = Asking::new("hello").provider(provider).ask(&client);
    refused(begun.await.map(drop), ErrorKind::NotFound);
    let made_up = jsonrpsee::core::client::ClientT::request::<Value, _>(
        &client,
        "secret.method",
        jsonrpsee::core::params::ObjectParams::new(),
    );
    made_up.await.expect_err("there is none");
    let told = told(&client).await;
    let secret = told.label_values().find(|it| it.contains("secret"));
    assert_eq!(secret, None);
    let other = [("provider", "local"), ("model", "other"), ("outcome", "ok")];
    assert_eq!(told.value("paw_provider_attempts", &other), 20.0);
    let unknown = told.value("paw_rpc_errors", &[("error", "unknown_method")]);
    assert_eq!(unknown, 1.0);
}

#[tokio::test]
async fn questions_to_people_and_sandboxes_are_timed() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    call(&client, "list", json!({"path": "."})).await;
    let asked = ask_to_write(&client, "out.txt", "text").await;
    let denied = answer(&client, &asked.id, asked.digest, Answer::Deny).await;
    denied.expect("it is denied");
    let told = told(&client).await;
    assert!(told.value("paw_sandbox_create_seconds", &[("outcome", "ok")]) >= 1.0);
    assert_eq!(
        told.value("paw_approval_wait_seconds", &[("answer", "denied")]),
        1.0
    );
    let rejected = [("kind", "tool_call"), ("state", "rejected")];
    assert_eq!(told.value("paw_actions", &rejected), 1.0);
}

#[tokio::test]
async fn breaker_and_bounds_are_told_as_they_are() {
    let model = Model::start().await;
    let setup = Setup::new()
        .provider(
            "local",
            "openai",
            &format!("{}/v1", model.url()),
            "max_retries = 0\n",
        )
        .with("\n[actions]\nqueue = 7\n");
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    let state = |told: &Exposition, state: &str| {
        told.value(
            "paw_provider_breaker",
            &[("provider", "local"), ("model", "m"), ("state", state)],
        )
    };
    let before = told(&client).await;
    assert_eq!(state(&before, "closed"), 1.0);
    assert_eq!(
        before.value("paw_bounded_limit", &[("of", "actions_queued")]),
        7.0
    );
    let bounds = |name: &str| {
        before
            .family(name)
            .samples
            .iter()
            .map(|it| it.1.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(bounds("paw_bounded_used"), bounds("paw_bounded_limit"));
    for (_, labels, used) in &before.family("paw_bounded_used").samples {
        let labels: Vec<_> = labels
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let limit = before.value("paw_bounded_limit", &labels);
        assert!(*used <= limit, "{labels:?}: {used} of {limit}");
    }
    model.falls_into(Some(Trouble::Busy));
    ask(&client, None).await;
    let after = told(&client).await;
    assert_eq!(state(&after, "closed"), 0.0);
    assert_eq!(state(&after, "open") + state(&after, "half_open"), 1.0);
}

/// What comes back for this request.
async fn http(pawd: &Pawd, request: &str) -> String {
    let mut stream = UnixStream::connect(pawd.root.control())
        .await
        .expect("pawd listens");
    let request = format!("{request} HTTP/1.1\r\nHost: pawd\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it is read");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    within("an answer", read).await.expect("it can be read");
    answer
}

#[tokio::test]
async fn programs_collect_them_by_http_and_people_by_pawctl() {
    let pawd = Pawd::start(Setup::new()).await;
    let answer = http(&pawd, "GET /metrics").await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.to_lowercase().contains(kind), "{head}");
    assert_eq!(Exposition::read(body).value("paw_ready", &[]), 1.0);
    let refused = http(&pawd, "POST /metrics").await;
    assert!(refused.starts_with("HTTP/1.1 405 "), "{refused}");

    let out = pawd.pawctl(&["metrics"]).await;
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8(out.stdout).expect("it is text");
    assert_eq!(Exposition::read(&text).value("paw_ready", &[]), 1.0);
    let out = pawd.pawctl(&["metrics", "-o", "json"]).await;
    let json: Metrics = serde_json::from_slice(&out.stdout).expect("it is the result");
    assert!(
        json.content_type
            .starts_with("application/openmetrics-text")
    );
    assert!(json.text.ends_with("# EOF\n"));
}
