//! What is long: each end is kept, and each list and each conversation can be read to its end, whatever stands in it.

use harness::{
    Answer as Says, Asking, Model, Pawd, Setup, within,
    words::{accepted, call, done, finally, leave_in_workspace, rest},
};
use paw_api::{action::ActionRpcClient, agent::SessionRpcClient};
use paw_policy::State;
use serde_json::json;

/// So many bytes that are six times as long as JSON.
fn control_characters(bytes: usize) -> String {
    "\u{1}".repeat(bytes)
}

#[tokio::test]
async fn end_of_an_action_is_kept_where_its_result_is_too_long_for_the_store() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    // The question and the answer have room each, and not both.
    model.will(Says::says(&[&control_characters(128 * 1024)]));
    // What begins like a GIF is one here, and the model is none.
    let picture = format!("R0lGODlh{}", "AAAA".repeat(40_957));
    let said = Asking::new(format!("x{}", control_characters(16_310)))
        .images(vec![picture])
        .ask(&client);
    let mut chat = within("beginning a chat", said).await.unwrap();
    let id = accepted(&mut chat).await;
    assert_eq!(done(&rest(&mut chat).await).text.len(), 128 * 1024);
    let ended = finally(&client, &id).await;
    assert_eq!(
        (
            ended.state,
            ended.result.is_some(),
            ended.error.map(|error| error.kind)
        ),
        (State::Completed, false, Some("not_kept".into())),
    );
}

#[tokio::test]
async fn list_of_actions_is_answered_however_long_their_results_are() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    leave_in_workspace(&pawd, "long.txt", &control_characters(60 * 1024));
    let mut last = None;
    // Together they would be longer than any answer may be.
    for _ in 0..50 {
        let action = call(&client, "read", json!({"path": "long.txt"})).await;
        assert_eq!(action.state, State::Completed, "{:?}", action.error);
        last = Some(action.id);
    }
    let (mut found, mut before, mut answers) = (Vec::new(), None, 0);
    loop {
        let listed = ActionRpcClient::list(&client, None, Some(1_000), before);
        let listed = within("listing actions", listed).await.unwrap();
        found.extend(listed.items);
        (before, answers) = (listed.next, answers + 1);
        if before.is_none() {
            break;
        }
    }
    assert!(answers > 1, "they are longer than one answer");
    assert_eq!(found.len(), 50);
    assert_eq!(Some(&found[0].id), last.as_ref(), "newest first");
    assert!(found.iter().all(|action| action.result.is_some()));
}

#[tokio::test]
async fn conversation_is_shown_to_its_end_however_long_it_is() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let mut session = None;
    for number in 0..36 {
        let text = format!("{number}{}", control_characters(40 * 1024));
        let said = Asking::new(text).session(session.clone()).ask(&client);
        let mut chat = within("beginning a chat", said).await.unwrap();
        session = Some(done(&rest(&mut chat).await).session.clone());
    }
    let (mut turns, mut from, mut answers) = (Vec::new(), None, 0);
    loop {
        let shown = SessionRpcClient::show(&client, session.clone().unwrap(), from);
        let shown = within("showing a conversation", shown).await.unwrap();
        turns.extend(shown.turns);
        (from, answers) = (shown.next, answers + 1);
        if from.is_none() {
            break;
        }
    }
    assert!(answers > 1, "it is longer than one answer");
    assert_eq!(turns.len(), 72);
    for (number, turn) in turns.iter().step_by(2).enumerate() {
        assert!(turn.text.starts_with(&format!("{number}\u{1}")));
    }
}
