//! What waits for a person is in the store while it does: little of it is in memory, and what is done is what was asked.

use std::fs;

use harness::{Pawd, Setup};
use paw_api::{
    ErrorKind,
    action::{Action, Answer, ApprovalRpcClient},
};
use paw_policy::{Operation, State};
use paw_store::{ActionRecord, Batch, OpenOptions, Store};

use harness::words::{answer, ask_to_write, finally, in_workspace, refused};

/// Bytes of memory that a process has to itself and others.
fn resident(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kilobytes = line.split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn questions_that_wait_are_not_held_in_memory() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let text = "a line of text\n".repeat(16_000);
    let mut asked = Vec::new();
    // The buffers and caches of the first ones stay.
    for number in 0..20 {
        asked.push(ask_to_write(&client, &format!("{number}.txt"), &text).await);
    }
    let before = resident(pawd.daemon.pid());
    for number in 20..80 {
        asked.push(ask_to_write(&client, &format!("{number}.txt"), &text).await);
    }
    let grown = resident(pawd.daemon.pid()).saturating_sub(before);
    assert!(grown < 8_000_000, "14 MB of plans take {grown} bytes");
    // Nor does the next life take them all in.
    assert_eq!(pawd.stop().await, 0);
    pawd.start_again().await;
    let client = pawd.client().await;
    let whole = resident(pawd.daemon.pid());
    assert!(whole < before + 8_000_000, "{whole} bytes, {before} before");
    let last = asked.last().unwrap();
    answer(&client, &last.id, last.digest, Answer::Approve)
        .await
        .unwrap();
    assert_eq!(finally(&client, &last.id).await.state, State::Completed);
    assert_eq!(in_workspace(&pawd, "79.txt"), Some(text));
}

/// Changes actions in the store of a pawd that does not run.
fn change(pawd: &Pawd, actions: &[Action], change: impl Fn(&mut ActionRecord)) {
    let path = pawd.root.path().join("state/pawd.redb");
    let store = Store::open(&path, OpenOptions::new("0.0.0")).unwrap();
    let mut batch = Batch::new();
    for action in actions {
        let mut record = store.action(action.id.parse().unwrap()).unwrap().unwrap();
        change(&mut record);
        batch.put_action(&record).unwrap();
    }
    store.commit(&batch).unwrap();
}

#[tokio::test]
async fn plan_that_was_changed_in_the_store_is_never_done() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let asked = [
        ask_to_write(&client, "answered.txt", "hello").await,
        ask_to_write(&client, "taken-back.txt", "hello").await,
        ask_to_write(&client, "as-it-was.txt", "hello").await,
    ];
    assert_eq!(pawd.stop().await, 0);
    change(&pawd, &asked[..2], |record| {
        let Operation::ToolCall(call) = &mut record.plan.operation else {
            panic!("{record:?}");
        };
        call.arguments
            .insert("text".into(), "something else".into());
    });
    pawd.start_again().await;
    let client = pawd.client().await;
    let [answered, taken_back, as_it_was] = &asked;
    refused(
        answer(&client, &answered.id, answered.digest, Answer::Approve).await,
        ErrorKind::Conflict,
    );
    refused(
        paw_api::action::ActionRpcClient::cancel(&client, taken_back.id.clone()).await,
        ErrorKind::Conflict,
    );
    for action in [answered, taken_back] {
        let ended = finally(&client, &action.id).await;
        assert_eq!(ended.state, State::Failed, "{ended:?}");
        assert_eq!(ended.error.unwrap().kind, "altered");
    }
    let listed = ApprovalRpcClient::list(&client, None, None).await.unwrap();
    let listed: Vec<_> = listed.into_iter().map(|it| it.action).collect();
    assert_eq!(listed, std::slice::from_ref(&as_it_was.id));
    answer(&client, &as_it_was.id, as_it_was.digest, Answer::Approve)
        .await
        .unwrap();
    assert_eq!(
        finally(&client, &as_it_was.id).await.state,
        State::Completed
    );
    for (name, there) in [
        ("answered.txt", None),
        ("taken-back.txt", None),
        ("as-it-was.txt", Some("hello")),
    ] {
        assert_eq!(in_workspace(&pawd, name).as_deref(), there, "{name}");
    }
}

/// More of them than are closed at once: their time is over when pawd starts.
#[tokio::test]
async fn questions_that_expire_together_all_expire() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let mut asked = Vec::new();
    for number in 0..150 {
        asked.push(ask_to_write(&client, &format!("{number}.txt"), "hello").await);
    }
    assert_eq!(pawd.stop().await, 0);
    change(&pawd, &asked, |record| record.expires_ms = Some(1));
    pawd.start_again().await;
    let client = pawd.client().await;
    for action in &asked {
        assert_eq!(finally(&client, &action.id).await.state, State::Expired);
    }
    let listed = ApprovalRpcClient::list(&client, None, None).await.unwrap();
    assert!(listed.is_empty(), "{listed:?}");
}
