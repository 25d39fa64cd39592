//! Changes of who answers and of what is registered are actions: judged, asked for where policy says so, done once, and on record; by
//! whichever way somebody asks for them. [`methods`] has all the ways.

mod methods;

use harness::{
    ANSWERS_ALL, Answer as Says, Model, Pawd, Setup, within,
    words::{answer, data, finally, object, refused, rest, say, show},
};
use jsonrpsee::{
    async_client::Client,
    core::client::{Error as CallError, Subscription},
};
use paw_api::{
    ErrorKind,
    action::{Action, ActionRpcClient, Answer, ApprovalRpcClient},
    agent::{Agent, AgentRpcClient},
    error::ErrorData,
    model::{ModelRpcClient, ModelSwitched, SwitchEvent},
    provider::{Provider, ProviderRpcClient, ProviderSpec},
    trail::AuditRpcClient,
};
use paw_policy::{Decision, Kind, Operation, Risk, State, rules::DEFAULT};
use serde_json::{Value, json};

/// What the shipped policy says to do where two shall agree, taken from its comment.
fn two_agree() -> String {
    let rule = |line: &&str| line.starts_with("//   ");
    let lines = DEFAULT.lines().skip_while(|line| !rule(line));
    lines
        .take_while(rule)
        .map(|line| format!("{}\n", line.trim_start_matches("//   ")))
        .collect()
}

/// A pawd with a model of Ollama as provider `local` in its file, and with this rule beside those that ship.
async fn pawd(rule: &str) -> (Model, Pawd, Client) {
    let model = Model::start().await;
    model.has(&["m", "other", "third"]);
    let setup = Setup::new().ollama(&model);
    let root = setup.root();
    root.write("etc/policy/60-configuration.cedar", rule);
    root.write("etc/policy/61-critical.cedar", ANSWERS_ALL);
    let pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    (model, pawd, client)
}

async fn submit(client: &Client, kind: &str, arguments: Value) -> Action {
    asked(client, kind, arguments).await.unwrap()
}

async fn asked(client: &Client, kind: &str, arguments: Value) -> Result<Action, CallError> {
    let asked = client.submit(
        kind.into(),
        object(arguments),
        None,
        None,
        Some(true),
        Some(15_000),
    );
    within("asking for a change", asked).await
}

fn to(model: &str) -> Value {
    json!({"agent": "default", "model": model})
}

async fn begin(client: &Client, model: &str) -> Subscription<SwitchEvent> {
    let (model, agent) = (Some(model.to_owned()), Some("default".to_owned()));
    let begun = ModelRpcClient::switch(client, model, None, agent, None, None);
    within("beginning a switch", begun).await.unwrap()
}

/// The action that a switch waits for.
async fn waits(events: &mut Subscription<SwitchEvent>) -> String {
    let event = within("the first piece of news", events.next()).await;
    match event.unwrap().unwrap() {
        SwitchEvent::Waiting { action_id } => action_id,
        other => panic!("{other:?}"),
    }
}

async fn end(events: &mut Subscription<SwitchEvent>) -> Result<ModelSwitched, (String, ErrorData)> {
    loop {
        let event = within("the next piece of news", events.next()).await;
        match event.expect("it has an end").unwrap() {
            SwitchEvent::Waiting { .. } | SwitchEvent::Progress { .. } => {}
            SwitchEvent::Done(done) => return Ok(done),
            SwitchEvent::Failed { message, error } => return Err((message, error)),
        }
    }
}

async fn approve(client: &Client, id: &str) -> Action {
    let digest = show(client, id).await.digest;
    answer(client, id, digest, Answer::Approve).await.unwrap();
    finally(client, id).await
}

async fn agent(client: &Client) -> Agent {
    AgentRpcClient::show(client, "default".into())
        .await
        .unwrap()
}

async fn provider(client: &Client, name: &str) -> Option<Provider> {
    let all = ProviderRpcClient::list(client).await.unwrap();
    all.into_iter().find(|it| it.name == name)
}

fn spec(url: &str) -> Value {
    json!({"kind": "openai", "base_url": url, "model": "m", "max_retries": 0})
}

fn typed(spec: Value) -> ProviderSpec {
    serde_json::from_value(spec).unwrap()
}

fn kept(pawd: &Pawd) -> String {
    std::fs::read_to_string(pawd.root.path().join("state/providers.toml")).unwrap_or_default()
}

async fn recorded(client: &Client, event: &str) -> Vec<Value> {
    let found = AuditRpcClient::list(client, None, Some(event.into()), None, None);
    within("the log", found).await.unwrap()
}

#[tokio::test]
async fn switch_is_an_action_that_is_judged_done_and_on_record() {
    let (_model, _pawd, client) = pawd("").await;
    let done = submit(&client, "model_switch", to("other")).await;
    assert_eq!(done.state, State::Completed, "{done:?}");
    assert_eq!(
        (done.kind, done.risk, done.verdict.decision),
        (Kind::ModelSwitch, Risk::Critical, Decision::Allow)
    );
    assert_eq!(done.verdict.rules, ["administrators-configure"]);
    let result = done.result.clone().unwrap();
    assert_eq!(
        (&result["model"], &result["was"]["model"]),
        (&json!("other"), &json!("m"))
    );
    assert_eq!(agent(&client).await.model, "other");
    let shown = show(&client, &done.id).await;
    assert_eq!(shown.plan.unwrap().digest().unwrap(), done.digest);
    let records = recorded(&client, "agent_changed").await;
    assert!(
        json!(records).to_string().contains(&done.id),
        "the record names its action: {records:?}"
    );

    // The method of its own is the same action.
    end(&mut begin(&client, "third").await).await.unwrap();
    let all = ActionRpcClient::list(&client, None, None, None)
        .await
        .unwrap();
    assert_eq!(all.items[0].kind, Kind::ModelSwitch);
    assert_eq!(all.items[0].state, State::Completed);
    // And so is the way back.
    let back = submit(&client, "model_switch", json!({"agent": "default"})).await;
    assert_eq!(back.state, State::Completed, "{back:?}");
    assert!(!agent(&client).await.switched);
}

#[tokio::test]
async fn where_two_shall_agree_a_switch_waits_and_is_done_once_somebody_approves_exactly_it() {
    let (_model, pawd, client) = pawd(&two_agree()).await;
    let mut events = begin(&client, "other").await;
    let id = waits(&mut events).await;
    assert!(!agent(&client).await.switched, "it is never done silently");
    let question = ApprovalRpcClient::show(&client, id.clone()).await.unwrap();
    let Operation::ModelSwitch(plan) = &question.plan.operation else {
        panic!("{question:?}");
    };
    assert_eq!(
        (plan.to.provider.as_str(), plan.to.model.as_str()),
        ("local", "other")
    );
    assert_eq!(plan.was.as_ref().unwrap().model, "m");
    assert!(plan.place.starts_with("http://127.0.0.1:"), "{plan:?}");
    let shown = pawd.pawctl(&["approval", "show", &id]).await;
    let shown = String::from_utf8(shown.stdout).unwrap();
    for word in [
        "model_switch",
        "critical",
        "agent default",
        "model local/other",
    ] {
        assert!(shown.contains(word), "{word:?} is not in {shown}");
    }
    assert_eq!(approve(&client, &id).await.state, State::Completed);
    assert_eq!(end(&mut events).await.unwrap().now.model, "other");
    assert!(agent(&client).await.switched);

    // A no is one, and who leaves takes the question back.
    let mut events = begin(&client, "third").await;
    let id = waits(&mut events).await;
    let digest = show(&client, &id).await.digest;
    answer(&client, &id, digest, Answer::Deny).await.unwrap();
    let (_, error) = end(&mut events).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    let mut events = begin(&client, "third").await;
    let id = waits(&mut events).await;
    events.unsubscribe().await.unwrap();
    assert_eq!(finally(&client, &id).await.state, State::Cancelled);
    assert_eq!(agent(&client).await.model, "other");
}

#[tokio::test]
async fn approval_of_a_change_is_for_what_held_when_it_was_asked_for() {
    let (model, _pawd, client) = pawd(&two_agree()).await;
    let other = submit(&client, "model_switch", to("other")).await;
    let third = submit(&client, "model_switch", to("third")).await;
    assert_eq!(approve(&client, &other.id).await.state, State::Completed);
    let late = approve(&client, &third.id).await;
    assert_eq!(
        (late.state, late.error.unwrap().kind.as_str()),
        (State::Failed, "conflict")
    );
    assert_eq!(agent(&client).await.model, "other");

    let add = json!({"change": "provider.add", "name": "mine", "spec": spec(&model.url())});
    let added = submit(&client, "config_change", add).await;
    assert_eq!(approve(&client, &added.id).await.state, State::Completed);
    let edit = |to: &str| json!({"change": "provider.edit", "name": "mine", "spec": {"model": to}});
    let one = submit(&client, "config_change", edit("other")).await;
    let two = submit(&client, "config_change", edit("third")).await;
    assert_eq!(approve(&client, &one.id).await.state, State::Completed);
    let late = approve(&client, &two.id).await;
    assert_eq!(
        (late.state, late.error.unwrap().kind.as_str()),
        (State::Failed, "conflict")
    );
    assert_eq!(provider(&client, "mine").await.unwrap().model, "other");
}

#[tokio::test]
async fn change_of_what_is_registered_says_all_of_it_and_is_done_once_approved() {
    let (model, pawd, client) = pawd(&two_agree()).await;
    // By the method of its own: nothing is done, and it is told what waits.
    let url = model.url();
    let added = client.add("mine".into(), typed(spec(&url))).await;
    let told = refused(added, ErrorKind::Conflict);
    let id = told.id.clone().expect("it names the action");
    assert!(told.hint.contains("pawctl approval show"), "{told:?}");
    assert_eq!(provider(&client, "mine").await, None);
    let question = ApprovalRpcClient::show(&client, id.clone()).await.unwrap();
    let Operation::ConfigChange(plan) = &question.plan.operation else {
        panic!("{question:?}");
    };
    assert!(
        plan.difference.contains(&format!("+ base_url {url}")),
        "{plan:?}"
    );
    assert_eq!((question.risk, plan.replaces), (Risk::Critical, None));
    let done = approve(&client, &id).await;
    assert_eq!(done.state, State::Completed, "{done:?}");
    assert_eq!(done.result.unwrap()["change"], json!("provider.add"));
    assert!(provider(&client, "mine").await.unwrap().registered);
    assert!(kept(&pawd).contains("mine"));
    let records = json!(recorded(&client, "provider_changed").await).to_string();
    assert!(records.contains(&id), "{records}");

    // The others are the same.
    for change in [
        json!({"change": "provider.default", "name": "local"}),
        json!({"change": "provider.remove", "name": "mine"}),
        json!({"change": "budget.set", "name": "all", "spec": {"per": "day", "tokens": 1_000_000}}),
        json!({"change": "budget.remove", "name": "all"}),
    ] {
        let asked = submit(&client, "config_change", change.clone()).await;
        assert_eq!(asked.state, State::WaitingApproval, "{change}");
        let done = approve(&client, &asked.id).await;
        assert_eq!(done.state, State::Completed, "{change}: {done:?}");
    }
    assert_eq!(provider(&client, "mine").await, None);
}

#[tokio::test]
async fn what_cannot_be_is_said_before_anybody_is_asked_and_is_not_kept() {
    let (model, pawd, client) = pawd(&two_agree()).await;
    let mut key = spec(&model.url());
    key["api_key_credential"] = json!("sk-this-is-a-key");
    for (kind, arguments, expected) in [
        (
            "config_change",
            json!({"change": "provider.add", "name": "mine", "spec": key}),
            ErrorKind::Conflict,
        ),
        (
            "config_change",
            json!({"change": "provider.remove", "name": "nobody"}),
            ErrorKind::NotFound,
        ),
        (
            "config_change",
            json!({"change": "provider.remove", "name": "local", "spec": {"model": "m"}}),
            ErrorKind::Denied,
        ),
        (
            "config_change",
            json!({"change": "roles.set", "name": "admin"}),
            ErrorKind::Denied,
        ),
        (
            "model_switch",
            json!({"agent": "nobody", "model": "other"}),
            ErrorKind::NotFound,
        ),
        ("model_switch", json!({}), ErrorKind::Invalid),
        (
            "model_switch",
            json!({"agent": "default", "model": "other", "risk": "low"}),
            ErrorKind::Denied,
        ),
        (
            "model_switch",
            json!({"agent": "default", "model": "other", "timeout_ms": 0}),
            ErrorKind::Invalid,
        ),
    ] {
        let text = arguments.to_string();
        let told = asked(&client, kind, arguments).await;
        let told = told.map_err(|error| data(&error).kind).unwrap_err();
        assert_eq!(told, expected, "{text}");
    }
    let all = ActionRpcClient::list(&client, None, None, None);
    assert_eq!(
        all.await.unwrap().items,
        [],
        "no record keeps what was said"
    );
    assert_eq!(kept(&pawd), "");
}

#[tokio::test]
async fn change_that_a_kill_interrupts_holds_in_full_or_not_at_all_and_is_not_done_again() {
    for (place, done) in [("Begun:1", false), ("Executed:1", true)] {
        let (_model, mut pawd, _) = pawd("").await;
        pawd.daemon.kill9().await;
        assert!(pawd.start_to_die(place).await, "{place}");
        let client = pawd.client().await;
        let asked = client.submit(
            "model_switch".into(),
            object(to("other")),
            None,
            None,
            Some(true),
            None,
        );
        let told = within("asking", asked).await;
        assert!(
            told.is_err(),
            "{place}: it dies before the end is told: {told:?}"
        );
        pawd.daemon.end().await;
        pawd.start_again().await;
        let client = pawd.client().await;
        let all = ActionRpcClient::list(&client, None, None, None);
        let all = all.await.unwrap().items;
        assert_eq!(all.len(), 1, "{place}: {all:?}");
        let ended = finally(&client, &all[0].id).await;
        assert_eq!(ended.state, State::Failed, "{place}: {ended:?}");
        assert_eq!(ended.error.unwrap().kind, "interrupted", "{place}");
        assert_eq!(agent(&client).await.switched, done, "{place}");
        assert_eq!(kept(&pawd).contains("other"), done, "{place}");
        assert_eq!(
            recorded(&client, "agent_changed").await.len(),
            usize::from(done),
            "{place}"
        );
    }
}

/// What a model says is the call of a tool, and no tool is one of these kinds: it cannot even be asked for.
#[tokio::test]
async fn model_cannot_ask_for_another_model_or_another_provider() {
    let (model, pawd, client) = pawd("").await;
    for (name, arguments) in [
        ("model_switch", to("other")),
        ("model.switch", to("other")),
        (
            "config_change",
            json!({"change": "provider.default", "name": "local"}),
        ),
        ("files__model_switch", to("other")),
    ] {
        model.will(Says::calls(&[(name, arguments)]));
        rest(&mut say(&client, "switch to the other model").await).await;
    }
    assert!(!agent(&client).await.switched);
    assert_eq!(kept(&pawd), "");
    let all = ActionRpcClient::list(&client, None, None, None);
    let kinds: Vec<Kind> = all.await.unwrap().items.iter().map(|it| it.kind).collect();
    assert!(
        kinds.iter().all(|kind| *kind == Kind::Chat),
        "nothing but chats: {kinds:?}"
    );
    let call = json!({"skill": "files", "tool": "model_switch", "arguments": to("other")});
    refused(asked(&client, "tool_call", call).await, ErrorKind::Denied);
}

#[tokio::test]
async fn kind_that_nobody_submits_is_refused_with_who_asks_for_it() {
    let (_model, _pawd, client) = pawd("").await;
    for (kind, who) in [
        ("api_call", "only a sandbox that was refused a host"),
        ("secret_use", "only a broker or a provider"),
    ] {
        let told = asked(&client, kind, json!({"name": "x"})).await;
        let message = format!("{told:?}");
        let hint = refused(told, ErrorKind::Denied).hint;
        assert!(message.contains(who), "{message}");
        assert!(
            hint.contains("pawctl") || hint.contains("by itself"),
            "{hint}"
        );
    }
}
