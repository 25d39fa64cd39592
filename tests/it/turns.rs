//! A model that calls tools by itself: what is done for it, what waits for a person, and how every turn comes to an end.

use std::collections::BTreeSet;

use harness::{
    Answer as Says, Asking, Model, Pawd, Setup, within,
    words::{
        accepted, answer, done, finally, in_workspace, leave_in_workspace, next, object, rest, say,
        show, tool,
    },
};
use jsonrpsee::{async_client::Client, core::client::Subscription};
use paw_api::{
    action::{Action, ActionRpcClient, Answer, ApprovalRpcClient},
    agent::{SessionRpcClient, Transcript},
    provider::{ChatEvent, ToolCalled},
};
use paw_policy::{Kind, State, Taint, TaintSet};
use serde_json::{Value, json};

/// Says yes or no to the next question of a chat, and gives the question.
async fn decide(
    client: &Client,
    chat: &mut Subscription<ChatEvent>,
    decision: Answer,
) -> ToolCalled {
    let asked = tool(chat, "waiting_approval").await;
    let (id, digest) = (asked.action_id.clone().unwrap(), asked.digest.unwrap());
    answer(client, &id, digest, decision).await.unwrap();
    asked
}

/// The tool calls of a chat, oldest first.
pub(crate) async fn calls_of(client: &Client, chat: &str) -> Vec<Action> {
    let page = within(
        "listing actions",
        ActionRpcClient::list(client, None, Some(1000), None),
    );
    let mut its = page.await.unwrap().items;
    its.retain(|action| action.parent.as_deref() == Some(chat));
    its.reverse();
    its
}

async fn transcript(client: &Client, session: &str) -> Transcript {
    let shown = SessionRpcClient::show(client, session.into(), None);
    within("showing a session", shown).await.unwrap()
}

/// The messages of the last question to the model.
fn shown(model: &Model) -> Vec<Value> {
    let asked = model.asked();
    let last = asked.iter().rfind(|it| it.line.contains("/chat")).unwrap();
    last.body["messages"].as_array().unwrap().clone()
}

/// What the model is told by tools in its last question.
fn told(model: &Model) -> Vec<String> {
    let messages = shown(model);
    let tools = messages.iter().filter(|it| it["role"] == "tool");
    tools
        .map(|it| it["content"].as_str().unwrap().to_owned())
        .collect()
}

fn read(path: &str) -> (&'static str, Value) {
    ("files__read", json!({"path": path}))
}

fn write(path: &str, text: &str) -> (&'static str, Value) {
    ("files__write", json!({"path": path, "text": text}))
}

#[tokio::test]
async fn model_reads_a_file_and_answers_with_what_it_says() {
    for openai in [false, true] {
        let model = Model::start().await;
        let setup = if openai {
            Setup::new().openai(&model)
        } else {
            Setup::new().ollama(&model)
        };
        let pawd = Pawd::start(setup).await;
        let client = pawd.client().await;
        leave_in_workspace(&pawd, "note.txt", "The word is heron.");
        model.will(Says::calls(&[read("note.txt")]));
        model.will(Says::says(&["It is ", "heron."]));
        let mut chat = say(&client, "what is the word?").await;
        let id = accepted(&mut chat).await;
        let called = tool(&mut chat, "completed").await;
        assert_eq!(called.tool, "files/read");
        let events = rest(&mut chat).await;
        let result = done(&events);
        assert_eq!(
            (result.text.as_str(), result.finish.as_str()),
            ("It is heron.", "stop")
        );
        assert_eq!(result.attempts.len(), 2, "each question is an attempt");
        // Both questions were told of the tools, and the result stands in its fence.
        for asked in model.asked().iter().filter(|it| it.line.contains("/chat")) {
            let tools = asked.body["tools"].to_string();
            assert!(
                tools.contains("files__read") && tools.contains("files__write"),
                "{tools}"
            );
        }
        let told = told(&model);
        assert_eq!(told.len(), 1, "{told:?}");
        let (head, data) = told[0].split_once("\n<<<").unwrap();
        assert!(
            head.contains("files/read") && head.contains("provenance tool"),
            "{head}"
        );
        assert!(data.contains("The word is heron."), "{data}");
        // It is an action like any other, in the name of who asked.
        let calls = calls_of(&client, &id).await;
        assert_eq!(calls.len(), 1, "{calls:?}");
        assert_eq!(
            (calls[0].kind, calls[0].state),
            (Kind::ToolCall, State::Completed)
        );
        assert_eq!(calls[0].session.as_deref(), Some(result.session.as_str()));
        assert_eq!(
            calls[0].requested_by.uid,
            show(&client, &id).await.requested_by.uid
        );
        assert_eq!(calls[0].id, called.action_id.unwrap());
    }
}

#[tokio::test]
async fn what_was_done_is_in_the_conversation_and_later_turns_see_it() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    leave_in_workspace(&pawd, "note.txt", "heron");
    model.will(Says::Calls(
        "Let me look.".into(),
        vec![("files__read".into(), json!({"path": "note.txt"}))],
    ));
    model.will(Says::says(&["heron"]));
    let events = rest(&mut say(&client, "what is the word?").await).await;
    let session = done(&events).session.clone();
    let turns = transcript(&client, &session).await;
    let roles: Vec<&str> = turns.turns.iter().map(|turn| turn.role.as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "assistant"]);
    assert_eq!(turns.turns[1].text, "Let me look.");
    assert_eq!(turns.turns[1].calls[0].name, "files__read");
    assert_eq!(
        turns.turns[2].call.as_ref(),
        Some(&turns.turns[1].calls[0].id)
    );
    assert_eq!(turns.turns[2].tool.as_deref(), Some("files/read"));
    assert!(turns.turns[2].text.contains("heron") && !turns.turns[2].failed);
    let labels = |taint: &TaintSet| taint.iter().collect::<Vec<_>>();
    assert_eq!(labels(&turns.turns[0].taint), [Taint::Operator]);
    assert_eq!(labels(&turns.turns[2].taint), [Taint::Tool, Taint::Private]);
    assert_eq!(
        labels(&turns.session.taint),
        [Taint::Operator, Taint::Tool, Taint::Model, Taint::Private]
    );

    // As people are shown it.
    let said = pawd.pawctl(&["session", "show", &session]).await;
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains("calls files__read") && said.contains("tool files/read"),
        "{said}"
    );

    let again = Asking::new("and again?").session(session).ask(&client);
    rest(&mut again.await.unwrap()).await;
    let roles: Vec<String> = shown(&model)
        .iter()
        .map(|it| it["role"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        roles,
        ["system", "user", "assistant", "tool", "assistant", "user"]
    );
    assert!(told(&model)[0].contains("heron"));
}

#[tokio::test]
async fn write_of_a_model_waits_for_a_person_and_is_then_done() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    model.will(Says::calls(&[write("out.txt", "hello")]));
    model.will(Says::says(&["written"]));
    let mut chat = say(&client, "write hello").await;
    let id = accepted(&mut chat).await;
    let asked = tool(&mut chat, "waiting_approval").await;
    assert_eq!(show(&client, &id).await.state, State::Executing);
    assert_eq!(
        in_workspace(&pawd, "out.txt"),
        None,
        "nothing happens before the answer"
    );
    let questions = ApprovalRpcClient::list(&client, None, None).await.unwrap();
    assert_eq!(questions.len(), 1);
    assert_eq!(Some(&questions[0].id), asked.action_id.as_ref());
    assert_eq!(Some(questions[0].digest), asked.digest);
    assert_eq!(Some(questions[0].expires_at), asked.expires_at);
    answer(
        &client,
        &questions[0].id,
        questions[0].digest,
        Answer::Approve,
    )
    .await
    .unwrap();
    assert_eq!(done(&rest(&mut chat).await).text, "written");
    assert_eq!(in_workspace(&pawd, "out.txt").as_deref(), Some("hello"));
}

#[tokio::test]
async fn pawctl_shows_what_a_chat_waits_for_and_how_to_answer() {
    let model = Model::start().await;
    let pawd = Pawd::start(
        Setup::new()
            .ollama(&model)
            .with("\n[actions]\napproval_expiry = \"1s\"\n"),
    )
    .await;
    model.will(Says::calls(&[
        write("out.txt", "hello"),
        ("files__erase", json!({})),
    ]));
    model.will(Says::says(&["nobody answered"]));
    let said = pawd.pawctl(&["chat", "write hello"]).await;
    let (out, err) = (
        String::from_utf8(said.stdout).unwrap(),
        String::from_utf8(said.stderr).unwrap(),
    );
    assert!(
        said.status.success() && out.contains("nobody answered"),
        "{out}\n{err}"
    );
    assert!(
        err.contains("files/write") && err.contains("waits for a person (risk high, digest "),
        "{err}"
    );
    assert!(err.contains("pawctl approval approve 0"), "{err}");
    assert!(
        err.contains("expired") && err.contains("files__erase {}: refused"),
        "{err}"
    );
}

#[tokio::test]
async fn denied_call_is_told_to_the_model_which_goes_on() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    model.will(Says::calls(&[write("out.txt", "hello")]));
    model.will(Says::says(&["then not"]));
    let mut chat = say(&client, "write hello").await;
    let asked = tool(&mut chat, "waiting_approval").await;
    let note = Some("use another name".to_owned());
    let no = client.answer(
        asked.action_id.unwrap(),
        asked.digest.unwrap(),
        Answer::Deny,
        note,
        None,
        None,
        None,
    );
    within("denying", no).await.unwrap();
    let rejected = tool(&mut chat, "rejected").await;
    assert!(rejected.why.unwrap().contains("denied"));
    assert_eq!(done(&rest(&mut chat).await).text, "then not");
    let told = told(&model);
    assert!(
        told[0].contains("denied this call") && told[0].contains("use another name"),
        "{told:?}"
    );
    assert!(!told[0].contains("<<<"), "these are our words: {told:?}");
    assert_eq!(in_workspace(&pawd, "out.txt"), None);
}

#[tokio::test]
async fn time_of_a_chat_does_not_pass_while_a_person_is_asked() {
    let model = Model::start().await;
    let limits = "\n[actions]\napproval_expiry = \"3s\"\nchat_timeout = \"2s\"\n";
    let pawd = Pawd::start(Setup::new().ollama(&model).with(limits)).await;
    let client = pawd.client().await;
    model.will(Says::calls(&[write("out.txt", "hello")]));
    model.will(Says::says(&["nobody was there"]));
    let events = rest(&mut say(&client, "write hello").await).await;
    assert_eq!(done(&events).text, "nobody was there");
    assert!(told(&model)[0].contains("did not answer in time"));
    assert_eq!(in_workspace(&pawd, "out.txt"), None);
}

#[tokio::test]
async fn call_that_cannot_be_meant_is_a_result_and_no_action() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    model.will(Says::calls(&[
        ("files__erase", json!({"path": "a"})),
        ("files/read", json!({"path": "a"})),
        ("read", json!({"path": "a"})),
        ("files__read", json!({"path": 7})),
        ("files__read", json!({})),
        ("files__read", json!({"path": "a", "as": "root"})),
        ("files__list", json!({"path": ".", "depth": 99})),
        ("files__read", json!(["a"])),
    ]));
    model.will(Says::says(&["sorry"]));
    let mut chat = say(&client, "do it").await;
    let id = accepted(&mut chat).await;
    assert_eq!(done(&rest(&mut chat).await).text, "sorry");
    let told = told(&model);
    assert_eq!(told.len(), 8);
    for (told, expected) in told.iter().zip([
        "there is no tool",
        "there is no tool",
        "there is no tool",
        "arguments.path is no string",
        "has no \"path\"",
        "a member \"as\"",
        "maximum",
        "no JSON object",
    ]) {
        assert!(told.contains(expected), "{told} does not say {expected}");
    }
    assert_eq!(calls_of(&client, &id).await, []);
    assert!(pawd.launcher.as_ref().unwrap().plans().is_empty());
}

#[tokio::test]
async fn equal_reads_of_one_answer_are_done_once_and_writes_each() {
    let model = Model::start().await;
    // One place: who waits for its calls must not keep it from them.
    let pawd = Pawd::start(
        Setup::new()
            .ollama(&model)
            .with("\n[actions]\nconcurrency = 1\n"),
    )
    .await;
    let client = pawd.client().await;
    leave_in_workspace(&pawd, "a.txt", "heron");
    model.will(Says::calls(&[
        read("a.txt"),
        ("files__read", json!({"path": "a.txt"})),
        read("a.txt"),
        read("b.txt"),
        write("c.txt", "1"),
        write("c.txt", "1"),
    ]));
    model.will(Says::says(&["done"]));
    let mut chat = say(&client, "do it").await;
    let id = accepted(&mut chat).await;
    for _ in 0..2 {
        decide(&client, &mut chat, Answer::Approve).await;
    }
    assert_eq!(done(&rest(&mut chat).await).text, "done");
    let calls = calls_of(&client, &id).await;
    let of = |tool: &str| {
        calls
            .iter()
            .filter(|it| it.summary.starts_with(tool))
            .count()
    };
    assert_eq!((of("files/read"), of("files/write")), (2, 2), "{calls:?}");
    let told = told(&model);
    assert_eq!(told.len(), 6, "each call has a result");
    assert!(told[..3].iter().all(|text| text.contains("heron")));
    assert!(told[3].contains("failure of files/read"), "{}", told[3]);
}

#[tokio::test]
async fn independent_calls_of_one_answer_run_beside_each_other_within_the_limit() {
    for (places, beside) in [(2, true), (1, false)] {
        let model = Model::start().await;
        let setup = Setup::new().ollama(&model).with(&format!(
            "\n[actions]\nconcurrency = 8\n[actions.at_once]\ntool_call = {places}\n"
        ));
        let pawd = Pawd::start(setup).await;
        let client = pawd.client().await;
        leave_in_workspace(&pawd, "a.txt", "heron");
        leave_in_workspace(&pawd, "b.txt", "otter");
        let launcher = pawd.launcher.as_ref().unwrap();
        // The sandbox of whichever is first does not go on.
        launcher.will_stop();
        model.will(Says::calls(&[read("a.txt"), read("b.txt")]));
        let mut chat = say(&client, "read both").await;
        let id = accepted(&mut chat).await;
        let states = || async {
            let mut states: Vec<_> = calls_of(&client, &id)
                .await
                .iter()
                .map(|it| it.state)
                .collect();
            states.sort_by_key(|state| state.as_str());
            states
        };
        if beside {
            tool(&mut chat, "completed").await;
            assert_eq!(states().await, [State::Completed, State::Executing]);
        } else {
            let mut seen = BTreeSet::new();
            while seen.len() < 2 {
                if let ChatEvent::Tool(called) = next(&mut chat).await {
                    seen.extend(called.action_id);
                }
            }
            launcher.wait_for_running(1);
            assert_eq!(states().await, [State::Approved, State::Executing]);
        }
        assert_eq!(launcher.plans().len(), places);
    }
}

#[tokio::test]
async fn turn_that_calls_without_end_is_made_to_answer() {
    let model = Model::start().await;
    let setup = Setup::new()
        .openai(&model)
        .with("\n[agent.short]\nskills = [\"files\"]\nmax_turns = 2\n");
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    let ask = || Asking::new("do it").agent("short".to_owned()).ask(&client);
    for path in ["a", "b"] {
        model.will(Says::calls(&[read(path)]));
    }
    // It calls again, although it may not.
    model.will(Says::Calls(
        "What I have.".into(),
        vec![("files__read".into(), json!({"path": "c"}))],
    ));
    let events = rest(&mut ask().await.unwrap()).await;
    let result = done(&events);
    assert_eq!(
        (result.text.as_str(), result.finish.as_str()),
        ("What I have.", "turn_limit")
    );
    let asked = model.asked();
    let last = asked.iter().rfind(|it| it.line.contains("/chat")).unwrap();
    assert_eq!(last.body["tool_choice"], "none");
    assert!(told(&model)[1].contains("No tool can be called any more"));

    // Where that fails, it says what it ended of.
    for path in ["a", "b"] {
        model.will(Says::calls(&[read(path)]));
    }
    model.will(Says::Status(500, Vec::new(), "{}".into()));
    let mut chat = ask().await.unwrap();
    let id = accepted(&mut chat).await;
    rest(&mut chat).await;
    let action = show(&client, &id).await;
    assert_eq!(action.state, State::Failed);
    assert_eq!(action.error.unwrap().kind, "turn_limit");
    assert_eq!(action.attempts.len(), 3);
}

#[tokio::test]
async fn model_that_repeats_itself_is_made_to_answer() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    for _ in 0..3 {
        model.will(Says::calls(&[("files__list", json!({"path": "."}))]));
    }
    model.will(Says::says(&["There is nothing."]));
    let events = rest(&mut say(&client, "look").await).await;
    let result = done(&events);
    assert_eq!(
        (result.text.as_str(), result.finish.as_str()),
        ("There is nothing.", "repeating")
    );
}

#[tokio::test]
async fn call_written_as_text_is_understood_and_a_quoted_one_is_not() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    leave_in_workspace(&pawd, "a.txt", "heron");
    let call = r#"{"name": "files__read", "arguments": {"path": "a.txt"}}"#;
    model.will(Says::says(&["<tool_call>\n", call, "\n</tool_call>"]));
    model.will(Says::says(&[
        "It says heron, and: ",
        "<tool_call>",
        call,
        "</tool_call>",
    ]));
    let mut chat = say(&client, "read it").await;
    let id = accepted(&mut chat).await;
    let result = rest(&mut chat).await;
    assert!(done(&result).text.starts_with("It says heron"));
    assert_eq!(calls_of(&client, &id).await.len(), 1);
    assert!(told(&model)[0].contains("heron"));
}

#[tokio::test]
async fn cancelled_chat_takes_back_what_it_asked_for() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    model.will(Says::calls(&[write("out.txt", "hello")]));
    let mut chat = say(&client, "write hello").await;
    let id = accepted(&mut chat).await;
    let asked = tool(&mut chat, "waiting_approval").await;
    within("cancelling", client.cancel(id.clone()))
        .await
        .unwrap();
    assert_eq!(finally(&client, &id).await.state, State::Cancelled);
    let call = finally(&client, &asked.action_id.unwrap()).await;
    assert_eq!(call.state, State::Cancelled);
    assert_eq!(
        ApprovalRpcClient::list(&client, None, None).await.unwrap(),
        []
    );
    assert_eq!(in_workspace(&pawd, "out.txt"), None);
}

#[tokio::test]
async fn model_of_an_agent_without_skills_or_with_a_schema_is_told_of_no_tool() {
    let model = Model::start().await;
    let setup = Setup::new()
        .ollama(&model)
        .with("\n[agent.mute]\ninstructions = \"Say little.\"\n");
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    for (agent, schema) in [(Some("mute".to_owned()), None), (None, Some(schema))] {
        // It calls one all the same.
        model.will(Says::Calls(
            "Hello.".into(),
            vec![("files__read".into(), json!({"path": "a"}))],
        ));
        let mut chat = Asking::new("hello")
            .agent(agent)
            .schema(schema)
            .ask(&client)
            .await
            .unwrap();
        let id = accepted(&mut chat).await;
        assert_eq!(done(&rest(&mut chat).await).text, "Hello.");
        assert_eq!(calls_of(&client, &id).await, []);
        let asked = model.asked();
        let last = asked.iter().rfind(|it| it.line.contains("/chat")).unwrap();
        assert_eq!(last.body["tools"], Value::Null);
    }
}

#[tokio::test]
async fn chat_in_the_background_calls_tools_as_well() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    leave_in_workspace(&pawd, "a.txt", "heron");
    model.will(Says::calls(&[read("a.txt")]));
    model.will(Says::says(&["heron"]));
    let arguments = object(json!({"text": "read it"}));
    let begun = ActionRpcClient::submit(&client, "chat".into(), arguments, None, None, None, None);
    let begun = within("submitting a chat", begun).await.unwrap();
    let ended = finally(&client, &begun.id).await;
    assert_eq!(ended.state, State::Completed, "{ended:?}");
    assert_eq!(ended.result.unwrap()["text"], "heron");
}

/// What nobody could read again is refused before it is written: the list is still answered, and pawd still starts.
#[tokio::test]
async fn call_that_is_nested_too_deep_is_refused_and_pawd_starts_again() {
    let model = Model::start().await;
    let dir = tempfile::tempdir().unwrap();
    let open = r#"name = "open"
version = "1"
description = "Takes whatever comes."
command = ["/skill/bin/open"]
image = "base"

[limits]
cpu_milli = 100
memory = 16777216
disk = 0
pids = 4
open_files = 16
wall_ms = 1000

[[tools]]
name = "note"
description = "Notes it."
class = "write-destructive"
input = '{"type":"object"}'
"#;
    let config = format!(
        "[roles]\nadmin = \"{}\"\n\n[agent.default]\nskills = [\"open\"]\n",
        harness::root::our_group()
    );
    let setup = Setup::only(&config)
        .ollama(&model)
        .program(harness::stage::with_skills(dir.path(), &[("open", open)]));
    let mut pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    let nested = |depth: usize| {
        let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        serde_json::from_str::<Value>(&text).unwrap()
    };
    model.will(Says::calls(&[
        ("open__note", json!({"a": nested(120)})),
        ("open__note", json!({"a": nested(50)})),
    ]));
    model.will(Says::says(&["It cannot be noted."]));
    let mut chat = say(&client, "note it").await;
    let id = accepted(&mut chat).await;
    decide(&client, &mut chat, Answer::Deny).await;
    assert_eq!(done(&rest(&mut chat).await).text, "It cannot be noted.");
    let told = told(&model);
    assert!(
        told[0].contains("refused: the plan is nested deeper"),
        "{told:?}"
    );
    assert!(told[1].contains("denied this call"), "{told:?}");
    assert_eq!(calls_of(&client, &id).await.len(), 1);
    pawd.stop().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(calls_of(&client, &id).await.len(), 1);
}
