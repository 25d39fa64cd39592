//! Against fatigue: what is alike is granted for a while, and what is equal is asked once. Neither goes further than a person was
//! shown.

use harness::{Answer as Says, Model, Pawd, Setup, within};
use jsonrpsee::{
    async_client::Client,
    core::client::{Error as CallError, Subscription},
};
use paw_api::{
    ErrorKind,
    action::{Action, ActionRpcClient, Answer, ApprovalRpcClient},
    provider::ChatEvent,
    system::PolicyRpcClient,
    trail::AuditRpcClient,
};
use paw_policy::{Decision, State};
use serde_json::{Value, json};

use harness::words::{
    answer, ask_to_write, call, finally, folder_in_workspace, in_workspace, leave_in_workspace,
    refused, rest, say, show, tool,
};

/// In milliseconds.
pub(crate) const HOUR: u64 = 3_600_000;

/// Says yes to what is shown; with a time, what is like it is granted for so long.
pub(crate) async fn approve(
    client: &Client,
    action: &Action,
    count: Option<u32>,
    for_ms: Option<u64>,
) -> Result<Action, CallError> {
    let said = client.answer(
        action.id.clone(),
        action.digest,
        Answer::Approve,
        None,
        None,
        count,
        for_ms,
    );
    within("answering", said).await
}

/// What a chat asks a person next.
async fn asked(client: &Client, chat: &mut Subscription<ChatEvent>) -> Action {
    let called = tool(chat, "waiting_approval").await;
    show(client, &called.action_id.unwrap()).await
}

async fn write(client: &Client, path: &str) -> Action {
    call(client, "write", json!({"path": path, "text": "x"})).await
}

async fn grants(client: &Client) -> Vec<paw_api::action::Grant> {
    within("listing grants", client.grants()).await.unwrap()
}

/// A pawd that asks whether a file may be written to `notes`.
async fn asked_to_write_a_note() -> (Pawd, Client, Action) {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    leave_in_workspace(&pawd, "other.txt", "");
    folder_in_workspace(&pawd, "default", "notes");
    let action = ask_to_write(&client, "notes/a.txt", "x").await;
    (pawd, client, action)
}

/// A pawd in which writing to `notes` is granted for an hour.
async fn granted() -> (Pawd, Client) {
    let (pawd, client, action) = asked_to_write_a_note().await;
    approve(&client, &action, None, Some(HOUR)).await.unwrap();
    let written = finally(&client, &action.id).await;
    assert_eq!(written.state, State::Completed, "{:?}", written.error);
    (pawd, client)
}

#[tokio::test]
async fn grant_permits_what_is_alike_until_it_is_revoked() {
    let (mut pawd, client) = granted().await;
    let [grant] = grants(&client).await.try_into().expect("one grant");
    assert!(
        grant.rule.contains("context.path like \"notes/*\""),
        "{}",
        grant.rule
    );
    let action = write(&client, "notes/b.txt").await;
    assert_eq!(
        (action.verdict.decision, action.verdict.rules),
        (Decision::Allow, vec![format!("grant-{}", grant.id)])
    );
    for path in ["other.txt", "notes/../other.txt", "notes"] {
        assert_eq!(
            write(&client, path).await.verdict.decision,
            Decision::Ask,
            "{path}"
        );
    }
    // It outlives pawd, and not its end or its revocation.
    pawd.stop().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(
        write(&client, "notes/c.txt").await.verdict.decision,
        Decision::Allow
    );
    within("revoking", client.revoke(grant.id.clone()))
        .await
        .unwrap();
    assert_eq!(
        write(&client, "notes/d.txt").await.verdict.decision,
        Decision::Ask
    );
    assert!(grants(&client).await.is_empty());
    refused(client.revoke(grant.id.clone()).await, ErrorKind::NotFound);
    pawd.stop().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    assert_eq!(
        write(&client, "notes/e.txt").await.verdict.decision,
        Decision::Ask
    );
    let recorded = AuditRpcClient::list(&client, None, None, None, Some(200))
        .await
        .unwrap();
    let recorded = Value::Array(recorded).to_string();
    for event in ["grant_made", "grant_revoked"] {
        assert!(recorded.contains(event), "{event} is missing in {recorded}");
    }
}

#[tokio::test]
async fn grant_is_in_the_log_before_anything_is_done_by_it() {
    let (_pawd, client) = granted().await;
    let by_grant = write(&client, "notes/b.txt").await;
    let recorded = AuditRpcClient::list(&client, None, None, None, Some(200))
        .await
        .unwrap();
    let at = |event: &str, action: &str| {
        let found = recorded.iter().find(|record| {
            let text = record.to_string();
            text.contains(event) && text.contains(action)
        });
        found.unwrap_or_else(|| panic!("{event} of {action}"))["seq"]
            .as_u64()
            .unwrap()
    };
    assert!(at("grant_made", "notes") < at("action_started", &by_grant.id));
}

#[tokio::test]
async fn forbid_that_comes_later_wins_over_a_grant() {
    let (pawd, client) = granted().await;
    let forbid = "@id(\"stop\") forbid (principal, action == Action::\"tool_call\", resource) when { context.risk == \"high\" };\n";
    pawd.root.write("etc/policy/60-stop.cedar", forbid);
    within("reloading", PolicyRpcClient::reload(&client))
        .await
        .unwrap();
    let action = write(&client, "notes/b.txt").await;
    assert_eq!(
        (action.verdict.decision, action.verdict.rules),
        (Decision::Deny, vec!["stop".to_owned()])
    );
    assert_eq!(
        grants(&client).await.len(),
        1,
        "it is still there, and still loses"
    );
}

#[tokio::test]
async fn critical_and_endless_grants_are_refused_and_the_question_stays() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let action = ask_to_write(&client, "out.txt", "x").await;
    for for_ms in [0, 999, 24 * HOUR + 1, u64::MAX] {
        refused(
            approve(&client, &action, None, Some(for_ms)).await,
            ErrorKind::Denied,
        );
    }
    assert_eq!(
        show(&client, &action.id).await.state,
        State::WaitingApproval
    );
    assert!(grants(&client).await.is_empty());
    let critical = call(&client, "read", json!({"path": "../x"})).await;
    refused(
        approve(&client, &critical, None, Some(HOUR)).await,
        ErrorKind::Denied,
    );
    assert!(pawd.launcher.as_ref().unwrap().plans().is_empty());
}

/// What takes two people is granted by nobody alone.
#[tokio::test]
async fn first_of_two_yeses_grants_nothing() {
    let pawd = Pawd::start(Setup::new()).await;
    let two = "@id(\"two\") permit (principal in Role::\"admin\", action == Action::\"approve\", resource) when { context.seconded };\n";
    pawd.root.write("etc/policy/50-single-operator.cedar", two);
    let client = pawd.client().await;
    within("reloading", PolicyRpcClient::reload(&client))
        .await
        .unwrap();
    let action = ask_to_write(&client, "out.txt", "x").await;
    refused(
        approve(&client, &action, None, Some(HOUR)).await,
        ErrorKind::Denied,
    );
    assert!(grants(&client).await.is_empty());
    let first = approve(&client, &action, None, None).await.unwrap();
    assert_eq!(first.state, State::WaitingApproval);
    assert!(grants(&client).await.is_empty());
    assert_eq!(in_workspace(&pawd, "out.txt"), None);
}

/// Invariant 6: what a turn read may be why it acts, so a yes to one such act is none to the next.
#[tokio::test]
async fn what_an_agent_read_is_granted_never() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    leave_in_workspace(&pawd, "mail.txt", "write the second file");
    let write = |path: &str| ("files__write", json!({"path": path, "text": "x"}));
    // An agent that read nothing is granted what is alike.
    model.will(Says::calls(&[write("one.txt")]));
    model.will(Says::says(&["done"]));
    let mut chat = say(&client, "write it").await;
    let first = asked(&client, &mut chat).await;
    approve(&client, &first, None, Some(HOUR)).await.unwrap();
    rest(&mut chat).await;
    let [grant] = grants(&client).await.try_into().expect("one grant");
    model.will(Says::calls(&[write("one.txt")]));
    model.will(Says::says(&["done"]));
    let mut chat = say(&client, "write it again").await;
    tool(&mut chat, "completed").await;
    rest(&mut chat).await;
    // One that did is asked, although a grant for the same write is in force, and no grant can be made of that question.
    model.will(Says::calls(&[("files__read", json!({"path": "mail.txt"}))]));
    model.will(Says::calls(&[write("one.txt")]));
    model.will(Says::says(&["done"]));
    let mut chat = say(&client, "do what the mail says").await;
    let second = asked(&client, &mut chat).await;
    refused(
        approve(&client, &second, None, Some(HOUR)).await,
        ErrorKind::Denied,
    );
    assert_eq!(
        show(&client, &second.id).await.state,
        State::WaitingApproval
    );
    approve(&client, &second, None, None).await.unwrap();
    rest(&mut chat).await;
    let [still] = grants(&client).await.try_into().expect("one grant");
    assert_eq!(still.id, grant.id);
}

#[tokio::test]
async fn answer_that_cannot_be_recorded_grants_nothing() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let action = ask_to_write(&client, "notes/a.txt", "x").await;
    drop(pawd.audit.take());
    refused(
        approve(&client, &action, None, Some(HOUR)).await,
        ErrorKind::Unavailable,
    );
    assert!(grants(&client).await.is_empty());
    assert_eq!(
        show(&client, &action.id).await.state,
        State::WaitingApproval
    );
}

#[tokio::test]
async fn equal_questions_are_one_and_each_action_is_done_once() {
    let mut pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let mut same = Vec::new();
    for _ in 0..3 {
        same.push(ask_to_write(&client, "out.txt", "x").await);
    }
    let other = ask_to_write(&client, "out.txt", "y").await;
    pawd.stop().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    let asked = within("listing", ApprovalRpcClient::list(&client, None, None))
        .await
        .unwrap();
    let shown: Vec<(&str, u32)> = asked
        .iter()
        .map(|one| (one.id.as_str(), one.waiting))
        .collect();
    assert_eq!(shown, [(same[0].id.as_str(), 3), (other.id.as_str(), 1)]);
    approve(&client, &same[0], Some(3), None).await.unwrap();
    for action in &same {
        let ended = finally(&client, &action.id).await;
        assert_eq!(ended.state, State::Completed, "{ended:?}");
        assert!(ended.approved_by.is_some());
    }
    assert_eq!(
        pawd.launcher.as_ref().unwrap().plans().len(),
        3,
        "each once"
    );
    assert_eq!(show(&client, &other.id).await.state, State::WaitingApproval);
    assert_eq!(in_workspace(&pawd, "out.txt").as_deref(), Some("x"));
}

/// Whoever adds equal actions after a person looked gets nothing by that person's yes.
#[tokio::test]
async fn yes_to_one_is_none_to_those_that_came_after_it_was_shown() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let shown = ask_to_write(&client, "out.txt", "x").await;
    let later = ask_to_write(&client, "out.txt", "x").await;
    answer(&client, &shown.id, shown.digest, Answer::Approve)
        .await
        .unwrap();
    assert_eq!(finally(&client, &shown.id).await.state, State::Completed);
    assert_eq!(show(&client, &later.id).await.state, State::WaitingApproval);
    let asked = within("listing", ApprovalRpcClient::list(&client, None, None))
        .await
        .unwrap();
    assert_eq!(asked[0].id, later.id);
    // What stands for others and is taken back leaves them waiting.
    let third = ask_to_write(&client, "out.txt", "x").await;
    within("cancelling", client.cancel(later.id)).await.unwrap();
    assert_eq!(show(&client, &third.id).await.state, State::WaitingApproval);
    answer(&client, &third.id, third.digest, Answer::Deny)
        .await
        .unwrap();
    assert_eq!(pawd.launcher.as_ref().unwrap().plans().len(), 1);
}

/// As a person does it in a terminal.
#[tokio::test]
async fn grant_is_made_at_the_terminal_and_shown_before_it_is() {
    let (pawd, client, action) = asked_to_write_a_note().await;
    let like = [
        "approval", "approve", &action.id, "--for", "1h", "--like", "this", "--yes",
    ];
    let said = pawd.pawctl(&like).await;
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    finally(&client, &action.id).await;
    let [grant] = grants(&client).await.try_into().expect("one grant");
    assert!(
        grant.rule.contains("context.path like \"notes/*\""),
        "{}",
        grant.rule
    );
    let alike = write(&client, "notes/b.txt").await;
    assert_eq!(alike.verdict.rules, [format!("grant-{}", grant.id)]);
    let listed = pawd.pawctl(&["approval", "grants"]).await;
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains(&grant.id), "{listed}");
}
