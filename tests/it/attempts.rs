//! Every attempt to have a model answer is in the record of the action, whatever became of it.

use harness::{
    Answer, Asking, Model, Pawd, Setup, Step, within,
    words::{accepted, finally, next, object, refused, rest, say},
};
use paw_api::{
    ErrorKind,
    action::{Action, ActionRpcClient},
    provider::ChatEvent,
};
use paw_policy::State;
use serde_json::json;

/// Outcome, and whether a piece of an answer came, of each attempt; all of them of the one provider, in the time of the action.
fn tried(action: &Action) -> Vec<(&str, bool)> {
    let ended = action.timestamps.ended.expect("it is final");
    action
        .attempts
        .iter()
        .map(|it| {
            assert_eq!((it.provider.as_str(), it.model.as_str()), ("local", "m"));
            assert!(
                action.timestamps.created <= it.at && it.at + it.ms <= ended,
                "{it:?} is not within {:?}",
                action.timestamps
            );
            assert!(it.first_token_ms.is_none_or(|first| first <= it.ms));
            (it.outcome.as_str(), it.first_token_ms.is_some())
        })
        .collect()
}

#[tokio::test]
async fn attempts_of_an_answer_are_in_its_record() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama_with(&model, "")).await;
    let client = pawd.client().await;
    model.will(Answer::overload());
    model.will(Answer::cut(&["half an"]));
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    let events = rest(&mut chat).await;
    let action = finally(&client, &id).await;
    assert_eq!(
        tried(&action),
        [("overload", false), ("cut", true), ("ok", true)]
    );
    match events.last() {
        Some(ChatEvent::Done(result)) => assert_eq!(result.attempts, action.attempts),
        other => panic!("the chat ended with {other:?}"),
    }
    let shown = pawd.pawctl(&["action", "show", &id]).await;
    let shown = String::from_utf8_lossy(&shown.stdout);
    for word in ["Attempts", "overload", "cut", "ok"] {
        assert!(shown.contains(word), "no {word} in {shown}");
    }
}

#[tokio::test]
async fn attempts_of_a_chat_that_failed_are_in_its_record() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama_with(&model, "max_retries = 1\n")).await;
    let client = pawd.client().await;
    model.will(Answer::overload());
    model.will(Answer::Status(
        401,
        Vec::new(),
        json!({"error": "no"}).to_string(),
    ));
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    rest(&mut chat).await;
    let action = finally(&client, &id).await;
    assert_eq!(action.state, State::Failed);
    assert_eq!(tried(&action), [("overload", false), ("auth", false)]);
}

#[tokio::test]
async fn attempt_that_the_deadline_cuts_off_is_in_the_record() {
    let model = Model::start().await;
    let more = "[actions]\nchat_timeout = \"700ms\"\n";
    let pawd = Pawd::start(Setup::new().ollama_with(&model, "").with(more)).await;
    let client = pawd.client().await;
    let (steps, answer) = Answer::steps();
    steps.send(Step::Piece("I think".into())).await.unwrap();
    model.will(answer);
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    rest(&mut chat).await;
    let action = finally(&client, &id).await;
    assert_eq!(action.state, State::TimedOut);
    assert_eq!(tried(&action), [("timed_out", true)]);
    assert!(
        action.attempts[0].ms >= 600,
        "it lasted to the deadline: {:?}",
        action.attempts
    );
}

#[tokio::test]
async fn attempt_that_was_taken_back_is_in_the_record() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama_with(&model, "")).await;
    let client = pawd.client().await;
    let (steps, answer) = Answer::steps();
    steps.send(Step::Piece("I think".into())).await.unwrap();
    model.will(answer);
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    assert!(matches!(next(&mut chat).await, ChatEvent::Delta { .. }));
    within("cancelling", ActionRpcClient::cancel(&client, id.clone()))
        .await
        .unwrap();
    let action = finally(&client, &id).await;
    assert_eq!(action.state, State::Cancelled);
    assert_eq!(tried(&action), [("cancelled", true)]);
}

#[tokio::test]
async fn record_of_attempts_outlives_pawd() {
    let model = Model::start().await;
    let mut pawd = Pawd::start(Setup::new().ollama_with(&model, "max_retries = 0\n")).await;
    let client = pawd.client().await;
    model.will(Answer::overload());
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    rest(&mut chat).await;
    let before = finally(&client, &id).await;
    drop(chat);
    drop(client);
    pawd.stop().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(finally(&client, &id).await.attempts, before.attempts);
    assert_eq!(tried(&before), [("overload", false)]);
}

#[tokio::test]
async fn what_cannot_name_a_model_is_refused() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama_with(&model, "")).await;
    let client = pawd.client().await;
    for name in [String::new(), "m\u{1b}[2J".into(), "m".repeat(257)] {
        let arguments = object(json!({"text": "hello", "model": name}));
        let asked = client.submit("chat".into(), arguments, None, None, None, None);
        refused(asked.await, ErrorKind::Invalid);
    }
    let longest = Asking::new("hello")
        .model("m".repeat(256))
        .ask(&client)
        .await;
    assert!(longest.is_ok(), "{longest:?}");
}
