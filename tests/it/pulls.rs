//! Models are fetched by whoever serves them: how far it is, is told on the way, and a fetch that breaks off is none.

use harness::{
    Answer, Model, Pawd, Setup, Step, Window, within,
    words::{next, refused},
};
use jsonrpsee::{
    async_client::Client,
    core::client::{Error as CallError, Subscription},
};
use paw_api::{
    ErrorKind,
    model::{ModelRpcClient, PullEvent},
    trail::AuditRpcClient,
};
use serde_json::json;

/// A pawd with a model of Ollama as provider `local` in its file.
async fn pawd() -> (Model, Pawd, Client) {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().ollama(&model)).await;
    let client = pawd.client().await;
    (model, pawd, client)
}

/// What the provider says when it has so many of a hundred bytes.
fn far(completed: u64) -> Step {
    let line = json!({"status": "pulling 8eeb", "total": 100, "completed": completed});
    Step::Raw(format!("{line}\n"))
}

async fn pull(client: &Client, model: &str) -> Result<Subscription<PullEvent>, CallError> {
    let begun = ModelRpcClient::pull(client, model.into(), None);
    within("beginning a pull", begun).await
}

#[tokio::test]
async fn pull_tells_how_far_it_is_and_is_on_record_before_it_begins() {
    let (model, mut pawd, client) = pawd().await;
    let (steps, answer) = Answer::steps();
    model.will_pull(answer);
    let mut events = pull(&client, "new").await.unwrap();
    let records = AuditRpcClient::list(&client, None, Some("model_pulled".into()), None, None)
        .await
        .unwrap();
    assert!(json!(records).to_string().contains("\"model\":\"new\""));
    steps.send(far(40)).await.unwrap();
    let told = next(&mut events).await;
    let expected = PullEvent::Progress {
        status: "pulling 8eeb".into(),
        completed: Some(40),
        total: Some(100),
    };
    assert_eq!(told, expected);
    steps.send(Step::End).await.unwrap();
    let done = next(&mut events).await;
    assert!(matches!(done, PullEvent::Done(done) if done.model == "new"));

    let shown = pawd.pawctl(&["model", "pull", "new"]).await;
    assert_eq!(shown.status.code(), Some(0));
    let mut audit = pawd.audit.take().unwrap();
    audit.kill9().await;
    let asked = model.asked().len();
    let error = pull(&client, "new").await.map(drop);
    refused(error, ErrorKind::Unavailable);
    assert_eq!(
        model.asked().len(),
        asked,
        "without a record nothing is fetched"
    );
}

#[tokio::test]
async fn pull_that_fails_or_breaks_off_is_no_success() {
    let (model, _pawd, client) = pawd().await;
    let (steps, failing) = Answer::steps();
    let error = json!({"error": "pull model manifest: file does not exist"});
    steps.try_send(Step::Raw(format!("{error}\n"))).unwrap();
    for (answer, says) in [
        (failing, "file does not exist"),
        (Answer::cut(&["pulling"]), "cut"),
    ] {
        model.will_pull(answer);
        let mut events = pull(&client, "new").await.unwrap();
        let message = loop {
            match next(&mut events).await {
                PullEvent::Progress { .. } => {}
                PullEvent::Failed { message, .. } => break message,
                PullEvent::Done(done) => panic!("{done:?}"),
            }
        };
        assert!(message.contains(says), "{message}");
    }
    refused(pull(&client, "").await.map(drop), ErrorKind::Invalid);
}

#[tokio::test]
async fn pull_that_is_left_ends_at_the_provider_and_gives_its_place_back() {
    let (model, _pawd, client) = pawd().await;
    let (steps, answer) = Answer::steps();
    let (_more, other) = Answer::steps();
    model.will_pull(answer);
    let mut events = pull(&client, "new").await.unwrap();
    model.was_asked_for("POST /api/pull").await;
    model.will_pull(other);
    let second = pull(&client, "other").await.unwrap();
    refused(pull(&client, "third").await.map(drop), ErrorKind::Busy);
    steps.send(Step::Piece("pulling".into())).await.unwrap();
    next(&mut events).await;
    events.unsubscribe().await.unwrap();
    let left = async { while steps.send(Step::Piece("more".into())).await.is_ok() {} };
    within("the end of the pull at the provider", left).await;
    let mut third = pull(&client, "third").await.unwrap();
    while !matches!(next(&mut third).await, PullEvent::Done(_)) {}
    drop(second);
}

#[tokio::test]
async fn provider_that_fetches_no_models_is_not_asked_to() {
    let model = Model::start().await;
    let pawd = Pawd::start(Setup::new().openai(&model)).await;
    let client = pawd.client().await;
    refused(pull(&client, "new").await.map(drop), ErrorKind::Invalid);
    assert!(!model.asked().iter().any(|it| it.line.starts_with("POST")));
}

/// How many cells of the bar that was drawn last are full, once it shows these bytes.
fn full(window: &mut Window, bytes: &str) -> usize {
    let shown = window.until(bytes);
    let bar = shown.rsplit('\r').next().unwrap();
    bar.matches('█').count()
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_draws_a_bar_on_a_terminal_that_moves_and_is_gone_at_the_end() {
    let (model, pawd, _client) = pawd().await;
    let (steps, answer) = Answer::steps();
    model.will_pull(answer);
    let mut window = pawd.pawctl_in_a_window((24, 100), &["model", "pull", "new"]);
    steps.send(far(40)).await.unwrap();
    assert_eq!(full(&mut window, "40 B/100 B"), 12, "of thirty");
    steps.send(far(90)).await.unwrap();
    assert_eq!(full(&mut window, "90 B/100 B"), 27, "of thirty");
    steps.send(Step::End).await.unwrap();
    let last = window.until("local has new, after");
    let line = last.rsplit('\r').next().unwrap();
    assert!(!line.contains('█'), "the bar is still there: {last:?}");
    assert_eq!(window.end().code(), Some(0));
}

#[tokio::test]
async fn pull_without_a_terminal_tells_each_step_in_one_plain_line() {
    let (model, pawd, _client) = pawd().await;
    let (steps, answer) = Answer::steps();
    model.will_pull(answer);
    let manifest = json!({"status": "pulling manifest"});
    let raw = Step::Raw(format!("{manifest}\n"));
    for step in [raw, far(0), far(40), far(90), Step::End] {
        steps.send(step).await.unwrap();
    }
    let ran = pawd.pawctl(&["model", "pull", "new"]).await;
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(said, "pulling manifest\npulling 8eeb, 100 B\n");
    let shown = String::from_utf8(ran.stdout).unwrap();
    assert!(shown.starts_with("local has new, after"), "{shown}");
}
