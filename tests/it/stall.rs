//! A disk that does not answer: what writes nothing is answered, and what waits to be written is told in time that nobody knows.

use harness::{
    Pawd, Setup, within,
    words::{ask_to_write, data, finally, show},
};
use paw_api::{
    ErrorKind,
    action::{ActionRpcClient, Answer},
    agent::AgentRpcClient,
    provider::ProviderRpcClient,
    system::SystemRpcClient,
};
use paw_policy::State;
use serde_json::json;

use harness::words::{answer, object};

#[tokio::test]
async fn while_a_commit_waits_for_its_disk_others_are_answered_and_the_caller_is_told_the_truth() {
    let pawd = Pawd::start(Setup::new().stalls_at("CommitBegins")).await;
    let client = pawd.client().await;
    let before = ask_to_write(&client, "before.txt", "hello").await;
    pawd.disk_stops();
    let asker = pawd.client().await;
    let asking = tokio::spawn(async move {
        let write =
            json!({"skill": "files", "tool": "write", "arguments": {"path": "x", "text": "y"}});
        asker
            .submit("tool_call".into(), object(write), None, None, None, None)
            .await
    });

    // What is going on is said, and whoever does not need the disk is answered.
    let said = async {
        loop {
            let status = client.status().await.expect("it is answered");
            if status
                .problems
                .iter()
                .any(|it| it.contains("has not answered"))
            {
                return;
            }
        }
    };
    within("word of the disk", said).await;
    assert_eq!(within("a ping", client.ping()).await.unwrap(), "pong");
    within("providers", ProviderRpcClient::list(&client))
        .await
        .expect("they are in memory");
    within("agents", AgentRpcClient::list(&client))
        .await
        .expect("they are in memory");
    let listed = within("a list", ActionRpcClient::list(&client, None, None, None)).await;
    let listed = listed.expect("what was there can be read").items;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].id, before.id);
    assert_eq!(
        show(&client, &before.id).await.state,
        State::WaitingApproval
    );

    // Who waits for the disk hears that nobody knows, and under which id to look.
    let error = within("an end of the waiting", asking)
        .await
        .expect("it does not panic")
        .expect_err("nothing was stored");
    let told = data(&error);
    assert_eq!(told.kind, ErrorKind::TimedOut, "{error}");
    assert!(error.to_string().contains("not known"), "{error}");
    let id = told.id.expect("it says which action");

    // The disk answers: what was asked for is stored after all, once, and can be answered as any other.
    pawd.disk_answers().await;
    let stored = async {
        loop {
            let listed = ActionRpcClient::list(&client, None, None, None).await;
            if listed.expect("it can be read").items.len() == 2 {
                return;
            }
        }
    };
    within("the action", stored).await;
    let action = show(&client, &id).await;
    assert_eq!(action.state, State::WaitingApproval);
    answer(&client, &id, action.digest, Answer::Deny)
        .await
        .expect("it can be answered");
    assert_eq!(finally(&client, &id).await.state, State::Rejected);
    let status = client.status().await.expect("it is answered");
    let silent = |problem: &String| problem.contains("has not answered");
    assert!(!status.problems.iter().any(silent), "{status:?}");
}
