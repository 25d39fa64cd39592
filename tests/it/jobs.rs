//! Jobs: told to their agents when they are due, once, and with an outcome that a person can see whatever ends pawd in between.
//!
//! What makes a job due is the time in its record. A test does not wait for it: it writes into the store of a pawd that is not running what
//! an earlier one would have left there.

use std::{
    os::unix::process::ExitStatusExt as _,
    time::{SystemTime, UNIX_EPOCH},
};

use harness::{
    Answer, Model, Pawd, Setup, Trouble, within,
    words::{finally, refused, show},
};
use jsonrpsee::{async_client::Client, core::client::Subscription};
use nix::sys::signal::Signal;
use paw_api::{
    ErrorKind,
    events::{Event, EventItem, EventsRpcClient},
    job::{Job, JobRpcClient, JobRun},
    system::{PolicyRpcClient, SystemRpcClient},
    trail::AuditRpcClient,
};
use paw_policy::{Kind, Role, State};
use paw_store::{Batch, OpenOptions, Store};

const HOUR: u64 = 3_600_000;

fn now() -> u64 {
    let past = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(past.as_millis()).unwrap()
}

async fn start() -> (Model, Pawd) {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    (model, pawd)
}

/// Adds one; more is said of it by `overlap` and `catch_up`.
async fn add(client: &Client, cron: &str, (overlap, catch_up): (bool, bool)) -> Job {
    let (zone, text) = ("UTC".into(), "what is new?".into());
    let added = JobRpcClient::add(
        client,
        cron.into(),
        zone,
        text,
        Some("news".into()),
        None,
        Some(overlap),
        Some(catch_up),
    );
    within("adding a job", added).await.unwrap()
}

/// Once a year, at New Year's midnight, which no test meets.
const SELDOM: &str = "0 0 1 1 *";

async fn history(client: &Client) -> Vec<JobRun> {
    within("the history", client.history("news".into(), None))
        .await
        .unwrap()
}

async fn news(client: &Client) -> Subscription<EventItem> {
    within("subscribing", client.watch(Some(0))).await.unwrap()
}

/// The next end of a run that is told.
async fn told(events: &mut Subscription<EventItem>) -> Event {
    event(events, "job.run_ended").await
}

/// The next event of this name.
async fn event(events: &mut Subscription<EventItem>, name: &str) -> Event {
    loop {
        match within("news of a run", events.next()).await.unwrap() {
            Ok(EventItem::Event(event)) if event.event == name => return event,
            Ok(EventItem::Event(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Kills pawd, changes its store as `change` says, and starts it again.
async fn meanwhile(pawd: &mut Pawd, change: impl FnOnce(&Store) -> Batch) {
    pawd.daemon.kill9().await;
    self::change(pawd, change);
    pawd.start_again().await;
}

/// Changes the store of a pawd that does not run.
fn change(pawd: &Pawd, change: impl FnOnce(&Store) -> Batch) {
    let path = pawd.root.path().join("state/pawd.redb");
    let store = Store::open(&path, OpenOptions::new("test")).unwrap();
    store.commit(&change(&store)).unwrap();
}

/// The job was due then.
fn due_at(at_ms: u64) -> impl FnOnce(&Store) -> Batch {
    move |store| {
        let mut job = store.jobs().unwrap().remove(0);
        job.next_ms = Some(at_ms);
        let mut batch = Batch::new();
        batch.put_job(&job).unwrap();
        batch
    }
}

#[tokio::test]
async fn job_is_told_to_its_agent_when_it_is_due_and_once() {
    let (model, mut pawd) = start().await;
    let added = add(&pawd.client().await, SELDOM, (false, false)).await;
    assert_eq!(added.last, None);
    let due = now() + 1_500;
    meanwhile(&mut pawd, due_at(due)).await;
    let client = pawd.client().await;
    let event = told(&mut news(&client).await).await;
    assert!(
        event.text.contains("job news") && event.text.ends_with("ok"),
        "{event:?}"
    );
    assert!(now() >= due, "not before it is due");
    let runs = history(&client).await;
    let [run] = runs.as_slice() else {
        panic!("{runs:?}");
    };
    assert_eq!((run.seq, run.due, run.times), (0, Some(due), 1));
    assert_eq!(run.outcome.as_deref(), Some("ok"));
    let action = show(&client, run.action.as_deref().unwrap()).await;
    assert_eq!((action.kind, action.state), (Kind::Chat, State::Completed));
    // Nobody sits there who could answer for more.
    assert_eq!(action.requested_by.role, Role::User);
    assert_eq!(
        (action.asked.via.as_str(), action.asked.job.as_deref()),
        ("job", Some(added.id.as_str()))
    );
    assert_eq!(model.questions(), 1);
    let jobs = within("the jobs", JobRpcClient::list(&client))
        .await
        .unwrap();
    assert_eq!(
        (jobs[0].next, jobs[0].last.as_deref()),
        (added.next, Some("ok"))
    );
    meanwhile(&mut pawd, |_| Batch::new()).await;
    assert_eq!(history(&pawd.client().await).await, runs);
    assert_eq!(model.questions(), 1);
}

#[tokio::test]
async fn missed_times_are_shown_and_not_made_up_for() {
    let (model, mut pawd) = start().await;
    add(&pawd.client().await, "30 * * * *", (false, false)).await;
    let first = now() - now() % HOUR - 3 * HOUR - HOUR / 2;
    // A second later than what would still be in time, at the least.
    let missed = (now() - 61_000 - first) / HOUR + 1;
    meanwhile(&mut pawd, due_at(first)).await;
    let client = pawd.client().await;
    told(&mut news(&client).await).await;
    let run = history(&client).await.pop().unwrap();
    assert_eq!(run.outcome.as_deref(), Some("skipped"));
    assert_eq!(
        (run.due, run.times, &run.action),
        (Some(first), missed, &None)
    );
    assert!(run.note.unwrap().contains("missed"));
    assert_eq!(model.questions(), 0);
}

#[tokio::test]
async fn missed_times_are_made_up_for_by_one_run_where_that_is_asked_for() {
    let (model, mut pawd) = start().await;
    add(&pawd.client().await, SELDOM, (false, true)).await;
    let missed = now() - 3 * HOUR;
    meanwhile(&mut pawd, due_at(missed)).await;
    let client = pawd.client().await;
    told(&mut news(&client).await).await;
    let runs = history(&client).await;
    assert_eq!(runs.len(), 1);
    assert_eq!(
        (runs[0].due, runs[0].outcome.as_deref()),
        (Some(missed), Some("ok"))
    );
    assert_eq!(model.questions(), 1);
}

/// A job is due, and pawd dies at this place between the claim of its run and its start.
async fn dies_with_a_run(place: &str) -> (Model, Pawd) {
    let (model, mut pawd) = start().await;
    add(&pawd.client().await, SELDOM, (false, true)).await;
    pawd.daemon.kill9().await;
    change(&pawd, due_at(now()));
    pawd.start_to_die(place).await;
    let died = within("its death", pawd.daemon.end()).await;
    assert_eq!(died.signal(), Some(Signal::SIGABRT as i32), "{place}");
    pawd.start_again().await;
    (model, pawd)
}

#[tokio::test]
async fn run_whose_claim_a_kill_parts_from_its_start_is_unknown_and_asked_by_nobody() {
    for place in ["Claimed:1", "Taken:1"] {
        let (model, mut pawd) = dies_with_a_run(place).await;
        let client = pawd.client().await;
        told(&mut news(&client).await).await;
        let runs = history(&client).await;
        let [run] = runs.as_slice() else {
            panic!("{place}: {runs:?}");
        };
        assert!(run.action.is_some(), "{place}: the claim names its action");
        assert_eq!(run.outcome.as_deref(), Some("unknown"), "{place}: {run:?}");
        let jobs = JobRpcClient::list(&client).await.unwrap();
        assert_eq!(jobs[0].failures, 1, "{place}: its owner is told");
        // Nor does a further start begin it anew.
        drop(client);
        pawd.stop().await;
        pawd.start_again().await;
        assert_eq!(history(&pawd.client().await).await, runs, "{place}");
        assert_eq!(model.questions(), 0, "{place}");
    }
}

#[tokio::test]
async fn run_whose_agent_is_answering_when_pawd_is_killed_is_unknown() {
    let (model, mut pawd) = start().await;
    let client = pawd.client().await;
    add(&client, SELDOM, (false, false)).await;
    let (_steps, silent) = Answer::steps();
    model.will(silent);
    let begun = within("a run", client.run("news".into())).await.unwrap();
    model.was_asked(1).await;
    drop(client);
    pawd.daemon.kill9().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    told(&mut news(&client).await).await;
    let run = history(&client).await.pop().unwrap();
    assert_eq!(run.outcome.as_deref(), Some("unknown"), "{run:?}");
    assert_eq!(run.action, begun.action);
    assert_eq!(model.questions(), 1);
}

#[tokio::test]
async fn run_does_not_begin_beside_one_that_goes_on() {
    let (model, mut pawd) = start().await;
    add(&pawd.client().await, SELDOM, (false, false)).await;
    let due = now() + 3_000;
    meanwhile(&mut pawd, due_at(due)).await;
    let client = pawd.client().await;
    let mut events = news(&client).await;
    let (_steps, silent) = Answer::steps();
    model.will(silent);
    let begun = within("a run", client.run("news".into())).await.unwrap();
    assert_eq!((begun.due, begun.outcome), (None, None));
    model.was_asked(1).await;
    refused(client.run("news".into()).await, ErrorKind::Conflict);
    // Nor does one that is due.
    assert!(told(&mut events).await.text.ends_with("skipped"));
    let runs = history(&client).await;
    assert_eq!(runs.len(), 2);
    assert_eq!(
        (runs[0].due, runs[0].outcome.as_deref()),
        (Some(due), Some("skipped"))
    );
    assert_eq!(model.questions(), 1);
}

#[tokio::test]
async fn run_begins_beside_one_that_goes_on_where_that_is_asked_for() {
    let (model, pawd) = start().await;
    let client = pawd.client().await;
    add(&client, SELDOM, (true, false)).await;
    let (_steps, silent) = Answer::steps();
    model.will(silent);
    for _ in 0..2 {
        within("a run", client.run("news".into())).await.unwrap();
    }
    let mut events = news(&client).await;
    told(&mut events).await;
    let runs = history(&client).await;
    let outcomes: Vec<_> = runs.iter().map(|run| run.outcome.as_deref()).collect();
    assert!(
        outcomes.contains(&Some("ok")) && outcomes.contains(&None),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn run_that_fails_says_why_and_is_told() {
    let (model, pawd) = start().await;
    let client = pawd.client().await;
    add(&client, SELDOM, (false, false)).await;
    let mut events = news(&client).await;
    model.falls_into(Some(Trouble::HangsUp));
    within("a run", client.run("news".into())).await.unwrap();
    let event = told(&mut events).await;
    assert!(event.text.ends_with("failed"), "{event:?}");
    let run = history(&client).await.remove(0);
    assert_eq!(run.outcome.as_deref(), Some("failed"));
    assert!(run.note.unwrap().contains("provider local"));
}

#[tokio::test]
async fn run_that_takes_too_long_has_timed_out() {
    let model = Model::start().await;
    let setup = Setup::new()
        .ollama(&model)
        .with("\n[actions]\nchat_timeout = \"1s\"\n");
    let pawd = Pawd::start(setup).await;
    let client = pawd.client().await;
    add(&client, SELDOM, (false, false)).await;
    let mut events = news(&client).await;
    // Says nothing, and does not go away.
    let (_steps, silent) = Answer::steps();
    model.will(silent);
    within("a run", client.run("news".into())).await.unwrap();
    let event = told(&mut events).await;
    assert!(event.text.ends_with("timed_out"), "{event:?}");
    let run = history(&client).await.remove(0);
    assert_eq!(run.outcome.as_deref(), Some("timed_out"), "{run:?}");
}

#[tokio::test]
async fn runs_that_fail_are_a_notice_to_their_owner_until_one_is_good() {
    let (model, mut pawd) = start().await;
    let client = pawd.client().await;
    let job = add(&client, SELDOM, (false, false)).await;
    assert_eq!((job.failures, job.why), (0, None));
    let status = SystemRpcClient::status(&client).await.unwrap();
    assert_eq!(status.failing_jobs, []);
    let mut events = news(&client).await;
    model.falls_into(Some(Trouble::HangsUp));
    for _ in 0..2 {
        within("a run", client.run("news".into())).await.unwrap();
        // For whoever passes on to its owner what is theirs.
        let event = event(&mut events, "job.run_failed").await;
        assert_eq!(event.owner, Some(job.owner));
        assert!(
            event.text.starts_with("job news of uid") && event.text.contains("provider local"),
            "{event:?}"
        );
        assert!(event.action.is_some());
        told(&mut events).await;
    }
    // In the terminal, also with the next pawd.
    pawd.daemon.kill9().await;
    pawd.start_again().await;
    let client = pawd.client().await;
    let [job] = JobRpcClient::list(&client)
        .await
        .unwrap()
        .try_into()
        .unwrap();
    assert_eq!(job.failures, 2);
    assert!(job.why.unwrap().contains("provider local"));
    let status = SystemRpcClient::status(&client).await.unwrap();
    let [failing] = status.failing_jobs.try_into().unwrap();
    assert_eq!(
        (
            failing.name.as_str(),
            failing.outcome.as_str(),
            failing.failures,
            failing.owner
        ),
        ("news", "failed", 2, job.owner)
    );
    let shown = async |words: &[&str]| {
        let shown = pawd.pawctl(words).await;
        String::from_utf8(shown.stdout).unwrap()
    };
    let status = shown(&["status"]).await;
    assert!(
        status.contains("job news of uid") && status.contains("failed, 2 in a row"),
        "{status}"
    );
    let list = shown(&["job", "list"]).await;
    assert!(list.contains("failed (2 in a row)"), "{list}");
    // On record.
    let page = AuditRpcClient::list(&client, None, Some("job_run_failed".into()), None, None);
    let records = page.await.unwrap();
    assert_eq!(records.len(), 2);
    let text = format!("{records:?}");
    for word in [&*job.id, "news", "failed", "provider local"] {
        assert!(text.contains(word), "{word} is missing in {text}");
    }
    // A good one ends it.
    model.falls_into(None);
    let mut events = news(&client).await;
    within("a run", client.run("news".into())).await.unwrap();
    assert!(told(&mut events).await.text.ends_with("ok"));
    let [job] = JobRpcClient::list(&client)
        .await
        .unwrap()
        .try_into()
        .unwrap();
    assert_eq!((job.failures, job.why), (0, None));
    let status = SystemRpcClient::status(&client).await.unwrap();
    assert_eq!(status.failing_jobs, []);
}

#[tokio::test]
async fn what_is_no_job_is_refused_and_leaves_nothing() {
    let (_model, pawd) = start().await;
    let client = pawd.client().await;
    let add = |cron: &str, tz: &str, text: &str, agent: Option<&str>, name: Option<&str>| {
        let owned = |word: Option<&str>| word.map(str::to_owned);
        JobRpcClient::add(
            &client,
            cron.to_owned(),
            tz.to_owned(),
            text.to_owned(),
            owned(name),
            owned(agent),
            None,
            None,
        )
    };
    // What is recorded is bounded: a record that the audit log does not take would end everybody's.
    let (many, far) = (
        format!("{}0 7 * * *", "0,".repeat(40_000)),
        "x".repeat(80_000),
    );
    for (cron, tz, text, agent, name, kind) in [
        ("0 7 * *", "UTC", "x", None, None, ErrorKind::Invalid),
        ("0 7 * * * *", "UTC", "x", None, None, ErrorKind::Invalid),
        ("0 25 * * *", "UTC", "x", None, None, ErrorKind::Invalid),
        (
            "0 7 * * *",
            "Mars/Base",
            "x",
            None,
            None,
            ErrorKind::Invalid,
        ),
        (
            "0 7 * * *",
            "../../etc/passwd",
            "x",
            None,
            None,
            ErrorKind::Invalid,
        ),
        ("0 7 * * *", "UTC", "  ", None, None, ErrorKind::Invalid),
        (&many, "UTC", "x", None, None, ErrorKind::Invalid),
        ("0 7 * * *", &far, "x", None, None, ErrorKind::Invalid),
        (
            "0 7 * * *",
            "UTC",
            "x",
            Some("nobody"),
            None,
            ErrorKind::NotFound,
        ),
        (
            "0 7 * * *",
            "UTC",
            "x",
            None,
            Some("a/b"),
            ErrorKind::Invalid,
        ),
    ] {
        refused(add(cron, tz, text, agent, name).await, kind);
    }
    refused(
        add("0 7 * * *", "UTC", &"x".repeat(65 * 1024), None, None).await,
        ErrorKind::Invalid,
    );
    assert_eq!(JobRpcClient::list(&client).await.unwrap(), []);
    add("0 7 * * *", "UTC", "x", None, Some("one"))
        .await
        .unwrap();
    refused(
        add("0 7 * * *", "UTC", "x", None, Some("one")).await,
        ErrorKind::Conflict,
    );
    refused(client.run("two".into()).await, ErrorKind::NotFound);
    refused(
        JobRpcClient::remove(&client, "two".into()).await,
        ErrorKind::NotFound,
    );
    // A hundred, and no more.
    for _ in 1..100 {
        add("0 7 * * *", "UTC", "x", None, None).await.unwrap();
    }
    refused(
        add("0 7 * * *", "UTC", "x", None, None).await,
        ErrorKind::Busy,
    );
}

#[tokio::test]
async fn job_is_in_the_audit_log_before_it_is_there_and_when_it_is_removed() {
    let (_model, mut pawd) = start().await;
    let client = pawd.client().await;
    let job = add(&client, SELDOM, (false, false)).await;
    JobRpcClient::remove(&client, "news".into()).await.unwrap();
    for event in ["job_added", "job_removed"] {
        let page = AuditRpcClient::list(&client, None, Some(event.into()), None, None);
        let records = page.await.unwrap();
        assert_eq!(records.len(), 1, "{event}");
        assert!(format!("{records:?}").contains(&job.id));
    }
    // Without the writer of the log nothing is promised for later.
    pawd.audit.take().unwrap().kill9().await;
    let added = JobRpcClient::add(
        &client,
        SELDOM.into(),
        "UTC".into(),
        "x".into(),
        None,
        None,
        None,
        None,
    );
    refused(
        within("adding without a log", added).await,
        ErrorKind::Unavailable,
    );
    assert_eq!(JobRpcClient::list(&client).await.unwrap(), []);
}

/// A rule may be about one job: what its owner asks, and did ask by it before, is not forbidden with it.
#[tokio::test]
async fn rule_can_be_about_one_job() {
    let (_model, pawd) = start().await;
    let client = pawd.client().await;
    let job = add(&client, SELDOM, (false, false)).await;
    let run = async || {
        let run = within("a run", JobRpcClient::run(&client, job.id.clone()));
        finally(&client, &run.await.unwrap().action.unwrap()).await
    };
    let forbid = async |id: &str| {
        let rule = format!(
            "@id(\"not-this-one\") forbid (principal, action == Action::\"chat\", resource) when {{ context has job && context.job == Job::\"{id}\" }};\n"
        );
        pawd.root.write("etc/policy/70-job.cedar", &rule);
        within("reloading", PolicyRpcClient::reload(&client))
            .await
            .unwrap();
    };
    forbid("another").await;
    assert_eq!(run().await.state, State::Completed);
    forbid(&job.id).await;
    let denied = run().await;
    assert_eq!(denied.state, State::Rejected);
    assert_eq!(denied.verdict.rules, ["not-this-one"]);
}
