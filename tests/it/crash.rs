//! Killing things: nothing that was accepted is lost, nothing is done twice, and everything ends in a state that a person can see.

use harness::{Answer as Says, FakeLauncher, Model, Pawd, Setup, within};
use nix::sys::signal::Signal;
use paw_api::{
    ErrorKind,
    action::{ActionRpcClient, Answer},
    trail::AuditRpcClient,
};
use paw_policy::State;
use serde_json::json;

use harness::words::{
    accepted, answer, ask_to_write, call, finally, in_workspace, object, refused, rest, say, show,
};

#[tokio::test]
async fn question_outlives_a_kill_and_can_then_be_answered() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let action = ask_to_write(&pawd.client().await, "out.txt", "hello").await;
    pawd.daemon.kill9().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    let again = show(&client, &action.id).await;
    assert_eq!(
        (again.state, again.digest),
        (State::WaitingApproval, action.digest)
    );
    answer(&client, &action.id, action.digest, Answer::Approve)
        .await
        .unwrap();
    assert_eq!(finally(&client, &action.id).await.state, State::Completed);
    assert_eq!(in_workspace(&pawd, "out.txt").as_deref(), Some("hello"));
}

#[tokio::test]
async fn execution_that_a_kill_interrupts_is_failed_and_not_repeated() {
    let model = Model::start().await;
    let mut pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let (_steps, silent) = Says::steps();
    model.will(silent);
    let mut chat = say(&client, "hello").await;
    let id = accepted(&mut chat).await;
    model.was_asked(1).await;
    pawd.daemon.kill9().await;
    pawd.start_again().await;
    let action = finally(&pawd.client().await, &id).await;
    assert_eq!(action.state, State::Failed);
    assert_eq!(action.error.unwrap().kind, "interrupted");
    assert_eq!(
        model
            .asked()
            .iter()
            .filter(|question| question.line.contains("chat"))
            .count(),
        1
    );
}

#[tokio::test]
async fn finished_action_stays_as_it_was() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let before = call(&client, "list", json!({"path": "."})).await;
    let before = show(&client, &before.id).await;
    pawd.daemon.kill9().await;
    pawd.start_again().await;
    assert_eq!(show(&pawd.client().await, &before.id).await, before);
}

#[tokio::test]
async fn approved_write_is_not_done_twice_by_a_restart() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let action = ask_to_write(&client, "out.txt", "hello").await;
    answer(&client, &action.id, action.digest, Answer::Approve)
        .await
        .unwrap();
    finally(&client, &action.id).await;
    let made = pawd.launcher.as_ref().unwrap().plans().len();
    pawd.daemon.kill9().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    refused(
        answer(&client, &action.id, action.digest, Answer::Approve).await,
        ErrorKind::Conflict,
    );
    assert_eq!(pawd.launcher.as_ref().unwrap().plans().len(), made);
}

#[tokio::test]
async fn without_audit_writer_nothing_is_done() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let waiting = ask_to_write(&client, "out.txt", "hello").await;
    pawd.audit.as_mut().unwrap().kill9().await;
    // What only reads waits for no disk, and so for no writer either until pawd knows that it is gone.
    pawd.daemon.says("audit writer lost", 1).await;
    let arguments = object(json!({"skill": "files", "tool": "list", "arguments": {"path": "."}}));
    let asked = client
        .submit("tool_call".into(), arguments, None, None, Some(true), None)
        .await;
    refused(asked, ErrorKind::Unavailable);
    refused(
        answer(&client, &waiting.id, waiting.digest, Answer::Approve).await,
        ErrorKind::Unavailable,
    );
    assert!(pawd.launcher.as_ref().unwrap().plans().is_empty());
    assert_eq!(in_workspace(&pawd, "out.txt"), None);
}

#[tokio::test]
async fn action_that_could_not_be_accepted_gives_its_place_back() {
    let setup = Setup::new().with("\n[actions]\nconcurrency = 1\n");
    let mut pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    pawd.audit.as_mut().unwrap().kill9().await;
    // What only reads waits for no disk, and so for no writer either until pawd knows that it is gone.
    pawd.daemon.says("audit writer lost", 1).await;
    let arguments = object(json!({"skill": "files", "tool": "list", "arguments": {"path": "."}}));
    let asked = client
        .submit("tool_call".into(), arguments, None, None, Some(true), None)
        .await;
    refused(asked, ErrorKind::Unavailable);
    pawd.start_audit_again();
    pawd.daemon.says("audit writer reached", 2).await;
    let action = call(&client, "list", json!({"path": "."})).await;
    assert_eq!(action.state, State::Completed);
}

#[tokio::test]
async fn audit_writer_that_comes_back_is_found_and_the_chain_goes_on() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let waiting = ask_to_write(&client, "out.txt", "hello").await;
    pawd.audit.as_mut().unwrap().kill9().await;
    pawd.start_audit_again();
    // pawd says when it has found it again; asking before would be a race.
    pawd.daemon.says("audit writer reached", 2).await;
    answer(&client, &waiting.id, waiting.digest, Answer::Approve)
        .await
        .unwrap();
    assert_eq!(finally(&client, &waiting.id).await.state, State::Completed);
    let verified = within("verifying", client.verify()).await.unwrap();
    assert!(verified.ok, "{verified:?}");
}

#[tokio::test]
async fn without_launcher_tools_are_refused_and_chat_goes_on() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model).without_launcher()).await;
    let client = pawd.client().await;
    let action = call(&client, "list", json!({"path": "."})).await;
    assert_eq!(action.state, State::Failed);
    let error = action.error.unwrap();
    assert_eq!(error.kind, "unavailable", "{error:?}");
    assert!(
        error.message.contains("launcher") && !error.hint.is_empty(),
        "{error:?}"
    );
    let events = rest(&mut say(&client, "hello").await).await;
    assert!(
        matches!(events.last(), Some(paw_api::provider::ChatEvent::Done(_))),
        "{events:?}"
    );
}

#[tokio::test]
async fn launcher_that_comes_back_is_found() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    assert_eq!(
        call(&client, "list", json!({"path": "."})).await.state,
        State::Completed
    );
    drop(pawd.launcher.take());
    assert_eq!(
        call(&client, "list", json!({"path": "."})).await.state,
        State::Failed
    );
    pawd.launcher = Some(FakeLauncher::start(&pawd.root));
    pawd.daemon.says("launcher connected", 2).await;
    let made = within(
        "a call",
        ActionRpcClient::submit(
            &client,
            "tool_call".into(),
            object(json!({"skill": "files", "tool": "list", "arguments": {"path": "."}})),
            None,
            None,
            Some(true),
            None,
        ),
    );
    assert_eq!(made.await.unwrap().state, State::Completed);
}

#[tokio::test]
async fn audit_writer_that_hangs_is_as_good_as_none() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let audit = pawd.audit.as_ref().unwrap();
    audit.signal(Signal::SIGSTOP);
    // What is asked before anybody can know is sent, and makes it known.
    let first = call(&client, "list", json!({"path": "."})).await;
    pawd.daemon.says("audit writer does not answer", 1).await;
    let made = pawd.launcher.as_ref().unwrap().plans().len();
    let arguments = object(json!({"skill": "files", "tool": "list", "arguments": {"path": "."}}));
    let asked = client
        .submit("tool_call".into(), arguments, None, None, Some(true), None)
        .await;
    refused(asked, ErrorKind::Unavailable);
    assert_eq!(pawd.launcher.as_ref().unwrap().plans().len(), made);
    audit.signal(Signal::SIGCONT);
    let again = finally(&client, &first.id).await;
    assert_eq!(again.state, State::Completed);
    // The writer goes on, and has them in its log once it has read what was sent meanwhile.
    within("judged, started and ended in the log", async {
        let list = || AuditRpcClient::list(&client, Some(first.id.clone()), None, None, None);
        while list().await.unwrap().len() < 3 {}
    })
    .await;
}
