//! Rates: how often pawd may be called, and agents may act, in a minute.

use harness::{
    Answer as Says, Asking, Model, Pawd, Setup, within,
    words::{call, data, finally, object, refused, rest, say},
};
use jsonrpsee::async_client::Client;
use paw_api::{
    ErrorKind,
    action::{ActionRpcClient, ApprovalRpcClient},
    error::ErrorData,
    provider::ChatEvent,
    system::SystemRpcClient as _,
};
use paw_policy::State;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep_until};

async fn start(lines: &str) -> (Model, Pawd, Client) {
    let model = Model::start().await;
    let other = "\n[agent.other]\nskills = []\n";
    let setup = Setup::new().ollama(&model).with(other).with(lines);
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    (model, pawd, client)
}

/// A refusal that names this rate, and says when to ask again: within a half minute, since two a minute may come.
fn used_up(data: &ErrorData, rate: &str) {
    assert!(data.hint.contains(&format!("[rate.{rate}]")), "{data:?}");
    let again = data.retry_after_ms.expect("when to ask again");
    assert!((20_000..=30_000).contains(&again), "{again}");
}

/// A chat of this agent that is refused.
async fn no_chat(client: &Client, agent: &str) -> ErrorData {
    let agent = Some(agent.into());
    let asked = Asking::new("hello").agent(agent).ask(client);
    let answer = within("a chat too many", asked).await.map(|_| ());
    refused(answer, ErrorKind::Busy)
}

#[tokio::test]
async fn calls_of_a_method_are_bounded_and_others_go_on() {
    let lines = "\n[rate.chats]\nmethod = \"chat.send\"\neach = [\"user\"]\ncalls_per_minute = 2\n";
    let (model, _pawd, client) = start(lines).await;
    for _ in 0..2 {
        rest(&mut say(&client, "hello").await).await;
    }
    used_up(&no_chat(&client, "default").await, "chats");
    assert_eq!(model.questions(), 2);
    for _ in 0..5 {
        within("status", client.status()).await.unwrap();
    }
    let listed = call(&client, "list", json!({"path": "."})).await;
    assert_eq!(listed.state, State::Completed);
}

#[tokio::test]
async fn calls_of_a_user_are_bounded_over_all_methods() {
    let uid = nix::unistd::getuid();
    let lines = format!(
        "\n[rate.one]\nuser = \"{uid}\"\ncalls_per_minute = 2\n[rate.else]\nuser = \"60123\"\ncalls_per_minute = 1\n"
    );
    let (_model, pawd, client) = start(&lines).await;
    within("status", client.status()).await.unwrap();
    let listed = within("listing", ActionRpcClient::list(&client, None, None, None)).await;
    listed.unwrap();
    let refusal = refused(within("status", client.status()).await, ErrorKind::Busy);
    used_up(&refusal, "one");
    // Another connection is the same user's.
    let again = pawd.client().await;
    let refusal = refused(within("status", again.status()).await, ErrorKind::Busy);
    used_up(&refusal, "one");
}

#[tokio::test]
async fn actions_of_an_agent_are_bounded_however_they_are_asked_for() {
    let lines = "\n[rate.acts]\nagent = \"default\"\nactions_per_minute = 2\n";
    let (model, _pawd, client) = start(lines).await;
    model.will(Says::calls(&[
        ("files__list", json!({"path": "."})),
        ("files__list", json!({"path": "sub"})),
    ]));
    model.will(Says::says(&["done"]));
    // The chat is one, and one of the calls that its model makes; the other is refused, and the model told.
    let events = rest(&mut say(&client, "list them").await).await;
    let Some(ChatEvent::Done(_)) = events.last() else {
        panic!("{events:?}");
    };
    let asked = model.asked();
    let told = asked.last().unwrap().body["messages"].to_string();
    assert!(told.contains("rate acts of 2 actions a minute"), "{told}");
    used_up(&no_chat(&client, "default").await, "acts");
    let arguments = object(json!({"text": "hello"}));
    let left = client.submit(
        "chat".into(),
        arguments,
        Some("other".into()),
        None,
        None,
        None,
    );
    let left = within("an action of another agent", left).await.unwrap();
    assert_eq!(finally(&client, &left.id).await.state, State::Completed);
}

#[tokio::test]
async fn actions_of_each_agent_and_user_are_counted_alone() {
    let lines = "\n[rate.each]\neach = [\"agent\", \"user\"]\nactions_per_minute = 2\n";
    let (_model, _pawd, client) = start(lines).await;
    for _ in 0..2 {
        rest(&mut say(&client, "hello").await).await;
    }
    used_up(&no_chat(&client, "default").await, "each");
    let agent = Some("other".into());
    let sent = Asking::new("hello").agent(agent).ask(&client);
    let mut chat = within("beginning a chat", sent).await.unwrap();
    assert!(matches!(
        rest(&mut chat).await.last(),
        Some(ChatEvent::Done(_))
    ));
}

/// The rate of questions as it ships.
fn shipped() -> String {
    let file = include_str!("../../packaging/etc/pawd.toml");
    let from = file.find("[rate.questions]").expect("it ships");
    let section = file[from..].split("\n\n").next();
    format!("\n{}\n", section.expect("it has an end"))
}

/// Nobody is made to say yes faster than they can read: of twenty questions at once ten are asked, and the others told when to come again.
#[tokio::test]
async fn o1_eleventh_question_of_a_minute_is_refused_and_told_when_to_come_again() {
    let (model, _pawd, client) = start(&shipped()).await;
    for number in 0..20 {
        let arguments = json!({"path": format!("{number}.txt"), "text": "x"});
        let asked = object(json!({"skill": "files", "tool": "write", "arguments": arguments}));
        let asked = client.submit("tool_call".into(), asked, None, None, Some(true), None);
        let asked = within("asking", asked).await;
        if number < 10 {
            assert_eq!(asked.unwrap().state, State::WaitingApproval, "{number}");
            continue;
        }
        let told = refused(asked.map(drop), ErrorKind::Busy);
        assert!(told.hint.contains("[rate.questions]"), "{told:?}");
        let again = told.retry_after_ms.expect("when to ask again");
        assert!((1..=6_000).contains(&again), "{again}");
    }
    let waiting = within("listing", ApprovalRpcClient::list(&client, None, None)).await;
    assert_eq!(waiting.unwrap().len(), 10);
    // What nobody is asked about goes on, and a model is told why its call came to nothing.
    let listed = call(&client, "list", json!({"path": "."})).await;
    assert_eq!(listed.state, State::Completed);
    let write = json!({"path": "of-a-model.txt", "text": "x"});
    model.will(Says::calls(&[("files__write", write)]));
    model.will(Says::says(&["I was told to wait."]));
    rest(&mut say(&client, "write it").await).await;
    let asked = model.asked();
    let told = asked.last().unwrap().body["messages"].to_string();
    assert!(
        told.contains("rate questions of 10 questions a minute"),
        "{told}"
    );
}

/// Who comes back when they were told to is not refused again.
#[tokio::test]
async fn time_that_a_refusal_tells_is_enough() {
    // Ten in a second, and as many at once as in a minute.
    let lines = "\n[rate.fast]\nmethod = \"system.ping\"\ncalls_per_minute = 600\n";
    let (_model, _pawd, client) = start(lines).await;
    let (mut calls, mut refusals) = (0, 0);
    while refusals < 3 {
        calls += 1;
        let Err(error) = within("a ping", client.ping()).await else {
            continue;
        };
        refusals += 1;
        let told = data(&error).retry_after_ms.unwrap();
        assert!((1..=100).contains(&told), "{told}");
        sleep_until(Instant::now() + Duration::from_millis(told)).await;
        calls += 1;
        within("a ping", client.ping()).await.unwrap();
    }
    assert!(calls > 600, "{calls}");
}
