//! The life of an action, from what was asked to what became of it.

use harness::{Answer, Model, Pawd, Setup, within};
use paw_api::{ErrorKind, action::ActionRpcClient};
use paw_policy::{Decision, Risk, State};
use serde_json::{Value, json};

use harness::words::{accepted, call, finally, leave_in_workspace, object, refused, say, show};

#[tokio::test]
async fn reading_tool_runs_without_asking() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    leave_in_workspace(&pawd, "note.txt", "remember the milk");
    let action = call(&client, "read", json!({"path": "note.txt"})).await;
    assert_eq!(action.state, State::Completed, "{action:?}");
    assert_eq!(
        (action.verdict.decision, action.risk),
        (Decision::Allow, Risk::Medium)
    );
    assert!(
        action
            .result
            .unwrap()
            .to_string()
            .contains("remember the milk")
    );
}

#[tokio::test]
async fn action_remembers_who_when_and_in_what_it_was_done() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let action = call(&client, "list", json!({"path": "."})).await;
    let action = show(&client, &action.id).await;
    assert_eq!(action.requested_by.uid, nix::unistd::geteuid().as_raw());
    let times = action.timestamps;
    assert!(
        times.created <= times.decided.unwrap()
            && times.decided <= times.started
            && times.started <= times.ended,
        "{times:?}"
    );
    let plans = pawd.launcher.as_ref().unwrap().plans();
    assert_eq!(action.sandbox.as_deref(), Some(plans[0].id.as_str()));
    assert!(action.attestation.is_some());
    assert_eq!(action.plan.unwrap().digest().unwrap(), action.digest);
}

/// Submits this and expects this refusal, and that nothing was executed.
async fn check_refused(kind: &str, arguments: Value, expected: ErrorKind) {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let asked = client
        .submit(
            kind.into(),
            object(arguments.clone()),
            None,
            None,
            Some(true),
            None,
        )
        .await;
    refused(asked, expected);
    assert!(
        pawd.launcher
            .is_some_and(|launcher| launcher.plans().is_empty())
    );
}

#[tokio::test]
async fn unknown_kind_is_denied() {
    check_refused("launch_missiles", json!({}), ErrorKind::Denied).await;
}

#[tokio::test]
async fn unknown_tool_is_denied() {
    check_refused(
        "tool_call",
        json!({"skill": "files", "tool": "erase", "arguments": {}}),
        ErrorKind::Denied,
    )
    .await;
}

#[tokio::test]
async fn skill_that_the_agent_may_not_use_is_denied() {
    let pawd =
        Pawd::start(Setup::new().with("\n[agent.mute]\ninstructions = \"Say little.\"\n")).await;
    let client = pawd.client().await;
    let arguments = object(json!({"skill": "files", "tool": "list", "arguments": {"path": "."}}));
    let asked = client
        .submit(
            "tool_call".into(),
            arguments,
            Some("mute".into()),
            None,
            Some(true),
            None,
        )
        .await;
    refused(asked, ErrorKind::Denied);
    assert!(pawd.launcher.as_ref().unwrap().plans().is_empty());
}

#[tokio::test]
async fn unreadable_argument_is_denied() {
    check_refused(
        "tool_call",
        json!({"skill": "files", "tool": "read", "arguments": "note.txt"}),
        ErrorKind::Denied,
    )
    .await;
}

#[tokio::test]
async fn caller_cannot_give_a_risk_or_an_identity() {
    for member in ["risk", "uid", "approved", "digest"] {
        check_refused(
            "chat",
            json!({"text": "hello", member: "low"}),
            ErrorKind::Denied,
        )
        .await;
    }
}

#[tokio::test]
async fn tool_that_fails_is_failed() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let action = call(&client, "read", json!({"path": "nowhere.txt"})).await;
    assert_eq!(action.state, State::Failed, "{action:?}");
    assert_eq!(action.error.unwrap().kind, "tool");
}

#[tokio::test]
async fn cancelled_action_stays_cancelled() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let (_steps, answer) = Answer::steps();
    model.will(answer);
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    within("cancelling", client.cancel(id.clone()))
        .await
        .unwrap();
    assert_eq!(finally(&client, &id).await.state, State::Cancelled);
    refused(client.cancel(id).await, ErrorKind::Conflict);
}

#[tokio::test]
async fn id_may_be_shortened_as_long_as_it_is_unique() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let action = call(&client, "list", json!({"path": "."})).await;
    assert_eq!(show(&client, &action.id[..13]).await.id, action.id);
    refused(
        ActionRpcClient::show(&client, "ffffffff".into()).await,
        ErrorKind::NotFound,
    );
}
