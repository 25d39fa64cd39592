//! A question that failed for the moment is asked again, within bounds, and nobody is shown half an answer as a whole one.

use harness::{
    ANSWERS_ALL, Answer, Asking, Dialect, Model, Pawd, Setup, Step,
    chaos::{Chaos, Fault, Then},
    dialect::TEXT,
    within,
    words::{accepted, answer, done, finally, in_workspace, rest, say, tool},
};
use paw_api::{
    action::Answer as Says,
    provider::{Attempt, ChatEvent},
};
use paw_policy::State;
use serde_json::json;

use crate::turns::calls_of;

/// The wires that a model is asked over.
const WIRES: [fn(Setup, &Model, &str) -> Setup; 2] = [Setup::ollama_with, Setup::openai_with];

fn loading() -> Answer {
    let said =
        json!({"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}});
    Answer::Status(503, Vec::new(), said.to_string())
}

fn outcomes(attempts: &[Attempt]) -> Vec<&str> {
    attempts.iter().map(|it| it.outcome.as_str()).collect()
}

#[tokio::test]
async fn question_that_failed_for_the_moment_is_asked_again() {
    for wire in WIRES {
        let model = Model::start().await;
        let pawd = Pawd::start(wire(Setup::new(), &model, "")).await;
        let client = pawd.client().await;
        model.will(Answer::overload());
        let events = rest(&mut say(&client, "hello").await).await;
        let result = done(&events);
        assert_eq!(
            (result.text.as_str(), outcomes(&result.attempts)),
            ("Hello world", vec!["overload", "ok"])
        );
        assert!(
            !events
                .iter()
                .any(|it| matches!(it, ChatEvent::StreamReset { .. })),
            "nothing had been said: {events:?}"
        );
    }
}

#[tokio::test]
async fn answer_that_broke_off_begins_again_and_says_so() {
    for wire in WIRES {
        let model = Model::start().await;
        let pawd = Pawd::start(wire(Setup::new(), &model, "")).await;
        let client = pawd.client().await;
        model.will(Answer::cut(&["half an", " answer"]));
        let events = rest(&mut say(&client, "hello").await).await;
        let reset = events
            .iter()
            .position(|it| matches!(it, ChatEvent::StreamReset { why, .. } if why == "cut"));
        let after = &events[reset.unwrap_or_else(|| panic!("nothing was reset: {events:?}"))..];
        let pieces: Vec<(u64, &str)> = after
            .iter()
            .filter_map(|it| match it {
                ChatEvent::Delta { seq, text } => Some((*seq, text.as_str())),
                _ => None,
            })
            .collect();
        assert_eq!(pieces, [(0, "Hello"), (1, " world")]);
        let result = done(&events);
        assert_eq!(
            (result.text.as_str(), outcomes(&result.attempts)),
            ("Hello world", vec!["cut", "ok"])
        );
    }
}

#[tokio::test]
async fn call_of_an_answer_that_breaks_off_after_it_is_not_done_on_any_wire() {
    let chaos = Chaos::start();
    let mut setup = Setup::new();
    for dialect in Dialect::ALL {
        let kind = dialect.kind();
        let begun = dialect.call("files__read", &json!({"path": "note.txt"}));
        let fault = Fault::Stream(Vec::new(), begun, Then::Closes);
        chaos.plays(kind, dialect, fault, Some(1));
        setup = setup.provider(kind, kind, &chaos.url(kind, dialect), "");
    }
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    for dialect in Dialect::ALL {
        let provider = Some(dialect.kind().to_owned());
        let begun = Asking::new("hello").provider(provider).ask(&client);
        let mut chat = within("beginning a chat", begun).await.expect("accepted");
        let id = accepted(&mut chat).await;
        let result = done(&rest(&mut chat).await).clone();
        assert_eq!(
            (result.text.as_str(), outcomes(&result.attempts)),
            (TEXT, vec!["cut", "ok"]),
            "{dialect:?}"
        );
        assert_eq!(calls_of(&client, &id).await, [], "{dialect:?}");
    }
    assert!(pawd.launcher.as_ref().unwrap().plans().is_empty());
}

#[tokio::test]
async fn stream_that_breaks_off_after_a_call_or_after_its_result_has_the_call_done_once() {
    for wire in WIRES {
        let model = Model::start().await;
        let setup = wire(Setup::new(), &model, "");
        let root = setup.root();
        root.write("etc/policy/60-answers.cedar", ANSWERS_ALL);
        let pawd = Pawd::start_in(root, setup).await;
        let client = pawd.client().await;
        let call = [("files__write", json!({"path": "out.txt", "text": "once"}))];
        // An answer with the call breaks off, the same one is whole, and what follows its result breaks off, too.
        model.will(Answer::calls_and_breaks_off(&call));
        model.will(Answer::calls(&call));
        model.will(Answer::cut(&["It is"]));
        model.will(Answer::says(&["It is written."]));
        let mut chat = say(&client, "write it").await;
        let id = accepted(&mut chat).await;
        let asked = tool(&mut chat, "waiting_approval").await;
        let (action, digest) = (asked.action_id.unwrap(), asked.digest.unwrap());
        answer(&client, &action, digest, Says::Approve)
            .await
            .unwrap();
        let events = rest(&mut chat).await;
        let result = done(&events);
        assert_eq!(
            (result.text.as_str(), outcomes(&result.attempts)),
            ("It is written.", vec!["cut", "ok", "cut", "ok"])
        );
        let calls = calls_of(&client, &id).await;
        let ends: Vec<_> = calls.iter().map(|it| (it.id.as_str(), it.state)).collect();
        assert_eq!(ends, [(action.as_str(), State::Completed)]);
        let made = pawd.launcher.as_ref().unwrap().plans().len();
        assert_eq!(made, 1, "one sandbox for one write");
        assert_eq!(in_workspace(&pawd, "out.txt").as_deref(), Some("once"));
    }
}

#[tokio::test]
async fn model_that_falls_silent_is_asked_again() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama_with(&model, "stall_timeout = \"300ms\"\n")).await;
    let client = pawd.client().await;
    let (steps, answer) = Answer::steps();
    steps.send(Step::Piece("I think".into())).await.unwrap();
    model.will(answer);
    let events = rest(&mut say(&client, "hello").await).await;
    let result = done(&events);
    assert_eq!(
        (result.text.as_str(), outcomes(&result.attempts)),
        ("Hello world", vec!["timed_out", "ok"])
    );
}

#[tokio::test]
async fn answer_that_takes_too_long_as_a_whole_is_given_up_and_not_asked_for_again() {
    let model = Model::start().await;
    let pawd =
        Pawd::start(Setup::new().ollama_with(&model, "total_timeout = \"1s\"\nmax_retries = 9\n"))
            .await;
    let client = pawd.client().await;
    // It has begun in time, and may still go on in time.
    let (steps, answer) = Answer::steps();
    steps.send(Step::Piece("I think".into())).await.unwrap();
    model.will(answer);
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    rest(&mut chat).await;
    let ended = finally(&client, &id).await;
    assert_eq!(outcomes(&ended.attempts), ["timed_out"]);
    let error = ended.error.expect("it failed");
    assert_eq!((error.kind.as_str(), model.questions()), ("timed_out", 1));
    assert!(
        error.message.contains("to complete its answer"),
        "{error:?}"
    );
}

#[tokio::test]
async fn question_that_is_refused_is_asked_once() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().openai_with(&model, "max_retries = 10\n")).await;
    let client = pawd.client().await;
    for (status, code) in [
        (401, "invalid_api_key"),
        (429, "insufficient_quota"),
        (400, "context_length_exceeded"),
        (404, "model_not_found"),
    ] {
        let before = model.questions();
        let said = json!({"error": {"message": "no", "type": code, "code": code}}).to_string();
        model.will(Answer::Status(status, Vec::new(), said));
        let events = rest(&mut say(&client, "hello").await).await;
        assert!(
            matches!(events.last(), Some(ChatEvent::Failed { .. })),
            "{events:?}"
        );
        assert_eq!(model.questions() - before, 1, "{code}");
    }
}

#[tokio::test]
async fn provider_that_stays_broken_is_given_up_after_its_retries() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama_with(&model, "max_retries = 2\n")).await;
    let client = pawd.client().await;
    for _ in 0..4 {
        model.will(Answer::overload());
    }
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    rest(&mut chat).await;
    let error = finally(&client, &id).await.error.expect("it failed");
    assert_eq!((error.kind.as_str(), model.questions()), ("overload", 3));
    assert!(error.message.contains("tried 3 times"), "{error:?}");
}

#[tokio::test]
async fn wait_that_would_end_after_the_deadline_is_not_begun() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().openai_with(&model, "")).await;
    let client = pawd.client().await;
    let said =
        json!({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}).to_string();
    model.will(Answer::Status(
        429,
        vec![("retry-after", "86000".into())],
        said,
    ));
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    rest(&mut chat).await;
    let error = finally(&client, &id).await.error.expect("it failed");
    assert_eq!((error.kind.as_str(), model.questions()), ("rate", 1));
}

#[tokio::test]
async fn model_that_loads_is_waited_for_and_that_is_no_retry() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().openai_with(&model, "max_retries = 0\n")).await;
    let client = pawd.client().await;
    for _ in 0..3 {
        model.will(loading());
    }
    let events = rest(&mut say(&client, "hello").await).await;
    let result = done(&events);
    assert_eq!(
        (model.questions(), outcomes(&result.attempts)),
        (4, vec!["loading", "ok"])
    );
}

#[tokio::test]
async fn retries_are_a_tenth_of_the_questions_and_ten_more() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama_with(&model, "max_retries = 2\n")).await;
    let client = pawd.client().await;
    for _ in 0..40 {
        model.will(Answer::overload());
    }
    for _ in 0..6 {
        rest(&mut say(&client, "hello").await).await;
    }
    // Ten were saved, which is what five questions use, and the sixth finds less than one.
    assert_eq!(model.questions(), 6 + 10);
}
