//! Whose turn it is when there are more actions than places.

use harness::{Answer as Says, Asking, Model, Pawd, Setup, Step, within};
use jsonrpsee::{async_client::Client, core::client::Subscription};
use paw_api::{
    ErrorKind,
    action::{Action, ActionRpcClient as _},
    provider::ChatEvent,
    system::SystemRpcClient as _,
};
use paw_policy::State;
use serde_json::json;
use tokio::sync::mpsc;

use harness::words::{accepted, call, finally, object, refused, rest, say, show};

/// Two agents without skills, so that a question is as long as its words.
const AGENTS: &str = "\n[agent.busy]\nskills = []\n[agent.other]\nskills = []\n";

/// A model, a pawd with these lines, and a client of it.
async fn start(lines: &str) -> (Model, Pawd, Client) {
    let model = Model::start().await;
    let setup = Setup::new().ollama(&model).with(AGENTS).with(lines);
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    (model, pawd, client)
}

/// Asks for a chat that nobody stays for.
async fn leave(client: &Client, agent: &str, text: &str) -> Action {
    let arguments = object(json!({"text": text}));
    let asked = client.submit(
        "chat".into(),
        arguments,
        Some(agent.into()),
        None,
        None,
        None,
    );
    within("leaving a chat", asked)
        .await
        .expect("it is accepted")
}

/// Asks for a chat and stays; it was accepted.
async fn stay(client: &Client, agent: &str, text: &str) -> Subscription<ChatEvent> {
    let agent = Some(agent.into());
    let begun = Asking::new(text).agent(agent).ask(client);
    let mut chat = within("beginning a chat", begun)
        .await
        .expect("the chat is accepted");
    accepted(&mut chat).await;
    chat
}

/// Lets the model be silent for the next question.
fn hold(model: &Model) -> mpsc::Sender<Step> {
    let (steps, silent) = Says::steps();
    model.will(silent);
    steps
}

/// What the model was asked, in order.
fn asked(model: &Model) -> Vec<String> {
    let all = model.asked().into_iter();
    let chats = all.filter(|it| it.line.contains("/chat"));
    let last = chats.filter_map(|it| {
        let said = it.body["messages"].as_array()?.last()?.clone();
        said["content"].as_str().map(str::to_owned)
    });
    last.collect()
}

/// How many stand in line, of those that somebody waits for or nobody does.
async fn in_line(client: &Client, class: &str) -> f64 {
    let line = format!("paw_actions_in_line{{class=\"{class}\"}} ");
    let text = client.metrics().await.unwrap().text;
    let found = text.lines().find_map(|it| it.strip_prefix(&line));
    let found = found.unwrap_or_else(|| panic!("no {line} in {text}"));
    found.parse().unwrap()
}

#[tokio::test]
async fn what_somebody_waits_for_is_first_and_the_rest_has_its_turn() {
    let (model, _pawd, client) = start("\n[actions]\nconcurrency = 1\n").await;
    let steps = hold(&model);
    let mut first = say(&client, "first").await;
    model.was_asked(1).await;
    let behind = leave(&client, "default", "background").await;
    assert_eq!(behind.state, State::Approved, "its id is told at once");
    let mut chats = Vec::new();
    for number in 1..=9 {
        chats.push(stay(&client, "default", &format!("chat {number}")).await);
    }
    let stand = (
        in_line(&client, "interactive").await,
        in_line(&client, "background").await,
    );
    assert_eq!(stand, (9.0, 1.0));
    steps.send(Step::End).await.unwrap();
    rest(&mut first).await;
    for chat in &mut chats {
        rest(chat).await;
    }
    assert_eq!(finally(&client, &behind.id).await.state, State::Completed);
    let order = asked(&model);
    let expected = [
        "first",
        "chat 1",
        "chat 2",
        "chat 3",
        "chat 4",
        "chat 5",
        "chat 6",
        "chat 7",
        "background",
        "chat 8",
        "chat 9",
    ];
    assert_eq!(order, expected);
}

#[tokio::test]
async fn what_nobody_waits_for_leaves_a_place_to_who_waits() {
    let (model, _pawd, client) =
        start("\n[actions]\nconcurrency = 4\n[actions.at_once]\nchat = 4\n").await;
    let holds: Vec<_> = (0..3).map(|_| hold(&model)).collect();
    let mut left = Vec::new();
    for number in 0..5 {
        left.push(leave(&client, "default", &format!("left {number}")).await);
    }
    model.was_asked(3).await;
    let events = rest(&mut say(&client, "hello").await).await;
    assert!(
        matches!(events.last(), Some(ChatEvent::Done(_))),
        "{events:?}"
    );
    assert_eq!(asked(&model).len(), 4, "three of four places, and one");
    for steps in &holds {
        steps.send(Step::End).await.unwrap();
    }
    for action in left {
        assert_eq!(finally(&client, &action.id).await.state, State::Completed);
    }
}

#[tokio::test]
async fn agent_that_floods_the_line_keeps_no_other_from_being_next() {
    let (model, _pawd, client) = start("\n[actions]\nconcurrency = 1\nqueue = 5\n").await;
    let steps = hold(&model);
    let mut first = say(&client, "first").await;
    model.was_asked(1).await;
    let mut chats = Vec::new();
    for number in 1..=5 {
        chats.push(stay(&client, "busy", &format!("busy {number}")).await);
    }
    let agent = Some("busy".into());
    let more = Asking::new("too much").agent(agent).ask(&client);
    let data = refused(
        within("a chat too many", more).await.map(|_| ()),
        ErrorKind::Busy,
    );
    assert!(data.retry_after_ms.is_some_and(|ms| ms > 0), "{data:?}");
    // The line is full, and yet the other agent has room in it, and the next turn.
    chats.push(stay(&client, "other", "other").await);
    steps.send(Step::End).await.unwrap();
    rest(&mut first).await;
    for chat in &mut chats {
        rest(chat).await;
    }
    let order = asked(&model);
    assert_eq!(order[..4], ["first", "busy 1", "other", "busy 2"]);
}

#[tokio::test]
async fn chats_that_wait_for_a_model_leave_places_for_tools() {
    let (model, _pawd, client) =
        start("\n[actions]\nconcurrency = 8\n[actions.at_once]\nchat = 1\n").await;
    let steps = hold(&model);
    let mut first = say(&client, "first").await;
    model.was_asked(1).await;
    let mut second = stay(&client, "default", "second").await;
    let listed = call(&client, "list", json!({"path": "."})).await;
    assert_eq!(listed.state, State::Completed);
    assert_eq!(asked(&model), ["first"], "one chat at once");
    steps.send(Step::End).await.unwrap();
    rest(&mut first).await;
    rest(&mut second).await;
    assert_eq!(asked(&model), ["first", "second"]);
}

#[tokio::test]
async fn tools_that_run_leave_places_for_chats() {
    let (_model, pawd, client) =
        start("\n[actions]\nconcurrency = 8\n[actions.at_once]\ntool_call = 1\n").await;
    let launcher = pawd.launcher.as_ref().unwrap();
    launcher.will_stop();
    let list = || async {
        let arguments = json!({"skill": "files", "tool": "list", "arguments": {"path": "."}});
        let asked = client.submit(
            "tool_call".into(),
            object(arguments),
            None,
            None,
            None,
            None,
        );
        within("asking for a tool", asked).await.unwrap()
    };
    let (stuck, behind) = (list().await, list().await);
    launcher.wait_for_running(1);
    let events = rest(&mut say(&client, "hello").await).await;
    assert!(
        matches!(events.last(), Some(ChatEvent::Done(_))),
        "{events:?}"
    );
    assert_eq!(show(&client, &behind.id).await.state, State::Approved);
    within("taking it back", client.cancel(stuck.id.clone()))
        .await
        .unwrap();
    assert_eq!(finally(&client, &behind.id).await.state, State::Completed);
}

/// What a chat asks for while somebody reads it is as urgent as the chat.
#[tokio::test]
async fn tool_of_a_chat_that_somebody_waits_for_is_before_what_nobody_waits_for() {
    let (model, _pawd, client) = start("\n[actions]\nconcurrency = 1\n").await;
    let steps = hold(&model);
    let mut chat = say(&client, "list it").await;
    model.was_asked(1).await;
    let arguments = json!({"skill": "files", "tool": "list", "arguments": {"path": "."}});
    let left = client.submit(
        "tool_call".into(),
        object(arguments),
        None,
        None,
        None,
        None,
    );
    let left = within("leaving a call", left).await.unwrap();
    let called = json!({"function": {"name": "files__list", "arguments": {"path": "."}}});
    let message = json!({"role": "assistant", "content": "", "tool_calls": [called]});
    let end = json!({"model": "m", "message": message, "done": true, "done_reason": "stop"});
    steps.send(Step::Raw(format!("{end}\n"))).await.unwrap();
    let events = rest(&mut chat).await;
    assert!(
        matches!(events.last(), Some(ChatEvent::Done(_))),
        "{events:?}"
    );
    let left = finally(&client, &left.id).await;
    let all = within("listing", client.list(None, None, None))
        .await
        .unwrap();
    let tool = all.items.iter().find(|it| it.parent.is_some()).unwrap();
    let began = |action: &Action| action.timestamps.started.unwrap();
    assert!(began(tool) < began(&left), "{tool:?} after {left:?}");
}

/// Whoever submits an action and goes may say how long it has, wherever it stands then.
#[tokio::test]
async fn action_ends_at_the_deadline_that_it_was_submitted_with_wherever_it_stands() {
    let (model, _pawd, client) = start("\n[actions]\nconcurrency = 1\n").await;
    let _held = hold(&model);
    let submit = async |kind: &str, arguments, agent: &str, timeout_ms| {
        let agent = Some(agent.to_owned());
        let asked = client.submit(
            kind.into(),
            object(arguments),
            agent,
            None,
            None,
            timeout_ms,
        );
        within("submitting", asked).await.unwrap()
    };
    let being_done = submit("chat", json!({"text": "one"}), "busy", Some(1_000)).await;
    within("the question", model.was_asked(1)).await;
    let in_line = submit("chat", json!({"text": "two"}), "busy", Some(300)).await;
    let after = submit("chat", json!({"text": "three"}), "busy", None).await;
    let write = json!({"skill": "files", "tool": "write", "arguments": {"path": "a", "text": "x"}});
    let asked_for = submit("tool_call", write, "default", Some(300)).await;
    assert_eq!(asked_for.state, State::WaitingApproval);
    model.will(Says::says(&["there"]));
    for (action, state, kind) in [
        (&in_line, State::TimedOut, "timed_out"),
        (&asked_for, State::Expired, "expired"),
        (&being_done, State::TimedOut, "timed_out"),
    ] {
        let ended = finally(&client, &action.id).await;
        assert_eq!(ended.state, state, "{ended:?}");
        assert_eq!(ended.error.unwrap().kind, kind);
    }
    let never = show(&client, &in_line.id).await;
    assert_eq!(never.timestamps.started, None, "it was never begun");
    let text = show(&client, &being_done.id)
        .await
        .result
        .unwrap()
        .to_string();
    assert!(text.contains("its time was over"), "{text}");
    assert_eq!(finally(&client, &after.id).await.state, State::Completed);
    assert_eq!(asked(&model), ["one", "three"]);
}
