//! The clock of the host is set back while pawd does not run. What was written before is then of later, as the files say: the tests write
//! their times, as nobody but root sets a clock.

use std::{
    fs::File,
    time::{Duration, SystemTime},
};

use harness::{
    Pawd, Setup,
    words::{answer, ask_to_write, call, finally, refused},
};
use paw_api::{
    ErrorKind,
    action::{Answer, ApprovalRpcClient as _},
};
use paw_policy::{Decision, State};
use serde_json::{Value, json};

/// Has it look as if the clock had been ahead by so much when pawd ended.
pub(crate) fn ended_later(pawd: &Pawd, by: Duration) {
    let file = File::open(pawd.root.path().join("state/pawd.redb")).unwrap();
    file.set_modified(SystemTime::now() + by).unwrap();
}

async fn finds(pawd: &Pawd, id: &str) -> bool {
    let output = pawd.pawctl(&["doctor", "-o", "json"]).await;
    let doctor: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = doctor["findings"].as_array().unwrap();
    findings.iter().any(|it| it["id"] == id)
}

#[tokio::test]
async fn question_whose_time_is_over_is_not_open_again_by_a_clock_that_is_set_back() {
    let mut pawd = Pawd::start(Setup::new().with("\n[actions]\napproval_expiry = \"1h\"\n")).await;
    let asked = ask_to_write(&pawd.client().await, "out.txt", "text").await;
    assert!(!finds(&pawd, "clock.behind").await);
    assert_eq!(pawd.stop().await, 0);
    // Half an hour is not enough.
    ended_later(&pawd, Duration::from_secs(1_800));
    pawd.start_again().await;
    let client = pawd.client().await;
    let state = harness::words::show(&client, &asked.id).await.state;
    assert_eq!(state, State::WaitingApproval);
    assert!(finds(&pawd, "clock.behind").await);
    assert_eq!(pawd.stop().await, 0);
    ended_later(&pawd, Duration::from_secs(7_200));
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(finally(&client, &asked.id).await.state, State::Expired);
    let late = answer(&client, &asked.id, asked.digest, Answer::Approve).await;
    refused(late, ErrorKind::Conflict);
    // What is written now is of now: the next life goes by the clock again.
    assert_eq!(pawd.stop().await, 0);
    pawd.start_again().await;
    assert!(!finds(&pawd, "clock.behind").await);
}

/// A grant is made for an hour while the clock is two days ahead.
#[tokio::test]
async fn grant_of_a_clock_that_was_ahead_is_not_in_force_when_it_is_right() {
    let mut pawd = Pawd::start(Setup::new()).await;
    assert_eq!(pawd.stop().await, 0);
    ended_later(&pawd, Duration::from_secs(48 * 3_600));
    pawd.start_again().await;
    let client = pawd.client().await;
    let asked = ask_to_write(&client, "out.txt", "text").await;
    let (id, digest, hour) = (asked.id.clone(), asked.digest, Some(3_600_000));
    let granted = client.answer(id, digest, Answer::Approve, None, None, None, hour);
    granted.await.unwrap();
    finally(&client, &asked.id).await;
    assert_eq!(client.grants().await.unwrap().len(), 1);
    assert_eq!(pawd.stop().await, 0);
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(client.grants().await.unwrap().len(), 0);
    let again = call(&client, "write", json!({"path": "out.txt", "text": "text"})).await;
    assert_eq!(again.verdict.decision, Decision::Ask);
}
