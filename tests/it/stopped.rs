//! A turn that is stopped has a final text all the same: why, and what was done so far, in the conversation and in the result. Its state
//! stays what it is. A budget that is spent: `budget_that_is_spent_between_two_tools_ends_the_turn_and_keeps_what_was_done`.

use harness::{
    Answer as Says, Asking, Model, Pawd, Setup, Step, within,
    words::{accepted, finally, leave_in_workspace, news, next, question, rest, say},
};
use jsonrpsee::async_client::Client;
use nix::sys::signal::Signal;
use paw_api::{
    ErrorKind, action::ActionRpcClient as _, agent::SessionRpcClient, provider::ChatEvent,
};
use paw_policy::{Kind, State, Taint};
use paw_store::{ActionFilter, ActionRecord, Batch, OpenOptions, Page, Store};
use serde_json::{Value, json};

const SHORT: &str = "\n[actions]\nchat_timeout = \"1s\"\n";

fn read() -> (&'static str, Value) {
    ("files__read", json!({"path": "a.txt"}))
}

async fn pawd(model: &Model, more: &str) -> (Pawd, Client) {
    let pawd = Pawd::start(Setup::new().ollama(model).with(more)).await;
    leave_in_workspace(&pawd, "a.txt", "heron");
    let client = pawd.client().await;
    (pawd, client)
}

/// What a turn that was stopped had read by its tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    Nothing,
    Something,
}

/// What a chat gives that has no answer, which is what its conversation ends with. The question stands there, too.
async fn last_words(
    client: &Client,
    id: &str,
    (state, finish): (State, &str),
    read: Read,
) -> String {
    let action = finally(client, id).await;
    assert_eq!(action.state, state, "{action:?}");
    let result = action.result.expect("there is something to say");
    let text = result["text"].as_str().unwrap().to_owned();
    assert_eq!(
        (&result["provider"], &result["finish"]),
        (&json!("pawd"), &json!(finish))
    );
    let shown = SessionRpcClient::show(client, action.session.unwrap(), None);
    let turns = within("the conversation", shown).await.unwrap().turns;
    assert_eq!(turns[0].role, "user");
    let last = turns.last().unwrap();
    assert_eq!(
        (&*last.role, &last.text, &last.provider),
        ("assistant", &text, &None)
    );
    assert!(!text.contains("heron"), "no tool says it: {text}");
    let something = read == Read::Something;
    assert_eq!(last.taint.has(Taint::Tool), something, "{last:?}");
    assert_eq!(text.contains("files/read: "), something, "{text}");
    text
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[tokio::test]
async fn turn_whose_time_is_over_says_what_it_has_done() {
    let model = Model::start().await;
    let (pawd, client) = pawd(&model, SHORT).await;
    let (_held, silent) = Says::steps();
    model.will(Says::calls(&[read()]));
    model.will(silent);
    let mut chat = say(&client, "read it").await;
    let id = accepted(&mut chat).await;
    let events = rest(&mut chat).await;
    let Some(ChatEvent::Failed {
        error,
        result: Some(result),
        ..
    }) = events.last()
    else {
        panic!("{events:?}");
    };
    assert_eq!(error.kind, ErrorKind::TimedOut);
    let text = last_words(
        &client,
        &id,
        (State::TimedOut, "timed_out"),
        Read::Something,
    )
    .await;
    assert_eq!(result.text, text);
    has(&text, &["its time was over", "files/read: done"]);
    // In a terminal, and for programs.
    for (format, expected) in [
        ("table", "its time was over"),
        ("json", "\"finish\":\"timed_out\""),
    ] {
        let (_held, silent) = Says::steps();
        model.will(silent);
        let output = pawd.pawctl(&["-o", format, "chat", "hello"]).await;
        assert_eq!(output.status.code(), Some(124), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn turn_that_is_cancelled_says_what_became_of_what_it_called() {
    let model = Model::start().await;
    let (_pawd, client) = pawd(&model, "").await;
    let mut heard = news(&client).await;
    model.will(Says::calls(&[read()]));
    let write = json!({"path": "out.txt", "text": "x"});
    model.will(Says::calls(&[
        ("files__write", write),
        ("nothing", json!({})),
    ]));
    let mut chat = say(&client, "read and write it").await;
    let id = accepted(&mut chat).await;
    question(&client, &mut heard).await;
    within("cancelling", client.cancel(id.clone()))
        .await
        .unwrap();
    let text = last_words(
        &client,
        &id,
        (State::Cancelled, "cancelled"),
        Read::Something,
    )
    .await;
    let lines = [
        "it was cancelled",
        "files/read: done",
        "files__write: cancelled",
        "nothing: refused",
    ];
    has(&text, &lines);
    // Whoever goes on with the conversation knows of it.
    let session = finally(&client, &id).await.session.unwrap();
    model.will(Says::says(&["I had read it."]));
    let again = Asking::new("what did you do?")
        .session(session)
        .ask(&client);
    let mut chat = within("a second turn", again).await.unwrap();
    rest(&mut chat).await;
    let asked = model.asked();
    let told = asked.last().unwrap().body["messages"].to_string();
    assert!(told.contains("it was cancelled"), "{told}");
}

#[tokio::test]
async fn turn_that_a_stop_or_a_kill_of_pawd_ends_says_so() {
    let model = Model::start().await;
    let (mut pawd, mut client) = pawd(&model, "\n[actions]\ndrain = \"100ms\"\n").await;
    for (signal, why) in [
        (Signal::SIGTERM, "pawd stopped"),
        (Signal::SIGKILL, "pawd ended"),
    ] {
        let (held, silent) = Says::steps();
        model.will(silent);
        let mut chat = say(&client, "hello").await;
        let id = accepted(&mut chat).await;
        held.send(Step::Piece("I".into())).await.unwrap();
        next(&mut chat).await;
        match signal {
            Signal::SIGKILL => pawd.daemon.kill9().await,
            _ => drop(pawd.stop().await),
        }
        pawd.start_again().await;
        client = pawd.client().await;
        let text = last_words(&client, &id, (State::Failed, "interrupted"), Read::Nothing).await;
        has(&text, &[why, "No tool was called"]);
    }
}

/// What is said of the call of a turn that went on after a kill, and for which there was no time left. What `meanwhile` does is done while
/// there is no pawd.
async fn said_after_a_kill(meanwhile: impl FnOnce(&Pawd)) -> String {
    let model = Model::start().await;
    let (mut pawd, client) = pawd(&model, SHORT).await;
    let (_held, silent) = Says::steps();
    let (_held_too, silent_too) = Says::steps();
    model.will(Says::calls(&[read()]));
    model.will(silent);
    model.will(silent_too);
    let mut chat = say(&client, "read it").await;
    let id = accepted(&mut chat).await;
    model.was_asked(2).await;
    pawd.daemon.kill9().await;
    meanwhile(&pawd);
    pawd.start_again().await;
    let client = pawd.client().await;
    last_words(
        &client,
        &id,
        (State::TimedOut, "timed_out"),
        Read::Something,
    )
    .await
}

#[tokio::test]
async fn turn_that_goes_on_after_a_kill_says_all_that_it_has_done() {
    let text = said_after_a_kill(|_| {}).await;
    has(&text, &["its time was over", "files/read: done"]);
}

/// Nobody is told that a call was done of which there is no record any more.
#[tokio::test]
async fn call_whose_record_is_gone_is_said_to_be_not_known() {
    let text = said_after_a_kill(|pawd| {
        let path = pawd.root.path().join("state/pawd.redb");
        let store = Store::open(&path, OpenOptions::new("0.0.0")).unwrap();
        let calls = ActionFilter {
            kind: Some(Kind::ToolCall),
            ..ActionFilter::default()
        };
        let mut found = store.actions(&calls, &Page::newest(1)).unwrap().records;
        let call = found.pop().expect("it has ended");
        // One that nobody asked for any more is not kept for them.
        let orphan = ActionRecord {
            parent: None,
            ..call
        };
        let mut batch = Batch::new();
        batch.put_action(&orphan).unwrap();
        store.commit(&batch).unwrap();
        assert_eq!(store.prune(0).unwrap(), 1);
    })
    .await;
    has(&text, &["its time was over", "files/read: not known"]);
}
