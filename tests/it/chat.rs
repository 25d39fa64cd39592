//! Talking with a model: pieces as they come, and every way in which it can fail.

use harness::{Answer, Asking, Model, Pawd, Setup, Step, within};
use jsonrpsee::{async_client::Client, core::client::Error as CallError};
use paw_api::{
    ErrorKind,
    action::ActionRpcClient,
    agent::SessionRpcClient,
    provider::{ChatEvent, ProviderRpcClient},
};
use paw_policy::State;
use serde_json::json;
use tokio::{io::AsyncReadExt as _, sync::mpsc::Sender};

use harness::words::{accepted, done, finally, next, object, refused, rest, say, show};

#[tokio::test]
async fn pieces_arrive_while_the_model_still_speaks() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let (steps, answer) = Answer::steps();
    model.will(answer);
    let mut chat = say(&client, "hello").await;
    accepted(&mut chat).await;
    for (seq, piece) in ["one", " two"].into_iter().enumerate() {
        // The next step is only told once this piece was seen, so nothing can have been collected.
        steps.send(Step::Piece(piece.into())).await.unwrap();
        assert_eq!(
            next(&mut chat).await,
            ChatEvent::Delta {
                seq: seq as u64,
                text: piece.into()
            }
        );
    }
    steps.send(Step::End).await.unwrap();
    let events = rest(&mut chat).await;
    let result = done(&events);
    assert_eq!(
        (
            result.text.as_str(),
            result.provider.as_str(),
            result.finish.as_str()
        ),
        ("one two", "local", "stop")
    );
    assert_eq!(
        (result.usage.input_tokens, result.usage.output_tokens),
        (Some(3), Some(2))
    );
}

#[tokio::test]
async fn openai_wire_gives_the_same_answer() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().openai(&model)).await;
    let client = pawd.client().await;
    let mut chat = say(&client, "hello").await;
    let events = rest(&mut chat).await;
    let result = done(&events);
    assert_eq!(
        (
            result.text.as_str(),
            result.provider.as_str(),
            result.finish.as_str()
        ),
        ("Hello world", "open", "stop")
    );
    assert_eq!(
        (result.usage.input_tokens, result.usage.output_tokens),
        (Some(3), Some(2))
    );
}

#[tokio::test]
async fn conversation_goes_on_with_what_was_said() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let first = rest(&mut say(&client, "my name is Ada").await).await;
    let session = done(&first).session.clone();
    let second = Asking::new("what is my name?")
        .session(session.clone())
        .ask(&client)
        .await
        .unwrap();
    let mut second = second;
    rest(&mut second).await;
    let asked = model.asked();
    let last = asked.iter().rfind(|it| it.line.contains("chat")).unwrap();
    let body = last.body.to_string();
    assert!(
        body.contains("my name is Ada") && body.contains("Hello world"),
        "{body}"
    );
    let transcript = SessionRpcClient::show(&client, session, None)
        .await
        .unwrap();
    assert_eq!(transcript.turns.len(), 4, "{transcript:?}");
}

#[tokio::test]
async fn cut_stream_is_failed_not_completed() {
    for openai in [false, true] {
        let model = Model::start().await;
        let setup = if openai {
            Setup::new().openai(&model)
        } else {
            Setup::new().ollama(&model)
        };
        let pawd = Pawd::start(setup).await;
        let client = pawd.client().await;
        model.will(Answer::cut(&["half an"]));
        let mut chat = say(&client, "hello").await;
        let id = accepted(&mut chat).await;
        let events = rest(&mut chat).await;
        assert!(
            matches!(events.last(), Some(ChatEvent::Failed { .. })),
            "{events:?}"
        );
        let action = show(&client, &id).await;
        assert_eq!((action.state, action.result), (State::Failed, None));
        assert!(!action.error.unwrap().hint.is_empty());
    }
}

/// Asks a model that does this, and expects a failure with this word and a hint.
async fn check_failure(setup: fn(&Model) -> Setup, answer: Answer, kind: &str, state: State) {
    let model = Model::start().await;
    let pawd = Pawd::start(setup(&model)).await;
    let client = pawd.client().await;
    model.will(answer);
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    let events = rest(&mut chat).await;
    assert!(
        matches!(events.last(), Some(ChatEvent::Failed { .. })),
        "{events:?}"
    );
    let action = finally(&client, &id).await;
    let error = action.error.expect("a failure says why");
    assert_eq!(
        (error.kind.as_str(), action.state),
        (kind, state),
        "{error:?}"
    );
    assert!(
        !error.hint.is_empty() && !error.message.is_empty(),
        "{error:?}"
    );
}

#[tokio::test]
async fn refused_key_is_told_as_such() {
    let answer = Answer::Status(
        401,
        Vec::new(),
        json!({"error": {"message": "bad key sk-abcdefgh12345678"}}).to_string(),
    );
    check_failure(
        |model| Setup::new().openai(model),
        answer,
        "auth",
        State::Failed,
    )
    .await;
}

#[tokio::test]
async fn missing_model_is_told_as_such() {
    let answer = Answer::Status(
        404,
        Vec::new(),
        json!({"error": "model 'm' not found, try pulling it first"}).to_string(),
    );
    check_failure(
        |model| Setup::new().ollama(model),
        answer,
        "not_found",
        State::Failed,
    )
    .await;
}

#[tokio::test]
async fn rate_limit_is_told_as_such() {
    let answer = Answer::Status(
        429,
        vec![("retry-after", "7".into())],
        json!({"error": {"message": "slow down"}}).to_string(),
    );
    check_failure(
        |model| Setup::new().openai(model),
        answer,
        "rate",
        State::Failed,
    )
    .await;
}

#[tokio::test]
async fn model_that_falls_silent_runs_into_its_deadline() {
    let (steps, answer) = Answer::steps();
    steps.send(Step::Piece("I think".into())).await.unwrap();
    let setup = |model: &Model| {
        Setup::new().provider(
            "local",
            "ollama",
            &model.url(),
            "stall_timeout = \"300ms\"\nmax_retries = 0\n",
        )
    };
    check_failure(setup, answer, "timed_out", State::TimedOut).await;
    drop(steps);
}

#[tokio::test]
async fn error_in_the_stream_is_an_error() {
    let (steps, answer) = Answer::steps();
    steps
        .send(Step::Raw("{\"error\":\"the runner has died\"}\n".into()))
        .await
        .unwrap();
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    model.will(answer);
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    rest(&mut chat).await;
    assert_eq!(show(&client, &id).await.state, State::Failed);
}

#[tokio::test]
async fn provider_that_is_away_fails_the_chat_and_nothing_else() {
    // Nobody listens on port 9 of loopback; connecting is refused at once.
    let pawd = Pawd::start(Setup::new().provider(
        "local",
        "ollama",
        "http://127.0.0.1:9",
        "connect_timeout = \"2s\"\n",
    ))
    .await;
    let client = pawd.client().await;
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    rest(&mut chat).await;
    let error = finally(&client, &id).await.error.unwrap();
    assert!(
        error.message.contains("local") && !error.hint.is_empty(),
        "{error:?}"
    );
    let test = ProviderRpcClient::test(&client, Some("local".into())).await;
    let error = refused(test, ErrorKind::Unavailable);
    assert_eq!(error.id.as_deref(), Some("local"));
}

#[tokio::test]
async fn unknown_provider_is_not_replaced_by_another() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let asked = Asking::new("hello")
        .provider("elsewhere".to_owned())
        .ask(&client)
        .await;
    refused(asked.map(drop), ErrorKind::NotFound);
    assert!(
        model
            .asked()
            .iter()
            .all(|question| !question.line.contains("chat"))
    );
}

#[tokio::test]
async fn unsubscribing_cancels_the_chat() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let (_steps, answer) = Answer::steps();
    model.will(answer);
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    model.was_asked(1).await;
    within("unsubscribing", chat.unsubscribe()).await.unwrap();
    assert_eq!(finally(&client, &id).await.state, State::Cancelled);
}

/// A question whose answer has begun, asked by a pawctl of its own: that, and the steps of the model.
async fn begun(model: &Model, pawd: &Pawd) -> (tokio::process::Child, Sender<Step>) {
    let (steps, answer) = Answer::steps();
    model.will(answer);
    let mut pawctl = tokio::process::Command::new(harness::stage::program("pawctl"));
    pawctl
        .arg("--root")
        .arg(pawd.root.path())
        .args(["chat", "hello"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true);
    let mut pawctl = pawctl.spawn().unwrap();
    steps.send(Step::Piece("a word".into())).await.unwrap();
    let mut heard = [0; 6];
    let out = pawctl.stdout.as_mut().unwrap();
    within("the first word", out.read_exact(&mut heard))
        .await
        .unwrap();
    assert_eq!(&heard, b"a word");
    (pawctl, steps)
}

/// The only chat of a pawd.
async fn only_chat(client: &Client) -> String {
    let listed = ActionRpcClient::list(client, None, None, None);
    let mut chats = within("listing actions", listed).await.unwrap().items;
    assert_eq!(chats.len(), 1, "{chats:?}");
    chats.remove(0).id
}

/// The model sees that its connection is closed: whoever makes it go on finds nobody who takes the steps.
async fn is_left(steps: Sender<Step>) {
    let gone = async { while steps.send(Step::Piece("late".into())).await.is_ok() {} };
    within("the end of the connection to the model", gone).await;
}

#[tokio::test]
async fn chat_that_is_cancelled_by_its_action_is_left_by_the_provider() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let (_pawctl, steps) = begun(&model, &pawd).await;
    let id = only_chat(&client).await;
    let cancelled = pawd.pawctl(&["action", "cancel", &id]).await;
    assert!(cancelled.status.success(), "{cancelled:?}");
    is_left(steps).await;
    assert_eq!(finally(&client, &id).await.state, State::Cancelled);
}

#[tokio::test]
async fn chat_whose_client_is_killed_is_left_by_the_provider() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let (mut pawctl, steps) = begun(&model, &pawd).await;
    let id = only_chat(&client).await;
    // It has no time to take anything back: its connection breaks.
    pawctl.kill().await.unwrap();
    is_left(steps).await;
    assert_eq!(finally(&client, &id).await.state, State::Cancelled);
}

#[tokio::test]
async fn chat_without_listener_is_kept_as_an_action() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let action = client
        .submit(
            "chat".into(),
            object(json!({"text": "hello"})),
            None,
            None,
            None,
            None,
        )
        .await
        .unwrap();
    let action = finally(&client, &action.id).await;
    assert_eq!(action.state, State::Completed, "{action:?}");
    assert_eq!(action.result.unwrap()["text"], "Hello world");
}

#[tokio::test]
async fn without_provider_a_chat_is_refused_with_what_to_do() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let asked = Asking::new("hello").ask(&client).await;
    match asked {
        Err(CallError::Call(error)) => {
            assert!(error.data().unwrap().get().contains("hint"), "{error}")
        }
        other => panic!("{other:?}"),
    }
}

/// Nobody has to stay: the id is told at once, and whoever has it finds the answer.
#[tokio::test]
async fn answer_of_a_chat_in_the_background_is_waited_for_by_its_id() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let (steps, silent) = Answer::steps();
    model.will(silent);
    let begun = pawd.pawctl(&["chat", "--background", "hello"]).await;
    assert_eq!(begun.status.code(), Some(0), "{begun:?}");
    let id = String::from_utf8(begun.stdout).unwrap().trim().to_owned();
    let client = pawd.client().await;
    assert!(!show(&client, &id).await.state.is_final());
    steps
        .send(Step::Piece("hello yourself".into()))
        .await
        .unwrap();
    steps.send(Step::End).await.unwrap();
    let waited = pawd.pawctl(&["-o", "json", "action", "wait", &id]).await;
    assert_eq!(waited.status.code(), Some(0), "{waited:?}");
    let action: serde_json::Value = serde_json::from_slice(&waited.stdout).unwrap();
    assert_eq!(action["state"], "completed");
    assert_eq!(action["result"]["text"], "hello yourself");
}
