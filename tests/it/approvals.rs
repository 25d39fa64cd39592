//! A person's answer: bound to what was shown, given once, in time, by somebody who may.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use harness::{Answer as Says, Model, Pawd, Setup, within};
use paw_api::{
    ErrorKind,
    action::{ActionRpcClient as _, Answer, ApprovalRpcClient},
    system::ConfigRpcClient,
    trail::AuditRpcClient,
};
use paw_policy::{Decision, Digest, State};
use serde_json::json;

use harness::words::{
    answer, ask_to_write, call, finally, in_workspace, news, object, refused, say, show, tool,
};
use tokio::{task::JoinSet, time::timeout};

#[tokio::test]
async fn write_waits_for_a_person_and_is_then_done() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let action = ask_to_write(&client, "out.txt", "hello").await;
    assert_eq!(action.verdict.decision, Decision::Ask);
    assert_eq!(
        in_workspace(&pawd, "out.txt"),
        None,
        "nothing happens before the answer"
    );
    let questions = ApprovalRpcClient::list(&client, None, None).await.unwrap();
    assert_eq!((questions.len(), questions[0].digest), (1, action.digest));
    assert_eq!(
        questions[0].plan.digest().unwrap(),
        action.digest,
        "what is shown is what is bound"
    );
    answer(&client, &action.id, action.digest, Answer::Approve)
        .await
        .unwrap();
    let action = finally(&client, &action.id).await;
    assert_eq!(action.state, State::Completed, "{action:?}");
    assert_eq!(
        action.approved_by.unwrap().uid,
        nix::unistd::geteuid().as_raw()
    );
    assert_eq!(in_workspace(&pawd, "out.txt").as_deref(), Some("hello"));
}

#[tokio::test]
async fn approval_of_another_digest_is_refused() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let action = ask_to_write(&client, "out.txt", "hello").await;
    let other = ask_to_write(&client, "out.txt", "something else").await;
    assert_ne!(action.digest, other.digest);
    for digest in [other.digest, Digest::of(b"anything")] {
        refused(
            answer(&client, &action.id, digest, Answer::Approve).await,
            ErrorKind::Conflict,
        );
    }
    assert_eq!(
        show(&client, &action.id).await.state,
        State::WaitingApproval
    );
    assert!(pawd.launcher.as_ref().unwrap().plans().is_empty());
}

#[tokio::test]
async fn second_answer_is_refused_and_the_write_happens_once() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let action = ask_to_write(&client, "out.txt", "hello").await;
    answer(&client, &action.id, action.digest, Answer::Approve)
        .await
        .unwrap();
    refused(
        answer(&client, &action.id, action.digest, Answer::Approve).await,
        ErrorKind::Conflict,
    );
    refused(
        answer(&client, &action.id, action.digest, Answer::Deny).await,
        ErrorKind::Conflict,
    );
    assert_eq!(finally(&client, &action.id).await.state, State::Completed);
    assert_eq!(pawd.launcher.as_ref().unwrap().plans().len(), 1);
}

#[tokio::test]
async fn two_answers_at_once_permit_one_execution() {
    let pawd = Pawd::start(Setup::new()).await;
    let (one, two) = (pawd.client().await, pawd.client().await);
    let action = ask_to_write(&one, "out.txt", "hello").await;
    let (first, second) = tokio::join!(
        answer(&one, &action.id, action.digest, Answer::Approve),
        answer(&two, &action.id, action.digest, Answer::Approve),
    );
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    finally(&one, &action.id).await;
    assert_eq!(pawd.launcher.as_ref().unwrap().plans().len(), 1);
}

#[tokio::test]
async fn l7_hundred_answers_at_once_permit_one_execution() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let action = ask_to_write(&client, "out.txt", "hello").await;
    let mut answers = JoinSet::new();
    for _ in 0..20 {
        let client = Arc::new(pawd.client().await);
        for _ in 0..5 {
            let (client, id, digest) = (Arc::clone(&client), action.id.clone(), action.digest);
            answers.spawn(async move { answer(&client, &id, digest, Answer::Approve).await });
        }
    }
    let answers = answers.join_all().await;
    assert_eq!(answers.len(), 100);
    assert_eq!(answers.iter().filter(|it| it.is_ok()).count(), 1);
    for answer in answers.into_iter().filter(Result::is_err) {
        refused(answer.map(drop), ErrorKind::Conflict);
    }
    assert_eq!(finally(&client, &action.id).await.state, State::Completed);
    assert_eq!(pawd.launcher.as_ref().unwrap().plans().len(), 1);
    let approved = AuditRpcClient::list(
        &client,
        Some(action.id.clone()),
        Some("action_approved".into()),
        None,
        None,
    );
    assert_eq!(within("the records", approved).await.unwrap().len(), 1);
}

/// The same file, asked for in two conversations by the same model: each answer is for its own question, and one that was given, or is
/// for another plan, opens none.
#[tokio::test]
async fn l7_answer_of_another_conversation_or_of_a_changed_plan_is_none() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    let mut chats = Vec::new();
    for text in ["hello", "hellp"] {
        let write = json!({"path": "out.txt", "text": text});
        model.will(Says::calls(&[("files__write", write)]));
        let mut chat = say(&client, "write it").await;
        let called = tool(&mut chat, "waiting_approval").await;
        chats.push((chat, called.action_id.unwrap(), called.digest.unwrap()));
    }
    let [(_, first, its), (_, second, other)] = &chats[..] else {
        panic!("two of them");
    };
    assert_ne!(
        show(&client, first).await.session,
        show(&client, second).await.session
    );
    // One bit of the digest, and that of the other conversation.
    let mut bits = its.to_string();
    let last = if bits.pop() == Some('0') { '1' } else { '0' };
    bits.push(last);
    for digest in [bits.parse().unwrap(), *other] {
        let said = answer(&client, first, digest, Answer::Approve).await;
        refused(said, ErrorKind::Conflict);
    }
    refused(
        answer(&client, second, *its, Answer::Approve).await,
        ErrorKind::Conflict,
    );
    answer(&client, first, *its, Answer::Approve).await.unwrap();
    assert_eq!(finally(&client, first).await.state, State::Completed);
    // What was said to the first says nothing to the second.
    assert_eq!(show(&client, second).await.state, State::WaitingApproval);
    refused(
        answer(&client, first, *its, Answer::Approve).await,
        ErrorKind::Conflict,
    );
    assert_eq!(in_workspace(&pawd, "out.txt").as_deref(), Some("hello"));
}

#[tokio::test]
async fn denied_action_is_rejected_and_never_done() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let action = ask_to_write(&client, "out.txt", "hello").await;
    answer(&client, &action.id, action.digest, Answer::Deny)
        .await
        .unwrap();
    assert_eq!(finally(&client, &action.id).await.state, State::Rejected);
    refused(
        answer(&client, &action.id, action.digest, Answer::Approve).await,
        ErrorKind::Conflict,
    );
    assert_eq!(in_workspace(&pawd, "out.txt"), None);
}

#[tokio::test]
async fn expired_question_cannot_be_answered() {
    let pawd = Pawd::start(Setup::new().with("\n[actions]\napproval_expiry = \"1s\"\n")).await;
    let client = pawd.client().await;
    let action = ask_to_write(&client, "out.txt", "hello").await;
    assert_eq!(finally(&client, &action.id).await.state, State::Expired);
    refused(
        answer(&client, &action.id, action.digest, Answer::Approve).await,
        ErrorKind::Conflict,
    );
    assert!(
        within("listing", ApprovalRpcClient::list(&client, None, None))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(in_workspace(&pawd, "out.txt"), None);
}

#[tokio::test]
async fn who_waits_for_a_person_takes_no_thread_no_sandbox_and_no_time() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    // Whatever is begun with the first is there before it is counted.
    ask_to_write(&client, "first.txt", "x").await;
    let before = threads(&pawd).len();
    let mut told = news(&client).await;
    for number in 0..200 {
        ask_to_write(&client, &format!("{number}.txt"), "x").await;
    }
    // A few more may look into the store at the same time.
    let after = threads(&pawd).len();
    assert!(after < before + 20, "{after} threads, {before} before");
    assert!(pawd.launcher.as_ref().unwrap().plans().is_empty());
    // Nothing looks again and again: while nobody says anything, pawd is woken by its clocks alone.
    let until_quiet = async {
        while let Ok(item) = timeout(Duration::from_secs(2), told.next()).await {
            item.unwrap().unwrap();
        }
    };
    within("the end of the news", until_quiet).await;
    let (slept, quiet) = (threads(&pawd), Duration::from_secs(3));
    let silence = timeout(quiet, told.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    let woken: u64 = threads(&pawd)
        .iter()
        .filter_map(|(thread, count)| Some(count - slept.get(thread)?))
        .sum();
    assert!(
        woken < 100,
        "woken {woken} times in {quiet:?} for 201 questions"
    );
}

/// Threads of pawd, each with how often it went to sleep so far.
fn threads(pawd: &Pawd) -> BTreeMap<String, u64> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", pawd.daemon.pid())).unwrap();
    let of = |thread: std::fs::DirEntry| {
        let status = std::fs::read_to_string(thread.path().join("status")).ok()?;
        let line = status
            .lines()
            .find_map(|it| it.strip_prefix("voluntary_ctxt_switches:"));
        let count = line.unwrap().trim().parse().unwrap();
        Some((thread.file_name().into_string().unwrap(), count))
    };
    threads.filter_map(|thread| of(thread.unwrap())).collect()
}

#[tokio::test]
async fn question_that_is_not_there_cannot_be_answered() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let nobody = "018f0000-0000-7000-8000-000000000000";
    refused(
        answer(&client, nobody, Digest::of(b"x"), Answer::Approve).await,
        ErrorKind::NotFound,
    );
}

#[tokio::test]
async fn rule_that_came_after_the_question_counts() {
    let pawd = Pawd::start(Setup::new().with("[actions]\nconcurrency = 1\n")).await;
    let client = pawd.client().await;
    let action = ask_to_write(&client, "out.txt", "hello").await;
    let forbid = "@id(\"stop\") forbid (principal, action == Action::\"tool_call\", resource);\n";
    pawd.root
        .write("etc/policy/10-default.cedar", paw_policy::rules::DEFAULT);
    pawd.root.write("etc/policy/20-stop.cedar", forbid);
    ConfigRpcClient::reload(&client).await.unwrap();
    answer(&client, &action.id, action.digest, Answer::Approve)
        .await
        .unwrap();
    let ended = finally(&client, &action.id).await;
    assert_eq!(
        (ended.state, ended.error.unwrap().kind),
        (State::Failed, "denied".into())
    );
    assert_eq!(in_workspace(&pawd, "out.txt"), None);

    // The only place was given back: the next one is done.
    pawd.root.write("etc/policy/20-stop.cedar", "");
    ConfigRpcClient::reload(&client).await.unwrap();
    let next = call(&client, "list", json!({"path": "."})).await;
    assert_eq!(next.state, State::Completed, "{next:?}");
}

#[tokio::test]
async fn list_of_questions_has_the_oldest_that_fit_into_an_answer() {
    let pawd = Pawd::start(Setup::new()).await;
    let client = pawd.client().await;
    let mut asked = Vec::new();
    for number in 0..36 {
        let text = "x".repeat(250_000);
        let action = ask_to_write(&client, &format!("{number}.txt"), &text).await;
        asked.push(action.id);
    }
    let listed = ApprovalRpcClient::list(&client, None, None).await.unwrap();
    let listed: Vec<_> = listed.into_iter().map(|it| it.action).collect();
    // Eight MiB of plans.
    assert_eq!(listed, asked[..33]);
    let last = asked.last().unwrap();
    let shown = ApprovalRpcClient::show(&client, last.clone())
        .await
        .unwrap();
    answer(&client, last, shown.digest, Answer::Deny)
        .await
        .unwrap();
    let first = &asked[0];
    let shown = ApprovalRpcClient::show(&client, first.clone())
        .await
        .unwrap();
    answer(&client, first, shown.digest, Answer::Deny)
        .await
        .unwrap();
    let listed = ApprovalRpcClient::list(&client, None, None).await.unwrap();
    assert_eq!(
        listed.last().unwrap().action,
        asked[33],
        "the next one has room now"
    );
}

/// As many questions wait as there may, whoever asks; the next one hears when to come again, and there is room once one is answered.
#[tokio::test]
async fn no_more_questions_wait_than_there_may() {
    let pawd = Pawd::start(Setup::new().with("\n[actions]\napprovals = 2\n")).await;
    let client = pawd.client().await;
    let first = ask_to_write(&client, "1.txt", "x").await;
    ask_to_write(&client, "2.txt", "x").await;
    let third = async || {
        let arguments = json!({"path": "3.txt", "text": "x"});
        let asked = object(json!({"skill": "files", "tool": "write", "arguments": arguments}));
        let submitted = client.submit("tool_call".into(), asked, None, None, None, None);
        within("submitting", submitted).await
    };
    let told = refused(third().await, ErrorKind::Busy);
    assert!(told.retry_after_ms.is_some(), "{told:?}");
    let asked = ApprovalRpcClient::list(&client, None, None).await.unwrap();
    assert_eq!(asked.len(), 2);
    answer(&client, &first.id, first.digest, Answer::Deny)
        .await
        .unwrap();
    assert_eq!(third().await.unwrap().state, State::WaitingApproval);
}
