//! What is critical takes a second factor: another person, or a one-time code. Here the code; other people are in `e2e`.
//!
//! Reading a path that leads out of the workspace is critical, and when it is done the tool refuses it: so these tests see an
//! execution without an effect.

use std::time::{SystemTime, UNIX_EPOCH};

use harness::{Pawd, Setup, within};
use jsonrpsee::async_client::Client;
use paw_api::{
    ErrorKind,
    action::{Action, Answer, ApprovalRpcClient},
    trail::AuditRpcClient,
};
use paw_policy::{Digest, Risk, State};
use serde_json::{Value, json};
use totp_rs::Totp;

use harness::words::{answer, ask_to_write, call, finally, refused, show};

async fn critical(client: &Client) -> Action {
    let action = call(client, "read", json!({"path": "../out"})).await;
    assert_eq!(
        (action.state, action.risk),
        (State::WaitingApproval, Risk::Critical)
    );
    action
}

/// The code of `steps` after now.
fn code(authenticator: &Totp, steps: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    authenticator
        .generate(now.as_secs() + 30 * steps)
        .to_string()
}

async fn enrolled(client: &Client) -> Totp {
    let begun = within("beginning", client.enroll(None)).await.unwrap();
    let authenticator = Totp::from_url(&begun.url).unwrap();
    let first = code(&authenticator, 0);
    within("confirming", client.confirm(first)).await.unwrap();
    authenticator
}

async fn approve(
    client: &Client,
    action: &Action,
    code: &str,
) -> Result<Action, jsonrpsee::core::client::Error> {
    let said = client.answer(
        action.id.clone(),
        action.digest,
        Answer::Approve,
        None,
        Some(code.into()),
        None,
        None,
    );
    within("answering", said).await
}

/// No habit says yes to what is critical: it takes the beginning of its digest, which has to be read, at each way to say yes by hand.
#[tokio::test(flavor = "multi_thread")]
async fn o1_critical_question_takes_the_beginning_of_its_digest_at_a_terminal() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let authenticator = enrolled(&client).await;
    let action = critical(&client).await;
    let (digest, good) = (action.digest.to_string(), code(&authenticator, 1));
    let asks = "This is critical. To approve exactly this plan, once, type the first 6 characters of its digest:";
    let approve = ["approval", "approve", &action.id, "--code", &good];
    for typed in ["y", "yes", "", &digest[1..7]] {
        let mut window = pawd.pawctl_in_a_window((40, 132), &approve);
        window.until(asks);
        window.press(format!("{typed}\r").as_bytes());
        window.until("it was not confirmed");
        assert_eq!(window.end().code(), Some(1), "{typed:?}");
    }
    let mut watch = pawd.pawctl_in_a_window((40, 132), &["approval", "watch"]);
    watch.until("[y/d/n/q]");
    watch.press(b"y");
    watch.until(asks);
    watch.press(b"yes\r");
    watch.until("it was not confirmed; the question stays");
    watch.press(b"q");
    assert!(watch.end().success());
    assert_eq!(
        show(&client, &action.id).await.state,
        State::WaitingApproval
    );
    let mut watch = pawd.pawctl_in_a_window((40, 132), &["approval", "watch"]);
    watch.until("[y/d/n/q]");
    watch.press(b"y");
    watch.until(asks);
    watch.press(format!("{}\r", &digest[..6]).as_bytes());
    watch.until("a one-time code, or Enter to be the first of two:");
    // Without a code it would be the first of two, which who asked for it cannot be.
    watch.press(b"\rq");
    assert!(watch.end().success());
    let mut window = pawd.pawctl_in_a_window((40, 132), &approve);
    window.until(asks);
    window.press(format!("{}\r", &digest[..6]).as_bytes());
    assert_eq!(window.end().code(), Some(0));
    assert_eq!(
        finally(&client, &action.id).await.error.unwrap().kind,
        "tool",
        "it was done"
    );
}

#[tokio::test]
async fn critical_action_takes_a_code_that_counts_once() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let (one, two) = (
        critical(&client).await,
        call(&client, "read", json!({"path": "../two"})).await,
    );
    refused(
        answer(&client, &one.id, one.digest, Answer::Approve).await,
        ErrorKind::Denied,
    );
    refused(approve(&client, &one, "000000").await, ErrorKind::Denied);
    let authenticator = enrolled(&client).await;
    // The code that confirmed the enrolment was seen, so it is none any more.
    refused(
        approve(&client, &one, &code(&authenticator, 0)).await,
        ErrorKind::Denied,
    );
    let good = code(&authenticator, 1);
    approve(&client, &one, &good).await.unwrap();
    assert_eq!(
        finally(&client, &one.id).await.error.unwrap().kind,
        "tool",
        "it was done"
    );
    refused(approve(&client, &two, &good).await, ErrorKind::Denied);
    pawd.stop().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    refused(approve(&client, &two, &good).await, ErrorKind::Denied);
    assert_eq!(show(&client, &two.id).await.state, State::WaitingApproval);
    let recorded = AuditRpcClient::list(&client, None, None, None, Some(200))
        .await
        .unwrap();
    let recorded = Value::Array(recorded).to_string();
    for words in [
        "approver_enrolled",
        "code_refused",
        "the code was used already",
        "\"second_factor\":\"code\"",
    ] {
        assert!(recorded.contains(words), "{words} is missing in {recorded}");
    }
    for secret in [authenticator.secret().to_base32(), good] {
        assert!(
            !recorded.contains(&secret),
            "no secret and no code is in the log"
        );
        assert!(!pawd.daemon.stderr().contains(&secret));
    }
}

/// A code is good once, so it is not spent on what is refused anyway.
#[tokio::test]
async fn code_that_came_with_an_answer_that_does_not_fit_is_good_for_one_that_does() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let authenticator = enrolled(&client).await;
    let action = critical(&client).await;
    let good = code(&authenticator, 1);
    let other = Action {
        digest: Digest::of(b"another plan"),
        ..action.clone()
    };
    refused(approve(&client, &other, &good).await, ErrorKind::Conflict);
    approve(&client, &action, &good).await.unwrap();
    refused(approve(&client, &action, &good).await, ErrorKind::Conflict);
}

#[tokio::test]
async fn guesses_of_a_code_are_stopped() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let action = critical(&client).await;
    let authenticator = enrolled(&client).await;
    for _ in 0..5 {
        refused(approve(&client, &action, "12345").await, ErrorKind::Denied);
    }
    let refused = refused(
        approve(&client, &action, &code(&authenticator, 1)).await,
        ErrorKind::Denied,
    );
    assert!(refused.retry_after_ms.unwrap() > 50_000, "{refused:?}");
    assert_eq!(
        show(&client, &action.id).await.state,
        State::WaitingApproval
    );
}

#[tokio::test]
async fn nobody_enrolls_a_second_authenticator_without_the_first() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let authenticator = enrolled(&client).await;
    refused(client.enroll(None).await, ErrorKind::Denied);
    refused(
        client.enroll(Some("000000".into())).await,
        ErrorKind::Denied,
    );
    within(
        "beginning anew",
        client.enroll(Some(code(&authenticator, 1))),
    )
    .await
    .unwrap();
    assert_eq!(
        refused(client.confirm("000000".into()).await, ErrorKind::Denied).kind,
        ErrorKind::Denied
    );
    let recorded = AuditRpcClient::list(&client, None, None, None, Some(200))
        .await
        .unwrap();
    let times = |event: &str| {
        let of_it = |record: &&Value| record.to_string().contains(event);
        recorded.iter().filter(of_it).count()
    };
    assert_eq!(
        (times("approver_enrolled"), times("code_refused")),
        (1, 3),
        "the log says enrolled of nobody who was not"
    );
}

/// The rule for one operator is not there unless an administrator puts it there.
#[tokio::test]
async fn requester_does_not_approve_their_own_high_action() {
    let pawd = Pawd::start(Setup::new().shipped_policy()).await;
    let client = pawd.client().await;
    let action = ask_to_write(&client, "out.txt", "hello").await;
    refused(
        answer(&client, &action.id, action.digest, Answer::Approve).await,
        ErrorKind::Denied,
    );
    let authenticator = enrolled(&client).await;
    refused(
        approve(&client, &action, &code(&authenticator, 1)).await,
        ErrorKind::Denied,
    );
    assert_eq!(
        show(&client, &action.id).await.state,
        State::WaitingApproval
    );
    assert!(pawd.launcher.as_ref().unwrap().plans().is_empty());
}
