//! What the tests say to pawd again and again.

use crate::{Asking, Pawd, within};
use jsonrpsee::{
    async_client::Client,
    core::client::{Error as CallError, Subscription},
};
use paw_api::{
    ErrorKind,
    action::{Action, ActionRpcClient, Answer, Approval, ApprovalRpcClient},
    error::ErrorData,
    events::{EventItem, EventsRpcClient},
    provider::{ChatEvent, ChatResult, ToolCalled},
};
use paw_policy::{Digest, State};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// The members of an object.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        other => panic!("{other} is no object"),
    }
}

/// The data of an error of ours.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub fn data(error: &CallError) -> ErrorData {
    match error {
        CallError::Call(error) => {
            let data = error.data().unwrap_or_else(|| panic!("no data in {error}"));
            serde_json::from_str(data.get()).unwrap_or_else(|fault| panic!("{fault} in {error}"))
        }
        other => panic!("not an answer of pawd: {other}"),
    }
}

/// Expects a refusal of this kind that says what to do, and gives what it says.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub fn refused<T: std::fmt::Debug>(result: Result<T, CallError>, kind: ErrorKind) -> ErrorData {
    let error = result.expect_err("it is refused");
    let data = data(&error);
    assert_eq!(data.kind, kind, "{error}");
    assert!(!data.hint.is_empty(), "no hint in {error}");
    data
}

/// Starts a turn of a conversation.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub async fn say(client: &Client, text: &str) -> Subscription<ChatEvent> {
    let begun = Asking::new(text).ask(client);
    within("beginning a chat", begun)
        .await
        .expect("the chat is accepted")
}

/// The next thing that is told, by a chat or other work that takes long.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub async fn next<T: DeserializeOwned>(told: &mut Subscription<T>) -> T {
    within("the next piece", told.next())
        .await
        .expect("it goes on")
        .expect("it can be read")
}

/// Everything that a chat says, to its end.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub async fn rest(chat: &mut Subscription<ChatEvent>) -> Vec<ChatEvent> {
    let mut events = Vec::new();
    loop {
        let event = next(chat).await;
        let last = matches!(event, ChatEvent::Done(_) | ChatEvent::Failed { .. });
        events.push(event);
        if last {
            return events;
        }
    }
}

/// What a chat that was done ended with.
///
/// # Panics
/// If it ended otherwise.
#[must_use]
pub fn done(events: &[ChatEvent]) -> &ChatResult {
    match events.last() {
        Some(ChatEvent::Done(result)) => result,
        other => panic!("the chat ended with {other:?}"),
    }
}

/// Who was tried for an answer, and how that ended.
#[must_use]
pub fn tried(action: &Action) -> Vec<(&str, &str)> {
    let attempts = action.attempts.iter();
    attempts
        .map(|it| (it.provider.as_str(), it.outcome.as_str()))
        .collect()
}

/// No model's answer is the result of an action that failed: there is none, or pawd's own words where its time was over.
///
/// # Panics
/// If there is one.
pub fn has_no_answer(action: &Action) {
    let said = action.result.as_ref().map(|it| &it["provider"]);
    match action.state {
        State::TimedOut => assert_eq!(said, Some(&Value::from("pawd")), "{action:?}"),
        _ => assert_eq!(said, None, "{action:?}"),
    }
}

/// The next thing that is said of a tool in this state.
///
/// # Panics
/// If the chat ends before.
pub async fn tool(chat: &mut Subscription<ChatEvent>, state: &str) -> ToolCalled {
    loop {
        match next(chat).await {
            ChatEvent::Tool(called) if called.state == state => return called,
            ChatEvent::Done(_) | ChatEvent::Failed { .. } => panic!("it ended before any {state}"),
            _ => {}
        }
    }
}

/// The action of a chat that has just begun.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub async fn accepted(chat: &mut Subscription<ChatEvent>) -> String {
    match next(chat).await {
        ChatEvent::Accepted { action_id, .. } => action_id,
        other => panic!("{other:?} before the action was accepted"),
    }
}

/// Asks for a call of a tool of the skill `files`; gives the action once it is final or waits for a person.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub async fn call(client: &Client, tool: &str, arguments: Value) -> Action {
    let arguments = object(json!({"skill": "files", "tool": tool, "arguments": arguments}));
    let submitted = client.submit("tool_call".into(), arguments, None, None, Some(true), None);
    within("submitting a tool call", submitted)
        .await
        .expect("it is accepted")
}

/// Asks for a write of `text` to `path` and expects that a person has to answer.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub async fn ask_to_write(client: &Client, path: &str, text: &str) -> Action {
    let action = call(client, "write", json!({"path": path, "text": text})).await;
    assert_eq!(action.state, State::WaitingApproval, "{action:?}");
    action
}

/// Answers a question.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub async fn answer(
    client: &Client,
    id: &str,
    digest: Digest,
    answer: Answer,
) -> Result<Action, CallError> {
    let said = client.answer(id.into(), digest, answer, None, None, None, None);
    within("answering", said).await
}

/// The action once it is final.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub async fn finally(client: &Client, id: &str) -> Action {
    within("the end of an action", client.wait(id.into(), Some(15_000)))
        .await
        .expect("it becomes final")
}

/// The action as it is.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub async fn show(client: &Client, id: &str) -> Action {
    within(
        "showing an action",
        ActionRpcClient::show(client, id.into()),
    )
    .await
    .expect("it is there")
}

/// Writes a file into the workspace of the agent `default`, as a tool call would have.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub fn leave_in_workspace(pawd: &Pawd, name: &str, text: &str) {
    let workspace = pawd
        .launcher
        .as_ref()
        .expect("there is a launcher")
        .workspace("default");
    std::fs::create_dir_all(&workspace).expect("the root is ours");
    std::fs::write(workspace.join(name), text).expect("the root is ours");
}

/// Makes a directory in the workspace of an agent, as what runs there would: who runs the tests may be somebody else, and a write into what
/// is theirs would fail.
///
/// # Panics
/// When it cannot be made.
pub fn folder_in_workspace(pawd: &Pawd, agent: &str, name: &str) {
    let launcher = pawd.launcher.as_ref().expect("there is a launcher");
    let workspace = launcher.workspace(agent);
    std::fs::create_dir_all(workspace.join(name)).expect("the root is ours");
    pawd.root.give(&format!("launcher/workspaces/{agent}"));
    pawd.root
        .give(&format!("launcher/workspaces/{agent}/{name}"));
}

/// What a file in the workspace of the agent `default` says, if it is there.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub fn in_workspace(pawd: &Pawd, name: &str) -> Option<String> {
    let workspace = pawd
        .launcher
        .as_ref()
        .expect("there is a launcher")
        .workspace("default");
    std::fs::read_to_string(workspace.join(name)).ok()
}

/// The news of a pawd from its start on.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub async fn news(client: &Client) -> Subscription<EventItem> {
    within("subscribing", EventsRpcClient::watch(client, Some(0)))
        .await
        .expect("they are told")
}

/// The next question for a person.
///
/// # Panics
/// When it is otherwise; that is the failure of the test.
pub async fn question(client: &Client, news: &mut Subscription<EventItem>) -> Approval {
    loop {
        let item = within("news", news.next())
            .await
            .expect("they go on")
            .expect("they can be read");
        let EventItem::Event(event) = item else {
            panic!("the news were cut");
        };
        if event.event == "action.waiting_approval" {
            return ApprovalRpcClient::show(client, event.action.expect("it names its action"))
                .await
                .expect("it waits");
        }
    }
}
